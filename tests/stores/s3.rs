//! S3, as Ceph's gateway speaks it, and a proxy before it for what goes wrong on
//! the way: nothing is lost, nothing is wrong, nothing is made twice, and an
//! outcome that nobody knows is told as such.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use archipelago::backend::conformance;
use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::s3::{S3Options, S3, TRY_FOR};
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, volume as names};
use archipelago::clock;
use archipelago::config::{self, S3Key};
use archipelago::maintain::gc;
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::{open as stores, Store};
use archipelago::volume::{OpenOptions, Volume};
use archipelago::ErrorKind;

use super::proxy::{Fate, Proxy};

const BLOCK: u64 = 64 << 10;

/// A prefix that nobody has used. `None` without a server.
pub fn fresh() -> Option<S3Options> {
    let told = |name: &str| std::env::var(format!("ARCHIPELAGO_TEST_S3_{name}")).ok();
    let Some(endpoint) = told("ENDPOINT") else {
        eprintln!("passed over: ARCHIPELAGO_TEST_S3_ENDPOINT names no server");
        return None;
    };
    Some(S3Options {
        bucket: told("BUCKET").expect("a bucket"),
        prefix: format!("test/{}", clock::random_id().unwrap()),
        endpoint,
        region: "us-east-1".into(),
        path_style: true,
        key: S3Key {
            access_key: told("ACCESS_KEY").expect("a key"),
            secret_key: told("SECRET_KEY").expect("a secret"),
            session_token: None,
        },
        try_for: TRY_FOR,
    })
}

pub fn open(options: &S3Options) -> Arc<S3> {
    Arc::new(S3::open(options.clone()).unwrap())
}

/// The same store, seen directly and through a proxy.
fn behind_proxy(options: &S3Options) -> (Proxy, Arc<S3>, Arc<S3>) {
    let proxy = Proxy::before(&options.endpoint);
    let through = S3Options { endpoint: proxy.endpoint.clone(), ..options.clone() };
    let store = open(&through);
    (proxy, store, open(options))
}

fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(9), index }
}

/// A name that comes back.
fn volume(number: u64) -> ObjectName {
    ObjectName::Volume(VolumeName::new(&number.to_string()).unwrap())
}

fn content(seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at * 31 + seed * 131) as u8).collect()
}

#[test]
fn it_keeps_the_contract() {
    let Some(options) = fresh() else { return };
    conformance::run(|| {
        let prefix = format!("test/{}", clock::random_id().unwrap());
        open(&S3Options { prefix, ..options.clone() }) as Arc<dyn Backend>
    });
}

/// At the root of a bucket there may be anything; a prefix is not a part of
/// another one's name.
#[test]
fn what_is_not_ours_is_passed_over() {
    let Some(options) = fresh() else { return };
    let (store, longer) =
        (open(&options), open(&S3Options { prefix: format!("{}x", options.prefix), ..options.clone() }));
    let within = open(&S3Options { prefix: format!("{}/within", options.prefix), ..options.clone() });
    for index in 0..5 {
        for other in [&longer, &within] {
            other.create(&block(index), b"other").unwrap();
        }
    }
    store.create(&block(7), b"mine").unwrap();
    assert_eq!(store.list_all(prefix::ALL).unwrap(), [block(7)]);
    assert_eq!(longer.list_all(prefix::ALL).unwrap().len(), 5);
}

/// More than a page of the server's, and pages of all sizes.
#[test]
fn long_lists_are_whole() {
    let Some(options) = fresh() else { return };
    let store = open(&options);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || (0..140).for_each(|n| store.create(&block(n * 8 + thread), b"x").unwrap()));
        }
    });
    let all: Vec<ObjectName> = (0..1120).map(block).collect();
    assert_eq!(store.list_all(prefix::BLOCKS).unwrap(), all);
    assert_eq!(store.list(prefix::BLOCKS, Some(&block(99)), 1005).unwrap(), all[100..1105]);
}

