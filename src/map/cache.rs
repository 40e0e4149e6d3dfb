//! Pages in memory, by id and bounded. A page never changes, so an entry of
//! the cache is never wrong; it is only dropped.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::page::Page;
use crate::name::Id;

/// Memory for the pages of one map: 8 TiB of common entries at 4 MiB a block.
pub const CACHE_BYTES_DEFAULT: usize = 16 << 20;

/// Page ids are random already.
#[derive(Debug, Default)]
struct RandomKey(u64);

impl Hasher for RandomKey {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(word);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Cached {
    page: Arc<Page>,
    bytes: usize,
    /// Used since the hand came by.
    used: bool,
}

/// The clock algorithm: whoever has been used since the hand last came by
/// stays for another round.
#[derive(Debug)]
pub(super) struct Cache {
    pages: HashMap<Id, Cached, BuildHasherDefault<RandomKey>>,
    /// The dial. Ids that are gone are passed over.
    dial: VecDeque<Id>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Cache {
        Cache { pages: HashMap::default(), dial: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub fn set_limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.make_room(0);
    }

    pub fn limit(&self) -> usize {
        self.bytes_max
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn get(&mut self, id: Id) -> Option<&Arc<Page>> {
        let cached = self.pages.get_mut(&id)?;
        cached.used = true;
        Some(&cached.page)
    }

    /// Takes a page in, whatever its size; others may have to go.
    pub fn insert(&mut self, id: Id, page: Arc<Page>) {
        if self.pages.contains_key(&id) {
            return;
        }
        let bytes = page.memory_bytes();
        self.make_room(bytes);
        self.pages.insert(id, Cached { page, bytes, used: true });
        self.dial.push_back(id);
        self.bytes += bytes;
    }

    pub fn remove(&mut self, id: Id) {
        if let Some(cached) = self.pages.remove(&id) {
            self.bytes -= cached.bytes;
        }
        // Ids that are gone must not pile up on the dial.
        if self.dial.len() > 2 * self.pages.len() + 64 {
            let pages = &self.pages;
            self.dial.retain(|id| pages.contains_key(id));
        }
    }

    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > self.bytes_max {
            let Some(id) = self.dial.pop_front() else { return };
            match self.pages.get_mut(&id) {
                Some(cached) if cached.used => {
                    cached.used = false;
                    self.dial.push_back(id);
                }
                Some(_) => self.remove(id),
                None => {}
            }
        }
    }
}
