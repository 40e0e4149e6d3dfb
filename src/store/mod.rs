//! A store: the backends that hold its control objects, logs and blocks. The log
//! may be in a place of its own, which holds nothing else, and so may blocks that
//! are sealed. Who uses a store asks for the role it needs.

pub mod format;
pub mod kinds;
pub mod open;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use format::Apart;
use format::{Part, Said};

use crate::backend::missing::Missing;
use crate::backend::remembering::Remembering;
use crate::backend::sealed::{check_own, Sealed};
use crate::backend::{Backend, BackendExt};
use crate::clock;
use crate::config::LOG_LIMIT_BYTES_DEFAULT;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};
use crate::readcache::{self, ReadCache};

const BYTES_MAX: u64 = 4096;

/// What may be in a place of its own, for messages.
const LOG: &str = "the log";
const SEALED: &str = "the sealed blocks";

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
    /// Requests that find no room wait for it instead of failing.
    pub waits_for_room: bool,
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
    sealed: Option<SealedPlace>,
    cache: Option<ReadCache>,
}

/// Where sealed blocks are, if that is not where blocks are made.
#[derive(Clone, Debug)]
struct SealedPlace {
    alone: Arc<dyn Backend>,
    /// With the other one.
    both: Arc<dyn Backend>,
    /// Why it cannot be used.
    refused: Option<Arc<Error>>,
}

/// Where blocks are made, and where sealed ones are.
pub type OwnAndSealed<'a> = (&'a Arc<dyn Backend>, &'a Arc<dyn Backend>);

/// True for a power of two within the limits.
pub fn is_block_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes)
}

/// The bytes that `init` writes: for tests of what reads them.
#[cfg(feature = "testkit")]
pub fn encoded(id: Id, block_bytes: u64) -> Vec<u8> {
    format::encode(&Said { id, block_bytes, part: Part::Store(Apart::default()) })
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
        Store::init_apart(name, backend, Apart { log: None, sealed: None }, block_bytes)
    }

    /// As `init`, of a store whose log is in a place of its own. Errors: as
    /// `init_apart`.
    pub fn init_combined(
        name: &str,
        backend: Arc<dyn Backend>,
        log: Arc<dyn Backend>,
        block_bytes: u64,
    ) -> Result<Store> {
        Store::init_apart(name, backend, Apart { log: Some(log), sealed: None }, block_bytes)
    }

    /// As `init`, of a store that keeps some of it in other places. Errors: `Exists`
    /// if there is a store, or something where a part is to be; `Invalid` if a part
    /// cannot be there.
    pub fn init_apart(
        name: &str,
        backend: Arc<dyn Backend>,
        apart: Apart<Arc<dyn Backend>>,
        block_bytes: u64,
    ) -> Result<Store> {
        check_block_size(block_bytes)?;
        if let Some(log) = &apart.log {
            check_log_place(name, log.as_ref())?;
        }
        if apart.sealed.is_some() {
            check_own(name, backend.as_ref())?;
        }
        match said_by(backend.as_ref()) {
            Err(error) if error.is(ErrorKind::NotFound) => {}
            Ok(_) => return Err(Error::new(ErrorKind::Exists, "create").on(&ObjectName::Store)),
            Err(error) => return Err(error),
        }
        // All of them before the first is claimed: what is claimed cannot be given back.
        for (what, place) in [(LOG, &apart.log), (SEALED, &apart.sealed)] {
            if place.as_ref().map_or(Ok(false), |place| is_taken(place.as_ref()))? {
                return Err(taken(name, what));
            }
        }
        let id = clock::random_id()?;
        let mut ids = Apart::default();
        if let Some(log) = &apart.log {
            let said = Said { id: clock::random_id()?, block_bytes, part: Part::LogOf(id) };
            claim(name, LOG, log.as_ref(), &said)?;
            ids.log = Some(said.id);
        }
        if let Some(sealed) = &apart.sealed {
            let said = Said { id: clock::random_id()?, block_bytes, part: Part::SealedOf(id) };
            claim(name, SEALED, sealed.as_ref(), &said)?;
            ids.sealed = Some(said.id);
        }
        let said = Said { id, block_bytes, part: Part::Store(ids) };
        say(backend.as_ref(), &said)?;
        Ok(Store::of(name, &said, backend, apart.log, apart.sealed.map(Ok)))
    }

    /// Reads the `store` object. What is elsewhere is not there then. Errors:
    /// `NotFound` if this is no store, `Invalid` if a newer program made it, or if
    /// it is only a part of one, `Corrupt`.
    pub fn open(name: &str, backend: Arc<dyn Backend>) -> Result<Store> {
        Store::open_apart(name, backend, Apart { log: None, sealed: None })
    }

    /// As `open`, of a store whose log is said to be in the place `log`.
    pub fn open_combined(
        name: &str,
        backend: Arc<dyn Backend>,
        log: Result<Arc<dyn Backend>>,
    ) -> Result<Store> {
        Store::open_apart(name, backend, Apart { log: Some(log), sealed: None })
    }

    /// As `open`, of a store of which parts are said to be in other places. If one
    /// of these is not there, or is another one's, what does not need it works.
    pub fn open_apart(
        name: &str,
        backend: Arc<dyn Backend>,
        apart: Apart<Result<Arc<dyn Backend>>>,
    ) -> Result<Store> {
        let said = said_by(backend.as_ref())?;
        let ids = parts_of(name, &said)?;
        let log = match (apart.log, ids.log) {
            (None, None) => None,
            (None, Some(_)) => Some(absent(not_said(name, LOG, "is", "log"))),
            (Some(_), None) => return Err(made_whole(name, "its log in itself", "log")),
            (Some(log), Some(log_id)) => {
                let checked = log.and_then(|log| check_log_place(name, log.as_ref()).map(|()| log));
                let found = checked.and_then(|log| belongs(log, log_id, Part::LogOf(said.id)));
                Some(found.unwrap_or_else(|error| {
                    let words = format!("{LOG} of store '{name}' cannot be used: {}", error.full());
                    absent(Error::sentence(error.kind(), words))
                }))
            }
        };
        let sealed = match (apart.sealed, ids.sealed) {
            (None, None) => None,
            (None, Some(_)) => Some(Err(not_said(name, SEALED, "are", "sealed"))),
            (Some(_), None) => return Err(made_whole(name, "its sealed blocks in itself", "sealed")),
            (Some(sealed), Some(sealed_id)) => {
                check_own(name, backend.as_ref())?;
                let found = sealed.and_then(|sealed| belongs(sealed, sealed_id, Part::SealedOf(said.id)));
                Some(found.map_err(|error| {
                    let words = format!("{SEALED} of store '{name}' cannot be used: {}", error.full());
                    Error::sentence(ErrorKind::Unavailable, words)
                }))
            }
        };
        Ok(Store::of(name, &said, backend, log, sealed))
    }

    fn of(
        name: &str,
        said: &Said,
        backend: Arc<dyn Backend>,
        log: Option<Arc<dyn Backend>>,
        sealed: Option<Result<Arc<dyn Backend>>>,
    ) -> Store {
        let sealed = sealed.map(|found| {
            let (alone, refused) = match found {
                Ok(place) => (place, None),
                Err(error) => (absent(error.duplicate()), Some(Arc::new(error))),
            };
            let both = Arc::new(Sealed::beside(Arc::clone(&backend), Arc::clone(&alone)));
            SealedPlace { alone, both, refused }
        });
        Store {
            name: name.to_owned(),
            id: said.id,
            block_bytes_default: said.block_bytes,
            log_limit_bytes: LOG_LIMIT_BYTES_DEFAULT,
            waits_for_room: false,
            group: None,
            config: None,
            is_direct: false,
            origin: None,
            log: log.unwrap_or_else(|| Arc::clone(&backend)),
            backend,
            sealed,
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
        self.sealed.as_ref().map_or(&self.backend, |sealed| &sealed.both)
    }

    /// Where blocks are made, and where they are carried to when they are sealed;
    /// none if they stay.
    pub fn own_and_sealed(&self) -> Option<OwnAndSealed<'_>> {
        self.sealed.as_ref().map(|sealed| (&self.backend, &sealed.alone))
    }

    /// Error: `Unavailable` if sealed blocks are in a place that cannot be used.
    pub fn check_sealed(&self) -> Result<()> {
        let refused = self.sealed.as_ref().and_then(|sealed| sealed.refused.as_ref());
        refused.map_or(Ok(()), |error| Err(error.duplicate()))
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

    /// How long listings that anything rests on lag, in seconds: a sealed block that
    /// one does not show is garbage of the next gc.
    pub fn list_lag_s(&self) -> u32 {
        self.backend.capabilities().list_lag_s.max(self.log.capabilities().list_lag_s)
    }
}

