//! What leases say about volumes that have moved, or are on their way.

use super::identity::Life;
use super::lease::{busy, create, latest, life_of};
use super::lease_format::{Destination, State};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Id;
use crate::store::Store;

/// The other store in which a volume is, as far as this one tells: it was moved
/// there, or is on its way from there.
pub fn moved_to(store: &Store, volume: Id) -> Result<Option<Destination>> {
    Ok(latest(store, volume)?.and_then(|record| record.elsewhere().cloned()))
}

/// For a volume that has come from another store, although whoever brought it
/// did not live to say so here: it can be opened as after a crash. Does nothing
/// to one that is not on its way. Error: `Busy` if who brings it may be alive.
pub fn complete_arrival(store: &Store, volume: Id, volume_name: &str) -> Result<()> {
    let Some(record) = latest(store, volume)? else { return Ok(()) };
    if !matches!(record.state, State::Arriving(_)) {
        return Ok(());
    }
    let life = life_of(store, volume, &record.holder)?;
    if life != Life::Dead {
        return Err(busy(volume_name, &record.holder, life));
    }
    let state = State::Released { clean: false };
    // Somebody else may do the same.
    create(store, volume, record.number + 1, state, &record.holder).map(drop)
}

/// For whoever asks this store for a volume that is not here any more.
pub fn moved(store: &Store, volume_name: &str, to: &Destination) -> Error {
    Error::sentence(
        ErrorKind::NotFound,
        format!(
            "volume '{volume_name}' was moved from store '{}' to store '{}' (id {})",
            store.name, to.store_name, to.store
        ),
    )
}
