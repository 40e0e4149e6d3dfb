//! The contract of a backend: what keeps named objects in one kind of place.
//!
//! # What every backend promises
//!
//! * Any method may block; any may be called from many threads at once.
//! * An object is a name and bytes. Its size is fixed when it is created. Only
//!   blocks and log segments are made sparse, written or punched afterwards; a
//!   backend need not be able to with others.
//! * `create` makes the whole object appear, durably, or nothing; if the name
//!   is taken it fails with `Exists` and changes nothing. It is the one atomic
//!   primitive that everything above is built on.
//! * A name that others read is never replaced: new state gets a new name.
//! * Reads after an acknowledged write, by anyone who opened the object
//!   through the same backend value, see that write. Another process sees
//!   objects after `create` or `sync` (at once, or after
//!   `Capabilities::list_lag_s` for `list`).
//! * An error of kind `Unknown` means that the operation may have been
//!   applied, or may be applied later. Every other kind means that it was not
//!   applied; `write_at` and `punch` may then have applied any part of it.
//! * Nothing is retried inside unless it is certain that it was not applied.
//!
//! `memory` is the executable meaning of this text and `conformance` is its
//! test; every backend passes it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::iobuf::IoBuf;

pub mod dir;
mod dir_create;
mod dir_data;
mod dir_files;
mod dir_gate;
mod dir_lock;
mod dir_io;
mod dir_layout;
mod dir_made;
mod dir_sync;
pub mod dir_sys;
pub mod gluster;
mod gluster_data;
mod gluster_files;
pub mod memory;
pub mod missing;
pub mod order;
pub mod rados;
mod rados_data;
mod rados_index;
mod rados_lock;
mod rados_names;
pub mod remembering;
pub mod s3;
mod s3_answer;
mod s3_data;
mod s3_sign;
mod s3_wire;
pub mod sealed;
pub mod window;
#[cfg(feature = "testkit")]
pub mod conformance;
#[cfg(feature = "testkit")]
mod conformance_data;
#[cfg(feature = "testkit")]
mod conformance_each;
#[cfg(feature = "testkit")]
pub mod faulty;
#[cfg(feature = "testkit")]
mod faulty_data;
#[cfg(feature = "testkit")]
pub mod only;
#[cfg(feature = "testkit")]
pub mod recording;

/// What a backend can do. Differences are in behaviour, not in support: code
/// above works with any combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `write_at`, `punch` and `create_sparse` work; otherwise they fail with
    /// `Invalid`.
    pub overwrite_in_place: bool,
    /// An acknowledged write needs no `sync`, which then need not look at what
    /// it is given.
    pub durable_on_ack: bool,
    /// `lock` proves the death of a holder or cuts it off.
    pub fences: bool,
    /// A lock may outlive its holder for a while, but `cut_off` ends both; that
    /// one is held says nothing of the life of its holder.
    pub cuts_off: bool,
    /// `sync` of many names costs about as much as of one.
    pub sync_all_cheap: bool,
    /// `stat` tells what an object takes; otherwise that is its size.
    pub tells_room: bool,
    /// How long `list` may lag behind `create` and `delete`, in seconds.
    pub list_lag_s: u32,
    /// What `list` answers was there at one moment, if all has the same prefix up
    /// to a '/' and is no more than some hundred names; otherwise it may miss a
    /// name that is made and one that is deleted while it runs.
    pub lists_at_once: bool,
    /// Largest object, in bytes.
    pub object_bytes_max: u64,
    /// Requests that may usefully be in flight at once.
    pub in_flight_max: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectStat {
    /// The object's size as created.
    pub bytes: u64,
    /// What it takes in the store: with `Capabilities::tells_room` at most a
    /// rounding above what was written, otherwise as `bytes`.
    pub allocated_bytes: u64,
}

/// What `Backend::last` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// Only `list` and `read_at` can tell.
    Untold,
    Nothing,
    Object(ObjectName, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    Exclusive,
    Shared,
}

/// Held until dropped, or until the process is gone.
pub type Lock = Box<dyn Any + Send + Sync>;

