//! What can go wrong when a log is read back: damage passes for its end, and
//! what a guest had flushed is gone; a segment that is missing, another one's
//! or forged is believed; or what was never durable is called damage, and the
//! volume does not open after an ordinary crash.
//!
//! How this proves that it cannot: logs of a few batches of which one byte or
//! one segment is changed, at each place that decides, with and without a sync
//! before it.

use std::sync::Arc;

use super::super::format::{BatchHeader, ALIGN_BYTES, BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::super::*;
use super::{replay, ReplayFrom, Replayed};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::{Memory, CAPABILITIES};
use crate::backend::{BackendExt, Capabilities};
use crate::codec::{Reader, Writer};
use crate::error::ErrorKind;
use crate::name::{prefix, NUMBER_MAX};

const VOLUME: Id = Id(7);
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 16 << 10, batch_bytes_max: 256 << 10 };

fn segment(number: u64) -> ObjectName {
    ObjectName::Segment { volume: VOLUME, number }
}

fn grown(log: &Log, size_bytes: u64) {
    log.append_now(Record::Grow { size_bytes }).unwrap();
}

/// Three segments; each batch is a granule and says which one it is.
fn three_segments(backend: &Arc<dyn Backend>) -> Log {
    let log = Log::after(VOLUME, Arc::clone(backend), OPTIONS, &Replayed::default());
    let mut count = 0;
    while log.last_known() < 3 {
        count += 1;
        grown(&log, count);
    }
    (1..4).for_each(|more| grown(&log, count + more));
    log.sync().unwrap();
    log
}

/// What is read back from a segment on: the sizes, and what else was found.
fn read_from(backend: &Arc<dyn Backend>, from: ReplayFrom) -> Result<(Vec<u64>, Replayed)> {
    let mut sizes = Vec::new();
    let replayed = replay(backend, VOLUME, 4, from, &mut |found| {
        if let Record::Grow { size_bytes } = found.record {
            sizes.push(size_bytes);
        }
        Ok(())
    })?;
    Ok((sizes, replayed))
}

fn read(backend: &Arc<dyn Backend>) -> Result<(Vec<u64>, Replayed)> {
    read_from(backend, ReplayFrom { segment: 1, position: 0, tail: 0 })
}

fn flip(backend: &Arc<dyn Backend>, number: u64, at: u64) {
    let mut byte = [0];
    backend.read_at(&segment(number), at, &mut byte).unwrap();
    backend.write_at(&segment(number), at, &[byte[0] ^ 1]).unwrap();
}

fn is_damage(result: &Result<(Vec<u64>, Replayed)>, number: u64) -> bool {
    let named = |error: &Error| error.object() == Some(segment(number).to_string().as_str());
    result.as_ref().is_err_and(|error| error.is(ErrorKind::Corrupt) && named(error))
}

#[test]
fn what_was_durable_is_damage_and_what_was_not_is_the_end() {
    // How many batches there are, whether each was followed by a sync, and
    // which of them is damaged.
    for (batches, synced, broken) in
        [(1, false, 0), (1, true, 0), (3, false, 0), (3, true, 0), (3, false, 1), (3, true, 1), (3, true, 2)]
    {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new());
        let log = Log::after(VOLUME, Arc::clone(&backend), OPTIONS, &Replayed::default());
        for size_bytes in 0..batches {
            grown(&log, size_bytes);
            if synced {
                log.sync().unwrap();
            }
        }
        assert_eq!(read(&backend).unwrap().0, (0..batches).collect::<Vec<_>>());
        flip(&backend, 1, SEGMENT_HEADER_BYTES + broken * ALIGN_BYTES + 50);
        let result = read(&backend);
        let what = format!("{batches} batches, synced: {synced}, {broken} is damaged");
        // Only a later batch can tell.
        match synced && broken + 1 < batches {
            true => assert!(is_damage(&result, 1), "{what}: {result:?}"),
            false => {
                let (sizes, replayed) = result.unwrap();
                assert_eq!(sizes, (0..broken).collect::<Vec<_>>(), "{what}");
                assert_eq!(replayed.segments.len(), usize::from(broken > 0), "{what}");
            }
        }
    }
}

