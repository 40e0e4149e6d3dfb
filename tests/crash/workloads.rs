//! What is done to a store before it crashes: families of random histories,
//! each about one thing, and every short sequence of the operations.

use super::act::{Act, Setup};
use super::disk::Failure;
use super::image::mix;

/// Small seeded random numbers.
#[derive(Clone, Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0, 0x1234_5678)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    pub family: &'static str,
    pub seed: u64,
    pub setup: Setup,
    pub acts: Vec<Act>,
    /// What a crash in the acts before this one leaves is known already.
    pub explored_from: usize,
}

impl Workload {
    /// One of `short`, whose moments are all explored.
    pub fn is_short(&self) -> bool {
        self.family.starts_with("short")
    }
}

const BLOCK: u64 = 16 << 10;
pub const SMALL: Setup =
    Setup { block_bytes: BLOCK, volume_bytes: 6 * BLOCK + 5000, log_limit_bytes: 1 << 20 };
pub const TIGHT: Setup = Setup { log_limit_bytes: 160 << 10, ..SMALL };
/// Blocks that are large enough for writes past the log.
const LARGE: Setup = Setup { block_bytes: 128 << 10, volume_bytes: 3 << 17, log_limit_bytes: 1 << 20 };

/// How likely each act is in a family: writes, flushes, zeroes, snapshots,
/// background work, rollbacks, clones, resizes, names, ends.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    setup: Setup,
    acts: usize,
    weights: [u64; 10],
    /// One in this many acts is disturbed: visited, held or made to fail.
    disturbed: u64,
}

const FAMILIES: [Family; 12] = [
    Family {
        name: "overwrite",
        setup: SMALL,
        acts: 22,
        weights: [12, 6, 0, 0, 1, 0, 0, 0, 0, 1],
        disturbed: 0,
    },
    Family { name: "shared", setup: SMALL, acts: 22, weights: [12, 4, 1, 3, 2, 0, 0, 0, 0, 1], disturbed: 0 },
    Family { name: "settle", setup: SMALL, acts: 20, weights: [8, 2, 2, 2, 6, 0, 0, 0, 0, 1], disturbed: 3 },
    Family { name: "discard", setup: SMALL, acts: 22, weights: [8, 4, 8, 1, 2, 0, 0, 1, 0, 1], disturbed: 6 },
    Family {
        name: "snapshot",
        setup: SMALL,
        acts: 20,
        weights: [8, 2, 1, 6, 2, 0, 0, 0, 0, 2],
        disturbed: 4,
    },
    Family {
        name: "rollback",
        setup: SMALL,
        acts: 18,
        weights: [8, 2, 1, 3, 2, 4, 0, 1, 0, 1],
        disturbed: 0,
    },
    Family { name: "clone", setup: SMALL, acts: 20, weights: [8, 2, 1, 3, 2, 0, 4, 0, 1, 1], disturbed: 6 },
    Family { name: "resize", setup: SMALL, acts: 18, weights: [8, 3, 1, 1, 2, 0, 0, 6, 0, 1], disturbed: 5 },
    Family { name: "names", setup: SMALL, acts: 16, weights: [4, 2, 0, 2, 1, 0, 4, 0, 6, 2], disturbed: 0 },
    Family { name: "lives", setup: SMALL, acts: 18, weights: [8, 2, 1, 1, 1, 0, 0, 0, 0, 8], disturbed: 4 },
    Family {
        name: "log-full",
        setup: TIGHT,
        acts: 40,
        weights: [24, 2, 1, 1, 0, 0, 0, 0, 0, 1],
        disturbed: 0,
    },
    Family { name: "large", setup: LARGE, acts: 16, weights: [12, 3, 1, 3, 2, 0, 0, 0, 0, 1], disturbed: 4 },
];

