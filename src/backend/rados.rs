//! `rados`: objects of a Ceph cluster, through its own library. `rados_names`
//! says how they lie there.
//!
//! * What the cluster acknowledges is on its disks: `sync` has nothing to do.
//! * While it is away, requests wait, as those of any disk of Ceph do. A full
//!   pool is `NoSpace`.
//! * A request whose outcome the library does not know is `Unknown`.
//! * A lock is a lock of the cluster, which goes when it is not renewed; who
//!   takes one that its last holder has not given back has that holder cut
//!   off first (`rados_lock`).

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use super::memory::beyond_end;
use super::rados_data::RadosData;
use super::rados_lock::Locks;
use super::rados_names::{
    index_of, place_of, segment_object, segment_of, segment_value, whole_value, Place, KINDS,
};
use super::{Backend, Capabilities, DataPath, Last, Lock, LockMode, ObjectStat};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;
use crate::sys::rados::{Answer, Client, Errno, Pool, Refused};

/// What Ceph allows unless it is told otherwise (`osd_max_object_size`).
const OBJECT_BYTES_MAX: u64 = 128 << 20;
const IN_FLIGHT_MAX: usize = 128;

/// How long to wait for a cluster that does not answer, in seconds.
const CONNECT_S: &str = "30";

/// Objects whose length is kept in memory; some 100 bytes each.
const KNOWN_MAX: usize = 1 << 16;

/// Where a store is in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RadosOptions {
    pub pool: String,
    /// "" is the pool's first one.
    pub namespace: String,
    /// Ceph's configuration; without: `CEPH_CONF`, or the usual places.
    pub conf: Option<PathBuf>,
    /// "admin" for `client.admin`.
    pub user: String,
}

/// What is known of an object that can be written.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub object: String,
    pub bytes: u64,
}

/// The parts that the data path needs too.
pub(super) struct Inner {
    pub pool: Arc<Pool>,
    known: Mutex<HashMap<ObjectName, Known>>,
}

/// A store in a pool.
pub struct Rados {
    inner: Arc<Inner>,
    locks: Arc<Locks>,
    data: Option<Arc<RadosData>>,
}

impl fmt::Debug for Rados {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rados")
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    overwrite_in_place: true,
    durable_on_ack: true,
    fences: true,
    sync_all_cheap: true,
    list_lag_s: 0,
    lists_at_once: true,
    object_bytes_max: OBJECT_BYTES_MAX,
    in_flight_max: IN_FLIGHT_MAX,
    tells_room: false,
    cuts_off: true,
};

/// Stores of one cluster and user share a connection: who is cut off is cut
/// off with all of it, and the cluster sees one client.
fn client(options: &RadosOptions) -> Result<Arc<Client>> {
    type Clients = Mutex<HashMap<(Option<PathBuf>, String), Weak<Client>>>;
    static CLIENTS: std::sync::OnceLock<Clients> = std::sync::OnceLock::new();
    let mut clients = CLIENTS.get_or_init(Mutex::default).lock();
    let key = (options.conf.clone(), options.user.clone());
    if let Some(client) = clients.get(&key).and_then(Weak::upgrade) {
        return Ok(client);
    }
    let user = format!("client.{}", options.user);
    let settings = [("client_mount_timeout", CONNECT_S)];
    let client = Client::connect(options.conf.as_deref(), &user, &settings);
    let client = Arc::new(client.map_err(|refused| explain(refused, options))?);
    clients.retain(|_, client| client.strong_count() > 0);
    clients.insert(key, Arc::downgrade(&client));
    Ok(client)
}

fn explain(refused: Refused, options: &RadosOptions) -> Error {
    let usual = || "Ceph's usual configuration".to_owned();
    let conf = options.conf.as_ref().map_or_else(usual, |path| path.display().to_string());
    match refused {
        Refused::NoLibrary(said) => Error::sentence(
            ErrorKind::Unavailable,
            format!("Ceph's library cannot be used: install it with: apt-get install librados2 ({said})"),
        ),
        Refused::At(operation, Errno(errno)) => {
            let kind = match errno {
                libc::ETIMEDOUT => ErrorKind::Unavailable,
                other => ErrorKind::from_errno(other),
            };
            let said = std::io::Error::from_raw_os_error(errno);
            let next = match errno {
                libc::ENOENT => "is there a configuration and a keyring for that user?",
                libc::EACCES | libc::EPERM => "may that user log in?",
                _ => "does the cluster answer? see: ceph -s",
            };
            Error::sentence(
                kind,
                format!("cannot {operation} as client.{} with {conf}: {said}; {next}", options.user),
            )
        }
    }
}

