//! GlusterFS. Another host is another process. Faults are for the whole volume,
//! so that whoever makes one is alone with it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use archipelago::backend::conformance;
use archipelago::backend::gluster::{Gluster, GlusterOptions};
use archipelago::backend::{Backend, BackendExt, DataPath};
use archipelago::catalog::volume as names;
use archipelago::clock;
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::ErrorKind;

const BLOCK: u64 = 64 << 10;

static ALONE: RwLock<()> = RwLock::new(());

/// Others use the volume too, but nobody makes a fault.
pub fn peace() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn alone() -> RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A folder that nobody has used. `None` without a server.
pub fn fresh() -> Option<GlusterOptions> {
    let told = |name: &str| std::env::var(format!("ARCHIPELAGO_TEST_GLUSTER_{name}")).ok();
    let Some(server) = told("SERVER") else {
        eprintln!("passed over: ARCHIPELAGO_TEST_GLUSTER_SERVER names no server");
        return None;
    };
    Some(GlusterOptions {
        servers: vec![(server, 24007)],
        volume: told("VOLUME").unwrap_or("archipelago".into()),
        folder: folder(),
        direct: false,
        mode: 0o660,
        group: None,
        log: told("LOG").map(Into::into),
    })
}

pub fn folder() -> String {
    format!("/tests/{}", clock::random_id().unwrap())
}

pub fn make(options: &GlusterOptions) -> Arc<Gluster> {
    Arc::new(Gluster::create(options).unwrap())
}

pub fn open(options: &GlusterOptions) -> Arc<Gluster> {
    Arc::new(Gluster::open(options).unwrap())
}

pub fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(9), index }
}

#[test]
fn it_keeps_the_contract() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    conformance::run(|| make(&GlusterOptions { folder: folder(), ..options.clone() }) as Arc<dyn Backend>);
}

/// Past what the client keeps: another connection, with other settings, to the
/// same files.
#[test]
fn direct_or_not_it_is_the_same_store() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let kept = make(&options);
    let direct = open(&GlusterOptions { direct: true, ..options });
    assert!(!kept.capabilities().durable_on_ack && !direct.capabilities().durable_on_ack);
    kept.create_sparse(&block(1), BLOCK).unwrap();
    for round in 1..20_u8 {
        direct.write_at(&block(1), 4096, &[round; 512]).unwrap();
        assert_eq!(kept.read_all(&block(1), BLOCK).unwrap()[4096..4608], [round; 512]);
        kept.write_at(&block(1), 8192, &[round; 512]).unwrap();
        kept.sync(&[block(1)]).unwrap();
        assert_eq!(direct.read_all(&block(1), BLOCK).unwrap()[8192..8704], [round; 512]);
    }
}

/// What one process has made another sees at once, and under the name that it
/// has now. Two connections of one process are as good.
#[test]
fn two_clients_see_the_same() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let one = make(&options);
    let others = GlusterOptions { direct: true, ..options };
    let two = open(&others);
    let segment = ObjectName::Segment { volume: Id(5), number: 3 };
    for (round, name) in [&segment, &block(1), &ObjectName::Store].into_iter().cycle().take(9).enumerate() {
        let data = vec![round as u8 + 1; 3000];
        one.create(name, &data).unwrap();
        assert_eq!(two.stat(name).unwrap().bytes, 3000);
        assert_eq!(open(&others).read_all(name, 1 << 20).unwrap(), data);
        assert!(two.create(name, b"other").unwrap_err().is(ErrorKind::Exists));
        assert_eq!(two.list_all(prefix::ALL).unwrap(), std::slice::from_ref(name));
        one.delete(name).unwrap();
        assert!(two.stat(name).unwrap_err().is(ErrorKind::NotFound));
        assert!(two.list_all(prefix::ALL).unwrap().is_empty());
    }
}

