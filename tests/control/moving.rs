//! Volumes that go to another store, by the built command: while a guest
//! writes, paused, called back, and with a holder that is killed meanwhile.

use super::*;
use archipelago::control::moving::Move;

const SECOND: &str = "[stores.two]\nblock_size = \"64K\"\nurl = \"dir:";

fn lab() -> Lab {
    let lab = Lab::new();
    let config = std::fs::read_to_string(lab.path("config.toml")).unwrap();
    let second = format!("{config}{SECOND}{}\"\n", lab.path("two").display());
    std::fs::write(lab.path("config.toml"), second).unwrap();
    lab.ok(&["--store", "two", "init"]);
    lab
}

fn hold(lab: &Lab) -> Held {
    lab.hold_as(Some(lab.server(vec![Arc::new(Move)])), |_| {})
}

fn volume_in(lab: &Lab, store: &str) -> Arc<Volume> {
    let store = open_store(Some(store), Some(&lab.path("config.toml")), false, false).unwrap();
    Volume::open(&store, &VolumeName::new("v").unwrap(), &OpenOptions::default()).unwrap()
}

/// Starts a move that takes a while: 8 MiB, half of one each second.
fn slow_move(lab: &Lab) -> std::process::Child {
    let mut command = lab.command(&["move", "v", "two", "--limit", "512K"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: std::process::Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
}

/// Waits until `status` has these words.
fn wait_for_status(lab: &Lab, words: &str) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let said = lab.ok(&["status", "v"]);
        if said.contains(words) {
            return said;
        }
        assert!(Instant::now() < until, "no '{words}' in: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fill(held: &Held) {
    for at in 0..128 {
        write(held.device(), at * (64 << 10), &[at as u8 + 1; 64 << 10]);
    }
}

#[test]
fn a_volume_moves_while_its_guest_writes() {
    let lab = lab();
    let held = Arc::new(hold(&lab));
    let guest = Guest::start(&held);
    while guest.done() < 1000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    lab.ok(&["snapshot", "v@before"]);
    let said = lab.ok(&["move", "v", "two"]);
    assert!(said.contains("volume 'v': is in store 'two' now"), "{said}");
    // The old name leads to it, also while it is in use.
    let status = lab.ok(&["status", "v"]);
    assert!(status.contains("store     'two'") && status.contains("move is done"), "{status}");
    let at_move = guest.done();
    while guest.done() < at_move + 1000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    lab.ok(&["snapshot", "v@after"]);
    lab.fails(2, &["move", "v", "two"], &["is in store 'two' already"]);
    let last = guest.done();
    guest.end();
    Arc::try_unwrap(held).unwrap().close().unwrap();
    let volume = volume_in(&lab, "two");
    assert!(last_number(&volume) >= last);
    assert_eq!(volume.snapshots().unwrap().len(), 2);
    volume.close().unwrap();
    // Nobody holds it: it goes back by the command itself.
    assert!(lab.ok(&["move", "v", "main"]).contains("is in store 'main' now"));
    assert!(last_number(&volume_in(&lab, "main")) >= last);
    for store in ["main", "two"] {
        assert!(lab.ok(&["--store", store, "check"]).contains("no damage"));
    }
    lab.ok(&["info", "v@before"]);
    let listed = lab.ok(&["--store", "two", "ls"]);
    assert!(listed.contains("in store 'main'"), "{listed}");
}

#[test]
fn a_move_is_paused_goes_on_and_is_called_back() {
    let lab = lab();
    let held = hold(&lab);
    fill(&held);
    lab.fails(3, &["move", "v", "--cancel"], &["is not being moved"]);
    let child = slow_move(&lab);
    wait_for_status(&lab, "copies to store 'two'");
    lab.fails(5, &["move", "v", "two"], &["is running already"]);
    lab.ok(&["move", "v", "--pause"]);
    let paused = wait_for_status(&lab, "is paused");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(lab.ok(&["status", "v"]).contains("is paused"), "{paused}");
    write(held.device(), 0, &[200; 4096]);
    lab.ok(&["move", "v", "--resume"]);
    wait_for_status(&lab, "copies to store 'two'");
    assert!(lab.ok(&["move", "v", "--cancel"]).contains("stays where it is"));
    let (code, said) = ended(child);
    assert!(code != 0 && said.contains("called back"), "{code} {said}");
    assert_eq!(held.device().volume().store.name, "main");
    assert!(held.device().snapshots().unwrap().is_empty());
    // What was copied of it is in nobody's way.
    assert_eq!(lab.json(&["--store", "two", "ls"])["volumes"].as_array().unwrap().len(), 0);
    let said = lab.ok(&["move", "v", "two"]);
    assert!(!said.contains(" 0 were there"), "what was copied is copied again: {said}");
    held.close().unwrap();
    let mut data = [0; 4097];
    volume_in(&lab, "two").read_at(0, &mut data).unwrap();
    assert_eq!((data[0], data[4095], data[4096]), (200, 200, 1));
}

#[test]
fn a_holder_that_is_killed_while_it_moves_leaves_the_volume_where_it_was() {
    let lab = lab();
    let filler = hold(&lab);
    fill(&filler);
    filler.close().unwrap();
    let mut holder = super::holders::start_holder(&lab, &lab.path("run"));
    let child = slow_move(&lab);
    wait_for_status(&lab, "copies to store 'two'");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let (code, said) = ended(child);
    assert_ne!(code, 0, "{said}");
    assert!(lab.ok(&["status", "v"]).contains("'main'"));
    assert!(lab.ok(&["move", "v", "two"]).contains("is in store 'two' now"));
    let mut data = [0; 4097];
    volume_in(&lab, "two").read_at(0, &mut data).unwrap();
    assert_eq!((data[0], data[4095], data[4096]), (5, 5, 1));
}

#[test]
fn what_cannot_be_moved_is_told() {
    let lab = lab();
    lab.fails(3, &["move", "v", "three"], &["no store 'three' is configured"]);
    lab.fails(2, &["move"], &["VOL|STORE"]);
    lab.fails(2, &["move", "v"], &["move VOL STORE"]);
    lab.fails(2, &["move", "v", "main"], &["is in store 'main' already"]);
    lab.ok(&["create", "w", "1M"]);
    let said = lab.ok(&["move", "--all", "two"]);
    assert!(said.contains("volume 'v': is in") && said.contains("volume 'w': is in"), "{said}");
    assert!(lab.ok(&["move", "--all", "two"]).contains("has no volumes that could be moved"));
    // Only the way to it is taken away.
    assert!(lab.ok(&["rm", "w"]).contains("the volume is in store 'two' as before"));
    assert!(lab.ok(&["--store", "two", "ls"]).contains('w'));
}
