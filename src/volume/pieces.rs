//! The index of logged pieces: what lies on top of the blocks.
//!
//! Pieces of one block do not overlap: a newer one trims what it covers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::log::Segment;
use crate::store::GRANULE_BYTES;

const GRANULE: u32 = GRANULE_BYTES as u32;

/// Where the bytes of a piece are.
#[derive(Clone, Debug)]
pub enum Source {
    /// Zeroes.
    Blank,
    /// In the log: `data_bytes` is where the granule that holds byte
    /// `origin_bytes` of the block begins in the segment.
    Logged { segment: Arc<Segment>, data_bytes: u64, origin_bytes: u32, sums: Arc<[u64]> },
}

/// A range of one block, `start..end` in bytes.
#[derive(Clone, Debug)]
pub struct Piece {
    pub start: u32,
    pub end: u32,
    pub position: u64,
    pub source: Source,
}

impl Piece {
    /// The granules that this piece touches, as `from..to`.
    pub fn granules(&self) -> (u32, u32) {
        (self.start / GRANULE, self.end.div_ceil(GRANULE))
    }
}

/// The pieces of one block.
#[derive(Clone, Debug, Default)]
pub struct BlockPieces {
    /// Not after the oldest piece that is left.
    pub first: u64,
    by_start: BTreeMap<u32, Piece>,
}

impl BlockPieces {
    pub fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.by_start.values()
    }

    /// The newest position among the pieces.
    pub fn last_position(&self) -> u64 {
        self.iter().map(|piece| piece.position).max().unwrap_or(0)
    }

    /// Pieces that overlap `start..end`, in order.
    pub fn overlapping(&self, start: u32, end: u32) -> impl Iterator<Item = &Piece> {
        let before = self.by_start.range(..start).next_back().map(|(_, piece)| piece);
        let first = before.filter(|piece| piece.end > start);
        first.into_iter().chain(self.by_start.range(start..end).map(|(_, piece)| piece))
    }

    /// Removes `start..end`, trimming what reaches over its borders.
    pub fn cut_out(&mut self, start: u32, end: u32) {
        let touched: Vec<u32> = self.overlapping(start, end).map(|piece| piece.start).collect();
        for key in touched {
            let Some(piece) = self.by_start.remove(&key) else { continue };
            if piece.end > end {
                let right = Piece { start: end, ..piece.clone() };
                self.by_start.insert(end, right);
            }
            if piece.start < start {
                let left = Piece { end: start, ..piece };
                self.by_start.insert(left.start, left);
            }
        }
    }

    fn insert(&mut self, piece: Piece) {
        self.cut_out(piece.start, piece.end);
        self.by_start.insert(piece.start, piece);
    }
}

/// All pieces of one generation.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    blocks: HashMap<u64, BlockPieces>,
    /// (first position, block), so that the oldest is found at once.
    order: BTreeSet<(u64, u64)>,
}

impl Pieces {
    pub fn of(&self, block: u64) -> Option<&BlockPieces> {
        self.blocks.get(&block)
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// True if a piece touches a granule of `start..end`.
    pub fn touch(&self, block: u64, start: u32, end: u32) -> bool {
        let (from, to) = (start / GRANULE * GRANULE, end.div_ceil(GRANULE) * GRANULE);
        self.of(block).is_some_and(|pieces| pieces.overlapping(from, to).next().is_some())
    }

    /// The block with the oldest piece, and a position not after that.
    pub fn oldest(&self) -> Option<(u64, u64)> {
        self.order.first().copied()
    }

    /// Blocks by age, oldest first.
    pub fn by_age(&self) -> impl Iterator<Item = u64> + '_ {
        self.order.iter().map(|(_, block)| *block)
    }

    pub fn insert(&mut self, block: u64, piece: Piece) {
        let position = piece.position;
        let pieces = self.blocks.entry(block).or_insert_with(|| {
            self.order.insert((position, block));
            BlockPieces { first: position, ..BlockPieces::default() }
        });
        pieces.insert(piece);
    }

