//! Scrub: gives every block of every snapshot a sum, and compares those that
//! have one with what is read.
//!
//! A block that a snapshot names is never written again. The first scrub that
//! meets it puts its BLAKE3 into the page that names it; every later one reads
//! it and compares. What rots before the first is summed as it is. Blocks that
//! only a volume names may be written at any time and have no sum, unless they
//! come from a snapshot: a volume's and a clone's map keeps the sums of blocks
//! that it shares.
//!
//! # What is written, and beside whom
//!
//! New pages, and the snapshot under its next number with the new root
//! (`snapshot::replace`). While they are written this is the store's
//! maintainer: no gc can have listed the new pages and not see what reaches
//! them. That takes seconds; blocks are read before, without it. A snapshot
//! that its publisher has not verified is left for the next scrub.
//!
//! Every few minutes what has been summed so far becomes durable in this way,
//! so that an interrupted scrub does not do it again; how far comparing has
//! come is in the `scrub` object.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::check::{is_gone, note};
use super::roots::is_of_content;
use super::sum::Summer;
use super::survey::{Found, Survey};
use super::{Count, Phase, Problem, Progress, Severity};
use crate::catalog::identity::{wall_s, Identity};
use crate::catalog::maintenance::{self, Maintenance};
use crate::catalog::scrub::{self, Scrubbing, State};
use crate::catalog::snapshot::{self, Snapshot};
use crate::clock;
use crate::error::{ErrorKind, Result};
use crate::map::{Presence, Resum, Sum};
use crate::name::{Id, ObjectName};
use crate::store::{Store, GRANULE_BYTES};

/// Between two looks whether a gc has ended.
const MAINTAINER_WAIT: Duration = Duration::from_secs(1);

/// How a scrub runs.
#[derive(Clone, Debug)]
pub struct ScrubOptions {
    /// Who maintains, for others to see.
    pub identity: Identity,
    /// Begin at the first block, not where an interrupted scrub was.
    pub restart: bool,
    /// At most so many bytes are read in a second.
    pub bytes_per_s: Option<u64>,
    /// How often what has been summed becomes durable: each time costs a few
    /// pages, and makes everybody who publishes just then do it again.
    pub publish_every: Duration,
    /// How often it is noted how far comparing has come.
    pub save_every: Duration,
    /// How long a gc is waited for.
    pub patience: Duration,
    /// Asked before each block: true ends the scrub, to be gone on with later.
    pub stop: fn() -> bool,
}

impl Default for ScrubOptions {
    fn default() -> ScrubOptions {
        ScrubOptions {
            identity: Identity::of_this_process(),
            restart: false,
            bytes_per_s: None,
            publish_every: Duration::from_secs(300),
            save_every: Duration::from_secs(30),
            patience: Duration::from_secs(900),
            stop: || false,
        }
    }
}

/// What a scrub did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub problems: Vec<Problem>,
    /// Blocks that got a sum.
    pub summed: Count,
    /// Blocks that were compared with theirs.
    pub compared: Count,
    /// Blocks that only volumes name, which have none.
    pub without_sum: u64,
    /// Snapshots that changed or were busy meanwhile: their blocks' sums are
    /// left for the next scrub.
    pub left_snapshots: u64,
    /// It went on where an earlier one was interrupted.
    pub resumed: bool,
    /// False: it was asked to stop before it came to the end.
    pub ended: bool,
    pub read_bytes: u64,
}

impl Report {
    /// True if everything that was read is as it was written.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let owner = problem.owner.as_ref().map_or_else(String::new, |owner| format!(" of '{owner}'"));
            writeln!(f, "damage: {}{owner}: {}", problem.object, problem.sentence)?;
        }
        let Report { summed, compared, without_sum, .. } = self;
        write!(
            f,
            "{} blocks compared, {} summed, {without_sum} of volumes alone without a sum; {}",
            compared.objects,
            summed.objects,
            if self.is_sound() { "no damage" } else { "DAMAGED" }
        )
    }
}

/// Scrubs a store. What is wrong with it is in the report. Errors: `Busy`
/// while somebody else scrubs it, or collects it for a quarter of an hour;
/// those of a store that cannot be asked.
pub fn run(store: &Store, options: &ScrubOptions, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    store.check_sealed()?;
    let (right, last) = scrub::begin(store)?;
    progress(Progress { phase: Phase::List, done: 0, total: None });
    let mut report = Report::default();
    let problems = &mut report.problems;
    let survey = Survey::take(store, &mut |failure| note(store, failure, problems))?;
    let resumed = last.filter(|state| state.ended_s == 0 && !options.restart);
    report.resumed = resumed.is_some();
    let begun = State { began_s: wall_s(), ..State::default() };
    let mut scrub = Scrub {
        store,
        options,
        right,
        state: resumed.unwrap_or(begun),
        is_behind: survey.lacks_sums,
        survey,
        sums: HashMap::new(),
        doubts: Vec::new(),
        unsummed_damaged: 0,
        summer: Summer::new(store.blocks().as_ref(), options.bytes_per_s),
        report,
    };
    if scrub.sum_all(progress)? {
        scrub.compare_all(progress)?;
    }
    scrub.end()?;
    scrub.report.read_bytes = scrub.summer.read_bytes();
    Ok(scrub.report)
}

