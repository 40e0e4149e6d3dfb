//! Stories of blocks, pieces and the log.

use std::time::Duration;

use archipelago::fault::Planted;

use super::act::Act;
use super::story::{all, holds, meanwhile, needs, within, BLOCK};
use super::world::{wrong, Outcome, World};

/// What one waits for the other, where it should have to.
const PATIENCE: Duration = Duration::from_millis(4);

fn write(at: u64, bytes: u64) -> Act {
    Act::Write { volume: 0, at, bytes }
}

fn zero(at: u64, bytes: u64) -> Act {
    Act::Zero { volume: 0, at, bytes }
}

fn meets(nth: u64, at: u64, bytes: u64, during: Act) -> Act {
    Act::Visited { nth, turns: false, at, bytes, zero: false, during: Box::new(during) }
}

const FLUSH: Act = Act::Flush { volume: 0 };
const SNAPSHOT: Act = Act::Snapshot { volume: 0 };
const PUBLISH: Act = Act::Publish { volume: 0 };
const SETTLE: Act = Act::Settle { volume: 0 };
const WORK: Act = Act::Work { volume: 0 };
const KILL: Act = Act::Kill { volume: 0 };
const READ: Act = Act::Read { volume: 0 };
const ROLLBACK: Act = Act::Rollback { volume: 0, which: 0 };

/// Settle reads the pieces of a block and writes them to their place.
/// Meanwhile the guest writes to the same block, and flushes. The record that
/// settle then appends must not say that it holds this piece too: the index
/// would forget it, and the guest read what was there before.
#[test]
fn settle_against_later_pieces() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 2 * BLOCK), SNAPSHOT, PUBLISH, write(4096, 4096), FLUSH])?;
        all(world, [meets(nth, 4096, 4096, WORK), FLUSH, READ])?;
        all(world, [meets(nth, 5120, 512, WORK), FLUSH, KILL, READ, write(0, 512)])?;
        all(world, [meets(nth, 512, 512, SETTLE), FLUSH, KILL, READ])
    };
    holds(16, &play);
    needs(Planted::SettleClaimsLaterPieces, 16, &play);
}

/// The head's own block holds a granule, and a piece lies over it in the log,
/// because it was written while the block was settled. A write that now goes
/// to the granule in place would be hidden by the piece, and overwritten by
/// the next settle.
#[test]
fn in_place_write_over_an_indexed_piece() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 2 * BLOCK), SNAPSHOT, PUBLISH, write(0, 4096)])?;
        all(world, [meets(nth, 512, 1024, if nth % 2 == 0 { WORK } else { SETTLE })])?;
        all(world, [write(0, 4096), READ, FLUSH, READ, zero(512, 512), READ, SETTLE, READ, KILL, READ])
    };
    holds(16, &play);
    needs(Planted::InPlaceUnderPiece, 16, &play);
}

/// The guest discards a block that the head owns, and writes to it again, all
/// in one epoch. Were the block's name given up and made again, the discard
/// of the old object could reach the disk after the new one, or the entry say
/// zeroes over what was flushed. With whole blocks, parts, and blocks of which
/// only a layer is there.
#[test]
fn discard_then_rewrite_in_one_epoch() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 3 * BLOCK)])?;
        if nth & 1 == 1 {
            all(world, [SNAPSHOT, PUBLISH, write(4096, 8192), SETTLE])?;
        }
        if nth & 2 == 2 {
            all(world, [FLUSH])?;
        }
        all(world, [zero(0, 2 * BLOCK), write(0, BLOCK), write(BLOCK + 4096, 4096)])?;
        if nth & 4 == 4 {
            all(world, [SETTLE])?;
        }
        all(world, [FLUSH, READ, zero(0, BLOCK), write(512, 512), FLUSH, READ, KILL, READ])?;
        all(world, [zero(0, 2 * BLOCK), FLUSH, write(0, 4096), FLUSH, KILL, READ])
    };
    holds(8, &play);
    needs(Planted::DiscardGivesUpName, 8, &play);
}

