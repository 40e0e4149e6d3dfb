//! The store as one simulated process sees it. Each call takes its time, and
//! others go on meanwhile; the process may be paused, die, or lose its way to
//! the store within it.

use std::sync::{Arc, Weak};

use archipelago::backend::{memory, Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::ObjectName;

use super::baton::{die, me, Guard, Phase, Sent, Sim, State};
use super::server::Change;

/// What a call that finds no way to the store does.
enum Lost {
    Waits,
    Refused,
    /// Not applied, applied, or applied later; nobody is told.
    Unknown {
        done: bool,
        later: bool,
    },
}

pub struct Client {
    sim: Arc<Sim>,
    host: usize,
    /// Whose locks these are.
    process: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.process)
    }
}

fn refused(kind: ErrorKind, verb: &'static str, name: Option<&ObjectName>) -> Error {
    let error = Error::new(kind, verb);
    match name {
        Some(name) => error.on(name),
        None => error,
    }
}

fn outcome<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "",
        Err(error) => match error.kind() {
            ErrorKind::NotFound => "-> not found",
            ErrorKind::Exists => "-> exists",
            ErrorKind::Busy => "-> busy",
            _ => "-> failed",
        },
    }
}

impl Client {
    pub fn new(sim: &Arc<Sim>, host: usize, process: usize) -> Arc<Client> {
        Arc::new(Client { sim: Arc::clone(sim), host, process })
    }

    /// One call: waits, is applied by `effect`, and may wait for its answer.
    fn call<T>(
        &self,
        verb: &'static str,
        name: Option<&ObjectName>,
        (at, bytes): (u64, u64),
        change: Option<Change>,
        effect: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let gone = || refused(ErrorKind::Unavailable, verb, name);
        let mut state = self.sim.state.lock();
        let Some(me) = me().filter(|_| state.phase == Phase::Running) else { return effect(&mut state) };
        if state.is_dying(me) {
            die(state);
            return Err(gone());
        }
        let is_change = change.is_some();
        state.actors[me].in_flight = change;
        let mut state = self.pass(state, me).ok_or_else(gone)?;
        while state.hosts[self.host].cut_until_us > state.now_us {
            match Client::lost(&mut state, is_change, name) {
                Lost::Waits => {
                    let until_us = state.hosts[self.host].cut_until_us;
                    state = self.sim.wait_until(state, me, until_us).ok_or_else(gone)?;
                }
                Lost::Refused => {
                    state.actors[me].in_flight = None;
                    return Err(self.failed(state, me, (verb, name), ErrorKind::Unavailable));
                }
                Lost::Unknown { done, later } => {
                    let change = state.actors[me].in_flight.take();
                    if let Some(change) = change.filter(|_| done || later) {
                        let act = state.actors[me].act;
                        let sent = Sent { host: self.host, actor: me, act, change };
                        let delay_us = if done { 0 } else { 1 + state.random.below(500_000) };
                        let at_us = state.now_us + delay_us;
                        state.land_at(sent, at_us);
                    }
                    return Err(self.failed(state, me, (verb, name), ErrorKind::Unknown));
                }
            }
        }
        state.actors[me].in_flight = None;
        let result = effect(&mut state);
        let (now_us, label) = (state.now_us, state.actors[me].label);
        state.trace.call(now_us, (me, label), (verb, name), (at, bytes), outcome(&result));
        if state.is_over {
            die(state);
            return Err(gone());
        }
        if state.random.one_in(4) {
            drop(self.pass(state, me).ok_or_else(gone)?);
        }
        result
    }

    fn pass<'a>(&'a self, mut state: Guard<'a>, me: usize) -> Option<Guard<'a>> {
        let slow = state.actors[me].slow;
        let latency_us = match state.random.below(40) {
            0 => state.random.within(10_000, 200_000),
            1..=3 => state.random.within(2_000, 20_000),
            _ => state.random.within(100, 3_000) * slow,
        };
        let at_us = state.now_us + latency_us;
        self.sim.wait_until(state, me, at_us)
    }

    fn lost(state: &mut State, is_change: bool, name: Option<&ObjectName>) -> Lost {
        match state.random.below(5) {
            0..=1 => Lost::Waits,
            2 => Lost::Refused,
            _ if !is_change => Lost::Refused,
            3 => Lost::Unknown { done: state.random.one_in(2), later: false },
            // A write that takes effect later in the same session: a known limit.
            _ => {
                let is_write = matches!(name, Some(ObjectName::Block { .. } | ObjectName::Segment { .. }));
                Lost::Unknown { done: false, later: !is_write }
            }
        }
    }

