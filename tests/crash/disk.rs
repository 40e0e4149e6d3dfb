//! A backend over an image that remembers what was done to it and what of
//! that a loss of power could still undo; and that fails, or lets somebody in
//! between, where it is told to. It knows every name that was ever made, in
//! the lives before too: whoever still has the old object open would not see
//! the one that has its name now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use archipelago::backend::order::{first_with, ByText};
use archipelago::backend::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::ObjectName;
use parking_lot::Mutex;

use super::change::Change;
use super::image::Image;
use super::lag::Lag;
use super::model::Model;

/// A change of the store. Writes are whole sectors, as they are on a disk.
#[derive(Clone, Debug)]
pub enum Op {
    Create { name: ObjectName, data: Arc<[u8]> },
    CreateSparse { name: ObjectName, bytes: u64 },
    Write { name: ObjectName, offset: u64, data: Arc<[u8]> },
    Sync { names: Arc<[ObjectName]> },
    SyncContent { names: Arc<[ObjectName]> },
    Delete { name: ObjectName },
}

impl Op {
    pub fn apply(&self, image: &mut Image) {
        match self {
            Op::Create { name, data } => drop(image.create(name, data.len() as u64, data)),
            Op::CreateSparse { name, bytes } => drop(image.create(name, *bytes, &[])),
            Op::Write { name, offset, data } => drop(image.write(name, *offset, data)),
            Op::Sync { .. } | Op::SyncContent { .. } => {}
            Op::Delete { name } => drop(image.delete(name)),
        }
    }

    pub fn name(&self) -> Option<&ObjectName> {
        match self {
            Op::Create { name, .. }
            | Op::CreateSparse { name, .. }
            | Op::Write { name, .. }
            | Op::Delete { name } => Some(name),
            Op::Sync { .. } | Op::SyncContent { .. } => None,
        }
    }

    /// The name that this makes, if it must be made once.
    pub fn made_once(&self) -> Option<&ObjectName> {
        match self {
            Op::Create { name, .. } | Op::CreateSparse { name, .. } if is_made_once(name) => Some(name),
            _ => None,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Op::Create { name, data } => format!("create {name} ({} bytes)", data.len()),
            Op::CreateSparse { name, .. } => format!("create sparse {name}"),
            Op::Write { name, offset, data } => format!("write {name} {offset}+{}", data.len()),
            Op::Sync { names } => {
                let names: Vec<String> = names.iter().map(ObjectName::to_string).collect();
                format!("sync {}", names.join(" "))
            }
            Op::SyncContent { names } => {
                let names: Vec<String> = names.iter().map(ObjectName::to_string).collect();
                format!("sync content of {}", names.join(" "))
            }
            Op::Delete { name } => format!("delete {name}"),
        }
    }
}

/// What is recorded, in order.
#[derive(Clone, Debug)]
pub enum Event {
    Op(Op),
    /// From here on this is what a crash may show.
    Model(Arc<Model>),
    /// A process ended here with everything that it had applied.
    Killed,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Certainly not applied.
    Unavailable,
    NoSpace,
    /// Not applied, but nobody can tell.
    UnknownLost,
    /// Applied, but nobody can tell.
    UnknownDone,
    /// Applied later, when the world moves on: see `Disk::land_late`.
    UnknownLate,
}

impl Failure {
    fn kind(self) -> ErrorKind {
        match self {
            Failure::Unavailable => ErrorKind::Unavailable,
            Failure::NoSpace => ErrorKind::NoSpace,
            _ => ErrorKind::Unknown,
        }
    }
}

pub type Visitor = Box<dyn FnMut() + Send>;

/// Names that were made.
pub type Names = HashSet<ObjectName>;

/// True for objects that others may keep open, or remember by their names: no
/// name of them ever means two things. A number of a lease and a name that a
/// user gives may be used again.
fn is_made_once(name: &ObjectName) -> bool {
    use ObjectName::{Block, Epoch, Head, Page, Segment};
    matches!(name, Segment { .. } | Head { .. } | Block { .. } | Page(_) | Epoch(_))
}

struct Inner {
    image: Image,
    events: Option<Vec<Event>>,
    /// Which of the coming calls fails, counted from 0, and how.
    failing: Option<(u64, Failure)>,
    failed: bool,
    late: Vec<Op>,
    /// In the lives before this one, and in this one.
    before: Arc<Names>,
    made: Names,
    /// The first name that was made a second time.
    again: Option<ObjectName>,
    /// Runs before the call with this number, of all or of the turning points.
    visitor: Option<(u64, bool, Visitor)>,
    locks: HashMap<ObjectName, (bool, usize)>,
    lag: Option<Lag>,
    me: Weak<Disk>,
}

