//! The system's libcurl, behind calls that safe Rust can make. It is loaded when
//! the first store that needs it is opened: nobody needs it to build, and a host
//! without such a store does not need it at all.
//!
//! One `Connection` does one request at a time and keeps its connection for the
//! next one. libcurl sends a request again by itself if a kept connection turns
//! out to be closed: whoever sends one that changes something must be able to
//! tell that it has been there twice.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libloading::Library;

use super::signal;
use crate::clock;

/// The flavours that a system may have; what they do for us is the same.
const LIBRARIES: [&str; 3] = ["libcurl.so.4", "libcurl-gnutls.so.4", "libcurl-nss.so.4"];

type Handle = *mut c_void;
type Slist = *mut c_void;

// Of curl.h, which has promised since 2000 never to change them.
const GLOBAL_DEFAULT: c_long = 3;
const WRITEDATA: c_int = 10_001;
const URL: c_int = 10_002;
const POSTFIELDS: c_int = 10_015;
const HTTPHEADER: c_int = 10_023;
const HEADERDATA: c_int = 10_029;
const CUSTOMREQUEST: c_int = 10_036;
const XFERINFODATA: c_int = 10_057;
const LOW_SPEED_LIMIT: c_int = 19;
const LOW_SPEED_TIME: c_int = 20;
const NOPROGRESS: c_int = 43;
const NOBODY: c_int = 44;
const POST: c_int = 47;
const FRESH_CONNECT: c_int = 74;
const NOSIGNAL: c_int = 99;
const TIMEOUT_MS: c_int = 155;
const CONNECTTIMEOUT_MS: c_int = 156;
const PROTOCOLS: c_int = 181;
const TCP_KEEPALIVE: c_int = 213;
const PATH_AS_IS: c_int = 234;
const WRITEFUNCTION: c_int = 20_011;
const HEADERFUNCTION: c_int = 20_079;
const XFERINFOFUNCTION: c_int = 20_219;
const POSTFIELDSIZE_LARGE: c_int = 30_120;
const INFO_RESPONSE_CODE: c_int = 0x0020_0002;
const INFO_REQUEST_SIZE: c_int = 0x0020_000C;
/// CURLPROTO_HTTP and _HTTPS: nothing else, whatever a URL says.
const HTTP_AND_HTTPS: c_long = 3;

/// Fewer bytes than this in a second, for as long as a request may stand still,
/// are none.
const SLOW_BYTES_PER_S: c_long = 1;

/// When nothing has come or gone for so long it is told.
const STILL: Duration = Duration::from_secs(5);

struct Functions {
    global_init: unsafe extern "C" fn(c_long) -> c_int,
    easy_init: unsafe extern "C" fn() -> Handle,
    easy_reset: unsafe extern "C" fn(Handle),
    easy_setopt: unsafe extern "C" fn(Handle, c_int, ...) -> c_int,
    easy_perform: unsafe extern "C" fn(Handle) -> c_int,
    easy_getinfo: unsafe extern "C" fn(Handle, c_int, ...) -> c_int,
    easy_cleanup: unsafe extern "C" fn(Handle),
    easy_strerror: unsafe extern "C" fn(c_int) -> *const c_char,
    slist_append: unsafe extern "C" fn(Slist, *const c_char) -> Slist,
    slist_free_all: unsafe extern "C" fn(Slist),
    /// Never unloaded: it has threads and handlers of its own.
    _library: Library,
}

fn load(name: &str) -> Result<Functions, libloading::Error> {
    // SAFETY: what loading runs is libcurl's own start-up code, and the functions
    // have the types of its header.
    unsafe {
        let library = Library::new(name)?;
        Ok(Functions {
            global_init: *library.get(b"curl_global_init\0")?,
            easy_init: *library.get(b"curl_easy_init\0")?,
            easy_reset: *library.get(b"curl_easy_reset\0")?,
            easy_setopt: *library.get(b"curl_easy_setopt\0")?,
            easy_perform: *library.get(b"curl_easy_perform\0")?,
            easy_getinfo: *library.get(b"curl_easy_getinfo\0")?,
            easy_cleanup: *library.get(b"curl_easy_cleanup\0")?,
            easy_strerror: *library.get(b"curl_easy_strerror\0")?,
            slist_append: *library.get(b"curl_slist_append\0")?,
            slist_free_all: *library.get(b"curl_slist_free_all\0")?,
            _library: library,
        })
    }
}

