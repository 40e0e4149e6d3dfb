//! What commands do, from any host and while others hold volumes: create,
//! clone, rename, remove, collect, check, read snapshots, break leases.

use archipelago::catalog::lease::{self, LeaseState};
use archipelago::catalog::{snapshot as snapshots, volume as names};
use archipelago::clock;
use archipelago::error::{ErrorKind, Result};
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::store::Store;
use archipelago::volume::Volume;
use std::sync::Arc;

use super::acts::{snapshot_name, volume_name, Life};
use super::baton::State;
use super::image::SECTOR;
use super::oracle::Vol;
use super::plan::BLOCK;
use super::sector::Content;
use super::trouble::LATE_US;

const VOLUMES_MAX: usize = 5;

impl Life {
    pub fn change_something(&mut self) {
        if self.held.is_some() {
            return self.write_something();
        }
        match self.random.weighted(&[3, 12, 4, 3, 6, 8, 3, 4]) {
            0 => self.create(),
            1 => self.clone_some(),
            2 => self.rename(),
            3 => self.remove(),
            4 => {
                if let Some((at, _)) = self.pick_volume() {
                    self.remove_snapshot(at, None);
                }
            }
            5 => self.read_snapshot(),
            6 => self.check(),
            _ => self.open_some(),
        }
    }

    pub fn collect(&mut self) {
        match self.random.below(6) {
            0 => self.check(),
            _ => self.gc(),
        }
    }

    fn create(&mut self) {
        let bytes = (1 + self.random.below(4)) * BLOCK;
        let Some((at, name)) = self.announce(vec![Content::zero(bytes)]) else { return };
        let made = self.act("create", name.clone(), |life| {
            names::create(&life.store, &volume_name(&name), bytes, BLOCK)
        });
        self.made(at, made.map(drop), "create");
    }

    /// Says that a volume may come to be.
    fn announce(&mut self, contents: Vec<Content>) -> Option<(usize, String)> {
        let mut state = self.lock();
        if state.oracle.vols.len() >= VOLUMES_MAX {
            return None;
        }
        let name = state.oracle.fresh("v");
        let names = vec![(name.clone(), false)];
        state.oracle.vols.push(Vol { names, contents, is_in_the_making: true, ..Vol::default() });
        Some((state.oracle.vols.len() - 1, name))
    }

    fn made(&mut self, at: usize, made: Result<()>, what: &str) {
        self.lock().oracle.vols[at].is_in_the_making = false;
        match made {
            Ok(()) => {
                let mut state = self.lock();
                let vol = &mut state.oracle.vols[at];
                vol.is_made = true;
                if vol.names.len() == 1 {
                    vol.names[0].1 = true;
                }
            }
            Err(error) => self.must_not_be_damage(what, &error),
        }
    }

    fn clone_some(&mut self) {
        let Some((from, volume)) = self.pick_volume() else { return };
        let Some(snapshot) = self.pick_snapshot(from) else { return };
        let content = {
            let mut state = self.lock();
            state.oracle.vols[from].snap(&snapshot).map(|snap| snap.content.clone())
        };
        let Some((at, name)) = content.and_then(|content| self.announce(vec![content])) else { return };
        let what = format!("{name} of {volume}@{snapshot}");
        let made = self.act("clone", what, |life| {
            let id = names::lookup(&life.store, &volume_name(&volume))?;
            let source = snapshots::find(&life.store, id, &snapshot_name(&snapshot))?;
            names::clone(&life.store, &source, &volume_name(&name), None)
        });
        self.made(at, made.map(drop), "clone");
    }

