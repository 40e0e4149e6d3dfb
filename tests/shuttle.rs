//! Schedules: the real locks of the library, in orders that a machine rarely
//! takes.
//!
//! What can go wrong: somebody is told of a change before it is made, or not
//! at all, and a request waits for ever; a lock is let go between looking and
//! acting, and both of two threads think it is theirs; a completion runs
//! twice, or with a lock held that what it calls needs; `close` returns while
//! a completion is still running. Each of these needs one order of a handful
//! of steps among thousands, so running it often proves little.
//!
//! Here the library is built on the locks, conditions, atomics and channels of
//! a model checker (`src/sync/model.rs`), which stops at each of them and
//! decides which thread goes on: at random, by few changes of priority at
//! steps that it picks (PCT), and so that all orders are about equally likely.
//! A story is a device in memory, some threads of a caller, and what must be
//! true at the end; a thread that waits when nobody can wake it any more fails
//! it. A schedule that fails is printed and played again with
//! ARCHIPELAGO_SCHEDULE.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "shuttle/bed.rs"]
mod bed;
#[path = "shuttle/closing.rs"]
mod closing;
#[path = "shuttle/explore.rs"]
mod explore;
#[path = "shuttle/planted.rs"]
mod planted;
#[path = "shuttle/ring.rs"]
mod ring;
#[path = "shuttle/parts.rs"]
mod parts;
#[path = "shuttle/requests.rs"]
mod requests;
#[path = "shuttle/synced.rs"]
mod synced;
