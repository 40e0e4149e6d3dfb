//! How long a copy rests after a block, beside a guest with requests to the same
//! stores.
//!
//! How much a copy hinders a guest differs: nobody notices it on a cluster with
//! many disks, and where both stores share one disk next to nothing of the guest's
//! is answered until the block is synced. So the guest's requests are counted
//! while a block is copied and while the copy rests, and it rests for so long that
//! the guest has `KEEPS` of what it has without a copy.

use std::time::Duration;

use crate::clock;

/// Requests that somebody has had so far; `None` while nobody has any.
pub type Guest = dyn Fn() -> Option<u64> + Send + Sync;

/// What a guest keeps of its requests a second.
const KEEPS: f64 = 0.8;
/// Of the time that a block took. Without any rest nobody would know what the
/// guest has without a copy.
const REST_LEAST: f64 = 0.25;
/// While nothing is known.
const REST_AT_FIRST: f64 = 1.0;
/// However long a block took: a copy has to come to an end.
const REST_MAX: Duration = Duration::from_secs(2);
/// What was counted counts so much less with each block that follows.
const FADES: f64 = 0.8;

/// Requests in some time.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    requests: f64,
    seconds: f64,
}

impl Counted {
    fn add(&mut self, requests: u64, time: Duration) {
        self.requests = self.requests * FADES + requests as f64;
        self.seconds = self.seconds * FADES + time.as_secs_f64();
    }

    /// `None` if nothing is known.
    fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0 && self.requests > 0.0).then(|| self.requests / self.seconds)
    }
}

/// What is known of a guest.
#[derive(Debug, Default)]
pub struct Rests {
    copying: Counted,
    resting: Counted,
}

impl Rests {
    /// Runs `copy`, and rests with `sleep` if that has copied something.
    pub fn after<E>(
        &mut self,
        guest: &Guest,
        copy: impl FnOnce() -> Result<bool, E>,
        sleep: impl FnOnce(Duration),
    ) -> Result<bool, E> {
        let (began, before) = (clock::now(), guest());
        let is_copied = copy()?;
        if !is_copied {
            return Ok(false);
        }
        let (copied, between) = (clock::now(), guest());
        let took = copied.saturating_duration_since(began);
        sleep(self.rest(took));
        let rested = clock::now().saturating_duration_since(copied);
        // Otherwise it had nothing to ask for some of the time.
        if let (Some(before), Some(between), Some(after)) = (before, between, guest()) {
            self.note((between.saturating_sub(before), took), (after.saturating_sub(between), rested));
        }
        Ok(true)
    }

    fn note(&mut self, copying: (u64, Duration), resting: (u64, Duration)) {
        self.copying.add(copying.0, copying.1);
        self.resting.add(resting.0, resting.1);
    }

    /// After a block that took so long. A guest that has `share` of its requests
    /// meanwhile has, with a rest of `x` times that, `(share + x) / (1 + x)` of them.
    fn rest(&self, took: Duration) -> Duration {
        let times = match self.resting.rate() {
            Some(resting) => {
                let share = (self.copying.rate().unwrap_or(0.0) / resting).min(1.0);
                ((KEEPS - share) / (1.0 - KEEPS)).max(REST_LEAST)
            }
            None => REST_AT_FIRST,
        };
        took.mul_f64(times).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Duration = Duration::from_millis(200);

    /// What a guest of 1,000 requests a second keeps, that has `share` of them
    /// while a block is copied, and for how long the copy rests then.
    fn keeps(share: f64) -> (f64, Duration) {
        let mut rests = Rests::default();
        let (mut had, mut seconds, mut rest) = (0.0, 0.0, Duration::ZERO);
        for block in 0..100 {
            rest = rests.rest(BLOCK);
            let of = |time: Duration, share: f64| (1000.0 * share * time.as_secs_f64()) as u64;
            rests.note((of(BLOCK, share), BLOCK), (of(rest, 1.0), rest));
            if block >= 10 {
                had += (of(BLOCK, share) + of(rest, 1.0)) as f64;
                seconds += (BLOCK + rest).as_secs_f64();
            }
        }
        (had / seconds / 1000.0, rest)
    }

    #[test]
    fn a_guest_keeps_its_share_however_much_a_copy_hinders_it() {
        for share in [0.0, 0.05, 0.3, 0.5, 0.7] {
            let (kept, _) = keeps(share);
            assert!((0.78..0.83).contains(&kept), "{kept} with {share}");
        }
    }

    #[test]
    fn a_copy_that_hinders_nobody_hardly_rests() {
        for share in [0.95, 1.0, 1.5] {
            assert_eq!(keeps(share).1, BLOCK.mul_f64(REST_LEAST), "with {share}");
        }
    }

    // A guest that asks for something now and then has no rate; a store that takes
    // minutes for a block would have the copy never end.
    #[test]
    fn a_copy_never_rests_for_longer_than_it_may() {
        let mut rests = Rests::default();
        assert_eq!(rests.rest(BLOCK), BLOCK);
        rests.note((0, BLOCK), (0, BLOCK));
        assert_eq!(rests.rest(BLOCK), BLOCK, "nothing is known of it");
        rests.note((0, BLOCK), (1, BLOCK));
        assert_eq!(rests.rest(BLOCK), BLOCK.mul_f64(KEEPS / (1.0 - KEEPS)));
        assert_eq!(rests.rest(Duration::from_secs(60)), REST_MAX);
    }

    #[test]
    fn it_rests_after_what_was_copied_and_after_nothing_else() {
        let mut rests = Rests::default();
        let guest = || Some(1);
        let never = |_| panic!("it rests after nothing");
        assert_eq!(rests.after(&guest, || Ok::<_, ()>(false), never), Ok(false));
        assert_eq!(rests.after(&guest, || Err("gone"), never), Err("gone"));
        let mut has_rested = false;
        assert_eq!(rests.after(&guest, || Ok::<_, ()>(true), |_| has_rested = true), Ok(true));
        assert!(has_rested && rests.copying.seconds > 0.0, "{rests:?}");
    }
}
