//! Reads.

use std::sync::Arc;

use super::request::Once;
use super::Inner;
use crate::backend::DataPath;
use crate::error::{Error, ErrorKind, Result};
use crate::readcache::Wanted;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sys::iobuf::IoBuf;
use crate::volume::{parts, From, Step, Volume};

/// What the data path is to read.
struct Plan {
    volume: Arc<Volume>,
    path: Arc<dyn DataPath>,
    /// Each that the read cache may know within one span of it.
    steps: Vec<(Option<Wanted>, Step)>,
}

impl Inner {
    fn check_range(&self, offset_bytes: u64, bytes: u64) -> Result<()> {
        match offset_bytes.checked_add(bytes) {
            Some(end) if end <= self.size_bytes.load(Ordering::Acquire) => Ok(()),
            _ => self.volume().check_range(offset_bytes, bytes),
        }
    }

    /// See `Device::try_read`.
    pub(super) fn try_read(&self, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        if let Err(error) = self.check_range(offset_bytes, buf.len() as u64) {
            return Some(Err(error));
        }
        let volume = self.volume();
        if let Err(error) = volume.check_alive() {
            return Some(Err(error));
        }
        for part in parts(volume.block_bytes, offset_bytes, buf.len() as u64) {
            for step in volume.plan_read(part.block, part.start, part.end)? {
                let at = part.at as usize + step.at;
                match &step.from {
                    From::Zero => buf.fill_zero(at, step.bytes),
                    From::Object { name, offset_bytes, .. } => {
                        let path = volume.data_path()?;
                        let slice = buf.slice(at, step.bytes);
                        // An error may be a block merged away: the slow way
                        // knows.
                        path.try_read(name, *offset_bytes, &slice)?.ok()?;
                    }
                    From::Log { .. } => return None,
                }
            }
        }
        Some(Ok(()))
    }

    pub(super) fn read(self: &Arc<Self>, offset_bytes: u64, buf: IoBuf, done: Once) {
        match self.plan_native(offset_bytes, &buf) {
            Some(plan) => self.read_native(plan, offset_bytes, buf, done),
            None => self.read_on_worker(offset_bytes, buf, done),
        }
    }

    fn read_on_worker(self: &Arc<Self>, offset_bytes: u64, buf: IoBuf, done: Once) {
        let inner = Arc::clone(self);
        self.workers.run(move || {
            let result = inner.read_now(offset_bytes, &buf);
            done.complete(result);
        });
    }

    fn read_now(&self, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
        let volume = self.volume();
        volume.check_alive()?;
        volume.check_range(offset_bytes, buf.len() as u64)?;
        for part in parts(volume.block_bytes, offset_bytes, buf.len() as u64) {
            let slice = buf.slice(part.at as usize, (part.end - part.start) as usize);
            volume.read_block(part.block, part.start, &slice)?;
        }
        Ok(())
    }

    /// The steps of a read, if the data path can do all that is not zeroes,
    /// and there is something for it to do.
    fn plan_native(&self, offset_bytes: u64, buf: &IoBuf) -> Option<Plan> {
        let volume = self.volume();
        let path = volume.data_path()?;
        volume.check_alive().ok()?;
        self.check_range(offset_bytes, buf.len() as u64).ok()?;
        let alignment = path.alignment_bytes();
        let mut all = Vec::new();
        for part in parts(volume.block_bytes, offset_bytes, buf.len() as u64) {
            for mut step in volume.plan_read(part.block, part.start, part.end)? {
                step.at += part.at as usize;
                match &step.from {
                    From::Zero => {}
                    From::Log { .. } => return None,
                    From::Object { offset_bytes, .. } => {
                        let aligned = *offset_bytes % alignment as u64 == 0
                            && buf.slice(step.at, step.bytes).is_aligned(alignment);
                        if !aligned {
                            return None;
                        }
                    }
                }
                if let Some((_, spans)) = volume.cached(&step) {
                    all.extend(spans.map(|(wanted, part)| (Some(wanted), part)));
                    continue;
                }
                all.push((None, step));
            }
        }
        let native = all.iter().any(|(_, step)| matches!(step.from, From::Object { .. }));
        let path = Arc::clone(path);
        native.then(|| Plan { volume, path, steps: all })
    }

    fn read_native(self: &Arc<Self>, plan: Plan, offset_bytes: u64, buf: IoBuf, done: Once) {
        let Plan { volume, path, steps } = plan;
        let count = steps.iter().filter(|(_, step)| matches!(step.from, From::Object { .. })).count();
        let (inner, whole) = (Arc::clone(self), buf.clone());
        let join = Join::new(count, move |result| match result {
            // Merged into another block meanwhile: plan it anew.
            Err(error) if error.is(ErrorKind::NotFound) => inner.read_on_worker(offset_bytes, whole, done),
            result => done.complete(result),
        });
        // Before the first one is submitted: the last one may complete the
        // whole before the next line runs.
        for (_, step) in steps.iter().filter(|(_, step)| !matches!(step.from, From::Object { .. })) {
            buf.fill_zero(step.at, step.bytes);
        }
        for (wanted, step) in steps {
            let From::Object { name, offset_bytes, .. } = step.from else { continue };
            let join = Arc::clone(&join);
            let slice = buf.slice(step.at, step.bytes);
            let done = Box::new(move |result| join.finish(result));
            match (wanted, volume.store.read_cache()) {
                (Some(wanted), Some(cache)) => cache.submit(&path, wanted, slice, done),
                _ => path.submit_read(&name, offset_bytes, slice, done),
            }
        }
    }
}

type Joined = Box<dyn FnOnce(Result<()>) + Send>;

/// Waits for several parts; the last one to finish completes the whole, with
/// the first error there was.
pub(super) struct Join(Mutex<(usize, Option<Error>, Option<Joined>)>);

impl Join {
    pub(super) fn new(count: usize, done: impl FnOnce(Result<()>) + Send + 'static) -> Arc<Join> {
        Arc::new(Join(Mutex::new((count, None, Some(Box::new(done))))))
    }

    pub(super) fn finish(&self, result: Result<()>) {
        let mut state = self.0.lock();
        state.0 -= 1;
        if let Err(error) = result {
            state.1.get_or_insert(error);
        }
        if state.0 > 0 {
            return;
        }
        let (error, done) = (state.1.take(), state.2.take());
        drop(state);
        if let Some(done) = done {
            done(error.map_or(Ok(()), Err));
        }
    }
}
