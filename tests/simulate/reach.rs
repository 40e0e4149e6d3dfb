//! What must never happen to an object, looked at when it happens: one that
//! is needed is deleted, and a name that means one thing is made again.
//!
//! What is needed is found by a walk of our own from heads and snapshots. A
//! root that somebody has just made, and has not verified yet, may still be
//! made again: what it needs is not missed before its maker relies on it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use archipelago::backend::{memory, Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::catalog::{head, lease_format, snapshot, volume as volume_names};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::fault::{self, Planted};
use archipelago::log::replay::{replay, ReplayFrom};
use archipelago::log::Record;
use archipelago::map::{walk, Entry, Root, Visitor};
use archipelago::name::{prefix, Id, ObjectName};
use archipelago::store::Store;

use super::baton::{Process, State};
use super::image::Image;
use super::server::Change;

/// Who made a root, and in which act: until that ends well it is not sure.
type Maker = (usize, u64);

#[derive(Default)]
pub struct Reach {
    unsure: HashMap<ObjectName, Maker>,
    /// A root that its maker does not rely on yet, and what it lacks.
    doubts: Vec<(ObjectName, ObjectName, Maker)>,
    again: Vec<(ObjectName, Maker)>,
    maps: HashMap<Id, Arc<HashSet<ObjectName>>>,
    /// Epochs that are live in a head's log; forgotten when anything changes.
    live: HashMap<ObjectName, Arc<HashSet<Id>>>,
}

impl Reach {
    /// The store is not what it was.
    pub fn changed(&mut self) {
        self.live.clear();
    }
}

/// The store as it is, to be read without a call.
struct Peek(Image);

impl std::fmt::Debug for Peek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peek")
    }
}

fn no<T>(kind: ErrorKind) -> Result<T> {
    Err(Error::new(kind, "peek"))
}

impl Backend for Peek {
    fn capabilities(&self) -> Capabilities {
        memory::CAPABILITIES
    }
    fn create(&self, _: &ObjectName, _: &[u8]) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn create_sparse(&self, _: &ObjectName, _: u64) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        match self.0.get(name) {
            Some(object) => Ok(object.read(offset_bytes, buf)),
            None => no(ErrorKind::NotFound),
        }
    }
    fn write_at(&self, _: &ObjectName, _: u64, _: &[u8]) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn punch(&self, _: &ObjectName, _: u64, _: u64) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn sync(&self, _: &[ObjectName]) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn forget_synced(&self, _: &[ObjectName]) {}
    fn delete(&self, _: &ObjectName) -> Result<()> {
        no(ErrorKind::Denied)
    }
    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        match self.0.get(name) {
            Some(object) => Ok(ObjectStat { bytes: object.bytes, allocated_bytes: 0 }),
            None => no(ErrorKind::NotFound),
        }
    }
    fn list(&self, prefix: &str, after: Option<&ObjectName>, _: usize) -> Result<Vec<ObjectName>> {
        let names = self.0.names().filter(|(_, text)| text.starts_with(prefix)).map(|(name, _)| name.clone());
        let mut names: Vec<ObjectName> = names.collect();
        if let Some(at) = after.and_then(|after| names.iter().position(|name| name == after)) {
            names.drain(..=at);
        }
        Ok(names)
    }
    fn lock(&self, _: &ObjectName, _: LockMode) -> Result<Lock> {
        no(ErrorKind::Denied)
    }
    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

#[derive(Default)]
struct Found(HashSet<ObjectName>);

impl Visitor for Found {
    fn page(&mut self, id: Id, _level: u8) -> Result<bool> {
        Ok(self.0.insert(ObjectName::Page(id)))
    }
    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()> {
        entry.each_block(index, &mut |name| {
            self.0.insert(name);
        });
        Ok(())
    }
    fn failed(&mut self, _id: Id, _error: Error) -> Result<()> {
        Ok(())
    }
}

struct Walker {
    store: Store,
    image: Image,
    planted: Planted,
}

