//! Who uses how much: for `ls`, `ls --tree` and `info`. One pass over all
//! maps and logs; no block is looked at. A block counts with its whole size,
//! a layer with the granules that it is said to hold.

use std::collections::HashMap;

use serde::Serialize;

use super::candidates::Candidates;
use super::gc::bytes_of;
use super::mark::Marker;
use super::problem::Failure;
use super::{Count, Progress};
use crate::catalog::{maintenance, Parent};
use crate::error::{Error, Result};
use crate::map::{walk, Base, Entry, Root, Visitor};
use crate::name::{Id, SnapshotName};
use crate::store::{Store, GRANULE_BYTES};

/// What a volume or a snapshot uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// The size that a guest sees.
    pub logical_bytes: u64,
    /// Blocks that nothing else names: what its removal would free.
    pub own_bytes: u64,
    /// Blocks that another volume or snapshot names too.
    pub shared_bytes: u64,
    /// Of a volume: log that is not settled.
    pub log_bytes: u64,
}

/// A volume or a snapshot.
#[derive(Clone, Debug)]
pub struct Item {
    pub volume: Id,
    pub volume_name: String,
    /// `None`: the volume itself.
    pub snapshot: Option<SnapshotName>,
    pub parent: Option<Parent>,
    pub created_s: u64,
    pub used: Used,
}

#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Volumes by name, each followed by its snapshots, oldest first.
    pub items: Vec<Item>,
    /// What gc would delete.
    pub reclaimable: Count,
}

impl Usage {
    pub fn of(&self, volume: Id, snapshot: Option<&SnapshotName>) -> Option<&Used> {
        let found =
            self.items.iter().find(|item| item.volume == volume && item.snapshot.as_ref() == snapshot);
        found.map(|item| &item.used)
    }
}

/// Counts. Errors: `Corrupt`, naming the object, if a map or a log cannot be
/// read.
pub fn run(store: &Store, progress: &mut dyn FnMut(Progress)) -> Result<Usage> {
    store.check_sealed()?;
    let store = &store.remembering_pages();
    let (candidates, marker) = mark(store, progress)?;
    let roots = &marker.scanner.roots;
    let mut counting = Counting::default();
    let mut items = Vec::new();
    for volume in roots.heads.keys().map(|(volume, _)| *volume) {
        if items.last().is_some_and(|(item, _): &(Item, u32)| item.volume == volume) {
            continue;
        }
        let Some(root) = roots.latest(volume) else { continue };
        let head = &root.head;
        let at = counting.root(store, head.root, head.block_bytes)?;
        for (block, bytes) in &root.log.blocks {
            counting.block(*block, *bytes);
        }
        let used = Used { logical_bytes: head.size_bytes, log_bytes: root.log.bytes, ..Used::default() };
        let (name, parent) = (roots.name_of(volume), head.parent.clone());
        items.push((item_of(volume, name, None, parent, head.created_s, used), at));
    }
    for (key, snapshot) in &roots.snapshots {
        if roots.is_superseded(key) {
            continue;
        }
        let at = counting.root(store, snapshot.root, snapshot.block_bytes)?;
        let used = Used { logical_bytes: snapshot.size_bytes, ..Used::default() };
        let name = roots.name_of(snapshot.volume);
        let (parent, created_s) = (snapshot.parent.clone(), snapshot.created_s);
        let which = Some(snapshot.name.clone());
        items.push((item_of(snapshot.volume, name, which, parent, created_s, used), at));
    }
    let own = counting.own_bytes(items.len());
    let mut usage = Usage::default();
    for (mut item, at) in items {
        let total = counting.totals.get(at as usize).copied().unwrap_or_default();
        item.used.own_bytes = own.get(at as usize).copied().unwrap_or_default();
        item.used.shared_bytes = total.saturating_sub(item.used.own_bytes);
        usage.items.push(item);
    }
    usage.items.sort_by(|a, b| {
        let key =
            |item: &Item| (item.volume_name.clone(), item.volume, item.snapshot.is_some(), item.created_s);
        key(a).cmp(&key(b)).then_with(|| a.snapshot.cmp(&b.snapshot))
    });
    usage.reclaimable = garbage_bytes(store, &candidates, &marker)?;
    Ok(usage)
}

/// What gc would delete, without counting who uses how much. Errors: as of
/// `run`.
pub fn reclaimable(store: &Store, progress: &mut dyn FnMut(Progress)) -> Result<Count> {
    let (candidates, marker) = mark(store, progress)?;
    garbage_bytes(store, &candidates, &marker)
}

fn mark<'a>(store: &'a Store, progress: &mut dyn FnMut(Progress)) -> Result<(Candidates, Marker<'a>)> {
    let candidates = Candidates::list(store)?;
    let first = maintenance::generation(store)? + 1;
    let mut marker = Marker::new(store, Some(first));
    marker.scanner.know(candidates.volumes.iter().copied());
    let mut refuse = |failure: Failure| Err(in_usage(failure));
    marker.mark(&mut refuse, progress)?;
    Ok((candidates, marker))
}

