//! Names of volumes: create, look up, list, rename, remove.
//!
//! Object `volume/<name>`, magic `ARCHvolu`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0     16  volume id
//!     16      8  created, seconds since 1970
//!     24      -  the name, as in the object's: u16 length, text
//! ```
//!
//! The name is what makes a volume exist: it is created last and deleted
//! before the head. A crash in between leaves objects that nothing leads to,
//! for gc.

use super::head::{self, Head, LogStart};
use super::identity::{wall_s, Identity};
use super::lease;
use super::lease_hold;
use super::numbered::delete_if_there;
use super::snapshot::{self, Snapshot};
use super::{epoch, maintenance, VOLUME_BYTES_MAX};
use crate::backend::BackendExt;
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::map::Root;
use crate::name::{prefix, Id, ObjectName, VolumeName};
use crate::store::{self, Store};

pub use super::clone::clone;

const KIND: Kind = Kind { magic: *b"ARCHvolu", version: 1 };
const BYTES_MAX: u64 = 4096;

/// How often something is done again because gc began meanwhile.
pub(super) const TRIES: usize = 16;

/// Makes a volume of zeroes. Errors: `Exists`, `Invalid`.
pub fn create(store: &Store, name: &VolumeName, size_bytes: u64, block_bytes: u64) -> Result<Id> {
    check_geometry(size_bytes, block_bytes)?;
    let look = || {
        let head = Head {
            volume: Id::NONE,
            number: head::FIRST,
            name_hint: name.to_string(),
            size_bytes,
            block_bytes,
            epoch: Id::NONE,
            root: Root::ZERO,
            log: LogStart::NEW,
            parent: None,
            created_s: wall_s(),
            written: false,
        };
        Ok(Start { generation: maintenance::generation(store)?, head })
    };
    publish(store, name, &look, &|generation| Ok(maintenance::generation(store)? == generation))
}

pub(super) fn check_geometry(size_bytes: u64, block_bytes: u64) -> Result<()> {
    if !store::is_block_size(block_bytes) {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!("a block of {block_bytes} bytes is not possible: use a power of two from 16K to 64M"),
        ));
    }
    if size_bytes > VOLUME_BYTES_MAX {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!("a volume of {size_bytes} bytes is not possible: at most {VOLUME_BYTES_MAX}"),
        ));
    }
    Ok(())
}

/// What a new volume begins with.
pub(super) struct Start {
    /// gc's, when the rest was looked at.
    pub generation: u64,
    /// Of no volume and epoch yet.
    pub head: Head,
}

/// Makes a volume of what `look` says: an epoch, a head, and the name
/// last. If gc began meanwhile, or `is_still` says no, all is undone and
/// done again. That is looked at before there is a name, so that nobody sees
/// a volume that cannot be, and again when the name is there: until then the
/// volume may be taken for one whose removal was interrupted. Epoch and head are
/// made in any order: without the other each is garbage.
pub(super) fn publish(
    store: &Store,
    name: &VolumeName,
    look: &dyn Fn() -> Result<Start>,
    is_still: &dyn Fn(u64) -> Result<bool>,
) -> Result<Id> {
    for _ in 0..TRIES {
        let Start { generation, head } = look()?;
        let volume = clock::random_id()?;
        let claim = epoch::of_now(generation, volume, &Identity::of_this_process().program)?;
        let epoch = claim.id;
        let trusts = fault::on(fault::Planted::CloneNotVerified);
        let is_valid = || Ok(trusts || is_still(generation)?);
        let begun = begin(store, &claim, &Head { volume, epoch, ..head }).and_then(|()| is_valid());
        if !matches!(begun, Ok(true)) {
            undo(store, volume, epoch);
            begun?;
            continue;
        }
        let object = ObjectName::Volume(name.clone());
        let named = match store.control().create(&object, &encode(name, volume)) {
            // Somebody else's, or ours: where a request may be sent twice the
            // second answer counts.
            Err(error) if error.is(ErrorKind::Exists) && leads_to(store, name, volume) => Ok(()),
            other => other,
        };
        if let Err(error) = named {
            // With an outcome that is unknown the name may yet appear; then
            // the head must be there.
            if !error.is(ErrorKind::Unknown) {
                undo(store, volume, epoch);
            }
            return Err(if error.is(ErrorKind::Exists) { taken(store, name) } else { error });
        }
        let valid = is_valid();
        if matches!(valid, Ok(true)) {
            return Ok(volume);
        }
        store.control().delete(&object)?;
        undo(store, volume, epoch);
        valid?;
    }
    Err(Error::sentence(
        ErrorKind::Unavailable,
        format!("store '{}' is being maintained all the time: try again later", store.name),
    ))
}