/// Answers come on any thread, also on the one that asks: a caller that asks for
/// more when it is told must neither run deep nor stop.
#[test]
fn whoever_is_told_may_ask_for_more() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let store = make(&options);
    store.create_sparse(&block(1), BLOCK).unwrap();
    store.write_at(&block(1), 0, b"open").unwrap();
    let path = store.data_path().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    fn next(path: &Arc<dyn DataPath>, left: u64, sender: &std::sync::mpsc::Sender<bool>) {
        let (again, told) = (Arc::clone(path), sender.clone());
        let submitter = std::thread::current().id();
        let done = Box::new(move |result: archipelago::Result<()>| {
            assert_ne!(std::thread::current().id(), submitter, "on the thread that asked");
            result.unwrap();
            match left {
                0 => told.send(true).unwrap(),
                _ => drop(std::thread::spawn(move || next(&again, left - 1, &told)).join()),
            }
        });
        let (at, buf) = (left % 16 * 4096, IoBuf::alloc(4096));
        match left % 2 {
            0 => path.submit_write(&block(1), at, buf, done),
            _ => path.submit_read(&block(1), at, buf, done),
        }
    }
    next(&path, 50, &sender);
    assert!(receiver.recv_timeout(Duration::from_secs(60)).expect("an answer"));
}

/// Whoever has the store may let it go while requests are under way.
#[test]
fn a_store_may_go_before_its_answers() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    drop(make(&options));
    for index in 0..20 {
        let store = open(&options);
        store.create_sparse(&block(index), BLOCK).unwrap();
        let path = store.data_path().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        for at in 0..16 {
            let sender = sender.clone();
            let done = Box::new(move |result: archipelago::Result<()>| sender.send(result.is_ok()).unwrap());
            let buf = IoBuf::alloc(4096);
            match at % 2 {
                0 => path.submit_write(&block(index), at * 4096, buf, done),
                _ => path.submit_read(&block(index), at * 4096, buf, done),
            }
        }
        drop((store, path, sender));
        assert_eq!(receiver.iter().filter(|is_ok| *is_ok).count(), 16);
    }
}

#[test]
fn what_is_not_there_is_told_in_a_sentence() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let error = Gluster::open(&options).unwrap_err();
    assert!(error.is(ErrorKind::NotFound) && error.full().contains(&options.folder), "{}", error.full());
    let error = Gluster::open(&GlusterOptions { volume: "none".into(), ..options.clone() }).unwrap_err();
    assert!(error.full().contains("gluster volume") && error.full().contains("none"), "{}", error.full());
    let nobody = vec![("127.0.0.1".to_owned(), 1)];
    let error = Gluster::open(&GlusterOptions { servers: nobody.clone(), ..options.clone() }).unwrap_err();
    assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
    assert!(error.full().contains("does a server answer"), "{}", error.full());
    // One of several is enough.
    let servers = nobody.into_iter().chain(options.servers.clone()).collect();
    make(&GlusterOptions { servers, ..options });
}

/// The program of another host: it does what it is told by `ROLE`.
#[test]
#[ignore = "a part of other tests"]
fn other_host() {
    let Ok(folder) = std::env::var("FOLDER") else { return };
    let options = GlusterOptions { folder, ..fresh().unwrap() };
    let store = Store::open("test", open(&options)).unwrap();
    let opened = Volume::open(&store, &VolumeName::new("v").unwrap(), &OpenOptions::default());
    let is_contender = std::env::var("ROLE").unwrap() == "contender";
    let volume = match opened {
        Err(error) if is_contender => {
            assert!(error.is(ErrorKind::Busy), "{}", error.full());
            return eprintln!("refused");
        }
        other => other.unwrap(),
    };
    eprintln!("opened");
    if is_contender {
        std::thread::sleep(Duration::from_secs(8));
        return volume.close().unwrap();
    }
    for number in 1_u64.. {
        volume.write_at(4096, &number.to_le_bytes().repeat(64)).unwrap();
        volume.flush().unwrap();
        eprintln!("flushed {number}");
    }
}

struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Other {
    fn start(options: &GlusterOptions, role: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gluster::other_host", "--ignored", "--nocapture"])
            .env("FOLDER", &options.folder)
            .env("ROLE", role)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Other { child, lines }
    }

    /// The next line that begins with one of these.
    fn next(&mut self, words: &[&str]) -> String {
        let is_one = |line: &String| words.iter().any(|word| line.starts_with(word));
        self.lines.by_ref().map(Result::unwrap).find(is_one).expect("the other host says so")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn volume_in(options: &GlusterOptions) -> (Store, VolumeName) {
    let store = Store::init("test", make(options), BLOCK).unwrap();
    let name = VolumeName::new("v").unwrap();
    names::create(&store, &name, 16 * BLOCK, BLOCK).unwrap();
    (store, name)
}

#[test]
fn of_several_processes_one_has_the_volume() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    drop(volume_in(&options));
    for _ in 0..2 {
        let mut all: Vec<Other> = (0..4).map(|_| Other::start(&options, "contender")).collect();
        let mut said: Vec<String> = all.iter_mut().map(|other| other.next(&["opened", "refused"])).collect();
        said.sort();
        assert_eq!(said, ["opened", "refused", "refused", "refused"]);
        // Whoever has it gives it back.
        all.iter_mut().for_each(|other| assert!(other.child.wait().unwrap().success()));
    }
}

/// Its process is gone from this host: nobody waits for its lease.
#[test]
fn a_killed_holders_volume_is_opened_at_once() {
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let (store, name) = volume_in(&options);
    for round in 0..3 {
        let mut other = Other::start(&options, "holder");
        for _ in 0..20 {
            other.next(&["flushed"]);
        }
        let busy = Volume::open(&store, &name, &OpenOptions::default()).unwrap_err();
        assert!(busy.is(ErrorKind::Busy) && busy.to_string().contains("process"), "{busy}");
        other.child.kill().unwrap();
        other.child.wait().unwrap();
        // The last line may be torn.
        let number = |line: String| line.strip_prefix("flushed ")?.trim().parse().ok();
        let last: u64 = other.lines.by_ref().map_while(Result::ok).filter_map(number).max().unwrap_or(20);
        let began = Instant::now();
        let volume = Volume::open(&store, &name, &OpenOptions::default()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let mut data = [0; 512];
        volume.read_at(4096, &mut data).unwrap();
        let there = u64::from_le_bytes(data[..8].try_into().unwrap());
        assert!(there >= last, "round {round}: {there} is there, {last} was flushed");
        assert_eq!(data.to_vec(), there.to_le_bytes().repeat(64));
        volume.close().unwrap();
    }
}

/// Two that make the same directory at once may each get one of their own on
/// some of the bricks (seen with 10.3, on a busy machine): what is in it is lost
/// to all, and its bricks never heal. So none is made when a volume's first
/// objects are.
#[test]
fn first_objects_may_be_made_at_once() {
    const THREADS: u64 = 4;
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let store = make(&options);
    for volume in (1..=100).map(Id) {
        let barrier = std::sync::Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for number in 0..THREADS {
                let (store, barrier) = (&store, &barrier);
                scope.spawn(move || {
                    let name = SnapshotName::new("a.b-c").unwrap();
                    barrier.wait();
                    for name in [
                        ObjectName::Head { volume, number },
                        ObjectName::Lease { volume, number },
                        ObjectName::Snapshot { volume, name, number },
                    ] {
                        store.create(&name, &[number as u8; 100]).unwrap();
                        assert_eq!(store.read_all(&name, BLOCK).unwrap(), [number as u8; 100]);
                    }
                });
            }
        });
        let heads = store.list_all(&prefix::heads_of(volume)).unwrap();
        assert_eq!(heads.len() as u64, THREADS, "{volume}");
    }
}

/// What this side keeps of writes is not on the bricks yet, which are asked where
/// data are.
#[test]
fn what_was_just_written_is_found_as_data() {
    const GRANULES: u64 = BLOCK / 4096;
    let _peace = peace();
    let Some(options) = fresh() else { return };
    let store = make(&options);
    for index in 0..100 {
        let name = block(index);
        store.create_sparse(&name, BLOCK).unwrap();
        let written: Vec<u64> = (0..GRANULES).filter(|at| (at * 7 + index) % 3 == 0).collect();
        for at in &written {
            store.write_at(&name, at * 4096, &[7; 4096]).unwrap();
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some((begin, end)) = store.next_data(&name, from).unwrap() {
            let end = end.min(BLOCK);
            found.extend(begin / 4096..end.div_ceil(4096));
            from = end;
            if from >= BLOCK {
                break;
            }
        }
        let missing: Vec<&u64> = written.iter().filter(|at| !found.contains(at)).collect();
        assert!(missing.is_empty(), "in block {index}: {missing:?} of {written:?}");
    }
}