fn begin() -> Result<Functions, String> {
    let mut said = Vec::new();
    for name in LIBRARIES {
        match load(name) {
            Ok(functions) => {
                // SAFETY: it is called once, before anything else of this library.
                let code = unsafe { (functions.global_init)(GLOBAL_DEFAULT) };
                return if code == 0 { Ok(functions) } else { Err(format!("{name} does not begin: {code}")) };
            }
            Err(error) => said.push(error.to_string()),
        }
    }
    Err(said.join("; "))
}

fn functions() -> Result<&'static Functions, String> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    LOADED.get_or_init(begin).as_ref().map_err(Clone::clone)
}

/// Whether requests can be made. Error: what the loader says.
pub fn check() -> Result<(), String> {
    functions().map(drop)
}

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    /// As `Get`, without the content.
    Head,
    Put,
    Delete,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method,
    pub url: &'a str,
    /// "name: value", without line ends.
    pub headers: &'a [String],
    /// Of `Put`.
    pub body: &'a [u8],
    /// The answer may not be longer.
    pub answer_bytes_max: usize,
    /// On a new connection: it is certainly sent once.
    pub is_fresh: bool,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// While nothing comes or goes.
    pub stall: Duration,
    /// For all of a request.
    pub whole: Duration,
}

/// What comes back: whole, as far as HTTP can tell.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u32,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Nothing has been sent: the server knows nothing of it.
    pub is_unsent: bool,
    /// To try again is of no use.
    pub is_for_good: bool,
    pub message: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// CURLE_UNSUPPORTED_PROTOCOL, FAILED_INIT, URL_MALFORMAT; COULDNT_RESOLVE_PROXY,
/// _HOST, COULDNT_CONNECT; SSL_CONNECT_ERROR; SSL_CERTPROBLEM, _CIPHER,
/// a certificate that is not believed, SSL_CACERT_BADFILE.
const UNSENT: [c_int; 11] = [1, 2, 3, 5, 6, 7, 35, 58, 59, 60, 77];
const FOR_GOOD: [c_int; 8] = [1, 2, 3, 58, 59, 60, 77, 23];

/// A connection that is kept from one request to the next.
pub struct Connection {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: libcurl lets a handle go from thread to thread, if one at a time has it.
unsafe impl Send for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is not used afterwards.
        signal::with_all_blocked(|| unsafe { (self.functions.easy_cleanup)(self.handle) });
    }
}

/// The list of a request's headers, for C.
struct Headers {
    functions: &'static Functions,
    list: Slist,
}

impl Headers {
    fn new(functions: &'static Functions, lines: &[String]) -> Option<Headers> {
        let mut headers = Headers { functions, list: null_mut() };
        for line in lines {
            let line = CString::new(line.as_str()).ok()?;
            // SAFETY: the line is copied; the list is ours.
            let longer = unsafe { (functions.slist_append)(headers.list, line.as_ptr()) };
            if longer.is_null() {
                return None;
            }
            headers.list = longer;
        }
        Some(headers)
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: the list is ours and is not used afterwards.
        unsafe { (self.functions.slist_free_all)(self.list) };
    }
}

/// Where what comes in goes.
struct Inbox {
    answer: Answer,
    bytes_max: usize,
    /// The line behind the last header has come. For libcurl a connection that
    /// ends before it is the end of an answer.
    is_headed: bool,
}

