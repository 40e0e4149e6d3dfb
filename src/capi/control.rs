//! Opening, creating and asking: the calls that may block.

use std::path::Path;

use super::handle::{check_flags, Handle, Info};
use super::{mode_of, DIRECT, FORCE_SHARE, INACTIVE, NO_FLUSH, READ_ONLY};
use crate::catalog::{clone, moved, volume as names};
use crate::config;
use crate::control::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::io::DeviceOptions;
use crate::name::{SnapshotName, VolumeName};
use crate::store::open::open_store;
use crate::store::Store;
use crate::volume::{find_snapshot, Mode, OpenOptions, Status, Volume};

type Options = [(String, String)];

const OPEN_OPTIONS: &[&str] = &["volume", "snapshot", "store", "config"];
const CREATE_OPTIONS: &[&str] = &["volume", "store", "config", "block-size", "from"];

/// The options of one call, each used at most once.
#[derive(Default)]
struct Parsed {
    volume: Option<String>,
    snapshot: Option<String>,
    store: Option<String>,
    config: Option<String>,
    block_size: Option<String>,
    from: Option<String>,
}

fn parse(options: &Options, known: &[&str]) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    for (key, value) in options {
        let slot = match key.as_str() {
            "volume" => &mut parsed.volume,
            "snapshot" => &mut parsed.snapshot,
            "store" => &mut parsed.store,
            "config" => &mut parsed.config,
            "block-size" => &mut parsed.block_size,
            "from" => &mut parsed.from,
            _ => return Err(unknown(key, known)),
        };
        if !known.contains(&key.as_str()) {
            return Err(unknown(key, known));
        }
        if slot.replace(value.clone()).is_some() {
            return Err(Error::sentence(ErrorKind::Invalid, format!("option '{key}' is given twice")));
        }
    }
    Ok(parsed)
}

fn unknown(key: &str, known: &[&str]) -> Error {
    Error::sentence(
        ErrorKind::Invalid,
        format!("option '{}' is not known here; there are {}", key.escape_debug(), known.join(", ")),
    )
}

impl Parsed {
    fn volume(&self) -> Result<VolumeName> {
        match &self.volume {
            Some(name) => VolumeName::new(name),
            None => Err(Error::sentence(ErrorKind::Invalid, "which volume? (option volume=NAME)")),
        }
    }

    fn store(&self, direct: bool, create: bool) -> Result<Store> {
        open_store(self.store.as_deref(), self.config.as_deref().map(Path::new), direct, create)
    }
}

pub fn open(options: &Options, flags: u32) -> Result<Handle> {
    check_flags(flags, READ_ONLY | INACTIVE | DIRECT | FORCE_SHARE | NO_FLUSH)?;
    let parsed = parse(options, OPEN_OPTIONS)?;
    let volume = parsed.volume()?;
    let snapshot = parsed.snapshot.as_deref().map(SnapshotName::new).transpose()?;
    let config = parsed.config.as_deref().map(Path::new);
    let store = moved::find(config, parsed.store.as_deref(), &volume, flags & DIRECT != 0)?;
    let read_only = flags & READ_ONLY != 0 || snapshot.is_some();
    let active = if read_only { Mode::ReadOnly } else { Mode::Writable };
    let mode = if flags & INACTIVE != 0 { Mode::Inactive } else { active };
    let open = OpenOptions {
        mode,
        force_share: flags & FORCE_SHARE != 0,
        log_limit_bytes: store.log_limit_bytes,
        ..OpenOptions::default()
    };
    let no_flush = flags & NO_FLUSH != 0;
    let held = Held::open(store, DeviceOptions { volume, snapshot, open, active, no_flush })?;
    Ok(Handle { held })
}

pub fn create(options: &Options, size_bytes: u64) -> Result<()> {
    let parsed = parse(options, CREATE_OPTIONS)?;
    let name = parsed.volume()?;
    let store = parsed.store(false, true)?;
    let Some(from) = &parsed.from else {
        let block_bytes = match &parsed.block_size {
            Some(text) => config::parse_size(text)?,
            None => store.block_bytes_default,
        };
        return names::create(&store, &name, size_bytes, block_bytes).map(drop);
    };
    if parsed.block_size.is_some() {
        let message = "a clone has the block size of its snapshot: leave block-size out";
        return Err(Error::sentence(ErrorKind::Invalid, message));
    }
    let (volume, which) = parse_from(from)?;
    let id = names::lookup(&store, &volume)?;
    let source = find_snapshot(&store, &volume, id, &which)?;
    let size_bytes = if size_bytes == 0 { None } else { Some(size_bytes) };
    clone::clone(&store, &source, &name, size_bytes).map(drop)
}