/// Writes that come while the block they go to is settled, cut or
/// checkpointed: each kept by a flush, some seen again by another process.
fn meeting(seed: u64) -> Workload {
    let mut random = Seeded(seed);
    let mut acts = vec![Act::Write { volume: 0, at: 0, bytes: 4 * BLOCK }, Act::Snapshot { volume: 0 }];
    if random.one_in(2) {
        acts.push(Act::Publish { volume: 0 });
    }
    for _ in 0..5 {
        if random.one_in(2) {
            acts.push(Act::Publish { volume: 0 });
        }
        let block = random.below(5) * BLOCK;
        acts.push(Act::Write { volume: 0, at: block + random.below(4) * 4096, bytes: 4096 });
        let (at, bytes) = (block + random.below(BLOCK / 512) * 512, 512 * (1 + random.below(10)));
        let (during, turns) = match random.below(8) {
            0 | 1 => (Act::Work { volume: 0 }, random.below(3)),
            2 | 3 => (Act::Settle { volume: 0 }, 1 + random.below(4)),
            4 => (Act::Snapshot { volume: 0 }, random.below(6)),
            5 => (Act::Publish { volume: 0 }, random.below(6)),
            6 => (Act::Flush { volume: 0 }, random.below(3)),
            _ => (Act::Work { volume: 0 }, random.below(6)),
        };
        let turns_only = !random.one_in(3);
        let nth = if turns_only { turns } else { random.below(16) };
        let zero = random.one_in(5);
        let act = Act::Visited { nth, turns: turns_only, at, bytes, zero, during: Box::new(during) };
        acts.push(match random.one_in(4) {
            true => Act::Held { volume: 0, at: block, bytes: BLOCK, during: Box::new(act) },
            false => act,
        });
        if random.one_in(3) {
            let at = at + random.below(4) * 512;
            acts.push(match random.one_in(2) {
                true => Act::Zero { volume: 0, at, bytes },
                false => Act::Write { volume: 0, at, bytes },
            });
        }
        if !random.one_in(3) {
            acts.push(Act::Flush { volume: 0 });
        }
        if random.one_in(5) {
            acts.push(Act::Kill { volume: 0 });
        }
    }
    acts.push(Act::Read { volume: 0 });
    Workload { family: "meeting", seed, setup: SMALL, acts, explored_from: 0 }
}

/// A gc within what publishes something, between one call after another. `nth`
/// says what that is.
fn collecting(seed: u64, nth: u64) -> Workload {
    let mut random = Seeded(seed);
    let mut acts = vec![Act::Write { volume: 0, at: 0, bytes: 3 * BLOCK }, Act::Snapshot { volume: 0 }];
    acts.extend([Act::Settle { volume: 0 }, Act::Gc, Act::Gc]);
    let turns = nth / 5 % 3 < 2;
    for call in 0..10 {
        let at = random.below(24) * 4096;
        acts.push(Act::Write { volume: 0, at, bytes: 4096 });
        let which = random.below(4) as usize;
        let during = match nth % 5 {
            0 => Act::Settle { volume: 0 },
            1 => Act::Publish { volume: 0 },
            2 => Act::Rollback { volume: 0, which },
            3 => Act::Clone { volume: 0, which },
            _ => Act::Snapshot { volume: 0 },
        };
        if matches!(during, Act::Publish { .. }) || random.one_in(3) {
            acts.push(Act::Snapshot { volume: 0 });
        }
        let nth = if turns { call } else { random.below(24) };
        acts.push(Act::Collected { nth, turns, during: Box::new(during) });
        if random.one_in(3) {
            acts.push(Act::Kill { volume: 0 });
        }
    }
    acts.push(Act::Read { volume: 0 });
    Workload { family: "collecting", seed, setup: SMALL, acts, explored_from: 0 }
}

/// A gc after something was published, on a host to which listings are old.
fn lagging(seed: u64) -> Workload {
    let mut random = Seeded(seed);
    let mut acts = vec![Act::Write { volume: 0, at: 0, bytes: 3 * BLOCK }, Act::Snapshot { volume: 0 }];
    acts.extend([Act::Settle { volume: 0 }, Act::Gc, Act::Gc]);
    for _ in 0..9 {
        let at = random.below(24) * 4096;
        acts.push(Act::Write { volume: 0, at, bytes: 4096 * (1 + random.below(4)) });
        acts.push(Act::Snapshot { volume: 0 });
        let (volume, which) = (random.below(2) as usize, random.below(4) as usize);
        let during = match random.below(6) {
            0 | 1 => Act::Publish { volume },
            2 => Act::Settle { volume },
            3 => Act::Clone { volume, which },
            4 => Act::RemoveSnapshot { volume, which },
            _ => Act::Rename { volume },
        };
        acts.push(Act::Lagging { seed: random.next(), during: Box::new(during) });
    }
    acts.push(Act::Read { volume: 0 });
    Workload { family: "lagging", seed, setup: SMALL, acts, explored_from: 0 }
}

