//! Ceph's own C library, behind calls that safe Rust can make. It is loaded
//! when the first store of its kind is opened: a host without Ceph needs none.
//!
//! What the library says goes wrong is an errno (`Errno`, positive). A call
//! waits as long as the cluster is away; `submit_*` do not wait, and are
//! answered on a thread of the library, which must not call it and wait.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};

use super::iobuf::IoBuf;
use super::librados::{rados_completion_t, rados_ioctx_t, rados_t, rados_write_op_t, Librados};

const LIBRARY: &str = "librados.so.2";

/// LIBRADOS_OPERATION_FULL_TRY: a full pool is an error, not a wait.
pub(super) const FULL_IS_AN_ERROR: libc::c_int = 64;
/// LIBRADOS_CREATE_EXCLUSIVE and _IDEMPOTENT.
const EXCLUSIVE: libc::c_int = 1;
const IDEMPOTENT: libc::c_int = 0;
/// LIBRADOS_CMPXATTR_OP_EQ.
const EQUAL: u8 = 1;

/// What a call answers when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

pub type Answer<T> = Result<T, Errno>;

pub(super) fn answer(result: libc::c_int) -> Answer<usize> {
    usize::try_from(result).map_err(|_| Errno(result.saturating_neg()))
}

fn library() -> Result<&'static Librados, String> {
    static LOADED: OnceLock<Result<Librados, String>> = OnceLock::new();
    let load = || {
        // SAFETY: what loading runs is Ceph's own start-up code, and the table
        // has the types of its header.
        unsafe { Librados::new(LIBRARY) }.map_err(|error| error.to_string())
    };
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// Text for C; a zero byte ends it.
pub(super) fn text(of: impl AsRef<OsStr>) -> CString {
    let bytes = of.as_ref().as_bytes();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Refused {
    /// The library is not there, or lacks something: what the loader says.
    NoLibrary(String),
    /// This step failed.
    At(&'static str, Errno),
}

/// A connection to a cluster.
pub struct Client {
    pub(super) library: &'static Librados,
    cluster: rados_t,
}

// SAFETY: librados takes calls from any thread; the handle is freed once, when
// nobody has it any more.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Connects as `user` ("client.admin"), with a configuration file or the
    /// usual ones. `settings` are set afterwards. Waits for `client_mount_timeout`.
    pub fn connect(conf: Option<&Path>, user: &str, settings: &[(&str, &str)]) -> Result<Client, Refused> {
        let library = library().map_err(Refused::NoLibrary)?;
        let mut cluster = null_mut();
        // SAFETY: both strings live until it returns, which fills `cluster`.
        let made =
            unsafe { library.rados_create2(&mut cluster, text("ceph").as_ptr(), text(user).as_ptr(), 0) };
        answer(made).map_err(|errno| Refused::At("begin", errno))?;
        let client = Client { library, cluster };
        let conf = conf.map(text);
        let path = conf.as_ref().map_or(null(), |path| path.as_ptr());
        // SAFETY: `path` is null or a string that lives.
        let read = unsafe { library.rados_conf_read_file(cluster, path) };
        answer(read).map_err(|errno| Refused::At("read Ceph's configuration", errno))?;
        for (option, value) in settings {
            // SAFETY: both strings live until it returns.
            let set =
                unsafe { library.rados_conf_set(cluster, text(option).as_ptr(), text(value).as_ptr()) };
            answer(set).map_err(|errno| Refused::At("set an option of Ceph", errno))?;
        }
        // SAFETY: the handle is configured. The threads that this starts take no
        // signals, as QEMU expects of a library's.
        let connected = super::signal::with_all_blocked(|| unsafe { library.rados_connect(cluster) });
        answer(connected).map_err(|errno| Refused::At("connect to the cluster", errno))?;
        Ok(client)
    }

    /// Who this connection is to the cluster: what a blocklist names.
    pub fn addresses(&self) -> Answer<String> {
        let mut found = null_mut();
        // SAFETY: on success `found` is a string that must be given back.
        answer(unsafe { self.library.rados_getaddrs(self.cluster, &mut found) })?;
        // SAFETY: as above; it is not used after it has been given back.
        unsafe {
            let addresses = CStr::from_ptr(found).to_string_lossy().into_owned();
            self.library.rados_buffer_free(found);
            Ok(addresses)
        }
    }

    /// From now on the cluster refuses what this client asks for.
    pub fn blocklist(&self, addresses: &str, seconds: u32) -> Answer<()> {
        let mut addresses = text(addresses).into_bytes_with_nul();
        // SAFETY: a string that ends with zero and lives until it returns.
        let done = unsafe {
            self.library.rados_blocklist_add(self.cluster, addresses.as_mut_ptr().cast(), seconds)
        };
        answer(done).map(drop)
    }

    /// Until this client, and whoever it asks, knows of the last blocklisting.
    pub fn wait_for_map(&self) -> Answer<()> {
        // SAFETY: the handle is connected.
        answer(unsafe { self.library.rados_wait_for_latest_osdmap(self.cluster) }).map(drop)
    }

    /// A pool of the cluster, seen through a namespace ("": the first one).
    pub fn pool(self: &Arc<Client>, pool: &str, namespace: &str) -> Answer<Pool> {
        let mut io = null_mut();
        // SAFETY: the string lives until it returns, which fills `io`.
        answer(unsafe { self.library.rados_ioctx_create(self.cluster, text(pool).as_ptr(), &mut io) })?;
        // SAFETY: `io` was just made, and nobody else has it. Calls that take no flags,
        // such as those for locks, would wait for room without the second one.
        unsafe {
            self.library.rados_ioctx_set_namespace(io, text(namespace).as_ptr());
            self.library.rados_set_pool_full_try(io);
        }
        Ok(Pool { client: Arc::clone(self), io })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: every Pool keeps its Client, so that nothing uses it now.
        unsafe { self.library.rados_shutdown(self.cluster) }
    }
}

/// Changes of one object that happen together or not at all.
pub struct WriteOp {
    library: &'static Librados,
    pub(super) op: rados_write_op_t,
}

// SAFETY: it is built by one thread and handed over whole.
unsafe impl Send for WriteOp {}

impl fmt::Debug for WriteOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteOp")
    }
}

