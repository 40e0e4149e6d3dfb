//! The baton: exactly one thread runs at a time. Whoever waits (for a call of
//! the store, for a clock) says until when, takes the next event of the
//! simulated time, and hands the baton to the thread that it is for. Time is
//! nothing but the time of the next event, so one seed decides all of it.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::ThreadId;

use archipelago::clock::{seeded, simulated};
use archipelago::fault::{self, Planted};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::image::mix;
use super::machine::Machine;
use super::oracle::Oracle;
use super::plan::Plan;
use super::random::Random;
use super::reach::Reach;
use super::report::Counts;
use super::server::{Change, Server};
use super::trace::Trace;
use super::trouble::Trouble;

/// What is waited for until then is never waited for.
pub const FAR_US: u64 = u64::MAX / 4;

thread_local! {
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Ends a thread of a process that has died.
struct Killed;

/// A change that was sent and is still on its way when its sender has died.
#[derive(Clone, Debug)]
pub struct Sent {
    pub host: usize,
    pub actor: usize,
    /// What it was doing.
    pub act: &'static str,
    pub change: Change,
}

enum Event {
    Wake { actor: usize, ticket: u64 },
    Land(Sent),
    Trouble(Trouble),
}

struct Entry {
    at_us: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at_us, self.order) == (other.at_us, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

/// A thread of a simulated process.
pub struct Actor {
    pub process: usize,
    pub label: &'static str,
    turn: Arc<Condvar>,
    has_turn: bool,
    ticket: u64,
    pub is_done: bool,
    pub thread: Option<ThreadId>,
    /// A change that was asked for and has not been applied.
    pub in_flight: Option<Change>,
    /// What it is doing, and a number that no other has.
    pub act: &'static str,
    pub act_number: u64,
    pub slow: u64,
}

pub struct Process {
    pub host: usize,
    pub boot: u64,
    pub pid: u32,
    pub is_dead: bool,
    pub died_us: u64,
    pub paused_until_us: u64,
    /// Its first thread; the others are the library's.
    pub main: usize,
}

#[derive(Default)]
pub struct Host {
    pub boot: u64,
    pub clock_us: u64,
    /// It does not reach the store until then.
    pub cut_until_us: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// One thread, and no time passes between its calls.
    Quiet,
    Running,
}

pub struct State {
    pub seed: u64,
    pub plan: Plan,
    pub planted: Planted,
    pub phase: Phase,
    pub now_us: u64,
    pub random: Random,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    waiters: HashMap<usize, Vec<usize>>,
    pub actors: Vec<Actor>,
    pub processes: Vec<Process>,
    pub hosts: Vec<Host>,
    pub server: Server,
    pub oracle: Oracle,
    pub reach: Reach,
    pub trace: Trace,
    pub counts: Counts,
    pub violation: Option<String>,
    pub is_over: bool,
    pub acts_begun: u64,
    live: usize,
    mains: usize,
}

pub struct Sim {
    pub state: Mutex<State>,
    ended: Condvar,
}

pub type Guard<'a> = MutexGuard<'a, State>;

impl State {
    fn push(&mut self, at_us: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at_us, order: self.order, event }));
    }

    pub fn wake_at(&mut self, actor: usize, at_us: u64) {
        let ticket = self.actors[actor].ticket;
        self.push(at_us, Event::Wake { actor, ticket });
    }

    pub fn land_at(&mut self, sent: Sent, at_us: u64) {
        self.push(at_us, Event::Land(sent));
    }

    pub fn trouble_at(&mut self, trouble: Trouble, at_us: u64) {
        self.push(at_us, Event::Trouble(trouble));
    }

    /// Takes what was sent and has not arrived.
    pub fn on_their_way(&mut self) -> Vec<Sent> {
        let mut entries = std::mem::take(&mut self.queue).into_sorted_vec();
        entries.reverse();
        let sent = |Reverse(entry): Reverse<Entry>| match entry.event {
            Event::Land(sent) => Some(sent),
            _ => None,
        };
        entries.into_iter().filter_map(sent).collect()
    }

    pub fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            let (at, steps) = (self.now_us as f64 / 1e6, self.trace.steps);
            let last = if self.trace.is_loud { String::new() } else { self.trace.text() };
            self.violation = Some(format!("step {steps}, {at:.6} s: {what}\n{last}"));
        }
        self.is_over = true;
    }

    /// True if this thread must not go on.
    pub fn is_dying(&self, actor: usize) -> bool {
        self.is_over || self.processes[self.actors[actor].process].is_dead
    }

    /// Every thread of a process finds out that it has died.
    pub fn end_process(&mut self, process: usize) {
        let now_us = self.now_us;
        let dead = &mut self.processes[process];
        (dead.is_dead, dead.died_us) = (true, now_us);
        for actor in 0..self.actors.len() {
            if self.actors[actor].process == process && !self.actors[actor].is_done {
                self.wake_at(actor, now_us);
            }
        }
    }

    /// Registers a thread; the caller starts it with what `Sim::enter` makes.
    pub fn add_actor(&mut self, process: usize, label: &'static str) -> usize {
        let slow = match self.random.below(8) {
            0 => 10,
            1 => 3,
            _ => 1,
        };
        let actor = self.actors.len();
        self.actors.push(Actor {
            process,
            label,
            turn: Arc::new(Condvar::new()),
            has_turn: false,
            ticket: 0,
            is_done: false,
            thread: None,
            in_flight: None,
            act: "",
            act_number: 0,
            slow,
        });
        self.live += 1;
        let delay_us = self.random.below(2_000);
        self.wake_at(actor, self.now_us + delay_us);
        actor
    }

    pub fn add_process(&mut self, host: usize, label: &'static str) -> usize {
        let process = self.processes.len();
        let main = self.add_actor(process, label);
        self.processes.push(Process {
            host,
            boot: self.hosts[host].boot,
            pid: 100 + process as u32,
            is_dead: false,
            died_us: 0,
            paused_until_us: 0,
            main,
        });
        self.mains += 1;
        process
    }

    /// The next thread that may run.
    fn next(&mut self, sim: &Arc<Sim>) -> Option<usize> {
        loop {
            if self.is_over {
                return (0..self.actors.len()).find(|actor| !self.actors[*actor].is_done);
            }
            let Reverse(entry) = self.queue.pop()?;
            if entry.at_us >= FAR_US || self.mains == 0 || self.trace.steps > self.plan.steps_max {
                self.is_over = true;
                continue;
            }
            self.now_us = self.now_us.max(entry.at_us);
            match entry.event {
                Event::Land(sent) => super::client::land(self, sent),
                Event::Trouble(trouble) => super::trouble::happens(sim, self, trouble),
                Event::Wake { actor, ticket } => {
                    let (there, process) = (&self.actors[actor], self.actors[actor].process);
                    if there.is_done || there.ticket != ticket {
                        continue;
                    }
                    let process = &self.processes[process];
                    if process.paused_until_us > self.now_us && !process.is_dead {
                        let at_us = process.paused_until_us;
                        self.wake_at(actor, at_us);
                        continue;
                    }
                    return Some(actor);
                }
            }
        }
    }

    fn give_turn(&mut self, actor: usize) {
        let there = &mut self.actors[actor];
        there.ticket += 1;
        there.has_turn = true;
        there.turn.notify_one();
    }
}

