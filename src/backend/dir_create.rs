//! How an object of `dir` gets its name: everything is written to a file in
//! `tmp/` first and then linked. A link fails if the name is taken, and what
//! it shows is whole.

use std::io;
use std::sync::Arc;

use super::dir_io::is_unsupported;
use super::dir_layout::{self, Place};
use super::dir_made::MadeDirectories;
use super::dir_sync::Syncer;
use super::dir_sys::{Files, Handle, SyncSite};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Left-over files older than this are removed. A creator that was stopped
/// for longer finds its file gone and reports a failure: nothing is applied.
const STALE_S: i64 = 24 * 60 * 60;

const PIECE_BYTES: usize = 64 << 10;
/// The least that a file system leaves out of a file, mostly.
const GRANULE: usize = 4096;

/// Times that a directory may be removed under us.
const TRIES: usize = 100;

#[derive(Debug)]
pub struct Creator {
    pub files: Arc<dyn Files>,
    pub made: Arc<MadeDirectories>,
    pub syncer: Arc<Syncer>,
    pub mode: u32,
    pub group: Option<u32>,
    pub has_cleaned: AtomicBool,
}

/// A file without a name, removed when dropped.
struct Temp<'a> {
    files: &'a dyn Files,
    path: String,
    handle: Option<Handle>,
    identity: (u64, u64),
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; what stays otherwise is
        // removed with the stale ones.
        let _ = self.files.unlink(&self.path);
    }
}

impl Creator {
    fn temp(&self) -> Result<Temp<'_>> {
        let path = format!("{}/{}", dir_layout::TEMP, clock::random_id()?);
        let files = self.files.as_ref();
        let made = || {
            let handle = files.create(&path, self.mode, self.group)?;
            Ok((files.fstat(&handle)?, handle))
        };
        let (stat, handle) = made().map_err(|source: io::Error| {
            // Made but not ours to use, perhaps.
            let _ = files.unlink(&path);
            not_applied(source)
        })?;
        if !self.has_cleaned.swap(true, Ordering::Relaxed) {
            self.clean(stat.modified_s);
        }
        Ok(Temp { files, path, handle: Some(handle), identity: stat.identity })
    }

    /// Removes what crashed creators have left. `now_s` is the file system's
    /// own time, so that no two hosts' clocks are compared.
    fn clean(&self, now_s: i64) {
        let Ok(entries) = self.files.read_dir(dir_layout::TEMP) else { return };
        for entry in entries {
            let path = format!("{}/{}", dir_layout::TEMP, entry.name);
            let ours = entry.name.parse::<crate::name::Id>().is_ok();
            let stat = self.files.stat(&path);
            if ours && !entry.is_dir && stat.is_ok_and(|stat| stat.modified_s < now_s - STALE_S) {
                let _ = self.files.unlink(&path);
            }
        }
    }

    /// A durable object of what `fill` writes to the file it is given.
    pub fn create(
        &self,
        name: &ObjectName,
        fill: impl FnOnce(&dyn Files, &Handle) -> io::Result<()>,
    ) -> Result<()> {
        let temp = self.temp().map_err(|error| error.on(name))?;
        let Some(handle) = &temp.handle else { return Err(Error::new(ErrorKind::Internal, "create")) };
        fill(self.files.as_ref(), handle).map_err(|source| not_applied(source).on(name))?;
        self.files
            .fsync(handle, SyncSite::CreateData)
            .map_err(|source| not_applied(source).on(name))?;
        let place = dir_layout::place(self.files.as_ref(), name);
        self.publish(&temp, name, &place)?;
        let site = SyncSite::CreateEntry;
        let synced = match self.files.file_system().names_with_files {
            true => self.files.fsync(handle, site),
            false => self.syncer.sync_directory(&place, site),
        };
        drop(temp);
        synced.map_err(|source| {
            Error::new(ErrorKind::Unknown, "create")
                .on(name)
                .because("it is there, but not certain to survive a crash")
                .caused_by(source)
        })
    }

    /// An object of zeroes that nobody has made durable. Returns its file.
    pub fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<Option<Handle>> {
        let mut temp = self.temp().map_err(|error| error.on(name))?;
        let Some(handle) = temp.handle.take() else { return Ok(None) };
        // The size comes before the name, so that nobody sees it shorter.
        self.files.truncate(&handle, bytes).map_err(|source| not_applied(source).on(name))?;
        self.publish(&temp, name, &dir_layout::place(self.files.as_ref(), name))?;
        Ok(Some(handle))
    }

    /// Gives a file its size that has come without it to the disk: btrfs may have
    /// only the name of a new file in its log. False if it has it already.
    pub fn lengthen(&self, name: &ObjectName, bytes: u64) -> Result<bool> {
        let told = |source| not_applied(source).on(name);
        let path = dir_layout::place(self.files.as_ref(), name).path();
        let is_shorter = match self.files.stat(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other.map_err(told)?.bytes < bytes,
        };
        if is_shorter {
            let file = self.files.open(&path, false).map_err(told)?;
            self.files.truncate(&file, bytes).map_err(told)?;
        }
        Ok(is_shorter)
    }

    fn publish(&self, temp: &Temp<'_>, name: &ObjectName, place: &Place) -> Result<()> {
        let path = place.path();
        for _ in 0..TRIES {
            if place.on_demand {
                self.made.ensure(&place.directory).map_err(|source| not_applied(source).on(name))?;
            }
            let Err(source) = self.files.link(&temp.path, &path) else { return Ok(()) };
            match source.raw_os_error() {
                Some(libc::EEXIST) if self.is_at(temp, &path) => return Ok(()),
                Some(libc::EEXIST) => return Err(Error::new(ErrorKind::Exists, "create").on(name)),
                Some(libc::ENOENT) if place.on_demand && self.is_at(temp, &temp.path) => {
                    // Somebody removed the directory while it was empty.
                    self.made.forget(&place.directory);
                }
                Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK) => {
                    return self.rename(temp, name, &path);
                }
                _ => return self.settle(temp, name, &path, source),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "create")
            .on(name)
            .because("its directory was removed again and again"))
    }

    /// Where there are no links.
    fn rename(&self, temp: &Temp<'_>, name: &ObjectName, path: &str) -> Result<()> {
        let Err(source) = self.files.rename_new(&temp.path, path) else { return Ok(()) };
        if source.raw_os_error() == Some(libc::EEXIST) && !self.is_at(temp, path) {
            return Err(Error::new(ErrorKind::Exists, "create").on(name));
        }
        if is_unsupported(&source) {
            return Err(Error::new(ErrorKind::Denied, "create")
                .on(name)
                .because("this file system has neither hard links nor a rename that keeps what is there; \
                          use another one for the store")
                .caused_by(source));
        }
        self.settle(temp, name, path, source)
    }

    /// What an error of a link means. A server may have done it and lost the
    /// answer.
    fn settle(&self, temp: &Temp<'_>, name: &ObjectName, path: &str, source: io::Error) -> Result<()> {
        if self.is_at(temp, path) {
            return Ok(());
        }
        const CERTAIN: [i32; 9] = [
            libc::ENOENT,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EACCES,
            libc::EPERM,
            libc::EROFS,
            libc::EINVAL,
            libc::ENOTDIR,
            libc::ENAMETOOLONG,
        ];
        if source.raw_os_error().is_some_and(|errno| CERTAIN.contains(&errno)) {
            return Err(not_applied(source).on(name));
        }
        Err(Error::new(ErrorKind::Unknown, "create").on(name).caused_by(source))
    }

    /// True if `path` leads to the temporary file.
    fn is_at(&self, temp: &Temp<'_>, path: &str) -> bool {
        self.files.stat(path).is_ok_and(|stat| stat.identity == temp.identity)
    }
}

