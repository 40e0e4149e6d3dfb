//! Guest data of `dir` on io_uring.
//!
//! * A request for an open file past the page cache, and any read, goes to the
//!   ring on the submitting thread.
//! * A write into the page cache would block there or be moved to a thread of
//!   the kernel at several times the cost, so helpers do it with an ordinary
//!   call. They also open files, and run the `done` of what fails at once: it
//!   may not run on the submitting thread.
//!
//! A write marks its object before its `done` runs, so that a sync that begins
//! after that covers it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::dir::io_error;
use super::dir_files::{Access, OpenFile, OpenFiles};
use super::memory::beyond_end;
use super::{DataPath, Done};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::file;
use crate::sys::iobuf::IoBuf;
use crate::sys::uring::{Operation, Ring};
use crate::thread;

/// Enough to keep a few writes into the page cache going side by side.
const HELPERS: usize = 4;

/// Times that a request is handed over again after the kernel has given it
/// back undone.
const TRIES: u32 = 1000;

struct Request {
    name: ObjectName,
    write: bool,
    offset_bytes: u64,
    buf: IoBuf,
    tries: u32,
    done: Done,
    /// Keeps the ring's thread going.
    alive: Arc<Alive>,
}

impl Request {
    fn answer(self, result: Result<()>) {
        answer(self.done, result);
        drop(self.alive);
    }
}

/// A caller's fault must not end the thread that answers everybody.
fn answer(done: Done, result: Result<()>) {
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(result)));
    if called.is_err() {
        log::error!("a completion of the data path has panicked");
    }
}

enum Work {
    /// Open the file and submit, or do it here.
    Request(Request),
    /// The ring had no room, or the file has become stale, or the request is
    /// a write into the page cache.
    Here(Request, Arc<OpenFile>),
    Fail(Request, Error),
}

struct Shared {
    open: Arc<OpenFiles>,
    ring: Ring,
    helpers: Sender<Work>,
    alignment: usize,
    /// `try_read` is of use.
    can_try: AtomicBool,
}

/// Ends the threads when the data path and every request are gone.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.ring.stop();
    }
}

/// The data path of one store.
pub struct DirData(Arc<Alive>);

impl DirData {
    /// `None` where there is no io_uring. `alignment` 1 means that data goes
    /// through the page cache.
    pub fn start(open: Arc<OpenFiles>, alignment: usize) -> Option<Arc<dyn DataPath>> {
        let ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => {
                log::info!("io_uring is not available ({error}); worker threads do the work");
                return None;
            }
        };
        let (helpers, work) = crossbeam_channel::unbounded();
        let can_try = AtomicBool::new(alignment == 1);
        let shared = Arc::new(Shared { open, ring, helpers, alignment, can_try });
        let data = DirData(Arc::new(Alive(Arc::clone(&shared))));
        for _ in 0..HELPERS {
            let (work, shared) = (work.clone(), Arc::downgrade(&shared));
            thread::spawn("arch-dir-help", move || help(&work, &shared)).ok()?;
        }
        thread::spawn("arch-dir-ring", move || shared.ring.run()).ok()?;
        Some(Arc::new(data))
    }

    fn submit(&self, name: &ObjectName, write: bool, offset_bytes: u64, buf: IoBuf, done: Done) {
        let (name, alive) = (name.clone(), Arc::clone(&self.0));
        let request = Request { name, write, offset_bytes, buf, tries: 0, done, alive };
        let shared = &self.0.0;
        match shared.open.cached(&request.name) {
            Some(file) => shared.start(request, file),
            None => shared.help(Work::Request(request)),
        }
    }
}

/// Runs until the data path and all that is in flight is gone: only they hold
/// what keeps the channel open.
fn help(work: &Receiver<Work>, shared: &std::sync::Weak<Shared>) {
    while let Ok(work) = work.recv() {
        match (work, shared.upgrade()) {
            (Work::Fail(request, error), _) => request.answer(Err(error)),
            (Work::Request(request), Some(shared)) => {
                let access = if request.write { Access::Write } else { Access::Read };
                match shared.open.get(verb(request.write), &request.name, access) {
                    Ok(file) => shared.start(request, file),
                    Err(error) => request.answer(Err(error)),
                }
            }
            (Work::Here(request, file), Some(shared)) => shared.transfer(request, file),
            (Work::Request(request) | Work::Here(request, _), None) => {
                let error = Error::new(ErrorKind::Unavailable, verb(request.write));
                let error = error.on(&request.name).because("the store is closed");
                request.answer(Err(error));
            }
        }
    }
}

