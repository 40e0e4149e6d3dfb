//! Keeping writers away from a volume that is being removed.

use super::lease::{family, lock, name_of, take, Lease, Options, PATIENCE};
use crate::backend::{Lock, LockMode};
use crate::error::{ErrorKind, Result};
use crate::name::Id;
use crate::store::Store;

/// Keeps writers away from a volume that is being removed.
pub(super) struct Hold {
    store: Store,
    volume: Id,
    lease: Option<Lease>,
    _lock: Option<Lock>,
}

/// Writes nothing where it can be helped: removing must work on a full store.
/// Error: `Busy`, naming the holder.
pub(super) fn hold_for_removal(store: &Store, volume: Id, volume_name: &str) -> Result<Hold> {
    let mut hold = Hold { store: store.clone(), volume, lease: None, _lock: None };
    if store.control().capabilities().fences {
        hold._lock = Some(lock(store, volume, volume_name, LockMode::Exclusive, PATIENCE)?);
        return Ok(hold);
    }
    let options = Options { removes: true, ..Options::default() };
    match take(store, volume, volume_name, &options) {
        Ok((lease, _)) => hold.lease = Some(lease),
        // The lease is free, or `take` had said so: the room is short only
        // for taking it.
        Err(error) if error.is(ErrorKind::NoSpace) => {}
        Err(error) => return Err(error),
    }
    Ok(hold)
}

impl Hold {
    /// Forgets all leases of the volume, which is gone.
    pub fn end(self) -> Result<()> {
        if let Some(lease) = self.lease {
            lease.discard();
        }
        let name = name_of(self.volume);
        family(&self.store, self.volume, &name).remove_all()
    }
}
