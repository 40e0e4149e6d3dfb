//! Configuration: which stores there are and which one is meant.
//!
//! ```toml
//! default_store = "main"
//!
//! [stores.main]
//! url = "dir:/srv/vms"
//! mode = "0660"          # of the objects; octal, in quotes
//! group = "kvm"          # a name or a number; without: the creator's
//! block_size = "4M"      # of new volumes, when the store is made
//! log_limit = "256M"     # of each volume's log
//! when_full = "wait"     # what needs room waits for it; without, or "error": it fails
//! log = "nvme"           # the place of the logs, another store's name; without: here.
//!                        # It holds these logs and nothing else
//! sealed = "nas"         # the place of blocks that snapshots have, likewise; without:
//!                        # here. gc carries them there
//! cache = "/var/cache/archipelago" # a folder of a local disk, for what was read of
//!                        # sealed blocks; of root or of who runs the machines
//! cache_size = "10G"     # what that may take
//!
//! [stores.nvme]
//! url = "dir:/var/lib/archipelago-log"
//!
//! [stores.nas]
//! url = "dir:/mnt/nas/archipelago"
//!
//! [stores.ceph]
//! url = "rados:vms/prod"            # a pool, and a namespace of it
//! ceph_conf = "/etc/ceph/ceph.conf" # without: where Ceph looks
//! ceph_user = "archipelago"         # without: admin
//!
//! [stores.cloud]
//! url = "s3://bucket/prefix"            # the prefix may be left out
//! s3_endpoint = "https://s3.example.org" # without: Amazon's, of the region
//! s3_region = "eu-central-1"            # without: us-east-1
//! s3_credentials = "/etc/archipelago/s3" # as ~/.aws/credentials; without:
//! s3_profile = "default"                # AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
//! s3_path_style = true                  # the bucket is in the path, not in the host's
//!                                       # name; without: true if there is an endpoint
//!
//! [stores.bricks]
//! url = "gluster://one,two:24007/vms/prod" # servers, a volume, and a folder of it
//! gluster_log = "/var/log/gluster.log"     # of GlusterFS's library; without: none
//! ```
//!
//! Read are `/etc/archipelago/archipelago.toml`, then the user's
//! `$XDG_CONFIG_HOME/archipelago/archipelago.toml`. What the first one says
//! cannot be changed by the second, which may only add stores: a volume's name
//! must mean the same disk for every user of a host. A file named by
//! `ARCHIPELAGO_CONFIG`, or by a caller, is read alone. Without any file there
//! is one store, `main`: root's under `/var/lib`, a user's in their data folder.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::name::VolumeName;

mod gluster;
mod kinds;
mod s3;
pub use kinds::know as know_kind;
pub use s3::{s3_key, S3Key, S3Place};

/// The store that is meant when nothing says otherwise.
pub const STORE_DEFAULT: &str = "main";

/// As Ceph's own programs do.
const CEPH_USER_DEFAULT: &str = "admin";

const MODE_DEFAULT: u32 = 0o660;
const BLOCK_BYTES_DEFAULT: u64 = 4 << 20;
pub const LOG_LIMIT_BYTES_DEFAULT: u64 = 256 << 20;
const CACHE_BYTES_DEFAULT: u64 = 10 << 30;
/// Less has no room for several spans in each of its folders.
const CACHE_BYTES_MIN: u64 = 64 << 20;
/// Less leaves no room to settle in.
const LOG_LIMIT_BYTES_MIN: u64 = 16 << 20;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Dir(PathBuf),
    /// In this process, under a name; gone when it ends.
    Memory(String),
    /// A namespace ("" is the first) of a pool of Ceph.
    Rados { pool: String, namespace: String, conf: Option<PathBuf>, user: String },
    S3(S3Place),
    /// A folder ("" is all of it) of a volume of GlusterFS, and the servers, with
    /// their ports, that know of it.
    Gluster { servers: Vec<(String, u16)>, volume: String, folder: String, log: Option<PathBuf> },
    /// Of a kind that the program has brought itself: see `store::kinds`.
    Other { kind: String, rest: String },
}

