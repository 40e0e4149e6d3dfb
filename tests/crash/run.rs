//! Runs workloads on all cores, explores each, and tells what was found.

use std::collections::{BTreeMap, HashSet};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::clock::seeded;
use archipelago::fault::{self, Planted};
use archipelago::volume::OpenOptions;
use parking_lot::Mutex;

use super::disk::Event;
use super::explore::{Effort, Explorer, Left};
use super::report::{heading, Counts};
use super::workloads::{self, Workload};
use super::world::{self, World};

const SHARDS: usize = 16;
/// Ids in a workload come from here, the same in each: what is alike in two
/// of them is counted once.
const IDS: u64 = 1;
/// A state takes a fraction of a millisecond.
const HANG_S: u64 = 30;

pub struct Plan {
    pub seed: u64,
    /// Ends when so many different states have been seen.
    pub states: u64,
    pub planted: Planted,
    pub threads: usize,
}

/// What a run came to.
pub struct Summary {
    pub workloads: u64,
    pub distinct: u64,
    pub states: u64,
    pub violation: Option<String>,
    pub table: String,
    pub seconds: f64,
}

struct Running {
    plan: Plan,
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    seen: [Mutex<HashSet<u64>>; SHARDS],
    distinct: AtomicU64,
    beats: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    violation: Mutex<Option<String>>,
    /// What each thread is at.
    under_way: Mutex<Vec<Workload>>,
}

impl Running {
    fn note_distinct(&self, digest: u64) -> bool {
        let is_new = self.seen[digest as usize % SHARDS].lock().insert(digest);
        if is_new && self.distinct.fetch_add(1, Ordering::Relaxed) + 1 >= self.plan.states {
            self.stop.store(true, Ordering::Relaxed);
        }
        is_new
    }

    fn work(&self) {
        fault::plant(self.plan.planted);
        let options = world::options(0);
        while !self.stop.load(Ordering::Relaxed) {
            let workload = workloads::nth(self.next.fetch_add(1, Ordering::Relaxed), self.plan.seed);
            self.under_way.lock().push(workload.clone());
            let (counts, result) = self.explore(&workload, &options);
            self.under_way.lock().retain(|other| other.seed != workload.seed);
            self.counts.lock().entry(workload.family).or_default().add(&counts);
            self.done.fetch_add(1, Ordering::Relaxed);
            if let Err(text) = result {
                self.stop.store(true, Ordering::Relaxed);
                let mut violation = self.violation.lock();
                if violation.is_none() {
                    *violation = Some(self.explain(&workload, &options, &text));
                }
            }
        }
        fault::plant(Planted::None);
    }

    fn explore(&self, workload: &Workload, options: &OpenOptions) -> (Counts, Result<(), String>) {
        let noted = |digest| self.note_distinct(digest);
        explore(workload, options, &noted, &|| self.beat())
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The violation with the shortest list of acts that still shows one.
    fn explain(&self, workload: &Workload, options: &OpenOptions, text: &str) -> String {
        let mut text = text.to_owned();
        let mut smallest = workload.clone();
        if self.plan.planted == Planted::None {
            let until = Instant::now() + Duration::from_secs(30);
            let mut at = 0;
            while at < smallest.acts.len() && Instant::now() < until {
                let mut smaller = smallest.clone();
                smaller.acts.remove(at);
                match explore(&smaller, options, &|_| false, &|| self.beat()).1 {
                    Err(other) => (smallest, text) = (smaller, other),
                    Ok(()) => at += 1,
                }
            }
        }
        let acts: Vec<String> = smallest.acts.iter().map(|act| format!("  {act:?}")).collect();
        format!(
            "workload {} (of SEED={}, its own seed {:#x}):\n{}\n{text}",
            workload.family,
            self.plan.seed,
            workload.seed,
            acts.join("\n")
        )
    }
}

/// Runs and explores one workload.
pub fn explore(
    workload: &Workload,
    options: &OpenOptions,
    note_distinct: &dyn Fn(u64) -> bool,
    beat: &dyn Fn(),
) -> (Counts, Result<(), String>) {
    let options = OpenOptions { log_limit_bytes: workload.setup.log_limit_bytes, ..options.clone() };
    let mut counts = Counts::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        beat();
        seeded::seed(Some(IDS));
        let mut world = World::new(&workload.setup, &options)?;
        let left = Left::of(world.disk.image());
        let mut outcome = Ok(());
        for act in &workload.acts {
            outcome = world.act(act);
            if outcome.is_err() {
                break;
            }
        }
        let (events, image, values) = (world.disk.take_events(), world.disk.image(), world.values.clone());
        drop(world);
        if let Err(text) = outcome {
            return Err(format!("{text}\n{}", ops_text(&events)));
        }
        let mut explorer =
            Explorer::new(workload.setup, &options, values, workload.seed, note_distinct, beat);
        let effort = Effort { subsets_max: 40, second_every: 97 };
        let result = explorer.explore(left, &events, effort, false);
        let result = result.and_then(|()| explorer.damage(&events, &image));
        counts = explorer.counts;
        result
    }));
    seeded::seed(None);
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    });
    (counts, result)
}

fn ops_text(events: &[Event]) -> String {
    let ops: Vec<String> = events
        .iter()
        .filter_map(|event| if let Event::Op(op) = event { Some(format!("  {}", op.text())) } else { None })
        .collect();
    ops[ops.len().saturating_sub(20)..].join("\n")
}

/// Explores until the plan's number of states is reached, or something is
/// wrong.
pub fn run(plan: Plan) -> Summary {
    let began = Instant::now();
    let threads = plan.threads;
    let running = Arc::new(Running {
        plan,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        seen: Default::default(),
        distinct: AtomicU64::new(0),
        beats: AtomicU64::new(0),
        counts: Mutex::default(),
        violation: Mutex::new(None),
        under_way: Mutex::default(),
    });
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let running = Arc::clone(&running);
            std::thread::spawn(move || running.work())
        })
        .collect();
    let mut last = (0, Instant::now());
    while workers.iter().any(|worker| !worker.is_finished()) {
        std::thread::sleep(Duration::from_millis(5));
        let beats = running.beats.load(Ordering::Relaxed);
        if beats != last.0 {
            last = (beats, Instant::now());
        }
        if last.1.elapsed().as_secs() > HANG_S {
            let text =
                format!("nothing has happened for {HANG_S} s in one of {:#?}", running.under_way.lock());
            *running.violation.lock() = Some(text);
            break;
        }
    }
    let counts = running.counts.lock();
    let mut table = heading();
    let mut total = Counts::default();
    for (family, counts) in counts.iter() {
        table.push_str(&format!("\n{}", counts.line(family)));
        total.add(counts);
    }
    table.push_str(&format!("\n{}", total.line("total")));
    let violation = running.violation.lock().take();
    Summary {
        workloads: running.done.load(Ordering::Relaxed),
        distinct: running.distinct.load(Ordering::Relaxed),
        states: total.total().0,
        violation,
        table,
        seconds: began.elapsed().as_secs_f64(),
    }
}
