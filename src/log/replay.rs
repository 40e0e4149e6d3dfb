//! Reads a log back: which segments belong to it, where it ends, and every
//! record in order.
//!
//! A segment belongs to the log if it was opened (its first batch is whole)
//! and a later segment, or nobody, names it as the one before. What lies
//! behind the length that its successor sealed does not exist: a holder that
//! was taken over may still write there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::format::{
    BatchHeader, Record, ALIGN_BYTES, BATCH_HEADER_BYTES, POSITION_MAX, SEGMENT_HEADER_BYTES,
};
use super::Segment;
use crate::backend::{Backend, BackendExt};
use crate::codec::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{prefix, Id, ObjectName, NUMBER_MAX};

/// What a replay found.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// The log's segments by the position of their start.
    pub segments: BTreeMap<u64, Arc<Segment>>,
    /// Where the log ends.
    pub tail: u64,
    /// The last segment and its valid length in bytes.
    pub last: (u64, u32),
    /// The highest segment number that exists, opened or not, or did.
    pub number_max: u64,
    /// Numbers that the log might need and does not: made ahead of need, or by
    /// somebody who was taken over.
    pub unused: Vec<u64>,
}

/// From where to replay: the first segment needed, the position of the first
/// record, and a position that the log must at least reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReplayFrom {
    pub segment: u64,
    pub position: u64,
    pub tail: u64,
}

/// A record and where it was found.
#[derive(Debug)]
pub struct Found<'a> {
    pub position: u64,
    pub record: Record,
    pub segment: &'a Arc<Segment>,
    /// Of the record's first data granule in the segment.
    pub data_bytes: u64,
}

/// An opened segment and what its first record says.
struct Link {
    segment: Arc<Segment>,
    start: u64,
    previous: u64,
    previous_bytes: u32,
    sealed_bytes: Option<u32>,
}

/// Visits every record at or after `from.position`. Nothing is written.
/// Errors: `Corrupt` if anything below the durable position is damaged.
pub fn replay(
    backend: &Arc<dyn Backend>,
    volume: Id,
    granules: u32,
    from: ReplayFrom,
    visit: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<Replayed> {
    let numbers = numbers_from(backend, volume, from.segment)?;
    let mut replayed = Replayed {
        tail: from.position.max(from.tail),
        last: (from.segment.saturating_sub(1), 0),
        number_max: numbers.last().copied().unwrap_or_default().max(from.segment.saturating_sub(1)),
        ..Replayed::default()
    };
    let links = chain(backend, volume, granules, &numbers, from.segment)?;
    let is_used = |number: &u64| links.iter().any(|link| link.segment.number == *number);
    replayed.unused = numbers.into_iter().filter(|number| !is_used(number)).collect();
    let mut reached = from.position;
    for (at, link) in links.iter().enumerate() {
        // Positions only grow: what reads or trims the log relies on it.
        if at > 0 && link.start < reached {
            let message = format!("it begins at {}, but the log before it ends at {reached}", link.start);
            return Err(Error::corrupt(&link.segment.name, message));
        }
        reached = read_segment(link, granules, from.position, visit)?;
        replayed.segments.insert(link.start, Arc::clone(&link.segment));
        replayed.last = (link.segment.number, (reached - link.start) as u32);
    }
    if !links.is_empty() {
        replayed.tail = reached;
    }
    if reached < from.tail {
        return Err(lost(volume, from, reached));
    }
    Ok(replayed)
}

fn lost(volume: Id, from: ReplayFrom, reached: u64) -> Error {
    Error::corrupt(
        &ObjectName::Segment { volume, number: from.segment },
        format!("the log ends at {reached}, but the head was written when it reached {}", from.tail),
    )
}

fn numbers_from(backend: &Arc<dyn Backend>, volume: Id, first: u64) -> Result<Vec<u64>> {
    let names = backend.list_all(&prefix::segments_of(volume))?;
    let mut numbers = Vec::with_capacity(names.len());
    for name in names {
        match name {
            ObjectName::Segment { number, .. } if number > NUMBER_MAX => {
                return Err(Error::corrupt(&name, "nobody counts so far; if it is none of ours, delete it"));
            }
            ObjectName::Segment { number, .. } if number >= first => numbers.push(number),
            _ => {}
        }
    }
    // A listing may be old where it lags. What is not listed is found by its
    // number: from the first that a head names there are no gaps.
    if backend.capabilities().list_lag_s > 0 {
        let mut next = numbers.last().map_or(first, |last| last + 1);
        while is_there(backend, &ObjectName::Segment { volume, number: next })? {
            numbers.push(next);
            next += 1;
        }
    }
    Ok(numbers)
}

fn is_there(backend: &Arc<dyn Backend>, name: &ObjectName) -> Result<bool> {
    match backend.stat(name) {
        Err(error) if error.is(ErrorKind::NotFound) => Ok(false),
        other => other.map(|_| true),
    }
}

/// The segments of the log, oldest first.
fn chain(
    backend: &Arc<dyn Backend>,
    volume: Id,
    granules: u32,
    numbers: &[u64],
    first: u64,
) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    for number in numbers.iter().rev() {
        let wanted = links.last().is_none_or(|later| later.previous == *number);
        if !wanted {
            continue;
        }
        let Some(mut link) = open_link(backend, volume, granules, *number)? else { continue };
        if let Some(later) = links.last() {
            link.sealed_bytes = Some(later.previous_bytes);
        }
        links.push(link);
    }
    if let Some(oldest) = links.last() {
        if oldest.segment.number > first && oldest.previous >= first {
            let name = ObjectName::Segment { volume, number: oldest.previous };
            return Err(Error::corrupt(&name, "the log needs this segment and it is not there"));
        }
    }
    links.reverse();
    Ok(links)
}