impl Rados {
    /// Connects. Errors: `Unavailable` if there is no library, or no cluster for
    /// half a minute; `Invalid` if there is no such pool; `NotFound`, `Denied`.
    pub fn open(options: &RadosOptions) -> Result<Rados> {
        let client = client(options)?;
        let pool = client.pool(&options.pool, &options.namespace).map_err(|Errno(errno)| {
            let said = std::io::Error::from_raw_os_error(errno);
            let next = format!("make it with: ceph osd pool create {}", options.pool);
            Error::sentence(
                ErrorKind::Invalid,
                format!("cannot use the pool '{}' of the cluster: {said}; {next}", options.pool),
            )
        })?;
        let pool = Arc::new(pool);
        let own = client.addresses().map_err(|errno| failed("ask who it is", errno))?;
        let inner = Arc::new(Inner { pool: Arc::clone(&pool), known: Mutex::default() });
        let locks = Locks::new(pool, own);
        let data = RadosData::start(Arc::clone(&inner));
        Ok(Rados { inner, locks, data })
    }
}

/// What an errno of the cluster means; `operation` changes something.
pub(super) fn failed(operation: &'static str, Errno(errno): Errno) -> Error {
    let kind = match errno {
        libc::ENOENT => ErrorKind::NotFound,
        libc::EEXIST => ErrorKind::Exists,
        libc::EBUSY => ErrorKind::Busy,
        libc::ENOSPC | libc::EDQUOT => ErrorKind::NoSpace,
        libc::EPERM | libc::EACCES | libc::EROFS => ErrorKind::Denied,
        libc::EINVAL | libc::EFBIG | libc::EMSGSIZE | libc::ENAMETOOLONG => ErrorKind::Invalid,
        // The cluster has this client on its blocklist.
        libc::ESHUTDOWN => ErrorKind::Fenced,
        _ => ErrorKind::Unknown,
    };
    let error = Error::new(kind, operation).caused_by(std::io::Error::from_raw_os_error(errno));
    match errno {
        libc::ESHUTDOWN => error.because("the cluster has cut this client off: another one has taken over"),
        _ => error,
    }
}

/// As `failed`; reading again does no harm.
pub(super) fn not_read(errno: Errno) -> Error {
    let error = failed("read", errno);
    match error.kind() {
        ErrorKind::Unknown => error.with_kind(ErrorKind::Unavailable),
        _ => error,
    }
}

pub(super) fn missing(operation: &'static str, name: &ObjectName) -> Error {
    Error::new(ErrorKind::NotFound, operation).on(name)
}

impl Inner {
    pub fn known(&self, name: &ObjectName) -> Option<Known> {
        self.known.lock().get(name).cloned()
    }

    /// What can be read at once. The length of a block or page need not be known
    /// for that.
    pub fn readable(&self, name: &ObjectName) -> Option<Known> {
        self.known(name).or_else(|| match place_of(name) {
            Place::Object(object) => Some(Known { object, bytes: u64::MAX }),
            _ => None,
        })
    }

    fn note(&self, name: &ObjectName, known: Known) -> Known {
        let mut all = self.known.lock();
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(name.clone(), known.clone());
        known
    }

    fn forget(&self, name: &ObjectName) {
        self.known.lock().remove(name);
    }

