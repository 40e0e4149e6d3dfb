//! The side that asks: from a volume's lease to the process that holds it.
//!
//! The path in a lease is only where to look. Asked is nobody but the process
//! that the lease names: of this boot of this kernel, in this pid namespace,
//! with that number and that start time, as the kernel says of who listens. A
//! socket that somebody else listens on is told about and never used. Names of
//! hosts are for people: they change, and containers have their own.
//!
//! Another network namespace is no obstacle, another mount namespace only if
//! the path leads elsewhere there; of another pid namespace nothing can be
//! verified, so it is refused.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;

use super::place::connect;
use super::words::{decode, read_frame, write_frame, Broken, Hello, Reply, Request, Status, What, VERSION};
use super::{no_socket, words::GREETING};
use crate::catalog::identity::{Identity, Life};
use crate::catalog::lease::{self, Holder, LeaseState};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Id;
use crate::store::Store;

/// For a volume that is just being opened or closed, or many who ask.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// For the first words of a process: it has nothing to do for them.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// For what it is asked for: a flush of a slow store may take long.
const ANSWER_TIME: Duration = Duration::from_secs(300);

/// The process that holds a volume.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    store: Id,
    volume: Id,
    pub holder: Holder,
    /// "volume 'web' is in use by process 12 (qemu) on host A since ..."
    in_use: String,
}

/// Why there is no connection.
enum Refused {
    /// It may be different in a moment.
    ForNow(Error),
    ForGood(Error),
}

/// The process that holds a volume now, if one does that lives. `name` is for
/// messages. Error: `Busy`, if it cannot be asked from here.
pub fn reach(store: &Store, volume: Id, name: &str) -> Result<Option<Connection>> {
    let until = clock::now() + PATIENCE;
    loop {
        let holder = match lease::show(store, volume)? {
            LeaseState::Held { life: Life::Dead, .. } | LeaseState::Arriving { life: Life::Dead, .. } => {
                return Ok(None)
            }
            LeaseState::Held { holder, .. } | LeaseState::Arriving { holder, .. } => holder,
            LeaseState::Free { .. } | LeaseState::Broken { .. } => return Ok(None),
            LeaseState::Moved(_) | LeaseState::Standby(_) => return Ok(None),
        };
        match Connection::to(store.id, volume, name, holder) {
            Ok(connection) => return Ok(Some(connection)),
            Err(Refused::ForNow(_)) if clock::now() < until => clock::sleep(PAUSE),
            Err(Refused::ForNow(error) | Refused::ForGood(error)) => return Err(error),
        }
    }
}

