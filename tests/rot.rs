//! What can go wrong: one bit of what lies on the disk is no longer what was
//! written. A map sends a guest to another block, a log forgets a flush or
//! brings back an older write, a snapshot says another size, gc takes what a
//! damaged map no longer names; and nobody is told, or is told so that nobody
//! knows which volume it is about.
//!
//! How this proves that it cannot: bits are flipped one by one, at random, in
//! every object of a store but blocks: of one that was closed and of one that
//! was not. After each, every volume and snapshot is read in full, written to,
//! closed and read again, and gc runs. What is read is what was written, or an
//! error that names the object and the volume. What gc leaves is enough to
//! read everything once the bit is flipped back.
//!
//! The one exception is the last batch of a log that nobody closed: it looks
//! like one that a crash has torn, and what it held may be missing. It holds
//! here what was never flushed. Blocks have no checksum: a flip in one changes
//! that one bit of what is read, and nothing else.
//!
//! FLIPS=100000 flips more, SEED=7 others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "fuzz/random.rs"]
mod random;
#[path = "rot/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::clock;
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::maintain::scrub::{self, ScrubOptions};
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

use random::Rng;
use world::{World, BLOCK};

/// Flips of a usual run.
const FLIPS: u64 = 8_000;
/// Small enough to be hit often among segments that are mostly zeroes.
const FRONT_BYTES: usize = 512;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One bit of one object.
#[derive(Clone, Debug)]
struct Flip {
    object: ObjectName,
    at: usize,
    bit: u8,
}

impl Flip {
    fn choose(world: &World, rng: &mut Rng) -> Flip {
        let kinds: Vec<&String> = world.objects.keys().collect();
        let objects = &world.objects[kinds[rng.below(kinds.len())]];
        let (object, bytes) = &objects[rng.below(objects.len())];
        let whole = rng.one_in(2) || !object.to_string().starts_with(prefix::SEGMENTS);
        let at = match (whole, world.last_batch.1 > 0 && rng.one_in(8)) {
            (true, _) => rng.below(*bytes),
            (_, true) => rng.below(FRONT_BYTES.min(*bytes)),
            // What is written of a segment, more or less.
            _ => rng.below((*bytes).min(world.used_bytes)),
        };
        Flip { object: object.clone(), at, bit: 1 << rng.below(8) }
    }

    fn apply(&self, memory: &Memory) {
        let mut data = memory.read_all(&self.object, u64::MAX).unwrap();
        data[self.at] ^= self.bit;
        memory.delete(&self.object).unwrap();
        memory.create(&self.object, &data).unwrap();
    }
}

/// What came of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    /// The end of a log that was not closed passed for torn.
    Torn,
    Told,
}

/// An error after a flip of `object`: it must say what and where.
fn told(world: &World, flip: &Flip, doing: &str, owner: &str, error: &Error) -> Result<Outcome, String> {
    let text = error.full();
    let fine = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid);
    if !fine {
        return Err(format!("{doing} {owner}: told as {:?}: {text}", error.kind()));
    }
    if !text.contains(&flip.object.to_string()) {
        return Err(format!("{doing} {owner}: the object is not named: {text}"));
    }
    // A volume's own objects have its id in their names.
    let by_id = world.ids.get(owner).is_some_and(|id| flip.object.to_string().contains(&id.to_string()));
    if !owner.is_empty() && !text.contains(owner) && !by_id && flip.object != ObjectName::Store {
        return Err(format!("{doing} {owner}: it is not named: {text}"));
    }
    Ok(Outcome::Told)
}

fn read(volume: &Arc<Volume>) -> archipelago::Result<Vec<u8>> {
    let mut data = vec![0; volume.size_bytes() as usize];
    volume.read_at(0, &mut data).map(|()| data)
}

fn read_only() -> OpenOptions {
    OpenOptions { force_share: true, ..OpenOptions::read_only() }
}

/// Reads a volume, or a snapshot of one ("volume@snapshot").
fn read_view(store: &Store, view: &str) -> archipelago::Result<Vec<u8>> {
    let volume = match view.split_once('@') {
        Some((volume, which)) => Volume::open_snapshot(store, &world::name(volume), &world::snap(which))?,
        None => Volume::open(store, &world::name(view), &read_only())?,
    };
    let data = read(&volume);
    volume.close()?;
    data
}

