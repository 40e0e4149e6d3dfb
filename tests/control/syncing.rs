//! Standbys, by the built command: of a volume that a process holds, with a
//! follower that is killed, and a fail-over.

use super::*;

fn lab() -> Lab {
    let lab = Lab::new();
    let config = std::fs::read_to_string(lab.path("config.toml")).unwrap();
    let two = lab.path("two");
    let second = format!("{config}[stores.two]\nblock_size = \"64K\"\nurl = \"dir:{}\"\n", two.display());
    std::fs::write(lab.path("config.toml"), second).unwrap();
    lab.ok(&["--store", "two", "init"]);
    lab
}

fn in_two(lab: &Lab, words: &[&str]) -> String {
    lab.ok(&[&["--store", "two"], words].concat())
}

fn volume_in_two(lab: &Lab) -> Arc<Volume> {
    let store = open_store(Some("two"), Some(&lab.path("config.toml")), false, false).unwrap();
    Volume::open(&store, &VolumeName::new("v").unwrap(), &OpenOptions::default()).unwrap()
}

fn wait_for(guest: &Guest, more: u64) {
    let wanted = guest.done() + more;
    while guest.done() < wanted {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The number of the newest snapshot that was brought: it changes in each round.
fn rounds_seen(lab: &Lab) -> Vec<String> {
    let listed = lab.json(&["--store", "two", "ls", "--quick"]);
    let volumes = listed["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "v").unwrap();
    let names = volume["snapshots"].as_array().unwrap();
    names.iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_volume_in_use_is_followed_and_its_standby_takes_over() {
    let lab = lab();
    let held = Arc::new(lab.hold());
    let guest = Guest::start(&held);
    wait_for(&guest, 500);
    lab.ok(&["snapshot", "v@mine"]);
    let said = lab.ok(&["sync", "main", "two"]);
    assert!(said.contains("standbys of 1 volumes of store 'main'"), "{said}");
    assert!(in_two(&lab, &["ls"]).contains("standby of 'main'"));
    in_two(&lab, &["info", "v@mine"]);
    in_two(&lab, &["clone", "v@mine", "trial"]);
    let refused = ["--store", "two", "snapshot", "v@no"];
    lab.fails(6, &refused, &["standby of store 'main'", "archipelago promote v"]);
    // A follower that is killed, again and again, is in nobody's way.
    let follow = ["sync", "main", "two", "--follow", "--every", "0.1"];
    for _ in 0..5 {
        let before = rounds_seen(&lab);
        let mut child = lab.command(&follow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while rounds_seen(&lab) == before {
            assert!(Instant::now() < until, "it does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let floor = guest.done();
    lab.ok(&["sync", "main", "two"]);
    wait_for(&guest, 500);
    lab.fails(
        5,
        &["--store", "two", "promote", "v"],
        &["there would be two volumes", "archipelago --store main move v two", "--force"],
    );
    let said = in_two(&lab, &["promote", "v", "--force"]);
    assert!(said.contains("can be written to now"), "{said}");
    let ceiling = guest.done() + 1;
    let volume = volume_in_two(&lab);
    let last = last_number(&volume);
    assert!(floor <= last && last <= ceiling, "{floor} <= {last} <= {ceiling}");
    volume.close().unwrap();
    lab.fails(4, &["sync", "main", "two"], &["it is no standby (was it promoted?)"]);
    guest.end();
    Arc::try_unwrap(held).unwrap().close().unwrap();
    for store in ["main", "two"] {
        lab.ok(&["--store", store, "gc"]);
        assert!(lab.ok(&["--store", store, "check"]).contains("no damage"));
    }
    // And back, as the manual page says.
    lab.ok(&["rm", "--snapshots", "v"]);
    let said = lab.ok(&["sync", "two", "main"]);
    assert!(said.contains("standbys of 2 volumes"), "{said}");
    in_two(&lab, &["move", "v", "main"]);
    let said = lab.ok(&["sync", "two", "main"]);
    assert!(said.contains("volume 'v' of store 'two' is in another store"), "{said}");
    lab.ok(&["info", "v@mine"]);
    assert!(lab.ok(&["status", "v"]).contains("'main'"));
}

#[test]
fn what_cannot_be_is_told() {
    let lab = lab();
    lab.fails(2, &["sync", "main", "main"], &["are the same one"]);
    lab.fails(3, &["sync", "main", "three"], &["no store 'three' is configured"]);
    lab.fails(2, &["sync", "main"], &["DST"]);
    lab.fails(2, &["sync", "main", "two", "--every", "0"], &["seconds are meant"]);
    lab.fails(2, &["--store", "two", "sync", "main", "two"], &["--store says nothing here"]);
    lab.fails(2, &["promote", "v"], &["is no standby"]);
    lab.fails(2, &["promote"], &["promote VOL", "--all"]);
    assert!(lab.ok(&["promote", "--all"]).contains("has no standbys"));
    // Another volume has the name there; what has none in the way is brought.
    in_two(&lab, &["create", "v", "1M"]);
    lab.ok(&["create", "w", "1M"]);
    lab.fails(4, &["sync", "main", "two"], &["store 'two' has another volume 'v'", "of 1 volumes"]);
    lab.ok(&["rm", "v"]);
    lab.ok(&["rm", "--snapshots", "w"]);
    assert!(lab.ok(&["sync", "main", "two"]).contains("volume 'w' is not in store 'main' any more"));
    assert!(in_two(&lab, &["promote", "--all"]).contains("volume 'w' in store 'two' can be written to now"));
}
