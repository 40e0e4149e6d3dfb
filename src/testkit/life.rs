//! One schedule: a volume's life in a place whose calls fail.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::guest::{sectors, Content, SECTOR};
use super::{crash, Bed, Counts, Fault, Faulty, Memory, Method, Recording, Rng, Rule};
use crate::backend::Backend;
use crate::catalog::identity::Identity;
use crate::catalog::{lease, volume as names};
use crate::error::{ErrorKind, Result};
use crate::log::LogOptions;
use crate::maintain::{check, gc};
use crate::name::{SnapshotName, VolumeName};
use crate::store::Store;
use crate::volume::{OpenOptions, Volume};

const BLOCK: u64 = 16 << 10;
const BLOCKS: u64 = 24;
const SNAPSHOTS_MAX: usize = 4;
/// Longer than any schedule takes: nothing is done at a time of its own.
const NEVER: Duration = Duration::from_secs(1 << 20);

/// A place with what stands before it.
struct Side {
    bed: Bed,
    /// Where the place cannot lose power itself.
    recording: Option<Recording>,
    faulty: Faulty,
}

impl Side {
    fn over(bed: Bed) -> Side {
        let recording = bed.crash.is_none().then(|| Recording::new(Arc::clone(&bed.backend)));
        let below = match &recording {
            Some(recording) => Arc::new(recording.clone()) as Arc<dyn Backend>,
            None => Arc::clone(&bed.backend),
        };
        Side { bed, recording, faulty: Faulty::new(below) }
    }

    /// What is there after a loss of power.
    fn after_crash(self, make: &dyn Fn() -> Bed, rng: &mut Rng) -> (Side, u64) {
        let Side { bed, recording, faulty } = self;
        drop(faulty);
        match (bed.crash, recording) {
            (Some(crash), _) => {
                drop(bed.backend);
                (Side::over(crash()), 0)
            }
            (None, recording) => {
                let record = recording.map_or_else(Vec::new, |recording| recording.ops());
                let new = Side::over(make());
                let place = new.recording.clone().map(|recording| Arc::new(recording) as Arc<dyn Backend>);
                let place = place.unwrap_or_else(|| Arc::clone(&new.bed.backend));
                let lost = crash::replay(&record, &place, rng);
                (new, lost)
            }
        }
    }
}

/// A volume, where it is, and what it must hold.
pub struct Life<'a> {
    make: &'a dyn Fn() -> Bed,
    trace: &'a RefCell<Vec<String>>,
    rng: Rng,
    main: Side,
    /// Where nothing is overwritten the log is in memory.
    log: Option<Side>,
    store: Store,
    volume: Arc<Volume>,
    content: Content,
    snapshots: Vec<(SnapshotName, Content)>,
    removed: Vec<SnapshotName>,
    counts: Counts,
    tag: u64,
    opened: u64,
    /// The kind of the first error of a step.
    failed: Option<ErrorKind>,
    /// There was no room in this opening.
    was_full: bool,
}

fn volume_name() -> VolumeName {
    VolumeName::new("v").unwrap()
}

/// A small log, so that it is often full.
fn options(opened: u64) -> OpenOptions {
    // Each opening is that of a process which is dead when the next one comes.
    let identity =
        Identity { pid: i32::MAX as u32, start_ticks: opened, ..Identity::of_this_process() };
    OpenOptions {
        log: LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 32 << 10 },
        log_limit_bytes: 256 << 10,
        lease: lease::Options { identity, renew_every: NEVER, deadline: NEVER, ..lease::Options::default() },
        ..OpenOptions::default()
    }
}

fn open_store(main: &Side, log: Option<&Side>) -> Result<Store> {
    let faulty = |side: &Side| Arc::new(side.faulty.clone()) as Arc<dyn Backend>;
    match log {
        None => Store::open("kit", faulty(main)),
        Some(log) => Store::open_combined("kit", faulty(main), Ok(faulty(log))),
    }
}

