//! What can go wrong: `dir` says that an object is durable and forgets one of
//! the syncs that make it so (of the content, of its name, of the name of its
//! directory), which shows only when the power fails at the wrong moment.
//!
//! How this proves that it does not: `dir` runs on a model of a file system.
//! After each system call the power fails: what is not synced is lost or kept
//! in every combination (a bounded number of them where there are very many).
//! In each state the store is opened again and must have every object whose
//! `create` or `sync` had returned, whole, and no created object in part.
//!
//! And the proof is tried itself: every place in `dir` that syncs has a label.
//! For each label `dir` runs once more with exactly that sync left out, and
//! the same check must find something.

#![allow(clippy::unwrap_used, clippy::panic)]

mod dir_model;

use std::path::Path;
use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::dir_sys::{FileSystem, Files, Layout, SyncSite};
use archipelago::backend::{Backend, BackendExt};
use archipelago::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use archipelago::ErrorKind;
use dir_model::{Fail, Model, State};

/// Small, because every state is compared.
const BLOCK_BYTES: u64 = 600;

const EXT4: FileSystem = FileSystem {
    local: true,
    syncfs: true,
    syncfs_flushes: true,
    tells_late: false,
    names_with_files: false,
    layout: Layout::Wide,
};
const XFS: FileSystem = FileSystem { syncfs_flushes: false, ..EXT4 };
const NFS: FileSystem = FileSystem { local: false, syncfs: false, tells_late: true, ..EXT4 };
/// Through its library.
const GLUSTER: FileSystem = FileSystem { names_with_files: true, layout: Layout::Few, ..NFS };

/// From one step on, and until another, this object has this content.
struct Promise {
    name: ObjectName,
    content: Vec<u8>,
    from: usize,
    until: usize,
}

struct Run {
    model: Arc<Model>,
    dir: Dir,
    promises: Vec<Promise>,
    /// What `create` was given for each name: all that may ever be seen there.
    created: Vec<(ObjectName, Vec<u8>)>,
}

fn options() -> DirOptions {
    // Files are closed with unsynced writes all the time.
    DirOptions { open_files_max: 2, ..DirOptions::default() }
}

fn open(model: &Arc<Model>) -> archipelago::Result<Dir> {
    Dir::open_on(Arc::clone(model) as Arc<dyn Files>, Path::new("/model"), options())
}

impl Run {
    fn new(file_system: FileSystem, suppressed: Option<SyncSite>) -> Run {
        let model = Model::new(file_system, suppressed);
        let files = Arc::clone(&model) as Arc<dyn Files>;
        let dir = Dir::create_on(files, Path::new("/model"), options()).unwrap();
        model.record();
        Run { model, dir, promises: Vec::new(), created: Vec::new() }
    }

    fn withdraw(&mut self, name: &ObjectName) {
        let until = self.model.steps();
        for promise in self.promises.iter_mut().filter(|promise| promise.name == *name) {
            promise.until = promise.until.min(until);
        }
    }

    /// `dir` has just said that this object is durable.
    fn promise(&mut self, name: &ObjectName) {
        self.withdraw(name);
        let content = self.dir.read_all(name, 1 << 20).unwrap();
        let from = self.model.steps() - 1;
        self.promises.push(Promise { name: name.clone(), content, from, until: usize::MAX });
    }

    fn create(&mut self, name: &ObjectName, data: &[u8]) {
        self.created.push((name.clone(), data.to_vec()));
        self.dir.create(name, data).unwrap();
        self.promise(name);
    }

    fn write(&self, name: &ObjectName, seed: u8) {
        self.dir.write_at(name, 7, &[seed; 500]).unwrap();
    }

    fn sync(&mut self, names: &[ObjectName]) {
        self.dir.sync(names).unwrap();
        names.iter().for_each(|name| self.promise(name));
    }

    /// Of objects whose names are durable: no less than a sync of all.
    fn sync_content(&mut self, names: &[ObjectName]) {
        self.dir.sync_content(names).unwrap();
        names.iter().for_each(|name| self.promise(name));
    }

