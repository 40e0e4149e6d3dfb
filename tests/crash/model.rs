//! What a store may hold after a crash.
//!
//! For each sector the values that it may have: the one that the last flush
//! made durable and everything written to it later, oldest first. For each
//! volume one or more *whole* contents, of which one must be there: two while
//! a rollback or a resize is under way. For each name and each snapshot
//! whether it must be there or may be.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::image::{hash_bytes, SECTOR};

/// What a sector holds: 0 is zeroes, `FOREIGN` is what nobody wrote, a number
/// with `COMPOSED` is in the table, any other is the number of a write.
pub type Value = u32;
pub const FOREIGN: Value = u32::MAX;
const COMPOSED: Value = 1 << 31;

/// By value, and the values by what the bytes hash to.
type Composed = (HashMap<Value, [u8; SECTOR]>, HashMap<u64, Value>);

/// Contents of sectors that were written in part.
#[derive(Debug, Default)]
pub struct Values {
    composed: Mutex<Composed>,
}

const WORDS: usize = SECTOR / 8;

/// The words of a sector begin here and differ by these steps.
fn first_word(value: Value, sector: u64) -> u64 {
    u64::from(value) << 32 | sector << 8 | 0xA5
}

const STEPS: [u64; WORDS] = {
    let mut steps = [0; WORDS];
    let mut at = 0;
    while at < WORDS {
        steps[at] = (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        at += 1;
    }
    steps
};

/// Whether the words are those of a write, without a branch for each.
fn is_plain(words: &[u64; WORDS], first: u64) -> bool {
    let differences = words.iter().zip(&STEPS).map(|(word, step)| word ^ first.wrapping_add(*step));
    differences.fold(0, |all, one| all | one) == 0
}

impl Values {
    /// The bytes of a value at its sector.
    pub fn bytes(&self, value: Value, sector: u64) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        if value == 0 {
            return out;
        }
        if value & COMPOSED != 0 {
            return self.composed.lock().0[&value];
        }
        let first = first_word(value, sector);
        for (step, bytes) in STEPS.iter().zip(out.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&first.wrapping_add(*step).to_le_bytes());
        }
        out
    }

    /// The value that these bytes are.
    pub fn read(&self, data: &[u8], sector: u64) -> Value {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(data.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap());
        }
        if words[0] == 0 && words.iter().fold(0, |all, word| all | word) == 0 {
            return 0;
        }
        let value = (words[0] >> 32) as Value;
        if is_plain(&words, first_word(value, sector)) {
            return value;
        }
        self.composed.lock().1.get(&hash_bytes(data)).copied().unwrap_or(FOREIGN)
    }

    /// The value that a sector has once a part of it is overwritten.
    pub fn compose(&self, old: Value, new: Value, sector: u64, from: usize, to: usize) -> Value {
        if to - from == SECTOR {
            return new;
        }
        let mut bytes = self.bytes(old, sector);
        bytes[from..to].copy_from_slice(&self.bytes(new, sector)[from..to]);
        self.adopt(&bytes, sector)
    }

    /// As `read`, of what is gone on with: nobody may have written it as it is, where a
    /// crash has left a mix of writes of parts.
    pub fn adopt(&self, data: &[u8], sector: u64) -> Value {
        let known = self.read(data, sector);
        if known != FOREIGN {
            return known;
        }
        let mut bytes = [0; SECTOR];
        bytes.copy_from_slice(data);
        let mut composed = self.composed.lock();
        // Told by the bytes, so that it is the same in workloads that begin alike.
        let mut value = COMPOSED | hash_bytes(&bytes) as Value;
        while value == FOREIGN || composed.0.contains_key(&value) {
            value = COMPOSED | value.wrapping_add(1);
        }
        composed.0.insert(value, bytes);
        composed.1.insert(hash_bytes(&bytes), value);
        value
    }
}

