//! Scrub: what rots in a block of a snapshot is told, with the block and with
//! whose it is.
//!
//! What can go wrong: a block is passed over, or has the sum of another one;
//! what is never read of a layer is taken for its content and told as damage;
//! a sum outlives a block that is written again; snapshots that shared pages
//! have copies of them afterwards; an interrupted scrub begins at the
//! beginning for ever; and whoever reads, clones, removes or goes back to a
//! snapshot while it gets its new root finds neither the old one nor the new
//! one, or gets back one that was removed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// What these have for other tests is not all used here.
#[allow(dead_code)]
#[path = "maintain/hook.rs"]
mod hook;
#[allow(dead_code)]
#[path = "maintain/world.rs"]
mod world;

#[path = "scrub/races.rs"]
mod races;
#[path = "scrub/verify.rs"]
mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::{scrub as states, snapshot as snapshots, volume as names};
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::scrub::{self, Report, ScrubOptions};
use archipelago::maintain::{Phase, Problem};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;
use archipelago::ErrorKind;

use world::{gc, make_clone, name, new_store, open, snap, store_on, write};
use world::{assert_sound, Content, Expected, Seeded, BLOCK, SIZE};

/// Nobody else maintains for long here.
pub fn options() -> ScrubOptions {
    ScrubOptions { patience: Duration::ZERO, ..ScrubOptions::default() }
}

pub fn run(store: &Store) -> Report {
    scrub::run(store, &options(), &mut |_| {}).unwrap()
}

/// A volume with three snapshots over whole blocks, layers and zeroes, a clone
/// of one, and changes that no snapshot has.
pub fn base() -> (Memory, Store, Expected) {
    let (memory, store) = new_store();
    let mut expected = Expected::default();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    let mut take = |content: &Content, text: &str| {
        volume.snapshot(&snap(text)).unwrap();
        volume.publish_all().unwrap();
        expected.snapshots.insert(("v".into(), text.into()), content.clone());
    };
    write(&volume, &mut content, 0, 6 * BLOCK, 1);
    write(&volume, &mut content, 1025 * BLOCK, 2 * BLOCK, 2);
    take(&content, "a");
    write(&volume, &mut content, BLOCK, 4096, 3);
    write(&volume, &mut content, 2 * BLOCK + 4096, 8192, 4);
    take(&content, "b");
    write(&volume, &mut content, BLOCK + 8192, 4096, 5);
    write(&volume, &mut content, 20 * BLOCK + 512, 512, 6);
    take(&content, "c");
    write(&volume, &mut content, 3 * BLOCK, BLOCK, 7);
    write(&volume, &mut content, 4 * BLOCK, 4096, 8);
    volume.settle_all().unwrap();
    volume.close().unwrap();
    make_clone(&store, "v", "b", "k").unwrap();
    let clone = open(&store, "k");
    let mut cloned = expected.snapshots[&("v".into(), "b".into())].clone();
    write(&clone, &mut cloned, 0, 4096, 9);
    clone.settle_all().unwrap();
    clone.close().unwrap();
    expected.volumes.insert("v".into(), content);
    expected.volumes.insert("k".into(), cloned);
    (memory, store, expected)
}

fn blocks(store: &Store) -> Vec<ObjectName> {
    store.blocks().list_all(prefix::BLOCKS).unwrap()
}

fn flip(memory: &Memory, name: &ObjectName, at: u64, bit: u8) {
    let mut byte = [0];
    memory.read_at(name, at, &mut byte).unwrap();
    memory.write_at(name, at, &[byte[0] ^ 1 << bit]).unwrap();
}

/// Blocks that the snapshots need, found by reading them with each block's
/// content changed in turn.
fn sealed(memory: &Memory, store: &Store, expected: &Expected) -> BTreeSet<String> {
    let is_read = |block: &ObjectName| {
        (0..BLOCK / 512).any(|sector| {
            flip(memory, block, sector * 512, 0);
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                Expected { volumes: Default::default(), ..expected.clone() }.assert_on(store, &[], "");
            }));
            flip(memory, block, sector * 512, 0);
            seen.is_err()
        })
    };
    blocks(store).iter().filter(|block| is_read(block)).map(ToString::to_string).collect()
}

