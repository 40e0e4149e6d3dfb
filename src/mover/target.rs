//! The volume in the store that it moves to, before anybody uses it there.

use std::sync::Arc;

use super::Mover;
use crate::catalog::epoch;
use crate::catalog::head::{self, Head};
use crate::catalog::identity::Life;
use crate::catalog::lease::{self, Destination, LeaseState};
use crate::catalog::moved;
use crate::catalog::snapshot::{self, Snapshot};
use crate::catalog::standby;
use crate::error::Result;
use crate::io::{Device, DeviceOptions};
use crate::store::Store;
use crate::volume::{OpenOptions, Volume};

/// Where the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    NotMoved,
    /// Somebody serves it there.
    Moved,
    /// The store that it comes from has not said whether it has gone. Its lease
    /// there tells, when it can be read; until then the volume is on its way.
    NotKnown,
}

/// The volume there; its threads make room in its log while it is filled.
pub(super) struct Target {
    pub volume: Arc<Volume>,
    device: Option<Device>,
    options: DeviceOptions,
    pub fate: Fate,
}

/// The same snapshot in another store. Positions in the log are of a store's
/// own: there it is for good from the beginning.
pub(super) fn publish(to: &Store, one: &Snapshot) -> Result<()> {
    snapshot::publish(to, &Snapshot { position: 0, ..one.clone() })
}

impl Target {
    /// Gives the volume a head over what was copied, and opens it. For whoever
    /// has the right to maintain that store, and has published `copied` there.
    pub fn make(mover: &Mover<'_>, copied: &Snapshot) -> Result<Target> {
        let Mover { from, to, id, name, .. } = mover;
        let options = mover.following.options();
        let comes_from = Destination { store: from.id, store_name: from.name.clone() };
        let open = OpenOptions {
            log_limit_bytes: to.log_limit_bytes,
            lease: lease::Options { arrives: Some(comes_from), ..options.open.lease.clone() },
            ..options.open.clone()
        };
        check_nobody_has_it(mover)?;
        let here = head::latest(from, *id)?;
        let number = head::numbers(to, *id)?.last().map_or(head::FIRST, |last| last + 1);
        let head = Head {
            volume: *id,
            number,
            name_hint: name.to_string(),
            size_bytes: copied.size_bytes,
            block_bytes: copied.block_bytes,
            epoch: epoch::claim(to, *id, &mover.options.identity.program)?,
            root: copied.root,
            log: standby::log_start(to, *id)?,
            parent: here.parent,
            created_s: here.created_s,
            written: true,
        };
        head::commit(to, &head)?;
        head::remove_below(to, *id, number)?;
        let volume = Volume::open_id(to, name.as_str(), *id, &open)?;
        // Opened again, it has arrived.
        let open = OpenOptions { lease: lease::Options { arrives: None, ..open.lease.clone() }, ..open };
        let options =
            DeviceOptions { volume: name.clone(), snapshot: None, open, no_flush: false, ..options };
        let mut target = Target { volume, device: None, options, fate: Fate::NotMoved };
        target.start_threads()?;
        Ok(target)
    }

    pub fn start_threads(&mut self) -> Result<()> {
        self.device = Some(Device::of(&self.volume, self.options.clone())?);
        Ok(())
    }

    /// They take a while to end: not while requests wait.
    pub fn stop_threads(&mut self) {
        if let Some(device) = self.device.take() {
            drop(device.into_volume());
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop_threads();
        match self.fate {
            Fate::Moved => return,
            Fate::NotKnown => return self.volume.abandon(),
            Fate::NotMoved => {}
        }
        // Its lease there says that it is where it was. What was copied may be of
        // use for the next try, until gc takes it.
        let volume = &self.volume;
        if let Err(error) = volume.close().and_then(|()| moved::finish(&volume.store, volume.id)) {
            log::info!(
                "what was moved of '{}' is left in '{}': {}",
                volume.name,
                volume.store.name,
                error.full()
            );
        }
    }
}

/// Error: `Busy`, if the volume is moved to that store by somebody else, or is
/// in use there.
fn check_nobody_has_it(mover: &Mover<'_>) -> Result<()> {
    match lease::show(mover.to, mover.id)? {
        LeaseState::Held { holder, life, .. } | LeaseState::Arriving { holder, life, .. }
            if life != Life::Dead =>
        {
            Err(lease::busy(mover.name.as_str(), &holder, life))
        }
        _ => Ok(()),
    }
}
