//! How a log gets its next segment: ahead of need, or when a batch does not fit
//! into the last one.

use std::sync::Arc;

use super::segment::NotMade;
use super::{format, Current, Inner, Log, Record, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;

impl Log {
    /// Who finds the next number taken must not go on in the last segment.
    fn made(&self, number: u64, made: std::result::Result<Segment, NotMade>) -> Result<Segment> {
        made.map_err(|NotMade { error, is_there }| {
            if error.is(ErrorKind::Fenced) {
                return self.fail(error);
            }
            if is_there {
                // Ours, but nobody knows whether it counts: the next one is
                // another.
                let mut inner = self.inner.lock();
                inner.last_known = number;
                inner.unused.push(number);
            }
            error
        })
    }

    /// Makes the next segment ahead of need, so that no append waits for it.
    /// True if one was made.
    pub fn prepare(&self) -> Result<bool> {
        let _rolling = self.rolling.lock();
        let (number, bytes) = {
            let inner = self.inner.lock();
            if inner.spare.is_some() || inner.failed.is_some() {
                return Ok(false);
            }
            (inner.last_known + 1, self.next_segment_bytes(&inner))
        };
        let made = Segment::create(&self.backend, self.volume, number, bytes, number - 1);
        let segment = self.made(number, made)?;
        let mut inner = self.inner.lock();
        inner.last_known = number;
        inner.spare = Some(segment);
        Ok(true)
    }

    /// True when the current segment is a small one or half full, and no next
    /// one is there.
    pub fn wants_segment(&self) -> bool {
        let inner = self.inner.lock();
        if inner.spare.is_some() || inner.failed.is_some() {
            return false;
        }
        let soon = |current: &Current| {
            let bytes = current.segment.bytes;
            bytes < self.options.segment_bytes || inner.tail - current.start > bytes / 2
        };
        inner.current.as_ref().is_some_and(soon)
    }

    /// True if a segment was made ahead of need.
    pub fn has_spare(&self) -> bool {
        self.inner.lock().spare.is_some()
    }

    /// Nobody means to append any more, and all is durable: a head at the end
    /// of the log need not name a segment that is there. Then none is left
    /// when it is trimmed. An append begins a segment as ever.
    pub fn end(&self) {
        let _rolling = self.rolling.lock();
        let mut inner = self.inner.lock();
        if inner.durable < inner.tail {
            return;
        }
        inner.current = None;
        let Some(spare) = inner.spare.take() else { return };
        drop(inner);
        if fault::on(fault::Planted::NumberForgotten) {
            return self.delete_unused(spare.number);
        }
        self.inner.lock().unused.push(spare.number);
    }

    fn next_segment_bytes(&self, inner: &Inner) -> u64 {
        if inner.current.is_none() {
            self.options.first_segment_bytes
        } else {
            self.options.segment_bytes
        }
    }

    /// Makes sure that a batch of `bytes` fits into the current segment and
    /// returns the record that must come first in it, if it is a new one.
    pub(super) fn make_room(&self, bytes: u64) -> Result<Option<Record>> {
        {
            let inner = self.inner.lock();
            if let Some(error) = &inner.failed {
                return Err(error.duplicate());
            }
            if let Some(current) = &inner.current {
                if inner.tail - current.start + bytes <= current.segment.bytes {
                    return Ok(current.opening.clone());
                }
            }
        }
        // What the new segment says builds on the old one: it must be durable
        // before the first batch of the new one can be.
        self.sync()?;
        let _rolling = self.rolling.lock();
        let made = if self.has_spare_for(bytes) { None } else { Some(self.create_segment(bytes)?) };
        let mut inner = self.inner.lock();
        if let Some(made) = made.as_ref().filter(|_| fault::on(fault::Planted::SegmentKnownEarly)) {
            inner.last_known = made.number;
            drop(inner);
            inner = self.inner.lock();
        }
        // With the same hold of the lock it becomes known and part of the log:
        // in between, a head would say that the log begins with the next one.
        if let Some(made) = &made {
            inner.last_known = made.number;
        }
        let Some(segment) = made.or_else(|| inner.spare.take()) else {
            return Err(Error::new(ErrorKind::Internal, "begin a log segment"));
        };
        let (previous, previous_bytes) = inner.last;
        let start = inner.tail.next_multiple_of(format::ALIGN_BYTES);
        let segment = Arc::new(segment);
        inner.segments.insert(start, Arc::clone(&segment));
        inner.tail = start + format::SEGMENT_HEADER_BYTES;
        // Not the new segment: until its first batch is durable it does not
        // belong to the log, and what says where the log ends must not count
        // its header.
        inner.durable = inner.durable.max(start);
        let opening = Some(Record::Open { start, previous, previous_bytes });
        inner.current = Some(Current { segment, start, opening: opening.clone() });
        Ok(opening)
    }

    /// True if a batch of `bytes` fits into the current segment.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let inner = self.inner.lock();
        let fits = |current: &Current| inner.tail - current.start + bytes <= current.segment.bytes;
        inner.failed.is_none() && inner.current.as_ref().is_some_and(fits)
    }

    /// For whoever holds `rolling`.
    fn has_spare_for(&self, bytes: u64) -> bool {
        let mut inner = self.inner.lock();
        let Some(spare) = &inner.spare else { return false };
        if format::SEGMENT_HEADER_BYTES + format::ALIGN_BYTES + bytes <= spare.bytes {
            return true;
        }
        // Too small for a large batch, and of no use any more: a segment never
        // follows one with a higher number.
        let number = spare.number;
        inner.spare = None;
        inner.unused.push(number);
        false
    }

    fn create_segment(&self, bytes: u64) -> Result<Segment> {
        let (number, usual) = {
            let inner = self.inner.lock();
            (inner.last_known + 1, self.next_segment_bytes(&inner))
        };
        let needed = format::SEGMENT_HEADER_BYTES + format::ALIGN_BYTES + bytes;
        let size = usual.max(needed.next_multiple_of(format::ALIGN_BYTES));
        self.made(number, Segment::create(&self.backend, self.volume, number, size, number - 1))
    }
}
