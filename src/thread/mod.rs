//! The only door to threads: named, with all signals blocked, because they
//! run inside somebody else's process.

use crate::error::{Error, Result};
use crate::sync::{self, JoinHandle};
use crate::sys;

mod handoff;

pub use handoff::Handoff;

/// Starts a thread. `name` shows in `top -H`; the kernel cuts it to 15 bytes.
pub fn spawn<F>(name: &str, body: F) -> Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    sys::signal::with_all_blocked(|| sync::spawn(name, body))
        .map_err(|source| Error::from_io("start a thread", source))
}
