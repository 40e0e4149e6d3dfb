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

use super::is_block_size;
use crate::codec::{self, Kind, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};

const ALONE: Kind = Kind { magic: *b"ARCHstor", version: 1 };
const COMBINED: Kind = Kind { magic: *b"ARCHstor", version: 2 };

const LOG_ELSEWHERE: u8 = 1;
const LOG_OF: u8 = 2;

/// Where a store's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A whole store.
    Whole,
    /// All but the log, which is in the place with this id.
    LogIn(Id),
    /// Nothing but the log of the store with this id.
    LogOf(Id),
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
    let (word, other) = match said.part {
        Part::Whole => return codec::seal(ALONE, &payload.0),
        Part::LogIn(id) => (LOG_ELSEWHERE, id),
        Part::LogOf(id) => (LOG_OF, id),
    };
    payload.u8(word);
    payload.id(other);
    codec::seal(COMBINED, &payload.0)
}

/// Errors: `Corrupt`; `Invalid` if it is newer than this program.
pub fn decode(data: &[u8]) -> Result<Said> {
    let (mut fields, is_combined) = match codec::open(ALONE, &ObjectName::Store, data) {
        Err(error) if error.is(ErrorKind::Invalid) => {
            (codec::open(COMBINED, &ObjectName::Store, data)?, true)
        }
        other => (other?, false),
    };
    let id = fields.id()?;
    let block_bytes = fields.u64()?;
    if !is_block_size(block_bytes) {
        return Err(fields.damaged(format!("its default block size is {block_bytes} bytes")));
    }
    let part = match is_combined {
        false => Part::Whole,
        true => match (fields.u8()?, fields.id()?) {
            (LOG_ELSEWHERE, id) => Part::LogIn(id),
            (LOG_OF, id) => Part::LogOf(id),
            (word, _) => return Err(fields.damaged(format!("it is said to be part {word} of a store"))),
        },
    };
    fields.finish()?;
    Ok(Said { id, block_bytes, part })
}

/// There is a store, and it is not one to keep volumes in.
pub(super) fn only_a_log(name: &str, of: Id) -> Error {
    Error::sentence(
        ErrorKind::Invalid,
        format!("'{name}' holds the log of another store ({of}) and no volumes: name that one"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_an_old_program_keeps_away() {
        for part in [Part::Whole, Part::LogIn(Id(7)), Part::LogOf(Id(8))] {
            let said = Said { id: Id(1), block_bytes: 4 << 20, part };
            let data = encode(&said);
            assert_eq!(decode(&data).unwrap(), said);
            let old = codec::open(ALONE, &ObjectName::Store, &data).map(drop);
            assert_eq!(old.is_ok(), part == Part::Whole);
            if let Err(error) = old {
                assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("newer"), "{error}");
            }
            for bit in 0..data.len() * 8 {
                let mut damaged = data.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&damaged).unwrap_err().is(ErrorKind::Corrupt), "bit {bit}");
            }
        }
        let mut payload = Writer::new();
        payload.id(Id(1));
        payload.u64(4 << 20);
        payload.u8(3);
        payload.id(Id(2));
        assert!(decode(&codec::seal(COMBINED, &payload.0)).unwrap_err().is(ErrorKind::Corrupt));
    }
}
