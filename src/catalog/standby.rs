//! Standbys: copies of volumes that follow them from another store, to be used
//! if that one is lost.
//!
//! A standby is a volume: it has the id, the name and the snapshots of the one
//! that it follows, and a head over the newest of these, with an epoch of its
//! own. Its last lease says that it is a standby, and of which store; so nobody
//! writes to it, and whatever snapshots it has were brought by who follows.
//!
//! Who follows holds no lease. It commits a head that it has read *before* it
//! saw that the lease still says standby; who promotes takes the lease and
//! commits a head afterwards. Of two that commit the same number one wins, so
//! that nothing is put under a volume that has been promoted.

use super::head::{self, Head, LogStart};
use super::identity::Identity;
use super::lease::{self, Destination, Holder};
use super::lease_format::State;
use super::{epoch, snapshot, volume as names};
use crate::backend::BackendExt;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Root;
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

/// The store that a standby follows; `None` if this is none.
pub fn of(store: &Store, volume: Id) -> Result<Option<Destination>> {
    Ok(lease::latest(store, volume)?.and_then(|record| match record.state {
        State::Standby(of) => Some(of),
        _ => None,
    }))
}

/// Error: `Denied` if the volume is a standby.
pub fn check_is_none(store: &Store, volume: Id, volume_name: &str) -> Result<()> {
    match of(store, volume)? {
        Some(of) => Err(refused(store, volume_name, &of)),
        None => Ok(()),
    }
}

/// For whoever would use a standby.
pub(super) fn refused(store: &Store, volume_name: &str, of: &Destination) -> Error {
    Error::sentence(
        ErrorKind::Denied,
        format!(
            "volume '{volume_name}' in store '{}' is a standby of store '{}': its snapshots can be read \
             and cloned; to use it if that store is lost: archipelago promote {volume_name}",
            store.name, of.store_name
        ),
    )
}

/// Makes the volume of this id a standby of `source`, if it is none yet, and
/// `like` its first head (of which number, epoch, root and log are chosen here).
/// For whoever has the right to maintain the store. Error: `Exists` if the
/// volume is here, or was, or follows another store.
pub fn establish(store: &Store, source: &Destination, like: &Head, who: &Identity) -> Result<()> {
    let volume = like.volume;
    match lease::latest(store, volume)? {
        None if !head::numbers(store, volume)?.is_empty() && is_named(store, volume)? => {
            return Err(is_here(store, like, "it is no standby"));
        }
        None => {
            let holder = Holder::new(who, None)?;
            if !lease::create(store, volume, 1, State::Standby(source.clone()), &holder)? {
                return Err(is_here(store, like, "somebody has just made it"));
            }
        }
        Some(record) => match &record.state {
            State::Standby(of) if of.store == source.store => {}
            State::Standby(of) => {
                let what = format!("it is a standby of store '{}'", of.store_name);
                return Err(is_here(store, like, &what));
            }
            State::Moved(_) => return Err(is_here(store, like, "its name here leads on to another store")),
            _ => return Err(is_here(store, like, "it is no standby (was it promoted?)")),
        },
    }
    if !head::numbers(store, volume)?.is_empty() {
        return Ok(());
    }
    head::commit(
        store,
        &Head {
            number: head::FIRST,
            epoch: epoch::claim(store, volume, &who.program)?,
            root: Root::ZERO,
            log: log_start(store, volume)?,
            ..like.clone()
        },
    )
}

/// A head that has neither a name nor a lease was made here, and gc has taken the
/// lease meanwhile.
fn is_named(store: &Store, volume: Id) -> Result<bool> {
    Ok(names::list(store)?.iter().any(|(_, id)| *id == volume))
}

fn is_here(store: &Store, head: &Head, what: &str) -> Error {
    let name = &head.name_hint;
    Error::sentence(
        ErrorKind::Exists,
        format!(
            "store '{}' has volume '{name}' already, and {what}: it is left as it is; if nobody needs it \
             there: archipelago --store {} rm --snapshots {name}",
            store.name, store.name
        ),
    )
}

/// Where the log of a volume begins that comes to this store. Numbers of segments
/// are not used again, and snapshots that are here already are here for good.
pub fn log_start(store: &Store, volume: Id) -> Result<LogStart> {
    let mut start = LogStart::NEW;
    for name in store.log().list_all(&prefix::segments_of(volume))? {
        if let ObjectName::Segment { number, .. } = name {
            start.segment = start.segment.max(number + 1);
        }
    }
    for snapshot in snapshot::list(store, volume)? {
        start.position = start.position.max(snapshot.position);
    }
    start.tail = start.position;
    Ok(start)
}

/// Puts another head under a standby. `head` was read before this is called, with
/// the number before. Errors: `Denied` if it is no standby any more; `Fenced` if
/// somebody else was faster.
pub fn advance(store: &Store, source: &Destination, head: &Head) -> Result<()> {
    match of(store, head.volume)? {
        Some(of) if of.store == source.store => head::commit(store, head),
        _ => Err(Error::sentence(
            ErrorKind::Denied,
            format!(
                "volume '{}' in store '{}' has been promoted: it is left as it is",
                head.name_hint, store.name
            ),
        )),
    }
}
