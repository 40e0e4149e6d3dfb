//! What is written while a volume is copied elsewhere: ranges that have to be
//! copied again. Writes may be held back, when they come faster than that.

use std::collections::{BTreeMap, VecDeque};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex};

/// Starts a write that was held back.
pub type Start = Box<dyn FnOnce() + Send>;

/// A range of a volume: where it begins and ends.
pub type Range = (u64, u64);

/// Ranges are kept apart up to so many; then what lies near each other becomes
/// one.
const RANGES_MAX: usize = 1 << 17;

const GRANULE_BYTES: u64 = crate::store::GRANULE_BYTES;

#[derive(Default)]
pub struct Written {
    /// Asked for on every write.
    is_followed: AtomicBool,
    is_slow: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
    /// What ranges are rounded to.
    unit_bytes: u64,
    held_back: VecDeque<(u64, Start)>,
    allowed_bytes: u64,
    /// Whoever follows should end.
    unwanted: bool,
}

impl State {
    fn add(&mut self, start: u64, end: u64) {
        let unit = self.unit_bytes.max(GRANULE_BYTES);
        let (mut start, mut end) = (start / unit * unit, end.div_ceil(unit).saturating_mul(unit));
        // What begins before the end and reaches the start becomes a part.
        while let Some((at, until)) = self.ranges.range(..=end).next_back().map(|(at, until)| (*at, *until)) {
            if until < start {
                break;
            }
            (start, end) = (start.min(at), end.max(until));
            self.ranges.remove(&at);
            self.bytes -= until - at;
        }
        self.ranges.insert(start, end);
        self.bytes += end - start;
        if self.ranges.len() > RANGES_MAX {
            self.unit_bytes = unit * 4;
            for (start, end) in std::mem::take(&mut self.ranges) {
                self.bytes -= end - start;
                self.add(start, end);
            }
        }
    }

    /// Who may go on now.
    fn let_go(&mut self) -> Vec<Start> {
        let mut gone = Vec::new();
        while let Some((bytes, _)) = self.held_back.front() {
            if *bytes > self.allowed_bytes {
                break;
            }
            self.allowed_bytes -= bytes;
            gone.extend(self.held_back.pop_front().map(|(_, start)| start));
        }
        gone
    }
}

impl Written {
    /// From here on every write that ends is noted. False: somebody follows
    /// already.
    pub fn follow(&self) -> bool {
        if self.is_followed.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state.lock();
        *state = State::default();
        !self.is_followed.swap(true, Ordering::AcqRel)
    }

    /// Ends it; what is held back goes on.
    pub fn end(&self) {
        self.allow(u64::MAX);
        let mut state = self.state.lock();
        self.is_followed.store(false, Ordering::Release);
        *state = State::default();
        drop(state);
        self.ended.notify_all();
    }

    /// Asks whoever follows to end, and waits for it.
    pub fn refuse(&self) {
        let mut state = self.state.lock();
        while self.is_followed.load(Ordering::Acquire) {
            state.unwanted = true;
            self.ended.wait(&mut state);
        }
    }

    pub fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Acquire)
    }

    pub fn is_unwanted(&self) -> bool {
        self.state.lock().unwanted
    }

    /// A write of this range has ended, with whatever result: before anybody is
    /// told.
    pub fn note(&self, start: u64, end: u64) {
        if self.is_followed.load(Ordering::Acquire) {
            let mut state = self.state.lock();
            state.add(start, end);
        }
    }

    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// All that was noted, and from here on nothing of it.
    pub fn take(&self) -> Vec<Range> {
        let mut state = self.state.lock();
        (state.bytes, state.unit_bytes) = (0, 0);
        std::mem::take(&mut state.ranges).into_iter().collect()
    }

    /// From here on writes go on only as they are allowed to.
    pub fn slow_down(&self) {
        self.state.lock().allowed_bytes = 0;
        self.is_slow.store(true, Ordering::Release);
    }

    pub fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Acquire)
    }

    /// So many bytes more may be written; `u64::MAX`: as many as anybody likes.
    pub fn allow(&self, bytes: u64) {
        let gone = {
            let mut state = self.state.lock();
            if bytes == u64::MAX {
                self.is_slow.store(false, Ordering::Release);
            }
            state.allowed_bytes = state.allowed_bytes.saturating_add(bytes);
            state.let_go()
        };
        gone.into_iter().for_each(|start| start());
    }

    /// Runs `start` when so many bytes may be written.
    pub fn hold_back(&self, bytes: u64, start: Start) {
        let gone = {
            let mut state = self.state.lock();
            state.held_back.push_back((bytes, start));
            // Writes may be free again since the caller has looked.
            if !self.is_slow() {
                state.allowed_bytes = u64::MAX;
            }
            state.let_go()
        };
        gone.into_iter().for_each(|start| start());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::Arc;

    // A range that is lost between two others, or a write that is never let
    // go, would be a wrong copy or a guest that hangs.

    #[test]
    fn ranges_are_joined_and_nothing_is_lost() {
        let written = Written::default();
        written.note(0, 1);
        assert_eq!(written.bytes(), 0, "nobody follows");
        assert!(written.follow() && !written.follow());
        written.note(5000, 5001);
        written.note(20_480, 24_576);
        written.note(0, 1);
        assert_eq!(written.take(), [(0, 8192), (20_480, 24_576)]);
        assert_eq!((written.bytes(), written.take()), (0, vec![]));
        for at in [3, 1, 7, 5, 2, 6, 4] {
            written.note(at * 8192, at * 8192 + 8192);
        }
        assert_eq!((written.bytes(), written.take()), (7 * 8192, vec![(8192, 65_536)]));
        written.note(10, 10_000);
        written.note(0, u64::MAX);
        assert_eq!(written.take(), [(0, u64::MAX)]);
    }

    #[test]
    fn very_many_ranges_become_fewer_and_larger_ones() {
        let written = Written::default();
        assert!(written.follow());
        let count = RANGES_MAX as u64 + 10;
        for at in 0..count {
            written.note(at * 8192, at * 8192 + 1);
        }
        let ranges = written.take();
        assert!(ranges.len() <= RANGES_MAX, "{}", ranges.len());
        let mut at = 0;
        for number in 0..count {
            while ranges[at].1 <= number * 8192 {
                at += 1;
            }
            assert!(ranges[at].0 <= number * 8192, "{number}");
        }
    }

    #[test]
    fn writes_are_held_back_in_order_and_all_go_in_the_end() {
        let written = Written::default();
        let gone = Arc::new(AtomicUsize::new(0));
        let hold = |bytes| {
            let gone = Arc::clone(&gone);
            written.hold_back(
                bytes,
                Box::new(move || {
                    gone.fetch_add(1, Ordering::SeqCst);
                }),
            );
        };
        hold(1);
        assert_eq!(gone.load(Ordering::SeqCst), 1, "nobody is slowed down");
        assert!(written.follow());
        written.slow_down();
        hold(4096);
        hold(100);
        written.allow(4000);
        assert_eq!(gone.load(Ordering::SeqCst), 1);
        written.allow(100);
        assert_eq!(gone.load(Ordering::SeqCst), 2);
        written.end();
        assert_eq!(gone.load(Ordering::SeqCst), 3);
        assert!(!written.is_slow());
    }
}
