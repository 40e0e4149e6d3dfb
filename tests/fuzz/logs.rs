//! Logs: headers of segments, batches, records, and the replay of whole ones.

use std::sync::Arc;

use archipelago::backend::memory::Memory;
use archipelago::backend::Backend;
use archipelago::codec::{Reader, Writer, ENVELOPE_BYTES};
use archipelago::log::format::{BatchHeader, Seed, SegmentHeader, BATCH_HEADER_BYTES};
use archipelago::log::replay::{replay, ReplayFrom};
use archipelago::log::{CutSnapshot, Record};
use archipelago::map::Presence;
use archipelago::name::{Id, ObjectName, SnapshotName};

use super::meter::most_bytes;
use super::mutate::Rng;
use super::objects::{id_at, seal_again, u64_at};
use super::pages::{behind_first_byte, granules_of};
use super::run::{check_error, refused_by_name, Kind, Outcome};

pub const ALIGN: usize = 4096;
const HEADER_BYTES: usize = ENVELOPE_BYTES + 48;
const VOLUME: Id = Id(3);
/// Granules of a block in the logs of `replay`.
pub const GRANULES: u32 = 4;

pub fn kinds() -> Vec<Kind> {
    let segment = Kind {
        name: "segment",
        seeds: headers,
        repair: seal_again,
        decode: decode_header,
        ..Kind::OBJECT
    };
    let batch =
        Kind { name: "batch", seeds: batches, repair: sum_batch, decode: decode_batch, ..Kind::OBJECT };
    let record = Kind {
        name: "record",
        seeds: records,
        repair: |data, seed, rng| behind_first_byte(data, seed, rng, |_, _, _| {}),
        decode: decode_records,
        ..Kind::OBJECT
    };
    let replay = Kind {
        name: "replay",
        seeds: logs,
        repair: |data, _, rng| repair_log(data, rng),
        decode: decode_log,
        bytes_max: 256 << 10,
        share: 4,
        ..Kind::OBJECT
    };
    vec![segment, batch, record, replay]
}

fn header(number: u64, bytes: usize) -> SegmentHeader {
    SegmentHeader { volume: VOLUME, number, id: Id(7 + u128::from(number)), bytes: bytes as u64 }
}

fn headers() -> Vec<Vec<u8>> {
    let front = header(1, 1 << 20).encode();
    let mut whole = front.clone();
    whole.resize(ALIGN, 0);
    vec![front, header(u64::MAX, 4096).encode(), whole]
}

fn decode_header(data: &[u8]) -> Result<Outcome, String> {
    let name = ObjectName::Segment { volume: VOLUME, number: 1 };
    let (header, memory_bytes) = refused_by_name(&name, || SegmentHeader::decode(&name, data))?;
    let Some(header) = header else { return Ok(Outcome { decoded: false, memory_bytes }) };
    match SegmentHeader::decode(&name, &header.encode()) {
        Ok(again) if again == header => Ok(Outcome { decoded: true, memory_bytes }),
        other => Err(format!("{header:?}, encoded and decoded, is {other:?}")),
    }
}

fn some_records(granules: u32) -> Vec<Record> {
    let mut presence = Presence::empty(granules);
    presence.set_range(1, 3);
    let name = SnapshotName::new("monday").unwrap();
    let snapshot = CutSnapshot { id: Id(5), created_s: 6, created_ns: 7, name };
    vec![
        Record::Open { start: 0, previous: 0, previous_bytes: 0 },
        Record::Blank { block: 1, offset_bytes: 0, bytes: granules * ALIGN as u32 },
        Record::Own { epoch: Id(1), block: 2, settled: 3, presence: None },
        Record::Own { epoch: Id(1), block: 2, settled: 3, presence: Some(presence) },
        Record::Zero { first: 1, count: 2 },
        Record::Cut {
            epoch: Id(2),
            size_bytes: 1 << 20,
            snapshot: Some(snapshot),
            shrink_bytes: Some(70_000),
        },
        Record::Cut { epoch: Id(4), size_bytes: 70_000, snapshot: None, shrink_bytes: None },
        Record::Grow { size_bytes: 1 << 20 },
        Record::Piece { block: 1, offset_bytes: 4000, bytes: 200, data_granule: 9, sums: vec![1, 2] },
    ]
}

fn bytes_of(records: &[Record]) -> Vec<u8> {
    let mut out = Writer::new();
    records.iter().for_each(|record| record.encode(&mut out));
    out.0
}

