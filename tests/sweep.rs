//! Every call to the backend fails once, in every way.
//!
//! What can go wrong: an error path that nobody has ever walked leaves a lock
//! held, forgets a flushed write, believes that something was applied that was
//! not, panics, or waits for ever. The places that call a backend are read
//! from the source; stories come to each of them; and at each a call fails in
//! every way that there is: with every kind of error, short, late, twice, and
//! with its reply lost. Whatever the operations then say, after a crash and a
//! reopen everything that was flushed is there, nothing foreign is, the store
//! is sound, and the volume works. A full store is not even a reason to reopen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::faulty::{Fault, Method, Rule};
use archipelago::backend::Backend;
use archipelago::catalog::volume as names;
use archipelago::cli::parts;
use archipelago::maintain::check;
use archipelago::volume::Volume;
use archipelago::ErrorKind;

#[path = "sweep/abi.rs"]
mod abi;
#[path = "sweep/cover.rs"]
mod cover;
#[path = "sweep/device.rs"]
mod device;
#[path = "model/driver.rs"]
#[allow(dead_code)]
mod driver;
#[path = "model/foreign.rs"]
#[allow(dead_code)]
mod foreign;
#[path = "sweep/sites.rs"]
mod sites;
#[path = "tidy/source.rs"]
#[allow(dead_code)]
mod source;
#[path = "sweep/stories.rs"]
mod stories;
#[path = "sweep/world.rs"]
mod world;

use sites::Finder;
use world::{name, options, snap, verify, World, BLOCK};

/// Places that no story can come to: path, function, what is called, and why.
const OUT_OF_REACH: &[(&str, &str, &str, &str)] =
    &[("volume/zero.rs", "give_up_name", "delete", "only a planted fault comes here")];

/// Places that only the threads of a device come to.
fn is_of_device(site: &sites::Site) -> bool {
    site.path.starts_with("io/") || site.name.starts_with("submit_")
}

#[test]
fn every_place_that_calls_a_backend_meets_every_fault() {
    // For who has no time for all of it: tests/mutants.
    if let Some(runs) = std::env::var("ARCHIPELAGO_SWEEP_SAMPLE").ok().and_then(|text| text.parse().ok()) {
        let swept = cover::sample(runs);
        println!("{} of all runs, {} failures", swept.runs, swept.failures.len());
        assert!(swept.failures.is_empty(), "{}", swept.failures.join("\n"));
        return;
    }
    let finder = Finder::new();
    let swept = cover::sweep(&finder, std::env::var_os("ARCHIPELAGO_SWEEP_ALL").is_some());
    let (mut covered, mut runs) = (swept.covered.clone(), swept.runs);
    for (site, method) in device::places(&finder) {
        if is_of_device(&finder.sites()[site]) {
            runs += device::sweep(&finder, site, method);
        }
        covered.insert(site);
    }
    let sites = finder.sites();
    let missing: Vec<_> = (0..sites.len()).filter(|index| !covered.contains(index)).collect();
    let excused = |index: usize| {
        let site = &sites[index];
        OUT_OF_REACH.iter().any(|(path, function, name, _)| {
            (*path, *function, *name) == (site.path.as_str(), site.function.as_str(), site.name)
        })
    };
    let left_out = missing.iter().filter(|index| excused(**index)).count();
    println!(
        "{} of {} places ({:.1} %), {left_out} out of reach; {} calls, {runs} runs, {} failures",
        covered.len(),
        sites.len() - left_out,
        100.0 * covered.len() as f64 / (sites.len() - left_out) as f64,
        swept.calls,
        swept.failures.len()
    );
    swept.failures.iter().for_each(|failure| println!("{failure}"));
    assert!(swept.failures.is_empty(), "{} runs failed", swept.failures.len());
    assert_eq!(left_out, OUT_OF_REACH.len(), "a place that is out of reach is gone, or is reached after all");
    let missing: Vec<_> = missing.into_iter().filter(|index| !excused(*index)).map(|i| &sites[i]).collect();
    assert!(missing.is_empty(), "no story comes to {missing:?}");
}

