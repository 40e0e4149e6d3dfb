//! The folder of a read cache: files of spans in 64 folders, none of which has
//! more than its 64th of the room.
//!
//! Several processes work on it, and each may end at any moment. A file is
//! written under another name and renamed, and nothing is synced: what a crash
//! leaves is told by its hash. How much a folder holds is counted in its file
//! `lock`, by who has that locked and before the file is there, so that a
//! process that is killed leaves at most too high a count; who meets one that
//! is used up counts what there is. After a loss of power the count may be too
//! low: so each process counts what there is when it first adds to a folder.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat, Timespec, Timestamps, CWD};
use rustix::io::Errno;

use super::span::{Content, Key, HEAD_BYTES};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Id;
use crate::sync::atomic::{AtomicU64, Ordering};

const SHARES: u64 = 64;
const LOCK: &str = "lock";
/// What a file that is being written is called at first.
const NEW: &str = "new.";
/// Who began such a file longer ago is not at it any more.
const NEW_TIME: Duration = Duration::from_secs(600);
/// When a file was last used is noted so exactly.
const USED_TIME: Duration = Duration::from_secs(600);
/// Room on a disk comes in these.
const UNIT_BYTES: u64 = 4096;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Where a cache is and how large it may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    pub path: PathBuf,
    pub bytes_max: u64,
    /// Whose members may have it, as they may have the store.
    pub group: Option<u32>,
}

#[derive(Debug)]
pub enum Got {
    Here(Content),
    Nothing,
    /// It was removed.
    Damaged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Done,
    /// Somebody else was quicker.
    There,
    /// Somebody else is adding all the time, or what is there cannot go.
    NotNow,
}

/// The folder, opened.
#[derive(Debug)]
pub struct Folder {
    top: OwnedFd,
    options: Options,
    /// A bit for each folder that this process has counted.
    counted: AtomicU64,
}

/// Whoever can write there decides what machines read: a hash that comes with
/// the content tells an accident, not a forgery. So it may be nobody who could
/// not change this user's machines otherwise. Error: why not.
fn trust(stat: &Stat, user: u32, group: Option<u32>) -> std::result::Result<(), String> {
    let (owner, mode) = (stat.st_uid, stat.st_mode);
    if owner != 0 && owner != user {
        return Err(format!(
            "it belongs to user {owner}, who could have machines read what he likes: it must belong to \
             root or to the user of this process ({user})"
        ));
    }
    if mode & 0o002 != 0 {
        return Err("everybody may write to it, and so decide what machines read: chmod o-rwx".to_owned());
    }
    if mode & 0o020 != 0 && group != Some(stat.st_gid) {
        return Err(format!(
            "its group ({}) may write to it, and so decide what machines read, but is not the 'group' of \
             the store: chmod g-w, or have the store say so",
            stat.st_gid
        ));
    }
    Ok(())
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// What a file of so many bytes takes.
fn room(bytes: u64) -> u64 {
    bytes.next_multiple_of(UNIT_BYTES)
}

fn age(stat: &Stat) -> Duration {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    clock::wall().saturating_sub(Duration::from_secs(seconds))
}

fn sum(count: u64) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(&count.to_le_bytes()).as_bytes()[..8]);
    sum
}

fn read_count(lock: &File) -> Option<u64> {
    let (mut count, mut told) = ([0; 8], [0; 8]);
    lock.read_exact_at(&mut count, 0).ok()?;
    lock.read_exact_at(&mut told, 8).ok()?;
    let count = u64::from_le_bytes(count);
    (told == sum(count)).then_some(count)
}

fn write_count(lock: &File, count: u64) -> io::Result<()> {
    let mut bytes = count.to_le_bytes().to_vec();
    bytes.extend_from_slice(&sum(count));
    lock.write_all_at(&bytes, 0)
}

impl Folder {
    /// Opens the folder; makes it if only that is missing. Error: `Denied` if
    /// somebody may write to it who must not.
    pub fn open(options: &Options) -> Result<Folder> {
        let path = &options.path;
        let failed = |error: Errno| {
            Error::from_io("open", error.into()).on_named(path.display().to_string())
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let top = match fs::openat(CWD, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match fs::mkdirat(CWD, path, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(failed(error)),
                }
                let top = fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
                share(&top, options.group, Mode::RWXU);
                top
            }
            other => other.map_err(failed)?,
        };
        let stat = fs::fstat(&top).map_err(failed)?;
        let user = rustix::process::geteuid().as_raw();
        trust(&stat, user, options.group)
            .map_err(|why| Error::sentence(ErrorKind::Denied, format!("{}: {why}", path.display())))?;
        Ok(Folder { top, options: options.clone(), counted: AtomicU64::new(0) })
    }

    /// The folder that a file is in.
    fn share_of(name: &str) -> u64 {
        u64::from_str_radix(&name[..2], 16).unwrap_or(0) % SHARES
    }

    fn path_of(name: &str) -> String {
        format!("{:02x}/{name}", Folder::share_of(name))
    }

