//! For whoever writes a backend: is it one? `docs/backends.md` is the guide; it
//! is written for a crate of your own, which has this as a dependency of its
//! tests: `archipelago = { ..., features = ["testkit"] }`.
//!
//! Three tests, none of which needs more than a way to make an empty place:
//!
//! * `conformance`: each promise of the contract, alone.
//! * `Schedules`: a volume in the place, written, flushed, snapshotted, rolled
//!   back, collected and opened anew, while calls fail before or after they are
//!   applied, are applied late, are slow, or find no room; beside a model that
//!   knows what each sector may be. One seed decides all of it.
//! * In the same schedules, loss of power: by the place itself, if it can be
//!   made to lose what was not synced (`Bed::crashing`); otherwise by what it
//!   says of itself: all that its capabilities do not promise is lost.
//!
//! ```no_run
//! use std::sync::Arc;
//! use archipelago::backend::memory::Memory;
//! use archipelago::testkit::{conformance, Bed, Schedules};
//!
//! conformance::run(|| Arc::new(Memory::new()));
//! Schedules::from_env().run(|| Bed::new(Arc::new(Memory::new())));
//! ```
//!
//! What these are made of is there for tests of your own: `Faulty` fails on
//! demand, `Recording` writes down what was done, `Memory` is the meaning of
//! the contract, `Content` knows what each sector of a volume may be when its
//! writers are killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use crate::backend::Backend;
use crate::clock::seeded;

pub use crate::backend::conformance;
pub use crate::backend::faulty::{Fault, Faulty, Method, Rule};
pub use crate::backend::memory::Memory;
pub use crate::backend::recording::Recording;

mod crash;
mod guest;
mod life;

pub use guest::{sectors, Content, SECTOR};

use life::Life;

/// Steps of a failed schedule that are shown.
const SHOWN: usize = 40;

/// Ends a place as loss of power does, and gives what is found there after it.
type Crash = Box<dyn FnOnce() -> Bed>;

/// A place under test.
pub struct Bed {
    pub backend: Arc<dyn Backend>,
    crash: Option<Crash>,
}

impl Bed {
    /// A place whose losses of power are played by what it says of itself.
    pub fn new(backend: Arc<dyn Backend>) -> Bed {
        Bed { backend, crash: None }
    }

    /// A place that can lose power: `crash` ends it, when nobody else uses the
    /// backend any more, and gives the place that is found afterwards. There
    /// must be in it what was durable, and may be any of the rest.
    #[must_use]
    pub fn crashing(self, crash: impl FnOnce() -> Bed + 'static) -> Bed {
        Bed { crash: Some(Box::new(crash)), ..self }
    }
}

impl fmt::Debug for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crashes = self.crash.is_some();
        f.debug_struct("Bed").field("backend", &self.backend).field("crashes", &crashes).finish()
    }
}

/// Schedules of faults, each decided by its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedules {
    /// Of the first one; the next ones have the numbers after it.
    pub seed: u64,
    pub count: u32,
    /// Of each.
    pub steps: u32,
}

/// What was done, by words.
pub type Counts = BTreeMap<&'static str, u64>;

impl Schedules {
    /// So many, from a seed that is drawn, unless `ARCHIPELAGO_KIT_SEED` says
    /// which. `ARCHIPELAGO_KIT_COUNT` (20) and `ARCHIPELAGO_KIT_STEPS` (120) say
    /// how many.
    pub fn from_env() -> Schedules {
        let told = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let drawn = || crate::clock::random_id().unwrap().0 as u64 % 1_000_000_000;
        Schedules {
            seed: told("ARCHIPELAGO_KIT_SEED").unwrap_or_else(drawn),
            count: told("ARCHIPELAGO_KIT_COUNT").unwrap_or(20) as u32,
            steps: told("ARCHIPELAGO_KIT_STEPS").unwrap_or(120) as u32,
        }
    }

    /// Plays them, each in a new empty place that `make` makes. Panics where a
    /// promise is broken, and says how to play that one again.
    pub fn run(&self, make: impl Fn() -> Bed) -> Counts {
        let (began, mut sum) = (Instant::now(), Counts::new());
        for at in 0..u64::from(self.count) {
            let seed = self.seed + at;
            let trace = RefCell::new(Vec::new());
            // All ids too.
            seeded::seed(Some(seed));
            let played = catch_unwind(AssertUnwindSafe(|| Life::begin(&make, seed, &trace).play(self.steps)));
            seeded::seed(None);
            match played {
                Ok(counts) => counts.into_iter().for_each(|(word, n)| *sum.entry(word).or_default() += n),
                Err(panic) => {
                    let trace = trace.borrow();
                    trace[trace.len().saturating_sub(SHOWN)..].iter().for_each(|line| eprintln!("  {line}"));
                    eprintln!("schedule {seed} breaks a promise. Play it again with:");
                    let steps = self.steps;
                    eprintln!(
                        "ARCHIPELAGO_KIT_SEED={seed} ARCHIPELAGO_KIT_COUNT=1 ARCHIPELAGO_KIT_STEPS={steps}"
                    );
                    resume_unwind(panic);
                }
            }
        }
        let words: Vec<String> = sum.iter().map(|(word, n)| format!("{word} {n}")).collect();
        let (seed, count, took_s) = (self.seed, self.count, began.elapsed().as_secs_f64());
        eprintln!("schedules: {count} from seed {seed} in {took_s:.1} s: {}", words.join(", "));
        sum
    }
}

/// Numbers that follow from a seed alone (SplitMix64).
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}
