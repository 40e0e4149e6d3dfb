//! What each sector of a volume may be: the model.

use std::sync::Arc;

use super::Rng;
use crate::volume::Volume;

pub const SECTOR: usize = 512;

/// What was tried on a sector, oldest first, beginning with what is durable.
/// `true`: it was said to be done.
type Tried = Vec<(u64, bool)>;

/// Of every sector, which writes it may hold. 0: zeroes.
#[derive(Clone, Debug)]
pub struct Content(Vec<Tried>);

/// The sectors of one write.
pub fn sectors(tag: u64, count: usize) -> Vec<u8> {
    tag.to_le_bytes().repeat(count * SECTOR / 8)
}

impl Content {
    /// Nothing was written yet.
    pub fn zeroes(sectors: usize) -> Content {
        Content(vec![vec![(0, true)]; sectors])
    }

    pub fn bytes(&self) -> usize {
        self.0.len() * SECTOR
    }

    /// A write of `tag` (0: zeroes). `done`: it was said to be done.
    pub fn tried(&mut self, first: usize, count: usize, tag: u64, done: bool) {
        self.0[first..first + count].iter_mut().for_each(|sector| sector.push((tag, done)));
    }

    /// Everything that was said to be done is durable.
    pub fn flushed(&mut self) {
        for sector in &mut self.0 {
            let last = sector.iter().rposition(|(_, done)| *done).unwrap_or(0);
            sector.drain(..last);
        }
    }

    /// Whoever wrote is gone: what was not flushed may be gone too.
    pub fn cut_off(&mut self) {
        self.0.iter_mut().flatten().for_each(|(_, done)| *done = false);
    }

    /// It has become what a snapshot holds, or may have.
    pub fn rolled_back(&mut self, then: &Content, done: bool) {
        for (sector, then) in self.0.iter_mut().zip(&then.0) {
            match done {
                true => sector.clone_from(then),
                false => sector.extend(then.iter().map(|(tag, _)| (*tag, false))),
            }
        }
    }

    /// What was read is what it is from now on.
    pub fn settle_on(&mut self, data: &[u8]) {
        for (sector, there) in self.0.iter_mut().zip(data.chunks_exact(SECTOR)) {
            let tag = tag_of(there);
            sector.clear();
            sector.push((tag, true));
        }
    }

    pub fn sector_count(&self) -> usize {
        self.0.len()
    }

    /// Panics at the first sector that is nothing it may be.
    pub fn check(&self, data: &[u8], first: usize, what: &str) {
        for (at, there) in data.chunks_exact(SECTOR).enumerate() {
            let sector = &self.0[first + at];
            let tag = tag_of(there);
            let at = first + at;
            assert!(there == sectors(tag, 1), "{what}: sector {at} is torn within");
            // Nobody has cut anything off since the last that was done.
            let from = sector.iter().rposition(|(_, done)| *done).unwrap_or(0);
            let is_known = sector[from..].iter().any(|(tried, _)| *tried == tag);
            assert!(is_known, "{what}: sector {at} is write {tag}, and may be {:?}", &sector[from..]);
        }
    }

    /// As `check`, of a whole volume or snapshot; what was read.
    pub fn check_all(&self, volume: &Arc<Volume>, what: &str) -> Vec<u8> {
        let mut data = vec![0xEE; self.bytes()];
        let read = volume.read_at(0, &mut data);
        read.unwrap_or_else(|error| panic!("{what}: {}", error.full()));
        self.check(&data, 0, what);
        data
    }

    /// A range of it: often small, sometimes blocks.
    pub fn range(&self, rng: &mut Rng, block_bytes: u64) -> (usize, usize) {
        let (all, block) = (self.0.len() as u64, block_bytes / SECTOR as u64);
        let (first, count) = match rng.below(8) {
            0 => (rng.below(all / block) * block, block),
            1 => (rng.below(all), 1 + rng.below(2 * block)),
            2..=4 => (rng.below(all / 8) * 8, 8),
            _ => (rng.below(all), 1 + rng.below(12)),
        };
        (first as usize, count.min(all - first) as usize)
    }
}

fn tag_of(sector: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&sector[..8]);
    u64::from_le_bytes(bytes)
}
