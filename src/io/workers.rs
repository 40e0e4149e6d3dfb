//! The threads of one open device: workers for what may block, one for the
//! log, one for flushes, one for the background.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{unbounded, Receiver, Sender};
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::thread;
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
#[derive(Debug)]
pub struct Workers {
    sender: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub fn start(name: &str, count: usize, serving: &Serving) -> Result<Arc<Workers>> {
        let (sender, receiver): (Sender<Job>, Receiver<Job>) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..count {
            let (receiver, serving) = (receiver.clone(), Arc::clone(serving));
            threads.push(thread::spawn(name, move || {
                while let Ok(job) = receiver.recv() {
                    guarded(&serving, job);
                }
            })?);
        }
        Ok(Arc::new(Workers { sender: Mutex::new(Some(sender)), threads: Mutex::new(threads) }))
    }

    /// Runs `job` on one of the threads. After `stop` it is dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(sender) = self.sender.lock().as_ref() {
            drop(sender.send(Box::new(job)));
        }
    }

    /// Runs what is queued and ends the threads. Must not be called on one of
    /// them.
    pub fn stop(&self) {
        drop(self.sender.lock().take());
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has poisoned its volume already.
            drop(thread.join());
        }
    }
}
