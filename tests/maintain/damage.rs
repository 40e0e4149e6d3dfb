//! Broken objects, broken gc, interrupted commands.

use std::sync::Arc;

use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::{Backend, BackendExt, Capabilities};
use archipelago::catalog::{head, volume as names};
use archipelago::error::ErrorKind;
use archipelago::fault::{plant, Planted};
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::{usage, Severity};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;

use crate::hook::Hook;
use crate::world::*;

pub fn check(store: &Store) -> check::Report {
    check::run(store, &CheckOptions::default(), &mut |_| {}).unwrap()
}

/// A volume with a snapshot, a pending one, a map and a log.
pub fn scene() -> (Memory, Store, Expected) {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    let mut expected = Expected::default();
    write(&volume, &mut content, 0, 4 * BLOCK, 1);
    volume.snapshot(&snap("s")).unwrap();
    expected.snapshots.insert(("v".into(), "s".into()), content.clone());
    write(&volume, &mut content, 1025 * BLOCK, BLOCK, 2);
    volume.settle_all().unwrap();
    write(&volume, &mut content, 2 * BLOCK, 4096, 3);
    volume.snapshot(&snap("p")).unwrap();
    write(&volume, &mut content, 5 * BLOCK, BLOCK, 4);
    write(&volume, &mut content, 2 * BLOCK, 512, 5);
    volume.flush().unwrap();
    volume.abandon();
    expected.volumes.insert("v".into(), content);
    names::create(&store, &name("junk"), SIZE, BLOCK).unwrap();
    names::remove(&store, &name("junk"), false).unwrap();
    (memory, store, expected)
}

fn names_of(memory: &Memory, prefix: &str) -> Vec<ObjectName> {
    memory.list_all(prefix).unwrap()
}

#[test]
fn gc_that_forgets_the_log_is_caught() {
    let (_, store, expected) = scene();
    plant(Planted::GcForgetsLog);
    gc(&store);
    plant(Planted::None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        expected.assert_on(&store, &[], "after a gc that forgets the log");
    }));
    assert!(outcome.is_err(), "what was logged is gone and nobody noticed");
}

#[test]
fn a_sound_store_is_sound_and_check_changes_nothing() {
    let (memory, store, expected) = scene();
    let before = names_of(&memory, prefix::ALL);
    let report = check(&store);
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.volumes, report.snapshots, report.pending), (1, 1, 1), "{report}");
    assert_eq!(names_of(&memory, prefix::ALL), before);
    expected.assert_on(&store, &[], "after check");
    // The volume that was removed left an epoch, which two collections take.
    gc(&store);
    gc(&store);
    assert_eq!(check(&store).reclaimable.objects, 0);
}

/// Replaces an object's bytes; `None` removes it.
pub fn damage(memory: &Memory, object: &ObjectName, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>) {
    let data = memory.read_all(object, u64::MAX).unwrap();
    memory.delete(object).unwrap();
    if let Some(data) = change(data) {
        memory.create(object, &data).unwrap();
    }
}

