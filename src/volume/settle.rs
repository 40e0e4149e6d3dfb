//! Settle: moves pieces from the log into the own objects of their blocks, at
//! their place, and records that. Never copies a block for a granule: only
//! the granules that pieces touch are written, unless most of the block is
//! there already or too many layers would lie on each other.

use std::sync::Arc;

use super::delta::{own_of, Delta, Own};
use super::flush::own_record;
use super::moving::{units_of, Moving, Target, Unit};
use super::state::{NotLoaded, State};
use super::whole::Making;
use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::Draft;
use crate::map::{Entry, Presence, LAYERS_MAX};
use crate::name::{Id, ObjectName};
use crate::store::GRANULE_BYTES;
use crate::sync::atomic::Ordering;
use crate::sync::channel;

const GRANULE: u32 = GRANULE_BYTES as u32;

/// Blocks settled with one sync: while nobody waits for it, and otherwise.
const BATCH_BLOCKS: usize = 64;
const HASTY_BATCH_BLOCKS: usize = 1024;
/// Granules settled with one sync, or one block: bounds the memory of a plan.
const BATCH_GRANULES: u64 = 16 << 10;
/// Reads or writes in flight: while nobody waits for them, and otherwise.
const IN_FLIGHT: usize = 8;
const HASTY_IN_FLIGHT: usize = 64;
/// Granules whose content is looked up at a time.
const RUN_GRANULES: u32 = 64;

/// Told how many bytes have been settled, again and again during a batch.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

/// One block on its way from the log into its own object.
pub(super) struct Settling {
    block: u64,
    epoch: Id,
    make: bool,
    /// Where nothing can be overwritten: how it is made, instead of `units`.
    pub making: Option<Making>,
    /// What the own object holds afterwards.
    own: Own,
    /// Pieces before this position are in it then.
    settled: u64,
    /// What to write, and from where.
    units: Vec<Unit>,
}

impl Settling {
    pub fn name(&self) -> ObjectName {
        ObjectName::Block { epoch: self.epoch, index: self.block }
    }
}

impl State {
    /// Plans to settle a block of the oldest generation. `None`: nothing to
    /// do, or something is going on in it.
    fn plan_settle(&mut self, block: u64) -> std::result::Result<Option<Settling>, NotLoaded> {
        let live = self.generations.len() == 1;
        let busy = self.busy.get(&block).copied().unwrap_or_default();
        if live && (busy.logging > 0 || busy.direct > 0 || busy.settling) {
            return Ok(None);
        }
        let generation = &self.generations[0];
        let Some(pieces) = generation.pieces.of(block) else { return Ok(None) };
        let epoch = generation.epoch();
        let entry = self.entry_at(0, block)?.entry;
        let own = own_of(&entry, epoch, block);
        let mut wanted = Presence::empty(self.granules());
        for piece in pieces.iter() {
            let (from, to) = piece.granules();
            wanted.set_range(from, to);
        }
        let mut settled = pieces.last_position() + 1;
        if let Some(unrecorded) = self.unrecorded.get(&block).filter(|_| live) {
            settled = settled.max(unrecorded.settled);
        }
        if !self.overwrites {
            return self.plan_whole(block, epoch, settled);
        }
        let after = own_after(&entry, &own, epoch, &mut wanted);
        let units = self.plan_units(block, &wanted)?;
        if live {
            self.busy_mut(block).settling = true;
        }
        let make = own == Own::None;
        Ok(Some(Settling { block, epoch, make, making: None, own: after, settled, units }))
    }

    fn plan_whole(
        &mut self,
        block: u64,
        epoch: Id,
        settled: u64,
    ) -> std::result::Result<Option<Settling>, NotLoaded> {
        let Some(making) = self.plan_making(block)? else { return Ok(None) };
        if self.generations.len() == 1 {
            self.busy_mut(block).settling = true;
        }
        let (own, units) = (Own::Whole, Vec::new());
        Ok(Some(Settling { block, epoch, make: true, making: Some(making), own, settled, units }))
    }

    fn plan_units(&self, block: u64, wanted: &Presence) -> std::result::Result<Vec<Unit>, NotLoaded> {
        let mut units = Vec::new();
        let mut at = 0;
        while at < self.granules() {
            let (present, end) = wanted.next_run(at);
            if !present {
                at = end;
                continue;
            }
            let end = end.min(at + RUN_GRANULES);
            let (start, stop) = (at * GRANULE, end * GRANULE);
            units_of(start, self.plan_read_at(0, block, start, stop)?, &mut units);
            at = end;
        }
        Ok(units)
    }
}

/// What the own object holds once the `wanted` granules are in it. Where the
/// block is to be made whole, what is missing is added to `wanted`.
fn own_after(entry: &Entry, own: &Own, epoch: Id, wanted: &mut Presence) -> Own {
    let mut presence = match own {
        Own::Whole => return Own::Whole,
        Own::Part(presence) => presence.clone(),
        Own::None => Presence::empty(wanted.granules()),
    };
    let before = presence.clone();
    presence.union_with(wanted);
    let others = match entry {
        Entry::Layers { layers, .. } => layers.iter().filter(|layer| layer.epoch != epoch).count(),
        _ => 0,
    };
    let most = presence.count_ones() >= presence.granules() / 4 * 3;
    if most || others >= LAYERS_MAX {
        for granule in 0..presence.granules() {
            if !before.get(granule) {
                wanted.set_range(granule, granule + 1);
            }
        }
        return Own::Whole;
    }
    Own::Part(presence)
}

