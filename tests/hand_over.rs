//! What can go wrong: a volume goes from one process of a host to another and
//! back, as when a migration fails. The second is killed, and what it had
//! written is in the page cache alone. The first still remembers these blocks
//! as written by itself and synced, does not sync them again, serves what is
//! in them, says that a flush is done, and a loss of power takes it.
//!
//! Or: a process keeps a segment of the log open that its holder had made
//! ahead of need and deleted when it closed the volume. The next holder makes
//! a segment of that number again. The process goes on looking at the old one,
//! and sees damage, or misses writes; if it becomes the holder itself, as the
//! target of a migration does, it writes to a file that has no name any more.
//!
//! How this proves that it does not: several stores of type `dir` on one model
//! of a file system, or in one directory, are the processes. The volume goes
//! there and back, and then the power fails, in every way that the model
//! knows; or the volume is closed with a segment made ahead of need that
//! somebody looks at, and all that is written later must be seen by everybody.

#![allow(clippy::unwrap_used, clippy::panic)]

mod dir_model;

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::BackendExt;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::dir_sys::{FileSystem, Files, Layout};
use archipelago::catalog::volume as names;
use archipelago::log::LogOptions;
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{Mode, OpenOptions, Volume};
use dir_model::client::Client;
use dir_model::Model;

const EXT4: FileSystem = FileSystem {
    local: true,
    syncfs: true,
    syncfs_flushes: true,
    tells_late: false,
    names_with_files: false,
    layout: Layout::Wide,
};
const BLOCK_BYTES: u64 = 16 << 10;
const BLOCKS: u64 = 8;

/// A process that has opened the store.
fn process(model: &Arc<Model>) -> Store {
    let files = Arc::clone(model) as Arc<dyn Files>;
    let dir = Dir::open_on(files, Path::new("/model"), DirOptions::default()).unwrap();
    Store::open("test", Arc::new(dir)).unwrap()
}

fn open(store: &Store) -> Arc<Volume> {
    let log =
        LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, batch_bytes_max: 64 << 10 };
    let options = OpenOptions { log, ..OpenOptions::default() };
    Volume::open(store, &VolumeName::new("v").unwrap(), &options).unwrap()
}

fn write(volume: &Arc<Volume>, blocks: u64, fill: u8) {
    (0..blocks).for_each(|block| volume.write_at(block * BLOCK_BYTES, &[fill; 4096]).unwrap());
}

fn first_bytes(volume: &Arc<Volume>, blocks: u64) -> Vec<u8> {
    let first_byte = |block| {
        let mut data = [0; 1];
        volume.read_at(block * BLOCK_BYTES, &mut data).unwrap();
        data[0]
    };
    (0..blocks).map(first_byte).collect()
}

/// Few blocks are synced one by one, many by one sync of the file system.
fn there_and_back(blocks: u64) {
    let model = Model::new(EXT4, None);
    let files = Arc::clone(&model) as Arc<dyn Files>;
    let dir = Dir::create_on(files, Path::new("/model"), DirOptions::default()).unwrap();
    let first = Store::init("test", Arc::new(dir), BLOCK_BYTES).unwrap();
    names::create(&first, &VolumeName::new("v").unwrap(), BLOCKS * BLOCK_BYTES, BLOCK_BYTES).unwrap();
    let volume = open(&first);
    write(&volume, blocks, 1);
    volume.close().unwrap();

    let second = process(&model);
    let volume = open(&second);
    write(&volume, blocks, 2);
    volume.abandon();
    drop(volume);

    let volume = open(&first);
    let shown = first_bytes(&volume, blocks);
    assert!(shown.iter().all(|byte| [1, 2].contains(byte)), "{shown:?}");
    volume.flush().unwrap();
    for state in model.state().crashes() {
        let after = process(&Model::from_state(state.unwrap(), EXT4, None));
        assert_eq!(first_bytes(&open(&after), blocks), shown, "after a loss of power, {blocks} blocks");
    }
}

#[test]
fn what_another_process_left_is_made_durable_by_one_that_had_the_volume_before() {
    there_and_back(1);
    there_and_back(BLOCKS);
}

/// As on NFS, where a client shows what it remembers of a file that it has
/// open: a volume that comes back showed what had been in its blocks, and in
/// its log, when this process had it last.
#[test]
fn what_another_client_wrote_is_seen_by_one_that_remembers_the_files() {
    let server = Model::new(FileSystem { local: false, syncfs: false, ..EXT4 }, None);
    let files = Arc::clone(&server) as Arc<dyn Files>;
    let dir = Dir::create_on(files, Path::new("/model"), DirOptions::default()).unwrap();
    let made = Store::init("test", Arc::new(dir), BLOCK_BYTES).unwrap();
    names::create(&made, &VolumeName::new("v").unwrap(), BLOCKS * BLOCK_BYTES, BLOCK_BYTES).unwrap();
    let client = || {
        let files = Client::of(&server) as Arc<dyn Files>;
        let dir = Dir::open_on(files, Path::new("/model"), DirOptions::default()).unwrap();
        Store::open("test", Arc::new(dir)).unwrap()
    };
    let clients = [client(), client()];
    for turn in 1..9 {
        let volume = open(&clients[turn % 2]);
        let before = turn as u8 - 1;
        assert_eq!(first_bytes(&volume, BLOCKS), [before; BLOCKS as usize], "turn {turn}");
        write(&volume, BLOCKS, turn as u8);
        volume.flush().unwrap();
        assert_eq!(first_bytes(&volume, BLOCKS), [turn as u8; BLOCKS as usize]);
        volume.close().unwrap();
        let inactive = open_as(&clients[(turn + 1) % 2], Mode::Inactive);
        assert_eq!(first_bytes(&inactive, BLOCKS), [turn as u8; BLOCKS as usize], "turn {turn}");
    }
}

