//! What can go wrong: a crash at the wrong moment, and after it the store has
//! lost what a flush had promised to keep, shows something older or another
//! sector's data, lacks a snapshot that was taken, or does not open.
//!
//! How this proves that it cannot: histories of everything that can be done
//! to volumes are run over a backend that records each operation of the
//! store. At every moment of a history, the stores that a crash could leave
//! are made: all that was synced, and any part of what was not, down to
//! single sectors. Each is opened, read in full and compared with what may be
//! there; some are worked on and crash again. And, because a test that never
//! fails proves nothing, bugs are planted one after the other: the explorer,
//! which is not told, has to find each of them.
//!
//! `SEED=7 STATES=5000000 make crash` runs longer, and the same again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use archipelago::fault::Planted;
use parking_lot::Mutex;

#[path = "crash/act.rs"]
mod act;
#[path = "crash/change.rs"]
mod change;
#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/explore.rs"]
mod explore;
#[path = "crash/flight.rs"]
mod flight;
#[path = "crash/image.rs"]
mod image;
#[path = "crash/lag.rs"]
mod lag;
#[path = "crash/meet.rs"]
mod meet;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/named.rs"]
mod named;
#[path = "crash/observe.rs"]
mod observe;
#[path = "crash/others.rs"]
mod others;
#[path = "crash/report.rs"]
mod report;
#[path = "crash/run.rs"]
mod run;
#[path = "crash/short.rs"]
mod short;
#[path = "crash/workloads.rs"]
mod workloads;
#[path = "crash/world.rs"]
mod world;

use run::{run, Plan};

/// Different states that a run must see, unless it is told otherwise; after
/// that it stops, once it has been through all short workloads.
const STATES: u64 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
/// So many without a finding, and a planted fault is missed.
const STATES_PLANTED: u64 = 400_000;
const THREADS: usize = 2;

/// The tests take turns: each uses all cores.
static TURN: Mutex<()> = Mutex::new(());

