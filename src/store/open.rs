//! From a configured name to an opened store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use super::kinds::{self, Asked};
use super::{Apart, Store};
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::gluster::{Gluster, GlusterOptions};
use crate::backend::memory::Memory;
use crate::backend::rados::{Rados, RadosOptions};
use crate::backend::s3::{S3Options, S3, TRY_FOR};
use crate::backend::Backend;
use crate::config::{self, Config, Place, S3Place, StoreConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::readcache;
use crate::sync::Mutex;

/// What makes two openings the same backend.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
    direct: bool,
}

/// The backends that are open: several disks of one process share one, and
/// with it the bound of open files.
fn shared() -> &'static Mutex<HashMap<Key, Weak<Dir>>> {
    static SHARED: OnceLock<Mutex<HashMap<Key, Weak<Dir>>>> = OnceLock::new();
    SHARED.get_or_init(Mutex::default)
}

fn pools() -> &'static Mutex<HashMap<RadosOptions, Weak<Rados>>> {
    static POOLS: OnceLock<Mutex<HashMap<RadosOptions, Weak<Rados>>>> = OnceLock::new();
    POOLS.get_or_init(Mutex::default)
}

fn folders() -> &'static Mutex<HashMap<GlusterOptions, Weak<Gluster>>> {
    static FOLDERS: OnceLock<Mutex<HashMap<GlusterOptions, Weak<Gluster>>>> = OnceLock::new();
    FOLDERS.get_or_init(Mutex::default)
}

fn memories() -> &'static Mutex<HashMap<String, Arc<dyn Backend>>> {
    static MEMORIES: OnceLock<Mutex<HashMap<String, Arc<dyn Backend>>>> = OnceLock::new();
    MEMORIES.get_or_init(Mutex::default)
}

/// From here on `memory:NAME` is this backend; `None`: no more.
#[cfg(feature = "testkit")]
pub fn stand_in(name: &str, backend: Option<Arc<dyn Backend>>) {
    let mut memories = memories().lock();
    match backend {
        Some(backend) => memories.insert(name.to_owned(), backend),
        None => memories.remove(name),
    };
}

/// Opens the store that is configured as `name`, or the default one.
///
/// `direct`: blocks and logs go past the host's page cache where they can.
/// `create_default`: without any configuration, the default store is made if
/// it is not there yet. Errors: `NotFound` if there is no such store,
/// `Invalid` for a mistake in the configuration, `Denied`.
pub fn open_store(
    name: Option<&str>,
    config_path: Option<&Path>,
    direct: bool,
    create_default: bool,
) -> Result<Store> {
    let config = config::load(config_path)?;
    let store = open_configured(&config, name, direct, create_default)?;
    Ok(store.opened_by(config_path, direct))
}

/// `open_store` with a configuration at hand.
pub fn open_configured(
    config: &Config,
    name: Option<&str>,
    direct: bool,
    create_default: bool,
) -> Result<Store> {
    let wanted = config.store(name)?;
    let opened = open_backend(wanted, direct).and_then(|backend| open_on(config, wanted, backend, direct));
    match opened {
        Ok(store) => Ok(dress(store, wanted)),
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        Err(_) if create_default && wanted.file.is_none() => match init(config, wanted, direct, None) {
            // Somebody else made it at the same moment.
            Err(error) if error.is(ErrorKind::Exists) => {
                let store = Store::open(&wanted.name, open_backend(wanted, direct)?)?;
                Ok(dress(store, wanted))
            }
            other => other,
        },
        Err(_) => Err(missing(wanted)),
    }
}

/// Makes the store that is configured as `name`. Error: `Exists`.
pub fn init_store(config: &Config, name: Option<&str>, block_bytes: Option<u64>) -> Result<Store> {
    let wanted = config.store(name)?;
    init(config, wanted, false, block_bytes).map_err(|error| match error.kind() {
        ErrorKind::Exists if error.object().is_some() => Error::sentence(
            ErrorKind::Exists,
            format!("there is a store already: '{}' ({})", wanted.name, wanted.origin()),
        ),
        _ => error,
    })
}

fn open_on(
    config: &Config,
    wanted: &StoreConfig,
    backend: Arc<dyn Backend>,
    direct: bool,
) -> Result<Store> {
    let (log, sealed) = (config.log_of(wanted)?, config.sealed_of(wanted)?);
    if log.is_none() && sealed.is_none() {
        return Store::open(&wanted.name, backend);
    }
    let apart = |place: Option<&StoreConfig>| place.map(|place| open_apart(place, direct));
    Store::open_apart(&wanted.name, backend, Apart { log: apart(log), sealed: apart(sealed) })
}

/// Error: with where it should be.
fn open_apart(place: &StoreConfig, direct: bool) -> Result<Arc<dyn Backend>> {
    open_backend(place, direct).map_err(|error| {
        let words = format!("'{}' ({}): {}", place.name, place.origin(), error.full());
        Error::sentence(error.kind(), words)
    })
}

