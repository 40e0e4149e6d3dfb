//! Blocks on a store that cannot overwrite: each is made once, whole, and never
//! changed. All else is in the log until it is settled.
//!
//! Settling makes the block anew, of what is beneath and its pieces. One that the
//! epoch has made already takes a new epoch first, which begins with a cut that
//! no snapshot needs. A snapshot's cut has another one just before it: what is
//! settled for the snapshot goes into an epoch in which nothing was made before.
//! So each block of such an epoch is settled once, and with the same content
//! whoever does it, also after a crash: a name that is taken then is no error if
//! it is the same.

use std::sync::Arc;

use super::delta::{own_of, Own};
use super::read::{run_steps, Step};
use super::settle::Settling;
use super::state::{NotLoaded, State};
use super::write::{Begun, Way};
use super::Volume;
use crate::backend::{Backend, BackendExt};
use crate::catalog::epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::map::Presence;
use crate::name::ObjectName;
use crate::store::GRANULE_BYTES;
use crate::sync::channel;
use crate::sys::iobuf::IoBuf;

/// Composed at a time, and as many blocks.
const MAKING_BYTES: u64 = 64 << 20;
const MAKING_BLOCKS: usize = 32;

/// What a volume may compose when it is closed: more stays in the log.
const CLOSE_MAKES_BYTES: u64 = 64 << 20;

/// A block to be made.
pub(super) struct Making {
    pub steps: Vec<Step>,
    /// Of what is logged.
    pub logged_bytes: u64,
}

impl State {
    /// True if the live epoch may make this block, which it has not yet.
    pub(super) fn may_make(&self, block: u64, own: &Own) -> bool {
        *own == Own::None && !self.tainted.contains(&block)
    }

    /// Where a write goes that may not overwrite.
    pub(super) fn way_without_overwriting(&self, block: u64, bytes: u32, own: &Own) -> (Way, bool) {
        let is_whole = u64::from(bytes) == self.block_bytes;
        let is_free = !self.cutting && !self.is_settling(block);
        match is_whole && is_free && self.may_make(block, own) {
            true => (Way::Create, true),
            false => (Way::Log, false),
        }
    }

    /// Plans to make a block of the oldest generation. `None`: not in this epoch.
    pub(super) fn plan_making(&self, block: u64) -> std::result::Result<Option<Making>, NotLoaded> {
        let is_live = self.generations.len() == 1;
        let generation = &self.generations[0];
        let own = own_of(&self.entry_at(0, block)?.entry, generation.epoch(), block);
        if own != Own::None || (is_live && self.tainted.contains(&block)) {
            return Ok(None);
        }
        let mut logged = Presence::empty(self.granules());
        for piece in generation.pieces.of(block).into_iter().flat_map(|pieces| pieces.iter()) {
            let (from, to) = piece.granules();
            logged.set_range(from, to);
        }
        let logged_bytes = u64::from(logged.count_ones()) * GRANULE_BYTES;
        let steps = self.plan_read_at(0, block, 0, self.block_bytes as u32)?;
        Ok(Some(Making { steps, logged_bytes }))
    }

    /// True if one of these has been made in the live epoch.
    fn is_any_made(&self, blocks: &[u64]) -> std::result::Result<bool, u64> {
        for block in blocks {
            let own = self.own(*block).map_err(|NotLoaded| *block)?;
            if !self.may_make(*block, &own) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Volume {
    /// Sees to it that the oldest generation's epoch may make these blocks. For
    /// whoever holds `maintaining`.
    pub(super) fn begin_making(self: &Arc<Self>, blocks: &[u64]) -> Result<()> {
        loop {
            let found = {
                let state = self.state.lock();
                match state.generations.len() {
                    1 => state.is_any_made(blocks),
                    _ => Ok(false),
                }
            };
            match found {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    let claimed = epoch::claim(&self.store, self.id, &self.name)?;
                    return self.cut(claimed, None, None);
                }
                Err(block) => self.load_entry(block)?,
            }
        }
    }

    /// Makes the blocks of a batch; none is under way when this returns.
    pub(super) fn make_blocks(
        &self,
        batch: &mut [Settling],
        in_flight_max: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let fits = usize::try_from(MAKING_BYTES / self.block_bytes).unwrap_or(usize::MAX);
        let count = fits.min(in_flight_max).clamp(1, MAKING_BLOCKS);
        for some in batch.chunks_mut(count) {
            let (sender, receiver) = channel::unbounded();
            let wanted = some.len();
            let jobs = some.iter_mut().filter_map(|settling| {
                let Making { steps, logged_bytes } = settling.making.take()?;
                let (blocks, sender) = (Arc::clone(self.store.blocks()), sender.clone());
                let (name, bytes) = (settling.name(), self.block_bytes as usize);
                let job = move || {
                    let result = make(&blocks, &name, &steps, bytes).map(|()| logged_bytes);
                    drop(sender.send(result));
                };
                Some(Box::new(job) as Box<dyn FnOnce() + Send>)
            });
            self.store.blocks().carry_out(jobs.collect());
            drop(sender);
            let mut results = Vec::with_capacity(wanted);
            while let (true, Ok(result)) = (results.len() < wanted, receiver.recv()) {
                results.push(result);
            }
            if results.len() < wanted {
                results.push(Err(Error::new(ErrorKind::Internal, "make a block")));
            }
            for result in results {
                progress(result?);
            }
        }
        Ok(())
    }

    /// Carries out a write of a whole block, on this thread.
    pub fn create_block(&self, begun: &Begun, data: &IoBuf) -> Result<()> {
        let mut plain = vec![0; data.len()];
        data.copy_to(0, &mut plain);
        self.store.blocks().create(&begun.name(), &plain)
    }

    pub(super) fn is_oldest_settled(&self) -> bool {
        self.state.lock().generations[0].pieces.is_empty()
    }

    /// True if closing may settle what is logged: each block of it is made anew.
    pub(super) fn is_little_to_make(&self) -> bool {
        let state = self.state.lock();
        let blocks: usize = state.generations.iter().map(|g| g.pieces.block_count()).sum();
        state.overwrites || blocks as u64 * self.block_bytes <= CLOSE_MAKES_BYTES
    }
}

/// Composes a block and makes it.
fn make(blocks: &Arc<dyn Backend>, name: &ObjectName, steps: &[Step], bytes: usize) -> Result<()> {
    let buf = IoBuf::alloc(bytes);
    run_steps(blocks, steps, &buf)?;
    let mut data = vec![0; bytes];
    buf.copy_to(0, &mut data);
    drop(buf);
    match blocks.create(name, &data) {
        Err(error) if error.is(ErrorKind::Exists) => {
            // Of a holder before this one, who was not told, or has not said so.
            match blocks.read_all(name, bytes as u64)? == data {
                true => Ok(()),
                false => Err(Error::corrupt(name, "there is another content than the log says")),
            }
        }
        other => other,
    }
}
