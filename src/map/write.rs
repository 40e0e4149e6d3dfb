//! Writing a changed map: new pages from the leaves up, each durable before
//! the parent that names it, one leaf in memory at a time.

use std::collections::{btree_map, BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::entry::Entry;
use super::format::encode_with;
use super::page::{Body, Leaf, Page, PageRef, Parent};
use super::sums::Sums;
use super::tree::{load_with_sums, Map, Place};
use super::{level_for, slot_of, Root, PAGE_ENTRIES};
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
    /// Where old entries are gone: ascending and apart from each other.
    zeroed: Vec<Range<u64>>,
    /// Changes at and beyond it are dropped.
    end: u64,
    room_bytes: usize,
    out: Written,
}

/// How much of a page's range is zeroed.
enum Zeroed {
    Nothing,
    Part,
    All,
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
        self.write_over(&[], changes, block_count)
    }

    /// Like `write`, but first makes all of `zeroed` `Zero`, in any order and
    /// of any length, at the cost of the pages at their ends. For discards,
    /// and for a volume that was smaller for a while.
    pub fn write_over(
        &self,
        zeroed: &[Range<u64>],
        changes: &BTreeMap<u64, Entry>,
        block_count: u64,
    ) -> Result<Written> {
        let (root, old_count, room_bytes) = {
            let state = self.state.lock();
            (state.root, state.block_count, state.cache.limit())
        };
        for (index, entry) in changes.range(..block_count) {
            entry.check(*index, self.granules)?;
        }
        let mut zeroed = zeroed.to_vec();
        if old_count != block_count {
            // What a smaller volume had beyond its end must not come back.
            zeroed.push(old_count.min(block_count)..u64::MAX);
        }
        let out = Written {
            root,
            block_count,
            pages_written: 0,
            from: root,
            pages: Vec::new(),
            replaced: Vec::new(),
        };
        let zeroed = merged(zeroed);
        let mut writing = Writing { map: self, changes, zeroed, end: block_count, room_bytes, out };
        let base = writing.lowered(Place::of_root(&root))?;
        writing.out.root = writing.top(base)?;
        Ok(writing.out)
    }
}

/// The same ranges, ascending and apart from each other.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

