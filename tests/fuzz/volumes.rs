//! Whole volumes whose head or log says something else than was written, with
//! every checksum right: opening, reading, checking, collecting and writing on.

use std::sync::{Arc, OnceLock};

use archipelago::backend::memory::Memory;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::volume as names;
use archipelago::clock;
use archipelago::codec::Reader;
use archipelago::log::format::{BatchHeader, Seed, BATCH_HEADER_BYTES};
use archipelago::log::{LogOptions, Record};
use archipelago::maintain::check::{self, CheckOptions};
use archipelago::maintain::gc::{self, GcOptions};
use archipelago::name::{prefix, ObjectName, SnapshotName, VolumeName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::{Error, ErrorKind};

use super::logs::{repair_log, ALIGN, GRANULES};
use super::meter::most_bytes;
use super::mutate::Rng;
use super::objects::{id_at, seal_again, u64_at};
use super::run::{check_words, Kind, Outcome};

const BLOCK: usize = 16 << 10;

pub fn kinds() -> Vec<Kind> {
    let volume = Kind {
        name: "open",
        seeds,
        repair,
        decode: open,
        bytes_max: 256 << 10,
        // Buffers for settling, a new segment, and what is read here.
        memory: 128,
        share: 8,
        ..Kind::OBJECT
    };
    vec![volume]
}

fn options() -> OpenOptions {
    let log =
        LogOptions { segment_bytes: 64 << 10, first_segment_bytes: 64 << 10, batch_bytes_max: 32 << 10 };
    OpenOptions { log, log_limit_bytes: 1 << 20, ..OpenOptions::default() }
}

fn name() -> VolumeName {
    VolumeName::new("web").unwrap()
}

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// A store whose volume was written to in every way and not closed.
fn crashed() -> Memory {
    let memory = Memory::new();
    let store = Store::init("test", Arc::new(memory.clone()), BLOCK as u64).unwrap();
    names::create(&store, &name(), 40 * BLOCK as u64 + 5000, BLOCK as u64).unwrap();
    let volume = Volume::open(&store, &name(), &options()).unwrap();
    volume.write_at(0, &vec![1; 3 * BLOCK]).unwrap();
    volume.snapshot(&snap("one")).unwrap();
    volume.publish_all().unwrap();
    volume.write_at(100, &[2; 9000]).unwrap();
    volume.write_at(BLOCK as u64, &vec![3; BLOCK]).unwrap();
    volume.settle_all().unwrap();
    volume.write_at(4000, &[4; 200]).unwrap();
    volume.write_zeroes(2 * BLOCK as u64, 3 * BLOCK as u64).unwrap();
    volume.resize(20 * BLOCK as u64 + 700, true).unwrap();
    volume.resize(50 * BLOCK as u64, false).unwrap();
    volume.snapshot(&snap("two")).unwrap();
    volume.write_at(8000, &[5; 600]).unwrap();
    volume.flush().unwrap();
    volume.write_at(BLOCK as u64 + 512, &[6; 512]).unwrap();
    volume.abandon();
    memory
}

fn pristine() -> &'static Memory {
    static MADE: OnceLock<Memory> = OnceLock::new();
    MADE.get_or_init(crashed)
}

/// Heads, segments, leases, snapshots, epochs; an input takes the place of the one it names.
fn seeds() -> Vec<Vec<u8>> {
    let objects = pristine().list_all(prefix::ALL).unwrap();
    let others = |object: &&ObjectName| {
        !matches!(
            object,
            ObjectName::Store | ObjectName::Volume(_) | ObjectName::Page(_) | ObjectName::Block { .. }
        )
    };
    objects.iter().filter(others).map(|object| pristine().read_all(object, 1 << 20).unwrap()).collect()
}

fn repair(data: &mut [u8], seed: &[u8], rng: &mut Rng) {
    if seed.starts_with(b"ARCHlogs") {
        return repair_log(data, rng);
    }
    seal_again(data, seed, rng);
}

/// Blocks that `Zero` records of an input zero, whether they count or not. A
/// block that is zeroed costs memory; that is a limit which no decoder has.
fn zeroed_blocks(data: &[u8]) -> u64 {
    if !data.starts_with(b"ARCHlogs") {
        return 0;
    }
    let (name, seed, mut blocks) = (ObjectName::Store, Seed::of_segment(id_at(data, 24)), 0u64);
    for at in (ALIGN..data.len()).step_by(ALIGN) {
        let Some(header) = BatchHeader::decode(&name, &seed, &data[at..]) else { continue };
        let mut fields =
            Reader::new(&name, &data[at + BATCH_HEADER_BYTES..at + header.header_bytes as usize]);
        while let Ok(record) = Record::decode(&mut fields, GRANULES) {
            if let Record::Zero { count, .. } = record {
                blocks = blocks.saturating_add(count);
            }
        }
    }
    blocks
}

/// What may be said of a volume with damage.
fn expected(what: &str, error: &Error) -> Result<(), String> {
    let text = error.full();
    check_words(&text)?;
    match error.kind() {
        ErrorKind::Internal => Err(format!("{what}: {text}")),
        ErrorKind::Corrupt if error.object().is_none() && !text.contains('/') => {
            Err(format!("{what}: no object is named: {text}"))
        }
        _ => Ok(()),
    }
}

