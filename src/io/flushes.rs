//! Flushes and writes with FUA: whatever waits while one sync runs shares the
//! next. One thread syncs at a time: a thread of the data path that is awake,
//! or our own.

use std::sync::Arc;

use super::request::Once;
use super::workers::{guarded, Serving, Workers};
use crate::backend::{Job, Then};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::{self, Planted};
use crate::sync::Mutex;
use crate::volume::{Begun, Volume};

struct Waiting {
    volume: Arc<Volume>,
    /// `None`: everything; else only this write.
    begun: Option<Begun>,
    done: Once,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// A thread is at it, or on its way.
    syncing: bool,
}

struct Shared {
    no_flush: bool,
    queue: Mutex<Queue>,
    serving: Serving,
    thread: Arc<Workers>,
}

/// What waits for a sync, and a thread for it.
pub struct Flushes(Arc<Shared>);

impl Flushes {
    pub fn start(no_flush: bool, serving: &Serving) -> Result<Flushes> {
        let (queue, thread) = (Mutex::default(), Workers::start("arch-flush", 1, serving)?);
        let serving = Arc::clone(serving);
        Ok(Flushes(Arc::new(Shared { no_flush, queue, serving, thread })))
    }

    pub fn flush(&self, volume: Arc<Volume>, done: Once) {
        self.send(Waiting { volume, begun: None, done });
    }

    /// Makes the writes of one request durable.
    pub fn make_durable(&self, volume: Arc<Volume>, mut begun: Vec<Begun>, done: Once) {
        if self.0.no_flush {
            return done.complete(Ok(()));
        }
        let only = if begun.len() == 1 { begun.pop() } else { None };
        self.send(Waiting { volume, begun: only, done });
    }

    fn send(&self, waiting: Waiting) {
        {
            let mut queue = self.0.queue.lock();
            queue.waiting.push(waiting);
            if std::mem::replace(&mut queue.syncing, true) {
                return;
            }
        }
        self.0.dispatch();
    }

    /// Ends the thread. Nothing waits any more.
    pub fn stop(&self) {
        self.0.thread.stop();
    }
}

impl Shared {
    /// Has a thread take what waits.
    fn dispatch(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        let job: Job = Box::new(move || shared.sync());
        let volume = Arc::clone(&self.serving.read());
        let refused = match volume.data_path() {
            Some(path) => path.run_awake(job).err(),
            None => Some(job),
        };
        if let Some(job) = refused {
            self.thread.run(move || job()());
        }
    }

    /// One sync for all who wait now, and what tells them.
    fn sync(self: Arc<Self>) -> Then {
        let group = std::mem::take(&mut self.queue.lock().waiting);
        // What it stays if the sync panics.
        let mut result = Err(Error::new(ErrorKind::Internal, "flush"));
        guarded(&self.serving, || result = self.sync_for(&group));
        Box::new(move || {
            let more = {
                let mut queue = self.queue.lock();
                queue.syncing = !queue.waiting.is_empty() && !fault::on(Planted::FlushForgotten);
                queue.syncing
            };
            if more {
                self.dispatch();
            }
            guarded(&self.serving, || {
                for waiting in group {
                    waiting.done.complete(match &result {
                        Ok(()) => Ok(()),
                        Err(error) => Err(error.duplicate()),
                    });
                }
            });
        })
    }

    fn sync_for(&self, group: &[Waiting]) -> Result<()> {
        let Some(volume) = group.first().map(|first| &first.volume) else { return Ok(()) };
        match group {
            _ if self.no_flush => volume.check_alive(),
            [Waiting { begun: Some(begun), .. }] => volume.make_durable(begun),
            _ => volume.flush(),
        }
    }
}
