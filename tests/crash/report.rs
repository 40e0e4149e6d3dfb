//! Counts, per workload and kind of cut, and of what went wrong on the way.

use std::collections::BTreeMap;

use super::act::Act;
use super::disk::{Failure, Op};

/// How a run is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The power is lost: of what was not synced any part survives.
    Power,
    /// The process is gone, all that it did stays.
    Kill,
    /// As `Power`, and a write is there in part.
    Torn,
    /// As one of the above, in the life after a crash.
    Second,
    /// A flipped bit.
    Damage,
}

pub const CUTS: [Cut; 5] = [Cut::Power, Cut::Kill, Cut::Torn, Cut::Second, Cut::Damage];

impl Cut {
    pub fn text(self) -> &'static str {
        match self {
            Cut::Power => "power",
            Cut::Kill => "kill",
            Cut::Torn => "torn",
            Cut::Second => "second",
            Cut::Damage => "damage",
        }
    }
}

/// States that were looked at, and how many of them were new.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub states: [u64; CUTS.len()],
    pub distinct: [u64; CUTS.len()],
    /// What went wrong, how often.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub fn note(&mut self, cut: Cut, is_new: bool) {
        self.states[cut as usize] += 1;
        self.distinct[cut as usize] += u64::from(is_new);
    }

    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// What a state lacks of what was not synced yet.
    pub fn note_lost(&mut self, pending: &[Op], taken: &[bool]) {
        let mut lost = [false; 3];
        for (op, _) in pending.iter().zip(taken).filter(|(_, taken)| !**taken) {
            match op {
                Op::CreateSparse { .. } => lost[0] = true,
                Op::Delete { .. } => lost[1] = true,
                _ => lost[2] = true,
            }
        }
        let kinds = ["new name lost", "deleted name back", "write lost"];
        for (kind, _) in kinds.into_iter().zip(lost).filter(|(_, lost)| *lost) {
            self.fault(kind);
        }
    }

    pub fn add(&mut self, other: &Counts) {
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for at in 0..CUTS.len() {
            self.states[at] += other.states[at];
            self.distinct[at] += other.distinct[at];
        }
    }

    pub fn total(&self) -> (u64, u64) {
        (self.states.iter().sum(), self.distinct.iter().sum())
    }

    /// One line of a table.
    pub fn line(&self, name: &str) -> String {
        let (states, distinct) = self.total();
        let kinds: Vec<String> = self.distinct.iter().map(|count| format!("{count:>8}")).collect();
        format!("{name:<14} {states:>9} {distinct:>9} {}", kinds.join(" "))
    }
}

pub fn heading() -> String {
    let kinds: Vec<String> = CUTS.iter().map(|cut| format!("{:>8}", cut.text())).collect();
    format!("{:<14} {:>9} {:>9} {}", "workload", "states", "distinct", kinds.join(" "))
}

/// What an act has go wrong, if it does.
pub fn fault_of(act: &Act) -> Option<&'static str> {
    match act {
        Act::Kill { .. } => Some("holder killed"),
        Act::RenameHalf { .. } => Some("rename half done"),
        Act::Held { .. } => Some("read held up"),
        Act::Visited { .. } => Some("write within another call"),
        Act::Collected { .. } => Some("gc within another call"),
        Act::Lagging { .. } => Some("gc with old listings"),
        Act::Wake { .. } => Some("zombie wakes up"),
        Act::Haunted { .. } => Some("write lands late"),
        _ => None,
    }
}

pub fn fault_of_call(failure: Failure) -> &'static str {
    match failure {
        Failure::Unavailable => "call unavailable",
        Failure::NoSpace => "call without space",
        Failure::UnknownLost => "call unknown, lost",
        Failure::UnknownDone => "call unknown, done",
        Failure::UnknownLate => "call unknown, late",
    }
}

/// Faults and how often they were there, one kind a line.
pub fn faults_text(counts: &Counts) -> String {
    let mut text = format!("{:<28} {:>9}", "fault", "times");
    for (kind, count) in &counts.faults {
        text.push_str(&format!("\n{kind:<28} {count:>9}"));
    }
    let cuts = [
        (Cut::Torn, "write torn"),
        (Cut::Damage, "bit flipped"),
        (Cut::Second, "crash in the life after one"),
    ];
    for (cut, kind) in cuts {
        text.push_str(&format!("\n{kind:<28} {:>9}", counts.states[cut as usize]));
    }
    text
}
