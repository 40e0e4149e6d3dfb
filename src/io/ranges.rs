//! Writes that overlap wait in line, never in a thread.

use std::collections::VecDeque;

use crate::fault::{self, Planted};
use crate::sync::Mutex;

/// Runs when its range is free.
pub type Start = Box<dyn FnOnce() + Send>;

/// Names a held range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(u64);

/// Ranges that are being written.
#[derive(Default)]
pub struct Ranges {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    active: Vec<Range>,
    waiting: VecDeque<(Range, Start)>,
}

#[derive(Clone, Copy)]
struct Range {
    id: u64,
    start: u64,
    end: u64,
}

impl Range {
    fn overlaps(&self, other: &Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        write!(f, "Ranges({} active, {} waiting)", inner.active.len(), inner.waiting.len())
    }
}

impl Inner {
    fn is_free(&self, range: &Range, before: usize) -> bool {
        !self.active.iter().any(|active| active.overlaps(range))
            && !self.waiting.iter().take(before).any(|(waiting, _)| waiting.overlaps(range))
    }
}

impl Ranges {
    /// Takes `start..end` and returns its name and, if it is free now, what
    /// to run; else that is returned later by a `leave`.
    #[must_use]
    pub fn enter(&self, start: u64, end: u64, run: impl FnOnce(Held) -> Start) -> Option<Start> {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let range = Range { id: inner.last, start, end };
        let run = run(Held(range.id));
        let waiting = inner.waiting.len();
        let is_free = inner.is_free(&range, waiting);
        if fault::on(Planted::RangeAskedUnlocked) {
            drop(inner);
            inner = self.inner.lock();
        }
        if is_free {
            inner.active.push(range);
            return Some(run);
        }
        inner.waiting.push_back((range, run));
        None
    }

    /// Gives a range back and returns what can run now, in order.
    #[must_use]
    pub fn leave(&self, held: Held) -> Vec<Start> {
        let mut inner = self.inner.lock();
        inner.active.retain(|range| range.id != held.0);
        let mut started = Vec::new();
        let mut at = 0;
        while at < inner.waiting.len() {
            let range = inner.waiting[at].0;
            if !inner.is_free(&range, at) {
                at += 1;
                continue;
            }
            if let Some((range, run)) = inner.waiting.remove(at) {
                inner.active.push(range);
                started.push(run);
            }
        }
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn noting(log: &Arc<Mutex<Vec<u32>>>, what: u32) -> impl FnOnce(Held) -> Start {
        let log = Arc::clone(log);
        move |_| Box::new(move || log.lock().push(what))
    }

    #[test]
    fn overlapping_writes_run_in_order_and_others_pass() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let ranges = Ranges::default();
        ranges.enter(0, 10, noting(&log, 1)).unwrap()();
        assert!(ranges.enter(5, 15, noting(&log, 2)).is_none());
        // Behind the one that waits, although it touches no active one.
        assert!(ranges.enter(12, 20, noting(&log, 3)).is_none());
        ranges.enter(30, 40, noting(&log, 4)).unwrap()();
        ranges.leave(Held(1)).into_iter().for_each(|run| run());
        assert_eq!(*log.lock(), [1, 4, 2]);
        ranges.leave(Held(2)).into_iter().for_each(|run| run());
        assert_eq!(*log.lock(), [1, 4, 2, 3]);
    }
}
