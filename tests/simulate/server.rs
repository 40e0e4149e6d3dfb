//! What is in the simulated store: objects as the disk (or the server) has
//! them, over them what each host has written and not synced, the locks, and
//! how listings looked when a host last looked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use archipelago::backend::order::{first_with, ByText};
use archipelago::backend::LockMode;
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::{Id, ObjectName};

use super::image::{Image, Object};
use super::plan::Plan;
use super::random::Random;

/// How old a listing may be, where listings lag.
pub const LAG_US: u64 = 1_000_000;
/// What was deleted so lately may be back after a loss of power.
const UNDELETED_US: u64 = 300_000;

/// A change of the store.
#[derive(Clone, Debug)]
pub enum Change {
    Create { name: ObjectName, data: Arc<[u8]> },
    CreateSparse { name: ObjectName, bytes: u64 },
    Write { name: ObjectName, offset: u64, data: Arc<[u8]> },
    Delete { name: ObjectName },
}

impl Change {
    pub fn name(&self) -> &ObjectName {
        match self {
            Change::Create { name, .. }
            | Change::CreateSparse { name, .. }
            | Change::Write { name, .. }
            | Change::Delete { name } => name,
        }
    }

    pub fn verb(&self) -> &'static str {
        match self {
            Change::Create { .. } => "create",
            Change::CreateSparse { .. } => "create sparse",
            Change::Write { .. } => "write",
            Change::Delete { .. } => "delete",
        }
    }
}

struct Dirty {
    host: usize,
    offset: u64,
    data: Arc<[u8]>,
}

struct Gone {
    object: Arc<Object>,
    created_us: u64,
    deleted_us: u64,
}

#[derive(Default)]
struct Locked {
    exclusive: Option<(usize, u64)>,
    shared: Vec<(usize, u64)>,
}

pub struct Server {
    image: Image,
    dirty: BTreeMap<ByText, Vec<Dirty>>,
    /// Objects whose names a loss of power may take.
    unsynced: BTreeSet<ByText>,
    created_us: HashMap<ObjectName, u64>,
    gone: BTreeMap<ByText, Gone>,
    looked_us: BTreeMap<(usize, String), u64>,
    locks: HashMap<ObjectName, Locked>,
    locks_made: u64,
    pub made: HashSet<ObjectName>,
    is_shared: bool,
    lags: bool,
    log_is_cached: bool,
}

/// The folders on the way to an object, outermost first.
fn folders(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.match_indices('/').map(|(at, _)| &text[..=at])
}

fn error(kind: ErrorKind, verb: &'static str, name: &ObjectName) -> Error {
    Error::new(kind, verb).on(name)
}

impl Server {
    pub fn new(plan: &Plan) -> Server {
        Server {
            image: Image::default().plain(),
            dirty: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            created_us: HashMap::new(),
            gone: BTreeMap::new(),
            looked_us: BTreeMap::new(),
            locks: HashMap::new(),
            locks_made: 0,
            made: HashSet::new(),
            is_shared: plan.kind.is_shared(),
            lags: plan.lags,
            log_is_cached: plan.log_is_cached,
        }
    }

    pub fn object(&self, name: &ObjectName) -> Option<&Arc<Object>> {
        self.image.get(name)
    }

    /// Names in a folder and below it.
    pub fn names(&self, prefix: &str) -> Vec<ObjectName> {
        let first = first_with(prefix).unwrap_or(ObjectName::Block { epoch: Id(0), index: 0 });
        let there = self.image.names_from(ByText(first));
        let there = there.skip_while(|(_, text)| !text.starts_with(prefix));
        there.take_while(|(_, text)| text.starts_with(prefix)).map(|(name, _)| name.clone()).collect()
    }

    /// What any other host, or on one host any process, is shown.
    pub fn as_others_see(&self) -> Image {
        if self.is_shared {
            return self.image.clone();
        }
        let mut image = self.image.clone();
        for (name, writes) in &self.dirty {
            for write in writes {
                image.write(&name.0, write.offset, &write.data);
            }
        }
        image
    }

