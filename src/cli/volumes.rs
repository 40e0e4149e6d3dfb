//! `init`, `create`, `rm`, `rename`, `resize`.

use std::sync::Arc;

use serde_json::json;

use super::args::{NewSize, Target};
use super::busy::{explain, Wanted};
use super::output::size_text;
use super::{held, Session};
use crate::catalog::snapshot::Snapshot;
use crate::catalog::{head, lease, snapshot, volume as names};
use crate::control::words::What;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, SnapshotName, VolumeName};
use crate::store::open::init_store;
use crate::store::Store;
use crate::volume::{OpenOptions, Volume};

/// How a volume is opened for a change.
pub fn writable(store: &Store) -> OpenOptions {
    OpenOptions { log_limit_bytes: store.log_limit_bytes, ..OpenOptions::default() }
}

/// A volume as it is now, without its lease: what can be seen to be
/// impossible is refused before anything is touched.
pub fn look(store: &Store, name: &VolumeName) -> Result<Arc<Volume>> {
    Volume::open(store, name, &OpenOptions { force_share: true, ..OpenOptions::read_only() })
}

/// Error: `NotFound`, if there is no such snapshot, not even one that is
/// taken and waits to be published.
pub fn check_there(store: &Store, volume: &VolumeName, name: &SnapshotName) -> Result<()> {
    match snapshot::find(store, names::lookup(store, volume)?, name) {
        Err(error) if error.is(ErrorKind::NotFound) => {
            let is_pending = look(store, volume)?.snapshots()?.iter().any(|listed| listed.name == *name);
            if is_pending { Ok(()) } else { Err(error) }
        }
        found => found.map(drop),
    }
}

pub fn init(session: &Session, block_bytes: Option<u64>) -> Result<()> {
    let config = crate::config::load(session.common.config.as_deref())?;
    let store = init_store(&config, session.common.store.as_deref(), block_bytes)?;
    let (id, block_bytes) = (store.id.to_string(), store.block_bytes_default);
    let value = json!({ "store": store.name, "id": id, "block_bytes": block_bytes });
    session.output.show(&value, || format!("store {} is made", store.describe()))
}

pub fn create(session: &Session, name: &VolumeName, size_bytes: u64, block_bytes: Option<u64>) -> Result<()> {
    let store = session.store(true)?;
    let id = names::create(&store, name, size_bytes, block_bytes.unwrap_or(store.block_bytes_default))?;
    let value = json!({ "volume": name.as_str(), "id": id.to_string(), "size_bytes": size_bytes });
    session.output.show(&value, || format!("volume '{name}' of {} is made", size_text(size_bytes)))
}

pub fn rename(session: &Session, from: &VolumeName, to: &VolumeName) -> Result<()> {
    let store = session.store(false)?;
    names::rename(&store, from, to)?;
    let value = json!({ "volume": to.as_str(), "before": from.as_str() });
    session.output.show(&value, || format!("volume '{from}' is called '{to}' now"))
}

pub fn resize(session: &Session, name: &VolumeName, to: NewSize, shrink: bool, dry_run: bool) -> Result<()> {
    let store = session.store_of(name)?;
    let now = look(&store, name)?;
    let before_bytes = now.size_bytes();
    let wanted = match to {
        NewSize::To(bytes) => Some(bytes),
        NewSize::Add(more) => before_bytes.checked_add(more),
    };
    let size_bytes = wanted.ok_or_else(|| {
        Error::sentence(ErrorKind::Invalid, format!("volume '{name}' cannot become that large"))
    })?;
    let busy = |error| explain(error, name, &Wanted::Resize(size_bytes));
    let value = json!({
        "volume": name.as_str(), "size_bytes": size_bytes, "before_bytes": before_bytes, "dry_run": dry_run,
    });
    if dry_run {
        return session.output.show(&value, || resize_text(name, before_bytes, size_bytes));
    }
    now.check_size(size_bytes, shrink)?;
    if let Some(mut holder) = held::reach(&store, name, Some(&Wanted::Resize(size_bytes)))? {
        holder.order(What::Grow { size_bytes })?;
        return session.output.show(&value, || held::grown_text(name, size_bytes, &holder));
    }
    let volume = Volume::open(&store, name, &writable(&store)).map_err(busy)?;
    let resized = volume.resize(size_bytes, shrink);
    let closed = volume.close();
    resized.and(closed)?;
    session.output.show(&value, || format!("volume '{name}' has {} now", size_text(size_bytes)))
}

fn resize_text(name: &VolumeName, before_bytes: u64, size_bytes: u64) -> String {
    let (before, after) = (size_text(before_bytes), size_text(size_bytes));
    match size_bytes < before_bytes {
        true => format!(
            "volume '{name}' would shrink from {before} to {after}: {} at its end would be destroyed",
            size_text(before_bytes - size_bytes)
        ),
        false => format!("volume '{name}' would grow from {before} to {after}; nothing would be lost"),
    }
}

