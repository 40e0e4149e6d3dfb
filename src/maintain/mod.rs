//! What keeps a store tidy and tells its state: garbage collection, check,
//! and who uses how much. Each reads a whole store and needs no volume to be
//! closed for it.
//!
//! * `roots`: the heads, logs and snapshots from which everything is reached.
//! * `mark`: everything that they reach.
//! * `gc`: deletes the rest.
//! * `carry`: takes sealed blocks to a place of their own, after that.
//! * `check`: verifies what is reached.
//! * `copy`: copies it to another store.
//! * `sync`: keeps standbys of its volumes in another store.
//! * `usage`: counts it, by volume and snapshot.
//! * `scrub`: sums the content of blocks, and compares it.
//! * `verify`: compares it for those who read a whole map.

use std::fmt;

use serde::Serialize;

use crate::name::ObjectName;

mod candidates;
mod carry;
pub mod check;
pub mod copy;
pub mod gc;
mod mark;
mod problem;
mod rest;
mod roots;
pub mod scrub;
mod sum;
mod survey;
pub mod sync;
mod sync_volume;
mod unnamed;
pub mod usage;
pub mod verify;

pub use problem::{Problem, Severity};

/// What is going on, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Objects so far.
    pub done: u64,
    /// Objects in all, if that is known.
    pub total: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Listing what there is.
    List,
    /// Reading heads, logs and maps.
    Mark,
    /// Looking at blocks.
    Verify,
    /// Looking at the size of what is not needed.
    Measure,
    /// Deleting.
    Sweep,
    /// Carrying sealed blocks to their place.
    Carry,
    /// Reading blocks that have no sum yet.
    Sum,
    /// Reading blocks and comparing them with their sums.
    Compare,
}

/// Kinds of objects, as reports count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Heads,
    Snapshots,
    Segments,
    Leases,
    Pages,
    Blocks,
    Epochs,
}

impl Kind {
    /// `None`: the store itself, names of volumes, generations and scrubs, which
    /// nothing here deletes.
    pub fn of(name: &ObjectName) -> Option<Kind> {
        match name {
            ObjectName::Store
            | ObjectName::Volume(_)
            | ObjectName::Maintenance(_)
            | ObjectName::Scrub(_) => None,
            ObjectName::Head { .. } => Some(Kind::Heads),
            ObjectName::Snapshot { .. } => Some(Kind::Snapshots),
            ObjectName::Segment { .. } => Some(Kind::Segments),
            ObjectName::Lease { .. } => Some(Kind::Leases),
            ObjectName::Page(_) => Some(Kind::Pages),
            ObjectName::Block { .. } => Some(Kind::Blocks),
            ObjectName::Epoch(_) => Some(Kind::Epochs),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Heads => "heads",
            Kind::Snapshots => "snapshots",
            Kind::Segments => "log segments",
            Kind::Leases => "leases",
            Kind::Pages => "map pages",
            Kind::Blocks => "blocks",
            Kind::Epochs => "epochs",
        })
    }
}

/// So many objects, and what they take in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub objects: u64,
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}
