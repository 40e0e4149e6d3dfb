//! Which granules of a block are there.

use std::fmt;

const WORD_BITS: u32 = u64::BITS;

/// One bit for each 4 KiB granule of a block.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Presence {
    /// Bits at and beyond `granules` are zero.
    words: Box<[u64]>,
    granules: u32,
}

/// The bits `from..to` of a word.
fn mask(from: u32, to: u32) -> u64 {
    let below = |bits: u32| if bits >= WORD_BITS { u64::MAX } else { (1 << bits) - 1 };
    below(to) & !below(from)
}

impl Presence {
    pub fn empty(granules: u32) -> Presence {
        let words = granules.div_ceil(WORD_BITS) as usize;
        Presence { words: vec![0; words].into_boxed_slice(), granules }
    }

    pub fn full(granules: u32) -> Presence {
        let mut presence = Presence::empty(granules);
        presence.set_range(0, granules);
        presence
    }

    /// How many granules the block has.
    pub fn granules(&self) -> u32 {
        self.granules
    }

    /// False beyond the block's end.
    pub fn get(&self, granule: u32) -> bool {
        let word = self.words.get((granule / WORD_BITS) as usize).copied().unwrap_or(0);
        word >> (granule % WORD_BITS) & 1 == 1
    }

    fn each_word(&mut self, from: u32, to: u32, change: impl Fn(&mut u64, u64)) {
        let to = to.min(self.granules);
        let mut at = from;
        while at < to {
            let base = at - at % WORD_BITS;
            if let Some(word) = self.words.get_mut((at / WORD_BITS) as usize) {
                change(word, mask(at - base, to - base));
            }
            at = base + WORD_BITS;
        }
    }

    /// Marks `from..to` as there.
    pub fn set_range(&mut self, from: u32, to: u32) {
        self.each_word(from, to, |word, mask| *word |= mask);
    }

    /// Marks `from..to` as not there.
    pub fn clear_range(&mut self, from: u32, to: u32) {
        self.each_word(from, to, |word, mask| *word &= !mask);
    }

    pub fn is_full(&self) -> bool {
        self.count_ones() == self.granules
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn count_ones(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether granule `from` is there, and where the run of granules like it
    /// ends. At and beyond the block's end: not there, and its end.
    pub fn next_run(&self, from: u32) -> (bool, u32) {
        if from >= self.granules {
            return (false, self.granules);
        }
        let present = self.get(from);
        let mut at = from;
        while at < self.granules {
            let bit = at % WORD_BITS;
            let word = self.words.get((at / WORD_BITS) as usize).copied().unwrap_or(0);
            // Ones where the run goes on; zeroes are shifted in at the top.
            let same = (if present { word } else { !word }) >> bit;
            let run = same.trailing_ones();
            at += run;
            if run < WORD_BITS - bit {
                break;
            }
        }
        (present, at.min(self.granules))
    }

    /// Whether all of `from..to` is there.
    pub fn covers(&self, from: u32, to: u32) -> bool {
        from >= to || matches!(self.next_run(from), (true, end) if end >= to)
    }

    /// Adds the granules of `other`, of a block of the same size.
    pub fn union_with(&mut self, other: &Presence) {
        debug_assert_eq!(self.granules, other.granules);
        for (word, more) in self.words.iter_mut().zip(other.words.iter()) {
            *word |= more;
        }
    }

    /// The bytes of a bitmap of so many granules.
    pub fn bytes_of(granules: u32) -> usize {
        granules.div_ceil(8) as usize
    }

    /// Lowest bit first, `bytes_of(granules)` bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.truncate(Presence::bytes_of(self.granules));
        out
    }

    /// Reads what `to_bytes` wrote; `None` if the size is wrong or a bit
    /// beyond the end is set.
    pub fn from_bytes(granules: u32, bytes: &[u8]) -> Option<Presence> {
        if bytes.len() != Presence::bytes_of(granules) {
            return None;
        }
        let mut presence = Presence::empty(granules);
        for (word, part) in presence.words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            *word = u64::from_le_bytes(whole);
        }
        let used_bits = granules - granules.saturating_sub(1) / WORD_BITS * WORD_BITS;
        let beyond = presence.words.last().is_some_and(|word| word & !mask(0, used_bits) != 0);
        (!beyond).then_some(presence)
    }

    /// What it takes in memory beside itself.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val::<[u64]>(&self.words)
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presence({} of {}:", self.count_ones(), self.granules)?;
        let mut at = 0;
        while at < self.granules {
            let (present, end) = self.next_run(at);
            if present {
                write!(f, " {at}..{end}")?;
            }
            at = end;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_and_empty_at_every_size() {
        for shift in 2..=14 {
            let granules = 1u32 << shift;
            let (full, empty) = (Presence::full(granules), Presence::empty(granules));
            assert!(full.is_full() && !full.is_empty() && empty.is_empty() && !empty.is_full());
            assert_eq!(full.next_run(0), (true, granules));
            assert_eq!(empty.next_run(1), (false, granules));
            assert_eq!(full.next_run(granules), (false, granules));
            assert_eq!(Presence::from_bytes(granules, &full.to_bytes()), Some(full));
        }
    }

    #[test]
    fn a_bitmap_of_the_wrong_size_or_with_bits_beyond_the_end_is_refused() {
        assert_eq!(Presence::from_bytes(16, &[0; 3]), None);
        assert_eq!(Presence::from_bytes(16, &[0; 1]), None);
        assert_eq!(Presence::from_bytes(4, &[0x10]), None);
        assert!(Presence::from_bytes(4, &[0x0f]).is_some_and(|p| p.is_full()));
    }

    proptest! {
        // A bitmap that is off by one bit shows the guest a granule of the
        // layer beneath: every operation is compared with a plain Vec<bool>.
        #[test]
        fn behaves_like_a_vector_of_bools(
            shift in 2u32..=9,
            steps in prop::collection::vec((any::<bool>(), 0u32..600, 0u32..600), 0..20),
        ) {
            let granules = 1u32 << shift;
            let mut presence = Presence::empty(granules);
            let mut model = vec![false; granules as usize];
            for (set, a, b) in steps {
                let (from, to) = (a.min(b) % (granules + 1), a.max(b));
                if set { presence.set_range(from, to) } else { presence.clear_range(from, to) }
                for bit in model.iter_mut().take(to as usize).skip(from as usize) { *bit = set; }
            }
            prop_assert_eq!(presence.count_ones() as usize, model.iter().filter(|b| **b).count());
            for from in 0..granules {
                let now = model[from as usize];
                prop_assert_eq!(presence.get(from), now);
                let run = model[from as usize..].iter().take_while(|b| **b == now).count() as u32;
                prop_assert_eq!(presence.next_run(from), (now, from + run));
                prop_assert_eq!(presence.covers(from, from + run), now);
                prop_assert!(!presence.covers(from, from + run + 1));
            }
            let bytes = presence.to_bytes();
            prop_assert_eq!(Presence::from_bytes(granules, &bytes), Some(presence.clone()));
            let mut all = presence.clone();
            all.union_with(&Presence::full(granules));
            prop_assert!(all.is_full());
            let mut same = Presence::empty(granules);
            same.union_with(&presence);
            prop_assert_eq!(same, presence);
        }
    }
}
