//! What can go wrong where a log grows: a segment is made too late, and who
//! writes has to wait for it; too much or too little counts as logged, and
//! writers run into the end of the log; a segment is deleted that a reader or
//! the next holder needs, or never; a batch is larger than a replay takes.
//!
//! How this proves that it cannot: logs with small segments, appended to one
//! record at a time, and asked after each.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::Memory;
use crate::backend::BackendExt;
use crate::log::replay::Replayed;
use crate::name::prefix;

const GRANULE: usize = format::ALIGN_BYTES as usize;
const VOLUME: Id = Id(7);
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 16 << 10, batch_bytes_max: 256 << 10 };

fn new_log(backend: &Arc<dyn Backend>) -> Log {
    Log::after(VOLUME, Arc::clone(backend), OPTIONS, &Replayed::default())
}

fn memory() -> Arc<dyn Backend> {
    Arc::new(Memory::new())
}

fn grow() -> Record {
    Record::Grow { size_bytes: 1 }
}

fn piece(granules: usize, done: AppendDone) -> Draft {
    let bytes = granules * GRANULE;
    let record = Record::Piece {
        block: 0,
        offset_bytes: 0,
        bytes: bytes as u32,
        data_granule: 0,
        sums: Vec::new(),
    };
    Draft { record, data: Some(IoBuf::copy_of(&vec![7; bytes])), done }
}

fn written(granules: usize) -> Draft {
    piece(granules, Box::new(|result| drop(result.unwrap())))
}

/// Appends a piece and waits for it.
fn append(log: &Log, granules: usize) -> Appended {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    assert!(log.append([piece(granules, Box::new(move |result| sender.send(result).unwrap()))]));
    log.drive();
    receiver.recv().unwrap().unwrap()
}

fn numbers(backend: &Arc<dyn Backend>) -> Vec<u64> {
    let number = |name| match name {
        ObjectName::Segment { number, .. } => number,
        other => panic!("{other} is no segment"),
    };
    backend.list_all(&prefix::segments_of(VOLUME)).unwrap().into_iter().map(number).collect()
}

#[test]
fn a_segment_is_wanted_once_half_of_the_one_before_is_used() {
    let backend = memory();
    let log = new_log(&backend);
    assert!(!log.wants_segment(), "nobody has appended anything");
    log.append_now(grow()).unwrap();
    assert!(log.wants_segment(), "the first one is small");
    assert!(log.prepare().unwrap() && log.has_spare());
    assert!(!log.wants_segment(), "one is there");
    assert!(!log.prepare().unwrap(), "one is enough");
    let mut start = log.tail();
    while append(&log, 1).segment.number == 1 {
        start = log.tail();
    }
    assert!(!log.has_spare());
    // To exactly the middle, which is reached in steps of two granules.
    if (log.tail() - start) / GRANULE as u64 % 2 == 1 {
        log.append_now(grow()).unwrap();
    }
    let half = OPTIONS.segment_bytes / 2;
    while log.tail() - start < half {
        assert!(!log.wants_segment(), "{} bytes are used", log.tail() - start);
        append(&log, 1);
    }
    assert_eq!(log.tail() - start, half);
    assert!(!log.wants_segment(), "half is used");
    log.append_now(grow()).unwrap();
    assert!(log.wants_segment(), "more than half is used");
    assert!(log.prepare().unwrap());
    assert_eq!(numbers(&backend), [1, 2, 3]);
}

#[test]
fn what_is_queued_counts_as_logged_until_it_is() {
    let log = new_log(&memory());
    assert_eq!((log.tail(), log.durable(), log.completed(), log.is_dirty()), (0, 0, 0, false));
    let end = Draft { record: grow(), data: None, done: Box::new(|_| {}) };
    assert!(log.append([written(2), end]), "nobody writes");
    assert!(!log.append([written(1)]), "somebody does");
    // A batch for each piece, and room for what has no data.
    let queued = (2 + 1) * GRANULE + 256 + (1 + 1) * GRANULE;
    assert_eq!(log.bytes_since(0), queued as u64);
    assert_eq!(log.bytes_since(GRANULE as u64), (queued - GRANULE) as u64);
    log.drive();
    let tail = log.tail();
    assert_eq!(tail, 5 * GRANULE as u64, "the segment's header and one batch");
    assert_eq!((log.bytes_since(0), log.bytes_since(tail), log.bytes_since(tail + 1)), (tail, 0, 0));
    assert_eq!(log.completed(), tail);
    assert!(log.is_dirty() && log.durable() < tail);
    log.sync().unwrap();
    assert_eq!((log.durable(), log.is_dirty()), (tail, false));
    assert!(log.append([written(1)]), "nobody writes any more");
}

