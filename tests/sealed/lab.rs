//! A store of two places, and what its volumes and snapshots must hold.

use std::sync::Arc;

use archipelago::backend::memory::Memory;
use archipelago::backend::only::{Only, Part};
use archipelago::backend::Backend;
use archipelago::catalog::{clone, snapshot as snapshots, volume as names};
use archipelago::maintain::check;
use archipelago::name::{SnapshotName, VolumeName};
use archipelago::store::{Apart, Store};
use archipelago::volume::{OpenOptions, Volume};

pub const BLOCK: u64 = 64 << 10;
pub const BLOCKS: u64 = 12;
pub const SIZE: usize = (BLOCKS * BLOCK) as usize;

pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

pub fn open(store: &Store, text: &str) -> Arc<Volume> {
    Volume::open(store, &name(text), &OpenOptions::default()).unwrap()
}

/// Two places and what the store on them must hold.
#[derive(Clone)]
pub struct Lab {
    pub own: Memory,
    pub sealed: Memory,
    /// Of `v`, its snapshots `s` and `t`, and a clone `c` of `s`.
    pub content: [Vec<u8>; 4],
}

impl Lab {
    pub fn new() -> Lab {
        let mut lab = Lab { own: Memory::new(), sealed: Memory::new(), content: Default::default() };
        let (own, sealed) = lab.plain();
        let store = Store::init_apart("test", own, Apart { log: None, sealed: Some(sealed) }, BLOCK).unwrap();
        lab.fill(&store);
        lab
    }

    /// Each lets only its own objects in.
    pub fn plain(&self) -> (Arc<dyn Backend>, Arc<dyn Backend>) {
        let sealed = Arc::new(Only::new(Arc::new(self.sealed.clone()), Part::Sealed));
        (Arc::new(self.own.clone()), sealed)
    }

    pub fn open_on((own, sealed): (Arc<dyn Backend>, Arc<dyn Backend>)) -> Store {
        Store::open_apart("test", own, Apart { log: None, sealed: Some(Ok(sealed)) }).unwrap()
    }

    /// As another process has it.
    pub fn open(&self) -> Store {
        Lab::open_on(self.plain())
    }

    pub fn fork(&self) -> Lab {
        Lab { own: self.own.fork(), sealed: self.sealed.fork(), content: self.content.clone() }
    }

    pub fn fill(&mut self, store: &Store) {
        let mut content = vec![0; SIZE];
        names::create(store, &name("v"), SIZE as u64, BLOCK).unwrap();
        let volume = open(store, "v");
        let mut write = |at: u64, bytes: u64, tag: u8| {
            volume.write_at(at, &vec![tag; bytes as usize]).unwrap();
            content[at as usize..(at + bytes) as usize].fill(tag);
            content.clone()
        };
        write(0, 6 * BLOCK, 1);
        self.content[1] = write(8 * BLOCK, 4096, 2);
        volume.snapshot(&snap("s")).unwrap();
        // A layer on each of two blocks, and a new one.
        write(BLOCK, 8192, 3);
        write(2 * BLOCK + 4096, 4096, 4);
        self.content[2] = write(9 * BLOCK, BLOCK, 5);
        volume.snapshot(&snap("t")).unwrap();
        volume.publish_all().unwrap();
        write(3 * BLOCK, BLOCK, 6);
        write(BLOCK, 4096, 7);
        self.content[0] = write(10 * BLOCK, BLOCK, 8);
        volume.close().unwrap();
        let source = snapshots::find(store, volume.id, &snap("s")).unwrap();
        clone::clone(store, &source, &name("c"), None).unwrap();
        let copy = open(store, "c");
        copy.write_at(4 * BLOCK, &vec![9; BLOCK as usize]).unwrap();
        self.content[3] = self.content[1].clone();
        self.content[3][4 * BLOCK as usize..5 * BLOCK as usize].fill(9);
        copy.close().unwrap();
    }

    #[track_caller]
    pub fn assert_content(&self, store: &Store, what: &str) {
        let at = |which: Option<&str>, text: &str| match which {
            Some(which) => Volume::open_snapshot(store, &name(text), &snap(which)).unwrap(),
            None => Volume::open(store, &name(text), &OpenOptions::read_only()).unwrap(),
        };
        let all = [at(None, "v"), at(Some("s"), "v"), at(Some("t"), "v"), at(None, "c")];
        for (volume, content) in all.iter().zip(&self.content) {
            let mut data = vec![0xEE; SIZE];
            volume.read_at(0, &mut data).unwrap_or_else(|error| panic!("{what}: {}", error.full()));
            let wrong = data.iter().zip(content).position(|(found, right)| found != right);
            assert!(wrong.is_none(), "{what}: {}, byte {wrong:?}", volume.name);
        }
    }

    pub fn assert_sound(&self, what: &str) {
        let report = check::run(&self.open(), &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{what}: {:?}", report.problems);
    }
}
