//! An open volume: the write rule, flush, settle, snapshot, resize.
//!
//! A `Volume` has no threads of its own. Reads and writes are planned under
//! one short lock and carried out without it; `work` does a unit of background
//! work when it is called. `io` drives all this with threads; tests and the
//! command call it directly.
//!
//! Locks, in the order in which they are taken: `maintaining` (settle,
//! checkpoint, publish, snapshot, resize, rollback: one at a time), `flushing`
//! (a flush, or a cut), `state`. None is held while calling out.

use std::sync::{Arc, OnceLock};

use crate::backend::DataPath;
use crate::catalog::lease::{Destination, Lease, SharedLease};
use crate::error::{Error, ErrorKind, Result};
use crate::log::Log;
use crate::name::Id;
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::sys::iobuf::IoBuf;

mod checkpoint;
mod delta;
mod flush;
mod moving;
mod open;
mod pace;
mod pieces;
mod read;
mod resize;
mod settle;
mod snapshot;
mod state;
mod status;
mod whole;
mod write;
mod zero;

pub use open::{find_snapshot, OpenOptions};
pub use read::{run_steps, From, Step};
pub use snapshot::{Listed, PENDING_MAX};
pub use state::State;
pub use status::{Status, Usage};
pub use write::{Begun, Driver, NotNow, Way};

/// Share of the log's limit from which pieces are settled although the disk
/// may be busy.
const SETTLE_FROM: f64 = 0.65;

/// A log of up to this is settled when its volume is closed, so that the next
/// open finds none, and of up to this its pending snapshots are published.
const CLOSE_EMPTIES_BYTES: u64 = 4 << 20;
const CLOSE_SETTLES_BYTES: u64 = 64 << 20;

/// What may be done with an open volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Writable,
    ReadOnly,
    /// Waiting to be activated: reads work, all else is `Busy`.
    Inactive,
}

/// An open volume or snapshot.
pub struct Volume {
    pub store: Store,
    /// For people: the name it was opened by.
    pub name: String,
    pub id: Id,
    pub block_bytes: u64,
    mode: Mode,
    log_limit_bytes: u64,
    state: Mutex<State>,
    log: Arc<Log>,
    driver: Mutex<Option<Driver>>,
    data_path: OnceLock<Option<Arc<dyn DataPath>>>,
    log_path: OnceLock<Option<Arc<dyn DataPath>>>,
    /// Since the log was last trimmed.
    settled_bytes: AtomicU64,
    lease: Mutex<Option<Lease>>,
    shared: Mutex<Option<SharedLease>>,
    maintaining: Mutex<()>,
    flushing: Mutex<()>,
    /// Signalled when no write is in flight to an own object.
    drained: Condvar,
    /// The lease has been given back: nothing may be served any more.
    is_closed: AtomicBool,
    /// An operation's outcome is unknown: the next holder must not go on in
    /// this epoch.
    is_uncertain: AtomicBool,
    is_poisoned: AtomicBool,
    poisoned: Mutex<Option<Error>>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A part of a request: a range of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub block: u64,
    pub start: u32,
    pub end: u32,
    /// Where it begins in the request.
    pub at: u64,
}

/// Splits a range at block borders.
pub fn parts(block_bytes: u64, offset_bytes: u64, bytes: u64) -> impl Iterator<Item = Part> {
    let end_bytes = offset_bytes.saturating_add(bytes);
    let mut at = offset_bytes;
    std::iter::from_fn(move || {
        if at >= end_bytes {
            return None;
        }
        let (block, start) = (at / block_bytes, at % block_bytes);
        let length = (block_bytes - start).min(end_bytes - at);
        let part = Part { block, start: start as u32, end: (start + length) as u32, at: at - offset_bytes };
        at += length;
        Some(part)
    })
}

impl Volume {
    pub fn size_bytes(&self) -> u64 {
        self.state.lock().size_bytes
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// False if it was ever written to or began as a clone.
    pub fn is_all_zero(&self) -> bool {
        let state = self.state.lock();
        !state.written && state.head.root.is_zero() && state.head.parent.is_none()
    }

    /// Own blocks that the log does not know of yet.
    pub fn unrecorded_count(&self) -> usize {
        self.state.lock().unrecorded.len()
    }

    /// The next log segment should be made ahead of need: by `work`.
    pub fn wants_segment(&self) -> bool {
        self.log.wants_segment()
    }

    /// Makes the first log segment ahead of need.
    pub fn prepare_log(&self) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        // A segment made after the lease was given back would look like
        // another holder's to the next one.
        self.check_writable()?;
        self.log.prepare().map(drop)
    }

