//! The C interface, called as C would: the functions by their names, with the
//! declarations of include/archipelago.h.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::thread::JoinHandle;

use archipelago::config;
use archipelago::store::open::init_store;
use archipelago::store::Store;
use libc::iovec;

use super::driver::{Answer, Ask, Disk, Driver, Facts, How, Listed, Outcome, Pending, Refusal};
use super::world::BLOCK;

const READ_ONLY: u32 = 0x01;
const INACTIVE: u32 = 0x02;
const FUA: u32 = 0x01;
const UNMAP: u32 = 0x02;
const SHRINK: u32 = 0x01;
const STATUS_ZERO: c_int = 2;
const LISTED_MAX: usize = 64;

#[repr(C)]
struct Info {
    size_bytes: u64,
    block_bytes: u64,
    own_bytes: u64,
    shared_bytes: u64,
    request_alignment_bytes: u32,
    memory_alignment_bytes: u32,
    volume_id: [u8; 16],
    read_only: u8,
    active: u8,
    zero_init: u8,
    reserved: [u8; 37],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Snapshot {
    name: [u8; 129],
    pending: u8,
    reserved: [u8; 6],
    size_bytes: u64,
    created_s: u64,
    created_ns: u32,
    reserved2: u32,
}

type Handle = *mut c_void;
type Callback = extern "C" fn(*mut c_void, c_int);
type Options = *const *const c_char;

extern "C" {
    fn archipelago_open(options: Options, flags: u32, out: *mut Handle, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_close(volume: Handle);
    fn archipelago_create(options: Options, size: u64, flags: u32, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_remove(options: Options, flags: u32, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_size(volume: Handle) -> u64;
    fn archipelago_get_info(volume: Handle, info: *mut Info) -> c_int;
    fn archipelago_read_submit(
        v: Handle,
        at: u64,
        i: *const iovec,
        n: c_int,
        f: u32,
        c: Callback,
        o: *mut c_void,
    );
    fn archipelago_write_submit(
        v: Handle,
        at: u64,
        i: *const iovec,
        n: c_int,
        f: u32,
        c: Callback,
        o: *mut c_void,
    );
    fn archipelago_write_zeroes_submit(v: Handle, at: u64, bytes: u64, f: u32, c: Callback, o: *mut c_void);
    fn archipelago_discard_submit(v: Handle, at: u64, bytes: u64, f: u32, c: Callback, o: *mut c_void);
    fn archipelago_flush_submit(v: Handle, f: u32, c: Callback, o: *mut c_void);
    fn archipelago_resize_submit(v: Handle, size: u64, f: u32, c: Callback, o: *mut c_void);
    fn archipelago_try_read(v: Handle, at: u64, i: *const iovec, n: c_int, f: u32) -> c_int;
    fn archipelago_block_status(v: Handle, at: u64, bytes: u64, status: *mut c_int, found: *mut u64)
        -> c_int;
    fn archipelago_snapshot_create(v: Handle, name: *const c_char, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_snapshot_rollback(v: Handle, name: *const c_char, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_snapshot_remove(v: Handle, name: *const c_char, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_snapshot_list(v: Handle, l: *mut Snapshot, max: usize, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_inactivate(v: Handle, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_activate(v: Handle, e: *mut c_char, n: usize) -> c_int;
    fn archipelago_set_read_only(v: Handle, read_only: c_int, e: *mut c_char, n: usize) -> c_int;
}

fn refusal(errno: c_int, words: &str) -> Refusal {
    match -errno {
        libc::ENOENT => Refusal::Missing,
        libc::EEXIST => Refusal::Taken,
        libc::EBUSY => Refusal::Held,
        libc::EINVAL => Refusal::Mistake,
        libc::EROFS => Refusal::ReadOnly,
        _ => Refusal::Other(format!("errno {errno}: {words}")),
    }
}

/// What a call without a sentence came to.
fn plain(code: c_int) -> Outcome<()> {
    if code < 0 {
        Err(refusal(code, ""))
    } else {
        Ok(())
    }
}

/// Calls with room for a sentence; a refusal must come with one.
fn told(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Outcome<c_int> {
    let mut words = [0u8; 512];
    let code = call(words.as_mut_ptr().cast(), words.len());
    if code >= 0 {
        return Ok(code);
    }
    let end = words.iter().position(|byte| *byte == 0).unwrap_or(words.len());
    let text = String::from_utf8_lossy(&words[..end]).into_owned();
    assert!(!text.is_empty(), "errno {code} without a sentence");
    Err(refusal(code, &text))
}

fn c_text(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// `key=value` strings and the array that names them.
struct OptionList {
    texts: Vec<CString>,
}

impl OptionList {
    fn with<T>(&self, call: impl FnOnce(Options) -> T) -> T {
        let mut list: Vec<*const c_char> = self.texts.iter().map(|text| text.as_ptr()).collect();
        list.push(std::ptr::null());
        call(list.as_ptr())
    }
}

pub struct Foreign {
    store: Store,
    config: PathBuf,
}

impl Foreign {
    pub fn on_memory(folder: &Path) -> Foreign {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("memory:model-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Foreign::on(folder, &name)
    }

    pub fn on_dir(folder: &Path) -> Foreign {
        Foreign::on(folder, &format!("dir:{}", folder.join("store").display()))
    }

    pub fn on(folder: &Path, url: &str) -> Foreign {
        let path = folder.join("archipelago.toml");
        let text = format!("[stores.main]\nurl = '{url}'\nblock_size = {BLOCK}\nlog_limit = '16M'\n");
        std::fs::write(&path, text).unwrap();
        let config = config::load(Some(&path)).unwrap();
        // Another backend value than the one that the calls below share, as
        // another process has it.
        let store = init_store(&config, None, None).unwrap();
        Foreign { store, config: path }
    }

    fn options(&self, volume: &str, more: Option<String>) -> OptionList {
        let config = format!("config={}", self.config.display());
        let all = [Some(format!("volume={volume}")), Some(config), more];
        OptionList { texts: all.into_iter().flatten().map(|text| c_text(&text)).collect() }
    }

    fn make(&self, options: &OptionList, size_bytes: u64) -> Outcome<()> {
        // SAFETY: the options end with NULL, the sentence has its room.
        options.with(|list| told(|e, n| unsafe { archipelago_create(list, size_bytes, 0, e, n) })).map(drop)
    }
}

impl Driver for Foreign {
    fn store(&self) -> &Store {
        &self.store
    }

    fn create(&self, name: &str, size_bytes: u64) -> Outcome<()> {
        self.make(&self.options(name, None), size_bytes)
    }

    fn clone_of(&self, volume: &str, snapshot: &str, to: &str, size_bytes: u64) -> Outcome<()> {
        self.make(&self.options(to, Some(format!("from={volume}@{snapshot}"))), size_bytes)
    }

    fn remove(&self, name: &str) -> Outcome<()> {
        let options = self.options(name, None);
        // SAFETY: as in `make`.
        options.with(|list| told(|e, n| unsafe { archipelago_remove(list, 0, e, n) })).map(drop)
    }

    fn open(&self, name: &str, snapshot: Option<&str>, how: How) -> Outcome<Box<dyn Disk>> {
        let options = self.options(name, snapshot.map(|snapshot| format!("snapshot={snapshot}")));
        let flags = match how {
            How::Writable => 0,
            How::ReadOnly => READ_ONLY,
            How::Inactive => INACTIVE,
        };
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: as in `make`, and `handle` may be written to.
        options.with(|list| told(|e, n| unsafe { archipelago_open(list, flags, &mut handle, e, n) }))?;
        Ok(Box::new(ForeignDisk(handle)))
    }
}

struct ForeignDisk(Handle);

/// What a callback is given: the memory of the request, kept until then.
struct InFlight {
    data: Vec<u8>,
    answer: Sender<Answer>,
}

extern "C" fn done(opaque: *mut c_void, code: c_int) {
    // SAFETY: made by `Box::into_raw` for this one callback.
    let InFlight { data, answer } = *unsafe { Box::from_raw(opaque.cast::<InFlight>()) };
    // Whoever waited has given up if nobody takes it.
    drop(answer.send(Answer { result: plain(code), data }));
}

/// The memory in three ranges of different lengths.
fn ranges(data: &mut [u8]) -> Vec<iovec> {
    let (first, rest) = data.split_at_mut(data.len() / 3);
    let (second, third) = rest.split_at_mut(rest.len() / 4);
    let all = [first, second, third].into_iter().filter(|part| !part.is_empty());
    all.map(|part| iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() }).collect()
}

impl ForeignDisk {
    fn named(
        &self,
        call: unsafe extern "C" fn(Handle, *const c_char, *mut c_char, usize) -> c_int,
        name: &str,
    ) -> Outcome<()> {
        let name = c_text(name);
        // SAFETY: an open handle, a string, the sentence's room.
        told(|e, n| unsafe { call(self.0, name.as_ptr(), e, n) }).map(drop)
    }
}

impl Disk for ForeignDisk {
    fn submit(&self, offset_bytes: u64, ask: Ask) -> Pending {
        let (answer, receiver) = channel();
        let data = match &ask {
            Ask::Read { bytes } => vec![0xEE; *bytes as usize],
            Ask::Write { data, .. } => data.clone(),
            _ => Vec::new(),
        };
        let mut request = Box::new(InFlight { data, answer });
        let iov = ranges(&mut request.data);
        let count = iov.len() as c_int;
        let opaque: *mut c_void = Box::into_raw(request).cast();
        // SAFETY: an open handle; `iov` names memory that `opaque` keeps until
        // its callback.
        unsafe {
            match ask {
                Ask::Read { .. } => {
                    archipelago_read_submit(self.0, offset_bytes, iov.as_ptr(), count, 0, done, opaque);
                }
                Ask::Write { fua, .. } => {
                    let flags = if fua { FUA } else { 0 };
                    archipelago_write_submit(self.0, offset_bytes, iov.as_ptr(), count, flags, done, opaque);
                }
                Ask::Zero { bytes, fua } => {
                    let flags = if fua { FUA } else { UNMAP };
                    archipelago_write_zeroes_submit(self.0, offset_bytes, bytes, flags, done, opaque);
                }
                Ask::Discard { bytes } => {
                    archipelago_discard_submit(self.0, offset_bytes, bytes, 0, done, opaque);
                }
                Ask::Flush => archipelago_flush_submit(self.0, 0, done, opaque),
                Ask::Resize { shrink } => {
                    let flags = if shrink { SHRINK } else { 0 };
                    archipelago_resize_submit(self.0, offset_bytes, flags, done, opaque);
                }
            }
        }
        Pending(receiver)
    }

    fn try_read(&self, offset_bytes: u64, bytes: u64) -> Option<Answer> {
        let mut data = vec![0xEE; bytes as usize];
        let iov = ranges(&mut data);
        // SAFETY: an open handle; `iov` names memory that may be written to.
        let code = unsafe { archipelago_try_read(self.0, offset_bytes, iov.as_ptr(), iov.len() as c_int, 0) };
        (code != -libc::EAGAIN).then(|| Answer { result: plain(code), data })
    }

    fn status(&self, offset_bytes: u64, bytes: u64) -> Outcome<(bool, u64)> {
        let (mut status, mut found) = (0, 0);
        // SAFETY: an open handle; both may be written to.
        plain(unsafe { archipelago_block_status(self.0, offset_bytes, bytes, &mut status, &mut found) })?;
        Ok((status == STATUS_ZERO, found))
    }

    fn facts(&self) -> Outcome<Facts> {
        let mut info = std::mem::MaybeUninit::<Info>::zeroed();
        // SAFETY: an open handle; there is room for the structure.
        plain(unsafe { archipelago_get_info(self.0, info.as_mut_ptr()) })?;
        // SAFETY: plain numbers, zeroed and then filled.
        let (info, size_bytes) = unsafe { (info.assume_init(), archipelago_size(self.0)) };
        assert_eq!(info.size_bytes, size_bytes, "archipelago_size and the info");
        Ok(Facts {
            size_bytes,
            block_bytes: info.block_bytes,
            read_only: info.read_only == 1,
            active: info.active == 1,
            zero_init: info.zero_init == 1,
        })
    }

    fn snapshot(&self, name: &str) -> Outcome<()> {
        self.named(archipelago_snapshot_create, name)
    }

    fn rollback(&self, name: &str) -> Outcome<()> {
        self.named(archipelago_snapshot_rollback, name)
    }

    fn remove_snapshot(&self, name: &str) -> Outcome<()> {
        self.named(archipelago_snapshot_remove, name)
    }

    fn snapshots(&self) -> Outcome<Vec<Listed>> {
        // SAFETY: plain numbers.
        let mut list = [unsafe { std::mem::zeroed::<Snapshot>() }; LISTED_MAX];
        // SAFETY: an open handle, room for LISTED_MAX and for the sentence.
        let count =
            told(|e, n| unsafe { archipelago_snapshot_list(self.0, list.as_mut_ptr(), LISTED_MAX, e, n) })?;
        let text = |name: &[u8]| {
            let end = name.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(name[..end].to_vec()).unwrap()
        };
        Ok(list[..count as usize].iter().map(|found| (text(&found.name), found.size_bytes)).collect())
    }

    fn inactivate(&self) -> Outcome<()> {
        // SAFETY: an open handle, the sentence's room.
        told(|e, n| unsafe { archipelago_inactivate(self.0, e, n) }).map(drop)
    }

    fn activate(&self) -> Outcome<()> {
        // SAFETY: as above.
        told(|e, n| unsafe { archipelago_activate(self.0, e, n) }).map(drop)
    }

    fn set_read_only(&self, read_only: bool) -> Outcome<()> {
        // SAFETY: as above.
        told(|e, n| unsafe { archipelago_set_read_only(self.0, c_int::from(read_only), e, n) }).map(drop)
    }

    fn work(&self, _which: u8) -> Outcome<()> {
        Ok(())
    }

    fn begin_work(&self, _which: u8) -> Option<JoinHandle<Outcome<()>>> {
        None
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        // SAFETY: the last use of the handle.
        unsafe { archipelago_close(self.0) };
        Ok(())
    }
}