/// The backend.
pub struct Disk {
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub fn new(image: Image, recording: bool) -> Arc<Disk> {
        Disk::after(Arc::default(), image, recording)
    }

    /// What is left of a disk on which all of `before` was made.
    pub fn after(before: Arc<Names>, image: Image, recording: bool) -> Arc<Disk> {
        Arc::new_cyclic(|me| Disk {
            inner: Mutex::new(Inner {
                image,
                events: recording.then(Vec::new),
                failing: None,
                failed: false,
                late: Vec::new(),
                before,
                made: Names::new(),
                again: None,
                visitor: None,
                locks: HashMap::new(),
                lag: None,
                me: me.clone(),
            }),
        })
    }

    pub fn image(&self) -> Image {
        self.inner.lock().image.clone()
    }

    pub fn push(&self, event: Event) {
        if let Some(events) = &mut self.inner.lock().events {
            events.push(event);
        }
    }

    /// How many events there are.
    pub fn event_count(&self) -> usize {
        self.inner.lock().events.as_ref().map_or(0, Vec::len)
    }

    pub fn take_events(&self) -> Vec<Event> {
        self.inner.lock().events.replace(Vec::new()).unwrap_or_default()
    }

    /// A name that was made a second time, if there is one. Asking forgets it.
    pub fn take_again(&self) -> Option<ObjectName> {
        self.inner.lock().again.take()
    }

    /// Makes the `nth` call from now fail; `None`: none does. Only calls that
    /// change something count.
    pub fn fail(&self, failing: Option<(u64, Failure)>) {
        let mut inner = self.inner.lock();
        inner.failing = failing;
        inner.failed = false;
    }

    /// True if the planned failure has happened.
    pub fn has_failed(&self) -> bool {
        self.inner.lock().failed
    }

    /// From now on listings lag; `None`: they have caught up.
    pub fn lag(&self, lag: Option<Lag>) {
        self.inner.lock().lag = lag;
    }

    /// Lets somebody in before the `nth` call from now, of all or of syncs and
    /// lists: the turning points of whatever is done.
    pub fn visit(&self, visitor: Option<(u64, bool, Visitor)>) {
        self.inner.lock().visitor = visitor;
    }

    /// What was reported as unknown and had not been applied arrives now: all,
    /// or what a next holder would see appear or vanish.
    pub fn land_late(&self, all: bool) {
        let mut inner = self.inner.lock();
        for op in std::mem::take(&mut inner.late) {
            if all || matches!(op.name(), Some(ObjectName::Block { .. })) || matches!(op, Op::Delete { .. }) {
                inner.apply(op);
            } else {
                inner.late.push(op);
            }
        }
        // A dead holder knows nothing of the numbers that were cleaned away.
        inner.again = None;
    }

    /// Applies something that a process which is gone had handed over.
    pub fn land(&self, op: Op) {
        let mut inner = self.inner.lock();
        inner.apply(op);
    }

    fn before_call(&self) {
        self.let_in(false);
    }

