//! `dir`: one file per object in a directory, on a local file system or NFS.
//!
//! * `dir_layout`: where which object is
//! * `dir_create`: how an object gets its name: all of it, durably, or nothing
//! * `dir_made`: directories made on demand
//! * `dir_files`, `dir_io`, `dir_gate`: open files, and data past or through
//!   the page cache
//! * `dir_sync`: what `sync` does
//! * `dir_data`: guest data on io_uring
//! * `dir_lock`: locks that outlive a killed process's requests
//! * `dir_sys`: the system calls
//!
//! Nothing is ever renamed over a name that others read: on NFS they would get
//! ESTALE. On NFS also, a link may be done and reported as failed or as
//! `EEXIST`: the inode tells. Names left by the NFS client for removed files
//! are not ours and are passed over.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::dir_create::{self, Creator};
use super::dir_data::DirData;
use super::dir_files::{Access, OpenFile, OpenFiles};
use super::dir_io;
use super::dir_layout;
use super::dir_lock::{self, Held, Locks};
use super::dir_made::MadeDirectories;
use super::dir_sync::Syncer;
use super::dir_sys::{Files, RealFiles, SyncSite};
use super::memory::beyond_end;
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::atomic::AtomicBool;

/// Enough for every object there is; ext4 allows 16 TiB.
const OBJECT_BYTES_MAX: u64 = 1 << 40;
const IN_FLIGHT_MAX: usize = 128;

/// How long an NFS client may show an old listing: the longest time that it
/// keeps a directory by default.
const NFS_LIST_LAG_S: u32 = 60;

#[derive(Clone, Debug)]
pub struct DirOptions {
    /// Blocks and segments go past the page cache, if the file system can.
    pub direct: bool,
    /// Permissions of files; directories add execution for who may read.
    pub mode: u32,
    /// The group of files and directories; `None`: the process's.
    pub group: Option<u32>,
    /// Files kept open, without those in use. QEMU may open 1,024 in all.
    pub open_files_max: usize,
}

impl Default for DirOptions {
    fn default() -> DirOptions {
        DirOptions { direct: false, mode: 0o660, group: None, open_files_max: 256 }
    }
}

/// A store in a directory. A clone is the same store.
#[derive(Clone)]
pub struct Dir(Arc<Inner>);

pub(super) struct Inner {
    pub(super) files: Arc<dyn Files>,
    pub(super) open: Arc<OpenFiles>,
    made: Arc<MadeDirectories>,
    syncer: Arc<Syncer>,
    creator: Creator,
    path: PathBuf,
    /// Of data past the page cache; 1 if it goes through it.
    alignment: usize,
    has_descriptors: bool,
    data_path: OnceLock<Option<Arc<dyn DataPath>>>,
    locks: Arc<Locks>,
}

fn unreachable_directory(path: &Path, source: io::Error) -> Error {
    let error = Error::from_io("open the directory", source).on_named(path.display().to_string());
    match error.kind() {
        ErrorKind::Unknown => error.with_kind(ErrorKind::Unavailable),
        _ => error,
    }
}

fn directory_mode(options: &DirOptions) -> u32 {
    let search = (options.mode & 0o444) >> 2;
    options.mode | search | if options.group.is_some() { 0o2000 } else { 0 }
}

/// What O_DIRECT asks for in this store; 1 if it cannot be had.
fn direct_alignment(files: &dyn Files, path: &Path, options: &DirOptions) -> usize {
    let probe = || {
        let id = clock::random_id().ok()?;
        let temp = format!("{}/{id}", dir_layout::TEMP);
        let made = files.create(&temp, options.mode, None);
        let opened = files.open(&temp, true);
        let _ = files.unlink(&temp);
        made.ok()?;
        files.direct_alignment(&opened.ok()?)
    };
    probe().unwrap_or_else(|| {
        log::warn!("{}: no O_DIRECT here, data goes through the page cache", path.display());
        1
    })
}

