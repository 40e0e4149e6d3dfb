//! The test of the contract: what every backend must do, one function for
//! each promise. A new backend adds one constructor to `tests/conformance.rs`; one
//! in another crate calls `run` in a test of its own (`docs/backends.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use super::{conformance_data::*, conformance_each::*};
use super::{Backend, BackendExt, Last, LockMode};
use crate::error::{ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};

pub(super) const BLOCK_BYTES: u64 = 64 << 10;

/// Makes an empty store of the backend under test.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Backend>;

/// One promise and its test.
pub type Check = (&'static str, fn(Open<'_>));

/// Every promise of the contract.
pub const CHECKS: &[Check] = &[
    ("create makes a whole object", create_makes_a_whole_object),
    ("create of a taken name changes nothing", create_of_a_taken_name_changes_nothing),
    ("of many creators one wins", of_many_creators_one_wins),
    ("several are made, and each is told of", several_are_made_and_each_is_told_of),
    ("the last of each is told or is not", the_last_of_each_is_told_or_is_not),
    ("missing objects are NotFound", missing_objects_are_not_found),
    ("reads are short only at the end", reads_are_short_only_at_the_end),
    ("writes are read back", writes_are_read_back),
    ("writes beyond the end are refused", writes_beyond_the_end_are_refused),
    ("stores without overwriting say so", stores_without_overwriting_say_so),
    ("sparse objects are zeroes", sparse_objects_are_zeroes),
    ("what a crash left short is made whole", what_a_crash_left_short_is_made_whole),
    ("punched ranges are zeroes", punched_ranges_are_zeroes),
    ("concurrent writers do not disturb each other", concurrent_writers_do_not_disturb_each_other),
    ("sync takes any number of names", sync_takes_any_number_of_names),
    ("sync of content takes any number of names", sync_of_content_takes_any_number_of_names),
    ("deleted objects are gone", deleted_objects_are_gone),
    ("copies are whole and apart", copies_are_whole_and_apart),
    ("lists are complete, ordered and paged", lists_are_complete_ordered_and_paged),
    ("lists of nothing are empty", lists_of_nothing_are_empty),
    ("lists are of one moment if they say so", lists_are_of_one_moment_if_they_say_so),
    ("names come back as other objects", names_come_back_as_other_objects),
    ("locks exclude", locks_exclude),
    ("the data path reads and writes", the_data_path_reads_and_writes),
    ("the data path is off the submitting thread", the_data_path_is_off_the_submitting_thread),
    ("the data path takes many at once", the_data_path_takes_many_at_once),
    ("the data path reports errors", the_data_path_reports_errors),
    ("what the data path wrote is synced", what_the_data_path_wrote_is_synced),
];

/// Runs every check, each on an empty store.
pub fn run(open: impl Fn() -> Arc<dyn Backend>) {
    for (promise, check) in CHECKS {
        eprint_promise(promise);
        check(&open);
    }
}

/// Shown by the test runner when the check fails.
#[allow(clippy::print_stderr)]
fn eprint_promise(promise: &str) {
    eprintln!("conformance: {promise}");
}

pub(super) fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(0x00e0_0000_0000_0000_0000_0000_0000_0001), index }
}

fn every_kind() -> Vec<ObjectName> {
    let volume = Id(0x1234_5678_9abc_def0_0000_0000_0000_0007);
    vec![
        ObjectName::Store,
        ObjectName::Volume(VolumeName::new("web-1.disk0").unwrap()),
        ObjectName::Head { volume, number: 1 },
        ObjectName::Segment { volume, number: 1 },
        ObjectName::Page(Id(99)),
        block(5),
        ObjectName::Snapshot { volume, name: SnapshotName::new("daily.1").unwrap(), number: 0 },
        ObjectName::Epoch(Id(77)),
        ObjectName::Maintenance(3),
        ObjectName::Scrub(4),
        ObjectName::Lease { volume, number: u64::MAX },
    ]
}

/// The kinds that are written after they were made.
fn written_kinds() -> Vec<ObjectName> {
    let is_written =
        |name: &ObjectName| matches!(name, ObjectName::Block { .. } | ObjectName::Segment { .. });
    every_kind().into_iter().filter(is_written).collect()
}