/// Says what a place is from now on.
fn claim(name: &str, what: &str, place: &dyn Backend, said: &Said) -> Result<()> {
    say(place, said).map_err(|error| match error.kind() {
        ErrorKind::Exists => taken(name, what),
        _ => error,
    })
}

fn is_taken(place: &dyn Backend) -> Result<bool> {
    match said_by(place) {
        Err(error) if error.is(ErrorKind::NotFound) => Ok(false),
        // Whatever it says.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => Ok(true),
        other => other.map(|_| true),
    }
}

fn taken(name: &str, what: &str) -> Error {
    Error::sentence(
        ErrorKind::Exists,
        format!(
            "where {what} of store '{name}' is to be there is another store, or what is left of one: that \
             needs a place of its own"
        ),
    )
}

fn parts_of(name: &str, said: &Said) -> Result<Apart<Id>> {
    match said.part {
        Part::Store(ids) => Ok(ids),
        Part::LogOf(of) => Err(format::only_a_part(name, LOG, of)),
        Part::SealedOf(of) => Err(format::only_a_part(name, SEALED, of)),
    }
}

fn belongs(place: Arc<dyn Backend>, id: Id, part: Part) -> Result<Arc<dyn Backend>> {
    let there = said_by(place.as_ref())?;
    match there.id == id && there.part == part {
        true => Ok(place),
        false => Err(Error::sentence(ErrorKind::Invalid, "it is another one's")),
    }
}

fn absent(why: Error) -> Arc<dyn Backend> {
    Arc::new(Missing::because(why))
}

fn not_said(name: &str, what: &str, is: &str, key: &str) -> Error {
    let words = format!(
        "{what} of store '{name}' {is} in another place: say which with '{key}' in [stores.{name}]"
    );
    Error::sentence(ErrorKind::Unavailable, words)
}

fn made_whole(name: &str, how: &str, key: &str) -> Error {
    let words = format!(
        "store '{name}' was made with {how}: leave '{key}' out of [stores.{name}], or make a new store"
    );
    Error::sentence(ErrorKind::Invalid, words)
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