impl Dir {
    /// Makes the directories of a store in `path`, itself made if need be. An
    /// attempt that was cut short is completed.
    pub fn create(path: &Path, options: DirOptions) -> Result<Dir> {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::from_io("make the directory", error).on_named(path.display().to_string()));
            }
            _ => {}
        }
        let files = RealFiles::open(path).map_err(|e| unreachable_directory(path, e))?;
        Dir::create_on(Arc::new(files), path, options)
    }

    /// `create` on other system calls: of a test, or of another kind of store.
    pub fn create_on(files: Arc<dyn Files>, path: &Path, options: DirOptions) -> Result<Dir> {
        let temp = clock::random_id().map_err(io::Error::other);
        let init = || {
            let changed =
                dir_layout::make_directories(files.as_ref(), directory_mode(&options), options.group)?;
            for directory in changed {
                files.fsync(&files.open_dir(directory)?, SyncSite::Init)?;
            }
            let site = SyncSite::InitAbove;
            if !files.file_system().names_with_files {
                return files.fsync(&files.open_dir("..")?, site);
            }
            // Any file there will do.
            let path = format!("{}/{}", dir_layout::TEMP, temp?);
            files.fsync(&files.create(&path, options.mode, None)?, site)?;
            files.unlink(&path)
        };
        init().map_err(|e| Error::from_io("set up the directory", e).on_named(path.display().to_string()))?;
        Dir::open_on(files, path, options)
    }

    /// Opens the store in `path`. Errors: `NotFound` if there is none.
    pub fn open(path: &Path, options: DirOptions) -> Result<Dir> {
        let files = RealFiles::open(path).map_err(|e| unreachable_directory(path, e))?;
        Dir::open_on(Arc::new(files), path, options)
    }

    /// `open` on other system calls.
    pub fn open_on(files: Arc<dyn Files>, path: &Path, options: DirOptions) -> Result<Dir> {
        let opened = |e| unreachable_directory(path, e);
        if !dir_layout::has_directories(files.as_ref()).map_err(opened)? {
            return Err(Error::sentence(
                ErrorKind::NotFound,
                format!(
                    "there is no store in {}: make one with 'archipelago store init'",
                    path.display()
                ),
            ));
        }
        let open_files_max = options.open_files_max;
        let alignment = if options.direct { direct_alignment(files.as_ref(), path, &options) } else { 1 };
        let open = Arc::new(OpenFiles::new(Arc::clone(&files), open_files_max, alignment));
        let made = MadeDirectories::new(Arc::clone(&files), directory_mode(&options), options.group);
        let made = Arc::new(made);
        let syncer = Syncer::new(Arc::clone(&files), Arc::clone(&open), Arc::clone(&made)).map_err(opened)?;
        let syncer = Arc::new(syncer);
        let creator = Creator {
            files: Arc::clone(&files),
            made: Arc::clone(&made),
            syncer: Arc::clone(&syncer),
            mode: options.mode,
            group: options.group,
            has_cleaned: AtomicBool::new(false),
        };
        let has_descriptors = files.open_dir("").is_ok_and(|root| root.fd().is_some());
        let (path, data_path) = (path.to_owned(), OnceLock::new());
        Ok(Dir(Arc::new(Inner {
            files,
            open,
            made,
            syncer,
            creator,
            path,
            alignment,
            has_descriptors,
            data_path,
            locks: Arc::default(),
        })))
    }
}

impl Dir {
    pub(super) fn open_files(&self) -> &Arc<OpenFiles> {
        &self.0.open
    }
}

impl Inner {
    /// Runs `call` on the object's file. If the server has forgotten the file
    /// it is looked up once more: nothing was applied.
    pub(super) fn with_file<T>(
        &self,
        operation: &'static str,
        name: &ObjectName,
        access: Access,
        call: impl Fn(&OpenFile) -> io::Result<T>,
    ) -> Result<T> {
        let file = self.open.get(operation, name, access)?;
        let result = match call(&file) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                self.open.forget_stale(name, &file);
                drop(file);
                call(&*self.open.get(operation, name, access)?)
            }
            other => other,
        };
        result.map_err(|source| io_error(operation, name, source))
    }

    fn check_range(&self, operation: &'static str, name: &ObjectName, offset: u64, bytes: u64) -> Result<()> {
        let file = self.open.get(operation, name, Access::Write)?;
        if offset.checked_add(bytes).is_some_and(|end| end <= file.bytes) {
            return Ok(());
        }
        Err(beyond_end(operation, name, offset, bytes, file.bytes))
    }
}

pub(super) fn io_error(operation: &'static str, name: &ObjectName, source: io::Error) -> Error {
    let read_only = source.raw_os_error() == Some(libc::EBADF);
    let error = Error::from_io(operation, source).on(name);
    if read_only {
        return error.with_kind(ErrorKind::Denied).because("the file may only be read");
    }
    error
}

