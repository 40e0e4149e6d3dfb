//! Loss of power of a place that cannot be made to lose it: everything that was
//! done there is done again in an empty one, but for what nobody had promised.

use std::sync::Arc;

use super::Rng;
use crate::backend::recording::{sector_count, Entry, Op, SECTOR_BYTES};
use crate::backend::{Backend, BackendExt};
use crate::error::{ErrorKind, Result};
use crate::name::prefix;

/// How the rest comes out.
#[derive(Clone, Copy)]
enum Rest {
    Lost,
    Kept,
    Mixed,
}

/// Plays what was recorded into the empty `place`. Says how much was lost.
pub fn replay(record: &[Entry], place: &Arc<dyn Backend>, rng: &mut Rng) -> u64 {
    let all_durable = place.capabilities().durable_on_ack;
    let rest = [Rest::Lost, Rest::Kept, Rest::Mixed, Rest::Mixed][rng.below(4) as usize];
    let mut lost = 0;
    for (at, entry) in record.iter().enumerate() {
        if !was_applied(entry) {
            continue;
        }
        if all_durable || is_durable(entry, &record[at + 1..]) {
            redo(place, &entry.op).unwrap();
            continue;
        }
        let mut kept = || match rest {
            Rest::Lost => false,
            Rest::Kept => true,
            Rest::Mixed => rng.one_in(2),
        };
        // What is not there any more cannot be written to.
        let done = match &entry.op {
            Op::Write { name, offset_bytes, data } => {
                torn(&mut kept, *offset_bytes, data.len() as u64, sector_count(&entry.op), |from, to| {
                    let (at, until) = ((from - offset_bytes) as usize, (to - offset_bytes) as usize);
                    place.write_at(name, from, &data[at..until])
                })
            }
            Op::Punch { name, offset_bytes, bytes } => {
                torn(&mut kept, *offset_bytes, *bytes, sector_count(&entry.op), |from, to| {
                    place.punch(name, from, to - from)
                })
            }
            // Its name may be there, with fewer bytes.
            Op::CreateSparse { name, bytes } if kept() => {
                let there = if kept() { *bytes } else { bytes / 2 };
                place.create_sparse(name, there).map(|()| false)
            }
            op if kept() => redo(place, op).map(|()| false),
            _ => Ok(true),
        };
        lost += u64::from(done.unwrap_or(true));
    }
    let names = place.list_all(prefix::ALL).unwrap();
    place.sync(&names).unwrap();
    lost
}

/// Writes those sectors that are kept. True: some are not.
fn torn(
    kept: &mut dyn FnMut() -> bool,
    offset_bytes: u64,
    bytes: u64,
    count: u64,
    write: impl Fn(u64, u64) -> Result<()>,
) -> Result<bool> {
    let mut is_torn = false;
    let first = offset_bytes / SECTOR_BYTES;
    for sector in first..first + count {
        let from = (sector * SECTOR_BYTES).max(offset_bytes);
        let to = ((sector + 1) * SECTOR_BYTES).min(offset_bytes + bytes);
        match kept() {
            true => write(from, to)?,
            false => is_torn = true,
        }
    }
    Ok(is_torn)
}

/// What was there and shorter has been lengthened.
fn lengthens(entry: &Entry) -> bool {
    matches!(entry.op, Op::CreateSparse { .. }) && entry.failed == Some(ErrorKind::Exists)
}

fn was_applied(entry: &Entry) -> bool {
    entry.failed.is_none() || lengthens(entry)
}

/// True if a later sync covers it. What `create` made, it made durable.
fn is_durable(entry: &Entry, later: &[Entry]) -> bool {
    let name = match &entry.op {
        Op::Create { .. } => return true,
        Op::Delete { name } => name,
        Op::CreateSparse { name, .. } | Op::Write { name, .. } | Op::Punch { name, .. } => name,
        Op::Sync { .. } | Op::SyncContent { .. } | Op::Mark(_) => return true,
    };
    let is_content = matches!(entry.op, Op::Write { .. } | Op::Punch { .. }) || lengthens(entry);
    let is_delete = matches!(entry.op, Op::Delete { .. });
    let is_after = |other: &&Entry| entry.ended.is_some_and(|ended| other.begun > ended);
    later.iter().filter(|other| other.failed.is_none()).filter(is_after).any(|other| match &other.op {
        Op::Sync { names } => !is_delete && names.contains(name),
        Op::SyncContent { names } => is_content && names.contains(name),
        // Its name could not have been taken again.
        Op::Create { name: again, .. } | Op::CreateSparse { name: again, .. } => is_delete && again == name,
        _ => false,
    })
}

fn redo(place: &Arc<dyn Backend>, op: &Op) -> Result<()> {
    // Its name was not durable, or not its length.
    let missing_is_gone = |result: Result<()>| match result {
        Err(error) if error.is(ErrorKind::NotFound) || error.is(ErrorKind::Invalid) => Ok(()),
        other => other,
    };
    match op {
        Op::Create { name, data } => place.create(name, data),
        Op::CreateSparse { name, bytes } => match place.create_sparse(name, *bytes) {
            Err(error) if error.is(ErrorKind::Exists) => Ok(()),
            other => other,
        },
        Op::Write { name, offset_bytes, data } => {
            missing_is_gone(place.write_at(name, *offset_bytes, data))
        }
        Op::Punch { name, offset_bytes, bytes } => missing_is_gone(place.punch(name, *offset_bytes, *bytes)),
        Op::Delete { name } => missing_is_gone(place.delete(name)),
        Op::Sync { .. } | Op::SyncContent { .. } | Op::Mark(_) => Ok(()),
    }
}