impl Walker {
    /// Bugs that are planted are not planted here.
    fn new(state: &State) -> Option<Walker> {
        let image = state.server.as_others_see();
        fault::plant(Planted::None);
        let store = Store::open("peek", Arc::new(Peek(image.clone()))).ok();
        let walker = store.map(|store| Walker { store, image, planted: state.planted });
        if walker.is_none() {
            fault::plant(state.planted);
        }
        walker
    }

    fn bytes(&self, name: &ObjectName) -> Vec<u8> {
        let Some(object) = self.image.get(name) else { return Vec::new() };
        let mut data = vec![0; object.bytes as usize];
        object.read(0, &mut data);
        data
    }

    fn map(&self, reach: &mut Reach, root: Root, block_bytes: u64) -> Arc<HashSet<ObjectName>> {
        if let Some(known) = reach.maps.get(&root.page) {
            return Arc::clone(known);
        }
        let mut found = Found::default();
        let _whatever_is_there = walk(&self.store, root, (block_bytes / 4096) as u32, &mut found);
        let found = Arc::new(found.0);
        reach.maps.insert(root.page, Arc::clone(&found));
        found
    }

    fn live(&self, reach: &mut Reach, object: &ObjectName, head: &head::Head) -> Arc<HashSet<Id>> {
        if let Some(known) = reach.live.get(object) {
            return Arc::clone(known);
        }
        let mut live = HashSet::from([head.epoch]);
        let from = ReplayFrom { segment: head.log.segment, position: head.log.position, tail: 0 };
        let granules = (head.block_bytes / 4096) as u32;
        let _whatever_is_there = replay(self.store.log(), head.volume, granules, from, &mut |found| {
            if let Record::Cut { epoch, .. } = found.record {
                live.insert(epoch);
            }
            Ok(())
        });
        let live = Arc::new(live);
        reach.live.insert(object.clone(), Arc::clone(&live));
        live
    }

    /// Whether a root needs this object.
    fn needs(&self, reach: &mut Reach, root: &ObjectName, object: &ObjectName) -> bool {
        let data = self.bytes(root);
        if let ObjectName::Snapshot { .. } = root {
            let Ok(found) = snapshot::decode(root, &data) else { return false };
            return self.map(reach, found.root, found.block_bytes).contains(object);
        }
        let Ok(head) = head::decode(root, &data) else { return false };
        match object {
            ObjectName::Segment { volume, number } => *volume == head.volume && *number >= head.log.segment,
            ObjectName::Block { epoch, .. } if self.live(reach, root, &head).contains(epoch) => true,
            _ => self.map(reach, head.root, head.block_bytes).contains(object),
        }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        fault::plant(self.planted);
    }
}

/// The volumes that a name leads to.
fn named(state: &State) -> HashSet<Id> {
    let mut named = HashSet::new();
    for object in state.server.names(prefix::VOLUMES) {
        let Some(there) = state.server.object(&object) else { continue };
        let mut data = vec![0; there.bytes as usize];
        there.read(0, &mut data);
        named.extend(volume_names::decode(&object, &data).ok().map(|(id, _)| id));
    }
    named
}

/// False for the head of a volume that was removed: one that was taken over
/// may have made it since.
fn counts(root: &ObjectName, named: &HashSet<Id>) -> bool {
    !matches!(root, ObjectName::Head { volume, .. } if !named.contains(volume))
}

/// Roots by what they are the numbers of, the highest last.
fn families(state: &State) -> Vec<Vec<ObjectName>> {
    let mut families: Vec<Vec<ObjectName>> = Vec::new();
    let mut names = state.server.names(prefix::HEADS);
    names.extend(state.server.names(prefix::SNAPSHOTS));
    for name in names {
        match families.last_mut() {
            Some(family) if is_same(&family[0], &name) => family.push(name),
            _ => families.push(vec![name]),
        }
    }
    families
}

fn is_same(a: &ObjectName, b: &ObjectName) -> bool {
    use ObjectName::{Head, Snapshot};
    match (a, b) {
        (Head { volume: a, .. }, Head { volume: b, .. }) => a == b,
        (Snapshot { volume: a, name: x, .. }, Snapshot { volume: b, name: y, .. }) => a == b && x == y,
        _ => false,
    }
}