/// Of one call of the store after another within the same act, nobody knows
/// what became; then the process dies. `nth` says which act and which of the
/// outcomes, one after the other.
fn unknown(seed: u64, nth: u64) -> Workload {
    let mut random = Seeded(seed);
    let mut acts = vec![Act::Write { volume: 0, at: 0, bytes: 3 * BLOCK }, Act::Snapshot { volume: 0 }];
    let failures = [Failure::UnknownLost, Failure::UnknownDone, Failure::UnknownLate];
    let failure = failures[nth as usize / 8 % failures.len()];
    for call in 0..14 {
        let (at, which) = (random.below(24) * 4096, random.below(4) as usize);
        acts.push(Act::Write { volume: 0, at, bytes: 4096 });
        let during = match nth % 8 {
            0 => Act::Publish { volume: 0 },
            1 => Act::Settle { volume: 0 },
            2 => Act::Snapshot { volume: 0 },
            3 => Act::Rollback { volume: 0, which },
            4 => Act::Clone { volume: 0, which },
            5 => Act::Rename { volume: 0 },
            6 => Act::RemoveSnapshot { volume: 0, which },
            _ => Act::Resize { volume: 0, bytes: 1 + random.below(8 * BLOCK) },
        };
        if call % 2 == 0 || matches!(during, Act::Publish { .. }) {
            acts.push(Act::Snapshot { volume: 0 });
        }
        acts.push(Act::Failing { nth: call, failure, during: Box::new(during) });
    }
    acts.push(Act::Read { volume: 0 });
    Workload { family: "unknown", seed, setup: SMALL, acts, explored_from: 0 }
}

/// A holder sleeps while others go on, so far that numbers which it would use
/// next have been used and cleaned away.
fn sleeping(seed: u64) -> Workload {
    let mut random = Seeded(seed);
    let mut acts = vec![Act::Write { volume: 0, at: 0, bytes: 4 * BLOCK }, Act::Sleep { volume: 0 }];
    for _ in 0..2 + random.below(3) {
        let at = random.below(16) * 4096;
        acts.push(Act::Snapshot { volume: 0 });
        acts.push(Act::Write { volume: 0, at, bytes: 4096 });
        acts.push(match random.below(4) {
            0 => Act::Flush { volume: 0 },
            1 => Act::Kill { volume: 0 },
            2 => Act::Reopen { volume: 0 },
            _ => Act::Settle { volume: 0 },
        });
        if random.one_in(2) {
            acts.push(Act::Settle { volume: 0 });
        }
    }
    acts.push(Act::Wake { adds_head: random.one_in(2) });
    acts.push(Act::Write { volume: 0, at: 0, bytes: 512 });
    acts.push(Act::Reopen { volume: 0 });
    acts.push(Act::Read { volume: 0 });
    Workload { family: "sleeping", seed, setup: SMALL, acts, explored_from: 0 }
}

/// An endless list; `nth` of it with `seed` is always the same.
pub fn nth(nth: u64, seed: u64) -> Workload {
    let seed = mix(mix(seed, 0xA5A5), nth);
    let (round, at) = (nth / 26, nth % 26);
    let family = match at {
        0..18 => FAMILIES[((round * 18 + at) % FAMILIES.len() as u64) as usize],
        18..21 => return meeting(seed),
        21 | 22 => return collecting(seed, round * 2 + at - 21),
        23 => return sleeping(seed),
        24 => return unknown(seed, round),
        _ => return lagging(seed),
    };
    let mut random = Seeded(seed);
    let mut acts = preamble(&mut random, &family.setup, nth);
    for _ in 0..family.acts {
        let act = any(&mut random, &family);
        acts.push(disturb(&mut random, &family, act));
    }
    acts.push(Act::Read { volume: 0 });
    Workload { family: family.name, seed, setup: family.setup, acts, explored_from: 0 }
}

