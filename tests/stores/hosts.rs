//! What can go wrong: two hosts write to one volume, because both asked at the
//! same moment, or because one was taken for dead while it was only paused.
//!
//! How this proves that they do not: other hosts are processes with connections
//! of their own, and with identities that nobody here can judge. Several open one
//! volume at once, and say from when to when they had it: no two at a time. One
//! is stopped while it writes: nobody gets its volume without the operator's word
//! (on Ceph not before its lock has run out), and when it goes on it is told that
//! it has lost it, and nothing of what it does shows.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, volume as names};
use archipelago::name::VolumeName;
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::ErrorKind;

use super::place::{Kind, Place};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 8;
const DEADLINE: Duration = Duration::from_secs(2);

fn volume() -> VolumeName {
    VolumeName::new("v").unwrap()
}

fn of_host(host: &str) -> OpenOptions {
    let mut open = OpenOptions::default();
    open.lease.identity =
        Identity { host: host.into(), boot_id: host.into(), ..Identity::of_this_process() };
    open.lease.renew_every = Duration::from_millis(300);
    open.lease.deadline = DEADLINE;
    open
}

fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

/// The program of another host.
#[test]
#[ignore = "a part of other tests"]
fn another_host() {
    let Ok(kind) = std::env::var("HOST_KIND") else { return };
    let told = |name: &str| std::env::var(name).unwrap();
    let kind = [Kind::Rados, Kind::Gluster, Kind::S3].into_iter().find(|one| format!("{one:?}") == kind);
    let mut place = Place::of_another(kind.unwrap(), told("HOST_STORE"), Path::new(&told("HOST_LOG")));
    let (store, open) = (place.open(), of_host(&told("HOST_NAME")));
    match told("HOST_ROLE").as_str() {
        "writes" => write_until_it_ends(&store, &open),
        _ => have_it_for_a_moment(&store, &open),
    }
}

fn write_until_it_ends(store: &Store, open: &OpenOptions) {
    let held = Volume::open(store, &volume(), open).unwrap();
    for number in 1_u64.. {
        let block = number % BLOCKS;
        let data = number.to_le_bytes().repeat(512);
        let written = held.write_at(block * BLOCK, &data).and_then(|()| held.flush());
        match written {
            Ok(()) => say(&format!("flushed {number}")),
            Err(error) => return say(&format!("ended {:?} {}", error.kind(), error.full())),
        }
    }
}

fn have_it_for_a_moment(store: &Store, open: &OpenOptions) {
    say("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    for _ in 0..4 {
        match Volume::open(store, &volume(), open) {
            Ok(held) => {
                let from = now_us();
                std::thread::sleep(Duration::from_millis(50));
                let until = now_us();
                held.close().unwrap();
                say(&format!("had {from} {until}"));
            }
            Err(error) => assert!(error.is(ErrorKind::Busy), "{}", error.full()),
        }
    }
    say("over");
}

struct Host {
    child: Child,
    /// As soon as they are said.
    lines: Receiver<String>,
}

impl Host {
    fn start(place: &Place, role: &str, name: &str) -> Host {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hosts::another_host", "--ignored", "--nocapture"])
            .env("HOST_KIND", format!("{:?}", place.kind))
            .env("HOST_STORE", &place.name)
            .env("HOST_LOG", &place.log)
            .env("HOST_ROLE", role)
            .env("HOST_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            said.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Host { child, lines }
    }

    /// The rest of the next line that begins with one of these, and which.
    fn next(&mut self, words: &[&str]) -> (String, String) {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("it does not say any of {words:?}"));
            match words.iter().find(|word| line.starts_with(**word)) {
                Some(word) => return ((*word).to_owned(), line[word.len()..].trim().to_owned()),
                None => eprintln!("  another host: {}", line.trim_end()),
            }
        }
    }
}

