//! Locks of `dir`: open-file-description locks on files of their own, and what
//! makes a free one prove that its last holder will never write again.
//!
//! A process that is killed closes its files at once, but what it had handed
//! to the ring may be with the disk yet, for a minute if a path to it is gone,
//! and would change what the next holder has read and synced. So the ring is
//! told of the lock's file: the kernel closes that only when the ring has
//! nothing in flight. (What a thread waits for itself keeps its process alive.)

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::dir_data::DirData;
use super::dir_sys::{Files, Handle};
use super::LockMode;
use crate::sync::Mutex;

/// The exclusive locks that a process holds on a store.
#[derive(Default)]
pub struct Locks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    held: BTreeMap<u64, (Arc<OwnedFd>, Option<u32>)>,
    ring: Option<Arc<DirData>>,
}

impl Locks {
    /// From now on there is a ring.
    pub fn know_ring(&self, ring: &Arc<DirData>) {
        let mut state = self.state.lock();
        for (file, slot) in state.held.values_mut() {
            *slot = keep(ring, file);
        }
        state.ring = Some(Arc::clone(ring));
    }

    fn add(&self, file: &Handle) -> Option<u64> {
        let file = Arc::clone(file.shared_fd()?);
        let mut state = self.state.lock();
        let slot = state.ring.as_ref().and_then(|ring| keep(ring, &file));
        state.next += 1;
        let number = state.next;
        state.held.insert(number, (file, slot));
        Some(number)
    }

    fn remove(&self, number: u64) {
        let mut state = self.state.lock();
        let Some((_, Some(slot))) = state.held.remove(&number) else { return };
        if let Some(ring) = &state.ring {
            ring.let_go(slot);
        }
    }
}

fn keep(ring: &DirData, file: &Arc<OwnedFd>) -> Option<u32> {
    match ring.keep_open(file) {
        Ok(slot) => Some(slot),
        Err(error) => {
            log::warn!("a lock is not tied to the requests that it protects: {error}");
            None
        }
    }
}

/// A held lock. The file is removed by the only one who can be sure that
/// nobody else holds it; who opened it before finds that out and tries again.
pub struct Held {
    files: Arc<dyn Files>,
    locks: Weak<Locks>,
    path: String,
    mode: LockMode,
    file: Handle,
    /// In `locks`.
    number: Option<u64>,
}

impl Held {
    pub fn new(
        files: Arc<dyn Files>,
        locks: &Arc<Locks>,
        path: String,
        mode: LockMode,
        file: Handle,
    ) -> Held {
        // What readers have asked for harms nobody.
        let number = if mode == LockMode::Exclusive { locks.add(&file) } else { None };
        Held { files, locks: Arc::downgrade(locks), path, mode, file, number }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.mode == LockMode::Exclusive {
            let _ = self.files.unlink(&self.path);
        }
        // The ring may be slow to close the file.
        if let Err(error) = self.files.unlock(&self.file) {
            log::warn!("a lock is given back late: {error}");
        }
        if let (Some(number), Some(locks)) = (self.number, self.locks.upgrade()) {
            locks.remove(number);
        }
    }
}

/// `None`: the file was removed before it was locked.
pub fn try_lock(
    files: &dyn Files,
    path: &str,
    mode: LockMode,
    create: impl Fn() -> io::Result<Handle>,
) -> io::Result<Option<Handle>> {
    let file = match files.open(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other?,
        },
        other => other?,
    };
    files.lock(&file, mode)?;
    let ours = files.fstat(&file)?.identity;
    let current = files.stat(path).is_ok_and(|stat| stat.identity == ours);
    Ok(current.then_some(file))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::dir::{Dir, DirOptions};
    use super::super::Backend;
    use super::*;
    use crate::error::ErrorKind;
    use crate::name::ObjectName;

    const NAME: ObjectName = ObjectName::Maintenance(0);

    impl Held {
        /// As if the process was killed: its files are closed, and no more.
        fn die(mut self) {
            (self.mode, self.file) = (LockMode::Shared, Handle::Number(0));
            if let (Some(number), Some(locks)) = (self.number.take(), self.locks.upgrade()) {
                locks.state.lock().held.remove(&number);
            }
        }
    }

    /// What is left when a process is killed, in the order in which the kernel
    /// puts it away: its files are closed, its rings end later.
    #[test]
    fn a_lock_is_free_when_the_ring_has_ended_too() {
        for lock_first in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let dir = Dir::create(directory.path(), DirOptions::default()).unwrap();
            let before = lock_first.then(|| dir.lock(&NAME, LockMode::Exclusive).unwrap());
            let Some(ring) = dir.data_path() else { return };
            let lock = before.unwrap_or_else(|| dir.lock(&NAME, LockMode::Exclusive).unwrap());
            lock.downcast::<Held>().unwrap().die();
            let next = Dir::open(directory.path(), DirOptions::default()).unwrap();
            let error = next.lock(&NAME, LockMode::Exclusive).map(drop).unwrap_err();
            assert!(error.is(ErrorKind::Busy), "the ring has not ended: {error}");
            drop((ring, dir));
            let end = Instant::now() + Duration::from_secs(20);
            while let Err(error) = next.lock(&NAME, LockMode::Exclusive).map(drop) {
                assert!(Instant::now() < end, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_lock_that_is_given_back_is_free_at_once_while_the_ring_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::create(directory.path(), DirOptions::default()).unwrap();
        let next = Dir::open(directory.path(), DirOptions::default()).unwrap();
        let _ring = dir.data_path();
        // More often than the ring has slots.
        for _ in 0..600 {
            drop(dir.lock(&NAME, LockMode::Exclusive).unwrap());
            drop(next.lock(&NAME, LockMode::Exclusive).unwrap());
        }
        let held = dir.lock(&NAME, LockMode::Exclusive).unwrap().downcast::<Held>().unwrap();
        let locks = held.locks.upgrade().unwrap();
        let state = locks.state.lock();
        assert_eq!(state.held.len(), 1);
        let is_kept = state.ring.is_none() || state.held.values().all(|(_, slot)| slot.is_some());
        assert!(is_kept, "the slots are used up");
    }
}
