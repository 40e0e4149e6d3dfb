//! What can go wrong: an entry is lost, shows up at another index, or comes
//! back after a shrink or a discard; a page is named before it is durable; a
//! failed write changes the map. The guest then reads another sector's data.
//! Here every operation is compared with a plain `BTreeMap`, through maps
//! that know nothing but the root, at sizes of one to three levels; and the
//! store under it refuses any page whose children it does not have.

#![allow(clippy::single_range_in_vec_init)] // one zeroed range is a list of one

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use proptest::prelude::*;

use super::format::decode;
use super::page::Body;
use super::*;
use crate::backend::memory::Memory;
use crate::backend::{Backend, BackendExt, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind};
use crate::name::{prefix, ObjectName};
use crate::store::Store;

const GRANULES: u32 = 16;

/// A store that fails when told to, counts reads of pages, and panics when a
/// page arrives before a child of it.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub memory: Memory,
    creates_left: Arc<AtomicUsize>,
    page_reads: Arc<AtomicUsize>,
}

impl Backend for Watched {
    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        if let ObjectName::Page(_) = name {
            let granules = u32::from_le_bytes(data[60..64].try_into().unwrap());
            if let Body::Parent(parent) = decode(name, data, granules).unwrap().body {
                for (_, child) in parent.children() {
                    let child = ObjectName::Page(child.id);
                    assert!(self.memory.stat(&child).is_ok(), "{name} came before its child {child}");
                }
            }
        }
        let left = self.creates_left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(Error::new(ErrorKind::NoSpace, "create").on(name));
        }
        self.creates_left.store(left - 1, Ordering::SeqCst);
        self.memory.create(name, data)
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        if let ObjectName::Page(_) = name {
            self.page_reads.fetch_add(1, Ordering::SeqCst);
        }
        self.memory.read_at(name, offset_bytes, buf)
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }
    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.memory.create_sparse(name, bytes)
    }
    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.memory.write_at(name, offset_bytes, data)
    }
    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.memory.punch(name, offset_bytes, bytes)
    }
    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.memory.sync(names)
    }
    fn forget_synced(&self, names: &[ObjectName]) {
        self.memory.forget_synced(names);
    }
    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.memory.delete(name)
    }
    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.memory.stat(name)
    }
    fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Result<Vec<ObjectName>> {
        self.memory.list(prefix, after, count_max)
    }
    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.memory.lock(name, mode)
    }
    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

pub(super) fn new_store() -> (Watched, Store) {
    let watched = Watched {
        memory: Memory::new(),
        creates_left: Arc::new(AtomicUsize::new(usize::MAX)),
        page_reads: Arc::default(),
    };
    let store = Store::init("test", Arc::new(watched.clone()), 4 << 20).unwrap();
    (watched, store)
}

pub(super) fn own(epoch: u128, index: u64) -> Entry {
    Entry::Block { epoch: Id(epoch), index }
}

pub(super) fn commit(map: &Map, changes: &[(u64, Entry)], block_count: u64) -> usize {
    let written = map.write(&changes.iter().cloned().collect(), block_count).unwrap();
    let pages_written = written.pages_written;
    map.adopt(written);
    pages_written
}

fn page_count(watched: &Watched) -> usize {
    watched.memory.list_all(prefix::PAGES).unwrap().len()
}

/// Collects what `walk` says, each page once.
#[derive(Default)]
pub(super) struct Collect {
    pub pages: HashSet<Id>,
    pub entries: BTreeMap<u64, Entry>,
    pub calls: usize,
}

impl Visitor for Collect {
    fn page(&mut self, id: Id, _level: u8) -> Result<bool> {
        Ok(self.pages.insert(id))
    }
    fn entry(&mut self, index: u64, entry: &Entry) -> Result<()> {
        self.calls += 1;
        self.entries.insert(index, entry.clone());
        Ok(())
    }
    fn failed(&mut self, _id: Id, error: Error) -> Result<()> {
        Err(error)
    }
}

