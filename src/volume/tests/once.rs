//! What can go wrong where a block is made once: it is made a second time in its
//! epoch, and the name means two contents; or it is not made again, and what was
//! written is only in a log that is full. (The crash states are in tests/crash.)

use super::*;
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::error::ErrorKind;
use crate::name::prefix;

fn lab() -> (Faulty, Store, Arc<Volume>) {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let backend = Arc::new(Only::new(Arc::new(faulty.clone()), Part::BlocksOnce));
    let store = Store::init("test", backend, BLOCK).unwrap();
    names::create(&store, &name("v"), 64 * BLOCK, BLOCK).unwrap();
    let volume = open(&store, "v");
    (faulty, store, volume)
}

fn write(volume: &Arc<Volume>, at: u64, bytes: u64, fill: u8) -> Way {
    let begun = volume.begin_write_now(at / BLOCK, (at % BLOCK) as u32, (at % BLOCK + bytes) as u32).unwrap();
    volume.carry_out(&begun, &IoBuf::copy_of(&vec![fill; bytes as usize])).unwrap();
    begun.way
}

fn blocks(store: &Store) -> usize {
    use crate::backend::BackendExt;
    store.blocks().list_all(prefix::BLOCKS).unwrap().len()
}

fn byte(volume: &Volume, at: u64) -> u8 {
    let mut data = [0];
    volume.read_at(at, &mut data).unwrap();
    data[0]
}

#[test]
fn a_block_is_made_once_in_an_epoch() {
    let (_, store, volume) = lab();
    assert_eq!(write(&volume, 0, 4096, 1), Way::Log, "a part");
    assert_eq!(write(&volume, 0, BLOCK, 2), Way::Create, "all of it");
    assert_eq!(write(&volume, 0, BLOCK, 3), Way::Log, "again");
    assert_eq!(write(&volume, BLOCK, BLOCK, 4), Way::Create);
    let epoch = volume.state.lock().epoch();
    // Another block's pieces go into the same epoch, these into a new one.
    assert_eq!(write(&volume, 3 * BLOCK + 512, 512, 5), Way::Log);
    volume.settle_all().unwrap();
    assert_ne!(volume.state.lock().epoch(), epoch);
    assert_eq!(blocks(&store), 4);
    assert_eq!([0, BLOCK, 3 * BLOCK, 3 * BLOCK + 512].map(|at| byte(&volume, at)), [3, 4, 0, 5]);
    let epoch = volume.state.lock().epoch();
    assert_eq!(write(&volume, 7 * BLOCK + 512, 512, 6), Way::Log);
    volume.settle_all().unwrap();
    assert_eq!(volume.state.lock().epoch(), epoch, "nothing of it was made before");
    volume.close().unwrap();
    let volume = open(&store, "v");
    assert_eq!(volume.state.lock().epoch(), epoch, "a clean close keeps it");
    assert_eq!(write(&volume, 7 * BLOCK, BLOCK, 7), Way::Log, "made before it was closed");
    assert_eq!(write(&volume, 8 * BLOCK, BLOCK, 8), Way::Create);
    volume.close().unwrap();
    assert_eq!(byte(&open(&store, "v"), 7 * BLOCK), 7);
}

/// Its name may hold what nobody knows: it is not used in this epoch, nor in that
/// of the next holder.
#[test]
fn a_block_whose_making_failed_is_made_in_another_epoch() {
    for settles in [false, true] {
        let (faulty, store, volume) = lab();
        write(&volume, 0, 4096, 1);
        faulty.inject(Rule::new(Fault::FailAfterApplying).on(Method::Create).named(prefix::BLOCKS));
        let result = match settles {
            true => volume.settle_all(),
            false => volume.write_at(0, &vec![2; BLOCK as usize]),
        };
        assert!(result.unwrap_err().is(ErrorKind::Unknown), "{settles}");
        assert_eq!(blocks(&store), 1, "it was applied");
        assert_eq!(byte(&volume, 0), 1);
        assert_eq!(write(&volume, 0, BLOCK, 3), Way::Log);
        volume.settle_all().unwrap();
        assert_eq!((byte(&volume, 0), blocks(&store)), (3, 2));
        volume.close().unwrap();
        assert_eq!(byte(&open(&store, "v"), 0), 3);
    }
}

/// A holder died while it settled for a snapshot: the next one makes the same.
#[test]
fn what_a_dead_holder_has_made_for_a_snapshot_is_taken() {
    let (faulty, store, volume) = lab();
    write(&volume, 0, BLOCK, 1);
    write(&volume, 512, 1024, 2);
    volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    write(&volume, 512, 512, 3);
    volume.flush().unwrap();
    let before = blocks(&store);
    faulty.inject(Rule::new(Fault::FailAfterApplying).on(Method::Create).named(prefix::BLOCKS));
    assert!(volume.publish_all().is_err());
    assert_eq!(blocks(&store), before + 1);
    volume.abandon();
    let volume = open(&store, "v");
    volume.publish_all().unwrap();
    assert_eq!(blocks(&store), before + 1, "it is the same");
    let snapshot = Volume::open_snapshot(&store, &name("v"), &SnapshotName::new("s").unwrap()).unwrap();
    assert_eq!([0, 512, 1024].map(|at| byte(&snapshot, at)), [1, 2, 2]);
    assert_eq!([0, 512, 1024].map(|at| byte(&volume, at)), [1, 3, 2]);
}

/// Zeroes are an entry, also where the block was just made, and no block of them.
#[test]
fn a_discarded_block_is_made_again_in_another_epoch() {
    let (_, store, volume) = lab();
    write(&volume, 0, BLOCK, 1);
    volume.flush().unwrap();
    volume.write_zeroes(0, BLOCK).unwrap();
    volume.write_zeroes(BLOCK + 512, 512).unwrap();
    assert_eq!(byte(&volume, 0), 0);
    assert_eq!(write(&volume, 0, BLOCK, 2), Way::Log);
    volume.write_zeroes(0, BLOCK).unwrap();
    volume.close().unwrap();
    let volume = open(&store, "v");
    assert_eq!((byte(&volume, 0), blocks(&store)), (0, 1));
    assert_eq!(write(&volume, 0, BLOCK, 3), Way::Create, "in the next epoch");
    volume.close().unwrap();
    assert_eq!(byte(&open(&store, "v"), 0), 3);
}

/// Far more than the log holds, scattered, over blocks that are there.
#[test]
fn a_full_log_is_settled_into_new_epochs() {
    let (_, _store, volume) = lab();
    let mut model = vec![0; 64 * BLOCK as usize];
    volume.write_at(0, &vec![9; model.len()]).unwrap();
    model.fill(9);
    let mut random = Seeded(5);
    for round in 0..1500_u64 {
        let at = random.next(64 * BLOCK / 4096) * 4096;
        let fill = (round % 200) as u8 + 1;
        volume.write_at(at, &[fill; 4096]).unwrap();
        model[at as usize..at as usize + 4096].fill(fill);
    }
    assert_same(&volume, &model, "after all");
    volume.settle_all().unwrap();
    assert_same(&volume, &model, "settled");
}
