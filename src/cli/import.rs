//! `archipelago import`: a volume from a disk image.
//!
//! The image goes into a volume of another name first, which is renamed when
//! all of it is there and durable: the name that was asked for never shows
//! half an image. If anything goes wrong, or a signal asks to stop, what was
//! made is removed, its blocks included.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::output::{size_text, Progress, Unit};
use super::raw::{data_runs, COPY_BYTES};
use super::volumes::writable;
use super::{check_interrupted, convert, Session};
use crate::backend::BackendExt;
use crate::catalog::{epoch, head, volume as names};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::map::{walk, Entry, Visitor};
use crate::name::{prefix, Id, ObjectName, VolumeName, NAME_BYTES_MAX};
use crate::store::{Store, GRANULE_BYTES};
use crate::sys::signal;
use crate::volume::Volume;

const SECTOR_BYTES: u64 = 512;

/// By how much a volume grows when the size of what comes is not known.
const GROW_BYTES: u64 = 1 << 30;

/// What is read.
enum Source {
    /// With its size.
    File(File, u64),
    Stdin,
}

pub fn run(
    session: &Session,
    file: &Path,
    name: &VolumeName,
    format: Option<&str>,
    block_bytes: Option<u64>,
) -> Result<()> {
    signal::note_interrupts();
    let store = session.store(true)?;
    if names::list(&store)?.iter().any(|(known, _)| known == name) {
        return Err(Error::sentence(
            ErrorKind::Exists,
            format!("store '{}' has a volume '{name}' already", store.name),
        ));
    }
    let block_bytes = block_bytes.unwrap_or(store.block_bytes_default);
    let (source, converted) = open(session, file, format)?;
    let part = part_name(name)?;
    let imported = fill(session, &store, &source, &part, block_bytes)
        .and_then(|size_bytes| names::rename(&store, &part, name).map(|()| size_bytes));
    drop(converted);
    let size_bytes = imported.map_err(|error| undo(&store, &part, name, error))?;
    let id = names::lookup(&store, name)?;
    let value = json!({ "volume": name.as_str(), "id": id.to_string(), "size_bytes": size_bytes });
    session.output.show(&value, || {
        format!("volume '{name}' of {} is imported from {}", size_text(size_bytes), file.display())
    })
}

/// The raw bytes of an image; what is not raw is converted first, into a file
/// that lives as long as the second part of the answer.
fn open(
    session: &Session,
    file: &Path,
    format: Option<&str>,
) -> Result<(Source, Option<convert::Converted>)> {
    if file == Path::new("-") {
        return match format {
            None | Some("raw") => Ok((Source::Stdin, None)),
            Some(other) => Err(Error::sentence(
                ErrorKind::Invalid,
                format!("standard input is read as raw; write the {other} image into a file first"),
            )),
        };
    }
    let failed = |error| Error::from_io("open", error).on_named(file.display().to_string());
    let mut image = File::open(file).map_err(failed)?;
    let mut start = Vec::new();
    (&mut image).take(512).read_to_end(&mut start).map_err(failed)?;
    let format = format.unwrap_or_else(|| convert::format_of(&start));
    let mut converted = None;
    if format != "raw" {
        let made = convert::to_raw(&session.output, file, format)?;
        image = File::open(made.path()).map_err(failed)?;
        converted = Some(made);
    }
    let bytes = image.seek(SeekFrom::End(0)).map_err(failed)?;
    let kind = image.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!("{} is neither a file nor a disk; to read a pipe: import - VOL", file.display()),
        ));
    }
    Ok((Source::File(image, bytes), converted))
}

/// A name that nobody else has, and that says what it is.
fn part_name(name: &VolumeName) -> Result<VolumeName> {
    let tail = format!(".import-{:08x}", clock::random_id()?.0 as u32);
    let room = NAME_BYTES_MAX - tail.len();
    let front = name.as_str().get(..room).unwrap_or(name.as_str());
    VolumeName::new(&format!("{front}{tail}"))
}

fn fill(
    session: &Session,
    store: &Store,
    source: &Source,
    part: &VolumeName,
    block_bytes: u64,
) -> Result<u64> {
    let size_bytes = match source {
        Source::File(_, bytes) => bytes.next_multiple_of(SECTOR_BYTES),
        Source::Stdin => 0,
    };
    names::create(store, part, size_bytes, block_bytes)?;
    let volume = Volume::open(store, part, &writable(store))?;
    let mut progress = session.output.begin("importing", size_bytes, Unit::Bytes);
    let copied = match source {
        Source::File(image, bytes) => copy_file(&volume, image, *bytes, &mut progress),
        Source::Stdin => copy_stdin(&volume, &mut progress),
    };
    drop(progress);
    let closed = copied.and_then(|()| check_interrupted()).and_then(|()| volume.flush());
    let size_bytes = volume.size_bytes();
    // The lease goes in any case, so that what was made can be removed.
    let released = volume.close();
    closed.and(released).map(|()| size_bytes)
}

