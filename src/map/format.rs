//! Pages as bytes; the module above has the layout. The decoder takes memory
//! in proportion to its input (and at most 4 KiB for runs), and answers
//! whatever is not a page with `Corrupt`.

use std::sync::Arc;

use super::entry::{Base, Entry, Layer, LAYERS_MAX};
use super::page::{Body, Leaf, Page, PageRef, Parent};
use super::sums::{Sums, SUMS_MAX, SUM_BYTES};
use super::{span, LEVEL_MAX, PAGE_ENTRIES};
use crate::codec::{self, Kind, Reader, Writer, ENVELOPE_BYTES};
use crate::error::Result;
use crate::name::{Id, ObjectName};
use crate::presence::Presence;

const KIND: Kind = Kind { magic: *b"ARCHpage", version: 1 };

const FLAG_SUMS: u8 = 1;

const TAG_ZERO: u8 = 0;
const TAG_OWN: u8 = 1;
const TAG_BLOCK: u8 = 2;
const TAG_LAYERS: u8 = 3;

/// Every entry may name an epoch for each layer and one for the base.
const EPOCHS_MAX: usize = PAGE_ENTRIES * (LAYERS_MAX + 1);

/// Larger than any page can be.
pub fn page_bytes_max(granules: u32) -> u64 {
    let layers = LAYERS_MAX * (2 + Presence::bytes_of(granules));
    let sums = 2 + SUMS_MAX * SUM_BYTES;
    let leaf = 2 + EPOCHS_MAX * 16 + PAGE_ENTRIES * (2 + layers + 11) + sums;
    let parent = PAGE_ENTRIES * 50;
    (ENVELOPE_BYTES + 16 + leaf.max(parent)) as u64
}

/// The whole object of a page without sums.
#[cfg(test)]
pub(super) fn encode(page: &Page, granules: u32) -> Vec<u8> {
    encode_with(page, &Sums::default(), granules)
}

/// The whole object of a page; only a leaf has sums.
pub(super) fn encode_with(page: &Page, sums: &Sums, granules: u32) -> Vec<u8> {
    let mut body = Writer::new();
    let count = match &page.body {
        Body::Leaf(leaf) => {
            let count = put_leaf(&mut body, leaf, page.first);
            if !sums.is_empty() {
                sums.put(&mut body, |epoch| leaf.epoch_position(epoch).unwrap_or(u16::MAX));
            }
            count
        }
        Body::Parent(parent) => {
            for (slot, child) in parent.children() {
                body.u16(slot);
                body.id(child.id);
                body.bytes(&child.hash);
            }
            parent.len() as u16
        }
    };
    let mut out = Writer::with_capacity(16 + body.0.len());
    out.u8(page.level);
    out.u8(if sums.is_empty() { 0 } else { FLAG_SUMS });
    out.u16(count);
    out.u32(granules);
    out.u64(page.first);
    out.bytes(&body.0);
    codec::seal(KIND, &out.0)
}

/// Appends the epochs and the items; returns how many items.
fn put_leaf(out: &mut Writer, leaf: &Leaf, first: u64) -> u16 {
    out.u16(leaf.epochs().len() as u16);
    for epoch in leaf.epochs() {
        out.id(*epoch);
    }
    let position = |epoch: Id| leaf.epoch_position(epoch).unwrap_or(u16::MAX);
    let mut items = 0;
    let mut slot = 0;
    while slot < leaf.len() {
        let index = first + slot as u64;
        let mut run = 1;
        match leaf.get(slot, index) {
            Entry::Zero => {
                run = leaf.run_length(slot);
                out.u8(TAG_ZERO);
                out.u16(run as u16);
            }
            Entry::Block { epoch, index: of } if of == index => {
                run = leaf.run_length(slot);
                out.u8(TAG_OWN);
                out.u16(run as u16);
                out.u16(position(epoch));
            }
            Entry::Block { epoch, index } => {
                out.u8(TAG_BLOCK);
                out.u16(position(epoch));
                out.u64(index);
            }
            Entry::Layers { layers, base } => {
                out.u8(TAG_LAYERS);
                out.u8(layers.len() as u8);
                for layer in layers.iter() {
                    out.u16(position(layer.epoch));
                    out.bytes(&layer.presence.to_bytes());
                }
                match base {
                    Base::Zero => out.u8(TAG_ZERO),
                    Base::Block { epoch, index: of } if of == index => {
                        out.u8(TAG_OWN);
                        out.u16(position(epoch));
                    }
                    Base::Block { epoch, index } => {
                        out.u8(TAG_BLOCK);
                        out.u16(position(epoch));
                        out.u64(index);
                    }
                }
            }
        }
        items += 1;
        slot += run;
    }
    items
}