    fn delete(&mut self, name: &ObjectName) {
        self.withdraw(name);
        self.dir.delete(name).unwrap();
    }
}

fn block(index: u64) -> ObjectName {
    ObjectName::Block { epoch: Id(77), index }
}

fn scenario(run: &mut Run) {
    let volume = Id(5);
    let snapshot = |number| {
        ObjectName::Snapshot { volume, name: SnapshotName::new("daily").unwrap(), number }
    };
    // Control objects, in directories of every kind.
    run.create(&ObjectName::Store, b"the store");
    run.create(&ObjectName::Volume(VolumeName::new("web").unwrap()), b"5");
    run.create(&ObjectName::Head { volume, number: 0 }, &[1; 100]);
    run.create(&ObjectName::Head { volume, number: 1 }, &[2; 100]);
    run.create(&snapshot(0), b"root");
    run.create(&ObjectName::Page(Id(9 << 64)), &[3; 300]);
    // Who comes second changes nothing.
    let taken = ObjectName::Head { volume, number: 1 };
    assert_eq!(run.dir.create(&taken, b"other").unwrap_err().kind(), ErrorKind::Exists);
    // A segment in a directory of its own, appended to and synced.
    let segment = ObjectName::Segment { volume, number: 1 };
    run.dir.create_sparse(&segment, BLOCK_BYTES).unwrap();
    run.sync(std::slice::from_ref(&segment));
    for seed in 1..4 {
        run.write(&segment, seed);
        run.sync(std::slice::from_ref(&segment));
    }
    // A few blocks, then many, written and synced together and again.
    for (first, count) in [(0, 2), (10, 7)] {
        let names: Vec<ObjectName> = (first..first + count).map(block).collect();
        for name in &names {
            run.dir.create_sparse(name, BLOCK_BYTES).unwrap();
            run.write(name, 0x11);
        }
        run.sync(&names);
        names.iter().for_each(|name| run.write(name, 0x22));
        run.sync(&names);
        run.sync(&names);
    }
    run.dir.punch(&block(10), 0, 300).unwrap();
    run.sync(&[block(10)]);
    run.dir.copy(&block(10), &block(30)).unwrap();
    run.promise(&block(30));
    // Names come and go, and with them directories.
    run.delete(&snapshot(0));
    run.create(&snapshot(1), b"another root");
    run.delete(&ObjectName::Head { volume, number: 0 });
    // Somebody wrote and died before syncing. What the next one has read, it
    // makes durable without having written it.
    run.dir.create_sparse(&block(50), BLOCK_BYTES).unwrap();
    run.write(&block(50), 0x33);
    run.write(&segment, 9);
    run.dir = open(&run.model).unwrap();
    run.sync(&[block(50)]);
    run.sync(&[segment, block(50)]);
    run.create(&ObjectName::Head { volume, number: 2 }, b"the new holder");
    contents(run);
}

/// The names are durable since somebody else's sync, the content is not, be
/// it ours or what he wrote last.
fn contents(run: &mut Run) {
    let names = [block(0), block(1), block(10)];
    names.iter().for_each(|name| run.withdraw(name));
    names.iter().for_each(|name| run.write(name, 0x44));
    run.dir = open(&run.model).unwrap();
    run.write(&names[1], 0x55);
    run.sync_content(&names[..1]);
    run.sync_content(&names);
    names.iter().for_each(|name| run.write(name, 0x66));
    run.sync_content(&names);
    run.sync_content(&names);
    // A new object has no name after this, and must get it from the next.
    run.dir.create_sparse(&block(60), BLOCK_BYTES).unwrap();
    run.write(&block(60), 0x11);
    run.dir.sync_content(&[block(60)]).unwrap();
    run.sync(&[block(60)]);
    // Not even if another process has made it.
    run.dir.create_sparse(&block(61), BLOCK_BYTES).unwrap();
    run.dir = open(&run.model).unwrap();
    run.write(&block(61), 0x11);
    run.dir.sync_content(&[block(61)]).unwrap();
    run.sync(&[block(61)]);
}

