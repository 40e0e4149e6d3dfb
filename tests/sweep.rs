//! Every call to the backend fails once, in every way.
//!
//! What can go wrong: an error path that nobody has ever walked leaves a lock
//! held, forgets a flushed write, believes that something was applied that was
//! not, panics, or waits for ever. A fixed history with everything in it runs
//! once for each call that it makes and each way in which that call can fail.
//! Whatever the operations then say, after a crash and a reopen everything that
//! was flushed is there, nothing foreign is, the store is sound, and the volume
//! works. A full store is not even a reason to reopen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::catalog::{clone, snapshot, volume as names};
use archipelago::log::LogOptions;
use archipelago::maintain::{check, gc};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{find_snapshot, OpenOptions, Volume};
use archipelago::{Error, ErrorKind, Result};

const BLOCK: u64 = 16 << 10;
const GRANULE: usize = 4096;
const GRANULES: usize = 32;

/// What each granule may read as: the last value that was flushed, then
/// whatever was tried since. `true`: the write said that it was done.
type Model = Vec<Vec<(u8, bool)>>;

struct World {
    store: Store,
    volume: Arc<Volume>,
    model: Model,
    snapshots: Vec<(SnapshotName, Model)>,
    clones: Vec<(VolumeName, Model)>,
    errors: Vec<Error>,
    tag: u8,
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn options() -> OpenOptions {
    OpenOptions {
        log: LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 32 << 10 },
        log_limit_bytes: 256 << 10,
        ..OpenOptions::default()
    }
}

impl World {
    fn new(faulty: &Faulty) -> World {
        let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
        names::create(&store, &name("v"), (GRANULES * GRANULE) as u64, BLOCK).unwrap();
        let volume = Volume::open(&store, &name("v"), &options()).unwrap();
        let model = vec![vec![(0, true)]; GRANULES];
        World { store, volume, model, snapshots: Vec::new(), clones: Vec::new(), errors: Vec::new(), tag: 0 }
    }

    fn note(&mut self, result: Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.errors.push(error);
                false
            }
        }
    }

    fn write(&mut self, first: usize, count: usize) {
        self.tag += 1;
        let data = vec![self.tag; count * GRANULE];
        let result = self.volume.write_at((first * GRANULE) as u64, &data);
        self.tried(first, count, self.tag, result);
    }

    fn zero(&mut self, first: usize, count: usize) {
        let result = self.volume.write_zeroes((first * GRANULE) as u64, (count * GRANULE) as u64);
        self.tried(first, count, 0, result);
    }

    fn tried(&mut self, first: usize, count: usize, tag: u8, result: Result<()>) {
        let done = self.note(result);
        self.model[first..first + count].iter_mut().for_each(|granule| granule.push((tag, done)));
    }

    /// What was done before is what the granules are, or what was tried later.
    fn settle_model(&mut self) {
        for granule in &mut self.model {
            let last = granule.iter().rposition(|(_, done)| *done).unwrap_or(0);
            granule.drain(..last);
        }
    }

    fn flush(&mut self) {
        let result = self.volume.flush();
        if self.note(result) {
            self.settle_model();
        }
    }

    fn snapshot(&mut self, text: &str) {
        let result = self.volume.snapshot(&snap(text));
        if self.note(result) {
            self.settle_model();
            self.snapshots.push((snap(text), self.model.clone()));
        }
    }

    fn rollback(&mut self, text: &str) {
        let result = self.volume.rollback(&snap(text));
        let done = self.note(result);
        let Some((_, then)) = self.snapshots.iter().find(|(name, _)| name.as_str() == text) else { return };
        for (granule, then) in self.model.iter_mut().zip(then) {
            match done {
                true => granule.clone_from(then),
                false => granule.extend(then.iter().map(|(tag, _)| (*tag, false))),
            }
        }
    }

    fn clone_of(&mut self, text: &str, to: &str) {
        let made = snapshot::find(&self.store, self.volume.id, &snap(text))
            .and_then(|source| clone::clone(&self.store, &source, &name(to), None).map(drop));
        let then = self.snapshots.iter().find(|(name, _)| name.as_str() == text);
        let then = then.map(|(_, then)| then.clone());
        if let (true, Some(then)) = (self.note(made), then) {
            self.clones.push((name(to), then));
        }
    }

    /// Everything, in an order that makes each find something to do.
    fn run(&mut self) {
        self.write(0, 4);
        self.write(5, 1);
        self.flush();
        self.snapshot("a");
        self.write(1, 1);
        self.write(5, 2);
        self.flush();
        let worked = self.volume.publish_all();
        self.note(worked);
        self.write(8, 8);
        self.zero(12, 4);
        self.write(2, 1);
        let settled = self.volume.settle_all();
        self.note(settled);
        self.write(2, 1);
        self.flush();
        self.clone_of("a", "c");
        self.snapshot("b");
        self.zero(0, 4);
        self.write(20, 3);
        let collected = gc::run(&self.store, &gc::GcOptions::default(), &mut |_| {}).map(drop);
        self.note(collected);
        self.flush();
        self.rollback("a");
        self.write(3, 1);
        self.flush();
        let worked = self.volume.work(true).map(drop);
        self.note(worked);
    }
}

