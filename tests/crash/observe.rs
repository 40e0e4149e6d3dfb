//! What a user finds in a store after a crash: every volume opened, which is
//! its recovery, and read in full, and every snapshot.

use std::sync::Arc;

use archipelago::catalog::volume as names;
use archipelago::clock::seeded;
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{Mode, OpenOptions, Volume};

use super::disk::{Disk, Names};
use super::image::Image;
use super::model::{Seen, Values};
use super::world::{backend, collect, read_values, used_twice};

/// What was found, or the error that was in the way.
pub type Found = std::result::Result<Vec<Seen>, (ErrorKind, String)>;

/// Ids that are made while looking come from here: never those of a workload.
const SEED: u64 = 0x0B5E_47E0;

/// How much is done beside opening and reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Opens read-only first and compares.
    pub read_only: bool,
    /// Works on, closes, opens again and compares.
    pub goes_on: bool,
}

/// `before`: what was made before the crash.
pub fn observe(
    image: &Image,
    before: &Arc<Names>,
    values: &Values,
    options: &OpenOptions,
    depth: Depth,
) -> Found {
    let disk = Disk::after(Arc::clone(before), image.plain(), false);
    let found = observe_on(&disk, values, options, depth)?;
    disk.take_again().map_or(Ok(found), |name| Err((ErrorKind::Corrupt, used_twice(&name))))
}

fn observe_on(disk: &Arc<Disk>, values: &Values, options: &OpenOptions, depth: Depth) -> Found {
    seeded::seed(Some(SEED));
    let explained = |error: Error| (error.kind(), error.full());
    let store = Store::open("crash", backend(disk)).map_err(explained)?;
    let mut found = Vec::new();
    let listed = names::list(&store).map_err(explained)?;
    let about =
        |name: &VolumeName, error: Error| (error.kind(), format!("volume '{name}': {}", error.full()));
    for (name, _) in &listed {
        found.push(look(&store, name, values, options, depth).map_err(|error| about(name, error))?);
    }
    if depth.goes_on {
        sound(&store).map_err(explained)?;
        collect(&store, options).map_err(explained)?;
    }
    for (at, (name, id)) in listed.iter().enumerate() {
        // Of two names for one volume the first.
        if depth.goes_on && !listed[..at].iter().any(|(_, other)| other == id) {
            go_on(&store, name, values, options, &found[at]).map_err(|error| about(name, error))?;
        }
    }
    if depth.goes_on {
        sound(&store).map_err(explained)?;
    }
    Ok(found)
}

fn differs(what: &str) -> Error {
    Error::sentence(ErrorKind::Internal, format!("{what} differs from what was there when it was opened"))
}

/// Everything that is needed is as it was written.
fn sound(store: &Store) -> Result<()> {
    let report = check::run(store, &CheckOptions { blocks: true, measure: false }, &mut |_| ())?;
    if report.is_sound() {
        return Ok(());
    }
    let problems: Vec<String> = report.damage().map(|problem| format!("{problem:?}")).collect();
    Err(Error::sentence(ErrorKind::Corrupt, format!("check finds: {}", problems.join("; "))))
}

fn look(
    store: &Store,
    name: &VolumeName,
    values: &Values,
    options: &OpenOptions,
    depth: Depth,
) -> Result<Seen> {
    let mut before = None;
    if depth.read_only {
        let volume = Volume::open(store, name, &OpenOptions { mode: Mode::ReadOnly, ..options.clone() })?;
        before = Some(read_values(&volume, values)?);
    }
    let volume = Volume::open(store, name, options)?;
    let read = read_values(&volume, values)?;
    if before.is_some_and(|before| before != read) {
        return Err(differs("what was read before recovery"));
    }
    let mut seen =
        Seen { name: name.to_string(), bytes: volume.size_bytes(), values: read, snapshots: Vec::new() };
    let listed: Vec<SnapshotName> = volume.snapshots()?.into_iter().map(|listed| listed.name).collect();
    volume.publish_all()?;
    for snapshot in &listed {
        let opened = Volume::open_snapshot(store, name, snapshot)?;
        seen.snapshots.push((snapshot.to_string(), opened.size_bytes(), read_values(&opened, values)?));
    }
    volume.abandon();
    Ok(seen)
}

/// Settles everything, ends cleanly and opens again: nothing may change. Then
/// a little is written, so that what is shared must not be overwritten.
fn go_on(
    store: &Store,
    name: &VolumeName,
    values: &Values,
    options: &OpenOptions,
    seen: &Seen,
) -> Result<()> {
    let volume = Volume::open(store, name, options)?;
    volume.settle_all()?;
    if read_values(&volume, values)? != seen.values {
        return Err(differs("what settle left"));
    }
    volume.close()?;
    let volume = Volume::open(store, name, options)?;
    if volume.size_bytes() != seen.bytes || read_values(&volume, values)? != seen.values {
        return Err(differs("what was there after a clean end"));
    }
    let block_bytes = volume.block_bytes;
    let mut at = 0;
    while at + 2048 <= seen.bytes {
        volume.write_at(at + 1024, &[0x77; 1024])?;
        at += block_bytes;
    }
    volume.settle_all()?;
    for (snapshot, bytes, content) in &seen.snapshots {
        let opened = Volume::open_snapshot(store, name, &SnapshotName::new(snapshot)?)?;
        if opened.size_bytes() != *bytes || read_values(&opened, values)? != *content {
            return Err(differs("a snapshot"));
        }
    }
    volume.close()
}
