//! Plays a history on an interface and on the model, and compares.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;

use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use archipelago::catalog::volume as names;

use super::content::{pattern, Content};
use super::driver::{Answer, Ask, Disk, Driver, Facts, How, Outcome, Pending, Refusal};
use super::operation::{Data, Op, Pick, Place, LIKELY, NAMES, SNAPSHOTS};
use super::world::{assert_sound, gc, name, BLOCK};

/// Disks that are open at once, at most.
const DISKS_MAX: usize = 7;

pub type Played = Result<(), TestCaseError>;

/// Operations by kind: done, and refused as they should be.
pub type Counts = RefCell<BTreeMap<&'static str, (u64, u64)>>;

/// A volume, under whatever name.
pub struct Volume {
    pub content: Content,
    pub is_clone: bool,
    /// Of all there ever were, oldest first.
    pub snapshots: Vec<Taken>,
    pub removed: bool,
    /// Grows whenever somebody may write: what was read before is old.
    pub turn: u64,
}

#[derive(Clone)]
pub struct Taken {
    pub name: Name,
    pub content: Content,
    pub removed: bool,
}

pub type Name = &'static str;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Volume {
        how: How,
        becomes: How,
    },
    /// Which of the volume's snapshots.
    Snapshot(usize),
}

pub struct Open {
    pub disk: Box<dyn Disk>,
    pub volume: usize,
    pub kind: Kind,
    /// The volume's turn when its state was read.
    pub turn: u64,
}

impl Open {
    pub fn how(&self) -> How {
        match self.kind {
            Kind::Volume { how, .. } => how,
            Kind::Snapshot(_) => How::ReadOnly,
        }
    }

    pub fn is_lease(&self, wanted: How) -> bool {
        matches!(self.kind, Kind::Volume { how, .. } if how == wanted)
    }
}

pub struct World<'a> {
    pub driver: &'a dyn Driver,
    pub counts: &'a Counts,
    pub names: BTreeMap<Name, usize>,
    pub volumes: Vec<Volume>,
    pub disks: Vec<Open>,
    tag: u64,
    /// Where something was written last.
    last: (u64, u64),
}

/// Compares what came back with what may: `Ok` if nothing is to be refused.
pub fn compare<T: std::fmt::Debug>(got: &Outcome<T>, refusals: &[Refusal]) -> Played {
    match got {
        Ok(value) => {
            prop_assert!(refusals.is_empty(), "{value:?}, but it was to be refused as {refusals:?}");
        }
        Err(refusal) => prop_assert!(refusals.contains(refusal), "{refusal:?}, expected {refusals:?}"),
    }
    Ok(())
}

/// The reasons that hold.
pub fn reasons(all: &[(bool, Refusal)]) -> Vec<Refusal> {
    all.iter().filter(|(holds, _)| *holds).map(|(_, refusal)| refusal.clone()).collect()
}

