//! Who answers: nobody but the process that the lease names.

use super::*;

/// Bends who the lease says it is; the socket is this process's all the same.
fn held_by(lab: &Lab, bend: impl FnOnce(&mut Identity)) -> Held {
    lab.hold_as(Some(lab.server(Vec::new())), |options| bend(&mut options.open.lease.identity))
}

/// `refused` says the same in whatever a user tries.
#[track_caller]
fn check_refused(lab: &Lab, held: Held, parts: &[&str]) {
    lab.fails(5, &["snapshot", "v@s"], parts);
    lab.fails(5, &["resize", "v", "+1M"], parts);
    let status = lab.ok(&["status", "v"]);
    for part in parts {
        assert!(status.contains(part), "no '{part}' in: {status}");
    }
    assert!(held.device().snapshots().unwrap().is_empty());
    assert_eq!(held.device().size_bytes(), SIZE_BYTES);
    held.close().unwrap();
}

#[test]
fn a_holder_on_another_host_is_named() {
    let lab = Lab::new();
    let held = held_by(&lab, |who| {
        who.boot_id = "another".into();
        who.host = "hostb".into();
    });
    check_refused(&lab, held, &["on host hostb", "ask on host hostb"]);
}

#[test]
fn a_holder_in_another_container_is_not_asked() {
    let lab = Lab::new();
    let held = held_by(&lab, |who| who.pid_namespace += 1);
    check_refused(&lab, held, &["another container"]);
}

/// A path where somebody else listens by now: the holder lives, but it is not
/// the holder who would answer.
#[test]
fn a_socket_of_another_process_is_not_asked() {
    let lab = Lab::new();
    let quiet = || Stdio::null();
    let mut other = Command::new("sleep").arg("60").stdout(quiet()).stderr(quiet()).spawn().unwrap();
    let held = held_by(&lab, |who| who.pid = other.id());
    check_refused(&lab, held, &[&format!("but process {} listens", std::process::id()), "not asked"]);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_process_that_has_only_the_number_is_not_asked() {
    let lab = Lab::new();
    let held = held_by(&lab, |who| who.start_ticks -= 1);
    check_refused(&lab, held, &["has only its number", "not asked"]);
}

#[test]
fn a_holder_without_a_socket_is_told() {
    let lab = Lab::new();
    let held = lab.hold_as(None, |_| {});
    check_refused(&lab, held, &["no control socket", "/run/archipelago"]);
}

#[test]
fn a_holder_whose_socket_was_removed_is_told() {
    let lab = Lab::new();
    let held = lab.hold();
    std::fs::remove_file(&lab.sockets()[0]).unwrap();
    check_refused(&lab, held, &["does not listen at", "try again"]);
}

/// A process that holds `v` until it is killed: this very program.
#[test]
#[ignore = "a process for the tests here"]
fn holder() {
    let folder = PathBuf::from(std::env::var_os("ARCHIPELAGO_TEST_LAB").unwrap());
    let store = open_store(None, Some(&folder.join("config.toml")), false, false).unwrap();
    let options = DeviceOptions {
        volume: VolumeName::new("v").unwrap(),
        snapshot: None,
        open: OpenOptions::default(),
        active: Mode::Writable,
        no_flush: false,
    };
    let held = Held::open(store, options).unwrap();
    write(held.device(), 0, &[5; 4096]);
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
}

pub fn start_holder(lab: &Lab, run_folder: &std::path::Path) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holders::holder", "--ignored", "--nocapture"])
        .env("ARCHIPELAGO_TEST_LAB", lab.folder.path())
        .env("ARCHIPELAGO_RUN_DIR", run_folder)
        .env_remove("XDG_RUNTIME_DIR")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let out = child.stdout.as_mut().unwrap();
    while !said.contains("ready") {
        let mut byte = [0; 1];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "it has ended: {said}");
        said.push(byte[0] as char);
    }
    child
}

/// What a killed process leaves is told as that, in nobody's way, and removed
/// by the next one.
#[test]
fn a_killed_holder_leaves_a_socket_that_nobody_obeys() {
    let lab = Lab::new();
    let mut child = start_holder(&lab, &lab.path("run"));
    assert!(lab.ok(&["snapshot", "v@alive"]).contains(&format!("by process {}", child.id())));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lab.sockets().len(), 1, "it is left behind");
    assert!(lab.ok(&["status", "v"]).contains("crashed"));
    let said = lab.ok(&["snapshot", "v@dead"]);
    assert!(!said.contains("by process"), "{said}");
    let held = lab.hold();
    assert_eq!(lab.sockets().len(), 1, "the old one is removed, and the new one is there");
    assert!(lab.ok(&["snapshot", "v@new"]).contains("by process"));
    held.close().unwrap();
}

/// A process that is stopped answers nothing: it is told so, within a time,
/// and what was not begun is said not to be done.
#[test]
fn a_stopped_holder_is_told_to_be_that() {
    let lab = Lab::new();
    let mut child = start_holder(&lab, &lab.path("run"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let error = lab.connect().unwrap_err();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(error.is(ErrorKind::Unavailable) && error.to_string().contains("is it stopped?"), "{error}");
    assert!(lab.connect().unwrap().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A folder that cannot be used is no reason not to serve a guest.
#[test]
fn a_volume_opens_without_a_folder_for_the_socket() {
    let lab = Lab::new();
    let file = lab.path("file");
    std::fs::write(&file, "no folder").unwrap();
    let mut child = start_holder(&lab, &file);
    lab.fails(5, &["snapshot", "v@s"], &["no control socket"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
