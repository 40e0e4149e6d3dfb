//! What can go wrong: a damaged, forged or misplaced page is believed, or
//! reading one takes the process down. Here every bit of every kind of page
//! is flipped, every rule of the format is broken once, valid pages are put
//! in wrong places, and random and mutated bytes are decoded. One page is
//! written out byte by byte, so that the format cannot change unnoticed.

#![allow(clippy::single_range_in_vec_init)] // one zeroed range is a list of one

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::format::{decode, decode_with, encode, encode_with, page_bytes_max};
use super::page::{Body, Leaf, Page, PageRef, Parent};
use super::tests::{commit, new_store, own, Collect};
use super::*;
use crate::backend::{Backend, BackendExt};
use crate::codec::{self, Kind, ENVELOPE_BYTES};
use crate::error::{Error, ErrorKind};
use crate::name::{prefix, ObjectName};

const KIND: Kind = Kind { magic: *b"ARCHpage", version: 1 };
const GRANULES: u32 = 16;
const NAME: ObjectName = ObjectName::Page(Id(77));

fn layered(epoch: u128, from: u32, to: u32, base: Base) -> Entry {
    let mut presence = Presence::empty(GRANULES);
    presence.set_range(from, to);
    let layers = [
        Layer { epoch: Id(epoch), presence: presence.clone() },
        Layer { epoch: Id(epoch + 1), presence: Presence::full(GRANULES) },
    ];
    Entry::Layers { layers: layers.into(), base }
}

