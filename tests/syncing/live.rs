//! A standby that follows a running guest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::catalog::volume as names;
use archipelago::error::Result;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::maintain::sync::{self, Hands};
use archipelago::name::{Id, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};

use super::bed::{assert_both_sound, collect, content_of, make, name, side, syncer, Side, BLOCK};

const SECTOR: usize = 512;
const GUESTS: u64 = 3;
const BLOCKS: u64 = 64;

fn ask(device: &Device, offset_bytes: u64, operation: Operation) {
    let (sender, receiver) = sync_channel(1);
    let done = Box::new(move |result: Result<()>| sender.send(result).unwrap());
    device.submit(Request { offset_bytes, operation }, done);
    receiver.recv_timeout(Duration::from_secs(60)).expect("a request that is never answered").unwrap();
}

/// Writes one number after another, each to some sector of its own, and knows
/// where it wrote which.
struct Guest {
    number: u64,
    written: Arc<Mutex<Vec<u64>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Guest {
    fn start(device: &Arc<Device>, number: u64, stop: &Arc<AtomicBool>) -> Guest {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (device, stop, log) = (Arc::clone(device), Arc::clone(stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let mut random = number + 77;
            while !stop.load(Ordering::Acquire) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let sector = (random >> 33) % (BLOCKS * BLOCK / SECTOR as u64 / GUESTS) * GUESTS + number;
                let tag = log.lock().unwrap().len() as u64 + 1;
                let buf = IoBuf::copy_of(&tag.to_le_bytes().repeat(SECTOR / 8));
                // Said before it is submitted: what is there was said.
                log.lock().unwrap().push(sector);
                ask(&device, sector * SECTOR as u64, Operation::Write { buf, fua: false });
            }
        });
        Guest { number, written, thread }
    }

    fn count(&self) -> u64 {
        self.written.lock().unwrap().len() as u64
    }

    /// What it wrote up to one number is there, and nothing after that. Returns
    /// that number.
    fn verify(&self, content: &[u8], what: &str) -> u64 {
        let tags: HashMap<u64, u64> = (self.number..BLOCKS * BLOCK / SECTOR as u64)
            .step_by(GUESTS as usize)
            .map(|sector| {
                let data = &content[sector as usize * SECTOR..][..SECTOR];
                let tag = u64::from_le_bytes(data[..8].try_into().unwrap());
                assert_eq!(data, tag.to_le_bytes().repeat(SECTOR / 8), "{what}: sector {sector} is torn");
                (sector, tag)
            })
            .collect();
        let last = tags.values().copied().max().unwrap_or_default();
        let mut wanted = HashMap::new();
        for (tag, sector) in (1..=last).zip(self.written.lock().unwrap().iter()) {
            wanted.insert(*sector, tag);
        }
        for (sector, tag) in tags {
            let wanted = wanted.get(&sector).copied().unwrap_or_default();
            assert_eq!(tag, wanted, "{what}: sector {sector} of guest {}, up to {last}", self.number);
        }
        last
    }
}

/// Asks the device, as the command asks a process.
struct OfDevice(Arc<Device>);

impl Hands for OfDevice {
    fn snapshot(&mut self, _: &Store, _: &VolumeName, _: Id, which: &SnapshotName) -> Result<()> {
        self.0.snapshot(which)
    }

    fn remove(&mut self, _: &Store, _: &VolumeName, _: Id, which: &SnapshotName) -> Result<()> {
        self.0.remove_snapshot(which)
    }
}

fn follows(here: &Side, there: &Side) {
    let (here, there) = (&here.quiet, &there.quiet);
    let id = make(here, "v", BLOCKS);
    let options = DeviceOptions {
        volume: name("v"),
        snapshot: None,
        open: OpenOptions { log_limit_bytes: 1 << 20, ..OpenOptions::default() },
        active: Mode::Writable,
        no_flush: false,
    };
    let device = Arc::new(Device::open(here.clone(), options).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let guests: Vec<Guest> = (0..GUESTS).map(|number| Guest::start(&device, number, &stop)).collect();
    let mut hands = OfDevice(Arc::clone(&device));
    let mut syncer = syncer(here, there);
    let mut floors = Vec::new();
    let mut behind = Duration::ZERO;
    for round in 0..12 {
        // One of these may be submitted and not acknowledged.
        floors = guests.iter().map(|guest| guest.count().saturating_sub(1)).collect();
        let report = syncer.round(&mut hands, &mut |_| Ok(())).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        behind = behind.max(report.behind().unwrap_or_default());
        if round % 4 == 3 {
            collect(there);
            collect(here);
        }
        let standby = OpenOptions { force_share: true, ..OpenOptions::read_only() };
        let content = content_of(&Volume::open(there, &name("v"), &standby).unwrap());
        for (guest, floor) in guests.iter().zip(&floors) {
            assert!(guest.verify(&content, "a round") >= *floor, "an older state than the round's");
        }
    }
    let ceilings: Vec<u64> = guests.iter().map(Guest::count).collect();
    sync::promote(there, &name("v"), id, &OpenOptions::default()).unwrap();
    let volume = Volume::open(there, &name("v"), &OpenOptions::default()).unwrap();
    let content = content_of(&volume);
    for (guest, (floor, ceiling)) in guests.iter().zip(floors.iter().zip(&ceilings)) {
        let last = guest.verify(&content, "promoted");
        assert!(last >= *floor && last <= *ceiling, "{floor} <= {last} <= {ceiling}");
        assert!(*floor > 0, "the guest wrote nothing");
    }
    volume.close().unwrap();
    eprintln!("12 rounds under {ceilings:?} writes: at most {} ms behind", behind.as_millis());
    assert!(behind > Duration::ZERO);
    stop.store(true, Ordering::Release);
    let logs: Vec<u64> = guests.iter().map(Guest::count).collect();
    for guest in guests {
        guest.thread.join().unwrap();
    }
    assert!(logs.iter().all(|count| *count > 0));
    drop(hands);
    Arc::try_unwrap(device).expect("nobody else has it").close().unwrap();
    assert!(names::lookup(there, &name("v")).unwrap() == id);
    assert_both_sound([here, there], "after all");
}

#[test]
fn a_promoted_standby_holds_one_moment_of_a_running_guest() {
    follows(&side("here", true), &side("there", true));
    follows(&super::bed::side_in_a_directory("here"), &side("there", false));
}
