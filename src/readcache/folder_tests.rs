//! What can go wrong: the cache gives out a byte that is not the block's, grows
//! without end, or believes a folder that anybody can write to.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};


use super::*;
use crate::error::ErrorKind;

const BYTES: usize = 1000;

fn options(path: &Path) -> Options {
    Options { path: path.join("cache"), bytes_max: 64 << 20, group: None }
}

fn key(index: u64) -> Key {
    Key { store: Id(7), epoch: Id(8), index, number: 3 }
}

fn content(index: u64, bytes: usize) -> Content {
    Content::of(bytes, |data| data.iter_mut().zip(index..).for_each(|(byte, at)| *byte = at as u8 | 1))
}

fn path_of(options: &Options, key: &Key) -> PathBuf {
    options.path.join(Folder::path_of(&key.file_name()))
}

/// What is there: `None` if nothing, and it must be right.
fn look(folder: &Folder, index: u64, bytes: usize) -> Option<Vec<u8>> {
    match folder.get(&key(index), bytes).unwrap() {
        Got::Here(found) => {
            assert_eq!(found.bytes(), content(index, bytes).bytes(), "wrong bytes");
            Some(found.bytes().to_vec())
        }
        Got::Nothing | Got::Damaged => None,
    }
}

fn taken_bytes(options: &Options) -> u64 {
    let mut total = 0;
    for share in std::fs::read_dir(&options.path).unwrap() {
        for file in std::fs::read_dir(share.unwrap().path()).unwrap() {
            let file = file.unwrap();
            if file.file_name() != "lock" {
                total += room(file.metadata().unwrap().len());
            }
        }
    }
    total
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_file_goes() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let folder = Folder::open(&options).unwrap();
    assert_eq!(folder.put(&key(1), &content(1, BYTES)).unwrap(), Put::Done);
    assert_eq!(folder.put(&key(1), &content(1, BYTES)).unwrap(), Put::There);
    assert!(look(&folder, 1, BYTES).is_some());
    let path = path_of(&options, &key(1));
    let sound = std::fs::read(&path).unwrap();
    for at in 0..sound.len() {
        let mut bad = sound.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(folder.get(&key(1), BYTES).unwrap(), Got::Damaged), "byte {at}");
        assert!(!path.exists(), "byte {at}");
    }
    assert_eq!(folder.put(&key(1), &content(1, BYTES)).unwrap(), Put::Done);
    assert!(look(&folder, 1, BYTES).is_some());
}

#[test]
fn what_a_crash_or_somebody_else_left_is_a_miss() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let folder = Folder::open(&options).unwrap();
    folder.put(&key(1), &content(1, BYTES)).unwrap();
    folder.put(&key(2), &content(2, BYTES)).unwrap();
    let path = path_of(&options, &key(1));
    let sound = std::fs::read(&path).unwrap();
    let mut zeroes = sound.clone();
    zeroes[512..].fill(0);
    let longer = [sound.clone(), vec![0]].concat();
    let other = std::fs::read(path_of(&options, &key(2))).unwrap();
    let lengths = (0..sound.len()).step_by(37).map(|bytes| sound[..bytes].to_vec());
    for bad in lengths.chain([zeroes, longer, other]) {
        std::fs::write(&path, &bad).unwrap();
        assert!(look(&folder, 1, BYTES).is_none());
        assert!(!path.exists());
    }
    // Neither is waited for nor followed.
    let away = place.path().join("away");
    std::fs::write(&away, &sound).unwrap();
    std::os::unix::fs::symlink(&away, &path).unwrap();
    assert!(look(&folder, 1, BYTES).is_none());
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(look(&folder, 1, BYTES).is_none());
    std::fs::create_dir(&path).unwrap();
    assert!(look(&folder, 1, BYTES).is_none());
    assert_eq!(folder.put(&key(1), &content(1, BYTES)).unwrap(), Put::There);
    assert!(away.exists() && look(&folder, 2, BYTES).is_some());
}

#[test]
fn a_file_counts_for_its_own_store_block_and_place_only() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    let folder = Folder::open(&options).unwrap();
    let one = key(1);
    folder.put(&one, &content(1, BYTES)).unwrap();
    let file = std::fs::read(path_of(&options, &one)).unwrap();
    let others = [
        Key { store: Id(9), ..one },
        Key { epoch: Id(9), ..one },
        Key { index: 9, ..one },
        Key { number: 9, ..one },
    ];
    for other in others {
        assert!(matches!(folder.get(&other, BYTES).unwrap(), Got::Nothing));
        // Also where it lies under the other's name.
        let path = path_of(&options, &other);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &file).unwrap();
        assert!(matches!(folder.get(&other, BYTES).unwrap(), Got::Damaged), "{other:?}");
    }
    assert!(matches!(folder.get(&one, BYTES - 1).unwrap(), Got::Damaged));
}