/// A page with every kind of item, and its payload as the format says.
fn every_item() -> (Page, Vec<u8>) {
    let mut entries = vec![Entry::Zero; 3];
    entries.extend([own(0x55, 1027), own(0x55, 1028), own(0x55, 9)]);
    entries.push(layered(0x66, 4, 6, Base::Zero));
    entries.push(layered(0x66, 0, 1, Base::Block { epoch: Id(0x55), index: 1031 }));
    entries.push(layered(0x66, 15, 16, Base::Block { epoch: Id(0x55), index: 258 }));
    let page = Page { level: 0, first: 1024, body: Body::Leaf(Leaf::from_entries(1024, &entries)) };

    let id = |number: u8| [&[number][..], &[0; 15]].concat();
    let payload = [
        // level, reserved, items, granules, first
        &[0, 0, 6, 0, 16, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0][..],
        &[3, 0],
        &id(0x55),
        &id(0x66),
        &id(0x67),
        &[0, 3, 0],
        &[1, 2, 0, 0, 0],
        &[2, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        &[3, 2, 1, 0, 0x30, 0x00, 2, 0, 0xff, 0xff, 0],
        &[3, 2, 1, 0, 0x01, 0x00, 2, 0, 0xff, 0xff, 1, 0, 0],
        &[3, 2, 1, 0, 0x00, 0x80, 2, 0, 0xff, 0xff, 2, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    (page, payload)
}

fn a_parent() -> (Page, Vec<u8>) {
    let child = |id: u128, byte: u8| PageRef { id: Id(id), hash: [byte; 32] };
    let children = BTreeMap::from([(2, child(8, 0xaa)), (1023, child(9, 0xbb))]);
    let body = Body::Parent(Parent::from_children(&children));
    let payload = [
        &[1, 0, 2, 0, 16, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0][..],
        &[2, 0, 8],
        &[0; 15],
        &[0xaa; 32],
        &[0xff, 3, 9],
        &[0; 15],
        &[0xbb; 32],
    ]
    .concat();
    (Page { level: 1, first: 1 << 20, body }, payload)
}

/// The same page with sums of some of its blocks.
fn with_sums() -> (Page, Sums, Vec<u8>) {
    let (page, mut payload) = every_item();
    let mut sums = Sums::default();
    sums.insert(Id(0x66), 1030, [0xcc; 32]);
    sums.insert(Id(0x55), 1028, [0xbb; 32]);
    sums.insert(Id(0x55), 1027, [0xaa; 32]);
    payload[1] = 1;
    payload.extend([3, 0]);
    for (epoch, index, byte) in [(0, 3, 0xaa), (0, 4, 0xbb), (1, 6, 0xcc)] {
        payload.extend([epoch, 0, index, 4, 0, 0, 0, 0, 0, 0]);
        payload.extend([byte; 32]);
    }
    (page, sums, payload)
}

#[test]
fn sums_come_back_and_are_not_kept_in_memory() {
    let (mut page, sums, payload) = with_sums();
    let sealed = codec::seal(KIND, &payload);
    assert_eq!(encode_with(&page, &sums, GRANULES), sealed);
    let Body::Leaf(leaf) = &mut page.body else { panic!("not a leaf") };
    leaf.summed = true;
    let (decoded, there) = decode_with(&NAME, &sealed, GRANULES).unwrap();
    assert_eq!((&decoded, &there), (&page, &sums));
    assert_eq!(decode(&NAME, &sealed, GRANULES).unwrap(), page);
    let (plain, _) = every_item();
    assert_eq!(decoded.memory_bytes(), plain.memory_bytes());
}

/// A leaf that is written anew keeps the sums of what it still names.
#[test]
fn a_changed_leaf_keeps_the_sums_of_what_it_still_names() {
    let (_, store) = new_store();
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, 1 << 12);
    let changes = [(1027, own(0x55, 1027)), (1028, own(0x55, 1028)), (1030, layered(0x66, 0, 1, Base::Zero))];
    commit(&map, &changes, 1 << 12);
    let known = |epoch: Id, index: u64, _: Option<&Presence>| Some([epoch.0 as u8 + index as u8; 32]);
    let there = Default::default();
    let mut resum = Resum::new(&store, &known, &there);
    let root = resum.root(map.root(), GRANULES).unwrap();
    assert_eq!(resum.pages_written(), 2);
    // Nothing is added twice.
    assert_eq!(Resum::new(&store, &known, &there).root(root, GRANULES).unwrap(), root);
    let map = Map::new(store.clone(), root, GRANULES, 1 << 12);
    commit(&map, &[(1027, own(0x99, 1027)), (5, own(0x77, 5))], 1 << 12);
    let mut left = Left::default();
    walk_sums(&store, map.root(), GRANULES, &mut left).unwrap();
    assert_eq!(left.with, vec![(0x55, 1028), (0x66, 1030), (0x67, 1030)]);
    assert_eq!(left.without, vec![(0x77, 5), (0x99, 1027)]);
}

#[derive(Default)]
struct Left {
    with: Vec<(u128, u64)>,
    without: Vec<(u128, u64)>,
}

impl SumVisitor for Left {
    fn page(&mut self, _: Id, _: &[u8; 32]) -> Result<bool> {
        Ok(true)
    }

    fn entry(&mut self, index: u64, entry: &Entry, sums: &Sums) -> Result<()> {
        entry.each_part(index, &mut |epoch, index, _| match sums.get(epoch, index) {
            Some(sum) => {
                assert_eq!(*sum, [epoch.0 as u8 + index as u8; 32]);
                self.with.push((epoch.0, index));
            }
            None => self.without.push((epoch.0, index)),
        });
        Ok(())
    }

    fn failed(&mut self, _: Id, error: Error) -> Result<()> {
        Err(error)
    }
}

#[test]
fn the_bytes_are_those_of_the_documentation() {
    for (page, payload) in [every_item(), a_parent()] {
        let sealed = codec::seal(KIND, &payload);
        assert_eq!(encode(&page, GRANULES), sealed);
        assert_eq!(decode(&NAME, &sealed, GRANULES).unwrap(), page);
        check_page(&NAME, &sealed, GRANULES).unwrap();
    }
}

#[test]
fn an_entry_of_every_kind_comes_back() {
    let (page, _) = every_item();
    let Body::Leaf(leaf) = page.body else { panic!("not a leaf") };
    assert_eq!(leaf.get(3, 1027), own(0x55, 1027));
    assert_eq!(leaf.get(5, 1029), own(0x55, 9));
    assert_eq!(leaf.get(8, 1032), layered(0x66, 15, 16, Base::Block { epoch: Id(0x55), index: 258 }));
    assert_eq!(leaf.get(9, 1033), Entry::Zero);
}

#[test]
fn the_largest_page_is_not_refused() {
    for granules in [4, 1024, 16_384] {
        let entries: Vec<Entry> = (0..PAGE_ENTRIES as u128)
            .map(|slot| {
                let epoch = |nth: u128| Id(slot * 5 + nth + 1);
                let layer = |nth| Layer { epoch: epoch(nth), presence: Presence::full(granules) };
                let layers: Vec<Layer> = (0..LAYERS_MAX as u128).map(layer).collect();
                let base = Base::Block { epoch: epoch(4), index: u64::MAX };
                Entry::Layers { layers: layers.into(), base }
            })
            .collect();
        let mut page = Page { level: 0, first: 0, body: Body::Leaf(Leaf::from_entries(0, &entries)) };
        let mut sums = Sums::default();
        for (index, entry) in (0..).zip(&entries) {
            entry.each_part(index, &mut |epoch, index, _| sums.insert(epoch, index, [1; 32]));
        }
        assert_eq!(sums.len(), PAGE_ENTRIES * 5);
        let data = encode_with(&page, &sums, granules);
        if let Body::Leaf(leaf) = &mut page.body {
            leaf.summed = true;
        }
        assert!(data.len() as u64 <= page_bytes_max(granules), "{} bytes", data.len());
        assert!(page_bytes_max(granules) < data.len() as u64 + 4096, "and not much more is read");
        assert_eq!(decode(&NAME, &data, granules).unwrap(), page);
    }
}

/// Which payload, where in it, how many bytes, what to put there instead, and
/// what the error says.
type Case<'a> = (&'a [u8], usize, usize, Vec<u8>, &'a str);

fn refuse_all(cases: Vec<Case<'_>>) {
    for (number, (payload, at, bytes, instead, expected)) in cases.into_iter().enumerate() {
        let mut broken = payload.to_vec();
        broken.splice(at..at + bytes, instead);
        let error = decode(&NAME, &codec::seal(KIND, &broken), GRANULES).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt), "case {number}: {error}");
        assert!(error.to_string().contains(expected), "case {number}: {error}");
        assert_eq!(error.object(), Some(NAME.to_string().as_str()));
    }
}

