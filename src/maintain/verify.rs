//! Compares the blocks of one map with the sums that it has of them, one index
//! at a time: for those who read all of them anyway.

use std::collections::HashMap;

use super::sum::Summer;
use crate::error::{Error, Result};
use crate::map::{walk_sums, Entry, Presence, Root, Sum, SumVisitor, Sums};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};

/// What a map says of the blocks that have a sum.
pub struct Verifier<'a> {
    parts: HashMap<u64, Vec<Part>>,
    summer: Summer<'a>,
    block_bytes: u64,
    verified: u64,
}

impl std::fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} verified, of {} indices left)", self.verified, self.parts.len())
    }
}

struct Part {
    name: ObjectName,
    sum: Sum,
    presence: Option<Presence>,
}

impl<'a> Verifier<'a> {
    /// Reads a map. Memory: some 200 bytes for each of its blocks that has a sum.
    /// Errors: those of reading its pages.
    pub fn of_map(store: &'a Store, root: Root, block_bytes: u64) -> Result<Verifier<'a>> {
        let granules = (block_bytes / GRANULE_BYTES) as u32;
        let mut gather = Gather(HashMap::new());
        walk_sums(store, root, granules, &mut gather)?;
        let summer = Summer::new(store.blocks().as_ref(), None);
        Ok(Verifier { parts: gather.0, summer, block_bytes, verified: 0 })
    }

    /// Before a range of the volume is read. A block is compared once.
    /// Errors: `Corrupt`, naming the block; those of reading it.
    pub fn before(&mut self, offset_bytes: u64, bytes: u64) -> Result<()> {
        let last = (offset_bytes + bytes.max(1) - 1) / self.block_bytes;
        for index in offset_bytes / self.block_bytes..=last {
            for Part { name, sum, presence } in self.parts.remove(&index).unwrap_or_default() {
                if self.summer.sum(&name, self.block_bytes, presence.as_ref())? != sum {
                    return Err(Error::corrupt(&name, "its content is not what it was when it was summed"));
                }
                self.verified += 1;
            }
        }
        Ok(())
    }

    /// Blocks that were as they should be.
    pub fn verified(&self) -> u64 {
        self.verified
    }
}

struct Gather(HashMap<u64, Vec<Part>>);

impl SumVisitor for Gather {
    fn page(&mut self, _: Id, _: &[u8; 32]) -> Result<bool> {
        Ok(true)
    }

    fn entry(&mut self, at: u64, entry: &Entry, sums: &Sums) -> Result<()> {
        entry.each_part(at, &mut |epoch, index, presence| {
            if let Some(sum) = sums.get(epoch, index) {
                let name = ObjectName::Block { epoch, index };
                let part = Part { name, sum: *sum, presence: presence.cloned() };
                self.0.entry(at).or_default().push(part);
            }
        });
        Ok(())
    }

    fn failed(&mut self, _: Id, error: Error) -> Result<()> {
        Err(error)
    }
}
