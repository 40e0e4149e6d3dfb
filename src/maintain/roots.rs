//! The roots of a store: every head with its log, every snapshot, and the
//! epochs that were claimed lately.
//!
//! # Why nothing slips through although others go on working
//!
//! A root can vanish after another one took over what it reached: a snapshot
//! is cloned and removed, a cut is published and the head moves on, a volume
//! goes back to a snapshot. If the old root vanishes before it is looked at,
//! and the new one appears after its place was looked at, both are missed.
//! So roots only ever accumulate here, and a pass looks at the snapshots, then
//! at the heads with their logs, then at the snapshots again:
//!
//! * what moves once during a pass is seen in one of its two places;
//! * to escape a pass, content must go from a head into a new snapshot and on
//!   into the first head of a clone or of a rollback. Whoever makes that head
//!   claims its epoch after it has found the snapshot, so there is a new epoch
//!   at the end of the pass; then there is another pass.
//!
//! A head that vanishes while its log is read is replaced by reading that
//! volume again, in another pass: what its log held may be in a snapshot now.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::problem::{Failure, OnFailure};
use crate::backend::BackendExt;
use crate::catalog::epoch::{self, Epoch};
use crate::catalog::head::{self, Head};
use crate::catalog::snapshot::{self, Snapshot};
use crate::catalog::volume;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::replay::{replay, ReplayFrom};
use crate::log::Record;
use crate::name::{prefix, Id, ObjectName, SnapshotName, VolumeName};
use crate::store::{Store, GRANULE_BYTES};

/// Passes before the store is taken to be too busy.
const PASSES: usize = 64;

/// A log that is being written may look torn; it is read again this often.
const LOG_TRIES: usize = 5;

/// How often a volume is looked for before it is taken to have no head: a
/// listing may miss a head that is made while another one is deleted.
const HEADLESS_TRIES: usize = 3;

const OBJECT_BYTES_MAX: u64 = 64 << 10;

/// What a head's log names.
#[derive(Clone, Debug, Default)]
pub(super) struct LogRange {
    /// Epochs that begin in it.
    pub epochs: Vec<Id>,
    /// Own blocks, with the bytes that they are said to hold.
    pub blocks: BTreeMap<(Id, u64), u64>,
    /// Snapshots that are taken but not published.
    pub cuts: Vec<SnapshotName>,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct HeadRoot {
    pub head: Head,
    pub log: LogRange,
}

/// Snapshots may be removed and their names used again, so the id is a part.
pub(super) type SnapshotKey = (Id, SnapshotName, u64, Id);

#[derive(Debug, Default)]
pub(super) struct Roots {
    pub names: BTreeMap<VolumeName, Id>,
    pub heads: BTreeMap<(Id, u64), HeadRoot>,
    pub snapshots: BTreeMap<SnapshotKey, Snapshot>,
    /// All epochs that there are.
    pub epochs: BTreeMap<Id, Epoch>,
}

impl Roots {
    /// The head that counts.
    pub fn latest(&self, volume: Id) -> Option<&HeadRoot> {
        self.heads.range((volume, 0)..=(volume, u64::MAX)).next_back().map(|(_, root)| root)
    }

    /// The first segment that any head of a volume needs.
    pub fn log_start(&self, volume: Id) -> Option<u64> {
        self.heads.range((volume, 0)..=(volume, u64::MAX)).map(|(_, root)| root.head.log.segment).min()
    }

    /// The names of a volume; more than one after an interrupted rename.
    pub fn names_of(&self, volume: Id) -> impl Iterator<Item = &VolumeName> {
        self.names.iter().filter(move |(_, id)| **id == volume).map(|(name, _)| name)
    }

    /// True if a later number of the same snapshot is there.
    pub fn is_superseded(&self, key: &SnapshotKey) -> bool {
        let (volume, name, number, id) = key;
        self.snapshots.keys().any(|(v, n, other, i)| v == volume && n == name && i == id && other > number)
    }

    /// What people call a volume.
    pub fn name_of(&self, volume: Id) -> String {
        if let Some(name) = self.names_of(volume).next() {
            return name.to_string();
        }
        let hint = self.latest(volume).map(|root| root.head.name_hint.clone());
        let snapshot = || {
            let found = self.snapshots.values().find(|snapshot| snapshot.volume == volume);
            found.map(|snapshot| snapshot.volume_name_hint.clone())
        };
        hint.or_else(snapshot).map_or_else(|| volume.to_string(), |hint| format!("{hint} (removed)"))
    }
}

/// What became of reading a volume's heads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Settled,
    /// Something vanished: what it held may be elsewhere by now.
    Moved,
}

pub(super) struct Scanner<'a> {
    store: &'a Store,
    pub roots: Roots,
    /// Volumes that are known from something else than a head.
    known: BTreeSet<Id>,
    /// Volumes whose heads do not count: their removal is being finished.
    removed: BTreeSet<Id>,
    /// Objects that failed and have been reported.
    reported: HashSet<String>,
}

