//! What went wrong once, as it was when it had been made small.

use archipelago::catalog::volume as names;

use super::driver::{Ask, Disk, Driver, How, Outcome, Refusal};
use super::world::{name, BLOCK};
use super::{Make, C_DIR, C_MEMORY, RUST_DIR, RUST_MEMORY};

const ALL: [Make; 4] = [RUST_MEMORY, RUST_DIR, C_MEMORY, C_DIR];

fn everywhere(test: impl Fn(&dyn Driver)) {
    for make in ALL {
        let folder = tempfile::tempdir().unwrap();
        test(make(folder.path()).as_ref());
    }
}

fn open(driver: &dyn Driver, volume: &str, how: How) -> Box<dyn Disk> {
    driver.open(volume, None, how).unwrap()
}

fn write(disk: &dyn Disk, byte: u8) -> Outcome<()> {
    disk.submit(700, Ask::Write { data: vec![byte; 5000], fua: false }).wait().result
}

fn read(disk: &dyn Disk) -> u8 {
    let answer = disk.submit(700, Ask::Read { bytes: 5000 }).wait();
    answer.result.unwrap();
    assert!(answer.data.iter().all(|byte| *byte == answer.data[0]));
    answer.data[0]
}

/// A handle looked its volume up by name when it took it back: after a rename
/// it found nothing and was lost, or found another volume that had the name
/// now, and gave a guest that one's disk to write to.
#[test]
fn a_renamed_volume_is_the_same_one_when_it_comes_back() {
    everywhere(|driver| {
        driver.create("a", 4 * BLOCK).unwrap();
        let disk = open(driver, "a", How::Writable);
        write(disk.as_ref(), 1).unwrap();
        names::rename(driver.store(), &name("a"), &name("b")).unwrap();
        disk.inactivate().unwrap();
        assert_eq!(read(disk.as_ref()), 1);
        driver.create("a", 4 * BLOCK).unwrap();
        disk.activate().unwrap();
        assert_eq!(read(disk.as_ref()), 1);
        write(disk.as_ref(), 2).unwrap();
        disk.set_read_only(true).unwrap();
        names::rename(driver.store(), &name("b"), &name("c")).unwrap();
        disk.set_read_only(false).unwrap();
        write(disk.as_ref(), 3).unwrap();
        disk.close().unwrap();
        for (volume, byte) in [("a", 0), ("c", 3)] {
            let disk = open(driver, volume, How::ReadOnly);
            assert_eq!(read(disk.as_ref()), byte, "{volume}");
            disk.close().unwrap();
        }
    });
}

/// As above, when there is nothing to come back to.
#[test]
fn a_removed_volume_does_not_come_back_under_its_old_name() {
    everywhere(|driver| {
        driver.create("a", 4 * BLOCK).unwrap();
        let disk = open(driver, "a", How::Inactive);
        driver.remove("a").unwrap();
        driver.create("a", 4 * BLOCK).unwrap();
        assert_eq!(disk.activate(), Err(Refusal::Missing));
        assert_ne!(write(disk.as_ref(), 1), Ok(()));
        disk.close().unwrap();
        let disk = open(driver, "a", How::Writable);
        assert_eq!(read(disk.as_ref()), 0);
        disk.close().unwrap();
    });
}

/// A change to read-write that was refused came about at the next hand-over.
#[test]
fn a_refused_change_to_writable_does_not_happen_later() {
    everywhere(|driver| {
        driver.create("a", 4 * BLOCK).unwrap();
        let (disk, other) = (open(driver, "a", How::ReadOnly), open(driver, "a", How::ReadOnly));
        assert_eq!(disk.set_read_only(false), Err(Refusal::Held));
        other.close().unwrap();
        disk.inactivate().unwrap();
        disk.activate().unwrap();
        assert!(disk.facts().unwrap().read_only);
        assert_eq!(write(disk.as_ref(), 1), Err(Refusal::ReadOnly));
        disk.close().unwrap();
    });
}

/// Activating an open snapshot looked it up by name again: it failed, or
/// showed another snapshot that had the name now.
#[test]
fn an_open_snapshot_stays_the_one_it_is() {
    everywhere(|driver| {
        driver.create("a", 4 * BLOCK).unwrap();
        let disk = open(driver, "a", How::Writable);
        write(disk.as_ref(), 1).unwrap();
        disk.snapshot("s").unwrap();
        let old = driver.open("a", Some("s"), How::ReadOnly).unwrap();
        write(disk.as_ref(), 2).unwrap();
        disk.remove_snapshot("s").unwrap();
        disk.snapshot("s").unwrap();
        old.inactivate().unwrap();
        old.activate().unwrap();
        assert_eq!(read(old.as_ref()), 1);
        names::rename(driver.store(), &name("a"), &name("b")).unwrap();
        old.activate().unwrap();
        assert_eq!(read(old.as_ref()), 1);
        old.close().unwrap();
        disk.close().unwrap();
    });
}

/// The data path had read what there is, and told the caller, while the rest
/// of the caller's memory was still being filled with zeroes.
#[test]
fn a_read_is_not_done_before_its_zeroes_are_there() {
    const BYTES: u64 = 16 << 20;
    everywhere(|driver| {
        driver.create("a", BYTES).unwrap();
        let disk = open(driver, "a", How::Writable);
        let data = vec![1; BLOCK as usize];
        disk.submit(0, Ask::Write { data: data.clone(), fua: true }).wait().result.unwrap();
        for round in 0..10 {
            let answer = disk.submit(0, Ask::Read { bytes: BYTES }).wait();
            answer.result.unwrap();
            assert!(answer.data[..BLOCK as usize] == data, "round {round}");
            let left = answer.data[BLOCK as usize..].iter().position(|byte| *byte != 0);
            assert_eq!(left, None, "round {round}");
        }
        disk.close().unwrap();
    });
}