    /// True if what is written to it waits in the writer's page cache.
    fn is_cached(&self, name: &ObjectName) -> bool {
        let in_cache = self.log_is_cached && matches!(name, ObjectName::Segment { .. });
        !self.is_shared || in_cache
    }

    pub fn apply(&mut self, host: usize, change: &Change, now_us: u64) -> Result<()> {
        let name = change.name();
        let object = self.image.get(name).cloned();
        match (change, object) {
            (Change::Create { .. } | Change::CreateSparse { .. }, Some(_)) => {
                return Err(error(ErrorKind::Exists, change.verb(), name));
            }
            (Change::Write { .. } | Change::Delete { .. }, None) => {
                return Err(error(ErrorKind::NotFound, change.verb(), name));
            }
            (Change::Write { offset, data, .. }, Some(object))
                if offset + data.len() as u64 > object.bytes =>
            {
                return Err(error(ErrorKind::Invalid, change.verb(), name));
            }
            (Change::Create { data, .. }, None) => {
                self.image.create(name, data.len() as u64, data);
                self.note_created(host, name, now_us);
            }
            (Change::CreateSparse { bytes, .. }, None) => {
                self.image.create(name, *bytes, &[]);
                if !self.is_shared {
                    self.unsynced.insert(ByText(name.clone()));
                }
                self.note_created(host, name, now_us);
            }
            (Change::Write { offset, data, .. }, Some(_)) => {
                if self.is_cached(name) {
                    let write = Dirty { host, offset: *offset, data: Arc::clone(data) };
                    self.dirty.entry(ByText(name.clone())).or_default().push(write);
                } else {
                    self.image.write(name, *offset, data);
                }
            }
            (Change::Delete { .. }, Some(object)) => {
                let key = ByText(name.clone());
                self.dirty.remove(&key);
                let was_synced = !self.unsynced.remove(&key);
                self.image.delete(name);
                let created_us = self.created_us.remove(name).unwrap_or_default();
                if was_synced {
                    self.gone.insert(key, Gone { object, created_us, deleted_us: now_us });
                }
                self.note_looked(host, &name.to_string(), now_us);
            }
        }
        Ok(())
    }

    fn note_created(&mut self, host: usize, name: &ObjectName, now_us: u64) {
        self.created_us.insert(name.clone(), now_us);
        self.gone.remove(&ByText(name.clone()));
        self.note_looked(host, &name.to_string(), now_us);
    }

    /// A host sees at once what it has done itself.
    fn note_looked(&mut self, host: usize, text: &str, now_us: u64) {
        if self.lags {
            for folder in folders(text) {
                if let Some(looked_us) = self.looked_us.get_mut(&(host, folder.to_owned())) {
                    *looked_us = now_us;
                }
            }
        }
    }

