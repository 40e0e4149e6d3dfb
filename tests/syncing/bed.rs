//! Two stores, and volumes whose content is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::faulty::Faulty;
use archipelago::backend::memory::{self, Memory};
use archipelago::backend::{Backend, BackendExt, Capabilities};
use archipelago::catalog::{snapshot, volume as names};
use archipelago::error::Result;
use archipelago::maintain::sync::{ByHand, Report, SyncOptions, Syncer};
use archipelago::maintain::{check, gc, Severity};
use archipelago::name::{prefix, Id, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

pub const BLOCK: u64 = 16 << 10;

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub struct Side {
    pub faulty: Faulty,
    pub store: Store,
    /// The same, where nothing fails.
    pub quiet: Store,
    _folder: Option<tempfile::TempDir>,
}

pub fn side(called: &str, fences: bool) -> Side {
    on(called, Arc::new(Memory::with(Capabilities { fences, ..memory::CAPABILITIES })), None)
}

pub fn side_in_a_directory(called: &str) -> Side {
    let folder = tempfile::tempdir().unwrap();
    let dir = Dir::create(&folder.path().join("store"), DirOptions::default()).unwrap();
    on(called, Arc::new(dir), Some(folder))
}

fn on(called: &str, plain: Arc<dyn Backend>, folder: Option<tempfile::TempDir>) -> Side {
    let faulty = Faulty::new(Arc::clone(&plain));
    let quiet = Store::init(called, plain, BLOCK).unwrap();
    let store = Store::open(called, Arc::new(faulty.clone())).unwrap();
    Side { faulty, store, quiet, _folder: folder }
}

pub fn make(store: &Store, volume: &str, blocks: u64) -> Id {
    names::create(store, &name(volume), blocks * BLOCK, BLOCK).unwrap()
}

/// Opens a volume for a moment.
pub fn with(store: &Store, volume: &str, work: impl FnOnce(&Arc<Volume>) -> Result<()>) -> Result<()> {
    let volume = Volume::open(store, &name(volume), &OpenOptions::default())?;
    let done = work(&volume);
    done.and(volume.close())
}

/// Writes the first bytes of these blocks.
pub fn write(store: &Store, volume: &str, blocks: &[u64], bytes: u64, byte: u8) {
    let data = vec![byte; bytes as usize];
    with(store, volume, |volume| {
        blocks.iter().try_for_each(|block| volume.write_at(block * BLOCK, &data))?;
        volume.flush()
    })
    .unwrap();
}

pub fn take(store: &Store, volume: &str, which: &str) {
    with(store, volume, |volume| volume.snapshot(&snap(which)).and_then(|()| volume.publish_all())).unwrap();
}

pub fn syncer(from: &Store, to: &Store) -> Syncer {
    Syncer::new(from, to, SyncOptions::default()).unwrap()
}

pub fn round(from: &Store, to: &Store) -> Result<Report> {
    syncer(from, to).round(&mut ByHand::default(), &mut |_| Ok(()))
}

/// A round in which nothing goes wrong.
pub fn sync(from: &Store, to: &Store) -> Report {
    let report = round(from, to).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    report
}

pub fn content_of(volume: &Arc<Volume>) -> Vec<u8> {
    let mut data = vec![0; volume.size_bytes() as usize];
    volume.read_at(0, &mut data).unwrap();
    data
}

pub type Contents = BTreeMap<String, Vec<u8>>;

/// The snapshots of people, with their content.
pub fn snapshots_of(store: &Store, volume: &str) -> Contents {
    let id = names::lookup(store, &name(volume)).unwrap();
    let listed = snapshot::list(store, id).unwrap();
    let of_people = listed.into_iter().filter(|one| !one.name.as_str().starts_with("archipelago-"));
    let read = |one: snapshot::Snapshot| {
        let volume = Volume::open_snapshot(store, &name(volume), &one.name).unwrap();
        (one.name.to_string(), content_of(&volume))
    };
    of_people.map(read).collect()
}

/// What a volume holds, whoever has it and whatever it is.
pub fn state_of(store: &Store, volume: &str) -> Vec<u8> {
    let options = OpenOptions { force_share: true, ..OpenOptions::read_only() };
    content_of(&Volume::open(store, &name(volume), &options).unwrap())
}

pub fn assert_sound(store: &Store, what: &str) {
    let report = check::run(store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{what}: {}: {:?}", store.name, report.problems);
}

/// Nothing is wrong but what was half made and is given away by gc.
pub fn assert_nothing_is_damaged(store: &Store, what: &str) {
    let report = check::run(store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    let damaged = report.problems.iter().find(|problem| problem.severity != Severity::Leftover);
    assert!(damaged.is_none(), "{what}: {}: {damaged:?}", store.name);
}

pub fn assert_both_sound(stores: [&Store; 2], what: &str) {
    stores.into_iter().for_each(|store| assert_sound(store, what));
}

pub fn collect(store: &Store) {
    for _ in 0..4 {
        gc::run(store, &gc::GcOptions { wait: |_| {}, ..gc::GcOptions::default() }, &mut |_| {}).unwrap();
    }
}

/// What the blocks of a store take.
pub fn room(store: &Store) -> u64 {
    let names = store.blocks().list_all(prefix::BLOCKS).unwrap();
    names.iter().map(|name| store.blocks().stat(name).unwrap().allocated_bytes).sum()
}
