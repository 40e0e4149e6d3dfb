//! gc in the middle of everything, and everything in the middle of gc.
//!
//! Each test plays one operation again and again, each time with a whole gc
//! before its Nth call of the store; then gc with the whole operation before
//! its Nth call. Afterwards everything must read as the model says, before
//! and after another gc and after a crash of the volume's holder.

use std::sync::{Arc, Mutex};

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::volume as names;
use archipelago::name::{Id, ObjectName};
use archipelago::store::Store;
use archipelago::volume::Volume;

use crate::hook::Hook;
use crate::world::*;

/// A store with a volume `v`, its snapshots `old` and `s`, a clone `c` and
/// garbage of every kind.
fn base() -> (Memory, Expected) {
    let (memory, store) = new_store();
    let mut expected = Expected::default();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 6 * BLOCK, 1);
    write(&volume, &mut content, 1025 * BLOCK, 2 * BLOCK, 2);
    volume.snapshot(&snap("old")).unwrap();
    expected.snapshots.insert(("v".into(), "old".into()), content.clone());
    write(&volume, &mut content, BLOCK, 4096, 3);
    volume.snapshot(&snap("gone")).unwrap();
    write(&volume, &mut content, BLOCK, 2 * BLOCK, 4);
    volume.settle_all().unwrap();
    volume.snapshot(&snap("s")).unwrap();
    expected.snapshots.insert(("v".into(), "s".into()), content.clone());
    write(&volume, &mut content, 3 * BLOCK, 4096, 5);
    volume.settle_all().unwrap();
    volume.remove_snapshot(&snap("gone")).unwrap();
    make_clone(&store, "v", "old", "c").unwrap();
    let clone = open(&store, "c");
    let mut cloned = expected.snapshots[&("v".into(), "old".into())].clone();
    write(&clone, &mut cloned, 2 * BLOCK, BLOCK, 6);
    clone.close().unwrap();
    names::create(&store, &name("removed"), SIZE, BLOCK).unwrap();
    let removed = open(&store, "removed");
    removed.write_at(0, &vec![9; 3 * BLOCK as usize]).unwrap();
    removed.close().unwrap();
    names::remove(&store, &name("removed"), false).unwrap();
    volume.close().unwrap();
    expected.volumes.insert("v".into(), content);
    expected.volumes.insert("c".into(), cloned);
    (memory, expected)
}

/// `v` open, with changes that are settled, logged, pending and not flushed.
struct Scene {
    store: Store,
    plain: Store,
    volume: Arc<Volume>,
    expected: Expected,
}

impl Scene {
    fn new(hook: &Arc<Hook>, memory: &Memory, expected: &Expected) -> Scene {
        let plain = store_on(Arc::new(memory.clone()));
        let store = store_on(Arc::clone(hook) as Arc<_>);
        let volume = open(&store, "v");
        let mut expected = expected.clone();
        let content = expected.volumes.get_mut("v").unwrap();
        write(&volume, content, 8 * BLOCK, BLOCK, 20);
        write(&volume, content, 1024 * BLOCK, 4096, 21);
        volume.settle_all().unwrap();
        volume.snapshot(&snap("pending")).unwrap();
        expected.snapshots.insert(("v".into(), "pending".into()), content.clone());
        write(&volume, content, 4096, 512, 22);
        write(&volume, content, 9 * BLOCK, BLOCK, 23);
        write(&volume, content, 1027 * BLOCK, BLOCK, 24);
        write(&volume, content, 10 * BLOCK, BLOCK, 26);
        volume.flush().unwrap();
        write(&volume, content, 2 * BLOCK + 512, 512, 25);
        Scene { store, plain, volume, expected }
    }

    fn content(&mut self) -> &mut Content {
        self.expected.volumes.get_mut("v").unwrap()
    }

    fn verify(mut self, what: &str) {
        self.volume.publish_all().unwrap_or_else(|error| panic!("{what}: {}", error.full()));
        for round in ["", ", gc"] {
            let what = format!("{what}{round}");
            self.expected.assert_on(&self.plain, &[("v", &self.volume)], &what);
            assert_sound(&self.plain, &what);
            gc(&self.plain);
        }
        let volume = Arc::clone(&self.volume);
        write(&volume, self.content(), 12 * BLOCK + 4096, 4096, 77);
        volume.flush().unwrap();
        volume.abandon();
        let volume = open(&self.plain, "v");
        self.expected.assert_on(&self.plain, &[("v", &volume)], &format!("{what}, crash"));
        volume.close().unwrap();
        assert_sound(&self.plain, what);
    }
}

