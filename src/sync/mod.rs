//! The only door to locks, conditions, atomics, channels and handles of
//! threads. These are the plain ones of the crates that make them. With the
//! feature `model`, which only `tests/shuttle.rs` has, they are those of a
//! model checker under the same names: it decides at each of them which thread
//! goes on, so that the very code that serves guests runs in any order.
//!
//! What blocks in the kernel is not modelled: `sys` keeps the plain ones.

#[cfg(feature = "model")]
mod model;

#[cfg(feature = "model")]
pub use model::{atomic, channel, held_count, spawn, yield_now};
#[cfg(feature = "model")]
pub use model::{Condvar, JoinHandle, Mutex, MutexGuard, RwLock};

#[cfg(not(feature = "model"))]
pub use crossbeam_channel as channel;
#[cfg(not(feature = "model"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(feature = "model"))]
pub use std::sync::atomic;
#[cfg(not(feature = "model"))]
pub use std::thread::{yield_now, JoinHandle};

/// Starts a thread of this name. For `crate::thread::spawn`, which blocks the
/// signals.
#[cfg(not(feature = "model"))]
pub fn spawn<F>(name: &str, body: F) -> std::io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}
