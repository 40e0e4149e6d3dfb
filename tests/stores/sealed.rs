//! Sealed blocks in a place of their own on a real server: what gc has carried there is
//! read by who comes next, and while the server is away reads fail and nothing else.

use std::sync::Arc;

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::rados::RadosOptions;
use archipelago::backend::s3::S3Options;
use archipelago::backend::{Backend, BackendExt};
use archipelago::catalog::{clone, snapshot as snapshots, volume as names};
use archipelago::io::{Device, DeviceOptions, Operation};
use archipelago::maintain::{check, gc, scrub};
use archipelago::name::prefix;
use archipelago::store::{Apart, Store};
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Mode, OpenOptions, Volume};
use archipelago::ErrorKind;

use super::bed::{ask, name, snap};
use super::proxy::{Fate, Proxy};
use super::{rados, s3};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 10;
const SIZE: usize = (BLOCK * BLOCKS) as usize;

/// A place, which is opened anew for each process.
type Opener<'a> = &'a dyn Fn() -> Arc<dyn Backend>;

struct Lab<'a> {
    own: Opener<'a>,
    /// If it cannot be where the blocks are.
    log: Option<Opener<'a>>,
    sealed: Opener<'a>,
    /// Of `v` and of its snapshot.
    content: [Vec<u8>; 2],
}

impl<'a> Lab<'a> {
    fn make(own: Opener<'a>, log: Option<Opener<'a>>, sealed: Opener<'a>) -> Lab<'a> {
        let apart = Apart { log: log.map(|log| log()), sealed: Some(sealed()) };
        let store = Store::init_apart("test", own(), apart, BLOCK).unwrap();
        names::create(&store, &name("v"), SIZE as u64, BLOCK).unwrap();
        let volume = Volume::open(&store, &name("v"), &OpenOptions::default()).unwrap();
        let mut data = vec![0; SIZE];
        let mut write = |at: u64, bytes: u64, tag: u8| {
            volume.write_at(at, &vec![tag; bytes as usize]).unwrap();
            data[at as usize..(at + bytes) as usize].fill(tag);
            data.clone()
        };
        write(0, 6 * BLOCK, 1);
        let snapshot = write(7 * BLOCK + 4096, 8192, 2);
        volume.snapshot(&snap("s")).unwrap();
        volume.publish_all().unwrap();
        write(BLOCK, 4096, 3);
        let head = write(8 * BLOCK, BLOCK, 4);
        volume.close().unwrap();
        Lab { own, log, sealed, content: [head, snapshot] }
    }

    fn open(&self) -> Store {
        let apart = Apart { log: self.log.map(|log| Ok(log())), sealed: Some(Ok((self.sealed)())) };
        Store::open_apart("test", (self.own)(), apart).unwrap()
    }

    /// On the data path, where there is one.
    fn read(&self, store: &Store, volume: &str, snapshot: Option<&str>, content: &[u8]) {
        let device = device(store, volume, snapshot);
        for _ in 0..2 {
            for at in (0..SIZE).step_by(16 << 10) {
                let buf = IoBuf::alloc(16 << 10);
                ask(&device, at as u64, Operation::Read { buf: buf.clone() }).unwrap();
                let mut data = vec![0; 16 << 10];
                buf.copy_to(0, &mut data);
                assert!(data == content[at..at + data.len()], "{volume}@{snapshot:?} at {at}");
            }
        }
        device.close().unwrap();
    }

    fn read_all(&self) {
        let store = self.open();
        self.read(&store, "v", None, &self.content[0]);
        self.read(&store, "v", Some("s"), &self.content[1]);
    }

    fn collect(&self) {
        let store = self.open();
        (0..3).for_each(|_| drop(gc::run(&store, &gc::GcOptions::default(), &mut |_| {}).unwrap()));
    }

    /// What is where blocks are made, and what is where sealed ones are.
    fn blocks(&self) -> [usize; 2] {
        [self.own, self.sealed].map(|place| place().list_all(prefix::BLOCKS).unwrap().len())
    }

    fn carries_and_reads(&self) {
        self.read_all();
        self.collect();
        let [own, sealed] = self.blocks();
        assert!(sealed == 7 && own > 0, "{own} and {sealed}");
        self.read_all();
        let store = self.open();
        let id = names::lookup(&store, &name("v")).unwrap();
        let source = snapshots::find(&store, id, &snap("s")).unwrap();
        clone::clone(&store, &source, &name("c"), None).unwrap();
        self.read(&store, "c", None, &self.content[1]);
        let copy = Volume::open(&store, &name("c"), &OpenOptions::default()).unwrap();
        copy.write_at(2 * BLOCK + 512, &[5; 512]).unwrap();
        copy.settle_all().unwrap();
        copy.close().unwrap();
        let mut content = self.content[1].clone();
        content[2 * BLOCK as usize + 512..2 * BLOCK as usize + 1024].fill(5);
        drop(store);
        self.collect();
        self.read(&self.open(), "c", None, &content);
        self.is_sound();
    }

    fn is_sound(&self) {
        let store = self.open();
        let report = check::run(&store, &check::CheckOptions::default(), &mut |_| {}).unwrap();
        assert!(report.is_sound(), "{:?}", report.problems);
        for _ in 0..2 {
            let report = scrub::run(&store, &scrub::ScrubOptions::default(), &mut |_| {}).unwrap();
            assert!(report.is_sound(), "{report}");
        }
    }
}

fn device(store: &Store, volume: &str, snapshot: Option<&str>) -> Device {
    let options = DeviceOptions {
        volume: name(volume),
        snapshot: snapshot.map(snap),
        open: OpenOptions::read_only(),
        active: Mode::ReadOnly,
        no_flush: false,
    };
    Device::open(store.clone(), options).unwrap()
}

fn dir(path: std::path::PathBuf) -> impl Fn() -> Arc<dyn Backend> {
    move || match Dir::open(&path, DirOptions::default()) {
        Ok(dir) => Arc::new(dir),
        Err(_) => Arc::new(Dir::create(&path, DirOptions::default()).unwrap()),
    }
}

/// Each opening has a connection of its own, as another host has.
fn on_rados(options: &RadosOptions) -> impl Fn() -> Arc<dyn Backend> + '_ {
    move || {
        let (folder, options) = rados::elsewhere(options);
        let opened = rados::open(&options);
        drop(folder);
        opened
    }
}

