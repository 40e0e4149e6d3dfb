//! Races: another actor does something between two steps of one operation. A
//! backend double runs the other actor when a chosen call comes by.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::backend::{DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, Result};

pub(super) type Action = Box<dyn FnMut(&Memory, &str) -> Option<Error> + Send>;

/// `memory`, with somebody else acting before chosen calls. The action gets
/// "create head/..", "list head/" and so on; an error it returns is what the
/// caller sees instead.
struct Meddled {
    memory: Memory,
    before: Mutex<Option<Action>>,
    after_create: Mutex<Option<Action>>,
    busy: AtomicBool,
}

impl std::fmt::Debug for Meddled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    fn run(&self, slot: &Mutex<Option<Action>>, call: &str) -> Result<()> {
        // The other actor's own calls are not meddled with.
        if self.busy.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let error = slot.lock().as_mut().and_then(|action| action(&self.memory, call));
        self.busy.store(false, Ordering::SeqCst);
        error.map_or(Ok(()), Err)
    }
}

impl Backend for Meddled {
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }
    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.run(&self.before, &format!("create {name}"))?;
        self.memory.create(name, data)?;
        self.run(&self.after_create, &format!("created {name}"))
    }
    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.memory.create_sparse(name, bytes)
    }
    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.run(&self.before, &format!("read {name}"))?;
        self.memory.read_at(name, offset_bytes, buf)
    }
    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.memory.write_at(name, offset_bytes, data)
    }
    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.memory.punch(name, offset_bytes, bytes)
    }
    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.memory.sync(names)
    }
    fn forget_synced(&self, names: &[ObjectName]) {
        self.memory.forget_synced(names);
    }
    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.run(&self.before, &format!("delete {name}"))?;
        self.memory.delete(name)
    }
    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.run(&self.before, &format!("stat {name}"))?;
        self.memory.stat(name)
    }
    /// `NotFound` from the other actor: it was so busy that this saw nothing.
    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        match self.run(&self.before, &format!("list {prefix}")) {
            Err(error) if error.is(ErrorKind::NotFound) => return Ok(Vec::new()),
            other => other?,
        }
        self.memory.list(prefix, after, count_max)
    }
    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.run(&self.before, &format!("lock {name} {mode:?}"))?;
        self.memory.lock(name, mode)
    }
    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}

/// The meddled store, and the same one seen by the other actor.
pub(super) fn meddled(
    before: Option<Action>,
    after_create: Option<Action>,
    capabilities: Capabilities,
) -> (Store, Store) {
    let memory = Memory::with(capabilities);
    let plain = Store::init("main", Arc::new(memory.clone()), 4 * MIB).unwrap();
    let double = Meddled {
        memory,
        before: Mutex::new(before),
        after_create: Mutex::new(after_create),
        busy: AtomicBool::new(false),
    };
    (Store::open("main", Arc::new(double)).unwrap(), plain)
}

fn plain_store(memory: &Memory) -> Store {
    Store::open("main", Arc::new(memory.clone())).unwrap()
}

/// Runs `action` once, before the first call that begins with `call`.
pub(super) fn once(
    call: &'static str,
    mut action: impl FnMut(&Store) -> Option<Error> + Send + 'static,
) -> Action {
    let mut done = false;
    Box::new(move |memory, now| {
        if done || !now.starts_with(call) {
            return None;
        }
        done = true;
        action(&plain_store(memory))
    })
}

#[test]
fn a_head_that_vanishes_between_list_and_read_is_looked_for_again() {
    let meddle = once("read head/", |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        let first = head::latest(store, volume).unwrap();
        head::commit(store, &Head { number: 2, ..first }).unwrap();
        head::remove_below(store, volume, 2).unwrap();
        None
    });
    let (meddled, plain) = meddled(Some(meddle), None, CAPABILITIES);
    let volume = make(&plain, "web");
    assert_eq!(head::latest(&meddled, volume).unwrap().number, 2);
}

/// A listing may miss what is made while it runs, and what is deleted anyway:
/// a number that follows another may leave it with neither.
#[test]
fn a_listing_that_missed_the_old_number_and_the_new_one_is_read_again() {
    let neither = |prefix: &'static str, next: fn(&Store, Id)| {
        once(prefix, move |store| {
            next(store, volume::list(store).unwrap()[0].1);
            Some(Error::new(ErrorKind::NotFound, "list"))
        })
    };
    let next_head = neither("list head/", |store, volume| {
        let first = head::latest(store, volume).unwrap();
        head::commit(store, &Head { number: 2, ..first }).unwrap();
        head::remove_below(store, volume, 2).unwrap();
    });
    let (meddled_with, plain) = meddled(Some(next_head), None, CAPABILITIES);
    let volume = make(&plain, "web");
    assert_eq!(head::latest(&meddled_with, volume).unwrap().number, 2);

    let unfenced = Capabilities { fences: false, ..CAPABILITIES };
    let next_lease = neither("list lease/", |store, volume| {
        drop(lease::take(store, volume, "web", &Options::default()).unwrap().0);
    });
    let (meddled_with, plain) = meddled(Some(next_lease), None, unfenced);
    let volume = make(&plain, "web");
    let (held, _) = lease::take(&plain, volume, "web", &Options::default()).unwrap();
    held.release(true).unwrap();
    assert_eq!(lease::show(&meddled_with, volume).unwrap(), LeaseState::Free { clean: false });

    let next_generation = neither("list maintenance/", |store, _| {
        drop(maintenance::claim_next(store, &Identity::of_this_process()).unwrap());
    });
    let (meddled_with, plain) = meddled(Some(next_generation), None, CAPABILITIES);
    make(&plain, "web");
    drop(maintenance::claim_next(&plain, &Identity::of_this_process()).unwrap());
    assert_eq!(maintenance::generation(&meddled_with).unwrap(), 2);
}

