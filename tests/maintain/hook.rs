//! A backend that does something else in the middle of the Nth call, and that
//! can die after another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::ObjectName;

type Action = Box<dyn FnOnce() + Send>;

const NEVER: u64 = u64::MAX;

/// Calls are counted from the moment it is armed.
pub struct Hook {
    memory: Memory,
    calls: AtomicU64,
    at: AtomicU64,
    dies_at: AtomicU64,
    action: Mutex<Option<Action>>,
    /// Nothing can be created until something is deleted.
    full: AtomicBool,
    /// Listings of just these prefixes show nothing.
    blind: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Hook {
    pub fn new(memory: &Memory) -> Arc<Hook> {
        Arc::new(Hook {
            memory: memory.clone(),
            calls: AtomicU64::new(0),
            at: AtomicU64::new(NEVER),
            dies_at: AtomicU64::new(NEVER),
            action: Mutex::new(None),
            full: AtomicBool::new(false),
            blind: Mutex::new(Vec::new()),
        })
    }

    /// Runs `action` before call number `at` from now on.
    pub fn arm(&self, at: u64, action: impl FnOnce() + Send + 'static) {
        *self.action.lock().unwrap() = Some(Box::new(action));
        self.calls.store(0, Ordering::SeqCst);
        self.at.store(at, Ordering::SeqCst);
    }

    /// Every call from this one on fails and does nothing.
    pub fn die_at(&self, at: u64) {
        self.dies_at.store(at, Ordering::SeqCst);
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// True if the action has run.
    pub fn fired(&self) -> bool {
        self.action.lock().unwrap().is_none()
    }

    pub fn fill_up(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    pub fn blind_to(&self, prefixes: &[&str]) {
        *self.blind.lock().unwrap() = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    }

    fn check_room(&self, name: &ObjectName) -> Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::NoSpace, "create").on(name)),
            false => Ok(()),
        }
    }

    fn call(&self, name: Option<&ObjectName>) -> Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.at.load(Ordering::SeqCst) {
            let action = self.action.lock().unwrap().take();
            if let Some(action) = action {
                action();
            }
        }
        if call >= self.dies_at.load(Ordering::SeqCst) {
            let error = Error::new(ErrorKind::Unknown, "reach");
            return Err(name.map_or(Error::new(ErrorKind::Unknown, "reach"), |name| error.on(name)));
        }
        Ok(())
    }
}

impl Backend for Hook {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.call(Some(name))?;
        self.check_room(name)?;
        self.memory.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.call(Some(name))?;
        self.check_room(name)?;
        self.memory.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.call(Some(name))?;
        self.memory.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.call(Some(name))?;
        self.memory.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.call(Some(name))?;
        self.memory.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.call(None)?;
        self.memory.sync(names)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.memory.forget_synced(names);
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.call(Some(name))?;
        self.memory.delete(name)?;
        self.full.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.call(Some(name))?;
        self.memory.stat(name)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.call(None)?;
        if self.blind.lock().unwrap().iter().any(|blind| blind == prefix) {
            return Ok(Vec::new());
        }
        self.memory.list(prefix, after, count_max)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.call(Some(name))?;
        self.memory.lock(name, mode)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}
