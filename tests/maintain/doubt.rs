//! What can go wrong: gc cannot ask the store for a moment, and takes what it
//! does not know for garbage; a name, a head or an epoch that it did not see
//! is taken for gone; or what somebody else has just deleted ends it. And what
//! counts of a store is told wrong while others change it.
//!
//! How this proves that it does not: on a store with one of everything that a
//! crash leaves, each call of gc, check and usage fails in turn; listings miss
//! what is there; and single objects are made, aged and taken away by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::{Backend, BackendExt, Capabilities};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{epoch, head, maintenance, snapshot as snapshots, volume as names};
use archipelago::error::ErrorKind;
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::scrub::{self, ScrubOptions};
use archipelago::maintain::usage;
use archipelago::name::{prefix, Id, ObjectName};
use archipelago::store::Store;

use crate::damage::check as checked;
use crate::hook::Hook;
use crate::world::*;

fn faulty_over(memory: &Memory) -> (Faulty, Store) {
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let store = store_on(Arc::new(faulty.clone()));
    (faulty, store)
}

/// A volume, a snapshot that scrub has replaced, a clone of it, a volume with
/// two names, one that a crash of its removal has left with its dead holder's
/// lease, and garbage of each kind.
fn scene() -> (Memory, Store, Expected) {
    let (memory, store) = new_store();
    let mut expected = Expected::default();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 4 * BLOCK, 1);
    volume.snapshot(&snap("s")).unwrap();
    expected.snapshots.insert(("v".into(), "s".into()), content.clone());
    volume.settle_all().unwrap();
    scrub::run(&store, &ScrubOptions::default(), &mut |_| {}).unwrap();
    write(&volume, &mut content, 1025 * BLOCK, BLOCK, 2);
    write(&volume, &mut content, BLOCK, 4096, 3);
    volume.flush().unwrap();
    volume.abandon();
    expected.volumes.insert("v".into(), content);
    make_clone(&store, "v", "s", "c").unwrap();
    let cloned = expected.snapshots[&("v".into(), "s".into())].clone();
    expected.volumes.insert("c".into(), cloned);
    names::create(&store, &name("one"), SIZE, BLOCK).unwrap();
    expected.volumes.insert("one".into(), Content::zeroes(SIZE));
    let id = names::lookup(&store, &name("one")).unwrap();
    let two = ObjectName::Volume(name("two"));
    memory.create(&two, &names::encoded(&name("two"), id, 1)).unwrap();
    for text in ["half", "gone"] {
        names::create(&store, &name(text), SIZE, BLOCK).unwrap();
        let volume = open(&store, text);
        volume.write_at(0, &vec![7; 3 * BLOCK as usize]).unwrap();
        volume.settle_all().unwrap();
        volume.abandon();
    }
    // So that their epochs are not young any more.
    gc(&store);
    gc(&store);
    memory.delete(&ObjectName::Volume(name("half"))).unwrap();
    names::remove(&store, &name("gone"), false).unwrap();
    (memory, store, expected)
}

#[test]
fn gc_that_cannot_ask_deletes_nothing_that_is_needed() {
    let (memory, _, expected) = scene();
    let whole = gc(&store_on(Arc::new(memory.fork())));
    assert_eq!(whole.removals_finished, 1, "{whole}");
    let mut failures = 0;
    for kind in [ErrorKind::Unavailable, ErrorKind::Denied] {
        for number in 0.. {
            let forked = memory.fork();
            let (faulty, store) = faulty_over(&forked);
            faulty.inject(Rule::new(Fault::Fail(kind)).after(number));
            let result = gc::run(&store, &GcOptions::default(), &mut |_| {});
            let struck = faulty.struck();
            match result {
                // Who may not look at a lock takes its holder for alive.
                Ok(report) if kind == ErrorKind::Denied && report.removals_finished == 0 => {}
                Ok(report) => assert_eq!(report, whole, "call {number}"),
                // What is made may be there all the same.
                Err(error) => {
                    let told = error.is(kind) || error.is(ErrorKind::Unknown);
                    assert!(told, "call {number}: {}", error.full());
                }
            }
            let plain = store_on(Arc::new(forked.clone()));
            assert_sound(&plain, &format!("call {number}"));
            if number % 7 == 0 {
                expected.assert_on(&plain, &[], &format!("call {number}"));
            }
            // What is left is taken by the next ones, and no more.
            gc(&plain);
            assert_eq!(dry_gc(&plain).deleted().objects, 0, "call {number}");
            if struck == 0 {
                break;
            }
            failures += 1;
        }
    }
    assert!(failures > 100, "{failures} failures");
}

