//! `archipelago move`: volumes go to another store, also while they are used.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{json, Value};

use super::held::{self, who};
use super::output::{Progress, Unit};
use super::volumes::writable;
use super::{check_interrupted, Session};
use crate::catalog::lease::{self, LeaseState};
use crate::catalog::volume as names;
use crate::clock;
use crate::control::client::{self, Connection};
use crate::control::moving::{destination, KIND, LIMIT, PAUSE, RESUME, STORE};
use crate::control::words::{Job, JobState, What};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Device, DeviceOptions};
use crate::maintain::copy::CopyOptions;
use crate::mover::{self, MoveOptions};
use crate::name::VolumeName;
use crate::store::Store;
use crate::sys::signal;
use crate::volume::Mode;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For how long nobody may answer for a volume that changes its store.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// What the words ask for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// VOL STORE; STORE with `all`; VOL with a word to a job.
    pub words: Vec<String>,
    pub all: bool,
    pub limit: Option<u64>,
    /// "cancel", "pause" or "resume".
    pub say: Option<&'static str>,
}

impl Wanted {
    pub fn new(words: Vec<String>, all: bool, limit: Option<u64>, says: [bool; 3]) -> Wanted {
        let words_of_jobs = ["cancel", PAUSE, RESUME];
        let say = says.iter().position(|said| *said).map(|at| words_of_jobs[at]);
        Wanted { words, all, limit, say }
    }
}

pub fn run(session: &Session, wanted: &Wanted) -> Result<()> {
    signal::note_interrupts();
    match (wanted.words.as_slice(), wanted.all, wanted.say) {
        ([volume], false, Some(word)) => tell(session, &VolumeName::new(volume)?, word),
        ([store], true, None) => all(session, store, wanted.limit),
        ([volume, store], false, None) => one(session, &VolumeName::new(volume)?, store, wanted.limit),
        _ => Err(Error::sentence(
            ErrorKind::Invalid,
            "say what is to be moved where: archipelago move VOL STORE, or move --all STORE; \
             or what is to become of a move: archipelago move VOL --cancel, --pause or --resume",
        )),
    }
}

fn one(session: &Session, name: &VolumeName, to: &str, limit: Option<u64>) -> Result<()> {
    let store = session.store_of(name)?;
    let text = move_one(session, &store, name, to, limit)?;
    session.output.show(&done_json(name, to, &text), || format!("volume '{name}': {text}"))
}

fn done_json(name: &VolumeName, to: &str, text: &str) -> Value {
    json!({ "volume": name.as_str(), "store": to, "result": text })
}

fn all(session: &Session, to: &str, limit: Option<u64>) -> Result<()> {
    let store = session.store(false)?;
    let (mut texts, mut values, mut failed) = (Vec::new(), Vec::new(), None);
    for (name, id) in names::list(&store)? {
        if lease::moved_to(&store, id)?.is_some() {
            continue;
        }
        match move_one(session, &store, &name, to, limit) {
            Ok(text) => {
                values.push(done_json(&name, to, &text));
                texts.push(format!("volume '{name}': {text}"));
            }
            Err(error) => {
                texts.push(format!("volume '{name}' stays: {}", error.full()));
                values.push(json!({ "volume": name.as_str(), "error": error.full() }));
                failed = Some(error);
                if check_interrupted().is_err() {
                    break;
                }
            }
        }
    }
    if texts.is_empty() {
        texts.push(format!("store '{}' has no volumes that could be moved", store.name));
    }
    session.output.show(&json!({ "volumes": values }), || texts.join("\n"))?;
    failed.map_or(Ok(()), |error| {
        let sentence = format!("not all volumes of store '{}' have moved: {error}", store.name);
        Err(Error::sentence(error.kind(), sentence))
    })
}

/// What came of it, in words.
fn move_one(
    session: &Session,
    store: &Store,
    name: &VolumeName,
    to: &str,
    limit: Option<u64>,
) -> Result<String> {
    match held::reach(store, name, None)? {
        Some(holder) => by_holder(session, store, holder, name, to, limit),
        None => by_hand(session, store, name, to, limit),
    }
}

