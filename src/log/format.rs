//! The bytes of a log segment.
//!
//! A segment is one object of fixed size, zeroes but for its header when it
//! is made. All numbers are little-endian.
//!
//! ```text
//! offset      what
//!      0      header: a sealed envelope, zeroes to 4096
//!   4096      batches, each beginning on a multiple of 4096; the first record
//!             of the first batch is `Open`
//! ```
//!
//! Header payload (magic `ARCHlogs`, version 1):
//!
//! ```text
//!      0     16  volume id
//!     16      8  segment number
//!     24     16  segment id: random, the seed of all checksums within
//!     40      8  segment bytes
//! ```
//!
//! Batch:
//!
//! ```text
//!      0      4  "BTCH"
//!      4      4  header bytes: these 48 and the records; at most 1 MiB
//!      8      4  total bytes: a multiple of 4096, header area and data
//!     12      4  number of records
//!     16      8  position of this batch in the log
//!     24      8  durable position: all before it was synced when this was written
//!     32     16  keyed BLAKE3 (first 16 bytes) of bytes 0..32 and the records
//!     48      n  records; zeroes to the next multiple of 4096
//!      .      .  data: the 4 KiB granules of the pieces, in order
//! ```
//!
//! Records, each a type byte and its fields:
//!
//! ```text
//! 1 Open    start position 8, previous segment 8, its sealed bytes 4
//! 2 Piece   block 8, offset 4, bytes 4, first data granule in the batch 4,
//!           for each granule touched: keyed BLAKE3, first 8 bytes
//! 3 Blank   block 8, offset 4, bytes 4: a piece of zeroes
//! 4 Own     epoch 16, block 8, settled up to position 8, flags 1 (1 whole
//!           block), unless whole: bitmap bytes 2, bitmap of present granules
//! 5 Zero    first block 8, number of blocks 8
//! 6 Cut     new epoch 16, size in bytes 8, flags 1 (1 snapshot, 2 shrink),
//!           with 1: snapshot id 16, created 8 + 4, name; with 2: the new size 8
//! 7 Grow    new size in bytes 8
//! ```
//!
//! The position of a record is its batch's position plus its place in the
//! batch: positions only grow, through all segments of a volume.

use crate::codec::{self, Kind, Reader, Writer};
use crate::error::Result;
use crate::presence::Presence;
use crate::name::{Id, ObjectName, SnapshotName};

pub const ALIGN_BYTES: u64 = 4096;
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
pub const BATCH_HEADER_BYTES: usize = 48;
/// Longest header area of a batch. Where a log ends, each granule may hold
/// what a guest made up to look like a batch: this bounds what summing costs.
pub const AREA_BYTES_MAX: usize = 1 << 20;
/// No log gets so far: a terabyte each second for a hundred thousand years.
/// What says otherwise is damaged.
pub const POSITION_MAX: u64 = 1 << 62;
const BATCH_MAGIC: &[u8; 4] = b"BTCH";
const KIND: Kind = Kind { magic: *b"ARCHlogs", version: 1 };
const HEADER_PAYLOAD_BYTES: usize = 48;

/// Seeds every checksum of one segment.
#[derive(Clone, Debug)]
pub struct Seed([u8; 32]);

impl Seed {
    pub fn of_segment(id: Id) -> Seed {
        Seed(blake3::derive_key("archipelago 2026 log segment", &id.to_bytes()))
    }

    /// The checksum of one granule of data.
    pub fn granule_sum(&self, data: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, data);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    fn batch_sum(&self, front: &[u8], records: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(front);
        hasher.update(records);
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        first
    }
}

/// What a cut takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutSnapshot {
    pub id: Id,
    pub created_s: u64,
    pub created_ns: u32,
    pub name: SnapshotName,
}

/// One change since the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Open { start: u64, previous: u64, previous_bytes: u32 },
    Piece { block: u64, offset_bytes: u32, bytes: u32, data_granule: u32, sums: Vec<u64> },
    Blank { block: u64, offset_bytes: u32, bytes: u32 },
    Own { epoch: Id, block: u64, settled: u64, presence: Option<Presence> },
    Zero { first: u64, count: u64 },
    Cut { epoch: Id, size_bytes: u64, snapshot: Option<CutSnapshot>, shrink_bytes: Option<u64> },
    Grow { size_bytes: u64 },
}

/// Granules touched by `bytes` bytes at `offset_bytes`.
pub fn granule_count(offset_bytes: u32, bytes: u32) -> u32 {
    let align = ALIGN_BYTES as u32;
    if bytes == 0 {
        return 0;
    }
    (offset_bytes + bytes - 1) / align - offset_bytes / align + 1
}

