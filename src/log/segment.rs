//! One segment of a log: an object that is filled from its front.

use std::ops::Range;
use std::sync::Arc;

use super::format::{begins_batch, Seed, SegmentHeader, ALIGN_BYTES, SEGMENT_HEADER_BYTES};
use crate::backend::window::Window;
use crate::backend::{Backend, BackendExt, DataPath};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{prefix, Id, ObjectName};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::iobuf::IoBuf;

/// What one read brings at most, and how much between two pieces that nobody
/// wants costs less than another read on a data path. Out of the page cache
/// such bytes cost as much as a call.
const JOINED_BYTES_MAX: u64 = 512 << 10;
pub(super) const GAP_BYTES_MAX: u64 = 16 << 10;
/// What is read before it is handed on.
const MEMORY_BYTES: usize = 1 << 20;

/// Whole granules of a segment, and the sums that they must have.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub offset_bytes: u64,
    pub sums: &'a [u64],
}

impl Wanted<'_> {
    fn end(&self) -> u64 {
        self.offset_bytes + self.sums.len() as u64 * ALIGN_BYTES
    }
}

/// One read for several pieces.
pub(super) struct Read {
    offset_bytes: u64,
    bytes: usize,
    /// In memory.
    at: usize,
    wanted: Range<usize>,
}

/// Joins what lies near enough.
pub(super) fn join(wanted: &[Wanted<'_>], gap_bytes_max: u64) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for (index, each) in wanted.iter().enumerate() {
        if let Some(last) = reads.last_mut() {
            let last_end = last.offset_bytes + last.bytes as u64;
            let end = each.end().max(last_end);
            let is_near = each.offset_bytes <= last_end + gap_bytes_max;
            if is_near && end - last.offset_bytes <= JOINED_BYTES_MAX {
                last.bytes = (end - last.offset_bytes) as usize;
                last.wanted.end = index + 1;
                continue;
            }
        }
        let bytes = (each.end() - each.offset_bytes) as usize;
        reads.push(Read { offset_bytes: each.offset_bytes, bytes, at: 0, wanted: index..index + 1 });
    }
    let mut at = 0;
    for read in &mut reads {
        if at > 0 && at + read.bytes > MEMORY_BYTES {
            at = 0;
        }
        read.at = at;
        at += read.bytes;
    }
    reads
}

/// How many of them are in memory together.
fn in_memory(reads: &[Read]) -> usize {
    let later = reads.iter().skip(1).position(|read| read.at == 0);
    later.map_or(reads.len(), |at| at + 1)
}

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

/// A segment that cannot be used.
#[derive(Debug)]
pub struct NotMade {
    pub error: Error,
    /// It is there all the same, and ours.
    pub is_there: bool,
}

