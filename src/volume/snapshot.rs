//! Taking a snapshot, listing and removing them, and going back to one.

use std::sync::Arc;

use super::state::{Cut, Generation, State};
use super::Volume;
use crate::catalog::head::{self, Head, LogStart};
use crate::catalog::{epoch, maintenance, snapshot};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::{Appended, CutSnapshot, Draft, Record};
use crate::map::Map;
use crate::name::{Id, SnapshotName};
use crate::sync::channel;

/// Cuts that may wait to be published.
pub const PENDING_MAX: usize = 64;

/// A snapshot as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: SnapshotName,
    pub pending: bool,
    pub size_bytes: u64,
    pub created_s: u64,
    pub created_ns: u32,
}

impl State {
    /// The cut's record is in the log: from here on everything is new.
    pub(super) fn note_snapshot_cut(&mut self, position: u64, epoch: Id, taken: CutSnapshot) {
        let size_bytes = self.size_bytes;
        let live = self.live_mut();
        live.cut = Some(Cut { snapshot: taken, position });
        live.size_bytes = size_bytes;
        let old = live.epoch();
        let epoch = if fault::on(fault::Planted::OldEpochAfterCut) { old } else { epoch };
        self.generations.push_back(Generation::new(position, epoch, size_bytes));
        self.tainted.clear();
        self.cutting = false;
    }

    /// Snapshots that are taken and not published.
    fn pending(&self) -> Vec<Listed> {
        let cut = |generation: &Generation| {
            let cut = generation.cut.as_ref()?;
            Some(Listed {
                name: cut.snapshot.name.clone(),
                pending: true,
                size_bytes: generation.size_bytes,
                created_s: cut.snapshot.created_s,
                created_ns: cut.snapshot.created_ns,
            })
        };
        self.generations.iter().filter_map(cut).collect()
    }

    /// A record says that another epoch begins without a snapshot.
    pub(super) fn note_epoch(&mut self, position: u64, epoch: Id) {
        self.live_mut().epochs.push((position, epoch));
        self.tainted.clear();
    }
}