impl Record {
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Record::Open { start, previous, previous_bytes } => {
                out.u8(1);
                out.u64(*start);
                out.u64(*previous);
                out.u32(*previous_bytes);
            }
            Record::Piece { block, offset_bytes, bytes, data_granule, sums } => {
                out.u8(2);
                out.u64(*block);
                out.u32(*offset_bytes);
                out.u32(*bytes);
                out.u32(*data_granule);
                sums.iter().for_each(|sum| out.u64(*sum));
            }
            Record::Blank { block, offset_bytes, bytes } => {
                out.u8(3);
                out.u64(*block);
                out.u32(*offset_bytes);
                out.u32(*bytes);
            }
            Record::Own { epoch, block, settled, presence } => {
                out.u8(4);
                out.id(*epoch);
                out.u64(*block);
                out.u64(*settled);
                out.u8(u8::from(presence.is_none()));
                if let Some(presence) = presence {
                    let bitmap = presence.to_bytes();
                    out.u16(bitmap.len() as u16);
                    out.bytes(&bitmap);
                }
            }
            Record::Zero { first, count } => {
                out.u8(5);
                out.u64(*first);
                out.u64(*count);
            }
            Record::Cut { epoch, size_bytes, snapshot, shrink_bytes } => {
                out.u8(6);
                out.id(*epoch);
                out.u64(*size_bytes);
                out.u8(u8::from(snapshot.is_some()) | u8::from(shrink_bytes.is_some()) << 1);
                if let Some(snapshot) = snapshot {
                    out.id(snapshot.id);
                    out.u64(snapshot.created_s);
                    out.u32(snapshot.created_ns);
                    out.text(snapshot.name.as_str());
                }
                if let Some(bytes) = shrink_bytes {
                    out.u64(*bytes);
                }
            }
            Record::Grow { size_bytes } => {
                out.u8(7);
                out.u64(*size_bytes);
            }
        }
    }

    /// Reads one record; `granules` is the number in a block of this volume.
    pub fn decode(fields: &mut Reader<'_>, granules: u32) -> Result<Record> {
        Ok(match fields.u8()? {
            1 => Record::Open {
                start: fields.u64()?,
                previous: fields.u64()?,
                previous_bytes: fields.u32()?,
            },
            2 => {
                let (block, offset_bytes, bytes) = decode_range(fields, granules)?;
                let data_granule = fields.u32()?;
                let count = granule_count(offset_bytes, bytes) as usize;
                let raw = fields.take(count * 8)?;
                let sums = raw
                    .chunks_exact(8)
                    .map(|sum| sum.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
                    .collect();
                Record::Piece { block, offset_bytes, bytes, data_granule, sums }
            }
            3 => {
                let (block, offset_bytes, bytes) = decode_range(fields, granules)?;
                Record::Blank { block, offset_bytes, bytes }
            }
            4 => decode_own(fields, granules)?,
            5 => Record::Zero { first: fields.u64()?, count: fields.u64()? },
            6 => decode_cut(fields)?,
            7 => Record::Grow { size_bytes: fields.u64()? },
            other => return Err(fields.damaged(format!("a record of unknown type {other}"))),
        })
    }
}

fn decode_range(fields: &mut Reader<'_>, granules: u32) -> Result<(u64, u32, u32)> {
    let (block, offset_bytes, bytes) = (fields.u64()?, fields.u32()?, fields.u32()?);
    let block_bytes = u64::from(granules) * ALIGN_BYTES;
    if bytes == 0 || u64::from(offset_bytes) + u64::from(bytes) > block_bytes {
        return Err(fields.damaged("a piece does not lie within its block"));
    }
    Ok((block, offset_bytes, bytes))
}

/// A flag that is not known would say that the record means something else.
fn take_flags(fields: &mut Reader<'_>, known: u8) -> Result<u8> {
    match fields.u8()? {
        flags if flags & !known == 0 => Ok(flags),
        flags => Err(fields.damaged(format!("a record with the unknown flags {:#x}", flags & !known))),
    }
}

fn decode_own(fields: &mut Reader<'_>, granules: u32) -> Result<Record> {
    let (epoch, block, settled) = (fields.id()?, fields.u64()?, fields.u64()?);
    let flags = take_flags(fields, 1)?;
    let presence = if flags & 1 != 0 {
        None
    } else {
        let bytes = usize::from(fields.u16()?);
        let bitmap = fields.take(bytes)?;
        let presence = Presence::from_bytes(granules, bitmap)
            .ok_or_else(|| fields.damaged("a presence bitmap of the wrong size"))?;
        Some(presence)
    };
    Ok(Record::Own { epoch, block, settled, presence })
}