/// A directory, and a process that has made a store and a volume in it.
fn in_a_directory() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let dir = Dir::create(folder.path(), DirOptions::default()).unwrap();
    let store = Store::init("test", Arc::new(dir), BLOCK_BYTES).unwrap();
    names::create(&store, &VolumeName::new("v").unwrap(), BLOCKS * BLOCK_BYTES, BLOCK_BYTES).unwrap();
    (folder, store)
}

fn process_in(folder: &tempfile::TempDir) -> Store {
    Store::open("test", Arc::new(Dir::open(folder.path(), DirOptions::default()).unwrap())).unwrap()
}

/// The first segment is small, so that the next one is made at once.
fn options(mode: Mode) -> OpenOptions {
    let log =
        LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 32 << 10, batch_bytes_max: 64 << 10 };
    OpenOptions { mode, force_share: true, log, ..OpenOptions::default() }
}

fn open_as(store: &Store, mode: Mode) -> Arc<Volume> {
    Volume::open(store, &VolumeName::new("v").unwrap(), &options(mode)).unwrap()
}

/// A granule of the first block that is not written before the volume is
/// closed, so that what is written there is logged.
const LATER_BYTES: u64 = 8192;

fn later_byte(volume: &Arc<Volume>) -> u8 {
    let mut data = [0; 1];
    volume.read_at(LATER_BYTES, &mut data).unwrap();
    data[0]
}

fn segments(store: &Store, volume: &Volume) -> Vec<u64> {
    let names = store.log().list_all(&prefix::segments_of(volume.id)).unwrap();
    let number = |name: ObjectName| match name {
        ObjectName::Segment { number, .. } => number,
        other => panic!("{other} is no segment"),
    };
    names.into_iter().map(number).collect()
}

/// Logs a small write and has the next segment made; another process looks at
/// all of it, and the volume is closed. Returns the number of that segment.
fn look_and_close(writer: &Store, other: &Store, mode: Mode) -> u64 {
    let volume = open_as(writer, Mode::Writable);
    volume.write_at(0, &[1; BLOCK_BYTES as usize]).unwrap();
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    volume.publish_all().unwrap();
    volume.write_at(0, &[2; 512]).unwrap();
    while volume.wants_segment() {
        volume.work(false).unwrap();
    }
    let ahead = segments(writer, &volume).pop().unwrap();
    assert_eq!(first_bytes(&open_as(other, mode), 1), [2]);
    volume.close().unwrap();
    ahead
}

/// What `volume` logs is in a segment whose number was never used before.
fn log_a_write(store: &Store, volume: &Arc<Volume>, ahead: u64) {
    volume.write_at(LATER_BYTES, &[3; 512]).unwrap();
    volume.flush().unwrap();
    let last = segments(store, volume).pop().unwrap();
    assert!(last > ahead, "segment {last} is made, and {ahead} was there before");
}

#[test]
fn a_process_that_looked_at_a_log_sees_what_the_next_holder_writes() {
    for mode in [Mode::ReadOnly, Mode::Inactive] {
        let (folder, writer) = in_a_directory();
        let other = process_in(&folder);
        let ahead = look_and_close(&writer, &other, mode);
        let volume = open_as(&writer, Mode::Writable);
        log_a_write(&writer, &volume, ahead);
        assert_eq!(later_byte(&open_as(&other, mode)), 3, "{mode:?}, beside the holder");
        volume.abandon();
        assert_eq!(later_byte(&open_as(&other, Mode::Writable)), 3, "{mode:?}, taken over");
    }
}

#[test]
fn the_target_of_a_migration_writes_where_others_find_it() {
    let (folder, source) = in_a_directory();
    let target = process_in(&folder);
    let ahead = look_and_close(&source, &target, Mode::Inactive);
    let volume = open_as(&target, Mode::Writable);
    log_a_write(&target, &volume, ahead);
    volume.abandon();
    drop((volume, target));
    assert_eq!(later_byte(&open_as(&process_in(&folder), Mode::Writable)), 3);
}

/// A store that an older version of this program has used, say.
#[test]
fn what_is_made_is_what_is_read_and_written_whoever_removed_the_name_before() {
    let (folder, first) = in_a_directory();
    let second = process_in(&folder);
    let names = [
        ObjectName::Segment { volume: Id(1), number: 1 },
        ObjectName::Block { epoch: Id(2), index: 3 },
        ObjectName::Block { epoch: Id(2), index: 4 },
    ];
    for (at, name) in names.iter().enumerate() {
        let (ours, theirs) = (first.blocks(), second.blocks());
        theirs.create(name, &[1; 4096]).unwrap();
        ours.write_at(name, 0, &[2; 512]).unwrap();
        theirs.delete(name).unwrap();
        match at {
            0 => ours.create(name, &[3; 8192]).unwrap(),
            1 => ours.create_sparse(name, 8192).unwrap(),
            _ => ours.copy(&names[0], name).unwrap(),
        }
        ours.write_at(name, 4096, &[4; 512]).unwrap();
        ours.sync(std::slice::from_ref(name)).unwrap();
        let shown = ours.read_all(name, 8192).unwrap();
        assert_eq!((shown.len(), shown[4096]), (8192, 4), "{name}");
        let stored = process_in(&folder).blocks().read_all(name, 8192).unwrap();
        assert!(shown == stored, "{name}");
    }
}
