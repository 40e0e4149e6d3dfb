//! Guest data of `gluster`: requests are handed to GlusterFS's library and
//! answered by it, so that many are in flight without a thread for each.
//!
//! The library may answer on the thread that submits, and one that it answers
//! on must not call it. So an answer is only passed on to threads of our own,
//! which may do anything: tell the caller, ask once more, close a file.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::dir::{io_error, Dir};
use super::dir_files::{OpenFile, OpenFiles};
use super::gluster::not_read;
use super::gluster_files::file;
use super::memory::beyond_end;
use super::{Backend, DataPath, Done};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::gfapi::File;
use crate::sys::iobuf::IoBuf;
use crate::thread::{self, Handoff};

/// Answers, and what has to wait for the bricks first.
const THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// The data path of one store.
pub(super) struct GlusterData(Arc<Shared>);

struct Shared {
    dir: Dir,
    open: Arc<OpenFiles>,
    work: Arc<Handoff<Work>>,
}

impl fmt::Debug for GlusterData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GlusterData")
    }
}

/// Requests keep it, so that the threads end after the last answer.
impl Drop for Shared {
    fn drop(&mut self) {
        self.work.close();
    }
}

impl GlusterData {
    /// `None` if there are no threads to be had.
    pub(super) fn start(dir: &Dir) -> Option<Arc<GlusterData>> {
        let work: Arc<Handoff<Work>> = Arc::default();
        let open = Arc::clone(dir.open_files());
        let shared = Arc::new(Shared { dir: dir.clone(), open, work: Arc::clone(&work) });
        for _ in 0..THREADS {
            let work = Arc::clone(&work);
            thread::spawn("arch-gluster", move || work.serve(|work| work(), drop)).ok()?;
        }
        Some(Arc::new(GlusterData(shared)))
    }
}

/// A caller's fault must not end a thread that answers others.
fn run(done: Done, result: Result<()>) {
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result)));
    if called.is_err() {
        log::error!("a completion of the data path has panicked");
    }
}

struct Request {
    name: ObjectName,
    offset_bytes: u64,
    buf: IoBuf,
    done: Done,
}

fn is_within(open: &OpenFile, offset_bytes: u64, bytes: usize) -> bool {
    offset_bytes.checked_add(bytes as u64).is_some_and(|end| end <= open.bytes)
}

/// The server has no such file any more: it has another one of that name,
/// perhaps.
fn is_stale(answer: &io::Result<usize>) -> bool {
    answer.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
}

impl Shared {
    /// Does it on another thread, which keeps this until then.
    fn later(self: Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) {
        let queue = Arc::clone(&self.work);
        let sent = queue.send(Box::new(move || work(&self)));
        if sent.is_err() {
            log::error!("a request was sent to a store that is closed");
        }
    }

    fn read(self: &Arc<Shared>, request: Request, open: Arc<OpenFile>, handle: &Arc<File>) {
        let Request { name, offset_bytes, buf, done } = request;
        let wanted = buf.len();
        let shared = Arc::clone(self);
        let kept = buf.clone();
        let told = move |file: Arc<File>, answer: io::Result<usize>| {
            shared.later(move |shared| {
                let result = match answer {
                    Ok(bytes) if bytes == wanted => Ok(()),
                    Ok(_) => shared.read_anew(&name, offset_bytes, &kept),
                    Err(_) if is_stale(&answer) => {
                        shared.open.forget_stale(&name, &open);
                        shared.read_anew(&name, offset_bytes, &kept)
                    }
                    Err(source) => Err(not_read(io_error("read", &name, source)).at(offset_bytes)),
                };
                run(done, result);
                drop((file, open));
            });
        };
        handle.submit_read(offset_bytes, buf, Box::new(told));
    }

    /// On a thread that may wait.
    fn read_anew(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
        let mut data = vec![0; buf.len()];
        let bytes = self.dir.read_at(name, offset_bytes, &mut data).map_err(not_read)?;
        if bytes < data.len() {
            let error = Error::new(ErrorKind::Invalid, "read").on(name).at(offset_bytes);
            return Err(error.because("it ends before"));
        }
        buf.copy_from(0, &data);
        Ok(())
    }

    fn write(self: &Arc<Shared>, request: Request, open: Arc<OpenFile>, handle: &Arc<File>) {
        let Request { name, offset_bytes, buf, done } = request;
        let wanted = buf.len();
        let shared = Arc::clone(self);
        let kept = buf.clone();
        let told = move |file: Arc<File>, answer: io::Result<usize>| {
            shared.later(move |shared| {
                let result = if is_stale(&answer) {
                    shared.open.forget_stale(&name, &open);
                    shared.write_anew(&name, offset_bytes, &kept)
                } else {
                    let failure = answer.as_ref().err().and_then(io::Error::raw_os_error);
                    open.wrote(failure.map(ErrorKind::from_errno));
                    match answer {
                        Ok(bytes) if bytes == wanted => Ok(()),
                        Ok(_) => shared.write_anew(&name, offset_bytes, &kept),
                        Err(source) => Err(io_error("write", &name, source).at(offset_bytes)),
                    }
                };
                run(done, result);
                drop((file, open));
            });
        };
        handle.submit_write(offset_bytes, buf, Box::new(told));
    }

    /// On a thread that may wait.
    fn write_anew(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
        let mut data = vec![0; buf.len()];
        buf.copy_to(0, &mut data);
        self.dir.write_at(name, offset_bytes, &data)
    }
}

impl DataPath for GlusterData {
    fn alignment_bytes(&self) -> usize {
        1
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let request = Request { name: name.clone(), offset_bytes, buf, done };
        if let Some(open) = self.0.open.cached(name) {
            let is_within = is_within(&open, offset_bytes, request.buf.len());
            if let (Ok(handle), true) = (file(&open.handle), is_within) {
                let handle = Arc::clone(handle);
                return self.0.read(request, open, &handle);
            }
        }
        Arc::clone(&self.0).later(move |shared| {
            let Request { name, offset_bytes, buf, done } = request;
            run(done, shared.read_anew(&name, offset_bytes, &buf));
        });
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        let request = Request { name: name.clone(), offset_bytes, buf, done };
        if let Some(open) = self.0.open.cached(name) {
            if !is_within(&open, offset_bytes, request.buf.len()) {
                let Request { name, buf, done, .. } = request;
                let error = beyond_end("write", &name, offset_bytes, buf.len() as u64, open.bytes);
                return Arc::clone(&self.0).later(move |_| run(done, Err(error)));
            }
            if let Ok(handle) = file(&open.handle) {
                let handle = Arc::clone(handle);
                return self.0.write(request, open, &handle);
            }
        }
        Arc::clone(&self.0).later(move |shared| {
            let Request { name, offset_bytes, buf, done } = request;
            run(done, shared.write_anew(&name, offset_bytes, &buf));
        });
    }

    /// Bricks are never asked without waiting.
    fn try_read(&self, _name: &ObjectName, _offset_bytes: u64, _buf: &IoBuf) -> Option<Result<()>> {
        None
    }
}