    /// The content of a span. Errors: of the disk.
    pub fn get(&self, key: &Key, bytes: usize) -> io::Result<Got> {
        let path = Folder::path_of(&key.file_name());
        // Whatever lies there must not hold this thread up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match fs::openat(&self.top, &path, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => return Ok(Got::Nothing),
            Err(Errno::LOOP | Errno::NXIO) => return self.remove(&path),
            other => File::from(other?),
        };
        let stat = fs::fstat(&file)?;
        if !is_regular(&stat) || stat.st_size != (HEAD_BYTES + bytes) as i64 {
            return self.remove(&path);
        }
        let mut found = vec![0; HEAD_BYTES + bytes];
        let read = (&file).read_exact(&mut found);
        match read {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                // A sector that cannot be read: it is not tried again.
                self.remove(&path)?;
                return Err(error);
            }
            Err(_) => return self.remove(&path),
            Ok(()) => {}
        }
        match Content::from_file(key, bytes, found) {
            None => self.remove(&path),
            Some(content) => {
                if age(&stat) >= USED_TIME {
                    note_used(&file);
                }
                Ok(Got::Here(content))
            }
        }
    }

    fn remove(&self, path: &str) -> io::Result<Got> {
        match fs::unlinkat(&self.top, path, AtFlags::empty()) {
            // It is of no use to anybody; where it cannot go, it stays that.
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::ROFS | Errno::PERM | Errno::ACCESS) => {
                Ok(Got::Damaged)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Adds a span, and removes what was not used for longest if there is no
    /// room. Errors: of the disk.
    pub fn put(&self, key: &Key, content: &Content) -> io::Result<Put> {
        let name = key.file_name();
        let share = Folder::share_of(&name);
        let folder = self.open_share(share)?;
        let Some(lock) = self.lock(&folder)? else { return Ok(Put::NotNow) };
        if fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(Put::There);
        }
        let more = room((HEAD_BYTES + content.bytes().len()) as u64);
        let most = (self.options.bytes_max / SHARES).saturating_sub(more);
        let is_counted = self.counted.load(Ordering::Relaxed) & (1 << share) != 0;
        let count = match read_count(&lock).filter(|count| is_counted && *count <= most) {
            Some(count) => count,
            None => make_room(&folder, most)?,
        };
        if count > most {
            return Ok(Put::NotNow);
        }
        write_count(&lock, count + more)?;
        self.counted.fetch_or(1 << share, Ordering::Relaxed);
        self.write(&folder, &name, key, content)?;
        Ok(Put::Done)
    }

    fn open_share(&self, share: u64) -> io::Result<OwnedFd> {
        let path = format!("{share:02x}");
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match fs::openat(&self.top, &path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match fs::mkdirat(&self.top, &path, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let folder = fs::openat(&self.top, &path, flags, Mode::empty())?;
                share_with(&folder, self.options.group, Mode::RWXU);
                Ok(folder)
            }
            other => Ok(other?),
        }
    }

    fn make_file(&self, folder: &OwnedFd, name: &str, more: OFlags) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
        let file = fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        share_with(&file, self.options.group, Mode::RUSR | Mode::WUSR);
        Ok(File::from(file))
    }

    /// Waits a little, never for somebody who was stopped.
    fn lock(&self, folder: &OwnedFd) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = match fs::openat(folder, LOCK, flags, Mode::empty()) {
            Err(Errno::NOENT) => self.make_file(folder, LOCK, OFlags::empty())?,
            other => File::from(other?),
        };
        for _ in 0..LOCK_TRIES {
            match fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(lock)),
                Err(Errno::AGAIN) => clock::sleep(LOCK_PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn write(&self, folder: &OwnedFd, name: &str, key: &Key, content: &Content) -> io::Result<()> {
        let random = clock::random_id().unwrap_or(Id::NONE);
        let new = format!("{NEW}{random}");
        let mut file = self.make_file(folder, &new, OFlags::EXCL)?;
        let head = key.head(content.bytes());
        let written = file.write_all(&head).and_then(|()| file.write_all(content.bytes()));
        let renamed = written.and_then(|()| Ok(fs::renameat(folder, &new, folder, name)?));
        if renamed.is_err() {
            // What stays is removed by who counts next.
            let _stays = fs::unlinkat(folder, &new, AtFlags::empty());
        }
        renamed
    }
}

/// Lets the group have what was just made, where it is to.
fn share(made: &OwnedFd, group: Option<u32>, mode: Mode) {
    share_with(made, group, mode | Mode::SGID);
}

fn share_with(made: impl std::os::fd::AsFd, group: Option<u32>, mode: Mode) {
    let Some(group) = group else { return };
    let shared = Mode::from_raw_mode((mode.bits() & 0o700) >> 3);
    let owned = fs::fchown(&made, None, Some(Gid::from_raw(group)));
    // Without the group it is this user's alone, and of no use to others.
    if let Err(error) = owned.and_then(|()| fs::fchmod(&made, mode | shared)) {
        ::log::debug!("what is new in a read cache is not shared with group {group}: {error}");
    }
}

fn note_used(file: &File) {
    let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
    let used = Timestamps { last_access: now, last_modification: now };
    // Another user's file may not let us: it goes a little early then.
    if let Err(error) = fs::futimens(file, &used) {
        ::log::trace!("the use of a cached span is not noted: {error}");
    }
}

/// Removes files until those that are left take `most` bytes, and some less if
/// any has to go. What they take.
fn make_room(folder: &OwnedFd, most: u64) -> io::Result<u64> {
    let (mut files, mut total) = (Vec::new(), 0);
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_new = name.starts_with(NEW);
        let is_folder = entry.file_type() == FileType::Directory;
        let is_ours = is_new || (name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_folder || !is_ours {
            continue;
        }
        let stat = match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        if is_new && age(&stat) >= NEW_TIME {
            let _is_gone = remove_from(folder, name)?;
            continue;
        }
        let bytes = room(u64::try_from(stat.st_size).unwrap_or(0));
        total += bytes;
        files.push(((stat.st_mtime, stat.st_mtime_nsec), bytes, name.to_owned()));
    }
    if total <= most {
        return Ok(total);
    }
    files.sort_unstable();
    for (_, bytes, name) in files {
        if total <= most - most / 16 {
            break;
        }
        if remove_from(folder, &name)? {
            total -= bytes;
        }
    }
    Ok(total)
}

/// False if it is not ours to remove.
fn remove_from(folder: &OwnedFd, name: &str) -> io::Result<bool> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
