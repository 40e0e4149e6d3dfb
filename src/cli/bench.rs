//! `archipelago bench`: how fast a store is, one request at a time, with the
//! verdict whether everything written was read back after a reopen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::output::{table, Unit};
use super::volumes::writable;
use super::{check_interrupted, Session};
use crate::catalog::{snapshot, volume as names};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::store::Store;
use crate::sys::signal;
use crate::volume::Volume;

const GRANULE: usize = 4096;
const LARGE: usize = 1 << 20;
const SIZE_BYTES_MIN: u64 = 16 << 20;

/// What was written: a version for each granule, 0 for zeroes.
struct Model {
    versions: Vec<u32>,
    last: u32,
    random: u64,
}

struct Row {
    what: &'static str,
    request_bytes: usize,
    /// Of each request.
    took: Vec<Duration>,
}

pub fn run(session: &Session, size_bytes: u64, seconds: u64) -> Result<()> {
    signal::note_interrupts();
    let store = session.store(true)?;
    let size_bytes = size_bytes.max(SIZE_BYTES_MIN).next_multiple_of(LARGE as u64);
    let tail = clock::random_id()?.0 as u32;
    let name = VolumeName::new(&format!("bench-{tail:08x}"))?;
    let copy = VolumeName::new(&format!("bench-{tail:08x}-clone"))?;
    names::create(&store, &name, size_bytes, store.block_bytes_default)?;
    let measured = measure(session, &store, &name, &copy, size_bytes, Duration::from_secs(seconds));
    let removed = remove(&store, &copy).and_then(|()| remove(&store, &name));
    let (rows, verified_bytes) = measured?;
    removed?;
    let values: Vec<Value> = rows.iter().map(Row::json).collect();
    let value = json!({
        "store": store.name, "rows": values, "verified_bytes": verified_bytes, "intact": true,
    });
    session.output.show(&value, || text(&store, &rows, verified_bytes))
}

