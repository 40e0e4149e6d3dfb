//! What can go wrong at the edges of what one call does: more blocks than one
//! batch, the last snapshot that may wait, the largest size, a run of zeroes
//! that something else interrupts, a write that has begun when a cut is taken,
//! a holder of whom nobody knows what it wrote. Each is done once on each side
//! of the edge, and looked at before and after the volume is opened again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::Backend;
use crate::catalog::{head, VOLUME_BYTES_MAX};
use crate::name::prefix;
use crate::volume::delta::Own;

/// More than one batch settles, and no more than the log holds.
const BLOCKS: u64 = 100;

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// Ones, all shared with a snapshot; and the same as an array.
fn shared_on(backend: Arc<dyn Backend>, blocks: u64) -> (Store, Arc<Volume>, Vec<u8>) {
    let store = Store::init("test", backend, BLOCK).unwrap();
    names::create(&store, &name("v"), blocks * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    let model = vec![1; (blocks * BLOCK) as usize];
    volume.write_at(0, &model).unwrap();
    volume.snapshot(&snap("s")).unwrap();
    volume.settle_all().unwrap();
    (store, volume, model)
}

fn shared(blocks: u64) -> (Store, Arc<Volume>, Vec<u8>) {
    shared_on(Arc::new(Memory::new()), blocks)
}

fn write(volume: &Arc<Volume>, model: &mut [u8], at: u64, bytes: u64, byte: u8) {
    volume.write_at(at, &vec![byte; bytes as usize]).unwrap();
    model[at as usize..(at + bytes) as usize].fill(byte);
}

fn zero(volume: &Arc<Volume>, model: &mut [u8], at: u64, bytes: u64) {
    volume.write_zeroes(at, bytes).unwrap();
    model[at as usize..(at + bytes) as usize].fill(0);
}

/// As it is, after a crash, and settled.
fn assert_stays(store: &Store, volume: Arc<Volume>, model: &[u8]) {
    assert_same(&volume, model, "written");
    volume.flush().unwrap();
    volume.abandon();
    drop(volume);
    let volume = open(store, "v");
    assert_same(&volume, model, "after a crash");
    volume.settle_all().unwrap();
    assert_same(&volume, model, "settled");
}

fn piece_count(volume: &Volume) -> usize {
    volume.state.lock().generations.iter().map(|generation| generation.pieces.block_count()).sum()
}

#[test]
fn all_is_settled_however_many_batches_it_takes() {
    for close in [false, true] {
        let (store, volume, mut model) = shared(BLOCKS);
        for block in 0..BLOCKS {
            write(&volume, &mut model, block * BLOCK + 512, 512, 2);
        }
        assert_eq!(piece_count(&volume), BLOCKS as usize);
        match close {
            true => volume.close().unwrap(),
            false => volume.settle_all().unwrap(),
        }
        assert_eq!(piece_count(&volume), 0, "close: {close}");
        let head = head::latest(&store, volume.id).unwrap();
        assert_eq!(head.log.position, volume.log.tail(), "close: {close}");
        if !close {
            volume.close().unwrap();
        }
        assert_same(&open(&store, "v"), &model, "opened again");
    }
}

/// A run of whole blocks is one record, whatever its length; what interrupts
/// it is in none.
#[test]
fn zeroes_over_many_blocks_are_one_record() {
    let (store, volume, mut model) = shared(BLOCKS);
    let logged = |volume: &Volume| volume.log.tail();
    let before = logged(&volume);
    zero(&volume, &mut model, 0, 60 * BLOCK);
    assert!(logged(&volume) - before <= 4096, "{} bytes of log", logged(&volume) - before);
    // Own blocks are holes, their neighbours entries; one run ends before each.
    write(&volume, &mut model, 73 * BLOCK, BLOCK, 3);
    write(&volume, &mut model, 77 * BLOCK, BLOCK, 4);
    let before = logged(&volume);
    zero(&volume, &mut model, 70 * BLOCK, 9 * BLOCK);
    assert!(logged(&volume) - before <= 3 * 4096, "{} bytes of log", logged(&volume) - before);
    // What is zeroes already costs nothing.
    let before = logged(&volume);
    zero(&volume, &mut model, 0, 60 * BLOCK);
    zero(&volume, &mut model, 10 * BLOCK + 512, 5 * BLOCK);
    assert_eq!(logged(&volume), before);
    zero(&volume, &mut model, 90 * BLOCK + 512, 3 * BLOCK);
    assert_stays(&store, volume, &model);
}

/// A snapshot must not change after it was taken: a write that has begun into
/// a block of its epoch ends first.
#[test]
fn a_cut_waits_for_writes_that_have_begun_in_place() {
    let (_store, volume, mut model) = shared(4);
    write(&volume, &mut model, 0, BLOCK, 2);
    let begun = volume.begin_write(0, 0, 4096).unwrap().unwrap();
    assert_eq!(begun.way, Way::InPlace);
    let (taken, taker) = (Arc::new(AtomicBool::new(false)), Arc::clone(&volume));
    let is_taken = Arc::clone(&taken);
    let taking = std::thread::spawn(move || {
        taker.snapshot(&snap("t")).unwrap();
        taken.store(true, Ordering::SeqCst);
    });
    while !volume.state.lock().cutting {
        assert!(!is_taken.load(Ordering::SeqCst), "it did not wait");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(30));
    assert!(!is_taken.load(Ordering::SeqCst), "it did not wait");
    volume.carry_out(&begun, &IoBuf::copy_of(&[3; 4096])).unwrap();
    taking.join().unwrap();
    model[..4096].fill(3);
    volume.publish_all().unwrap();
    let opened = Volume::open_snapshot(&volume.store, &name("v"), &snap("t")).unwrap();
    assert_same(&opened, &model, "the snapshot");
}

#[test]
fn only_so_many_snapshots_wait_to_be_published() {
    let (_store, volume, model) = shared(4);
    let waiting = || volume.snapshots().unwrap().iter().filter(|listed| listed.pending).count();
    for number in 1..=PENDING_MAX + 3 {
        volume.snapshot(&snap(&format!("t{number}"))).unwrap();
        assert_eq!(waiting(), number.min(PENDING_MAX), "snapshot {number}");
    }
    // One that waits is removed; those after it wait still, or are there.
    let all = volume.snapshots().unwrap().len();
    volume.remove_snapshot(&snap("t20")).unwrap();
    let left = volume.snapshots().unwrap();
    assert!(left.len() == all - 1 && left.iter().all(|listed| listed.name != snap("t20")));
    assert!(volume.remove_snapshot(&snap("t20")).unwrap_err().is(ErrorKind::NotFound));
    let opened = Volume::open_snapshot(&volume.store, &name("v"), &snap("t19")).unwrap();
    assert_same(&opened, &model, "a snapshot before one that was removed");
}

/// What is published is removed without publishing what waits.
#[test]
fn removing_a_snapshot_does_not_publish_others() {
    let (_store, volume, _) = shared(4);
    volume.snapshot(&snap("t")).unwrap();
    volume.remove_snapshot(&snap("s")).unwrap();
    assert!(volume.snapshots().unwrap().iter().all(|listed| listed.pending));
}

/// Blocks of the epoch before are the old content's: nothing may be written
/// into them after going back.
#[test]
fn going_back_begins_an_epoch() {
    let (store, volume, model) = shared(4);
    volume.write_at(0, &vec![7; BLOCK as usize]).unwrap();
    let before = volume.state.lock().epoch();
    volume.rollback(&snap("s")).unwrap();
    let now = volume.state.lock().epoch();
    assert_ne!(now, before);
    assert_eq!(head::latest(&store, volume.id).unwrap().epoch, now);
    assert_stays(&store, volume, &model);
}

#[test]
fn a_volume_can_be_made_as_large_as_may_be_and_smaller_only_if_told() {
    let (store, volume, model) = shared(4);
    let size = volume.size_bytes();
    for (bytes, shrink, good) in [
        (size, false, true),
        (size - 1, false, false),
        (size - 1, true, true),
        (VOLUME_BYTES_MAX, false, true),
        (VOLUME_BYTES_MAX, true, true),
        (VOLUME_BYTES_MAX + 1, false, false),
        (VOLUME_BYTES_MAX + 1, true, false),
    ] {
        assert_eq!(volume.check_size(bytes, shrink).is_ok(), good, "{bytes}, shrink: {shrink}");
        assert_eq!(volume.resize(bytes, shrink).is_ok() || bytes < size, good || bytes < size);
        volume.resize(size, true).unwrap();
    }
    let mut grown = model.clone();
    grown[size as usize - 1] = 0;
    assert_same(&volume, &grown, "cut off by a byte, and grown");
    volume.resize(VOLUME_BYTES_MAX, false).unwrap();
    volume.close().unwrap();
    let volume = open(&store, "v");
    assert_eq!(volume.size_bytes(), VOLUME_BYTES_MAX);
    volume.resize(size, true).unwrap();
    assert_stays(&store, volume, &grown);
}

#[test]
fn a_reader_keeps_a_writer_out_unless_it_was_told_not_to() {
    let (store, volume, _) = shared(4);
    volume.close().unwrap();
    let read = |force_share| {
        let options = OpenOptions { mode: Mode::ReadOnly, force_share, ..options() };
        Volume::open(&store, &name("v"), &options)
    };
    let reader = read(false).unwrap();
    let error = Volume::open(&store, &name("v"), &options()).unwrap_err();
    assert!(error.is(ErrorKind::Busy), "{}", error.full());
    reader.release_shared();
    let volume = open(&store, "v");
    assert!(read(false).unwrap_err().is(ErrorKind::Busy));
    read(true).unwrap();
    volume.close().unwrap();
    let _reader = read(true).unwrap();
    open(&store, "v").close().unwrap();
}

/// After a write of which nobody knows whether it was done, it may still be
/// under way: the next holder must not write into the same blocks.
#[test]
fn after_an_unknown_outcome_the_next_holder_begins_an_epoch() {
    let kinds = [(ErrorKind::Unavailable, true), (ErrorKind::Unknown, false)];
    for (kind, same) in kinds {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let (store, volume, _) = shared_on(Arc::new(faulty.clone()), 4);
        volume.write_at(0, &vec![2; BLOCK as usize]).unwrap();
        volume.flush().unwrap();
        faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Write).named("block/"));
        assert!(volume.write_at(0, &[3; 512]).unwrap_err().is(kind));
        let before = volume.state.lock().epoch();
        volume.close().unwrap();
        let next = open(&store, "v");
        assert_eq!(next.state.lock().epoch() == before, same, "{kind:?}");
    }
}