fn open(data: &[u8]) -> Result<Outcome, String> {
    let memory = pristine().fork();
    let volume =
        names::lookup(&Store::open("test", Arc::new(memory.clone())).unwrap(), &name()).unwrap();
    let object = match data.get(..8) {
        Some(b"ARCHhead") => ObjectName::Head { volume, number: u64_at(data, 16) },
        Some(b"ARCHleas") => ObjectName::Lease { volume, number: u64_at(data, 16) },
        Some(b"ARCHepoc") => ObjectName::Epoch(id_at(data, 0)),
        Some(b"ARCHmain") => ObjectName::Maintenance(u64_at(data, 0)),
        Some(b"ARCHsnap") => {
            ObjectName::Snapshot { volume, name: snap("one"), number: u64_at(data, 16) }
        }
        _ => ObjectName::Segment { volume, number: u64_at(data, 16) },
    };
    if zeroed_blocks(data) > 1 << 16 {
        return Ok(Outcome { decoded: false, memory_bytes: 0 });
    }
    let _ = memory.delete(&object);
    memory.create(&object, data).unwrap();
    let store = Store::open("test", Arc::new(memory)).unwrap();
    // What looks torn is read again after a pause; here nobody is writing.
    clock::seeded::hurry(true);
    let (done, memory_bytes) = most_bytes(|| live_with(&store));
    clock::seeded::hurry(false);
    let decoded = done?;
    // Buffers for the reads below, for settling and for a new segment.
    Ok(Outcome { decoded, memory_bytes: memory_bytes.saturating_sub(2 << 20) })
}

/// Everything that is done to a volume; true if it opened.
fn live_with(store: &Store) -> Result<bool, String> {
    let shared = OpenOptions { force_share: true, ..OpenOptions::read_only() };
    match Volume::open(store, &name(), &shared) {
        Ok(volume) => {
            read_some(&volume)?;
            volume.snapshots().map(drop).or_else(|error| expected("list", &error))?;
            volume.close().or_else(|error| expected("close", &error))?;
        }
        Err(error) => expected("open to read", &error)?,
    }
    let checked = check::run(store, &CheckOptions::default(), &mut |_| {});
    checked.map(drop).or_else(|error| expected("check", &error))?;
    let dry = GcOptions { dry_run: true, ..GcOptions::default() };
    gc::run(store, &dry, &mut |_| {}).map(drop).or_else(|error| expected("gc", &error))?;
    let volume = match Volume::open(store, &name(), &options()) {
        Ok(volume) => volume,
        Err(error) => return expected("open", &error).map(|()| false),
    };
    let worked = work(&volume);
    volume.abandon();
    worked.map(|()| true)
}

fn read_some(volume: &Arc<Volume>) -> Result<(), String> {
    let size_bytes = volume.size_bytes();
    let bytes = size_bytes.min(60 * BLOCK as u64);
    let mut data = vec![0; bytes as usize];
    for offset_bytes in [0, size_bytes - bytes] {
        volume.read_at(offset_bytes, &mut data).or_else(|error| expected("read", &error))?;
        let status = volume.block_status(offset_bytes, bytes);
        status.map(drop).or_else(|error| expected("status", &error))?;
    }
    Ok(())
}

fn work(volume: &Arc<Volume>) -> Result<(), String> {
    let outcome =
        |what: &str, result: archipelago::Result<()>| result.or_else(|error| expected(what, &error));
    read_some(volume)?;
    outcome("write", volume.write_at(5000, &[7; 700]))?;
    outcome("write a block", volume.write_at(2 * BLOCK as u64, &vec![8; BLOCK]))?;
    outcome("flush", volume.flush())?;
    outcome("snapshot", volume.snapshot(&snap("three")))?;
    outcome("settle", volume.settle_all())?;
    outcome("publish", volume.publish_all())?;
    outcome("close", volume.close())
}

/// Heads, leases and segments are numbered, and whoever takes over makes the
/// next number. What if there is none?
#[test]
fn the_last_number_has_no_next_and_nothing_overflows() {
    let mut tried = 0;
    for seed in seeds() {
        let at = match &seed[..8] {
            b"ARCHhead" | b"ARCHleas" | b"ARCHlogs" | b"ARCHsnap" => 72,
            b"ARCHmain" => 56,
            _ => continue,
        };
        for number in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62] {
            let mut data = seed.clone();
            data[at..at + 8].copy_from_slice(&number.to_le_bytes());
            let sealed_bytes = if seed.starts_with(b"ARCHlogs") { 104 } else { seed.len() };
            let mut front = data[..sealed_bytes].to_vec();
            seal_again(&mut front, &seed, &mut Rng::new(0, "", 0));
            data[..sealed_bytes].copy_from_slice(&front);
            let kind = String::from_utf8_lossy(&seed[..8]).into_owned();
            super::run::try_one(&kinds()[0], &data)
                .unwrap_or_else(|error| panic!("{kind} {number:#x}: {error}"));
            tried += 1;
        }
    }
    assert!(tried >= 12, "{tried}");
}
