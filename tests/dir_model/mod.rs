//! A file system in memory that keeps apart what is there and what is durable,
//! as strictly as POSIX allows: a synced file may still lose its name, a
//! synced directory what is in its files, and whatever is not synced may be
//! lost or kept piece by piece.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::dir_sys::{DirEntry, FileStat, FileSystem, Files, Handle, SyncSite};
use archipelago::backend::LockMode;

pub mod client;

#[derive(Clone, Debug)]
pub enum Inode {
    File { live: Vec<u8>, durable: Vec<u8>, synced: bool },
    /// `pending`: names that were given (an inode) or taken away since the
    /// last sync, in order.
    Directory { live: Names, durable: Names, pending: Vec<(String, Option<usize>)> },
}

type Names = BTreeMap<String, usize>;

/// The root is inode 0. The directory above it holds nothing else.
#[derive(Clone, Debug)]
pub struct State {
    inodes: Vec<Arc<Inode>>,
    above_synced: bool,
    /// What a `syncfs` that does not flush has left in the disk's cache: of
    /// which files, and their content.
    cached: BTreeMap<usize, Vec<u8>>,
}

const ABOVE: u64 = u64::MAX;

/// One thing that a crash may lose.
#[derive(Clone, Copy, Debug)]
enum Loose {
    Above,
    Data(usize),
    Name(usize, usize),
}

fn directory() -> Inode {
    Inode::Directory { live: Names::new(), durable: Names::new(), pending: Vec::new() }
}

impl State {
    fn loose(&self) -> Vec<Loose> {
        let mut loose = Vec::new();
        if !self.above_synced {
            loose.push(Loose::Above);
        }
        for (number, inode) in self.inodes.iter().enumerate() {
            match &**inode {
                Inode::File { synced: false, .. } => loose.push(Loose::Data(number)),
                Inode::File { .. } => {}
                Inode::Directory { pending, .. } => {
                    loose.extend((0..pending.len()).map(|at| Loose::Name(number, at)));
                }
            }
        }
        loose
    }

    /// What is there after a crash that keeps the loose things in `kept`.
    /// `None`: the whole store is gone.
    fn crashed(&self, loose: &[Loose], kept: &dyn Fn(usize) -> bool) -> Option<State> {
        let mut after = self.clone();
        // Whatever is not loose is durable, so begin with all loose lost.
        for inode in loose.iter().filter_map(|one| match one {
            Loose::Data(number) | Loose::Name(number, _) => Some(*number),
            Loose::Above => None,
        }) {
            match Arc::make_mut(&mut after.inodes[inode]) {
                Inode::File { live, durable, .. } => live.clone_from(durable),
                Inode::Directory { live, durable, .. } => live.clone_from(durable),
            }
        }
        for (at, one) in loose.iter().enumerate() {
            match (one, kept(at)) {
                (Loose::Above, false) => return None,
                (Loose::Above, true) | (_, false) => {}
                (Loose::Data(number), true) => after.inodes[*number] = Arc::clone(&self.inodes[*number]),
                (Loose::Name(number, which), true) => {
                    let Inode::Directory { live, pending, .. } = Arc::make_mut(&mut after.inodes[*number])
                    else {
                        continue;
                    };
                    match pending[*which].clone() {
                        (name, Some(inode)) => live.insert(name, inode),
                        (name, None) => live.remove(&name),
                    };
                }
            }
        }
        after.sync_all();
        Some(after)
    }

    /// Some of the states that a crash may leave, all of them if few things
    /// are loose: else none, all, all but one, and only one of them.
    pub fn crashes(&self) -> Vec<Option<State>> {
        const ALL_SUBSETS_MAX: usize = 6;
        const SINGLES_MAX: usize = 40;
        let loose = self.loose();
        let mut states = Vec::new();
        if loose.len() <= ALL_SUBSETS_MAX {
            for subset in 0..1_u32 << loose.len() {
                states.push(self.crashed(&loose, &|at| subset >> at & 1 == 1));
            }
            return states;
        }
        states.push(self.crashed(&loose, &|_| false));
        states.push(self.crashed(&loose, &|_| true));
        for one in (0..loose.len()).rev().take(SINGLES_MAX) {
            states.push(self.crashed(&loose, &|at| at == one));
            states.push(self.crashed(&loose, &|at| at != one));
        }
        states
    }

    fn sync_all(&mut self) {
        self.above_synced = true;
        for number in 0..self.inodes.len() {
            self.sync(number);
        }
    }

