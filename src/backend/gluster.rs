//! `gluster`: one file per object in a folder of a GlusterFS volume, through
//! its own library. The files lie as those of `dir` do, and are made, synced
//! and cleaned up in the same way; `gluster_files` says what differs,
//! `gluster_data` how guest data go.
//!
//! * Nothing that was read is kept on this side: the translators that would are
//!   told to pass everything on, whatever the volume's options say. What another
//!   client has written is what is read.
//! * Writes are kept for a moment, unless the volume has write-behind off or
//!   the store is opened `direct`: that makes them several times quicker. What
//!   goes wrong then shows at the next write or `sync`.
//! * `sync` is an `fsync` on all bricks, of many files at once.
//! * A request whose connection is lost may have been done: `Unknown`, unless
//!   it was for reading.
//! * There are no locks: those of GlusterFS are forgotten when two bricks of
//!   three have been away one after the other, and nobody is told.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::{Dir, DirOptions};
use super::gluster_data::GlusterData;
use super::gluster_files::GlusterFiles;
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;
use crate::sys::gfapi::{Mount, Refused, Setting};

/// As with `dir`; a brick's file system may allow less.
const OBJECT_BYTES_MAX: u64 = 1 << 40;
const IN_FLIGHT_MAX: usize = 128;

/// Files kept open. They are no descriptors of this process, but each is one
/// of every brick.
const OPEN_FILES_MAX: usize = 1024;

/// No translator on this side keeps names (`SETTINGS`), but which of the bricks
/// lists a folder depends on what a client knows of them: one that was away is
/// asked no more as soon as its return is noticed, and while files are moved
/// between bricks a list may lack some. This is what GlusterFS itself allows for
/// names that it keeps (`nl-cache`); it costs gc a minute.
const LIST_LAG_S: u32 = 60;

/// Of the translators on this side.
///
/// `post-op-delay-secs`: what a brick has missed is noted with the others only
/// when a file has not been written for so long (1 s if nobody has set it),
/// though all is acknowledged before. One that comes back in between is taken
/// for whole, and is read until it has been healed
/// (`a_brick_that_comes_back_is_known_to_lack_what_was_written_last`).
const SETTINGS: [Setting; 9] = [
    ("*-replicate-*", "post-op-delay-secs", "0"),
    ("*-read-ahead", "pass-through", "on"),
    ("*-readdir-ahead", "pass-through", "on"),
    ("*-io-cache", "pass-through", "on"),
    ("*-open-behind", "pass-through", "on"),
    ("*-md-cache", "pass-through", "on"),
    ("*-nl-cache", "pass-through", "on"),
    ("*-quick-read", "max-file-size", "0"),
    ("*-quick-read", "cache-size", "0"),
];

/// What is acknowledged is with the bricks, and what does not fit there fails
/// itself.
const DIRECT: Setting = ("*-write-behind", "pass-through", "on");

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GlusterOptions {
    /// Names or addresses, and ports; the first that answers is asked.
    pub servers: Vec<(String, u16)>,
    pub volume: String,
    /// "" for all of the volume; otherwise it begins with '/'.
    pub folder: String,
    /// Writes are not kept on this side, not even for a moment.
    pub direct: bool,
    /// Permissions of files; directories add execution for who may read.
    pub mode: u32,
    /// The group of files and directories; `None`: the process's.
    pub group: Option<u32>,
    /// What the library has to say is added to this file; `None`: to none.
    pub log: Option<PathBuf>,
}

impl fmt::Display for GlusterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<&str> = self.servers.iter().map(|(host, _)| host.as_str()).collect();
        write!(f, "gluster://{}/{}{}", hosts.join(","), self.volume, self.folder)
    }
}

/// A store in a folder of a volume.
pub struct Gluster {
    dir: Dir,
    data: Option<Arc<GlusterData>>,
}

impl fmt::Debug for Gluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gluster")
    }
}

type Key = (Vec<(String, u16)>, String, bool, Option<PathBuf>);

