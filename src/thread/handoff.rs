//! A queue to a few threads that knows which of them is about to be free.
//!
//! Waking a sleeping thread costs as much as many a request to a fast disk.
//! Who has one request in flight sends the next when it is told of the last,
//! by a thread that then looks for more anyway: nobody else is woken for it.
//! (To have a thread look a little longer before it sleeps was tried and gains
//! nothing: it is in the way of the one that it has just told.)

use std::collections::VecDeque;

use crate::fault::{self, Planted};
use crate::sync::{Condvar, Mutex};

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    /// Threads that sleep until there is work.
    asleep: usize,
    /// Threads that are at work.
    working: usize,
    /// Threads that are done but for telling so.
    telling: usize,
    closed: bool,
}

/// The queue. Whoever calls `serve` is one of its threads.
#[derive(Debug)]
pub struct Handoff<T> {
    state: Mutex<State<T>>,
    wakeup: Condvar,
}

impl<T> Default for Handoff<T> {
    fn default() -> Handoff<T> {
        let state = State { queue: VecDeque::new(), asleep: 0, working: 0, telling: 0, closed: false };
        Handoff { state: Mutex::new(state), wakeup: Condvar::new() }
    }
}

impl<T> Handoff<T> {
    /// Queues work for whichever thread comes first. It comes back once the
    /// queue is closed.
    pub fn send(&self, work: T) -> Result<(), T> {
        self.send_if(work, |_| true)
    }

    /// As `send`, if a thread is about to be free for it.
    pub fn send_awake(&self, work: T) -> Result<(), T> {
        self.send_if(work, |state| state.queue.len() < state.telling)
    }

    /// As `send`, if a thread has nothing to do or is about to be free.
    pub fn send_idle(&self, work: T) -> Result<(), T> {
        self.send_if(work, |state| state.queue.len() < state.asleep + state.telling)
    }

    /// As `send`, if nothing is queued and nobody is at work.
    pub fn send_alone(&self, work: T) -> Result<(), T> {
        self.send_if(work, |state| state.queue.is_empty() && state.working == 0)
    }

    fn send_if(&self, work: T, fits: impl Fn(&State<T>) -> bool) -> Result<(), T> {
        if fault::on(Planted::WorkToldEarly) {
            self.wakeup.notify_one();
        }
        let mut state = self.state.lock();
        if state.closed || !fits(&state) {
            return Err(work);
        }
        state.queue.push_back(work);
        let wake = state.asleep > 0 && state.queue.len() > state.telling;
        let wake = wake && !fault::on(Planted::WorkUntold) && !fault::on(Planted::WorkToldEarly);
        drop(state);
        if wake {
            self.wakeup.notify_one();
        }
        Ok(())
    }

    /// What a thread of the queue does: works until the queue is closed and
    /// empty. What `work_on` returns is handed to `tell`, which must be quick.
    pub fn serve<R>(&self, mut work_on: impl FnMut(T) -> R, mut tell: impl FnMut(R)) {
        self.state.lock().telling += 1;
        while let Some(work) = self.next() {
            let result = work_on(work);
            {
                let mut state = self.state.lock();
                state.working -= 1;
                state.telling += 1;
            }
            tell(result);
        }
    }

    /// For a thread that has told what it had to.
    fn next(&self) -> Option<T> {
        let mut state = self.state.lock();
        state.telling -= 1;
        loop {
            if let Some(work) = state.queue.pop_front() {
                state.working += 1;
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state.asleep += 1;
            self.wakeup.wait(&mut state);
            state.asleep -= 1;
        }
    }

    /// No more comes: `serve` ends after what is queued.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wakeup.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};
    use std::sync::Arc;

    /// Were work left to a thread that is "about to be free" and then sleeps,
    /// a request would wait for ever. Every piece of work that is sent, from
    /// anywhere, is done once.
    #[test]
    fn nothing_that_is_sent_is_left_lying() {
        let handoff = Arc::new(Handoff::default());
        let (told, all) = unbounded();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (handoff, told) = (Arc::clone(&handoff), told.clone());
                std::thread::spawn(move || {
                    let again = Arc::clone(&handoff);
                    // Each number sends the next lower one while it is told.
                    let tell = |number: u32| {
                        told.send(number).unwrap();
                        if number % 100 != 0 {
                            let next = number - 1;
                            let sent = again.send_awake(next).or_else(|next| again.send_idle(next));
                            sent.or_else(|next| again.send(next)).unwrap();
                        }
                    };
                    handoff.serve(|number| number, tell);
                })
            })
            .collect();
        for first in (99..10_000).step_by(100) {
            handoff.send(first).unwrap();
        }
        let mut seen: Vec<u32> = (0..10_000).map(|_| all.recv().unwrap()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..10_000));
        handoff.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(handoff.send(1), Err(1));
    }

    /// A thread at work is not one that is free: what is sent meanwhile must
    /// wake another, or two requests would run one after the other.
    #[test]
    fn work_does_not_wait_behind_work() {
        let handoff = Arc::new(Handoff::default());
        let (started, has_started) = unbounded();
        let (release, released) = bounded::<()>(0);
        for _ in 0..2 {
            let (handoff, started, released) = (Arc::clone(&handoff), started.clone(), released.clone());
            std::thread::spawn(move || {
                let work = |number: u32| {
                    started.send(number).unwrap();
                    released.recv().unwrap();
                };
                handoff.serve(work, |()| {});
            });
        }
        handoff.send(1).unwrap();
        assert_eq!(has_started.recv(), Ok(1));
        assert_eq!(handoff.send_alone(2), Err(2));
        assert_eq!(handoff.send_awake(2), Err(2));
        handoff.send(2).unwrap();
        assert_eq!(has_started.recv(), Ok(2));
        release.send(()).unwrap();
        release.send(()).unwrap();
        handoff.close();
    }
}
