//! The C interface, `include/archipelago.h`: each exported function is a few
//! lines around `io::Device`. What C hands over is checked in `handle`.
//!
//! A panic never crosses into C: it becomes -EIO and stops the one volume.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

use libc::iovec;

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Operation, Request};
use crate::volume::Mode;

mod control;
mod handle;
mod logger;

#[cfg(feature = "testkit")]
pub use control::{understand, Understood};

use handle::{buffers, complete, guard, report, report_write, Callback, Handle, Info, Opaque};

const READ_ONLY: u32 = 0x01;
const INACTIVE: u32 = 0x02;
const DIRECT: u32 = 0x04;
const FORCE_SHARE: u32 = 0x08;
const NO_FLUSH: u32 = 0x10;
const FUA: u32 = 0x01;
const UNMAP: u32 = 0x02;
const SHRINK: u32 = 0x01;

static VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

/// See the header.
#[no_mangle]
pub extern "C" fn archipelago_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

/// See the header.
///
/// # Safety
///
/// `options` is a NULL-terminated array of strings, `volume` may be written
/// to, `error` has room for `error_bytes`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_open(
    options: *const *const c_char,
    flags: u32,
    volume: *mut *mut Handle,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    let result = guard(|| {
        logger::install();
        if volume.is_null() {
            return Err(Error::new(ErrorKind::Invalid, "open").because("volume is NULL"));
        }
        // SAFETY: the caller's promise about `options`.
        let options = unsafe { handle::options(options) }?;
        let opened = control::open(&options, flags)?;
        // SAFETY: not NULL, and the caller's promise about `volume`.
        unsafe { *volume = Box::into_raw(Box::new(opened)) };
        Ok(())
    });
    // SAFETY: the caller's promise about `error`.
    unsafe { report(result, error, error_bytes) }
}

/// See the header.
///
/// # Safety
///
/// `volume` is NULL or came from `archipelago_open` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn archipelago_close(volume: *mut Handle) {
    if volume.is_null() {
        return;
    }
    // SAFETY: the caller's promise: this is the box made by open, and the
    // last use of it.
    let handle = unsafe { Box::from_raw(volume) };
    let closed = guard(|| handle.held.close());
    if let Err(error) = closed {
        ::log::error!("close: {}", error.full());
    }
}

/// See the header.
///
/// # Safety
///
/// As `archipelago_open`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_create(
    options: *const *const c_char,
    size: u64,
    flags: u32,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    let result = guard(|| {
        handle::check_flags(flags, 0)?;
        // SAFETY: the caller's promise about `options`.
        control::create(&unsafe { handle::options(options) }?, size)
    });
    // SAFETY: the caller's promise about `error`.
    unsafe { report(result, error, error_bytes) }
}

/// See the header.
///
/// # Safety
///
/// As `archipelago_open`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_remove(
    options: *const *const c_char,
    flags: u32,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    let result = guard(|| {
        handle::check_flags(flags, 0)?;
        // SAFETY: the caller's promise about `options`.
        control::remove(&unsafe { handle::options(options) }?)
    });
    // SAFETY: the caller's promise about `error`.
    unsafe { report(result, error, error_bytes) }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle.
#[no_mangle]
pub unsafe extern "C" fn archipelago_size(volume: *mut Handle) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { &*volume }.device().size_bytes()
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle, `info` may be written to.
#[no_mangle]
pub unsafe extern "C" fn archipelago_get_info(volume: *mut Handle, info: *mut Info) -> c_int {
    let result = guard(|| {
        // SAFETY: the caller's promise.
        let filled = control::info(unsafe { &*volume })?;
        // SAFETY: the caller's promise about `info`.
        unsafe { *info = filled };
        Ok(())
    });
    // SAFETY: a NULL buffer is allowed.
    unsafe { report(result, std::ptr::null_mut(), 0) }
}

/// Submits, or completes with the error of `request`.
///
/// # Safety
///
/// `volume` is an open handle.
unsafe fn submit(
    volume: *mut Handle,
    callback: Callback,
    opaque: *mut c_void,
    request: impl FnOnce() -> Result<Request>,
) {
    // SAFETY: the caller's promise.
    let handle = unsafe { &*volume };
    let opaque = Opaque(opaque);
    match request() {
        Ok(request) => {
            handle.device().submit(request, Box::new(move |result| complete(callback, opaque, result)))
        }
        Err(error) => {
            handle.device().fail_later(error, Box::new(move |result| complete(callback, opaque, result)))
        }
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle; the memory of `iov` stays valid until the
/// callback has run.
#[no_mangle]
pub unsafe extern "C" fn archipelago_read_submit(
    volume: *mut Handle,
    offset: u64,
    iov: *const iovec,
    iovcnt: c_int,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promises.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, 0)?;
            Ok(Request { offset_bytes: offset, operation: Operation::Read { buf: buffers(iov, iovcnt)? } })
        });
    }
}

