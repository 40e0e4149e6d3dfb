//! VM disks as collections of named blocks, tracked by maps.
//!
//! Each layer may import only what stands below it (`tests/tidy.rs` checks):
//!
//! ```text
//!  capi   cli   testkit          the faces; the kit for backends
//!      \   |   /
//!       control                 asking the process that holds a volume
//!          |
//!        mover                  moving it to another store
//!      /        \
//!     io       maintain         requests and threads; gc, check and copies
//!        \    /
//!        volume                 an open volume: the write rule
//!          |
//!        catalog                names, snapshots, leases
//!          |
//!         map                   which block holds what
//!          |
//!         log                   what changed since the head
//!          |
//!        store                  one backend, or several as one
//!          |
//!       backend                 named objects in one kind of place
//!          |
//!  error name config codec clock thread sync sys presence fault
//! ```

pub mod clock;
pub mod codec;
pub mod config;
pub mod error;
pub mod fault;
pub mod name;
pub mod presence;
pub mod sync;
pub mod sys;
pub mod thread;

pub mod backend;
pub mod catalog;
pub mod log;
pub mod maintain;
pub mod map;
pub mod readcache;
pub mod store;
pub mod volume;

pub mod capi;
pub mod control;
pub mod io;
pub mod mover;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use error::{Error, ErrorKind, Result};