fn open_link(
    backend: &Arc<dyn Backend>,
    volume: Id,
    granules: u32,
    number: u64,
) -> Result<Option<Link>> {
    let segment = Arc::new(Segment::open(backend, volume, number)?);
    let mut data = vec![0; ALIGN_BYTES as usize * 4];
    let read_bytes = backend.read_at(&segment.name, SEGMENT_HEADER_BYTES, &mut data)?;
    data.truncate(read_bytes);
    let whole;
    let data = match BatchHeader::decode(&segment.name, &segment.seed, &data) {
        Some(_) => &data[..],
        // A long first batch: look again with all of it in hand.
        None => {
            whole = segment.read_whole()?;
            whole.get(SEGMENT_HEADER_BYTES as usize..).unwrap_or_default()
        }
    };
    if BatchHeader::decode(&segment.name, &segment.seed, data).is_none() {
        return check_unopened(&segment, data).map(|()| None);
    }
    let mut fields = Reader::new(&segment.name, data.get(BATCH_HEADER_BYTES..).unwrap_or_default());
    match Record::decode(&mut fields, granules)? {
        Record::Open { start, .. } if start % ALIGN_BYTES != 0 || start > POSITION_MAX => {
            Err(Error::corrupt(&segment.name, format!("no segment can begin at {start}")))
        }
        Record::Open { start, previous, previous_bytes } => Ok(Some(Link {
            start,
            previous,
            previous_bytes,
            sealed_bytes: None,
            segment: Arc::clone(&segment),
        })),
        _ => Err(Error::corrupt(&segment.name, "its first record does not open it")),
    }
}

/// A segment without a whole first batch was never opened, unless a later
/// batch in it knows that the first one was durable.
fn check_unopened(segment: &Segment, data: &[u8]) -> Result<()> {
    if fault::on(fault::Planted::DamageIsTail) {
        return Ok(());
    }
    let mut at = ALIGN_BYTES as usize;
    while at < data.len() {
        let knows = |header: &BatchHeader| header.durable > header.position.saturating_sub(at as u64);
        if BatchHeader::decode_if(&segment.name, &segment.seed, &data[at..], knows).is_some() {
            return Err(damaged(segment, SEGMENT_HEADER_BYTES as usize));
        }
        at += ALIGN_BYTES as usize;
    }
    Ok(())
}

