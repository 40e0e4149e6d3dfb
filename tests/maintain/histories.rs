//! Random histories on several volumes, with gc in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use archipelago::backend::memory::Memory;
use archipelago::backend::BackendExt;
use archipelago::catalog::volume as names;
use archipelago::name::{prefix, ObjectName};
use archipelago::store::Store;
use archipelago::volume::Volume;

use crate::world::*;

struct History {
    random: Seeded,
    store: Store,
    memory: Memory,
    expected: Expected,
    open: BTreeMap<String, Arc<Volume>>,
    counter: u64,
    trace: Vec<String>,
}

impl History {
    fn new(seed: u64) -> History {
        let (memory, store) = new_store();
        History {
            random: Seeded(seed),
            store,
            memory,
            expected: Expected::default(),
            open: BTreeMap::new(),
            counter: 0,
            trace: Vec::new(),
        }
    }

    fn any_volume(&mut self) -> Option<String> {
        let count = self.expected.volumes.len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.random.next(count) as usize;
        self.expected.volumes.keys().nth(at).cloned()
    }

    fn any_snapshot(&mut self) -> Option<(String, String)> {
        let count = self.expected.snapshots.len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.random.next(count) as usize;
        self.expected.snapshots.keys().nth(at).cloned()
    }

    fn opened(&mut self, text: &str) -> Arc<Volume> {
        let volume = self.open.entry(text.to_owned()).or_insert_with(|| open(&self.store, text));
        Arc::clone(volume)
    }

    fn close(&mut self, text: &str) {
        if let Some(volume) = self.open.remove(text) {
            volume.close().unwrap();
        }
    }

    fn step(&mut self) {
        self.counter += 1;
        let what = self.random.next(100);
        if self.expected.volumes.is_empty() || (what < 4 && self.expected.volumes.len() < 4) {
            return self.create();
        }
        let Some(text) = self.any_volume() else { return };
        match what {
            0..=49 => self.write(&text),
            50..=54 => {
                self.trace.push(format!("settle {text}"));
                self.opened(&text).settle_all().unwrap();
            }
            55..=59 => drop(self.opened(&text).work(true).unwrap()),
            60..=68 => self.snapshot(&text),
            69..=72 => self.clone_any(),
            73..=76 => self.rollback(),
            77..=79 => self.remove_snapshot(),
            80..=81 => self.remove(&text),
            82..=84 => {
                self.trace.push(format!("close {text}"));
                self.close(&text);
            }
            85..=87 => {
                self.trace.push(format!("crash {text}"));
                if let Some(volume) = self.open.remove(&text) {
                    volume.flush().unwrap();
                    volume.abandon();
                }
            }
            88..=89 => self.resize(&text),
            90..=91 => self.rename(&text),
            92..=98 => {
                self.trace.push("gc".into());
                gc(&self.store);
            }
            _ => self.assert_all("history"),
        }
    }

    fn create(&mut self) {
        let text = format!("v{}", self.counter);
        self.trace.push(format!("create {text}"));
        names::create(&self.store, &name(&text), SIZE, BLOCK).unwrap();
        self.expected.volumes.insert(text, Content::zeroes(SIZE));
    }

    fn write(&mut self, text: &str) {
        let volume = self.opened(text);
        let content = self.expected.volumes.get_mut(text).unwrap();
        // Few blocks, so that layers, pieces and snapshots meet; in two pages.
        let block = [0, 1, 2, 3, 1023, 1024, 1026][self.random.next(7) as usize];
        let (at, bytes) = match self.random.next(4) {
            0 => (block * BLOCK, BLOCK),
            1 => (block * BLOCK + self.random.next(4) * 4096, 4096),
            2 => (block * BLOCK + self.random.next(32) * 512, 512),
            _ => (block * BLOCK, 2 * BLOCK),
        };
        if at + bytes > content.size_bytes {
            return;
        }
        self.trace.push(format!("write {text} {at} {bytes}"));
        if self.random.next(6) == 0 {
            volume.write_zeroes(at, bytes).unwrap();
            return content.fill(at, bytes, 0);
        }
        write(&volume, content, at, bytes, (self.counter % 251 + 1) as u8);
    }

    fn snapshot(&mut self, text: &str) {
        let snapshot = format!("s{}", self.counter);
        self.trace.push(format!("snapshot {text}@{snapshot}"));
        let volume = self.opened(text);
        volume.snapshot(&snap(&snapshot)).unwrap();
        if self.random.next(3) > 0 {
            volume.publish_all().unwrap();
        }
        let content = self.expected.volumes[text].clone();
        self.expected.snapshots.insert((text.to_owned(), snapshot), content);
    }

