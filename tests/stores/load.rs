//! A load that knows what it has written, for faults of servers: what was told
//! must be there, whatever becomes of the server meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::Backend;
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{clone, lease, snapshot, volume as names};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::{SnapshotName, VolumeName};
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
/// something fails. A snapshot is read.
fn load(machine: &Machine, thread: u64, known: Vec<Known>, stop: &AtomicBool) -> Outcome {
    let device = &machine.device;
    let mut outcome = Outcome { known, ..Outcome::default() };
    let mut random = thread + 1;
    let mut number = outcome.known.iter().map(|known| known.asked).max().unwrap_or(0);
    while !stop.load(Ordering::Relaxed) && outcome.failures.is_empty() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let granule = (random >> 33) % GRANULES;
        let began = Instant::now();
        let dice = if machine.is_snapshot { 1 } else { (random >> 20) % 16 };
        let result = match dice {
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

pub type Opener = Arc<dyn Fn() -> Store + Send + Sync>;

/// A volume, or a snapshot, and who uses it.
pub struct Machine {
    pub opener: Opener,
    pub device: Arc<Device>,
    store: Store,
    is_snapshot: bool,
}

/// As a process that has ended, when another one asks: one that has stopped for
/// good keeps its lease, and its machine is started anew.
fn device(store: Store, volume: &str, snapshot: Option<SnapshotName>) -> Arc<Device> {
    let identity = Identity { start_ticks: 1, ..Identity::of_this_process() };
    let lease = lease::Options { identity, ..lease::Options::default() };
    let active = if snapshot.is_some() { Mode::ReadOnly } else { Mode::Writable };
    let mut open = OpenOptions { lease, mode: active, ..OpenOptions::default() };
    if !store.blocks().capabilities().overwrite_in_place {
        // Else nothing but the log would be asked for anything.
        open.log_limit_bytes = 16 << 20;
    }
    let options = DeviceOptions {
        volume: VolumeName::new(volume).unwrap(),
        snapshot,
        open,
        active,
        no_flush: false,
    };
    Arc::new(Device::open(store, options).unwrap())
}

impl Machine {
    /// In a new store of one place, which is opened by `opener` from then on.
    pub fn new(
        made: Arc<dyn Backend>,
        opener: impl Fn() -> Arc<dyn Backend> + Send + Sync + 'static,
    ) -> Machine {
        let store = Store::init("test", made, BLOCK).unwrap();
        Machine::on(&store, Arc::new(move || Store::open("test", opener()).unwrap()))
    }

    /// In a new store.
    pub fn on(store: &Store, opener: Opener) -> Machine {
        let name = VolumeName::new("v").unwrap();
        names::create(store, &name, THREADS * GRANULES * GRANULE, BLOCK).unwrap();
        Machine::again(&opener)
    }

    /// Started anew.
    pub fn again(opener: &Opener) -> Machine {
        let store = opener();
        let device = device(store.clone(), "v", None);
        Machine { device, opener: Arc::clone(opener), store, is_snapshot: false }
    }

    /// A snapshot of it as it is, and a clone of that, on the same connection.
    pub fn snapshot_and_clone(&self) -> (Machine, Machine) {
        let (name, of) = (SnapshotName::new("s").unwrap(), VolumeName::new("c").unwrap());
        let volume = VolumeName::new("v").unwrap();
        self.device.snapshot(&name).unwrap();
        self.device.volume().publish_all().unwrap();
        let id = names::lookup(&self.store, &volume).unwrap();
        clone::clone(&self.store, &snapshot::find(&self.store, id, &name).unwrap(), &of, None).unwrap();
        let machine = |device, is_snapshot| Machine {
            device,
            opener: Arc::clone(&self.opener),
            store: self.store.clone(),
            is_snapshot,
        };
        let shown = device(self.store.clone(), "v", Some(name));
        (machine(shown, true), machine(device(self.store.clone(), "c", None), false))
    }

    /// Everything as the threads know it: not older than flushed, not newer than
    /// asked. Returns that, as what they know from now on.
    pub fn check(&self, all: &[Outcome]) -> Vec<Vec<Known>> {
        let mut found = of(all);
        let mut data = vec![0; BLOCK as usize];
        for block in 0..THREADS * GRANULES * GRANULE / BLOCK {
            let buf = IoBuf::alloc(data.len());
            ask(&self.device, Operation::Read { buf: buf.clone() }, block * BLOCK).unwrap();
            buf.copy_to(0, &mut data);
            for (at, data) in (block * BLOCK / GRANULE..).zip(data.chunks(GRANULE as usize)) {
                let (thread, granule) = (at % THREADS, at / THREADS);
                let known = &mut found[thread as usize][granule as usize];
                let number = number_in(thread, granule, data);
                let text = format!("granule {granule} of thread {thread}: {number}");
                assert!(known.flushed <= number && number <= known.asked, "{text} is lost, or never was");
                (known.flushed, known.written) = (number, number);
            }
        }
        found
    }

    /// Loads it from all threads while `fault` runs.
    pub fn during(&self, known: Vec<Vec<Known>>, fault: impl FnOnce()) -> Vec<Outcome> {
        together(vec![(self, known)], fault).remove(0)
    }
}

/// However `fault` ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Loads all of these, each from all its threads, while `fault` runs.
pub fn together(machines: Vec<(&Machine, Vec<Vec<Known>>)>, fault: impl FnOnce()) -> Vec<Vec<Outcome>> {
    let stop = AtomicBool::new(false);
    let all: Vec<Vec<Outcome>> = std::thread::scope(|scope| {
        let stop = &stop;
        let start = |(machine, known)| {
            let one = |(thread, known)| scope.spawn(move || load(machine, thread, known, stop));
            (0..).zip::<Vec<_>>(known).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = machines.into_iter().map(start).collect();
        let stopping = Stop(stop);
        fault();
        drop(stopping);
        let ended = |thread: std::thread::ScopedJoinHandle<'_, Outcome>| {
            thread.join().expect("a thread has met wrong bytes")
        };
        threads.into_iter().map(|of_one| of_one.into_iter().map(ended).collect()).collect()
    });
    for outcomes in &all {
        let (requests, longest) = summed(outcomes);
        eprintln!("{requests} requests, the longest took {longest:?}");
    }
    all
}

/// Of all threads: how many requests, and the longest.
pub fn summed(all: &[Outcome]) -> (u64, Duration) {
    let requests = all.iter().map(|outcome| outcome.requests).sum();
    (requests, all.iter().map(|outcome| outcome.longest).max().unwrap_or_default())
}

/// What is known, as a load begins with it.
pub fn of(all: &[Outcome]) -> Vec<Vec<Known>> {
    all.iter().map(|outcome| outcome.known.clone()).collect()
}

/// The other way round: for `check`.
pub fn as_outcomes(known: Vec<Vec<Known>>) -> Vec<Outcome> {
    known.into_iter().map(|known| Outcome { known, ..Outcome::default() }).collect()
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