    /// Removes what lies in `start..end` of a block.
    pub fn cut_out(&mut self, block: u64, start: u32, end: u32) {
        self.change(block, |pieces| pieces.cut_out(start, end));
    }

    /// Removes the pieces of a block that are older than `position`.
    pub fn settle(&mut self, block: u64, position: u64) {
        self.change(block, |pieces| pieces.by_start.retain(|_, piece| piece.position >= position));
    }

    fn change(&mut self, block: u64, with: impl FnOnce(&mut BlockPieces)) {
        let Some(pieces) = self.blocks.get_mut(&block) else { return };
        with(pieces);
        let old = (pieces.first, block);
        let oldest = pieces.iter().map(|piece| piece.position).min();
        match oldest {
            Some(position) => {
                if position != pieces.first {
                    pieces.first = position;
                    self.order.remove(&old);
                    self.order.insert((position, block));
                }
            }
            None => {
                self.blocks.remove(&block);
                self.order.remove(&old);
            }
        }
    }

    /// Removes every piece at or beyond a byte of a block, and all of later
    /// blocks.
    pub fn cut_off(&mut self, block: u64, start: u32) {
        let later: Vec<u64> = self.blocks.keys().copied().filter(|b| *b > block).collect();
        for block in later {
            self.cut_out(block, 0, u32::MAX);
        }
        self.cut_out(block, start, u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank(start: u32, end: u32, position: u64) -> Piece {
        Piece { start, end, position, source: Source::Blank }
    }

    fn ranges(pieces: &Pieces) -> Vec<(u32, u32, u64)> {
        let Some(block) = pieces.of(1) else { return Vec::new() };
        block.iter().map(|p| (p.start, p.end, p.position)).collect()
    }

    #[test]
    fn a_newer_piece_trims_what_it_covers() {
        let mut pieces = Pieces::default();
        pieces.insert(1, blank(0, 100, 1));
        pieces.insert(1, blank(40, 60, 2));
        pieces.insert(1, blank(90, 120, 3));
        assert_eq!(ranges(&pieces), [(0, 40, 1), (40, 60, 2), (60, 90, 1), (90, 120, 3)]);
        pieces.insert(1, blank(0, 120, 4));
        assert_eq!(ranges(&pieces), [(0, 120, 4)]);
    }

    #[test]
    fn settling_forgets_only_older_pieces() {
        let mut pieces = Pieces::default();
        pieces.insert(1, blank(0, 10, 5));
        pieces.insert(1, blank(20, 30, 6));
        pieces.insert(2, blank(20, 30, 7));
        pieces.settle(1, 6);
        assert_eq!(ranges(&pieces), [(20, 30, 6)]);
        assert_eq!(pieces.oldest(), Some((6, 1)));
        pieces.settle(1, 100);
        assert_eq!(pieces.oldest(), Some((7, 2)));
        assert!(pieces.of(1).is_none());
    }

    #[test]
    fn beyond_a_cut_off_nothing_is_left() {
        let mut pieces = Pieces::default();
        for block in 0..5 {
            pieces.insert(block, blank(0, 100, 10 + block));
        }
        assert_eq!((pieces.block_count(), pieces.is_empty()), (5, false));
        pieces.cut_off(1, 40);
        assert_eq!(ranges(&pieces), [(0, 40, 11)]);
        assert_eq!((pieces.block_count(), pieces.oldest()), (2, Some((10, 0))));
        assert_eq!(pieces.by_age().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(pieces.of(1).map(BlockPieces::last_position), Some(11));
        pieces.cut_off(1, 0);
        assert!(pieces.of(1).is_none() && pieces.of(0).is_some());
        pieces.cut_off(0, 0);
        assert!(pieces.is_empty());
    }

    #[test]
    fn touching_counts_whole_granules() {
        let mut pieces = Pieces::default();
        pieces.insert(1, blank(100, 200, 1));
        assert!(pieces.touch(1, 4000, 4001));
        assert!(!pieces.touch(1, 4096, 8192));
    }
}
