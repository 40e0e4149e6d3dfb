//! One segment of a log: an object that is filled from its front.

use std::sync::Arc;

use super::format::{Seed, SegmentHeader, ALIGN_BYTES, SEGMENT_HEADER_BYTES};
use crate::backend::{Backend, BackendExt};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName};

/// A segment that exists. Whoever reads from it holds an `Arc`: it is deleted
/// only when nobody does.
#[derive(Debug)]
pub struct Segment {
    pub name: ObjectName,
    pub number: u64,
    pub seed: Seed,
    pub bytes: u64,
    backend: Arc<dyn Backend>,
}

impl Segment {
    /// Makes segment `number`, all zeroes behind its header. `known` says
    /// which other numbers are ours: any other of this or a higher number
    /// means that somebody has taken over. Errors: `Fenced`, `NoSpace`.
    pub fn create(
        backend: &Arc<dyn Backend>,
        volume: Id,
        number: u64,
        bytes: u64,
        last_known: u64,
    ) -> Result<Segment> {
        let header = SegmentHeader { volume, number, id: clock::random_id()?, bytes };
        let mut data = header.encode();
        data.resize(bytes as usize, 0);
        let name = ObjectName::Segment { volume, number };
        if let Err(error) = backend.create(&name, &data) {
            if !error.is(ErrorKind::Exists) {
                return Err(error);
            }
            return Err(fenced(volume, number, number));
        }
        // A number that was cleaned away can be made again by a holder that
        // slept: whoever sees a later one than it knows has been fenced.
        let after = ObjectName::Segment { volume, number: last_known };
        let later = backend.list(&prefix::segments_of(volume), Some(&after), 2)?;
        if let Some(ObjectName::Segment { number: other, .. }) = later.iter().find(|other| **other != name) {
            return Err(fenced(volume, number, *other));
        }
        Ok(Segment { name, number, seed: Seed::of_segment(header.id), bytes, backend: Arc::clone(backend) })
    }

    /// Reads the header of an existing segment. Errors: `NotFound`, `Corrupt`.
    pub fn open(backend: &Arc<dyn Backend>, volume: Id, number: u64) -> Result<Segment> {
        let name = ObjectName::Segment { volume, number };
        let mut data = vec![0; SEGMENT_HEADER_BYTES as usize];
        let read_bytes = backend.read_at(&name, 0, &mut data)?;
        let header = SegmentHeader::decode(&name, &data[..read_bytes])?;
        if header.volume != volume || header.number != number {
            return Err(Error::corrupt(&name, "it says that it is another segment"));
        }
        let seed = Seed::of_segment(header.id);
        Ok(Segment { name, number, seed, bytes: header.bytes, backend: Arc::clone(backend) })
    }

    /// The whole content.
    pub fn read_whole(&self) -> Result<Vec<u8>> {
        self.backend.read_all(&self.name, self.bytes)
    }

    /// Reads whole granules from `offset_bytes`, each checked against its sum.
    pub fn read_granules(&self, offset_bytes: u64, sums: &[u64]) -> Result<Vec<u8>> {
        let mut data = vec![0; sums.len() * ALIGN_BYTES as usize];
        let read_bytes = self.backend.read_at(&self.name, offset_bytes, &mut data)?;
        let granules = data.chunks_exact(ALIGN_BYTES as usize).zip(sums);
        for (at, (granule, sum)) in (0u64..).zip(granules) {
            let end = (at as usize + 1) * ALIGN_BYTES as usize;
            if end > read_bytes || self.seed.granule_sum(granule) != *sum {
                let offset = offset_bytes + at * ALIGN_BYTES;
                return Err(
                    Error::corrupt(&self.name, "a logged piece does not match its checksum").at(offset)
                );
            }
        }
        Ok(data)
    }

    pub(super) fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.backend.write_at(&self.name, offset_bytes, data)
    }

    /// For a segment that `create` made in this process: its name is durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.backend.sync_content(std::slice::from_ref(&self.name))
    }

    /// One that is gone is as good: gc may have been faster, when a reader
    /// held up the trim.
    pub(super) fn delete(&self) -> Result<()> {
        match self.backend.delete(&self.name) {
            Err(error) if error.is(ErrorKind::NotFound) => Ok(()),
            other => other,
        }
    }
}

fn fenced(volume: Id, number: u64, there: u64) -> Error {
    let there = ObjectName::Segment { volume, number: there };
    Error::new(ErrorKind::Fenced, "add a log segment")
        .on(&ObjectName::Segment { volume, number })
        .because(format!("another process has taken this volume over: it made {there}"))
}
