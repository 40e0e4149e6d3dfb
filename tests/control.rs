//! What can go wrong: a command on a running machine's disk hurts the machine
//! or lies about it. It is refused although the process that holds the volume
//! could do it; it reaches a process that is not the holder, because a socket
//! was left behind, its path was squatted, or a number is in use again; who may
//! not ask is obeyed; a snapshot lacks what was written before, or is said to be
//! taken and is not there; somebody who says nothing, half of something,
//! nonsense or a gigabyte makes the machine wait or its memory grow; a request
//! meets a volume that is just being closed or handed over.
//!
//! How this proves that it does not: volumes are held by this process, or by
//! one that is killed, and the built command is run on them, as several users;
//! identities in leases are bent in each of their parts; a guest writes meanwhile
//! and its reads are compared; what each command says is compared with what is
//! there afterwards. tests/qemu/control.py does it with QEMU in its sandbox.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use archipelago::catalog::identity::Identity;
use archipelago::control::client::{reach, Connection};
use archipelago::control::jobs::{Arguments, Kind, Progress, Work};
use archipelago::control::place::Place;
use archipelago::control::server::Server;
use archipelago::control::words::{encode, read_frame, Hello, JobState, Reply, What};
use archipelago::control::Held;
use archipelago::io::{Device, DeviceOptions, Operation, Request};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::open::open_store;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::ErrorKind;
use serde_json::Value;

#[path = "control/askers.rs"]
mod askers;
#[path = "control/holders.rs"]
mod holders;
#[path = "control/jobs.rs"]
mod jobs;
#[path = "control/moving.rs"]
mod moving;
#[path = "control/syncing.rs"]
mod syncing;

const SIZE_BYTES: u64 = 8 << 20;

/// A store with a volume `v`, and a folder for sockets.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab::with("")
    }

    /// `more`: lines of the store's configuration.
    fn with(more: &str) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let open_to_all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open_to_all).unwrap();
        let lab = Lab { folder };
        let store = lab.path("store");
        let url = store.display();
        let config = format!("[stores.main]\nurl = \"dir:{url}\"\nblock_size = \"64K\"\n{more}");
        std::fs::write(lab.path("config.toml"), config).unwrap();
        lab.ok(&["init"]);
        lab.ok(&["create", "v", "8M"]);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(words).current_dir("/").env_clear();
        command.env("ARCHIPELAGO_CONFIG", self.path("config.toml"));
        command.stdin(Stdio::null());
        command
    }

    /// Exit code, and what it says on either way out.
    fn run(&self, words: &[&str]) -> (i32, String) {
        said(&mut self.command(words))
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let (code, said) = self.run(words);
        assert_eq!(code, 0, "{words:?}: {said}");
        said
    }

    #[track_caller]
    fn fails(&self, code: i32, words: &[&str], parts: &[&str]) {
        let (ended, said) = self.run(words);
        assert_eq!(ended, code, "{words:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{words:?}: no '{part}' in: {said}");
        }
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], words].concat())).unwrap()
    }

    fn store(&self) -> Store {
        open_store(None, Some(&self.path("config.toml")), false, false).unwrap()
    }

    fn server(&self, kinds: Vec<Arc<dyn Kind>>) -> Arc<Server> {
        let place = Place::make_in(&self.path("run"), 0o1777).unwrap();
        Arc::new(Server::start(place, kinds).unwrap())
    }

    fn hold(&self) -> Held {
        self.hold_as(Some(self.server(Vec::new())), |_| {})
    }

    fn hold_as(&self, server: Option<Arc<Server>>, bend: impl FnOnce(&mut DeviceOptions)) -> Held {
        let mut options = DeviceOptions {
            volume: VolumeName::new("v").unwrap(),
            snapshot: None,
            open: OpenOptions::default(),
            active: Mode::Writable,
            no_flush: false,
        };
        bend(&mut options);
        Held::open_with(self.store(), options, server).unwrap()
    }

    fn connect(&self) -> archipelago::Result<Option<Connection>> {
        let store = self.store();
        let id = archipelago::catalog::volume::lookup(&store, &VolumeName::new("v").unwrap()).unwrap();
        reach(&store, id, "v")
    }

    /// Where the sockets of living processes are.
    fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("run")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn snapshot_of(&self, name: &str) -> Arc<Volume> {
        let volume = VolumeName::new("v").unwrap();
        Volume::open_snapshot(&self.store(), &volume, &SnapshotName::new(name).unwrap()).unwrap()
    }
}

fn said(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
}

