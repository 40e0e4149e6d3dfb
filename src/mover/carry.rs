//! Carries ranges from one open volume to another, several at a time.
//!
//! Ranges that lie near each other go as one, with what is between them: a guest
//! that writes 4 KiB here and there is followed by requests of up to `PIECE_BYTES`.
//! What lies between was not written, so it is the same in both volumes; and
//! where it is written meanwhile it is a range of the next time.

use std::sync::Arc;

use crate::error::Result;
use crate::io::Range;
use crate::thread::Crew;
use crate::volume::{Status, Volume};

/// Carried at a time by one thread.
const PIECE_BYTES: u64 = 256 << 10;
/// Carrying so much that has not changed costs less than one more request.
const GAP_BYTES: u64 = 64 << 10;
/// Volumes wait for their stores: more threads than processors.
const THREADS: usize = 8;

struct Piece {
    from: Arc<Volume>,
    to: Arc<Volume>,
    start: u64,
    end: u64,
}

/// Threads that carry.
pub(super) struct Carriers(Crew<Piece>);

impl Carriers {
    pub fn start() -> Result<Carriers> {
        let carry = |piece: Piece| piece.carry();
        Ok(Carriers(Crew::start("arch-carry", "carry a range", THREADS, 2 * THREADS, carry)?))
    }

    /// Makes `to` hold in these ranges what `from` holds. What lies beyond the
    /// end of either is passed over. Nobody else may write to `to`. `carried`
    /// is told of the bytes as they go, and may end it with an error.
    pub fn carry(
        &self,
        from: &Arc<Volume>,
        to: &Arc<Volume>,
        ranges: &[Range],
        carried: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let limit = from.size_bytes().min(to.size_bytes());
        let mut result = Ok(());
        for (start, end, changed_bytes) in pieces(ranges, limit) {
            let piece = Piece { from: Arc::clone(from), to: Arc::clone(to), start, end };
            result = self.0.send(piece).and_then(|()| carried(changed_bytes));
            if result.is_err() {
                break;
            }
        }
        let waited = self.0.wait();
        result.and(waited)
    }
}

/// Where each piece begins and ends, and how much of it is in the ranges, which are
/// in order.
fn pieces(ranges: &[Range], limit: u64) -> Vec<(u64, u64, u64)> {
    let mut all: Vec<(u64, u64, u64)> = Vec::new();
    for (start, end) in ranges {
        let (mut at, end) = (*start, (*end).min(limit));
        while at < end {
            let until = end.min((at / PIECE_BYTES + 1) * PIECE_BYTES);
            match all.last_mut() {
                // What is in another piece of the volume is another piece here.
                Some((first, last, bytes))
                    if *first / PIECE_BYTES == at / PIECE_BYTES && at.saturating_sub(*last) <= GAP_BYTES =>
                {
                    (*last, *bytes) = (until, *bytes + (until - at));
                }
                _ => all.push((at, until, until - at)),
            }
            at = until;
        }
    }
    all
}

impl Piece {
    fn carry(&self) -> Result<()> {
        let mut at = self.start;
        let mut data = Vec::new();
        while at < self.end {
            let (status, bytes) = self.from.block_status(at, self.end - at)?;
            // A range that ends at once would be asked for again for ever.
            let bytes = bytes.clamp(1, self.end - at);
            match status {
                Status::Zero => self.to.write_zeroes(at, bytes)?,
                Status::Data => {
                    data.resize(bytes as usize, 0);
                    self.from.read_at(at, &mut data)?;
                    self.to.write_at(at, &data)?;
                }
            }
            at += bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    // A range that is in no piece would be old content in the other store.
    #[test]
    fn pieces_hold_all_ranges_and_join_those_that_lie_near() {
        let ranges = [(0, 4 * KIB), (8 * KIB, 12 * KIB), (80 * KIB, 84 * KIB), (200 * KIB, 600 * KIB)];
        let expected = [
            (0, 12 * KIB, 8 * KIB),
            (80 * KIB, 84 * KIB, 4 * KIB),
            (200 * KIB, 256 * KIB, 56 * KIB),
            (256 * KIB, 512 * KIB, 256 * KIB),
            (512 * KIB, 550 * KIB, 38 * KIB),
        ];
        assert_eq!(pieces(&ranges, 550 * KIB), expected);
        assert_eq!(pieces(&[(0, u64::MAX)], 0), []);
        assert_eq!(pieces(&[], 1), []);
    }

    #[test]
    fn every_range_is_in_a_piece_wherever_it_lies() {
        let mut random = 7_u64;
        for _ in 0..200 {
            let mut ranges = Vec::new();
            let mut at = 0;
            for _ in 0..50 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let start = at + 1 + (random >> 40 & 0x3_ffff);
                at = start + 1 + (random >> 20 & 0xf_ffff);
                ranges.push((start, at));
            }
            let all = pieces(&ranges, at);
            let bytes: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
            assert_eq!(bytes, ranges.iter().map(|(start, end)| end - start).sum::<u64>());
            for pair in all.windows(2) {
                assert!(pair[0].1 <= pair[1].0, "{pair:?}");
            }
            for (start, end) in &ranges {
                let mut covered = *start;
                for (first, last, _) in all.iter().filter(|(first, last, _)| first < end && last > start) {
                    assert!(*first <= covered, "a hole before {first}");
                    assert!(last - first <= PIECE_BYTES);
                    covered = covered.max(*last);
                }
                assert!(covered >= *end, "{start} to {end}");
            }
        }
    }
}