/// Whether this is what `view` holds.
fn compare(world: &World, flip: &Flip, doing: &str, view: &str, data: &[u8]) -> Result<Outcome, String> {
    if data == world.views[view] {
        return Ok(Outcome::Harmless);
    }
    let in_last_batch = world.last_batch.0 == flip.object.to_string() && flip.at >= world.last_batch.1;
    if view == "web" && in_last_batch && data == world.without_last_batch {
        return Ok(Outcome::Torn);
    }
    let wanted = &world.views[view];
    let at = data.iter().zip(wanted).position(|(is, was)| is != was);
    Err(format!(
        "{doing} {view}: {} of {} bytes read, wrong from {at:?} on",
        data.len(),
        wanted.len()
    ))
}

fn read_all_views(world: &World, flip: &Flip, doing: &str, store: &Store) -> Result<Outcome, String> {
    let mut worst = Outcome::Harmless;
    for view in world.views.keys() {
        let outcome = match read_view(store, view) {
            Ok(data) => compare(world, flip, doing, view, &data),
            // Nobody has published it.
            Err(error) if world.pending == *view && error.is(ErrorKind::Busy) => Ok(Outcome::Harmless),
            Err(error) => told(world, flip, doing, view.split('@').next().unwrap_or(view), &error),
        };
        worst = worst.max(outcome?);
    }
    Ok(worst)
}

/// Writes to the volume, and sees what it wrote over what was there.
fn go_on(world: &World, flip: &Flip, store: &Store) -> Result<Outcome, String> {
    let failed = |doing: &str, error: Error| told(world, flip, doing, "web", &error);
    let volume = match Volume::open(store, &world::name("web"), &world::options()) {
        Ok(volume) => volume,
        Err(error) => return failed("open", error),
    };
    let mut outcome = match read(&volume) {
        Ok(data) => compare(world, flip, "read with the right to write", "web", &data)?,
        Err(error) => failed("read with the right to write", error)?,
    };
    // The same as is there: what is read stays right to the byte.
    let same = &world.views["web"][BLOCK + 4000..BLOCK + 4700];
    let steps: [(&str, &dyn Fn() -> archipelago::Result<()>); 4] = [
        ("write", &|| volume.write_at(BLOCK as u64 + 4000, same)),
        ("flush", &|| volume.flush()),
        ("settle", &|| volume.settle_all()),
        ("publish", &|| volume.publish_all()),
    ];
    for (doing, step) in steps {
        if let Err(error) = step() {
            outcome = outcome.max(failed(doing, error)?);
        }
    }
    match volume.close() {
        Ok(()) => Ok(outcome),
        Err(error) => failed("close", error),
    }
}

/// gc runs over the damage; then the bit is flipped back, as by a repair.
fn collect(world: &World, flip: &Flip) -> Result<Outcome, String> {
    let memory = world.memory.fork();
    flip.apply(&memory);
    let store = match Store::open("test", Arc::new(memory.clone())) {
        Ok(store) => store,
        Err(error) => return told(world, flip, "open the store of", "", &error),
    };
    let mut outcome = Outcome::Harmless;
    for _ in 0..2 {
        if let Err(error) = gc::run(&store, &GcOptions::default(), &mut |_| {}) {
            outcome = told(world, flip, "gc of", "", &error)?;
        }
    }
    if memory.stat(&flip.object).is_err() {
        let data = world.memory.read_all(&flip.object, u64::MAX).unwrap();
        memory.create(&flip.object, &data).unwrap();
    } else {
        flip.apply(&memory);
    }
    match read_all_views(world, flip, "read after gc", &store)? {
        Outcome::Harmless => Ok(outcome),
        other => Err(format!("gc has taken what is needed: {other:?}")),
    }
}