    fn rename(&mut self) {
        let Some((at, from)) = self.pick_volume() else { return };
        let to = {
            let mut state = self.lock();
            let to = state.oracle.fresh("v");
            let vol = &mut state.oracle.vols[at];
            vol.names.iter_mut().filter(|(name, _)| *name == from).for_each(|(_, must)| *must = false);
            vol.names.push((to.clone(), false));
            vol.renamings += 1;
            vol.renamed += 1;
            vol.left.push(from.clone());
            to
        };
        let renamed = self.act("rename", format!("{from} to {to}"), |life| {
            names::rename(&life.store, &volume_name(&from), &volume_name(&to))
        });
        let mut state = self.lock();
        let vol = &mut state.oracle.vols[at];
        vol.renamings -= 1;
        match renamed {
            Ok(()) => {
                // Another one may be renaming or removing it.
                let is_alone = vol.removals == 0 && !vol.may_be_removed && !vol.left.contains(&to);
                vol.names.iter_mut().filter(|(name, _)| *name == to).for_each(|(_, must)| *must = is_alone);
                vol.names.retain(|(name, _)| *name != from);
            }
            Err(error) => {
                vol.has_failed = true;
                drop(state);
                self.must_not_be_damage("rename", &error);
            }
        }
    }

    fn remove(&mut self) {
        let Some((at, name)) = self.pick_volume() else { return };
        let (opened, holder, kept, renamed) = {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            vol.removals += 1;
            let renamed = (vol.renamings, vol.renamed);
            let kept: Vec<bool> = vol.snaps.iter().map(|snap| snap.must).collect();
            vol.snaps.iter_mut().for_each(|snap| snap.must = false);
            let holder = vol.owner.filter(|holder| !vol.is_closing && !vol.is_zombie(*holder));
            (vol.opened, holder, kept, renamed)
        };
        let removed =
            self.act("remove", name.clone(), |life| names::remove(&life.store, &volume_name(&name), true));
        let mut state = self.lock();
        let is_held = holder.is_some_and(|holder| !state.processes[holder].is_dead);
        let vol = &mut state.oracle.vols[at];
        vol.removals -= 1;
        let name_only = matches!(&removed, Ok(plan) if plan.name_only.is_some());
        if name_only {
            // The other name may go, because a rename is under way.
            vol.may_be_removed |= renamed != (0, vol.renamed);
            vol.names.retain(|(there, _)| *there != name);
        }
        if name_only || removed.as_ref().is_err_and(|error| error.is(ErrorKind::Busy)) {
            vol.snaps.iter_mut().zip(kept).for_each(|(snap, must)| snap.must = must);
            return;
        }
        vol.may_be_removed = true;
        vol.has_failed |= removed.is_err();
        let is_same = vol.owner == holder && vol.opened == opened && !vol.is_closing;
        let is_zombie = holder.is_some_and(|holder| vol.is_zombie(holder));
        if removed.is_ok() && is_held && is_same && !is_zombie {
            state.fail(format!("volume '{name}' is removed, and process {holder:?} holds it and lives"));
        } else if let Err(error) = removed {
            drop(state);
            self.must_not_be_damage("remove", &error);
        }
    }

    pub fn remove_snapshot(&mut self, at: usize, held: Option<&Arc<Volume>>) {
        let Some(snapshot) = self.pick_snapshot(at) else { return };
        let Some(volume) = self.lock().oracle.vols[at].name() else { return };
        if let Some(snap) = self.lock().oracle.vols[at].snap(&snapshot) {
            snap.must = false;
        }
        let removed = self.act("remove snapshot", format!("{snapshot} of {volume}"), |life| match held {
            Some(held) => held.remove_snapshot(&snapshot_name(&snapshot)),
            None => {
                let id = names::lookup(&life.store, &volume_name(&volume))?;
                snapshots::remove(&life.store, id, &snapshot_name(&snapshot))
            }
        });
        if let Err(error) = removed {
            self.must_not_be_damage("remove snapshot", &error);
        }
    }

    fn read_snapshot(&mut self) {
        let Some((at, volume)) = self.pick_volume() else { return };
        let Some(snapshot) = self.pick_snapshot(at) else { return };
        let read = self.act("read snapshot", format!("{volume}@{snapshot}"), |life| {
            life.read_snapshot_of(&life.store.clone(), (at, &volume), &snapshot)
        });
        let Err(error) = read else { return };
        let is_there = self.lock().oracle.vols[at].snap(&snapshot).is_some_and(|snap| snap.must);
        if is_there {
            self.must_not_be_damage("read snapshot", &error);
        }
    }

