//! What can go wrong with the work in the background: it begins too early and
//! takes the disk from whoever needs it, or too late and the log is full when
//! somebody writes; it commits a head for every few bytes, or never; or what
//! is closed leaves more of a log than the next open should have to read.
//!
//! How this proves that it does not: volumes whose blocks are all shared, so
//! that each write is logged, filled up to a share of the log and then looked
//! at before and after each unit of work.

use super::*;
use crate::catalog::head;

const BLOCKS: u64 = 96;
const LIMIT: u64 = 1 << 20;

/// Ones, all shared with a snapshot.
fn shared() -> (Store, Arc<Volume>) {
    let store = store();
    names::create(&store, &name("v"), BLOCKS * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; (BLOCKS * BLOCK) as usize]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.close().unwrap();
    let volume = open(&store, "v");
    (store, volume)
}

fn logged_bytes(volume: &Volume) -> u64 {
    volume.log.bytes_since(volume.state.lock().head.log.position)
}

/// Logs sectors of different blocks until the log has this share of its limit.
fn fill(volume: &Arc<Volume>, share: f64) {
    let mut at = 0;
    while (logged_bytes(volume) as f64) < share * LIMIT as f64 {
        volume.write_at(at % BLOCKS * BLOCK + at / BLOCKS * 4096 + 512, &[2; 512]).unwrap();
        at += 1;
    }
}

/// The share of the log's limit that a checkpoint would free now.
fn gain(volume: &Volume) -> f64 {
    let state = volume.state.lock();
    (state.log_needed_from(volume.log.completed()) - state.head.log.position) as f64 / LIMIT as f64
}

fn head_number(store: &Store, volume: &Volume) -> u64 {
    head::latest(store, volume.id).unwrap().number
}

fn is_settled(volume: &Volume) -> bool {
    volume.state.lock().generations.iter().all(|generation| generation.pieces.is_empty())
}

#[test]
fn while_the_disk_is_needed_settling_waits_until_the_log_fills_up() {
    let (_store, volume) = shared();
    fill(&volume, 0.62);
    assert!((volume.log_share() - logged_bytes(&volume) as f64 / LIMIT as f64).abs() < 1e-9);
    let pieces = volume.state.lock().live().pieces.block_count();
    assert!(pieces > 60, "{pieces} blocks have pieces");
    assert!(!volume.work(false).unwrap());
    assert_eq!(volume.state.lock().live().pieces.block_count(), pieces, "nothing was settled");
    fill(&volume, 0.66);
    assert!(volume.work(false).unwrap(), "there may be more");
    assert!(volume.state.lock().live().pieces.block_count() < pieces);
    while volume.work(false).unwrap() {}
    assert!(volume.log_share() < 0.65);
}

#[test]
fn an_idle_volume_is_settled_and_ends_with_one_head() {
    let (store, volume) = shared();
    volume.write_at(512, &[2; 512]).unwrap();
    let before = head_number(&store, &volume);
    assert!(!volume.work(false).unwrap() && !is_settled(&volume));
    assert!(volume.work(true).unwrap() && is_settled(&volume));
    assert_eq!(head_number(&store, &volume), before, "not for a few bytes of log");
    assert!(!volume.work(false).unwrap());
    assert_eq!(head_number(&store, &volume), before, "not while the disk is needed");
    assert!(!volume.work(true).unwrap());
    assert_eq!(head_number(&store, &volume), before + 1);
    assert_eq!(logged_bytes(&volume), 0);
    for idle in [true, false, true] {
        assert!(!volume.work(idle).unwrap());
        assert_eq!(head_number(&store, &volume), before + 1, "nothing has changed");
    }
}

#[test]
fn a_pending_cut_is_published_although_the_disk_is_needed() {
    let (_store, volume) = shared();
    volume.write_at(512, &[2; 512]).unwrap();
    volume.snapshot(&SnapshotName::new("t").unwrap()).unwrap();
    volume.write_at(8192, &[3; 512]).unwrap();
    assert_eq!(volume.state.lock().generations.len(), 2);
    let units = (0..10).take_while(|_| volume.work(false).unwrap()).count();
    assert!((2..10).contains(&units), "{units} units of work");
    assert_eq!(volume.state.lock().generations.len(), 1);
    assert!(!is_settled(&volume), "what came after the cut waits");
}