/// Three quarters of a block are as good as all of it: a whole block is read
/// with one call. Less than that is a layer.
#[test]
fn a_block_of_which_most_is_there_is_made_whole() {
    for (granules, whole) in [(1, false), (2, false), (3, true), (4, true)] {
        let (store, volume, mut model) = shared(4);
        for granule in 0..granules {
            write(&volume, &mut model, BLOCK + granule * 4096 + 512, 512, granule as u8 + 2);
        }
        assert!(volume.work(true).unwrap());
        let own = volume.state.lock().own(1).unwrap();
        assert_eq!(own == Own::Whole, whole, "{granules} granules: {own:?}");
        assert_stays(&store, volume, &model);
    }
}

/// Zeroes are holes in the end, and take no room.
#[test]
fn settled_zeroes_are_holes() {
    let recording = Recording::new(Arc::new(Memory::new()));
    let (store, volume, mut model) = shared_on(Arc::new(recording.clone()), 4);
    (1..3).for_each(|granule| zero(&volume, &mut model, granule * 4096, 4096));
    zero(&volume, &mut model, BLOCK, 4096);
    recording.clear();
    while volume.settle_batch(&mut |_| {}).unwrap() > 0 {}
    let (mut written, mut punched) = (0, Vec::new());
    for entry in recording.ops() {
        match entry.op {
            Op::Punch { name: ObjectName::Block { index, .. }, offset_bytes, bytes } => {
                punched.push((index, offset_bytes, bytes));
            }
            Op::Write { name: ObjectName::Block { .. }, .. } => written += 1,
            _ => {}
        }
    }
    punched.sort_unstable();
    assert_eq!((written, punched), (0, vec![(0, 4096, 2 * 4096), (1, 0, 4096)]));
    assert_stays(&store, volume, &model);
}