impl<'a> World<'a> {
    pub fn new(driver: &'a dyn Driver, counts: &'a Counts) -> World<'a> {
        let (names, volumes, disks) = (BTreeMap::new(), Vec::new(), Vec::new());
        World { driver, counts, names, volumes, disks, tag: 0, last: (0, BLOCK) }
    }

    pub fn play(mut self, history: &[Op]) -> Played {
        for (number, op) in history.iter().enumerate() {
            let at = |error: TestCaseError| match error {
                TestCaseError::Fail(why) => TestCaseError::fail(format!("operation {number}, {op:?}: {why}")),
                other => other,
            };
            self.step(op).map_err(at)?;
        }
        self.end()
    }

    pub fn count(&self, kind: &'static str, refused: bool) {
        let mut counts = self.counts.borrow_mut();
        let (done, not) = counts.entry(kind).or_default();
        *(if refused { not } else { done }) += 1;
    }

    /// Notes and compares an outcome; true: it was done.
    pub fn settle<T: std::fmt::Debug>(
        &self,
        kind: &'static str,
        got: &Outcome<T>,
        refusals: &[Refusal],
    ) -> Result<bool, TestCaseError> {
        compare(got, refusals)?;
        self.count(kind, got.is_err());
        Ok(got.is_ok())
    }

    pub fn pick(&self, pick: Pick) -> Option<usize> {
        let all: Vec<usize> = (0..self.disks.len()).collect();
        let writable = all.iter().copied().filter(|at| self.disks[*at].is_lease(How::Writable));
        one_of(pick, writable.collect(), &all)
    }

    /// What a disk must hold; `None` if it shows something that is no more,
    /// or old: nothing is promised then.
    pub fn content_of(&self, disk: usize) -> Option<&Content> {
        let open = &self.disks[disk];
        let volume = &self.volumes[open.volume];
        match open.kind {
            Kind::Volume { .. } => (!volume.removed && open.turn == volume.turn).then_some(&volume.content),
            Kind::Snapshot(which) => {
                let taken = &volume.snapshots[which];
                (!taken.removed && !volume.removed).then_some(&taken.content)
            }
        }
    }

    /// True if another disk has the volume open so.
    pub fn is_held(&self, volume: usize, how: How, except: Option<usize>) -> bool {
        let mut others = self.disks.iter().enumerate().filter(|(at, _)| Some(*at) != except);
        others.any(|(_, open)| open.volume == volume && open.is_lease(how))
    }

    pub fn find_taken(&self, volume: usize, name: &str) -> Option<usize> {
        self.volumes[volume].snapshots.iter().position(|taken| !taken.removed && taken.name == name)
    }

    fn step(&mut self, op: &Op) -> Played {
        match op {
            Op::Data { disk, data, place } => self.together(&[(*disk, *data, *place)], op.kind()),
            Op::Together { requests, work } => {
                let working = work.and_then(|which| self.begin_work(requests.first()?.0, which));
                self.together(requests, op.kind())?;
                match working.map(JoinHandle::join) {
                    Some(worked) => compare(&worked.unwrap(), &[]),
                    None => Ok(()),
                }
            }
            Op::Status { disk, place } => self.status(*disk, place),
            Op::Verify { disk } => match self.pick(*disk) {
                Some(disk) => {
                    self.count(op.kind(), false);
                    self.verify(disk)
                }
                None => Ok(()),
            },
            Op::Gc => {
                gc(self.driver.store());
                self.count(op.kind(), false);
                Ok(())
            }
            Op::Check => {
                assert_sound(self.driver.store(), "check");
                self.count(op.kind(), false);
                Ok(())
            }
            Op::Volumes => self.list_volumes(),
            _ => self.change(op),
        }
    }

    fn begin_work(&self, pick: Pick, which: u8) -> Option<JoinHandle<Outcome<()>>> {
        let disk = &self.disks[self.pick(pick)?];
        if !disk.is_lease(How::Writable) {
            return None;
        }
        let working = disk.disk.begin_work(which)?;
        self.count("work in flight", false);
        Some(working)
    }

    fn list_volumes(&mut self) -> Played {
        let listed = names::list(self.driver.store()).unwrap();
        let listed: Vec<String> = listed.iter().map(|(name, _)| name.to_string()).collect();
        let known: Vec<String> = self.names.keys().map(|name| (*name).to_owned()).collect();
        prop_assert_eq!(listed, known, "the list of volumes");
        self.count("list volumes", false);
        Ok(())
    }

    /// A range within the disk, or one that must be refused.
    fn fit(&self, place: &Place, size_bytes: u64) -> Option<(u64, u64)> {
        if place.beyond {
            return Some((size_bytes.saturating_sub(place.bytes / 2), place.bytes));
        }
        let place = if place.again { self.last } else { (place.offset_bytes, place.bytes) };
        let bytes = place.1.min(size_bytes);
        (bytes > 0).then(|| (place.0.min(size_bytes - bytes), bytes))
    }

    /// What a request comes to on a disk as it is open.
    fn refusals(&self, disk: usize, data: Data, offset_bytes: u64, bytes: u64) -> Vec<Refusal> {
        let size_bytes = self.content_of(disk).map_or(0, |content| content.size_bytes);
        let writes = matches!(data, Data::Write { .. } | Data::Zero { .. } | Data::Discard);
        let how = self.disks[disk].how();
        reasons(&[
            (data != Data::Flush && offset_bytes + bytes > size_bytes, Refusal::Mistake),
            (writes && how == How::ReadOnly, Refusal::ReadOnly),
            (writes && how == How::Inactive, Refusal::Held),
        ])
    }

    /// Submits all that do not overlap, then waits for them.
    fn together(&mut self, requests: &[(Pick, Data, Place)], kind: &'static str) -> Played {
        let mut taken: Vec<(usize, bool, u64, u64)> = Vec::new();
        let mut flying = Vec::new();
        for (pick, data, place) in requests {
            let Some(disk) = self.pick(*pick) else { continue };
            let Some(content) = self.content_of(disk) else { continue };
            let Some((offset_bytes, bytes)) = self.fit(place, content.size_bytes) else { continue };
            let volume = self.disks[disk].volume;
            let reads = matches!(data, Data::Read | Data::TryRead);
            let end = offset_bytes + bytes;
            let meets = |(other, read, from, to): &(usize, bool, u64, u64)| {
                *other == volume && !(*read && reads) && offset_bytes < *to && *from < end
            };
            if *data != Data::Flush && taken.iter().any(meets) {
                continue;
            }
            if *data != Data::Flush {
                taken.push((volume, reads, offset_bytes, end));
            }
            let refusals = self.refusals(disk, *data, offset_bytes, bytes);
            self.tag += 1;
            let written = pattern(self.tag, offset_bytes, bytes);
            let sent = send(self.disks[disk].disk.as_ref(), *data, offset_bytes, bytes, &written);
            flying.push((disk, *data, offset_bytes, bytes, written, refusals, sent));
        }
        for (disk, data, offset_bytes, bytes, written, refusals, sent) in flying {
            let answer = match sent {
                Sent::Waiting(pending) => pending.wait(),
                Sent::Answered(Some(answer)) => answer,
                Sent::Answered(None) => continue,
            };
            let what = format!("{data:?} of {bytes} bytes at {offset_bytes}");
            let done = self
                .settle(kind, &answer.result, &refusals)
                .map_err(|error| TestCaseError::fail(format!("{what}: {error}")))?;
            if done {
                self.note(disk, data, offset_bytes, bytes, &written, &answer)?;
            }
        }
        Ok(())
    }

    /// Compares what was read, and has the model change as the volume did.
    fn note(
        &mut self,
        disk: usize,
        data: Data,
        offset_bytes: u64,
        bytes: u64,
        written: &[u8],
        answer: &Answer,
    ) -> Played {
        let content = &mut self.volumes[self.disks[disk].volume].content;
        match data {
            Data::Read | Data::TryRead => {
                let Some(content) = self.content_of(disk) else { return Ok(()) };
                return same(&content.read(offset_bytes, bytes), &answer.data, offset_bytes);
            }
            Data::Write { .. } => {
                content.write(offset_bytes, written);
                self.last = (offset_bytes, bytes);
            }
            Data::Zero { .. } | Data::Discard => content.zero(offset_bytes, bytes),
            Data::Flush => {}
        }
        Ok(())
    }

    fn status(&mut self, pick: Pick, place: &Place) -> Played {
        let Some(disk) = self.pick(pick) else { return Ok(()) };
        let Some(content) = self.content_of(disk) else { return Ok(()) };
        let Some((offset_bytes, bytes)) = self.fit(place, content.size_bytes) else { return Ok(()) };
        let got = self.disks[disk].disk.status(offset_bytes, bytes);
        let beyond = offset_bytes + bytes > content.size_bytes;
        if self.settle("block status", &got, &reasons(&[(beyond, Refusal::Mistake)]))? {
            check_status(content, got, offset_bytes, bytes)?;
        }
        Ok(())
    }

    /// All of a disk: its facts, its bytes, its zeroes, its snapshots.
    pub fn verify(&self, at: usize) -> Played {
        let open = &self.disks[at];
        let Some(content) = self.content_of(at) else { return Ok(()) };
        let disk = open.disk.as_ref();
        let volume = &self.volumes[open.volume];
        let facts = disk.facts().map_err(|refusal| TestCaseError::fail(format!("facts: {refusal:?}")))?;
        let zero_init = facts.zero_init;
        prop_assert_eq!(
            facts,
            Facts {
                size_bytes: content.size_bytes,
                block_bytes: BLOCK,
                read_only: open.how() == How::ReadOnly,
                active: open.how() != How::Inactive,
                zero_init,
            }
        );
        prop_assert!(!zero_init || (content.is_zero() && !volume.is_clone), "not of zeroes alone");
        for (from, to) in windows(content.size_bytes) {
            let answer = disk.submit(from, Ask::Read { bytes: to - from }).wait();
            compare(&answer.result, &[])?;
            same(&content.read(from, to - from), &answer.data, from)?;
        }
        let mut from = 0;
        while from < content.size_bytes {
            let bytes = content.size_bytes - from;
            from += check_status(content, disk.status(from, bytes), from, bytes)?;
        }
        // Pending snapshots are known to the holder alone.
        let holds = open.is_lease(How::Writable) || !self.is_held(open.volume, How::Writable, None);
        if holds {
            self.check_list(at)?;
        }
        Ok(())
    }

    pub fn check_list(&self, at: usize) -> Played {
        let volume = &self.volumes[self.disks[at].volume];
        let there = volume.snapshots.iter().filter(|taken| !taken.removed);
        let known: Vec<_> = there.map(|taken| (taken.name.to_owned(), taken.content.size_bytes)).collect();
        prop_assert_eq!(self.disks[at].disk.snapshots(), Ok(known), "the list of snapshots");
        Ok(())
    }

    /// Everything is closed, opened again, read, collected, read again, and
    /// removed; then nothing may be left.
    fn end(mut self) -> Played {
        for open in self.disks.drain(..) {
            compare(&open.disk.close(), &[])?;
        }
        self.list_volumes()?;
        assert_sound(self.driver.store(), "at the end");
        self.read_everything()?;
        gc(self.driver.store());
        assert_sound(self.driver.store(), "after gc");
        self.read_everything()?;
        for volume in self.names.keys() {
            names::remove(self.driver.store(), &name(volume), true).unwrap();
        }
        gc(self.driver.store());
        self.names.clear();
        self.list_volumes()?;
        let left = names_left(self.driver);
        prop_assert!(left.is_empty(), "left over when all volumes are gone: {left:?}");
        Ok(())
    }

    fn read_everything(&mut self) -> Played {
        let names: Vec<(Name, usize)> = self.names.iter().map(|(name, volume)| (*name, *volume)).collect();
        for (name, volume) in names {
            let how = How::ReadOnly;
            self.read_one(name, None, volume, Kind::Volume { how, becomes: how })?;
            for which in 0..self.volumes[volume].snapshots.len() {
                if !self.volumes[volume].snapshots[which].removed {
                    let snapshot = self.volumes[volume].snapshots[which].name;
                    self.read_one(name, Some(snapshot), volume, Kind::Snapshot(which))?;
                }
            }
        }
        Ok(())
    }

    fn read_one(&mut self, name: &str, snapshot: Option<&str>, volume: usize, kind: Kind) -> Played {
        let opened = self.driver.open(name, snapshot, How::ReadOnly);
        let disk =
            opened.map_err(|refusal| TestCaseError::fail(format!("{name} {snapshot:?}: {refusal:?}")))?;
        let turn = self.volumes[volume].turn;
        self.disks.push(Open { disk, volume, kind, turn });
        let at = self.disks.len() - 1;
        self.verify(at).map_err(|error| TestCaseError::fail(format!("{name} {snapshot:?}: {error}")))?;
        match self.disks.pop() {
            Some(open) => compare(&open.disk.close(), &[]),
            None => Ok(()),
        }
    }

    pub fn has_room(&self) -> bool {
        self.disks.len() < DISKS_MAX
    }

    pub fn volume_named(&self, name: Name) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub fn taken_named(&self, name: Name, snapshot: Name) -> Option<(usize, usize)> {
        let volume = self.volume_named(name)?;
        Some((volume, self.find_taken(volume, snapshot)?))
    }

    /// A name of a volume of which something holds.
    pub fn name_of(&self, pick: Pick, likely: impl Fn(&Self, usize) -> bool) -> Name {
        let there = self.names.iter().filter(|(_, volume)| likely(self, **volume));
        one_of(pick, there.map(|(name, _)| *name).collect(), &NAMES).unwrap()
    }

    pub fn free_name(&self, pick: Pick) -> Name {
        let free = NAMES.iter().copied().filter(|name| !self.names.contains_key(name));
        one_of(pick, free.collect(), &NAMES).unwrap()
    }

    /// The name of a snapshot that a volume has, or has not.
    pub fn snapshot_name(&self, volume: Option<usize>, pick: Pick, has: bool) -> Name {
        let is_there = |name: &Name| volume.is_some_and(|volume| self.find_taken(volume, name).is_some());
        let likely = SNAPSHOTS.iter().copied().filter(|name| is_there(name) == has);
        one_of(pick, likely.collect(), &SNAPSHOTS).unwrap()
    }

    pub fn has_snapshots(&self, volume: usize) -> bool {
        self.volumes[volume].snapshots.iter().any(|taken| !taken.removed)
    }
}