#[test]
fn every_block_of_a_snapshot_is_summed_once_and_then_compared() {
    let (memory, store, expected) = base();
    let sealed = sealed(&memory, &store, &expected);
    let first = run(&store);
    assert!(first.is_sound() && first.ended && first.left_snapshots == 0, "{first}");
    assert_eq!(first.summed.objects, sealed.len() as u64, "{first}");
    assert_eq!(first.compared.objects, 0);
    assert!(first.without_sum > 0 && sealed.len() > 9);
    assert_eq!(first.without_sum + first.summed.objects, blocks(&store).len() as u64);
    let second = run(&store);
    assert_eq!((second.summed.objects, second.compared.objects), (0, first.summed.objects), "{second}");
    assert!(second.is_sound(), "{second}");
    expected.assert_on(&store, &[], "scrubbed");
    for _ in 0..3 {
        gc(&store);
        assert_sound(&store, "scrubbed");
    }
    expected.assert_on(&store, &[], "scrubbed and collected");
    assert_eq!(run(&store).compared.objects, first.summed.objects);
}

#[test]
fn a_flipped_bit_in_a_block_of_a_snapshot_is_told_with_its_owner() {
    let (memory, store, expected) = base();
    let sealed = sealed(&memory, &store, &expected);
    run(&store);
    let mut dice = Seeded(5);
    let mut told = 0;
    for block in blocks(&store) {
        for _ in 0..40 {
            let (at, bit) = (dice.next(BLOCK), dice.next(8) as u8);
            flip(&memory, &block, at, bit);
            let report = run(&store);
            // Whether this byte counts, reading tells.
            let counts = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                Expected { volumes: Default::default(), ..expected.clone() }.assert_on(&store, &[], "");
            }))
            .is_err();
            assert_eq!(report.is_sound(), !counts, "{block} at {at}: {report}");
            if counts {
                told += 1;
                assert!(sealed.contains(&block.to_string()));
                let [problem] = report.problems.as_slice() else { panic!("{report}") };
                assert_eq!(problem.object, block.to_string());
                assert!(problem.owner.as_ref().unwrap().contains("v@"), "{report}");
                assert_eq!(states::last(&store).unwrap().unwrap().damaged, 1);
            }
            flip(&memory, &block, at, bit);
        }
    }
    assert!(told > 200, "{told}");
    assert!(run(&store).is_sound());
}

#[test]
fn a_block_that_is_missing_or_too_short_is_told() {
    let (memory, store, _) = base();
    run(&store);
    let block = blocks(&store).into_iter().find(|block| {
        memory.delete(block).unwrap();
        let report = run(&store);
        let told = report.problems.iter().any(|problem| problem.object == block.to_string());
        told && report.problems[0].sentence.contains("missing")
    });
    let block = block.expect("no missing block was told");
    memory.create(&block, &[1; 4096]).unwrap();
    let report = run(&store);
    assert!(report.problems[0].sentence.contains("4096 bytes"), "{report}");
}

/// What `--status` says of the last scrub: when, and how much is damaged, with
/// and without a sum, however often it was interrupted.
#[test]
fn each_damaged_block_is_counted_once() {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let take = |first: u64, text: &str| {
        volume.write_at(first * BLOCK, &vec![1; 4 * BLOCK as usize]).unwrap();
        volume.snapshot(&snap(text)).unwrap();
        volume.publish_all().unwrap();
    };
    take(0, "a");
    run(&store);
    let summed = blocks(&store);
    take(8, "b");
    let fresh: Vec<_> = blocks(&store).into_iter().filter(|block| !summed.contains(block)).collect();
    assert_eq!((summed.len(), fresh.len()), (4, 4));
    flip(&memory, &summed[0], 5, 1);
    flip(&memory, &summed[3], 5, 1);
    memory.delete(&fresh[1]).unwrap();
    let report = run(&store);
    assert_eq!((report.problems.len(), report.ended), (3, true), "{report}");
    let state = states::last(&store).unwrap().unwrap();
    assert_eq!(state.damaged, 3);
    assert!(state.began_s > 1_700_000_000 && state.ended_s >= state.began_s, "{state:?}");
    // Interrupted before each block in turn.
    let parts = ScrubOptions { stop: stopping::stop, ..options() };
    for runs in 1.. {
        stopping::LEFT.set(4);
        if scrub::run(&store, &parts, &mut |_| {}).unwrap().ended {
            assert!(runs > 2, "{runs}");
            break;
        }
    }
    assert_eq!(states::last(&store).unwrap().unwrap().damaged, 3);
    volume.close().unwrap();
}

