//! Who reads a whole map compares each block with its sum on the way: each
//! once, and those alone that he comes to.

use archipelago::catalog::head;
use archipelago::maintain::verify::Verifier;
use archipelago::map::Root;

use super::*;

/// Blocks 0 to 5 and 1025, two granules of block 7, and all summed.
fn summed() -> (Memory, Store, Root) {
    let (memory, store) = new_store();
    names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
    let volume = open(&store, "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 6 * BLOCK, 1);
    write(&volume, &mut content, 1025 * BLOCK, BLOCK, 2);
    write(&volume, &mut content, 7 * BLOCK, BLOCK, 3);
    volume.snapshot(&snap("a")).unwrap();
    write(&volume, &mut content, 7 * BLOCK + 4096, 8192, 4);
    volume.snapshot(&snap("b")).unwrap();
    volume.publish_all().unwrap();
    volume.close().unwrap();
    assert!(run(&store).is_sound());
    let id = names::lookup(&store, &name("v")).unwrap();
    let root = snapshots::find(&store, id, &snap("b")).unwrap().root;
    (memory, store, root)
}

#[test]
fn a_block_is_compared_once_before_it_is_read() {
    let (_, store, root) = summed();
    let mut verifier = Verifier::of_map(&store, root, BLOCK).unwrap();
    // A range, and how many have been compared after it.
    for (offset_bytes, bytes, verified) in [
        (512, 512, 1),
        (0, BLOCK, 1),
        (BLOCK - 1, 1, 1),
        (BLOCK - 1, 2, 2),
        (2 * BLOCK, 0, 3),
        (3 * BLOCK, 2 * BLOCK, 5),
        (6 * BLOCK, BLOCK, 5),
        (7 * BLOCK, 512, 7),
        (8 * BLOCK, 1017 * BLOCK, 7),
        (1025 * BLOCK + 5, 1, 8),
        (0, SIZE, 9),
    ] {
        verifier.before(offset_bytes, bytes).unwrap();
        assert_eq!(verifier.verified(), verified, "{bytes} bytes at {offset_bytes}");
    }
    let nothing = Verifier::of_map(&store, Root::ZERO, BLOCK).unwrap();
    assert_eq!(format!("{nothing:?}"), "Verifier(0 verified, of 0 indices left)");
}

/// In both layers of a block too.
#[test]
fn what_has_rotted_is_told_where_it_is_read_and_nowhere_else() {
    let (memory, store, root) = summed();
    let mut told = 0;
    for block in blocks(&store) {
        let ObjectName::Block { index, .. } = block else { panic!("{block}") };
        flip(&memory, &block, 4096 + 9, 3);
        let mut verifier = Verifier::of_map(&store, root, BLOCK).unwrap();
        if index > 0 {
            verifier.before(0, index * BLOCK).unwrap();
        }
        verifier.before((index + 1) * BLOCK, SIZE - (index + 1) * BLOCK).unwrap();
        let error = verifier.before(index * BLOCK + 512, 512).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains(&block.to_string()), "{error}");
        assert!(verifier.verified() <= 8);
        flip(&memory, &block, 4096 + 9, 3);
        let data = memory.read_all(&block, BLOCK).unwrap();
        memory.delete(&block).unwrap();
        let mut verifier = Verifier::of_map(&store, root, BLOCK).unwrap();
        assert!(verifier.before(index * BLOCK, 1).unwrap_err().is(ErrorKind::NotFound));
        memory.create(&block, &data).unwrap();
        told += 1;
    }
    assert_eq!(told, 9);
}

#[test]
fn a_map_that_cannot_be_read_is_not_called_verified() {
    let (memory, store, root) = summed();
    for page in store.control().list_all(prefix::PAGES).unwrap() {
        let data = memory.read_all(&page, u64::MAX).unwrap();
        memory.delete(&page).unwrap();
        let read = Verifier::of_map(&store, root, BLOCK);
        if let Err(error) = &read {
            assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains(&page.to_string()), "{error}");
        }
        let is_needed = page == ObjectName::Page(root.page);
        assert!(!is_needed || read.is_err(), "{page}");
        memory.create(&page, &data).unwrap();
    }
}

/// A clone has the sums of its origin, and what it wrote itself has none.
#[test]
fn blocks_without_a_sum_are_passed_over() {
    let (_, store, _) = summed();
    make_clone(&store, "v", "b", "k").unwrap();
    let volume = open(&store, "k");
    volume.write_at(3 * BLOCK, &vec![9; BLOCK as usize]).unwrap();
    volume.close().unwrap();
    let id = names::lookup(&store, &name("k")).unwrap();
    let root = head::latest(&store, id).unwrap().root;
    let mut verifier = Verifier::of_map(&store, root, BLOCK).unwrap();
    verifier.before(0, SIZE).unwrap();
    assert_eq!(verifier.verified(), 8);
}