    /// Names and sizes go through the file system's log, which is flushed.
    fn write_all(&mut self) {
        self.above_synced = true;
        for number in 0..self.inodes.len() {
            match &*self.inodes[number] {
                Inode::File { synced: true, .. } => {}
                Inode::File { live, .. } => drop(self.cached.insert(number, live.clone())),
                Inode::Directory { .. } => self.sync(number),
            }
        }
    }

    fn flush_cache(&mut self) {
        for (number, content) in std::mem::take(&mut self.cached) {
            if let Inode::File { live, durable, synced } = Arc::make_mut(&mut self.inodes[number]) {
                *synced = *live == content;
                *durable = content;
            }
        }
    }

    fn sync(&mut self, number: usize) {
        self.cached.remove(&number);
        match &*self.inodes[number] {
            Inode::File { synced: true, .. } => return,
            Inode::Directory { pending, live, durable } if pending.is_empty() && live == durable => return,
            _ => {}
        }
        match Arc::make_mut(&mut self.inodes[number]) {
            Inode::File { live, durable, synced } => {
                durable.clone_from(live);
                *synced = true;
            }
            Inode::Directory { live, durable, pending } => {
                durable.clone_from(live);
                pending.clear();
            }
        }
    }

    /// On a brick of GlusterFS: `fsync` of a file writes the journal, with all
    /// names of before; of a directory it does nothing.
    fn sync_journal(&mut self, file: usize) {
        if matches!(&*self.inodes[file], Inode::Directory { .. }) {
            return;
        }
        self.sync(file);
        self.above_synced = true;
        for number in 0..self.inodes.len() {
            if matches!(&*self.inodes[number], Inode::Directory { .. }) {
                self.sync(number);
            }
        }
    }

    fn look_up(&self, path: &str) -> io::Result<usize> {
        let mut number = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Inode::Directory { live, .. } = &*self.inodes[number] else {
                return Err(errno(libc::ENOTDIR));
            };
            number = *live.get(part).ok_or_else(|| errno(libc::ENOENT))?;
        }
        Ok(number)
    }

    /// Gives or takes away a name.
    fn set_name(&mut self, path: &str, inode: Option<usize>) -> io::Result<()> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = self.look_up(above)?;
        let Inode::Directory { live, pending, .. } = Arc::make_mut(&mut self.inodes[above]) else {
            return Err(errno(libc::ENOTDIR));
        };
        match inode {
            Some(_) if live.contains_key(name) => return Err(errno(libc::EEXIST)),
            Some(inode) => live.insert(name.to_owned(), inode),
            None => Some(live.remove(name).ok_or_else(|| errno(libc::ENOENT))?),
        };
        pending.push((name.to_owned(), inode));
        Ok(())
    }

    fn add(&mut self, path: &str, inode: Inode) -> io::Result<usize> {
        let number = self.inodes.len();
        self.set_name(path, Some(number))?;
        self.inodes.push(Arc::new(inode));
        Ok(number)
    }

    fn file_mut(&mut self, file: &Handle) -> io::Result<&mut Vec<u8>> {
        let number = number(file);
        match Arc::make_mut(&mut self.inodes[number]) {
            Inode::File { live, synced, .. } => {
                *synced = false;
                Ok(live)
            }
            Inode::Directory { .. } => Err(errno(libc::EISDIR)),
        }
    }

    fn file(&self, file: &Handle) -> io::Result<&Vec<u8>> {
        match &*self.inodes[number(file)] {
            Inode::File { live, .. } => Ok(live),
            Inode::Directory { .. } => Err(errno(libc::EISDIR)),
        }
    }

    fn stat_of(&self, number: usize) -> FileStat {
        let bytes = match &*self.inodes[number] {
            Inode::File { live, .. } => live.len() as u64,
            Inode::Directory { .. } => 0,
        };
        FileStat { bytes, allocated_bytes: bytes, identity: (1, number as u64), modified_s: 0 }
    }
}

fn number(handle: &Handle) -> usize {
    match handle {
        Handle::Number(number) => usize::try_from(*number).unwrap(),
        Handle::Fd(_) | Handle::Gluster(_) => panic!("an open file in a model"),
    }
}

pub fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// What a call is to do instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// Nothing, with this error.
    Before(i32),
    /// Its work, and report this error all the same.
    After(i32),
}

