//! One seed from beginning to end: a store with volumes, processes that work
//! on it while things go wrong, and at the end everything opened, read in
//! full, checked, collected and read again.

use std::collections::HashSet;
use std::sync::Arc;

use archipelago::catalog::lease::{self, LeaseState};
use archipelago::catalog::volume as names;
use archipelago::clock::{seeded, simulated};
use archipelago::error::ErrorKind;
use archipelago::fault::{self, Planted};
use archipelago::name::Id;
use archipelago::store::Store;
use archipelago::volume::Volume;

use super::acts::{self, options, volume_name, Life, Role};
use super::baton::Sim;
use super::client::Client;
use super::image::mix;
use super::machine::Machine;
use super::model::Values;
use super::oracle::Vol;
use super::plan::{Plan, BLOCK};
use super::random::Random;
use super::report::Counts;
use super::sector::Content;

pub struct Outcome {
    pub violation: Option<String>,
    pub digest: u64,
    /// All steps, if they were asked for.
    pub trace: String,
    pub counts: Counts,
}

/// Runs one seed. `is_loud`: a violation tells every step.
pub fn run(seed: u64, planted: Planted, is_loud: bool) -> Outcome {
    let plan = Plan::of(seed);
    let sim = Sim::new(seed, plan.clone(), planted);
    sim.state.lock().trace.is_loud = is_loud;
    seeded::seed(Some(mix(seed, 5)));
    fault::plant(planted);
    simulated::put_on(Some(Arc::new(Machine::quiet(&sim, 50))));
    begin(&sim, &plan);
    let begun_us = sim.state.lock().now_us;
    sim.run();
    let ended_us = sim.state.lock().now_us;
    if sim.state.lock().violation.is_none() {
        end(&sim, seed);
    }
    simulated::put_on(None);
    fault::plant(Planted::None);
    seeded::seed(None);
    let mut state = sim.state.lock();
    let mut counts = std::mem::take(&mut state.counts);
    counts.seeds = 1;
    counts.steps = state.trace.steps;
    counts.simulated_s = (ended_us - begun_us) as f64 / 1e6;
    let kind = match (plan.kind.is_shared(), plan.lags) {
        (false, _) => "local store",
        (true, false) => "shared store",
        (true, true) => "shared, listings lag",
    };
    counts.stores.insert(kind.to_owned(), 1);
    let trace = if is_loud { state.trace.text() } else { String::new() };
    Outcome { violation: state.violation.take(), digest: state.trace.digest, trace, counts }
}

fn begin(sim: &Arc<Sim>, plan: &Plan) {
    let store = Store::init("simulated", Client::new(sim, 0, usize::MAX), BLOCK).unwrap();
    for at in 0..plan.volumes {
        let name = format!("a{at}");
        names::create(&store, &volume_name(&name), plan.size_bytes, BLOCK).unwrap();
        let names = vec![(name, true)];
        let contents = vec![Content::zero(plan.size_bytes)];
        sim.state.lock().oracle.vols.push(Vol { is_made: true, names, contents, ..Vol::default() });
    }
    let mut state = sim.state.lock();
    let roles = [
        (Role::Writer, plan.writers),
        (Role::Tool, plan.tools),
        (Role::Collector, plan.collectors),
        (Role::Operator, usize::from(plan.kind.is_shared() || plan.careless)),
    ];
    for (role, count) in roles {
        for _ in 0..count {
            let host = state.random.below(plan.hosts as u64) as usize;
            acts::start(sim, &mut state, role, host);
        }
    }
    super::trouble::plan(&mut state);
}

