//! Stories of snapshots, names, numbers and gc.

use std::time::Duration;

use archipelago::error::ErrorKind;
use archipelago::fault::Planted;

use super::act::Act;
use super::disk::Failure;
use super::story::{all, holds, meanwhile, needs, BLOCK};
use super::world::{collect, wrong, Outcome, World};

/// Longer than anything here takes.
const FOR_EVER: Duration = Duration::from_secs(60);

fn write(at: u64, bytes: u64) -> Act {
    Act::Write { volume: 0, at, bytes }
}

const FLUSH: Act = Act::Flush { volume: 0 };
const SNAPSHOT: Act = Act::Snapshot { volume: 0 };
const PUBLISH: Act = Act::Publish { volume: 0 };
const SETTLE: Act = Act::Settle { volume: 0 };
const KILL: Act = Act::Kill { volume: 0 };
const READ: Act = Act::Read { volume: 0 };
const CLONE: Act = Act::Clone { volume: 0, which: 0 };
const ROLLBACK: Act = Act::Rollback { volume: 0, which: 0 };
const RENAME: Act = Act::Rename { volume: 0 };
const REMOVE_SNAPSHOT: Act = Act::RemoveSnapshot { volume: 0, which: 0 };

/// The store says of a call in the middle of publishing that nobody knows
/// what became of it: it was done, it was not, or it will be when the next
/// holder is at it. The same process publishes again, if it may; then it dies.
/// The snapshot must be there, once, with what it had when it was taken.
#[test]
fn snapshot_whose_publish_answered_unknown() {
    for failure in [Failure::UnknownDone, Failure::UnknownLost, Failure::UnknownLate] {
        let play = |world: &mut World, nth: u64| -> Outcome<()> {
            all(world, [write(0, 3 * BLOCK), SNAPSHOT, write(0, 4096), SNAPSHOT, write(512, 512), FLUSH])?;
            world.disk.fail(Some((nth, failure)));
            let first = world.act(&PUBLISH);
            let has_failed = world.disk.has_failed();
            world.disk.fail(None);
            if !has_failed {
                first.clone()?;
            }
            let again = world.act(&PUBLISH);
            // What was found out passes for done, and nothing is in the way.
            if first.is_ok() {
                again?;
            }
            all(world, [KILL, READ, PUBLISH, READ, ROLLBACK, READ])
        };
        holds(24, &play);
        if failure == Failure::UnknownLost {
            needs(Planted::PublishUnknownIsDone, 24, &play);
        }
    }
}

/// A rename stops half-way, so that the volume has two names; the host may
/// crash then. Whoever removes one of the names must not take the volume from
/// the other, and whoever renames again gets it right.
#[test]
fn rename_crashed_half_way() {
    const FAILURES: [Failure; 4] =
        [Failure::Unavailable, Failure::UnknownDone, Failure::UnknownLost, Failure::UnknownLate];
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, BLOCK), SNAPSHOT, PUBLISH, write(BLOCK, 512), FLUSH])?;
        let (nth, failure) = (nth / 4, FAILURES[nth as usize % 4]);
        let during = Box::new(Act::Rename { volume: 0 });
        all(world, [Act::Failing { nth, failure, during }, READ, write(0, 512), FLUSH])?;
        all(world, [Act::RenameHalf { volume: 0 }, READ, Act::Gc, Act::Gc])?;
        all(world, [Act::Rename { volume: 0 }, KILL, READ])
    };
    holds(12, &play);
    needs(Planted::RemoveBothNames, 12, &play);
}

/// Blocks that are shared, in place and logged, and old enough for gc.
fn begin(world: &mut World) -> Outcome<()> {
    all(world, [write(0, 3 * BLOCK), SNAPSHOT, PUBLISH, write(0, 2 * BLOCK), SETTLE])?;
    // What was claimed since the last gc but one is young to it, and safe.
    all(world, [Act::Gc, Act::Gc, SNAPSHOT, write(BLOCK, 4096), write(4 * BLOCK, BLOCK), FLUSH])
}

fn end(world: &mut World) -> Outcome<()> {
    all(world, [READ, Act::Gc, Act::Read { volume: 1 }, READ, KILL, Act::Gc, READ])
}

/// Somebody publishes what gc cannot have seen: gc runs as a whole between
/// the two looks of a publisher at the store, or a publisher as a whole
/// between two listings of gc, and removes what it had the content from. What
/// is published must be whole, after this gc and after the next.
#[test]
fn gc_between_two_listings() {
    for publishes in [PUBLISH, SETTLE, CLONE, ROLLBACK] {
        let play = |world: &mut World, nth: u64| -> Outcome<()> {
            begin(world)?;
            let during = Box::new(publishes.clone());
            all(world, [Act::Collected { nth, turns: true, during }])?;
            end(world)
        };
        holds(10, &play);
        if publishes == SETTLE {
            needs(Planted::GenerationIgnored, 24, &play);
        }
    }
    let into_gc = |world: &mut World, nth: u64| -> Outcome<()> {
        begin(world)?;
        let (store, options) = (world.store.clone(), world.options.clone());
        let gc = move || collect(&store, &options);
        let publishes = if nth % 2 == 0 { CLONE } else { ROLLBACK };
        let acts = |world: &mut World| all(world, [publishes, REMOVE_SNAPSHOT, SETTLE]);
        match meanwhile(world, (nth / 2, true, FOR_EVER), gc, acts)? {
            Err(error) if !error.is(ErrorKind::Unavailable) => return Err(wrong("gc", &error)),
            _ => {}
        }
        end(world)
    };
    holds(40, &into_gc);
    needs(Planted::GcForgetsLog, 40, &into_gc);
}

/// A gc on a host to which some folders look as they did a while ago: it has
/// not heard of what was published since, nor of the new name of a volume that
/// nobody uses. Neither may be missing afterwards.
#[test]
fn gc_between_two_listings_that_lag() {
    let lagging = |world: &mut World, nth: u64| -> Outcome<()> {
        begin(world)?;
        let acts =
            [vec![PUBLISH], vec![CLONE, REMOVE_SNAPSHOT], vec![RENAME], vec![ROLLBACK, REMOVE_SNAPSHOT]];
        world.lagging(nth * 4, |world| all(world, acts[nth as usize % 4].clone()))?;
        end(world)
    };
    holds(16, &lagging);
    let renamed = |world: &mut World, nth: u64| -> Outcome<()> {
        begin(world)?;
        all(world, [CLONE, FLUSH, Act::Gc, Act::Gc, Act::Gc])?;
        world.lagging(nth * 4, |world| world.act(&Act::Rename { volume: 1 }))?;
        all(world, [Act::Read { volume: 1 }])?;
        end(world)
    };
    holds(8, &renamed);
    needs(Planted::GcMarksOnce, 16, &lagging);
}

/// A holder sleeps. Others take the volume, commit heads, begin segments, and
/// clean the old ones away, among them the numbers that the sleeper would use
/// next. It wakes up and makes such a number again: nothing stands in its way,
/// and it must find out all the same that this is not what counts.
#[test]
fn a_recreated_number_after_clean_up() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 3 * BLOCK), Act::Sleep { volume: 0 }])?;
        for at in 0..2 + nth / 2 {
            all(world, [SNAPSHOT, write(at * 4096, 4096), KILL, SETTLE])?;
        }
        all(world, [Act::Wake { adds_head: nth % 2 == 0 }, write(0, 512), FLUSH])?;
        all(world, [Act::Reopen { volume: 0 }, READ, KILL, READ])
    };
    holds(4, &play);
    needs(Planted::NumberMadeAgain, 4, &play);
}
