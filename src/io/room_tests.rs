//! Requests that wait for room. What can go wrong: one fails although it should wait,
//! or waits for ever although there is room or the device closes; its completion runs
//! twice or not at all; what waits keeps reads, snapshots or a close from going on; a
//! store that is not configured so waits too.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::Memory;
use crate::catalog::volume as names;

const BLOCK: u64 = 64 << 10;

type Receiver = crossbeam_channel::Receiver<(u64, Result<()>)>;

fn device(waits: bool) -> (Faulty, Store, Arc<Device>) {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let mut store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
    store.waits_for_room = waits;
    names::create(&store, &name(), 64 * BLOCK, BLOCK).unwrap();
    let opened = open(&store);
    (faulty, store, opened)
}

fn name() -> VolumeName {
    VolumeName::new("v").unwrap()
}

fn open(store: &Store) -> Arc<Device> {
    let (open, active) = (OpenOptions::default(), Mode::Writable);
    let options = DeviceOptions { volume: name(), snapshot: None, open, active, no_flush: false };
    Arc::new(Device::open(store.clone(), options).unwrap())
}

fn fill(faulty: &Faulty) {
    for method in [Method::Create, Method::CreateSparse, Method::Write] {
        for prefix in ["block/", "log/", "map/"] {
            let rule = Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(method).named(prefix);
            faulty.inject(rule.times(u64::MAX));
        }
    }
}

/// Writes of a byte to blocks, all at once.
fn write_all(device: &Device, blocks: std::ops::Range<u64>, byte: u8) -> Receiver {
    let (sender, receiver) = crossbeam_channel::unbounded();
    for block in blocks {
        let sender = sender.clone();
        let operation = Operation::Write { buf: IoBuf::copy_of(&[byte; 4096]), fua: block % 3 == 0 };
        let done = Box::new(move |result| sender.send((block, result)).unwrap());
        device.submit(Request { offset_bytes: block * BLOCK, operation }, done);
    }
    receiver
}

fn ask(device: &Device, operation: Operation) -> Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let done = Box::new(move |result| sender.send(result).unwrap());
    device.submit(Request { offset_bytes: 0, operation }, done);
    receiver.recv_timeout(Duration::from_secs(30)).unwrap()
}

fn byte_at(device: &Device, block: u64) -> u8 {
    let buf = IoBuf::alloc(4096);
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let done = Box::new(move |result: Result<()>| sender.send(result).unwrap());
    let operation = Operation::Read { buf: buf.clone() };
    device.submit(Request { offset_bytes: block * BLOCK, operation }, done);
    receiver.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    let mut data = [0; 4096];
    buf.copy_to(0, &mut data);
    assert!(data.iter().all(|byte| *byte == data[0]), "a torn write");
    data[0]
}

#[test]
fn what_needs_room_waits_and_all_else_goes_on() {
    let (faulty, _, device) = device(true);
    let first = write_all(&device, 0..4, 1);
    (0..4).for_each(|_| first.recv_timeout(Duration::from_secs(30)).unwrap().1.unwrap());
    ask(&device, Operation::Flush).unwrap();
    fill(&faulty);
    let waiting = write_all(&device, 10..30, 2);
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(2500) {
        assert_eq!(byte_at(&device, 2), 1);
        assert!(waiting.is_empty(), "{:?}", waiting.recv());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(device.served().failures.load(Ordering::Relaxed), 0);
    faulty.clear();
    for _ in 10..30 {
        let (block, result) = waiting.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(result.is_ok(), "{block}: {result:?}");
    }
    assert!(waiting.recv_timeout(Duration::from_millis(10)).is_err(), "told twice");
    ask(&device, Operation::Flush).unwrap();
    assert!((10..30).all(|block| byte_at(&device, block) == 2));
    device.close().unwrap();
}

#[test]
fn who_closes_waits_for_nobody() {
    let (faulty, store, device) = device(true);
    let first = write_all(&device, 0..4, 1);
    (0..4).for_each(|_| first.recv_timeout(Duration::from_secs(30)).unwrap().1.unwrap());
    ask(&device, Operation::Flush).unwrap();
    fill(&faulty);
    let waiting = write_all(&device, 0..20, 2);
    std::thread::sleep(Duration::from_millis(1200));
    let since = Instant::now();
    let closed = device.close();
    assert!(since.elapsed() < Duration::from_secs(5), "{:?} {closed:?}", since.elapsed());
    for _ in 0..20 {
        let (block, result) = waiting.try_recv().unwrap();
        assert!(result.as_ref().is_err_and(|e| e.is(ErrorKind::NoSpace)), "{block}: {result:?}");
    }
    drop(device);
    faulty.clear();
    let device = open(&store);
    // None of the later ones was acknowledged; each is there, or is not.
    assert!((0..4).all(|block| [1, 2].contains(&byte_at(&device, block))));
    assert!((4..20).all(|block| [0, 2].contains(&byte_at(&device, block))));
    device.close().unwrap();
}

#[test]
fn a_close_meets_those_that_just_try_again() {
    let round = |round: u64| {
        let (faulty, _, device) = device(true);
        fill(&faulty);
        let waiting = write_all(&device, 0..16, 2);
        std::thread::sleep(Duration::from_millis(900 + round * 8));
        if round % 2 == 0 {
            faulty.clear();
        }
        let _closed = device.close();
        assert_eq!(waiting.len(), 16, "each is told of before a close returns");
    };
    std::thread::scope(|scope| (0..48).for_each(|number| drop(scope.spawn(move || round(number)))));
}

#[test]
fn a_store_that_is_not_told_so_does_not_wait() {
    let (faulty, _, device) = device(false);
    fill(&faulty);
    let told = write_all(&device, 0..4, 1);
    for _ in 0..4 {
        let (_, result) = told.recv_timeout(Duration::from_millis(900)).unwrap();
        assert!(result.is_err_and(|error| error.is(ErrorKind::NoSpace)));
    }
    faulty.clear();
    device.close().unwrap();
}
