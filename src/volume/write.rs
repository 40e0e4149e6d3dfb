//! The write rule: where the bytes of one write to one block go.
//!
//! `begin_write` decides under the lock and books the write; the caller
//! carries it out; `end_write` makes it visible. Two writes that overlap are
//! never in flight together (`io` sees to that, or the caller is alone).

use std::sync::Arc;

use super::delta::{Delta, Own};
use super::pieces::{Piece, Source};
use super::state::{NotLoaded, State, Unrecorded};
use super::Volume;
use crate::backend::DataPath;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::{Appended, Draft, Later, Record, PIECE_BYTES_MAX};
use crate::map::{Entry, Presence, LAYERS_MAX};
use crate::name::{Id, ObjectName};
use crate::store::GRANULE_BYTES;
use crate::sync::{channel, Mutex};
use crate::sys::iobuf::IoBuf;

const GRANULE: u32 = GRANULE_BYTES as u32;

/// Aligned writes of at least this many bytes to a shared block go straight
/// into the own layer: they would only be written twice through the log.
pub const DIRECT_BYTES_MIN: u32 = 64 << 10;

/// Where a write goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over granules that the own object holds.
    InPlace,
    /// Into granules that the own object does not hold yet, or a new object.
    /// The object may have to be made first.
    Direct,
    /// The whole block, or a block over zeroes: from then on the own object
    /// holds all of it.
    Whole,
    /// The whole block, as a new object: on a store that cannot overwrite.
    Create,
    /// Append it to the log.
    Log,
}

/// Sees to it that `drive_log` or `drive_log_native` is called.
pub type Driver = Arc<dyn Fn(Arc<Volume>) + Send + Sync>;

/// A write that has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    pub way: Way,
    pub block: u64,
    pub start: u32,
    pub end: u32,
    pub epoch: Id,
    /// The own object must be made (if it is not there already).
    pub make: bool,
}

impl Begun {
    pub fn name(&self) -> ObjectName {
        ObjectName::Block { epoch: self.epoch, index: self.block }
    }
}

/// Why a write cannot begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// `load_entry` first.
    NotLoaded,
    /// The log is full: `make_room` first.
    LogFull,
    /// The log is getting full: `settle_some` first, then begin patiently.
    LogBusy,
}

impl From<NotLoaded> for NotNow {
    fn from(_: NotLoaded) -> NotNow {
        NotNow::NotLoaded
    }
}

impl State {
    /// Decides where `start..end` of a block goes.
    fn way_of(&self, block: u64, start: u32, end: u32) -> std::result::Result<(Way, bool), NotLoaded> {
        let touched = self.live().pieces.touch(block, start, end);
        let touched = touched && !fault::on(fault::Planted::InPlaceUnderPiece);
        let settling = self.is_settling(block);
        let beneath = self.entry(block)?;
        let own = super::delta::own_of(&beneath.entry, self.epoch(), block);
        if !self.overwrites {
            return Ok(self.way_without_overwriting(block, end - start, &own));
        }
        if self.cutting {
            return Ok((Way::Log, false));
        }
        if !touched {
            match &own {
                Own::Whole => return Ok((Way::InPlace, false)),
                Own::Part(presence) if presence.covers(start / GRANULE, end.div_ceil(GRANULE)) => {
                    return Ok((Way::InPlace, false))
                }
                _ => {}
            }
        }
        if settling {
            return Ok((Way::Log, false));
        }
        let bare = beneath.entry == Entry::Zero && !beneath.lower_pieces && !self.tainted.contains(&block);
        if bare && !touched {
            return Ok((Way::Whole, true));
        }
        if !self.supersedes(block, start, end) {
            return Ok((Way::Log, false));
        }
        let make = own == Own::None;
        if u64::from(end - start) == self.block_bytes {
            return Ok((Way::Whole, make));
        }
        let aligned = start % GRANULE == 0 && end % GRANULE == 0;
        let room = match &beneath.entry {
            Entry::Layers { layers, .. } => own != Own::None || layers.len() < LAYERS_MAX,
            _ => true,
        };
        if aligned && room && end - start >= DIRECT_BYTES_MIN && own != Own::Whole {
            return Ok((Way::Direct, make));
        }
        Ok((Way::Log, false))
    }

