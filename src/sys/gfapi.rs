//! GlusterFS's own C library, behind calls that safe Rust can make. It is
//! loaded when the first store of its kind is opened: a host without GlusterFS
//! needs none.
//!
//! Calls wait as long as the bricks let them; `submit_*` do not. The library
//! answers those on any thread, also on the one that submits and before that
//! call has returned: whoever is told must do nothing but pass it on.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null_mut, NonNull};
use std::sync::{Arc, OnceLock};

use super::iobuf::IoBuf;
use super::libgfapi::{glfs_fd_t, glfs_stat, glfs_t, Libgfapi};

const LIBRARY: &str = "libgfapi.so.0";

/// Since version 6 a request is answered with the file's attributes as well:
/// calls of an older library have other arguments under the same names.
const NEWER: (&CStr, &CStr) = (c"glfs_pwrite", c"GFAPI_6.0");

/// GF_LOG_WARNING.
const LOG_LEVEL: libc::c_int = 5;

/// Why a volume cannot be reached.
#[derive(Debug)]
pub enum Refused {
    /// The library is not there, or lacks something: what the loader says.
    NoLibrary(String),
    /// The library is older than version 6.
    TooOld,
    /// This step failed.
    At(&'static str, io::Error),
}

fn load() -> Result<Libgfapi, Refused> {
    let name = CString::new(LIBRARY).unwrap_or_default();
    // SAFETY: what loading runs is GlusterFS's own start-up code; the strings
    // end with zero. It stays loaded: the table below is of the same library.
    let (found, newer) = unsafe {
        let found = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
        let newer = match found.is_null() {
            true => null_mut(),
            false => libc::dlvsym(found, NEWER.0.as_ptr(), NEWER.1.as_ptr()),
        };
        (found, newer)
    };
    if !found.is_null() && newer.is_null() {
        return Err(Refused::TooOld);
    }
    // SAFETY: as above, and the table has the types of version 6's header. If
    // it was not found, this says why.
    unsafe { Libgfapi::new(LIBRARY) }.map_err(|error| Refused::NoLibrary(error.to_string()))
}

fn library() -> Result<&'static Libgfapi, Refused> {
    static LOADED: OnceLock<Libgfapi> = OnceLock::new();
    if let Some(library) = LOADED.get() {
        return Ok(library);
    }
    let library = load()?;
    Ok(LOADED.get_or_init(|| library))
}

/// Text for C; a zero byte ends it.
fn text(of: impl AsRef<OsStr>) -> CString {
    let bytes = of.as_ref().as_bytes();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// Why the last call on this thread failed. Some fail without saying why.
fn last_error() -> io::Error {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        None | Some(0) => io::Error::from_raw_os_error(libc::EIO),
        _ => error,
    }
}

fn check(result: impl Into<i64>) -> io::Result<u64> {
    u64::try_from(result.into()).map_err(|_| last_error())
}

fn offset(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A volume of GlusterFS, as this process reaches it.
pub struct Mount {
    library: &'static Libgfapi,
    fs: NonNull<glfs_t>,
}

// SAFETY: libgfapi takes calls from any thread; the handle is freed once, when
// nobody has it any more.
unsafe impl Send for Mount {}
// SAFETY: as above.
unsafe impl Sync for Mount {}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mount")
    }
}

/// A setting of a translator on this side: its name's end, the key, the value.
pub type Setting = (&'static str, &'static str, &'static str);

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// `DT_DIR` and so on; `DT_UNKNOWN` if it does not say.
    pub kind: u8,
}

