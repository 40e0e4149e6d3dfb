//! `snapshot`, `clone`, `rollback`.

use serde_json::json;

use super::args::Target;
use super::busy::{explain, Wanted};
use super::volumes::{check_there, look, writable};
use super::{held, Session};
use crate::catalog::volume as names;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{SnapshotName, VolumeName};

use crate::volume::{find_snapshot, Volume};

pub fn snapshot(session: &Session, target: &Target, publish: bool) -> Result<()> {
    let store = session.store_of(&target.volume)?;
    let volume = &target.volume;
    let name = match (&target.snapshot, publish) {
        (Some(name), false) => Some(name),
        (None, true) => None,
        (None, false) => return Err(usage(format!("a name for the snapshot is missing: {volume}@SNAP"))),
        (Some(_), true) => return Err(usage(format!("--publish takes no snapshot's name, only {volume}"))),
    };
    if let Some(name) = name {
        look(&store, volume)?.check_free(name)?;
    }
    if let Some(holder) = held::reach(&store, volume, name.map(Wanted::Snapshot).as_ref())? {
        return held::snapshot(session, holder, target);
    }
    let open = Volume::open(&store, volume, &writable(&store)).map_err(|error| match name {
        Some(name) => explain(error, volume, &Wanted::Snapshot(name)),
        None => error,
    })?;
    let taken = name.map_or(Ok(()), |name| open.snapshot(name)).and_then(|()| open.publish_all());
    let closed = open.close();
    taken.and(closed)?;
    session.output.show(&json!({ "snapshot": target.to_string() }), || match name {
        Some(_) => format!("snapshot '{target}' is taken"),
        None => format!("every snapshot of volume '{volume}' is published"),
    })
}

fn usage(words: String) -> Error {
    Error::sentence(ErrorKind::Invalid, words)
}

pub fn clone(
    session: &Session,
    (volume, snapshot): &(VolumeName, SnapshotName),
    name: &VolumeName,
    size_bytes: Option<u64>,
) -> Result<()> {
    let store = session.store_of(volume)?;
    names::check_free(&store, name)?;
    let source = find_snapshot(&store, volume, names::lookup(&store, volume)?, snapshot)?;
    let id = names::clone(&store, &source, name, size_bytes)?;
    let value = json!({
        "volume": name.as_str(), "id": id.to_string(), "parent": format!("{volume}@{snapshot}"),
    });
    session.output.show(&value, || format!("volume '{name}' is a clone of '{volume}@{snapshot}'"))
}

pub fn rollback(
    session: &Session,
    (volume, snapshot): &(VolumeName, SnapshotName),
    dry_run: bool,
) -> Result<()> {
    let store = session.store_of(volume)?;
    let value = json!({ "volume": volume.as_str(), "snapshot": snapshot.as_str(), "dry_run": dry_run });
    check_there(&store, volume, snapshot)?;
    if dry_run {
        let there = look(&store, volume)?.snapshots()?;
        let taken_s = there.iter().find(|listed| listed.name == *snapshot).map(|listed| listed.created_s);
        let taken = crate::catalog::identity::utc_text(taken_s.unwrap_or_default());
        return session.output.show(&value, || {
            format!(
                "volume '{volume}' would be what it was on {taken}: what was written since would be lost, \
                 snapshots would stay"
            )
        });
    }
    let busy = |error| explain(error, volume, &Wanted::Rollback);
    let open = Volume::open(&store, volume, &writable(&store)).map_err(busy)?;
    let rolled = open.rollback(snapshot);
    let closed = open.close();
    rolled.and(closed)?;
    session.output.show(&value, || format!("volume '{volume}' is what it was at '{volume}@{snapshot}'"))
}