/// Makes epoch and first head, both at a time where the store can.
fn begin(store: &Store, claim: &epoch::Epoch, first: &Head) -> Result<()> {
    let (epoch, data) = epoch::claim_of(claim);
    let mut claimed = Ok(());
    let committed = head::commit_first(store, first, |head, head_data| {
        let mut made = store.control().create_each(&[(&epoch, &data), (head, head_data)]).into_iter();
        claimed = made.next().unwrap_or(Ok(()));
        made.next().unwrap_or(Ok(()))
    });
    claimed.and(committed)
}

/// Gives a volume that has come from another store its name. Error: `Exists`
/// if another volume has it.
pub fn arrive(store: &Store, name: &VolumeName, volume: Id) -> Result<()> {
    match store.control().create(&ObjectName::Volume(name.clone()), &encode(name, volume)) {
        Err(error) if leads_to(store, name, volume) => {
            log::debug!("volume '{name}' has its name already: {}", error.full());
            Ok(())
        }
        Err(error) if error.is(ErrorKind::Exists) => Err(taken(store, name)),
        other => other,
    }
}

fn leads_to(store: &Store, name: &VolumeName, volume: Id) -> bool {
    lookup(store, name).is_ok_and(|there| there == volume)
}

fn undo(store: &Store, volume: Id, epoch: Id) {
    if let Err(error) = head::remove_all(store, volume) {
        log::debug!("a head is left to gc: {}", error.full());
    }
    epoch::abandon(store, epoch);
}

fn taken(store: &Store, name: &VolumeName) -> Error {
    Error::sentence(ErrorKind::Exists, format!("store '{}' has a volume '{name}' already", store.name))
}

