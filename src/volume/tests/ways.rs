//! What can go wrong where a write may go one of several ways: a large write
//! goes into the log and is written twice, or past it where an older piece
//! would come back over it; and what is told of a range is not what it holds.
//!
//! How this proves that it cannot: each way is taken on purpose, known by
//! whether the log grows, and the volume is read before and after a crash.

use super::*;
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::Backend;
use crate::map::Entry;
use crate::volume::delta::Own;
use crate::volume::status::{Status, Usage};

const LARGE: u64 = 256 << 10;
const KIB: u64 = 1 << 10;

/// Ones, all shared with a snapshot, and the same as an array.
fn shared(options: &OpenOptions) -> (Store, Arc<Volume>, Vec<u8>) {
    let store = store();
    names::create(&store, &name("v"), 4 * LARGE, LARGE).unwrap();
    let volume = Volume::open(&store, &name("v"), options).unwrap();
    let model = vec![1; 4 * LARGE as usize];
    volume.write_at(0, &model).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.settle_all().unwrap();
    (store, volume, model)
}

fn roomy() -> OpenOptions {
    OpenOptions { log_limit_bytes: 16 << 20, ..options() }
}

/// Writes; true if it went into the log.
fn is_logged(volume: &Arc<Volume>, model: &mut [u8], at: u64, bytes: u64, byte: u8) -> bool {
    let before = volume.log.tail();
    volume.write_at(at, &vec![byte; bytes as usize]).unwrap();
    model[at as usize..(at + bytes) as usize].fill(byte);
    volume.log.tail() > before
}

/// The granules that the own object of a block holds.
fn held(volume: &Volume, block: u64) -> Vec<u32> {
    let state = volume.state.lock();
    match state.own(block).unwrap() {
        Own::None => Vec::new(),
        Own::Whole => (0..64).collect(),
        Own::Part(presence) => (0..64).filter(|at| presence.covers(*at, at + 1)).collect(),
    }
}

fn has_pieces(volume: &Volume, block: u64) -> bool {
    volume.state.lock().live().pieces.of(block).is_some()
}

/// As it is, after a crash, and settled.
fn assert_stays(store: &Store, volume: Arc<Volume>, model: &[u8]) {
    assert_same(&volume, model, "written");
    volume.flush().unwrap();
    volume.abandon();
    drop(volume);
    let volume = Volume::open(store, &name("v"), &roomy()).unwrap();
    assert_same(&volume, model, "after a crash");
    volume.settle_all().unwrap();
    assert_same(&volume, model, "settled");
}

#[test]
fn large_aligned_writes_go_past_the_log() {
    let (store, volume, mut model) = shared(&roomy());
    for (at, bytes, logged) in [
        (64 * KIB, 64 * KIB, false),
        (LARGE, 60 * KIB, true),
        (LARGE + 512, 64 * KIB, true),
        (LARGE + 64 * KIB, 64 * KIB + 512, true),
        (LARGE + 64 * KIB + 512, 68 * KIB - 512, true),
        // In place, where a granule is there already.
        (64 * KIB + 512, 512, false),
        (60 * KIB, 8 * KIB, true),
        (128 * KIB, 128 * KIB, false),
        (100 * KIB, 100 * KIB, false),
        // Only one end lies between granules, and nothing else is near.
        (3 * LARGE, 64 * KIB + 512, true),
        (3 * LARGE + 128 * KIB - 512, 64 * KIB + 512, true),
    ] {
        let byte = (at / 512 + bytes) as u8 | 2;
        assert_eq!(is_logged(&volume, &mut model, at, bytes, byte), logged, "{bytes} bytes at {at}");
    }
    assert_eq!(held(&volume, 0), (16..64).collect::<Vec<_>>());
    assert!(held(&volume, 1).is_empty() && held(&volume, 3).is_empty());
    assert_stays(&store, volume, &model);
}

