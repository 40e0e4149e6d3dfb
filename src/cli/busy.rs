//! Words for a volume that a machine holds: what to do through QMP instead.

use crate::error::{Error, ErrorKind};
use crate::name::{SnapshotName, VolumeName};

/// What was refused.
pub enum Wanted<'a> {
    Snapshot(&'a SnapshotName),
    RemoveSnapshot(&'a SnapshotName),
    Resize(u64),
    Rollback,
    Remove,
    Export,
}

/// Adds to `Busy` how a running machine does the same.
pub fn explain(error: Error, volume: &VolumeName, wanted: &Wanted<'_>) -> Error {
    if !error.is(ErrorKind::Busy) {
        return error;
    }
    let qmp = |command: &str, arguments: String| {
        format!(
            "if that is a virtual machine, ask it over QMP: \
             {{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}"
        )
    };
    let next = match wanted {
        Wanted::Snapshot(name) => {
            qmp("blockdev-snapshot-internal-sync", format!("\"device\": \"DEVICE\", \"name\": \"{name}\""))
        }
        Wanted::RemoveSnapshot(name) => qmp(
            "blockdev-snapshot-delete-internal-sync",
            format!("\"device\": \"DEVICE\", \"name\": \"{name}\""),
        ),
        Wanted::Resize(bytes) => qmp("block_resize", format!("\"device\": \"DEVICE\", \"size\": {bytes}")),
        Wanted::Rollback => {
            "a running machine's disk cannot be rolled back: shut the machine down first".into()
        }
        Wanted::Remove => "shut the machine down first".into(),
        Wanted::Export => format!(
            "a running machine's disk is exported through a snapshot: take one over QMP \
             (blockdev-snapshot-internal-sync), then archipelago export {volume}@SNAP FILE"
        ),
    };
    Error::sentence(ErrorKind::Busy, format!("{}; {next}", error.full()))
}