    /// True if the range covers every piece of the block that it touches, and
    /// no other is left: only then may one record say that they are gone.
    fn supersedes(&self, block: u64, start: u32, end: u32) -> bool {
        let Some(pieces) = self.live().pieces.of(block) else { return true };
        let inside = |piece: &Piece| piece.start >= start && piece.end <= end;
        let (from, to) = (start / GRANULE * GRANULE, end.div_ceil(GRANULE) * GRANULE);
        pieces.overlapping(from, to).next().is_none() || pieces.iter().all(inside)
    }

    /// Notes that the own object now holds `start..end` (or all) of a block,
    /// ahead of the log.
    pub(super) fn note_written(&mut self, begun: &Begun) -> std::result::Result<(), NotLoaded> {
        let (block, epoch) = (begun.block, begun.epoch);
        let beneath = self.entry(block)?;
        let own = match super::delta::own_of(&beneath.entry, epoch, block) {
            Own::Whole => Own::Whole,
            _ if matches!(begun.way, Way::Whole | Way::Create) => Own::Whole,
            own => {
                let mut presence = match own {
                    Own::Part(presence) => presence,
                    _ => Presence::empty(self.granules()),
                };
                presence.set_range(begun.start / GRANULE, begun.end.div_ceil(GRANULE));
                if presence.is_full() { Own::Whole } else { Own::Part(presence) }
            }
        };
        let superseded = self.cut_out_superseded(begun);
        let durable = self.durable_delta(block);
        let unrecorded = self.unrecorded.entry(block).or_insert(Unrecorded {
            durable,
            settled: 0,
            oldest: u64::MAX,
        });
        if let Some((oldest, newest)) = superseded {
            unrecorded.settled = unrecorded.settled.max(newest + 1);
            unrecorded.oldest = unrecorded.oldest.min(oldest);
        }
        let delta = self.live_mut().deltas.entry(block).or_insert_with(Delta::nothing);
        delta.set_own(epoch, block, own);
        Ok(())
    }

    /// Drops the pieces that a write to the own object covers; returns the
    /// oldest and the newest position among them.
    fn cut_out_superseded(&mut self, begun: &Begun) -> Option<(u64, u64)> {
        let pieces = &mut self.live_mut().pieces;
        let block = pieces.of(begun.block)?;
        let mut found: Option<(u64, u64)> = None;
        for piece in block.overlapping(begun.start, begun.end) {
            let (oldest, newest) = found.unwrap_or((u64::MAX, 0));
            found = Some((oldest.min(piece.position), newest.max(piece.position)));
        }
        pieces.cut_out(begun.block, begun.start, begun.end);
        found
    }
}

impl Volume {
    /// Decides where a write of one block goes and books it. `Ok(Err(why))`:
    /// not now.
    pub fn begin_write(
        &self,
        block: u64,
        start: u32,
        end: u32,
    ) -> Result<std::result::Result<Begun, NotNow>> {
        self.begin(block, start, end, true)
    }

    /// As `begin_write`, for a writer that can be slowed down before the log
    /// is full.
    pub fn begin_write_impatiently(
        &self,
        block: u64,
        start: u32,
        end: u32,
    ) -> Result<std::result::Result<Begun, NotNow>> {
        self.begin(block, start, end, false)
    }

    fn begin(
        &self,
        block: u64,
        start: u32,
        end: u32,
        patient: bool,
    ) -> Result<std::result::Result<Begun, NotNow>> {
        self.check_writable()?;
        let mut state = self.state.lock();
        let (way, make) = match state.way_of(block, start, end) {
            Ok(decided) => decided,
            Err(NotLoaded) => return Ok(Err(NotNow::NotLoaded)),
        };
        if way == Way::Log {
            if self.is_log_full(&state, u64::from(end - start)) {
                return Ok(Err(NotNow::LogFull));
            }
            if !patient && self.is_log_busy(&state) {
                return Ok(Err(NotNow::LogBusy));
            }
        }
        let epoch = state.epoch();
        state.written = true;
        match way {
            Way::Log => state.busy_mut(block).logging += 1,
            Way::InPlace => state.in_place += 1,
            Way::Direct | Way::Whole | Way::Create => {
                state.in_place += 1;
                state.busy_mut(block).direct += 1;
            }
        }
        Ok(Ok(Begun { way, block, start, end, epoch, make }))
    }

