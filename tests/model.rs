//! What can go wrong: two operations that are each right alone do not fit
//! together, in an order that nobody thought of. A clone sees what is written
//! to its source, a shrunk volume shows what was cut off when it grows again, a
//! handle that was handed over and came back shows what it knew before, an
//! interface says "done" where the other says "not there".
//!
//! How this proves that it cannot: histories of everything that can be done to
//! several volumes of one store are drawn at random and played on an interface
//! and on a model that is nothing but bytes. Each answer is compared: bytes,
//! zeroes, sizes, lists, and why something was refused. The same histories run
//! over the Rust interface and over the C interface, in memory and in a
//! directory. A failing history is made small and shown.
//!
//! `ARCHIPELAGO_MODEL_CASES=5000 ARCHIPELAGO_MODEL_SEED=7` plays more and others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

#[path = "model/change.rs"]
mod change;
#[path = "model/content.rs"]
mod content;
#[path = "model/driver.rs"]
mod driver;
#[path = "model/foreign.rs"]
mod foreign;
#[path = "model/named.rs"]
mod named;
#[path = "model/native.rs"]
mod native;
#[path = "model/operation.rs"]
mod operation;
#[path = "model/play.rs"]
mod play;
#[allow(dead_code)]
#[path = "maintain/world.rs"]
mod world;

use driver::Driver;
use foreign::Foreign;
use native::Native;
use play::{Counts, World};

/// Histories where a case is quick, and where it waits for a disk.
const CASES_IN_MEMORY: u32 = 180;
const CASES_IN_A_DIRECTORY: u32 = 24;
const SHRINK_STEPS_MAX: u32 = 2000;

/// Each with histories of its own.
const THREADS: u32 = 6;

type Make = fn(&Path) -> Box<dyn Driver>;

const RUST_MEMORY: Make = |_| Box::new(Native::on_memory());
const RUST_TWO: Make = |_| Box::new(Native::on_two_memories());
const RUST_ONCE: Make = |_| Box::new(Native::on_memory_once());
const RUST_NO_LOCKS: Make = |_| Box::new(Native::on_memory_without_locks());
const RUST_CACHE: Make = |folder| Box::new(Native::with_cache(folder, false));
const RUST_ONCE_CACHE: Make = |folder| Box::new(Native::with_cache(folder, true));
const RUST_SEALED: Make = |folder| Box::new(Native::with_sealed(folder, false));
const RUST_ONCE_SEALED: Make = |folder| Box::new(Native::with_sealed(folder, true));
const RUST_DIR: Make = |folder| Box::new(Native::on_dir(folder));
const C_MEMORY: Make = |folder| Box::new(Foreign::on_memory(folder));
const C_DIR: Make = |folder| Box::new(Foreign::on_dir(folder));

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// One thread's share; most of the time is spent waiting.
fn explore_some(make: Make, seed: u64, cases: u32) -> Result<Counts, String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: SHRINK_STEPS_MAX, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let counts = Counts::default();
    let result = runner.run(&operation::history(), |history| {
        let folder = tempfile::tempdir().unwrap();
        World::new(make(folder.path()).as_ref(), &counts).play(&history)
    });
    match result {
        Err(TestError::Fail(why, history)) => Err(format!("{why}\nthe history: {history:#?}")),
        Err(TestError::Abort(why)) => Err(why.to_string()),
        Ok(()) => Ok(counts),
    }
}

fn explore(what: &str, make: Make, usual: u32) {
    let began = Instant::now();
    let cases = number("ARCHIPELAGO_MODEL_CASES", u64::from(usual)) as u32;
    let seed = number("ARCHIPELAGO_MODEL_SEED", 1);
    let share = cases.div_ceil(THREADS);
    let mut counts: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    std::thread::scope(|scope| {
        let run = |thread| scope.spawn(move || explore_some(make, seed * u64::from(THREADS) + thread, share));
        let all: Vec<_> = (0..u64::from(THREADS)).map(run).collect();
        for thread in all {
            let found = thread.join().unwrap().unwrap_or_else(|why| panic!("{what}: {why}"));
            for (kind, (done, refused)) in found.take() {
                let sum = counts.entry(kind).or_default();
                *sum = (sum.0 + done, sum.1 + refused);
            }
        }
    });
    let total: u64 = counts.values().map(|(done, refused)| done + refused).sum();
    let cases = share * THREADS;
    println!("{what}: {cases} histories, {total} operations, {:.1} s", began.elapsed().as_secs_f64());
    for (kind, (done, refused)) in &counts {
        println!("  {kind:<18} {done:>7} done {refused:>6} refused as they should be");
    }
    assert!(counts.len() >= 25, "not every operation was drawn: {counts:?}");
}

#[test]
fn rust_in_memory() {
    explore("Rust, memory", RUST_MEMORY, CASES_IN_MEMORY);
}

#[test]
fn rust_with_the_log_elsewhere() {
    explore("Rust, memory and its log in another", RUST_TWO, CASES_IN_MEMORY);
}

#[test]
fn rust_where_nothing_is_overwritten() {
    explore("Rust, memory, blocks made once", RUST_ONCE, CASES_IN_MEMORY);
}

#[test]
fn rust_where_there_are_no_locks() {
    explore("Rust, memory, no locks", RUST_NO_LOCKS, CASES_IN_MEMORY);
}

#[test]
fn rust_with_a_read_cache() {
    explore("Rust, memory with a read cache", RUST_CACHE, CASES_IN_MEMORY);
}

#[test]
fn rust_with_a_read_cache_where_nothing_is_overwritten() {
    explore("Rust, memory, blocks made once, with a read cache", RUST_ONCE_CACHE, CASES_IN_MEMORY);
}

#[test]
fn rust_with_sealed_blocks_elsewhere() {
    explore("Rust, memory and sealed blocks in another", RUST_SEALED, CASES_IN_MEMORY);
}

#[test]
fn rust_with_sealed_blocks_elsewhere_and_a_read_cache() {
    let what = "Rust, memory, blocks made once, sealed ones in another, with a read cache";
    explore(what, RUST_ONCE_SEALED, CASES_IN_MEMORY);
}

#[test]
fn rust_in_a_directory() {
    explore("Rust, dir", RUST_DIR, CASES_IN_A_DIRECTORY);
}

#[test]
fn c_in_memory() {
    explore("C, memory", C_MEMORY, CASES_IN_MEMORY);
}

#[test]
fn c_in_a_directory() {
    explore("C, dir", C_DIR, CASES_IN_A_DIRECTORY);
}