type Operation = fn(&mut Scene);

const OPERATIONS: &[(&str, Operation)] = &[
    ("checkpoint", |scene| scene.volume.settle_all().unwrap()),
    ("write and checkpoint", |scene| {
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), 20 * BLOCK, 2 * BLOCK, 40);
        volume.settle_all().unwrap();
        write(&volume, scene.content(), 20 * BLOCK, 4096, 41);
        volume.settle_all().unwrap();
    }),
    ("flush", |scene| scene.volume.flush().unwrap()),
    ("publish", |scene| scene.volume.publish_all().unwrap()),
    ("snapshot and publish", |scene| {
        scene.volume.snapshot(&snap("new")).unwrap();
        let content = scene.content().clone();
        scene.expected.snapshots.insert(("v".into(), "new".into()), content);
        scene.volume.publish_all().unwrap();
    }),
    ("clone", |scene| {
        make_clone(&scene.store, "v", "s", "new").unwrap();
        let content = scene.expected.snapshots[&("v".into(), "s".into())].clone();
        scene.expected.volumes.insert("new".into(), content);
    }),
    ("clone, and remove what was cloned", |scene| {
        make_clone(&scene.store, "v", "s", "new").unwrap();
        scene.volume.remove_snapshot(&snap("s")).unwrap();
        let content = scene.expected.snapshots.remove(&("v".into(), "s".into())).unwrap();
        scene.expected.volumes.insert("new".into(), content);
    }),
    ("snapshot, overwrite, clone, remove", |scene| {
        scene.volume.snapshot(&snap("new")).unwrap();
        let content = scene.content().clone();
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), 0, 3 * BLOCK, 50);
        scene.volume.settle_all().unwrap();
        make_clone(&scene.store, "v", "new", "new").unwrap();
        scene.volume.remove_snapshot(&snap("new")).unwrap();
        scene.expected.volumes.insert("new".into(), content);
    }),
    ("rollback", |scene| {
        scene.volume.rollback(&snap("s")).unwrap();
        let content = scene.expected.snapshots[&("v".into(), "s".into())].clone();
        scene.expected.volumes.insert("v".into(), content);
    }),
    ("rollback, and remove what was gone back to", |scene| {
        scene.volume.rollback(&snap("s")).unwrap();
        scene.volume.remove_snapshot(&snap("s")).unwrap();
        let content = scene.expected.snapshots.remove(&("v".into(), "s".into())).unwrap();
        scene.expected.volumes.insert("v".into(), content);
    }),
    ("shrink and grow", |scene| {
        scene.volume.resize(1026 * BLOCK, true).unwrap();
        scene.volume.resize(SIZE, false).unwrap();
        scene.content().resize(1026 * BLOCK);
        scene.content().resize(SIZE);
        scene.volume.settle_all().unwrap();
    }),
    ("create and write", |scene| {
        names::create(&scene.store, &name("new"), SIZE, BLOCK).unwrap();
        let volume = open(&scene.store, "new");
        let mut content = Content::zeroes(SIZE);
        write(&volume, &mut content, 5 * BLOCK, 3 * BLOCK, 60);
        write(&volume, &mut content, 15 * BLOCK + 512, 512, 61);
        volume.close().unwrap();
        scene.expected.volumes.insert("new".into(), content);
    }),
    ("rename", |scene| {
        names::rename(&scene.store, &name("c"), &name("a")).unwrap();
        let content = scene.expected.volumes.remove("c").unwrap();
        scene.expected.volumes.insert("a".into(), content);
    }),
    ("remove a volume", |scene| {
        names::remove(&scene.store, &name("c"), true).unwrap();
        scene.expected.volumes.remove("c");
    }),
    ("crash and open", |scene| {
        scene.volume.flush().unwrap();
        scene.volume.abandon();
        scene.volume = open(&scene.store, "v");
        let volume = Arc::clone(&scene.volume);
        write(&volume, scene.content(), 9 * BLOCK, 8192, 70);
        write(&volume, scene.content(), 30 * BLOCK, BLOCK, 71);
    }),
    ("close and open", |scene| {
        scene.volume.close().unwrap();
        scene.volume = open(&scene.store, "v");
    }),
];

