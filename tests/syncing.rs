//! What can go wrong: a snapshot has another content in the second store than in
//! the first, or is not whole when that one is needed; what is shared here is
//! copied for each that shares it; every round reads and asks for all there is;
//! a sync that was killed leaves something that passes for a snapshot, or that the
//! next one takes for what it wants; it removes or overwrites what somebody else
//! has there; somebody writes to a standby, or a sync that was away writes over a
//! volume that was promoted; a standby shows a mix of two moments.
//!
//! How this proves that it does not: the content of every snapshot is compared
//! sector by sector; calls are counted while one block of many changes; a sync is
//! ended by an error at each call that it makes of either store, killed at each,
//! and a gc of the second store runs at each; a guest writes numbers one after
//! another, and what a promoted standby holds must be exactly what was written up
//! to one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "syncing/bed.rs"]
mod bed;
#[path = "syncing/faults.rs"]
mod faults;
#[path = "syncing/live.rs"]
mod live;
#[path = "syncing/plain.rs"]
mod plain;
