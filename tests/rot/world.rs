//! Stores whose bits are flipped: with a volume that was written to in every
//! way, its snapshots and a clone of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::volume as names;
use archipelago::catalog::{clone, snapshot};
use archipelago::log::LogOptions;
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::scrub::{self, ScrubOptions};
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

pub const BLOCK: usize = 16 << 10;
const BLOCKS: usize = 12;

pub struct World {
    pub what: &'static str,
    pub memory: Memory,
    /// All but blocks, by their kind, with their length in bytes.
    pub objects: BTreeMap<String, Vec<(ObjectName, usize)>>,
    /// What volumes and snapshots hold.
    pub views: BTreeMap<String, Vec<u8>>,
    /// The snapshot that is not published, or nothing.
    pub pending: String,
    pub ids: BTreeMap<String, Id>,
    /// The segment of the last batch and where in it that begins.
    pub last_batch: (String, usize),
    /// What the volume holds without it.
    pub without_last_batch: Vec<u8>,
    /// Of a segment, at most.
    pub used_bytes: usize,
}

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub fn options() -> OpenOptions {
    let log =
        LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, batch_bytes_max: 32 << 10 };
    OpenOptions { log, log_limit_bytes: 1 << 20, ..OpenOptions::default() }
}

/// A volume and what it should hold.
struct Written {
    volume: Arc<Volume>,
    content: Vec<u8>,
}

impl Written {
    fn write(&mut self, at: usize, data: &[u8]) {
        self.volume.write_at(at as u64, data).unwrap();
        self.content[at..at + data.len()].copy_from_slice(data);
    }

    fn zero(&mut self, at: usize, bytes: usize) {
        self.volume.write_zeroes(at as u64, bytes as u64).unwrap();
        self.content[at..at + bytes].fill(0);
    }
}

/// What a volume goes through before its last moments.
fn life(memory: &Memory, views: &mut BTreeMap<String, Vec<u8>>) -> (Store, Written) {
    let store = Store::init("test", Arc::new(memory.clone()), BLOCK as u64).unwrap();
    names::create(&store, &name("web"), (BLOCKS * BLOCK) as u64 + 5000, BLOCK as u64).unwrap();
    let volume = Volume::open(&store, &name("web"), &options()).unwrap();
    let mut web = Written { volume, content: vec![0; BLOCKS * BLOCK + 5000] };
    for block in 0..5 {
        web.write(block * BLOCK, &vec![block as u8 + 1; BLOCK]);
    }
    web.volume.snapshot(&snap("one")).unwrap();
    web.volume.publish_all().unwrap();
    views.insert("web@one".to_owned(), web.content.clone());
    scrub::run(&store, &ScrubOptions::default(), &mut |_| {}).unwrap();
    let source = snapshot::find(&store, web.volume.id, &snap("one")).unwrap();
    clone::clone(&store, &source, &name("copy"), None).unwrap();
    let volume = Volume::open(&store, &name("copy"), &options()).unwrap();
    let mut copy = Written { volume, content: web.content.clone() };
    copy.write(3000, &[21; 6000]);
    copy.write(7 * BLOCK, &vec![22; BLOCK]);
    copy.volume.close().unwrap();
    views.insert("copy".to_owned(), copy.content);
    gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap();
    web.write(100, &[31; 9000]);
    web.write(BLOCK, &vec![32; BLOCK]);
    web.volume.settle_all().unwrap();
    web.write(4000, &[33; 200]);
    web.zero(2 * BLOCK + 100, 2 * BLOCK);
    web.volume.flush().unwrap();
    web.volume.snapshot(&snap("two")).unwrap();
    views.insert("web@two".to_owned(), web.content.clone());
    web.write(8000, &[34; 600]);
    web.write(BLOCK + 4096, &[35; 4096]);
    web.volume.flush().unwrap();
    (store, web)
}

fn segments(memory: &Memory) -> BTreeMap<String, Vec<u8>> {
    let names = memory.list_all(prefix::SEGMENTS).unwrap();
    names.iter().map(|name| (name.to_string(), memory.read_all(name, u64::MAX).unwrap())).collect()
}

/// Nobody closed it: the process was killed, with a write that was not
/// flushed, and with a snapshot that is not published.
pub fn left() -> World {
    let (memory, mut views) = (Memory::new(), BTreeMap::new());
    let (store, mut web) = life(&memory, &mut views);
    let before = segments(&memory);
    let without_last_batch = web.content.clone();
    web.write(BLOCK + 512, &[36; 512]);
    let after = segments(&memory);
    let mut last_batch = (String::new(), 0);
    for (name, data) in &after {
        let old = before.get(name).map_or(&[][..], |old| old);
        if let Some(at) = (0..data.len()).find(|at| old.get(*at) != Some(&data[*at])) {
            last_batch = (name.clone(), at);
        }
    }
    assert!(last_batch.1 > 0, "the last write was logged");
    let used = |data: &Vec<u8>| data.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
    let used_bytes = after.values().map(used).max().unwrap_or(1);
    views.insert("web".to_owned(), web.content);
    web.volume.abandon();
    drop(store);
    let pending = "web@two".to_owned();
    finish(World { what: "left", pending, last_batch, without_last_batch, used_bytes, ..bare(memory, views) })
}

pub fn closed() -> World {
    let (memory, mut views) = (Memory::new(), BTreeMap::new());
    let (store, web) = life(&memory, &mut views);
    web.volume.publish_all().unwrap();
    web.volume.close().unwrap();
    views.insert("web".to_owned(), web.content);
    drop(store);
    finish(World { what: "closed", ..bare(memory, views) })
}

fn bare(memory: Memory, views: BTreeMap<String, Vec<u8>>) -> World {
    World {
        what: "",
        memory,
        objects: BTreeMap::new(),
        views,
        pending: String::new(),
        ids: BTreeMap::new(),
        last_batch: (String::new(), 0),
        without_last_batch: Vec::new(),
        used_bytes: 1,
    }
}

fn finish(mut world: World) -> World {
    for object in world.memory.list_all(prefix::ALL).unwrap() {
        let kind = object.to_string().split('/').next().unwrap_or_default().to_owned();
        let bytes = world.memory.stat(&object).unwrap().bytes as usize;
        if kind != "block" {
            world.objects.entry(kind).or_default().push((object, bytes));
        }
    }
    let store = Store::open("test", Arc::new(world.memory.clone())).unwrap();
    for volume in ["web", "copy"] {
        world.ids.insert(volume.to_owned(), names::lookup(&store, &name(volume)).unwrap());
    }
    world
}
