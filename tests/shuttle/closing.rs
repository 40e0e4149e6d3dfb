//! Snapshots, handing over and closing, against requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use archipelago::io::{Device, Operation};
use archipelago::store::Store;
use archipelago::sync::yield_now;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, Volume};
use archipelago::ErrorKind;
use shuttle::thread;

use super::bed::{device_options, granules, snapshot_name, tagged, volume_name};
use super::bed::{Bed, Make, Way, BLOCK, GRANULE};
use super::explore::explore;

/// What a snapshot holds, granule by granule.
fn content(store: &Store, name: &str) -> Vec<u8> {
    let snapshot = Volume::open_snapshot(store, &volume_name(), &snapshot_name(name)).unwrap();
    let mut data = vec![0; BLOCK as usize];
    snapshot.read_at(0, &mut data).unwrap();
    granules(&IoBuf::copy_of(&data))
}

/// A snapshot is taken while granules are overwritten in place: what had
/// completed before is in it, what began afterwards is not, and after a crash
/// just then it is the same.
pub fn cutting(way: Way) {
    const WRITES: usize = 3;
    let bed = Bed::new(Make { way, ..Make::default() });
    assert_eq!(bed.write(0, BLOCK, 41).wait(), Ok(()));
    let (submitted, completed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut seen = (0, 0);
    let mut crashed = None;
    thread::scope(|scope| {
        let (bed, submitted, completed) = (&bed, &submitted, &completed);
        scope.spawn(move || {
            for at in 0..WRITES {
                submitted.store(at + 1, Ordering::Relaxed);
                assert_eq!(bed.write(at as u64 * GRANULE, GRANULE, 42).wait(), Ok(()));
                completed.store(at + 1, Ordering::Relaxed);
            }
        });
        scope.spawn(move || assert_eq!(bed.flush().wait(), Ok(())));
        let (seen, crashed) = (&mut seen, &mut crashed);
        scope.spawn(move || {
            seen.0 = completed.load(Ordering::Relaxed);
            bed.device.snapshot(&snapshot_name("s")).unwrap();
            seen.1 = submitted.load(Ordering::Relaxed);
            *crashed = Some(bed.synced.crashed());
        });
    });
    assert_eq!(bed.read(0, BLOCK), [42, 42, 42, 41]);
    let store = bed.store.clone();
    bed.close().unwrap();
    let taken = content(&store, "s");
    for (at, tag) in taken.iter().enumerate() {
        assert!(at >= seen.0 || *tag == 42, "{at} had completed: {taken:?}");
        assert!(at < seen.1 || *tag == 41, "{at} was not submitted: {taken:?}");
    }
    let after = Store::open("test", Arc::new(crashed.unwrap())).unwrap();
    let options = device_options(1 << 20).open;
    Volume::open(&after, &volume_name(), &options).unwrap().close().unwrap();
    assert_eq!(content(&after, "s"), taken, "after a crash");
}

#[test]
fn a_snapshot_meets_writes_in_place() {
    explore("cut", || cutting(Way::Threads));
    explore("cut, data path", || cutting(Way::Direct));
}

/// Everything is in flight, and settling too, when the device is closed:
/// `Bed::close` sees whether it waits for all of it.
pub fn closing(way: Way, base: u8) {
    let bed = Bed::new(Make { way, base, ..Make::default() });
    bed.write(0, GRANULE, 81);
    bed.write(0, 2 * GRANULE, 82);
    bed.flush();
    bed.submit(2 * GRANULE, Operation::Zero { bytes: GRANULE, fua: true });
    bed.submit(3 * GRANULE, Operation::Write { buf: tagged(83, GRANULE), fua: true });
    bed.submit(0, Operation::Read { buf: IoBuf::alloc(BLOCK as usize) });
    let volume = bed.device.volume();
    let settling = thread::spawn(move || drop(volume.settle_all()));
    let store = bed.store.clone();
    bed.close().unwrap();
    settling.join().unwrap();
    let volume = Volume::open(&store, &volume_name(), &device_options(1 << 20).open).unwrap();
    let mut data = vec![0; BLOCK as usize];
    volume.read_at(0, &mut data).unwrap();
    assert_eq!(granules(&IoBuf::copy_of(&data)), [82, 82, 0, 83]);
    volume.close().unwrap();
}

/// The last request leaves while somebody begins to wait for that.
pub fn draining() {
    let bed = Bed::new(Make { way: Way::Cached, ..Make::default() });
    bed.flush();
    bed.close().unwrap();
}

#[test]
fn close_returns_after_the_last_completion() {
    explore("close, one request", draining);
    explore("close", || closing(Way::Threads, 0));
    explore("close, shared block", || closing(Way::Threads, 9));
    explore("close, data path", || closing(Way::Direct, 9));
    explore("close, cached data path", || closing(Way::Cached, 9));
}

/// The volume is handed over and taken back while requests are in flight and
/// others are submitted: one that was acknowledged is there, others are Busy.
pub fn handing_over(way: Way) {
    let bed = Bed::new(Make { way, base: 9, ..Make::default() });
    let mut results = [Ok(()); 4];
    let before = bed.write(0, GRANULE, 91);
    thread::scope(|scope| {
        let bed = &bed;
        scope.spawn(move || {
            bed.device.inactivate().unwrap();
            bed.device.activate().unwrap();
        });
        let (first, rest) = results.split_at_mut(1);
        scope.spawn(move || {
            first[0] = before.wait();
            for (at, result) in rest.iter_mut().enumerate() {
                *result = bed.write((at as u64 + 1) * GRANULE, GRANULE, 92 + at as u8).wait();
            }
        });
    });
    assert_eq!(results[0], Ok(()), "it was submitted before");
    let read = bed.read(0, BLOCK);
    for (at, result) in results.iter().enumerate() {
        assert!([Ok(()), Err(ErrorKind::Busy)].contains(result), "{at}: {result:?}");
        assert_eq!(read[at], if result.is_ok() { 91 + at as u8 } else { 9 }, "{results:?}: {read:?}");
    }
    bed.close().unwrap();
}

#[test]
fn a_hand_over_meets_requests() {
    explore("hand over", || handing_over(Way::Threads));
    explore("hand over, data path", || handing_over(Way::Direct));
}

/// A migration: another device takes the volume as soon as it may, and finds
/// all that was acknowledged.
fn migrating(way: Way) {
    let bed = Bed::new(Make { way, base: 9, ..Make::default() });
    let mut inactive = device_options(1 << 20);
    inactive.open.mode = Mode::Inactive;
    let there = Device::open(bed.store.clone(), inactive).unwrap();
    let tickets = [bed.write(0, GRANULE, 91), bed.write(GRANULE, 2 * GRANULE, 92)];
    thread::scope(|scope| {
        let (bed, there) = (&bed, &there);
        scope.spawn(move || bed.device.inactivate().unwrap());
        scope.spawn(move || {
            while let Err(error) = there.activate() {
                assert!(error.is(ErrorKind::Busy), "{}", error.full());
                yield_now();
            }
        });
    });
    tickets.iter().for_each(|ticket| assert_eq!(ticket.wait(), Ok(())));
    let mut data = vec![0; BLOCK as usize];
    there.volume().read_at(0, &mut data).unwrap();
    assert_eq!(granules(&IoBuf::copy_of(&data)), [91, 92, 92, 9]);
    there.close().unwrap();
    bed.close().unwrap();
}

#[test]
fn the_next_holder_finds_what_was_acknowledged() {
    explore("migration", || migrating(Way::Threads));
    explore("migration, data path", || migrating(Way::Direct));
}