impl WriteOp {
    /// The object must be there.
    #[must_use]
    pub fn assert_exists(self) -> WriteOp {
        // SAFETY: the operation is ours and not yet sent; so in all that follow.
        unsafe { self.library.rados_write_op_assert_exists(self.op) };
        self
    }

    #[must_use]
    pub fn create(self, exclusive: bool) -> WriteOp {
        let how = if exclusive { EXCLUSIVE } else { IDEMPOTENT };
        // SAFETY: see `assert_exists`; no category is meant by null.
        unsafe { self.library.rados_write_op_create(self.op, how, null()) };
        self
    }

    #[must_use]
    pub fn truncate(self, bytes: u64) -> WriteOp {
        // SAFETY: see `assert_exists`.
        unsafe { self.library.rados_write_op_truncate(self.op, bytes) };
        self
    }

    /// Not for no bytes: an OSD ends itself at that.
    #[must_use]
    pub fn zero(self, offset_bytes: u64, bytes: u64) -> WriteOp {
        // SAFETY: see `assert_exists`.
        unsafe { self.library.rados_write_op_zero(self.op, offset_bytes, bytes) };
        self
    }

    #[must_use]
    pub fn write(self, offset_bytes: u64, data: &[u8]) -> WriteOp {
        // SAFETY: the bytes are copied before it returns.
        unsafe {
            self.library.rados_write_op_write(self.op, data.as_ptr().cast(), data.len(), offset_bytes);
        }
        self
    }

    #[must_use]
    pub fn write_from(self, offset_bytes: u64, buf: &IoBuf) -> WriteOp {
        let mut at = offset_bytes;
        for part in buf.to_iovecs() {
            // SAFETY: whoever made the IoBuf keeps its memory valid; the bytes
            // are copied before it returns.
            unsafe {
                self.library.rados_write_op_write(self.op, part.iov_base.cast(), part.iov_len, at);
            }
            at += part.iov_len as u64;
        }
        self
    }

    /// How large it will become: what is written early is put where all fits.
    #[must_use]
    pub fn expect_size(self, bytes: u64) -> WriteOp {
        // SAFETY: see `assert_exists`.
        unsafe { self.library.rados_write_op_set_alloc_hint2(self.op, bytes, bytes, 0) };
        self
    }

