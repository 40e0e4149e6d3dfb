//! What can go wrong: the store cannot be asked for a moment, and what is only
//! not known passes for what is not there, or for done: a volume is missing
//! from a list, its name is given twice, a snapshot outlives what removed it.
//! Or the other way round: what somebody else has just taken away is an error.
//!
//! How this proves that it does not: each call of each operation fails once,
//! in turn; the answer is then the right one or that failure, and what fails
//! can be done again. In between somebody else is first, at chosen calls.

use std::fmt::Debug;

use super::races::{meddled, once};
use super::*;
use crate::error::{Error, Result};

/// Volumes `web`, with two heads, two snapshots and a lease that was left
/// behind, and `db`.
fn scene() -> (Memory, Id) {
    let (memory, store) = store_with(CAPABILITIES);
    let volume = make(&store, "web");
    cut(&store, volume, "a");
    cut(&store, volume, "b");
    let first = head::latest(&store, volume).unwrap();
    head::commit(&store, &Head { number: 2, ..first }).unwrap();
    make(&store, "db");
    lease::take(&store, volume, "web", &Options::default()).unwrap().0.abandon();
    drop(maintenance::claim_next(&store, &Identity::of_this_process()).unwrap());
    (memory, volume)
}

/// The store, of which call `number` fails so.
fn failing(memory: &Memory, fault: Fault, number: u64) -> (Faulty, Store) {
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let store = Store::open("main", Arc::new(faulty.clone())).unwrap();
    faulty.inject(Rule::new(fault).after(number));
    (faulty, store)
}

fn plain(memory: &Memory) -> Store {
    Store::open("main", Arc::new(memory.clone())).unwrap()
}

fn told(answer: Result<impl Debug>) -> Result<String> {
    match answer {
        Err(error) if error.is(ErrorKind::Exists) => Ok("it exists".to_owned()),
        other => other.map(|answer| format!("{answer:?}")),
    }
}

type Ask = fn(&Store, Id) -> Result<String>;

const QUESTIONS: [(&str, Ask); 12] = [
    ("volumes", |store, _| told(volume::list(store))),
    ("a volume", |store, _| told(volume::lookup(store, &name("web")))),
    ("whether a name is free", |store, _| told(volume::check_free(store, &name("web")))),
    ("its name", |store, volume| told(volume::name_of(store, &name("www"), volume))),
    ("what a removal takes", |store, _| told(volume::plan_removal(store, &name("web")))),
    ("heads", |store, volume| told(head::all(store, volume))),
    ("the numbers of heads", |store, volume| told(head::numbers(store, volume))),
    ("the head", |store, volume| told(head::latest(store, volume))),
    ("snapshots", |store, volume| told(snapshot::list(store, volume))),
    ("snapshots of all", |store, _| told(snapshot::list_all(store))),
    ("a snapshot", |store, volume| told(snapshot::find(store, volume, &snap("a")))),
    ("the generation", |store, _| told(maintenance::generation(store))),
];

#[test]
fn what_cannot_be_asked_is_not_taken_for_an_answer() {
    let (memory, volume) = scene();
    for (what, ask) in QUESTIONS {
        let right = ask(&plain(&memory), volume).unwrap();
        for kind in [ErrorKind::Unavailable, ErrorKind::Denied] {
            let failures = (0..).take_while(|number| {
                let (faulty, store) = failing(&memory, Fault::Fail(kind), *number);
                match ask(&store, volume) {
                    Ok(answer) => assert_eq!(answer, right, "{what}: call {number} fails"),
                    Err(error) => assert!(error.is(kind), "{what}: call {number}: {}", error.full()),
                }
                faulty.struck() > 0
            });
            assert!(failures.count() > 0, "{what}");
        }
    }
}

struct Deed {
    what: &'static str,
    act: fn(&Store, Id) -> Result<()>,
    is_done: fn(&Store, Id) -> bool,
}

fn has(store: &Store, text: &str) -> bool {
    volume::list(store).unwrap().iter().any(|(there, _)| *there == name(text))
}

