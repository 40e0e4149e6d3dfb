//! Guest data of `dir` on io_uring.
//!
//! * A request for an open file goes to the ring on the submitting thread,
//!   unless a helper can do it with an ordinary call at less cost:
//! * A lone request, because its completion would wake the submitting thread,
//!   that the ring's, and that the submitting one again. A helper that is
//!   awake wakes one thread.
//! * A write, while there is a helper that has nothing to do. Files keep the
//!   time of their last write, so that nearly every write to another file than
//!   the one before would be moved to a thread of the kernel. A write into the
//!   page cache would be anyway, or block.
//! * Helpers also open files, and run the `done` of what fails at once: it may
//!   not run on the submitting thread.
//!
//! A write marks its object before its `done` runs, so that a sync that begins
//! after that covers it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::dir::io_error;
use super::dir_files::{Access, OpenFile, OpenFiles};
use super::memory::beyond_end;
use super::{DataPath, Done, Job, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sys::file;
use crate::sys::iobuf::IoBuf;
use crate::sys::uring::{Operation, Ring};
use crate::thread::{self, Handoff};

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
    /// Somebody else's.
    Job(Job),
}

struct Shared {
    open: Arc<OpenFiles>,
    ring: Ring,
    helpers: Arc<Handoff<Work>>,
    alignment: usize,
    /// `try_read` is of use.
    can_try: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.helpers.close();
    }
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
    pub fn start(open: Arc<OpenFiles>, alignment: usize) -> Option<Arc<DirData>> {
        let ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => {
                log::info!("io_uring is not available ({error}); worker threads do the work");
                return None;
            }
        };
        let work = Arc::new(Handoff::default());
        let can_try = AtomicBool::new(alignment == 1);
        let shared = Shared { open, ring, helpers: Arc::clone(&work), alignment, can_try };
        let shared = Arc::new(shared);
        let data = DirData(Arc::new(Alive(Arc::clone(&shared))));
        for _ in 0..HELPERS {
            let (work, shared) = (Arc::clone(&work), Arc::downgrade(&shared));
            thread::spawn("arch-dir-help", move || help(&work, &shared)).ok()?;
        }
        thread::spawn("arch-dir-ring", move || shared.ring.run()).ok()?;
        Some(Arc::new(data))
    }

    /// A file that the kernel closes only when the ring has nothing in flight,
    /// even after the process was killed.
    pub fn keep_open(&self, file: &OwnedFd) -> io::Result<u32> {
        self.0.0.ring.keep_open(file.as_fd())
    }

    pub fn let_go(&self, slot: u32) {
        self.0.0.ring.let_go(slot);
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

/// What a helper has to tell when it is done.
enum Outcome {
    Nothing,
    Answer(Request, Result<()>),
    Then(Then),
}

/// Runs until the data path and all that is in flight is gone.
fn help(work: &Handoff<Work>, shared: &std::sync::Weak<Shared>) {
    let tell = |outcome| match outcome {
        Outcome::Nothing => {}
        Outcome::Answer(request, result) => request.answer(result),
        Outcome::Then(then) => then(),
    };
    work.serve(|work| work_on(work, shared.upgrade()), tell);
}

fn work_on(work: Work, shared: Option<Arc<Shared>>) -> Outcome {
    match (work, shared) {
        (Work::Job(job), _) => Outcome::Then(job()),
        (Work::Fail(request, error), _) => Outcome::Answer(request, Err(error)),
        (Work::Request(request), Some(shared)) => {
            let access = if request.write { Access::Write } else { Access::Read };
            let file = match shared.open.get(verb(request.write), &request.name, access) {
                Ok(file) => file,
                Err(error) => return Outcome::Answer(request, Err(error)),
            };
            // Here and now: another thread would have to be woken.
            let Some(request) = shared.admit(request, &file) else { return Outcome::Nothing };
            let (request, result) = shared.transfer(request, file);
            Outcome::Answer(request, result)
        }
        (Work::Here(request, file), Some(shared)) => {
            let (request, result) = shared.transfer(request, file);
            Outcome::Answer(request, result)
        }
        (Work::Request(request) | Work::Here(request, _), None) => {
            let error = Error::new(ErrorKind::Unavailable, verb(request.write));
            let error = error.on(&request.name).because("the store is closed");
            Outcome::Answer(request, Err(error))
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
            match refused {
                Work::Job(job) => job()(),
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
        match self.admit(request, &file) {
            // A write into the page cache.
            Some(request) if request.write && file.alignment == 1 => self.help(Work::Here(request, file)),
            Some(request) => self.transfer_or_hand_over(request, file),
            None => {}
        }
    }

    /// Checks a request, and has the gate let a direct write in. `None`: it
    /// was refused, or waits at the gate.
    fn admit(self: &Arc<Shared>, request: Request, file: &Arc<OpenFile>) -> Option<Request> {
        let (bytes, alignment) = (request.buf.len() as u64, file.alignment);
        if request.offset_bytes.checked_add(bytes).is_none_or(|end| end > file.bytes) {
            let (name, offset_bytes) = (&request.name, request.offset_bytes);
            let error = beyond_end(verb(request.write), name, offset_bytes, bytes, file.bytes);
            self.help(Work::Fail(request, error));
            return None;
        }
        if alignment == 1 {
            return Some(request);
        }
        if request.offset_bytes % alignment as u64 != 0 || !request.buf.is_aligned(alignment) {
            let error = Error::new(ErrorKind::Invalid, verb(request.write))
                .on(&request.name)
                .at(request.offset_bytes)
                .because(format!("offset, length and memory must be multiples of {alignment}"));
            self.help(Work::Fail(request, error));
            return None;
        }
        if !request.write {
            return Some(request);
        }
        let mut request = Some(request);
        let let_in = file.gate.enter_or_defer(|| {
            let (shared, file, request) = (Arc::clone(self), Arc::clone(file), request.take());
            Box::new(move || {
                if let Some(request) = request {
                    shared.hand_over(request, file);
                }
            })
        });
        request.filter(|_| let_in)
    }

    /// To a helper where that is the shorter way, else to the kernel. A
    /// direct write has been let in by the gate.
    fn transfer_or_hand_over(self: &Arc<Shared>, request: Request, file: Arc<OpenFile>) {
        let write = request.write;
        let work = Work::Here(request, file);
        let sent = if write {
            self.helpers.send_idle(work)
        } else if self.ring.is_idle() {
            self.helpers.send_alone(work)
        } else {
            self.helpers.send_awake(work)
        };
        match sent {
            Ok(()) => {}
            Err(Work::Here(request, file)) => self.hand_over(request, file),
            Err(other) => self.help(other),
        }
    }

    /// To the kernel. A direct write has been let in by the gate.
    fn hand_over(self: &Arc<Shared>, request: Request, file: Arc<OpenFile>) {
        let Ok(fd) = fd(&file).cloned() else {
            return self.help(Work::Here(request, file));
        };
        let (write, offset_bytes, buf) = (request.write, request.offset_bytes, request.buf.clone());
        // The operation comes back with the request in it if it is refused.
        let slot = Arc::new(Mutex::new(Some((request, file))));
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
    fn transfer(&self, mut request: Request, file: Arc<OpenFile>) -> (Request, Result<()>) {
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
                        Err(error) => return self.end(request, &file, Err(error)),
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let result = result.map_err(|e| io_error(verb(request.write), &request.name, e));
        self.end(request, &file, result)
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
        let (request, result) = self.end(request, file, result);
        request.answer(result);
    }

    /// All there is to do before the answer.
    fn end(&self, request: Request, file: &OpenFile, result: Result<()>) -> (Request, Result<()>) {
        if request.write {
            file.wrote(result.as_ref().err().map(Error::kind));
            if file.alignment > 1 {
                file.gate.leave();
            }
        }
        let result = result.map_err(|error| error.at(request.offset_bytes));
        (request, result)
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

    fn run_awake(&self, job: Job) -> std::result::Result<(), Job> {
        match self.0.0.helpers.send_awake(Work::Job(job)) {
            Err(Work::Job(job)) => Err(job),
            _ => Ok(()),
        }
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
