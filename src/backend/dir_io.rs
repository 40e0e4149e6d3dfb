//! Reading and writing one open file of `dir`.
//!
//! A file's data goes either through the page cache or, opened for O_DIRECT,
//! always past it, in this process at least: a buffered write to a page that a
//! direct write is replacing may lose either, and the kernel then fails the
//! next sync on purpose. What is not aligned is read, changed and written
//! back as whole sectors, alone in the object's gate.

use std::io;

use super::dir_files::OpenFile;
use super::dir_sys::Files;
use crate::error::ErrorKind;

/// Buffered writes are handed over in pieces of this: longer ones make others
/// who write to the file wait.
const PIECE_BYTES: usize = 64 << 10;

/// Bounce memory for unaligned requests past the page cache.
const BOUNCE_BYTES: usize = 1 << 20;

/// The unit in which file systems give room back.
const HOLE_BYTES: u64 = 4096;

/// Memory that begins where O_DIRECT wants it.
struct Aligned {
    memory: Vec<u8>,
    begin: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize, alignment: usize) -> Aligned {
        let memory = vec![0; bytes + alignment];
        let address = memory.as_ptr() as usize;
        let begin = address.next_multiple_of(alignment) - address;
        Aligned { memory, begin, bytes }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.bytes]
    }
}

/// Fills `buf`; short only at the end of the file.
pub fn read(files: &dyn Files, file: &OpenFile, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
    let left = file.bytes.saturating_sub(offset_bytes);
    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    let buf = &mut buf[..bytes];
    let alignment = file.alignment;
    if alignment == 1 || is_aligned(alignment, offset_bytes, buf) {
        return read_through(files, file, offset_bytes, buf);
    }
    let mut done = 0;
    while done < bytes {
        let at = offset_bytes + done as u64;
        let begin = at - at % alignment as u64;
        let skip = (at - begin) as usize;
        let wanted = (skip + bytes - done).min(BOUNCE_BYTES.max(alignment));
        let mut bounce = Aligned::new(wanted.next_multiple_of(alignment), alignment);
        let got = read_through(files, file, begin, bounce.get())?.min(wanted);
        if got <= skip {
            break;
        }
        buf[done..done + got - skip].copy_from_slice(&bounce.get()[skip..got]);
        done += got - skip;
    }
    Ok(done)
}

fn is_aligned(alignment: usize, offset_bytes: u64, buf: &[u8]) -> bool {
    offset_bytes % alignment as u64 == 0
        && buf.len() % alignment == 0
        && (buf.as_ptr() as usize) % alignment == 0
}

fn read_through(
    files: &dyn Files,
    file: &OpenFile,
    offset_bytes: u64,
    buf: &mut [u8],
) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match files.pread(&file.handle, offset_bytes + done as u64, &mut buf[done..])? {
            0 => break,
            bytes => done += bytes,
        }
    }
    Ok(done)
}

/// Writes within the file and marks it. The caller has checked the range.
pub fn write(files: &dyn Files, file: &OpenFile, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let alignment = file.alignment as u64;
    if alignment == 1 {
        return mark(file, write_through(files, file, offset_bytes, data));
    }
    let result = if offset_bytes % alignment == 0 && data.len() as u64 % alignment == 0 {
        file.gate.enter();
        let result = write_sectors(files, file, offset_bytes, data);
        file.gate.leave();
        result
    } else {
        file.gate.alone(|| write_parts(files, file, offset_bytes, data))
    };
    mark(file, result)
}

/// Remembers that there is something to sync. A stale file has taken nothing:
/// the write is done again, whole, on the file that is looked up next.
fn mark(file: &OpenFile, result: io::Result<()>) -> io::Result<()> {
    if !result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE)) {
        let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
        file.wrote(errno.map(ErrorKind::from_errno));
    }
    result
}

fn write_through(files: &dyn Files, file: &OpenFile, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        let end = data.len().min(done + PIECE_BYTES);
        match files.pwrite(&file.handle, offset_bytes + done as u64, &data[done..end])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => done += bytes,
        }
    }
    Ok(())
}

/// Whole sectors past the page cache, from any memory.
fn write_sectors(files: &dyn Files, file: &OpenFile, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
    if is_aligned(file.alignment, offset_bytes, data) {
        return write_through(files, file, offset_bytes, data);
    }
    let mut bounce = Aligned::new(data.len().min(BOUNCE_BYTES), file.alignment);
    for (piece, at) in data.chunks(BOUNCE_BYTES).zip((offset_bytes..).step_by(BOUNCE_BYTES)) {
        bounce.bytes = piece.len();
        bounce.get().copy_from_slice(piece);
        write_through(files, file, at, bounce.get())?;
    }
    Ok(())
}

/// Parts of sectors past the page cache; nobody else writes meanwhile.
fn write_parts(files: &dyn Files, file: &OpenFile, offset_bytes: u64, data: &[u8]) -> io::Result<()> {
    let alignment = file.alignment;
    let mut done = 0;
    while done < data.len() {
        let at = offset_bytes + done as u64;
        let begin = at - at % alignment as u64;
        let skip = (at - begin) as usize;
        let take = (data.len() - done).min(BOUNCE_BYTES.max(alignment) - skip);
        let mut bounce = Aligned::new((skip + take).next_multiple_of(alignment), alignment);
        let whole = bounce.bytes;
        // Only the first and the last sector can keep old bytes.
        let mut edges = vec![0, whole - alignment];
        edges.dedup();
        for edge in edges {
            let sector = &mut bounce.get()[edge..edge + alignment];
            read_through(files, file, begin + edge as u64, sector)?;
        }
        bounce.get()[skip..skip + take].copy_from_slice(&data[done..done + take]);
        write_through(files, file, begin, bounce.get())?;
        done += take;
    }
    Ok(())
}

/// Makes a range read as zeroes. The caller has checked it.
pub fn punch(files: &dyn Files, file: &OpenFile, offset_bytes: u64, bytes: u64) -> io::Result<()> {
    let end = offset_bytes + bytes;
    // A hole through part of a file system's block would go through the page
    // cache; the edges are written instead.
    let unit = HOLE_BYTES.max(file.alignment as u64);
    let first = offset_bytes.next_multiple_of(unit).min(end);
    // The end of the file is as good as that of a block.
    let last = if end == file.bytes { end } else { (end - end % unit).max(first) };
    write_zeroes(files, file, offset_bytes, first - offset_bytes)?;
    if last > first {
        file.gate.enter();
        let result = files.punch(&file.handle, first, last - first);
        file.gate.leave();
        match mark(file, result) {
            Err(error) if is_unsupported(&error) => write_zeroes(files, file, first, last - first)?,
            other => other?,
        }
    }
    write_zeroes(files, file, last, end - last)
}

fn write_zeroes(files: &dyn Files, file: &OpenFile, offset_bytes: u64, bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; PIECE_BYTES.min(usize::try_from(bytes).unwrap_or(PIECE_BYTES))];
    let mut at = offset_bytes;
    let end = offset_bytes + bytes;
    while at < end {
        let take = (end - at).min(zeroes.len() as u64) as usize;
        write(files, file, at, &zeroes[..take])?;
        at += take as u64;
    }
    Ok(())
}

/// The file system has no such call.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EXDEV))
}
