//! What can go wrong: a read is told another content than the store's, is never
//! told at all, or waits because a disk fails or hangs that it could do without.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::Memory;
use crate::backend::Backend;
use crate::error::ErrorKind;

const BLOCK: u64 = 256 << 10;
const EPOCH: Id = Id(5);

struct Lab {
    place: tempfile::TempDir,
    store: Faulty,
    path: Arc<dyn DataPath>,
    data: Vec<u8>,
}

fn name() -> ObjectName {
    ObjectName::Block { epoch: EPOCH, index: 3 }
}

fn lab() -> Lab {
    let store = Faulty::with_data_path(Arc::new(Memory::new()));
    let data: Vec<u8> = (0..BLOCK as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.create(&name(), &data).unwrap();
    let path = store.data_path().unwrap();
    Lab { place: tempfile::tempdir().unwrap(), store, path, data }
}

impl Lab {
    fn options(&self) -> Options {
        Options { path: self.place.path().join("cache"), bytes_max: 64 << 20, group: None }
    }

    fn cache(&self) -> ReadCache {
        ReadCache::alone(&self.options(), Id(1))
    }

    fn wanted(offset_bytes: u64) -> Wanted {
        Wanted { name: name(), offset_bytes, block_bytes: BLOCK }
    }

    fn submit(&self, cache: &ReadCache, at: u64, bytes: usize) -> Receiver<(Result<()>, IoBuf)> {
        let (sender, receiver) = crossbeam_channel::bounded(2);
        let buf = IoBuf::alloc(bytes);
        let (told, here) = (buf.clone(), std::thread::current().id());
        let done = Box::new(move |result| {
            assert_ne!(std::thread::current().id(), here, "told on the submitting thread");
            sender.send((result, told)).unwrap();
        });
        cache.submit(&self.path, Lab::wanted(at), buf, done);
        receiver
    }

    fn check(&self, at: u64, bytes: usize, found: (Result<()>, IoBuf)) {
        found.0.unwrap();
        let mut data = vec![0; bytes];
        found.1.copy_to(0, &mut data);
        assert!(data == self.data[at as usize..at as usize + bytes], "wrong bytes at {at}");
    }

    /// Both ways.
    fn read(&self, cache: &ReadCache, at: u64, bytes: usize) {
        self.check(at, bytes, self.submit(cache, at, bytes).recv_timeout(Duration::from_secs(20)).unwrap());
        let mut data = vec![0; bytes];
        let read = |from: u64, whole: &mut [u8]| {
            assert_eq!(self.store.read_at(&name(), from, whole)?, whole.len());
            Ok(())
        };
        cache.read(&Lab::wanted(at), &mut data, read).unwrap();
        assert!(data == self.data[at as usize..at as usize + bytes], "wrong bytes at {at}");
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for share in std::fs::read_dir(self.options().path).into_iter().flatten().flatten() {
            for file in std::fs::read_dir(share.path()).into_iter().flatten().flatten() {
                found.extend((file.file_name().len() == 32).then(|| file.path()));
            }
        }
        found
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

#[test]
fn what_was_read_once_is_not_read_again_by_any_process() {
    let lab = lab();
    let cache = lab.cache();
    for at in (0..BLOCK).step_by(4096) {
        lab.read(&cache, at, 4096);
    }
    assert_eq!(lab.store.bytes(Method::Read), BLOCK, "each span once");
    cache.wait_filled();
    assert_eq!((count(&cache.counts().filled), lab.files().len()), (4, 4));
    lab.store.reset_counts();
    let other = lab.cache();
    for at in (0..BLOCK - 512).step_by(1536) {
        let bytes = (SPAN_BYTES - at % SPAN_BYTES).min(1536) as usize;
        lab.read(&cache, at, bytes);
        lab.read(&other, at, bytes);
    }
    assert_eq!(lab.store.calls(Method::Read), 0);
    // Another store's block of that name is another block.
    let foreign = ReadCache::alone(&lab.options(), Id(2));
    lab.read(&foreign, 0, 512);
    assert_eq!(lab.store.calls(Method::Read), 1);
}

#[test]
fn a_damaged_file_is_read_from_the_store_again() {
    let lab = lab();
    let cache = lab.cache();
    let path = {
        lab.read(&cache, 0, 512);
        cache.wait_filled();
        lab.files().pop().unwrap()
    };
    let sound = std::fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(487).chain([0, sound.len() - 1]) {
        let mut bad = sound.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        lab.read(&cache, (at as u64).saturating_sub(96) / 512 * 512, 512);
        cache.wait_filled();
        assert!(std::fs::read(&path).unwrap() == sound, "byte {at} is not mended");
    }
    assert!(count(&cache.counts().damaged) > 100);
}

#[test]
fn many_that_want_a_span_at_once_read_it_once() {
    let lab = lab();
    let cache = lab.cache();
    lab.store.inject(Rule::new(Fault::Delay(Duration::from_millis(200))).on(Method::Read));
    let all: Vec<_> = (0..16).map(|at| (at * 4096, lab.submit(&cache, at * 4096, 4096))).collect();
    for (at, one) in all {
        lab.check(at, 4096, one.recv_timeout(Duration::from_secs(20)).unwrap());
        assert!(one.try_recv().is_err(), "told twice");
    }
    assert_eq!(lab.store.calls(Method::Read), 1);
}

#[test]
fn an_error_of_the_store_is_told_to_all_and_not_kept() {
    let lab = lab();
    let cache = lab.cache();
    lab.store.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Read).times(u64::MAX));
    let all: Vec<_> = (0..4).map(|at| lab.submit(&cache, at * 4096, 4096)).collect();
    for one in all {
        let (result, _) = one.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(result.unwrap_err().is(ErrorKind::Unavailable));
    }
    lab.store.clear();
    lab.read(&cache, 0, 4096);
}

#[test]
fn a_folder_that_cannot_be_used_is_done_without() {
    let lab = lab();
    let path = lab.options().path;
    // What stands in its way: a file; a place that is not there; no trust.
    std::fs::write(&path, b"a file").unwrap();
    let cache = lab.cache();
    (0..10).for_each(|_| lab.read(&cache, 4096, 4096));
    assert_eq!((count(&cache.counts().hits), count(&cache.counts().misses)), (0, 0));
    std::fs::remove_file(&path).unwrap();
    let away = Options { path: path.join("not/there"), ..lab.options() };
    lab.read(&ReadCache::alone(&away, Id(1)), 4096, 4096);
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    lab.read(&lab.cache(), 4096, 4096);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "it is used");
    // It goes while it is used.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let cache = lab.cache();
    lab.read(&cache, 4096, 4096);
    cache.wait_filled();
    assert_eq!(lab.files().len(), 1);
    std::fs::remove_dir_all(&path).unwrap();
    (0..10).for_each(|at| lab.read(&cache, at * 4096, 4096));
    lab.read(&cache, SPAN_BYTES, 4096);
    cache.wait_filled();
    assert!(count(&cache.counts().hits) > 0);
}

