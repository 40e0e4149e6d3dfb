"""Weaves all mutants of a source tree into one build.

A function with mutants gets a body for each of them, and which one runs is chosen
when the program runs:

    fn covers(&self, at: u64) -> bool {
    match crate::mutant::chosen(7) {
    31 => { true }
    32 => { at <= self.end }
    _ => { at < self.end }
    }
    }

So the tests are built once, and not once for each mutant. `cargo mutants --list` says
where what is replaced. A mutant that the compiler refuses is found by the line that
it complains about and left out. What is no function's body (constants, `const fn`)
cannot be chosen at run time: such a mutant is built alone.
"""

import bisect
import hashlib
import json
import re
import subprocess

SWITCH = '''//! Which mutant runs, and which functions were entered. Woven in by tests/mutants.
#![allow(unsafe_code)]
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};
use std::sync::OnceLock;

const FUNCTIONS: usize = @FUNCTIONS@;
static CHOSEN: AtomicU32 = AtomicU32::new(u32::MAX);
static ENTERED: OnceLock<Option<&'static [AtomicU8]>> = OnceLock::new();

fn map_entered() -> Option<&'static [AtomicU8]> {
    let path = std::ffi::CString::new(std::env::var("MUTANT_ENTERED").ok()?).ok()?;
    // SAFETY: the file has FUNCTIONS bytes, and the mapping is never taken away.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), FUNCTIONS, both, libc::MAP_SHARED, file, 0);
        libc::close(file);
        if at == libc::MAP_FAILED {
            return None;
        }
        Some(std::slice::from_raw_parts(at.cast::<AtomicU8>(), FUNCTIONS))
    }
}

#[inline(never)]
#[cold]
fn first() -> u32 {
    let text = std::env::var("MUTANT").unwrap_or_default();
    let chosen = text.parse().unwrap_or(0);
    ENTERED.get_or_init(map_entered);
    CHOSEN.store(chosen, Ordering::Release);
    chosen
}

#[inline]
pub fn chosen(function: usize) -> u32 {
    let chosen = match CHOSEN.load(Ordering::Acquire) {
        u32::MAX => first(),
        chosen => chosen,
    };
    if chosen == 0 {
        if let Some(Some(entered)) = ENTERED.get() {
            entered[function].store(1, Ordering::Relaxed);
        }
    }
    chosen
}
'''


class Source:
    """The text of a file, addressed as cargo-mutants does: lines and columns from 1."""

    def __init__(self, text):
        self.text = text
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def at(self, place):
        return self.starts[place["line"] - 1] + place["column"] - 1

    def span(self, span):
        return self.at(span["start"]), self.at(span["end"])

    def line_of(self, offset):
        return bisect.bisect_right(self.starts, offset)


class Mutant:
    """One change: where, by what, and a key that stays while its function stays as it is."""

    def __init__(self, entry, source):
        self.file = entry["file"]
        self.genre = entry["genre"]
        self.replacement = entry["replacement"]
        function = entry.get("function")
        self.function = function["function_name"] if function else "a constant"
        self.what = re.sub(r"^[^ ]+: ", "", entry["name"])
        self.start, self.end = source.span(entry["span"])
        around = source.span(function["span"]) if function else (self.start, self.end)
        self.around = around if function else None
        self.line = entry["span"]["start"]["line"]
        self.code = " ".join(source.text.split("\n")[self.line - 1].split())
        where = self.code if not function else source.text[around[0]:around[1]]
        offsets = [str(offset - around[0]) for offset in (self.start, self.end)]
        said = "\0".join([self.file, where, *offsets, self.what])
        self.key = hashlib.sha256(said.encode()).hexdigest()[:16]
        self.number = 0
        self.alone = function is None
        self.entry = None

    @property
    def module(self):
        return self.file.split("/")[1]

    def apply(self, text, offset):
        """`text` begins at `offset` of the file."""
        return text[:self.start - offset] + self.replacement + text[self.end - offset:]

    def label(self):
        return f"{self.file}:{self.line}: {self.what}"


def listed(tree, cargo):
    """All mutants of the tree, in an order that is random and stays the same."""
    out = subprocess.run([cargo, "mutants", "--list", "--json"], cwd=tree, check=True,
                         stdout=subprocess.PIPE).stdout
    sources, mutants = {}, {}
    for entry in json.loads(out):
        file = entry["file"]
        if file not in sources:
            sources[file] = Source((tree / file).read_text())
        mutant = Mutant(entry, sources[file])
        mutants[mutant.key] = mutant
    ordered = sorted(mutants.values(), key=lambda mutant: mutant.key)
    numbers = set()
    for mutant in ordered:
        # The same one next time, so that what has not changed is not built again.
        mutant.number = int(mutant.key[:7], 16) + 1
        while mutant.number in numbers:
            mutant.number += 1
        numbers.add(mutant.number)
    return sources, ordered


def body_of(text, start, end):
    """Where the `{` of the body of the function in text[start:end] is, and what is before it."""
    depth, at = 0, text.index("fn ", start)
    while at < end:
        letter = text[at]
        if letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        elif letter == "{" and depth == 0:
            return at
        at += 1
    raise ValueError(f"no body in {text[start:end]!r}")


def boxed(head):
    """A head that returns `impl Trait` returns a box instead: each mutant is a type of its own."""
    found = re.search(r"-> impl ([^{]*?)\s*$", head)
    if not found:
        return head, False
    bounds = found.group(1)
    if "'" not in bounds and "&" in head:
        bounds += " + '_"
    return f"{head[:found.start()]}-> Box<dyn {bounds}> ", True


def weave(source, mutants, first_function):
    """The text with these mutants woven in; [(first line, last line, mutant)]; the functions."""
    functions = {}
    for mutant in mutants:
        functions.setdefault(mutant.around, []).append(mutant)
    text, out, lines, at = source.text, [], [], 0
    line = 1

    def put(piece):
        nonlocal line
        out.append(piece)
        line += piece.count("\n")

    names = []
    for (start, end), of_function in sorted(functions.items()):
        if start < at:
            raise ValueError(f"{of_function[0].label()}: a function within a function")
        open_at = body_of(text, start, end)
        put(text[at:start])
        head, box = boxed(text[start:open_at])
        function = first_function + len(names)
        names.append(of_function)
        whole = line
        put(re.sub(r"\bconst fn\b", "fn", head))
        put(f"{{\nmatch crate::mutant::chosen({function}) {{\n")
        body = text[open_at:end]
        wrapped = (lambda inner: f"Box::new({inner}),") if box else (lambda inner: inner)
        for mutant in of_function:
            mutant.entry = function
            begun = line
            changed = mutant.apply(body, open_at)
            put(f"{mutant.number} => {wrapped(changed)}\n")
            lines.append((begun, line - 1, [mutant]))
        put(f"_ => {wrapped(body)}\n}}\n}}")
        # What fails outside of a mutant's own lines fails because of all of them.
        lines.append((whole, line, of_function))
        at = end
    put(text[at:])
    return "".join(out), lines, names
