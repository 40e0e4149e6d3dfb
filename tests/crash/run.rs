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
use rustix::time::{clock_gettime, ClockId};

use super::disk::Event;
use super::explore::{Effort, Explorer, Known, Left};
use super::report::{faults_text, heading, Counts};
use super::short::Short;
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
    /// Goes on until every short workload has been explored, too.
    pub all_short: bool,
    pub threads: usize,
}

/// What a run came to.
pub struct Summary {
    pub workloads: u64,
    pub distinct: u64,
    pub states: u64,
    pub violation: Option<String>,
    pub table: String,
    /// How often which fault was there.
    pub faults: String,
    /// All short workloads, and how many of them were explored.
    pub short: (u64, u64),
    pub seconds: f64,
    /// Of processors, spent in exploring.
    pub core_seconds: f64,
}

struct Running {
    plan: Plan,
    next: AtomicU64,
    short: Short,
    next_short: AtomicU64,
    short_done: AtomicU64,
    next_random: AtomicU64,
    core_seconds: Mutex<f64>,
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
        if is_new {
            self.distinct.fetch_add(1, Ordering::Relaxed);
        }
        is_new
    }

    fn work(&self) {
        fault::plant(self.plan.planted);
        let options = world::options(0);
        while !self.stop.load(Ordering::Relaxed) && !self.is_enough() {
            let mut known = Known::new();
            for workload in self.next() {
                known = self.look_at(workload, known, &options);
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        fault::plant(Planted::None);
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        *self.core_seconds.lock() += spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
    }

    fn look_at(&self, workload: Workload, known: Known, options: &OpenOptions) -> Known {
        self.under_way.lock().push(workload.clone());
        let noted = |digest| self.note_distinct(digest);
        let (counts, result) = explore_knowing(&workload, known, options, &noted, &|| self.beat());
        self.under_way.lock().retain(|other| other.acts != workload.acts);
        self.counts.lock().entry(workload.family).or_default().add(&counts);
        self.done.fetch_add(1, Ordering::Relaxed);
        self.short_done.fetch_add(u64::from(workload.is_short()), Ordering::Relaxed);
        result.unwrap_or_else(|text| {
            self.stop.store(true, Ordering::Relaxed);
            let mut violation = self.violation.lock();
            if violation.is_none() {
                *violation = Some(self.explain(&workload, options, &text));
            }
            Known::new()
        })
    }

    fn is_enough(&self) -> bool {
        let missing =
            self.plan.all_short && self.next_short.load(Ordering::Relaxed) < self.short.group_count();
        self.distinct.load(Ordering::Relaxed) >= self.plan.states && !missing
    }

    /// A group of short ones, then a random one, until there are no short ones
    /// left.
    fn next(&self) -> Vec<Workload> {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        if nth % 2 == 0 {
            let nth = self.next_short.fetch_add(1, Ordering::Relaxed);
            if let Some(short) = self.short.group(nth) {
                return short;
            }
        }
        vec![workloads::nth(self.next_random.fetch_add(1, Ordering::Relaxed), self.plan.seed)]
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The violation with the shortest list of acts that still shows one.
    fn explain(&self, workload: &Workload, options: &OpenOptions, text: &str) -> String {
        let mut text = text.to_owned();
        let mut smallest = Workload { explored_from: 0, ..workload.clone() };
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
    let (counts, result) = explore_knowing(workload, Known::new(), options, note_distinct, beat);
    (counts, result.map(drop))
}

/// As `explore`, knowing what was found in workloads that begin in the same
/// way.
fn explore_knowing(
    workload: &Workload,
    known: Known,
    options: &OpenOptions,
    note_distinct: &dyn Fn(u64) -> bool,
    beat: &dyn Fn(),
) -> (Counts, Result<Known, String>) {
    let options = OpenOptions { log_limit_bytes: workload.setup.log_limit_bytes, ..options.clone() };
    let mut counts = Counts::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        beat();
        seeded::seed(Some(IDS));
        let mut world = World::new(&workload.setup, &options)?;
        let left = Left::of(world.disk.image());
        let (mut outcome, mut from) = (Ok(()), 0);
        for (at, act) in workload.acts.iter().enumerate() {
            if at == workload.explored_from {
                from = world.disk.event_count();
            }
            outcome = world.act(act);
            if outcome.is_err() {
                break;
            }
        }
        let (events, image, values) = (world.disk.take_events(), world.disk.image(), world.values.clone());
        counts = std::mem::take(&mut world.counts);
        drop(world);
        if let Err(text) = outcome {
            return Err(format!("{text}\n{}", ops_text(&events)));
        }
        let mut explorer =
            Explorer::new(workload.setup, &options, values, workload.seed, note_distinct, beat)
                .knowing(known);
        let effort = match workload.is_short() {
            true => Effort { subsets_max: 300, exhaustive_max: 7, second_every: 97 },
            false => Effort { subsets_max: 40, exhaustive_max: 4, second_every: 97 },
        };
        let result = explorer.explore(left, &events, from, effort, false);
        let result = result.and_then(|()| explorer.damage(&events, from, &image));
        counts.add(&explorer.counts);
        result.map(|()| explorer.known())
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
        short: Short::new(),
        next_short: AtomicU64::new(0),
        short_done: AtomicU64::new(0),
        next_random: AtomicU64::new(0),
        core_seconds: Mutex::default(),
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
    let core_seconds = *running.core_seconds.lock();
    Summary {
        workloads: running.done.load(Ordering::Relaxed),
        distinct: running.distinct.load(Ordering::Relaxed),
        states: total.total().0,
        faults: faults_text(&total),
        short: (running.short.count(), running.short_done.load(Ordering::Relaxed)),
        core_seconds,
        violation,
        table,
        seconds: began.elapsed().as_secs_f64(),
    }
}