fn init(config: &Config, wanted: &StoreConfig, direct: bool, block_bytes: Option<u64>) -> Result<Store> {
    let block_bytes = block_bytes.unwrap_or(wanted.block_bytes);
    let (log, sealed) = (config.log_of(wanted)?, config.sealed_of(wanted)?);
    let backend = make_backend(wanted, direct)?;
    if log.is_none() && !backend.capabilities().overwrite_in_place {
        let words = format!(
            "objects of store '{}' ({}) cannot be overwritten: name a place for its logs with 'log'",
            wanted.name,
            wanted.origin()
        );
        return Err(Error::sentence(ErrorKind::Invalid, words));
    }
    let apart = |place: Option<&StoreConfig>| place.map(|place| make_backend(place, direct)).transpose();
    let apart = Apart { log: apart(log)?, sealed: apart(sealed)? };
    Ok(dress(Store::init_apart(&wanted.name, backend, apart, block_bytes)?, wanted))
}

fn make_backend(wanted: &StoreConfig, direct: bool) -> Result<Arc<dyn Backend>> {
    let path = match &wanted.place {
        Place::Memory(_) | Place::Rados { .. } | Place::S3(_) => return open_backend(wanted, direct),
        Place::Gluster { servers, volume, folder, log } => {
            let bricks = (servers.clone(), volume.clone(), folder.clone(), log.clone());
            return Ok(Arc::new(Gluster::create(&gluster_options(bricks, wanted, direct))?));
        }
        Place::Other { kind, rest } => return kinds::open(kind, &asked(rest, wanted, direct, true)),
        Place::Dir(path) => path,
    };
    if let Some(above) = path.parent().filter(|_| wanted.file.is_none()) {
        std::fs::create_dir_all(above).map_err(|error| {
            Error::from_io("make the directory", error).on_named(above.display().to_string())
        })?;
    }
    Ok(Arc::new(Dir::create(path, options(wanted, direct))?))
}

fn open_backend(wanted: &StoreConfig, direct: bool) -> Result<Arc<dyn Backend>> {
    let path = match &wanted.place {
        Place::Memory(name) => {
            let mut memories = memories().lock();
            let memory = memories.entry(name.clone()).or_insert_with(|| Arc::new(Memory::new()));
            return Ok(Arc::clone(memory));
        }
        Place::Rados { pool, namespace, conf, user } => {
            let (pool, namespace, user) = (pool.clone(), namespace.clone(), user.clone());
            return open_rados(RadosOptions { pool, namespace, conf: conf.clone(), user });
        }
        Place::S3(place) => return open_s3(place),
        Place::Gluster { servers, volume, folder, log } => {
            let bricks = (servers.clone(), volume.clone(), folder.clone(), log.clone());
            return open_gluster(gluster_options(bricks, wanted, direct));
        }
        Place::Other { kind, rest } => return kinds::open(kind, &asked(rest, wanted, direct, false)),
        Place::Dir(path) => path,
    };
    let (mode, group) = (wanted.mode, wanted.group);
    let key = Key { path: path.clone(), mode, group, direct };
    let mut shared = shared().lock();
    if let Some(dir) = shared.get(&key).and_then(Weak::upgrade) {
        return Ok(dir);
    }
    let dir = Arc::new(Dir::open(path, options(wanted, direct))?);
    shared.retain(|_, dir| dir.strong_count() > 0);
    shared.insert(key, Arc::downgrade(&dir));
    Ok(dir)
}

fn open_rados(options: RadosOptions) -> Result<Arc<dyn Backend>> {
    let mut pools = pools().lock();
    if let Some(rados) = pools.get(&options).and_then(Weak::upgrade) {
        return Ok(rados);
    }
    let rados = Arc::new(Rados::open(&options)?);
    pools.retain(|_, rados| rados.strong_count() > 0);
    pools.insert(options, Arc::downgrade(&rados));
    Ok(rados)
}

fn buckets() -> &'static Mutex<HashMap<S3Options, Weak<S3>>> {
    static BUCKETS: OnceLock<Mutex<HashMap<S3Options, Weak<S3>>>> = OnceLock::new();
    BUCKETS.get_or_init(Mutex::default)
}

fn open_s3(place: &S3Place) -> Result<Arc<dyn Backend>> {
    let key = config::s3_key(place)?;
    let S3Place { bucket, prefix, endpoint, region, .. } = place.clone();
    let (path_style, try_for) = (place.path_style, TRY_FOR);
    let options = S3Options { bucket, prefix, endpoint, region, path_style, key, try_for };
    let mut buckets = buckets().lock();
    if let Some(s3) = buckets.get(&options).and_then(Weak::upgrade) {
        return Ok(s3);
    }
    let s3 = Arc::new(S3::open(options.clone())?);
    buckets.retain(|_, s3| s3.strong_count() > 0);
    buckets.insert(options, Arc::downgrade(&s3));
    Ok(s3)
}

