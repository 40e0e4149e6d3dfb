//! A copy beside a guest: whole blocks, many at a time, are what a guest's small
//! requests wait behind, in every store. On RADOS none was answered in the two
//! seconds for which 256 MiB were copied.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::BackendExt;
use archipelago::catalog::snapshot;
use archipelago::io::Operation;
use archipelago::maintain::copy::{CopyOptions, Copier};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;

use super::bed::{ask, make, open, place, snap, Kind, BLOCK};

const BLOCKS: u64 = 32;

/// What became of blocks in a store, in order: looked for, and made.
type Calls = Arc<Mutex<Vec<(Method, ObjectName)>>>;

fn watched() -> (Store, Calls) {
    let calls = Calls::default();
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let noted = Arc::clone(&calls);
    // It strikes nobody.
    faulty.inject(Rule::new(Fault::Twice).named(prefix::BLOCKS).when(move |method, names| {
        noted.lock().unwrap().push((method, names[0].clone()));
        // Long enough for others to come in between, if they may.
        std::thread::sleep(Duration::from_millis(1));
        false
    }));
    (Store::init("there", Arc::new(faulty), BLOCK).unwrap(), calls)
}

/// Blocks of which another was begun before they were made.
fn overlapping(calls: &Calls) -> usize {
    let calls = calls.lock().unwrap();
    let of_blocks: Vec<_> = calls.iter().filter(|(method, _)| *method != Method::List).collect();
    let mut count = 0;
    for pair in of_blocks.windows(2) {
        count += usize::from(pair[0].0 == Method::Stat && pair[0].1 != pair[1].1);
    }
    count
}

#[test]
fn beside_a_guest_one_block_is_copied_at_a_time() {
    let here = place(&Kind::Memory, "here");
    let id = make(&here.store, "v", BLOCKS * BLOCK);
    let device = open(&here.store, "v");
    let buf = IoBuf::copy_of(&vec![7; (BLOCKS * BLOCK) as usize]);
    ask(&device, 0, Operation::Write { buf, fua: false }).unwrap();
    device.snapshot(&snap("s")).unwrap();
    device.volume().publish_all().unwrap();
    let taken = snapshot::find(&here.store, id, &snap("s")).unwrap();
    let options = CopyOptions { threads: 4, ..CopyOptions::default() };
    for is_busy in [true, false] {
        let (there, calls) = watched();
        let busy = Arc::new(move || is_busy);
        let mut copier = Copier::start_beside(&here.store, &there, &options, busy).unwrap();
        copier.snapshot(&taken, &mut |_| Ok(())).unwrap();
        assert_eq!(copier.copied().blocks, BLOCKS);
        assert_eq!(there.blocks().list_all(prefix::BLOCKS).unwrap().len() as u64, BLOCKS);
        let overlapping = overlapping(&calls);
        assert_eq!(overlapping == 0, is_busy, "{overlapping} blocks were copied beside others");
    }
    device.close().unwrap();
}
