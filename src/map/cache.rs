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

    #[cfg(test)]
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

#[cfg(test)]
mod tests {
    //! What can go wrong: memory grows without end, or the pages in use go and
    //! those that nobody asks for stay.

    use super::super::page::{Body, Leaf};
    use super::*;

    fn page() -> Arc<Page> {
        Arc::new(Page { level: 0, first: 0, body: Body::Leaf(Leaf::default()) })
    }

    fn there(cache: &Cache) -> Vec<u128> {
        let mut ids: Vec<u128> = cache.pages.keys().map(|id| id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn who_was_used_since_the_hand_came_by_stays() {
        let bytes = page().memory_bytes();
        let mut cache = Cache::new(3 * bytes);
        (1..=3).for_each(|id| cache.insert(Id(id), page()));
        assert_eq!((there(&cache), cache.bytes(), cache.len()), (vec![1, 2, 3], 3 * bytes, 3));
        // All were used: the hand goes round once, and the first one goes.
        cache.insert(Id(4), page());
        assert_eq!(there(&cache), [2, 3, 4]);
        assert!(cache.get(Id(2)).is_some() && cache.get(Id(1)).is_none());
        cache.insert(Id(5), page());
        assert_eq!(there(&cache), [2, 4, 5], "2 was used, 3 was not");
        cache.insert(Id(5), page());
        assert_eq!(cache.bytes(), 3 * bytes, "it is there already");
        cache.set_limit(bytes);
        assert_eq!((cache.len(), cache.bytes(), cache.limit()), (1, bytes, bytes));
        cache.set_limit(0);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.insert(Id(6), page());
        assert_eq!(there(&cache), [6], "whatever its size");
    }

    #[test]
    fn ids_that_are_gone_do_not_pile_up() {
        let mut cache = Cache::new(usize::MAX >> 1);
        (1..=10).for_each(|id| cache.insert(Id(id), page()));
        let mut longest = 0;
        for id in 11..1000 {
            cache.insert(Id(id), page());
            cache.remove(Id(id));
            longest = longest.max(cache.dial.len());
        }
        assert_eq!(longest, 2 * 10 + 64, "swept when it is longer than that, and not before");
        assert_eq!((cache.len(), cache.bytes()), (10, 10 * page().memory_bytes()));
    }

    /// All in one place of the table, and each look-up costs as much as there are pages.
    #[test]
    fn ids_are_told_apart_by_their_hash() {
        let hash = |id: Id| {
            let mut key = RandomKey::default();
            std::hash::Hash::hash(&id, &mut key);
            key.finish()
        };
        let random = |at: u128| Id((at + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        let hashes: std::collections::BTreeSet<u64> = (0..1000).map(|at| hash(random(at))).collect();
        assert_eq!(hashes.len(), 1000);
        // Ids that were made together may have a half in common.
        assert_ne!(hash(Id(7 << 64 | 5)), hash(Id(9 << 64 | 5)));
        assert_ne!(hash(Id(7 << 64 | 5)), hash(Id(7 << 64 | 6)));
    }
}
