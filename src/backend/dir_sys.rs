//! Every system call of `dir` goes through `Files`, so that a test can put a
//! model of a file system beneath it and crash that, and `gluster` a library.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};

use super::LockMode;
use crate::sys;

/// An open file or directory. Closed when dropped.
#[derive(Debug)]
pub enum Handle {
    Fd(Arc<OwnedFd>),
    Gluster(Arc<sys::gfapi::File>),
    /// Of a model, or the inode of a directory that is not held open.
    Number(u64),
}

impl Handle {
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Handle::Fd(fd) => Some(fd.as_fd()),
            Handle::Gluster(_) | Handle::Number(_) => None,
        }
    }

    /// For requests that may outlive the open file.
    pub fn shared_fd(&self) -> Option<&Arc<OwnedFd>> {
        match self {
            Handle::Fd(fd) => Some(fd),
            Handle::Gluster(_) | Handle::Number(_) => None,
        }
    }

    fn new(fd: OwnedFd) -> Handle {
        Handle::Fd(Arc::new(fd))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    pub bytes: u64,
    pub allocated_bytes: u64,
    /// Device and inode.
    pub identity: (u64, u64),
    pub modified_s: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// What kind of place the directory is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Nobody but this host reaches it: its locks prove death and listing
    /// does not lag.
    pub local: bool,
    /// `syncfs` is known to write all files to the disk and to report errors.
    pub syncfs: bool,
    /// It also leaves nothing of them in the disk's own cache.
    pub syncfs_flushes: bool,
    /// A write that finds no room may mean earlier ones, which no sync tells.
    pub tells_late: bool,
    /// `fsync` of a file makes its name durable too; of a directory it does
    /// nothing.
    pub names_with_files: bool,
    pub layout: Layout,
}

/// Which directories there are (`dir_layout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 256 of blocks and of pages; those of a volume are made when needed.
    Wide,
    /// 16 of each kind, and none is made later.
    Few,
}

impl Layout {
    /// Of the names of directories that are there from the beginning.
    pub(super) fn digits(self) -> usize {
        match self {
            Layout::Wide => 2,
            Layout::Few => 1,
        }
    }
}

/// Why something is made durable: one word per call site, so that a test can
/// leave out each of them and see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncSite {
    /// The directories that a store begins with.
    Init,
    /// The store's own name in the directory above.
    InitAbove,
    /// The content of a new object, before it gets its name.
    CreateData,
    /// The name of a new object.
    CreateEntry,
    /// The name of a directory made on demand.
    MadeDirectory,
    /// `sync`: the content of one object.
    SyncData,
    /// `sync`: the name of a sparse object, or of one we know nothing about.
    SyncEntry,
    /// `sync`: everything at once.
    SyncAll,
    /// After that, where it does not: the disk's cache.
    DiskCache,
    /// Before a written file is closed to make room for another.
    Evict,
}

impl SyncSite {
    pub const ALL: [SyncSite; 10] = [
        SyncSite::Init,
        SyncSite::InitAbove,
        SyncSite::CreateData,
        SyncSite::CreateEntry,
        SyncSite::MadeDirectory,
        SyncSite::SyncData,
        SyncSite::SyncEntry,
        SyncSite::SyncAll,
        SyncSite::DiskCache,
        SyncSite::Evict,
    ];
}

/// The system calls. Paths are relative to the store's directory; "" is the
/// directory itself and ".." the one above.
pub trait Files: fmt::Debug + Send + Sync {
    fn file_system(&self) -> FileSystem;
    /// What O_DIRECT asks of offsets, lengths and memory on this file;
    /// `None` if it cannot be had.
    fn direct_alignment(&self, file: &Handle) -> Option<usize>;

