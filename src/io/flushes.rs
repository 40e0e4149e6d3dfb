//! Flushes and writes with FUA: whatever waits while one sync runs shares the
//! next.

use std::sync::Arc;

use crossbeam_channel::{unbounded, Receiver, Sender};
use parking_lot::Mutex;

use super::request::Once;
use super::workers::{guarded, Serving};
use crate::error::Result;
use crate::thread;
use crate::volume::{Begun, Volume};

struct Waiting {
    volume: Arc<Volume>,
    /// `None`: everything; else only this write.
    begun: Option<Begun>,
    done: Once,
}

/// The thread that syncs.
pub struct Flushes {
    no_flush: bool,
    sender: Mutex<Option<Sender<Waiting>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Flushes {
    pub fn start(no_flush: bool, serving: &Serving) -> Result<Flushes> {
        let (sender, receiver) = unbounded();
        let serving = Arc::clone(serving);
        let thread = thread::spawn("arch-flush", move || run(&receiver, no_flush, &serving))?;
        Ok(Flushes { no_flush, sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    pub fn flush(&self, volume: Arc<Volume>, done: Once) {
        self.send(Waiting { volume, begun: None, done });
    }

    /// Makes the writes of one request durable.
    pub fn make_durable(&self, volume: Arc<Volume>, mut begun: Vec<Begun>, done: Once) {
        if self.no_flush {
            return done.complete(Ok(()));
        }
        let only = if begun.len() == 1 { begun.pop() } else { None };
        self.send(Waiting { volume, begun: only, done });
    }

    fn send(&self, waiting: Waiting) {
        if let Some(sender) = self.sender.lock().as_ref() {
            drop(sender.send(waiting));
        }
    }

    pub fn stop(&self) {
        drop(self.sender.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

fn run(receiver: &Receiver<Waiting>, no_flush: bool, serving: &Serving) {
    while let Ok(first) = receiver.recv() {
        let mut group = vec![first];
        group.extend(receiver.try_iter());
        guarded(serving, || serve(group, no_flush));
    }
}

/// One sync for all who wait.
fn serve(group: Vec<Waiting>, no_flush: bool) {
    let volume = Arc::clone(&group[0].volume);
    let result = match group.as_slice() {
        _ if no_flush => volume.check_alive(),
        [Waiting { begun: Some(begun), .. }] => volume.make_durable(begun),
        _ => volume.flush(),
    };
    for waiting in group {
        let result = match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(error.duplicate()),
        };
        waiting.done.complete(result);
    }
}