#[test]
fn a_batch_is_as_large_as_it_may_be() {
    let room = batch::room_of(&written(1));
    assert_eq!(room, GRANULE + 8 + 256);
    // How many may go together, and how many batches five are then.
    let sizes = [(1, 5), (2 * room - 1, 5), (2 * room, 3), (3 * room - 1, 3), (3 * room, 2)];
    for (batch_bytes_max, batches) in sizes {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let options = LogOptions { batch_bytes_max, ..OPTIONS };
        let log = Log::after(VOLUME, Arc::new(faulty.clone()), options, &Replayed::default());
        assert!(log.append((0..5).map(|_| written(1))));
        log.drive();
        assert_eq!(faulty.calls(Method::Write), batches, "{batch_bytes_max} bytes at most");
    }
}

#[test]
fn a_spare_segment_is_used_if_the_batch_fits() {
    // Header, its own front and its data: 16 KiB hold a piece of one granule.
    for (granules, number) in [(1, 1), (2, 2)] {
        let backend = memory();
        let log = new_log(&backend);
        assert!(log.prepare().unwrap());
        assert_eq!(append(&log, granules).segment.number, number);
        assert_eq!(numbers(&backend), (1..=number).collect::<Vec<_>>(), "none is deleted");
        assert_eq!(log.trim(0, number).unwrap(), 0);
        assert_eq!(numbers(&backend), [number], "what nobody opened goes when a head needs a later one");
    }
}

#[test]
fn a_piece_that_is_larger_than_a_segment_gets_one_of_its_size() {
    let log = new_log(&memory());
    let at = append(&log, 40);
    assert_eq!(at.segment.bytes, (1 + 1 + 40 + 1) * GRANULE as u64, "headers, data, sums");
    assert_eq!(at.segment.read_granules(at.data_bytes, &at.sums).unwrap(), vec![7; 40 * GRANULE]);
    assert_eq!(append(&log, 1).segment.bytes, OPTIONS.segment_bytes);
}

#[test]
fn the_first_segment_needed_is_the_one_that_holds_the_position() {
    let log = new_log(&memory());
    assert_eq!(log.segment_number_at(0), 1, "the next to be made");
    let first_end = {
        let mut end = 0;
        while append(&log, 1).segment.number == 1 {
            end = log.tail();
        }
        end
    };
    assert_eq!(log.segment_number_at(0), 1);
    assert_eq!(log.segment_number_at(first_end - 1), 1);
    assert_eq!(log.segment_number_at(first_end), 2);
    assert_eq!(log.segment_number_at(log.tail()), 2, "it goes on there");
    log.sync().unwrap();
    assert!(log.prepare().unwrap());
    assert_eq!((log.segment_number_at(log.tail()), log.last_known()), (2, 3));
    log.end();
    assert!(!log.has_spare());
    assert_eq!(log.segment_number_at(log.tail() - 1), 2);
    assert_eq!(log.segment_number_at(log.tail()), 4, "the spare one's number is not used again");
}

#[test]
fn a_log_that_is_not_durable_does_not_end() {
    let log = new_log(&memory());
    append(&log, 1);
    log.end();
    assert_eq!(log.segment_number_at(log.tail()), 1, "it goes on");
    log.sync().unwrap();
    log.end();
    assert_eq!(log.segment_number_at(log.tail()), 2);
}

/// A log of three segments, and where each of them begins.
fn three_segments(backend: &Arc<dyn Backend>) -> (Log, Vec<u64>) {
    let log = new_log(backend);
    let mut starts = vec![0];
    while starts.len() < 3 {
        let tail = log.tail();
        if append(&log, 1).segment.number > starts.len() as u64 {
            starts.push(tail);
        }
    }
    log.sync().unwrap();
    (log, starts)
}

#[test]
fn a_segment_is_deleted_when_nobody_needs_it() {
    let backend = memory();
    let (log, starts) = three_segments(&backend);
    assert_eq!(log.trim(starts[1] - 1, 9).unwrap(), 0, "its last byte is needed");
    assert_eq!(log.trim(starts[1], 1).unwrap(), 0, "a head names it");
    assert_eq!(numbers(&backend), [1, 2, 3]);
    assert_eq!(log.trim(starts[1], 2).unwrap(), 1);
    assert_eq!(numbers(&backend), [2, 3]);
    assert_eq!(log.trim(log.tail(), 9).unwrap(), 1, "not the one that is written");
    assert_eq!(numbers(&backend), [3]);
    log.end();
    assert_eq!(log.trim(log.tail() - 1, 9).unwrap(), 0, "its last byte is needed");
    assert_eq!(log.trim(log.tail(), 9).unwrap(), 1);
    assert!(numbers(&backend).is_empty());
}