#[test]
fn every_rule_of_sums_is_enforced() {
    let (_, leaf) = every_item();
    let (_, _, summed) = with_sums();
    let sums = leaf.len();
    refuse_all(vec![
        (&summed, sums, 2, vec![0, 0], "0 sums"),
        (&summed, sums, 2, vec![4, 0], "4 sums"),
        (&summed, sums, 2, vec![1, 0x14], "5121 sums"),
        (&summed, sums, 2, vec![2, 0], "bytes follow"),
        (&summed, sums + 2, 2, vec![3, 0], "epoch 3"),
        (&summed, sums + 2, 2, vec![1, 0], "not in order"),
        (&summed, sums + 4, 1, vec![4], "not in order"),
        (&summed, 1, 1, vec![0], "bytes follow"),
    ]);
}

/// Breaks one rule each: where in the payload, what to put there instead of
/// how many bytes, and what the error says.
#[test]
fn every_rule_of_the_format_is_enforced() {
    let (_, leaf) = every_item();
    let (_, parent) = a_parent();
    let epochs = 18..66;
    let items = 66;
    let layers = items + 3 + 5 + 11;
      let cases: Vec<Case> = vec![
        (&leaf, 0, 1, vec![6], "first fields"),
        (&leaf, 0, 1, vec![1], "first fields"),
        (&leaf, 1, 1, vec![2], "first fields"),
        (&leaf, 1, 1, vec![1], "ends in the middle"),
        (&leaf, 8, 1, vec![1], "first fields"),
        (&parent, 0, 1, vec![2], "first fields"),
        (&parent, 1, 1, vec![1], "first fields"),
        (&leaf, 4, 1, vec![32], "granules"),
        (&leaf, 2, 2, vec![0, 0], "0 items"),
        (&leaf, 2, 2, vec![1, 4], "1025 items"),
        (&leaf, 2, 2, vec![7, 0], "ends in the middle"),
        (&leaf, 2, 2, vec![5, 0], "bytes follow"),
        (&leaf, leaf.len(), 0, vec![0], "bytes follow"),
        (&leaf, leaf.len() - 1, 1, vec![], "ends in the middle"),
        (&leaf, 16, 2, vec![0xff, 0xff], "65535 epochs"),
        (&leaf, 16, 2, vec![0x00, 0x14], "5120 epochs"),
        (&leaf, epochs.start, 1, vec![0], "order"),
        (&leaf, epochs.start, 1, vec![0x66], "order"),
        (&leaf, epochs.start, 1, vec![0x70], "order"),
        (&leaf, items, 1, vec![4], "kind 4"),
        (&leaf, items + 1, 2, vec![0, 0], "run"),
        (&leaf, items + 1, 2, vec![0xff, 0x03], "run"),
        (&leaf, items + 1, 2, vec![0xff, 0xff], "run"),
        (&leaf, items + 6, 2, vec![3, 0], "epoch 3"),
        (&leaf, items + 4, 2, vec![0, 0], "run"),
        (&leaf, items + 9, 2, vec![0xff, 0xff], "epoch 65535"),
        (&leaf, layers + 1, 1, vec![0], "0 layers"),
        (&leaf, layers + 1, 1, vec![5], "5 layers"),
        (&leaf, layers + 2, 2, vec![3, 0], "epoch 3"),
        (&leaf, layers + 10, 1, vec![3], "base in it is of kind 3"),
        (&leaf, layers + 11 + 11, 2, vec![9, 0], "epoch 9"),
        (&parent, 16, 2, vec![0, 4], "child 1024"),
        (&parent, 16, 2, vec![0xff, 3], "child 1023"),
        (&parent, 18, 1, vec![0], "child 2"),
        (&parent, parent.len(), 0, vec![0; 50], "50 bytes follow"),
        (&parent, 2, 2, vec![3, 0], "ends in the middle"),
    ];
    refuse_all(cases);
    // A bitmap with bits beyond its end: of four granules, half a byte.
    let entry = Entry::Layers {
        layers: [Layer { epoch: Id(1), presence: Presence::full(4) }].into(),
        base: Base::Zero,
    };
    let page = Page { level: 0, first: 0, body: Body::Leaf(Leaf::from_entries(0, &[entry])) };
    let mut payload = encode(&page, 4).split_off(ENVELOPE_BYTES);
    let bitmap = payload.len() - 2;
    payload[bitmap] |= 0x10;
    let error = decode(&NAME, &codec::seal(KIND, &payload), 4).unwrap_err();
    assert!(error.to_string().contains("bits beyond its end"), "{error}");
}