#[test]
fn of_sixteen_creators_one_wins() {
    let Some(options) = fresh() else { return };
    let clients: Vec<Arc<S3>> = (0..16).map(|_| open(&options)).collect();
    for round in 0..50 {
        let (barrier, winners) = (Barrier::new(16), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for (number, client) in clients.iter().enumerate() {
                let (barrier, winners) = (&barrier, &winners);
                scope.spawn(move || {
                    barrier.wait();
                    // Half of them write the same.
                    let data = content(number as u64 / 2, 5000);
                    match client.create(&block(round), &data) {
                        Ok(()) => {
                            winners.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(client.read_all(&block(round), 1 << 20).unwrap(), data);
                        }
                        Err(error) => assert!(error.is(ErrorKind::Exists), "{}", error.full()),
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 1, "round {round}");
    }
}

#[test]
fn a_server_that_ignores_conditions_is_refused() {
    let Some(options) = fresh() else { return };
    let proxy = Proxy::before(&options.endpoint);
    proxy.judge(|line| if line.starts_with("PUT") { Fate::Said200 } else { Fate::Pass });
    let error = S3::open(S3Options { endpoint: proxy.endpoint.clone(), ..options }).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("ignores 'If-None-Match"), "{error}");
}

/// Each thing that can happen to a request, to each request of each operation.
#[test]
fn what_goes_wrong_once_is_not_seen() {
    let Some(options) = fresh() else { return };
    let (proxy, store, direct) = behind_proxy(&options);
    let fates = [
        Fate::CutBefore,
        Fate::CutAfter,
        Fate::CutInside,
        Fate::Busy,
        Fate::FailedAfter,
        Fate::Twice,
        Fate::Late,
    ];
    for (number, fate) in (0..).zip(fates) {
        let (name, data) = (block(number), content(number, 100_000));
        proxy.once("PUT", fate);
        store.create(&name, &data).unwrap();
        proxy.once("PUT", fate);
        let error = store.create(&name, b"another").unwrap_err();
        assert!(error.is(ErrorKind::Exists), "{fate:?}: {}", error.full());
        assert!(direct.read_all(&name, 1 << 20).unwrap() == data, "{fate:?}");
        proxy.once("GET", fate);
        let mut part = vec![0; 10_000];
        assert_eq!(store.read_at(&name, 50_000, &mut part).unwrap(), part.len());
        assert!(part == data[50_000..60_000], "{fate:?}");
        proxy.once("HEAD", fate);
        assert_eq!(store.stat(&name).unwrap().bytes, 100_000);
        proxy.once("list-type", fate);
        assert_eq!(store.list_all(prefix::ALL).unwrap(), std::slice::from_ref(&name));
        proxy.once("DELETE", fate);
        store.delete(&name).unwrap();
        assert!(direct.stat(&name).unwrap_err().is(ErrorKind::NotFound), "{fate:?}");
    }
    assert_eq!(proxy.struck(), fates.len() * 6);
}

/// An answer is lost, and so is the one to the question whose object it is: half
/// of that would look like another's.
#[test]
fn who_has_made_it_is_told_so() {
    let Some(options) = fresh() else { return };
    let (proxy, store, _) = behind_proxy(&options);
    for (number, fate) in (0..).zip([Fate::CutInside, Fate::CutBefore, Fate::Busy, Fate::FailedAfter]) {
        let (mut put, mut head) = (Some(Fate::CutAfter), Some(fate));
        proxy.judge(move |line| match line.split(' ').next() {
            Some("PUT") => put.take().unwrap_or(Fate::Pass),
            Some("HEAD") => head.take().unwrap_or(Fate::Pass),
            _ => Fate::Pass,
        });
        store.create(&block(number), b"mine").unwrap();
        assert_eq!(proxy.struck(), 2 * (number as usize + 1));
    }
}

/// A bit that changes on the way is noticed where all of an object is read, and
/// it is read again; so is one that has changed in the server, for good.
#[test]
fn damage_is_told_and_not_read() {
    let Some(options) = fresh() else { return };
    let (proxy, _, _) = behind_proxy(&options);
    let patience = Duration::from_millis(500);
    let through = S3Options { endpoint: proxy.endpoint.clone(), try_for: patience, ..options.clone() };
    let store = open(&through);
    let data = content(1, 300_000);
    store.create(&block(1), &data).unwrap();
    proxy.once("GET", Fate::Damaged);
    assert!(store.read_all(&block(1), 1 << 20).unwrap() == data);
    assert_eq!(proxy.struck(), 1);
    proxy.judge(|line| if line.starts_with("GET") { Fate::Damaged } else { Fate::Pass });
    let error = store.read_all(&block(1), 1 << 20).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt), "{}", error.full());
}

/// Nobody is told that something was not done when it may have been.
#[test]
fn an_outcome_that_nobody_knows_is_unknown() {
    let Some(options) = fresh() else { return };
    let (proxy, _, direct) = behind_proxy(&options);
    let patience = Duration::from_millis(500);
    let through = S3Options { endpoint: proxy.endpoint.clone(), try_for: patience, ..options.clone() };
    let store = open(&through);
    let only = |method: &'static str, fate: Fate, rest: Fate| {
        proxy.judge(move |line| if line.starts_with(method) { fate } else { rest });
    };
    // It was done, and nothing more is heard of the server.
    only("PUT", Fate::CutAfter, Fate::CutBefore);
    assert!(store.create(&block(1), b"data").unwrap_err().is(ErrorKind::Unknown));
    assert_eq!(direct.read_all(&block(1), 100).unwrap(), b"data");
    // It was not, which nobody can tell.
    only("PUT", Fate::CutBefore, Fate::CutBefore);
    assert!(store.create(&block(2), b"data").unwrap_err().is(ErrorKind::Unknown));
    // It looks, and does not find it.
    only("PUT", Fate::CutBefore, Fate::Pass);
    assert!(store.create(&block(2), b"data").unwrap_err().is(ErrorKind::Unknown));
    let mut is_gone = false;
    proxy.judge(move |line| match line.starts_with("DELETE") {
        _ if is_gone => Fate::CutBefore,
        true => {
            is_gone = true;
            Fate::CutAfter
        }
        false => Fate::Pass,
    });
    assert!(store.delete(&block(1)).unwrap_err().is(ErrorKind::Unknown));
    assert!(direct.stat(&block(1)).unwrap_err().is(ErrorKind::NotFound));
    // It has said that it has not begun, or was never asked.
    only("PUT", Fate::Busy, Fate::Pass);
    let error = store.create(&block(3), b"data").unwrap_err();
    assert!(error.is(ErrorKind::Unavailable) && error.to_string().contains("SlowDown"), "{error}");
    only("GET", Fate::CutInside, Fate::Pass);
    assert!(store.read_at(&block(2), 0, &mut [0; 4]).unwrap_err().is(ErrorKind::Unavailable));
    // It has carried that out, on a connection that was kept, and is gone.
    proxy.judge(|line| if line.starts_with("PUT") { Fate::Last } else { Fate::Pass });
    store.stat(&block(2)).unwrap_err();
    assert!(store.create(&block(4), b"data").unwrap_err().is(ErrorKind::Unknown));
    assert_eq!(direct.read_all(&block(4), 100).unwrap(), b"data");
    // Nobody is there to ask.
    let began = Instant::now();
    let error = store.create(&block(3), b"data").unwrap_err();
    assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(S3::open(through).unwrap_err().is(ErrorKind::Unavailable));
    assert!(direct.stat(&block(3)).unwrap_err().is(ErrorKind::NotFound));
}

