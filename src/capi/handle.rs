//! What crosses the C boundary: handles, strings, memory, errors.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CStr};

use libc::iovec;

use crate::control::Held;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Device;
use crate::name::SnapshotName;
use crate::sys::iobuf::IoBuf;
use crate::volume::Listed;

/// `archipelago_volume`.
#[derive(Debug)]
pub struct Handle {
    pub held: Held,
}

impl Handle {
    pub fn device(&self) -> &Device {
        self.held.device()
    }
}

/// `archipelago_callback`.
pub type Callback = extern "C" fn(opaque: *mut c_void, result: c_int);

/// The caller's pointer, on its way to its callback.
#[derive(Clone, Copy)]
pub struct Opaque(pub *mut c_void);

// SAFETY: it is handed back as it came and never looked at; the header says
// that callbacks run on other threads.
unsafe impl Send for Opaque {}

/// `archipelago_info`.
#[repr(C)]
#[derive(Debug)]
pub struct Info {
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub own_bytes: u64,
    pub shared_bytes: u64,
    pub request_alignment_bytes: u32,
    pub memory_alignment_bytes: u32,
    pub volume_id: [u8; 16],
    pub read_only: u8,
    pub active: u8,
    pub zero_init: u8,
    pub reserved: [u8; 37],
}

/// `archipelago_snapshot`.
#[repr(C)]
#[derive(Debug)]
pub struct Snapshot {
    pub name: [u8; 129],
    pub pending: u8,
    pub reserved: [u8; 6],
    pub size_bytes: u64,
    pub created_s: u64,
    pub created_ns: u32,
    pub reserved2: u32,
}

impl Snapshot {
    pub fn of(listed: &Listed) -> Snapshot {
        let mut name = [0; 129];
        let text = listed.name.as_str().as_bytes();
        let bytes = text.len().min(name.len() - 1);
        name[..bytes].copy_from_slice(&text[..bytes]);
        Snapshot {
            name,
            pending: u8::from(listed.pending),
            reserved: [0; 6],
            size_bytes: listed.size_bytes,
            created_s: listed.created_s,
            created_ns: listed.created_ns,
            reserved2: 0,
        }
    }
}

pub fn complete(callback: Callback, opaque: Opaque, result: Result<()>) {
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            ::log::debug!("{}", error.full());
            -errno_of_data(&error)
        }
    };
    callback(opaque.0, code);
}

/// A guest's request knows only I/O errors, a full disk and a read-only one.
fn errno_of_data(error: &Error) -> c_int {
    match error.kind() {
        ErrorKind::Denied => libc::EROFS,
        ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Unavailable => libc::EIO,
        kind => kind.errno(),
    }
}

/// Runs `body`; a panic becomes an error.
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(Error::sentence(ErrorKind::Internal, "a fault in libarchipelago: see standard error"))
    })
}

/// Turns a result into a return value, its sentence into the caller's memory.
///
/// # Safety
///
/// `error` is NULL or has room for `error_bytes`.
pub unsafe fn report(result: Result<()>, error: *mut c_char, error_bytes: usize) -> c_int {
    let Err(failure) = result else { return 0 };
    if !error.is_null() && error_bytes > 0 {
        let text = failure.full();
        let mut bytes = text.len().min(error_bytes - 1);
        while !text.is_char_boundary(bytes) {
            bytes -= 1;
        }
        // SAFETY: bytes + 1 <= error_bytes, which the caller promised.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), error.cast(), bytes);
            *error.add(bytes) = 0;
        }
    }
    -failure.kind().errno()
}

/// `report` for calls that write through an open handle: what is denied there
/// is denied because it is read-only.
///
/// # Safety
///
/// As `report`.
pub unsafe fn report_write(result: Result<()>, error: *mut c_char, error_bytes: usize) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { report(result, error, error_bytes) } {
        denied if denied == -libc::EACCES => -libc::EROFS,
        other => other,
    }
}

pub fn check_flags(flags: u32, known: u32) -> Result<()> {
    if flags & !known == 0 {
        return Ok(());
    }
    Err(Error::sentence(
        ErrorKind::Invalid,
        format!("flags {:#x} are not known to this call", flags & !known),
    ))
}

