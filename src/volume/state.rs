//! What an open volume knows, under one lock.
//!
//! The content of a volume is a stack: the base map, and over it one
//! *generation* for each cut that is not published yet, the live one on top.
//! A generation holds the logged pieces and the deltas of its time. Reading
//! walks from the top: pieces, then the delta's layers, then what is beneath.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::delta::{own_of, Bottom, Delta, Own};
use super::pieces::Pieces;
use crate::catalog::head::Head;
use crate::fault::{self, Planted};
use crate::log::CutSnapshot;
use crate::map::{Base, Entry, Map};
use crate::name::{Id, ObjectName};

/// The map page that is needed is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLoaded;

/// A cut that ended a generation.
#[derive(Clone, Debug)]
pub struct Cut {
    pub snapshot: CutSnapshot,
    /// Just behind the cut's record.
    pub position: u64,
}

/// The time between two cuts.
#[derive(Debug)]
pub struct Generation {
    /// The epochs that were current, and from which position on. More than
    /// one after an unclean open or a shrink; the last may be overwritten in
    /// place while this generation is live.
    pub epochs: Vec<(u64, Id)>,
    pub pieces: Pieces,
    /// What reads see.
    pub deltas: BTreeMap<u64, Delta>,
    /// What lies beneath this generation at and beyond this block is gone.
    pub cut_off: u64,
    pub size_bytes: u64,
    /// `None` while it is live.
    pub cut: Option<Cut>,
}

impl Generation {
    pub fn new(position: u64, epoch: Id, size_bytes: u64) -> Generation {
        Generation {
            epochs: vec![(position, epoch)],
            pieces: Pieces::default(),
            deltas: BTreeMap::new(),
            cut_off: u64::MAX,
            size_bytes,
            cut: None,
        }
    }

    pub fn epoch(&self) -> Id {
        self.epochs.last().map_or(Id::NONE, |(_, epoch)| *epoch)
    }

    /// The epoch that was current at a position.
    pub fn epoch_at(&self, position: u64) -> Id {
        let at = self.epochs.iter().rev().find(|(from, _)| *from <= position);
        at.or(self.epochs.first()).map_or(Id::NONE, |(_, epoch)| *epoch)
    }

    pub fn knows_epoch(&self, epoch: Id) -> bool {
        self.epochs.iter().any(|(_, known)| *known == epoch)
    }
}

/// An own block whose state in memory is ahead of the log: its record waits
/// until its content is durable.
#[derive(Clone, Debug)]
pub struct Unrecorded {
    /// The delta as the log has it; `None`: there is none.
    pub durable: Option<Delta>,
    /// Pieces before this position are superseded by the own object.
    pub settled: u64,
    /// The oldest of those; the log is needed from there until the record.
    pub oldest: u64,
}

/// What is going on in a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Appends to the log that have not completed.
    pub logging: u32,
    /// Writes to an own object's granules that are not present yet.
    pub direct: u32,
    pub settling: bool,
}

/// Everything behind a volume's lock.
#[derive(Debug)]
pub struct State {
    pub head: Head,
    pub map: Arc<Map>,
    /// Oldest first, the live one last; never empty.
    pub generations: VecDeque<Generation>,
    /// A cut is being taken: every write goes to the log.
    pub cutting: bool,
    pub busy: HashMap<u64, Busy>,
    /// Writes to own objects that have not completed.
    pub in_place: usize,
    /// Own objects written since they were last synced.
    pub dirty: HashSet<(Id, u64)>,
    pub unrecorded: BTreeMap<u64, Unrecorded>,
    /// Blocks whose own object may hold content that nothing vouches for,
    /// because a write into it failed: it does not begin as zeroes any more
    /// in this epoch.
    pub tainted: HashSet<u64>,
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub written: bool,
    /// The store of its blocks can overwrite; see `whole`.
    pub overwrites: bool,
}

/// What is beneath the live generation's own object of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beneath {
    pub entry: Entry,
    /// A generation that is not live has pieces in this block.
    pub lower_pieces: bool,
}

impl State {
    pub fn granules(&self) -> u32 {
        (self.block_bytes / crate::store::GRANULE_BYTES) as u32
    }

    pub fn block_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    pub fn live(&self) -> &Generation {
        &self.generations[self.generations.len() - 1]
    }

    pub fn live_mut(&mut self) -> &mut Generation {
        let last = self.generations.len() - 1;
        &mut self.generations[last]
    }