fn is_highest(state: &State, root: &ObjectName) -> bool {
    families(state).iter().any(|family| family.last() == Some(root))
}

/// Looks at a deletion before it happens.
pub fn before_delete(state: &mut State, act: &'static str, name: &ObjectName) {
    let found = match name {
        ObjectName::Head { .. } => {
            let may = ["remove", "gc", "create", "clone"].contains(&act);
            (!may && is_highest(state, name)).then(|| format!("the last head {name} is deleted by {act}"))
        }
        ObjectName::Segment { .. } | ObjectName::Block { .. } | ObjectName::Page(_) => {
            needed_by(state, act, name)
        }
        _ => None,
    };
    if let Some(text) = found {
        state.fail(text);
    }
}

fn needed_by(state: &mut State, act: &'static str, name: &ObjectName) -> Option<String> {
    state.server.object(name)?;
    let families = families(state);
    let walker = Walker::new(state)?;
    let mut reach = std::mem::take(&mut state.reach);
    let (mut wrong, named) = (None, named(state));
    for family in &families {
        // Down to the first that is sure: only that one is certain to count.
        for root in family.iter().rev() {
            let unsure = reach.unsure.get(root).copied();
            if walker.needs(&mut reach, root, name) {
                match unsure {
                    Some(maker) if act == "gc" => reach.doubts.push((root.clone(), name.clone(), maker)),
                    _ if !counts(root, &named) => {}
                    _ => wrong = Some(format!("{name} is deleted by {act}, and {root} needs it")),
                }
            }
            // A holder has verified its own last head before it deletes.
            if unsure.is_none() || act != "gc" {
                break;
            }
        }
    }
    drop(walker);
    state.reach = reach;
    wrong
}

/// Whether something that counts needs this. What only a root needs that its
/// maker did not live to verify may be gone: the root before says the same.
pub fn is_needed(state: &mut State, text: &str) -> bool {
    let Some(name) = ObjectName::parse(text) else { return true };
    // A removal may miss a rename, where listings lag (docs/design.md, known
    // limits) and where one of them has died half-way.
    if let ObjectName::Volume(name) = &name {
        let vol = state.oracle.of_name(name.as_str()).map(|at| &state.oracle.vols[at]);
        return !state.plan.lags && vol.is_none_or(|vol| !vol.is_half_done());
    }
    if !matches!(name, ObjectName::Segment { .. } | ObjectName::Block { .. } | ObjectName::Page(_)) {
        return true;
    }
    let families = families(state);
    let Some(walker) = Walker::new(state) else { return true };
    let mut reach = std::mem::take(&mut state.reach);
    let (mut is_needed, named) = (false, named(state));
    for family in families.iter().filter(|family| counts(&family[0], &named)) {
        // What one that was taken over has published, if it could, is nobody's.
        if matches!(&family[0], ObjectName::Snapshot { name, .. } if state.oracle.is_wild(name.as_str())) {
            continue;
        }
        if let Some(sure) = family.iter().rposition(|root| !reach.unsure.contains_key(root)) {
            is_needed |= walker.needs(&mut reach, &family[sure], &name);
        }
    }
    drop(walker);
    state.reach = reach;
    is_needed
}

/// A change has been applied that its maker knows of.
pub fn after(state: &mut State, actor: Option<usize>, change: &Change) {
    let (name, is_new) = note(state, change);
    let Some(actor) = actor else { return };
    let maker = (actor, state.actors[actor].act_number);
    if !is_new {
        match name {
            ObjectName::Head { .. } | ObjectName::Segment { .. } => {
                state.reach.again.push((name.clone(), maker));
            }
            _ => state.fail(format!("{name} is made, and there was one of that name before")),
        }
    }
    if matches!(change, Change::Create { .. }) && is_root(name) {
        state.reach.unsure.insert(name.clone(), maker);
    }
}

