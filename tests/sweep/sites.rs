//! The places in the source that call a backend, and which of them a call
//! came from.
//!
//! The places are read from the source text, not from a run: every call of a
//! method of `Backend`, `BackendExt` or `DataPath` outside `src/backend/`. A
//! receiver that is neither known as a backend nor as something else fails the
//! test, so that a new one cannot be overlooked. Where a call came from is
//! read from its stack.

use std::backtrace::Backtrace;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use archipelago::backend::faulty::Method;

use super::source::{is_word_byte, Source};

/// What is called, and as what `Faulty` sees it. What tells no outcome
/// (`capabilities`, `data_path`, `forget_synced`, `forget_seen`,
/// `alignment_bytes`) and what hands over a job and no request (`run_awake`)
/// cannot fail; `cut_off`, `last` and `last_of_each` are for clusters alone (`tests/stores`).
const METHODS: &[(&str, &[Method])] = &[
    ("create", &[Method::Create]),
    ("create_each", &[Method::Create]),
    ("create_sparse", &[Method::CreateSparse]),
    ("read_at", &[Method::Read]),
    ("write_at", &[Method::Write]),
    ("punch", &[Method::Punch]),
    ("sync", &[Method::Sync]),
    ("sync_content", &[Method::Sync]),
    ("delete", &[Method::Delete]),
    ("stat", &[Method::Stat]),
    ("next_data", &[Method::NextData]),
    ("list", &[Method::List]),
    ("copy", &[Method::Copy]),
    ("lock", &[Method::Lock]),
    ("read_all", &[Method::Stat, Method::Read]),
    ("read_summed", &[Method::Read]),
    ("list_all", &[Method::List]),
    ("submit_read", &[Method::Read]),
    ("submit_write", &[Method::Write]),
    ("try_read", &[Method::Read]),
];

/// How a receiver ends that is a backend or a data path.
const BACKENDS: &[&str] = &[
    "control()", "blocks()", "log()", "place_of()", "backend", "blocks", "control", "own", "path", "sealed",
];

/// How a receiver ends that is something else.
const OTHERS: &[&str] = &["volume", "device()", "mode()", "family()", "family", "device", "inner", "self"];

/// A place in the source that calls a backend.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Below `src/`.
    pub path: String,
    pub line: usize,
    /// The statement's lines.
    first: usize,
    last: usize,
    /// As it is called there.
    pub name: &'static str,
    /// The function that it is in.
    pub function: String,
}

impl Site {
    pub fn methods(&self) -> &'static [Method] {
        METHODS.iter().find(|(name, _)| *name == self.name).unwrap().1
    }

    fn has(&self, path: &str, line: usize, method: Method) -> bool {
        self.path == path && (self.first..=self.last).contains(&line) && self.methods().contains(&method)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{} {} ({})", self.path, self.line, self.name, self.function)
    }
}

/// What stands before this dot, without arguments: `store.control()`,
/// `self.backend`, `family()`.
fn receiver(code: &[u8], dot: usize) -> String {
    let (mut at, mut depth, mut found) = (dot, 0usize, Vec::new());
    while at > 0 {
        let byte = code[at - 1];
        match byte {
            b')' => depth += 1,
            b'(' if depth > 0 => depth -= 1,
            _ if depth > 0 || is_word_byte(byte) || b".?:".contains(&byte) => {}
            _ if byte.is_ascii_whitespace() && (found.is_empty() || found.last() == Some(&b'.')) => {}
            _ => break,
        }
        let shown = depth == 0 || (depth == 1 && byte == b')');
        if shown && !byte.is_ascii_whitespace() {
            found.push(byte);
        }
        at -= 1;
    }
    found.reverse();
    String::from_utf8(found).unwrap()
}

