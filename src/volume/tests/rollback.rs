//! What can go wrong: going back to a snapshot walks the map or the log, so
//! that it takes longer the larger the volume; or what it leaves behind makes
//! the next open slower, or stays for ever. Here it is done on a volume whose
//! map is one page and on one whose map has two levels, both with a log of
//! several segments, on a backend that counts; and whoever comes next - the
//! background, a close, or gc after a crash - finds and deletes what is left.

use super::*;
use crate::backend::faulty::{Faulty, Method};
use crate::backend::BackendExt;
use crate::maintain::gc::{self, GcOptions};
use crate::name::prefix;

const METHODS: [Method; 11] = [
    Method::Create,
    Method::CreateSparse,
    Method::Read,
    Method::Write,
    Method::Punch,
    Method::Sync,
    Method::Delete,
    Method::Stat,
    Method::List,
    Method::Copy,
    Method::Lock,
];

type Tally = Vec<(Method, u64, u64)>;

struct Bed {
    store: Store,
    counts: Faulty,
    blocks: u64,
}

impl Bed {
    /// A volume all of whose blocks are there, with a snapshot "s".
    fn new(blocks: u64) -> Bed {
        let counts = Faulty::new(Arc::new(Memory::new()));
        let store = Store::init("test", Arc::new(counts.clone()), BLOCK).unwrap();
        names::create(&store, &name("v"), blocks * BLOCK, BLOCK).unwrap();
        let volume = open(&store, "v");
        for block in 0..blocks {
            volume.write_at(block * BLOCK, &[1; BLOCK as usize]).unwrap();
        }
        volume.snapshot(&snap()).unwrap();
        volume.publish_all().unwrap();
        volume.close().unwrap();
        Bed { store, counts, blocks }
    }

    /// Logs small writes all over the volume: more than three segments.
    fn fill_log(&self, volume: &Arc<Volume>) {
        for at in 0..120 {
            let block = at * 7919 % self.blocks;
            volume.write_at(block * BLOCK + at % 3 * 4096, &[2; 4096]).unwrap();
        }
        volume.flush().unwrap();
        assert!(self.segments(volume.id).len() > 3);
    }

    fn counted<T>(&self, body: impl FnOnce() -> T) -> (T, Tally) {
        self.counts.reset_counts();
        let value = body();
        (value, METHODS.iter().map(|m| (*m, self.counts.calls(*m), self.counts.bytes(*m))).collect())
    }

    fn segments(&self, volume: Id) -> Vec<crate::name::ObjectName> {
        self.store.log().list_all(&prefix::segments_of(volume)).unwrap()
    }

    fn assert_went_back(&self, volume: &Volume) {
        assert_same(volume, &vec![1; (self.blocks * BLOCK) as usize], "after the rollback");
    }
}

fn snap() -> SnapshotName {
    SnapshotName::new("s").unwrap()
}

fn calls(tally: &Tally, method: Method) -> u64 {
    tally.iter().find(|(of, ..)| *of == method).map_or(0, |(_, calls, _)| *calls)
}

#[test]
fn going_back_costs_the_same_at_any_size_and_leaves_nothing_to_the_next_open() {
    let [small, large] = [8, 1500].map(|blocks| {
        let bed = Bed::new(blocks);
        let volume = open(&bed.store, "v");
        volume.close().unwrap();
        let (volume, before) = bed.counted(|| open(&bed.store, "v"));
        bed.fill_log(&volume);
        let (_, tally) = bed.counted(|| volume.rollback(&snap()).unwrap());
        // The old head, and no segment of the old log.
        assert_eq!(calls(&tally, Method::Delete), 1, "{tally:?}");
        bed.assert_went_back(&volume);
        volume.close().unwrap();
        let (volume, after) = bed.counted(|| open(&bed.store, "v"));
        bed.assert_went_back(&volume);
        let more = METHODS.into_iter().find(|method| calls(&after, *method) > calls(&before, *method));
        assert_eq!(more, None, "the next open: before {before:?}, after {after:?}");
        tally
    });
    assert_eq!(small, large);
}

