//! Writing a changed map: new pages from the leaves up, each durable before
//! the parent that names it, one leaf in memory at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::Entry;
use super::format::encode;
use super::page::{Body, Leaf, Page, PageRef, Parent};
use super::tree::{Map, Place};
use super::{level_for, slot_of, span, Root, PAGE_ENTRIES};
use crate::clock;
use crate::error::Result;
use crate::name::{Id, ObjectName};

/// Pages that are durable but that nothing names yet.
#[derive(Debug)]
pub struct Written {
    pub root: Root,
    pub block_count: u64,
    pub pages_written: usize,
    pub(super) from: Root,
    /// Of the new pages as many as the cache may keep.
    pub(super) pages: Vec<(Id, Arc<Page>)>,
    pub(super) replaced: Vec<Id>,
}

type Children = BTreeMap<u16, PageRef>;

struct Writing<'a> {
    map: &'a Map,
    changes: &'a BTreeMap<u64, Entry>,
    /// Old entries at and beyond it are gone.
    cut: u64,
    /// Changes at and beyond it are dropped.
    end: u64,
    room_bytes: usize,
    out: Written,
}

impl Map {
    /// Writes every page that `changes` touch and those above them, each
    /// durable before its parent. A page that would say what the old one
    /// says, or nothing but `Zero`, is not written. Entries at and beyond
    /// `block_count` become `Zero`. This map stays as it is until `adopt`.
    ///
    /// If it fails, the pages written so far are garbage for gc. Errors:
    /// `Corrupt`, those of the backend, `Internal` for an impossible entry.
    pub fn write(&self, changes: &BTreeMap<u64, Entry>, block_count: u64) -> Result<Written> {
        let (root, old_count, room_bytes) = {
            let state = self.state.lock();
            (state.root, state.block_count, state.cache.limit())
        };
        for (index, entry) in changes.range(..block_count) {
            entry.check(*index, self.granules)?;
        }
        let mut writing = Writing {
            map: self,
            changes,
            // What a smaller volume had beyond its end must not come back.
            cut: if old_count == block_count { u64::MAX } else { old_count.min(block_count) },
            end: block_count,
            room_bytes,
            out: Written {
                root,
                block_count,
                pages_written: 0,
                from: root,
                pages: Vec::new(),
                replaced: Vec::new(),
            },
        };
        let base = writing.lowered(Place::of_root(&root))?;
        writing.out.root = writing.top(base)?;
        Ok(writing.out)
    }
}

