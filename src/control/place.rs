//! Where a process's control socket is: a file with a random name in a folder
//! that its users can find, gone when the process is done with it.
//!
//! The folder is `$ARCHIPELAGO_RUN_DIR`, if that is set; else
//! `/run/archipelago`, which anybody may make files in and nobody may remove
//! others' from (mode 1777, as /tmp: QEMU runs as whoever it likes), made by
//! root's first process or by systemd-tmpfiles; else
//! `$XDG_RUNTIME_DIR/archipelago`. Without any, there is no socket.
//!
//! Nobody trusts what lies there: who asks compares the process that answers
//! with the one that the lease names, and who answers asks the kernel who
//! asks.

use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{geteuid, test_kill_process, Pid};

use crate::catalog::identity::Identity;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};

const SYSTEM_FOLDER: &str = "/run/archipelago";
/// As /tmp.
const SYSTEM_MODE: u32 = 0o1777;
const OWN_MODE: u32 = 0o700;

/// A path of a socket has room for this in the kernel, with its end.
const PATH_BYTES_MAX: usize = 107;

/// Files looked at to find sockets of the dead.
const SWEPT_MAX: usize = 1024;

/// A bound socket and its file.
#[derive(Debug)]
pub struct Place {
    pub listener: UnixListener,
    pub path: PathBuf,
}

/// A folder that may do, and what it is made with if it is missing.
struct Folder {
    path: PathBuf,
    mode: u32,
}

fn folders() -> Vec<Folder> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("ARCHIPELAGO_RUN_DIR") {
        return vec![Folder { path, mode: OWN_MODE }];
    }
    let mut folders = vec![Folder { path: PathBuf::from(SYSTEM_FOLDER), mode: SYSTEM_MODE }];
    if let Some(path) = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
        folders.push(Folder { path: path.join("archipelago"), mode: OWN_MODE });
    }
    folders
}

impl Place {
    /// Binds a socket in the first folder that allows it. Error: why none did.
    pub fn make() -> Result<Place> {
        let mut refused = Vec::new();
        for folder in folders() {
            match Place::make_in(&folder.path, folder.mode) {
                Ok(place) => return Ok(place),
                Err(error) => refused.push(format!("{}: {error}", folder.path.display())),
            }
        }
        Err(Error::sentence(
            ErrorKind::Unavailable,
            format!("no folder for a control socket ({}): root makes one with \
                     mkdir -m {SYSTEM_MODE:o} {SYSTEM_FOLDER}", refused.join("; ")),
        ))
    }

    /// The same, in this folder.
    pub fn make_in(folder: &Path, mode: u32) -> io::Result<Place> {
        make_folder(folder, mode)?;
        sweep(folder);
        let id = clock::random_id().map_err(|error| io::Error::other(error.full()))?;
        let pid = Identity::of_this_process().pid;
        let name = format!("{pid}-{:016x}", (id.0 >> 64) as u64);
        let (early, path) = (folder.join(format!(".{name}")), folder.join(name));
        if early.as_os_str().len() > PATH_BYTES_MAX {
            return Err(io::Error::other("its path is too long for that of a socket"));
        }
        // Under its name it is found only when somebody listens: who finds
        // nobody listening there takes it for one of the dead.
        let listener = UnixListener::bind(&early)?;
        let ready = listener.set_nonblocking(true).and_then(|()| {
            // Who may ask is decided by who asks.
            fs::set_permissions(&early, Permissions::from_mode(0o666))?;
            fs::rename(&early, &path)
        });
        if let Err(error) = ready {
            drop(fs::remove_file(&early));
            return Err(error);
        }
        Ok(Place { listener, path })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Connects without waiting: who listens may be stopped.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(folder) {
        // Whatever this process masks.
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes sockets of processes that have ended. Never one whose process may
/// be there: it must be gone here, and nobody may listen (it may be another
/// container's). What cannot be removed stays.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let own = geteuid().as_raw();
    for entry in entries.take(SWEPT_MAX).flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(pid_of) else { continue };
        let Ok(about) = entry.metadata() else { continue };
        if !about.file_type().is_socket() || (own != 0 && about.uid() != own) || is_there(pid) {
            continue;
        }
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if connect(&entry.path()).is_err_and(refused) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whose socket has this name: only such are ours.
fn pid_of(name: &str) -> Option<Pid> {
    let (pid, random) = name.strip_prefix('.').unwrap_or(name).split_once('-')?;
    let is_ours = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    Pid::from_raw(pid.parse().ok().filter(|pid| is_ours && *pid > 0)?)
}

fn is_there(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A process that was killed leaves its socket. What somebody listens to,
    /// what is no socket and what is called otherwise must not go with it.
    #[test]
    fn sockets_of_the_dead_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let gone = i32::MAX;
        let dead = format!("{gone}-0123456789abcdef");
        let half_made = format!(".{gone}-0123456789abcdef");
        let heard = format!("{gone}-1123456789abcdef");
        let plain = format!("{gone}-2123456789abcdef");
        let other = format!("{gone}-other");
        let living = format!("{}-3123456789abcdef", std::process::id());
        let kept = UnixListener::bind(at(&heard)).unwrap();
        for name in [&dead, &half_made, &other, &living] {
            drop(UnixListener::bind(at(name)).unwrap());
        }
        fs::write(at(&plain), "a file").unwrap();
        let place = Place::make_in(folder.path(), OWN_MODE).unwrap();
        let own = place.path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut wanted = vec![heard, plain, other, living, own];
        wanted.sort();
        assert_eq!(names(folder.path()), wanted);
        wanted.retain(|name| !place.path.ends_with(name));
        drop(place);
        assert_eq!(names(folder.path()), wanted);
        drop(kept);
    }

    #[test]
    fn a_folder_is_made_for_those_who_need_it_and_a_long_path_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let place = Place::make_in(&run, SYSTEM_MODE).unwrap();
        assert_eq!(fs::metadata(&run).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::metadata(&place.path).unwrap().mode() & 0o777, 0o666);
        let long = folder.path().join("x".repeat(100));
        let error = Place::make_in(&long, OWN_MODE).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