struct Scrub<'a> {
    store: &'a Store,
    options: &'a ScrubOptions,
    right: Scrubbing,
    state: State,
    survey: Survey,
    /// Sums that this made.
    sums: HashMap<(Id, u64), Sum>,
    /// Some sum is not in every page that it belongs to.
    is_behind: bool,
    /// What is wrong with blocks that were named by what has gone meanwhile.
    doubts: Vec<((Id, u64), String)>,
    /// Damaged blocks without a sum: each scrub meets them, resumed or not.
    unsummed_damaged: u64,
    summer: Summer<'a>,
    report: Report,
}

impl Scrub<'_> {
    /// Gives a sum to every sealed block that has none. False: it was asked to
    /// stop.
    fn sum_all(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<bool> {
        let (wanted, live): (Vec<_>, Vec<_>) = self
            .survey
            .blocks
            .iter()
            .filter(|(_, found)| found.sum.is_none())
            .map(|(block, found)| (*block, found.sealed))
            .partition(|(_, sealed)| *sealed);
        self.report.without_sum = live.len() as u64;
        let mut published = clock::now();
        let total = Some(wanted.len() as u64);
        for (done, (block, _)) in (0u64..).zip(&wanted) {
            if (self.options.stop)() {
                self.publish()?;
                return Ok(false);
            }
            progress(Progress { phase: Phase::Sum, done, total });
            let Some(found) = self.survey.blocks.get(block).cloned() else { continue };
            if let Some((sum, bytes)) = self.read(*block, &found)? {
                self.sums.insert(*block, sum);
                self.is_behind = true;
                self.report.summed.add(bytes);
            }
            if clock::now().saturating_duration_since(published) >= self.options.publish_every {
                self.publish()?;
                published = clock::now();
            }
        }
        self.publish()?;
        Ok(true)
    }

    /// The sum of what a block holds now; `None` if that cannot be found out,
    /// which is then told, or if nobody needs it any more.
    fn read(&mut self, block: (Id, u64), found: &Found) -> Result<Option<(Sum, u64)>> {
        let Some(owner) = self.survey.owner_of(found) else { return Ok(None) };
        let name = ObjectName::Block { epoch: block.0, index: block.1 };
        let sentence = match self.summer.sum(&name, owner.block_bytes, found.presence.as_ref()) {
            Ok(sum) => return Ok(Some((sum, owner.block_bytes))),
            Err(error) if error.is(ErrorKind::NotFound) => "it is missing".to_owned(),
            Err(error) => error.full(),
        };
        self.tell(block, found, sentence)?;
        Ok(None)
    }

    /// Error: that of a store that is away altogether.
    fn tell(&mut self, block: (Id, u64), found: &Found, sentence: String) -> Result<()> {
        let Some(owner) = self.survey.owner_of(found) else { return Ok(()) };
        match is_gone(self.store, &owner.object)? {
            true => self.doubts.push((block, sentence)),
            false => {
                let problem = problem(block, &owner.name, sentence);
                self.damage(problem, found.sum.is_some());
            }
        }
        Ok(())
    }

    fn damage(&mut self, problem: Problem, has_sum: bool) {
        match has_sum {
            true => self.state.damaged += 1,
            false => self.unsummed_damaged += 1,
        }
        self.report.problems.push(problem);
    }

    /// What named a block has gone: a head that others follow, a snapshot that
    /// was removed. Something else may need it; if nothing does, what is wrong
    /// with it does not matter.
    fn settle_doubts(&mut self) -> Result<()> {
        if self.doubts.is_empty() {
            return Ok(());
        }
        // What cannot be read has been told.
        let now = Survey::take(self.store, &mut |_| Ok(()))?;
        for (block, sentence) in std::mem::take(&mut self.doubts) {
            let Some(found) = now.blocks.get(&block) else { continue };
            if let Some(owner) = now.owner_of(found) {
                self.damage(problem(block, &owner.name, sentence), found.sum.is_some());
            }
        }
        Ok(())
    }

    /// Puts the sums into pages and gives the snapshots their new roots.
    fn publish(&mut self) -> Result<()> {
        if !self.is_behind {
            return Ok(());
        }
        let right = self.maintain()?;
        let (sums, blocks) = (&self.sums, &self.survey.blocks);
        let known = |epoch: Id, index: u64, presence: Option<&Presence>| {
            let found = blocks.get(&(epoch, index)).filter(|found| found.presence.as_ref() == presence)?;
            found.sum.or_else(|| sums.get(&(epoch, index)).copied())
        };
        let mut resum = Resum::new(self.store, &known, &self.survey.pages);
        self.report.left_snapshots = 0;
        for old in &mut self.survey.snapshots {
            match renew(self.store, &right, old, &mut resum)? {
                Renewed::Has(new) => *old = *new,
                Renewed::Gone => {}
                Renewed::Left => self.report.left_snapshots += 1,
            }
        }
        self.is_behind = false;
        Ok(())
    }

    /// The right to maintain the store, as soon as a gc has ended.
    fn maintain(&self) -> Result<Maintenance> {
        let began = clock::now();
        loop {
            let waited = clock::now().saturating_duration_since(began);
            match maintenance::claim_next(self.store, &self.options.identity) {
                Err(error) if error.is(ErrorKind::Busy) && waited < self.options.patience => {
                    clock::sleep(MAINTAINER_WAIT);
                }
                other => return other,
            }
        }
    }

    /// Compares every block that had a sum before this began.
    fn compare_all(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        let blocks = self.survey.blocks.iter();
        let summed = blocks.filter(|(_, found)| found.sum.is_some()).map(|(block, _)| *block);
        let wanted: Vec<(Id, u64)> = summed.collect();
        let done = wanted.partition_point(|block| self.state.compared.is_some_and(|last| *block <= last));
        let total = Some(wanted.len() as u64);
        let mut saved = clock::now();
        for (done, block) in wanted.into_iter().enumerate().skip(done) {
            if (self.options.stop)() {
                return Ok(());
            }
            progress(Progress { phase: Phase::Compare, done: done as u64, total });
            let Some(found) = self.survey.blocks.get(&block).cloned() else { continue };
            self.compare(block, &found)?;
            self.state.compared = Some(block);
            if clock::now().saturating_duration_since(saved) >= self.options.save_every {
                self.right.save(self.store, &self.state)?;
                saved = clock::now();
            }
        }
        self.report.ended = true;
        Ok(())
    }

    /// Notes how far this has come.
    fn end(&mut self) -> Result<()> {
        self.settle_doubts()?;
        if self.report.ended {
            self.state.ended_s = wall_s();
            self.state.damaged += self.unsummed_damaged;
        }
        self.right.save(self.store, &self.state)
    }

    fn compare(&mut self, block: (Id, u64), found: &Found) -> Result<()> {
        if let Some((sum, bytes)) = self.read(block, found)? {
            self.state.blocks += 1;
            self.state.bytes += bytes;
            self.report.compared.add(bytes);
            if found.sum != Some(sum) {
                let sentence = "its content is not what it was when it was summed: restore what needs it \
                                from a copy, or take the block from one";
                self.tell(block, found, sentence.to_owned())?;
            }
        }
        Ok(())
    }
}

