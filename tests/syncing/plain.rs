//! Volumes that nobody holds, and nothing that fails.

use archipelago::backend::BackendExt;
use archipelago::catalog::lease::{self, LeaseState};
use archipelago::catalog::{clone, snapshot, standby, volume as names};
use archipelago::error::ErrorKind;
use archipelago::maintain::sync::{self, is_of_a_sync, ByHand};
use archipelago::name::prefix;
use archipelago::store::Store;
use archipelago::volume::{find_snapshot, OpenOptions, Volume};

use super::bed::{
    assert_both_sound, assert_sound, collect, make, name, room, round, side, side_in_a_directory, snap,
    snapshots_of, state_of, sync, syncer, take, with, write, Side, BLOCK,
};

fn clone_of(store: &Store, volume: &str, which: &str, new: &str) {
    let id = names::lookup(store, &name(volume)).unwrap();
    let source = find_snapshot(store, &name(volume), id, &snap(which)).unwrap();
    clone::clone(store, &source, &name(new), None).unwrap();
}

/// An origin, snapshots, a clone that comes before it in lists, and layers.
fn fill(store: &Store) {
    make(store, "v", 64);
    write(store, "v", &(0..48).collect::<Vec<_>>(), BLOCK, 1);
    take(store, "v", "one");
    write(store, "v", &(0..32).collect::<Vec<_>>(), 4096, 2);
    take(store, "v", "two");
    clone_of(store, "v", "one", "clone");
    write(store, "clone", &[3, 50], 4096, 3);
    take(store, "clone", "own");
    write(store, "v", &[60, 61], 512, 4);
    write(store, "clone", &[60], 512, 5);
}

fn assert_same(here: &Store, there: &Store) {
    for volume in ["v", "clone"] {
        assert_eq!(state_of(here, volume), state_of(there, volume), "{volume}");
        assert!(snapshots_of(here, volume) == snapshots_of(there, volume), "snapshots of {volume}");
        let ids = [here, there].map(|store| names::lookup(store, &name(volume)).unwrap());
        assert_eq!(ids[0], ids[1]);
    }
}

fn copies(here: &Side, there: &Side, is_sparse: bool) {
    let (here, there) = (&here.quiet, &there.quiet);
    fill(here);
    let report = sync(here, there);
    assert_same(here, there);
    assert_eq!(report.followed.len(), 2);
    let blocks = there.blocks().list_all(prefix::BLOCKS).unwrap().len() as u64;
    assert_eq!(report.copied.blocks, blocks, "what is shared is copied once: {report:?}");
    collect(here);
    collect(there);
    assert_same(here, there);
    let (taken, takes) = (room(here), room(there));
    // In memory a whole object is kept as it was given.
    assert!(!is_sparse || takes <= taken + taken / 20, "{taken} bytes here are {takes} bytes there");
    assert_both_sound([here, there], "after a sync");
    // Nothing is left in the source but one snapshot for each volume.
    for volume in ["v", "clone"] {
        let id = names::lookup(here, &name(volume)).unwrap();
        sync(here, there);
        let own = snapshot::list(here, id).unwrap().iter().filter(|one| is_of_a_sync(&one.name)).count();
        assert_eq!(own, 1);
    }
}

#[test]
fn every_snapshot_is_there_and_shares_what_it_shares_here() {
    copies(&side("here", true), &side("there", true), false);
    copies(&side("here", false), &side("there", false), false);
}

#[test]
fn what_is_sparse_in_a_directory_is_sparse_in_the_other() {
    copies(&side_in_a_directory("here"), &side_in_a_directory("there"), true);
}

/// What changes in the source changes there, and nothing else does.
#[test]
fn changes_are_carried_and_what_others_have_there_is_left() {
    let (here, there) = (side("here", true), side("there", true));
    let (here, there) = (&here.quiet, &there.quiet);
    fill(here);
    make(there, "theirs", 8);
    write(there, "theirs", &[1, 2], BLOCK, 9);
    take(there, "theirs", "kept");
    sync(here, there);
    clone_of(there, "v", "one", "trial");
    write(there, "trial", &[0], 4096, 8);
    let trial = state_of(there, "trial");
    // A snapshot goes, one is taken again under its name, one is new.
    with(here, "v", |v| v.remove_snapshot(&snap("one"))).unwrap();
    with(here, "v", |v| v.remove_snapshot(&snap("two"))).unwrap();
    write(here, "v", &[7, 8, 63], BLOCK, 6);
    take(here, "v", "two");
    with(here, "v", |v| v.resize(80 * BLOCK, false)).unwrap();
    names::rename(here, &name("clone"), &name("other")).unwrap();
    let report = sync(here, there);
    assert!(report.copied.blocks > 0 && report.copied.blocks < 12, "{report:?}");
    assert_eq!(snapshots_of(there, "v").into_keys().collect::<Vec<_>>(), ["two"]);
    assert!(snapshots_of(here, "v") == snapshots_of(there, "v"));
    assert_eq!(state_of(here, "v"), state_of(there, "v"));
    assert_eq!(state_of(here, "other"), state_of(there, "other"));
    assert!(names::lookup(there, &name("clone")).unwrap_err().is(ErrorKind::NotFound));
    collect(there);
    assert_eq!(state_of(there, "trial"), trial);
    assert_eq!(snapshots_of(there, "theirs").len(), 1);
    assert_sound(there, "after changes");
    // A volume that the source has no more stays, and is told of.
    names::remove(here, &name("v"), true).unwrap();
    assert_eq!(sync(here, there).left, [name("v")]);
    assert_eq!(snapshots_of(there, "v").len(), 1);
}

