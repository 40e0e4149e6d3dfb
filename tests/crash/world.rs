//! Runs a list of acts over the real library and keeps the model in step:
//! before an act begins and when it has ended, what a crash may show is
//! recorded among the operations of the store.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use archipelago::backend::only::{Only, Part};
use archipelago::backend::Backend;
use archipelago::catalog::{clone, snapshot as snapshots, volume as names};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::log::LogOptions;
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::name::{ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{parts, OpenOptions, Volume};
use parking_lot::Mutex;

use super::act::{Act, Setup};
use super::disk::{Disk, Event, Failure};
use super::flight::{begin, Flight};
use super::image::SECTOR;
use super::lag::Lag;
use super::model::{Content, Model, NameModel, Sector, Shared, SnapshotModel, Value, Values, VolumeModel};
use super::report::{fault_of, Counts};

/// A store and what is done to it.
pub struct World {
    pub disk: Arc<Disk>,
    pub values: Arc<Values>,
    pub model: Shared,
    pub store: Store,
    pub handles: Vec<Option<Arc<Volume>>>,
    /// A holder that does not know that it was taken over.
    pub asleep: Option<(usize, Arc<Volume>)>,
    pub options: OpenOptions,
    pub counter: Arc<AtomicU32>,
    /// What went wrong in it.
    pub counts: Counts,
    names_made: u32,
    log_limit_bytes: u64,
}

/// Why a workload stopped: what it saw is wrong.
pub type Outcome<T> = std::result::Result<T, String>;

pub fn volume_name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn options(log_limit_bytes: u64) -> OpenOptions {
    OpenOptions {
        log: LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 64 << 10 },
        log_limit_bytes,
        ..OpenOptions::default()
    }
}

thread_local! {
    /// The disk whose listings lag.
    static LAGGING: RefCell<Option<Arc<Disk>>> = const { RefCell::new(None) };
}

/// Blocks are made once and never overwritten, as on a store that cannot.
pub static ONCE: AtomicBool = AtomicBool::new(false);

/// What a store stands on.
pub fn backend(disk: &Arc<Disk>) -> Arc<dyn Backend> {
    match ONCE.load(Ordering::SeqCst) {
        true => Arc::new(Only::new(disk.clone(), Part::BlocksOnce)),
        false => disk.clone(),
    }
}

/// Makes the listings of a disk lag, for this thread's gc; `None`: not any
/// longer, and then it need not have waited.
pub fn lag(lagging: Option<(&Arc<Disk>, Lag)>) {
    if let Some(disk) = LAGGING.take() {
        disk.lag(None);
    }
    if let Some((disk, lag)) = lagging {
        disk.lag(Some(lag));
        LAGGING.set(Some(Arc::clone(disk)));
    }
}

/// One collection.
pub fn collect(store: &Store, options: &OpenOptions) -> Result<()> {
    let identity = options.lease.identity.clone();
    let options = GcOptions { dry_run: false, identity, wait: |_| lag(None) };
    gc::run(store, &options, &mut |_| ()).map(drop)
}

pub fn wrong(what: &str, error: &Error) -> String {
    format!("{what}: {}", error.full())
}

pub fn used_twice(name: &ObjectName) -> String {
    format!("{name} is made although there was one of that name before: somebody may still have that open")
}

impl World {
    /// A store with one volume, `v`.
    pub fn new(setup: &Setup, base: &OpenOptions) -> Outcome<World> {
        let disk = Disk::new(Default::default(), true);
        let store = Store::init("crash", backend(&disk), setup.block_bytes).map_err(|e| wrong("init", &e))?;
        names::create(&store, &volume_name("v"), setup.volume_bytes, setup.block_bytes)
            .map_err(|e| wrong("create", &e))?;
        disk.take_events();
        let mut model = Model::default();
        let contents = vec![Content::zero(setup.volume_bytes)];
        model.volumes.push(VolumeModel { must: true, contents, snapshots: Vec::new() });
        model.names.push(NameModel { name: "v".into(), volume: 0, must: true });
        Ok(World::with(disk, store, model, Arc::default(), 1, setup, base))
    }

    /// Goes on with what a crash has left.
    pub fn resume(
        disk: Arc<Disk>,
        model: Model,
        values: Arc<Values>,
        setup: &Setup,
        base: &OpenOptions,
    ) -> Outcome<World> {
        let store = Store::open("crash", backend(&disk)).map_err(|e| wrong("open the store", &e))?;
        Ok(World::with(disk, store, model, values, 1 << 20, setup, base))
    }