fn verb(write: bool) -> &'static str {
    if write { "write" } else { "read" }
}

fn fd(file: &OpenFile) -> io::Result<&Arc<OwnedFd>> {
    file.handle.shared_fd().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

impl Shared {
    fn help(&self, work: Work) {
        if let Err(refused) = self.helpers.send(work) {
            // Cannot be: the helpers live as long as we do. Were it so, an
            // answer on this thread would still be better than none.
            match refused.into_inner() {
                Work::Fail(request, error) => request.answer(Err(error)),
                Work::Request(request) | Work::Here(request, _) => {
                    let error = Error::new(ErrorKind::Internal, verb(request.write));
                    request.answer(Err(error));
                }
            }
        }
    }

    /// Checks a request and sends it the right way.
    fn start(self: &Arc<Shared>, request: Request, file: Arc<OpenFile>) {
        let bytes = request.buf.len() as u64;
        if request.offset_bytes.checked_add(bytes).is_none_or(|end| end > file.bytes) {
            let (name, offset_bytes) = (&request.name, request.offset_bytes);
            let error = beyond_end(verb(request.write), name, offset_bytes, bytes, file.bytes);
            return self.help(Work::Fail(request, error));
        }
        if file.alignment == 1 {
            if request.write {
                return self.help(Work::Here(request, file));
            }
            return self.hand_over(request, file);
        }
        let alignment = file.alignment;
        if request.offset_bytes % alignment as u64 != 0 || !request.buf.is_aligned(alignment) {
            let error = Error::new(ErrorKind::Invalid, verb(request.write))
                .on(&request.name)
                .at(request.offset_bytes)
                .because(format!("offset, length and memory must be multiples of {alignment}"));
            return self.help(Work::Fail(request, error));
        }
        if !request.write {
            return self.hand_over(request, file);
        }
        let mut request = Some(request);
        let let_in = file.gate.enter_or_defer(|| {
            let (shared, file, request) = (Arc::clone(self), Arc::clone(&file), request.take());
            Box::new(move || {
                if let Some(request) = request {
                    shared.hand_over(request, file);
                }
            })
        });
        if let (true, Some(request)) = (let_in, request) {
            self.hand_over(request, file);
        }
    }

    /// To the kernel. A direct write has been let in by the gate.
    fn hand_over(self: &Arc<Shared>, request: Request, file: Arc<OpenFile>) {
        let Ok(fd) = fd(&file).cloned() else {
            return self.help(Work::Here(request, file));
        };
        let (write, offset_bytes, buf) = (request.write, request.offset_bytes, request.buf.clone());
        // The operation comes back with the request in it if it is refused.
        let slot = Arc::new(parking_lot::Mutex::new(Some((request, file))));
        let (shared, taken) = (Arc::clone(self), Arc::clone(&slot));
        let complete = Box::new(move |result| {
            let held = taken.lock().take();
            if let Some((request, file)) = held {
                shared.complete(request, file, result);
            }
        });
        if self.ring.submit(Operation { write, file: fd, offset_bytes, buf, complete }).is_err() {
            let held = slot.lock().take();
            if let Some((request, file)) = held {
                self.help(Work::Here(request, file));
            }
        }
    }

    /// On the ring's thread.
    fn complete(self: &Arc<Shared>, mut request: Request, file: Arc<OpenFile>, result: io::Result<usize>) {
        let error = match result {
            Ok(bytes) if bytes == request.buf.len() => return self.finish(request, &file, Ok(())),
            Ok(0) => return self.finish(request, &file, Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => {
                request.offset_bytes += bytes as u64;
                request.buf = request.buf.slice(bytes, request.buf.len() - bytes);
                return self.hand_over(request, file);
            }
            Err(error) => error,
        };
        request.tries += 1;
        match error.raw_os_error() {
            // Given back undone: the thread that submitted it has ended.
            Some(libc::EINTR | libc::ECANCELED) if request.tries < TRIES => self.hand_over(request, file),
            // What an ordinary call can wait for, or what has to be opened
            // again, or does not work through the ring.
            Some(libc::EAGAIN | libc::ESTALE | libc::EOPNOTSUPP) => self.help(Work::Here(request, file)),
            _ => self.finish(request, &file, Err(error)),
        }
    }

    /// With ordinary calls, on a helper.
    fn transfer(&self, mut request: Request, file: Arc<OpenFile>) {
        let mut file = file;
        let result = loop {
            let moved = fd(&file).and_then(|fd| {
                file::transfer(fd.as_fd(), request.write, request.offset_bytes, &request.buf)
            });
            match moved {
                Ok(bytes) if bytes == request.buf.len() => break Ok(()),
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    request.offset_bytes += bytes as u64;
                    request.buf = request.buf.slice(bytes, request.buf.len() - bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) && request.tries < TRIES => {
                    request.tries = TRIES;
                    match self.open_again(&request, &file) {
                        Ok(opened) => file = opened,
                        Err(error) => return self.finish_with(request, &file, Err(error)),
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.finish(request, &file, result);
    }

    fn open_again(&self, request: &Request, stale: &Arc<OpenFile>) -> Result<Arc<OpenFile>> {
        self.open.forget_stale(&request.name, stale);
        let access = if request.write { Access::Write } else { Access::Read };
        let opened = self.open.get(verb(request.write), &request.name, access)?;
        if request.write && stale.alignment > 1 {
            opened.gate.enter();
            stale.gate.leave();
        }
        Ok(opened)
    }

    fn finish(&self, request: Request, file: &OpenFile, result: io::Result<()>) {
        let result = result.map_err(|e| io_error(verb(request.write), &request.name, e));
        self.finish_with(request, file, result);
    }

    fn finish_with(&self, request: Request, file: &OpenFile, result: Result<()>) {
        if request.write {
            file.mark.wrote();
            if file.alignment > 1 {
                file.gate.leave();
            }
        }
        let result = result.map_err(|error| error.at(request.offset_bytes));
        request.answer(result);
    }
}

impl DataPath for DirData {
    fn alignment_bytes(&self) -> usize {
        self.0.0.alignment
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        self.submit(name, false, offset_bytes, buf, done);
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        self.submit(name, true, offset_bytes, buf, done);
    }

    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        let shared = &self.0.0;
        if !shared.can_try.load(Ordering::Relaxed) {
            return None;
        }
        let opened = shared.open.cached(name)?;
        if opened.alignment > 1 {
            return None;
        }
        match file::read_cached(fd(&opened).ok()?.as_fd(), offset_bytes, buf) {
            // A part may be all that is in memory.
            Ok(bytes) => (bytes == buf.len()).then_some(Ok(())),
            Err(error) => {
                let unsupported = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL];
                if error.raw_os_error().is_some_and(|errno| unsupported.contains(&errno)) {
                    shared.can_try.store(false, Ordering::Relaxed);
                }
                None
            }
        }
    }
}

impl fmt::Debug for DirData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirData").field("ring", &self.0.0.ring).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dir::{Dir, DirOptions};
    use super::super::Backend;
    use super::*;
    use crate::name::Id;

    /// A write that left no mark would be passed over by the next sync, and
    /// lost in a crash after a flush that said it was safe.
    #[test]
    fn a_write_is_marked_before_it_is_answered() {
        for direct in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let options = DirOptions { direct, ..DirOptions::default() };
            let dir = Dir::create(directory.path(), options).unwrap();
            let Some(path) = dir.data_path() else { return };
            let name = ObjectName::Block { epoch: Id(1), index: 1 };
            dir.create_sparse(&name, 65_536).unwrap();
            dir.sync(std::slice::from_ref(&name)).unwrap();
            let unsynced = |dir: &Dir| dir.open_files().mark(&name).to_sync().unwrap().is_some();
            assert!(!unsynced(&dir));
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let (seen, name_seen) = (dir.clone(), name.clone());
            let done = Box::new(move |result: Result<()>| {
                result.unwrap();
                let mark = seen.open_files().mark(&name_seen);
                sender.send(mark.to_sync().unwrap().is_some()).unwrap();
            });
            path.submit_write(&name, 4096, IoBuf::alloc(4096), done);
            assert!(receiver.recv().unwrap(), "direct: {direct}");
            dir.sync(std::slice::from_ref(&name)).unwrap();
            assert!(!unsynced(&dir));
        }
    }
}