fn submit(device: &Device, offset_bytes: u64, operation: Operation) -> archipelago::Result<()> {
    let (sender, receiver) = mpsc::channel();
    device.submit(Request { offset_bytes, operation }, Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap()
}

fn write(device: &Device, offset_bytes: u64, data: &[u8]) {
    submit(device, offset_bytes, Operation::Write { buf: IoBuf::copy_of(data), fua: false }).unwrap();
}

/// Writes 1, 2, 3 ... into one 4 KiB place after another, round and round,
/// until it is told to end.
struct Guest {
    done: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

const PLACES: u64 = 256;

impl Guest {
    fn start(held: &Arc<Held>) -> Guest {
        let (done, end) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (held, told, ended) = (Arc::clone(held), Arc::clone(&done), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let mut number: u64 = 0;
            while !ended.load(Ordering::SeqCst) {
                number += 1;
                let data = number.to_le_bytes().repeat(512);
                write(held.device(), number % PLACES * 4096, &data);
                told.store(number, Ordering::SeqCst);
            }
        });
        Guest { done, end, thread }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// The last number of a content that is whole: each place has the one that it
/// had when the last was written.
fn last_number(volume: &Volume) -> u64 {
    let mut found = Vec::new();
    for place in 0..PLACES {
        let mut data = vec![0; 4096];
        volume.read_at(place * 4096, &mut data).unwrap();
        let number = u64::from_le_bytes(data[..8].try_into().unwrap());
        assert!(data.chunks(8).all(|word| word == number.to_le_bytes()), "place {place} is mixed");
        found.push(number);
    }
    let last = *found.iter().max().unwrap();
    for (place, number) in found.iter().enumerate() {
        let place = place as u64;
        let wanted = (0..PLACES).filter_map(|ago| last.checked_sub(ago)).find(|n| n % PLACES == place);
        assert_eq!(*number, wanted.unwrap_or(0), "place {place}, the last is {last}");
    }
    last
}

/// A snapshot by the command has every write that was done before, and of
/// those that came later a beginning; the guest goes on, and a clone can be
/// made at once.
#[test]
fn a_snapshot_of_a_running_disk_has_what_was_written_before() {
    let lab = Lab::new();
    let held = Arc::new(lab.hold());
    let guest = Guest::start(&held);
    for round in 0..5 {
        let (before, name) = (guest.done(), format!("s{round}"));
        let said = lab.ok(&["snapshot", &format!("v@{name}")]);
        let after = guest.done();
        assert!(said.contains(&format!("by process {}", std::process::id())), "{said}");
        let last = last_number(&lab.snapshot_of(&name));
        assert!((before..=after + 1).contains(&last), "{before} {last} {after}");
        lab.ok(&["clone", &format!("v@{name}"), &format!("c{round}")]);
    }
    let before = guest.done();
    std::thread::sleep(Duration::from_millis(100));
    assert!(guest.done() > before, "the guest goes on");
    lab.fails(4, &["snapshot", "v@s0"], &["has a snapshot 's0' already"]);
    lab.ok(&["snapshot", "--publish", "v"]);
    lab.ok(&["rm", "v@s1"]);
    lab.fails(3, &["info", "v@s1"], &["s1"]);
    guest.end();
    Arc::into_inner(held).unwrap().close().unwrap();
    assert_eq!(lab.sockets(), [] as [PathBuf; 0]);
    // Nobody holds it: as ever.
    lab.ok(&["snapshot", "v@later"]);
}

#[test]
fn a_volume_in_use_grows_and_never_shrinks() {
    let lab = Lab::new();
    let held = lab.hold();
    write(held.device(), SIZE_BYTES - 4096, &[7; 4096]);
    let said = lab.ok(&["resize", "v", "+8M"]);
    assert!(said.contains("16.0M now") && said.contains("block_resize"), "{said}");
    assert_eq!(held.device().size_bytes(), 2 * SIZE_BYTES);
    write(held.device(), 2 * SIZE_BYTES - 4096, &[8; 4096]);
    lab.ok(&["resize", "v", "16M"]);
    lab.fails(2, &["resize", "v", "4M"], &["--shrink"]);
    lab.fails(5, &["resize", "v", "4M", "--shrink"], &["would not know", "block_resize"]);
    assert_eq!(held.device().size_bytes(), 2 * SIZE_BYTES);
    held.close().unwrap();
    assert_eq!(lab.json(&["info", "v"])["size_bytes"], 2 * SIZE_BYTES);
}

#[test]
fn status_tells_what_the_process_knows() {
    let lab = Lab::new();
    let idle = lab.json(&["status", "v"]);
    assert_eq!((&idle["live"], &idle["lease"]["state"]), (&Value::Null, &Value::from("free")));
    let held = lab.hold();
    for block in 0..16 {
        write(held.device(), block * 65_536, &[1; 4096]);
    }
    submit(held.device(), 0, Operation::Flush).unwrap();
    submit(held.device(), 0, Operation::Read { buf: IoBuf::alloc(4096) }).unwrap();
    submit(held.device(), 0, Operation::Zero { bytes: 4096, fua: false }).unwrap();
    submit(held.device(), SIZE_BYTES, Operation::Read { buf: IoBuf::alloc(4096) }).unwrap_err();
    let status = lab.json(&["status", "v"]);
    assert_eq!(status["size_bytes"], SIZE_BYTES);
    assert_eq!(status["live"]["served"], serde_json::json!({
        "reads": 2, "writes": 16, "zeroes": 1, "flushes": 1, "failures": 1
    }));
    assert_eq!(status["lease"]["holder"]["pid"], std::process::id());
    assert_eq!(status["unasked"], Value::Null);
    let text = lab.ok(&["status", "v"]);
    for part in ["open for writing", "main", "8.0M", "16 writes", "since"] {
        assert!(text.contains(part), "{text}");
    }
    held.close().unwrap();
    assert!(lab.ok(&["status", "v"]).contains("not in use"));
    lab.fails(3, &["status", "w"], &["'w'"]);
}

/// What has stopped after a failure is what one asks about.
#[test]
fn a_volume_that_has_stopped_says_why() {
    let lab = Lab::new();
    let held = lab.hold();
    held.device().volume().poison(archipelago::Error::sentence(ErrorKind::Unknown, "the disk fell out"));
    assert!(lab.ok(&["status", "v"]).contains("the disk fell out"));
    lab.fails(1, &["snapshot", "v@s"], &["the disk fell out"]);
    held.close().unwrap_err();
}

/// Two volumes of one process have one socket, which goes with the last; each
/// is asked for itself.
#[test]
fn volumes_of_one_process_share_a_socket() {
    let lab = Lab::new();
    lab.ok(&["create", "w", "4M"]);
    let server = lab.server(Vec::new());
    let v = lab.hold_as(Some(Arc::clone(&server)), |_| {});
    let w = lab.hold_as(Some(server), |options| options.volume = VolumeName::new("w").unwrap());
    assert_eq!(lab.sockets().len(), 1);
    lab.ok(&["snapshot", "w@s"]);
    assert_eq!((v.device().snapshots().unwrap().len(), w.device().snapshots().unwrap().len()), (0, 1));
    v.close().unwrap();
    assert_eq!(lab.sockets().len(), 1);
    assert_eq!(lab.json(&["status", "w"])["size_bytes"], 4 << 20);
    w.close().unwrap();
    assert_eq!(lab.sockets().len(), 0);
}

/// What is handed over is not asked about here any more, and again when it is
/// back.
#[test]
fn a_volume_that_is_handed_over_is_not_asked_here() {
    let lab = Lab::new();
    let held = lab.hold();
    held.inactivate().unwrap();
    assert!(lab.connect().unwrap().is_none(), "its lease is given back");
    lab.ok(&["snapshot", "v@between"]);
    held.activate().unwrap();
    assert!(lab.ok(&["snapshot", "v@after"]).contains("by process"));
    held.set_read_only(true).unwrap();
    assert!(lab.connect().unwrap().is_none());
    held.set_read_only(false).unwrap();
    assert!(lab.connect().unwrap().is_some());
    held.close().unwrap();
}

/// Requests meet a volume that is opened, handed over and closed all the time:
/// each gets an answer that is true.
#[test]
fn a_request_that_meets_a_close_gets_a_true_answer() {
    let lab = Arc::new(Lab::new());
    let ended = Arc::<AtomicBool>::default();
    let askers: Vec<_> = (0..3)
        .map(|asker| {
            let (lab, ended) = (Arc::clone(&lab), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut taken = Vec::new();
                for round in 0.. {
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(Some(mut holder)) = lab.connect() else { continue };
                    let name = SnapshotName::new(&format!("a{asker}r{round}")).unwrap();
                    match holder.order(What::Snapshot { name: name.clone() }) {
                        Ok(()) => taken.push(name),
                        Err(error) if error.is(ErrorKind::Busy) || error.is(ErrorKind::NotFound) => {}
                        Err(error) => assert!(error.is(ErrorKind::Unknown), "{error}"),
                    }
                }
                taken
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let held = lab.hold();
        write(held.device(), 0, &[1; 4096]);
        std::thread::sleep(Duration::from_millis(60));
        held.inactivate().unwrap();
        held.activate().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        held.close().unwrap();
    }
    ended.store(true, Ordering::SeqCst);
    let taken: Vec<SnapshotName> = askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect();
    assert!(taken.len() > 10, "only {} were taken", taken.len());
    let there = lab.json(&["info", "v"])["snapshots"].as_array().unwrap().clone();
    for name in &taken {
        assert!(there.contains(&Value::from(name.as_str())), "{name} was said to be taken");
    }
    lab.ok(&["check"]);
}