/// Pages that reach nothing new are not written, and snapshots that shared
/// pages share the new ones.
#[test]
fn pages_stay_shared() {
    let (_, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 4 * BLOCK, 1);
    for number in 0..6 {
        // Only the second leaf changes.
        write(&volume, &mut content, 1026 * BLOCK, BLOCK, 10 + number);
        volume.snapshot(&snap(&format!("s{number}"))).unwrap();
        volume.publish_all().unwrap();
    }
    volume.close().unwrap();
    let pages = |store: &Store| store.control().list_all(prefix::PAGES).unwrap().len();
    let before = pages(&store);
    let report = run(&store);
    assert_eq!(report.summed.objects, 4 + 6);
    // A root and a second leaf for each, and one first leaf for all.
    assert_eq!(pages(&store) - before, 2 * 6 + 1);
    run(&store);
    assert_eq!(pages(&store) - before, 2 * 6 + 1);
}

/// A map that is written anew keeps the sums of what it still names, so that
/// the next snapshot's scrub reads only what is new.
#[test]
fn sums_are_kept_where_a_map_changes() {
    let (memory, store, _) = base();
    run(&store);
    make_clone(&store, "v", "c", "n").unwrap();
    let volume = open(&store, "n");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, BLOCK, 50);
    write(&volume, &mut content, 5 * BLOCK + 4096, 4096, 51);
    volume.snapshot(&snap("s")).unwrap();
    volume.publish_all().unwrap();
    volume.close().unwrap();
    let report = run(&store);
    assert_eq!(report.summed.objects, 2, "{report}");
    // The origin and its snapshots go; what the clone has of it is compared
    // all the same.
    names::remove(&store, &name("v"), true).unwrap();
    names::remove(&store, &name("k"), true).unwrap();
    gc(&store);
    gc(&store);
    let left = blocks(&store);
    let report = run(&store);
    assert!(report.compared.objects + 1 >= left.len() as u64, "{report}, {} left", left.len());
    for block in &left[..3] {
        memory.delete(block).unwrap();
    }
    assert!(run(&store).problems.len() >= 2);
}

/// Ends before block number `STOP_AT`.
mod stopping {
    use std::cell::Cell;
    thread_local!(pub static LEFT: Cell<u64> = const { Cell::new(u64::MAX) });
    pub fn stop() -> bool {
        LEFT.with(|left| {
            left.set(left.get().saturating_sub(1));
            left.get() == 0
        })
    }
}

