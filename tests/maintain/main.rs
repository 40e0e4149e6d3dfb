//! gc, check and usage of whole stores.
//!
//! What can go wrong: gc deletes something that a volume, a snapshot or a
//! clone needs, because it looked at the wrong moment or forgot a kind of
//! root; or it leaves for ever what nothing needs; or check calls a sound
//! store damaged or a damaged one sound.
//!
//! `histories` plays random histories against a model and then takes all
//! volumes away: nothing may be missing before, and nothing left after.
//! `races` runs gc in the middle of every single call of whatever else goes
//! on, and whatever else in the middle of every call of gc. `damage` breaks
//! objects and planted faults break gc; both must be noticed. `answers` counts
//! what is reported, and makes each call of the store fail. `doubt` has one of
//! everything that a crash leaves, fails each call of gc too, and hides things.
//! `late_holder`: who was given up ends in the middle of the next one's opening.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod answers;
mod crashes;
mod damage;
mod doubt;
mod histories;
mod hook;
mod late_holder;
mod races;
mod three;
mod world;