    fn parts(&self, offset_bytes: u64, bytes: u64) -> impl Iterator<Item = Part> {
        parts(self.block_bytes, offset_bytes, bytes)
    }

    /// Error: `Invalid` beyond the end.
    pub fn check_range(&self, offset_bytes: u64, bytes: u64) -> Result<()> {
        let size_bytes = self.size_bytes();
        match offset_bytes.checked_add(bytes) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(Error::sentence(
                ErrorKind::Invalid,
                format!(
                    "{bytes} bytes at {offset_bytes} lie beyond the end of volume '{}' ({size_bytes} bytes)",
                    self.name
                ),
            )),
        }
    }

    /// Reads on this thread.
    pub fn read_at(&self, offset_bytes: u64, data: &mut [u8]) -> Result<()> {
        let buf = IoBuf::alloc(data.len());
        self.check_range(offset_bytes, data.len() as u64)?;
        for part in self.parts(offset_bytes, data.len() as u64) {
            let slice = buf.slice(part.at as usize, (part.end - part.start) as usize);
            self.read_block(part.block, part.start, &slice).map_err(|error| error.of_volume(&self.name))?;
        }
        buf.copy_to(0, data);
        Ok(())
    }

    /// Writes on this thread. The caller sees to it that no other request
    /// that overlaps is in flight.
    pub fn write_at(self: &Arc<Self>, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.check_range(offset_bytes, data.len() as u64)?;
        let buf = IoBuf::copy_of(data);
        for part in self.parts(offset_bytes, data.len() as u64) {
            let slice = buf.slice(part.at as usize, (part.end - part.start) as usize);
            self.write_block(part.block, part.start, &slice).map_err(|error| error.of_volume(&self.name))?;
        }
        Ok(())
    }

    /// Fails every request from now on; other volumes are not touched.
    pub fn poison(&self, error: Error) -> Error {
        ::log::error!("volume '{}' stops: {}", self.name, error.full());
        let copy = error.duplicate();
        self.poisoned.lock().get_or_insert(error);
        self.is_poisoned.store(true, Ordering::Release);
        copy
    }

    /// Remembers an outcome that nobody knows.
    fn note_uncertain(&self, result: &Result<()>) {
        if result.as_ref().is_err_and(|error| error.is(ErrorKind::Unknown)) {
            self.is_uncertain.store(true, Ordering::Release);
        }
    }

    /// A full store has changed nothing; after any other failed append
    /// nobody knows what the log says.
    fn poison_unless_full(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::NoSpace | ErrorKind::Unavailable => error,
            _ => self.poison(error),
        }
    }

    /// Error: the first failure, if there was one.
    pub fn check_alive(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("volume '{}' has been handed over", self.name),
            ));
        }
        if !self.is_poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        let poisoned = self.poisoned.lock();
        let cause = poisoned.as_ref().map_or_else(String::new, Error::full);
        Err(Error::sentence(
            ErrorKind::Internal,
            format!("volume '{}' has stopped after an earlier failure: {cause}", self.name),
        ))
    }

    fn check_writable(&self) -> Result<()> {
        self.check_alive()?;
        match self.mode {
            Mode::Writable => Ok(()),
            Mode::ReadOnly => Err(Error::sentence(
                ErrorKind::Denied,
                format!("'{}' is open read-only", self.name),
            )),
            Mode::Inactive => Err(Error::sentence(
                ErrorKind::Busy,
                format!("volume '{}' is not active here", self.name),
            )),
        }
    }

    fn lease_confirm(&self) -> Result<()> {
        if crate::fault::on(crate::fault::Planted::LeaseNotAsked) {
            return Ok(());
        }
        let late = match self.lease.lock().as_ref() {
            Some(lease) if lease.confirm().is_err() => lease.confirmation(),
            _ => return Ok(()),
        };
        // Others may look at the lease while this waits.
        late.wait().map_err(|error| self.poison(error))
    }

    fn is_log_full(&self, state: &State, more_bytes: u64) -> bool {
        if crate::fault::on(crate::fault::Planted::LogUnbounded) {
            return false;
        }
        self.log.bytes_since(state.head.log.position) + more_bytes > self.log_limit_bytes
    }

    /// True if writers must be slowed down.
    fn is_log_busy(&self, state: &State) -> bool {
        self.log_pace_in(state).is_finite()
    }

    /// How full the log is, of 1.
    pub fn log_share(&self) -> f64 {
        let position = self.state.lock().head.log.position;
        self.log.bytes_since(position) as f64 / self.log_limit_bytes as f64
    }

    /// Flushes, releases the lease and ends the use of this volume. Nothing
    /// may be in flight. A short log is settled first, so that the next open
    /// finds none, and no segment of it is left. What a rollback has left is
    /// deleted last, when the volume is free for others already.
    pub fn close(self: &Arc<Self>) -> Result<()> {
        if self.mode != Mode::Writable {
            return Ok(());
        }
        let mut result = self.close_writable();
        {
            let _maintaining = self.maintaining.lock();
            self.is_closed.store(true, Ordering::Release);
        }
        // What a failed write left in an own object must never be taken for
        // zeroes: the next holder does not know of it, and needs a new epoch.
        let tainted = !self.state.lock().tainted.is_empty();
        let certain = !tainted && !self.is_uncertain.load(Ordering::Acquire);
        let clean = result.is_ok() && certain && !self.is_poisoned.load(Ordering::Acquire);
        if let Some(lease) = self.lease.lock().take() {
            result = result.and(lease.release(clean));
        }
        while self.log.delete_abandoned() {}
        result.map_err(|error| error.of_volume(&self.name))
    }

    fn close_writable(self: &Arc<Self>) -> Result<()> {
        self.check_alive()?;
        self.flush()?;
        let _maintaining = self.maintaining.lock();
        let behind = self.log.bytes_since(self.state.lock().head.log.position);
        if behind > CLOSE_SETTLES_BYTES {
            return Ok(());
        }
        self.publish_all_locked()?;
        if behind <= CLOSE_EMPTIES_BYTES && self.is_little_to_make() {
            while self.settle_batch(&mut |_| {})? > 0 {}
            let unchanged = behind == 0 && self.state.lock().live().deltas.is_empty();
            self.flush()?;
            return self.close_log(unchanged);
        }
        Ok(())
    }

    /// Commits a last head, behind all of the log. One that has nothing to say
    /// but that a number of the log is used is not worth a failure.
    fn close_log(self: &Arc<Self>, unchanged: bool) -> Result<()> {
        if unchanged && !self.log.has_spare() {
            return Ok(());
        }
        self.log.end();
        match self.checkpoint() {
            Err(error) if unchanged && !self.is_poisoned.load(Ordering::Acquire) => {
                ::log::debug!("a log segment of '{}' is left over: {}", self.name, error.full());
                Ok(())
            }
            other => other,
        }
    }

    /// Finds the native ways there are, before several threads ask for them.
    pub fn find_paths(&self) {
        let (_blocks, _log) = (self.data_path(), self.log_path());
    }

    /// The native way to the blocks, if there is one.
    pub fn data_path(&self) -> Option<&Arc<dyn DataPath>> {
        self.data_path.get_or_init(|| self.store.blocks().data_path()).as_ref()
    }

    /// The native way for its log, where that goes past the page cache.
    pub fn log_path(&self) -> Option<&Arc<dyn DataPath>> {
        let find = || self.store.log().data_path().filter(|path| path.alignment_bytes() > 1);
        self.log_path.get_or_init(find).as_ref()
    }

    /// Ends the use of this volume in this store, for everybody: from here on
    /// it is where `to` says. Nothing may be in flight. After `NoSpace` or
    /// `Unavailable` it is here as before.
    pub fn move_away(self: &Arc<Self>, to: &Destination) -> Result<()> {
        self.check_writable()?;
        let mut held = self.lease.lock();
        let Some(lease) = held.as_mut() else { return Err(Error::new(ErrorKind::Internal, "move away")) };
        if let Err(error) = lease.move_away(to) {
            return Err(self.poison_unless_full(error));
        }
        self.is_closed.store(true, Ordering::Release);
        drop(held.take());
        Ok(())
    }

    /// The volume has come here from another store, which says so.
    pub fn settle_in(&self) -> Result<()> {
        self.lease.lock().as_mut().map_or(Ok(()), Lease::settle_in)
    }

    /// Waits until nothing is at work on a volume that has been given up.
    pub fn outwait_work(&self) {
        drop(self.maintaining.lock());
    }

    /// Lets writers in, where this handle kept them out.
    pub fn release_shared(&self) {
        drop(self.shared.lock().take());
    }

    /// Gives everything up at once, as a crash would.
    pub fn abandon(self: &Arc<Self>) {
        if let Some(lease) = self.lease.lock().take() {
            lease.abandon();
        }
    }
}

#[cfg(test)]
mod settle_tests;
#[cfg(test)]
mod tests;
