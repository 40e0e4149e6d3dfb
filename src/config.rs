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
//!
//! [stores.ceph]
//! url = "rados:vms/prod"            # a pool, and a namespace of it
//! ceph_conf = "/etc/ceph/ceph.conf" # without: where Ceph looks
//! ceph_user = "archipelago"         # without: admin
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

/// The store that is meant when nothing says otherwise.
pub const STORE_DEFAULT: &str = "main";

/// As Ceph's own programs do.
const CEPH_USER_DEFAULT: &str = "admin";

const MODE_DEFAULT: u32 = 0o660;
const BLOCK_BYTES_DEFAULT: u64 = 4 << 20;
pub const LOG_LIMIT_BYTES_DEFAULT: u64 = 256 << 20;
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
    };
    Ok(Config { default_store: name.clone(), stores: BTreeMap::from([(name, store)]), files: Vec::new() })
}

impl Config {
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
    ceph_conf: Option<PathBuf>,
    ceph_user: Option<String>,
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
    })
}

/// Errors: with the key that is wrong.
fn place_of(entry: &Entry) -> std::result::Result<Place, (&'static str, Error)> {
    let place = parse_url(&entry.url).map_err(|error| ("url", error))?;
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
        Some((kind @ ("gluster" | "s3" | "nfs"), _)) => {
            let hint = if kind == "nfs" { ": mount the share and write dir:/mount/point" } else { "" };
            refuse(format!("stores of kind '{kind}:' are not supported by this version{hint}"))
        }
        _ => refuse(format!("'{}' is no URL of a store: write dir:/some/folder", url.escape_debug())),
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
mod tests {
    use super::*;

    // A user who gets another store than they meant writes to another disk.
    // Each test lays out files and says which store is meant.

    struct Lab {
        folder: tempfile::TempDir,
        places: Places,
    }

    fn lab() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            only: None,
            system: folder.path().join("system.toml"),
            user: Some(folder.path().join("user.toml")),
            data: Some(folder.path().join("data")),
        };
        Lab { folder, places }
    }

    impl Lab {
        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn meant(&self) -> String {
            load_from(&self.places).unwrap().store(None).unwrap().url.clone()
        }

        fn refusal(&self, text: &str) -> String {
            self.write("system.toml", text);
            let error = load_from(&self.places).unwrap_err();
            assert!(error.is(ErrorKind::Invalid), "{error}");
            error.to_string()
        }
    }

    #[test]
    fn without_a_file_the_store_is_in_the_data_folder() {
        let lab = lab();
        assert!(lab.meant().starts_with("dir:") && lab.meant().ends_with("/data"));
        let config = load_from(&lab.places).unwrap();
        assert!(config.store(None).unwrap().origin().contains("no configuration file"));
    }

    #[test]
    fn the_system_wins_over_the_user() {
        let lab = lab();
        lab.write("user.toml", "[stores.main]\nurl = 'dir:/mine'\n[stores.other]\nurl = 'dir:/o'");
        assert_eq!(lab.meant(), "dir:/mine");
        lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'");
        assert_eq!(lab.meant(), "dir:/ours");
        let config = load_from(&lab.places).unwrap();
        assert_eq!(config.store(Some("other")).unwrap().url, "dir:/o");
        assert_eq!(config.files.len(), 2);
    }

    #[test]
    fn a_user_cannot_change_what_the_default_is() {
        let lab = lab();
        lab.write("user.toml", "default_store = 'other'\n[stores.other]\nurl = 'dir:/o'");
        lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'");
        assert_eq!(lab.meant(), "dir:/ours");
        lab.write("system.toml", "default_store = 'x'\n[stores.x]\nurl = 'dir:/x'");
        assert_eq!(lab.meant(), "dir:/x");
    }

    #[test]
    fn a_file_that_is_named_is_read_alone() {
        let mut lab = lab();
        lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'\n[stores.x]\nurl = 'dir:/x'");
        lab.places.only = Some(lab.write("only.toml", "[stores.main]\nurl = 'dir:/only'"));
        assert_eq!(lab.meant(), "dir:/only");
        let error = load_from(&lab.places).unwrap().store(Some("x")).unwrap_err();
        assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("only.toml"), "{error}");
        lab.places.only = Some(lab.folder.path().join("missing.toml"));
        assert!(load_from(&lab.places).unwrap_err().to_string().contains("missing.toml"));
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let lab = lab();
        for (text, words) in [
            ("[stores.main]\nurl = 'dir:/a'\ncolour = 'red'", "line 3: unknown field `colour`"),
            ("defualt_store = 'a'", "line 1: unknown field `defualt_store`"),
            ("[stores.main]\nurl = 'dir:a'", "stores.main.url: 'a' is not an absolute path"),
            ("[stores.main]\nurl = 's3://b/p'", "kind 's3:' are not supported by this version"),
            ("[stores.main]\nurl = '/srv'", "is no URL of a store"),
            ("[stores.main]\nurl = 'rados:'", "'rados:' names no pool: write rados:pool"),
            ("[stores.main]\nurl = 'rados:p/'", "'rados:p/' names no pool"),
            ("[stores.main]\nurl = 'rados:p/a/b'", "'rados:p/a/b' names no pool"),
            ("[stores.main]\nurl = 'rados:p'\nceph_conf = 'c'", "stores.main.ceph_conf: begin it with /"),
            ("[stores.main]\nurl = 'rados:p'\nceph_user = 'client.a'", "stores.main.ceph_user: write"),
            ("[stores.main]\nurl = 'dir:/a'\nceph_user = 'a'", "stores.main.ceph_user: it is for stores of"),
            ("[stores.main]\nmode = '0660'", "missing field `url`"),
            ("[stores.main]\nurl = 'dir:/a'\nmode = '0999'", "stores.main.mode"),
            ("[stores.main]\nurl = 'dir:/a'\ngroup = 'no such group'", "stores.main.group"),
            ("[stores.main]\nurl = 'dir:/a'\nlog_limit = '1K'", "stores.main.log_limit"),
            ("[stores.main]\nurl = 'dir:/a'\nblock_size = '4X'", "stores.main.block_size"),
            ("[stores.'a b']\nurl = 'dir:/a'", "'a b' cannot be the name of a store"),
            ("x", "line 1:"),
        ] {
            let refusal = lab.refusal(text);
            assert!(refusal.contains("system.toml") && refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn everything_about_a_store_can_be_set() {
        let lab = lab();
        lab.write(
            "system.toml",
            "[stores.main]\nurl = 'dir:/a'\nmode = '0640'\ngroup = 'root'\n\
             block_size = '64K'\nlog_limit = '1G'",
        );
        let config = load_from(&lab.places).unwrap();
        let store = config.store(None).unwrap();
        assert_eq!((store.mode, store.group), (0o640, Some(0)));
        assert_eq!((store.block_bytes, store.log_limit_bytes), (64 << 10, 1 << 30));
    }

    #[test]
    fn a_store_in_a_cluster() {
        let lab = lab();
        let place = |text: &str| {
            lab.write("system.toml", &format!("[stores.main]\n{text}"));
            format!("{:?}", load_from(&lab.places).unwrap().store(None).unwrap().place)
        };
        assert!(place("url = 'rados:vms'").contains(r#""vms", namespace: "", conf: None, user: "admin""#));
        let told = "url = 'rados:vms/prod'\nceph_conf = '/c'\nceph_user = 'a'";
        assert_eq!(place(told), r#"Rados { pool: "vms", namespace: "prod", conf: Some("/c"), user: "a" }"#);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 64 << 10),
            ("4M", 4 << 20),
            ("1.5G", 3 << 29),
            ("2TiB", 2 << 40),
            ("10 MB", 10 << 20),
            ("0.5K", 512),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.5", "1..5K", ".5K", "99999999999P", "1e3", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