#[test]
fn what_only_looks_says_what_is_right_or_that_it_cannot() {
    let (memory, store, _) = scene();
    // A volume whose removal ended before its name had gone.
    names::create(&store, &name("headless"), SIZE, BLOCK).unwrap();
    let id = names::lookup(&store, &name("headless")).unwrap();
    memory.delete(&ObjectName::Head { volume: id, number: head::FIRST }).unwrap();
    // And a block that the snapshot needs.
    let lost = memory.list_all(prefix::BLOCKS).unwrap().into_iter().find(|block| {
        let forked = memory.fork();
        forked.delete(block).unwrap();
        checked(&store_on(Arc::new(forked))).damage().any(|found| found.object == block.to_string())
    });
    let lost = lost.unwrap();
    let content = memory.read_all(&lost, u64::MAX).unwrap();
    memory.delete(&lost).unwrap();
    let check = |store: &Store| {
        let options = CheckOptions { measure: true, ..CheckOptions::default() };
        check::run(store, &options, &mut |_| {})
    };
    let whole = check(&store).unwrap();
    assert_eq!(whole.damage().count(), 2, "{whole}");
    assert_eq!((whole.volumes, whole.snapshots), (4, 1), "{whole}");
    for number in 0.. {
        let (faulty, store) = faulty_over(&memory);
        faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).after(number));
        match check(&store) {
            Ok(report) => assert_eq!(report, whole, "call {number}"),
            Err(error) => assert!(error.is(ErrorKind::Unavailable), "call {number}: {}", error.full()),
        }
        if faulty.struck() == 0 {
            break;
        }
    }
    memory.create(&lost, &content).unwrap();
    // Its name goes too, just when check is about to say so.
    let (faulty, other) = faulty_over(&memory);
    let read = Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named("volume/headless");
    faulty.inject(read.after(1));
    let report = check(&other).unwrap();
    assert!(faulty.struck() == 1 && report.is_sound(), "{report}");
    let text = gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap_err().to_string();
    assert!(text.contains("deletes nothing") && text.contains("archipelago rm headless"), "{text}");
}

/// Somebody else deletes what gc is about to measure or to delete, or what it
/// has just listed.
#[test]
fn what_somebody_else_has_deleted_does_not_end_a_gc() {
    let (memory, _, expected) = scene();
    let whole = gc(&store_on(Arc::new(memory.fork())));
    let rules = [
        (Method::Delete, prefix::PAGES),
        (Method::Delete, prefix::BLOCKS),
        (Method::Delete, prefix::EPOCHS),
        (Method::Stat, prefix::BLOCKS),
        (Method::Read, prefix::EPOCHS),
        (Method::Read, prefix::VOLUMES),
        (Method::Read, prefix::HEADS),
    ];
    for (method, prefix) in rules {
        let forked = memory.fork();
        let (faulty, store) = faulty_over(&forked);
        faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(method).named(prefix));
        let report = gc(&store);
        assert_eq!(faulty.struck(), 1, "{method:?} {prefix}");
        match method {
            Method::Stat => assert!(report.deleted().bytes < whole.deleted().bytes, "{report}"),
            _ => assert!(report.deleted().objects <= whole.deleted().objects, "{report}"),
        }
        expected.assert_on(&store, &[], &format!("{method:?} {prefix}"));
        assert_sound(&store, prefix);
    }
}

/// Somebody opens a volume without a name between the look at its lease and
/// its removal: then it stays, and all else is collected.
#[test]
fn a_volume_that_is_taken_at_the_last_moment_is_not_removed() {
    let (memory, plain, _) = scene();
    let (faulty, store) = faulty_over(&memory);
    let lock = Rule::new(Fault::Fail(ErrorKind::Busy)).on(Method::Lock).named(prefix::LEASES);
    faulty.inject(lock.after(1).times(u64::MAX));
    let report = gc(&store);
    assert!(faulty.struck() > 0 && report.removals_finished == 0, "{report}");
    assert!(report.deleted().objects > 0);
    assert_eq!(dry_gc(&plain).removals_finished, 1);
    assert_eq!(gc(&plain).removals_finished, 1);
}

