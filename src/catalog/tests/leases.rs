//! Leases: who gets a volume, when, and what the loser is told.

use super::*;
use crate::catalog::lease::Destination;

fn dead_identity() -> Identity {
    // No process has this number and this start.
    Identity { pid: i32::MAX as u32, start_ticks: 1, ..Identity::of_this_process() }
}

fn elsewhere() -> Identity {
    Identity { host: "beta".into(), boot_id: "another boot".into(), ..Identity::of_this_process() }
}

fn quick() -> Options {
    Options {
        renew_every: Duration::from_millis(5),
        deadline: Duration::from_secs(20),
        ..Options::default()
    }
}

fn as_other(identity: Identity) -> Options {
    Options { identity, renew_every: Duration::from_secs(600), ..Options::default() }
}

#[test]
fn the_second_writer_is_told_who_has_the_volume_and_what_to_do() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        let (held, taken) = lease::take(&store, volume, "web", &Options::default()).unwrap();
        assert!(taken.clean && taken.previous.is_none());
        held.confirm().unwrap();
        let error = lease::take(&store, volume, "web", &Options::default()).unwrap_err();
        assert!(error.is(ErrorKind::Busy));
        let text = error.to_string();
        let pid = format!("volume 'web' is in use by process {} (", std::process::id());
        assert!(text.starts_with(&pid), "{text}");
        assert!(text.contains("on host ") && text.contains(" since 20") && text.contains(" UTC; "), "{text}");
        assert!(text.ends_with("look further with: archipelago lease show web"), "{text}");
        held.release(true).unwrap();
    }
}

#[test]
fn a_clean_release_says_so_and_anything_else_does_not() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        let take = || lease::take(&store, volume, "web", &Options::default()).unwrap();
        take().0.release(true).unwrap();
        assert_eq!(lease::show(&store, volume).unwrap(), LeaseState::Free { clean: true });
        let (held, taken) = take();
        assert!(taken.clean && taken.previous.is_some());
        held.release(false).unwrap();
        assert_eq!(lease::show(&store, volume).unwrap(), LeaseState::Free { clean: false });
        let (held, taken) = take();
        assert!(!taken.clean);
        drop(held);
        assert!(!take().1.clean, "dropped without a word is not clean");
    }
}

#[test]
fn leases_do_not_pile_up() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        for _ in 0..5 {
            lease::take(&store, volume, "web", &Options::default()).unwrap().0.release(true).unwrap();
        }
        assert_eq!(object_count(&store, prefix::LEASES), 1);
    }
}

#[test]
fn a_crashed_holders_volume_opens_at_once_where_the_store_fences() {
    let store = store();
    let volume = make(&store, "web");
    // Its identity looks alive: only the lock counts.
    let (held, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    let id = held.holder().id;
    held.abandon();
    match lease::show(&store, volume).unwrap() {
        LeaseState::Held { life, .. } => assert_eq!(life, Life::Dead),
        other => panic!("{other:?}"),
    }
    let (held, taken) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    assert!(!taken.clean);
    assert_eq!(taken.previous.unwrap().id, id);
    held.release(true).unwrap();
}

#[test]
fn a_dead_process_on_this_host_loses_its_lease_where_the_store_does_not_fence() {
    let store = unfenced();
    let volume = make(&store, "web");
    lease::take(&store, volume, "web", &as_other(dead_identity())).unwrap().0.abandon();
    let (held, taken) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    assert!(!taken.clean);
    held.release(true).unwrap();
}

#[test]
fn a_holder_that_cannot_be_judged_keeps_its_lease_until_it_is_broken() {
    let store = unfenced();
    let volume = make(&store, "web");
    lease::take(&store, volume, "web", &as_other(elsewhere())).unwrap().0.abandon();
    let error = lease::take(&store, volume, "web", &Options::default()).unwrap_err();
    assert!(error.is(ErrorKind::Busy));
    assert!(error.to_string().contains("on host beta"), "{error}");
    assert!(error.to_string().contains("archipelago lease break web"), "{error}");
    assert!(lease::take_shared(&store, volume, "web").unwrap_err().is(ErrorKind::Busy));

    lease::break_lease(&store, volume, "web", "root@alpha").unwrap();
    match lease::show(&store, volume).unwrap() {
        LeaseState::Broken { by, holder } => {
            assert_eq!((by.as_str(), holder.process.host.as_str()), ("root@alpha", "beta"));
        }
        other => panic!("{other:?}"),
    }
    let (held, taken) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    assert!(!taken.clean, "what the broken holder left is not known");
    held.release(true).unwrap();
}

#[test]
fn a_lease_whose_holder_lives_cannot_be_broken() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        let nobody = lease::break_lease(&store, volume, "web", "me").unwrap_err();
        assert!(nobody.is(ErrorKind::Invalid), "{nobody}");
        let (held, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
        let error = lease::break_lease(&store, volume, "web", "me").unwrap_err();
        assert!(error.is(ErrorKind::Busy) && error.to_string().contains("alive"), "{error}");
        held.confirm().unwrap();
        held.release(true).unwrap();
    }
}

