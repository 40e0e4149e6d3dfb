//! Every moment at which a run can be interrupted, and at each of them the
//! stores that can be left: all that was synced and any part of what was not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use archipelago::error::ErrorKind;
use archipelago::name::ObjectName;
use archipelago::volume::OpenOptions;

use super::act::Setup;
use super::disk::{Disk, Event, Names, Op};
use super::image::{hash_bytes, mix, Image, SECTOR};
use super::model::{Model, Seen, Values};
use super::observe::{observe, Depth, Found};
use super::report::{Counts, Cut};
use super::workloads::{self, Seeded};
use super::world::World;

/// Deletes that a loss of power can undo: the last ones.
const DELETES_MAX: usize = 10;
/// So many of more than that are tried alone and left out.
const SINGLES_MAX: usize = 10;

/// What a power loss at one moment could leave.
#[derive(Clone, Default)]
pub struct Left {
    /// What is certain.
    pub durable: Image,
    /// What is not, in order.
    pub pending: Vec<Op>,
    /// The operations of `pending`, as they were counted.
    numbers: Vec<u32>,
    count: u32,
}

impl Left {
    /// This is certain.
    pub fn of(durable: Image) -> Left {
        Left { durable, ..Left::default() }
    }

    fn push(&mut self, op: &Op) {
        self.pending.push(op.clone());
        self.numbers.push(self.count);
        self.count += 1;
    }

    fn settle_name(&mut self, name: &ObjectName) {
        if !self.pending.iter().any(|op| op.name() == Some(name)) {
            return;
        }
        let numbers = std::mem::take(&mut self.numbers);
        for (op, number) in std::mem::take(&mut self.pending).into_iter().zip(numbers) {
            if op.name() == Some(name) {
                op.apply(&mut self.durable);
            } else {
                self.pending.push(op);
                self.numbers.push(number);
            }
        }
    }

    /// A sync of an object's content: nothing, if its name can still be lost.
    fn settle_content(&mut self, name: &ObjectName) {
        let is_new = |op: &Op| matches!(op, Op::CreateSparse { name: made, .. } if made == name);
        if !self.pending.iter().any(is_new) {
            self.settle_name(name);
        }
    }

    pub fn advance(&mut self, op: &Op) {
        match op {
            Op::Create { name, .. } => {
                self.settle_name(name);
                op.apply(&mut self.durable);
            }
            Op::CreateSparse { name, .. } => {
                self.settle_name(name);
                self.push(op);
            }
            Op::Write { .. } => self.push(op),
            Op::Sync { names } => names.iter().for_each(|name| self.settle_name(name)),
            Op::SyncContent { names } => names.iter().for_each(|name| self.settle_content(name)),
            Op::Delete { .. } => {
                self.push(op);
                let is_delete = |op: &&Op| matches!(op, Op::Delete { .. });
                if self.pending.iter().filter(is_delete).count() > DELETES_MAX {
                    let oldest = self.pending.iter().find(is_delete).and_then(|op| op.name().cloned());
                    if let Some(oldest) = oldest {
                        self.settle_name(&oldest);
                    }
                }
            }
        }
    }

    /// What tells `image` of this choice from that of any other, within one
    /// exploration: it is made only if it has not been before.
    fn key(&self, choice: &Choice) -> u64 {
        let mut key = self.durable.digest();
        for (at, op) in self.pending.iter().enumerate() {
            // What a lost delete takes with it makes a difference too.
            if choice.taken[at] || matches!(op, Op::Delete { .. }) {
                key = mix(key, u64::from(self.numbers[at]) << 1 | u64::from(choice.taken[at]));
            }
        }
        if choice.empty {
            key = mix(key, 4);
        }
        match choice.torn {
            Some((at, sectors)) => mix(mix(key, u64::from(self.numbers[at])), sectors.number()),
            None => key,
        }
    }

