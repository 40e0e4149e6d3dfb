//! Flush: own blocks, then the records that name them, then the log, then the
//! lease. The order is rule 3 of docs/design.md.

use std::sync::Arc;

use super::delta::{own_of, Delta, Own};
use super::state::State;
use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::{Draft, Record};
use crate::map::Presence;
use crate::name::{Id, ObjectName};
use crate::sync::channel;

/// An own block's state as it was before a sync.
struct Captured {
    block: u64,
    own: Own,
    settled: u64,
}

impl State {
    /// What a record of a block's own object says now.
    fn capture(&self, block: u64) -> Option<Captured> {
        let delta = self.live().deltas.get(&block)?;
        let epoch = self.epoch();
        let own = own_of(&delta.over(&crate::map::Entry::Zero), epoch, block);
        let settled = self.unrecorded.get(&block).map_or(0, |unrecorded| unrecorded.settled);
        Some(Captured { block, own, settled })
    }

    /// True if all that the block's own object of the live epoch shows, if
    /// there is one, is in the log or a map: it is durable then, and what is
    /// written to it in place needs no record.
    pub(super) fn is_recorded(&self, block: u64) -> bool {
        !self.unrecorded.contains_key(&block)
    }

    /// Notes that the log has a record of `captured`.
    fn note_recorded(&mut self, epoch: Id, captured: &Captured) {
        let visible = self.live().deltas.get(&captured.block).cloned();
        let Some(unrecorded) = self.unrecorded.get_mut(&captured.block) else { return };
        let mut durable = unrecorded.durable.take().unwrap_or_else(Delta::nothing);
        durable.set_own(epoch, captured.block, captured.own.clone());
        if visible.as_ref() == Some(&durable) {
            self.unrecorded.remove(&captured.block);
        } else {
            unrecorded.durable = Some(durable);
        }
    }
}

/// Own objects that a flush has to sync.
#[derive(Default)]
struct Dirty {
    /// Those that the log or a map names: a record is written only after a
    /// sync of the whole object, so their names are durable already.
    recorded: Vec<ObjectName>,
    /// Those that may be new.
    others: Vec<ObjectName>,
}

/// The record of an own object's state.
pub(super) fn own_record(epoch: Id, block: u64, own: &Own, settled: u64) -> Record {
    let presence: Option<Presence> = match own {
        Own::Part(presence) => Some(presence.clone()),
        _ => None,
    };
    Record::Own { epoch, block, settled, presence }
}

impl Volume {
    /// Everything that completed before this call is durable afterwards. An
    /// error of a sync poisons the volume.
    pub fn flush(self: &Arc<Self>) -> Result<()> {
        let _flushing = self.flushing.lock();
        self.flush_locked()
    }

    /// `flush` for whoever holds `flushing`.
    pub(super) fn flush_locked(self: &Arc<Self>) -> Result<()> {
        self.check_alive()?;
        let (epoch, dirty, captured) = self.capture_dirty();
        if fault::on(fault::Planted::LogSyncedFirst) {
            self.record_owned(epoch, &captured)?;
            self.sync_log()?;
            self.sync_dirty(dirty)?;
            return Ok(());
        }
        if fault::on(fault::Planted::RecordBeforeContent) {
            self.record_owned(epoch, &captured)?;
            self.sync_dirty(dirty)?;
        } else {
            self.sync_dirty(dirty)?;
            self.record_owned(epoch, &captured)?;
        }
        self.sync_log()?;
        self.lease_confirm()
    }

    fn capture_dirty(&self) -> (Id, Dirty, Vec<Captured>) {
        let mut state = self.state.lock();
        let epoch = state.epoch();
        let mut written = std::mem::take(&mut state.dirty);
        let captured: Vec<Captured> =
            state.unrecorded.keys().filter_map(|block| state.capture(*block)).collect();
        written.extend(captured.iter().map(|captured| (epoch, captured.block)));
        let mut written: Vec<(Id, u64)> = written.into_iter().collect();
        written.sort_unstable();
        let mut dirty = Dirty::default();
        for (of, index) in written {
            let name = ObjectName::Block { epoch: of, index };
            let recorded = of == epoch && state.is_recorded(index);
            if recorded || fault::on(fault::Planted::NameNotSynced) {
                dirty.recorded.push(name);
            } else {
                dirty.others.push(name);
            }
        }
        (epoch, dirty, captured)
    }

    /// With one sync: two would be two of a whole store.
    fn sync_dirty(&self, dirty: Dirty) -> Result<()> {
        let Dirty { recorded, mut others } = dirty;
        if others.is_empty() {
            return self.sync_recorded(&recorded);
        }
        others.extend(recorded);
        self.sync_blocks(&others)
    }

    /// As `sync_blocks`, for objects whose names are durable.
    fn sync_recorded(&self, names: &[ObjectName]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        self.store.blocks().sync_content(names).map_err(|error| self.poison(error))
    }

    pub(super) fn sync_blocks(&self, names: &[ObjectName]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        self.store.blocks().sync(names).map_err(|error| self.poison(error))
    }

    /// Appends a record for each captured block and waits for them.
    fn record_owned(self: &Arc<Self>, epoch: Id, captured: &[Captured]) -> Result<()> {
        if captured.is_empty() {
            return Ok(());
        }
        let (sender, receiver) = channel::unbounded();
        let drafts: Vec<Draft> = captured
            .iter()
            .map(|c| {
                let sender = sender.clone();
                let record = own_record(epoch, c.block, &c.own, c.settled);
                Draft { record, data: None, done: Box::new(move |result| drop(sender.send(result))) }
            })
            .collect();
        if self.log.append(drafts) {
            self.have_log_driven();
        }
        for captured in captured {
            let result = receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?;
            result.map_err(|error| self.poison_unless_full(error))?;
            self.state.lock().note_recorded(epoch, captured);
        }
        Ok(())
    }

    pub(super) fn sync_log(&self) -> Result<()> {
        self.log.sync().map_err(|error| self.poison(error))
    }

    /// After a write with FUA: this write is durable afterwards.
    pub fn make_durable(self: &Arc<Self>, begun: &super::write::Begun) -> Result<()> {
        if begun.way == super::write::Way::Log {
            self.check_alive()?;
            self.sync_log()?;
            return self.lease_confirm();
        }
        let recorded = {
            let state = self.state.lock();
            // If a cut came in between, a whole flush is certainly enough.
            begun.epoch == state.epoch() && state.is_recorded(begun.block)
        };
        if !recorded || self.log.is_dirty() {
            return self.flush();
        }
        self.check_alive()?;
        self.sync_recorded(&[begun.name()])?;
        self.lease_confirm()
    }
}
