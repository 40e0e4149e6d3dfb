//! Each rule is broken here, and the finding is looked for.

use super::{findings, FILE_LINES, FUNCTION_LINES, LINE_BYTES};

/// What is found in a file with these lines of code, beyond its header.
fn found(path: &str, code: &str) -> String {
    findings(path, &format!("//! What it is for.\n{code}\n"))
}

#[test]
fn upward_and_sideways_imports_are_found() {
    for (path, code, is_bad) in [
        ("log/mod.rs", "use crate::map::Map;", true),
        ("io/mod.rs", "let x = crate::maintain::gc();", true),
        ("capi/mod.rs", "use crate::cli::run;", true),
        ("maintain/gc.rs", "use crate::io::Device;", true),
        ("error.rs", "use crate::backend::Backend;", true),
        ("map/mod.rs", "use super::volume::Volume;", true),
        ("map/tree.rs", "use super::super::volume::Volume;", true),
        ("map/tree.rs", "use crate::{log, volume};", true),
        ("map/tree.rs", "use crate::newcomer::Thing;", true),
        ("maintain/gc.rs", "use crate::volume::Volume;\nuse crate::catalog::head;", false),
        ("map/tree.rs", "use super::page::Page;\n// crate::volume is above\nuse crate::Result;", false),
        ("error.rs", "use crate::name::Id;", false),
        ("main.rs", "fn main() { archipelago::cli::main() }", false),
        ("log/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::volume::Volume;\n}", false),
        ("log/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::volume::Volume;", true),
    ] {
        assert_eq!(!found(path, code).is_empty(), is_bad, "{path}: {code}: {}", found(path, code));
    }
}

#[test]
fn banned_calls_are_found_where_they_are_banned() {
    for (path, code, is_bad) in [
        ("io/mod.rs", "std::thread::spawn(f);", true),
        ("sync/mod.rs", "pub use std::thread::{yield_now, JoinHandle};", false),
        ("io/mod.rs", "use crate::sync::JoinHandle;\ncrate::thread::spawn(f);", false),
        ("io/mod.rs", "use std::thread::JoinHandle;", true),
        ("io/mod.rs", "use parking_lot::Mutex;", true),
        ("sys/uring.rs", "use parking_lot::Mutex;", false),
        ("log/mod.rs", "crossbeam_channel::bounded(1);", true),
        ("io/mod.rs", "let t = std::time::Instant::now();", true),
        ("io/mod.rs", "let t: Instant = clock::now();", false),
        ("clock.rs", "Instant::now()", false),
        ("cli/ls.rs", "println!();", true),
        ("cli/output.rs", "println!();", false),
        ("volume/mod.rs", "eprintln!();", true),
        ("volume/mod.rs", "std::process::Command::new(x);", true),
        ("volume/mod.rs", "x.unwrap();", true),
        ("volume/mod.rs", "x.expect(\"y\");", true),
        ("volume/mod.rs", "x.unwrap_or(1); debug_assert!(true);", false),
        ("volume/mod.rs", "let text = \"x.unwrap() println!\"; // panic!", false),
        ("volume/mod.rs", "let text = r#\"a\"b.unwrap()\"#; let c = '\"'; x.unwrap();", true),
        ("volume/mod.rs", "fn f<'a>(x: &'a str) { panic!(\"{x}\") }", true),
        ("volume/tests.rs", "x.unwrap();", false),
        ("volume/mod.rs", "#[cfg(test)]\nmod tests {\n    fn f() {\n        x.unwrap();\n    }\n}", false),
        ("volume/mod.rs", "#[cfg(test)]\nmod tests {\n}\nfn f() { x.unwrap() }", true),
    ] {
        assert_eq!(!found(path, code).is_empty(), is_bad, "{path}: {code}: {}", found(path, code));
    }
}

#[test]
fn unsafe_is_found_outside_its_folders_and_without_a_reason() {
    let reasoned = "// SAFETY: it is so.\nunsafe { f() };";
    assert!(found("io/mod.rs", reasoned).contains("src/capi and src/sys"));
    assert!(found("sys/uring.rs", "unsafe { f() };").contains("SAFETY"));
    assert_eq!(found("sys/uring.rs", reasoned), "");
    assert_eq!(found("io/mod.rs", "#![deny(unsafe_code)] // unsafe {"), "");
}

#[test]
fn what_is_too_long_is_found() {
    let function = |lines: usize| format!("fn f(a: [u8; 4]) {{\n{}}}", "    g(\"}\");\n".repeat(lines - 2));
    assert_eq!(found("io/mod.rs", &function(FUNCTION_LINES - 1)), "");
    assert!(found("io/mod.rs", &function(FUNCTION_LINES)).contains("mod.rs:2: the function has 70 lines"));
    assert_eq!(found("io/mod.rs", &"\n".repeat(FILE_LINES - 3)), "");
    assert!(found("io/mod.rs", &"\n".repeat(FILE_LINES - 2)).contains("600 lines"));
    assert!(found("io/mod.rs", &format!("// {}", "x".repeat(LINE_BYTES - 2))).contains("mod.rs:2: the line"));
}

#[test]
fn words_headers_and_contents_are_looked_at() {
    for code in
        ["struct ThreadPool;", "let chunk_bytes = 1;", "// two extents", "// TODO: later", "fn peers() {}"]
    {
        assert!(found("io/mod.rs", code).contains("the word"), "{code}");
    }
    assert_eq!(found("io/mod.rs", "x.chunks_exact(8); // spooler, people, extend, opens"), "");
    assert!(found("io/mod.rs", "// caf\u{e9}").contains("ASCII"));
    assert_eq!(found("cli/tree.rs", "// \u{2502}"), "");
    assert_eq!(found("io/tests.rs", "// caf\u{e9}"), "");
    assert!(findings("io/mod.rs", "use std::fmt;\n").contains("what it is for"));
    assert!(found("lib.rs", "pub mod io;\nfn f() {}").contains("lib.rs:3: lib.rs is a table"));
    assert!(found("io/deep/mod.rs", "").contains("one level"));
}
