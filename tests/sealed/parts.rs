//! What can go wrong: two places are one to the outside, and a call goes to the wrong
//! one, is lost between them, or is taken for done; a volume comes from another store,
//! and what is sealed here of it is copied again, or goes to where it is not looked for.

use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::sealed::Sealed;
use archipelago::backend::{Backend, BackendExt, Capabilities, Last};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{maintenance, volume as names};
use archipelago::io::{Device, DeviceOptions};
use archipelago::maintain::sync::{ByHand, SyncOptions, Syncer};
use archipelago::mover::{self, MoveOptions};
use archipelago::name::{prefix, Id, ObjectName};
use archipelago::readcache;
use archipelago::store::{Apart, Store};
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::{config, ErrorKind};

use super::lab::{name, open, snap, Lab, BLOCK, SIZE};
use super::{blocks, gc, read_device};

fn collect(store: &Store) {
    (0..3).for_each(|_| drop(gc(store).unwrap()));
}

/// Somebody may bring a sealed block back: a move does, after a gc.
#[test]
fn what_is_synced_is_synced_where_it_is() {
    let (own, there) = (Faulty::new(Arc::new(Memory::new())), Faulty::new(Arc::new(Memory::new())));
    let both = Sealed::beside(Arc::new(own.clone()), Arc::new(there.clone()));
    let block = |index| ObjectName::Block { epoch: Id(1), index };
    own.create(&block(0), &[1; 512]).unwrap();
    there.create(&block(1), &[2; 512]).unwrap();
    let names = [block(0), block(1)];
    names.iter().for_each(|name| drop(both.read_all(name, BLOCK).unwrap()));
    both.sync(&names).unwrap();
    both.sync_content(&names).unwrap();
    assert_eq!((own.calls(Method::Sync), there.calls(Method::Sync)), (2, 2));
    there.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Sync));
    assert!(both.sync(&names).unwrap_err().is(ErrorKind::Unavailable));
    for sync in [Sealed::sync, Sealed::sync_content] {
        both.read_all(&block(1), BLOCK).unwrap();
        own.create(&block(1), &[2; 512]).unwrap();
        there.delete(&block(1)).unwrap();
        // It is asked for here, and an error of that is told.
        own.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Sync));
        assert!(sync(&both, &names[1..]).unwrap_err().is(ErrorKind::Unavailable));
        sync(&both, &names[1..]).unwrap();
        there.create(&block(1), &[2; 512]).unwrap();
        own.delete(&block(1)).unwrap();
        both.read_all(&block(1), BLOCK).unwrap();
        there.delete(&block(1)).unwrap();
        assert!(sync(&both, &names[1..]).unwrap_err().is(ErrorKind::NotFound), "it is in neither");
        there.create(&block(1), &[2; 512]).unwrap();
    }
    own.delete(&block(0)).unwrap();
    assert!(both.sync(&names[..1]).unwrap_err().is(ErrorKind::NotFound), "what is missing is not synced");
}

/// What one place can promise, two that are asked one after the other may not.
#[test]
fn no_list_of_both_is_of_one_moment() {
    let all = Capabilities { lists_at_once: true, tells_room: true, ..CAPABILITIES };
    let less = Capabilities { tells_room: false, list_lag_s: 7, object_bytes_max: 1 << 20, ..all };
    let of = |own, there| {
        Sealed::beside(Arc::new(Memory::with(own)), Arc::new(Memory::with(there))).capabilities()
    };
    assert!(!of(all, all).lists_at_once);
    let of = of(all, less);
    assert_eq!((of.tells_room, of.list_lag_s, of.object_bytes_max), (false, 7, 1 << 20));
    let both = Sealed::beside(Arc::new(Memory::new()), Arc::new(Memory::new()));
    assert_eq!(both.last(prefix::BLOCKS).unwrap(), Last::Untold);
}