#[test]
fn what_a_checkpoint_would_free_grows_as_pieces_are_settled() {
    let (store, volume) = shared();
    fill(&volume, 0.4);
    let share = volume.log_share();
    assert!(gain(&volume) < 0.02, "the oldest piece is at the front: {}", gain(&volume));
    let before = head_number(&store, &volume);
    while volume.settle_batch(&mut |_| {}).unwrap() > 0 {}
    assert!((gain(&volume) - volume.log_share()).abs() < 1e-9 && gain(&volume) > share);
    assert_eq!(head_number(&store, &volume), before);
    volume.settle_some(&mut |_| {}).unwrap();
    assert_eq!(head_number(&store, &volume), before + 1, "worth a head");
    assert!(gain(&volume) < 0.01);
    volume.write_at(512, &[2; 512]).unwrap();
    volume.settle_some(&mut |_| {}).unwrap();
    assert!(is_settled(&volume));
    assert_eq!(head_number(&store, &volume), before + 1, "not worth one");
}

#[test]
fn a_full_log_makes_room_with_one_head() {
    let (store, volume) = shared();
    fill(&volume, 0.95);
    let room = |bytes| !volume.is_log_full(&volume.state.lock(), bytes);
    let (left, before) = (LIMIT - logged_bytes(&volume), head_number(&store, &volume));
    assert!(room(left) && !room(left + 1));
    volume.make_room().unwrap();
    assert_eq!(head_number(&store, &volume), before, "there is room for a block");
    while room(BLOCK) {
        volume.write_at(512, &[3; 512]).unwrap();
    }
    volume.make_room().unwrap();
    assert!(room(BLOCK));
    assert_eq!(head_number(&store, &volume), before + 1);
    assert!(volume.log_share() < 0.5, "{}", volume.log_share());
    let mut data = [0; 1024];
    volume.read_at(0, &mut data).unwrap();
    assert_eq!((data[511], data[512], data[1023]), (1, 3, 3));
}

#[test]
fn writers_are_slowed_down_when_the_log_fills_up() {
    let (_store, volume) = shared();
    for (share, busy) in [(0.0, false), (0.5, false), (0.86, false), (0.93, true)] {
        fill(&volume, share);
        assert_eq!(volume.log_pace().is_finite(), busy, "{share} full");
        assert_eq!(volume.is_log_busy(&volume.state.lock()), busy);
    }
    let pace = volume.log_pace();
    assert!(pace > 0.0 && pace < 0.5, "{pace}");
    volume.settle_batch(&mut |_| {}).unwrap();
    assert!(volume.log_pace() > pace, "what is settled counts");
    volume.settle_all().unwrap();
    assert_eq!(volume.log_pace(), f64::INFINITY);
}

/// A short log is emptied by the close, a long one is left to the next holder:
/// nobody waits for it. A snapshot is published before that.
#[test]
fn a_close_empties_a_short_log_and_leaves_a_long_one() {
    const LARGE: u64 = 256 << 10;
    for (writes, left) in [(10, false), (20, true)] {
        let store = Store::init("test", Arc::new(Memory::new()), BLOCK).unwrap();
        names::create(&store, &name("v"), 20 * LARGE, LARGE).unwrap();
        let options = OpenOptions { log_limit_bytes: 64 << 20, ..options() };
        let volume = Volume::open(&store, &name("v"), &options).unwrap();
        volume.write_at(0, &vec![1; 20 * LARGE as usize]).unwrap();
        volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
        for at in 0..writes {
            volume.write_at(at * LARGE + 512, &vec![2; LARGE as usize - 1024]).unwrap();
        }
        let logged = logged_bytes(&volume);
        assert_eq!(logged > CLOSE_EMPTIES_BYTES, left, "{logged} bytes");
        volume.close().unwrap();
        let head = head::latest(&store, volume.id).unwrap();
        assert_eq!(volume.log.tail() > head.log.position, left, "{writes} writes");
        assert_eq!(snapshots::list(&store, volume.id).unwrap().len(), 1);
        let volume = Volume::open(&store, &name("v"), &options).unwrap();
        let mut data = vec![0; 1024];
        volume.read_at((writes - 1) * LARGE, &mut data).unwrap();
        assert_eq!((data[0], data[511], data[512]), (1, 1, 2));
    }
}
