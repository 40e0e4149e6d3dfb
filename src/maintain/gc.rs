//! Garbage collection: deletes what no head, log or snapshot needs, while
//! volumes are written, cloned, snapshotted and removed.
//!
//! # The order, and why nothing that is needed is ever deleted
//!
//! 1. Claim a generation: one maintainer at a time.
//! 2. Finish interrupted removals (see `unnamed`).
//! 3. List the candidates.
//! 4. Claim a further generation.
//! 5. Mark what the roots reach (see `roots` for how they are found while
//!    they move), and mark again; where listings lag, further apart than that.
//! 6. Delete the candidates that neither mark reached, asking before each
//!    batch whether the generation is still ours.
//!
//! Names are unique, so what is listed in 3 and deleted in 6 is one and the
//! same object. Suppose that some root R needs candidate X after the mark.
//!
//! *R was there when the marks looked.* Then X is marked.
//!
//! *R was published later, by somebody who read the generation before 4 and
//! again after publishing.* It has moved, so they publish again from what
//! they hold, under new names; until then R is not relied upon and what it
//! was made from is not given up.
//!
//! *R was published later, by somebody who read the generation after 4.* The
//! pages that they wrote are newer than 3, so X is none of those. What else R
//! names, it has from a root that was there when they began, or that was
//! itself published later in the same way. Following this back ends at a root
//! that the marks saw, and X is marked.
//!
//! *X is a block that nothing names yet.* Blocks are made in an epoch while
//! it is live: a head names it, or a cut in a head's log, or it was claimed
//! lately. All blocks of such epochs are left alone. An epoch that becomes
//! live only after its volume's log was read has blocks newer than 3 only.
//!
//! *X is a log segment.* It lies before the first segment that any head of
//! its volume needs. Those numbers only grow.
//!
//! A head below the highest is a root like any other, and is not deleted here:
//! it stays until its successor is verified, and only the holder of the lease
//! knows when that is (the next holder deletes it too). Snapshots with a later
//! number stay as well: their numbers can be used again after a removal. Such
//! roots may lack what was theirs alone; that is not damage.
//!
//! # Sealed blocks
//!
//! Those that have a place of their own are carried there last: see `carry`.
//!
//! # Doubt
//!
//! If anything that counts cannot be read, nothing at all is deleted.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::candidates::Candidates;
use super::carry::{self, Carried};
use super::mark::Marker;
use super::problem::Failure;
use super::unnamed::{self, Unnamed};
use super::{Count, Kind, Phase, Progress};
use crate::backend::{Backend, BackendExt};
use crate::catalog::identity::Identity;
use crate::catalog::maintenance::{self, Maintenance};
use crate::catalog::{head, volume};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

/// Deleted between two questions whether the generation is still ours.
const BATCH_OBJECTS: usize = 256;

/// How a collection runs.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Only say what would be deleted. Claims nothing and writes nothing.
    pub dry_run: bool,
    /// Who maintains, for others to see.
    pub identity: Identity,
    /// Waits between the two marks, where listings lag; tests need not.
    pub wait: fn(Duration),
}

impl Default for GcOptions {
    fn default() -> GcOptions {
        GcOptions { dry_run: false, identity: Identity::of_this_process(), wait: clock::sleep }
    }
}

/// One kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KindReport {
    pub kind: Kind,
    /// Deleted, or in a dry run: would be.
    pub deleted: Count,
    /// Left where they are.
    pub kept_objects: u64,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub dry_run: bool,
    pub kinds: Vec<KindReport>,
    /// Interrupted removals of volumes that were finished.
    pub removals_finished: u64,
    /// Sealed blocks that were, or would be, carried to their place, and what they
    /// took; none if they have none of their own.
    pub carried: Option<Carried>,
}