impl Writing<'_> {
    /// The zeroed ranges that meet `first..end`.
    fn zeroed_in(&self, first: u64, end: u64) -> &[Range<u64>] {
        let from = self.zeroed.partition_point(|range| range.end <= first);
        let to = self.zeroed.partition_point(|range| range.start < end);
        self.zeroed.get(from..to).unwrap_or_default()
    }

    fn zeroed_of(&self, place: &Place) -> Zeroed {
        let end = place.end();
        match self.zeroed_in(place.first, end) {
            [] => Zeroed::Nothing,
            [range, ..] if range.start <= place.first && range.end >= end => Zeroed::All,
            _ => Zeroed::Part,
        }
    }

    /// If the end of the map is zeroed, the place of the lowest page that
    /// covers what is left; else the root's.
    fn lowered(&mut self, mut place: Place) -> Result<Place> {
        let left = match self.zeroed.last() {
            Some(range) if range.end >= place.end() => range.start,
            _ => u64::MAX,
        };
        while !place.page.is_none() && place.level > level_for(left.saturating_sub(1)) {
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
        let mut place = *place;
        let zeroed = self.zeroed_of(&place);
        if matches!(zeroed, Zeroed::All) {
            self.replace(&place);
            place.page = PageRef::NONE;
        }
        if self.changes_in(&place).next().is_none()
            && (place.page.is_none() || matches!(zeroed, Zeroed::Nothing))
        {
            return Ok(place.page);
        }
        match place.level {
            0 => self.leaf(&place),
            _ => self.parent(&place),
        }
    }

    fn changes_in(&self, place: &Place) -> btree_map::Range<'_, u64, Entry> {
        self.changes.range(place.first..place.end().min(self.end).max(place.first))
    }

    fn leaf(&mut self, place: &Place) -> Result<PageRef> {
        let mut old = Vec::new();
        let mut summed = false;
        if !place.page.is_none() {
            if let Body::Leaf(leaf) = &self.map.page(place)?.body {
                old = leaf.entries(place.first);
                summed = leaf.summed;
            }
        }
        old.resize(PAGE_ENTRIES, Entry::Zero);
        let mut entries = old.clone();
        let end = place.end();
        for range in self.zeroed_in(place.first, end) {
            for index in range.start.max(place.first)..range.end.min(end) {
                set(&mut entries, index, Entry::Zero);
            }
        }
        for (index, entry) in self.changes_in(place) {
            set(&mut entries, *index, entry.clone());
        }
        if entries == old {
            return Ok(place.page);
        }
        if entries.iter().all(|entry| *entry == Entry::Zero) {
            self.replace(place);
            return Ok(PageRef::NONE);
        }
        let mut sums = Sums::default();
        if summed {
            sums = load_with_sums(&self.map.store, self.map.granules, place)?.1;
            sums.retain(place.first, &entries);
        }
        let mut leaf = Leaf::from_entries(place.first, &entries);
        leaf.summed = !sums.is_empty();
        self.create(place, Body::Leaf(leaf), &sums)
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
            !matches!(self.zeroed_of(&place.child(PageRef::NONE, **slot)), Zeroed::Nothing)
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
        let end = place.end().min(self.end);
        let mut slots = BTreeSet::new();
        let mut at = place.first;
        while at < end {
            let Some((index, _)) = self.changes.range(at..end).next() else { break };
            let slot = slot_of(*index, place.level) as u16;
            slots.insert(slot);
            at = place.child(PageRef::NONE, slot).end();
        }
        slots
    }

    fn store_parent(&mut self, place: &Place, children: &Children) -> Result<PageRef> {
        if children.is_empty() {
            self.replace(place);
            return Ok(PageRef::NONE);
        }
        self.create(place, Body::Parent(Parent::from_children(children)), &Sums::default())
    }

    /// The old page at `place` need not stay in memory.
    fn replace(&mut self, place: &Place) {
        if !place.page.is_none() {
            self.out.replaced.push(place.page.id);
        }
    }

    /// Makes a page durable under a fresh id.
    fn create(&mut self, place: &Place, body: Body, sums: &Sums) -> Result<PageRef> {
        let page = Page { level: place.level, first: place.first, body };
        let data = encode_with(&page, sums, self.map.granules);
        let id = clock::random_id()?;
        self.map.store.control().create(&ObjectName::Page(id), &data)?;
        self.out.pages_written += 1;
        self.replace(place);
        let bytes = page.memory_bytes();
        // Parents are few and on every way down.
        if bytes <= self.room_bytes || place.level > 0 {
            self.room_bytes = self.room_bytes.saturating_sub(bytes);
            self.out.pages.push((id, Arc::new(page)));
        }
        Ok(PageRef { id, hash: *blake3::hash(&data).as_bytes() })
    }
}

/// Sets the entry of an index in the 1,024 of its leaf.
fn set(entries: &mut [Entry], index: u64, entry: Entry) {
    if let Some(slot) = entries.get_mut(slot_of(index, 0)) {
        *slot = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever looks for a zeroed range does so by halves: they must be
    /// ascending and apart, or some are not found and zeroes do not stay.
    #[test]
    fn zeroed_ranges_are_ascending_and_apart() {
        let of = |ranges: &[(u64, u64)]| {
            let merged = merged(ranges.iter().map(|(start, end)| *start..*end).collect());
            merged.into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[(4, 4), (9, 8)]), [], "nothing is in them");
        assert_eq!(of(&[(5, 7), (1, 3), (3, 5)]), [(1, 7)], "one behind the other");
        assert_eq!(of(&[(5, 7), (1, 4)]), [(1, 4), (5, 7)], "apart");
        assert_eq!(of(&[(1, 9), (2, 3), (8, 10)]), [(1, 10)], "one within another, and one across its end");
        assert_eq!(of(&[(3, u64::MAX), (9, u64::MAX), (0, 1)]), [(0, 1), (3, u64::MAX)]);
    }
}