impl Connection {
    fn to(store: Id, volume: Id, name: &str, holder: Holder) -> std::result::Result<Connection, Refused> {
        let in_use = lease::in_use(name, &holder);
        check_here(&holder, &in_use).map_err(Refused::ForGood)?;
        let Some(path) = holder.socket.clone() else { return Err(Refused::ForGood(no_socket(&in_use))) };
        let busy = |words: String| Error::sentence(ErrorKind::Busy, format!("{in_use}; {words}"));
        let stream = connect(Path::new(&path)).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Refused::ForGood(busy(format!("{path} does not let this user in")))
            }
            _ => Refused::ForNow(busy(format!(
                "it does not listen at {path} ({error}): it is just being opened or closed, \
                 or that folder is another one for it; try again in a moment"
            ))),
        })?;
        check_who(&stream, &holder, &path).map_err(|words| Refused::ForGood(busy(words)))?;
        let connection = Connection { stream, store, volume, holder, in_use };
        match connection.greet() {
            Ok(()) => Ok(connection),
            Err(error) if error.is(ErrorKind::Unavailable) => Err(Refused::ForNow(error)),
            Err(error) => Err(Refused::ForGood(error)),
        }
    }

    fn greet(&self) -> Result<()> {
        let said = write_frame(&mut &self.stream, &Hello::new()).and_then(|()| self.hear(GREETING_TIME));
        let hello = match said.map_err(|error| self.unheard(ErrorKind::Unavailable, &error))? {
            Reply::Hello(hello) if hello.greeting == GREETING => hello,
            other => return Err(self.not_understood(&other)),
        };
        if hello.version == VERSION {
            return Ok(());
        }
        Err(Error::sentence(
            ErrorKind::Busy,
            format!(
                "{}; it speaks version {} of the control socket and this program version {VERSION}: \
                 use the command of the process's own version ({})",
                self.in_use,
                hello.version,
                hello.program.escape_debug()
            ),
        ))
    }

    /// Asks for something, and waits until it is done. Errors: those of the
    /// process; `Unknown`, if it ended without an answer.
    pub fn ask(&mut self, what: What) -> Result<Reply> {
        let is_question = matches!(what, What::Status { .. });
        let request = Request { store: self.store, volume: self.volume, what };
        let lost = if is_question { ErrorKind::Unavailable } else { ErrorKind::Unknown };
        let said = write_frame(&mut &self.stream, &request).and_then(|()| self.hear(ANSWER_TIME));
        said.map_err(|error| self.unheard(lost, &error))?.into_result()
    }

    /// Asks for what has no answer but that it is done.
    pub fn order(&mut self, what: What) -> Result<()> {
        match self.ask(what)? {
            Reply::Done {} => Ok(()),
            other => Err(self.not_understood(&other)),
        }
    }

    /// The volume that this is about.
    pub fn volume(&self) -> Id {
        self.volume
    }

    pub fn status(&mut self) -> Result<Status> {
        match self.ask(What::Status {})? {
            Reply::Status(status) => Ok(*status),
            other => Err(self.not_understood(&other)),
        }
    }

    /// Starts a job; its number.
    pub fn start(&mut self, kind: &str, arguments: super::jobs::Arguments) -> Result<u64> {
        match self.ask(What::Start { kind: kind.to_owned(), arguments })? {
            Reply::Started { job } => Ok(job),
            other => Err(self.not_understood(&other)),
        }
    }

    fn hear(&self, time: Duration) -> Result<Reply> {
        let timed = self.stream.set_read_timeout(Some(time));
        timed.map_err(|error| Error::from_io("wait for an answer", error))?;
        let json = read_frame(&mut &self.stream).map_err(Broken::into_error)?;
        decode(&json)
    }

    fn unheard(&self, kind: ErrorKind, error: &Error) -> Error {
        let done = match kind {
            ErrorKind::Unknown => "whether it was done is not known",
            _ => "is it stopped?",
        };
        let in_use = &self.in_use;
        Error::sentence(kind, format!("{in_use}; it has not answered ({}): {done}", error.full()))
    }

    /// A refusal instead of what was expected is that error.
    fn not_understood(&self, reply: &Reply) -> Error {
        match reply.clone().into_result() {
            Err(error) => error,
            Ok(_) => Error::sentence(
                ErrorKind::Internal,
                format!("{}; it answered something else than it was asked", self.in_use),
            ),
        }
    }
}

/// Whether the pid of a holder means something here. Error: `Busy`.
fn check_here(holder: &Holder, in_use: &str) -> Result<()> {
    let me = Identity::of_this_process();
    let process = &holder.process;
    if me.boot_id.is_empty() || me.boot_id != process.boot_id {
        let words = format!("{in_use}: ask on host {}, where the same command works", process.host);
        return Err(Error::sentence(ErrorKind::Busy, words));
    }
    if me.pid_namespace == 0 || me.pid_namespace != process.pid_namespace {
        let words = format!("{in_use}, in another container (pid namespace): ask from inside of that");
        return Err(Error::sentence(ErrorKind::Busy, words));
    }
    Ok(())
}

/// The kernel says who listens. Error: the sentence of what is wrong.
fn check_who(stream: &UnixStream, holder: &Holder, path: &str) -> std::result::Result<(), String> {
    let who = sockopt::socket_peercred(stream).map_err(|errno| format!("who listens is not known: {errno}"))?;
    let pid = who.pid.as_raw_nonzero().get();
    if u32::try_from(pid) != Ok(holder.process.pid) {
        return Err(format!("but process {pid} listens at {path}, which the lease names: it is not asked"));
    }
    match Identity::of_this_process().judge(&holder.process) {
        Life::Alive => Ok(()),
        _ => Err(format!("but the process that listens at {path} has only its number: it is not asked")),
    }
}
