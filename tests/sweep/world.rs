//! A store that fails on demand, a volume on it, and what each granule of it,
//! of its snapshots and of its clones may read as.

use std::sync::Arc;

use archipelago::backend::faulty::Faulty;
use archipelago::backend::memory::{self, Memory};
use archipelago::backend::only::{Only, Part};
use archipelago::backend::{Backend, Capabilities};
use archipelago::catalog::{clone, snapshot, volume as names};
use archipelago::clock::seeded;
use archipelago::log::LogOptions;
use archipelago::maintain::{check, gc};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::{Apart, Store};
use archipelago::volume::{find_snapshot, OpenOptions, Volume};
use archipelago::{Error, Result};

pub const BLOCK: u64 = 16 << 10;
pub const GRANULE: usize = 4096;
pub const GRANULES: usize = 32;

/// What each granule may read as: the last value that was flushed, then
/// whatever was tried since. `true`: the write said that it was done.
pub type Model = Vec<Vec<(u8, bool)>>;

pub struct World {
    /// What is beneath, where nothing fails.
    pub plain: Arc<dyn Backend>,
    /// And where sealed blocks are, if that is elsewhere.
    pub sealed: Option<Arc<dyn Backend>>,
    pub faulty: Faulty,
    pub store: Store,
    /// The same, where nothing fails.
    pub quiet: Store,
    pub volume: Arc<Volume>,
    pub model: Model,
    pub snapshots: Vec<(SnapshotName, Model)>,
    pub clones: Vec<(VolumeName, Model)>,
    pub errors: Vec<Error>,
    /// Nothing is done any more after the first error.
    pub stops: bool,
    tag: u8,
}

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub fn options() -> OpenOptions {
    OpenOptions {
        log: LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 32 << 10 },
        log_limit_bytes: 256 << 10,
        ..OpenOptions::default()
    }
}

impl World {
    /// Everything in it follows from nothing but the calls.
    pub fn new(list_lag_s: u32, data_path: bool) -> World {
        let memory = Memory::with(Capabilities { list_lag_s, ..memory::CAPABILITIES });
        World::over(Arc::new(memory), data_path)
    }

    pub fn over(plain: Arc<dyn Backend>, data_path: bool) -> World {
        World::on(plain, None, data_path)
    }

    /// Both places fail by the same rules.
    pub fn apart() -> World {
        let sealed = Only::new(Arc::new(Memory::new()), Part::Sealed);
        World::on(Arc::new(Memory::new()), Some(Arc::new(sealed)), false)
    }

    fn on(plain: Arc<dyn Backend>, sealed: Option<Arc<dyn Backend>>, data_path: bool) -> World {
        seeded::seed(Some(1));
        seeded::hurry(true);
        let inner = Arc::clone(&plain);
        let faulty = if data_path { Faulty::with_data_path(inner) } else { Faulty::new(inner) };
        let beside = |place: &Arc<_>| Arc::new(faulty.beside(Arc::clone(place))) as Arc<dyn Backend>;
        let beside = sealed.as_ref().map(beside);
        let apart = Apart { log: None, sealed: beside };
        let store = Store::init_apart("test", Arc::new(faulty.clone()), apart, BLOCK).unwrap();
        names::create(&store, &name("v"), (GRANULES * GRANULE) as u64, BLOCK).unwrap();
        let volume = Volume::open(&store, &name("v"), &options()).unwrap();
        let apart = Apart { log: None, sealed: sealed.clone().map(Ok) };
        let quiet = Store::open_apart("quiet", Arc::clone(&plain), apart).unwrap();
        World {
            plain,
            sealed,
            faulty,
            store,
            quiet,
            volume,
            model: vec![vec![(0, true)]; GRANULES],
            snapshots: Vec::new(),
            clones: Vec::new(),
            errors: Vec::new(),
            stops: false,
            tag: 0,
        }
    }

    pub fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    /// True if nothing more is to be done.
    pub fn is_over(&self) -> bool {
        self.stops && !self.errors.is_empty()
    }

    /// Does one more thing, unless it is over.
    pub fn act<T>(&mut self, what: impl FnOnce(&World) -> Result<T>) -> Option<T> {
        if self.is_over() {
            return None;
        }
        let result = what(self);
        self.note(result)
    }

    pub fn write(&mut self, first: usize, count: usize) {
        if self.is_over() {
            return;
        }
        self.tag += 1;
        let data = vec![self.tag; count * GRANULE];
        let result = self.volume.write_at((first * GRANULE) as u64, &data);
        self.tried(first, count, self.tag, result);
    }

    pub fn zero(&mut self, first: usize, count: usize) {
        if self.is_over() {
            return;
        }
        let result = self.volume.write_zeroes((first * GRANULE) as u64, (count * GRANULE) as u64);
        self.tried(first, count, 0, result);
    }

    fn tried(&mut self, first: usize, count: usize, tag: u8, result: Result<()>) {
        let done = self.note(result).is_some();
        self.model[first..first + count].iter_mut().for_each(|granule| granule.push((tag, done)));
    }

    /// What was done before is what the granules are, or what was tried later.
    pub fn settle_model(&mut self) {
        for granule in &mut self.model {
            let last = granule.iter().rposition(|(_, done)| *done).unwrap_or(0);
            granule.drain(..last);
        }
    }