/// One configured store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub name: String,
    pub url: String,
    pub place: Place,
    /// The file that says so; none for the built-in default.
    pub file: Option<PathBuf>,
    pub mode: u32,
    pub group: Option<u32>,
    pub block_bytes: u64,
    pub log_limit_bytes: u64,
    /// `when_full = "wait"`.
    pub waits_for_room: bool,
    /// The name of the place that has the logs, if they are not in the store.
    pub log: Option<String>,
    /// The name of the place that sealed blocks are carried to, if they are.
    pub sealed: Option<String>,
    /// The folder of the read cache, and how large that may be.
    pub cache: Option<(PathBuf, u64)>,
}

impl StoreConfig {
    /// What it is and where that is written, for messages.
    pub fn origin(&self) -> String {
        match &self.file {
            Some(file) => format!("{}, from {}", self.url, file.display()),
            None => format!("{}, there is no configuration file", self.url),
        }
    }
}

/// Everything that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub default_store: String,
    pub stores: BTreeMap<String, StoreConfig>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

/// Where to look; tests look elsewhere.
#[derive(Clone, Debug)]
pub struct Places {
    /// Read alone if it is there.
    pub only: Option<PathBuf>,
    pub system: PathBuf,
    pub user: Option<PathBuf>,
    /// The store when nothing is configured.
    pub data: Option<PathBuf>,
}

impl Places {
    /// As the module's text says.
    pub fn of_this_process() -> Places {
        // An empty variable is as good as none.
        let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = variable("HOME");
        let folder = |name: &str, below_home: &str| {
            let told = variable(name).filter(|path| path.is_absolute());
            told.or_else(|| home.as_ref().map(|home| home.join(below_home)))
        };
        let data = if rustix::process::geteuid().is_root() {
            Some(PathBuf::from("/var/lib/archipelago"))
        } else {
            folder("XDG_DATA_HOME", ".local/share").map(|data| data.join("archipelago/store"))
        };
        Places {
            only: variable("ARCHIPELAGO_CONFIG"),
            system: PathBuf::from("/etc/archipelago/archipelago.toml"),
            user: folder("XDG_CONFIG_HOME", ".config").map(|c| c.join("archipelago/archipelago.toml")),
            data,
        }
    }
}

/// Reads what is configured; `path` is read alone.
pub fn load(path: Option<&Path>) -> Result<Config> {
    let mut places = Places::of_this_process();
    if let Some(path) = path {
        places.only = Some(path.to_owned());
    }
    load_from(&places)
}

/// `load` with a say in where to look.
pub fn load_from(places: &Places) -> Result<Config> {
    if let Some(only) = &places.only {
        let file = read(only)?.ok_or_else(|| {
            Error::sentence(
                ErrorKind::NotFound,
                format!("there is no configuration file {}", only.display()),
            )
        })?;
        return merge(vec![(only.clone(), file)]);
    }
    let mut files = Vec::new();
    for path in [Some(&places.system), places.user.as_ref()].into_iter().flatten() {
        if let Some(file) = read(path)? {
            files.push((path.clone(), file));
        }
    }
    if !files.is_empty() {
        return merge(files);
    }
    let path = places.data.clone().ok_or_else(|| {
        Error::sentence(
            ErrorKind::NotFound,
            "no store is configured, and HOME is not set to keep one in: set ARCHIPELAGO_CONFIG",
        )
    })?;
    let name = STORE_DEFAULT.to_owned();
    let store = StoreConfig {
        name: name.clone(),
        url: format!("dir:{}", path.display()),
        place: Place::Dir(path),
        file: None,
        mode: MODE_DEFAULT,
        group: None,
        block_bytes: BLOCK_BYTES_DEFAULT,
        log_limit_bytes: LOG_LIMIT_BYTES_DEFAULT,
        waits_for_room: false,
        log: None,
        sealed: None,
        cache: None,
    };
    Ok(Config { default_store: name.clone(), stores: BTreeMap::from([(name, store)]), files: Vec::new() })
}

impl Config {
    /// The place of a store's log, if that is not in the store. Errors: `NotFound`;
    /// `Invalid` if it cannot be that.
    pub fn log_of(&self, store: &StoreConfig) -> Result<Option<&StoreConfig>> {
        self.apart(store, "log", store.log.as_ref())
    }

    /// The place that a store's sealed blocks are carried to, if they are. Errors:
    /// as `log_of`.
    pub fn sealed_of(&self, store: &StoreConfig) -> Result<Option<&StoreConfig>> {
        self.apart(store, "sealed", store.sealed.as_ref())
    }

