//! Everything that the roots reach. Nothing is forgotten between two marks:
//! what was needed once while this looked stays marked.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::problem::{Failure, OnFailure};
use super::roots::{is_of_content, Scanner, SnapshotKey};
use super::{Phase, Progress};
use crate::catalog::{lease, volume};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::map::{walk, Entry, Root, Visitor};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};

/// How often progress is told, in pages.
const PROGRESS_PAGES: u64 = 64;

/// A head or a snapshot that was marked from.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// As people call it.
    pub name: String,
    pub object: ObjectName,
    pub block_bytes: u64,
    /// A later number of the same head or snapshot counts, not this one.
    pub superseded: bool,
}

/// What is needed.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub pages: HashSet<Id>,
    /// Pages of superseded roots that cannot be read: nobody misses them, and
    /// they are left alone for whoever wants to know why.
    pub unreadable: HashSet<Id>,
    /// Blocks, and which of `owners` was the first to name them.
    pub blocks: HashMap<(Id, u64), u32>,
    pub owners: Vec<Owner>,
    /// Epochs in which blocks may be made that nothing names yet.
    pub live: HashSet<Id>,
    /// The first log segment needed, of each volume that has a head.
    pub log_starts: HashMap<Id, u64>,
    /// Volumes of epochs that were claimed lately: they may be in the making.
    pub young_volumes: HashSet<Id>,
}

pub(super) struct Marker<'a> {
    store: &'a Store,
    pub scanner: Scanner<'a>,
    pub marked: Marked,
    heads_walked: BTreeSet<(Id, u64)>,
    snapshots_walked: BTreeSet<SnapshotKey>,
    /// Epochs claimed at this generation or later are young. `None`: none is.
    young_from: Option<u64>,
    /// A block that both name is the snapshot's, not the head's.
    pub snapshots_first: bool,
}

impl<'a> Marker<'a> {
    /// `first`: the number of the generation that this maintenance began
    /// with. What was claimed since the maintenance before that began is
    /// young; that leaves a creator at least one whole maintenance to publish.
    pub fn new(store: &'a Store, first: Option<u64>) -> Marker<'a> {
        Marker {
            store,
            scanner: Scanner::new(store),
            marked: Marked::default(),
            heads_walked: BTreeSet::new(),
            snapshots_walked: BTreeSet::new(),
            young_from: first.map(|first| first.saturating_sub(1)),
            snapshots_first: false,
        }
    }

    /// Marks from all roots that there are now. `failed` hears of everything
    /// that is needed and cannot be read.
    pub fn mark(&mut self, failed: &mut OnFailure<'_>, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        self.scanner.scan(failed)?;
        self.note_logs();
        self.check_names(failed)?;
        // What counts goes first: a page that an old root reaches too must
        // not pass for one that nobody misses.
        for superseded in [false, true] {
            if self.snapshots_first {
                self.walk_snapshots(superseded, failed, progress)?;
            }
            self.walk_heads(superseded, failed, progress)?;
            self.walk_snapshots(superseded, failed, progress)?;
        }
        Ok(())
    }

    fn note_logs(&mut self) {
        let (roots, marked) = (&self.scanner.roots, &mut self.marked);
        for ((volume, _), root) in &roots.heads {
            marked.live.insert(root.head.epoch);
            marked.live.extend(root.log.epochs.iter().copied());
            if fault::on(fault::Planted::GcForgetsLog) {
                marked.log_starts.insert(*volume, u64::MAX);
            } else if let Some(start) = roots.log_start(*volume) {
                marked.log_starts.insert(*volume, start);
            }
        }
        let Some(young_from) = self.young_from else { return };
        for epoch in roots.epochs.values().filter(|epoch| epoch.is_young(young_from)) {
            marked.live.insert(epoch.id);
            marked.young_volumes.insert(epoch.volume);
        }
    }

    /// A volume's head goes after its name, so a name without a head is
    /// damage; unless it is being removed just now.
    fn check_names(&mut self, failed: &mut OnFailure<'_>) -> Result<()> {
        let roots = &self.scanner.roots;
        for (name, id) in &roots.names {
            if roots.latest(*id).is_some() {
                continue;
            }
            match volume::lookup(self.store, name) {
                Ok(there) if there == *id => {}
                Err(error) if !is_of_content(&error) => return Err(error),
                _ => continue,
            }
            if matches!(lease::moved_to(self.store, *id), Ok(Some(_))) {
                // Nothing of its log is needed, although a name leads to it.
                self.marked.log_starts.insert(*id, u64::MAX);
                continue;
            }
            let object = ObjectName::Volume(name.clone());
            let sentence = format!(
                "volume '{name}' has no readable head: if it was removed before a crash, \
                 remove it again with: archipelago rm {name}"
            );
            failed(Failure {
                owner: Some(name.to_string()),
                object: object.to_string(),
                error: Error::sentence(ErrorKind::Corrupt, sentence).on(&object),
                root: None,
            })?;
        }
        Ok(())
    }

    fn walk_heads(
        &mut self,
        superseded: bool,
        failed: &mut OnFailure<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let roots = &self.scanner.roots;
        for (key @ (volume, number), root) in &roots.heads {
            let counts = roots.latest(*volume).is_some_and(|latest| latest.head.number == *number);
            if counts == superseded || !self.heads_walked.insert(*key) {
                continue;
            }
            let owner = Owner {
                name: roots.name_of(*volume),
                object: root.head.object(),
                block_bytes: root.head.block_bytes,
                superseded,
            };
            let at = self.marked.add_owner(owner);
            for block in root.log.blocks.keys() {
                self.marked.blocks.entry(*block).or_insert(at);
            }
            walk_root(self.store, root.head.root, at, &mut self.marked, failed, progress)?;
        }
        Ok(())
    }

    fn walk_snapshots(
        &mut self,
        superseded: bool,
        failed: &mut OnFailure<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let roots = &self.scanner.roots;
        for (key, snapshot) in &roots.snapshots {
            if roots.is_superseded(key) != superseded || !self.snapshots_walked.insert(key.clone()) {
                continue;
            }
            let owner = Owner {
                name: format!("{}@{}", roots.name_of(snapshot.volume), snapshot.name),
                object: snapshot.object(),
                block_bytes: snapshot.block_bytes,
                superseded,
            };
            let at = self.marked.add_owner(owner);
            walk_root(self.store, snapshot.root, at, &mut self.marked, failed, progress)?;
        }
        Ok(())
    }
}

impl Marked {
    fn add_owner(&mut self, owner: Owner) -> u32 {
        self.owners.push(owner);
        self.owners.len() as u32 - 1
    }

