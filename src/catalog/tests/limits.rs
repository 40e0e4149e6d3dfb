//! What can go wrong at the ends of what is counted: a number that is just
//! possible is refused, or one that is not is taken and overflows later; a
//! listing that lags hides the last number; a name that leads to another
//! volume by now is told.

use super::super::numbered::Family;
use super::*;
use crate::log::format::POSITION_MAX;
use crate::name::NUMBER_MAX;

#[test]
fn heads_are_taken_up_to_the_last_number_and_no_further() {
    let store = store();
    let first = head::latest(&store, make(&store, "web")).unwrap();
    let reads = |change: &dyn Fn(&mut Head)| {
        let mut changed = first.clone();
        change(&mut changed);
        let there = head::decode(&changed.object(), &changed.encoded(Id(1)));
        there.map(|there| assert_eq!(there, changed)).is_ok()
    };
    for (beyond, good) in [(0, true), (1, false)] {
        assert_eq!(reads(&|head| head.log.segment = NUMBER_MAX + beyond), good);
        assert_eq!(reads(&|head| head.log.position = POSITION_MAX + beyond), good);
        assert_eq!(reads(&|head| head.log.tail = POSITION_MAX + beyond), good);
        assert_eq!(reads(&|head| head.size_bytes = volume_bytes_max() + beyond), good);
        assert_eq!(reads(&|head| head.block_bytes = 4 * MIB + beyond), good);
    }
}

fn volume_bytes_max() -> u64 {
    super::super::VOLUME_BYTES_MAX
}

#[test]
fn a_volume_is_as_large_as_may_be_and_no_larger() {
    let store = store();
    volume::create(&store, &name("most"), volume_bytes_max(), 4 * MIB).unwrap();
    let error = volume::create(&store, &name("more"), volume_bytes_max() + 1, 4 * MIB).unwrap_err();
    assert!(error.is(ErrorKind::Invalid), "{}", error.full());
}

/// Numbers that a listing does not show yet: those of another volume here.
#[test]
fn where_listings_lag_the_highest_number_is_looked_for() {
    for (list_lag_s, highest) in [(0, 2), (1, 5)] {
        let (_, store) = store_with(Capabilities { list_lag_s, ..CAPABILITIES });
        let (listed, there) = (Id(1), Id(2));
        let create = |volume, number| {
            store.control().create(&ObjectName::Head { volume, number }, b"x").unwrap();
        };
        (1..=2).for_each(|number| create(listed, number));
        (1..=5).chain([7]).for_each(|number| create(there, number));
        let name = |number| ObjectName::Head { volume: there, number };
        let backend = store.control().as_ref();
        let family = Family { backend, prefix: prefix::heads_of(listed), name: &name };
        assert_eq!(family.highest().unwrap(), Some(highest), "they lag {list_lag_s} s");
    }
}

#[test]
fn a_name_is_found_where_it_leads_to_now() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("main", Arc::new(faulty.clone()), 4 * MIB).unwrap();
    let first = make(&store, "a");
    assert_eq!(volume::name_of(&store, &name("a"), first).unwrap(), name("a"));
    volume::rename(&store, &name("a"), &name("b")).unwrap();
    assert_eq!(volume::name_of(&store, &name("a"), first).unwrap(), name("b"), "nothing is called so");
    let second = make(&store, "a");
    assert_eq!(volume::name_of(&store, &name("a"), first).unwrap(), name("b"), "another one is");
    assert_eq!(volume::name_of(&store, &name("a"), second).unwrap(), name("a"));
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Read).named("volume/").times(1));
    assert!(volume::name_of(&store, &name("a"), first).unwrap_err().is(ErrorKind::Unavailable));
    assert!(volume::name_of(&store, &name("a"), Id(9)).unwrap_err().is(ErrorKind::NotFound));
}

#[test]
fn a_refusal_shows_five_snapshots() {
    let store = store();
    let volume = make(&store, "web");
    for number in 1..=6 {
        cut(&store, volume, &format!("s{number}"));
        let text = volume::remove(&store, &name("web"), false).unwrap_err().to_string();
        let shown = (1..=5.min(number)).all(|at| text.contains(&format!("s{at}")));
        assert!(shown && text.contains("...") == (number > 5), "{text}");
    }
}

#[test]
fn a_clone_may_be_larger_and_not_smaller() {
    let store = store();
    let volume = make(&store, "web");
    cut(&store, volume, "s");
    let source = snapshot::find(&store, volume, &snap("s")).unwrap();
    let clone = |to: &str, size_bytes| super::super::clone::clone(&store, &source, &name(to), size_bytes);
    let size_of = |id| head::latest(&store, id).unwrap().size_bytes;
    assert_eq!(size_of(clone("same", None).unwrap()), source.size_bytes);
    assert_eq!(size_of(clone("equal", Some(source.size_bytes)).unwrap()), source.size_bytes);
    assert_eq!(size_of(clone("larger", Some(source.size_bytes + 512)).unwrap()), source.size_bytes + 512);
    let error = clone("smaller", Some(source.size_bytes - 512)).unwrap_err();
    assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("--shrink"), "{error}");
    assert!(volume::lookup(&store, &name("smaller")).unwrap_err().is(ErrorKind::NotFound));
}
