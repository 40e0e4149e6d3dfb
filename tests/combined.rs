//! What can go wrong: a store's log is in another place, and something looks for
//! it in the first: a log is deleted that is needed, or read where it is not, or a
//! volume opens without what was acknowledged because the other place is not
//! there today.
//!
//! How this proves that it cannot: each part is kept in a backend that lets only
//! its own objects in (`backend::only`), and everything that is done to volumes is
//! done there (tests/model.rs plays its histories on such a store too). Then the
//! place of the log is taken away, or exchanged for another: every operation that
//! needs it says so, the others work, and nothing has changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::only::{Only, Part};
use archipelago::backend::{Backend, BackendExt, Capabilities};
use archipelago::catalog::volume as names;
use archipelago::config;
use archipelago::maintain::{check, gc, usage};
use archipelago::name::{prefix, ObjectName, SnapshotName, VolumeName};
use archipelago::store::{open as stores, Store};
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

const BLOCK: u64 = 64 << 10;

struct Lab {
    front: Memory,
    log: Memory,
}

impl Lab {
    fn new() -> (Lab, Store) {
        let lab = Lab { front: Memory::new(), log: Memory::new() };
        let store = Store::init_combined("test", lab.front(), lab.log(), BLOCK).unwrap();
        (lab, store)
    }

    fn front(&self) -> Arc<dyn Backend> {
        Arc::new(Only::new(Arc::new(self.front.clone()), Part::AllButTheLog))
    }

    fn log(&self) -> Arc<dyn Backend> {
        Arc::new(Only::new(Arc::new(self.log.clone()), Part::Log))
    }

    fn open(&self) -> Store {
        Store::open_combined("test", self.front(), Ok(self.log())).unwrap()
    }

