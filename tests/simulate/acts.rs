//! A simulated process: it opens the store and does one thing after another,
//! each of them told to the oracle before it begins and when it has ended.

use std::sync::Arc;
use std::time::Duration;

use archipelago::catalog::identity::Identity;
use archipelago::catalog::lease;
use archipelago::clock;
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::log::LogOptions;
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

use super::baton::{Guard, Sim, State};
use super::client::Client;
use super::image::SECTOR;
use super::model::{Value, Values};
use super::plan::Plan;
use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Writer,
    Tool,
    Collector,
    Operator,
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Role::Writer => "writer",
            Role::Tool => "tool",
            Role::Collector => "collector",
            Role::Operator => "operator",
        }
    }

    pub fn of(label: &str) -> Option<Role> {
        [Role::Writer, Role::Tool, Role::Collector, Role::Operator]
            .into_iter()
            .find(|role| role.label() == label)
    }
}

pub struct Life {
    pub sim: Arc<Sim>,
    pub me: usize,
    pub process: usize,
    pub random: Random,
    pub store: Store,
    pub options: OpenOptions,
    pub values: Values,
    /// The open volume, and which it is.
    pub held: Option<(usize, Arc<Volume>)>,
}

pub fn volume_name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub fn options(plan: &Plan) -> OpenOptions {
    OpenOptions {
        log: LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 64 << 10 },
        log_limit_bytes: plan.log_limit_bytes,
        lease: lease::Options {
            identity: Identity::of_this_process(),
            socket: None,
            renew_every: Duration::from_micros(plan.renew_us),
            deadline: Duration::from_micros(plan.deadline_us),
            ..lease::Options::default()
        },
        ..OpenOptions::default()
    }
}

/// Starts a process.
pub fn start(sim: &Arc<Sim>, state: &mut State, role: Role, host: usize) {
    let process = state.add_process(host, role.label());
    let me = state.processes[process].main;
    let random = Random::of(state.seed, 1000 + me as u64);
    let body = sim.enter(me, body(Arc::clone(sim), (me, process, host), role, random));
    let started = std::thread::Builder::new().spawn(body);
    assert!(started.is_ok(), "a thread does not start");
}

fn body(
    sim: Arc<Sim>,
    (me, process, host): (usize, usize, usize),
    role: Role,
    random: Random,
) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let plan = sim.state.lock().plan.clone();
        let client = Client::new(&sim, host, process);
        let Ok(store) = Store::open("simulated", client) else { return };
        let (options, values) = (options(&plan), Values::default());
        let mut life = Life { sim, me, process, random, store, options, values, held: None };
        for _ in 0..plan.acts {
            life.think();
            match role {
                Role::Writer => life.write_something(),
                Role::Tool => life.change_something(),
                Role::Collector => life.collect(),
                Role::Operator => life.operate(),
            }
        }
        if life.random.one_in(3) {
            // Ends without a word, as a process that crashes.
            if let Some((_, volume)) = life.held.take() {
                life.sim.state.lock().end_process(process);
                drop(volume);
            }
        }
        life.close();
    })
}

impl Life {
    pub fn lock(&self) -> Guard<'_> {
        self.sim.state.lock()
    }

    fn think(&mut self) {
        let for_us = match self.random.below(20) {
            0 => self.random.within(100_000, 1_500_000),
            1..=9 => self.random.below(3_000),
            _ => self.random.below(60_000),
        };
        clock::sleep(Duration::from_micros(for_us));
    }

    /// One act, from what the others see of it to its end.
    pub fn act<T>(
        &mut self,
        label: &'static str,
        what: String,
        body: impl FnOnce(&mut Life) -> Result<T>,
    ) -> Result<T> {
        {
            let mut state = self.lock();
            state.acts_begun += 1;
            let number = state.acts_begun;
            let actor = &mut state.actors[self.me];
            (actor.act, actor.act_number) = (label, number);
            let now_us = state.now_us;
            state.trace.say(now_us, format!("[{}] {label} {what}", self.me));
        }
        let result = body(self);
        let mut state = self.lock();
        super::reach::end_act(&mut state, self.me, result.is_ok());
        state.actors[self.me].act = "";
        state.counts.act(label, result.is_ok());
        if let Err(error) = &result {
            let now_us = state.now_us;
            state.trace.say(now_us, format!("[{}] {label} {what}: {}", self.me, error.full()));
        }
        result
    }

    /// What no process may be told, unless it was taken over on the operator's
    /// wrong word.
    pub fn must_not_be_damage(&self, what: &str, error: &Error) {
        let mut state = self.lock();
        let is_wrong = error.is(ErrorKind::Corrupt) && !state.oracle.is_zombie(self.process);
        if is_wrong && super::reach::is_needed(&mut state, error.object().unwrap_or_default()) {
            state.fail(format!("{what}: {}", error.full()));
        }
    }

    pub fn is_lawful(&self, at: usize) -> bool {
        let state = self.lock();
        let vol = &state.oracle.vols[at];
        vol.owner == Some(self.process) && !vol.is_zombie(self.process)
    }

    /// After something was confirmed as durable: a holder that was taken over
    /// must have found out.
    pub fn check_confirmed(&self, at: usize, what: &str) {
        let mut state = self.lock();
        let vol = &state.oracle.vols[at];
        let since = vol.zombies.iter().find(|zombie| zombie.process == self.process);
        let since = since.map(|zombie| zombie.broken_us);
        let until_us = since.map_or(u64::MAX, |since| since.saturating_add(state.plan.deadline_us));
        // Of a volume that was removed since nothing is left to find out by.
        if state.now_us > until_us && !vol.may_be_removed && vol.removals == 0 {
            let late_us = state.now_us - since.unwrap_or_default();
            let process = self.process;
            state.fail(format!(
                "process {process} is told that its {what} is done, {late_us} us after its lease was broken"
            ));
        }
    }

    /// A volume, of those that may be there.
    pub fn pick_volume(&mut self) -> Option<(usize, String)> {
        let count = self.lock().oracle.vols.len() as u64;
        let at = self.random.below(count) as usize;
        let state = self.lock();
        let vol = state.oracle.vols.get(at)?;
        (!vol.may_be_removed && !vol.is_in_the_making).then(|| vol.name()).flatten().map(|name| (at, name))
    }

    pub fn pick_snapshot(&mut self, at: usize) -> Option<String> {
        let names: Vec<String> = {
            let state = self.lock();
            let there = state.oracle.vols[at].snaps.iter().filter(|snap| snap.must && !snap.is_wild);
            there.map(|snap| snap.name.clone()).collect()
        };
        self.random.pick(&names).cloned()
    }

    pub fn read_values(&self, volume: &Arc<Volume>, first: usize, count: usize) -> Result<Vec<Value>> {
        let mut data = vec![0xEE; count * SECTOR];
        volume.read_at((first * SECTOR) as u64, &mut data)?;
        let sectors = (first..).zip(data.chunks_exact(SECTOR));
        Ok(sectors.map(|(sector, bytes)| self.values.read(bytes, sector as u64)).collect())
    }

    pub fn bytes_of(&self, value: Value, first: usize, count: usize) -> Vec<u8> {
        (first..first + count).flat_map(|sector| self.values.bytes(value, sector as u64)).collect()
    }

    pub fn say(&self, text: String) {
        let mut state = self.lock();
        let now_us = state.now_us;
        state.trace.say(now_us, text);
    }
}
