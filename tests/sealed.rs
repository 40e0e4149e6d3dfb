//! What can go wrong: a store's sealed blocks are carried to another place, and for a
//! moment, or after a kill or a loss of power, a block is in neither; or one is carried
//! that is still written to; or the other place is away, and what is there is taken for
//! missing, or for garbage.
//!
//! How this proves that it cannot: the other place forgets what was not synced, and the
//! first one asserts with each block that is deleted there that it is not such a one. gc
//! dies at each of its calls, and all is read by who comes next, with and without a loss
//! of power. At each of its calls others read everything, on the data path too. Then the
//! place is taken away or exchanged, and all that needs it says so. (`tests/model.rs`
//! plays its histories with gc between; `tests/sweep` fails each call that carries.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::{Backend, BackendExt, Capabilities};
use archipelago::catalog::{snapshot as snapshots, volume as names};
use archipelago::config;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::{check, scrub, usage};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::{open as stores, Apart, Store};
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

#[path = "sealed/disk.rs"]
mod disk;
#[path = "sealed/lab.rs"]
mod lab;
#[path = "sealed/parts.rs"]
mod parts;

use disk::Disk;
use lab::{name, open, snap, Lab, BLOCK, SIZE};

fn gc(store: &Store) -> archipelago::Result<gc::Report> {
    gc::run(store, &GcOptions { wait: |_| {}, ..GcOptions::default() }, &mut |_| {})
}

fn blocks(memory: &Memory) -> Vec<ObjectName> {
    memory.list_all(prefix::BLOCKS).unwrap()
}

#[test]
fn what_snapshots_have_is_carried_and_the_rest_stays() {
    let lab = Lab::new();
    let store = lab.open();
    let before = blocks(&lab.own).len();
    let dry = |store: &Store| {
        let options = GcOptions { dry_run: true, ..GcOptions::default() };
        gc::run(store, &options, &mut |_| {}).unwrap().carried.unwrap()
    };
    // Epochs that were claimed lately are let alone.
    assert_eq!(gc(&store).unwrap().carried, Some(Default::default()));
    let would = dry(&store);
    let report = gc(&store).unwrap();
    let carried = report.carried.unwrap();
    assert_eq!((carried.blocks, carried.left), (would.blocks, 0));
    // 7 of s, 3 of t: two layers and a block; 2 and a layer of v, and one of c, are theirs.
    assert_eq!((blocks(&lab.sealed).len(), blocks(&lab.own).len()), (10, before - 10));
    assert_eq!(carried.blocks.objects, 10);
    assert!(report.to_string().contains("10 sealed blocks ("), "{report}");
    lab.assert_content(&store, "by who carried");
    lab.assert_content(&lab.open(), "by others");
    lab.assert_sound("carried");
    assert_eq!(gc(&store).unwrap().carried, Some(Default::default()), "there is nothing left to do");
    assert_eq!(store.blocks().list_all(prefix::BLOCKS).unwrap().len(), before);
    let used = usage::run(&store, &mut |_| {}).unwrap();
    assert!(used.items.iter().any(|item| item.snapshot.is_some()), "{used:?}");
    for _ in 0..2 {
        let scrubbed = scrub::run(&store, &scrub::ScrubOptions::default(), &mut |_| {}).unwrap();
        assert!(scrubbed.is_sound(), "{scrubbed}");
    }
    // Machines go on, and what they write is their own.
    let volume = open(&store, "v");
    volume.write_at(BLOCK, &[11; 512]).unwrap();
    volume.rollback(&snap("s")).unwrap();
    volume.write_at(5 * BLOCK, &[12; 4096]).unwrap();
    volume.settle_all().unwrap();
    volume.abandon();
    // The next holder takes a new epoch, and only its head has those of this one.
    open(&store, "v").close().unwrap();
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(blocks(&lab.sealed).len(), 10);
    for text in ["c", "v"] {
        names::remove(&store, &name(text), true).unwrap();
    }
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!((blocks(&lab.own), blocks(&lab.sealed)), (vec![], vec![]), "garbage goes from both");
}

