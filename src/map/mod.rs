//! The map of a volume: which block holds which index.
//!
//! A map is a tree of immutable pages with 1,024 entries in each leaf and up
//! to 1,024 children under each parent. A parent records its child's id and
//! the BLAKE3 of the child's whole object, so the root that a head or a
//! snapshot keeps certifies every entry. A page is never changed: new entries
//! are new pages from the leaf up to a new root, and everything else is
//! shared with the old root. Whatever has no page is `Zero`.
//!
//! A leaf is of level 0, its parents of level 1, and so on. The root's level
//! is as high as the entries need; a root that has to cover more becomes
//! child 0 of a new one.
//!
//! # Format
//!
//! A page is the object `map/<id>`: the envelope of `codec` with the magic
//! `ARCHpage`, version 1, and this payload (little-endian):
//!
//! ```text
//! offset  bytes  field
//!      0      1  level, 0 to 5
//!      1      1  flags: 1, sums follow the items of a leaf; else zero
//!      2      2  count: of items in a leaf, of children in a parent; 1 to 1,024
//!      4      4  granules of a block, 4 to 16,384
//!      8      8  first: the index of the first entry beneath this page, a
//!                multiple of 1,024 to the power of level + 1, below 2^60
//! ```
//!
//! A parent goes on with its children, by ascending slot. A child that is not
//! listed is all `Zero`.
//!
//! ```text
//!      0      2  slot, 0 to 1,023
//!      2     16  page id of the child, not zero
//!     18     32  BLAKE3 of the child's object
//! ```
//!
//! A leaf goes on with the epochs that it uses, each once, ascending, and
//! then its items. What comes after the last item is `Zero`.
//!
//! ```text
//!      0      2  count of epochs, 0 to 5,120
//!      2    16n  the epochs, not zero
//! ```
//!
//! Each item begins with its tag, one byte. "epoch" is a position in the
//! table above, two bytes; "count" is two bytes and not zero; all items
//! together stand for at most 1,024 entries.
//!
//! ```text
//! tag  fields
//!   0  count                  so many entries are Zero
//!   1  count, epoch           so many entries are the epoch's blocks of their own indices
//!   2  epoch, index (8)       one entry: the epoch's block of another index
//!   3  layers (1), 1 to 4     one entry: layers, newest first, each
//!        epoch, presence        with one bit for each granule, lowest bit first, in
//!                               granules / 8 bytes rounded up; unused bits are zero
//!      base tag (1)           and what is beneath them:
//!        0                      zeroes
//!        1  epoch               the epoch's block of this index
//!        2  epoch, index (8)    the epoch's block of another index
//! ```
//!
//! If the flags say so, a leaf ends with sums of blocks that its items name
//! (see `sums`), each once, ascending by epoch and index:
//!
//! ```text
//!      0      2  count of sums, 1 to 5,120
//!      2    42n  each: epoch (2), index (8), BLAKE3 (32)
//! ```

use std::fmt;

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::name::Id;

mod cache;
mod entry;
mod format;
#[cfg(test)]
mod format_tests;
mod page;
mod resum;
mod sums;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod write;

pub use crate::presence::Presence;
pub use cache::CACHE_BYTES_DEFAULT;
pub use entry::{Base, Entry, Layer, LAYERS_MAX};
pub use format::{check_page, page_bytes_max};
#[cfg(feature = "testkit")]
pub use format::PageContent;
pub use resum::{Known, Resum};
pub use sums::{Sum, Sums};
pub use tree::Map;
pub use walk::{walk, walk_new, walk_sums, Beside, SumVisitor, Visitor};
pub use write::Written;

/// Entries of a leaf, and children of a parent.
pub const PAGE_ENTRIES: usize = 1024;
const PAGE_BITS: u32 = 10;

/// The highest level a root can have: enough for 2^60 blocks.
pub const LEVEL_MAX: u8 = 5;

/// Where a map begins, and the hash that certifies all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Root {
    pub page: Id,
    pub hash: [u8; 32],
    pub level: u8,
}

impl Root {
    /// Every entry is `Zero`.
    pub const ZERO: Root = Root { page: Id::NONE, hash: [0; 32], level: 0 };

    pub fn is_zero(&self) -> bool {
        self.page.is_none()
    }

    /// Appends the 49 bytes that heads and snapshots keep: page, hash, level.
    pub fn put(&self, out: &mut Writer) {
        out.id(self.page);
        out.bytes(&self.hash);
        out.u8(self.level);
    }

    /// Reads what `put` wrote. Error: `Corrupt`.
    pub fn take(fields: &mut Reader<'_>) -> Result<Root> {
        let root = Root { page: fields.id()?, hash: fields.array()?, level: fields.u8()? };
        if root.level > LEVEL_MAX || (root.is_zero() && root != Root::ZERO) {
            return Err(fields.damaged("the map root in it is not possible"));
        }
        Ok(root)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({} level {} hash ", self.page, self.level)?;
        self.hash.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// How many entries stand beneath a page of this level.
fn span(level: u8) -> u64 {
    1u64.checked_shl(PAGE_BITS * (u32::from(level) + 1)).unwrap_or(u64::MAX)
}

/// The index of the first entry of the page of this level that holds `index`.
fn first_of(index: u64, level: u8) -> u64 {
    index - index % span(level)
}

/// Which child of a parent of this level holds `index`.
fn slot_of(index: u64, level: u8) -> usize {
    match level {
        0 => (index % span(0)) as usize,
        level => (index % span(level) / span(level - 1)) as usize,
    }
}

/// The lowest level whose root covers `index`.
fn level_for(index: u64) -> u8 {
    (0..LEVEL_MAX).find(|level| index < span(*level)).unwrap_or(LEVEL_MAX)
}
