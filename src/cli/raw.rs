//! Raw bytes to and from volumes: which parts of a buffer are worth writing.

/// The unit in which zeroes are left out.
pub const UNIT_BYTES: usize = 64 << 10;

/// What is copied at once, at least.
pub const COPY_BYTES: usize = 4 << 20;

pub fn is_zero(data: &[u8]) -> bool {
    // In whole words: the compiler makes vectors of that.
    let (front, words, back) = (data.chunks_exact(64), data.len() / 64 * 64, data.len());
    front.into_iter().all(|words| words.iter().fold(0, |sum, byte| sum | byte) == 0)
        && data[words..back].iter().all(|byte| *byte == 0)
}

/// Ranges of `data` that are not zero, in units, neighbours joined.
pub fn data_runs(data: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, unit) in data.chunks(UNIT_BYTES).enumerate() {
        if is_zero(unit) {
            continue;
        }
        let (start, end) = (at * UNIT_BYTES, at * UNIT_BYTES + unit.len());
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_zero_is_left_out() {
        let mut data = vec![0; 10 * UNIT_BYTES + 100];
        assert!(data_runs(&data).is_empty());
        for place in [0, 3 * UNIT_BYTES - 1, 3 * UNIT_BYTES, 10 * UNIT_BYTES + 99] {
            data[place] = 1;
        }
        let unit = UNIT_BYTES;
        assert_eq!(data_runs(&data), [0..unit, 2 * unit..4 * unit, 10 * unit..10 * unit + 100]);
        for length in [0, 1, 63, 64, 65, 1000] {
            let mut data = vec![0; length];
            assert!(is_zero(&data));
            for place in 0..length {
                data[place] = 128;
                assert!(!is_zero(&data), "{place} of {length}");
                data[place] = 0;
            }
        }
    }
}