/// A cut that is not published yet is settled into blocks of its epoch.
#[test]
fn what_is_written_to_is_not_carried() {
    let lab = Lab::new();
    let store = lab.open();
    let volume = open(&store, "c");
    volume.write_at(0, &vec![1; 2 * BLOCK as usize]).unwrap();
    volume.write_at(0, &[2; 4096]).unwrap();
    volume.flush().unwrap();
    volume.snapshot(&snap("pending")).unwrap();
    let epochs = |memory: &Memory| {
        let of = |name: ObjectName| match name {
            ObjectName::Block { epoch, .. } => epoch,
            other => panic!("{other}"),
        };
        blocks(memory).into_iter().map(of).collect::<std::collections::BTreeSet<_>>()
    };
    volume.write_at(BLOCK, &[3; 4096]).unwrap();
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(epochs(&lab.sealed).len(), 2, "those of s and t");
    volume.publish_all().unwrap();
    volume.close().unwrap();
    let mut data = vec![0; SIZE];
    let pending = Volume::open_snapshot(&store, &name("c"), &snap("pending")).unwrap();
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(epochs(&lab.sealed).len(), 3, "and those of the new one");
    pending.read_at(0, &mut data).unwrap();
    assert_eq!((data[0], data[4096], data[BLOCK as usize]), (2, 1, 1));
}

/// The snapshot is there, and the head behind it is not: who comes next settles for it
/// again, into the same blocks.
#[test]
fn what_is_published_by_halves_is_not_carried() {
    let lab = Lab::new();
    let (own, sealed) = lab.plain();
    let faulty = Faulty::new(own);
    let store = Lab::open_on((Arc::new(faulty.clone()), sealed));
    let volume = open(&store, "c");
    volume.write_at(0, &vec![1; BLOCK as usize]).unwrap();
    volume.write_at(4096, &[2; 512]).unwrap();
    volume.snapshot(&snap("half")).unwrap();
    let denied = Rule::new(Fault::Fail(ErrorKind::Denied)).on(Method::Create).named("head/");
    faulty.inject(denied.times(u64::MAX));
    assert!(volume.publish_all().is_err());
    volume.abandon();
    faulty.clear();
    assert_eq!(snapshots::list_all(&store).unwrap().len(), 3);
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(blocks(&lab.sealed).len(), 10);
    let volume = open(&store, "c");
    volume.publish_all().unwrap();
    volume.close().unwrap();
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(blocks(&lab.sealed).len(), 12, "that one, and the one that c had before");
    let half = Volume::open_snapshot(&store, &name("c"), &snap("half")).unwrap();
    let mut data = vec![0; BLOCK as usize];
    half.read_at(0, &mut data).unwrap();
    assert_eq!((data[0], data[4096], data[8192]), (1, 2, 1));
    lab.assert_sound("published");
}

/// Every way in which a call ends a gc.
#[test]
fn whoever_dies_while_it_carries_loses_nothing() {
    let (mut runs, mut carried) = (0, 0);
    let lab = Lab::new();
    gc(&lab.open()).unwrap();
    for fault in [Fault::Fail(ErrorKind::Unavailable), Fault::FailAfterApplying, Fault::ApplyLate] {
        for number in 0.. {
            let what = format!("{fault:?} at call {number}");
            let lab = lab.fork();
            let (own, sealed) = Disk::both(&lab.own, &lab.sealed);
            let faulty = Faulty::new(Arc::new(own));
            let beside = faulty.beside(Arc::new(sealed.clone()));
            let store = Lab::open_on((Arc::new(faulty.clone()), Arc::new(beside)));
            faulty.fail_nth(number, fault.clone());
            faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).after(number).times(u64::MAX));
            let died = gc(&store).is_err();
            drop(store);
            // The host lives on, or loses power.
            let survivors = [lab.fork(), Lab { sealed: sealed.after_power_loss(), ..lab.fork() }];
            for (lab, how) in survivors.iter().zip(["its process", "power"]) {
                let what = format!("{what}, {how}");
                lab.assert_content(&lab.open(), &what);
                lab.assert_sound(&what);
                // By the same disks: what was left there is not durable yet.
                let (own, sealed) = match how {
                    "power" => Disk::both(&lab.own, &lab.sealed),
                    _ => Disk::both_again(&lab.own, &lab.sealed, &sealed),
                };
                let again = Lab::open_on((Arc::new(own), Arc::new(sealed.clone())));
                let report = gc(&again).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
                assert_eq!(report.carried.unwrap().left, 0, "{what}");
                assert_eq!(blocks(&lab.sealed).len(), 10, "{what}");
                let both = blocks(&lab.own).iter().any(|block| blocks(&lab.sealed).contains(block));
                assert!(!both, "{what}: some are in both places");
                let lost = Lab { sealed: sealed.after_power_loss(), ..lab.fork() };
                lost.assert_content(&lost.open(), &format!("{what}, then power"));
            }
            runs += 1;
            if !died {
                carried += 1;
                break;
            }
        }
    }
    println!("{runs} runs, {carried} of them whole");
    assert_eq!(carried, 3);
}

