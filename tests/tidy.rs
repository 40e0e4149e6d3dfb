//! The rules of the source tree that no compiler checks.
//!
//! What can go wrong: a layer reaches upwards and the layers are gone; a file or a
//! function grows until nobody reads it; a second door to time, threads or the
//! terminal is opened beside the one that tests can stand in; a panic waits in code
//! that runs inside somebody else's process. Every source file is read here and each
//! rule is asked; tidy/broken.rs breaks each rule and sees it noticed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Write as _;
use std::path::Path;

#[path = "tidy/broken.rs"]
mod broken;
#[path = "tidy/source.rs"]
mod source;

use source::{contains_name, functions, is_word_byte, split_words, Source};

/// Each row may import the rows below it, and nothing beside it in its own row
/// except in the last one. docs/design.md has the picture.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["capi", "cli", "testkit"],
    &["control"],
    &["mover"],
    &["io", "maintain"],
    &["volume"],
    &["catalog"],
    &["map"],
    &["log"],
    &["store"],
    &["readcache"],
    &["backend"],
    &["error", "name", "config", "codec", "clock", "thread", "sync", "sys", "presence", "fault"],
];

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const LINE_BYTES: usize = 110;
const DRIVER_LINES: usize = 1400;

/// Banned words of code: what, where it is allowed, what to use instead. A place is
/// the beginning of a path below src/.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("std::thread::spawn", &[], "crate::thread::spawn: named, with signals blocked"),
    ("std::thread::Builder", &["sync/mod.rs"], "crate::thread::spawn: named, with signals blocked"),
    ("std::thread::scope", &[], "crate::thread::spawn: named, with signals blocked"),
    ("std::thread::{", &["sync/mod.rs"], "one path for each import of std::thread"),
    ("use std::thread;", &[], "crate::thread; std::thread:: in full for what it lacks"),
    ("Instant::now", &["clock.rs"], "crate::clock::now"),
    ("SystemTime", &["clock.rs"], "crate::clock::wall"),
    ("getrandom", &["clock.rs"], "crate::clock::random_id"),
    ("std::process", &["cli/", "main.rs", "catalog/identity.rs"], "nothing: QEMU's sandbox forbids it"),
    ("process::Command", &["cli/"], "nothing: QEMU's sandbox forbids it"),
    ("process::exit", &[], "an error, or an ExitCode from main"),
    ("process::abort", &[], "an error"),
    ("std::env", &["config", "testkit/", "cli/", "capi/logger.rs", "control/place.rs"], "crate::config"),
    ("thread_local!", LOCALS, "state that is handed along: callers switch threads"),
    ("std::thread::JoinHandle", &[], MODELLED),
    ("std::thread::sleep", SLEEPERS, "crate::clock::sleep"),
    ("std::sync::Mutex", &[], "crate::sync::Mutex"),
    ("std::sync::RwLock", &[], "crate::sync::RwLock"),
    ("std::sync::Condvar", &[], "crate::sync::Condvar"),
    ("std::sync::Barrier", &[], "crate::sync"),
    ("std::sync::mpsc", &[], "crate::sync::channel"),
    ("std::sync::atomic", &["sync/mod.rs", "sys/", "backend/faulty.rs"], MODELLED),
    ("parking_lot", &["sync/mod.rs", "sys/"], MODELLED),
    ("crossbeam_channel", &["sync/mod.rs"], MODELLED),
    ("shuttle::", &["sync/model.rs"], "crate::sync"),
    ("libc::fork", &[], "nothing: QEMU's sandbox forbids it"),
    ("libc::exec", &[], "nothing: QEMU's sandbox forbids it"),
    ("print!", &["cli/output.rs"], "cli::output, or ::log in the library"),
    ("println!", &["cli/output.rs"], "cli::output, or ::log in the library"),
    ("eprint!", &["cli/output.rs"], "cli::output, or ::log in the library"),
    ("eprintln!", &["cli/output.rs"], "cli::output, or ::log in the library"),
    ("dbg!", &[], "::log::debug!"),
    (".unwrap()", &[], "an error"),
    (".expect(", &["sync/model.rs"], "an error"),
    ("panic!", &[], "an error of kind Internal"),
    ("assert!", &[], "an error of kind Internal"),
    ("assert_eq!", &[], "an error of kind Internal"),
    ("assert_ne!", &[], "an error of kind Internal"),
    ("unreachable!", &[], "an error of kind Internal"),
    ("todo!", &[], "the code"),
    ("unimplemented!", &[], "the code"),
];

