//! Random numbers, decided by a seed.

/// Numbers that follow from a seed alone (SplitMix64).
pub struct Rng(u64);

impl Rng {
    /// The numbers of the input with this number.
    pub fn new(seed: u64, kind: &str, at: u64) -> Rng {
        let word = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        let mut rng = Rng(kind.bytes().fold(seed ^ 0xCBF2_9CE4_8422_2325, word));
        rng.0 = rng.next() ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        match limit {
            0 => 0,
            limit => (self.next() % limit as u64) as usize,
        }
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}