/// Checks what a page's object begins with. Errors: `Corrupt`; `Invalid` if a
/// newer program wrote it.
pub(super) fn check_front(name: &ObjectName, front: &[u8], object_bytes: u64) -> Result<()> {
    codec::check_front(KIND, name, front, object_bytes)
}

/// Reads a whole object back. Errors: `Corrupt`; `Invalid` if a newer
/// program wrote it.
pub(super) fn decode(name: &ObjectName, data: &[u8], granules: u32) -> Result<Page> {
    decode_with(name, data, granules).map(|(page, _)| page)
}

/// As `decode`, with the sums that the page has.
pub(super) fn decode_with(name: &ObjectName, data: &[u8], granules: u32) -> Result<(Page, Sums)> {
    let mut fields = codec::open(KIND, name, data)?;
    let level = fields.u8()?;
    let flags = fields.u8()?;
    let count = fields.u16()?;
    let of_granules = fields.u32()?;
    let first = fields.u64()?;
    let flags_max = if level == 0 { FLAG_SUMS } else { 0 };
    if level > LEVEL_MAX || flags > flags_max || first % span(level) != 0 || first >= span(LEVEL_MAX) {
        return Err(fields.damaged("its first fields are not possible"));
    }
    if of_granules != granules {
        return Err(
            fields.damaged(format!("its blocks have {of_granules} granules, those of the volume {granules}"))
        );
    }
    if count == 0 || usize::from(count) > PAGE_ENTRIES {
        return Err(fields.damaged(format!("it has {count} items, possible are 1 to {PAGE_ENTRIES}")));
    }
    let mut sums = Sums::default();
    let body = match level {
        0 => {
            let mut leaf = take_leaf(&mut fields, count, first, granules)?;
            leaf.summed = flags == FLAG_SUMS;
            if leaf.summed {
                sums = Sums::take(&mut fields, leaf.epochs())?;
            }
            Body::Leaf(leaf)
        }
        _ => Body::Parent(take_parent(&mut fields, count)?),
    };
    fields.finish()?;
    Ok((Page { level, first, body }, sums))
}

fn take_parent(fields: &mut Reader<'_>, count: u16) -> Result<Parent> {
    let mut parent = Parent::default();
    for _ in 0..count {
        let slot = fields.u16()?;
        let child = PageRef { id: fields.id()?, hash: fields.array()? };
        if usize::from(slot) >= PAGE_ENTRIES || child.is_none() || !parent.push(slot, child) {
            return Err(fields.damaged(format!("its child {slot} is not possible")));
        }
    }
    Ok(parent)
}

fn take_leaf(fields: &mut Reader<'_>, count: u16, first: u64, granules: u32) -> Result<Leaf> {
    let epoch_count = usize::from(fields.u16()?);
    if epoch_count > EPOCHS_MAX || epoch_count * 16 > fields.left() {
        return Err(fields.damaged(format!("it cannot have {epoch_count} epochs")));
    }
    let mut epochs = Vec::with_capacity(epoch_count);
    for _ in 0..epoch_count {
        let epoch = fields.id()?;
        // Ascending from zero: neither zero nor twice.
        if epoch <= epochs.last().copied().unwrap_or(Id::NONE) {
            return Err(fields.damaged("its epochs are not in order"));
        }
        epochs.push(epoch);
    }
    let mut leaf = Leaf::with_epochs(epochs);
    for _ in 0..count {
        take_item(fields, &mut leaf, first, granules)?;
    }
    leaf.shrink();
    Ok(leaf)
}

