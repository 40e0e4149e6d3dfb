//! Stores, and a guest that knows what it has written.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::Arc;
use std::time::Duration;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::{Backend, Capabilities};
use archipelago::catalog::volume as names;
use archipelago::error::Result;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::mover::{self, MoveOptions, Report};
use archipelago::name::{Id, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};

pub const BLOCK: u64 = 64 << 10;
pub const SECTOR: usize = 512;

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// What a store of a test lies in.
pub enum Kind {
    Memory,
    Dir,
    Direct,
    /// Nothing is overwritten, as on S3, and the log is elsewhere.
    Once,
}

/// A store, and the folder that it needs.
pub struct Place {
    pub store: Store,
    _folder: Option<tempfile::TempDir>,
}

pub fn place(kind: &Kind, called: &str) -> Place {
    if matches!(kind, Kind::Once) {
        let once = Capabilities { overwrite_in_place: false, fences: false, ..CAPABILITIES };
        let (front, log) = (Arc::new(Memory::with(once)), Arc::new(Memory::new()));
        let store = Store::init_combined(called, front, log, BLOCK).unwrap();
        return Place { store, _folder: None };
    }
    let (backend, folder): (Arc<dyn Backend>, _) = match kind {
        Kind::Memory | Kind::Once => (Arc::new(Memory::new()), None),
        Kind::Dir | Kind::Direct => {
            let folder = tempfile::tempdir().unwrap();
            let options = DirOptions { direct: matches!(kind, Kind::Direct), ..DirOptions::default() };
            let dir = Dir::create(&folder.path().join("store"), options).unwrap();
            (Arc::new(dir), Some(folder))
        }
    };
    Place { store: Store::init(called, backend, BLOCK).unwrap(), _folder: folder }
}

pub fn make(store: &Store, volume: &str, bytes: u64) -> Id {
    names::create(store, &name(volume), bytes, BLOCK).unwrap()
}

pub fn options(volume: &str) -> DeviceOptions {
    DeviceOptions {
        volume: name(volume),
        snapshot: None,
        // A small log, so that it is settled and full now and then.
        open: OpenOptions { log_limit_bytes: 1 << 20, ..OpenOptions::default() },
        active: Mode::Writable,
        no_flush: false,
    }
}

pub fn open(store: &Store, volume: &str) -> Device {
    Device::open(store.clone(), options(volume)).unwrap()
}

pub fn move_to(device: &Device, to: &Store) -> Result<Report> {
    mover::run(&device.follow()?, to, &MoveOptions::default(), &mut |_| Ok(()))
}

pub fn ask(device: &Device, offset_bytes: u64, operation: Operation) -> Result<()> {
    let (sender, receiver) = sync_channel(1);
    let done = Box::new(move |result| sender.send(result).unwrap());
    device.submit(Request { offset_bytes, operation }, done);
    receiver.recv_timeout(Duration::from_secs(60)).expect("a request that is never answered")
}

fn tagged(tag: u64, bytes: usize) -> IoBuf {
    let data: Vec<u8> = tag.to_le_bytes().iter().copied().cycle().take(bytes).collect();
    IoBuf::copy_of(&data)
}

/// What the sectors of a volume hold, as far as its guest knows.
#[derive(Clone, Debug, Default)]
pub struct Content(pub HashMap<u64, u64>);

impl Content {
    pub fn verify(&self, volume: &Arc<Volume>, what: &str) {
        for (offset, tag) in &self.0 {
            let mut data = [0; SECTOR];
            volume.read_at(*offset, &mut data).unwrap();
            let there = u64::from_le_bytes(data[..8].try_into().unwrap());
            assert_eq!(there, *tag, "{what}: sector at {offset}");
            assert_eq!(data.to_vec(), tag.to_le_bytes().repeat(SECTOR / 8), "{what}: torn at {offset}");
        }
    }
}

/// Threads that write, discard, flush and read back what they wrote.
pub struct Guest {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Content>>,
    /// Requests so far, and the longest that one took, in microseconds.
    pub requests: Arc<AtomicU64>,
    pub longest_us: Arc<AtomicU64>,
}

