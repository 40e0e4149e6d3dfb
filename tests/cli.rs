//! The command, as a user runs it. What can go wrong: an image comes out
//! other than it went in; an interrupted import leaves half a volume, or its
//! space; a volume that a machine holds is changed under it; a removal takes
//! what a clone needs; a script cannot tell "not found" from "in use". Each
//! test runs the built program on a store of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::open::open_store;
use archipelago::volume::{OpenOptions, Volume};
use serde_json::Value;

#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/scrub.rs"]
mod scrub;
#[path = "cli/sealed.rs"]
mod sealed;

struct Lab {
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Lab {
    /// With a store that is made.
    fn new() -> Lab {
        let lab = Lab::without_store();
        lab.ok(&["init"]);
        lab
    }

    fn without_store() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let config = format!("[stores.main]\nurl = \"dir:{}\"\nblock_size = \"64K\"\n", store.display());
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        Lab { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago"));
        command.args(words).current_dir(self.folder.path());
        command.env_clear().env("ARCHIPELAGO_CONFIG", self.path("config.toml"));
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", self.folder.path());
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        ran(self.command(words).stdin(Stdio::null()).output().unwrap())
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        ran.out
    }

    /// Fails with this exit code and says so in one sentence.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, code, "{words:?}: {} {}", ran.out, ran.err);
        assert!(ran.err.starts_with("archipelago: ") || code == 2, "{}", ran.err);
        assert_eq!(ran.out, "", "{words:?}");
        ran.err
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["--json"], words].concat())).unwrap()
    }

    /// The volumes that are there.
    fn names(&self) -> Vec<String> {
        let listed = self.json(&["ls", "--quick"]);
        listed["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().into()).collect()
    }

    fn write(&self, name: &str, data: &[u8]) {
        std::fs::write(self.path(name), data).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// What the volume holds, by the command.
    fn content(&self, target: &str) -> Vec<u8> {
        let output = self.command(&["export", target, "-"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn open(&self, name: &str) -> Arc<Volume> {
        let store = open_store(None, Some(&self.path("config.toml")), false, false).unwrap();
        Volume::open(&store, &VolumeName::new(name).unwrap(), &OpenOptions::default()).unwrap()
    }

    /// Objects in a folder of the store, at any depth.
    fn objects(&self, kind: &str) -> usize {
        self.files(kind).len()
    }

    fn files(&self, kind: &str) -> Vec<PathBuf> {
        self.files_in("store", kind)
    }

    fn files_in(&self, store: &str, kind: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let folder = self.path(store).join(kind);
        if folder.is_dir() {
            gather(&folder, &mut files);
        }
        files
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Bytes that do not repeat, with holes of zeroes in between.
fn image(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let is_hole = (data.len() / 150_000) % 3 == 1;
        data.push(if is_hole { 0 } else { (state >> 33) as u8 });
    }
    data
}

#[test]
fn an_image_comes_out_as_it_went_in() {
    let lab = Lab::new();
    for bytes in [0, 512, 65_536, 1_000_448, 5_000_192] {
        let (data, name) = (image(bytes), format!("v{bytes}"));
        lab.write("in.raw", &data);
        lab.ok(&["import", "in.raw", &name]);
        assert!(lab.content(&name) == data, "{bytes} to standard output");
        lab.ok(&["export", &name, "out.raw", "--force"]);
        assert!(lab.read("out.raw") == data, "{bytes} to a file");
    }
}

#[test]
fn an_image_that_ends_inside_a_sector_is_filled_with_zeroes() {
    let lab = Lab::new();
    let mut data = image(70_001);
    lab.write("in.raw", &data);
    lab.ok(&["import", "in.raw", "a"]);
    data.resize(70_144, 0);
    assert!(lab.content("a") == data);
}

#[test]
fn images_come_and_go_through_pipes() {
    let lab = Lab::new();
    let mut data = image(5_000_001);
    let mut import = lab.command(&["import", "-", "a"]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    for part in data.chunks(100_000) {
        import.stdin.as_mut().unwrap().write_all(part).unwrap();
    }
    drop(import.stdin.take());
    assert!(import.wait().unwrap().success());
    data.resize(5_000_192, 0);
    assert_eq!(lab.json(&["info", "a"])["size_bytes"], 5_000_192);
    assert!(lab.content("a") == data);
}

#[test]
fn zeroes_take_no_room_going_in_or_out() {
    let lab = Lab::new();
    let file = std::fs::File::create(lab.path("in.raw")).unwrap();
    file.set_len(1 << 34).unwrap();
    file.write_all_at(&[7; 4096], 1 << 33).unwrap();
    lab.ok(&["import", "in.raw", "a"]);
    assert_eq!(lab.objects("block"), 1);
    lab.ok(&["export", "a", "out.raw"]);
    let out = std::fs::metadata(lab.path("out.raw")).unwrap();
    assert_eq!(out.len(), 1 << 34);
    assert!(out.blocks() * 512 <= 1 << 20, "{} bytes are allocated", out.blocks() * 512);
    let mut found = [0; 4096];
    std::fs::File::open(lab.path("out.raw")).unwrap().read_exact_at(&mut found, 1 << 33).unwrap();
    assert_eq!(found, [7; 4096]);
}

#[test]
fn an_interrupted_import_leaves_nothing_behind_and_says_so() {
    let lab = Lab::new();
    let mut import = lab.command(&["import", "-", "a"]);
    let import = import.env("ARCHIPELAGO_LOG", "debug").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut data = image(9_000_000);
    data.retain(|byte| *byte != 0);
    import.stdin.as_mut().unwrap().write_all(&data).unwrap();
    wait_until("blocks are there", || lab.objects("block") > 10);
    let listed = lab.names();
    assert!(listed.len() == 1 && listed[0].starts_with("a.import-"), "{listed:?}");
    let pid = rustix::process::Pid::from_child(&import);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = ran(import.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(ran.err.contains("interrupted") && ran.err.contains("nothing is left behind"), "{}", ran.err);
    assert_eq!(lab.names(), [""; 0]);
    for kind in ["block", "log", "map", "head", "lease", "volume", "epoch"] {
        assert_eq!(lab.files(kind), Vec::<PathBuf>::new(), "{}", ran.err);
    }
}

#[test]
fn an_import_that_fails_leaves_the_name_free() {
    let lab = Lab::new();
    lab.write("in.raw", &image(200_192));
    lab.fails(2, &["import", "in.raw", "a", "--block-size", "3K"]);
    lab.fails(3, &["import", "missing.raw", "a"]);
    lab.ok(&["import", "in.raw", "a"]);
    assert!(lab.fails(4, &["import", "in.raw", "a"]).contains("'a' already"));
    assert_eq!(lab.names(), ["a"]);
}

#[test]
fn what_is_not_raw_is_converted_by_qemu_img() {
    let lab = Lab::new();
    lab.write("raw", &image(300_032));
    lab.write("disk.img", &[b"QFI\xfb".as_slice(), &[0; 600]].concat());
    // A stand-in that answers only to the right words.
    let script = "#!/bin/sh\n[ \"$1 $2 $3 $4 $5\" = 'convert -f qcow2 -O raw' ] || exit 9\n\
                  case \"$6\" in /*/disk.img) cp \"$(dirname \"$6\")/raw\" \"$7\" ;; \
                  *) echo 'broken: image' >&2; exit 1 ;; esac\n";
    lab.write("qemu-img", script.as_bytes());
    std::fs::set_permissions(lab.path("qemu-img"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let import = |file: &str, name: &str| {
        let mut command = lab.command(&["import", file, name]);
        ran(command.env("QEMU_IMG", lab.path("qemu-img")).output().unwrap())
    };
    let done = import("disk.img", "a");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(lab.content("a") == image(300_032));
    lab.write("bad.img", b"QFI\xfb");
    let refused = import("bad.img", "b");
    assert!(refused.code == 2 && refused.err.contains("broken: image"), "{}", refused.err);
    let mut none = lab.command(&["import", "disk.img", "c"]);
    let none = ran(none.env("QEMU_IMG", "/nowhere/qemu-img").output().unwrap());
    assert!(none.code == 3 && none.err.contains("qemu-utils"), "{}", none.err);
    let left = std::fs::read_dir(lab.folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("archipelago-")), "{left:?}");
    assert_eq!(lab.names(), ["a"]);
}

#[test]
fn snapshot_clone_and_rollback_keep_their_contents_apart() {
    let lab = Lab::new();
    let data = image(400_384);
    lab.write("in.raw", &data);
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["snapshot", "a@one"]);
    let volume = lab.open("a");
    volume.write_at(4096, &[9; 8192]).unwrap();
    volume.close().unwrap();
    lab.ok(&["clone", "a@one", "b", "--size", "1M"]);
    let mut changed = data.clone();
    changed[4096..4096 + 8192].fill(9);
    let mut larger = data.clone();
    larger.resize(1 << 20, 0);
    assert!(lab.content("a") == changed && lab.content("a@one") == data && lab.content("b") == larger);
    assert!(lab.ok(&["rollback", "a@one", "--dry-run"]).contains("would be lost"));
    assert!(lab.content("a") == changed);
    lab.ok(&["rollback", "a@one"]);
    assert!(lab.content("a") == data);
    lab.fails(3, &["rollback", "a@two"]);
    lab.fails(4, &["snapshot", "a@one"]);
    lab.fails(2, &["clone", "a@one", "c", "--size", "1K"]);
    lab.fails(2, &["snapshot", "a"]);
}

#[test]
fn removing_says_what_goes_and_what_stays_and_takes_no_more() {
    let lab = Lab::new();
    lab.write("in.raw", &image(400_384));
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["snapshot", "a@one"]);
    lab.ok(&["clone", "a@one", "b"]);
    let words = lab.fails(5, &["rm", "a"]);
    assert!(words.contains("one") && words.contains("rm --snapshots a"), "{words}");
    let words = lab.ok(&["rm", "-n", "--snapshots", "a"]);
    assert!(words.contains("would be removed with its snapshots one"), "{words}");
    assert!(words.contains("clones stay as they are: b"), "{words}");
    assert_eq!(lab.names(), ["a", "b"]);
    assert!(lab.ok(&["rm", "a@one"]).contains("clones stay as they are: b"));
    lab.fails(3, &["info", "a@one"]);
    lab.ok(&["rm", "a"]);
    assert_eq!(lab.names(), ["b"]);
    assert!(lab.content("b") == image(400_384));
    lab.fails(3, &["rm", "a"]);
}

#[test]
fn a_volume_that_a_machine_holds_is_left_alone() {
    let lab = Lab::new();
    lab.ok(&["create", "a", "1M"]);
    lab.ok(&["snapshot", "a@one"]);
    let held = lab.open("a");
    let holder = format!("in use by process {}", std::process::id());
    for (words, next) in [
        (vec!["snapshot", "a@two"], "blockdev-snapshot-internal-sync"),
        (vec!["resize", "a", "2M"], "\"block_resize\", \"arguments\": {\"device\": \"DEVICE\", \"size\""),
        (vec!["rm", "a@one"], "blockdev-snapshot-delete-internal-sync"),
        (vec!["rm", "--snapshots", "a"], "shut the machine down first"),
        (vec!["rollback", "a@one"], "shut the machine down first"),
        (vec!["export", "a", "x.raw"], "export a@SNAP"),
        (vec!["lease", "break", "a"], "alive"),
    ] {
        let said = lab.fails(5, &words);
        assert!(said.contains(&holder) && said.contains(next), "{words:?}: {said}");
    }
    // Looking is always possible.
    assert!(lab.ok(&["lease", "show", "a"]).contains(&format!("process {}", std::process::id())));
    assert!(lab.ok(&["ls"]).contains(&holder[..9]));
    lab.ok(&["info", "a"]);
    lab.ok(&["map", "a"]);
    assert_eq!(lab.content("a@one").len(), 1 << 20);
    held.close().unwrap();
    lab.ok(&["resize", "a", "+1M"]);
    assert_eq!(lab.json(&["info", "a"])["size_bytes"], 2 << 20);
}

#[test]
fn shrinking_must_be_asked_for_and_shows_zeroes_after_growing_again() {
    let lab = Lab::new();
    let data = image(1 << 20);
    lab.write("in.raw", &data);
    lab.ok(&["import", "in.raw", "a"]);
    assert!(lab.fails(2, &["resize", "a", "512K"]).contains("--shrink"));
    let words = lab.ok(&["resize", "a", "512K", "--shrink", "-n"]);
    assert!(words.contains("512.0K at its end would be destroyed"), "{words}");
    assert!(lab.content("a") == data);
    lab.ok(&["resize", "a", "512K", "--shrink"]);
    lab.ok(&["resize", "a", "1M"]);
    let mut wanted = data;
    wanted[512 << 10..].fill(0);
    assert!(lab.content("a") == wanted);
}

#[test]
fn the_tree_shows_who_descends_from_whom_and_who_owns_what() {
    let lab = Lab::new();
    lab.write("in.raw", &vec![1; 256 << 10]);
    lab.ok(&["import", "in.raw", "base"]);
    lab.ok(&["snapshot", "base@s"]);
    lab.ok(&["clone", "base@s", "copy"]);
    let copy = lab.open("copy");
    copy.write_at(0, &vec![2; 64 << 10]).unwrap();
    copy.close().unwrap();
    let tree = lab.ok(&["ls", "--tree"]);
    let lines: Vec<&str> = tree.lines().collect();
    assert!(lines[0].starts_with("store 'main' (dir:"), "{tree}");
    assert!(lines[2].starts_with("└─ base"), "{tree}");
    assert!(lines[3].starts_with("   └─ @s"), "{tree}");
    assert!(lines[4].starts_with("      └─ copy"), "{tree}");
    let listed = lab.json(&["ls"]);
    let sizes = |at: usize| {
        let volume = &listed["volumes"][at];
        (volume["own_bytes"].as_u64().unwrap(), volume["shared_bytes"].as_u64().unwrap())
    };
    assert_eq!(sizes(0), (0, 256 << 10), "base");
    assert_eq!(sizes(1), (64 << 10, 192 << 10), "copy");
    let map = lab.ok(&["map", "copy"]);
    assert!(map.contains("#+++"), "{map}");
    let map = lab.json(&["map", "copy"]);
    assert_eq!(map["runs"][0]["kind"], "own");
    assert_eq!(map["runs"][1]["bytes"], 192 << 10);
    lab.ok(&["rm", "base@s"]);
    assert!(lab.ok(&["ls", "--tree"]).contains("clone of snapshot 's', which was removed"));
}

#[test]
fn renaming_keeps_the_volume() {
    let lab = Lab::new();
    lab.write("in.raw", &image(100_352));
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["create", "b", "1M"]);
    lab.fails(4, &["rename", "a", "b"]);
    lab.ok(&["rename", "a", "c"]);
    assert_eq!(lab.names(), ["b", "c"]);
    assert!(lab.content("c") == image(100_352));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let lab = Lab::without_store();
    let words = lab.fails(3, &["ls"]);
    assert!(words.contains("archipelago init") && words.contains("config.toml"), "{words}");
    lab.ok(&["init"]);
    lab.fails(4, &["init"]);
    let words = lab.fails(3, &["info", "nope"]);
    assert!(words.contains("'nope' in store 'main' (dir:") && words.contains("config.toml"), "{words}");
    lab.fails(2, &["info", "no/pe"]);
    lab.fails(2, &["create", "a", "1X"]);
    lab.fails(2, &["create", "a", "1M", "--block-size", "5000"]);
    lab.fails(2, &["nonsense"]);
    lab.fails(3, &["ls", "--store", "other"]);
    lab.fails(3, &["ls", "--config", "missing.toml"]);
    lab.ok(&["create", "a", "1M"]);
    lab.fails(4, &["create", "a", "1M"]);
    lab.fails(3, &["export", "a@none", "x"]);
    lab.write("x", b"");
    lab.fails(4, &["export", "a", "x"]);
    lab.fails(2, &["lease", "break", "a"]);
    // A damaged object is told from everything else.
    let heads = std::fs::read_dir(lab.path("store/head")).unwrap().map(|e| e.unwrap().path());
    let mut files = Vec::new();
    heads.for_each(|folder| gather(&folder, &mut files));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&files[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 100).unwrap();
    assert!(lab.fails(8, &["resize", "a", "2M"]).contains("head/"));
    // And as JSON.
    let ran = lab.run(&["--json", "info", "nope"]);
    let value: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &value["error"]["exit_code"]), (3, &Value::from(3)));
}

fn gather(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        // What is removed meanwhile is not there.
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.for_each(|entry| gather(&entry.unwrap().path(), files));
    } else {
        files.push(path.to_owned());
    }
}

#[test]
fn without_configuration_the_users_store_is_made_on_first_use() {
    let lab = Lab::without_store();
    // Root's default is the host's own: as root this runs as nobody, who may
    // not be able to reach the program where it was built.
    let program = lab.path("archipelago");
    std::fs::copy(env!("CARGO_BIN_EXE_archipelago"), &program).unwrap();
    let everyone = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(lab.folder.path(), everyone).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words).env_clear().env("HOME", lab.folder.path());
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        ran(command.output().unwrap())
    };
    // A host's own configuration comes first, as it should.
    if Path::new("/etc/archipelago/archipelago.toml").exists() {
        return;
    }
    let missing = run(&["ls"]);
    assert!(missing.code == 3 && missing.err.contains("no configuration file"), "{}", missing.err);
    assert_eq!(run(&["create", "a", "1M"]).code, 0);
    assert!(lab.path(".local/share/archipelago/store").is_dir());
}

