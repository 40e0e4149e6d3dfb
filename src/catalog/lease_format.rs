//! The bytes of a lease.
//!
//! Object `lease/<volume id>/<number>`, magic `ARCHleas`, version 1, payload:
//!
//! ```text
//! offset  bytes  field
//!      0     16  volume id, as in the name
//!     16      8  number, as in the name
//!     24      1  state: 1 held, 2 released, 3 released after a failure, 4 broken,
//!                5 moved: the volume is in another store, 6 arriving: held,
//!                and the volume is in another store still, 7 standby: this is
//!                a copy of what is in another store
//!     25     16  holder id: random, one for each time a lease is taken
//!     41      8  since, seconds since 1970
//!     49      -  identity of the holder:
//!                  4  pid
//!                  8  pid namespace (inode; 0: not known)
//!                  8  start time, ticks since boot (0: not known)
//!                  -  host, boot id, program: three times u16 length, text
//!      -      -  control socket, empty if none: u16 length, text
//!      -      -  who broke it, empty unless broken: u16 length, text
//!      -      -  if 5, 6 or 7: id of the other store, 16 bytes, its name:
//!                u16 length, text
//! ```

use super::identity::{wall_s, Identity};
use crate::clock;
use crate::codec::{self, Kind, Reader, Writer};
use crate::error::Result;
use crate::name::{Id, ObjectName};

const KIND: Kind = Kind { magic: *b"ARCHleas", version: 1 };

/// Who holds a lease, or held it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// One for each time a lease is taken.
    pub id: Id,
    pub process: Identity,
    pub since_s: u64,
    /// Path of the holder's control socket.
    pub socket: Option<String>,
}

impl Holder {
    pub fn new(who: &Identity, socket: Option<String>) -> Result<Holder> {
        Ok(Holder { id: clock::random_id()?, process: who.clone(), since_s: wall_s(), socket })
    }
}

/// Another store: that a volume was moved to, comes from or is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub store: Id,
    /// How it is called by who moves the volume.
    pub store_name: String,
}

/// What a lease object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Held,
    /// Given back; `clean` if nothing is left to recover.
    Released { clean: bool },
    Broken { by: String },
    /// The volume is in another store: what is left of it here is old.
    Moved(Destination),
    /// Held by who moves the volume here from that store. It is there until its
    /// lease there is `Moved`.
    Arriving(Destination),
    /// What is here follows the volume in that store, until it is promoted.
    Standby(Destination),
}

/// One lease object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub volume: Id,
    pub number: u64,
    pub state: State,
    pub holder: Holder,
}

impl State {
    /// By somebody who may write.
    pub fn is_held(&self) -> bool {
        matches!(self, State::Held | State::Arriving(_))
    }
}

impl Record {
    /// The other store in which the volume is, as far as this tells.
    pub fn elsewhere(&self) -> Option<&Destination> {
        match &self.state {
            State::Moved(other) | State::Arriving(other) => Some(other),
            _ => None,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(512);
        out.id(self.volume);
        out.u64(self.number);
        out.u8(match &self.state {
            State::Held => 1,
            State::Released { clean: true } => 2,
            State::Released { clean: false } => 3,
            State::Broken { .. } => 4,
            State::Moved(_) => 5,
            State::Arriving(_) => 6,
            State::Standby(_) => 7,
        });
        out.id(self.holder.id);
        out.u64(self.holder.since_s);
        write_identity(&mut out, &self.holder.process);
        out.text(self.holder.socket.as_deref().unwrap_or(""));
        out.text(match &self.state {
            State::Broken { by } => by,
            _ => "",
        });
        if let State::Moved(other) | State::Arriving(other) | State::Standby(other) = &self.state {
            out.id(other.store);
            out.text(&other.store_name);
        }
        codec::seal(KIND, &out.0)
    }
}

/// Reads a lease's bytes. Errors: `Corrupt`; `Invalid` if it is newer than
/// this program.
pub fn decode(name: &ObjectName, data: &[u8]) -> Result<Record> {
    let mut fields = codec::open(KIND, name, data)?;
    let volume = fields.id()?;
    let number = fields.u64()?;
    if *name != (ObjectName::Lease { volume, number }) {
        return Err(fields.damaged(format!("it says that it is lease {number} of volume {volume}")));
    }
    let state = fields.u8()?;
    let id = fields.id()?;
    let since_s = fields.u64()?;
    let process = read_identity(&mut fields)?;
    let socket = fields.text()?;
    let socket = (!socket.is_empty()).then(|| socket.to_owned());
    let by = fields.text()?.to_owned();
    let state = match state {
        1 => State::Held,
        2 => State::Released { clean: true },
        3 => State::Released { clean: false },
        4 => State::Broken { by },
        5 => State::Moved(read_store(&mut fields)?),
        6 => State::Arriving(read_store(&mut fields)?),
        7 => State::Standby(read_store(&mut fields)?),
        other => return Err(fields.damaged(format!("it is in state {other}, which there is none of"))),
    };
    fields.finish()?;
    Ok(Record { volume, number, state, holder: Holder { id, process, since_s, socket } })
}

fn read_store(fields: &mut Reader<'_>) -> Result<Destination> {
    Ok(Destination { store: fields.id()?, store_name: fields.text()?.to_owned() })
}

pub(super) fn write_identity(out: &mut Writer, who: &Identity) {
    out.u32(who.pid);
    out.u64(who.pid_namespace);
    out.u64(who.start_ticks);
    for text in [&who.host, &who.boot_id, &who.program] {
        out.text(text);
    }
}

pub(super) fn read_identity(fields: &mut Reader<'_>) -> Result<Identity> {
    let pid = fields.u32()?;
    let pid_namespace = fields.u64()?;
    let start_ticks = fields.u64()?;
    let host = fields.text()?.to_owned();
    let boot_id = fields.text()?.to_owned();
    let program = fields.text()?.to_owned();
    Ok(Identity { host, boot_id, pid, pid_namespace, start_ticks, program })
}
