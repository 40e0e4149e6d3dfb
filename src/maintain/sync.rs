//! Keeps standbys of a store's volumes in another store (`catalog::standby`).
//!
//! A round takes a snapshot of each volume, copies what the standby lacks of the
//! maps of all its snapshots, publishes these there, puts a head over the newest
//! under the standby, and removes there what is not in the source any more. Then
//! the snapshot of the round before is removed in the source; the new one stays,
//! for what the next round has to copy is what differs from it.
//!
//! Whatever ends a round leaves each standby at its last head. A snapshot there
//! is there for good once the head says so (`snapshot::is_for_good`), which is
//! committed after the right to maintain the store was found confirmed: before
//! that a gc may have taken what was copied, and the next round trusts none of it.
//!
//! A standby has only what was brought. Nothing of any other volume is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::copy::{Copied, Copier, CopyOptions};
use super::sync_volume::One;
use crate::catalog::identity::Identity;
use crate::catalog::lease::{self, Destination, LeaseState};
use crate::catalog::maintenance::{self, Maintenance};
use crate::catalog::{standby, volume as names};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::Store;
use crate::volume::{OpenOptions, Volume};

/// What the snapshots of a sync are called, with sixteen digits of the store that
/// they are taken for and sixteen more behind it.
const SNAPSHOT_PREFIX: &str = "archipelago-sync-";
/// Between two looks whether somebody else has done maintaining the store.
const MAINTAINED_PAUSE: Duration = Duration::from_millis(500);

/// How standbys are kept.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    pub copy: CopyOptions,
    pub identity: Identity,
    /// How long somebody else who maintains the other store is waited for.
    pub patience: Duration,
}

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            copy: CopyOptions { reads_back: true, ..CopyOptions::default() },
            identity: Identity::of_this_process(),
            patience: Duration::from_secs(600),
        }
    }
}

