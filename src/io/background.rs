//! The background of a device: settles when it is idle or the log fills,
//! publishes snapshots, and makes room for writers that found the log full.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::workers::guarded;
use super::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::thread;
use crate::volume::Mode;

/// How often it looks, when nobody wakes it.
const TICK: Duration = Duration::from_millis(250);
/// Without a request for this long, the disk is ours.
const IDLE: Duration = Duration::from_secs(2);
/// Own blocks that the log does not know of are recorded from this count on,
/// for guests that never flush.
const UNRECORDED_MAX: usize = 4096;

type Parked = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
struct State {
    parked: Vec<Parked>,
    woken: bool,
    stopped: bool,
}

/// The thread and who waits for it.
#[derive(Default)]
pub struct Background {
    state: Mutex<State>,
    wakeup: Condvar,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
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

    /// Runs `then` once there is room in the log, or there cannot be.
    pub fn park(&self, then: Parked) {
        self.state.lock().parked.push(then);
        self.wakeup.notify_one();
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.wakeup.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }

    /// Waits for the next turn; `None`: no more.
    fn next(&self, wait: bool) -> Option<Vec<Parked>> {
        let mut state = self.state.lock();
        if wait && state.parked.is_empty() && !state.woken && !state.stopped {
            self.wakeup.wait_for(&mut state, TICK);
        }
        state.woken = false;
        if state.stopped && state.parked.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut state.parked))
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
        let Some(parked) = inner.background.next(!more || failures > 0) else { return };
        let mut outcome = Err(Error::new(ErrorKind::Internal, "work in the background"));
        guarded(&inner.volume, || outcome = turn(&inner, parked));
        more = match outcome {
            Ok(more) => {
                failures = 0;
                more
            }
            Err(error) => {
                if failures % 240 == 0 {
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
fn turn(inner: &Arc<Inner>, parked: Vec<Parked>) -> Result<bool> {
    let volume = inner.volume();
    if volume.mode() != Mode::Writable {
        return Ok(false);
    }
    if !parked.is_empty() {
        // Full: until there is room. Getting full: each turn settles a batch
        // and lets those go on who wait, so that speed falls smoothly.
        let result = volume.settle_some().and_then(|()| volume.make_room());
        for then in parked {
            let copy = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::duplicate(error)),
            };
            then(copy);
        }
        result?;
    }
    if volume.unrecorded_count() > UNRECORDED_MAX {
        volume.flush()?;
    }
    let idle = inner.idle_for() > IDLE;
    let more = volume.work(idle)?;
    Ok(more)
}
