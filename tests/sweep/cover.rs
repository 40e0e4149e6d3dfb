//! Which places were come to, and every fault at each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use archipelago::backend::faulty::{Fault, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::backend::only::{Only, Part};
use archipelago::ErrorKind;

use super::sites::Finder;
use super::stories::{self, Story};
use super::world::{verify, World};

/// Longer, and a run hangs.
const DEADLINE: Duration = Duration::from_secs(60);

pub const KINDS: [ErrorKind; 11] = [
    ErrorKind::NotFound,
    ErrorKind::Exists,
    ErrorKind::Busy,
    ErrorKind::Fenced,
    ErrorKind::Invalid,
    ErrorKind::Denied,
    ErrorKind::NoSpace,
    ErrorKind::Unavailable,
    ErrorKind::Unknown,
    ErrorKind::Corrupt,
    ErrorKind::Internal,
];

/// What may well go on for ever.
const LASTING: [ErrorKind; 7] = [
    ErrorKind::NotFound,
    ErrorKind::Exists,
    ErrorKind::Busy,
    ErrorKind::NoSpace,
    ErrorKind::Unavailable,
    ErrorKind::Unknown,
    ErrorKind::Corrupt,
];

/// One call of a story.
#[derive(Clone, Debug)]
pub struct Call {
    pub number: u64,
    pub site: usize,
    pub method: Method,
    /// What the object's name begins with.
    pub kind: String,
}

/// What can go wrong with a call of this method.
pub fn faults(method: Method) -> Vec<Fault> {
    let mut faults: Vec<Fault> = KINDS.iter().map(|kind| Fault::Fail(*kind)).collect();
    if method == Method::Delete {
        // Who says that it is not there must be right about that.
        faults[0] = Fault::FailApplied(ErrorKind::NotFound);
    }
    faults.push(Fault::Delay(Duration::from_millis(1)));
    match method {
        Method::Read => faults.extend([Fault::Truncate(1), Fault::Truncate(usize::MAX)]),
        Method::Stat | Method::List | Method::Lock | Method::NextData => {}
        _ => faults.extend([Fault::FailAfterApplying, Fault::ApplyLate, Fault::Twice]),
    }
    if matches!(method, Method::Write | Method::Punch) {
        faults.extend(KINDS.iter().map(|kind| Fault::Short(*kind)));
        faults.extend(KINDS.iter().map(|kind| Fault::FailApplied(*kind)));
    }
    faults
}

fn begin(story: &Story) -> World {
    let mut world = match story.once {
        true => World::over(Arc::new(Only::new(Arc::new(Memory::new()), Part::BlocksOnce)), false),
        false if story.sealed => World::apart(),
        false => World::new(story.list_lag_s, story.data_path),
    };
    (story.before)(&mut world);
    world.errors.clear();
    world
}

/// Every call of a story, and where it comes from.
pub fn calls_of(story: &Story, finder: &Finder) -> Vec<Call> {
    let finder = finder.clone();
    let numbered = (0..).zip(record(story, move |method| finder.here(method)));
    numbered
        .map(|(number, (method, kind, site))| {
            let site = site.unwrap_or_else(|error| panic!("'{}': no known place: {error}", story.name));
            Call { number, site, method, kind }
        })
        .collect()
}

/// Every call of a story: its method, kind of object, and what `here` says.
fn record<T: Send + 'static>(
    story: &Story,
    here: impl Fn(Method) -> T + Send + Sync + 'static,
) -> Vec<(Method, String, T)> {
    let mut world = begin(story);
    let found = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&found);
    world.faulty.inject(Rule::new(Fault::Twice).times(0).when(move |method, names| {
        let kind = names.first().map_or(String::new(), |name| name.to_string());
        let kind = kind.split('/').next().unwrap().to_owned();
        calls.lock().unwrap().push((method, kind, here(method)));
        false
    }));
    (story.run)(&mut world);
    assert!(story.fails || world.errors.is_empty(), "{}: {:?}", story.name, world.errors);
    verify(world, story.name, true);
    let found = std::mem::take(&mut *found.lock().unwrap());
    found
}

