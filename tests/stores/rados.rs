//! Ceph. Two clients are two connections, which two configurations give.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::conformance;
use archipelago::backend::rados::{Rados, RadosOptions};
use archipelago::backend::{Backend, BackendExt, LockMode};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, volume as names};
use archipelago::clock;
use archipelago::name::{prefix, Id, ObjectName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::sys::rados::Client;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::ErrorKind;

const BLOCK: u64 = 64 << 10;
const LOCK: ObjectName = ObjectName::Lease { volume: Id(1), number: 0 };

/// A namespace that nobody has used, through a connection that no other test
/// has: who is cut off is so with all of it. (The folder keeps the
/// configuration.) `None` without a cluster.
pub fn fresh() -> Option<(tempfile::TempDir, RadosOptions)> {
    let Some(conf) = std::env::var_os("ARCHIPELAGO_TEST_CEPH_CONF") else {
        eprintln!("passed over: ARCHIPELAGO_TEST_CEPH_CONF names no cluster");
        return None;
    };
    let told = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    Some(elsewhere(&RadosOptions {
        pool: told("ARCHIPELAGO_TEST_CEPH_POOL", "archipelago"),
        namespace: clock::random_id().unwrap().to_string(),
        conf: Some(PathBuf::from(conf)),
        user: told("ARCHIPELAGO_TEST_CEPH_USER", "admin"),
    }))
}

pub fn open(options: &RadosOptions) -> Arc<Rados> {
    Arc::new(Rados::open(options).unwrap())
}

/// The same store through another connection, which counts as another host.
pub fn elsewhere(options: &RadosOptions) -> (tempfile::TempDir, RadosOptions) {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("ceph.conf");
    std::fs::copy(options.conf.as_ref().unwrap(), &conf).unwrap();
    (folder, RadosOptions { conf: Some(conf), ..options.clone() })
}

fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(9), index }
}

fn submit_write(store: &Rados, name: &ObjectName, data: &[u8]) -> archipelago::Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    store.data_path().unwrap().submit_write(name, 0, IoBuf::copy_of(data), done);
    receiver.recv_timeout(Duration::from_secs(60)).expect("an answer")
}

#[test]
fn it_keeps_the_contract() {
    let Some((_conf, options)) = fresh() else { return };
    conformance::run(|| {
        let namespace = clock::random_id().unwrap().to_string();
        open(&RadosOptions { namespace, ..options.clone() }) as Arc<dyn Backend>
    });
}

