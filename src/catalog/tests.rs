//! What can go wrong: two writers both believe that a volume is theirs; a
//! writer that was away commits over what others did; a crash or a lost race
//! between two objects leaves a name without a volume or a volume that nobody
//! can remove; gc removes what a clone was just made from; damaged bytes are
//! taken for a head. Each test plays one of these on `memory` and looks at
//! what others then see.

use std::sync::Arc;
use std::time::Duration;

use super::head::{self, Head, LogStart};
use super::identity::{Identity, Life};
use super::lease::{self, LeaseState, Options};
use super::snapshot::{self, Snapshot};
use super::{epoch, maintenance, volume};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::{Memory, CAPABILITIES};
use crate::backend::{Backend, BackendExt, Capabilities};
use crate::error::ErrorKind;
use crate::map::Root;
use crate::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use crate::store::Store;

mod faults;
mod formats;
mod leases;
mod limits;
mod races;
mod replaced;

const MIB: u64 = 1 << 20;

fn store_with(capabilities: Capabilities) -> (Memory, Store) {
    let memory = Memory::with(capabilities);
    let store = Store::init("main", Arc::new(memory.clone()), 4 * MIB).unwrap();
    (memory, store)
}

fn store() -> Store {
    store_with(CAPABILITIES).1
}

fn unfenced() -> Store {
    store_with(Capabilities { fences: false, ..CAPABILITIES }).1
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn make(store: &Store, text: &str) -> Id {
    volume::create(store, &name(text), 100 * MIB + 512, 4 * MIB).unwrap()
}

fn root(n: u128) -> Root {
    Root { page: Id(n), hash: [7; 32], level: 1 }
}

fn cut(store: &Store, volume: Id, text: &str) -> Snapshot {
    let head = head::latest(store, volume).unwrap();
    let snapshot = Snapshot {
        volume,
        name: snap(text),
        number: snapshot::FIRST,
        id: crate::clock::random_id().unwrap(),
        root: root(5),
        epoch: head.epoch,
        size_bytes: head.size_bytes,
        block_bytes: head.block_bytes,
        created_s: 100,
        created_ns: 0,
        position: 0,
        parent: head.parent.clone(),
        volume_name_hint: "web".into(),
    };
    snapshot::publish(store, &snapshot).unwrap();
    snapshot
}

fn object_count(store: &Store, prefix: &str) -> usize {
    store.control().list_all(prefix).unwrap().len()
}

#[test]
fn a_new_volume_is_found_by_its_name_and_is_empty() {
    let store = store();
    let volume = make(&store, "web");
    assert_eq!(volume::lookup(&store, &name("web")).unwrap(), volume);
    let head = head::latest(&store, volume).unwrap();
    assert_eq!((head.size_bytes, head.block_bytes), (100 * MIB + 512, 4 * MIB));
    assert!(head.root.is_zero() && !head.written && head.parent.is_none());
    assert_eq!(head.log, LogStart::NEW);
    assert_eq!(epoch::read(&store, head.epoch).unwrap().volume, volume);
    // Store, volume, head, epoch: four small objects whatever its size.
    assert_eq!(object_count(&store, prefix::ALL), 4);
}

#[test]
fn a_name_is_given_once_and_losing_it_leaves_nothing_behind() {
    let store = store();
    make(&store, "web");
    let before = object_count(&store, prefix::ALL);
    let error = volume::create(&store, &name("web"), MIB, 4 * MIB).unwrap_err();
    assert!(error.is(ErrorKind::Exists) && error.to_string().contains("'web'"), "{error}");
    assert_eq!(object_count(&store, prefix::ALL), before);
}

#[test]
fn impossible_sizes_are_refused_before_anything_is_made() {
    let store = store();
    for (size_bytes, block_bytes) in [(1, 3 * MIB), (1, 1), (u64::MAX, 4 * MIB), (1, 0)] {
        let error = volume::create(&store, &name("x"), size_bytes, block_bytes).unwrap_err();
        assert!(error.is(ErrorKind::Invalid));
    }
    assert_eq!(object_count(&store, prefix::ALL), 1);
    volume::create(&store, &name("x"), 0, 4 * MIB).unwrap();
}

#[test]
fn an_unknown_volume_names_the_store() {
    let error = volume::lookup(&store(), &name("nope")).unwrap_err();
    assert!(error.is(ErrorKind::NotFound));
    assert!(error.to_string().contains("'nope' in store 'main'"), "{error}");
}

#[test]
fn a_writer_whose_number_is_taken_is_fenced() {
    let store = store();
    let volume = make(&store, "web");
    let first = head::latest(&store, volume).unwrap();
    let mine = Head { number: 2, ..first.clone() };
    head::commit(&store, &mine).unwrap();
    // Even with the same content: it is another writer's commit.
    assert!(head::commit(&store, &mine).unwrap_err().is(ErrorKind::Fenced));
}

#[test]
fn a_zombie_cannot_bring_back_a_number_that_was_cleaned_away() {
    let store = store();
    let volume = make(&store, "web");
    let first = head::latest(&store, volume).unwrap();
    for number in 2..6 {
        head::commit(&store, &Head { number, ..first.clone() }).unwrap();
    }
    head::remove_below(&store, volume, 5).unwrap();
    let zombie = Head { number: 2, size_bytes: 0, ..first };
    assert!(head::commit(&store, &zombie).unwrap_err().is(ErrorKind::Fenced));
    assert_eq!(object_count(&store, &prefix::heads_of(volume)), 1);
    assert_eq!(head::latest(&store, volume).unwrap().number, 5);
}

#[test]
fn the_highest_head_is_never_deleted() {
    let store = store();
    let volume = make(&store, "web");
    head::remove_below(&store, volume, u64::MAX).unwrap();
    assert_eq!(head::latest(&store, volume).unwrap().number, 1);
}

#[test]
fn publishing_again_is_fine_but_not_over_another_snapshot() {
    let store = store();
    let volume = make(&store, "web");
    let first = cut(&store, volume, "a");
    snapshot::publish(&store, &first).unwrap();
    let other = Snapshot { id: Id(9), ..first.clone() };
    assert!(snapshot::publish(&store, &other).unwrap_err().is(ErrorKind::Exists));
    assert_eq!(snapshot::find(&store, volume, &snap("a")).unwrap(), first);
}

#[test]
fn snapshots_are_listed_by_age_and_the_highest_number_counts() {
    let store = store();
    let volume = make(&store, "web");
    let first = cut(&store, volume, "b");
    snapshot::publish(&store, &Snapshot { number: 2, root: root(8), ..first.clone() }).unwrap();
    cut(&store, volume, "a");
    snapshot::publish(&store, &Snapshot { name: snap("b.c"), created_s: 50, id: Id(3), ..first }).unwrap();
    let found = snapshot::list(&store, volume).unwrap();
    let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["b.c", "a", "b"]);
    assert_eq!((found[2].number, found[2].root), (2, root(8)));
    snapshot::remove(&store, volume, &snap("b")).unwrap();
    assert!(snapshot::find(&store, volume, &snap("b")).unwrap_err().is(ErrorKind::NotFound));
    assert!(snapshot::remove(&store, volume, &snap("b")).unwrap_err().is(ErrorKind::NotFound));
    assert_eq!(snapshot::list(&store, volume).unwrap().len(), 2);
}