/// Who dies with a log that is not empty leaves blocks to be synced; those that were
/// carried are not among them.
#[test]
fn who_comes_after_a_kill_finds_what_was_carried_before_and_after_it() {
    let lab = Lab::new();
    let store = lab.open();
    collect(&store);
    let volume = open(&store, "v");
    volume.write_at(3 * BLOCK, &vec![21; BLOCK as usize]).unwrap();
    volume.write_at(0, &[22; 4096]).unwrap();
    volume.snapshot(&snap("u")).unwrap();
    volume.publish_all().unwrap();
    volume.write_at(3 * BLOCK + 4096, &[23; 4096]).unwrap();
    volume.write_at(11 * BLOCK, &vec![24; BLOCK as usize]).unwrap();
    volume.flush().unwrap();
    volume.abandon();
    drop(volume);
    let before = blocks(&lab.sealed).len();
    collect(&lab.open());
    assert!(blocks(&lab.sealed).len() > before, "what u has is carried while nobody holds the volume");
    let next = lab.open();
    let volume = open(&next, "v");
    let at = |volume: &Volume, offset_bytes: u64| {
        let mut data = [0; 512];
        volume.read_at(offset_bytes, &mut data).unwrap();
        data[0]
    };
    let all = [0, 3 * BLOCK, 3 * BLOCK + 4096, 11 * BLOCK].map(|offset| at(&volume, offset));
    assert_eq!(all, [22, 21, 23, 24]);
    let u = Volume::open_snapshot(&next, &name("v"), &snap("u")).unwrap();
    assert_eq!([0, 3 * BLOCK, 3 * BLOCK + 4096, 11 * BLOCK].map(|offset| at(&u, offset)), [22, 21, 21, 0]);
    volume.write_at(3 * BLOCK, &[25; 512]).unwrap();
    volume.settle_all().unwrap();
    volume.close().unwrap();
    collect(&next);
    let volume = open(&next, "v");
    assert_eq!([0, 3 * BLOCK, 11 * BLOCK].map(|offset| at(&volume, offset)), [22, 25, 24]);
    lab.assert_sound("after all");
}

/// Where the store has no locks, somebody else may have begun meanwhile.
#[test]
fn who_maintains_no_more_deletes_nothing() {
    let once = Capabilities { fences: false, overwrite_in_place: false, ..CAPABILITIES };
    let (own, log, sealed) = (Memory::with(once), Memory::new(), Memory::new());
    let place = |memory: &Memory| Arc::new(memory.clone()) as Arc<dyn Backend>;
    let apart = Apart { log: Some(place(&log)), sealed: Some(place(&sealed)) };
    let mut lab = Lab { own: own.clone(), sealed: sealed.clone(), content: Default::default() };
    lab.fill(&Store::init_apart("test", place(&own), apart, BLOCK).unwrap());
    let opened = |sealed: Arc<dyn Backend>| {
        let apart = Apart { log: Some(Ok(place(&log))), sealed: Some(Ok(sealed)) };
        Store::open_apart("test", place(&own), apart).unwrap()
    };
    let other = opened(place(&sealed));
    gc(&other).unwrap();
    let before = blocks(&own);
    let faulty = Faulty::new(place(&sealed));
    let begins = other.clone();
    faulty.inject(Rule::new(Fault::Twice).on(Method::Sync).times(0).when(move |_, _| {
        drop(maintenance::claim_next(&begins, &Identity::of_this_process()).unwrap());
        false
    }));
    let error = gc(&opened(Arc::new(faulty))).unwrap_err();
    assert!(error.is(ErrorKind::Fenced), "{}", error.full());
    let made = blocks(&sealed).len() as u64;
    assert!(made > 0 && blocks(&own) == before, "{made} are made, and none is deleted");
    assert!(gc(&other).unwrap().carried.unwrap().blocks.objects >= made);
    lab.assert_content(&other, "carried by the other");
}

/// On the data path too, where the cache asks for a block that is elsewhere.
#[test]
fn a_read_cache_is_filled_from_both_places() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lab = Lab::new();
    gc(&lab.open()).unwrap();
    for carries in [false, true, false] {
        let places = [&lab.own, &lab.sealed].map(|memory| Faulty::with_data_path(Arc::new(memory.clone())));
        let [own, there] = places.clone().map(|place| Arc::new(place) as Arc<dyn Backend>);
        let path = folder.path().join(if carries { "a" } else { "b" });
        let cache = readcache::Options { path, bytes_max: 64 << 20, group: None };
        let store = Lab::open_on((own, there)).with_read_cache(&cache).unwrap();
        let options = DeviceOptions {
            volume: name("v"),
            snapshot: Some(snap("t")),
            open: OpenOptions::read_only(),
            active: Mode::ReadOnly,
            no_flush: false,
        };
        let device = Device::open(store, options).unwrap();
        if carries {
            collect(&lab.open());
            assert_eq!(blocks(&lab.sealed).len(), 10);
        }
        for round in ["first", "second"] {
            read_device(&device, &lab.content[2], &format!("the {round} time, carries: {carries}"));
        }
        device.close().unwrap();
    }
}

