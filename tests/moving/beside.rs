//! A copy beside a guest: whole blocks, many at a time, are what a guest's small
//! requests wait behind, in every store. On RADOS none was answered in the two
//! seconds for which 256 MiB were copied.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::BackendExt;
use archipelago::catalog::snapshot::{self, Snapshot};
use archipelago::error::{Error, ErrorKind};
use archipelago::io::{Device, Operation, Request};
use archipelago::maintain::copy::{CopyOptions, Copier};
use archipelago::mover::{MoveOptions, Phase, Progress};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;

use super::bed::{ask, make, open, place, snap, Kind, Place, BLOCK};

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

/// Of a volume all of whose blocks are there.
fn with_a_snapshot() -> (Place, Device, Snapshot) {
    let here = place(&Kind::Memory, "here");
    let id = make(&here.store, "v", BLOCKS * BLOCK);
    let device = open(&here.store, "v");
    let buf = IoBuf::copy_of(&vec![7; (BLOCKS * BLOCK) as usize]);
    ask(&device, 0, Operation::Write { buf, fua: false }).unwrap();
    device.snapshot(&snap("s")).unwrap();
    device.volume().publish_all().unwrap();
    let taken = snapshot::find(&here.store, id, &snap("s")).unwrap();
    (here, device, taken)
}

#[test]
fn beside_a_guest_one_block_is_copied_at_a_time() {
    let (here, device, taken) = with_a_snapshot();
    let options = CopyOptions { threads: 4, ..CopyOptions::default() };
    for is_busy in [true, false] {
        let (there, calls) = watched();
        let guest = Arc::new(move || is_busy.then_some(1));
        let mut copier = Copier::start_beside(&here.store, &there, &options, guest).unwrap();
        copier.snapshot(&taken, &mut |_| Ok(())).unwrap();
        assert_eq!(copier.copied().blocks, BLOCKS);
        assert_eq!(there.blocks().list_all(prefix::BLOCKS).unwrap().len() as u64, BLOCKS);
        let overlapping = overlapping(&calls);
        assert_eq!(overlapping == 0, is_busy, "{overlapping} blocks were copied beside others");
    }
    device.close().unwrap();
}

// Who closes a volume that is moved waits for the copy to end: what waited for its
// turn was still copied then, with its rests and its limit.
#[test]
fn a_copy_that_is_not_wanted_any_more_copies_nothing_more() {
    let (here, device, taken) = with_a_snapshot();
    let options = CopyOptions { threads: 2, bytes_per_s: Some(4 * BLOCK), ..CopyOptions::default() };
    let (there, _) = watched();
    let mut copier = Copier::start(&here.store, &there, &options).unwrap();
    let ended = copier.snapshot(&taken, &mut |copied| match copied.blocks {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Unavailable, "it was called back")),
    });
    assert!(ended.unwrap_err().is(ErrorKind::Unavailable));
    let blocks = copier.copied().blocks;
    assert!((1..=4).contains(&blocks), "{blocks} blocks were copied");
    // What is wanted again is copied.
    let options = CopyOptions { bytes_per_s: None, ..options };
    drop(copier);
    let mut copier = Copier::start(&here.store, &there, &options).unwrap();
    let mut tries = 0;
    let ended = copier.snapshot(&taken, &mut |_| {
        tries += 1;
        match tries {
            3 => Err(Error::new(ErrorKind::Unavailable, "it was called back")),
            _ => Ok(()),
        }
    });
    assert!(ended.is_err());
    copier.snapshot(&taken, &mut |_| Ok(())).unwrap();
    assert_eq!(there.blocks().list_all(prefix::BLOCKS).unwrap().len() as u64, BLOCKS);
    device.close().unwrap();
}

// Writes that are slowed down go on as something is carried over. Where nothing is
// for a while they hung: when the volume was in the other store, until the work
// that went on in the first one had ended (14 s on RADOS), and while a snapshot was
// copied that had been taken meanwhile.
#[test]
fn writes_are_held_back_only_while_something_is_carried_over() {
    let (here, there) = (place(&Kind::Memory, "here"), place(&Kind::Memory, "there"));
    make(&here.store, "v", BLOCKS * BLOCK);
    let device = Arc::new(open(&here.store, "v"));
    let write = |at: u64| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let operation = Operation::Write { buf: IoBuf::copy_of(&[7; 4096]), fua: false };
        let done = Box::new(move |result| drop(sender.send(result)));
        device.submit(Request { offset_bytes: at * BLOCK, operation }, done);
        receiver
    };
    let is_answered = |at: u64| matches!(write(at).recv_timeout(Duration::from_secs(10)), Ok(Ok(())));
    assert!(is_answered(0));
    let following = device.follow().unwrap();
    let (mut has_snapshot, mut copied_again, mut ended) = (false, false, false);
    let mut told = |now: Progress| {
        match now.phase {
            Phase::Copying if has_snapshot => {
                copied_again = true;
                assert!(is_answered(2), "while a snapshot is copied");
            }
            // Something that has to be carried over.
            Phase::Copying => assert!(is_answered(1)),
            Phase::Following => {
                following.slow_down();
                if !has_snapshot {
                    device.snapshot(&snap("late")).unwrap();
                    has_snapshot = true;
                }
            }
            Phase::Ending => {
                ended = true;
                assert!(is_answered(3), "when it has moved");
            }
            Phase::Waiting => {}
        }
        Ok(())
    };
    archipelago::mover::run(&following, &there.store, &MoveOptions::default(), &mut told).unwrap();
    assert!(copied_again && ended);
    drop(following);
    device.close().unwrap();
}