/// One run: a story, and the fault that its call meets.
pub struct Case<'a> {
    pub story: &'a Story,
    pub call: Call,
    pub fault: Fault,
    /// It meets all calls of this method on such objects, from the first on.
    pub lasts: bool,
    /// It clears what a full store left in the log.
    pub clears: bool,
    /// What takes effect late does before the next holder comes, or after.
    pub late_first: bool,
}

fn play(case: &Case<'_>, what: &str) -> bool {
    let mut world = begin(case.story);
    match case.lasts {
        true => {
            let rule = Rule::new(case.fault.clone()).on(case.call.method).named(case.call.kind.as_str());
            world.faulty.inject(rule.times(u64::MAX));
        }
        false => world.faulty.fail_nth(case.call.number, case.fault.clone()),
    }
    let struck = world.faulty.struck();
    // What takes effect late may undo what was written to the same place
    // since: docs/design.md, known limits.
    let undoes = matches!(case.call.method, Method::Write | Method::Punch) && case.call.kind == "block";
    // A name or a head that comes after two collections finds nothing.
    let comes_too_late = case.story.removes && ["volume", "snapshot", "head"].contains(&&*case.call.kind);
    let late = case.fault == Fault::ApplyLate;
    world.stops = late && (undoes || comes_too_late || case.clears);
    (case.story.run)(&mut world);
    let struck = world.faulty.struck() > struck;
    verify(world, what, case.late_first);
    struck
}

/// Which calls of a story stand for a place: the first and the last of each
/// method and kind of object there; or all.
fn chosen(calls: Vec<Call>, all: bool) -> Vec<Call> {
    if all {
        return calls;
    }
    let mut ends: BTreeMap<(usize, String), (Call, Call)> = BTreeMap::new();
    for call in calls {
        let key = (call.site, format!("{:?} {}", call.method, call.kind));
        ends.entry(key).and_modify(|(_, last)| *last = call.clone()).or_insert((call.clone(), call));
    }
    let mut chosen: Vec<Call> = ends.into_values().flat_map(|(first, last)| [first, last]).collect();
    chosen.sort_by_key(|call| call.number);
    chosen.dedup_by_key(|call| call.number);
    chosen
}

/// Plays a case under the deadline. Error: what was wrong.
fn judge(case: &Case<'_>, what: &str) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| play(case, what)));
    match played {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{what}: the fault never struck")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("{what}: {}", text.unwrap_or_default()))
        }
    }
}

/// What a sweep came to.
#[derive(Default)]
pub struct Swept {
    pub covered: BTreeSet<usize>,
    pub calls: usize,
    pub runs: usize,
    pub failures: Vec<String>,
}

/// Every story, every place, every fault.
pub fn sweep(finder: &Finder, every_call: bool) -> Swept {
    let stories: Arc<Vec<Story>> = Arc::new(stories::all());
    let mut swept = Swept::default();
    let mut cases = Vec::new();
    for (at, story) in stories.iter().enumerate() {
        let calls = calls_of(story, finder);
        swept.covered.extend(calls.iter().map(|call| call.site));
        let chosen = chosen(calls.clone(), every_call);
        let mut kinds = BTreeSet::new();
        for call in calls {
            if kinds.insert(format!("{:?} {}", call.method, call.kind)) {
                // What is listed must be found, there after the lag.
                let lags = story.list_lag_s > 0 && call.kind == "snapshot";
                let faults = lasting(call.method).filter(|f| !lags || *f != Fault::Fail(ErrorKind::NotFound));
                cases.extend(faults.map(|fault| Work::new(at, &call, fault).lasting()));
            }
            if !chosen.iter().any(|other| other.number == call.number) {
                cases.extend(FEW.iter().map(|fault| Work::new(at, &call, fault.clone())));
            }
        }
        for call in chosen {
            swept.calls += 1;
            // Too late, and the next holder has read what it clears:
            // docs/design.md, known limits.
            let clears = finder.sites()[call.site].function == "clear_batch";
            for fault in faults(call.method) {
                cases.push(Work::new(at, &call, fault.clone()));
                if fault == Fault::ApplyLate && !clears {
                    cases.push(Work { late_first: false, ..Work::new(at, &call, fault) });
                }
            }
        }
    }
    swept.runs = cases.len();
    swept.failures = run_all(&stories, cases, Some(finder));
    swept
}

