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

/// For a thread that has all signals blocked: a SIGPIPE that waits for it is taken
/// away, so that it does not end the process when it is let in.
pub fn forget_broken_pipe() {
    let mut wanted = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is initialized before it is used; nobody wants to know more
    // about the signal.
    unsafe {
        libc::sigemptyset(wanted.as_mut_ptr());
        libc::sigaddset(wanted.as_mut_ptr(), libc::SIGPIPE);
        libc::sigtimedwait(wanted.as_ptr(), std::ptr::null_mut(), &at_once);
    }
}

static INTERRUPTED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// For the command alone: from now on the first SIGINT, SIGTERM or SIGHUP is
/// only noted, so that what was begun can be undone; the second one ends the
/// process.
pub fn note_interrupts() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a zeroed sigaction is a valid one; the handler only stores
        // to an atomic, which a signal handler may do. Without SA_RESTART a
        // read that waits returns.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note_interrupt as *const () as usize;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

pub fn was_interrupted() -> bool {
    INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed)
}
