//! `archipelago status`: how a volume does, as the process says that holds it.

use serde_json::{json, Value};

use super::held;
use super::output::{size_text, table};
use super::volumes::look;
use super::{lease as lease_text, Session};
use crate::catalog::identity::{utc_text, Life};
use crate::catalog::lease::{self, LeaseState};
use crate::catalog::volume as names;
use crate::control::words::{Cached, Job, JobState, Status};
use crate::error::Result;
use crate::name::VolumeName;
use crate::store::Store;

/// What there is to show, from the process or from the store.
struct Found {
    status: Status,
    /// Why the process could not be asked.
    unasked: Option<String>,
    is_live: bool,
}

pub fn run(session: &Session, name: &VolumeName) -> Result<()> {
    let store = session.store_of(name)?;
    let id = names::lookup(&store, name)?;
    let live = held::reach(&store, name, None).and_then(|holder| match holder {
        Some(mut holder) => holder.status().map(Some),
        None => Ok(None),
    });
    let found = match live {
        Ok(Some(status)) => Found { status, unasked: None, is_live: true },
        Ok(None) => Found { status: stored(&store, name)?, unasked: None, is_live: false },
        Err(error) => {
            let unasked = Some(held::reason(error)?);
            Found { status: stored(&store, name)?, unasked, is_live: false }
        }
    };
    let lease = lease::show(&store, id)?;
    session.output.show(&json(&found, &lease), || text(name, &found, &lease))
}

/// What the store tells.
fn stored(store: &Store, name: &VolumeName) -> Result<Status> {
    let volume = look(store, name)?;
    let (log_bytes, _) = volume.log_fill();
    let pending = volume.pending_snapshots();
    Ok(Status {
        volume: name.to_string(),
        store: store.describe(),
        size_bytes: volume.size_bytes(),
        block_bytes: volume.block_bytes,
        log_bytes,
        log_limit_bytes: store.log_limit_bytes,
        pending: pending.iter().map(|listed| listed.name.to_string()).collect(),
        ..Status::default()
    })
}

fn json(found: &Found, lease: &LeaseState) -> Value {
    let status = &found.status;
    let mut value = json!({
        "volume": status.volume,
        "store": status.store,
        "size_bytes": status.size_bytes,
        "block_bytes": status.block_bytes,
        "log_bytes": status.log_bytes,
        "log_limit_bytes": status.log_limit_bytes,
        "pending": status.pending,
        "lease": lease_text::json(lease),
        "live": null,
        "unasked": found.unasked,
    });
    if found.is_live {
        value["live"] = json!({
            "open_s": status.open_s,
            "served": status.served,
            "cache": status.cache,
            "stopped": status.stopped,
            "jobs": status.jobs,
        });
    }
    value
}

fn text(name: &VolumeName, found: &Found, lease: &LeaseState) -> String {
    let status = &found.status;
    let percent = (status.log_bytes * 100).checked_div(status.log_limit_bytes).unwrap_or(0);
    let log = size_text(status.log_bytes);
    let mut rows = vec![
        ("volume", name.to_string()),
        ("store", status.store.clone()),
        ("size", format!("{} ({} bytes)", size_text(status.size_bytes), status.size_bytes)),
        ("mode", mode(lease)),
        ("log", format!("{log} of {} ({percent} %)", size_text(status.log_limit_bytes))),
        ("pending", status.pending.join(", ")),
        ("holder", holder(lease)),
    ];
    if found.is_live {
        let served = &status.served;
        rows.push((
            "requests",
            format!(
                "{} reads, {} writes, {} zeroes and discards, {} flushes; {} failed",
                served.reads, served.writes, served.zeroes, served.flushes, served.failures
            ),
        ));
        if let Some(cache) = &status.cache {
            let Cached { hits, misses, asides, damaged } = cache;
            let counts = format!("{hits} hits, {misses} misses, {asides} not asked, {damaged} damaged");
            rows.push(("read cache", counts));
        }
        rows.push(("stopped", status.stopped.clone().unwrap_or_default()));
    }
    rows.extend(status.jobs.iter().map(|job| ("job", job_text(job))));
    rows.push(("not asked", found.unasked.clone().unwrap_or_default()));
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| vec![key.to_owned(), value.replace(char::is_control, "?")])
        .collect();
    table(&rows, &[])
}

fn mode(lease: &LeaseState) -> String {
    match lease {
        LeaseState::Held { life: Life::Dead, .. } => "crashed: the next to open it recovers it".into(),
        LeaseState::Held { .. } => "open for writing".into(),
        LeaseState::Free { clean: true } => "not in use".into(),
        LeaseState::Free { clean: false } => "not in use: the next to open it recovers it".into(),
        LeaseState::Broken { .. } => "not in use: its lease was broken".into(),
        LeaseState::Moved(to) => format!("moved to store '{}'", to.store_name),
        LeaseState::Standby(of) => format!("a standby of store '{}'", of.store_name),
        LeaseState::Arriving { from, .. } => format!("on its way from store '{}'", from.store_name),
    }
}

fn holder(lease: &LeaseState) -> String {
    let LeaseState::Held { holder, .. } = lease else { return String::new() };
    let process = &holder.process;
    let since = utc_text(holder.since_s);
    format!("process {} ({}) on host {} since {since}", process.pid, process.program, process.host)
}

fn job_text(job: &Job) -> String {
    let state = match job.state {
        JobState::Running => "runs",
        JobState::Done => "is done",
        JobState::Failed => "has failed",
    };
    let percent = (job.done.saturating_mul(100)).checked_div(job.total);
    let percent = percent.map_or_else(String::new, |percent| format!(", {percent} %"));
    format!("{} {} {state}{percent}: {}", job.number, job.kind, job.phase)
}