    /// The key must have this value; nothing: it must not be there.
    #[must_use]
    pub fn value_is(self, key: &str, value: &[u8]) -> WriteOp {
        // SAFETY: key and value are copied before it returns; no place for an
        // answer of its own is meant by null.
        unsafe {
            self.library.rados_write_op_omap_cmp2(
                self.op,
                key.as_ptr().cast(),
                EQUAL,
                value.as_ptr().cast(),
                key.len(),
                value.len(),
                null_mut(),
            );
        }
        self
    }

    #[must_use]
    pub fn set(self, key: &str, value: &[u8]) -> WriteOp {
        let (keys, values) = ([key.as_ptr().cast()], [value.as_ptr().cast()]);
        // SAFETY: one key and one value, which are copied before it returns.
        unsafe {
            self.library.rados_write_op_omap_set2(
                self.op,
                keys.as_ptr(),
                values.as_ptr(),
                &key.len(),
                &value.len(),
                1,
            );
        }
        self
    }

    #[must_use]
    pub fn unset(self, key: &str) -> WriteOp {
        let keys = [key.as_ptr().cast()];
        // SAFETY: one key, which is copied before it returns.
        unsafe { self.library.rados_write_op_omap_rm_keys2(self.op, keys.as_ptr(), &key.len(), 1) };
        self
    }
}

impl Drop for WriteOp {
    fn drop(&mut self) {
        // SAFETY: it is ours, and freed once; what was sent has its own copy.
        unsafe { self.library.rados_release_write_op(self.op) }
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locker {
    pub client: String,
    pub cookie: String,
    pub address: String,
}

/// A namespace of a pool.
pub struct Pool {
    pub(super) client: Arc<Client>,
    pub(super) io: rados_ioctx_t,
}

// SAFETY: librados takes calls on one from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: requests keep the Pool, so that none is under way.
        unsafe { self.client.library.rados_ioctx_destroy(self.io) }
    }
}

/// Gets the answer, on a thread of the library that must not wait for it, and
/// the pool: the last one of a cluster must be dropped on another thread.
pub type Told = Box<dyn FnOnce(Arc<Pool>, Answer<usize>) + Send>;

/// What waits for an answer of the library.
struct Waiting {
    pool: Arc<Pool>,
    told: Told,
}

/// Called by the library once for each request.
unsafe extern "C" fn complete(completion: rados_completion_t, waiting: *mut libc::c_void) {
    // SAFETY: `waiting` is what `submit` made of a Box, and comes back once.
    let Waiting { pool, told } = *unsafe { Box::from_raw(waiting.cast::<Waiting>()) };
    let library = pool.client.library;
    // SAFETY: the request is complete; the completion is not used afterwards.
    let result = unsafe {
        let result = library.rados_aio_get_return_value(completion);
        library.rados_aio_release(completion);
        result
    };
    let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told(pool, answer(result))));
    if called.is_err() {
        log::error!("an answer of Ceph was not taken: its receiver has panicked");
    }
}

impl Pool {
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub fn op(&self) -> WriteOp {
        let library = self.client.library;
        // SAFETY: it has no arguments, and what it gives is freed by Drop.
        WriteOp { library, op: unsafe { library.rados_create_write_op() } }
    }

    /// Errors: ECANCELED if a value is not what it must be; EEXIST; ENOENT.
    pub fn write(&self, object: &str, op: &WriteOp) -> Answer<()> {
        let object = text(object);
        // SAFETY: operation and pool live until it returns.
        let done = unsafe {
            self.client.library.rados_write_op_operate(
                op.op,
                self.io,
                object.as_ptr(),
                null_mut(),
                FULL_IS_AN_ERROR,
            )
        };
        answer(done).map(drop)
    }

    pub fn submit_write(self: &Arc<Pool>, object: &str, op: &WriteOp, told: Told) {
        let object = text(object);
        self.submit(told, |library, completion| {
            // SAFETY: the library copies operation and name before it returns.
            unsafe {
                library.rados_aio_write_op_operate(
                    op.op,
                    self.io,
                    completion,
                    object.as_ptr(),
                    null_mut(),
                    FULL_IS_AN_ERROR,
                )
            }
        });
    }