    fn publish(&mut self, text: &str) {
        self.opened(text).publish_all().unwrap();
    }

    fn clone_any(&mut self) {
        let Some((text, snapshot)) = self.any_snapshot() else { return };
        if self.expected.volumes.len() >= 5 {
            return;
        }
        self.publish(&text);
        let to = format!("c{}", self.counter);
        self.trace.push(format!("clone {text}@{snapshot} {to}"));
        make_clone(&self.store, &text, &snapshot, &to).unwrap();
        let content = self.expected.snapshots[&(text, snapshot)].clone();
        self.expected.volumes.insert(to, content);
    }

    fn rollback(&mut self) {
        let Some((text, snapshot)) = self.any_snapshot() else { return };
        self.trace.push(format!("rollback {text}@{snapshot}"));
        self.opened(&text).rollback(&snap(&snapshot)).unwrap();
        let content = self.expected.snapshots[&(text.clone(), snapshot)].clone();
        self.expected.volumes.insert(text, content);
    }

    fn remove_snapshot(&mut self) {
        let Some((text, snapshot)) = self.any_snapshot() else { return };
        self.trace.push(format!("remove {text}@{snapshot}"));
        self.opened(&text).remove_snapshot(&snap(&snapshot)).unwrap();
        self.expected.snapshots.remove(&(text, snapshot));
    }

    fn remove(&mut self, text: &str) {
        self.trace.push(format!("remove {text}"));
        self.close(text);
        names::remove(&self.store, &name(text), true).unwrap();
        self.expected.volumes.remove(text);
        self.expected.snapshots.retain(|(volume, _), _| volume != text);
    }

    fn resize(&mut self, text: &str) {
        let size = (1020 + self.random.next(12)) * BLOCK;
        self.trace.push(format!("resize {text} {size}"));
        self.opened(text).resize(size, true).unwrap();
        self.expected.volumes.get_mut(text).unwrap().resize(size);
    }

    fn rename(&mut self, text: &str) {
        let to = format!("r{}", self.counter);
        self.trace.push(format!("rename {text} {to}"));
        names::rename(&self.store, &name(text), &name(&to)).unwrap();
        let content = self.expected.volumes.remove(text).unwrap();
        self.expected.volumes.insert(to.clone(), content);
        let snapshots = std::mem::take(&mut self.expected.snapshots);
        let renamed = |(volume, snapshot): (String, String)| match volume == text {
            true => (to.clone(), snapshot),
            false => (volume, snapshot),
        };
        self.expected.snapshots = snapshots.into_iter().map(|(key, c)| (renamed(key), c)).collect();
        if let Some(volume) = self.open.remove(text) {
            self.open.insert(to, volume);
        }
    }

    fn assert_all(&mut self, what: &str) {
        for text in self.expected.volumes.keys().cloned().collect::<Vec<_>>() {
            self.publish(&text);
        }
        let opened: Vec<(&str, &Arc<Volume>)> =
            self.open.iter().map(|(text, v)| (text.as_str(), v)).collect();
        self.expected.assert_on(&self.store, &opened, what);
        assert_sound(&self.store, what);
    }

    /// Two collections, and nothing is left to collect.
    fn collect_all(&self) {
        for _ in 0..2 {
            let would = dry_gc(&self.store);
            let did = gc(&self.store);
            assert_eq!(would.kinds, did.kinds, "a dry run says what the real one does");
        }
        assert_eq!(dry_gc(&self.store).deleted().objects, 0, "left after two collections");
    }

    fn end(&mut self) {
        self.assert_all("before the last gc");
        self.collect_all();
        self.assert_all("after the last gc");
        for text in self.expected.volumes.keys().cloned().collect::<Vec<_>>() {
            self.close(&text);
            names::remove(&self.store, &name(&text), true).unwrap();
        }
        self.collect_all();
        let left = self.memory.list_all(prefix::ALL).unwrap();
        assert!(
            left.iter().all(|name| matches!(name, ObjectName::Store | ObjectName::Maintenance(_))),
            "left when all volumes are gone: {left:?}"
        );
    }
}

#[test]
fn nothing_needed_is_deleted_and_nothing_unneeded_is_left() {
    for seed in 0..40 {
        let mut history = History::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..120 {
                history.step();
            }
            history.end();
        }));
        if let Err(panic) = outcome {
            let from = history.trace.len().saturating_sub(40);
            eprintln!("seed {seed}:\n{}", history.trace[from..].join("\n"));
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_store_without_volumes_is_collected() {
    let (_, store) = new_store();
    let report = gc(&store);
    assert_eq!(report.deleted().objects, 0);
    assert_sound(&store, "empty");
}