    /// The object that can be read and written under a name, and its length.
    fn look(&self, operation: &'static str, name: &ObjectName) -> Result<Known> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let found = match place_of(name) {
            Place::Object(object) => {
                let bytes = self.pool.stat(&object).map_err(|errno| not_read(errno).on(name))?;
                Known { object, bytes }
            }
            Place::Segment { index, key } => {
                let value = self.pool.value(&index, &key).map_err(|errno| not_read(errno).on(name))?;
                let value = value.ok_or_else(|| missing(operation, name))?;
                let (random, bytes) = segment_of(name, &value)?;
                Known { object: segment_object(&key, random), bytes }
            }
            Place::Value { .. } => {
                return Err(Error::new(ErrorKind::Invalid, operation)
                    .on(name)
                    .because("only blocks and log segments are written"))
            }
        };
        Ok(self.note(name, found))
    }

    /// Does something with an object. One that has gone may have another
    /// object under its name by now.
    fn with<T>(
        &self,
        operation: &'static str,
        name: &ObjectName,
        call: &mut dyn FnMut(&Known) -> Result<Answer<T>>,
    ) -> Result<Answer<T>> {
        let was_known = self.known(name).is_some();
        let result = call(&self.look(operation, name)?)?;
        if !matches!(result, Err(Errno(libc::ENOENT))) {
            return Ok(result);
        }
        self.forget(name);
        match was_known {
            true => call(&self.look(operation, name)?),
            false => Ok(result),
        }
    }

    pub fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        if let Place::Value { index, key } = place_of(name) {
            let data = self.value(name, &index, &key)?;
            let from = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(data.len());
            let bytes = buf.len().min(data.len() - from);
            buf[..bytes].copy_from_slice(&data[from..from + bytes]);
            return Ok(bytes);
        }
        if let (Place::Object(object), false) = (place_of(name), buf.is_empty()) {
            let read = self.pool.read(&object, offset_bytes, buf);
            return read.map_err(|errno| not_read(errno).on(name).at(offset_bytes));
        }
        let read = self.with("read", name, &mut |known| {
            let left = known.bytes.saturating_sub(offset_bytes);
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            match wanted {
                0 => Ok(Ok(0)),
                _ => Ok(self.pool.read(&known.object, offset_bytes, &mut buf[..wanted])),
            }
        })?;
        read.map_err(|errno| not_read(errno).on(name).at(offset_bytes))
    }

    pub fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let written = self.with("write", name, &mut |known| {
            check_end("write", name, offset_bytes, data.len() as u64, known.bytes)?;
            let op = self.pool.op().assert_exists().write(offset_bytes, data);
            Ok(self.pool.write(&known.object, &op))
        })?;
        written.map_err(|errno| failed("write", errno).on(name).at(offset_bytes))
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        let punched = self.with("punch", name, &mut |known| {
            check_end("punch", name, offset_bytes, bytes, known.bytes)?;
            // Of no bytes an OSD makes an assertion that ends it.
            if bytes == 0 {
                return Ok(self.pool.stat(&known.object).map(drop));
            }
            // Zeroes up to the end would make it shorter.
            let op = self.pool.op().assert_exists().zero(offset_bytes, bytes).truncate(known.bytes);
            Ok(self.pool.write(&known.object, &op))
        })?;
        punched.map_err(|errno| failed("punch", errno).on(name).at(offset_bytes))
    }

    /// An object of `bytes` that begins with `data`, and is zeroes behind it.
    fn make(&self, object: &str, data: &[u8], bytes: u64) -> Answer<()> {
        let mut op = self.pool.op().create(true).expect_size(bytes);
        if !data.is_empty() {
            op = op.write(0, data);
        }
        if (data.len() as u64) < bytes {
            op = op.truncate(bytes);
        }
        self.pool.write(object, &op)
    }

    fn create(&self, name: &ObjectName, data: &[u8], bytes: u64) -> Result<()> {
        if bytes > OBJECT_BYTES_MAX {
            let message =
                format!("{bytes} bytes are more than the {OBJECT_BYTES_MAX} that an object can have here");
            return Err(Error::new(ErrorKind::Invalid, "create").on(name).because(message));
        }
        let told = |errno| failed("create", errno).on(name);
        match place_of(name) {
            Place::Object(object) => {
                self.make(&object, data, bytes).map_err(told)?;
                self.note(name, Known { object, bytes });
                Ok(())
            }
            Place::Value { index, key } => {
                let mut whole = data.to_vec();
                whole.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
                self.enter(name, &index, &key, &whole_value(&whole))
            }
            Place::Segment { index, key } => {
                let random = clock::random_id()?;
                let object = segment_object(&key, random);
                self.make(&object, data, bytes).map_err(told)?;
                let entered = self.enter(name, &index, &key, &segment_value(random, bytes));
                match &entered {
                    Ok(()) => drop(self.note(name, Known { object, bytes })),
                    // Whether it is named is not known: then it stays.
                    Err(error) if error.is(ErrorKind::Unknown) => {}
                    Err(_) => self.remove_quietly(&object),
                }
                entered
            }
        }
    }

    /// One that came from elsewhere may be shorter than it was made there.
    fn lengthen(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        let Place::Object(object) = place_of(name) else { return Ok(()) };
        let told = |errno| failed("lengthen", errno).on(name);
        let there = self.pool.stat(&object).map_err(told)?;
        if there < bytes {
            let op = self.pool.op().assert_exists().truncate(bytes);
            self.pool.write(&object, &op).map_err(told)?;
            self.note(name, Known { object, bytes });
        }
        Ok(())
    }

    fn remove_quietly(&self, object: &str) {
        match self.pool.remove(object) {
            Ok(()) | Err(Errno(libc::ENOENT)) => {}
            Err(Errno(errno)) => {
                let error = std::io::Error::from_raw_os_error(errno);
                log::debug!("'{object}' of a log is left over: {error}");
            }
        }
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let told = |errno| not_read(errno).on(name);
        let result = match place_of(name) {
            Place::Object(object) => {
                self.pool.remove(&object).map_err(|errno| failed("delete", errno).on(name))
            }
            Place::Value { index, key } | Place::Segment { index, key } => {
                let value = self.pool.value(&index, &key).map_err(told)?;
                let value = value.ok_or_else(|| missing("delete", name))?;
                self.leave(name, &index, &key, &value)?;
                if let Ok((random, _)) = segment_of(name, &value) {
                    self.remove_quietly(&segment_object(&key, random));
                }
                Ok(())
            }
        };
        self.forget(name);
        result
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        let bytes = match place_of(name) {
            Place::Value { index, key } => self.value(name, &index, &key)?.len() as u64,
            Place::Segment { .. } => {
                self.forget(name);
                self.look("look at", name)?.bytes
            }
            Place::Object(object) => {
                let bytes = self.pool.stat(&object).map_err(|errno| not_read(errno).on(name))?;
                self.note(name, Known { object, bytes }).bytes
            }
        };
        // The cluster does not say what an object takes.
        Ok(ObjectStat { bytes, allocated_bytes: bytes })
    }

    fn list(&self, prefix: &str, after: &str, count_max: usize) -> Result<Vec<ObjectName>> {
        let told = |errno| not_read(errno).on_named(format!("{prefix}*"));
        let mut found: Vec<ObjectName> = Vec::new();
        for (kind, indexed) in KINDS {
            let is_meant = kind.starts_with(prefix) || prefix.starts_with(kind);
            // All of this kind comes before `after`.
            let is_past = after > kind && !after.starts_with(kind);
            let left = count_max - found.len();
            if !is_meant || is_past || left == 0 {
                continue;
            }
            let prefix = if prefix.len() > kind.len() { prefix } else { kind };
            if indexed {
                let values = self.pool.values(&index_of(kind), after, prefix, left).map_err(told)?;
                found.extend(values.iter().filter_map(|(key, _)| ObjectName::parse(key)));
            } else {
                found.extend(self.scan(prefix, after, left).map_err(told)?);
            }
        }
        Ok(found)
    }

    /// Looks at every object of the namespace.
    fn scan(&self, prefix: &str, after: &str, count_max: usize) -> Answer<Vec<ObjectName>> {
        let mut texts: Vec<String> = Vec::new();
        self.pool.each(&mut |name| {
            if let Ok(text) = std::str::from_utf8(name) {
                if text.starts_with(prefix) && text > after {
                    texts.push(text.to_owned());
                }
            }
        })?;
        texts.sort_unstable();
        Ok(texts.iter().filter_map(|text| ObjectName::parse(text)).take(count_max).collect())
    }
}