fn garbage_bytes(store: &Store, candidates: &Candidates, marker: &Marker<'_>) -> Result<Count> {
    let mut count = Count::default();
    for name in candidates.garbage(&marker.marked, &marker.scanner.roots) {
        count.add(bytes_of(store, &name)?);
    }
    Ok(count)
}

fn item_of(
    volume: Id,
    volume_name: String,
    snapshot: Option<SnapshotName>,
    parent: Option<Parent>,
    created_s: u64,
    used: Used,
) -> Item {
    Item { volume, volume_name, snapshot, parent, created_s, used }
}

fn in_usage(failure: Failure) -> Error {
    let of = failure.owner.map_or_else(String::new, |owner| format!(" of '{owner}'"));
    let sentence =
        format!("{}{of} cannot be read: {}; see: archipelago check", failure.object, failure.error.full());
    Error::sentence(failure.error.kind(), sentence).on_named(failure.object)
}

const SHARED: u32 = u32::MAX;

/// A block: the root that names it, or `SHARED`; and its bytes as the last
/// root that looked saw them.
#[derive(Clone, Copy, Debug)]
struct Block {
    root: u32,
    bytes: u64,
}

/// What was found beneath a page, and how many roots have been through it.
#[derive(Clone, Copy, Debug, Default)]
struct Beneath {
    visits: u32,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Counting {
    blocks: HashMap<(Id, u64), Block>,
    pages: HashMap<Id, Beneath>,
    /// Of each root, by its number.
    totals: Vec<u64>,
}

impl Counting {
    /// Counts all that a root names; returns its number.
    fn root(&mut self, store: &Store, root: Root, block_bytes: u64) -> Result<u32> {
        let number = self.totals.len() as u32;
        self.totals.push(0);
        let granules = (block_bytes / GRANULE_BYTES) as u32;
        let mut visitor = CountVisitor { counting: self, block_bytes, above: Vec::new() };
        walk(store, root, granules, &mut visitor)?;
        visitor.leave(u8::MAX);
        Ok(number)
    }

    /// Counts a block for the last root; returns the bytes that are new in it.
    fn block(&mut self, name: (Id, u64), bytes: u64) {
        let number = self.totals.len() as u32 - 1;
        let mut added = bytes;
        let block = self.blocks.entry(name).or_insert(Block { root: number, bytes: 0 });
        if block.root == number {
            // Named by the map and by the log: the log knows better.
            added = bytes.saturating_sub(block.bytes);
        } else {
            block.root = SHARED;
        }
        block.bytes = block.bytes.max(bytes);
        if let Some(total) = self.totals.last_mut() {
            *total += added;
        }
    }

    fn own_bytes(&self, count: usize) -> Vec<u64> {
        let mut own = vec![0; count];
        for block in self.blocks.values() {
            if let Some(own) = own.get_mut(block.root as usize) {
                *own += block.bytes;
            }
        }
        own
    }
}

/// The first two roots through a page look at all that is beneath it: the
/// second one makes it shared. Any other only adds what they found.
struct CountVisitor<'a> {
    counting: &'a mut Counting,
    block_bytes: u64,
    /// The pages above, with the root's total when they were entered.
    above: Vec<(Id, u8, u64)>,
}

impl CountVisitor<'_> {
    fn total(&self) -> u64 {
        self.counting.totals.last().copied().unwrap_or_default()
    }

    /// Ends the pages that are not above one of this level.
    fn leave(&mut self, level: u8) {
        while let Some((id, above, before)) = self.above.last().copied() {
            if above > level {
                break;
            }
            self.above.pop();
            let bytes = self.total() - before;
            self.counting.pages.entry(id).or_default().bytes = bytes;
        }
    }
}

impl Visitor for CountVisitor<'_> {
    fn page(&mut self, id: Id, level: u8) -> Result<bool> {
        self.leave(level);
        let page = self.counting.pages.entry(id).or_default();
        page.visits += 1;
        if page.visits > 2 {
            let bytes = page.bytes;
            if let Some(total) = self.counting.totals.last_mut() {
                *total += bytes;
            }
            return Ok(false);
        }
        let before = self.total();
        self.above.push((id, level, before));
        Ok(true)
    }

    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()> {
        let base = match entry {
            Entry::Zero => return Ok(()),
            Entry::Block { epoch, index } => Base::Block { epoch: *epoch, index: *index },
            Entry::Layers { layers, base } => {
                for layer in layers.iter() {
                    let bytes = u64::from(layer.presence.count_ones()) * GRANULE_BYTES;
                    self.counting.block((layer.epoch, index), bytes);
                }
                base.clone()
            }
        };
        if let Base::Block { epoch, index } = base {
            self.counting.block((epoch, index), self.block_bytes);
        }
        Ok(())
    }

    fn failed(&mut self, _id: Id, error: Error) -> Result<()> {
        Err(error)
    }
}
