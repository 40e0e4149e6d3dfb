//! The store's one maintainer (gc, dedup), and gc's generation: the number of
//! the last maintenance that began.
//!
//! Object `maintenance/<number>`, magic `ARCHmain`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0      8  number, as in the name
//!      8      -  who maintains: an identity, as in a lease
//!      -      8  since, seconds since 1970
//!      -     16  random: tells this claim from any other (0: it has ended)
//! ```

use super::identity::{utc_text, wall_s, Identity, Life};
use super::lease_format::{read_identity, write_identity};
use super::numbered::{Family, Found, Outcome};
use crate::backend::{Last, Lock, LockMode};
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

const KIND: Kind = Kind { magic: *b"ARCHmain", version: 1 };

/// The right to maintain a store, until dropped.
pub struct Maintenance {
    /// The generation that began with this.
    pub generation: u64,
    _lock: Option<Lock>,
}

impl std::fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Maintenance({})", self.generation)
    }
}

impl Maintenance {
    /// To be asked before each batch of deletions. Error: `Fenced` when
    /// another maintenance has begun.
    pub fn confirm(&self, store: &Store) -> Result<()> {
        if last(store)? == self.generation {
            return Ok(());
        }
        Err(Error::sentence(
            ErrorKind::Fenced,
            format!("another maintenance of store '{}' has begun: this one stops", store.name),
        ))
    }

    /// Gives the right back although this process goes on to live: where the
    /// store does not fence, others cannot tell otherwise.
    pub fn end(self, store: &Store, holder: &Identity) -> Result<()> {
        if self._lock.is_some() || last(store)? != self.generation {
            return Ok(());
        }
        let next = self.generation + 1;
        let data = encode_since(next, holder, wall_s(), Id::NONE);
        if family(store).create(next, &data)? == Outcome::Won {
            remove_below(store, next);
        }
        Ok(())
    }

    /// Begins a further generation in the same right: whoever looks at the
    /// generation before and after this finds that it moved. Errors: `Fenced`
    /// when another maintenance has begun; `NoSpace`.
    pub fn advance(&mut self, store: &Store, holder: &Identity) -> Result<()> {
        self.confirm(store)?;
        let next = self.generation + 1;
        match family(store).create(next, &encode(next, holder)?)? {
            Outcome::Won => self.generation = next,
            Outcome::Lost => return self.confirm(store),
        }
        remove_below(store, next);
        Ok(())
    }
}

fn remove_below(store: &Store, generation: u64) {
    if let Err(error) = family(store).remove_below(generation) {
        log::debug!("an old generation stays for now: {}", error.full());
    }
}

/// The last generation that began; 0 if none ever did.
pub fn generation(store: &Store) -> Result<u64> {
    generation_told(store, &Last::Untold)
}

/// As `generation`; `told` is what `Backend::last` says of `prefix::MAINTENANCE`.
pub(super) fn generation_told(store: &Store, told: &Last) -> Result<u64> {
    let last = family(store).highest_told(told)?.unwrap_or(0);
    Ok(if fault::on(fault::Planted::GenerationIgnored) { 0 } else { last })
}

fn last(store: &Store) -> Result<u64> {
    Ok(family(store).highest()?.unwrap_or(0))
}

/// Begins the next generation. Error: `Busy` while somebody else maintains
/// the store.
pub fn claim_next(store: &Store, holder: &Identity) -> Result<Maintenance> {
    let lock = if store.control().capabilities().fences {
        let lock = store.control().lock(&ObjectName::Maintenance(0), LockMode::Exclusive);
        Some(lock.map_err(|error| explain(store, error))?)
    } else {
        None
    };
    let found = family(store).latest()?;
    if let (None, Some(found)) = (&lock, &found) {
        // Without fencing only a maintainer known to live is in the way. One
        // that went away is told by the number; it asks before it deletes.
        let (who, since_s, ended) = decode(&found.name, &found.data)?;
        if !ended && holder.judge(&who) == Life::Alive && who != *holder {
            return Err(busy(store, &who, since_s));
        }
    }
    let generation = found.map_or(0, |Found { number, .. }| number) + 1;
    let data = encode(generation, holder)?;
    match family(store).create(generation, &data)? {
        Outcome::Won => {}
        Outcome::Lost => {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("another maintenance of store '{}' has just begun: try again later", store.name),
            ))
        }
    }
    remove_below(store, generation);
    Ok(Maintenance { generation, _lock: lock })
}

fn explain(store: &Store, error: Error) -> Error {
    if !error.is(ErrorKind::Busy) {
        return error;
    }
    match family(store).latest() {
        Ok(Some(found)) => match decode(&found.name, &found.data) {
            Ok((who, since_s, _)) => busy(store, &who, since_s),
            Err(_) => error,
        },
        _ => error,
    }
}

fn busy(store: &Store, who: &Identity, since_s: u64) -> Error {
    Error::sentence(
        ErrorKind::Busy,
        format!(
            "store '{}' is being maintained by process {} ({}) on host {} since {}: \
             try again when it is done",
            store.name,
            who.pid,
            who.program,
            who.host,
            utc_text(since_s)
        ),
    )
}

fn encode(number: u64, holder: &Identity) -> Result<Vec<u8>> {
    Ok(encode_since(number, holder, wall_s(), clock::random_id()?))
}

fn encode_since(number: u64, holder: &Identity, since_s: u64, random: Id) -> Vec<u8> {
    let mut out = Writer::with_capacity(256);
    out.u64(number);
    write_identity(&mut out, holder);
    out.u64(since_s);
    out.id(random);
    codec::seal(KIND, &out.0)
}

/// The bytes that a generation is claimed with: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(number: u64, holder: &Identity, since_s: u64, random: Id) -> Vec<u8> {
    encode_since(number, holder, since_s, random)
}

/// Who maintains, since when, and whether that has ended. Errors: `Corrupt`;
/// `Invalid` if it is newer than this program.
pub fn decode(name: &ObjectName, data: &[u8]) -> Result<(Identity, u64, bool)> {
    let mut fields = codec::open(KIND, name, data)?;
    let number = fields.u64()?;
    if *name != ObjectName::Maintenance(number) {
        return Err(fields.damaged(format!("it says that it is number {number}")));
    }
    let who = read_identity(&mut fields)?;
    let since_s = fields.u64()?;
    let ended = fields.id()? == Id::NONE;
    fields.finish()?;
    Ok((who, since_s, ended))
}

fn family(store: &Store) -> Family<'_> {
    Family {
        backend: store.control().as_ref(),
        prefix: prefix::MAINTENANCE.to_owned(),
        name: &ObjectName::Maintenance,
    }
}
