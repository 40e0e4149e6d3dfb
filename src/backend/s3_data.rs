//! Guest data of `s3`: each request waits for its answer on a thread of its own,
//! of so many as there may be in flight.

use std::fmt;
use std::sync::Arc;

use super::s3::{no_overwriting, Inner};
use super::{DataPath, Done};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::iobuf::IoBuf;
use crate::thread::{self, Handoff};

const THREADS: usize = 32;

type Work = Box<dyn FnOnce() + Send>;

/// The data path of one store. Its threads end after the last answer.
pub(super) struct S3Data {
    inner: Arc<Inner>,
    work: Arc<Handoff<Work>>,
}

impl fmt::Debug for S3Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Data")
    }
}

impl Drop for S3Data {
    fn drop(&mut self) {
        self.work.close();
    }
}

/// A caller's fault must not end a thread that answers others.
fn run(done: Done, result: Result<()>) {
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result)));
    if called.is_err() {
        log::error!("a completion of the data path has panicked");
    }
}

fn read(inner: &Inner, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
    let mut data = vec![0; buf.len()];
    let bytes = inner.read_at(name, offset_bytes, &mut data)?;
    if bytes < data.len() {
        let error = Error::new(ErrorKind::Invalid, "read").on(name).at(offset_bytes);
        return Err(error.because("it ends before"));
    }
    buf.copy_from(0, &data);
    Ok(())
}

impl S3Data {
    /// `None` if there are no threads to be had.
    pub(super) fn start(inner: &Arc<Inner>) -> Option<Arc<S3Data>> {
        let data = S3Data { inner: Arc::clone(inner), work: Arc::default() };
        for _ in 0..THREADS {
            let work = Arc::clone(&data.work);
            thread::spawn("arch-s3", move || work.serve(|work| work(), drop)).ok()?;
        }
        Some(Arc::new(data))
    }

    fn later(&self, work: impl FnOnce(&Inner) + Send + 'static) {
        let inner = Arc::clone(&self.inner);
        if self.work.send(Box::new(move || work(&inner))).is_err() {
            log::error!("a request was sent to a store that is closed");
        }
    }
}

impl S3Data {
    /// Whoever waits for a job that panics sees that it is gone.
    pub(super) fn carry_out(&self, job: Work) {
        let guarded = move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                log::error!("a job for S3 has panicked");
            }
        };
        if self.work.send(Box::new(guarded)).is_err() {
            log::error!("a job was sent to a store that is closed");
        }
    }
}

impl DataPath for S3Data {
    fn alignment_bytes(&self) -> usize {
        1
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let name = name.clone();
        self.later(move |inner| run(done, read(inner, &name, offset_bytes, &buf)));
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, _buf: IoBuf, done: Done) {
        let error = no_overwriting("write", name).at(offset_bytes);
        self.later(move |_| run(done, Err(error)));
    }

    /// A server is never asked without waiting.
    fn try_read(&self, _name: &ObjectName, _offset_bytes: u64, _buf: &IoBuf) -> Option<Result<()>> {
        None
    }
}
