//! Sums of sealed blocks, kept in the leaf that names them.
//!
//! A sum is the BLAKE3 of a block's content. Of a layer, whose presence bitmap
//! says which granules count, the others are taken for zeroes: what is in
//! them is never read and may be anything. Only scrub computes sums and only
//! scrub reads them; the volumes' maps in memory do without.

use std::collections::BTreeMap;

use super::entry::Entry;
use super::PAGE_ENTRIES;
use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::name::Id;

/// BLAKE3 of what counts of a block.
pub type Sum = [u8; 32];

/// Bytes of one in a page.
pub(super) const SUM_BYTES: usize = 2 + 8 + 32;

/// A leaf's entries name at most so many blocks.
pub(super) const SUMS_MAX: usize = PAGE_ENTRIES * (super::LAYERS_MAX + 1);

/// Sums by epoch and index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<(Id, u64), Sum>);

impl Sums {
    pub fn get(&self, epoch: Id, index: u64) -> Option<&Sum> {
        self.0.get(&(epoch, index))
    }

    pub fn insert(&mut self, epoch: Id, index: u64, sum: Sum) {
        self.0.insert((epoch, index), sum);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, u64, &Sum)> {
        self.0.iter().map(|((epoch, index), sum)| (*epoch, *index, sum))
    }

    /// Those of the blocks that `entries`, of the indices from `first` on,
    /// still name.
    pub(super) fn retain(&mut self, first: u64, entries: &[Entry]) {
        let mut kept = BTreeMap::new();
        for (index, entry) in (first..).zip(entries) {
            entry.each_part(index, &mut |epoch, index, _| {
                if let Some(sum) = self.0.get(&(epoch, index)) {
                    kept.insert((epoch, index), *sum);
                }
            });
        }
        self.0 = kept;
    }

    /// Appends them; `position` is that of an epoch in the page's table.
    pub(super) fn put(&self, out: &mut Writer, position: impl Fn(Id) -> u16) {
        out.u16(self.0.len() as u16);
        for ((epoch, index), sum) in &self.0 {
            out.u16(position(*epoch));
            out.u64(*index);
            out.bytes(sum);
        }
    }

    /// Reads what `put` wrote. Error: `Corrupt`.
    pub(super) fn take(fields: &mut Reader<'_>, epochs: &[Id]) -> Result<Sums> {
        let count = usize::from(fields.u16()?);
        if count == 0 || count > SUMS_MAX || count * SUM_BYTES > fields.left() {
            return Err(fields.damaged(format!("it cannot have {count} sums of blocks")));
        }
        let mut sums = Sums::default();
        for _ in 0..count {
            let position = usize::from(fields.u16()?);
            let (index, sum) = (fields.u64()?, fields.array()?);
            let Some(epoch) = epochs.get(position) else {
                let message = format!("a sum in it is of epoch {position}, which it does not list");
                return Err(fields.damaged(message));
            };
            if sums.0.last_key_value().is_some_and(|(last, _)| *last >= (*epoch, index)) {
                return Err(fields.damaged("its sums are not in order"));
            }
            sums.insert(*epoch, index, sum);
        }
        Ok(sums)
    }
}
