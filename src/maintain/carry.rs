//! Carries blocks that published snapshots name from where they are made to the
//! place that the store has for sealed ones (`sealed =`). gc does that, last of all.
//!
//! # Which
//!
//! A block that a snapshot reaches, of an epoch that is not live: no head names it,
//! no cut in a head's log, and it was not claimed lately. Nothing is made or
//! overwritten in such an epoch any more (that is also why gc may delete in it), and
//! where a former holder could do that still there is no such place
//! (`backend::sealed::check_own`). What only heads reach stays.
//!
//! # In which order
//!
//! 1. Read, and compared with the sum that the snapshot's map has of it, if any.
//! 2. Made over there by `create`; or found there, of this content.
//! 3. Synced there, also what was found: it may have been made by a gc that was
//!    killed before that was durable.
//! 4. The right to maintain is confirmed.
//! 5. Deleted here.
//!
//! A reader asks here first and there afterwards, so that it finds the block at
//! every moment. Whoever is killed leaves blocks in both places, which are the same;
//! the next gc finds them there and goes on. What does not match is left here, where
//! it is read, and told.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;

use super::candidates::Candidates;
use super::gc::{bytes_of, delete};
use super::mark::Marker;
use super::roots::is_of_content;
use super::sum::{read_whole, sum_of};
use super::{Count, Phase, Progress};
use crate::backend::Backend;
use crate::catalog::maintenance::Maintenance;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{walk_sums, Entry, Presence, Sum, SumVisitor, Sums};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};

/// Carried between two questions whether the generation is still ours.
const BATCH_BLOCKS: usize = 16;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Carried {
    pub blocks: Count,
    /// Damaged: not as they were when they were summed, or there is another of the
    /// same name over there.
    pub left: u64,
}

/// One block to be carried.
struct Job {
    name: ObjectName,
    block_bytes: u64,
    sum: Option<Sum>,
    presence: Option<Presence>,
}

/// Carries what is sealed; without a `right` it only says what that would be.
/// `None` if that has no place of its own.
pub(super) fn carry(
    store: &Store,
    right: Option<&Maintenance>,
    candidates: &Candidates,
    marker: &Marker<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Carried>> {
    let Some((own, sealed)) = store.own_and_sealed() else { return Ok(None) };
    let wanted = sealed_of(candidates, marker);
    let mut carried = Carried::default();
    let Some(right) = right else {
        for (epoch, index) in wanted {
            carried.blocks.add(bytes_of(store, &ObjectName::Block { epoch, index })?);
        }
        return Ok(Some(carried));
    };
    let total = wanted.len() as u64;
    let mut carrier = Carrier {
        store,
        right,
        own,
        sealed,
        wanted,
        total,
        pages: HashSet::new(),
        batch: Vec::new(),
        block_bytes: 0,
        carried,
        progress,
    };
    for (key, snapshot) in &marker.scanner.roots.snapshots {
        if carrier.wanted.is_empty() || marker.scanner.roots.is_superseded(key) {
            continue;
        }
        carrier.block_bytes = snapshot.block_bytes;
        let granules = (snapshot.block_bytes / GRANULE_BYTES) as u32;
        walk_sums(store, snapshot.root, granules, &mut carrier)?;
    }
    carrier.carry_batch()?;
    Ok(Some(carrier.carried))
}

/// Blocks that are sealed, and where blocks are made.
fn sealed_of(candidates: &Candidates, marker: &Marker<'_>) -> HashSet<(Id, u64)> {
    let own = &candidates.blocks[..candidates.own_blocks];
    let is_sealed = |block: &&(Id, u64)| {
        let owner = marker.marked.owner_of(block);
        let is_named = owner.is_some_and(|owner| matches!(owner.object, ObjectName::Snapshot { .. }));
        is_named && !marker.marked.live.contains(&block.0)
    };
    own.iter().filter(is_sealed).copied().collect()
}

struct Carrier<'a> {
    store: &'a Store,
    right: &'a Maintenance,
    own: &'a Arc<dyn Backend>,
    sealed: &'a Arc<dyn Backend>,
    wanted: HashSet<(Id, u64)>,
    total: u64,
    pages: HashSet<Id>,
    batch: Vec<Job>,
    block_bytes: u64,
    carried: Carried,
    progress: &'a mut dyn FnMut(Progress),
}

