//! Moves under load, with nothing going wrong.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::Backend;
use archipelago::catalog::lease::{self, LeaseState};
use archipelago::catalog::{clone, moved, snapshot, volume as names};
use archipelago::config;
use archipelago::error::ErrorKind;
use archipelago::io::{Device, Operation};
use archipelago::maintain::{check, gc};
use archipelago::mover::{MoveOptions, Phase, Progress};
use archipelago::store::open::stand_in;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{find_snapshot, OpenOptions, Volume};

use super::bed::{ask, make, move_to, name, open, options, place, snap, Content, Guest, Kind, BLOCK};

fn close(device: Arc<Device>) {
    Arc::try_unwrap(device).expect("nobody else has it").close().unwrap();
}

fn assert_sound(store: &Store) {
    let report = check::run(store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{}: {:?}", store.name, report.problems);
}

fn collect(store: &Store) -> gc::Report {
    gc::run(store, &gc::GcOptions { wait: |_| {}, ..gc::GcOptions::default() }, &mut |_| {}).unwrap()
}

/// All blocks, pages, heads, snapshots and segments of a store.
fn left(store: &Store) -> u64 {
    for _ in 0..4 {
        collect(store);
    }
    collect(store)
        .kinds
        .iter()
        .filter(|kind| kind.kind != archipelago::maintain::Kind::Leases)
        .map(|kind| kind.kept_objects)
        .sum()
}

fn moves_under_load(from: &Kind, to: &Kind) {
    let (here, there) = (place(from, "here"), place(to, "there"));
    let (here, there) = (&here.store, &there.store);
    let id = make(here, "v", 64 * BLOCK);
    let device = Arc::new(open(here, "v"));
    let guest = Guest::start(&device, 7);
    std::thread::sleep(Duration::from_millis(150));
    let old = guest.stop();
    device.snapshot(&snap("before")).unwrap();
    let guest = Guest::start(&device, 8);
    std::thread::sleep(Duration::from_millis(100));
    let report = move_to(&device, there).unwrap();
    assert_eq!(report.left_to_do, None);
    assert!(report.copied.blocks > 0, "{report:?}");
    std::thread::sleep(Duration::from_millis(100));
    let asked = guest.requests.load(Ordering::Relaxed);
    let longest_ms = guest.longest_us.load(Ordering::Relaxed) / 1000;
    eprintln!("{asked} requests, the longest took {longest_ms} ms; {report:?}");
    let mut content = old.clone();
    content.0.extend(guest.stop().0);
    assert_eq!(device.volume().store.id, there.id);
    content.verify(&device.volume(), "after the move");
    close(device);
    // Here there is only the way to it.
    assert!(matches!(lease::show(here, id).unwrap(), LeaseState::Moved(to) if to.store == there.id));
    for mode in [OpenOptions::default(), OpenOptions::read_only()] {
        let error = Volume::open(here, &name("v"), &mode).unwrap_err();
        assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("moved"), "{error}");
    }
    assert_eq!(left(here), 0, "what has moved is still here");
    for store in [here, there] {
        assert_sound(store);
    }
    left(there);
    let again = Volume::open(there, &name("v"), &OpenOptions::default()).unwrap();
    content.verify(&again, "opened again");
    assert_eq!(again.snapshots().unwrap().iter().map(|s| s.name.to_string()).collect::<Vec<_>>(), ["before"]);
    again.close().unwrap();
    let before = Volume::open_snapshot(there, &name("v"), &snap("before")).unwrap();
    old.verify(&before, "the snapshot");
}

#[test]
fn a_volume_moves_under_load_between_stores_in_memory() {
    moves_under_load(&Kind::Memory, &Kind::Memory);
}

#[test]
fn a_volume_moves_under_load_between_directories() {
    moves_under_load(&Kind::Dir, &Kind::Dir);
    moves_under_load(&Kind::Direct, &Kind::Direct);
}

#[test]
fn a_volume_moves_under_load_between_kinds() {
    moves_under_load(&Kind::Dir, &Kind::Memory);
    moves_under_load(&Kind::Memory, &Kind::Direct);
}