/// Some blocks full, some partly, some not there; half the time shared.
fn preamble(random: &mut Seeded, setup: &Setup, nth: u64) -> Vec<Act> {
    let block = setup.block_bytes;
    let mut acts = vec![
        Act::Write { volume: 0, at: 0, bytes: 2 * block },
        Act::Write { volume: 0, at: 2 * block + 4096, bytes: 4096 },
    ];
    if random.one_in(2) {
        acts.push(Act::Flush { volume: 0 });
    }
    if nth % 3 > 0 {
        acts.push(Act::Snapshot { volume: 0 });
        if random.one_in(2) {
            acts.push(Act::Publish { volume: 0 });
        }
    }
    acts
}

fn range(random: &mut Seeded, setup: &Setup) -> (u64, u64) {
    let (size, block) = (setup.volume_bytes, setup.block_bytes);
    match random.below(8) {
        0 => (random.below(size / block) * block, block),
        1 | 2 => (random.below(size / 4096) * 4096, 4096),
        3 => (random.below(size / 512) * 512, 512),
        4 => (random.below(size / 512) * 512, 512 * (1 + random.below(12))),
        5 => (random.below(size), 1 + random.below(block + 1000)),
        6 => (random.below(size / 4096) * 4096, 4096 * (1 + random.below(block / 2048))),
        _ => (random.below(3) * 4096, 4096 * (1 + random.below(2))),
    }
}

fn any(random: &mut Seeded, family: &Family) -> Act {
    let total: u64 = family.weights.iter().sum();
    let mut at = random.below(total);
    let mut kind = 0;
    while at >= family.weights[kind] {
        at -= family.weights[kind];
        kind += 1;
    }
    let volume = random.below(2) as usize;
    let which = random.below(4) as usize;
    let (offset, bytes) = range(random, &family.setup);
    match kind {
        0 if random.one_in(6) => Act::Fua { volume, at: offset, bytes },
        0 => Act::Write { volume, at: offset, bytes },
        1 => Act::Flush { volume },
        2 => Act::Zero { volume, at: offset, bytes: if random.one_in(3) { bytes * 4 } else { bytes } },
        3 if random.one_in(6) => Act::RemoveSnapshot { volume, which },
        3 => Act::Snapshot { volume },
        4 => match random.below(5) {
            4 => Act::Gc,
            0 => Act::Publish { volume },
            1 => Act::Work { volume },
            _ => Act::Settle { volume },
        },
        5 => Act::Rollback { volume, which },
        6 => Act::Clone { volume, which },
        7 => Act::Resize { volume, bytes: 1 + random.below(family.setup.volume_bytes * 5 / 4) },
        8 => match random.below(4) {
            0 => Act::Remove { volume },
            1 => Act::RenameHalf { volume },
            _ => Act::Rename { volume },
        },
        _ => match random.below(5) {
            0 | 1 => Act::Reopen { volume },
            2 => Act::Haunted { volume, at: offset, bytes },
            _ => Act::Kill { volume },
        },
    }
}

fn disturb(random: &mut Seeded, family: &Family, act: Act) -> Act {
    if family.disturbed == 0 || !random.one_in(family.disturbed) {
        return act;
    }
    let (at, bytes) = range(random, &family.setup);
    let during = Box::new(act);
    match random.below(5) {
        0 | 1 => {
            let (turns, zero) = (random.one_in(3), random.one_in(4));
            Act::Visited { nth: random.below(9), turns, at, bytes, zero, during }
        }
        2 => Act::Held { volume: 0, at, bytes, during: Box::new(Act::Settle { volume: 0 }) },
        _ => {
            let failures = [
                Failure::Unavailable,
                Failure::NoSpace,
                Failure::UnknownLost,
                Failure::UnknownDone,
                Failure::UnknownLate,
            ];
            let failure = failures[random.below(5) as usize];
            Act::Failing { nth: random.below(8), failure, during }
        }
    }
}

/// What is done in the life after a crash.
pub fn second_life(seed: u64, setup: &Setup) -> Vec<Act> {
    let mut random = Seeded(seed);
    let family = Family {
        name: "second",
        setup: *setup,
        acts: 4,
        weights: [10, 4, 1, 2, 4, 1, 0, 1, 0, 1],
        disturbed: 0,
    };
    let mut acts = vec![Act::Read { volume: 0 }, Act::Read { volume: 1 }];
    for _ in 0..random.below(family.acts as u64) {
        acts.push(any(&mut random, &family));
    }
    acts.push(Act::Read { volume: 0 });
    acts
}