/// At each call of gc another process reads everything, one that knows where blocks
/// were and one that does not.
#[test]
fn readers_find_everything_at_every_moment() {
    let lab = Lab::new();
    let knows = lab.open();
    let (_, sealed) = lab.plain();
    let faulty = Faulty::new(Arc::new(lab.own.clone()));
    let store = Lab::open_on((Arc::new(faulty.clone()), Arc::new(faulty.beside(sealed))));
    let (others, calls) = (lab.clone(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&calls);
    faulty.inject(Rule::new(Fault::Twice).times(0).when(move |method, _| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let what = format!("before call {number}, {method:?}");
        others.assert_content(&knows, &what);
        others.assert_content(&others.open(), &what);
        let all = others.open().blocks().list_all(prefix::BLOCKS).unwrap();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]) && all.len() >= 13, "{what}: {all:?}");
        false
    }));
    (0..3).for_each(|_| drop(gc(&store).unwrap()));
    assert_eq!(blocks(&lab.sealed).len(), 10);
    assert!(calls.load(Ordering::Relaxed) > 100);
}

/// The other way round: at each call of a reader, gc carries all that there is.
#[test]
fn a_reader_finds_what_is_carried_while_it_asks() {
    let aged = Lab::new();
    gc(&aged.open()).unwrap();
    let all = blocks(&aged.own);
    let carried = Arc::new(AtomicU64::new(0));
    for number in 0..12 {
        for (index, block) in all.iter().enumerate() {
            let lab = aged.fork();
            let (own, sealed) = lab.plain();
            let faulty = Faulty::new(own);
            let store = Lab::open_on((Arc::new(faulty.clone()), Arc::new(faulty.beside(sealed))));
            let (other, calls) = (lab.open(), AtomicU64::new(0));
            let counted = Arc::clone(&carried);
            faulty.inject(Rule::new(Fault::Twice).times(0).when(move |_, _| {
                if calls.fetch_add(1, Ordering::Relaxed) == number {
                    counted.fetch_add(gc(&other).unwrap().carried.unwrap().blocks.objects, Ordering::Relaxed);
                }
                false
            }));
            let blocks = store.blocks();
            let what = format!("block {index}, gc before call {number}");
            for _ in 0..3 {
                match index == 0 {
                    true => assert_eq!(blocks.list_all(prefix::BLOCKS).unwrap(), all, "{what}"),
                    false => drop(blocks.read_all(block, BLOCK).unwrap_or_else(|_| panic!("{what}"))),
                }
            }
            // It knows where it was: somebody has brought it back.
            if let Ok(content) = lab.sealed.read_all(block, BLOCK) {
                lab.own.create(block, &content).unwrap();
                lab.sealed.delete(block).unwrap();
                assert_eq!(blocks.read_all(block, BLOCK).unwrap(), content, "{what}");
            }
        }
    }
    assert!(carried.load(Ordering::Relaxed) > 100);
}

/// Reads all of `v` with several requests in flight.
fn read_device(device: &Device, content: &[u8], what: &str) {
    let asked: Vec<_> = (0..SIZE / 16384)
        .map(|at| {
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let buf = IoBuf::alloc(16384);
            let done = Box::new(move |result| sender.send(result).unwrap());
            let operation = Operation::Read { buf: buf.clone() };
            device.submit(Request { offset_bytes: at as u64 * 16384, operation }, done);
            (at * 16384, buf, receiver)
        })
        .collect();
    for (at, buf, receiver) in asked {
        receiver.recv_timeout(std::time::Duration::from_secs(60)).unwrap().unwrap();
        let mut data = vec![0; 16384];
        buf.copy_to(0, &mut data);
        assert!(data == content[at..at + 16384], "{what}: wrong bytes at {at}");
    }
}

