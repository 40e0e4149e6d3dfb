//! What can go wrong: a snapshot, clone, rollback, removal or rename that is
//! quick on a small volume walks the map, the log or the blocks of a large
//! one, or leaves that work to whoever opens the volume next.
//!
//! How this shows that it does not: each is done seven times on a volume of
//! 1 GiB and on one of 1 TiB all of whose 262,144 blocks the map names, with
//! a log that is full of small writes all over the volume. A backend that
//! counts sees the same calls and bytes at both sizes, or this ends with an
//! error; the same holds for the next open, which may change nothing that it
//! would not have changed before. After each operation samples are read back.
//!
//! On a `dir` store the times are measured; there only those blocks exist as
//! files that samples are in, since none of this may touch a block. That it
//! does not is shown on the `memory` store, where every block exists.
//!
//! `cargo bench --bench metadata`. A time that misses its target is told; it
//! is no error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::faulty::{Faulty, Method};
use archipelago::backend::memory::Memory;
use archipelago::backend::Backend;
use archipelago::catalog::{head, snapshot, volume as names};
use archipelago::map::{Entry, Map, Root};
use archipelago::name::{Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{find_snapshot, OpenOptions, Volume};

const BLOCK_BYTES: u64 = 4 << 20;
const GRANULE: u64 = 4096;
const GRANULES: u64 = BLOCK_BYTES / GRANULE;
const SMALL_BLOCKS: u64 = 256;
const LARGE_BLOCKS: u64 = 262_144;
/// Where times count, and where only calls do.
const TIMES: usize = 7;
const TIMES_IN_MEMORY: usize = 2;
const TARGET: Duration = Duration::from_millis(25);
const SAMPLES: u64 = 64;
/// In each block that a sample is in.
const SAMPLE_GRANULE: u64 = 7;
/// What is left of the log for a few writes between the operations.
const LOG_ROOM_BYTES: u64 = 1 << 20;
const PIECE_BYTES: u64 = 4096;
/// Where the log is filled again and again.
const LARGE_PIECE_BYTES: u64 = 60 << 10;

const METHODS: [(Method, &str); 11] = [
    (Method::Create, "create"),
    (Method::CreateSparse, "create sparse"),
    (Method::Read, "read"),
    (Method::Write, "write"),
    (Method::Punch, "punch"),
    (Method::Sync, "sync"),
    (Method::Delete, "delete"),
    (Method::Stat, "stat"),
    (Method::List, "list"),
    (Method::Copy, "copy"),
    (Method::Lock, "lock"),
];

/// Calls and bytes by method; what was not called is left out.
type Tally = BTreeMap<&'static str, (u64, u64)>;

fn tally_text(tally: &Tally) -> String {
    let each = |(method, (calls, bytes)): (&&str, &(u64, u64))| match bytes {
        0 => format!("{calls} {method}"),
        _ => format!("{calls} {method} ({bytes} B)"),
    };
    tally.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// What of it changes the store, without the lease's coming and going.
fn changes(tally: &Tally) -> Tally {
    let changing = ["create", "create sparse", "write", "punch", "sync", "delete", "copy"];
    tally.iter().filter(|(method, _)| changing.contains(method)).map(|(m, n)| (*m, *n)).collect()
}

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// Nothing may be renewed while something is counted.
fn options() -> OpenOptions {
    let mut options = OpenOptions::default();
    options.lease.renew_every = Duration::from_secs(36_000);
    options.lease.deadline = Duration::from_secs(72_000);
    options
}

/// What a granule that was written as `version` holds.
fn content(granule: u64, version: u64) -> Vec<u8> {
    let mut data = vec![0; GRANULE as usize];
    for words in data.chunks_exact_mut(16) {
        words[..8].copy_from_slice(&granule.to_le_bytes());
        words[8..].copy_from_slice(&version.to_le_bytes());
    }
    data
}

/// One operation, done several times at one size.
#[derive(Default)]
struct Series {
    took: Vec<Duration>,
    tallies: Vec<Tally>,
    open_before: Option<Tally>,
    open_after: Option<Tally>,
}

impl Series {
    fn median(&self) -> Duration {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }

    fn worst(&self) -> Duration {
        self.took.iter().copied().max().unwrap_or_default()
    }
}

/// A store with one volume of one size, and what that should hold.
struct Bed {
    store: Store,
    counts: Faulty,
    blocks: u64,
    times: usize,
    /// Version of each granule that was written since the snapshot "base".
    model: HashMap<u64, u64>,
    version: u64,
    series: BTreeMap<&'static str, Series>,
    /// How long a clone of a pending snapshot took, and what it cost.
    waited: (Duration, Tally),
}

impl Bed {
    fn new(backend: Arc<dyn Backend>, blocks: u64, times: usize, with_blocks: bool) -> Bed {
        let counts = Faulty::new(backend);
        let store = Store::init("bench", Arc::new(counts.clone()), BLOCK_BYTES).unwrap();
        let mut bed = Bed {
            store,
            counts,
            blocks,
            times,
            model: HashMap::new(),
            version: 0,
            series: BTreeMap::new(),
            waited: (Duration::ZERO, Tally::new()),
        };
        bed.make_volume(with_blocks);
        bed
    }

    /// The volume "v" with every block in its map, and its snapshot "base".
    fn make_volume(&mut self, with_blocks: bool) {
        let id = names::create(&self.store, &name("v"), self.blocks * BLOCK_BYTES, BLOCK_BYTES).unwrap();
        let old = head::latest(&self.store, id).unwrap();
        let epoch = old.epoch;
        if with_blocks {
            for index in 0..self.blocks {
                self.make_block(epoch, index);
            }
        } else {
            (0..SAMPLES).for_each(|sample| self.make_block(epoch, self.sample_block(sample)));
        }
        for sample in 0..SAMPLES {
            let index = self.sample_block(sample);
            let data = content(index * GRANULES + SAMPLE_GRANULE, 0);
            let block = ObjectName::Block { epoch, index };
            self.store.blocks().write_at(&block, SAMPLE_GRANULE * GRANULE, &data).unwrap();
            self.store.blocks().sync(&[block]).unwrap();
        }
        let map = Map::new(self.store.clone(), Root::ZERO, GRANULES as u32, self.blocks);
        let entries = (0..self.blocks).map(|index| (index, Entry::Block { epoch, index })).collect();
        let root = map.write(&entries, self.blocks).unwrap().root;
        let number = old.number + 1;
        head::commit(&self.store, &head::Head { number, root, written: true, ..old }).unwrap();
        head::remove_below(&self.store, id, number).unwrap();
        let volume = self.open("v");
        volume.snapshot(&snap("base")).unwrap();
        volume.publish_all().unwrap();
        volume.close().unwrap();
    }

    fn make_block(&self, epoch: Id, index: u64) {
        self.store.blocks().create_sparse(&ObjectName::Block { epoch, index }, BLOCK_BYTES).unwrap();
    }

    fn sample_block(&self, sample: u64) -> u64 {
        sample * (self.blocks / SAMPLES) + 3
    }

    fn open(&self, volume: &str) -> Arc<Volume> {
        Volume::open(&self.store, &name(volume), &options()).unwrap()
    }

    /// Opens and closes; what the open alone costs.
    fn count_open(&self, volume: &str) -> Tally {
        let (volume, _, tally) = self.counted(|| self.open(volume));
        volume.close().unwrap();
        tally
    }

    fn counted<T>(&self, body: impl FnOnce() -> T) -> (T, Duration, Tally) {
        self.counts.reset_counts();
        let began = Instant::now();
        let value = body();
        let took = began.elapsed();
        let count = |(method, text): &(Method, &'static str)| {
            let calls = self.counts.calls(*method);
            (calls > 0).then(|| (*text, (calls, self.counts.bytes(*method))))
        };
        (value, took, METHODS.iter().filter_map(count).collect())
    }

    /// Does one operation and books it.
    fn step<T>(&mut self, what: &'static str, body: impl FnOnce(&Store) -> T) -> T {
        let (value, took, tally) = self.counted(|| body(&self.store));
        let series = self.series.entry(what).or_default();
        series.took.push(took);
        series.tallies.push(tally);
        value
    }

    fn note_opens(&mut self, what: &'static str, before: Tally, after: Tally) {
        let series = self.series.entry(what).or_default();
        series.open_before = Some(before);
        series.open_after = Some(after);
    }

    /// Small writes all over the volume; every 64th in a block of a sample.
    fn write_pieces(&mut self, volume: &Arc<Volume>, piece_bytes: u64, enough: impl Fn(u64) -> bool) {
        let granules = piece_bytes / GRANULE;
        let mut written = 0;
        while !enough(written) {
            self.version += 1;
            let spread = self.version.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let block = match self.version % SAMPLES {
                0 => self.sample_block(self.version / SAMPLES % SAMPLES),
                _ => spread % self.blocks,
            };
            let slots = (GRANULES - 16) / granules;
            let first = block * GRANULES + 16 + (spread >> 20) % slots * granules;
            let data: Vec<u8> = (first..first + granules).flat_map(|g| content(g, self.version)).collect();
            volume.write_at(first * GRANULE, &data).unwrap();
            self.model.extend((first..first + granules).map(|granule| (granule, self.version)));
            written += 1;
        }
    }

    fn fill_log(&mut self, volume: &Arc<Volume>, piece_bytes: u64) {
        let limit_bytes = options().log_limit_bytes;
        let enough = 1.0 - (LOG_ROOM_BYTES as f64 / limit_bytes as f64);
        let handle = Arc::clone(volume);
        self.write_pieces(volume, piece_bytes, |_| handle.log_share() >= enough);
        volume.flush().unwrap();
    }

    /// Reads samples of what was there before and of what was written since;
    /// `since`: false if that is gone.
    fn check_content(&self, volume: &Arc<Volume>, since: bool) {
        let mut found = vec![0; GRANULE as usize];
        for sample in 0..SAMPLES {
            let granule = self.sample_block(sample) * GRANULES + SAMPLE_GRANULE;
            volume.read_at(granule * GRANULE, &mut found).unwrap();
            assert_eq!(found, content(granule, 0), "granule {granule} of '{}'", volume.name);
        }
        let in_sample = |granule: &u64| (granule / GRANULES) % (self.blocks / SAMPLES) == 3;
        let mut granules: Vec<u64> = self.model.keys().copied().filter(in_sample).collect();
        granules.sort_unstable();
        for granule in granules.into_iter().take(500) {
            volume.read_at(granule * GRANULE, &mut found).unwrap();
            let wanted = if since { content(granule, self.model[&granule]) } else { vec![0; found.len()] };
            assert_eq!(found, wanted, "granule {granule} of '{}', written since: {since}", volume.name);
        }
    }

    fn check_open(&self, volume: &str, since: bool) {
        let volume = self.open(volume);
        self.check_content(&volume, since);
        volume.close().unwrap();
    }

    /// The operations that leave the full log as it is.
    fn measure_with_full_log(&mut self) {
        let volume = self.open("v");
        self.fill_log(&volume, PIECE_BYTES);
        volume.close().unwrap();
        let before = self.count_open("v");
        for time in 0..self.times {
            let (from, to) = if time % 2 == 0 { ("v", "w") } else { ("w", "v") };
            self.step("rename", |store| names::rename(store, &name(from), &name(to)).unwrap());
        }
        if self.times % 2 == 1 {
            names::rename(&self.store, &name("w"), &name("v")).unwrap();
        }
        self.check_open("v", true);
        let after = self.count_open("v");
        self.note_opens("rename", before.clone(), after);
        let clone_before = self.count_open("v");
        for time in 0..self.times {
            let to = format!("clone-{time}");
            self.step("clone", |store| {
                let id = names::lookup(store, &name("v")).unwrap();
                let source = find_snapshot(store, &name("v"), id, &snap("base")).unwrap();
                names::clone(store, &source, &name(&to), None).unwrap()
            });
            self.check_open(&to, false);
        }
        let after = self.count_open("v");
        self.note_opens("clone", clone_before, after);
        self.measure_snapshots();
    }

    fn measure_snapshots(&mut self) {
        let before = self.count_open("v");
        let volume = self.open("v");
        for time in 0..self.times {
            self.write_pieces(&volume, PIECE_BYTES, |written| written >= 4);
            volume.flush().unwrap();
            let taken = snap(&format!("s{time}"));
            self.step("snapshot", |_| volume.snapshot(&taken).unwrap());
            self.check_content(&volume, true);
        }
        volume.close().unwrap();
        let after = self.count_open("v");
        self.note_opens("snapshot", before, after);
        self.check_open("v", true);
    }

    /// A clone of a snapshot that is pending: its publishing is done first.
    fn measure_wait(&mut self) {
        let ((), took, tally) = self.counted(|| {
            let id = names::lookup(&self.store, &name("v")).unwrap();
            let last = snap(&format!("s{}", self.times - 1));
            let source = find_snapshot(&self.store, &name("v"), id, &last).unwrap();
            names::clone(&self.store, &source, &name("waited"), None).unwrap();
        });
        self.waited = (took, tally);
        self.check_open("waited", true);
        self.check_open("v", true);
    }

    fn measure_rollbacks(&mut self) {
        let mut opens = None;
        // How much log the publishing left is not the same at all sizes.
        let volume = self.open("v");
        volume.rollback(&snap("base")).unwrap();
        volume.close().unwrap();
        self.model.clear();
        for _ in 0..self.times {
            let volume = self.open("v");
            self.fill_log(&volume, LARGE_PIECE_BYTES);
            volume.close().unwrap();
            let before = self.count_open("v");
            let volume = self.open("v");
            self.step("rollback", |_| volume.rollback(&snap("base")).unwrap());
            self.check_content(&volume, false);
            volume.close().unwrap();
            opens = Some((before, self.count_open("v")));
            self.check_open("v", false);
            self.model.clear();
        }
        let (before, after) = opens.unwrap();
        self.note_opens("rollback", before, after);
    }

    fn measure_removals(&mut self) {
        let volume = self.open("v");
        let before = self.count_open("waited");
        for time in 0..self.times {
            let taken = snap(&format!("s{time}"));
            self.step("remove snapshot", |_| volume.remove_snapshot(&taken).unwrap());
        }
        self.check_content(&volume, false);
        volume.close().unwrap();
        let after = self.count_open("waited");
        self.note_opens("remove snapshot", before.clone(), after);
        let id = names::lookup(&self.store, &name("v")).unwrap();
        let source = snapshot::find(&self.store, id, &snap("base")).unwrap();
        for _ in 0..self.times {
            names::clone(&self.store, &source, &name("gone"), None).unwrap();
            let volume = self.open("gone");
            self.fill_log(&volume, LARGE_PIECE_BYTES);
            volume.close().unwrap();
            self.step("remove volume", |store| names::remove(store, &name("gone"), false).unwrap());
            self.check_open("v", false);
            self.model.clear();
        }
        let after = self.count_open("waited");
        self.note_opens("remove volume", before, after);
    }
}

fn measure(backend: Arc<dyn Backend>, blocks: u64, times: usize, with_blocks: bool) -> Bed {
    let began = Instant::now();
    let mut bed = Bed::new(backend, blocks, times, with_blocks);
    bed.measure_with_full_log();
    bed.measure_wait();
    bed.measure_rollbacks();
    bed.measure_removals();
    println!("  {} GiB: {:.1} s in all", (blocks * BLOCK_BYTES) >> 30, began.elapsed().as_secs_f64());
    bed
}

/// What this disk, as busy as it is, takes for the least that is durable.
fn synced_file(folder: &Path) -> Duration {
    let mut took = Series::default();
    for time in 0..TIMES {
        let path = folder.join(format!("synced-{time}"));
        drop(std::fs::remove_file(&path));
        let began = Instant::now();
        std::fs::write(&path, [1; 512]).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        std::fs::File::open(folder).unwrap().sync_all().unwrap();
        took.took.push(began.elapsed());
    }
    took.median()
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Prints one store's table; returns what is wrong.
fn compare(what: &str, small: &Bed, large: &Bed) -> Vec<String> {
    let mut wrong = Vec::new();
    println!("{what}: median (slowest) of {}, full log", large.times);
    for (operation, at_large) in &large.series {
        let at_small = &small.series[operation];
        let verdict = if at_large.median() < TARGET { "ok" } else { "missed" };
        println!(
            "  {operation:16} 1 GiB {:>10} ({:>10})   1 TiB {:>10} ({:>10})   < 25 ms {verdict:6}  {}",
            ms(at_small.median()),
            ms(at_small.worst()),
            ms(at_large.median()),
            ms(at_large.worst()),
            tally_text(&at_large.tallies[0]),
        );
        let mut differ = |when: &str, small: &Tally, large: &Tally| {
            if small != large {
                let (small, large) = (tally_text(small), tally_text(large));
                let both = format!("    at 1 GiB: {small}\n    at 1 TiB: {large}");
                wrong.push(format!("{what}: {operation}{when}\n{both}"));
            }
        };
        for (small, large) in at_small.tallies.iter().zip(&at_large.tallies) {
            differ("", small, large);
        }
        let none = Tally::new();
        let of = |tally: &Option<Tally>| tally.clone().unwrap_or_else(|| none.clone());
        differ(", the next open", &of(&at_small.open_after), &of(&at_large.open_after));
        let (before, after) = (changes(&of(&at_large.open_before)), changes(&of(&at_large.open_after)));
        if before != after {
            wrong.push(format!(
                "{what}: {operation} leaves work to the next open\n    before: {}\n    after: {}",
                tally_text(&before),
                tally_text(&after)
            ));
        }
    }
    println!(
        "  a clone of a snapshot that is still pending waits: 1 GiB {}, 1 TiB {}",
        ms(small.waited.0),
        ms(large.waited.0)
    );
    println!("    1 GiB: {}\n    1 TiB: {}", tally_text(&small.waited.1), tally_text(&large.waited.1));
    wrong
}

fn main() -> ExitCode {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = |which: &str| -> Arc<dyn Backend> {
        Arc::new(Dir::create(&folder.path().join(which), DirOptions::default()).unwrap())
    };
    let small = measure(Arc::new(Memory::new()), SMALL_BLOCKS, TIMES_IN_MEMORY, true);
    let large = measure(Arc::new(Memory::new()), LARGE_BLOCKS, TIMES_IN_MEMORY, true);
    let mut wrong = compare("memory", &small, &large);
    drop((small, large));
    let weather = || println!("  a small file and its directory, synced: {}", ms(synced_file(folder.path())));
    weather();
    let small = measure(dir("small"), SMALL_BLOCKS, TIMES, false);
    weather();
    let large = measure(dir("large"), LARGE_BLOCKS, TIMES, false);
    weather();
    wrong.extend(compare("dir", &small, &large));
    drop(folder);
    wrong.dedup();
    for each in &wrong {
        println!("WRONG: {each}");
    }
    if !wrong.is_empty() {
        let count = wrong.len();
        println!("content intact, but {count} things depend on the size or are left to the next open");
        return ExitCode::FAILURE;
    }
    println!("content intact; calls and bytes are the same at both sizes, and the next open finds no work");
    ExitCode::SUCCESS
}