    fn with(
        disk: Arc<Disk>,
        store: Store,
        model: Model,
        values: Arc<Values>,
        first: u32,
        setup: &Setup,
        base: &OpenOptions,
    ) -> World {
        let handles = vec![None; model.volumes.len()];
        let world = World {
            disk,
            values,
            model: Arc::new(Mutex::new(model)),
            store,
            handles,
            asleep: None,
            options: OpenOptions { log_limit_bytes: setup.log_limit_bytes, ..base.clone() },
            counter: Arc::new(AtomicU32::new(first)),
            counts: Counts::default(),
            names_made: first,
            log_limit_bytes: setup.log_limit_bytes,
        };
        world.publish();
        world
    }

    fn publish(&self) {
        let model = Arc::new(self.model.lock().clone());
        self.disk.push(Event::Model(model));
    }

    fn change(&self, with: impl FnOnce(&mut Model)) {
        with(&mut self.model.lock());
        self.publish();
    }

    pub fn fresh(&mut self, prefix: &str) -> String {
        self.names_made += 1;
        format!("{prefix}{}", self.names_made)
    }

    /// The `nth` of the volumes that are there.
    pub fn pick(&self, nth: usize) -> Option<usize> {
        let model = self.model.lock();
        let there: Vec<usize> = (0..model.volumes.len()).filter(|at| model.volumes[*at].must).collect();
        there.get(nth % there.len().max(1)).copied()
    }

    fn name_of(&self, volume: usize) -> VolumeName {
        let (model, image) = (self.model.lock(), self.disk.image());
        let there = |name: &&NameModel| image.get(&ObjectName::Volume(volume_name(&name.name))).is_some();
        let names = || model.names.iter().filter(|name| name.volume == volume);
        volume_name(&names().find(there).or(names().next()).unwrap().name)
    }

    pub fn act(&mut self, act: &Act) -> Outcome<()> {
        if let Some(fault) = fault_of(act) {
            self.counts.fault(fault);
        }
        let volume = match act {
            Act::Visited { nth, turns, at, bytes, zero, during } => {
                return self.visited((*nth, *turns), (*at, *bytes, *zero), during)
            }
            Act::Collected { nth, turns, during } => return self.collected((*nth, *turns), during),
            Act::Lagging { seed, during } => return self.lagging(*seed, |world| world.act(during)),
            Act::Wake { adds_head } => return self.wake(*adds_head),
            Act::Failing { nth, failure, during } => return self.failing(*nth, *failure, during),
            Act::Gc => return self.gc(),
            Act::Write { volume, .. }
            | Act::Fua { volume, .. }
            | Act::Zero { volume, .. }
            | Act::Flush { volume }
            | Act::Snapshot { volume }
            | Act::Publish { volume }
            | Act::Settle { volume }
            | Act::Work { volume }
            | Act::Rollback { volume, .. }
            | Act::RemoveSnapshot { volume, .. }
            | Act::Clone { volume, .. }
            | Act::Resize { volume, .. }
            | Act::Rename { volume }
            | Act::RenameHalf { volume }
            | Act::Remove { volume }
            | Act::Reopen { volume }
            | Act::Kill { volume }
            | Act::Sleep { volume }
            | Act::Read { volume }
            | Act::Held { volume, .. }
            | Act::Haunted { volume, .. } => *volume,
        };
        let Some(at) = self.pick(volume) else { return Ok(()) };
        self.run(act, at)
            .map_err(|error| wrong(&format!("{act:?} failed"), &error.0).replace("failed: : ", ""))?;
        self.check_names()?;
        self.check_log(at)
    }

    fn check_names(&self) -> Outcome<()> {
        self.disk.take_again().map_or(Ok(()), |name| Err(used_twice(&name)))
    }

    fn gc(&mut self) -> Outcome<()> {
        collect(&self.store, &self.options).map_err(|error| wrong("gc", &error))
    }

    fn check_log(&self, at: usize) -> Outcome<()> {
        let Some(volume) = &self.handles[at] else { return Ok(()) };
        let bytes = volume.log_share() * self.log_limit_bytes as f64;
        if bytes > self.log_limit_bytes as f64 + 65536.0 {
            return Err(format!("the log has {bytes} bytes; its limit is {}", self.log_limit_bytes));
        }
        Ok(())
    }

