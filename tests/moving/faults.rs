//! Moves that are ended at each of their calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Rule};
use archipelago::backend::memory::{self, Memory};
use archipelago::backend::{Backend, Capabilities};
use archipelago::catalog::{lease, volume as names};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::io::{Device, Operation};
use archipelago::maintain::{check, gc};
use archipelago::mover::{self, MoveOptions, Phase, Report};
use archipelago::name::Id;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{OpenOptions, Volume};

use super::bed::{ask, make, name, options, snap, Content, BLOCK, SECTOR};

const BLOCKS: u64 = 6;

struct Side {
    faulty: Faulty,
    store: Store,
    /// The same, where nothing fails.
    quiet: Store,
}

fn side(called: &str, fences: bool) -> Side {
    let plain: Arc<dyn Backend> = Arc::new(Memory::with(Capabilities { fences, ..memory::CAPABILITIES }));
    let faulty = Faulty::new(Arc::clone(&plain));
    let quiet = Store::init(called, plain, BLOCK).unwrap();
    let store = Store::open(called, Arc::new(faulty.clone())).unwrap();
    Side { faulty, store, quiet }
}

struct World {
    sides: [Side; 2],
    id: Id,
    device: Option<Device>,
    /// What was flushed.
    content: Content,
    tag: u64,
}

impl World {
    /// A volume that has been in the other store before.
    fn returned() -> World {
        let world = World::new(true);
        for side in [1, 0] {
            let following = world.device().follow().unwrap();
            mover::run(&following, &world.sides[side].store, &MoveOptions::default(), &mut |_| Ok(()))
                .unwrap();
        }
        world.sides.iter().for_each(|side| side.faulty.reset_counts());
        world
    }

    fn new(fences: bool) -> World {
        let sides = [side("here", fences), side("there", fences)];
        let id = make(&sides[0].quiet, "v", BLOCKS * BLOCK);
        let device = Device::open(sides[0].store.clone(), options("v")).unwrap();
        let mut world = World { sides, id, device: Some(device), content: Content::default(), tag: 0 };
        world.write(&[0, 1, 3], BLOCK).unwrap();
        world.device().snapshot(&snap("s")).unwrap();
        world.write(&[1, 2], 4096).unwrap();
        world
    }

    fn device(&self) -> &Device {
        self.device.as_ref().unwrap()
    }

    /// Writes the first bytes of these blocks, and flushes.
    fn write(&mut self, blocks: &[u64], bytes: u64) -> Result<()> {
        self.tag += 1;
        let data: Vec<u8> = self.tag.to_le_bytes().iter().copied().cycle().take(bytes as usize).collect();
        for block in blocks {
            let at = block * BLOCK;
            // Until it is flushed it may be there or not.
            (at..at + bytes).step_by(SECTOR).for_each(|at| {
                self.content.0.remove(&at);
            });
            ask(self.device(), at, Operation::Write { buf: IoBuf::copy_of(&data), fua: false })?;
        }
        ask(self.device(), 0, Operation::Flush)?;
        for block in blocks {
            let at = block * BLOCK;
            (at..at + bytes).step_by(SECTOR).for_each(|at| {
                self.content.0.insert(at, self.tag);
            });
        }
        Ok(())
    }

    /// Moves, and writes at both stages.
    fn run(&mut self) -> Result<Report> {
        let following = self.device().follow()?;
        let to = self.sides[1].store.clone();
        let (mut copied, mut followed) = (false, false);
        mover::run(&following, &to, &MoveOptions::default(), &mut |progress| {
            // A failed write ends nothing but itself.
            if progress.phase == Phase::Copying && !std::mem::replace(&mut copied, true) {
                drop(self.write(&[0, 4], 8192));
            }
            if progress.phase == Phase::Following && !std::mem::replace(&mut followed, true) {
                drop(self.write(&[2, 4], 512));
            }
            Ok(())
        })
    }

    fn clear(&self) {
        self.sides.iter().for_each(|side| side.faulty.clear());
    }

    /// The one store that has the volume, and that the other has not.
    fn place(&self, what: &str) -> usize {
        let [here, there] = [&self.sides[0].quiet, &self.sides[1].quiet];
        let at = usize::from(lease::moved_to(here, self.id).unwrap().is_some());
        // The other one may have had it before, or get it.
        let stale = [there, here][at];
        if at == 1 || names::lookup(there, &name("v")).is_ok() {
            for mode in [OpenOptions::default(), OpenOptions::read_only()] {
                let error = Volume::open_id(stale, "v", self.id, &mode).expect_err(what);
                assert!(error.is(ErrorKind::NotFound), "{what}: {error}");
            }
        }
        at
    }
}

fn fail<T>(what: &str, error: &Error) -> T {
    panic!("{what}: {}", error.full())
}