/// Bytes that tell where they belong.
pub(super) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at as u64 * 31 + seed * 131) % 251) as u8 + 1).collect()
}

pub(super) fn content(store: &dyn Backend, name: &ObjectName) -> Vec<u8> {
    store.read_all(name, 1 << 30).unwrap()
}

#[track_caller]
pub(super) fn assert_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.full());
}

fn create_makes_a_whole_object(open: Open<'_>) {
    let store = open();
    let sizes = [0, 1, 511, 512, 4096, 5000, 65_536, 100_001, 9, 7, 33];
    for (name, bytes) in every_kind().into_iter().zip(sizes) {
        let data = pattern(bytes as u64, bytes);
        store.create(&name, &data).unwrap();
        assert_eq!(store.stat(&name).unwrap().bytes, bytes as u64, "{name}");
        assert_eq!(content(&*store, &name), data, "{name}");
    }
    assert_eq!(store.list_all(prefix::ALL).unwrap().len(), every_kind().len());
}

fn create_of_a_taken_name_changes_nothing(open: Open<'_>) {
    let store = open();
    for name in every_kind() {
        store.create(&name, b"first").unwrap();
        assert_kind(store.create(&name, b"second, and longer"), ErrorKind::Exists);
        if store.capabilities().overwrite_in_place && written_kinds().contains(&name) {
            for bytes in [0, 1, 5] {
                assert_kind(store.create_sparse(&name, bytes), ErrorKind::Exists);
            }
        }
        assert_eq!(content(&*store, &name), b"first", "{name}");
    }
    if store.capabilities().overwrite_in_place {
        store.create_sparse(&block(6), BLOCK_BYTES).unwrap();
        store.write_at(&block(6), 0, b"kept").unwrap();
        assert_kind(store.create_sparse(&block(6), BLOCK_BYTES), ErrorKind::Exists);
        assert_kind(store.create(&block(6), b"x"), ErrorKind::Exists);
        assert_eq!(&content(&*store, &block(6))[..4], b"kept");
    }
}

fn of_many_creators_one_wins(open: Open<'_>) {
    const THREADS: usize = 4;
    let store = open();
    for number in 0..25 {
        let name = &ObjectName::Head { volume: Id(number / 5 + 1), number: u64::try_from(number).unwrap() };
        let barrier = Barrier::new(THREADS);
        let winners = AtomicUsize::new(0);
        let winner = AtomicUsize::new(usize::MAX);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, barrier, winners, winner) = (&store, &barrier, &winners, &winner);
                scope.spawn(move || {
                    barrier.wait();
                    match store.create(name, &pattern(thread as u64, 3000 + thread)) {
                        Ok(()) => {
                            winners.fetch_add(1, Ordering::SeqCst);
                            winner.store(thread, Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Exists, "{}", error.full()),
                    }
                    // Whoever lost sees the winner's object, whole.
                    let there = content(&**store, name);
                    assert!((0..THREADS).any(|t| there == pattern(t as u64, 3000 + t)));
                });
            }
        });
        assert_eq!(winners.into_inner(), 1, "{name}");
        let winner = winner.into_inner();
        assert_eq!(content(&*store, name), pattern(winner as u64, 3000 + winner));
    }
}

fn missing_objects_are_not_found(open: Open<'_>) {
    let store = open();
    for name in every_kind() {
        assert_kind(store.read_at(&name, 0, &mut [0; 4]), ErrorKind::NotFound);
        assert_kind(store.stat(&name), ErrorKind::NotFound);
        assert_kind(store.delete(&name), ErrorKind::NotFound);
        if !store.capabilities().durable_on_ack {
            assert_kind(store.sync(std::slice::from_ref(&name)), ErrorKind::NotFound);
        }
        assert_kind(store.copy(&name, &block(1)), ErrorKind::NotFound);
        if store.capabilities().overwrite_in_place && written_kinds().contains(&name) {
            assert_kind(store.write_at(&name, 0, b"x"), ErrorKind::NotFound);
            assert_kind(store.punch(&name, 0, 1), ErrorKind::NotFound);
        }
    }
}