#[test]
fn a_full_store_stops_nobody_once_there_is_room() {
    // A log segment has its room when it is made, but not everywhere.
    let not_applied = Fault::Fail(ErrorKind::NoSpace);
    let applied = Fault::FailApplied(ErrorKind::NoSpace);
    let story = &stories::all()[0];
    for (method, kind, fault, times) in [
        (Method::Create, "", &not_applied, 3),
        (Method::CreateSparse, "", &not_applied, 3),
        (Method::Write, "block/", &not_applied, 3),
        (Method::Write, "log/", &not_applied, 3),
        (Method::Write, "block/", &applied, 3),
        (Method::Write, "block/", &Fault::Short(ErrorKind::NoSpace), 3),
        // The second would be what clears the batch.
        (Method::Write, "log/", &applied, 1),
        (Method::Write, "log/", &Fault::Short(ErrorKind::NoSpace), 1),
    ] {
        for number in 0.. {
            let mut world = World::new(0, false);
            let full = Rule::new(fault.clone()).on(method).named(kind);
            world.faulty.inject(full.after(number).times(times));
            (story.run)(&mut world);
            let what = format!("{method:?} {number} of {kind} finds the store full: {fault:?}");
            if world.faulty.struck() == 0 {
                break;
            }
            for error in &world.errors {
                // A snapshot whose publishing found the store full is not cloned.
                let fits = [ErrorKind::NoSpace, ErrorKind::NotFound, ErrorKind::Exists, ErrorKind::Busy];
                assert!(fits.contains(&error.kind()), "{what}: {}", error.full());
            }
            world.faulty.clear();
            if !world.is_over() {
                world.write(30, 1);
                world.flush();
                let last = world.model[30].last();
                assert_eq!(last.map(|(_, done)| *done), Some(true), "{what}: it does not go on");
            }
            verify(world, &what, true);
        }
    }
}

#[test]
fn a_failed_sync_poisons_its_volume_and_no_other() {
    for kind in cover::KINDS {
        for (named, recorded) in [("block/", false), ("block/", true), ("log/", false)] {
            let what = format!("{kind:?} at a sync of {named}, recorded {recorded}");
            let mut world = World::new(0, false);
            names::create(&world.store, &name("x"), 4 * BLOCK, BLOCK).unwrap();
            let other = Volume::open(&world.store, &name("x"), &options()).unwrap();
            world.write(0, 4);
            if recorded {
                world.flush();
                world.write(0, 1);
            }
            world.faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Sync).named(named));
            world.flush();
            assert_eq!(world.errors.len(), 1, "{what}");
            let volume = Arc::clone(&world.volume);
            for (index, result) in [
                volume.write_at(0, &[1; 512]),
                volume.write_zeroes(0, BLOCK),
                volume.flush(),
                volume.snapshot(&snap("no")),
                volume.rollback(&snap("no")),
                volume.resize(64 * BLOCK, false),
                volume.check_alive(),
            ]
            .into_iter()
            .enumerate()
            {
                let errno = result.err().map(|error| error.kind().errno());
                assert_eq!(errno, Some(libc::EIO), "{what}: request {index}");
            }
            other.write_at(0, &[1; 4096]).and_then(|()| other.flush()).unwrap();
            other.close().unwrap();
            verify(world, &what, true);
        }
    }
}

