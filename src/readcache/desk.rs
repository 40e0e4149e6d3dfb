//! Who asks the cache, and for how long: a disk that fails or hangs must not
//! hold a machine up. An ask that is not answered in a second is taken back
//! and goes on without the cache, which is not asked again for half a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::span::Content;
use crate::clock::{self, Signal};
use crate::sync::Mutex;

const ANSWER_TIME: Duration = Duration::from_secs(1);
const PAUSE_TIME: Duration = Duration::from_secs(30);
/// The watch goes back to sleep when there was nothing for so long.
const CALM_TIME: Duration = Duration::from_secs(5);

/// What the cache says of a span.
#[derive(Debug)]
pub enum Found {
    Here(Arc<Content>),
    Missing,
    /// It is not to be asked now.
    Aside,
}

pub type Then = Box<dyn FnOnce(Found) + Send>;

#[derive(Default)]
struct State {
    /// What is waited for, in the order in which it was asked.
    asks: BTreeMap<u64, (Instant, Then)>,
    next: u64,
    /// Asks that were taken back and are not answered yet.
    late: usize,
    paused_until: Option<Instant>,
    filling_paused_until: Option<Instant>,
    /// The log knows that it is not asked, or not filled.
    is_told: bool,
    is_filling_told: bool,
    is_watch_asleep: bool,
    is_closed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Desk {
    /// Of the cache, for messages.
    place: String,
    state: Mutex<State>,
    asked: Signal,
}

impl Desk {
    pub fn new(place: String) -> Desk {
        Desk { place, ..Desk::default() }
    }

    /// Keeps `then` until it is answered or taken back. It comes back if the
    /// cache is not to be asked.
    pub fn ask(&self, then: Then) -> std::result::Result<u64, Then> {
        let now = clock::now();
        let mut state = self.state.lock();
        if state.is_closed || state.late > 0 || state.paused_until.is_some_and(|until| now < until) {
            return Err(then);
        }
        let ticket = state.next;
        state.next += 1;
        state.asks.insert(ticket, (now, then));
        if state.is_watch_asleep {
            state.is_watch_asleep = false;
            self.asked.notify_all();
        }
        Ok(ticket)
    }

    /// Who asked, if that was not taken back.
    pub fn answer(&self, ticket: u64) -> Option<Then> {
        let mut state = self.state.lock();
        let found = state.asks.remove(&ticket);
        if found.is_none() {
            state.late = state.late.saturating_sub(1);
        }
        found.map(|(_, then)| then)
    }

    /// The cache answers.
    pub fn works(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_told) {
            ::log::info!("the read cache {} is used again", self.place);
        }
    }

    pub fn fills(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_filling_told) {
            ::log::info!("the read cache {} is filled again", self.place);
        }
    }

    pub fn fails(&self, why: &str) {
        let mut state = self.state.lock();
        state.paused_until = Some(clock::now() + PAUSE_TIME);
        if !std::mem::replace(&mut state.is_told, true) {
            ::log::warn!("the read cache {} is not used, all is read from the store: {why}", self.place);
        }
    }

    pub fn fails_to_fill(&self, why: &str) {
        let mut state = self.state.lock();
        state.filling_paused_until = Some(clock::now() + PAUSE_TIME);
        if !std::mem::replace(&mut state.is_filling_told, true) {
            ::log::warn!("the read cache {} takes nothing new: {why}", self.place);
        }
    }

    pub fn may_fill(&self) -> bool {
        let (now, state) = (clock::now(), self.state.lock());
        let paused = |until: Option<Instant>| until.is_some_and(|until| now < until);
        !state.is_closed && !paused(state.filling_paused_until) && !paused(state.paused_until)
    }

    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.asked.notify_all();
    }

    /// What the thread does that watches. Ends when the desk is closed.
    pub fn watch(&self) {
        let mut calm_since = clock::now();
        loop {
            let taken_back = {
                let mut state = self.state.lock();
                if state.is_closed {
                    return;
                }
                let now = clock::now();
                let first = state.asks.values().next().map(|(since, _)| *since + ANSWER_TIME);
                match first {
                    Some(until) if until <= now => take_back(&mut state, now),
                    Some(until) => {
                        calm_since = now;
                        self.asked.wait_until(&mut state, until);
                        continue;
                    }
                    None if now < calm_since + CALM_TIME => {
                        self.asked.wait_until(&mut state, now + ANSWER_TIME / 2);
                        continue;
                    }
                    None => {
                        state.is_watch_asleep = true;
                        self.asked.wait_until(&mut state, now + Duration::from_secs(3600));
                        state.is_watch_asleep = false;
                        calm_since = clock::now();
                        continue;
                    }
                }
            };
            self.fails("its disk does not answer");
            taken_back.into_iter().for_each(|then| then(Found::Aside));
        }
    }
}

fn take_back(state: &mut State, now: Instant) -> Vec<Then> {
    let mut late = Vec::new();
    while let Some(first) = state.asks.first_entry() {
        if first.get().0 + ANSWER_TIME > now {
            break;
        }
        late.push(first.remove().1);
    }
    state.late += late.len();
    late
}
