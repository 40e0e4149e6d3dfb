// Written by tests/bindings from GlusterFS's api/glfs.h (LGPL-3.0 or GPL-2.0;
// declarations only). Do not change it by hand: change the list of functions there.
use libc::{dirent, iovec, stat, timespec};
pub type __dev_t = libc::c_ulong;
pub type __uid_t = libc::c_uint;
pub type __gid_t = libc::c_uint;
pub type __ino_t = libc::c_ulong;
pub type __ino64_t = libc::c_ulong;
pub type __mode_t = libc::c_uint;
pub type __nlink_t = libc::c_ulong;
pub type __off_t = libc::c_long;
pub type __off64_t = libc::c_long;
pub type __time_t = libc::c_long;
pub type __blksize_t = libc::c_long;
pub type __blkcnt_t = libc::c_long;
pub type __blkcnt64_t = libc::c_long;
pub type __syscall_slong_t = libc::c_long;
pub type ino_t = __ino64_t;
pub type gid_t = __gid_t;
pub type mode_t = __mode_t;
pub type nlink_t = __nlink_t;
pub type uid_t = __uid_t;
pub type off_t = __off64_t;
pub type blksize_t = __blksize_t;
pub type blkcnt_t = __blkcnt64_t;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct glfs {
    _unused: [u8; 0],
}
pub type glfs_t = glfs;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct glfs_fd {
    _unused: [u8; 0],
}
pub type glfs_fd_t = glfs_fd;
#[repr(C)]
pub struct glfs_stat {
    pub glfs_st_mask: u64,
    pub glfs_st_attributes: u64,
    pub glfs_st_attributes_mask: u64,
    pub glfs_st_atime: timespec,
    pub glfs_st_btime: timespec,
    pub glfs_st_ctime: timespec,
    pub glfs_st_mtime: timespec,
    pub glfs_st_ino: ino_t,
    pub glfs_st_size: off_t,
    pub glfs_st_blocks: blkcnt_t,
    pub glfs_st_rdev_major: u32,
    pub glfs_st_rdev_minor: u32,
    pub glfs_st_dev_major: u32,
    pub glfs_st_dev_minor: u32,
    pub glfs_st_blksize: blksize_t,
    pub glfs_st_nlink: nlink_t,
    pub glfs_st_uid: uid_t,
    pub glfs_st_gid: gid_t,
    pub glfs_st_mode: mode_t,
}
pub type glfs_io_cbk = ::std::option::Option<
    unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        ret: isize,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
        data: *mut libc::c_void,
    ),