/// The real thing past the page cache: requests are in flight on an io_uring
/// when the store is full, in the log or under what is being settled.
#[test]
fn a_full_directory_goes_on_on_its_data_path() {
    let options = DirOptions { direct: true, ..DirOptions::default() };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let number = std::cell::Cell::new(0);
    let make = || {
        number.set(number.get() + 1);
        let path = folder.path().join(number.get().to_string());
        World::over(Arc::new(Dir::create(&path, options.clone()).unwrap()), true)
    };
    let native = Dir::create(&folder.path().join("0"), options.clone()).unwrap().data_path();
    if native.is_none_or(|path| path.alignment_bytes() < 2) {
        println!("no file is past the page cache here: the sweep's own data path is all there is");
        return;
    }
    let kinds = [ErrorKind::NoSpace, ErrorKind::Unavailable, ErrorKind::Unknown];
    let mut faults: Vec<Fault> = kinds.map(Fault::Fail).to_vec();
    faults.extend(kinds.map(Fault::Short));
    faults.extend(kinds.map(Fault::FailApplied));
    let finder = Finder::new();
    let mut places = 0;
    for (site, method) in device::places(&finder) {
        if finder.sites()[site].name == "submit_write" {
            device::strike(&finder, site, method, &faults, &make);
            places += 1;
        }
    }
    assert_eq!(places, 3, "guest data, the log, what is settled");
}

/// An import fails because the outcome of its last head is unknown, and the
/// head appears when the volume is gone.
#[test]
fn an_import_of_unknown_outcome_leaves_no_head_without_blocks() {
    let world = World::new(0, false);
    names::create(&world.store, &name("p"), 4 * BLOCK, BLOCK).unwrap();
    let opened = Volume::open(&world.store, &name("p"), &options()).unwrap();
    opened.write_at(0, &[1; 4096]).and_then(|()| opened.flush()).unwrap();
    world.faulty.inject(Rule::new(Fault::ApplyLate).on(Method::Create).named("head/"));
    let error = opened.close().unwrap_err();
    assert!(error.is(ErrorKind::Unknown), "{}", error.full());
    parts::take_back_import(&world.store, &name("p"), &error).unwrap();
    world.faulty.settle_late().into_iter().for_each(|late| late.unwrap());
    let report = check::run(&world.store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(report.damage().count(), 0, "{:?}", report.problems);
    verify(world, "after the import", true);
}

/// What reads the source must notice what is new in it.
#[test]
fn a_call_of_something_unknown_is_not_passed_over() {
    let sites = |text: &str| sites::sites_of(&source::Source::new("volume/new.rs", text));
    let known =
        "fn look(&self) {\n    let found = self.store\n        .blocks()\n        .stat(&name)?;\n}\n";
    let known = sites(known).unwrap();
    assert_eq!((known.len(), known[0].line, known[0].function.as_str()), (1, 4, "look"));
    assert!(sites("fn look(&self) {\n    self.newcomer.stat(&name)?;\n}\n").is_err());
    let other = "fn look() {\n    let held = self.newcomer.lock();\n    // store.blocks().stat(&name)\n}\n";
    assert!(sites(other).unwrap().is_empty());
}

/// A store says of a head that it is taken, and never shows it.
#[test]
fn an_opening_that_loses_every_head_ends() {
    let mut world = World::new(0, false);
    world.write(0, 4);
    world.flush();
    world.volume.abandon();
    let taken = Rule::new(Fault::Fail(ErrorKind::Exists)).on(Method::Create).named("head/");
    world.faulty.inject(taken.times(u64::MAX));
    let error = Volume::open(&world.store, &name("v"), &options()).unwrap_err();
    assert!(error.is(ErrorKind::Fenced), "{}", error.full());
    verify(world, "after it ended", true);
}

/// A snapshot is listed, and cannot be found when it is read: it may be there.
#[test]
fn a_snapshot_that_cannot_be_found_stops_gc() {
    let mut world = World::new(0, false);
    world.write(0, 4);
    world.snapshot("a");
    world.act(|world| world.volume.publish_all());
    world.write(0, 4);
    world.act(|world| world.volume.settle_all());
    let gone = Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named("snapshot/");
    world.faulty.inject(gone.times(u64::MAX));
    let error = world::collect(&world.store).unwrap_err();
    assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
    world.faulty.clear();
    assert!(world.errors.is_empty(), "{:?}", world.errors);
    verify(world, "after gc has stopped", true);
}