    /// Makes the own object, if this write needs it. Blocks.
    pub fn make_object(&self, begun: &Begun) -> Result<()> {
        if !begun.make {
            return Ok(());
        }
        match self.store.blocks().create_sparse(&begun.name(), self.block_bytes) {
            // Two writes to one new block: the other was first.
            Err(error) if error.is(ErrorKind::Exists) => Ok(()),
            other => other,
        }
    }

    /// Ends a write that did not go to the log.
    pub fn end_write(&self, begun: &Begun, result: Result<()>) -> Result<()> {
        let mut outcome = result;
        let mut state = self.state.lock();
        while outcome.is_ok() && begun.way != Way::InPlace && state.note_written(begun).is_err() {
            // The page was there when the write began and has been pushed out.
            drop(state);
            outcome = self.load_entry(begun.block);
            state = self.state.lock();
        }
        if outcome.is_err() {
            self.note_uncertain(&outcome);
            if begun.way != Way::InPlace {
                state.tainted.insert(begun.block);
            }
        }
        state.in_place -= 1;
        // An object that could not even be made must not be synced.
        if outcome.is_ok() || begun.way == Way::InPlace {
            state.dirty.insert((begun.epoch, begun.block));
        }
        if begun.way != Way::InPlace {
            state.busy_mut(begun.block).direct -= 1;
            state.calm(begun.block);
        }
        let drained = state.in_place == 0;
        drop(state);
        if drained {
            self.drained.notify_all();
        }
        outcome
    }

    /// Appends a write to the log; `done` runs once all of it is in. True:
    /// the caller must see to it that `drive_log` is called.
    #[must_use]
    pub fn log_write(
        self: &Arc<Self>,
        begun: &Begun,
        data: Option<IoBuf>,
        done: Box<dyn FnOnce(Result<()>) + Send>,
    ) -> bool {
        let parts = parts_of(begun, data.as_ref());
        let shared = Arc::new(Parts::new(parts.len(), done));
        let drafts: Vec<Draft> = parts
            .into_iter()
            .map(|(start, end, data)| {
                let (volume, shared, begun) = (Arc::clone(self), Arc::clone(&shared), begun.clone());
                let record = match &data {
                    Some(_) => Record::Piece {
                        block: begun.block,
                        offset_bytes: start,
                        bytes: end - start,
                        data_granule: 0,
                        sums: Vec::new(),
                    },
                    None => Record::Blank { block: begun.block, offset_bytes: start, bytes: end - start },
                };
                let is_blank = data.is_none();
                let done = Box::new(move |result: Result<Appended>| {
                    let result = result.map(|at| volume.note_logged(begun.block, start, end, at, is_blank));
                    if let Some((done, result)) = shared.finish(result) {
                        volume.end_logged(&begun);
                        done(result);
                    }
                });
                Draft { record, data, done }
            })
            .collect();
        self.log.append(drafts)
    }

    fn note_logged(&self, block: u64, start: u32, end: u32, at: Appended, is_blank: bool) {
        let source = match is_blank {
            true => Source::Blank,
            false => Source::Logged {
                segment: at.segment,
                data_bytes: at.data_bytes,
                origin_bytes: start / GRANULE * GRANULE,
                sums: Arc::from(at.sums),
            },
        };
        let piece = Piece { start, end, position: at.position, source };
        self.state.lock().live_mut().pieces.insert(block, piece);
    }

    fn end_logged(&self, begun: &Begun) {
        let mut state = self.state.lock();
        state.busy_mut(begun.block).logging -= 1;
        state.calm(begun.block);
    }