    fn submit(
        self: &Arc<Pool>,
        told: Told,
        send: impl FnOnce(&Librados, rados_completion_t) -> libc::c_int,
    ) {
        let library = self.client.library;
        let waiting = Box::into_raw(Box::new(Waiting { pool: Arc::clone(self), told }));
        let mut completion = null_mut();
        // SAFETY: `complete` takes what `waiting` is.
        let made = unsafe {
            library.rados_aio_create_completion2(waiting.cast(), Some(complete), &mut completion)
        };
        let sent = if made < 0 { made } else { send(library, completion) };
        if sent < 0 {
            // SAFETY: what is not sent is never answered: the Box is still ours.
            let waiting = unsafe { Box::from_raw(waiting) };
            if made >= 0 {
                // SAFETY: nobody else has it.
                unsafe { library.rados_aio_release(completion) };
            }
            (waiting.told)(waiting.pool, answer(sent));
        }
    }

    /// Shorter only at the object's end.
    pub fn read(&self, object: &str, offset_bytes: u64, data: &mut [u8]) -> Answer<usize> {
        let object = text(object);
        // SAFETY: `data` is as long as said, and lives until it returns.
        let read = unsafe {
            self.client.library.rados_read(
                self.io,
                object.as_ptr(),
                data.as_mut_ptr().cast(),
                data.len(),
                offset_bytes,
            )
        };
        answer(read)
    }

    /// As `read`, into memory that is kept until `told` is called.
    pub fn submit_read(self: &Arc<Pool>, object: &str, offset_bytes: u64, buf: IoBuf, told: Told) {
        let object = text(object);
        let parts = buf.to_iovecs();
        // One range is what the library reads into at once.
        let whole = match parts.as_slice() {
            [_] => buf.clone(),
            _ => IoBuf::alloc(buf.len()),
        };
        let (target, is_scattered) = (whole.to_iovecs(), parts.len() > 1);
        let kept: Told = Box::new(move |pool, result| {
            if let (Ok(bytes), true) = (&result, is_scattered) {
                let mut data = vec![0; *bytes];
                whole.copy_to(0, &mut data);
                buf.copy_from(0, &data);
            }
            drop((whole, buf));
            told(pool, result);
        });
        let Some(target) = target.first().copied() else { return kept(Arc::clone(self), Ok(0)) };
        let (address, bytes) = (target.iov_base, target.iov_len);
        self.submit(kept, |library, completion| {
            // SAFETY: `kept` keeps the memory until the answer; the name is
            // copied before it returns.
            unsafe {
                library.rados_aio_read(
                    self.io,
                    object.as_ptr(),
                    completion,
                    address.cast(),
                    bytes,
                    offset_bytes,
                )
            }
        });
    }

    /// How long an object is.
    pub fn stat(&self, object: &str) -> Answer<u64> {
        let (object, mut bytes, mut changed_s) = (text(object), 0, 0);
        // SAFETY: both places live until it returns.
        let done = unsafe {
            self.client.library.rados_stat(self.io, object.as_ptr(), &mut bytes, &mut changed_s)
        };
        answer(done).map(|_| bytes)
    }

    pub fn remove(&self, object: &str) -> Answer<()> {
        // SAFETY: the string lives until it returns.
        answer(unsafe { self.client.library.rados_remove(self.io, text(object).as_ptr()) }).map(drop)
    }

    /// Calls `visit` with the name of each object, in no order.
    pub fn each(&self, visit: &mut dyn FnMut(&[u8])) -> Answer<()> {
        let library = self.client.library;
        let mut list = null_mut();
        // SAFETY: it fills `list`, which is closed below.
        answer(unsafe { library.rados_nobjects_list_open(self.io, &mut list) })?;
        let result = loop {
            let (mut name, mut bytes) = (null(), 0);
            // SAFETY: a name and its length, which stay valid until the next
            // call; what is not wanted may be null.
            let next = unsafe {
                library.rados_nobjects_list_next2(
                    list,
                    &mut name,
                    null_mut(),
                    null_mut(),
                    &mut bytes,
                    null_mut(),
                    null_mut(),
                )
            };
            match answer(next) {
                Err(Errno(libc::ENOENT)) => break Ok(()),
                Err(errno) => break Err(errno),
                // SAFETY: as above.
                Ok(_) => visit(unsafe { std::slice::from_raw_parts(name.cast::<u8>(), bytes) }),
            }
        };
        // SAFETY: it is not used afterwards.
        unsafe { library.rados_nobjects_list_close(list) };
        result
    }
}