/// A change has been applied whose maker is gone.
pub fn after_late(state: &mut State, actor: usize, change: &Change) {
    let (name, _) = note(state, change);
    if matches!(change, Change::Create { .. }) && is_root(name) {
        state.reach.unsure.insert(name.clone(), (actor, 0));
    }
}

fn is_root(name: &ObjectName) -> bool {
    matches!(name, ObjectName::Head { .. } | ObjectName::Snapshot { .. })
}

/// False: it makes a name again that must mean one thing.
fn note<'a>(state: &mut State, change: &'a Change) -> (&'a ObjectName, bool) {
    use ObjectName::{Block, Epoch, Head, Page, Segment};
    let name = change.name();
    let is_made = matches!(change, Change::Create { .. } | Change::CreateSparse { .. });
    match (name, change) {
        (Head { .. } | Segment { .. }, _) => state.reach.changed(),
        (ObjectName::Lease { volume, .. }, Change::Create { data, .. }) => {
            note_lease(state, *volume, name, data)
        }
        _ => {}
    }
    let once = matches!(name, Segment { .. } | Head { .. } | Block { .. } | Page(_) | Epoch(_));
    let is_new = !is_made || !once || state.server.made.insert(name.clone());
    (name, is_new)
}

/// Whose lease is broken, whoever the operator means; and who has one again.
fn note_lease(state: &mut State, volume: Id, name: &ObjectName, data: &[u8]) {
    let Ok(record) = lease_format::decode(name, data) else { return };
    let is_broken = matches!(record.state, lease_format::State::Broken { .. });
    let is_last = state.server.names(&prefix::leases_of(volume)).last() == Some(name);
    let is_taken = record.state == lease_format::State::Held && is_last;
    if !is_broken && !is_taken {
        return;
    }
    let is_holder = |process: &Process| !process.is_dead && process.pid == record.holder.process.pid;
    let Some(holder) = state.processes.iter().position(is_holder) else { return };
    let mut named = state.server.names(prefix::VOLUMES).into_iter();
    let found = named.find_map(|object| {
        let ObjectName::Volume(text) = &object else { return None };
        let there = state.server.object(&object)?;
        let mut data = vec![0; there.bytes as usize];
        there.read(0, &mut data);
        let (id, _) = volume_names::decode(&object, &data).ok()?;
        (id == volume).then(|| state.oracle.of_name(text.as_str())).flatten()
    });
    if let Some(vol) = found.filter(|_| !is_broken) {
        state.oracle.vols[vol].zombies.retain(|zombie| zombie.process != holder);
    } else if let Some(vol) = found {
        let now_us = state.now_us;
        state.counts.doubted += 1;
        state.oracle.note_broken(vol, holder, now_us);
    }
}

/// An act has ended: what was not relied upon until now counts.
pub fn end_act(state: &mut State, actor: usize, is_ok: bool) {
    let maker = (actor, state.actors[actor].act_number);
    let again = std::mem::take(&mut state.reach.again);
    let (mine, others): (Vec<_>, Vec<_>) = again.into_iter().partition(|(_, by)| *by == maker);
    state.reach.again = others;
    let process = state.actors[actor].process;
    // One that was taken over on the operator's wrong word finds out later.
    let relies = is_ok && !state.oracle.is_zombie(process);
    let is_there = |(name, _): &&(ObjectName, Maker)| relies && state.server.object(name).is_some();
    if let Some((name, _)) = mine.iter().find(is_there) {
        state.fail(format!("{name} was made again, and who made it relies on it"));
    }
    let doubts = std::mem::take(&mut state.reach.doubts);
    let (mine, others): (Vec<_>, Vec<_>) = doubts.into_iter().partition(|(_, _, by)| *by == maker);
    state.reach.doubts = others;
    if !is_ok {
        return;
    }
    state.reach.unsure.retain(|_, by| *by != maker);
    let named = named(state);
    for (root, object, _) in mine {
        if is_highest(state, &root) && counts(&root, &named) {
            state.fail(format!("{object} was deleted, and {root}, on which its maker relies, needs it"));
        }
    }
}
