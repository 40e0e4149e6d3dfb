//! The only door to threads: named, with all signals blocked, because they
//! run inside somebody else's process.

#[cfg(all(feature = "testkit", not(feature = "model")))]
use crate::clock::simulated;
use crate::error::{Error, Result};
use crate::sync::{self, JoinHandle};
use crate::sys;

mod crew;
mod handoff;

pub use crew::Crew;
pub use handoff::Handoff;

/// Starts a thread. `name` shows in `top -H`; the kernel cuts it to 15 bytes.
pub fn spawn<F>(name: &str, body: F) -> Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    #[cfg(all(feature = "testkit", not(feature = "model")))]
    if let Some(machine) = simulated::machine() {
        let body = machine.starts(Box::new(body));
        let started = start(name, body)?;
        machine.started(started.thread().id());
        return Ok(started);
    }
    start(name, body)
}

fn start<F>(name: &str, body: F) -> Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    sys::signal::with_all_blocked(|| sync::spawn(name, body))
        .map_err(|source| Error::from_io("start a thread", source))
}

/// Waits until a thread has ended. False if it ended with a panic.
pub fn join(handle: JoinHandle<()>) -> bool {
    #[cfg(all(feature = "testkit", not(feature = "model")))]
    if simulated::machine().is_some_and(|machine| !machine.joins(handle.thread().id())) {
        return true;
    }
    handle.join().is_ok()
}
