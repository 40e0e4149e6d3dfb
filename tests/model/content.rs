//! What a volume or a snapshot must hold, byte by byte; pages that are not
//! kept are zeroes.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// A copy shares its pages until one of the two is written to.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size_bytes: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

/// Bytes that tell which write they are of and where they belong; never zero.
pub fn pattern(tag: u64, offset_bytes: u64, bytes: u64) -> Vec<u8> {
    let of = |at: u64| {
        let mixed = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ tag.wrapping_mul(0xD134_2543_DE82_EF95);
        ((mixed ^ (mixed >> 29)) >> 17) as u8 | 1
    };
    (offset_bytes..offset_bytes + bytes).map(of).collect()
}

/// The parts of a range, one for each page: its number, where the part begins
/// in it, where in the range, and how long it is.
fn parts(offset_bytes: u64, bytes: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let end = offset_bytes + bytes;
    (offset_bytes / PAGE..end.div_ceil(PAGE)).filter(move |_| bytes > 0).map(move |page| {
        let start = offset_bytes.max(page * PAGE);
        let length = end.min((page + 1) * PAGE) - start;
        (page, (start - page * PAGE) as usize, (start - offset_bytes) as usize, length as usize)
    })
}

impl Content {
    pub fn zeroes(size_bytes: u64) -> Content {
        Content { size_bytes, pages: BTreeMap::new() }
    }

    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) {
        for (page, start, at, length) in parts(offset_bytes, data.len() as u64) {
            let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[start..start + length].copy_from_slice(&data[at..at + length]);
        }
    }

    pub fn zero(&mut self, offset_bytes: u64, bytes: u64) {
        for (page, start, _, length) in parts(offset_bytes, bytes) {
            if length == PAGE as usize {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                Arc::make_mut(page)[start..start + length].fill(0);
            }
        }
    }

    pub fn resize(&mut self, size_bytes: u64) {
        if size_bytes < self.size_bytes {
            self.zero(size_bytes, size_bytes.next_multiple_of(PAGE) - size_bytes);
            self.pages.split_off(&size_bytes.div_ceil(PAGE));
        }
        self.size_bytes = size_bytes;
    }

    pub fn read(&self, offset_bytes: u64, bytes: u64) -> Vec<u8> {
        let mut data = vec![0; bytes as usize];
        for (page, start, at, length) in parts(offset_bytes, bytes) {
            if let Some(page) = self.pages.get(&page) {
                data[at..at + length].copy_from_slice(&page[start..start + length]);
            }
        }
        data
    }

    /// The first byte of a range that is not zero.
    pub fn first_data(&self, offset_bytes: u64, bytes: u64) -> Option<u64> {
        let end = offset_bytes + bytes;
        let inside = self.pages.range(offset_bytes / PAGE..end.div_ceil(PAGE));
        inside
            .flat_map(|(page, data)| {
                data.iter().enumerate().map(move |(at, byte)| (page * PAGE + at as u64, *byte))
            })
            .find(|(at, byte)| *byte != 0 && (offset_bytes..end).contains(at))
            .map(|(at, _)| at)
    }

    pub fn is_zero(&self) -> bool {
        self.first_data(0, self.size_bytes).is_none()
    }
}