/// Stores of one volume share a connection to each brick. It stays until the
/// process ends: to end it takes the library up to ten seconds (10.3).
fn mount(options: &GlusterOptions) -> Result<Arc<Mount>> {
    static MOUNTS: std::sync::OnceLock<Mutex<HashMap<Key, Arc<Mount>>>> = std::sync::OnceLock::new();
    let mut mounts = MOUNTS.get_or_init(Mutex::default).lock();
    let key = (options.servers.clone(), options.volume.clone(), options.direct, options.log.clone());
    if let Some(mount) = mounts.get(&key) {
        return Ok(Arc::clone(mount));
    }
    let log = options.log.as_deref().unwrap_or(Path::new("/dev/null"));
    let settings: Vec<Setting> = SETTINGS.into_iter().chain(options.direct.then_some(DIRECT)).collect();
    let mount = Mount::connect(&options.volume, &options.servers, &settings, log);
    let mount = Arc::new(mount.map_err(|refused| explain(refused, options))?);
    mounts.insert(key, Arc::clone(&mount));
    Ok(mount)
}

fn explain(refused: Refused, options: &GlusterOptions) -> Error {
    let unavailable = |words: String| Error::sentence(ErrorKind::Unavailable, words);
    match refused {
        Refused::NoLibrary(said) => unavailable(format!(
            "GlusterFS's library cannot be used: install it with: apt-get install libgfapi0 ({said})"
        )),
        Refused::TooOld => unavailable(
            "GlusterFS's library is older than version 6, which is the first that can be used: \
             install a newer libgfapi0"
                .to_owned(),
        ),
        Refused::At(operation, source) => {
            let errno = source.raw_os_error().unwrap_or(libc::EIO);
            let kind = match ErrorKind::from_errno(errno) {
                ErrorKind::Unknown => ErrorKind::Unavailable,
                other => other,
            };
            let volume = &options.volume;
            let next = match errno {
                libc::ENOENT => format!("is there a volume '{volume}'? see: gluster volume info"),
                _ => format!("does a server answer, and is it started? see: gluster volume status {volume}"),
            };
            Error::sentence(kind, format!("cannot {operation} to {options}: {source}; {next}"))
        }
    }
}

impl Gluster {
    fn files(options: &GlusterOptions) -> Result<Arc<GlusterFiles>> {
        Ok(Arc::new(GlusterFiles::new(mount(options)?, &options.folder, options.direct)))
    }

    /// For messages.
    fn path(options: &GlusterOptions) -> PathBuf {
        PathBuf::from(options.to_string())
    }

    fn dir_options(options: &GlusterOptions) -> DirOptions {
        DirOptions {
            direct: false,
            mode: options.mode,
            group: options.group,
            open_files_max: OPEN_FILES_MAX,
        }
    }

    fn with(dir: Dir) -> Gluster {
        let data = GlusterData::start(&dir);
        Gluster { dir, data }
    }

    /// Makes the folders of a store. An attempt that was cut short is completed.
    /// Errors: `Unavailable` if there is no library or no server that answers;
    /// `NotFound` if there is no such volume.
    pub fn create(options: &GlusterOptions) -> Result<Gluster> {
        let files = Gluster::files(options)?;
        let search = (options.mode & 0o444) >> 2;
        let set_group = if options.group.is_some() { 0o2000 } else { 0 };
        let made = files.make_folder(options.mode | search | set_group, options.group);
        made.map_err(|error| Error::from_io("make the folder", error).on_named(options.to_string()))?;
        let dir = Dir::create_on(files, &Gluster::path(options), Gluster::dir_options(options))?;
        Ok(Gluster::with(dir))
    }

    /// Opens a store. Errors: as `create`; `NotFound` also if there is none.
    pub fn open(options: &GlusterOptions) -> Result<Gluster> {
        let files = Gluster::files(options)?;
        let dir = Dir::open_on(files, &Gluster::path(options), Gluster::dir_options(options))?;
        Ok(Gluster::with(dir))
    }
}

/// Reading again does no harm.
pub(super) fn not_read(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unknown => error.with_kind(ErrorKind::Unavailable),
        _ => error,
    }
}

impl Backend for Gluster {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            fences: false,
            sync_all_cheap: false,
            list_lag_s: LIST_LAG_S,
            lists_at_once: false,
            object_bytes_max: OBJECT_BYTES_MAX,
            in_flight_max: IN_FLIGHT_MAX,
            ..self.dir.capabilities()
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.dir.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.dir.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.dir.read_at(name, offset_bytes, buf).map_err(not_read)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.dir.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.dir.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.dir.sync(names)
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.dir.sync_content(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.dir.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.dir.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.dir.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.dir.stat(name).map_err(not_read)
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.dir.next_data(name, offset_bytes).map_err(not_read)
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Result<Vec<ObjectName>> {
        self.dir.list(prefix, after, count_max).map_err(not_read)
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.dir.copy(from, to)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.dir.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.data.clone().map(|data| data as Arc<dyn DataPath>)
    }
}
