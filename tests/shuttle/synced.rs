//! A store in memory that knows what a crash would leave at least: what was
//! synced, as it was when that sync began or later.

use std::sync::Arc;

use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::{Backend, BackendExt, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::name::ObjectName;
use archipelago::sync::Mutex;
use archipelago::Result;

use super::ring::Ring;

#[derive(Clone, Debug)]
pub struct Synced {
    live: Memory,
    safe: Memory,
    fences: bool,
    /// Of two syncs of one object the older must not end last.
    syncing: Arc<Mutex<()>>,
    pub ring: Option<Arc<Ring>>,
}

impl Synced {
    pub fn new(fences: bool) -> Synced {
        let capabilities = Capabilities { fences, ..CAPABILITIES };
        let (live, safe) = (Memory::with(capabilities), Memory::with(capabilities));
        Synced { live, safe, fences, syncing: Arc::default(), ring: None }
    }

    /// What is there after a crash now.
    pub fn crashed(&self) -> Memory {
        self.safe.fork()
    }
}

impl Backend for Synced {
    fn capabilities(&self) -> Capabilities {
        Capabilities { fences: self.fences, ..CAPABILITIES }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.live.create(name, data)?;
        self.safe.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.live.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.live.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.live.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.live.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        let _syncing = self.syncing.lock();
        for name in names {
            let data = self.live.read_all(name, u64::MAX)?;
            if self.safe.write_at(name, 0, &data).is_err() {
                self.safe.create(name, &data)?;
            }
        }
        Ok(())
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.live.forget_synced(names);
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.live.delete(name)?;
        drop(self.safe.delete(name));
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.live.stat(name)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.live.list(prefix, after, count_max)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.live.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.ring.clone().map(|ring| ring as Arc<dyn DataPath>)
    }
}