    fn let_in(&self, is_turn: bool) {
        let due = {
            let mut inner = self.inner.lock();
            match inner.visitor.as_mut() {
                Some((_, only_turns, _)) if *only_turns && !is_turn => None,
                Some((0, ..)) => inner.visitor.take(),
                Some((left, ..)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, _, mut visitor)) = due {
            visitor();
        }
    }

    fn change(&self, change: Change<'_>) -> Result<()> {
        let mut inner = self.inner.lock();
        let error = |kind: ErrorKind| {
            let error = Error::new(kind, change.operation());
            match change.name() {
                Some(name) => error.on(name),
                None => error,
            }
        };
        if let Some(kind) = change.refused_by(&inner.image) {
            return Err(error(kind));
        }
        if inner.events.is_none() && inner.failing.is_none() {
            change.apply(&mut inner.image);
            if let Change::Create { name, .. } | Change::CreateSparse { name, .. } = change {
                inner.note_made(name);
            }
            return Ok(());
        }
        let failure = match &mut inner.failing {
            Some((0, failure)) => Some(*failure),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let op = change.op(&inner.image);
        let Some(failure) = failure else {
            inner.apply(op);
            return Ok(());
        };
        inner.failing = None;
        inner.failed = true;
        match failure {
            Failure::UnknownDone => inner.apply(op),
            Failure::UnknownLate => inner.late.push(op),
            _ => {}
        }
        Err(error(failure.kind()))
    }
}

impl Inner {
    fn note_made(&mut self, name: &ObjectName) {
        let is_again = self.before.contains(name) || !self.made.insert(name.clone());
        if is_again && is_made_once(name) {
            self.again.get_or_insert(name.clone());
        }
    }

    fn apply(&mut self, op: Op) {
        let missing = match &op {
            Op::Create { name, .. } => self.image.get(name).is_some(),
            Op::CreateSparse { name, bytes } => {
                self.image.get(name).is_some_and(|there| there.bytes >= *bytes)
            }
            Op::Write { name, .. } | Op::Delete { name } => self.image.get(name).is_none(),
            Op::Sync { .. } | Op::SyncContent { .. } => false,
        };
        if missing {
            return;
        }
        // One that a crash has left short is not a new one.
        let is_new = op.name().is_some_and(|name| self.image.get(name).is_none());
        op.apply(&mut self.image);
        if let (Op::Create { name, .. } | Op::CreateSparse { name, .. }, true) = (&op, is_new) {
            self.note_made(name);
        }
        if let Some(events) = &mut self.events {
            events.push(Event::Op(op));
        }
    }
}

impl Backend for Disk {
    fn capabilities(&self) -> Capabilities {
        let list_lag_s = u32::from(self.inner.lock().lag.is_some());
        Capabilities { list_lag_s, ..archipelago::backend::memory::CAPABILITIES }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        // While a segment is made the log is locked: another thread would wait,
        // a visitor on this one would wait for ever.
        if !matches!(name, ObjectName::Segment { .. }) {
            self.before_call();
        }
        self.change(Change::Create { name, data })
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.before_call();
        {
            let mut inner = self.inner.lock();
            if inner.image.get(name).is_some_and(|there| there.bytes < bytes) {
                inner.apply(Op::CreateSparse { name: name.clone(), bytes });
                return Err(Error::new(ErrorKind::Exists, "create").on(name));
            }
        }
        self.change(Change::CreateSparse { name, bytes })
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.before_call();
        let object = self.inner.lock().image.get(name).cloned();
        match object {
            Some(object) => Ok(object.read(offset_bytes, buf)),
            None => Err(Error::new(ErrorKind::NotFound, "read").on(name)),
        }
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.before_call();
        self.change(Change::Write { name, offset: offset_bytes, data })
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.before_call();
        let zeroes = vec![0; bytes as usize];
        self.change(Change::Write { name, offset: offset_bytes, data: &zeroes })
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.let_in(true);
        self.change(Change::Sync { names })
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.let_in(true);
        self.change(Change::SyncContent { names })
    }

    /// Every sync covers what anybody wrote.
    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.before_call();
        self.change(Change::Delete { name })
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        match self.inner.lock().image.get(name) {
            Some(object) => Ok(ObjectStat { bytes: object.bytes, allocated_bytes: object.allocated_bytes() }),
            None => Err(Error::new(ErrorKind::NotFound, "stat").on(name)),
        }
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        if !prefix.starts_with("log/") {
            self.let_in(true);
        }
        let inner = self.inner.lock();
        if let Some(lag) = &inner.lag {
            return Ok(lag.list(&inner.image, prefix, after, count_max));
        }
        let mut names = Vec::new();
        let first = first_with(prefix)
            .map_or(ByText(ObjectName::Block { epoch: Default::default(), index: 0 }), ByText);
        let from = match after {
            Some(after) if ByText(after.clone()) > first => ByText(after.clone()),
            _ => first,
        };
        for (name, text) in inner.image.names_from(from) {
            if names.len() == count_max || !text.starts_with(prefix) {
                break;
            }
            if Some(name) != after {
                names.push(name.clone());
            }
        }
        Ok(names)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        let mut inner = self.inner.lock();
        let me = inner.me.clone();
        let (exclusive, shared) = inner.locks.entry(name.clone()).or_default();
        let free = !*exclusive && (mode == LockMode::Shared || *shared == 0);
        if !free {
            return Err(Error::new(ErrorKind::Busy, "lock").on(name));
        }
        match mode {
            LockMode::Exclusive => *exclusive = true,
            LockMode::Shared => *shared += 1,
        }
        Ok(Box::new(Held { disk: me, name: name.clone(), mode }))
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

struct Held {
    disk: Weak<Disk>,
    name: ObjectName,
    mode: LockMode,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(disk) = self.disk.upgrade() else { return };
        let mut inner = disk.inner.lock();
        if let Some((exclusive, shared)) = inner.locks.get_mut(&self.name) {
            match self.mode {
                LockMode::Exclusive => *exclusive = false,
                LockMode::Shared => *shared -= 1,
            }
        }
    }
}
