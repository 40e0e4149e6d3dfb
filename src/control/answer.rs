//! What is done for each request, on the device that holds the volume.

use super::desk::Asking;
use super::jobs::Kinds;
use super::words::{Cached, Reply, Served, Status, What};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Operation, Request};
use crate::sync::atomic::Ordering;
use crate::sync::channel;

pub fn answer(asking: &Asking, kinds: &Kinds, what: &What) -> Result<Reply> {
    let device = &asking.device;
    match what {
        What::Status {} => return Ok(Reply::Status(Box::new(status(asking)))),
        What::Snapshot { name } => device.snapshot(name)?,
        What::RemoveSnapshot { name } => device.remove_snapshot(name)?,
        What::Grow { size_bytes } => grow(asking, *size_bytes)?,
        What::Start { kind, arguments } => {
            let job = asking.jobs.start(kinds, kind, device, arguments)?;
            return Ok(Reply::Started { job });
        }
        What::Tell { job, word } => asking.jobs.tell(*job, word)?,
    }
    Ok(Reply::Done {})
}

/// Asks for nothing that waits for the store: a volume whose store does not
/// answer is the one that people ask about.
fn status(asking: &Asking) -> Status {
    let (device, volume) = (&asking.device, asking.device.volume());
    let (log_bytes, log_limit_bytes) = volume.log_fill();
    let pending = volume.pending_snapshots();
    let served = device.served();
    Status {
        volume: volume.name.clone(),
        store: volume.store.describe(),
        size_bytes: device.size_bytes(),
        block_bytes: volume.block_bytes,
        log_bytes,
        log_limit_bytes,
        pending: pending.iter().map(|listed| listed.name.to_string()).collect(),
        served: Served {
            reads: served.reads.load(Ordering::Relaxed),
            writes: served.writes.load(Ordering::Relaxed),
            zeroes: served.zeroes.load(Ordering::Relaxed),
            flushes: served.flushes.load(Ordering::Relaxed),
            failures: served.failures.load(Ordering::Relaxed),
        },
        cache: volume.store.read_cache().map(|cache| {
            let counts = cache.counts();
            Cached {
                hits: counts.hits.load(Ordering::Relaxed),
                misses: counts.misses.load(Ordering::Relaxed),
                asides: counts.asides.load(Ordering::Relaxed),
                damaged: counts.damaged.load(Ordering::Relaxed),
            }
        }),
        open_s: device.age().as_secs(),
        stopped: volume.check_alive().err().map(|error| super::words::shortened(error.full())),
        jobs: asking.jobs.told(),
    }
}

/// Never smaller: what a guest thinks it has must be there.
fn grow(asking: &Asking, size_bytes: u64) -> Result<()> {
    let volume = asking.device.volume();
    if size_bytes < volume.size_bytes() {
        return Err(Error::sentence(
            ErrorKind::Busy,
            format!(
                "volume '{}' is in use, and who uses it would not know that it has become smaller: \
                 use QEMU's own block_resize, or end its holder first",
                volume.name
            ),
        ));
    }
    volume.check_size(size_bytes, false)?;
    let (sender, receiver) = channel::bounded(1);
    let operation = Operation::Resize { shrink: false };
    let done = Box::new(move |result| drop(sender.send(result)));
    asking.device.submit(Request { offset_bytes: size_bytes, operation }, done);
    receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "resize"))?
}
