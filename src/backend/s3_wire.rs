//! Requests to S3: signed, over connections that are kept, and tried again for a
//! while where that does no harm.

use std::fmt;
use std::time::{Duration, Instant};

use super::s3_answer::code_of;
use super::s3_sign::{encode, sha256, sign, timestamp, ToSign};
use crate::clock;
use crate::config::S3Key;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex};
use crate::sys::curl::{self, Answer, Connection, Failed, Method, Patience, Request};

/// Connections to one store; who finds all in use waits.
pub(super) const CONNECTIONS_MAX: usize = 64;

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    stall: Duration::from_secs(15),
    whole: Duration::from_secs(300),
};

/// How long a request is tried again and again.
pub const TRY_FOR: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A server that has served nothing for so long is told of.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// What an answer has beside its content: lists and errors.
const ANSWER_BYTES: usize = 4 << 20;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Options {
    pub bucket: String,
    /// Names of objects begin with it and '/'; "": they do not.
    pub prefix: String,
    /// "https://host" or "http://host:port".
    pub endpoint: String,
    pub region: String,
    /// The bucket is the first word of the path, and not of the host's name.
    pub path_style: bool,
    pub key: S3Key,
    /// How long what fails is tried again.
    pub try_for: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub method: Method,
    /// Below the bucket; "" is the bucket.
    pub key: &'a str,
    /// In the order of its keys, not encoded.
    pub query: &'a [(&'a str, String)],
    /// Names in lower case.
    pub headers: &'a [(&'a str, String)],
    pub body: &'a [u8],
    /// Of the content that is asked for.
    pub answer_bytes: usize,
    /// See `curl::Request`.
    pub is_fresh: bool,
}

impl Call<'_> {
    pub fn new(method: Method, key: &str) -> Call<'_> {
        Call { method, key, query: &[], headers: &[], body: &[], answer_bytes: 0, is_fresh: false }
    }
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    in_use: usize,
}

/// Whether the server serves anything, for the log.
#[derive(Default)]
struct Service {
    last: Option<Instant>,
    /// What was asked for since then was not served; from when on.
    none_since: Option<Instant>,
    is_told: bool,
}

impl Service {
    /// Something that was asked for then has not been served by now. Returns for
    /// how long nothing has, if that is to be told.
    fn note_none(&mut self, asked_at: Instant) -> Option<Duration> {
        let since = self.last.map_or(asked_at, |last| last.max(asked_at));
        let since = *self.none_since.get_or_insert(since);
        let gone = clock::now().saturating_duration_since(since);
        let is_due = !self.is_told && gone >= TELL_AFTER;
        self.is_told |= is_due;
        is_due.then_some(gone)
    }

    /// Returns for how long nothing was served, if that was told.
    fn note_served(&mut self) -> Option<Duration> {
        let now = clock::now();
        let since = self.none_since.take();
        self.last = Some(now);
        std::mem::take(&mut self.is_told).then(|| now.saturating_duration_since(since.unwrap_or(now)))
    }
}

/// The way to one bucket.
pub(super) struct Wire {
    pub options: S3Options,
    /// "https".
    scheme: String,
    host: String,
    /// Before a key: "/" or "/bucket/".
    root: String,
    idle: Mutex<Idle>,
    freed: Condvar,
    service: Mutex<Service>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("host", &self.host).field("root", &self.root).finish_non_exhaustive()
    }
}

/// What came of one try.
#[derive(Debug)]
pub(super) enum Said {
    /// An answer that tells the outcome.
    Answer(Answer),
    /// The server has no time, or something between has given up.
    Later(Answer),
    Nothing(Failed),
}

impl Said {
    /// The request may have been carried out.
    pub fn may_be_done(&self) -> bool {
        match self {
            Said::Answer(_) => true,
            // It says that it has not begun.
            Said::Later(answer) => !matches!(code_of(answer).as_str(), "SlowDown" | "ServiceUnavailable"),
            Said::Nothing(failed) => !failed.is_unsent,
        }
    }

    /// To try again is of no use.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Said::Nothing(failed) if failed.is_for_good)
    }

    pub fn words(&self) -> String {
        match self {
            Said::Answer(answer) | Said::Later(answer) => {
                format!("the server says {} {}", answer.status, code_of(answer)).trim_end().to_owned()
            }
            Said::Nothing(failed) => failed.message.clone(),
        }
    }
}

/// Bounds how often something is tried again.
pub(super) struct Tries {
    until: Instant,
    count: u32,
}

