//! `archipelago sync` and `promote`: standbys in another store, and their use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::output::{size_text, Output, Progress, Unit};
use super::volumes::writable;
use super::{check_interrupted, Session};
use crate::catalog::identity::{utc_text, wall_s, Life};
use crate::catalog::lease::{self, Destination, LeaseState};
use crate::catalog::{moved, snapshot, standby, volume as names};
use crate::clock;
use crate::config;
use crate::control::client;
use crate::control::words::What;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::copy::CopyOptions;
use crate::maintain::sync::{self, is_of_a_sync, ByHand, Hands, Report, SyncOptions, Syncer};
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::open::open_store;
use crate::store::Store;
use crate::sys::signal;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What goes on as it was is told again after so long.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What the words ask for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub from: String,
    pub to: String,
    /// Between the beginnings of two rounds; `None`: there is one.
    pub every: Option<Duration>,
    pub limit: Option<u64>,
}

/// The process that holds a volume is asked for it.
struct Asking(ByHand);

impl Hands for Asking {
    fn snapshot(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()> {
        match client::reach(from, id, name.as_str())? {
            Some(mut holder) => holder.order(What::Snapshot { name: which.clone() }),
            None => self.0.snapshot(from, name, id, which),
        }
    }

    fn remove(&mut self, from: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<()> {
        match client::reach(from, id, name.as_str())? {
            Some(mut holder) => holder.order(What::RemoveSnapshot { name: which.clone() }),
            None => self.0.remove(from, name, id, which),
        }
    }
}

fn start(session: &Session, wanted: &Wanted) -> Result<(Syncer, Asking)> {
    if session.common.store.is_some() {
        let text = "--store says nothing here: archipelago sync SRC DST";
        return Err(Error::sentence(ErrorKind::Invalid, text));
    }
    let open = |name: &str| open_store(Some(name), session.common.config.as_deref(), false, false);
    let (from, to) = (open(&wanted.from)?, open(&wanted.to)?);
    let copy = CopyOptions { bytes_per_s: wanted.limit, ..SyncOptions::default().copy };
    let syncer = Syncer::new(&from, &to, SyncOptions { copy, ..SyncOptions::default() })?;
    Ok((syncer, Asking(ByHand { open: writable(&from) })))
}

pub fn run(session: &Session, wanted: &Wanted) -> Result<()> {
    signal::note_interrupts();
    let (mut syncer, mut hands) = start(session, wanted)?;
    if let Some(every) = wanted.every {
        return follow(session, wanted, every, syncer, hands);
    }
    let report = round(session.output, &mut syncer, &mut hands)?;
    let value = report_json(wanted, &report);
    session.output.show(&value, || text(wanted, &report).join("\n"))?;
    match report.failed.last() {
        Some((_, error)) => {
            let text = format!("not all volumes of '{}' have a standby that is up to date", wanted.from);
            Err(Error::sentence(error.kind(), text))
        }
        None => Ok(()),
    }
}

fn round(output: Output, syncer: &mut Syncer, hands: &mut Asking) -> Result<Report> {
    let mut bar: Progress = output.begin("copying", 0, Unit::Bytes);
    syncer.round(hands, &mut |now| {
        match &now.volume {
            Some(volume) => bar.name(&format!("copying '{volume}'")),
            None => bar.name("waiting until the other store is not maintained by others"),
        }
        bar.set(now.copied.bytes, now.copied.bytes);
        check_interrupted()
    })
}

fn totals(report: &Report) -> [u64; 2] {
    let sum = |of: fn(&sync::Followed) -> u64| report.followed.iter().map(of).sum();
    [sum(|one| one.published), sum(|one| one.removed)]
}

fn text(wanted: &Wanted, report: &Report) -> Vec<String> {
    let [published, removed] = totals(report);
    let copied = report.copied;
    let mut lines = vec![format!(
        "store '{}' has standbys of {} volumes of store '{}': {} blocks copied ({}), {} were there; \
         {published} snapshots made, {removed} removed",
        wanted.to,
        report.followed.len(),
        wanted.from,
        copied.blocks,
        size_text(copied.bytes),
        copied.blocks_there,
    )];
    for (name, error) in &report.failed {
        lines.push(format!("volume '{name}': its standby is as it was: {}", error.full()));
    }
    lines.extend(report.passed_over.iter().map(|name| passed_over_text(wanted, name)));
    for name in &report.left {
        lines.push(format!(
            "volume '{name}' is not in store '{}' any more: its standby stays; take it away with \
             archipelago --store {} rm --snapshots {name}",
            wanted.from, wanted.to
        ));
    }
    lines
}

fn passed_over_text(wanted: &Wanted, name: &VolumeName) -> String {
    let from = &wanted.from;
    format!("volume '{name}' of store '{from}' is in another store, or a standby itself: it is not followed")
}

fn report_json(wanted: &Wanted, report: &Report) -> Value {
    let [published, removed] = totals(report);
    json!({
        "from": wanted.from,
        "to": wanted.to,
        "time": utc_text(wall_s()),
        "followed": report.followed.iter().map(|one| json!({
            "volume": one.name.as_str(), "behind_s": one.behind.map(|behind| behind.as_secs_f64()),
        })).collect::<Vec<_>>(),
        "failed": report.failed.iter().map(|(name, error)| json!({
            "volume": name.as_str(), "error": error.full(),
        })).collect::<Vec<_>>(),
        "left": report.left.iter().map(VolumeName::as_str).collect::<Vec<_>>(),
        "passed_over": report.passed_over.iter().map(VolumeName::as_str).collect::<Vec<_>>(),
        "blocks": report.copied.blocks,
        "bytes": report.copied.bytes,
        "snapshots_made": published,
        "snapshots_removed": removed,
    })
}

/// What has been told, so that it is not told again and again.
#[derive(Default)]
struct Said {
    failures: BTreeMap<String, String>,
    passed_over: Vec<VolumeName>,
    at: Option<Instant>,
}

/// Rounds until it is interrupted, whatever fails.
fn follow(
    session: &Session,
    wanted: &Wanted,
    every: Duration,
    syncer: Syncer,
    hands: Asking,
) -> Result<()> {
    let mut said = Said::default();
    let mut parts = Some((syncer, hands));
    while check_interrupted().is_ok() {
        let began = clock::now();
        let done = match &mut parts {
            Some((syncer, hands)) => round(Output { progress: false, ..session.output }, syncer, hands),
            None => start(session, wanted).and_then(|(mut syncer, mut hands)| {
                let done = round(session.output, &mut syncer, &mut hands);
                parts = Some((syncer, hands));
                done
            }),
        };
        match done {
            Ok(report) => said.tell(session.output, wanted, &report)?,
            Err(_) if check_interrupted().is_err() => break,
            Err(error) => {
                // A store that is away may want to be opened again.
                parts = None;
                said.fail(session.output, "", &error, every);
            }
        }
        while clock::now() < began + every && check_interrupted().is_ok() {
            clock::sleep(LOOK_EVERY.min(every));
        }
    }
    session.output.say("interrupted: the standbys are as the last round left them");
    Ok(())
}

impl Said {
    fn fail(&mut self, output: Output, what: &str, error: &Error, every: Duration) {
        let text = error.full();
        if self.failures.get(what) != Some(&text) {
            let subject = if what.is_empty() { "this round".to_owned() } else { format!("volume '{what}'") };
            let (now, every_s) = (utc_text(wall_s()), every.as_secs_f64());
            output.say(&format!("{now}: {subject} failed, and is tried again every {every_s} s: {text}"));
            self.failures.insert(what.to_owned(), text);
        }
    }

    fn tell(&mut self, output: Output, wanted: &Wanted, report: &Report) -> Result<()> {
        let every = wanted.every.unwrap_or_default();
        for name in report.passed_over.iter().filter(|name| !self.passed_over.contains(name)) {
            output.say(&passed_over_text(wanted, name));
        }
        self.passed_over.clone_from(&report.passed_over);
        for (name, error) in &report.failed {
            self.fail(output, name.as_str(), error, every);
        }
        let fails = |name: &String| report.failed.iter().any(|(failed, _)| failed.as_str() == name);
        let recovered = self.failures.keys().any(|name| !fails(name));
        self.failures.retain(|name, _| fails(name));
        let is_changed = report.followed.iter().any(|one| !one.is_unchanged);
        let now = clock::now();
        let is_due = self.at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
        if !is_changed && !is_due && !recovered {
            return Ok(());
        }
        self.at = Some(now);
        output.show(&report_json(wanted, report), || {
            let behind = match report.behind() {
                Some(behind) => format!("at most {:.1} s behind until now", behind.as_secs_f64()),
                None => "all of it is there".to_owned(),
            };
            format!(
                "{}: {} volumes followed, {} failed; {} blocks copied ({}); {behind}",
                utc_text(wall_s()),
                report.followed.len(),
                report.failed.len(),
                report.copied.blocks,
                size_text(report.copied.bytes),
            )
        })
    }
}

pub fn promote(session: &Session, name: Option<&VolumeName>, is_all: bool, is_forced: bool) -> Result<()> {
    let store = session.store(false)?;
    let wanted = match (name, is_all) {
        (Some(name), false) => vec![(name.clone(), names::lookup(&store, name)?)],
        (None, true) => standbys(&store)?,
        _ => {
            let text = "say which standby: archipelago promote VOL, or promote --all";
            return Err(Error::sentence(ErrorKind::Invalid, text));
        }
    };
    let (mut texts, mut values, mut failed) = (Vec::new(), Vec::new(), None);
    for (name, id) in wanted {
        match promote_one(session, &store, &name, id, is_forced) {
            Ok(text) => {
                values.push(json!({ "volume": name.as_str(), "result": text }));
                texts.push(text);
            }
            Err(error) if !is_all => return Err(error),
            Err(error) => {
                values.push(json!({ "volume": name.as_str(), "error": error.full() }));
                texts.push(format!("volume '{name}' stays a standby: {}", error.full()));
                failed = Some(error);
            }
        }
    }
    if texts.is_empty() {
        texts.push(format!("store '{}' has no standbys", store.name));
    }
    session.output.show(&json!({ "volumes": values }), || texts.join("\n"))?;
    failed.map_or(Ok(()), |error| {
        let sentence = format!("not all standbys of store '{}' are promoted: {error}", store.name);
        Err(Error::sentence(error.kind(), sentence))
    })
}

fn standbys(store: &Store) -> Result<Vec<(VolumeName, Id)>> {
    let mut found = Vec::new();
    for (name, id) in names::list(store)? {
        if standby::of(store, id)?.is_some() {
            found.push((name, id));
        }
    }
    Ok(found)
}

fn promote_one(
    session: &Session,
    store: &Store,
    name: &VolumeName,
    id: Id,
    is_forced: bool,
) -> Result<String> {
    let of = standby::of(store, id)?;
    let source = match &of {
        Some(of) => look_at_source(session, store, name, id, of, is_forced)?,
        None => String::new(),
    };
    let taken = snapshot::list(store, id)?.into_iter().rfind(|one| is_of_a_sync(&one.name));
    sync::promote(store, name, id, &writable(store))?;
    let what = match taken {
        Some(taken) => format!("what it was on {}", utc_text(taken.created_s)),
        None => "what its newest snapshot has".to_owned(),
    };
    Ok(format!("volume '{name}' in store '{}' can be written to now; it is {what}{source}", store.name))
}

/// What is to be said of the volume that was followed. Error: `Busy` if it is in
/// use, unless that is wanted.
fn look_at_source(
    session: &Session,
    store: &Store,
    name: &VolumeName,
    id: Id,
    of: &Destination,
    is_forced: bool,
) -> Result<String> {
    let config = config::load(session.common.config.as_deref())?;
    let source = moved::open_destination(&config, store, name, of, false);
    let state = source.and_then(|source| Ok((lease::show(&source, id)?, source)));
    let (state, source) = match state {
        Ok(there) => there,
        Err(error) => {
            log::debug!("store '{}' cannot be asked: {}", of.store_name, error.full());
            return Ok(String::new());
        }
    };
    match state {
        LeaseState::Held { holder, life, .. } if life != Life::Dead && !is_forced => {
            let in_use = lease::in_use(name.as_str(), &holder);
            Err(Error::sentence(
                ErrorKind::Busy,
                format!(
                    "store '{0}' can be reached and {in_use} there: there would be two volumes '{name}' \
                     from here on, and what is written to one is not in the other; to change over \
                     without a loss: archipelago --store {0} move {name} {1}; if two are wanted: \
                     archipelago promote {name} --force",
                    source.name, store.name
                ),
            ))
        }
        LeaseState::Moved(_) => Ok(String::new()),
        _ => Ok(format!(
            "; store '{}' can be reached, and its volume '{name}' is another one from here on: use only one",
            source.name
        )),
    }
}
