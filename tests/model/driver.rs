//! What both interfaces can do, in the words of neither.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use archipelago::store::Store;

/// A request that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Missing,
    Taken,
    Held,
    Mistake,
    ReadOnly,
    /// Never expected.
    Other(String),
}

pub type Outcome<T> = Result<T, Refusal>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Writable,
    ReadOnly,
    Inactive,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Read {
        bytes: u64,
    },
    Write {
        data: Vec<u8>,
        fua: bool,
    },
    Zero {
        bytes: u64,
        fua: bool,
    },
    Discard {
        bytes: u64,
    },
    Flush,
    /// The offset is the new size.
    Resize {
        shrink: bool,
    },
}

/// What a request came to, with what a read has read.
#[derive(Debug)]
pub struct Answer {
    pub result: Outcome<()>,
    pub data: Vec<u8>,
}

/// A request in flight.
pub struct Pending(pub Receiver<Answer>);

impl Pending {
    pub fn wait(self) -> Answer {
        self.0.recv_timeout(DEADLINE).unwrap_or_else(|error| {
            let words = match error {
                RecvTimeoutError::Timeout => "a request hangs",
                RecvTimeoutError::Disconnected => "a request was dropped without an answer",
            };
            Answer { result: Err(Refusal::Other(words.to_owned())), data: Vec::new() }
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub read_only: bool,
    pub active: bool,
    pub zero_init: bool,
}

/// A snapshot in a list.
pub type Listed = (String, u64);

/// An interface to a store of its own.
pub trait Driver {
    /// The same store, for what the C interface has no call for.
    fn store(&self) -> &Store;
    fn create(&self, name: &str, size_bytes: u64) -> Outcome<()>;
    /// `size_bytes` 0: that of the snapshot.
    fn clone_of(&self, volume: &str, snapshot: &str, to: &str, size_bytes: u64) -> Outcome<()>;
    fn remove(&self, name: &str) -> Outcome<()>;
    fn open(&self, name: &str, snapshot: Option<&str>, how: How) -> Outcome<Box<dyn Disk>>;
}

/// An open volume or snapshot.
pub trait Disk {
    fn submit(&self, offset_bytes: u64, ask: Ask) -> Pending;
    /// `None`: it would have to wait.
    fn try_read(&self, offset_bytes: u64, bytes: u64) -> Option<Answer>;
    /// True: zeroes.
    fn status(&self, offset_bytes: u64, bytes: u64) -> Outcome<(bool, u64)>;
    fn facts(&self) -> Outcome<Facts>;
    fn snapshot(&self, name: &str) -> Outcome<()>;
    fn rollback(&self, name: &str) -> Outcome<()>;
    fn remove_snapshot(&self, name: &str) -> Outcome<()>;
    fn snapshots(&self) -> Outcome<Vec<Listed>>;
    fn inactivate(&self) -> Outcome<()>;
    fn activate(&self) -> Outcome<()>;
    fn set_read_only(&self, read_only: bool) -> Outcome<()>;
    /// Background work, now: where an interface has a call for that.
    fn work(&self, which: u8) -> Outcome<()>;
    /// As `work`, on another thread, and some more of it.
    fn begin_work(&self, which: u8) -> Option<JoinHandle<Outcome<()>>>;
    fn close(self: Box<Self>) -> Outcome<()>;
}
