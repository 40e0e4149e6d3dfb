//! Which parts of a volume hold data, and what it takes in the store.

use super::read::{From, Step};
use super::Volume;
use crate::error::{ErrorKind, Result};
use crate::map::Entry;
use crate::name::Id;

/// Blocks looked at by one `block_status`.
const BLOCKS_MAX: u64 = 1 << 16;

/// What a range reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Data,
    Zero,
}

/// What a volume takes, in bytes, about: whole blocks are counted where a
/// block is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks of the current epoch.
    pub own_bytes: u64,
    /// Blocks that snapshots or clones may use too.
    pub shared_bytes: u64,
    /// Log that has not been settled.
    pub log_bytes: u64,
}

impl Volume {
    /// What is at `offset_bytes`, and for how many of the next `bytes` that
    /// holds. May load map pages.
    pub fn block_status(&self, offset_bytes: u64, bytes: u64) -> Result<(Status, u64)> {
        self.check_range(offset_bytes, bytes)?;
        let mut found: Option<(Status, u64)> = None;
        for part in self.parts(offset_bytes, bytes).take(BLOCKS_MAX as usize) {
            let (status, length) = self.part_status(part.block, part.start, part.end)?;
            match &mut found {
                None => found = Some((status, length)),
                Some((first, total)) if *first == status => *total += length,
                Some(_) => break,
            }
            if length < u64::from(part.end - part.start) {
                break;
            }
        }
        Ok(found.unwrap_or((Status::Zero, 0)))
    }

    /// The status at `start` of a block and for how long it holds.
    fn part_status(&self, block: u64, start: u32, end: u32) -> Result<(Status, u64)> {
        let mut steps = loop {
            let planned = self.state.lock().plan_read(block, start, end);
            if let Ok(steps) = planned {
                break steps;
            }
            self.load_entry(block)?;
        };
        steps.sort_by_key(|step| step.at);
        let mut found: Option<(Status, u64)> = None;
        for step in &steps {
            let (status, length) = self.step_status(step)?;
            match &mut found {
                None => found = Some((status, length)),
                Some((first, total)) if *first == status => *total += length,
                Some(_) => break,
            }
            if length < step.bytes as u64 {
                break;
            }
        }
        Ok(found.unwrap_or((Status::Zero, 0)))
    }

    /// What a step begins with and for how long: an own object has holes
    /// where nothing was written.
    fn step_status(&self, step: &Step) -> Result<(Status, u64)> {
        let bytes = step.bytes as u64;
        let (name, start) = match &step.from {
            From::Zero => return Ok((Status::Zero, bytes)),
            From::Log { .. } => return Ok((Status::Data, bytes)),
            From::Object { name, offset_bytes, .. } => (name, *offset_bytes),
        };
        let next = match self.store.blocks().next_data(name, start) {
            // Merged away since: whoever reads it will see.
            Err(error) if error.is(ErrorKind::NotFound) => return Ok((Status::Data, bytes)),
            other => other?,
        };
        Ok(match next {
            Some((data, end)) if data <= start => (Status::Data, end.saturating_sub(start).min(bytes)),
            Some((data, _)) => (Status::Zero, (data - start).min(bytes)),
            None => (Status::Zero, bytes),
        })
    }

    /// Visits runs of blocks and their composed entries, pieces aside.
    pub fn scan(&self, visit: &mut dyn FnMut(u64, u64, &Entry) -> Result<()>) -> Result<()> {
        let (count, map, changed) = {
            let state = self.state.lock();
            let mut changed: Vec<u64> = Vec::new();
            for generation in &state.generations {
                changed.extend(generation.deltas.keys());
            }
            changed.sort_unstable();
            changed.dedup();
            (state.block_count(), std::sync::Arc::clone(&state.map), changed)
        };
        let mut at = 0;
        for block in changed.into_iter().filter(|block| *block < count) {
            map.scan(at, block, visit)?;
            let entry = loop {
                let found = self.state.lock().entry(block);
                if let Ok(beneath) = found {
                    break beneath.entry;
                }
                self.load_entry(block)?;
            };
            visit(block, 1, &entry)?;
            at = block + 1;
        }
        map.scan(at, count, visit)
    }

    /// The epoch that is written in place now.
    pub fn epoch(&self) -> Id {
        self.state.lock().epoch()
    }

    /// Bytes of log that are not settled, and how many there may be.
    pub fn log_fill(&self) -> (u64, u64) {
        let position = self.state.lock().head.log.position;
        (self.log.bytes_since(position), self.log_limit_bytes)
    }

    /// Counts what the volume's entries name.
    pub fn usage(&self) -> Result<Usage> {
        let (epoch, block_bytes) = (self.epoch(), self.block_bytes);
        let mut usage = Usage {
            log_bytes: self.log.bytes_since(self.state.lock().head.log.position),
            ..Usage::default()
        };
        let granule = crate::store::GRANULE_BYTES;
        self.scan(&mut |_, count, entry| {
            let mut add = |of: Id, bytes: u64| match of == epoch {
                true => usage.own_bytes += bytes * count,
                false => usage.shared_bytes += bytes * count,
            };
            match entry {
                Entry::Zero => {}
                Entry::Block { epoch, .. } => add(*epoch, block_bytes),
                Entry::Layers { layers, base } => {
                    for layer in layers.iter() {
                        add(layer.epoch, u64::from(layer.presence.count_ones()) * granule);
                    }
                    if let crate::map::Base::Block { epoch, .. } = base {
                        add(*epoch, block_bytes);
                    }
                }
            }
            Ok(())
        })?;
        Ok(usage)
    }
}