impl Tries {
    /// Waits a little longer each time; false: it has been tried long enough.
    pub fn pause(&mut self) -> Result<bool> {
        self.count += 1;
        let longest = PAUSE_FIRST.saturating_mul(1 << self.count.min(10)).min(PAUSE_MAX);
        // Between a half and all of that: those who failed together do not come
        // back together.
        let random = (clock::random_id()?.0 >> 64) as u32;
        let pause = longest / 2 + (longest / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
        if clock::now() + pause > self.until {
            return Ok(false);
        }
        clock::sleep(pause);
        Ok(true)
    }
}

fn is_transient(answer: &Answer) -> bool {
    match answer.status {
        408 | 429 | 500 | 502 | 503 | 504 => true,
        400 => code_of(answer) == "RequestTimeout",
        // A time that has run out on the way.
        403 => code_of(answer) == "RequestExpired",
        _ => false,
    }
}

impl Wire {
    /// Error: `Unavailable` if there is no library; `Invalid`.
    pub fn new(options: S3Options) -> Result<Wire> {
        curl::check().map_err(|said| {
            Error::sentence(
                ErrorKind::Unavailable,
                format!("libcurl cannot be used: install it with: apt-get install libcurl4 ({said})"),
            )
        })?;
        let (scheme, host) = options.endpoint.split_once("://").unwrap_or(("https", &options.endpoint));
        let host = host.trim_end_matches('/');
        let (host, root) = match options.path_style {
            true => (host.to_owned(), format!("/{}/", options.bucket)),
            false => (format!("{}.{host}", options.bucket), "/".to_owned()),
        };
        let scheme = scheme.to_owned();
        let (idle, service) = (Mutex::default(), Mutex::default());
        Ok(Wire { scheme, host, root, idle, freed: Condvar::new(), service, options })
    }

    pub fn tries(&self) -> Tries {
        Tries { until: clock::now() + self.options.try_for, count: 0 }
    }

    fn connection(&self) -> Result<Connection> {
        let mut idle = self.idle.lock();
        while idle.in_use >= CONNECTIONS_MAX {
            self.freed.wait(&mut idle);
        }
        idle.in_use += 1;
        // The one that was used last is the most likely to be open.
        if let Some(connection) = idle.connections.pop() {
            return Ok(connection);
        }
        drop(idle);
        Connection::new().map_err(|said| {
            self.give_back(None);
            Error::sentence(ErrorKind::Unavailable, said)
        })
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut idle = self.idle.lock();
        idle.in_use -= 1;
        idle.connections.extend(connection);
        drop(idle);
        self.freed.notify_one();
    }

    /// Tries once.
    pub fn once(&self, call: &Call<'_>) -> Result<Said> {
        let encoded: Vec<String> =
            call.query.iter().map(|(key, value)| format!("{key}={}", encode(value, false))).collect();
        let (path, query) = (encode(&format!("{}{}", self.root, call.key), true), encoded.join("&"));
        let signed = ToSign {
            method: match call.method {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Put => "PUT",
                Method::Delete => "DELETE",
            },
            host: &self.host,
            path: &path,
            query: &query,
            headers: call.headers,
            content_sha256: &sha256(call.body),
            time: &timestamp(clock::wall()),
            region: &self.options.region,
        };
        let mut headers = sign(&signed, &self.options.key);
        // A server that is asked first whether it wants the content takes longer.
        headers.extend(["expect:", "content-type: application/octet-stream"].map(str::to_owned));
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}://{}{path}{mark}{query}", self.scheme, self.host);
        let mut connection = self.connection()?;
        let answer_bytes_max = call.answer_bytes.saturating_add(ANSWER_BYTES);
        let request = Request {
            method: call.method,
            url: &url,
            headers: &headers,
            body: call.body,
            answer_bytes_max,
            is_fresh: call.is_fresh,
        };
        let asked_at = clock::now();
        let is_still = |since| self.note_none(since, "it says nothing");
        let result = connection.perform(request, PATIENCE, &is_still);
        self.give_back(Some(connection));
        let said = match result {
            Ok(answer) if is_transient(&answer) => Said::Later(answer),
            Ok(answer) => Said::Answer(answer),
            Err(failed) => Said::Nothing(failed),
        };
        match &said {
            Said::Answer(_) => self.note_served(),
            said => self.note_none(asked_at, &said.words()),
        }
        Ok(said)
    }

    fn note_none(&self, asked_at: Instant, words: &str) {
        let gone = self.service.lock().note_none(asked_at);
        if let Some(gone) = gone {
            let S3Options { endpoint, bucket, try_for, .. } = &self.options;
            log::warn!(
                "{endpoint} (bucket '{bucket}') serves nothing, for {} s: {words}; \
                 each request is tried for {} s",
                gone.as_secs(),
                try_for.as_secs()
            );
        }
    }

    fn note_served(&self) {
        let gone = self.service.lock().note_served();
        if let Some(gone) = gone {
            let S3Options { endpoint, bucket, .. } = &self.options;
            log::warn!("{endpoint} (bucket '{bucket}') serves again, after {} s", gone.as_secs());
        }
    }

    /// Tries until there is an answer: for what may be asked twice. Error:
    /// `Unavailable`, or `Unknown` if that may have changed something.
    pub fn ask(&self, operation: &'static str, call: &Call<'_>) -> Result<Answer> {
        let mut tries = self.tries();
        let mut may_be_done = false;
        loop {
            let said = match self.once(call)? {
                Said::Answer(answer) => return Ok(answer),
                said => said,
            };
            may_be_done |= said.may_be_done();
            if said.is_for_good() || !tries.pause()? {
                return Err(self.gone(operation, &said, call.method == Method::Put && may_be_done));
            }
            log::debug!("{} {}: {}", self.host, call.key, said.words());
        }
    }

    /// The server has not answered for too long.
    pub fn gone(&self, operation: &'static str, said: &Said, may_be_done: bool) -> Error {
        let kind = if may_be_done { ErrorKind::Unknown } else { ErrorKind::Unavailable };
        let host = &self.host;
        Error::new(kind, operation).because(format!("{host} does not answer: {}", said.words()))
    }
}
