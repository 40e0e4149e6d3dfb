//! `missing`: stands for a place that cannot be used, and says why each time. What
//! does not need it goes on working.

use std::sync::Arc;

use super::{memory, Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;

/// A place that is not there.
#[derive(Debug)]
pub struct Missing(Error);

impl Missing {
    /// Never "not found": nobody may take its objects for removed.
    pub fn because(error: Error) -> Missing {
        let error = error.duplicate();
        Missing(if error.is(ErrorKind::NotFound) { error.with_kind(ErrorKind::Unavailable) } else { error })
    }

    fn refuse<T>(&self) -> Result<T> {
        Err(self.0.duplicate())
    }
}

impl Backend for Missing {
    fn capabilities(&self) -> Capabilities {
        Capabilities { fences: false, ..memory::CAPABILITIES }
    }

    fn create(&self, _name: &ObjectName, _data: &[u8]) -> Result<()> {
        self.refuse()
    }

    fn create_sparse(&self, _name: &ObjectName, _bytes: u64) -> Result<()> {
        self.refuse()
    }

    fn read_at(&self, _name: &ObjectName, _offset_bytes: u64, _buf: &mut [u8]) -> Result<usize> {
        self.refuse()
    }

    fn write_at(&self, _name: &ObjectName, _offset_bytes: u64, _data: &[u8]) -> Result<()> {
        self.refuse()
    }

    fn punch(&self, _name: &ObjectName, _offset_bytes: u64, _bytes: u64) -> Result<()> {
        self.refuse()
    }

    fn sync(&self, _names: &[ObjectName]) -> Result<()> {
        self.refuse()
    }

    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, _name: &ObjectName) -> Result<()> {
        self.refuse()
    }

    fn stat(&self, _name: &ObjectName) -> Result<ObjectStat> {
        self.refuse()
    }

    fn list(&self, _prefix: &str, _after: Option<&ObjectName>, _count_max: usize) -> Result<Vec<ObjectName>> {
        self.refuse()
    }

    fn lock(&self, _name: &ObjectName, _mode: LockMode) -> Result<Lock> {
        self.refuse()
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}
