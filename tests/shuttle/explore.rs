//! Runs a story in many orders.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use archipelago::clock;
use archipelago::fault::{self, Planted};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler, UncontrolledNondeterminismCheckScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Orders of each story, unless told otherwise.
const SCHEDULES: usize = 300;
/// A story that takes more steps than this goes round in circles.
const STEPS_MAX: usize = 400_000;
/// Orders in which a planted fault has to be found.
const PLANTED_SCHEDULES: usize = 4_000;
/// Changes of priority that a schedule of PCT has.
const DEPTHS: [usize; 3] = [2, 3, 5];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::Print;
    // What is left of a story that failed must not go on.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

/// Plays a story in many orders: half of them at random, the others by PCT.
/// Prints how many there were; panics with the first that fails.
pub fn explore(name: &str, story: fn()) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let play = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        begin(story);
    };
    if let Ok(schedule) = std::env::var("ARCHIPELAGO_SCHEDULE") {
        return shuttle::replay(play, schedule.trim());
    }
    let seed = number("ARCHIPELAGO_SEED").unwrap_or(1);
    let count = number("ARCHIPELAGO_SCHEDULES").map_or(SCHEDULES, |count| count as usize);
    let began = Instant::now();
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        Runner::new(scheduler, config()).run(play.clone());
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, count / 2)));
    for depth in DEPTHS {
        run(Box::new(PctScheduler::new_from_seed(seed, depth, count / 6)));
    }
    let runs = runs.load(Ordering::Relaxed);
    println!("{name}: {runs} schedules in {:.1} s", began.elapsed().as_secs_f64());
}

/// Plants a fault and plays a story until it fails: in how many orders it
/// did, and how.
pub fn finds(planted: Planted, story: fn()) -> Option<(usize, String)> {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let play = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        begin(|| {});
        fault::plant(planted);
        story();
    };
    let mut quiet = config();
    quiet.failure_persistence = FailurePersistence::None;
    hush();
    let schedulers: [Box<dyn Scheduler + Send>; 2] = [
        Box::new(RandomScheduler::new_from_seed(1, PLANTED_SCHEDULES / 2)),
        Box::new(PctScheduler::new_from_seed(1, DEPTHS[1], PLANTED_SCHEDULES / 2)),
    ];
    for scheduler in schedulers {
        let (play, quiet) = (play.clone(), quiet.clone());
        // What is left of a story that failed ends with its thread.
        let run = move || {
            Runner::new(scheduler, quiet).run(play);
        };
        let thread = std::thread::Builder::new().name(HUSHED.to_owned()).spawn(run).unwrap();
        if let Err(panic) = thread.join() {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            let first = words.lines().next().unwrap_or_default().chars().take(100).collect();
            return Some((runs.load(Ordering::Relaxed), first));
        }
    }
    None
}

/// Name of a thread that is meant to fail.
const HUSHED: &str = "planted";

/// Has nothing said of what happens on such a thread.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() != Some(HUSHED) {
                before(info);
            }
        }));
    });
}

/// Nothing of a run depends on anything but its schedule.
fn begin(story: fn()) {
    clock::standing::begin();
    clock::seeded::seed(Some(1));
    fault::plant(Planted::None);
    story();
}

/// Plays each of a few orders twice and fails if they differ: then a failing
/// schedule could not be played again.
pub fn same_again(story: fn()) {
    let scheduler = UncontrolledNondeterminismCheckScheduler::new(RandomScheduler::new_from_seed(1, 20));
    Runner::new(scheduler, config()).run(move || begin(story));
}