const THREADS: u64 = 4;

impl Guest {
    pub fn start(device: &Arc<Device>, seed: u64) -> Guest {
        let stop = Arc::new(AtomicBool::new(false));
        let (requests, longest_us) = (Arc::default(), Arc::default());
        let threads = (0..THREADS)
            .map(|thread| {
                let one = One {
                    device: Arc::clone(device),
                    stop: Arc::clone(&stop),
                    requests: Arc::clone(&requests),
                    longest_us: Arc::clone(&longest_us),
                    thread,
                    random: seed * THREADS + thread + 1,
                    known: Content::default(),
                };
                std::thread::spawn(move || one.run())
            })
            .collect();
        Guest { stop, threads, requests, longest_us }
    }

    /// Ends it. What all of its sectors must hold.
    pub fn stop(self) -> Content {
        self.stop.store(true, Ordering::Release);
        let mut all = Content::default();
        for thread in self.threads {
            all.0.extend(thread.join().expect("a guest met an error or wrong content").0);
        }
        all
    }
}

struct One {
    device: Arc<Device>,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    longest_us: Arc<AtomicU64>,
    thread: u64,
    random: u64,
    known: Content,
}

impl One {
    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn timed(&self, offset: u64, operation: Operation) {
        let began = std::time::Instant::now();
        ask(&self.device, offset, operation).unwrap();
        self.longest_us.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Its sectors lie between those of the others, so that blocks and granules
    /// are shared; a run of them is a granule or more, and its alone.
    fn run(mut self) -> Content {
        let sectors = self.device.size_bytes() / SECTOR as u64;
        let mut tag = self.thread << 56 | self.random << 20 >> 8 | 1;
        while !self.stop.load(Ordering::Acquire) {
            tag += 1;
            let fua = self.next(40) == 0;
            match self.next(100) {
                0..=69 => {
                    // The first half of the volume: single sectors.
                    let sector = self.next(sectors / 2 / THREADS) * THREADS + self.thread;
                    self.write(sector, 1, tag, fua);
                }
                70..=84 => {
                    let (first, count) = self.run_of(sectors);
                    self.write(first, count, tag, fua);
                }
                85..=89 => {
                    let (first, count) = self.run_of(sectors);
                    let bytes = count * SECTOR as u64;
                    self.timed(first * SECTOR as u64, Operation::Zero { bytes, fua });
                    self.known.0.extend((first..first + count).map(|at| (at * SECTOR as u64, 0)));
                }
                90..=93 => self.timed(0, Operation::Flush),
                _ => self.read_back(),
            }
        }
        self.timed(0, Operation::Flush);
        self.known
    }

    /// The second half: runs of up to two blocks, in a quarter of its own.
    fn run_of(&mut self, sectors: u64) -> (u64, u64) {
        let own = sectors / 2 / THREADS;
        let count = 1 + self.next((2 * BLOCK / SECTOR as u64).min(own));
        (sectors / 2 + self.thread * own + self.next(own - count + 1), count)
    }

    fn write(&mut self, first: u64, count: u64, tag: u64, fua: bool) {
        let buf = tagged(tag, count as usize * SECTOR);
        self.timed(first * SECTOR as u64, Operation::Write { buf, fua });
        self.known.0.extend((first..first + count).map(|at| (at * SECTOR as u64, tag)));
    }

    fn read_back(&mut self) {
        let count = self.known.0.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.next(count) as usize;
        let (offset, tag) = self.known.0.iter().nth(at % 64).map(|(o, t)| (*o, *t)).unwrap_or_default();
        if !self.known.0.contains_key(&offset) {
            return;
        }
        let buf = IoBuf::alloc(SECTOR);
        self.timed(offset, Operation::Read { buf: buf.clone() });
        let mut data = [0; SECTOR];
        buf.copy_to(0, &mut data);
        assert_eq!(u64::from_le_bytes(data[..8].try_into().unwrap()), tag, "sector at {offset}");
    }
}
