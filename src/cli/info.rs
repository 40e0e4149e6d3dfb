//! `archipelago info`: one volume or one snapshot.

use serde_json::json;

use super::args::Target;
use super::census::{self, Census};
use super::output::{size_text, table};
use super::{lease, Session};
use crate::catalog::identity::utc_text;
use crate::catalog::volume as names;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::volume::Volume;

pub fn run(session: &Session, target: &Target) -> Result<()> {
    let store = session.store_of(&target.volume)?;
    names::lookup(&store, &target.volume)?;
    if let Some(snapshot) = &target.snapshot {
        // Says it, if it is missing or pending.
        Volume::open_snapshot(&store, &target.volume, snapshot)?;
    }
    let census = census::take(&store, &session.output, true)?;
    match &target.snapshot {
        None => volume(session, &census, &target.volume),
        Some(name) => snapshot(session, &census, &target.volume, name),
    }
}

fn gone(target: impl std::fmt::Display) -> Error {
    Error::sentence(ErrorKind::NotFound, format!("'{target}' was removed while it was looked at"))
}

fn rows(rows: &[(&str, String)]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| vec![(*key).to_owned(), value.clone()])
        .collect();
    table(&rows, &[])
}

fn volume(session: &Session, census: &Census, name: &VolumeName) -> Result<()> {
    let found = census.volumes.iter().find(|volume| volume.name == *name).ok_or_else(|| gone(name))?;
    let head = &found.head;
    let parent = head.parent.as_ref().map(|parent| {
        let volume = census.volumes.iter().find(|volume| volume.id == parent.volume);
        let volume = volume.map_or_else(|| parent.volume.to_string(), |volume| volume.name.to_string());
        format!("{volume}@{}", parent.snapshot)
    });
    let snapshots: Vec<&str> = found.snapshots.iter().map(|listed| listed.name.as_str()).collect();
    let value = json!({
        "name": name.as_str(),
        "id": found.id.to_string(),
        "size_bytes": found.size_bytes,
        "block_bytes": head.block_bytes,
        "own_bytes": found.sizes.own_bytes,
        "shared_bytes": found.sizes.shared_bytes,
        "log_bytes": found.log_bytes,
        "store_reclaimable_bytes": census.reclaimable_bytes,
        "exact": census.is_exact,
        "created": utc_text(head.created_s),
        "head": head.number,
        "epoch": head.epoch.to_string(),
        "parent": parent,
        "snapshots": snapshots,
        "lease": lease::json(&found.lease),
        "error": found.error,
    });
    session.output.show(&value, || {
        let [own, shared] = super::ls::size_cells(census, found.sizes);
        let reclaimable_bytes = census.reclaimable_bytes.unwrap_or(0);
        rows(&[
            ("volume", name.to_string()),
            ("size", format!("{} ({} bytes)", size_text(found.size_bytes), found.size_bytes)),
            ("own", own),
            ("shared", shared),
            ("log", size_text(found.log_bytes)),
            ("reclaimable", format!("{} in the whole store", size_text(reclaimable_bytes))),
            ("block size", size_text(head.block_bytes)),
            ("created", utc_text(head.created_s)),
            ("clone of", parent.clone().unwrap_or_default()),
            ("snapshots", snapshots.join(", ")),
            ("state", super::ls::state(found)),
            ("id", found.id.to_string()),
            ("head", head.number.to_string()),
            ("epoch", head.epoch.to_string()),
        ])
    })
}

fn snapshot(session: &Session, census: &Census, volume: &VolumeName, name: &SnapshotName) -> Result<()> {
    let missing = || gone(format!("{volume}@{name}"));
    let owner = census.volumes.iter().find(|row| row.name == *volume).ok_or_else(missing)?;
    let mut rows_of = census.snapshots.iter();
    let found = rows_of
        .find(|row| row.snapshot.volume == owner.id && row.snapshot.name == *name)
        .ok_or_else(missing)?;
    let snapshot = &found.snapshot;
    let clones: Vec<&str> = census
        .volumes
        .iter()
        .filter(|row| row.head.parent.as_ref().is_some_and(|parent| parent.snapshot_id == snapshot.id))
        .map(|row| row.name.as_str())
        .collect();
    let value = json!({
        "name": format!("{volume}@{name}"),
        "id": snapshot.id.to_string(),
        "size_bytes": snapshot.size_bytes,
        "block_bytes": snapshot.block_bytes,
        "own_bytes": found.sizes.own_bytes,
        "shared_bytes": found.sizes.shared_bytes,
        "exact": census.is_exact,
        "created": utc_text(snapshot.created_s),
        "clones": clones,
        "error": found.error,
    });
    session.output.show(&value, || {
        let [own, shared] = super::ls::size_cells(census, found.sizes);
        rows(&[
            ("snapshot", format!("{volume}@{name}")),
            ("size", format!("{} ({} bytes)", size_text(snapshot.size_bytes), snapshot.size_bytes)),
            ("own", own),
            ("shared", shared),
            ("block size", size_text(snapshot.block_bytes)),
            ("taken", utc_text(snapshot.created_s)),
            ("clones", clones.join(", ")),
            ("id", snapshot.id.to_string()),
            ("state", found.error.clone().unwrap_or_default()),
        ])
    })
}