fn records() -> Vec<Vec<u8>> {
    let one = |record: Record| [vec![0], bytes_of(&[record])].concat();
    let each = some_records(4).into_iter().map(one);
    each.chain([
        [vec![0], bytes_of(&some_records(4))].concat(),
        [vec![2], bytes_of(&some_records(1024))].concat(),
    ])
    .collect()
}

fn records_in(fields: &mut Reader<'_>, granules: u32) -> archipelago::Result<Vec<Record>> {
    let mut records = Vec::new();
    while fields.left() > 0 {
        records.push(Record::decode(fields, granules)?);
    }
    Ok(records)
}

fn decode_records(data: &[u8]) -> Result<Outcome, String> {
    let (granules, data) = granules_of(data);
    let name = ObjectName::Segment { volume: VOLUME, number: 1 };
    let decode = |data: &[u8]| records_in(&mut Reader::new(&name, data), granules);
    let (records, memory_bytes) = refused_by_name(&name, || decode(data))?;
    let Some(records) = records else { return Ok(Outcome { decoded: false, memory_bytes }) };
    // Records have one spelling each: what a decoder ignores, it loses.
    match bytes_of(&records) == data {
        true => Ok(Outcome { decoded: true, memory_bytes }),
        false => Err(format!("{records:?} would be written otherwise")),
    }
}

/// A batch of some records at `position`, its granules filled with `byte`.
fn batch(seed: &Seed, position: u64, durable: u64, mut records: Vec<Record>, byte: u8) -> Vec<u8> {
    let area = BATCH_HEADER_BYTES + bytes_of(&records).len();
    let mut granule = area.div_ceil(ALIGN);
    let sum = seed.granule_sum(&[byte; ALIGN]);
    for record in &mut records {
        if let Record::Piece { data_granule, sums, .. } = record {
            *data_granule = granule as u32;
            granule += sums.len();
            sums.fill(sum);
        }
    }
    let count = records.len() as u32;
    let (header_bytes, total_bytes) = (area as u32, (granule * ALIGN) as u32);
    let header = BatchHeader { header_bytes, total_bytes, records: count, position, durable };
    let mut data = header.encode(seed, &bytes_of(&records));
    data.resize(area.next_multiple_of(ALIGN), 0);
    data.resize(granule * ALIGN, byte);
    data
}

fn batches() -> Vec<Vec<u8>> {
    let seed = Seed::of_segment(Id(7));
    vec![batch(&seed, 4096, 0, some_records(4), 1), batch(&seed, 1 << 40, 4096, Vec::new(), 0)]
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    data.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
}

