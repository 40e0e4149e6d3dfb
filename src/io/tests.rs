//! Requests from many threads at once against a model of tagged sectors: what
//! can go wrong is a completion that is lost or runs twice, overlapping
//! writes that swap, a close that leaves a callback behind.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use super::*;
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::memory::Memory;
use crate::backend::Backend;
use crate::catalog::volume as names;

const BLOCK: u64 = 64 << 10;
const SECTOR: usize = 512;

fn device(backend: Arc<dyn Backend>, bytes: u64) -> Device {
    let store = Store::init("test", backend, BLOCK).unwrap();
    let volume = VolumeName::new("v").unwrap();
    names::create(&store, &volume, bytes, BLOCK).unwrap();
    let (open, active) = (OpenOptions::default(), Mode::Writable);
    let options = DeviceOptions { volume, snapshot: None, open, active, no_flush: false };
    Device::open(store, options).unwrap()
}

fn wait(device: &Device, offset_bytes: u64, operation: Operation) -> Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let submitting = std::thread::current().id();
    let done = Box::new(move |result| {
        assert_ne!(std::thread::current().id(), submitting, "completed on the submitting thread");
        sender.send(result).unwrap();
    });
    device.submit(Request { offset_bytes, operation }, done);
    receiver.recv_timeout(Duration::from_secs(30)).unwrap()
}

fn sector_tag(data: &[u8]) -> u64 {
    assert!(data.chunks_exact(8).all(|word| word == &data[..8]), "a torn sector");
    u64::from_le_bytes(data[..8].try_into().unwrap())
}

fn tagged(tag: u64, bytes: usize) -> IoBuf {
    let data: Vec<u8> = tag.to_le_bytes().iter().copied().cycle().take(bytes).collect();
    IoBuf::copy_of(&data)
}

fn many_writers(backend: Arc<dyn Backend>) {
    let device = Arc::new(device(backend, 16 * BLOCK));
    let completions = Arc::new(AtomicUsize::new(0));
    let next = Arc::new(AtomicU64::new(1));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (device, completions, next) = (&device, &completions, &next);
            scope.spawn(move || {
                // Each thread has sectors of its own, interleaved with those
                // of the others, so that blocks and granules are shared.
                let mut last = std::collections::HashMap::new();
                for round in 0..400u64 {
                    let slot = (round * 7919) % (16 * BLOCK / SECTOR as u64 / 4);
                    let offset = (slot * 4 + thread) * SECTOR as u64;
                    let tag = next.fetch_add(1, Ordering::Relaxed);
                    let fua = round % 50 == 0;
                    wait(device, offset, Operation::Write { buf: tagged(tag, SECTOR), fua }).unwrap();
                    last.insert(offset, tag);
                    completions.fetch_add(1, Ordering::Relaxed);
                    if round % 100 == 99 {
                        wait(device, 0, Operation::Flush).unwrap();
                        let name = SnapshotName::new(&format!("t{thread}r{round}")).unwrap();
                        device.snapshot(&name).unwrap();
                    }
                }
                for (offset, tag) in last {
                    let buf = IoBuf::alloc(SECTOR);
                    wait(device, offset, Operation::Read { buf: buf.clone() }).unwrap();
                    let mut data = [0; SECTOR];
                    buf.copy_to(0, &mut data);
                    assert_eq!(sector_tag(&data), tag, "sector at {offset}");
                }
            });
        }
    });
    assert_eq!(completions.load(Ordering::Relaxed), 1600);
    Arc::into_inner(device).unwrap().close().unwrap();
}

#[test]
fn many_writers_in_memory() {
    many_writers(Arc::new(Memory::new()));
}

#[test]
fn many_writers_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let dir = Dir::create(&folder.path().join("store"), DirOptions::default()).unwrap();
    many_writers(Arc::new(dir));
}