#[test]
fn a_holder_renews_and_finds_out_that_it_was_fenced() {
    let store = unfenced();
    let volume = make(&store, "web");
    let options = Options { identity: elsewhere(), ..quick() };
    let (held, _) = lease::take(&store, volume, "web", &options).unwrap();
    let number = || match lease::show(&store, volume).unwrap() {
        LeaseState::Held { number, .. } => number,
        other => panic!("{other:?}"),
    };
    let before = number();
    wait_until(|| number() >= before + 3);
    assert!(object_count(&store, prefix::LEASES) <= 2);
    lease::break_lease(&store, volume, "web", "me").unwrap();
    wait_until(|| held.confirm().is_err_and(|error| error.is(ErrorKind::Fenced)));
    let (next, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    // What is fenced must not undo what came after it.
    assert!(held.release(true).unwrap_err().is(ErrorKind::Fenced));
    next.confirm().unwrap();
    next.release(true).unwrap();
}

#[test]
fn a_lease_that_is_not_renewed_in_time_is_not_relied_on() {
    let store = unfenced();
    let volume = make(&store, "web");
    let options = Options {
        renew_every: Duration::from_secs(600),
        deadline: Duration::from_millis(30),
        ..Options::default()
    };
    let (held, _) = lease::take(&store, volume, "web", &options).unwrap();
    wait_until(|| held.confirm().is_err_and(|error| error.is(ErrorKind::Unavailable)));
}

/// The store is away for longer than the deadline: whoever flushes waits, and
/// goes on when it is back, unless the lease was taken away or is given back.
#[test]
fn a_store_that_was_away_for_longer_than_the_deadline_is_waited_for() {
    for end in ["back", "broken", "given back"] {
        let faulty = Faulty::new(Arc::new(Memory::with(Capabilities { fences: false, ..CAPABILITIES })));
        let store = Store::init("test", Arc::new(faulty.clone()), 65536).unwrap();
        let volume = make(&store, "web");
        let options = Options { deadline: Duration::from_millis(40), identity: elsewhere(), ..quick() };
        let (held, _) = lease::take(&store, volume, "web", &options).unwrap();
        held.confirmation().wait().unwrap();
        let away = Fault::Fail(ErrorKind::Unavailable);
        faulty.inject(Rule::new(away).on(Method::Create).named("lease/").times(u64::MAX));
        wait_until(|| held.confirm().is_err_and(|error| error.is(ErrorKind::Unavailable)));
        let (told, waits) = (std::sync::atomic::AtomicBool::new(false), held.confirmation());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let result = waits.wait();
                told.store(true, std::sync::atomic::Ordering::SeqCst);
                result
            });
            std::thread::sleep(Duration::from_millis(100));
            assert!(!told.load(std::sync::atomic::Ordering::SeqCst), "it was not waited for");
            match end {
                "back" => {
                    faulty.clear();
                    waiting.join().unwrap().unwrap();
                    held.confirm().unwrap();
                }
                "broken" => {
                    faulty.clear();
                    lease::break_lease(&store, volume, "web", "me").unwrap();
                    // It may have been confirmed once more before.
                    drop(waiting.join().unwrap());
                    wait_until(|| held.confirmation().wait().is_err_and(|error| error.is(ErrorKind::Fenced)));
                }
                _ => {
                    let _late = held.release(true);
                    assert!(waiting.join().unwrap().unwrap_err().is(ErrorKind::Unavailable));
                }
            }
        });
    }
}