#[derive(Debug)]
pub struct Model {
    state: Mutex<State>,
    file_system: FileSystem,
    /// The states after each call that changed something, once wanted.
    history: Mutex<Vec<State>>,
    recording: AtomicBool,
    /// Syncs from here do nothing, and say that they did.
    suppressed: Option<SyncSite>,
    /// After so many more calls of this name, one fails.
    fail: Mutex<Option<(usize, &'static str, Fail)>>,
    /// How long an `fdatasync` takes.
    fdatasync_us: AtomicU64,
    /// How many there are now, and how many there were at most.
    fdatasyncs: AtomicUsize,
    fdatasyncs_max: AtomicUsize,
}

impl Model {
    pub fn new(file_system: FileSystem, suppressed: Option<SyncSite>) -> Arc<Model> {
        let inodes = vec![Arc::new(directory())];
        let state = State { inodes, above_synced: false, cached: BTreeMap::new() };
        Model::from_state(state, file_system, suppressed)
    }

    pub fn from_state(state: State, file_system: FileSystem, suppressed: Option<SyncSite>) -> Arc<Model> {
        Arc::new(Model {
            state: Mutex::new(state),
            file_system,
            history: Mutex::default(),
            recording: AtomicBool::new(false),
            suppressed,
            fail: Mutex::default(),
            fdatasync_us: AtomicU64::new(0),
            fdatasyncs: AtomicUsize::new(0),
            fdatasyncs_max: AtomicUsize::new(0),
        })
    }

    /// From now on an `fdatasync` takes this long.
    pub fn slow_down(&self, fdatasync_us: u64) {
        self.fdatasync_us.store(fdatasync_us, Ordering::SeqCst);
    }

    /// How many `fdatasync` ran at a time, at most.
    pub fn fdatasyncs_max(&self) -> usize {
        self.fdatasyncs_max.load(Ordering::SeqCst)
    }

    /// From now on every state is remembered, beginning with this one.
    pub fn record(&self) {
        self.recording.store(true, Ordering::SeqCst);
        self.remember();
    }

    fn remember(&self) {
        if self.recording.load(Ordering::SeqCst) {
            let state = self.state.lock().unwrap().clone();
            self.history.lock().unwrap().push(state);
        }
    }

    pub fn steps(&self) -> usize {
        self.history.lock().unwrap().len()
    }

    pub fn history(&self) -> Vec<State> {
        self.history.lock().unwrap().clone()
    }

    pub fn fail_next(&self, call: &'static str, fail: Fail) {
        self.fail_after(0, call, fail);
    }

    pub fn fail_after(&self, skip: usize, call: &'static str, fail: Fail) {
        *self.fail.lock().unwrap() = Some((skip, call, fail));
    }

    pub fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    pub fn names_in(&self, path: &str) -> Vec<String> {
        self.read_dir(path).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    fn failing(&self, call: &str) -> Option<Fail> {
        let mut fail = self.fail.lock().unwrap();
        let (skip, name, how) = (*fail)?;
        if name != call {
            return None;
        }
        *fail = (skip > 0).then(|| (skip - 1, name, how));
        (skip == 0).then_some(how)
    }

    fn call<T>(&self, name: &str, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let fail = self.failing(name);
        if let Some(Fail::Before(number)) = fail {
            return Err(errno(number));
        }
        let result = work(&mut self.state.lock().unwrap());
        if let (Ok(_), Some(Fail::After(number))) = (&result, fail) {
            return Err(errno(number));
        }
        result
    }

    fn change<T>(&self, name: &str, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let result = self.call(name, work);
        self.remember();
        result
    }

    fn sync(&self, name: &str, site: SyncSite, work: impl FnOnce(&mut State)) -> io::Result<()> {
        self.change(name, |state| {
            if self.suppressed != Some(site) {
                work(state);
            }
            Ok(())
        })
    }
}

impl Files for Model {
    fn file_system(&self) -> FileSystem {
        self.file_system
    }

    fn direct_alignment(&self, _: &Handle) -> Option<usize> {
        None
    }

    fn open(&self, path: &str, _: bool) -> io::Result<Handle> {
        self.call("open", |state| Ok(Handle::Number(state.look_up(path)? as u64)))
    }

    fn open_dir(&self, path: &str) -> io::Result<Handle> {
        if path == ".." {
            return Ok(Handle::Number(ABOVE));
        }
        self.open(path, false)
    }

    fn create(&self, path: &str, _: u32, _: Option<u32>) -> io::Result<Handle> {
        let file = Inode::File { live: Vec::new(), durable: Vec::new(), synced: false };
        self.change("create", |state| Ok(Handle::Number(state.add(path, file)? as u64)))
    }

