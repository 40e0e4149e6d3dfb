//! Counts of what a run came to.

use std::collections::BTreeMap;

use super::trouble::Trouble;

#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By what was done: how often, and how often it failed.
    pub acts: BTreeMap<&'static str, (u64, u64)>,
    pub troubles: BTreeMap<&'static str, u64>,
    pub stores: BTreeMap<String, u64>,
    pub lost_calls: u64,
    pub landed: u64,
    pub collected: u64,
    pub taken_over: u64,
    pub doubted: u64,
    pub seeds: u64,
    pub steps: u64,
    pub switches: u64,
    pub simulated_s: f64,
}

impl Counts {
    pub fn act(&mut self, label: &'static str, is_ok: bool) {
        let (all, failed) = self.acts.entry(label).or_default();
        *all += 1;
        *failed += u64::from(!is_ok);
    }

    pub fn trouble(&mut self, trouble: Trouble) {
        let label = match trouble {
            Trouble::Kill => "process killed",
            Trouble::Pause => "process paused",
            Trouble::PauseForEver => "process paused for ever",
            Trouble::PowerLoss => "host loses power",
            Trouble::Cut => "host without the store",
            Trouble::WriteBack | Trouble::Start { .. } => return,
        };
        *self.troubles.entry(label).or_default() += 1;
    }

    pub fn add(&mut self, other: &Counts) {
        for (label, (all, failed)) in &other.acts {
            let here = self.acts.entry(label).or_default();
            here.0 += all;
            here.1 += failed;
        }
        for (label, count) in &other.troubles {
            *self.troubles.entry(label).or_default() += count;
        }
        for (label, count) in &other.stores {
            *self.stores.entry(label.clone()).or_default() += count;
        }
        self.lost_calls += other.lost_calls;
        self.landed += other.landed;
        self.collected += other.collected;
        self.taken_over += other.taken_over;
        self.doubted += other.doubted;
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.switches += other.switches;
        self.simulated_s += other.simulated_s;
    }

    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for (label, (all, failed)) in &self.acts {
            lines.push(format!("{label:<24} {all:>9}, {failed} refused or failed"));
        }
        for (label, count) in &self.troubles {
            lines.push(format!("{label:<24} {count:>9}"));
        }
        lines.push(format!("{:<24} {:>9}", "call without an answer", self.lost_calls));
        lines.push(format!("{:<24} {:>9}", "change that came late", self.landed));
        lines.push(format!("{:<24} {:>9}", "volume taken over", self.taken_over));
        lines.push(format!("{:<24} {:>9}", "of a holder that lived", self.doubted));
        lines.push(format!("{:<24} {:>9}", "object collected", self.collected));
        for (label, count) in &self.stores {
            lines.push(format!("{label:<24} {count:>9}"));
        }
        lines.join("\n")
    }
}
