//! A store: the backends that hold its control objects, logs and blocks. The log
//! may be in a place of its own, which holds nothing else. Who uses a store asks
//! for the role it needs.

pub mod format;
pub mod kinds;
pub mod open;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use format::{Part, Said};

use crate::backend::missing::Missing;
use crate::backend::remembering::Remembering;
use crate::backend::{Backend, BackendExt};
use crate::clock;
use crate::config::LOG_LIMIT_BYTES_DEFAULT;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::readcache::{self, ReadCache};

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
    /// Whose members may use it, as configured.
    pub group: Option<u32>,
    /// The one file that was read for it, if one was named.
    pub config: Option<PathBuf>,
    /// Opened past the page cache.
    pub is_direct: bool,
    /// Where it is and which file says so, for messages.
    origin: Option<String>,
    backend: Arc<dyn Backend>,
    log: Arc<dyn Backend>,
    cache: Option<ReadCache>,
}

/// True for a power of two within the limits.
pub fn is_block_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes)
}

/// The bytes that `init` writes: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(id: Id, block_bytes: u64) -> Vec<u8> {
    format::encode(&Said { id, block_bytes, part: Part::Whole })
}

/// A store's id and default block size. Errors: `Corrupt`; `Invalid` if it is
/// newer than this program.
pub fn decode(data: &[u8]) -> Result<(Id, u64)> {
    format::decode(data).map(|said| (said.id, said.block_bytes))
}

/// What the object `store` of a place says. Error: `NotFound` if there is none.
fn said_by(backend: &dyn Backend) -> Result<Said> {
    format::decode(&backend.read_summed(&ObjectName::Store, BYTES_MAX)?)
}

fn say(backend: &dyn Backend, said: &Said) -> Result<()> {
    backend.create(&ObjectName::Store, &format::encode(said))
}

fn check_block_size(bytes: u64) -> Result<()> {
    match is_block_size(bytes) {
        true => Ok(()),
        false => Err(Error::sentence(
            ErrorKind::Invalid,
            format!("a block of {bytes} bytes is not possible: use a power of two from 16K to 64M"),
        )),
    }
}

impl Store {
    /// Writes the `store` object. Errors: `Exists` if there is one already.
    pub fn init(name: &str, backend: Arc<dyn Backend>, block_bytes: u64) -> Result<Store> {
        check_block_size(block_bytes)?;
        let said = Said { id: clock::random_id()?, block_bytes, part: Part::Whole };
        say(backend.as_ref(), &said)?;
        Ok(Store::of(name, said, Arc::clone(&backend), backend))
    }

    /// As `init`, of a store whose log is in a place of its own. Errors: `Exists`
    /// if there is a store, or something where the log is to be; `Invalid` if no
    /// log can be there.
    pub fn init_combined(
        name: &str,
        backend: Arc<dyn Backend>,
        log: Arc<dyn Backend>,
        block_bytes: u64,
    ) -> Result<Store> {
        check_block_size(block_bytes)?;
        check_log_place(name, log.as_ref())?;
        match said_by(backend.as_ref()) {
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Ok(_) => return Err(Error::new(ErrorKind::Exists, "create").on(&ObjectName::Store)),
            Err(error) => return Err(error),
        }
        let (id, log_id) = (clock::random_id()?, clock::random_id()?);
        let of_log = Said { id: log_id, block_bytes, part: Part::LogOf(id) };
        say(log.as_ref(), &of_log).map_err(|error| match error.kind() {
            ErrorKind::Exists => Error::sentence(
                ErrorKind::Exists,
                format!(
                    "where the log of store '{name}' is to be there is another store, or what is left of \
                     one: a log needs a place of its own"
                ),
            ),
            _ => error,
        })?;
        let said = Said { id, block_bytes, part: Part::LogIn(log_id) };
        say(backend.as_ref(), &said)?;
        Ok(Store::of(name, said, backend, log))
    }

    /// Reads the `store` object. One whose log is elsewhere is opened without it.
    /// Errors: `NotFound` if this is no store, `Invalid` if a newer program made
    /// it, or if it is only a log, `Corrupt`.
    pub fn open(name: &str, backend: Arc<dyn Backend>) -> Result<Store> {
        let said = said_by(backend.as_ref())?;
        let log: Arc<dyn Backend> = match said.part {
            Part::Whole => Arc::clone(&backend),
            Part::LogOf(of) => return Err(format::only_a_log(name, of)),
            Part::LogIn(_) => Arc::new(Missing::because(Error::sentence(
                ErrorKind::Unavailable,
                format!(
                    "the log of store '{name}' is in another place: say which with 'log' in [stores.{name}]"
                ),
            ))),
        };
        Ok(Store::of(name, said, backend, log))
    }

