//! How often a snapshot and a clone ask the store. What can go wrong: they look at
//! all that is there, and each costs more than the one before; or at the same
//! thing again and again, and a store that is a network away takes its time for
//! each.

use super::*;
use crate::backend::faulty::Faulty;
use crate::backend::memory::CAPABILITIES;
use crate::backend::Capabilities;

/// A store of which a listing is of one moment, as on RADOS.
fn counted() -> (Faulty, Store) {
    let capabilities = Capabilities { lists_at_once: true, durable_on_ack: true, ..CAPABILITIES };
    let faulty = Faulty::new(Arc::new(Memory::with(capabilities)));
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    (faulty, store)
}

fn calls_of(faulty: &Faulty, work: impl FnOnce()) -> u64 {
    faulty.reset_counts();
    work();
    faulty.calls_total()
}

#[test]
fn a_snapshot_asks_the_store_four_times_however_many_there_are() {
    let (faulty, store) = counted();
    names::create(&store, &name("v"), 64 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut calls = Vec::new();
    for number in 0..40 {
        volume.write_at(number * BLOCK, &[1; BLOCK as usize]).unwrap();
        volume.flush().unwrap();
        let taken = SnapshotName::new(&format!("s{number}")).unwrap();
        calls.push(calls_of(&faulty, || volume.snapshot(&taken).unwrap()));
        volume.publish_all().unwrap();
    }
    // Its name, gc's generation, the epoch's claim, the record of the cut; and
    // now and then a segment of the log.
    assert!(calls.iter().all(|calls| (4..=8).contains(calls)), "{calls:?}");
    let usual = calls.iter().filter(|calls| **calls <= 5).count();
    assert!(usual >= 30, "{calls:?}");
    volume.close().unwrap();
}

#[test]
fn a_clone_asks_the_store_fourteen_times_however_many_there_are() {
    let (faulty, store) = counted();
    names::create(&store, &name("v"), 64 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    for number in 0..20 {
        volume.snapshot(&SnapshotName::new(&format!("s{number}")).unwrap()).unwrap();
    }
    volume.publish_all().unwrap();
    let source = snapshots::list(&store, volume.id).unwrap().swap_remove(3);
    for number in 0..20 {
        let copy = name(&format!("copy{number}"));
        let calls = calls_of(&faulty, || assert!(names::clone(&store, &source, &copy, None).is_ok()));
        assert!(calls <= 14, "{calls} calls for clone {number}");
    }
    volume.close().unwrap();
}