    pub fn read(&self, host: usize, name: &ObjectName, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let Some(object) = self.image.get(name) else { return Err(error(ErrorKind::NotFound, "read", name)) };
        let bytes = object.read(offset, buf);
        let end = offset + bytes as u64;
        for write in self.dirty.get(&ByText(name.clone())).into_iter().flatten() {
            let write_end = write.offset + write.data.len() as u64;
            let (from, to) = (write.offset.max(offset), write_end.min(end));
            if write.host == host && from < to {
                let source = &write.data[(from - write.offset) as usize..(to - write.offset) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(bytes)
    }

    pub fn sync(&mut self, host: usize, names: &[ObjectName], existence: bool) -> Result<()> {
        for name in names {
            if self.image.get(name).is_none() {
                return Err(error(ErrorKind::NotFound, "sync", name));
            }
        }
        for name in names {
            let key = ByText(name.clone());
            if existence {
                self.unsynced.remove(&key);
            }
            self.write_back(host, &key, usize::MAX);
        }
        Ok(())
    }

    /// The oldest `count` writes of a host reach the disk.
    fn write_back(&mut self, host: usize, key: &ByText, count: usize) {
        let Some(writes) = self.dirty.get_mut(key) else { return };
        let mut left = count;
        let image = &mut self.image;
        writes.retain(|write| {
            if write.host != host || left == 0 {
                return true;
            }
            left -= 1;
            image.write(&key.0, write.offset, &write.data);
            false
        });
        if writes.is_empty() {
            self.dirty.remove(key);
        }
    }

    /// A host's kernel writes something back when it likes.
    pub fn write_some_back(&mut self, host: usize, random: &mut Random) {
        let keys: Vec<ByText> = self.dirty.keys().cloned().collect();
        for key in keys {
            if random.one_in(2) {
                self.write_back(host, &key, 1 + random.below(4) as usize);
            }
        }
    }

    pub fn write_all_back(&mut self, host: usize) {
        let keys: Vec<ByText> = self.dirty.keys().cloned().collect();
        keys.iter().for_each(|key| self.write_back(host, key, usize::MAX));
    }

    /// A host loses power: of what it had not synced any part is left.
    pub fn lose_power(&mut self, host: usize, now_us: u64, random: &mut Random) {
        let keeps = random.below(4);
        let kept = |random: &mut Random| match keeps {
            0 => false,
            1 => true,
            _ => random.one_in(2),
        };
        for (key, writes) in std::mem::take(&mut self.dirty) {
            let mut others = Vec::new();
            for write in writes {
                if write.host != host {
                    others.push(write);
                } else if kept(random) {
                    self.image.write(&key.0, write.offset, &write.data);
                } else if random.one_in(4) {
                    // Torn between sectors.
                    let sectors = write.data.len() as u64 / 512;
                    let count = random.below(sectors + 1) as usize * 512;
                    self.image.write(&key.0, write.offset, &write.data[..count]);
                }
            }
            if !others.is_empty() {
                self.dirty.insert(key, others);
            }
        }
        if self.is_shared {
            return;
        }
        for key in std::mem::take(&mut self.unsynced) {
            if !kept(random) {
                self.image.delete(&key.0);
                // Whoever had it open has lost power too.
                self.made.remove(&key.0);
            }
        }
        for (key, gone) in std::mem::take(&mut self.gone) {
            if gone.deleted_us + UNDELETED_US > now_us && self.may_be_back(&key.0) && random.one_in(4) {
                let mut data = vec![0; gone.object.bytes as usize];
                gone.object.read(0, &mut data);
                self.image.create(&key.0, gone.object.bytes, &data);
                self.created_us.insert(key.0, gone.created_us);
            }
        }
    }

    /// A snapshot or a volume's last head that is back is told by `check`
    /// (docs/design.md, known limits).
    fn may_be_back(&self, name: &ObjectName) -> bool {
        match name {
            ObjectName::Head { volume, number } => {
                let highest = self.highest_head(*volume);
                highest.is_some_and(|highest| highest > *number)
            }
            ObjectName::Segment { volume, .. } | ObjectName::Lease { volume, .. } => {
                self.highest_head(*volume).is_some()
            }
            ObjectName::Snapshot { .. } | ObjectName::Volume(_) | ObjectName::Store => false,
            ObjectName::Block { .. } | ObjectName::Page(_) | ObjectName::Epoch(_) => true,
            ObjectName::Scrub(_) => false,
            ObjectName::Maintenance(number) => self
                .names("maintenance/")
                .iter()
                .any(|there| matches!(there, ObjectName::Maintenance(higher) if higher > number)),
        }
    }

    pub fn highest_head(&self, volume: Id) -> Option<u64> {
        match self.names(&archipelago::name::prefix::heads_of(volume)).last() {
            Some(ObjectName::Head { number, .. }) => Some(*number),
            _ => None,
        }
    }

    pub fn list(
        &mut self,
        host: usize,
        prefix: &str,
        after: Option<&ObjectName>,
        (now_us, random): (u64, &mut Random),
    ) -> Vec<ObjectName> {
        let mut names = self.names(prefix);
        if self.lags {
            names = self.lagging(host, prefix, names, (now_us, random));
        }
        let after = after.map(|after| ByText(after.clone()));
        names.retain(|name| after.as_ref().is_none_or(|after| ByText(name.clone()) > *after));
        names
    }

    fn lagging(
        &mut self,
        host: usize,
        prefix: &str,
        there: Vec<ObjectName>,
        (now_us, random): (u64, &mut Random),
    ) -> Vec<ObjectName> {
        self.gone.retain(|_, gone| gone.deleted_us + LAG_US > now_us);
        let mut all: Vec<(ObjectName, String, u64, Option<u64>)> = Vec::new();
        for name in there {
            let created_us = self.created_us.get(&name).copied().unwrap_or_default();
            all.push((name.clone(), name.to_string(), created_us, None));
        }
        for (key, gone) in &self.gone {
            let text = key.0.to_string();
            if text.starts_with(prefix) {
                all.push((key.0.clone(), text, gone.created_us, Some(gone.deleted_us)));
            }
        }
        // When each folder first had something in it.
        let mut began_us: BTreeMap<String, u64> = BTreeMap::new();
        for (_, text, created_us, _) in &all {
            for folder in folders(text) {
                let began = began_us.entry(folder.to_owned()).or_insert(*created_us);
                *began = (*began).min(*created_us);
            }
        }
        let mut looked_us: BTreeMap<String, u64> = BTreeMap::new();
        for folder in began_us.keys() {
            let last_us = self.looked_us.entry((host, folder.clone())).or_insert(0);
            if *last_us + LAG_US <= now_us || random.one_in(2) {
                *last_us = now_us;
            }
            looked_us.insert(folder.clone(), *last_us);
        }
        let mut shown: Vec<ByText> = Vec::new();
        for (name, text, created_us, deleted_us) in all {
            let inside: Vec<&str> = folders(&text).collect();
            let Some(innermost) = inside.last() else {
                shown.push(ByText(name));
                continue;
            };
            let at_us = looked_us[*innermost];
            let hidden = inside.windows(2).any(|two| {
                two[0].starts_with(prefix) && !prefix.is_empty() && began_us[two[1]] > looked_us[two[0]]
            });
            if created_us <= at_us && deleted_us.is_none_or(|deleted_us| deleted_us > at_us) && !hidden {
                shown.push(ByText(name));
            }
        }
        shown.sort();
        shown.into_iter().map(|name| name.0).collect()
    }

    pub fn lock(&mut self, process: usize, name: &ObjectName, mode: LockMode) -> Result<u64> {
        let locked = self.locks.entry(name.clone()).or_default();
        let is_free = match mode {
            LockMode::Exclusive => locked.exclusive.is_none() && locked.shared.is_empty(),
            LockMode::Shared => locked.exclusive.is_none(),
        };
        if !is_free {
            return Err(error(ErrorKind::Busy, "lock", name));
        }
        self.locks_made += 1;
        match mode {
            LockMode::Exclusive => locked.exclusive = Some((process, self.locks_made)),
            LockMode::Shared => locked.shared.push((process, self.locks_made)),
        }
        Ok(self.locks_made)
    }

    pub fn unlock(&mut self, name: &ObjectName, made: u64) {
        if let Some(locked) = self.locks.get_mut(name) {
            locked.exclusive = locked.exclusive.filter(|(_, there)| *there != made);
            locked.shared.retain(|(_, there)| *there != made);
        }
    }

    /// What the kernel does when a process has ended.
    pub fn unlock_all(&mut self, process: usize) {
        for locked in self.locks.values_mut() {
            locked.exclusive = locked.exclusive.filter(|(holder, _)| *holder != process);
            locked.shared.retain(|(holder, _)| *holder != process);
        }
    }
}
