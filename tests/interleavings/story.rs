//! Plays a story and looks at every store that a crash in it could leave.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use archipelago::clock::seeded;
use archipelago::fault::{self, Planted};

use super::act::{Act, Setup};
use super::explore::{Effort, Explorer, Left};
use super::observe::{observe, Depth};
use super::workloads::SMALL;
use super::world::{self, Outcome, World};

/// Ids on the first thread of a story come from here, and on the second.
const IDS: [u64; 2] = [1, 2];
/// How thoroughly each moment of a story is explored.
const EFFORT: Effort = Effort { subsets_max: 24, exhaustive_max: 4, second_every: 199 };

pub const BLOCK: u64 = SMALL.block_bytes;

/// What happens; the number says at which call of the store.
pub type Play<'a> = &'a dyn Fn(&mut World, u64) -> Outcome<()>;

/// Plays a story with what meets at each of these calls. Error: the first
/// violation, and when it was.
fn look(planted: Planted, calls: u64, setup: &Setup, play: Play<'_>) -> Outcome<u64> {
    let mut states = 0;
    for nth in 0..calls {
        fault::plant(planted);
        let looked = catch_unwind(AssertUnwindSafe(|| look_once(setup, &|world| play(world, nth))));
        fault::plant(Planted::None);
        seeded::seed(None);
        let looked = looked.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!("a panic: {}", text.unwrap_or_default()))
        });
        states += looked.map_err(|text| format!("meeting at call {nth}: {text}"))?;
    }
    Ok(states)
}

fn look_once(setup: &Setup, play: &dyn Fn(&mut World) -> Outcome<()>) -> Outcome<u64> {
    seeded::seed(Some(IDS[0]));
    let options = world::options(setup.log_limit_bytes);
    let mut world = World::new(setup, &options)?;
    let left = Left::of(world.disk.image());
    play(&mut world)?;
    let (events, image, values) = (world.disk.take_events(), world.disk.image(), world.values.clone());
    let model = world.model.lock().clone();
    drop(world);
    let mut explorer = Explorer::new(*setup, &options, values.clone(), 1, &|_| true, &|| ());
    explorer.explore(left, &events, 0, EFFORT, false)?;
    explorer.damage(&events, 0, &image)?;
    // The end once more and in full: `check` before and after, and gc.
    let depth = Depth { read_only: true, goes_on: true };
    let found = observe(&image, &explorer.made, &values, &options, depth);
    let found = found.map_err(|(kind, text)| format!("at the end: {kind:?}: {text}"))?;
    model.check(&found).map_err(|text| format!("at the end: {text}"))?;
    Ok(explorer.counts.total().0)
}

/// No crash at any moment of the story breaks a promise.
pub fn holds(calls: u64, play: Play<'_>) {
    match look(Planted::None, calls, &SMALL, play) {
        Ok(states) => assert!(states > 100, "only {states} states: the story does not happen"),
        Err(text) => panic!("{text}"),
    }
}

/// The story is about this rule: without the rule it ends badly.
pub fn needs(planted: Planted, calls: u64, play: Play<'_>) {
    let looked = look(planted, calls, &SMALL, play);
    assert!(looked.is_err(), "the story does not notice {planted:?}");
}

/// Acts, one after the other.
pub fn all(world: &mut World, acts: impl IntoIterator<Item = Act>) -> Outcome<()> {
    acts.into_iter().try_for_each(|act| world.act(&act))
}

/// Runs `other` on a second thread, stops it before its `nth` call of the
/// store (or, with `turns`, its `nth` sync or list), plays `acts`, and lets it
/// go on: also if the acts have to wait for it longer than `patience`.
pub fn meanwhile<T: Send + 'static>(
    world: &mut World,
    (nth, turns, patience): (u64, bool, Duration),
    other: impl FnOnce() -> T + Send + 'static,
    acts: impl FnOnce(&mut World) -> Outcome<()>,
) -> Outcome<T> {
    let (stopped, is_stopped) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let pause = Box::new(move || {
        let _nobody_waits = stopped.send(());
        let _done_or_late = is_done.recv_timeout(patience);
    });
    world.disk.visit(Some((nth, turns, pause)));
    let planted = Planted::ALL.iter().copied().find(|planted| fault::on(*planted));
    let second = thread::spawn(move || {
        fault::plant(planted.unwrap_or(Planted::None));
        seeded::seed(Some(IDS[1]));
        other()
    });
    while is_stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
        if second.is_finished() {
            break;
        }
    }
    world.disk.visit(None);
    let result = acts(world);
    drop(done);
    let other = second.join().map_err(|_| "a panic on the second thread".to_owned())?;
    result.map(|()| other)
}

/// The other way round: `other` runs on a second thread from the `nth` call
/// of `act` on; `act` goes on when it has ended, or has had to wait.
pub fn within<T: Send + 'static>(
    world: &mut World,
    (nth, patience): (u64, Duration),
    other: impl FnOnce() -> T + Send + 'static,
    act: &Act,
) -> Outcome<Option<T>> {
    let (ended, has_ended) = mpsc::channel();
    let (give, result) = mpsc::channel();
    let mut other = Some(other);
    let visitor = Box::new(move || {
        let Some(other) = other.take() else { return };
        let ended = ended.clone();
        let second = thread::spawn(move || {
            seeded::seed(Some(IDS[1]));
            let value = other();
            let _nobody_waits = ended.send(());
            value
        });
        let _ended_or_late = has_ended.recv_timeout(patience);
        drop(give.send(second));
    });
    world.disk.visit(Some((nth, false, visitor)));
    let acted = world.act(act);
    world.disk.visit(None);
    let second = result.try_recv().ok();
    let value = second.map(|second| second.join().map_err(|_| "a panic on the second thread".to_owned()));
    acted?;
    value.transpose()
}