impl Volume {
    /// Settles up to a batch of the oldest blocks of the oldest generation.
    /// Returns how many. For whoever holds `maintaining`.
    pub(super) fn settle_batch(self: &Arc<Self>, progress: Progress<'_>) -> Result<usize> {
        let count = if self.is_hasty() { HASTY_BATCH_BLOCKS } else { BATCH_BLOCKS };
        let blocks: Vec<u64> = self.state.lock().generations[0].pieces.by_age().take(count).collect();
        let overwrites = self.state.lock().overwrites;
        if !overwrites {
            self.begin_making(&blocks)?;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        for block in blocks {
            match self.begin_settle(block) {
                Ok(Some(settling)) => {
                    bytes += settling.units.iter().map(Unit::bytes).sum::<u64>();
                    bytes += settling.making.as_ref().map_or(0, |_| self.block_bytes);
                    batch.push(settling);
                }
                Ok(None) => {}
                Err(error) => {
                    self.end_settling(&batch);
                    return Err(error);
                }
            }
            if bytes >= BATCH_GRANULES * GRANULE_BYTES {
                break;
            }
        }
        if batch.is_empty() && !overwrites && self.oldest_cut().is_some_and(|_| !self.is_oldest_settled()) {
            let words = "its epoch has made a block that is to be settled for a snapshot";
            return Err(Error::new(ErrorKind::Internal, "settle").because(words));
        }
        // What was begun at leisure goes on in haste when somebody waits.
        let in_flight = &|| if self.is_hasty() { HASTY_IN_FLIGHT } else { IN_FLIGHT };
        let result = self.carry_out_settle(&mut batch, in_flight, progress);
        if result.is_err() {
            self.note_uncertain(&result);
            let made = batch.iter().filter(|settling| settling.make).map(|settling| settling.block);
            self.state.lock().tainted.extend(made);
        }
        self.end_settling(&batch);
        result.map(|()| batch.len())
    }

    /// True if somebody waits for what is being settled.
    fn is_hasty(&self) -> bool {
        self.log_pace().is_finite() || self.oldest_cut().is_some()
    }

    fn begin_settle(&self, block: u64) -> Result<Option<Settling>> {
        loop {
            let planned = self.state.lock().plan_settle(block);
            if let Ok(planned) = planned {
                return Ok(planned);
            }
            self.load_entry(block)?;
        }
    }

    fn end_settling(&self, batch: &[Settling]) {
        let mut state = self.state.lock();
        for settling in batch {
            if let Some(busy) = state.busy.get_mut(&settling.block) {
                busy.settling = false;
            }
            state.calm(settling.block);
        }
    }

    fn carry_out_settle(
        self: &Arc<Self>,
        batch: &mut [Settling],
        in_flight: &dyn Fn() -> usize,
        progress: Progress<'_>,
    ) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let counted = &mut |bytes| {
            self.settled_bytes.fetch_add(bytes, Ordering::Relaxed);
            progress(bytes);
        };
        if batch.iter().any(|settling| settling.making.is_some()) {
            // What is made is durable.
            self.make_blocks(batch, in_flight(), counted)?;
            return self.record_settled(batch);
        }
        let blocks = self.store.blocks();
        let targets: Vec<Target> =
            batch.iter().map(|s| Target { name: s.name(), own: s.own.clone() }).collect();
        for (_, target) in batch.iter().zip(&targets).filter(|(settling, _)| settling.make) {
            match blocks.create_sparse(&target.name, self.block_bytes) {
                Err(error) if error.is(ErrorKind::Exists) => {}
                other => other?,
            }
        }
        let units = batch.iter_mut().enumerate().flat_map(|(target, settling)| {
            std::mem::take(&mut settling.units).into_iter().map(move |unit| (target, unit))
        });
        Moving::new(blocks, &targets, in_flight).carry_out(units, counted)?;
        let names: Vec<ObjectName> = targets.into_iter().map(|target| target.name).collect();
        if !fault::on(fault::Planted::RecordBeforeContent) {
            self.sync_blocks(&names)?;
        }
        self.record_settled(batch)
    }

    /// Records what is settled; the pieces are forgotten once that is in.
    fn record_settled(self: &Arc<Self>, batch: &[Settling]) -> Result<()> {
        let (sender, receiver) = channel::unbounded();
        let later = fault::on(fault::Planted::SettleClaimsLaterPieces);
        let drafts: Vec<Draft> = batch
            .iter()
            .map(|s| {
                let sender = sender.clone();
                let settled = if later { u64::MAX } else { s.settled };
                let record = own_record(s.epoch, s.block, &s.own, settled);
                Draft { record, data: None, done: Box::new(move |result| drop(sender.send(result))) }
            })
            .collect();
        if self.log.append(drafts) {
            self.have_log_driven();
        }
        for settling in batch {
            let result = receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?;
            result.map_err(|error| self.poison_unless_full(error))?;
            self.state.lock().note_settled(settling);
        }
        Ok(())
    }
}

impl State {
    fn note_settled(&mut self, settling: &Settling) {
        let block = settling.block;
        let live = self.generations.len() == 1;
        let generation = &mut self.generations[0];
        generation.pieces.settle(block, settling.settled);
        let delta = generation.deltas.entry(block).or_insert_with(Delta::nothing);
        delta.set_own(settling.epoch, block, settling.own.clone());
        if live {
            self.unrecorded.remove(&block);
        }
    }
}
