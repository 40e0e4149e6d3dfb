//! What can go wrong with a read cache: it keeps what is not for ever. A guest
//! writes, or another process does, or a snapshot is settled, or a volume is rolled
//! back, and a read shows what was there before.
//!
//! How this proves that it cannot: a volume goes back and forth between two stores
//! with one cache, as between two processes of a host, and is written, snapshotted,
//! rolled back, crashed and cloned at random; all of it is read again and again,
//! so that everything that may be kept is, and compared with plain bytes. The two
//! mistakes that there are to make, keeping what this epoch writes and keeping what
//! a cut that is not published is settled into, are planted and must be seen.
//! (`tests/model.rs` plays its histories over a cache; what a damaged, full, hanging
//! or foreign folder does is in src/readcache/.)

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::only::{Only, Part};
use archipelago::backend::{Backend, Capabilities};
use archipelago::catalog::{clone, snapshot as snapshots, volume as names};
use archipelago::fault::{self, Planted};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::readcache::Options;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};

const BLOCK: u64 = 256 << 10;
const SIZE: usize = 6 * BLOCK as usize;

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn cache_in(folder: &Path) -> Options {
    Options { path: folder.join("cache"), bytes_max: 64 << 20, group: None }
}

fn once() -> Arc<dyn Backend> {
    Arc::new(Only::new(Arc::new(Memory::new()), Part::BlocksOnce))
}

fn open(store: &Store, text: &str) -> Arc<Volume> {
    Volume::open(store, &name(text), &OpenOptions::default()).unwrap()
}

struct Seeded(u64);

impl Seeded {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Reads all twice, what is missing in the cache and what is there.
fn check(volume: &Volume, content: &[u8], what: &str) {
    for time in ["once", "again"] {
        let mut data = vec![0xEE; content.len()];
        for (at, part) in data.chunks_mut(48 << 10).enumerate() {
            volume.read_at((at * (48 << 10)) as u64, part).unwrap();
        }
        let wrong = data.iter().zip(content).position(|(found, right)| found != right);
        assert!(wrong.is_none(), "{what}, read {time}: byte {wrong:?}");
        volume.store.read_cache().unwrap().wait_filled();
    }
}

struct Life {
    stores: [Store; 2],
    random: Seeded,
    content: Vec<u8>,
    snapshots: Vec<(SnapshotName, Vec<u8>)>,
    tag: u8,
}

impl Life {
    fn begin(backend: &Arc<dyn Backend>, cache: &Options, seed: u64) -> Life {
        Store::init("test", Arc::clone(backend), BLOCK).unwrap();
        let process = || Store::open("test", Arc::clone(backend)).unwrap().with_read_cache(cache).unwrap();
        let stores = [process(), process()];
        names::create(&stores[0], &name("v"), SIZE as u64, BLOCK).unwrap();
        Life { stores, random: Seeded(seed), content: vec![0; SIZE], snapshots: Vec::new(), tag: 0 }
    }

    fn write(&mut self, volume: &Arc<Volume>) {
        let bytes = [512, 4096, 20 << 10, 64 << 10, BLOCK as usize][self.random.next(5)];
        let at = self.random.next(SIZE / bytes) * bytes;
        self.tag = self.tag % 250 + 1;
        volume.write_at(at as u64, &vec![self.tag; bytes]).unwrap();
        self.content[at..at + bytes].fill(self.tag);
    }

    fn step(&mut self, volume: &Arc<Volume>, number: usize) {
        match self.random.next(12) {
            0 => {
                let taken = snap(&format!("s{number}"));
                volume.snapshot(&taken).unwrap();
                self.snapshots.push((taken, self.content.clone()));
            }
            1 => volume.publish_all().unwrap(),
            2 => volume.settle_all().unwrap(),
            3 if !self.snapshots.is_empty() => {
                let (taken, content) = self.snapshots[self.random.next(self.snapshots.len())].clone();
                volume.rollback(&taken).unwrap();
                self.content = content;
            }
            4 => {
                volume.write_zeroes(BLOCK, BLOCK / 2).unwrap();
                self.content[BLOCK as usize..(BLOCK + BLOCK / 2) as usize].fill(0);
            }
            _ => (0..3).for_each(|_| self.write(volume)),
        }
        check(volume, &self.content, &format!("step {number}"));
    }