/// The values that a sector may have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sector {
    /// Oldest first; never empty but in the default, which is zeroes.
    values: Vec<Value>,
    /// Index of the oldest value that a running volume may show: the last but
    /// one while a write is in flight.
    seen: u16,
    /// Becomes the oldest when the flush that is under way ends.
    mark: u16,
    /// A part of it was written since the last flush. Rule 15 is about whole
    /// sectors: until the next flush this one may be any mix.
    ragged: bool,
}

impl Sector {
    pub fn of(value: Value) -> Sector {
        match value {
            0 => Sector::default(),
            value => Sector { values: vec![value], seen: 0, mark: 0, ragged: false },
        }
    }

    /// After a crash.
    pub fn allows(&self, value: Value) -> bool {
        if self.ragged {
            return true;
        }
        if self.values.is_empty() {
            value == 0
        } else {
            self.values.contains(&value)
        }
    }

    /// While the volume runs.
    pub fn shows(&self, value: Value) -> bool {
        match self.values.get(self.seen as usize..) {
            Some(values) if !values.is_empty() => values.contains(&value),
            _ => value == 0,
        }
    }

    pub fn last(&self) -> Value {
        self.values.last().copied().unwrap_or(0)
    }

    /// The values that it shows now.
    pub fn shown(&self) -> Sector {
        let values: Vec<Value> = self.values.get(self.seen as usize..).unwrap_or_default().to_vec();
        Sector { seen: 0, mark: 0, ragged: false, values }
    }

    fn fill(&mut self) {
        if self.values.is_empty() {
            self.values.push(0);
        }
    }

    /// A write of `value` begins.
    pub fn begin(&mut self, value: Value) {
        self.fill();
        self.values.push(value);
    }

    /// The last write that began has ended.
    pub fn end(&mut self) {
        self.seen = self.values.len().saturating_sub(1) as u16;
    }

    /// One more value is possible, now and later.
    pub fn may_be(&mut self, value: Value) {
        self.fill();
        if !self.values.contains(&value) {
            self.values.push(value);
        }
    }

    fn begin_flush(&mut self) {
        self.mark = self.seen;
    }

    pub fn tear(&mut self) {
        self.ragged = true;
    }

    fn end_flush(&mut self) {
        let mark = (self.mark as usize).min(self.values.len().saturating_sub(1));
        self.values.drain(..mark);
        self.seen = self.seen.saturating_sub(self.mark);
        self.mark = 0;
        self.ragged &= self.values.len() > 1;
        if self.values == [0] {
            self.values.clear();
        }
    }
}

/// The whole of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: u64,
    pub sectors: Vec<Sector>,
}

impl Content {
    pub fn zero(bytes: u64) -> Content {
        Content { bytes, sectors: vec![Sector::default(); sector_count(bytes)] }
    }

    pub fn of(bytes: u64, values: &[Value]) -> Content {
        Content { bytes, sectors: values.iter().map(|value| Sector::of(*value)).collect() }
    }

    /// As a snapshot taken now has it.
    pub fn shown(&self) -> Content {
        Content { bytes: self.bytes, sectors: self.sectors.iter().map(Sector::shown).collect() }
    }

    pub fn resized(&self, bytes: u64, values: &Values) -> Content {
        let mut sectors = self.sectors.clone();
        sectors.resize(sector_count(bytes), Sector::default());
        let inside = bytes as usize % SECTOR;
        if bytes < self.bytes && inside > 0 {
            // What is beyond the end of the last sector is gone.
            let at = sectors.len() - 1;
            for value in &mut sectors[at].values {
                *value = values.compose(*value, 0, at as u64, inside, SECTOR);
            }
        }
        Content { bytes, sectors }
    }

    /// Where these values differ from what may be.
    fn differs(&self, bytes: u64, values: &[Value]) -> Option<String> {
        if bytes != self.bytes {
            return Some(format!("it has {bytes} bytes, not {}", self.bytes));
        }
        let at = (0..values.len()).find(|at| !self.sectors[*at].allows(values[*at]))?;
        Some(format!(
            "sector {at} (block {}) is {}, which is none of {:?}",
            at / 32,
            value_text(values[at]),
            self.sectors[at].values
        ))
    }
}

