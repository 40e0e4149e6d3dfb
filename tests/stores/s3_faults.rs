//! A gateway that dies, hangs, has no time for anybody and cuts all connections,
//! while a volume with its blocks there and its log on a disk is written and read
//! back, and so are a snapshot of it and a clone; and beside them a volume on
//! a local disk. On a gateway of their own, for others use the other one.

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::s3::S3Options;
use archipelago::store::Store;

use super::beside::{in_a_process, is_there_again, listen, told, Away, Control};
use super::load::{as_outcomes, none_failed, nothing, wait, Known, Machine, BLOCK};
use super::network::{Network, ALONE};
use super::proxy::{Fate, Proxy};
use super::rados_faults::Cluster;
use super::s3::{fresh, open};

/// Volume, snapshot and clone on one connection.
struct Bed {
    volume: Machine,
    snapshot: Machine,
    clone: Machine,
    known: Vec<Vec<Vec<Known>>>,
}

impl Bed {
    /// On the bucket behind this, with the log in a folder.
    fn make(endpoint: &str, log: &Path) -> Bed {
        let options = S3Options { endpoint: endpoint.to_owned(), ..fresh().unwrap() };
        let made = Arc::new(Dir::create(log, DirOptions::default()).unwrap());
        let store = Store::init_combined("test", open(&options), made, BLOCK).unwrap();
        let log = log.to_owned();
        let opener = move || {
            let log = Arc::new(Dir::open(&log, DirOptions::default()).unwrap());
            Store::open_combined("test", open(&options), Ok(log)).unwrap()
        };
        let volume = Machine::on(&store, Arc::new(opener));
        let all = volume.during(nothing(), || wait(1));
        none_failed(&all);
        let known = volume.check(&all);
        let (snapshot, clone) = volume.snapshot_and_clone();
        Bed { volume, snapshot, clone, known: vec![known.clone(), known.clone(), known] }
    }

    fn machines(&self) -> [&Machine; 3] {
        [&self.volume, &self.snapshot, &self.clone]
    }

    fn control(&mut self, path: &Path) -> Control {
        let (control, known) = Control::run(&self.machines(), self.known.clone(), path, 4);
        self.known = known;
        control
    }

    /// And the log has one line when it has gone, and one when it is there again.
    fn comes_back(&mut self, away: &Away<'_>, folder: &Path, control: Control) {
        told();
        let known = std::mem::take(&mut self.known);
        self.known = away.comes_back(&self.machines(), known, &folder.join(away.name), control);
        let told = told();
        let count = |words: &str| {
            told.iter().filter(|line| line.contains(&format!("(bucket 'archipelago') {words}"))).count()
        };
        let counts = (count("serves nothing"), count("serves again"));
        assert_eq!(counts, (1, 1), "{}: {told:#?}", away.name);
    }

    fn end(mut self) {
        for (machine, known) in [&self.snapshot, &self.clone].into_iter().zip(&self.known[1..]) {
            machine.check(&as_outcomes(known.clone()));
            machine.device.close().unwrap();
        }
        is_there_again(&self.volume, self.known.swap_remove(0));
    }
}

#[test]
fn a_gateway_fails_and_comes_back_and_nobody_loses_anything() {
    if fresh().is_some() {
        in_a_process(&[], "s3_faults::in_a_process_of_its_own");
    }
}

#[test]
#[ignore = "a part of other tests"]
fn in_a_process_of_its_own() {
    listen();
    let cluster = Cluster::start(&["--rgw"]);
    cluster.is_meant();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let endpoint = fresh().unwrap().endpoint;
    let mut bed = Bed::make(&endpoint, &folder.path().join("log"));
    let control = bed.control(&folder.path().join("control"));
    // A try that has failed is followed by another one 2 s later at the latest, and who
    // has waited for one request may have to wait for the next one.
    for away in [
        Away {
            name: "killed",
            seconds: 6,
            after_s: 3,
            longest_s: 5..14,
            goes: &|| cluster.tell(&["kill-rgw"]),
            returns: &|| cluster.tell(&["revive-rgw"]),
        },
        Away {
            name: "hung",
            seconds: 7,
            after_s: 3,
            longest_s: 6..15,
            goes: &|| cluster.tell(&["pause-rgw"]),
            returns: &|| cluster.tell(&["resume-rgw"]),
        },
    ] {
        bed.comes_back(&away, folder.path(), control);
    }
    bed.end();
    let proxy = Proxy::before(&endpoint);
    let mut bed = Bed::make(&proxy.endpoint, &folder.path().join("log behind the proxy"));
    let fates = [Fate::CutBefore, Fate::CutAfter, Fate::CutInside].into_iter().cycle();
    let goes_on = || proxy.judge(|_| Fate::Pass);
    // Longer than a lease may go without being renewed, and not half a minute.
    let busy = || proxy.judge(|_| Fate::Busy);
    let busy = Away {
        name: "busy",
        seconds: 23,
        after_s: 3,
        longest_s: 22..31,
        goes: &busy,
        returns: &goes_on,
    };
    bed.comes_back(&busy, folder.path(), control);
    let cut = || {
        let mut fates = fates.clone();
        proxy.judge(move |_| fates.next().unwrap());
    };
    let cut = Away { name: "cut", seconds: 6, after_s: 3, longest_s: 5..14, goes: &cut, returns: &goes_on };
    bed.comes_back(&cut, folder.path(), control);
    bed.end();
}

/// The gateway is well, and nothing that is sent comes there.
#[test]
fn a_network_that_is_cut_costs_time_alone() {
    if fresh().is_some() {
        in_a_process(&ALONE, "s3_faults::on_a_host_of_its_own");
    }
}

#[test]
#[ignore = "a part of other tests"]
fn on_a_host_of_its_own() {
    listen();
    let network = Network::new();
    let cluster = Cluster::start_by(&network.before(), "ceph", &["--rgw"]);
    cluster.is_meant();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bed = Bed::make(&fresh().unwrap().endpoint, &folder.path().join("log"));
    let control = bed.control(&folder.path().join("control"));
    let cut = Away {
        name: "cut",
        seconds: 10,
        after_s: 5,
        longest_s: 9..20,
        goes: &|| network.cut(),
        returns: &|| network.mend(),
    };
    bed.comes_back(&cut, folder.path(), control);
    bed.end();
}
