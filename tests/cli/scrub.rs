//! What can go wrong: rot is not told, or without whose it is; a script does
//! not see it in the exit code; an interrupted scrub says that all is well.

use std::os::unix::fs::FileExt;
use std::process::Stdio;

use super::Lab;

fn flip(file: &std::path::Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn scrub_finds_what_rots_and_says_whose_it_is() {
    let lab = Lab::new();
    assert!(lab.ok(&["scrub", "--status"]).contains("never scrubbed"));
    lab.write("in.raw", &vec![1; 256 << 10]);
    lab.ok(&["import", "in.raw", "a"]);
    assert!(lab.ok(&["scrub"]).contains("4 blocks that only volumes have are without one"));
    lab.ok(&["snapshot", "a@one"]);
    assert!(lab.ok(&["scrub"]).contains("4 blocks of snapshots have a checksum now"));
    let report = lab.json(&["scrub"]);
    assert_eq!((&report["sound"], &report["ended"]), (&true.into(), &true.into()), "{report}");
    assert_eq!(report["compared"]["objects"], 4, "{report}");
    let file = lab.files("block").remove(2);
    flip(&file, 12_345);
    let ran = lab.run(&["scrub"]);
    assert_eq!(ran.code, 8, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("DAMAGE: block/") && ran.out.contains("of 'a@one'"), "{}", ran.out);
    assert!(lab.ok(&["scrub", "--status"]).contains("1 DAMAGED"));
    flip(&file, 12_345);
    assert!(lab.ok(&["scrub"]).contains("no damage"));
    assert!(lab.ok(&["scrub", "--status"]).contains("4 blocks (256.0K) compared, no damage"));
    assert!(lab.content("a@one") == vec![1; 256 << 10]);
    assert!(lab.ok(&["check"]).contains("no damage"));
}

/// What rotted between two scrubs would go into a copy, and be taken for good.
#[test]
fn an_export_compares_what_has_a_checksum() {
    let lab = Lab::new();
    // More than is copied at a time, and zeroes between.
    let mut content = vec![0; 3 << 20];
    content[..700 << 10].fill(1);
    content[2 << 20..].fill(2);
    lab.write("in.raw", &content);
    lab.ok(&["import", "--block-size", "64K", "in.raw", "a"]);
    let verified = |words: &[&str]| lab.json(words)["verified_blocks"].as_u64().unwrap();
    assert_eq!(verified(&["export", "a", "out.raw"]), 0, "nothing has one");
    lab.ok(&["snapshot", "a@one"]);
    lab.ok(&["clone", "a@one", "b"]);
    lab.ok(&["scrub"]);
    assert_eq!(verified(&["export", "a@one", "out.raw", "--force"]), 11 + 16);
    assert!(lab.content("a@one") == content);
    let file = lab.files("block").remove(20);
    flip(&file, 54_321);
    let out = lab.path("damaged.raw");
    let ran = lab.run(&["export", "a@one", "damaged.raw"]);
    assert_eq!(ran.code, 8, "{} {}", ran.out, ran.err);
    assert!(ran.err.contains("block/") && ran.err.contains("volume 'a'"), "{}", ran.err);
    assert!(!out.exists() && ran.err.contains("nothing is left behind"), "{}", ran.err);
    assert_eq!(lab.run(&["export", "a@one", "-"]).code, 8);
    flip(&file, 54_321);
    // A clone made since has the sums too.
    lab.ok(&["clone", "a@one", "c"]);
    assert_eq!(verified(&["export", "c", "out.raw", "--force"]), 11 + 16);
    flip(&file, 54_321);
    assert_eq!(lab.run(&["export", "c", "damaged.raw"]).code, 8);
}

#[test]
fn an_interrupted_scrub_says_so_and_goes_on() {
    let lab = Lab::new();
    lab.write("in.raw", &vec![1; 1 << 20]);
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["snapshot", "a@one"]);
    lab.ok(&["scrub"]);
    let slow = ["--progress", "scrub", "--limit", "32K"];
    let mut running = lab.command(&slow).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has begun as soon as it tells how far it is.
    let mut told = running.stderr.take().unwrap();
    std::io::Read::read_exact(&mut told, &mut [0]).unwrap();
    assert_eq!(lab.run(&["scrub"]).code, 5, "nobody else scrubs meanwhile");
    let interrupted = std::process::Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let code = running.wait().unwrap().code();
    let mut words = String::new();
    std::io::Read::read_to_string(&mut running.stdout.take().unwrap(), &mut words).unwrap();
    assert_eq!(code, Some(130), "{words}");
    assert!(words.contains("no damage so far; interrupted"), "{words}");
    assert!(lab.ok(&["scrub", "--status"]).contains("not ended yet"));
    let words = lab.ok(&["scrub"]);
    assert!(words.contains("going on where it was interrupted"), "{words}");
    assert!(lab.ok(&["scrub", "--status"]).contains("16 blocks (1.0M) compared"));
}
