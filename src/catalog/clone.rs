//! Clones: volumes that start from a snapshot's map. Nothing is copied: the
//! clone's first head has the snapshot's root and an epoch of its own.

use super::head::{self, Head, LogStart};
use super::identity::wall_s;
use super::snapshot::{self, Snapshot};
use super::volume;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, VolumeName};
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
    let find = |known_number: u64| -> Result<Snapshot> {
        let there = snapshot::find(store, source.volume, &source.name)?;
        if there.id != source.id {
            return Err(Error::sentence(
                ErrorKind::NotFound,
                format!("snapshot '{}' was removed, and another one has its name now", source.name),
            ));
        }
        // That it is once, it stays.
        if there.number != known_number && !snapshot::is_for_good(store, &there)? {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("snapshot '{}' is just being published: try again", source.name),
            ));
        }
        Ok(there)
    };
    let describe = |volume: Id, epoch: Id| -> Result<Head> {
        let there = find(NONE)?;
        number.set(there.number);
        Ok(Head {
            volume,
            number: head::FIRST,
            name_hint: name.to_string(),
            size_bytes,
            block_bytes: there.block_bytes,
            epoch,
            root: there.root,
            log: LogStart::NEW,
            parent: Some(there.as_parent()),
            created_s: wall_s(),
            written: true,
        })
    };
    let still_valid = || -> Result<bool> { Ok(find(number.get())?.number == number.get()) };
    volume::publish(store, name, &describe, &still_valid)
}
