//! Adds sums of blocks to the leaves of immutable maps: new pages from the
//! leaves that gain some up to a new root. Pages that several maps share stay
//! shared, those of other runs included, since equal pages are one.

use std::collections::{BTreeMap, HashMap};

use super::format::encode_with;
use super::page::{Body, Page, PageRef, Parent};
use super::sums::{Sum, Sums};
use super::tree::{load_with_sums, Place};
use super::Root;
use crate::clock;
use crate::error::{ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::presence::Presence;
use crate::store::Store;

/// The sum of a block, of which these granules count, if it is known.
pub type Known<'a> = dyn Fn(Id, u64, Option<&Presence>) -> Option<Sum> + 'a;

/// One go through several maps.
pub struct Resum<'a> {
    store: &'a Store,
    known: &'a Known<'a>,
    /// Pages that there are, by the hash of their objects.
    there: &'a HashMap<[u8; 32], Id>,
    /// What became of the pages that this has met.
    done: HashMap<Id, PageRef>,
    /// Pages that this wrote, by hash.
    wrote: HashMap<[u8; 32], Id>,
}

impl std::fmt::Debug for Resum<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resum({} pages met, {} written)", self.done.len(), self.wrote.len())
    }
}

impl<'a> Resum<'a> {
    /// `there`: pages that may be used again; each is looked for first. No gc
    /// may be under way until what is written here is reached by something.
    pub fn new(store: &'a Store, known: &'a Known<'a>, there: &'a HashMap<[u8; 32], Id>) -> Resum<'a> {
        Resum { store, known, there, done: HashMap::new(), wrote: HashMap::new() }
    }

    pub fn pages_written(&self) -> usize {
        self.wrote.len()
    }

    /// The root of the same map with all sums that are known; the same root
    /// if that adds none. Errors: `Corrupt`, those of the backend; the pages
    /// written so far are garbage then.
    pub fn root(&mut self, root: Root, granules: u32) -> Result<Root> {
        let page = self.page(&Place::of_root(&root), granules)?;
        Ok(Root { page: page.id, hash: page.hash, ..root })
    }

    fn page(&mut self, place: &Place, granules: u32) -> Result<PageRef> {
        if place.page.is_none() {
            return Ok(place.page);
        }
        if let Some(done) = self.done.get(&place.page.id) {
            return Ok(*done);
        }
        let (page, mut sums) = load_with_sums(self.store, granules, place)?;
        let changed = match &page.body {
            Body::Leaf(leaf) => {
                let before = sums.len();
                for (index, entry) in (place.first..).zip(leaf.entries(place.first)) {
                    entry.each_part(index, &mut |epoch, index, presence| {
                        if sums.get(epoch, index).is_none() {
                            if let Some(sum) = (self.known)(epoch, index, presence) {
                                sums.insert(epoch, index, sum);
                            }
                        }
                    });
                }
                (sums.len() > before).then_some(page)
            }
            Body::Parent(parent) => {
                let mut children = BTreeMap::new();
                for (slot, child) in parent.children() {
                    children.insert(slot, self.page(&place.child(child, slot), granules)?);
                }
                let body = Body::Parent(Parent::from_children(&children));
                (body != page.body).then_some(Page { body, ..page })
            }
        };
        let now = match changed {
            Some(page) => self.create(&page, &sums, granules)?,
            None => place.page,
        };
        self.done.insert(place.page.id, now);
        Ok(now)
    }

    fn create(&mut self, page: &Page, sums: &Sums, granules: u32) -> Result<PageRef> {
        let data = encode_with(page, sums, granules);
        let hash = *blake3::hash(&data).as_bytes();
        if let Some(id) = self.wrote.get(&hash) {
            return Ok(PageRef { id: *id, hash });
        }
        if let Some(id) = self.there.get(&hash) {
            match self.store.control().stat(&ObjectName::Page(*id)) {
                Ok(_) => return Ok(PageRef { id: *id, hash }),
                Err(error) if error.is(ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let id = clock::random_id()?;
        self.store.control().create(&ObjectName::Page(id), &data)?;
        self.wrote.insert(hash, id);
        Ok(PageRef { id, hash })
    }
}
