//! `memory`: objects in memory. The executable meaning of the contract, and
//! the ground that tests stand on: sparse, quick, cheap to fork.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use super::order::{first_with, ByText};
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::{Mutex, RwLock};

/// What an object is kept in; granules of zeroes that were never written take
/// no room.
const GRANULE_BYTES: usize = 4096;

type Granules = BTreeMap<u64, Arc<[u8]>>;

struct Object {
    bytes: u64,
    /// Shared between forks until one of them writes.
    granules: RwLock<Arc<Granules>>,
}

#[derive(Default)]
struct LockState {
    exclusive: bool,
    shared: usize,
}

struct Inner {
    capabilities: Capabilities,
    objects: RwLock<BTreeMap<ByText, Arc<Object>>>,
    locks: Mutex<HashMap<ObjectName, LockState>>,
}

/// A store in memory. A clone is the same store; `fork` makes another one.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

/// What `memory` can do unless told otherwise. A test double must need all
/// syncs that a disk needs, so it does not claim `durable_on_ack`.
pub const CAPABILITIES: Capabilities = Capabilities {
    overwrite_in_place: true,
    durable_on_ack: false,
    fences: true,
    sync_all_cheap: true,
    list_lag_s: 0,
    lists_at_once: false,
    object_bytes_max: 1 << 40,
    in_flight_max: 64,
    tells_room: true,
    cuts_off: false,
};

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Memory {
    pub fn new() -> Memory {
        Memory::with(CAPABILITIES)
    }

    /// A store that can do less.
    pub fn with(capabilities: Capabilities) -> Memory {
        Memory(Arc::new(Inner {
            capabilities,
            objects: RwLock::default(),
            locks: Mutex::default(),
        }))
    }

    /// Another store with the same objects and no lock held. What one of them
    /// writes from now on, the other does not see. Costs nothing per byte.
    #[must_use]
    pub fn fork(&self) -> Memory {
        let copy = Memory::with(self.0.capabilities);
        let objects = self.0.objects.read();
        let forked = objects.iter().map(|(name, object)| {
            let granules = RwLock::new(Arc::clone(&object.granules.read()));
            (name.clone(), Arc::new(Object { bytes: object.bytes, granules }))
        });
        *copy.0.objects.write() = forked.collect();
        copy
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.0.objects.read().len()
    }

    fn find(&self, operation: &'static str, name: &ObjectName) -> Result<Arc<Object>> {
        let objects = self.0.objects.read();
        // A look-up wants the key's own type; the clone is of plain numbers
        // for all but volumes and snapshots.
        match objects.get(&ByText(name.clone())) {
            Some(object) => Ok(Arc::clone(object)),
            None => Err(Error::new(ErrorKind::NotFound, operation).on(name)),
        }
    }

    /// Of an object that a crash has left shorter than it was made.
    fn lengthen(&self, name: &ObjectName, bytes: u64) {
        let mut objects = self.0.objects.write();
        if let Some(object) = objects.get_mut(&ByText(name.clone())).filter(|object| object.bytes < bytes) {
            let mut granules = Arc::clone(&object.granules.read());
            // The last one may end where the object did.
            if let Some(mut last) = Arc::make_mut(&mut granules).last_entry() {
                let left = bytes - last.key() * GRANULE_BYTES as u64;
                let mut data = last.get().to_vec();
                data.resize(usize::try_from(left).unwrap_or(usize::MAX).min(GRANULE_BYTES), 0);
                last.insert(Arc::from(data));
            }
            *object = Arc::new(Object { bytes, granules: RwLock::new(granules) });
        }
    }

    fn insert(&self, name: &ObjectName, bytes: u64, granules: Granules) -> Result<()> {
        if bytes > self.0.capabilities.object_bytes_max {
            let max = self.0.capabilities.object_bytes_max;
            return Err(Error::new(ErrorKind::Invalid, "create")
                .on(name)
                .because(format!("{bytes} bytes are more than the {max} that an object can have here")));
        }
        let mut objects = self.0.objects.write();
        match objects.entry(ByText(name.clone())) {
            std::collections::btree_map::Entry::Occupied(_) => {
                Err(Error::new(ErrorKind::Exists, "create").on(name))
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Arc::new(Object { bytes, granules: RwLock::new(Arc::new(granules)) }));
                Ok(())
            }
        }
    }

    fn check_overwrite(&self, operation: &'static str, name: &ObjectName) -> Result<()> {
        if self.0.capabilities.overwrite_in_place {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, operation)
            .on(name)
            .because("this store cannot overwrite in place"))
    }
}

