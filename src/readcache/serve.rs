//! What the threads of a cache do: look, read what is missing once, fill.

use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::desk::{Desk, Found, Then};
use super::folder::{Folder, Got, Options, Put};
use super::span::{Content, Key};
use super::{copy, read_by, Counts, Wanted};
use crate::backend::{DataPath, Done};
use crate::clock::{self, Signal};
use crate::error::Result;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::Mutex;
#[cfg(test)]
use crate::sync::channel;
use crate::sys::iobuf::IoBuf;
use crate::thread::{self, Handoff};

const LOOKING_THREADS: usize = 4;
/// The desk answers long before.
const LOOKING_TIME: Duration = Duration::from_secs(60);
/// What may wait to be written; more is not kept.
const FILLING_BYTES_MAX: usize = 8 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Who waits for a span that is being read.
struct Waiting {
    skip: usize,
    buf: IoBuf,
    done: Done,
}

/// A span that is not in its file yet.
enum Coming {
    Read(Vec<Waiting>),
    Written(Arc<Content>),
}

pub(super) struct Shared {
    pub options: Options,
    desk: Arc<Desk>,
    looking: Arc<Handoff<Work>>,
    filling: Arc<Handoff<Work>>,
    is_started: OnceLock<bool>,
    folder: Mutex<Option<Arc<Folder>>>,
    coming: Mutex<HashMap<Key, Coming>>,
    filling_bytes: AtomicUsize,
    pub counts: Counts,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.desk.close();
        self.looking.close();
        self.filling.close();
    }
}

/// Somebody's fault must not end a thread that answers others.
fn run(work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        ::log::error!("a completion of the read cache has panicked");
    }
}

impl Shared {
    pub fn new(options: &Options) -> Shared {
        Shared {
            options: options.clone(),
            desk: Arc::new(Desk::new(options.path.display().to_string())),
            looking: Arc::default(),
            filling: Arc::default(),
            is_started: OnceLock::new(),
            folder: Mutex::new(None),
            coming: Mutex::default(),
            filling_bytes: AtomicUsize::new(0),
            counts: Counts::default(),
        }
    }

    #[cfg(feature = "testkit")]
    pub fn is_filling(&self) -> bool {
        !self.coming.lock().is_empty()
    }

    /// Has those that look hang, until what this returns is dropped.
    #[cfg(test)]
    pub fn hang(&self) -> Vec<channel::Sender<()>> {
        let hang = |_| {
            let (hold, held) = channel::bounded::<()>(0);
            drop(self.looking.send(Box::new(move || while held.recv().is_ok() {})));
            hold
        };
        (0..LOOKING_THREADS).map(hang).collect()
    }

    /// The threads hold nothing of this: they end with it.
    fn start(&self) -> bool {
        *self.is_started.get_or_init(|| {
            let serve = |name: &str, work: &Arc<Handoff<Work>>| {
                let work = Arc::clone(work);
                thread::spawn(name, move || work.serve(run, drop))
            };
            let desk = Arc::clone(&self.desk);
            let started = (0..LOOKING_THREADS)
                .try_for_each(|_| serve("arch-cache", &self.looking).map(drop))
                .and_then(|()| serve("arch-cache-fill", &self.filling))
                .and_then(|_| thread::spawn("arch-cache-look", move || desk.watch()));
            if let Err(error) = &started {
                ::log::warn!("the read cache is not used: {}", error.full());
            }
            started.is_ok()
        })
    }

    fn folder(&self) -> Result<Arc<Folder>> {
        if let Some(folder) = self.folder.lock().clone() {
            return Ok(folder);
        }
        // Not under the lock: it may take long.
        let folder = Arc::new(Folder::open(&self.options)?);
        Ok(Arc::clone(self.folder.lock().get_or_insert(folder)))
    }

    /// Another one may be there next time.
    fn close_folder(&self) {
        drop(self.folder.lock().take());
    }

    /// Runs `then` with what the cache says, on a thread of its own; or at once
    /// if it is not to be asked.
    pub fn look(self: &Arc<Self>, key: Key, bytes: usize, then: Then) {
        let asked = match self.start() {
            true => self.desk.ask(then),
            false => Err(then),
        };
        let ticket = match asked {
            Ok(ticket) => ticket,
            Err(then) => {
                self.counts.asides.fetch_add(1, Ordering::Relaxed);
                return then(Found::Aside);
            }
        };
        let shared = Arc::clone(self);
        let work = move || {
            let found = shared.look_here(&key, bytes);
            if let Some(then) = shared.desk.answer(ticket) {
                shared.count(&found);
                then(found);
            }
        };
        // Only a queue that is closed takes nothing, and this holds it open.
        if self.looking.send(Box::new(work)).is_err() {
            if let Some(then) = self.desk.answer(ticket) {
                then(Found::Aside);
            }
        }
    }