impl Writing<'_> {
    /// After a cut, the place of the lowest page that covers what is left.
    fn lowered(&mut self, mut place: Place) -> Result<Place> {
        while !place.page.is_none() && place.level > level_for(self.cut.saturating_sub(1)) {
            let page = self.map.page(&place)?;
            self.replace(&place);
            place = match &page.body {
                Body::Parent(parent) => place.child(parent.child(0), 0),
                Body::Leaf(_) => break,
            };
        }
        if place.page.is_none() {
            place.level = 0;
        }
        Ok(place)
    }

    /// Writes what is beneath the old root, then puts it under as many new
    /// levels as the changes beyond it need.
    fn top(&mut self, base: Place) -> Result<Root> {
        let last = self.changes.range(..self.end).rev().find(|(_, entry)| **entry != Entry::Zero);
        let level_needed = last.map_or(0, |(index, _)| level_for(*index));
        let mut level = base.level;
        let mut page = self.page(&base)?;
        while level < level_needed {
            let mut children = Children::new();
            if !page.is_none() {
                children.insert(0, page);
            }
            let place = Place { page: PageRef::NONE, level: level + 1, first: 0, parent: Id::NONE };
            for slot in self.changed_slots(&place) {
                if slot > 0 {
                    self.child(&place, slot, PageRef::NONE, &mut children)?;
                }
            }
            page = self.store_parent(&place, &children)?;
            level += 1;
        }
        match page.is_none() {
            true => Ok(Root::ZERO),
            false => Ok(Root { page: page.id, hash: page.hash, level }),
        }
    }

    /// What stands at `place` afterwards.
    fn page(&mut self, place: &Place) -> Result<PageRef> {
        let end = place.first.saturating_add(span(place.level));
        let changed = self.changes.range(place.first..end.min(self.end).max(place.first));
        if changed.take(1).count() == 0 {
            if place.page.is_none() || self.cut >= end {
                return Ok(place.page);
            }
            if self.cut <= place.first {
                return Ok(PageRef::NONE);
            }
        }
        match place.level {
            0 => self.leaf(place),
            _ => self.parent(place),
        }
    }

    fn leaf(&mut self, place: &Place) -> Result<PageRef> {
        let mut old = Vec::new();
        if !place.page.is_none() {
            if let Body::Leaf(leaf) = &self.map.page(place)?.body {
                old = leaf.entries(place.first);
            }
        }
        let mut entries = old.clone();
        entries.truncate(usize::try_from(self.cut.saturating_sub(place.first)).unwrap_or(usize::MAX));
        entries.resize(PAGE_ENTRIES, Entry::Zero);
        let end = (place.first + span(0)).min(self.end).max(place.first);
        for (index, entry) in self.changes.range(place.first..end) {
            if let Some(slot) = entries.get_mut(slot_of(*index, 0)) {
                *slot = entry.clone();
            }
        }
        old.resize(PAGE_ENTRIES, Entry::Zero);
        if entries == old {
            return Ok(place.page);
        }
        if entries.iter().all(|entry| *entry == Entry::Zero) {
            self.replace(place);
            return Ok(PageRef::NONE);
        }
        self.create(place, Body::Leaf(Leaf::from_entries(place.first, &entries)))
    }

    fn parent(&mut self, place: &Place) -> Result<PageRef> {
        let mut children = Children::new();
        if !place.page.is_none() {
            if let Body::Parent(parent) = &self.map.page(place)?.body {
                children.extend(parent.children());
            }
        }
        let old = children.clone();
        let mut slots = self.changed_slots(place);
        slots.extend(old.keys().filter(|slot| {
            let first = place.child(PageRef::NONE, **slot).first;
            first.saturating_add(span(place.level - 1)) > self.cut
        }));
        for slot in slots {
            let child = children.get(&slot).copied().unwrap_or(PageRef::NONE);
            self.child(place, slot, child, &mut children)?;
        }
        match children == old {
            true => Ok(place.page),
            false => self.store_parent(place, &children),
        }
    }

    fn child(&mut self, place: &Place, slot: u16, old: PageRef, all: &mut Children) -> Result<()> {
        let page = self.page(&place.child(old, slot))?;
        match page.is_none() {
            true => all.remove(&slot),
            false => all.insert(slot, page),
        };
        Ok(())
    }

    /// The children of the parent at `place` that changes fall into.
    fn changed_slots(&self, place: &Place) -> BTreeSet<u16> {
        let end = place.first.saturating_add(span(place.level)).min(self.end);
        let mut slots = BTreeSet::new();
        let mut at = place.first;
        while at < end {
            let Some((index, _)) = self.changes.range(at..end).next() else { break };
            let slot = slot_of(*index, place.level) as u16;
            slots.insert(slot);
            at = place.child(PageRef::NONE, slot).first + span(place.level - 1);
        }
        slots
    }

    fn store_parent(&mut self, place: &Place, children: &Children) -> Result<PageRef> {
        if children.is_empty() {
            self.replace(place);
            return Ok(PageRef::NONE);
        }
        self.create(place, Body::Parent(Parent::from_children(children)))
    }

    /// The old page at `place` need not stay in memory.
    fn replace(&mut self, place: &Place) {
        if !place.page.is_none() {
            self.out.replaced.push(place.page.id);
        }
    }

    /// Makes a page durable under a fresh id.
    fn create(&mut self, place: &Place, body: Body) -> Result<PageRef> {
        let page = Page { level: place.level, first: place.first, body };
        let data = encode(&page, self.map.granules);
        let id = clock::random_id()?;
        self.map.store.control().create(&ObjectName::Page(id), &data)?;
        self.out.pages_written += 1;
        self.replace(place);
        let bytes = page.memory_bytes();
        if bytes <= self.room_bytes {
            self.room_bytes -= bytes;
            self.out.pages.push((id, Arc::new(page)));
        }
        Ok(PageRef { id, hash: *blake3::hash(&data).as_bytes() })
    }
}