/// About so many of all runs, scattered; it does not matter which places they
/// come to, and the first that fails ends it.
pub fn sample(runs: usize) -> Swept {
    let stories: Arc<Vec<Story>> = Arc::new(stories::all());
    let mut cases = Vec::new();
    for (at, story) in stories.iter().enumerate() {
        for (number, (method, kind, ())) in (0..).zip(record(story, |_| ())) {
            let call = Call { number, site: 0, method, kind };
            // It may be the write that clears a batch: docs/design.md, known limits.
            let clears = method == Method::Write && call.kind == "log";
            let faults = faults(method).into_iter().filter(|fault| !clears || *fault != Fault::ApplyLate);
            cases.extend(faults.map(|fault| Work::new(at, &call, fault)));
        }
    }
    let one_in = (cases.len() / runs.max(1)).max(1) as u64;
    let scattered = |index: u64| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % one_in == 0;
    let chosen = (0..).zip(cases).filter(|(index, _)| scattered(*index));
    let cases: Vec<Work> = chosen.map(|(_, case)| case).collect();
    let (calls, runs) = (cases.len(), cases.len());
    Swept { calls, runs, failures: run_all(&stories, cases, None), ..Swept::default() }
}

/// What every call meets, also one that is neither the first nor the last.
const FEW: [Fault; 4] = [
    Fault::Fail(ErrorKind::Unavailable),
    Fault::Fail(ErrorKind::NoSpace),
    Fault::Fail(ErrorKind::Unknown),
    Fault::FailAfterApplying,
];

fn lasting(method: Method) -> impl Iterator<Item = Fault> {
    LASTING.iter().map(move |kind| match (method, kind) {
        (Method::Delete, ErrorKind::NotFound) => Fault::FailApplied(*kind),
        _ => Fault::Fail(*kind),
    })
}

/// A case that is to be played.
#[derive(Clone)]
struct Work {
    story: usize,
    call: Call,
    fault: Fault,
    lasts: bool,
    late_first: bool,
}

impl Work {
    fn new(story: usize, call: &Call, fault: Fault) -> Work {
        Work { story, call: call.clone(), fault, lasts: false, late_first: true }
    }

    fn lasting(self) -> Work {
        Work { lasts: true, ..self }
    }
}

/// On two threads, each run watched. Without places the first failure is enough.
fn run_all(stories: &Arc<Vec<Story>>, cases: Vec<Work>, finder: Option<&Finder>) -> Vec<String> {
    let (cases, next) = (Arc::new(cases), Arc::new(AtomicUsize::new(0)));
    let (sender, done) = mpsc::channel();
    let running = Arc::new(Mutex::new([String::new(), String::new()]));
    for thread in 0..2 {
        let running = Arc::clone(&running);
        let (stories, cases, next) = (Arc::clone(stories), Arc::clone(&cases), Arc::clone(&next));
        let (sender, finder) = (sender.clone(), finder.cloned());
        thread::spawn(move || loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(work) = cases.get(index).cloned() else { return };
            let Work { story, call, fault, lasts, late_first } = work;
            let story = &stories[story];
            let site = finder.as_ref().map(|finder| &finder.sites()[call.site]);
            let what = format!(
                "'{}', call {}, {site:?}: {:?} of {}: {fault:?}, lasts {lasts}, late first {late_first}",
                story.name, call.number, call.method, call.kind
            );
            running.lock().unwrap()[thread].clone_from(&what);
            let clears = site.is_some_and(|site| site.function == "clear_batch");
            let case = Case { story, call, fault, lasts, clears, late_first };
            drop(sender.send((index, judge(&case, &what).err())));
        });
    }
    drop(sender);
    let mut failures = Vec::new();
    for count in 0..cases.len() {
        if finder.is_none() && !failures.is_empty() {
            break;
        }
        match done.recv_timeout(DEADLINE) {
            Ok((_, Some(failure))) => failures.push(failure),
            Ok((_, None)) => {}
            Err(RecvTimeoutError::Timeout) => {
                failures.push(format!("after {count} runs one hangs, of {:?}", running.lock().unwrap()));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => panic!("a thread of the sweep ended early"),
        }
    }
    failures
}