#[test]
fn one_changed_entry_in_a_tebibyte_writes_one_page_for_each_level() {
    let (watched, store) = new_store();
    let block_count = 262_144;
    let map = Map::new(store.clone(), Root::ZERO, 1024, block_count);
    let changes: Vec<_> = (0..block_count).map(|index| (index, own(7, index))).collect();
    assert_eq!(commit(&map, &changes, block_count), 257);
    assert_eq!(map.root().level, 1);
    assert!(map.cached_bytes() < 2 << 20, "{} bytes", map.cached_bytes());

    let before = page_count(&watched);
    assert_eq!(commit(&map, &[(200_000, own(8, 200_000))], block_count), 2);
    assert_eq!(page_count(&watched), before + 2);
    // The same again says nothing new.
    assert_eq!(commit(&map, &[(200_000, own(8, 200_000))], block_count), 0);
    // Memory knows it all without having read anything.
    assert_eq!(map.peek(200_000), Some(own(8, 200_000)));
    assert_eq!(watched.page_reads.load(Ordering::SeqCst), 0);

    let fresh = Map::new(store, map.root(), 1024, block_count);
    assert_eq!(fresh.peek(200_000), None);
    assert_eq!(fresh.get(200_000).unwrap(), own(8, 200_000));
    assert_eq!(watched.page_reads.load(Ordering::SeqCst), 2);
    assert_eq!(fresh.peek(200_001), Some(own(7, 200_001)));
    assert_eq!(fresh.peek(0), None);
    assert_eq!(fresh.peek(block_count), Some(Entry::Zero));
}

#[test]
fn where_there_is_no_page_nothing_is_read() {
    let (watched, store) = new_store();
    let block_count = 1 << 40;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, block_count);
    assert_eq!(map.peek(block_count - 1), Some(Entry::Zero));
    commit(&map, &[(0, own(1, 0)), (block_count - 1, own(1, block_count - 1))], block_count);
    assert_eq!((map.root().level, page_count(&watched)), (3, 7));

    let fresh = Map::new(store, map.root(), GRANULES, block_count);
    let mut seen = Vec::new();
    fresh
        .scan(0, block_count + 5, &mut |first, count, entry| {
            seen.push((first, count, entry.clone()));
            Ok(())
        })
        .unwrap();
    let between = (1, block_count - 2, Entry::Zero);
    let last = (block_count - 1, 1, own(1, block_count - 1));
    assert_eq!(seen, [(0, 1, own(1, 0)), between, last, (block_count, 5, Entry::Zero)]);
    assert_eq!(watched.page_reads.load(Ordering::SeqCst), 7);
    assert_eq!(fresh.peek(1 << 39), Some(Entry::Zero));
}

#[test]
fn a_map_may_have_the_highest_level() {
    let (_, store) = new_store();
    let last = (1 << 60) - 1;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, 1 << 60);
    commit(&map, &[(3, own(1, 3)), (last, own(1, last))], 1 << 60);
    assert_eq!(map.root().level, LEVEL_MAX);
    let fresh = Map::new(store, map.root(), GRANULES, 1 << 60);
    assert_eq!((fresh.get(3).unwrap(), fresh.get(last).unwrap()), (own(1, 3), own(1, last)));
    assert_eq!(fresh.get(last - 1).unwrap(), Entry::Zero);
}

#[test]
fn a_root_that_must_cover_more_becomes_the_first_child() {
    let (watched, store) = new_store();
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, 1024);
    assert_eq!(commit(&map, &[(5, own(1, 5))], 1024), 1);
    let small = map.root();
    assert_eq!(small.level, 0);
    // More room alone writes nothing. Its use writes a leaf and its parent, a
    // parent for the old root, and the new root.
    assert_eq!(commit(&map, &[], 1 << 30), 0);
    assert_eq!(commit(&map, &[(1 << 29, own(2, 1 << 29))], 1 << 30), 4);
    assert_eq!(map.root().level, 2);
    assert_eq!(map.get(5).unwrap(), own(1, 5));
    let mut seen = Collect::default();
    walk(&store, map.root(), GRANULES, &mut seen).unwrap();
    assert!(seen.pages.contains(&small.page), "the old root is not shared");
    assert_eq!(page_count(&watched), 5);
}

