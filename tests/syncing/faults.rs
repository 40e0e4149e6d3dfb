//! Rounds that are ended at each of their calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Rule};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::volume as names;
use archipelago::error::{ErrorKind, Result};
use archipelago::maintain::gc;
use archipelago::maintain::sync::{self, Report};
use archipelago::name::Id;
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

use super::bed::{
    assert_both_sound, assert_nothing_is_damaged, assert_sound, collect, make, name, round, side, snap,
    snapshots_of, state_of, sync, take, with, write, Contents, Side, BLOCK,
};

struct World {
    sides: [Side; 2],
    id: Id,
    /// What the standby has before the round, if it is there.
    before: Option<Vec<u8>>,
    /// What the source has.
    state: Vec<u8>,
    listed: Contents,
}

impl World {
    /// `follows`: the round is not the first one.
    fn new(fences: bool, follows: bool) -> World {
        let sides = [side("here", fences), side("there", fences)];
        let (here, there) = (&sides[0].quiet, &sides[1].quiet);
        let id = make(here, "v", 8);
        write(here, "v", &[0, 1, 3], BLOCK, 1);
        take(here, "v", "gone");
        write(here, "v", &[1, 2], 4096, 2);
        take(here, "v", "stays");
        let mut before = None;
        if follows {
            sync(here, there);
            before = Some(state_of(there, "v"));
            with(here, "v", |v| v.remove_snapshot(&snap("gone"))).unwrap();
            write(here, "v", &[1, 5], 4096, 3);
            take(here, "v", "new");
            write(here, "v", &[6], 512, 4);
        }
        let (state, listed) = (state_of(here, "v"), snapshots_of(here, "v"));
        sides.iter().for_each(|side| side.faulty.reset_counts());
        World { sides, id, before, state, listed }
    }

    fn run(&self) -> Result<Report> {
        round(&self.sides[0].store, &self.sides[1].store)
    }

    /// Whatever has a name there is whole, and is a state that it had; also when
    /// what nothing needs is collected. Then a round brings all, and what is
    /// promoted has it.
    fn recover(self, what: &str) {
        self.sides.iter().for_each(|side| {
            side.faulty.clear();
            side.faulty.settle_late();
        });
        let [here, there] = [&self.sides[0].quiet, &self.sides[1].quiet];
        collect(there);
        assert_nothing_is_damaged(there, what);
        if names::lookup(there, &name("v")).is_ok() {
            let state = state_of(there, "v");
            // Where no snapshot could be taken, the last of people's is brought.
            let was = state == self.state || Some(&state) == self.before.as_ref();
            assert!(was || self.listed.values().any(|one| *one == state), "{what}: another state");
            for (which, content) in readable(there, what) {
                // What the source has no more was compared when it was brought.
                let here = self.listed.get(&which);
                assert!(here.is_none_or(|here| *here == content), "{what}: snapshot {which}");
            }
        } else {
            assert!(self.before.is_none(), "{what}: the standby has gone");
        }
        let report = round(here, there).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
        assert!(report.failed.is_empty(), "{what}: {:?}", report.failed);
        collect(there);
        collect(here);
        assert_eq!(state_of(here, "v"), self.state, "{what}: the source");
        assert_eq!(state_of(there, "v"), self.state, "{what}");
        assert!(snapshots_of(there, "v") == self.listed, "{what}: snapshots");
        assert_both_sound([here, there], what);
        sync::promote(there, &name("v"), self.id, &OpenOptions::default()).unwrap();
        assert_eq!(state_of(there, "v"), self.state, "{what}: promoted");
        write(there, "v", &[2], BLOCK, 9);
        assert!(snapshots_of(there, "v") == self.listed, "{what}: snapshots, promoted");
        assert_sound(there, what);
    }
}

/// The snapshots that are there for good, with their content.
fn readable(store: &Store, what: &str) -> Contents {
    let id = names::lookup(store, &name("v")).unwrap();
    let mut found = Contents::new();
    for one in archipelago::catalog::snapshot::list(store, id).unwrap() {
        if archipelago::catalog::snapshot::is_for_good(store, &one).unwrap() {
            let volume = Volume::open_snapshot(store, &name("v"), &one.name);
            let volume = volume.unwrap_or_else(|error| panic!("{what}: {}", error.full()));
            found.insert(one.name.to_string(), super::bed::content_of(&volume));
        }
    }
    found
}

fn every_call(mut at: impl FnMut(u64) -> bool) -> u64 {
    let mut number = 0;
    while at(number) {
        number += 1;
    }
    assert!(number > 15, "a round makes more than {number} calls");
    number
}

const FAULTS: [Fault; 4] = [
    Fault::Fail(ErrorKind::Unavailable),
    Fault::Fail(ErrorKind::NoSpace),
    Fault::FailAfterApplying,
    Fault::ApplyLate,
];

#[test]
fn any_call_of_either_store_may_fail() {
    for follows in [false, true] {
        for fault in &FAULTS {
            for side in 0..2 {
                let calls = every_call(|number| {
                    let world = World::new(true, follows);
                    world.sides[side].faulty.fail_nth(number, fault.clone());
                    let _result = world.run();
                    let struck = world.sides[side].faulty.struck() > 0;
                    world.recover(&format!("{fault:?} at call {number} of store {side} ({follows})"));
                    struck
                });
                eprintln!("{fault:?}, store {side}: {calls} calls");
            }
        }
    }
}

