//! Renewal of a lease where the store does not fence: a thread creates the
//! next number every few seconds. When that fails for as long as the deadline
//! the holder acknowledges nothing until it works again: nobody takes over
//! before the holder's death is certain, or an operator says so. When the number
//! is taken it stops for good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lease;
use super::lease_format::{Holder, State};
use crate::clock::{self, Signal};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{self, Planted};
use crate::name::Id;
use crate::store::Store;
use crate::sync::{JoinHandle, Mutex};
use crate::thread;

/// Between two lines of the log about the same outage.
const TELL_EVERY: Duration = Duration::from_secs(30);

pub(super) struct Renewal {
    store: Store,
    volume: Id,
    holder: Holder,
    deadline: Duration,
    progress: Mutex<Progress>,
    wake: Signal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Progress {
    number: u64,
    /// When the last renewal that worked was asked for, not when it was done:
    /// what others see is never younger than that.
    confirmed_at: Instant,
    fenced: bool,
    stop: bool,
    /// Somebody waits for the next renewal.
    is_awaited: bool,
    /// What is written.
    state: State,
}

impl Renewal {
    pub fn new(
        store: Store,
        volume: Id,
        holder: Holder,
        number: u64,
        confirmed_at: Instant,
        deadline: Duration,
        state: State,
    ) -> Renewal {
        Renewal {
            store,
            volume,
            holder,
            deadline,
            progress: Mutex::new(Progress {
                number,
                confirmed_at,
                fenced: false,
                stop: false,
                is_awaited: false,
                state,
            }),
            wake: Signal::default(),
            thread: Mutex::new(None),
        }
    }

    /// Starts to renew, until `stop`.
    pub fn start(this: &Arc<Renewal>, every: Duration) -> Result<()> {
        let renewal = Arc::clone(this);
        let handle = thread::spawn("arch-lease", move || renewal.run(every))?;
        *this.thread.lock() = Some(handle);
        Ok(())
    }

    fn run(&self, every: Duration) {
        let _ended = Ended(self);
        let mut progress = self.progress.lock();
        loop {
            let until = clock::now() + every;
            while !progress.stop && !progress.is_awaited && clock::now() < until {
                self.wake.wait_until(&mut progress, until);
            }
            progress.is_awaited = false;
            if progress.stop || progress.fenced {
                return;
            }
            let next = progress.number + 1;
            let (asked_at, state) = (clock::now(), progress.state.clone());
            drop(progress);
            let renewed = lease::create(&self.store, self.volume, next, state, &self.holder);
            progress = self.progress.lock();
            match renewed {
                Ok(true) => {
                    progress.number = next;
                    progress.confirmed_at = asked_at;
                    drop(progress);
                    lease::remove_below(&self.store, self.volume, next);
                    progress = self.progress.lock();
                }
                Ok(false) => progress.fenced = true,
                Err(error) => log::warn!("a lease could not be renewed: {}", error.full()),
            }
            self.wake.notify_all();
        }
    }

    /// Stops renewing and waits until the last renewal has an outcome.
    pub fn stop(&self) {
        self.progress.lock().stop = true;
        self.wake.notify_all();
        let handle = self.thread.lock().take();
        if let Some(handle) = handle.filter(|_| !fault::on(Planted::RenewalNotStopped)) {
            if !thread::join(handle) {
                log::warn!("the thread that renews a lease had ended with a panic");
            }
        }
    }

    /// Goes on after `stop`.
    pub fn resume(this: &Arc<Renewal>, every: Duration) -> Result<()> {
        this.progress.lock().stop = false;
        Renewal::start(this, every)
    }

    /// Writes another state from here on, and at once. For whoever has called
    /// `stop`.
    pub fn change(&self, state: State) -> Result<bool> {
        let next = {
            let mut progress = self.progress.lock();
            progress.state = state.clone();
            progress.number + 1
        };
        let asked_at = clock::now();
        let won = match lease::create(&self.store, self.volume, next, state, &self.holder) {
            // It may be there all the same.
            Err(error) if !lease::is_last(&self.store, self.volume, next, &self.holder) => return Err(error),
            outcome => outcome.unwrap_or(true),
        };
        let mut progress = self.progress.lock();
        if won {
            (progress.number, progress.confirmed_at) = (next, asked_at);
        } else {
            progress.fenced = true;
        }
        Ok(won)
    }

    pub fn number(&self) -> u64 {
        self.progress.lock().number
    }

    /// Error: `Unavailable` also if it is merely late.
    pub fn confirm(&self, volume_name: &str) -> Result<()> {
        match self.standing(&self.progress.lock()) {
            Standing::Confirmed => Ok(()),
            Standing::Fenced => Err(fenced(volume_name)),
            Standing::Late(age) => Err(late(volume_name, age)),
        }
    }

    /// Waits for the next renewal if the last one is too long ago. Error:
    /// `Unavailable` if there will be none: the lease is being given back.
    pub fn await_confirmed(&self, volume_name: &str) -> Result<()> {
        let mut told_at = None;
        let mut progress = self.progress.lock();
        loop {
            let age = match self.standing(&progress) {
                Standing::Confirmed => return Ok(()),
                Standing::Fenced => return Err(fenced(volume_name)),
                Standing::Late(age) if progress.stop => return Err(late(volume_name, age)),
                Standing::Late(age) => age,
            };
            let now = clock::now();
            if told_at.is_none() {
                // It may have been said long ago that it works again.
                progress.is_awaited = true;
                self.wake.notify_all();
            }
            if told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY) {
                told_at = Some(now);
                log::warn!("{}; requests wait until it does", late(volume_name, age));
            }
            self.wake.wait_until(&mut progress, now + TELL_EVERY);
        }
    }

    fn standing(&self, progress: &Progress) -> Standing {
        let age = clock::now().saturating_duration_since(progress.confirmed_at);
        match progress.fenced {
            true => Standing::Fenced,
            false if age > self.deadline => Standing::Late(age),
            false => Standing::Confirmed,
        }
    }
}

/// Asks whether a lease is held still, also while others use the lease.
pub struct Confirmation {
    /// None is needed where the store fences.
    renewal: Option<Arc<Renewal>>,
    volume_name: String,
}

impl std::fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Confirmation({:?})", self.volume_name)
    }
}

impl Confirmation {
    pub(super) fn new(renewal: Option<&Arc<Renewal>>, volume_name: &str) -> Confirmation {
        Confirmation { renewal: renewal.map(Arc::clone), volume_name: volume_name.to_owned() }
    }

    /// Cheap, unless the lease was not renewed within its deadline: then this
    /// waits until it is. Errors: `Fenced` when it was taken away; `Unavailable`
    /// when it is being given back.
    pub fn wait(&self) -> Result<()> {
        self.renewal.as_ref().map_or(Ok(()), |renewal| renewal.await_confirmed(&self.volume_name))
    }
}

enum Standing {
    Confirmed,
    /// The last renewal that worked is so long ago.
    Late(Duration),
    Fenced,
}

fn fenced(volume_name: &str) -> Error {
    let sentence = format!("the lease of volume '{volume_name}' was taken away: this holder must stop");
    Error::sentence(ErrorKind::Fenced, sentence)
}

fn late(volume_name: &str, age: Duration) -> Error {
    let sentence = format!(
        "the lease of volume '{volume_name}' could not be renewed for {} s: the store does not answer",
        age.as_secs()
    );
    Error::sentence(ErrorKind::Unavailable, sentence)
}

/// Nobody waits for a thread that has ended, however it did.
struct Ended<'a>(&'a Renewal);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.progress.lock().stop = true;
        self.0.wake.notify_all();
    }
}