    /// The store in which these of the pending operations have survived.
    fn image(&self, choice: &Choice) -> Image {
        let mut image = self.durable.clone();
        let mut roots_back = false;
        for (at, op) in self.pending.iter().enumerate() {
            if let Op::Delete { name } = op {
                // Deletes of roots reach the disk in their order, before the
                // deletes of what they led to: all our stores see to that.
                // What nothing leads to any more may come back in any order.
                if roots_back || !choice.taken[at] {
                    use ObjectName::{Head, Snapshot, Volume};
                    roots_back |= matches!(name, Volume(_) | Snapshot { .. } | Head { .. });
                    continue;
                }
                op.apply(&mut image);
                continue;
            }
            if choice.taken[at] {
                match op {
                    Op::CreateSparse { name, .. } if choice.empty => drop(image.create(name, 0, &[])),
                    _ => op.apply(&mut image),
                }
            } else if let (Some((torn, sectors)), Op::Write { name, offset, data }) = (&choice.torn, op) {
                if *torn == at {
                    for (nth, bytes) in data.chunks(SECTOR).enumerate().filter(|(nth, _)| sectors.has(*nth)) {
                        image.write(name, offset + (nth * SECTOR) as u64, bytes);
                    }
                }
            }
        }
        image
    }
}

/// Which sectors of a torn write are there.
#[derive(Clone, Copy, Debug)]
pub enum Sectors {
    Before(usize),
    From(usize),
    Random(u64),
}

impl Sectors {
    fn number(self) -> u64 {
        match self {
            Sectors::Before(end) => mix(1, end as u64),
            Sectors::From(first) => mix(2, first as u64),
            Sectors::Random(seed) => mix(3, seed),
        }
    }

    fn has(self, nth: usize) -> bool {
        match self {
            Sectors::Before(end) => nth < end,
            Sectors::From(first) => nth >= first,
            Sectors::Random(seed) => mix(seed, nth as u64) & 1 == 0,
        }
    }
}

/// One of the stores that can be left.
#[derive(Clone, Debug)]
struct Choice {
    cut: Cut,
    taken: Vec<bool>,
    torn: Option<(usize, Sectors)>,
    /// New sparse objects have their names and no bytes, as btrfs leaves a file
    /// of which only the name has come into its log.
    empty: bool,
}

impl Choice {
    fn text(&self, pending: &[Op]) -> String {
        let mut text = format!("cut: {}\n", self.cut.text());
        for (at, op) in pending.iter().enumerate() {
            let fate = match (&self.torn, self.taken[at]) {
                (Some((torn, sectors)), _) if *torn == at => format!("torn {sectors:?}"),
                (_, true) if self.empty => "there, a new object without its bytes".to_owned(),
                (_, true) => "there".to_owned(),
                (_, false) => "lost".to_owned(),
            };
            text.push_str(&format!("  {fate}: {}\n", op.text()));
        }
        text
    }
}

/// How thoroughly one run is explored.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Subsets at each moment; the interesting ones come first.
    pub subsets_max: usize,
    /// Up to so many unsynced operations every subset is tried.
    pub exhaustive_max: usize,
    /// One in this many states is worked on and crashes again.
    pub second_every: u64,
}

/// What was found in which state, after what had been made.
pub type Known = HashMap<(u64, u64), Arc<Found>>;

/// Everything that exploring one workload needs.
pub struct Explorer<'a> {
    pub setup: Setup,
    pub options: &'a OpenOptions,
    pub values: Arc<Values>,
    pub random: Seeded,
    pub counts: Counts,
    /// Of the whole run; true if it was new.
    pub note_distinct: &'a dyn Fn(u64) -> bool,
    pub heartbeat: &'a dyn Fn(),
    /// What was made so far, to last.
    pub made: Arc<Names>,
    made_digest: u64,
    found: Known,
    /// What was found in workloads that begin as this one does.
    earlier: Known,
    checked: HashSet<(u64, u64, usize)>,
    kept: Vec<Arc<Model>>,
}

