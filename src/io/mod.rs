//! Requests and threads. A `Device` is an open volume that serves any number
//! of requests at once: each is split at block borders, goes the shortest way
//! there is, and is completed exactly once, never on the submitting thread.
//!
//! Ways, shortest first: served in the caller's thread (`try_read`); handed
//! to the backend's data path (io_uring) in the caller's thread; appended to
//! the log by the log's thread, together with what else is waiting; carried
//! out by a worker, where something may block.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::volume as names;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{self, Planted};
use crate::log::Later;
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::Store;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::sys::iobuf::IoBuf;
use crate::volume::{Driver, Listed, Mode, OpenOptions, Status, Volume};

mod background;
mod flushes;
mod following;
mod gate;
mod ranges;
mod read;
mod request;
mod room;
mod workers;
mod write;
mod written;

pub use following::Following;
pub use request::{Completion, Operation, Request, Served};
pub use written::Range;

use flushes::Flushes;
use gate::Gate;
use ranges::Ranges;
use request::Once;
use room::{Parked, Room};
use workers::{Serving, Workers};
use written::Written;

/// Threads for what may block.
const WORKER_COUNT: usize = 4;
/// Failed requests are told no more often.
const FAILURES_EVERY_MS: u64 = 10_000;
/// A request that takes longer is told to the log.
const WAITED_MS: u64 = 5_000;

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    pub volume: VolumeName,
    pub snapshot: Option<SnapshotName>,
    pub open: OpenOptions,
    /// What `activate` makes of an inactive device.
    pub active: Mode,
    /// Flushes return at once: a crash may lose anything.
    pub no_flush: bool,
}

/// An open volume with its threads.
#[derive(Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    options: Mutex<DeviceOptions>,
    volume: Serving,
    /// Read without a lock: asked for on every request.
    size_bytes: AtomicU64,
    ranges: Ranges,
    workers: Arc<Workers>,
    log_thread: Arc<Workers>,
    /// Runs a job on the log's thread.
    later: Later,
    driver: Driver,
    flushes: Flushes,
    background: background::Background,
    gate: Gate,
    served: Served,
    /// For requests that found none, if they may wait.
    room: Option<Room>,
    /// For whoever copies the volume elsewhere.
    written: Written,
    /// Held while snapshots are taken or removed, or another volume is served.
    managing: Mutex<()>,
    snapshot_changes: AtomicU64,
    /// Milliseconds since the device was opened, of the last request.
    last_request_ms: AtomicU64,
    /// When the log was told of one, in ms since it was opened; 0: never.
    last_failure_ms: AtomicU64,
    /// When the log was last told of a long wait.
    last_wait_ms: AtomicU64,
    opened: std::time::Instant,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({})", self.volume.read().name)
    }
}

fn open_volume(store: &Store, options: &DeviceOptions) -> Result<Arc<Volume>> {
    match &options.snapshot {
        Some(snapshot) => Volume::open_snapshot(store, &options.volume, snapshot),
        None => Volume::open(store, &options.volume, &options.open),
    }
}

/// Opens the very volume that was open before: it may have another name now,
/// and another one may have its name.
fn reopen(store: &Store, options: &mut DeviceOptions, id: Id) -> Result<Arc<Volume>> {
    options.volume = names::name_of(store, &options.volume, id)?;
    Volume::open_id(store, options.volume.as_str(), id, &options.open)
}

/// Runs jobs on this thread while it is there. Does not keep it: the volume
/// that it serves has this.
fn on(thread: &Arc<Workers>) -> Later {
    let thread = Arc::downgrade(thread);
    Arc::new(move |job| match thread.upgrade() {
        Some(thread) => thread.run_or_here(job),
        None => job(),
    })
}

/// Has the log driven on its thread.
fn driver(later: &Later) -> Driver {
    let later = Arc::clone(later);
    Arc::new(move |volume| {
        let then = Arc::clone(&later);
        later(Box::new(move || match volume.log_path() {
            Some(path) => volume.drive_log_native(path, &then),
            None => volume.drive_log(),
        }));
    })
}

