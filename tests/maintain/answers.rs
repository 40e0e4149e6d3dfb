//! What gc, check and usage say: what can go wrong is a sum that is not that
//! of the objects, damage that is not named, and a store that cannot be asked
//! and passes for one where nothing is.

use std::collections::HashMap;
use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::volume as names;
use archipelago::error::ErrorKind;
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::{usage, Phase, Severity};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;

use crate::damage::{check as checked, damage, scene};
use crate::world::*;

fn faulty_over(memory: &Memory) -> (Faulty, Store) {
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let store = store_on(Arc::new(faulty.clone()));
    (faulty, store)
}

/// All objects of some kinds, and what each takes.
fn sizes(memory: &Memory, prefixes: &[&str]) -> HashMap<ObjectName, u64> {
    let names = prefixes.iter().flat_map(|prefix| memory.list_all(prefix).unwrap());
    names.map(|name| (name.clone(), memory.stat(&name).unwrap().allocated_bytes)).collect()
}

const COLLECTED: [&str; 7] = [
    prefix::HEADS,
    prefix::SNAPSHOTS,
    prefix::SEGMENTS,
    prefix::LEASES,
    prefix::PAGES,
    prefix::BLOCKS,
    prefix::EPOCHS,
];

/// More garbage than gc deletes between two looks at its right to.
fn with_much_garbage() -> (Memory, Store) {
    let (memory, store, _) = scene();
    names::create(&store, &name("big"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "big");
    volume.write_at(0, &vec![1; 600 * BLOCK as usize]).unwrap();
    volume.close().unwrap();
    // So that its epoch is not young any more.
    gc(&store);
    gc(&store);
    names::remove(&store, &name("big"), false).unwrap();
    (memory, store)
}

#[test]
fn gc_counts_what_it_deletes_and_what_it_keeps() {
    let (memory, store) = with_much_garbage();
    let before = sizes(&memory, &COLLECTED);
    let dry = dry_gc(&store);
    assert_eq!(sizes(&memory, &COLLECTED), before);
    let mut steps = Vec::new();
    let report = gc::run(&store, &GcOptions::default(), &mut |step| steps.push(step)).unwrap();
    let after = sizes(&memory, &COLLECTED);
    let gone: HashMap<_, _> = before.iter().filter(|(name, _)| !after.contains_key(name)).collect();
    assert!(gone.len() > 600, "{report}");
    assert_eq!(report.deleted().objects, gone.len() as u64, "{report}");
    assert_eq!(report.deleted().bytes, gone.values().copied().sum::<u64>(), "{report}");
    assert_eq!(dry.deleted(), report.deleted());
    for kind in &report.kinds {
        let of_kind = |name: &&ObjectName| archipelago::maintain::Kind::of(name) == Some(kind.kind);
        let left = after.keys().filter(of_kind).count() as u64;
        assert_eq!(kind.kept_objects, left, "{:?}", kind.kind);
        assert_eq!(kind.deleted.objects, gone.keys().filter(|name| of_kind(name)).count() as u64);
    }
    let done = |phase| {
        let of_phase = steps.iter().filter(|step| step.phase == phase);
        of_phase.map(|step| step.done).collect::<Vec<_>>()
    };
    let total = gone.len() as u64;
    assert_eq!(done(Phase::Measure), [0, 256, 512], "each 256 objects of {total}");
    assert_eq!(done(Phase::Sweep), [0, 256, 512, total]);
    let all = steps.iter().filter(|step| matches!(step.phase, Phase::Measure | Phase::Sweep));
    assert!(all.into_iter().all(|step| step.total == Some(total)));
}

#[test]
fn check_counts_what_is_there() {
    let (memory, store, _) = scene();
    gc(&store);
    gc(&store);
    let report = checked(&store);
    assert!(report.is_sound(), "{report}");
    let count = |prefix| memory.list_all(prefix).unwrap().len() as u64;
    assert_eq!((report.pages, report.blocks), (count(prefix::PAGES), count(prefix::BLOCKS)));
    assert_eq!((report.volumes, report.snapshots, report.pending), (count(prefix::VOLUMES), 1, 1));
    assert!(report.log_bytes > 0 && report.log_bytes < 64 << 10, "{}", report.log_bytes);
    names::remove(&store, &name("v"), true).unwrap();
    let left = sizes(&memory, &COLLECTED);
    let report = checked(&store);
    assert_eq!((report.volumes, report.blocks, report.log_bytes), (0, 0, 0), "{report}");
    let reclaimable = report.reclaimable;
    assert!(reclaimable.objects > 0 && reclaimable.objects <= left.len() as u64, "{report}");
    let options = CheckOptions { measure: true, ..CheckOptions::default() };
    let measured = check::run(&store, &options, &mut |_| {}).unwrap();
    assert_eq!(measured.reclaimable, dry_gc(&store).deleted());
}

#[test]
fn damage_of_every_kind_of_object_is_named() {
    use prefix::{HEADS, LEASES, MAINTENANCE, PAGES, SNAPSHOTS};
    for prefix in [LEASES, MAINTENANCE, HEADS, SNAPSHOTS, PAGES, "store"] {
        let (memory, store, _) = scene();
        gc(&store);
        let object = memory.list_all(prefix).unwrap().pop().unwrap();
        damage(&memory, &object, &|mut data| {
            data[30] ^= 1;
            Some(data)
        });
        let report = checked(&store);
        let found = report.problems.iter().find(|problem| problem.object == object.to_string());
        assert_eq!(found.map(|found| found.severity), Some(Severity::Damage), "{object}: {report}");
        assert!(!report.is_sound());
    }
    let ((memory, store, _), (other, ..)) = (scene(), scene());
    damage(&memory, &ObjectName::Store, &|_| Some(other.read_all(&ObjectName::Store, u64::MAX).unwrap()));
    let report = checked(&store);
    assert!(report.problems[0].sentence.contains("another store"), "{report}");
}

/// Every call, one after the other, of what only reads.
#[test]
fn a_store_that_cannot_be_asked_is_no_sound_one() {
    type Reads = fn(&Store) -> archipelago::Result<()>;
    let reads: [(&str, Reads); 3] = [
        ("check", |store| {
            let options = CheckOptions { measure: true, ..CheckOptions::default() };
            check::run(store, &options, &mut |_| {}).map(|_| ())
        }),
        ("gc", |store| {
            let options = GcOptions { dry_run: true, ..GcOptions::default() };
            gc::run(store, &options, &mut |_| {}).map(|_| ())
        }),
        ("usage", |store| usage::run(store, &mut |_| {}).map(|_| ())),
    ];
    let (memory, store, _) = scene();
    // So that there are generations.
    gc(&store);
    for (what, read) in reads {
        for kind in [ErrorKind::Unavailable, ErrorKind::Denied] {
            let mut number = 0;
            loop {
                let (faulty, store) = faulty_over(&memory);
                faulty.inject(Rule::new(Fault::Fail(kind)).after(number));
                let result = read(&store);
                if faulty.struck() == 0 {
                    result.unwrap();
                    break;
                }
                let failed = result.err().map(|error| error.kind());
                assert_eq!(failed, Some(kind), "{what}: call {number} fails");
                number += 1;
            }
            assert!(number > 20, "{what}: {number} calls");
        }
    }
}

/// What is listed may be gone when it is read: leases, generations and heads
/// are followed by others all the time.
#[test]
fn what_has_just_gone_is_no_damage() {
    for prefix in [prefix::LEASES, prefix::MAINTENANCE, prefix::HEADS, prefix::EPOCHS] {
        let (memory, plain, _) = scene();
        gc(&plain);
        let (faulty, store) = faulty_over(&memory);
        faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named(prefix).times(1));
        let report = checked(&store);
        assert_eq!(faulty.struck(), 1, "{prefix}");
        assert!(report.is_sound(), "{report}");
    }
}

