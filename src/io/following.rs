//! What whoever moves an open volume to another store needs of its device: to
//! know what is written meanwhile, and to change what is served, once.

use std::sync::Arc;
use std::time::Duration;

use super::written::Range;
use super::{Device, DeviceOptions, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::name::SnapshotName;
use crate::sync::atomic::Ordering;
use crate::volume::{Mode, Volume};

/// A guest that has asked for something so recently asks for more.
const BUSY_FOR: Duration = Duration::from_millis(500);

/// Follows what is written to a device, until dropped.
pub struct Following {
    inner: Arc<Inner>,
    /// What is served when it begins. Opened anew, it is another one, and may have
    /// been written by somebody else meanwhile.
    volume: Arc<Volume>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Following({:?})", self.inner)
    }
}

impl Device {
    /// From here on what is written is noted. Errors: `Busy` if somebody follows
    /// already; `Denied` if the device is not open for writing.
    pub fn follow(&self) -> Result<Following> {
        // Not while it is rolled back, or handed over.
        let _managing = self.inner.managing.lock();
        let volume = self.volume();
        if volume.mode() != Mode::Writable {
            let message = format!("volume '{}' is not open for writing: it cannot be moved", volume.name);
            return Err(Error::sentence(ErrorKind::Denied, message));
        }
        if !self.inner.written.follow() {
            let message = format!("volume '{}' is being moved already", volume.name);
            return Err(Error::sentence(ErrorKind::Busy, message));
        }
        Ok(Following { inner: Arc::clone(&self.inner), volume })
    }

    /// Ends the threads and hands back the volume, which stays open. Nobody
    /// else may use this device any more.
    pub fn into_volume(self) -> Arc<Volume> {
        let inner = &self.inner;
        drop(inner.gate.shut());
        inner.background.stop();
        inner.flushes.stop();
        inner.workers.stop();
        inner.log_thread.stop();
        self.volume()
    }
}

impl Following {
    /// What is followed.
    pub fn volume(&self) -> Arc<Volume> {
        Arc::clone(&self.volume)
    }

    /// How it was opened.
    pub fn options(&self) -> DeviceOptions {
        self.inner.options.lock().clone()
    }

    /// Error: `Unavailable` if the device is being closed or handed over.
    pub fn check_wanted(&self) -> Result<()> {
        let is_wanted = !self.inner.written.is_unwanted() && Arc::ptr_eq(&self.volume, &self.inner.volume());
        match is_wanted {
            true => Ok(()),
            false => Err(Error::sentence(
                ErrorKind::Unavailable,
                format!("volume '{}' is closed or handed over: it is not moved", self.volume.name),
            )),
        }
    }

    /// Changes whenever snapshots are taken or removed.
    pub fn snapshot_changes(&self) -> u64 {
        self.inner.snapshot_changes.load(Ordering::Acquire)
    }

    /// Takes a snapshot and waits until it is published.
    pub fn snapshot(&self, name: &SnapshotName) -> Result<()> {
        self.volume.snapshot(name)?;
        self.volume.publish_all()
    }

    /// Tells how many requests there have been; `None` if there are none now, nor
    /// were just now.
    pub fn guest(&self) -> impl Fn() -> Option<u64> + Send + Sync + 'static {
        let inner = Arc::clone(&self.inner);
        move || {
            let is_busy = !inner.gate.is_empty() || inner.idle_for() < BUSY_FOR;
            is_busy.then(|| inner.served.requests())
        }
    }

    /// Bytes that were written since `take`.
    pub fn written_bytes(&self) -> u64 {
        self.inner.written.bytes()
    }

    /// What was written since the last time; what is written from here on is
    /// told the next time.
    pub fn take(&self) -> Vec<Range> {
        self.inner.written.take()
    }

    /// These have not been copied after all.
    pub fn put_back(&self, ranges: &[Range]) {
        for (start, end) in ranges {
            self.inner.written.note(*start, *end);
        }
    }

    /// Writes begin only as `allow` lets them.
    pub fn slow_down(&self) {
        self.inner.written.slow_down();
    }

    /// Writes go on as they like.
    pub fn speed_up(&self) {
        self.inner.written.allow(u64::MAX);
    }

    pub fn is_slowed_down(&self) -> bool {
        self.inner.written.is_slow()
    }

    pub fn allow(&self, bytes: u64) {
        if self.is_slowed_down() {
            self.inner.written.allow(bytes);
        }
    }

    /// Has the device serve another volume: what `last` returns. It is called
    /// when no request is in flight, with the volume that is served and what
    /// was written since the last `take`; whoever submits waits meanwhile. If
    /// it fails all goes on as before.
    pub fn cut_over(
        &self,
        last: impl FnOnce(&Arc<Volume>, &[Range]) -> Result<Arc<Volume>>,
    ) -> Result<Arc<Volume>> {
        let inner = &self.inner;
        // Nobody takes a snapshot of what is being left.
        let _managing = inner.managing.lock();
        let _shut = inner.gate.shut();
        self.check_wanted()?;
        let old = self.volume();
        let ranges = self.take();
        let new = last(&old, &ranges).inspect_err(|_| self.put_back(&ranges))?;
        inner.adopt(new);
        Ok(old)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.inner.written.end();
    }
}
