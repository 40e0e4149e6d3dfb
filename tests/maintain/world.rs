//! Volumes and snapshots beside what they must hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago::backend::memory::Memory;
use archipelago::backend::Backend;
use archipelago::catalog::{clone, snapshot as snapshots, volume as names};
use archipelago::log::LogOptions;
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions, Report};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

pub const BLOCK: u64 = 16 << 10;
/// More blocks than one map page has entries.
pub const SIZE: u64 = 1030 * BLOCK + 5000;

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub fn options() -> OpenOptions {
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

pub fn new_store() -> (Memory, Store) {
    let memory = Memory::new();
    let store = Store::init("test", Arc::new(memory.clone()), BLOCK).unwrap();
    (memory, store)
}

pub fn store_on(backend: Arc<dyn Backend>) -> Store {
    Store::open("test", backend).unwrap()
}

pub fn open(store: &Store, text: &str) -> Arc<Volume> {
    Volume::open(store, &name(text), &options()).unwrap()
}

/// Whoever lists here has made all that is listed: nothing lags.
pub fn gc(store: &Store) -> Report {
    gc::run(store, &GcOptions { wait: |_| {}, ..GcOptions::default() }, &mut |_| {}).unwrap()
}

pub fn dry_gc(store: &Store) -> Report {
    gc::run(store, &GcOptions { dry_run: true, ..GcOptions::default() }, &mut |_| {}).unwrap()
}

/// Every call of the store is one at which something else may happen; for who
/// has no time for all of them (tests/mutants): every so many.
pub fn moments() -> impl Iterator<Item = u64> {
    let every = std::env::var("ARCHIPELAGO_MOMENTS_EVERY").ok().and_then(|text| text.parse().ok());
    (0..).step_by(every.unwrap_or(1))
}

pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What something must read as: tags of 512-byte sectors that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub size_bytes: u64,
    sectors: BTreeMap<u64, u8>,
}

const SECTOR: u64 = 512;

impl Content {
    pub fn zeroes(size_bytes: u64) -> Content {
        Content { size_bytes, sectors: BTreeMap::new() }
    }

    pub fn fill(&mut self, offset_bytes: u64, bytes: u64, tag: u8) {
        for sector in offset_bytes / SECTOR..(offset_bytes + bytes) / SECTOR {
            match tag {
                0 => self.sectors.remove(&sector),
                tag => self.sectors.insert(sector, tag),
            };
        }
    }

    pub fn resize(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
        self.sectors.split_off(&(size_bytes / SECTOR));
    }

    pub fn assert_is(&self, volume: &Volume, what: &str) {
        assert_eq!(volume.size_bytes(), self.size_bytes, "{what}: size");
        // Nothing here writes to the blocks between.
        for (from, to) in [(0, 40 * BLOCK), (1016 * BLOCK, self.size_bytes)] {
            let mut data = vec![0xEE; (to - from) as usize];
            volume.read_at(from, &mut data).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
            for (sector, bytes) in (from / SECTOR..).zip(data.chunks(SECTOR as usize)) {
                let tag = self.sectors.get(&sector).copied().unwrap_or(0);
                assert!(
                    bytes.iter().all(|byte| *byte == tag),
                    "{what}: sector {sector} (block {}) is {:#x}, not {tag:#x}",
                    sector * SECTOR / BLOCK,
                    bytes[0]
                );
            }
        }
    }
}

/// What a store must hold.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub volumes: BTreeMap<String, Content>,
    pub snapshots: BTreeMap<(String, String), Content>,
}

impl Expected {
    /// Reads everything but the volumes that are open, which are given.
    pub fn assert_on(&self, store: &Store, opened: &[(&str, &Arc<Volume>)], what: &str) {
        for (text, content) in &self.volumes {
            match opened.iter().find(|(name, _)| name == text) {
                Some((_, volume)) => content.assert_is(volume, &format!("{what}: {text}, open")),
                None => {
                    let volume = Volume::open(store, &name(text), &OpenOptions::read_only())
                        .unwrap_or_else(|error| panic!("{what}: {text}: {}", error.full()));
                    content.assert_is(&volume, &format!("{what}: {text}"));
                }
            }
        }
        for ((text, snapshot), content) in &self.snapshots {
            let volume = Volume::open_snapshot(store, &name(text), &snap(snapshot))
                .unwrap_or_else(|error| panic!("{what}: {text}@{snapshot}: {}", error.full()));
            content.assert_is(&volume, &format!("{what}: {text}@{snapshot}"));
        }
    }
}

/// Writes one tag; the model too.
pub fn write(volume: &Arc<Volume>, content: &mut Content, offset_bytes: u64, bytes: u64, tag: u8) {
    volume.write_at(offset_bytes, &vec![tag; bytes as usize]).unwrap();
    content.fill(offset_bytes, bytes, tag);
}

pub fn make_clone(store: &Store, source: &str, snapshot: &str, to: &str) -> archipelago::Result<()> {
    let id = names::lookup(store, &name(source))?;
    let found = snapshots::find(store, id, &snap(snapshot))?;
    clone::clone(store, &found, &name(to), None).map(drop)
}

/// Check finds no damage.
pub fn assert_sound(store: &Store, what: &str) {
    let report = check::run(store, &CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{what}: {report}");
}