fn reads_are_short_only_at_the_end(open: Open<'_>) {
    let store = open();
    for (index, bytes) in [(1, 8192_usize), (2, 10_000)] {
        let data = pattern(7, bytes);
        store.create(&block(index), &data).unwrap();
        let shapes = [(0, bytes), (0, bytes + 1), (513, 4096), (bytes - 1, 5), (4095, 2), (17, 0)];
        for (offset, wanted) in shapes {
            let mut buf = vec![0xee; wanted];
            let got = store.read_at(&block(index), offset as u64, &mut buf).unwrap();
            assert_eq!(got, wanted.min(bytes - offset), "{wanted} bytes at {offset} of {bytes}");
            assert_eq!(buf[..got], data[offset..offset + got]);
        }
        assert_eq!(store.read_at(&block(index), bytes as u64, &mut [0; 9]).unwrap(), 0);
        assert_eq!(store.read_at(&block(index), 1 << 40, &mut [0; 9]).unwrap(), 0);
    }
}

/// Writes of all shapes, mirrored in memory.
fn writes_are_read_back(open: Open<'_>) {
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    for (index, object_bytes) in [(1_u64, BLOCK_BYTES as usize), (2, 70_001)] {
        let name = block(index);
        store.create(&name, &pattern(1, object_bytes)).unwrap();
        let mut mirror = pattern(1, object_bytes);
        let end = object_bytes;
        let shapes = [(0, 4096), (4096, 512), (5000, 1), (8191, 2), (12_345, 20_000), (end - 3, 3), (0, end)];
        for (seed, (offset, bytes)) in (10..).zip(shapes) {
            let data = pattern(seed, bytes);
            store.write_at(&name, offset as u64, &data).unwrap();
            mirror[offset..offset + bytes].copy_from_slice(&data);
            assert!(content(&*store, &name) == mirror, "{bytes} bytes at {offset}");
            assert_eq!(store.stat(&name).unwrap().bytes, object_bytes as u64);
        }
        store.write_at(&name, 5, b"").unwrap();
        store.sync(std::slice::from_ref(&name)).unwrap();
        assert!(content(&*store, &name) == mirror);
    }
}

fn writes_beyond_the_end_are_refused(open: Open<'_>) {
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    let data = pattern(1, 4096);
    store.create(&block(1), &data).unwrap();
    for offset in [4095, 4096, 8192, u64::MAX - 1] {
        assert_kind(store.write_at(&block(1), offset, b"ab"), ErrorKind::Invalid);
        assert_kind(store.punch(&block(1), offset, 2), ErrorKind::Invalid);
    }
    assert_eq!(content(&*store, &block(1)), data);
}

fn stores_without_overwriting_say_so(open: Open<'_>) {
    let store = open();
    if store.capabilities().overwrite_in_place {
        return;
    }
    store.create(&block(1), b"data").unwrap();
    assert_kind(store.write_at(&block(1), 0, b"x"), ErrorKind::Invalid);
    assert_kind(store.punch(&block(1), 0, 1), ErrorKind::Invalid);
    assert_kind(store.create_sparse(&block(2), 9), ErrorKind::Invalid);
}

fn sparse_objects_are_zeroes(open: Open<'_>) {
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    for name in written_kinds() {
        store.create_sparse(&name, 4 << 20).unwrap();
        let stat = store.stat(&name).unwrap();
        assert_eq!(stat.bytes, 4 << 20);
        match store.capabilities().tells_room {
            true => assert!(stat.allocated_bytes <= 64 << 10, "{name} takes {} bytes", stat.allocated_bytes),
            false => assert_eq!(stat.allocated_bytes, stat.bytes),
        }
        store.write_at(&name, 1 << 20, b"island").unwrap();
        let data = content(&*store, &name);
        assert_eq!(&data[1 << 20..(1 << 20) + 6], b"island");
        assert_eq!(data.iter().filter(|byte| **byte != 0).count(), 6);
    }
    store.sync(&written_kinds()).unwrap();
}