    pub fn epoch(&self) -> Id {
        self.live().epoch()
    }

    pub fn own_name(&self, block: u64) -> ObjectName {
        ObjectName::Block { epoch: self.epoch(), index: block }
    }

    /// The composed entry of a block as generation `top` sees it, pieces
    /// aside.
    pub fn entry_at(&self, top: usize, block: u64) -> Result<Beneath, NotLoaded> {
        let mut stack: Vec<&Delta> = Vec::new();
        let mut lower_pieces = false;
        let mut bottom = None;
        for at in (0..=top).rev() {
            let generation = &self.generations[at];
            lower_pieces |= at < top && generation.pieces.of(block).is_some();
            if let Some(delta) = generation.deltas.get(&block) {
                stack.push(delta);
                if let Bottom::Base(_) = delta.bottom {
                    bottom = Some(Entry::Zero);
                    break;
                }
            }
            if block >= generation.cut_off {
                bottom = Some(Entry::Zero);
                break;
            }
        }
        let mut entry = match bottom {
            Some(entry) => entry,
            None => self.map.peek(block).ok_or(NotLoaded)?,
        };
        for delta in stack.iter().rev() {
            entry = delta.over(&entry);
        }
        Ok(Beneath { entry, lower_pieces })
    }

    /// The composed entry that reads of the live volume see, pieces aside.
    pub fn entry(&self, block: u64) -> Result<Beneath, NotLoaded> {
        self.entry_at(self.generations.len() - 1, block)
    }

    /// What the live epoch's own object of a block holds.
    pub fn own(&self, block: u64) -> Result<Own, NotLoaded> {
        Ok(own_of(&self.entry(block)?.entry, self.epoch(), block))
    }

    /// The delta of the live generation as the log will have it.
    pub fn durable_delta(&self, block: u64) -> Option<Delta> {
        match self.unrecorded.get(&block) {
            Some(unrecorded) => unrecorded.durable.clone(),
            None => self.live().deltas.get(&block).cloned(),
        }
    }

    pub fn busy_mut(&mut self, block: u64) -> &mut Busy {
        self.busy.entry(block).or_default()
    }

    /// Forgets a block in which nothing goes on.
    pub fn calm(&mut self, block: u64) {
        if let Some(busy) = self.busy.get(&block) {
            if busy.logging == 0 && busy.direct == 0 && !busy.settling {
                self.busy.remove(&block);
            }
        }
    }

    pub fn is_settling(&self, block: u64) -> bool {
        self.busy.get(&block).is_some_and(|busy| busy.settling)
    }

    /// True if nobody will write to this epoch's blocks again, in this process or
    /// another. Those of a cut that is not published yet are settled into still.
    pub fn is_sealed(&self, epoch: Id) -> bool {
        if fault::on(Planted::OwnBlocksKept) || (fault::on(Planted::CutBlocksKept) && epoch != self.epoch()) {
            return true;
        }
        !self.overwrites || self.generation_of(epoch).is_none()
    }

    /// The oldest log position that must not be dropped, given that all
    /// before `applied` is in `deltas` and `pieces`.
    pub fn log_needed_from(&self, applied: u64) -> u64 {
        let mut needed = applied;
        for generation in &self.generations {
            if let Some((position, _)) = generation.pieces.oldest() {
                needed = needed.min(position);
            }
        }
        for unrecorded in self.unrecorded.values() {
            needed = needed.min(unrecorded.oldest);
        }
        needed
    }

    /// Index of the generation in which an epoch was current.
    pub fn generation_of(&self, epoch: Id) -> Option<usize> {
        self.generations.iter().rposition(|generation| generation.knows_epoch(epoch))
    }

    /// True if the composed entry is zeroes and nothing is logged over it.
    pub fn is_blank(&self, block: u64) -> Result<bool, NotLoaded> {
        let beneath = self.entry(block)?;
        let logged = self.live().pieces.of(block).is_some();
        Ok(beneath.entry == Entry::Zero && !beneath.lower_pieces && !logged)
    }
}

/// Objects that an entry names, newest first, with what each covers.
pub fn base_name(base: &Base) -> Option<ObjectName> {
    match base {
        Base::Zero => None,
        Base::Block { epoch, index } => Some(ObjectName::Block { epoch: *epoch, index: *index }),
    }
}
