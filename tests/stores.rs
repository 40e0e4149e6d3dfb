//! What can go wrong: everything holds on files and in memory, and a real
//! cluster does it a little differently: a name is made twice, a list lacks
//! what is there, a lock has two holders, who was cut off goes on writing.
//!
//! How this proves that it does not: the suite that every backend passes, and
//! what only a cluster can show, on real servers. `tests/servers` starts them
//! (`make check-stores`), and says here where they are:
//!
//! * `ARCHIPELAGO_TEST_CEPH_CONF`: a Ceph configuration, with its keyring;
//!   `ARCHIPELAGO_TEST_CEPH_POOL` and `_USER`: "archipelago" and "admin".
//!
//! Without, the tests of that kind of store are passed over and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "stores/rados.rs"]
mod rados;
