//! A store: the backend that holds its control objects, logs and blocks.
//! Today these are one backend; who uses a store asks for the role it needs,
//! so that they can come apart.

pub mod open;

use std::sync::Arc;

use crate::backend::remembering::Remembering;
use crate::backend::{Backend, BackendExt};
use crate::clock;
use crate::codec::{self, Kind, Writer};
use crate::config::LOG_LIMIT_BYTES_DEFAULT;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};

const KIND: Kind = Kind { magic: *b"ARCHstor", version: 1 };
const BYTES_MAX: u64 = 4096;

/// Smallest, usual and largest block, in bytes.
pub const BLOCK_BYTES_MIN: u64 = 16 << 10;
pub const BLOCK_BYTES_DEFAULT: u64 = 4 << 20;
pub const BLOCK_BYTES_MAX: u64 = 64 << 20;

/// The unit of presence and of pieces.
pub const GRANULE_BYTES: u64 = 4096;

/// An opened store.
#[derive(Clone, Debug)]
pub struct Store {
    /// How people call it: the configured name, or the URL.
    pub name: String,
    pub id: Id,
    /// Of volumes made without saying.
    pub block_bytes_default: u64,
    /// Bound of each volume's log.
    pub log_limit_bytes: u64,
    /// Where it is and which file says so, for messages.
    origin: Option<String>,
    backend: Arc<dyn Backend>,
}

/// True for a power of two within the limits.
pub fn is_block_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes)
}

fn encode(id: Id, block_bytes: u64) -> Vec<u8> {
    let mut payload = Writer::new();
    payload.id(id);
    payload.u64(block_bytes);
    codec::seal(KIND, &payload.0)
}

/// The bytes that `init` writes: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(id: Id, block_bytes: u64) -> Vec<u8> {
    encode(id, block_bytes)
}

/// A store's id and default block size. Errors: `Corrupt`; `Invalid` if it is
/// newer than this program.
pub fn decode(data: &[u8]) -> Result<(Id, u64)> {
    let mut fields = codec::open(KIND, &ObjectName::Store, data)?;
    let id = fields.id()?;
    let block_bytes = fields.u64()?;
    if !is_block_size(block_bytes) {
        return Err(fields.damaged(format!("its default block size is {block_bytes} bytes")));
    }
    fields.finish()?;
    Ok((id, block_bytes))
}

impl Store {
    /// Writes the `store` object. Errors: `Exists` if there is one already.
    pub fn init(name: &str, backend: Arc<dyn Backend>, block_bytes: u64) -> Result<Store> {
        if !is_block_size(block_bytes) {
            return Err(Error::sentence(
                ErrorKind::Invalid,
                format!("a block of {block_bytes} bytes is not possible: use a power of two from 16K to 64M"),
            ));
        }
        let id = clock::random_id()?;
        backend.create(&ObjectName::Store, &encode(id, block_bytes))?;
        Ok(Store::of(name, id, block_bytes, backend))
    }

    /// Reads the `store` object. Errors: `NotFound` if this is no store,
    /// `Invalid` if a newer program made it, `Corrupt`.
    pub fn open(name: &str, backend: Arc<dyn Backend>) -> Result<Store> {
        let data = backend.read_all(&ObjectName::Store, BYTES_MAX)?;
        let (id, block_bytes_default) = decode(&data)?;
        Ok(Store::of(name, id, block_bytes_default, backend))
    }

    fn of(name: &str, id: Id, block_bytes_default: u64, backend: Arc<dyn Backend>) -> Store {
        let log_limit_bytes = LOG_LIMIT_BYTES_DEFAULT;
        Store { name: name.to_owned(), id, block_bytes_default, log_limit_bytes, origin: None, backend }
    }

    /// The same store, read through something that reads each map page once:
    /// for whoever walks the maps of all volumes.
    #[must_use]
    pub fn remembering_pages(&self) -> Store {
        Store { backend: Arc::new(Remembering::new(Arc::clone(&self.backend))), ..self.clone() }
    }

    /// "'main' (dir:/srv/vms, from /etc/archipelago/archipelago.toml)".
    pub fn describe(&self) -> String {
        match &self.origin {
            Some(origin) => format!("'{}' ({origin})", self.name),
            None => format!("'{}'", self.name),
        }
    }

    /// Where heads, snapshots, leases, pages and names are.
    pub fn control(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Where log segments are.
    pub fn log(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Where blocks are.
    pub fn blocks(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}
