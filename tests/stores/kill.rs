//! What can go wrong: a process is killed while it writes, flushes and takes
//! snapshots, through the client's own library and its threads; and what it had
//! flushed is not there, or half of it, or the store is not sound.
//!
//! How this proves that it cannot: a process says what it is about to do, and
//! when it was told that it is done. It is killed again and again, also while it
//! opens the volume. The next one says what it finds in each sector, which must
//! be what the last flush made it or a write after that, and goes on.
//!
//! `ARCHIPELAGO_KILLS=200 ARCHIPELAGO_KILL_SEED=7` kills more often and otherwise.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use archipelago::catalog::volume as names;
use archipelago::clock;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::maintain::{check, gc};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::testkit::{sectors, Content, Rng, SECTOR};
use archipelago::volume::{Mode, OpenOptions, Volume};

use super::place::{Kind, Place};

const BLOCK: u64 = 64 << 10;
const SECTORS: usize = 16 * BLOCK as usize / SECTOR;
const SNAPSHOTS_MAX: usize = 4;
const KILLS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn volume() -> VolumeName {
    VolumeName::new("v").unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn options() -> OpenOptions {
    OpenOptions { log_limit_bytes: 1 << 20, ..OpenOptions::default() }
}

/// In one piece, so that whoever reads it has a line or none.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The process that is killed.
struct Writer {
    device: Device,
    rng: Rng,
    content: Content,
    snapshots: Vec<String>,
    tag: u64,
}

impl Writer {
    fn ask(&self, asked: Vec<(u64, Operation)>) {
        let (sender, receiver) = sync_channel(asked.len());
        let count = asked.len();
        for (at, (offset_bytes, operation)) in asked.into_iter().enumerate() {
            let sender = sender.clone();
            let done = Box::new(move |result: archipelago::Result<()>| sender.send((at, result)).unwrap());
            self.device.submit(Request { offset_bytes, operation }, done);
        }
        for _ in 0..count {
            let (at, result) = receiver.recv_timeout(PATIENCE).expect("an answer");
            result.unwrap();
            say(&format!("done {at}"));
        }
    }

    /// Several at once that do not meet.
    fn write(&mut self) {
        let mut asked: Vec<(usize, usize, u64)> = Vec::new();
        for _ in 0..1 + self.rng.below(8) {
            let (first, count) = self.content.range(&mut self.rng, BLOCK);
            if asked.iter().all(|(from, other, _)| first + count <= *from || from + other <= first) {
                self.tag += 1;
                asked.push((first, count, if self.rng.one_in(6) { 0 } else { self.tag }));
            }
        }
        let words: Vec<String> =
            asked.iter().map(|(first, count, tag)| format!("{first} {count} {tag}")).collect();
        say(&format!("write {}", words.join(" ")));
        let fua = self.rng.one_in(10);
        let request = |(first, count, tag): &(usize, usize, u64)| {
            let operation = match tag {
                0 => Operation::Zero { bytes: (count * SECTOR) as u64, fua },
                _ => Operation::Write { buf: IoBuf::copy_of(&sectors(*tag, *count)), fua },
            };
            ((first * SECTOR) as u64, operation)
        };
        self.ask(asked.iter().map(request).collect());
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            let name = self.snapshots.remove(0);
            say(&format!("remove {name}"));
            return self.device.remove_snapshot(&snap(&name)).unwrap();
        }
        self.tag += 1;
        let name = format!("s{}", self.tag);
        self.device.snapshot(&snap(&name)).unwrap();
        say(&format!("taken {name}"));
        self.snapshots.push(name);
    }

    fn run(mut self) {
        let buf = IoBuf::alloc(SECTORS * SECTOR);
        let (sender, receiver) = sync_channel(1);
        let done = Box::new(move |result| sender.send(result).unwrap());
        let operation = Operation::Read { buf: buf.clone() };
        self.device.submit(Request { offset_bytes: 0, operation }, done);
        receiver.recv_timeout(PATIENCE).expect("an answer").unwrap();
        let mut data = vec![0; SECTORS * SECTOR];
        buf.copy_to(0, &mut data);
        let tags = data.chunks_exact(SECTOR).map(|sector| {
            let tag = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(sector == sectors(tag, 1), "a torn sector");
            tag.to_string()
        });
        say(&format!("found {}", tags.collect::<Vec<_>>().join(" ")));
        loop {
            match self.rng.below(100) {
                0..=69 => self.write(),
                70..=91 => {
                    self.ask(vec![(0, Operation::Flush)]);
                    say("flushed");
                }
                _ => self.snapshot(),
            }
        }
    }
}