impl Backend for Dir {
    fn capabilities(&self) -> Capabilities {
        let file_system = self.0.files.file_system();
        Capabilities {
            overwrite_in_place: true,
            durable_on_ack: false,
            fences: file_system.local,
            sync_all_cheap: file_system.syncfs,
            list_lag_s: if file_system.local { 0 } else { NFS_LIST_LAG_S },
            lists_at_once: false,
            object_bytes_max: OBJECT_BYTES_MAX,
            in_flight_max: IN_FLIGHT_MAX,
            tells_room: true,
            cuts_off: false,
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.0.creator.create(name, |files, file| match name {
            ObjectName::Block { .. } => dir_create::fill_sparse(files, file, data),
            _ => dir_create::fill(files, file, 0, data),
        })?;
        self.0.open.forget_removed(name);
        Ok(())
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        let made = match self.0.creator.create_sparse(name, bytes) {
            Err(error) if error.is(ErrorKind::Exists) => {
                if self.0.creator.lengthen(name, bytes)? {
                    self.0.open.forget_removed(name);
                    self.0.open.mark(name).made();
                }
                return Err(error);
            }
            other => other?,
        };
        self.0.open.forget_removed(name);
        self.0.open.mark(name).made();
        if let (Some(handle), false) = (made, self.0.open.is_direct(name)) {
            self.0.open.insert(name, handle, bytes, 1);
        }
        Ok(())
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let files = self.0.files.as_ref();
        // Two calls may read, so the memory is lent to each of them.
        let buf = std::cell::RefCell::new(buf);
        self.0.with_file("read", name, Access::Read, |file| {
            dir_io::read(files, file, offset_bytes, &mut buf.borrow_mut())
        })
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.0.check_range("write", name, offset_bytes, data.len() as u64)?;
        let files = self.0.files.as_ref();
        self.0.with_file("write", name, Access::Write, |file| dir_io::write(files, file, offset_bytes, data))
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.0.check_range("punch", name, offset_bytes, bytes)?;
        let files = self.0.files.as_ref();
        self.0.with_file("punch", name, Access::Write, |file| dir_io::punch(files, file, offset_bytes, bytes))
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let path = dir_layout::place(self.0.files.as_ref(), from).path();
        let files = self.0.files.as_ref();
        let opened = |e| Error::from_io("copy", e).on(from);
        // Not the one in the cache: looking for holes moves its position.
        let source = files.open(&path, false).map_err(opened)?;
        let bytes = files.fstat(&source).map_err(opened)?.bytes;
        self.0.creator.create(to, |files, target| dir_create::copy(files, &source, target, bytes))?;
        self.0.open.forget_removed(to);
        Ok(())
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.0.syncer.sync(names)
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.0.syncer.sync_content(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        names.iter().filter_map(|name| self.0.open.known_mark(name)).for_each(|mark| mark.forget_synced());
    }

    fn forget_seen(&self) {
        self.0.open.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let place = dir_layout::place(self.0.files.as_ref(), name);
        self.0.files.unlink(&place.path()).map_err(|e| Error::from_io("delete", e).on(name))?;
        self.0.open.forget_removed(name);
        if place.on_demand {
            self.0.made.remove_empty(&place.directory);
        }
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        let path = dir_layout::place(self.0.files.as_ref(), name).path();
        let stat = self.0.files.stat(&path).map_err(|e| Error::from_io("stat", e).on(name))?;
        Ok(ObjectStat { bytes: stat.bytes, allocated_bytes: stat.allocated_bytes })
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        let files = self.0.files.as_ref();
        self.0.with_file("look for data in", name, Access::Read, |file| {
            files.next_data(&file.handle, offset_bytes)
        })
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        dir_layout::list(self.0.files.as_ref(), prefix, after, count_max)
            .map_err(|e| Error::from_io("list", e).on_named(self.0.path.display().to_string()))
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        if !self.0.files.file_system().local {
            return Err(Error::new(ErrorKind::Invalid, "lock")
                .on(name)
                .because("locks on a network file system do not fence"));
        }
        let path = dir_layout::lock_path(name);
        let files = &self.0.files;
        let create = || files.create(&path, self.0.creator.mode, self.0.creator.group);
        loop {
            let locked = dir_lock::try_lock(files.as_ref(), &path, mode, create).map_err(|source| {
                match source.raw_os_error() {
                    Some(libc::EAGAIN) => Error::new(ErrorKind::Busy, "lock").on(name),
                    _ => io_error("lock", name, source),
                }
            })?;
            if let Some(file) = locked {
                return Ok(Box::new(Held::new(Arc::clone(files), &self.0.locks, path, mode, file)));
            }
        }
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        let start = || {
            // A model of a file system has none.
            if !self.0.has_descriptors {
                return None;
            }
            let ring = DirData::start(Arc::clone(&self.0.open), self.0.alignment)?;
            self.0.locks.know_ring(&ring);
            Some(ring as Arc<dyn DataPath>)
        };
        self.0.data_path.get_or_init(start).clone()
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("path", &self.0.path).finish_non_exhaustive()
    }
}
