//! Files of a GlusterFS volume, as `dir` sees files: what it does and in which
//! order is the same here, so that this is all that a store on GlusterFS needs
//! beside its own data path.
//!
//! What differs from a file system of this host:
//!
//! * A brick's `fsync` of a directory does nothing. That of a file makes its
//!   name durable as well, because a name and the file's count of names are
//!   changed in one step of the brick's journal, which is written in order.
//! * Directories are not kept open: the inode numbers of GlusterFS are made of
//!   random ids, so that none is ever another's.
//! * A name that another client has removed, or removed and made again, may say
//!   ESTALE once. It is looked up anew; nothing was done.

use std::io;
use std::sync::Arc;

use super::dir_sys::{DirEntry, FileStat, FileSystem, Files, Handle, Layout, SyncSite};
use super::LockMode;
use crate::sync::channel;
use crate::sys::gfapi::{File, Mount};

/// Times that a name is looked up that is not what it was.
const TRIES: usize = 5;

/// A folder of a volume.
#[derive(Debug)]
pub struct GlusterFiles {
    mount: Arc<Mount>,
    /// Begins with '/', and does not end with one.
    folder: String,
    /// Writes are not kept on this side.
    direct: bool,
}

impl GlusterFiles {
    /// `folder`: "" for the whole volume, else it begins with '/'.
    pub fn new(mount: Arc<Mount>, folder: &str, direct: bool) -> GlusterFiles {
        GlusterFiles { mount, folder: folder.to_owned(), direct }
    }

