//! What can go wrong for somebody who only reads: the last holder did not live
//! to verify its head, and gc has taken what it names; a volume that is being
//! written is read so slowly that its log looks torn, or a segment of it goes
//! meanwhile. Each is played once with the very damage, and the last with a
//! writer that never stops.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::BackendExt;
use crate::catalog::head;
use crate::error::ErrorKind;
use crate::name::{prefix, ObjectName};

fn lab() -> (Store, Faulty) {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    names::create(&store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    (store, faulty)
}

fn read_only(force_share: bool) -> OpenOptions {
    OpenOptions { mode: Mode::ReadOnly, force_share, ..options() }
}

#[test]
fn a_reader_takes_the_head_before_one_that_was_not_finished() {
    let (store, faulty) = lab();
    let volume = open(&store, "v");
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.settle_all().unwrap();
    let finished = head::latest(&store, volume.id).unwrap();
    volume.write_at(5000, &[2; 3000]).unwrap();
    volume.write_at(3 * BLOCK, &[3; 5000]).unwrap();
    let mut model = vec![0; 8 * BLOCK as usize];
    model[..BLOCK as usize].fill(1);
    model[5000..8000].fill(2);
    model[3 * BLOCK as usize..][..5000].fill(3);
    // The next head is committed; then the holder dies.
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Delete).times(u64::MAX));
    volume.settle_all().unwrap_err();
    volume.abandon();
    drop(volume);
    faulty.clear();
    let unfinished = head::latest(&store, finished.volume).unwrap();
    assert_eq!(head::all(&store, finished.volume).unwrap().len(), 2);
    for page in store.control().list_all(prefix::PAGES).unwrap() {
        if page != ObjectName::Page(finished.root.page) {
            store.control().delete(&page).unwrap();
        }
    }
    assert_ne!(unfinished.root, finished.root);
    let before = store.control().list_all(prefix::ALL).unwrap();
    for force_share in [false, true] {
        let volume = Volume::open(&store, &name("v"), &read_only(force_share)).unwrap();
        assert_same(&volume, &model, "read-only");
    }
    assert_eq!(store.control().list_all(prefix::ALL).unwrap(), before, "readers change nothing");
    assert_same(&open(&store, "v"), &model, "writable");
}

/// With no other head, what cannot be read is damage for a reader too.
#[test]
fn a_reader_does_not_take_damage_for_something_unfinished() {
    let (store, _) = lab();
    let volume = open(&store, "v");
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.close().unwrap();
    let root = head::latest(&store, volume.id).unwrap().root;
    store.control().delete(&ObjectName::Page(root.page)).unwrap();
    let reader = Volume::open(&store, &name("v"), &read_only(false)).unwrap();
    assert!(reader.read_at(0, &mut [0; 512]).unwrap_err().is(ErrorKind::Corrupt));
}

#[test]
fn a_log_that_looks_torn_while_it_is_written_is_read_again() {
    let (store, faulty) = lab();
    let volume = open(&store, "v");
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    for at in 0..4 {
        volume.write_at(at * 4096 + 512, &[7; 512]).unwrap();
        volume.flush().unwrap();
    }
    // A batch that a later one knows to be durable is not there yet; or the
    // segment is one that was made ahead of need and has just gone.
    for fault in [Fault::FlipBit(8 * 12_300), Fault::Fail(ErrorKind::NotFound)] {
        let rule = Rule::new(fault).on(Method::Read).named("log/");
        for times in [1, 3, 4, u64::MAX] {
            faulty.inject(rule.clone().times(times));
            let reader = Volume::open(&store, &name("v"), &read_only(true));
            assert!(faulty.struck() > 0);
            faulty.clear();
            if times == u64::MAX {
                let error = reader.unwrap_err();
                assert!(error.is(ErrorKind::Corrupt) || error.is(ErrorKind::NotFound), "{}", error.full());
                continue;
            }
            let mut data = [0; 512];
            reader.unwrap().read_at(512, &mut data).unwrap();
            assert_eq!(data, [7; 512]);
        }
    }
}

#[test]
fn readers_come_and_go_while_a_writer_never_stops() {
    let (store, _) = lab();
    let volume = open(&store, "v");
    let (stop, writer) = (Arc::new(AtomicBool::new(false)), Arc::clone(&volume));
    let stopped = Arc::clone(&stop);
    let writing = std::thread::spawn(move || {
        let mut random = Seeded(7);
        while !stopped.load(Ordering::Relaxed) {
            for _ in 0..8 {
                writer.write_at(random.next(8 * BLOCK / 512 - 8) * 512, &[9; 1024]).unwrap();
                writer.flush().unwrap();
            }
            writer.work(true).unwrap();
        }
    });
    let outcome = (0..300).try_for_each(|_| Volume::open(&store, &name("v"), &read_only(true)).map(drop));
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    outcome.unwrap_or_else(|error| panic!("{}", error.full()));
    volume.close().unwrap();
}