#[test]
fn the_bound_holds_for_several_that_add_and_what_is_used_stays() {
    let place = tempfile::tempdir().unwrap();
    let options = Options { bytes_max: 64 * 10 * 8192, ..options(place.path()) };
    let bytes = 8192 - HEAD_BYTES;
    let old = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
    let folders: Vec<Folder> = (0..3).map(|_| Folder::open(&options).unwrap()).collect();
    let (mut kept, mut others) = (0, 0);
    for index in 0..4000 {
        let folder = &folders[(index % 3) as usize];
        if folder.put(&key(index), &content(index, bytes)).unwrap() == Put::Done {
            let path = path_of(&options, &key(index));
            let file = File::open(&path).unwrap();
            fs::futimens(&file, &Timestamps { last_access: old, last_modification: old }).unwrap();
        }
        // The first ones are read all the time.
        (0..32.min(index)).for_each(|index| drop(look(folder, index, bytes)));
        if index % 100 == 0 {
            assert!(taken_bytes(&options) <= options.bytes_max, "after {index}");
        }
    }
    for index in 0..4000 {
        let is_there = look(&folders[0], index, bytes).is_some();
        match index < 32 {
            true => kept += u64::from(is_there),
            false => others += u64::from(is_there),
        }
    }
    assert_eq!(kept, 32, "what is used had to go");
    assert!((300..=640).contains(&others), "{others} others");
}

#[test]
fn a_count_that_a_loss_of_power_left_too_low_is_not_believed_for_long() {
    let place = tempfile::tempdir().unwrap();
    let options = Options { bytes_max: 64 * 10 * 8192, ..options(place.path()) };
    let bytes = 8192 - HEAD_BYTES;
    for round in 0..4 {
        // Each round is a process after a loss of power, which took the counts.
        for share in std::fs::read_dir(&options.path).into_iter().flatten() {
            let lock = share.unwrap().path().join("lock");
            let file = File::options().write(true).open(&lock).unwrap();
            match round {
                1 => std::fs::remove_file(&lock).unwrap(),
                2 => write_count(&file, 0).unwrap(),
                _ => file.set_len(3).unwrap(),
            }
        }
        let folder = Folder::open(&options).unwrap();
        for index in 0..1000 {
            folder.put(&key(round * 1000 + index), &content(index, bytes)).unwrap();
        }
        assert!(taken_bytes(&options) <= options.bytes_max, "round {round}");
    }
}

#[test]
fn who_was_killed_in_the_middle_leaves_nothing_that_is_believed_or_stays() {
    let place = tempfile::tempdir().unwrap();
    let options = Options { bytes_max: 64 * 10 * 8192, ..options(place.path()) };
    let bytes = 8192 - HEAD_BYTES;
    let folder = Folder::open(&options).unwrap();
    folder.put(&key(1), &content(1, bytes)).unwrap();
    let share = path_of(&options, &key(1)).parent().unwrap().to_owned();
    let old = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
    for at in 0..20 {
        let left = File::create(share.join(format!("new.{at:032x}"))).unwrap();
        left.set_len(8192).unwrap();
        fs::futimens(&left, &Timestamps { last_access: old, last_modification: old }).unwrap();
    }
    // Who was stopped holds the lock: the others do without this folder.
    let lock = File::open(share.join("lock")).unwrap();
    fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let same = (2..).find(|index| path_of(&options, &key(*index)).parent() == Some(&share)).unwrap();
    assert_eq!(folder.put(&key(same), &content(same, bytes)).unwrap(), Put::NotNow);
    assert!(look(&folder, 1, bytes).is_some());
    drop(lock);
    for index in 0..1000 {
        folder.put(&key(index), &content(index, bytes)).unwrap();
    }
    let left = std::fs::read_dir(&share).unwrap();
    let left = left.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with(NEW));
    assert_eq!(left.count(), 0);
    assert!(taken_bytes(&options) <= options.bytes_max);
}

#[test]
fn a_folder_that_others_may_write_to_is_refused_in_words() {
    let place = tempfile::tempdir().unwrap();
    let options = options(place.path());
    drop(Folder::open(&options).unwrap());
    assert_eq!(std::fs::metadata(&options.path).unwrap().permissions().mode() & 0o777, 0o700);
    let set = |mode| std::fs::set_permissions(&options.path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(0o702);
    let error = Folder::open(&options).unwrap_err();
    assert!(error.is(ErrorKind::Denied) && error.to_string().contains("everybody may write"), "{error}");
    set(0o1777);
    assert!(Folder::open(&options).unwrap_err().to_string().contains("chmod"));
    set(0o770);
    let error = Folder::open(&options).unwrap_err();
    assert!(error.to_string().contains("is not the 'group' of the store"), "{error}");
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&options.path).unwrap());
    drop(Folder::open(&Options { group: Some(group), ..options.clone() }).unwrap());
    set(0o755);
    drop(Folder::open(&options).unwrap());
    let mut stat = fs::statat(CWD, &options.path, AtFlags::empty()).unwrap();
    stat.st_uid = 12345;
    assert!(trust(&stat, 99, None).unwrap_err().contains("belongs to user 12345"));
    assert!(trust(&stat, 12345, None).is_ok());
    stat.st_uid = 0;
    assert!(trust(&stat, 99, None).is_ok());
}

#[test]
fn with_a_group_files_are_its_and_nobody_elses() {
    let place = tempfile::tempdir().unwrap();
    let group = rustix::process::getegid().as_raw();
    let options = Options { group: Some(group), ..options(place.path()) };
    let folder = Folder::open(&options).unwrap();
    folder.put(&key(1), &content(1, BYTES)).unwrap();
    let path = path_of(&options, &key(1));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&options.path), mode(path.parent().unwrap()), mode(&path)), (0o770, 0o770, 0o660));
    assert_eq!(mode(&path.parent().unwrap().join("lock")), 0o660);
}