#[test]
fn they_are_on_s3_and_the_gateway_goes_away() {
    let Some(options) = s3::fresh() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let proxy = Proxy::before(&options.endpoint);
    let try_for = std::time::Duration::from_secs(1);
    let through = S3Options { endpoint: proxy.endpoint.clone(), try_for, ..options };
    let sealed = || s3::open(&through) as Arc<dyn Backend>;
    let own = dir(folder.path().join("own"));
    let lab = Lab::make(&own, None, &sealed);
    lab.carries_and_reads();
    let store = lab.open();
    let snapshot = device(&store, "v", Some("s"));
    let read = |at: u64| {
        let buf = IoBuf::copy_of(&[0xEE; 4096]);
        let result = ask(&snapshot, at, Operation::Read { buf: buf.clone() });
        let mut data = [0; 4096];
        buf.copy_to(0, &mut data);
        result.map(|()| data[0])
    };
    assert_eq!(read(0).unwrap(), 1);
    proxy.judge(|_| Fate::CutBefore);
    // One that was read before, and one that nobody has asked for yet; a hole needs nobody.
    for at in [0, 3 * BLOCK] {
        let error = read(at).unwrap_err();
        assert!(error.is(ErrorKind::Unavailable), "{}", error.full());
    }
    assert_eq!(read(6 * BLOCK).unwrap(), 0);
    assert!(gc::run(&store, &gc::GcOptions::default(), &mut |_| {}).is_err());
    assert!(check::run(&store, &check::CheckOptions::default(), &mut |_| {}).is_err());
    proxy.judge(|_| Fate::Pass);
    assert_eq!([read(0).unwrap(), read(3 * BLOCK).unwrap()], [1, 1]);
    snapshot.close().unwrap();
    lab.collect();
    lab.read_all();
    lab.is_sound();
}

#[test]
fn they_are_on_rados_or_blocks_are_made_there() {
    let Some((_conf, options)) = rados::fresh() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = on_rados(&options);
    let own = dir(folder.path().join("own"));
    Lab::make(&own, None, &cluster).carries_and_reads();
    let Some((_conf, options)) = rados::fresh() else { return };
    let cluster = on_rados(&options);
    let sealed = dir(folder.path().join("sealed"));
    Lab::make(&cluster, None, &sealed).carries_and_reads();
}

#[test]
fn they_are_on_a_disk_and_blocks_are_made_on_s3() {
    let Some(options) = s3::fresh() else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = || s3::open(&options) as Arc<dyn Backend>;
    let (log, sealed) = (dir(folder.path().join("log")), dir(folder.path().join("sealed")));
    Lab::make(&own, Some(&log), &sealed).carries_and_reads();
}
