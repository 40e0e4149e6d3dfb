//! Who uses what: every block that a volume or a snapshot names, and by how
//! many it is named. What only one names is its own, the rest is shared.

use std::collections::HashMap;

use super::output::{Output, Unit};
use super::volumes::latest_if_there;
use crate::catalog::head::Head;
use crate::catalog::lease::{self, LeaseState};
use crate::catalog::snapshot::{self, Snapshot};
use crate::catalog::volume as names;
use crate::error::{ErrorKind, Result};
use crate::maintain::usage;
use crate::map::{Base, Entry, Map};
use crate::name::{Id, ObjectName, VolumeName};
use crate::store::{Store, GRANULE_BYTES};
use crate::volume::{Listed, OpenOptions, Volume};

/// Up to this many blocks are asked for what they really take.
const EXACT_BLOCKS_MAX: usize = 1 << 16;

/// Set in the numbers of snapshots, to tell them from volumes.
const SNAPSHOT: u32 = 1 << 31;

/// A block object.
type Key = (Id, u64);

#[derive(Debug, Default)]
struct Use {
    bytes: u64,
    by: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub own_bytes: u64,
    pub shared_bytes: u64,
}

#[derive(Debug)]
pub struct VolumeRow {
    pub name: VolumeName,
    pub id: Id,
    pub head: Head,
    pub size_bytes: u64,
    pub lease: LeaseState,
    /// Snapshots, pending ones included.
    pub snapshots: Vec<Listed>,
    pub sizes: Sizes,
    pub log_bytes: u64,
    /// Why it could not be read.
    pub error: Option<String>,
}

#[derive(Debug)]
pub struct SnapshotRow {
    pub snapshot: Snapshot,
    pub sizes: Sizes,
    pub error: Option<String>,
}

/// All of a store.
#[derive(Debug)]
pub struct Census {
    pub volumes: Vec<VolumeRow>,
    pub snapshots: Vec<SnapshotRow>,
    /// Names of volumes that are in another store, and what that is called.
    pub moved: Vec<(VolumeName, String)>,
    /// False: sizes are what blocks can take at most.
    pub is_exact: bool,
    /// What gc would give back; unknown if something cannot be read.
    pub reclaimable_bytes: Option<u64>,
    uses: HashMap<Key, Use>,
}

/// Looks at the whole store. `sizes` false: only at names, heads and leases.
pub fn take(store: &Store, output: &Output, sizes: bool) -> Result<Census> {
    // Most pages are part of several maps, and are walked again for what is
    // reclaimable.
    let store = &store.remembering_pages();
    let volumes = names::list(store)?;
    let snapshots = snapshot::list_all(store)?;
    let mut progress = output.begin("reading maps", 0, Unit::Things);
    let total = (volumes.len() + snapshots.len()) as u64;
    let mut census = Census {
        volumes: Vec::new(),
        snapshots: Vec::new(),
        moved: Vec::new(),
        is_exact: true,
        reclaimable_bytes: None,
        uses: HashMap::new(),
    };
    for (at, (name, id)) in volumes.into_iter().enumerate() {
        progress.set(at as u64, total);
        if let Some(other) = lease::moved_to(store, id)? {
            census.moved.push((name, other.store_name));
            continue;
        }
        let Some(head) = latest_if_there(store, id)? else { continue };
        let root = census.volumes.len() as u32;
        let mut row = VolumeRow {
            size_bytes: head.size_bytes,
            lease: lease::show(store, id)?,
            snapshots: Vec::new(),
            sizes: Sizes::default(),
            log_bytes: 0,
            error: None,
            name,
            id,
            head,
        };
        match census.add_volume(store, root, &mut row, sizes) {
            Err(error) if error.is(ErrorKind::NotFound) => continue,
            Err(error) => row.error = Some(error.full()),
            Ok(()) => {}
        }
        census.volumes.push(row);
    }
    for (at, snapshot) in snapshots.into_iter().enumerate() {
        progress.set((census.volumes.len() + at) as u64, total);
        let root = SNAPSHOT | at as u32;
        let error = match sizes {
            true => census.add_snapshot(store, root, &snapshot).err().map(|error| error.full()),
            false => None,
        };
        census.snapshots.push(SnapshotRow { snapshot, sizes: Sizes::default(), error });
    }
    if sizes {
        census.weigh(store)?;
        census.add_up();
        census.reclaimable_bytes = match usage::reclaimable(store, &mut |_| {}) {
            Ok(reclaimable) => Some(reclaimable.bytes),
            Err(error) => {
                log::debug!("what is reclaimable cannot be told: {}", error.full());
                None
            }
        };
    }
    Ok(census)
}