    /// As `open`, of a store whose log is said to be in the place `log`. If that
    /// is not there, or is another one's, what does not need the log works.
    pub fn open_combined(
        name: &str,
        backend: Arc<dyn Backend>,
        log: Result<Arc<dyn Backend>>,
    ) -> Result<Store> {
        let said = said_by(backend.as_ref())?;
        let log_id = match said.part {
            Part::LogIn(id) => id,
            Part::LogOf(of) => return Err(format::only_a_log(name, of)),
            Part::Whole => {
                let words = format!(
                    "store '{name}' was made with its log in itself: leave 'log' out of [stores.{name}], or \
                     make a new store"
                );
                return Err(Error::sentence(ErrorKind::Invalid, words));
            }
        };
        let found = log.and_then(|log| {
            check_log_place(name, log.as_ref())?;
            let there = said_by(log.as_ref())?;
            match there.id == log_id && there.part == Part::LogOf(said.id) {
                true => Ok(log),
                false => Err(Error::sentence(ErrorKind::Invalid, "it is another one's")),
            }
        });
        let log = found.unwrap_or_else(|error| {
            let words = format!("the log of store '{name}' cannot be used: {}", error.full());
            Arc::new(Missing::because(Error::sentence(error.kind(), words)))
        });
        Ok(Store::of(name, said, backend, log))
    }

    fn of(name: &str, said: Said, backend: Arc<dyn Backend>, log: Arc<dyn Backend>) -> Store {
        let log_limit_bytes = LOG_LIMIT_BYTES_DEFAULT;
        Store {
            name: name.to_owned(),
            id: said.id,
            block_bytes_default: said.block_bytes,
            log_limit_bytes,
            group: None,
            config: None,
            is_direct: false,
            origin: None,
            backend,
            log,
            cache: None,
        }
    }

    /// The same store, with a read cache for its sealed blocks. Error: `Invalid`
    /// if a former holder of a volume could write to a sealed block of it still:
    /// what the cache has of that would stay as it was.
    pub fn with_read_cache(self, options: &readcache::Options) -> Result<Store> {
        let capabilities = self.backend.capabilities();
        if capabilities.overwrite_in_place && !capabilities.fences {
            let words = format!(
                "store '{}' cannot have a read cache: a machine that was given up may write to it still",
                self.name
            );
            return Err(Error::sentence(ErrorKind::Invalid, words));
        }
        let cache = Some(ReadCache::of(options, self.id));
        Ok(Store { cache, ..self })
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

    /// The same, as one that was opened by the configuration `config` alone, if
    /// there is one, and past the page cache or not.
    #[must_use]
    pub fn opened_by(self, config: Option<&Path>, is_direct: bool) -> Store {
        Store { config: config.map(Path::to_owned), is_direct, ..self }
    }

    /// Where heads, snapshots, leases, pages and names are.
    pub fn control(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Where log segments are.
    pub fn log(&self) -> &Arc<dyn Backend> {
        &self.log
    }

    /// Where blocks are.
    pub fn blocks(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// What was read of its sealed blocks, if that is kept.
    pub fn read_cache(&self) -> Option<&ReadCache> {
        self.cache.as_ref()
    }

    /// Where an object of this name is.
    pub fn place_of(&self, name: &ObjectName) -> &Arc<dyn Backend> {
        match name {
            ObjectName::Block { .. } => self.blocks(),
            ObjectName::Segment { .. } => self.log(),
            _ => self.control(),
        }
    }

    /// How long listings of any part lag, in seconds.
    pub fn list_lag_s(&self) -> u32 {
        self.backend.capabilities().list_lag_s.max(self.log.capabilities().list_lag_s)
    }
}

/// Error: `Invalid`.
fn check_log_place(name: &str, log: &dyn Backend) -> Result<()> {
    match log.capabilities().overwrite_in_place {
        true => Ok(()),
        false => Err(Error::sentence(
            ErrorKind::Invalid,
            format!("the log of store '{name}' cannot be in a place that does not overwrite, such as S3"),
        )),
    }
}