#[test]
fn what_a_shrink_cut_off_does_not_come_back() {
    let (_, store) = new_store();
    let count = 3 << 20;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, count);
    let indices = [0, 7, 1023, 1024, 5000, 1 << 20, (1 << 20) + 2000, count - 1];
    commit(&map, &indices.map(|index| (index, own(1, index))), count);
    assert_eq!(map.root().level, 2);
    for cut in [(1 << 20) + 1, 5001, 5000, 1024, 8, 0] {
        let whole = map.root();
        let shrunk = Map::new(store.clone(), whole, GRANULES, count);
        commit(&shrunk, &[], cut);
        assert_eq!(shrunk.peek(cut), Some(Entry::Zero));
        commit(&shrunk, &[], count);
        for root_only in [shrunk.root(), whole] {
            let again = Map::new(store.clone(), root_only, GRANULES, count);
            for index in indices {
                let there = root_only == whole || index < cut;
                let expected = if there { own(1, index) } else { Entry::Zero };
                assert_eq!(again.get(index).unwrap(), expected, "{index} after a cut at {cut}");
            }
        }
        assert!(cut > 1024 || shrunk.root().level == 0, "{cut}: {:?}", shrunk.root());
    }
    // A head that says a smaller size than its pages: growing shows zeroes.
    let clipped = Map::new(store, map.root(), GRANULES, 8);
    assert_eq!(clipped.get(1023).unwrap(), Entry::Zero);
    commit(&clipped, &[(2000, own(2, 2000))], count);
    assert_eq!(clipped.get(7).unwrap(), own(1, 7));
    assert_eq!(clipped.get(1023).unwrap(), Entry::Zero);
    assert_eq!(clipped.get(2000).unwrap(), own(2, 2000));
}

#[test]
fn a_discard_of_everything_writes_nothing_and_names_nothing() {
    let (watched, store) = new_store();
    let count = 1 << 20;
    let map = Map::new(store, Root::ZERO, GRANULES, count);
    commit(&map, &[(9, own(1, 9)), (5000, own(1, 5000)), (count - 1, own(1, count - 1))], count);
    let written = map.write_over(&[0..u64::MAX], &BTreeMap::new(), count).unwrap();
    assert_eq!((written.root, written.pages_written), (Root::ZERO, 0));
    // The second leaf goes without being read; the first and the root are written.
    let reads = watched.page_reads.load(Ordering::SeqCst);
    let written = map.write_over(&[10..6000], &[(20, own(2, 20))].into(), count).unwrap();
    assert_eq!((written.pages_written, watched.page_reads.load(Ordering::SeqCst)), (2, reads));
    map.adopt(written);
    let found: Vec<_> = [9, 20, 5000, count - 1].iter().map(|index| map.get(*index).unwrap()).collect();
    assert_eq!(found, [own(1, 9), own(2, 20), Entry::Zero, own(1, count - 1)]);
}

#[test]
fn pages_in_memory_are_bounded_and_come_back_verified() {
    let (watched, store) = new_store();
    let count = 64 * 1024;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, count);
    let changes: Vec<_> =
        (0..count).map(|index| (index, own(u128::from(index % 3) + 1, index))).collect();
    commit(&map, &changes, count);

    let small = Map::new(store, map.root(), GRANULES, count);
    let limit = 40_000;
    small.set_cache_bytes(limit);
    for index in (0..count).step_by(500).chain((0..count).rev().step_by(700)) {
        assert_eq!(small.get(index).unwrap(), own(u128::from(index % 3) + 1, index));
        assert!(small.cached_bytes() <= limit && small.cached_pages() >= 2);
    }
    let reads = watched.page_reads.load(Ordering::SeqCst);
    // An evicted page that has been damaged meanwhile is not believed.
    let names = watched.memory.list_all(prefix::PAGES).unwrap();
    for name in names {
        watched.memory.write_at(&name, 100, &[0xff; 9]).unwrap();
    }
    let damaged = (0..count).step_by(1024).filter(|index| small.get(*index).is_err()).count();
    assert!(damaged > 50, "{damaged} of 64 leaves");
    assert!(watched.page_reads.load(Ordering::SeqCst) > reads);
}