fn assert_allowed(volume: &Volume, model: &Model, what: &str) {
    let mut data = vec![0; GRANULES * GRANULE];
    volume.read_at(0, &mut data).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
    for (at, (granule, allowed)) in data.chunks_exact(GRANULE).zip(model).enumerate() {
        for sector in granule.chunks_exact(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "{what}: granule {at}: a torn sector");
            let known = allowed.iter().any(|(tag, _)| *tag == sector[0]);
            assert!(known, "{what}: granule {at} is {}, not one of {allowed:?}", sector[0]);
        }
    }
}

fn verify(faulty: &Faulty, world: World, what: &str) {
    for error in &world.errors {
        assert!(!error.is(ErrorKind::Corrupt), "{what}: {}", error.full());
    }
    faulty.clear();
    world.volume.abandon();
    let World { store, model, snapshots, clones, .. } = world;
    let volume = Volume::open(&store, &name("v"), &options())
        .unwrap_or_else(|error| panic!("{what}: reopen: {}", error.full()));
    assert_allowed(&volume, &model, what);
    volume.publish_all().unwrap();
    for (snapshot, then) in &snapshots {
        find_snapshot(&store, &name("v"), volume.id, snapshot).unwrap();
        let opened = Volume::open_snapshot(&store, &name("v"), snapshot).unwrap();
        assert_allowed(&opened, then, &format!("{what}: snapshot {snapshot}"));
    }
    for (clone, then) in &clones {
        let opened = Volume::open(&store, clone, &options()).unwrap();
        assert_allowed(&opened, then, &format!("{what}: clone {clone}"));
        opened.close().unwrap();
    }
    volume.write_at(0, &[200; GRANULE]).unwrap();
    volume.settle_all().unwrap();
    volume.close().unwrap();
    let report = check::run(&store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{what}: {:?}", report.problems);
}

fn calls() -> u64 {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let mut world = World::new(&faulty);
    faulty.reset_counts();
    world.run();
    assert!(world.errors.is_empty(), "{:?}", world.errors);
    let calls = faulty.calls_total();
    verify(&faulty, world, "without a fault");
    calls
}

#[test]
fn every_call_fails_in_every_way_and_nothing_flushed_is_lost() {
    let faults = [
        Fault::Fail(ErrorKind::Unavailable),
        Fault::Fail(ErrorKind::NoSpace),
        Fault::Fail(ErrorKind::Unknown),
        Fault::FailAfterApplying,
    ];
    let (calls, mut runs, mut struck) = (calls(), 0u64, 0u64);
    for number in 0..calls {
        for fault in &faults {
            let faulty = Faulty::new(Arc::new(Memory::new()));
            let mut world = World::new(&faulty);
            faulty.fail_nth(number, fault.clone());
            world.run();
            struck += faulty.struck();
            drop(faulty.settle_late());
            verify(&faulty, world, &format!("call {number} fails with {fault:?}"));
            runs += 1;
        }
    }
    println!("{calls} calls, {runs} runs, {struck} faults struck");
    assert!(struck * 10 > runs * 9, "most faults never struck: {struck} of {runs}");
}

/// A call that is reported as failed and takes effect after everything else.
/// Not so for writes into blocks: that a store may do that to its own client
/// is for `docs/design.md`.
#[test]
fn what_takes_effect_late_changes_nothing() {
    for kind in ["log/", "head/", "map/", "snapshot/", "epoch/", "lease/", "maintenance/", "volume/"] {
        for number in 0.. {
            let faulty = Faulty::new(Arc::new(Memory::new()));
            let mut world = World::new(&faulty);
            faulty.inject(Rule::new(Fault::ApplyLate).named(kind).after(number));
            world.run();
            if faulty.struck() == 0 {
                break;
            }
            drop(faulty.settle_late());
            verify(&faulty, world, &format!("call {number} on {kind} takes effect late"));
        }
    }
}

#[test]
fn a_full_store_stops_nobody_once_there_is_room() {
    // A log segment has its room when it is made, but not everywhere.
    let not_applied = Fault::Fail(ErrorKind::NoSpace);
    let applied = Fault::FailApplied(ErrorKind::NoSpace);
    for (method, kind, fault, times) in [
        (Method::Create, "", &not_applied, 3),
        (Method::CreateSparse, "", &not_applied, 3),
        (Method::Write, "block/", &not_applied, 3),
        (Method::Write, "log/", &not_applied, 3),
        (Method::Write, "block/", &applied, 3),
        // The second would be what clears the batch.
        (Method::Write, "log/", &applied, 1),
    ] {
        for number in 0.. {
            let faulty = Faulty::new(Arc::new(Memory::new()));
            let mut world = World::new(&faulty);
            let full = Rule::new(fault.clone()).on(method).named(kind);
            faulty.inject(full.after(number).times(times));
            world.run();
            let what = format!("{method:?} {number} of {kind} finds the store full: {fault:?}");
            if faulty.struck() == 0 {
                break;
            }
            for error in &world.errors {
                let fits = error.is(ErrorKind::NoSpace) || error.is(ErrorKind::NotFound);
                assert!(fits || error.is(ErrorKind::Exists), "{what}: {}", error.full());
            }
            faulty.clear();
            world.write(30, 1);
            world.flush();
            let last = world.model[30].last();
            assert_eq!(last.map(|(_, done)| *done), Some(true), "{what}: it does not go on");
            verify(&faulty, world, &what);
        }
    }
}
