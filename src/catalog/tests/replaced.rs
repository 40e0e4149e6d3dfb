//! What can go wrong with a snapshot that has several numbers, because scrub
//! gave it another root: one that was removed comes back, a later one of its
//! name is taken for it, or what is found has the root of before.
//!
//! How this proves that it cannot: every arrangement that a replacement, a
//! removal and a late creator can leave is made, and what is found, replaced
//! and removed is compared with what the arrangement stands for. In between
//! somebody else is first, at chosen calls.

use super::races::{meddled, once};
use super::*;

const A: Id = Id(10);
const B: Id = Id(11);

/// A volume, and one of its snapshots to make others of.
fn scene(store: &Store) -> Snapshot {
    let volume = make(store, "web");
    let first = cut(store, volume, "model");
    Snapshot { name: snap("s"), id: A, ..first }
}

fn put(store: &Store, model: &Snapshot, number: u64, id: Id) -> Snapshot {
    let made = Snapshot { number, id, root: root(u128::from(number)), ..model.clone() };
    snapshot::publish(store, &made).unwrap();
    made
}

fn found(store: &Store, model: &Snapshot) -> Option<(u64, Id)> {
    match snapshot::find(store, model.volume, &model.name) {
        Ok(there) => {
            assert_eq!(there.root, root(u128::from(there.number)));
            Some((there.number, there.id))
        }
        Err(error) if error.is(ErrorKind::NotFound) => None,
        Err(error) => panic!("{}", error.full()),
    }
}

fn count(store: &Store, model: &Snapshot) -> usize {
    object_count(store, &prefix::numbers_of(model.volume, &model.name))
}

/// What is there, and which of it counts.
type Arrangement<'a> = (&'a [(u64, Id)], (u64, Id));

#[test]
fn a_snapshot_is_the_highest_that_has_the_id_of_the_lowest() {
    let arrangements: [Arrangement<'_>; 9] = [
        (&[(1, A)], (1, A)),
        (&[(1, A), (2, A)], (2, A)),
        (&[(1, A), (2, B)], (1, A)),
        (&[(1, A), (2, A), (3, B)], (2, A)),
        (&[(1, A), (2, B), (3, A)], (3, A)),
        (&[(1, A), (2, A), (3, A)], (3, A)),
        (&[(2, A), (3, A)], (3, A)),
        (&[(3, B)], (3, B)),
        (&[(2, B), (3, A), (4, A)], (2, B)),
    ];
    for (objects, wanted) in arrangements {
        let store = store();
        let model = scene(&store);
        objects.iter().for_each(|(number, id)| drop(put(&store, &model, *number, *id)));
        assert_eq!(found(&store, &model), Some(wanted), "{objects:?}");
        let listed = snapshot::list(&store, model.volume).unwrap();
        assert!(listed.iter().any(|there| (there.number, there.id) == wanted), "{objects:?}");
        snapshot::remove(&store, model.volume, &model.name).unwrap();
        assert_eq!((found(&store, &model), count(&store, &model)), (None, 0), "{objects:?}");
    }
}

/// The lowest goes while the others are read: the next one is the lowest. One
/// that cannot be read is no reason to take another one for it.
#[test]
fn a_number_that_goes_meanwhile_does_not_count_and_one_that_cannot_be_read_does() {
    let (memory, store) = store_with(CAPABILITIES);
    let model = scene(&store);
    for (number, id) in [(1, A), (2, B), (3, B)] {
        put(&store, &model, number, id);
    }
    let lowest = Snapshot { number: 1, ..model.clone() }.object().to_string();
    let faulty = Faulty::new(Arc::new(memory));
    let store = Store::open("main", Arc::new(faulty.clone())).unwrap();
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::NotFound)).on(Method::Read).named(&lowest));
    assert_eq!(found(&store, &model), Some((3, B)));
    assert_eq!(found(&store, &model), Some((1, A)));
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Read).named(&lowest));
    let error = snapshot::find(&store, model.volume, &model.name).unwrap_err();
    assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
    assert_eq!(faulty.struck(), 2);
}

#[test]
fn a_replaced_snapshot_has_the_new_root_until_it_is_taken_back() {
    let store = store();
    let model = scene(&store);
    let old = put(&store, &model, 1, A);
    assert!(snapshot::replace(&store, &old, root(2)).unwrap());
    assert_eq!(found(&store, &model), Some((2, A)));
    snapshot::take_back(&store, &Snapshot { number: 2, ..old.clone() }).unwrap();
    assert_eq!((found(&store, &model), count(&store, &model)), (Some((1, A)), 1));
    snapshot::take_back(&store, &Snapshot { number: 2, ..old }).unwrap();
}