/// Test doubles of time and locks, and planted faults.
const LOCALS: &[&str] = &["fault.rs", "clock.rs", "sync/model.rs"];
const MODELLED: &str = "crate::sync, where a model checker can decide";
/// What waits although a test hurries.
const SLEEPERS: &[&str] =
    &["clock.rs", "sys/", "backend/faulty.rs", "backend/faulty_data.rs", "maintain/gc.rs"];

/// Words that mean something else elsewhere, and notes to nobody.
const WORDS: &[&str] = &["chunk", "extent", "pool", "peer", "vlmc", "xseg", "todo", "fixme"];
/// What the standard library calls its own.
const NOT_OURS: &[&str] = &[".chunks(", ".chunks_mut(", ".chunks_exact(", ".chunks_exact_mut(", "todo!"];

fn row_of(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

fn may_import(layer: &str, other: &str) -> bool {
    match (row_of(layer), row_of(other)) {
        (Some(own), Some(row)) => layer == other || row > own || (row == own && row + 1 == LAYERS.len()),
        _ => false,
    }
}

fn imports(source: &Source, say: &mut dyn FnMut(usize, String)) {
    if source.layer() == "lib" {
        return;
    }
    let root = if source.layer() == "main" { "archipelago::" } else { "crate::" };
    for (number, line) in source.code.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let is_test = source.is_test[number - 1];
        for (at, _) in line.match_indices(root) {
            let rest = &line[at + root.len()..];
            let end = rest.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(rest.len());
            // A name with a capital is one that lib.rs shows to the world.
            if end == 0 {
                say(number, format!("{root}{{...}} hides the layers: write one `use` for each"));
            } else if row_of(&rest[..end]).is_none() && rest.starts_with(char::is_lowercase) {
                say(number, format!("{} is in no layer: enter it in tests/tidy.rs", &rest[..end]));
            } else if rest.starts_with(char::is_lowercase)
                && !is_test
                && !may_import(source.layer(), &rest[..end])
            {
                say(
                    number,
                    format!("{} imports {}, which does not stand below it", source.layer(), &rest[..end]),
                );
            }
        }
        let is_root = source.path.ends_with("mod.rs") || !source.path.contains('/');
        let out = if is_root { "super::" } else { "super::super::" };
        if !is_test && LAYERS.concat().iter().any(|layer| contains_name(line, &format!("{out}{layer}::"))) {
            say(number, "super:: out of a layer hides an import: write crate::".to_owned());
        }
    }
}

fn banned_calls(source: &Source, say: &mut dyn FnMut(usize, String)) {
    for (number, line) in source.lines() {
        for (what, places, instead) in BANNED {
            if contains_name(line, what) && !source.is_in(places) {
                say(number, format!("{what} is not for here; instead: {instead}"));
            }
        }
    }
}

fn unsafe_code(source: &Source, say: &mut dyn FnMut(usize, String)) {
    let text: Vec<&str> = source.text.lines().collect();
    for (at, line) in source.code.lines().enumerate() {
        if !contains_name(line, "unsafe") || line.contains("unsafe_") {
            continue;
        }
        if !source.is_in(&["capi/", "sys/"]) {
            say(at + 1, "unsafe is for src/capi and src/sys".to_owned());
        } else if line.contains("unsafe {") || line.contains("unsafe impl") {
            // The comment stands above the statement, which may have begun earlier.
            if !text[at.saturating_sub(8)..=at].iter().any(|line| line.contains("// SAFETY: ")) {
                say(at + 1, "unsafe without a SAFETY comment".to_owned());
            }
        }
    }
}

/// Written by a program (tests/bindings), which has its own rules.
fn is_generated(source: &Source) -> bool {
    source.path == "sys/librados.rs" || source.path == "sys/libgfapi.rs"
}