impl Device {
    /// Opens a volume or snapshot and starts its threads.
    pub fn open(store: Store, options: DeviceOptions) -> Result<Device> {
        let volume = open_volume(&store, &options)?;
        match Device::of(&volume, options) {
            Ok(device) => Ok(device),
            Err(error) => {
                volume.close()?;
                Err(error)
            }
        }
    }

    /// Serves a volume that is open. `options` say how, and how it is opened
    /// again.
    pub fn of(volume: &Arc<Volume>, options: DeviceOptions) -> Result<Device> {
        volume.find_paths();
        let serving: Serving = Arc::new(RwLock::new(Arc::clone(volume)));
        let log_thread = Workers::start("arch-log", 1, &serving)?;
        let later = on(&log_thread);
        let inner = Arc::new(Inner {
            driver: driver(&later),
            later,
            size_bytes: AtomicU64::new(volume.size_bytes()),
            volume: Arc::clone(&serving),
            ranges: Ranges::default(),
            workers: Workers::start("arch-worker", WORKER_COUNT, &serving)?,
            log_thread,
            flushes: Flushes::start(options.no_flush, &serving)?,
            background: background::Background::default(),
            gate: Gate::default(),
            served: Served::default(),
            room: volume.store.waits_for_room.then(Room::default),
            written: Written::default(),
            managing: Mutex::new(()),
            snapshot_changes: AtomicU64::new(0),
            last_request_ms: AtomicU64::new(0),
            last_failure_ms: AtomicU64::new(0),
            last_wait_ms: AtomicU64::new(0),
            opened: clock::now(),
            options: Mutex::new(options),
        });
        volume.set_driver(Arc::clone(&inner.driver));
        inner.background.start(&inner)?;
        Ok(Device { inner })
    }

    pub fn volume(&self) -> Arc<Volume> {
        self.inner.volume()
    }

