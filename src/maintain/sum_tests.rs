//! What can go wrong: a sum that is always wrong in the same way. Scrub would
//! find what it computed before, and so would nobody else: another program, a
//! copy in another store, a later version of this one.
//!
//! How this proves that it cannot: each sum is compared with the BLAKE3 of
//! what the block holds, holes and granules that do not count as zeroes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::error::ErrorKind;
use crate::name::Id;
use crate::store::GRANULE_BYTES;

const BLOCK: u64 = 4 << 20;
const NAME: ObjectName = ObjectName::Block { epoch: Id(7), index: 3 };
const GRANULES: u32 = (BLOCK / GRANULE_BYTES) as u32;

/// A block with data at the front, in the middle and at the end, and holes
/// between them that are longer than one read.
fn scattered() -> (tempfile::TempDir, Dir, Vec<u8>) {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let dir = Dir::create(folder.path(), DirOptions::default()).unwrap();
    dir.create_sparse(&NAME, BLOCK).unwrap();
    let mut content = vec![0; BLOCK as usize];
    for (from, bytes) in [(0, 8192), (1 << 20, 1_500_000), (BLOCK as usize - 4096, 4096)] {
        let data: Vec<u8> = (0..bytes).map(|at| (at / 7 % 255) as u8 + 1).collect();
        dir.write_at(&NAME, from as u64, &data).unwrap();
        content[from..from + bytes].copy_from_slice(&data);
    }
    (folder, dir, content)
}

fn presence(ranges: &[(u32, u32)]) -> Presence {
    let mut presence = Presence::empty(GRANULES);
    ranges.iter().for_each(|(from, to)| presence.set_range(*from, *to));
    presence
}

#[test]
fn a_sum_is_that_of_what_counts() {
    let (_folder, dir, content) = scattered();
    let mut summer = Summer::new(&dir, None);
    let whole = summer.sum(&NAME, BLOCK, None).unwrap();
    assert_eq!(whole, *blake3::hash(&content).as_bytes());
    let read = summer.read_bytes();
    assert!((1_500_000..1_700_000).contains(&read), "{read} bytes are read, holes are not");
    let cases: [&[(u32, u32)]; 5] =
        [&[], &[(0, GRANULES)], &[(1, 2)], &[(0, 1), (300, 301), (GRANULES - 1, GRANULES)], &[(2, 700)]];
    for ranges in cases {
        let mut counted = vec![0; BLOCK as usize];
        for (from, to) in ranges {
            let range = *from as usize * GRANULE_BYTES as usize..*to as usize * GRANULE_BYTES as usize;
            counted[range.clone()].copy_from_slice(&content[range]);
        }
        let sum = summer.sum(&NAME, BLOCK, Some(&presence(ranges))).unwrap();
        assert_eq!(sum, *blake3::hash(&counted).as_bytes(), "granules {ranges:?}");
    }
}

#[test]
fn a_block_of_another_size_has_no_sum() {
    let (_folder, dir, _) = scattered();
    let mut summer = Summer::new(&dir, None);
    for bytes in [BLOCK - 1, BLOCK + 1, BLOCK * 2] {
        let error = summer.sum(&NAME, bytes, None).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains(&bytes.to_string()), "{error}");
    }
    let gone = ObjectName::Block { epoch: Id(7), index: 4 };
    assert!(summer.sum(&gone, BLOCK, None).unwrap_err().is(ErrorKind::NotFound));
}

/// It says how long it is, and reading it says otherwise.
#[test]
fn a_block_that_ends_before_its_end_has_no_sum() {
    let (_folder, dir, _) = scattered();
    let faulty = Faulty::new(Arc::new(dir));
    for (missing_bytes, after) in [(1, 0), (4096, 1)] {
        faulty.inject(Rule::new(Fault::Truncate(missing_bytes)).on(Method::Read).after(after));
        let error = Summer::new(&faulty, None).sum(&NAME, BLOCK, None).unwrap_err();
        assert!(error.is(ErrorKind::Corrupt) && error.to_string().contains("it ends after"), "{error}");
    }
    assert_eq!(faulty.struck(), 2);
}

/// As fast as it may, and no faster.
#[test]
fn a_limit_is_kept_and_not_undercut() {
    let (_folder, dir, _) = scattered();
    let began = Instant::now();
    let mut summer = Summer::new(&dir, Some(8 << 20));
    summer.sum(&NAME, BLOCK, None).unwrap();
    let due = Duration::from_secs_f64(summer.read_bytes() as f64 / f64::from(8 << 20));
    assert!(began.elapsed() >= due, "{:?} for {} bytes", began.elapsed(), summer.read_bytes());
    assert!(began.elapsed() < due + Duration::from_secs(20));
    // What took longer already is not made to wait.
    let mut summer = Summer::new(&dir, Some(1 << 40));
    summer.sum(&NAME, BLOCK, None).unwrap();
}
