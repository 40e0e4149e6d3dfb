//! The log of a volume: what has changed since its head.
//!
//! Appends are grouped: whoever finds nobody writing becomes the leader and
//! writes what has queued up as one batch after another, so that many small
//! writes in flight cost one write of the store. Completions run in the order
//! of the log, on the leader's thread, with no lock held.
//!
//! An append is in the store, not yet durable, when it completes; `sync`
//! makes it durable. After a write or a sync failed, nothing is known about
//! the rest of the log and every later call fails. The exception is a store
//! that is full: what such a batch may have left is cleared and that made
//! durable, its appends fail, and the next batch is written at its place.
//!
//! The number of a segment is used once in a volume's life: others may keep
//! the segment open, and would go on seeing the old one. The next number
//! follows those that are there and what the head says; so a segment, be it
//! part of the log or not, is deleted only when a durable head names a later
//! one as the first that is needed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::backend::{Backend, DataPath};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{Id, ObjectName};
use crate::sync::{channel, Mutex};
use crate::sys::iobuf::IoBuf;

mod batch;
pub mod format;
mod grow;
pub mod replay;
pub mod segment;
#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod tests;

pub use format::{CutSnapshot, Record};
pub use segment::{Segment, Wanted};

/// Largest data of one piece; larger writes are several pieces.
pub const PIECE_BYTES_MAX: usize = 256 << 10;

/// Sizes of a log, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    pub segment_bytes: u64,
    /// The first segment after an open is small: it is made while somebody
    /// waits.
    pub first_segment_bytes: u64,
    pub batch_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 16 << 20,
            first_segment_bytes: 1 << 20,
            batch_bytes_max: 512 << 10,
        }
    }
}

/// Where a record went.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Of the record.
    pub position: u64,
    pub segment: Arc<Segment>,
    /// Of the record's first data granule in the segment.
    pub data_bytes: u64,
    /// One for each granule of data.
    pub sums: Vec<u64>,
}

pub type AppendDone = Box<dyn FnOnce(Result<Appended>) + Send>;

/// Runs a job where it may block.
pub type Later = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// A record to append, and for a piece the data of `record`'s range.
pub struct Draft {
    pub record: Record,
    pub data: Option<IoBuf>,
    pub done: AppendDone,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Draft({:?})", self.record)
    }
}

/// A piece may get a batch of its own; records without data share one.
fn queued_bytes_of(draft: &Draft) -> u64 {
    match &draft.data {
        Some(data) => data.len() as u64 + format::ALIGN_BYTES,
        None => batch::room_of(draft) as u64,
    }
}

/// The growing end of a volume's log.
#[derive(Debug)]
pub struct Log {
    volume: Id,
    backend: Arc<dyn Backend>,
    options: LogOptions,
    inner: Mutex<Inner>,
    /// Held while the log is synced or a segment is begun.
    rolling: Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Draft>,
    /// About what the queue will take of the log, with what is being written.
    queued_bytes: u64,
    /// Of that, what is being written.
    writing_bytes: u64,
    leading: bool,
    /// Segments that may still be needed, by the position of their start.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Of before a rollback, to be deleted.
    abandoned: Vec<Arc<Segment>>,
    /// Numbers of segments that are not part of the log and that a replay may
    /// still see, to be deleted.
    unused: Vec<u64>,
    current: Option<Current>,
    spare: Option<Segment>,
    /// Where the next batch begins.
    tail: u64,
    /// All records before this have had their completions run.
    completed: u64,
    durable: u64,
    /// The last segment that is part of the log, and its filled length.
    last: (u64, u32),
    /// The highest number that this holder knows to exist.
    last_known: u64,
    failed: Option<Error>,
}

#[derive(Clone, Debug)]
struct Current {
    segment: Arc<Segment>,
    start: u64,
    /// The record that must come first in it, until its first batch is in:
    /// only then does the segment belong to the log.
    opening: Option<Record>,
}

impl Log {
    /// Goes on where a replay ended. Nothing is written before the first
    /// append; that begins a segment of its own.
    pub fn after(
        volume: Id,
        backend: Arc<dyn Backend>,
        options: LogOptions,
        replayed: &replay::Replayed,
    ) -> Log {
        let inner = Inner {
            queue: VecDeque::new(),
            queued_bytes: 0,
            writing_bytes: 0,
            leading: false,
            segments: replayed.segments.clone(),
            abandoned: Vec::new(),
            unused: replayed.unused.clone(),
            current: None,
            spare: None,
            tail: replayed.tail,
            completed: replayed.tail,
            durable: replayed.tail,
            last: replayed.last,
            last_known: replayed.number_max,
            failed: None,
        };
        Log { volume, backend, options, inner: Mutex::new(inner), rolling: Mutex::new(()) }
    }