type Bricks = (Vec<(String, u16)>, String, String, Option<PathBuf>);

fn gluster_options(bricks: Bricks, wanted: &StoreConfig, direct: bool) -> GlusterOptions {
    let (servers, volume, folder, log) = bricks;
    GlusterOptions { servers, volume, folder, direct, mode: wanted.mode, group: wanted.group, log }
}

fn open_gluster(options: GlusterOptions) -> Result<Arc<dyn Backend>> {
    let mut folders = folders().lock();
    if let Some(gluster) = folders.get(&options).and_then(Weak::upgrade) {
        return Ok(gluster);
    }
    let gluster = Arc::new(Gluster::open(&options)?);
    folders.retain(|_, gluster| gluster.strong_count() > 0);
    folders.insert(options, Arc::downgrade(&gluster));
    Ok(gluster)
}

fn asked(rest: &str, wanted: &StoreConfig, direct: bool, makes: bool) -> Asked {
    Asked { rest: rest.to_owned(), direct, makes, mode: wanted.mode, group: wanted.group }
}

fn options(wanted: &StoreConfig, direct: bool) -> DirOptions {
    DirOptions { direct, mode: wanted.mode, group: wanted.group, ..DirOptions::default() }
}

fn dress(mut store: Store, wanted: &StoreConfig) -> Store {
    store.log_limit_bytes = wanted.log_limit_bytes;
    store.waits_for_room = wanted.waits_for_room;
    store.group = wanted.group;
    store.origin = Some(wanted.origin());
    let Some((path, bytes_max)) = &wanted.cache else { return store };
    let options = readcache::Options { path: path.clone(), bytes_max: *bytes_max, group: wanted.group };
    match store.clone().with_read_cache(&options) {
        Ok(store) => store,
        // No reason to keep a machine from its disk.
        Err(error) => {
            ::log::warn!("{}", error.full());
            store
        }
    }
}

fn missing(wanted: &StoreConfig) -> Error {
    let next = match wanted.name.as_str() {
        config::STORE_DEFAULT => "archipelago init".to_owned(),
        name => format!("archipelago init --store {name}"),
    };
    Error::sentence(
        ErrorKind::NotFound,
        format!("there is no store '{}' yet ({}); make it with: {next}", wanted.name, wanted.origin()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Places;

    // A store that is made where none was meant hides the one that was: only
    // the built-in default is made by itself, and only on request.

    fn places(folder: &Path) -> Places {
        Places {
            only: None,
            system: folder.join("system.toml"),
            user: None,
            data: Some(folder.join("a/b/store")),
        }
    }

    fn load(places: &Places) -> Config {
        config::load_from(places).unwrap()
    }

    #[test]
    fn the_default_store_is_made_on_first_use_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let config = load(&places(folder.path()));
        let error = open_configured(&config, None, false, false).unwrap_err();
        assert!(error.is(ErrorKind::NotFound));
        let text = error.to_string();
        assert!(text.contains("a/b/store") && text.contains("no configuration file"), "{text}");
        assert!(!folder.path().join("a").exists());
        let made = open_configured(&config, None, false, true).unwrap();
        let again = open_configured(&config, None, true, false).unwrap();
        assert_eq!(made.id, again.id);
    }

    #[test]
    fn a_configured_store_is_only_made_by_init() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let path = folder.path().join("vms");
        let text =
            format!("[stores.main]\nurl = 'dir:{}'\nblock_size = '64K'\nlog_limit = '32M'", path.display());
        std::fs::write(&places.system, text).unwrap();
        let config = load(&places);
        let error = open_configured(&config, None, false, true).unwrap_err();
        let text = error.to_string();
        assert!(error.is(ErrorKind::NotFound) && text.contains("archipelago init"), "{text}");
        assert!(text.contains("system.toml"), "{text}");
        let made = init_store(&config, None, None).unwrap();
        assert_eq!((made.block_bytes_default, made.log_limit_bytes), (64 << 10, 32 << 20));
        let error = init_store(&config, None, None).unwrap_err();
        assert!(error.is(ErrorKind::Exists) && error.to_string().contains("dir:"), "{error}");
        assert_eq!(open_configured(&config, None, false, false).unwrap().id, made.id);
    }

    #[test]
    fn disks_of_one_process_share_the_backend() {
        let folder = tempfile::tempdir().unwrap();
        let config = load(&places(folder.path()));
        drop(open_configured(&config, None, false, true).unwrap());
        let one = open_configured(&config, None, false, false).unwrap();
        let two = open_configured(&config, None, false, false).unwrap();
        let other = open_configured(&config, None, true, false).unwrap();
        assert!(Arc::ptr_eq(one.control(), two.control()));
        assert!(!Arc::ptr_eq(one.control(), other.control()));
    }
}
