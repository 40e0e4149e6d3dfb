//! The only door to time and randomness.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::name::Id;

/// A point in monotonic time; meaningful in this process only.
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970, UTC. For people, never for decisions.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Waits, on a thread that may.
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// A random id, never `Id::NONE`.
pub fn random_id() -> Result<Id> {
    loop {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
                .map_err(|errno| Error::from_io("get random numbers", errno.into()))?;
        }
        let id = Id::from_bytes(bytes);
        if !id.is_none() {
            return Ok(id);
        }
    }
}
