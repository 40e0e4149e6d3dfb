//! `recording`: writes down every change that passes through it, so that a
//! test can build the states that a crash may leave behind and look at each.
//!
//! An operation has a sequence number when it begins and one when it returns.
//! One that has begun and not returned is in flight: a crash then may find it
//! applied, not applied, or, if it is a write, applied to some sectors only.

use std::fmt;
use std::sync::Arc;

use super::memory::Memory;
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;

/// What a crash may tear a write into.
pub const SECTOR_BYTES: u64 = 512;

#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Create { name: ObjectName, data: Arc<[u8]> },
    CreateSparse { name: ObjectName, bytes: u64 },
    Write { name: ObjectName, offset_bytes: u64, data: Arc<[u8]> },
    Punch { name: ObjectName, offset_bytes: u64, bytes: u64 },
    Sync { names: Arc<[ObjectName]> },
    /// It makes no name durable.
    SyncContent { names: Arc<[ObjectName]> },
    Delete { name: ObjectName },
    /// What the test wanted to remember here, such as "flush 7 returned".
    Mark(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub op: Op,
    pub begun: u64,
    /// `None` while it is in flight.
    pub ended: Option<u64>,
    /// How it failed, if it has ended so. `Unknown` may have been applied.
    pub failed: Option<ErrorKind>,
}

#[derive(Debug, Default)]
struct Tape {
    sequence: u64,
    entries: Vec<Entry>,
    /// Entries that were forgotten.
    cleared: usize,
}

/// A backend whose changes are written down. A clone is the same one.
#[derive(Clone)]
pub struct Recording {
    inner: Arc<dyn Backend>,
    tape: Arc<Mutex<Tape>>,
}

impl Recording {
    pub fn new(inner: Arc<dyn Backend>) -> Recording {
        Recording { inner, tape: Arc::default() }
    }

    /// Remembers a moment: it begins and ends at once.
    pub fn mark(&self, label: u64) {
        let at = self.begin(Op::Mark(label));
        self.end(at, &Ok(()));
    }

    /// Everything so far, in the order in which it began.
    pub fn ops(&self) -> Vec<Entry> {
        self.tape.lock().entries.clone()
    }

    pub fn op_count(&self) -> usize {
        self.tape.lock().entries.len()
    }

    /// The sequence number of the latest begin or end. What an operation that
    /// began after this does, was not asked for before.
    pub fn sequence(&self) -> u64 {
        self.tape.lock().sequence
    }

    /// Forgets what was written down; to be called with nothing in flight.
    pub fn clear(&self) {
        let mut tape = self.tape.lock();
        tape.cleared += tape.entries.len();
        tape.entries.clear();
    }

    fn begin(&self, op: Op) -> usize {
        let mut tape = self.tape.lock();
        tape.sequence += 1;
        let begun = tape.sequence;
        tape.entries.push(Entry { op, begun, ended: None, failed: None });
        tape.cleared + tape.entries.len() - 1
    }

    fn end<T>(&self, at: usize, result: &Result<T>) {
        let mut tape = self.tape.lock();
        tape.sequence += 1;
        let ended = tape.sequence;
        let Some(at) = at.checked_sub(tape.cleared) else { return };
        if let Some(entry) = tape.entries.get_mut(at) {
            entry.ended = Some(ended);
            entry.failed = result.as_ref().err().map(crate::error::Error::kind);
        }
    }

    fn recorded<T>(&self, op: Op, call: impl FnOnce(&dyn Backend) -> Result<T>) -> Result<T> {
        let at = self.begin(op);
        let result = call(self.inner.as_ref());
        self.end(at, &result);
        result
    }
}

/// Does to `store` what `op` does. Errors: those of the operation.
pub fn apply(store: &Memory, op: &Op) -> Result<()> {
    match op {
        Op::Create { name, data } => store.create(name, data),
        Op::CreateSparse { name, bytes } => store.create_sparse(name, *bytes),
        Op::Write { name, offset_bytes, data } => store.write_at(name, *offset_bytes, data),
        Op::Punch { name, offset_bytes, bytes } => store.punch(name, *offset_bytes, *bytes),
        Op::Delete { name } => store.delete(name),
        Op::Sync { .. } | Op::SyncContent { .. } | Op::Mark(_) => Ok(()),
    }
}

/// A store after all of `ops`. Errors: that of the first that fails.
pub fn replay<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Result<Memory> {
    let store = Memory::new();
    ops.into_iter().try_for_each(|op| apply(&store, op))?;
    Ok(store)
}

/// How many sectors of its object a write or punch touches; 0 for others.
pub fn sector_count(op: &Op) -> u64 {
    sectors(op).map_or(0, |(first, end)| end - first)
}

fn sectors(op: &Op) -> Option<(u64, u64)> {
    let (offset_bytes, bytes) = match op {
        Op::Write { offset_bytes, data, .. } => (*offset_bytes, data.len() as u64),
        Op::Punch { offset_bytes, bytes, .. } => (*offset_bytes, *bytes),
        _ => return None,
    };
    Some((offset_bytes / SECTOR_BYTES, (offset_bytes + bytes).div_ceil(SECTOR_BYTES)))
}