/// Splits a range of an object into ranges of its granules: granule, begin in
/// it, length, position in the range.
fn split(offset_bytes: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut position = 0;
    std::iter::from_fn(move || {
        if position == bytes {
            return None;
        }
        let at = offset_bytes + position as u64;
        let begin = (at % GRANULE_BYTES as u64) as usize;
        let take = (GRANULE_BYTES - begin).min(bytes - position);
        let item = (at / GRANULE_BYTES as u64, begin, take, position);
        position += take;
        Some(item)
    })
}

impl Object {
    /// The size of a granule: the last one may be shorter.
    fn granule_bytes(&self, granule: u64) -> usize {
        let begin = granule * GRANULE_BYTES as u64;
        (self.bytes - begin).min(GRANULE_BYTES as u64) as usize
    }

    fn check_range(&self, operation: &'static str, name: &ObjectName, offset: u64, bytes: u64) -> Result<()> {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        Err(beyond_end(operation, name, offset, bytes, self.bytes))
    }

    fn granule_mut<'a>(&self, granules: &'a mut Granules, granule: u64) -> &'a mut [u8] {
        let slot = granules
            .entry(granule)
            .or_insert_with(|| Arc::from(vec![0; self.granule_bytes(granule)]));
        Arc::make_mut(slot)
    }
}

/// A write that an object has no room for.
pub(super) fn beyond_end(
    operation: &'static str,
    name: &ObjectName,
    offset_bytes: u64,
    bytes: u64,
    object_bytes: u64,
) -> Error {
    Error::new(ErrorKind::Invalid, operation)
        .on(name)
        .at(offset_bytes)
        .because(format!("{bytes} bytes do not fit into an object of {object_bytes}"))
}

impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        let granules = data.chunks(GRANULE_BYTES).map(Arc::from);
        let granules = (0..).zip(granules).collect();
        self.insert(name, data.len() as u64, granules)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.check_overwrite("create", name)?;
        let made = self.insert(name, bytes, Granules::new());
        if made.as_ref().is_err_and(|error| error.is(ErrorKind::Exists)) {
            self.lengthen(name, bytes);
        }
        made
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let object = self.find("read", name)?;
        let left = object.bytes.saturating_sub(offset_bytes);
        let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let granules = object.granules.read();
        for (granule, begin, take, position) in split(offset_bytes, bytes) {
            let target = &mut buf[position..position + take];
            match granules.get(&granule) {
                Some(data) => target.copy_from_slice(&data[begin..begin + take]),
                None => target.fill(0),
            }
        }
        Ok(bytes)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.check_overwrite("write", name)?;
        let object = self.find("write", name)?;
        object.check_range("write", name, offset_bytes, data.len() as u64)?;
        let mut shared = object.granules.write();
        let granules = Arc::make_mut(&mut shared);
        for (granule, begin, take, position) in split(offset_bytes, data.len()) {
            let target = object.granule_mut(granules, granule);
            target[begin..begin + take].copy_from_slice(&data[position..position + take]);
        }
        Ok(())
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.check_overwrite("punch", name)?;
        let object = self.find("punch", name)?;
        object.check_range("punch", name, offset_bytes, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let end = offset_bytes + bytes;
        let mut shared = object.granules.write();
        let granules = Arc::make_mut(&mut shared);
        let first = offset_bytes / GRANULE_BYTES as u64;
        let last = (end - 1) / GRANULE_BYTES as u64;
        let present: Vec<u64> = granules.range(first..=last).map(|(granule, _)| *granule).collect();
        for granule in present {
            let at = granule * GRANULE_BYTES as u64;
            let from = (offset_bytes.max(at) - at) as usize;
            let to = (end - at).min(object.granule_bytes(granule) as u64) as usize;
            if from == 0 && to == object.granule_bytes(granule) {
                granules.remove(&granule);
            } else {
                object.granule_mut(granules, granule)[from..to].fill(0);
            }
        }
        Ok(())
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let object = self.find("copy", from)?;
        let granules = Granules::clone(&object.granules.read());
        self.insert(to, object.bytes, granules)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        for name in names {
            self.find("sync", name)?;
        }
        Ok(())
    }

    /// Every sync covers what anybody wrote.
    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        match self.0.objects.write().remove(&ByText(name.clone())) {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::NotFound, "delete").on(name)),
        }
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        let object = self.find("stat", name)?;
        let allocated_bytes = object.granules.read().values().map(|data| data.len() as u64).sum();
        Ok(ObjectStat { bytes: object.bytes, allocated_bytes })
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        let first = first_with(prefix).map(ByText);
        let after = after.map(|name| ByText(name.clone()));
        let begin = match (&first, &after) {
            (Some(first), Some(after)) if first > after => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let objects = self.0.objects.read();
        let names = objects.range::<ByText, _>((begin, Bound::Unbounded)).map(|(name, _)| &name.0);
        // Nothing stands between `first` and the names with a whole prefix.
        let whole = first.is_some() && prefix.ends_with('/');
        let names = names.skip_while(|name| !whole && !name.to_string().starts_with(prefix));
        let names = names.take_while(|name| name.to_string().starts_with(prefix));
        Ok(names.take(count_max).cloned().collect())
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        if !self.0.capabilities.fences {
            return Err(Error::new(ErrorKind::Invalid, "lock")
                .on(name)
                .because("this store has no locks that fence"));
        }
        let mut locks = self.0.locks.lock();
        let state = locks.entry(name.clone()).or_default();
        let free = match mode {
            LockMode::Exclusive => !state.exclusive && state.shared == 0,
            LockMode::Shared => !state.exclusive,
        };
        if !free {
            return Err(Error::new(ErrorKind::Busy, "lock").on(name));
        }
        match mode {
            LockMode::Exclusive => state.exclusive = true,
            LockMode::Shared => state.shared += 1,
        }
        Ok(Box::new(Held { inner: Arc::clone(&self.0), name: name.clone(), mode }))
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

/// The guard of a lock.
struct Held {
    inner: Arc<Inner>,
    name: ObjectName,
    mode: LockMode,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.inner.locks.lock();
        let Some(state) = locks.get_mut(&self.name) else { return };
        match self.mode {
            LockMode::Exclusive => state.exclusive = false,
            LockMode::Shared => state.shared -= 1,
        }
        if !state.exclusive && state.shared == 0 {
            locks.remove(&self.name);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("objects", &self.object_count())
            .field("capabilities", &self.0.capabilities)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Id;

    /// A test that needs a 1 TiB volume must not need 1 TiB, and one that
    /// explores crashes must not copy a store for each of them.
    #[test]
    fn sparse_objects_and_forks_cost_only_what_is_written() {
        let store = Memory::new();
        let name = |index| ObjectName::Block { epoch: Id(1), index };
        for index in 0..262_144 {
            store.create_sparse(&name(index), 4 << 20).unwrap();
        }
        store.write_at(&name(7), 4095, b"ab").unwrap();
        assert_eq!(store.stat(&name(7)).unwrap().allocated_bytes, 8192);
        let fork = store.fork();
        fork.write_at(&name(7), 4095, b"xy").unwrap();
        fork.delete(&name(8)).unwrap();
        let mut buf = [0; 2];
        store.read_at(&name(7), 4095, &mut buf).unwrap();
        assert_eq!(&buf, b"ab");
        assert!(store.stat(&name(8)).is_ok());
    }
}