    pub fn read(&mut self) {
        let mut data = vec![0; GRANULES * GRANULE];
        if self.act(|world| world.volume.read_at(0, &mut data)).is_some() {
            assert_content(&data, &self.model, "while it runs");
        }
    }

    pub fn flush(&mut self) {
        if self.act(|world| world.volume.flush()).is_some() {
            self.settle_model();
        }
    }

    pub fn snapshot(&mut self, text: &str) {
        if self.act(|world| world.volume.snapshot(&snap(text))).is_some() {
            self.settle_model();
            self.snapshots.push((snap(text), self.model.clone()));
        }
    }

    pub fn rollback(&mut self, text: &str) {
        if self.is_over() {
            return;
        }
        let result = self.volume.rollback(&snap(text));
        let done = self.note(result).is_some();
        let Some((_, then)) = self.snapshots.iter().find(|(name, _)| name.as_str() == text) else { return };
        for (granule, then) in self.model.iter_mut().zip(then) {
            match done {
                true => granule.clone_from(then),
                false => granule.extend(then.iter().map(|(tag, _)| (*tag, false))),
            }
        }
    }

    pub fn clone_of(&mut self, text: &str, to: &str) {
        let made = self.act(|world| {
            let source = snapshot::find(&world.store, world.volume.id, &snap(text))?;
            names::check_free(&world.store, &name(to))?;
            clone::clone(&world.store, &source, &name(to), None).map(drop)
        });
        let then = self.snapshots.iter().find(|(name, _)| name.as_str() == text);
        let then = then.map(|(_, then)| then.clone());
        if let (Some(()), Some(then)) = (made, then) {
            self.clones.push((name(to), then));
        }
    }

    pub fn gc(&mut self) {
        self.act(|world| collect(&world.store));
    }

    /// Ends the volume as a crash of its process does, and opens it again.
    pub fn crash_and_open(&mut self) {
        if self.is_over() {
            return;
        }
        self.volume.abandon();
        // What was not flushed may be gone, whatever was said of it.
        self.model.iter_mut().flatten().for_each(|(_, done)| *done = false);
        match self.act(|world| Volume::open(&world.store, &name("v"), &options())) {
            Some(opened) => self.volume = opened,
            // The old one has no lease any more.
            None => self.stops = true,
        }
    }
}

pub fn collect(store: &Store) -> Result<()> {
    let options = gc::GcOptions { wait: |_| {}, ..gc::GcOptions::default() };
    gc::run(store, &options, &mut |_| {}).map(drop)
}

fn assert_content(data: &[u8], model: &Model, what: &str) {
    for (at, (granule, allowed)) in data.chunks_exact(GRANULE).zip(model).enumerate() {
        for sector in granule.chunks_exact(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "{what}: granule {at}: a torn sector");
            let known = allowed.iter().any(|(tag, _)| *tag == sector[0]);
            assert!(known, "{what}: granule {at} is {}, not one of {allowed:?}", sector[0]);
        }
    }
}

fn assert_allowed(volume: &Volume, model: &Model, what: &str) {
    let mut data = vec![0; GRANULES * GRANULE];
    let bytes = data.len().min(volume.size_bytes() as usize);
    volume.read_at(0, &mut data[..bytes]).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
    assert_content(&data[..bytes], model, what);
}

/// Opens everything again as another process would, without faults.
/// What is late takes effect before that, or once the next holder is there.
pub fn verify(world: World, what: &str, late_first: bool) {
    world.faulty.clear();
    world.volume.abandon();
    if late_first {
        drop(world.faulty.settle_late());
    }
    let World { faulty, store, model, snapshots, clones, .. } = world;
    let volume = Volume::open(&store, &name("v"), &options())
        .unwrap_or_else(|error| panic!("{what}: reopen: {}", error.full()));
    drop(faulty.settle_late());
    assert_allowed(&volume, &model, what);
    volume.publish_all().unwrap();
    for (snapshot, then) in &snapshots {
        find_snapshot(&store, &name("v"), volume.id, snapshot).unwrap();
        let opened = Volume::open_snapshot(&store, &name("v"), snapshot).unwrap();
        assert_allowed(&opened, then, &format!("{what}: snapshot {snapshot}"));
    }
    for (clone, then) in &clones {
        let opened = Volume::open(&store, clone, &options()).unwrap();
        assert_allowed(&opened, then, &format!("{what}: clone {clone}"));
        opened.close().unwrap();
    }
    volume.write_at(0, &[200; GRANULE]).unwrap();
    volume.settle_all().unwrap();
    volume.close().unwrap();
    let sound = |when: &str| {
        let report = check::run(&store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{what}: {when}: {:?}", report.problems);
    };
    sound("at the end");
    for _ in 0..2 {
        collect(&store).unwrap_or_else(|error| panic!("{what}: gc: {}", error.full()));
    }
    sound("after gc");
    for (snapshot, then) in &snapshots {
        let opened = Volume::open_snapshot(&store, &name("v"), snapshot).unwrap();
        assert_allowed(&opened, then, &format!("{what}: snapshot {snapshot} after gc"));
    }
}
