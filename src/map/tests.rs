//! What can go wrong: an entry is lost, shows up at another index, comes back
//! after a shrink, or a damaged page is believed. The guest then reads another
//! sector's data. Here every operation is compared with a plain `BTreeMap`,
//! through fresh maps that know nothing but the root, and every bit of every
//! kind of page is flipped.

use std::sync::Arc;

use super::*;
use crate::backend::memory::Memory;
use crate::backend::BackendExt;
use crate::name::prefix;
use crate::store::Store;

fn new_store() -> (Memory, Store) {
    let memory = Memory::new();
    let store = Store::init("test", Arc::new(memory.clone()), 4 << 20).unwrap();
    (memory, store)
}

fn own(epoch: u128, index: u64) -> Entry {
    Entry::Block { epoch: Id(epoch), index }
}

fn commit(map: &Map, changes: &[(u64, Entry)], block_count: u64) -> usize {
    let written = map.write(&changes.iter().cloned().collect(), block_count).unwrap();
    let pages_written = written.pages_written;
    map.adopt(written);
    pages_written
}

#[test]
fn one_changed_entry_in_a_tebibyte_writes_one_page_for_each_level() {
    let (memory, store) = new_store();
    let block_count = 262_144;
    let map = Map::new(store.clone(), Root::ZERO, 1024, block_count);
    let changes: Vec<_> = (0..block_count).map(|index| (index, own(7, index))).collect();
    assert_eq!(commit(&map, &changes, block_count), 257);
    assert_eq!(map.root().level, 1);
    assert!(map.cached_bytes() < 2 << 20, "{} bytes", map.cached_bytes());

    let before = memory.list_all(prefix::PAGES).unwrap().len();
    assert_eq!(commit(&map, &[(200_000, own(8, 200_000))], block_count), 2);
    assert_eq!(memory.list_all(prefix::PAGES).unwrap().len(), before + 2);
    // The same again says nothing new.
    assert_eq!(commit(&map, &[(200_000, own(8, 200_000))], block_count), 0);

    let fresh = Map::new(store, map.root(), 1024, block_count);
    assert_eq!(fresh.peek(200_000), None);
    assert_eq!(fresh.get(200_000).unwrap(), own(8, 200_000));
    assert_eq!(fresh.peek(200_001), Some(own(7, 200_001)));
    assert_eq!(fresh.peek(0), None);
    assert_eq!(fresh.peek(block_count), Some(Entry::Zero));
}
