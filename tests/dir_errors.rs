//! What can go wrong: a system call of `dir` fails, and `dir` forgets it (the
//! kernel reports a lost write once), guesses what a lost answer of a server
//! meant, or leaves half of an object behind.
//!
//! How this proves that it does not: `dir` runs on a model of a file system in
//! which one call fails, before or after doing its work.

#![allow(clippy::unwrap_used)]

mod dir_model;

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::dir_sys::{FileSystem, Files, Layout};
use archipelago::backend::{Backend, BackendExt};
use archipelago::name::{prefix, Id, ObjectName};
use archipelago::ErrorKind;
use dir_model::{Fail, Model};

const EXT4: FileSystem = FileSystem {
    local: true,
    syncfs: true,
    syncfs_flushes: true,
    tells_late: false,
    names_with_files: false,
    layout: Layout::Wide,
};
const NFS: FileSystem = FileSystem { local: false, syncfs: false, tells_late: true, ..EXT4 };

fn new(file_system: FileSystem, open_files_max: usize) -> (Arc<Model>, Dir) {
    let model = Model::new(file_system, None);
    let files = Arc::clone(&model) as Arc<dyn Files>;
    let options = DirOptions { open_files_max, ..DirOptions::default() };
    let dir = Dir::create_on(files, Path::new("/model"), options).unwrap();
    (model, dir)
}

fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(77), index }
}

fn head(number: u64) -> ObjectName {
    ObjectName::Head { volume: Id(5), number }
}

fn blocks(dir: &Dir, count: u64) -> Vec<ObjectName> {
    let names: Vec<ObjectName> = (0..count).map(block).collect();
    for name in &names {
        dir.create_sparse(name, 512).unwrap();
        dir.write_at(name, 0, b"data").unwrap();
    }
    names
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    for call in ["fdatasync", "fsync"] {
        let (model, dir) = new(EXT4, 256);
        let names = blocks(&dir, 3);
        model.fail_next(call, Fail::Before(libc::EIO));
        assert_eq!(dir.sync(&names[..1]).unwrap_err().kind(), ErrorKind::Unknown);
        // The kernel would say that all is well now.
        for _ in 0..2 {
            assert_eq!(dir.sync(&names[..1]).unwrap_err().kind(), ErrorKind::Unknown, "{call}");
        }
        dir.write_at(&names[0], 0, b"more").unwrap();
        assert!(dir.sync(&names).is_err());
        dir.sync(&names[1..]).unwrap();
    }
}

#[test]
fn a_failed_sync_of_everything_fails_all_that_was_unsynced() {
    let (model, dir) = new(EXT4, 256);
    let names = blocks(&dir, 8);
    dir.sync(&names[..1]).unwrap();
    model.fail_next("syncfs", Fail::Before(libc::EIO));
    assert!(dir.sync(&names[..6]).is_err());
    for name in &names[1..] {
        assert!(dir.sync(std::slice::from_ref(name)).is_err(), "{name}");
    }
    dir.sync(&names[..1]).unwrap();
}