/// A page that several maps share is looked at twice, then only its sum is
/// taken: with two levels, whole ones and parts.
#[test]
fn usage_is_right_however_many_share_a_page() {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; 4 * BLOCK as usize]).unwrap();
    volume.write_at(1025 * BLOCK, &vec![1; 2 * BLOCK as usize]).unwrap();
    volume.snapshot(&snap("s")).unwrap();
    volume.settle_all().unwrap();
    volume.close().unwrap();
    let used = |text: &str, snapshot: Option<&str>| {
        let all = usage::run(&store, &mut |_| {}).unwrap();
        let id = names::lookup(&store, &name(text)).unwrap();
        let used = *all.of(id, snapshot.map(snap).as_ref()).unwrap();
        (used.own_bytes, used.shared_bytes, used.log_bytes)
    };
    let clones: Vec<String> = (0..7).map(|at| format!("c{at}")).collect();
    for (at, text) in (0..).zip(&clones) {
        make_clone(&store, "v", "s", text).unwrap();
        let clone = open(&store, text);
        match at {
            0..=2 => clone.write_at(at * BLOCK, &vec![2; BLOCK as usize]).unwrap(),
            3 => clone.write_at(1025 * BLOCK, &[2; 8192]).unwrap(),
            _ => {}
        }
        clone.settle_all().unwrap();
        clone.close().unwrap();
    }
    assert_eq!(used("v", None), (0, 6 * BLOCK, 0));
    assert_eq!(used("v", Some("s")), (0, 6 * BLOCK, 0));
    for text in &clones[..3] {
        assert_eq!(used(text, None), (BLOCK, 5 * BLOCK, 0), "{text}");
    }
    assert_eq!(used("c3", None), (8192, 6 * BLOCK, 0));
    for text in &clones[4..] {
        assert_eq!(used(text, None), (0, 6 * BLOCK, 0), "{text}");
    }
    // What is settled counts although no map has it yet, and the log as it is.
    let clone = open(&store, "c6");
    clone.write_at(2 * BLOCK + 512, &[3; 5000]).unwrap();
    assert!(clone.work(true).unwrap());
    clone.flush().unwrap();
    let log_bytes = clone.usage().unwrap().log_bytes;
    assert!(log_bytes > 8192);
    assert_eq!(used("c6", None), (8192, 6 * BLOCK, log_bytes));
    assert_eq!(checked(&store).log_bytes, log_bytes);
    clone.settle_all().unwrap();
    assert_eq!(used("c6", None), (8192, 6 * BLOCK, 0));
    let page = memory.list_all(prefix::PAGES).unwrap().pop().unwrap();
    memory.delete(&page).unwrap();
    let error = usage::run(&store, &mut |_| {}).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains(&page.to_string()), "{error}");
}