fn take_item(fields: &mut Reader<'_>, leaf: &mut Leaf, first: u64, granules: u32) -> Result<()> {
    let tag = fields.u8()?;
    let fits = match tag {
        TAG_ZERO | TAG_OWN => {
            let count = fields.u16()?;
            let epoch = match tag {
                TAG_OWN => Some(take_position(fields, leaf)?),
                _ => None,
            };
            count > 0 && leaf.push_run(count, epoch)
        }
        TAG_BLOCK | TAG_LAYERS => {
            let entry = match tag {
                TAG_BLOCK => Entry::Block { epoch: take_epoch(fields, leaf)?, index: fields.u64()? },
                _ => take_layers(fields, leaf, first + leaf.len() as u64, granules)?,
            };
            let fits = leaf.len() < PAGE_ENTRIES;
            if fits {
                leaf.push_other(entry);
            }
            fits
        }
        _ => return Err(fields.damaged(format!("an entry in it is of kind {tag}, which does not exist"))),
    };
    if !fits {
        return Err(fields.damaged("a run in it is empty, or it has too many entries"));
    }
    Ok(())
}

fn take_layers(fields: &mut Reader<'_>, leaf: &Leaf, index: u64, granules: u32) -> Result<Entry> {
    let count = usize::from(fields.u8()?);
    if count == 0 || count > LAYERS_MAX {
        return Err(fields.damaged(format!("an entry in it has {count} layers, possible are 1 to 4")));
    }
    let mut layers = Vec::with_capacity(count);
    for _ in 0..count {
        let epoch = take_epoch(fields, leaf)?;
        let bits = fields.take(Presence::bytes_of(granules))?;
        let presence = Presence::from_bytes(granules, bits)
            .ok_or_else(|| fields.damaged("a presence bitmap in it has bits beyond its end"))?;
        layers.push(Layer { epoch, presence });
    }
    let base = match fields.u8()? {
        TAG_ZERO => Base::Zero,
        TAG_OWN => Base::Block { epoch: take_epoch(fields, leaf)?, index },
        TAG_BLOCK => Base::Block { epoch: take_epoch(fields, leaf)?, index: fields.u64()? },
        tag => return Err(fields.damaged(format!("a base in it is of kind {tag}, which does not exist"))),
    };
    Ok(Entry::Layers { layers: Arc::from(layers), base })
}

fn take_position(fields: &mut Reader<'_>, leaf: &Leaf) -> Result<u16> {
    let position = fields.u16()?;
    match usize::from(position) < leaf.epochs().len() {
        true => Ok(position),
        false => {
            Err(fields.damaged(format!("an entry in it is of epoch {position}, which it does not list")))
        }
    }
}

fn take_epoch(fields: &mut Reader<'_>, leaf: &Leaf) -> Result<Id> {
    let position = take_position(fields, leaf)?;
    leaf.epochs().get(usize::from(position)).copied().ok_or_else(|| fields.damaged("an epoch is missing"))
}

/// What a page says, for tests: its level, the index of its first entry, and
/// its entries or its children (slot, id, hash).
#[cfg(feature = "testkit")]
#[derive(Clone, Debug, PartialEq)]
pub struct PageContent {
    pub level: u8,
    pub first: u64,
    pub entries: Vec<super::Entry>,
    pub children: Vec<(u16, Id, [u8; 32])>,
    pub sums: Sums,
}

#[cfg(feature = "testkit")]
impl PageContent {
    /// Errors: as of `check_page`.
    pub fn decode(name: &ObjectName, data: &[u8], granules: u32) -> Result<PageContent> {
        let (page, sums) = decode_with(name, data, granules)?;
        let (entries, children) = match &page.body {
            Body::Leaf(leaf) => (leaf.entries(page.first), Vec::new()),
            Body::Parent(parent) => {
                (Vec::new(), parent.children().map(|(slot, child)| (slot, child.id, child.hash)).collect())
            }
        };
        Ok(PageContent { level: page.level, first: page.first, entries, children, sums })
    }

    pub fn encode(&self, granules: u32) -> Vec<u8> {
        let children = self.children.iter().map(|(slot, id, hash)| (*slot, PageRef { id: *id, hash: *hash }));
        let body = match self.level {
            0 => Body::Leaf(Leaf::from_entries(self.first, &self.entries)),
            _ => Body::Parent(Parent::from_children(&children.collect())),
        };
        encode_with(&Page { level: self.level, first: self.first, body }, &self.sums, granules)
    }
}

/// Whether these bytes are a well-formed page, whatever it says. For fuzzing
/// and for `check`. Errors: `Corrupt`, `Invalid`.
pub fn check_page(name: &ObjectName, data: &[u8], granules: u32) -> Result<()> {
    decode(name, data, granules).map(|_| ())
}