    /// As `look`, for who waits.
    pub fn look_now(self: &Arc<Self>, key: Key, bytes: usize) -> Found {
        let answer = Arc::new((Mutex::new(None), Signal::default()));
        let told = Arc::clone(&answer);
        let then = move |found| {
            *told.0.lock() = Some(found);
            told.1.notify_all();
        };
        self.look(key, bytes, Box::new(then));
        let mut found = answer.0.lock();
        loop {
            if let Some(found) = found.take() {
                return found;
            }
            answer.1.wait_until(&mut found, clock::now() + LOOKING_TIME);
        }
    }

    fn count(&self, found: &Found) {
        let counter = match found {
            Found::Here(_) => &self.counts.hits,
            Found::Missing => &self.counts.misses,
            Found::Aside => &self.counts.asides,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn look_here(&self, key: &Key, bytes: usize) -> Found {
        if let Some(Coming::Written(content)) = self.coming.lock().get(key) {
            return Found::Here(Arc::clone(content));
        }
        let got = self.folder().map_err(|error| error.full()).and_then(|folder| {
            folder.get(key, bytes).map_err(|error| error.to_string())
        });
        match got {
            Ok(got) => {
                self.desk.works();
                match got {
                    Got::Here(content) => return Found::Here(Arc::new(content)),
                    Got::Nothing => {}
                    Got::Damaged => {
                        self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Found::Missing
            }
            Err(why) => {
                self.close_folder();
                self.desk.fails(&why);
                Found::Aside
            }
        }
    }

    /// Reads a span from the store for all that want it.
    pub fn fetch(
        self: &Arc<Self>,
        path: &Arc<dyn DataPath>,
        key: Key,
        wanted: Wanted,
        buf: IoBuf,
        done: Done,
    ) {
        let waiting = Waiting { skip: wanted.skip(), buf, done };
        {
            let mut coming = self.coming.lock();
            match coming.entry(key) {
                Entry::Occupied(mut entry) => match entry.get_mut() {
                    Coming::Read(all) => return all.push(waiting),
                    Coming::Written(content) => {
                        let content = Arc::clone(content);
                        drop(coming);
                        return waiting.finish(&Ok(content));
                    }
                },
                Entry::Vacant(entry) => drop(entry.insert(Coming::Read(vec![waiting]))),
            }
        }
        let whole = IoBuf::alloc(wanted.span_bytes());
        let (shared, read) = (Arc::clone(self), whole.clone());
        let done = move |result: Result<()>| {
            let fill = |bytes: &mut [u8]| read.copy_to(0, bytes);
            let result = result.map(|()| Arc::new(Content::of(read.len(), fill)));
            shared.fetched(key, &result);
        };
        let span = Wanted { offset_bytes: wanted.span_at(), ..wanted };
        read_by(path, &span, &whole, Box::new(done));
    }

    fn fetched(self: &Arc<Self>, key: Key, result: &Result<Arc<Content>>) {
        let waiting = match self.coming.lock().remove(&key) {
            Some(Coming::Read(waiting)) => waiting,
            _ => Vec::new(),
        };
        // Before they are told: who asks next finds it.
        if let Ok(content) = result {
            self.keep(key, content);
        }
        waiting.into_iter().for_each(|waiting| run(|| waiting.finish(result)));
    }

    /// Has a span written to its file, if there is not too much to write.
    pub fn keep(self: &Arc<Self>, key: Key, content: &Arc<Content>) {
        let bytes = content.bytes().len();
        let before = self.filling_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= FILLING_BYTES_MAX && self.desk.may_fill();
        let is_first = fits && {
            let mut coming = self.coming.lock();
            match coming.entry(key) {
                Entry::Occupied(_) => false,
                Entry::Vacant(entry) => {
                    entry.insert(Coming::Written(Arc::clone(content)));
                    true
                }
            }
        };
        if !is_first {
            self.filling_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(u64::from(!fits), Ordering::Relaxed);
            return;
        }
        let (shared, content) = (Arc::clone(self), Arc::clone(content));
        let work = move || {
            shared.fill(&key, &content);
            shared.coming.lock().remove(&key);
            shared.filling_bytes.fetch_sub(bytes, Ordering::Relaxed);
        };
        if self.filling.send(Box::new(work)).is_err() {
            ::log::error!("a span was to be written to a read cache that is closed");
        }
    }

    fn fill(&self, key: &Key, content: &Content) {
        let put = self.folder().map_err(|error| error.full()).and_then(|folder| {
            folder.put(key, content).map_err(|error| error.to_string())
        });
        match put {
            Ok(Put::Done | Put::There) => {
                self.counts.filled.fetch_add(1, Ordering::Relaxed);
                self.desk.fills();
            }
            Ok(Put::NotNow) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                self.close_folder();
                self.desk.fails_to_fill(&why);
            }
        }
    }
}

impl Waiting {
    fn finish(self, result: &Result<Arc<Content>>) {
        match result {
            Ok(content) => {
                copy(content, self.skip, &self.buf);
                (self.done)(Ok(()));
            }
            Err(error) => (self.done)(Err(error.duplicate())),
        }
    }
}
