//! `s3`: objects in a bucket, over HTTP. `s3_wire` makes the requests.
//!
//! * `create` is a PUT on the condition that the name is not taken. A server that
//!   ignores the condition would replace what is there: opening the store finds
//!   out, and refuses it.
//! * Each object carries a random number of the `create` that made it. Whoever
//!   loses an answer looks whose the object is; nobody is told that a name is
//!   taken by what it has made itself.
//! * It also carries the BLAKE3 of its content, which is compared when all of it
//!   is read. The server compares what it gets with the signed SHA-256.
//! * What is there cannot be overwritten, and nobody can be kept from writing.
//! * A server that has no time, or that is gone, is tried again for half a minute.

use std::fmt;
use std::sync::Arc;

use super::s3_answer::{page_of, range_of, refused};
use super::s3_data::S3Data;
use super::s3_wire::{Call, Said, Wire};
pub use super::s3_wire::{S3Options, TRY_FOR};
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::curl::{Answer, Method};

/// What S3 takes in one request.
const OBJECT_BYTES_MAX: u64 = 5 << 30;
const IN_FLIGHT_MAX: usize = 32;

/// Who made an object, and the sum of its content.
const MADE_BY: &str = "x-amz-meta-archipelago-made-by";
const SUM: &str = "x-amz-meta-archipelago-blake3";

/// An object that shows whether conditions count. It is not one of a store's.
const PROBE: &str = "conditions-count";

const CAPABILITIES: Capabilities = Capabilities {
    overwrite_in_place: false,
    durable_on_ack: true,
    fences: false,
    cuts_off: false,
    sync_all_cheap: true,
    tells_room: false,
    list_lag_s: 0,
    lists_at_once: false,
    object_bytes_max: OBJECT_BYTES_MAX,
    in_flight_max: IN_FLIGHT_MAX,
};

/// A store in a bucket.
pub struct S3 {
    inner: Arc<Inner>,
    data: Option<Arc<S3Data>>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3")
    }
}

/// The part that the data path needs too.
#[derive(Debug)]
pub(super) struct Inner {
    wire: Wire,
    /// Of all names: "" or "prefix/".
    root: String,
}

impl S3 {
    /// Errors: `Unavailable` without libcurl, or if the server does not answer;
    /// `Invalid` if there is no such bucket, or if it ignores conditions; `Denied`.
    pub fn open(options: S3Options) -> Result<S3> {
        let root = match options.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let inner = Arc::new(Inner { wire: Wire::new(options)?, root });
        inner.check_conditions()?;
        let data = S3Data::start(&inner);
        Ok(S3 { inner, data })
    }
}

/// What an object says of itself.
struct Label {
    made_by: String,
    bytes: u64,
}

impl Inner {
    fn key(&self, name: &ObjectName) -> String {
        format!("{}{name}", self.root)
    }

    fn refused(&self, operation: &'static str, answer: &Answer) -> Error {
        refused(operation, &self.wire.options.bucket, answer)
    }

    /// The first PUT makes it, unless it is there; from then on each must fail.
    fn check_conditions(&self) -> Result<()> {
        let key = format!("{}{PROBE}", self.root);
        let headers = [("if-none-match", "*".to_owned())];
        let call = Call { headers: &headers, body: b"\n", ..Call::new(Method::Put, &key) };
        // It may be made, or taken away by somebody who tidies up, in between.
        for _ in 0..4 {
            let answer = self.wire.ask("use the bucket", &call)?;
            match answer.status {
                412 => return Ok(()),
                200 | 409 => {}
                _ => return Err(self.refused("use the bucket", &answer)),
            }
        }
        let S3Options { bucket, endpoint, .. } = &self.wire.options;
        Err(Error::sentence(
            ErrorKind::Invalid,
            format!(
                "{endpoint} (bucket '{bucket}') ignores 'If-None-Match: *', without which two hosts could \
                 replace each other's objects: use a server that knows it, such as Ceph 16 or later"
            ),
        ))
    }