impl Report {
    fn new(dry_run: bool) -> Report {
        const KINDS: [Kind; 7] = [
            Kind::Heads,
            Kind::Snapshots,
            Kind::Segments,
            Kind::Leases,
            Kind::Pages,
            Kind::Blocks,
            Kind::Epochs,
        ];
        let kinds = KINDS.map(|kind| KindReport { kind, deleted: Count::default(), kept_objects: 0 });
        Report { dry_run, kinds: kinds.to_vec(), removals_finished: 0, carried: None }
    }

    fn of_kind(&mut self, name: &ObjectName) -> Option<&mut KindReport> {
        let kind = Kind::of(name)?;
        self.kinds.iter_mut().find(|report| report.kind == kind)
    }

    /// In words, if there is anything to say.
    pub fn carried_text(&self, bytes_text: impl Fn(u64) -> String) -> Option<String> {
        let Carried { blocks, left } = self.carried.filter(|carried| *carried != Carried::default())?;
        let verb = if self.dry_run { "would be carried" } else { "carried" };
        let bytes = bytes_text(blocks.bytes);
        let mut text = format!("{} sealed blocks ({bytes}) {verb} to their place", blocks.objects);
        if left > 0 {
            text.push_str(&format!("; {left} DAMAGED ones left where they are: the log names them"));
        }
        Some(text)
    }

    /// All kinds together.
    pub fn deleted(&self) -> Count {
        let mut all = Count::default();
        for report in &self.kinds {
            all.objects += report.deleted.objects;
            all.bytes += report.deleted.bytes;
        }
        all
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, verb) = (self.deleted(), if self.dry_run { "would be deleted" } else { "deleted" });
        write!(f, "{} objects ({} bytes) {verb}", all.objects, all.bytes)?;
        for report in self.kinds.iter().filter(|report| report.deleted.objects > 0) {
            let KindReport { kind, deleted, kept_objects } = report;
            write!(f, "\n  {kind}: {} ({} bytes), {kept_objects} kept", deleted.objects, deleted.bytes)?;
        }
        if self.removals_finished > 0 {
            let verb = if self.dry_run { "would be finished" } else { "finished" };
            write!(f, "\n  interrupted removals of volumes {verb}: {}", self.removals_finished)?;
        }
        if let Some(words) = self.carried_text(|bytes| format!("{bytes} bytes")) {
            write!(f, "\n  {words}")?;
        }
        Ok(())
    }
}

/// Collects. Errors: `Busy` while somebody else maintains the store; `Fenced`
/// when another maintenance has begun; `Corrupt`, naming the object, if
/// anything that is needed cannot be read: then nothing was deleted.
pub fn run(store: &Store, options: &GcOptions, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    store.check_sealed()?;
    let mut report = Report::new(options.dry_run);
    let mut right = None;
    let first = if options.dry_run {
        maintenance::generation(store)? + 1
    } else {
        let claimed = right.insert(begin(store, &options.identity)?);
        claimed.generation
    };
    progress(Progress { phase: Phase::List, done: 0, total: None });
    let removed = find_unnamed(store, options, first)?;
    let removed = finish_removals(store, options, removed, &mut report)?;
    let candidates = Candidates::list(store)?;
    if let Some(right) = &mut right {
        right.advance(store, &options.identity).map_err(|error| explain_full(store, error))?;
    }
    let mut marker = Marker::new(store, Some(first));
    marker.snapshots_first = store.own_and_sealed().is_some();
    marker.scanner.know(candidates.volumes.iter().copied());
    marker.scanner.take_for_removed(removed.iter().map(|unnamed| unnamed.volume));
    let mut refuse = |failure: Failure| Err(refusal(store, failure));
    marker.mark(&mut refuse, progress)?;
    let _lagged = outwait_lag(store, options);
    let gone: Vec<ObjectName> = removed.into_iter().flat_map(|unnamed| unnamed.objects).collect();
    // Measured between the marks, so that little time is left between the
    // last look at the roots and the first deletion.
    let sizes = measure(store, &garbage_of(&candidates, &marker, &gone), progress)?;
    if !fault::on(fault::Planted::GcMarksOnce) {
        marker.mark(&mut refuse, progress)?;
    }
    let garbage = garbage_of(&candidates, &marker, &gone);
    for name in &garbage {
        if let (Some(kind), Some(bytes)) = (report.of_kind(name), sizes.get(name)) {
            kind.deleted.add(*bytes);
        }
    }
    count_kept(&candidates, &garbage, options.dry_run.then_some(&gone[..]), &mut report);
    if let Some(right) = &right {
        sweep(store, right, &garbage, progress)?;
    }
    report.carried = carry::carry(store, right.as_ref(), &candidates, &marker, progress)?;
    Ok(report)
}

