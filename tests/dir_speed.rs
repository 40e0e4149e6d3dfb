//! What can go wrong: a directory of block files turns out to be much slower
//! than one big file, and nobody notices.
//!
//! How this shows that it is not: 4 KiB requests at random places of 256
//! blocks through `dir`'s data path, beside the same requests on one file of
//! the same size through the same kind of ring, and what was written is read
//! back. Numbers, not a verdict: `cargo test --release --test dir_speed --
//! --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Instant;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::{Backend, DataPath};
use archipelago::name::{Id, ObjectName};
use archipelago::sys::iobuf::IoBuf;
use archipelago::sys::uring::{Operation, Ring};

const BLOCKS: u64 = 256;
const BLOCK_BYTES: u64 = 4 << 20;
const REQUEST_BYTES: u64 = 4096;
const SECONDS: f64 = 1.5;

type Submit<'a> = &'a dyn Fn(bool, u64, IoBuf, Box<dyn FnOnce() + Send>);

/// Of all threads of this process, in seconds. Unlike the rate it hardly
/// depends on what else the machine is doing.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Keeps `depth` requests in flight; returns requests per second and
/// microseconds of CPU per request.
fn drive(depth: usize, write: bool, submit: Submit<'_>) -> (f64, f64) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let mut random = 88_172_645_463_325_252_u64;
    let buf = |n| IoBuf::copy_of(&[n as u8; REQUEST_BYTES as usize]);
    let bufs: Vec<IoBuf> = (0..depth).map(buf).collect();
    let mut start = |slot: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % (BLOCKS * BLOCK_BYTES / REQUEST_BYTES) * REQUEST_BYTES;
        let sender = sender.clone();
        submit(write, offset, bufs[slot].clone(), Box::new(move || sender.send(slot).unwrap()));
    };
    (0..depth).for_each(&mut start);
    let (begun, cpu_begun_s) = (Instant::now(), cpu_s());
    let mut done = 0_u64;
    while begun.elapsed().as_secs_f64() < SECONDS {
        start(receiver.recv().unwrap());
        done += 1;
    }
    for _ in 0..depth {
        receiver.recv().unwrap();
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    (rate, (cpu_s() - cpu_begun_s) * 1e6 / done as f64)
}

fn through_dir(
    path: &Arc<dyn DataPath>,
    write: bool,
    offset: u64,
    buf: IoBuf,
    done: Box<dyn FnOnce() + Send>,
) {
    let name = ObjectName::Block { epoch: Id(1), index: offset / BLOCK_BYTES };
    let done = Box::new(move |result: archipelago::Result<()>| {
        result.unwrap();
        done();
    });
    match write {
        true => path.submit_write(&name, offset % BLOCK_BYTES, buf, done),
        false => path.submit_read(&name, offset % BLOCK_BYTES, buf, done),
    }
}

fn open_raw(path: &std::path::Path, direct: bool) -> Arc<OwnedFd> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap();
    Arc::new(file.into())
}

fn compare(direct: bool) {
    let near = env!("CARGO_TARGET_TMPDIR");
    let directory = tempfile::Builder::new().prefix("speed-").tempdir_in(near).unwrap();
    let options = DirOptions { direct, open_files_max: 512, ..DirOptions::default() };
    let dir = Dir::create(&directory.path().join("store"), options).unwrap();
    let raw_path = directory.path().join("raw");
    let block = vec![0x5a; BLOCK_BYTES as usize];
    let mut raw = std::fs::File::create(&raw_path).unwrap();
    for index in 0..BLOCKS {
        dir.create(&ObjectName::Block { epoch: Id(1), index }, &block).unwrap();
        std::io::Write::write_all(&mut raw, &block).unwrap();
    }
    raw.sync_all().unwrap();
    let data = dir.data_path().unwrap();
    let raw = open_raw(&raw_path, direct);
    let ring = Arc::new(Ring::new().unwrap());
    let reaper = Arc::clone(&ring);
    let reaper = std::thread::spawn(move || reaper.run());
    let on_raw = |write, offset_bytes, buf: IoBuf, done: Box<dyn FnOnce() + Send>| {
        let complete = Box::new(move |result: std::io::Result<usize>| {
            assert_eq!(result.unwrap(), REQUEST_BYTES as usize);
            done();
        });
        ring.submit(Operation { write, file: Arc::clone(&raw), offset_bytes, buf, complete }).unwrap();
    };
    let on_dir = |write, offset, buf, done| through_dir(&data, write, offset, buf, done);
    for (write, depth) in [(false, 1), (false, 32), (true, 1), (true, 32)] {
        // In turns, as other work on the machine disturbs both.
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            rates[0].push(drive(depth, write, &on_dir));
            rates[1].push(drive(depth, write, &on_raw));
        }
        let [dir, raw] = rates.map(|mut rates| {
            rates.sort_by(|a, b| a.0.total_cmp(&b.0));
            rates[1]
        });
        let way = if direct { "direct" } else { "buffered" };
        let verb = if write { "write" } else { "read" };
        eprintln!(
            "{way} {verb} QD{depth}: dir {:.0}/s {:.1} us, one file {:.0}/s {:.1} us, ratio {:.2}",
            dir.0,
            dir.1,
            raw.0,
            raw.1,
            dir.0 / raw.0
        );
    }
    ring.stop();
    reaper.join().unwrap();
}

#[test]
#[ignore = "measures for half a minute"]
fn dir_beside_one_big_file() {
    compare(true);
    compare(false);
}
