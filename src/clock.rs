//! The only door to time and randomness.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::name::Id;
use crate::sync::{Condvar, MutexGuard};

/// A point in monotonic time; meaningful in this process only.
pub fn now() -> Instant {
    #[cfg(all(feature = "testkit", not(feature = "model")))]
    if let Some(machine) = simulated::machine() {
        return simulated::instant(machine.now());
    }
    #[cfg(feature = "model")]
    return standing::now();
    #[cfg(not(feature = "model"))]
    Instant::now()
}

/// Time since 1970, UTC. For people, never for decisions.
pub fn wall() -> Duration {
    #[cfg(feature = "testkit")]
    if let Some(number) = seeded::next() {
        return Duration::from_millis(1_800_000_000_000 + number % 1_000_000);
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Waits, on a thread that may.
pub fn sleep(time: Duration) {
    #[cfg(all(feature = "testkit", not(feature = "model")))]
    if let Some(machine) = simulated::machine() {
        return machine.sleep(time);
    }
    #[cfg(feature = "testkit")]
    if seeded::is_hurried() {
        return;
    }
    #[cfg(feature = "model")]
    standing::advance_to(now() + time);
    #[cfg(feature = "model")]
    crate::sync::yield_now();
    #[cfg(not(feature = "model"))]
    std::thread::sleep(time);
}

/// A condition variable that waits by this clock.
#[derive(Debug, Default)]
pub struct Signal(Condvar);

impl Signal {
    /// Waits for `notify_all`, at most until then; may return earlier.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) {
        #[cfg(all(feature = "testkit", not(feature = "model")))]
        if let Some(machine) = simulated::machine() {
            let until = simulated::since_base(until);
            return MutexGuard::unlocked(guard, || machine.wait(self.key(), until));
        }
        self.0.wait_until(guard, until);
    }

    pub fn notify_all(&self) {
        #[cfg(all(feature = "testkit", not(feature = "model")))]
        if let Some(machine) = simulated::machine() {
            return machine.wake(self.key());
        }
        self.0.notify_all();
    }

    #[cfg(all(feature = "testkit", not(feature = "model")))]
    fn key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// A random id, never `Id::NONE`.
pub fn random_id() -> Result<Id> {
    #[cfg(feature = "testkit")]
    if let (Some(low), Some(high)) = (seeded::next(), seeded::next()) {
        return Ok(Id(u128::from(high) << 64 | u128::from(low) | 1));
    }
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

/// Time and ids that one seed decides, so that a test can be run again.
#[cfg(feature = "testkit")]
pub mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
        static HURRIED: Cell<bool> = const { Cell::new(false) };
    }

    /// From here on nothing waits on this thread; `false`: it does again.
    pub fn hurry(hurried: bool) {
        HURRIED.with(|now| now.set(hurried));
    }

    pub(super) fn is_hurried() -> bool {
        HURRIED.with(Cell::get)
    }

    /// From here on this thread's ids and times follow from `seed`; `None`:
    /// they are real again.
    pub fn seed(seed: Option<u64>) {
        STATE.with(|state| state.set(seed));
    }

    /// The next of a sequence that depends on the seed alone (SplitMix64).
    pub(super) fn next() -> Option<u64> {
        STATE.with(|state| {
            let advanced = state.get()?.wrapping_add(0x9E37_79B9_7F4A_7C15);
            state.set(Some(advanced));
            let mixed = (advanced ^ (advanced >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            Some(mixed ^ (mixed >> 31))
        })
    }
}

/// Time that stands still but for who waits for it, so that a schedule of the
/// model checker can be played again.
#[cfg(feature = "model")]
pub mod standing {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    thread_local! {
        static BEGAN: Instant = Instant::now();
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// It is the beginning again.
    pub fn begin() {
        PASSED.set(Duration::ZERO);
    }

    pub(super) fn now() -> Instant {
        BEGAN.with(|began| *began + PASSED.get())
    }

    pub fn advance_to(until: Instant) {
        let passed = BEGAN.with(|began| until.saturating_duration_since(*began));
        PASSED.set(PASSED.get().max(passed));
    }
}

/// Machines that a test simulates: on a thread that was put on one, its word
/// counts and not the kernel's, for time, for who else runs, and for when this
/// thread goes on.
#[cfg(all(feature = "testkit", not(feature = "model")))]
pub mod simulated {
    use std::cell::RefCell;
    use std::sync::{Arc, OnceLock};
    use std::thread::ThreadId;
    use std::time::{Duration, Instant};

    /// What runs on a thread.
    pub type Body = Box<dyn FnOnce() + Send>;

    /// A process as others see it; see `catalog::identity`.
    #[derive(Clone, Debug)]
    pub struct Process {
        pub host: String,
        pub boot_id: String,
        pub pid: u32,
        pub pid_namespace: u64,
        pub start_ticks: u64,
    }

    pub trait Machine: Send + Sync {
        fn now(&self) -> Duration;
        fn sleep(&self, time: Duration);
        /// Waits for `wake` with this key, at most until then.
        fn wait(&self, key: usize, until: Duration);
        fn wake(&self, key: usize);
        /// This thread starts another one: what that one has to run.
        fn starts(&self, body: Body) -> Body;
        /// The thread that `starts` was asked for last is this one.
        fn started(&self, thread: ThreadId);
        /// Waits until a thread has ended. False: this one must not wait.
        fn joins(&self, thread: ThreadId) -> bool;
        fn process(&self) -> Process;
        /// Whether there is a process of this number, started then, here.
        fn is_running(&self, pid: u32, start_ticks: u64) -> bool;
    }

    thread_local! {
        static MACHINE: RefCell<Option<Arc<dyn Machine>>> = const { RefCell::new(None) };
    }

    /// Puts this thread on a machine; `None`: on the real one.
    pub fn put_on(machine: Option<Arc<dyn Machine>>) {
        MACHINE.with(|here| *here.borrow_mut() = machine);
    }

    pub fn machine() -> Option<Arc<dyn Machine>> {
        MACHINE.with(|here| here.borrow().clone())
    }

    fn base() -> Instant {
        static BASE: OnceLock<Instant> = OnceLock::new();
        *BASE.get_or_init(Instant::now)
    }

    pub(super) fn instant(time: Duration) -> Instant {
        base() + time
    }

    pub(super) fn since_base(instant: Instant) -> Duration {
        instant.saturating_duration_since(base())
    }
}