#[test]
fn a_clone_has_the_map_and_an_epoch_of_its_own_and_outlives_its_parent() {
    let store = store();
    let volume = make(&store, "web");
    let source = cut(&store, volume, "a");
    let copy = volume::clone(&store, &source, &name("copy"), Some(200 * MIB)).unwrap();
    let head = head::latest(&store, copy).unwrap();
    assert_eq!((head.root, head.size_bytes), (source.root, 200 * MIB));
    assert_ne!(head.epoch, source.epoch);
    assert_eq!(head.parent, Some(source.as_parent()));
    let error = volume::clone(&store, &source, &name("small"), Some(MIB)).unwrap_err();
    assert!(error.is(ErrorKind::Invalid), "{error}");
    snapshot::remove(&store, volume, &snap("a")).unwrap();
    volume::remove(&store, &name("web"), false).unwrap();
    assert_eq!(head::latest(&store, copy).unwrap(), head);
    let error = volume::clone(&store, &source, &name("late"), None).unwrap_err();
    assert!(error.is(ErrorKind::NotFound), "{error}");
    assert_eq!(volume::list(&store).unwrap(), [(name("copy"), copy)]);
}

#[test]
fn removing_takes_everything_but_what_gc_collects() {
    let store = store();
    let volume = make(&store, "web");
    cut(&store, volume, "a");
    let error = volume::remove(&store, &name("web"), false).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains(": a;"), "{error}");
    let removal = volume::remove(&store, &name("web"), true).unwrap();
    assert_eq!(removal.snapshots.len(), 1);
    for kind in [prefix::VOLUMES, prefix::HEADS, prefix::SNAPSHOTS, prefix::LEASES] {
        assert_eq!(object_count(&store, kind), 0, "{kind}");
    }
    assert!(volume::remove(&store, &name("web"), true).unwrap_err().is(ErrorKind::NotFound));
}

#[test]
fn a_volume_in_use_is_not_removed() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        let (held, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
        let error = volume::remove(&store, &name("web"), true).unwrap_err();
        assert!(error.is(ErrorKind::Busy) && error.to_string().contains("in use by process"), "{error}");
        assert_eq!(volume::lookup(&store, &name("web")).unwrap(), volume);
        held.release(true).unwrap();
        volume::remove(&store, &name("web"), true).unwrap();
        assert_eq!(object_count(&store, prefix::LEASES), 0);
    }
}

