//! Counts requests in flight. Who changes what they work on shuts the gate,
//! which waits for those inside; others wait outside meanwhile, never in a
//! thread.

use crate::fault::{self, Planted};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Starts a request. It counts as let in.
pub type Start = Box<dyn FnOnce() + Send>;

/// Set in the count while the gate is shut.
const SHUT: usize = 1 << (usize::BITS - 1);

#[derive(Default)]
pub struct Gate {
    inside: AtomicUsize,
    outside: Mutex<Vec<Start>>,
    drained: Condvar,
    /// One shuts it at a time.
    shutting: Mutex<()>,
}

impl Gate {
    /// Lets one in; false: it is shut.
    pub fn enter(&self) -> bool {
        if self.inside.fetch_add(1, Ordering::AcqRel) & SHUT == 0 {
            return true;
        }
        self.leave();
        false
    }

    pub fn leave(&self) {
        if self.inside.fetch_sub(1, Ordering::AcqRel) & !SHUT == 1 {
            if !fault::on(Planted::DrainToldUnlocked) {
                drop(self.outside.lock());
            }
            self.drained.notify_all();
        }
    }

    /// Nobody is inside.
    pub fn is_empty(&self) -> bool {
        self.inside.load(Ordering::Acquire) & !SHUT == 0
    }

    /// Runs `start` when the gate is open: here and now, if it is by now.
    pub fn wait_outside(&self, start: Start) {
        loop {
            {
                let mut outside = self.outside.lock();
                if self.inside.load(Ordering::Acquire) & SHUT != 0 {
                    return outside.push(start);
                }
            }
            if self.enter() {
                return start();
            }
        }
    }

    /// Waits until nobody is inside, and lets nobody in until what it returns
    /// is dropped.
    pub fn shut(&self) -> Shut<'_> {
        let shutting = self.shutting.lock();
        self.inside.fetch_or(SHUT, Ordering::AcqRel);
        let mut outside = self.outside.lock();
        while self.inside.load(Ordering::Acquire) != SHUT {
            self.drained.wait(&mut outside);
        }
        Shut { gate: self, shutting: Some(shutting) }
    }
}

/// A shut gate.
pub struct Shut<'a> {
    gate: &'a Gate,
    shutting: Option<MutexGuard<'a, ()>>,
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        let outside = {
            let mut outside = self.gate.outside.lock();
            let waiting = std::mem::take(&mut *outside);
            self.gate.inside.fetch_add(waiting.len(), Ordering::AcqRel);
            self.gate.inside.fetch_and(!SHUT, Ordering::AcqRel);
            waiting
        };
        drop(self.shutting.take());
        outside.into_iter().for_each(|start| start());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A request that came while a volume was handed over ran into its close:
    /// it was written to what another process may have had by then.
    #[test]
    fn nobody_is_inside_a_shut_gate_and_who_came_meanwhile_starts_after() {
        let gate = Arc::new(Gate::default());
        assert!(gate.enter());
        gate.leave();
        let started = Arc::new(Mutex::new(0));
        let shut = gate.shut();
        assert!(!gate.enter());
        for _ in 0..2 {
            let started = Arc::clone(&started);
            gate.wait_outside(Box::new(move || *started.lock() += 1));
        }
        assert_eq!(*started.lock(), 0);
        drop(shut);
        assert_eq!(*started.lock(), 2);
        gate.leave();
        gate.leave();
        drop(gate.shut());
        assert!(gate.enter());
    }
}
