//! What is done while a call fails: together these histories come to every
//! place that calls a backend.

use archipelago::backend::faulty::{Fault, Method, Rule};
use archipelago::backend::BackendExt;
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, maintenance, snapshot, volume as names};
use archipelago::cli::parts;
use archipelago::maintain::{check, scrub, usage};
use archipelago::name::{prefix, Id, ObjectName};
use archipelago::store::{encoded, Store};
use archipelago::volume::{OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

use super::world::{name, options, snap, World, BLOCK};

pub struct Story {
    pub name: &'static str,
    pub list_lag_s: u32,
    pub data_path: bool,
    /// Blocks cannot be overwritten.
    pub once: bool,
    /// Sealed blocks have a place of their own.
    pub sealed: bool,
    /// Before anything fails.
    pub before: fn(&mut World),
    pub run: fn(&mut World),
    /// Some of what it does fails without any further fault.
    pub fails: bool,
    /// It removes what it made, and collects it.
    pub removes: bool,
}

const PLAIN: Story = Story {
    name: "",
    list_lag_s: 0,
    data_path: false,
    once: false,
    sealed: false,
    before: |_| {},
    run: |_| {},
    fails: false,
    removes: false,
};

pub fn all() -> Vec<Story> {
    vec![
        Story { name: "everything on a volume", run: everything, ..PLAIN },
        Story { name: "the same on a data path", run: everything, data_path: true, ..PLAIN },
        Story { name: "the same where listings lag", run: everything, list_lag_s: 1, ..PLAIN },
        Story { name: "blocks made once", run: everything, once: true, ..PLAIN },
        Story { name: "blocks of a dead holder", before: die_publishing, run: go_on, once: true, ..PLAIN },
        Story { name: "names and leases", run: catalog, removes: true, ..PLAIN },
        Story { name: "names where listings lag", run: catalog, list_lag_s: 1, removes: true, ..PLAIN },
        Story { name: "what a crash left", before: crash, run: recover, ..PLAIN },
        Story { name: "names without bytes", before: lose_bytes, run: publish_what_is_left, ..PLAIN },
        Story { name: "a removal to finish", before: interrupt_removal, run: clean_up, ..PLAIN },
        Story { name: "a damaged name", run: clean_up_damaged, fails: true, ..PLAIN },
        Story { name: "a hidden snapshot", before: publish, run: hide_snapshot, fails: true, ..PLAIN },
        Story { name: "damage", before: lose_block, run: look_at_damage, fails: true, ..PLAIN },
        Story { name: "a store is made", before: unmake, run: make_store, ..PLAIN },
        Story { name: "the log's store is full", before: fill_log, run: everything, fails: true, ..PLAIN },
        Story { name: "gc on a full store", before: make_garbage, run: clean_up_full, fails: true, ..PLAIN },
        Story { name: "a head of unknown outcome", before: lose_replies, run: everything, ..PLAIN },
        Story { name: "gc meanwhile", before: begin_gc, run: catalog, removes: true, fails: true, ..PLAIN },
        Story { name: "a number below others", before: overtake, run: clean_up, fails: true, ..PLAIN },
        Story { name: "an import taken back", run: take_back, ..PLAIN },
        Story { name: "a dead holder", before: let_holder_die, run: open_beside_a_reader, ..PLAIN },
        Story { name: "a scrub", before: make_shared, run: scrub_it, ..PLAIN },
        Story { name: "sealed blocks", before: seal, run: carry, sealed: true, removes: true, ..PLAIN },
        Story { name: "a scrub with a lag", before: make_shared, run: scrub_it, list_lag_s: 1, ..PLAIN },
    ]
}

/// In an order that makes each find something to do.
fn everything(world: &mut World) {
    world.write(0, 4);
    world.write(5, 1);
    world.flush();
    world.snapshot("a");
    world.write(1, 1);
    world.write(5, 2);
    world.flush();
    world.act(|world| world.volume.publish_all());
    world.write(8, 8);
    world.zero(12, 4);
    world.write(2, 1);
    world.read();
    world.act(|world| world.volume.block_status(0, 32 * 4096).map(drop));
    world.act(|world| world.volume.settle_all());
    world.write(2, 1);
    world.flush();
    world.clone_of("a", "c");
    world.snapshot("b");
    world.zero(0, 4);
    world.zero(6, 1);
    world.zero(9, 1);
    world.write(20, 3);
    world.read();
    world.gc();
    world.flush();
    world.rollback("a");
    world.write(3, 1);
    world.flush();
    world.zero(1, 1);
    world.act(|world| world.volume.work(true));
    world.act(|world| world.volume.settle_all());
    world.crash_and_open();
    world.write(7, 2);
    world.read();
    world.flush();
}

fn check(store: &Store) -> archipelago::Result<()> {
    check::run(store, &check::CheckOptions::default(), &mut |_| {}).map(drop)
}

fn catalog(world: &mut World) {
    world.write(0, 4);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.act(|world| names::create(&world.store, &name("x"), 4 * BLOCK, BLOCK));
    world.act(|world| names::rename(&world.store, &name("x"), &name("y")));
    world.act(|world| {
        let opened = Volume::open(&world.store, &name("y"), &options())?;
        let worked = opened.write_at(0, &[1; 4096]).and_then(|()| opened.snapshot(&snap("s")));
        opened.close().and(worked)
    });
    world.act(|world| Volume::open(&world.store, &name("y"), &OpenOptions::read_only()).map(drop));
    world.act(|world| Volume::open_snapshot(&world.store, &name("y"), &snap("s")).map(drop));
    world.act(|world| snapshot::list_all(&world.store));
    world.act(|world| {
        let opened = Volume::open(&world.store, &name("y"), &options())?;
        opened.abandon();
        lease::show(&world.store, opened.id)?;
        lease::break_lease(&world.store, opened.id, "y", "somebody")
    });
    // Another name, as an interrupted rename leaves it: only the name goes.
    world.act(|world| {
        let data = world.plain.read_all(&ObjectName::Volume(name("y")), 4096)?;
        names::rename(&world.store, &name("y"), &name("z"))?;
        world.plain.create(&ObjectName::Volume(name("y")), &data)
    });
    world.act(|world| names::remove(&world.store, &name("y"), true));
    world.clone_of("a", "c");
    world.act(|world| check(&world.store));
    world.act(|world| usage::run(&world.store, &mut |_| {}));
    world.act(|world| parts::take_census(&world.store));
    world.act(|world| names::list(&world.store));
    // As of a volume that comes from another store.
    world.act(|world| names::arrive(&world.store, &name("y"), names::lookup(&world.store, &name("z"))?));
    world.act(|world| names::remove(&world.store, &name("y"), true));
    world.act(|world| names::remove(&world.store, &name("z"), true));
    world.act(|world| Store::open("again", std::sync::Arc::new(world.faulty.clone())));
    world.gc();
    world.gc();
}

/// A log with a long first batch, one segment made ahead, blocks in place.
fn crash(world: &mut World) {
    world.write(0, 32);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.write(0, 3);
    world.write(9, 1);
    world.flush();
    world.act(|world| world.volume.prepare_log());
    world.write(13, 2);
}

/// A block is made for a snapshot, and its maker is not told.
fn die_publishing(world: &mut World) {
    world.write(0, 16);
    world.write(1, 1);
    world.write(6, 1);
    world.snapshot("a");
    world.flush();
    world.faulty.inject(Rule::new(Fault::FailAfterApplying).on(Method::Create).named("block/"));
    assert!(world.volume.publish_all().is_err());
    world.faulty.clear();
}

fn go_on(world: &mut World) {
    world.crash_and_open();
    world.read();
    world.act(|world| world.volume.settle_all());
    world.write(1, 1);
    world.write(20, 4);
    world.flush();
    world.act(|world| world.volume.settle_all());
    world.read();
}

fn recover(world: &mut World) {
    world.crash_and_open();
    world.read();
    world.write(4, 1);
    world.flush();
    world.act(|world| world.volume.settle_all());
    world.act(|world| world.volume.snapshots());
    world.crash_and_open();
    world.act(|world| world.volume.remove_snapshot(&snap("a")));
    world.snapshots.clear();
    world.gc();
}

/// A snapshot that waits, and of the blocks that were settled for it only the
/// names have come to the disk.
fn lose_bytes(world: &mut World) {
    world.write(0, 32);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.write(1, 1);
    world.write(9, 2);
    world.flush();
    world.snapshot("b");
    for epoch in world.plain.list_all(prefix::EPOCHS).unwrap() {
        let ObjectName::Epoch(epoch) = epoch else { continue };
        for index in 0..4 {
            let _there = world.plain.create(&ObjectName::Block { epoch, index }, b"");
        }
    }
}

fn publish_what_is_left(world: &mut World) {
    world.crash_and_open();
    world.act(|world| world.volume.publish_all());
    world.read();
    world.act(|world| world.volume.settle_all());
}

/// A volume without a name, and a name that cannot be read.
fn interrupt_removal(world: &mut World) {
    let id = names::create(&world.store, &name("x"), 4 * BLOCK, BLOCK).unwrap();
    let opened = Volume::open(&world.store, &name("x"), &options()).unwrap();
    opened.write_at(0, &[1; 4096]).unwrap();
    opened.close().unwrap();
    world.gc();
    world.gc();
    world.plain.delete(&ObjectName::Volume(name("x"))).unwrap();
    assert!(names::name_of(&world.store, &name("x"), id).is_err());
    // And what is left of another, whose heads are gone already.
    world.plain.create(&ObjectName::Segment { volume: Id(99), number: 1 }, &[0; 8192]).unwrap();
}

fn clean_up(world: &mut World) {
    world.write(0, 4);
    world.gc();
    world.gc();
    world.act(|world| check(&world.store));
}

/// A name that cannot be read: what has no name is not known then.
fn clean_up_damaged(world: &mut World) {
    let damaged = ObjectName::Volume(name("damaged"));
    world.plain.create(&damaged, b"no name").unwrap();
    clean_up(world);
    world.plain.delete(&damaged).unwrap();
    world.gc();
}

fn fill_log(world: &mut World) {
    let full = Rule::new(Fault::FailApplied(ErrorKind::NoSpace)).on(Method::Write).named("log/");
    world.faulty.inject(full.after(2));
}

fn make_garbage(world: &mut World) {
    crash(world);
    world.act(|world| world.volume.settle_all());
    // Leases that were followed by others, and log before the head's.
    let held = world.plain.list_all(prefix::LEASES).unwrap();
    let Some(ObjectName::Lease { volume, number }) = held.last().cloned() else { panic!("{held:?}") };
    let data = world.plain.read_all(&ObjectName::Lease { volume, number }, 65_536).unwrap();
    world.crash_and_open();
    drop(world.plain.create(&ObjectName::Lease { volume, number }, &data));
}

fn clean_up_full(world: &mut World) {
    let full = Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(Method::Create).named("maintenance/");
    world.faulty.inject(full);
    world.gc();
    world.gc();
}

fn lose_replies(world: &mut World) {
    for prefix in ["head/", "lease/", "maintenance/", "snapshot/"] {
        let lost = Rule::new(Fault::FailAfterApplying).on(Method::Create).named(prefix);
        world.faulty.inject(lost);
    }
}

fn next_generation(world: &World, by: u64) -> ObjectName {
    ObjectName::Maintenance(maintenance::generation(&world.store).unwrap() + by)
}

fn maintained(number: &ObjectName) -> Vec<u8> {
    let ObjectName::Maintenance(number) = number else { panic!("{number}") };
    maintenance::encoded(*number, &Identity::of_this_process(), 0, Id(7))
}

/// A collection begins when a volume's name is made, and again when its head
/// is.
fn begin_gc(world: &mut World) {
    for prefix in ["volume/", "head/"] {
        let by = if prefix == "head/" { 1 } else { 2 };
        let (memory, next) = (world.plain.clone(), next_generation(world, by));
        let begins = Rule::new(Fault::Twice).on(Method::Create).named(prefix).times(0);
        world.faulty.inject(begins.when(move |_, _| {
            drop(memory.create(&next, &maintained(&next)));
            false
        }));
    }
}

/// Somebody who slept makes a number that is below what there is by now.
fn overtake(world: &mut World) {
    let (memory, next) = (world.plain.clone(), next_generation(world, 5));
    let slept = Rule::new(Fault::Twice).on(Method::Create).named("maintenance/").times(0);
    world.faulty.inject(slept.when(move |_, _| {
        drop(memory.create(&next, &maintained(&next)));
        false
    }));
}

fn take_back(world: &mut World) {
    world.write(0, 4);
    world.act(|world| names::create(&world.store, &name("p"), 4 * BLOCK, BLOCK));
    world.act(|world| {
        let opened = Volume::open(&world.store, &name("p"), &options())?;
        let written = opened.write_at(0, &[1; 4096]).and_then(|()| opened.flush());
        opened.close().and(written)
    });
    world.act(|world| {
        let why = world.errors.last().map_or(ErrorKind::Unavailable, |error| error.kind());
        parts::take_back_import(&world.store, &name("p"), &Error::new(why, "import"))
    });
    world.act(|world| parts::take_census(&world.store));
    world.flush();
}

/// Two snapshots that share pages; one has lost its root with sums, as if its
/// scrub had been interrupted.
fn make_shared(world: &mut World) {
    world.write(0, 4);
    for name in ["a", "b"] {
        world.snapshot(name);
        world.volume.publish_all().unwrap();
    }
    world.write(0, 4);
    scrub::run(&world.quiet, &scrub_options(), &mut |_| {}).unwrap();
    let renewed = ObjectName::Snapshot { volume: world.volume.id, name: snap("b"), number: 2 };
    world.plain.delete(&renewed).unwrap();
}

/// Where nothing fails, nothing is wrong.
fn scrub_once(world: &World) -> archipelago::Result<()> {
    let report = scrub::run(&world.store, &scrub_options(), &mut |_| {})?;
    assert!(report.is_sound() || world.faulty.struck() > 0, "{report}");
    Ok(())
}

fn scrub_options() -> scrub::ScrubOptions {
    scrub::ScrubOptions { patience: std::time::Duration::ZERO, ..scrub::ScrubOptions::default() }
}

fn scrub_it(world: &mut World) {
    world.act(scrub_once);
    world.act(|world| snapshot::list_all(&world.store));
    world.write(9, 3);
    world.snapshot("c");
    world.act(|world| world.volume.publish_all());
    world.act(scrub_once);
    world.act(scrub_once);
    world.clone_of("b", "c");
    world.gc();
    world.act(|world| world.volume.remove_snapshot(&snap("a")));
    world.snapshots.retain(|(name, _)| name.as_str() != "a");
}

/// Of another volume; its lease is there.
fn let_holder_die(world: &mut World) {
    names::create(&world.store, &name("x"), 4 * BLOCK, BLOCK).unwrap();
    let mut dead = options();
    dead.lease.identity = Identity { pid: i32::MAX as u32, ..Identity::of_this_process() };
    Volume::open(&world.store, &name("x"), &dead).unwrap().abandon();
}

/// The lock is taken, and not by the dead.
fn open_beside_a_reader(world: &mut World) {
    world.act(|world| {
        let id = names::lookup(&world.store, &name("x"))?;
        let _reading = lease::take_shared(&world.store, id, "x")?;
        let mut impatient = options();
        impatient.lease.patience = std::time::Duration::from_millis(200);
        match Volume::open(&world.store, &name("x"), &impatient) {
            Err(error) if error.is(ErrorKind::Busy) => Ok(()),
            other => other.and_then(|opened| opened.close()),
        }
    });
}

/// A block of another volume is gone.
fn lose_block(world: &mut World) {
    names::create(&world.store, &name("x"), 4 * BLOCK, BLOCK).unwrap();
    let opened = Volume::open(&world.store, &name("x"), &options()).unwrap();
    opened.write_at(0, &[1; 4096]).unwrap();
    opened.close().unwrap();
    let blocks = world.plain.list_all(prefix::BLOCKS).unwrap();
    blocks.iter().for_each(|block| world.plain.delete(block).unwrap());
}

fn look_at_damage(world: &mut World) {
    world.act(|world| check(&world.store));
    names::remove(&world.quiet, &name("x"), false).unwrap();
}

fn unmake(world: &mut World) {
    world.plain.delete(&ObjectName::Store).unwrap();
}

fn make_store(world: &mut World) {
    let faulty = std::sync::Arc::new(world.faulty.clone());
    world.act(|_| Store::init("new", faulty.clone(), BLOCK));
    world.act(|_| Store::open("new", faulty));
    // Back to what the volume is in.
    world.plain.delete(&ObjectName::Store).unwrap_or_default();
    world.plain.create(&ObjectName::Store, &encoded(world.store.id, BLOCK)).unwrap();
    world.write(0, 4);
    world.flush();
}

fn publish(world: &mut World) {
    world.write(0, 4);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.write(0, 4);
}

/// It is listed, and not there when it is read.
fn hide_snapshot(world: &mut World) {
    let hidden = Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named("snapshot/");
    world.faulty.inject(hidden.times(u64::MAX));
    world.gc();
}

/// Of what is to be carried to its place, one block with a sum is there already.
fn seal(world: &mut World) {
    world.write(0, 12);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.write(1, 1);
    world.flush();
    world.snapshot("b");
    world.act(|world| world.volume.publish_all());
    world.write(4, 4);
    world.gc();
    scrub::run(&world.quiet, &scrub_options(), &mut |_| {}).unwrap();
    let blocks = world.plain.list_all(prefix::BLOCKS).unwrap();
    let block = blocks.iter().find(|block| {
        let fork = |name: &ObjectName| world.plain.read_all(name, BLOCK).unwrap();
        fork(block).iter().all(|byte| *byte == 1)
    });
    let block = block.unwrap();
    let content = world.plain.read_all(block, BLOCK).unwrap();
    world.sealed.as_ref().unwrap().create(block, &content).unwrap();
}

fn carry(world: &mut World) {
    world.gc();
    world.read();
    world.act(|world| Volume::open_snapshot(&world.store, &name("v"), &snap("a")).map(drop));
    world.write(8, 5);
    world.act(|world| world.volume.settle_all());
    world.clone_of("a", "c");
    world.gc();
    world.read();
    world.act(|world| world.volume.remove_snapshot(&snap("b")));
    world.snapshots.retain(|(name, _)| name.as_str() != "b");
    world.gc();
    world.act(|world| check(&world.store));
}
