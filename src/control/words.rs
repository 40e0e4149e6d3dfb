//! What is said on a control socket, and its bytes.
//!
//! A frame is its length (4 bytes, little-endian, at most 65,536) and so many
//! bytes of JSON. Who asks begins with a `Hello` that names the highest version
//! it speaks; the answer is a `Hello` with the version that counts, or
//! `Failed`. Then requests and replies take turns until somebody hangs up.
//! Fields that are not known are refused, so each new one is a new version.
//! `Failed` stays what it is in every version.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, SnapshotName};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Says that the other side is one of us.
pub const GREETING: &str = "archipelago-control";

/// Of a frame's JSON.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// Of a message, so that a frame holds it whatever is in it.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The first frame of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub greeting: String,
    pub version: u32,
    /// Of the program, for people.
    pub program: String,
}

impl Hello {
    pub fn new() -> Hello {
        let (greeting, program) = (GREETING.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Hello { greeting, version: VERSION, program }
    }
}

impl Default for Hello {
    fn default() -> Hello {
        Hello::new()
    }
}

/// What is asked of the process that holds a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(with = "text")]
    pub store: Id,
    #[serde(with = "text")]
    pub volume: Id,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    Status {},
    /// Takes a snapshot of what has been written by now. Durable when answered,
    /// published in the background.
    Snapshot {
        #[serde(with = "snapshot_name")]
        name: SnapshotName,
    },
    RemoveSnapshot {
        #[serde(with = "snapshot_name")]
        name: SnapshotName,
    },
    /// To a larger size.
    Grow { size_bytes: u64 },
    /// Starts something long; see `jobs`.
    Start { kind: String, arguments: BTreeMap<String, String> },
    /// Says a word to a job: "cancel", or what its kind understands.
    Tell { job: u64, word: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    Hello(Hello),
    Done {},
    Status(Box<Status>),
    Started { job: u64 },
    Failed { kind: String, message: String },
}

/// How a volume does that a process holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub volume: String,
    pub store: String,
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub log_bytes: u64,
    pub log_limit_bytes: u64,
    /// Snapshots that are taken and not published yet.
    pub pending: Vec<String>,
    pub served: Served,
    /// Of the process, if its store has a read cache.
    pub cache: Option<Cached>,
    /// Since it was opened.
    pub open_s: u64,
    /// Why it serves nothing any more, if that is so.
    pub stopped: Option<String>,
    pub jobs: Vec<Job>,
}

/// Requests since the volume was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    pub reads: u64,
    pub writes: u64,
    pub zeroes: u64,
    pub flushes: u64,
    pub failures: u64,
}

/// Reads of spans of sealed blocks, of all volumes with that read cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cached {
    pub hits: u64,
    pub misses: u64,
    /// It was not asked: it fails.
    pub asides: u64,
    /// Files that were found damaged.
    pub damaged: u64,
}

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub number: u64,
    pub kind: String,
    pub state: JobState,
    /// What it does just now, or how it ended.
    pub phase: String,
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    Done,
    Failed,
}

mod text {
    use super::*;

    pub fn serialize<S: Serializer>(value: &impl Display, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Id, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

mod snapshot_name {
    use super::*;

    pub use super::text::serialize;

    pub fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> std::result::Result<SnapshotName, D::Error> {
        SnapshotName::new(&String::deserialize(input)?).map_err(serde::de::Error::custom)
    }
}

const KINDS: &[(ErrorKind, &str)] = &[
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::Exists, "exists"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Fenced, "fenced"),
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::NoSpace, "no-space"),
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Unknown, "unknown"),
    (ErrorKind::Corrupt, "corrupt"),
    (ErrorKind::Internal, "internal"),
];

impl Reply {
    pub fn failed(error: &Error) -> Reply {
        let name = KINDS.iter().find(|(kind, _)| error.is(*kind)).map_or("internal", |(_, name)| name);
        Reply::Failed { kind: name.to_owned(), message: shortened(error.full()) }
    }

    /// What a process says has failed, as an error here.
    pub fn into_result(self) -> Result<Reply> {
        let Reply::Failed { kind, message } = self else { return Ok(self) };
        let known = KINDS.iter().find(|(_, name)| *name == kind);
        let kind = known.map_or(ErrorKind::Internal, |(kind, _)| *kind);
        Err(Error::sentence(kind, message.escape_debug().to_string().replace("\\'", "'")))
    }
}

/// Cut to what a message may have.
pub fn shortened(mut text: String) -> String {
    let mut bytes = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    text.truncate(bytes);
    text
}

/// A frame with this content. Error: `Invalid`, if it is too long for one.
pub fn encode(words: &impl Serialize) -> Result<Vec<u8>> {
    let internal = |error: serde_json::Error| Error::new(ErrorKind::Internal, "write JSON").caused_by(error);
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, words).map_err(internal)?;
    let bytes = frame.len() - 4;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= FRAME_BYTES_MAX => frame[..4].copy_from_slice(&length.to_le_bytes()),
        _ => return Err(Error::sentence(ErrorKind::Invalid, too_long(bytes as u64))),
    }
    Ok(frame)
}

