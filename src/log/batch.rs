//! Puts queued records into one batch, writes it, and tells everybody.

use std::sync::Arc;

use super::format::{granule_count, BatchHeader, Record, ALIGN_BYTES, BATCH_HEADER_BYTES};
use super::{Appended, Draft, Log, Segment};
use crate::codec::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::iobuf::AlignedBytes;

const ALIGN: usize = ALIGN_BYTES as usize;

/// About the room that a draft takes in a batch, in bytes.
pub(super) fn room_of(draft: &Draft) -> usize {
    let (data, sums) = match &draft.record {
        Record::Piece { offset_bytes, bytes, .. } => {
            let granules = granule_count(*offset_bytes, *bytes) as usize;
            (granules * ALIGN, granules * 8)
        }
        Record::Own { presence: Some(presence), .. } => (0, presence.to_bytes().len()),
        _ => (0, 0),
    };
    data + sums + 256
}

/// Where the parts of one batch are.
struct Layout {
    /// Of each draft's record in the header area.
    record_bytes: Vec<usize>,
    /// Of each draft's first data granule, counted from the batch.
    data_granules: Vec<usize>,
    sums: Vec<Vec<u64>>,
    header_bytes: usize,
    total_bytes: usize,
}

/// A batch that is ready to be written.
pub(super) struct Ready {
    pub segment: Arc<Segment>,
    /// Where in the segment.
    pub offset_bytes: u64,
    pub data: AlignedBytes,
    pub rest: Rest,
}

/// What is needed once it is written.
pub(super) struct Rest {
    segment: Arc<Segment>,
    start: u64,
    position: u64,
    layout: Layout,
    drafts: Vec<Draft>,
}

/// Room that a batch of these drafts may take, in bytes.
fn room_of_all(drafts: &[Draft]) -> u64 {
    let room = drafts.iter().map(room_of).sum::<usize>() + BATCH_HEADER_BYTES + 64;
    room.next_multiple_of(ALIGN) as u64
}

/// True if a batch of these drafts needs no new segment.
pub(super) fn fits(log: &Log, drafts: &[Draft]) -> bool {
    log.has_room(room_of_all(drafts))
}

/// Puts drafts into a batch. May begin a segment; if that fails, everybody is
/// to be told by `fail_all`.
pub(super) fn make_ready(log: &Log, drafts: Vec<Draft>) -> std::result::Result<Ready, (Vec<Draft>, Error)> {
    let opening = match log.make_room(room_of_all(&drafts)) {
        Ok(opening) => opening,
        Err(error) => return Err((drafts, error)),
    };
    let (segment, start, position, durable) = {
        let inner = log.inner.lock();
        let Some(current) = inner.current.as_ref() else {
            return Err((drafts, Error::new(ErrorKind::Internal, "append to a log that has ended")));
        };
        (Arc::clone(&current.segment), current.start, inner.tail, inner.durable)
    };
    let mut layout = lay_out(&drafts, opening.as_ref());
    let mut data = AlignedBytes::zeroed(layout.total_bytes);
    let bytes = data.as_mut_slice();
    fill_data(&segment, &drafts, &mut layout, bytes);
    fill_header(&segment, &drafts, opening.as_ref(), &layout, position, durable, bytes);
    let offset_bytes = position - start;
    let rest = Rest { segment: Arc::clone(&segment), start, position, layout, drafts };
    Ok(Ready { segment, offset_bytes, data, rest })
}

/// True if `finish` has to clear what is left of the batch, and may block.
pub(super) fn must_clear(written: &Result<()>) -> bool {
    written.as_ref().is_err_and(|error| error.is(ErrorKind::NoSpace))
}

/// The batch is written, or is not: runs the completions, in order.
///
/// A store that is full has certainly not applied all of it, or not later, but
/// may have applied any part. If a crash could show the batch, it would come
/// back over what is written in place after its requests have failed.
pub(super) fn finish(log: &Log, rest: Rest, written: Result<()>) {
    let must_clear = must_clear(&written);
    if let Err(error) = written {
        if must_clear && rest.segment.clear_batch(rest.position - rest.start).is_ok() {
            return fail_all(rest.drafts, &error);
        }
        let error = if must_clear { error.with_kind(ErrorKind::Unknown) } else { error };
        let error = log.fail(error);
        return fail_all(rest.drafts, &error);
    }
    {
        let mut inner = log.inner.lock();
        if let Some(current) = &mut inner.current {
            current.opening = None;
        }
        inner.tail = rest.position + rest.layout.total_bytes as u64;
        inner.last = (rest.segment.number, (inner.tail - rest.start) as u32);
    }
    complete(rest.drafts, rest.layout, &rest.segment, rest.position, rest.start);
}