    fn mkdir(&self, path: &str, _: u32, _: Option<u32>) -> io::Result<()> {
        self.change("mkdir", |state| state.add(path, directory()).map(|_| ()))
    }

    fn pread(&self, file: &Handle, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.call("pread", |state| {
            let data = state.file(file)?;
            let from = data.len().min(usize::try_from(offset_bytes).unwrap());
            let bytes = buf.len().min(data.len() - from);
            buf[..bytes].copy_from_slice(&data[from..from + bytes]);
            Ok(bytes)
        })
    }

    fn pwrite(&self, file: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        self.change("pwrite", |state| {
            let live = state.file_mut(file)?;
            let from = usize::try_from(offset_bytes).unwrap();
            if live.len() < from + data.len() {
                live.resize(from + data.len(), 0);
            }
            live[from..from + data.len()].copy_from_slice(data);
            Ok(data.len())
        })
    }

    fn truncate(&self, file: &Handle, bytes: u64) -> io::Result<()> {
        self.change("truncate", |state| {
            state.file_mut(file)?.resize(usize::try_from(bytes).unwrap(), 0);
            Ok(())
        })
    }

    fn punch(&self, file: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<()> {
        self.change("punch", |state| {
            let (from, bytes) = (usize::try_from(offset_bytes).unwrap(), usize::try_from(bytes).unwrap());
            state.file_mut(file)?[from..from + bytes].fill(0);
            Ok(())
        })
    }

    fn copy_range(&self, from: &Handle, to: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<u64> {
        let mut data = vec![0; usize::try_from(bytes).unwrap()];
        let got = self.pread(from, offset_bytes, &mut data)?;
        Ok(self.pwrite(to, offset_bytes, &data[..got])? as u64)
    }

    fn next_data(&self, file: &Handle, offset_bytes: u64) -> io::Result<Option<(u64, u64)>> {
        let bytes = self.fstat(file)?.bytes;
        Ok((offset_bytes < bytes).then_some((offset_bytes, bytes)))
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("link", |state| {
            let inode = state.look_up(from)?;
            state.set_name(to, Some(inode))
        })
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.change("rename", |state| {
            let inode = state.look_up(from)?;
            state.set_name(to, Some(inode))?;
            state.set_name(from, None)
        })
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change("unlink", |state| state.set_name(path, None))
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        self.change("rmdir", |state| {
            let number = state.look_up(path)?;
            if matches!(&*state.inodes[number], Inode::Directory { live, .. } if !live.is_empty()) {
                return Err(errno(libc::ENOTEMPTY));
            }
            state.set_name(path, None)
        })
    }

    fn fsync(&self, file: &Handle, site: SyncSite) -> io::Result<()> {
        let in_journal = self.file_system.names_with_files;
        self.sync("fsync", site, |state| match file {
            Handle::Number(ABOVE) if in_journal => {}
            Handle::Number(ABOVE) => state.above_synced = true,
            file if in_journal => state.sync_journal(number(file)),
            file => state.sync(number(file)),
        })
    }

    fn fdatasync(&self, file: &Handle, site: SyncSite) -> io::Result<()> {
        let now = self.fdatasyncs.fetch_add(1, Ordering::SeqCst) + 1;
        self.fdatasyncs_max.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(self.fdatasync_us.load(Ordering::SeqCst)));
        let result = self.sync("fdatasync", site, |state| {
            state.flush_cache();
            state.sync(number(file));
        });
        self.fdatasyncs.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn syncfs(&self, _: &Handle, site: SyncSite) -> io::Result<()> {
        match self.file_system.syncfs_flushes {
            true => self.sync("syncfs", site, State::sync_all),
            false => self.sync("syncfs", site, State::write_all),
        }
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.call("read_dir", |state| {
            let number = state.look_up(path)?;
            let Inode::Directory { live, .. } = &*state.inodes[number] else {
                return Err(errno(libc::ENOTDIR));
            };
            let is_dir = |number: usize| matches!(&*state.inodes[number], Inode::Directory { .. });
            Ok(live.iter().map(|(name, n)| DirEntry { name: name.clone(), is_dir: is_dir(*n) }).collect())
        })
    }

    fn stat(&self, path: &str) -> io::Result<FileStat> {
        self.call("stat", |state| Ok(state.stat_of(state.look_up(path)?)))
    }

    fn fstat(&self, file: &Handle) -> io::Result<FileStat> {
        self.call("fstat", |state| Ok(state.stat_of(number(file))))
    }

    fn lock(&self, _: &Handle, _: LockMode) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self, _: &Handle) -> io::Result<()> {
        Ok(())
    }
}
