//! Growing and shrinking.

use std::cmp::Ordering;
use std::sync::Arc;

use super::pieces::{Piece, Source};
use super::state::State;
use super::Volume;
use crate::catalog::{epoch, VOLUME_BYTES_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::{CutSnapshot, Record};
use crate::name::Id;

impl State {
    /// What a cut record says happened, in the order of the log.
    pub(super) fn note_any_cut(
        &mut self,
        position: u64,
        epoch: Id,
        taken: Option<CutSnapshot>,
        shrink_bytes: Option<u64>,
    ) {
        match taken {
            Some(taken) => self.note_snapshot_cut(position, epoch, taken),
            None => self.note_epoch(position, epoch),
        }
        if let Some(bytes) = shrink_bytes {
            self.note_shrink(position, bytes);
        }
        self.cutting = false;
    }

    /// Everything at and beyond `size_bytes` is gone: growing again shows
    /// zeroes.
    fn note_shrink(&mut self, position: u64, size_bytes: u64) {
        self.size_bytes = size_bytes;
        if fault::on(fault::Planted::ShrinkKeepsTail) {
            return;
        }
        let (last, inside) = (size_bytes / self.block_bytes, (size_bytes % self.block_bytes) as u32);
        let count = size_bytes.div_ceil(self.block_bytes);
        let block_bytes = self.block_bytes as u32;
        let live = self.live_mut();
        live.cut_off = live.cut_off.min(count);
        live.deltas.split_off(&count);
        live.pieces.cut_off(last, inside);
        if inside > 0 {
            let piece =
                Piece { start: inside, end: block_bytes, position: position - 1, source: Source::Blank };
            live.pieces.insert(last, piece);
        }
        self.unrecorded.split_off(&count);
    }

    pub(super) fn note_grow(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes;
    }
}

impl Volume {
    /// Changes the size. Durable on return; grown space reads as zeroes. To
    /// shrink, `shrink` must be set and no request may be in flight beyond
    /// the new end. Errors: `Invalid`.
    pub fn resize(self: &Arc<Self>, size_bytes: u64, shrink: bool) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        self.check_writable()?;
        self.check_size(size_bytes, shrink)?;
        match size_bytes.cmp(&self.size_bytes()) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => self.grow(size_bytes),
            Ordering::Less => {
                let claimed = epoch::claim(&self.store, self.id, &self.name)?;
                self.cut(claimed, None, Some(size_bytes))
            }
        }
    }

    /// Whether the volume, however it is open, can be made this large.
    /// Errors: as of `resize`.
    pub fn check_size(&self, size_bytes: u64, shrink: bool) -> Result<()> {
        let old_bytes = self.size_bytes();
        if size_bytes > VOLUME_BYTES_MAX {
            return Err(Error::sentence(
                ErrorKind::Invalid,
                format!("{size_bytes} bytes are more than a volume can have ({VOLUME_BYTES_MAX})"),
            ));
        }
        if size_bytes < old_bytes && !shrink {
            return Err(Error::sentence(
                ErrorKind::Invalid,
                format!(
                    "volume '{}' has {old_bytes} bytes: to make it smaller destroys what lies beyond \
                     {size_bytes} and must be asked for (--shrink)",
                    self.name
                ),
            ));
        }
        Ok(())
    }

    fn grow(self: &Arc<Self>, size_bytes: u64) -> Result<()> {
        self.log
            .append_now_by(Record::Grow { size_bytes }, || self.have_log_driven())
            .map_err(|error| self.poison_unless_full(error))?;
        self.sync_log()?;
        self.lease_confirm()?;
        self.state.lock().note_grow(size_bytes);
        Ok(())
    }
}
