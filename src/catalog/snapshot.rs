//! Snapshots: immutable named maps of a volume. They are numbered, because
//! hashing and dedup give a snapshot a better root later; the highest number
//! counts.
//!
//! Object `snapshot/<volume id>/<name>/<number>`, magic `ARCHsnap`, version 1,
//! payload:
//!
//! ```text
//! offset  bytes  field
//!      0     16  volume id, as in the name
//!     16      8  number, as in the name
//!     24     16  snapshot id: random, from the cut record
//!     40      8  size of the volume in bytes
//!     48      8  block size in bytes
//!     56     16  epoch that was cut
//!     72     16  map root: page id (0: the map is empty)
//!     88     32  map root: BLAKE3 of the page
//!    120      1  map root: level
//!    121      8  created, seconds since 1970
//!    129      4  created, nanoseconds in that second
//!    133      8  position of the cut in the log
//!    141      -  name of the snapshot, as in the object's: u16 length, text
//!      -      -  name of the volume when this was written: u16 length, text
//!      -      1  1: a parent follows
//!      -     16  parent: volume id
//!      -     16  parent: snapshot id
//!      -      -  parent: snapshot name: u16 length, text
//! ```

use super::head::{self, Head};
use super::numbered::{delete_if_there, told_of, Family, Outcome};
use super::{read_geometry, read_parent, read_snapshot_name, write_parent, Parent};
use crate::backend::{BackendExt, Last};
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::map::Root;
use crate::name::{prefix, Id, ObjectName, SnapshotName, NUMBER_MAX};
use crate::store::Store;

const KIND: Kind = Kind { magic: *b"ARCHsnap", version: 1 };
const BYTES_MAX: u64 = 64 << 10;

/// Number of a snapshot when it is published.
pub const FIRST: u64 = 1;

/// An immutable named map of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub volume: Id,
    pub name: SnapshotName,
    pub number: u64,
    /// Random, from the cut record: tells a snapshot from a later one that
    /// has its name.
    pub id: Id,
    pub root: Root,
    pub epoch: Id,
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub created_s: u64,
    pub created_ns: u32,
    /// Where the volume's log goes on behind the cut: once its head says so
    /// too, this snapshot is there for good.
    pub position: u64,
    pub parent: Option<Parent>,
    /// The volume's name when this was written, for people.
    pub volume_name_hint: String,
}

impl Snapshot {
    pub fn object(&self) -> ObjectName {
        ObjectName::Snapshot { volume: self.volume, name: self.name.clone(), number: self.number }
    }

    /// What a clone of this snapshot records.
    pub fn as_parent(&self) -> Parent {
        Parent { volume: self.volume, snapshot: self.name.clone(), snapshot_id: self.id }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(512);
        out.id(self.volume);
        out.u64(self.number);
        out.id(self.id);
        out.u64(self.size_bytes);
        out.u64(self.block_bytes);
        out.id(self.epoch);
        self.root.put(&mut out);
        out.u64(self.created_s);
        out.u32(self.created_ns);
        out.u64(self.position);
        out.text(self.name.as_str());
        out.text(&self.volume_name_hint);
        write_parent(&mut out, self.parent.as_ref());
        codec::seal(KIND, &out.0)
    }

    /// The bytes that publishing writes: for tests of what reads them.
    #[cfg(feature = "testkit")]
    pub fn encoded(&self) -> Vec<u8> {
        self.encode()
    }
}

/// Reads a snapshot's bytes. Errors: `Corrupt`; `Invalid` if it is newer than
/// this program.
pub fn decode(object: &ObjectName, data: &[u8]) -> Result<Snapshot> {
    let mut fields = codec::open(KIND, object, data)?;
    let volume = fields.id()?;
    let number = fields.u64()?;
    let id = fields.id()?;
    let (size_bytes, block_bytes) = read_geometry(&mut fields)?;
    let epoch = fields.id()?;
    let root = Root::take(&mut fields)?;
    let created_s = fields.u64()?;
    let created_ns = fields.u32()?;
    let position = fields.u64()?;
    let name = read_snapshot_name(&mut fields)?;
    let volume_name_hint = fields.text()?.to_owned();
    let parent = read_parent(&mut fields)?;
    if *object != (ObjectName::Snapshot { volume, name: name.clone(), number }) {
        return Err(fields.damaged(format!("it says that it is snapshot '{name}' of volume {volume}")));
    }
    fields.finish()?;
    Ok(Snapshot {
        volume,
        name,
        number,
        id,
        root,
        epoch,
        size_bytes,
        block_bytes,
        created_s,
        created_ns,
        position,
        parent,
        volume_name_hint,
    })
}