/// What is wrong after a crash in `state`, if anything.
fn check(
    run: &Run,
    file_system: FileSystem,
    step: usize,
    live: &Dir,
    state: Option<State>,
) -> Option<String> {
    let Some(state) = state else { return Some("the store is gone".into()) };
    let model = Model::from_state(state, file_system, None);
    let dir = match open(&model) {
        Ok(dir) => dir,
        Err(error) => return Some(error.full()),
    };
    for promise in run.promises.iter().filter(|promise| (promise.from..promise.until).contains(&step)) {
        let content = match dir.read_all(&promise.name, 1 << 20) {
            Ok(content) => content,
            Err(error) => return Some(error.full()),
        };
        // What was written after the sync may be there or not.
        let written = || live.read_all(&promise.name, 1 << 20).is_ok_and(|live| live == content);
        if content != promise.content && !written() {
            return Some(format!("{} is not what was synced", promise.name));
        }
    }
    for name in dir.list_all(prefix::ALL).unwrap() {
        let content = dir.read_all(&name, 1 << 20).unwrap();
        let mut given = run.created.iter().filter(|(created, _)| *created == name).peekable();
        if given.peek().is_some() && !given.any(|(_, data)| *data == content) {
            return Some(format!("{name} is there, but not whole"));
        }
    }
    None
}

/// Crashes after every call. Returns the number of states and what is wrong.
fn explore(file_system: FileSystem, suppressed: Option<SyncSite>) -> (usize, Option<String>) {
    let mut run = Run::new(file_system, suppressed);
    // Slow enough for helpers.
    run.model.slow_down(500);
    scenario(&mut run);
    let mut states = 0;
    for (step, state) in run.model.history().into_iter().enumerate() {
        let live = open(&Model::from_state(state.clone(), file_system, None)).unwrap();
        for crashed in state.crashes() {
            states += 1;
            if let Some(wrong) = check(&run, file_system, step, &live, crashed) {
                return (states, Some(format!("after call {step}: {wrong}")));
            }
        }
    }
    (states, None)
}

#[test]
fn nothing_durable_is_lost() {
    for file_system in [EXT4, XFS, NFS, GLUSTER] {
        let (states, wrong) = explore(file_system, None);
        assert_eq!(wrong, None);
        assert!(states > 1000, "only {states} states");
    }
}

#[test]
fn every_sync_is_needed() {
    for site in SyncSite::ALL {
        let found = [EXT4, XFS, NFS].map(|file_system| explore(file_system, Some(site)).1);
        assert!(found.iter().any(Option::is_some), "nothing is wrong without {site:?}");
    }
}

/// A store on GlusterFS has no other syncs than these.
#[test]
fn every_sync_of_a_brick_is_needed() {
    use SyncSite::{CreateData, CreateEntry, Evict, SyncData, SyncEntry};
    for site in [CreateData, CreateEntry, Evict, SyncData, SyncEntry] {
        assert!(explore(GLUSTER, Some(site)).1.is_some(), "nothing is wrong without {site:?}");
    }
}

/// What the first sync of an own block after an open costs: its file, and
/// nothing for a name that a record has proved durable.
#[test]
fn a_sync_of_content_asks_the_file_and_no_directory() {
    for file_system in [EXT4, NFS] {
        let mut run = Run::new(file_system, None);
        run.dir.create_sparse(&block(1), BLOCK_BYTES).unwrap();
        run.sync(&[block(1)]);
        run.dir = open(&run.model).unwrap();
        run.model.fail_next("fsync", Fail::Before(libc::EIO));
        run.dir.sync_content(&[block(1)]).unwrap();
        assert!(run.dir.sync(&[block(1)]).is_err(), "the name is not known to be durable");
        // Even though nothing was written: it may be in the cache of the host.
        run.dir = open(&run.model).unwrap();
        run.model.fail_next("fdatasync", Fail::Before(libc::EIO));
        assert!(run.dir.sync_content(&[block(1)]).is_err());
        assert!(run.dir.sync_content(&[block(1)]).is_err(), "forgotten");
        assert!(run.dir.sync(&[block(1)]).is_err(), "forgotten");
    }
}

