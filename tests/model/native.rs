//! The Rust interface: `io::Device` and the catalog.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::thread::JoinHandle;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::only::{Only, Part};
use archipelago::backend::{Backend, Capabilities};
use archipelago::catalog::{clone, volume as names};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::maintain::gc;
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::readcache::Options;
use archipelago::store::{Apart, Store};
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{find_snapshot, Mode, OpenOptions, Status, Volume};
use archipelago::{Error, ErrorKind, Result};

use super::driver::{Answer, Ask, Disk, Driver, Facts, How, Listed, Outcome, Pending, Refusal};
use super::world::{name, options, snap, BLOCK};

pub struct Native {
    store: Store,
}

struct NativeDisk(Device);

fn told<T>(result: Result<T>) -> Outcome<T> {
    result.map_err(|error| refusal(&error))
}

fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => Refusal::Missing,
        ErrorKind::Exists => Refusal::Taken,
        ErrorKind::Busy => Refusal::Held,
        ErrorKind::Invalid => Refusal::Mistake,
        ErrorKind::Denied => Refusal::ReadOnly,
        _ => Refusal::Other(error.full()),
    }
}

impl Native {
    pub fn on_memory() -> Native {
        Native::on(Arc::new(Memory::new()))
    }

    /// Its log in another place; each lets only its own objects in.
    pub fn on_two_memories() -> Native {
        let only = |part| Arc::new(Only::new(Arc::new(Memory::new()), part)) as Arc<dyn Backend>;
        let (front, log) = (only(Part::AllButTheLog), only(Part::Log));
        Native { store: Store::init_combined("test", front, log, BLOCK).unwrap() }
    }

    /// Nothing but the log is overwritten.
    pub fn on_memory_once() -> Native {
        Native::on(Arc::new(Only::new(Arc::new(Memory::new()), Part::BlocksOnce)))
    }

    /// Nobody has locks: leases are kept by looking, and readers keep nobody away.
    pub fn on_memory_without_locks() -> Native {
        let capabilities = Capabilities { fences: false, ..CAPABILITIES };
        Native::on(Arc::new(Memory::with(capabilities)))
    }

    /// With a read cache, of which what is not overwritten may keep all.
    pub fn with_cache(folder: &Path, once: bool) -> Native {
        let memory: Arc<dyn Backend> = Arc::new(Memory::new());
        let backend = match once {
            true => Arc::new(Only::new(memory, Part::BlocksOnce)),
            false => memory,
        };
        let cache = Options { path: folder.join("cache"), bytes_max: 64 << 20, group: None };
        Native::over(Store::init("test", backend, BLOCK).unwrap().with_read_cache(&cache).unwrap())
    }

    /// Sealed blocks in another place, to which all the work carries them; perhaps
    /// where nothing is overwritten, and with a read cache.
    pub fn with_sealed(folder: &Path, once: bool) -> Native {
        let only = |part| Arc::new(Only::new(Arc::new(Memory::new()), part)) as Arc<dyn Backend>;
        let own = if once { only(Part::BlocksOnce) } else { Arc::new(Memory::new()) };
        let apart = Apart { log: None, sealed: Some(only(Part::Sealed)) };
        let store = Store::init_apart("test", own, apart, BLOCK).unwrap();
        let cache = Options { path: folder.join("cache"), bytes_max: 64 << 20, group: None };
        Native::over(if once { store.with_read_cache(&cache).unwrap() } else { store })
    }

    pub fn on_dir(folder: &Path) -> Native {
        Native::on(Arc::new(Dir::create(&folder.join("store"), DirOptions::default()).unwrap()))
    }

    fn on(backend: Arc<dyn Backend>) -> Native {
        Native::over(Store::init("test", backend, BLOCK).unwrap())
    }

    /// Its block size is `BLOCK`.
    pub fn over(store: Store) -> Native {
        Native { store }
    }

    fn make_clone(&self, volume: &VolumeName, which: &SnapshotName, to: &str, size_bytes: u64) -> Result<()> {
        let id = names::lookup(&self.store, volume)?;
        let source = find_snapshot(&self.store, volume, id, which)?;
        clone::clone(&self.store, &source, &name(to), (size_bytes > 0).then_some(size_bytes)).map(drop)
    }
}

impl Driver for Native {
    fn store(&self) -> &Store {
        &self.store
    }

    fn create(&self, volume: &str, size_bytes: u64) -> Outcome<()> {
        told(carry(&self.store))?;
        told(names::create(&self.store, &name(volume), size_bytes, BLOCK).map(drop))
    }

    fn clone_of(&self, volume: &str, snapshot: &str, to: &str, size_bytes: u64) -> Outcome<()> {
        told(carry(&self.store))?;
        told(self.make_clone(&name(volume), &snap(snapshot), to, size_bytes))
    }

    fn remove(&self, volume: &str) -> Outcome<()> {
        told(names::remove(&self.store, &name(volume), false).map(drop))
    }