#[test]
#[ignore = "a part of other tests"]
fn a_process_that_is_killed() {
    let Ok(kind) = std::env::var("KILL_KIND") else { return };
    let told = |name: &str| std::env::var(name).unwrap();
    let kind = [Kind::Rados, Kind::Gluster, Kind::S3].into_iter().find(|one| format!("{one:?}") == kind);
    let mut place = Place::of_another(kind.unwrap(), told("KILL_NAME"), Path::new(&told("KILL_LOG")));
    let store = place.open();
    let open = options();
    let options =
        DeviceOptions { volume: volume(), snapshot: None, open, active: Mode::Writable, no_flush: false };
    let device = Device::open(store, options).unwrap_or_else(|error| panic!("{}", error.full()));
    let snapshots = device.snapshots().unwrap().into_iter().map(|listed| listed.name.to_string()).collect();
    let round: u64 = told("KILL_ROUND").parse().unwrap();
    let rng = Rng(told("KILL_SEED").parse::<u64>().unwrap() + round);
    Writer { device, rng, content: Content::zeroes(SECTORS), snapshots, tag: round << 32 }.run();
}

/// What the writers have said so far comes to.
struct Ledger {
    content: Content,
    snapshots: BTreeMap<String, Content>,
    /// First sector, count and tag of what is asked for, and not done yet.
    asked: BTreeMap<usize, (usize, usize, u64)>,
    flushes: u64,
    openings: u64,
}

impl Ledger {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        match words.next() {
            Some("found") => {
                let tags: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
                assert_eq!(tags.len(), SECTORS);
                let data: Vec<u8> = tags.into_iter().flat_map(|tag| sectors(tag, 1)).collect();
                self.content.check(&data, 0, &format!("opening {}", self.openings));
                self.content.settle_on(&data);
                self.openings += 1;
            }
            Some("write") => {
                let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
                let asked = numbers.chunks_exact(3).map(|one| (one[0] as usize, one[1] as usize, one[2]));
                self.asked = asked.enumerate().collect();
            }
            Some("done") => {
                // A flush is not in the list.
                let at = words.next().unwrap().parse().unwrap();
                if let Some((first, count, tag)) = self.asked.remove(&at) {
                    self.content.tried(first, count, tag, true);
                }
            }
            Some("flushed") => {
                self.content.flushed();
                self.flushes += 1;
            }
            Some("taken") => {
                self.content.flushed();
                self.snapshots.insert(words.next().unwrap().to_owned(), self.content.clone());
            }
            Some("remove") => drop(self.snapshots.remove(words.next().unwrap())),
            // Of the test's runner, or words of a panic, which the next opening tells.
            _ => eprintln!("  the writer: {line}"),
        }
    }

    fn killed(&mut self) {
        for (_, (first, count, tag)) in std::mem::take(&mut self.asked) {
            self.content.tried(first, count, tag, false);
        }
        self.content.cut_off();
    }
}

fn start(place: &Place, seed: u64, round: u64) -> (Child, BufReader<ChildStderr>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::a_process_that_is_killed", "--ignored", "--nocapture"])
        .env("KILL_KIND", format!("{:?}", place.kind))
        .env("KILL_NAME", &place.name)
        .env("KILL_LOG", &place.log)
        .env("KILL_SEED", seed.to_string())
        .env("KILL_ROUND", round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap());
    (child, lines)
}