#[test]
fn gc_deletes_nothing_on_doubt_and_says_why() {
    let (memory, _, _) = scene();
    let flip = |mut data: Vec<u8>| {
        let at = data.len().min(4096 + 60) - 1;
        data[at] ^= 1;
        Some(data)
    };
    let remove = |_: Vec<u8>| None;
    let zero = |data: Vec<u8>| Some(vec![0; data.len()]);
    type Change<'a> = (&'a str, &'a dyn Fn(Vec<u8>) -> Option<Vec<u8>>);
    let changes: [Change<'_>; 3] =
        [("a bit flipped", &flip), ("removed", &remove), ("zeroed", &zero)];
    let kinds = [prefix::HEADS, prefix::SNAPSHOTS, prefix::PAGES, prefix::SEGMENTS, prefix::VOLUMES];
    let mut refused = 0;
    for kind in kinds {
        for object in names_of(&memory, kind) {
            for (what, change) in changes {
                let forked = memory.fork();
                let store = store_on(Arc::new(forked.clone()));
                if what == "removed" && matches!(kind, prefix::SNAPSHOTS | prefix::VOLUMES) {
                    // Nothing tells this from a removal.
                    continue;
                }
                damage(&forked, &object, change);
                let before = names_of(&forked, prefix::ALL).len();
                let report = check(&store);
                let outcome = gc::run(&store, &GcOptions::default(), &mut |_| {});
                if kind == prefix::SEGMENTS && report.is_sound() {
                    // Where nothing is written, or not durably, nothing is damaged.
                    continue;
                }
                assert!(!report.is_sound(), "{object} {what}: {report}");
                let error = outcome.expect_err(&format!("{object} {what}"));
                assert!(error.to_string().contains("deletes nothing"), "{object} {what}: {error}");
                // Two generations may have come and one gone.
                let after = names_of(&forked, prefix::ALL).len();
                assert!(after >= before, "{object} {what}: {before} objects, then {after}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 12, "{refused} refusals");
}

#[test]
fn a_missing_block_is_damage_and_is_named() {
    let (memory, store, _) = scene();
    for object in names_of(&memory, prefix::BLOCKS) {
        let forked = memory.fork();
        let store = store_on(Arc::new(forked.clone()));
        forked.delete(&object).unwrap();
        let report = check(&store);
        let named = report.damage().any(|problem| problem.object == object.to_string());
        assert!(named, "{object}: {report}");
        assert!(report.damage().all(|problem| problem.owner.as_deref().is_some_and(|o| o.starts_with('v'))));
    }
    assert!(check(&store).is_sound());
}

#[test]
fn a_removal_that_was_interrupted_is_finished() {
    let (memory, store, expected) = scene();
    names::create(&store, &name("half"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "half");
    volume.write_at(0, &vec![7; 5 * BLOCK as usize]).unwrap();
    volume.close().unwrap();
    memory.delete(&ObjectName::Volume(name("half"))).unwrap();
    let report = check(&store);
    assert!(
        report.is_sound() && report.problems.iter().any(|p| p.severity == Severity::Leftover),
        "{report}"
    );
    // It might be in the making, for one whole gc.
    assert_eq!(gc(&store).removals_finished, 0);
    let would = dry_gc(&store);
    let did = gc(&store);
    assert_eq!((would.removals_finished, would.kinds), (1, did.kinds.clone()));
    assert_eq!(did.removals_finished, 1);
    gc(&store);
    assert!(check(&store).problems.is_empty(), "{}", check(&store));
    assert_eq!(dry_gc(&store).deleted().objects, 0);
    expected.assert_on(&store, &[], "after an interrupted removal was finished");
}

#[test]
fn a_volume_without_a_name_that_is_in_use_stays() {
    let (memory, store, _) = scene();
    names::create(&store, &name("used"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "used");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 5 * BLOCK, 8);
    memory.delete(&ObjectName::Volume(name("used"))).unwrap();
    for _ in 0..3 {
        assert_eq!(gc(&store).removals_finished, 0);
    }
    content.assert_is(&volume, "a volume that is in use and has lost its name");
    assert!(head::latest(&store, volume.id).is_ok());
}

#[test]
fn a_dry_run_changes_nothing() {
    let (memory, store, _) = scene();
    let before = names_of(&memory, prefix::ALL);
    dry_gc(&store);
    assert_eq!(names_of(&memory, prefix::ALL), before);
}

#[test]
fn two_marks_are_further_apart_than_listings_lag() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static WAITED_S: AtomicU64 = AtomicU64::new(0);
    let memory = Memory::with(Capabilities { list_lag_s: 30, ..CAPABILITIES });
    let store = Store::init("test", Arc::new(memory), BLOCK).unwrap();
    let options = GcOptions {
        wait: |time| {
            WAITED_S.fetch_add(time.as_secs(), Ordering::SeqCst);
        },
        ..GcOptions::default()
    };
    gc::run(&store, &options, &mut |_| {}).unwrap();
    assert!(WAITED_S.load(Ordering::SeqCst) > 30);
}

#[test]
fn a_second_gc_waits_for_the_first() {
    let (_, store, _) = scene();
    let mut inner = None;
    gc::run(&store, &GcOptions::default(), &mut |_| {
        inner.get_or_insert_with(|| gc::run(&store, &GcOptions::default(), &mut |_| {}));
    })
    .unwrap();
    assert!(inner.unwrap().unwrap_err().is(ErrorKind::Busy));
}

#[test]
fn usage_tells_own_from_shared() {
    let (_, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 4 * BLOCK, 1);
    volume.snapshot(&snap("s")).unwrap();
    write(&volume, &mut content, 0, BLOCK, 2);
    write(&volume, &mut content, BLOCK, 4096, 3);
    volume.settle_all().unwrap();
    volume.close().unwrap();
    make_clone(&store, "v", "s", "c").unwrap();
    let used = |usage: &usage::Usage, text: &str, snapshot: Option<&str>| {
        let id = names::lookup(&store, &name(text)).unwrap();
        let used = *usage.of(id, snapshot.map(snap).as_ref()).unwrap();
        (used.logical_bytes, used.own_bytes, used.shared_bytes)
    };
    let all = usage::run(&store, &mut |_| {}).unwrap();
    // v: a block of its own and a granule over the second; three of s.
    assert_eq!(used(&all, "v", None), (SIZE, BLOCK + 4096, 3 * BLOCK));
    // s: the first block was overwritten in v, but the clone names it too.
    assert_eq!(used(&all, "v", Some("s")), (SIZE, 0, 4 * BLOCK));
    assert_eq!(used(&all, "c", None), (SIZE, 0, 4 * BLOCK));
    names::remove(&store, &name("c"), false).unwrap();
    let all = usage::run(&store, &mut |_| {}).unwrap();
    assert_eq!(used(&all, "v", Some("s")), (SIZE, BLOCK, 3 * BLOCK));
    // A granule of the log counts with its volume once it is settled only.
    let volume = open(&store, "v");
    volume.write_at(4 * BLOCK, &vec![5; BLOCK as usize]).unwrap();
    volume.flush().unwrap();
    let all = usage::run(&store, &mut |_| {}).unwrap();
    assert_eq!(used(&all, "v", None), (SIZE, 2 * BLOCK + 4096, 3 * BLOCK));
}

#[test]
fn gc_works_on_a_full_store_or_says_what_to_do() {
    let (memory, plain, expected) = scene();
    let hook = Hook::new(&memory);
    let store = store_on(Arc::clone(&hook) as Arc<_>);
    hook.fill_up();
    let error = gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap_err();
    assert!(error.is(ErrorKind::NoSpace) && error.to_string().contains("archipelago rm"), "{error}");
    // What a crash left of an older lease makes room enough.
    let volume = names::lookup(&plain, &name("v")).unwrap();
    let last = memory.list_all(&prefix::leases_of(volume)).unwrap().pop().unwrap();
    let ObjectName::Lease { number, .. } = last else { panic!("{last}") };
    open(&plain, "v").close().unwrap();
    memory.create(&ObjectName::Lease { volume, number: number - 1 }, b"old").ok();
    memory.create(&ObjectName::Lease { volume, number }, b"old").ok();
    hook.fill_up();
    gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap();
    open(&plain, "v").publish_all().unwrap();
    expected.assert_on(&plain, &[], "after gc of a full store");
    assert!(check(&plain).is_sound());
}