/// A dry run says the same of what it must leave.
#[test]
fn what_is_named_or_held_is_no_removal_to_be_finished() {
    let (memory, store, _) = scene();
    let half = |store: &Store| {
        let heads = memory.list_all(prefix::HEADS).unwrap();
        let unnamed = heads.into_iter().filter_map(|name| match name {
            ObjectName::Head { volume, .. } => Some(volume),
            _ => None,
        });
        let named: Vec<Id> = names::list(store).unwrap().into_iter().map(|(_, id)| id).collect();
        unnamed.into_iter().find(|id| !named.contains(id)).unwrap()
    };
    let volume = half(&store);
    assert_eq!(dry_gc(&store).removals_finished, 1);
    let held = archipelago::catalog::lease::take(&store, volume, "half", &Default::default()).unwrap().0;
    assert_eq!(dry_gc(&store).removals_finished, 0, "somebody has it");
    held.abandon();
    assert_eq!(dry_gc(&store).removals_finished, 1);
    // What its epoch's age is cannot be known: left to whoever looks into it.
    let last = head::latest(&store, volume).unwrap();
    memory.delete(&ObjectName::Epoch(last.epoch)).unwrap();
    assert_eq!(dry_gc(&store).removals_finished, 0);
    assert_eq!(gc(&store).removals_finished, 0);
    let object = last.object();
    let data = memory.read_all(&object, u64::MAX).unwrap();
    memory.delete(&object).unwrap();
    memory.create(&object, &data[1..]).unwrap();
    let text = gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap_err().to_string();
    assert!(text.contains("deletes nothing"), "{text}");
}

/// Blocks of an epoch that was claimed lately: nothing names them yet.
#[test]
fn what_is_being_made_is_left_for_two_collections() {
    let (memory, store, _) = scene();
    gc(&store);
    let volume = Id(0x1234);
    let claimed = epoch::claim(&store, volume, "somebody").unwrap();
    let made = [
        ObjectName::Block { epoch: claimed, index: 3 },
        ObjectName::Segment { volume, number: 1 },
        ObjectName::Lease { volume, number: 1 },
        ObjectName::Lease { volume, number: 2 },
        ObjectName::Epoch(claimed),
    ];
    for object in &made[..4] {
        memory.create(object, &[1; 512]).unwrap();
    }
    let left = || made.iter().filter(|object| memory.stat(object).is_ok()).count();
    assert_eq!(usage::reclaimable(&store, &mut |_| {}).unwrap().objects, 1, "a lease that has a later one");
    assert_eq!(dry_gc(&store).deleted().objects, 1);
    gc(&store);
    assert_eq!(left(), 4);
    assert!(memory.stat(&made[2]).is_err());
    assert_eq!(usage::reclaimable(&store, &mut |_| {}).unwrap(), dry_gc(&store).deleted());
    gc(&store);
    assert_eq!(left(), 0, "nobody has made anything of it");
}

/// What check, usage and a dry run call reclaimable is what gc then deletes,
/// however old it is.
#[test]
fn all_agree_about_what_can_be_deleted() {
    let (_, store, _) = scene();
    for round in 0..6 {
        let text = format!("junk{round}");
        names::create(&store, &name(&text), SIZE, BLOCK).unwrap();
        let volume = open(&store, &text);
        volume.write_at(0, &vec![1; 2 * BLOCK as usize]).unwrap();
        volume.close().unwrap();
        names::remove(&store, &name(&text), false).unwrap();
        let counts = [
            dry_gc(&store).deleted(),
            usage::reclaimable(&store, &mut |_| {}).unwrap(),
            usage::run(&store, &mut |_| {}).unwrap().reclaimable,
            checked(&store).reclaimable,
        ];
        let deleted = gc(&store).deleted();
        assert_eq!(deleted, counts[0], "round {round}");
        // In the first round gc also ends the removal that was interrupted.
        if round > 0 {
            assert!(counts.iter().all(|count| *count == deleted), "round {round}: {counts:?}, {deleted:?}");
        }
        assert!(round < 3 || deleted.bytes >= 2 * BLOCK, "{deleted:?}");
    }
}