#[test]
fn a_volume_moves_under_load_to_where_nothing_is_overwritten_and_back() {
    moves_under_load(&Kind::Memory, &Kind::Once);
    moves_under_load(&Kind::Once, &Kind::Dir);
    moves_under_load(&Kind::Once, &Kind::Once);
}

/// There and back and there again: what was copied before, and every number
/// and name that was used before, is in the way of none.
#[test]
fn a_volume_goes_around_and_comes_back() {
    let places = [place(&Kind::Memory, "one"), place(&Kind::Dir, "two"), place(&Kind::Memory, "three")];
    make(&places[0].store, "v", 32 * BLOCK);
    let device = Arc::new(open(&places[0].store, "v"));
    let mut content = Content::default();
    let mut kept = Vec::new();
    for round in 1..8_usize {
        let guest = Guest::start(&device, round as u64);
        let to = &places[round % 3].store;
        let report = move_to(&device, to).unwrap();
        assert_eq!(report.left_to_do, None);
        content.0.extend(guest.stop().0);
        let called = snap(&format!("s{round}"));
        device.snapshot(&called).unwrap();
        kept.push((called, content.clone()));
        content.verify(&device.volume(), "on its way");
        assert_eq!(device.snapshots().unwrap().len(), round);
    }
    close(device);
    let last = &places[7 % 3].store;
    for (called, content) in kept {
        let volume = Volume::open_snapshot(last, &name("v"), &called).unwrap();
        content.verify(&volume, called.as_str());
    }
    for place in &places {
        let count = left(&place.store);
        assert_eq!(count == 0, place.store.id != last.id, "{}: {count} objects", place.store.name);
        assert_sound(&place.store);
    }
}

/// Snapshots that are taken and removed, and sizes that change, while it moves.
#[test]
fn what_happens_to_a_volume_while_it_moves_is_kept() {
    let (here, there) = (place(&Kind::Memory, "here"), place(&Kind::Memory, "there"));
    let (here, there) = (&here.store, &there.store);
    make(here, "v", 32 * BLOCK);
    let device = Arc::new(open(here, "v"));
    let guest = Guest::start(&device, 3);
    std::thread::sleep(Duration::from_millis(50));
    let mut content = guest.stop();
    device.snapshot(&snap("early")).unwrap();
    let mut steps = 0;
    let mut between = None;
    let following = device.follow().unwrap();
    assert!(device.follow().unwrap_err().is(ErrorKind::Busy));
    let mut told = |progress: Progress| {
        if progress.phase == Phase::Copying {
            // Something that has to be carried over.
            let zero = Operation::Zero { bytes: BLOCK, fua: false };
            ask(&device, 0, zero).unwrap();
            content.0.extend((0..BLOCK / 512).map(|at| (at * 512, 0)));
        }
        if progress.phase != Phase::Following {
            return Ok(());
        }
        steps += 1;
        if steps == 1 {
            let guest = Guest::start(&device, 4);
            std::thread::sleep(Duration::from_millis(50));
            content.0.extend(guest.stop().0);
            device.snapshot(&snap("between")).unwrap();
            between = Some(content.clone());
            device.remove_snapshot(&snap("early")).unwrap();
            assert!(device.rollback(&snap("between")).unwrap_err().is(ErrorKind::Busy));
            let grow = Operation::Resize { shrink: false };
            ask(&device, 40 * BLOCK, grow).unwrap();
            // What is written beyond the old end is carried over like all else.
            let data = IoBuf::copy_of(&77_u64.to_le_bytes().repeat(BLOCK as usize / 8));
            ask(&device, 39 * BLOCK, Operation::Write { buf: data, fua: false }).unwrap();
            content.0.extend((0..BLOCK / 512).map(|at| (39 * BLOCK + at * 512, 77)));
        }
        Ok(())
    };
    archipelago::mover::run(&following, there, &MoveOptions::default(), &mut told)
        .unwrap();
    drop(following);
    assert!(steps > 0, "nothing was carried over");
    assert_eq!(device.size_bytes(), 40 * BLOCK);
    content.verify(&device.volume(), "after the move");
    let listed = device.snapshots().unwrap();
    assert_eq!(listed.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["between"]);
    close(device);
    let between_there = Volume::open_snapshot(there, &name("v"), &snap("between")).unwrap();
    between.unwrap().verify(&between_there, "the snapshot");
}

