//! Three at once: a clone of a snapshot that its publisher has not verified.
//!
//! A publisher writes pages, makes the snapshot, and then looks whether a gc
//! began meanwhile: such a gc has the pages in its list and did not find the
//! snapshot. It does it again then, under the next number. But in between the
//! snapshot is there, and somebody may clone it, who sees no gc begin: it
//! began before. gc then deletes the pages that the clone has.
//!
//! Here a publisher stands before each of its calls in turn while a gc goes on
//! to each of its own; then the publisher makes one call, a clone is made, gc
//! ends, and the publisher goes on.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

use archipelago::catalog::volume as names;
use archipelago::error::ErrorKind;

use crate::hook::Hook;
use crate::world::*;

/// Stops a publisher before one of its calls, and again before the next.
struct Steps {
    stopped: Receiver<()>,
    go: Sender<()>,
}

impl Steps {
    fn arm(hook: &Arc<Hook>, at: u64) -> Steps {
        let ((tell, stopped), (go, may_go)) = (channel(), channel());
        let inner = Arc::clone(hook);
        hook.arm(at, move || {
            // Whoever does not wait any more lets it go on.
            let _ = tell.send(());
            let _ = may_go.recv();
            inner.arm(0, move || {
                let _ = tell.send(());
                let _ = may_go.recv();
            });
        });
        Steps { stopped, go }
    }

    /// False if the publisher came to its end instead.
    fn wait(&self) -> bool {
        self.stopped.recv().is_ok()
    }
}

/// Publishes with both stops. False: there is no call number `at`.
fn play(at: u64, gc_at: u64) -> (bool, bool, bool) {
    let (memory, plain) = new_store();
    let mut expected = Expected::default();
    names::create(&plain, &name("v"), SIZE, BLOCK).unwrap();
    let hook = Hook::new(&memory);
    let volume = open(&store_on(Arc::clone(&hook) as Arc<_>), "v");
    let mut content = Content::zeroes(SIZE);
    write(&volume, &mut content, 0, 2 * BLOCK, 1);
    write(&volume, &mut content, 1025 * BLOCK, 4096, 2);
    volume.snapshot(&snap("s")).unwrap();
    expected.snapshots.insert(("v".into(), "s".into()), content.clone());
    let steps = Steps::arm(&hook, at);
    let publisher = std::thread::spawn({
        let (volume, hook) = (Arc::clone(&volume), Arc::clone(&hook));
        move || {
            volume.publish_all().unwrap();
            // Drops what was not come to, and with it the sender.
            hook.arm(u64::MAX, || {});
        }
    });
    let mut cloned = false;
    let is_call = steps.wait();
    let collector = Hook::new(&memory);
    let mut collected = false;
    if is_call {
        let (done_tell, done) = channel();
        let store = plain.clone();
        collector.arm(gc_at, move || {
            steps.go.send(()).unwrap();
            let stopped = steps.wait();
            let outcome = make_clone(&store, "v", "s", "c");
            done_tell.send((steps, stopped, outcome)).unwrap();
        });
        gc(&store_on(Arc::clone(&collector) as Arc<_>));
        collected = collector.fired();
        collector.arm(u64::MAX, || {});
        if let Ok((steps, stopped, outcome)) = done.recv() {
            match outcome {
                Ok(()) => cloned = true,
                // Not there yet, or not for good.
                Err(error) if error.is(ErrorKind::NotFound) || error.is(ErrorKind::Busy) => {}
                Err(error) => panic!("call {at}, call {gc_at} of gc: {}", error.full()),
            }
            if stopped {
                steps.go.send(()).unwrap();
            }
        }
    }
    if cloned {
        expected.volumes.insert("c".into(), content.clone());
    }
    publisher.join().unwrap();
    expected.volumes.insert("v".into(), content);
    let what = format!("a clone after call {at}, at call {gc_at} of gc");
    for _ in 0..2 {
        expected.assert_on(&plain, &[("v", &volume)], &what);
        assert_sound(&plain, &what);
        gc(&plain);
    }
    volume.close().unwrap();
    (is_call, collected, cloned)
}

#[test]
fn a_clone_of_a_snapshot_that_is_not_verified_in_the_middle_of_gc() {
    let (mut clones, mut refusals) = (0, 0);
    for at in 0.. {
        let mut is_call = true;
        for gc_at in 0.. {
            let (is, collected, cloned) = play(at, gc_at);
            is_call = is;
            if !is || !collected {
                break;
            }
            clones += u32::from(cloned);
            refusals += u32::from(!cloned);
        }
        if !is_call {
            break;
        }
    }
    println!("{clones} clones were made, {refusals} refused");
    assert!(clones > 100 && refusals > 100, "{clones} clones were made, {refusals} refused");
}