/// What only a number of a snapshot had that was replaced, nobody misses; what
/// counts is the one that replaced it.
#[test]
fn of_a_replaced_snapshot_only_the_last_number_counts() {
    let (memory, store, expected) = scene();
    // Its head has the first number's pages, and those that gc kept for it.
    let opened = open(&store, "v");
    opened.settle_all().unwrap();
    opened.close().unwrap();
    let volume = names::lookup(&store, &name("v")).unwrap();
    let second = snapshots::find(&store, volume, &snap("s")).unwrap();
    let object = ObjectName::Snapshot { volume, name: snap("s"), number: 1 };
    let first = snapshots::decode(&object, &memory.read_all(&object, u64::MAX).unwrap()).unwrap();
    assert!(second.number == 2 && first.root != second.root);
    for (root, needed) in [(first.root, false), (second.root, true)] {
        let forked = memory.fork();
        let store = store_on(Arc::new(forked.clone()));
        forked.delete(&ObjectName::Page(root.page)).unwrap();
        let report = checked(&store);
        assert_eq!(report.is_sound(), !needed, "{report}");
        assert_eq!(report.snapshots, 1);
        assert_eq!(gc::run(&store, &GcOptions::default(), &mut |_| {}).is_err(), needed);
        let used = usage::run(&store, &mut |_| {});
        match needed {
            true => assert!(used.unwrap_err().is(ErrorKind::Corrupt)),
            false => {
                assert_eq!(used.unwrap().items.iter().filter(|item| item.snapshot.is_some()).count(), 1);
                expected.assert_on(&store, &[], "without a page that was replaced");
            }
        }
    }
}

/// Each snapshot that outlived its volume is told with its own volume's name.
#[test]
fn what_is_left_of_removed_volumes_is_told_by_their_names() {
    let (memory, store) = new_store();
    for text in ["a", "b", "c"] {
        names::create(&store, &name(text), SIZE, BLOCK).unwrap();
        let volume = open(&store, text);
        volume.snapshot(&snap(&format!("of-{text}"))).unwrap();
        volume.publish_all().unwrap();
        volume.close().unwrap();
    }
    for text in ["a", "b"] {
        let volume = names::lookup(&store, &name(text)).unwrap();
        memory.delete(&ObjectName::Volume(name(text))).unwrap();
        for object in memory.list_all(&prefix::heads_of(volume)).unwrap() {
            memory.delete(&object).unwrap();
        }
    }
    let report = checked(&store);
    let mut owners: Vec<&str> =
        report.problems.iter().filter_map(|problem| problem.owner.as_deref()).collect();
    owners.sort_unstable();
    assert_eq!(owners, ["a (removed)@of-a", "b (removed)@of-b"], "{report}");
}

/// Listings of all names and of all heads that show nothing, as they may of
/// what moves while they run: volumes are known by what else they have.
#[test]
fn a_head_that_no_listing_of_all_shows_is_a_root_all_the_same() {
    let (memory, _, expected) = scene();
    let hook = Hook::new(&memory);
    let store = store_on(Arc::clone(&hook) as Arc<dyn Backend>);
    hook.blind_to(&[prefix::HEADS, prefix::VOLUMES]);
    let blocks = memory.list_all(prefix::BLOCKS).unwrap().len();
    let dry = dry_gc(&store);
    let of_blocks = dry.kinds.iter().find(|kind| kind.kind == archipelago::maintain::Kind::Blocks).unwrap();
    assert!(of_blocks.deleted.objects > 0 && of_blocks.deleted.objects < blocks as u64, "{dry}");
    gc(&store);
    hook.blind_to(&[]);
    let plain = store_on(Arc::new(memory.clone()));
    expected.assert_on(&plain, &[], "after a gc that saw no heads listed");
    assert_sound(&plain, "after a gc that saw no heads listed");
}

/// A log that somebody writes may look torn; one that is torn stays so.
#[test]
fn a_log_that_looks_torn_is_read_again() {
    let (memory, _, _) = scene();
    for (times, sound) in [(0, true), (1, true), (5, true), (u64::MAX, false)] {
        let (faulty, store) = faulty_over(&memory);
        let corrupt = Rule::new(Fault::Fail(ErrorKind::Corrupt)).on(Method::Read).named(prefix::SEGMENTS);
        faulty.inject(corrupt.times(times));
        let report = checked(&store);
        assert_eq!(report.is_sound(), sound, "{times} times: {report}");
        assert!(times == u64::MAX || faulty.struck() == times);
    }
}

/// A snapshot that is listed and not there: removed just now, or not known.
#[test]
fn a_snapshot_that_is_listed_and_not_there_stops_gc_unless_listings_lag() {
    for list_lag_s in [0, 30] {
        let memory = Memory::with(Capabilities { list_lag_s, ..CAPABILITIES });
        let store = Store::init("test", Arc::new(memory.clone()), BLOCK).unwrap();
        names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
        let volume = open(&store, "v");
        volume.snapshot(&snap("s")).unwrap();
        volume.close().unwrap();
        let (faulty, store) = faulty_over(&memory);
        faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named(prefix::SNAPSHOTS));
        let options = GcOptions { wait: |_| {}, ..GcOptions::default() };
        let result = gc::run(&store, &options, &mut |_| {});
        assert_eq!(faulty.struck(), 1);
        match list_lag_s {
            0 => assert!(result.unwrap_err().is(ErrorKind::Unavailable)),
            _ => assert_eq!(result.unwrap().deleted().objects, 0),
        }
    }
}