impl Volume {
    /// Takes a snapshot: it holds every write that completed before this
    /// call. Durable on return; it is published in the background. Errors:
    /// `Exists`; those of a flush.
    pub fn snapshot(self: &Arc<Self>, name: &SnapshotName) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        self.check_writable()?;
        self.check_free(name)?;
        if self.state.lock().generations.len() > PENDING_MAX {
            self.publish_oldest()?;
        }
        let epoch = epoch::claim(&self.store, self.id, &self.name)?;
        let created = clock::wall();
        let taken = CutSnapshot {
            id: clock::random_id()?,
            created_s: created.as_secs(),
            created_ns: created.subsec_nanos(),
            name: name.clone(),
        };
        if self.state.lock().overwrites {
            return self.cut(epoch, Some(taken), None);
        }
        // In which nothing is made but what is settled for the snapshot.
        let sealed = epoch::claim(&self.store, self.id, &self.name)?;
        self.cut_after(Some(sealed), epoch, Some(taken), None)
    }

    /// Error: `Exists`.
    pub fn check_free(&self, name: &SnapshotName) -> Result<()> {
        // Pending ones first, as in `snapshots`.
        let is_pending = self.state.lock().pending().iter().any(|listed| listed.name == *name);
        if is_pending || snapshot::exists(&self.store, self.id, name)? {
            return Err(Error::sentence(
                ErrorKind::Exists,
                format!(
                    "volume '{}' has a snapshot '{name}' already: remove it or use another name",
                    self.name
                ),
            ));
        }
        Ok(())
    }

    /// Ends the epoch: what was written before is durable and immutable when
    /// this returns. For whoever holds `maintaining`.
    pub(super) fn cut(
        self: &Arc<Self>,
        epoch: Id,
        taken: Option<CutSnapshot>,
        shrink_bytes: Option<u64>,
    ) -> Result<()> {
        self.cut_after(None, epoch, taken, shrink_bytes)
    }

    /// As `cut`, after an epoch in which nobody writes.
    fn cut_after(
        self: &Arc<Self>,
        sealed: Option<Id>,
        epoch: Id,
        taken: Option<CutSnapshot>,
        shrink_bytes: Option<u64>,
    ) -> Result<()> {
        let _flushing = self.flushing.lock();
        {
            let mut state = self.state.lock();
            state.cutting = true;
            while state.in_place > 0 {
                self.drained.wait(&mut state);
            }
        }
        let mut result = Ok(());
        if !fault::on(fault::Planted::CutBeforeContent) {
            result = self.flush_locked();
        }
        let result = result.and_then(|()| sealed.map_or(Ok(()), |sealed| self.append_sealed(sealed)));
        let result = result.and_then(|()| self.append_cut(epoch, taken, shrink_bytes));
        if result.is_err() {
            self.state.lock().cutting = false;
            return result;
        }
        self.sync_log()?;
        self.lease_confirm()
    }

    /// Begins an epoch; the next cut follows at once, and until then all that is
    /// written goes to the log.
    fn append_sealed(self: &Arc<Self>, epoch: Id) -> Result<()> {
        let size_bytes = self.state.lock().size_bytes;
        let record = Record::Cut { epoch, size_bytes, snapshot: None, shrink_bytes: None };
        let appended = self.log.append_now_by(record, || self.have_log_driven());
        let at = appended.map_err(|error| self.poison_unless_full(error))?;
        self.state.lock().note_epoch(at.position + 1, epoch);
        Ok(())
    }

    fn append_cut(
        self: &Arc<Self>,
        epoch: Id,
        taken: Option<CutSnapshot>,
        shrink_bytes: Option<u64>,
    ) -> Result<()> {
        let size_bytes = self.state.lock().size_bytes;
        let record = Record::Cut { epoch, size_bytes, snapshot: taken.clone(), shrink_bytes };
        let (sender, receiver) = channel::bounded(1);
        let volume = Arc::clone(self);
        // In the log's order: what completes after this belongs to the new
        // epoch.
        let done = Box::new(move |result: Result<Appended>| {
            let result = result.map(|at| {
                let mut state = volume.state.lock();
                state.note_any_cut(at.position + 1, epoch, taken, shrink_bytes);
            });
            drop(sender.send(result));
        });
        if self.log.append([Draft { record, data: None, done }]) {
            self.have_log_driven();
        }
        let result = receiver.recv().map_err(|_| Error::new(ErrorKind::Internal, "append to the log"))?;
        result.map_err(|error| self.poison_unless_full(error))
    }

    /// Snapshots that are taken and not published yet, oldest first.
    pub fn pending_snapshots(&self) -> Vec<Listed> {
        self.state.lock().pending()
    }

    /// Snapshots of this volume, oldest first, pending ones last. Those that
    /// are pending are looked at first: one that is published meanwhile is in
    /// both lists, and never in none.
    pub fn snapshots(&self) -> Result<Vec<Listed>> {
        let pending = self.state.lock().pending();
        let published = snapshot::list(&self.store, self.id)?;
        let mut listed: Vec<Listed> = published
            .into_iter()
            .map(|s| Listed {
                name: s.name,
                pending: false,
                size_bytes: s.size_bytes,
                created_s: s.created_s,
                created_ns: s.created_ns,
            })
            .collect();
        let published = listed.len();
        for one in pending {
            if !listed[..published].iter().any(|l| l.name == one.name) {
                listed.push(one);
            }
        }
        Ok(listed)
    }

    /// Removes a snapshot. Clones of it stay as they are. Error: `NotFound`.
    pub fn remove_snapshot(self: &Arc<Self>, name: &SnapshotName) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        self.check_writable()?;
        if self.snapshots()?.iter().any(|listed| listed.pending && listed.name == *name) {
            self.publish_all_locked()?;
        }
        snapshot::remove(&self.store, self.id, name)
    }

    /// Makes the volume's content that of a snapshot. What was written since
    /// the last snapshot is gone. No request may be in flight. Errors:
    /// `NotFound`.
    ///
    /// The same few calls whatever the size of the volume and of its log. The
    /// old head goes here, once the new one is verified, so that nothing needs
    /// the old log any more. Its segments, which take a while to delete, go
    /// one by one in `work`, and what is left of them in `close`. After a
    /// crash in between they are left to gc: no holder looks at them, since
    /// they lie before the segment at which the head says that the log begins,
    /// and their numbers are not used again.
    pub fn rollback(self: &Arc<Self>, name: &SnapshotName) -> Result<()> {
        let _maintaining = self.maintaining.lock();
        self.check_writable()?;
        self.flush()?;
        self.publish_all_locked()?;
        loop {
            let generation = maintenance::generation(&self.store)?;
            let source = snapshot::find(&self.store, self.id, name)?;
            let map = self.map_of(&source);
            map.check_root()?;
            let claimed = epoch::claim_in(&self.store, generation, self.id, &self.name)?;
            let head = self.rolled_back(&source, claimed);
            self.commit(&head)?;
            match self.is_still_there(&source, generation) {
                Ok(true) => {
                    self.adopt_rollback(head, map, &source);
                    break;
                }
                Ok(false) => self.take_back(head.number)?,
                Err(error) => {
                    self.take_back(head.number)?;
                    return Err(error);
                }
            }
        }
        let number = self.state.lock().head.number;
        head::remove_below(&self.store, self.id, number)
    }

    /// True if a snapshot is what it was, and no gc has begun meanwhile.
    fn is_still_there(&self, source: &snapshot::Snapshot, generation: u64) -> Result<bool> {
        let again = snapshot::find(&self.store, self.id, &source.name)?;
        let same = again.id == source.id && again.number == source.number;
        Ok(same && maintenance::generation(&self.store)? == generation)
    }

    /// The snapshot of a rollback is gone, or gc may have missed who names it
    /// now: the content is what it was before, under a later number.
    fn take_back(&self, number: u64) -> Result<()> {
        let head = Head { number: number + 1, ..self.state.lock().head.clone() };
        head::commit(&self.store, &head).map_err(|error| self.poison(error))?;
        self.state.lock().head = head;
        Ok(())
    }

    fn map_of(&self, source: &snapshot::Snapshot) -> Map {
        let granules = self.state.lock().granules();
        let count = source.size_bytes.div_ceil(self.block_bytes);
        Map::new(self.store.clone(), source.root, granules, count)
    }

    fn rolled_back(&self, source: &snapshot::Snapshot, epoch: Id) -> Head {
        let position = self.log.tail();
        let log = LogStart { segment: self.log.last_known() + 1, position, tail: position };
        let keeps_log = fault::on(fault::Planted::RollbackKeepsLog);
        let state = self.state.lock();
        Head {
            number: state.head.number + 1,
            size_bytes: source.size_bytes,
            epoch: if keeps_log { state.head.epoch } else { epoch },
            root: source.root,
            log: if keeps_log { state.head.log } else { log },
            ..state.head.clone()
        }
    }

    fn adopt_rollback(&self, head: Head, map: Map, source: &snapshot::Snapshot) {
        self.log.abandon();
        let mut state = self.state.lock();
        let generation = Generation::new(head.log.position, head.epoch, source.size_bytes);
        state.generations.clear();
        state.generations.push_back(generation);
        state.map = Arc::new(map);
        state.unrecorded.clear();
        state.dirty.clear();
        state.tainted.clear();
        state.size_bytes = source.size_bytes;
        state.head = head;
    }
}