#[test]
fn what_cannot_be_written_is_still_looked_for() {
    let lab = lab();
    let cache = lab.cache();
    lab.read(&cache, 0, 4096);
    cache.wait_filled();
    // Where the other spans would be are files.
    for share in 0..64 {
        let share = lab.options().path.join(format!("{share:02x}"));
        if !share.exists() {
            std::fs::write(share, b"").unwrap();
        }
    }
    let hits = count(&cache.counts().hits);
    (0..BLOCK).step_by(4096).for_each(|at| lab.read(&cache, at, 4096));
    cache.wait_filled();
    (0..SPAN_BYTES).step_by(4096).for_each(|at| lab.read(&cache, at, 4096));
    assert!(count(&cache.counts().hits) >= hits + 16);
}

#[test]
fn a_disk_that_hangs_holds_nobody_up_for_long() {
    let lab = lab();
    let cache = lab.cache();
    lab.read(&cache, 0, 4096);
    cache.wait_filled();
    let hang = cache.shared.hang();
    let began = Instant::now();
    let all: Vec<_> = (0..40).map(|at| (at * 4096, lab.submit(&cache, at * 4096, 4096))).collect();
    for (at, one) in all {
        lab.check(at, 4096, one.recv_timeout(Duration::from_secs(20)).unwrap());
    }
    let first = began.elapsed();
    (0..20).for_each(|at| lab.read(&cache, at * 4096, 4096));
    let next = began.elapsed() - first;
    assert!(first < Duration::from_secs(10) && next < Duration::from_secs(1), "{first:?}, then {next:?}");
    drop(hang);
    lab.read(&cache, 0, 4096);
}

#[test]
fn two_processes_that_fill_and_look_at_once_are_told_the_truth() {
    let lab = lab();
    let small = Options { bytes_max: 64 * 3 * 70_000, ..lab.options() };
    let blocks = 200u64;
    let of = |index: u64| ObjectName::Block { epoch: EPOCH, index: 100 + index };
    let byte = |index: u64, at: u64| (index * 31 + at / 512) as u8;
    for index in 0..blocks {
        let data: Vec<u8> = (0..BLOCK).map(|at| byte(index, at)).collect();
        lab.store.create(&of(index), &data).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            // Two in each process.
            let (lab, small) = (&lab, &small);
            scope.spawn(move || {
                let cache = ReadCache::alone(small, Id(1));
                let mut random = thread + 1;
                for _ in 0..3000 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let (index, at) = ((random >> 33) % blocks, (random >> 40) % (BLOCK / 512) * 512);
                    let wanted = Wanted { name: of(index), offset_bytes: at, block_bytes: BLOCK };
                    let mut data = [0; 512];
                    let read = |from: u64, whole: &mut [u8]| {
                        lab.store.read_at(&of(index), from, whole).map(drop)
                    };
                    cache.read(&wanted, &mut data, read).unwrap();
                    assert!(data.iter().all(|found| *found == byte(index, at)), "block {index} at {at}");
                }
                cache.wait_filled();
                assert!(count(&cache.counts().hits) > 0);
                assert_eq!(count(&cache.counts().damaged), 0);
            });
        }
    });
    let taken: u64 = lab.files().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(taken <= small.bytes_max, "{taken}");
}
