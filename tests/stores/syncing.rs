//! Standbys on each kind of store, there and back, with a guest that writes.

use std::sync::Arc;
use std::time::Instant;

use archipelago::catalog::volume as names;
use archipelago::error::Result;
use archipelago::io::Device;
use archipelago::maintain::sync::{self, Hands, SyncOptions, Syncer};
use archipelago::name::{Id, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

use super::bed::{make, name, open, snap, Guest, BLOCK};
use super::gluster;
use super::moving::{sound, stores};

struct OfDevice(Arc<Device>);

impl Hands for OfDevice {
    fn snapshot(&mut self, _: &Store, _: &VolumeName, _: Id, which: &SnapshotName) -> Result<()> {
        self.0.snapshot(which)
    }

    fn remove(&mut self, _: &Store, _: &VolumeName, _: Id, which: &SnapshotName) -> Result<()> {
        self.0.remove_snapshot(which)
    }
}

fn follow(from: &Store, to: &Store, seed: u64) {
    let volume = format!("v{seed}");
    let id = make(from, &volume, 64 * BLOCK);
    let device = Arc::new(open(from, &volume));
    let mut syncer = Syncer::new(from, to, SyncOptions::default()).unwrap();
    let mut hands = OfDevice(Arc::clone(&device));
    let began = Instant::now();
    let guest = Guest::start(&device, seed);
    for round in 0..4 {
        let report = syncer.round(&mut hands, &mut |_| Ok(())).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let behind_ms = report.behind().map(|behind| behind.as_millis());
        let copied = report.copied;
        eprintln!("{} to {}, round {round}: {behind_ms:?} ms behind; {copied:?}", from.name, to.name);
    }
    let content = guest.stop();
    device.snapshot(&snap("kept")).unwrap();
    let report = syncer.round(&mut hands, &mut |_| Ok(())).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    eprintln!("{} to {}: five rounds in {:?}", from.name, to.name, began.elapsed());
    let kept = Volume::open_snapshot(to, &name(&volume), &snap("kept")).unwrap();
    content.verify(&kept, "the snapshot");
    drop(hands);
    Arc::try_unwrap(device).unwrap().close().unwrap();
    sync::promote(to, &name(&volume), id, &OpenOptions::default()).unwrap();
    let promoted = Volume::open(to, &name(&volume), &OpenOptions::default()).unwrap();
    content.verify(&promoted, "promoted");
    promoted.write_at(0, &[5; 4096]).unwrap();
    promoted.close().unwrap();
    [from, to].into_iter().for_each(|store| sound(store, id));
    for store in [from, to] {
        names::remove(store, &name(&volume), true).unwrap();
    }
}

#[test]
fn volumes_are_followed_from_a_directory_to_each_kind_of_store_and_back() {
    let _peace = gluster::peace();
    let (stores, keep) = stores();
    for (seed, other) in (1..).step_by(2).zip(&stores[1..]) {
        follow(&stores[0], other, seed);
        follow(other, &stores[0], seed + 1);
    }
    drop(keep);
}