#[test]
fn every_flipped_bit_is_found_through_the_root_and_told_where() {
    let (watched, store) = new_store();
    let count = 1 << 20;
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, count);
    let changes = [
        (1, own(1, 1)),
        (2, own(1, 7)),
        (3000, layered(2, 0, 5, Base::Block { epoch: Id(1), index: 3000 })),
    ];
    commit(&map, &changes, count);
    let root = map.root();
    assert_eq!(root.level, 1);
    for name in watched.memory.list_all(prefix::PAGES).unwrap() {
        let is_root = name == ObjectName::Page(root.page);
        let good = watched.memory.read_all(&name, 1 << 20).unwrap();
        let find = |bytes: &[u8], what: &str| {
            watched.memory.delete(&name).unwrap();
            watched.memory.create(&name, bytes).unwrap();
            let fresh = Map::new(store.clone(), root, GRANULES, count);
            let failures: Vec<Error> = [1, 3000].iter().filter_map(|at| fresh.get(*at).err()).collect();
            assert_eq!(failures.len(), if is_root { 2 } else { 1 }, "{what} of {name}");
            let error = &failures[0];
            assert!(error.is(ErrorKind::Corrupt), "{what}: {error}");
            assert_eq!(error.object(), Some(name.to_string().as_str()));
            let expected =
                if is_root { "the root of the map" } else { &ObjectName::Page(root.page).to_string() };
            assert!(error.to_string().contains(expected), "{what}: {error}");
            let walked = walk(&store, root, GRANULES, &mut Collect::default());
            assert!(walked.is_err_and(|error| error.is(ErrorKind::Corrupt)), "{what} of {name}: walk");
        };
        for bit in 0..good.len() * 8 {
            let mut damaged = good.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            find(&damaged, &format!("bit {bit}"));
        }
        for bytes in 0..good.len() {
            find(&good[..bytes], &format!("first {bytes} bytes"));
        }
        find(&[&good[..], &[0]].concat(), "a byte more");
        // A well-formed page, but another one.
        let other = Page { level: 0, first: 0, body: Body::Leaf(Leaf::from_entries(0, &[own(3, 0)])) };
        find(&encode(&other, GRANULES), "another page");
        watched.memory.delete(&name).unwrap();
        watched.memory.create(&name, &good).unwrap();
    }
    let fresh = Map::new(store, root, GRANULES, count);
    assert_eq!(fresh.get(3000).unwrap(), changes[2].1);
}

#[test]
fn a_missing_page_is_damage_and_not_zeroes() {
    let (watched, store) = new_store();
    let map = Map::new(store.clone(), Root::ZERO, GRANULES, 1 << 20);
    commit(&map, &[(1, own(1, 1)), (2000, own(1, 2000))], 1 << 20);
    let names = watched.memory.list_all(prefix::PAGES).unwrap();
    for name in names.iter().filter(|name| **name != ObjectName::Page(map.root().page)) {
        watched.memory.delete(name).unwrap();
    }
    let fresh = Map::new(store, map.root(), GRANULES, 1 << 20);
    for index in [1, 2000] {
        let error = fresh.get(index).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("missing"), "{error}");
    }
    assert!(fresh.scan(0, 10, &mut |_, _, _| Ok(())).is_err());
    assert!(fresh.write(&[(2, own(1, 2))].into(), 1 << 20).is_err());
    // Nothing is read of what is overwritten as a whole.
    assert!(fresh.write_over(&[0..4096], &[(2, own(1, 2))].into(), 1 << 20).is_ok());
}