#[test]
fn a_failed_write_changes_nothing() {
    let (watched, store) = new_store();
    let count = 1 << 21;
    let map = Map::new(store, Root::ZERO, GRANULES, count);
    commit(&map, &[(1, own(1, 1)), (2000, own(1, 2000))], count);
    let root = map.root();
    let changes: BTreeMap<u64, Entry> =
        [1, 2000, 1 << 20].map(|index| (index, own(2, index))).into_iter().collect();
    // Three leaves, two parents, the root.
    for creates in 0..6 {
        watched.creates_left.store(creates, Ordering::SeqCst);
        let error = map.write(&changes, count).unwrap_err();
        assert!(error.is(ErrorKind::NoSpace), "{error}");
        assert_eq!((map.root(), map.peek(1)), (root, Some(own(1, 1))));
    }
    watched.creates_left.store(6, Ordering::SeqCst);
    assert_eq!(map.write(&changes, count).unwrap().pages_written, 6);
    assert_eq!(map.peek(1), Some(own(1, 1)), "before adopt");
}

#[test]
fn impossible_entries_are_not_written() {
    let (_, store) = new_store();
    let map = Map::new(store, Root::ZERO, GRANULES, 10);
    let layer = |granules| Layer { epoch: Id(1), presence: Presence::empty(granules) };
    let layers = |layers: Vec<Layer>| Entry::Layers { layers: layers.into(), base: Base::Zero };
    for entry in [
        own(0, 3),
        layers(vec![]),
        layers(vec![layer(GRANULES); 5]),
        layers(vec![layer(GRANULES / 2)]),
        Entry::Layers {
            layers: [layer(GRANULES)].into(),
            base: Base::Block { epoch: Id::NONE, index: 3 },
        },
    ] {
        let error = map.write(&[(3, entry)].into(), 10).unwrap_err();
        assert!(error.is(ErrorKind::Internal) && error.to_string().contains("entry 3"), "{error}");
    }
    assert!(map.write(&[(3, layers(vec![layer(GRANULES); 4]))].into(), 10).is_ok());
}

#[test]
fn walk_visits_what_two_roots_share_once() {
    let (watched, store) = new_store();
    let count = 100 * 1024;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, count);
    let changes: Vec<_> = (0..count).map(|index| (index, own(1, index))).collect();
    commit(&map, &changes, count);
    let snapshot = map.root();
    commit(&map, &[(0, own(2, 0))], count);

    let mut seen = Collect::default();
    walk(&store, snapshot, GRANULES, &mut seen).unwrap();
    assert_eq!((seen.pages.len(), seen.calls), (101, 102_400));
    let reads = watched.page_reads.load(Ordering::SeqCst);
    walk(&store, map.root(), GRANULES, &mut seen).unwrap();
    assert_eq!((seen.pages.len(), seen.calls), (103, 102_400 + 1024));
    assert_eq!(watched.page_reads.load(Ordering::SeqCst), reads + 2);
    walk(&store, Root::ZERO, GRANULES, &mut seen).unwrap();
    assert_eq!(seen.pages.len(), page_count(&watched));
}

/// Steps of the model test.
#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(usize, u64, Entry)>),
    Zero(Vec<(usize, u64, u64)>),
    Resize(usize, u64),
    Reopen,
}

/// Around the borders of leaves and levels.
const PLACES: [u64; 9] = [0, 500, 1020, 2047, 4096, 1 << 20, (1 << 20) + 1022, (1 << 30) - 2, 1 << 30];