impl Mount {
    /// Asks the first of the servers that answers what the volume consists of,
    /// and connects to that. What the library has to say goes to the end of
    /// `log`.
    pub fn connect(
        volume: &str,
        servers: &[(String, u16)],
        settings: &[Setting],
        log: &Path,
    ) -> Result<Mount, Refused> {
        let library = library()?;
        let at = |step| move |_| Refused::At(step, last_error());
        // The threads that this starts take no signals, as QEMU expects of a
        // library's.
        super::signal::with_all_blocked(|| {
            // SAFETY: the string lives until it returns, so in all that follow.
            let fs = unsafe { library.glfs_new(text(volume).as_ptr()) };
            let fs = NonNull::new(fs).ok_or(()).map_err(at("begin"))?;
            let mount = Mount { library, fs };
            for (host, port) in servers {
                // SAFETY: the handle is new.
                let set = unsafe {
                    let port = libc::c_int::from(*port);
                    library.glfs_set_volfile_server(fs.as_ptr(), c"tcp".as_ptr(), text(host).as_ptr(), port)
                };
                check(set).map_err(|error| Refused::At("name a server", error))?;
            }
            for (translator, key, value) in settings {
                // SAFETY: as above; the library copies what it is given.
                let set = unsafe {
                    let (of, key, value) = (text(translator), text(key), text(value));
                    library.glfs_set_xlator_option(fs.as_ptr(), of.as_ptr(), key.as_ptr(), value.as_ptr())
                };
                check(set).map_err(|error| Refused::At("set an option", error))?;
            }
            // SAFETY: as above.
            let set = unsafe { library.glfs_set_logging(fs.as_ptr(), text(log).as_ptr(), LOG_LEVEL) };
            check(set).map_err(|error| Refused::At("open the log of GlusterFS", error))?;
            // SAFETY: the handle is configured, and nobody else has it yet.
            check(unsafe { library.glfs_init(fs.as_ptr()) })
                .map_err(|error| Refused::At("connect", error))?;
            Ok(mount)
        })
    }

    fn opened(self: &Arc<Mount>, fd: *mut glfs_fd_t) -> io::Result<File> {
        let fd = NonNull::new(fd).ok_or_else(last_error)?;
        Ok(File { mount: Arc::clone(self), fd })
    }

    pub fn open(self: &Arc<Mount>, path: &str, flags: i32) -> io::Result<File> {
        // SAFETY: the string lives until it returns.
        self.opened(unsafe { self.library.glfs_open(self.fs.as_ptr(), text(path).as_ptr(), flags) })
    }

    /// A new file for reading and writing; EEXIST if there is one.
    pub fn create(self: &Arc<Mount>, path: &str, mode: u32) -> io::Result<File> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: as `open`.
        self.opened(unsafe { self.library.glfs_creat(self.fs.as_ptr(), text(path).as_ptr(), flags, mode) })
    }

    pub fn stat(&self, path: &str) -> io::Result<libc::stat> {
        let path = text(path);
        stat(|found| {
            // SAFETY: the string and the place live until it returns.
            unsafe { self.library.glfs_stat(self.fs.as_ptr(), path.as_ptr(), found) }
        })
    }

    pub fn mkdir(&self, path: &str, mode: u32) -> io::Result<()> {
        // SAFETY: as `open`; so in all that follow.
        check(unsafe { self.library.glfs_mkdir(self.fs.as_ptr(), text(path).as_ptr(), mode) }).map(drop)
    }

    pub fn rmdir(&self, path: &str) -> io::Result<()> {
        // SAFETY: see `mkdir`.
        check(unsafe { self.library.glfs_rmdir(self.fs.as_ptr(), text(path).as_ptr()) }).map(drop)
    }

    pub fn unlink(&self, path: &str) -> io::Result<()> {
        // SAFETY: see `mkdir`.
        check(unsafe { self.library.glfs_unlink(self.fs.as_ptr(), text(path).as_ptr()) }).map(drop)
    }

    pub fn link(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (text(from), text(to));
        // SAFETY: see `mkdir`.
        check(unsafe { self.library.glfs_link(self.fs.as_ptr(), from.as_ptr(), to.as_ptr()) }).map(drop)
    }

    pub fn open_dir(self: &Arc<Mount>, path: &str) -> io::Result<Directory> {
        // SAFETY: see `mkdir`.
        let fd = unsafe { self.library.glfs_opendir(self.fs.as_ptr(), text(path).as_ptr()) };
        let fd = NonNull::new(fd).ok_or_else(last_error)?;
        Ok(Directory { mount: Arc::clone(self), fd })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // SAFETY: every File keeps its Mount, so that nothing uses it now.
        unsafe { self.library.glfs_fini(self.fs.as_ptr()) };
    }
}

fn stat(call: impl FnOnce(*mut libc::stat) -> libc::c_int) -> io::Result<libc::stat> {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    check(call(found.as_mut_ptr()))?;
    // SAFETY: it is plain data, zeroed and then filled.
    Ok(unsafe { found.assume_init() })
}

