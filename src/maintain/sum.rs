//! Reads a block, and sums what counts of it.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::clock;
use crate::error::{Error, Result};
use crate::map::{Presence, Sum};
use crate::name::ObjectName;
use crate::store::GRANULE_BYTES;

/// Read at a time.
const READ_BYTES: usize = 1 << 20;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Reads blocks, not faster than it may.
pub(super) struct Summer<'a> {
    blocks: &'a dyn Backend,
    buffer: Vec<u8>,
    bytes_per_s: Option<u64>,
    began: std::time::Instant,
    read_bytes: u64,
}

impl<'a> Summer<'a> {
    pub fn new(blocks: &'a dyn Backend, bytes_per_s: Option<u64>) -> Summer<'a> {
        Summer { blocks, buffer: vec![0; READ_BYTES], bytes_per_s, began: clock::now(), read_bytes: 0 }
    }

    /// The sum of a block of which these granules count (`None`: all of them).
    /// Errors: `NotFound`; `Corrupt` if it has another size; what the backend
    /// says.
    pub fn sum(&mut self, name: &ObjectName, block_bytes: u64, presence: Option<&Presence>) -> Result<Sum> {
        let bytes = self.blocks.stat(name)?.bytes;
        if bytes != block_bytes {
            let message = format!("it has {bytes} bytes and should have {block_bytes}");
            return Err(Error::corrupt(name, message));
        }
        let mut hasher = blake3::Hasher::new();
        let Some(presence) = presence else {
            self.add(&mut hasher, name, 0, block_bytes)?;
            return Ok(*hasher.finalize().as_bytes());
        };
        let mut granule = 0;
        while granule < presence.granules() {
            let (present, end) = presence.next_run(granule);
            let end = end.min(presence.granules());
            let (from_bytes, to_bytes) = (u64::from(granule) * GRANULE_BYTES, u64::from(end) * GRANULE_BYTES);
            match present {
                true => self.add(&mut hasher, name, from_bytes, to_bytes)?,
                false => add_zeroes(&mut hasher, to_bytes - from_bytes),
            }
            granule = end;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Adds a range, of which holes are not read.
    fn add(&mut self, hasher: &mut blake3::Hasher, name: &ObjectName, from: u64, to: u64) -> Result<()> {
        let mut at = from;
        while at < to {
            let (data, end) = self.blocks.next_data(name, at)?.unwrap_or((to, to));
            let (data, end) = (data.clamp(at, to), end.clamp(at, to));
            add_zeroes(hasher, data - at);
            at = data;
            while at < end {
                let bytes = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
                let read = self.blocks.read_at(name, at, &mut self.buffer[..bytes])?;
                if read < bytes {
                    return Err(Error::corrupt(name, format!("it ends after {} bytes", at + read as u64)));
                }
                hasher.update(&self.buffer[..bytes]);
                at += bytes as u64;
                self.slow_down(bytes as u64);
            }
        }
        Ok(())
    }

    fn slow_down(&mut self, bytes: u64) {
        self.read_bytes += bytes;
        let Some(bytes_per_s) = self.bytes_per_s else { return };
        let due = Duration::from_secs_f64(self.read_bytes as f64 / bytes_per_s.max(1) as f64);
        let taken = clock::now().saturating_duration_since(self.began);
        if due > taken {
            clock::sleep(due - taken);
        }
    }

    /// What has been read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }
}

fn add_zeroes(hasher: &mut blake3::Hasher, mut bytes: u64) {
    while bytes > 0 {
        let part = bytes.min(ZEROES.len() as u64);
        hasher.update(&ZEROES[..part as usize]);
        bytes -= part;
    }
}

/// All of a block, of which holes are not read; and what was.
pub(super) fn read_whole(
    blocks: &Arc<dyn Backend>,
    name: &ObjectName,
    block_bytes: u64,
) -> Result<(Vec<u8>, u64)> {
    let there = blocks.stat(name)?.bytes;
    if there != block_bytes {
        return Err(wrong_size(name, there, block_bytes));
    }
    let mut data = vec![0; usize::try_from(block_bytes).unwrap_or(usize::MAX)];
    let (mut at, mut data_bytes) = (0, 0);
    while let Some((begin, end)) = blocks.next_data(name, at)? {
        let (begin, end) = (begin.max(at), end.min(block_bytes));
        if begin >= end {
            break;
        }
        let part = &mut data[begin as usize..end as usize];
        if blocks.read_at(name, begin, part)? < part.len() {
            return Err(Error::corrupt(name, format!("it ends before its {block_bytes} bytes")));
        }
        data_bytes += end - begin;
        at = end;
    }
    Ok((data, data_bytes))
}

pub(super) fn wrong_size(name: &ObjectName, bytes: u64, block_bytes: u64) -> Error {
    Error::corrupt(name, format!("it has {bytes} bytes and should have {block_bytes}"))
}

/// What scrub sums: the granules that count, and zeroes for all others.
pub(super) fn sum_of(data: &[u8], presence: Option<&Presence>) -> Sum {
    let mut hasher = blake3::Hasher::new();
    let Some(presence) = presence else {
        return *hasher.update(data).finalize().as_bytes();
    };
    for (granule, part) in (0..).zip(data.chunks(GRANULE_BYTES as usize)) {
        hasher.update(if presence.get(granule) { part } else { &ZEROES[..part.len()] });
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
#[path = "sum_tests.rs"]
mod tests;