/// A volume is removed, and collected, after check has seen what it needs.
#[test]
fn what_a_volume_needed_that_is_gone_is_no_damage() {
    let (_, store, _) = scene();
    names::create(&store, &name("w"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "w");
    volume.write_at(0, &vec![1; 2 * BLOCK as usize]).unwrap();
    volume.close().unwrap();
    gc(&store);
    gc(&store);
    let mut removed = false;
    let report = check::run(&store, &CheckOptions::default(), &mut |step| {
        if step.phase == Phase::Verify && !removed {
            names::remove(&store, &name("w"), true).unwrap();
            assert!(gc(&store).deleted().objects > 2);
            removed = true;
        }
    })
    .unwrap();
    assert!(removed && report.is_sound(), "{report}");
}

#[test]
fn a_block_of_another_size_is_damage() {
    let (memory, store, _) = scene();
    let block = memory.list_all(prefix::BLOCKS).unwrap().pop().unwrap();
    damage(&memory, &block, &|data| Some(data[..data.len() - 1].to_vec()));
    let report = checked(&store);
    let found: Vec<_> = report.damage().collect();
    assert!(found.len() == 1 && found[0].object == block.to_string(), "{report}");
    assert!(found[0].sentence.contains(&format!("{} bytes", BLOCK - 1)), "{report}");
}
