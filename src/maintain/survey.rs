//! What scrub finds to do: every block that snapshots and volumes name, and
//! the sums that their maps have.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::candidates::Candidates;
use super::problem::{Failure, OnFailure};
use super::roots::{Roots, Scanner};
use crate::catalog::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::map::{walk_sums, Entry, Presence, Root, Sum, SumVisitor, Sums};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};

/// A block as a map names it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub sum: Option<Sum>,
    /// Of a layer: what counts of it.
    pub presence: Option<Presence>,
    /// Which of `owners` was the first to name it.
    pub owner: u32,
    /// A snapshot names it: nobody writes to it any more.
    pub sealed: bool,
}

#[derive(Debug)]
pub(super) struct Owner {
    /// As people call it.
    pub name: String,
    pub object: ObjectName,
    pub block_bytes: u64,
}

/// All of a store, as its maps say.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub blocks: BTreeMap<(Id, u64), Found>,
    pub owners: Vec<Owner>,
    pub snapshots: Vec<Snapshot>,
    /// A snapshot's page names blocks of which it has no sum.
    pub lacks_sums: bool,
    /// Pages by the hash of their objects.
    pub pages: HashMap<[u8; 32], Id>,
    seen: HashSet<Id>,
}

impl Survey {
    /// Reads all maps. `failed` hears of what cannot be read.
    pub fn take(store: &Store, failed: &mut OnFailure<'_>) -> Result<Survey> {
        let candidates = Candidates::list(store)?;
        let mut scanner = Scanner::new(store);
        scanner.know(candidates.volumes.iter().copied());
        scanner.scan(failed)?;
        let roots = &scanner.roots;
        let mut survey = Survey::default();
        for (key, snapshot) in &roots.snapshots {
            if !roots.is_superseded(key) {
                survey.snapshot(store, roots, snapshot, failed)?;
            }
        }
        let volumes: HashSet<Id> = roots.heads.keys().map(|(volume, _)| *volume).collect();
        for volume in volumes {
            let Some(root) = roots.latest(volume) else { continue };
            let head = &root.head;
            let owner = Owner {
                name: roots.name_of(volume),
                object: head.object(),
                block_bytes: head.block_bytes,
            };
            survey.map(store, owner, head.root, false, failed)?;
        }
        Ok(survey)
    }

    fn snapshot(
        &mut self,
        store: &Store,
        roots: &Roots,
        snapshot: &Snapshot,
        failed: &mut OnFailure<'_>,
    ) -> Result<()> {
        let owner = Owner {
            name: format!("{}@{}", roots.name_of(snapshot.volume), snapshot.name),
            object: snapshot.object(),
            block_bytes: snapshot.block_bytes,
        };
        self.snapshots.push(snapshot.clone());
        self.map(store, owner, snapshot.root, true, failed)
    }

    fn map(
        &mut self,
        store: &Store,
        owner: Owner,
        root: Root,
        sealed: bool,
        failed: &mut OnFailure<'_>,
    ) -> Result<()> {
        let granules = (owner.block_bytes / GRANULE_BYTES) as u32;
        self.owners.push(owner);
        let owner = self.owners.len() as u32 - 1;
        walk_sums(store, root, granules, &mut Visit { survey: self, owner, sealed, failed })
    }

    pub fn owner_of(&self, found: &Found) -> Option<&Owner> {
        self.owners.get(found.owner as usize)
    }
}

struct Visit<'a, 'f> {
    survey: &'a mut Survey,
    owner: u32,
    sealed: bool,
    failed: &'a mut OnFailure<'f>,
}

impl SumVisitor for Visit<'_, '_> {
    fn page(&mut self, id: Id, hash: &[u8; 32]) -> Result<bool> {
        self.survey.pages.insert(*hash, id);
        Ok(self.survey.seen.insert(id))
    }

    fn entry(&mut self, index: u64, entry: &Entry, sums: &Sums) -> Result<()> {
        entry.each_part(index, &mut |epoch, index, presence| {
            let sum = sums.get(epoch, index).copied();
            self.survey.lacks_sums |= self.sealed && sum.is_none();
            let there = self.survey.blocks.entry((epoch, index)).or_insert_with(|| Found {
                sum,
                presence: presence.cloned(),
                owner: self.owner,
                sealed: self.sealed,
            });
            // A volume's own block may hold more by now than a sum is of.
            if there.presence.as_ref() == presence {
                there.sum = there.sum.or(sum);
                there.sealed |= self.sealed;
            }
        });
        Ok(())
    }

    fn failed(&mut self, id: Id, error: Error) -> Result<()> {
        let object = error.object().map_or_else(|| ObjectName::Page(id).to_string(), str::to_owned);
        let owner = self.survey.owners.get(self.owner as usize);
        (self.failed)(Failure {
            owner: owner.map(|owner| owner.name.clone()),
            object,
            error,
            root: owner.map(|owner| owner.object.clone()),
        })
    }
}