fn number(name: &str, usual: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn plan(planted: Planted) -> Plan {
    let usual = if planted == Planted::None { STATES } else { STATES_PLANTED };
    let states = number("STATES", number("ARCHIPELAGO_CRASH_STATES", usual));
    let all_short = planted == Planted::None && states >= STATES;
    Plan { seed: number("SEED", 1), states, planted, all_short, threads: THREADS }
}

#[test]
fn no_crash_breaks_a_promise() {
    let _turn = TURN.lock();
    let summary = run(plan(Planted::None));
    println!("{}\n\n{}\n", summary.table, summary.faults);
    println!(
        "crash states: {} looked at, {} distinct, in {} workloads, {} of the {} of up to {} operations \
         among them; {:.0} s, {:.0} core-seconds, {:.0} states and {:.0} distinct ones per core-second",
        summary.states,
        summary.distinct,
        summary.workloads,
        summary.short.1,
        summary.short.0,
        short::LENGTH_MAX,
        summary.seconds,
        summary.core_seconds,
        summary.states as f64 / summary.core_seconds,
        summary.distinct as f64 / summary.core_seconds
    );
    if let Some(violation) = summary.violation {
        panic!("a crash breaks a promise\n{violation}");
    }
    assert!(summary.distinct >= plan(Planted::None).states, "too few states");
}

/// The same where a block is made once, whole, and everything else is in the log.
#[test]
fn no_crash_breaks_a_promise_where_nothing_is_overwritten() {
    let _turn = TURN.lock();
    world::ONCE.store(true, std::sync::atomic::Ordering::SeqCst);
    let states = plan(Planted::None).states / 5;
    let summary = run(Plan { states, all_short: false, ..plan(Planted::None) });
    world::ONCE.store(false, std::sync::atomic::Ordering::SeqCst);
    println!("{}\n\n{} distinct crash states, {:.0} s", summary.table, summary.distinct, summary.seconds);
    if let Some(violation) = summary.violation {
        panic!("a crash breaks a promise\n{violation}");
    }
    assert!(summary.distinct >= states, "too few states");
}

/// The explorer's own: of a sector that is written in parts a crash may leave a mix that
/// nobody wrote, and who goes on there may write to a part of it.
#[test]
fn a_life_after_a_crash_writes_over_what_nobody_wrote() {
    let values = model::Values::default();
    let mut mix = values.bytes(5, 0);
    mix[100..].copy_from_slice(&values.bytes(6, 0)[100..]);
    assert_eq!(values.read(&mix, 0), model::FOREIGN);
    let adopted = values.adopt(&mix, 0);
    assert_eq!((values.adopt(&mix, 0), values.read(&mix, 0)), (adopted, adopted));
    assert_eq!(values.bytes(adopted, 0), mix);
    let written = values.compose(adopted, 7, 0, 200, 300);
    mix[200..300].copy_from_slice(&values.bytes(7, 0)[200..300]);
    assert_eq!((values.read(&mix, 0), values.bytes(written, 0)), (written, mix));
    assert_eq!(values.adopt(&values.bytes(5, 0), 0), 5);
}

/// A rule without a planted fault is one that nobody would miss.
#[test]
fn every_ordering_rule_has_a_planted_fault() {
    let source = include_str!("../src/fault.rs");
    let all = Planted::ALL.iter().chain(Planted::OF_SEVERAL_HOSTS);
    let names: Vec<String> = all.map(|planted| format!("{planted:?}")).collect();
    // The rule that a fault breaks, as the comment above it says.
    let rule_of = |name: &str| -> Option<u32> {
        let above = source.split_once(&format!("\n    {name},\n"))?.0;
        let comment = above.lines().rev().take_while(|line| line.trim().starts_with("///")).last()?;
        comment.trim().strip_prefix("/// ")?.split_once(':')?.0.parse().ok()
    };
    let of_names: Vec<Option<u32>> = names.iter().map(|name| rule_of(name)).collect();
    let (_, section) = include_str!("../docs/design.md").split_once("## Ordering rules").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut rules = 0;
    for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
        let mut cells = row.split(" | ");
        let Some(rule) = cells.next().and_then(|number| number.parse::<u32>().ok()) else { continue };
        rules += 1;
        assert_eq!(rule, rules, "rules are counted without gaps");
        let guards = cells.last().unwrap();
        let named: Vec<&String> = names.iter().filter(|name| guards.contains(&format!("`{name}`"))).collect();
        let planted: Vec<&String> =
            names.iter().zip(&of_names).filter(|(_, of)| **of == Some(rule)).map(|(name, _)| name).collect();
        assert!(!planted.is_empty(), "rule {rule} has no planted fault");
        assert_eq!(named, planted, "rule {rule}: what docs/design.md names, and what src/fault.rs says");
    }
    assert!(rules >= 16, "only {rules} rules are found");
    let beyond = |of: &Option<u32>| of.is_none_or(|rule| rule > rules);
    assert!(!of_names.iter().any(beyond), "a fault of no rule: {of_names:?}");
}

#[test]
fn planted_faults_are_found() {
    let _turn = TURN.lock();
    let mut missed = Vec::new();
    let only = std::env::var("PLANTED").ok();
    for planted in Planted::ALL {
        let name = format!("{planted:?}");
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let summary = run(plan(*planted));
        match summary.violation {
            Some(text) => {
                let what = if only.is_some() { text } else { first_finding(&text) };
                println!(
                    "{name:<26} found after {:>6} states, {:>5.1} s: {what}",
                    summary.states, summary.seconds
                );
            }
            None => {
                println!("{name:<26} MISSED in {} states, {:.1} s", summary.states, summary.seconds);
                missed.push(name);
            }
        }
    }
    assert!(missed.is_empty(), "the explorer does not find: {missed:?}");
}

/// Of a violation the line that says what is wrong.
fn first_finding(text: &str) -> String {
    let mut lines = text.lines().skip(1);
    let line = lines.find(|line| !line.starts_with("  ")).unwrap_or_default();
    line.chars().take(110).collect()
}
