//! The few file system calls that `rustix` does not wrap, or not for memory
//! that may change under us.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::iobuf::IoBuf;

/// Takes or changes an open-file-description lock on the whole file, without
/// waiting. It belongs to the open file: it ends when the last descriptor of
/// it is closed, whatever else the process opens and closes.
pub fn try_lock(fd: BorrowedFd<'_>, exclusive: bool) -> io::Result<()> {
    set_lock(fd, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })
}

/// Ends the lock of an open file, whoever else has it open.
pub fn unlock(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_lock(fd, libc::F_UNLCK)
}

fn set_lock(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the call, `lock` is a whole flock
    // that the kernel only reads.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Reads what is in the page cache; `WouldBlock` if any of it needs the disk
/// and nothing could be read.
pub fn read_cached(fd: BorrowedFd<'_>, offset_bytes: u64, buf: &IoBuf) -> io::Result<usize> {
    let iovecs = buf.to_iovecs();
    let count = libc::c_int::try_from(iovecs.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open for the call; `iovecs` holds `count`
    // ranges, valid for writes as `buf` is the target of a read.
    let bytes = unsafe {
        libc::preadv2(fd.as_raw_fd(), iovecs.as_ptr(), count, offset, libc::RWF_NOWAIT)
    };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// Reads or writes as much as the kernel does in one call.
pub fn transfer(fd: BorrowedFd<'_>, write: bool, offset_bytes: u64, buf: &IoBuf) -> io::Result<usize> {
    // The kernel takes no more than this at once.
    const RANGES_MAX: usize = 1024;
    let iovecs = buf.to_iovecs();
    let count = iovecs.len().min(RANGES_MAX) as libc::c_int;
    let offset = libc::off_t::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open for the call; `iovecs` holds at least
    // `count` ranges, valid for what is asked (`IoBuf::from_raw`).
    let bytes = unsafe {
        if write {
            libc::pwritev(fd.as_raw_fd(), iovecs.as_ptr(), count, offset)
        } else {
            libc::preadv(fd.as_raw_fd(), iovecs.as_ptr(), count, offset)
        }
    };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}
