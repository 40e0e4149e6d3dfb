//! `archipelago map`: which blocks of a volume or snapshot are own, shared
//! and zero.

use serde_json::{json, Value};

use super::args::Target;
use super::census::{self, each_object, Census};
use super::output::size_text;
use super::Session;
use crate::error::Result;
use crate::map::Entry;
use crate::store::Store;
use crate::volume::{OpenOptions, Volume};

const COLUMNS: u64 = 64;
const ROWS_MAX: u64 = 32;

/// What a block is made of, worst first when several are drawn as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kind {
    own: bool,
    shared: bool,
}

impl Kind {
    fn letter(self) -> char {
        match (self.own, self.shared) {
            (false, false) => '.',
            (true, false) => '#',
            (false, true) => '+',
            (true, true) => '%',
        }
    }

    fn word(self) -> &'static str {
        match (self.own, self.shared) {
            (false, false) => "zero",
            (true, false) => "own",
            (false, true) => "shared",
            (true, true) => "own over shared",
        }
    }
}

/// Neighbouring blocks of one kind.
struct Run {
    first: u64,
    count: u64,
    kind: Kind,
}

pub fn run(session: &Session, target: &Target) -> Result<()> {
    let store = session.store_of(&target.volume)?.remembering_pages();
    let volume = open(&store, target)?;
    let census = census::take(&store, &session.output, true)?;
    let runs = runs_of(&volume, &census)?;
    let value = json(target, &volume, &runs);
    session.output.show(&value, || text(target, &volume, &runs))
}

/// Looks, without a lease.
fn open(store: &Store, target: &Target) -> Result<std::sync::Arc<Volume>> {
    match &target.snapshot {
        Some(snapshot) => Volume::open_snapshot(store, &target.volume, snapshot),
        None => {
            let options = OpenOptions { force_share: true, ..OpenOptions::read_only() };
            Volume::open(store, &target.volume, &options)
        }
    }
}

fn runs_of(volume: &Volume, census: &Census) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    volume.scan(&mut |first, count, entry| {
        let kind = kind_of(volume.block_bytes, first, entry, census);
        match runs.last_mut() {
            Some(run) if run.kind == kind && run.first + run.count == first => run.count += count,
            _ => runs.push(Run { first, count, kind }),
        }
        Ok(())
    })?;
    Ok(runs)
}

fn kind_of(block_bytes: u64, block: u64, entry: &Entry, census: &Census) -> Kind {
    let mut kind = Kind::default();
    each_object(block_bytes, block, entry, &mut |key, _| match census.is_shared(key) {
        true => kind.shared = true,
        false => kind.own = true,
    });
    kind
}

fn json(target: &Target, volume: &Volume, runs: &[Run]) -> Value {
    let block_bytes = volume.block_bytes;
    let runs: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "start_bytes": run.first * block_bytes,
                "bytes": (run.count * block_bytes).min(volume.size_bytes() - run.first * block_bytes),
                "blocks": run.count,
                "kind": run.kind.word(),
            })
        })
        .collect();
    json!({ "name": target.to_string(), "block_bytes": block_bytes, "runs": runs })
}

fn text(target: &Target, volume: &Volume, runs: &[Run]) -> String {
    let count = volume.size_bytes().div_ceil(volume.block_bytes);
    let blocks_per_cell = count.div_ceil(COLUMNS * ROWS_MAX).max(1);
    let mut cells = vec![Kind::default(); usize::try_from(count.div_ceil(blocks_per_cell)).unwrap_or(0)];
    let mut sums: [(Kind, u64); 4] = [(false, false), (true, false), (false, true), (true, true)]
        .map(|(own, shared)| (Kind { own, shared }, 0));
    for run in runs {
        for (kind, blocks) in &mut sums {
            if *kind == run.kind {
                *blocks += run.count;
            }
        }
        let (first, last) = (run.first / blocks_per_cell, (run.first + run.count - 1) / blocks_per_cell);
        for cell in first..=last {
            if let Some(cell) = usize::try_from(cell).ok().and_then(|cell| cells.get_mut(cell)) {
                cell.own |= run.kind.own;
                cell.shared |= run.kind.shared;
            }
        }
    }
    let cell_bytes = blocks_per_cell * volume.block_bytes;
    let mut text = format!("{target}: {} blocks of {}", count, size_text(volume.block_bytes));
    text.push_str(&format!("; one sign is {}\n", size_text(cell_bytes)));
    for (at, row) in cells.chunks(COLUMNS as usize).enumerate() {
        let signs: String = row.iter().map(|kind| kind.letter()).collect();
        text.push_str(&format!("{:>8} {signs}\n", size_text(at as u64 * COLUMNS * cell_bytes)));
    }
    for (kind, blocks) in sums {
        text.push_str(&format!("  {} {}: {blocks} blocks\n", kind.letter(), kind.word()));
    }
    text
}