    fn open(&self, volume: &str, snapshot: Option<&str>, how: How) -> Outcome<Box<dyn Disk>> {
        let mode = match how {
            How::Writable => Mode::Writable,
            How::ReadOnly => Mode::ReadOnly,
            How::Inactive => Mode::Inactive,
        };
        let device = Device::open(
            self.store.clone(),
            DeviceOptions {
                volume: name(volume),
                snapshot: snapshot.map(snap),
                // A small log, so that it is often full.
                open: OpenOptions { mode, log_limit_bytes: 256 << 10, ..options() },
                active: if how == How::ReadOnly { Mode::ReadOnly } else { Mode::Writable },
                no_flush: false,
            },
        );
        told(device).map(|device| Box::new(NativeDisk(device)) as Box<dyn Disk>)
    }
}

fn work_on(volume: &Arc<Volume>, which: u8) -> Result<()> {
    carry(&volume.store)?;
    match which % 3 {
        0 => volume.settle_all(),
        1 => volume.publish_all(),
        _ => volume.work(true).map(drop),
    }?;
    carry(&volume.store)
}

/// Where sealed blocks have a place of their own.
fn carry(store: &Store) -> Result<()> {
    if store.own_and_sealed().is_none() {
        return Ok(());
    }
    match gc::run(store, &gc::GcOptions::default(), &mut |_| {}) {
        // Another one of this history does.
        Err(error) if error.is(ErrorKind::Busy) => Ok(()),
        other => other.map(drop),
    }
}

fn contents(buf: &IoBuf) -> Vec<u8> {
    let mut data = vec![0xEE; buf.len()];
    buf.copy_to(0, &mut data);
    data
}

impl Disk for NativeDisk {
    fn submit(&self, offset_bytes: u64, ask: Ask) -> Pending {
        let (sender, receiver) = channel();
        let mut target = IoBuf::alloc(0);
        let operation = match ask {
            Ask::Read { bytes } => {
                target = IoBuf::copy_of(&vec![0xEE; bytes as usize]);
                Operation::Read { buf: target.clone() }
            }
            Ask::Write { data, fua } => Operation::Write { buf: IoBuf::copy_of(&data), fua },
            Ask::Zero { bytes, fua } => Operation::Zero { bytes, fua },
            Ask::Discard { bytes } => Operation::Zero { bytes, fua: false },
            Ask::Flush => Operation::Flush,
            Ask::Resize { shrink } => Operation::Resize { shrink },
        };
        let done = Box::new(move |result| {
            // Whoever waited has given up if nobody takes it.
            drop(sender.send(Answer { result: told(result), data: contents(&target) }));
        });
        self.0.submit(Request { offset_bytes, operation }, done);
        Pending(receiver)
    }

    fn try_read(&self, offset_bytes: u64, bytes: u64) -> Option<Answer> {
        let buf = IoBuf::copy_of(&vec![0xEE; bytes as usize]);
        let result = self.0.try_read(offset_bytes, &buf)?;
        Some(Answer { result: told(result), data: contents(&buf) })
    }

    fn status(&self, offset_bytes: u64, bytes: u64) -> Outcome<(bool, u64)> {
        told(self.0.block_status(offset_bytes, bytes)).map(|(status, bytes)| (status == Status::Zero, bytes))
    }

    fn facts(&self) -> Outcome<Facts> {
        let volume = self.0.volume();
        Ok(Facts {
            size_bytes: self.0.size_bytes(),
            block_bytes: volume.block_bytes,
            read_only: volume.mode() == Mode::ReadOnly,
            active: volume.mode() != Mode::Inactive,
            zero_init: volume.is_all_zero(),
        })
    }

    fn snapshot(&self, name: &str) -> Outcome<()> {
        told(self.0.snapshot(&snap(name)))
    }

    fn rollback(&self, name: &str) -> Outcome<()> {
        told(self.0.rollback(&snap(name)))
    }

    fn remove_snapshot(&self, name: &str) -> Outcome<()> {
        told(self.0.remove_snapshot(&snap(name)))
    }

    fn snapshots(&self) -> Outcome<Vec<Listed>> {
        let listed = told(self.0.snapshots())?;
        Ok(listed.into_iter().map(|listed| (listed.name.to_string(), listed.size_bytes)).collect())
    }

    fn inactivate(&self) -> Outcome<()> {
        told(self.0.inactivate())
    }

    fn activate(&self) -> Outcome<()> {
        told(self.0.activate())
    }

    fn set_read_only(&self, read_only: bool) -> Outcome<()> {
        told(self.0.set_read_only(read_only))
    }

    fn work(&self, which: u8) -> Outcome<()> {
        told(work_on(&self.0.volume(), which))
    }

    fn begin_work(&self, which: u8) -> Option<JoinHandle<Outcome<()>>> {
        let volume = self.0.volume();
        let times = 1 + which / 3 % 8;
        Some(std::thread::spawn(move || told((0..times).try_for_each(|_| work_on(&volume, which)))))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        told(self.0.close())
    }
}
