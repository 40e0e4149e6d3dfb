//! Scrub in the middle of everything, and everything in the middle of scrub.

use std::sync::{Arc, Mutex};

use archipelago::backend::BackendExt;
use archipelago::catalog::{snapshot as snapshots, volume as names};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::scrub;
use archipelago::name::prefix;
use archipelago::store::Store;
use archipelago::volume::Volume;

use super::hook::Hook;
use super::world::{assert_sound, make_clone, name, open, snap, store_on, write};
use super::world::{Content, Expected, BLOCK};
use super::{base, options, run};

struct Scene {
    store: Store,
    volume: Arc<Volume>,
    expected: Expected,
}

impl Scene {
    fn content(&mut self) -> &mut Content {
        self.expected.volumes.get_mut("v").unwrap()
    }

    fn forget(&mut self, snapshot: &str) -> Content {
        self.expected.snapshots.remove(&("v".into(), snapshot.into())).unwrap()
    }
}

type Operation = fn(&mut Scene);

const OPERATIONS: &[(&str, Operation)] = &[
    ("nothing", |_| {}),
    ("gc", |scene| collect(&scene.store)),
    ("remove a snapshot", |scene| {
        scene.volume.remove_snapshot(&snap("b")).unwrap();
        scene.forget("b");
    }),
    ("remove a snapshot and collect", |scene| {
        scene.volume.remove_snapshot(&snap("a")).unwrap();
        scene.forget("a");
        collect(&scene.store);
        collect(&scene.store);
    }),
    ("take another one of the name", |scene| {
        scene.volume.remove_snapshot(&snap("b")).unwrap();
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), 5 * BLOCK, BLOCK, 90);
        scene.volume.snapshot(&snap("b")).unwrap();
        scene.volume.publish_all().unwrap();
        let content = scene.content().clone();
        scene.expected.snapshots.insert(("v".into(), "b".into()), content);
    }),
    ("clone, remove and collect", |scene| {
        make_clone(&scene.store, "v", "c", "new").unwrap();
        scene.volume.remove_snapshot(&snap("c")).unwrap();
        let content = scene.forget("c");
        scene.expected.volumes.insert("new".into(), content);
        collect(&scene.store);
    }),
    ("rollback", |scene| {
        scene.volume.rollback(&snap("a")).unwrap();
        let content = scene.expected.snapshots[&("v".into(), "a".into())].clone();
        scene.expected.volumes.insert("v".into(), content);
    }),
    ("snapshot and publish", |scene| {
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), BLOCK, 4096, 91);
        scene.volume.snapshot(&snap("new")).unwrap();
        scene.volume.publish_all().unwrap();
        let content = scene.content().clone();
        scene.expected.snapshots.insert(("v".into(), "new".into()), content);
    }),
    ("write and checkpoint", |scene| {
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), 3 * BLOCK + 4096, 4096, 92);
        write(&volume, scene.content(), 30 * BLOCK, 2 * BLOCK, 93);
        scene.volume.settle_all().unwrap();
    }),
    ("remove a volume", |scene| {
        names::remove(&scene.store, &name("k"), true).unwrap();
        scene.expected.volumes.remove("k");
        collect(&scene.store);
    }),
    ("scrub", |scene| match scrub::run(&scene.store, &options(), &mut |_| {}) {
        Ok(report) => assert!(report.is_sound(), "{report}"),
        Err(error) => assert!(error.is(archipelago::ErrorKind::Busy), "{}", error.full()),
    }),
];

/// Collects, unless scrub maintains the store just now.
fn collect(store: &Store) {
    match gc::run(store, &GcOptions::default(), &mut |_| {}) {
        Ok(_) => {}
        Err(error) => assert!(error.is(archipelago::ErrorKind::Busy), "{}", error.full()),
    }
}

fn verify(scene: Scene, what: &str) {
    for round in ["", ", gc", ", scrub"] {
        let what = format!("{what}{round}");
        scene.expected.assert_on(&scene.store, &[("v", &scene.volume)], &what);
        assert_sound(&scene.store, &what);
        let there = names_of(&scene.store);
        let wanted: Vec<String> = scene.expected.snapshots.keys().map(|(_, name)| name.clone()).collect();
        // One that was there when scrub came too late with its number is listed
        // once.
        assert_eq!(there, wanted, "{what}");
        match round {
            "" => {
                collect(&scene.store);
                collect(&scene.store);
            }
            _ => {
                let report = run(&scene.store);
                assert!(report.is_sound() && report.left_snapshots == 0, "{what}: {report}");
            }
        }
    }
    scene.volume.close().unwrap();
}

fn names_of(store: &Store) -> Vec<String> {
    let mut found: Vec<String> =
        snapshots::list_all(store).unwrap().iter().map(|snapshot| snapshot.name.to_string()).collect();
    found.sort();
    found
}

