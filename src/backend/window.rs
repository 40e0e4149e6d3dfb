//! A bounded number of requests in flight on a data path, for one thread that
//! hands them over and waits for them.


use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// Counts requests in flight, of the even and of the odd rounds.
#[derive(Debug)]
pub struct Window {
    in_flight_max: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    in_flight: [usize; 2],
    failed: Option<Error>,
}

impl State {
    fn in_flight_all(&self) -> usize {
        self.in_flight[0] + self.in_flight[1]
    }
}

impl Window {
    pub fn new(in_flight_max: usize) -> Window {
        let window =
            Window { in_flight_max: AtomicUsize::new(1), state: Mutex::default(), changed: Condvar::new() };
        window.widen(in_flight_max);
        window
    }

    /// So many from now on.
    pub fn widen(&self, in_flight_max: usize) {
        self.in_flight_max.store(in_flight_max.max(1), Ordering::Relaxed);
    }

    fn in_flight_max(&self) -> usize {
        self.in_flight_max.load(Ordering::Relaxed)
    }

    /// Waits for a place. Error: the first that there was.
    pub fn enter(&self, round: usize) -> Result<()> {
        let mut state = self.state.lock();
        // For half of them: to be woken up for each costs as much as it does.
        let in_flight_max = self.in_flight_max();
        if state.in_flight_all() >= in_flight_max {
            while state.in_flight_all() > self.in_flight_max() / 2 {
                self.changed.wait(&mut state);
            }
        }
        if let Some(error) = &state.failed {
            return Err(error.duplicate());
        }
        state.in_flight[round % 2] += 1;
        Ok(())
    }

    pub fn leave(&self, round: usize, result: Result<()>) {
        let mut state = self.state.lock();
        state.in_flight[round % 2] -= 1;
        if let Err(error) = result {
            state.failed.get_or_insert(error);
        }
        if state.in_flight_all() <= self.in_flight_max() / 2 || state.in_flight[round % 2] == 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until nothing of this round, nor of those two before it and so
    /// on, is in flight. Error: the first that there was.
    pub fn wait_round(&self, round: usize) -> Result<()> {
        let mut state = self.state.lock();
        while state.in_flight[round % 2] > 0 {
            self.changed.wait(&mut state);
        }
        state.failed.as_ref().map_or(Ok(()), |error| Err(error.duplicate()))
    }

    /// As `wait_round`, for all.
    pub fn wait_all(&self) -> Result<()> {
        let even = self.wait_round(0);
        let odd = self.wait_round(1);
        even.and(odd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::Arc;

    /// Memory is given back when a wait returns: one that returned early
    /// would have the kernel write what is somebody else's by then.
    #[test]
    fn a_wait_returns_when_nothing_is_in_flight_and_tells_the_first_error() {
        let window = Arc::new(Window::new(2));
        window.enter(0).unwrap();
        window.enter(1).unwrap();
        let (later, handed) = (Arc::clone(&window), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
        let count = Arc::clone(&handed);
        let thread = crate::thread::spawn("arch-test", move || {
            for round in [1, 0] {
                std::thread::sleep(std::time::Duration::from_millis(20));
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let failed = Err(Error::new(ErrorKind::NoSpace, "write"));
                later.leave(round, if round == 1 { failed } else { Ok(()) });
            }
        });
        assert!(window.enter(0).unwrap_err().is(ErrorKind::NoSpace));
        assert!(window.wait_all().unwrap_err().is(ErrorKind::NoSpace));
        assert_eq!(handed.load(std::sync::atomic::Ordering::SeqCst), 2);
        thread.unwrap().join().unwrap();
    }
}
