//! All of a map, from the store and verified: for gc, check and copies.

use super::entry::Entry;
use super::page::{Body, PageRef};
use super::sums::Sums;
use super::tree::{load, load_with_sums, Place};
use super::Root;
use crate::error::{Error, Result};
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