fn one_of<T: Copy>(pick: Pick, likely: Vec<T>, all: &[T]) -> Option<T> {
    let among = if pick < LIKELY && !likely.is_empty() { &likely[..] } else { all };
    (!among.is_empty()).then(|| among[usize::from(pick) % among.len()])
}

/// After a failure: the next history must not meet this one's threads.
impl Drop for World<'_> {
    fn drop(&mut self) {
        for open in self.disks.drain(..) {
            drop(open.disk.close());
        }
    }
}

enum Sent {
    Waiting(Pending),
    Answered(Option<Answer>),
}

fn send(disk: &dyn Disk, data: Data, offset_bytes: u64, bytes: u64, written: &[u8]) -> Sent {
    let ask = match data {
        Data::TryRead => return Sent::Answered(disk.try_read(offset_bytes, bytes)),
        Data::Read => Ask::Read { bytes },
        Data::Write { fua } => Ask::Write { data: written.to_vec(), fua },
        Data::Zero { fua } => Ask::Zero { bytes, fua },
        Data::Discard => Ask::Discard { bytes },
        Data::Flush => Ask::Flush,
    };
    Sent::Waiting(disk.submit(offset_bytes, ask))
}

fn same(wanted: &[u8], got: &[u8], offset_bytes: u64) -> Played {
    let differs = wanted.iter().zip(got).position(|(wanted, got)| wanted != got);
    prop_assert_eq!(wanted.len(), got.len(), "the length of what was read");
    if let Some(at) = differs {
        let place = offset_bytes + at as u64;
        prop_assert!(
            false,
            "byte {place} (block {}, {} in it) is {:#x}, not {:#x}",
            place / BLOCK,
            place % BLOCK,
            got[at],
            wanted[at]
        );
    }
    Ok(())
}

