//! The contract of what is asked for several objects at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::conformance::{block, Open};
use super::{BackendExt, Last};
use crate::error::ErrorKind;
use crate::name::{prefix, Id, ObjectName, VolumeName};

fn head(volume: u128, number: u64) -> ObjectName {
    ObjectName::Head { volume: Id(volume), number }
}

/// One that fails says nothing of the others; each is whole, and of any kind.
pub(super) fn several_are_made_and_each_is_told_of(open: Open<'_>) {
    let store = open();
    let web = ObjectName::Volume(VolumeName::new("web").unwrap());
    let objects: [(&ObjectName, &[u8]); 4] = [
        (&ObjectName::Epoch(Id(1)), b"epoch"),
        (&head(7, 1), b"head"),
        (&web, b""),
        (&head(8, 1), &[0; 100]),
    ];
    assert!(store.create_each(&objects).into_iter().all(|made| made.is_ok()));
    let objects: [(&ObjectName, &[u8]); 3] =
        [(&head(7, 1), b"other"), (&head(7, 2), b"second"), (&web, b"other")];
    let made = store.create_each(&objects);
    assert_eq!(made.len(), 3);
    assert!(made[0].as_ref().is_err_and(|error| error.is(ErrorKind::Exists)), "{made:?}");
    assert!(made[1].is_ok() && made[2].is_err(), "{made:?}");
    let block = block(1);
    let objects: [(&ObjectName, &[u8]); 2] = [(&block, b"data"), (&head(7, 3), b"third")];
    assert!(store.create_each(&objects).into_iter().all(|made| made.is_ok()));
    let wanted: [(&ObjectName, &[u8]); 7] = [
        (&ObjectName::Epoch(Id(1)), b"epoch"),
        (&head(7, 1), b"head"),
        (&head(7, 2), b"second"),
        (&head(7, 3), b"third"),
        (&web, b""),
        (&head(8, 1), &[0; 100]),
        (&block, b"data"),
    ];
    for (name, data) in wanted {
        assert_eq!(store.read_all(name, 1000).unwrap(), data, "{name}");
    }
    assert!(store.create_each(&[]).is_empty());
}

pub(super) fn is_told(told: Last, wanted: Option<(ObjectName, &[u8])>) {
    let wanted = wanted.map_or(Last::Nothing, |(name, data)| Last::Object(name, data.to_vec()));
    assert!(told == wanted || told == Last::Untold, "{told:?} and not {wanted:?}");
}

/// Where it is told it is the last, with what it contains; also of kinds of which
/// there is nothing, and of which there is much.
pub(super) fn the_last_of_each_is_told_or_is_not(open: Open<'_>) {
    const MANY: u64 = 200;
    let store = open();
    for number in 1..=MANY {
        store.create(&head(7, number), format!("{number}").as_bytes()).unwrap();
    }
    for number in 1..=3 {
        store.create(&head(8, number), format!("{number}").as_bytes()).unwrap();
    }
    store.create(&ObjectName::Volume(VolumeName::new("web").unwrap()), b"web").unwrap();
    store.create(&block(1), b"data").unwrap();
    let prefixes = [
        prefix::MAINTENANCE.to_owned(),
        prefix::heads_of(Id(8)),
        prefix::heads_of(Id(7)),
        prefix::heads_of(Id(9)),
        prefix::VOLUMES.to_owned(),
    ];
    let asked: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let mut told = store.last_of_each(&asked).into_iter().map(|last| last.unwrap());
    let mut is = |wanted: Option<(ObjectName, &[u8])>| is_told(told.next().unwrap(), wanted);
    is(None);
    is(Some((head(8, 3), b"3")));
    is(Some((head(7, MANY), b"200")));
    is(None);
    is(Some((ObjectName::Volume(VolumeName::new("web").unwrap()), b"web")));
    for prefix in [prefix::BLOCKS, prefix::MAINTENANCE] {
        let both = store.last_of_each(&[prefix, &prefixes[1]]);
        assert_eq!(both.len(), 2, "{prefix}");
        let last = both.into_iter().last().unwrap().unwrap();
        is_told(last, Some((head(8, 3), b"3")));
    }
    assert!(store.last_of_each(&[]).is_empty());
}
