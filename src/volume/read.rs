//! Reading: a plan is made under one hold of the lock and pins what it names;
//! then the plan is carried out without the lock.

use std::sync::Arc;

use super::pieces::Source;
use super::state::{base_name, NotLoaded, State};
use super::{parts, Volume};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::log::Segment;
use crate::map::{Base, Entry};
use crate::name::ObjectName;
use crate::readcache::{ReadCache, Wanted, SPAN_BYTES};
use crate::store::GRANULE_BYTES;
use crate::sys::iobuf::IoBuf;

const GRANULE: u32 = GRANULE_BYTES as u32;

/// How often a read starts over because a block that it had found was merged
/// away meanwhile.
const RETRIES: u32 = 8;

/// Where a part of a read comes from.
#[derive(Clone, Debug)]
pub enum From {
    Zero,
    /// `sealed`: nobody will write to it again.
    Object { name: ObjectName, offset_bytes: u64, sealed: bool },
    /// Whole granules from the log, of which the first `skip` bytes are not
    /// wanted. Holding the segment keeps it from being deleted.
    Log { segment: Arc<Segment>, offset_bytes: u64, sums: Vec<u64>, skip: usize },
}

/// A part of a read: `bytes` bytes to position `at` of the buffer.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: usize,
    pub bytes: usize,
    pub from: From,
}

/// A range of a block that no step covers yet.
type Gap = (u32, u32);

struct Planner<'a> {
    state: &'a State,
    block: u64,
    start: u32,
    gaps: Vec<Gap>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn object(&self, name: &ObjectName, offset_bytes: u64) -> From {
        let sealed = matches!(name, ObjectName::Block { epoch, .. } if self.state.is_sealed(*epoch));
        From::Object { name: name.clone(), offset_bytes, sealed }
    }

    fn step(&mut self, start: u32, end: u32, from: From) {
        let at = (start - self.start) as usize;
        self.steps.push(Step { at, bytes: (end - start) as usize, from });
    }

    /// Takes from the gaps what `covered` yields for each; the rest stays.
    fn cover(&mut self, mut covered: impl FnMut(&mut Self, Gap) -> Vec<Gap>) {
        let gaps = std::mem::take(&mut self.gaps);
        for gap in gaps {
            let taken = covered(self, gap);
            let mut at = gap.0;
            for (start, end) in taken {
                if at < start {
                    self.gaps.push((at, start));
                }
                at = end;
            }
            if at < gap.1 {
                self.gaps.push((at, gap.1));
            }
        }
    }

    fn pieces(&mut self, state: &State, generation: usize) {
        let Some(pieces) = state.generations[generation].pieces.of(self.block) else { return };
        self.cover(|planner, gap| {
            let mut taken = Vec::new();
            for piece in pieces.overlapping(gap.0, gap.1) {
                let (start, end) = (piece.start.max(gap.0), piece.end.min(gap.1));
                planner.step(start, end, from_source(&piece.source, start, end));
                taken.push((start, end));
            }
            taken
        });
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Zero => self.base(&Base::Zero),
            Entry::Block { epoch, index } => self.base(&Base::Block { epoch: *epoch, index: *index }),
            Entry::Layers { layers, base } => {
                for layer in layers.iter() {
                    let name = ObjectName::Block { epoch: layer.epoch, index: self.block };
                    self.layer(&layer.presence, &name);
                }
                self.base(base);
            }
        }
    }

    fn layer(&mut self, presence: &crate::map::Presence, name: &ObjectName) {
        self.cover(|planner, gap| {
            let mut taken = Vec::new();
            let mut at = gap.0;
            while at < gap.1 {
                let (present, end) = presence.next_run(at / GRANULE);
                let end = end.saturating_mul(GRANULE).min(gap.1);
                if present {
                    let from = planner.object(name, u64::from(at));
                    planner.step(at, end, from);
                    taken.push((at, end));
                }
                at = end;
            }
            taken
        });
    }

    fn base(&mut self, base: &Base) {
        let name = base_name(base);
        for (start, end) in std::mem::take(&mut self.gaps) {
            let from = match &name {
                None => From::Zero,
                Some(name) => self.object(name, u64::from(start)),
            };
            self.step(start, end, from);
        }
    }
}

fn from_source(source: &Source, start: u32, end: u32) -> From {
    match source {
        Source::Blank => From::Zero,
        Source::Logged { segment, data_bytes, origin_bytes, sums } => {
            let first = (start - origin_bytes) / GRANULE;
            let last = (end - 1 - origin_bytes) / GRANULE;
            From::Log {
                segment: Arc::clone(segment),
                offset_bytes: data_bytes + u64::from(first) * GRANULE_BYTES,
                sums: sums[first as usize..=last as usize].to_vec(),
                skip: (start % GRANULE) as usize,
            }
        }
    }
}

impl State {
    /// Plans to read `start..end` of a block as generation `top` sees it.
    pub fn plan_read_at(
        &self,
        top: usize,
        block: u64,
        start: u32,
        end: u32,
    ) -> std::result::Result<Vec<Step>, NotLoaded> {
        let (gaps, steps) = (vec![(start, end)], Vec::with_capacity(1));
        let mut planner = Planner { state: self, block, start, gaps, steps };
        let mut at = top;
        loop {
            planner.pieces(self, at);
            if planner.gaps.is_empty() {
                return Ok(planner.steps);
            }
            let below_has_pieces = self.generations.range(..at).any(|g| g.pieces.of(block).is_some());
            if !below_has_pieces || self.stops_at(at, block) {
                planner.entry(&self.entry_at(at, block)?.entry);
                return Ok(planner.steps);
            }
            // Pieces lie between this generation's delta and what is beneath.
            if let Some(delta) = self.generations[at].deltas.get(&block) {
                for layer in &delta.layers {
                    let name = ObjectName::Block { epoch: layer.epoch, index: block };
                    planner.layer(&layer.presence, &name);
                }
            }
            at -= 1;
        }
    }

