//! An OSD that dies, one that hangs, a network that is cut and a cluster that
//! is full, while a volume is written and read back; and beside it a volume on
//! a local disk, which must not notice. In a cluster and a network of their own,
//! for others use the other one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::Backend;

use super::load::{none_failed, nothing, wait, Machine, Outcome, THREADS};
use super::rados::{fresh, open};

/// A cluster of one OSD, on the loopback device of a network namespace.
struct Cluster(tempfile::TempDir);

impl Cluster {
    fn start() -> Cluster {
        let cluster = Cluster(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        cluster.tell(&["--store", "bluestore", "start"]);
        cluster
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ceph")
    }

    fn tell(&self, words: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/ceph");
        let status = Command::new(script).arg("--dir").arg(self.path()).args(words).status().unwrap();
        assert!(status.success(), "{words:?}: {status}");
    }

    /// Takes it for full from this part of its room on, a few seconds later.
    fn set_full_ratio(&self, ratio: &str) {
        let conf = self.path().join("ceph.conf");
        // They are believed only in their order.
        for kind in ["nearfull", "backfillfull", "full"] {
            let mut command = Command::new("ceph");
            command.arg("-c").arg(&conf).args(["osd", &format!("set-{kind}-ratio"), ratio]);
            assert!(command.status().unwrap().success(), "cannot set {kind}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/ceph");
        let stopped = Command::new(script).arg("--dir").arg(self.path()).args(["stop", "--wipe"]).status();
        eprintln!("stopped: {stopped:?}");
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}: {status}");
}

fn on_disk(path: &Path) -> Machine {
    let made = Arc::new(Dir::create(path, DirOptions::default()).unwrap());
    let path = path.to_owned();
    let open = move || Arc::new(Dir::open(&path, DirOptions::default()).unwrap()) as Arc<dyn Backend>;
    Machine::new(made, Arc::new(open))
}

/// A new store, through a connection of its own.
fn on_rados() -> Machine {
    let (conf, options) = fresh().unwrap();
    let made = open(&options);
    let open = move || {
        // As long as it may be needed.
        let _conf = &conf;
        open(&options) as Arc<dyn Backend>
    };
    Machine::new(made, Arc::new(open))
}

fn summed(all: &[Outcome]) -> (u64, Duration) {
    let requests = all.iter().map(|outcome| outcome.requests).sum();
    (requests, all.iter().map(|outcome| outcome.longest).max().unwrap_or_default())
}

/// Both volumes under load while `fault` runs. Returns what became of the one
/// on RADOS, and of the one beside it.
fn both(on_rados: &Machine, beside: &Machine, fault: impl FnOnce()) -> (Vec<Outcome>, Vec<Outcome>) {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        scope.spawn(|| {
            two = beside.during(nothing(), move || {
                begin.send(()).unwrap();
                let _ended = ended.recv();
            });
        });
        begun.recv().unwrap();
        one = on_rados.during(nothing(), fault);
        drop(end);
    });
    (one, two)
}

#[test]
fn a_cluster_fails_and_comes_back_and_nobody_loses_anything() {
    if fresh().is_none() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let part = format!(
        "ip link set lo up && exec {} --exact rados_faults::in_a_network_of_its_own --ignored --nocapture",
        program.display()
    );
    let status = Command::new("unshare").args(["--net", "sh", "-c", &part]).status().unwrap();
    assert!(status.success(), "{status}");
}

/// What the library tells its log.
struct Told(Mutex<Vec<String>>);

static TOLD: Told = Told(Mutex::new(Vec::new()));

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The cluster is gone for so long, in one way or another.
struct Away<'a> {
    name: &'a str,
    seconds: u64,
    goes: &'a dyn Fn(),
    returns: &'a dyn Fn(),
}

#[test]
#[ignore = "a part of other tests"]
fn in_a_network_of_its_own() {
    log::set_logger(&TOLD).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let cluster = Cluster::start();
    std::env::set_var("ARCHIPELAGO_TEST_CEPH_CONF", cluster.path().join("ceph.conf"));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let beside = |name: &str| on_disk(&folder.path().join(name));
    let (_, quiet) = both(&on_rados(), &beside("control"), || wait(8));
    let control = summed(&quiet);
    for away in [
        Away {
            name: "killed",
            seconds: 3,
            goes: &|| cluster.tell(&["kill-osd", "0"]),
            returns: &|| cluster.tell(&["revive-osd", "0"]),
        },
        Away {
            name: "hung",
            seconds: 6,
            goes: &|| cluster.tell(&["pause-osd", "0"]),
            returns: &|| cluster.tell(&["resume-osd", "0"]),
        },
        Away {
            name: "cut",
            seconds: 10,
            goes: &|| ip(&["link", "set", "lo", "down"]),
            returns: &|| ip(&["link", "set", "lo", "up"]),
        },
    ] {
        comes_back(&away, &on_rados(), &beside(away.name), control);
    }
    full(&cluster, &on_rados());
}

/// Requests wait while it is away, and no longer than that takes; nothing fails.
fn comes_back(away: &Away<'_>, machine: &Machine, beside: &Machine, control: (u64, Duration)) {
    let name = away.name;
    let (all, others) = both(machine, beside, || {
        wait(2);
        (away.goes)();
        wait(away.seconds);
        (away.returns)();
        wait(8);
    });
    let (requests, longest) = summed(&all);
    let other = summed(&others);
    eprintln!(
        "{name} for {} s: {requests} requests, the longest took {longest:?}; beside it {other:?}, \
         without a fault {control:?}",
        away.seconds
    );
    none_failed(&all);
    none_failed(&others);
    let told = std::mem::take(&mut *TOLD.0.lock().unwrap());
    let is_clear = |line: &String| line.starts_with("volume 'v': store 'test' was slow or away");
    assert!(longest < Duration::from_secs(5) || told.iter().any(is_clear), "{name}: {told:?}");
    let gone = Duration::from_secs(away.seconds);
    assert!(longest > gone - Duration::from_secs(1), "{name}: it was not noticed: {longest:?}");
    assert!(longest < gone + Duration::from_secs(20), "{name}: held up for {longest:?}");
    let bound = (3 * control.1).max(Duration::from_secs(1));
    assert!(other.1 < bound, "{name}: the volume beside it waited for {:?}", other.1);
    let known = machine.check(&all);
    machine.device.close().unwrap();
    beside.device.close().unwrap();
    let again = Machine::again(&machine.opener);
    let all: Vec<Outcome> =
        known.into_iter().map(|known| Outcome { known, ..Outcome::default() }).collect();
    again.check(&all);
    again.device.close().unwrap();
}

/// What needs more room fails in words, so that QEMU can pause the guest, and goes
/// on when there is some again. (A full cluster still takes what needs no more.)
fn full(cluster: &Cluster, machine: &Machine) {
    cluster.set_full_ratio("0.00001");
    wait(10);
    let all = machine.during(nothing(), || wait(2));
    let failures: Vec<&String> = all.iter().flat_map(|outcome| &outcome.failures).collect();
    eprintln!("full: {failures:?}");
    assert!(failures.len() >= THREADS as usize, "they went on: {failures:?}");
    assert!(failures.iter().all(|said| said.contains("no space left")), "{failures:?}");
    cluster.set_full_ratio("0.95");
    wait(10);
    let known = machine.check(&all);
    let all = machine.during(known, || wait(2));
    none_failed(&all);
    machine.check(&all);
    machine.device.close().unwrap();
}
