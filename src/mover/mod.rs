//! Moves an open volume to another store, while it is read and written.
//!
//! 1. A snapshot is taken, and what it reaches is copied under the same names
//!    (`maintain::copy`), with the volume's other snapshots; what is written
//!    from there on is noted.
//! 2. In the other store the volume gets a head of its own, over that
//!    snapshot's map and with a new epoch, and is opened there. No name leads to
//!    it yet, and its copy of the snapshot keeps gc away from it.
//! 3. What was written is carried over, again and again, until little is left.
//!    If that does not become less, writes are slowed down.
//! 4. Requests wait while the last rest is carried over and made durable there.
//!    Then the lease here becomes `Moved`, which is the one moment at which the
//!    volume changes its place, and the requests go on in the other store.
//! 5. The name there is made, and what is left here is taken away.
//!
//! Whatever ends before 4 leaves the volume where it was, and what has been
//! copied is not copied again. Whoever is asked for the volume after 4 is led on
//! (`catalog::moved`), and does what is missing of 5.

use std::sync::Arc;
use std::time::{Duration, Instant};

mod carry;
mod target;

use crate::catalog::identity::Identity;
use crate::catalog::lease::Destination;
use crate::catalog::maintenance::{self, Maintenance};
use crate::catalog::{moved, snapshot, volume as names};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Following, Range};
use crate::maintain::copy::{Copied, Copier, CopyOptions};
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::Store;
use crate::volume::Volume;

use carry::Carriers;
use target::{Fate, Target};

/// What the snapshots of a move are called, and sixteen digits behind it.
const SNAPSHOT_PREFIX: &str = "archipelago-move-";

/// With no more left than this, requests wait for the rest.
const REST_BYTES: u64 = 256 << 10;
/// After so many rounds that leave more than half of what they began with,
/// writes are slowed down.
const ROUNDS_IN_VAIN: u32 = 2;
/// How often the last step is tried: snapshots may be taken meanwhile.
const CUT_OVER_TRIES: u32 = 8;
/// Between two looks whether somebody else has done maintaining the store.
const MAINTAINED_PAUSE: Duration = Duration::from_millis(500);

/// How a volume is moved.
#[derive(Clone, Debug)]
pub struct MoveOptions {
    pub copy: CopyOptions,
    pub identity: Identity,
    /// How long somebody else who maintains the other store is waited for.
    pub patience: Duration,
}

impl Default for MoveOptions {
    fn default() -> MoveOptions {
        MoveOptions {
            copy: CopyOptions::default(),
            identity: Identity::of_this_process(),
            patience: Duration::from_secs(600),
        }
    }
}

/// What a move is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Somebody else maintains the other store.
    Waiting,
    Copying,
    /// What was written meanwhile is carried over.
    Following,
    /// The volume is in the other store; what is left is taken away.
    Ending,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub copied: Copied,
    /// Written here and not carried over yet.
    pub written_bytes: u64,
    /// Carried over after it had been copied.
    pub carried_bytes: u64,
    /// Writes are slowed down.
    pub is_slowed_down: bool,
    /// What the volume takes, about.
    pub volume_bytes: u64,
}

impl Progress {
    /// All that has been and will be copied, as far as that is known.
    pub fn total_bytes(&self) -> u64 {
        self.volume_bytes.max(self.copied.bytes) + self.carried_bytes + self.written_bytes
    }
}

/// Is called now and then; an error ends the move, and the volume stays.
pub type Told<'a> = &'a mut dyn FnMut(Progress) -> Result<()>;

/// What a move came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub copied: Copied,
    pub carried_bytes: u64,
    pub was_slowed_down: bool,
    /// How long requests waited in the end.
    pub stall: Duration,
    /// What could not be done after the volume had moved; it is done when it
    /// is next opened.
    pub left_to_do: Option<String>,
}

impl Report {
    /// What has become of the volume, in words.
    pub fn text(&self, store_name: &str) -> String {
        let Copied { blocks, bytes, blocks_there, .. } = self.copied;
        let mut text = format!(
            "is in store '{store_name}' now: {blocks} blocks copied ({bytes} bytes), \
             {blocks_there} were there, {} bytes carried over; requests waited {} ms",
            self.carried_bytes,
            self.stall.as_millis()
        );
        if self.was_slowed_down {
            text.push_str("; writes were slowed down");
        }
        if let Some(left) = &self.left_to_do {
            text.push_str(&format!("; to be done when it is next opened: {left}"));
        }
        text
    }
}