    /// For reading and writing, or for reading if that is all we may.
    fn open(&self, path: &str, direct: bool) -> io::Result<Handle>;
    fn open_dir(&self, path: &str) -> io::Result<Handle>;
    /// A new file; `EEXIST` if there is one.
    fn create(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<Handle>;
    fn mkdir(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()>;

    fn pread(&self, file: &Handle, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize>;
    fn pwrite(&self, file: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<usize>;
    fn truncate(&self, file: &Handle, bytes: u64) -> io::Result<()>;
    fn punch(&self, file: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<()>;
    /// Copies between the same offsets of two files, sharing where possible.
    fn copy_range(&self, from: &Handle, to: &Handle, offset_bytes: u64, bytes: u64)
        -> io::Result<u64>;
    /// The next range that is not a hole, from `offset_bytes` on.
    fn next_data(&self, file: &Handle, offset_bytes: u64) -> io::Result<Option<(u64, u64)>>;

    fn link(&self, from: &str, to: &str) -> io::Result<()>;
    /// Renames unless `to` exists.
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, path: &str) -> io::Result<()>;
    fn rmdir(&self, path: &str) -> io::Result<()>;

    fn fsync(&self, file: &Handle, site: SyncSite) -> io::Result<()>;
    fn fdatasync(&self, file: &Handle, site: SyncSite) -> io::Result<()>;
    /// `fdatasync` of many files, or `fsync` of those whose name is meant too;
    /// with what became of each, in their order. For `names_with_files`.
    fn sync_together(&self, files: &[(&Handle, SyncSite, bool)]) -> Vec<io::Result<()>> {
        let sync = |(file, site, with_name): &(&Handle, SyncSite, bool)| match with_name {
            true => self.fsync(file, *site),
            false => self.fdatasync(file, *site),
        };
        files.iter().map(sync).collect()
    }
    /// Of the whole file system; `file` says which, and remembers which
    /// errors it has reported.
    fn syncfs(&self, file: &Handle, site: SyncSite) -> io::Result<()>;

    fn read_dir(&self, path: &str) -> io::Result<Vec<DirEntry>>;
    fn stat(&self, path: &str) -> io::Result<FileStat>;
    fn fstat(&self, file: &Handle) -> io::Result<FileStat>;
    fn lock(&self, file: &Handle, mode: LockMode) -> io::Result<()>;
    /// Also where somebody else has the same open file.
    fn unlock(&self, file: &Handle) -> io::Result<()>;
}

/// File systems that only this host reaches, by their `f_type`: ext2/3/4,
/// xfs, btrfs, tmpfs, f2fs, bcachefs, zfs and overlayfs.
const LOCAL: [u64; 8] = [
    EXT, XFS, BTRFS, 0x0102_1994, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x794c_7630,
];
const EXT: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683e;
/// GlusterFS among others, which copies on one of its bricks only and says that
/// all is well (seen with 10.3).
const FUSE: u64 = 0x6573_5546;

/// How often a directory that is stale is looked into again.
const STALE_TRIES: u32 = 10;

/// The system calls of this host.
#[derive(Debug)]
pub struct RealFiles {
    root: OwnedFd,
    file_system: FileSystem,
    /// `copy_file_range` does what it says.
    copies: bool,
}

impl RealFiles {
    pub fn open(root: &Path) -> io::Result<RealFiles> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(fs::CWD, root, flags, Mode::empty())?;
        let kind = fs::fstatfs(&root)?.f_type as u64 & 0xffff_ffff;
        let local = LOCAL.contains(&kind);
        let file_system = FileSystem {
            local,
            tells_late: !local,
            names_with_files: false,
            layout: Layout::Wide,
            syncfs: [EXT, XFS, BTRFS].contains(&kind),
            // XFS flushes the disk's cache along with its own log, and leaves it alone
            // when nothing is new there: data may have been written in place since.
            // Seen on Linux 6.18 after 268 of 300 direct writes; `fdatasync` flushes.
            syncfs_flushes: kind != XFS,
        };
        Ok(RealFiles { root, file_system, copies: kind != FUSE })
    }

    fn read_dir_once(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = retry(|| fs::openat(&self.root, at(path), flags, Mode::empty()))?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(directory)? {
            let entry = entry?;
            // What is not text is not ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => {
                    let path = format!("{}/{name}", at(path));
                    let stat = fs::statat(&self.root, path.as_str(), AtFlags::SYMLINK_NOFOLLOW);
                    stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
                }
                kind => kind == FileType::Directory,
            };
            entries.push(DirEntry { name: name.to_owned(), is_dir });
        }
        Ok(entries)
    }

    /// With the directories of another kind of store.
    #[cfg(feature = "testkit")]
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> RealFiles {
        self.file_system.layout = layout;
        self
    }
}

/// "" is the directory itself.
fn at(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

fn fd(handle: &Handle) -> io::Result<BorrowedFd<'_>> {
    handle.fd().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn set_owner(fd: BorrowedFd<'_>, mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        fs::fchown(fd, None, Some(fs::Gid::from_raw(group)))?;
    }
    // After the group, as changing that can clear bits; and because the mode
    // given at creation is cut by the process's umask.
    fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    Ok(())
}

#[allow(clippy::unnecessary_cast)]
fn file_stat(stat: fs::Stat) -> FileStat {
    FileStat {
        bytes: stat.st_size as u64,
        allocated_bytes: stat.st_blocks as u64 * 512,
        identity: (stat.st_dev as u64, stat.st_ino as u64),
        modified_s: stat.st_mtime as i64,
    }
}

impl Files for RealFiles {
    fn file_system(&self) -> FileSystem {
        self.file_system
    }