/// Called with the next bytes of the content; less than all of them ends it.
unsafe extern "C" fn take_body(data: *const u8, one: usize, count: usize, to: *mut c_void) -> usize {
    let bytes = one * count;
    // SAFETY: `to` is the Inbox that `perform` gave, which lives until the request
    // has ended; `data` has as many bytes as are said.
    let (inbox, data) = unsafe { (&mut *to.cast::<Inbox>(), std::slice::from_raw_parts(data, bytes)) };
    if inbox.answer.body.len() + bytes > inbox.bytes_max {
        return 0;
    }
    inbox.answer.body.extend_from_slice(data);
    bytes
}

/// Called with each line of the headers.
unsafe extern "C" fn take_header(data: *const u8, one: usize, count: usize, to: *mut c_void) -> usize {
    let bytes = one * count;
    // SAFETY: as in `take_body`.
    let (inbox, data) = unsafe { (&mut *to.cast::<Inbox>(), std::slice::from_raw_parts(data, bytes)) };
    let line = String::from_utf8_lossy(data);
    if line.starts_with("HTTP/") {
        // What came before was of "100 Continue" or a proxy.
        inbox.answer.headers.clear();
        inbox.is_headed = false;
    } else if line.trim().is_empty() {
        inbox.is_headed = true;
    } else if let Some((name, value)) = line.split_once(':') {
        inbox.answer.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    bytes
}

/// Watches whether anything comes or goes.
struct Watch<'a> {
    bytes: i64,
    since: Instant,
    is_still: &'a dyn Fn(Instant),
}

