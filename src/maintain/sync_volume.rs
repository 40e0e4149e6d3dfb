//! One volume of a sync, in one round.

use std::time::{Duration, Instant};

use super::copy::Copier;
use super::sync::{is_of_a_sync, Followed, Hands, Progress, Seen, Syncer, Told, Work};
use crate::catalog::head::{self, Head, LogStart};
use crate::catalog::lease::{self, LeaseState};
use crate::catalog::snapshot::{self, Snapshot};
use crate::catalog::{standby, volume as names};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Root;
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::Store;
use crate::volume::find_snapshot;

/// What the snapshots of a move are called (`mover`).
const MOVE_PREFIX: &str = "archipelago-move-";

pub(super) struct One<'a> {
    syncer: &'a mut Syncer,
    name: &'a VolumeName,
    id: Id,
}

/// What the source has of a volume that its standby is to have.
struct Source {
    head: Head,
    /// Oldest first.
    snapshots: Vec<Snapshot>,
    /// The state that the standby is to have.
    newest: Snapshot,
}

impl<'a> One<'a> {
    pub fn new(syncer: &'a mut Syncer, name: &'a VolumeName, id: Id) -> One<'a> {
        One { syncer, name, id }
    }

    pub fn follow(
        mut self,
        work: &mut Option<Work>,
        hands: &mut dyn Hands,
        told: Told<'_>,
    ) -> Result<Followed> {
        let mut followed = Followed {
            name: self.name.clone(),
            behind: None,
            published: 0,
            removed: 0,
            is_unchanged: true,
        };
        let lease = self.idle_since()?;
        let looked = clock::now();
        if lease.is_some() && self.seen().is_some_and(|seen| seen.lease == lease) && self.is_kept()? {
            // It is what it was until now.
            followed.behind = Some(Duration::ZERO);
            self.syncer.seen.insert(self.id, Seen { taken: looked, lease });
            return Ok(followed);
        }
        followed.is_unchanged = false;
        self.check_name()?;
        let taken = clock::now();
        let wanted = self.syncer.new_snapshot_name()?;
        let result = hands.snapshot(&self.syncer.from, self.name, self.id, &wanted).and_then(|()| {
            find_snapshot(&self.syncer.from, self.name, self.id, &wanted)
        });
        // Whoever holds it cannot be asked: what there is of it is brought.
        let missed = result.err();
        let brought = self.bring(&wanted, work, &mut followed, told);
        match (missed, brought) {
            (Some(missed), Ok(())) => return Err(missed),
            (_, brought) => brought?,
        }
        followed.behind = self.seen().map(|seen| since(seen.taken));
        self.remove_older(hands, &wanted)?;
        let lease = self.idle_since()?;
        self.syncer.seen.insert(self.id, Seen { taken, lease });
        Ok(followed)
    }

    fn seen(&self) -> Option<&Seen> {
        self.syncer.seen.get(&self.id)
    }

    /// The standby is there, as it was left.
    fn is_kept(&self) -> Result<bool> {
        let of = standby::of(&self.syncer.to, self.id)?;
        Ok(of.is_some_and(|of| of.store == self.syncer.from.id) && self.is_named_there()?)
    }

    /// The number of the last lease, if nobody has the volume: it is the same one
    /// as long as nobody opens it for writing.
    fn idle_since(&self) -> Result<Option<u64>> {
        match lease::show(&self.syncer.from, self.id)? {
            LeaseState::Free { clean: true } => lease::last_number(&self.syncer.from, self.id),
            _ => Ok(None),
        }
    }

    fn is_named_there(&self) -> Result<bool> {
        match names::lookup(&self.syncer.to, self.name) {
            Ok(id) => Ok(id == self.id),
            Err(error) if error.is(ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Error: `Exists` if another volume has the name there.
    fn check_name(&self) -> Result<()> {
        match names::lookup(&self.syncer.to, self.name) {
            Ok(id) if id != self.id => Err(Error::sentence(
                ErrorKind::Exists,
                format!(
                    "store '{}' has another volume '{}': rename one of them",
                    self.syncer.to.name, self.name
                ),
            )),
            Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
            _ => Ok(()),
        }
    }

    /// Error: `Invalid` if blocks are too large there.
    fn check_size(&self, block_bytes: u64) -> Result<()> {
        let to = &self.syncer.to;
        let bytes_max = to.blocks().capabilities().object_bytes_max;
        if block_bytes <= bytes_max {
            return Ok(());
        }
        let text = format!(
            "store '{}' takes blocks of at most {bytes_max} bytes, those of volume '{}' have {block_bytes}",
            to.name, self.name
        );
        Err(Error::sentence(ErrorKind::Invalid, text))
    }

    /// What is to be there: the snapshots of people, and the last that was taken
    /// for this store. One that is pending comes with the next round.
    fn source(&self, taken: &SnapshotName) -> Result<Option<Source>> {
        let from = &self.syncer.from;
        let head = head::latest(from, self.id)?;
        let mut snapshots = snapshot::list(from, self.id)?;
        snapshots.retain(|one| one.position <= head.log.position);
        let own = |one: &Snapshot| self.syncer.is_own(&one.name);
        let last = snapshots.iter().rev().find(|one| own(one)).map(|one| one.id);
        let is_passing = |one: &Snapshot| {
            is_of_a_sync(&one.name) || one.name.as_str().starts_with(MOVE_PREFIX)
        };
        snapshots.retain(|one| !is_passing(one) || Some(one.id) == last);
        let newest = snapshots.iter().find(|one| one.name == *taken).or(snapshots.last()).cloned();
        Ok(newest.map(|newest| Source { head, snapshots, newest }))
    }

    fn bring(
        &mut self,
        taken: &SnapshotName,
        work: &mut Option<Work>,
        followed: &mut Followed,
        told: Told<'_>,
    ) -> Result<()> {
        let Some(mut source) = self.source(taken)? else { return Ok(()) };
        self.check_size(source.head.block_bytes)?;
        let work = self.syncer.work(work, told)?;
        let Syncer { to, source: store, options, .. } = &*self.syncer;
        let like = Head { name_hint: self.name.to_string(), ..source.head.clone() };
        standby::establish(to, store, &like, &options.identity)?;
        // Before it is seen that this is a standby still (`standby`).
        let before = head::latest(to, self.id)?;
        let there = snapshot::list(to, self.id)?;
        let new = self.copy_new(&mut source, &before, &there, &mut work.copier, told)?;
        work.right.confirm(to)?;
        let is_wanted = |there: &Snapshot| source.snapshots.iter().any(|one| one.id == there.id);
        let is_for_good = |one: &Snapshot| one.position <= before.log.position;
        // What has a name that is needed, and what nobody has verified.
        let (old, in_the_way): (Vec<_>, Vec<_>) = there
            .iter()
            .filter(|one| !is_wanted(one))
            .partition(|old| is_for_good(old) && new.iter().all(|one| one.name != old.name));
        self.remove_from_there(&in_the_way, followed)?;
        for one in &new {
            snapshot::publish(to, one)?;
            followed.published += 1;
        }
        if let Err(error) = work.right.confirm(to) {
            // A gc may have taken what they need before they were there.
            new.iter().for_each(|one| drop(snapshot::remove(to, self.id, &one.name)));
            return Err(error);
        }
        self.renew(&before, &source.newest, like, !new.is_empty())?;
        self.name_it()?;
        self.remove_from_there(&old, followed)
    }

    /// Copies the snapshots that the standby lacks, or that nobody has verified:
    /// as they are to be published.
    fn copy_new(
        &self,
        source: &mut Source,
        before: &Head,
        there: &[Snapshot],
        copier: &mut Copier,
        told: Told<'_>,
    ) -> Result<Vec<Snapshot>> {
        let position = before.log.position + 1;
        let is_there = |one: &Snapshot| there.iter().any(|old| old.id == one.id && old.position < position);
        let mut known = known_root(before).or(self.root_of_parent(&source.head)?);
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for one in source.snapshots.iter().filter(|one| !is_there(one)) {
            match copy(copier, self.name, one, known, told) {
                Ok(()) => {
                    known = Some(one.root);
                    new.push(Snapshot { number: snapshot::FIRST, position, ..one.clone() });
                }
                Err(error) if has_gone(&self.syncer.from, one)? => {
                    log::debug!("snapshot '{}' was removed while it was copied: {error}", one.name);
                    gone.push(one.id);
                }
                Err(error) => return Err(error),
            }
        }
        source.snapshots.retain(|one| !gone.contains(&one.id));
        if gone.contains(&source.newest.id) {
            let text = format!("the snapshot of volume '{}' that was just taken was removed", self.name);
            return Err(Error::sentence(ErrorKind::Unavailable, text));
        }
        Ok(new)
    }

    /// Puts a head over the newest snapshot. What was published is there for good
    /// from here on.
    fn renew(&self, before: &Head, newest: &Snapshot, like: Head, has_new: bool) -> Result<()> {
        let is_same = before.root == newest.root && before.size_bytes == newest.size_bytes;
        if is_same && !has_new {
            return Ok(());
        }
        let position = before.log.position + 1;
        let head = Head {
            number: before.number + 1,
            size_bytes: newest.size_bytes,
            block_bytes: newest.block_bytes,
            root: newest.root,
            epoch: before.epoch,
            log: LogStart { position, tail: position, ..before.log },
            written: true,
            ..like
        };
        let Syncer { to, source, .. } = &*self.syncer;
        standby::advance(to, source, &head)?;
        head::remove_below(to, self.id, head.number)
    }

    /// For the first snapshot of a clone: what it began with, if that is there.
    fn root_of_parent(&self, head: &Head) -> Result<Option<Root>> {
        let Some(parent) = &head.parent else { return Ok(None) };
        let to = &self.syncer.to;
        let there = match snapshot::find(to, parent.volume, &parent.snapshot) {
            Ok(there) if there.id == parent.snapshot_id => there,
            Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
            _ => return Ok(None),
        };
        Ok(snapshot::is_for_good(to, &there)?.then_some(there.root))
    }

    /// The name that it has in the source, and no other.
    fn name_it(&self) -> Result<()> {
        let to = &self.syncer.to;
        if self.is_named_there()? {
            return Ok(());
        }
        match names::list(to)?.into_iter().find(|(_, id)| *id == self.id) {
            Some((old, _)) => names::rename(to, &old, self.name),
            None => names::arrive(to, self.name, self.id),
        }
    }

    /// `old` was there while this was a standby.
    fn remove_from_there(&self, old: &[&Snapshot], followed: &mut Followed) -> Result<()> {
        let to = &self.syncer.to;
        for old in old {
            match snapshot::find(to, self.id, &old.name) {
                Ok(there) if there.id == old.id => snapshot::remove(to, self.id, &old.name)?,
                Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
                _ => continue,
            }
            followed.removed += 1;
        }
        Ok(())
    }

    /// The snapshots of the rounds before.
    fn remove_older(&mut self, hands: &mut dyn Hands, taken: &SnapshotName) -> Result<()> {
        for old in snapshot::list(&self.syncer.from, self.id)? {
            if self.syncer.is_own(&old.name) && old.name != *taken {
                hands.remove(&self.syncer.from, self.name, self.id, &old.name)?;
            }
        }
        Ok(())
    }
}

fn copy(
    copier: &mut Copier,
    name: &VolumeName,
    one: &Snapshot,
    known: Option<Root>,
    told: Told<'_>,
) -> Result<()> {
    copier.map_beside(one.root, known, one.block_bytes, &mut |copied| {
        told(Progress { volume: Some(name.clone()), copied })
    })
}

/// All that a standby's head reaches is there.
fn known_root(head: &Head) -> Option<Root> {
    (head.root != Root::ZERO).then_some(head.root)
}

fn has_gone(from: &Store, one: &Snapshot) -> Result<bool> {
    match snapshot::find(from, one.volume, &one.name) {
        Ok(there) => Ok(there.id != one.id),
        Err(error) if error.is(ErrorKind::NotFound) => Ok(true),
        Err(error) => Err(error),
    }
}

fn since(began: Instant) -> Duration {
    clock::now().saturating_duration_since(began)
}