fn line_of(code: &[u8], at: usize) -> usize {
    1 + code[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// Where the call that begins at `open`, a parenthesis, ends.
fn end_of_call(code: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return at,
            b')' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn function_at(code: &str, at: usize) -> String {
    let before = &code[..at];
    let begun = before.rfind("fn ").map_or("", |fun| &before[fun + 3..]);
    begun.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// Every place of one file; an error for a receiver that nobody knows.
pub fn sites_of(source: &Source) -> Result<Vec<Site>, String> {
    let code = source.code.as_bytes();
    let mut sites = Vec::new();
    for (name, _) in METHODS {
        for (dot, call) in source.code.match_indices(&format!(".{name}(")) {
            let line = line_of(code, dot + 1);
            let open = dot + call.len() - 1;
            // `lock()` of a mutex, `sync()` of a log, `delete()` of a segment.
            if source.is_test[line - 1] || code[open + 1] == b')' {
                continue;
            }
            let receiver = receiver(code, dot);
            let last = receiver.rsplit('.').next().unwrap_or("");
            if BACKENDS.contains(&last) {
                let first = code[..dot].iter().rposition(|byte| b";{}".contains(byte)).map_or(0, |at| at + 1);
                let blank = code[first..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                sites.push(Site {
                    path: source.path.clone(),
                    line,
                    first: line_of(code, first + blank),
                    last: line_of(code, end_of_call(code, open)),
                    name,
                    function: function_at(&source.code, dot),
                });
            } else if !OTHERS.contains(&last) {
                return Err(format!("src/{}:{line}: is '{receiver}' a backend? say so here", source.path));
            }
        }
    }
    Ok(sites)
}

/// Every place of the source tree, in order.
pub fn all() -> Vec<Site> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sites) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            // What moves volumes has two stores and a sweep of its own: tests/moving/faults.rs.
            // So has what keeps standbys: tests/syncing/faults.rs.
            const SWEPT: [&str; 4] =
                ["mover", "maintain/copy.rs", "maintain/sync_volume.rs", "catalog/standby.rs"];
            let is_swept = SWEPT.contains(&below.as_str());
            if below == "backend" || below.ends_with("tests") || is_swept {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if below.ends_with(".rs") {
                let source = Source::new(&below, &std::fs::read_to_string(&path).unwrap());
                sites.extend(sites_of(&source).unwrap_or_else(|error| panic!("{error}")));
            }
        }
    }
    sites.sort();
    sites
}

/// Tells which place a call comes from.
#[derive(Clone)]
pub struct Finder(Arc<Vec<Site>>);

impl Finder {
    pub fn new() -> Finder {
        Finder(Arc::new(all()))
    }

    pub fn sites(&self) -> &[Site] {
        &self.0
    }

    /// What a function calls last of all leaves no frame of that function: the
    /// place is in the one that is called on this line.
    fn called_at(&self, path: &str, line: usize, method: Method) -> Option<usize> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        let text = text.lines().nth(line - 1)?;
        let fits =
            |site: &Site| site.methods().contains(&method) && text.contains(&format!("{}(", site.function));
        self.0.iter().position(fits)
    }

    /// The place that this very call of `method` comes from: the first frame
    /// that is in the library and above the backends. Error: it is none of
    /// them.
    pub fn here(&self, method: Method) -> Result<usize, String> {
        let stack = Backtrace::force_capture().to_string();
        for frame in stack.lines().filter_map(frame_of) {
            let (path, line) = frame;
            if path.starts_with("backend/") {
                continue;
            }
            let sites = self.0.iter().enumerate().filter(|(_, site)| site.has(path, line, method));
            return match sites.min_by_key(|(_, site)| site.line.abs_diff(line)) {
                Some((index, _)) => Ok(index),
                None => self
                    .called_at(path, line, method)
                    .ok_or_else(|| format!("{method:?} at src/{path}:{line}")),
            };
        }
        Err(format!("{method:?} from outside"))
    }
}

/// `at ./src/volume/flush.rs:138:29`, of this library: its path and line.
fn frame_of(line: &str) -> Option<(&str, usize)> {
    let place = line.trim_start().strip_prefix("at ")?;
    let root = env!("CARGO_MANIFEST_DIR");
    let below = place.strip_prefix("./").or_else(|| place.strip_prefix(root)?.strip_prefix('/'))?;
    let mut parts = below.strip_prefix("src/")?.split(':');
    Some((parts.next()?, parts.next()?.parse().ok()?))
}
