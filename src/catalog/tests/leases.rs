//! Leases: who gets a volume, when, and what the loser is told.

use super::*;

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

fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = crate::clock::now() + Duration::from_secs(30);
    while !holds() {
        assert!(crate::clock::now() < end, "it does not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}
