//! What a moved volume takes in the other store.

use archipelago::backend::BackendExt;
use archipelago::io::{Device, Operation};
use archipelago::name::prefix;
use archipelago::store::Store;
use archipelago::sys::iobuf::IoBuf;

use super::bed::{ask, make, move_to, open, place, snap, Kind, BLOCK};

const BLOCKS: u64 = 32;

fn write(device: &Device, at: u64, bytes: usize, byte: u8) {
    let buf = IoBuf::copy_of(&vec![byte; bytes]);
    ask(device, at, Operation::Write { buf, fua: false }).unwrap();
}

fn room_of_blocks(store: &Store) -> u64 {
    let names = store.blocks().list_all(prefix::BLOCKS).unwrap();
    names.iter().map(|name| store.blocks().stat(name).unwrap().allocated_bytes).sum()
}

/// A layer has a few granules, and the rest of it is a hole. A copy that has
/// zeroes there takes a whole block for each.
#[test]
fn what_is_sparse_here_is_sparse_there() {
    let (here, there) = (place(&Kind::Dir, "here"), place(&Kind::Dir, "there"));
    let (here, there) = (&here.store, &there.store);
    make(here, "v", BLOCKS * BLOCK);
    let device = open(here, "v");
    write(&device, 0, (BLOCKS * BLOCK) as usize, 7);
    device.snapshot(&snap("base")).unwrap();
    (0..BLOCKS).for_each(|block| write(&device, block * BLOCK + 8192, 4096, 9));
    device.snapshot(&snap("s")).unwrap();
    device.volume().publish_all().unwrap();
    let taken = room_of_blocks(here);
    assert!(taken < (BLOCKS + BLOCKS / 2) * BLOCK, "{taken} bytes: this file system makes nothing sparse");
    let report = move_to(&device, there).unwrap();
    assert!(report.copied.blocks >= 2 * BLOCKS, "{report:?}");
    device.close().unwrap();
    let takes = room_of_blocks(there);
    assert!(takes <= taken + taken / 8, "what took {taken} bytes takes {takes} where it was moved to");
}