const DEEDS: [Deed; 8] = [
    Deed {
        what: "create",
        act: |store, _| volume::create(store, &name("new"), MIB, 4 * MIB).map(drop),
        is_done: |store, _| {
            let made = volume::lookup(store, &name("new"));
            made.is_ok_and(|volume| head::latest(store, volume).is_ok())
        },
    },
    Deed {
        what: "clone",
        act: |store, volume| {
            let source = snapshot::find(store, volume, &snap("a"))?;
            volume::clone(store, &source, &name("copy"), None).map(drop)
        },
        is_done: |store, _| has(store, "copy"),
    },
    Deed {
        what: "rename",
        act: |store, _| volume::rename(store, &name("web"), &name("www")),
        is_done: |store, _| has(store, "www") && !has(store, "web"),
    },
    Deed {
        what: "remove",
        // Without its name gc ends it.
        act: |store, volume| match volume::remove(store, &name("web"), true) {
            Err(error) if error.is(ErrorKind::NotFound) => volume::remove_unnamed(store, volume).map(drop),
            other => other.map(drop),
        },
        is_done: |store, volume| {
            let left = [prefix::snapshots_of(volume), prefix::heads_of(volume), prefix::leases_of(volume)];
            !has(store, "web") && left.iter().all(|prefix| object_count(store, prefix) == 0)
        },
    },
    Deed {
        what: "publish a snapshot",
        act: |store, volume| {
            let there = snapshot::find(store, volume, &snap("a"))?;
            snapshot::publish(store, &Snapshot { name: snap("c"), id: Id(7), ..there })
        },
        is_done: |store, volume| snapshot::find(store, volume, &snap("c")).is_ok_and(|c| c.id == Id(7)),
    },
    Deed {
        what: "remove a snapshot",
        act: |store, volume| snapshot::remove(store, volume, &snap("a")),
        is_done: |store, volume| {
            snapshot::find(store, volume, &snap("a")).is_err_and(|error| error.is(ErrorKind::NotFound))
        },
    },
    Deed {
        what: "commit a head",
        act: |store, volume| {
            let last = head::latest(store, volume)?;
            head::commit(store, &Head { number: 3, ..last })
        },
        is_done: |store, volume| head::latest(store, volume).unwrap().number == 3,
    },
    Deed {
        what: "remove old heads",
        act: |store, volume| head::remove_below(store, volume, 2),
        is_done: |store, volume| head::numbers(store, volume).unwrap() == [2],
    },
];

#[test]
fn what_fails_is_not_done_half_for_ever_and_what_is_done_is_done() {
    let (memory, volume) = scene();
    let kinds = [ErrorKind::Unavailable, ErrorKind::Denied].map(Fault::Fail);
    let faults: Vec<Fault> = kinds.into_iter().chain([Fault::FailAfterApplying]).collect();
    for Deed { what, act, is_done } in DEEDS {
        for fault in &faults {
            let mut number = 0;
            loop {
                let forked = memory.fork();
                let (faulty, store) = failing(&forked, fault.clone(), number);
                let result = act(&store, volume);
                let plain = plain(&forked);
                let what = format!("{what}: {fault:?} of call {number}");
                match &result {
                    Ok(()) => assert!(is_done(&plain, volume), "{what}: it is not done"),
                    Err(error) => {
                        let own = matches!(fault, Fault::Fail(kind) if error.is(*kind));
                        assert!(own || error.is(ErrorKind::Unknown), "{what}: {}", error.full());
                    }
                }
                if !is_done(&plain, volume) {
                    act(&plain, volume).unwrap_or_else(|error| panic!("{what}, again: {}", error.full()));
                    assert!(is_done(&plain, volume), "{what}: it is not done the second time");
                }
                if faulty.struck() == 0 {
                    break;
                }
                number += 1;
            }
            assert!(number > 0, "{what}");
        }
    }
}

#[test]
fn what_was_taken_away_since_it_was_listed_is_left_out() {
    let (memory, volume) = scene();
    let lists: [(&str, &str, Ask); 2] = [
        (prefix::VOLUMES, "1", |store, _| told(volume::list(store).map(|all| all.len()))),
        (prefix::HEADS, "1", |store, volume| told(head::all(store, volume).map(|all| all.len()))),
    ];
    for (prefix, left, ask) in lists {
        let (faulty, store) = failing(&memory, Fault::Fail(ErrorKind::NotFound), u64::MAX);
        assert_eq!(ask(&store, volume).unwrap(), "2");
        faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named(prefix));
        assert_eq!(ask(&store, volume).unwrap(), left, "{prefix}");
    }
}