#[test]
fn an_interrupted_scrub_goes_on() {
    let (_, store, expected) = base();
    let wanted = run(&base().1).summed.objects;
    let parts = ScrubOptions { stop: stopping::stop, ..options() };
    let (mut summed, mut compared, mut runs) = (0, 0, 0);
    while summed < wanted {
        stopping::LEFT.set(4);
        let report = scrub::run(&store, &parts, &mut |_| {}).unwrap();
        assert!(!report.ended || report.summed.objects + report.compared.objects == 0, "{report}");
        summed += report.summed.objects;
        runs += 1;
        assert!(runs < 20, "{report}");
    }
    assert_eq!(summed, wanted, "summed twice");
    // What was compared while others had no sum is a scrub of its own: the
    // next ones go from the first to the last, each block once.
    let restart = ScrubOptions { restart: true, ..parts.clone() };
    stopping::LEFT.set(4);
    compared += scrub::run(&store, &restart, &mut |_| {}).unwrap().compared.objects;
    loop {
        stopping::LEFT.set(4);
        let report = scrub::run(&store, &parts, &mut |_| {}).unwrap();
        compared += report.compared.objects;
        assert!(report.resumed);
        if report.ended {
            break;
        }
    }
    assert_eq!(compared, wanted);
    let last = states::last(&store).unwrap().unwrap();
    assert_eq!((last.blocks, last.bytes, last.damaged), (wanted, wanted * BLOCK, 0));
    assert!(last.ended_s > 0);
    assert!(!scrub::run(&store, &options(), &mut |_| {}).unwrap().resumed);
    expected.assert_on(&store, &[], "scrubbed in parts");
}

#[test]
fn sums_become_durable_while_others_are_made() {
    let (memory, store, _) = base();
    let wanted = run(&base().1).summed.objects;
    // Dies before it compares: what was published is not summed again.
    let parts = ScrubOptions {
        publish_every: Duration::ZERO,
        stop: stopping::stop,
        ..options()
    };
    stopping::LEFT.set(6);
    let hook = hook::Hook::new(&memory);
    let dying = store_on(Arc::clone(&hook) as Arc<_>);
    let before = snapshots_of(&store);
    for calls in 0.. {
        hook.arm(u64::MAX, || {});
        hook.die_at(calls);
        stopping::LEFT.set(u64::MAX);
        let outcome = scrub::run(&dying, &parts, &mut |_| {});
        if snapshots_of(&store) != before || outcome.is_ok() {
            break;
        }
    }
    let report = run(&store);
    assert!(report.summed.objects < wanted && report.compared.objects > 0, "{report}");
    assert_eq!(report.summed.objects + report.compared.objects, wanted);
}

fn snapshots_of(store: &Store) -> Vec<u64> {
    let found = snapshots::list_all(store).unwrap();
    found.iter().map(|snapshot| snapshot.number).collect()
}

/// A scrub of a large store takes hours. Meanwhile the head that named a block
/// when it began has followers, and the snapshot that did is removed; what else
/// needs the block goes on needing it.
#[test]
fn damage_is_told_although_whoever_named_it_first_has_gone() {
    type Meanwhile = fn(&Store);
    let cases: [(&str, Meanwhile); 2] = [
        ("k", |store| {
            // The head moves on.
            let clone = open(store, "k");
            clone.write_at(1026 * BLOCK, &vec![7; BLOCK as usize]).unwrap();
            clone.settle_all().unwrap();
            clone.close().unwrap();
        }),
        ("v@a", |store| {
            let volume = open(store, "v");
            volume.remove_snapshot(&snap("a")).unwrap();
            volume.close().unwrap();
        }),
    ];
    for (owner, meanwhile) in cases {
        let (memory, plain, _) = base();
        run(&plain);
        // A clone that has the sums, and is then all that has the blocks.
        make_clone(&plain, "v", "a", "n").unwrap();
        if owner == "k" {
            names::remove(&plain, &name("k"), false).unwrap();
            make_clone(&plain, "v", "b", "k").unwrap();
            names::remove(&plain, &name("v"), true).unwrap();
            names::remove(&plain, &name("n"), false).unwrap();
            gc(&plain);
            gc(&plain);
        }
        for block in blocks(&plain) {
            let memory = memory.fork();
            let plain = store_on(Arc::new(memory.clone()));
            flip(&memory, &block, 100, 3);
            let wanted = run(&plain);
            let hook = hook::Hook::new(&memory);
            let hooked = store_on(Arc::clone(&hook) as Arc<_>);
            // Once the maps have been read.
            let inside = plain.clone();
            let options = ScrubOptions { restart: true, ..options() };
            let armed = std::cell::Cell::new(false);
            let found = scrub::run(&hooked, &options, &mut |progress| {
                if progress.phase == Phase::Compare && !armed.replace(true) {
                    let inside = inside.clone();
                    hook.arm(0, move || meanwhile(&inside));
                }
            });
            let told = |report: &Report| {
                let named = |problem: &Problem| problem.object == block.to_string();
                report.problems.iter().any(named)
            };
            // What only the snapshot had, nobody misses.
            let is_needed = told(&run(&plain));
            assert!(hook.fired(), "{owner}");
            assert_eq!(told(&found.unwrap()), is_needed, "{owner}: {block}: {wanted}");
        }
    }
}

