//! The C interface, as C programs see it.
//!
//! What can go wrong: the header promises what the library does not do, or names what
//! it does not have; a structure is laid out differently on both sides; a callback
//! runs twice, never, on the caller's thread or after close; a panic or an error
//! crosses as garbage; the library is unloaded under its threads. Each program in
//! tests/c makes one claim (its first line), is built against include/archipelago.h
//! with warnings as errors, and runs on a store of its own under a deadline. What the
//! library exports is compared with what the header declares.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use archipelago::{config, store};

const DEADLINE: Duration = Duration::from_secs(120);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library of the profile that this test was built with, or the one of
/// `scripts/check-sanitizers`.
fn library() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(given) = std::env::var_os("ARCHIPELAGO_C_LIBRARY") {
            return given.into();
        }
        let test = std::env::current_exe().unwrap();
        let deps = test.parent().unwrap();
        // Cargo builds it before the tests that depend on the crate.
        let built = deps.join("libarchipelago.so");
        if !built.exists() {
            let profile = deps.parent().unwrap();
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--lib", "--manifest-path"]).arg(root().join("Cargo.toml"));
            cargo.arg("--target-dir").arg(profile.parent().unwrap());
            if profile.file_name().unwrap() == "release" {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "the library cannot be built");
        }
        assert!(built.exists(), "there is no {}", built.display());
        built
    })
}

/// The output of a program that must succeed.
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}: {words}", done.status);
    String::from_utf8(done.stdout).unwrap()
}

/// A folder with the library under the names that programs ask for, a program, and a
/// configured store.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libarchipelago.so", "libarchipelago.so.0"] {
            std::os::unix::fs::symlink(library(), folder.path().join(name)).unwrap();
        }
        let path = folder.path().join("archipelago.toml");
        let store = folder.path().join("store");
        let text = format!("[stores.main]\nurl = 'dir:{}'\nblock_size = '64K'\n", store.display());
        std::fs::write(&path, text).unwrap();
        let config = config::load(Some(&path)).unwrap();
        store::open::init_store(&config, None, None).unwrap();
        Lab { folder }
    }

    fn build(&self, source: &str) -> PathBuf {
        let is_c = source.ends_with(".c");
        let program = self.folder.path().join("program");
        let mut compiler = Command::new(if is_c { "cc" } else { "c++" });
        compiler.arg(if is_c { "-std=c99" } else { "-std=c++11" });
        compiler.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", "-o"]).arg(&program);
        compiler.arg("-I").arg(root().join("include")).arg(root().join("tests/c").join(source));
        compiler.arg("-L").arg(self.folder.path()).args(["-larchipelago", "-lpthread"]);
        compiler.arg(format!("-Wl,-rpath,{}", self.folder.path().display()));
        // Of scripts/check-sanitizers.
        compiler.args(std::env::var("ARCHIPELAGO_C_FLAGS").unwrap_or_default().split_whitespace());
        run(&mut compiler);
        program
    }

    /// Runs a program of tests/c; it must end well, and in time.
    fn claim(&self, source: &str) {
        let mut child = Command::new(self.build(source))
            // Cargo's goes before the program's own, and may lead to an older library.
            .env_remove("LD_LIBRARY_PATH")
            .env("ARCHIPELAGO_CONFIG", self.folder.path().join("archipelago.toml"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // Its children end with it, or whoever reads what we say waits for them.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let words = std::thread::spawn(move || {
            let mut words = String::new();
            stderr.read_to_string(&mut words).map(|_| words)
        });
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let group = format!("-{}", child.id());
                run(Command::new("kill").args(["-9", "--", &group]));
                child.wait().unwrap();
                panic!("{source}: not at its end after {DEADLINE:?}: {}", claim_of(source));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let words = words.join().unwrap().unwrap();
        let signal = status.signal().map_or(String::new(), |signal| format!(" (signal {signal})"));
        assert!(status.success(), "{source}{signal}: {}\n{words}", claim_of(source));
    }
}

fn claim_of(source: &str) -> String {
    let text = std::fs::read_to_string(root().join("tests/c").join(source)).unwrap();
    let first = text.lines().next().unwrap();
    first.trim_start_matches(['/', '*']).trim_end_matches("*/").trim().to_owned()
}

