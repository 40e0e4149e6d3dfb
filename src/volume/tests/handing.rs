//! What can go wrong between one holder and the next, and for whoever waits
//! for one: a snapshot that was half published is taken for a whole one, or is
//! there twice; an epoch, a size or what was ever written is forgotten; a
//! holder that lost its lease goes on answering flushes; or what cannot be
//! read is waited for, for ever.
//!
//! How this proves that it cannot: a holder dies at the step in question, and
//! the next one is looked at from outside and from inside.

use std::time::{Duration, Instant};

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::CAPABILITIES;
use crate::backend::{Backend, BackendExt, Capabilities};
use crate::catalog::identity::Identity;
use crate::name::prefix;
use crate::catalog::{head, lease, maintenance};

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

struct Lab {
    memory: Memory,
    faulty: Faulty,
    store: Store,
    volume: Arc<Volume>,
    model: Vec<u8>,
}

/// Four blocks of ones, and a small write over them that is only logged.
fn lab_with(capabilities: Capabilities, options: &OpenOptions) -> Lab {
    let memory = Memory::with(capabilities);
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    names::create(&store, &name("v"), 4 * BLOCK, BLOCK).unwrap();
    let volume = Volume::open(&store, &name("v"), options).unwrap();
    let mut model = vec![1; 4 * BLOCK as usize];
    volume.write_at(0, &model).unwrap();
    volume.snapshot(&snap("first")).unwrap();
    volume.settle_all().unwrap();
    volume.write_at(512, &[2; 512]).unwrap();
    model[512..1024].fill(2);
    Lab { memory, faulty, store, volume, model }
}

fn lab() -> Lab {
    lab_with(CAPABILITIES, &options())
}

fn plain(lab: &Lab) -> Store {
    Store::open("test", Arc::new(lab.memory.clone()) as Arc<dyn Backend>).unwrap()
}

fn number_of(lab: &Lab, text: &str) -> u64 {
    snapshots::find(&lab.store, lab.volume.id, &snap(text)).unwrap().number
}

/// The snapshot is there, and its holder dies before a head is behind it: gc
/// may have what it names, so it is published anew under the next number.
#[test]
fn a_snapshot_that_was_half_published_is_published_again() {
    for by_reader in [false, true] {
        let lab = lab();
        lab.volume.snapshot(&snap("s")).unwrap();
        lab.faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Create).named("head/"));
        lab.volume.publish_all().unwrap_err();
        lab.volume.abandon();
        assert_eq!(number_of(&lab, "s"), snapshots::FIRST);
        if !by_reader {
            let volume = open(&lab.store, "v");
            let read = Rule::new(Fault::Fail(ErrorKind::Denied)).on(Method::Read).named("snapshot/");
            lab.faulty.inject(read);
            assert!(volume.publish_all().unwrap_err().is(ErrorKind::Denied));
            volume.publish_all().unwrap();
            volume.close().unwrap();
        }
        let opened = Volume::open_snapshot(&lab.store, &name("v"), &snap("s")).unwrap();
        assert_same(&opened, &lab.model, "the snapshot");
        assert_eq!(number_of(&lab, "s"), snapshots::FIRST + 1, "by a reader: {by_reader}");
        assert_same(&open(&lab.store, "v"), &lab.model, "the volume");
    }
}

/// A gc that begins while pages are written may not know them.
#[test]
fn a_snapshot_is_published_again_if_a_gc_began_meanwhile() {
    let lab = lab();
    lab.volume.snapshot(&snap("s")).unwrap();
    let store = plain(&lab);
    let begun = std::sync::atomic::AtomicBool::new(false);
    let begins = move |_: Method, _: &[&ObjectName]| {
        if !begun.swap(true, std::sync::atomic::Ordering::SeqCst) {
            drop(maintenance::claim_next(&store, &Identity::of_this_process()).unwrap());
        }
        false
    };
    let create = Rule::new(Fault::Twice).on(Method::Create).named("snapshot/");
    lab.faulty.inject(create.when(begins).times(u64::MAX));
    lab.volume.publish_all().unwrap();
    assert_eq!(number_of(&lab, "s"), snapshots::FIRST + 1);
    let opened = Volume::open_snapshot(&lab.store, &name("v"), &snap("s")).unwrap();
    assert_same(&opened, &lab.model, "the snapshot");
}