fn try_one(world: &World, flip: &Flip) -> Result<Outcome, String> {
    let memory = world.memory.fork();
    flip.apply(&memory);
    let store = match Store::open("test", Arc::new(memory)) {
        Ok(store) => store,
        Err(error) => return told(world, flip, "open the store of", "", &error),
    };
    let seen = read_all_views(world, flip, "read", &store)?;
    let report = check::run(&store, &CheckOptions::default(), &mut |_| {});
    let is_reported = report.map_or(true, |report| !report.is_sound());
    if seen == Outcome::Told && !is_reported {
        return Err("check finds no damage".to_owned());
    }
    let went_on = go_on(world, flip, &store)?;
    let later = read_all_views(world, flip, "read again", &store)?;
    let collected = collect(world, flip)?;
    Ok(seen.max(went_on).max(later).max(collected))
}

type Tally = BTreeMap<String, BTreeMap<Outcome, u64>>;

fn run(world: &World, seed: u64, flips: u64) -> Result<Tally, String> {
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::new()));
    let worker = || -> Result<(), String> {
        // What looks torn is read again after a pause; here nobody is writing.
        clock::seeded::hurry(true);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= flips {
                return Ok(());
            }
            let flip = Flip::choose(world, &mut Rng::new(seed, "rot", at));
            let outcome = try_one(world, &flip).map_err(|text| {
                next.store(flips, Ordering::Relaxed);
                format!("SEED={seed}, flip {at} ({}): {flip:?} of {}: {text}", world.what, flip.object)
            })?;
            let kind = flip.object.to_string();
            let kind = kind.split('/').next().unwrap_or_default().to_owned();
            *tally.lock().unwrap().entry(kind).or_default().entry(outcome).or_default() += 1;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        others.into_iter().try_for_each(|other| other.join().unwrap())
    })?;
    Ok(tally.into_inner().unwrap())
}

#[test]
fn no_flipped_bit_shows_wrong_bytes_or_goes_without_a_name() {
    let (seed, flips) = (number("SEED", 1), number("FLIPS", FLIPS));
    println!("store      object        told    torn  harmless");
    for world in [world::left(), world::closed()] {
        let tally = run(&world, seed, flips / 2).unwrap_or_else(|text| panic!("{text}"));
        for (kind, outcomes) in &tally {
            let count = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
            let (said, torn, harmless) =
                (count(Outcome::Told), count(Outcome::Torn), count(Outcome::Harmless));
            println!("{:10} {kind:12} {said:6} {torn:7} {harmless:9}", world.what);
            // Of a generation of gc and of a scrub's state only the name counts.
            let is_told = kind != "maintenance" && kind != "scrub";
            assert!(said > 0 || !is_told, "no flip in any {kind} is noticed");
        }
    }
    println!("rot: {flips} flips, no wrong byte; seed {seed}");
}

/// What a read returns of a block is not compared with its sum: it has that one
/// bit flipped. Scrub tells it, if the block is one of a snapshot.
#[test]
fn a_flip_in_a_block_changes_that_bit_and_nothing_else() {
    let world = world::closed();
    let (mut shown, mut told) = (0, 0);
    for (at, object) in world.memory.list_all(prefix::BLOCKS).unwrap().into_iter().enumerate() {
        let bytes = world.memory.stat(&object).unwrap().bytes as usize;
        let flip = Flip { object, at: Rng::new(1, "block", at as u64).below(bytes), bit: 4 };
        let memory = world.memory.fork();
        flip.apply(&memory);
        let store = Store::open("test", Arc::new(memory)).unwrap();
        let report = scrub::run(&store, &ScrubOptions::default(), &mut |_| {}).unwrap();
        let is_told = report.problems.iter().any(|problem| problem.object == flip.object.to_string());
        told += usize::from(is_told);
        for (view, wanted) in &world.views {
            let data = read_view(&store, view).unwrap();
            let wrong: Vec<usize> = (0..data.len()).filter(|at| data[*at] != wanted[*at]).collect();
            assert!(wrong.len() <= 1, "{view}: {wrong:?} after {flip:?}");
            for at in wrong {
                assert_eq!((at % BLOCK, data[at] ^ wanted[at]), (flip.at, flip.bit), "{view}");
                shown += 1;
                // Summed by the scrub that this store has seen.
                assert!(is_told || view != "web@one", "{flip:?} is not told: {report}");
            }
        }
    }
    assert!(shown > 3 && told > 1, "{shown} flips were seen, {told} told");
}
