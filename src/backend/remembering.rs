//! `remembering`: reads each map page once. Pages never change, so whoever
//! walks the maps of a whole store, where most pages are shared, need not ask
//! the store for the same page again and again. Everything else goes through.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::Result;
use crate::name::{Id, ObjectName};
use crate::sync::Mutex;

/// What is remembered at most; what comes later is read each time.
const BYTES_MAX: usize = 128 << 20;

/// A page: how large it is, once that was asked for, and its content, once that
/// was read as a whole.
#[derive(Clone, Debug, Default)]
struct Page {
    stat: Option<ObjectStat>,
    data: Option<Arc<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Pages {
    known: HashMap<Id, Page>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Remembering {
    inner: Arc<dyn Backend>,
    pages: Mutex<Pages>,
}

impl Remembering {
    pub fn new(inner: Arc<dyn Backend>) -> Remembering {
        Remembering { inner, pages: Mutex::default() }
    }

    fn known(&self, name: &ObjectName) -> Option<Page> {
        match name {
            ObjectName::Page(id) => self.pages.lock().known.get(id).cloned(),
            _ => None,
        }
    }

    fn note_stat(&self, name: &ObjectName, stat: ObjectStat) {
        if let ObjectName::Page(id) = name {
            self.pages.lock().known.entry(*id).or_default().stat = Some(stat);
        }
    }

    /// Remembers what was read, if that is all of a page: for certain if less was
    /// read than was asked for.
    fn note_data(&self, name: &ObjectName, data: &[u8], is_short: bool) {
        let ObjectName::Page(id) = name else { return };
        let mut pages = self.pages.lock();
        let bytes = pages.bytes + data.len();
        let page = pages.known.entry(*id).or_default();
        let is_whole = is_short || page.stat.is_some_and(|stat| stat.bytes == data.len() as u64);
        if is_whole && page.data.is_none() && bytes <= BYTES_MAX {
            page.data = Some(Arc::new(data.to_vec()));
            pages.bytes = bytes;
        }
    }

    fn forget(&self, name: &ObjectName) {
        let ObjectName::Page(id) = name else { return };
        let mut pages = self.pages.lock();
        let data = pages.known.remove(id).and_then(|page| page.data);
        pages.bytes -= data.map_or(0, |data| data.len());
    }
}

impl Backend for Remembering {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.inner.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.inner.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(page) = self.known(name).and_then(|page| page.data) {
            let rest = usize::try_from(offset_bytes).ok().and_then(|from| page.get(from..));
            let rest = rest.unwrap_or_default();
            let bytes = rest.len().min(buf.len());
            buf[..bytes].copy_from_slice(&rest[..bytes]);
            return Ok(bytes);
        }
        let bytes = self.inner.read_at(name, offset_bytes, buf)?;
        if offset_bytes == 0 {
            self.note_data(name, &buf[..bytes], bytes < buf.len());
        }
        Ok(bytes)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.forget(name);
        self.inner.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.forget(name);
        self.inner.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.inner.sync(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.inner.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.inner.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.forget(name);
        self.inner.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        if let Some(stat) = self.known(name).and_then(|page| page.stat) {
            return Ok(stat);
        }
        let stat = self.inner.stat(name)?;
        self.note_stat(name, stat);
        Ok(stat)
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.inner.next_data(name, offset_bytes)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix, after, count_max)
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.inner.copy(from, to)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.inner.lock(name, mode)
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.inner.cut_off(name)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.inner.data_path()
    }
}