    /// The volume, opened if it is not.
    pub fn open(&mut self, at: usize) -> std::result::Result<Arc<Volume>, Stop> {
        if let Some(volume) = &self.handles[at] {
            return Ok(Arc::clone(volume));
        }
        let volume = Volume::open(&self.store, &self.name_of(at), &self.options)?;
        self.handles[at] = Some(Arc::clone(&volume));
        self.narrow(at, &volume)?;
        Ok(volume)
    }

    /// What is read now must not vanish later.
    fn narrow(&self, at: usize, volume: &Arc<Volume>) -> std::result::Result<(), Stop> {
        let values = sectors_of(volume, |bytes, at| self.values.adopt(bytes, at))?;
        let listed = volume.snapshots()?;
        let bytes = volume.size_bytes();
        let mut wrong = None;
        self.change(|model| {
            let volume = &mut model.volumes[at];
            let fits = |content: &Content| {
                content.bytes == bytes && (0..values.len()).all(|at| content.sectors[at].allows(values[at]))
            };
            if !volume.contents.iter().any(fits) {
                wrong = Some(format!("volume {at} reads wrongly after it was opened"));
            }
            volume.contents = vec![Content::of(bytes, &values)];
            for snapshot in &mut volume.snapshots {
                snapshot.must |= listed.iter().any(|listed| listed.name.as_str() == snapshot.name);
                snapshot.taking = false;
            }
        });
        wrong.map_or(Ok(()), |text| Err(Stop::from(text)))
    }

    pub fn run(&mut self, act: &Act, at: usize) -> std::result::Result<(), Stop> {
        match act {
            Act::Write { at: offset, bytes, .. } => self.write(at, *offset, *bytes, false),
            Act::Fua { at: offset, bytes, .. } => self.write(at, *offset, *bytes, true),
            Act::Zero { at: offset, bytes, .. } => self.zero(at, *offset, *bytes),
            Act::Flush { .. } => {
                let volume = self.open(at)?;
                self.flushing(at, |_| Ok(volume.flush()?))
            }
            Act::Snapshot { .. } => self.snapshot(at),
            Act::Publish { .. } => Ok(self.open(at)?.publish_all()?),
            Act::Settle { .. } => Ok(self.open(at)?.settle_all()?),
            Act::Work { .. } => Ok(self.open(at)?.work(true).map(drop)?),
            Act::Rollback { which, .. } => self.rollback(at, *which),
            Act::RemoveSnapshot { which, .. } => self.remove_snapshot(at, *which),
            Act::Clone { which, .. } => self.clone_of(at, *which),
            Act::Resize { bytes, .. } => self.resize(at, *bytes),
            Act::Rename { .. } => self.rename(at),
            Act::RenameHalf { .. } => self.rename_half(at),
            Act::Remove { .. } => self.remove(at),
            Act::Reopen { .. } => {
                let volume = self.open(at)?;
                // As the background does.
                volume.prepare_log()?;
                self.flushing(at, |_| Ok(volume.close()?))?;
                self.handles[at] = None;
                self.open(at).map(drop)
            }
            Act::Kill { .. } => self.kill(at),
            Act::Read { .. } => self.read(at),
            Act::Held { at: offset, bytes, during, .. } => self.held(at, *offset, *bytes, during),
            Act::Haunted { at: offset, bytes, .. } => self.haunted(at, *offset, *bytes),
            Act::Sleep { .. } => self.sleep(at),
            Act::Visited { .. }
            | Act::Collected { .. }
            | Act::Lagging { .. }
            | Act::Wake { .. }
            | Act::Failing { .. }
            | Act::Gc => Ok(()),
        }
    }

    pub fn flight(&self, volume: usize, at: u64, bytes: u64) -> Option<Flight> {
        let contents = self.model.lock().volumes[volume].contents.clone();
        let size = contents.iter().map(|content| content.bytes).min()?;
        let at = at % size.max(1);
        let bytes = bytes.min(size.saturating_sub(at));
        let (model, values, disk) = (self.model.clone(), self.values.clone(), self.disk.clone());
        (bytes > 0).then_some(Flight { model, values, disk, volume, at, bytes })
    }