    /// As far as URLs tell.
    fn is_used_twice(&self, store: &StoreConfig, place: &StoreConfig) -> bool {
        let parts = [Some(&store.name), store.log.as_ref(), store.sealed.as_ref()];
        let others = parts.into_iter().flatten().filter(|name| **name != place.name);
        others.filter_map(|name| self.stores.get(name)).any(|other| other.place == place.place)
    }

    fn apart(&self, store: &StoreConfig, key: &str, name: Option<&String>) -> Result<Option<&StoreConfig>> {
        let Some(name) = name else { return Ok(None) };
        let refused = |words: &str| {
            let words = format!("stores.{}.{key}: '{}' {words}", store.name, name.escape_debug());
            Err(Error::sentence(ErrorKind::Invalid, words))
        };
        match self.stores.get(name) {
            Some(_) if *name == store.name => refused("is the store itself: leave it out"),
            Some(_) if store.log == store.sealed => {
                refused("is named for both 'log' and 'sealed', which need a place each")
            }
            Some(place) if self.is_used_twice(store, place) => {
                refused("is in the same place as another part of the store, which needs a place each")
            }
            Some(place) if place.log.is_some() => refused("has its own log elsewhere"),
            Some(place) if place.sealed.is_some() => refused("has its own sealed blocks elsewhere"),
            Some(place) => Ok(Some(place)),
            None => refused("is not configured: add [stores.NAME] with its url"),
        }
    }

    /// A store by name, or the default one. Error: `NotFound`, naming the
    /// files that were read.
    pub fn store(&self, name: Option<&str>) -> Result<&StoreConfig> {
        let wanted = name.unwrap_or(&self.default_store);
        self.stores.get(wanted).ok_or_else(|| {
            let known: Vec<&str> = self.stores.keys().map(String::as_str).collect();
            let files: Vec<String> = self.files.iter().map(|f| f.display().to_string()).collect();
            let read = match files.is_empty() {
                true => "there is no configuration file".to_owned(),
                false => format!("read: {}", files.join(", ")),
            };
            Error::sentence(
                ErrorKind::NotFound,
                format!(
                    "no store '{}' is configured ({read}; configured stores: {}); add [stores.{wanted}]",
                    wanted.escape_debug(),
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") },
                ),
            )
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default_store: Option<String>,
    #[serde(default)]
    stores: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    mode: Option<String>,
    group: Option<Group>,
    block_size: Option<Size>,
    log_limit: Option<Size>,
    when_full: Option<String>,
    log: Option<String>,
    sealed: Option<String>,
    cache: Option<PathBuf>,
    cache_size: Option<Size>,
    ceph_conf: Option<PathBuf>,
    ceph_user: Option<String>,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    s3_path_style: Option<bool>,
    s3_credentials: Option<PathBuf>,
    s3_profile: Option<String>,
    gluster_log: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Group {
    Number(u32),
    Name(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes(&self) -> Result<u64> {
        match self {
            Size::Bytes(bytes) => Ok(*bytes),
            Size::Text(text) => parse_size(text),
        }
    }
}

fn read(path: &Path) -> Result<Option<File>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::from_io("read the configuration file", error)
                .on_named(path.display().to_string()))
        }
    };
    parse(path, &text).map(Some)
}

fn parse(path: &Path, text: &[u8]) -> Result<File> {
    let line_of = |at: usize| text.iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let text = std::str::from_utf8(text)
        .map_err(|error| invalid(path, &format!("line {}: it is not UTF-8", line_of(error.valid_up_to()))))?;
    toml::from_str(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        invalid(path, &format!("line {line}: {}", error.message().replace('\n', " ")))
    })
}

/// What a file with this content configures: for tests.
#[cfg(feature = "testkit")]
pub fn understand_text(path: &Path, text: &[u8]) -> Result<Config> {
    merge(vec![(path.to_owned(), parse(path, text)?)])
}

fn invalid(path: &Path, message: &str) -> Error {
    Error::sentence(ErrorKind::Invalid, format!("{}: {message}", path.display()))
}