/// From one call on neither store hears of it.
#[test]
fn it_may_be_killed_at_any_call() {
    for follows in [false, true] {
        for side in 0..2 {
            every_call(|number| {
                let world = World::new(true, follows);
                let (calls, is_dead) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
                let fails = || Rule::new(Fault::Fail(ErrorKind::Unavailable)).times(u64::MAX);
                let dead = Arc::clone(&is_dead);
                world.sides[1 - side].faulty.inject(fails().when(move |_, _| dead.load(Ordering::SeqCst)));
                world.sides[side].faulty.inject(fails().when(move |_, _| {
                    if calls.fetch_add(1, Ordering::SeqCst) >= number {
                        is_dead.store(true, Ordering::SeqCst);
                    }
                    is_dead.load(Ordering::SeqCst)
                }));
                let _result = world.run();
                let struck = world.sides[side].faulty.struck() > 0;
                world.recover(&format!("killed at call {number} of store {side} ({follows})"));
                struck
            });
        }
    }
}

/// A rule that strikes nothing, and does something at the call of this number.
fn at_call(number: u64, act: impl Fn() + Send + Sync + 'static) -> (Rule, Arc<AtomicBool>) {
    let (calls, has_come) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let came = Arc::clone(&has_come);
    let rule = Rule::new(Fault::Fail(ErrorKind::Unavailable)).when(move |_, _| {
        if calls.fetch_add(1, Ordering::SeqCst) == number {
            came.store(true, Ordering::SeqCst);
            act();
        }
        false
    });
    (rule, has_come)
}

fn collect_from_another_host(store: &Store) {
    let identity = Identity { host: "another".into(), ..Identity::of_this_process() };
    let identity = Identity { boot_id: "another".into(), ..identity };
    for _ in 0..3 {
        let options = gc::GcOptions { identity: identity.clone(), wait: |_| {}, dry_run: false };
        // Busy with what is half made, at some calls.
        drop(gc::run(store, &options, &mut |_| {}));
    }
}

/// Where no lock keeps it out, a gc of another host may take the right to maintain
/// the store, and what was copied, at any call.
#[test]
fn a_gc_of_another_host_may_come_at_any_call() {
    for follows in [false, true] {
        every_call(|number| {
            let world = World::new(false, follows);
            let there = world.sides[1].quiet.clone();
            let (collects, has_come) = at_call(number, move || collect_from_another_host(&there));
            world.sides[1].faulty.inject(collects);
            let _result = world.run();
            world.recover(&format!("a gc at call {number} ({follows})"));
            has_come.load(Ordering::SeqCst)
        });
    }
}

/// And the sync may be killed just then: what has a name there may lack what it
/// needs, and is not taken for what is wanted.
#[test]
fn a_gc_of_another_host_may_come_before_a_sync_is_killed() {
    for more in 1..4 {
        every_call(|number| {
            let world = World::new(false, true);
            let there = world.sides[1].quiet.clone();
            let (collects, has_come) = at_call(number, move || collect_from_another_host(&there));
            let dies = Rule::new(Fault::Fail(ErrorKind::Unavailable)).after(number + more).times(u64::MAX);
            world.sides[1].faulty.inject(collects);
            world.sides[1].faulty.inject(dies);
            let _result = world.run();
            world.sides[1].faulty.clear();
            let report = round(&world.sides[0].quiet, &world.sides[1].quiet).unwrap();
            let what = format!("a gc at call {number}, killed {more} later");
            assert!(report.failed.is_empty(), "{what}: {report:?}");
            world.recover(&what);
            has_come.load(Ordering::SeqCst)
        });
    }
}

/// A sync that was away while its standby was promoted changes nothing of it.
#[test]
fn a_standby_may_be_promoted_at_any_call() {
    for writes in [false, true] {
        every_call(|number| promoted(number, writes));
    }
}

/// False: there was no such call.
fn promoted(number: u64, writes: bool) -> bool {
    let world = World::new(false, true);
    let (there, id) = (world.sides[1].quiet.clone(), world.id);
    let (calls, promoted) = (AtomicU64::new(0), Arc::new(std::sync::Mutex::new(None)));
    let state = Arc::clone(&promoted);
    let promotes = Rule::new(Fault::Fail(ErrorKind::Unavailable)).when(move |_, _| {
        if calls.fetch_add(1, Ordering::SeqCst) == number {
            sync::promote(&there, &name("v"), id, &OpenOptions::default()).unwrap();
            if writes {
                write(&there, "v", &[3, 7], 4096, 55);
            }
            *state.lock().unwrap() = Some(state_of(&there, "v"));
        }
        false
    });
    world.sides[1].faulty.inject(promotes);
    let _result = world.run();
    world.sides[1].faulty.clear();
    let what = format!("promoted at call {number}");
    let Some(state) = promoted.lock().unwrap().take() else { return false };
    let there = &world.sides[1].quiet;
    assert!(state_of(there, "v") == state, "{what}: it was changed");
    write(there, "v", &[4], 4096, 56);
    collect(there);
    assert_sound(there, &what);
    let again = world.run().unwrap();
    assert_eq!(again.failed.len(), 1, "{what}: {again:?}");
    true
}