/// A parent made by hand, with true hashes, whose pages belong elsewhere.
#[test]
fn a_true_page_in_the_wrong_place_is_refused() {
    let (_, store) = new_store();
    let create = |id: u128, page: &Page, granules| {
        let data = encode(page, granules);
        store.control().create(&ObjectName::Page(Id(id)), &data).unwrap();
        PageRef { id: Id(id), hash: *blake3::hash(&data).as_bytes() }
    };
    let entries: Vec<Entry> = (0..10).map(|index| own(1, index)).collect();
    let leaf = Page { level: 0, first: 0, body: Body::Leaf(Leaf::from_entries(0, &entries)) };
    let child = create(1, &leaf, GRANULES);
    let coarse = create(2, &leaf, 2 * GRANULES);
    let twice = BTreeMap::from([(0, child), (1, child), (2, coarse)]);
    let parent = Page { level: 1, first: 0, body: Body::Parent(Parent::from_children(&twice)) };
    let top = create(3, &parent, GRANULES);

    let root = Root { page: top.id, hash: top.hash, level: 1 };
    let map = Map::new(store.clone(), root, GRANULES, 1 << 20);
    // From the store, and from memory once the first child is there.
    for _ in 0..2 {
        let error = map.get(1024).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("index 1024"), "{error}");
        assert_eq!(map.get(3).unwrap(), own(1, 3));
        assert_eq!(map.peek(1024), None);
    }
    let error = map.get(2048).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("granules"), "{error}");
    for level in [0, 2, 5, 6, 255] {
        let map = Map::new(store.clone(), Root { level, ..root }, GRANULES, 1 << 20);
        let error = map.get(3).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("level"), "{error}");
        assert!(map.scan(0, 10, &mut |_, _, _| Ok(())).is_err());
        assert!(map.write(&[(2, own(1, 2))].into(), 1 << 20).is_err());
    }
}

#[test]
fn a_root_in_a_head_comes_back_and_impossible_ones_do_not() {
    let good = Root { page: Id(5), hash: [7; 32], level: 2 };
    for root in [good, Root { level: 5, ..good }, Root::ZERO] {
        let mut out = Writer::new();
        root.put(&mut out);
        assert_eq!(out.0.len(), 49);
        assert_eq!(Root::take(&mut Reader::new(&NAME, &out.0)).unwrap(), root);
    }
    let impossible = [
        Root { level: 6, ..good },
        Root { level: 1, ..Root::ZERO },
        Root { hash: [1; 32], ..Root::ZERO },
    ];
    for root in impossible {
        let mut out = Writer::new();
        root.put(&mut out);
        assert!(Root::take(&mut Reader::new(&NAME, &out.0)).unwrap_err().is(ErrorKind::Corrupt));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    // Sealed, so that the envelope does not catch it first.
    #[test]
    fn random_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..400), level in 0u8..3) {
        let _ = decode(&NAME, &payload, GRANULES);
        let _ = decode(&NAME, &codec::seal(KIND, &payload), GRANULES);
        let front = [level, 0, 9, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let _ = decode(&NAME, &codec::seal(KIND, &[&front[..], &payload].concat()), GRANULES);
    }

    // A mutated page is refused, or it is another well-formed page that has
    // no more in it than its bytes and survives being written again.
    #[test]
    fn mutated_pages_are_refused_or_well_formed(
        of_parent in any::<bool>(),
        edits in prop::collection::vec(
            (0usize..200, 0usize..3, prop::collection::vec(any::<u8>(), 0..3)),
            1..4,
        ),
    ) {
        let mut payload = if of_parent { a_parent().1 } else { every_item().1 };
        for (at, bytes, instead) in edits {
            let at = at % payload.len();
            let end = (at + bytes).min(payload.len());
            payload.splice(at..end, instead);
        }
        match decode(&NAME, &codec::seal(KIND, &payload), GRANULES) {
            Err(error) => prop_assert!(error.is(ErrorKind::Corrupt)),
            Ok(page) => {
                prop_assert!(page.memory_bytes() <= 8192 + 30 * payload.len());
                let again = encode(&page, GRANULES);
                let back = decode(&NAME, &again, GRANULES).unwrap();
                match (&back.body, &page.body) {
                    (Body::Leaf(back), Body::Leaf(leaf)) => {
                        prop_assert_eq!(back.entries(page.first), leaf.entries(page.first));
                    }
                    _ => prop_assert_eq!(&back, &page),
                }
            }
        }
    }
}
