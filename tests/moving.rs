//! What can go wrong: a volume is moved to another store while it is read and
//! written, and a write that came between two looks is missing there; what was
//! flushed is lost with the store that it was flushed to; a snapshot has
//! another content than it had; something is copied to the other store and
//! collected there before anything leads to it; two stores both believe that
//! they have the volume, or none does; requests wait for too long, or for ever.
//!
//! How this proves that it does not: guests that know what each of their
//! sectors must hold write during all of it and read everything back; the move
//! is ended by an error at each call that it makes of either store, and the
//! volume must be found, once, with all that was flushed, and be moved then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "moving/bed.rs"]
mod bed;
#[path = "moving/beside.rs"]
mod beside;
#[path = "moving/faults.rs"]
mod faults;
#[path = "moving/live.rs"]
mod live;
#[path = "moving/room.rs"]
mod room;
