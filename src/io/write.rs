//! Writes.

use std::sync::Arc;

use super::ranges::Held;
use super::read::Join;
use super::request::Once;
use super::workers::guarded;
use super::Inner;
use crate::error::Result;
use crate::sync::Mutex;
use crate::sys::iobuf::IoBuf;
use crate::volume::{parts, Begun, NotNow, Part, Volume, Way};

/// Where a part is being begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On the submitting thread: nothing may block.
    Submitted,
    Worker,
    /// On a worker, after it has waited for the log.
    Slowed,
}

/// One write request on its way.
struct Writing {
    inner: Arc<Inner>,
    volume: Arc<Volume>,
    join: Arc<Join>,
    /// What was begun, for FUA.
    begun: Arc<Mutex<Vec<Begun>>>,
}

impl Inner {
    pub(super) fn write(self: &Arc<Self>, offset_bytes: u64, buf: IoBuf, fua: bool, done: Once) {
        let end = offset_bytes.saturating_add(buf.len() as u64);
        if buf.is_empty() {
            return self.complete_later(done, Ok(()));
        }
        let inner = Arc::clone(self);
        self.with_range(offset_bytes, end, move |held| inner.start_write(offset_bytes, buf, fua, held, done));
    }

    /// The range is ours: begins every part.
    fn start_write(self: Arc<Self>, offset_bytes: u64, buf: IoBuf, fua: bool, held: Held, done: Once) {
        let end = offset_bytes.saturating_add(buf.len() as u64);
        let volume = self.volume();
        if let Err(error) = volume.check_range(offset_bytes, buf.len() as u64) {
            self.complete_later(done, Err(error));
            return self.leave(held);
        }
        let all: Vec<Part> = parts(volume.block_bytes, offset_bytes, buf.len() as u64).collect();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (inner, ours, writes) = (Arc::clone(&self), Arc::clone(&volume), Arc::clone(&begun));
        // The caller is told before the next that overlaps begins, so that he
        // sees them end in order.
        let join = Join::new(all.len(), move |result: Result<()>| {
            inner.written.note(offset_bytes, end);
            match result {
                Ok(()) if fua => inner.flushes.make_durable(ours, std::mem::take(&mut writes.lock()), done),
                result => done.complete(result),
            }
            inner.leave(held);
        });
        for part in all {
            let slice = buf.slice(part.at as usize, (part.end - part.start) as usize);
            let writing = Writing {
                inner: Arc::clone(&self),
                volume: Arc::clone(&volume),
                join: Arc::clone(&join),
                begun: Arc::clone(&begun),
            };
            writing.begin(part, slice, Stage::Submitted);
        }
    }

    /// Sees to it that queued appends are written: past the page cache from
    /// this very thread, else by the log's.
    fn drive_log(&self, volume: Arc<Volume>) {
        if volume.wants_segment() {
            self.background.wake();
        }
        match volume.log_path() {
            Some(path) => volume.drive_log_native(path, &self.later),
            None => self.log_thread.run(move || volume.drive_log()),
        }
    }
}

impl Writing {
    /// Begins a part.
    fn begin(self, part: Part, buf: IoBuf, stage: Stage) {
        let may_block = stage != Stage::Submitted;
        let begun = match stage {
            Stage::Slowed => self.volume.begin_write(part.block, part.start, part.end),
            _ => self.volume.begin_write_impatiently(part.block, part.start, part.end),
        };
        match begun {
            Ok(Ok(begun)) => {
                self.begun.lock().push(begun.clone());
                self.carry_out(begun, buf, may_block);
            }
            Ok(Err(NotNow::NotLoaded)) if may_block => match self.volume.load_page(part.block) {
                Ok(()) => self.begin(part, buf, stage),
                Err(error) => self.join.finish(Err(error)),
            },
            Ok(Err(NotNow::NotLoaded)) => {
                let workers = Arc::clone(&self.inner.workers);
                workers.run(move || self.begin(part, buf, Stage::Worker));
            }
            Ok(Err(why @ (NotNow::LogFull | NotNow::LogBusy))) => {
                let inner = Arc::clone(&self.inner);
                let bytes = u64::from(part.end - part.start);
                let then = Box::new(move |result| match result {
                    Ok(()) => {
                        let workers = Arc::clone(&self.inner.workers);
                        workers.run(move || self.begin(part, buf, Stage::Slowed));
                    }
                    Err(error) => self.fail_later(error),
                });
                match why {
                    NotNow::LogBusy => inner.background.slow_down(bytes, then),
                    _ => inner.background.park(bytes, then),
                }
            }
            Err(error) => self.fail_later(error),
        }
    }

    fn fail_later(self, error: crate::error::Error) {
        let workers = Arc::clone(&self.inner.workers);
        workers.run(move || self.join.finish(Err(error)));
    }

    fn carry_out(self, begun: Begun, buf: IoBuf, may_block: bool) {
        match begun.way {
            Way::Log => {
                let join = Arc::clone(&self.join);
                let done = Box::new(move |result| join.finish(result));
                if self.volume.log_write(&begun, Some(buf), done) {
                    self.inner.drive_log(Arc::clone(&self.volume));
                }
            }
            Way::InPlace => self.write_own(begun, buf, may_block),
            Way::Create if may_block => {
                let result = self.volume.create_block(&begun, &buf);
                let result = self.volume.end_write(&begun, result);
                self.join.finish(result);
            }
            Way::Direct | Way::Whole if may_block => match self.volume.make_object(&begun) {
                Ok(()) => self.write_own(begun, buf, true),
                Err(error) => {
                    let result = self.volume.end_write(&begun, Err(error));
                    self.join.finish(result);
                }
            },
            Way::Direct | Way::Whole | Way::Create => {
                let workers = Arc::clone(&self.inner.workers);
                workers.run(move || self.carry_out(begun, buf, true));
            }
        }
    }

    /// Writes into the own object: natively where that is possible.
    fn write_own(self, begun: Begun, buf: IoBuf, may_block: bool) {
        let name = begun.name();
        let offset_bytes = u64::from(begun.start);
        let native = self.volume.data_path().filter(|path| {
            let alignment = path.alignment_bytes();
            offset_bytes % alignment as u64 == 0 && buf.is_aligned(alignment)
        });
        if let Some(path) = native.cloned() {
            // A write that makes own granules visible may have to load a map
            // page when it ends: not on the data path's thread.
            let ends_here = begun.way == Way::InPlace;
            let done = Box::new(move |result| {
                if ends_here {
                    let serving = Arc::clone(&self.inner.volume);
                    return guarded(&serving, move || {
                        let result = self.volume.end_write(&begun, result);
                        self.join.finish(result);
                    });
                }
                let workers = Arc::clone(&self.inner.workers);
                workers.run(move || {
                    let result = self.volume.end_write(&begun, result);
                    self.join.finish(result);
                });
            });
            return path.submit_write(&name, offset_bytes, buf, done);
        }
        if !may_block {
            let workers = Arc::clone(&self.inner.workers);
            workers.run(move || self.write_own(begun, buf, true));
            return;
        }
        let mut data = vec![0; buf.len()];
        buf.copy_to(0, &mut data);
        let result = self.volume.store.blocks().write_at(&name, offset_bytes, &data);
        let result = self.volume.end_write(&begun, result);
        self.join.finish(result);
    }
}
