//! What can go wrong when many pieces are read at once: one gets another's
//! bytes, damage in one is told of another or not at all, and damage that
//! nobody wants to read stops everything.

use std::sync::Arc;

use super::format::ALIGN_BYTES;
use super::segment::{join, Segment, Wanted, GAP_BYTES_MAX};
use crate::backend::faulty::{Fault, Faulty, Method, Rule};
use crate::backend::memory::Memory;
use crate::backend::Backend;
use crate::error::{ErrorKind, Result};
use crate::name::Id;

const GRANULE: usize = ALIGN_BYTES as usize;
const SEGMENT_BYTES: u64 = 4 << 20;

fn content(granule: u64) -> Vec<u8> {
    granule.to_le_bytes().repeat(GRANULE / 8)
}

/// A segment of granules that are all different, and the sums of them.
fn filled(backend: Arc<dyn Backend>) -> (Segment, Vec<u64>) {
    let segment = Segment::create(&backend, Id(7), 1, SEGMENT_BYTES, 0).unwrap();
    let mut sums = vec![0];
    for granule in 1..SEGMENT_BYTES / ALIGN_BYTES {
        segment.write(granule * ALIGN_BYTES, &content(granule)).unwrap();
        sums.push(segment.seed.granule_sum(&content(granule)));
    }
    (segment, sums)
}

/// Ranges of granules: near each other, far from each other, overlapping, and
/// more than one read brings.
const RANGES: [(usize, usize); 8] =
    [(1, 2), (3, 4), (4, 40), (39, 41), (45, 46), (60, 61), (400, 720), (721, 1000)];

fn wanted(sums: &[u64]) -> Vec<Wanted<'_>> {
    let each = |(from, to): &(usize, usize)| Wanted {
        offset_bytes: *from as u64 * ALIGN_BYTES,
        sums: &sums[*from..*to],
    };
    RANGES.iter().map(each).collect()
}

fn read_all(segment: &Segment, sums: &[u64]) -> Result<()> {
    let mut seen = Vec::new();
    segment.read_many(&wanted(sums), 4, |index, data| {
        let (from, to) = RANGES[index];
        let expected: Vec<u8> = (from..to).flat_map(|granule| content(granule as u64)).collect();
        assert!(data == expected, "range {index}");
        seen.push(index);
    })?;
    assert_eq!(seen, (0..RANGES.len()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn everyone_gets_their_own_bytes_in_few_reads() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let (segment, sums) = filled(Arc::new(faulty.clone()));
    faulty.reset_counts();
    read_all(&segment, &sums).unwrap();
    assert_eq!(faulty.calls(Method::Read), 6, "those that touch together, and nothing that nobody wants");
    assert_eq!(join(&wanted(&sums), GAP_BYTES_MAX).len(), 4, "on a data path the first five together");
}

#[test]
fn past_the_page_cache_too() {
    use crate::backend::dir::{Dir, DirOptions};
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let options = DirOptions { direct: true, ..DirOptions::default() };
    let dir = Dir::create(folder.path(), options).unwrap();
    let (segment, sums) = filled(Arc::new(dir));
    read_all(&segment, &sums).unwrap();
    segment.write(39 * ALIGN_BYTES + 5, b"x").unwrap();
    let error = read_all(&segment, &sums).unwrap_err();
    assert!(error.full().contains(&(39 * ALIGN_BYTES).to_string()), "{}", error.full());
}

/// In the middle of what is read together.
#[test]
fn damage_is_told_of_the_granule_that_has_it() {
    let (segment, sums) = filled(Arc::new(Memory::new()));
    segment.write(20 * ALIGN_BYTES + 100, b"x").unwrap();
    let error = read_all(&segment, &sums).unwrap_err();
    assert!(error.is(ErrorKind::Corrupt));
    let text = error.full();
    assert!(text.contains(&segment.name.to_string()), "{text}");
    assert!(text.contains(&(20 * ALIGN_BYTES).to_string()), "{text}");
}

#[test]
fn damage_between_pieces_is_nobodys() {
    use crate::backend::dir::{Dir, DirOptions};
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let options = DirOptions { direct: true, ..DirOptions::default() };
    let (segment, sums) = filled(Arc::new(Dir::create(folder.path(), options).unwrap()));
    for granule in [2, 42, 720] {
        segment.write(granule * ALIGN_BYTES, b"x").unwrap();
    }
    read_all(&segment, &sums).unwrap();
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let (segment, sums) = filled(Arc::new(faulty.clone()));
    // What cannot be read at all: each is then read by itself.
    faulty.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).on(Method::Read));
    read_all(&segment, &sums).unwrap();
    assert_eq!(faulty.struck(), 1);
}
