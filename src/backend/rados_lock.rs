//! Locks of `rados`: who has one is the only one whose writes count.
//!
//! A lock of the cluster goes by itself when its holder does not renew it. That
//! alone says nothing about a holder that was only paused: what it has asked
//! for may still be under way. So an exclusive holder leaves its address beside
//! the lock, and takes it away before it gives the lock back. Who finds one has
//! that client put on the cluster's blocklist and waits until it is known: from
//! then on whatever part of the store this client has used refuses the other.
//!
//! The locks of a store share a few objects, each under the name of what it
//! locks, so that nothing is left of a lock that nobody has.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::rados::failed;
use super::{Lock, LockMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::{Condvar, Mutex};
use crate::sys::rados::{Answer, Errno, Pool};
use crate::thread;

/// How long a lock lasts that is not renewed, and how often it is.
const LASTS: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// How long who was cut off stays so: nobody is paused for longer than a year.
const CUT_OFF_S: u32 = 365 * 24 * 3600;

const OBJECTS: u8 = 64;

/// A lock that this process has.
#[derive(Clone, Debug)]
struct Held {
    object: String,
    lock: String,
    cookie: String,
    mode: LockMode,
}

impl Held {
    fn is_shared(&self) -> bool {
        self.mode == LockMode::Shared
    }

    /// The key of the exclusive holder's address.
    fn key(&self) -> String {
        format!("holder {}", self.lock)
    }
}

#[derive(Default)]
struct State {
    held: HashMap<u64, Held>,
    last: u64,
    renews: bool,
}

/// The locks of one store.
pub(super) struct Locks {
    pool: Arc<Pool>,
    own: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// Gives the lock back when it is dropped.
struct Guard {
    locks: Arc<Locks>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.locks.give_back(self.number);
    }
}

impl Locks {
    pub(super) fn new(pool: Arc<Pool>, own: String) -> Arc<Locks> {
        Arc::new(Locks { pool, own, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(super) fn take(self: &Arc<Locks>, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        let lock = name.to_string();
        let held = Held {
            object: object_of(&lock),
            lock,
            cookie: clock::random_id()?.to_string(),
            mode,
        };
        let told = |errno| failed("lock", errno).on(name);
        self.pool.lock(&held.object, &held.lock, &held.cookie, held.is_shared(), LASTS).map_err(|errno| {
            match errno {
                Errno(libc::EBUSY | libc::EEXIST) => Error::new(ErrorKind::Busy, "lock").on(name),
                other => told(other),
            }
        })?;
        if mode == LockMode::Exclusive {
            if let Err(errno) = self.cut_off_last(&held) {
                self.unlock(&held);
                return Err(match errno {
                    // It was paused here for so long that another one has it.
                    Errno(libc::ENOENT | libc::ECANCELED | libc::EBUSY | libc::EEXIST) => {
                        Error::new(ErrorKind::Busy, "lock").on(name)
                    }
                    other => told(other),
                });
            }
        }
        let number = self.keep(held)?;
        Ok(Box::new(Guard { locks: Arc::clone(self), number }))
    }

    /// Whoever had the lock last and has not given it back writes no more. One
    /// that was paused in here may have lost the lock: the address it has read
    /// must be older than that, or it would cut off who has the lock by now.
    fn cut_off_last(&self, held: &Held) -> Answer<()> {
        let last = self.pool.value(&held.object, &held.key())?.unwrap_or_default();
        if !last.is_empty() && last != self.own.as_bytes() {
            self.pool.renew(&held.object, &held.lock, &held.cookie, held.is_shared(), LASTS)?;
            let address = String::from_utf8_lossy(&last);
            log::warn!("'{}': its last holder, {address}, is cut off from the cluster", held.lock);
            self.pool.client().blocklist(&address, CUT_OFF_S)?;
            self.pool.client().wait_for_map()?;
        }
        let op = self.pool.op().value_is(&held.key(), &last).set(&held.key(), self.own.as_bytes());
        self.pool.write(&held.object, &op)
    }

    /// See `Backend::cut_off`.
    pub(super) fn cut_off(&self, name: &ObjectName) -> Result<()> {
        let lock = name.to_string();
        let object = object_of(&lock);
        let told = |errno| failed("cut off the holder", errno).on(name);
        let lockers = match self.pool.lockers(&object, &lock) {
            Err(Errno(libc::ENOENT)) => return Ok(()),
            other => other.map_err(told)?,
        };
        for locker in lockers {
            log::warn!("'{lock}': its holder, {}, is cut off from the cluster", locker.address);
            self.pool.client().blocklist(&locker.address, CUT_OFF_S).map_err(told)?;
            self.pool.client().wait_for_map().map_err(told)?;
            match self.pool.break_lock(&object, &lock, &locker) {
                Ok(()) | Err(Errno(libc::ENOENT)) => {}
                Err(errno) => return Err(told(errno)),
            }
        }
        Ok(())
    }

    fn keep(self: &Arc<Locks>, held: Held) -> Result<u64> {
        let mut state = self.state.lock();
        state.last += 1;
        let number = state.last;
        if !state.renews {
            let locks = Arc::downgrade(self);
            if let Err(error) = thread::spawn("arch-rados-lock", move || renew(&locks)) {
                drop(state);
                self.release(&held);
                return Err(error);
            }
            state.renews = true;
        }
        state.held.insert(number, held);
        Ok(number)
    }

    fn give_back(&self, number: u64) {
        let held = self.state.lock().held.remove(&number);
        self.changed.notify_all();
        if let Some(held) = held {
            self.release(&held);
        }
    }

    fn release(&self, held: &Held) {
        if held.mode == LockMode::Exclusive {
            // Another one's address stays.
            let op = self.pool.op().value_is(&held.key(), self.own.as_bytes()).unset(&held.key());
            if let Err(Errno(errno)) = self.pool.write(&held.object, &op) {
                // The next holder cuts this process off, or one has already.
                let error = std::io::Error::from_raw_os_error(errno);
                log::debug!("'{}' could not be given back: {error}", held.lock);
            }
        }
        self.unlock(held);
    }

    fn unlock(&self, held: &Held) {
        match self.pool.unlock(&held.object, &held.lock, &held.cookie) {
            Ok(()) | Err(Errno(libc::ENOENT)) => {}
            Err(Errno(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno);
                log::debug!("the lock of '{}' goes by itself: {error}", held.lock);
            }
        }
    }

    /// The locks of now, each renewed.
    fn renew_all(&self) {
        let all: Vec<(u64, Held)> =
            self.state.lock().held.iter().map(|(number, held)| (*number, held.clone())).collect();
        for (number, held) in all {
            let renewed =
                self.pool.renew(&held.object, &held.lock, &held.cookie, held.is_shared(), LASTS);
            let is_held = || self.state.lock().held.contains_key(&number);
            match renewed {
                Ok(()) if !is_held() => self.unlock(&held),
                Ok(()) => {}
                // It ran out while the cluster was away. If nobody has taken it
                // since, it is as if it had not.
                Err(Errno(libc::ENOENT)) if is_held() => {
                    let again =
                        self.pool.lock(&held.object, &held.lock, &held.cookie, held.is_shared(), LASTS);
                    if let Err(Errno(errno)) = again {
                        let error = std::io::Error::from_raw_os_error(errno);
                        log::warn!("the lock of '{}' is lost: {error}", held.lock);
                    }
                }
                Err(Errno(errno)) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    log::warn!("the lock of '{}' could not be renewed: {error}", held.lock);
                }
            }
        }
    }
}

/// Ends when nobody has the store any more.
fn renew(locks: &Weak<Locks>) {
    loop {
        let Some(locks) = locks.upgrade() else { return };
        let until = clock::now() + RENEW_EVERY;
        {
            let mut state = locks.state.lock();
            while clock::now() < until && !state.held.is_empty() {
                locks.changed.wait_until(&mut state, until);
            }
            if state.held.is_empty() {
                state.renews = false;
                return;
            }
        }
        locks.renew_all();
    }
}

/// Which object has a lock.
fn object_of(lock: &str) -> String {
    let hash = blake3::hash(lock.as_bytes());
    format!("locks.{:02x}", hash.as_bytes()[0] % OBJECTS)
}
