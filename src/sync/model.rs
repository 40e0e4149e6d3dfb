//! The same names on the model checker's own. Its locks can be poisoned and
//! its conditions want the guard by value, as those of the standard library;
//! here they look as the plain ones do.
//!
//! A wait with a time is over at once or goes on until somebody ends it: the
//! checker chooses. So no order may depend on the time being long, and nobody
//! on being woken by it. Time itself is `clock`'s, and stands still but for
//! such waits.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant};

use shuttle::rand::Rng;
pub use shuttle::sync::atomic;
pub use shuttle::thread::{yield_now, JoinHandle};

use crate::clock;

pub fn spawn<F>(name: &str, body: F) -> std::io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    shuttle::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Channels, as far as they are used: nobody here waits for room in one.
pub mod channel {
    pub use shuttle::sync::mpsc::{channel as unbounded, Receiver, Sender};

    pub fn bounded<T>(_count: usize) -> (Sender<T>, Receiver<T>) {
        unbounded()
    }
}

shuttle::thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// How many locks this thread holds.
pub fn held_count() -> usize {
    HELD.try_with(Cell::get).unwrap_or(0)
}

/// A lock that is held, and counted as such. It is `None` only while its
/// thread waits for a condition.
#[derive(Debug)]
pub struct Guard<G>(Option<G>);

impl<G> Guard<G> {
    fn new(held: G) -> Guard<G> {
        // A thread that is being taken down counts nothing.
        let _ = HELD.try_with(|count| count.set(count.get() + 1));
        Guard(Some(held))
    }
}

impl<G> Drop for Guard<G> {
    fn drop(&mut self) {
        let _ = HELD.try_with(|count| count.set(count.get().saturating_sub(1)));
    }
}

#[allow(clippy::expect_used)]
impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        self.0.as_ref().expect("nobody looks at it while it waits")
    }
}

#[allow(clippy::expect_used)]
impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        self.0.as_mut().expect("nobody looks at it while it waits")
    }
}

pub type MutexGuard<'a, T> = Guard<Locked<'a, T>>;

/// A locked mutex, and which one.
#[derive(Debug)]
pub struct Locked<'a, T: ?Sized>(shuttle::sync::MutexGuard<'a, T>, &'a Mutex<T>);

impl<T: ?Sized> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[derive(Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    fn locked(&self) -> Locked<'_, T> {
        Locked(self.0.lock().unwrap_or_else(PoisonError::into_inner), self)
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        Guard::new(self.locked())
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Guard::new(Locked(held, self)))
    }
}

impl<T: ?Sized> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mutex")
    }
}

#[derive(Default)]
pub struct RwLock<T: ?Sized>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> RwLock<T> {
        RwLock(shuttle::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    pub fn read(&self) -> Guard<shuttle::sync::RwLockReadGuard<'_, T>> {
        Guard::new(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn write(&self) -> Guard<shuttle::sync::RwLockWriteGuard<'_, T>> {
        Guard::new(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: ?Sized> std::fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RwLock")
    }
}

#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub fn new() -> Condvar {
        Condvar::default()
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let Some(Locked(held, mutex)) = guard.0.take() else { return };
        guard.0 = Some(Locked(self.0.wait(held).unwrap_or_else(PoisonError::into_inner), mutex));
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) {
        self.wait_until(guard, clock::now() + time);
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) {
        if shuttle::rand::thread_rng().gen_bool(0.5) {
            return self.wait(guard);
        }
        let Some(Locked(held, mutex)) = guard.0.take() else { return };
        drop(held);
        yield_now();
        clock::standing::advance_to(until);
        guard.0 = Some(mutex.locked());
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