    fn clone_and_check(&self, number: usize) {
        let store = &self.stores[number % 2];
        let id = names::lookup(store, &name("v")).unwrap();
        for (taken, content) in &self.snapshots {
            let Ok(found) = snapshots::find(store, id, taken) else { continue };
            let to = name(&format!("c{number}{taken}"));
            if clone::clone(store, &found, &to, None).is_err() {
                continue;
            }
            let volume = open(store, to.as_str());
            check(&volume, content, &format!("clone of {taken}"));
            volume.write_at(0, &[0xFF; 4096]).unwrap();
            volume.close().unwrap();
        }
    }

    fn run(&mut self, rounds: usize) {
        for round in 0..rounds {
            let volume = open(&self.stores[round % 2], "v");
            check(&volume, &self.content, "opened");
            (0..8).for_each(|step| self.step(&volume, round * 8 + step));
            match self.random.next(3) {
                0 => {
                    volume.flush().unwrap();
                    volume.abandon();
                }
                _ => volume.close().unwrap(),
            }
            drop(volume);
            if round % 4 == 3 {
                self.clone_and_check(round);
            }
        }
    }
}

/// Returns how often the cache had what was read.
fn live(backend: &Arc<dyn Backend>, rounds: usize, seed: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let mut life = Life::begin(backend, &cache_in(folder.path()), seed);
    life.run(rounds);
    life.stores[0].read_cache().unwrap().counts().hits.load(Ordering::SeqCst)
}

#[test]
fn a_volume_that_goes_back_and_forth_shows_what_was_written_last() {
    for seed in 0..6 {
        assert!(live(&(Arc::new(Memory::new()) as Arc<dyn Backend>), 12, seed) > 100, "seed {seed}");
        assert!(live(&once(), 12, seed) > 100, "seed {seed}");
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = Dir::create(&folder.path().join("store"), DirOptions::default()).unwrap();
    assert!(live(&(Arc::new(dir) as Arc<dyn Backend>), 8, 1) > 100);
}

#[test]
fn keeping_what_is_written_still_is_noticed() {
    for planted in Planted::OF_CACHE {
        fault::plant(*planted);
        let is_noticed = (0..6).any(|seed| {
            let backend: Arc<dyn Backend> = Arc::new(Memory::new());
            catch_unwind(AssertUnwindSafe(|| live(&backend, 12, seed))).is_err()
        });
        fault::plant(Planted::None);
        assert!(is_noticed, "{planted:?} is planted, and all is as it should be");
    }
}

#[test]
fn nothing_is_kept_of_what_its_own_epoch_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let options = cache_in(folder.path());
    let store = Store::init("test", Arc::new(Memory::new()), BLOCK).unwrap();
    let store = store.with_read_cache(&options).unwrap();
    let counts = || {
        let counts = store.read_cache().unwrap().counts();
        (counts.hits.load(Ordering::SeqCst), counts.misses.load(Ordering::SeqCst))
    };
    names::create(&store, &name("v"), SIZE as u64, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; SIZE]).unwrap();
    volume.settle_all().unwrap();
    check(&volume, &vec![1; SIZE], "own");
    // A cut that is not published is no better; one that is has another epoch.
    volume.snapshot(&snap("s")).unwrap();
    check(&volume, &vec![1; SIZE], "cut");
    assert_eq!(counts(), (0, 0));
    volume.publish_all().unwrap();
    check(&volume, &vec![1; SIZE], "sealed");
    assert!(counts().0 > 0 && counts().1 > 0, "{:?}", counts());
    // Of what is written over it only the rest.
    volume.write_at(0, &vec![2; BLOCK as usize]).unwrap();
    let before = counts();
    volume.read_at(0, &mut vec![0; BLOCK as usize]).unwrap();
    assert_eq!(counts(), before);
}

