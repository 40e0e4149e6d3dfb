//! Volumes that were moved to another store, and how they are found there.
//!
//! A volume is in one store at a time. The one record that says where is its
//! last lease in the store that it leaves: before that is `Moved` the volume is
//! there, from then on it is in the other one. Its name stays, so that whoever
//! asks for it is led on; all else goes.

use std::path::Path;

use super::lease::{self, Destination, LeaseState};
use super::{head, snapshot, volume};
use crate::config::{self, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, VolumeName};
use crate::store::open::open_configured;
use crate::store::Store;

/// Stores that lead on to each other, at most.
const STEPS_MAX: usize = 16;

/// `locate` with the configuration that is read for it: that of `config_path`
/// alone, if there is one. Errors: as of `locate`, and a mistake in the
/// configuration.
pub fn find(
    config_path: Option<&Path>,
    store_name: Option<&str>,
    name: &VolumeName,
    direct: bool,
) -> Result<Store> {
    let (store, _) = locate(&config::load(config_path)?, store_name, name, direct)?;
    Ok(store.opened_by(config_path, direct))
}

/// Finds the store in which a volume is: the one that is asked for, or where
/// it was moved to from there. Errors: `NotFound`, also if that one is not
/// configured; those of opening a store.
pub fn locate(
    config: &Config,
    store_name: Option<&str>,
    name: &VolumeName,
    direct: bool,
) -> Result<(Store, Id)> {
    let mut store = open_configured(config, store_name, direct, false)?;
    let id = volume::lookup(&store, name)?;
    for _ in 0..STEPS_MAX {
        let Some(to) = lease::moved_to(&store, id)? else { return Ok((store, id)) };
        if has_arrived(config, &store, name, id, &to, direct)? {
            lease::complete_arrival(&store, id, name.as_str())?;
            return Ok((store, id));
        }
        log::debug!("volume '{name}' was moved from store '{}' to '{}'", store.name, to.store_name);
        let next = open_destination(config, &store, name, &to, direct)?;
        if let Err(error) = end(&store, &next, name, id) {
            log::warn!("volume '{name}' is in store '{}', but: {}", next.name, error.full());
        }
        store = next;
    }
    let message = format!("volume '{name}' cannot be found: stores lead on to each other in a circle");
    Err(Error::sentence(ErrorKind::Corrupt, message))
}

/// True if a volume is on its way to `store` only as far as that one knows: the
/// store that it comes from says that it has gone there.
fn has_arrived(
    config: &Config,
    store: &Store,
    name: &VolumeName,
    id: Id,
    from: &Destination,
    direct: bool,
) -> Result<bool> {
    if !matches!(lease::show(store, id)?, LeaseState::Arriving { .. }) {
        return Ok(false);
    }
    let from = open_destination(config, store, name, from, direct)?;
    Ok(matches!(lease::show(&from, id)?, LeaseState::Moved(to) if to.store == store.id))
}

/// Opens another store that a volume is in, or was. Errors: `NotFound` if it is
/// not configured; those of opening it.
pub fn open_destination(
    config: &Config,
    from: &Store,
    name: &VolumeName,
    to: &Destination,
    direct: bool,
) -> Result<Store> {
    // It may be called otherwise here, but its id is the same.
    let others = config.stores.keys().filter(|other| **other != to.store_name);
    let known = config.stores.contains_key(&to.store_name).then_some(&to.store_name);
    let mut failed = None;
    for candidate in known.into_iter().chain(others) {
        match open_configured(config, Some(candidate), direct, false) {
            Ok(store) if store.id == to.store => return Ok(store),
            Ok(_) => {}
            Err(error) => {
                if known == Some(candidate) {
                    failed = Some(error);
                }
            }
        }
    }
    let told = lease::moved(from, name.as_str(), to);
    let text = match &failed {
        Some(error) => format!("{told}, which cannot be opened: {error}"),
        None => format!(
            "{told}, which is not configured here: add [stores.{}] with its url to the configuration",
            to.store_name
        ),
    };
    let kind = failed.as_ref().map_or(ErrorKind::NotFound, Error::kind);
    Err(Error::sentence(kind, text))
}

/// What the one who moved the volume may not have lived to do.
fn end(from: &Store, to: &Store, name: &VolumeName, id: Id) -> Result<()> {
    match lease::show(to, id)? {
        LeaseState::Moved(_) => return Ok(()),
        LeaseState::Arriving { from: back, .. } if back.store != from.id => return Ok(()),
        LeaseState::Arriving { .. } => lease::complete_arrival(to, id, name.as_str())?,
        _ => {}
    }
    match volume::lookup(to, name) {
        Ok(there) if there == id => return Ok(()),
        Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
        _ => volume::arrive(to, name, id)?,
    }
    finish(from, id)
}

/// Takes away what a volume that was moved has left in this store, but its name
/// and its leases. Blocks, pages and the log are left to gc. Does nothing to a
/// volume that is here.
pub fn finish(store: &Store, id: Id) -> Result<()> {
    if lease::moved_to(store, id)?.is_none() {
        return Ok(());
    }
    for old in snapshot::list(store, id)? {
        match snapshot::remove(store, id, &old.name) {
            Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
            _ => {}
        }
    }
    head::remove_all(store, id)
}