    /// Writes queued appends; see `Log::drive`.
    pub fn drive_log(&self) {
        self.log.drive();
    }

    /// `drive_log` for whoever may hold a lock: what others have queued is
    /// completed with it, and a completion may take a lock of its caller's.
    pub(super) fn have_log_driven(self: &Arc<Self>) {
        let driver = self.driver.lock().clone();
        match driver {
            Some(driver) if !fault::on(fault::Planted::CompletedUnderLock) => driver(Arc::clone(self)),
            _ => self.drive_log(),
        }
    }

    /// From now on `driver` has the log driven, on another thread, where this
    /// one may hold a lock.
    pub fn set_driver(&self, driver: Driver) {
        *self.driver.lock() = Some(driver);
    }

    /// As `drive_log`, without blocking; see `Log::drive_native`.
    pub fn drive_log_native(&self, path: &Arc<dyn DataPath>, later: &Later) {
        self.log.drive_native(path, later);
    }

    /// Begins a write, waiting for whatever it needs. Blocks.
    pub(crate) fn begin_write_now(self: &Arc<Self>, block: u64, start: u32, end: u32) -> Result<Begun> {
        loop {
            match self.begin_write(block, start, end)? {
                Ok(begun) => return Ok(begun),
                Err(NotNow::NotLoaded) => self.load_entry(block)?,
                Err(NotNow::LogFull | NotNow::LogBusy) => self.make_room()?,
            }
        }
    }

    /// Writes a part of one block, on this thread.
    pub fn write_block(self: &Arc<Self>, block: u64, start: u32, data: &IoBuf) -> Result<()> {
        let begun = self.begin_write_now(block, start, start + data.len() as u32)?;
        self.carry_out(&begun, data)
    }

    /// Carries out a begun write, on this thread.
    pub fn carry_out(self: &Arc<Self>, begun: &Begun, data: &IoBuf) -> Result<()> {
        if begun.way == Way::Log {
            let (sender, receiver) = channel::bounded(1);
            let done = Box::new(move |result| drop(sender.send(result)));
            if self.log_write(begun, Some(data.clone()), done) {
                self.drive_log();
            }
            return receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?;
        }
        if begun.way == Way::Create {
            let result = self.create_block(begun, data);
            return self.end_write(begun, result);
        }
        let mut plain = vec![0; data.len()];
        data.copy_to(0, &mut plain);
        let result = self.make_object(begun).and_then(|()| {
            self.store.blocks().write_at(&begun.name(), u64::from(begun.start), &plain)
        });
        self.end_write(begun, result)
    }
}

type Part = (u32, u32, Option<IoBuf>);

/// Splits a logged write into pieces of bounded size at granule borders.
fn parts_of(begun: &Begun, data: Option<&IoBuf>) -> Vec<Part> {
    let Some(data) = data else { return vec![(begun.start, begun.end, None)] };
    let mut parts = Vec::new();
    let mut at = begun.start;
    while at < begun.end {
        let limit = (at / GRANULE * GRANULE).saturating_add(PIECE_BYTES_MAX as u32);
        let end = limit.min(begun.end);
        let slice = data.slice((at - begun.start) as usize, (end - at) as usize);
        parts.push((at, end, Some(slice)));
        at = end;
    }
    parts
}

type LoggedDone = Box<dyn FnOnce(Result<()>) + Send>;

/// Counts the parts of one logged write that are still out.
struct Parts {
    state: Mutex<(usize, Option<LoggedDone>, Result<()>)>,
}

impl Parts {
    fn new(count: usize, done: LoggedDone) -> Parts {
        Parts { state: Mutex::new((count, Some(done), Ok(()))) }
    }

    /// The last part to finish gets the completion and the first failure.
    fn finish(&self, result: Result<()>) -> Option<(LoggedDone, Result<()>)> {
        let mut state = self.state.lock();
        state.0 -= 1;
        if state.2.is_ok() {
            state.2 = result;
        }
        if state.0 > 0 {
            return None;
        }
        let done = state.1.take()?;
        Some((done, std::mem::replace(&mut state.2, Ok(()))))
    }
}
