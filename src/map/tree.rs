//! The map of an open volume or snapshot: looked up from memory where
//! possible, loaded page by page where not.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::cache::{Cache, CACHE_BYTES_DEFAULT};
use super::entry::Entry;
use super::format::{check_front, decode_with, page_bytes_max};
use super::page::{Body, Page, PageRef};
use super::sums::Sums;
use super::write::Written;
use super::{first_of, slot_of, span, Root, LEVEL_MAX, PAGE_ENTRIES};
use crate::backend::BackendExt;
use crate::codec::ENVELOPE_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::store::Store;
use crate::sync::Mutex;

/// A paged map. Any method may be called from any thread; `peek` never waits
/// for the store.
pub struct Map {
    pub(super) store: Store,
    pub(super) granules: u32,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub root: Root,
    /// Everything at and beyond it is `Zero`, whatever the pages say.
    pub block_count: u64,
    pub cache: Cache,
}

/// Which page, by whose word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub page: PageRef,
    pub level: u8,
    pub first: u64,
    /// `NONE`: the root.
    pub parent: Id,
}

impl Place {
    pub fn of_root(root: &Root) -> Place {
        let page = PageRef { id: root.page, hash: root.hash };
        Place { page, level: root.level, first: 0, parent: Id::NONE }
    }

    /// The child of `page` (which is at this place) at `slot`.
    pub fn child(&self, page: PageRef, slot: u16) -> Place {
        let level = self.level.saturating_sub(1);
        let first = self.first + u64::from(slot) * span(level);
        Place { page, level, first, parent: self.page.id }
    }

    /// The index after the last entry beneath.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(span(self.level))
    }

    fn said_by(&self) -> String {
        match self.parent.is_none() {
            true => "the root of the map".to_owned(),
            false => ObjectName::Page(self.parent).to_string(),
        }
    }

    /// Refuses a page that belongs elsewhere.
    pub fn check(&self, page: &Page) -> Result<()> {
        if page.level == self.level && page.first == self.first {
            return Ok(());
        }
        Err(Error::corrupt(
            &ObjectName::Page(self.page.id),
            format!(
                "it is of level {} from index {}, but {} says level {} from index {}",
                page.level,
                page.first,
                self.said_by(),
                self.level,
                self.first
            ),
        ))
    }
}

/// Reads and verifies one page.
pub(super) fn load(store: &Store, granules: u32, place: &Place) -> Result<Page> {
    load_with_sums(store, granules, place).map(|(page, _)| page)
}

/// As `load`, with the sums that the page has.
pub(super) fn load_with_sums(store: &Store, granules: u32, place: &Place) -> Result<(Page, Sums)> {
    let name = ObjectName::Page(place.page.id);
    if place.level > LEVEL_MAX {
        return Err(Error::corrupt(&name, format!("no map has a level {}", place.level)));
    }
    let data = store.control().read_summed(&name, page_bytes_max(granules));
    let data = data.map_err(|error| missing_as_damage(error, &name, place))?;
    if *blake3::hash(&data).as_bytes() != place.page.hash {
        let message = format!("its content is not what {} has the hash of", place.said_by());
        return Err(Error::corrupt(&name, message));
    }
    let (page, sums) = decode_with(&name, &data, granules)?;
    place.check(&page)?;
    Ok((page, sums))
}

/// A page that is named and not there is damage.
fn missing_as_damage(error: Error, name: &ObjectName, place: &Place) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("it is missing, but {} needs it", place.said_by());
            Error::corrupt(name, message).caused_by(error)
        }
        _ => error,
    }
}

impl Map {
    /// A map of `block_count` entries; nothing is read yet. `granules` is the
    /// block size divided by 4 KiB.
    pub fn new(store: Store, root: Root, granules: u32, block_count: u64) -> Map {
        let cache = Cache::new(CACHE_BYTES_DEFAULT);
        Map { store, granules, state: Mutex::new(State { root, block_count, cache }) }
    }

    /// Limits the memory that pages take. One page is kept whatever its size.
    pub fn set_cache_bytes(&self, bytes_max: usize) {
        self.state.lock().cache.set_limit(bytes_max);
    }

    /// What pages take in memory now.
    #[cfg(test)]
    pub fn cached_bytes(&self) -> usize {
        self.state.lock().cache.bytes()
    }

    /// How many pages are in memory now.
    pub fn cached_pages(&self) -> usize {
        self.state.lock().cache.len()
    }

    pub fn root(&self) -> Root {
        self.state.lock().root
    }

    pub fn block_count(&self) -> u64 {
        self.state.lock().block_count
    }

    /// Finds out whether the root page is there and of its full length, at the
    /// same cost whatever the size of the map: it is not read, so damage
    /// inside it is not found. Errors: `Corrupt`; `Invalid` if it is newer
    /// than this program.
    pub fn check_root(&self) -> Result<()> {
        let place = Place::of_root(&self.root());
        if place.page.is_none() {
            return Ok(());
        }
        let name = ObjectName::Page(place.page.id);
        let mut front = [0; ENVELOPE_BYTES];
        let control = self.store.control();
        let looked = control.stat(&name).and_then(|stat| {
            let read_bytes = control.read_at(&name, 0, &mut front)?;
            Ok((stat.bytes, read_bytes))
        });
        let (object_bytes, read_bytes) =
            looked.map_err(|error| missing_as_damage(error, &name, &place))?;
        check_front(&name, &front[..read_bytes], object_bytes)
    }

