//! The open files of `dir`: a bounded number of them, and what this process
//! knows about what it has written and not yet made durable.
//!
//! A mark outlives its open file, because an error of a write that is still
//! in the page cache shows only at a later sync: through a descriptor that
//! was open then, or, where `syncfs` is sound, through that of the store's
//! directory. So a written file is closed early only where `syncfs` will tell
//! (the mark then demands one), and is synced before that elsewhere.
//!
//! Only blocks, segments and what this process writes to stay open. The name
//! of a volume, say, can be removed and made again by another process, and a
//! file kept open would go on showing the old one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use super::dir_gate::Gate;
use super::dir_layout;
use super::dir_sys::{Files, Handle, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Marks of clean objects that are kept. Beyond that they are forgotten,
/// which costs one needless sync each.
const CLEAN_MARKS_MAX: usize = 1 << 16;

/// What this process knows about the durability of one object.
#[derive(Debug, Default)]
pub struct Mark(Mutex<MarkState>);

#[derive(Debug, Default)]
struct MarkState {
    /// Counts completed writes, failed ones too.
    written: u64,
    /// The value of `written` that is known to be durable.
    synced: u64,
    /// We made this object or have synced its content once since others could write to
    /// it, so that nothing of theirs can be waiting in the page cache.
    known: bool,
    name: NameState,
    /// Closed with unsynced writes: only a `syncfs` reports their errors.
    needs_syncfs: bool,
    /// A sync failed. The kernel reports that once and forgets the data, so
    /// it is we who must remember.
    failed: Option<Error>,
}

/// Whether an object's name is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NameState {
    /// Somebody else made it; to be made durable by who wants to rely on it.
    #[default]
    Unknown,
    /// We made it.
    Unsynced,
    Durable,
}

/// What a sync is to cover.
#[derive(Clone, Copy, Debug)]
pub struct Covered {
    written: u64,
    pub name: bool,
    pub needs_syncfs: bool,
}

impl Mark {
    /// To be called after a write was handed to the file, before anybody is
    /// told that it is done.
    pub fn wrote(&self) {
        self.0.lock().written += 1;
    }

    /// A sparse object whose name and size are not durable yet.
    pub fn made(&self) {
        let mut state = self.0.lock();
        state.written += 1;
        state.name = NameState::Unsynced;
        state.known = true;
    }

    /// What a sync that begins now has to do; `None` if nothing.
    pub fn to_sync(&self) -> Result<Option<Covered>> {
        self.to_sync_with(true)
    }

    /// As `to_sync`, for an object whose name is durable as the caller knows.
    pub fn to_sync_content(&self) -> Result<Option<Covered>> {
        self.to_sync_with(false)
    }

    fn to_sync_with(&self, with_name: bool) -> Result<Option<Covered>> {
        let state = self.0.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.duplicate());
        }
        let name = with_name && state.name != NameState::Durable;
        if state.known && state.written == state.synced && !name {
            return Ok(None);
        }
        Ok(Some(Covered { written: state.written, name, needs_syncfs: state.needs_syncfs }))
    }

    pub fn synced(&self, covered: Covered) {
        let mut state = self.0.lock();
        state.synced = state.synced.max(covered.written);
        state.known = true;
        if covered.name {
            state.name = NameState::Durable;
        }
        if state.synced == state.written {
            state.needs_syncfs = false;
        }
    }

    /// The data of the object is durable, its name perhaps not.
    fn data_synced(&self, covered: Covered) {
        let mut state = self.0.lock();
        state.synced = state.synced.max(covered.written);
    }

    pub fn fail(&self, error: &Error) {
        let mut state = self.0.lock();
        if state.failed.is_none() {
            state.failed = Some(error.duplicate());
        }
    }

    /// Somebody else may have written to the object.
    pub fn forget_synced(&self) {
        self.0.lock().known = false;
    }

    fn has_unsynced_data(&self) -> bool {
        let state = self.0.lock();
        state.written != state.synced
    }

    /// Forgetting it would lose nothing but a little work.
    fn is_forgettable(&self) -> bool {
        let state = self.0.lock();
        let name_unsynced = state.name == NameState::Unsynced;
        state.written == state.synced && !name_unsynced && state.failed.is_none()
    }
}

/// An open object. Whoever holds the `Arc` keeps it open.
#[derive(Debug)]
pub struct OpenFile {
    pub handle: Handle,
    /// The size, which never changes.
    pub bytes: u64,
    /// Of offsets, lengths and memory; 1 if it is not open for O_DIRECT. All
    /// data of a file goes one way, past the page cache or through it.
    pub alignment: usize,
    pub mark: Arc<Mark>,
    pub gate: Gate,
    /// Through a cache that learns late that a server is full: see `wrote`.
    tells_late: bool,
    used: AtomicBool,
}

