//! What has changed about a block since the map beneath was written: layers
//! to lay over it, or something to replace it.

use std::sync::Arc;

use crate::map::{Base, Entry, Layer, Presence};
use crate::name::Id;

/// What lies under a delta's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bottom {
    /// Whatever the generation beneath says.
    Below,
    Base(Base),
}

/// Layers, newest first, over a bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    pub layers: Vec<Layer>,
    pub bottom: Bottom,
}

/// How much of a block its own object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    /// There is no own object.
    None,
    /// An own layer with these granules.
    Part(Presence),
    /// The whole block.
    Whole,
}

impl Delta {
    pub fn zero() -> Delta {
        Delta { layers: Vec::new(), bottom: Bottom::Base(Base::Zero) }
    }

    pub fn nothing() -> Delta {
        Delta { layers: Vec::new(), bottom: Bottom::Below }
    }

    /// Sets the state of the object of `epoch`: the newest there is.
    pub fn set_own(&mut self, epoch: Id, block: u64, own: Own) {
        match own {
            Own::None => {}
            Own::Whole => {
                self.layers.clear();
                self.bottom = Bottom::Base(Base::Block { epoch, index: block });
            }
            Own::Part(presence) => {
                if self.layers.first().is_some_and(|layer| layer.epoch == epoch) {
                    self.layers.remove(0);
                }
                self.layers.insert(0, Layer { epoch, presence });
            }
        }
    }

    /// This delta laid over what was beneath it.
    pub fn over(&self, below: &Entry) -> Entry {
        let mut layers = self.layers.clone();
        let base = match &self.bottom {
            Bottom::Base(base) => base.clone(),
            Bottom::Below => match below {
                Entry::Zero => Base::Zero,
                Entry::Block { epoch, index } => Base::Block { epoch: *epoch, index: *index },
                Entry::Layers { layers: lower, base } => {
                    // The same object seen twice: the upper one knows more.
                    let seen: Vec<Id> = layers.iter().map(|layer| layer.epoch).collect();
                    layers.extend(lower.iter().filter(|layer| !seen.contains(&layer.epoch)).cloned());
                    base.clone()
                }
            },
        };
        if !layers.is_empty() {
            return Entry::Layers { layers: Arc::from(layers), base };
        }
        match base {
            Base::Zero => Entry::Zero,
            Base::Block { epoch, index } => Entry::Block { epoch, index },
        }
    }
}

/// What the object of `epoch` holds of an entry.
pub fn own_of(entry: &Entry, epoch: Id, block: u64) -> Own {
    match entry {
        Entry::Block { epoch: e, index } if *e == epoch && *index == block => Own::Whole,
        Entry::Layers { layers, .. } => match layers.first() {
            Some(layer) if layer.epoch == epoch => Own::Part(layer.presence.clone()),
            _ => Own::None,
        },
        _ => Own::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(epoch: u128, granule: u32) -> Layer {
        let mut presence = Presence::empty(4);
        presence.set_range(granule, granule + 1);
        Layer { epoch: Id(epoch), presence }
    }

    fn layers(list: Vec<Layer>, base: Base) -> Entry {
        Entry::Layers { layers: Arc::from(list), base }
    }

    #[test]
    fn the_same_object_is_one_layer() {
        let below = layers(vec![layer(1, 0)], Base::Block { epoch: Id(9), index: 9 });
        let mut delta = Delta::nothing();
        delta.set_own(Id(1), 3, Own::Part(layer(1, 2).presence));
        let expected = layers(vec![layer(1, 2)], Base::Block { epoch: Id(9), index: 9 });
        assert_eq!(delta.over(&below), expected);
        delta.set_own(Id(2), 3, Own::Part(layer(2, 1).presence));
        let expected = layers(vec![layer(2, 1), layer(1, 2)], Base::Block { epoch: Id(9), index: 9 });
        assert_eq!(delta.over(&below), expected);
    }

    #[test]
    fn a_whole_block_hides_everything() {
        let below = layers(vec![layer(1, 0)], Base::Zero);
        let mut delta = Delta::nothing();
        delta.set_own(Id(2), 3, Own::Whole);
        assert_eq!(delta.over(&below), Entry::Block { epoch: Id(2), index: 3 });
        assert_eq!(Delta::zero().over(&below), Entry::Zero);
    }
}
