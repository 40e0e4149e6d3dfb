//! gc in the middle of a publication whose process then dies.
//!
//! What can go wrong: gc cannot know pages that no head names yet, and takes
//! them; the publisher, which was held up between its last look at the
//! generation and its commit, commits a head of pages that are gone, and dies
//! before it looks again. Whoever opens the volume next must find it whole.
//! Every pair of a call before which gc runs and a later call at which the
//! process dies is played.

use std::sync::Arc;

use archipelago::catalog::{snapshot as snapshots, volume as names};
use archipelago::error::ErrorKind;
use archipelago::volume::Volume;

use crate::hook::Hook;
use crate::world::*;

type Operation = fn(&Arc<Volume>) -> archipelago::Result<()>;

const OPERATIONS: &[(&str, Operation)] = &[
    ("checkpoint", |volume| volume.settle_all()),
    ("snapshot and publish", |volume| {
        volume.snapshot(&snap("new"))?;
        volume.publish_all()
    }),
];

/// False if the operation ended before the call at which gc was to run.
fn play(operation: Operation, gc_at: u64, dies_at: u64, what: &str) -> (bool, bool) {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let hook = Hook::new(&memory);
    let volume = open(&store_on(Arc::clone(&hook) as Arc<_>), "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 3 * BLOCK, 1);
    write(&volume, &mut content, 1025 * BLOCK, BLOCK, 2);
    volume.settle_all().unwrap();
    write(&volume, &mut content, 512, 512, 3);
    write(&volume, &mut content, 1026 * BLOCK, BLOCK, 4);
    volume.flush().unwrap();
    let collector = store.clone();
    hook.arm(gc_at, move || drop(gc(&collector)));
    hook.die_at(dies_at);
    let outcome = operation(&volume);
    let (fired, died) = (hook.fired(), hook.calls() > dies_at);
    assert!(died || outcome.is_ok(), "{what}: {:?}", outcome.err());
    volume.abandon();
    let mut expected = Expected::default();
    expected.volumes.insert("v".into(), content.clone());
    for round in ["opened", "after gc", "after two gcs"] {
        let volume = Volume::open(&store, &name("v"), &options())
            .unwrap_or_else(|error| panic!("{what}, {round}: {}", error.full()));
        content.assert_is(&volume, &format!("{what}, {round}"));
        volume.publish_all().unwrap_or_else(|error| panic!("{what}, {round}: {}", error.full()));
        let has_snapshot = volume.snapshots().unwrap().iter().any(|listed| listed.name == snap("new"));
        if has_snapshot || outcome.is_ok() && what.contains("snapshot") {
            expected.snapshots.insert(("v".into(), "new".into()), content.clone());
        }
        expected.assert_on(&store, &[("v", &volume)], &format!("{what}, {round}"));
        volume.close().unwrap_or_else(|error| panic!("{what}, {round}: {}", error.full()));
        assert_sound(&store, &format!("{what}, {round}"));
        gc(&store);
    }
    (fired, died)
}

#[test]
fn gc_while_something_is_published_by_a_process_that_dies() {
    for (what, operation) in OPERATIONS {
        for gc_at in moments() {
            let mut fired_once = false;
            for dies_at in gc_at.. {
                let title = format!("gc at call {gc_at}, death at {dies_at} of: {what}");
                let (fired, died) = play(*operation, gc_at, dies_at, &title);
                fired_once |= fired;
                if !died {
                    break;
                }
            }
            if !fired_once {
                break;
            }
        }
    }
}

/// Somebody removes the snapshot that a volume is going back to, and gc runs.
#[test]
fn a_rollback_whose_snapshot_is_taken_away_keeps_what_was_there() {
    let (mut done, mut refused) = (0, 0);
    for at in 0.. {
        let (memory, store) = new_store();
        names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
        let hook = Hook::new(&memory);
        let volume = open(&store_on(Arc::clone(&hook) as Arc<_>), "v");
        let mut content = Content::zeroes(SIZE);
        write(&volume, &mut content, 0, 3 * BLOCK, 1);
        volume.snapshot(&snap("s")).unwrap();
        let old = content.clone();
        write(&volume, &mut content, 0, 3 * BLOCK, 2);
        volume.settle_all().unwrap();
        write(&volume, &mut content, 512, 512, 3);
        let (other, id) = (store.clone(), volume.id);
        hook.arm(at, move || {
            snapshots::remove(&other, id, &snap("s")).unwrap();
            gc(&other);
        });
        match volume.rollback(&snap("s")) {
            Ok(()) => {
                content = old;
                done += 1;
            }
            Err(error) => {
                assert!(error.is(ErrorKind::NotFound) || error.is(ErrorKind::Corrupt), "{}", error.full());
                refused += 1;
            }
        }
        if !hook.fired() {
            break;
        }
        let what = format!("snapshot removed at call {at} of a rollback");
        content.assert_is(&volume, &what);
        write(&volume, &mut content, 4 * BLOCK, 4096, 5);
        volume.settle_all().unwrap();
        volume.close().unwrap();
        gc(&store);
        let volume = open(&store, "v");
        content.assert_is(&volume, &format!("{what}, opened again"));
        assert_sound(&store, &what);
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}