/// Somebody else removes, replaces or takes another snapshot of the name
/// while one is replaced.
#[test]
fn what_is_not_there_any_more_is_not_replaced() {
    type Meanwhile = fn(&Store, &Snapshot);
    type Case = (&'static str, Meanwhile, Option<(u64, Id)>);
    let remove: Meanwhile = |store, old| snapshot::remove(store, old.volume, &old.name).unwrap();
    let take_another: Meanwhile = |store, old| {
        snapshot::remove(store, old.volume, &old.name).unwrap();
        put(store, old, 1, B);
    };
    let replace: Meanwhile = |store, old| assert!(snapshot::replace(store, old, root(3)).unwrap());
    // Before the new number is made or after it, and what is found then.
    let cases: [Case; 5] = [
        ("create snapshot/", remove, None),
        ("created snapshot/", remove, None),
        ("create snapshot/", take_another, Some((1, B))),
        ("created snapshot/", take_another, Some((1, B))),
        ("created snapshot/", replace, Some((3, A))),
    ];
    for (call, meanwhile, wanted) in cases {
        let told = Arc::new(parking_lot::Mutex::new(None::<Snapshot>));
        let inside = Arc::clone(&told);
        let action = once(call, move |store| {
            // Not while the scene is made.
            let old = inside.lock().clone().filter(|old| found(store, old).is_some());
            if let Some(old) = old {
                meanwhile(store, &old);
            }
            None
        });
        let (before, after) = match call.starts_with("created") {
            true => (None, Some(action)),
            false => (Some(action), None),
        };
        let (store, plain) = meddled(before, after, CAPABILITIES);
        let model = scene(&plain);
        let old = put(&plain, &model, 1, A);
        *told.lock() = Some(old.clone());
        assert!(!snapshot::replace(&store, &old, root(2)).unwrap(), "{call}: {wanted:?}");
        assert_eq!(found(&plain, &model), wanted, "{call}");
        snapshot::remove(&plain, model.volume, &model.name).ok();
        assert_eq!(count(&plain, &model), 0, "{call}: {wanted:?}");
    }
}

/// Whether it was replaced is not known: that is said, and what was made stays,
/// for it may be the one that counts by now.
#[test]
fn a_replacement_that_cannot_be_looked_at_is_not_undone() {
    let (memory, store) = store_with(CAPABILITIES);
    let model = scene(&store);
    let old = put(&store, &model, 1, A);
    let faulty = Faulty::new(Arc::new(memory));
    let broken = Store::open("main", Arc::new(faulty.clone())).unwrap();
    let cannot = Rule::new(Fault::Fail(ErrorKind::Unavailable));
    let old_name = old.object().to_string();
    faulty.inject(cannot.on(Method::Read).named(old_name));
    assert!(snapshot::replace(&broken, &old, root(2)).unwrap_err().is(ErrorKind::Unavailable));
    assert_eq!((found(&store, &model), count(&store, &model)), (Some((2, A)), 2));
}

/// Who replaces a snapshot that is just being removed may make its number
/// after the removal has looked: a removal looks once more.
#[test]
fn a_removal_takes_what_is_made_meanwhile() {
    let meddle = once("delete snapshot/", |store| {
        let (_, id) = volume::list(store).unwrap()[0].clone();
        let there = snapshot::find(store, id, &snap("s")).unwrap();
        for number in 2..5 {
            put(store, &there, number, A);
        }
        None
    });
    let (store, plain) = meddled(Some(meddle), None, CAPABILITIES);
    let model = scene(&plain);
    put(&plain, &model, 1, A);
    snapshot::remove(&store, model.volume, &model.name).unwrap();
    assert_eq!((found(&plain, &model), count(&plain, &model)), (None, 0));
}

/// An answer that did not come says nothing about whether it is there.
#[test]
fn a_snapshot_whose_answer_was_lost_is_looked_for() {
    for (fault, is_there) in [(Fault::Fail(ErrorKind::Unknown), false), (Fault::FailAfterApplying, true)] {
        let (memory, store) = store_with(CAPABILITIES);
        let model = scene(&store);
        let faulty = Faulty::new(Arc::new(memory));
        let broken = Store::open("main", Arc::new(faulty.clone())).unwrap();
        faulty.inject(Rule::new(fault).on(Method::Create).named(prefix::SNAPSHOTS));
        let published = snapshot::publish(&broken, &Snapshot { number: 1, ..model.clone() });
        assert_eq!(published.is_ok(), is_there, "{published:?}");
        assert_eq!(count(&store, &model), usize::from(is_there));
    }
}
