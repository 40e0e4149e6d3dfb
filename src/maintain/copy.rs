//! Copies what maps reach from one store to another, under the same names: what
//! shares a block there shares it here.
//!
//! Names are unique and what they name does not change (only sealed blocks are
//! copied, and pages), so an object that is there already is the one that is
//! wanted: what was copied before, by this process or by one that was killed,
//! is not copied again. Each is made whole or not at all.
//!
//! An object that is there and that nothing needs may be just what a gc of that
//! store is about to delete. Whoever copies is therefore the maintainer of the
//! store that is copied to, until what it copied is reached from there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rest::{Guest, Rests};
use super::sum::{read_whole, sum_of, wrong_size};
use crate::backend::{Backend, BackendExt};
use crate::catalog::snapshot::Snapshot;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{
    page_bytes_max, walk_new, walk_sums, Beside, Entry, Presence, Root, Sum, SumVisitor, Sums,
};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::Mutex;
use crate::thread::Crew;

/// Blocks that may wait for a thread, or be with one.
const QUEUE: usize = 16;

/// Whether it is still wanted is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a copy runs.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Blocks that are copied at a time.
    pub threads: usize,
    /// No faster than this; `None`: as fast as it goes.
    pub bytes_per_s: Option<u64>,
    /// What was written is read again and compared.
    pub reads_back: bool,
}

impl Default for CopyOptions {
    fn default() -> CopyOptions {
        CopyOptions { threads: 4, bytes_per_s: None, reads_back: false }
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub blocks: u64,
    pub bytes: u64,
    /// Blocks that were there already.
    pub blocks_there: u64,
    /// Blocks that were compared with the sum that their map has of them.
    pub blocks_verified: u64,
    pub pages: u64,
}

/// Is called now and then; an error ends the copy.
pub type Told<'a> = &'a mut dyn FnMut(Copied) -> Result<()>;

impl std::ops::Add for Copied {
    type Output = Copied;

    fn add(self, more: Copied) -> Copied {
        Copied {
            blocks: self.blocks + more.blocks,
            bytes: self.bytes + more.bytes,
            blocks_there: self.blocks_there + more.blocks_there,
            blocks_verified: self.blocks_verified + more.blocks_verified,
            pages: self.pages + more.pages,
        }
    }
}

/// One block to be copied.
struct Job {
    name: ObjectName,
    block_bytes: u64,
    sum: Option<Sum>,
    presence: Option<Presence>,
}

struct Shared {
    from: Arc<dyn Backend>,
    to: Arc<dyn Backend>,
    copied: Mutex<Copied>,
    began: Instant,
    bytes_per_s: Option<u64>,
    reads_back: bool,
    guest: Arc<Guest>,
    /// Whoever copies beside a guest has this.
    turn: Mutex<Rests>,
    /// Nobody wants what waits for a thread any more.
    is_ended: AtomicBool,
}

/// Copies from one store to another.
pub struct Copier {
    from: Store,
    to: Store,
    shared: Arc<Shared>,
    crew: Crew<Job>,
    /// Pages that are copied with all that is beneath them.
    pages: HashSet<Id>,
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copier({} to {})", self.from.name, self.to.name)
    }
}

impl Copier {
    pub fn start(from: &Store, to: &Store, options: &CopyOptions) -> Result<Copier> {
        Copier::start_beside(from, to, options, Arc::new(|| None))
    }

    /// While `guest` has requests, one block is copied at a time, with a rest after
    /// it (see `rest`): a guest's small requests wait behind blocks in every store.
    pub fn start_beside(
        from: &Store,
        to: &Store,
        options: &CopyOptions,
        guest: Arc<Guest>,
    ) -> Result<Copier> {
        let shared = Arc::new(Shared {
            from: Arc::clone(from.blocks()),
            to: Arc::clone(to.blocks()),
            copied: Mutex::default(),
            began: clock::now(),
            bytes_per_s: options.bytes_per_s,
            reads_back: options.reads_back,
            guest,
            turn: Mutex::default(),
            is_ended: AtomicBool::new(false),
        });
        let copies = Arc::clone(&shared);
        let copy = move |job: Job| copies.copy(&job);
        let crew = Crew::start("arch-copy", "copy a block", options.threads, QUEUE, copy)?;
        let (from, to) = (from.clone(), to.clone());
        Ok(Copier { from, to, shared, crew, pages: HashSet::new() })
    }

    /// So far.
    pub fn copied(&self) -> Copied {
        *self.shared.copied.lock()
    }

    /// Copies all that a snapshot's map reaches. `told` is called now and then,
    /// and may end it with an error. Errors: `Corrupt`, naming the object; what
    /// the backends say.
    pub fn snapshot(&mut self, snapshot: &Snapshot, told: Told<'_>) -> Result<()> {
        self.map(snapshot.root, snapshot.block_bytes, told)
    }

    /// As `snapshot`, for a map of sealed blocks.
    pub fn map(&mut self, root: Root, block_bytes: u64, told: Told<'_>) -> Result<()> {
        self.map_beside(root, None, block_bytes, told)
    }

