//! What can go wrong: a volume goes from one process of a host to another and
//! back, as when a migration fails. The second is killed, and what it had
//! written is in the page cache alone. The first still remembers these blocks
//! as written by itself and synced, does not sync them again, serves what is
//! in them, says that a flush is done, and a loss of power takes it.
//!
//! How this proves that it does not: two stores of type `dir` on one model of
//! a file system are the two processes. The volume goes there and back, and
//! then the power fails, in every way that the model knows.

#![allow(clippy::unwrap_used, clippy::panic)]

mod dir_model;

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::dir_sys::{FileSystem, Files};
use archipelago::catalog::volume as names;
use archipelago::log::LogOptions;
use archipelago::name::VolumeName;
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};
use dir_model::Model;

const EXT4: FileSystem = FileSystem { local: true, syncfs: true };
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