fn entries() -> impl Strategy<Value = Entry> {
    let presence = (0..GRANULES, 0..=GRANULES).prop_map(|(from, to)| {
        let mut presence = Presence::empty(GRANULES);
        presence.set_range(from, to);
        presence
    });
    let layer = (1u128..6, presence).prop_map(|(epoch, presence)| Layer { epoch: Id(epoch), presence });
    let base = prop_oneof![
        Just(Base::Zero),
        (1u128..9, 0u64..3000).prop_map(|(epoch, index)| Base::Block { epoch: Id(epoch), index })
    ];
    prop_oneof![
        2 => Just(Entry::Zero),
        // An index that is not possible: it stands for the entry's own.
        4 => (1u128..5).prop_map(|epoch| own(epoch, u64::MAX)),
        1 => (1u128..5, 0u64..3000).prop_map(|(epoch, index)| own(epoch, index)),
        2 => (prop::collection::vec(layer, 1..=LAYERS_MAX), base)
            .prop_map(|(layers, base)| Entry::Layers { layers: layers.into(), base }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..PLACES.len(), 0u64..40, entries());
    let range = (0..PLACES.len(), 0u64..40, prop_oneof![0u64..40, 1000u64..1100, Just(1 << 21)]);
    prop::collection::vec(
        prop_oneof![
            4 => prop::collection::vec(change, 0..60).prop_map(Step::Change),
            1 => prop::collection::vec(range, 0..4).prop_map(Step::Zero),
            1 => (0..PLACES.len(), 0u64..40).prop_map(|(place, more)| Step::Resize(place, more)),
            1 => Just(Step::Reopen),
        ],
        1..12,
    )
}

fn with_own_index(index: u64, entry: Entry) -> Entry {
    match entry {
        Entry::Block { epoch, index: u64::MAX } => Entry::Block { epoch, index },
        other => other,
    }
}

fn check_against(map: &Map, model: &BTreeMap<u64, Entry>, count: u64, touched: &BTreeSet<u64>) {
    for index in touched.iter().flat_map(|index| [index.saturating_sub(1), *index, index + 1]) {
        let expected = model.get(&index).cloned().unwrap_or(Entry::Zero);
        assert_eq!(map.get(index).unwrap(), expected, "index {index} of {count}");
        assert!(map.peek(index).is_none_or(|entry| entry == expected));
    }
    for range in [0..count + 3, 1023..1025, 1 << 20..(1 << 20) + 5] {
        check_scan(map, model, range);
    }
}

fn check_scan(map: &Map, model: &BTreeMap<u64, Entry>, range: Range<u64>) {
    let mut at = range.start;
    let mut seen = BTreeMap::new();
    map.scan(range.start, range.end, &mut |first, count, entry| {
        assert!(first == at && count > 0, "a gap at {at}");
        at = first + count;
        if *entry != Entry::Zero {
            assert_eq!(count, 1);
            seen.insert(first, entry.clone());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(at, range.end.max(range.start));
    assert!(seen.iter().eq(model.range(range)), "scan and model differ");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_btreemap(steps in steps(), small_cache in any::<bool>(), place in 0..PLACES.len()) {
        let (_, store) = new_store();
        let mut count = PLACES[place] + 1;
        let mut model: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut touched = BTreeSet::new();
        let open = |root, count| {
            let map = Map::new(store.clone(), root, GRANULES, count);
            if small_cache { map.set_cache_bytes(1) }
            map
        };
        let mut map = open(Root::ZERO, count);
        for step in steps {
            let mut zeroed = Vec::new();
            let mut changes = BTreeMap::new();
            match step {
                Step::Change(all) => changes.extend(all.into_iter().map(|(place, more, entry)| {
                    let index = PLACES[place] + more;
                    (index, with_own_index(index, entry))
                })),
                Step::Zero(all) => zeroed.extend(all.into_iter().map(|(place, more, length)| {
                    let first = PLACES[place] + more;
                    first..first + length
                })),
                Step::Resize(place, more) => count = PLACES[place] + more,
                Step::Reopen => map = open(map.root(), count),
            }
            let written = map.write_over(&zeroed, &changes, count).unwrap();
            model.retain(|index, _| *index < count && !zeroed.iter().any(|range| range.contains(index)));
            touched.extend(changes.keys());
            for (index, entry) in changes {
                model.remove(&index);
                if entry != Entry::Zero && index < count {
                    model.insert(index, entry);
                }
            }
            map.adopt(written);
            check_against(&map, &model, count, &touched);
            let mut seen = Collect::default();
            walk(&store, map.root(), GRANULES, &mut seen).unwrap();
            prop_assert_eq!(&seen.entries, &model);
            prop_assert_eq!(map.root().is_zero(), model.is_empty());
        }
        check_against(&open(map.root(), count), &model, count, &touched);
    }
}
