//! Requests that found no room in the store and wait until there is some, where the
//! store is configured so (`when_full = "wait"`): a guest sees a disk that hangs
//! instead of one that fails.
//!
//! A request that waits is outside the gate and holds nothing: to the volume it has
//! failed, as one of which the guest is told and which the guest sends again. What
//! it may have written before it found no room is written once more. So reads, other
//! writes, snapshots, settling and leases go on as in a store that tells. Who closes
//! waits for nobody: what waits fails then, and nothing of it was acknowledged.

use std::time::{Duration, Instant};

use super::request::{Completion, Request};
use crate::error::Error;
use crate::sync::Mutex;

/// How often they try again.
const AGAIN: Duration = Duration::from_secs(1);

struct Waiting {
    request: Request,
    done: Completion,
    why: Error,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    /// When the first found no room, and when they tried again.
    since: Option<(Instant, Instant)>,
    closed: bool,
}

/// Who waits for room.
#[derive(Default)]
pub struct Room {
    state: Mutex<State>,
    /// Held while they are started again.
    starting: Mutex<()>,
}

/// What became of a request that waits.
pub enum Parked {
    Waits {
        /// Nobody did before.
        is_first: bool,
    },
    /// Nobody may wait any more.
    Refused(Completion, Error),
}

impl Room {
    pub fn park(&self, request: Request, done: Completion, why: Error, now: Instant) -> Parked {
        let mut state = self.state.lock();
        if state.closed {
            return Parked::Refused(done, why);
        }
        let is_first = state.since.is_none();
        state.since.get_or_insert((now, now));
        state.waiting.push(Waiting { request, done, why });
        Parked::Waits { is_first }
    }

    /// Starts those that should try again now. For how long somebody had waited, if by
    /// now nobody does.
    pub fn try_again(&self, now: Instant, start: impl Fn(Request, Completion)) -> Option<Duration> {
        let _starting = self.starting.lock();
        let again = {
            let mut state = self.state.lock();
            let (first, last) = state.since?;
            if now.saturating_duration_since(last) < AGAIN {
                return None;
            }
            if state.waiting.is_empty() {
                // Those that tried last have found room: none has come back.
                state.since = None;
                return Some(now.saturating_duration_since(first));
            }
            state.since = Some((first, now));
            std::mem::take(&mut state.waiting)
        };
        again.into_iter().for_each(|one| start(one.request, one.done));
        None
    }

    /// From here on nobody waits, and nothing is started again. Returns who did wait,
    /// and why.
    pub fn close(&self) -> Vec<(Completion, Error)> {
        let refused = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        // Those that are just being started are let in before the gate is shut.
        drop(self.starting.lock());
        refused.into_iter().map(|one| (one.done, one.why)).collect()
    }
}