fn decode_cut(fields: &mut Reader<'_>) -> Result<Record> {
    let (epoch, size_bytes, flags) = (fields.id()?, fields.u64()?, take_flags(fields, 3)?);
    let snapshot = if flags & 1 != 0 {
        let (id, created_s, created_ns) = (fields.id()?, fields.u64()?, fields.u32()?);
        let name = SnapshotName::new(fields.text()?)
            .map_err(|_| fields.damaged("a cut's snapshot has a malformed name"))?;
        Some(CutSnapshot { id, created_s, created_ns, name })
    } else {
        None
    };
    let shrink_bytes = if flags & 2 != 0 { Some(fields.u64()?) } else { None };
    Ok(Record::Cut { epoch, size_bytes, snapshot, shrink_bytes })
}

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub volume: Id,
    pub number: u64,
    pub id: Id,
    pub bytes: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Writer::new();
        payload.id(self.volume);
        payload.u64(self.number);
        payload.id(self.id);
        payload.u64(self.bytes);
        codec::seal(KIND, &payload.0)
    }

    pub fn decode(name: &ObjectName, data: &[u8]) -> Result<SegmentHeader> {
        let sealed_bytes = codec::ENVELOPE_BYTES + HEADER_PAYLOAD_BYTES;
        let mut fields = codec::open(KIND, name, &data[..sealed_bytes.min(data.len())])?;
        let header = SegmentHeader {
            volume: fields.id()?,
            number: fields.u64()?,
            id: fields.id()?,
            bytes: fields.u64()?,
        };
        fields.finish()?;
        Ok(header)
    }
}

/// True for the front of what may pass for a batch.
pub fn begins_batch(data: &[u8]) -> bool {
    data.starts_with(BATCH_MAGIC)
}

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub header_bytes: u32,
    pub total_bytes: u32,
    pub records: u32,
    pub position: u64,
    pub durable: u64,
}

impl BatchHeader {
    /// The batch's header area: these fields, the checksum, the records.
    pub fn encode(&self, seed: &Seed, records: &[u8]) -> Vec<u8> {
        let mut out = Writer::with_capacity(BATCH_HEADER_BYTES + records.len());
        out.bytes(BATCH_MAGIC);
        out.u32(self.header_bytes);
        out.u32(self.total_bytes);
        out.u32(self.records);
        out.u64(self.position);
        out.u64(self.durable);
        let sum = seed.batch_sum(&out.0, records);
        out.bytes(&sum);
        out.bytes(records);
        out.0
    }

    /// The batch that begins here, if its header area is whole: `data` runs
    /// from here to the segment's end.
    pub fn decode(name: &ObjectName, seed: &Seed, data: &[u8]) -> Option<BatchHeader> {
        BatchHeader::decode_if(name, seed, data, |_| true)
    }

    /// As `decode`, but only if `wanted` likes what the fields say: nothing is
    /// summed for nothing where a batch is looked for.
    pub fn decode_if(
        name: &ObjectName,
        seed: &Seed,
        data: &[u8],
        wanted: impl FnOnce(&BatchHeader) -> bool,
    ) -> Option<BatchHeader> {
        if data.len() < BATCH_HEADER_BYTES || &data[..4] != BATCH_MAGIC {
            return None;
        }
        let mut fields = Reader::new(name, &data[4..]);
        let header = BatchHeader {
            header_bytes: fields.u32().ok()?,
            total_bytes: fields.u32().ok()?,
            records: fields.u32().ok()?,
            position: fields.u64().ok()?,
            durable: fields.u64().ok()?,
        };
        let sum: [u8; 16] = fields.array().ok()?;
        let (area, total) = (header.header_bytes as usize, header.total_bytes as usize);
        let sound = (BATCH_HEADER_BYTES..=AREA_BYTES_MAX).contains(&area)
            && area <= total
            && total <= data.len()
            && total as u64 % ALIGN_BYTES == 0
            && wanted(&header);
        if !sound || seed.batch_sum(&data[..32], &data[BATCH_HEADER_BYTES..area]) != sum {
            return None;
        }
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        let mut presence = Presence::empty(4);
        presence.set_range(1, 3);
        let cut = CutSnapshot {
            id: Id(5),
            created_s: 6,
            created_ns: 7,
            name: SnapshotName::new("s").unwrap(),
        };
        let records = [
            Record::Open { start: 1, previous: 2, previous_bytes: 3 },
            Record::Piece { block: 1, offset_bytes: 4000, bytes: 200, data_granule: 9, sums: vec![1, 2] },
            Record::Blank { block: 1, offset_bytes: 0, bytes: 16384 },
            Record::Own { epoch: Id(1), block: 2, settled: 3, presence: None },
            Record::Own { epoch: Id(1), block: 2, settled: 3, presence: Some(presence) },
            Record::Zero { first: 1, count: 2 },
            Record::Cut { epoch: Id(1), size_bytes: 2, snapshot: Some(cut), shrink_bytes: Some(1) },
            Record::Cut { epoch: Id(1), size_bytes: 2, snapshot: None, shrink_bytes: None },
            Record::Grow { size_bytes: 1 },
        ];
        let mut out = Writer::new();
        records.iter().for_each(|record| record.encode(&mut out));
        let mut fields = Reader::new(&ObjectName::Store, &out.0);
        for record in records {
            assert_eq!(Record::decode(&mut fields, 4).unwrap(), record);
        }
        fields.finish().unwrap();
    }

    #[test]
    fn a_piece_beyond_its_block_is_refused() {
        let mut out = Writer::new();
        Record::Blank { block: 0, offset_bytes: 4096, bytes: 16384 }.encode(&mut out);
        assert!(Record::decode(&mut Reader::new(&ObjectName::Store, &out.0), 4).is_err());
    }
}