/// True for a snapshot that a move has taken.
pub fn is_of_a_move(name: &SnapshotName) -> bool {
    let digits = name.as_str().strip_prefix(SNAPSHOT_PREFIX);
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

struct Mover<'a> {
    following: &'a Following,
    from: Store,
    to: &'a Store,
    id: Id,
    name: VolumeName,
    options: &'a MoveOptions,
    carriers: Carriers,
    copied: Copied,
    carried_bytes: u64,
    was_slowed_down: bool,
    volume_bytes: u64,
}

/// What can be seen beforehand to be impossible. Errors: as of `run`.
pub fn check(following: &Following, to: &Store) -> Result<()> {
    let volume = following.volume();
    let name = names::name_of(&volume.store, &following.options().volume, volume.id)?;
    let refuse = |text: String| Err(Error::sentence(ErrorKind::Invalid, text));
    if to.id == volume.store.id {
        return refuse(format!("volume '{name}' is in store '{}' already", to.name));
    }
    let bytes_max = to.blocks().capabilities().object_bytes_max;
    if volume.block_bytes > bytes_max {
        return refuse(format!(
            "store '{}' takes blocks of at most {bytes_max} bytes, and those of volume '{name}' have {}",
            to.name, volume.block_bytes
        ));
    }
    match names::lookup(to, &name) {
        Ok(id) if id != volume.id => Err(Error::sentence(
            ErrorKind::Exists,
            format!("store '{}' has another volume '{name}': rename one of them", to.name),
        )),
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

/// Moves a volume to `to`. Errors: `Invalid` if it is there, or cannot be;
/// `Exists` if another volume has its name there; `Busy`; what the stores say.
/// Then it is where it was.
pub fn run(following: &Following, to: &Store, options: &MoveOptions, told: Told<'_>) -> Result<Report> {
    check(following, to)?;
    let volume = following.volume();
    let name = names::name_of(&volume.store, &following.options().volume, volume.id)?;
    let mut mover = Mover {
        following,
        from: volume.store.clone(),
        to,
        id: volume.id,
        name,
        options,
        carriers: Carriers::start()?,
        copied: Copied::default(),
        carried_bytes: 0,
        was_slowed_down: false,
        volume_bytes: volume.usage().map_or(0, |usage| usage.own_bytes + usage.shared_bytes),
    };
    drop(volume);
    let changes = following.snapshot_changes();
    let mut target = mover.make_target(told)?;
    let stall = mover.follow(&mut target, changes, told)?;
    let mut now = mover.progress(Phase::Ending);
    now.written_bytes = 0;
    // Nothing can end it any more.
    let _ended = told(now);
    let left_to_do = mover.tidy_up(&target).err().map(|error| error.full());
    if let Some(what) = &left_to_do {
        log::warn!("volume '{}' has moved to store '{}', but: {what}", mover.name, to.name);
    }
    let Mover { copied, carried_bytes, was_slowed_down, .. } = mover;
    Ok(Report { copied, carried_bytes, was_slowed_down, stall, left_to_do })
}

impl Mover<'_> {
    fn progress(&self, phase: Phase) -> Progress {
        Progress {
            phase,
            copied: self.copied,
            written_bytes: self.following.written_bytes(),
            carried_bytes: self.carried_bytes,
            is_slowed_down: self.following.is_slowed_down(),
            volume_bytes: self.volume_bytes,
        }
    }

    fn tell(&self, phase: Phase, told: Told<'_>) -> Result<()> {
        self.following.check_wanted()?;
        told(self.progress(phase))
    }

    /// The right to maintain the other store, which keeps its gc out.
    fn claim(&self, told: Told<'_>) -> Result<Maintenance> {
        let began = clock::now();
        loop {
            match maintenance::claim_next(self.to, &self.options.identity) {
                Err(error) if error.is(ErrorKind::Busy) => {
                    if clock::now().saturating_duration_since(began) > self.options.patience {
                        return Err(error);
                    }
                }
                other => return other,
            }
            self.tell(Phase::Waiting, told)?;
            clock::sleep(MAINTAINED_PAUSE);
        }
    }

    /// Steps 1 and 2.
    fn make_target(&mut self, told: Told<'_>) -> Result<Target> {
        let volume = self.following.volume();
        for old in volume.snapshots()?.iter().filter(|listed| is_of_a_move(&listed.name)) {
            volume.remove_snapshot(&old.name)?;
        }
        let taken = self.new_snapshot_name()?;
        let right = self.claim(told)?;
        // All that was written up to here is in it, and all else is noted.
        drop(self.following.take());
        let snapshot = self.following.snapshot(&taken);
        let copied = snapshot.and_then(|()| self.copy_all(&taken, told));
        let made = copied.and_then(|root| Target::make(self, &root));
        if made.is_err() {
            // Nobody needs what was copied of it.
            let _gone = snapshot::remove(self.to, self.id, &taken);
        }
        // The snapshot here has done its part, whatever came of it.
        let removed = volume.remove_snapshot(&taken);
        let ended = right.end(self.to, &self.options.identity);
        let target = made?;
        removed.and(ended)?;
        Ok(target)
    }

    fn new_snapshot_name(&self) -> Result<SnapshotName> {
        SnapshotName::new(&format!("{SNAPSHOT_PREFIX}{:016x}", clock::random_id()?.0 as u64))
    }

    /// Copies the snapshots, with the one that was taken for this.
    fn copy_all(&mut self, taken: &SnapshotName, told: Told<'_>) -> Result<snapshot::Snapshot> {
        self.copy_snapshots(Some(taken), told)?;
        let there = snapshot::find(&self.from, self.id, taken)?;
        for old in snapshot::list(self.to, self.id)? {
            if is_of_a_move(&old.name) && old.name != *taken {
                snapshot::remove(self.to, self.id, &old.name)?;
            }
        }
        Ok(there)
    }

    /// Makes the snapshots there those that are here. For whoever has the
    /// right to maintain the other store.
    fn copy_snapshots(&mut self, taken: Option<&SnapshotName>, told: Told<'_>) -> Result<()> {
        let guest = Arc::new(self.following.guest());
        let mut copier = Copier::start_beside(&self.from, self.to, &self.options.copy, guest)?;
        let before = self.copied;
        let here = snapshot::list(&self.from, self.id)?;
        for one in here.iter().filter(|one| !is_of_a_move(&one.name) || Some(&one.name) == taken) {
            let copied = copier.snapshot(one, &mut |copied| {
                self.copied = before + copied;
                self.tell(Phase::Copying, told)
            });
            match copied.and_then(|()| target::publish(self.to, one)) {
                // It was removed meanwhile, perhaps with its blocks.
                Err(error) if self.has_gone(one)? => {
                    log::debug!("snapshot '{}' was removed while it was copied: {error}", one.name);
                }
                other => other?,
            }
        }
        for there in snapshot::list(self.to, self.id)? {
            let is_here = |one: &&snapshot::Snapshot| one.id == there.id;
            if !is_of_a_move(&there.name) && here.iter().find(is_here).is_none() {
                snapshot::remove(self.to, self.id, &there.name)?;
            }
        }
        Ok(())
    }

    fn has_gone(&self, one: &snapshot::Snapshot) -> Result<bool> {
        match snapshot::find(&self.from, self.id, &one.name) {
            Ok(there) => Ok(there.id != one.id),
            Err(error) if error.is(ErrorKind::NotFound) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Steps 3 and 4. Returns how long requests waited.
    fn follow(&mut self, target: &mut Target, mut changes: u64, told: Told<'_>) -> Result<Duration> {
        let mut tries = 0;
        loop {
            // The number first: what changes from here on changes it again. What was
            // taken up to here is listed only when it is published.
            let now = self.following.snapshot_changes();
            if now != changes {
                // Nobody lets writes go on while nothing is carried over.
                self.following.speed_up();
                self.following.volume().publish_all()?;
                let right = self.claim(told)?;
                let copied = self.copy_snapshots(None, told);
                right.end(self.to, &self.options.identity)?;
                copied?;
                changes = now;
            }
            self.catch_up(target, told)?;
            match self.cut_over(target, changes) {
                Err(error) if error.is(ErrorKind::Busy) && tries < CUT_OVER_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// Carries over what was written until little is left.
    fn catch_up(&mut self, target: &Target, told: Told<'_>) -> Result<()> {
        let from = self.following.volume();
        let mut in_vain = 0;
        loop {
            let before = self.following.written_bytes();
            let ranges = self.following.take();
            self.carry(&from, target, &ranges, told)?;
            target.volume.flush()?;
            let left = self.following.written_bytes();
            if left <= REST_BYTES {
                return Ok(());
            }
            in_vain += u32::from(left > before / 2);
            if in_vain >= ROUNDS_IN_VAIN && !self.following.is_slowed_down() {
                log::info!(
                    "volume '{}' is written faster than it is moved: its writes are slowed down",
                    self.name
                );
                self.was_slowed_down = true;
                self.following.slow_down();
            }
        }
    }

    fn carry(&mut self, from: &Arc<Volume>, target: &Target, ranges: &[Range], told: Told<'_>) -> Result<()> {
        // All ranges lie before the end as it is now; what lies beyond the other
        // one's would be passed over.
        let size_bytes = from.size_bytes();
        if target.volume.size_bytes() < size_bytes {
            let grown = target.volume.resize(size_bytes, false);
            grown.inspect_err(|_| self.following.put_back(ranges))?;
        }
        let (following, before) = (self.following, self.carried_bytes);
        let mut bytes = 0;
        let mut now = self.progress(Phase::Following);
        let carried = self.carriers.carry(from, &target.volume, ranges, &mut |more| {
            bytes += more;
            // Less than is carried, so that it comes to an end.
            following.allow(more / 2);
            following.check_wanted()?;
            now.carried_bytes = before + bytes;
            now.written_bytes = following.written_bytes();
            told(now)
        });
        self.carried_bytes += bytes;
        carried.inspect_err(|_| following.put_back(ranges))
    }

    /// Step 4. Error: `Busy` if snapshots have changed meanwhile.
    fn cut_over(&mut self, target: &mut Target, changes: u64) -> Result<Duration> {
        target.stop_threads();
        let began = clock::now();
        let cut = self.following.cut_over(|from, ranges| {
            let is_pending = !from.pending_snapshots().is_empty();
            if is_pending || self.following.snapshot_changes() != changes {
                return Err(Error::sentence(ErrorKind::Busy, "its snapshots have changed"));
            }
            let to = &target.volume;
            if to.size_bytes() != from.size_bytes() {
                to.resize(from.size_bytes(), true)?;
            }
            self.carriers.carry(from, to, ranges, &mut |_| Ok(()))?;
            to.flush()?;
            let to_store = Destination { store: self.to.id, store_name: self.to.name.clone() };
            target.fate = Fate::NotKnown;
            if let Err(error) = from.move_away(&to_store) {
                if from.check_alive().is_ok() {
                    target.fate = Fate::NotMoved;
                }
                return Err(error);
            }
            Ok(Arc::clone(to))
        });
        let stall = since(began);
        match cut {
            Ok(old) => {
                target.fate = Fate::Moved;
                // What is left to do takes as long as work on the old one goes on.
                self.following.speed_up();
                if let Err(error) = target.volume.settle_in() {
                    log::warn!("the lease of '{}' in '{}': {}", self.name, self.to.name, error.full());
                }
                old.outwait_work();
                log::info!(
                    "volume '{}' has moved from store '{}' to store '{}'; requests waited {} ms",
                    self.name,
                    self.from.name,
                    self.to.name,
                    stall.as_millis()
                );
                Ok(stall)
            }
            Err(error) if target.fate == Fate::NotKnown => Err(error),
            Err(error) => {
                target.start_threads()?;
                Err(error)
            }
        }
    }

    /// Step 5.
    fn tidy_up(&self, target: &Target) -> Result<()> {
        let named = names::list(&self.from)?.into_iter().filter(|(_, id)| *id == self.id);
        for (name, _) in named {
            names::arrive(self.to, &name, self.id)?;
        }
        for left in target.volume.snapshots()?.iter().filter(|listed| is_of_a_move(&listed.name)) {
            target.volume.remove_snapshot(&left.name)?;
        }
        moved::finish(&self.from, self.id)
    }
}

fn since(began: Instant) -> Duration {
    clock::now().saturating_duration_since(began)
}
