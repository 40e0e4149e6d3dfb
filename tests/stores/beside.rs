//! A server that goes and comes back while it is used, and a volume on a local
//! disk in the same process, which must not notice.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::Backend;

use super::load::{as_outcomes, none_failed, nothing, of, summed, together, wait, Known, Machine, Outcome};

/// So long a request beside it may take on a machine that others use as well. Who
/// waits for the server waits for longer: see `Away::longest_s`.
const SHORT: Duration = Duration::from_secs(4);

/// What the library tells its log.
pub struct Told(Mutex<Vec<String>>);

static TOLD: Told = Told(Mutex::new(Vec::new()));

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// From now on what the library warns of is kept: once in a process.
pub fn listen() {
    log::set_logger(&TOLD).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
}

/// What it has said since it was asked last.
pub fn told() -> Vec<String> {
    std::mem::take(&mut *TOLD.0.lock().unwrap())
}

/// Runs a test that is a part of another one, in a process of its own: the log
/// has its lines only. `before` are the words of a program that runs it.
pub fn in_a_process(before: &[&str], test: &str) {
    let program = std::env::current_exe().unwrap();
    let words = before.iter().map(|word| (*word).to_owned()).chain([program.display().to_string()]);
    let words: Vec<String> =
        words.chain(["--exact", test, "--ignored", "--nocapture"].map(str::to_owned)).collect();
    let status = Command::new(&words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{test}: {status}");
}

pub fn on_disk(path: &Path) -> Machine {
    let made = Arc::new(Dir::create(path, DirOptions::default()).unwrap());
    let path = path.to_owned();
    Machine::new(made, move || Arc::new(Dir::open(&path, DirOptions::default()).unwrap()) as Arc<dyn Backend>)
}

/// The server is gone for so long, in one way or another.
pub struct Away<'a> {
    pub name: &'a str,
    pub seconds: u64,
    /// How long the load goes on when it is back.
    pub after_s: u64,
    /// What the longest request takes, in seconds.
    pub longest_s: Range<u64>,
    pub goes: &'a dyn Fn(),
    pub returns: &'a dyn Fn(),
}

/// What a guest on the disk sees while nothing fails.
#[derive(Clone, Copy)]
pub struct Control(u64, Duration);

impl Control {
    /// Of a volume on a disk beside these. Returns what they know then, too.
    pub fn run(
        machines: &[&Machine],
        known: Vec<Vec<Vec<Known>>>,
        path: &Path,
        seconds: u64,
    ) -> (Control, Vec<Vec<Vec<Known>>>) {
        let beside = on_disk(path);
        let mut all = all_of(machines, known, &beside, || wait(seconds));
        let (requests, longest) = summed(&all.pop().unwrap());
        all.iter().for_each(|outcomes| none_failed(outcomes));
        beside.device.close().unwrap();
        (Control(requests, longest), all.iter().map(|outcomes| of(outcomes)).collect())
    }

    fn check(self, name: &str, beside: &[Outcome]) {
        none_failed(beside);
        let (requests, longest) = summed(beside);
        let Control(usual, usual_longest) = self;
        eprintln!("{name}: beside it {requests}, {longest:?}; without a fault {usual}, {usual_longest:?}");
        let bound = (3 * self.1).max(SHORT);
        assert!(longest < bound, "{name}: the volume beside it waited for {longest:?}");
    }
}

fn all_of(
    machines: &[&Machine],
    known: Vec<Vec<Vec<Known>>>,
    beside: &Machine,
    fault: impl FnOnce(),
) -> Vec<Vec<Outcome>> {
    let mut all: Vec<_> = machines.iter().copied().zip(known).collect();
    all.push((beside, nothing()));
    together(all, fault)
}

impl Away<'_> {
    /// Requests of some of the machines wait while it is away, for as long as is
    /// expected; nothing fails. Returns what they know then.
    pub fn comes_back(
        &self,
        machines: &[&Machine],
        known: Vec<Vec<Vec<Known>>>,
        path: &Path,
        control: Control,
    ) -> Vec<Vec<Vec<Known>>> {
        let Away { name, seconds, ref longest_s, .. } = *self;
        let beside = on_disk(path);
        let mut all = all_of(machines, known, &beside, || {
            wait(2);
            (self.goes)();
            wait(seconds);
            (self.returns)();
            wait(self.after_s);
        });
        control.check(name, &all.pop().unwrap());
        let longest = all.iter().map(|outcomes| summed(outcomes).1).max().unwrap();
        eprintln!("{name} for {seconds} s: the longest request took {longest:?}");
        all.iter().for_each(|outcomes| none_failed(outcomes));
        let is_expected = longest_s.contains(&longest.as_secs());
        assert!(is_expected, "{name}: not noticed, or held up for too long: {longest:?}");
        beside.device.close().unwrap();
        all.iter().map(|outcomes| of(outcomes)).collect()
    }
}

/// All of it is there, and for who opens it anew too.
pub fn is_there_again(machine: &Machine, known: Vec<Vec<Known>>) {
    let known = machine.check(&as_outcomes(known));
    machine.device.close().unwrap();
    let again = Machine::again(&machine.opener);
    let known = again.check(&as_outcomes(known));
    let all = again.during(known, || wait(1));
    let goes_on = |outcome: &Outcome| outcome.requests > 0 && outcome.failures.is_empty();
    assert!(all.iter().all(goes_on), "it does not go on");
    again.check(&as_outcomes(of(&all)));
    again.device.close().unwrap();
}