fn plain_u64_at(data: &[u8], at: usize) -> u64 {
    data.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

/// The batch that begins here, right or wrong, summed again.
fn sum_again(data: &mut [u8], seed: &Seed, records: Option<Vec<u8>>) {
    let area = u32_at(data, 4) as usize;
    if data.len() < BATCH_HEADER_BYTES || area < BATCH_HEADER_BYTES || area > data.len() {
        return;
    }
    let header = BatchHeader {
        header_bytes: area as u32,
        total_bytes: u32_at(data, 8),
        records: u32_at(data, 12),
        position: plain_u64_at(data, 16),
        durable: plain_u64_at(data, 24),
    };
    let records = records.unwrap_or_else(|| data[BATCH_HEADER_BYTES..area].to_vec());
    data[..area].copy_from_slice(&header.encode(seed, &records));
}

fn sum_batch(data: &mut [u8], _seed: &[u8], _rng: &mut Rng) {
    sum_again(data, &Seed::of_segment(Id(7)), None);
}

fn decode_batch(data: &[u8]) -> Result<Outcome, String> {
    let name = ObjectName::Segment { volume: VOLUME, number: 1 };
    let seed = Seed::of_segment(Id(7));
    let (header, memory_bytes) = most_bytes(|| BatchHeader::decode(&name, &seed, data));
    let Some(header) = header else { return Ok(Outcome { decoded: false, memory_bytes }) };
    let area = header.header_bytes as usize;
    match header.encode(&seed, &data[BATCH_HEADER_BYTES..area]) == data[..area] {
        true => Ok(Outcome { decoded: true, memory_bytes }),
        false => Err(format!("{header:?} would be written otherwise")),
    }
}

/// A segment of three batches.
fn segment(number: u64, start: u64, opening: Record, size: usize) -> Vec<u8> {
    let header = header(number, size.max(10 * ALIGN));
    let seed = Seed::of_segment(header.id);
    let mut data = header.encode();
    data.resize(ALIGN, 0);
    let mut records = some_records(GRANULES);
    records[0] = opening;
    for (byte, records) in
        [(1, records), (2, some_records(GRANULES).split_off(8)), (3, some_records(4).split_off(3))]
    {
        let at = start.wrapping_add(data.len() as u64);
        data.extend(batch(&seed, at, start.max(at.wrapping_sub(ALIGN as u64)), records, byte));
    }
    data.resize(size.max(data.len()), 0);
    data
}

/// Logs of one, two and three segments, one behind the other.
fn logs() -> Vec<Vec<u8>> {
    let open = |start, previous, previous_bytes| Record::Open { start, previous, previous_bytes };
    let first = segment(1, 0, open(0, 0, 0), 40 << 10);
    let used = (first.len() - first.iter().rev().take_while(|byte| **byte == 0).count())
        .next_multiple_of(ALIGN);
    let second = segment(2, used as u64, open(used as u64, 1, used as u32), 0);
    let end = used as u64 + second.len() as u64;
    let third = segment(4, end, open(end, 2, second.len() as u32), 0);
    let unopened = {
        let mut data = header(3, 0).encode();
        data.resize(2 * ALIGN, 0);
        data
    };
    vec![first.clone(), [&first[..], &second].concat(), [first, second, unopened, third].concat()]
}

/// Where segments begin in an input: a header at the front of a granule.
pub fn starts(data: &[u8]) -> Vec<usize> {
    (0..data.len()).step_by(ALIGN).filter(|at| data[*at..].starts_with(b"ARCHlogs")).collect()
}

/// Makes sums right, and sometimes positions too.
pub fn repair_log(data: &mut [u8], rng: &mut Rng) {
    let starts = starts(data);
    for (index, from) in starts.iter().enumerate() {
        let to = starts.get(index + 1).copied().unwrap_or(data.len());
        repair_segment(&mut data[*from..to], rng);
    }
}

fn repair_segment(data: &mut [u8], rng: &mut Rng) {
    if data.len() < ALIGN + BATCH_HEADER_BYTES {
        return;
    }
    let mut front = data[..HEADER_BYTES].to_vec();
    let like = front.clone();
    seal_again(&mut front, &like, rng);
    data[..HEADER_BYTES].copy_from_slice(&front);
    let seed = Seed::of_segment(id_at(data, 24));
    let start = plain_u64_at(data, ALIGN + BATCH_HEADER_BYTES + 1);
    let (moves, sums) = (rng.one_in(2), !rng.one_in(4));
    for at in (ALIGN..data.len()).step_by(ALIGN) {
        if !data[at..].starts_with(b"BTCH") || data.len() - at < BATCH_HEADER_BYTES {
            continue;
        }
        if moves {
            data[at + 16..at + 24].copy_from_slice(&start.wrapping_add(at as u64).to_le_bytes());
        }
        let records = sums.then(|| summed_records(&data[at..], &seed)).flatten();
        sum_again(&mut data[at..], &seed, records);
    }
}

/// The records of a batch, with the sums that their data has now.
fn summed_records(batch: &[u8], seed: &Seed) -> Option<Vec<u8>> {
    let name = ObjectName::Store;
    let area = batch.get(BATCH_HEADER_BYTES..u32_at(batch, 4) as usize)?;
    let mut records = records_in(&mut Reader::new(&name, area), GRANULES).ok()?;
    for record in &mut records {
        if let Record::Piece { data_granule, sums, .. } = record {
            let first = *data_granule as usize * ALIGN;
            let data = batch.get(first..first + sums.len() * ALIGN)?;
            *sums = data.chunks_exact(ALIGN).map(|granule| seed.granule_sum(granule)).collect();
        }
    }
    Some(bytes_of(&records))
}

/// A store with the segments of an input, each under the name it claims.
fn store_of(data: &[u8]) -> (Arc<dyn Backend>, u64) {
    let backend: Arc<dyn Backend> = Arc::new(Memory::new());
    let starts = starts(data);
    let mut lowest = u64::MAX;
    for (index, from) in starts.iter().enumerate() {
        let to = starts.get(index + 1).copied().unwrap_or(data.len());
        let number = u64_at(&data[*from..to], 16);
        lowest = lowest.min(number);
        // Two of a number: the first counts.
        let _ = backend.create(&ObjectName::Segment { volume: VOLUME, number }, &data[*from..to]);
    }
    (backend, lowest)
}

fn decode_log(data: &[u8]) -> Result<Outcome, String> {
    let (backend, segment) = store_of(data);
    let from = ReplayFrom { segment, position: 0, tail: 0 };
    let mut found = Vec::new();
    let (replayed, memory_bytes) = most_bytes(|| {
        replay(&backend, VOLUME, GRANULES, from, &mut |each| {
            found.push((each.position, each.record, Arc::clone(each.segment), each.data_bytes));
            Ok(())
        })
    });
    let replayed = match replayed {
        Ok(replayed) => replayed,
        Err(error) => {
            // Any segment of the log may be the one with the damage.
            let name = error.object().and_then(ObjectName::parse);
            let name = name.ok_or_else(|| format!("no object is named: {}", error.full()))?;
            return check_error(&name, &error).map(|()| Outcome { decoded: false, memory_bytes });
        }
    };
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        return Err(format!("position {} is followed by {}", pair[0].0, pair[1].0));
    }
    if let Some(last) = found.last().filter(|last| last.0 >= replayed.tail) {
        return Err(format!("a record at {} lies behind the end at {}", last.0, replayed.tail));
    }
    for (position, record, segment, data_bytes) in &found {
        if let Record::Piece { sums, .. } = record {
            let read = segment.read_granules(*data_bytes, sums);
            read.map_err(|error| {
                format!("the piece at {position}, replayed, is not there: {}", error.full())
            })?;
        }
    }
    Ok(Outcome { decoded: !found.is_empty(), memory_bytes })
}