/// Makes a snapshot exist. Doing it again is fine: a crash may have come
/// between this and whatever remembers it. Error: `Exists` when another
/// snapshot has the name.
pub fn publish(store: &Store, snapshot: &Snapshot) -> Result<()> {
    let object = snapshot.object();
    let error = match store.control().create(&object, &snapshot.encode()) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if !error.is(ErrorKind::Exists) && !error.is(ErrorKind::Unknown) {
        return Err(error);
    }
    if error.is(ErrorKind::Unknown) && fault::on(fault::Planted::PublishUnknownIsDone) {
        return Ok(());
    }
    match read(store, &object) {
        Ok(there) if there.id == snapshot.id => Ok(()),
        Ok(_) => Err(taken(&snapshot.name)),
        Err(_) => Err(error),
    }
}

/// False while whoever publishes a snapshot may not have verified it: a gc
/// that began before may still take its pages, and it is then published again
/// under the next number. The volume's head goes behind the cut only
/// afterwards. Error: `NotFound` if the volume has gone.
pub fn is_for_good(store: &Store, snapshot: &Snapshot) -> Result<bool> {
    Ok(is_for_good_at(&head::latest(store, snapshot.volume)?, snapshot))
}

/// As `is_for_good`, when this was the volume's head.
pub(super) fn is_for_good_at(head: &Head, snapshot: &Snapshot) -> bool {
    head.log.position >= snapshot.position
}

fn taken(name: &SnapshotName) -> Error {
    Error::sentence(
        ErrorKind::Exists,
        format!("the volume has another snapshot '{name}': choose another name or remove that one first"),
    )
}

/// The snapshot of this name. Error: `NotFound`.
pub fn find(store: &Store, volume: Id, name: &SnapshotName) -> Result<Snapshot> {
    let [told] = told_of(store.control().as_ref(), [&prefix::numbers_of(volume, name)])?;
    find_told(store, volume, name, told)
}

/// As `find`; `told` is what `Backend::last` says of `prefix::numbers_of`.
pub(super) fn find_told(store: &Store, volume: Id, name: &SnapshotName, told: Last) -> Result<Snapshot> {
    let object = name_of(volume, name);
    let family = family(store, volume, name, &object);
    let Some(found) = family.latest_told(told)? else { return Err(missing(store, name)) };
    let highest = decode(&found.name, &found.data)?;
    match highest.number {
        FIRST => Ok(highest),
        _ => of_lowest(store, &family, highest),
    }
}

/// Whether there is a snapshot of this name. One call, where a listing is of one
/// moment, however many others there are.
pub fn exists(store: &Store, volume: Id, name: &SnapshotName) -> Result<bool> {
    let object = name_of(volume, name);
    Ok(family(store, volume, name, &object).highest()?.is_some())
}

/// The snapshot that a family stands for: that of its lowest number. A higher
/// one of another id was made by somebody who meant to replace a snapshot that
/// was removed meanwhile, and was away ever since (see `replace`).
fn of_lowest(store: &Store, family: &Family<'_>, highest: Snapshot) -> Result<Snapshot> {
    let read_one = |number: u64| match number == highest.number {
        true => Ok(Some(highest.clone())),
        false => read(store, &(family.name)(number)).map(Some).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        }),
    };
    // Where listings lag they may not have the highest yet.
    let mut numbers = family.numbers()?;
    numbers.retain(|number| *number < highest.number);
    numbers.push(highest.number);
    let mut lowest = None;
    for number in &numbers {
        lowest = read_one(*number)?;
        if lowest.is_some() {
            break;
        }
    }
    let Some(lowest) = lowest else { return Ok(highest) };
    for number in numbers.into_iter().rev().take_while(|number| *number > lowest.number) {
        match read_one(number)? {
            Some(there) if there.id == lowest.id => return Ok(there),
            _ => {}
        }
    }
    Ok(lowest)
}

