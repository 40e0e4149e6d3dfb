//! What a simulated host tells the library's threads: its clock, who it is,
//! and who else lives on it.

use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use archipelago::clock::simulated;

use super::baton::{join_key, Phase, Sim, FAR_US};

/// Starts of processes are counted in these.
const TICKS: u64 = 1000;

pub struct Machine {
    sim: Arc<Sim>,
    /// `None`: the one thread that there is before and after the simulation.
    actor: Option<usize>,
    host: usize,
    boot: u64,
    pid: u32,
}

impl Machine {
    pub fn of(sim: &Arc<Sim>, actor: usize) -> Machine {
        let state = sim.state.lock();
        let process = &state.processes[state.actors[actor].process];
        let (host, boot, pid) = (process.host, process.boot, process.pid);
        drop(state);
        Machine { sim: Arc::clone(sim), actor: Some(actor), host, boot, pid }
    }

    /// For a thread that has the simulation to itself. Its host is one of its
    /// own, except where all are on one.
    pub fn quiet(sim: &Arc<Sim>, pid: u32) -> Machine {
        let state = sim.state.lock();
        let host = if state.plan.kind.is_shared() { 99 } else { 0 };
        let boot = state.hosts.first().map_or(0, |host| host.boot);
        drop(state);
        Machine { sim: Arc::clone(sim), actor: None, host, boot: boot + host as u64, pid }
    }

    fn clock_us(&self) -> u64 {
        let state = self.sim.state.lock();
        state.hosts.get(self.host).map_or(0, |host| host.clock_us)
    }

    fn micros(time: Duration) -> u64 {
        u64::try_from(time.as_micros()).unwrap_or(FAR_US).min(FAR_US)
    }
}

impl simulated::Machine for Machine {
    fn now(&self) -> Duration {
        let state = self.sim.state.lock();
        let clock_us = state.hosts.get(self.host).map_or(0, |host| host.clock_us);
        Duration::from_micros(state.now_us + clock_us)
    }

    fn sleep(&self, time: Duration) {
        let mut state = self.sim.state.lock();
        let until_us = state.now_us.saturating_add(Machine::micros(time));
        match self.actor {
            Some(actor) if state.phase == Phase::Running => {
                drop(self.sim.wait_until(state, actor, until_us));
            }
            _ => state.now_us = until_us,
        }
    }

    fn wait(&self, key: usize, until: Duration) {
        let until_us = Machine::micros(until).saturating_sub(self.clock_us());
        if let Some(actor) = self.actor {
            self.sim.wait_for(key, actor, until_us);
        }
    }

    fn wake(&self, key: usize) {
        Sim::wake(&mut self.sim.state.lock(), key);
    }

    fn starts(&self, body: simulated::Body) -> simulated::Body {
        let mut state = self.sim.state.lock();
        let Some(parent) = self.actor.filter(|_| state.phase == Phase::Running) else {
            return Box::new(|| ());
        };
        let process = state.actors[parent].process;
        let child = state.add_actor(process, "lease");
        drop(state);
        self.sim.enter(child, body)
    }

    fn started(&self, thread: ThreadId) {
        if self.actor.is_some() {
            if let Some(child) = self.sim.state.lock().actors.last_mut() {
                child.thread = Some(thread);
            }
        }
    }

    fn joins(&self, thread: ThreadId) -> bool {
        let Some(me) = self.actor else { return true };
        loop {
            let state = self.sim.state.lock();
            if state.is_dying(me) && std::thread::panicking() {
                return false;
            }
            let child = state.actors.iter().position(|actor| actor.thread == Some(thread));
            let Some(child) = child.filter(|child| !state.actors[*child].is_done) else { return true };
            drop(state);
            self.sim.wait_for(join_key(child), me, FAR_US);
        }
    }

    fn process(&self) -> simulated::Process {
        simulated::Process {
            host: format!("host{}", self.host),
            boot_id: format!("boot{}", self.boot),
            pid: self.pid,
            pid_namespace: 1,
            start_ticks: TICKS + u64::from(self.pid),
        }
    }

    /// Of this boot: the caller has compared that.
    fn is_running(&self, pid: u32, start_ticks: u64) -> bool {
        let state = self.sim.state.lock();
        let there = |process: &&super::baton::Process| process.boot == self.boot && process.pid == pid;
        let found = state.processes.iter().find(there);
        pid == self.pid || found.is_some_and(|found| !found.is_dead && start_ticks == TICKS + u64::from(pid))
    }
}