#[test]
fn an_interrupted_rename_loses_nothing_and_can_be_finished() {
    let store = store();
    let volume = make(&store, "old");
    // What a crash between its two steps leaves behind.
    let data = volume::encode_for_tests(&name("new"), volume);
    store.control().create(&ObjectName::Volume(name("new")), &data).unwrap();
    assert_eq!(volume::list(&store).unwrap(), [(name("new"), volume), (name("old"), volume)]);
    let removal = volume::plan_removal(&store, &name("old")).unwrap();
    assert_eq!(removal.name_only, Some(name("new")));
    // Removing either name must not take the volume from the other.
    let twin = store_fork(&store);
    volume::remove(&twin, &name("old"), true).unwrap();
    assert!(head::latest(&twin, volume).is_ok());
    assert_eq!(volume::list(&twin).unwrap(), [(name("new"), volume)]);
    // And doing it again finishes it.
    volume::rename(&store, &name("old"), &name("new")).unwrap();
    assert_eq!(volume::list(&store).unwrap(), [(name("new"), volume)]);
}

fn store_fork(store: &Store) -> Store {
    let memory = Memory::with(store.control().capabilities());
    for object in store.control().list_all(prefix::ALL).unwrap() {
        memory.create(&object, &store.control().read_all(&object, MIB).unwrap()).unwrap();
    }
    Store::open("main", Arc::new(memory)).unwrap()
}

#[test]
fn renaming_does_not_take_another_volumes_name() {
    let store = store();
    let volume = make(&store, "a");
    let other = make(&store, "b");
    assert!(volume::rename(&store, &name("a"), &name("b")).unwrap_err().is(ErrorKind::Exists));
    volume::rename(&store, &name("a"), &name("a")).unwrap();
    assert_eq!(volume::list(&store).unwrap(), [(name("a"), volume), (name("b"), other)]);
    assert!(volume::rename(&store, &name("zz"), &name("y")).unwrap_err().is(ErrorKind::NotFound));
}

#[test]
fn one_maintainer_at_a_time_and_each_has_the_next_generation() {
    let me = Identity::of_this_process();
    let store = store();
    assert_eq!(maintenance::generation(&store).unwrap(), 0);
    let first = maintenance::claim_next(&store, &me).unwrap();
    assert_eq!((first.generation, maintenance::generation(&store).unwrap()), (1, 1));
    let error = maintenance::claim_next(&store, &me).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains("process"), "{error}");
    first.confirm(&store).unwrap();
    drop(first);
    let second = maintenance::claim_next(&store, &me).unwrap();
    assert_eq!(second.generation, 2);
    assert_eq!(object_count(&store, prefix::MAINTENANCE), 1);
}

#[test]
fn a_maintainer_that_was_overtaken_stops() {
    let me = Identity::of_this_process();
    let store = unfenced();
    let away = Identity { boot_id: "elsewhere".into(), ..me.clone() };
    let first = maintenance::claim_next(&store, &away).unwrap();
    let second = maintenance::claim_next(&store, &me).unwrap();
    assert!(first.confirm(&store).unwrap_err().is(ErrorKind::Fenced));
    second.confirm(&store).unwrap();
    let other = Identity { program: "other".into(), ..me };
    assert!(maintenance::claim_next(&store, &other).unwrap_err().is(ErrorKind::Busy));
}

/// Where the store does not fence, a maintainer whose process lives on would be
/// in the way of all others for as long as it does.
#[test]
fn who_has_done_maintaining_is_in_nobodys_way() {
    for store in [store(), unfenced()] {
        let me = Identity::of_this_process();
        let other = Identity { program: "other".into(), ..me.clone() };
        maintenance::claim_next(&store, &me).unwrap().end(&store, &me).unwrap();
        let second = maintenance::claim_next(&store, &other).unwrap();
        // One that was overtaken ends nobody else's.
        if !store.control().capabilities().fences {
            let third = maintenance::claim_next(&store, &other).unwrap();
            second.end(&store, &other).unwrap();
            third.confirm(&store).unwrap();
        }
    }
}

#[test]
fn an_epoch_is_young_until_the_second_gc_after_its_claim() {
    let store = store();
    let me = Identity::of_this_process();
    drop(maintenance::claim_next(&store, &me).unwrap());
    let id = epoch::claim(&store, Id(1), "test").unwrap();
    let epoch = epoch::read(&store, id).unwrap();
    assert_eq!((epoch.generation, epoch.volume, epoch.holder.as_str()), (1, Id(1), "test"));
    assert!(epoch.is_young(1) && epoch.is_young(2) && !epoch.is_young(3));
}

/// A request that is sent twice is answered twice, and the second answer is
/// that the name is taken: by this very volume.
#[test]
fn a_volume_whose_name_was_made_twice_keeps_its_head() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("main", Arc::new(faulty.clone()), 4 * MIB).unwrap();
    faulty.inject(Rule::new(Fault::Twice).on(Method::Create).named("volume/"));
    let id = make(&store, "v");
    assert_eq!(faulty.struck(), 1);
    assert_eq!(volume::lookup(&store, &name("v")).unwrap(), id);
    head::latest(&store, id).unwrap();
    let error = volume::create(&store, &name("v"), 4 * MIB, 4 * MIB).unwrap_err();
    assert!(error.is(ErrorKind::Exists), "of another it still is: {}", error.full());
}
