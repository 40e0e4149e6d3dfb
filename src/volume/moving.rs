//! Moves the content of a batch of blocks into their own objects: reads what
//! the log has of some of them in the log's order, and writes it block by
//! block, several reads and writes at once where the backend can.
//!
//! Granules that lie side by side are written together. On a data path so are
//! those with a small gap between them, if the own object holds nothing there:
//! what is in a granule that no presence bitmap has does not matter, room for
//! it costs less than a write of its own for each granule, and so do later
//! writes. Into the page cache a write costs little more than its bytes.
//!
//! Memory is bounded: a round is read while the one before it is written.

use std::sync::Arc;

use super::delta::Own;
use super::read::{From, Step};
use super::settle::Progress;
use crate::backend::window::Window;
use crate::backend::{Backend, DataPath};
use crate::error::{Error, Result};
use crate::fault;
use crate::log::{Segment, Wanted};
use crate::name::ObjectName;
use crate::store::GRANULE_BYTES;
use crate::sys::iobuf::AlignedBytes;

const GRANULE: usize = GRANULE_BYTES as usize;
/// What is read before it is written; there are two of these at a time.
const ROUND_BYTES: usize = 4 << 20;
/// Largest single write.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// Granules that are written for nothing, where that saves a write.
const GAP_GRANULES_MAX: u32 = 4;

/// Whole granules of one block that are moved as one, and where they come
/// from: mostly one granule from one piece.
pub(super) struct Unit {
    start: u32,
    bytes: u32,
    /// Positions count from the unit's start.
    steps: Vec<Step>,
}

impl Unit {
    pub fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    fn is_zero(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.from, From::Zero))
    }
}

/// Splits what a read of whole granules from `start` on is planned to do into
/// the smallest parts that share no granule.
pub(super) fn units_of(start: u32, mut steps: Vec<Step>, units: &mut Vec<Unit>) {
    steps.sort_unstable_by_key(|step| step.at);
    let mut origin = 0;
    for (count, mut step) in steps.into_iter().enumerate() {
        let bytes = step.bytes as u32;
        match units.last_mut() {
            Some(unit) if count > 0 && step.at % GRANULE != 0 => {
                step.at -= origin;
                unit.bytes += bytes;
                unit.steps.push(step);
            }
            _ => {
                origin = std::mem::replace(&mut step.at, 0);
                units.push(Unit { start: start + origin as u32, bytes, steps: vec![step] });
            }
        }
    }
}

/// An own object, which exists.
pub(super) struct Target {
    pub name: ObjectName,
    /// What it holds when all is moved.
    pub own: Own,
}

impl Target {
    /// True if it holds nothing in these granules, now and then.
    fn is_free(&self, from: u32, to: u32) -> bool {
        match &self.own {
            Own::Part(presence) if from < to => {
                let (present, end) = presence.next_run(from);
                !present && end >= to
            }
            _ => false,
        }
    }
}

/// A write that is ready: ranges of a round's memory, each `(at, bytes)`.
struct Ready {
    target: usize,
    start: u32,
    bytes: usize,
    /// Of that, what had to be written.
    moved_bytes: usize,
    ranges: Vec<(usize, usize)>,
}

/// Moves the units of a batch.
pub(super) struct Moving<'a> {
    blocks: &'a Arc<dyn Backend>,
    targets: &'a [Target],
    /// Past the page cache. Into it, an ordinary write is quicker.
    path: Option<Arc<dyn DataPath>>,
    in_flight_max: &'a dyn Fn() -> usize,
    gap_granules_max: u32,
    window: Arc<Window>,
}

