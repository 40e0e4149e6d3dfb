//! The words of a workload.

use super::disk::Failure;

/// What a workload does, one thing after another. `volume` and `which` count
/// among what is there then.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Write {
        volume: usize,
        at: u64,
        bytes: u64,
    },
    Fua {
        volume: usize,
        at: u64,
        bytes: u64,
    },
    Zero {
        volume: usize,
        at: u64,
        bytes: u64,
    },
    Flush {
        volume: usize,
    },
    Snapshot {
        volume: usize,
    },
    Publish {
        volume: usize,
    },
    Settle {
        volume: usize,
    },
    Work {
        volume: usize,
    },
    Rollback {
        volume: usize,
        which: usize,
    },
    RemoveSnapshot {
        volume: usize,
        which: usize,
    },
    Clone {
        volume: usize,
        which: usize,
    },
    Resize {
        volume: usize,
        bytes: u64,
    },
    Rename {
        volume: usize,
    },
    /// A rename that stops half-way; then one of the names is removed.
    RenameHalf {
        volume: usize,
    },
    Remove {
        volume: usize,
    },
    Reopen {
        volume: usize,
    },
    Kill {
        volume: usize,
    },
    Read {
        volume: usize,
    },
    /// Collects garbage.
    Gc,
    /// A read is planned, then something happens, then it is carried out.
    Held {
        volume: usize,
        at: u64,
        bytes: u64,
        during: Box<Act>,
    },
    /// Another request begins within the `nth` call of the store
    /// (with `turns`: of its syncs and lists).
    Visited {
        nth: u64,
        turns: bool,
        at: u64,
        bytes: u64,
        zero: bool,
        during: Box<Act>,
    },
    /// A whole gc runs within the `nth` call of the store, counted as in
    /// `Visited`.
    Collected {
        nth: u64,
        turns: bool,
        during: Box<Act>,
    },
    /// Then a gc on each of some hosts, to which about half of the folders look
    /// as they did before.
    Lagging {
        seed: u64,
        during: Box<Act>,
    },
    /// The holder falls asleep, and another one takes its volume.
    Sleep {
        volume: usize,
    },
    /// It wakes up and adds a head, or else a segment of the log.
    Wake {
        adds_head: bool,
    },
    Failing {
        nth: u64,
        failure: Failure,
        during: Box<Act>,
    },
    /// The holder dies with a write in the kernel, which lands after the next
    /// holder has written the same place.
    Haunted {
        volume: usize,
        at: u64,
        bytes: u64,
    },
}

/// How a world is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub block_bytes: u64,
    pub volume_bytes: u64,
    pub log_limit_bytes: u64,
}
