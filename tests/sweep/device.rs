//! The same where threads serve requests: calls are found by their place and
//! not by their number, which differs from run to run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::faulty::{Fault, Method, Rule};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::readcache::Options;
use archipelago::sys::iobuf::AlignedBytes;
use archipelago::volume::{Mode, Volume};
use archipelago::{Error, ErrorKind, Result};

use super::cover::faults;
use super::sites::Finder;
use super::world::{name, options, snap, verify, World, GRANULE};

const DEADLINE: Duration = Duration::from_secs(60);

/// A volume that is shared with a snapshot, served past the page cache, with a
/// read cache.
struct Bed {
    world: World,
    device: Device,
    tag: u8,
    /// Of its read cache.
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new(mut world: World) -> Bed {
        world.write(0, 32);
        world.snapshot("a");
        world.volume.publish_all().unwrap();
        world.volume.close().unwrap();
        let open = options();
        let volume = name("v");
        let options = DeviceOptions { volume, snapshot: None, open, active: Mode::Writable, no_flush: false };
        let folder = tempfile::tempdir().unwrap();
        let cache = Options { path: folder.path().join("cache"), bytes_max: 64 << 20, group: None };
        let store = world.store.clone().with_read_cache(&cache).unwrap();
        let device = Device::open(store, options).unwrap();
        Bed { world, device, tag: 100, _folder: folder }
    }

    fn ask(&mut self, offset_bytes: u64, operation: Operation) -> bool {
        let (sender, answer) = sync_channel(1);
        let done = Box::new(move |result: Result<()>| drop(sender.send(result)));
        self.device.submit(Request { offset_bytes, operation }, done);
        let result = answer.recv_timeout(DEADLINE).expect("a request hangs");
        self.world.note(result).is_some()
    }

    fn write(&mut self, first: usize, count: usize, fua: bool, aligned: bool) {
        self.tag += 1;
        let memory = AlignedBytes::zeroed((count + 1) * GRANULE).into_iobuf();
        memory.copy_from(0, &vec![self.tag; (count + 1) * GRANULE]);
        let buf = memory.slice(usize::from(!aligned), count * GRANULE);
        let done = self.ask((first * GRANULE) as u64, Operation::Write { buf, fua });
        let tag = self.tag;
        self.world.model[first..first + count].iter_mut().for_each(|granule| granule.push((tag, done)));
    }

    fn read(&mut self, first: usize, count: usize) {
        let buf = AlignedBytes::zeroed(count * GRANULE).into_iobuf();
        if !self.ask((first * GRANULE) as u64, Operation::Read { buf: buf.clone() }) {
            return;
        }
        let mut data = vec![0; count * GRANULE];
        buf.copy_to(0, &mut data);
        for (at, granule) in data.chunks_exact(GRANULE).enumerate() {
            let allowed = &self.world.model[first + at];
            let known = allowed.iter().any(|(tag, _)| *tag == granule[0]);
            assert!(known, "granule {}: {}", first + at, granule[0]);
        }
    }

    fn flush(&mut self) {
        if self.ask(0, Operation::Flush) {
            self.world.settle_model();
        }
    }

    fn run(&mut self) {
        self.read(0, 8);
        // The map is known by now: this one waits for no worker.
        self.read(8, 8);
        self.write(0, 4, false, true);
        self.write(4, 1, false, true);
        self.write(5, 1, false, false);
        self.flush();
        self.write(0, 2, false, true);
        self.write(1, 1, false, false);
        self.write(4, 1, true, true);
        let buf = AlignedBytes::zeroed(2 * GRANULE).into_iobuf();
        if let Some(result) = self.device.try_read(0, &buf) {
            self.world.note(result);
        }
        self.read(0, 8);
        self.flush();
        let settled = self.device.volume().settle_all();
        self.world.note(settled);
        self.write(4, 1, false, true);
        self.write(20, 2, false, true);
        self.read(4, 2);
        self.read(0, 32);
        self.flush();
    }

    /// What is true of the volume after its last request, before it is closed.
    fn end(self, what: &str, late_first: bool) -> Vec<Error> {
        let Bed { mut world, device, .. } = self;
        world.faulty.clear();
        drop(device.close());
        let errors = std::mem::take(&mut world.errors);
        world.volume = open_nothing(&world);
        verify(world, what, late_first);
        errors
    }
}

/// What `verify` abandons: the device has closed its volume.
fn open_nothing(world: &World) -> Arc<Volume> {
    Volume::open_snapshot(&world.quiet, &name("v"), &snap("a")).unwrap()
}

/// Which places the device comes to that no single thread does.
pub fn places(finder: &Finder) -> Vec<(usize, Method)> {
    let mut bed = Bed::new(World::new(0, true));
    let (seen, finder) = (Arc::new(Mutex::new(Vec::new())), finder.clone());
    let found = Arc::clone(&seen);
    bed.world.faulty.inject(Rule::new(Fault::Twice).times(0).when(move |method, _| {
        if let Ok(site) = finder.here(method) {
            let mut found = found.lock().unwrap();
            if !found.contains(&(site, method)) {
                found.push((site, method));
            }
        }
        false
    }));
    bed.run();
    assert!(bed.end("the device", true).is_empty());
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    seen
}

/// The errno that a request may end with when this is what happens to it.
fn fits(fault: &Fault, error: &Error) -> bool {
    let errno = error.kind().errno();
    match fault {
        Fault::Fail(kind) | Fault::Short(kind) | Fault::FailApplied(kind) => {
            errno == kind.errno() || errno == libc::EIO
        }
        _ => errno == libc::EIO,
    }
}

/// Every fault at one place, at its first call or a later one. Returns how
/// many runs there were.
pub fn sweep(finder: &Finder, site: usize, method: Method) -> usize {
    strike(finder, site, method, &faults(method), &|| World::new(0, true))
}

/// These faults at one place of a device, each time in a new world.
pub fn strike(
    finder: &Finder,
    site: usize,
    method: Method,
    faults: &[Fault],
    make: &dyn Fn() -> World,
) -> usize {
    let mut runs = 0;
    for fault in faults {
        for skip in [0, 1] {
            let what = format!("device: {:?}: {fault:?}, after {skip}", finder.sites()[site]);
            let mut bed = Bed::new(make());
            let (finder, struck) = (finder.clone(), Arc::new(AtomicBool::new(false)));
            let strikes = Arc::clone(&struck);
            let rule = Rule::new(fault.clone()).on(method).after(skip).when(move |method, _| {
                let is_here = finder.here(method) == Ok(site);
                strikes.fetch_or(is_here, Ordering::Relaxed);
                is_here
            });
            bed.world.faulty.inject(rule);
            bed.run();
            // How late it may be is for the stories of one thread.
            bed.world.faulty.forget_late();
            let errors = bed.end(&what, true);
            assert!(skip > 0 || struck.load(Ordering::Relaxed), "{what}: it never struck");
            if let Some(first) = errors.first() {
                assert!(fits(fault, first), "{what}: {}", first.full());
            }
            let is_full = matches!(
                fault,
                Fault::Fail(ErrorKind::NoSpace)
                    | Fault::Short(ErrorKind::NoSpace)
                    | Fault::FailApplied(ErrorKind::NoSpace)
            );
            if is_full && method == Method::Write {
                let all = errors.iter().all(|error| error.is(ErrorKind::NoSpace));
                assert!(all, "{what}: {:?}", errors);
            }
            runs += 1;
        }
    }
    runs
}
