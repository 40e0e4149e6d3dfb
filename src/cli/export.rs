//! `archipelago export`: a raw image of a volume or a snapshot, with holes
//! where it is zero. Blocks that have a sum are compared with it on the way.

use std::cell::RefCell;
use std::fs::{File, OpenOptions as FileOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::args::Target;
use super::busy::{explain, Wanted};
use super::output::{size_text, Progress, Unit};
use super::raw::{data_runs, COPY_BYTES};
use super::{check_interrupted, Session};
use crate::catalog::{head, snapshot as snapshots, volume as volumes};
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::verify::Verifier;
use crate::store::Store;
use crate::sys::signal;
use crate::volume::{OpenOptions, Status, Volume};

pub fn run(session: &Session, target: &Target, file: &Path, force: bool) -> Result<()> {
    signal::note_interrupts();
    let store = session.store_of(&target.volume)?;
    let source = Source::open(&store, target)?;
    let volume = &source.volume;
    let mut progress = session.output.begin("exporting", volume.size_bytes(), Unit::Bytes);
    if file == Path::new("-") {
        return to_stdout(session, &source, &mut progress);
    }
    let data_bytes = match std::fs::metadata(file) {
        Ok(there) if there.file_type().is_block_device() && force => to_disk(&source, file, &mut progress)?,
        Ok(_) if !force => {
            return Err(Error::sentence(
                ErrorKind::Exists,
                format!("{} is there already: --force overwrites it", file.display()),
            ))
        }
        _ => to_file(&source, file, &mut progress)?,
    };
    drop(progress);
    let size_bytes = volume.size_bytes();
    let value = json!({
        "name": target.to_string(), "file": file.display().to_string(),
        "size_bytes": size_bytes, "data_bytes": data_bytes,
        "verified_blocks": source.verifier.borrow().verified(),
    });
    session.output.show(&value, || {
        let compared = match source.verifier.borrow().verified() {
            0 => String::new(),
            blocks => format!("; {blocks} blocks are as their checksums say"),
        };
        format!(
            "'{target}' of {} is in {}; {} of it are data{compared}",
            size_text(size_bytes),
            file.display(),
            size_text(data_bytes)
        )
    })
}

/// What is exported.
struct Source<'a> {
    name: &'a Target,
    volume: Arc<Volume>,
    verifier: RefCell<Verifier<'a>>,
}

impl<'a> Source<'a> {
    fn open(store: &'a Store, target: &'a Target) -> Result<Source<'a>> {
        let id = volumes::lookup(store, &target.volume)?;
        let (volume, root, block_bytes) = match &target.snapshot {
            Some(snapshot) => {
                let volume = Volume::open_snapshot(store, &target.volume, snapshot)?;
                let there = snapshots::find(store, id, snapshot)?;
                (volume, there.root, there.block_bytes)
            }
            None => {
                let volume = Volume::open(store, &target.volume, &OpenOptions::read_only())
                    .map_err(|error| explain(error, &target.volume, &Wanted::Export))?;
                let head = head::latest(store, id)?;
                (volume, head.root, head.block_bytes)
            }
        };
        let verifier = Verifier::of_map(store, root, block_bytes);
        let verifier = RefCell::new(verifier.map_err(|error| error.of_volume(target.volume.as_str()))?);
        Ok(Source { name: target, volume, verifier })
    }

    fn read(&self, offset_bytes: u64, data: &mut [u8]) -> Result<()> {
        let verified = self.verifier.borrow_mut().before(offset_bytes, data.len() as u64);
        verified.map_err(|error| error.of_volume(self.name.volume.as_str()))?;
        self.volume.read_at(offset_bytes, data)
    }
}

fn file_failed<'a>(operation: &'static str, file: &'a Path) -> impl Fn(std::io::Error) -> Error + 'a {
    move |error| Error::from_io(operation, error).on_named(file.display().to_string())
}

/// Calls `visit` with each part that holds data, in order.
fn each_data(
    source: &Source<'_>,
    progress: &mut Progress,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let size_bytes = source.volume.size_bytes();
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < size_bytes {
        check_interrupted()?;
        progress.set(at, size_bytes);
        let (status, bytes) = source.volume.block_status(at, size_bytes - at)?;
        if status == Status::Zero && bytes > 0 {
            at += bytes;
            continue;
        }
        let step = bytes.min(COPY_BYTES as u64 - at % COPY_BYTES as u64) as usize;
        source.read(at, &mut buffer[..step])?;
        for run in data_runs(&buffer[..step]) {
            visit(at + run.start as u64, &buffer[run])?;
        }
        at += step as u64;
    }
    Ok(())
}

/// Under another name first: FILE is never half an image.
fn to_file(source: &Source<'_>, file: &Path, progress: &mut Progress) -> Result<u64> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write_file(source, &part, progress)
        .and_then(|bytes| std::fs::rename(&part, file).map_err(file_failed("name", file)).map(|()| bytes));
    written.map_err(|error| {
        let left = match std::fs::remove_file(&part) {
            Err(failed) if failed.kind() != std::io::ErrorKind::NotFound => {
                format!("{} is left behind: {failed}", part.display())
            }
            _ => "nothing is left behind".to_owned(),
        };
        // A full disk here is not a full store.
        let kind = error.kind();
        Error::sentence(kind, format!("{}: {} is not made; {left}", error.full(), file.display()))
    })
}

fn write_file(source: &Source<'_>, part: &Path, progress: &mut Progress) -> Result<u64> {
    let failed = file_failed("write", part);
    let image = File::create(part).map_err(&failed)?;
    image.set_len(source.volume.size_bytes()).map_err(&failed)?;
    let mut data_bytes = 0;
    each_data(source, progress, &mut |at, data| {
        data_bytes += data.len() as u64;
        image.write_all_at(data, at).map_err(&failed)
    })?;
    image.sync_all().map_err(&failed)?;
    Ok(data_bytes)
}

/// A disk has content already, so zeroes are written too.
fn to_disk(source: &Source<'_>, file: &Path, progress: &mut Progress) -> Result<u64> {
    let failed = file_failed("write", file);
    let mut disk = FileOptions::new().write(true).open(file).map_err(&failed)?;
    let bytes = to_stream(source, progress, &mut |data| disk.write_all(data).map_err(&failed))?;
    disk.sync_all().map_err(&failed)?;
    Ok(bytes)
}

fn to_stdout(session: &Session, source: &Source<'_>, progress: &mut Progress) -> Result<()> {
    to_stream(source, progress, &mut |data| session.output.write(data)).map(drop)
}

fn to_stream(
    source: &Source<'_>,
    progress: &mut Progress,
    write: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let size_bytes = source.volume.size_bytes();
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < size_bytes {
        check_interrupted()?;
        progress.set(at, size_bytes);
        let step = usize::try_from(size_bytes - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        source.read(at, &mut buffer[..step])?;
        write(&buffer[..step])?;
        at += step as u64;
    }
    Ok(size_bytes)
}