#[test]
fn what_a_write_past_the_log_covers_does_not_come_back() {
    let (store, volume, mut model) = shared(&roomy());
    let mut logged = |at, bytes, byte| is_logged(&volume, &mut model, at, bytes, byte);
    // All pieces of the block are covered.
    assert!(logged(8 * KIB + 512, 512, 2) && logged(60 * KIB, 4 * KIB, 3));
    assert!(!logged(0, 64 * KIB, 4));
    assert!(!has_pieces(&volume, 0));
    // One is not: a record could not say which are gone.
    assert!(logged(LARGE + 512, 512, 5) && logged(LARGE + 128 * KIB + 512, 512, 6));
    assert!(logged(LARGE, 64 * KIB, 7));
    assert!(!logged(LARGE + 192 * KIB, 64 * KIB, 8), "none is touched");
    assert!(logged(LARGE + 96 * KIB, 64 * KIB, 9), "one is touched");
    assert_eq!(held(&volume, 1), (48..64).collect::<Vec<_>>());
    // All of the block is written.
    assert!(logged(2 * LARGE + 512, 512, 10) && logged(2 * LARGE + 200 * KIB, 512, 11));
    assert!(!logged(2 * LARGE, LARGE, 12));
    assert!(!has_pieces(&volume, 2) && held(&volume, 2).len() == 64);
    assert!(!logged(2 * LARGE + 512, 512, 13), "in place");
    // The rest of one that is whole then.
    assert!(!logged(3 * LARGE, 192 * KIB, 14) && !logged(3 * LARGE + 192 * KIB, 64 * KIB, 15));
    assert_eq!(volume.state.lock().own(3).unwrap(), Own::Whole);
    assert_stays(&store, volume, &model);
}

#[test]
fn a_layer_is_begun_only_while_there_may_be_more() {
    let (store, volume, mut model) = shared(&roomy());
    let mut direct = 0;
    for at in 0..7 {
        let layers = match volume.state.lock().entry(0).unwrap().entry {
            Entry::Layers { layers, .. } => layers.len(),
            _ => 0,
        };
        let logged = is_logged(&volume, &mut model, at % 3 * 64 * KIB, 64 * KIB, at as u8 + 2);
        assert_eq!(logged, layers == 4, "{layers} layers");
        direct += u32::from(!logged);
        volume.snapshot(&SnapshotName::new(&format!("s{at}")).unwrap()).unwrap();
        volume.settle_all().unwrap();
    }
    assert!(direct >= 4);
    assert_stays(&store, volume, &model);
}

/// Two blocks of data, a granule, nothing, and two blocks of data.
fn patched(backend: Arc<dyn Backend>) -> (Faulty, Store, Arc<Volume>) {
    let faulty = Faulty::new(backend);
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    names::create(&store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; 2 * BLOCK as usize]).unwrap();
    volume.write_at(2 * BLOCK + 4096, &[2; 4096]).unwrap();
    volume.write_at(6 * BLOCK, &vec![3; 2 * BLOCK as usize]).unwrap();
    (faulty, store, volume)
}

#[test]
fn the_status_of_a_range_is_what_it_holds_and_for_how_long() {
    // Files have holes; what is in memory has none.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::create(folder.path(), DirOptions::default()).unwrap();
    let (faulty, _store, volume) = patched(Arc::new(dir));
    let rest = |at| volume.block_status(at, 8 * BLOCK - at).unwrap();
    for round in 0..2 {
        assert_eq!(rest(0), (Status::Data, 2 * BLOCK), "round {round}");
        assert_eq!(rest(BLOCK + 100), (Status::Data, BLOCK - 100));
        assert_eq!(rest(2 * BLOCK), (Status::Zero, 4096));
        assert_eq!(rest(2 * BLOCK + 4096), (Status::Data, 4096));
        assert_eq!(rest(2 * BLOCK + 8192), (Status::Zero, 3 * BLOCK + 8192));
        assert_eq!(rest(6 * BLOCK + 1), (Status::Data, 2 * BLOCK - 1));
        assert_eq!(volume.block_status(512, 1024).unwrap(), (Status::Data, 1024));
        assert_eq!(volume.block_status(2 * BLOCK + 1024, 512).unwrap(), (Status::Zero, 512));
        volume.settle_all().unwrap();
    }
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.write_at(2 * BLOCK + 8192 + 512, &[4; 1024]).unwrap();
    assert_eq!(rest(2 * BLOCK + 8192), (Status::Zero, 512), "up to what is logged");
    assert_eq!(rest(2 * BLOCK + 8192 + 512), (Status::Data, 1024));
    assert_eq!(rest(2 * BLOCK + 8192 + 1536), (Status::Zero, 3 * BLOCK + 8192 - 1536));
    // Merged away meanwhile: a read will see. Anything else is told.
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::NextData).times(1));
    assert_eq!(volume.block_status(2 * BLOCK, 512).unwrap(), (Status::Data, 512));
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::NextData).times(1));
    assert!(volume.block_status(2 * BLOCK, 512).unwrap_err().is(ErrorKind::Unavailable));
}