fn end(sim: &Arc<Sim>, seed: u64) {
    let random = Random::of(seed, 3);
    let (me, process) = {
        let mut state = sim.state.lock();
        for process in 0..state.processes.len() {
            state.processes[process].is_dead = true;
            state.server.unlock_all(process);
        }
        super::trouble::settle_down(&mut state);
        let process = state.add_process(0, "end");
        (state.processes[process].main, process)
    };
    let pid = sim.state.lock().processes[process].pid;
    simulated::put_on(Some(Arc::new(Machine::quiet(sim, pid))));
    let host = if sim.state.lock().plan.kind.is_shared() { 99 } else { 0 };
    let Ok(store) = Store::open("simulated", Client::new(sim, host, process)) else {
        return sim.state.lock().fail("the store does not open at the end".to_owned());
    };
    let options = options(&sim.state.lock().plan);
    let (sim, values) = (Arc::clone(sim), Values::default());
    let mut life = Life { sim, me, process, random, store, options, values, held: None };
    look_at_all(&mut life);
    life.check();
    if life.random.one_in(2) {
        life.gc();
        life.gc();
        life.check();
        look_at_all(&mut life);
    }
}

/// Opens every volume, reads it and its snapshots, and closes it again.
fn look_at_all(life: &mut Life) {
    let listed = match names::list(&life.store) {
        Ok(listed) => listed,
        Err(error) => {
            return life.lock().fail(format!("volumes are not listed at the end: {}", error.full()))
        }
    };
    let mut seen: HashSet<Id> = HashSet::new();
    let mut reached = HashSet::new();
    for (name, id) in &listed {
        let Some(at) = life.lock().oracle.of_name(name.as_str()) else {
            return life.lock().fail(format!("volume '{name}' exists, and nobody made it"));
        };
        reached.insert(at);
        if seen.insert(*id) {
            look_at(life, at, name.as_str(), *id);
        }
    }
    let lost = {
        let state = life.lock();
        let there = |name: &String| listed.iter().any(|(listed, _)| listed.as_str() == name);
        let vols = state.oracle.vols.iter().enumerate().filter(|(_, vol)| vol.must());
        let is_lost = |(at, vol): &(usize, &Vol)| {
            !reached.contains(at) || vol.names.iter().any(|(name, must)| *must && !there(name))
        };
        vols.filter(is_lost).map(|(_, vol)| format!("{:?}", vol.names)).next()
    };
    if let Some(names) = lost {
        life.lock().fail(format!("a volume is lost, or a name of it: {names}; there are {listed:?}"));
    }
}

fn look_at(life: &mut Life, at: usize, name: &str, id: Id) {
    let fails = |life: &Life, what: &str, text: String| {
        life.lock().fail(format!("at the end {what} of '{name}': {text}"))
    };
    match lease::show(&life.store, id) {
        Ok(LeaseState::Held { .. }) if life.lock().plan.kind.is_shared() => {
            if let Err(error) = lease::break_lease(&life.store, id, name, "the end") {
                return fails(life, "breaking the lease", error.full());
            }
        }
        Err(error) => return fails(life, "the lease", error.full()),
        _ => {}
    }
    let must = life.lock().oracle.vols[at].must();
    let volume = match Volume::open(&life.store, &volume_name(name), &life.options) {
        Ok(volume) => volume,
        Err(error) if !must && error.is(ErrorKind::NotFound) => return,
        Err(error) => return fails(life, "opening", error.full()),
    };
    if let Err(error) = life.take(at, Arc::clone(&volume)) {
        return fails(life, "reading", error.full());
    }
    let listed = match volume.snapshots().and_then(|listed| volume.publish_all().map(|()| listed)) {
        Ok(listed) => listed,
        Err(error) => return fails(life, "its snapshots", error.full()),
    };
    let there: Vec<String> = listed.iter().map(|listed| listed.name.to_string()).collect();
    let lost = {
        let state = life.lock();
        let vol = &state.oracle.vols[at];
        let lost = vol.snaps.iter().find(|snap| snap.must && vol.must() && !there.contains(&snap.name));
        lost.map(|snap| snap.name.clone())
    };
    if let Some(lost) = lost {
        return fails(life, "snapshots", format!("{lost} is lost"));
    }
    for snapshot in &there {
        if life.lock().oracle.is_wild(snapshot) {
            continue;
        }
        let store = life.store.clone();
        if let Err(error) = life.read_snapshot_of(&store, (at, name), snapshot) {
            return fails(life, "a snapshot", format!("{snapshot}: {}", error.full()));
        }
    }
    life.close();
}
