//! The threads of one open device: workers for what may block, one for the
//! log, one for flushes, one for the background.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{unbounded, Receiver, Sender};
use parking_lot::Mutex;

use crate::error::Result;
use crate::thread;

pub type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs, oldest first.
#[derive(Debug)]
pub struct Workers {
    sender: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    pub fn start(name: &str, count: usize) -> Result<Arc<Workers>> {
        let (sender, receiver): (Sender<Job>, Receiver<Job>) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..count {
            let receiver = receiver.clone();
            threads.push(thread::spawn(name, move || {
                while let Ok(job) = receiver.recv() {
                    job();
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