    /// A published snapshot in full, as the model has it.
    pub fn read_snapshot_of(
        &mut self,
        store: &Store,
        (at, volume): (usize, &str),
        snapshot: &str,
    ) -> Result<()> {
        let (name, which) = (volume_name(volume), snapshot_name(snapshot));
        let id = names::lookup(store, &name)?;
        snapshots::find(store, id, &which)?;
        let open = Volume::open_snapshot(store, &name, &which)?;
        let sectors = open.size_bytes() as usize / SECTOR;
        let values = self.read_values(&open, 0, sectors)?;
        let mut state = self.lock();
        let Some(snap) = state.oracle.vols[at].snap(snapshot).filter(|snap| !snap.is_wild) else {
            return Ok(());
        };
        let wrong = match snap.content.bytes == open.size_bytes() {
            true => snap.content.wrong_at(0, &values),
            false => Some(format!("it has {} bytes, not {}", open.size_bytes(), snap.content.bytes)),
        };
        snap.content.read(0, &values);
        if let Some(text) = wrong {
            state.fail(format!("snapshot {volume}@{snapshot}: {text}"));
        }
        Ok(())
    }

    pub fn gc(&mut self) {
        let collected = self.act("gc", String::new(), |life| {
            let identity = life.options.lease.identity.clone();
            let options = GcOptions { dry_run: false, identity, wait: clock::sleep };
            gc::run(&life.store, &options, &mut |_| ())
        });
        match collected {
            Ok(report) => self.lock().counts.collected += report.deleted().objects,
            Err(error) => self.must_not_be_damage("gc", &error),
        }
    }

    pub fn check(&mut self) {
        let options = CheckOptions { blocks: true, measure: false };
        let checked = self.act("check", String::new(), |life| check::run(&life.store, &options, &mut |_| ()));
        match checked {
            Ok(report) => {
                let mut state = self.lock();
                let is_needed = |state: &mut State, object: &str| super::reach::is_needed(state, object);
                if report.damage().any(|problem| is_needed(&mut state, &problem.object)) {
                    state.fail(format!("check finds: {report}"));
                }
            }
            Err(error) => self.must_not_be_damage("check", &error),
        }
    }

    /// Ends leases of holders that are certainly gone; a careless operator
    /// those of holders that only seem so.
    pub fn operate(&mut self) {
        let Some((_, name)) = self.pick_volume() else { return };
        let shown = self.act("look at lease", name.clone(), |life| {
            let id = names::lookup(&life.store, &volume_name(&name))?;
            Ok((id, lease::show(&life.store, id)?))
        });
        let Ok((id, LeaseState::Held { holder, .. })) = shown else { return };
        let (holder, is_gone, may) = {
            let state = self.lock();
            let is = |process: &&super::baton::Process| {
                process.pid == holder.process.pid && format!("boot{}", process.boot) == holder.process.boot_id
            };
            let there = state.processes.iter().find(is);
            let is_gone = there.is_none_or(|there| there.is_dead && there.died_us + LATE_US < state.now_us);
            let is_dead = there.is_some_and(|there| there.is_dead);
            let holder = state.processes.iter().position(|process| is(&process));
            (holder, is_gone, is_gone || (!is_dead && state.plan.careless) || !state.plan.kind.is_shared())
        };
        if !may || (!is_gone && !self.random.one_in(3)) {
            return;
        }
        let broken = self.act("break lease", format!("{name} of process {holder:?}"), |life| {
            lease::break_lease(&life.store, id, &name, "the operator")
        });
        self.broken(holder, &broken);
    }

    /// Where the kernel knows who lives nothing is broken on anybody's word.
    fn broken(&self, holder: Option<usize>, broken: &Result<()>) {
        let mut state = self.lock();
        let alive = holder.filter(|holder| !state.processes[*holder].is_dead);
        if let (Ok(()), Some(alive), false) = (broken, alive, state.plan.kind.is_shared()) {
            state.fail(format!("the lease of process {alive} is broken, and it lives"));
        }
    }
}