/// In directories, with values of their own for each as for processes.
#[test]
fn a_machine_reads_on_its_data_path_while_others_carry() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |text: &str| folder.path().join(text);
    for text in ["own", "sealed"] {
        drop(Dir::create(&path(text), DirOptions::default()).unwrap());
    }
    let opened = |text: &str| Dir::open(&path(text), DirOptions::default()).unwrap();
    let place = |text: &str| Arc::new(opened(text)) as Arc<dyn Backend>;
    let apart = Apart { log: None, sealed: Some(place("sealed")) };
    let mut lab = Lab { own: Memory::new(), sealed: Memory::new(), content: Default::default() };
    lab.fill(&Store::init_apart("test", place("own"), apart, BLOCK).unwrap());
    let store = Lab::open_on((place("own"), place("sealed")));
    let options = DeviceOptions {
        volume: name("v"),
        snapshot: None,
        open: OpenOptions::default(),
        active: Mode::Writable,
        no_flush: false,
    };
    let device = Device::open(store, options).unwrap();
    let ends = AtomicBool::new(false);
    let mut carried = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !ends.load(Ordering::Relaxed) {
                read_device(&device, &lab.content[0], &format!("round {rounds}"));
                rounds += 1;
            }
            rounds
        });
        for _ in 0..3 {
            let other = Lab::open_on((place("own"), place("sealed")));
            carried += gc(&other).unwrap().carried.unwrap().blocks.objects;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        ends.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    // Those of the volume that is open are its own.
    assert_eq!(carried, 10);
    read_device(&device, &lab.content[0], "afterwards");
    device.close().unwrap();
}

/// The first read finds where a block is; from then on that is where it is asked for.
#[test]
fn where_a_block_was_found_is_where_it_is_asked_for() {
    let lab = Lab::new();
    (0..2).for_each(|_| drop(gc(&lab.open()).unwrap()));
    let (own, sealed) = (
        Faulty::with_data_path(Arc::new(lab.own.clone())),
        Faulty::with_data_path(Arc::new(lab.sealed.clone())),
    );
    let store = Lab::open_on((Arc::new(own.clone()), Arc::new(sealed.clone())));
    let options = DeviceOptions {
        volume: name("v"),
        snapshot: Some(snap("s")),
        open: OpenOptions::read_only(),
        active: Mode::ReadOnly,
        no_flush: false,
    };
    let device = Device::open(store.clone(), options).unwrap();
    read_device(&device, &lab.content[1], "for the first time");
    let mut reads = Vec::new();
    for _ in 0..2 {
        own.reset_counts();
        sealed.reset_counts();
        read_device(&device, &lab.content[1], "again");
        reads = vec![own.calls(Method::Read), sealed.calls(Method::Read)];
    }
    assert!(reads[0] == 0 && reads[1] > 0, "{reads:?}");
    // It is wrong when somebody has brought one back; nothing else is.
    for block in blocks(&lab.sealed) {
        lab.own.create(&block, &lab.sealed.read_all(&block, BLOCK).unwrap()).unwrap();
        lab.sealed.delete(&block).unwrap();
    }
    read_device(&device, &lab.content[1], "after they came back");
    device.close().unwrap();
}

/// Damage is not carried to where it would be compared with nothing.
#[test]
fn what_does_not_match_is_left_where_it_is_read() {
    let lab = Lab::new();
    let store = lab.open();
    gc(&store).unwrap();
    scrub::run(&store, &scrub::ScrubOptions::default(), &mut |_| {}).unwrap();
    let all = blocks(&lab.own);
    let sealed: Vec<ObjectName> = {
        let lab = lab.fork();
        gc(&lab.open()).unwrap();
        blocks(&lab.sealed)
    };
    assert_eq!(sealed.len(), 10);
    // One has rotted; of another there is something else over there already, of a
    // third it is too short, and a fourth has been there before.
    let mut rotten = lab.own.read_all(&sealed[0], BLOCK).unwrap();
    let good = rotten.clone();
    let at = rotten.iter().position(|byte| *byte != 0).unwrap();
    rotten[at] ^= 1;
    lab.own.delete(&sealed[0]).unwrap();
    lab.own.create(&sealed[0], &rotten).unwrap();
    lab.sealed.create(&sealed[1], &vec![0xEE; BLOCK as usize]).unwrap();
    lab.sealed.create(&sealed[2], b"short").unwrap();
    lab.sealed.create(&sealed[3], &lab.own.read_all(&sealed[3], BLOCK).unwrap()).unwrap();
    let carried = gc(&store).unwrap().carried.unwrap();
    assert_eq!((carried.blocks.objects, carried.left), (7, 3));
    assert_eq!(blocks(&lab.own).len(), all.len() - 7);
    assert!(sealed[..3].iter().all(|block| blocks(&lab.own).contains(block)));
    // By hand: then it goes on.
    lab.own.delete(&sealed[0]).unwrap();
    lab.own.create(&sealed[0], &good).unwrap();
    lab.assert_content(&lab.open(), "what is here is read here");
    sealed[1..3].iter().for_each(|block| lab.sealed.delete(block).unwrap());
    let report = gc(&store).unwrap();
    assert_eq!(report.carried.map(|carried| (carried.blocks.objects, carried.left)), Some((3, 0)));
    lab.assert_content(&lab.open(), "mended");
}