/// Whoever goes on where a crash was does not know: it makes what it needs, and
/// uses what is there.
fn what_a_crash_left_short_is_made_whole(open: Open<'_>) {
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    for (index, left) in [(1, &b""[..]), (2, b"left"), (3, &pattern(5, 4097))] {
        let name = block(index);
        store.create(&name, left).unwrap();
        // It may be known, with the length that it has.
        assert_eq!(content(&*store, &name), left);
        assert_kind(store.write_at(&name, BLOCK_BYTES - 4, b"end!"), ErrorKind::Invalid);
        for _ in 0..2 {
            assert_kind(store.create_sparse(&name, BLOCK_BYTES), ErrorKind::Exists);
            assert_eq!(store.stat(&name).unwrap().bytes, BLOCK_BYTES);
        }
        store.write_at(&name, BLOCK_BYTES - 4, b"end!").unwrap();
        store.sync(std::slice::from_ref(&name)).unwrap();
        let mut whole = left.to_vec();
        whole.resize(BLOCK_BYTES as usize - 4, 0);
        whole.extend_from_slice(b"end!");
        assert!(content(&*store, &name) == whole, "{} bytes were left", left.len());
        if let Some(path) = store.data_path() {
            let buf = crate::sys::iobuf::IoBuf::copy_of(&pattern(6, 4096));
            wait(|done| path.submit_write(&name, BLOCK_BYTES - 4096, buf, done)).unwrap();
            assert!(content(&*store, &name).ends_with(&pattern(6, 4096)));
        }
    }
}

fn punched_ranges_are_zeroes(open: Open<'_>) {
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    for (index, bytes) in [(1_u64, BLOCK_BYTES as usize), (2, 70_001)] {
        let name = block(index);
        let mut mirror = pattern(3, bytes);
        store.create(&name, &mirror).unwrap();
        let tail = (bytes - 5000, 5000);
        let shapes = [(4096, 4096), (100, 5), (10_000, 9000), (20_479, 4098), tail, (9, 0), (0, bytes)];
        for (offset, length) in shapes {
            store.punch(&name, offset as u64, length as u64).unwrap();
            mirror[offset..offset + length].fill(0);
            assert!(content(&*store, &name) == mirror, "{length} bytes at {offset} of {bytes}");
        }
        assert_eq!(store.stat(&name).unwrap().bytes, bytes as u64);
    }
}

/// Neighbours within one granule, or one page of a cache, too.
fn concurrent_writers_do_not_disturb_each_other(open: Open<'_>) {
    const THREADS: usize = 4;
    let store = open();
    if !store.capabilities().overwrite_in_place {
        return;
    }
    for piece_bytes in [512_usize, 100, 4096] {
        let name = block(piece_bytes as u64);
        store.create_sparse(&name, BLOCK_BYTES).unwrap();
        let pieces = BLOCK_BYTES as usize / piece_bytes;
        let barrier = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, name, barrier) = (&store, &name, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for piece in (thread..pieces).step_by(THREADS) {
                        let data = pattern(piece as u64, piece_bytes);
                        store.write_at(name, (piece * piece_bytes) as u64, &data).unwrap();
                    }
                });
            }
        });
        let data = content(&*store, &name);
        for piece in 0..pieces {
            let there = &data[piece * piece_bytes..(piece + 1) * piece_bytes];
            assert!(there == pattern(piece as u64, piece_bytes), "piece {piece} of {piece_bytes} bytes");
        }
    }
}

fn sync_takes_any_number_of_names(open: Open<'_>) {
    let store = open();
    store.sync(&[]).unwrap();
    let mut names = Vec::new();
    for index in 0..12 {
        store.create(&block(index), &pattern(index, 4096)).unwrap();
        names.push(block(index));
        if store.capabilities().overwrite_in_place {
            store.write_at(&block(index), 1, b"changed").unwrap();
        }
        store.sync(&names).unwrap();
    }
    store.sync(&[block(1), block(1)]).unwrap();
    names.push(block(1000));
    if !store.capabilities().durable_on_ack {
        assert_kind(store.sync(&names), ErrorKind::NotFound);
    }
}