#[test]
fn the_old_log_goes_in_the_background_piece_by_piece() {
    let bed = Bed::new(8);
    let volume = open(&bed.store, "v");
    bed.fill_log(&volume);
    let old = bed.segments(volume.id);
    volume.rollback(&snap()).unwrap();
    assert_eq!(bed.segments(volume.id), old, "not while somebody waits");
    volume.write_at(0, &[3; 512]).unwrap();
    for left in (0..old.len()).rev() {
        assert!(volume.work(false).unwrap(), "there is more");
        let there = bed.segments(volume.id);
        assert_eq!(there.iter().filter(|name| old.contains(name)).count(), left);
    }
    let mut data = [0; 512];
    volume.read_at(0, &mut data).unwrap();
    assert_eq!(data, [3; 512]);
}

#[test]
fn a_store_that_cannot_delete_the_old_log_now_leaves_it_to_gc() {
    use crate::backend::faulty::{Fault, Rule};
    let bed = Bed::new(8);
    let volume = open(&bed.store, "v");
    bed.fill_log(&volume);
    volume.rollback(&snap()).unwrap();
    let fault = Fault::Fail(crate::error::ErrorKind::Unavailable);
    bed.counts.inject(Rule::new(fault).on(Method::Delete).named("log/").times(u64::MAX));
    while volume.work(false).unwrap() {}
    bed.counts.clear();
    volume.close().unwrap();
    assert!(bed.segments(volume.id).len() > 3);
    gc::run(&bed.store, &GcOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(bed.segments(volume.id), []);
    bed.assert_went_back(&open(&bed.store, "v"));
}

#[test]
fn a_close_deletes_what_is_left_of_the_old_log() {
    let bed = Bed::new(8);
    let volume = open(&bed.store, "v");
    bed.fill_log(&volume);
    volume.rollback(&snap()).unwrap();
    volume.close().unwrap();
    assert_eq!(bed.segments(volume.id), []);
    bed.assert_went_back(&open(&bed.store, "v"));
}

#[test]
fn after_a_crash_gc_deletes_the_old_log() {
    let bed = Bed::new(8);
    let volume = open(&bed.store, "v");
    bed.fill_log(&volume);
    let old = bed.segments(volume.id);
    volume.rollback(&snap()).unwrap();
    volume.abandon();
    let gone = gc::run(&bed.store, &GcOptions::default(), &mut |_| {}).unwrap();
    assert!(gone.deleted().objects >= old.len() as u64);
    assert_eq!(bed.segments(volume.id), []);
    bed.assert_went_back(&open(&bed.store, "v"));
}

#[test]
fn nothing_goes_back_to_a_map_that_is_not_there() {
    let bed = Bed::new(8);
    let volume = open(&bed.store, "v");
    volume.write_at(0, &[3; 512]).unwrap();
    let root = snapshots::find(&bed.store, volume.id, &snap()).unwrap().root;
    let page = crate::name::ObjectName::Page(root.page);
    let whole = bed.store.control().read_all(&page, 1 << 20).unwrap();
    for cut_bytes in [whole.len(), 60, 1] {
        bed.store.control().delete(&page).unwrap();
        if cut_bytes < whole.len() {
            bed.store.control().create(&page, &whole[..whole.len() - cut_bytes]).unwrap();
        }
        let error = volume.rollback(&snap()).unwrap_err();
        assert!(error.is(crate::error::ErrorKind::Corrupt), "{}", error.full());
        assert!(error.full().contains(&page.to_string()), "{}", error.full());
        let mut data = [0; 512];
        volume.read_at(0, &mut data).unwrap();
        assert_eq!(data, [3; 512]);
        if cut_bytes == whole.len() {
            bed.store.control().create(&page, &whole).unwrap();
        }
    }
}