#[test]
fn a_measurement_reads_back_what_it_wrote_and_cleans_up() {
    let lab = Lab::new();
    let value = lab.json(&["bench", "--size", "16M", "--seconds", "0"]);
    assert_eq!(value["verified_bytes"], 16 << 20);
    assert_eq!(value["rows"].as_array().unwrap().len(), 8);
    assert_eq!(lab.names(), [""; 0]);
}

#[test]
fn gc_gives_back_what_nobody_needs_and_nothing_else() {
    let lab = Lab::new();
    lab.write("in.raw", &vec![1; 256 << 10]);
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["snapshot", "a@one"]);
    lab.ok(&["clone", "a@one", "b"]);
    lab.write("in.raw", &vec![2; 640 << 10]);
    lab.ok(&["import", "in.raw", "c"]);
    assert_eq!(lab.objects("block"), 14);
    lab.ok(&["rm", "c", "a@one", "a"]);
    assert_eq!(lab.objects("block"), 14);
    // Epochs are left alone until the second collection after their claim.
    lab.ok(&["gc"]);
    let words = lab.ok(&["ls"]);
    assert!(words.contains("reclaimable: ") && words.contains("archipelago gc"), "{words}");
    // The blocks of 'c', and its log.
    let bytes = lab.json(&["ls"])["reclaimable_bytes"].as_u64().unwrap();
    assert!(bytes >= 640 << 10, "{bytes}");
    let words = lab.ok(&["gc", "-n"]);
    assert!(words.contains("would be given back") && words.contains("10 blocks"), "{words}");
    assert_eq!(lab.objects("block"), 14);
    assert!(lab.ok(&["gc"]).contains("10 blocks"));
    assert_eq!(lab.objects("block"), 4);
    assert!(lab.content("b") == vec![1; 256 << 10]);
    assert!(lab.ok(&["check"]).contains("no damage"));
    let bytes = lab.json(&["ls"])["reclaimable_bytes"].as_u64().unwrap();
    assert!(bytes < 64 << 10, "{bytes}");
}

