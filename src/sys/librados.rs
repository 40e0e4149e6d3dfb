// Written by tests/bindings from Ceph's librados.h (LGPL-2.1; declarations only).
// Do not change it by hand: change the list of functions there.
pub type __time_t = libc::c_long;
pub type __suseconds_t = libc::c_long;
pub type time_t = __time_t;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct timeval {
    pub tv_sec: __time_t,
    pub tv_usec: __suseconds_t,
}
pub type rados_t = *mut libc::c_void;
pub type rados_ioctx_t = *mut libc::c_void;
pub type rados_list_ctx_t = *mut libc::c_void;
pub type rados_omap_iter_t = *mut libc::c_void;
pub type rados_write_op_t = *mut libc::c_void;
pub type rados_read_op_t = *mut libc::c_void;
pub type rados_completion_t = *mut libc::c_void;
pub type rados_callback_t =
    ::std::option::Option<unsafe extern "C" fn(cb: rados_completion_t, arg: *mut libc::c_void)>;
pub struct Librados {
    __library: ::libloading::Library,
    pub rados_create2: unsafe extern "C" fn(
        pcluster: *mut rados_t,
        clustername: *const libc::c_char,
        name: *const libc::c_char,
        flags: u64,
    ) -> libc::c_int,
    pub rados_connect: unsafe extern "C" fn(cluster: rados_t) -> libc::c_int,
    pub rados_shutdown: unsafe extern "C" fn(cluster: rados_t),
    pub rados_conf_read_file:
        unsafe extern "C" fn(cluster: rados_t, path: *const libc::c_char) -> libc::c_int,
    pub rados_conf_set: unsafe extern "C" fn(
        cluster: rados_t,
        option: *const libc::c_char,
        value: *const libc::c_char,
    ) -> libc::c_int,
    pub rados_wait_for_latest_osdmap: unsafe extern "C" fn(cluster: rados_t) -> libc::c_int,
    pub rados_ioctx_create: unsafe extern "C" fn(
        cluster: rados_t,
        pool_name: *const libc::c_char,
        ioctx: *mut rados_ioctx_t,
    ) -> libc::c_int,
    pub rados_ioctx_destroy: unsafe extern "C" fn(io: rados_ioctx_t),
    pub rados_ioctx_set_namespace: unsafe extern "C" fn(io: rados_ioctx_t, nspace: *const libc::c_char),
    pub rados_nobjects_list_open:
        unsafe extern "C" fn(io: rados_ioctx_t, ctx: *mut rados_list_ctx_t) -> libc::c_int,
    pub rados_nobjects_list_next2: unsafe extern "C" fn(
        ctx: rados_list_ctx_t,
        entry: *mut *const libc::c_char,
        key: *mut *const libc::c_char,
        nspace: *mut *const libc::c_char,
        entry_size: *mut usize,
        key_size: *mut usize,
        nspace_size: *mut usize,
    ) -> libc::c_int,
    pub rados_nobjects_list_close: unsafe extern "C" fn(ctx: rados_list_ctx_t),
    pub rados_read: unsafe extern "C" fn(
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        buf: *mut libc::c_char,
        len: usize,
        off: u64,
    ) -> libc::c_int,
    pub rados_remove: unsafe extern "C" fn(io: rados_ioctx_t, oid: *const libc::c_char) -> libc::c_int,
    pub rados_omap_get_next2: unsafe extern "C" fn(
        iter: rados_omap_iter_t,
        key: *mut *mut libc::c_char,
        val: *mut *mut libc::c_char,
        key_len: *mut usize,
        val_len: *mut usize,
    ) -> libc::c_int,
    pub rados_omap_get_end: unsafe extern "C" fn(iter: rados_omap_iter_t),
    pub rados_stat: unsafe extern "C" fn(
        io: rados_ioctx_t,
        o: *const libc::c_char,
        psize: *mut u64,
        pmtime: *mut time_t,
    ) -> libc::c_int,
    pub rados_aio_create_completion2: unsafe extern "C" fn(
        cb_arg: *mut libc::c_void,
        cb_complete: rados_callback_t,
        pc: *mut rados_completion_t,
    ) -> libc::c_int,
    pub rados_aio_wait_for_complete: unsafe extern "C" fn(c: rados_completion_t) -> libc::c_int,
    pub rados_aio_get_return_value: unsafe extern "C" fn(c: rados_completion_t) -> libc::c_int,
    pub rados_aio_release: unsafe extern "C" fn(c: rados_completion_t),
    pub rados_aio_read: unsafe extern "C" fn(
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        completion: rados_completion_t,
        buf: *mut libc::c_char,
        len: usize,
        off: u64,
    ) -> libc::c_int,
    pub rados_create_write_op: unsafe extern "C" fn() -> rados_write_op_t,
    pub rados_release_write_op: unsafe extern "C" fn(write_op: rados_write_op_t),
    pub rados_write_op_assert_exists: unsafe extern "C" fn(write_op: rados_write_op_t),
    pub rados_write_op_omap_cmp2: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        key: *const libc::c_char,
        comparison_operator: u8,
        val: *const libc::c_char,
        key_len: usize,
        val_len: usize,
        prval: *mut libc::c_int,
    ),
    pub rados_write_op_create: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        exclusive: libc::c_int,
        category: *const libc::c_char,
    ),
    pub rados_write_op_write: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        buffer: *const libc::c_char,
        len: usize,
        offset: u64,
    ),
    pub rados_write_op_truncate: unsafe extern "C" fn(write_op: rados_write_op_t, offset: u64),
    pub rados_write_op_zero: unsafe extern "C" fn(write_op: rados_write_op_t, offset: u64, len: u64),
    pub rados_write_op_omap_set2: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        keys: *const *const libc::c_char,
        vals: *const *const libc::c_char,
        key_lens: *const usize,
        val_lens: *const usize,
        num: usize,
    ),
    pub rados_write_op_omap_rm_keys2: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        keys: *const *const libc::c_char,
        key_lens: *const usize,
        keys_len: usize,
    ),
    pub rados_write_op_set_alloc_hint2: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        expected_object_size: u64,
        expected_write_size: u64,
        flags: u32,
    ),
    pub rados_write_op_operate: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        mtime: *mut time_t,
        flags: libc::c_int,
    ) -> libc::c_int,
    pub rados_aio_write_op_operate: unsafe extern "C" fn(
        write_op: rados_write_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        oid: *const libc::c_char,
        mtime: *mut time_t,
        flags: libc::c_int,
    ) -> libc::c_int,
    pub rados_create_read_op: unsafe extern "C" fn() -> rados_read_op_t,
    pub rados_release_read_op: unsafe extern "C" fn(read_op: rados_read_op_t),
    pub rados_read_op_omap_get_vals2: unsafe extern "C" fn(
        read_op: rados_read_op_t,
        start_after: *const libc::c_char,
        filter_prefix: *const libc::c_char,
        max_return: u64,
        iter: *mut rados_omap_iter_t,
        pmore: *mut libc::c_uchar,
        prval: *mut libc::c_int,
    ),
    pub rados_read_op_omap_get_vals_by_keys2: unsafe extern "C" fn(
        read_op: rados_read_op_t,
        keys: *const *const libc::c_char,
        num_keys: usize,
        key_lens: *const usize,
        iter: *mut rados_omap_iter_t,
        prval: *mut libc::c_int,
    ),
    pub rados_read_op_operate: unsafe extern "C" fn(
        read_op: rados_read_op_t,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        flags: libc::c_int,
    ) -> libc::c_int,
    pub rados_aio_read_op_operate: unsafe extern "C" fn(
        read_op: rados_read_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        oid: *const libc::c_char,
        flags: libc::c_int,
    ) -> libc::c_int,
    pub rados_lock_exclusive: unsafe extern "C" fn(
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
        desc: *const libc::c_char,
        duration: *mut timeval,
        flags: u8,
    ) -> libc::c_int,
    pub rados_lock_shared: unsafe extern "C" fn(
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
        tag: *const libc::c_char,
        desc: *const libc::c_char,
        duration: *mut timeval,
        flags: u8,
    ) -> libc::c_int,
    pub rados_unlock: unsafe extern "C" fn(
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
    ) -> libc::c_int,
    pub rados_list_lockers: unsafe extern "C" fn(
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        exclusive: *mut libc::c_int,
        tag: *mut libc::c_char,
        tag_len: *mut usize,
        clients: *mut libc::c_char,
        clients_len: *mut usize,
        cookies: *mut libc::c_char,
        cookies_len: *mut usize,
        addrs: *mut libc::c_char,
        addrs_len: *mut usize,
    ) -> isize,
    pub rados_break_lock: unsafe extern "C" fn(
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        client: *const libc::c_char,
        cookie: *const libc::c_char,
    ) -> libc::c_int,
    pub rados_blocklist_add: unsafe extern "C" fn(
        cluster: rados_t,
        client_address: *mut libc::c_char,
        expire_seconds: u32,
    ) -> libc::c_int,
    pub rados_getaddrs: unsafe extern "C" fn(cluster: rados_t, addrs: *mut *mut libc::c_char) -> libc::c_int,
    pub rados_set_pool_full_try: unsafe extern "C" fn(io: rados_ioctx_t),
    pub rados_buffer_free: unsafe extern "C" fn(buf: *mut libc::c_char),
}
impl Librados {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let library = ::libloading::Library::new(path)?;
        Self::from_library(library)
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let rados_create2 = __library.get(b"rados_create2\0").map(|sym| *sym)?;
        let rados_connect = __library.get(b"rados_connect\0").map(|sym| *sym)?;
        let rados_shutdown = __library.get(b"rados_shutdown\0").map(|sym| *sym)?;
        let rados_conf_read_file = __library.get(b"rados_conf_read_file\0").map(|sym| *sym)?;
        let rados_conf_set = __library.get(b"rados_conf_set\0").map(|sym| *sym)?;
        let rados_wait_for_latest_osdmap =
            __library.get(b"rados_wait_for_latest_osdmap\0").map(|sym| *sym)?;
        let rados_ioctx_create = __library.get(b"rados_ioctx_create\0").map(|sym| *sym)?;
        let rados_ioctx_destroy = __library.get(b"rados_ioctx_destroy\0").map(|sym| *sym)?;
        let rados_ioctx_set_namespace = __library.get(b"rados_ioctx_set_namespace\0").map(|sym| *sym)?;
        let rados_nobjects_list_open = __library.get(b"rados_nobjects_list_open\0").map(|sym| *sym)?;
        let rados_nobjects_list_next2 = __library.get(b"rados_nobjects_list_next2\0").map(|sym| *sym)?;
        let rados_nobjects_list_close = __library.get(b"rados_nobjects_list_close\0").map(|sym| *sym)?;
        let rados_read = __library.get(b"rados_read\0").map(|sym| *sym)?;
        let rados_remove = __library.get(b"rados_remove\0").map(|sym| *sym)?;
        let rados_omap_get_next2 = __library.get(b"rados_omap_get_next2\0").map(|sym| *sym)?;
        let rados_omap_get_end = __library.get(b"rados_omap_get_end\0").map(|sym| *sym)?;
        let rados_stat = __library.get(b"rados_stat\0").map(|sym| *sym)?;
        let rados_aio_create_completion2 =
            __library.get(b"rados_aio_create_completion2\0").map(|sym| *sym)?;
        let rados_aio_wait_for_complete = __library.get(b"rados_aio_wait_for_complete\0").map(|sym| *sym)?;
        let rados_aio_get_return_value = __library.get(b"rados_aio_get_return_value\0").map(|sym| *sym)?;
        let rados_aio_release = __library.get(b"rados_aio_release\0").map(|sym| *sym)?;
        let rados_aio_read = __library.get(b"rados_aio_read\0").map(|sym| *sym)?;
        let rados_create_write_op = __library.get(b"rados_create_write_op\0").map(|sym| *sym)?;
        let rados_release_write_op = __library.get(b"rados_release_write_op\0").map(|sym| *sym)?;
        let rados_write_op_assert_exists =
            __library.get(b"rados_write_op_assert_exists\0").map(|sym| *sym)?;
        let rados_write_op_omap_cmp2 = __library.get(b"rados_write_op_omap_cmp2\0").map(|sym| *sym)?;
        let rados_write_op_create = __library.get(b"rados_write_op_create\0").map(|sym| *sym)?;
        let rados_write_op_write = __library.get(b"rados_write_op_write\0").map(|sym| *sym)?;
        let rados_write_op_truncate = __library.get(b"rados_write_op_truncate\0").map(|sym| *sym)?;
        let rados_write_op_zero = __library.get(b"rados_write_op_zero\0").map(|sym| *sym)?;
        let rados_write_op_omap_set2 = __library.get(b"rados_write_op_omap_set2\0").map(|sym| *sym)?;
        let rados_write_op_omap_rm_keys2 =
            __library.get(b"rados_write_op_omap_rm_keys2\0").map(|sym| *sym)?;
        let rados_write_op_set_alloc_hint2 =
            __library.get(b"rados_write_op_set_alloc_hint2\0").map(|sym| *sym)?;
        let rados_write_op_operate = __library.get(b"rados_write_op_operate\0").map(|sym| *sym)?;
        let rados_aio_write_op_operate = __library.get(b"rados_aio_write_op_operate\0").map(|sym| *sym)?;
        let rados_create_read_op = __library.get(b"rados_create_read_op\0").map(|sym| *sym)?;
        let rados_release_read_op = __library.get(b"rados_release_read_op\0").map(|sym| *sym)?;
        let rados_read_op_omap_get_vals2 =
            __library.get(b"rados_read_op_omap_get_vals2\0").map(|sym| *sym)?;
        let rados_read_op_omap_get_vals_by_keys2 =
            __library.get(b"rados_read_op_omap_get_vals_by_keys2\0").map(|sym| *sym)?;
        let rados_read_op_operate = __library.get(b"rados_read_op_operate\0").map(|sym| *sym)?;
        let rados_aio_read_op_operate = __library.get(b"rados_aio_read_op_operate\0").map(|sym| *sym)?;
        let rados_lock_exclusive = __library.get(b"rados_lock_exclusive\0").map(|sym| *sym)?;
        let rados_lock_shared = __library.get(b"rados_lock_shared\0").map(|sym| *sym)?;
        let rados_unlock = __library.get(b"rados_unlock\0").map(|sym| *sym)?;
        let rados_list_lockers = __library.get(b"rados_list_lockers\0").map(|sym| *sym)?;
        let rados_break_lock = __library.get(b"rados_break_lock\0").map(|sym| *sym)?;
        let rados_blocklist_add = __library.get(b"rados_blocklist_add\0").map(|sym| *sym)?;
        let rados_getaddrs = __library.get(b"rados_getaddrs\0").map(|sym| *sym)?;
        let rados_set_pool_full_try = __library.get(b"rados_set_pool_full_try\0").map(|sym| *sym)?;
        let rados_buffer_free = __library.get(b"rados_buffer_free\0").map(|sym| *sym)?;
        Ok(Librados {
            __library,
            rados_create2,
            rados_connect,
            rados_shutdown,
            rados_conf_read_file,
            rados_conf_set,
            rados_wait_for_latest_osdmap,
            rados_ioctx_create,
            rados_ioctx_destroy,
            rados_ioctx_set_namespace,
            rados_nobjects_list_open,
            rados_nobjects_list_next2,
            rados_nobjects_list_close,
            rados_read,
            rados_remove,
            rados_omap_get_next2,
            rados_omap_get_end,
            rados_stat,
            rados_aio_create_completion2,
            rados_aio_wait_for_complete,
            rados_aio_get_return_value,
            rados_aio_release,
            rados_aio_read,
            rados_create_write_op,
            rados_release_write_op,
            rados_write_op_assert_exists,
            rados_write_op_omap_cmp2,
            rados_write_op_create,
            rados_write_op_write,
            rados_write_op_truncate,
            rados_write_op_zero,
            rados_write_op_omap_set2,
            rados_write_op_omap_rm_keys2,
            rados_write_op_set_alloc_hint2,
            rados_write_op_operate,
            rados_aio_write_op_operate,
            rados_create_read_op,
            rados_release_read_op,
            rados_read_op_omap_get_vals2,
            rados_read_op_omap_get_vals_by_keys2,
            rados_read_op_operate,
            rados_aio_read_op_operate,
            rados_lock_exclusive,
            rados_lock_shared,
            rados_unlock,
            rados_list_lockers,
            rados_break_lock,
            rados_blocklist_add,
            rados_getaddrs,
            rados_set_pool_full_try,
            rados_buffer_free,
        })
    }
    pub unsafe fn rados_create2(
        &self,
        pcluster: *mut rados_t,
        clustername: *const libc::c_char,
        name: *const libc::c_char,
        flags: u64,
    ) -> libc::c_int {
        (self.rados_create2)(pcluster, clustername, name, flags)
    }
    pub unsafe fn rados_connect(&self, cluster: rados_t) -> libc::c_int {
        (self.rados_connect)(cluster)
    }
    pub unsafe fn rados_shutdown(&self, cluster: rados_t) {
        (self.rados_shutdown)(cluster)
    }
    pub unsafe fn rados_conf_read_file(&self, cluster: rados_t, path: *const libc::c_char) -> libc::c_int {
        (self.rados_conf_read_file)(cluster, path)
    }
    pub unsafe fn rados_conf_set(
        &self,
        cluster: rados_t,
        option: *const libc::c_char,
        value: *const libc::c_char,
    ) -> libc::c_int {
        (self.rados_conf_set)(cluster, option, value)
    }
    pub unsafe fn rados_wait_for_latest_osdmap(&self, cluster: rados_t) -> libc::c_int {
        (self.rados_wait_for_latest_osdmap)(cluster)
    }
    pub unsafe fn rados_ioctx_create(
        &self,
        cluster: rados_t,
        pool_name: *const libc::c_char,
        ioctx: *mut rados_ioctx_t,
    ) -> libc::c_int {
        (self.rados_ioctx_create)(cluster, pool_name, ioctx)
    }
    pub unsafe fn rados_ioctx_destroy(&self, io: rados_ioctx_t) {
        (self.rados_ioctx_destroy)(io)
    }
    pub unsafe fn rados_ioctx_set_namespace(&self, io: rados_ioctx_t, nspace: *const libc::c_char) {
        (self.rados_ioctx_set_namespace)(io, nspace)
    }
    pub unsafe fn rados_nobjects_list_open(
        &self,
        io: rados_ioctx_t,
        ctx: *mut rados_list_ctx_t,
    ) -> libc::c_int {
        (self.rados_nobjects_list_open)(io, ctx)
    }
    pub unsafe fn rados_nobjects_list_next2(
        &self,
        ctx: rados_list_ctx_t,
        entry: *mut *const libc::c_char,
        key: *mut *const libc::c_char,
        nspace: *mut *const libc::c_char,
        entry_size: *mut usize,
        key_size: *mut usize,
        nspace_size: *mut usize,
    ) -> libc::c_int {
        (self.rados_nobjects_list_next2)(ctx, entry, key, nspace, entry_size, key_size, nspace_size)
    }
    pub unsafe fn rados_nobjects_list_close(&self, ctx: rados_list_ctx_t) {
        (self.rados_nobjects_list_close)(ctx)
    }
    pub unsafe fn rados_read(
        &self,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        buf: *mut libc::c_char,
        len: usize,
        off: u64,
    ) -> libc::c_int {
        (self.rados_read)(io, oid, buf, len, off)
    }
    pub unsafe fn rados_remove(&self, io: rados_ioctx_t, oid: *const libc::c_char) -> libc::c_int {
        (self.rados_remove)(io, oid)
    }
    pub unsafe fn rados_omap_get_next2(
        &self,
        iter: rados_omap_iter_t,
        key: *mut *mut libc::c_char,
        val: *mut *mut libc::c_char,
        key_len: *mut usize,
        val_len: *mut usize,
    ) -> libc::c_int {
        (self.rados_omap_get_next2)(iter, key, val, key_len, val_len)
    }
    pub unsafe fn rados_omap_get_end(&self, iter: rados_omap_iter_t) {
        (self.rados_omap_get_end)(iter)
    }
    pub unsafe fn rados_stat(
        &self,
        io: rados_ioctx_t,
        o: *const libc::c_char,
        psize: *mut u64,
        pmtime: *mut time_t,
    ) -> libc::c_int {
        (self.rados_stat)(io, o, psize, pmtime)
    }
    pub unsafe fn rados_aio_create_completion2(
        &self,
        cb_arg: *mut libc::c_void,
        cb_complete: rados_callback_t,
        pc: *mut rados_completion_t,
    ) -> libc::c_int {
        (self.rados_aio_create_completion2)(cb_arg, cb_complete, pc)
    }
    pub unsafe fn rados_aio_wait_for_complete(&self, c: rados_completion_t) -> libc::c_int {
        (self.rados_aio_wait_for_complete)(c)
    }
    pub unsafe fn rados_aio_get_return_value(&self, c: rados_completion_t) -> libc::c_int {
        (self.rados_aio_get_return_value)(c)
    }
    pub unsafe fn rados_aio_release(&self, c: rados_completion_t) {
        (self.rados_aio_release)(c)
    }
    pub unsafe fn rados_aio_read(
        &self,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        completion: rados_completion_t,
        buf: *mut libc::c_char,
        len: usize,
        off: u64,
    ) -> libc::c_int {
        (self.rados_aio_read)(io, oid, completion, buf, len, off)
    }
    pub unsafe fn rados_create_write_op(&self) -> rados_write_op_t {
        (self.rados_create_write_op)()
    }
    pub unsafe fn rados_release_write_op(&self, write_op: rados_write_op_t) {
        (self.rados_release_write_op)(write_op)
    }
    pub unsafe fn rados_write_op_assert_exists(&self, write_op: rados_write_op_t) {
        (self.rados_write_op_assert_exists)(write_op)
    }
    pub unsafe fn rados_write_op_omap_cmp2(
        &self,
        write_op: rados_write_op_t,
        key: *const libc::c_char,
        comparison_operator: u8,
        val: *const libc::c_char,
        key_len: usize,
        val_len: usize,
        prval: *mut libc::c_int,
    ) {
        (self.rados_write_op_omap_cmp2)(write_op, key, comparison_operator, val, key_len, val_len, prval)
    }
    pub unsafe fn rados_write_op_create(
        &self,
        write_op: rados_write_op_t,
        exclusive: libc::c_int,
        category: *const libc::c_char,
    ) {
        (self.rados_write_op_create)(write_op, exclusive, category)
    }
    pub unsafe fn rados_write_op_write(
        &self,
        write_op: rados_write_op_t,
        buffer: *const libc::c_char,
        len: usize,
        offset: u64,
    ) {
        (self.rados_write_op_write)(write_op, buffer, len, offset)
    }
    pub unsafe fn rados_write_op_truncate(&self, write_op: rados_write_op_t, offset: u64) {
        (self.rados_write_op_truncate)(write_op, offset)
    }
    pub unsafe fn rados_write_op_zero(&self, write_op: rados_write_op_t, offset: u64, len: u64) {
        (self.rados_write_op_zero)(write_op, offset, len)
    }
    pub unsafe fn rados_write_op_omap_set2(
        &self,
        write_op: rados_write_op_t,
        keys: *const *const libc::c_char,
        vals: *const *const libc::c_char,
        key_lens: *const usize,
        val_lens: *const usize,
        num: usize,
    ) {
        (self.rados_write_op_omap_set2)(write_op, keys, vals, key_lens, val_lens, num)
    }
    pub unsafe fn rados_write_op_omap_rm_keys2(
        &self,
        write_op: rados_write_op_t,
        keys: *const *const libc::c_char,
        key_lens: *const usize,
        keys_len: usize,
    ) {
        (self.rados_write_op_omap_rm_keys2)(write_op, keys, key_lens, keys_len)
    }
    pub unsafe fn rados_write_op_set_alloc_hint2(
        &self,
        write_op: rados_write_op_t,
        expected_object_size: u64,
        expected_write_size: u64,
        flags: u32,
    ) {
        (self.rados_write_op_set_alloc_hint2)(write_op, expected_object_size, expected_write_size, flags)
    }
    pub unsafe fn rados_write_op_operate(
        &self,
        write_op: rados_write_op_t,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        mtime: *mut time_t,
        flags: libc::c_int,
    ) -> libc::c_int {
        (self.rados_write_op_operate)(write_op, io, oid, mtime, flags)
    }
    pub unsafe fn rados_aio_write_op_operate(
        &self,
        write_op: rados_write_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        oid: *const libc::c_char,
        mtime: *mut time_t,
        flags: libc::c_int,
    ) -> libc::c_int {
        (self.rados_aio_write_op_operate)(write_op, io, completion, oid, mtime, flags)
    }
    pub unsafe fn rados_create_read_op(&self) -> rados_read_op_t {
        (self.rados_create_read_op)()
    }
    pub unsafe fn rados_release_read_op(&self, read_op: rados_read_op_t) {
        (self.rados_release_read_op)(read_op)
    }
    pub unsafe fn rados_read_op_omap_get_vals2(
        &self,
        read_op: rados_read_op_t,
        start_after: *const libc::c_char,
        filter_prefix: *const libc::c_char,
        max_return: u64,
        iter: *mut rados_omap_iter_t,
        pmore: *mut libc::c_uchar,
        prval: *mut libc::c_int,
    ) {
        (self.rados_read_op_omap_get_vals2)(
            read_op,
            start_after,
            filter_prefix,
            max_return,
            iter,
            pmore,
            prval,
        )
    }
    pub unsafe fn rados_read_op_omap_get_vals_by_keys2(
        &self,
        read_op: rados_read_op_t,
        keys: *const *const libc::c_char,
        num_keys: usize,
        key_lens: *const usize,
        iter: *mut rados_omap_iter_t,
        prval: *mut libc::c_int,
    ) {
        (self.rados_read_op_omap_get_vals_by_keys2)(read_op, keys, num_keys, key_lens, iter, prval)
    }
    pub unsafe fn rados_read_op_operate(
        &self,
        read_op: rados_read_op_t,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        flags: libc::c_int,
    ) -> libc::c_int {
        (self.rados_read_op_operate)(read_op, io, oid, flags)
    }
    pub unsafe fn rados_aio_read_op_operate(
        &self,
        read_op: rados_read_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        oid: *const libc::c_char,
        flags: libc::c_int,
    ) -> libc::c_int {
        (self.rados_aio_read_op_operate)(read_op, io, completion, oid, flags)
    }
    pub unsafe fn rados_lock_exclusive(
        &self,
        io: rados_ioctx_t,
        oid: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
        desc: *const libc::c_char,
        duration: *mut timeval,
        flags: u8,
    ) -> libc::c_int {
        (self.rados_lock_exclusive)(io, oid, name, cookie, desc, duration, flags)
    }
    pub unsafe fn rados_lock_shared(
        &self,
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
        tag: *const libc::c_char,
        desc: *const libc::c_char,
        duration: *mut timeval,
        flags: u8,
    ) -> libc::c_int {
        (self.rados_lock_shared)(io, o, name, cookie, tag, desc, duration, flags)
    }
    pub unsafe fn rados_unlock(
        &self,
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        cookie: *const libc::c_char,
    ) -> libc::c_int {
        (self.rados_unlock)(io, o, name, cookie)
    }
    pub unsafe fn rados_list_lockers(
        &self,
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        exclusive: *mut libc::c_int,
        tag: *mut libc::c_char,
        tag_len: *mut usize,
        clients: *mut libc::c_char,
        clients_len: *mut usize,
        cookies: *mut libc::c_char,
        cookies_len: *mut usize,
        addrs: *mut libc::c_char,
        addrs_len: *mut usize,
    ) -> isize {
        (self.rados_list_lockers)(
            io,
            o,
            name,
            exclusive,
            tag,
            tag_len,
            clients,
            clients_len,
            cookies,
            cookies_len,
            addrs,
            addrs_len,
        )
    }
    pub unsafe fn rados_break_lock(
        &self,
        io: rados_ioctx_t,
        o: *const libc::c_char,
        name: *const libc::c_char,
        client: *const libc::c_char,
        cookie: *const libc::c_char,
    ) -> libc::c_int {
        (self.rados_break_lock)(io, o, name, client, cookie)
    }
    pub unsafe fn rados_blocklist_add(
        &self,
        cluster: rados_t,
        client_address: *mut libc::c_char,
        expire_seconds: u32,
    ) -> libc::c_int {
        (self.rados_blocklist_add)(cluster, client_address, expire_seconds)
    }
    pub unsafe fn rados_getaddrs(&self, cluster: rados_t, addrs: *mut *mut libc::c_char) -> libc::c_int {
        (self.rados_getaddrs)(cluster, addrs)
    }
    pub unsafe fn rados_set_pool_full_try(&self, io: rados_ioctx_t) {
        (self.rados_set_pool_full_try)(io)
    }
    pub unsafe fn rados_buffer_free(&self, buf: *mut libc::c_char) {
        (self.rados_buffer_free)(buf)
    }
}