fn merge(files: Vec<(PathBuf, File)>) -> Result<Config> {
    let mut stores = BTreeMap::new();
    let mut default_store = None;
    for (path, file) in &files {
        for (name, entry) in &file.stores {
            if !stores.contains_key(name) {
                stores.insert(name.clone(), understand(path, name, entry)?);
            }
        }
        let named = file.default_store.clone();
        let implied = || file.stores.contains_key(STORE_DEFAULT).then(|| STORE_DEFAULT.to_owned());
        default_store = default_store.or(named).or_else(implied);
    }
    Ok(Config {
        default_store: default_store.unwrap_or_else(|| STORE_DEFAULT.to_owned()),
        stores,
        files: files.into_iter().map(|(path, _)| path).collect(),
    })
}

fn understand(path: &Path, name: &str, entry: &Entry) -> Result<StoreConfig> {
    let at = |key: &str, error: Error| invalid(path, &format!("stores.{name}.{key}: {error}"));
    if VolumeName::new(name).is_err() {
        let name = name.escape_debug();
        return Err(invalid(path, &format!("'{name}' cannot be the name of a store: use A-Z a-z 0-9 . _ -")));
    }
    let size = |key: &'static str, size: &Option<Size>, usual: u64| {
        size.as_ref().map_or(Ok(usual), Size::bytes).map_err(|error| at(key, error))
    };
    let block_bytes = size("block_size", &entry.block_size, BLOCK_BYTES_DEFAULT)?;
    let log_limit_bytes = size("log_limit", &entry.log_limit, LOG_LIMIT_BYTES_DEFAULT)?;
    if log_limit_bytes < LOG_LIMIT_BYTES_MIN {
        let error = Error::sentence(ErrorKind::Invalid, "at least 16M are needed");
        return Err(at("log_limit", error));
    }
    Ok(StoreConfig {
        name: name.to_owned(),
        url: entry.url.clone(),
        place: place_of(entry).map_err(|(key, error)| at(key, error))?,
        file: Some(path.to_owned()),
        mode: parse_mode(entry.mode.as_deref()).map_err(|error| at("mode", error))?,
        group: find_group(entry.group.as_ref()).map_err(|error| at("group", error))?,
        block_bytes,
        log_limit_bytes,
        waits_for_room: parse_when_full(entry.when_full.as_deref()).map_err(|error| at("when_full", error))?,
        log: entry.log.clone(),
        sealed: entry.sealed.clone(),
        cache: cache_of(entry).map_err(|(key, error)| at(key, error))?,
    })
}

fn parse_when_full(text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("error") => Ok(false),
        Some("wait") => Ok(true),
        Some(other) => {
            let other = other.escape_debug();
            Err(Error::sentence(ErrorKind::Invalid, format!("'{other}' is neither \"error\" nor \"wait\"")))
        }
    }
}

/// Errors: with the key that is wrong.
fn cache_of(entry: &Entry) -> std::result::Result<Option<(PathBuf, u64)>, (&'static str, Error)> {
    let refuse = |key, words: &str| Err((key, Error::sentence(ErrorKind::Invalid, words)));
    let bytes = entry.cache_size.as_ref().map(Size::bytes).transpose();
    let bytes = bytes.map_err(|error| ("cache_size", error))?;
    match (&entry.cache, bytes) {
        (None, None) => Ok(None),
        (None, Some(_)) => refuse("cache_size", "say where the cache is, with 'cache'"),
        (Some(path), _) if !path.is_absolute() => refuse("cache", "begin it with /"),
        (Some(_), Some(bytes)) if bytes < CACHE_BYTES_MIN => refuse("cache_size", "at least 64M are needed"),
        (Some(path), bytes) => Ok(Some((path.clone(), bytes.unwrap_or(CACHE_BYTES_DEFAULT)))),
    }
}

/// Errors: with the key that is wrong.
fn place_of(entry: &Entry) -> std::result::Result<Place, (&'static str, Error)> {
    let place = parse_url(&entry.url).map_err(|error| ("url", error))?;
    let place = gluster::place_of(entry, s3::place_of(entry, place)?)?;
    let refuse = |key, words: &str| Err((key, Error::sentence(ErrorKind::Invalid, words)));
    match (place, &entry.ceph_conf, &entry.ceph_user) {
        (Place::Rados { .. }, Some(conf), _) if !conf.is_absolute() => refuse("ceph_conf", "begin it with /"),
        (Place::Rados { .. }, _, Some(user)) if user.is_empty() || user.starts_with("client.") => {
            refuse("ceph_user", "write the name without \"client.\", such as \"admin\"")
        }
        (Place::Rados { pool, namespace, user, .. }, conf, told) => {
            let user = told.clone().unwrap_or(user);
            Ok(Place::Rados { pool, namespace, conf: conf.clone(), user })
        }
        (_, Some(_), _) => refuse("ceph_conf", "it is for stores of kind 'rados:' only"),
        (_, _, Some(_)) => refuse("ceph_user", "it is for stores of kind 'rados:' only"),
        (place, None, None) => Ok(place),
    }
}