#[test]
fn losing_the_name_at_the_last_moment_leaves_nothing_behind() {
    let meddle = once("create volume/web", |store| {
        make(store, "web");
        None
    });
    let (meddled, plain) = meddled(Some(meddle), None, CAPABILITIES);
    let error = volume::create(&meddled, &name("web"), MIB, 4 * MIB).unwrap_err();
    assert!(error.is(ErrorKind::Exists), "{error}");
    assert_eq!(object_count(&plain, prefix::ALL), 4, "the winner's objects and the store's");
}

#[test]
fn an_unknown_outcome_is_looked_up() {
    // The object was made, only the answer was lost.
    for call in ["created head/", "created volume/web"] {
        let lost = once(call, |_| Some(Error::new(ErrorKind::Unknown, "create")));
        let (meddled, plain) = meddled(None, Some(lost), CAPABILITIES);
        match volume::create(&meddled, &name("web"), MIB, 4 * MIB) {
            Ok(volume) => assert_eq!(volume::lookup(&plain, &name("web")).unwrap(), volume),
            Err(error) => {
                assert!(error.is(ErrorKind::Unknown), "{error}");
                // Then whoever finds the name must find a whole volume.
                let volume = volume::lookup(&plain, &name("web")).unwrap();
                head::latest(&plain, volume).unwrap();
            }
        }
    }
}

#[test]
fn gc_that_begins_while_a_clone_is_made_has_it_made_again() {
    let gc = once("create volume/copy", |store| {
        drop(maintenance::claim_next(store, &Identity::of_this_process()).unwrap());
        None
    });
    let (meddled, plain) = meddled(Some(gc), None, CAPABILITIES);
    let source = cut(&plain, make(&plain, "web"), "a");
    let copy = volume::clone(&meddled, &source, &name("copy"), None).unwrap();
    let head = head::latest(&plain, copy).unwrap();
    assert_eq!(epoch::read(&plain, head.epoch).unwrap().generation, 1, "made after gc began");
    // Nothing of the first try is left.
    assert_eq!(object_count(&plain, prefix::HEADS), 2);
    assert_eq!(object_count(&plain, prefix::EPOCHS), 2);
}

#[test]
fn a_clone_of_a_snapshot_that_goes_meanwhile_is_undone() {
    let removed = once("create volume/copy", |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        snapshot::remove(store, volume, &snap("a")).unwrap();
        None
    });
    let (meddled, plain) = meddled(Some(removed), None, CAPABILITIES);
    let source = cut(&plain, make(&plain, "web"), "a");
    let error = volume::clone(&meddled, &source, &name("copy"), None).unwrap_err();
    assert!(error.is(ErrorKind::NotFound), "{error}");
    assert_eq!(volume::list(&plain).unwrap().len(), 1);
    assert_eq!(object_count(&plain, prefix::HEADS), 1);
}

/// Whoever lists volumes must not see one that is undone a moment later.
#[test]
fn a_clone_whose_source_moves_before_it_has_a_name_never_had_one() {
    let goes: fn(&Store) = |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        snapshot::remove(store, volume, &snap("a")).unwrap();
    };
    let gc: fn(&Store) = |store| drop(maintenance::claim_next(store, &Identity::of_this_process()).unwrap());
    for (moves, names) in [(goes, 0), (gc, 1)] {
        let named = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&named);
        let watch: Action = Box::new(move |_, call| {
            *counter.lock() += usize::from(call.starts_with("create volume/copy"));
            None
        });
        let moved = once("created head/", move |store| {
            moves(store);
            None
        });
        let (meddled, plain) = meddled(Some(watch), Some(moved), CAPABILITIES);
        let source = cut(&plain, make(&plain, "web"), "a");
        let made = volume::clone(&meddled, &source, &name("copy"), None);
        assert_eq!(*named.lock(), names);
        assert_eq!(volume::list(&plain).unwrap().len(), 1 + names);
        assert_eq!(object_count(&plain, prefix::HEADS), 1 + names);
        assert_eq!(made.is_ok(), names == 1);
    }
}

