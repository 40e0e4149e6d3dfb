//! Zeroes and discards: map entries where they cover a block, holes in the
//! own object where it holds the range, else a piece without data. Never a
//! block of zeroes.

use std::sync::Arc;

use super::delta::{own_of, Delta, Own};
use super::state::{NotLoaded, State};
use super::write::{Begun, NotNow, Way};
use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::{Draft, Record};
use crate::sync::channel;

/// How a part of a block becomes zeroes.
enum Zeroing {
    /// It is already.
    Nothing,
    /// A hole, or a piece.
    Write(Begun),
    /// The whole block, by a map entry.
    Entry,
}

impl State {
    fn zeroing_of(&mut self, block: u64, start: u32, end: u32) -> std::result::Result<Zeroing, NotLoaded> {
        if self.is_blank(block)? {
            return Ok(Zeroing::Nothing);
        }
        let epoch = self.epoch();
        let begun = |way| Begun { way, block, start, end, epoch, make: false };
        let own = own_of(&self.entry(block)?.entry, epoch, block);
        let granule = crate::store::GRANULE_BYTES as u32;
        let held = match &own {
            _ if !self.overwrites => false,
            Own::Whole => true,
            Own::Part(presence) => presence.covers(start / granule, end.div_ceil(granule)),
            Own::None => false,
        };
        let whole = u64::from(end - start) == self.block_bytes;
        let gives_up = whole && fault::on(fault::Planted::DiscardGivesUpName) && self.is_recorded(block);
        if held && !gives_up && !self.cutting && !self.live().pieces.touch(block, start, end) {
            self.in_place += 1;
            return Ok(Zeroing::Write(begun(Way::InPlace)));
        }
        self.busy_mut(block).logging += 1;
        let calm = self.busy.get(&block).is_none_or(|busy| busy.direct == 0 && !busy.settling);
        if whole && (own == Own::None || gives_up) && calm {
            return Ok(Zeroing::Entry);
        }
        if whole && !self.overwrites && self.is_recorded(block) && calm {
            // The entry forgets that this epoch has made the block.
            self.tainted.insert(block);
            return Ok(Zeroing::Entry);
        }
        Ok(Zeroing::Write(begun(Way::Log)))
    }

    /// A record says that these blocks are zeroes.
    pub(super) fn note_zero(&mut self, first: u64, count: u64) {
        for block in first..first.saturating_add(count) {
            let generation = self.live_mut();
            generation.pieces.cut_out(block, 0, u32::MAX);
            generation.deltas.insert(block, Delta::zero());
        }
    }
}

impl Volume {
    /// Makes a range read as zeroes, on this thread.
    pub fn write_zeroes(self: &Arc<Self>, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.check_writable()?;
        self.check_range(offset_bytes, bytes)?;
        let mut run: Option<(u64, u64)> = None;
        let mut result = Ok(());
        for part in self.parts(offset_bytes, bytes) {
            let zeroing = match self.begin_zero(part.block, part.start, part.end) {
                Ok(zeroing) => zeroing,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            match zeroing {
                Zeroing::Entry if fault::on(fault::Planted::DiscardGivesUpName) => {
                    self.give_up_name(part.block);
                    result = result.and(self.log_zero_entries(Some((part.block, 1))));
                }
                Zeroing::Entry => match &mut run {
                    Some((first, count)) if *first + *count == part.block => *count += 1,
                    _ => {
                        result = result.and(self.log_zero_entries(run.take()));
                        run = Some((part.block, 1));
                    }
                },
                Zeroing::Nothing => {}
                Zeroing::Write(begun) => result = result.and(self.carry_out_zero(&begun)),
            }
            if result.is_err() {
                break;
            }
        }
        let entries = self.log_zero_entries(run);
        result.and(entries)
    }

    /// What a planted fault does: the object goes, its name is free again.
    fn give_up_name(&self, block: u64) {
        let name = {
            let mut state = self.state.lock();
            let epoch = state.epoch();
            state.dirty.remove(&(epoch, block));
            state.own_name(block)
        };
        let _not_there = self.store.blocks().delete(&name);
    }

    fn begin_zero(self: &Arc<Self>, block: u64, start: u32, end: u32) -> Result<Zeroing> {
        loop {
            self.check_writable()?;
            let why = {
                let mut state = self.state.lock();
                if self.is_log_full(&state, 0) {
                    NotNow::LogFull
                } else {
                    match state.zeroing_of(block, start, end) {
                        Ok(zeroing) => {
                            state.written = true;
                            return Ok(zeroing);
                        }
                        Err(NotLoaded) => NotNow::NotLoaded,
                    }
                }
            };
            match why {
                NotNow::NotLoaded => self.load_entry(block)?,
                NotNow::LogFull | NotNow::LogBusy => self.make_room()?,
            }
        }
    }

    fn carry_out_zero(self: &Arc<Self>, begun: &Begun) -> Result<()> {
        let (start, bytes) = (u64::from(begun.start), u64::from(begun.end - begun.start));
        if begun.way == Way::InPlace {
            let result = self.store.blocks().punch(&begun.name(), start, bytes);
            return self.end_write(begun, result);
        }
        let (sender, receiver) = channel::bounded(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        if self.log_write(begun, None, done) {
            self.drive_log();
        }
        receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?
    }

    /// Records that a run of whole blocks is zeroes.
    fn log_zero_entries(self: &Arc<Self>, run: Option<(u64, u64)>) -> Result<()> {
        let Some((first, count)) = run else { return Ok(()) };
        let (sender, receiver) = channel::bounded(1);
        let volume = Arc::clone(self);
        let done = Box::new(move |result: Result<crate::log::Appended>| {
            let mut state = volume.state.lock();
            for block in first..first + count {
                state.busy_mut(block).logging -= 1;
                state.calm(block);
            }
            if result.is_ok() {
                state.note_zero(first, count);
            }
            drop(state);
            drop(sender.send(result.map(drop)));
        });
        if self.log.append([Draft { record: Record::Zero { first, count }, data: None, done }]) {
            self.drive_log();
        }
        receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?
    }
}