#[test]
fn check_finds_damage_and_its_exit_code_says_so() {
    let lab = Lab::new();
    lab.write("in.raw", &vec![1; 256 << 10]);
    lab.ok(&["import", "in.raw", "a"]);
    assert_eq!(lab.json(&["check"])["sound"], true);
    std::fs::remove_file(&lab.files("block")[0]).unwrap();
    let ran = lab.run(&["check"]);
    assert_eq!(ran.code, 8, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("DAMAGE: block/") && ran.out.contains("'a'"), "{}", ran.out);
}

#[test]
fn pages_and_completions_name_every_verb() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("man")).unwrap();
    lab.ok(&["man", "man"]);
    let help = lab.ok(&["--help"]);
    let main = String::from_utf8(lab.read("man/archipelago.1")).unwrap();
    let script = lab.ok(&["completions", "bash"]);
    for verb in [
        "init", "create", "ls", "info", "rm", "rename", "resize", "snapshot", "clone", "rollback", "import",
        "export", "map", "check", "scrub", "gc", "lease", "bench", "completions",
        "move", "sync", "promote", "status",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} is not in the help");
        assert!(script.contains(verb), "{verb} is not completed");
        assert!(lab.path(&format!("man/archipelago-{verb}.1")).exists(), "{verb} has no page");
    }
    assert!(help.contains("130  interrupted") && main.contains("EXIT STATUS"), "{main}");
    assert!(main.contains("/etc/archipelago/archipelago.toml"), "{main}");
}

#[test]
fn a_pending_snapshot_is_shown_as_such_and_a_clone_waits_for_it() {
    let lab = Lab::new();
    lab.ok(&["create", "a", "1M"]);
    let held = lab.open("a");
    held.write_at(0, &[1; 4096]).unwrap();
    held.snapshot(&SnapshotName::new("one").unwrap()).unwrap();
    assert!(lab.ok(&["ls", "--tree"]).contains("pending"));
    let mut clone = lab.command(&["clone", "a@one", "b"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(clone.try_wait().unwrap().is_none(), "it does not wait");
    held.publish_all().unwrap();
    assert!(clone.wait().unwrap().success());
    assert!(!lab.ok(&["ls", "--tree"]).contains("pending"));
    held.close().unwrap();
    assert_eq!(lab.content("b")[..4096], [1; 4096]);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