/// Everything at once, with several clients that want the same names, again and
/// again, and a fifth of all requests struck.
#[test]
fn a_storm_loses_nothing_and_makes_nothing_up() {
    let Some(options) = fresh() else { return };
    let (proxy, store, direct) = behind_proxy(&options);
    let mut state = 7_u64;
    proxy.judge(move |line| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fates =
            [Fate::CutBefore, Fate::CutAfter, Fate::CutInside, Fate::Busy, Fate::FailedAfter, Fate::Twice];
        match state >> 33 {
            // Only on a connection that was kept, which none is for that.
            random if random % 5 == 0 && line.starts_with("DELETE") => fates[(random / 5 % 5) as usize],
            random if random % 5 == 0 => fates[(random / 5 % 6) as usize],
            _ => Fate::Pass,
        }
    });
    let made: Vec<BTreeMap<u64, Vec<u8>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12_u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let mut mine = BTreeMap::new();
                    // Three at a time want the same names.
                    for name in (0..40).map(|n| thread / 3 * 1000 + n) {
                        let data = content(thread * 1000 + name, 2000 + name as usize);
                        match store.create(&volume(name), &data) {
                            Ok(()) => drop(mine.insert(name, data)),
                            Err(error) => assert!(error.is(ErrorKind::Exists), "{}", error.full()),
                        }
                        if let (Some(data), 0) = (mine.get(&name), name % 7) {
                            assert!(store.read_all(&volume(name), 1 << 20).unwrap() == *data);
                            store.delete(&volume(name)).unwrap();
                            mine.remove(&name);
                        }
                    }
                    mine
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(proxy.struck() > 100, "{}", proxy.struck());
    let mut expected = BTreeMap::new();
    for (name, data) in made.into_iter().flatten() {
        assert!(expected.insert(name, data).is_none(), "{name} was made by two");
    }
    for name in direct.list_all(prefix::VOLUMES).unwrap() {
        let index = name.to_string().strip_prefix("volume/").unwrap().parse().unwrap();
        let data = expected.remove(&index).expect("made by somebody who was told so");
        assert!(direct.read_all(&name, 1 << 20).unwrap() == data, "{name}");
    }
    assert!(expected.is_empty(), "lost: {:?}", expected.keys());
}