fn signal(pid: u32, which: &str) {
    assert!(Command::new("kill").args([which, &pid.to_string()]).status().unwrap().success());
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn at_once(kind: Kind) {
    let Some(mut place) = Place::fresh(kind) else { return };
    let store = place.make(BLOCK);
    names::create(&store, &volume(), BLOCKS * BLOCK, BLOCK).unwrap();
    let mut hosts: Vec<Host> =
        (0..4).map(|number| Host::start(&place, "opens", &format!("host{number}"))).collect();
    hosts.iter_mut().for_each(|host| drop(host.next(&["ready"])));
    for host in &mut hosts {
        host.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
    let mut had: Vec<(u128, u128)> = Vec::new();
    for host in &mut hosts {
        loop {
            let (word, times) = host.next(&["had", "over"]);
            if word == "over" {
                break;
            }
            let times: Vec<u128> = times.split(' ').map(|time| time.parse().unwrap()).collect();
            had.push((times[0], times[1]));
        }
        assert!(host.child.wait().unwrap().success());
    }
    had.sort_unstable();
    eprintln!("{kind:?}: the volume was had {} times", had.len());
    assert!(!had.is_empty(), "nobody had it");
    for pair in had.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two had it: {pair:?}");
    }
}

/// Opens it when that is possible. `broken` is called when that took the word of
/// the operator.
fn take_over(store: &Store, broken: impl FnOnce()) -> Arc<Volume> {
    let fences = store.control().capabilities().fences;
    let began = Instant::now();
    let patience = if fences { Duration::from_secs(60) } else { DEADLINE + Duration::from_secs(2) };
    while began.elapsed() < patience {
        match Volume::open(store, &volume(), &OpenOptions::default()) {
            Ok(opened) => {
                assert!(fences, "taken from one that may live");
                assert!(began.elapsed() > Duration::from_secs(10), "taken after {:?}", began.elapsed());
                return opened;
            }
            Err(error) => assert!(error.is(ErrorKind::Busy), "{}", error.full()),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(!fences, "it is not given up");
    let id = names::lookup(store, &volume()).unwrap();
    lease::break_lease(store, id, "v", "the test").unwrap();
    broken();
    Volume::open(store, &volume(), &OpenOptions::default()).unwrap()
}

/// Bricks keep the locks of who is paused: in the midst of renewing its lease it
/// would keep everybody waiting until it goes on. It goes on, then, and is paused at
/// another moment.
fn pause(store: &Store, kind: Kind, pid: u32) {
    for _ in 0..10 {
        signal(pid, "-STOP");
        std::thread::sleep(Duration::from_millis(300));
        if kind != Kind::Gluster {
            return;
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = store.clone();
        let asking = std::thread::spawn(move || {
            let opened = Volume::open(&asked, &volume(), &OpenOptions::default());
            let is_refused = opened.is_err_and(|error| error.is(ErrorKind::Busy));
            sender.send(()).unwrap();
            assert!(is_refused, "who is paused has it");
        });
        let is_answered = receiver.recv_timeout(Duration::from_secs(5)).is_ok();
        if !is_answered {
            eprintln!("paused with locks of bricks: once more");
            signal(pid, "-CONT");
        }
        asking.join().unwrap();
        if is_answered {
            return;
        }
    }
    panic!("it has locks of bricks whenever it is paused");
}

fn paused(kind: Kind) {
    let Some(mut place) = Place::fresh(kind) else { return };
    let store = place.make(BLOCK);
    names::create(&store, &volume(), BLOCKS * BLOCK, BLOCK).unwrap();
    let mut other = Host::start(&place, "writes", "beta");
    let mut last = 0;
    while last < 30 {
        last = other.next(&["flushed"]).1.parse().unwrap();
    }
    pause(&store, kind, other.child.id());
    for line in other.lines.try_iter() {
        last = line.strip_prefix("flushed ").expect("a flush").parse().unwrap();
    }
    let pid = other.child.id();
    let opened = take_over(&store, || {
        // Bricks keep the locks of who is paused: who takes over waits until it goes
        // on, or its connection has ended.
        if kind == Kind::Gluster {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(3));
                signal(pid, "-CONT");
            });
        }
    });
    for number in last - (BLOCKS - 1)..=last {
        let mut data = [0; 4096];
        opened.read_at(number % BLOCKS * BLOCK, &mut data).unwrap();
        let there = u64::from_le_bytes(data[..8].try_into().unwrap());
        assert!(there >= number, "{number} was flushed, {there} is there");
        assert_eq!(data.to_vec(), there.to_le_bytes().repeat(512));
    }
    let own = vec![0xAA; (BLOCKS * BLOCK) as usize];
    opened.write_at(0, &own).unwrap();
    opened.flush().unwrap();
    signal(pid, "-CONT");
    let (mut word, mut said) = other.next(&["flushed", "ended"]);
    if word == "flushed" {
        // It had been told so, and was stopped before it could say it.
        (word, said) = other.next(&["flushed", "ended"]);
    }
    assert!(word == "ended" && said.contains("taken"), "{word} {said}");
    let mut data = vec![0; own.len()];
    opened.read_at(0, &mut data).unwrap();
    assert!(data == own, "what it wrote shows");
    opened.close().unwrap();
    let again = Volume::open(&store, &volume(), &OpenOptions::default()).unwrap();
    again.read_at(0, &mut data).unwrap();
    assert!(data == own, "what it wrote shows, opened again");
    again.close().unwrap();
}

#[test]
fn of_several_that_open_at_once_one_has_it_on_rados() {
    at_once(Kind::Rados);
}

#[test]
fn of_several_that_open_at_once_one_has_it_on_gluster() {
    at_once(Kind::Gluster);
}

#[test]
fn of_several_that_open_at_once_one_has_it_on_s3() {
    at_once(Kind::S3);
}

#[test]
fn who_was_paused_harms_nothing_on_rados() {
    paused(Kind::Rados);
}

#[test]
fn who_was_paused_harms_nothing_on_gluster() {
    paused(Kind::Gluster);
}

#[test]
fn who_was_paused_harms_nothing_on_s3() {
    paused(Kind::S3);
}
