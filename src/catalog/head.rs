//! Heads: the current root of a volume, numbered. Committing one is what
//! makes a checkpoint; the writer that finds its number taken was fenced.
//!
//! Object `head/<volume id>/<number>`, magic `ARCHhead`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0     16  volume id, as in the name
//!     16      8  number, as in the name
//!     24     16  mark: random, made by the one commit that wrote this
//!     40      8  size of the volume in bytes
//!     48      8  block size in bytes
//!     56     16  epoch: blocks of it may be overwritten in place
//!     72     16  map root: page id (0: the map is empty)
//!     88     32  map root: BLAKE3 of the page
//!    120      1  map root: level
//!    121      8  first log segment that is needed
//!    129      8  log position that replay begins at
//!    137      8  log position that was durable when this was written
//!    145      8  created, seconds since 1970
//!    153      1  1: was written to, 0: never was
//!    154      -  name of the volume when this was written: u16 length, text
//!      -      1  1: a parent follows
//!      -     16  parent: volume id
//!      -     16  parent: snapshot id
//!      -      -  parent: snapshot name: u16 length, text
//! ```

use super::numbered::{told_of, Family, Outcome};
use super::{read_bool, read_geometry, read_parent, write_parent, Parent};
use crate::backend::Last;
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::log::format::POSITION_MAX;
use crate::map::Root;
use crate::name::{prefix, Id, ObjectName, NUMBER_MAX};
use crate::store::Store;

const KIND: Kind = Kind { magic: *b"ARCHhead", version: 1 };

/// Number of the head that a volume is created with.
pub const FIRST: u64 = 1;

/// Where replay of a volume's log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// The first segment that is needed.
    pub segment: u64,
    /// The position to replay from.
    pub position: u64,
    /// A log that ends before this has been damaged.
    pub tail: u64,
}

impl LogStart {
    /// A log that was never written to.
    pub const NEW: LogStart = LogStart { segment: 1, position: 0, tail: 0 };
}

/// The current root of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub volume: Id,
    pub number: u64,
    /// The volume's name when this was written, for people.
    pub name_hint: String,
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub epoch: Id,
    pub root: Root,
    pub log: LogStart,
    pub parent: Option<Parent>,
    pub created_s: u64,
    /// Whether anything was ever written: a volume that was not is all zeroes.
    pub written: bool,
}

impl Head {
    pub fn object(&self) -> ObjectName {
        ObjectName::Head { volume: self.volume, number: self.number }
    }

    fn encode(&self, mark: Id) -> Vec<u8> {
        let mut out = Writer::with_capacity(512);
        out.id(self.volume);
        out.u64(self.number);
        out.id(mark);
        out.u64(self.size_bytes);
        out.u64(self.block_bytes);
        out.id(self.epoch);
        self.root.put(&mut out);
        out.u64(self.log.segment);
        out.u64(self.log.position);
        out.u64(self.log.tail);
        out.u64(self.created_s);
        out.u8(u8::from(self.written));
        out.text(&self.name_hint);
        write_parent(&mut out, self.parent.as_ref());
        codec::seal(KIND, &out.0)
    }

    /// The bytes that a commit writes: for tests of what reads them.
    #[cfg(feature = "testkit")]
    pub fn encoded(&self, mark: Id) -> Vec<u8> {
        self.encode(mark)
    }
}

/// Reads a head's bytes. Errors: `Corrupt`; `Invalid` if it is newer than
/// this program.
pub fn decode(name: &ObjectName, data: &[u8]) -> Result<Head> {
    let mut fields = codec::open(KIND, name, data)?;
    let volume = fields.id()?;
    let number = fields.u64()?;
    if *name != (ObjectName::Head { volume, number }) {
        return Err(fields.damaged(format!("it says that it is head {number} of volume {volume}")));
    }
    let _mark = fields.id()?;
    let (size_bytes, block_bytes) = read_geometry(&mut fields)?;
    let epoch = fields.id()?;
    let root = Root::take(&mut fields)?;
    let log = LogStart { segment: fields.u64()?, position: fields.u64()?, tail: fields.u64()? };
    if log.segment > NUMBER_MAX || log.position > POSITION_MAX || log.tail > POSITION_MAX {
        return Err(fields.damaged("its place in the log is not possible"));
    }
    let created_s = fields.u64()?;
    let written = read_bool(&mut fields)?;
    let name_hint = fields.text()?.to_owned();
    let parent = read_parent(&mut fields)?;
    fields.finish()?;
    Ok(Head {
        volume,
        number,
        name_hint,
        size_bytes,
        block_bytes,
        epoch,
        root,
        log,
        parent,
        created_s,
        written,
    })
}

