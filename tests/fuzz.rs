//! What can go wrong: bytes on a disk that are not what was written there, or
//! words that somebody typed, bring down the virtual machine that reads them.
//! A decoder indexes past the end, adds two numbers that do not fit, believes
//! a length and asks for all memory, never comes to an end, or takes what it
//! would not have written and says something else the next time.
//!
//! How this proves that they do not: every decoder gets what the library's own
//! encoders wrote, damaged by a seeded mutator that knows the layout: it
//! repairs checksums, so that what stands behind them is reached. Nothing may
//! panic or overflow (a build with overflow checks tells: `make fuzz`), take
//! more memory than a small multiple of its input, or longer than a deadline;
//! what decodes must encode to something that decodes to the same; and what
//! is refused is refused by name. Whatever was found once lies in
//! fuzz/corpus/KIND and is tried first. fuzz/planted.rs plants decoders with
//! bugs and sees them found.
//!
//! ARCHIPELAGO_FUZZ_S=600 runs for so many seconds, SEED=7 runs something
//! else, KIND=head only that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "fuzz/asked.rs"]
mod asked;
#[path = "fuzz/corpus.rs"]
mod corpus;
#[path = "fuzz/logs.rs"]
mod logs;
#[path = "fuzz/meter.rs"]
mod meter;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/objects.rs"]
mod objects;
#[path = "fuzz/pages.rs"]
mod pages;
#[path = "fuzz/planted.rs"]
mod planted;
#[path = "fuzz/random.rs"]
mod random;
#[path = "fuzz/run.rs"]
mod run;
#[path = "fuzz/texts.rs"]
mod texts;
#[path = "fuzz/volumes.rs"]
mod volumes;

use run::Kind;

/// How long a run takes unless it is told otherwise.
const SECONDS: u64 = 20;

/// Everything that reads bytes or words which this process did not make.
fn kinds() -> Vec<Kind> {
    [objects::kinds(), pages::kinds(), logs::kinds(), volumes::kinds(), texts::kinds(), asked::kinds()]
        .concat()
}

#[test]
fn no_input_breaks_a_decoder() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let only = std::env::var("KIND").ok();
    let kinds: Vec<Kind> =
        kinds().into_iter().filter(|kind| only.as_ref().is_none_or(|only| only == kind.name)).collect();
    assert!(!kinds.is_empty(), "there is no kind {only:?}");
    let seed = number("SEED").unwrap_or(1);
    let seconds = number("ARCHIPELAGO_FUZZ_S").unwrap_or(SECONDS);
    let total: u32 = kinds.iter().map(|kind| kind.share).sum();
    println!("kind             corpus    inputs   decoded  most memory");
    let mut inputs = 0;
    for kind in &kinds {
        let time_ms = seconds * 1000 * u64::from(kind.share) / u64::from(total);
        let tally =
            run::run(kind, seed, time_ms, u64::MAX).unwrap_or_else(|finding| panic!("{finding}"));
        println!(
            "{:16} {:6} {:9} {:9}  {:.1} x the input",
            kind.name, tally.corpus, tally.inputs, tally.decoded, tally.memory
        );
        assert!(
            tally.decoded > 0,
            "{}: nothing decodes, so nothing behind the first check is tried",
            kind.name
        );
        inputs += tally.inputs;
    }
    let checks = if cfg!(debug_assertions) { "with" } else { "without" };
    println!(
        "fuzz: {inputs} inputs to {} decoders, no finding; seed {seed}, {checks} overflow checks",
        kinds.len()
    );
}
