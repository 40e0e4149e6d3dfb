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
//! * `ARCHIPELAGO_TEST_S3_ENDPOINT`: a server that speaks S3, with `_BUCKET`,
//!   `_ACCESS_KEY` and `_SECRET_KEY`.
//! * `ARCHIPELAGO_TEST_GLUSTER_SERVER`: a server of GlusterFS;
//!   `ARCHIPELAGO_TEST_GLUSTER_VOLUME`: "archipelago"; `_DIR`: the folder of
//!   `tests/servers/gluster`, for faults; `_LOG`: what the library writes.
//!
//! Without, the tests of that kind of store are passed over and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[allow(dead_code)]
#[path = "moving/bed.rs"]
mod bed;
#[path = "stores/beside.rs"]
mod beside;
#[path = "stores/gluster.rs"]
mod gluster;
#[path = "stores/gluster_faults.rs"]
mod gluster_faults;
#[path = "stores/load.rs"]
mod load;
#[path = "stores/hosts.rs"]
mod hosts;
#[path = "stores/kill.rs"]
mod kill;
#[path = "stores/model.rs"]
mod model;
#[path = "stores/moving.rs"]
mod moving;
#[path = "stores/network.rs"]
mod network;
#[path = "stores/place.rs"]
mod place;
#[path = "stores/proxy.rs"]
mod proxy;
#[path = "stores/rados.rs"]
mod rados;
#[path = "stores/rados_faults.rs"]
mod rados_faults;
#[path = "stores/s3.rs"]
mod s3;
#[path = "stores/s3_faults.rs"]
mod s3_faults;
#[path = "stores/sealed.rs"]
mod sealed;
#[path = "stores/syncing.rs"]
mod syncing;
