//! The background of a device: settles when it is idle or the log fills,
//! publishes snapshots, and makes room for writers that found the log full.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::workers::guarded;
use super::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{self, Planted};
use crate::sync::{Condvar, JoinHandle, Mutex};
use crate::thread;
use crate::volume::Mode;

/// How often it looks, when nobody wakes it.
const TICK: Duration = Duration::from_millis(250);
/// Without a request for this long, the disk is ours.
const IDLE: Duration = Duration::from_secs(2);
/// Own blocks that the log does not know of are recorded from this count on,
/// for guests that never flush.
const UNRECORDED_MAX: usize = 4096;

/// How far writers may fall behind what was settled for them and still take
/// it, in bytes: settling tells of much at a time.
const CREDIT_BYTES_MAX: f64 = 4_194_304.0;

type Then = Box<dyn FnOnce(Result<()>) + Send>;

/// A write that waits for the log.
struct Parked {
    bytes: u64,
    then: Then,
}

#[derive(Default)]
struct State {
    parked: VecDeque<Parked>,
    /// Bytes that may be logged, of what was settled for it.
    credit_bytes: f64,
    woken: bool,
    stopped: bool,
}

/// The thread and who waits for it.
#[derive(Default)]
pub struct Background {
    state: Mutex<State>,
    wakeup: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Background {
    pub fn start(&self, inner: &Arc<Inner>) -> Result<()> {
        let weak = Arc::downgrade(inner);
        *self.thread.lock() = Some(thread::spawn("arch-settle", move || run(&weak))?);
        Ok(())
    }

    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.wakeup.notify_one();
    }

    /// Runs `then` when as much has been settled as allows to log `bytes`: at
    /// once, if that is so already and nobody has waited longer.
    pub fn slow_down(&self, bytes: u64, then: Then) {
        {
            let mut state = self.state.lock();
            if !state.parked.is_empty() || state.credit_bytes < bytes as f64 {
                state.parked.push_back(Parked { bytes, then });
                self.wakeup.notify_one();
                return;
            }
            state.credit_bytes -= bytes as f64;
        }
        then(Ok(()));
    }

    /// Runs `then` once there is room in the log for `bytes`, or there cannot
    /// be.
    pub fn park(&self, bytes: u64, then: Then) {
        let mut state = self.state.lock();
        // There was none for what had been allowed.
        state.credit_bytes = 0.0;
        state.parked.push_back(Parked { bytes, then });
        if !fault::on(Planted::ParkedUntold) {
            self.wakeup.notify_one();
        }
    }

    /// Lets those go on, longest waiting first, who want no more than `bytes`
    /// together. Returns how many.
    fn let_go_for(&self, bytes: f64) -> usize {
        let mut count = 0;
        let mut state = self.state.lock();
        state.credit_bytes = (state.credit_bytes + bytes).min(CREDIT_BYTES_MAX);
        while state.parked.front().is_some_and(|parked| parked.bytes as f64 <= state.credit_bytes) {
            let Some(parked) = state.parked.pop_front() else { break };
            state.credit_bytes -= parked.bytes as f64;
            drop(state);
            (parked.then)(Ok(()));
            count += 1;
            state = self.state.lock();
        }
        count
    }

    /// Lets the `count` who wait longest go on.
    fn let_go(&self, count: usize, result: &Result<()>) {
        for _ in 0..count {
            let Some(parked) = self.state.lock().parked.pop_front() else { return };
            (parked.then)(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.duplicate()),
            });
        }
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.wakeup.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }

    /// Waits for the next turn; `None`: no more. How many wait for room.
    fn next(&self, wait: bool) -> Option<usize> {
        let mut state = self.state.lock();
        if wait && state.parked.is_empty() && !state.woken && !state.stopped {
            self.wakeup.wait_for(&mut state, TICK);
        }
        state.woken = false;
        if state.stopped && state.parked.is_empty() {
            return None;
        }
        Some(state.parked.len())
    }
}

fn run(inner: &Weak<Inner>) {
    let mut more = false;
    let mut failures = 0u32;
    if let Some(inner) = inner.upgrade() {
        let volume = inner.volume();
        if volume.mode() == Mode::Writable && !volume.is_all_zero() {
            if let Err(error) = volume.prepare_log() {
                ::log::warn!("no log segment of '{}' prepared: {}", volume.name, error.full());
            }
        }
    }
    loop {
        let Some(inner) = inner.upgrade() else { return };
        // After a failure it is not tried again at once.
        let Some(waiting) = inner.background.next(!more || failures > 0) else { return };
        let mut outcome = Err(Error::new(ErrorKind::Internal, "work in the background"));
        guarded(&inner.volume, || outcome = turn(&inner, waiting));
        inner.ask_for_room_again();
        more = match outcome {
            Ok(more) => {
                failures = 0;
                more
            }
            Err(error) => {
                if failures % 240 == 0 {
                    let error = error.of_volume(&inner.volume().name);
                    ::log::warn!("background work: {}", error.full());
                }
                failures += 1;
                false
            }
        };
    }
}

/// One turn: room for those who wait, then a unit of work. True: there is
/// more.
fn turn(inner: &Arc<Inner>, waiting: usize) -> Result<bool> {
    let volume = inner.volume();
    if volume.mode() != Mode::Writable {
        return Ok(false);
    }
    // Getting full: those who wait go on as room is made, so that speed falls
    // smoothly, and at the latest after a batch. Full: after that there is
    // room.
    let gone = Cell::new(0);
    let mut progress = |bytes| {
        gone.set(gone.get() + inner.background.let_go_for(bytes as f64 * volume.log_pace()));
    };
    if waiting > 0 {
        let result = volume.settle_some(&mut progress);
        inner.background.let_go(waiting.saturating_sub(gone.get()), &result);
        result?;
    }
    if volume.unrecorded_count() > UNRECORDED_MAX {
        volume.flush()?;
    }
    let idle = inner.idle_for() > IDLE;
    volume.work_with(idle, &mut progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counting(count: &Arc<AtomicUsize>) -> Then {
        let count = Arc::clone(count);
        Box::new(move |result| {
            assert!(result.is_ok());
            count.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// What can go wrong: a writer waits for settling to go on although what
    /// was settled would do for it, overtakes one that waits, or asks again
    /// and again for room in a full log.
    #[test]
    fn what_has_been_settled_is_used_before_anybody_waits() {
        let background = Background::default();
        let (first, second) = (Arc::default(), Arc::default());
        background.slow_down(8192, counting(&first));
        assert_eq!(first.load(Ordering::SeqCst), 0, "nothing has been settled");
        assert_eq!(background.let_go_for(20_480.0), 1);
        background.slow_down(8192, counting(&first));
        assert_eq!(first.load(Ordering::SeqCst), 2, "there was enough for it");
        background.slow_down(8192, counting(&first));
        background.slow_down(4096, counting(&second));
        assert_eq!(second.load(Ordering::SeqCst), 0, "it waits behind one that wants more");
        assert_eq!(background.let_go_for(f64::INFINITY), 2);
        assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (3, 1));
        background.park(4096, counting(&second));
        assert_eq!(background.let_go_for(0.0), 0, "what was allowed before the log was full");
        background.let_go(1, &Ok(()));
        assert_eq!(second.load(Ordering::SeqCst), 2);
    }
}
