//! Pages in memory. A leaf takes 4 bytes for each common entry: the epochs
//! and whatever is not common are in tables beside it.

use std::collections::BTreeMap;

use super::entry::{Base, Entry, Layer};
use super::PAGE_ENTRIES;
use crate::name::Id;

/// A page's id and the hash of its object; `NONE`: all `Zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageRef {
    pub id: Id,
    pub hash: [u8; 32],
}

impl PageRef {
    pub const NONE: PageRef = PageRef { id: Id::NONE, hash: [0; 32] };

    pub fn is_none(&self) -> bool {
        self.id.is_none()
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub level: u8,
    /// The index of the first entry beneath.
    pub first: u64,
    pub body: Body,
}

#[derive(Debug, PartialEq)]
pub(super) enum Body {
    Leaf(Leaf),
    Parent(Parent),
}

/// Tags in the two highest bits of a slot; the rest is a position in a table.
const SLOT_ZERO: u32 = 0;
const TAG_OWN: u32 = 1 << 30;
const TAG_OTHER: u32 = 2 << 30;
const TAG_MASK: u32 = 3 << 30;

/// Up to 1,024 entries; those beyond `slots` are `Zero`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Leaf {
    slots: Vec<u32>,
    /// Ascending, each once.
    epochs: Vec<Id>,
    others: Vec<Entry>,
    /// The page in the store has sums, which are not kept in memory.
    pub summed: bool,
}

impl Leaf {
    /// Entries of the indices from `first` on.
    pub fn from_entries(first: u64, entries: &[Entry]) -> Leaf {
        let mut epochs = Vec::new();
        for entry in entries {
            entry.each_epoch(&mut |epoch| {
                // Neighbours are mostly of one epoch.
                if epochs.last() != Some(&epoch) {
                    epochs.push(epoch);
                }
            });
        }
        epochs.sort_unstable();
        epochs.dedup();
        epochs.shrink_to_fit();
        let mut leaf = Leaf::with_epochs(epochs);
        let used = entries.iter().rposition(|entry| *entry != Entry::Zero).map_or(0, |last| last + 1);
        leaf.slots.reserve_exact(used);
        for (index, entry) in (first..).zip(&entries[..used]) {
            let own = match entry {
                Entry::Block { epoch, index: of } if *of == index => leaf.epoch_position(*epoch),
                _ => None,
            };
            match (entry, own) {
                (Entry::Zero, _) => leaf.slots.push(SLOT_ZERO),
                (_, Some(epoch)) => leaf.slots.push(TAG_OWN | u32::from(epoch)),
                (other, None) => leaf.push_other(other.clone()),
            }
        }
        leaf.others.shrink_to_fit();
        leaf
    }

    pub fn with_epochs(epochs: Vec<Id>) -> Leaf {
        Leaf { slots: Vec::new(), epochs, others: Vec::new(), summed: false }
    }

    /// Appends entries of one kind; false if that makes too many.
    #[must_use]
    pub fn push_run(&mut self, count: u16, own_epoch: Option<u16>) -> bool {
        let slot = own_epoch.map_or(SLOT_ZERO, |epoch| TAG_OWN | u32::from(epoch));
        let length = self.slots.len() + usize::from(count);
        if length > PAGE_ENTRIES {
            return false;
        }
        self.slots.resize(length, slot);
        true
    }

    /// Appends an entry that is not common.
    pub fn push_other(&mut self, entry: Entry) {
        self.slots.push(TAG_OTHER | self.others.len() as u32);
        self.others.push(entry);
    }

    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.others.shrink_to_fit();
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn epochs(&self) -> &[Id] {
        &self.epochs
    }

    pub fn epoch_position(&self, epoch: Id) -> Option<u16> {
        self.epochs.binary_search(&epoch).ok().and_then(|at| u16::try_from(at).ok())
    }

    /// The entry at `slot`, whose index is `index`.
    pub fn get(&self, slot: usize, index: u64) -> Entry {
        let value = self.slots.get(slot).copied().unwrap_or(SLOT_ZERO);
        let at = (value & !TAG_MASK) as usize;
        match value & TAG_MASK {
            TAG_OWN => match self.epochs.get(at) {
                Some(epoch) => Entry::Block { epoch: *epoch, index },
                None => Entry::Zero,
            },
            TAG_OTHER => self.others.get(at).cloned().unwrap_or(Entry::Zero),
            _ => Entry::Zero,
        }
    }

    /// How many slots from `slot` on look like it: runs for the format.
    pub fn run_length(&self, slot: usize) -> usize {
        let rest = self.slots.get(slot..).unwrap_or_default();
        rest.iter().take_while(|value| Some(*value) == rest.first()).count()
    }

    pub fn entries(&self, first: u64) -> Vec<Entry> {
        (first..).zip(0..self.slots.len()).map(|(index, slot)| self.get(slot, index)).collect()
    }
}

/// Children by ascending slot; those that are not there are all `Zero`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parent {
    slots: Vec<u16>,
    children: Vec<PageRef>,
}

impl Parent {
    pub fn from_children(children: &BTreeMap<u16, PageRef>) -> Parent {
        Parent {
            slots: children.keys().copied().collect(),
            children: children.values().copied().collect(),
        }
    }

    /// Appends a child; false if it is not beyond the last one.
    #[must_use]
    pub fn push(&mut self, slot: u16, child: PageRef) -> bool {
        if self.slots.last().is_some_and(|last| *last >= slot) {
            return false;
        }
        self.slots.push(slot);
        self.children.push(child);
        true
    }

    pub fn child(&self, slot: usize) -> PageRef {
        let found = u16::try_from(slot).ok().and_then(|slot| self.slots.binary_search(&slot).ok());
        found.and_then(|at| self.children.get(at)).copied().unwrap_or(PageRef::NONE)
    }

    pub fn children(&self) -> impl Iterator<Item = (u16, PageRef)> + '_ {
        self.slots.iter().copied().zip(self.children.iter().copied())
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

impl Page {
    /// What it takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        let tables = match &self.body {
            Body::Leaf(leaf) => {
                let others: usize = leaf.others.iter().map(entry_bytes).sum();
                leaf.slots.len() * size_of::<u32>() + leaf.epochs.len() * size_of::<Id>() + others
            }
            Body::Parent(parent) => parent.len() * (size_of::<u16>() + size_of::<PageRef>()),
        };
        size_of::<Page>() + tables
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    let layers = match entry {
        Entry::Layers { layers, base: Base::Zero | Base::Block { .. } } => {
            layers.iter().map(|layer| size_of::<Layer>() + layer.presence.heap_bytes()).sum()
        }
        Entry::Zero | Entry::Block { .. } => 0,
    };
    size_of::<Entry>() + layers
}