/// A process is killed: what it had written is in the host's page cache, and
/// the next holder serves it. Then the power fails. What was read after the
/// first crash must not be gone after the second.
#[test]
fn process_killed_then_power_lost() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 2 * BLOCK)])?;
        if nth & 1 == 1 {
            all(world, [SNAPSHOT, PUBLISH])?;
        }
        // In place, into a new block, and into the log.
        all(world, [write(0, 4096), write(3 * BLOCK, BLOCK), write(BLOCK + 512, 512)])?;
        if nth & 2 == 2 {
            all(world, [SETTLE, write(0, 8192)])?;
        }
        all(world, [KILL, READ, write(4096, 512), KILL, READ])
    };
    holds(4, &play);
    needs(Planted::ReplayNotSynced, 4, &play);
}

/// Settle is under way, and the volume goes back to a snapshot; or the other
/// way round. A record that settle appends for the old content, or a page
/// that it commits, would show in the new. The two are moved against each
/// other call by call.
#[test]
fn rollback_against_settle() {
    let begin = |world: &mut World| {
        all(world, [write(0, 2 * BLOCK), SNAPSHOT, PUBLISH, write(0, 4096), write(BLOCK, BLOCK)])?;
        all(world, [write(2 * BLOCK, 4096), write(512, 512), FLUSH])
    };
    let end = |world: &mut World| all(world, [READ, write(4096, 512), FLUSH, READ, SETTLE, READ, KILL, READ]);
    let settled = |result: archipelago::Result<()>| result.map_err(|error| wrong("settle", &error));
    let into_settle = move |world: &mut World, nth: u64| -> Outcome<()> {
        begin(world)?;
        let volume = world.open(0).map_err(|stop| wrong("open", &stop.0))?;
        let settle = move || volume.settle_all();
        settled(meanwhile(world, (nth, false, PATIENCE), settle, |world| world.act(&ROLLBACK))?)?;
        end(world)
    };
    let into_rollback = move |world: &mut World, nth: u64| -> Outcome<()> {
        begin(world)?;
        let volume = world.open(0).map_err(|stop| wrong("open", &stop.0))?;
        let settle = move || volume.settle_all();
        settled(within(world, (nth, PATIENCE), settle, &ROLLBACK)?.unwrap_or(Ok(())))?;
        end(world)
    };
    holds(28, &into_settle);
    holds(24, &into_rollback);
    needs(Planted::RollbackKeepsLog, 28, &into_settle);
}

/// Two snapshots have been cut and are not published: what belongs to them
/// lies in log segments that no write goes to any more. Publishing the first
/// trims the log, while a read of the old content is on its way and the guest
/// goes on; a checkpoint trims it further. No segment may go that the second
/// still needs, or the read, or the head that a crash would leave.
#[test]
fn trim_against_a_snapshots_sealed_log() {
    let play = |world: &mut World, nth: u64| -> Outcome<()> {
        all(world, [write(0, 5 * BLOCK), SNAPSHOT, PUBLISH])?;
        for _ in 0..2 {
            all(world, (0..9).map(|at| write(at % 5 * BLOCK + at % 4 * 4096, 4096)))?;
            all(world, [SNAPSHOT])?;
        }
        all(world, [write(0, 4096), FLUSH])?;
        let trims = if nth % 2 == 0 { PUBLISH } else { SETTLE };
        let during = Box::new(meets(nth, 8192, 4096, trims));
        all(world, [Act::Held { volume: 0, at: 0, bytes: 5 * BLOCK, during }, READ, FLUSH])?;
        all(world, (0..18).map(|at| write(at % 5 * BLOCK + at % 4 * 4096, 4096)))?;
        all(world, [FLUSH, SETTLE, KILL, READ])
    };
    holds(10, &play);
    needs(Planted::TrimBeforeHead, 4, &play);
    needs(Planted::ReadNotPinned, 4, &play);
    needs(Planted::PublishWithoutPieces, 4, &play);
}