/// An open directory.
pub struct Directory {
    mount: Arc<Mount>,
    fd: NonNull<glfs_fd_t>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory")
    }
}

impl Directory {
    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut place = std::mem::MaybeUninit::<libc::dirent>::zeroed();
        let mut found = null_mut();
        // SAFETY: both places live until it returns, and `found` is then null
        // or points to the first one.
        let result = unsafe {
            self.mount.library.glfs_readdir_r(self.fd.as_ptr(), place.as_mut_ptr(), &mut found)
        };
        if result != 0 {
            return Err(match result {
                errno if errno > 0 => io::Error::from_raw_os_error(errno),
                _ => last_error(),
            });
        }
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: as above; the name in it ends with zero.
        let (name, kind) = unsafe {
            let entry = &*found;
            (CStr::from_ptr(entry.d_name.as_ptr()).to_bytes().to_vec(), entry.d_type)
        };
        Ok(Some(Entry { name, kind }))
    }

    pub fn change_mode(&self, mode: u32) -> io::Result<()> {
        // SAFETY: it is open.
        check(unsafe { self.mount.library.glfs_fchmod(self.fd.as_ptr(), mode) }).map(drop)
    }

    pub fn change_group(&self, group: u32) -> io::Result<()> {
        // SAFETY: it is open.
        check(unsafe { self.mount.library.glfs_fchown(self.fd.as_ptr(), u32::MAX, group) }).map(drop)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: it is open, and closed once.
        unsafe { self.mount.library.glfs_closedir(self.fd.as_ptr()) };
    }
}

/// An open file. What a request was told last must not be dropped where the
/// library tells it: closing is a call that waits.
pub struct File {
    mount: Arc<Mount>,
    fd: NonNull<glfs_fd_t>,
}

// SAFETY: libgfapi takes calls on one from any thread.
unsafe impl Send for File {}
// SAFETY: as above.
unsafe impl Sync for File {}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: requests keep the File, so that none is under way.
        unsafe { self.mount.library.glfs_close(self.fd.as_ptr()) };
    }
}

/// Gets the answer, and the file, which must be dropped on another thread. It
/// may run on the thread that submits.
pub type Told = Box<dyn FnOnce(Arc<File>, io::Result<usize>) + Send>;

/// What waits for an answer of the library.
struct Waiting {
    file: Arc<File>,
    told: Told,
}

/// Called by the library once for each request.
unsafe extern "C" fn complete(
    _fd: *mut glfs_fd_t,
    result: isize,
    _before: *mut glfs_stat,
    _after: *mut glfs_stat,
    waiting: *mut libc::c_void,
) {
    let answer = usize::try_from(result).map_err(|_| last_error());
    // SAFETY: `waiting` is what `submit` made of a Box, and comes back once.
    let Waiting { file, told } = *unsafe { Box::from_raw(waiting.cast::<Waiting>()) };
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told(file, answer)));
    if called.is_err() {
        log::error!("an answer of GlusterFS was not taken: its receiver has panicked");
    }
}

impl File {
    fn call(&self) -> (&'static Libgfapi, *mut glfs_fd_t) {
        (self.mount.library, self.fd.as_ptr())
    }

    /// Shorter only at the file's end.
    pub fn read(&self, offset_bytes: u64, data: &mut [u8]) -> io::Result<usize> {
        let (library, fd) = self.call();
        let (at, bytes) = (offset(offset_bytes)?, data.len());
        // SAFETY: `data` is as long as said, and lives until it returns; no
        // attributes are wanted.
        let read = unsafe { library.glfs_pread(fd, data.as_mut_ptr().cast(), bytes, at, 0, null_mut()) };
        check(read as i64).map(|bytes| bytes as usize)
    }

    pub fn write(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        let (library, fd) = self.call();
        let (at, bytes) = (offset(offset_bytes)?, data.len());
        // SAFETY: as `read`.
        let written = unsafe {
            library.glfs_pwrite(fd, data.as_ptr().cast(), bytes, at, 0, null_mut(), null_mut())
        };
        check(written as i64).map(|bytes| bytes as usize)
    }

    pub fn truncate(&self, bytes: u64) -> io::Result<()> {
        let (library, fd) = self.call();
        // SAFETY: it is open; no attributes are wanted.
        check(unsafe { library.glfs_ftruncate(fd, offset(bytes)?, null_mut(), null_mut()) }).map(drop)
    }

