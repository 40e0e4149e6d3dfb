//! What comes over a control socket, from whoever connects to it, and what a
//! process answers, which need not be one of ours.

use std::collections::BTreeMap;

use archipelago::control::words::{
    decode, encode, read_frame, Broken, Hello, Job, JobState, Reply, Request, Served, Status, What,
    FRAME_BYTES_MAX,
};
use archipelago::name::{Id, SnapshotName};
use archipelago::{Error, ErrorKind};
use serde::{de::DeserializeOwned, Serialize};

use super::meter::most_bytes;
use super::mutate::Rng;
use super::run::{check_words, Kind, Outcome};

pub fn kinds() -> Vec<Kind> {
    let socket = Kind { bytes_max: 4096, memory: 64, repair: measure_again, words: WORDS, ..Kind::OBJECT };
    vec![
        Kind { name: "asked", seeds: asked, decode: decode_asked, ..socket.clone() },
        Kind { name: "answered", seeds: answered, decode: decode_answered, ..socket },
    ]
}

const WORDS: &[&str] = &[
    "{", "}", "[", "[[[[[[[[", "\"", ":", ",", "null", "1e999", "-1", "18446744073709551616", "\\u0000",
    "\\ud800", "\u{1b}[2J", "status", "snapshot", "grow", "tell", "start", "failed", "\"what\":", "\"name\":",
];

/// The lengths of the frames that were there are made right again around what
/// has become of them.
fn measure_again(data: &mut [u8], _seed: &[u8], rng: &mut Rng) {
    if data.len() >= 4 && !rng.one_in(16) {
        let bytes = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&bytes.to_le_bytes());
    }
}

fn asked() -> Vec<Vec<u8>> {
    let name = SnapshotName::new("monday").unwrap();
    let arguments = BTreeMap::from([("to".to_owned(), "two".to_owned())]);
    let whats = [
        What::Status {},
        What::Snapshot { name: name.clone() },
        What::RemoveSnapshot { name },
        What::Grow { size_bytes: 1 << 40 },
        What::Start { kind: "move".into(), arguments },
        What::Tell { job: 1, word: "cancel".into() },
    ];
    let of = |what| encode(&Request { store: Id(7), volume: Id(u128::MAX), what }).unwrap();
    let mut seeds: Vec<Vec<u8>> = whats.into_iter().map(of).collect();
    seeds.push(encode(&Hello::new()).unwrap());
    seeds
}

fn answered() -> Vec<Vec<u8>> {
    let (state, kind, phase) = (JobState::Failed, "move".to_owned(), "copies".to_owned());
    let status = Status {
        volume: "web".into(),
        store: "'main' (dir:/srv/vms)".into(),
        size_bytes: 1 << 40,
        pending: vec!["monday".into(), "tuesday".into()],
        served: Served { reads: 1, ..Served::default() },
        stopped: Some("it has stopped".into()),
        jobs: vec![Job { number: 1, kind, state, phase, done: 1, total: 2 }],
        ..Status::default()
    };
    [
        Reply::Hello(Hello::new()),
        Reply::Done {},
        Reply::Status(Box::new(status)),
        Reply::Started { job: 7 },
        Reply::failed(&Error::sentence(ErrorKind::Busy, "volume 'web' is in use")),
    ]
    .iter()
    .map(|reply| encode(reply).unwrap())
    .collect()
}

/// One frame after another, each as what it may be.
fn decode_as<T>(
    data: &[u8],
    understand: impl Fn(&[u8]) -> Result<Option<T>, String>,
) -> Result<Outcome, String> {
    let mut rest = data;
    let mut outcome = Outcome { decoded: false, memory_bytes: 0 };
    loop {
        let (frame, memory_bytes) = most_bytes(|| read_frame(&mut rest));
        // A frame's memory is taken for a length that is within the limit.
        outcome.memory_bytes = outcome.memory_bytes.max(memory_bytes.saturating_sub(FRAME_BYTES_MAX));
        let json = match frame {
            Ok(json) => json,
            Err(Broken::HungUp) => return Ok(outcome),
            Err(broken) => return check_words(&broken.into_error().full()).map(|()| outcome),
        };
        let (understood, memory_bytes) = most_bytes(|| understand(&json));
        outcome.memory_bytes = outcome.memory_bytes.max(memory_bytes);
        outcome.decoded |= understood?.is_some();
    }
}

/// Nothing that is understood means something else when it is said again.
fn understand<T>(json: &[u8]) -> Result<Option<T>, String>
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let said: T = match decode(json) {
        Ok(said) => said,
        Err(error) if error.is(ErrorKind::Invalid) => return check_words(&error.full()).map(|()| None),
        Err(error) => return Err(format!("it is refused with {:?}", error.kind())),
    };
    let frame = encode(&said).map_err(|error| format!("{said:?} cannot be said again: {}", error.full()))?;
    match decode::<T>(&frame[4..]) {
        Ok(again) if again == said => Ok(Some(said)),
        other => Err(format!("{said:?}, said again, is {other:?}")),
    }
}

fn decode_asked(data: &[u8]) -> Result<Outcome, String> {
    decode_as(data, |json| {
        let hello = understand::<Hello>(json)?.is_some();
        let request = understand::<Request>(json)?;
        match (hello, &request) {
            (true, Some(request)) => Err(format!("it is a greeting and {request:?}")),
            _ => Ok((hello || request.is_some()).then_some(())),
        }
    })
}

fn decode_answered(data: &[u8]) -> Result<Outcome, String> {
    decode_as(data, |json| {
        let reply = understand::<Reply>(json)?;
        if let Some(Err(error)) = reply.clone().map(Reply::into_result) {
            check_words(&error.full())?;
        }
        Ok(reply.map(drop))
    })
}