impl<'a> Moving<'a> {
    /// `in_flight_max` is asked again and again.
    pub fn new(
        blocks: &'a Arc<dyn Backend>,
        targets: &'a [Target],
        in_flight_max: &'a dyn Fn() -> usize,
    ) -> Moving<'a> {
        let path = blocks.data_path().filter(|path| (2..=GRANULE).contains(&path.alignment_bytes()));
        let window = Arc::new(Window::new(in_flight_max()));
        let gap_granules_max = if path.is_some() { GAP_GRANULES_MAX } else { 0 };
        Moving { blocks, targets, path, in_flight_max, gap_granules_max, window }
    }

    /// Each unit comes with the index of its target, in order. Nothing is in
    /// flight when this returns.
    pub fn carry_out(
        &self,
        units: impl Iterator<Item = (usize, Unit)>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let result = self.rounds(units, progress);
        result.and(self.window.wait_all())
    }

    fn rounds(&self, units: impl Iterator<Item = (usize, Unit)>, progress: Progress<'_>) -> Result<()> {
        let mut round = Vec::new();
        let mut bytes = 0;
        let mut number = 0;
        for (target, unit) in units {
            if bytes > 0 && bytes + unit.bytes as usize > ROUND_BYTES {
                self.carry_out_round(number, std::mem::take(&mut round), progress)?;
                (bytes, number) = (0, number + 1);
            }
            bytes += unit.bytes as usize;
            round.push((target, unit));
        }
        self.carry_out_round(number, round, progress)
    }

    fn carry_out_round(
        &self,
        number: usize,
        mut units: Vec<(usize, Unit)>,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.punch_zeroes(&units, progress)?;
        units.retain(|(_, unit)| !unit.is_zero());
        // The memory of the round before the last one is free from here on.
        self.window.wait_round(number)?;
        let bytes: usize = units.iter().map(|(_, unit)| unit.bytes as usize).sum();
        // Behind it, a granule of zeroes for all gaps.
        let mut memory = AlignedBytes::zeroed(bytes + GRANULE);
        let in_flight_max = (self.in_flight_max)();
        self.window.widen(in_flight_max);
        fill_from_log(&units, in_flight_max, memory.as_mut_slice())?;
        self.fill_from_objects(&units, memory.as_mut_slice())?;
        if fault::on(fault::Planted::SettleZeroesRest) {
            zero_rest(&units, memory.as_mut_slice());
        }
        self.write(number, &self.writes_of(&units, bytes), memory, progress)
    }

    /// Joins units that lie side by side, or nearly. `zeroes`: where in the
    /// memory a granule of zeroes is.
    fn writes_of(&self, units: &[(usize, Unit)], zeroes: usize) -> Vec<Ready> {
        let mut writes: Vec<Ready> = Vec::new();
        let mut at = 0;
        for (target, unit) in units {
            let bytes = unit.bytes as usize;
            let joined = writes
                .last_mut()
                .is_some_and(|last| last.target == *target && self.join(last, unit, at, zeroes));
            if !joined {
                let (target, start, ranges) = (*target, unit.start, vec![(at, bytes)]);
                writes.push(Ready { target, start, bytes, moved_bytes: bytes, ranges });
            }
            at += bytes;
        }
        writes
    }

    fn punch_zeroes(&self, units: &[(usize, Unit)], progress: Progress<'_>) -> Result<()> {
        let mut zeroes = units.iter().filter(|(_, unit)| unit.is_zero()).peekable();
        while let Some((target, first)) = zeroes.next() {
            let mut end = first.start + first.bytes;
            while let Some((_, more)) = zeroes.next_if(|(t, unit)| t == target && unit.start == end) {
                end += more.bytes;
            }
            let bytes = u64::from(end - first.start);
            self.blocks.punch(&self.targets[*target].name, u64::from(first.start), bytes)?;
            progress(bytes);
        }
        Ok(())
    }

    fn fill_from_objects(&self, units: &[(usize, Unit)], memory: &mut [u8]) -> Result<()> {
        let mut begin = 0;
        for (_, unit) in units {
            for step in &unit.steps {
                let From::Object { name, offset_bytes, .. } = &step.from else { continue };
                let data = &mut memory[begin + step.at..begin + step.at + step.bytes];
                if self.blocks.read_at(name, *offset_bytes, data)? != step.bytes {
                    return Err(Error::corrupt(name, "it is shorter than a block").at(*offset_bytes));
                }
            }
            begin += unit.bytes as usize;
        }
        Ok(())
    }

    fn write(
        &self,
        round: usize,
        writes: &[Ready],
        mut memory: AlignedBytes,
        progress: Progress<'_>,
    ) -> Result<()> {
        let Some(path) = &self.path else {
            let memory = memory.as_mut_slice();
            let mut joined = Vec::new();
            for write in writes {
                joined.clear();
                for (at, bytes) in &write.ranges {
                    joined.extend_from_slice(&memory[*at..*at + *bytes]);
                }
                self.blocks.write_at(&self.targets[write.target].name, u64::from(write.start), &joined)?;
                progress(write.moved_bytes as u64);
            }
            return Ok(());
        };
        let memory = memory.into_iobuf();
        for write in writes {
            self.window.enter(round)?;
            let window = Arc::clone(&self.window);
            let done = Box::new(move |result| window.leave(round, result));
            let (name, buf) = (&self.targets[write.target].name, memory.gather(&write.ranges));
            path.submit_write(name, u64::from(write.start), buf, done);
            progress(write.moved_bytes as u64);
        }
        Ok(())
    }

    /// Adds a unit to a write that ends where it begins, or not far from
    /// there.
    fn join(&self, write: &mut Ready, unit: &Unit, at: usize, zeroes: usize) -> bool {
        let end = write.start + write.bytes as u32;
        let gap = unit.start.saturating_sub(end) as usize / GRANULE;
        let bytes = unit.bytes as usize;
        if write.bytes + gap * GRANULE + bytes > WRITE_BYTES_MAX {
            return false;
        }
        if gap > 0 {
            let (from, to) = (end / GRANULE as u32, unit.start / GRANULE as u32);
            if gap as u32 > self.gap_granules_max || !self.targets[write.target].is_free(from, to) {
                return false;
            }
            write.ranges.extend(std::iter::repeat_n((zeroes, GRANULE), gap));
        }
        match write.ranges.last_mut() {
            Some((last, last_bytes)) if *last + *last_bytes == at => *last_bytes += bytes,
            _ => write.ranges.push((at, bytes)),
        }
        write.bytes += gap * GRANULE + bytes;
        write.moved_bytes += bytes;
        true
    }
}