impl<'a> Scanner<'a> {
    pub fn new(store: &'a Store) -> Scanner<'a> {
        Scanner {
            store,
            roots: Roots::default(),
            known: BTreeSet::new(),
            removed: BTreeSet::new(),
            reported: HashSet::new(),
        }
    }

    /// Volumes that there may be.
    pub fn know(&mut self, volumes: impl IntoIterator<Item = Id>) {
        self.known.extend(volumes);
    }

    pub fn take_for_removed(&mut self, volumes: impl IntoIterator<Item = Id>) {
        self.removed.extend(volumes);
    }

    /// Adds all roots that there are now.
    pub fn scan(&mut self, failed: &mut OnFailure<'_>) -> Result<()> {
        for _ in 0..PASSES {
            let before = self.list_epochs()?;
            self.names(failed)?;
            self.snapshots(failed)?;
            let read = self.heads(failed)?;
            self.snapshots(failed)?;
            let after = self.list_epochs()?;
            self.read_epochs(&after, failed)?;
            if read == Read::Settled && after.is_subset(&before) {
                return Ok(());
            }
        }
        Err(Error::sentence(
            ErrorKind::Unavailable,
            format!("store '{}' changes too fast to be looked at: try again later", self.store.name),
        ))
    }

    fn list_epochs(&self) -> Result<BTreeSet<Id>> {
        let names = self.store.control().list_all(prefix::EPOCHS)?;
        let id = |name: ObjectName| match name {
            ObjectName::Epoch(id) => Some(id),
            _ => None,
        };
        Ok(names.into_iter().filter_map(id).collect())
    }

    fn read_epochs(&mut self, ids: &BTreeSet<Id>, failed: &mut OnFailure<'_>) -> Result<()> {
        for id in ids {
            if self.roots.epochs.contains_key(id) {
                continue;
            }
            match epoch::read(self.store, *id) {
                Ok(epoch) => drop(self.roots.epochs.insert(*id, epoch)),
                // Abandoned by whoever claimed it.
                Err(error) if error.is(ErrorKind::NotFound) => {}
                Err(error) => self.report(None, &ObjectName::Epoch(*id), error, failed)?,
            }
        }
        Ok(())
    }

    fn names(&mut self, failed: &mut OnFailure<'_>) -> Result<()> {
        let mut names = BTreeMap::new();
        for object in self.store.control().list_all(prefix::VOLUMES)? {
            let ObjectName::Volume(name) = &object else { continue };
            let data = match self.store.control().read_all(&object, OBJECT_BYTES_MAX) {
                Err(error) if error.is(ErrorKind::NotFound) => continue,
                other => other,
            };
            match data.and_then(|data| volume::decode(&object, &data)) {
                Ok((id, _)) => drop(names.insert(name.clone(), id)),
                Err(error) => self.report(Some(name.to_string()), &object, error, failed)?,
            }
        }
        self.known.extend(names.values().copied());
        self.roots.names = names;
        Ok(())
    }

    fn snapshots(&mut self, failed: &mut OnFailure<'_>) -> Result<()> {
        let mut gone = Vec::new();
        for object in self.store.control().list_all(prefix::SNAPSHOTS)? {
            let ObjectName::Snapshot { volume, name, number } = &object else { continue };
            let data = match self.store.control().read_all(&object, OBJECT_BYTES_MAX) {
                Err(error) if error.is(ErrorKind::NotFound) => {
                    gone.push(object);
                    continue;
                }
                other => other,
            };
            match data.and_then(|data| snapshot::decode(&object, &data)) {
                Ok(found) => {
                    let key = (*volume, name.clone(), *number, found.id);
                    self.roots.snapshots.insert(key, found);
                }
                Err(error) => {
                    let owner = format!("{}@{name}", self.roots.name_of(*volume));
                    self.report(Some(owner), &object, error, failed)?;
                }
            }
        }
        self.make_sure_of_removals(&gone)
    }

    /// A snapshot that is listed and cannot be found has been removed, unless
    /// it is listed again: then nothing is known of it, and what it needs must
    /// not be taken for garbage. Where listings lag, the marks are further
    /// apart than that.
    fn make_sure_of_removals(&self, gone: &[ObjectName]) -> Result<()> {
        if gone.is_empty() || self.store.control().capabilities().list_lag_s > 0 {
            return Ok(());
        }
        let there = self.store.control().list_all(prefix::SNAPSHOTS)?;
        match gone.iter().find(|name| there.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::Unavailable, "read")
                .on(name)
                .because("it is listed, and not there when it is read: try again later")),
        }
    }

    fn heads(&mut self, failed: &mut OnFailure<'_>) -> Result<Read> {
        let mut volumes: BTreeMap<Id, Vec<u64>> = BTreeMap::new();
        for name in self.store.control().list_all(prefix::HEADS)? {
            if let ObjectName::Head { volume, number } = name {
                volumes.entry(volume).or_default().push(number);
            }
        }
        for volume in self.known.clone() {
            if volumes.contains_key(&volume) {
                continue;
            }
            for _ in 0..HEADLESS_TRIES {
                let numbers = self.numbers(volume)?;
                if !numbers.is_empty() {
                    volumes.insert(volume, numbers);
                    break;
                }
            }
        }
        let mut all = Read::Settled;
        for (volume, numbers) in volumes {
            if !self.removed.contains(&volume) && self.volume(volume, numbers, failed)? == Read::Moved {
                all = Read::Moved;
            }
        }
        Ok(all)
    }

    fn numbers(&self, volume: Id) -> Result<Vec<u64>> {
        let names = self.store.control().list_all(&prefix::heads_of(volume))?;
        let number = |name: ObjectName| match name {
            ObjectName::Head { number, .. } => Some(number),
            _ => None,
        };
        Ok(names.into_iter().filter_map(number).collect())
    }

    /// Whether a head still counts; a listing alone may be too old to tell.
    fn is_last(&self, volume: Id, number: u64) -> Result<bool> {
        match head::latest(self.store, volume) {
            Ok(last) => Ok(last.number == number),
            Err(error) if is_of_content(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the heads of one volume, the highest first: only that one must
    /// be whole. What is known already is not read again: a log that grew
    /// names only epochs and blocks that are newer than the first reading.
    fn volume(&mut self, volume: Id, mut numbers: Vec<u64>, failed: &mut OnFailure<'_>) -> Result<Read> {
        let mut outcome = Read::Settled;
        for _ in 0..PASSES {
            numbers.sort_unstable();
            let highest = numbers.last().copied().unwrap_or(0);
            let mut vanished = false;
            for number in numbers.iter().rev() {
                if !self.roots.heads.contains_key(&(volume, *number)) {
                    vanished |= !self.head(volume, *number, *number == highest, failed)?;
                }
            }
            if !vanished {
                return Ok(outcome);
            }
            outcome = Read::Moved;
            numbers = self.numbers(volume)?;
        }
        Ok(outcome)
    }

    /// False if the head, or the log that it needs, vanished meanwhile.
    fn head(&mut self, volume: Id, number: u64, counts: bool, failed: &mut OnFailure<'_>) -> Result<bool> {
        let object = ObjectName::Head { volume, number };
        let data = match self.store.control().read_all(&object, OBJECT_BYTES_MAX) {
            Err(error) if error.is(ErrorKind::NotFound) => return Ok(false),
            other => other,
        };
        let head = match data.and_then(|data| head::decode(&object, &data)) {
            Ok(head) => head,
            Err(error) => {
                let owner = self.roots.name_of(volume);
                self.report(Some(owner), &object, error, failed)?;
                return Ok(true);
            }
        };
        let log = match self.read_log(&head) {
            Ok(log) => log,
            Err(error) if is_of_content(&error) && !self.is_last(volume, number)? => {
                if counts {
                    return Ok(false);
                }
                // A head that does not count any more: its log goes first.
                LogRange::default()
            }
            Err(error) => {
                let owner = self.roots.names_of(volume).next();
                let owner = owner.map_or(head.name_hint.clone(), ToString::to_string);
                self.report(Some(owner), &object, error, failed)?;
                LogRange::default()
            }
        };
        self.roots.heads.insert((volume, number), HeadRoot { head, log });
        Ok(true)
    }

    fn read_log(&self, head: &Head) -> Result<LogRange> {
        if fault::on(fault::Planted::GcForgetsLog) {
            return Ok(LogRange::default());
        }
        let mut tries = 0;
        loop {
            match self.read_log_once(head) {
                Err(error) if is_of_content(&error) && tries < LOG_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    fn read_log_once(&self, head: &Head) -> Result<LogRange> {
        let from = ReplayFrom { segment: head.log.segment, position: head.log.position, tail: head.log.tail };
        let granules = (head.block_bytes / GRANULE_BYTES) as u32;
        let mut range = LogRange::default();
        let replayed = replay(self.store.log(), head.volume, granules, from, &mut |found| {
            match found.record {
                Record::Own { epoch, block, presence, .. } => {
                    let bytes =
                        presence.map_or(head.block_bytes, |p| u64::from(p.count_ones()) * GRANULE_BYTES);
                    let there = range.blocks.entry((epoch, block)).or_default();
                    *there = bytes.max(*there);
                }
                Record::Cut { epoch, snapshot, .. } => {
                    range.epochs.push(epoch);
                    range.cuts.extend(snapshot.map(|snapshot| snapshot.name));
                }
                _ => {}
            }
            Ok(())
        })?;
        range.bytes = replayed.tail.saturating_sub(from.position);
        Ok(range)
    }

    fn report(
        &mut self,
        owner: Option<String>,
        object: &ObjectName,
        error: Error,
        failed: &mut OnFailure<'_>,
    ) -> Result<()> {
        let root = matches!(object, ObjectName::Head { .. } | ObjectName::Snapshot { .. });
        let root = root.then(|| object.clone());
        let object = error.object().map_or_else(|| object.to_string(), str::to_owned);
        if !self.reported.insert(object.clone()) {
            return Ok(());
        }
        failed(Failure { owner, error, object, root })
    }
}

/// True if an error says what an object holds, or that it is not there;
/// false if the store could not be asked.
pub(super) fn is_of_content(error: &Error) -> bool {
    error.is(ErrorKind::Corrupt) || error.is(ErrorKind::NotFound)
}
