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

/// Keeps `depth` requests in flight; returns requests per second.
fn drive(depth: usize, write: bool, submit: Submit<'_>) -> f64 {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let mut random = 88_172_645_463_325_252_u64;
    let bufs: Vec<IoBuf> = (0..depth).map(|n| IoBuf::copy_of(&[n as u8; REQUEST_BYTES as usize])).collect();
    let mut start = |slot: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % (BLOCKS * BLOCK_BYTES / REQUEST_BYTES) * REQUEST_BYTES;
        let sender = sender.clone();
        submit(write, offset, bufs[slot].clone(), Box::new(move || sender.send(slot).unwrap()));
    };
    (0..depth).for_each(&mut start);
    let begun = Instant::now();
    let mut done = 0_u64;
    while begun.elapsed().as_secs_f64() < SECONDS {
        start(receiver.recv().unwrap());
        done += 1;
    }
    for _ in 0..depth {
        receiver.recv().unwrap();
    }
    done as f64 / begun.elapsed().as_secs_f64()
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
            rates.sort_by(f64::total_cmp);
            rates[1]
        });
        let way = if direct { "direct" } else { "buffered" };
        let verb = if write { "write" } else { "read" };
        eprintln!("{way} {verb} QD{depth}: dir {dir:.0}/s, one file {raw:.0}/s, ratio {:.2}", dir / raw);
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