/// Within a block too what is told of a range is as long as it holds, though
/// it comes from several objects.
#[test]
fn a_status_goes_on_over_layers_of_one_block() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::create(folder.path(), DirOptions::default()).unwrap();
    let (_store, volume, _) = shared_on(Arc::new(dir), 4);
    volume.write_at(4096, &[2; 4096]).unwrap();
    volume.write_at(8192 + 512, &[2; 512]).unwrap();
    for settled in [false, true] {
        assert_eq!(volume.block_status(0, 4 * BLOCK).unwrap(), (Status::Data, 4 * BLOCK), "{settled}");
        assert_eq!(volume.block_status(5000, 8192).unwrap(), (Status::Data, 8192));
        volume.settle_all().unwrap();
    }
    // A hole within an own object ends it, data within a hole too.
    volume.write_zeroes(3 * BLOCK + 4096, 8192).unwrap();
    volume.settle_all().unwrap();
    assert_eq!(volume.block_status(0, 4 * BLOCK).unwrap(), (Status::Data, 3 * BLOCK + 4096));
    assert_eq!(volume.block_status(3 * BLOCK + 4096, 8192 + 4096).unwrap(), (Status::Zero, 8192));
    assert_eq!(volume.block_status(3 * BLOCK + 5000, 4096).unwrap(), (Status::Zero, 4096));
}

