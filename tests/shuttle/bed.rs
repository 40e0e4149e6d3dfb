//! A device in memory, and a caller who watches what becomes of each request.

use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

use archipelago::backend::faulty::{Faulty, Rule};
use archipelago::backend::Backend;
use archipelago::catalog::volume as names;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sync::{held_count, yield_now, Condvar, Mutex};
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::{ErrorKind, Result};

use super::ring::Ring;
use super::synced::Synced;

pub const BLOCK: u64 = 16 << 10;
pub const GRANULE: u64 = 4096;

/// Which way requests go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Workers and the log's thread do all of it.
    Threads,
    /// A data path through the page cache.
    Cached,
    /// A data path past it, which the log takes as well.
    Direct,
}

/// How the device is made.
#[derive(Clone, Copy)]
pub struct Make {
    pub way: Way,
    pub blocks: u64,
    /// Tag of what is written everywhere before a first snapshot; 0: nothing.
    pub base: u8,
    pub log_limit_bytes: u64,
    pub fences: bool,
}

impl Default for Make {
    fn default() -> Make {
        Make { way: Way::Threads, blocks: 1, base: 0, log_limit_bytes: 1 << 20, fences: true }
    }
}

pub struct Bed {
    pub synced: Synced,
    pub faulty: Faulty,
    pub store: Store,
    pub device: Arc<Device>,
    ring: Option<Arc<Ring>>,
    tickets: Plain<Vec<Arc<Ticket>>>,
}

/// One request, and its completion.
#[derive(Debug, Default)]
pub struct Ticket {
    state: Mutex<TicketState>,
    changed: Condvar,
    /// What was wrong with how it was told.
    wrong: Plain<Option<&'static str>>,
}

#[derive(Debug, Default)]
struct TicketState {
    begun: usize,
    result: Option<std::result::Result<(), ErrorKind>>,
    /// The completion has returned, but for its last step.
    over: bool,
}

impl Ticket {
    /// Waits for the completion.
    pub fn wait(&self) -> std::result::Result<(), ErrorKind> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = state.result {
                return result;
            }
            self.changed.wait(&mut state);
        }
    }

    pub fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// What the completion does: it takes its time.
    fn complete(&self, result: Result<()>) {
        {
            let mut state = self.state.lock();
            state.begun += 1;
            if state.begun > 1 {
                *self.wrong.lock().unwrap() = Some("completed twice");
            }
            state.result = Some(result.map_err(|error| error.kind()));
        }
        self.changed.notify_all();
        yield_now();
        self.state.lock().over = true;
    }
}

pub fn volume_name() -> VolumeName {
    VolumeName::new("v").unwrap()
}

pub fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// How a device is opened here.
pub fn device_options(log_limit_bytes: u64) -> DeviceOptions {
    let mut open = OpenOptions { log_limit_bytes, ..OpenOptions::default() };
    open.log.segment_bytes = 64 << 10;
    open.log.first_segment_bytes = 64 << 10;
    open.lease.renew_every = Duration::from_secs(1);
    // Time passes only where somebody waits, but there in leaps.
    open.lease.deadline = Duration::from_secs(1 << 40);
    let active = Mode::Writable;
    DeviceOptions { volume: volume_name(), snapshot: None, open, active, no_flush: false }
}

pub fn tagged(tag: u8, bytes: u64) -> IoBuf {
    IoBuf::copy_of(&vec![tag; bytes as usize])
}

impl Bed {
    pub fn new(make: Make) -> Bed {
        let mut synced = Synced::new(make.fences);
        let quiet = Store::init("test", Arc::new(synced.clone()), BLOCK).unwrap();
        names::create(&quiet, &volume_name(), make.blocks * BLOCK, BLOCK).unwrap();
        if make.base != 0 {
            let volume = Volume::open(&quiet, &volume_name(), &device_options(1 << 20).open).unwrap();
            volume.write_at(0, &vec![make.base; (make.blocks * BLOCK) as usize]).unwrap();
            volume.snapshot(&snapshot_name("base")).unwrap();
            volume.close().unwrap();
        }
        let ring = |alignment_bytes| Some(Ring::start(Arc::new(synced.clone()), alignment_bytes, 2));
        let ring = match make.way {
            Way::Threads => None,
            Way::Cached => ring(1),
            Way::Direct => ring(512),
        };
        synced.ring = ring.clone();
        let faulty = match make.way {
            Way::Threads => Faulty::new(Arc::new(synced.clone())),
            _ => Faulty::with_data_path(Arc::new(synced.clone())),
        };
        let store = Store::open("test", Arc::new(faulty.clone())).unwrap();
        let device = Device::open(store.clone(), device_options(make.log_limit_bytes)).unwrap();
        let device = Arc::new(device);
        Bed { synced, faulty, store, device, ring, tickets: Plain::default() }
    }

    pub fn submit(&self, offset_bytes: u64, operation: Operation) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket::default());
        self.tickets.lock().unwrap().push(Arc::clone(&ticket));
        let (told, submitter) = (Arc::clone(&ticket), shuttle::thread::current().id());
        let done = Box::new(move |result| {
            if held_count() > 0 {
                *told.wrong.lock().unwrap() = Some("completed with a lock held");
            }
            if shuttle::thread::current().id() == submitter {
                *told.wrong.lock().unwrap() = Some("completed on the submitting thread");
            }
            told.complete(result);
        });
        self.device.submit(Request { offset_bytes, operation }, done);
        ticket
    }

    pub fn write(&self, offset_bytes: u64, bytes: u64, tag: u8) -> Arc<Ticket> {
        self.submit(offset_bytes, Operation::Write { buf: tagged(tag, bytes), fua: false })
    }

    pub fn flush(&self) -> Arc<Ticket> {
        self.submit(0, Operation::Flush)
    }

    /// The tag of each granule, read through the device.
    pub fn read(&self, offset_bytes: u64, bytes: u64) -> Vec<u8> {
        let buf = IoBuf::alloc(bytes as usize);
        self.submit(offset_bytes, Operation::Read { buf: buf.clone() }).wait().unwrap();
        granules(&buf)
    }

    pub fn fail(&self, rule: Rule) {
        self.faulty.inject(rule);
    }

    /// Closes the device and looks at what became of every request.
    pub fn close(self) -> Result<()> {
        let device = Arc::into_inner(self.device).expect("nobody else has the device");
        let result = device.close();
        for ticket in self.tickets.lock().unwrap().iter() {
            assert!(ticket.is_over(), "close returned before a completion had");
            assert_eq!(*ticket.wrong.lock().unwrap(), None);
        }
        if let Some(ring) = self.ring {
            ring.stop();
        }
        result
    }
}

/// The tag of each granule; no granule has two.
pub fn granules(buf: &IoBuf) -> Vec<u8> {
    let mut data = vec![0; buf.len()];
    buf.copy_to(0, &mut data);
    data.chunks(GRANULE as usize)
        .map(|granule| {
            assert!(granule.iter().all(|byte| *byte == granule[0]), "a granule of two writes");
            granule[0]
        })
        .collect()
}

/// What a host finds that opens the volume in this store.
pub fn recovered(backend: impl Backend + 'static, bytes: u64) -> Vec<u8> {
    let store = Store::open("test", Arc::new(backend)).unwrap();
    let volume = Volume::open(&store, &volume_name(), &device_options(1 << 20).open).unwrap();
    let buf = IoBuf::alloc(bytes as usize);
    let mut data = vec![0; bytes as usize];
    volume.read_at(0, &mut data).unwrap();
    buf.copy_from(0, &data);
    volume.close().unwrap();
    granules(&buf)
}
