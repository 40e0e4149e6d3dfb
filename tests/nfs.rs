//! Stores of type `dir` on NFS, on two mounts of the kernel's client that share
//! no cache, which are two clients.
//!
//! What can go wrong: the kernel's client does a little less than a file
//! system. It may show what it remembers and not what another client has
//! written; a file that somebody has removed is stale (ESTALE), or lives on
//! under a name of the client's own (`.nfs...`); a name is there before it is;
//! a lock is none; what was written is in no disk's but the client's memory
//! when the server dies.
//!
//! How this proves that it does no harm: the suite that every backend passes; a
//! volume that is handed to the other mount and back while everything about
//! it is remembered; two that open at once, a hundred times; a holder that was
//! given up and goes on; a server that is killed under a load that is verified.
//!
//! `tests/servers/nfs check` starts a Linux of its own with a server, and runs
//! this in there for each version of the protocol. It says where:
//! `ARCHIPELAGO_TEST_NFS` and `_TWO` are the mounts, `_EXPORT` is the folder on
//! the server's own file system, `_SERVER` a program that starts and kills it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use archipelago::backend::conformance;
use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::Backend;
use archipelago::catalog::{lease, volume as names};
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 16;

fn told(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} says nothing: tests/servers/nfs")))
}

/// A folder on both mounts, which no other test has.
struct Lab {
    name: String,
}

impl Lab {
    fn new(name: &str) -> Lab {
        let lab = Lab { name: name.to_owned() };
        let dir = empty_store(name, DirOptions::default());
        assert!(!dir.capabilities().fences, "locks of NFS prove nothing");
        Store::init("test", Arc::new(dir), BLOCK).unwrap();
        lab
    }

    fn one(&self) -> PathBuf {
        told("ARCHIPELAGO_TEST_NFS").join(&self.name)
    }

    fn two(&self) -> PathBuf {
        told("ARCHIPELAGO_TEST_NFS_TWO").join(&self.name)
    }

    fn store(path: &std::path::Path) -> Store {
        Store::open("test", Arc::new(Dir::open(path, DirOptions::default()).unwrap())).unwrap()
    }

    /// The store as both clients see it, with a volume.
    fn with_volume(name: &str) -> (Lab, Store, Store) {
        let lab = Lab::new(name);
        let (one, two) = (Lab::store(&lab.one()), Lab::store(&lab.two()));
        names::create(&one, &v(), BLOCKS * BLOCK, BLOCK).unwrap();
        (lab, one, two)
    }
}

fn v() -> VolumeName {
    VolumeName::new("v").unwrap()
}

fn device(store: &Store, mode: Mode, open: OpenOptions) -> archipelago::Result<Device> {
    let open = OpenOptions { mode, ..open };
    let active = Mode::Writable;
    let options = DeviceOptions { volume: v(), snapshot: None, open, active, no_flush: false };
    Device::open(store.clone(), options)
}

fn submit(device: &Device, offset_bytes: u64, operation: Operation) -> archipelago::Result<()> {
    let (sender, receiver) = mpsc::channel();
    device.submit(Request { offset_bytes, operation }, Box::new(move |result| drop(sender.send(result))));
    receiver.recv_timeout(Duration::from_secs(120)).expect("an answer within two minutes")
}

fn write(device: &Device, offset_bytes: u64, data: &[u8]) -> archipelago::Result<()> {
    submit(device, offset_bytes, Operation::Write { buf: IoBuf::copy_of(data), fua: false })
}

fn flush(device: &Device) -> archipelago::Result<()> {
    submit(device, 0, Operation::Flush)
}

fn read(device: &Device, offset_bytes: u64, bytes: usize) -> Vec<u8> {
    let buf = IoBuf::alloc(bytes);
    submit(device, offset_bytes, Operation::Read { buf: buf.clone() }).unwrap();
    let mut data = vec![0; bytes];
    buf.copy_to(0, &mut data);
    data
}

fn fill(device: &Device, tag: u8) {
    try_fill(device, tag).unwrap();
}

fn try_fill(device: &Device, tag: u8) -> archipelago::Result<()> {
    for block in 0..BLOCKS {
        write(device, block * BLOCK, &vec![tag; BLOCK as usize])?;
    }
    flush(device)
}

