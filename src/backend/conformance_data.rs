//! The part of the conformance suite about `DataPath`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use super::conformance::{assert_kind, block, content, pattern, Open, BLOCK_BYTES};
use super::{Backend, DataPath, Done};
use crate::error::{ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::iobuf::IoBuf;

/// Submits and waits.
pub(super) fn wait(submit: impl FnOnce(Done)) -> Result<()> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    submit(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("an answer within a minute")
}

fn data_path_of(store: &Arc<dyn Backend>) -> Option<Arc<dyn DataPath>> {
    store.data_path().filter(|_| store.capabilities().overwrite_in_place)
}

pub(super) fn the_data_path_reads_and_writes(open: Open<'_>) {
    let store = open();
    let Some(path) = data_path_of(&store) else { return };
    let unit = path.alignment_bytes();
    store.create_sparse(&block(1), BLOCK_BYTES).unwrap();
    let mut mirror = vec![0; BLOCK_BYTES as usize];
    // Multiples of 1 show that unaligned requests are taken.
    for (seed, (at, count)) in (1..).zip([(0, 1), (3, 2), (7, 9), (1, 5)]) {
        let data = pattern(seed, count * unit);
        let memory = IoBuf::alloc(data.len() + unit);
        memory.copy_from(unit, &data);
        let (offset, source) = (at * unit, memory.slice(unit, data.len()));
        wait(|done| path.submit_write(&block(1), offset as u64, source, done)).unwrap();
        mirror[offset..offset + data.len()].copy_from_slice(&data);
        assert!(content(&*store, &block(1)) == mirror, "read_at sees what the data path wrote");
    }
    store.write_at(&block(1), 999, b"changed").unwrap();
    mirror[999..1006].copy_from_slice(b"changed");
    let (front, back) = (IoBuf::alloc(BLOCK_BYTES as usize), 16 * unit);
    wait(|done| path.submit_read(&block(1), 0, front.clone(), done)).unwrap();
    let mut got = vec![0; BLOCK_BYTES as usize];
    front.copy_to(0, &mut got);
    assert!(got == mirror, "the data path sees what write_at wrote");
    let target = front.slice(back, 3 * unit);
    wait(|done| path.submit_read(&block(1), 5 * unit as u64, target, done)).unwrap();
    front.copy_to(0, &mut got);
    assert_eq!(got[back..back + 3 * unit], mirror[5 * unit..8 * unit]);
    for _ in 0..3 {
        let target = IoBuf::alloc(2 * unit);
        if let Some(result) = path.try_read(&block(1), 5 * unit as u64, &target) {
            result.unwrap();
            let mut got = vec![0; 2 * unit];
            target.copy_to(0, &mut got);
            assert_eq!(got, mirror[5 * unit..7 * unit]);
        }
    }
}

pub(super) fn the_data_path_is_off_the_submitting_thread(open: Open<'_>) {
    let store = open();
    let Some(path) = data_path_of(&store) else { return };
    store.create_sparse(&block(1), BLOCK_BYTES).unwrap();
    let me = std::thread::current().id();
    for name in [block(1), block(2)] {
        for _ in 0..50 {
            let buf = IoBuf::alloc(4096);
            let (sender, receiver) = crossbeam_channel::bounded(1);
            let done = Box::new(move |_| sender.send(std::thread::current().id()).unwrap());
            path.submit_read(&name, 0, buf, done);
            assert_ne!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), me);
        }
    }
}

pub(super) fn the_data_path_takes_many_at_once(open: Open<'_>) {
    const OBJECTS: u64 = 40;
    let store = open();
    let Some(path) = data_path_of(&store) else { return };
    for index in 0..OBJECTS {
        store.create_sparse(&block(index), BLOCK_BYTES).unwrap();
    }
    let pieces_each = BLOCK_BYTES / 4096;
    let submit_all = |write: bool| {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let mut bufs = Vec::new();
        for piece in 0..OBJECTS * pieces_each {
            let (name, offset) = (block(piece % OBJECTS), piece / OBJECTS * 4096);
            let sender = sender.clone();
            let done: Done = Box::new(move |result| sender.send(result).unwrap());
            let buf = if write { IoBuf::copy_of(&pattern(piece, 4096)) } else { IoBuf::alloc(4096) };
            bufs.push(buf.clone());
            match write {
                true => path.submit_write(&name, offset, buf, done),
                false => path.submit_read(&name, offset, buf, done),
            }
        }
        for _ in 0..bufs.len() {
            receiver.recv_timeout(Duration::from_secs(60)).expect("an answer").unwrap();
        }
        bufs
    };
    submit_all(true);
    for (piece, buf) in (0_u64..).zip(submit_all(false)) {
        let mut got = vec![0; 4096];
        buf.copy_to(0, &mut got);
        assert!(got == pattern(piece, 4096), "piece {piece}");
    }
}

pub(super) fn the_data_path_reports_errors(open: Open<'_>) {
    let store = open();
    let Some(path) = data_path_of(&store) else { return };
    let buf = || IoBuf::alloc(4096);
    let read = |name: &ObjectName, at| wait(|done| path.submit_read(name, at, buf(), done));
    let write = |name: &ObjectName, at| wait(|done| path.submit_write(name, at, buf(), done));
    assert_kind(read(&block(1), 0), ErrorKind::NotFound);
    assert_kind(write(&block(1), 0), ErrorKind::NotFound);
    store.create(&block(1), &pattern(1, 8192)).unwrap();
    assert_kind(write(&block(1), 8192), ErrorKind::Invalid);
    // Reads are never short: what is not there is an error.
    assert_kind(read(&block(1), 8192), ErrorKind::Invalid);
    read(&block(1), 4096).unwrap();
    assert_eq!(content(&*store, &block(1)), pattern(1, 8192));
}

pub(super) fn what_the_data_path_wrote_is_synced(open: Open<'_>) {
    let store = open();
    let Some(path) = data_path_of(&store) else { return };
    for index in 0..10 {
        store.create_sparse(&block(index), BLOCK_BYTES).unwrap();
        store.sync(&[block(index)]).unwrap();
        let buf = IoBuf::copy_of(&pattern(index, 4096));
        wait(|done| path.submit_write(&block(index), 4096, buf, done)).unwrap();
    }
    store.sync(&(0..10).map(block).collect::<Vec<_>>()).unwrap();
}