pub(super) fn check_end(
    operation: &'static str,
    name: &ObjectName,
    offset_bytes: u64,
    bytes: u64,
    object_bytes: u64,
) -> Result<()> {
    match offset_bytes.checked_add(bytes) {
        Some(end) if end <= object_bytes => Ok(()),
        _ => Err(beyond_end(operation, name, offset_bytes, bytes, object_bytes)),
    }
}

impl Backend for Rados {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        // Zeroes at the end need not be sent.
        let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.inner.create(name, &data[..end], data.len() as u64)
    }

    fn create_each(&self, objects: &[(&ObjectName, &[u8])]) -> Vec<Result<()>> {
        let one_by_one = || objects.iter().map(|(name, data)| self.create(name, data)).collect();
        self.inner.enter_each(objects).unwrap_or_else(one_by_one)
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        let made = self.inner.create(name, &[], bytes);
        if made.as_ref().is_err_and(|error| error.is(ErrorKind::Exists)) {
            self.inner.lengthen(name, bytes)?;
        }
        made
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.inner.write_at(name, offset_bytes, data)
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.inner.punch(name, offset_bytes, bytes)
    }

    fn sync(&self, _names: &[ObjectName]) -> Result<()> {
        Ok(())
    }

    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.inner.stat(name)
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Result<Vec<ObjectName>> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        self.inner.list(prefix, &after, count_max)
    }

    fn last(&self, prefix: &str) -> Result<Last> {
        self.last_of_each(&[prefix]).pop().unwrap_or(Ok(Last::Untold))
    }

    fn last_of_each(&self, prefixes: &[&str]) -> Vec<Result<Last>> {
        self.inner.last_of_each(prefixes)
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.locks.take(name, mode)
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.locks.cut_off(name)
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.data.clone().map(|data| data as Arc<dyn DataPath>)
    }
}
