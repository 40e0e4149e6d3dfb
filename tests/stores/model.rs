//! Histories against a model (`tests/model.rs`), on real servers: everything that
//! can be done to several volumes of one store, drawn at random, and each answer
//! compared. Half of the histories are always the same, half are drawn anew.
//!
//! `ARCHIPELAGO_MODEL_CASES=200 ARCHIPELAGO_MODEL_SEED=7` plays more and others.

use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use archipelago::clock;

#[path = "../model/change.rs"]
mod change;
#[path = "../model/content.rs"]
mod content;
#[path = "../model/driver.rs"]
mod driver;
#[path = "../model/native.rs"]
#[allow(dead_code)]
mod native;
#[path = "../model/operation.rs"]
mod operation;
#[path = "../model/play.rs"]
mod play;
#[path = "../maintain/world.rs"]
#[allow(dead_code)]
mod world;

use super::place::{Kind, Place};
use native::Native;
use play::{Counts, World};
use world::BLOCK;

/// Of each sort; half of them where each small thing takes long.
const CASES: u64 = 6;
const THREADS: u64 = 3;
/// A failing history is made smaller for so long: each try is one on the servers.
const SHRINK_MS: u64 = 60_000;

fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// How many operations it were.
fn explore_some(kind: Kind, seed: u64, cases: u64) -> u64 {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: cases as u32,
        failure_persistence: None,
        max_shrink_time: told("ARCHIPELAGO_MODEL_SHRINK_MS").unwrap_or(SHRINK_MS) as u32,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let counts = Counts::default();
    let result = runner.run(&operation::history(), |history| {
        let mut place = Place::fresh(kind).unwrap();
        World::new(&Native::over(place.make(BLOCK)), &counts).play(&history)
    });
    match result {
        Err(TestError::Fail(why, history)) => panic!("{kind:?}: {why}\nthe history: {history:#?}"),
        Err(TestError::Abort(why)) => panic!("{kind:?}: {why}"),
        Ok(()) => counts.take().values().map(|(done, refused)| done + refused).sum(),
    }
}

fn explore(kind: Kind) {
    if Place::fresh(kind).is_none() {
        return;
    }
    let began = Instant::now();
    let usual = if kind == Kind::Rados { CASES } else { CASES / 2 };
    let cases = told("ARCHIPELAGO_MODEL_CASES").unwrap_or(usual).div_ceil(THREADS);
    let drawn = clock::random_id().unwrap().0 as u64 % 1_000_000_000;
    for seed in [1, told("ARCHIPELAGO_MODEL_SEED").unwrap_or(drawn)] {
        eprintln!("{kind:?}: ARCHIPELAGO_MODEL_SEED={seed}");
        let operations: u64 = std::thread::scope(|scope| {
            let all: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || explore_some(kind, seed * THREADS + thread, cases)))
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let took_s = began.elapsed().as_secs_f64();
        let histories = cases * THREADS;
        eprintln!("{kind:?}: {histories} histories, {operations} operations, {took_s:.1} s");
        assert!(operations > 0, "nothing was done");
    }
}

#[test]
fn histories_on_rados() {
    explore(Kind::Rados);
}

#[test]
fn histories_on_gluster() {
    explore(Kind::Gluster);
}

#[test]
fn histories_on_s3() {
    explore(Kind::S3);
}
