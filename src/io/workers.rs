//! The threads of one open device: workers for what may block, one for the
//! log, one for flushes, one for the background.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{JoinHandle, Mutex, RwLock};
use crate::thread::{self, Handoff};
use crate::volume::Volume;

pub type Job = Box<dyn FnOnce() + Send>;

/// The volume that a device serves now.
pub type Serving = Arc<RwLock<Arc<Volume>>>;

/// Runs `work`; a panic in it stops this one volume and nothing else.
pub fn guarded(serving: &Serving, work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        let volume = Arc::clone(&serving.read());
        volume.poison(Error::sentence(
            ErrorKind::Internal,
            "a fault in libarchipelago (please report it with what standard error says)",
        ));
    }
}

/// Threads that run jobs, oldest first.
pub struct Workers {
    jobs: Arc<Handoff<Job>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub fn start(name: &str, count: usize, serving: &Serving) -> Result<Arc<Workers>> {
        let jobs = Arc::new(Handoff::default());
        let workers = Workers { jobs: Arc::clone(&jobs), threads: Mutex::default() };
        for _ in 0..count {
            let (jobs, serving) = (Arc::clone(&jobs), Arc::clone(serving));
            let started = thread::spawn(name, move || jobs.serve(|job: Job| guarded(&serving, job), |()| {}));
            // Dropping the others ends them.
            workers.threads.lock().push(started?);
        }
        Ok(Arc::new(workers))
    }

    /// Runs `job` on one of the threads. After `stop` it is dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        drop(self.jobs.send(Box::new(job)));
    }

    /// As `run`, but after `stop` on this thread.
    pub fn run_or_here(&self, job: Job) {
        if let Err(job) = self.jobs.send(job) {
            job();
        }
    }

    /// Runs what is queued and ends the threads. Must not be called on one of
    /// them.
    pub fn stop(&self) {
        self.jobs.close();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has poisoned its volume already.
            drop(thread.join());
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads.lock().len()).finish_non_exhaustive()
    }
}