    /// Makes a range read as zeroes; its room is given back.
    pub fn discard(&self, offset_bytes: u64, bytes: u64) -> io::Result<()> {
        let (library, fd) = self.call();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: it is open.
        check(unsafe { library.glfs_discard(fd, offset(offset_bytes)?, length) }).map(drop)
    }

    /// `whence` is SEEK_DATA or SEEK_HOLE.
    pub fn seek(&self, offset_bytes: u64, whence: i32) -> io::Result<u64> {
        let (library, fd) = self.call();
        // SAFETY: it is open.
        check(unsafe { library.glfs_lseek(fd, offset(offset_bytes)?, whence) })
    }

    pub fn stat(&self) -> io::Result<libc::stat> {
        let (library, fd) = self.call();
        // SAFETY: it is open, and the place lives until it returns.
        stat(|found| unsafe { library.glfs_fstat(fd, found) })
    }

    pub fn change_mode(&self, mode: u32) -> io::Result<()> {
        let (library, fd) = self.call();
        // SAFETY: it is open.
        check(unsafe { library.glfs_fchmod(fd, mode) }).map(drop)
    }

    pub fn change_group(&self, group: u32) -> io::Result<()> {
        let (library, fd) = self.call();
        // SAFETY: it is open; the owner stays.
        check(unsafe { library.glfs_fchown(fd, u32::MAX, group) }).map(drop)
    }

    /// `content_only`: not the times and names.
    pub fn sync(&self, content_only: bool) -> io::Result<()> {
        let (library, fd) = self.call();
        // SAFETY: it is open; no attributes are wanted.
        let done = unsafe {
            match content_only {
                true => library.glfs_fdatasync(fd, null_mut(), null_mut()),
                false => library.glfs_fsync(fd, null_mut(), null_mut()),
            }
        };
        check(done).map(drop)
    }

    fn submit(
        self: &Arc<File>,
        told: Told,
        send: impl FnOnce(&Libgfapi, *mut glfs_fd_t, *mut libc::c_void) -> libc::c_int,
    ) {
        let (library, fd) = self.call();
        let waiting = Box::into_raw(Box::new(Waiting { file: Arc::clone(self), told }));
        if send(library, fd, waiting.cast()) < 0 {
            let error = last_error();
            // SAFETY: what is not sent is never answered: the Box is still ours.
            let Waiting { file, told } = *unsafe { Box::from_raw(waiting) };
            told(file, Err(error));
        }
    }

    /// The memory is kept until `told` is called.
    pub fn submit_read(self: &Arc<File>, offset_bytes: u64, buf: IoBuf, told: Told) {
        let parts = buf.to_iovecs();
        let kept: Told = Box::new(move |file, answer| {
            drop(buf);
            told(file, answer);
        });
        let at = offset_bytes as libc::off_t;
        self.submit(kept, |library, fd, waiting| {
            // SAFETY: `kept` keeps the memory until the answer; the list itself
            // is copied before it returns.
            unsafe {
                let count = parts.len() as libc::c_int;
                library.glfs_preadv_async(fd, parts.as_ptr(), count, at, 0, Some(complete), waiting)
            }
        });
    }

    pub fn submit_write(self: &Arc<File>, offset_bytes: u64, buf: IoBuf, told: Told) {
        let parts = buf.to_iovecs();
        let kept: Told = Box::new(move |file, answer| {
            drop(buf);
            told(file, answer);
        });
        let at = offset_bytes as libc::off_t;
        self.submit(kept, |library, fd, waiting| {
            // SAFETY: as `submit_read`.
            unsafe {
                let count = parts.len() as libc::c_int;
                library.glfs_pwritev_async(fd, parts.as_ptr(), count, at, 0, Some(complete), waiting)
            }
        });
    }

    /// As `sync`.
    pub fn submit_sync(self: &Arc<File>, content_only: bool, told: Told) {
        self.submit(told, |library, fd, waiting| {
            // SAFETY: it is open until the answer.
            unsafe {
                match content_only {
                    true => library.glfs_fdatasync_async(fd, Some(complete), waiting),
                    false => library.glfs_fsync_async(fd, Some(complete), waiting),
                }
            }
        });
    }
}