/// A record's place in the log decides what is newer: a segment that begins
/// before the end of the one before it would turn that round.
#[test]
fn a_segment_that_begins_too_early_or_at_the_end_of_all_numbers_is_refused() {
    let opened_at = |start: u64| {
        let first = segment(1, 0, Record::Open { start: 0, previous: 0, previous_bytes: 0 }, 0);
        let previous_bytes = first.len() as u32;
        let second = segment(2, start, Record::Open { start, previous: 1, previous_bytes }, 0);
        let (backend, segment) = store_of(&[first, second].concat());
        replay(&backend, VOLUME, GRANULES, ReplayFrom { segment, position: 0, tail: 0 }, &mut |_| Ok(()))
    };
    let end = 10 * ALIGN as u64;
    assert_eq!(opened_at(end).unwrap().tail, 2 * end);
    for start in [0, end - ALIGN as u64, end + 1, u64::MAX - 4095, u64::MAX - (ALIGN as u64 * 4 - 1)] {
        let error = opened_at(start).unwrap_err();
        let text = error.to_string();
        assert!(error.is(archipelago::ErrorKind::Corrupt) && text.contains("log/"), "{start}: {text}");
    }
}

/// A guest decides what lies in the granules of its pieces, and may write
/// fronts of batches there. Behind a torn end they are looked at one by one.
#[test]
fn forged_batches_behind_the_end_do_not_hold_up_a_replay() {
    const BYTES: usize = 16 << 20;
    let mut forged = segment(1, 0, Record::Open { start: 0, previous: 0, previous_bytes: 0 }, BYTES);
    let from = forged.len() - forged.iter().rev().take_while(|byte| **byte == 0).count();
    for opened in [true, false] {
        if !opened {
            forged[ALIGN] ^= 1;
        }
        for at in (from.next_multiple_of(ALIGN)..BYTES).step_by(ALIGN) {
            let left = (BYTES - at) as u32;
            forged[at..at + 4].copy_from_slice(b"BTCH");
            forged[at + 4..at + 8].copy_from_slice(&left.min(1 << 20).to_le_bytes());
            forged[at + 8..at + 12].copy_from_slice(&left.to_le_bytes());
            forged[at + 16..at + 24].copy_from_slice(&(at as u64).to_le_bytes());
            forged[at + 24..at + 32].copy_from_slice(&u64::MAX.to_le_bytes());
        }
        let (backend, segment) = store_of(&forged);
        let began = std::time::Instant::now();
        let from = ReplayFrom { segment, position: 0, tail: 0 };
        replay(&backend, VOLUME, GRANULES, from, &mut |_| Ok(())).map(drop).unwrap_or_default();
        let took = began.elapsed();
        assert!(took.as_secs() < 5, "opened {opened}: the replay of {BYTES} bytes took {took:?}");
    }
}