/// A cut that is published is behind the head: nobody finds it in the log
/// again, whether he took it or read it back.
#[test]
fn what_is_published_is_not_pending_for_the_next_holder() {
    for replayed in [false, true] {
        let mut lab = lab();
        lab.volume.snapshot(&snap("s")).unwrap();
        if replayed {
            lab.volume.abandon();
            lab.volume = open(&lab.store, "v");
            assert_eq!(lab.volume.snapshots().unwrap().iter().filter(|listed| listed.pending).count(), 1);
        }
        lab.volume.publish_all().unwrap();
        lab.volume.abandon();
        let volume = open(&lab.store, "v");
        assert!(volume.snapshots().unwrap().iter().all(|listed| !listed.pending), "replayed: {replayed}");
        assert_eq!(volume.state.lock().generations.len(), 1);
        assert_same(&volume, &lab.model, "the volume");
    }
}

/// Whoever looks for a snapshot that waits publishes it, or waits for who has
/// the volume; for one that does not exist nobody waits.
#[test]
fn who_looks_for_a_snapshot_gets_it_or_is_told_why_not() {
    let lab = lab();
    lab.volume.snapshot(&snap("s")).unwrap();
    let find = |text: &str| Volume::open_snapshot(&lab.store, &name("v"), &snap(text)).map(drop);
    assert!(find("nope").unwrap_err().is(ErrorKind::NotFound));
    let (began, holder) = (Instant::now(), Arc::clone(&lab.volume));
    let publishing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        holder.publish_all().unwrap();
    });
    find("s").unwrap();
    assert!(began.elapsed() >= Duration::from_millis(140));
    publishing.join().unwrap();
    lab.volume.snapshot(&snap("t")).unwrap();
    lab.volume.abandon();
    lab.faulty.inject(Rule::new(Fault::Fail(ErrorKind::Denied)).on(Method::Lock));
    let began = Instant::now();
    assert!(find("t").unwrap_err().is(ErrorKind::Denied));
    assert!(began.elapsed() < Duration::from_secs(10), "nobody is waited for");
    lab.faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Read).named("snapshot/"));
    assert!(find("first").unwrap_err().is(ErrorKind::Unavailable));
    find("t").unwrap();
    assert!(find("nope").unwrap_err().is(ErrorKind::NotFound));
}