/// One process, killed some time after it began, or after it opened the volume.
fn one_round(place: &Place, ledger: &mut Ledger, rng: &mut Rng, seed: u64, round: u64) {
    let (mut child, mut lines) = start(place, seed, round);
    let while_opening = round % 4 == 3;
    // On bricks each step takes longer.
    let slowness = if place.kind == Kind::Gluster { 3 } else { 1 };
    let most = if while_opening { 400 } else { 900 * slowness };
    let time = Duration::from_millis(rng.below(most) + 20);
    let pid = child.id().to_string();
    let kill = move |time| {
        std::thread::sleep(time);
        assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    };
    let start_killer = || {
        let kill = kill.clone();
        std::thread::spawn(move || kill(time))
    };
    let mut killer = while_opening.then(start_killer);
    let (began, mut line) = (Instant::now(), String::new());
    while lines.read_line(&mut line).unwrap_or(0) > 0 && line.ends_with('\n') {
        let text = line.trim_end();
        ledger.hear(text);
        if text.starts_with("found") && killer.is_none() {
            killer = Some(start_killer());
        }
        line.clear();
    }
    let status = child.wait().unwrap();
    let killer = killer.unwrap_or_else(|| panic!("round {round}: it ended by itself: {status}"));
    killer.join().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(9), "round {round}: it ended by itself: {status}");
    assert!(began.elapsed() < PATIENCE, "round {round} took {:?}", began.elapsed());
    ledger.killed();
}

fn verify(store: &Store, ledger: &mut Ledger) {
    let opened = Volume::open(store, &volume(), &options()).unwrap();
    ledger.content.check_all(&opened, "at the end");
    opened.publish_all().unwrap();
    for (name, content) in &ledger.snapshots {
        let snapshot = Volume::open_snapshot(store, &volume(), &snap(name)).unwrap();
        content.check_all(&snapshot, &format!("snapshot {name}"));
    }
    opened.close().unwrap();
    let sound = |when: &str| {
        let report = check::run(store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{when}: {:?}", report.problems);
    };
    sound("at the end");
    // Elsewhere it waits for a minute, in which listings of other clients come up.
    if store.list_lag_s() > 0 {
        return;
    }
    gc::run(store, &gc::GcOptions::default(), &mut |_| {}).unwrap();
    sound("after gc");
    for (name, content) in &ledger.snapshots {
        let snapshot = Volume::open_snapshot(store, &volume(), &snap(name)).unwrap();
        content.check_all(&snapshot, &format!("snapshot {name} after gc"));
    }
}

fn kill_again_and_again(kind: Kind) {
    let Some(mut place) = Place::fresh(kind) else { return };
    let told = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = told("ARCHIPELAGO_KILLS").unwrap_or(KILLS);
    let drawn = clock::random_id().unwrap().0 as u64 % 1_000_000_000;
    let seed = told("ARCHIPELAGO_KILL_SEED").unwrap_or(drawn);
    eprintln!("{kind:?}: {kills} kills, ARCHIPELAGO_KILL_SEED={seed}");
    let began = Instant::now();
    let store = place.make(BLOCK);
    names::create(&store, &volume(), (SECTORS * SECTOR) as u64, BLOCK).unwrap();
    let mut ledger = Ledger {
        content: Content::zeroes(SECTORS),
        snapshots: BTreeMap::new(),
        asked: BTreeMap::new(),
        flushes: 0,
        openings: 0,
    };
    let mut rng = Rng(seed);
    for round in 0..kills {
        one_round(&place, &mut ledger, &mut rng, seed, round);
    }
    let enough = kills / 2;
    assert!(ledger.flushes >= enough && ledger.openings >= enough, "too little was done between the kills");
    verify(&store, &mut ledger);
    let (flushes, openings, snapshots) = (ledger.flushes, ledger.openings, ledger.snapshots.len());
    let took_s = began.elapsed().as_secs_f64();
    let between = format!("{openings} openings, {flushes} flushes, {snapshots} snapshots left");
    eprintln!("{kind:?}: {kills} kills, {between}, {took_s:.1} s");
}

#[test]
fn killed_again_and_again_on_rados() {
    kill_again_and_again(Kind::Rados);
}

#[test]
fn killed_again_and_again_on_gluster() {
    kill_again_and_again(Kind::Gluster);
}

#[test]
fn killed_again_and_again_on_s3() {
    kill_again_and_again(Kind::S3);
}