    /// All that there is, with its bytes.
    fn content(&self) -> Vec<(ObjectName, Vec<u8>)> {
        let of = |memory: &Memory| {
            let names = memory.list_all(prefix::ALL).unwrap();
            let read = |name: ObjectName| (name.clone(), memory.read_all(&name, 1 << 30).unwrap());
            names.into_iter().map(read).collect::<Vec<_>>()
        };
        [of(&self.front), of(&self.log)].concat()
    }
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn open(store: &Store) -> archipelago::Result<Arc<Volume>> {
    Volume::open(store, &name("v"), &OpenOptions::default())
}

fn bytes(volume: &Volume) -> (u8, u8) {
    let mut data = [0; 8192];
    volume.read_at(BLOCK, &mut data).unwrap();
    (data[0], data[4096])
}

/// A volume with a snapshot of ones, over which twos are in the log.
fn written(store: &Store) -> Arc<Volume> {
    names::create(store, &name("v"), 16 * BLOCK, BLOCK).unwrap();
    let volume = open(store).unwrap();
    volume.write_at(0, &vec![1; 4 * BLOCK as usize]).unwrap();
    volume.snapshot(&snap("s")).unwrap();
    volume.publish_all().unwrap();
    volume.write_at(BLOCK, &[2; 4096]).unwrap();
    volume.flush().unwrap();
    volume
}

#[test]
fn a_killed_holders_log_is_found_where_it_is() {
    let (lab, store) = Lab::new();
    let volume = written(&store);
    volume.abandon();
    drop((volume, store));
    assert!(!lab.log.list_all(prefix::SEGMENTS).unwrap().is_empty());
    for _ in 0..3 {
        let store = lab.open();
        let volume = open(&store).unwrap();
        assert_eq!(bytes(&volume), (2, 1));
        volume.abandon();
    }
    let store = lab.open();
    let volume = open(&store).unwrap();
    volume.close().unwrap();
    assert_eq!(lab.log.list_all(prefix::SEGMENTS).unwrap(), [], "a clean close leaves no log");
}

/// What is in doubt is not deleted, and what is not is.
#[test]
fn maintenance_looks_at_both_parts() {
    let (lab, store) = Lab::new();
    written(&store).abandon();
    let volume = open(&store).unwrap();
    volume.write_at(2 * BLOCK, &[3; 4096]).unwrap();
    volume.flush().unwrap();
    let segments = lab.log.list_all(prefix::SEGMENTS).unwrap();
    gc::run(&store, &gc::GcOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(lab.log.list_all(prefix::SEGMENTS).unwrap(), segments, "they are needed");
    assert!(usage::run(&store, &mut |_| {}).unwrap().items[0].used.log_bytes > 0);
    volume.abandon();
    names::remove(&store, &name("v"), true).unwrap();
    for _ in 0..3 {
        gc::run(&store, &gc::GcOptions::default(), &mut |_| {}).unwrap();
    }
    assert_eq!(lab.log.list_all(prefix::ALL).unwrap(), [ObjectName::Store], "the log of a removed volume");
}

fn assert_told(error: &Error) {
    let words = error.full();
    assert!(!error.is(ErrorKind::NotFound) && words.contains("the log of store 'test'"), "{words}");
}

/// With the wrong place, with none, and with one that is not there.
#[test]
fn without_its_log_nothing_is_written_and_snapshots_are_read() {
    let (lab, store) = Lab::new();
    let volume = written(&store);
    volume.abandon();
    let (other, other_store) = Lab::new();
    drop((volume, store, other_store));
    let before = lab.content();
    let gone = Error::sentence(ErrorKind::NotFound, "no such folder");
    let less = Arc::new(Memory::with(Capabilities { overwrite_in_place: false, ..CAPABILITIES }));
    let opened = [
        Store::open("test", lab.front()),
        Store::open_combined("test", lab.front(), Ok(other.log())),
        Store::open_combined("test", lab.front(), Ok(Arc::new(Memory::new()))),
        Store::open_combined("test", lab.front(), Err(gone)),
        Store::open_combined("test", lab.front(), Ok(less)),
    ];
    for store in opened {
        let store = store.unwrap();
        assert_told(&open(&store).unwrap_err());
        for mode in [Mode::ReadOnly, Mode::Inactive] {
            let options = OpenOptions { mode, ..OpenOptions::default() };
            assert_told(&Volume::open(&store, &name("v"), &options).unwrap_err());
        }
        assert_told(
            &gc::run(&store, &gc::GcOptions { dry_run: true, ..Default::default() }, &mut |_| {})
                .unwrap_err(),
        );
        assert_told(&usage::run(&store, &mut |_| {}).unwrap_err());
        let snapshot = Volume::open_snapshot(&store, &name("v"), &snap("s")).unwrap();
        assert_eq!(bytes(&snapshot), (1, 1));
        snapshot.close().unwrap();
    }
    let leases = |name: &ObjectName| matches!(name, ObjectName::Lease { .. });
    let after: Vec<_> = lab.content().into_iter().filter(|(name, _)| !leases(name)).collect();
    let before: Vec<_> = before.into_iter().filter(|(name, _)| !leases(name)).collect();
    assert!(after == before, "something has changed");
    assert_eq!(bytes(&open(&lab.open()).unwrap()), (2, 1));
    let store = lab.open();
    let report = check::run(&store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.problems.iter().all(|problem| !format!("{problem:?}").contains("Damage")), "{report:?}");
}

#[test]
fn a_place_is_one_thing() {
    let (lab, store) = Lab::new();
    // The log is no store, and no log of another.
    let error = Store::open("nvme", Arc::new(lab.log.clone())).unwrap_err();
    let words = error.to_string();
    assert!(error.is(ErrorKind::Invalid) && words.contains("'nvme' holds the log of another"), "{words}");
    let front: Arc<dyn Backend> = Arc::new(Memory::new());
    let error = Store::init_combined("b", Arc::clone(&front), Arc::new(lab.log.clone()), BLOCK).unwrap_err();
    assert!(error.is(ErrorKind::Exists) && error.to_string().contains("a place of its own"), "{error}");
    assert_eq!(front.list_all(prefix::ALL).unwrap(), [], "nothing was begun");
    // A store with its log in itself keeps it there.
    drop(Store::init("whole", Arc::clone(&front), BLOCK).unwrap());
    let error = Store::open_combined("whole", front, Ok(Arc::new(lab.log.clone()))).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("leave 'log' out"), "{error}");
    // One that is there is not made again, and its log stays what it is.
    let error = Store::init_combined("test", lab.front(), Arc::new(Memory::new()), BLOCK).unwrap_err();
    assert!(error.is(ErrorKind::Exists), "{error}");
    assert_eq!(lab.open().id, store.id);
}

fn configured(folder: &Path, text: &str) -> config::Config {
    let path = folder.join("archipelago.toml");
    std::fs::write(&path, text).unwrap();
    config::load(Some(&path)).unwrap()
}

#[test]
fn the_configuration_says_where_the_log_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        "[stores.main]\nurl = 'dir:{}'\nlog = 'fast'\n[stores.fast]\nurl = 'dir:{}'\n",
        at("blocks"),
        at("log")
    );
    let config = configured(folder.path(), &text);
    let made = stores::init_store(&config, None, Some(BLOCK)).unwrap();
    let volume = written(&made);
    volume.abandon();
    drop((volume, made));
    let store = stores::open_configured(&config, None, false, false).unwrap();
    assert_eq!(bytes(&open(&store).unwrap()), (2, 1));
    let error = stores::open_configured(&config, Some("fast"), false, false).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("holds the log"), "{error}");
    let error = stores::init_store(&config, None, None).unwrap_err();
    assert!(error.is(ErrorKind::Exists) && error.to_string().contains("'main'"), "{error}");
    // It is not mounted today.
    std::fs::rename(at("log"), at("elsewhere")).unwrap();
    let store = stores::open_configured(&config, None, true, false).unwrap();
    let error = open(&store).unwrap_err();
    let words = error.full();
    assert!(words.contains("'main' cannot be used") && words.contains("'fast' (dir:"), "{words}");
    for (text, words) in [
        (text.replace("log = 'fast'", "log = 'main'"), "is the store itself"),
        (text.replace("log = 'fast'", "log = 'slow'"), "'slow' is not configured"),
        (format!("{text}log = 'main'\n"), "has its own log elsewhere"),
    ] {
        let error =
            stores::open_configured(&configured(folder.path(), &text), None, false, false).unwrap_err();
        assert!(error.is(ErrorKind::Invalid) && error.to_string().contains(words), "{error}");
    }
}