/// However many blocks cannot be read, side by side: each is told, and the rest
/// is compared.
#[test]
fn a_disk_with_many_bad_blocks_is_scrubbed_to_its_end() {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    volume.write_at(0, &vec![1; 40 * BLOCK as usize]).unwrap();
    volume.snapshot(&snap("a")).unwrap();
    volume.publish_all().unwrap();
    volume.close().unwrap();
    let wanted = run(&store).summed.objects;
    assert_eq!(wanted, 40);
    let faulty = Faulty::new(Arc::new(memory));
    let broken = store_on(Arc::new(faulty.clone()));
    let cannot = Fault::Fail(ErrorKind::Unknown);
    faulty.inject(Rule::new(cannot).on(Method::Read).named("block/").times(u64::MAX));
    let report = run(&broken);
    assert_eq!((report.problems.len() as u64, report.ended), (wanted, true), "{report}");
    faulty.clear();
    assert!(run(&broken).is_sound());
}

/// What a scrub notes of itself is not worth a scrub that does not run.
#[test]
fn a_damaged_note_is_told_and_begun_anew() {
    let (memory, store, _) = base();
    run(&store);
    let [name] = store.control().list_all(prefix::SCRUBS).unwrap().try_into().unwrap();
    flip(&memory, &name, 70, 3);
    let report = check::run(&store, &CheckOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.problems[0].object, name.to_string(), "{report}");
    let report = run(&store);
    assert!(report.is_sound() && !report.resumed && report.compared.objects > 9, "{report}");
    assert_sound(&store, "scrubbed again");
}

/// How far it has come is noted now and then, and at the end.
#[test]
fn it_notes_how_far_it_has_come_as_often_as_it_was_told() {
    let (_, store, _) = base();
    let compared = run(&store).summed.objects;
    let number = || match store.control().list_all(prefix::SCRUBS).unwrap().as_slice() {
        [ObjectName::Scrub(number)] => *number,
        other => panic!("{other:?}"),
    };
    for (save_every, notes) in [(Duration::MAX, 1), (Duration::ZERO, compared + 1)] {
        let before = number();
        scrub::run(&store, &ScrubOptions { save_every, ..options() }, &mut |_| {}).unwrap();
        assert_eq!(number() - before, notes, "{save_every:?}");
    }
}

/// One at a time, where that can be told; and what cannot be asked is not taken
/// for a scrub that never was.
#[test]
fn a_second_scrub_is_told_of_the_first_and_one_without_its_note_does_not_begin() {
    let (memory, store, _) = base();
    run(&store);
    let first = states::begin(&store).unwrap();
    let error = scrub::run(&store, &options(), &mut |_| {}).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains("scrub --status"), "{error}");
    drop(first);
    let faulty = Faulty::new(Arc::new(memory));
    let broken = store_on(Arc::new(faulty.clone()));
    for kind in [ErrorKind::Unavailable, ErrorKind::Denied] {
        faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Read).named("scrub/"));
        assert!(scrub::run(&broken, &options(), &mut |_| {}).unwrap_err().is(kind));
        assert!(states::last(&broken).unwrap().is_some());
    }
    assert_eq!(faulty.struck(), 2);
}

/// A limit is kept, about.
#[test]
fn a_limit_slows_it_down() {
    let (_, store, _) = base();
    let report = run(&store);
    let limit = ScrubOptions { bytes_per_s: Some(report.read_bytes * 4), ..options() };
    let began = std::time::Instant::now();
    scrub::run(&store, &limit, &mut |_| {}).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
}