    /// Makes the folder, and those above it.
    pub fn make_folder(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        let ends = self.folder.match_indices('/').map(|(at, _)| at).skip(1);
        for end in ends.chain([self.folder.len()]).filter(|end| *end > 0) {
            match self.make(&self.folder[..end], mode, group) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn make(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.mount.mkdir(path, mode)?;
        let Some(group) = group else { return Ok(()) };
        let made = self.mount.open_dir(path)?;
        made.change_group(group)?;
        // Changing the group can clear bits.
        made.change_mode(mode)
    }

    fn full(&self, path: &str) -> String {
        match (path, self.folder.as_str()) {
            ("", "") => "/".to_owned(),
            ("", folder) => folder.to_owned(),
            (path, folder) => format!("{folder}/{path}"),
        }
    }
}

/// Nothing was done if the name, or one above it, is not what it was.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            other => return other,
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

pub(super) fn file(handle: &Handle) -> io::Result<&Arc<File>> {
    match handle {
        Handle::Gluster(file) => Ok(file),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[allow(clippy::unnecessary_cast)]
fn file_stat(stat: libc::stat) -> FileStat {
    FileStat {
        bytes: stat.st_size as u64,
        allocated_bytes: stat.st_blocks as u64 * 512,
        identity: (0, stat.st_ino as u64),
        modified_s: stat.st_mtime as i64,
    }
}

fn is_dir(stat: &libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

impl Files for GlusterFiles {
    fn file_system(&self) -> FileSystem {
        FileSystem {
            local: false,
            syncfs: false,
            syncfs_flushes: false,
            tells_late: !self.direct,
            names_with_files: true,
            layout: Layout::Few,
        }
    }

    fn direct_alignment(&self, _: &Handle) -> Option<usize> {
        None
    }

    fn open(&self, path: &str, _direct: bool) -> io::Result<Handle> {
        let path = self.full(path);
        let opened = match retry(|| self.mount.open(&path, libc::O_RDWR)) {
            // Not for EROFS, which may also mean that too few bricks are there.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                retry(|| self.mount.open(&path, libc::O_RDONLY))
            }
            other => other,
        };
        opened.map(|file| Handle::Gluster(Arc::new(file)))
    }

    fn open_dir(&self, path: &str) -> io::Result<Handle> {
        // The one above is asked for only to make a name in it durable.
        if path == ".." {
            return Ok(Handle::Number(0));
        }
        let path = self.full(path);
        let stat = retry(|| self.mount.stat(&path))?;
        match is_dir(&stat) {
            true => Ok(Handle::Number(file_stat(stat).identity.1)),
            false => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    fn create(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<Handle> {
        let path = self.full(path);
        let file = self.mount.create(&path, mode)?;
        if let Some(group) = group {
            file.change_group(group)?;
            file.change_mode(mode)?;
        }
        Ok(Handle::Gluster(Arc::new(file)))
    }

    fn mkdir(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.make(&self.full(path), mode, group)
    }

    fn pread(&self, handle: &Handle, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        file(handle)?.read(offset_bytes, buf)
    }

    fn pwrite(&self, handle: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        file(handle)?.write(offset_bytes, data)
    }

    fn truncate(&self, handle: &Handle, bytes: u64) -> io::Result<()> {
        file(handle)?.truncate(bytes)
    }

    fn punch(&self, handle: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<()> {
        file(handle)?.discard(offset_bytes, bytes)
    }

    /// `copy_file_range` copies on one brick of three, and says that all is
    /// well (seen with 10.3): the other two do not learn of it.
    fn copy_range(&self, _: &Handle, _: &Handle, _: u64, _: u64) -> io::Result<u64> {
        unsupported()
    }

    fn next_data(&self, handle: &Handle, offset_bytes: u64) -> io::Result<Option<(u64, u64)>> {
        let file = file(handle)?;
        // `write-behind` lets a seek pass what it keeps of writes, but not this: the
        // bricks would be asked before they know (10.3).
        file.stat()?;
        let begin = match file.seek(offset_bytes, libc::SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
            // Not with every kind of volume.
            Err(error) if super::dir_io::is_unsupported(&error) => return Ok(Some((offset_bytes, u64::MAX))),
            other => other?,
        };
        match file.seek(begin, libc::SEEK_HOLE) {
            // Somebody has punched it meanwhile, at its end.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(Some((begin, u64::MAX))),
            end => Ok(Some((begin, end?))),
        }
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.full(from), self.full(to));
        retry(|| self.mount.link(&from, &to))
    }

    fn rename_new(&self, _from: &str, _to: &str) -> io::Result<()> {
        unsupported()
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let path = self.full(path);
        retry(|| self.mount.unlink(&path))
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        let path = self.full(path);
        retry(|| self.mount.rmdir(&path))
    }

    fn fsync(&self, handle: &Handle, _: SyncSite) -> io::Result<()> {
        match handle {
            // See the module's text.
            Handle::Number(_) => Ok(()),
            _ => file(handle)?.sync(false),
        }
    }

    fn fdatasync(&self, handle: &Handle, _: SyncSite) -> io::Result<()> {
        file(handle)?.sync(true)
    }

    fn sync_together(&self, files: &[(&Handle, SyncSite, bool)]) -> Vec<io::Result<()>> {
        let (sender, receiver) = channel::unbounded();
        let mut results: Vec<io::Result<()>> = files.iter().map(|_| unsupported()).collect();
        for (at, (handle, _, with_name)) in files.iter().enumerate() {
            let Ok(file) = file(handle) else { continue };
            let sender = sender.clone();
            // It takes the file along, so that it is not closed over there.
            let told = Box::new(move |file, answer: io::Result<usize>| {
                let _receiver_waits = sender.send((at, file, answer.map(drop)));
            });
            file.submit_sync(!with_name, told);
        }
        drop(sender);
        // It ends with the last answer.
        for (at, file, answer) in receiver {
            results[at] = answer;
            drop(file);
        }
        results
    }

    fn syncfs(&self, _: &Handle, _: SyncSite) -> io::Result<()> {
        unsupported()
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let path = self.full(path);
        let mut directory = retry(|| self.mount.open_dir(&path))?;
        let mut entries = Vec::new();
        while let Some(entry) = directory.next_entry()? {
            // What is not text is not ours.
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let is_dir = match entry.kind {
                libc::DT_UNKNOWN => {
                    let stat = self.mount.stat(&format!("{path}/{name}"));
                    stat.is_ok_and(|stat| is_dir(&stat))
                }
                kind => kind == libc::DT_DIR,
            };
            entries.push(DirEntry { name, is_dir });
        }
        Ok(entries)
    }

    fn stat(&self, path: &str) -> io::Result<FileStat> {
        let path = self.full(path);
        retry(|| self.mount.stat(&path)).map(file_stat)
    }

    fn fstat(&self, handle: &Handle) -> io::Result<FileStat> {
        match handle {
            Handle::Number(inode) => Ok(FileStat { identity: (0, *inode), ..FileStat::default() }),
            _ => file(handle)?.stat().map(file_stat),
        }
    }

    fn lock(&self, _: &Handle, _: LockMode) -> io::Result<()> {
        unsupported()
    }

    fn unlock(&self, _: &Handle) -> io::Result<()> {
        unsupported()
    }
}