    /// As `map`, where all that `known` reaches is in the other store already:
    /// costs what differs.
    pub fn map_beside(
        &mut self,
        root: Root,
        known: Option<Root>,
        block_bytes: u64,
        told: Told<'_>,
    ) -> Result<()> {
        let granules = (block_bytes / GRANULE_BYTES) as u32;
        let (from, to) = (self.from.clone(), self.to.clone());
        let mut visit = Visit { copier: self, block_bytes, pages: Vec::new(), told };
        let mut walked = match known {
            Some(root_known) => {
                walk_new(&from, root, Beside { store: &to, root: root_known }, granules, &mut visit)
            }
            None => walk_sums(&from, root, granules, &mut visit),
        };
        let Visit { pages, told, .. } = visit;
        while walked.is_ok() && !self.crew.is_idle_within(LOOK_EVERY) {
            walked = told(self.copied());
        }
        // Nothing is under way when this returns, whatever came of it.
        self.shared.is_ended.store(walked.is_err(), Ordering::Release);
        let copied = self.crew.wait();
        self.shared.is_ended.store(false, Ordering::Release);
        walked.and(copied)?;
        // A page is worth nothing without what is beneath it.
        for id in pages.into_iter().rev() {
            self.page(id, granules)?;
        }
        told(self.copied())
    }

    fn page(&mut self, id: Id, granules: u32) -> Result<()> {
        let name = ObjectName::Page(id);
        match self.to.control().stat(&name) {
            Ok(_) => {}
            Err(error) if error.is(ErrorKind::NotFound) => {
                let data = self.from.control().read_all(&name, page_bytes_max(granules))?;
                exists_is_fine(self.to.control().create(&name, &data))?;
                self.shared.copied.lock().pages += 1;
            }
            Err(error) => return Err(error),
        }
        self.pages.insert(id);
        Ok(())
    }
}

struct Visit<'a, 'b> {
    copier: &'a mut Copier,
    block_bytes: u64,
    /// Parents before children.
    pages: Vec<Id>,
    told: Told<'b>,
}

impl SumVisitor for Visit<'_, '_> {
    fn page(&mut self, id: Id, _: &[u8; 32]) -> Result<bool> {
        (self.told)(self.copier.copied())?;
        let is_new = !self.copier.pages.contains(&id);
        if is_new {
            self.pages.push(id);
        }
        Ok(is_new)
    }

    fn entry(&mut self, at: u64, entry: &Entry, sums: &Sums) -> Result<()> {
        let mut jobs = Vec::new();
        entry.each_part(at, &mut |epoch, index, presence| {
            jobs.push(Job {
                name: ObjectName::Block { epoch, index },
                block_bytes: self.block_bytes,
                sum: sums.get(epoch, index).copied(),
                presence: presence.cloned(),
            });
        });
        for job in jobs {
            self.copier.crew.send(job)?;
            (self.told)(self.copier.copied())?;
        }
        Ok(())
    }

    fn failed(&mut self, _: Id, error: Error) -> Result<()> {
        Err(error)
    }
}

fn exists_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is(ErrorKind::Exists) => Ok(()),
        other => other,
    }
}

impl Shared {
    fn copy(&self, job: &Job) -> Result<()> {
        let is_copied = match (self.guest)() {
            Some(_) => {
                let rest = |time| self.sleep(time);
                self.turn.lock().after(&*self.guest, || self.copy_one(job), rest)?
            }
            None => self.copy_one(job)?,
        };
        if is_copied {
            self.slow_down();
        }
        Ok(())
    }

    /// False: it was there.
    fn copy_one(&self, job: &Job) -> Result<bool> {
        let Job { name, block_bytes, .. } = job;
        if self.is_ended.load(Ordering::Acquire) {
            return Ok(false);
        }
        match self.to.stat(name) {
            Ok(stat) if stat.bytes == *block_bytes => {
                self.copied.lock().blocks_there += 1;
                return Ok(false);
            }
            Ok(stat) => return Err(wrong_size(name, stat.bytes, *block_bytes)),
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
        let (data, data_bytes) = read_whole(&self.from, name, *block_bytes)?;
        if let Some(sum) = &job.sum {
            if sum_of(&data, job.presence.as_ref()) != *sum {
                return Err(Error::corrupt(name, "its content is not what it was when it was summed"));
            }
        }
        exists_is_fine(self.to.create(name, &data))?;
        if self.reads_back && read_whole(&self.to, name, *block_bytes)?.0 != data {
            return Err(Error::corrupt(name, "the copy of it is not what was written"));
        }
        let mut copied = self.copied.lock();
        copied.blocks += 1;
        copied.bytes += data_bytes;
        copied.blocks_verified += u64::from(job.sum.is_some());
        Ok(true)
    }

    fn slow_down(&self) {
        let Some(bytes_per_s) = self.bytes_per_s else { return };
        let bytes = self.copied.lock().bytes;
        let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
        let taken = clock::now().saturating_duration_since(self.began);
        self.sleep(due.saturating_sub(taken));
    }
    /// Not for longer than it is wanted.
    fn sleep(&self, time: Duration) {
        let until = clock::now() + time;
        while !self.is_ended.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            clock::sleep(left.min(LOOK_EVERY));
        }
    }
}
