//! What a map says about one index.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::presence::Presence;

/// Layers that may stand on each other.
pub const LAYERS_MAX: usize = 4;

/// What is beneath the layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    Zero,
    Block { epoch: Id, index: u64 },
}

/// An object that holds some granules of a block: `block/<epoch>/<index>`
/// with the entry's own index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub epoch: Id,
    pub presence: Presence,
}

/// Where the content of one index is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Reads as zeroes.
    Zero,
    /// All of it is in one object; `index` is the entry's own unless dedup
    /// re-pointed it.
    Block { epoch: Id, index: u64 },
    /// Newest first, 1 to `LAYERS_MAX`: a granule is in the first layer that
    /// has it, or in the base.
    Layers { layers: Arc<[Layer]>, base: Base },
}

impl Entry {
    /// Calls `name` for every object that this entry of `index` needs.
    pub fn each_block(&self, index: u64, name: &mut dyn FnMut(ObjectName)) {
        match self {
            Entry::Zero => {}
            Entry::Block { epoch, index } => name(ObjectName::Block { epoch: *epoch, index: *index }),
            Entry::Layers { layers, base } => {
                for layer in layers.iter() {
                    name(ObjectName::Block { epoch: layer.epoch, index });
                }
                if let Base::Block { epoch, index } = base {
                    name(ObjectName::Block { epoch: *epoch, index: *index });
                }
            }
        }
    }

    /// Calls `part` for every object that this entry of `index` needs: its
    /// epoch, its own index, and of a layer which granules of it count.
    pub fn each_part(&self, index: u64, part: &mut dyn FnMut(Id, u64, Option<&Presence>)) {
        match self {
            Entry::Zero => {}
            Entry::Block { epoch, index } => part(*epoch, *index, None),
            Entry::Layers { layers, base } => {
                for layer in layers.iter() {
                    part(layer.epoch, index, Some(&layer.presence).filter(|there| !there.is_full()));
                }
                if let Base::Block { epoch, index } = base {
                    part(*epoch, *index, None);
                }
            }
        }
    }

    /// Calls `epoch` for every epoch named here.
    pub(super) fn each_epoch(&self, visit: &mut dyn FnMut(Id)) {
        self.each_block(0, &mut |name| {
            if let ObjectName::Block { epoch, .. } = name {
                visit(epoch);
            }
        });
    }

    /// Refuses what no page can hold. Error: `Internal`, as only this
    /// library makes entries.
    pub(super) fn check(&self, index: u64, granules: u32) -> Result<()> {
        let mut fault = None;
        self.each_epoch(&mut |epoch| {
            if epoch.is_none() {
                fault = Some("an epoch in it is zero");
            }
        });
        if let Entry::Layers { layers, .. } = self {
            if layers.is_empty() || layers.len() > LAYERS_MAX {
                fault = Some("it has no layers or too many");
            }
            if layers.iter().any(|layer| layer.presence.granules() != granules) {
                fault = Some("a layer's bitmap has the wrong size");
            }
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(Error::sentence(
                ErrorKind::Internal,
                format!("map entry {index} cannot be written: {fault}"),
            )),
        }
    }
}
