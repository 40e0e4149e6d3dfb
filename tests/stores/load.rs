//! A load that knows what it has written, for faults of servers: what was told
//! must be there, whatever becomes of the server meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use archipelago::backend::Backend;
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, volume as names};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::VolumeName;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions};
use archipelago::Result;

pub const BLOCK: u64 = 256 << 10;
const GRANULE: u64 = 4096;
pub const THREADS: u64 = 4;
/// Of each thread.
const GRANULES: u64 = 512;

/// What a granule was given last, by the number of its write.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// When the last flush that has returned began; 0: nothing.
    flushed: u64,
    /// Told as written.
    written: u64,
    /// Asked for, whatever was told.
    asked: u64,
}

#[derive(Default)]
pub struct Outcome {
    pub known: Vec<Known>,
    pub requests: u64,
    pub longest: Duration,
    pub failures: Vec<String>,
}

fn pattern(thread: u64, granule: u64, number: u64) -> Vec<u8> {
    [thread, granule, number, !number].map(u64::to_le_bytes).concat().repeat(GRANULE as usize / 32)
}

/// The number of the write that a granule has; 0: none.
fn number_in(thread: u64, granule: u64, data: &[u8]) -> u64 {
    if data.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let number = u64::from_le_bytes(data[16..24].try_into().unwrap());
    let is_whole = data == pattern(thread, granule, number);
    assert!(is_whole, "granule {granule} of thread {thread} has foreign bytes");
    number
}

fn place(thread: u64, granule: u64) -> u64 {
    (granule * THREADS + thread) * GRANULE
}

fn ask(device: &Device, operation: Operation, offset_bytes: u64) -> Result<()> {
    let (sender, receiver) = channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    device.submit(Request { offset_bytes, operation }, done);
    receiver.recv_timeout(Duration::from_secs(120)).expect("an answer within two minutes")
}

fn read(device: &Device, thread: u64, granule: u64) -> Result<u64> {
    let buf = IoBuf::alloc(GRANULE as usize);
    ask(device, Operation::Read { buf: buf.clone() }, place(thread, granule))?;
    let mut data = vec![0; GRANULE as usize];
    buf.copy_to(0, &mut data);
    Ok(number_in(thread, granule, &data))
}

/// Writes, flushes and reads back what it knows, until it is told to stop or
/// something fails.
fn load(device: &Device, thread: u64, known: Vec<Known>, stop: &AtomicBool) -> Outcome {
    let mut outcome = Outcome { known, ..Outcome::default() };
    let mut random = thread + 1;
    let mut number = outcome.known.iter().map(|known| known.asked).max().unwrap_or(0);
    while !stop.load(Ordering::Relaxed) && outcome.failures.is_empty() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let granule = (random >> 33) % GRANULES;
        let began = Instant::now();
        let result = match (random >> 20) % 16 {
            0 => {
                let before: Vec<u64> = outcome.known.iter().map(|known| known.written).collect();
                ask(device, Operation::Flush, 0).map(|()| {
                    outcome.known.iter_mut().zip(before).for_each(|(known, before)| known.flushed = before);
                })
            }
            1..=5 => {
                let expected = outcome.known[granule as usize].written;
                read(device, thread, granule).map(|found| {
                    assert_eq!(found, expected, "granule {granule} of thread {thread} is read wrongly");
                })
            }
            _ => {
                number += 1;
                let buf = IoBuf::copy_of(&pattern(thread, granule, number));
                let known = &mut outcome.known[granule as usize];
                known.asked = number;
                ask(device, Operation::Write { buf, fua: false }, place(thread, granule))
                    .map(|()| known.written = number)
            }
        };
        outcome.longest = outcome.longest.max(began.elapsed());
        outcome.requests += 1;
        outcome.failures.extend(result.err().map(|error| error.full()));
    }
    outcome
}

pub type Opener = Arc<dyn Fn() -> Arc<dyn Backend> + Send + Sync>;

/// A volume and who uses it.
pub struct Machine {
    pub opener: Opener,
    pub device: Arc<Device>,
}

/// As a process that has ended, when another one asks: one that has stopped for
/// good keeps its lease, and its machine is started anew.
fn device(store: Store) -> Arc<Device> {
    let identity = Identity { start_ticks: 1, ..Identity::of_this_process() };
    let lease = lease::Options { identity, ..lease::Options::default() };
    let options = DeviceOptions {
        volume: VolumeName::new("v").unwrap(),
        snapshot: None,
        open: OpenOptions { lease, ..OpenOptions::default() },
        active: Mode::Writable,
        no_flush: false,
    };
    Arc::new(Device::open(store, options).unwrap())
}

impl Machine {
    /// In a new store, which is opened by `opener` from then on.
    pub fn new(made: Arc<dyn Backend>, opener: Opener) -> Machine {
        let store = Store::init("test", made, BLOCK).unwrap();
        let name = VolumeName::new("v").unwrap();
        names::create(&store, &name, THREADS * GRANULES * GRANULE, BLOCK).unwrap();
        Machine::again(&opener)
    }

    /// Started anew.
    pub fn again(opener: &Opener) -> Machine {
        let store = Store::open("test", opener()).unwrap();
        Machine { device: device(store), opener: Arc::clone(opener) }
    }

    /// Everything as the threads know it: not older than flushed, not newer than
    /// asked. Returns that, as what they know from now on.
    pub fn check(&self, all: &[Outcome]) -> Vec<Vec<Known>> {
        let found = |thread: u64, known: &[Known]| {
            known.iter().enumerate().map(|(granule, known)| {
                let number = read(&self.device, thread, granule as u64).unwrap();
                let text = format!("granule {granule} of thread {thread}: {number}");
                assert!(known.flushed <= number && number <= known.asked, "{text} is lost, or never was");
                Known { flushed: number, written: number, asked: known.asked }
            })
            .collect()
        };
        (0..).zip(all).map(|(thread, outcome)| found(thread, &outcome.known)).collect()
    }

    /// Loads it from all threads while `fault` runs.
    pub fn during(&self, known: Vec<Vec<Known>>, fault: impl FnOnce()) -> Vec<Outcome> {
        let (stop, all) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for (thread, known) in (0..).zip(known) {
                let (stop, all, device) = (&stop, &all, &self.device);
                scope.spawn(move || {
                    let outcome = load(device, thread, known, stop);
                    all.lock().unwrap().push((thread, outcome));
                });
            }
            fault();
            stop.store(true, Ordering::Relaxed);
        });
        let mut all = all.into_inner().unwrap();
        all.sort_by_key(|(thread, _)| *thread);
        let all: Vec<Outcome> = all.into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(all.len(), THREADS as usize, "a thread has met wrong bytes");
        let requests: u64 = all.iter().map(|outcome| outcome.requests).sum();
        let longest = all.iter().map(|outcome| outcome.longest).max().unwrap_or_default();
        eprintln!("{requests} requests, the longest took {longest:?}");
        all
    }
}

pub fn nothing() -> Vec<Vec<Known>> {
    vec![vec![Known::default(); GRANULES as usize]; THREADS as usize]
}

pub fn wait(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

pub fn none_failed(all: &[Outcome]) {
    let failures: Vec<&String> = all.iter().flat_map(|outcome| &outcome.failures).collect();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(all.iter().all(|outcome| outcome.requests > 50), "there was no load");
}

