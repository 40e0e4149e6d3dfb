//! The side that answers: one thread that listens for the whole process, and
//! a few more while somebody asks. It never forks, executes or sets priorities:
//! QEMU's sandbox would end the process.
//!
//! Who may ask is looked at before anything is read: root, the user of this
//! process, and members of the group of a store of which a volume is held. A
//! few may ask at a time, and each has a time for its words; nobody can make
//! the process wait, or take memory, beyond that.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::sockopt;
use rustix::process::geteuid;

use super::answer;
use super::desk::Desk;
use super::jobs::Kinds;
use super::place::Place;
use super::words::{decode, read_frame, write_frame, Broken, Hello, Reply, Request, GREETING, VERSION};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, JoinHandle, Mutex};
use crate::thread;

/// Who may ask at the same time.
const ASKERS_MAX: usize = 8;
/// From one request's end to the next one's: who says nothing is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the words of an answer to be taken.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// After a failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);
/// Refusals are told no more often.
const REFUSALS_EVERY: Duration = Duration::from_secs(10);

/// The socket of this process. The last one that has it ends it.
#[derive(Debug)]
pub struct Server {
    inner: Arc<Inner>,
    path: String,
    /// Hung up to end the thread.
    wake: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    desk: Desk,
    kinds: Kinds,
    askers: Mutex<Askers>,
    /// Signalled when one has left.
    left: Condvar,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("desk", &self.desk).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Askers {
    /// To hang up on, by number.
    streams: Vec<(u64, UnixStream)>,
    last_number: u64,
    refusal_told: Option<Instant>,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Asker {
    uid: u32,
    pid: i32,
    groups: Vec<u32>,
}

impl Asker {
    fn of(stream: &UnixStream) -> Result<Asker> {
        let failed = |error: std::io::Error| Error::from_io("find out who asks", error);
        let who = sockopt::socket_peercred(stream).map_err(|errno| failed(errno.into()))?;
        let mut groups = crate::sys::asker::groups(stream.as_fd()).map_err(failed)?;
        groups.push(who.gid.as_raw());
        Ok(Asker { uid: who.uid.as_raw(), pid: who.pid.as_raw_nonzero().get(), groups })
    }

    /// Error: `Denied`.
    pub fn check(&self, groups: &[u32]) -> Result<()> {
        let own = geteuid().as_raw();
        let is_member = self.groups.iter().any(|group| groups.contains(group));
        if self.uid == 0 || self.uid == own || is_member {
            return Ok(());
        }
        let members = match groups {
            [] => String::new(),
            _ => format!(" and members of the store's group ({})", list(groups)),
        };
        Err(Error::sentence(
            ErrorKind::Denied,
            format!("user {} may not ask this process: root, user {own}{members} may", self.uid),
        ))
    }
}

fn list(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

fn here() -> &'static Mutex<Weak<Server>> {
    static HERE: OnceLock<Mutex<Weak<Server>>> = OnceLock::new();
    HERE.get_or_init(Mutex::default)
}

impl Server {
    /// The one of this process, which is started if there is none. Error: why
    /// there cannot be one.
    pub fn of_this_process(kinds: impl FnOnce() -> Kinds) -> Result<Arc<Server>> {
        let mut here = here().lock();
        if let Some(server) = here.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Server::start(Place::make()?, kinds())?);
        *here = Arc::downgrade(&server);
        Ok(server)
    }

    pub fn start(place: Place, kinds: Kinds) -> Result<Server> {
        let failed = |error: std::io::Error| Error::from_io("make a control socket", error);
        let (desk, askers) = (Desk::default(), Mutex::default());
        let inner = Arc::new(Inner { desk, kinds, askers, left: Condvar::default() });
        let path = place.path.display().to_string();
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let shared = Arc::clone(&inner);
        let thread = thread::spawn("arch-control", move || listen(&shared, &place, &woken))?;
        Ok(Server { inner, path, wake, thread: Mutex::new(Some(thread)) })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn desk(&self) -> &Desk {
        &self.inner.desk
    }
}

impl Drop for Server {
    /// Who is just being told an answer gets it; nobody else is heard.
    fn drop(&mut self) {
        drop(self.wake.shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.lock().take() {
            thread::join(thread);
        }
        let mut askers = self.inner.askers.lock();
        for (_, stream) in &askers.streams {
            drop(stream.shutdown(Shutdown::Read));
        }
        while !askers.streams.is_empty() {
            self.inner.left.wait(&mut askers);
        }
    }
}

/// The listening thread, until `woken` is hung up on. The socket's file goes
/// with `place`.
fn listen(inner: &Arc<Inner>, place: &Place, woken: &UnixStream) {
    loop {
        let mut watched =
            [PollFd::new(&place.listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        match poll(&mut watched, None::<&Timespec>) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                ::log::warn!("the control socket {} ends: {errno}", place.path.display());
                return;
            }
        }
        if !watched[1].revents().is_empty() {
            return;
        }
        match place.listener.accept() {
            Ok((stream, _)) => inner.meet(stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                ::log::debug!("nobody can be heard on the control socket now: {error}");
                clock::sleep(PAUSE);
            }
        }
    }
}

impl Inner {
    /// Hears somebody out on a thread of their own, or says why not.
    fn meet(self: &Arc<Self>, stream: UnixStream) {
        let met = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)))
            .map_err(|error| Error::from_io("hear somebody on the control socket", error))
            .and_then(|()| self.admit(&stream));
        let (asker, number) = match met {
            Ok(met) => met,
            // Fits the socket's buffer: nobody is waited for.
            Err(error) => return drop(write_frame(&mut &stream, &Reply::failed(&error))),
        };
        let inner = Arc::clone(self);
        let heard = thread::spawn("arch-asked", move || {
            inner.hear(&stream, &asker);
            drop(stream);
            inner.forget(number);
        });
        if let Err(error) = heard {
            ::log::debug!("no thread for who asks: {}", error.full());
            self.forget(number);
        }
    }