/// The first batch is long, so that the one that knows of it is further away.
#[test]
fn the_first_batch_is_missed_wherever_the_next_one_is() {
    for granules in [1, 2, 9, 30] {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new());
        let log = Log::after(VOLUME, Arc::clone(&backend), OPTIONS, &Replayed::default());
        let record = Record::Piece {
            block: 0,
            offset_bytes: 0,
            bytes: granules * ALIGN_BYTES as u32,
            data_granule: 0,
            sums: Vec::new(),
        };
        let data = IoBuf::copy_of(&vec![7; granules as usize * ALIGN_BYTES as usize]);
        assert!(log.append([Draft { record, data: Some(data), done: Box::new(|_| {}) }]));
        log.drive();
        log.sync().unwrap();
        grown(&log, 5);
        flip(&backend, 1, SEGMENT_HEADER_BYTES + 50);
        // Blocks of 64 granules: the piece lies within one.
        let from = ReplayFrom { segment: 1, position: 0, tail: 0 };
        let result = replay(&backend, VOLUME, 64, from, &mut |_| Ok(()));
        assert!(result.is_err_and(|error| error.is(ErrorKind::Corrupt)), "{granules} granules");
    }
}

#[test]
fn a_segment_that_is_missing_or_another_one_is_told() {
    let memory = Memory::new();
    let whole: Arc<dyn Backend> = Arc::new(memory.clone());
    three_segments(&whole);
    let sizes = read(&whole).unwrap().0;
    assert_eq!(sizes, (1..=sizes.len() as u64).collect::<Vec<_>>());
    for number in 1..=2 {
        let backend: Arc<dyn Backend> = Arc::new(memory.fork());
        backend.delete(&segment(number)).unwrap();
        assert!(is_damage(&read(&backend), number), "segment {number} is missing");
        // Nobody misses what comes before the first that is needed.
        let start = read(&whole).unwrap().1.segments.keys().nth(number as usize).copied().unwrap();
        let from = ReplayFrom { segment: number + 1, position: start, tail: start };
        let (rest, replayed) = read_from(&backend, from).unwrap();
        assert!(sizes.ends_with(&rest) && rest.len() < sizes.len());
        assert_eq!(replayed.number_max, 3);
    }
    let backend: Arc<dyn Backend> = Arc::new(memory.fork());
    let other = backend.read_all(&segment(1), u64::MAX).unwrap();
    backend.delete(&segment(2)).unwrap();
    backend.create(&segment(2), &other).unwrap();
    assert!(is_damage(&read(&backend), 2), "it is segment 1");
    let foreign = ObjectName::Segment { volume: Id(8), number: 1 };
    backend.create(&foreign, &other).unwrap();
    let error = Segment::open(&backend, Id(8), 1).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt), "{}", error.full());
}

/// Opens segment 3 anew, with a first record that says this.
fn reopen(backend: &Arc<dyn Backend>, start: u64, previous_bytes: u32) {
    let third = Segment::open(backend, VOLUME, 3).unwrap();
    let mut records = Writer::new();
    Record::Open { start, previous: 2, previous_bytes }.encode(&mut records);
    let header = BatchHeader {
        header_bytes: (BATCH_HEADER_BYTES + records.0.len()) as u32,
        total_bytes: ALIGN_BYTES as u32,
        records: 1,
        position: start + SEGMENT_HEADER_BYTES,
        durable: start,
    };
    let mut batch = header.encode(&third.seed, &records.0);
    batch.resize(ALIGN_BYTES as usize, 0);
    let rest = vec![0; (third.bytes - SEGMENT_HEADER_BYTES) as usize];
    third.write(SEGMENT_HEADER_BYTES, &rest).unwrap();
    third.write(SEGMENT_HEADER_BYTES, &batch).unwrap();
}

#[test]
fn positions_only_grow_from_one_segment_to_the_next() {
    let memory = Memory::new();
    let whole: Arc<dyn Backend> = Arc::new(memory.clone());
    three_segments(&whole);
    let starts: Vec<u64> = read(&whole).unwrap().1.segments.keys().copied().collect();
    let sealed_bytes = (starts[2] - starts[1]) as u32;
    for (start, good) in [
        (starts[2], true),
        // A batch between them was cleared.
        (starts[2] + ALIGN_BYTES, true),
        (starts[2] - ALIGN_BYTES, false),
        (starts[2] + 1, false),
        (format::POSITION_MAX + ALIGN_BYTES, false),
    ] {
        let backend: Arc<dyn Backend> = Arc::new(memory.fork());
        reopen(&backend, start, sealed_bytes);
        let result = read(&backend);
        assert_eq!(result.is_ok(), good, "it begins at {start}: {result:?}");
        assert!(good || is_damage(&result, 3));
    }
    // Behind its seal nothing counts, before it all must be there.
    for (less, good) in [(0, true), (ALIGN_BYTES as u32, true)] {
        let backend: Arc<dyn Backend> = Arc::new(memory.fork());
        reopen(&backend, starts[2], sealed_bytes - less);
        assert_eq!(read(&backend).is_ok(), good);
        flip(&backend, 2, u64::from(sealed_bytes) - ALIGN_BYTES + 50);
        assert_eq!(read(&backend).is_ok(), less > 0, "{less} bytes less are sealed");
    }
}