#[test]
fn anything_in_the_middle_of_scrub() {
    let (memory, _, expected) = base();
    for (what, operation) in OPERATIONS {
        for at in 0.. {
            let memory = memory.fork();
            let plain = store_on(Arc::new(memory.clone()));
            let volume = open(&plain, "v");
            let scene = Scene { store: plain.clone(), volume, expected: expected.clone() };
            let scene = Arc::new(Mutex::new(scene));
            let hook = Hook::new(&memory);
            let inside = Arc::clone(&scene);
            hook.arm(at, move || operation(&mut inside.lock().unwrap()));
            let hooked = store_on(Arc::clone(&hook) as Arc<_>);
            match scrub::run(&hooked, &options(), &mut |_| {}) {
                Ok(report) => assert!(report.is_sound(), "{what} at call {at} of scrub: {report}"),
                // Another scrub, or on a store without locks another gc.
                Err(error) => {
                    let expected = error.is(archipelago::ErrorKind::Busy);
                    assert!(expected, "{what} at call {at} of scrub: {}", error.full());
                }
            }
            let fired = hook.fired();
            hook.arm(u64::MAX, || ());
            let scene = Arc::into_inner(scene).unwrap().into_inner().unwrap();
            verify(scene, &format!("{what} at call {at} of scrub"));
            if !fired {
                break;
            }
        }
    }
}

#[test]
fn scrub_in_the_middle_of_anything() {
    let (memory, _, expected) = base();
    for (what, operation) in OPERATIONS {
        for at in 0.. {
            let memory = memory.fork();
            let plain = store_on(Arc::new(memory.clone()));
            let hook = Hook::new(&memory);
            let store = store_on(Arc::clone(&hook) as Arc<_>);
            let volume = open(&store, "v");
            let inside = plain.clone();
            hook.arm(at, move || match scrub::run(&inside, &options(), &mut |_| {}) {
                Ok(report) => assert!(report.is_sound(), "{report}"),
                Err(error) => assert!(error.is(archipelago::ErrorKind::Busy), "{}", error.full()),
            });
            let mut scene = Scene { store, volume, expected: expected.clone() };
            operation(&mut scene);
            let fired = hook.fired();
            hook.arm(u64::MAX, || ());
            scene.store = plain;
            verify(scene, &format!("scrub at call {at} of: {what}"));
            if !fired {
                break;
            }
        }
    }
}

#[test]
fn scrub_may_die_at_any_call() {
    let (memory, _, expected) = base();
    for at in 0.. {
        let memory = memory.fork();
        let plain = store_on(Arc::new(memory.clone()));
        let hook = Hook::new(&memory);
        let dying = store_on(Arc::clone(&hook) as Arc<_>);
        hook.arm(u64::MAX, || ());
        hook.die_at(at);
        let died = scrub::run(&dying, &options(), &mut |_| {}).is_err();
        drop(dying);
        let volume = open(&plain, "v");
        let scene = Scene { store: plain.clone(), volume, expected: expected.clone() };
        verify(scene, &format!("scrub that died at call {at}"));
        if !died {
            break;
        }
    }
}

/// Between looking for the next number and making it, scrub sleeps; meanwhile
/// the snapshot is removed, another one takes its name, and scrub dies as soon
/// as it has made its number: nobody takes that back. What is found by the
/// name is the new snapshot, and the leftover goes with its removal.
#[test]
fn a_number_that_comes_too_late_does_not_bring_a_snapshot_back() {
    let (memory, _, expected) = base();
    let mut late = 0;
    for at in 0.. {
        let memory = memory.fork();
        let plain = store_on(Arc::new(memory.clone()));
        let volume = open(&plain, "v");
        let scene = Scene { store: plain.clone(), volume, expected: expected.clone() };
        let scene = Arc::new(Mutex::new(scene));
        let hook = Hook::new(&memory);
        let hooked = store_on(Arc::clone(&hook) as Arc<_>);
        let (inside, dying) = (Arc::clone(&scene), Arc::clone(&hook));
        hook.arm(at, move || {
            let (_, retake) = OPERATIONS.iter().find(|(what, _)| what.starts_with("take another")).unwrap();
            retake(&mut inside.lock().unwrap());
            dying.die_at(at + 1);
        });
        let _dead = scrub::run(&hooked, &options(), &mut |_| {});
        let fired = hook.fired();
        hook.arm(u64::MAX, || ());
        drop(hooked);
        let scene = Arc::into_inner(scene).unwrap().into_inner().unwrap();
        let id = names::lookup(&plain, &name("v")).unwrap();
        let numbers = plain.control().list_all(&prefix::numbers_of(id, &snap("b"))).unwrap();
        late += usize::from(numbers.len() > 1);
        let volume = Arc::clone(&scene.volume);
        let again = Scene { store: plain.clone(), volume, expected: scene.expected.clone() };
        verify(again, &format!("late at {at}"));
        let volume = open(&plain, "v");
        volume.remove_snapshot(&snap("b")).unwrap();
        assert!(plain.control().list_all(&prefix::numbers_of(id, &snap("b"))).unwrap().is_empty());
        volume.close().unwrap();
        if !fired {
            break;
        }
    }
    assert!(late > 0, "no number came late");
}