/// As users write it, and the mistakes that they make.
#[test]
fn a_store_is_opened_as_it_is_configured() {
    let Some(options) = fresh() else { return };
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let write_keys = |secret: &str| {
        let access = &options.key.access_key;
        let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
        std::fs::write(&keys, text).unwrap();
    };
    let log = folder.path().join("log");
    let config = |bucket: &str, endpoint: &str| {
        let text = format!(
            "[stores.main]\nurl = 's3://{bucket}/{}'\ns3_endpoint = '{endpoint}'\ns3_credentials = '{}'\n\
             log = 'fast'\n[stores.fast]\nurl = 'dir:{}'\n",
            options.prefix,
            keys.display(),
            log.display()
        );
        let path = folder.path().join("archipelago.toml");
        std::fs::write(&path, text).unwrap();
        config::load(Some(&path)).unwrap()
    };
    let (bucket, endpoint) = (&options.bucket, &options.endpoint);
    let good = config(bucket, endpoint);
    write_keys("wrong");
    let error = stores::open_configured(&good, None, false, false).unwrap_err();
    assert!(error.is(ErrorKind::Denied) && error.full().contains("s3_credentials"), "{}", error.full());
    write_keys(&options.key.secret_key);
    let error = stores::open_configured(&good, None, false, false).unwrap_err();
    assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("archipelago init"), "{error}");
    let path = folder.path().join("alone.toml");
    let alone = std::fs::read_to_string(folder.path().join("archipelago.toml")).unwrap();
    std::fs::write(&path, alone.replace("log = 'fast'", "")).unwrap();
    let error = stores::init_store(&config::load(Some(&path)).unwrap(), None, None).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("with 'log'"), "{error}");
    let made = stores::init_store(&good, None, None).unwrap();
    let found = stores::open_configured(&good, None, false, false).unwrap();
    assert_eq!(made.id, found.id);
    assert!(Arc::ptr_eq(made.control(), found.control()), "disks of one process share the connections");
    let error = stores::open_configured(&config("no-such-bucket", endpoint), None, false, false).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.full().contains("'no-such-bucket'"), "{}", error.full());
    assert!(!format!("{options:?} {found:?}").contains(&options.key.secret_key));
}

