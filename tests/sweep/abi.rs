//! What C is told when the store fails: each kind of error as its errno.

use std::sync::Arc;

use archipelago::backend::faulty::{Fault, Faulty, Method, Rule};
use archipelago::backend::memory::Memory;
use archipelago::store::open::stand_in;
use archipelago::ErrorKind;

use super::cover::KINDS;
use super::driver::{Ask, Disk, Driver, How, Outcome, Refusal};
use super::foreign::Foreign;
use super::world::BLOCK;

/// A store that fails on demand, behind the C functions.
struct Bed {
    faulty: Faulty,
    foreign: Foreign,
    url: String,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new(name: &str) -> Bed {
        let faulty = Faulty::with_data_path(Arc::new(Memory::new()));
        stand_in(name, Some(Arc::new(faulty.clone())));
        let folder = tempfile::tempdir().unwrap();
        let foreign = Foreign::on(folder.path(), &format!("memory:{name}"));
        foreign.create("v", 8 * BLOCK).unwrap();
        Bed { faulty, foreign, url: name.to_owned(), _folder: folder }
    }

    fn open(&self) -> Outcome<Box<dyn Disk>> {
        self.foreign.open("v", None, How::Writable)
    }

    fn fail(&self, kind: ErrorKind, method: Method, named: &str) {
        self.faulty.inject(Rule::new(Fault::Fail(kind)).on(method).named(named));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        stand_in(&self.url, None);
    }
}

fn errno(outcome: Outcome<()>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(Refusal::Missing) => libc::ENOENT,
        Err(Refusal::Taken) => libc::EEXIST,
        Err(Refusal::Held) => libc::EBUSY,
        Err(Refusal::Mistake) => libc::EINVAL,
        Err(Refusal::ReadOnly) => libc::EROFS,
        Err(Refusal::Other(words)) => {
            let number = words.strip_prefix("errno -").unwrap_or_else(|| panic!("{words}"));
            number.split(':').next().unwrap().parse().unwrap()
        }
    }
}

fn ask(disk: &dyn Disk, ask: Ask) -> i32 {
    errno(disk.submit(0, ask).wait().result)
}

fn write(fua: bool) -> Ask {
    Ask::Write { data: vec![7; BLOCK as usize], fua }
}

/// What a guest is told: it knows I/O errors, a full disk and one that it must
/// not write to.
fn of_data(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Unavailable => libc::EIO,
        ErrorKind::Denied => libc::EROFS,
        _ => kind.errno(),
    }
}

#[test]
fn every_kind_of_error_is_its_errno() {
    // Each failure is told to the log; nobody reads that here.
    std::env::set_var("ARCHIPELAGO_LOG", "off");
    for kind in KINDS {
        let bed = Bed::new(&format!("errno-{kind:?}"));
        bed.fail(kind, Method::Read, "head/");
        let opened = errno(bed.open().and_then(|disk| disk.close()));
        // One that is gone is looked for again.
        let wanted = if kind == ErrorKind::NotFound { 0 } else { kind.errno() };
        assert_eq!(opened, wanted, "open: {kind:?}");
        let disk = bed.open().unwrap();
        assert_eq!(ask(&*disk, write(true)), 0);
        bed.fail(kind, Method::Write, "block/");
        assert_eq!(ask(&*disk, write(false)), of_data(kind), "write: {kind:?}");
        bed.faulty.clear();
        disk.close().unwrap();
        let disk = bed.open().unwrap();
        bed.fail(kind, Method::Read, "block/");
        let read = ask(&*disk, Ask::Read { bytes: BLOCK });
        let wanted = if kind == ErrorKind::NotFound { 0 } else { of_data(kind) };
        assert_eq!(read, wanted, "read: {kind:?}");
        assert_eq!(ask(&*disk, write(false)), 0, "after a failed read: {kind:?}");
        bed.fail(kind, Method::Sync, "block/");
        assert_eq!(ask(&*disk, Ask::Flush), of_data(kind), "flush: {kind:?}");
        for next in [write(false), Ask::Flush, Ask::Read { bytes: BLOCK }, Ask::Discard { bytes: BLOCK }] {
            assert_eq!(ask(&*disk, next), libc::EIO, "poisoned: {kind:?}");
        }
        disk.close().unwrap();
    }
}