    /// The entry, if that is known without asking the store.
    pub fn peek(&self, index: u64) -> Option<Entry> {
        self.state.lock().peek(index)
    }

    /// The entry; loads what is missing. Errors: `Corrupt`, and those of the
    /// backend.
    pub fn get(&self, index: u64) -> Result<Entry> {
        let root = {
            let mut state = self.state.lock();
            if let Some(entry) = state.peek(index) {
                return Ok(entry);
            }
            state.root
        };
        let mut place = Place::of_root(&root);
        loop {
            if place.page.is_none() {
                return Ok(Entry::Zero);
            }
            let page = self.page(&place)?;
            let slot = slot_of(index, place.level);
            match &page.body {
                Body::Leaf(leaf) => return Ok(leaf.get(slot, index)),
                Body::Parent(parent) => place = place.child(parent.child(slot), slot as u16),
            }
        }
    }

    /// A page from memory or from the store.
    pub(super) fn page(&self, place: &Place) -> Result<Arc<Page>> {
        if let Some(page) = self.state.lock().cache.get(place.page.id) {
            place.check(page)?;
            return Ok(page.clone());
        }
        let page = Arc::new(load(&self.store, self.granules, place)?);
        self.state.lock().cache.insert(place.page.id, page.clone());
        Ok(page)
    }

    /// Calls `visit(first, count, entry)` for all of `from..to`, in order and
    /// without gaps. Only for `Zero` is `count` ever more than 1; where there
    /// is no page, nothing is loaded. Errors: `Corrupt`, those of the backend
    /// and of `visit`.
    pub fn scan(
        &self,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(u64, u64, &Entry) -> Result<()>,
    ) -> Result<()> {
        let (root, block_count) = {
            let state = self.state.lock();
            (state.root, state.block_count)
        };
        let mut runs = Runs { at: from, visit };
        let end = to.min(block_count).min(span(root.level));
        self.scan_page(&Place::of_root(&root), &(from..end), &mut runs)?;
        runs.zeroes_until(to)
    }

    fn scan_page(&self, place: &Place, range: &Range<u64>, runs: &mut Runs<'_>) -> Result<()> {
        let end = place.end().min(range.end);
        if place.page.is_none() || place.first.max(range.start) >= end {
            return Ok(());
        }
        match &self.page(place)?.body {
            Body::Leaf(leaf) => {
                let used_end = (place.first + leaf.len() as u64).min(end);
                for index in place.first.max(range.start)..used_end {
                    match leaf.get((index - place.first) as usize, index) {
                        Entry::Zero => {}
                        entry => runs.entry(index, &entry)?,
                    }
                }
            }
            Body::Parent(parent) => {
                for (slot, child) in parent.children() {
                    self.scan_page(&place.child(child, slot), range, runs)?;
                }
            }
        }
        Ok(())
    }

    /// Makes what `write` wrote this map's own.
    pub fn adopt(&self, written: Written) {
        let mut state = self.state.lock();
        debug_assert_eq!(state.root, written.from, "two writes at once");
        state.root = written.root;
        state.block_count = written.block_count;
        for id in written.replaced {
            state.cache.remove(id);
        }
        for (id, page) in written.pages {
            state.cache.insert(id, page);
        }
    }
}

impl State {
    fn peek(&mut self, index: u64) -> Option<Entry> {
        let (mut id, mut level) = (self.root.page, self.root.level);
        if id.is_none() || index >= self.block_count || index >= span(level) {
            return Some(Entry::Zero);
        }
        loop {
            let page = self.cache.get(id)?;
            if page.level != level || page.first != first_of(index, level) {
                // `get` says what is wrong.
                return None;
            }
            let slot = slot_of(index, level);
            match &page.body {
                Body::Leaf(leaf) => return Some(leaf.get(slot, index)),
                Body::Parent(parent) => id = parent.child(slot).id,
            }
            if id.is_none() {
                return Some(Entry::Zero);
            }
            level = level.saturating_sub(1);
        }
    }
}

/// Turns what is not there into runs of `Zero`.
struct Runs<'a> {
    at: u64,
    visit: &'a mut dyn FnMut(u64, u64, &Entry) -> Result<()>,
}

impl Runs<'_> {
    fn zeroes_until(&mut self, index: u64) -> Result<()> {
        if self.at < index {
            (self.visit)(self.at, index - self.at, &Entry::Zero)?;
            self.at = index;
        }
        Ok(())
    }

    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()> {
        self.zeroes_until(index)?;
        self.at = index + 1;
        (self.visit)(index, 1, entry)
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Map")
            .field("root", &state.root)
            .field("block_count", &state.block_count)
            .field("granules", &self.granules)
            .field("cached_pages", &state.cache.len())
            .field("page_entries", &PAGE_ENTRIES)
            .finish_non_exhaustive()
    }
}