#[test]
fn a_segment_that_is_read_stays() {
    let backend = memory();
    let log = new_log(&backend);
    let first = append(&log, 1);
    while append(&log, 1).segment.number == 1 {}
    log.sync().unwrap();
    assert_eq!(log.trim(log.tail(), 9).unwrap(), 0);
    assert_eq!(first.segment.read_granules(first.data_bytes, &first.sums).unwrap().len(), GRANULE);
    drop(first);
    assert_eq!(log.trim(log.tail(), 9).unwrap(), 1);
    assert_eq!(numbers(&backend), [2]);
}

#[test]
fn one_that_was_never_opened_goes_when_a_head_needs_a_later_one() {
    let backend = memory();
    let (log, _) = three_segments(&backend);
    assert!(log.prepare().unwrap());
    log.end();
    assert_eq!(log.trim(0, 4).unwrap(), 0);
    assert_eq!(numbers(&backend), [1, 2, 3, 4], "the next holder counts on from it");
    assert_eq!(log.trim(0, 5).unwrap(), 0);
    assert_eq!(numbers(&backend), [1, 2, 3]);
}

#[test]
fn after_a_rollback_the_log_begins_anew() {
    let backend = memory();
    let (log, _) = three_segments(&backend);
    assert!(log.prepare().unwrap());
    let (tail, reader) = (log.tail(), log.inner.lock().segments.values().next().cloned());
    log.abandon();
    assert_eq!((log.tail(), log.is_dirty(), log.has_spare()), (tail, false, false));
    assert_eq!(log.segment_number_at(tail), 5);
    let deleted = (0..9).take_while(|_| log.delete_abandoned()).count();
    assert_eq!((deleted, numbers(&backend)), (3, vec![1]), "all but the one that is read");
    drop(reader);
    assert!(log.delete_abandoned() && !log.delete_abandoned());
    assert_eq!(append(&log, 1).segment.number, 5);
}

#[test]
fn a_failed_log_stays_failed() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let log = new_log(&(Arc::new(faulty.clone()) as Arc<dyn Backend>));
    append(&log, 1);
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Sync));
    assert!(log.sync().unwrap_err().is(ErrorKind::Unavailable));
    assert!(log.sync().unwrap_err().is(ErrorKind::Unavailable), "it is not tried again");
    assert_eq!(faulty.struck(), 1);
    assert!(log.append_now(grow()).unwrap_err().is(ErrorKind::Unavailable));
    assert!(!log.wants_segment() && !log.prepare().unwrap());
}

/// Somebody has made a higher number than this holder knows.
#[test]
fn a_later_segment_of_somebody_else_fences() {
    for theirs in [2, 3] {
        let backend = memory();
        let log = new_log(&backend);
        append(&log, 1);
        Segment::create(&backend, VOLUME, theirs, 64 << 10, theirs - 1).unwrap();
        assert!(log.prepare().unwrap_err().is(ErrorKind::Fenced), "their segment is {theirs}");
    }
}

#[test]
fn on_a_data_path_only_what_needs_a_segment_is_given_away() {
    let faulty = Faulty::with_data_path(Arc::new(Memory::new()));
    let path = faulty.data_path().unwrap();
    let log = Arc::new(new_log(&(Arc::new(faulty) as Arc<dyn Backend>)));
    let given_away = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given_away);
    let later: Later = Arc::new(move |job| {
        count.fetch_add(1, Ordering::SeqCst);
        job();
    });
    let mut segment = 0;
    for at in 0..30 {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let draft = piece(1, Box::new(move |result| sender.send(result).unwrap()));
        let leads = log.append([draft]);
        if leads {
            log.drive_native(&path, &later);
        }
        let appended = receiver.recv_timeout(std::time::Duration::from_secs(60)).unwrap().unwrap();
        let expected = usize::from(appended.segment.number != segment);
        segment = appended.segment.number;
        assert_eq!(given_away.swap(0, Ordering::SeqCst), expected, "append {at}");
    }
    assert!(segment > 2);
}

/// The segment was made, and the look for others behind it failed: the log took
/// its own segment for that of somebody who had taken over, and stopped.
#[test]
fn a_failed_look_for_others_costs_a_number_and_no_more() {
    let memory = Memory::new();
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let log = new_log(&backend);
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::List));
    assert!(log.prepare().unwrap_err().is(ErrorKind::Unavailable));
    assert_eq!((numbers(&backend), log.last_known()), (vec![1], 1));
    assert!(log.prepare().unwrap());
    append(&log, 1);
    assert_eq!((numbers(&backend), log.last_known()), (vec![1, 2], 2));
    log.sync().unwrap();
    log.trim(log.tail(), 3).unwrap();
    assert_eq!(numbers(&backend), [2], "the one that was never used goes");
}