fn remove(store: &Store, name: &VolumeName) -> Result<()> {
    match names::remove(store, name, true) {
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

fn text(store: &Store, rows: &[Row], verified_bytes: u64) -> String {
    let heading = ["one request at a time", "per second", "MiB/s", "median us", "99% us"];
    let mut cells: Vec<Vec<String>> = vec![heading.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(Row::cells));
    format!(
        "store {}\n{}intact: {} MiB read back as written, after a reopen\n\
         the space it took is given back by: archipelago gc\n",
        store.describe(),
        table(&cells, &[1, 2, 3, 4]),
        verified_bytes >> 20
    )
}

type Measured = (Vec<Row>, u64);

fn measure(
    session: &Session,
    store: &Store,
    name: &VolumeName,
    copy: &VolumeName,
    size_bytes: u64,
    limit: Duration,
) -> Result<Measured> {
    let volume = Volume::open(store, name, &writable(store))?;
    let granules = usize::try_from(size_bytes).unwrap_or(usize::MAX) / GRANULE;
    let mut model = Model { versions: vec![0; granules], last: 0, random: 0x5851_f42d_4c95_7f2d };
    let mut progress = session.output.begin("measuring", 8, Unit::Things);
    let mut rows = Vec::new();
    let mut step = |row: Row| {
        rows.push(row);
        progress.set(rows.len() as u64, 8);
    };
    step(model.all(&volume, "1 MiB write, in order", Way::Write)?);
    step(model.all(&volume, "1 MiB read, in order", Way::Read)?);
    step(model.some(&volume, "4 KiB read, random", Way::Read, limit)?);
    step(model.some(&volume, "4 KiB write, random", Way::Write, limit)?);
    step(model.some(&volume, "4 KiB write and flush", Way::WriteFlush, limit)?);
    let taken = SnapshotName::new("s")?;
    step(timed("snapshot", || volume.snapshot(&taken))?);
    volume.publish_all()?;
    volume.close()?;
    drop(volume);
    let source = snapshot::find(store, names::lookup(store, name)?, &taken)?;
    step(timed("clone", || names::clone(store, &source, copy, None).map(drop))?);
    let clone = Volume::open(store, copy, &writable(store))?;
    step(model.some(&clone, "4 KiB write after clone", Way::Write, limit)?);
    clone.close()?;
    drop(clone);
    let again = Volume::open(store, copy, &writable(store))?;
    let verified_bytes = model.verify(&again)?;
    again.close()?;
    Ok((rows, verified_bytes))
}

fn timed(what: &'static str, body: impl FnOnce() -> Result<()>) -> Result<Row> {
    let began = clock::now();
    body()?;
    Ok(Row { what, request_bytes: 0, took: vec![clock::now() - began] })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
    WriteFlush,
}

impl Model {
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 24
    }

    /// Every request of 1 MiB, once.
    fn all(&mut self, volume: &Arc<Volume>, what: &'static str, way: Way) -> Result<Row> {
        let mut took = Vec::new();
        for at in (0..self.versions.len()).step_by(LARGE / GRANULE) {
            took.push(self.request(volume, at, LARGE, way)?);
        }
        let began = clock::now();
        if way == Way::Write {
            volume.flush()?;
            took.push(clock::now() - began);
        }
        Ok(Row { what, request_bytes: LARGE, took })
    }

    /// Requests of 4 KiB anywhere, until the time is up.
    fn some(&mut self, volume: &Arc<Volume>, what: &'static str, way: Way, limit: Duration) -> Result<Row> {
        let began = clock::now();
        let mut took = Vec::new();
        while took.is_empty() || clock::now() - began < limit {
            let at = (self.next_random() % self.versions.len() as u64) as usize;
            took.push(self.request(volume, at, GRANULE, way)?);
        }
        Ok(Row { what, request_bytes: GRANULE, took })
    }

    fn request(&mut self, volume: &Arc<Volume>, at: usize, bytes: usize, way: Way) -> Result<Duration> {
        check_interrupted()?;
        let mut data = vec![0; bytes];
        let offset_bytes = (at * GRANULE) as u64;
        if way == Way::Read {
            let began = clock::now();
            volume.read_at(offset_bytes, &mut data)?;
            return Ok(clock::now() - began);
        }
        self.last += 1;
        for (more, granule) in data.chunks_mut(GRANULE).enumerate() {
            self.versions[at + more] = self.last;
            fill(granule, at + more, self.last);
        }
        let began: Instant = clock::now();
        volume.write_at(offset_bytes, &data)?;
        if way == Way::WriteFlush {
            volume.flush()?;
        }
        Ok(clock::now() - began)
    }

    /// Error: `Corrupt` at the first granule that is not what was written.
    fn verify(&self, volume: &Arc<Volume>) -> Result<u64> {
        let (mut found, mut wanted) = (vec![0; LARGE], vec![0; GRANULE]);
        for (first, versions) in self.versions.chunks(LARGE / GRANULE).enumerate() {
            check_interrupted()?;
            volume.read_at((first * LARGE) as u64, &mut found)?;
            for (more, version) in versions.iter().enumerate() {
                let at = first * (LARGE / GRANULE) + more;
                fill(&mut wanted, at, *version);
                if found[more * GRANULE..(more + 1) * GRANULE] != wanted {
                    return Err(Error::sentence(
                        ErrorKind::Corrupt,
                        format!("what was written at byte {} is not what is read back", at * GRANULE),
                    ));
                }
            }
        }
        Ok((self.versions.len() * GRANULE) as u64)
    }
}

/// Bytes that only this granule in this version has; version 0 is zeroes.
fn fill(data: &mut [u8], granule: usize, version: u32) {
    let mut state = ((granule as u64) << 32) | u64::from(version);
    for word in data.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = if version == 0 { 0 } else { state };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

impl Row {
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    fn rate(&self) -> f64 {
        self.took.len() as f64 / self.took.iter().sum::<Duration>().as_secs_f64().max(1e-9)
    }

    fn mib_per_s(&self) -> f64 {
        self.rate() * self.request_bytes as f64 / (1 << 20) as f64
    }

    fn cells(&self) -> Vec<String> {
        let rate = if self.took.len() > 1 { format!("{:.0}", self.rate()) } else { String::new() };
        let mib = if self.request_bytes > 0 { format!("{:.1}", self.mib_per_s()) } else { String::new() };
        let us = |percent| self.percentile(percent).as_micros().to_string();
        vec![self.what.to_owned(), rate, mib, us(50), us(99)]
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "requests": self.took.len(),
            "request_bytes": self.request_bytes,
            "per_second": self.rate(),
            "mib_per_second": self.mib_per_s(),
            "median_us": self.percentile(50).as_micros() as u64,
            "p99_us": self.percentile(99).as_micros() as u64,
        })
    }
}