/// Whoever has the store may let it go while requests are under way: they are
/// answered, and the connection ends on a thread that may end it.
#[test]
fn a_store_may_go_before_its_answers() {
    let Some((_conf, options)) = fresh() else { return };
    for index in 0..30 {
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

/// What one client has made the other sees at once, and under the name that it
/// has now.
#[test]
fn two_clients_see_the_same() {
    let Some((_conf, options)) = fresh() else { return };
    let (_other_conf, others) = elsewhere(&options);
    let (one, two) = (open(&options), open(&others));
    let segment = ObjectName::Segment { volume: Id(5), number: 3 };
    for (round, name) in [&segment, &block(1), &ObjectName::Store].into_iter().cycle().take(9).enumerate() {
        let data = vec![round as u8 + 1; 3000];
        one.create(name, &data).unwrap();
        assert_eq!(two.read_all(name, 1 << 20).unwrap(), data);
        assert!(two.create(name, b"other").unwrap_err().is(ErrorKind::Exists));
        assert_eq!(two.list_all(prefix::ALL).unwrap(), std::slice::from_ref(name));
        one.delete(name).unwrap();
        assert!(two.read_all(name, 1 << 20).unwrap_err().is(ErrorKind::NotFound));
        assert!(two.list_all(prefix::ALL).unwrap().is_empty());
    }
}

#[test]
fn who_is_cut_off_reads_and_writes_no_more() {
    let Some((_conf, options)) = fresh() else { return };
    let (_other_conf, others) = elsewhere(&options);
    let (one, two) = (open(&options), open(&others));
    for index in 0..20 {
        one.create_sparse(&block(index), BLOCK).unwrap();
    }
    let held = one.lock(&LOCK, LockMode::Exclusive).unwrap();
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        assert!(two.lock(&LOCK, mode).err().unwrap().is(ErrorKind::Busy));
    }
    submit_write(&one, &block(1), b"before").unwrap();
    two.cut_off(&LOCK).unwrap();
    let taken = two.lock(&LOCK, LockMode::Exclusive).unwrap();
    for index in 0..20 {
        // Whoever has seen an object sees it as it is.
        two.read_all(&block(index), BLOCK).unwrap();
        assert!(one.write_at(&block(index), 0, b"late").unwrap_err().is(ErrorKind::Fenced));
        assert!(submit_write(&one, &block(index), b"late").unwrap_err().is(ErrorKind::Fenced));
        assert!(one.read_at(&block(index), 0, &mut [0; 4]).unwrap_err().is(ErrorKind::Fenced));
    }
    let error = one.create(&ObjectName::Store, b"late").unwrap_err();
    assert!(error.is(ErrorKind::Fenced) && error.full().contains("taken over"), "{}", error.full());
    assert_eq!(&two.read_all(&block(1), BLOCK).unwrap()[..6], b"before");
    // Nobody holds it: nobody is cut off.
    drop((held, taken));
    two.cut_off(&LOCK).unwrap();
    two.write_at(&block(1), 0, b"after").unwrap();
}

/// A lock that was given back leaves nothing, and nobody is cut off for it.
#[test]
fn a_lock_that_was_given_back_harms_nobody() {
    let Some((_conf, options)) = fresh() else { return };
    let (_other_conf, others) = elsewhere(&options);
    let (one, two) = (open(&options), open(&others));
    one.create_sparse(&block(0), BLOCK).unwrap();
    for _ in 0..3 {
        for (taker, other) in [(&one, &two), (&two, &one)] {
            drop(taker.lock(&LOCK, LockMode::Exclusive).unwrap());
            other.write_at(&block(0), 0, b"alive").unwrap();
        }
    }
}

/// One whose lock ran out while it was paused, and which another has taken since,
/// gives back what it has no more: the other's address stays.
#[test]
fn anothers_address_beside_a_lock_stays() {
    let Some((_conf, options)) = fresh() else { return };
    let (_other_conf, others) = elsewhere(&options);
    let client = Client::connect(others.conf.as_deref(), &format!("client.{}", others.user), &[]).unwrap();
    let pool = Arc::new(client).pool(&others.pool, &others.namespace).unwrap();
    let key = format!("holder {LOCK}");
    let beside = || (0..64).find_map(|at| {
        let object = format!("locks.{at:02x}");
        Some((pool.value(&object, &key).unwrap()?, object))
    });
    let one = open(&options);
    let held = one.lock(&LOCK, LockMode::Exclusive).unwrap();
    let (own, object) = beside().expect("an address beside the lock");
    pool.write(&object, &pool.op().set(&key, b"another's")).unwrap();
    drop(held);
    assert_eq!(beside(), Some((b"another's".to_vec(), object.clone())));
    pool.write(&object, &pool.op().set(&key, &own)).unwrap();
    drop(one.lock(&LOCK, LockMode::Exclusive).unwrap());
    assert_eq!(beside(), None);
}

/// The program of another host: it does what it is told by `ROLE`.
#[test]
#[ignore = "a part of other tests"]
fn other_host() {
    let Ok(namespace) = std::env::var("NAMESPACE") else { return };
    let (_conf, options) = fresh().unwrap();
    let options = RadosOptions { namespace, ..options };
    let backend = open(&options);
    let is_volume = std::env::var("ROLE").unwrap() == "volume";
    if is_volume {
        let store = Store::open("test", Arc::clone(&backend) as Arc<dyn Backend>).unwrap();
        let volume =
            Volume::open(&store, &VolumeName::new("v").unwrap(), &OpenOptions::default()).unwrap();
        for number in 1_u64.. {
            volume.write_at(4096, &number.to_le_bytes().repeat(64)).unwrap();
            volume.flush().unwrap();
            eprintln!("flushed {number}");
        }
    }
    let held = backend.lock(&LOCK, LockMode::Exclusive).unwrap();
    for number in 1_u64..20_000 {
        if let Err(error) = backend.write_at(&block(0), 0, &number.to_le_bytes()) {
            eprintln!("ended {:?}", error.kind());
            return;
        }
        eprintln!("written {number}");
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("ended by itself");
    drop(held);
}

struct Other {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Other {
    fn start(options: &RadosOptions, role: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rados::other_host", "--ignored", "--nocapture"])
            .env("NAMESPACE", &options.namespace)
            .env("ROLE", role)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Other { child, lines }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The number of the next line that begins so.
    fn next(&mut self, word: &str) -> String {
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.starts_with(word));
        line.expect("the other host says so")[word.len()..].trim().to_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// It is stopped in the middle of writing, for longer than its lock lasts, and
/// goes on when another has the lock.
#[test]
fn who_was_paused_too_long_writes_no_more() {
    let Some((_conf, options)) = fresh() else { return };
    let own = open(&options);
    own.create_sparse(&block(0), BLOCK).unwrap();
    let mut other = Other::start(&options, "lock");
    for _ in 0..50 {
        other.next("written");
    }
    other.signal("-STOP");
    let began = Instant::now();
    let held = loop {
        match own.lock(&LOCK, LockMode::Exclusive) {
            Ok(held) => break held,
            Err(error) => assert!(error.is(ErrorKind::Busy), "{}", error.full()),
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it is not given up");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
    own.write_at(&block(0), 0, b"mine now").unwrap();
    other.signal("-CONT");
    assert_eq!(other.next("ended"), "Fenced");
    assert_eq!(&own.read_all(&block(0), BLOCK).unwrap()[..8], b"mine now");
    drop(held);
}

/// Its process is gone from this host, or the operator says that its host is:
/// then nobody waits for its lock.
#[test]
fn a_killed_holders_volume_is_opened_at_once() {
    let Some((_conf, options)) = fresh() else { return };
    let store = Store::init("test", open(&options), BLOCK).unwrap();
    let name = VolumeName::new("v").unwrap();
    let id = names::create(&store, &name, 16 * BLOCK, BLOCK).unwrap();
    for round in 0..3 {
        let mut other = Other::start(&options, "volume");
        for _ in 0..20 {
            other.next("flushed");
        }
        let busy = Volume::open(&store, &name, &OpenOptions::default()).unwrap_err();
        assert!(busy.is(ErrorKind::Busy) && busy.to_string().contains("process"), "{busy}");
        assert!(lease::break_lease(&store, id, "v", "the test").unwrap_err().is(ErrorKind::Busy));
        other.signal("-KILL");
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

/// Its host cannot be asked, and the operator says that it is dead. It is not.
#[test]
fn a_lease_that_the_operator_breaks_cuts_its_holder_off() {
    let Some((_conf, options)) = fresh() else { return };
    let (_other_conf, others) = elsewhere(&options);
    let other = open(&others);
    let store = Store::init("test", open(&options), BLOCK).unwrap();
    let there = Store::open("test", Arc::clone(&other) as Arc<dyn Backend>).unwrap();
    let name = VolumeName::new("v").unwrap();
    let id = names::create(&store, &name, 16 * BLOCK, BLOCK).unwrap();
    let identity =
        Identity { host: "beta".into(), boot_id: "another".into(), ..Identity::of_this_process() };
    let theirs = lease::Options { identity, ..lease::Options::default() };
    let (held, _) = lease::take(&there, id, "v", &theirs).unwrap();
    other.create_sparse(&block(0), BLOCK).unwrap();
    let busy = Volume::open(&store, &name, &OpenOptions::default()).unwrap_err();
    assert!(busy.is(ErrorKind::Busy) && busy.to_string().contains("lease break"), "{busy}");
    lease::break_lease(&store, id, "v", "the test").unwrap();
    let volume = Volume::open(&store, &name, &OpenOptions::default()).unwrap();
    volume.write_at(0, b"mine").unwrap();
    store.blocks().read_all(&block(0), BLOCK).unwrap();
    assert!(other.write_at(&block(0), 0, b"late").unwrap_err().is(ErrorKind::Fenced));
    assert!(held.release(true).unwrap_err().is(ErrorKind::Fenced));
    volume.close().unwrap();
}
