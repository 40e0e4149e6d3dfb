//! A change of the store as a caller asks for it: whether the store takes it,
//! and what is recorded of it.

use std::borrow::Cow;
use std::sync::Arc;

use archipelago::error::ErrorKind;
use archipelago::name::ObjectName;

use super::disk::Op;
use super::image::{Image, SECTOR};

#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Create { name: &'a ObjectName, data: &'a [u8] },
    CreateSparse { name: &'a ObjectName, bytes: u64 },
    Write { name: &'a ObjectName, offset: u64, data: &'a [u8] },
    Sync { names: &'a [ObjectName] },
    SyncContent { names: &'a [ObjectName] },
    Delete { name: &'a ObjectName },
}

impl<'a> Change<'a> {
    pub fn operation(&self) -> &'static str {
        match self {
            Change::Create { .. } | Change::CreateSparse { .. } => "create",
            Change::Write { .. } => "write",
            Change::Sync { .. } | Change::SyncContent { .. } => "sync",
            Change::Delete { .. } => "delete",
        }
    }

    pub fn name(&self) -> Option<&'a ObjectName> {
        match self {
            Change::Create { name, .. }
            | Change::CreateSparse { name, .. }
            | Change::Write { name, .. }
            | Change::Delete { name } => Some(name),
            Change::Sync { .. } | Change::SyncContent { .. } => None,
        }
    }

    /// Why it cannot be done.
    pub fn refused_by(&self, image: &Image) -> Option<ErrorKind> {
        let is_there = |name: &ObjectName| image.get(name).is_some();
        match self {
            Change::Create { name, .. } | Change::CreateSparse { name, .. } => {
                is_there(name).then_some(ErrorKind::Exists)
            }
            Change::Write { name, offset, data } => match image.get(name) {
                None => Some(ErrorKind::NotFound),
                Some(object) => (object.bytes < offset + data.len() as u64).then_some(ErrorKind::Invalid),
            },
            Change::Sync { names } | Change::SyncContent { names } => {
                (!names.iter().all(is_there)).then_some(ErrorKind::NotFound)
            }
            Change::Delete { name } => (!is_there(name)).then_some(ErrorKind::NotFound),
        }
    }

    /// Does it, unrecorded.
    pub fn apply(&self, image: &mut Image) {
        match self {
            Change::Create { name, data } => drop(image.create(name, data.len() as u64, data)),
            Change::CreateSparse { name, bytes } => drop(image.create(name, *bytes, &[])),
            Change::Write { name, offset, data } => drop(image.write(name, *offset, data)),
            Change::Sync { .. } | Change::SyncContent { .. } => {}
            Change::Delete { name } => drop(image.delete(name)),
        }
    }

    /// As it is recorded.
    pub fn op(&self, image: &Image) -> Op {
        match *self {
            Change::Create { name, data } => Op::Create { name: name.clone(), data: Arc::from(data) },
            Change::CreateSparse { name, bytes } => Op::CreateSparse { name: name.clone(), bytes },
            Change::Write { name, offset, data } => {
                let (offset, data) = whole_sectors(image, name, offset, data);
                Op::Write { name: name.clone(), offset, data: Arc::from(data) }
            }
            Change::Sync { names } => Op::Sync { names: Arc::from(names) },
            Change::SyncContent { names } => Op::SyncContent { names: Arc::from(names) },
            Change::Delete { name } => Op::Delete { name: name.clone() },
        }
    }
}

/// Widens a write to whole sectors with what is around it.
fn whole_sectors<'a>(image: &Image, name: &ObjectName, offset: u64, data: &'a [u8]) -> (u64, Cow<'a, [u8]>) {
    let sector = SECTOR as u64;
    let end = offset + data.len() as u64;
    let (from, to) = (offset / sector * sector, end.next_multiple_of(sector));
    if from == offset && to == end {
        return (offset, Cow::Borrowed(data));
    }
    let mut wide = vec![0; (to - from) as usize];
    let there = image.get(name).map_or(0, |object| object.read(from, &mut wide));
    wide[(offset - from) as usize..(end - from) as usize].copy_from_slice(data);
    wide.truncate(there.max((end - from) as usize));
    (from, Cow::Owned(wide))
}
