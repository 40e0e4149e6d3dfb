//! Two places as disks: what was made in the sealed one and not synced there since
//! is gone after a loss of power, and whoever deletes it in the other one too early
//! is caught.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::name::ObjectName;
use archipelago::Result;

type Names = Arc<Mutex<HashSet<ObjectName>>>;

#[derive(Clone, Debug)]
pub struct Disk {
    memory: Memory,
    /// Made in the sealed place, and not durable.
    volatile: Names,
    is_sealed: bool,
}

impl Disk {
    pub fn both(own: &Memory, sealed: &Memory) -> (Disk, Disk) {
        let volatile = Names::default();
        let of = |memory: &Memory, is_sealed| Disk {
            memory: memory.clone(),
            volatile: Arc::clone(&volatile),
            is_sealed,
        };
        (of(own, false), of(sealed, true))
    }

    /// In the next process: what was not durable still is not.
    pub fn both_again(own: &Memory, sealed: &Memory, before: &Disk) -> (Disk, Disk) {
        let (own, sealed) = Disk::both(own, sealed);
        sealed.volatile.lock().unwrap().clone_from(&before.volatile.lock().unwrap());
        (own, sealed)
    }

    pub fn after_power_loss(&self) -> Memory {
        let memory = self.memory.fork();
        for name in self.volatile.lock().unwrap().iter() {
            drop(memory.delete(name));
        }
        memory
    }
}

impl Backend for Disk {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    /// Durable when it has returned to somebody who is still there; those who die are
    /// not told, so that it counts as made only.
    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.memory.create(name, data)?;
        if self.is_sealed {
            self.volatile.lock().unwrap().insert(name.clone());
        }
        Ok(())
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.memory.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.memory.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.memory.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.memory.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.memory.sync(names)?;
        if self.is_sealed {
            let mut volatile = self.volatile.lock().unwrap();
            volatile.retain(|name| !names.contains(name));
        }
        Ok(())
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.memory.forget_synced(names);
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let too_early = !self.is_sealed && self.volatile.lock().unwrap().contains(name);
        assert!(!too_early, "{name} is deleted, and is not durable where it was carried to");
        self.memory.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.memory.stat(name)
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.memory.next_data(name, offset_bytes)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.memory.list(prefix, after, count_max)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.memory.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}
