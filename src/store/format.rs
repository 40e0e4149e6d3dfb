//! The object `store`: what a place is.
//!
//! Magic `ARCHstor`. Version 1, a store with its log in itself:
//!
//! ```text
//! offset  bytes  field
//!      0     16  store id
//!     16      8  block size of volumes made without saying
//! ```
//!
//! Version 2, of which a program that knows version 1 only keeps away:
//!
//! ```text
//!     24      1  1: the log is elsewhere; 2: this is the log of another store
//!     25     16  1: id of the place of the log; 2: id of the store
//! ```
//!
//! Version 3, of which programs that know these two keep away:
//!
//! ```text
//!     24      1  1: sealed blocks are elsewhere; 2: this is where those of another
//!                store are; 3: both sealed blocks and the log are elsewhere
//!     25     16  1, 3: id of the place of sealed blocks; 2: id of the store
//!     41     16  3: id of the place of the log
//! ```

use super::is_block_size;
use crate::codec::{self, Kind, Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};

const ALONE: Kind = Kind { magic: *b"ARCHstor", version: 1 };
const COMBINED: Kind = Kind { magic: *b"ARCHstor", version: 2 };
const SEALED: Kind = Kind { magic: *b"ARCHstor", version: 3 };

const LOG_ELSEWHERE: u8 = 1;
const LOG_OF: u8 = 2;

const SEALED_ELSEWHERE: u8 = 1;
const SEALED_OF: u8 = 2;
const BOTH_ELSEWHERE: u8 = 3;

/// What a store may have in places of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart<T> {
    pub log: Option<T>,
    pub sealed: Option<T>,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A store, but for what is in the places with these ids.
    Store(Apart<Id>),
    /// Nothing but the log of the store with this id.
    LogOf(Id),
    /// Nothing but sealed blocks of the store with this id.
    SealedOf(Id),
}

/// What the object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub id: Id,
    pub block_bytes: u64,
    pub part: Part,
}

pub fn encode(said: &Said) -> Vec<u8> {
    let mut payload = Writer::new();
    payload.id(said.id);
    payload.u64(said.block_bytes);
    let (kind, word, ids) = match said.part {
        Part::Store(Apart { log: None, sealed: None }) => return codec::seal(ALONE, &payload.0),
        Part::Store(Apart { log: Some(log), sealed: None }) => (COMBINED, LOG_ELSEWHERE, vec![log]),
        Part::LogOf(id) => (COMBINED, LOG_OF, vec![id]),
        Part::Store(Apart { log: None, sealed: Some(id) }) => (SEALED, SEALED_ELSEWHERE, vec![id]),
        Part::SealedOf(id) => (SEALED, SEALED_OF, vec![id]),
        Part::Store(Apart { log: Some(log), sealed: Some(id) }) => (SEALED, BOTH_ELSEWHERE, vec![id, log]),
    };
    payload.u8(word);
    ids.into_iter().for_each(|id| payload.id(id));
    codec::seal(kind, &payload.0)
}

/// Errors: `Corrupt`; `Invalid` if it is newer than this program.
pub fn decode(data: &[u8]) -> Result<Said> {
    let (mut fields, version) = open(data)?;
    let id = fields.id()?;
    let block_bytes = fields.u64()?;
    if !is_block_size(block_bytes) {
        return Err(fields.damaged(format!("its default block size is {block_bytes} bytes")));
    }
    let word = if version == ALONE.version { 0 } else { fields.u8()? };
    let (log, sealed) = (None, None);
    let part = match (version, word) {
        (1, _) => Part::Store(Apart { log, sealed }),
        (2, LOG_ELSEWHERE) => Part::Store(Apart { log: Some(fields.id()?), sealed }),
        (2, LOG_OF) => Part::LogOf(fields.id()?),
        (3, SEALED_ELSEWHERE) => Part::Store(Apart { log, sealed: Some(fields.id()?) }),
        (3, SEALED_OF) => Part::SealedOf(fields.id()?),
        (3, BOTH_ELSEWHERE) => {
            let sealed = Some(fields.id()?);
            Part::Store(Apart { log: Some(fields.id()?), sealed })
        }
        (_, word) => return Err(fields.damaged(format!("it is said to be part {word} of a store"))),
    };
    fields.finish()?;
    Ok(Said { id, block_bytes, part })
}

/// The payload, and of which version it is.
fn open(data: &[u8]) -> Result<(Reader<'_>, u32)> {
    for kind in [ALONE, COMBINED] {
        match codec::open(kind, &ObjectName::Store, data) {
            Err(error) if error.is(ErrorKind::Invalid) => {}
            other => return Ok((other?, kind.version)),
        }
    }
    Ok((codec::open(SEALED, &ObjectName::Store, data)?, SEALED.version))
}

/// There is a store, and it is not one to keep volumes in.
pub(super) fn only_a_part(name: &str, holds: &str, of: Id) -> Error {
    Error::sentence(
        ErrorKind::Invalid,
        format!("'{name}' holds {holds} of another store ({of}) and no volumes: name that one"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_an_old_program_keeps_away() {
        let store = |log: u128, sealed: u128| {
            let id = |number: u128| (number > 0).then_some(Id(number));
            Part::Store(Apart { log: id(log), sealed: id(sealed) })
        };
        for (part, version) in [
            (store(0, 0), 1),
            (store(7, 0), 2),
            (Part::LogOf(Id(8)), 2),
            (store(0, 9), 3),
            (store(7, 9), 3),
            (Part::SealedOf(Id(8)), 3),
        ] {
            let said = Said { id: Id(1), block_bytes: 4 << 20, part };
            let data = encode(&said);
            assert_eq!(decode(&data).unwrap(), said);
            for old in [ALONE, COMBINED] {
                let opened = codec::open(old, &ObjectName::Store, &data).map(drop);
                assert_eq!(opened.is_ok(), version == old.version);
                if let Err(error) = opened.map_err(|error| (error.is(ErrorKind::Invalid), error)) {
                    let is_newer = error.1.to_string().contains("newer");
                    assert!(version < old.version || (error.0 && is_newer), "{}", error.1);
                }
            }
            for bit in 0..data.len() * 8 {
                let mut damaged = data.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&damaged).unwrap_err().is(ErrorKind::Corrupt), "bit {bit}");
            }
        }
        for (kind, word) in [(COMBINED, 3), (SEALED, 0), (SEALED, 4)] {
            let mut payload = Writer::new();
            payload.id(Id(1));
            payload.u64(4 << 20);
            payload.u8(word);
            payload.id(Id(2));
            payload.id(Id(3));
            assert!(decode(&codec::seal(kind, &payload.0)).unwrap_err().is(ErrorKind::Corrupt));
        }
    }
}