/// Waits until a listing shows what was there before this call. False if none
/// lags.
fn outwait_lag(store: &Store, options: &GcOptions) -> bool {
    let list_lag_s = store.list_lag_s();
    if list_lag_s > 0 {
        (options.wait)(Duration::from_secs(u64::from(list_lag_s) + 1));
    }
    list_lag_s > 0
}

/// Volumes whose removal is to be finished. Where listings lag, an old one
/// that missed both names of a rename would be shown again and again: it is
/// looked again when that one cannot be shown any more.
fn find_unnamed(store: &Store, options: &GcOptions, first: u64) -> Result<Vec<Unnamed>> {
    let found = unnamed::find(store, first)?;
    if found.is_empty() || !outwait_lag(store, options) {
        return Ok(found);
    }
    unnamed::find(store, first)
}

/// Claims a generation, on a full store too.
fn begin(store: &Store, identity: &Identity) -> Result<Maintenance> {
    match maintenance::claim_next(store, identity) {
        Err(error) if error.is(ErrorKind::NoSpace) => {
            make_some_room(store)?;
            maintenance::claim_next(store, identity).map_err(|error| explain_full(store, error))
        }
        other => other,
    }
}

fn explain_full(store: &Store, error: Error) -> Error {
    if !error.is(ErrorKind::NoSpace) {
        return error;
    }
    let sentence = format!(
        "store '{}' is so full that not even the few hundred bytes that gc begins with can be written: \
         remove a volume or a snapshot that is not needed (archipelago rm), then run gc again",
        store.name
    );
    Error::sentence(ErrorKind::NoSpace, sentence).caused_by(error)
}

/// Deletes what is garbage whatever others do, by its number alone: leases
/// that were followed by others and log before the first head's.
fn make_some_room(store: &Store) -> Result<()> {
    let control = store.control();
    let mut previous: Option<(Id, ObjectName)> = None;
    for name in control.list_all(prefix::LEASES)? {
        let ObjectName::Lease { volume, number } = name else { continue };
        if number == 0 {
            continue;
        }
        match previous.replace((volume, name)) {
            Some((before, old)) if before == volume => delete(control.as_ref(), &old)?,
            _ => {}
        }
    }
    let mut starts: Vec<(Id, Option<u64>)> = Vec::new();
    for name in store.log().list_all(prefix::SEGMENTS)? {
        let ObjectName::Segment { volume, number } = name else { continue };
        if starts.last().is_none_or(|(last, _)| *last != volume) {
            let heads = head::all(store, volume)?;
            starts.push((volume, heads.iter().map(|head| head.log.segment).min()));
        }
        if starts.last().and_then(|(_, start)| *start).is_some_and(|start| number < start) {
            delete(store.log().as_ref(), &name)?;
        }
    }
    Ok(())
}

