//! An OSD that dies, one that hangs, a network that is cut and a cluster that
//! is full, while a volume is written and read back; and beside it a volume on
//! a local disk, which must not notice. In a cluster and a network of their own,
//! for others use the other one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::store::Store;

use super::beside::{in_a_process, is_there_again, listen, told, Away, Control};
use super::load::{as_outcomes, none_failed, nothing, summed, wait, Machine, BLOCK, THREADS};
use super::rados::{fresh, open};

/// Servers of its own: a cluster of one OSD, or a GlusterFS.
pub struct Cluster {
    folder: tempfile::TempDir,
    /// The script's, in tests/servers.
    name: &'static str,
    /// The words of a program that runs it.
    before: Vec<String>,
}

impl Cluster {
    pub fn start(words: &[&str]) -> Cluster {
        Cluster::start_by(&[], "ceph", words)
    }

    pub fn start_by(before: &[String], name: &'static str, words: &[&str]) -> Cluster {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let cluster = Cluster { folder, name, before: before.to_vec() };
        cluster.tell(&[words, &["start"]].concat());
        cluster
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn script(&self) -> Command {
        let script = format!("{}/tests/servers/{}", env!("CARGO_MANIFEST_DIR"), self.name);
        let words = [&self.before[..], &[script]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--dir").arg(self.path());
        command
    }

    pub fn tell(&self, words: &[&str]) {
        let status = self.script().args(words).status().unwrap();
        assert!(status.success(), "{words:?}: {status}");
    }

    /// From now on this process uses it.
    pub fn is_meant(&self) {
        let said = self.script().arg("env").output().unwrap();
        for line in String::from_utf8(said.stdout).unwrap().lines() {
            let (name, value) = line.strip_prefix("export ").and_then(|told| told.split_once('=')).unwrap();
            // The client's key is for tests that show what it may do.
            if name != "ARCHIPELAGO_TEST_CEPH_USER" {
                std::env::set_var(name, value);
            }
        }
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
        let stopped = self.script().args(["stop", "--wipe"]).status();
        eprintln!("stopped: {stopped:?}");
    }
}

pub fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}: {status}");
}

/// A new store, through a connection of its own.
fn on_rados() -> Machine {
    on_rados_that(false)
}

/// `waits`: with `when_full = "wait"`.
fn on_rados_that(waits: bool) -> Machine {
    let (conf, options) = fresh().unwrap();
    let store = Store::init("test", open(&options), BLOCK).unwrap();
    Machine::on(&store, Arc::new(move || {
        // As long as it may be needed.
        let _conf = &conf;
        let mut store = Store::open("test", open(&options)).unwrap();
        store.waits_for_room = waits;
        store
    }))
}

#[test]
fn a_cluster_fails_and_comes_back_and_nobody_loses_anything() {
    if fresh().is_none() {
        return;
    }
    // The words that follow are those of the test.
    let part = "ip link set lo up && exec \"$0\" \"$@\"";
    in_a_process(&["unshare", "--net", "sh", "-c", part], "rados_faults::in_a_network_of_its_own");
}

#[test]
#[ignore = "a part of other tests"]
fn in_a_network_of_its_own() {
    listen();
    let cluster = Cluster::start(&["--store", "bluestore"]);
    cluster.is_meant();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (control, _) = Control::run(&[&on_rados()], vec![nothing()], &folder.path().join("control"), 8);
    for away in [
        Away {
            name: "killed",
            seconds: 3,
            after_s: 8,
            longest_s: 2..23,
            goes: &|| cluster.tell(&["kill-osd", "0"]),
            returns: &|| cluster.tell(&["revive-osd", "0"]),
        },
        Away {
            name: "hung",
            seconds: 6,
            after_s: 8,
            longest_s: 5..26,
            goes: &|| cluster.tell(&["pause-osd", "0"]),
            returns: &|| cluster.tell(&["resume-osd", "0"]),
        },
        Away {
            name: "cut",
            seconds: 10,
            after_s: 8,
            longest_s: 9..30,
            goes: &|| ip(&["link", "set", "lo", "down"]),
            returns: &|| ip(&["link", "set", "lo", "up"]),
        },
    ] {
        let machine = on_rados();
        let path = folder.path().join(away.name);
        let known = away.comes_back(&[&machine], vec![nothing()], &path, control).remove(0);
        is_clear(away.name, away.seconds);
        is_there_again(&machine, known);
    }
    full(&cluster, &on_rados());
}

/// The log says that the cluster was away, if it was for as long as that takes.
fn is_clear(name: &str, seconds: u64) {
    let told = told();
    let is_clear = |line: &String| line.starts_with("volume 'v': store 'test' was slow or away");
    assert!(seconds < 5 || told.iter().any(is_clear), "{name}: {told:?}");
}

/// What needs more room fails in words, so that QEMU can pause the guest, and goes
/// on when there is some again. (A full cluster still takes what needs no more.)
fn full(cluster: &Cluster, machine: &Machine) {
    let (second, patient) = (on_rados(), on_rados_that(true));
    cluster.set_full_ratio("0.00001");
    wait(10);
    let all = machine.during(nothing(), || wait(2));
    let failures: Vec<&String> = all.iter().flat_map(|outcome| &outcome.failures).collect();
    eprintln!("full: {failures:?}");
    assert!(failures.len() >= THREADS as usize, "they went on: {failures:?}");
    assert!(failures.iter().all(|said| said.contains("no space left")), "{failures:?}");
    leases_need_no_room(second);
    who_waits_goes_on_when_there_is_room(cluster, &patient);
    let known = machine.check(&all);
    let all = machine.during(known, || wait(2));
    none_failed(&all);
    machine.check(&all);
    machine.device.close().unwrap();
}

/// No request fails; all that need room wait until there is some.
fn who_waits_goes_on_when_there_is_room(cluster: &Cluster, patient: &Machine) {
    drop(told());
    let all = patient.during(nothing(), || {
        wait(5);
        cluster.set_full_ratio("0.95");
        wait(12);
    });
    none_failed(&all);
    let (_, longest) = summed(&all);
    eprintln!("with when_full = \"wait\": the longest request took {longest:?}");
    assert!((5..20).contains(&longest.as_secs()), "nobody waited: {longest:?}");
    let told = told();
    let of = |words: &str| told.iter().filter(|line| line.contains(words)).count();
    assert_eq!((of("is full: what needs room waits"), of("has room again")), (1, 1), "{told:?}");
    patient.check(&all);
    patient.device.close().unwrap();
}

/// Nobody waits for room to give a lease back, to take one, or to keep it.
fn leases_need_no_room(machine: Machine) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        machine.device.close().unwrap();
        tell.send("closed").unwrap();
        let again = Machine::again(&machine.opener);
        tell.send("opened").unwrap();
        again.check(&as_outcomes(nothing()));
        // Longer than a lock lasts that is not renewed.
        wait(25);
        again.device.close().unwrap();
        tell.send("closed again").unwrap();
    });
    for step in ["closed", "opened", "closed again"] {
        let began = Instant::now();
        let done = told.recv_timeout(Duration::from_secs(50));
        assert_eq!(done, Ok(step), "on a full cluster; waited for {:?}", began.elapsed());
        eprintln!("on a full cluster: {step} after {:?}", began.elapsed());
    }
}