#[track_caller]
fn check_filled(device: &Device, tag: u8) {
    for block in 0..BLOCKS {
        let data = read(device, block * BLOCK, BLOCK as usize);
        let other = data.iter().position(|byte| *byte != tag);
        assert_eq!(other.map(|at| (block, at, data[at])), None, "all was to be {tag}");
    }
}

/// Its hundreds of directories are made by the server, which is quicker.
fn empty_store(name: &str, options: DirOptions) -> Dir {
    Dir::create(&told("ARCHIPELAGO_TEST_NFS_EXPORT").join(name), options.clone()).unwrap();
    Dir::open(&told("ARCHIPELAGO_TEST_NFS").join(name), options).unwrap()
}

fn keeps_the_contract(name: &str, options: &DirOptions) {
    let stores = AtomicU64::new(0);
    conformance::run(|| {
        let number = stores.fetch_add(1, Ordering::Relaxed);
        Arc::new(empty_store(&format!("{name}-{number}"), options.clone())) as Arc<dyn Backend>
    });
}

#[test]
fn it_keeps_the_contract() {
    keeps_the_contract("contract", &DirOptions::default());
}

#[test]
fn it_keeps_the_contract_past_the_page_cache() {
    keeps_the_contract("direct", &DirOptions { direct: true, ..DirOptions::default() });
}

/// As a migration and its way back: both sides have read everything, have the
/// files open and remember them, and each sees at once what the other wrote.
#[test]
fn what_another_client_wrote_is_seen_at_once() {
    let (_lab, one, two) = Lab::with_volume("hand-over");
    let here = device(&one, Mode::Writable, OpenOptions::default()).unwrap();
    fill(&here, 1);
    let there = device(&two, Mode::Inactive, OpenOptions::default()).unwrap();
    check_filled(&there, 1);
    for round in 0..4 {
        fill(&here, 10 + round);
        here.inactivate().unwrap();
        there.activate().unwrap();
        check_filled(&there, 10 + round);
        fill(&there, 20 + round);
        // Whatever it shows now: it remembers it.
        (0..BLOCKS).for_each(|block| drop(read(&here, block * BLOCK, BLOCK as usize)));
        there.inactivate().unwrap();
        here.activate().unwrap();
        check_filled(&here, 20 + round);
    }
    here.close().unwrap();
    there.close().unwrap();
}

/// Two clients open at once, again and again: one has it, and what it writes
/// is what the next one finds.
#[test]
fn two_clients_that_open_at_once_are_one_writer() {
    let (_lab, one, two) = Lab::with_volume("race");
    let mut last = 0;
    let (mut first, mut second, mut neither) = (0, 0, 0);
    for round in 1..=20u8 {
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let open = |store: &Store| {
            let (store, barrier) = (store.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                let opened = Volume::open(&store, &v(), &OpenOptions::default());
                barrier.wait();
                opened
            })
        };
        let (a, b) = (open(&one), open(&two));
        let opened = match (a.join().unwrap(), b.join().unwrap()) {
            (Ok(_), Ok(_)) => panic!("two writers in round {round}"),
            (Ok(opened), Err(error)) => (first += 1, check_busy(&error), opened).2,
            (Err(error), Ok(opened)) => (second += 1, check_busy(&error), opened).2,
            (Err(a), Err(b)) => {
                (check_busy(&a), check_busy(&b), neither += 1);
                continue;
            }
        };
        let mut found = [0; 4096];
        opened.read_at(0, &mut found).unwrap();
        assert_eq!(found, [last; 4096], "round {round}");
        opened.write_at(0, &[round; 4096]).unwrap();
        last = round;
        opened.close().unwrap();
    }
    println!("nfs: opened at once 20 times: {first} and {second} had it, {neither} times neither");
    assert!(first + second >= 5, "{first} {second}");
}

fn check_busy(error: &Error) {
    assert!(error.is(ErrorKind::Busy), "{}", error.full());
}

/// Short times, and a host that is not this one.
fn elsewhere(host: &str) -> OpenOptions {
    let mut open = OpenOptions::default();
    open.lease.identity.boot_id = host.to_owned();
    open.lease.identity.host = host.to_owned();
    open.lease.renew_every = Duration::from_millis(300);
    open.lease.deadline = Duration::from_secs(3);
    open
}