/// A store that cannot be asked is not one whose last head is damaged: nothing
/// older is taken for the volume.
#[test]
fn a_failed_open_does_not_go_back_to_an_older_head() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let (store, volume, mut model) = shared_on(Arc::new(faulty.clone()), 4);
    write(&volume, &mut model, 0, BLOCK, 2);
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Delete).times(u64::MAX));
    volume.settle_all().unwrap_err();
    faulty.clear();
    volume.abandon();
    assert_eq!(head::all(&store, volume.id).unwrap().len(), 2);
    let reading = OpenOptions { mode: Mode::ReadOnly, force_share: true, ..options() };
    for prefix in [prefix::PAGES, prefix::SEGMENTS, prefix::HEADS] {
        for options in [&reading, &options()] {
            faulty.inject(Rule::new(Fault::Fail(ErrorKind::Denied)).on(Method::Read).named(prefix));
            match Volume::open(&store, &name("v"), options) {
                // A writer that could not start has written nothing.
                Err(error) => assert!(error.is(ErrorKind::Denied), "{prefix}: {}", error.full()),
                Ok(_) => panic!("{prefix}: it opens"),
            }
            faulty.clear();
        }
    }
    assert_same(&Volume::open(&store, &name("v"), &reading).unwrap(), &model, "read-only");
    assert_same(&open(&store, "v"), &model, "writable");
}