impl<'a> Explorer<'a> {
    pub fn new(
        setup: Setup,
        options: &'a OpenOptions,
        values: Arc<Values>,
        seed: u64,
        note_distinct: &'a dyn Fn(u64) -> bool,
        heartbeat: &'a dyn Fn(),
    ) -> Explorer<'a> {
        Explorer {
            setup,
            options,
            values,
            random: Seeded(seed),
            counts: Counts::default(),
            note_distinct,
            heartbeat,
            made: Arc::default(),
            made_digest: 0,
            found: Known::new(),
            earlier: Known::new(),
            checked: HashSet::new(),
            kept: Vec::new(),
        }
    }

    /// Goes on with what was found in workloads that begin as this one does.
    pub fn knowing(mut self, earlier: Known) -> Explorer<'a> {
        self.earlier = earlier;
        self
    }

    /// What the next workload that begins in the same way may go on with: not
    /// what looked foreign, for it may know what wrote that.
    pub fn known(self) -> Known {
        let mut known = self.earlier;
        let is_plain = |found: &Found| found.as_ref().is_ok_and(|seen| !seen.iter().any(Seen::is_foreign));
        known.extend(self.found.into_iter().filter(|(_, found)| is_plain(found)));
        known
    }

    /// Explores what was recorded after `left`, from an event on. Error: what is wrong, told
    /// with all that is needed to see it again.
    pub fn explore(
        &mut self,
        mut left: Left,
        events: &[Event],
        from: usize,
        effort: Effort,
        is_second: bool,
    ) -> Result<(), String> {
        let mut model: Option<Arc<Model>> = None;
        let mut known: HashMap<u64, u64> = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Op(op) => {
                    left.advance(op);
                    self.note_made(op);
                }
                Event::Model(next) => {
                    self.kept.push(Arc::clone(next));
                    model = Some(Arc::clone(next));
                }
                Event::Killed => {}
            }
            let Some(model) = model.as_ref().filter(|_| at >= from) else { continue };
            for choice in self.choices(&left, event, effort, is_second) {
                self.counts.note_lost(&left.pending, &choice.taken);
                let mut image = None;
                let digest = *known.entry(left.key(&choice)).or_insert_with(|| {
                    let made = image.insert(left.image(&choice));
                    made.digest()
                });
                let image = || image.take().unwrap_or_else(|| left.image(&choice));
                let is_new = self.state(digest, image, model, choice.cut).map_err(|text| {
                    let pending = choice.text(&left.pending);
                    format!("{text}\nafter event {at} of {}\n{pending}{}", events.len(), before(events, at))
                })?;
                let picked = mix(digest, 77) % effort.second_every == 0;
                if !is_second && picked && is_new {
                    self.second(&left, &left.image(&choice), model, &choice).map_err(|text| {
                        let pending = choice.text(&left.pending);
                        format!(
                            "{text}\nin the life after event {at} of {}\n{pending}{}",
                            events.len(),
                            before(events, at)
                        )
                    })?;
                }
            }
        }
        Ok(())
    }

    /// A sparse block that a loss of power takes may be made once more in a cut
    /// that is not published: nobody is left who had it open.
    fn note_made(&mut self, op: &Op) {
        if let (Op::Create { .. }, Some(name)) = (op, op.made_once()) {
            if Arc::make_mut(&mut self.made).insert(name.clone()) {
                let digest = hash_bytes(name.to_string().as_bytes());
                self.made_digest = self.made_digest.wrapping_add(digest);
            }
        }
    }

    /// Looks at a state. False if it was looked at before, here or earlier.
    fn state(
        &mut self,
        digest: u64,
        image: impl FnOnce() -> Image,
        model: &Arc<Model>,
        cut: Cut,
    ) -> Result<bool, String> {
        (self.heartbeat)();
        let is_new = (self.note_distinct)(digest);
        self.counts.note(cut, is_new);
        let key = (digest, self.made_digest);
        if !self.checked.insert((key.0, key.1, Arc::as_ptr(model) as usize)) {
            return Ok(false);
        }
        let earlier = self.earlier.get(&key);
        let is_earlier = earlier.is_some();
        let found = match earlier.or_else(|| self.found.get(&key)) {
            Some(found) => Arc::clone(found),
            None => {
                let depth = Depth { read_only: digest % 4 == 0, goes_on: digest % 8 < 2 };
                let found = Arc::new(observe(&image(), &self.made, &self.values, self.options, depth));
                self.found.insert(key, Arc::clone(&found));
                found
            }
        };
        match &*found {
            Ok(seen) => model.check(seen).map(|()| !is_earlier),
            Err((kind, text)) => Err(format!("{kind:?}: {text}")),
        }
    }

    /// The stores to look at after one event.
    fn choices(&mut self, left: &Left, event: &Event, effort: Effort, is_second: bool) -> Vec<Choice> {
        let count = left.pending.len();
        let is_delete: Vec<bool> = left.pending.iter().map(|op| matches!(op, Op::Delete { .. })).collect();
        let open: Vec<usize> = (0..count).filter(|at| !is_delete[*at]).collect();
        let all = vec![true; count];
        let none = is_delete.clone();
        let cut = |cut| if is_second { Cut::Second } else { cut };
        let power = |taken| Choice { cut: cut(Cut::Power), taken, torn: None, empty: false };
        let mut out = vec![Choice { cut: cut(Cut::Kill), ..power(all.clone()) }, power(none.clone())];
        if left.pending.iter().any(|op| matches!(op, Op::CreateSparse { .. })) {
            out.push(Choice { empty: true, ..power(all.clone()) });
        }
        if let (Event::Op(Op::Write { data, .. }), Some(last)) = (event, count.checked_sub(1)) {
            let sectors = data.len().div_ceil(SECTOR);
            if sectors > 1 && !is_delete[last] {
                let middle = 1 + self.random.below(sectors as u64 - 1) as usize;
                let mut torn = |mut taken: Vec<bool>, which| {
                    taken[last] = false;
                    out.push(Choice { cut: cut(Cut::Torn), torn: Some((last, which)), ..power(taken) });
                };
                torn(all.clone(), Sectors::Before(middle));
                torn(all.clone(), Sectors::From(middle));
                torn(none.clone(), Sectors::Before(middle));
                torn(all.clone(), Sectors::Random(self.random.next()));
            }
        }
        if is_delete.iter().any(|is| *is) {
            let undone =
                |chosen: &[bool]| (0..count).map(|at| chosen[at] && !is_delete[at]).collect::<Vec<bool>>();
            out.push(power(undone(&all)));
            out.push(power(undone(&none)));
        }
        if open.len() <= effort.exhaustive_max {
            for mask in 1..(1u32 << open.len()).saturating_sub(1) {
                let mut taken = none.clone();
                open.iter().enumerate().for_each(|(bit, at)| taken[*at] = mask >> bit & 1 == 1);
                out.push(power(taken));
            }
        } else {
            self.singles(&open, &all, &none, &mut |taken| out.push(power(taken)));
        }
        for _ in 0..2 {
            if open.len() > 1 {
                let random = self.random.next();
                let taken = (0..count).map(|at| mix(random, at as u64) & 3 != 0).collect();
                out.push(power(taken));
            }
        }
        if is_second {
            // A few of them, any.
            let keep = effort.subsets_max.min(out.len());
            for at in 0..keep {
                let other = at + self.random.below((out.len() - at) as u64) as usize;
                out.swap(at, other);
            }
        }
        out.truncate(effort.subsets_max);
        out
    }

    /// Each one alone, each one missing.
    fn singles(&mut self, open: &[usize], all: &[bool], none: &[bool], push: &mut dyn FnMut(Vec<bool>)) {
        let first = self.random.below(open.len() as u64) as usize;
        // The last one is what has just happened: always.
        let chosen = (0..open.len().min(SINGLES_MAX)).map(|nth| open[(first + nth) % open.len()]);
        for at in chosen.chain(open.last().copied()) {
            let (mut missing, mut alone) = (all.to_vec(), none.to_vec());
            missing[at] = false;
            alone[at] = true;
            push(missing);
            push(alone);
        }
        for _ in 0..4 {
            let random = self.random.next();
            push((0..all.len()).map(|at| none[at] || mix(random, at as u64) & 1 == 0).collect());
        }
    }

    /// Goes on with what was left, and crashes again.
    fn second(
        &mut self,
        left: &Left,
        image: &Image,
        model: &Arc<Model>,
        choice: &Choice,
    ) -> Result<(), String> {
        archipelago::clock::seeded::seed(Some(mix(image.digest(), 5)));
        let disk = Disk::after(Arc::clone(&self.made), image.clone(), true);
        let mut model = Model::clone(model);
        model
            .volumes
            .iter_mut()
            .for_each(|volume| volume.snapshots.iter_mut().for_each(|s| s.taking = false));
        let mut world = World::resume(disk.clone(), model, self.values.clone(), &self.setup, self.options)?;
        let acts = workloads::second_life(image.digest(), &self.setup);
        for act in &acts {
            world.act(act).map_err(|text| format!("{text}\nin a second life of {acts:?}"))?;
        }
        let left = match choice.cut {
            // A process ended: what it had not synced can still be lost.
            Cut::Kill => left.clone(),
            _ => Left::of(image.clone()),
        };
        let effort = Effort { subsets_max: 2, exhaustive_max: 4, second_every: u64::MAX };
        let (events, made) = (disk.take_events(), (Arc::clone(&self.made), self.made_digest));
        let result = self.explore(left, &events, 0, effort, true);
        // Of another life than the one that is explored.
        (self.made, self.made_digest) = made;
        result.map_err(|text| format!("{text}\nin a second life of {acts:?}"))
    }

    /// Flips a byte in a batch of the log below what later batches know to be
    /// durable, of those written from an event on: it must be noticed, or not
    /// matter any more.
    pub fn damage(&mut self, events: &[Event], from: usize, image: &Image) -> Result<(), String> {
        let Some(model) = events.iter().rev().find_map(|event| match event {
            Event::Model(model) => Some(Arc::clone(model)),
            _ => None,
        }) else {
            return Ok(());
        };
        let ops: Vec<&Op> = events[from..]
            .iter()
            .filter_map(|e| if let Event::Op(op) = e { Some(op) } else { None })
            .collect();
        for (at, op) in ops.iter().enumerate() {
            let Op::Write { name: name @ ObjectName::Segment { volume, .. }, offset, .. } = op else {
                continue;
            };
            if !is_known_durable(&ops[at..], name, *volume, image) || image.get(name).is_none() {
                continue;
            }
            let mut damaged = image.clone();
            let mut byte = [0];
            let place = offset + self.random.below(48);
            damaged.get(name).map(|object| object.read(place, &mut byte));
            damaged.write(name, place, &[byte[0] ^ 0x10]);
            self.counts.note(Cut::Damage, (self.note_distinct)(damaged.digest()));
            let depth = Depth { read_only: false, goes_on: false };
            match observe(&damaged, &self.made, &self.values, self.options, depth) {
                Ok(seen) => model.check(&seen).map_err(|text| {
                    format!(
                        "{text}\nafter a flipped bit at {place} of {name}, which passes unnoticed\n{}",
                        before(events, events.len())
                    )
                })?,
                Err((ErrorKind::Corrupt, _)) => {}
                Err((kind, text)) => {
                    return Err(format!("a flipped bit in {name} is told as {kind:?}: {text}"))
                }
            }
        }
        Ok(())
    }
}

