//! Inputs that were findings once, as text that can be read: lines of an
//! offset and the bytes that are not zero there, and the length at the end.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const LINE_BYTES: usize = 32;

pub fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind)
}

pub fn to_text(data: &[u8]) -> String {
    let mut out = String::new();
    for (at, line) in data.chunks(LINE_BYTES).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            let bytes: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{} {bytes}", at * LINE_BYTES).unwrap();
        }
    }
    writeln!(out, "{} end", data.len()).unwrap();
    out
}

pub fn from_text(text: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (at, bytes) = line.split_once(' ').unwrap();
        data.resize(at.parse().unwrap(), 0);
        if bytes != "end" {
            let byte = |at: usize| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
            data.extend((0..bytes.len()).step_by(2).map(byte));
        }
    }
    data
}

/// The files of a kind, with their names.
pub fn read(kind: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder(kind)) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, from_text(&std::fs::read_to_string(&path).unwrap()))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_corpus_file_is_what_was_saved() {
    let mut data = vec![0; 9000];
    data[4096..4100].copy_from_slice(b"BTCH");
    for data in [data, vec![], vec![0; 3], vec![7; 65]] {
        assert_eq!(from_text(&to_text(&data)), data);
    }
}
