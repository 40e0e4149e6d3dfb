//! A span: 64 KiB of a sealed block, and the file that has it.
//!
//! The file says in front what it is of, and has the BLAKE3 of that and of the
//! content. Nothing of it is believed before it is what a file of just this
//! span and this content would be.
//!
//! ```text
//! offset bytes
//!      0     8  "ARCHSPAN"
//!      8     4  version, 1
//!     12     4  bytes of content
//!     16    16  id of the store
//!     32    16  epoch of the block
//!     48     8  index of the block
//!     56     4  number of the span in the block
//!     60     4  0
//!     64    32  BLAKE3 of the 64 bytes before and of the content
//!     96        content
//! ```

use crate::codec::Writer;
use crate::name::Id;

/// What is kept and found as one; the last one of a small block is shorter.
pub const SPAN_BYTES: u64 = 64 << 10;

pub const HEAD_BYTES: usize = 96;
const MAGIC: &[u8; 8] = b"ARCHSPAN";
const VERSION: u32 = 1;

/// Which span. The store is told by its own id: a name says where a store is,
/// and another one can be there tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub store: Id,
    pub epoch: Id,
    pub index: u64,
    pub number: u32,
}

impl Key {
    fn front(&self, bytes: usize) -> Vec<u8> {
        let mut front = Writer::with_capacity(HEAD_BYTES);
        front.bytes(MAGIC);
        front.u32(VERSION);
        front.u32(bytes as u32);
        front.id(self.store);
        front.id(self.epoch);
        front.u64(self.index);
        front.u32(self.number);
        front.u32(0);
        front.0
    }

    /// What its file is called.
    pub fn file_name(&self) -> String {
        blake3::hash(&self.front(0)).to_hex()[..32].to_owned()
    }

    /// What the file of this content begins with.
    pub fn head(&self, content: &[u8]) -> Vec<u8> {
        let mut front = self.front(content.len());
        let hash = blake3::Hasher::new().update(&front).update(content).finalize();
        front.extend_from_slice(hash.as_bytes());
        front
    }
}

/// The content of a span, in the memory of its file.
#[derive(Debug)]
pub struct Content(Vec<u8>);

impl Content {
    /// Of `bytes` bytes, which `fill` knows.
    pub fn of(bytes: usize, fill: impl FnOnce(&mut [u8])) -> Content {
        let mut file = vec![0; HEAD_BYTES + bytes];
        fill(&mut file[HEAD_BYTES..]);
        Content(file)
    }

    /// `None` if this is not the file of this span with `bytes` bytes, whole
    /// and sound.
    pub fn from_file(key: &Key, bytes: usize, file: Vec<u8>) -> Option<Content> {
        let fits = file.len() == HEAD_BYTES + bytes && key.head(&file[HEAD_BYTES..]) == file[..HEAD_BYTES];
        fits.then_some(Content(file))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0[HEAD_BYTES..]
    }
}
