//! Runs many seeds on all cores; each simulation has its own threads and
//! shares nothing with the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use archipelago::fault::Planted;
use parking_lot::Mutex;

use super::report::Counts;
use super::story;

const THREADS: usize = 2;

pub struct Plan {
    pub first: u64,
    pub seeds: u64,
    pub planted: Planted,
}

pub struct Summary {
    pub counts: Counts,
    /// The seed, and what is wrong.
    pub violation: Option<(u64, String)>,
    pub seconds: f64,
}

/// Runs seeds one after another until one finds something.
pub fn run(plan: &Plan) -> Summary {
    let began = Instant::now();
    let (next, stop) = (AtomicU64::new(plan.first), AtomicBool::new(false));
    let counts = Mutex::new(Counts::default());
    let violation: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut mine = Counts::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= plan.first + plan.seeds {
                        break;
                    }
                    let outcome = story::run(seed, plan.planted, false);
                    mine.add(&outcome.counts);
                    if let Some(text) = outcome.violation {
                        stop.store(true, Ordering::Relaxed);
                        let mut violation = violation.lock();
                        if violation.as_ref().is_none_or(|(other, _)| *other > seed) {
                            *violation = Some((seed, text));
                        }
                    }
                }
                counts.lock().add(&mine);
            });
        }
    });
    Summary {
        counts: counts.into_inner(),
        violation: violation.into_inner(),
        seconds: began.elapsed().as_secs_f64(),
    }
}
