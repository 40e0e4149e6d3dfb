//! Settling many small pieces at once. What can go wrong: a granule gets the
//! bytes of another, a gap between two is filled although the own object holds
//! something there, a piece of a part of a granule loses what was beneath it.

use std::sync::Arc;

use super::*;
use crate::backend::dir::{Dir, DirOptions};
use crate::backend::faulty::{Faulty, Method};
use crate::backend::memory::Memory;
use crate::backend::Backend;
use crate::catalog::volume as names;
use crate::log::LogOptions;
use crate::name::{SnapshotName, VolumeName};

const BLOCK: u64 = 1 << 20;
const BLOCKS: u64 = 24;

struct Bed {
    volume: Arc<Volume>,
    model: Vec<u8>,
    seed: u64,
}

impl Bed {
    fn new(backend: Arc<dyn Backend>) -> Bed {
        let store = Store::init("test", backend, BLOCK).unwrap();
        let name = VolumeName::new("v").unwrap();
        names::create(&store, &name, BLOCKS * BLOCK, BLOCK).unwrap();
        let log = LogOptions { segment_bytes: 512 << 10, ..LogOptions::default() };
        let options = OpenOptions { log, ..OpenOptions::default() };
        let volume = Volume::open(&store, &name, &options).unwrap();
        let model = vec![1; (BLOCKS * BLOCK) as usize];
        volume.write_at(0, &model).unwrap();
        Bed { volume, model, seed: 1 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn write(&mut self, at: u64, bytes: u64) {
        let fill = 2 + self.random(250) as u8;
        self.volume.write_at(at, &vec![fill; bytes as usize]).unwrap();
        self.model[at as usize..(at + bytes) as usize].fill(fill);
    }

    fn check(&self, what: &str) {
        let mut data = vec![0; self.model.len()];
        self.volume.read_at(0, &mut data).unwrap();
        let wrong = (0..data.len()).find(|at| data[*at] != self.model[*at]);
        assert_eq!(wrong, None, "{what}: the first wrong byte");
    }

    /// Generations of scattered writes, each settled into what is there from
    /// the one before.
    fn run(&mut self) {
        for round in 0..4 {
            if round % 2 == 0 {
                self.volume.snapshot(&SnapshotName::new(&format!("s{round}")).unwrap()).unwrap();
            }
            for _ in 0..600 {
                let granule = self.random(BLOCKS * BLOCK / 4096);
                match self.random(8) {
                    0 => self.write(granule * 4096 + 512, 1024),
                    1 => self.write(granule * 4096, 4096 * 3.min(BLOCKS * BLOCK / 4096 - granule)),
                    2 => {
                        self.volume.write_zeroes(granule * 4096, 4096).unwrap();
                        self.model[granule as usize * 4096..][..4096].fill(0);
                    }
                    _ => self.write(granule * 4096, 4096),
                }
            }
            self.volume.settle_all().unwrap();
            self.check(&format!("round {round}"));
        }
    }
}

#[test]
fn what_is_settled_reads_as_it_was_written() {
    Bed::new(Arc::new(Memory::new())).run();
}

#[test]
fn several_writes_in_flight_change_nothing() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let options = DirOptions { direct: true, ..DirOptions::default() };
    Bed::new(Arc::new(Dir::create(folder.path(), options).unwrap())).run();
}

/// 4 KiB at every granule of every second 64 KiB, in an order that has nothing
/// to do with the blocks': few writes, not one for each.
#[test]
fn scattered_pieces_are_settled_in_few_calls() {
    let faulty = Faulty::new(Arc::new(Memory::new()));
    let mut bed = Bed::new(Arc::new(faulty.clone()));
    bed.volume.snapshot(&SnapshotName::new("s").unwrap()).unwrap();
    let count = BLOCKS * BLOCK / 8192;
    for index in 0..count {
        let granule = index * 1_901 % count;
        bed.write((granule / 16 * 32 + granule % 16) * 4096, 4096);
    }
    faulty.reset_counts();
    let mut settled_bytes = 0;
    bed.volume.settle_some(&mut |bytes| settled_bytes += bytes).unwrap();
    // The snapshot is published first; then the pieces are settled.
    bed.volume.publish_all().unwrap();
    bed.volume.settle_some(&mut |bytes| settled_bytes += bytes).unwrap();
    assert_eq!(settled_bytes, count * 4096, "the progress that was told");
    let (reads, writes) = (faulty.calls(Method::Read), faulty.calls(Method::Write));
    assert!(writes < count / 8, "{writes} writes for {count} pieces");
    assert!(reads <= count + 64, "{reads} reads for {count} pieces");
    bed.check("settled");
}
