//! Counts, per workload and kind of cut.

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub states: [u64; CUTS.len()],
    pub distinct: [u64; CUTS.len()],
}

impl Counts {
    pub fn note(&mut self, cut: Cut, is_new: bool) {
        self.states[cut as usize] += 1;
        self.distinct[cut as usize] += u64::from(is_new);
    }

    pub fn add(&mut self, other: &Counts) {
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
