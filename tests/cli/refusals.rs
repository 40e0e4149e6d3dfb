//! What can go wrong: a command that is refused has by then taken the lease,
//! ended an epoch or published a snapshot; a script that tries again and again
//! wears the store out, and a machine that starts at that moment finds its
//! disk in use. Each of these is refused, and afterwards every file of the
//! store is there as it was.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{gather, image, Lab};

/// Every file: what it holds, and when that was last changed.
fn files(lab: &Lab) -> BTreeMap<PathBuf, (Vec<u8>, i64, u64)> {
    let mut found = Vec::new();
    gather(&lab.path("store"), &mut found);
    let described = found.into_iter().map(|path| {
        let stat = std::fs::metadata(&path).unwrap();
        let (content, inode) = (std::fs::read(&path).unwrap(), stat.ino());
        (path, (content, stat.mtime_nsec(), inode))
    });
    described.collect()
}

#[test]
fn what_is_refused_touches_nothing() {
    let lab = Lab::new();
    lab.write("in.raw", &image(1 << 20));
    lab.ok(&["import", "in.raw", "v"]);
    lab.ok(&["snapshot", "v@one"]);
    lab.ok(&["create", "other", "1M"]);
    // A snapshot that is taken and not published: only the log knows it.
    let held = lab.open("v");
    held.write_at(0, &[3; 4096]).unwrap();
    held.snapshot(&archipelago::name::SnapshotName::new("pending").unwrap()).unwrap();
    held.abandon();
    drop(held);
    let before = files(&lab);
    for (code, words, says) in [
        (3, vec!["rollback", "v@never"], "'never'"),
        (3, vec!["rollback", "v@never", "--dry-run"], "'never'"),
        (3, vec!["rm", "v@never"], "'never'"),
        (4, vec!["snapshot", "v@one"], "'one'"),
        (4, vec!["snapshot", "v@pending"], "'pending'"),
        (2, vec!["resize", "v", "512K"], "--shrink"),
        (2, vec!["resize", "v", "15000P"], "bytes"),
        (3, vec!["clone", "v@never", "copy"], "'never'"),
        (4, vec!["clone", "v@pending", "other"], "'other'"),
        (4, vec!["rename", "v", "other"], "'other'"),
        (3, vec!["resize", "nobody", "1M"], "'nobody'"),
    ] {
        let said = lab.fails(code, &words);
        assert!(said.contains(says), "{words:?}: {said}");
        let after = files(&lab);
        let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
        assert!(after == before, "{words:?} changed something; new: {new:?}");
    }
    lab.ok(&["rollback", "v@pending", "--dry-run"]);
    assert!(files(&lab) == before);
    lab.ok(&["rollback", "v@pending"]);
    let mut wanted = image(1 << 20);
    wanted[..4096].fill(3);
    assert!(lab.content("v") == wanted);
}

/// The size is what the log says, if it says so later than the head.
#[test]
fn sizes_that_only_the_log_knows_are_added_to() {
    let lab = Lab::new();
    lab.ok(&["create", "v", "1M"]);
    let held = lab.open("v");
    held.resize(2 << 20, false).unwrap();
    held.abandon();
    drop(held);
    let said = lab.ok(&["resize", "v", "+1M", "--dry-run"]);
    assert!(said.contains("from 2.0M to 3.0M"), "{said}");
    lab.ok(&["resize", "v", "+1M"]);
    assert_eq!(lab.json(&["info", "v"])["size_bytes"], 3 << 20);
}