    /// Queues records; each draft's `done` runs once. True: nobody is
    /// writing, the caller must see to it that `drive` is called.
    #[must_use]
    pub fn append(&self, drafts: impl IntoIterator<Item = Draft>) -> bool {
        let mut inner = self.inner.lock();
        for draft in drafts {
            inner.queued_bytes += queued_bytes_of(&draft);
            inner.queue.push_back(draft);
        }
        !std::mem::replace(&mut inner.leading, true)
    }

    /// Writes batches until the queue is empty. Only the one who was told so
    /// by `append` calls this, or `drive_native`.
    pub fn drive(&self) {
        while let Some(drafts) = self.next_drafts() {
            match batch::make_ready(self, drafts) {
                Ok(mut ready) => {
                    let written = ready.segment.write(ready.offset_bytes, ready.data.as_mut_slice());
                    batch::finish(self, ready.rest, written);
                }
                Err((drafts, error)) => batch::fail_all(drafts, &error),
            }
            self.note_completed();
        }
    }

    /// As `drive`, on a data path and without blocking: each batch is handed
    /// to it when the one before is in, on its thread. What may block is given
    /// to `later`.
    pub fn drive_native(self: &Arc<Self>, path: &Arc<dyn DataPath>, later: &Later) {
        let Some(drafts) = self.next_drafts() else { return };
        let (log, ours, then) = (Arc::clone(self), Arc::clone(path), Arc::clone(later));
        if batch::fits(self, &drafts) {
            return self.hand_over(drafts, path, later);
        }
        later(Box::new(move || log.hand_over(drafts, &ours, &then)));
    }

    fn hand_over(self: &Arc<Self>, drafts: Vec<Draft>, path: &Arc<dyn DataPath>, later: &Later) {
        let (log, ours, then) = (Arc::clone(self), Arc::clone(path), Arc::clone(later));
        let ready = match batch::make_ready(self, drafts) {
            Ok(ready) => ready,
            // Not here: this may be the thread that has submitted one of them.
            Err((drafts, error)) => {
                return later(Box::new(move || {
                    batch::fail_all(drafts, &error);
                    log.note_completed();
                    log.drive_native(&ours, &then);
                }));
            }
        };
        let rest = ready.rest;
        let done = Box::new(move |written| {
            let must_clear = batch::must_clear(&written);
            let later = Arc::clone(&then);
            let go_on = move || {
                batch::finish(&log, rest, written);
                log.note_completed();
                log.drive_native(&ours, &then);
            };
            if must_clear {
                later(Box::new(go_on));
            } else {
                go_on();
            }
        });
        path.submit_write(&ready.segment.name, ready.offset_bytes, ready.data.into_iobuf(), done);
    }

    fn note_completed(&self) {
        let mut inner = self.inner.lock();
        inner.completed = inner.tail;
    }

    /// Appends one record and waits for it.
    pub fn append_now(&self, record: Record) -> Result<Appended> {
        self.append_now_by(record, || self.drive())
    }

