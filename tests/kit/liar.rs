//! A backend that keeps the contract, but for one thing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use archipelago::backend::{Backend, BackendExt, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::ObjectName;
use archipelago::testkit::{Bed, Memory};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    /// A sync returns, and the power takes what it was for.
    SyncDoesNothing,
    /// What `create` made is not there after a loss of power.
    CreateIsNotDurable,
    /// It says that nothing was applied, and something was.
    AppliedAllTheSame,
    /// A name that is taken is taken over.
    CreateReplaces,
    /// A full page of a list lacks its last name.
    ListForgets,
    PunchKeeps,
    /// A read ends where a page does.
    ReadIsShort,
}

/// Memory, and what of it outlives a loss of power.
#[derive(Clone, Debug)]
pub struct Liar {
    all: Memory,
    durable: Memory,
    lie: Lie,
    creates: Arc<AtomicU64>,
}

impl Liar {
    pub fn bed(lie: Lie) -> Bed {
        Liar { all: Memory::new(), durable: Memory::new(), lie, creates: Arc::default() }.in_bed()
    }

    fn in_bed(self) -> Bed {
        let after = self.clone();
        Bed::new(Arc::new(self)).crashing(move || {
            let (all, durable) = (after.durable.fork(), after.durable.fork());
            Liar { all, durable, ..after }.in_bed()
        })
    }

    fn keep(&self, name: &ObjectName) -> Result<()> {
        let data = self.all.read_all(name, u64::MAX)?;
        drop(self.durable.delete(name));
        self.durable.create(name, &data)
    }
}

impl Backend for Liar {
    fn capabilities(&self) -> Capabilities {
        self.all.capabilities()
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        if self.lie == Lie::CreateReplaces {
            drop(self.all.delete(name));
        }
        self.all.create(name, data)?;
        if self.lie != Lie::CreateIsNotDurable {
            self.keep(name)?;
        }
        let number = self.creates.fetch_add(1, Ordering::SeqCst);
        match self.lie == Lie::AppliedAllTheSame && number % 10 == 9 {
            true => Err(Error::new(ErrorKind::Unavailable, "create").on(name)),
            false => Ok(()),
        }
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.all.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let bytes = if self.lie == Lie::ReadIsShort { buf.len().min(4096) } else { buf.len() };
        self.all.read_at(name, offset_bytes, &mut buf[..bytes])
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.all.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        match self.lie {
            Lie::PunchKeeps => self.all.punch(name, offset_bytes, 0),
            _ => self.all.punch(name, offset_bytes, bytes),
        }
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.all.sync(names)?;
        match self.lie {
            Lie::SyncDoesNothing => Ok(()),
            _ => names.iter().try_for_each(|name| self.keep(name)),
        }
    }

    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        drop(self.durable.delete(name));
        self.all.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.all.stat(name)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        let mut names = self.all.list(prefix, after, count_max)?;
        if self.lie == Lie::ListForgets && names.len() > 1 && names.len() == count_max {
            names.pop();
        }
        Ok(names)
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.all.copy(from, to)?;
        self.keep(to)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.all.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}