/// See the header.
///
/// # Safety
///
/// As `archipelago_read_submit`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_write_submit(
    volume: *mut Handle,
    offset: u64,
    iov: *const iovec,
    iovcnt: c_int,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promises.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, FUA)?;
            let operation = Operation::Write { buf: buffers(iov, iovcnt)?, fua: flags & FUA != 0 };
            Ok(Request { offset_bytes: offset, operation })
        });
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle.
#[no_mangle]
pub unsafe extern "C" fn archipelago_write_zeroes_submit(
    volume: *mut Handle,
    offset: u64,
    bytes: u64,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promise.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, FUA | UNMAP)?;
            Ok(Request { offset_bytes: offset, operation: Operation::Zero { bytes, fua: flags & FUA != 0 } })
        });
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle.
#[no_mangle]
pub unsafe extern "C" fn archipelago_discard_submit(
    volume: *mut Handle,
    offset: u64,
    bytes: u64,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promise.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, 0)?;
            Ok(Request { offset_bytes: offset, operation: Operation::Zero { bytes, fua: false } })
        });
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle.
#[no_mangle]
pub unsafe extern "C" fn archipelago_flush_submit(
    volume: *mut Handle,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promise.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, 0)?;
            Ok(Request { offset_bytes: 0, operation: Operation::Flush })
        });
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle; `iov` names writable memory.
#[no_mangle]
pub unsafe extern "C" fn archipelago_try_read(
    volume: *mut Handle,
    offset: u64,
    iov: *const iovec,
    iovcnt: c_int,
    flags: u32,
) -> c_int {
    let result = guard(|| {
        handle::check_flags(flags, 0)?;
        // SAFETY: the caller's promise about `iov`.
        let buf = unsafe { buffers(iov, iovcnt) }?;
        // SAFETY: the caller's promise about `volume`.
        match unsafe { &*volume }.device().try_read(offset, &buf) {
            Some(result) => result,
            None => Err(Error::new(ErrorKind::Unavailable, "read without waiting")),
        }
    });
    // SAFETY: a NULL buffer is allowed.
    unsafe { report(result, std::ptr::null_mut(), 0) }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle; `status` and `status_bytes` may be written to.
#[no_mangle]
pub unsafe extern "C" fn archipelago_block_status(
    volume: *mut Handle,
    offset: u64,
    bytes: u64,
    status: *mut c_int,
    status_bytes: *mut u64,
) -> c_int {
    let result = guard(|| {
        // SAFETY: the caller's promise about `volume`.
        let (found, length) = control::status(unsafe { &*volume }, offset, bytes)?;
        // SAFETY: the caller's promise about both.
        unsafe {
            *status = found;
            *status_bytes = length;
        }
        Ok(())
    });
    // SAFETY: a NULL buffer is allowed.
    unsafe { report(result, std::ptr::null_mut(), 0) }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle.
#[no_mangle]
pub unsafe extern "C" fn archipelago_resize_submit(
    volume: *mut Handle,
    size: u64,
    flags: u32,
    callback: Callback,
    opaque: *mut c_void,
) {
    // SAFETY: the caller's promise.
    unsafe {
        submit(volume, callback, opaque, || {
            handle::check_flags(flags, SHRINK)?;
            Ok(Request { offset_bytes: size, operation: Operation::Resize { shrink: flags & SHRINK != 0 } })
        });
    }
}

macro_rules! with_name {
    ($(#[$doc:meta])* $export:ident, $call:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// `volume` is an open handle, `name` a string, `error` has room for
        /// `error_bytes`.
        #[no_mangle]
        pub unsafe extern "C" fn $export(
            volume: *mut Handle,
            name: *const c_char,
            error: *mut c_char,
            error_bytes: usize,
        ) -> c_int {
            let result = guard(|| {
                // SAFETY: the caller's promise about `name`.
                let name = unsafe { handle::snapshot_name(name) }?;
                // SAFETY: the caller's promise about `volume`.
                unsafe { &*volume }.device().$call(&name)
            });
            // SAFETY: the caller's promise about `error`.
            unsafe { report_write(result, error, error_bytes) }
        }
    };
}

with_name!(/// See the header.
    archipelago_snapshot_create, snapshot);
with_name!(/// See the header.
    archipelago_snapshot_rollback, rollback);
with_name!(/// See the header.
    archipelago_snapshot_remove, remove_snapshot);

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle, `list` has room for `count_max` entries,
/// `error` for `error_bytes`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_snapshot_list(
    volume: *mut Handle,
    list: *mut handle::Snapshot,
    count_max: usize,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    let mut count = 0;
    let result = guard(|| {
        // SAFETY: the caller's promise about `volume`.
        let listed = unsafe { &*volume }.device().snapshots()?;
        for (at, snapshot) in listed.iter().enumerate().take(count_max) {
            // SAFETY: `list` has room for count_max entries and at is below.
            unsafe { list.add(at).write(handle::Snapshot::of(snapshot)) };
        }
        count = c_int::try_from(listed.len()).unwrap_or(c_int::MAX);
        Ok(())
    });
    // SAFETY: the caller's promise about `error`.
    match unsafe { report(result, error, error_bytes) } {
        0 => count,
        errno => errno,
    }
}

/// See the header.
///
/// # Safety
///
/// `volume` is an open handle, `error` has room for `error_bytes`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_inactivate(
    volume: *mut Handle,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { report(guard(|| (*volume).held.inactivate()), error, error_bytes) }
}

/// See the header.
///
/// # Safety
///
/// As `archipelago_inactivate`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_activate(
    volume: *mut Handle,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { report(guard(|| (*volume).held.activate()), error, error_bytes) }
}

/// See the header.
///
/// # Safety
///
/// As `archipelago_inactivate`.
#[no_mangle]
pub unsafe extern "C" fn archipelago_set_read_only(
    volume: *mut Handle,
    read_only: c_int,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int {
    // SAFETY: the caller's promises.
    unsafe { report_write(guard(|| (*volume).held.set_read_only(read_only != 0)), error, error_bytes) }
}

/// Where an open handle stands.
fn mode_of(handle: &Handle) -> Mode {
    handle.device().volume().mode()
}
