//! Each fault of `fault::Planted::LOCKS` is planted, and some of the rules'
//! that threads meet as well: the story that is told about it has to fail.

use archipelago::fault::Planted;

use super::bed::Way;
use super::explore::finds;
use super::{closing, parts, requests};

/// What finds what.
const STORIES: &[(Planted, fn())] = &[
    (Planted::WorkUntold, parts::handing_off),
    (Planted::WorkToldEarly, parts::handing_off),
    (Planted::DrainToldUnlocked, closing::draining),
    (Planted::ClosedWithoutDrain, || closing::closing(Way::Direct, 0)),
    (Planted::HandedOverOpen, || closing::handing_over(Way::Threads)),
    (Planted::ParkedUntold, || requests::full_log(Way::Threads)),
    (Planted::FlushForgotten, || requests::flushing(Way::Threads, 0)),
    (Planted::RangeAskedUnlocked, || requests::callers(Way::Threads, 0)),
    (Planted::CompletedUnderLock, || requests::settling(Way::Threads)),
    (Planted::SegmentKnownEarly, parts::beginning),
    (Planted::LeaderLeavesEarly, || requests::overlapping(Way::Threads, 9)),
    (Planted::RenewalNotStopped, parts::renewing),
    // Of those that one thread is enough for.
    (Planted::LogNotSynced, || requests::flushing(Way::Threads, 9)),
    (Planted::CutBeforeContent, || closing::cutting(Way::Threads)),
    (Planted::SettleClaimsLaterPieces, || requests::settling(Way::Threads)),
    (Planted::InPlaceUnderPiece, || requests::settling(Way::Threads)),
];

#[test]
fn every_planted_fault_is_found() {
    let wanted = std::env::var("PLANTED").ok();
    let told = |planted: &Planted| STORIES.iter().any(|(fault, _)| fault == planted);
    assert!(Planted::LOCKS.iter().all(told), "a fault without a story");
    let mut missed = Vec::new();
    for (planted, story) in STORIES {
        if wanted.as_ref().is_some_and(|wanted| *wanted != format!("{planted:?}")) {
            continue;
        }
        match finds(*planted, *story) {
            Some((runs, how)) => println!("{planted:?}: found in {runs} schedules: {how}"),
            None => missed.push(planted),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