/// What is said to be zeroes is; returns for how far something is said.
fn check_status(
    content: &Content,
    got: Outcome<(bool, u64)>,
    offset_bytes: u64,
    bytes: u64,
) -> Result<u64, TestCaseError> {
    let (zeroes, length) = got.map_err(|refusal| TestCaseError::fail(format!("status: {refusal:?}")))?;
    prop_assert!(length > 0 && length <= bytes, "status of {length} bytes of {bytes} at {offset_bytes}");
    if zeroes {
        let data = content.first_data(offset_bytes, length);
        prop_assert_eq!(
            data,
            None,
            "status of {} bytes at {}: zeroes, with data in it",
            length,
            offset_bytes
        );
    }
    Ok(length)
}

/// What is read of a disk; between these nothing is ever written.
fn windows(size_bytes: u64) -> Vec<(u64, u64)> {
    let all = [(0, 48 * BLOCK), (1008 * BLOCK, size_bytes)];
    all.iter().map(|(from, to)| (*from, (*to).min(size_bytes))).filter(|(from, to)| from < to).collect()
}

/// Objects that belong to some volume.
fn names_left(driver: &dyn Driver) -> BTreeSet<String> {
    use archipelago::backend::BackendExt;
    let prefixes = ["volume/", "head/", "log/", "map/", "block/", "snapshot/"];
    let place = |prefix: &str| match prefix {
        "log/" => driver.store().log(),
        "block/" => driver.store().blocks(),
        _ => driver.store().control(),
    };
    let listed = prefixes.iter().flat_map(|prefix| place(prefix).list_all(prefix).unwrap());
    listed.map(|name| name.to_string()).collect()
}