/// "pool" or "pool/namespace".
fn parse_pool(text: &str) -> Result<Place> {
    let (pool, namespace) = text.split_once('/').unwrap_or((text, ""));
    if pool.is_empty() || namespace.contains('/') || (text.contains('/') && namespace.is_empty()) {
        let message = format!("'rados:{text}' names no pool: write rados:pool or rados:pool/namespace");
        return Err(Error::sentence(ErrorKind::Invalid, message));
    }
    let (pool, namespace, user) = (pool.to_owned(), namespace.to_owned(), CEPH_USER_DEFAULT.to_owned());
    Ok(Place::Rados { pool, namespace, conf: None, user })
}

fn parse_url(url: &str) -> Result<Place> {
    let refuse = |words: String| Err(Error::sentence(ErrorKind::Invalid, words));
    if url.contains(char::is_control) {
        return refuse(format!("'{}' has characters that no URL can have", url.escape_debug()));
    }
    match url.split_once(':') {
        Some(("dir", path)) if Path::new(path).is_absolute() => Ok(Place::Dir(PathBuf::from(path))),
        Some(("dir", path)) => {
            refuse(format!("'{}' is not an absolute path: write dir:/some/folder", path.escape_debug()))
        }
        Some(("memory", name)) => Ok(Place::Memory(name.to_owned())),
        Some(("rados", pool)) => parse_pool(pool),
        Some(("s3", bucket)) => s3::parse_bucket(bucket).map(Place::S3),
        Some(("gluster", rest)) => gluster::parse(rest),
        Some(("nfs", _)) => refuse(
            "stores of kind 'nfs:' are not supported by this version: mount the share and write \
             dir:/mount/point"
                .to_owned(),
        ),
        split => match split.and_then(|(kind, rest)| kinds::parse(kind, rest)) {
            Some(place) => Ok(place),
            None => refuse(format!("'{}' is no URL of a store: write dir:/some/folder", url.escape_debug())),
        },
    }
}

fn parse_mode(text: Option<&str>) -> Result<u32> {
    let Some(text) = text else {
        return Ok(MODE_DEFAULT);
    };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err(Error::sentence(
            ErrorKind::Invalid,
            format!("'{}' is no mode: write it in octal, such as \"0660\"", text.escape_debug()),
        )),
    }
}

fn find_group(group: Option<&Group>) -> Result<Option<u32>> {
    let name = match group {
        None => return Ok(None),
        Some(Group::Number(number)) => return Ok(Some(*number)),
        Some(Group::Name(name)) => name,
    };
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let number = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.map(Some).ok_or_else(|| {
        Error::sentence(
            ErrorKind::Invalid,
            format!(
                "/etc/group has no group '{}': if it is kept elsewhere, write its number",
                name.escape_debug()
            ),
        )
    })
}

/// "512", "64K", "1.5G", "2TiB": bytes. The suffixes mean powers of 1,024.
pub fn parse_size(text: &str) -> Result<u64> {
    let refused = || {
        Error::sentence(
            ErrorKind::Invalid,
            format!("'{}' is not a size: write a number and K, M, G, T or P", text.escape_debug()),
        )
    };
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(end);
    let shift = match suffix.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_split = number.contains('.');
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || (shift == 0 && is_split) {
        return Err(refused());
    }
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let bytes = whole.checked_mul(1 << shift).ok_or_else(refused)?;
    if fraction.is_empty() {
        return Ok(bytes);
    }
    let digits: u128 = fraction.parse().map_err(|_| refused())?;
    let part = (digits << shift) / 10_u128.pow(fraction.len() as u32);
    bytes.checked_add(u64::try_from(part).map_err(|_| refused())?).ok_or_else(refused)
}

#[cfg(test)]
mod tests;