/// Visits the records of one segment; returns the position where it ends.
fn read_segment(
    link: &Link,
    granules: u32,
    from: u64,
    visit: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<u64> {
    let segment = &link.segment;
    let data = segment.read_whole()?;
    let mut sealed_bytes = link.sealed_bytes.map_or(data.len(), |bytes| (bytes as usize).min(data.len()));
    if fault::on(fault::Planted::SealIgnored) {
        sealed_bytes = data.len();
    }
    let mut at = SEGMENT_HEADER_BYTES as usize;
    while at < sealed_bytes {
        let position = link.start + at as u64;
        let batch = &data[at..sealed_bytes];
        let header = BatchHeader::decode(&segment.name, &segment.seed, batch)
            .filter(|header| header.position == position);
        let Some(header) = header else { break };
        if !visit_batch(link, &header, &batch[..header.total_bytes as usize], granules, from, visit)? {
            break;
        }
        at += header.total_bytes as usize;
    }
    check_end(link, &data, at, sealed_bytes)?;
    Ok(link.start + at as u64)
}

/// A segment that has a successor is whole up to its sealed length, and no
/// later batch may know that what is missing was durable.
fn check_end(link: &Link, data: &[u8], at: usize, sealed_bytes: usize) -> Result<()> {
    let segment = &link.segment;
    if fault::on(fault::Planted::DamageIsTail) || fault::on(fault::Planted::SealIgnored) {
        return Ok(());
    }
    if link.sealed_bytes.is_some() {
        if at == sealed_bytes {
            return Ok(());
        }
        return Err(damaged(segment, at));
    }
    let end = link.start + at as u64;
    let mut later = at + ALIGN_BYTES as usize;
    while later < data.len() {
        let position = link.start + later as u64;
        let knows = |header: &BatchHeader| header.position == position && header.durable > end;
        if BatchHeader::decode_if(&segment.name, &segment.seed, &data[later..], knows).is_some() {
            return Err(damaged(segment, at));
        }
        later += ALIGN_BYTES as usize;
    }
    Ok(())
}

fn damaged(segment: &Segment, at: usize) -> Error {
    Error::corrupt(&segment.name, "a batch that was durable is damaged").at(at as u64)
}

/// False if the batch's data is not all there: it is the torn end.
fn visit_batch(
    link: &Link,
    header: &BatchHeader,
    batch: &[u8],
    granules: u32,
    from: u64,
    visit: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<bool> {
    let segment = &link.segment;
    let area = &batch[BATCH_HEADER_BYTES..header.header_bytes as usize];
    let mut fields = Reader::new(&segment.name, area);
    let mut found = Vec::with_capacity(area.len() / 16);
    for _ in 0..header.records {
        let record_at = (BATCH_HEADER_BYTES + area.len() - fields.left()) as u64;
        let record = Record::decode(&mut fields, granules)?;
        let mut data_granule = 0;
        if let Record::Piece { data_granule: first, sums, .. } = &record {
            data_granule = *first;
            if !data_matches(segment, batch, *first, sums) {
                return Ok(false);
            }
        }
        found.push((header.position + record_at, record, data_granule));
    }
    fields.finish()?;
    for (position, record, data_granule) in found {
        if position < from || matches!(record, Record::Open { .. }) {
            continue;
        }
        let data_bytes = header.position - link.start + u64::from(data_granule) * ALIGN_BYTES;
        visit(Found { position, record, segment, data_bytes })?;
    }
    Ok(true)
}

fn data_matches(segment: &Segment, batch: &[u8], first: u32, sums: &[u64]) -> bool {
    let align = ALIGN_BYTES as usize;
    let start = first as usize * align;
    let Some(data) = batch.get(start..start + sums.len() * align) else { return false };
    data.chunks_exact(align).zip(sums).all(|(granule, sum)| segment.seed.granule_sum(granule) == *sum)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
