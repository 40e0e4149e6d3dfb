//! Decoders with bugs, which must be found: a harness that never found one
//! proves nothing.

use super::meter::most_bytes;
use super::mutate::Rng;
use super::run::{run, Kind, Outcome};

fn finding(decode: fn(&[u8]) -> Result<Outcome, String>) -> String {
    let seeds: fn() -> Vec<Vec<u8>> = || {
        let mut seed = vec![0; 64];
        seed[..4].copy_from_slice(&8u32.to_le_bytes());
        vec![seed]
    };
    let kind = Kind { name: "planted", seeds, decode, ..Kind::OBJECT };
    match run(&kind, 1, 60_000, 200_000) {
        Ok(tally) => panic!("{} inputs did not find it", tally.inputs),
        Err(finding) => finding,
    }
}

fn length(data: &[u8]) -> usize {
    data.get(..4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
}

fn decoded(memory_bytes: usize) -> Result<Outcome, String> {
    Ok(Outcome { decoded: true, memory_bytes })
}

#[test]
fn a_length_that_nobody_checks_is_found() {
    let found = finding(|data| {
        if data.len() >= 4 {
            std::hint::black_box(&data[4..4 + length(data)]);
        }
        decoded(0)
    });
    assert!(found.contains("it panics"), "{found}");
}

#[test]
fn memory_for_a_length_that_is_only_claimed_is_found() {
    let found = finding(|data| {
        let (memory, bytes) = most_bytes(|| Vec::<u8>::with_capacity(length(data)));
        drop(std::hint::black_box(memory));
        decoded(bytes)
    });
    assert!(found.contains("of memory"), "{found}");
}

#[test]
fn what_comes_back_different_is_found() {
    let found = finding(|data| match length(data) {
        4096 => Err("it comes back different".to_owned()),
        _ => decoded(0),
    });
    assert!(found.contains("SEED=1, input "), "{found}");
}

#[test]
fn a_seed_that_is_refused_is_found() {
    let found = finding(|_| Ok(Outcome { decoded: false, memory_bytes: 0 }));
    assert!(found.contains("written by the library"), "{found}");
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let draw = |seed, at| {
        let mut rng = Rng::new(seed, "head", at);
        super::mutate::mutate(&mut rng, &[vec![7; 300], vec![8; 9]], &["word"], 1 << 16)
    };
    assert_eq!(draw(1, 5), draw(1, 5));
    assert!((0..100).filter(|at| draw(1, *at) == draw(2, *at)).count() < 20);
}
