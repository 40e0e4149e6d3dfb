//! One io_uring that any thread submits to and one thread completes.
//!
//! A request is handed to the kernel on the thread that submits it, under a
//! lock that is held for that one system call: no other thread has to wake up
//! for it to start. What it needs (descriptor, memory, ranges) is owned by an
//! `Operation` that lives until its completion has been seen.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use io_uring::{opcode, types, IoUring};
use parking_lot::Mutex;

use super::iobuf::IoBuf;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// Files that a ring keeps open at most: locks of volumes.
const KEPT_MAX: usize = 256;

/// What the kernel is told to hand back for the request that only wakes up.
const WAKE: u64 = 0;

/// One read or write. `complete` runs on the ring's thread with the number of
/// bytes, which may be fewer than asked for.
pub struct Operation {
    pub write: bool,
    pub file: Arc<OwnedFd>,
    pub offset_bytes: u64,
    pub buf: IoBuf,
    pub complete: Box<dyn FnOnce(io::Result<usize>) + Send>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Operation");
        shown.field("write", &self.write).field("offset_bytes", &self.offset_bytes);
        shown.field("bytes", &self.buf.len()).finish_non_exhaustive()
    }
}

/// An operation that the kernel knows.
struct InFlight {
    operation: Operation,
    iovecs: Vec<libc::iovec>,
}

/// The ring. `run` must be called by one thread.
pub struct Ring {
    ring: IoUring,
    /// Held to touch the submission queue.
    submitting: Mutex<()>,
    in_flight: AtomicUsize,
    stopping: AtomicBool,
    /// Entries wait that the kernel did not take.
    stuck: AtomicBool,
    /// Which slots for files that are kept open are taken; none before the
    /// first.
    kept: Mutex<Vec<bool>>,
}

impl Ring {
    /// Errors where io_uring is missing or forbidden.
    pub fn new() -> io::Result<Ring> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        // Without it completions could be lost when there are very many.
        if !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Ring {
            ring,
            submitting: Mutex::new(()),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            kept: Mutex::default(),
        })
    }

    /// Has the kernel keep a file open until it is let go, or until the ring
    /// has ended with all that was in flight: not when the process is killed,
    /// but when its last request is done.
    pub fn keep_open(&self, file: BorrowedFd<'_>) -> io::Result<u32> {
        let mut kept = self.kept.lock();
        if kept.is_empty() {
            self.ring.submitter().register_files(&[-1; KEPT_MAX])?;
            kept.resize(KEPT_MAX, false);
        }
        let free = kept.iter().position(|taken| !taken).ok_or(io::ErrorKind::OutOfMemory)?;
        self.ring.submitter().register_files_update(free as u32, &[file.as_raw_fd()])?;
        kept[free] = true;
        Ok(free as u32)
    }

    pub fn let_go(&self, slot: u32) {
        let mut kept = self.kept.lock();
        // If this fails the file stays open with the ring, which is no harm.
        if self.ring.submitter().register_files_update(slot, &[-1]).is_ok() {
            if let Some(taken) = kept.get_mut(slot as usize) {
                *taken = false;
            }
        }
    }

    /// Nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    /// Hands an operation to the kernel. It comes back if there is no room or
    /// the kernel does not take any now.
    pub fn submit(&self, operation: Operation) -> Result<(), Operation> {
        let iovecs = operation.buf.to_iovecs();
        let Ok(count) = u32::try_from(iovecs.len()) else { return Err(operation) };
        let fd = types::Fd(operation.file.as_raw_fd());
        let (write, offset) = (operation.write, operation.offset_bytes);
        let in_flight = Box::into_raw(Box::new(InFlight { operation, iovecs }));
        // SAFETY: `in_flight` was just made and is not shared yet.
        let ranges = unsafe { (*in_flight).iovecs.as_ptr() };
        let entry = if write {
            opcode::Writev::new(fd, ranges, count).offset(offset).build()
        } else {
            opcode::Readv::new(fd, ranges, count).offset(offset).build()
        };
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        if self.push(entry.user_data(in_flight as u64)) {
            return Ok(());
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        // SAFETY: the kernel was not told about it, so the box is still ours.
        Err(unsafe { Box::from_raw(in_flight) }.operation)
    }

    /// False if the entry has not been queued.
    fn push(&self, entry: io_uring::squeue::Entry) -> bool {
        let _held = self.submitting.lock();
        // SAFETY: the lock makes this the only view of the queue. What the
        // entry points to lives until its completion (see `submit`).
        let pushed = unsafe { self.ring.submission_shared().push(&entry).is_ok() };
        if pushed {
            self.enter_locked();
        }
        pushed
    }

    /// Tells the kernel about all that is queued. If it is out of memory or
    /// of room for completions the entries stay where they are and the
    /// ring's thread tries again.
    fn enter_locked(&self) {
        loop {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    self.stuck.store(true, Ordering::Release);
                    // SAFETY: the caller holds the lock.
                    let waiting = unsafe { self.ring.submission_shared().len() };
                    if self.in_flight.load(Ordering::Acquire) > waiting {
                        return;
                    }
                    // The kernel has nothing that would wake the ring's
                    // thread, so nobody else can try again.
                    std::thread::sleep(std::time::Duration::from_micros(100));
                    continue;
                }
            }
            // SAFETY: the caller holds the lock.
            if unsafe { self.ring.submission_shared().is_empty() } {
                self.stuck.store(false, Ordering::Release);
                return;
            }
        }
    }

    /// Tries again to hand over what waits.
    fn unstick(&self) {
        let _held = self.submitting.lock();
        self.enter_locked();
    }

    /// Ends `run` when everything in flight is complete.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        while !self.push(opcode::Nop::new().build().user_data(WAKE)) {
            self.unstick();
            std::thread::yield_now();
        }
    }

    /// Waits for completions and runs them, until `stop`.
    pub fn run(&self) {
        let mut completions: Vec<(u64, i32)> = Vec::new();
        loop {
            if self.stopping.load(Ordering::Acquire) && self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            self.wait();
            {
                // SAFETY: `run` is called by one thread, so this is the only
                // view of the completion queue.
                let queue = unsafe { self.ring.completion_shared() };
                completions.extend(queue.map(|entry| (entry.user_data(), entry.result())));
            }
            for (user_data, result) in completions.drain(..) {
                if user_data == WAKE {
                    continue;
                }
                // Before anybody is told: whoever asks then is to find it so. And
                // before it is looked at: this orders what `submit` wrote by the
                // language's rules, which know nothing of the kernel.
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                // SAFETY: `submit` made the box and the kernel hands each
                // request back once.
                let in_flight = unsafe { Box::from_raw(user_data as *mut InFlight) };
                let InFlight { operation, iovecs } = *in_flight;
                drop(iovecs);
                let result = usize::try_from(result)
                    .map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
                (operation.complete)(result);
            }
            if self.stuck.load(Ordering::Acquire) {
                self.unstick();
            }
        }
    }

    fn wait(&self) {
        const GET_EVENTS: u32 = 1;
        // SAFETY: there is no argument; nothing is submitted here.
        let result = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, GET_EVENTS, None) };
        if result.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
            // Out of memory, say: the completions stay in the kernel.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