fn copy_file(volume: &Arc<Volume>, image: &File, bytes: u64, progress: &mut Progress) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let step_bytes = step_bytes(volume);
    let mut buffer = vec![0; step_bytes];
    let mut at = 0;
    while at < bytes {
        check_interrupted()?;
        progress.set(at, bytes);
        at = match next_data(image, at, bytes) {
            // Whole blocks are written at once where they can be.
            Some(data) => data / step_bytes as u64 * step_bytes as u64,
            None => break,
        };
        let wanted = step_bytes.min(usize::try_from(bytes - at).unwrap_or(step_bytes));
        let padded = wanted.next_multiple_of(SECTOR_BYTES as usize);
        buffer[..padded].fill(0);
        image.read_exact_at(&mut buffer[..wanted], at).map_err(|error| read_failed(error).at(at))?;
        write(volume, at, &buffer[..padded])?;
        at += wanted as u64;
    }
    Ok(())
}

/// Where data begins at or after `at`; where that cannot be told: here.
fn next_data(image: &File, at: u64, bytes: u64) -> Option<u64> {
    match rustix::fs::seek(image, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) if data >= at && data < bytes => Some(data),
        Ok(_) | Err(rustix::io::Errno::NXIO) => None,
        Err(_) => Some(at),
    }
}

fn copy_stdin(volume: &Arc<Volume>, progress: &mut Progress) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut buffer = vec![0; step_bytes(volume)];
    let mut at = 0;
    loop {
        let filled = read_full(&mut input, &mut buffer)?;
        if filled == 0 {
            break;
        }
        let padded = filled.next_multiple_of(SECTOR_BYTES as usize);
        buffer[filled..padded].fill(0);
        let end = at + padded as u64;
        if end > volume.size_bytes() {
            volume.resize(end.next_multiple_of(GROW_BYTES), false)?;
        }
        write(volume, at, &buffer[..padded])?;
        at = end;
        progress.set(at, at);
        if filled < buffer.len() {
            break;
        }
    }
    volume.resize(at, true)
}

fn step_bytes(volume: &Volume) -> usize {
    usize::try_from(volume.block_bytes).unwrap_or(COPY_BYTES).max(COPY_BYTES)
}

/// Reads until the buffer is full or the input ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        check_interrupted()?;
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read_failed(error)),
        }
    }
    Ok(filled)
}

fn read_failed(error: std::io::Error) -> Error {
    Error::from_io("read", error).on_named("the image")
}

fn write(volume: &Arc<Volume>, at: u64, data: &[u8]) -> Result<()> {
    for run in data_runs(data) {
        volume.write_at(at + run.start as u64, &data[run.clone()])?;
    }
    Ok(())
}

/// Removes what was made, because of `error`. After an unknown outcome the
/// blocks are left to gc: a head that names them may yet appear.
pub(super) fn take_back(store: &Store, part: &VolumeName, error: &Error) -> Result<()> {
    match error.kind() {
        ErrorKind::Unknown => names::remove(store, part, false).map(drop),
        _ => remove_all(store, part),
    }
}

/// Removes what was made and says so.
fn undo(store: &Store, part: &VolumeName, name: &VolumeName, error: Error) -> Error {
    let left = match take_back(store, part, &error) {
        Err(failed) if !failed.is(ErrorKind::NotFound) => {
            format!("what was begun could not be removed ({}): archipelago rm {part}", failed.full())
        }
        _ => "nothing is left behind".to_owned(),
    };
    Error::sentence(error.kind(), format!("{}: volume '{name}' is not made; {left}", error.full()))
}

/// Removes a volume that nobody else knows, and at once what gc would collect:
/// no snapshot and no clone can need it. What cannot be found or deleted now
/// is left to gc.
fn remove_all(store: &Store, part: &VolumeName) -> Result<()> {
    let id = names::lookup(store, part)?;
    let mut objects = Objects::default();
    let gathered = objects.gather(store, id);
    names::remove(store, part, false)?;
    gathered?;
    for name in objects.names {
        if let Err(error) = store.place_of(&name).delete(&name) {
            log::debug!("left to gc: {}", error.full());
        }
    }
    Ok(())
}

#[derive(Default)]
struct Objects {
    names: Vec<ObjectName>,
}

impl Objects {
    /// Blocks are found by their epochs and not by the map: one that was
    /// replaced in the meantime is in no map any more.
    fn gather(&mut self, store: &Store, id: Id) -> Result<()> {
        let head = head::latest(store, id)?;
        walk(store, head.root, (head.block_bytes / GRANULE_BYTES) as u32, self)?;
        self.names.extend(store.log().list_all(&prefix::segments_of(id))?);
        let mut epochs = HashSet::new();
        for name in store.control().list_all(prefix::EPOCHS)? {
            let ObjectName::Epoch(claimed) = name else { continue };
            match epoch::read(store, claimed) {
                Ok(found) if found.volume == id => epochs.insert(claimed),
                Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
                _ => false,
            };
        }
        self.names.extend(epochs.iter().copied().map(ObjectName::Epoch));
        let is_ours = |name: &ObjectName| {
            matches!(name, ObjectName::Block { epoch, .. } if epochs.contains(epoch))
        };
        self.names.extend(store.blocks().list_all(prefix::BLOCKS)?.into_iter().filter(is_ours));
        Ok(())
    }
}

impl Visitor for Objects {
    fn page(&mut self, id: Id, _level: u8) -> Result<bool> {
        self.names.push(ObjectName::Page(id));
        Ok(true)
    }

    fn entry(&mut self, _index: u64, _entry: &Entry) -> Result<()> {
        Ok(())
    }

    fn failed(&mut self, _id: Id, _error: Error) -> Result<()> {
        Ok(())
    }
}