/// The operator's word, given while the holder lives: it finds out, its
/// flushes fail from then on, and what the next one writes stays.
#[test]
fn a_holder_that_was_given_up_harms_nothing() {
    let (_lab, one, two) = Lab::with_volume("given-up");
    let id = names::lookup(&one, &v()).unwrap();
    let old = device(&one, Mode::Writable, elsewhere("a")).unwrap();
    fill(&old, 1);
    let error = device(&two, Mode::Writable, elsewhere("b")).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains("lease break"), "{error}");
    lease::break_lease(&two, id, "v", "a test").unwrap();
    let mut new = device(&two, Mode::Writable, elsewhere("b")).unwrap();
    check_filled(&new, 1);
    let began = Instant::now();
    let mut tag = 100;
    while write(&old, 0, &vec![tag; BLOCK as usize]).and_then(|()| flush(&old)).is_ok() {
        tag += 1;
        assert!(began.elapsed() < Duration::from_secs(20), "the old holder's flushes succeed still");
        std::thread::sleep(Duration::from_millis(50));
    }
    let until = Instant::now() + Duration::from_secs(100);
    while let Err(error) = try_fill(&new, 2) {
        // The old one made a segment of the log before it found out, which a list
        // may not show for a minute.
        assert!(error.is(ErrorKind::Fenced) && Instant::now() < until, "{}", error.full());
        println!("nfs: who took over lost a number to who was given up, and opened again");
        drop(new.close());
        std::thread::sleep(Duration::from_secs(5));
        new = device(&two, Mode::Writable, elsewhere("b")).unwrap();
    }
    for block in 0..BLOCKS {
        drop(write(&old, block * BLOCK, &vec![3; BLOCK as usize]));
    }
    old.close().unwrap_err();
    check_filled(&new, 2);
    new.close().unwrap();
    let again = device(&one, Mode::Writable, OpenOptions::default()).unwrap();
    check_filled(&again, 2);
    again.close().unwrap();
}

/// Files that another client removed are gone, and are not stale for ever: a
/// read says that they are not there, or what was in them.
#[test]
fn what_another_client_removed_is_gone_and_not_stale() {
    let lab = Lab::new("stale");
    let (one, two) = (Lab::store(&lab.one()), Lab::store(&lab.two()));
    for index in 0..20 {
        let name = ObjectName::Block { epoch: Id(5), index };
        one.blocks().create(&name, &[7; 8192]).unwrap();
        let mut data = [0; 8192];
        one.blocks().read_at(&name, 0, &mut data).unwrap();
        two.blocks().delete(&name).unwrap();
        match one.blocks().read_at(&name, 4096, &mut data[..4096]) {
            Ok(_) => assert_eq!(data, [7; 8192]),
            Err(error) => assert!(error.is(ErrorKind::NotFound), "{}", error.full()),
        }
        match one.blocks().write_at(&name, 0, &[8; 4096]) {
            Ok(()) => {}
            Err(error) => assert!(error.is(ErrorKind::NotFound), "{}", error.full()),
        }
        drop(one.blocks().delete(&name));
        // Made anew by the other one: what is open still must not be written.
        two.blocks().create(&name, &[9; 8192]).unwrap();
        drop(one.blocks().write_at(&name, 0, &[8; 4096]));
        let mut there = [0; 4096];
        two.blocks().read_at(&name, 4096, &mut there).unwrap();
        assert_eq!(there, [9; 4096]);
    }
}