/// A clone and its origin move one after the other: what they share is copied
/// once.
#[test]
fn clones_share_there_what_they_share_here() {
    let (here, there) = (place(&Kind::Memory, "here"), place(&Kind::Memory, "there"));
    let (here, there) = (&here.store, &there.store);
    let id = make(here, "v", 32 * BLOCK);
    let device = Arc::new(open(here, "v"));
    let content = Guest::start(&device, 5);
    std::thread::sleep(Duration::from_millis(150));
    let content = content.stop();
    device.snapshot(&snap("base")).unwrap();
    device.volume().publish_all().unwrap();
    let base = find_snapshot(here, &name("v"), id, &snap("base")).unwrap();
    clone::clone(here, &base, &name("c"), None).unwrap();
    let first = move_to(&device, there).unwrap();
    close(device);
    let clone = Arc::new(open(here, "c"));
    let second = move_to(&clone, there).unwrap();
    assert!(first.copied.blocks > 0);
    assert_eq!(second.copied.blocks, 0, "{second:?}");
    assert!(second.copied.blocks_there > 0);
    content.verify(&clone.volume(), "the clone");
    assert_eq!(left(here), 0);
    left(there);
    content.verify(&clone.volume(), "the clone, after gc");
    close(clone);
    content.verify(&open(there, "v").volume(), "its origin, after gc");
    assert_sound(there);
    assert_eq!(snapshot::list(there, id).unwrap().len(), 1);
}

/// The name in the old store leads on, if the configuration knows where to.
#[test]
fn the_old_name_leads_to_the_new_store() {
    let (here, there) = (place(&Kind::Memory, "here"), place(&Kind::Memory, "there"));
    for place in [&here, &there] {
        stand_in(&format!("leads-{}", place.store.name), Some(Arc::clone(place.store.control())));
    }
    let (here, there) = (&here.store, &there.store);
    let text = |names: &[&str]| {
        let store = |name: &&str| format!("[stores.{name}]\nurl = 'memory:leads-{name}'\n");
        let text: String = names.iter().map(store).collect();
        config::understand_text("test.toml".as_ref(), text.as_bytes()).unwrap()
    };
    make(here, "v", 4 * BLOCK);
    let id = make(here, "w", 4 * BLOCK);
    let device = open(here, "w");
    move_to(&device, there).unwrap();
    device.close().unwrap();
    let config = text(&["here", "there"]);
    let (store, found) = moved::locate(&config, Some("here"), &name("w"), false).unwrap();
    assert_eq!((store.id, found), (there.id, id));
    assert_eq!(moved::locate(&config, Some("here"), &name("v"), false).unwrap().0.id, here.id);
    let error = moved::locate(&text(&["here"]), Some("here"), &name("w"), false).unwrap_err();
    assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("[stores.there]"), "{error}");
    // Under another name in another configuration.
    let text = "[stores.here]\nurl = 'memory:leads-here'\n[stores.ceph]\nurl = 'memory:leads-there'\n";
    let config = config::understand_text("test.toml".as_ref(), text.as_bytes()).unwrap();
    assert_eq!(moved::locate(&config, Some("here"), &name("w"), false).unwrap().0.id, there.id);
    // The name can be changed, and removed, without any harm to the volume.
    names::rename(here, &name("w"), &name("w2")).unwrap();
    assert_eq!(moved::locate(&config, Some("here"), &name("w2"), false).unwrap().1, id);
    names::remove(here, &name("w2"), false).unwrap();
    assert!(names::lookup(here, &name("w2")).unwrap_err().is(ErrorKind::NotFound));
    open(there, "w").close().unwrap();
    assert_sound(here);
}

