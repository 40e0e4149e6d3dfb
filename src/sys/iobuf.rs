//! `IoBuf`: somebody else's memory, such as a guest's, as the target or the
//! source of one request. The guest may change it at any time, so it is never
//! seen as a Rust slice: bytes are copied in or out, or the kernel is given
//! the addresses.

use std::sync::Arc;

/// A list of memory ranges. Cloning and slicing copy only the list.
#[derive(Clone, Debug)]
pub struct IoBuf {
    parts: Vec<Part>,
    bytes: usize,
    /// Keeps memory of our own alive; `None` for a caller's.
    owner: Option<Arc<OwnedBytes>>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    address: *mut u8,
    bytes: usize,
}

// SAFETY: a Part is an address and a length; whoever made the IoBuf promised
// (in `from_raw`) that the memory may be used from any thread until the
// request is complete.
unsafe impl Send for Part {}
// SAFETY: as above; all access is by copying or by the kernel.
unsafe impl Sync for Part {}

/// Page-aligned memory of our own.
#[derive(Debug)]
struct OwnedBytes {
    address: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: plain memory, freed once, by the last owner.
unsafe impl Send for OwnedBytes {}
// SAFETY: as above.
unsafe impl Sync for OwnedBytes {}

impl Drop for OwnedBytes {
    fn drop(&mut self) {
        // SAFETY: `address` came from `alloc_zeroed` with this very layout.
        unsafe { std::alloc::dealloc(self.address, self.layout) }
    }
}

/// Zeroed memory of our own that nobody else sees yet, aligned for O_DIRECT.
#[derive(Debug)]
pub struct AlignedBytes {
    owned: OwnedBytes,
    bytes: usize,
}

impl AlignedBytes {
    pub fn zeroed(bytes: usize) -> AlignedBytes {
        AlignedBytes { owned: OwnedBytes::zeroed(bytes), bytes }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is initialized, at least `bytes` long, and ours
        // alone: nobody else has its address.
        unsafe { std::slice::from_raw_parts_mut(self.owned.address, self.bytes) }
    }

    /// The same memory, to be shared.
    pub fn into_iobuf(self) -> IoBuf {
        let address = self.owned.address;
        let parts = if self.bytes == 0 { Vec::new() } else { vec![Part { address, bytes: self.bytes }] };
        IoBuf { parts, bytes: self.bytes, owner: Some(Arc::new(self.owned)) }
    }
}

impl OwnedBytes {
    fn zeroed(bytes: usize) -> OwnedBytes {
        let rounded = bytes.max(1).next_multiple_of(DIRECT_ALIGNMENT_BYTES);
        let Ok(layout) = std::alloc::Layout::from_size_align(rounded, DIRECT_ALIGNMENT_BYTES) else {
            // Beyond isize::MAX bytes: no memory is that large.
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<u8>());
        };
        // SAFETY: the layout has a size of at least one page.
        let address = unsafe { std::alloc::alloc_zeroed(layout) };
        if address.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        OwnedBytes { address, layout }
    }
}

/// What O_DIRECT asks of memory and offsets on every disk we know.
pub const DIRECT_ALIGNMENT_BYTES: usize = 4096;