fn finish_removals(
    store: &Store,
    options: &GcOptions,
    found: Vec<Unnamed>,
    report: &mut Report,
) -> Result<Vec<Unnamed>> {
    let mut finished = Vec::new();
    for unnamed in found {
        let sizes: Vec<u64> =
            unnamed.objects.iter().map(|name| bytes_of(store, name)).collect::<Result<_>>()?;
        let done = match options.dry_run {
            true => true,
            false => match volume::remove_unnamed(store, unnamed.volume) {
                Err(error) if error.is(ErrorKind::Busy) => false,
                other => other?,
            },
        };
        if !done {
            continue;
        }
        for (name, bytes) in unnamed.objects.iter().zip(sizes) {
            if let Some(kind) = report.of_kind(name) {
                kind.deleted.add(bytes);
            }
        }
        report.removals_finished += 1;
        finished.push(unnamed);
    }
    Ok(finished)
}

fn refusal(store: &Store, failure: Failure) -> Error {
    let Failure { owner, error, object, .. } = failure;
    let of = owner.map_or_else(String::new, |owner| format!(" of '{owner}'"));
    let sentence = format!(
        "gc of store '{}' deletes nothing, because {object}{of} cannot be read, and what it needs is not \
         known: {}; see: archipelago check",
        store.name,
        error.full()
    );
    Error::sentence(error.kind(), sentence).on_named(object).caused_by(error)
}

fn garbage_of(candidates: &Candidates, marker: &Marker<'_>, gone: &[ObjectName]) -> Vec<ObjectName> {
    let mut garbage = candidates.garbage(&marker.marked, &marker.scanner.roots);
    garbage.retain(|name| !gone.contains(name));
    garbage
}

fn count_kept(
    candidates: &Candidates,
    garbage: &[ObjectName],
    gone_later: Option<&[ObjectName]>,
    report: &mut Report,
) {
    for kind in &mut report.kinds {
        kind.kept_objects = match kind.kind {
            Kind::Heads => candidates.heads,
            Kind::Snapshots => candidates.snapshots,
            Kind::Segments => candidates.segments.len() as u64,
            Kind::Leases => candidates.leases.len() as u64,
            Kind::Pages => candidates.pages.len() as u64,
            Kind::Blocks => candidates.blocks.len() as u64,
            Kind::Epochs => candidates.epochs.len() as u64,
        };
    }
    for name in garbage.iter().chain(gone_later.unwrap_or_default()) {
        if let Some(kind) = report.of_kind(name) {
            kind.kept_objects = kind.kept_objects.saturating_sub(1);
        }
    }
}

/// What an object takes; nothing if it has gone meanwhile.
pub(super) fn bytes_of(store: &Store, name: &ObjectName) -> Result<u64> {
    match store.place_of(name).stat(name) {
        Ok(stat) => Ok(stat.allocated_bytes),
        Err(error) if error.is(ErrorKind::NotFound) => Ok(0),
        Err(error) => Err(error),
    }
}

fn measure(
    store: &Store,
    garbage: &[ObjectName],
    progress: &mut dyn FnMut(Progress),
) -> Result<HashMap<ObjectName, u64>> {
    let total = Some(garbage.len() as u64);
    let mut sizes = HashMap::with_capacity(garbage.len());
    for (done, name) in (0u64..).zip(garbage) {
        if done % BATCH_OBJECTS as u64 == 0 {
            progress(Progress { phase: Phase::Measure, done, total });
        }
        sizes.insert(name.clone(), bytes_of(store, name)?);
    }
    Ok(sizes)
}

fn sweep(
    store: &Store,
    right: &Maintenance,
    garbage: &[ObjectName],
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let (mut done, total) = (0, Some(garbage.len() as u64));
    for batch in garbage.chunks(BATCH_OBJECTS) {
        right.confirm(store)?;
        progress(Progress { phase: Phase::Sweep, done, total });
        for name in batch {
            delete(store.place_of(name).as_ref(), name)?;
        }
        done += batch.len() as u64;
    }
    progress(Progress { phase: Phase::Sweep, done, total });
    Ok(())
}

/// Deletes; a missing object is as good.
pub(super) fn delete(backend: &dyn Backend, name: &ObjectName) -> Result<()> {
    match backend.delete(name) {
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}
