//! Checkpoint and publish: changed map pages, then a head that names them,
//! then the log before them can go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::delta::Delta;
use super::pace::pace;
use super::settle::Progress;
use super::state::{Cut, State};
use super::Volume;
use crate::catalog::head::{self, Head, LogStart};
use crate::catalog::{maintenance, snapshot};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::map::{Entry, Map, Root, Written};
use crate::name::Id;
use crate::sync::atomic::Ordering;

/// Share of the log's limit that must become free for a checkpoint to be worth
/// its pages while the volume is in use.
const CHECKPOINT_GAIN: f64 = 0.125;
/// How long a full log is waited for.
const ROOM_WAIT: Duration = Duration::from_millis(1);
const ROOM_WAITS_MAX: u32 = 30_000;

/// What a checkpoint writes, taken under one hold of the lock.
struct Captured {
    map: Arc<Map>,
    deltas: BTreeMap<u64, Delta>,
    cut_off: u64,
    block_count: u64,
    size_bytes: u64,
    position: u64,
    epoch: Id,
}

/// Pages that are written, and the map that they become part of.
struct Next {
    map: Arc<Map>,
    written: Written,
}

impl State {
    /// The oldest generation as the log has it; `position`: the log is
    /// needed from there afterwards.
    fn capture_oldest(&self, position: u64) -> Captured {
        let generation = &self.generations[0];
        let mut deltas = generation.deltas.clone();
        let size_bytes = generation.cut.as_ref().map_or(self.size_bytes, |_| generation.size_bytes);
        if generation.cut.is_none() {
            for (block, unrecorded) in &self.unrecorded {
                match &unrecorded.durable {
                    Some(delta) => drop(deltas.insert(*block, delta.clone())),
                    None => drop(deltas.remove(block)),
                }
            }
        }
        Captured {
            map: Arc::clone(&self.map),
            deltas,
            cut_off: generation.cut_off,
            block_count: size_bytes.div_ceil(self.block_bytes),
            size_bytes,
            position,
            epoch: generation.epoch_at(position),
        }
    }

    /// The next head for a captured state.
    fn next_head(&self, captured: &Captured, root: Root, log: LogStart) -> Head {
        Head {
            number: self.head.number + 1,
            size_bytes: captured.size_bytes,
            epoch: captured.epoch,
            root,
            log,
            written: self.written,
            ..self.head.clone()
        }
    }

    /// What was captured is in the map now: forgets what has not changed
    /// since.
    fn fold(&mut self, captured: &Captured, next: Next, head: Head) {
        next.map.adopt(next.written);
        self.map = next.map;
        self.head = head;
        for (block, delta) in &captured.deltas {
            if self.durable_delta(*block).as_ref() != Some(delta) {
                continue;
            }
            match self.unrecorded.get_mut(block) {
                Some(unrecorded) => unrecorded.durable = None,
                None => drop(self.live_mut().deltas.remove(block)),
            }
        }
        let live = self.live_mut();
        live.cut_off = u64::MAX;
        let current = live.epochs.iter().rposition(|(from, _)| *from <= captured.position);
        live.epochs.drain(..current.unwrap_or(0));
    }
}

impl Volume {
    /// Writes what has changed into map pages, commits a head and drops the
    /// log before it. There must be no pending cut. For whoever holds
    /// `maintaining`.
    pub(super) fn checkpoint(self: &Arc<Self>) -> Result<()> {
        self.flush()?;
        let mut generation = maintenance::generation(&self.store)?;
        loop {
            let captured = {
                let state = self.state.lock();
                let applied = self.log.completed();
                let needed = state.log_needed_from(applied);
                let dropping = fault::on(fault::Planted::HeadDropsRecords);
                state.capture_oldest(if dropping { applied } else { needed })
            };
            let next = self.write_map(&captured)?;
            // The head says that the log reaches its start: make that true.
            self.sync_log()?;
            if fault::on(fault::Planted::TrimBeforeHead) {
                self.log.trim(captured.position, u64::MAX)?;
            }
            // A gc that began meanwhile may not have seen the new pages:
            // write them again, under names that it cannot know.
            let now = maintenance::generation(&self.store)?;
            if now != generation {
                generation = now;
                continue;
            }
            let head = self.head_of(&captured, next.written.root);
            self.commit(&head)?;
            // The next number follows this head, whatever comes now.
            self.state.lock().head = head.clone();
            let now = maintenance::generation(&self.store)?;
            if now == generation {
                self.state.lock().fold(&captured, next, head);
                return self.trim_to(captured.position);
            }
            // The same for this head. Until one is verified the old map, the
            // deltas and the log stay: the head before keeps them from gc.
            generation = now;
        }
    }