    pub fn next_value(&self) -> Value {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    pub fn write(
        &mut self,
        at: usize,
        offset: u64,
        bytes: u64,
        durable: bool,
    ) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some(flight) = self.flight(at, offset, bytes) else { return Ok(()) };
        let value = self.next_value();
        let data = flight.data(value);
        flight.begin(value);
        if !durable {
            volume.write_at(flight.at, &data)?;
            flight.end();
            return Ok(());
        }
        let mut begun = Vec::new();
        for part in parts(volume.block_bytes, flight.at, flight.bytes) {
            let write = begin(&volume, part.block, part.start, part.end)?;
            let slice = &data[part.at as usize..part.at as usize + (part.end - part.start) as usize];
            volume.carry_out(&write, &IoBuf::copy_of(slice))?;
            begun.push(write);
        }
        flight.end();
        for write in &begun {
            volume.make_durable(write)?;
        }
        // Of a sector that was written in part only these bytes are durable.
        flight.each_whole(|sector| *sector = Sector::of(sector.last()));
        Ok(())
    }

    fn zero(&mut self, at: usize, offset: u64, bytes: u64) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some(flight) = self.flight(at, offset, bytes) else { return Ok(()) };
        flight.begin(0);
        volume.write_zeroes(flight.at, flight.bytes)?;
        flight.end();
        Ok(())
    }

    pub fn flushing(
        &mut self,
        at: usize,
        with: impl FnOnce(&mut World) -> std::result::Result<(), Stop>,
    ) -> std::result::Result<(), Stop> {
        self.model.lock().volumes[at].begin_flush();
        with(self)?;
        self.change(|model| model.volumes[at].end_flush());
        Ok(())
    }

    fn snapshot(&mut self, at: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let name = self.fresh("s");
        self.change(|model| {
            let volume = &mut model.volumes[at];
            let content = volume.contents[0].shown();
            volume.snapshots.push(SnapshotModel { name: name.clone(), must: false, taking: true, content });
        });
        let taken = SnapshotName::new(&name)?;
        self.flushing(at, |_| Ok(volume.snapshot(&taken)?))?;
        self.change(|model| {
            for snapshot in model.volumes[at].snapshots.iter_mut().filter(|snapshot| snapshot.taking) {
                snapshot.taking = false;
                snapshot.must = true;
            }
        });
        Ok(())
    }

    fn pick_snapshot(&self, at: usize, nth: usize) -> Option<(String, Content)> {
        let model = self.model.lock();
        let there: Vec<&SnapshotModel> = model.volumes[at].snapshots.iter().filter(|s| s.must).collect();
        there.get(nth % there.len().max(1)).map(|snapshot| (snapshot.name.clone(), snapshot.content.clone()))
    }

    fn rollback(&mut self, at: usize, which: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some((name, content)) = self.pick_snapshot(at, which) else { return Ok(()) };
        self.change(|model| model.volumes[at].contents.push(content.clone()));
        volume.rollback(&SnapshotName::new(&name)?)?;
        self.change(|model| model.volumes[at].contents = vec![content]);
        self.narrow(at, &volume)
    }

    fn remove_snapshot(&mut self, at: usize, which: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some((name, _)) = self.pick_snapshot(at, which) else { return Ok(()) };
        self.change(|model| {
            let volume = &mut model.volumes[at];
            if let Some(which) = volume.snapshot(&name) {
                volume.snapshots[which].must = false;
            }
        });
        Ok(volume.remove_snapshot(&SnapshotName::new(&name)?)?)
    }

    fn clone_of(&mut self, at: usize, which: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some((name, content)) = self.pick_snapshot(at, which) else { return Ok(()) };
        if self.model.lock().volumes.len() > 2 {
            return Ok(());
        }
        volume.publish_all()?;
        let source = snapshots::find(&self.store, volume.id, &SnapshotName::new(&name)?)?;
        let made = self.fresh("c");
        let index = self.handles.len();
        self.handles.push(None);
        self.change(|model| {
            model.volumes.push(VolumeModel { must: false, contents: vec![content], snapshots: Vec::new() });
            model.names.push(NameModel { name: made.clone(), volume: index, must: false });
        });
        clone::clone(&self.store, &source, &volume_name(&made), None)?;
        self.change(|model| {
            model.volumes[index].must = true;
            model.names.iter_mut().filter(|name| name.volume == index).for_each(|name| name.must = true);
        });
        Ok(())
    }

    fn resize(&mut self, at: usize, bytes: u64) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let values = self.values.clone();
        self.change(|model| {
            let volume = &mut model.volumes[at];
            let resized = volume.contents[0].resized(bytes, &values);
            volume.contents.push(resized);
        });
        volume.resize(bytes, true)?;
        self.change(|model| drop(model.volumes[at].contents.remove(0)));
        Ok(())
    }

    fn rename(&mut self, at: usize) -> std::result::Result<(), Stop> {
        let (from, to) = (self.name_of(at), self.fresh("n"));
        self.change(|model| {
            model.names.iter_mut().filter(|name| name.volume == at).for_each(|name| name.must = false);
            model.names.push(NameModel { name: to.clone(), volume: at, must: false });
        });
        names::rename(&self.store, &from, &volume_name(&to))?;
        self.change(|model| model.names.last_mut().unwrap().must = true);
        Ok(())
    }

    fn rename_half(&mut self, at: usize) -> std::result::Result<(), Stop> {
        let from = self.name_of(at);
        self.disk.fail(Some((1, Failure::Unavailable)));
        let renamed = self.rename(at);
        self.disk.fail(None);
        if renamed.is_ok() {
            return Err(Stop::from("a rename whose second half failed says that it is done".to_owned()));
        }
        self.change(|model| model.names.last_mut().unwrap().must = true);
        // Nobody holds it: the name alone may go, the volume may not.
        if let Some(volume) = self.handles[at].take() {
            self.flushing(at, |_| Ok(volume.close()?))?;
        }
        names::remove(&self.store, &from, true)?;
        self.read(at)
    }

    fn remove(&mut self, at: usize) -> std::result::Result<(), Stop> {
        if self.model.lock().volumes.iter().filter(|volume| volume.must).count() < 2 {
            return Ok(());
        }
        if let Some(volume) = self.handles[at].take() {
            self.flushing(at, |_| Ok(volume.close()?))?;
        }
        let name = self.name_of(at);
        self.change(|model| {
            model.volumes[at].must = false;
            model.volumes[at].snapshots.iter_mut().for_each(|snapshot| snapshot.must = false);
            model.names.iter_mut().filter(|name| name.volume == at).for_each(|name| name.must = false);
        });
        names::remove(&self.store, &name, true)?;
        Ok(())
    }

    pub fn kill(&mut self, at: usize) -> std::result::Result<(), Stop> {
        if let Some(volume) = self.handles[at].take() {
            volume.abandon();
        }
        self.disk.push(Event::Killed);
        // A write to a block that arrives after the next holder has read the
        // block is `Haunted`'s; all else may arrive then.
        self.disk.land_late(false);
        self.open(at)?;
        self.disk.land_late(true);
        Ok(())
    }

    pub fn read(&mut self, at: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let values = read_values(&volume, &self.values)?;
        let content = self.model.lock().volumes[at].contents[0].clone();
        if volume.size_bytes() != content.bytes {
            return Err(Stop::from(format!(
                "the volume has {} bytes, not {}",
                volume.size_bytes(),
                content.bytes
            )));
        }
        match (0..values.len()).find(|at| !content.sectors[*at].shows(values[*at])) {
            Some(at) => Err(Stop::from(format!(
                "the running volume shows value {} in sector {at} (block {}), not {:?}",
                values[at],
                at / 32,
                content.sectors[at]
            ))),
            None => Ok(()),
        }
    }
}

/// An error of the library, or a sentence about what is wrong.
#[derive(Debug)]
pub struct Stop(pub Error);

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop(error)
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Stop {
        Stop(Error::sentence(ErrorKind::Corrupt, text))
    }
}

/// The values of a volume, sector by sector.
pub fn read_values(volume: &Arc<Volume>, values: &Values) -> Result<Vec<Value>> {
    sectors_of(volume, |bytes, at| values.read(bytes, at))
}

fn sectors_of(volume: &Arc<Volume>, value_of: impl Fn(&[u8], u64) -> Value) -> Result<Vec<Value>> {
    let bytes = volume.size_bytes() as usize;
    let mut data = vec![0xEE; bytes];
    volume.read_at(0, &mut data)?;
    data.resize(bytes.next_multiple_of(SECTOR), 0);
    let sectors = data.chunks_exact(SECTOR).enumerate();
    Ok(sectors.map(|(at, bytes)| value_of(bytes, at as u64)).collect())
}