/// A removed file that is open somewhere on the mount gets a name of the
/// client's own: no list shows it, nothing trips over it.
#[test]
fn the_clients_own_names_are_passed_over() {
    let (lab, one, _) = Lab::with_volume("silly");
    let id = names::lookup(&one, &v()).unwrap();
    let lock = Volume::open(&one, &v(), &OpenOptions::default()).unwrap();
    lock.write_at(0, &[1; 4096]).unwrap();
    lock.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    lock.close().unwrap();
    let mut open = Vec::new();
    let mut gather = |folder: PathBuf| {
        for entry in std::fs::read_dir(folder).unwrap() {
            open.push(std::fs::File::open(entry.unwrap().path()).unwrap());
        }
    };
    for kind in ["lease", "head"] {
        gather(lab.one().join(kind).join(id.to_string()));
    }
    gather(lab.one().join("volume"));
    let epochs = one.control().list(&prefix::EPOCHS, None, 1000).unwrap();
    for name in &epochs {
        open.push(std::fs::File::open(lab.one().join(name.to_string())).unwrap());
        one.control().delete(name).unwrap();
    }
    names::remove(&one, &v(), true).unwrap();
    let silly = |folder: &str| {
        let entries = std::fs::read_dir(lab.one().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".nfs")).count()
    };
    assert_eq!((silly("volume"), silly("epoch")), (1, epochs.len()), "there are such names");
    assert!(names::list(&one).unwrap().is_empty());
    assert!(one.control().list(&prefix::EPOCHS, None, 1000).unwrap().is_empty());
    names::create(&one, &v(), BLOCK, BLOCK).unwrap();
    assert_eq!(names::list(&one).unwrap().len(), 1);
    drop(open);
    // The client removes them in its own time.
    let until = Instant::now() + Duration::from_secs(10);
    while (silly("volume"), silly("epoch")) != (0, 0) {
        assert!(Instant::now() < until, "they are left over");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const PLACES: u64 = 512;

/// What a guest knows of its disk: of each place, the last that was written.
struct Guest {
    device: Device,
    held: Vec<u64>,
    random: u64,
    longest: Duration,
}

impl Guest {
    fn next(&mut self) -> u64 {
        let mixed = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = mixed.wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn timed<T>(&mut self, act: impl FnOnce(&Device) -> T) -> T {
        let began = Instant::now();
        let done = act(&self.device);
        self.longest = self.longest.max(began.elapsed());
        done
    }

    fn write(&mut self, number: u64) {
        let place = self.next() % PLACES;
        let data = number.to_le_bytes().repeat(512);
        self.timed(|device| write(device, place * 2048, &data[..2048])).unwrap();
        self.held[place as usize] = number;
    }

    fn verify(&mut self, place: u64) {
        let data = self.timed(|device| read(device, place * 2048, 2048));
        let wanted = self.held[place as usize].to_le_bytes().repeat(256);
        assert!(data == wanted, "place {place} is not what was written last");
    }
}

/// The server is killed and comes back while a guest writes, flushes and
/// reads: it waits, and nothing is lost, and nothing is wrong.
#[test]
fn a_server_that_is_killed_under_load_costs_time_alone() {
    let mut obeying = Command::new(told("ARCHIPELAGO_TEST_NFS_SERVER"));
    let mut obeying = obeying.arg("obey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut orders = obeying.stdin.take().unwrap();
    let mut answers = BufReader::new(obeying.stdout.take().unwrap());
    let (_lab, one, two) = Lab::with_volume("restart");
    // It is away for longer than the lease's deadline, which is waited for too.
    let mut hasty = OpenOptions::default();
    hasty.lease.renew_every = Duration::from_millis(250);
    hasty.lease.deadline = Duration::from_secs(1);
    let opened = device(&one, Mode::Writable, hasty).unwrap();
    let held = vec![0; PLACES as usize];
    let mut guest = Guest { device: opened, held, random: 7, longest: Duration::ZERO };
    let ended = Arc::<AtomicBool>::default();
    let over = Arc::clone(&ended);
    let killer = std::thread::spawn(move || {
        let mut server = |word: &str| {
            writeln!(orders, "{word}").unwrap();
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), word);
        };
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(2));
            server("kill");
            std::thread::sleep(Duration::from_secs(1));
            server("start");
        }
        std::thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::SeqCst);
    });
    let mut number = 0;
    while !ended.load(Ordering::SeqCst) {
        number += 1;
        guest.write(number);
        if number % 16 == 0 {
            guest.timed(flush).unwrap();
        }
        let place = guest.next() % PLACES;
        guest.verify(place);
    }
    killer.join().unwrap();
    obeying.wait().unwrap();
    (0..PLACES).for_each(|place| guest.verify(place));
    let Guest { device: opened, held, longest, .. } = guest;
    opened.close().unwrap();
    let opened = device(&two, Mode::Writable, OpenOptions::default()).unwrap();
    for (place, number) in (0..).zip(&held) {
        assert!(read(&opened, place * 2048, 2048) == number.to_le_bytes().repeat(256), "place {place}");
    }
    opened.close().unwrap();
    let longest_s = longest.as_secs_f64();
    println!("nfs: {number} writes, the server killed twice, the longest wait {longest_s:.1} s");
    assert!(longest < Duration::from_secs(40), "{longest:?}");
    assert!(number > 30, "only {number} writes");
}