impl IoBuf {
    /// Wraps ranges of foreign memory.
    ///
    /// # Safety
    ///
    /// Every range must stay valid for reads (and for writes, if it is the
    /// target of a read request) from any thread until the last clone and
    /// slice of the result is gone.
    pub unsafe fn from_raw(ranges: impl IntoIterator<Item = (*mut u8, usize)>) -> IoBuf {
        let parts: Vec<Part> = ranges
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(address, bytes)| Part { address, bytes })
            .collect();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        IoBuf { parts, bytes, owner: None }
    }

    /// Zeroed memory of our own, aligned for O_DIRECT.
    pub fn alloc(bytes: usize) -> IoBuf {
        AlignedBytes::zeroed(bytes).into_iobuf()
    }

    /// A copy of `data`, aligned for O_DIRECT.
    pub fn copy_of(data: &[u8]) -> IoBuf {
        let buf = IoBuf::alloc(data.len());
        buf.copy_from(0, data);
        buf
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// True if every range begins and ends on a multiple of `alignment_bytes`.
    pub fn is_aligned(&self, alignment_bytes: usize) -> bool {
        self.parts.iter().all(|part| {
            (part.address as usize) % alignment_bytes == 0 && part.bytes % alignment_bytes == 0
        })
    }

    /// The ranges that hold `bytes` bytes from `at`; shorter if it ends.
    #[must_use]
    pub fn slice(&self, at: usize, bytes: usize) -> IoBuf {
        let mut parts = Vec::with_capacity(self.parts.len().min(4));
        self.each(at, bytes, |address, bytes, _| parts.push(Part { address, bytes }));
        let bytes = parts.iter().map(|part| part.bytes).sum();
        IoBuf { parts, bytes, owner: self.owner.clone() }
    }

    /// Several ranges, each `(at, bytes)`, one behind the other. The same one
    /// may be there more than once.
    #[must_use]
    pub fn gather(&self, ranges: &[(usize, usize)]) -> IoBuf {
        let mut parts = Vec::with_capacity(ranges.len());
        for (at, bytes) in ranges {
            self.each(*at, *bytes, |address, bytes, _| parts.push(Part { address, bytes }));
        }
        let bytes = parts.iter().map(|part| part.bytes).sum();
        IoBuf { parts, bytes, owner: self.owner.clone() }
    }

    /// Calls `visit(address, bytes, position)` for each range of the slice.
    fn each(&self, at: usize, bytes: usize, mut visit: impl FnMut(*mut u8, usize, usize)) {
        let mut skip = at;
        let mut left = bytes;
        let mut position = 0;
        for part in &self.parts {
            if left == 0 {
                break;
            }
            if skip >= part.bytes {
                skip -= part.bytes;
                continue;
            }
            let take = (part.bytes - skip).min(left);
            // SAFETY: skip < part.bytes, so this stays inside the range.
            let address = unsafe { part.address.add(skip) };
            visit(address, take, position);
            skip = 0;
            left -= take;
            position += take;
        }
    }

    /// Copies `data` into the memory from `at` on.
    pub fn copy_from(&self, at: usize, data: &[u8]) {
        self.each(at, data.len(), |address, bytes, position| {
            // SAFETY: the range is valid for writes (`from_raw`), the slice
            // holds position + bytes bytes, and `data` is Rust memory that
            // nobody else can reach for writing.
            unsafe { std::ptr::copy(data[position..].as_ptr(), address, bytes) }
        });
    }

    /// Copies the memory from `at` on into `data`.
    pub fn copy_to(&self, at: usize, data: &mut [u8]) {
        let bytes = data.len();
        self.each(at, bytes, |address, bytes, position| {
            // SAFETY: the range is valid for reads (`from_raw`), `data` is
            // ours alone.
            unsafe { std::ptr::copy(address, data[position..].as_mut_ptr(), bytes) }
        });
    }

    pub fn fill_zero(&self, at: usize, bytes: usize) {
        self.each(at, bytes, |address, bytes, _| {
            // SAFETY: the range is valid for writes (`from_raw`).
            unsafe { std::ptr::write_bytes(address, 0, bytes) }
        });
    }

    /// The ranges as the kernel wants them.
    pub fn to_iovecs(&self) -> Vec<libc::iovec> {
        self.parts
            .iter()
            .map(|part| libc::iovec { iov_base: part.address.cast(), iov_len: part.bytes })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cross_ranges() {
        let mut a = *b"abcd";
        let mut b = *b"efgh";
        // SAFETY: both arrays outlive `buf`.
        let buf = unsafe { IoBuf::from_raw([(a.as_mut_ptr(), 4), (b.as_mut_ptr(), 4)]) };
        let middle = buf.slice(2, 4);
        let mut out = [0; 4];
        middle.copy_to(0, &mut out);
        assert_eq!(&out, b"cdef");
        middle.copy_from(1, b"XY");
        buf.slice(6, 100).fill_zero(0, 2);
        assert_eq!((&a, &b), (b"abcX", b"Yf\0\0"));
    }

    #[test]
    fn ranges_are_gathered_in_the_order_that_is_asked_for() {
        let buf = IoBuf::copy_of(b"abcdefgh").gather(&[(6, 2), (0, 3), (6, 1)]);
        let mut out = [0; 6];
        buf.copy_to(0, &mut out);
        assert_eq!((&out, buf.len()), (b"ghabcg", 6));
    }

    #[test]
    fn our_own_memory_is_aligned_and_lives_as_long_as_a_slice() {
        let buf = IoBuf::copy_of(&[7; 5000]);
        assert!(buf.slice(0, 4096).is_aligned(DIRECT_ALIGNMENT_BYTES));
        let tail = buf.slice(4999, 1);
        drop(buf);
        let mut out = [0];
        tail.copy_to(0, &mut out);
        assert_eq!(out, [7]);
    }
}
