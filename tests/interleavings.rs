//! What can go wrong: two things that are each right alone happen at the same
//! time, or one of them half, and what a guest was promised is gone. The ten
//! stories here are the ones against which the ordering rules of
//! docs/design.md were written; docs/testing.md lists them.
//!
//! How this proves that it does not: each story is played on the recording
//! store of the crash explorer, the meeting moved from one call of the store
//! to the next; every store that a crash at any moment of it could leave is
//! opened and read in full against the model, and at its end also checked,
//! worked on, collected and read again. Then the rule is switched off that the
//! story is about, and the same story has to notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Of the explorer's modules only a part is needed here.
#![allow(dead_code)]

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
#[path = "interleavings/log.rs"]
mod log;
#[path = "crash/meet.rs"]
mod meet;
#[path = "crash/model.rs"]
mod model;
#[path = "interleavings/names.rs"]
mod names;
#[path = "crash/observe.rs"]
mod observe;
#[path = "crash/others.rs"]
mod others;
#[path = "crash/report.rs"]
mod report;
#[path = "interleavings/story.rs"]
mod story;
#[path = "crash/workloads.rs"]
mod workloads;
#[path = "crash/world.rs"]
mod world;
