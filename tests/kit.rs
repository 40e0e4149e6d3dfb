//! What can go wrong: somebody's backend passes the kit (`archipelago::testkit`)
//! and loses data all the same, or a sound one does not pass.
//!
//! How this proves that it cannot: the kit's schedules of faults are played on the
//! backends of this crate; and then on ones that lie, each in one way that has
//! lost data somewhere, and over the library with a rule of docs/design.md
//! broken. The kit must say no to each, and the same seed must do the same.
//!
//! `ARCHIPELAGO_KIT_SEED=7 ARCHIPELAGO_KIT_COUNT=1000` plays others and more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::memory::CAPABILITIES;
use archipelago::backend::only::{Only, Part};
use archipelago::backend::Capabilities;
use archipelago::fault::{self, Planted};
use archipelago::testkit::{conformance, Bed, Counts, Memory, Schedules};

#[path = "kit/liar.rs"]
mod liar;

use liar::{Liar, Lie};

fn memory(capabilities: Capabilities) -> Bed {
    Bed::new(Arc::new(Memory::with(capabilities)))
}

#[test]
fn memory_keeps_its_promises() {
    let counts = Schedules::from_env().run(|| memory(CAPABILITIES));
    for word in ["faults", "errors", "kills", "losses of power", "snapshots", "rollbacks", "collections"] {
        assert!(counts.get(word).is_some_and(|count| *count > 0), "no {word}: {counts:?}");
    }
}

#[test]
fn memory_that_can_do_less_keeps_its_promises() {
    for less in [
        Capabilities { fences: false, ..CAPABILITIES },
        Capabilities { durable_on_ack: true, ..CAPABILITIES },
        Capabilities { overwrite_in_place: false, fences: false, ..CAPABILITIES },
    ] {
        Schedules::from_env().run(|| memory(less));
    }
}

#[test]
fn blocks_that_are_made_once_keep_their_promises() {
    let only = || Arc::new(Only::new(Arc::new(Memory::new()), Part::BlocksOnce));
    Schedules::from_env().run(|| Bed::new(only()));
}

#[test]
fn a_directory_keeps_its_promises() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let stores = std::cell::Cell::new(0);
    let all = Schedules::from_env();
    // It waits for the disk.
    Schedules { count: all.count.div_ceil(4), ..all }.run(|| {
        stores.set(stores.get() + 1);
        let path = folder.path().join(stores.get().to_string());
        Bed::new(Arc::new(Dir::create(&path, DirOptions::default()).unwrap()))
    });
}

#[test]
fn a_seed_does_the_same_again() {
    let one = Schedules { seed: 7, count: 3, steps: 100 };
    assert_eq!(one.run(|| memory(CAPABILITIES)), one.run(|| memory(CAPABILITIES)));
}

/// True if it was noticed.
fn is_noticed<T>(test: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(test)).is_err()
}

fn many(make: impl Fn() -> Bed) -> Counts {
    Schedules { seed: 1, count: 40, steps: 120 }.run(make)
}

#[test]
fn who_lies_does_not_pass() {
    conformance::run(|| Liar::bed(Lie::None).backend);
    many(|| Liar::bed(Lie::None));
    for lie in [Lie::CreateReplaces, Lie::ListForgets, Lie::PunchKeeps, Lie::ReadIsShort] {
        assert!(is_noticed(|| conformance::run(|| Liar::bed(lie).backend)), "{lie:?} keeps the contract");
    }
    for lie in [Lie::SyncDoesNothing, Lie::CreateIsNotDurable, Lie::AppliedAllTheSame, Lie::PunchKeeps] {
        assert!(is_noticed(|| many(|| Liar::bed(lie))), "{lie:?} passes the schedules");
    }
}

#[test]
fn a_broken_rule_does_not_pass() {
    for rule in [
        Planted::LogNotSynced,
        Planted::RecordBeforeContent,
        Planted::LogSyncedFirst,
        Planted::TrimBeforeHead,
        Planted::CutBeforeContent,
        Planted::OldEpochAfterCut,
        Planted::RollbackKeepsLog,
        Planted::ReplayNotSynced,
        Planted::UncleanKeepsEpoch,
        Planted::PublishWithoutPieces,
        Planted::GcForgetsLog,
        Planted::SettleZeroesRest,
        Planted::NameNotSynced,
        Planted::DiscardGivesUpName,
    ] {
        fault::plant(rule);
        let is_noticed = is_noticed(|| many(|| memory(CAPABILITIES)));
        fault::plant(Planted::None);
        assert!(is_noticed, "{rule:?} is broken, and every schedule passes");
    }
}