#[test]
fn a_full_place_is_told_and_the_garbage_is_gone() {
    let lab = Lab::new();
    let (own, sealed) = lab.plain();
    let faulty = Faulty::new(sealed);
    let store = Lab::open_on((own, Arc::new(faulty.clone())));
    gc(&store).unwrap();
    names::remove(&store, &name("c"), true).unwrap();
    let before = blocks(&lab.own).len();
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(Method::Create).after(4).times(u64::MAX));
    (0..2).for_each(|_| {
        let error = gc(&store).unwrap_err();
        assert!(error.is(ErrorKind::NoSpace) && error.full().contains("cannot carry"), "{}", error.full());
    });
    assert_eq!(blocks(&lab.own).len(), before - 1, "the garbage is gone, and nothing else");
    faulty.clear();
    assert_eq!(gc(&store).unwrap().carried.unwrap().blocks.objects, 10);
}

fn assert_told<T: std::fmt::Debug>(result: archipelago::Result<T>) {
    let error = result.unwrap_err();
    let words = error.full();
    assert!(error.is(ErrorKind::Unavailable), "{words}");
    assert!(words.contains("the sealed blocks of store 'test'"), "{words}");
}

/// With the wrong place, with none, and with one that is not there.
#[test]
fn without_its_place_it_is_away_and_never_missing() {
    let (lab, other) = (Lab::new(), Lab::new());
    (0..2).for_each(|_| drop(gc(&lab.open()).unwrap()));
    let before = [lab.own.list_all(prefix::ALL).unwrap(), lab.sealed.list_all(prefix::ALL).unwrap()];
    let own = || Arc::new(lab.own.clone()) as Arc<dyn Backend>;
    let gone = Error::sentence(ErrorKind::NotFound, "no such folder");
    let wrong: [Arc<dyn Backend>; 2] = [Arc::new(other.sealed.clone()), Arc::new(Memory::new())];
    let apart = |sealed| Apart { log: None, sealed: Some(sealed) };
    let [another, empty] = wrong.map(Ok);
    for store in [
        Store::open("test", own()),
        Store::open_apart("test", own(), apart(another)),
        Store::open_apart("test", own(), apart(empty)),
        Store::open_apart("test", own(), apart(Err(gone))),
    ] {
        let store = store.unwrap();
        for mode in [Mode::Writable, Mode::ReadOnly, Mode::Inactive] {
            let options = OpenOptions { mode, ..OpenOptions::default() };
            assert_told(Volume::open(&store, &name("v"), &options));
        }
        assert_told(Volume::open_snapshot(&store, &name("v"), &snap("s")));
        assert_told(gc(&store));
        assert_told(gc::run(&store, &GcOptions { dry_run: true, ..GcOptions::default() }, &mut |_| {}));
        assert_told(check::run(&store, &check::CheckOptions::default(), &mut |_| {}));
        assert_told(usage::run(&store, &mut |_| {}));
        assert_told(scrub::run(&store, &scrub::ScrubOptions::default(), &mut |_| {}));
        let mut data = [0; 512];
        for block in blocks(&lab.sealed) {
            assert_told(store.blocks().stat(&block));
            assert_told(store.blocks().read_at(&block, 0, &mut data));
            assert_told(store.blocks().delete(&block));
        }
        assert_eq!(names::list(&store).unwrap().len(), 2);
    }
    // One that goes away while it is used.
    let (_, sealed) = lab.plain();
    let faulty = Faulty::new(sealed);
    let store = Lab::open_on((own(), Arc::new(faulty.clone())));
    let volume = Volume::open_snapshot(&store, &name("v"), &snap("s")).unwrap();
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).times(u64::MAX));
    assert!(volume.read_at(0, &mut [0; 512]).unwrap_err().is(ErrorKind::Unavailable));
    faulty.clear();
    volume.read_at(0, &mut [0; 512]).unwrap();
    let after = [lab.own.list_all(prefix::ALL).unwrap(), lab.sealed.list_all(prefix::ALL).unwrap()];
    assert_eq!(after, before);
    lab.assert_content(&lab.open(), "when it is back");
}

