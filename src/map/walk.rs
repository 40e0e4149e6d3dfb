//! All of a map, from the store and verified: for gc, check and copies.

use super::entry::Entry;
use super::page::{Body, Page, PageRef};
use super::sums::Sums;
use super::tree::{load, load_with_sums, Place};
use super::Root;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Id;
use crate::store::Store;

/// What `walk` calls.
pub trait Visitor {
    /// A page, before it is read. False: it has been visited already, go no
    /// deeper.
    fn page(&mut self, id: Id, level: u8) -> Result<bool>;

    /// An entry other than `Zero`.
    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()>;

    /// A page that cannot be read. An error ends the walk; `Ok` passes over
    /// the page and what is beneath it.
    fn failed(&mut self, id: Id, error: Error) -> Result<()>;
}

/// Visits every page that `root` reaches, parents first, with one page of
/// each level in memory. Errors: those of the visitor.
pub fn walk(store: &Store, root: Root, granules: u32, visitor: &mut dyn Visitor) -> Result<()> {
    walk_page(store, granules, &Place::of_root(&root), visitor)
}

fn walk_page(store: &Store, granules: u32, place: &Place, visitor: &mut dyn Visitor) -> Result<()> {
    let PageRef { id, .. } = place.page;
    if id.is_none() || !visitor.page(id, place.level)? {
        return Ok(());
    }
    let page = match load(store, granules, place) {
        Ok(page) => page,
        Err(error) => return visitor.failed(id, error),
    };
    match &page.body {
        Body::Leaf(leaf) => {
            for (index, slot) in (place.first..).zip(0..leaf.len()) {
                match leaf.get(slot, index) {
                    Entry::Zero => {}
                    entry => visitor.entry(index, &entry)?,
                }
            }
        }
        Body::Parent(parent) => {
            for (slot, child) in parent.children() {
                walk_page(store, granules, &place.child(child, slot), visitor)?;
            }
        }
    }
    Ok(())
}

/// What `walk_sums` calls.
pub trait SumVisitor {
    /// A page, before it is read, and the hash of its object. False: it has
    /// been visited already, go no deeper.
    fn page(&mut self, id: Id, hash: &[u8; 32]) -> Result<bool>;

    /// An entry other than `Zero`, and the sums of its leaf.
    fn entry(&mut self, index: u64, entry: &Entry, sums: &Sums) -> Result<()>;

    /// As `Visitor::failed`.
    fn failed(&mut self, id: Id, error: Error) -> Result<()>;
}

/// A map that another one is compared with, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    pub store: &'a Store,
    pub root: Root,
}

/// As `walk_sums`, without what is the same in `known`: pages that are in both
/// are passed over with all beneath them, and so are equal entries. Costs two
/// reads for each page that differs.
pub fn walk_new(
    store: &Store,
    root: Root,
    known: Beside<'_>,
    granules: u32,
    visitor: &mut dyn SumVisitor,
) -> Result<()> {
    let (place, mut old) = (Place::of_root(&root), Some(Place::of_root(&known.root)));
    let mut walk = NewWalk { store, known: known.store, granules, visitor };
    // A map that was larger once: what is compared is its beginning.
    while let Some(above) = old.filter(|old| old.level > place.level) {
        old = walk.known_page(&above)?.and_then(|page| beneath(&above, &page, 0));
    }
    walk.page(&place, old)
}

struct NewWalk<'a> {
    store: &'a Store,
    known: &'a Store,
    granules: u32,
    visitor: &'a mut dyn SumVisitor,
}

fn beneath(place: &Place, page: &Page, slot: u16) -> Option<Place> {
    match &page.body {
        Body::Parent(parent) => {
            let child = parent.child(usize::from(slot));
            (!child.id.is_none()).then(|| place.child(child, slot))
        }
        Body::Leaf(_) => None,
    }
}

impl NewWalk<'_> {
    /// A page that is damaged is known of nobody.
    fn known_page(&self, place: &Place) -> Result<Option<Page>> {
        if place.page.id.is_none() {
            return Ok(None);
        }
        match load(self.known, self.granules, place) {
            Err(error) if error.is(ErrorKind::Corrupt) => Ok(None),
            other => other.map(Some),
        }
    }

    /// `old`: what is known of these indices, or of the first of them.
    fn page(&mut self, place: &Place, old: Option<Place>) -> Result<()> {
        let PageRef { id, hash } = place.page;
        if id.is_none() || old.is_some_and(|old| old.page.id == id) || !self.visitor.page(id, &hash)? {
            return Ok(());
        }
        let (page, sums) = match load_with_sums(self.store, self.granules, place) {
            Ok(loaded) => loaded,
            Err(error) => return self.visitor.failed(id, error),
        };
        let aside = old.filter(|old| old.level == place.level);
        let known = match &aside {
            Some(aside) => self.known_page(aside)?,
            None => None,
        };
        match &page.body {
            Body::Leaf(leaf) => {
                let known = known.as_ref().and_then(|known| match &known.body {
                    Body::Leaf(known) => Some(known),
                    Body::Parent(_) => None,
                });
                for ((index, slot), entry) in (place.first..).zip(0..).zip(leaf.entries(place.first)) {
                    let is_known = known.is_some_and(|known| known.get(slot, index) == entry);
                    if entry != Entry::Zero && !is_known {
                        self.visitor.entry(index, &entry, &sums)?;
                    }
                }
            }
            Body::Parent(parent) => {
                for (slot, child) in parent.children() {
                    let old = match (&aside, &known) {
                        (Some(aside), Some(known)) => beneath(aside, known, slot),
                        (Some(_), None) => None,
                        (None, _) => old.filter(|_| slot == 0),
                    };
                    self.page(&place.child(child, slot), old)?;
                }
            }
        }
        Ok(())
    }
}

/// As `walk`, with the sums of blocks.
pub fn walk_sums(store: &Store, root: Root, granules: u32, visitor: &mut dyn SumVisitor) -> Result<()> {
    walk_sums_of(store, granules, &Place::of_root(&root), visitor)
}

fn walk_sums_of(store: &Store, granules: u32, place: &Place, visitor: &mut dyn SumVisitor) -> Result<()> {
    let PageRef { id, hash } = place.page;
    if id.is_none() || !visitor.page(id, &hash)? {
        return Ok(());
    }
    let (page, sums) = match load_with_sums(store, granules, place) {
        Ok(loaded) => loaded,
        Err(error) => return visitor.failed(id, error),
    };
    match &page.body {
        Body::Leaf(leaf) => {
            for (index, entry) in (place.first..).zip(leaf.entries(place.first)) {
                if entry != Entry::Zero {
                    visitor.entry(index, &entry, &sums)?;
                }
            }
        }
        Body::Parent(parent) => {
            for (slot, child) in parent.children() {
                walk_sums_of(store, granules, &place.child(child, slot), visitor)?;
            }
        }
    }
    Ok(())
}