/// An error before the object got its name.
fn not_applied(source: io::Error) -> Error {
    let error = Error::from_io("create", source);
    match error.kind() {
        // The name is that of a temporary file or of a directory.
        ErrorKind::Unknown | ErrorKind::Exists | ErrorKind::NotFound => {
            error.with_kind(ErrorKind::Unavailable)
        }
        _ => error,
    }
}

/// Writes all of `data` to a new file.
pub fn fill(files: &dyn Files, handle: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        let end = data.len().min(done + PIECE_BYTES);
        match files.pwrite(handle, offset_bytes + done as u64, &data[done..end])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

/// As `fill` from the beginning of a new file, but granules of zeroes are left
/// out: whoever copies a layer, which has but a few granules, takes no more room
/// than the layer did. Not for the log, whose room must be there.
pub fn fill_sparse(files: &dyn Files, handle: &Handle, data: &[u8]) -> io::Result<()> {
    static ZEROES: [u8; GRANULE] = [0; GRANULE];
    let is_zero = |granule: &[u8]| *granule == ZEROES[..granule.len()];
    if data.chunks(GRANULE).any(is_zero) {
        files.truncate(handle, data.len() as u64)?;
    }
    let mut at = 0;
    while at < data.len() {
        let end = data[at..].chunks(GRANULE).take_while(|granule| !is_zero(granule));
        let end = at + end.map(<[u8]>::len).sum::<usize>();
        fill(files, handle, at as u64, &data[at..end])?;
        let zeroes = data[end..].chunks(GRANULE).take_while(|granule| is_zero(granule));
        at = end + zeroes.map(<[u8]>::len).sum::<usize>();
    }
    Ok(())
}

/// Makes `to` a copy of `from`, shared where the file system can and without
/// filling holes.
pub fn copy(files: &dyn Files, from: &Handle, to: &Handle, bytes: u64) -> io::Result<()> {
    files.truncate(to, bytes)?;
    let mut at = 0;
    while at < bytes {
        let (begin, end) = match files.next_data(from, at) {
            Ok(None) => break,
            Ok(Some(range)) => range,
            // A file system that cannot tell.
            Err(error) if is_unsupported(&error) => (at, bytes),
            Err(error) => return Err(error),
        };
        if begin == 0 && end >= bytes && hides_holes(files, from, bytes)? {
            return copy_data(files, from, to, 0, bytes);
        }
        copy_range(files, from, to, begin, end.min(bytes))?;
        at = end;
    }
    Ok(())
}

fn copy_range(files: &dyn Files, from: &Handle, to: &Handle, begin: u64, end: u64) -> io::Result<()> {
    let mut at = begin;
    while at < end {
        match files.copy_range(from, to, at, end - at) {
            Ok(0) => break,
            Ok(copied) => at += copied,
            Err(error) if is_unsupported(&error) => break,
            Err(error) => return Err(error),
        }
    }
    copy_data(files, from, to, at, end)
}

/// NFS before 4.2 says of every file that it has no holes, but tells what it
/// takes.
fn hides_holes(files: &dyn Files, from: &Handle, bytes: u64) -> io::Result<bool> {
    Ok(!files.file_system().local && files.fstat(from)?.allocated_bytes < bytes)
}

/// Into a file of zeroes: what is zero is left out.
fn copy_data(files: &dyn Files, from: &Handle, to: &Handle, mut at: u64, end: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    while at < end {
        let wanted = (end - at).min(PIECE_BYTES as u64) as usize;
        let got = files.pread(from, at, &mut piece[..wanted])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if piece[..got].iter().any(|byte| *byte != 0) {
            fill(files, to, at, &piece[..got])?;
        }
        at += got as u64;
    }
    Ok(())
}