/// Applies only those sectors of a write or punch for which `kept` says so;
/// they are counted from 0. Other operations are applied whole or not at all,
/// as `kept(0)` says.
pub fn apply_torn(store: &Memory, op: &Op, kept: impl Fn(u64) -> bool) -> Result<()> {
    let Some((first, end)) = sectors(op) else {
        return if kept(0) { apply(store, op) } else { Ok(()) };
    };
    for sector in first..end {
        if !kept(sector - first) {
            continue;
        }
        let (from, to) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
        match op {
            Op::Write { name, offset_bytes, data } => {
                let from = from.max(*offset_bytes);
                let to = to.min(offset_bytes + data.len() as u64);
                let (at, until) = ((from - offset_bytes) as usize, (to - offset_bytes) as usize);
                store.write_at(name, from, &data[at..until])?;
            }
            Op::Punch { name, offset_bytes, bytes } => {
                let from = from.max(*offset_bytes);
                store.punch(name, from, to.min(offset_bytes + bytes) - from)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Backend for Recording {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        let op = Op::Create { name: name.clone(), data: data.into() };
        self.recorded(op, |inner| inner.create(name, data))
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        let op = Op::CreateSparse { name: name.clone(), bytes };
        self.recorded(op, |inner| inner.create_sparse(name, bytes))
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let op = Op::Write { name: name.clone(), offset_bytes, data: data.into() };
        self.recorded(op, |inner| inner.write_at(name, offset_bytes, data))
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        let op = Op::Punch { name: name.clone(), offset_bytes, bytes };
        self.recorded(op, |inner| inner.punch(name, offset_bytes, bytes))
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.recorded(Op::Sync { names: names.into() }, |inner| inner.sync(names))
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.recorded(Op::SyncContent { names: names.into() }, |inner| inner.sync_content(names))
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.inner.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.inner.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.recorded(Op::Delete { name: name.clone() }, |inner| inner.delete(name))
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.inner.stat(name)
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix, after, count_max)
    }

    /// Recorded as the create that it amounts to.
    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let bytes = self.inner.stat(from)?.bytes;
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        self.inner.read_at(from, 0, &mut data)?;
        let op = Op::Create { name: to.clone(), data: data.into() };
        self.recorded(op, |inner| inner.copy(from, to))
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.inner.lock(name, mode)
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.inner.cut_off(name)
    }

    /// None: what went that way would not be written down.
    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create { name, data } => write!(f, "create {name}, {} bytes", data.len()),
            Op::CreateSparse { name, bytes } => write!(f, "create {name}, {bytes} sparse bytes"),
            Op::Write { name, offset_bytes, data } => {
                write!(f, "write {name}, {} bytes at {offset_bytes}", data.len())
            }
            Op::Punch { name, offset_bytes, bytes } => {
                write!(f, "punch {name}, {bytes} bytes at {offset_bytes}")
            }
            Op::Sync { names } => {
                f.write_str("sync")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Op::SyncContent { names } => {
                f.write_str("sync content of")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Op::Delete { name } => write!(f, "delete {name}"),
            Op::Mark(label) => write!(f, "mark {label}"),
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("inner", &self.inner).field("ops", &self.op_count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendExt;
    use crate::name::Id;

    fn block(index: u64) -> ObjectName {
        ObjectName::Block { epoch: Id(1), index }
    }

    /// A replay that lost an operation would hide every bug that needs it.
    #[test]
    fn a_replay_is_what_was_done() {
        let memory = Memory::new();
        let store = Recording::new(Arc::new(memory.clone()));
        store.create(&block(1), &[1; 5000]).unwrap();
        store.create_sparse(&block(2), 8192).unwrap();
        store.write_at(&block(2), 4000, &[2; 200]).unwrap();
        store.mark(7);
        store.punch(&block(1), 10, 100).unwrap();
        store.copy(&block(1), &block(3)).unwrap();
        store.create(&block(4), b"x").unwrap();
        store.sync(&[block(2)]).unwrap();
        store.delete(&block(4)).unwrap();
        store.write_at(&block(4), 0, b"y").unwrap_err();
        let entries = store.ops();
        assert_eq!(entries.iter().filter(|entry| entry.failed.is_some()).count(), 1);
        assert!(entries.iter().all(|entry| entry.ended.is_some_and(|ended| ended > entry.begun)));
        let done = entries.iter().filter(|entry| entry.failed.is_none()).map(|entry| &entry.op);
        let replayed = replay(done).unwrap();
        for index in 1..=3 {
            let read = |store: &Memory| store.read_all(&block(index), 1 << 20).unwrap();
            assert!(read(&memory) == read(&replayed), "block {index}");
        }
        assert_eq!(replayed.object_count(), 3);
    }

    #[test]
    fn a_torn_write_changes_whole_sectors_only() {
        let store = Memory::new();
        store.create(&block(1), &[0; 4096]).unwrap();
        let op = Op::Write { name: block(1), offset_bytes: 500, data: vec![9; 1100].into() };
        assert_eq!(sector_count(&op), 4);
        apply_torn(&store, &op, |sector| sector == 0 || sector == 2).unwrap();
        let data = store.read_all(&block(1), 4096).unwrap();
        let changed: Vec<usize> = (0..4096).filter(|at| data[*at] == 9).collect();
        let expected: Vec<usize> = (500..512).chain(1024..1536).collect();
        assert_eq!(changed, expected);
    }
}