/// What cannot be is refused before anything is touched.
#[test]
fn a_move_that_cannot_be_is_refused() {
    let (here, there) = (place(&Kind::Memory, "here"), place(&Kind::Memory, "there"));
    let (here, there) = (&here.store, &there.store);
    make(here, "v", BLOCK);
    make(there, "v", BLOCK);
    let device = open(here, "v");
    let same = move_to(&device, here).unwrap_err();
    assert!(same.is(ErrorKind::Invalid) && same.to_string().contains("already"), "{same}");
    let taken = move_to(&device, there).unwrap_err();
    assert!(taken.is(ErrorKind::Exists) && taken.to_string().contains("rename"), "{taken}");
    assert!(device.snapshots().unwrap().is_empty());
    device.close().unwrap();
    let read_only = OpenOptions::read_only();
    let how = archipelago::io::DeviceOptions { open: read_only, ..options("v") };
    let reader = Device::open(here.clone(), how).unwrap();
    assert!(reader.follow().unwrap_err().is(ErrorKind::Denied));
}

/// Slow to make what is called so.
fn slow(inner: Arc<dyn Backend>, prefix: &str, method: Method) -> (Faulty, Store) {
    let faulty = Faulty::new(inner);
    let store = Store::init("here", Arc::new(faulty.clone()), BLOCK).unwrap();
    let late = Fault::Delay(Duration::from_millis(150));
    faulty.inject(Rule::new(late).on(method).named(prefix).times(u64::MAX));
    (faulty, store)
}

/// It takes a while until a snapshot that has been taken is published, and one
/// that is being taken takes a while too: neither is left behind.
#[test]
fn a_snapshot_that_is_pending_comes_along() {
    for (prefix, method) in [("snapshot/", Method::Create), ("log/", Method::Sync)] {
        let (_faulty, here) = slow(Arc::new(Memory::new()), prefix, method);
        let there = place(&Kind::Memory, "there");
        make(&here, "v", 32 * BLOCK);
        let device = Arc::new(open(&here, "v"));
        let zero = |offset_bytes: u64| {
            ask(&device, offset_bytes, Operation::Zero { bytes: BLOCK, fua: false }).unwrap();
        };
        zero(0);
        let following = device.follow().unwrap();
        let mut taker = None;
        let mut told = |progress: Progress| {
            match progress.phase {
                // Something that has to be carried over.
                Phase::Copying => zero(BLOCK),
                Phase::Following if taker.is_none() => {
                    let device = Arc::clone(&device);
                    taker = Some(std::thread::spawn(move || device.snapshot(&snap("late")).unwrap()));
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => {}
            }
            Ok(())
        };
        archipelago::mover::run(&following, &there.store, &MoveOptions::default(), &mut told).unwrap();
        drop(following);
        taker.expect("something was carried over").join().unwrap();
        let listed = device.snapshots().unwrap();
        assert_eq!(listed.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["late"], "{prefix}");
        close(device);
        Volume::open_snapshot(&there.store, &name("v"), &snap("late")).unwrap();
    }
}

/// A rollback notes nothing of what it changes: who follows begins before it,
/// and then there is none, or after it.
#[test]
fn nobody_follows_a_volume_that_is_rolled_back() {
    let (faulty, here) = slow(Arc::new(Memory::new()), "head/", Method::Create);
    let there = place(&Kind::Memory, "there");
    make(&here, "v", 32 * BLOCK);
    let device = Arc::new(open(&here, "v"));
    let write = |tag: u64| {
        let buf = IoBuf::copy_of(&tag.to_le_bytes().repeat(BLOCK as usize / 8));
        ask(&device, 0, Operation::Write { buf, fua: false }).unwrap();
    };
    write(1);
    device.snapshot(&snap("one")).unwrap();
    write(2);
    device.volume().publish_all().unwrap();
    faulty.clear();
    let took = Duration::from_secs(1);
    faulty.inject(Rule::new(Fault::Delay(took)).on(Method::Create).named("head/"));
    let before = faulty.struck();
    std::thread::scope(|scope| {
        let back = scope.spawn(|| {
            device.rollback(&snap("one")).unwrap();
            Instant::now()
        });
        while faulty.struck() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        let following = device.follow().unwrap();
        let followed = Instant::now();
        let early = back.join().unwrap().saturating_duration_since(followed);
        assert!(early < took / 2, "it was being rolled back for {early:?}");
        archipelago::mover::run(&following, &there.store, &MoveOptions::default(), &mut |_| Ok(())).unwrap();
    });
    let content = Content((0..BLOCK / 512).map(|at| (at * 512, 1)).collect());
    content.verify(&device.volume(), "after the move");
    close(device);
}
