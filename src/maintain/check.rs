//! Check: reads everything that can be reached and says what is not as it
//! was written. Writes nothing, takes nothing, and may run while volumes are
//! in use.
//!
//! Verified are the store object, names, heads, snapshots, leases, epochs and
//! generations; the maps with all their hashes; the logs; and that every block
//! that is named is there, of the right size. The content of blocks is not
//! read. What nothing reaches is counted as reclaimable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::candidates::Candidates;
use super::gc::bytes_of;
use super::mark::Marker;
use super::problem::{Failure, Problem, Severity};
use super::roots::{is_of_content, Roots};
use super::{Count, Phase, Progress};
use crate::backend::BackendExt;
use crate::catalog::{lease_format, maintenance, scrub};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

const OBJECT_BYTES_MAX: u64 = 64 << 10;
const PROGRESS_BLOCKS: usize = 1024;

/// How much is checked.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Ask the store for every block that is named.
    pub blocks: bool,
    /// Find out how many bytes are reclaimable, not only how many objects.
    pub measure: bool,
}

impl Default for CheckOptions {
    fn default() -> CheckOptions {
        CheckOptions { blocks: true, measure: true }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub volumes: u64,
    pub snapshots: u64,
    /// Snapshots that are taken but not published.
    pub pending: u64,
    pub pages: u64,
    pub blocks: u64,
    pub log_bytes: u64,
    /// What gc would delete.
    pub reclaimable: Count,
}

impl Report {
    /// True if everything that is needed is as it was written.
    pub fn is_sound(&self) -> bool {
        self.damage().next().is_none()
    }

    pub fn damage(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Damage)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let severity = match problem.severity {
                Severity::Damage => "damage",
                Severity::Leftover => "left over",
            };
            let owner = problem.owner.as_ref().map_or_else(String::new, |owner| format!(" of '{owner}'"));
            writeln!(f, "{severity}: {}{owner}: {}", problem.object, problem.sentence)?;
        }
        let Report { volumes, snapshots, pending, pages, blocks, log_bytes, reclaimable, .. } = self;
        write!(
            f,
            "{volumes} volumes, {snapshots} snapshots ({pending} pending), {pages} map pages, \
             {blocks} blocks, {log_bytes} bytes of log; reclaimable: {} objects ({} bytes); {}",
            reclaimable.objects,
            reclaimable.bytes,
            if self.is_sound() { "no damage" } else { "DAMAGED" }
        )
    }
}

/// Checks a store. What is wrong with it is in the report. Errors: those of
/// a store that cannot be asked.
pub fn run(store: &Store, options: &CheckOptions, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    store.check_sealed()?;
    let mut problems = Vec::new();
    check_store(store, &mut problems)?;
    progress(Progress { phase: Phase::List, done: 0, total: None });
    let candidates = Candidates::list(store)?;
    let first = maintenance::generation(store)? + 1;
    let mut marker = Marker::new(store, Some(first));
    marker.scanner.know(candidates.volumes.iter().copied());
    marker.mark(&mut |failure| note(store, failure, &mut problems), progress)?;
    if options.blocks {
        check_blocks(store, &marker, &mut problems, progress)?;
    }
    let roots = &marker.scanner.roots;
    check_leases(store, &candidates, roots, &mut problems)?;
    check_generation(store, &mut problems)?;
    check_names(roots, &mut problems);
    let mut report = count(&marker);
    for name in candidates.garbage(&marker.marked, roots) {
        report.reclaimable.add(if options.measure { bytes_of(store, &name)? } else { 0 });
    }
    problems.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.object.cmp(&b.object)));
    report.problems = problems;
    Ok(report)
}

fn count(marker: &Marker<'_>) -> Report {
    let roots = &marker.scanner.roots;
    let volumes: BTreeSet<&Id> = roots.names.values().collect();
    let latest = || volumes.iter().filter_map(|volume| roots.latest(**volume));
    let snapshots: BTreeSet<_> = roots.snapshots.keys().map(|(volume, name, ..)| (volume, name)).collect();
    let pending_of = |root: &super::roots::HeadRoot| {
        let is_pending = |cut: &&_| !snapshots.contains(&(&root.head.volume, *cut));
        root.log.cuts.iter().filter(is_pending).count() as u64
    };
    Report {
        volumes: volumes.len() as u64,
        snapshots: snapshots.len() as u64,
        pending: latest().map(pending_of).sum(),
        pages: marker.marked.pages.len() as u64,
        blocks: marker.marked.blocks.len() as u64,
        log_bytes: latest().map(|root| root.log.bytes).sum(),
        ..Report::default()
    }
}

fn damage(object: &ObjectName, owner: Option<String>, sentence: String) -> Problem {
    Problem { severity: Severity::Damage, object: object.to_string(), owner, sentence }
}

fn leftover(object: &ObjectName, owner: Option<String>, sentence: String) -> Problem {
    Problem { severity: Severity::Leftover, object: object.to_string(), owner, sentence }
}

/// True if an error is a finding, not a reason to give up.
fn is_finding(error: &Error) -> bool {
    is_of_content(error) || error.is(ErrorKind::Invalid)
}