    pub fn owner_of(&self, block: &(Id, u64)) -> Option<&Owner> {
        self.blocks.get(block).and_then(|at| self.owners.get(*at as usize))
    }
}

fn walk_root(
    store: &Store,
    root: Root,
    owner_at: u32,
    marked: &mut Marked,
    failed: &mut OnFailure<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let Some(owner) = marked.owners.get(owner_at as usize).cloned() else { return Ok(()) };
    let granules = (owner.block_bytes / GRANULE_BYTES) as u32;
    walk(store, root, granules, &mut MarkVisitor { owner, owner_at, marked, failed, progress })
}

struct MarkVisitor<'a, 'f> {
    owner: Owner,
    owner_at: u32,
    marked: &'a mut Marked,
    failed: &'a mut OnFailure<'f>,
    progress: &'a mut dyn FnMut(Progress),
}

impl Visitor for MarkVisitor<'_, '_> {
    fn page(&mut self, id: Id, _level: u8) -> Result<bool> {
        let is_new = self.marked.pages.insert(id);
        let done = self.marked.pages.len() as u64;
        if is_new && done % PROGRESS_PAGES == 0 {
            (self.progress)(Progress { phase: Phase::Mark, done, total: None });
        }
        Ok(is_new)
    }

    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()> {
        entry.each_block(index, &mut |name| {
            if let ObjectName::Block { epoch, index } = name {
                self.marked.blocks.entry((epoch, index)).or_insert(self.owner_at);
            }
        });
        Ok(())
    }

    fn failed(&mut self, id: Id, error: Error) -> Result<()> {
        if self.owner.superseded && is_of_content(&error) {
            self.marked.pages.remove(&id);
            self.marked.unreadable.insert(id);
            return Ok(());
        }
        let object = error.object().map_or_else(|| ObjectName::Page(id).to_string(), str::to_owned);
        (self.failed)(Failure {
            owner: Some(self.owner.name.clone()),
            object,
            error,
            root: Some(self.owner.object.clone()),
        })
    }
}
