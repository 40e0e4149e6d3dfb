//! The catalog of a store: which volumes there are, their heads, snapshots
//! and clones, who may write to them, and who maintains the store.
//!
//! Everything here is a few small objects; nothing costs more for a larger
//! volume. Each object is written once, by `create`, and never changed. State
//! that moves on (heads, leases, generations) is a family of numbered objects:
//! the highest number counts, and of two that create the same number one wins.

pub mod clone;
pub mod epoch;
pub mod head;
pub mod identity;
pub mod lease;
pub mod lease_format;
mod lease_hold;
mod lease_moved;
mod lease_renew;
pub mod maintenance;
pub mod moved;
mod numbered;
pub mod scrub;
pub mod snapshot;
pub mod standby;
pub mod volume;

#[cfg(test)]
mod tests;

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::name::{Id, SnapshotName};

/// Where a clone came from. For people and for `ls --tree`: a clone's head has
/// the map's root and needs nothing of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub volume: Id,
    pub snapshot: SnapshotName,
    pub snapshot_id: Id,
}

/// Size of the largest volume: offsets are signed 64-bit numbers in QEMU.
pub const VOLUME_BYTES_MAX: u64 = i64::MAX as u64;

fn write_parent(out: &mut Writer, parent: Option<&Parent>) {
    out.u8(u8::from(parent.is_some()));
    if let Some(parent) = parent {
        out.id(parent.volume);
        out.id(parent.snapshot_id);
        out.text(parent.snapshot.as_str());
    }
}

fn read_parent(fields: &mut Reader<'_>) -> Result<Option<Parent>> {
    if !read_bool(fields)? {
        return Ok(None);
    }
    let volume = fields.id()?;
    let snapshot_id = fields.id()?;
    let snapshot = read_snapshot_name(fields)?;
    Ok(Some(Parent { volume, snapshot, snapshot_id }))
}

fn read_snapshot_name(fields: &mut Reader<'_>) -> Result<SnapshotName> {
    let text = fields.text()?;
    SnapshotName::new(text).map_err(|_| fields.damaged("the snapshot's name in it is malformed"))
}

fn read_bool(fields: &mut Reader<'_>) -> Result<bool> {
    match fields.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(fields.damaged(format!("a yes-or-no field in it has the value {other}"))),
    }
}

/// Size and block size, checked: code above divides by the latter.
fn read_geometry(fields: &mut Reader<'_>) -> Result<(u64, u64)> {
    let size_bytes = fields.u64()?;
    let block_bytes = fields.u64()?;
    if size_bytes > VOLUME_BYTES_MAX || !crate::store::is_block_size(block_bytes) {
        return Err(fields.damaged(format!(
            "a volume of {size_bytes} bytes in blocks of {block_bytes} is not possible"
        )));
    }
    Ok((size_bytes, block_bytes))
}