#[test]
fn a_sync_into_such_a_store_copies_nothing_twice() {
    let (from, to) = (Lab::new(), Lab::new());
    let (here, there) = (from.open(), to.open());
    for text in ["v", "c"] {
        names::remove(&there, &name(text), true).unwrap();
    }
    collect(&here);
    collect(&there);
    let round = || {
        let mut syncer = Syncer::new(&here, &there, SyncOptions::default()).unwrap();
        syncer.round(&mut ByHand::default(), &mut |_| Ok(())).unwrap()
    };
    let first = round();
    assert!(first.copied.blocks >= 13, "{first:?}");
    let made = blocks(&to.own);
    collect(&there);
    assert_eq!((blocks(&to.own).len(), blocks(&to.sealed)), (0, made), "a standby is snapshots and no more");
    let volume = open(&here, "v");
    volume.write_at(7 * BLOCK, &vec![13; BLOCK as usize]).unwrap();
    volume.close().unwrap();
    let again = round();
    assert!(again.copied.blocks <= 2, "{again:?}");
    assert_eq!(blocks(&to.own).len() as u64, again.copied.blocks);
    // A standby that is lost is made again from what is there.
    collect(&there);
    names::remove(&there, &name("v"), true).unwrap();
    let anew = round();
    assert_eq!((anew.copied.blocks, blocks(&to.own).len()), (0, 0), "{anew:?}");
    assert!(anew.copied.blocks_there >= 10, "{anew:?}");
    for which in ["s", "t"] {
        let mut data = vec![0; SIZE];
        let volume = Volume::open_snapshot(&to.open(), &name("v"), &snap(which)).unwrap();
        volume.read_at(0, &mut data).unwrap();
        assert!(data == from.content[if which == "s" { 1 } else { 2 }], "{which}");
    }
    to.assert_sound("as a standby");
}

/// There, where they are carried, and back, where some are still and others are garbage.
#[test]
fn a_volume_moves_away_and_comes_back() {
    let (lab, other) = (Lab::new(), Lab::new());
    let (here, there) = (lab.open(), other.open());
    for text in ["v", "c"] {
        names::remove(&there, &name(text), true).unwrap();
    }
    collect(&here);
    collect(&there);
    names::remove(&here, &name("c"), true).unwrap();
    let options = || DeviceOptions {
        volume: name("v"),
        snapshot: None,
        open: OpenOptions::default(),
        active: Mode::Writable,
        no_flush: false,
    };
    for (from, to) in [(&here, &there), (&there, &here), (&here, &there), (&there, &here)] {
        let device = Device::open(from.clone(), options()).unwrap();
        let _ = mover::run(&device.follow().unwrap(), to, &MoveOptions::default(), &mut |_| Ok(())).unwrap();
        read_device(&device, &lab.content[0], "when it was moved");
        collect(to);
        read_device(&device, &lab.content[0], "when it was carried");
        device.close().unwrap();
        for (which, content) in [("s", &lab.content[1]), ("t", &lab.content[2])] {
            let mut data = vec![0; SIZE];
            let volume = Volume::open_snapshot(to, &name("v"), &snap(which)).unwrap();
            volume.read_at(0, &mut data).unwrap();
            assert!(data == **content, "{which}");
        }
        // The first one keeps what it has of it until the second time.
        if from.id == there.id {
            collect(from);
            assert_eq!(from.blocks().list_all(prefix::BLOCKS).unwrap(), [], "what is left is garbage");
        }
    }
    lab.assert_sound("here");
    other.assert_sound("there");
}

#[test]
fn a_store_that_cannot_be_made_claims_nothing() {
    let lab = Lab::new();
    let memory = || Arc::new(Memory::new()) as Arc<dyn Backend>;
    let (front, free) = (memory(), memory());
    let taken = || Arc::new(lab.sealed.clone()) as Arc<dyn Backend>;
    for apart in [
        Apart { log: Some(Arc::clone(&free)), sealed: Some(taken()) },
        Apart { log: Some(taken()), sealed: Some(Arc::clone(&free)) },
    ] {
        let error = Store::init_apart("b", Arc::clone(&front), apart, BLOCK).unwrap_err();
        assert!(error.is(ErrorKind::Exists) && error.to_string().contains("a place of its own"), "{error}");
        assert_eq!(front.list_all(prefix::ALL).unwrap(), []);
        assert_eq!(free.list_all(prefix::ALL).unwrap(), [], "it can be used for another try");
    }
}

/// Under two names it would be one: a copy, and then a deletion of the same file.
#[test]
fn one_place_under_two_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("archipelago.toml");
    let load = |log: &str, sealed: &str| {
        let at = |name: &str| format!("dir:{}", folder.path().join(name).display());
        let text = format!(
            "[stores.main]\nurl = '{}'\nlog = 'fast'\nsealed = 'slow'\n[stores.fast]\nurl = '{}'\n\
             [stores.slow]\nurl = '{}'\n",
            at("main"),
            at(log),
            at(sealed)
        );
        std::fs::write(&path, text).unwrap();
        config::load(Some(&path)).unwrap()
    };
    for (log, sealed) in [("fast", "main"), ("main", "slow"), ("fast", "fast")] {
        let error = archipelago::store::open::init_store(&load(log, sealed), None, None).unwrap_err();
        let words = error.to_string();
        assert!(error.is(ErrorKind::Invalid) && words.contains("need") && words.contains("place"), "{words}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was begun");
    drop(archipelago::store::open::init_store(&load("fast", "slow"), None, None).unwrap());
}
