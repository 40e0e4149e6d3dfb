//! Renewal of a lease where the store does not fence: a thread creates the
//! next number every few seconds. When that fails for as long as the deadline,
//! or when the number is taken, the holder stops writing by itself.

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
}

impl Renewal {
    pub fn new(
        store: Store,
        volume: Id,
        holder: Holder,
        number: u64,
        confirmed_at: Instant,
        deadline: Duration,
    ) -> Renewal {
        Renewal {
            store,
            volume,
            holder,
            deadline,
            progress: Mutex::new(Progress { number, confirmed_at, fenced: false, stop: false }),
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
        let mut progress = self.progress.lock();
        loop {
            let until = clock::now() + every;
            while !progress.stop && clock::now() < until {
                self.wake.wait_until(&mut progress, until);
            }
            if progress.stop || progress.fenced {
                return;
            }
            let next = progress.number + 1;
            let asked_at = clock::now();
            drop(progress);
            let renewed = lease::create(&self.store, self.volume, next, State::Held, &self.holder);
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

    pub fn number(&self) -> u64 {
        self.progress.lock().number
    }

    pub fn confirm(&self, volume_name: &str) -> Result<()> {
        let progress = self.progress.lock();
        if progress.fenced {
            return Err(Error::sentence(
                ErrorKind::Fenced,
                format!("the lease of volume '{volume_name}' was taken away: this holder must stop"),
            ));
        }
        let age = clock::now().saturating_duration_since(progress.confirmed_at);
        if age > self.deadline {
            return Err(Error::sentence(
                ErrorKind::Unavailable,
                format!(
                    "the lease of volume '{volume_name}' could not be renewed for {} s: \
                     the store does not answer",
                    age.as_secs()
                ),
            ));
        }
        Ok(())
    }
}
