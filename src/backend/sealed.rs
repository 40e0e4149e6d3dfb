//! `sealed`: a second place for blocks that nobody writes to any more, beside the
//! one that they are made in. What is made and written is in the first; gc carries
//! sealed blocks over (`maintain::carry`), each in this order: made there, synced
//! there, removed here. So whoever asks here first and there afterwards finds it
//! at every moment; a block that is in both is the same in both.

use std::collections::HashMap;
use std::sync::Arc;

use super::order::compare;
use super::{Backend, Capabilities, DataPath, Done, Job, Last, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName};
use crate::sync::Mutex;
use crate::sys::iobuf::IoBuf;

/// Groups of blocks that are remembered at most, of 64 each: some 3 MB.
const GROUPS_MAX: usize = 1 << 16;
const GROUP: u64 = 64;

/// Which blocks were found among the sealed ones: they are asked for there first.
/// It may be wrong, and costs a call then.
#[derive(Debug, Default)]
struct Known(Mutex<HashMap<(Id, u64), u64>>);

impl Known {
    fn place(name: &ObjectName) -> Option<((Id, u64), u64)> {
        match name {
            ObjectName::Block { epoch, index } => Some(((*epoch, index / GROUP), 1 << (index % GROUP))),
            _ => None,
        }
    }

    fn has(&self, name: &ObjectName) -> bool {
        let Some((group, bit)) = Known::place(name) else { return false };
        self.0.lock().get(&group).is_some_and(|bits| bits & bit != 0)
    }

    fn add(&self, name: &ObjectName) {
        let Some((group, bit)) = Known::place(name) else { return };
        let mut groups = self.0.lock();
        if groups.len() >= GROUPS_MAX && !groups.contains_key(&group) {
            groups.clear();
        }
        *groups.entry(group).or_default() |= bit;
    }

    fn remove(&self, name: &ObjectName) {
        let Some((group, bit)) = Known::place(name) else { return };
        if let Some(bits) = self.0.lock().get_mut(&group) {
            *bits &= !bit;
        }
    }
}

/// Both places as one.
#[derive(Debug)]
pub struct Sealed {
    own: Arc<dyn Backend>,
    sealed: Arc<dyn Backend>,
    known: Arc<Known>,
}

fn is_missing<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.is(ErrorKind::NotFound))
}

impl Sealed {
    /// `own`: where blocks are made. `sealed`: nothing else writes there.
    pub fn beside(own: Arc<dyn Backend>, sealed: Arc<dyn Backend>) -> Sealed {
        Sealed { own, sealed, known: Arc::default() }
    }

    /// "Not found" only if both say so, and the sealed one after the other.
    fn find<T>(&self, name: &ObjectName, mut ask: impl FnMut(&dyn Backend) -> Result<T>) -> Result<T> {
        if !matches!(name, ObjectName::Block { .. }) {
            return ask(self.own.as_ref());
        }
        if self.known.has(name) {
            match ask(self.sealed.as_ref()) {
                Ok(found) => return Ok(found),
                Err(error) if error.is(ErrorKind::NotFound) => self.known.remove(name),
                Err(error) => {
                    let own = ask(self.own.as_ref());
                    return if is_missing(&own) { Err(error) } else { own };
                }
            }
        }
        let own = ask(self.own.as_ref());
        if !is_missing(&own) {
            return own;
        }
        let found = ask(self.sealed.as_ref());
        if found.is_ok() {
            self.known.add(name);
        }
        found
    }

    /// Syncs those that are known to be sealed. Returns the others, and those that
    /// are sealed no more: somebody has brought them back.
    fn synced_there(&self, names: &[ObjectName]) -> Result<Vec<ObjectName>> {
        let mut others = Vec::with_capacity(names.len());
        for name in names {
            if !self.known.has(name) {
                others.push(name.clone());
                continue;
            }
            match self.sealed.sync(std::slice::from_ref(name)) {
                Err(error) if error.is(ErrorKind::NotFound) => {
                    self.known.remove(name);
                    others.push(name.clone());
                }
                other => other?,
            }
        }
        Ok(others)
    }
}

impl Backend for Sealed {
    fn capabilities(&self) -> Capabilities {
        let (own, sealed) = (self.own.capabilities(), self.sealed.capabilities());
        Capabilities {
            tells_room: own.tells_room && sealed.tells_room,
            list_lag_s: own.list_lag_s.max(sealed.list_lag_s),
            lists_at_once: false,
            object_bytes_max: own.object_bytes_max.min(sealed.object_bytes_max),
            ..own
        }
    }

