//! Damage, decided by a seed.

pub use super::random::Rng;

/// Numbers at which something ends.
const BORDERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    31,
    47,
    48,
    49,
    55,
    56,
    57,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    5120,
    16_383,
    16_384,
    32_767,
    32_768,
    65_535,
    65_536,
    1 << 20,
    1 << 22,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64 - 4095,
    u32::MAX as u64,
    1 << 32,
    1 << 49,
    1 << 60,
    i64::MAX as u64 - 4095,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4096,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];

/// Where a change goes: anywhere, or where the formats have their fields.
fn place(rng: &mut Rng, data: &[u8]) -> usize {
    let mut anywhere = rng.below(data.len());
    for _ in 0..4 {
        // Most of a segment is zeroes, which say nothing.
        let granule = &data[anywhere / 4096 * 4096..];
        if granule[..granule.len().min(48)].iter().any(|byte| *byte != 0) {
            break;
        }
        anywhere = rng.below(data.len());
    }
    match rng.below(4) {
        0 => anywhere,
        1 => rng.below(data.len().min(64)),
        // Behind an envelope or a batch's front, in any granule.
        _ => {
            let granule = anywhere / 4096 * 4096;
            let reach = (data.len() - granule).min(400);
            granule + rng.below(reach)
        }
    }
}

fn put_number(rng: &mut Rng, data: &mut [u8], border: bool) {
    let at = place(rng, data);
    let width = [1, 2, 4, 8][rng.below(4)];
    if at + width > data.len() {
        return;
    }
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&data[at..at + width]);
    let old = u64::from_le_bytes(bytes);
    let new = match (border, rng.below(4)) {
        (true, 0) => (data.len() as u64).wrapping_add(rng.below(9) as u64).wrapping_sub(4),
        (true, 1) => ((data.len() - at) as u64).wrapping_add(rng.below(9) as u64).wrapping_sub(4),
        (true, 2) => BORDERS[rng.below(BORDERS.len())] & !1023,
        (true, _) => BORDERS[rng.below(BORDERS.len())],
        (false, 0) => old.wrapping_add(4096),
        (false, 1) => old << rng.below(64),
        (false, _) => old.wrapping_add(rng.below(33) as u64).wrapping_sub(16),
    };
    data[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
}

/// One change of the input's length.
fn change_length(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8], words: &[&str]) {
    let at = place(rng, data);
    match rng.below(6) {
        0 => data.truncate(at),
        1 => {
            let more = rng.below(40);
            let byte = [0, 0xFF, rng.next() as u8][rng.below(3)];
            data.resize(data.len() + more, byte);
        }
        2 => {
            let end = (at + 1 + rng.below(40)).min(data.len());
            data.drain(at.min(end)..end);
        }
        3 => {
            let end = (at + 1 + rng.below(40)).min(data.len());
            let again = data[at.min(end)..end].to_vec();
            data.splice(at..at, again);
        }
        4 if !words.is_empty() => {
            let word = words[rng.below(words.len())];
            data.splice(at..at, word.bytes());
        }
        // The front of one and the rest of another.
        _ => {
            let from = if rng.one_in(2) { at.min(other.len()) } else { rng.below(other.len()) };
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
    }
}

/// One change that keeps the length.
fn change_bytes(rng: &mut Rng, data: &mut [u8], other: &[u8]) {
    let at = place(rng, data);
    match rng.below(8) {
        0 | 1 => data[at] ^= 1 << rng.below(8),
        2 => data[at] = rng.next() as u8,
        3..=5 => put_number(rng, data, true),
        6 => put_number(rng, data, false),
        _ => {
            let from = place(rng, other);
            let bytes = [1, 2, 4, 8, 16, 40][rng.below(6)].min(data.len() - at).min(other.len() - from);
            data[at..at + bytes].copy_from_slice(&other[from..from + bytes]);
        }
    }
}

/// A seed with a few changes.
pub fn mutate(rng: &mut Rng, seeds: &[Vec<u8>], words: &[&str], bytes_max: usize) -> (Vec<u8>, usize) {
    let picked = rng.below(seeds.len());
    let mut data = seeds[picked].clone();
    let most = [1, 1, 2, 4, 8][rng.below(5)];
    let changes = 1 + rng.below(most);
    for _ in 0..changes {
        let other = &seeds[rng.below(seeds.len())];
        let longer = if words.is_empty() { rng.one_in(6) } else { rng.one_in(2) };
        if data.is_empty() || longer {
            change_length(rng, &mut data, other, words);
        } else {
            change_bytes(rng, &mut data, if other.is_empty() { &[0] } else { other });
        }
    }
    data.truncate(bytes_max);
    (data, picked)
}
