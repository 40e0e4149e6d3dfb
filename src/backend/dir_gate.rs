//! Past the page cache a write that does not cover whole sectors has to read
//! them, change them and write them back. Nothing else may write to the
//! object meanwhile, or it would be undone: the gate of an object lets many
//! ordinary writes through, or one such.

use std::fmt;

use crate::sync::{Condvar, Mutex};

/// Submits a request that had to wait. It counts as let in.
pub type Deferred = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Ordinary writes inside.
    inside: usize,
    /// One is alone inside, or waits for that and lets nobody else in.
    alone: bool,
    deferred: Vec<Deferred>,
}

impl Gate {
    /// Waits to be let in among others.
    pub fn enter(&self) {
        let mut state = self.state.lock();
        while state.alone {
            self.changed.wait(&mut state);
        }
        state.inside += 1;
    }

    /// As `enter`, but where that would wait, keeps `deferred` and runs it
    /// later on the thread that opens the gate.
    pub fn enter_or_defer(&self, deferred: impl FnOnce() -> Deferred) -> bool {
        let mut state = self.state.lock();
        if state.alone {
            state.deferred.push(deferred());
            return false;
        }
        state.inside += 1;
        true
    }

    pub fn leave(&self) {
        let mut state = self.state.lock();
        state.inside -= 1;
        if state.inside == 0 && state.alone {
            self.changed.notify_all();
        }
    }

    /// Runs `body` with nobody else inside.
    pub fn alone<T>(&self, body: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock();
        while state.alone {
            self.changed.wait(&mut state);
        }
        state.alone = true;
        while state.inside > 0 {
            self.changed.wait(&mut state);
        }
        drop(state);
        let result = body();
        let mut state = self.state.lock();
        state.alone = false;
        let deferred = std::mem::take(&mut state.deferred);
        state.inside += deferred.len();
        drop(state);
        self.changed.notify_all();
        for submit in deferred {
            submit();
        }
        result
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Gate").field("inside", &state.inside).field("alone", &state.alone).finish()
    }
}
