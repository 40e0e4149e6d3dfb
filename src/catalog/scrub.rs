//! How far scrub has come: so that an interrupted one goes on where it was,
//! and that anybody can see when the last one ended and what it found.
//!
//! Object `scrub/<number>`, magic `ARCHscru`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0      8  number, as in the name
//!      8     16  random: tells this object from any other of the number
//!     24      8  began, seconds since 1970
//!     32      8  ended, seconds since 1970; 0: it has not
//!     40     16  compared up to this block: epoch (0: none yet)
//!     56      8  compared up to this block: index
//!     64      8  blocks compared
//!     72      8  bytes compared
//!     80      8  damaged blocks found
//! ```

use serde::Serialize;

use super::numbered::{Family, Outcome};
use crate::backend::{Lock, LockMode};
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

const KIND: Kind = Kind { magic: *b"ARCHscru", version: 1 };

/// How far one has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// Seconds since 1970.
    pub began_s: u64,
    /// Seconds since 1970; 0: it has not ended.
    pub ended_s: u64,
    /// Blocks up to this one, by epoch and index, have been compared.
    #[serde(skip)]
    pub compared: Option<(Id, u64)>,
    pub blocks: u64,
    pub bytes: u64,
    pub damaged: u64,
}

/// The right to scrub a store, until dropped.
pub struct Scrubbing {
    number: u64,
    _lock: Option<Lock>,
}

impl std::fmt::Debug for Scrubbing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrubbing({})", self.number)
    }
}

/// What the last scrub, or the one under way, has written. Errors: `Corrupt`;
/// `Invalid` if it is newer than this program.
pub fn last(store: &Store) -> Result<Option<State>> {
    let Some(found) = family(store).latest()? else { return Ok(None) };
    Ok(Some(decode(&found.name, &found.data)?))
}

/// Begins, or goes on; the state is that of the last one, ended or not. One
/// that cannot be read is as good as none.
/// Error: `Busy` while somebody else scrubs the store, where that can be told.
pub fn begin(store: &Store) -> Result<(Scrubbing, Option<State>)> {
    let mut lock = None;
    if store.control().capabilities().fences {
        let taken = store.control().lock(&ObjectName::Scrub(0), LockMode::Exclusive);
        lock = Some(taken.map_err(|error| match error.kind() {
            ErrorKind::Busy => busy(store).caused_by(error),
            _ => error,
        })?);
    }
    let number = family(store).highest()?.unwrap_or(0);
    let state = match last(store) {
        Err(error) if error.is(ErrorKind::Corrupt) => None,
        other => other?,
    };
    Ok((Scrubbing { number, _lock: lock }, state))
}

fn busy(store: &Store) -> Error {
    Error::sentence(
        ErrorKind::Busy,
        format!(
            "store '{}' is being scrubbed by another process; see: archipelago scrub --status",
            store.name
        ),
    )
}

impl Scrubbing {
    /// Makes a state durable. Error: `Busy` when somebody else has written one
    /// meanwhile: two scrubs would do each other's work.
    pub fn save(&mut self, store: &Store, state: &State) -> Result<()> {
        let number = self.number + 1;
        match family(store).create(number, &encode(number, clock::random_id()?, state))? {
            Outcome::Won => self.number = number,
            Outcome::Lost => return Err(busy(store)),
        }
        if let Err(error) = family(store).remove_below(number) {
            log::debug!("an old state of scrub stays for now: {}", error.full());
        }
        Ok(())
    }
}

fn encode(number: u64, random: Id, state: &State) -> Vec<u8> {
    let mut out = Writer::with_capacity(96);
    out.u64(number);
    out.id(random);
    out.u64(state.began_s);
    out.u64(state.ended_s);
    let (epoch, index) = state.compared.unwrap_or((Id::NONE, 0));
    out.id(epoch);
    out.u64(index);
    out.u64(state.blocks);
    out.u64(state.bytes);
    out.u64(state.damaged);
    codec::seal(KIND, &out.0)
}

/// The bytes of a state: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(number: u64, random: Id, state: &State) -> Vec<u8> {
    encode(number, random, state)
}

/// Errors: `Corrupt`; `Invalid` if it is newer than this program.
pub fn decode(name: &ObjectName, data: &[u8]) -> Result<State> {
    let mut fields = codec::open(KIND, name, data)?;
    let number = fields.u64()?;
    if *name != ObjectName::Scrub(number) {
        return Err(fields.damaged(format!("it says that it is number {number}")));
    }
    let _random = fields.id()?;
    let (began_s, ended_s) = (fields.u64()?, fields.u64()?);
    let (epoch, index) = (fields.id()?, fields.u64()?);
    let compared = (!epoch.is_none()).then_some((epoch, index));
    let state = State {
        began_s,
        ended_s,
        compared,
        blocks: fields.u64()?,
        bytes: fields.u64()?,
        damaged: fields.u64()?,
    };
    fields.finish()?;
    Ok(state)
}

fn family(store: &Store) -> Family<'_> {
    Family {
        backend: store.control().as_ref(),
        prefix: prefix::SCRUBS.to_owned(),
        name: &ObjectName::Scrub,
    }
}