#[test]
fn no_lease_is_written_while_the_lock_says_it_all() {
    let store = store();
    let volume = make(&store, "web");
    let (held, _) = lease::take(&store, volume, "web", &quick()).unwrap();
    let before = lease::show(&store, volume).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(lease::show(&store, volume).unwrap(), before);
    held.release(true).unwrap();
}

#[test]
fn readers_and_a_writer_exclude_each_other() {
    let store = store();
    let volume = make(&store, "web");
    let one = lease::take_shared(&store, volume, "web").unwrap();
    let two = lease::take_shared(&store, volume, "web").unwrap();
    let error = lease::take(&store, volume, "web", &Options::default()).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains("readers"), "{error}");
    drop((one, two));
    let (held, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    assert!(lease::take_shared(&store, volume, "web").unwrap_err().is(ErrorKind::Busy));
    held.release(true).unwrap();
    lease::take_shared(&store, volume, "web").unwrap();
}

#[test]
fn of_many_takers_one_wins() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        for _ in 0..20 {
            let barrier = std::sync::Barrier::new(4);
            let winners: Vec<lease::Lease> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            lease::take(&store, volume, "web", &Options::default())
                        })
                    })
                    .collect();
                takers.into_iter().filter_map(|taker| taker.join().unwrap().ok()).map(|(l, _)| l).collect()
            });
            assert_eq!(winners.len(), 1);
            for winner in winners {
                winner.release(true).unwrap();
            }
        }
    }
}

fn number(store: &Store, volume: Id) -> u64 {
    match lease::show(store, volume).unwrap() {
        LeaseState::Held { number, .. } => number,
        other => panic!("{other:?}"),
    }
}

/// What cannot be told for sure is never taken for dead, nor for this one.
#[test]
fn only_the_same_process_of_the_same_boot_and_namespace_is_judged() {
    let us = Identity::of_this_process();
    let of = |change: &dyn Fn(&mut Identity)| {
        let mut other = us.clone();
        change(&mut other);
        us.judge(&other)
    };
    assert_eq!(of(&|_| {}), Life::Alive);
    assert_eq!(of(&|other| other.host = "renamed".into()), Life::Alive);
    assert_eq!(of(&|other| other.start_ticks += 1), Life::Dead, "its number was given to us");
    assert_eq!(of(&|other| other.start_ticks = 0), Life::Alive, "nobody knows since when");
    assert_eq!(of(&|other| other.boot_id = "another".into()), Life::Unknown);
    assert_eq!(of(&|other| other.boot_id.clear()), Life::Unknown);
    assert_eq!(of(&|other| other.pid_namespace += 1), Life::Unknown);
    assert_eq!(of(&|other| other.pid = 0), Life::Unknown);
    let nowhere = Identity { pid_namespace: 0, ..us.clone() };
    assert_eq!(nowhere.judge(&nowhere), Life::Unknown);
    let never = Identity { boot_id: String::new(), ..us.clone() };
    assert_eq!(never.judge(&never), Life::Unknown);
}

/// Whoever opens looks whether the lease is its own still.
#[test]
fn a_lease_is_verified_only_while_it_is_the_last() {
    for store in [store(), unfenced()] {
        let volume = make(&store, "web");
        let (held, _) = lease::take(&store, volume, "web", &as_other(elsewhere())).unwrap();
        held.verify().unwrap();
        held.release(true).unwrap();
    }
    let store = unfenced();
    let volume = make(&store, "web");
    let (held, _) = lease::take(&store, volume, "web", &as_other(elsewhere())).unwrap();
    lease::break_lease(&store, volume, "web", "me").unwrap();
    assert!(held.verify().unwrap_err().is(ErrorKind::Fenced), "it is broken");
    let (next, _) = lease::take(&store, volume, "web", &Options::default()).unwrap();
    assert!(held.verify().unwrap_err().is(ErrorKind::Fenced), "another one has it");
    next.verify().unwrap();
    next.release(true).unwrap();
    assert!(held.verify().unwrap_err().is(ErrorKind::Fenced));
    held.abandon();
}