/// Who takes and removes snapshots in the source, where processes hold volumes.
pub trait Hands {
    /// Takes one. It need not be published on return.
    fn snapshot(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()>;

    fn remove(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()>;
}

/// Opens volumes for it. Error: `Busy` for one that is in use.
#[derive(Debug, Default)]
pub struct ByHand {
    pub open: OpenOptions,
}

impl ByHand {
    fn with(
        &self,
        from: &Store,
        name: &VolumeName,
        id: Id,
        work: impl FnOnce(&std::sync::Arc<Volume>) -> Result<()>,
    ) -> Result<()> {
        let volume = Volume::open_id(from, name.as_str(), id, &self.open)?;
        let done = work(&volume);
        let closed = volume.close();
        done.and(closed)
    }
}

impl Hands for ByHand {
    fn snapshot(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()> {
        self.with(from, name, id, |volume| volume.snapshot(which).and_then(|()| volume.publish_all()))
    }

    fn remove(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()> {
        self.with(from, name, id, |volume| volume.remove_snapshot(which))
    }
}

/// What a round is doing.
#[derive(Clone, Debug)]
pub struct Progress {
    /// `None`: somebody else maintains the other store, and is waited for.
    pub volume: Option<VolumeName>,
    pub copied: Copied,
}

/// Is called now and then; an error ends the round.
pub type Told<'a> = &'a mut dyn FnMut(Progress) -> Result<()>;

/// A volume whose standby is up to date.
#[derive(Clone, Debug)]
pub struct Followed {
    pub name: VolumeName,
    /// How old the standby's content was at most, just before it was renewed:
    /// `None` the first time.
    pub behind: Option<Duration>,
    /// Snapshots that were published and removed there.
    pub published: u64,
    pub removed: u64,
    /// Nothing had changed.
    pub is_unchanged: bool,
}

/// What a round came to.
#[derive(Debug, Default)]
pub struct Report {
    pub copied: Copied,
    pub followed: Vec<Followed>,
    /// Volumes whose standbys are as they were.
    pub failed: Vec<(VolumeName, Error)>,
    /// Standbys of volumes that the source has no more: they stay.
    pub left: Vec<VolumeName>,
    /// Volumes of the source that are in another store, or standbys themselves.
    pub passed_over: Vec<VolumeName>,
}

impl Report {
    /// By how much the standbys were behind at most.
    pub fn behind(&self) -> Option<Duration> {
        self.followed.iter().filter_map(|one| one.behind).max()
    }
}

/// True for a snapshot that a sync has taken, for whichever store.
pub fn is_of_a_sync(name: &SnapshotName) -> bool {
    let digits = name.as_str().strip_prefix(SNAPSHOT_PREFIX);
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// When the state was taken that a standby has, and by which lease the source
/// would tell that it has changed since.
pub(super) struct Seen {
    pub taken: Instant,
    pub lease: Option<u64>,
}

/// Keeps standbys.
pub struct Syncer {
    pub(super) from: Store,
    pub(super) to: Store,
    pub(super) source: Destination,
    pub(super) options: SyncOptions,
    pub(super) seen: BTreeMap<Id, Seen>,
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Syncer({} to {})", self.from.name, self.to.name)
    }
}

/// What is needed while the other store is changed. Claimed by the first volume
/// that needs it: a round that finds nothing to do is in nobody's way.
pub(super) struct Work {
    pub right: Maintenance,
    pub copier: Copier,
}

impl Syncer {
    /// Error: `Invalid` if the stores are one.
    pub fn new(from: &Store, to: &Store, options: SyncOptions) -> Result<Syncer> {
        if from.id == to.id {
            let message = format!("stores '{}' and '{}' are the same one", from.name, to.name);
            return Err(Error::sentence(ErrorKind::Invalid, message));
        }
        let source = Destination { store: from.id, store_name: from.name.clone() };
        Ok(Syncer { from: from.clone(), to: to.clone(), source, options, seen: BTreeMap::new() })
    }

    /// True for a snapshot that was taken for this.
    pub(super) fn is_own(&self, name: &SnapshotName) -> bool {
        is_of_a_sync(name) && name.as_str().starts_with(&self.own_prefix())
    }

    fn own_prefix(&self) -> String {
        format!("{SNAPSHOT_PREFIX}{:016x}", self.to.id.0 as u64)
    }

    pub(super) fn new_snapshot_name(&self) -> Result<SnapshotName> {
        SnapshotName::new(&format!("{}{:016x}", self.own_prefix(), clock::random_id()?.0 as u64))
    }

    /// Brings all standbys up to date. What cannot be done for one volume does not
    /// keep the others. Errors: what ends it all; that of `told`.
    pub fn round(&mut self, hands: &mut dyn Hands, told: Told<'_>) -> Result<Report> {
        let (mut report, mut work) = (Report::default(), None);
        let done = self.volumes(&mut report, &mut work, hands, told);
        let given_back = match add(&mut report, work) {
            Some(right) => right.end(&self.to, &self.options.identity),
            None => Ok(()),
        };
        done.and(given_back).map(|()| report)
    }

    fn volumes(
        &mut self,
        report: &mut Report,
        work: &mut Option<Work>,
        hands: &mut dyn Hands,
        told: Told<'_>,
    ) -> Result<()> {
        let volumes = names::list(&self.from)?;
        for (name, id) in &volumes {
            if !self.is_here(*id)? {
                report.passed_over.push(name.clone());
                continue;
            }
            // What ends it all is told from what is wrong with one volume.
            let mut ended = None;
            let result = One::new(self, name, *id).follow(work, hands, &mut |progress| {
                told(progress).inspect_err(|error| ended = Some(error.duplicate()))
            });
            if let Some(error) = ended {
                return Err(error);
            }
            match result {
                Ok(followed) => report.followed.push(followed),
                Err(error) => {
                    if error.is(ErrorKind::Fenced) {
                        // Whoever maintains the store may have taken what was copied.
                        drop(add(report, work.take()));
                    }
                    report.failed.push((name.clone(), error));
                }
            }
        }
        let there: BTreeSet<Id> = volumes.into_iter().map(|(_, id)| id).collect();
        report.left = self.left(&there)?;
        Ok(())
    }

    fn is_here(&self, id: Id) -> Result<bool> {
        Ok(!matches!(
            lease::show(&self.from, id)?,
            LeaseState::Moved(_) | LeaseState::Arriving { .. } | LeaseState::Standby(_)
        ))
    }

    fn left(&self, there: &BTreeSet<Id>) -> Result<Vec<VolumeName>> {
        let mut left = Vec::new();
        for (name, id) in names::list(&self.to)? {
            let follows = |of: Destination| of.store == self.from.id;
            if !there.contains(&id) && standby::of(&self.to, id)?.is_some_and(follows) {
                left.push(name);
            }
        }
        Ok(left)
    }

    pub(super) fn work<'a>(&self, work: &'a mut Option<Work>, told: Told<'_>) -> Result<&'a mut Work> {
        let ready = match work.take() {
            Some(work) => work,
            None => {
                let right = self.claim(told)?;
                Work { right, copier: Copier::start(&self.from, &self.to, &self.options.copy)? }
            }
        };
        Ok(work.insert(ready))
    }

    /// The right to maintain the other store, which keeps its gc out.
    fn claim(&self, told: Told<'_>) -> Result<Maintenance> {
        let began = clock::now();
        loop {
            match maintenance::claim_next(&self.to, &self.options.identity) {
                Err(error) if error.is(ErrorKind::Busy) => {
                    if clock::now().saturating_duration_since(began) > self.options.patience {
                        return Err(error);
                    }
                }
                other => return other,
            }
            told(Progress { volume: None, copied: Copied::default() })?;
            clock::sleep(MAINTAINED_PAUSE);
        }
    }
}

/// Counts what was done, and hands back the right.
fn add(report: &mut Report, work: Option<Work>) -> Option<Maintenance> {
    work.map(|work| {
        report.copied = report.copied + work.copier.copied();
        work.right
    })
}

/// Makes a standby a volume that is written to, with the newest state that it was
/// given; the snapshots that were taken for that go. Errors: `Invalid` if it is no
/// standby; what opening says.
pub fn promote(store: &Store, name: &VolumeName, id: Id, open: &OpenOptions) -> Result<()> {
    if standby::of(store, id)?.is_none() {
        let message = format!("volume '{name}' in store '{}' is no standby", store.name);
        return Err(Error::sentence(ErrorKind::Invalid, message));
    }
    let lease = lease::Options { promotes: true, ..open.lease.clone() };
    // Its lease is not clean: it gets a head and an epoch of its own.
    let volume = Volume::open_id(store, name.as_str(), id, &OpenOptions { lease, ..open.clone() })?;
    let mut removed = Ok(());
    for listed in volume.snapshots()? {
        if is_of_a_sync(&listed.name) {
            removed = removed.and(volume.remove_snapshot(&listed.name));
        }
    }
    let closed = volume.close();
    removed.and(closed)
}
