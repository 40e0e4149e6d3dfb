//! Guest data of `rados`: requests are handed to Ceph's library and answered
//! by it, so that many are in flight without a thread for each.
//!
//! The library answers on one thread, which must not wait for it. A `done` may
//! do anything, so it runs on threads of our own.

use std::fmt;
use std::sync::Arc;

use super::rados::{check_end, failed, not_read, Inner, Known};
use super::{DataPath, Done};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::iobuf::IoBuf;
use crate::sys::rados::{Answer, Errno};
use crate::thread::{self, Handoff};

/// Answers, and what has to wait for the cluster first.
const THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// The data path of one store.
pub(super) struct RadosData(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    work: Arc<Handoff<Work>>,
}

impl fmt::Debug for RadosData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RadosData")
    }
}

/// Requests keep it, so that the threads end after the last answer.
impl Drop for Shared {
    fn drop(&mut self) {
        self.work.close();
    }
}

impl RadosData {
    /// `None` if there are no threads to be had.
    pub(super) fn start(inner: Arc<Inner>) -> Option<Arc<RadosData>> {
        let work: Arc<Handoff<Work>> = Arc::default();
        let shared = Arc::new(Shared { inner, work: Arc::clone(&work) });
        for _ in 0..THREADS {
            let work = Arc::clone(&work);
            thread::spawn("arch-rados", move || work.serve(|work| work(), drop)).ok()?;
        }
        Some(Arc::new(RadosData(shared)))
    }
}

/// A caller's fault must not end a thread that answers others.
fn run(done: Done, result: Result<()>) {
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result)));
    if called.is_err() {
        log::error!("a completion of the data path has panicked");
    }
}

impl Shared {
    /// Does it on another thread, which keeps this until then: on Ceph's own
    /// thread nobody may be the last that has a store.
    fn later(self: Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) {
        let queue = Arc::clone(&self.work);
        let sent = queue.send(Box::new(move || work(&self)));
        if sent.is_err() {
            log::error!("a request was sent to a store that is closed");
        }
    }

    fn read(self: &Arc<Shared>, request: Request, known: &Known) {
        let Request { name, offset_bytes, buf, done } = request;
        let wanted = buf.len();
        if let Err(error) = check_end("read", &name, offset_bytes, wanted as u64, known.bytes) {
            return Arc::clone(self).later(move |_| run(done, Err(error)));
        }
        let shared = Arc::clone(self);
        let kept = buf.clone();
        let told = move |pool, answer: Answer<usize>| {
            shared.later(move |shared| {
                let result = match answer {
                    Ok(bytes) if bytes == wanted => Ok(()),
                    Ok(_) => Err(Error::corrupt(&name, "it is shorter than it was made")),
                    // Another object may have its name by now.
                    Err(Errno(libc::ENOENT)) => shared.read_anew(&name, offset_bytes, &kept),
                    Err(errno) => Err(not_read(errno).on(&name).at(offset_bytes)),
                };
                run(done, result);
                drop(pool);
            });
        };
        self.inner.pool.submit_read(&known.object, offset_bytes, buf, Box::new(told));
    }

    /// On a thread that may wait.
    fn read_anew(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
        let mut data = vec![0; buf.len()];
        let bytes = self.inner.read_at(name, offset_bytes, &mut data)?;
        if bytes < data.len() {
            let error = Error::new(ErrorKind::Invalid, "read").on(name).at(offset_bytes);
            return Err(error.because("it ends before"));
        }
        buf.copy_from(0, &data);
        Ok(())
    }

    fn write(self: &Arc<Shared>, request: Request, known: &Known) {
        let Request { name, offset_bytes, buf, done } = request;
        if let Err(error) = check_end("write", &name, offset_bytes, buf.len() as u64, known.bytes) {
            return Arc::clone(self).later(move |_| run(done, Err(error)));
        }
        let op = self.inner.pool.op().assert_exists().write_from(offset_bytes, &buf);
        let shared = Arc::clone(self);
        let told = move |pool, answer: Answer<usize>| {
            shared.later(move |_| {
                let failed = |errno| failed("write", errno).on(&name).at(offset_bytes);
                run(done, answer.map(drop).map_err(failed));
                drop((pool, buf));
            });
        };
        self.inner.pool.submit_write(&known.object, &op, Box::new(told));
    }
}

struct Request {
    name: ObjectName,
    offset_bytes: u64,
    buf: IoBuf,
    done: Done,
}

impl DataPath for RadosData {
    fn alignment_bytes(&self) -> usize {
        1
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let request = Request { name: name.clone(), offset_bytes, buf, done };
        match self.0.inner.readable(name) {
            Some(known) => self.0.read(request, &known),
            None => Arc::clone(&self.0).later(move |shared| {
                let Request { name, offset_bytes, buf, done } = request;
                run(done, shared.read_anew(&name, offset_bytes, &buf));
            }),
        }
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let request = Request { name: name.clone(), offset_bytes, buf, done };
        match self.0.inner.known(name) {
            Some(known) => self.0.write(request, &known),
            None => Arc::clone(&self.0).later(move |shared| {
                let Request { name, offset_bytes, buf, done } = request;
                let mut data = vec![0; buf.len()];
                buf.copy_to(0, &mut data);
                run(done, shared.inner.write_at(&name, offset_bytes, &data));
            }),
        }
    }

    /// A cluster is never asked without waiting.
    fn try_read(&self, _name: &ObjectName, _offset_bytes: u64, _buf: &IoBuf) -> Option<Result<()>> {
        None
    }
}
