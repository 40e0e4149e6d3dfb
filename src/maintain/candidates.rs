//! What may turn out not to be needed: a listing of all objects of the kinds
//! that gc deletes.

use std::collections::{BTreeSet, HashMap};

use super::mark::Marked;
use super::roots::Roots;
use crate::backend::BackendExt;
use crate::error::Result;
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

/// Objects that were there at one moment.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub pages: Vec<Id>,
    pub blocks: Vec<(Id, u64)>,
    /// How many of these, from the first on, are where blocks are made: the rest is
    /// only where sealed ones are. 0 where that is one place.
    pub own_blocks: usize,
    pub epochs: Vec<Id>,
    pub segments: Vec<(Id, u64)>,
    pub leases: Vec<(Id, u64)>,
    /// Only to be counted: see `gc` for why they stay.
    pub heads: u64,
    pub snapshots: u64,
    pub volumes: BTreeSet<Id>,
}

impl Candidates {
    /// Lists the store. Epochs come last: whoever made one of the blocks had
    /// claimed its epoch before.
    pub fn list(store: &Store) -> Result<Candidates> {
        let mut found = Candidates::default();
        let control = store.control();
        control.list_all(prefix::PAGES)?.into_iter().for_each(|name| found.add(name));
        found.list_blocks(store)?;
        for (backend, prefix) in [
            (store.log(), prefix::SEGMENTS),
            (control, prefix::LEASES),
            (control, prefix::HEADS),
            (control, prefix::SNAPSHOTS),
            (control, prefix::EPOCHS),
        ] {
            backend.list_all(prefix)?.into_iter().for_each(|name| found.add(name));
        }
        Ok(found)
    }

    fn list_blocks(&mut self, store: &Store) -> Result<()> {
        let Some((own, sealed)) = store.own_and_sealed() else {
            store.blocks().list_all(prefix::BLOCKS)?.into_iter().for_each(|name| self.add(name));
            return Ok(());
        };
        // This order: what is carried over meanwhile is in one of the lists.
        own.list_all(prefix::BLOCKS)?.into_iter().for_each(|name| self.add(name));
        self.own_blocks = self.blocks.len();
        let there = sealed.list_all(prefix::BLOCKS)?;
        for name in there {
            let ObjectName::Block { epoch, index } = name else { continue };
            if self.blocks[..self.own_blocks].binary_search(&(epoch, index)).is_err() {
                self.blocks.push((epoch, index));
            }
        }
        Ok(())
    }

    fn add(&mut self, name: ObjectName) {
        match name {
            ObjectName::Page(id) => self.pages.push(id),
            ObjectName::Block { epoch, index } => self.blocks.push((epoch, index)),
            ObjectName::Epoch(id) => self.epochs.push(id),
            ObjectName::Segment { volume, number } => {
                self.volumes.insert(volume);
                self.segments.push((volume, number));
            }
            // Number 0 is what locks are named by.
            ObjectName::Lease { number: 0, .. } => {}
            ObjectName::Lease { volume, number } => {
                self.volumes.insert(volume);
                self.leases.push((volume, number));
            }
            ObjectName::Head { volume, .. } => {
                self.volumes.insert(volume);
                self.heads += 1;
            }
            ObjectName::Snapshot { volume, .. } => {
                self.volumes.insert(volume);
                self.snapshots += 1;
            }
            ObjectName::Store
            | ObjectName::Volume(_)
            | ObjectName::Maintenance(_)
            | ObjectName::Scrub(_) => {}
        }
    }

    /// All that nothing needs. Pages come first: they are deleted soonest
    /// after the mark.
    pub fn garbage(&self, marked: &Marked, roots: &Roots) -> Vec<ObjectName> {
        let mut garbage = self.garbage_pages(marked);
        garbage.extend(self.garbage_rest(marked, roots));
        garbage
    }

    /// Pages that nothing needs.
    fn garbage_pages(&self, marked: &Marked) -> Vec<ObjectName> {
        let needed = |id: &Id| marked.pages.contains(id) || marked.unreadable.contains(id);
        self.pages.iter().filter(|id| !needed(id)).map(|id| ObjectName::Page(*id)).collect()
    }

    /// All else that nothing needs; epochs last.
    fn garbage_rest(&self, marked: &Marked, roots: &Roots) -> Vec<ObjectName> {
        let mut garbage = Vec::new();
        for (volume, number) in &self.segments {
            let needed = match marked.log_starts.get(volume) {
                Some(start) => number >= start,
                None => is_in_the_making(*volume, marked, roots),
            };
            if !needed {
                garbage.push(ObjectName::Segment { volume: *volume, number: *number });
            }
        }
        let mut highest: HashMap<Id, u64> = HashMap::new();
        for (volume, number) in &self.leases {
            let there = highest.entry(*volume).or_default();
            *there = (*there).max(*number);
        }
        for (volume, number) in &self.leases {
            let there = marked.log_starts.contains_key(volume) || is_in_the_making(*volume, marked, roots);
            if !there || highest.get(volume).is_some_and(|highest| number < highest) {
                garbage.push(ObjectName::Lease { volume: *volume, number: *number });
            }
        }
        for (epoch, index) in &self.blocks {
            if !marked.live.contains(epoch) && !marked.blocks.contains_key(&(*epoch, *index)) {
                garbage.push(ObjectName::Block { epoch: *epoch, index: *index });
            }
        }
        for epoch in self.epochs.iter().filter(|epoch| !marked.live.contains(epoch)) {
            garbage.push(ObjectName::Epoch(*epoch));
        }
        garbage
    }
}

/// True if a volume without a head may get one yet, or if a name says that
/// there should be one.
fn is_in_the_making(volume: Id, marked: &Marked, roots: &Roots) -> bool {
    marked.young_volumes.contains(&volume) || roots.names.values().any(|id| *id == volume)
}
