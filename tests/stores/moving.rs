//! Volumes that move from each kind of store to each other one, with a guest
//! that writes and reads back all the while.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::gluster::Gluster;
use archipelago::backend::rados::Rados;
use archipelago::backend::s3::S3;
use archipelago::backend::Backend;
use archipelago::maintain::{check, gc};
use archipelago::name::{Id, ObjectName};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};

use super::bed::{make, move_to, name, open, place, snap, Content, Guest, Kind, BLOCK};
use super::{gluster, rados, s3};

/// A store of each kind whose server is there, and what must live as long.
pub fn stores() -> (Vec<Store>, Vec<Box<dyn std::any::Any>>) {
    let mut keep: Vec<Box<dyn std::any::Any>> = Vec::new();
    let local = place(&Kind::Direct, "dir");
    let mut stores = vec![local.store.clone()];
    keep.push(Box::new(local));
    let mut add = |called: &str, backend: Arc<dyn Backend>| {
        stores.push(Store::init(called, backend, BLOCK).unwrap());
    };
    if let Some((conf, options)) = rados::fresh() {
        add("rados", Arc::new(Rados::open(&options).unwrap()));
        keep.push(Box::new(conf));
    }
    if let Some(options) = gluster::fresh() {
        add("gluster", Arc::new(Gluster::create(&options).unwrap()));
    }
    if let Some(options) = s3::fresh() {
        let log = tempfile::tempdir().unwrap();
        let front = Arc::new(S3::open(options).unwrap());
        let direct = DirOptions { direct: true, ..DirOptions::default() };
        let log_store = Arc::new(Dir::create(&log.path().join("log"), direct).unwrap());
        stores.push(Store::init_combined("s3-with-log", front, log_store, BLOCK).unwrap());
        keep.push(Box::new(log));
    }
    (stores, keep)
}

/// The longest of four: something made, which is durable then.
fn create_time(store: &Store) -> Duration {
    let made = (0..4).map(|_| {
        let epoch = ObjectName::Epoch(archipelago::clock::random_id().unwrap());
        let began = Instant::now();
        store.control().create(&epoch, &[7; 512]).unwrap();
        let took = began.elapsed();
        store.control().delete(&epoch).unwrap();
        took
    });
    made.max().unwrap()
}

pub fn sound(store: &Store, id: Id) {
    let options = gc::GcOptions { wait: |_| {}, ..gc::GcOptions::default() };
    gc::run(store, &options, &mut |_| {}).unwrap();
    let report = check::run(store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{} with {id}: {:?}", store.name, report.problems);
}

fn requests_per_s(guest: &Guest, meanwhile: impl FnOnce()) -> f64 {
    let (count, began) = (guest.requests.load(Ordering::Relaxed), Instant::now());
    meanwhile();
    (guest.requests.load(Ordering::Relaxed) - count) as f64 / began.elapsed().as_secs_f64()
}

/// Every ordered pair, on one long way.
#[test]
fn a_volume_goes_from_each_kind_of_store_to_each_other() {
    let _peace = gluster::peace();
    let (stores, keep) = stores();
    if stores.len() < 2 {
        return;
    }
    let count = stores.len();
    let mut way: Vec<usize> = vec![0];
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            if *way.last().unwrap() != from {
                way.push(from);
            }
            way.push(to);
        }
    }
    let id = make(&stores[0], "v", 64 * BLOCK);
    let device = Arc::new(open(&stores[0], "v"));
    let mut content = Content::default();
    let mut kept = Vec::new();
    for (step, to) in way.iter().enumerate().skip(1) {
        let to = &stores[*to];
        let from = device.volume().store.name.clone();
        let unit = create_time(to);
        let guest = Guest::start(&device, step as u64);
        let before = requests_per_s(&guest, || std::thread::sleep(Duration::from_millis(200)));
        let mut report = None;
        let during = requests_per_s(&guest, || report = Some(move_to(&device, to)));
        let report = report.unwrap().unwrap_or_else(|error| panic!("{}", error.full()));
        std::thread::sleep(Duration::from_millis(50));
        content.0.extend(guest.stop().0);
        eprintln!(
            "{from} to {}: requests waited {:?}; a create takes {unit:?} there; \
             {during:.0} requests a second, {before:.0} before; {report:?}",
            to.name, report.stall
        );
        assert_eq!(report.left_to_do, None);
        content.verify(&device.volume(), &format!("{from} to {}", to.name));
        let called = snap(&format!("s{step}"));
        device.snapshot(&called).unwrap();
        kept.push((called, content.clone()));
    }
    let last = device.volume().store.clone();
    Arc::try_unwrap(device).unwrap().close().unwrap();
    stores.iter().for_each(|store| sound(store, id));
    for (called, content) in kept {
        let there = Volume::open_snapshot(&last, &name("v"), &called).unwrap();
        content.verify(&there, called.as_str());
    }
    let again = Volume::open(&last, &name("v"), &OpenOptions::default()).unwrap();
    content.verify(&again, "opened again");
    again.close().unwrap();
    drop(keep);
}
