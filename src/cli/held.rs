//! Volumes that a process holds: it is asked for what only it may do.

use std::time::Duration;

use serde_json::{json, Value};

use super::args::Target;
use super::busy::{explain, Wanted};
use super::output::size_text;
use super::{check_interrupted, Session};
use crate::catalog::volume as names;
use crate::clock;
use crate::control::client::{self, Connection};
use crate::control::words::What;
use crate::error::{Error, ErrorKind, Result};
use crate::name::VolumeName;
use crate::store::Store;

/// A snapshot that is taken is waited for so long to be published: most are
/// in a moment, and then a clone can be made of it.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The process that holds a volume, if there is one. Error: `Busy`, if it
/// cannot be asked.
pub fn reach(
    store: &Store,
    volume: &VolumeName,
    wanted: Option<&Wanted<'_>>,
) -> Result<Option<Connection>> {
    let reached = client::reach(store, names::lookup(store, volume)?, volume.as_str());
    reached.map_err(|error| match wanted {
        Some(wanted) => explain(error, volume, wanted),
        None => error,
    })
}

/// "process 12 (qemu-system-x86_64)".
pub fn who(holder: &Connection) -> String {
    let process = &holder.holder.process;
    format!("process {} ({})", process.pid, process.program)
}

fn who_json(holder: &Connection) -> Value {
    json!({ "pid": holder.holder.process.pid, "program": holder.holder.process.program })
}

/// Has a snapshot taken, or waits until all are published.
pub fn snapshot(session: &Session, mut holder: Connection, target: &Target) -> Result<()> {
    let Some(name) = &target.snapshot else {
        while !holder.status()?.pending.is_empty() {
            check_interrupted()?;
            clock::sleep(LOOK_EVERY);
        }
        let value = json!({ "snapshot": target.to_string(), "by": who_json(&holder) });
        let volume = &target.volume;
        return session.output.show(&value, || format!("every snapshot of volume '{volume}' is published"));
    };
    holder.order(What::Snapshot { name: name.clone() })?;
    let until = clock::now() + PUBLISHED_WITHIN;
    let mut is_pending = true;
    while is_pending && clock::now() < until {
        // It is taken, whatever becomes of its holder.
        let Ok(status) = holder.status() else { break };
        is_pending = status.pending.iter().any(|pending| *pending == name.as_str());
        if is_pending {
            clock::sleep(LOOK_EVERY);
        }
    }
    let value = json!({ "snapshot": target.to_string(), "pending": is_pending, "by": who_json(&holder) });
    session.output.show(&value, || {
        let taken = format!("snapshot '{target}' is taken, by {}", who(&holder));
        match is_pending {
            true => format!("{taken}; clones wait for: archipelago snapshot --publish {}", target.volume),
            false => taken,
        }
    })
}

/// What is left to do when a volume has grown under a machine.
pub fn grown_text(name: &VolumeName, size_bytes: u64, holder: &Connection) -> String {
    format!(
        "volume '{name}' has {} now; if {} is a virtual machine, its guest learns that over QMP: \
         {{\"execute\": \"block_resize\", \"arguments\": \
         {{\"device\": \"DEVICE\", \"size\": {size_bytes}}}}}",
        size_text(size_bytes),
        who(holder)
    )
}

/// Why the holder cannot be asked; other failures are failures.
pub fn reason(error: Error) -> Result<String> {
    match error.is(ErrorKind::Busy) || error.is(ErrorKind::Denied) || error.is(ErrorKind::Unavailable) {
        true => Ok(error.full()),
        false => Err(error),
    }
}