#[test]
fn segments_are_counted_up_to_the_last_number() {
    for (number, good) in [(NUMBER_MAX, true), (NUMBER_MAX + 1, false)] {
        let backend: Arc<dyn Backend> = Arc::new(Memory::new());
        Segment::create(&backend, VOLUME, number, 16 << 10, number - 1).unwrap();
        let result = read(&backend);
        assert_eq!(result.is_ok(), good, "segment {number}: {result:?}");
        if let Ok((sizes, replayed)) = result {
            assert_eq!((sizes.len(), replayed.number_max, replayed.unused), (0, number, vec![number]));
        }
    }
}

/// What is not listed yet is asked for; an answer that does not come is no
/// sign that the log ends there.
#[test]
fn where_listings_lag_a_log_ends_only_where_the_store_says_so() {
    let memory = Memory::with(Capabilities { list_lag_s: 30, ..CAPABILITIES });
    let faulty = Faulty::new(Arc::new(memory));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    three_segments(&backend);
    let sizes = read(&backend).unwrap().0;
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Stat));
    assert!(read(&backend).unwrap_err().is(ErrorKind::Unavailable));
    assert_eq!(read(&backend).unwrap().0, sizes);
}

#[test]
fn flags_that_nobody_knows_are_damage() {
    let own = Record::Own { epoch: Id(1), block: 2, settled: 3, presence: None };
    let cut = Record::Cut { epoch: Id(1), size_bytes: 2, snapshot: None, shrink_bytes: None };
    for (record, known) in [(own, 1), (cut, 0)] {
        let mut out = Writer::new();
        record.encode(&mut out);
        let at = out.0.iter().rposition(|byte| *byte == known).unwrap();
        let decoded = |data: &[u8]| Record::decode(&mut Reader::new(&ObjectName::Store, data), 4);
        assert_eq!(decoded(&out.0).unwrap(), record);
        for flag in [4, 8, 0x40, 0x80] {
            let mut data = out.0.clone();
            data[at] |= flag;
            data.extend([0; 64]);
            let error = decoded(&data).unwrap_err();
            assert!(error.to_string().contains("flags"), "{record:?}, {flag}: {error}");
        }
    }
}

/// However little is left of a batch, it is only the end.
#[test]
fn a_segment_that_was_cut_short_ends_there() {
    let memory = Memory::new();
    let whole: Arc<dyn Backend> = Arc::new(memory.clone());
    let log = Log::after(VOLUME, Arc::clone(&whole), OPTIONS, &Replayed::default());
    (0..3).for_each(|size_bytes| grown(&log, size_bytes));
    let data = whole.read_all(&segment(1), u64::MAX).unwrap();
    let last = (SEGMENT_HEADER_BYTES + 2 * ALIGN_BYTES) as usize;
    for bytes in [0, 1, 3, 4, 47, 48, 60, 4095] {
        let backend: Arc<dyn Backend> = Arc::new(memory.fork());
        backend.delete(&segment(1)).unwrap();
        backend.create(&segment(1), &data[..last + bytes]).unwrap();
        assert_eq!(read(&backend).unwrap().0, [0, 1], "{bytes} bytes of the last batch");
    }
}

#[test]
fn a_segment_that_cannot_be_deleted_is_told_and_one_that_is_gone_is_not() {
    for (kind, good) in [(ErrorKind::Unavailable, false), (ErrorKind::NotFound, true)] {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
        let log = three_segments(&backend);
        faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Delete).named(prefix::SEGMENTS));
        assert_eq!(log.trim(log.tail(), 9).is_ok(), good, "{kind:?}");
    }
}
