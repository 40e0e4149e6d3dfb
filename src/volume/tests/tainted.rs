//! What can go wrong: a write into a new own object fails, after it has put
//! some bytes there, and the block stays one of zeroes. If it is made an own
//! block later, the bytes of the failed write show again, over zeroes that
//! were written since.
//!
//! How this proves that it cannot: a write that is applied and says that the
//! store is full, zeroes over it, then another part of the block, in the same
//! life of the volume and after it was closed and opened.

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};

/// A volume whose block 0 has an own object that nothing names.
fn failed(faulty: &Faulty, store: &Store) -> Arc<Volume> {
    names::create(store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    let volume = open(store, "v");
    volume.write_at(BLOCK, &[9; 4096]).unwrap();
    faulty.inject(Rule::new(Fault::FailApplied(ErrorKind::NoSpace)).on(Method::Write).named("block/"));
    assert!(volume.write_at(0, &[7; 4096]).unwrap_err().is(ErrorKind::NoSpace));
    volume.write_zeroes(0, 4096).unwrap();
    volume
}

fn only_the_second_write_shows(volume: &Arc<Volume>) {
    volume.write_at(8192, &[8; 4096]).unwrap();
    let mut model = vec![0; 8 * BLOCK as usize];
    model[8192..12288].fill(8);
    model[BLOCK as usize..BLOCK as usize + 4096].fill(9);
    assert_same(volume, &model, "after a failed write");
    volume.settle_all().unwrap();
    assert_same(volume, &model, "settled");
}

fn full_store() -> (Faulty, Store) {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    (faulty, store)
}

#[test]
fn a_failed_write_does_not_show_later() {
    let (faulty, store) = full_store();
    only_the_second_write_shows(&failed(&faulty, &store));
}

#[test]
fn a_failed_write_does_not_show_after_a_clean_close() {
    let (faulty, store) = full_store();
    failed(&faulty, &store).close().unwrap();
    let volume = open(&store, "v");
    only_the_second_write_shows(&volume);
    volume.close().unwrap();
    // It costs one new epoch, not one at each open.
    let epoch = open(&store, "v").state.lock().epoch();
    assert_eq!(epoch, volume.state.lock().epoch());
}

/// A write into a block whose own object is not to be trusted is logged,
/// although the block is one of zeroes. Then a cut is taken, and that piece
/// belongs to the snapshot: zeroes that come later must be written all the
/// same, or the piece would show through.
#[test]
fn zeroes_over_what_a_pending_cut_has_logged_are_written() {
    let (faulty, store) = full_store();
    let volume = failed(&faulty, &store);
    volume.write_at(8192, &[8; 4096]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    assert_eq!(volume.state.lock().generations.len(), 2, "the cut is pending");
    let mut model = vec![0; 8 * BLOCK as usize];
    model[BLOCK as usize..BLOCK as usize + 4096].fill(9);
    volume.write_zeroes(0, BLOCK).unwrap();
    assert_same(&volume, &model, "the cut is pending");
    volume.settle_all().unwrap();
    assert_same(&volume, &model, "settled");
    volume.close().unwrap();
    assert_same(&open(&store, "v"), &model, "opened again");
    model[8192..12288].fill(8);
    let before = Volume::open_snapshot(&store, &name("v"), &SnapshotName::new("s").unwrap()).unwrap();
    assert_same(&before, &model, "the snapshot");
}