pub(super) fn fail_all(drafts: Vec<Draft>, error: &Error) {
    for draft in drafts {
        (draft.done)(Err(error.duplicate()));
    }
}

/// An encoded record's size with every number in its place.
fn encoded_bytes(record: &Record) -> usize {
    let mut out = Writer::new();
    record.encode(&mut out);
    out.len()
}

fn lay_out(drafts: &[Draft], opening: Option<&Record>) -> Layout {
    let mut at = BATCH_HEADER_BYTES + opening.map_or(0, encoded_bytes);
    let mut record_bytes = Vec::with_capacity(drafts.len());
    let mut granules = Vec::with_capacity(drafts.len());
    for draft in drafts {
        record_bytes.push(at);
        let count = match &draft.record {
            Record::Piece { offset_bytes, bytes, .. } => granule_count(*offset_bytes, *bytes) as usize,
            _ => 0,
        };
        granules.push(count);
        at += encoded_bytes(&draft.record) + count * 8;
    }
    let mut granule = at.div_ceil(ALIGN);
    let mut data_granules = Vec::with_capacity(drafts.len());
    for count in &granules {
        data_granules.push(granule);
        granule += count;
    }
    let sums = vec![Vec::new(); drafts.len()];
    Layout { record_bytes, data_granules, sums, header_bytes: at, total_bytes: granule * ALIGN }
}

/// Copies the pieces' data to its place and sums its granules.
fn fill_data(segment: &Segment, drafts: &[Draft], layout: &mut Layout, out: &mut [u8]) {
    for (at, draft) in drafts.iter().enumerate() {
        let Record::Piece { offset_bytes, bytes, .. } = &draft.record else { continue };
        let first = layout.data_granules[at] * ALIGN;
        let inside = *offset_bytes as usize % ALIGN;
        if let Some(data) = &draft.data {
            data.copy_to(0, &mut out[first + inside..first + inside + *bytes as usize]);
        }
        let count = granule_count(*offset_bytes, *bytes) as usize;
        let granules = out[first..first + count * ALIGN].chunks_exact(ALIGN);
        layout.sums[at] = granules.map(|granule| segment.seed.granule_sum(granule)).collect();
    }
}

fn fill_header(
    segment: &Segment,
    drafts: &[Draft],
    opening: Option<&Record>,
    layout: &Layout,
    position: u64,
    durable: u64,
    out: &mut [u8],
) {
    let mut records = Writer::with_capacity(layout.header_bytes);
    if let Some(opening) = opening {
        opening.encode(&mut records);
    }
    for (at, draft) in drafts.iter().enumerate() {
        match &draft.record {
            Record::Piece { block, offset_bytes, bytes, .. } => Record::Piece {
                block: *block,
                offset_bytes: *offset_bytes,
                bytes: *bytes,
                data_granule: layout.data_granules[at] as u32,
                sums: layout.sums[at].clone(),
            }
            .encode(&mut records),
            other => other.encode(&mut records),
        }
    }
    let header = BatchHeader {
        header_bytes: layout.header_bytes as u32,
        total_bytes: layout.total_bytes as u32,
        records: (drafts.len() + usize::from(opening.is_some())) as u32,
        position,
        durable,
    };
    let area = header.encode(&segment.seed, &records.0);
    out[..area.len()].copy_from_slice(&area);
}

fn complete(drafts: Vec<Draft>, layout: Layout, segment: &Arc<Segment>, position: u64, start: u64) {
    let batch_bytes = position - start;
    let sums = layout.sums.into_iter();
    for ((at, draft), sums) in drafts.into_iter().enumerate().zip(sums) {
        let result: Result<Appended> = Ok(Appended {
            position: position + layout.record_bytes[at] as u64,
            segment: Arc::clone(segment),
            data_bytes: batch_bytes + layout.data_granules[at] as u64 * ALIGN_BYTES,
            sums,
        });
        (draft.done)(result);
    }
}