    /// It is long until a call is given up.
    fn failed(
        &self,
        mut state: Guard<'_>,
        me: usize,
        (verb, name): (&'static str, Option<&ObjectName>),
        kind: ErrorKind,
    ) -> Error {
        let (now_us, label) = (state.now_us, state.actors[me].label);
        let text = if kind == ErrorKind::Unknown { "-> outcome unknown" } else { "-> unavailable" };
        state.trace.call(now_us, (me, label), (verb, name), (0, 0), text);
        state.counts.lost_calls += 1;
        let patience_us = state.random.within(50_000, 400_000);
        drop(self.sim.wait_until(state, me, now_us + patience_us));
        refused(kind, verb, name)
    }

    fn change(&self, change: Change, (at, bytes): (u64, u64)) -> Result<()> {
        let (host, name) = (self.host, change.name().clone());
        self.call(change.verb(), Some(&name), (at, bytes), Some(change.clone()), |state| {
            apply(state, host, me(), &change)
        })
    }
}

/// A change arrives at the store, on behalf of `actor`, which has asked for it
/// just now.
pub fn apply(state: &mut State, host: usize, actor: Option<usize>, change: &Change) -> Result<()> {
    if matches!(change, Change::Delete { .. }) {
        let act = actor.map_or("gc", |actor| state.actors[actor].act);
        super::reach::before_delete(state, act, change.name());
    }
    let now_us = state.now_us;
    state.server.apply(host, change, now_us)?;
    super::reach::after(state, actor, change);
    Ok(())
}

/// What was on its way when nobody waited for it any more.
pub fn land(state: &mut State, sent: Sent) {
    let Sent { host, actor, act, change } = sent;
    let now_us = state.now_us;
    if matches!(change, Change::Delete { .. }) && state.server.object(change.name()).is_some() {
        super::reach::before_delete(state, act, change.name());
    }
    let result = state.server.apply(host, &change, now_us);
    state.counts.landed += 1;
    state.trace.call(now_us, (actor, "late"), (change.verb(), Some(change.name())), (0, 0), outcome(&result));
    if result.is_ok() {
        super::reach::after_late(state, actor, &change);
    }
}

impl Backend for Client {
    fn capabilities(&self) -> Capabilities {
        let state = self.sim.state.lock();
        Capabilities {
            fences: !state.plan.kind.is_shared(),
            list_lag_s: u32::from(state.plan.lags),
            lists_at_once: false,
            ..memory::CAPABILITIES
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        let change = Change::Create { name: name.clone(), data: Arc::from(data) };
        self.change(change, (0, data.len() as u64))
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.change(Change::CreateSparse { name: name.clone(), bytes }, (0, bytes))
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let span = (offset_bytes, buf.len() as u64);
        let host = self.host;
        self.call("read", Some(name), span, None, |state| state.server.read(host, name, offset_bytes, buf))
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let change = Change::Write { name: name.clone(), offset: offset_bytes, data: Arc::from(data) };
        self.change(change, (offset_bytes, data.len() as u64))
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        let data = Arc::from(vec![0; bytes as usize]);
        self.change(Change::Write { name: name.clone(), offset: offset_bytes, data }, (offset_bytes, bytes))
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        let host = self.host;
        let span = (0, names.len() as u64);
        self.call("sync", names.first(), span, None, |state| state.server.sync(host, names, true))
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        let host = self.host;
        let span = (0, names.len() as u64);
        self.call("sync content", names.first(), span, None, |state| state.server.sync(host, names, false))
    }

    /// Every sync covers what anybody wrote on this host.
    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.change(Change::Delete { name: name.clone() }, (0, 0))
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.call("stat", Some(name), (0, 0), None, |state| match state.server.object(name) {
            Some(object) => Ok(ObjectStat { bytes: object.bytes, allocated_bytes: object.allocated_bytes() }),
            None => Err(refused(ErrorKind::NotFound, "stat", Some(name))),
        })
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        let host = self.host;
        let mut names = self.call(list_verb(prefix), None, (0, 0), None, |state| {
            let State { server, random, now_us, .. } = state;
            Ok(server.list(host, prefix, after, (*now_us, random)))
        })?;
        names.truncate(count_max);
        Ok(names)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        let process = self.process;
        let made =
            self.call("lock", Some(name), (0, 0), None, |state| state.server.lock(process, name, mode))?;
        Ok(Box::new(Held { sim: Arc::downgrade(&self.sim), name: name.clone(), made }))
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

fn list_verb(prefix: &str) -> &'static str {
    match prefix.split('/').next().unwrap_or_default() {
        "volume" => "list names",
        "head" => "list heads",
        "log" => "list segments",
        "lease" => "list leases",
        "snapshot" => "list snapshots",
        "maintenance" => "list generations",
        "epoch" => "list epochs",
        "block" => "list blocks",
        "map" => "list pages",
        _ => "list",
    }
}

struct Held {
    sim: Weak<Sim>,
    name: ObjectName,
    made: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(sim) = self.sim.upgrade() {
            sim.state.lock().server.unlock(&self.name, self.made);
        }
    }
}