    fn direct_alignment(&self, file: &Handle) -> Option<usize> {
        let flags = AtFlags::EMPTY_PATH;
        let stat = fs::statx(fd(file).ok()?, "", flags, fs::StatxFlags::DIOALIGN).ok()?;
        if stat.stx_mask & fs::StatxFlags::DIOALIGN.bits() == 0 {
            // An older kernel, or a file system that does not say.
            return Some(sys::iobuf::DIRECT_ALIGNMENT_BYTES);
        }
        let bytes = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align) as usize;
        (stat.stx_dio_offset_align != 0 && bytes.is_power_of_two()).then_some(bytes.max(512))
    }

    fn open(&self, path: &str, direct: bool) -> io::Result<Handle> {
        let mut flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if direct {
            flags |= OFlags::DIRECT;
        }
        let open = |access| retry(|| fs::openat(&self.root, path, flags | access, Mode::empty()));
        match open(OFlags::RDWR) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EROFS)) => {
                open(OFlags::RDONLY).map(Handle::new)
            }
            other => other.map(Handle::new),
        }
    }

    fn open_dir(&self, path: &str) -> io::Result<Handle> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        retry(|| fs::openat(&self.root, at(path), flags, Mode::empty())).map(Handle::new)
    }

    fn create(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<Handle> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.root, path, flags, Mode::from_raw_mode(mode))?;
        set_owner(file.as_fd(), mode, group)?;
        Ok(Handle::new(file))
    }

    fn mkdir(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        fs::mkdirat(&self.root, path, Mode::from_raw_mode(mode))?;
        let made = self.open_dir(path)?;
        set_owner(fd(&made)?, mode, group)
    }

    fn pread(&self, file: &Handle, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = fd(file)?;
        retry(|| rustix::io::pread(file, &mut *buf, offset_bytes))
    }

    fn pwrite(&self, file: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        let file = fd(file)?;
        retry(|| rustix::io::pwrite(file, data, offset_bytes))
    }

    fn truncate(&self, file: &Handle, bytes: u64) -> io::Result<()> {
        let file = fd(file)?;
        retry(|| fs::ftruncate(file, bytes))
    }

    fn punch(&self, file: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<()> {
        let file = fd(file)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| fs::fallocate(file, flags, offset_bytes, bytes))
    }

    fn copy_range(
        &self,
        from: &Handle,
        to: &Handle,
        offset_bytes: u64,
        bytes: u64,
    ) -> io::Result<u64> {
        if !self.copies {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let (from, to) = (fd(from)?, fd(to)?);
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        retry(|| {
            let (mut source, mut target) = (offset_bytes, offset_bytes);
            fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length)
        })
        .map(|copied| copied as u64)
    }

    fn next_data(&self, file: &Handle, offset_bytes: u64) -> io::Result<Option<(u64, u64)>> {
        let file = fd(file)?;
        let begin = match fs::seek(file, SeekFrom::Data(offset_bytes)) {
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            other => other?,
        };
        Ok(Some((begin, fs::seek(file, SeekFrom::Hole(begin))?)))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::linkat(&self.root, from, &self.root, to, AtFlags::empty())?)
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat_with(&self.root, from, &self.root, to, RenameFlags::NOREPLACE)?)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR)?)
    }

    fn fsync(&self, file: &Handle, _: SyncSite) -> io::Result<()> {
        let file = fd(file)?;
        retry(|| fs::fsync(file))
    }

    fn fdatasync(&self, file: &Handle, _: SyncSite) -> io::Result<()> {
        let file = fd(file)?;
        retry(|| fs::fdatasync(file))
    }

    fn syncfs(&self, file: &Handle, _: SyncSite) -> io::Result<()> {
        let file = fd(file)?;
        retry(|| fs::syncfs(file))
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        for _ in 1..STALE_TRIES {
            match self.read_dir_once(path) {
                // Another client of NFS has removed it meanwhile, or made it anew.
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
                other => return other,
            }
        }
        self.read_dir_once(path)
    }

    fn stat(&self, path: &str) -> io::Result<FileStat> {
        Ok(file_stat(fs::statat(&self.root, at(path), AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn fstat(&self, file: &Handle) -> io::Result<FileStat> {
        Ok(file_stat(fs::fstat(fd(file)?)?))
    }

    fn lock(&self, file: &Handle, mode: LockMode) -> io::Result<()> {
        sys::file::try_lock(fd(file)?, mode == LockMode::Exclusive)
    }

    fn unlock(&self, file: &Handle) -> io::Result<()> {
        sys::file::unlock(fd(file)?)
    }
}