/// Called about once a second, and whenever something has come or gone.
unsafe extern "C" fn watch(to: *mut c_void, _: i64, down: i64, _: i64, up: i64) -> c_int {
    // SAFETY: `to` is the Watch that `perform` gave, which lives until the
    // request has ended.
    let watch = unsafe { &mut *to.cast::<Watch<'_>>() };
    let (bytes, now) = (down.saturating_add(up), clock::now());
    if bytes != watch.bytes {
        (watch.bytes, watch.since) = (bytes, now);
    } else if now.saturating_duration_since(watch.since) >= STILL {
        // No panic may reach the library.
        drop(catch_unwind(AssertUnwindSafe(|| (watch.is_still)(watch.since))));
    }
    0
}

fn milliseconds(time: Duration) -> c_long {
    c_long::try_from(time.as_millis()).unwrap_or(c_long::MAX)
}

impl Connection {
    /// Error: as `check`.
    pub fn new() -> Result<Connection, String> {
        let functions = functions()?;
        // SAFETY: the library has begun.
        let handle = unsafe { (functions.easy_init)() };
        match handle.is_null() {
            true => Err("libcurl has no memory".to_owned()),
            false => Ok(Connection { functions, handle }),
        }
    }

    /// Makes a request and waits for its answer, whatever its status. `is_still`
    /// is told now and then that nothing comes or goes, and since when.
    pub fn perform(
        &mut self,
        request: Request<'_>,
        patience: Patience,
        is_still: &dyn Fn(Instant),
    ) -> Result<Answer, Failed> {
        let no_memory =
            || Failed { is_unsent: true, is_for_good: true, message: "it cannot be put together".to_owned() };
        let headers = Headers::new(self.functions, request.headers).ok_or_else(no_memory)?;
        let url = CString::new(request.url).map_err(|_| no_memory())?;
        let bytes_max = request.answer_bytes_max;
        let mut inbox = Inbox { answer: Answer::default(), bytes_max, is_headed: false };
        let mut watching = Watch { bytes: 0, since: clock::now(), is_still };
        // The threads that resolve names take no signals, as QEMU expects of a
        // library's, and a connection that breaks raises none.
        let code = signal::with_all_blocked(|| {
            self.prepare(&request, patience, &headers, &url, &mut inbox);
            self.watch(&mut watching);
            // SAFETY: all that `prepare` has set lives until this returns.
            let code = unsafe { (self.functions.easy_perform)(self.handle) };
            signal::forget_broken_pipe();
            code
        });
        if code != 0 {
            return Err(self.failed(code));
        }
        if !inbox.is_headed {
            let message = "the answer ends within its headers".to_owned();
            return Err(Failed { is_unsent: false, is_for_good: false, message });
        }
        inbox.answer.status = u32::try_from(self.number(INFO_RESPONSE_CODE)).unwrap_or(0);
        Ok(inbox.answer)
    }

    fn number(&self, what: c_int) -> c_long {
        let mut number: c_long = 0;
        // SAFETY: it fills a long.
        unsafe { (self.functions.easy_getinfo)(self.handle, what, &raw mut number) };
        number
    }

    fn failed(&self, code: c_int) -> Failed {
        // That there is no connection may be said of the second one, after the
        // first, which was kept, has had the request.
        let is_unsent = UNSENT.contains(&code) && self.number(INFO_REQUEST_SIZE) == 0;
        // SAFETY: it gives a constant string, whatever the code.
        let said = unsafe { CStr::from_ptr((self.functions.easy_strerror)(code)) };
        Failed {
            is_unsent,
            is_for_good: FOR_GOOD.contains(&code),
            message: said.to_string_lossy().into_owned(),
        }
    }

    fn watch(&self, watching: &mut Watch<'_>) {
        let watching: *mut c_void = std::ptr::from_mut(watching).cast();
        // SAFETY: the first option takes a long, the others a function of the type
        // that the library calls and what it is given, which lives until the
        // request has ended.
        unsafe {
            (self.functions.easy_setopt)(self.handle, NOPROGRESS, c_long::from(false));
            (self.functions.easy_setopt)(self.handle, XFERINFOFUNCTION, watch as *const c_void);
            (self.functions.easy_setopt)(self.handle, XFERINFODATA, watching);
        }
    }

    fn prepare(
        &self,
        request: &Request<'_>,
        patience: Patience,
        headers: &Headers,
        url: &CStr,
        inbox: &mut Inbox,
    ) {
        let handle = self.handle;
        let set_long = |option: c_int, value: c_long| {
            // SAFETY: these options take a long.
            unsafe { (self.functions.easy_setopt)(handle, option, value) };
        };
        let set_pointer = |option: c_int, value: *const c_void| {
            // SAFETY: these options take a pointer, to what lives until the
            // request has ended.
            unsafe { (self.functions.easy_setopt)(handle, option, value) };
        };
        // SAFETY: the handle is ours; its connections stay.
        unsafe { (self.functions.easy_reset)(handle) };
        set_long(NOSIGNAL, 1);
        set_long(PROTOCOLS, HTTP_AND_HTTPS);
        set_long(TCP_KEEPALIVE, 1);
        set_long(PATH_AS_IS, 1);
        set_long(FRESH_CONNECT, c_long::from(request.is_fresh));
        set_long(CONNECTTIMEOUT_MS, milliseconds(patience.connect));
        set_long(TIMEOUT_MS, milliseconds(patience.whole));
        set_long(LOW_SPEED_LIMIT, SLOW_BYTES_PER_S);
        set_long(LOW_SPEED_TIME, (milliseconds(patience.stall) / 1000).max(1));
        set_pointer(URL, url.as_ptr().cast());
        set_pointer(HTTPHEADER, headers.list);
        let inbox: *const c_void = std::ptr::from_mut(inbox).cast();
        set_pointer(WRITEFUNCTION, take_body as *const c_void);
        set_pointer(WRITEDATA, inbox);
        set_pointer(HEADERFUNCTION, take_header as *const c_void);
        set_pointer(HEADERDATA, inbox);
        match request.method {
            Method::Get => {}
            Method::Head => set_long(NOBODY, 1),
            Method::Delete => set_pointer(CUSTOMREQUEST, c"DELETE".as_ptr().cast()),
            Method::Put => {
                // The body is sent from where it is, not copied.
                set_long(POST, 1);
                // SAFETY: this option takes a 64-bit number.
                unsafe {
                    (self.functions.easy_setopt)(handle, POSTFIELDSIZE_LARGE, request.body.len() as i64);
                }
                let body = if request.body.is_empty() { c"".as_ptr().cast() } else { request.body.as_ptr() };
                set_pointer(POSTFIELDS, body.cast());
                set_pointer(CUSTOMREQUEST, c"PUT".as_ptr().cast());
            }
        }
    }
}
