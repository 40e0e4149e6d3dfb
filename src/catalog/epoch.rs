//! Epochs: store-wide unique numbers that name who may overwrite a block in
//! place. Claiming one leaves an object behind, so that gc knows what may
//! still be in the making.
//!
//! Object `epoch/<id>`, magic `ARCHepoc`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0     16  epoch id, as in the name
//!     16     16  volume that it was claimed for
//!     32      8  gc generation when it was claimed
//!     40      8  claimed, seconds since 1970
//!     48      -  who claimed it, for people: u16 length, text
//! ```
//!
//! The generation decides what gc may touch: gc of generation `g` leaves
//! alone whatever belongs to an epoch claimed at `g - 1` or later, whether a
//! head names it yet or not. Without clocks, that gives a creator until the
//! second gc after its claim to publish.

use super::maintenance;
use crate::backend::BackendExt;
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::error::{ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::store::Store;

const KIND: Kind = Kind { magic: *b"ARCHepoc", version: 1 };
const BYTES_MAX: u64 = 64 << 10;

/// What is known about an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub id: Id,
    pub volume: Id,
    /// The store's gc generation when it was claimed.
    pub generation: u64,
    pub claimed_s: u64,
    pub holder: String,
}

impl Epoch {
    /// Whether gc of `generation` must leave this epoch's objects alone, even
    /// if nothing leads to them.
    pub fn is_young(&self, generation: u64) -> bool {
        self.generation.saturating_add(1) >= generation
    }
}

/// Claims a new epoch for a volume. `holder` is a word for people.
pub fn claim(store: &Store, volume: Id, holder: &str) -> Result<Id> {
    claim_in(store, maintenance::generation(store)?, volume, holder)
}

/// As `claim`, for who has just asked for gc's generation. An older one only
/// makes the claim shorter.
pub fn claim_in(store: &Store, generation: u64, volume: Id, holder: &str) -> Result<Id> {
    let epoch = of_now(generation, volume, holder)?;
    let (name, data) = claim_of(&epoch);
    store.control().create(&name, &data)?;
    Ok(epoch.id)
}

/// A new epoch, which is claimed when there is what `claim_of` says.
pub(super) fn of_now(generation: u64, volume: Id, holder: &str) -> Result<Epoch> {
    let (id, claimed_s) = (clock::random_id()?, clock::wall().as_secs());
    Ok(Epoch { id, volume, generation, claimed_s, holder: holder.to_owned() })
}

pub(super) fn claim_of(epoch: &Epoch) -> (ObjectName, Vec<u8>) {
    (ObjectName::Epoch(epoch.id), encode(epoch))
}

/// Error: `NotFound`.
pub fn read(store: &Store, id: Id) -> Result<Epoch> {
    let name = ObjectName::Epoch(id);
    decode(&name, &store.control().read_summed(&name, BYTES_MAX)?)
}

/// Forgets an epoch that nothing was written under. An epoch that is left
/// behind is gc's to collect.
pub(super) fn abandon(store: &Store, id: Id) {
    if let Err(error) = store.control().delete(&ObjectName::Epoch(id)) {
        if !error.is(ErrorKind::NotFound) {
            log::debug!("epoch {id} is left to gc: {}", error.full());
        }
    }
}

fn encode(epoch: &Epoch) -> Vec<u8> {
    let mut out = Writer::with_capacity(128);
    out.id(epoch.id);
    out.id(epoch.volume);
    out.u64(epoch.generation);
    out.u64(epoch.claimed_s);
    out.text(&epoch.holder);
    codec::seal(KIND, &out.0)
}

/// The bytes that a claim writes: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(epoch: &Epoch) -> Vec<u8> {
    encode(epoch)
}

/// Reads an epoch's bytes. Errors: `Corrupt`; `Invalid` if it is newer than
/// this program.
pub fn decode(name: &ObjectName, data: &[u8]) -> Result<Epoch> {
    let mut fields = codec::open(KIND, name, data)?;
    let id = fields.id()?;
    if *name != ObjectName::Epoch(id) {
        return Err(fields.damaged(format!("it says that it is epoch {id}")));
    }
    let volume = fields.id()?;
    let generation = fields.u64()?;
    let claimed_s = fields.u64()?;
    let holder = fields.text()?.to_owned();
    fields.finish()?;
    Ok(Epoch { id, volume, generation, claimed_s, holder })
}