#[test]
fn a_standby_is_not_written_until_it_is_promoted_and_not_followed_then() {
    let (here, there) = (side("here", true), side("there", true));
    let (here, there) = (&here.quiet, &there.quiet);
    fill(here);
    sync(here, there);
    let id = names::lookup(there, &name("v")).unwrap();
    assert!(matches!(lease::show(there, id).unwrap(), LeaseState::Standby(of) if of.store == here.id));
    for options in [OpenOptions::default(), OpenOptions::read_only()] {
        let error = Volume::open(there, &name("v"), &options).unwrap_err();
        let text = error.to_string();
        assert!(error.is(ErrorKind::Denied) && text.contains("archipelago promote v"), "{text}");
    }
    sync::promote(there, &name("v"), id, &OpenOptions::default()).unwrap();
    let again = sync::promote(there, &name("v"), id, &OpenOptions::default()).unwrap_err();
    assert!(again.is(ErrorKind::Invalid), "{again}");
    assert_eq!(state_of(here, "v"), state_of(there, "v"));
    assert_eq!(snapshots_of(there, "v").len(), 2);
    write(there, "v", &[5], BLOCK, 77);
    take(there, "v", "since");
    let (state, listed) = (state_of(there, "v"), snapshots_of(there, "v"));
    write(here, "v", &[5], BLOCK, 78);
    let report = round(here, there).unwrap();
    assert_eq!(report.failed.len(), 1);
    let (volume, error) = &report.failed[0];
    assert!(*volume == name("v") && error.is(ErrorKind::Exists), "{error}");
    assert_eq!(state_of(there, "v"), state);
    assert!(snapshots_of(there, "v") == listed);
    collect(there);
    assert_eq!(state_of(there, "v"), state);
    assert_both_sound([here, there], "after a promotion");
}

/// Back to where it was: the old one goes, the new one is followed and moves.
#[test]
fn what_was_promoted_comes_back() {
    let (here, there) = (side("here", true), side("there", true));
    let (here, there) = (&here.quiet, &there.quiet);
    fill(here);
    sync(here, there);
    let id = names::lookup(there, &name("v")).unwrap();
    sync::promote(there, &name("v"), id, &OpenOptions::default()).unwrap();
    write(there, "v", &[5], BLOCK, 77);
    let refused = round(there, here).unwrap().failed;
    assert!(refused.iter().any(|(volume, error)| *volume == name("v") && error.is(ErrorKind::Exists)));
    names::remove(here, &name("v"), true).unwrap();
    let report = round(there, here).unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(report.copied.blocks < 5, "what was here is not copied again: {report:?}");
    assert_eq!(report.passed_over, [name("clone")]);
    sync::promote(here, &name("v"), id, &OpenOptions::default()).unwrap();
    assert_eq!(state_of(here, "v"), state_of(there, "v"));
    assert!(snapshots_of(here, "v") == snapshots_of(there, "v"));
    collect(here);
    assert_both_sound([here, there], "after the way back");
}

/// A volume that moves to where its standby is becomes that, with what differs.
#[test]
fn a_volume_moves_onto_its_standby() {
    use archipelago::io::{Device, DeviceOptions};
    use archipelago::mover::{self, MoveOptions};
    use archipelago::volume::Mode;
    let (here, there) = (side("here", true), side("there", true));
    let (here, there) = (&here.quiet, &there.quiet);
    fill(here);
    sync(here, there);
    sync(here, there);
    write(here, "v", &[40], BLOCK, 9);
    let state = state_of(here, "v");
    let listed = snapshots_of(here, "v");
    let options = DeviceOptions {
        volume: name("v"),
        snapshot: None,
        open: OpenOptions::default(),
        active: Mode::Writable,
        no_flush: false,
    };
    let device = Device::open(here.clone(), options).unwrap();
    let report =
        mover::run(&device.follow().unwrap(), there, &MoveOptions::default(), &mut |_| Ok(())).unwrap();
    assert!(report.copied.blocks < 5, "{report:?}");
    device.close().unwrap();
    assert_eq!(standby::of(there, names::lookup(there, &name("v")).unwrap()).unwrap(), None);
    collect(there);
    assert_eq!(state_of(there, "v"), state);
    assert!(snapshots_of(there, "v") == listed);
    assert_sound(there, "after a move");
}

/// A round costs what has changed: not what there is.
#[test]
fn a_round_costs_what_has_changed() {
    let mut costs = Vec::new();
    for blocks in [64, 6000] {
        let (here, there) = (side("here", true), side("there", true));
        make(&here.quiet, "v", blocks);
        write(&here.quiet, "v", &(0..blocks).collect::<Vec<_>>(), BLOCK, 1);
        take(&here.quiet, "v", "old");
        let mut syncer = syncer(&here.store, &there.store);
        let mut hands = ByHand::default();
        let mut run = || {
            here.faulty.reset_counts();
            there.faulty.reset_counts();
            let report = syncer.round(&mut hands, &mut |_| Ok(())).unwrap();
            assert!(report.failed.is_empty(), "{report:?}");
            (report.copied.blocks, here.faulty.calls_total(), there.faulty.calls_total())
        };
        let all = run();
        assert_eq!(all.0, blocks);
        write(&here.quiet, "v", &[blocks / 2], BLOCK, 2);
        let one = run();
        assert_eq!(one.0, 1);
        let none = run();
        assert_eq!(none.0, 0);
        eprintln!("{blocks} blocks: {all:?}, one changed: {one:?}, none: {none:?}");
        assert!(none.1 + none.2 < 30, "{none:?} for nothing");
        costs.push((one.1, one.2));
    }
    let more = |at: fn(&(u64, u64)) -> u64| at(&costs[1]).saturating_sub(at(&costs[0]));
    assert!(more(|c| c.0) < 20 && more(|c| c.1) < 20, "a hundred times the blocks cost more: {costs:?}");
}