/// It is opened where it is, has what was flushed, moves if it has not, and has
/// it then; also when all that nothing needs is collected.
fn recover(world: World, what: &str) {
    let World { sides, id, content, .. } = world;
    if lease::moved_to(&sides[0].quiet, id).unwrap().is_none() {
        let device =
            Device::open(sides[0].quiet.clone(), options("v")).unwrap_or_else(|error| fail(what, &error));
        content.verify(&device.volume(), what);
        let again = device.follow().and_then(|following| {
            mover::run(&following, &sides[1].quiet, &MoveOptions::default(), &mut |_| Ok(()))
        });
        again.unwrap_or_else(|error| fail(what, &error));
        content.verify(&device.volume(), what);
        device.close().unwrap_or_else(|error| fail(what, &error));
    }
    let there = &sides[1].quiet;
    lease::complete_arrival(there, id, "v").unwrap_or_else(|error| fail(what, &error));
    names::arrive(there, &name("v"), id).unwrap_or_else(|error| fail(what, &error));
    archipelago::catalog::moved::finish(&sides[0].quiet, id).unwrap_or_else(|error| fail(what, &error));
    for side in &sides {
        for _ in 0..4 {
            let options = gc::GcOptions { wait: |_| {}, ..gc::GcOptions::default() };
            gc::run(&side.quiet, &options, &mut |_| {}).unwrap_or_else(|error| fail(what, &error));
        }
        let report = check::run(&side.quiet, &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.problems.is_empty(), "{what}: {}: {:?}", side.quiet.name, report.problems);
    }
    let volume =
        Volume::open_id(there, "v", id, &OpenOptions::default()).unwrap_or_else(|error| fail(what, &error));
    content.verify(&volume, what);
    volume.close().unwrap();
    assert!(Volume::open_snapshot(there, &name("v"), &snap("s")).is_ok(), "{what}");
}

/// Ended by one failure, the volume serves on, or has stopped and is opened
/// again. False: there was no such call.
fn one_failure(mut world: World, side: usize, number: u64, fault: &Fault) -> bool {
    world.sides[side].faulty.fail_nth(number, fault.clone());
    let what = format!("{fault:?} at call {number} of store {side}");
    let result = world.run();
    let struck = world.sides[side].faulty.struck() > 0;
    world.clear();
    // A write may find out only now that the log has failed.
    let writes = world.write(&[1, 5], 1024);
    let is_alive = writes.is_ok() && world.device().volume().check_alive().is_ok();
    if is_alive {
        world.content.verify(&world.device().volume(), &what);
        let has_moved = lease::moved_to(&world.sides[0].quiet, world.id).unwrap().is_some();
        assert_eq!(result.is_ok(), has_moved, "{what}: {result:?}");
    }
    let device = world.device.take().unwrap();
    match is_alive {
        true => match (device.close(), fault) {
            // Of a log segment of unknown outcome nobody knows whose it is: the
            // volume stops at the next one, and is opened again.
            (Err(error), Fault::FailAfterApplying | Fault::ApplyLate) if error.is(ErrorKind::Fenced) => {}
            (closed, _) => closed.unwrap_or_else(|error| fail(&what, &error)),
        },
        false => device.into_volume().abandon(),
    }
    world.sides[side].faulty.settle_late();
    world.place(&what);
    recover(world, &what);
    struck
}

/// The process is killed: from one call on neither store hears of it.
fn killed(mut world: World, side: usize, number: u64) -> bool {
    let what = format!("killed at call {number} of store {side}");
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
    drop(world.run());
    let struck = world.sides[side].faulty.struck() > 0;
    world.device.take().unwrap().into_volume().abandon();
    world.clear();
    world.place(&what);
    recover(world, &what);
    struck
}

fn every_call(mut at: impl FnMut(u64) -> bool) -> u64 {
    let mut number = 0;
    while at(number) {
        number += 1;
    }
    assert!(number > 20, "a move makes more than {number} calls");
    number
}

const FAULTS: [Fault; 4] = [
    Fault::Fail(ErrorKind::Unavailable),
    Fault::Fail(ErrorKind::NoSpace),
    Fault::FailAfterApplying,
    Fault::ApplyLate,
];

#[test]
fn any_call_to_the_store_that_is_left_may_fail() {
    for fault in &FAULTS {
        let count = every_call(|number| one_failure(World::new(true), 0, number, fault));
        eprintln!("{fault:?}: {count} calls");
    }
}

#[test]
fn any_call_to_the_other_store_may_fail() {
    for fault in &FAULTS {
        let count = every_call(|number| one_failure(World::new(true), 1, number, fault));
        eprintln!("{fault:?}: {count} calls");
    }
}

#[test]
fn it_may_be_killed_at_any_call() {
    for side in 0..2 {
        every_call(|number| killed(World::new(true), side, number));
    }
}

/// A volume that has come back: its name is in the other store still, and what
/// is there while it moves again is not the volume.
#[test]
fn it_may_have_been_there_before() {
    for side in 0..2 {
        let fault = Fault::Fail(ErrorKind::Unavailable);
        every_call(|number| one_failure(World::returned(), side, number, &fault));
        every_call(|number| killed(World::returned(), side, number));
    }
}
