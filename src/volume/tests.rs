//! A volume against a plain array of bytes: every operation, in seeded random
//! order, with reopening in between. What can go wrong: a write lands in the
//! wrong place, a snapshot changes, a clone sees its source, something comes
//! back that was discarded.

#![allow(clippy::print_stderr)]

use std::sync::Arc;

use super::*;
use crate::backend::memory::Memory;
use crate::backend::only::{Only, Part};
use crate::backend::recording::{Op, Recording};
use crate::backend::Backend;
use crate::catalog::{clone, snapshot as snapshots, volume as names};
use crate::log::LogOptions;
use crate::name::{ObjectName, SnapshotName, VolumeName};

mod calls;
mod edges;
mod full;
mod handing;
mod numbers;
mod once;
mod reading;
mod rollback;
mod tainted;
mod ways;
mod working;

const BLOCK: u64 = 16 << 10;

struct Seeded(u64);

impl Seeded {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn options() -> OpenOptions {
    OpenOptions {
        log: LogOptions {
            segment_bytes: 256 << 10,
            first_segment_bytes: 64 << 10,
            batch_bytes_max: 64 << 10,
        },
        log_limit_bytes: 1 << 20,
        ..OpenOptions::default()
    }
}

fn store() -> Store {
    Store::init("test", Arc::new(Memory::new()), BLOCK).unwrap()
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn open(store: &Store, text: &str) -> Arc<Volume> {
    Volume::open(store, &name(text), &options()).unwrap()
}

fn assert_same(volume: &Volume, model: &[u8], what: &str) {
    assert_eq!(volume.size_bytes(), model.len() as u64, "{what}: size");
    let mut data = vec![0xEE; model.len()];
    volume.read_at(0, &mut data).unwrap();
    if let Some(at) = (0..data.len()).find(|at| data[*at] != model[*at]) {
        panic!("{what}: byte {at} (block {}) is {:#x}, not {:#x}", at as u64 / BLOCK, data[at], model[at]);
    }
}

struct World {
    random: Seeded,
    store: Store,
    volume: Arc<Volume>,
    model: Vec<u8>,
    snapshots: Vec<(SnapshotName, Vec<u8>)>,
    counter: u64,
    trace: Vec<String>,
}

impl World {
    fn range(&mut self) -> (u64, u64) {
        let size = self.model.len() as u64;
        let (at, length) = match self.random.next(5) {
            0 => (self.random.next(size / BLOCK) * BLOCK, BLOCK),
            1 => (self.random.next(size / 4096) * 4096, 4096),
            2 => (self.random.next(size / 512) * 512, 512),
            3 => (self.random.next(size), 1 + self.random.next(3 * BLOCK)),
            _ => (self.random.next(size / 4096) * 4096, 4096 * (1 + self.random.next(8))),
        };
        (at, length.min(size - at))
    }

    fn step(&mut self) {
        self.counter += 1;
        let fill = (self.counter % 251 + 1) as u8;
        let what = self.random.next(100);
        match what {
            0..=54 => {
                let (at, length) = self.range();
                self.trace.push(format!("write {at} {length} = {fill}"));
                self.volume.write_at(at, &vec![fill; length as usize]).unwrap();
                self.model[at as usize..(at + length) as usize].fill(fill);
            }
            55..=64 => {
                let (at, length) = self.range();
                self.trace.push(format!("zero {at} {length}"));
                self.volume.write_zeroes(at, length).unwrap();
                self.model[at as usize..(at + length) as usize].fill(0);
            }
            65..=71 => self.volume.flush().unwrap(),
            72..=77 => {
                self.trace.push("work".into());
                self.volume.work(true).unwrap();
            }
            78..=80 => {
                self.trace.push("settle all".into());
                self.volume.settle_all().unwrap();
            }
            81..=86 => self.snapshot(),
            87..=88 => self.rollback(),
            89..=90 => self.resize(),
            91..=93 => {
                self.trace.push("reopen".into());
                self.volume.close().unwrap();
                self.volume = open(&self.store, "v");
            }
            94..=95 => {
                self.trace.push("crash".into());
                self.volume.flush().unwrap();
                self.volume.abandon();
                self.volume = open(&self.store, "v");
            }
            96 => self.remove_snapshot(),
            _ => assert_same(&self.volume, &self.model, "read"),
        }
    }

    fn snapshot(&mut self) {
        let snapshot = SnapshotName::new(&format!("s{}", self.counter)).unwrap();
        self.trace.push(format!("snapshot {snapshot}"));
        self.volume.snapshot(&snapshot).unwrap();
        self.snapshots.push((snapshot, self.model.clone()));
        if self.random.next(2) == 0 {
            self.volume.publish_all().unwrap();
        }
    }

    fn rollback(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let at = self.random.next(self.snapshots.len() as u64) as usize;
        let (snapshot, content) = self.snapshots[at].clone();
        self.trace.push(format!("rollback {snapshot}"));
        self.volume.rollback(&snapshot).unwrap();
        self.model = content;
    }

    fn remove_snapshot(&mut self) {
        if self.snapshots.len() < 3 {
            return;
        }
        let (snapshot, _) = self.snapshots.remove(0);
        self.trace.push(format!("remove {snapshot}"));
        self.volume.remove_snapshot(&snapshot).unwrap();
    }

    fn resize(&mut self) {
        let size = 4 * BLOCK + self.random.next(16) * 5000;
        self.trace.push(format!("resize {size}"));
        self.volume.resize(size, true).unwrap();
        self.model.resize(size as usize, 0);
    }

    fn check_snapshots(&self) {
        self.volume.publish_all().unwrap();
        for (snapshot, content) in &self.snapshots {
            let opened = Volume::open_snapshot(&self.store, &name("v"), snapshot).unwrap();
            assert_same(&opened, content, snapshot.as_str());
        }
        let Some((snapshot, content)) = self.snapshots.last() else { return };
        let source = snapshots::find(&self.store, self.volume.id, snapshot).unwrap();
        clone::clone(&self.store, &source, &name("c"), None).unwrap();
        let cloned = open(&self.store, "c");
        assert_same(&cloned, content, "clone");
        cloned.write_at(100, b"only in the clone").unwrap();
        cloned.settle_all().unwrap();
        cloned.close().unwrap();
        let opened = Volume::open_snapshot(&self.store, &name("v"), snapshot).unwrap();
        assert_same(&opened, content, "source of a clone");
    }
}

/// The log in a place of its own; each lets only its own objects in.
fn combined() -> Store {
    let only = |part| Arc::new(Only::new(Arc::new(Memory::new()), part)) as Arc<dyn Backend>;
    Store::init_combined("test", only(Part::AllButTheLog), only(Part::Log), BLOCK).unwrap()
}

fn history(store: Store, seed: u64, steps: u64) {
    let size = 8 * BLOCK + 5000;
    names::create(&store, &name("v"), size, BLOCK).unwrap();
    let mut world = World {
        random: Seeded(seed),
        volume: open(&store, "v"),
        store,
        model: vec![0; size as usize],
        snapshots: Vec::new(),
        counter: 0,
        trace: Vec::new(),
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
        }
        assert_same(&world.volume, &world.model, "end");
        world.check_snapshots();
        world.volume.close().unwrap();
    }));
    if let Err(panic) = outcome {
        let from = world.trace.len().saturating_sub(40);
        eprintln!(
            "seed {seed}, the last of {} steps:\n{}",
            world.trace.len(),
            world.trace[from..].join("\n")
        );
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn random_histories_read_back_as_a_plain_array() {
    for seed in 0..150 {
        history(store(), seed, 200);
    }
}

#[test]
fn random_histories_with_the_log_elsewhere() {
    for seed in 0..100 {
        history(combined(), seed, 200);
    }
}

/// Nothing but the log can be overwritten.
fn once() -> Store {
    let backend = Arc::new(Only::new(Arc::new(Memory::new()), Part::BlocksOnce));
    Store::init("test", backend, BLOCK).unwrap()
}

#[test]
fn random_histories_where_nothing_is_overwritten() {
    for seed in 0..150 {
        history(once(), seed, 200);
    }
}

#[test]
fn the_first_write_after_a_clone_is_one_append() {
    let store = store();
    names::create(&store, &name("v"), 64 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; 64 * BLOCK as usize]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    let begun = volume.begin_write(5, 4096, 8192).unwrap().unwrap();
    assert_eq!(begun.way, Way::Log);
    volume.carry_out(&begun, &IoBuf::copy_of(&[2; 4096])).unwrap();
    volume.settle_all().unwrap();
    // Settled into a layer of one granule, after which it is written in place.
    let begun = volume.begin_write(5, 4096, 8192).unwrap().unwrap();
    assert_eq!(begun.way, Way::InPlace);
    volume.carry_out(&begun, &IoBuf::copy_of(&[3; 4096])).unwrap();
    assert_eq!(volume.usage().unwrap().own_bytes, 4096);
    let mut data = vec![0; 12288];
    volume.read_at(5 * BLOCK, &mut data).unwrap();
    assert_eq!((data[0], data[4096], data[8191], data[8192]), (1, 3, 3, 1));
}

/// A flush that takes an old block for a new one syncs a directory for nothing
/// at each block's first flush after an open; one that takes a new block for
/// an old one loses it.
#[test]
fn a_flush_syncs_the_names_of_new_blocks_only() {
    let recording = Recording::new(Arc::new(Memory::new()));
    let store = Store::init("test", Arc::new(recording.clone()), BLOCK).unwrap();
    names::create(&store, &name("v"), 8 * BLOCK, BLOCK).unwrap();
    // The blocks of which the name was synced, and those whose content alone.
    let synced = |work: &dyn Fn()| {
        recording.clear();
        work();
        let (mut whole, mut content) = (Vec::new(), Vec::new());
        for entry in recording.ops() {
            let (names, list) = match entry.op {
                Op::Sync { names } => (names, &mut whole),
                Op::SyncContent { names } => (names, &mut content),
                _ => continue,
            };
            list.extend(names.iter().filter_map(|name| match name {
                ObjectName::Block { index, .. } => Some(*index),
                _ => None,
            }));
        }
        (whole, content)
    };
    let write = |volume: &Arc<Volume>, block: u64| volume.write_at(block * BLOCK, &[7; 4096]).unwrap();
    let volume = open(&store, "v");
    let flush = |volume: &Arc<Volume>| volume.flush().unwrap();
    [0, 1].into_iter().for_each(|block| write(&volume, block));
    assert_eq!(synced(&|| flush(&volume)), (vec![0, 1], vec![]));
    assert_eq!(synced(&|| flush(&volume)), (vec![], vec![]));
    write(&volume, 1);
    assert_eq!(synced(&|| flush(&volume)), (vec![], vec![1]));
    // New and old together.
    [0, 2].into_iter().for_each(|block| write(&volume, block));
    assert_eq!(synced(&|| flush(&volume)), (vec![2, 0], vec![]));
    volume.close().unwrap();
    let volume = open(&store, "v");
    write(&volume, 2);
    assert_eq!(synced(&|| flush(&volume)), (vec![], vec![2]), "after a clean close");
    let begun = volume.begin_write_now(1, 0, 4096).unwrap();
    volume.carry_out(&begun, &IoBuf::copy_of(&[8; 4096])).unwrap();
    assert_eq!(synced(&|| volume.make_durable(&begun).unwrap()), (vec![], vec![1]), "with FUA");
    let begun = volume.begin_write_now(5, 0, 4096).unwrap();
    volume.carry_out(&begun, &IoBuf::copy_of(&[8; 4096])).unwrap();
    assert_eq!(synced(&|| volume.make_durable(&begun).unwrap()), (vec![5, 1], vec![]), "new, with FUA");
}
