//! Signals belong to the process that loaded the library.

/// Runs `body` with all signals blocked on this thread; a thread that it
/// starts inherits that.
pub fn with_all_blocked<T>(body: impl FnOnce() -> T) -> T {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are ours; sigfillset and pthread_sigmask initialize
    // what they are given a pointer to.
    let saved = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr()) == 0
    };
    let result = body();
    if saved {
        // SAFETY: `old` was filled in above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    }
    result
}
