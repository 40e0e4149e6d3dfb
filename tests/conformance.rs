//! What can go wrong: a backend does almost what the contract says, and the
//! layers above, which rest on every word of it, lose data on that one only.
//! How this proves that it does not: one suite, one function for each promise
//! of the contract, is run on every backend and on every wrapper.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use archipelago::backend::conformance;
use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::dir_sys::{Layout, RealFiles};
use archipelago::backend::faulty::Faulty;
use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::recording::Recording;
use archipelago::backend::remembering::Remembering;
use archipelago::backend::sealed::Sealed;
use archipelago::backend::{Backend, Capabilities};

/// Beside the build's output, which is on a disk: a temporary directory may
/// be in memory, where there is no O_DIRECT.
fn directory() -> tempfile::TempDir {
    let near = env!("CARGO_TARGET_TMPDIR");
    tempfile::Builder::new().prefix("conformance-").tempdir_in(near).unwrap()
}

fn run_dir(options: &DirOptions) {
    let directory = directory();
    let stores = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(|| {
        let number = stores.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(number.to_string());
        Arc::new(Dir::create(&path, options.clone()).unwrap())
    });
}

#[test]
fn memory() {
    conformance::run(|| Arc::new(Memory::new()));
}

#[test]
fn memory_that_can_do_less() {
    let less = Capabilities { overwrite_in_place: false, fences: false, ..CAPABILITIES };
    conformance::run(|| Arc::new(Memory::with(less)));
}

#[test]
fn faulty_without_a_fault() {
    conformance::run(|| Arc::new(Faulty::new(Arc::new(Memory::new()))));
}

#[test]
fn recording() {
    conformance::run(|| Arc::new(Recording::new(Arc::new(Memory::new()))));
}

#[test]
fn remembering() {
    conformance::run(|| Arc::new(Remembering::new(Arc::new(Memory::new()))));
}

#[test]
fn a_place_for_sealed_blocks_beside() {
    conformance::run(|| Arc::new(Sealed::beside(Arc::new(Memory::new()), Arc::new(Memory::new()))));
    let less = Capabilities { overwrite_in_place: false, fences: false, ..CAPABILITIES };
    conformance::run(|| Arc::new(Sealed::beside(Arc::new(Memory::with(less)), Arc::new(Memory::new()))));
}

/// With a data path of two.
#[test]
fn directories_beside_each_other() {
    let directory = directory();
    let stores = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(|| {
        let dir = |direct| {
            let number = stores.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let options = DirOptions { direct, ..DirOptions::default() };
            Arc::new(Dir::create(&directory.path().join(number.to_string()), options).unwrap())
        };
        Arc::new(Sealed::beside(dir(true), dir(false)))
    });
}

#[test]
fn dir_through_the_page_cache() {
    run_dir(&DirOptions::default());
}

#[test]
fn dir_past_the_page_cache() {
    run_dir(&DirOptions { direct: true, ..DirOptions::default() });
}

/// With the directories that stores on GlusterFS have.
#[test]
fn dir_with_few_directories() {
    let directory = directory();
    let stores = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(|| {
        let number = stores.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(number.to_string());
        std::fs::create_dir(&path).unwrap();
        let files = Arc::new(RealFiles::open(&path).unwrap().with_layout(Layout::Few));
        Arc::new(Dir::create_on(files, &path, DirOptions::default()).unwrap())
    });
}

/// Every operation evicts an open file.
#[test]
fn dir_with_few_open_files() {
    run_dir(&DirOptions { open_files_max: 2, ..DirOptions::default() });
    run_dir(&DirOptions { open_files_max: 1, direct: true, ..DirOptions::default() });
}

/// Two values on one directory are two processes: what one has made the other
/// sees, and locks are between them too.
#[test]
fn two_openers_of_one_directory() {
    use archipelago::backend::LockMode;
    use archipelago::name::{ObjectName, VolumeName};
    let directory = directory();
    let one = Dir::create(directory.path(), DirOptions::default()).unwrap();
    let two = Dir::open(directory.path(), DirOptions::default()).unwrap();
    let name = ObjectName::Volume(VolumeName::new("disk").unwrap());
    for content in [b"first one", b"the other"] {
        one.create(&name, content).unwrap();
        let mut buf = [0; 9];
        two.read_at(&name, 0, &mut buf).unwrap();
        assert_eq!(&buf, content);
        one.delete(&name).unwrap();
    }
    let held = one.lock(&name, LockMode::Exclusive).unwrap();
    assert!(two.lock(&name, LockMode::Shared).is_err());
    drop(held);
    drop(two.lock(&name, LockMode::Exclusive).unwrap());
}

#[test]
fn a_directory_that_is_no_store_says_what_to_do() {
    let directory = directory();
    let error = Dir::open(directory.path(), DirOptions::default()).unwrap_err();
    assert!(error.full().contains("archipelago store init"), "{}", error.full());
}