#[test]
fn gc_in_the_middle_of_any_call() {
    let (memory, expected) = base();
    for (what, operation) in OPERATIONS {
        for at in moments() {
            let memory = memory.fork();
            let hook = Hook::new(&memory);
            let mut scene = Scene::new(&hook, &memory, &expected);
            let plain = scene.plain.clone();
            hook.arm(at, move || drop(gc(&plain)));
            operation(&mut scene);
            let fired = hook.fired();
            scene.verify(&format!("gc at call {at} of: {what}"));
            if !fired {
                assert!(at > 0, "{what} makes no call");
                break;
            }
        }
    }
}

#[test]
fn any_operation_in_the_middle_of_gc() {
    let (memory, expected) = base();
    for (what, operation) in OPERATIONS {
        for at in moments() {
            let memory = memory.fork();
            let hook = Hook::new(&memory);
            // The volume goes past the hook, gc goes through it.
            let scene = Scene::new(&Hook::new(&memory), &memory, &expected);
            let scene = Arc::new(Mutex::new(scene));
            let hooked = store_on(Arc::clone(&hook) as Arc<_>);
            let inside = Arc::clone(&scene);
            hook.arm(at, move || operation(&mut inside.lock().unwrap()));
            gc(&hooked);
            let fired = hook.fired();
            if !fired {
                // Unlocks what the action holds.
                hook.arm(u64::MAX, || ());
                operation(&mut scene.lock().unwrap());
            }
            let scene = Arc::into_inner(scene).unwrap().into_inner().unwrap();
            scene.verify(&format!("{what} at call {at} of gc"));
            if !fired {
                break;
            }
        }
    }
}

/// A snapshot that is published while snapshots are listed was neither among
/// the published ones, which had been read before, nor among the pending ones.
#[test]
fn a_snapshot_that_is_published_meanwhile_is_listed() {
    let mut fired = 0;
    for at in 0..20 {
        let (memory, plain) = new_store();
        names::create(&plain, &name("v"), 8 * BLOCK, BLOCK).unwrap();
        let hook = Hook::new(&memory);
        let volume = open(&store_on(Arc::clone(&hook) as Arc<dyn archipelago::backend::Backend>), "v");
        // While this one is read the list of names is old already.
        volume.snapshot(&snap("r")).unwrap();
        volume.publish_all().unwrap();
        volume.write_at(0, &[1; 4096]).unwrap();
        volume.snapshot(&snap("s")).unwrap();
        let publisher = Arc::clone(&volume);
        hook.arm(at, move || publisher.publish_all().unwrap());
        let listed = volume.snapshots().unwrap();
        assert_eq!(listed.len(), 2, "published before call {at}: {listed:?}");
        fired += usize::from(hook.fired());
        hook.arm(0, || {});
        volume.close().unwrap();
    }
    assert!(fired > 0, "nothing was ever published meanwhile");
}

/// An object's name may be given to another one at any moment (a lease number
/// of a volume that is being removed): what is read is one of them, whole.
#[test]
fn an_object_that_is_replaced_while_it_is_read_is_not_damaged() {
    let (memory, _) = new_store();
    let hook = Hook::new(&memory);
    let object = ObjectName::Lease { volume: Id(7), number: 3 };
    for (before, after) in [(155, 167), (167, 155), (155, 155)] {
        for at in 0.. {
            let _absent = memory.delete(&object);
            memory.create(&object, &vec![1; before]).unwrap();
            let (inside, name) = (memory.clone(), object.clone());
            hook.arm(at, move || {
                inside.delete(&name).unwrap();
                inside.create(&name, &vec![2; after]).unwrap();
            });
            let data = hook.read_all(&object, 1000).unwrap();
            let is_whole = data == vec![1; before] || data == vec![2; after];
            assert!(is_whole, "{before} to {after} at call {at}: {} bytes", data.len());
            if !hook.fired() {
                break;
            }
        }
    }
    // Shorter than it says each time: that is damage, and no end of tries.
    hook.arm(u64::MAX, || ());
    assert!(hook.read_all(&object, 100).unwrap_err().is(archipelago::ErrorKind::Corrupt));
}