/// The head that counts. Error: `NotFound` if the volume has none: it was
/// removed, or never was.
pub fn latest(store: &Store, volume: Id) -> Result<Head> {
    let [told] = told_of(store.control().as_ref(), [&prefix::heads_of(volume)])?;
    latest_told(store, volume, told)
}

/// As `latest`; `told` is what `Backend::last` says of `prefix::heads_of(volume)`.
pub(super) fn latest_told(store: &Store, volume: Id, told: Last) -> Result<Head> {
    let name = name_of(volume);
    match family(store, volume, &name).latest_told(told)? {
        Some(found) => decode(&found.name, &found.data),
        None => Err(Error::sentence(
            ErrorKind::NotFound,
            format!("volume {volume} has no head in store '{}': it was removed", store.name),
        )),
    }
}

/// Every head of a volume that is there, lowest number first: what gc takes
/// for roots. One that vanishes meanwhile is left out.
pub fn all(store: &Store, volume: Id) -> Result<Vec<Head>> {
    use crate::backend::BackendExt;
    let name = name_of(volume);
    let mut heads = Vec::new();
    for number in family(store, volume, &name).numbers()? {
        match store.control().read_summed(&name(number), 64 << 10) {
            Ok(data) => heads.push(decode(&name(number), &data)?),
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(heads)
}

/// The numbers of the heads that are there, lowest first.
pub fn numbers(store: &Store, volume: Id) -> Result<Vec<u64>> {
    let name = name_of(volume);
    family(store, volume, &name).numbers()
}

/// Makes `head` the one that counts. Error: `Fenced` when its number, or a
/// higher one, is taken: another writer has taken over. After `Unknown` the
/// volume must not be written to: the head may appear later.
pub fn commit(store: &Store, head: &Head) -> Result<()> {
    let mark = clock::random_id()?;
    let name = name_of(head.volume);
    told(head, family(store, head.volume, &name).create(head.number, &head.encode(mark))?)
}

/// As `commit`, for the first head of a volume that nobody else knows of yet: `make`
/// creates what it is given.
pub(super) fn commit_first(
    store: &Store,
    head: &Head,
    make: impl FnOnce(&ObjectName, &[u8]) -> Result<()>,
) -> Result<()> {
    let data = head.encode(clock::random_id()?);
    let name = name_of(head.volume);
    let made = make(&name(head.number), &data);
    told(head, family(store, head.volume, &name).made_first(head.number, &data, made)?)
}

fn told(head: &Head, outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Won => Ok(()),
        Outcome::Lost => Err(Error::new(ErrorKind::Fenced, "commit")
            .on(&head.object())
            .because("another writer has committed this head; this one must stop")),
    }
}

/// Deletes heads below `number`, never the highest.
pub fn remove_below(store: &Store, volume: Id, number: u64) -> Result<()> {
    let name = name_of(volume);
    family(store, volume, &name).remove_below(number)
}

/// Deletes every head, the highest last.
pub(super) fn remove_all(store: &Store, volume: Id) -> Result<()> {
    let name = name_of(volume);
    family(store, volume, &name).remove_all()
}

fn name_of(volume: Id) -> impl Fn(u64) -> ObjectName {
    move |number| ObjectName::Head { volume, number }
}

fn family<'a>(store: &'a Store, volume: Id, name: &'a dyn Fn(u64) -> ObjectName) -> Family<'a> {
    Family { backend: store.control().as_ref(), prefix: prefix::heads_of(volume), name }
}
