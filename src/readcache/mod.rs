//! A read cache: what was read of sealed blocks, on a local disk, for all
//! processes of a host.
//!
//! A block is sealed when nobody will write to it again. Who reads says so, and
//! then the name of a block and a place in it have one content for ever: nothing
//! here is ever out of date. What is never read again only takes room, until it
//! is what was not used for longest.
//!
//! Nothing is waited for but an answer of the disk, for a second. What is read
//! from the store instead is the whole span, by one for all that want it; it is
//! written to the disk by a thread of its own, and not at all if that has too
//! much to do. All that touches the disk is done on the cache's own threads.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use crate::backend::{DataPath, Done};
use crate::error::Result;
use crate::name::{Id, ObjectName};
use crate::sync::atomic::AtomicU64;
use crate::sync::Mutex;
use crate::sys::iobuf::IoBuf;

mod desk;
mod folder;
mod serve;
mod span;

pub use folder::Options;
pub use span::SPAN_BYTES;

use desk::Found;
use serve::Shared;
use span::{Content, Key};

/// What a cache has done in this process.
#[derive(Debug, Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    /// Read from the store without asking.
    pub asides: AtomicU64,
    /// Files that were not what they should be, and were removed.
    pub damaged: AtomicU64,
    pub filled: AtomicU64,
    /// Not kept, because there was too much to write.
    pub dropped: AtomicU64,
}

/// A range of one span of a sealed block. It ends within the span.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: ObjectName,
    pub offset_bytes: u64,
    /// Of the whole block.
    pub block_bytes: u64,
}

impl Wanted {
    /// Where in its span it begins.
    fn skip(&self) -> usize {
        (self.offset_bytes % SPAN_BYTES) as usize
    }

    /// Where in the block its span begins.
    fn span_at(&self) -> u64 {
        self.offset_bytes - self.offset_bytes % SPAN_BYTES
    }

    fn span_bytes(&self) -> usize {
        SPAN_BYTES.min(self.block_bytes - self.span_at()) as usize
    }
}

/// The read cache of one store.
#[derive(Clone)]
pub struct ReadCache {
    shared: Arc<Shared>,
    store: Id,
}

impl fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadCache").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// Those of this process: disks share them.
fn all() -> &'static Mutex<HashMap<Options, Weak<Shared>>> {
    static ALL: OnceLock<Mutex<HashMap<Options, Weak<Shared>>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}

impl ReadCache {
    /// The cache of the store with this id. Touches no disk.
    pub fn of(options: &Options, store: Id) -> ReadCache {
        let mut all = all().lock();
        if let Some(shared) = all.get(options).and_then(Weak::upgrade) {
            return ReadCache { shared, store };
        }
        let shared = Arc::new(Shared::new(options));
        all.retain(|_, shared| shared.strong_count() > 0);
        all.insert(options.clone(), Arc::downgrade(&shared));
        ReadCache { shared, store }
    }

    /// As another process would have it: for tests.
    #[cfg(feature = "testkit")]
    pub fn alone(options: &Options, store: Id) -> ReadCache {
        ReadCache { shared: Arc::new(Shared::new(options)), store }
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Waits until nothing is left to be written: for tests.
    #[cfg(feature = "testkit")]
    pub fn wait_filled(&self) {
        while self.shared.is_filling() {
            crate::clock::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn key(&self, wanted: &Wanted) -> Option<Key> {
        let ObjectName::Block { epoch, index } = wanted.name else { return None };
        let number = u32::try_from(wanted.offset_bytes / SPAN_BYTES).ok()?;
        Some(Key { store: self.store, epoch, index, number })
    }

    /// Reads a part of a span into `buf`, from the cache or by `path`. `done`
    /// may run before this returns, but never on this thread.
    pub fn submit(&self, path: &Arc<dyn DataPath>, wanted: Wanted, buf: IoBuf, done: Done) {
        let Some(key) = self.key(&wanted) else {
            return read_by(path, &wanted, &buf, done);
        };
        let (shared, path) = (Arc::clone(&self.shared), Arc::clone(path));
        let bytes = wanted.span_bytes();
        let then = move |found| match found {
            Found::Here(content) => {
                copy(&content, wanted.skip(), &buf);
                done(Ok(()));
            }
            Found::Missing => shared.fetch(&path, key, wanted, buf, done),
            Found::Aside => read_by(&path, &wanted, &buf, done),
        };
        self.shared.look(key, bytes, Box::new(then));
    }

    /// Reads a part of a span into `data`, on this thread. `read` reads the
    /// block: from where, into what.
    pub fn read(
        &self,
        wanted: &Wanted,
        data: &mut [u8],
        read: impl FnOnce(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(key) = self.key(wanted) else { return read(wanted.offset_bytes, data) };
        let skip = wanted.skip();
        let content = match self.shared.look_now(key, wanted.span_bytes()) {
            Found::Here(content) => content,
            Found::Aside => return read(wanted.offset_bytes, data),
            Found::Missing => {
                let mut result = Ok(());
                let fill = |whole: &mut [u8]| result = read(wanted.span_at(), whole);
                let content = Arc::new(Content::of(wanted.span_bytes(), fill));
                result?;
                self.shared.keep(key, &content);
                content
            }
        };
        data.copy_from_slice(&content.bytes()[skip..skip + data.len()]);
        Ok(())
    }
}

fn read_by(path: &Arc<dyn DataPath>, wanted: &Wanted, buf: &IoBuf, done: Done) {
    path.submit_read(&wanted.name, wanted.offset_bytes, buf.clone(), done);
}

fn copy(content: &Content, skip: usize, buf: &IoBuf) {
    buf.copy_from(0, &content.bytes()[skip..skip + buf.len()]);
}

#[cfg(test)]
mod tests;