/// Gives a snapshot another root, of which the content is the same. False: it
/// has another one already, or was removed; then this has changed nothing.
///
/// Whoever does this holds no lease of the volume, so its holder may remove
/// the snapshot meanwhile and take another one of the name. Therefore this
/// looks afterwards whether what it replaces is still there; whoever removes a
/// snapshot looks for a next number; and what `find` finds is of the lowest
/// number's id. What is replaced stays, for only the holder may know that its
/// number is not used again; a removal takes all numbers.
pub fn replace(store: &Store, old: &Snapshot, root: Root) -> Result<bool> {
    let object = name_of(old.volume, &old.name);
    let family = family(store, old.volume, &old.name, &object);
    let number = family.highest()?.unwrap_or(old.number) + 1;
    let new = Snapshot { number, root, ..old.clone() };
    if family.create(number, &new.encode())? == Outcome::Lost {
        return Ok(false);
    }
    match find(store, old.volume, &old.name) {
        Ok(found) if found.id == old.id && found.number == number && is_there(store, old)? => Ok(true),
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => {
            delete_if_there(store.control().as_ref(), &new.object())?;
            Ok(false)
        }
    }
}

/// Undoes a `replace`: the number before counts again.
pub fn take_back(store: &Store, new: &Snapshot) -> Result<()> {
    delete_if_there(store.control().as_ref(), &new.object())
}

fn is_there(store: &Store, snapshot: &Snapshot) -> Result<bool> {
    match read(store, &snapshot.object()) {
        Ok(there) => Ok(there.id == snapshot.id),
        Err(error) if error.is(ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

fn missing(store: &Store, name: &SnapshotName) -> Error {
    Error::sentence(
        ErrorKind::NotFound,
        format!("the volume has no snapshot '{name}' in store '{}': see 'archipelago ls --tree'", store.name),
    )
}

/// The snapshots of a volume, oldest first. One that is removed meanwhile is
/// left out.
pub fn list(store: &Store, volume: Id) -> Result<Vec<Snapshot>> {
    highest_of_each(store, &prefix::snapshots_of(volume))
}

/// The snapshots of every volume, those that no volume's name leads to
/// included: gc's roots.
pub fn list_all(store: &Store) -> Result<Vec<Snapshot>> {
    highest_of_each(store, prefix::SNAPSHOTS)
}

fn highest_of_each(store: &Store, prefix: &str) -> Result<Vec<Snapshot>> {
    let mut wanted: Vec<(Id, SnapshotName)> = Vec::new();
    for object in store.control().list_all(prefix)? {
        if let ObjectName::Snapshot { volume, name, .. } = object {
            wanted.push((volume, name));
        }
    }
    // In byte order of the objects' names, 'a' and 'a.b' may come mixed.
    wanted.sort();
    wanted.dedup();
    let mut found = Vec::with_capacity(wanted.len());
    for (volume, name) in wanted {
        match find(store, volume, &name) {
            Ok(snapshot) => found.push(snapshot),
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|a, b| {
        let key = |s: &Snapshot| (s.created_s, s.created_ns);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    Ok(found)
}

/// Removes a snapshot. Its clones stay as they are. Error: `NotFound`.
pub fn remove(store: &Store, volume: Id, name: &SnapshotName) -> Result<()> {
    let object = name_of(volume, name);
    let family = family(store, volume, name, &object);
    let numbers = family.numbers()?;
    let Some(mut highest) = numbers.last().copied() else { return Err(missing(store, name)) };
    // The highest goes last: until then the snapshot is there, as it was.
    for number in numbers {
        delete_if_there(store.control().as_ref(), &object(number))?;
    }
    // Whoever replaced it just now has not seen it go.
    while highest < NUMBER_MAX && family.is_there(highest + 1)? {
        highest += 1;
        delete_if_there(store.control().as_ref(), &object(highest))?;
    }
    Ok(())
}

fn read(store: &Store, object: &ObjectName) -> Result<Snapshot> {
    decode(object, &store.control().read_summed(object, BYTES_MAX)?)
}

fn name_of(volume: Id, name: &SnapshotName) -> impl Fn(u64) -> ObjectName {
    let name = name.clone();
    move |number| ObjectName::Snapshot { volume, name: name.clone(), number }
}

fn family<'a>(
    store: &'a Store,
    volume: Id,
    name: &SnapshotName,
    object: &'a dyn Fn(u64) -> ObjectName,
) -> Family<'a> {
    Family { backend: store.control().as_ref(), prefix: prefix::numbers_of(volume, name), name: object }
}