fn parse_from(from: &str) -> Result<(VolumeName, SnapshotName)> {
    let Some((volume, which)) = from.split_once('@') else {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!("from '{}' is not of the form VOLUME@SNAPSHOT", from.escape_debug()),
        ));
    };
    Ok((VolumeName::new(volume)?, SnapshotName::new(which)?))
}

/// What an option list says.
#[cfg(feature = "testkit")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    pub volume: VolumeName,
    pub snapshot: Option<SnapshotName>,
    pub store: Option<String>,
    pub block_bytes: Option<u64>,
    pub from: Option<(VolumeName, SnapshotName)>,
}

/// Reads the options of an open (or, with `creates`, of a create) as a C
/// program hands them over, and opens nothing: for tests.
#[cfg(feature = "testkit")]
#[allow(unsafe_code)]
pub fn understand(options: &[std::ffi::CString], creates: bool) -> Result<Understood> {
    let mut strings: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
    strings.push(std::ptr::null());
    // SAFETY: NUL-terminated strings that live until the call is over, and NULL.
    let list = unsafe { super::handle::options(strings.as_ptr()) }?;
    let known = if creates { CREATE_OPTIONS } else { OPEN_OPTIONS };
    let parsed = parse(&list, known)?;
    Ok(Understood {
        volume: parsed.volume()?,
        snapshot: parsed.snapshot.as_deref().map(SnapshotName::new).transpose()?,
        block_bytes: parsed.block_size.as_deref().map(config::parse_size).transpose()?,
        from: parsed.from.as_deref().map(parse_from).transpose()?,
        store: parsed.store,
    })
}

pub fn remove(options: &Options) -> Result<()> {
    let parsed = parse(options, &["volume", "store", "config"])?;
    let store = parsed.store(false, false)?;
    names::remove(&store, &parsed.volume()?, false).map(drop)
}

pub fn info(handle: &Handle) -> Result<Info> {
    let volume = handle.device().volume();
    let usage = quick_usage(&volume);
    let alignment = handle.device().alignment_bytes() as u32;
    Ok(Info {
        size_bytes: handle.device().size_bytes(),
        block_bytes: volume.block_bytes,
        own_bytes: usage.0,
        shared_bytes: usage.1,
        request_alignment_bytes: request_alignment_bytes(handle.device().size_bytes(), alignment),
        memory_alignment_bytes: alignment.max(1),
        volume_id: volume.id.to_bytes(),
        read_only: u8::from(volume.mode() == Mode::ReadOnly),
        active: u8::from(mode_of(handle) != Mode::Inactive),
        zero_init: u8::from(volume.is_all_zero()),
        reserved: [0; 37],
    })
}

/// A caller that reads and writes whole sectors never finds one mixed after a
/// crash. A volume that ends within a sector has a part of one to write; past
/// the page cache that is all the same.
fn request_alignment_bytes(size_bytes: u64, memory_alignment_bytes: u32) -> u32 {
    let sector_bytes = 512;
    match size_bytes % u64::from(sector_bytes) {
        0 => sector_bytes,
        _ if memory_alignment_bytes > 1 => sector_bytes,
        _ => 1,
    }
}

/// Own and shared bytes; zeroes if that cannot be told now.
fn quick_usage(volume: &Volume) -> (u64, u64) {
    match volume.usage() {
        Ok(usage) => (usage.own_bytes + usage.log_bytes, usage.shared_bytes),
        Err(error) => {
            ::log::debug!("usage of '{}': {}", volume.name, error.full());
            (0, 0)
        }
    }
}

pub fn status(handle: &Handle, offset_bytes: u64, bytes: u64) -> Result<(i32, u64)> {
    let (status, length) = handle.device().block_status(offset_bytes, bytes)?;
    Ok((if status == Status::Data { 1 } else { 2 }, length))
}
