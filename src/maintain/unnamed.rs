//! Volumes that no name leads to: a removal or a creation was interrupted
//! after the name had gone or before it was there.
//!
//! Such a volume's head would keep its content for ever. Its removal is
//! finished if it cannot be in the making:
//!
//! * its epochs were claimed before the previous maintenance began. A creator
//!   that is as slow as that finds that gc has begun meanwhile, undoes its
//!   volume and makes another;
//! * three listings of the names know nothing of it, at least one of them
//!   while nobody can take its lease. A rename makes the new name before it
//!   deletes the old one, so that one listing may miss both, but not three
//!   (where listings lag, the later ones are further away than that);
//! * no listed name was gone when it was read: it may have become another one,
//!   which the listing does not show;
//! * it has no snapshots: a removal takes those before the name;
//! * nobody who may be alive holds its lease.

use std::collections::BTreeSet;

use super::roots::is_of_content;
use crate::backend::BackendExt;
use crate::catalog::identity::Life;
use crate::catalog::lease::{self, LeaseState};
use crate::catalog::{epoch, head, volume};
use crate::error::{ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

/// A volume whose removal is to be finished, and the objects that it takes.
#[derive(Debug)]
pub(super) struct Unnamed {
    pub volume: Id,
    pub objects: Vec<ObjectName>,
}

/// Finds them. `first`: the generation that this maintenance began with.
pub(super) fn find(store: &Store, first: u64) -> Result<Vec<Unnamed>> {
    let mut volumes = BTreeSet::new();
    for name in store.control().list_all(prefix::HEADS)? {
        if let ObjectName::Head { volume, .. } = name {
            volumes.insert(volume);
        }
    }
    let mut found = Vec::new();
    for _ in 0..2 {
        for id in named(store)? {
            volumes.remove(&id);
        }
    }
    for volume in volumes {
        if is_unnamed_for_long(store, volume, first)? {
            let mut objects = store.control().list_all(&prefix::heads_of(volume))?;
            objects.extend(store.control().list_all(&prefix::leases_of(volume))?);
            found.push(Unnamed { volume, objects });
        }
    }
    Ok(found)
}

/// A name that cannot be read may be that of any volume: then nothing is
/// unnamed.
fn named(store: &Store) -> Result<BTreeSet<Id>> {
    let mut named = BTreeSet::new();
    for object in store.control().list_all(prefix::VOLUMES)? {
        let ObjectName::Volume(name) = &object else { continue };
        match volume::lookup(store, name) {
            Ok(id) => drop(named.insert(id)),
            Err(error) if is_of_content(&error) || error.is(ErrorKind::Invalid) => return all(store),
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}

fn all(store: &Store) -> Result<BTreeSet<Id>> {
    let heads = store.control().list_all(prefix::HEADS)?;
    let volume = |name: ObjectName| match name {
        ObjectName::Head { volume, .. } => Some(volume),
        _ => None,
    };
    Ok(heads.into_iter().filter_map(volume).collect())
}

fn is_unnamed_for_long(store: &Store, volume: Id, first: u64) -> Result<bool> {
    if !store.control().list_all(&prefix::snapshots_of(volume))?.is_empty() {
        return Ok(false);
    }
    let heads = match head::all(store, volume) {
        Ok(heads) => heads,
        // Damaged: the mark says so.
        Err(error) if is_of_content(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    for head in &heads {
        match epoch::read(store, head.epoch) {
            Ok(epoch) if !epoch.is_young(first.saturating_sub(1)) => {}
            Ok(_) => return Ok(false),
            Err(error) if is_of_content(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    let held = match lease::show(store, volume)? {
        LeaseState::Free { .. } | LeaseState::Broken { .. } => false,
        LeaseState::Moved(_) | LeaseState::Standby(_) => false,
        LeaseState::Held { life, .. } | LeaseState::Arriving { life, .. } => life != Life::Dead,
    };
    Ok(!heads.is_empty() && !held)
}