impl SumVisitor for Carrier<'_> {
    fn page(&mut self, id: Id, _: &[u8; 32]) -> Result<bool> {
        Ok(!self.wanted.is_empty() && self.pages.insert(id))
    }

    fn entry(&mut self, at: u64, entry: &Entry, sums: &Sums) -> Result<()> {
        let mut jobs = Vec::new();
        entry.each_part(at, &mut |epoch, index, presence| {
            if self.wanted.remove(&(epoch, index)) {
                jobs.push(Job {
                    name: ObjectName::Block { epoch, index },
                    block_bytes: self.block_bytes,
                    sum: sums.get(epoch, index).copied(),
                    presence: presence.cloned(),
                });
            }
        });
        self.batch.extend(jobs);
        match self.batch.len() >= BATCH_BLOCKS {
            true => self.carry_batch(),
            false => Ok(()),
        }
    }

    /// It was removed meanwhile, or is damaged: what is beneath stays.
    fn failed(&mut self, _: Id, error: Error) -> Result<()> {
        match is_of_content(&error) {
            true => Ok(()),
            false => Err(error),
        }
    }
}

impl Carrier<'_> {
    fn carry_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let done = self.total - (self.wanted.len() + batch.len()) as u64;
        (self.progress)(Progress { phase: Phase::Carry, done, total: Some(self.total) });
        let mut names = Vec::new();
        for job in batch {
            match self.make(&job) {
                Ok(()) => names.push(job.name),
                // Deleted meanwhile, by a gc that went on after it was stopped.
                Err(error) if error.is(ErrorKind::NotFound) => {}
                Err(error) if error.is(ErrorKind::Corrupt) => {
                    self.carried.left += 1;
                    ::log::warn!("gc of store '{}' does not carry {}", self.store.name, error.full());
                }
                Err(error) => return Err(explain(self.store, error)),
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        // Of what a gc that was killed has made there this process knows nothing.
        self.sealed.forget_synced(&names);
        self.sealed.sync(&names).map_err(|error| explain(self.store, error))?;
        self.right.confirm(self.store)?;
        for name in &names {
            let bytes = match self.own.stat(name) {
                Ok(stat) => stat.allocated_bytes,
                Err(error) if error.is(ErrorKind::NotFound) => continue,
                Err(error) => return Err(error),
            };
            delete(self.own.as_ref(), name)?;
            self.carried.blocks.add(bytes);
        }
        Ok(())
    }

    /// Has it over there. Errors: `Corrupt` if it cannot be vouched for;
    /// `NotFound` if it is not here.
    fn make(&self, job: &Job) -> Result<()> {
        let Job { name, block_bytes, .. } = job;
        let (data, _) = read_whole(self.own, name, *block_bytes)?;
        if job.sum.is_some_and(|sum| sum_of(&data, job.presence.as_ref()) != sum) {
            return Err(Error::corrupt(name, "its content is not what it was when it was summed"));
        }
        match self.sealed.create(name, &data) {
            Err(error) if error.is(ErrorKind::Exists) => {}
            other => return other,
        }
        if read_whole(self.sealed, name, *block_bytes)?.0 != data {
            let message = "another one of its name is among the sealed blocks";
            return Err(Error::corrupt(name, message));
        }
        Ok(())
    }
}

fn explain(store: &Store, error: Error) -> Error {
    let sentence =
        format!("gc of store '{}' cannot carry sealed blocks to their place: {}", store.name, error.full());
    Error::sentence(error.kind(), sentence).caused_by(error)
}
