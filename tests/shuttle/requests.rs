//! Requests against each other, against settling, and against failures.

use archipelago::backend::faulty::{Fault, Method, Rule};
use archipelago::io::Operation;
use archipelago::sys::iobuf::IoBuf;
use archipelago::ErrorKind;
use shuttle::thread;

use super::bed::{recovered, tagged, Bed, Make, Way, BLOCK, GRANULE};
use super::explore::{explore, same_again};

/// Two that overlap end as the later one, whatever way they go.
pub fn overlapping(way: Way, base: u8) {
    let bed = Bed::new(Make { way, base, ..Make::default() });
    let first = bed.write(0, 2 * GRANULE, 11);
    let second = bed.write(GRANULE, 2 * GRANULE, 12);
    let third = bed.write(3 * GRANULE, GRANULE, 13);
    for ticket in [&first, &second, &third] {
        assert_eq!(ticket.wait(), Ok(()));
    }
    assert_eq!(bed.read(0, 4 * GRANULE), [11, 12, 12, 13]);
    bed.close().unwrap();
}

#[test]
fn overlapping_writes_end_as_the_later_one() {
    explore("overlapping, new block", || overlapping(Way::Threads, 0));
    explore("overlapping, shared block", || overlapping(Way::Threads, 9));
    explore("overlapping, new block, data path", || overlapping(Way::Direct, 0));
    explore("overlapping, shared block, data path", || overlapping(Way::Direct, 9));
}

/// Two callers write over each other while a third reads: what both wrote is
/// all of one of them, and a read sees nothing that nobody wrote.
pub fn callers(way: Way, base: u8) {
    let bed = Bed::new(Make { way, base, ..Make::default() });
    thread::scope(|scope| {
        let bed = &bed;
        for tag in [11, 12] {
            scope.spawn(move || assert_eq!(bed.write(0, 3 * GRANULE, tag).wait(), Ok(())));
        }
        scope.spawn(move || {
            let buf = IoBuf::alloc(BLOCK as usize);
            let read = bed.submit(0, Operation::Read { buf: buf.clone() });
            assert_eq!(read.wait(), Ok(()));
            let mut data = vec![0; BLOCK as usize];
            buf.copy_to(0, &mut data);
            assert!(data.iter().all(|byte| [base, 11, 12].contains(byte)));
        });
    });
    let read = bed.read(0, BLOCK);
    assert!(read == [11, 11, 11, base] || read == [12, 12, 12, base], "{read:?}");
    bed.close().unwrap();
}

#[test]
fn writes_of_several_callers_are_not_mixed() {
    explore("callers, new block", || callers(Way::Threads, 0));
    explore("callers, shared block", || callers(Way::Threads, 9));
    explore("callers, new block, data path", || callers(Way::Cached, 0));
    explore("callers, shared block, data path", || callers(Way::Direct, 9));
}

/// Pieces come while others are being settled: none is forgotten, none comes
/// back, and a reader sees one or the other.
pub fn settling(way: Way) {
    let bed = Bed::new(Make { way, base: 9, ..Make::default() });
    thread::scope(|scope| {
        let bed = &bed;
        scope.spawn(move || {
            for (granule, tag) in [(0, 21), (1, 22), (0, 23), (0, 24)] {
                assert_eq!(bed.write(granule * GRANULE, GRANULE, tag).wait(), Ok(()));
            }
        });
        scope.spawn(move || {
            bed.device.volume().settle_all().unwrap();
            bed.device.volume().settle_all().unwrap();
        });
        scope.spawn(move || {
            let mut before = 9;
            for _ in 0..2 {
                let now = bed.read(0, GRANULE)[0];
                assert!(now >= before || before == 9, "{now} after {before}");
                assert!([9, 21, 23, 24].contains(&now));
                before = now;
            }
        });
    });
    assert_eq!(bed.read(0, BLOCK), [24, 22, 9, 9]);
    assert_eq!(bed.flush().wait(), Ok(()));
    assert_eq!(recovered(bed.synced.crashed(), BLOCK), [24, 22, 9, 9], "after a crash");
    let synced = bed.synced.clone();
    bed.close().unwrap();
    assert_eq!(recovered(synced.crashed(), BLOCK), [24, 22, 9, 9], "after it was closed");
}

#[test]
fn a_write_meets_settling() {
    explore("settle", || settling(Way::Threads));
    explore("settle, data path", || settling(Way::Direct));
    explore("settle, cached data path", || settling(Way::Cached));
}

/// What completed before a flush was asked for is there after a crash, and
/// what a write with FUA wrote, whatever else is going on.
pub fn flushing(way: Way, base: u8) {
    let bed = Bed::new(Make { way, base, ..Make::default() });
    thread::scope(|scope| {
        let bed = &bed;
        scope.spawn(move || {
            assert_eq!(bed.write(0, GRANULE, 31).wait(), Ok(()));
            assert_eq!(bed.flush().wait(), Ok(()));
            let found = recovered(bed.synced.crashed(), BLOCK);
            assert_eq!(found[0], 31, "flushed and lost: {found:?}");
            assert!([base, 32].contains(&found[1]) && [base, 33].contains(&found[2]), "{found:?}");
        });
        scope.spawn(move || {
            let operation = Operation::Write { buf: tagged(32, GRANULE), fua: true };
            assert_eq!(bed.submit(GRANULE, operation).wait(), Ok(()));
            let found = recovered(bed.synced.crashed(), BLOCK);
            assert_eq!(found[1], 32, "written with FUA and lost: {found:?}");
        });
        scope.spawn(move || {
            let written = bed.write(2 * GRANULE, GRANULE, 33);
            let flushed = bed.flush();
            bed.device.volume().settle_all().unwrap();
            assert_eq!((written.wait(), flushed.wait()), (Ok(()), Ok(())));
        });
    });
    assert_eq!(bed.read(0, BLOCK), [31, 32, 33, base]);
    bed.close().unwrap();
}