impl From<Error> for NotMade {
    fn from(error: Error) -> NotMade {
        NotMade { error, is_there: false }
    }
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
    ) -> std::result::Result<Segment, NotMade> {
        let header = SegmentHeader { volume, number, id: clock::random_id()?, bytes };
        // Zeroed by the system: memory that is only read is never really there.
        let (mut data, front) = (vec![0; bytes as usize], header.encode());
        data[..front.len()].copy_from_slice(&front);
        let name = ObjectName::Segment { volume, number };
        if let Err(error) = backend.create(&name, &data) {
            if !error.is(ErrorKind::Exists) {
                return Err(error.into());
            }
            return Err(fenced(volume, number, number).into());
        }
        // A number that was cleaned away can be made again by a holder that
        // slept: whoever sees a later one than it knows has been fenced.
        let after = ObjectName::Segment { volume, number: last_known };
        let later = backend
            .list(&prefix::segments_of(volume), Some(&after), 2)
            .map_err(|error| NotMade { error, is_there: true })?;
        let looks = !fault::on(fault::Planted::NumberMadeAgain);
        match later.iter().find(|other| **other != name) {
            Some(ObjectName::Segment { number: other, .. }) if looks => {
                return Err(fenced(volume, number, *other).into());
            }
            _ => {}
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
        let wanted = Wanted { offset_bytes, sums };
        let mut data = vec![0; sums.len() * ALIGN_BYTES as usize];
        let read_bytes = self.backend.read_at(&self.name, offset_bytes, &mut data)?;
        self.verify(&wanted, &data[..read_bytes])?;
        Ok(data)
    }

    /// Reads many pieces, ordered by offset: in few large reads, and where the
    /// backend can several at once that take small gaps between pieces along.
    /// Every granule is checked against its sum. `visit` gets the index
    /// and the content of each.
    pub fn read_many(
        &self,
        wanted: &[Wanted<'_>],
        in_flight_max: usize,
        mut visit: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let path = self.backend.data_path();
        let path = path.filter(|path| ALIGN_BYTES as usize % path.alignment_bytes() == 0);
        let reads = join(wanted, if path.is_some() { GAP_BYTES_MAX } else { 0 });
        let mut data = Vec::new();
        let mut left = reads.as_slice();
        while !left.is_empty() {
            let (reads, later) = left.split_at(in_memory(left));
            left = later;
            let bytes = reads.iter().map(|read| read.bytes).sum();
            let buf = IoBuf::alloc(bytes);
            let outcomes = match &path {
                Some(path) => self.read_side_by_side(path, reads, in_flight_max, &buf),
                None => self.read_in_turn(reads, &buf),
            };
            for (read, outcome) in reads.iter().zip(outcomes) {
                for index in read.wanted.clone() {
                    let each = wanted[index];
                    // What cannot be read may be a gap that nobody wants.
                    if !outcome {
                        visit(index, &self.read_granules(each.offset_bytes, each.sums)?);
                        continue;
                    }
                    data.resize((each.end() - each.offset_bytes) as usize, 0);
                    buf.copy_to(read.at + (each.offset_bytes - read.offset_bytes) as usize, &mut data);
                    self.verify(&each, &data)?;
                    visit(index, &data);
                }
            }
        }
        Ok(())
    }

    /// Which reads succeeded.
    fn read_side_by_side(
        &self,
        path: &Arc<dyn DataPath>,
        reads: &[Read],
        in_flight_max: usize,
        buf: &IoBuf,
    ) -> Vec<bool> {
        let window = Arc::new(Window::new(in_flight_max));
        let outcomes: Arc<[AtomicBool]> = reads.iter().map(|_| AtomicBool::new(false)).collect();
        for (index, read) in reads.iter().enumerate() {
            // Never an error: none is handed to it.
            if window.enter(0).is_err() {
                break;
            }
            let (window, outcomes) = (Arc::clone(&window), Arc::clone(&outcomes));
            let done = Box::new(move |result: Result<()>| {
                outcomes[index].store(result.is_ok(), Ordering::Release);
                window.leave(0, Ok(()));
            });
            path.submit_read(&self.name, read.offset_bytes, buf.slice(read.at, read.bytes), done);
        }
        drop(window.wait_all());
        outcomes.iter().map(|outcome| outcome.load(Ordering::Acquire)).collect()
    }

    fn read_in_turn(&self, reads: &[Read], buf: &IoBuf) -> Vec<bool> {
        let read_one = |read: &Read| {
            let mut data = vec![0; read.bytes];
            let whole = self.backend.read_at(&self.name, read.offset_bytes, &mut data);
            buf.copy_from(read.at, &data);
            whole.is_ok_and(|read_bytes| read_bytes == read.bytes)
        };
        reads.iter().map(read_one).collect()
    }

    /// Error: `Corrupt`, at the first granule that is not what it was.
    fn verify(&self, wanted: &Wanted<'_>, data: &[u8]) -> Result<()> {
        for (at, sum) in wanted.sums.iter().enumerate() {
            let (from, to) = (at * ALIGN_BYTES as usize, (at + 1) * ALIGN_BYTES as usize);
            let granule = data.get(from..to);
            if granule.is_none_or(|granule| self.seed.granule_sum(granule) != *sum) {
                let offset = wanted.offset_bytes + from as u64;
                return Err(
                    Error::corrupt(&self.name, "a logged piece does not match its checksum").at(offset)
                );
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.backend.write_at(&self.name, offset_bytes, data)
    }

    /// Makes sure that no batch begins here, now and after a crash.
    pub(super) fn clear_batch(&self, offset_bytes: u64) -> Result<()> {
        let mut front = vec![0; ALIGN_BYTES as usize];
        let read_bytes = self.backend.read_at(&self.name, offset_bytes, &mut front)?;
        if !begins_batch(&front[..read_bytes]) {
            return Ok(());
        }
        front.fill(0);
        self.backend.write_at(&self.name, offset_bytes, &front)?;
        self.sync()
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

#[cfg(test)]
mod tests {
    //! How reads are joined: too much at once takes memory, too little time.

    use super::*;

    const KIB: u64 = 1 << 10;

    /// Of the reads of these pieces (where, how long) the place in memory and
    /// the length of each, by what is in memory together.
    fn joined(pieces: &[(u64, u64)]) -> Vec<Vec<(usize, usize)>> {
        let sums = [0; 256];
        let sums_of = |bytes: u64| &sums[..(bytes / ALIGN_BYTES) as usize];
        let wanted: Vec<Wanted<'_>> =
            pieces.iter().map(|(at, bytes)| Wanted { offset_bytes: *at, sums: sums_of(*bytes) }).collect();
        let reads = join(&wanted, GAP_BYTES_MAX);
        let (mut left, mut out) = (reads.as_slice(), Vec::new());
        while !left.is_empty() {
            let (some, later) = left.split_at(in_memory(left));
            out.push(some.iter().map(|read| (read.at, read.bytes)).collect());
            left = later;
        }
        out
    }

    #[test]
    fn memory_holds_a_mebibyte_at_a_time() {
        let apart = |count: u64, bytes: usize| {
            joined(&(0..count).map(|at| (at << 21, bytes as u64)).collect::<Vec<_>>())
        };
        let half = 512 << 10;
        let two = vec![(0, half), (half, half)];
        assert_eq!(apart(5, half), [two.clone(), two, vec![(0, half)]]);
        let more = half + (4 << 10);
        assert_eq!(apart(2, more), [vec![(0, more)], vec![(0, more)]]);
        assert_eq!(apart(3, 1 << 20), [vec![(0, 1 << 20)], vec![(0, 1 << 20)], vec![(0, 1 << 20)]]);
    }

    #[test]
    fn what_is_near_is_read_together_up_to_a_limit() {
        let sizes = |pieces: &[(u64, u64)]| {
            joined(pieces).concat().into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
        };
        let at = 4096 * KIB;
        assert_eq!(sizes(&[(at, 256 * KIB), (at + 256 * KIB, 256 * KIB)]), [512 << 10]);
        assert_eq!(sizes(&[(at, 256 * KIB), (at + 256 * KIB, 260 * KIB)]), [256 << 10, 260 << 10]);
        assert_eq!(sizes(&[(at, 4 * KIB), (at + 20 * KIB, 4 * KIB)]), [24 << 10], "a gap of 16 KiB");
        assert_eq!(sizes(&[(at, 4 * KIB), (at + 24 * KIB, 4 * KIB)]), [4 << 10, 4 << 10], "one of 20 KiB");
        assert_eq!(sizes(&[(at, 16 * KIB), (at + 4 * KIB, 4 * KIB)]), [16 << 10], "one within another");
    }
}