/// No flush may be answered once somebody else may have the volume.
#[test]
fn a_holder_that_lost_its_lease_answers_no_flush() {
    let elsewhere = Identity { boot_id: "another boot".into(), ..Identity::of_this_process() };
    let lease_options =
        lease::Options { identity: elsewhere, renew_every: Duration::from_millis(5), ..Default::default() };
    let options = OpenOptions { lease: lease_options, ..options() };
    let lab = lab_with(Capabilities { fences: false, ..CAPABILITIES }, &options);
    lab.volume.flush().unwrap();
    lease::break_lease(&lab.store, lab.volume.id, "v", "me").unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while lab.volume.flush().is_ok() {
        assert!(Instant::now() < until, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(lab.volume.write_at(0, &[3; 512]).is_err(), "it has stopped");
}

/// One that was given up while it lived makes a segment of the log just before
/// the next one does.
#[test]
fn who_opens_a_volume_may_lose_a_number_to_who_was_given_up() {
    let elsewhere = Identity { boot_id: "another boot".into(), ..Identity::of_this_process() };
    let lease_options =
        lease::Options { identity: elsewhere, renew_every: Duration::from_secs(600), ..Default::default() };
    let old_options = OpenOptions { lease: lease_options, ..options() };
    let lab = lab_with(Capabilities { fences: false, ..CAPABILITIES }, &old_options);
    lab.volume.flush().unwrap();
    let plain = plain(&lab);
    let there = segments_of(&plain, lab.volume.id);
    // It makes the next one later than that.
    while !lab.volume.log.prepare().unwrap() {
        lab.volume.write_at(512, &[2; 512]).unwrap();
    }
    let next = segments_of(&plain, lab.volume.id).pop().unwrap();
    let content = plain.log().read_all(&next, 1 << 30).unwrap();
    plain.log().delete(&next).unwrap();
    assert_eq!(segments_of(&plain, lab.volume.id), there);
    lease::break_lease(&lab.store, lab.volume.id, "v", "me").unwrap();
    let (late, once) = (plain.clone(), std::sync::atomic::AtomicBool::new(true));
    let rule = Rule::new(Fault::Delay(Duration::ZERO)).on(Method::Create).named("log/").times(u64::MAX);
    lab.faulty.inject(rule.when(move |_, _| {
        if once.swap(false, std::sync::atomic::Ordering::SeqCst) {
            late.log().create(&next, &content).unwrap();
        }
        false
    }));
    let volume = open(&lab.store, "v");
    assert!(segments_of(&plain, lab.volume.id).len() > there.len() + 1, "nothing was in the way");
    assert_same(&volume, &lab.model, "opened in spite of it");
    volume.write_at(0, &[9; 512]).unwrap();
    volume.flush().unwrap();
    volume.close().unwrap();
}

fn segments_of(store: &Store, id: Id) -> Vec<ObjectName> {
    store.log().list_all(&prefix::segments_of(id)).unwrap()
}

#[test]
fn a_full_store_stops_no_snapshot_for_good() {
    let lab = lab();
    let full = |prefix: &str, method| {
        lab.faulty.inject(Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(method).named(prefix));
    };
    full("log/", Method::Write);
    assert!(lab.volume.snapshot(&snap("s")).unwrap_err().is(ErrorKind::NoSpace));
    lab.volume.snapshot(&snap("s")).unwrap();
    full("head/", Method::Create);
    let error = lab.volume.close().unwrap_err();
    assert!(error.is(ErrorKind::NoSpace), "what was to be kept is not in a head: {}", error.full());
    let volume = open(&lab.store, "v");
    assert_same(&volume, &lab.model, "opened again");
    volume.close().unwrap();
    assert_eq!(volume.snapshots().unwrap().len(), 2);
}

/// What a head says besides the map.
#[test]
fn a_head_knows_the_epoch_the_size_and_that_there_was_something() {
    let mut lab = lab();
    lab.volume.resize(6 * BLOCK, false).unwrap();
    assert!(!lab.volume.work(true).unwrap() || !lab.volume.work(true).unwrap());
    let head = head::latest(&lab.store, lab.volume.id).unwrap();
    assert_eq!((head.size_bytes, head.log.position), (6 * BLOCK, lab.volume.log.tail()));
    for _ in 0..2 {
        lab.volume.abandon();
        lab.volume = open(&lab.store, "v");
    }
    assert!(lab.volume.state.lock().live().epochs.len() > 1);
    lab.volume.settle_all().unwrap();
    let epochs: Vec<Id> = lab.volume.state.lock().live().epochs.iter().map(|(_, epoch)| *epoch).collect();
    assert_eq!(epochs, [head::latest(&lab.store, lab.volume.id).unwrap().epoch]);
    let store = store();
    names::create(&store, &name("v"), 4 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    assert!(volume.is_all_zero());
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.write_zeroes(0, 4 * BLOCK).unwrap();
    assert!(!head::latest(&store, volume.id).unwrap().written);
    volume.settle_all().unwrap();
    assert!(head::latest(&store, volume.id).unwrap().written);
    volume.close().unwrap();
    assert!(!open(&store, "v").is_all_zero(), "it was written to");
}

/// A last head that could not be committed is told, and costs nothing else.
#[test]
fn a_close_that_could_not_say_its_last_word_says_so() {
    for kind in [ErrorKind::Denied, ErrorKind::NoSpace] {
        let lab = lab();
        lab.faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Create).named("head/"));
        let error = lab.volume.close().unwrap_err();
        assert!(error.is(kind), "{}", error.full());
        assert_eq!(lab.faulty.struck(), 1);
        let volume = open(&plain(&lab), "v");
        assert_same(&volume, &lab.model, "closed without a head");
        volume.close().unwrap();
    }
}

/// A block in which nothing goes on takes no memory, and may be settled.
#[test]
fn nothing_is_going_on_when_all_is_answered() {
    let lab = lab();
    lab.volume.write_at(3 * BLOCK, &[4; BLOCK as usize]).unwrap();
    lab.volume.write_zeroes(BLOCK, 2 * BLOCK).unwrap();
    lab.volume.write_zeroes(4096, 512).unwrap();
    assert!(lab.volume.state.lock().busy.is_empty());
    while lab.volume.settle_batch(&mut |_| {}).unwrap() > 0 {}
    assert!(lab.volume.state.lock().busy.is_empty());
    assert_eq!(lab.volume.state.lock().in_place, 0);
}

/// A block that is named and not there is damage, and said at once.
#[test]
fn a_block_that_is_not_there_is_damage() {
    let lab = lab();
    for block in lab.memory.list("block/", None, 100).unwrap() {
        lab.memory.delete(&block).unwrap();
    }
    let error = lab.volume.read_at(2 * BLOCK, &mut [0; 512]).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("block/"), "{}", error.full());
    // One that is merged away while it is read is looked for anew.
    let lab = self::lab();
    lab.faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named("block/").times(3));
    lab.volume.read_at(2 * BLOCK, &mut [0; 512]).unwrap();
    assert_eq!(lab.faulty.struck(), 3);
}