>;
pub struct Libgfapi {
    __library: ::libloading::Library,
    pub glfs_new: unsafe extern "C" fn(volname: *const libc::c_char) -> *mut glfs_t,
    pub glfs_set_volfile_server: unsafe extern "C" fn(
        fs: *mut glfs_t,
        transport: *const libc::c_char,
        host: *const libc::c_char,
        port: libc::c_int,
    ) -> libc::c_int,
    pub glfs_set_logging: unsafe extern "C" fn(
        fs: *mut glfs_t,
        logfile: *const libc::c_char,
        loglevel: libc::c_int,
    ) -> libc::c_int,
    pub glfs_init: unsafe extern "C" fn(fs: *mut glfs_t) -> libc::c_int,
    pub glfs_fini: unsafe extern "C" fn(fs: *mut glfs_t) -> libc::c_int,
    pub glfs_open: unsafe extern "C" fn(
        fs: *mut glfs_t,
        path: *const libc::c_char,
        flags: libc::c_int,
    ) -> *mut glfs_fd_t,
    pub glfs_creat: unsafe extern "C" fn(
        fs: *mut glfs_t,
        path: *const libc::c_char,
        flags: libc::c_int,
        mode: mode_t,
    ) -> *mut glfs_fd_t,
    pub glfs_close: unsafe extern "C" fn(fd: *mut glfs_fd_t) -> libc::c_int,
    pub glfs_set_xlator_option: unsafe extern "C" fn(
        fs: *mut glfs_t,
        xlator: *const libc::c_char,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> libc::c_int,
    pub glfs_pread: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        buf: *mut libc::c_void,
        count: usize,
        offset: off_t,
        flags: libc::c_int,
        poststat: *mut glfs_stat,
    ) -> isize,
    pub glfs_pwrite: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        buf: *const libc::c_void,
        count: usize,
        offset: off_t,
        flags: libc::c_int,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> isize,
    pub glfs_preadv_async: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        iov: *const iovec,
        count: libc::c_int,
        offset: off_t,
        flags: libc::c_int,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int,
    pub glfs_pwritev_async: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        iov: *const iovec,
        count: libc::c_int,
        offset: off_t,
        flags: libc::c_int,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int,
    pub glfs_lseek: unsafe extern "C" fn(fd: *mut glfs_fd_t, offset: off_t, whence: libc::c_int) -> off_t,
    pub glfs_ftruncate: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        length: off_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int,
    pub glfs_stat:
        unsafe extern "C" fn(fs: *mut glfs_t, path: *const libc::c_char, buf: *mut stat) -> libc::c_int,
    pub glfs_fstat: unsafe extern "C" fn(fd: *mut glfs_fd_t, buf: *mut stat) -> libc::c_int,
    pub glfs_fsync: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int,
    pub glfs_fsync_async:
        unsafe extern "C" fn(fd: *mut glfs_fd_t, fn_: glfs_io_cbk, data: *mut libc::c_void) -> libc::c_int,
    pub glfs_fdatasync: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int,
    pub glfs_fdatasync_async:
        unsafe extern "C" fn(fd: *mut glfs_fd_t, fn_: glfs_io_cbk, data: *mut libc::c_void) -> libc::c_int,
    pub glfs_mkdir:
        unsafe extern "C" fn(fs: *mut glfs_t, path: *const libc::c_char, mode: mode_t) -> libc::c_int,
    pub glfs_unlink: unsafe extern "C" fn(fs: *mut glfs_t, path: *const libc::c_char) -> libc::c_int,
    pub glfs_rmdir: unsafe extern "C" fn(fs: *mut glfs_t, path: *const libc::c_char) -> libc::c_int,
    pub glfs_link: unsafe extern "C" fn(
        fs: *mut glfs_t,
        oldpath: *const libc::c_char,
        newpath: *const libc::c_char,
    ) -> libc::c_int,
    pub glfs_opendir: unsafe extern "C" fn(fs: *mut glfs_t, path: *const libc::c_char) -> *mut glfs_fd_t,
    pub glfs_readdir_r: unsafe extern "C" fn(
        fd: *mut glfs_fd_t,
        dirent: *mut dirent,
        result: *mut *mut dirent,
    ) -> libc::c_int,
    pub glfs_closedir: unsafe extern "C" fn(fd: *mut glfs_fd_t) -> libc::c_int,
    pub glfs_fchmod: unsafe extern "C" fn(fd: *mut glfs_fd_t, mode: mode_t) -> libc::c_int,
    pub glfs_fchown: unsafe extern "C" fn(fd: *mut glfs_fd_t, uid: uid_t, gid: gid_t) -> libc::c_int,
    pub glfs_discard: unsafe extern "C" fn(fd: *mut glfs_fd_t, offset: off_t, len: usize) -> libc::c_int,
}
impl Libgfapi {
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
        let glfs_new = __library.get(b"glfs_new\0").map(|sym| *sym)?;
        let glfs_set_volfile_server = __library.get(b"glfs_set_volfile_server\0").map(|sym| *sym)?;
        let glfs_set_logging = __library.get(b"glfs_set_logging\0").map(|sym| *sym)?;
        let glfs_init = __library.get(b"glfs_init\0").map(|sym| *sym)?;
        let glfs_fini = __library.get(b"glfs_fini\0").map(|sym| *sym)?;
        let glfs_open = __library.get(b"glfs_open\0").map(|sym| *sym)?;
        let glfs_creat = __library.get(b"glfs_creat\0").map(|sym| *sym)?;
        let glfs_close = __library.get(b"glfs_close\0").map(|sym| *sym)?;
        let glfs_set_xlator_option = __library.get(b"glfs_set_xlator_option\0").map(|sym| *sym)?;
        let glfs_pread = __library.get(b"glfs_pread\0").map(|sym| *sym)?;
        let glfs_pwrite = __library.get(b"glfs_pwrite\0").map(|sym| *sym)?;
        let glfs_preadv_async = __library.get(b"glfs_preadv_async\0").map(|sym| *sym)?;
        let glfs_pwritev_async = __library.get(b"glfs_pwritev_async\0").map(|sym| *sym)?;
        let glfs_lseek = __library.get(b"glfs_lseek\0").map(|sym| *sym)?;
        let glfs_ftruncate = __library.get(b"glfs_ftruncate\0").map(|sym| *sym)?;
        let glfs_stat = __library.get(b"glfs_stat\0").map(|sym| *sym)?;
        let glfs_fstat = __library.get(b"glfs_fstat\0").map(|sym| *sym)?;
        let glfs_fsync = __library.get(b"glfs_fsync\0").map(|sym| *sym)?;
        let glfs_fsync_async = __library.get(b"glfs_fsync_async\0").map(|sym| *sym)?;
        let glfs_fdatasync = __library.get(b"glfs_fdatasync\0").map(|sym| *sym)?;
        let glfs_fdatasync_async = __library.get(b"glfs_fdatasync_async\0").map(|sym| *sym)?;
        let glfs_mkdir = __library.get(b"glfs_mkdir\0").map(|sym| *sym)?;
        let glfs_unlink = __library.get(b"glfs_unlink\0").map(|sym| *sym)?;
        let glfs_rmdir = __library.get(b"glfs_rmdir\0").map(|sym| *sym)?;
        let glfs_link = __library.get(b"glfs_link\0").map(|sym| *sym)?;
        let glfs_opendir = __library.get(b"glfs_opendir\0").map(|sym| *sym)?;
        let glfs_readdir_r = __library.get(b"glfs_readdir_r\0").map(|sym| *sym)?;
        let glfs_closedir = __library.get(b"glfs_closedir\0").map(|sym| *sym)?;
        let glfs_fchmod = __library.get(b"glfs_fchmod\0").map(|sym| *sym)?;
        let glfs_fchown = __library.get(b"glfs_fchown\0").map(|sym| *sym)?;
        let glfs_discard = __library.get(b"glfs_discard\0").map(|sym| *sym)?;
        Ok(Libgfapi {
            __library,
            glfs_new,
            glfs_set_volfile_server,
            glfs_set_logging,
            glfs_init,
            glfs_fini,
            glfs_open,
            glfs_creat,
            glfs_close,
            glfs_set_xlator_option,
            glfs_pread,
            glfs_pwrite,
            glfs_preadv_async,
            glfs_pwritev_async,
            glfs_lseek,
            glfs_ftruncate,
            glfs_stat,
            glfs_fstat,
            glfs_fsync,
            glfs_fsync_async,
            glfs_fdatasync,
            glfs_fdatasync_async,
            glfs_mkdir,
            glfs_unlink,
            glfs_rmdir,
            glfs_link,
            glfs_opendir,
            glfs_readdir_r,
            glfs_closedir,
            glfs_fchmod,
            glfs_fchown,
            glfs_discard,
        })
    }
    pub unsafe fn glfs_new(&self, volname: *const libc::c_char) -> *mut glfs_t {
        (self.glfs_new)(volname)
    }
    pub unsafe fn glfs_set_volfile_server(
        &self,
        fs: *mut glfs_t,
        transport: *const libc::c_char,
        host: *const libc::c_char,
        port: libc::c_int,
    ) -> libc::c_int {
        (self.glfs_set_volfile_server)(fs, transport, host, port)
    }
    pub unsafe fn glfs_set_logging(
        &self,
        fs: *mut glfs_t,
        logfile: *const libc::c_char,
        loglevel: libc::c_int,
    ) -> libc::c_int {
        (self.glfs_set_logging)(fs, logfile, loglevel)
    }
    pub unsafe fn glfs_init(&self, fs: *mut glfs_t) -> libc::c_int {
        (self.glfs_init)(fs)
    }
    pub unsafe fn glfs_fini(&self, fs: *mut glfs_t) -> libc::c_int {
        (self.glfs_fini)(fs)
    }
    pub unsafe fn glfs_open(
        &self,
        fs: *mut glfs_t,
        path: *const libc::c_char,
        flags: libc::c_int,
    ) -> *mut glfs_fd_t {
        (self.glfs_open)(fs, path, flags)
    }
    pub unsafe fn glfs_creat(
        &self,
        fs: *mut glfs_t,
        path: *const libc::c_char,
        flags: libc::c_int,
        mode: mode_t,
    ) -> *mut glfs_fd_t {
        (self.glfs_creat)(fs, path, flags, mode)
    }
    pub unsafe fn glfs_close(&self, fd: *mut glfs_fd_t) -> libc::c_int {
        (self.glfs_close)(fd)
    }
    pub unsafe fn glfs_set_xlator_option(
        &self,
        fs: *mut glfs_t,
        xlator: *const libc::c_char,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> libc::c_int {
        (self.glfs_set_xlator_option)(fs, xlator, key, value)
    }
    pub unsafe fn glfs_pread(
        &self,
        fd: *mut glfs_fd_t,
        buf: *mut libc::c_void,
        count: usize,
        offset: off_t,
        flags: libc::c_int,
        poststat: *mut glfs_stat,
    ) -> isize {
        (self.glfs_pread)(fd, buf, count, offset, flags, poststat)
    }
    pub unsafe fn glfs_pwrite(
        &self,
        fd: *mut glfs_fd_t,
        buf: *const libc::c_void,
        count: usize,
        offset: off_t,
        flags: libc::c_int,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> isize {
        (self.glfs_pwrite)(fd, buf, count, offset, flags, prestat, poststat)
    }
    pub unsafe fn glfs_preadv_async(
        &self,
        fd: *mut glfs_fd_t,
        iov: *const iovec,
        count: libc::c_int,
        offset: off_t,
        flags: libc::c_int,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        (self.glfs_preadv_async)(fd, iov, count, offset, flags, fn_, data)
    }
    pub unsafe fn glfs_pwritev_async(
        &self,
        fd: *mut glfs_fd_t,
        iov: *const iovec,
        count: libc::c_int,
        offset: off_t,
        flags: libc::c_int,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        (self.glfs_pwritev_async)(fd, iov, count, offset, flags, fn_, data)
    }
    pub unsafe fn glfs_lseek(&self, fd: *mut glfs_fd_t, offset: off_t, whence: libc::c_int) -> off_t {
        (self.glfs_lseek)(fd, offset, whence)
    }
    pub unsafe fn glfs_ftruncate(
        &self,
        fd: *mut glfs_fd_t,
        length: off_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int {
        (self.glfs_ftruncate)(fd, length, prestat, poststat)
    }
    pub unsafe fn glfs_stat(
        &self,
        fs: *mut glfs_t,
        path: *const libc::c_char,
        buf: *mut stat,
    ) -> libc::c_int {
        (self.glfs_stat)(fs, path, buf)
    }
    pub unsafe fn glfs_fstat(&self, fd: *mut glfs_fd_t, buf: *mut stat) -> libc::c_int {
        (self.glfs_fstat)(fd, buf)
    }
    pub unsafe fn glfs_fsync(
        &self,
        fd: *mut glfs_fd_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int {
        (self.glfs_fsync)(fd, prestat, poststat)
    }
    pub unsafe fn glfs_fsync_async(
        &self,
        fd: *mut glfs_fd_t,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        (self.glfs_fsync_async)(fd, fn_, data)
    }
    pub unsafe fn glfs_fdatasync(
        &self,
        fd: *mut glfs_fd_t,
        prestat: *mut glfs_stat,
        poststat: *mut glfs_stat,
    ) -> libc::c_int {
        (self.glfs_fdatasync)(fd, prestat, poststat)
    }
    pub unsafe fn glfs_fdatasync_async(
        &self,
        fd: *mut glfs_fd_t,
        fn_: glfs_io_cbk,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        (self.glfs_fdatasync_async)(fd, fn_, data)
    }
    pub unsafe fn glfs_mkdir(&self, fs: *mut glfs_t, path: *const libc::c_char, mode: mode_t) -> libc::c_int {
        (self.glfs_mkdir)(fs, path, mode)
    }
    pub unsafe fn glfs_unlink(&self, fs: *mut glfs_t, path: *const libc::c_char) -> libc::c_int {
        (self.glfs_unlink)(fs, path)
    }
    pub unsafe fn glfs_rmdir(&self, fs: *mut glfs_t, path: *const libc::c_char) -> libc::c_int {
        (self.glfs_rmdir)(fs, path)
    }
    pub unsafe fn glfs_link(
        &self,
        fs: *mut glfs_t,
        oldpath: *const libc::c_char,
        newpath: *const libc::c_char,
    ) -> libc::c_int {
        (self.glfs_link)(fs, oldpath, newpath)
    }
    pub unsafe fn glfs_opendir(&self, fs: *mut glfs_t, path: *const libc::c_char) -> *mut glfs_fd_t {
        (self.glfs_opendir)(fs, path)
    }
    pub unsafe fn glfs_readdir_r(
        &self,
        fd: *mut glfs_fd_t,
        dirent: *mut dirent,
        result: *mut *mut dirent,
    ) -> libc::c_int {
        (self.glfs_readdir_r)(fd, dirent, result)
    }
    pub unsafe fn glfs_closedir(&self, fd: *mut glfs_fd_t) -> libc::c_int {
        (self.glfs_closedir)(fd)
    }
    pub unsafe fn glfs_fchmod(&self, fd: *mut glfs_fd_t, mode: mode_t) -> libc::c_int {
        (self.glfs_fchmod)(fd, mode)
    }
    pub unsafe fn glfs_fchown(&self, fd: *mut glfs_fd_t, uid: uid_t, gid: gid_t) -> libc::c_int {
        (self.glfs_fchown)(fd, uid, gid)
    }
    pub unsafe fn glfs_discard(&self, fd: *mut glfs_fd_t, offset: off_t, len: usize) -> libc::c_int {
        (self.glfs_discard)(fd, offset, len)
    }
}
