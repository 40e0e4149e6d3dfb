//! Carries ranges from one open volume to another, several at a time.

use std::sync::Arc;

use crate::error::Result;
use crate::io::Range;
use crate::thread::Crew;
use crate::volume::{Status, Volume};

/// Carried at a time by one thread.
const PIECE_BYTES: u64 = 256 << 10;
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
        'all: for (start, end) in ranges {
            let mut at = *start;
            let end = (*end).min(limit);
            while at < end {
                let until = end.min((at / PIECE_BYTES + 1) * PIECE_BYTES);
                let piece = Piece { from: Arc::clone(from), to: Arc::clone(to), start: at, end: until };
                result = self.0.send(piece).and_then(|()| carried(until - at));
                if result.is_err() {
                    break 'all;
                }
                at = until;
            }
        }
        let waited = self.0.wait();
        result.and(waited)
    }
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