#[test]
fn a_store_to_which_a_lost_holder_may_write_has_no_cache() {
    let folder = tempfile::tempdir().unwrap();
    let options = cache_in(folder.path());
    let with = |less: Capabilities| {
        let store = Store::init("test", Arc::new(Memory::with(less)), BLOCK).unwrap();
        store.with_read_cache(&options)
    };
    let error = with(Capabilities { fences: false, ..CAPABILITIES }).unwrap_err();
    assert!(error.to_string().contains("cannot have a read cache"), "{error}");
    with(Capabilities { fences: false, overwrite_in_place: false, ..CAPABILITIES }).unwrap();
    with(CAPABILITIES).unwrap();
}

/// Reads at random places with so many in flight. Returns how long it took.
fn read_all(device: &Device, content: &[u8], bytes: usize, seed: u64) -> Duration {
    let mut random = Seeded(seed);
    let mut places: Vec<usize> = (0..content.len() / bytes).map(|at| at * bytes).collect();
    (1..places.len()).for_each(|at| places.swap(at, random.next(at + 1)));
    let began = Instant::now();
    for some in places.chunks(8) {
        let asked = some.iter().map(|at| {
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let buf = IoBuf::alloc(bytes);
            let done = Box::new(move |result| sender.send(result).unwrap());
            let operation = Operation::Read { buf: buf.clone() };
            device.submit(Request { offset_bytes: *at as u64, operation }, done);
            (*at, buf, receiver)
        });
        for (at, buf, receiver) in asked.collect::<Vec<_>>() {
            receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
            let mut data = vec![0; bytes];
            buf.copy_to(0, &mut data);
            assert!(data == content[at..at + bytes], "wrong bytes at {at}");
        }
    }
    began.elapsed()
}

fn serve(store: &Store) -> Device {
    let open = OpenOptions::default();
    let (volume, active) = (name("v"), Mode::Writable);
    let options = DeviceOptions { volume, snapshot: None, open, active, no_flush: false };
    Device::open(store.clone(), options).unwrap()
}

/// With figures: what a store costs that takes 10 ms for each read.
#[test]
fn a_slow_store_is_asked_once_by_all_machines() {
    let folder = tempfile::tempdir().unwrap();
    let faulty = Faulty::with_data_path(once());
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    names::create(&store, &name("v"), SIZE as u64, BLOCK).unwrap();
    let volume = open(&store, "v");
    let content: Vec<u8> = (0..SIZE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (at, block) in content.chunks(BLOCK as usize).enumerate() {
        volume.write_at(at as u64 * BLOCK, block).unwrap();
    }
    volume.close().unwrap();
    drop(volume);
    let slow = Rule::new(Fault::Delay(Duration::from_millis(10))).on(Method::Read).named("block/");
    faulty.inject(slow.times(u64::MAX));
    let plain = serve(&store);
    let without = read_all(&plain, &content, 4096, 1);
    plain.close().unwrap();
    let cached = store.with_read_cache(&cache_in(folder.path())).unwrap();
    let device = serve(&cached);
    let first = read_all(&device, &content, 4096, 2);
    cached.read_cache().unwrap().wait_filled();
    faulty.reset_counts();
    let again = read_all(&device, &content, 4096, 3);
    // Past every border, and as only a buffered guest reads.
    read_all(&device, &content, 3 * 1024, 4);
    read_all(&device, &content, 192 << 10, 5);
    assert_eq!(faulty.bytes(Method::Read), 0, "the store is asked again");
    device.close().unwrap();
    let rate = |time: Duration| (SIZE / 4096) as f64 / time.as_secs_f64();
    println!("4 KiB reads at random, 8 in flight, from a store that takes 10 ms; all as written:");
    let rates = [without, first, again].map(rate);
    println!("  no cache {:.0}/s, a new one {:.0}/s, a filled one {:.0}/s", rates[0], rates[1], rates[2]);
    assert!(again < without / 2, "{again:?}, and {without:?} without");
}