    /// As `append_now`; `drive` sees to it that `drive` is called, if nobody
    /// is writing.
    pub fn append_now_by(&self, record: Record, drive: impl FnOnce()) -> Result<Appended> {
        let (sender, receiver) = channel::bounded(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        if self.append([Draft { record, data: None, done }]) {
            drive();
        }
        receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?
    }

    fn next_drafts(&self) -> Option<Vec<Draft>> {
        let mut inner = self.inner.lock();
        // The batch before is in, and counts as part of the log.
        inner.queued_bytes = inner.queued_bytes.saturating_sub(inner.writing_bytes);
        inner.writing_bytes = 0;
        let bytes_max = self.options.batch_bytes_max.min(format::AREA_BYTES_MAX);
        let mut drafts = Vec::new();
        let mut bytes = 0;
        while let Some(draft) = inner.queue.front() {
            let draft_bytes = batch::room_of(draft);
            if !drafts.is_empty() && bytes + draft_bytes > bytes_max {
                break;
            }
            bytes += draft_bytes;
            inner.writing_bytes += queued_bytes_of(draft);
            drafts.extend(inner.queue.pop_front());
        }
        if drafts.is_empty() {
            if fault::on(fault::Planted::LeaderLeavesEarly) {
                drop(inner);
                inner = self.inner.lock();
            }
            inner.leading = false;
            return None;
        }
        Some(drafts)
    }

    /// Everything whose append completed before this call is durable
    /// afterwards. An error is final for this log.
    pub fn sync(&self) -> Result<()> {
        let (segment, tail) = {
            let inner = self.inner.lock();
            if let Some(error) = &inner.failed {
                return Err(error.duplicate());
            }
            if inner.durable >= inner.tail {
                return Ok(());
            }
            let Some(current) = &inner.current else { return Ok(()) };
            // All before it was synced when it was begun.
            if current.opening.is_some() {
                return Ok(());
            }
            (Arc::clone(&current.segment), inner.tail)
        };
        if !fault::on(fault::Planted::LogNotSynced) {
            segment.sync().map_err(|error| self.fail(error))?;
        }
        let mut inner = self.inner.lock();
        inner.durable = inner.durable.max(tail);
        Ok(())
    }

    /// Remembers that the log cannot be trusted any more.
    fn fail(&self, error: Error) -> Error {
        let copy = error.duplicate();
        self.inner.lock().failed.get_or_insert(error);
        copy
    }

    /// Where the next record will go, at the earliest.
    pub fn tail(&self) -> u64 {
        self.inner.lock().tail
    }

    /// Every record before this has had its completion run.
    pub fn completed(&self) -> u64 {
        self.inner.lock().completed
    }

    pub fn durable(&self) -> u64 {
        self.inner.lock().durable
    }

    /// True if something was appended and not synced.
    pub fn is_dirty(&self) -> bool {
        let inner = self.inner.lock();
        inner.durable < inner.tail
    }

    /// Bytes of log from `position` to the end, what is queued included.
    pub fn bytes_since(&self, position: u64) -> u64 {
        let inner = self.inner.lock();
        (inner.tail + inner.queued_bytes).saturating_sub(position)
    }

    /// The number of the first segment that a replay from `position` needs:
    /// an existing one, or the next to be made if that is the end.
    pub fn segment_number_at(&self, position: u64) -> u64 {
        let inner = self.inner.lock();
        let holding = inner.segments.range(..=position).next_back();
        match holding {
            Some((_, segment)) if position < inner.tail => segment.number,
            Some((_, segment))
                if inner.current.as_ref().is_some_and(|c| c.segment.number == segment.number) =>
            {
                segment.number
            }
            _ => inner.spare.as_ref().map_or(inner.last_known + 1, |spare| spare.number),
        }
    }

    /// Deletes segments that lie wholly before `position`, have a number below
    /// `needed` and are read by nobody, and those below `needed` that are not
    /// part of the log. The head that no longer needs them must be durable;
    /// `needed` is the segment that it names: that may have ended exactly at
    /// `position` since.
    pub fn trim(&self, position: u64, needed: u64) -> Result<usize> {
        let unused: Vec<u64>;
        let gone: Vec<Arc<Segment>> = {
            let mut inner = self.inner.lock();
            (unused, inner.unused) = inner.unused.iter().partition(|number| **number < needed);
            let starts: Vec<u64> = inner.segments.keys().copied().collect();
            let mut gone = Vec::new();
            for (at, start) in starts.iter().enumerate() {
                let end = starts.get(at + 1).copied().unwrap_or(inner.tail);
                let is_current = inner.current.as_ref().is_some_and(|current| current.start == *start);
                let idle = inner.segments.get(start).is_some_and(|s| Arc::strong_count(s) == 1)
                    || fault::on(fault::Planted::ReadNotPinned);
                let is_needed = inner.segments.get(start).is_some_and(|s| s.number >= needed);
                if end > position || is_current || is_needed || !idle {
                    break;
                }
                gone.extend(inner.segments.remove(start));
            }
            gone
        };
        unused.into_iter().for_each(|number| self.delete_unused(number));
        for segment in &gone {
            segment.delete()?;
        }
        Ok(gone.len())
    }

    /// One that cannot be deleted is left to gc.
    fn delete_unused(&self, number: u64) {
        let name = ObjectName::Segment { volume: self.volume, number };
        match self.backend.delete(&name) {
            Err(error) if !error.is(ErrorKind::NotFound) => {
                ::log::debug!("{name} is left to gc: {}", error.full());
            }
            _ => {}
        }
    }

    /// The highest segment number that this holder knows to exist.
    pub fn last_known(&self) -> u64 {
        self.inner.lock().last_known
    }

    /// Everything so far belongs to content that is no more: the next append
    /// begins a segment that does not build on it.
    pub fn abandon(&self) {
        let _rolling = self.rolling.lock();
        let mut inner = self.inner.lock();
        let segments = std::mem::take(&mut inner.segments);
        inner.abandoned.extend(segments.into_values());
        // Its number may be lower than the one that the head asks for.
        let spare = inner.spare.take();
        inner.abandoned.extend(spare.map(Arc::new));
        inner.current = None;
        inner.durable = inner.tail;
        inner.last = (inner.last_known, 0);
    }

    /// Deletes one abandoned segment that nobody reads any more. The head that
    /// abandons it must be durable. False: there is none. One that cannot be
    /// deleted is left to gc.
    pub fn delete_abandoned(&self) -> bool {
        let mut inner = self.inner.lock();
        let idle = inner.abandoned.iter().position(|segment| Arc::strong_count(segment) == 1);
        let Some(segment) = idle.map(|at| inner.abandoned.swap_remove(at)) else { return false };
        drop(inner);
        if let Err(error) = segment.delete() {
            ::log::debug!("{} is left to gc: {}", segment.name, error.full());
        }
        true
    }
}