#[test]
fn a_flush_meets_writes_and_settling() {
    explore("flush, new block", || flushing(Way::Threads, 0));
    explore("flush, shared block", || flushing(Way::Threads, 9));
    explore("flush, new block, data path", || flushing(Way::Direct, 0));
    explore("flush, shared block, cached data path", || flushing(Way::Cached, 9));
}

/// More is written than the log holds: those who wait for room are let go on,
/// by settling or by each other, and nobody is forgotten.
pub fn full_log(way: Way) {
    const BLOCKS: u64 = 4;
    let log_limit_bytes = 40 << 10;
    let bed = Bed::new(Make { way, base: 9, blocks: BLOCKS, log_limit_bytes, ..Make::default() });
    thread::scope(|scope| {
        let bed = &bed;
        for caller in 0..2 {
            scope.spawn(move || {
                let tickets: Vec<_> = (0..2 * BLOCKS)
                    .map(|at| bed.write((2 * at + caller) * GRANULE, GRANULE, 50 + at as u8))
                    .collect();
                tickets.iter().for_each(|ticket| assert_eq!(ticket.wait(), Ok(())));
            });
        }
    });
    let wanted: Vec<u8> = (0..4 * BLOCKS).map(|granule| 50 + (granule / 2) as u8).collect();
    assert_eq!(bed.read(0, BLOCKS * BLOCK), wanted);
    bed.close().unwrap();
}

#[test]
fn nobody_waits_for_ever_for_a_full_log() {
    explore("full log", || full_log(Way::Threads));
    explore("full log, data path", || full_log(Way::Direct));
}

/// A sync fails while requests wait for it and behind it: each is told, and
/// so is every later one.
fn poisoned(way: Way) {
    let bed = Bed::new(Make { way, base: 9, ..Make::default() });
    bed.fail(Rule::new(Fault::FailAfterApplying).on(Method::Sync).times(u64::MAX));
    thread::scope(|scope| {
        let bed = &bed;
        scope.spawn(move || {
            let written = bed.write(0, GRANULE, 61);
            let flushes = [bed.flush(), bed.flush()];
            let _unknown = (written.wait(), flushes.map(|ticket| ticket.wait()));
            assert!(bed.flush().wait().is_err(), "a flush after one that failed");
        });
        scope.spawn(move || {
            let operation = Operation::Write { buf: tagged(62, GRANULE), fua: true };
            assert!(bed.submit(GRANULE, operation).wait().is_err(), "FUA without a sync");
            assert_eq!(bed.write(GRANULE, GRANULE, 63).wait(), Err(ErrorKind::Internal));
        });
        scope.spawn(move || drop(bed.device.volume().settle_all()));
    });
    assert!(bed.close().is_err(), "closed as if nothing had happened");
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait() {
    explore("poison", || poisoned(Way::Threads));
    explore("poison, data path", || poisoned(Way::Direct));
}

/// A batch of the log fails while others queue behind it. Full: only its own
/// requests fail, and what they wrote is not there. Unknown: nothing may be
/// acknowledged any more. Nobody is left in the queue.
fn failed_batch(way: Way, kind: ErrorKind) {
    let bed = Bed::new(Make { way, base: 9, ..Make::default() });
    let fault = if kind == ErrorKind::NoSpace { Fault::Fail(kind) } else { Fault::FailAfterApplying };
    bed.fail(Rule::new(fault).on(Method::Write).named("log/").after(1));
    let mut results = [Ok(()); 3];
    thread::scope(|scope| {
        let bed = &bed;
        for (at, result) in results.iter_mut().enumerate() {
            scope.spawn(move || *result = bed.write(at as u64 * GRANULE, GRANULE, 71 + at as u8).wait());
        }
    });
    bed.faulty.clear();
    if kind == ErrorKind::NoSpace {
        let read = bed.read(0, BLOCK);
        for (at, result) in results.iter().enumerate() {
            assert!([Ok(()), Err(ErrorKind::NoSpace)].contains(result), "{result:?}");
            assert_eq!(read[at], if result.is_ok() { 71 + at as u8 } else { 9 });
        }
        bed.close().unwrap();
    } else {
        let has_failed = bed.faulty.struck() > 0;
        assert_eq!(results.iter().any(Result::is_err), has_failed, "{results:?}");
        assert_eq!(bed.write(3 * GRANULE, GRANULE, 74).wait().is_err(), has_failed);
        assert_eq!(bed.close().is_err(), has_failed);
    }
}

#[test]
fn a_failed_batch_of_the_log_leaves_nobody_behind() {
    explore("batch, full", || failed_batch(Way::Threads, ErrorKind::NoSpace));
    explore("batch, unknown", || failed_batch(Way::Threads, ErrorKind::Unknown));
    explore("batch, full, data path", || failed_batch(Way::Direct, ErrorKind::NoSpace));
    explore("batch, unknown, data path", || failed_batch(Way::Direct, ErrorKind::Unknown));
}

#[test]
fn a_schedule_can_be_played_again() {
    same_again(|| overlapping(Way::Threads, 9));
    same_again(|| flushing(Way::Direct, 9));
    same_again(|| full_log(Way::Direct));
}