#[test]
fn a_lease_is_broken_once_and_leaves_one_record() {
    let store = unfenced();
    let volume = make(&store, "web");
    for _ in 0..3 {
        lease::take(&store, volume, "web", &as_other(elsewhere())).unwrap().0.abandon();
        lease::break_lease(&store, volume, "web", "me").unwrap();
        assert_eq!(object_count(&store, prefix::LEASES), 1);
        assert!(lease::break_lease(&store, volume, "web", "me").unwrap_err().is(ErrorKind::Invalid));
    }
    lease::take(&store, volume, "web", &Options::default()).unwrap().0.release(true).unwrap();
    let error = lease::break_lease(&store, volume, "web", "me").unwrap_err();
    assert!(error.is(ErrorKind::Invalid), "it was given back: {}", error.full());
}

/// A store is not asked more often than it must be, and not at all after the
/// lease was given back.
#[test]
fn a_lease_is_renewed_in_its_time_and_not_after_its_end() {
    let faulty = Faulty::new(Arc::new(Memory::with(Capabilities { fences: false, ..CAPABILITIES })));
    let store = Store::init("main", Arc::new(faulty.clone()), 4 * MIB).unwrap();
    let volume = make(&store, "web");
    let (held, _) = lease::take(&store, volume, "web", &as_other(elsewhere())).unwrap();
    let before = number(&store, volume);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(number(&store, volume), before, "in ten minutes");
    held.release(true).unwrap();
    for _ in 0..5 {
        let (held, _) = lease::take(&store, volume, "web", &quick()).unwrap();
        let before = number(&store, volume);
        wait_until(|| number(&store, volume) > before);
        held.release(true).unwrap();
        let calls = faulty.calls(Method::Create);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(faulty.calls(Method::Create), calls, "it is given back");
        assert_eq!(lease::show(&store, volume).unwrap(), LeaseState::Free { clean: true });
    }
}

/// Who finds the lock taken, and no lease that says by whom, is told what he
/// can know: readers keep writers out, a writer everybody.
#[test]
fn without_a_lease_the_kind_of_lock_says_who_it_may_be() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let store = Store::init("main", Arc::new(faulty.clone()), 4 * MIB).unwrap();
    let volume = make(&store, "web");
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Busy)).on(Method::Lock).times(u64::MAX));
    let text = lease::take(&store, volume, "web", &Options::default()).unwrap_err().to_string();
    assert!(text.contains("by readers"), "{text}");
    let text = lease::take_shared(&store, volume, "web").unwrap_err().to_string();
    assert!(text.contains("by a writer"), "{text}");
    faulty.clear();
    // Taken for a moment only: it is tried again. Anything else is told.
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Busy)).on(Method::Lock).times(2));
    lease::take(&store, volume, "web", &Options::default()).unwrap().0.release(true).unwrap();
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Lock).times(1));
    let error = lease::take(&store, volume, "web", &Options::default()).unwrap_err();
    assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
}

