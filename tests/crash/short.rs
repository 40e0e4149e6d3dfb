//! Every workload of up to three operations, on a volume that has a block of
//! each kind. Workloads that begin alike share what they begin with: each one
//! is explored from where its last operation begins.

use super::act::Act;
use super::workloads::{Workload, SMALL};

const BLOCK: u64 = SMALL.block_bytes;

/// The longest, in operations.
pub const LENGTH_MAX: usize = 3;

/// What is there at the start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// All that can be is settled and durable.
    Calm,
    /// Nothing is durable since a snapshot that is not published.
    Busy,
}

const STARTS: [Start; 2] = [Start::Calm, Start::Busy];

fn write(at: u64, bytes: u64) -> Act {
    Act::Write { volume: 0, at, bytes }
}

fn zero(at: u64, bytes: u64) -> Act {
    Act::Zero { volume: 0, at, bytes }
}

/// Block 0 is the head's own, 1 is a snapshot's, of 2 a layer is the head's,
/// over 3 lies a piece; 4 and 5 are absent, and the last is a part of one.
fn beginning(start: Start) -> Vec<Act> {
    let mut acts = vec![write(0, 4 * BLOCK), Act::Snapshot { volume: 0 }, Act::Publish { volume: 0 }];
    acts.extend([write(0, BLOCK), write(2 * BLOCK + 4096, 4096), Act::Settle { volume: 0 }]);
    // For gc that what was claimed is not young any more.
    acts.extend([Act::Gc, Act::Gc, write(3 * BLOCK + 4096, 4096), Act::Flush { volume: 0 }]);
    if start == Start::Busy {
        acts.extend([write(4096, 4096), write(BLOCK, 4096), Act::Snapshot { volume: 0 }]);
        acts.extend([write(8192, 512), write(5 * BLOCK, 4096)]);
    }
    acts
}

/// The operations. Those of a second volume count only once there is one.
fn operations() -> Vec<Act> {
    let volume = 0;
    vec![
        // In place, into the log, into a layer, over a piece, into a new block.
        write(4096, 4096),
        write(BLOCK + 8192, 4096),
        write(2 * BLOCK + 4096, 4096),
        write(3 * BLOCK + 5120, 2048),
        write(4 * BLOCK + 4096, 4096),
        // A whole block; two in part.
        write(BLOCK, BLOCK),
        write(BLOCK - 2048, 4096),
        Act::Fua { volume, at: BLOCK + 4096, bytes: 1024 },
        // A hole, whole blocks that are own and shared, a part of a layer.
        zero(8192, 4096),
        zero(0, BLOCK),
        zero(BLOCK, 3 * BLOCK),
        zero(2 * BLOCK + 512, 5120),
        Act::Flush { volume },
        Act::Snapshot { volume },
        Act::Publish { volume },
        Act::Rollback { volume, which: 0 },
        Act::RemoveSnapshot { volume, which: 0 },
        Act::Resize { volume, bytes: 2 * BLOCK + 5000 },
        Act::Resize { volume, bytes: 8 * BLOCK },
        // Settles, or makes a checkpoint; settles all and makes a checkpoint.
        Act::Work { volume },
        Act::Settle { volume },
        Act::Gc,
        Act::Reopen { volume },
        Act::Kill { volume },
        Act::Rename { volume },
        Act::Clone { volume, which: 0 },
        Act::Write { volume: 1, at: BLOCK, bytes: 4096 },
        Act::Remove { volume },
    ]
}

/// True if an operation means nothing before there is a clone.
fn needs_clone(act: &Act) -> bool {
    matches!(act, Act::Write { volume: 1, .. } | Act::Remove { .. })
}

/// The list of all, the shortest first, in groups of those that differ in
/// their last operation only.
pub struct Short {
    operations: Vec<Act>,
    /// What each group begins with, as indices, and where it starts.
    groups: Vec<(Start, Vec<usize>)>,
}

impl Short {
    pub fn new() -> Short {
        let mut short = Short { operations: operations(), groups: Vec::new() };
        let mut longest = vec![Vec::new()];
        for length in 1..=LENGTH_MAX {
            // The longest ones only where all is calm: else they are twice as many.
            let starts = if length == LENGTH_MAX { &STARTS[..1] } else { &STARTS[..] };
            for start in starts {
                short.groups.extend(longest.iter().map(|list| (*start, list.clone())));
            }
            let longer = |list: &Vec<usize>| short.longer(list);
            longest = longest.iter().flat_map(longer).collect();
        }
        short
    }

    /// All that begin with these operations and have one more.
    fn longer(&self, list: &[usize]) -> Vec<Vec<usize>> {
        let has_clone = list.iter().any(|at| matches!(self.operations[*at], Act::Clone { .. }));
        let makes_sense = |at: &usize| has_clone || !needs_clone(&self.operations[*at]);
        (0..self.operations.len()).filter(makes_sense).map(|at| [list, &[at]].concat()).collect()
    }

    pub fn count(&self) -> u64 {
        self.groups.iter().map(|(_, list)| self.longer(list).len() as u64).sum()
    }

    pub fn group_count(&self) -> u64 {
        self.groups.len() as u64
    }

    pub fn group(&self, nth: u64) -> Option<Vec<Workload>> {
        let (start, list) = self.groups.get(nth as usize)?;
        let family = ["short of 1", "short of 2", "short of 3"][list.len()];
        let workload = |list: Vec<usize>| {
            let mut acts = beginning(*start);
            // The very first one shows what the start leaves, too.
            let explored_from = if list[..] == [0] { 0 } else { acts.len() + list.len() - 1 };
            acts.extend(list.iter().map(|at| self.operations[*at].clone()));
            Workload { family, seed: nth, setup: SMALL, acts, explored_from }
        };
        Some(self.longer(list).into_iter().map(workload).collect())
    }
}