impl OpenFile {
    fn new(handle: Handle, bytes: u64, alignment: usize, mark: Arc<Mark>, tells_late: bool) -> OpenFile {
        let (gate, used) = (Gate::default(), AtomicBool::new(true));
        let tells_late = tells_late && alignment == 1;
        OpenFile { handle, bytes, alignment, mark, gate, tells_late, used }
    }

    /// After a write, whatever came of it, before anybody is told.
    ///
    /// An NFS client whose server is full says so to the next write, which is
    /// not the one that is lost, and then no more to a sync: it is we who must
    /// remember.
    pub fn wrote(&self, failure: Option<ErrorKind>) {
        if self.tells_late && failure == Some(ErrorKind::NoSpace) {
            let error = Error::new(ErrorKind::Unknown, "sync");
            self.mark.fail(&error.because("the server had no room for what was written before"));
        }
        self.mark.wrote();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Or sync: the file must stay open until its mark is clean.
    Write,
}

/// Objects that never come back under the same name with other content.
fn is_data(name: &ObjectName) -> bool {
    matches!(name, ObjectName::Block { .. } | ObjectName::Segment { .. })
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<ObjectName, Arc<OpenFile>>,
    /// The open ones, least recently opened first.
    order: VecDeque<ObjectName>,
    marks: HashMap<ObjectName, Arc<Mark>>,
}

/// The bounded cache of open files and all marks.
#[derive(Debug)]
pub struct OpenFiles {
    files: Arc<dyn Files>,
    open_files_max: usize,
    /// Blocks and segments go past the page cache, in units of this; 1 if
    /// they do not.
    direct_alignment: usize,
    table: Mutex<Table>,
}

impl OpenFiles {
    pub fn new(files: Arc<dyn Files>, open_files_max: usize, direct_alignment: usize) -> OpenFiles {
        let open_files_max = open_files_max.max(1);
        OpenFiles { files, open_files_max, direct_alignment, table: Mutex::default() }
    }

    /// The open file of an object, opened if need be.
    pub fn get(&self, operation: &'static str, name: &ObjectName, access: Access) -> Result<Arc<OpenFile>> {
        if let Some(file) = self.cached(name) {
            return Ok(file);
        }
        let (handle, alignment) = self.open(name).map_err(|e| Error::from_io(operation, e).on(name))?;
        let stat = self.files.fstat(&handle).map_err(|e| Error::from_io(operation, e).on(name))?;
        // A write past the end of the last sector would make the file longer.
        let whole = stat.bytes % alignment as u64 == 0;
        let (handle, alignment) = if whole {
            (handle, alignment)
        } else {
            let path = dir_layout::place(self.files.as_ref(), name).path();
            (self.files.open(&path, false).map_err(|e| Error::from_io(operation, e).on(name))?, 1)
        };
        if access == Access::Read && !is_data(name) {
            let tells_late = self.files.file_system().tells_late;
            return Ok(Arc::new(OpenFile::new(handle, stat.bytes, alignment, Arc::default(), tells_late)));
        }
        Ok(self.insert(name, handle, stat.bytes, alignment))
    }

    /// The file if it is open.
    pub fn cached(&self, name: &ObjectName) -> Option<Arc<OpenFile>> {
        let table = self.table.lock();
        let file = table.open.get(name)?;
        file.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(file))
    }

    fn open(&self, name: &ObjectName) -> io::Result<(Handle, usize)> {
        let path = dir_layout::place(self.files.as_ref(), name).path();
        if self.is_direct(name) {
            return Ok((self.files.open(&path, true)?, self.direct_alignment));
        }
        Ok((self.files.open(&path, false)?, 1))
    }

    /// True if the object's file is to be opened for O_DIRECT.
    pub fn is_direct(&self, name: &ObjectName) -> bool {
        self.direct_alignment > 1 && is_data(name)
    }

    /// Takes in a file that was opened or made. If another thread was quicker
    /// its file is used.
    pub fn insert(
        &self,
        name: &ObjectName,
        handle: Handle,
        bytes: u64,
        alignment: usize,
    ) -> Arc<OpenFile> {
        self.make_room();
        let mut table = self.table.lock();
        if let Some(file) = table.open.get(name) {
            return Arc::clone(file);
        }
        let mark = Arc::clone(table.marks.entry(name.clone()).or_default());
        let tells_late = self.files.file_system().tells_late;
        let file = Arc::new(OpenFile::new(handle, bytes, alignment, mark, tells_late));
        table.open.insert(name.clone(), Arc::clone(&file));
        table.order.push_back(name.clone());
        if table.marks.len() > CLEAN_MARKS_MAX + 2 * table.open.len() {
            let Table { open, marks, .. } = &mut *table;
            marks.retain(|name, mark| open.contains_key(name) || !mark.is_forgettable());
        }
        file
    }

