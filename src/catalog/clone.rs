//! Clones: volumes that start from a snapshot's map. Nothing is copied: the
//! clone's first head has the snapshot's root and an epoch of its own.

use super::head::{self, Head, LogStart};
use super::identity::wall_s;
use super::maintenance;
use super::numbered::told_of;
use super::snapshot::{self, Snapshot};
use super::volume::{self, Start};
use crate::backend::Last;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, Id, VolumeName};
use crate::store::Store;

/// No snapshot has this number.
const NONE: u64 = snapshot::FIRST - 1;

/// Makes a volume that starts from `source`, of its size or larger.
///
/// Publish, then verify: the snapshot must still be there, as it was when its
/// root was read, and no gc may have begun since; otherwise the clone is
/// undone and made again. So gc has either seen the snapshot or the clone.
/// Errors: `NotFound` if the snapshot is gone, `Busy` if it is not published
/// for good, `Exists`, `Invalid`.
pub fn clone(store: &Store, source: &Snapshot, name: &VolumeName, size_bytes: Option<u64>) -> Result<Id> {
    let size_bytes = size_bytes.unwrap_or(source.size_bytes);
    volume::check_geometry(size_bytes, source.block_bytes)?;
    if size_bytes < source.size_bytes {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!(
                "a clone of {size_bytes} bytes is smaller than its snapshot of {}: clone it as it is, \
                 then use archipelago resize --shrink",
                source.size_bytes
            ),
        ));
    }
    // The number of the snapshot that the head of this try was made from.
    let number = std::cell::Cell::new(NONE);
    let look = || -> Result<Start> {
        let control = store.control().as_ref();
        let (snapshots, heads) =
            (prefix::numbers_of(source.volume, &source.name), prefix::heads_of(source.volume));
        let [generation, there, head] = told_of(control, [prefix::MAINTENANCE, &snapshots, &heads])?;
        let generation = maintenance::generation_told(store, &generation)?;
        let there = of_same_id(store, source, there)?;
        // That it is once, it stays.
        if !snapshot::is_for_good_at(&head::latest_told(store, source.volume, head)?, &there) {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("snapshot '{}' is just being published: try again", source.name),
            ));
        }
        number.set(there.number);
        let head = Head {
            volume: Id::NONE,
            number: head::FIRST,
            name_hint: name.to_string(),
            size_bytes,
            block_bytes: there.block_bytes,
            epoch: Id::NONE,
            root: there.root,
            log: LogStart::NEW,
            parent: Some(there.as_parent()),
            created_s: wall_s(),
            written: true,
        };
        Ok(Start { generation, head })
    };
    let is_still = |generation: u64| -> Result<bool> {
        let snapshots = prefix::numbers_of(source.volume, &source.name);
        let [there, now] = told_of(store.control().as_ref(), [&snapshots, prefix::MAINTENANCE])?;
        let there = of_same_id(store, source, there)?;
        Ok(there.number == number.get() && maintenance::generation_told(store, &now)? == generation)
    };
    volume::publish(store, name, &look, &is_still)
}

fn of_same_id(store: &Store, source: &Snapshot, told: Last) -> Result<Snapshot> {
    let there = snapshot::find_told(store, source.volume, &source.name, told)?;
    if there.id != source.id {
        return Err(Error::sentence(
            ErrorKind::NotFound,
            format!("snapshot '{}' was removed, and another one has its name now", source.name),
        ));
    }
    Ok(there)
}