    /// The size now.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes.load(Ordering::Acquire)
    }

    /// What memory and offsets should be multiples of to avoid a copy.
    pub fn alignment_bytes(&self) -> usize {
        self.inner.volume().data_path().map_or(1, |path| path.alignment_bytes())
    }

    /// Starts a request; `done` runs once, on a thread of this device.
    pub fn submit(&self, request: Request, done: Completion) {
        self.inner.served.count(&request.operation);
        let held_back = match &request.operation {
            Operation::Write { buf, .. } if self.inner.written.is_slow() => buf.len() as u64,
            Operation::Zero { .. } if self.inner.written.is_slow() => 1,
            _ => return self.inner.start(request, done),
        };
        let inner = Arc::clone(&self.inner);
        self.inner.written.hold_back(held_back, Box::new(move || inner.start(request, done)));
    }

    /// Completes a request that could not even be submitted.
    pub fn fail_later(&self, error: Error, done: Completion) {
        let done = self.inner.telling(done);
        self.inner.admit(done, move |inner, done| inner.complete_later(done, Err(error)));
    }

    /// Reads now if nothing has to be waited for; `None` if it has.
    pub fn try_read(&self, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        let read = self.inner.try_read(offset_bytes, buf);
        if read.is_some() {
            self.inner.served.reads.fetch_add(1, Ordering::Relaxed);
        }
        read
    }

    /// Requests since it was opened.
    pub fn served(&self) -> &Served {
        &self.inner.served
    }

    /// Since it was opened.
    pub fn age(&self) -> Duration {
        self.inner.age()
    }

    /// Where others can ask about it: told with every lease that it takes.
    pub fn set_socket(&self, path: Option<String>) {
        self.inner.options.lock().open.lease.socket = path;
    }

    pub fn block_status(&self, offset_bytes: u64, bytes: u64) -> Result<(Status, u64)> {
        self.volume().block_status(offset_bytes, bytes)
    }

    pub fn snapshot(&self, name: &SnapshotName) -> Result<()> {
        self.change_snapshots(|volume| volume.snapshot(name))?;
        self.inner.background.wake();
        Ok(())
    }

    /// Makes the content that of a snapshot. Waits for the requests in flight;
    /// those that come meanwhile begin after it.
    pub fn rollback(&self, name: &SnapshotName) -> Result<()> {
        let _managing = self.inner.managing.lock();
        if self.inner.written.is_followed() {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("volume '{}' is being moved: roll it back afterwards", self.volume().name),
            ));
        }
        let _shut = self.inner.gate.shut();
        let volume = self.volume();
        volume.rollback(name)?;
        self.inner.size_bytes.store(volume.size_bytes(), Ordering::Release);
        self.inner.background.wake();
        Ok(())
    }

    pub fn remove_snapshot(&self, name: &SnapshotName) -> Result<()> {
        self.change_snapshots(|volume| volume.remove_snapshot(name))
    }

    /// Whoever follows looks at the number first and at the snapshots then: it
    /// changes after them, and also if nobody knows whether they did.
    fn change_snapshots(&self, change: impl FnOnce(&Arc<Volume>) -> Result<()>) -> Result<()> {
        let _managing = self.inner.managing.lock();
        let changed = change(&self.volume());
        self.inner.snapshot_changes.fetch_add(1, Ordering::AcqRel);
        changed
    }

    pub fn snapshots(&self) -> Result<Vec<Listed>> {
        self.volume().snapshots()
    }

    /// Drains, flushes and gives the lease up; reads go on to work.
    pub fn inactivate(&self) -> Result<()> {
        if self.volume().mode() == Mode::Inactive || self.inner.options.lock().snapshot.is_some() {
            return Ok(());
        }
        self.change_mode(Mode::Inactive)
    }

    /// Takes the lease and reads the volume's state anew. On a read-only
    /// volume only the latter. A snapshot never changes.
    pub fn activate(&self) -> Result<()> {
        if self.inner.options.lock().snapshot.is_some() {
            return Ok(());
        }
        match self.volume().mode() {
            Mode::Writable => Ok(()),
            Mode::Inactive => {
                let active = self.inner.options.lock().active;
                self.change_mode(active)
            }
            Mode::ReadOnly => self.change_mode(Mode::ReadOnly),
        }
    }

    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let wanted = if read_only { Mode::ReadOnly } else { Mode::Writable };
        let is_snapshot = self.inner.options.lock().snapshot.is_some();
        if is_snapshot && !read_only {
            return Err(Error::sentence(
                ErrorKind::Denied,
                "a snapshot cannot be written to: make a clone of it".to_owned(),
            ));
        }
        match self.volume().mode() {
            // It becomes what is wanted when it is activated.
            Mode::Inactive => {}
            mode if mode == wanted => {}
            _ => self.change_mode(wanted)?,
        }
        // Not before: what was refused must not come about later.
        self.inner.options.lock().active = wanted;
        Ok(())
    }

    /// Ends the use of the volume in one mode and opens it in another. If
    /// that fails, the old mode is tried again. What is submitted meanwhile
    /// waits for that.
    fn change_mode(&self, mode: Mode) -> Result<()> {
        self.inner.written.refuse();
        let _managing = self.inner.managing.lock();
        let _shut = (!fault::on(Planted::HandedOverOpen)).then(|| self.inner.gate.shut());
        let old = self.volume();
        let mut options = self.inner.options.lock();
        let before = options.open.mode;
        old.close()?;
        // A shared lease would be in the way of an exclusive one.
        let name = old.name.clone();
        old.release_shared();
        options.open.mode = mode;
        let opened = match reopen(&old.store, &mut options, old.id) {
            Ok(opened) => opened,
            Err(error) => {
                options.open.mode = before;
                ::log::warn!("volume '{name}' stays as it was: {}", error.full());
                let back = reopen(&old.store, &mut options, old.id)?;
                self.inner.adopt(back);
                return Err(error);
            }
        };
        self.inner.adopt(opened);
        Ok(())
    }

    /// Flushes, gives the lease back and ends the threads. Returns after the
    /// last completion has returned; nothing may be submitted any more.
    pub fn close(&self) -> Result<()> {
        let inner = &self.inner;
        inner.written.refuse();
        for (done, why) in inner.room.iter().flat_map(Room::close) {
            done(Err(inner.note_failure(why)));
        }
        if !fault::on(Planted::ClosedWithoutDrain) {
            drop(inner.gate.shut());
        }
        inner.background.stop();
        inner.flushes.stop();
        let result = self.volume().close();
        inner.workers.stop();
        inner.log_thread.stop();
        result
    }
}