    fn head_of(&self, captured: &Captured, root: Root) -> Head {
        let log = LogStart {
            segment: self.log.segment_number_at(captured.position),
            position: captured.position,
            tail: self.log.durable().max(captured.position),
        };
        self.state.lock().next_head(captured, root, log)
    }

    /// Commits a head. To find its number taken means that this holder has
    /// been fenced; after any other failure nobody knows which head counts.
    pub(super) fn commit(&self, head: &Head) -> Result<()> {
        head::commit(&self.store, head).map_err(|error| match error.kind() {
            ErrorKind::NoSpace | ErrorKind::Unavailable => error,
            _ => self.poison(error),
        })
    }

    /// Writes the pages for a captured state.
    fn write_map(&self, captured: &Captured) -> Result<Next> {
        let old = &captured.map;
        let mut entries = BTreeMap::new();
        for (block, delta) in &captured.deltas {
            let below = if *block >= captured.cut_off { Entry::Zero } else { old.get(*block)? };
            entries.insert(*block, delta.over(&below));
        }
        let gone = captured.cut_off..u64::MAX;
        let written = old.write_over(&[gone], &entries, captured.block_count)?;
        Ok(Next { map: Arc::clone(old), written })
    }

    fn trim_to(&self, position: u64) -> Result<()> {
        let (volume, number, needed) = {
            let state = self.state.lock();
            (state.head.volume, state.head.number, state.head.log.segment)
        };
        self.settled_bytes.store(0, Ordering::Relaxed);
        self.log.trim(position, needed)?;
        head::remove_below(&self.store, volume, number)
    }

    /// Publishes the oldest pending cut: its pieces into its epoch's blocks,
    /// its pages, the snapshot, a head behind the cut. For whoever holds
    /// `maintaining`.
    pub(super) fn publish_oldest(self: &Arc<Self>) -> Result<()> {
        let Some(cut) = self.oldest_cut() else { return Ok(()) };
        if !fault::on(fault::Planted::PublishWithoutPieces) {
            self.settle_oldest()?;
        }
        let mut number = self.next_number_of(&cut)?;
        let (captured, next) = loop {
            let generation = maintenance::generation(&self.store)?;
            let captured = self.state.lock().capture_oldest(cut.position);
            let next = self.write_map(&captured)?;
            // One that was away too long must leave no snapshot behind.
            self.lease_confirm()?;
            self.publish_snapshot(&cut, &captured, next.written.root, number)?;
            // A gc that began meanwhile may take these pages. Nobody relies on
            // the snapshot before the head is behind its cut.
            if maintenance::generation(&self.store)? == generation {
                break (captured, next);
            }
            number += 1;
        };
        let mut head = self.head_of(&captured, next.written.root);
        head.epoch = self.state.lock().generations[1].epoch_at(cut.position);
        self.commit(&head)?;
        {
            // What the head reaches, the snapshot keeps from any later gc.
            let mut state = self.state.lock();
            state.head = head;
            next.map.adopt(next.written);
            state.map = next.map;
            state.generations.pop_front();
        }
        self.trim_to(cut.position)
    }

    /// The number under which a cut is published. One that a holder before
    /// this one published was perhaps never verified: gc may have its pages.
    fn next_number_of(&self, cut: &Cut) -> Result<u64> {
        match snapshot::find(&self.store, self.id, &cut.snapshot.name) {
            Ok(there) if there.id == cut.snapshot.id => Ok(there.number + 1),
            Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
            _ => Ok(snapshot::FIRST),
        }
    }

    pub(super) fn oldest_cut(&self) -> Option<Cut> {
        self.state.lock().generations[0].cut.clone()
    }

    fn settle_oldest(self: &Arc<Self>) -> Result<()> {
        while !self.state.lock().generations[0].pieces.is_empty() {
            self.settle_batch(&mut |_| {})?;
        }
        Ok(())
    }

    fn publish_snapshot(&self, cut: &Cut, captured: &Captured, root: Root, number: u64) -> Result<()> {
        let head = self.state.lock().head.clone();
        let epoch = self.state.lock().generations[0].epoch();
        let snapshot = snapshot::Snapshot {
            volume: self.id,
            name: cut.snapshot.name.clone(),
            number,
            id: cut.snapshot.id,
            root,
            epoch,
            size_bytes: captured.size_bytes,
            block_bytes: self.block_bytes,
            created_s: cut.snapshot.created_s,
            created_ns: cut.snapshot.created_ns,
            position: cut.position,
            parent: head.parent,
            volume_name_hint: self.name.clone(),
        };
        snapshot::publish(&self.store, &snapshot)
    }

