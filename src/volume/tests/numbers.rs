//! What can go wrong: the number of a log segment is used a second time. Who
//! still has the old one open, in another process, does not see the new one:
//! it finds damage that is not there, or writes where nobody finds it. Or an
//! old listing hides segments that are there, and with them what was logged.
//!
//! How this proves that it cannot: a segment is made ahead of need and then
//! not used, in every way in which that can happen, and whoever comes next
//! must take a number that never was; and a listing that lags is made up for.

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::CAPABILITIES;
use crate::backend::{Backend, BackendExt, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::catalog::head;
use crate::name::prefix;

const DATA: [u8; 512] = [7; 512];

/// A volume of ones, all shared with a snapshot, so that small writes are
/// logged.
fn shared(backend: Arc<dyn Backend>) -> Store {
    let store = Store::init("test", backend, BLOCK).unwrap();
    names::create(&store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; 8 * BLOCK as usize]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.close().unwrap();
    store
}

fn segments(store: &Store, volume: &Volume) -> Vec<u64> {
    let number = |name| match name {
        ObjectName::Segment { number, .. } => number,
        other => panic!("{other} is no segment"),
    };
    store.log().list_all(&prefix::segments_of(volume.id)).unwrap().into_iter().map(number).collect()
}

/// The next holder than `volume` logs a write, with a number that was never
/// used.
fn assert_next_is_above(store: &Store, volume: &Volume, used: u64, what: &str) -> Arc<Volume> {
    let there = segments(store, volume);
    let volume = open(store, "v");
    // So that it is not written in place.
    let snapshot = format!("s{}", volume.snapshots().unwrap().len());
    volume.snapshot(&SnapshotName::new(&snapshot).unwrap()).unwrap();
    volume.write_at(5 * BLOCK + 512, &DATA).unwrap();
    let made: Vec<u64> = segments(store, &volume).into_iter().filter(|n| !there.contains(n)).collect();
    assert!(!made.is_empty() && made.iter().all(|number| *number > used), "{what}: {made:?} after {used}");
    volume
}

#[test]
fn a_segment_that_was_made_ahead_is_not_made_again_by_the_next_holder() {
    for (what, writes) in [("nothing was written", 0), ("a write was logged", 1), ("several", 30)] {
        let store = shared(Arc::new(Memory::new()));
        let volume = open(&store, "v");
        (0..writes).for_each(|at| volume.write_at(at * 4096 + 512, &DATA).unwrap());
        volume.prepare_log().unwrap();
        let used = segments(&store, &volume).pop().unwrap();
        volume.close().unwrap();
        assert!(segments(&store, &volume).is_empty(), "{what}: left over");
        assert!(head::latest(&store, volume.id).unwrap().log.segment > used, "{what}");
        assert_next_is_above(&store, &volume, used, what).close().unwrap();
    }
}

#[test]
fn one_that_no_head_can_tell_of_stays_until_a_head_does() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = shared(Arc::new(faulty.clone()));
    let volume = open(&store, "v");
    volume.prepare_log().unwrap();
    let used = segments(&store, &volume).pop().unwrap();
    let rule = Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(Method::Create).named("head/");
    faulty.inject(rule);
    volume.close().unwrap();
    assert_eq!(faulty.struck(), 1);
    faulty.clear();
    assert_eq!(segments(&store, &volume), [used]);
    let volume = assert_next_is_above(&store, &volume, used, "a full store");
    assert_eq!(segments(&store, &volume)[0], used);
    volume.settle_all().unwrap();
    assert!(!segments(&store, &volume).contains(&used), "its next holder deletes it");
    volume.close().unwrap();
    assert_next_is_above(&store, &volume, used, "the one after").close().unwrap();
}

#[test]
fn one_that_is_too_small_stays_until_a_head_tells_of_it() {
    let store = shared(Arc::new(Memory::new()));
    let options = OpenOptions {
        log: LogOptions {
            segment_bytes: 256 << 10,
            first_segment_bytes: 16 << 10,
            batch_bytes_max: 64 << 10,
        },
        ..options()
    };
    let volume = Volume::open(&store, &name("v"), &options).unwrap();
    volume.prepare_log().unwrap();
    let small = segments(&store, &volume).pop().unwrap();
    volume.write_at(512, &[7; BLOCK as usize - 1024]).unwrap();
    let there = segments(&store, &volume);
    assert_eq!(there, [small, small + 1], "the batch did not fit, and another one was made");
    volume.abandon();
    // Had it been deleted, a crash before the other was there would have
    // left its number free.
    let volume = assert_next_is_above(&store, &volume, small + 1, "after a crash");
    volume.settle_all().unwrap();
    assert!(!segments(&store, &volume).contains(&small));
    volume.close().unwrap();
}