/// A head may say that the log is needed from a piece on: that piece is the
/// first to be read back.
#[test]
fn the_oldest_piece_that_a_head_leaves_in_the_log_is_read_back() {
    let (store, volume, mut model) = shared(4);
    write(&volume, &mut model, 512, 512, 2);
    write(&volume, &mut model, BLOCK + 512, 512, 3);
    volume.checkpoint().unwrap();
    let head = head::latest(&store, volume.id).unwrap();
    let oldest = volume.state.lock().live().pieces.oldest().map(|(position, _)| position);
    assert_eq!(Some(head.log.position), oldest);
    assert_stays(&store, volume, &model);
}

/// A record that makes a volume larger than any can be, or of a size that it
/// cannot have been cut to, is damage.
#[test]
fn a_log_that_makes_an_impossible_volume_is_damage() {
    for (bytes, good) in [(VOLUME_BYTES_MAX, true), (VOLUME_BYTES_MAX + 1, false)] {
        let epoch = crate::name::Id(5);
        let grow = crate::log::Record::Grow { size_bytes: bytes };
        let cut =
            crate::log::Record::Cut { epoch, size_bytes: 1, snapshot: None, shrink_bytes: Some(bytes) };
        for record in [grow, cut] {
            let (store, volume, _) = shared(4);
            volume.log.append_now(record.clone()).unwrap();
            volume.log.sync().unwrap();
            volume.abandon();
            let opened = Volume::open(&store, &name("v"), &options());
            assert_eq!(opened.is_ok(), good, "{record:?}");
            assert!(good || opened.unwrap_err().is(ErrorKind::Corrupt));
        }
    }
}

/// Where an object cannot be made, the guest is told why, and nothing is lost.
#[test]
fn an_object_that_cannot_be_made_is_a_full_store_and_not_a_lost_block() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let (store, volume, mut model) = shared_on(Arc::new(faulty.clone()), 4);
    volume.resize(8 * BLOCK, false).unwrap();
    model.resize(8 * BLOCK as usize, 0);
    let full = || faulty.inject(Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(Method::CreateSparse));
    full();
    let error = volume.write_at(5 * BLOCK, &[2; 4096]).unwrap_err();
    assert!(error.is(ErrorKind::NoSpace), "{}", error.full());
    write(&volume, &mut model, 5 * BLOCK, 4096, 3);
    write(&volume, &mut model, 512, 512, 4);
    full();
    let error = volume.settle_all().unwrap_err();
    assert!(error.is(ErrorKind::NoSpace), "{}", error.full());
    assert_same(&volume, &model, "not settled");
    volume.settle_all().unwrap();
    assert_stays(&store, volume, &model);
}

/// A long write is several pieces: each has its own bytes, and all must be in
/// before the write is answered.
#[test]
fn a_long_write_is_answered_when_all_its_pieces_are_in() {
    const LARGE: u64 = 1 << 20;
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("test", Arc::new(faulty.clone()), LARGE).unwrap();
    names::create(&store, &name("v"), 2 * LARGE, LARGE).unwrap();
    let options = OpenOptions { log_limit_bytes: 16 << 20, ..options() };
    let volume = Volume::open(&store, &name("v"), &options).unwrap();
    let mut model = vec![1; 2 * LARGE as usize];
    volume.write_at(0, &model).unwrap();
    volume.snapshot(&snap("s")).unwrap();
    volume.settle_all().unwrap();
    let data: Vec<u8> = (0..700u64 << 10).map(|at| (at / 512 % 251) as u8 + 2).collect();
    volume.write_at(512, &data).unwrap();
    model[512..512 + data.len()].copy_from_slice(&data);
    assert_same(&volume, &model, "logged");
    volume.settle_all().unwrap();
    assert_same(&volume, &model, "settled");
    // Of the next one the first batch is written, and no other.
    let writes = Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Write).named("log/");
    volume.snapshot(&snap("t")).unwrap();
    faulty.inject(writes.after(1).times(u64::MAX));
    assert!(volume.write_at(512, &data).is_err(), "not all of it is in the log");
}