    /// The mark of an object, whether open or not; a new one knows nothing.
    pub fn mark(&self, name: &ObjectName) -> Arc<Mark> {
        Arc::clone(self.table.lock().marks.entry(name.clone()).or_default())
    }

    /// What is known about an object without touching it.
    pub fn known_mark(&self, name: &ObjectName) -> Option<Arc<Mark>> {
        self.table.lock().marks.get(name).cloned()
    }

    /// A whole-store sync failed: any object with unsynced writes may have
    /// lost them.
    pub fn fail_unsynced(&self, error: &Error) {
        for mark in self.table.lock().marks.values() {
            if !mark.is_forgettable() {
                mark.fail(error);
            }
        }
    }

    /// Closes a file that has become useless: its inode is gone. Unsynced
    /// writes are lost with it, and the mark says so.
    pub fn forget_stale(&self, name: &ObjectName, stale: &Arc<OpenFile>) {
        let mut table = self.table.lock();
        if table.open.get(name).is_some_and(|file| Arc::ptr_eq(file, stale)) {
            table.open.remove(name);
            table.order.retain(|other| other != name);
        }
        if stale.mark.has_unsynced_data() {
            stale.mark.fail(
                &Error::new(ErrorKind::Unknown, "sync")
                    .on(name)
                    .because("the server lost the file while it had unsynced writes"),
            );
        }
    }

    /// An NFS client looks whether a file has changed on the server when it is
    /// opened, and then may show what it remembers of it for as long as it is
    /// open. What was written here and not synced stays: its errors show there
    /// alone, and who has something to sync here is the one that writes.
    pub fn forget_seen(&self) {
        if self.files.file_system().local {
            return;
        }
        let mut table = self.table.lock();
        table.open.retain(|_, file| file.mark.has_unsynced_data());
        let Table { open, order, .. } = &mut *table;
        order.retain(|name| open.contains_key(name));
    }

    /// The object was removed; nothing about it matters any more. Perhaps by
    /// somebody else: whoever makes an object knows that its name was free.
    pub fn forget_removed(&self, name: &ObjectName) {
        let mut table = self.table.lock();
        table.marks.remove(name);
        if table.open.remove(name).is_some() {
            table.order.retain(|other| other != name);
        }
    }

    /// Closes files until one more fits. Those in use stay open, even if that
    /// means too many.
    fn make_room(&self) {
        let mut tries_left = {
            let table = self.table.lock();
            if table.open.len() < self.open_files_max {
                return;
            }
            2 * table.open.len()
        };
        while tries_left > 0 {
            let mut table = self.table.lock();
            if table.open.len() < self.open_files_max {
                return;
            }
            tries_left -= 1;
            let Some(name) = table.order.pop_front() else { return };
            let Some(file) = table.open.get(&name).cloned() else { continue };
            // The table's and ours.
            let in_use = Arc::strong_count(&file) > 2;
            if in_use || file.used.swap(false, Ordering::Relaxed) {
                table.order.push_back(name);
                continue;
            }
            if file.mark.has_unsynced_data() {
                if !self.files.file_system().syncfs {
                    table.order.push_back(name.clone());
                    drop(table);
                    file.used.store(false, Ordering::Relaxed);
                    self.sync_before_closing(&name, &file);
                    continue;
                }
                file.mark.0.lock().needs_syncfs = true;
            }
            table.open.remove(&name);
            if file.mark.is_forgettable() && !file.mark.0.lock().known {
                table.marks.remove(&name);
            }
        }
    }

    fn sync_before_closing(&self, name: &ObjectName, file: &OpenFile) {
        match file.mark.to_sync() {
            Ok(Some(covered)) => match self.files.fdatasync(&file.handle, SyncSite::Evict) {
                Ok(()) => file.mark.data_synced(covered),
                Err(source) => file.mark.fail(&sync_error(name, source)),
            },
            // Nothing to do, or lost already: the mark stays.
            Ok(None) => {}
            Err(_) => {
                let mut state = file.mark.0.lock();
                state.synced = state.written;
            }
        }
    }
}

/// Nothing is known after a failed sync, whatever the cause; only a full
/// store is worth telling apart.
pub fn sync_error(name: &ObjectName, source: io::Error) -> Error {
    let error = Error::from_io("sync", source).on(name);
    if error.is(ErrorKind::NoSpace) {
        return error;
    }
    error.with_kind(ErrorKind::Unknown)
}