fn too_long(bytes: u64) -> String {
    format!("a message of {bytes} bytes is too long for a control socket ({FRAME_BYTES_MAX} at most)")
}

/// The content of a frame. Error: `Invalid`, with what is not understood.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        let cause = error.to_string().escape_debug().to_string().replace("\\'", "'");
        Error::sentence(
            ErrorKind::Invalid,
            format!("this is not understood on a control socket: {}", shortened(cause)),
        )
    })
}

/// Why there was no frame.
#[derive(Debug)]
pub enum Broken {
    /// Nothing was begun.
    HungUp,
    /// Ended, or failed, within a frame.
    Io(std::io::Error),
    TooLong(u64),
}

impl Broken {
    pub fn into_error(self) -> Error {
        match self {
            Broken::HungUp => Error::sentence(ErrorKind::Unavailable, "the other side hung up"),
            Broken::Io(error) => Error::from_io("read from a control socket", error),
            Broken::TooLong(bytes) => Error::sentence(ErrorKind::Invalid, too_long(bytes)),
        }
    }
}

/// Reads one frame; its length is believed only within the limit.
pub fn read_frame(input: &mut impl Read) -> std::result::Result<Vec<u8>, Broken> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match input.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Err(Broken::HungUp),
            Ok(0) => return Err(Broken::Io(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Io(error)),
        }
    }
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(Broken::TooLong(bytes as u64));
    }
    let mut json = vec![0; bytes];
    input.read_exact(&mut json).map_err(Broken::Io)?;
    Ok(json)
}

/// Writes one frame.
pub fn write_frame(output: &mut impl Write, words: &impl Serialize) -> Result<()> {
    let frame = encode(words)?;
    output.write_all(&frame).map_err(|error| Error::from_io("write to a control socket", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(what: What) -> Request {
        Request { store: Id(7), volume: Id(9), what }
    }

    #[test]
    fn what_is_said_arrives() {
        let name = SnapshotName::new("a.1").unwrap();
        let arguments = BTreeMap::from([("to".to_owned(), "two".to_owned())]);
        for what in [
            What::Status {},
            What::Snapshot { name: name.clone() },
            What::RemoveSnapshot { name },
            What::Grow { size_bytes: u64::MAX },
            What::Start { kind: "move".into(), arguments },
            What::Tell { job: 3, word: "cancel".into() },
        ] {
            let frame = encode(&request(what.clone())).unwrap();
            let json = read_frame(&mut frame.as_slice()).unwrap();
            assert_eq!(decode::<Request>(&json).unwrap(), request(what));
        }
    }

    #[test]
    fn nothing_is_guessed() {
        let id = Id(1);
        let of = |what: &str| format!("{{\"store\":\"{id}\",\"volume\":\"{id}\",\"what\":{what}}}");
        assert!(decode::<Request>(of("{\"status\":{}}").as_bytes()).is_ok());
        for what in [
            "{\"format\":{}}",
            "{\"status\":{\"all\":true}}",
            "{\"snapshot\":{\"name\":\"../x\"}}",
            "{\"snapshot\":{}}",
            "{\"grow\":{\"size_bytes\":-1}}",
            "{\"status\":{}},\"as\":\"root\"",
            "3",
        ] {
            let error = decode::<Request>(of(what).as_bytes()).unwrap_err();
            assert!(error.is(ErrorKind::Invalid), "{what}: {error}");
        }
        let deep = vec![b'['; FRAME_BYTES_MAX];
        assert!(decode::<Request>(&deep).is_err());
    }

    #[test]
    fn a_length_is_not_believed() {
        let gigabyte = (1u32 << 30).to_le_bytes();
        assert!(matches!(read_frame(&mut gigabyte.as_slice()), Err(Broken::TooLong(_))));
        assert!(matches!(read_frame(&mut [].as_slice()), Err(Broken::HungUp)));
        assert!(matches!(read_frame(&mut [3, 0, 0, 0, b'{'].as_slice()), Err(Broken::Io(_))));
        assert!(matches!(read_frame(&mut [3, 0].as_slice()), Err(Broken::Io(_))));
        let long = "x".repeat(FRAME_BYTES_MAX);
        assert!(encode(&long).unwrap_err().is(ErrorKind::Invalid));
    }

    #[test]
    fn a_failure_keeps_its_kind_and_its_sentence() {
        for (kind, _) in KINDS {
            let error = Error::sentence(*kind, "volume 'web' has \u{1b}[2J stopped");
            let there = Reply::failed(&error).into_result().unwrap_err();
            assert_eq!(there.kind(), *kind);
            assert_eq!(there.to_string(), "volume 'web' has \\u{1b}[2J stopped");
        }
        let text = "\u{e9}".repeat(MESSAGE_BYTES_MAX);
        let Reply::Failed { message, .. } = Reply::failed(&Error::sentence(ErrorKind::Busy, text)) else {
            panic!("not a failure");
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
    }
}