    fn admit(&self, stream: &UnixStream) -> Result<(Asker, u64)> {
        let asker = Asker::of(stream)?;
        asker.check(&self.desk.groups()).map_err(|error| self.note_refusal(&asker, error))?;
        let mut askers = self.askers.lock();
        if askers.streams.len() >= ASKERS_MAX {
            let words = format!("{ASKERS_MAX} are asking this process already: try again in a moment");
            return Err(Error::sentence(ErrorKind::Unavailable, words));
        }
        let copy = stream.try_clone().map_err(|error| Error::from_io("keep a control socket", error))?;
        askers.last_number += 1;
        let number = askers.last_number;
        askers.streams.push((number, copy));
        Ok((asker, number))
    }

    /// Tells the log who was refused, but not of every one.
    fn note_refusal(&self, asker: &Asker, error: Error) -> Error {
        let now = clock::now();
        let mut askers = self.askers.lock();
        let is_due = askers.refusal_told.is_none_or(|told| now - told > REFUSALS_EVERY);
        if is_due {
            askers.refusal_told = Some(now);
            ::log::warn!("control socket: process {} was refused: {}", asker.pid, error.full());
        }
        error
    }

    fn forget(&self, number: u64) {
        self.askers.lock().streams.retain(|(other, _)| *other != number);
        self.left.notify_all();
    }

    /// Until they hang up, take too long, or say what nobody understands.
    fn hear(&self, stream: &UnixStream, asker: &Asker) {
        if let Err(error) = self.greet(stream) {
            return self.hang_up(stream, &error);
        }
        loop {
            let request = match hear_frame(stream) {
                Ok(json) => decode::<Request>(&json),
                Err(Broken::HungUp) => return,
                Err(broken) => Err(broken.into_error()),
            };
            let request = match request {
                Ok(request) => request,
                Err(error) => return self.hang_up(stream, &error),
            };
            let reply = self.reply(&request, asker);
            if let Err(error) = write_frame(&mut &*stream, &reply) {
                ::log::debug!("an answer was not taken: {}", error.full());
                return;
            }
        }
    }

    fn greet(&self, mut stream: &UnixStream) -> Result<()> {
        let hello: Hello = decode(&hear_frame(stream).map_err(Broken::into_error)?)?;
        if hello.greeting != GREETING || hello.version == 0 {
            return Err(Error::sentence(ErrorKind::Invalid, "this is a control socket of Archipelago"));
        }
        // Who speaks a higher one decides whether this one will do.
        let version = VERSION.min(hello.version);
        write_frame(&mut stream, &Reply::Hello(Hello { version, ..Hello::new() }))
    }

    fn hang_up(&self, mut stream: &UnixStream, error: &Error) {
        ::log::debug!("control socket: {}", error.full());
        drop(write_frame(&mut stream, &Reply::failed(error)));
    }

    fn reply(&self, request: &Request, asker: &Asker) -> Reply {
        let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let asking = self.desk.ask(request.store, request.volume)?;
            asker
                .check(asking.group.as_slice())
                .map_err(|error| self.note_refusal(asker, error))?;
            answer::answer(&asking, &self.kinds, &request.what)
        }));
        let answered = answered.unwrap_or_else(|_| {
            Err(Error::sentence(ErrorKind::Internal, "a fault in libarchipelago: see standard error there"))
        });
        answered.unwrap_or_else(|error| Reply::failed(&error))
    }
}

/// A stream that is read until a time.
struct Until<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl std::io::Read for Until<'_> {
    fn read(&mut self, data: &mut [u8]) -> std::io::Result<usize> {
        let left = self.end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(data)
    }
}

fn hear_frame(stream: &UnixStream) -> std::result::Result<Vec<u8>, Broken> {
    read_frame(&mut Until { stream, end: clock::now() + PATIENCE })
}