    fn stops_at(&self, generation: usize, block: u64) -> bool {
        let generation = &self.generations[generation];
        let hides = |delta: &super::delta::Delta| matches!(delta.bottom, super::delta::Bottom::Base(_));
        block >= generation.cut_off || generation.deltas.get(&block).is_some_and(hides)
    }

    pub fn plan_read(&self, block: u64, start: u32, end: u32) -> std::result::Result<Vec<Step>, NotLoaded> {
        self.plan_read_at(self.generations.len() - 1, block, start, end)
    }
}

fn read_object(
    blocks: &Arc<dyn Backend>,
    name: &ObjectName,
    offset_bytes: u64,
    data: &mut [u8],
) -> Result<()> {
    let read_bytes = blocks.read_at(name, offset_bytes, data)?;
    match read_bytes == data.len() {
        true => Ok(()),
        false => Err(Error::corrupt(name, "it is shorter than a block").at(offset_bytes)),
    }
}

/// Carries a plan out on this thread.
pub fn run_steps(blocks: &Arc<dyn Backend>, steps: &[Step], buf: &IoBuf) -> Result<()> {
    for step in steps {
        match &step.from {
            From::Zero => buf.fill_zero(step.at, step.bytes),
            From::Object { name, offset_bytes, .. } => {
                let mut data = vec![0; step.bytes];
                read_object(blocks, name, *offset_bytes, &mut data)?;
                buf.copy_from(step.at, &data);
            }
            From::Log { segment, offset_bytes, sums, skip } => {
                let data = segment.read_granules(*offset_bytes, sums)?;
                buf.copy_from(step.at, &data[*skip..*skip + step.bytes]);
            }
        }
    }
    Ok(())
}

impl Volume {
    /// The parts of a step that the read cache may know, each in one span; `None`
    /// if it must not be asked.
    pub fn cached<'a>(
        &'a self,
        step: &'a Step,
    ) -> Option<(&'a ReadCache, impl Iterator<Item = (Wanted, Step)> + 'a)> {
        let From::Object { name, offset_bytes, sealed: true } = &step.from else { return None };
        let cache = self.store.read_cache()?;
        let spans = parts(SPAN_BYTES, *offset_bytes, step.bytes as u64).map(move |part| {
            let offset_bytes = offset_bytes + part.at;
            let wanted = Wanted { name: name.clone(), offset_bytes, block_bytes: self.block_bytes };
            let bytes = (part.end - part.start) as usize;
            let from = From::Object { name: name.clone(), offset_bytes, sealed: true };
            (wanted, Step { at: step.at + part.at as usize, bytes, from })
        });
        Some((cache, spans))
    }

    /// As `run_steps`, with what the read cache has.
    fn run_cached(&self, steps: &[Step], buf: &IoBuf) -> Result<()> {
        let blocks = self.store.blocks();
        for step in steps {
            let Some((cache, spans)) = self.cached(step) else {
                run_steps(blocks, std::slice::from_ref(step), buf)?;
                continue;
            };
            for (wanted, part) in spans {
                let mut data = vec![0; part.bytes];
                let read = |from: u64, whole: &mut [u8]| read_object(blocks, &wanted.name, from, whole);
                cache.read(&wanted, &mut data, read)?;
                buf.copy_from(part.at, &data);
            }
        }
        Ok(())
    }

    /// Plans to read a part of one block. `None`: a page of the map must be
    /// loaded first.
    pub fn plan_read(&self, block: u64, start: u32, end: u32) -> Option<Vec<Step>> {
        self.state.lock().plan_read(block, start, end).ok()
    }

    /// Reads a part of one block, on this thread.
    pub fn read_block(&self, block: u64, start: u32, buf: &IoBuf) -> Result<()> {
        let end = start + buf.len() as u32;
        let mut tries = 0;
        loop {
            let steps = loop {
                if let Some(steps) = self.plan_read(block, start, end) {
                    break steps;
                }
                self.load_entry(block)?;
            };
            match self.run_cached(&steps, buf) {
                // Merged into another block and collected since the plan was
                // made: the entry says something else now.
                Err(error) if error.is(ErrorKind::NotFound) && tries < RETRIES => tries += 1,
                Err(error) if error.is(ErrorKind::NotFound) => {
                    return Err(error.with_kind(ErrorKind::Corrupt)
                        .because(format!("block {block} of volume '{}' needs it", self.name)));
                }
                other => return other,
            }
        }
    }

    /// Loads the map page of a block, for a plan that lacked it. Blocks.
    pub fn load_page(&self, block: u64) -> Result<()> {
        self.load_entry(block)
    }

    /// Loads the map page of a block.
    pub(crate) fn load_entry(&self, block: u64) -> Result<()> {
        let map = Arc::clone(&self.state.lock().map);
        map.get(block).map(drop)
    }
}