/// A snapshot is removed by somebody else, between a list and the look at it,
/// or before it is deleted.
#[test]
fn of_two_who_take_a_snapshot_away_none_fails() {
    let removes = |call: &'static str, which: &'static str| {
        let mut listed = 0;
        let mut action = once(call, move |store| {
            let (_, volume) = volume::list(store).unwrap()[0].clone();
            snapshot::remove(store, volume, &snap(which)).unwrap();
            None
        });
        let later = call.starts_with("list");
        Box::new(move |memory: &Memory, now: &str| {
            listed += u32::from(now.starts_with(call));
            // Not the list of all, but of the numbers of one.
            if later && listed < 2 { None } else { action(memory, now) }
        })
    };
    let of = |call, which| {
        let (meddled, plain) = meddled(Some(removes(call, which)), None, CAPABILITIES);
        let volume = make(&plain, "web");
        cut(&plain, volume, "a");
        cut(&plain, volume, "b");
        (meddled, plain, volume)
    };
    let (meddled, _, volume) = of("list snapshot/", "a");
    let names: Vec<SnapshotName> =
        snapshot::list(&meddled, volume).unwrap().into_iter().map(|there| there.name).collect();
    assert_eq!(names, [snap("b")]);
    let (meddled, plain, volume) = of("delete snapshot/", "a");
    snapshot::remove(&meddled, volume, &snap("a")).unwrap();
    assert_eq!(snapshot::list(&plain, volume).unwrap().len(), 1);
    let (meddled, plain, volume) = of("delete snapshot/", "b");
    volume::remove(&meddled, &name("web"), true).unwrap();
    assert_eq!(snapshot::list(&plain, volume).unwrap().len(), 0);
    assert_eq!(volume::list(&plain).unwrap().len(), 0);
}

/// A create of which nobody knows what became, and somebody else's is there.
#[test]
fn a_number_that_somebody_else_has_got_meanwhile_is_lost() {
    let meddle = once("create head/", |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        let last = head::latest(store, volume).unwrap();
        head::commit(store, &Head { number: 2, size_bytes: MIB, ..last }).unwrap();
        Some(Error::new(ErrorKind::Unknown, "create"))
    });
    let (meddled, plain) = meddled(Some(meddle), None, CAPABILITIES);
    let volume = make(&plain, "web");
    let first = head::latest(&plain, volume).unwrap();
    let error = head::commit(&meddled, &Head { number: 2, ..first }).unwrap_err();
    assert!(error.is(ErrorKind::Fenced), "{}", error.full());
    assert_eq!(head::latest(&plain, volume).unwrap().size_bytes, MIB);
}

/// Where nobody may lock, the processes say who lives; where the lock cannot
/// be asked, nothing is known.
#[test]
fn who_may_look_but_not_lock_is_told_who_lives() {
    let (memory, volume) = scene();
    let life = |kind| {
        let (faulty, store) = failing(&memory, Fault::Fail(kind), u64::MAX);
        faulty.inject(Rule::new(Fault::Fail(kind)).on(Method::Lock));
        match lease::show(&store, volume)? {
            LeaseState::Held { life, .. } => Ok(life),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(life(ErrorKind::Busy).unwrap(), Life::Alive, "its lock is taken");
    // Its holder has gone, but the process that it was of lives.
    assert_eq!(life(ErrorKind::Denied).unwrap(), Life::Alive);
    let unknown: Result<Life> = life(ErrorKind::Unavailable);
    assert!(unknown.unwrap_err().is(ErrorKind::Unavailable));
    let gone = lease::show(&plain(&memory), volume).unwrap();
    assert!(matches!(gone, LeaseState::Held { life: Life::Dead, .. }), "{gone:?}");
}

/// Of two names that an interrupted rename has left, one is taken away.
#[test]
fn a_name_that_is_removed_leaves_the_other_one_its_volume() {
    let store = store();
    let volume = make(&store, "web");
    let object = ObjectName::Volume(name("www"));
    store.control().create(&object, &volume::encode_for_tests(&name("www"), volume)).unwrap();
    assert_eq!(volume::remove(&store, &name("web"), false).unwrap().name_only, Some(name("www")));
    assert_eq!(volume::list(&store).unwrap(), [(name("www"), volume)]);
    head::latest(&store, volume).unwrap();
    volume::remove(&store, &name("www"), false).unwrap();
    assert!(head::latest(&store, volume).unwrap_err().is(ErrorKind::NotFound));
}

/// The volume is removed while it is renamed; or, where listings lag, only
/// seems to be.
#[test]
fn a_rename_of_what_is_gone_leaves_no_name() {
    for (list_lag_s, good) in [(0, false), (30, true)] {
        let blind: super::races::Action = Box::new(|_, call| {
            call.starts_with("list head/").then(|| Error::new(ErrorKind::NotFound, "list"))
        });
        let (meddled, plain) = meddled(Some(blind), None, Capabilities { list_lag_s, ..CAPABILITIES });
        let volume = make(&plain, "web");
        let result = volume::rename(&meddled, &name("web"), &name("www"));
        match good {
            true => {
                result.unwrap();
                assert_eq!(volume::list(&plain).unwrap(), [(name("www"), volume)]);
            }
            false => {
                assert!(result.unwrap_err().is(ErrorKind::NotFound));
                assert_eq!(volume::list(&plain).unwrap(), [(name("web"), volume)]);
            }
        }
    }
}
