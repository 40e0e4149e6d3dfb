//! What a sector may hold, and what a whole volume may.

use super::image::SECTOR;
use super::model::Value;

#[derive(Clone, Debug)]
pub struct Sector {
    /// Oldest first: what the last completed flush made it, and what was
    /// written later.
    values: Vec<Value>,
    /// Index of the oldest value that may be read now.
    seen: usize,
    /// Becomes the oldest when the flush that is under way ends.
    mark: usize,
    /// Nobody has read it since it was opened: what is read first stays.
    is_fresh: bool,
    /// What somebody who was taken over may still write into a block beneath.
    ghosts: Vec<Value>,
    /// The holder has written over what could still change; and had, when the
    /// flush that is under way began.
    is_over: bool,
    was_over: bool,
}

impl Sector {
    pub fn of(value: Value) -> Sector {
        Sector {
            values: vec![value],
            seen: 0,
            mark: 0,
            is_fresh: false,
            ghosts: Vec::new(),
            is_over: false,
            was_over: false,
        }
    }

    pub fn shows(&self, value: Value) -> bool {
        self.values[self.seen..].contains(&value) || (!self.is_over && self.ghosts.contains(&value))
    }

    fn begin(&mut self, value: Value) {
        self.values.push(value);
    }

    fn end(&mut self) {
        self.seen = self.values.len() - 1;
        self.is_fresh = false;
        self.is_over = true;
    }

    fn read(&mut self, value: Value) {
        let Some(at) = self.values[self.seen..].iter().rposition(|there| *there == value) else { return };
        if self.is_fresh {
            self.values = vec![value];
            (self.seen, self.mark, self.is_fresh) = (0, 0, false);
        } else {
            self.seen += at;
        }
    }

    fn begin_flush(&mut self) {
        (self.mark, self.was_over) = (self.seen, self.is_over);
    }

    fn end_flush(&mut self) {
        self.values.drain(..self.mark);
        self.seen -= self.mark;
        self.mark = 0;
        if self.was_over {
            self.ghosts.clear();
        }
    }

    fn opened(&mut self) {
        (self.seen, self.mark, self.is_fresh, self.is_over) = (0, 0, true, false);
    }

    fn shown(&self) -> Sector {
        let ghosts = if self.is_over { Vec::new() } else { self.ghosts.clone() };
        let values = self.values[self.seen..].to_vec();
        Sector { values, seen: 0, mark: 0, is_fresh: true, ghosts, is_over: false, was_over: false }
    }

    fn haunt(&mut self, value: Value) {
        if !self.ghosts.contains(&value) {
            self.ghosts.push(value);
        }
    }
}

/// The whole of a volume or a snapshot.
#[derive(Clone, Debug)]
pub struct Content {
    pub bytes: u64,
    pub sectors: Vec<Sector>,
}

impl Content {
    pub fn zero(bytes: u64) -> Content {
        Content { bytes, sectors: vec![Sector::of(0); bytes as usize / SECTOR] }
    }

    fn each(&mut self, first: usize, count: usize, with: impl FnMut(&mut Sector)) {
        let end = (first + count).min(self.sectors.len());
        self.sectors[first.min(end)..end].iter_mut().for_each(with);
    }

    pub fn begin(&mut self, first: usize, count: usize, value: Value) {
        self.each(first, count, |sector| sector.begin(value));
    }

    pub fn end(&mut self, first: usize, count: usize) {
        self.each(first, count, Sector::end);
    }

    /// Of a write that is durable.
    pub fn settle(&mut self, first: usize, count: usize) {
        self.each(first, count, |sector| {
            sector.begin_flush();
            sector.end_flush();
        });
    }

    pub fn haunt(&mut self, first: usize, count: usize, value: Value) {
        self.each(first, count, |sector| sector.haunt(value));
    }

    pub fn begin_flush(&mut self) {
        self.sectors.iter_mut().for_each(Sector::begin_flush);
    }

    pub fn end_flush(&mut self) {
        self.sectors.iter_mut().for_each(Sector::end_flush);
    }

    pub fn opened(&mut self) {
        self.sectors.iter_mut().for_each(Sector::opened);
    }

    pub fn shown(&self) -> Content {
        Content { bytes: self.bytes, sectors: self.sectors.iter().map(Sector::shown).collect() }
    }

    pub fn resized(&self, bytes: u64) -> Content {
        let mut sectors = self.sectors.clone();
        sectors.resize(bytes as usize / SECTOR, Sector::of(0));
        Content { bytes, sectors }
    }

    /// Where what was read is not what it may be.
    pub fn wrong_at(&self, first: usize, values: &[Value]) -> Option<String> {
        if first + values.len() > self.sectors.len() {
            return Some(format!("it has {} bytes, or should have", self.bytes));
        }
        let at = (0..values.len()).find(|at| !self.sectors[first + at].shows(values[*at]))?;
        let (sector, value) = (&self.sectors[first + at], values[at]);
        Some(format!("sector {} is {value}, not {sector:?}", first + at))
    }

    pub fn read(&mut self, first: usize, values: &[Value]) {
        for (sector, value) in self.sectors[first..].iter_mut().zip(values) {
            sector.read(*value);
        }
    }
}