/// True if the first of `ops`, a write to a segment, was synced and a batch
/// that is still there was written after that. It takes two syncs to be sure:
/// the write may have come within the first.
fn is_known_durable(ops: &[&Op], name: &ObjectName, volume: archipelago::name::Id, image: &Image) -> bool {
    let is_sync =
        |op: &Op| matches!(op, Op::Sync { names } | Op::SyncContent { names } if names.contains(name));
    let mut syncs = (0..ops.len()).filter(|at| is_sync(ops[*at]));
    let Some(synced) = syncs.nth(1) else { return false };
    ops[synced..].iter().any(|op| match op {
        Op::Write { name: name @ ObjectName::Segment { volume: other, .. }, .. } => {
            *other == volume && image.get(name).is_some()
        }
        _ => false,
    })
}

/// The last operations before an event, for people.
fn before(events: &[Event], at: usize) -> String {
    let mut text = String::from("the last operations:\n");
    let ops = events[..events.len().min(at + 1)].iter().filter_map(|event| match event {
        Event::Op(op) => Some(op.text()),
        Event::Killed => Some("killed".to_owned()),
        Event::Model(_) => None,
    });
    let ops: Vec<String> = ops.collect();
    for op in &ops[ops.len().saturating_sub(25)..] {
        text.push_str(&format!("  {op}\n"));
    }
    text
}