/// Threads that help to sync could lose an object between them, or one's
/// error.
#[test]
fn slow_syncs_run_side_by_side() {
    let names: Vec<ObjectName> = (0..12).map(block).collect();
    for failing in [None, Some(0), Some(1), Some(11)] {
        let mut run = Run::new(NFS, None);
        run.dir = Dir::open_on(Arc::clone(&run.model) as Arc<dyn Files>, Path::new("/m"), Default::default())
            .unwrap();
        names.iter().for_each(|name| run.dir.create_sparse(name, BLOCK_BYTES).unwrap());
        run.dir.sync(&names).unwrap();
        names.iter().for_each(|name| run.write(name, 0x77));
        run.model.slow_down(5000);
        match failing {
            None => run.sync(&names),
            Some(nth) => {
                run.model.fail_after(nth, "fdatasync", Fail::Before(libc::EIO));
                assert!(run.dir.sync(&names).is_err(), "sync {nth} failed");
                let failed = names.iter().filter(|name| run.dir.sync(&[(*name).clone()]).is_err());
                assert_eq!(failed.count(), 1, "sync {nth} failed");
            }
        }
        if failing != Some(0) {
            assert!(run.model.fdatasyncs_max() > 1, "one after the other");
        }
        let mut states = run.model.state().crashes();
        let Some(Some(state)) = (!states.is_empty()).then(|| states.swap_remove(0)) else { panic!() };
        let after = open(&Model::from_state(state, NFS, None)).unwrap();
        let lost = names.iter().filter(|name| {
            after.read_all(name, 1 << 20).unwrap()[7..507] != [0x77; 500]
        });
        assert_eq!(lost.count(), usize::from(failing.is_some()), "sync {failing:?} failed");
        // A file that cannot even be opened leaves no mark that would tell.
        let dir = Dir::open_on(Arc::clone(&run.model) as Arc<dyn Files>, Path::new("/m"), Default::default());
        run.model.fail_after(5, "open", Fail::Before(libc::EIO));
        assert!(dir.unwrap().sync(&names).is_err());
    }
}

/// A sync without a label would not be tried above.
#[test]
fn every_sync_has_a_label_of_its_own() {
    let sources = [
        include_str!("../src/backend/dir.rs"),
        include_str!("../src/backend/dir_create.rs"),
        include_str!("../src/backend/dir_data.rs"),
        include_str!("../src/backend/dir_files.rs"),
        include_str!("../src/backend/dir_gate.rs"),
        include_str!("../src/backend/dir_io.rs"),
        include_str!("../src/backend/dir_layout.rs"),
        include_str!("../src/backend/dir_lock.rs"),
        include_str!("../src/backend/dir_made.rs"),
        include_str!("../src/backend/dir_sync.rs"),
    ]
    .concat();
    for site in SyncSite::ALL {
        let label = format!("SyncSite::{site:?}");
        let uses = sources.match_indices(&label).count();
        // "Init" begins "InitAbove" too.
        let longer = SyncSite::ALL.iter().filter(|other| {
            **other != site && format!("{other:?}").starts_with(&format!("{site:?}"))
        });
        assert_eq!(uses, 1 + longer.count(), "{label} must be used in one place");
    }
    let declared = include_str!("../src/backend/dir_sys.rs");
    let labels = declared.split_once("pub enum SyncSite {").unwrap().1.split_once('}').unwrap().0;
    let count = labels.lines().filter(|line| line.trim_end().ends_with(',')).count();
    assert_eq!(count, SyncSite::ALL.len(), "SyncSite::ALL must have all labels");
    assert!(!sources.contains("rustix::fs") && !sources.contains("sync_all()"), "a way round `Files`");
}