    /// Publishes every pending cut. Blocks for as long as settling takes.
    pub fn publish_all(self: &Arc<Self>) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        self.publish_all_locked().map_err(|error| error.of_volume(&self.name))
    }

    pub(super) fn publish_all_locked(self: &Arc<Self>) -> Result<()> {
        while self.oldest_cut().is_some() {
            self.publish_oldest()?;
        }
        Ok(())
    }

    /// Settles and checkpoints until nothing is left in the log.
    pub fn settle_all(self: &Arc<Self>) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        let settle = || {
            self.publish_all_locked()?;
            while self.settle_batch(&mut |_| {})? > 0 {}
            self.checkpoint()
        };
        settle().map_err(|error| error.of_volume(&self.name))
    }

    /// Makes room in the log. Blocks; for a writer that found it full.
    pub fn make_room(self: &Arc<Self>) -> Result<()> {
        self.make_room_with(&mut |_| {})
    }

    fn make_room_with(self: &Arc<Self>, progress: Progress<'_>) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        // Room for a write of any size: with less, the one that found the log
        // full would find it full again.
        let room_bytes = self.block_bytes.min(self.log_limit_bytes / 2);
        let full = || self.is_log_full(&self.state.lock(), room_bytes);
        let mut waits = 0;
        while full() {
            self.publish_all_locked()?;
            let settled = self.settle_batch(progress)?;
            let begin = self.state.lock().head.log.position;
            if self.log_gain() > 0.5 || (settled == 0 && self.is_settled()) {
                self.checkpoint()?;
            }
            if settled == 0 && self.state.lock().head.log.position == begin {
                // Appends that are still under way: they end soon, and no
                // new ones begin while the log is full.
                waits += 1;
                if waits > ROOM_WAITS_MAX {
                    return Err(Error::new(ErrorKind::Unavailable, "make room in the log"));
                }
                clock::sleep(ROOM_WAIT);
            }
        }
        Ok(())
    }

    /// Settles a batch, for writers that are slowed down, and more if the log
    /// is full. `progress` is told about every part of it, so that they can go
    /// on at `log_pace`.
    pub fn settle_some(self: &Arc<Self>, progress: Progress<'_>) -> Result<()> {
        {
            let _maintaining = self.maintaining.lock();
            self.settle_or_publish(progress)?;
            if self.log_gain() > CHECKPOINT_GAIN {
                self.checkpoint_if_live()?;
            }
        }
        self.make_room_with(progress)
    }

    /// Bytes that may be logged for each byte that is settled; see `pace`.
    pub fn log_pace(&self) -> f64 {
        self.log_pace_in(&self.state.lock())
    }

    pub(super) fn log_pace_in(&self, state: &State) -> f64 {
        let used = self.log.bytes_since(state.head.log.position);
        pace(self.log_limit_bytes, used, self.settled_bytes.load(Ordering::Relaxed))
    }

    /// The next unit of settling. True: something was done.
    fn settle_or_publish(self: &Arc<Self>, progress: Progress<'_>) -> Result<bool> {
        if self.oldest_cut().is_none() {
            return Ok(self.settle_batch(progress)? > 0);
        }
        if self.settle_batch(progress)? == 0 {
            self.publish_oldest()?;
        }
        Ok(true)
    }

    fn checkpoint_if_live(self: &Arc<Self>) -> Result<()> {
        match self.oldest_cut() {
            None => self.checkpoint(),
            Some(_) => Ok(()),
        }
    }

    fn is_settled(&self) -> bool {
        self.state.lock().generations.iter().all(|generation| generation.pieces.is_empty())
    }

    /// The share of the log's limit that a checkpoint would free now.
    fn log_gain(&self) -> f64 {
        let state = self.state.lock();
        let needed = state.log_needed_from(self.log.completed());
        needed.saturating_sub(state.head.log.position) as f64 / self.log_limit_bytes as f64
    }

    /// One unit of background work; `idle`: nobody needs the disk now. True:
    /// there is more to do.
    pub fn work(self: &Arc<Self>, idle: bool) -> Result<bool> {
        self.work_with(idle, &mut |_| {})
    }

    /// As `work`, telling `progress` as `settle_some` does.
    pub fn work_with(self: &Arc<Self>, idle: bool, progress: Progress<'_>) -> Result<bool> {
        let _maintaining = self.maintaining.lock();
        self.check_writable()?;
        if self.log.wants_segment() {
            self.log.prepare()?;
        }
        if self.log.delete_abandoned() {
            return Ok(true);
        }
        let pending = self.oldest_cut().is_some();
        if !pending && !idle && self.log_share() < super::SETTLE_FROM {
            return Ok(false);
        }
        if self.settle_or_publish(progress)? {
            if self.log_gain() > CHECKPOINT_GAIN {
                self.checkpoint_if_live()?;
            }
            return Ok(true);
        }
        let unchanged = {
            let state = self.state.lock();
            state.live().deltas.is_empty() && self.log.bytes_since(state.head.log.position) == 0
        };
        let worth = idle || self.log_gain() > CHECKPOINT_GAIN;
        if !unchanged && worth {
            self.checkpoint()?;
        }
        Ok(false)
    }
}
