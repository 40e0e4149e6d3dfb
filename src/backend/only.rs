//! `only`: lets the objects of one part of a store in and no others: for tests that
//! each of them is looked for where it is.

use std::sync::Arc;

use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, ObjectName};

/// Which part this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Log,
    AllButTheLog,
    /// All, of which only the log can be overwritten.
    BlocksOnce,
    /// Blocks, none of which can be overwritten.
    Sealed,
}

/// A backend that is for one part of a store.
#[derive(Debug)]
pub struct Only {
    inner: Arc<dyn Backend>,
    part: Part,
}

impl Only {
    pub fn new(inner: Arc<dyn Backend>, part: Part) -> Only {
        Only { inner, part }
    }

    fn check(&self, name: &ObjectName) -> Result<()> {
        let is_log = matches!(name, ObjectName::Segment { .. });
        if self.part == Part::BlocksOnce {
            return Ok(());
        }
        let fits = match self.part {
            Part::Sealed => matches!(name, ObjectName::Block { .. }),
            part => is_log == (part == Part::Log),
        };
        if fits || *name == ObjectName::Store {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, "look for it").on(name).because("it is in the other part"))
    }

    fn check_overwrite(&self, operation: &'static str, name: &ObjectName) -> Result<()> {
        self.check(name)?;
        match name {
            ObjectName::Segment { .. } if self.part != Part::Sealed => Ok(()),
            _ if self.capabilities().overwrite_in_place => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, operation).on(name).because("it cannot be overwritten")),
        }
    }

    fn check_all(&self, names: &[ObjectName]) -> Result<()> {
        names.iter().try_for_each(|name| self.check(name))
    }
}

impl Backend for Only {
    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        Capabilities {
            overwrite_in_place: inner.overwrite_in_place
                && !matches!(self.part, Part::BlocksOnce | Part::Sealed),
            ..inner
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.check(name)?;
        self.inner.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.check_overwrite("create", name)?;
        self.inner.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.check(name)?;
        self.inner.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.check_overwrite("write", name)?;
        self.inner.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.check_overwrite("punch", name)?;
        self.inner.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.check_all(names)?;
        self.inner.sync(names)
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.check_all(names)?;
        self.inner.sync_content(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.inner.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.inner.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.check(name)?;
        self.inner.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.check(name)?;
        self.inner.stat(name)
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.check(name)?;
        self.inner.next_data(name, offset_bytes)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        let is_here = match self.part {
            Part::BlocksOnce => true,
            Part::Sealed => prefix.starts_with(prefix::BLOCKS),
            part => prefix.starts_with(prefix::SEGMENTS) == (part == Part::Log),
        };
        if !is_here && prefix != prefix::ALL {
            let error = Error::new(ErrorKind::Internal, "list").on_named(prefix);
            return Err(error.because("these are in the other part"));
        }
        self.inner.list(prefix, after, count_max)
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.inner.copy(from, to)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.check(name)?;
        self.inner.lock(name, mode)
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.check(name)?;
        self.inner.cut_off(name)
    }

    fn carry_out(&self, jobs: Vec<Box<dyn FnOnce() + Send>>) {
        self.inner.carry_out(jobs);
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.inner.data_path()
    }
}