/// Named objects in one kind of place. The module's text is the contract.
pub trait Backend: fmt::Debug + Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Makes a new object of exactly `data`. It is durable on return.
    /// Errors: `Exists`, `NoSpace`, `Denied`.
    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()>;

    /// As `create` for each of these, in any order or all at a time: where a question
    /// takes its time, several may take no longer. What came of each is told.
    fn create_each(&self, objects: &[(&ObjectName, &[u8])]) -> Vec<Result<()>> {
        objects.iter().map(|(name, data)| self.create(name, data)).collect()
    }

    /// Makes a new object of `bytes` zeroes that takes (about) no room. Not
    /// durable until `sync`: a crash before that may leave it, or its name with
    /// fewer bytes. Errors: as `create`; also if it is there and shorter, which
    /// it then is no more: it has got zeroes at its end.
    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()>;

    /// Fills `buf` from `offset_bytes` and returns how much was read: short
    /// only at the object's end. Error: `NotFound`.
    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize>;

    /// Overwrites within the object's size. Not durable until `sync`. On a
    /// crash each 512-byte sector is the old or the new one.
    /// Errors: `NotFound`, `Invalid` beyond the end.
    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()>;

    /// Makes a range read as zeroes, giving its room back where the place
    /// can. Otherwise like `write_at`.
    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()>;

    /// On return everything acknowledged for these objects, their existence
    /// included, survives a crash. After an error nothing is known about
    /// them, and calling again proves nothing. Error: `NotFound` if one is
    /// missing.
    fn sync(&self, names: &[ObjectName]) -> Result<()>;

    /// As `sync`, for objects of which the caller knows that their existence
    /// is durable: `create` made them, a `sync` of them has returned, or
    /// something durable that is written only after such a `sync` names them
    /// (whoever called it). On return everything acknowledged for their
    /// content survives a crash, whoever wrote it through this backend value;
    /// of their existence this says nothing, not even to later calls: a new
    /// object still needs `sync`, and may be gone until then.
    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.sync(names)
    }

    /// Another process may have written to these objects since this backend
    /// value last synced them: what it knows of that counts no more, and the
    /// next `sync` or `sync_content` of each covers what anybody wrote.
    fn forget_synced(&self, names: &[ObjectName]);

    /// Another client may have written to any object since it was last read
    /// here: what is read from now on is what is there, as long as nobody else
    /// writes. For whoever opens a volume. To be passed on by what stands
    /// before another backend; nothing to do where each read asks the store.
    fn forget_seen(&self) {}

    /// Removes an object. Durable whenever the place gets to it: a deleted
    /// object may be back after a crash. Error: `NotFound`.
    fn delete(&self, name: &ObjectName) -> Result<()>;

    /// Error: `NotFound`.
    fn stat(&self, name: &ObjectName) -> Result<ObjectStat>;

    /// The next range at or after `offset_bytes` that may hold anything but
    /// zeroes; `None` if there is none. Where the place cannot tell, all of
    /// it may.
    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        let _ = name;
        Ok(Some((offset_bytes, u64::MAX)))
    }

    /// The first `count_max` names that begin with `prefix` (one of
    /// `name::prefix`) and come after `after`, which need not exist, in byte
    /// order of their text; fewer only if there are no more. Files and objects
    /// that are not ours are passed over.
    fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Result<Vec<ObjectName>>;

    /// The last name that begins with `prefix`, as `list` has them, and what it
    /// contains, as both were at one moment: where the place can tell that in one
    /// step. For few and small objects.
    fn last(&self, prefix: &str) -> Result<Last> {
        let _ = prefix;
        Ok(Last::Untold)
    }

    /// As `last` for each of these, in any order or all at a time.
    fn last_of_each(&self, prefixes: &[&str]) -> Vec<Result<Last>> {
        prefixes.iter().map(|prefix| self.last(prefix)).collect()
    }

    /// Makes `to` a durable object with the content that `from` has, as
    /// `create` does; a backend with a shortcut takes it. What is written to
    /// `from` meanwhile may be copied or not. Errors: `NotFound`, `Exists`,
    /// as `create`.
    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        let bytes = self.stat(from)?.bytes;
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let read_bytes = self.read_at(from, 0, &mut data)?;
        data.truncate(read_bytes);
        self.create(to, &data)
    }

    /// Takes the lock that goes with `name` (the object need not exist)
    /// without waiting. Errors: `Busy`; `Invalid` where `fences` is false.
    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock>;

    /// Whoever holds the lock of `name` writes no more, to any object, and has
    /// the lock no more: for one who is known to be dead, or to be given up.
    /// Errors: `Invalid` where `Capabilities::cuts_off` is false; `Denied`.
    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        Err(Error::new(ErrorKind::Invalid, "cut off the holder").on(name))
    }

    /// Carries out jobs that read and create here, one by one or several at a
    /// time; they may go on when this returns.
    fn carry_out(&self, jobs: Vec<Box<dyn FnOnce() + Send>>) {
        jobs.into_iter().for_each(|job| job());
    }

    /// The native way for guest data, if there is one.
    fn data_path(&self) -> Option<Arc<dyn DataPath>>;
}

