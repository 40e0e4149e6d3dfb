//! What goes wrong: processes are killed or paused, hosts lose power or their
//! way to the store, kernels write back when they like.

use std::sync::Arc;

use super::acts::Role;
use super::baton::{Sent, Sim, State};
use super::server::Change;

#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    Kill,
    Pause,
    PauseForEver,
    PowerLoss,
    Cut,
    WriteBack,
    /// Another process begins where one has ended.
    Start {
        role: Role,
        host: usize,
    },
}

/// How long a change may be on its way after its sender has died.
pub const LATE_US: u64 = 400_000;

/// Plans the troubles of a simulation.
pub fn plan(state: &mut State) {
    let is_shared = state.plan.kind.is_shared();
    for _ in 0..state.plan.troubles {
        let trouble = match state.random.below(10) {
            0..=2 => Trouble::Kill,
            3..=4 => Trouble::Pause,
            5 => Trouble::PauseForEver,
            6..=7 if is_shared => Trouble::Cut,
            _ => Trouble::PowerLoss,
        };
        let at_us = state.now_us + state.random.below(3_000_000);
        state.trouble_at(trouble, at_us);
    }
    for _ in 0..6 {
        let at_us = state.now_us + state.random.below(3_000_000);
        state.trouble_at(Trouble::WriteBack, at_us);
    }
}

fn some_process(state: &mut State) -> Option<usize> {
    let there = |process: &usize| {
        let process = &state.processes[*process];
        !process.is_dead && !state.actors[process.main].is_done && process.paused_until_us <= state.now_us
    };
    let alive: Vec<usize> = (0..state.processes.len()).filter(there).collect();
    state.random.pick(&alive).copied()
}

pub fn happens(sim: &Arc<Sim>, state: &mut State, trouble: Trouble) {
    let now_us = state.now_us;
    if let Trouble::Start { role, host } = trouble {
        state.trace.say(now_us, format!("a new process on host {host}: {role:?}"));
        super::acts::start(sim, state, role, host);
        return;
    }
    match trouble {
        Trouble::Kill => {
            let Some(process) = some_process(state) else { return };
            state.trace.say(now_us, format!("process {process} is killed"));
            kill(state, process);
            again(state, process);
        }
        Trouble::Pause | Trouble::PauseForEver => {
            let Some(process) = some_process(state) else { return };
            let for_us = match trouble {
                Trouble::Pause => state.random.within(100_000, 8_000_000),
                _ => super::baton::FAR_US,
            };
            state.processes[process].paused_until_us = now_us + for_us;
            state.trace.say(now_us, format!("process {process} is paused for {for_us} us"));
        }
        Trouble::PowerLoss => {
            let host = state.random.below(state.hosts.len() as u64) as usize;
            state.trace.say(now_us, format!("host {host} loses power"));
            let there = |process: &usize| {
                let process = &state.processes[*process];
                process.host == host && !process.is_dead && !state.actors[process.main].is_done
            };
            let killed: Vec<usize> = (0..state.processes.len()).filter(there).collect();
            for process in &killed {
                kill(state, *process);
            }
            state.server.lose_power(host, now_us, &mut state.random);
            state.reach.changed();
            state.hosts[host].boot += 100;
            killed.into_iter().for_each(|process| again(state, process));
        }
        Trouble::Cut => {
            let host = state.random.below(state.hosts.len() as u64) as usize;
            let for_us = state.random.within(50_000, 6_000_000);
            state.hosts[host].cut_until_us = now_us + for_us;
            state.trace.say(now_us, format!("host {host} does not reach the store for {for_us} us"));
        }
        Trouble::WriteBack => {
            let host = state.random.below(state.hosts.len() as u64) as usize;
            let State { server, random, .. } = state;
            server.write_some_back(host, random);
        }
        Trouble::Start { .. } => {}
    }
    state.counts.trouble(trouble);
}

/// Ends a process at once; what it had under way is done, lost, or late.
fn kill(state: &mut State, process: usize) {
    let host = state.processes[process].host;
    for actor in 0..state.actors.len() {
        if state.actors[actor].process != process {
            continue;
        }
        let Some(change) = state.actors[actor].in_flight.take() else { continue };
        let act = state.actors[actor].act;
        let ways = if state.plan.kind.is_shared() { 3 } else { 2 };
        match state.random.below(ways) {
            0 => {}
            1 => super::client::land(state, Sent { host, actor, act, change }),
            _ => {
                if matches!(&change, Change::Write { .. }) {
                    state.oracle.note_late_write(process);
                }
                let at_us = state.now_us + state.random.below(LATE_US);
                state.land_at(Sent { host, actor, act, change }, at_us);
            }
        }
    }
    state.end_process(process);
    dies(state, process);
}

/// A process has ended, by itself or not.
pub fn dies(state: &mut State, process: usize) {
    let now_us = state.now_us;
    let dead = &mut state.processes[process];
    if !dead.is_dead {
        (dead.is_dead, dead.died_us) = (true, now_us);
    }
    state.server.unlock_all(process);
}

fn again(state: &mut State, process: usize) {
    let Some(role) = Role::of(state.actors[state.processes[process].main].label) else { return };
    let host = state.random.below(state.hosts.len() as u64) as usize;
    let at_us = state.now_us + state.random.within(1_000, 500_000);
    state.trouble_at(Trouble::Start { role, host }, at_us);
}

/// Nobody runs any more: what is on its way arrives or does not, and hosts
/// write back what they have, or lose power.
pub fn settle_down(state: &mut State) {
    for sent in state.on_their_way() {
        if state.random.one_in(2) {
            super::client::land(state, sent);
        }
    }
    let now_us = state.now_us;
    for host in 0..state.hosts.len() {
        let State { server, random, .. } = state;
        match random.one_in(3) {
            true => server.write_all_back(host),
            false => server.lose_power(host, now_us, random),
        }
    }
    state.reach.changed();
}