/// Somebody makes the number first, between the look and the taking.
#[test]
fn who_comes_second_by_a_hair_is_told_who_was_first() {
    let meddle = super::races::once("create lease/", |store| {
        let (_, volume) = volume::list(store).unwrap()[0].clone();
        lease::take(store, volume, "web", &as_other(elsewhere())).unwrap().0.abandon();
        None
    });
    let capabilities = Capabilities { fences: false, ..CAPABILITIES };
    let (meddled, plain) = super::races::meddled(Some(meddle), None, capabilities);
    let volume = make(&plain, "web");
    let error = lease::take(&meddled, volume, "web", &Options::default()).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && error.to_string().contains("on host beta"), "{}", error.full());
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = crate::clock::now() + Duration::from_secs(30);
    while !holds() {
        assert!(crate::clock::now() < end, "it does not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process that is killed leaves its lock to the kernel until the disk is
/// done with its writes: it is waited for, and not told as a volume in use.
#[test]
fn the_lock_of_a_dead_holder_is_waited_for() {
    let store = store();
    let volume = make(&store, "web");
    let (held, _) = lease::take(&store, volume, "web", &as_other(dead_identity())).unwrap();
    let other = store.clone();
    let opener = std::thread::spawn(move || {
        let began = std::time::Instant::now();
        let (lease, taken) = lease::take(&other, volume, "web", &Options::default()).unwrap();
        (began.elapsed(), taken.clean, lease.release(true).unwrap())
    });
    std::thread::sleep(Duration::from_millis(600));
    assert!(!opener.is_finished(), "it has not waited");
    held.abandon();
    let (waited, clean, ()) = opener.join().unwrap();
    assert!(!clean && waited >= Duration::from_millis(500), "{waited:?}");
    // Readers wait as well.
    let (held, _) = lease::take(&store, volume, "web", &as_other(dead_identity())).unwrap();
    let other = store.clone();
    let reader = std::thread::spawn(move || lease::take_shared(&other, volume, "web").map(drop).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!reader.is_finished(), "it has not waited");
    held.abandon();
    reader.join().unwrap();
}

#[test]
fn readers_of_a_crashed_volume_do_not_make_a_writer_wait() {
    let store = store();
    let volume = make(&store, "web");
    lease::take(&store, volume, "web", &as_other(dead_identity())).unwrap().0.abandon();
    let _reading = lease::take_shared(&store, volume, "web").unwrap();
    let began = std::time::Instant::now();
    let error = lease::take(&store, volume, "web", &Options::default()).unwrap_err();
    assert!(error.is(ErrorKind::Busy) && began.elapsed() < Duration::from_secs(10), "{error}");
}

#[test]
fn the_patience_with_a_dead_holder_has_an_end() {
    let store = store();
    let volume = make(&store, "web");
    let (_held, _) = lease::take(&store, volume, "web", &as_other(dead_identity())).unwrap();
    let impatient = Options { patience: Duration::from_millis(300), ..Options::default() };
    let error = lease::take(&store, volume, "web", &impatient).unwrap_err();
    assert!(error.is(ErrorKind::Busy), "{error}");
    assert!(error.to_string().contains("it has ended, but the disk is not done with its writes"), "{error}");
}

/// A volume that was moved away is in this store for nobody, until it comes
/// back; and whoever could not say that it has moved goes on.
#[test]
fn a_volume_that_was_moved_away_is_here_for_nobody() {
    let to = Destination { store: Id(9), store_name: "ceph".to_owned() };
    for memory in [Memory::new(), Memory::with(Capabilities { fences: false, ..CAPABILITIES })] {
        let faulty = Faulty::new(Arc::new(memory));
        let store = Store::init("test", Arc::new(faulty.clone()), 64 << 10).unwrap();
        let volume = make(&store, "web");
        let (mut held, _) = lease::take(&store, volume, "web", &quick()).unwrap();
        // The thread that renews must not be the one that is struck.
        let full = Fault::Fail(ErrorKind::NoSpace);
        faulty.inject(Rule::new(full).on(Method::Create).named(prefix::leases_of(volume)).times(u64::MAX));
        assert!(held.move_away(&to).unwrap_err().is(ErrorKind::NoSpace));
        faulty.clear();
        std::thread::sleep(Duration::from_millis(30));
        held.confirm().unwrap();
        assert_eq!(lease::moved_to(&store, volume).unwrap(), None);
        held.move_away(&to).unwrap();
        drop(held);
        assert_eq!(lease::moved_to(&store, volume).unwrap(), Some(to.clone()));
        assert_eq!(lease::show(&store, volume).unwrap(), LeaseState::Moved(to.clone()));
        let error = lease::take(&store, volume, "web", &quick()).unwrap_err();
        assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("to store 'ceph'"), "{error}");
        assert!(lease::break_lease(&store, volume, "web", "me").unwrap_err().is(ErrorKind::Invalid));
        let from = Destination { store: Id(10), store_name: "nfs".to_owned() };
        let comes_back = Options { arrives: Some(from.clone()), ..quick() };
        let (back, taken) = lease::take(&store, volume, "web", &comes_back).unwrap();
        assert!(taken.clean);
        assert!(lease::take(&store, volume, "web", &quick()).unwrap_err().is(ErrorKind::Busy));
        assert!(lease::complete_arrival(&store, volume, "web").unwrap_err().is(ErrorKind::Busy));
        back.release(true).unwrap();
        // It has not arrived: it is where it came from.
        assert_eq!(lease::moved_to(&store, volume).unwrap(), Some(from.clone()));
        let (mut back, _) = lease::take(&store, volume, "web", &comes_back).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(lease::moved_to(&store, volume).unwrap(), Some(from));
        back.settle_in().unwrap();
        std::thread::sleep(Duration::from_millis(30));
        back.confirm().unwrap();
        assert_eq!(lease::moved_to(&store, volume).unwrap(), None);
        back.release(true).unwrap();
        assert_eq!(lease::show(&store, volume).unwrap(), LeaseState::Free { clean: true });
    }
}