/// The error of a write comes with the sync that makes room for another file.
#[test]
fn an_error_before_closing_a_file_reaches_the_next_sync() {
    let (model, dir) = new(NFS, 2);
    let names = blocks(&dir, 2);
    model.fail_next("fdatasync", Fail::Before(libc::EIO));
    for index in 10..16 {
        dir.create(&block(index), b"x").unwrap();
        dir.read_at(&block(index), 0, &mut [0]).unwrap();
    }
    let failed = names.iter().filter(|name| dir.sync(std::slice::from_ref(*name)).is_err()).count();
    assert_eq!(failed, 1);
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    for (call, errno) in [
        ("create", libc::ENOSPC),
        ("pwrite", libc::EDQUOT),
        ("fsync", libc::ENOSPC),
        ("link", libc::ENOSPC),
        ("mkdir", libc::EDQUOT),
    ] {
        let (model, dir) = new(EXT4, 256);
        model.fail_next(call, Fail::Before(errno));
        assert_eq!(dir.create(&head(1), b"data").unwrap_err().kind(), ErrorKind::NoSpace, "{call}");
        assert!(dir.list_all(prefix::ALL).unwrap().is_empty());
        assert!(model.names_in("tmp").is_empty(), "{call}");
        dir.create(&head(1), b"data").unwrap();
    }
    let (model, dir) = new(EXT4, 256);
    model.fail_next("truncate", Fail::Before(libc::ENOSPC));
    assert_eq!(dir.create_sparse(&block(1), 512).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(dir.list_all(prefix::ALL).unwrap().is_empty());
}

/// A server that is full is told of by the write after the one that is lost,
/// and by no sync after that.
#[test]
fn a_full_server_has_lost_what_was_not_synced() {
    for (file_system, is_lost) in [(EXT4, false), (NFS, true)] {
        let (model, dir) = new(file_system, 256);
        let names = blocks(&dir, 2);
        model.fail_next("pwrite", Fail::Before(libc::ENOSPC));
        assert_eq!(dir.write_at(&names[0], 0, b"more").unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(dir.sync(&names[..1]).is_err(), is_lost);
        assert_eq!(dir.sync_content(&names[..1]).is_err(), is_lost, "forgotten");
        dir.sync(&names[1..]).unwrap();
    }
}

/// A server made the link, and the answer was lost or is that of the second
/// try.
#[test]
fn a_link_is_known_by_its_inode() {
    for errno in [libc::EEXIST, libc::EIO, libc::ETIMEDOUT] {
        let (model, dir) = new(NFS, 256);
        model.fail_next("link", Fail::After(errno));
        dir.create(&head(1), b"data").unwrap();
        assert_eq!(dir.read_all(&head(1), 100).unwrap(), b"data");
        // Nothing was done this time, and that is not certain.
        model.fail_next("link", Fail::Before(libc::EIO));
        assert_eq!(dir.create(&head(2), b"data").unwrap_err().kind(), ErrorKind::Unknown);
        // It is somebody else's now: certain again.
        model.fail_next("link", Fail::Before(libc::EEXIST));
        assert_eq!(dir.create(&head(1), b"mine").unwrap_err().kind(), ErrorKind::Exists);
    }
}

#[test]
fn an_object_whose_name_is_not_durable_is_unknown() {
    let (model, dir) = new(EXT4, 256);
    dir.create(&head(1), b"data").unwrap();
    // The content's sync succeeds; that of the directory is the next one.
    model.fail_after(1, "fsync", Fail::Before(libc::EIO));
    assert_eq!(dir.create(&block(2), b"data").unwrap_err().kind(), ErrorKind::Unknown);
    assert_eq!(dir.read_all(&block(2), 100).unwrap(), b"data");
}

#[test]
fn a_stale_file_is_looked_up_once_more() {
    let (model, dir) = new(NFS, 256);
    dir.create(&block(1), b"data").unwrap();
    for call in ["pread", "pwrite"] {
        if call == "pwrite" {
            model.fail_next(call, Fail::Before(libc::ESTALE));
        }
        dir.write_at(&block(1), 0, b"more").unwrap();
        dir.sync(&[block(1)]).unwrap();
        if call == "pread" {
            model.fail_next(call, Fail::Before(libc::ESTALE));
        }
        assert_eq!(dir.read_all(&block(1), 100).unwrap(), b"more");
        dir.sync(&[block(1)]).unwrap();
    }
    // With unsynced writes in it the loss is remembered.
    dir.write_at(&block(1), 0, b"lost").unwrap();
    model.fail_next("pread", Fail::Before(libc::ESTALE));
    dir.read_all(&block(1), 100).unwrap();
    assert_eq!(dir.sync(&[block(1)]).unwrap_err().kind(), ErrorKind::Unknown);
}

/// Files that a crashed creator and a network file system have left.
#[test]
fn what_is_not_ours_is_passed_over() {
    let (model, dir) = new(NFS, 256);
    dir.create(&head(1), b"data").unwrap();
    for path in ["head/.nfs0001", "volume/.nfs0002", "block/00/junk", "map/00/00", "lost+found", "tmp/x"] {
        model.create(path, 0, None).unwrap();
    }
    // A block in a directory that is not its own.
    model.create(&format!("block/00/{}.{:016x}", Id(77), 1), 0, None).unwrap();
    assert_eq!(dir.list_all(prefix::ALL).unwrap(), [head(1)]);
}