impl Census {
    fn add_volume(&mut self, store: &Store, root: u32, row: &mut VolumeRow, sizes: bool) -> Result<()> {
        let options = OpenOptions { force_share: true, ..OpenOptions::read_only() };
        let volume = Volume::open(store, &row.name, &options)?;
        row.size_bytes = volume.size_bytes();
        row.snapshots = volume.snapshots()?;
        if sizes {
            row.log_bytes = volume.usage()?.log_bytes;
            let block_bytes = volume.block_bytes;
            volume.scan(&mut |first, _, entry| {
                self.add_entry(root, block_bytes, first, entry);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn add_snapshot(&mut self, store: &Store, root: u32, snapshot: &Snapshot) -> Result<()> {
        let map = map_of(store, snapshot);
        map.scan(0, map.block_count(), &mut |first, _, entry| {
            self.add_entry(root, snapshot.block_bytes, first, entry);
            Ok(())
        })
    }

    fn add_entry(&mut self, root: u32, block_bytes: u64, block: u64, entry: &Entry) {
        each_object(block_bytes, block, entry, &mut |key, bytes| {
            let found = self.uses.entry(key).or_default();
            found.bytes = found.bytes.max(bytes);
            if found.by.last() != Some(&root) {
                found.by.push(root);
            }
        });
    }

    /// Replaces what blocks can take by what they do take.
    fn weigh(&mut self, store: &Store) -> Result<()> {
        let tells_room = store.blocks().capabilities().tells_room;
        self.is_exact = self.uses.len() <= EXACT_BLOCKS_MAX && tells_room;
        if !self.is_exact {
            return Ok(());
        }
        for ((epoch, index), found) in &mut self.uses {
            match store.blocks().stat(&ObjectName::Block { epoch: *epoch, index: *index }) {
                Ok(stat) => found.bytes = stat.allocated_bytes,
                // Made but never written, or damaged: that is for check.
                Err(error) if error.is(ErrorKind::NotFound) => found.bytes = 0,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn add_up(&mut self) {
        let mut sums: HashMap<u32, Sizes> = HashMap::new();
        for found in self.uses.values() {
            for root in &found.by {
                let sizes = sums.entry(*root).or_default();
                match found.by.len() {
                    1 => sizes.own_bytes += found.bytes,
                    _ => sizes.shared_bytes += found.bytes,
                }
            }
        }
        for (at, row) in self.snapshots.iter_mut().enumerate() {
            row.sizes = sums.get(&(SNAPSHOT | at as u32)).copied().unwrap_or_default();
        }
        for (at, row) in self.volumes.iter_mut().enumerate() {
            row.sizes = sums.get(&(at as u32)).copied().unwrap_or_default();
        }
    }

    /// Whether more than one volume or snapshot names the block.
    pub fn is_shared(&self, key: Key) -> bool {
        self.uses.get(&key).is_some_and(|found| found.by.len() > 1)
    }
}

/// Calls `visit` with every block object of an entry and what it can take.
pub fn each_object(block_bytes: u64, block: u64, entry: &Entry, visit: &mut dyn FnMut(Key, u64)) {
    match entry {
        Entry::Zero => {}
        Entry::Block { epoch, index } => visit((*epoch, *index), block_bytes),
        Entry::Layers { layers, base } => {
            for layer in layers.iter() {
                visit((layer.epoch, block), u64::from(layer.presence.count_ones()) * GRANULE_BYTES);
            }
            if let Base::Block { epoch, index } = base {
                visit((*epoch, *index), block_bytes);
            }
        }
    }
}

pub fn map_of(store: &Store, snapshot: &Snapshot) -> Map {
    let granules = (snapshot.block_bytes / GRANULE_BYTES) as u32;
    let count = snapshot.size_bytes.div_ceil(snapshot.block_bytes);
    Map::new(store.clone(), snapshot.root, granules, count)
}

#[cfg(test)]
mod tests {
    //! What can go wrong: `ls` reads the map of each volume and snapshot, and
    //! then all of them again to tell what is reclaimable; on a store with
    //! many snapshots most of that is the same pages over and over.

    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::faulty::{Fault, Faulty, Method, Rule};
    use crate::backend::memory::Memory;
    use crate::backend::BackendExt;
    use crate::maintain::gc::{self, GcOptions};
    use crate::name::{prefix, SnapshotName};

    const BLOCK: u64 = 16 << 10;

    #[test]
    fn each_map_page_is_read_once() {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let store = Store::init("test", Arc::new(faulty.clone()), BLOCK).unwrap();
        let name = VolumeName::new("v").unwrap();
        names::create(&store, &name, 3000 * BLOCK, BLOCK).unwrap();
        let volume = Volume::open(&store, &name, &OpenOptions::default()).unwrap();
        for taken in 0..4 {
            for block in [0, 1, 1500, 2500 + taken] {
                volume.write_at(block * BLOCK, &[1; BLOCK as usize]).unwrap();
            }
            volume.snapshot(&SnapshotName::new(&format!("s{taken}")).unwrap()).unwrap();
        }
        volume.publish_all().unwrap();
        volume.close().unwrap();
        let source = snapshot::list_all(&store).unwrap().swap_remove(1);
        names::clone(&store, &source, &VolumeName::new("copy").unwrap(), None).unwrap();
        for _ in 0..2 {
            gc::run(&store, &GcOptions::default(), &mut |_| {}).unwrap();
        }
        let pages: HashSet<_> = store.control().list_all(prefix::PAGES).unwrap().into_iter().collect();
        let reads = Rule::new(Fault::Delay(Duration::ZERO)).on(Method::Read).named("map/");
        faulty.inject(reads.times(u64::MAX));
        let output = Output { json: true, progress: false };
        let census = take(&store, &output, true).unwrap();
        assert_eq!((census.volumes.len(), census.snapshots.len()), (2, 4));
        assert!(census.reclaimable_bytes.is_some());
        assert_eq!(faulty.struck(), pages.len() as u64, "reads of {} pages", pages.len());
    }
}
