//! What a caller submits.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::iobuf::IoBuf;

/// Runs once, on a thread of the device.
pub type Completion = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Clone, Debug)]
pub enum Operation {
    Read { buf: IoBuf },
    Write { buf: IoBuf, fua: bool },
    /// Also what a discard is: discarded bytes read as zeroes.
    Zero { bytes: u64, fua: bool },
    Flush,
    Resize { shrink: bool },
}

impl Operation {
    /// Those that a guest sends again without being told to.
    pub(super) fn may_need_room(&self) -> bool {
        matches!(self, Operation::Write { .. } | Operation::Zero { .. } | Operation::Flush)
    }
}

/// One request. `offset_bytes` is the new size of a resize.
#[derive(Clone, Debug)]
pub struct Request {
    pub offset_bytes: u64,
    pub operation: Operation,
}

/// Requests of a device, for people.
#[derive(Debug, Default)]
pub struct Served {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub zeroes: AtomicU64,
    pub flushes: AtomicU64,
    pub failures: AtomicU64,
}

impl Served {
    pub(super) fn count(&self, operation: &Operation) {
        let counter = match operation {
            Operation::Read { .. } => &self.reads,
            Operation::Write { .. } => &self.writes,
            Operation::Zero { .. } => &self.zeroes,
            Operation::Flush => &self.flushes,
            Operation::Resize { .. } => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All that were asked for.
    pub fn requests(&self) -> u64 {
        let Served { reads, writes, zeroes, flushes, failures: _ } = self;
        [reads, writes, zeroes, flushes].iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// Makes sure that a completion runs exactly once, with an error if the
/// request is dropped on the way.
pub struct Once(Option<Completion>);

impl Once {
    pub fn new(done: Completion) -> Once {
        Once(Some(done))
    }

    pub fn complete(mut self, result: Result<()>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(Error::new(ErrorKind::Internal, "carry out a request")));
        }
    }
}