/// Whether a new volume could have this name. Error: `Exists`.
pub fn check_free(store: &Store, name: &VolumeName) -> Result<()> {
    match store.control().stat(&ObjectName::Volume(name.clone())) {
        Ok(_) => Err(taken(store, name)),
        Err(error) if error.is(ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The id of the volume of this name. Error: `NotFound`.
pub fn lookup(store: &Store, name: &VolumeName) -> Result<Id> {
    let object = ObjectName::Volume(name.clone());
    match store.control().read_summed(&object, BYTES_MAX) {
        Ok(data) => Ok(decode(&object, &data)?.0),
        Err(error) if error.is(ErrorKind::NotFound) => Err(Error::sentence(
            ErrorKind::NotFound,
            format!(
                "there is no volume '{name}' in store {}; list them with: archipelago ls",
                store.describe()
            ),
        )),
        Err(error) => Err(error),
    }
}

/// The name that a volume has now: `hint`, unless it was renamed. Error:
/// `NotFound` if none leads to it any more.
pub fn name_of(store: &Store, hint: &VolumeName, volume: Id) -> Result<VolumeName> {
    match lookup(store, hint) {
        Ok(there) if there == volume => return Ok(hint.clone()),
        Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
        _ => {}
    }
    let found = list(store)?.into_iter().find(|(_, id)| *id == volume);
    found.map(|(name, _)| name).ok_or_else(|| {
        Error::sentence(
            ErrorKind::NotFound,
            format!("the volume that was '{hint}' in store {} has been removed", store.describe()),
        )
    })
}

/// All names, in byte order. One that is removed meanwhile is left out.
pub fn list(store: &Store) -> Result<Vec<(VolumeName, Id)>> {
    let mut volumes = Vec::new();
    for object in store.control().list_all(prefix::VOLUMES)? {
        let ObjectName::Volume(name) = &object else {
            continue;
        };
        match store.control().read_summed(&object, BYTES_MAX) {
            Ok(data) => volumes.push((name.clone(), decode(&object, &data)?.0)),
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(volumes)
}

/// Gives a volume another name. The new name is there before the old one
/// goes; after a crash in between both lead to the volume, and doing it again
/// finishes it. Errors: `NotFound`, `Exists`.
pub fn rename(store: &Store, from: &VolumeName, to: &VolumeName) -> Result<()> {
    let volume = lookup(store, from)?;
    if from == to {
        return Ok(());
    }
    let object = ObjectName::Volume(to.clone());
    match store.control().create(&object, &encode(to, volume)) {
        Ok(()) => {}
        Err(error) if error.is(ErrorKind::Exists) || error.is(ErrorKind::Unknown) => {
            match lookup(store, to) {
                Ok(there) if there == volume => {}
                Ok(_) => return Err(taken(store, to)),
                Err(_) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    // Whoever removes the volume meanwhile takes the head and looks for names
    // then: a name that came too late for that would lead nowhere.
    // One that was moved to another store has none here either.
    let lags = store.control().capabilities().list_lag_s > 0;
    let may_lack = || -> Result<bool> { Ok(lags || lease::moved_to(store, volume)?.is_some()) };
    if head::numbers(store, volume)?.is_empty() && !may_lack()? {
        delete_if_there(store.control().as_ref(), &object)?;
        return Err(Error::sentence(
            ErrorKind::NotFound,
            format!("volume '{from}' in store {} was removed while it was renamed", store.describe()),
        ));
    }
    delete_if_there(store.control().as_ref(), &ObjectName::Volume(from.clone()))
}

/// What a removal takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The volume has another name (a rename was interrupted): only this name
    /// goes.
    pub name_only: Option<VolumeName>,
    pub snapshots: Vec<Snapshot>,
}

/// What `remove` would take away. Errors: `NotFound`.
pub fn plan_removal(store: &Store, name: &VolumeName) -> Result<Removal> {
    let volume = lookup(store, name)?;
    let other = list(store)?.into_iter().find(|(other, id)| *id == volume && other != name);
    if let Some((other, _)) = other {
        return Ok(Removal { name_only: Some(other), snapshots: Vec::new() });
    }
    Ok(Removal { name_only: None, snapshots: snapshot::list(store, volume)? })
}

/// Removes a volume; its snapshots too if told so. Clones stay as they are.
/// Blocks, pages and the log are left to gc. Errors: `NotFound`; `Busy` while
/// somebody holds its lease, or if it has snapshots and `with_snapshots` is
/// false.
pub fn remove(store: &Store, name: &VolumeName, with_snapshots: bool) -> Result<Removal> {
    let volume = lookup(store, name)?;
    let object = ObjectName::Volume(name.clone());
    let plan = plan_removal(store, name)?;
    if plan.name_only.is_some() && !fault::on(fault::Planted::RemoveBothNames) {
        store.control().delete(&object)?;
        return Ok(plan);
    }
    if !plan.snapshots.is_empty() && !with_snapshots {
        return Err(has_snapshots(name, &plan.snapshots));
    }
    let hold = lease_hold::hold_for_removal(store, volume, name.as_str())?;
    for snapshot in &plan.snapshots {
        ignore_missing(snapshot::remove(store, volume, &snapshot.name))?;
    }
    store.control().delete(&object)?;
    head::remove_all(store, volume)?;
    // A name that a rename has given it meanwhile would lead nowhere; whoever
    // makes one from here on finds that there is no head.
    for (other, _) in list(store)?.into_iter().filter(|(_, id)| *id == volume) {
        delete_if_there(store.control().as_ref(), &ObjectName::Volume(other))?;
    }
    hold.end()?;
    Ok(plan)
}

/// Finishes an interrupted removal: takes the heads and leases of a volume
/// that no name leads to. False if a name does after all. Errors: `Busy`
/// while somebody holds its lease.
pub fn remove_unnamed(store: &Store, volume: Id) -> Result<bool> {
    let hold = lease_hold::hold_for_removal(store, volume, &volume.to_string())?;
    if list(store)?.iter().any(|(_, id)| *id == volume) {
        return Ok(false);
    }
    head::remove_all(store, volume)?;
    hold.end()?;
    Ok(true)
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

fn has_snapshots(name: &VolumeName, snapshots: &[Snapshot]) -> Error {
    const SHOWN: usize = 5;
    let mut names: Vec<&str> = snapshots.iter().take(SHOWN).map(|s| s.name.as_str()).collect();
    if snapshots.len() > SHOWN {
        names.push("...");
    }
    Error::sentence(
        ErrorKind::Busy,
        format!(
            "volume '{name}' has {} snapshot(s) that would go with it: {}; to remove them too: \
             archipelago rm --snapshots {name}",
            snapshots.len(),
            names.join(", ")
        ),
    )
}

fn encode(name: &VolumeName, volume: Id) -> Vec<u8> {
    encode_since(name, volume, wall_s())
}

fn encode_since(name: &VolumeName, volume: Id, created_s: u64) -> Vec<u8> {
    let mut out = Writer::with_capacity(192);
    out.id(volume);
    out.u64(created_s);
    out.text(name.as_str());
    codec::seal(KIND, &out.0)
}

/// A volume's id, and when it got this name. Errors: `Corrupt`; `Invalid` if
/// it is newer than this program.
pub fn decode(object: &ObjectName, data: &[u8]) -> Result<(Id, u64)> {
    let mut fields = codec::open(KIND, object, data)?;
    let volume = fields.id()?;
    let created_s = fields.u64()?;
    let text = fields.text()?;
    if !matches!(object, ObjectName::Volume(name) if name.as_str() == text) {
        return Err(fields.damaged(format!("it says that it is volume '{}'", text.escape_debug())));
    }
    fields.finish()?;
    Ok((volume, created_s))
}

/// The bytes that a name is made with: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(name: &VolumeName, volume: Id, created_s: u64) -> Vec<u8> {
    encode_since(name, volume, created_s)
}

#[cfg(test)]
pub(super) fn encode_for_tests(name: &VolumeName, volume: Id) -> Vec<u8> {
    encode(name, volume)
}
