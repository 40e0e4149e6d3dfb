//! What can go wrong: the store is full when a batch is written to the log, as
//! copy-on-write file systems and thin devices can be. The volume stops for
//! good; or it goes on, and the batch, which is there in part or whole, comes
//! back later, over newer content or instead of what has been read since; or
//! a segment whose first batch failed breaks the log.
//!
//! How this proves that it cannot: a batch fails, applied or not, in a segment
//! of its own or behind others; then the volume is used, closed or killed, and
//! opened again.

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::Backend;

/// A volume of ones, all shared with a snapshot, and its log: empty, or begun.
fn shared(begun: bool) -> (Faulty, Store, Arc<Volume>, Vec<u8>) {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let (store, volume, model) = shared_on(Arc::new(faulty.clone()), begun);
    (faulty, store, volume, model)
}

fn shared_on(backend: Arc<dyn Backend>, begun: bool) -> (Store, Arc<Volume>, Vec<u8>) {
    let store = Store::init("test", backend, BLOCK).unwrap();
    names::create(&store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    let mut model = vec![1; 8 * BLOCK as usize];
    let volume = open(&store, "v");
    volume.write_at(0, &model).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.close().unwrap();
    let volume = open(&store, "v");
    if begun {
        volume.write_at(7 * BLOCK, &[2; 4096]).unwrap();
        model[7 * BLOCK as usize..][..4096].fill(2);
    }
    (store, volume, model)
}

fn full(faulty: &Faulty, fault: Fault) {
    faulty.inject(Rule::new(fault).on(Method::Write).named("log/"));
}

const NOT_APPLIED: Fault = Fault::Fail(ErrorKind::NoSpace);
const APPLIED: Fault = Fault::FailApplied(ErrorKind::NoSpace);

fn write_fails(faulty: &Faulty, fault: &Fault, volume: &Arc<Volume>) {
    full(faulty, fault.clone());
    let error = volume.write_at(4096, &[9; 4096]).unwrap_err();
    assert!(error.is(ErrorKind::NoSpace), "{}", error.full());
}

fn each(with: impl Fn(Fault, bool)) {
    for fault in [NOT_APPLIED, APPLIED] {
        for begun in [false, true] {
            with(fault.clone(), begun);
        }
    }
}

#[test]
fn a_write_that_found_the_log_full_does_not_come_back() {
    each(|fault, begun| {
        for is_killed in [false, true] {
            let what = format!("{fault:?}, begun {begun}, killed {is_killed}");
            let (faulty, store, volume, model) = shared(begun);
            write_fails(&faulty, &fault, &volume);
            assert_same(&volume, &model, &what);
            volume.flush().unwrap();
            match is_killed {
                true => volume.abandon(),
                false => volume.close().unwrap(),
            }
            assert_same(&open(&store, "v"), &model, &format!("{what}, opened"));
        }
    });
}

#[test]
fn the_next_batch_takes_the_place_of_the_failed_one() {
    each(|fault, begun| {
        let what = format!("{fault:?}, begun {begun}");
        let (faulty, store, volume, mut model) = shared(begun);
        write_fails(&faulty, &fault, &volume);
        write_fails(&faulty, &fault, &volume);
        volume.write_at(BLOCK, &[3; 512]).unwrap();
        model[BLOCK as usize..][..512].fill(3);
        assert_same(&volume, &model, &what);
        volume.flush().unwrap();
        volume.abandon();
        let volume = open(&store, "v");
        assert_same(&volume, &model, &format!("{what}, opened"));
        volume.settle_all().unwrap();
        volume.close().unwrap();
        assert_same(&open(&store, "v"), &model, &format!("{what}, settled"));
    });
}

/// A batch that was cleared, and not durably, came back after a crash: over
/// what was written in place, or flushed, after its request had failed.
#[test]
fn a_batch_is_cleared_for_good_before_its_request_fails() {
    for begun in [false, true] {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let recording = Recording::new(Arc::new(faulty.clone()));
        let (_, volume, _) = shared_on(Arc::new(recording.clone()), begun);
        recording.clear();
        write_fails(&faulty, &APPLIED, &volume);
        let ops = recording.ops();
        let is_log = |name: &ObjectName| matches!(name, ObjectName::Segment { .. });
        let is_batch = |op: &Op| matches!(op, Op::Write { name, .. } if is_log(name));
        let batches: Vec<usize> = (0..ops.len()).filter(|at| is_batch(&ops[*at].op)).collect();
        let [failed, cleared] = batches[..] else { panic!("{ops:?}") };
        assert_eq!((ops[failed].failed, ops[cleared].failed), (Some(ErrorKind::NoSpace), None));
        let is_sync =
            |op: &Op| matches!(op, Op::Sync { names } | Op::SyncContent { names } if is_log(&names[0]));
        assert!(ops[cleared..].iter().any(|entry| is_sync(&entry.op)), "{ops:?}");
    }
}

/// A head that is written while a segment is made but has no batch must not
/// count it; a batch that does not fit into it begins another one.
#[test]
fn a_segment_without_a_first_batch_is_passed_over() {
    for checkpointed in [false, true] {
        let (faulty, store, volume, mut model) = shared(false);
        write_fails(&faulty, &APPLIED, &volume);
        if checkpointed {
            volume.settle_all().unwrap();
            let reader = OpenOptions { force_share: true, ..OpenOptions::read_only() };
            assert_same(&Volume::open(&store, &name("v"), &reader).unwrap(), &model, "checkpointed");
        }
        let mut outcomes = Vec::new();
        for block in 0..5 {
            let begun = volume.begin_write_now(block, 4096, BLOCK as u32).unwrap();
            assert_eq!(begun.way, Way::Log);
            let (sender, outcome) = crossbeam_channel::bounded(1);
            let data = IoBuf::copy_of(&vec![5; BLOCK as usize - 4096]);
            let done = Box::new(move |result| drop(sender.send(result)));
            let _drive = volume.log_write(&begun, Some(data), done);
            outcomes.push(outcome);
            model[block as usize * BLOCK as usize + 4096..(block as usize + 1) * BLOCK as usize].fill(5);
        }
        volume.drive_log();
        outcomes.into_iter().for_each(|outcome| outcome.recv().unwrap().unwrap());
        volume.flush().unwrap();
        volume.abandon();
        let volume = open(&store, "v");
        assert_same(&volume, &model, "opened");
        volume.close().unwrap();
        assert_same(&open(&store, "v"), &model, "closed and opened");
    }
}

/// A head says up to where the log reached: what is lost below that is damage.
#[test]
fn a_head_does_not_count_a_segment_without_a_first_batch() {
    let (faulty, store, volume, mut model) = shared(false);
    // Publishing it needs no record.
    volume.snapshot(&SnapshotName::new("pending").unwrap()).unwrap();
    let next = ObjectName::Segment { volume: volume.id, number: volume.log.last_known() + 1 };
    faulty.inject(Rule::new(APPLIED).on(Method::Write).named(next.to_string()));
    let mut failed = 0;
    for nth in 0..8 {
        let at = nth * BLOCK as usize + 4096;
        match volume.write_at(at as u64, &[4; 8192]) {
            Ok(()) => model[at..at + 8192].fill(4),
            Err(error) => {
                assert!(error.is(ErrorKind::NoSpace), "{}", error.full());
                failed += 1;
                break;
            }
        }
    }
    assert_eq!(failed, 1, "the log's first segment had room for everything");
    volume.flush().unwrap();
    {
        let _maintaining = volume.maintaining.lock();
        volume.publish_oldest().unwrap();
    }
    volume.abandon();
    assert_same(&open(&store, "v"), &model, "opened");
}