/// A volume whose blocks are in the bucket and whose log is on a disk, against an
/// array: written, discarded, snapshotted, settled, closed and left as by a kill,
/// while one request of ten to the server is struck.
#[test]
fn volumes_keep_what_they_are_told() {
    let Some(options) = fresh() else { return };
    let (proxy, front, _) = behind_proxy(&options);
    let mut state = 11_u64;
    proxy.judge(move |_| {
        let fates = [Fate::CutBefore, Fate::CutAfter, Fate::CutInside, Fate::Busy, Fate::FailedAfter];
        match random(&mut state, 50) {
            number if number < 5 => fates[number as usize],
            _ => Fate::Pass,
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Dir::create(&folder.path().join("log"), DirOptions::default()).unwrap());
    let store = Store::init_combined("test", front, log, BLOCK).unwrap();
    let name = VolumeName::new("v").unwrap();
    let id = names::create(&store, &name, 24 * BLOCK, BLOCK).unwrap();
    // Of another host, which cannot be asked whether it lives.
    let identity = Identity { host: "beta".into(), boot_id: "another".into(), ..Identity::of_this_process() };
    let lease_options = lease::Options { identity, ..lease::Options::default() };
    let open_options = OpenOptions { lease: lease_options, ..OpenOptions::default() };
    let open = || Volume::open(&store, &name, &open_options).unwrap();
    let (mut volume, mut model) = (open(), vec![0_u8; 24 * BLOCK as usize]);
    let mut snapshots: Vec<(SnapshotName, Vec<u8>)> = Vec::new();
    let mut seed = 3_u64;
    for step in 0..250_u64 {
        let fill = (step % 251 + 1) as u8;
        let at = random(&mut seed, 24 * 16) * 4096;
        let (at, bytes) = match random(&mut seed, 4) {
            0 => (at / BLOCK * BLOCK, BLOCK),
            1 => (at, 4096),
            _ => (at + 512, 512 * (1 + random(&mut seed, 40))),
        };
        let range = at as usize..((at + bytes) as usize).min(model.len());
        match random(&mut seed, 20) {
            0..=11 => {
                volume.write_at(at, &vec![fill; range.len()]).unwrap();
                model[range].fill(fill);
            }
            12..=13 => {
                volume.write_zeroes(at, range.len() as u64).unwrap();
                model[range].fill(0);
            }
            14 => volume.settle_all().unwrap(),
            15 if snapshots.len() < 6 => {
                let snapshot = SnapshotName::new(&format!("s{step}")).unwrap();
                volume.snapshot(&snapshot).unwrap();
                snapshots.push((snapshot, model.clone()));
            }
            16 => volume.flush().unwrap(),
            17 => {
                volume.close().unwrap();
                volume = open();
            }
            18 => {
                volume.flush().unwrap();
                volume.abandon();
                assert!(Volume::open(&store, &name, &open_options).unwrap_err().is(ErrorKind::Busy));
                lease::break_lease(&store, id, "v", "the test").unwrap();
                volume = open();
            }
            _ => assert!(content_of(&volume) == model, "step {step}"),
        }
    }
    volume.publish_all().unwrap();
    assert!(content_of(&volume) == model);
    for (snapshot, expected) in snapshots {
        let opened = Volume::open_snapshot(&store, &name, &snapshot).unwrap();
        assert!(content_of(&opened) == expected, "{snapshot}");
    }
    for _ in 0..2 {
        gc::run(&store, &gc::GcOptions::default(), &mut |_| {}).unwrap();
    }
    assert!(content_of(&volume) == model, "after gc");
    volume.close().unwrap();
    assert!(proxy.struck() > 50, "{}", proxy.struck());
}

fn content_of(volume: &Volume) -> Vec<u8> {
    let mut data = vec![0xee; volume.size_bytes() as usize];
    volume.read_at(0, &mut data).unwrap();
    data
}

/// Writes of a guest go at the log's speed, and settling has many blocks under way.
#[test]
fn writes_do_not_wait_for_the_bucket() {
    const LARGE: u64 = 1 << 20;
    let Some(options) = fresh() else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Dir::create(&folder.path().join("log"), DirOptions::default()).unwrap());
    let proxy = Proxy::before(&options.endpoint);
    let front = open(&S3Options { endpoint: proxy.endpoint.clone(), ..options });
    let store = Store::init_combined("test", front, log, LARGE).unwrap();
    let name = VolumeName::new("v").unwrap();
    names::create(&store, &name, 64 * LARGE, LARGE).unwrap();
    let volume = Volume::open(&store, &name, &OpenOptions::default()).unwrap();
    proxy.judge(|line| if line.contains("/block/") { Fate::Late } else { Fate::Pass });
    let began = Instant::now();
    for index in 0..32 {
        volume.write_at(index * LARGE + 4096, &[7; 4096]).unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    volume.settle_all().unwrap();
    // One after the other they would take 6.4 s.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(proxy.struck(), 32);
    let data = content_of(&volume);
    assert!((0..32).all(|index| data[(index * LARGE) as usize + 4096] == 7));
    volume.close().unwrap();
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}