/// Its meaning shows in a crash: see the model of a file system for `dir`.
fn sync_of_content_takes_any_number_of_names(open: Open<'_>) {
    let store = open();
    store.sync_content(&[]).unwrap();
    let mut names = Vec::new();
    for index in 0..12 {
        store.create(&block(index), &pattern(index, 4096)).unwrap();
        names.push(block(index));
        if store.capabilities().overwrite_in_place {
            store.write_at(&block(index), 1, b"changed").unwrap();
        }
        store.sync_content(&names).unwrap();
    }
    store.sync_content(&[block(1), block(1)]).unwrap();
    store.sync(&names).unwrap();
    store.sync_content(&names).unwrap();
    assert_eq!(&content(&*store, &block(3))[8..16], &pattern(3, 4096)[8..16]);
    names.push(block(1000));
    if !store.capabilities().durable_on_ack {
        assert_kind(store.sync_content(&names), ErrorKind::NotFound);
    }
}

fn deleted_objects_are_gone(open: Open<'_>) {
    let store = open();
    for name in every_kind() {
        store.create(&name, b"data").unwrap();
        content(&*store, &name);
        store.delete(&name).unwrap();
        assert_kind(store.stat(&name), ErrorKind::NotFound);
        assert_kind(store.read_at(&name, 0, &mut [0; 4]), ErrorKind::NotFound);
        assert_kind(store.delete(&name), ErrorKind::NotFound);
    }
    assert_eq!(store.list_all(prefix::ALL).unwrap(), Vec::<ObjectName>::new());
}

fn copies_are_whole_and_apart(open: Open<'_>) {
    let store = open();
    let mut data = pattern(4, 300_000);
    // Holes at both ends and in between must stay zeroes.
    data[..65_536].fill(0);
    data[131_072..200_000].fill(0);
    store.create(&block(1), &data).unwrap();
    store.copy(&block(1), &block(2)).unwrap();
    assert!(content(&*store, &block(2)) == data);
    assert_kind(store.copy(&block(1), &block(2)), ErrorKind::Exists);
    if !store.capabilities().overwrite_in_place {
        return;
    }
    store.write_at(&block(2), 0, b"other").unwrap();
    assert!(content(&*store, &block(1)) == data);
    store.create_sparse(&block(3), 4 << 20).unwrap();
    store.write_at(&block(3), 1 << 20, b"island").unwrap();
    store.copy(&block(3), &block(4)).unwrap();
    assert!(content(&*store, &block(4)) == content(&*store, &block(3)));
    let allocated_bytes = store.stat(&block(4)).unwrap().allocated_bytes;
    if store.capabilities().tells_room {
        assert!(allocated_bytes <= 256 << 10, "the copy of a sparse object takes {allocated_bytes} bytes");
    }
}

fn many_names() -> Vec<ObjectName> {
    let mut names = every_kind();
    for text in ["a", "a-b", "a.b", "a0", "Z", "web-1"] {
        names.push(ObjectName::Volume(VolumeName::new(text).unwrap()));
        for volume in [Id(1), Id(2)] {
            let name = SnapshotName::new(text).unwrap();
            names.push(ObjectName::Snapshot { volume, name: name.clone(), number: 0 });
            names.push(ObjectName::Snapshot { volume, name, number: 300 });
        }
    }
    for number in 0..30 {
        let volume = Id(u128::from(number % 3) << 100 | 5);
        names.push(ObjectName::Head { volume, number });
        names.push(ObjectName::Block { epoch: volume, index: number });
        names.push(ObjectName::Page(Id(u128::from(number) << 118 | 7)));
    }
    names
}

fn lists_are_complete_ordered_and_paged(open: Open<'_>) {
    let store = open();
    let mut texts: Vec<String> = many_names().iter().map(ToString::to_string).collect();
    for name in many_names() {
        store.create(&name, b"x").unwrap();
    }
    texts.sort();
    let mut prefixes: Vec<String> = vec![String::new()];
    for text in &texts {
        prefixes.extend(text.match_indices('/').map(|(at, _)| text[..=at].to_owned()));
    }
    prefixes.sort();
    prefixes.dedup();
    for prefix in &prefixes {
        let expected: Vec<&String> = texts.iter().filter(|text| text.starts_with(prefix)).collect();
        for count_max in [1, 2, 7, 1000] {
            let mut listed: Vec<ObjectName> = Vec::new();
            // A page that is not full is the last one.
            let mut full = true;
            loop {
                let page = store.list(prefix, listed.last(), count_max).unwrap();
                assert!(page.len() <= count_max && (full || page.is_empty()));
                if page.is_empty() {
                    break;
                }
                full = page.len() == count_max;
                listed.extend(page);
            }
            let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "'{prefix}', {count_max} at a time");
        }
    }
    // The place to go on from need not exist (any more).
    let after = ObjectName::Head { volume: Id(5), number: 4 };
    let listed = store.list(prefix::ALL, Some(&after), 1000).unwrap();
    let expected = texts.iter().filter(|text| **text > after.to_string()).count();
    assert_eq!(listed.len(), expected);
    for prefix in &prefixes {
        let last = texts.iter().rfind(|text| text.starts_with(prefix)).unwrap();
        is_told(store.last(prefix).unwrap(), Some((ObjectName::parse(last).unwrap(), b"x")));
    }
}