/// On a full store gc begins with what is garbage by its number alone, of each
/// volume what is that volume's.
#[test]
fn a_full_store_is_emptied_of_what_each_volume_has_left_behind() {
    let (memory, store) = new_store();
    for text in ["a", "b"] {
        names::create(&store, &name(text), SIZE, BLOCK).unwrap();
    }
    let mut volumes = names::list(&store).unwrap();
    volumes.sort_by_key(|(_, id)| *id);
    let mut expected = Expected::default();
    let mut starts = Vec::new();
    for (at, (text, id)) in volumes.iter().enumerate() {
        let volume = open(&store, text.as_str());
        let mut content = Content::zeroes(SIZE);
        write(&volume, &mut content, 0, 4 * BLOCK, 1);
        volume.snapshot(&snap("s")).unwrap();
        volume.settle_all().unwrap();
        write(&volume, &mut content, 512, 512, 2);
        volume.flush().unwrap();
        // The first has left its log behind, the second needs its own.
        match at {
            0 => volume.close().unwrap(),
            _ => volume.abandon(),
        }
        expected.volumes.insert(text.to_string(), content);
        starts.push(head::latest(&store, *id).unwrap().log.segment);
    }
    assert!(starts[0] > starts[1], "{starts:?}");
    let old = ObjectName::Segment { volume: volumes[0].1, number: starts[0] - 1 };
    memory.create(&old, b"old").unwrap();
    let leases = memory.list_all(prefix::LEASES).unwrap();
    let hook = Hook::new(&memory);
    let full = store_on(Arc::clone(&hook) as Arc<dyn Backend>);
    hook.fill_up();
    gc::run(&full, &GcOptions::default(), &mut |_| {}).unwrap();
    assert!(memory.stat(&old).is_err());
    assert_eq!(memory.list_all(prefix::LEASES).unwrap(), leases, "each volume has its last one");
    expected.assert_on(&store, &[], "after gc of a full store");
    assert_sound(&store, "after gc of a full store");
}

/// Where listings lag, gc waits between its marks, and once more before it
/// ends a removal.
#[test]
fn gc_waits_for_listings_that_lag_as_often_as_it_must() {
    static WAITS: AtomicU64 = AtomicU64::new(0);
    for (list_lag_s, unnamed, waits) in [(0, false, 0), (0, true, 0), (30, false, 1), (30, true, 2)] {
        let memory = Memory::with(Capabilities { list_lag_s, ..CAPABILITIES });
        let store = Store::init("test", Arc::new(memory.clone()), BLOCK).unwrap();
        let options = GcOptions {
            wait: |_| {
                WAITS.fetch_add(1, Ordering::SeqCst);
            },
            ..GcOptions::default()
        };
        let collect = || gc::run(&store, &options, &mut |_| {}).unwrap();
        names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
        collect();
        collect();
        if unnamed {
            memory.delete(&ObjectName::Volume(name("v"))).unwrap();
        }
        let before = WAITS.load(Ordering::SeqCst);
        assert_eq!(collect().removals_finished, u64::from(unnamed));
        assert_eq!(WAITS.load(Ordering::SeqCst) - before, waits, "{list_lag_s} s, unnamed: {unnamed}");
    }
}

/// Who may not maintain the store deletes nothing, not even garbage.
#[test]
fn a_gc_that_may_not_begin_deletes_nothing() {
    let (memory, store, _) = scene();
    let volume = names::lookup(&store, &name("v")).unwrap();
    memory.create(&ObjectName::Lease { volume, number: 1 }, b"old").ok();
    let before = memory.list_all(prefix::ALL).unwrap();
    let right = maintenance::claim_next(&store, &Identity::of_this_process()).unwrap();
    let (faulty, other) = faulty_over(&memory);
    assert!(gc::run(&other, &GcOptions::default(), &mut |_| {}).unwrap_err().is(ErrorKind::Busy));
    assert_eq!(faulty.calls(Method::Delete), 0);
    drop(right);
    let left = memory.list_all(prefix::ALL).unwrap();
    let is_kept = |object: &ObjectName| left.contains(object) || matches!(object, ObjectName::Maintenance(_));
    assert!(before.iter().all(is_kept));
}