fn value_text(value: Value) -> String {
    match value {
        FOREIGN => "what nobody wrote".to_owned(),
        value if value & COMPOSED != 0 => format!("composed value {}", value & !COMPOSED),
        value => format!("value {value}"),
    }
}

pub fn sector_count(bytes: u64) -> usize {
    bytes.div_ceil(SECTOR as u64) as usize
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotModel {
    pub name: String,
    /// Otherwise it may be there.
    pub must: bool,
    /// Being taken: writes that go on meanwhile may be in it.
    pub taking: bool,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VolumeModel {
    /// At least one name must lead to it.
    pub must: bool,
    /// One of these, whole.
    pub contents: Vec<Content>,
    pub snapshots: Vec<SnapshotModel>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameModel {
    pub name: String,
    pub volume: usize,
    pub must: bool,
}

/// What a crash may show.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Model {
    pub volumes: Vec<VolumeModel>,
    pub names: Vec<NameModel>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub bytes: u64,
    pub values: Vec<Value>,
    pub snapshots: Vec<(String, u64, Vec<Value>)>,
}

impl Seen {
    /// True if anything is in it that no workload wrote as it is.
    pub fn is_foreign(&self) -> bool {
        let all = self.snapshots.iter().map(|(_, _, values)| values).chain([&self.values]);
        all.into_iter().any(|values| values.contains(&FOREIGN))
    }
}

impl VolumeModel {
    pub fn each(&mut self, mut with: impl FnMut(&mut Sector)) {
        for content in &mut self.contents {
            content.sectors.iter_mut().for_each(&mut with);
        }
    }

    pub fn begin_flush(&mut self) {
        self.each(Sector::begin_flush);
    }

    pub fn end_flush(&mut self) {
        self.each(Sector::end_flush);
    }

    pub fn snapshot(&self, name: &str) -> Option<usize> {
        self.snapshots.iter().position(|snapshot| snapshot.name == name)
    }

    fn check(&self, seen: &Seen) -> Result<(), String> {
        let differences: Vec<Option<String>> =
            self.contents.iter().map(|content| content.differs(seen.bytes, &seen.values)).collect();
        if !differences.iter().any(Option::is_none) {
            let text: Vec<String> = differences.into_iter().flatten().collect();
            return Err(format!("volume '{}': {}", seen.name, text.join("; or ")));
        }
        for (name, bytes, values) in &seen.snapshots {
            let Some(at) = self.snapshot(name) else {
                return Err(format!("snapshot '{}@{name}' exists, and nobody took it", seen.name));
            };
            if let Some(difference) = self.snapshots[at].content.differs(*bytes, values) {
                return Err(format!("snapshot '{}@{name}': {difference}", seen.name));
            }
        }
        let there = |name: &str| seen.snapshots.iter().any(|(other, ..)| other == name);
        match self.snapshots.iter().find(|snapshot| snapshot.must && !there(&snapshot.name)) {
            Some(snapshot) => Err(format!("snapshot '{}@{}' is lost", seen.name, snapshot.name)),
            None => Ok(()),
        }
    }
}

impl Model {
    pub fn name(&self, name: &str) -> Option<&NameModel> {
        self.names.iter().find(|known| known.name == name)
    }

    /// Whether what was found may be.
    pub fn check(&self, found: &[Seen]) -> Result<(), String> {
        let mut reached = vec![false; self.volumes.len()];
        for seen in found {
            let Some(known) = self.name(&seen.name) else {
                return Err(format!("volume '{}' exists, and nobody made it", seen.name));
            };
            reached[known.volume] = true;
            self.volumes[known.volume].check(seen)?;
        }
        if let Some(lost) = self.names.iter().find(|n| n.must && !found.iter().any(|s| s.name == n.name)) {
            return Err(format!("volume '{}' is lost", lost.name));
        }
        let lost = (0..reached.len()).find(|at| self.volumes[*at].must && !reached[*at]);
        match lost {
            Some(at) => Err(format!("no name leads to volume {at} any more")),
            None => Ok(()),
        }
    }
}

/// A model that is shared with whoever is let in between two calls.
pub type Shared = Arc<Mutex<Model>>;