/// Nobody uses it: it is moved by this process.
fn by_hand(
    session: &Session,
    store: &Store,
    name: &VolumeName,
    to: &str,
    limit: Option<u64>,
) -> Result<String> {
    let to = destination(store, to)?;
    let options = DeviceOptions {
        volume: name.clone(),
        snapshot: None,
        open: writable(store),
        active: Mode::Writable,
        no_flush: false,
    };
    let device = Device::open(store.clone(), options)?;
    let mut progress = session.output.begin(&format!("moving '{name}'"), 0, Unit::Bytes);
    let copy = CopyOptions { bytes_per_s: limit, ..CopyOptions::default() };
    let moved = device.follow().and_then(|following| {
        mover::check(&following, &to)?;
        mover::run(&following, &to, &MoveOptions { copy, ..MoveOptions::default() }, &mut |now| {
            progress.set(now.copied.bytes + now.carried_bytes, now.total_bytes());
            check_interrupted()
        })
    });
    let closed = device.close();
    drop(progress);
    let report = moved?;
    closed?;
    Ok(report.text(&to.name))
}

/// The process that holds it moves it, and is asked how far it is.
fn by_holder(
    session: &Session,
    store: &Store,
    mut holder: Connection,
    name: &VolumeName,
    to: &str,
    limit: Option<u64>,
) -> Result<String> {
    let mut arguments = BTreeMap::from([(STORE.to_owned(), to.to_owned())]);
    arguments.extend(limit.map(|bytes| (LIMIT.to_owned(), bytes.to_string())));
    let number = holder.start(KIND, arguments)?;
    let mut progress = session.output.begin(&format!("moving '{name}'"), 0, Unit::Bytes);
    let mut at = store.clone();
    loop {
        if check_interrupted().is_err() {
            let goes_on = format!(
                "{} goes on to move volume '{name}': call it back with: archipelago move {name} --cancel",
                who(&holder)
            );
            return Err(Error::sentence(ErrorKind::Unavailable, goes_on));
        }
        match look(&mut holder, number, &mut progress) {
            Ok(Some(job)) if job.state == JobState::Done => return Ok(job.phase),
            Ok(Some(job)) => return Err(Error::sentence(ErrorKind::Unavailable, job.phase)),
            Ok(None) => {}
            // It is held in the other store from one moment on.
            Err(error) if error.is(ErrorKind::NotFound) || error.is(ErrorKind::Busy) => {
                (at, holder) = find_again(&at, name, &holder, to, error)?;
            }
            Err(error) => return Err(error),
        }
        clock::sleep(LOOK_EVERY);
    }
}

/// `Some` when the job has ended.
fn look(holder: &mut Connection, number: u64, progress: &mut Progress) -> Result<Option<Job>> {
    let status = holder.status()?;
    let Some(job) = status.jobs.into_iter().find(|job| job.number == number) else {
        return Err(Error::sentence(
            ErrorKind::Unavailable,
            "the process knows nothing of its move any more",
        ));
    };
    progress.set(job.done, job.total);
    Ok((job.state != JobState::Running).then_some(job))
}

/// The process that holds the volume now, and in which store. `error`: what was
/// said of it by the one that was asked.
fn find_again(
    at: &Store,
    name: &VolumeName,
    holder: &Connection,
    to: &str,
    error: Error,
) -> Result<(Store, Connection)> {
    let (id, until) = (holder.volume(), clock::now() + FOUND_WITHIN);
    loop {
        let store = match lease::show(at, id)? {
            LeaseState::Moved(_) => destination(at, to)?,
            _ => at.clone(),
        };
        // Just opened there, or just closed.
        if let Ok(Some(mut found)) = client::reach(&store, id, name.as_str()) {
            if found.status().is_ok() {
                return Ok((store, found));
            }
        }
        if clock::now() > until {
            return Err(error);
        }
        clock::sleep(LOOK_EVERY);
    }
}

fn tell(session: &Session, name: &VolumeName, word: &str) -> Result<()> {
    let store = session.store_of(name)?;
    let none = || {
        let sentence = format!("volume '{name}' is not being moved: look with archipelago status {name}");
        Error::sentence(ErrorKind::NotFound, sentence)
    };
    let mut holder = held::reach(&store, name, None)?.ok_or_else(none)?;
    let running = |job: &Job| job.kind == KIND && job.state == JobState::Running;
    let job = holder.status()?.jobs.into_iter().find(running).ok_or_else(none)?;
    holder.order(What::Tell { job: job.number, word: word.to_owned() })?;
    let value = json!({ "volume": name.as_str(), "job": job.number, "word": word });
    session.output.show(&value, || match word {
        PAUSE => format!("the move of volume '{name}' pauses: go on with archipelago move {name} --resume"),
        RESUME => format!("the move of volume '{name}' goes on"),
        _ => format!("the move of volume '{name}' is called back: it stays where it is"),
    })
}