impl Inner {
    fn volume(&self) -> Arc<Volume> {
        Arc::clone(&self.volume.read())
    }

    fn adopt(&self, volume: Arc<Volume>) {
        volume.find_paths();
        volume.set_driver(Arc::clone(&self.driver));
        self.size_bytes.store(volume.size_bytes(), Ordering::Release);
        *self.volume.write() = volume;
    }

    fn start(self: &Arc<Self>, request: Request, done: Completion) {
        let done = match self.room.is_some() && request.operation.may_need_room() {
            true => self.or_wait_for_room(request.clone(), done),
            false => self.telling(done),
        };
        self.admit(done, move |inner, done| match request.operation {
            Operation::Read { buf } => inner.read(request.offset_bytes, buf, done),
            Operation::Write { buf, fua } => inner.write(request.offset_bytes, buf, fua, done),
            Operation::Zero { bytes, fua } => inner.zero(request.offset_bytes, bytes, fua, done),
            Operation::Flush => inner.flushes.flush(inner.volume(), done),
            Operation::Resize { shrink } => inner.resize(request.offset_bytes, shrink, done),
        });
    }

    /// Failures are told.
    fn telling(self: &Arc<Self>, done: Completion) -> Completion {
        let inner = Arc::clone(self);
        Box::new(move |result| done(result.map_err(|error| inner.note_failure(error))))
    }

    fn or_wait_for_room(self: &Arc<Self>, request: Request, done: Completion) -> Completion {
        let inner = Arc::clone(self);
        Box::new(move |result| match (result, &inner.room) {
            (Err(why), Some(room)) if why.is(ErrorKind::NoSpace) => {
                let said = why.full();
                match room.park(request, done, why, clock::now()) {
                    Parked::Waits { is_first: true } => inner.tell_of_room(&format!(
                        "is full: what needs room waits until there is some ({said})"
                    )),
                    Parked::Waits { is_first: false } => {}
                    Parked::Refused(done, why) => done(Err(inner.note_failure(why))),
                }
            }
            (result, _) => done(result.map_err(|error| inner.note_failure(error))),
        })
    }

    /// What found no room tries again, now and then.
    fn ask_for_room_again(self: &Arc<Self>) {
        let Some(room) = &self.room else { return };
        if let Some(waited) = room.try_again(clock::now(), |request, done| self.start(request, done)) {
            self.tell_of_room(&format!("has room again, after {} s", waited.as_secs()));
        }
    }

    fn tell_of_room(&self, words: &str) {
        let volume = self.volume();
        ::log::warn!("volume '{}': store '{}' {words}", volume.name, volume.store.name);
    }

    /// Starts a request, which counts until its completion has returned.
    fn admit(
        self: &Arc<Self>,
        done: Completion,
        start: impl FnOnce(&Arc<Inner>, Once) + Send + 'static,
    ) {
        if self.gate.enter() {
            return start(self, self.counted(done));
        }
        let inner = Arc::clone(self);
        self.gate.wait_outside(Box::new(move || start(&inner, inner.counted(done))));
    }