/// A hole in what a block holds of its own, and one in what is beneath: the
/// data between them is not passed over.
#[test]
fn the_status_ends_where_a_hole_does() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::create(folder.path(), DirOptions::default()).unwrap();
    let (_faulty, _store, volume) = patched(Arc::new(dir));
    volume.write_at(4 * BLOCK + 12288, &[4; 4096]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.write_at(4 * BLOCK, &[5; 8192]).unwrap();
    volume.settle_all().unwrap();
    volume.write_zeroes(4 * BLOCK, 4096).unwrap();
    assert!(matches!(volume.state.lock().own(4).unwrap(), Own::Part(_)));
    let status = |from: u64| volume.block_status(4 * BLOCK + from, BLOCK - from).unwrap();
    assert_eq!(status(0), (Status::Zero, 4096));
    assert_eq!(status(4096), (Status::Data, 4096));
    assert_eq!(status(8192), (Status::Zero, 4096));
    assert_eq!(status(12288), (Status::Data, 4096));
}

#[test]
fn usage_counts_what_entries_name() {
    let (_faulty, _store, volume) = patched(Arc::new(Memory::new()));
    let logged = |volume: &Volume| volume.log.bytes_since(volume.state.lock().head.log.position);
    let scanned = |volume: &Volume| {
        let mut runs = Vec::new();
        volume
            .scan(&mut |first, count, entry| {
                runs.push((first, count, *entry == Entry::Zero));
                Ok(())
            })
            .unwrap();
        runs
    };
    let used = |own_blocks, shared_blocks| Usage {
        own_bytes: own_blocks * BLOCK,
        shared_bytes: shared_blocks * BLOCK,
        log_bytes: 0,
    };
    assert_eq!(volume.usage().unwrap(), used(5, 0));
    volume.settle_all().unwrap();
    assert_eq!(volume.usage().unwrap(), used(5, 0));
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.settle_all().unwrap();
    assert_eq!(volume.usage().unwrap(), used(0, 5));
    volume.write_at(512, &[4; 5000]).unwrap();
    assert!(logged(&volume) > 8192);
    assert_eq!(volume.usage().unwrap(), Usage { log_bytes: logged(&volume), ..used(0, 5) });
    while volume.settle_batch(&mut |_| {}).unwrap() > 0 {}
    let layer = Usage { own_bytes: 8192, shared_bytes: 5 * BLOCK, log_bytes: logged(&volume) };
    assert_eq!(volume.usage().unwrap(), layer, "two granules");
    volume.write_at(3 * BLOCK, &[5; 512]).unwrap();
    for _ in 0..2 {
        let runs = scanned(&volume);
        let mut at = 0;
        for (first, count, zero) in runs {
            assert_eq!(first, at, "each block once, in order");
            at += count;
            assert!((first..at).all(|block| zero == [4, 5].contains(&block)), "{first} to {at}");
        }
        assert_eq!(at, 8);
        volume.settle_all().unwrap();
    }
}