#[test]
fn overlapping_writes_end_as_the_last_one_submitted() {
    let device = device(Arc::new(Memory::new()), 4 * BLOCK);
    let (sender, receiver) = crossbeam_channel::unbounded();
    for tag in 1..=200u64 {
        let sender = sender.clone();
        let buf = tagged(tag, 8192);
        let request = Request { offset_bytes: 4096, operation: Operation::Write { buf, fua: false } };
        device.submit(request, Box::new(move |result| sender.send((tag, result.is_ok())).unwrap()));
    }
    let order: Vec<(u64, bool)> = receiver.iter().take(200).collect();
    assert!(order.iter().all(|(_, ok)| *ok));
    assert_eq!(order.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    let buf = IoBuf::alloc(8192);
    wait(&device, 4096, Operation::Read { buf: buf.clone() }).unwrap();
    let mut data = [0; 8192];
    buf.copy_to(0, &mut data);
    assert_eq!(sector_tag(&data[..SECTOR]), 200);
    assert_eq!(sector_tag(&data[7680..]), 200);
    device.close().unwrap();
}

#[test]
fn beyond_the_end_is_refused_as_a_completion() {
    let device = device(Arc::new(Memory::new()), 10_000);
    let write = Operation::Write { buf: tagged(1, 4096), fua: false };
    assert!(wait(&device, 8192, write).unwrap_err().is(ErrorKind::Invalid));
    let read = Operation::Read { buf: IoBuf::alloc(4096) };
    assert!(wait(&device, u64::MAX - 10, read).unwrap_err().is(ErrorKind::Invalid));
    assert!(wait(&device, 0, Operation::Zero { bytes: 10_001, fua: false }).is_err());
    device.close().unwrap();
}

#[test]
fn a_handed_over_volume_takes_no_writes_until_it_is_active_again() {
    let device = device(Arc::new(Memory::new()), 4 * BLOCK);
    wait(&device, 0, Operation::Write { buf: tagged(7, SECTOR), fua: false }).unwrap();
    device.inactivate().unwrap();
    let write = || Operation::Write { buf: tagged(8, SECTOR), fua: false };
    assert!(wait(&device, 0, write()).unwrap_err().is(ErrorKind::Busy));
    let buf = IoBuf::alloc(SECTOR);
    wait(&device, 0, Operation::Read { buf: buf.clone() }).unwrap();
    let mut data = [0; SECTOR];
    buf.copy_to(0, &mut data);
    assert_eq!(sector_tag(&data), 7);
    device.activate().unwrap();
    wait(&device, 0, write()).unwrap();
    device.set_read_only(true).unwrap();
    assert!(wait(&device, 0, write()).unwrap_err().is(ErrorKind::Denied));
    device.set_read_only(false).unwrap();
    wait(&device, 0, write()).unwrap();
    device.close().unwrap();
}

#[test]
fn a_small_log_fills_and_writers_go_on() {
    let memory: Arc<dyn Backend> = Arc::new(Memory::new());
    let store = Store::init("test", memory, BLOCK).unwrap();
    let volume = VolumeName::new("v").unwrap();
    names::create(&store, &volume, 64 * BLOCK, BLOCK).unwrap();
    let mut open = OpenOptions { log_limit_bytes: 512 << 10, ..OpenOptions::default() };
    open.log.segment_bytes = 128 << 10;
    open.log.first_segment_bytes = 64 << 10;
    let options = DeviceOptions { volume, snapshot: None, open, active: Mode::Writable, no_flush: false };
    let device = Device::open(store, options).unwrap();
    wait(&device, 0, Operation::Write { buf: tagged(1, 64 * BLOCK as usize), fua: false }).unwrap();
    device.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    for round in 0..1000u64 {
        let offset = (round * 13) % 1024 * 4096;
        wait(&device, offset, Operation::Write { buf: tagged(round + 2, 4096), fua: false }).unwrap();
    }
    for round in 1000 - 100..1000u64 {
        let offset = (round * 13) % 1024 * 4096;
        let buf = IoBuf::alloc(4096);
        wait(&device, offset, Operation::Read { buf: buf.clone() }).unwrap();
        let mut data = [0; 4096];
        buf.copy_to(0, &mut data);
        assert_eq!(sector_tag(&data[..SECTOR]), round + 2);
    }
    device.close().unwrap();
}

/// The background makes log segments ahead of need. One that it made just
/// after the lease was given back looked like another holder's to the next
/// one, which stopped with "taken over" at its first logged write.
#[test]
fn the_background_makes_no_segment_after_a_hand_over() {
    let memory = Memory::new();
    let device = device(Arc::new(memory.clone()), 4 * BLOCK);
    wait(&device, 0, Operation::Write { buf: tagged(7, SECTOR), fua: true }).unwrap();
    device.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    for round in 0..50 {
        let write = Operation::Write { buf: tagged(8 + round, SECTOR), fua: false };
        wait(&device, 0, write).unwrap();
        let volume = device.volume();
        let late = std::thread::spawn(move || volume.prepare_log());
        device.inactivate().unwrap();
        drop(late.join().unwrap());
        device.activate().unwrap();
    }
    device.close().unwrap();
}

/// Scattered first writes, four times what the log holds, 32 at a time: each
/// completes, and the log keeps to its limit.
#[test]
fn no_writer_stays_behind_when_the_log_fills() {
    const LIMIT: u64 = 2 << 20;
    const GRANULES: u64 = 4096;
    let store = Store::init("test", Arc::new(Memory::new()), BLOCK).unwrap();
    let volume = VolumeName::new("v").unwrap();
    names::create(&store, &volume, GRANULES * 4096, BLOCK).unwrap();
    let mut open = OpenOptions { log_limit_bytes: LIMIT, ..OpenOptions::default() };
    open.log.segment_bytes = 256 << 10;
    let options = DeviceOptions { volume, snapshot: None, open, active: Mode::Writable, no_flush: false };
    let device = Device::open(store, options).unwrap();
    wait(&device, 0, Operation::Write { buf: tagged(1, GRANULES as usize * 4096), fua: false }).unwrap();
    device.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    let (sender, receiver) = crossbeam_channel::unbounded::<Result<()>>();
    let mut in_flight = 0;
    for index in 0..2 * GRANULES {
        if in_flight == 32 {
            receiver.recv_timeout(Duration::from_secs(20)).expect("a write that never ends").unwrap();
            in_flight -= 1;
        }
        let (sender, buf) = (sender.clone(), tagged(2 + index, 4096));
        let operation = Operation::Write { buf, fua: false };
        let offset_bytes = index * 2531 % GRANULES * 4096;
        device.submit(Request { offset_bytes, operation }, Box::new(move |r| sender.send(r).unwrap()));
        in_flight += 1;
        let share = device.volume().log_share();
        assert!(share < 1.25, "{share} of the log's limit");
        if index == GRANULES {
            device.snapshot(&SnapshotName::new("again").unwrap()).unwrap();
        }
    }
    for _ in 0..in_flight {
        receiver.recv_timeout(Duration::from_secs(20)).expect("a write that never ends").unwrap();
    }
    let buf = IoBuf::alloc(4096);
    for index in GRANULES..2 * GRANULES {
        let read = Operation::Read { buf: buf.clone() };
        wait(&device, index * 2531 % GRANULES * 4096, read).unwrap();
        let mut data = vec![0; 4096];
        buf.copy_to(0, &mut data);
        assert_eq!(sector_tag(&data), 2 + index);
    }
    device.close().unwrap();
}
