//! Pages of maps.

use std::sync::Arc;

use archipelago::map::{Base, Entry, Layer, PageContent, Presence, Sums};
use archipelago::name::{Id, ObjectName};

use super::mutate::Rng;
use super::objects::seal_again;
use super::run::{refused_by_name, Kind, Outcome};

/// What the first byte of an input says about the volume.
const GRANULES: &[u32] = &[4, 16, 1024, 16_384];

pub fn kinds() -> Vec<Kind> {
    let page = Kind {
        name: "page",
        seeds,
        repair: |data, seed, rng| behind_first_byte(data, seed, rng, seal_again),
        decode,
        bytes_max: 256 << 10,
        memory: 24,
        share: 3,
        ..Kind::OBJECT
    };
    vec![page]
}

/// The first byte of an input is not part of the object.
pub fn behind_first_byte(
    data: &mut [u8],
    seed: &[u8],
    rng: &mut Rng,
    repair: fn(&mut [u8], &[u8], &mut Rng),
) {
    let Some((first, rest)) = data.split_first_mut() else { return };
    if !rng.one_in(32) {
        *first = seed[0];
    }
    repair(rest, &seed[1..], rng);
}

pub fn granules_of(data: &[u8]) -> (u32, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (GRANULES[usize::from(*first) % GRANULES.len()], rest),
        None => (GRANULES[0], data),
    }
}

fn entries(granules: u32, first: u64) -> Vec<Entry> {
    let presence = |from, to| {
        let mut presence = Presence::empty(granules);
        presence.set_range(from, to);
        presence
    };
    let layer = |epoch, from, to| Layer { epoch: Id(epoch), presence: presence(from, to) };
    let own = |at: u64| Entry::Block { epoch: Id(1), index: first + at };
    vec![
        own(0),
        own(1),
        own(2),
        Entry::Zero,
        Entry::Zero,
        Entry::Block { epoch: Id(2), index: 9 },
        Entry::Layers { layers: Arc::from([layer(3, 0, 1)]), base: Base::Zero },
        Entry::Layers {
            layers: Arc::from([layer(4, 1, 2), layer(3, 0, 4)]),
            base: Base::Block { epoch: Id(1), index: first + 7 },
        },
        Entry::Layers {
            layers: Arc::from([layer(4, 1, 2), layer(3, 0, 4), layer(2, 0, granules), layer(1, 2, 3)]),
            base: Base::Block { epoch: Id(2), index: 1 << 40 },
        },
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let children =
        |slots: &[u16]| slots.iter().map(|slot| (*slot, Id(7), [u8::from(*slot > 0); 32])).collect();
    let leaf = |first, entries| PageContent {
        level: 0,
        first,
        entries,
        children: Vec::new(),
        sums: Sums::default(),
    };
    let mut sums = Sums::default();
    sums.insert(Id(1), 1, [7; 32]);
    sums.insert(Id(1), 2, [8; 32]);
    sums.insert(Id(3), 6, [9; 32]);
    let parent = |level, first, slots: &[u16]| PageContent {
        level,
        first,
        entries: Vec::new(),
        children: children(slots),
        sums: Sums::default(),
    };
    let mut seeds = Vec::new();
    for (choice, granules) in (0..).zip(GRANULES) {
        let full = (0..1024).map(|index| Entry::Block { epoch: Id(1), index }).collect();
        let pages = [
            leaf(0, entries(*granules, 0)),
            leaf(5 << 10, entries(*granules, 5 << 10)),
            leaf(0, full),
            PageContent { sums: sums.clone(), ..leaf(0, entries(*granules, 0)) },
            parent(1, 0, &[0, 1, 1023]),
            parent(5, 0, &[0]),
        ];
        for page in pages {
            seeds.push([&[choice][..], &page.encode(*granules)].concat());
        }
    }
    seeds
}

fn decode(data: &[u8]) -> Result<Outcome, String> {
    let (granules, data) = granules_of(data);
    let name = ObjectName::Page(Id(7));
    let (checked, memory_bytes) =
        refused_by_name(&name, || archipelago::map::check_page(&name, data, granules))?;
    if checked.is_none() {
        return Ok(Outcome { decoded: false, memory_bytes });
    }
    let mut page = PageContent::decode(&name, data, granules).map_err(|error| error.full())?;
    let used = page.entries.iter().rposition(|entry| *entry != Entry::Zero).map_or(0, |last| last + 1);
    page.entries.truncate(used);
    if page.level == 0 && page.entries.iter().all(|entry| *entry == Entry::Zero) {
        // Nobody writes a page of zeroes; reading one does no harm.
        return Ok(Outcome { decoded: true, memory_bytes });
    }
    match PageContent::decode(&name, &page.encode(granules), granules) {
        Ok(again) if again == page => Ok(Outcome { decoded: true, memory_bytes }),
        other => Err(format!("{page:?}, encoded and decoded, is {other:?}")),
    }
}