fn check_store(store: &Store, problems: &mut Vec<Problem>) -> Result<()> {
    match Store::open(&store.name, Arc::clone(store.control())) {
        Ok(there) if there.id == store.id => {}
        Ok(_) => problems.push(damage(&ObjectName::Store, None, "it belongs to another store".to_owned())),
        Err(error) if is_finding(&error) => problems.push(damage(&ObjectName::Store, None, error.full())),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// What a root needed when it was looked at is no problem once the root has
/// gone.
pub(super) fn note(store: &Store, failure: Failure, problems: &mut Vec<Problem>) -> Result<()> {
    let Failure { owner, error, object, root } = failure;
    if !is_finding(&error) {
        return Err(error);
    }
    if let Some(root) = root {
        if is_gone(store, &root)? {
            return Ok(());
        }
    }
    let sentence = error.full();
    problems.push(Problem { severity: Severity::Damage, object, owner, sentence });
    Ok(())
}

pub(super) fn is_gone(store: &Store, root: &ObjectName) -> Result<bool> {
    match store.control().stat(root) {
        Ok(_) => Ok(false),
        Err(error) if error.is(ErrorKind::NotFound) => Ok(true),
        Err(error) => Err(error),
    }
}

fn check_blocks(
    store: &Store,
    marker: &Marker<'_>,
    problems: &mut Vec<Problem>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let marked = &marker.marked;
    let total = Some(marked.blocks.len() as u64);
    let mut blocks: Vec<&(Id, u64)> = marked.blocks.keys().collect();
    blocks.sort_unstable();
    for (at, block) in blocks.into_iter().enumerate() {
        if at % PROGRESS_BLOCKS == 0 {
            progress(Progress { phase: Phase::Verify, done: at as u64, total });
        }
        let Some(owner) = marked.owner_of(block).filter(|owner| !owner.superseded) else { continue };
        let object = ObjectName::Block { epoch: block.0, index: block.1 };
        let sentence = match store.blocks().stat(&object) {
            Ok(stat) if stat.bytes == owner.block_bytes => continue,
            Ok(stat) => format!("it has {} bytes and should have {}", stat.bytes, owner.block_bytes),
            Err(error) if error.is(ErrorKind::NotFound) => "it is missing".to_owned(),
            Err(error) => return Err(error),
        };
        if !is_gone(store, &owner.object)? {
            problems.push(damage(&object, Some(owner.name.clone()), sentence));
        }
    }
    Ok(())
}

/// Only the last lease of a volume counts.
fn check_leases(
    store: &Store,
    candidates: &Candidates,
    roots: &Roots,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let mut highest: BTreeMap<Id, u64> = BTreeMap::new();
    for (volume, number) in &candidates.leases {
        let there = highest.entry(*volume).or_default();
        *there = (*there).max(*number);
    }
    for (volume, number) in highest {
        let object = ObjectName::Lease { volume, number };
        let error = match store.control().read_all(&object, OBJECT_BYTES_MAX) {
            Ok(data) => lease_format::decode(&object, &data).err(),
            Err(error) if error.is(ErrorKind::NotFound) => None,
            Err(error) => Some(error),
        };
        match error {
            None => {}
            Some(error) if is_finding(&error) => {
                problems.push(damage(&object, Some(roots.name_of(volume)), error.full()));
            }
            Some(error) => return Err(error),
        }
    }
    Ok(())
}

fn check_generation(store: &Store, problems: &mut Vec<Problem>) -> Result<()> {
    let mut objects = store.control().list_all(prefix::MAINTENANCE)?;
    objects.extend(store.control().list_all(prefix::SCRUBS)?);
    for object in objects {
        let error = match store.control().read_all(&object, OBJECT_BYTES_MAX) {
            Ok(data) if matches!(object, ObjectName::Scrub(_)) => scrub::decode(&object, &data).err(),
            Ok(data) => maintenance::decode(&object, &data).err(),
            Err(error) if error.is(ErrorKind::NotFound) => None,
            Err(error) => Some(error),
        };
        match error {
            None => {}
            Some(error) if is_finding(&error) => problems.push(damage(&object, None, error.full())),
            Some(error) => return Err(error),
        }
    }
    Ok(())
}

/// What interrupted commands leave behind.
fn check_names(roots: &Roots, problems: &mut Vec<Problem>) {
    let volumes: BTreeSet<Id> = roots.heads.keys().map(|(volume, _)| *volume).collect();
    for volume in volumes {
        let Some(latest) = roots.latest(volume) else { continue };
        let names: Vec<String> = roots.names_of(volume).map(ToString::to_string).collect();
        let object = latest.head.object();
        match names.as_slice() {
            [] => problems.push(leftover(
                &object,
                Some(roots.name_of(volume)),
                "no name leads to this volume: it was being made or removed, and archipelago gc takes it \
                 away if nobody is doing so still"
                    .to_owned(),
            )),
            [_] => {}
            [first, ..] => problems.push(leftover(
                &object,
                Some(first.clone()),
                format!(
                    "the names {} lead to one volume, because a rename was interrupted: archipelago rm of \
                     one of them removes only that name",
                    names.join(", ")
                ),
            )),
        }
    }
    for (key @ (volume, ..), snapshot) in &roots.snapshots {
        if roots.is_superseded(key) || roots.latest(*volume).is_some() {
            continue;
        }
        let sentence = "the volume of this snapshot was removed".to_owned();
        let owner = format!("{}@{}", roots.name_of(*volume), snapshot.name);
        problems.push(leftover(&snapshot.object(), Some(owner), sentence));
    }
}