/// A C string as text.
///
/// # Safety
///
/// `text` is NULL or a NUL-terminated string.
unsafe fn text(text: *const c_char) -> Result<String> {
    if text.is_null() {
        return Err(Error::sentence(ErrorKind::Invalid, "a string is NULL"));
    }
    // SAFETY: not NULL, and the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::sentence(ErrorKind::Invalid, format!("{text:?} is not UTF-8"))),
    }
}

/// # Safety
///
/// `name` is NULL or a NUL-terminated string.
pub unsafe fn snapshot_name(name: *const c_char) -> Result<SnapshotName> {
    // SAFETY: the caller's promise.
    SnapshotName::new(&unsafe { text(name) }?)
}

/// The `key=value` list of open and create.
///
/// # Safety
///
/// `options` is NULL or an array of strings that ends with NULL.
pub unsafe fn options(options: *const *const c_char) -> Result<Vec<(String, String)>> {
    let mut list = Vec::new();
    if options.is_null() {
        return Ok(list);
    }
    for at in 0.. {
        // SAFETY: the array ends with NULL, which has not been seen yet.
        let option = unsafe { *options.add(at) };
        if option.is_null() {
            break;
        }
        // SAFETY: the caller's promise about the array's strings.
        let option = unsafe { text(option) }?;
        match option.split_once('=') {
            Some((key, value)) => list.push((key.to_owned(), value.to_owned())),
            None => {
                let message = format!("option '{}' is not of the form key=value", option.escape_debug());
                return Err(Error::sentence(ErrorKind::Invalid, message));
            }
        }
    }
    Ok(list)
}

/// The caller's memory ranges.
///
/// # Safety
///
/// `iov` names `iovcnt` ranges that stay valid for the request.
pub unsafe fn buffers(iov: *const iovec, iovcnt: c_int) -> Result<IoBuf> {
    let count = usize::try_from(iovcnt).unwrap_or(0);
    if iovcnt < 0 || (iov.is_null() && count > 0) {
        return Err(Error::sentence(ErrorKind::Invalid, "a malformed list of buffers"));
    }
    if count == 0 {
        return Ok(IoBuf::alloc(0));
    }
    // SAFETY: not NULL, and the caller promised `iovcnt` entries.
    let list = unsafe { std::slice::from_raw_parts(iov, count) };
    let total = list.iter().try_fold(0usize, |sum, part| sum.checked_add(part.iov_len));
    if total.is_none_or(|total| total > isize::MAX as usize) {
        return Err(Error::sentence(ErrorKind::Invalid, "the buffers are larger than memory"));
    }
    // SAFETY: the caller's promise about the ranges.
    Ok(unsafe { IoBuf::from_raw(list.iter().map(|part| (part.iov_base.cast(), part.iov_len))) })
}

#[cfg(test)]
mod tests {
    use super::{Info, Snapshot};
    use std::mem::{offset_of, size_of};

    // tests/c/layout.c has the same numbers of the header's structures: a
    // field that moves on one side only is read as another.

    #[test]
    fn structures_are_laid_out_as_in_the_header() {
        assert_eq!(size_of::<Info>(), 96);
        assert_eq!(offset_of!(Info, shared_bytes), 24);
        assert_eq!(offset_of!(Info, request_alignment_bytes), 32);
        assert_eq!(offset_of!(Info, memory_alignment_bytes), 36);
        assert_eq!(offset_of!(Info, volume_id), 40);
        assert_eq!(offset_of!(Info, read_only), 56);
        assert_eq!(offset_of!(Info, active), 57);
        assert_eq!(offset_of!(Info, zero_init), 58);
        assert_eq!(offset_of!(Info, reserved), 59);
        assert_eq!(size_of::<Snapshot>(), 160);
        assert_eq!(offset_of!(Snapshot, pending), 129);
        assert_eq!(offset_of!(Snapshot, size_bytes), 136);
        assert_eq!(offset_of!(Snapshot, created_s), 144);
        assert_eq!(offset_of!(Snapshot, created_ns), 152);
        assert_eq!(offset_of!(Snapshot, reserved2), 156);
    }
}
