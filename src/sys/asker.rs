//! Who is at the other end of a local socket, as the kernel knows it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// More groups than any user of a host is in; a few users have more, and are
/// known by the first.
const GROUPS_MAX: usize = 1024;

/// Supplementary groups of the process at the other end, as they were when it
/// connected.
pub fn groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; GROUPS_MAX];
    let mut bytes = std::mem::size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the descriptor is open for the call; `groups` has room for
    // `bytes` bytes and takes any of them for numbers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(bytes as usize / std::mem::size_of::<u32>());
    Ok(groups)
}