    /// Does not ask the sealed place, which would cost every new block a call: no
    /// name of a block that is sealed is made again with another content.
    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.own.create(name, data)
    }

    fn create_each(&self, objects: &[(&ObjectName, &[u8])]) -> Vec<Result<()>> {
        self.own.create_each(objects)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.own.create_sparse(name, bytes)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.find(name, |backend| backend.read_at(name, offset_bytes, buf))
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.own.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.own.punch(name, offset_bytes, bytes)
    }

    /// Of names that are known to be sealed, there. Nobody syncs others that
    /// are: what is synced can still be written to.
    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.own.sync(&self.synced_there(names)?)
    }

    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.own.sync_content(&self.synced_there(names)?)
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.own.forget_synced(names);
        self.sealed.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.own.forget_seen();
        self.sealed.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let own = self.own.delete(name);
        if !matches!(name, ObjectName::Block { .. }) || (own.is_err() && !is_missing(&own)) {
            return own;
        }
        self.known.remove(name);
        let sealed = self.sealed.delete(name);
        if is_missing(&sealed) {
            return own;
        }
        sealed
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.find(name, |backend| backend.stat(name))
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.find(name, |backend| backend.next_data(name, offset_bytes))
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        // This one first: what is carried over meanwhile is in one of the lists.
        let own = self.own.list(prefix, after, count_max)?;
        let wanted = match prefix.starts_with(prefix::BLOCKS) {
            true => prefix,
            false if prefix::BLOCKS.starts_with(prefix) => prefix::BLOCKS,
            false => return Ok(own),
        };
        let mut all = self.sealed.list(wanted, after, count_max)?;
        all.extend(own);
        all.sort_unstable_by(compare);
        all.dedup();
        all.truncate(count_max);
        Ok(all)
    }

    fn last(&self, prefix: &str) -> Result<Last> {
        // Blocks can be in either, which is not one moment.
        match prefix.starts_with(prefix::BLOCKS) || prefix::BLOCKS.starts_with(prefix) {
            true => Ok(Last::Untold),
            false => self.own.last(prefix),
        }
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let copied = self.own.copy(from, to);
        if !is_missing(&copied) {
            return copied;
        }
        let mut data = vec![0; usize::try_from(self.sealed.stat(from)?.bytes).unwrap_or(usize::MAX)];
        let read_bytes = self.sealed.read_at(from, 0, &mut data)?;
        data.truncate(read_bytes);
        self.own.create(to, &data)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.own.lock(name, mode)
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.own.cut_off(name)
    }

    fn carry_out(&self, jobs: Vec<Box<dyn FnOnce() + Send>>) {
        self.own.carry_out(jobs);
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        let (own, sealed) = (self.own.data_path()?, self.sealed.data_path());
        Some(Arc::new(SealedData { own, sealed, known: Arc::clone(&self.known) }))
    }
}

/// Asks one place. "Not found" means that the block is in the other one, or in
/// none: whoever is told so asks `Sealed`, which remembers what it finds.
#[derive(Debug)]
struct SealedData {
    own: Arc<dyn DataPath>,
    sealed: Option<Arc<dyn DataPath>>,
    known: Arc<Known>,
}

impl SealedData {
    /// `None`: there is no native way to where this is.
    fn path_of(&self, name: &ObjectName) -> Option<&Arc<dyn DataPath>> {
        match self.known.has(name) {
            true => self.sealed.as_ref(),
            false => Some(&self.own),
        }
    }
}

impl DataPath for SealedData {
    fn alignment_bytes(&self) -> usize {
        let sealed = self.sealed.as_ref().map_or(1, |path| path.alignment_bytes());
        self.own.alignment_bytes().max(sealed)
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let is_known = self.known.has(name);
        let Some(sealed) = self.sealed.as_ref().filter(|_| is_known) else {
            return self.own.submit_read(name, offset_bytes, buf, done);
        };
        let (known, of) = (Arc::clone(&self.known), name.clone());
        let told = Box::new(move |result: Result<()>| {
            // It may be here all the same: with "not found" both are asked.
            let is_elsewhere = is_missing(&result);
            if is_elsewhere {
                known.remove(&of);
            }
            done(result);
        });
        sealed.submit_read(name, offset_bytes, buf, told);
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        self.own.submit_write(name, offset_bytes, buf, done);
    }

    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        match self.path_of(name)?.try_read(name, offset_bytes, buf) {
            Some(Err(error)) if error.is(ErrorKind::NotFound) => None,
            other => other,
        }
    }

    fn run_awake(&self, job: Job) -> std::result::Result<(), Job> {
        self.own.run_awake(job)
    }
}

/// Error: `Invalid`, where a holder that was given up may still write to a block
/// in place: it might be one that has been carried over.
pub fn check_own(name: &str, own: &dyn Backend) -> Result<()> {
    let capabilities = own.capabilities();
    if !capabilities.overwrite_in_place || capabilities.fences {
        return Ok(());
    }
    let words = format!(
        "store '{name}' cannot have its sealed blocks in another place: a machine that was given up may \
         write to them still"
    );
    Err(Error::sentence(ErrorKind::Invalid, words))
}