    fn counted(self: &Arc<Self>, done: Completion) -> Once {
        let now = self.age().as_millis() as u64;
        self.last_request_ms.store(now, Ordering::Relaxed);
        let inner = Arc::clone(self);
        Once::new(Box::new(move |result| {
            inner.note_wait(now);
            done(result);
            inner.gate.leave();
        }))
    }

    /// Tells the log of a store that was away: a guest sees a disk that hangs.
    fn note_wait(&self, asked_ms: u64) {
        let now = self.age().as_millis() as u64;
        let waited_ms = now.saturating_sub(asked_ms);
        if waited_ms < WAITED_MS {
            return;
        }
        let last = self.last_wait_ms.swap(now, Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) > FAILURES_EVERY_MS {
            let volume = self.volume();
            ::log::warn!(
                "volume '{}': store '{}' was slow or away: a request waited for {} s",
                volume.name,
                volume.store.name,
                waited_ms / 1000
            );
        }
    }

    /// Says whose failure it is, and tells the log: a guest sees a number. Not
    /// of every one: a volume that has stopped fails all that it is asked.
    fn note_failure(&self, error: Error) -> Error {
        self.served.failures.fetch_add(1, Ordering::Relaxed);
        let error = error.of_volume(&self.volume().name);
        let now = self.age().as_millis() as u64;
        let last = self.last_failure_ms.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) > FAILURES_EVERY_MS;
        let is_theirs = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Busy | ErrorKind::Denied);
        if is_due && !is_theirs {
            self.last_failure_ms.store(now.max(1), Ordering::Relaxed);
            ::log::warn!("a request failed: {}", error.full());
        }
        error
    }

    /// Since the device was opened.
    fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.opened)
    }

    /// For how long nothing was asked for.
    fn idle_for(&self) -> Duration {
        let last = self.last_request_ms.load(Ordering::Relaxed);
        self.age().saturating_sub(Duration::from_millis(last))
    }

    /// Completes on a worker: never on the submitting thread.
    fn complete_later(&self, done: Once, result: Result<()>) {
        self.workers.run(move || done.complete(result));
    }

    fn resize(self: &Arc<Self>, size_bytes: u64, shrink: bool, done: Once) {
        let inner = Arc::clone(self);
        let from = size_bytes.min(self.size_bytes.load(Ordering::Acquire));
        // Writes beyond the new end finish first, and none begins before.
        self.with_range(from, u64::MAX, move |held| {
            let worker = Arc::clone(&inner);
            inner.workers.run(move || {
                let volume = worker.volume();
                let result = volume.resize(size_bytes, shrink);
                worker.written.note(from, volume.size_bytes().max(from));
                worker.size_bytes.store(volume.size_bytes(), Ordering::Release);
                worker.leave(held);
                done.complete(result);
            });
        });
    }

    fn zero(self: &Arc<Self>, offset_bytes: u64, bytes: u64, fua: bool, done: Once) {
        let inner = Arc::clone(self);
        let end = offset_bytes.saturating_add(bytes);
        self.with_range(offset_bytes, end, move |held| {
            let worker = Arc::clone(&inner);
            inner.workers.run(move || {
                let volume = worker.volume();
                let result = volume.write_zeroes(offset_bytes, bytes);
                worker.written.note(offset_bytes, end);
                worker.leave(held);
                match result {
                    Ok(()) if fua => worker.flushes.flush(volume, done),
                    result => done.complete(result),
                }
            });
        });
    }

    fn with_range(&self, start: u64, end: u64, run: impl FnOnce(ranges::Held) + Send + 'static) {
        let start = self.ranges.enter(start, end, |held| Box::new(move || run(held)));
        if let Some(start) = start {
            start();
        }
    }

    fn leave(&self, held: ranges::Held) {
        for start in self.ranges.leave(held) {
            start();
        }
    }
}

#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;