fn lengths(source: &Source, say: &mut dyn FnMut(usize, String)) {
    let count = source.text.lines().count();
    if is_generated(source) {
        return;
    }
    if count >= FILE_LINES {
        say(count, format!("the file has {count} lines; fewer than {FILE_LINES} are read to the end"));
    }
    for (at, line) in source.text.lines().enumerate() {
        if line.chars().count() > LINE_BYTES {
            say(at + 1, format!("the line is longer than {LINE_BYTES}"));
        }
    }
    for (first, lines) in functions(&source.code) {
        if lines >= FUNCTION_LINES {
            say(first, format!("the function has {lines} lines; fewer than {FUNCTION_LINES} fit a screen"));
        }
    }
}

/// Where it is Ceph's own word for a part of a cluster, and not ours for a store.
const SPEAK_OF_POOLS: &[&str] = &["sys/rados", "backend/rados", "config", "store/open.rs"];

fn words(source: &Source, say: &mut dyn FnMut(usize, String)) {
    if is_generated(source) {
        return;
    }
    if !source.text.starts_with("//! ") {
        say(1, "the file does not begin by saying what it is for (//! ...)".to_owned());
    }
    for (at, line) in source.text.lines().enumerate() {
        // The command draws trees and bars.
        if !source.is_test[at] && !line.is_ascii() && !source.is_in(&["cli/"]) {
            say(at + 1, "characters beyond ASCII".to_owned());
        }
        let line = NOT_OURS.iter().fold(line.to_owned(), |line, ours| line.replace(ours, ""));
        let has_pools = source.is_in(SPEAK_OF_POOLS);
        for word in split_words(&line) {
            if has_pools && word.starts_with("pool") {
                continue;
            }
            if WORDS.iter().any(|banned| word == *banned || word.strip_suffix('s') == Some(banned)) {
                say(at + 1, format!("the word '{word}'"));
            }
        }
    }
}

fn contents(source: &Source, say: &mut dyn FnMut(usize, String)) {
    let wanted = match source.path.as_str() {
        "lib.rs" => &["pub mod ", "mod ", "pub use ", "#[cfg("][..],
        _ if source.path.matches('/').count() > 1 && !source.path.contains("/tests/") => {
            return say(1, "folders have one level".to_owned());
        }
        _ => return,
    };
    for (number, line) in source.code.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        if !line.trim().is_empty() && !wanted.iter().any(|begin| line.starts_with(begin)) {
            say(number, "lib.rs is a table of contents, nothing else".to_owned());
        }
    }
}

fn findings(path: &str, text: &str) -> String {
    let source = Source::new(path, text);
    let mut out = String::new();
    let mut say = |line: usize, words: String| writeln!(out, "src/{path}:{line}: {words}").unwrap();
    for rule in [imports, banned_calls, unsafe_code, lengths, words, contents] {
        rule(&source, &mut say);
    }
    out
}

/// Every file below a folder, with its path from there.
fn files(folder: &Path, below: &str, out: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            files(&path, &format!("{name}/"), out);
        } else if name.ends_with(".rs") || name.ends_with(".c") || name.ends_with(".h") {
            out.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn tree(folder: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), "", &mut out);
    out.sort();
    assert!(!out.is_empty(), "{folder} has no files");
    out
}

#[test]
fn the_sources_keep_the_rules() {
    let found: String = tree("src").iter().map(|(path, text)| findings(path, text)).collect();
    assert!(found.is_empty(), "{} findings:\n{found}", found.lines().count());
}

#[test]
fn the_tests_and_the_driver_can_be_read() {
    let mut found = String::new();
    for (folder, limit) in [("tests", FILE_LINES), ("include", FILE_LINES), ("qemu-patches", DRIVER_LINES)] {
        for (path, text) in tree(folder) {
            let count = text.lines().count();
            if count >= limit {
                writeln!(found, "{folder}/{path}: {count} lines, of fewer than {limit}").unwrap();
            }
            for (at, _) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_BYTES) {
                writeln!(found, "{folder}/{path}:{}: the line is longer than {LINE_BYTES}", at + 1).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "{} findings:\n{found}", found.lines().count());
}