fn lists_of_nothing_are_empty(open: Open<'_>) {
    let store = open();
    for prefix in [prefix::ALL, prefix::VOLUMES, prefix::BLOCKS, prefix::HEADS] {
        assert!(store.list(prefix, None, 10).unwrap().is_empty());
    }
    assert!(store.list(&prefix::heads_of(Id(1)), None, 10).unwrap().is_empty());
    assert!(!matches!(store.last(&prefix::heads_of(Id(1))).unwrap(), Last::Object(..)));
    store.create(&block(1), b"x").unwrap();
    assert!(store.list(prefix::BLOCKS, None, 0).unwrap().is_empty());
    assert!(store.list(prefix::PAGES, None, 10).unwrap().is_empty());
}

/// Somebody makes the next head and deletes the one before: one of them is there
/// at any moment.
fn lists_are_of_one_moment_if_they_say_so(open: Open<'_>) {
    const HEADS: u64 = 500;
    let store = open();
    if !store.capabilities().lists_at_once {
        return;
    }
    let head = |number: u64| ObjectName::Head { volume: Id(9), number };
    store.create(&head(0), b"x").unwrap();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..HEADS {
                store.create(&head(number + 1), b"x").unwrap();
                store.delete(&head(number)).unwrap();
            }
            done.store(1, Ordering::SeqCst);
        });
        while done.load(Ordering::SeqCst) == 0 {
            let listed = store.list(&prefix::heads_of(Id(9)), None, 1000).unwrap();
            assert!(!listed.is_empty(), "a listing missed both the old head and the new one");
        }
    });
}

/// A volume is removed and another gets its name.
fn names_come_back_as_other_objects(open: Open<'_>) {
    let store = open();
    for name in every_kind() {
        for round in 0..3_u64 {
            let data = pattern(round, 1000 + round as usize);
            store.create(&name, &data).unwrap();
            assert_eq!(content(&*store, &name), data);
            store.delete(&name).unwrap();
        }
    }
}

fn locks_exclude(open: Open<'_>) {
    let store = open();
    let name = ObjectName::Lease { volume: Id(1), number: 0 };
    let other = ObjectName::Lease { volume: Id(2), number: 0 };
    if !store.capabilities().fences {
        assert_kind(store.lock(&name, LockMode::Shared).map(drop), ErrorKind::Invalid);
        return;
    }
    for _ in 0..3 {
        let held = store.lock(&name, LockMode::Exclusive).unwrap();
        assert_kind(store.lock(&name, LockMode::Exclusive).map(drop), ErrorKind::Busy);
        assert_kind(store.lock(&name, LockMode::Shared).map(drop), ErrorKind::Busy);
        drop(store.lock(&other, LockMode::Exclusive).unwrap());
        drop(held);
        let first = store.lock(&name, LockMode::Shared).unwrap();
        let second = store.lock(&name, LockMode::Shared).unwrap();
        assert_kind(store.lock(&name, LockMode::Exclusive).map(drop), ErrorKind::Busy);
        drop(first);
        assert_kind(store.lock(&name, LockMode::Exclusive).map(drop), ErrorKind::Busy);
        drop(second);
    }
    // Under contention never two at once.
    let holders = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    match store.lock(&name, LockMode::Exclusive) {
                        Ok(held) => {
                            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            holders.fetch_sub(1, Ordering::SeqCst);
                            drop(held);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.full()),
                    }
                }
            });
        }
    });
    assert!(store.list_all(prefix::ALL).unwrap().is_empty(), "a lock is not an object");
}