#[test]
fn a_clone_never_takes_a_later_snapshot_of_the_same_name() {
    let store = store();
    let volume = make(&store, "web");
    let source = cut(&store, volume, "a");
    snapshot::remove(&store, volume, &snap("a")).unwrap();
    cut(&store, volume, "a");
    let error = volume::clone(&store, &source, &name("copy"), None).unwrap_err();
    assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("another"), "{error}");
}

#[test]
fn a_clone_takes_the_better_root_that_its_snapshot_was_given_meanwhile() {
    let better = once("create volume/copy", |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        let old = snapshot::find(store, volume, &snap("a")).unwrap();
        snapshot::publish(store, &Snapshot { number: 2, root: root(99), ..old }).unwrap();
        None
    });
    let (meddled, plain) = meddled(Some(better), None, CAPABILITIES);
    let source = cut(&plain, make(&plain, "web"), "a");
    let copy = volume::clone(&meddled, &source, &name("copy"), None).unwrap();
    assert_eq!(head::latest(&plain, copy).unwrap().root, root(99));
}

#[test]
fn removing_works_on_a_full_store() {
    for fences in [true, false] {
        let full: Action =
            Box::new(|_, call| call.starts_with("create ").then(|| Error::new(ErrorKind::NoSpace, "create")));
        let (meddled, plain) = meddled(Some(full), None, Capabilities { fences, ..CAPABILITIES });
        cut(&plain, make(&plain, "web"), "a");
        volume::remove(&meddled, &name("web"), true).unwrap();
        assert_eq!(volume::list(&plain).unwrap(), []);
    }
}

#[test]
fn a_crash_at_any_step_of_removing_leaves_a_volume_or_garbage() {
    // After each number of deletions the store must still make sense: the
    // name leads to a whole volume, or to nothing.
    for steps in 0..6 {
        let mut left = steps;
        let crash: Action = Box::new(move |_, call| {
            if !call.starts_with("delete ") {
                return None;
            }
            if left == 0 {
                return Some(Error::new(ErrorKind::Unavailable, "delete"));
            }
            left -= 1;
            None
        });
        let (meddled, plain) = meddled(Some(crash), None, CAPABILITIES);
        let volume = make(&plain, "web");
        cut(&plain, volume, "a");
        cut(&plain, volume, "b");
        let _ = volume::remove(&meddled, &name("web"), true);
        match volume::lookup(&plain, &name("web")) {
            Ok(found) => {
                head::latest(&plain, found).unwrap();
                volume::remove(&plain, &name("web"), true).unwrap();
            }
            Err(error) => assert!(error.is(ErrorKind::NotFound)),
        }
        assert_eq!(snapshot::list(&plain, volume).unwrap(), []);
    }
}

/// A name that leads nowhere would stop gc of the whole store.
#[test]
fn a_rename_and_a_removal_leave_no_name_that_leads_nowhere() {
    let removed_first = once("create volume/b", |store| {
        volume::remove(store, &name("a"), true).unwrap();
        None
    });
    let (store, plain) = meddled(Some(removed_first), None, CAPABILITIES);
    make(&plain, "a");
    assert!(volume::rename(&store, &name("a"), &name("b")).unwrap_err().is(ErrorKind::NotFound));
    assert_eq!(volume::list(&plain).unwrap(), []);

    // The other way round: half of a rename is done when the removal has
    // looked for names and begins to delete.
    let half_renamed = once("delete volume/a", |store| {
        let id = volume::lookup(store, &name("a")).unwrap();
        let object = ObjectName::Volume(name("b"));
        store.control().create(&object, &volume::encode_for_tests(&name("b"), id)).unwrap();
        None
    });
    let (store, plain) = meddled(Some(half_renamed), None, CAPABILITIES);
    make(&plain, "a");
    volume::remove(&store, &name("a"), true).unwrap();
    assert_eq!(volume::list(&plain).unwrap(), []);
}

/// Between "it is taken" and "who has it" the kernel lets go of a dead holder's
/// lock: nobody has it, and nobody is told that readers do.
#[test]
fn a_dead_holders_lock_that_becomes_free_between_two_looks_is_taken() {
    let held = Arc::new(Mutex::new(None::<lease::Lease>));
    let frees = Arc::clone(&held);
    let action: Action = Box::new(move |_, call| {
        if call.starts_with("lock lease/") && call.ends_with(" Shared") {
            frees.lock().take().into_iter().for_each(lease::Lease::abandon);
        }
        None
    });
    let (meddled, plain) = meddled(Some(action), None, CAPABILITIES);
    let volume = make(&plain, "web");
    let dead = Identity { pid: i32::MAX as u32, start_ticks: 1, ..Identity::of_this_process() };
    let options = Options { identity: dead, ..Options::default() };
    *held.lock() = Some(lease::take(&plain, volume, "web", &options).unwrap().0);
    let (lease, taken) = lease::take(&meddled, volume, "web", &Options::default()).unwrap();
    assert!(!taken.clean && held.lock().is_none());
    lease.release(true).unwrap();
}
