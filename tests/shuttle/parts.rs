//! Single parts on their own: the queue of threads, the window of a data path,
//! the renewal of a lease, appends to the log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Plain};

use archipelago::backend::window::Window;
use archipelago::store::Store;
use archipelago::sync::channel::unbounded;
use archipelago::thread::Handoff;
use archipelago::volume::Volume;
use archipelago::{Error, ErrorKind};
use shuttle::thread;

use super::bed::{device_options, recovered, snapshot_name, volume_name, BLOCK};
use super::explore::explore;
use super::synced::Synced;
use archipelago::catalog::volume as names;

/// Work is sent from outside and by threads that tell of other work, in every
/// way there is: each is done once, and a thread that was said to be about to
/// be free takes what was left to it.
pub fn handing_off() {
    let handoff = Arc::new(Handoff::default());
    let done = Arc::new(Plain::new(Vec::new()));
    let (told, all) = unbounded();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (handoff, done, told) = (Arc::clone(&handoff), Arc::clone(&done), told.clone());
            thread::spawn(move || {
                let again = Arc::clone(&handoff);
                let tell = |number: u32| {
                    done.lock().unwrap().push(number);
                    told.send(()).unwrap();
                    if number % 10 != 0 {
                        let next = number - 1;
                        let sent = again.send_awake(next).or_else(|next| again.send_idle(next));
                        sent.or_else(|next| again.send_alone(next)).or_else(|next| again.send(next)).unwrap();
                    }
                };
                handoff.serve(|number| number, tell);
            })
        })
        .collect();
    let senders: Vec<_> = [12, 22]
        .into_iter()
        .map(|first| {
            let handoff = Arc::clone(&handoff);
            thread::spawn(move || handoff.send(first).unwrap())
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    for _ in 0..6 {
        all.recv().unwrap();
    }
    handoff.close();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut done = done.lock().unwrap().clone();
    done.sort_unstable();
    assert_eq!(done, [10, 11, 12, 20, 21, 22]);
}

#[test]
fn nothing_is_left_lying_in_a_handoff() {
    explore("handoff", handing_off);
}

/// A window lets no more in than fit, and a wait for a round returns when all
/// of it has left: then memory is given back.
fn window() {
    let window = Arc::new(Window::new(2));
    let inside = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut helpers = Vec::new();
    for (at, round) in [0, 0, 1, 1].into_iter().enumerate() {
        window.enter(round).unwrap();
        let all: usize = inside.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        assert!(all < 2, "{all} were in it already");
        inside[round].fetch_add(1, Ordering::Relaxed);
        let (window, inside) = (Arc::clone(&window), Arc::clone(&inside));
        helpers.push(thread::spawn(move || {
            inside[round].fetch_sub(1, Ordering::Relaxed);
            let failed = Err(Error::new(ErrorKind::NoSpace, "write"));
            window.leave(round, if at == 3 { failed } else { Ok(()) });
        }));
    }
    drop(window.wait_round(0));
    assert_eq!(inside[0].load(Ordering::Relaxed), 0, "a round that is not over");
    assert!(window.wait_all().is_err_and(|error| error.is(ErrorKind::NoSpace)));
    assert_eq!(inside[1].load(Ordering::Relaxed), 0);
    helpers.into_iter().for_each(|helper| helper.join().unwrap());
}

#[test]
fn a_wait_for_a_round_returns_when_it_is_over() {
    explore("window", window);
}

/// A lease is renewed while its volume is used and closed: closing ends the
/// renewals, the last word is that it was given back, and the next holder
/// waits for nobody and recovers nothing.
pub fn renewing() {
    let synced = Synced::new(false);
    let store = Store::init("test", Arc::new(synced), BLOCK).unwrap();
    names::create(&store, &volume_name(), BLOCK, BLOCK).unwrap();
    let options = device_options(1 << 20).open;
    for tag in [1, 2] {
        let volume = Volume::open(&store, &volume_name(), &options).unwrap();
        let writer = {
            let volume = Arc::clone(&volume);
            thread::spawn(move || {
                volume.write_at(0, &[tag; 4096]).unwrap();
                volume.flush().unwrap();
            })
        };
        volume.flush().unwrap();
        writer.join().unwrap();
        let epoch = volume.epoch();
        volume.close().unwrap();
        let again = Volume::open(&store, &volume_name(), &options).unwrap();
        assert_eq!(again.epoch(), epoch, "it looked like an unclean end");
        let mut data = [0; 4096];
        again.read_at(0, &mut data).unwrap();
        assert_eq!(data, [tag; 4096]);
        again.close().unwrap();
    }
}

#[test]
fn a_lease_is_renewed_until_it_is_given_back() {
    explore("lease", renewing);
}

/// Threads append to one log and sync it: whoever comes first writes for the
/// others, and each is told of its own.
fn appending() {
    let synced = Synced::new(true);
    let store = Store::init("test", Arc::new(synced.clone()), BLOCK).unwrap();
    names::create(&store, &volume_name(), BLOCK, BLOCK).unwrap();
    let options = device_options(1 << 20).open;
    let volume = Volume::open(&store, &volume_name(), &options).unwrap();
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.snapshot(&snapshot_name("base")).unwrap();
    volume.publish_all().unwrap();
    let writers: Vec<_> = (0..3u8)
        .map(|at| {
            let (volume, synced) = (Arc::clone(&volume), synced.clone());
            thread::spawn(move || {
                volume.write_at(u64::from(at) * 4096, &[2 + at; 4096]).unwrap();
                volume.flush().unwrap();
                let found = recovered(synced.crashed(), BLOCK);
                assert_eq!(found[usize::from(at)], 2 + at, "flushed and lost: {found:?}");
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    volume.close().unwrap();
    assert_eq!(recovered(synced.crashed(), BLOCK), [2, 3, 4, 1]);
}

#[test]
fn appends_of_several_threads_share_batches() {
    explore("log", appending);
}

/// The log begins while a head is committed: the head must name the segment
/// that it begins with. One that named the next had whoever opened the volume
/// after a crash find an empty log.
pub fn beginning() {
    let synced = Synced::new(true);
    let store = Store::init("test", Arc::new(synced.clone()), BLOCK).unwrap();
    names::create(&store, &volume_name(), BLOCK, BLOCK).unwrap();
    let options = device_options(1 << 20).open;
    let volume = Volume::open(&store, &volume_name(), &options).unwrap();
    volume.write_at(0, &[1; BLOCK as usize]).unwrap();
    volume.snapshot(&snapshot_name("base")).unwrap();
    volume.close().unwrap();
    let volume = Volume::open(&store, &volume_name(), &options).unwrap();
    let settler = Arc::clone(&volume);
    let settler = thread::spawn(move || settler.settle_all().unwrap());
    volume.write_at(0, &[2; 4096]).unwrap();
    volume.flush().unwrap();
    assert_eq!(recovered(synced.crashed(), BLOCK), [2, 1, 1, 1], "flushed and lost");
    settler.join().unwrap();
    volume.close().unwrap();
}

#[test]
fn a_head_names_the_segment_that_the_log_begins_with() {
    explore("beginning", beginning);
}