/// Where a part of the log goes.
struct Fetch<'a> {
    segment: &'a Arc<Segment>,
    wanted: Wanted<'a>,
    skip: usize,
    bytes: usize,
    to: usize,
}

fn fill_from_log(units: &[(usize, Unit)], in_flight_max: usize, memory: &mut [u8]) -> Result<()> {
    let mut fetches = Vec::new();
    let mut begin = 0;
    for (_, unit) in units {
        for step in &unit.steps {
            if let From::Log { segment, offset_bytes, sums, skip } = &step.from {
                let wanted = Wanted { offset_bytes: *offset_bytes, sums };
                let to = begin + step.at;
                fetches.push(Fetch { segment, wanted, skip: *skip, bytes: step.bytes, to });
            }
        }
        begin += unit.bytes as usize;
    }
    fetches.sort_unstable_by_key(|fetch| (fetch.segment.number, fetch.wanted.offset_bytes));
    let mut left = fetches.as_slice();
    while let Some(first) = left.first() {
        let number = first.segment.number;
        let (fetches, later) = left.split_at(left.partition_point(|f| f.segment.number <= number));
        left = later;
        let wanted: Vec<Wanted<'_>> = fetches.iter().map(|fetch| fetch.wanted).collect();
        first.segment.read_many(&wanted, in_flight_max, |index, data| {
            let Fetch { skip, bytes, to, .. } = fetches[index];
            memory[to..to + bytes].copy_from_slice(&data[skip..skip + bytes]);
        })?;
    }
    Ok(())
}