macro_rules! programs {
    ($($test:ident $source:literal),* $(,)?) => {
        const PROGRAMS: &[&str] = &[$($source),*];
        $(
            #[test]
            fn $test() {
                Lab::new().claim($source);
            }
        )*
    };
}

programs! {
    callbacks "callbacks.c",
    cplusplus "cplusplus.cc",
    crashed_holder "crashed_holder.c",
    create_remove "create_remove.c",
    data "data.c",
    flags "flags.c",
    handover "handover.c",
    layout "layout.c",
    open_close "open_close.c",
    read_only "read_only.c",
    resize "resize.c",
    second_writer "second_writer.c",
    snapshots "snapshots.c",
    threads "threads.c",
    try_read "try_read.c",
    zeroes "zeroes.c",
}

#[test]
fn every_program_is_run() {
    let there: BTreeSet<String> = std::fs::read_dir(root().join("tests/c"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".h"))
        .collect();
    assert_eq!(there, PROGRAMS.iter().map(|name| (*name).to_owned()).collect());
    for name in PROGRAMS {
        assert!(claim_of(name).ends_with('.'), "{name} does not begin with its claim");
    }
}

#[test]
fn a_program_whose_claim_fails_is_noticed() {
    let lab = Lab::new();
    let source = lab.folder.path().join("wrong.c");
    let text = format!(
        "/* Wrong. */\n#include \"{}/tests/c/lab.h\"\n\
         int main(void) {{ SAME(lab_create(\"a\", 1, NULL), -1); }}\n",
        root().display()
    );
    std::fs::write(&source, text).unwrap();
    // An absolute path takes the place of tests/c.
    let source = source.to_str().unwrap().to_owned();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.claim(&source)));
    let words = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains("wrong.c:3") && words.contains("is 0 instead of -1"), "{words}");
}

/// The functions that the header declares.
fn declared(header: &str) -> BTreeSet<String> {
    let mut code = String::new();
    for (at, part) in header.split("/*").enumerate() {
        code.push_str(if at == 0 { part } else { part.split_once("*/").unwrap().1 });
    }
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("archipelago_") {
        let rest = &code[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap();
        let line = code[..at].rsplit(['\n', ';']).next().unwrap();
        if rest[end..].starts_with('(') && !line.contains("typedef") {
            names.insert(rest[..end].to_owned());
        }
    }
    names
}

fn exported() -> BTreeSet<String> {
    let text = run(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(library()));
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    let header = std::fs::read_to_string(root().join("include/archipelago.h")).unwrap();
    let declared = declared(&header);
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(declared, exported());
    assert!(!declared.contains("archipelago_callback"));
    assert_eq!(
        declared_of("typedef void archipelago_a(void); int\narchipelago_b(int x); /* archipelago_c( */"),
        ["archipelago_b"]
    );
}

fn declared_of(header: &str) -> Vec<String> {
    declared(header).into_iter().collect()
}

#[test]
fn the_library_has_its_name_and_stays_where_it_was_loaded() {
    let dynamic = run(Command::new("readelf").args(["--dynamic", "--wide"]).arg(library()));
    let has = |tag: &str, value: &str| {
        assert!(
            dynamic.lines().any(|line| line.contains(tag) && line.contains(value)),
            "{tag} has no {value}:\n{dynamic}"
        );
    };
    has("SONAME", "[libarchipelago.so.0]");
    has("FLAGS_1", "NODELETE");
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let known =
            ["libc.so", "libgcc_s.so", "libm.so", "libpthread.so", "libdl.so", "ld-linux", "librt.so"];
        assert!(known.iter().any(|name| line.contains(name)), "a library that not every host has: {line}");
    }
}

#[test]
fn the_library_cannot_fork_or_execute() {
    // QEMU's sandbox forbids it: what is not called by name cannot be called.
    let text = run(Command::new("nm").args(["-D", "--undefined-only", "--format=posix"]).arg(library()));
    for line in text.lines() {
        let name = line.split([' ', '@']).next().unwrap();
        let banned = [
            "fork",
            "vfork",
            "posix_spawn",
            "posix_spawnp",
            "execve",
            "execvp",
            "system",
            "popen",
            "setpriority",
        ];
        assert!(!banned.contains(&name), "the library calls {name}");
    }
}