impl<'a> Life<'a> {
    pub fn begin(make: &'a dyn Fn() -> Bed, seed: u64, trace: &'a RefCell<Vec<String>>) -> Life<'a> {
        let main = Side::over(make());
        let overwrites = main.bed.backend.capabilities().overwrite_in_place;
        let log = (!overwrites).then(|| Side::over(Bed::new(Arc::new(Memory::new()))));
        let (place, id) = (Arc::new(main.faulty.clone()), volume_name());
        let store = match &log {
            None => Store::init("kit", place, BLOCK).unwrap(),
            Some(log) => Store::init_combined("kit", place, Arc::new(log.faulty.clone()), BLOCK).unwrap(),
        };
        names::create(&store, &id, BLOCK * BLOCKS, BLOCK).unwrap();
        let volume = Volume::open(&store, &id, &options(0)).unwrap();
        Life {
            make,
            trace,
            rng: Rng(seed),
            main,
            log,
            store,
            volume,
            content: Content::zeroes((BLOCK * BLOCKS) as usize / SECTOR),
            snapshots: Vec::new(),
            removed: Vec::new(),
            counts: Counts::new(),
            tag: 0,
            opened: 0,
            failed: None,
            was_full: false,
        }
    }

    pub fn play(mut self, steps: u32) -> Counts {
        for _ in 0..steps {
            if self.rng.one_in(5) {
                self.arm();
            }
            self.step();
            if let Some(kind) = self.failed.take() {
                self.recover(kind);
            }
        }
        self.end();
        self.counts
    }

    fn say(&mut self, word: &'static str, more: impl std::fmt::Display) {
        *self.counts.entry(word).or_default() += 1;
        self.trace.borrow_mut().push(format!("{word} {more}"));
    }

    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.say("errors", error.full());
                self.failed.get_or_insert(error.kind());
                None
            }
        }
    }

    fn sides(&self) -> Vec<Faulty> {
        [Some(&self.main), self.log.as_ref()].into_iter().flatten().map(|side| side.faulty.clone()).collect()
    }

    /// The next calls, or those of one method, are struck.
    fn arm(&mut self) {
        const CHANGES: [Method; 6] = [
            Method::Create,
            Method::CreateSparse,
            Method::Write,
            Method::Punch,
            Method::Sync,
            Method::Delete,
        ];
        let method = CHANGES.get(self.rng.below(9) as usize).copied();
        let (fault, times) = match self.rng.below(8) {
            0 => (Fault::Fail(ErrorKind::Unavailable), 1),
            1 => (Fault::Fail(ErrorKind::Unknown), 1),
            2 => (Fault::FailAfterApplying, 1),
            3 => (Fault::ApplyLate, 1),
            4 => (Fault::Delay(Duration::from_millis(1 + self.rng.below(4))), 3),
            5 => (Fault::Short(ErrorKind::NoSpace), 1),
            // Full for a while.
            _ => (Fault::Fail(ErrorKind::NoSpace), 1 + self.rng.below(20)),
        };
        let is_full = fault == Fault::Fail(ErrorKind::NoSpace);
        // A place without room still reads, syncs and deletes.
        let method = if is_full { CHANGES.get(self.rng.below(3) as usize).copied() } else { method };
        let skip = self.rng.below(8);
        self.was_full |= is_full || fault == Fault::Short(ErrorKind::NoSpace);
        let sides = self.sides();
        let side = &sides[self.rng.below(sides.len() as u64) as usize];
        let rule = Rule::new(fault.clone()).after(skip).times(times);
        side.inject(method.map_or(rule.clone(), |method| rule.on(method)));
        self.say("faults", format!("{fault:?} {method:?} after {skip} calls, {times} times"));
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..=44 => self.write(),
            45..=52 => self.zero(),
            53..=66 => self.flush(),
            67..=74 => self.read(),
            75..=79 => self.snapshot(),
            80..=81 => self.roll_back(),
            82..=83 => self.remove_snapshot(),
            84..=90 => self.work(),
            91..=92 => self.collect(),
            93..=94 => self.close(),
            95..=97 => self.die(false),
            _ => self.lose_power(),
        }
    }

    fn write(&mut self) {
        let (first, count) = self.content.range(&mut self.rng, BLOCK);
        self.tag += 1;
        self.say("writes", format!("{}: {count} sectors at {first}", self.tag));
        let written = self.volume.write_at((first * SECTOR) as u64, &sectors(self.tag, count));
        let done = self.note(written).is_some();
        self.content.tried(first, count, self.tag, done);
    }

    fn zero(&mut self) {
        let (first, count) = self.content.range(&mut self.rng, BLOCK);
        self.say("zeroes", format!("{count} sectors at {first}"));
        let written = self.volume.write_zeroes((first * SECTOR) as u64, (count * SECTOR) as u64);
        let done = self.note(written).is_some();
        self.content.tried(first, count, 0, done);
    }

    fn flush(&mut self) {
        self.say("flushes", "");
        if self.note(self.volume.flush()).is_some() {
            self.content.flushed();
        }
    }

    fn read(&mut self) {
        let (first, count) = self.content.range(&mut self.rng, BLOCK);
        self.say("reads", format!("{count} sectors at {first}"));
        let mut data = vec![0xEE; count * SECTOR];
        if self.note(self.volume.read_at((first * SECTOR) as u64, &mut data)).is_some() {
            self.content.check(&data, first, "a read");
        }
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            return self.remove_snapshot();
        }
        self.tag += 1;
        let name = SnapshotName::new(&format!("s{}", self.tag)).unwrap();
        self.say("snapshots", &name);
        if self.note(self.volume.snapshot(&name)).is_some() {
            self.content.flushed();
            self.snapshots.push((name, self.content.clone()));
        }
    }

    fn roll_back(&mut self) {
        let Some((name, then)) = self.some_snapshot().map(|at| self.snapshots[at].clone()) else { return };
        self.say("rollbacks", &name);
        let done = self.note(self.volume.rollback(&name)).is_some();
        self.content.rolled_back(&then, done);
    }

    /// It may be gone from when that is asked for.
    fn remove_snapshot(&mut self) {
        let Some(at) = self.some_snapshot() else { return };
        let (name, _) = self.snapshots.remove(at);
        self.say("removals", &name);
        self.removed.push(name.clone());
        let removed = self.volume.remove_snapshot(&name);
        self.note(removed);
    }

    fn some_snapshot(&mut self) -> Option<usize> {
        match self.snapshots.len() as u64 {
            0 => None,
            count => Some(self.rng.below(count) as usize),
        }
    }

    fn work(&mut self) {
        let which = self.rng.below(3);
        self.say("background", which);
        let worked = match which {
            0 => self.volume.settle_all(),
            1 => self.volume.publish_all(),
            _ => self.volume.work(true).map(drop),
        };
        self.note(worked);
    }

    fn collect(&mut self) {
        // Elsewhere it waits until listings have come up.
        if self.store.list_lag_s() == 0 {
            self.say("collections", "");
            let collected = gc::run(&self.store, &gc::GcOptions::default(), &mut |_| {});
            self.note(collected);
        }
    }

    fn close(&mut self) {
        self.say("closings", "");
        let closed = self.volume.close();
        match self.note(closed) {
            Some(()) => self.content.flushed(),
            None => self.content.cut_off(),
        }
        self.volume.abandon();
        self.reopen(false);
    }

    /// After an error: what is late comes about, and most often somebody opens
    /// the volume anew.
    fn recover(&mut self, kind: ErrorKind) {
        let alive = self.volume.check_alive().is_ok();
        let is_full = kind == ErrorKind::NoSpace;
        match self.rng.below(6) {
            0..=2 if alive && is_full => return,
            0..=1 if alive => {}
            2 => return self.lose_power(),
            3 if !self.was_full => return self.die(true),
            _ => return self.die(false),
        }
        self.quieten();
        self.settle_late();
        self.say("goes on", "");
    }

    fn quieten(&self) {
        self.sides().iter().for_each(Faulty::clear);
    }

    fn settle_late(&self) -> bool {
        let settled = self.sides().iter().map(|faulty| faulty.settle_late().len()).sum::<usize>();
        settled > 0
    }

    /// The process ends. `late`: what it had asked for last comes about when
    /// the next one has opened the volume.
    fn die(&mut self, late: bool) {
        self.say("kills", if late { "late" } else { "" });
        self.volume.abandon();
        self.content.cut_off();
        self.reopen(late);
    }

    fn reopen(&mut self, late: bool) {
        if !late {
            self.settle_late();
        }
        let opened = self.open_again();
        self.volume = match opened {
            Ok(volume) => volume,
            // What fails must be a fault of ours.
            Err(error) => {
                self.say("openings that failed", error.full());
                self.quieten();
                self.settle_late();
                self.open_again().unwrap_or_else(|error| panic!("it opens no more: {}", error.full()))
            }
        };
        self.was_full = false;
        // Faults of reads are not for this.
        self.quieten();
        let came_late = self.settle_late();
        let data = self.content.check_all(&self.volume, "after an opening");
        // What comes late is not synced by who opens before it.
        if !came_late {
            self.content.settle_on(&data);
        }
        self.failed = None;
    }

    fn open_again(&mut self) -> Result<Arc<Volume>> {
        self.opened += 1;
        self.store = open_store(&self.main, self.log.as_ref())?;
        Volume::open(&self.store, &volume_name(), &options(self.opened))
    }

    fn lose_power(&mut self) {
        self.quieten();
        if self.rng.one_in(2) {
            self.settle_late();
        }
        self.volume.abandon();
        self.content.cut_off();
        let (make, log) = (self.make, self.log.take());
        let in_memory = || Bed::new(Arc::new(Memory::new()));
        // Nobody may use the place any more.
        let nowhere = Side::over(in_memory());
        self.rest_on(&nowhere);
        let main = std::mem::replace(&mut self.main, nowhere);
        let (main, mut lost) = main.after_crash(make, &mut self.rng);
        self.main = main;
        self.log = log.map(|log| {
            let (log, more) = log.after_crash(&in_memory, &mut self.rng);
            lost += more;
            log
        });
        self.say("losses of power", format!("{lost} operations were lost"));
        self.reopen(false);
    }

    /// Lets the place go: the volume is one of another store.
    fn rest_on(&mut self, nowhere: &Side) {
        self.store = Store::init("kit", Arc::clone(&nowhere.bed.backend), BLOCK).unwrap();
        names::create(&self.store, &volume_name(), BLOCK, BLOCK).unwrap();
        self.volume = Volume::open(&self.store, &volume_name(), &options(0)).unwrap();
        self.volume.abandon();
    }

    /// Everything is there, sound, and works, also when garbage is collected.
    fn end(&mut self) {
        self.quieten();
        self.die(false);
        self.volume.publish_all().unwrap();
        self.remove_what_is_back();
        self.check_snapshots("at the end");
        let (first, count) = self.content.range(&mut self.rng, BLOCK);
        self.volume.write_at((first * SECTOR) as u64, &sectors(u64::MAX, count)).unwrap();
        self.content.tried(first, count, u64::MAX, true);
        self.volume.settle_all().unwrap();
        self.volume.close().unwrap();
        self.sound("at the end");
        if self.store.list_lag_s() == 0 {
            let collected = gc::run(&self.store, &gc::GcOptions::default(), &mut |_| {});
            collected.unwrap_or_else(|error| panic!("gc: {}", error.full()));
            self.sound("after gc");
            self.check_snapshots("after gc");
        }
        self.content.flushed();
        self.reopen(false);
        self.volume.close().unwrap();
    }

    /// A loss of power may bring back what was deleted: a snapshot whose blocks
    /// gc has taken since is to be removed again (docs/design.md, Known limits).
    fn remove_what_is_back(&mut self) {
        for listed in self.volume.snapshots().unwrap() {
            if self.removed.contains(&listed.name) {
                self.volume.remove_snapshot(&listed.name).unwrap();
                self.say("removed snapshots that were back", &listed.name);
            }
        }
    }

    fn check_snapshots(&self, when: &str) {
        for (name, content) in &self.snapshots {
            let what = format!("snapshot {name} {when}");
            let opened = Volume::open_snapshot(&self.store, &volume_name(), name);
            content.check_all(&opened.unwrap_or_else(|error| panic!("{what}: {}", error.full())), &what);
        }
    }

    fn sound(&self, when: &str) {
        let report = check::run(&self.store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{when}: {:?}", report.problems);
    }
}