#[test]
fn a_place_of_sealed_blocks_is_nothing_else() {
    let lab = Lab::new();
    let memory = || Arc::new(Memory::new()) as Arc<dyn Backend>;
    let error = Store::open("nas", Arc::new(lab.sealed.clone())).unwrap_err();
    let words = error.to_string();
    let is_said = words.contains("'nas' holds the sealed blocks of another");
    assert!(error.is(ErrorKind::Invalid) && is_said, "{words}");
    let front = memory();
    let taken = Apart { log: Some(memory()), sealed: Some(Arc::new(lab.sealed.clone()) as Arc<dyn Backend>) };
    let error = Store::init_apart("b", Arc::clone(&front), taken, BLOCK).unwrap_err();
    assert!(error.is(ErrorKind::Exists) && error.to_string().contains("a place of its own"), "{error}");
    assert_eq!(front.list_all(prefix::ALL).unwrap(), [], "nothing was begun");
    drop(Store::init("whole", Arc::clone(&front), BLOCK).unwrap());
    let error =
        Store::open_apart("whole", front, Apart { log: None, sealed: Some(Ok(memory())) }).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("leave 'sealed' out"), "{error}");
    // Where a machine that was given up may write still.
    let less = Arc::new(Memory::with(Capabilities { fences: false, ..CAPABILITIES }));
    let apart = || Apart { log: None, sealed: Some(memory()) };
    let error = Store::init_apart("nfs", Arc::clone(&less) as Arc<dyn Backend>, apart(), BLOCK).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("that was given up"), "{error}");
    assert_eq!(less.list_all(prefix::ALL).unwrap(), [], "nothing was begun");
    let once = Capabilities { fences: false, overwrite_in_place: false, ..CAPABILITIES };
    let apart = Apart { log: Some(memory()), ..apart() };
    let store = Store::init_apart("s3", Arc::new(Memory::with(once)), apart, BLOCK).unwrap();
    names::create(&store, &name("v"), SIZE as u64, BLOCK).unwrap();
}

fn configured(folder: &Path, text: &str) -> config::Config {
    let path = folder.join("archipelago.toml");
    std::fs::write(&path, text).unwrap();
    config::load(Some(&path)).unwrap()
}

#[test]
fn the_configuration_says_where_sealed_blocks_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        "[stores.main]\nurl = 'dir:{}'\nlog = 'fast'\nsealed = 'slow'\n[stores.fast]\nurl = 'dir:{}'\n\
         [stores.slow]\nurl = 'dir:{}'\n",
        at("blocks"),
        at("log"),
        at("sealed")
    );
    let config = configured(folder.path(), &text);
    let mut lab = Lab { own: Memory::new(), sealed: Memory::new(), content: Default::default() };
    lab.fill(&stores::init_store(&config, None, Some(BLOCK)).unwrap());
    let opened = || stores::open_configured(&config, None, false, false).unwrap();
    (0..2).for_each(|_| drop(gc(&opened()).unwrap()));
    let slow = Dir::open(Path::new(&at("sealed")), DirOptions::default()).unwrap();
    assert_eq!(slow.list_all(prefix::BLOCKS).unwrap().len(), 10);
    lab.assert_content(&opened(), "configured");
    let error = stores::open_configured(&config, Some("slow"), false, false).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("holds the sealed"), "{error}");
    // It is not mounted today.
    std::fs::rename(at("sealed"), at("elsewhere")).unwrap();
    let store = stores::open_configured(&config, None, true, false).unwrap();
    let error = Volume::open(&store, &name("v"), &OpenOptions::default()).unwrap_err();
    let words = error.full();
    assert!(words.contains("'main' cannot be used") && words.contains("'slow' (dir:"), "{words}");
    for (text, words) in [
        (text.replace("sealed = 'slow'", "sealed = 'main'"), "is the store itself"),
        (text.replace("sealed = 'slow'", "sealed = 'none'"), "'none' is not configured"),
        (text.replace("sealed = 'slow'", "sealed = 'fast'"), "need a place each"),
        (format!("{text}log = 'main'\n"), "has its own log elsewhere"),
        (format!("{text}sealed = 'main'\n"), "has its own sealed blocks elsewhere"),
    ] {
        let error =
            stores::open_configured(&configured(folder.path(), &text), None, false, false).unwrap_err();
        assert!(error.is(ErrorKind::Invalid) && error.to_string().contains(words), "{error}");
    }
}