pub fn rm(session: &Session, targets: &[Target], with_snapshots: bool, dry_run: bool) -> Result<()> {
    let store = session.store(false)?;
    let (mut words, mut values) = (Vec::new(), Vec::new());
    for target in targets {
        let done = match &target.snapshot {
            Some(name) => {
                let store = session.store_of(&target.volume)?;
                rm_snapshot(&store, &target.volume, name, dry_run)
            }
            None => rm_volume(&store, &target.volume, with_snapshots, dry_run),
        };
        // What is done already is said before what went wrong.
        match done {
            Ok((text, value)) => {
                words.push(text);
                values.push(value);
            }
            Err(error) => {
                if !words.is_empty() {
                    session.output.show(&json!(values), || words.join("\n"))?;
                }
                return Err(error);
            }
        }
    }
    session.output.show(&json!(values), || words.join("\n"))
}

type Done = (String, serde_json::Value);

fn rm_snapshot(store: &Store, volume: &VolumeName, name: &SnapshotName, dry_run: bool) -> Result<Done> {
    let id = names::lookup(store, volume)?;
    let found = snapshot::find(store, id, name);
    let clones = match &found {
        Ok(found) => clones_of(store, |parent| parent.snapshot_id == found.id)?,
        Err(_) => Vec::new(),
    };
    check_there(store, volume, name)?;
    if !dry_run {
        remove_snapshot(store, volume, name)?;
    }
    let verb = if dry_run { "would be removed" } else { "is removed" };
    let text = format!("snapshot '{volume}@{name}' {verb}{}", stay_text(&clones));
    let value = json!({
        "snapshot": format!("{volume}@{name}"), "clones_that_stay": clones, "dry_run": dry_run,
    });
    Ok((text, value))
}

fn remove_snapshot(store: &Store, volume: &VolumeName, name: &SnapshotName) -> Result<()> {
    let wanted = Wanted::RemoveSnapshot(name);
    if let Some(mut holder) = held::reach(store, volume, Some(&wanted))? {
        return holder.order(What::RemoveSnapshot { name: name.clone() });
    }
    let busy = |error| explain(error, volume, &wanted);
    let open = Volume::open(store, volume, &writable(store)).map_err(busy)?;
    let removed = open.remove_snapshot(name);
    let closed = open.close();
    removed.and(closed)
}

fn rm_volume(store: &Store, name: &VolumeName, with_snapshots: bool, dry_run: bool) -> Result<Done> {
    let id = names::lookup(store, name)?;
    let clones = clones_of(store, |parent| parent.volume == id)?;
    let moved = lease::moved_to(store, id)?;
    let busy = |error| match lease::show(store, id) {
        // Refused because of its snapshots: no machine is in the way.
        Ok(lease::LeaseState::Held { .. }) => explain(error, name, &Wanted::Remove),
        _ => error,
    };
    let plan = match dry_run {
        true => names::plan_removal(store, name)?,
        false => names::remove(store, name, with_snapshots).map_err(busy)?,
    };
    let verb = if dry_run { "would be removed" } else { "is removed" };
    let snapshots: Vec<&str> = plan.snapshots.iter().map(|s: &Snapshot| s.name.as_str()).collect();
    let mut text = match &plan.name_only {
        Some(other) => format!("the name '{name}' {verb}; the volume keeps the name '{other}'"),
        None => format!("volume '{name}' {verb}"),
    };
    if !snapshots.is_empty() {
        text.push_str(&format!(" with its snapshots {}", snapshots.join(", ")));
        if dry_run && !with_snapshots {
            text.push_str(" (if --snapshots is given)");
        }
    }
    if let Some(to) = &moved {
        text = format!("the name '{name}' {verb} here; the volume is in store '{}' as before", to.store_name);
    } else if plan.name_only.is_none() {
        text.push_str(&stay_text(&clones));
        text.push_str("; its space is given back by: archipelago gc");
    }
    let value = json!({
        "volume": name.as_str(),
        "name_only": plan.name_only.is_some(),
        "snapshots": snapshots,
        "clones_that_stay": clones,
        "dry_run": dry_run,
    });
    Ok((text, value))
}

fn stay_text(clones: &[String]) -> String {
    match clones.is_empty() {
        true => String::new(),
        false => format!("; clones stay as they are: {}", clones.join(", ")),
    }
}

/// Names of the volumes that began as a clone of what `is_it` says.
fn clones_of(store: &Store, is_it: impl Fn(&crate::catalog::Parent) -> bool) -> Result<Vec<String>> {
    let mut clones = Vec::new();
    for (name, id) in names::list(store)? {
        if latest_if_there(store, id)?.and_then(|head| head.parent).is_some_and(|parent| is_it(&parent)) {
            clones.push(name.to_string());
        }
    }
    Ok(clones)
}

/// A volume that is removed while it is listed has no head.
pub fn latest_if_there(store: &Store, id: Id) -> Result<Option<head::Head>> {
    match head::latest(store, id) {
        Err(error) if error.is(ErrorKind::NotFound) => Ok(None),
        other => other.map(Some),
    }
}