/// The planted bug: what a piece leaves of its granule becomes zeroes.
fn zero_rest(units: &[(usize, Unit)], memory: &mut [u8]) {
    let mut begin = 0;
    for (_, unit) in units {
        for step in &unit.steps {
            if let From::Object { .. } = step.from {
                memory[begin + step.at..begin + step.at + step.bytes].fill(0);
            }
        }
        begin += unit.bytes as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::dir::{Dir, DirOptions};
    use crate::backend::memory::Memory;
    use crate::map::Presence;
    use crate::name::Id;

    fn granule_of_log(at: u32) -> (usize, Unit) {
        let step = Step { at: 0, bytes: GRANULE, from: From::Zero };
        (0, Unit { start: at * GRANULE as u32, bytes: GRANULE as u32, steps: vec![step] })
    }

    /// `(start, bytes)` in granules of the writes for these granules, in a
    /// block whose own object holds them and `others`.
    fn writes(blocks: Arc<dyn Backend>, granules: &[u32], others: &[u32]) -> Vec<(u32, usize)> {
        let mut presence = Presence::empty(128);
        for granule in granules.iter().chain(others) {
            presence.set_range(*granule, granule + 1);
        }
        let name = ObjectName::Block { epoch: Id(1), index: 0 };
        let targets = [Target { name, own: Own::Part(presence) }];
        let units: Vec<_> = granules.iter().map(|at| granule_of_log(*at)).collect();
        let moving = Moving::new(&blocks, &targets, &|| 4);
        let zeroes = units.len() * GRANULE;
        let writes = moving.writes_of(&units, zeroes);
        for write in &writes {
            let bytes: usize = write.ranges.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(bytes, write.bytes, "as many as are told");
            // Each granule from its own place in memory, and zeroes between.
            let from = write.ranges.iter().flat_map(|(at, bytes)| (*at..*at + *bytes).step_by(GRANULE));
            for (granule, from) in (write.start / GRANULE as u32..).zip(from) {
                let unit = granules.iter().position(|at| *at == granule);
                assert_eq!(from, unit.map_or(zeroes, |unit| unit * GRANULE), "granule {granule}");
            }
        }
        writes.iter().map(|write| (write.start / GRANULE as u32, write.bytes / GRANULE)).collect()
    }

    /// What can go wrong: a gap is filled where the own object holds something,
    /// or where the bytes cost more than the write that they save.
    #[test]
    fn gaps_are_filled_on_a_data_path_alone_and_only_where_nothing_is() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let options = DirOptions { direct: true, ..DirOptions::default() };
        let direct: Arc<dyn Backend> = Arc::new(Dir::create(folder.path(), options).unwrap());
        let granules = [1, 2, 4, 9, 15];
        if direct.data_path().is_some() {
            assert_eq!(writes(Arc::clone(&direct), &granules, &[]), [(1, 9), (15, 1)]);
            assert_eq!(writes(direct, &granules, &[3, 14]), [(1, 2), (4, 6), (15, 1)]);
        }
        assert_eq!(writes(Arc::new(Memory::new()), &granules, &[]), [(1, 2), (4, 1), (9, 1), (15, 1)]);
    }

    /// Not larger than a backend takes well, and as large as that.
    #[test]
    fn a_write_is_not_longer_than_it_may_be() {
        let memory = || Arc::new(Memory::new()) as Arc<dyn Backend>;
        let granules: Vec<u32> = (0..100).collect();
        assert_eq!(writes(memory(), &granules[..64], &[]), [(0, 64)]);
        assert_eq!(writes(memory(), &granules, &[]), [(0, 64), (64, 36)]);
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let options = DirOptions { direct: true, ..DirOptions::default() };
        let direct: Arc<dyn Backend> = Arc::new(Dir::create(folder.path(), options).unwrap());
        if direct.data_path().is_some() {
            let with_gap = |to: usize| [&granules[..to], &granules[to + 1..to + 2]].concat();
            assert_eq!(writes(Arc::clone(&direct), &with_gap(62), &[]), [(0, 64)], "the gap counts");
            assert_eq!(writes(direct, &with_gap(63), &[]), [(0, 63), (64, 1)]);
        }
    }

    #[test]
    fn units_share_no_granule() {
        let step = |at, bytes| Step { at, bytes, from: From::Zero };
        let steps = vec![step(512, 3584), step(0, 512), step(8192, 100), step(4096, 4096), step(8292, 3996)];
        let mut units = Vec::new();
        units_of(8192, steps, &mut units);
        units_of(65536, vec![step(4096, 10), step(4106, 4086), step(0, 4096)], &mut units);
        let places = |unit: &Unit| unit.steps.iter().map(|step| (step.at, step.bytes)).collect::<Vec<_>>();
        let all: Vec<_> = units.iter().map(|unit| (unit.start, unit.bytes(), places(unit))).collect();
        assert_eq!(
            all,
            [
                (8192, 4096, vec![(0, 512), (512, 3584)]),
                (12288, 4096, vec![(0, 4096)]),
                (16384, 4096, vec![(0, 100), (100, 3996)]),
                (65536, 4096, vec![(0, 4096)]),
                (69632, 4096, vec![(0, 10), (10, 4086)]),
            ]
        );
    }
}