/// Runs once, on a thread of the data path, with the outcome.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Something to do on a thread that may block. What it returns is run there
/// afterwards, and must be quick.
pub type Job = Box<dyn FnOnce() -> Then + Send>;
pub type Then = Box<dyn FnOnce()>;

/// Guest data without a copy and without a thread per request. The rules of
/// `Backend::read_at` and `write_at` hold, but reads are never short.
pub trait DataPath: fmt::Debug + Send + Sync {
    /// Offsets, lengths and memory addresses must be multiples of this;
    /// whoever cannot meet it takes the ordinary way. 1: anything goes.
    fn alignment_bytes(&self) -> usize;

    /// Hands a read to the system and returns. `done` may run before that,
    /// but never on this thread.
    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done);

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done);

    /// Reads now if that needs no waiting; `None` if it would.
    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>>;

    /// Runs `job` on a thread of the data path, if one is awake and has
    /// nothing to do; it comes back if none is.
    fn run_awake(&self, job: Job) -> std::result::Result<(), Job> {
        Err(job)
    }
}

/// Conveniences built on the trait.
pub trait BackendExt: Backend {
    /// The whole of a (small) object. Errors: `NotFound`, `Corrupt` if it is
    /// larger than `bytes_max`.
    fn read_all(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>>;

    /// As `read_all`, of what carries a sum of all its bytes: one question is enough,
    /// for the reader finds out by itself if the answer was too short.
    fn read_summed(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>>;

    /// Every name with this prefix, in order.
    fn list_all(&self, prefix: &str) -> Result<Vec<ObjectName>>;
}

/// Names asked for at a time by `list_all`, which keeps them all anyway; a
/// backend may have to look at every name for each call.
const LIST_COUNT: usize = 1 << 20;

/// Read before anybody asks how much there is: most of what is read as a whole is
/// smaller, and a store that is far away is asked once.
const GUESSED_BYTES: usize = 16 << 10;

/// How often `read_all` meets an object that is replaced while it looks.
const READ_TRIES: u32 = 5;

impl<B: Backend + ?Sized> BackendExt for B {
    fn read_all(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>> {
        let mut tries = 0;
        loop {
            let bytes = self.stat(name)?.bytes;
            if bytes > bytes_max {
                return Err(Error::corrupt(
                    name,
                    format!("it has {bytes} bytes, more than the {bytes_max} that such an object can have"),
                ));
            }
            // One more than there is: the end is seen.
            let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1)];
            let read_bytes = self.read_at(name, 0, &mut data)?;
            if read_bytes + 1 == data.len() {
                data.truncate(read_bytes);
                return Ok(data);
            }
            // Another object may have the name by now.
            tries += 1;
            if tries == READ_TRIES {
                let message = format!("it says that it has {bytes} bytes, and {read_bytes} are read");
                return Err(Error::corrupt(name, message));
            }
        }
    }

    fn read_summed(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; GUESSED_BYTES];
        let read_bytes = self.read_at(name, 0, &mut data)?;
        if read_bytes == data.len() || read_bytes as u64 > bytes_max {
            return self.read_all(name, bytes_max);
        }
        data.truncate(read_bytes);
        Ok(data)
    }

    fn list_all(&self, prefix: &str) -> Result<Vec<ObjectName>> {
        let mut names: Vec<ObjectName> = Vec::new();
        loop {
            let more = self.list(prefix, names.last(), LIST_COUNT)?;
            let done = more.len() < LIST_COUNT;
            names.extend(more);
            if done {
                return Ok(names);
            }
        }
    }
}