fn problem(block: (Id, u64), owner: &str, sentence: String) -> Problem {
    let object = ObjectName::Block { epoch: block.0, index: block.1 }.to_string();
    Problem { severity: Severity::Damage, object, owner: Some(owner.to_owned()), sentence }
}

/// What became of giving a snapshot a root with sums.
enum Renewed {
    Has(Box<Snapshot>),
    /// It was removed.
    Gone,
    /// It is not there for good, or changed meanwhile.
    Left,
}

/// Gives a snapshot a root with sums. Error: `Fenced` if another maintenance
/// has begun; then nothing is changed.
fn renew(store: &Store, right: &Maintenance, old: &Snapshot, resum: &mut Resum<'_>) -> Result<Renewed> {
    let find = || match snapshot::find(store, old.volume, &old.name) {
        Ok(there) if there.id == old.id => Ok(Some(there)),
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(None),
    };
    let Some(there) = find()? else { return Ok(Renewed::Gone) };
    match snapshot::is_for_good(store, &there) {
        Ok(true) => {}
        Ok(false) => return Ok(Renewed::Left),
        Err(error) if error.is(ErrorKind::NotFound) => return Ok(Renewed::Gone),
        Err(error) => return Err(error),
    }
    let granules = (there.block_bytes / GRANULE_BYTES) as u32;
    let root = match resum.root(there.root, granules) {
        Ok(root) => root,
        // Told already, or taken by a removal just now.
        Err(error) if is_of_content(&error) => return Ok(Renewed::Left),
        Err(error) => return Err(error),
    };
    if root == there.root {
        return Ok(Renewed::Has(Box::new(there)));
    }
    // Without a lock that keeps a gc away it may have begun meanwhile.
    right.confirm(store)?;
    if !snapshot::replace(store, &there, root)? {
        return Ok(Renewed::Left);
    }
    let Some(new) = find()?.filter(|new| new.root == root) else { return Ok(Renewed::Left) };
    if let Err(error) = right.confirm(store) {
        // It may take the new pages: what was there before counts again.
        snapshot::take_back(store, &new)?;
        return Err(error);
    }
    Ok(Renewed::Has(Box::new(new)))
}
