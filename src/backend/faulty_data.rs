//! The data path of `faulty`: the same faults, told where a data path tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::faulty::{half, Fault, Faulty, Method};
use super::{Backend, DataPath, Done, Job};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::iobuf::IoBuf;
use crate::thread;

/// What `Threads` wants of requests: as a disk does.
const ALIGNMENT_BYTES: usize = 512;

/// Fails what its `Faulty` is told to.
pub(super) struct FaultyData {
    /// Without a data path: that would be this one.
    faulty: Faulty,
    inner: Arc<dyn DataPath>,
}

impl FaultyData {
    pub fn over(faulty: &Faulty) -> Arc<dyn DataPath> {
        let backend = Arc::clone(&faulty.inner);
        let inner = backend.data_path().unwrap_or_else(|| Arc::new(Threads { backend }));
        Arc::new(FaultyData { faulty: faulty.clone(), inner })
    }

    fn error(&self, method: Method, name: &ObjectName, fault: &Fault) -> Error {
        self.faulty.looked(method, &[name], fault)
    }
}

impl DataPath for FaultyData {
    fn alignment_bytes(&self) -> usize {
        self.inner.alignment_bytes()
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        match self.faulty.strike(Method::Read, buf.len(), &[name]) {
            None | Some(Fault::FlipBit(_) | Fault::Twice) => {}
            Some(Fault::Delay(time)) => {
                let (inner, name) = (Arc::clone(&self.inner), name.clone());
                return after(time, move || inner.submit_read(&name, offset_bytes, buf, done));
            }
            // Never short: what cannot be read is an error.
            Some(Fault::Truncate(_)) => {
                let error = Error::corrupt(name, "injected: it is short");
                return after(Duration::ZERO, move || done(Err(error)));
            }
            Some(fault) => {
                let error = self.error(Method::Read, name, &fault);
                return after(Duration::ZERO, move || done(Err(error)));
            }
        }
        self.inner.submit_read(name, offset_bytes, buf, done);
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let Some(fault) = self.faulty.strike(Method::Write, buf.len(), &[name]) else {
            return self.inner.submit_write(name, offset_bytes, buf, done);
        };
        let error = self.error(Method::Write, name, &fault);
        let (inner, object) = (Arc::clone(&self.inner), name.clone());
        match fault {
            Fault::FailAfterApplying | Fault::FailApplied(_) => {
                let done = Box::new(move |result: Result<()>| done(result.and(Err(error))));
                self.inner.submit_write(name, offset_bytes, buf, done);
            }
            Fault::Short(_) if half(buf.len()) / self.alignment_bytes() > 0 => {
                let bytes = half(buf.len()) / self.alignment_bytes() * self.alignment_bytes();
                let done = Box::new(move |result: Result<()>| done(result.and(Err(error))));
                self.inner.submit_write(name, offset_bytes, buf.slice(0, bytes), done);
            }
            Fault::Twice => {
                let (path, again) = (Arc::clone(&inner), buf.clone());
                let done = Box::new(move |result: Result<()>| match result {
                    Ok(()) => path.submit_write(&object, offset_bytes, again, done),
                    failed => done(failed),
                });
                self.inner.submit_write(name, offset_bytes, buf, done);
            }
            Fault::ApplyLate => {
                let mut data = vec![0; buf.len()];
                buf.copy_to(0, &mut data);
                self.faulty.postpone(Box::new(move |inner| inner.write_at(&object, offset_bytes, &data)));
                after(Duration::ZERO, move || done(Err(error)));
            }
            Fault::Delay(time) => {
                after(time, move || inner.submit_write(&object, offset_bytes, buf, done));
            }
            Fault::Fail(_) | Fault::Short(_) => after(Duration::ZERO, move || done(Err(error))),
            Fault::Truncate(_) | Fault::FlipBit(_) => {
                self.inner.submit_write(name, offset_bytes, buf, done);
            }
        }
    }

    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        match self.faulty.strike(Method::Read, buf.len(), &[name]) {
            None | Some(Fault::FlipBit(_) | Fault::Twice) => self.inner.try_read(name, offset_bytes, buf),
            // It would have to wait.
            Some(Fault::Delay(_)) => None,
            Some(fault) => Some(Err(self.error(Method::Read, name, &fault))),
        }
    }

    fn run_awake(&self, job: Job) -> std::result::Result<(), Job> {
        self.inner.run_awake(job)
    }
}

impl fmt::Debug for FaultyData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyData({:?})", self.inner)
    }
}

/// On a thread of its own: never on the one that submits.
fn after(time: Duration, job: impl FnOnce() + Send + 'static) {
    let started = thread::spawn("faulty", move || {
        std::thread::sleep(time);
        job();
    });
    drop(started);
}

/// A data path for any backend: a thread for each request.
#[derive(Debug)]
struct Threads {
    backend: Arc<dyn Backend>,
}

impl DataPath for Threads {
    fn alignment_bytes(&self) -> usize {
        ALIGNMENT_BYTES
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let (backend, name) = (Arc::clone(&self.backend), name.clone());
        after(Duration::ZERO, move || done(read(backend.as_ref(), &name, offset_bytes, &buf)));
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let (backend, name) = (Arc::clone(&self.backend), name.clone());
        after(Duration::ZERO, move || {
            let mut data = vec![0; buf.len()];
            buf.copy_to(0, &mut data);
            done(backend.write_at(&name, offset_bytes, &data));
        });
    }

    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        Some(read(self.backend.as_ref(), name, offset_bytes, buf))
    }
}

fn read(backend: &dyn Backend, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
    let mut data = vec![0; buf.len()];
    let read_bytes = backend.read_at(name, offset_bytes, &mut data)?;
    if read_bytes != data.len() {
        return Err(Error::new(ErrorKind::Corrupt, "read").on(name).because("it is short"));
    }
    buf.copy_from(0, &data);
    Ok(())
}