#[test]
fn what_was_made_after_a_rollback_is_not_made_again() {
    let store = shared(Arc::new(Memory::new()));
    let volume = open(&store, "v");
    volume.write_at(512, &DATA).unwrap();
    volume.prepare_log().unwrap();
    volume.rollback(&SnapshotName::new("s").unwrap()).unwrap();
    volume.prepare_log().unwrap();
    let used = segments(&store, &volume).pop().unwrap();
    volume.close().unwrap();
    assert!(segments(&store, &volume).is_empty());
    assert_next_is_above(&store, &volume, used, "after a rollback").close().unwrap();
}

/// The last head says that numbers up to some are used, and cannot be loaded:
/// the one before it counts, which does not know that.
#[test]
fn a_number_that_only_an_unfinished_head_knows_is_not_used_again() {
    let store = shared(Arc::new(Memory::new()));
    let volume = open(&store, "v");
    volume.write_at(512, &DATA).unwrap();
    volume.flush().unwrap();
    let there = segments(&store, &volume).pop().unwrap();
    volume.abandon();
    let mut last = head::latest(&store, volume.id).unwrap();
    last.number += 1;
    last.log.segment = there + 8;
    last.root.page = crate::name::Id(7);
    head::commit(&store, &last).unwrap();
    let volume = assert_next_is_above(&store, &volume, there + 7, "an unfinished head");
    let mut data = [0; 512];
    volume.read_at(512, &mut data).unwrap();
    assert_eq!(data, DATA, "and nothing is lost");
    volume.close().unwrap();
}

/// A store whose listings of segments are those of an earlier time.
#[derive(Debug)]
struct Lagging {
    inner: Memory,
    listed: Mutex<Option<Vec<ObjectName>>>,
}

impl Backend for Lagging {
    fn capabilities(&self) -> Capabilities {
        Capabilities { list_lag_s: 30, ..CAPABILITIES }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.inner.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.inner.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.inner.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.inner.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.inner.sync(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.inner.forget_synced(names);
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.inner.stat(name)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        match (&*self.listed.lock(), prefix.starts_with("log/"), after) {
            (Some(listed), true, None) => Ok(listed.clone()),
            _ => self.inner.list(prefix, after, count_max),
        }
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.inner.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

/// As on NFS, where another host made the segments.
#[test]
fn a_log_is_whole_although_its_listing_is_old() {
    let inner = Memory::new();
    let store = shared(Arc::new(inner.clone()));
    let volume = open(&store, "v");
    let mut model = vec![1; 8 * BLOCK as usize];
    let mut old = Vec::new();
    for at in 0..60 {
        if at == 1 {
            old = store.log().list_all(&prefix::segments_of(volume.id)).unwrap();
        }
        let from = at * 1536;
        volume.write_at(from as u64, &[at as u8 + 2; 512]).unwrap();
        model[from..from + 512].fill(at as u8 + 2);
    }
    volume.flush().unwrap();
    assert!(segments(&store, &volume).len() > old.len() + 1);
    volume.abandon();
    for listed in [Some(old), Some(Vec::new()), None] {
        let lagging = Lagging { inner: inner.clone(), listed: Mutex::new(listed) };
        let other = Store::open("test", Arc::new(lagging)).unwrap();
        let reader = OpenOptions { force_share: true, ..OpenOptions::read_only() };
        assert_same(&Volume::open(&other, &name("v"), &reader).unwrap(), &model, "an old listing");
    }
}

/// What it still wrote into the room of its last segment nobody would read.
#[test]
fn a_holder_that_finds_its_next_segment_taken_stops() {
    let store = shared(Arc::new(Memory::new()));
    let volume = open(&store, "v");
    volume.write_at(512, &DATA).unwrap();
    let last = segments(&store, &volume).pop().unwrap();
    let taken = ObjectName::Segment { volume: volume.id, number: last + 1 };
    store.log().create(&taken, b"of the next holder").unwrap();
    assert!(volume.prepare_log().unwrap_err().is(ErrorKind::Fenced));
    assert!(volume.write_at(BLOCK + 512, &DATA).is_err());
    assert!(volume.flush().is_err());
}