    /// `None`: there is none.
    fn look(&self, operation: &'static str, key: &str) -> Result<Option<Label>> {
        let answer = self.wire.ask(operation, &Call::new(Method::Head, key))?;
        match answer.status {
            200 => {
                let bytes = answer.header("content-length").and_then(|text| text.parse().ok());
                let made_by = answer.header(MADE_BY).unwrap_or_default().to_owned();
                let unsaid =
                    || Error::new(ErrorKind::Corrupt, operation).because("it does not say how long it is");
                Ok(Some(Label { made_by, bytes: bytes.ok_or_else(unsaid)? }))
            }
            // Who asks like this is not told why: what follows will be.
            404 => Ok(None),
            _ => Err(self.refused(operation, &answer)),
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        if data.len() as u64 > OBJECT_BYTES_MAX {
            let message = format!("{} bytes are more than S3 takes at once", data.len());
            return Err(Error::new(ErrorKind::Invalid, "create").on(name).because(message));
        }
        self.put(&self.key(name), data).map_err(|error| error.on(name))
    }

    /// The same request may be sent several times: of all of them at most one is
    /// carried out, because what it makes keeps the others from it.
    fn put(&self, key: &str, data: &[u8]) -> Result<()> {
        let made_by = clock::random_id()?.to_string();
        let headers = [
            ("if-none-match", "*".to_owned()),
            (SUM, blake3::hash(data).to_hex().to_string()),
            (MADE_BY, made_by.clone()),
        ];
        let call = Call { headers: &headers, body: data, ..Call::new(Method::Put, key) };
        let mut tries = self.wire.tries();
        let mut may_be_done = false;
        loop {
            let said = self.wire.once(&call)?;
            match &said {
                Said::Answer(answer) if answer.status == 200 => return Ok(()),
                Said::Answer(answer) if !matches!(answer.status, 409 | 412) => {
                    let error = self.refused("create", answer);
                    return Err(if may_be_done { error.with_kind(ErrorKind::Unknown) } else { error });
                }
                _ => {}
            }
            let is_taken = matches!(&said, Said::Answer(_));
            // A connection that was kept may have taken it twice, and told of the
            // second time.
            may_be_done |= !is_taken && said.may_be_done();
            if is_taken || may_be_done {
                match self.look("create", key) {
                    Ok(Some(label)) if label.made_by == made_by => return Ok(()),
                    Ok(Some(_)) => return Err(Error::new(ErrorKind::Exists, "create")),
                    // Not there (any more).
                    Ok(None) => {}
                    Err(error) => return Err(error.with_kind(ErrorKind::Unknown)),
                }
            }
            if said.is_for_good() || !tries.pause()? {
                return Err(self.wire.gone("create", &said, may_be_done));
            }
            log::debug!("{key} is made again: {}", said.words());
        }
    }

    pub fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let key = self.key(name);
        if buf.is_empty() {
            let there = self.look("read", &key).map_err(|error| error.on(name))?;
            return there.map(|_| 0).ok_or_else(|| missing("read", name));
        }
        let last = offset_bytes.saturating_add(buf.len() as u64 - 1);
        let headers = [("range", format!("bytes={offset_bytes}-{last}"))];
        let call = Call { headers: &headers, answer_bytes: buf.len(), ..Call::new(Method::Get, &key) };
        let mut tries = self.wire.tries();
        loop {
            let answer = self.wire.ask("read", &call).map_err(|error| error.on(name).at(offset_bytes))?;
            match self.take(&answer, offset_bytes, buf) {
                Err(Wrong::Refused(error)) => return Err(error.on(name).at(offset_bytes)),
                Err(Wrong::Content(message)) => {
                    // What is between may have damaged it.
                    log::warn!("{name} is read again: {message}");
                    if !tries.pause()? {
                        return Err(Error::corrupt(name, message));
                    }
                }
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    /// Looks whether an answer is what was asked for, and takes its content.
    fn take(&self, answer: &Answer, offset_bytes: u64, buf: &mut [u8]) -> std::result::Result<usize, Wrong> {
        let body = &answer.body;
        let (first, total) = match answer.status {
            // It has sent all of it.
            200 => (0, body.len() as u64),
            206 => {
                let range = answer.header("content-range").and_then(range_of);
                let (first, last, total) =
                    range.ok_or_else(|| Wrong::Content("it does not say what it is".into()))?;
                let wanted = offset_bytes.saturating_add(buf.len() as u64).min(total);
                let is_right = first == offset_bytes
                    && last.checked_add(1) == Some(wanted)
                    && wanted.checked_sub(first) == Some(body.len() as u64);
                if !is_right {
                    let words = format!("{} bytes came, said to be {first} to {last}", body.len());
                    return Err(Wrong::Content(words));
                }
                (first, total)
            }
            // It ends before that.
            416 => return Ok(0),
            _ => return Err(Wrong::Refused(self.refused("read", answer))),
        };
        if first == 0 && body.len() as u64 == total {
            let sum = answer.header(SUM);
            if sum.is_some_and(|sum| sum != blake3::hash(body).to_hex().as_str()) {
                return Err(Wrong::Content("it has not the content that it was made with".into()));
            }
        }
        let skipped = usize::try_from(offset_bytes - first).unwrap_or(usize::MAX).min(body.len());
        let bytes = buf.len().min(body.len() - skipped);
        buf[..bytes].copy_from_slice(&body[skipped..skipped + bytes]);
        Ok(bytes)
    }

    /// A request that is sent twice could take what got the name in between:
    /// before it is sent again it is looked whether what is there is the same.
    fn delete(&self, name: &ObjectName) -> Result<()> {
        let key = self.key(name);
        let on = |error: Error| error.on(name);
        let look = || self.look("delete", &key);
        // S3 does not say whether there was one.
        let label = look().map_err(on)?.ok_or_else(|| missing("delete", name))?;
        let is_again = matches!(name, ObjectName::Volume(_) | ObjectName::Snapshot { .. });
        let call = Call { is_fresh: is_again, ..Call::new(Method::Delete, &key) };
        let mut tries = self.wire.tries();
        let mut may_be_done = false;
        loop {
            let said = self.wire.once(&call).map_err(on)?;
            match &said {
                Said::Answer(answer) if matches!(answer.status, 200 | 204) => return Ok(()),
                Said::Answer(answer) if answer.status != 404 => {
                    return Err(on(self.refused("delete", answer)))
                }
                _ => may_be_done |= said.may_be_done(),
            }
            if may_be_done {
                match look() {
                    Ok(Some(there)) if there.made_by == label.made_by => {}
                    Ok(_) => return Ok(()),
                    Err(error) => return Err(on(error.with_kind(ErrorKind::Unknown))),
                }
            }
            if said.is_for_good() || !tries.pause()? {
                return Err(on(self.wire.gone("delete", &said, may_be_done)));
            }
        }
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        while names.len() < count_max {
            let mut query = Vec::new();
            if let Some(token) = &token {
                query.push(("continuation-token", token.clone()));
            }
            query.push(("list-type", "2".to_owned()));
            query.push(("max-keys", (count_max - names.len()).min(1000).to_string()));
            query.push(("prefix", format!("{}{prefix}", self.root)));
            if let (Some(after), None) = (after, &token) {
                query.push(("start-after", self.key(after)));
            }
            let answer = self.wire.ask("list", &Call { query: &query, ..Call::new(Method::Get, "") })?;
            if answer.status != 200 {
                return Err(self.refused("list", &answer).on_named(format!("{}{prefix}", self.root)));
            }
            let unread = || Error::new(ErrorKind::Corrupt, "list").because("the server's answer is no list");
            let page = page_of(&answer.body).ok_or_else(unread)?;
            let found = page.keys.iter().filter_map(|key| ObjectName::parse(key.strip_prefix(&self.root)?));
            names.extend(found);
            match page.next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        Ok(names)
    }
}

/// Why an answer is not taken.
enum Wrong {
    Refused(Error),
    Content(String),
}

fn missing(operation: &'static str, name: &ObjectName) -> Error {
    Error::new(ErrorKind::NotFound, operation).on(name)
}

pub(super) fn no_overwriting(operation: &'static str, name: &ObjectName) -> Error {
    Error::new(ErrorKind::Invalid, operation).on(name).because("S3 cannot overwrite in place")
}

impl Backend for S3 {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.inner.create(name, data)
    }

    fn create_sparse(&self, name: &ObjectName, _bytes: u64) -> Result<()> {
        Err(no_overwriting("create", name))
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.inner.read_at(name, offset_bytes, buf)
    }

    fn write_at(&self, name: &ObjectName, _offset_bytes: u64, _data: &[u8]) -> Result<()> {
        Err(no_overwriting("write", name))
    }

    fn punch(&self, name: &ObjectName, _offset_bytes: u64, _bytes: u64) -> Result<()> {
        Err(no_overwriting("punch", name))
    }

    /// What the server has acknowledged is durable.
    fn sync(&self, _names: &[ObjectName]) -> Result<()> {
        Ok(())
    }

    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.inner.delete(name)
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        let label = self.inner.look("stat", &self.inner.key(name)).map_err(|error| error.on(name))?;
        let bytes = label.ok_or_else(|| missing("stat", name))?.bytes;
        Ok(ObjectStat { bytes, allocated_bytes: bytes })
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.inner.list(prefix, after, count_max)
    }

    fn lock(&self, name: &ObjectName, _mode: LockMode) -> Result<Lock> {
        let error = Error::new(ErrorKind::Invalid, "lock").on(name);
        Err(error.because("this store has no locks that fence"))
    }

    fn carry_out(&self, jobs: Vec<Box<dyn FnOnce() + Send>>) {
        match &self.data {
            Some(data) => jobs.into_iter().for_each(|job| data.carry_out(job)),
            None => jobs.into_iter().for_each(|job| job()),
        }
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.data.clone().map(|data| data as Arc<dyn DataPath>)
    }
}