pub fn me() -> Option<usize> {
    ME.get()
}

/// Gives the thread up, if it is not being given up already.
pub fn die(guard: Guard<'_>) {
    drop(guard);
    if !std::thread::panicking() {
        resume_unwind(Box::new(Killed));
    }
}

impl Sim {
    pub fn new(seed: u64, plan: Plan, planted: Planted) -> Arc<Sim> {
        let hosts = (0..plan.hosts as u64).map(|host| Host { boot: 10 + host, ..Host::default() });
        let state = State {
            seed,
            planted,
            phase: Phase::Quiet,
            now_us: 1_000_000,
            random: Random::of(seed, 1),
            queue: BinaryHeap::new(),
            order: 0,
            waiters: HashMap::new(),
            actors: Vec::new(),
            processes: Vec::new(),
            hosts: hosts.collect(),
            server: Server::new(&plan),
            oracle: Oracle::default(),
            reach: Reach::default(),
            trace: Trace::new(),
            counts: Counts::default(),
            violation: None,
            is_over: false,
            acts_begun: 0,
            live: 0,
            mains: 0,
            plan,
        };
        Arc::new(Sim { state: Mutex::new(state), ended: Condvar::new() })
    }

    /// Waits until then, or for `wake`; others go on meanwhile. `None`: this
    /// thread must end and is ending already.
    pub fn wait_until<'a>(
        self: &'a Arc<Sim>,
        mut state: Guard<'a>,
        me: usize,
        at_us: u64,
    ) -> Option<Guard<'a>> {
        if state.is_dying(me) {
            die(state);
            return None;
        }
        state.wake_at(me, at_us);
        match state.next(self) {
            Some(next) if next == me => state.actors[me].ticket += 1,
            Some(next) => {
                state.give_turn(next);
                self.wait_for_turn(&mut state, me);
            }
            None => state.fail("nobody can go on".to_owned()),
        }
        if state.is_dying(me) {
            die(state);
            return None;
        }
        Some(state)
    }

    fn wait_for_turn(&self, state: &mut Guard<'_>, me: usize) {
        let turn = Arc::clone(&state.actors[me].turn);
        while !state.actors[me].has_turn {
            turn.wait(state);
        }
        state.actors[me].has_turn = false;
    }

    /// As `wait_until`, and `wake` with this key ends it.
    pub fn wait_for(self: &Arc<Sim>, key: usize, me: usize, at_us: u64) {
        let mut state = self.state.lock();
        state.waiters.entry(key).or_default().push(me);
        if let Some(mut state) = self.wait_until(state, me, at_us) {
            if let Some(waiters) = state.waiters.get_mut(&key) {
                waiters.retain(|waiter| *waiter != me);
            }
        }
    }

    pub fn wake(state: &mut State, key: usize) {
        for actor in state.waiters.remove(&key).unwrap_or_default() {
            let delay_us = state.random.below(200);
            state.wake_at(actor, state.now_us + delay_us);
        }
    }

    /// What a thread runs.
    pub fn enter(self: &Arc<Sim>, actor: usize, body: simulated::Body) -> simulated::Body {
        let sim = Arc::clone(self);
        Box::new(move || {
            ME.set(Some(actor));
            let (seed, planted) = {
                let mut state = sim.state.lock();
                sim.wait_for_turn(&mut state, actor);
                (state.seed, state.planted)
            };
            simulated::put_on(Some(Arc::new(Machine::of(&sim, actor))));
            seeded::seed(Some(mix(seed, 77 + actor as u64)));
            fault::plant(planted);
            let is_dying = sim.state.lock().is_dying(actor);
            let ended = catch_unwind(AssertUnwindSafe(|| {
                if !is_dying {
                    body();
                }
            }));
            let panic = ended.err().filter(|panic| !panic.is::<Killed>()).map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
            });
            simulated::put_on(None);
            sim.exit(actor, panic);
        })
    }

    fn exit(self: &Arc<Sim>, actor: usize, panic: Option<String>) {
        let mut state = self.state.lock();
        if let Some(text) = panic {
            state.fail(format!("a panic: {text}"));
        }
        state.actors[actor].is_done = true;
        state.live -= 1;
        let process = state.actors[actor].process;
        if state.processes[process].main == actor {
            state.mains -= 1;
            if !state.processes[process].is_dead {
                super::trouble::dies(&mut state, process);
            }
        }
        Sim::wake(&mut state, join_key(actor));
        self.hand_over(state);
    }

    fn hand_over(self: &Arc<Sim>, mut state: Guard<'_>) {
        if state.live == 0 {
            self.ended.notify_all();
            return;
        }
        match state.next(self) {
            Some(next) => state.give_turn(next),
            None => {
                state.fail("nobody can go on".to_owned());
                if let Some(next) = state.next(self) {
                    state.give_turn(next);
                }
            }
        }
    }

    /// Runs until every thread has ended.
    pub fn run(self: &Arc<Sim>) {
        let mut state = self.state.lock();
        state.phase = Phase::Running;
        self.hand_over(state);
        state = self.state.lock();
        while state.live > 0 {
            self.ended.wait(&mut state);
        }
        state.phase = Phase::Quiet;
    }
}

/// The key on which the end of a thread is waited for: no address.
pub fn join_key(actor: usize) -> usize {
    usize::MAX - actor
}
