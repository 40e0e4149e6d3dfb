//! Opening: head, log, and what must be made safe after an unclean end.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::delta::Delta;
use super::pieces::{Piece, Source};
use super::state::{Generation, State};
use super::{Mode, Volume};
use crate::catalog::head::{self, Head};
use crate::catalog::lease::{self, SharedLease};
use crate::catalog::{epoch, snapshot, standby, volume as names, VOLUME_BYTES_MAX};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::log::replay::{replay, Found, ReplayFrom, Replayed};
use crate::log::{Log, LogOptions, Record};
use crate::map::{Entry, Map};
use crate::name::{Id, ObjectName, SnapshotName, VolumeName};
use crate::store::{Store, GRANULE_BYTES};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Condvar, Mutex};

/// Usual bound of a volume's log, in bytes.
pub const LOG_LIMIT_BYTES: u64 = 256 << 20;

/// A head that vanishes while its log is read is read again this often.
const STALE_RETRIES: u32 = 10;

/// What looks like damage to a reader is read again this often before it is
/// believed: somebody may be writing it.
const TORN_RETRIES: u32 = 5;
const TORN_PAUSE: Duration = Duration::from_millis(2);

/// Who opens a volume and loses a number of its log to somebody who was given up
/// tries again for so long, beyond the time that lists lag.
const LOST_FOR: Duration = Duration::from_secs(5);
const LOST_PAUSE: Duration = Duration::from_millis(20);
const LOST_PAUSE_LATE: Duration = Duration::from_secs(2);

/// How a volume is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub mode: Mode,
    /// Read although another process may be writing.
    pub force_share: bool,
    pub log: LogOptions,
    pub log_limit_bytes: u64,
    pub lease: lease::Options,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            mode: Mode::Writable,
            force_share: false,
            log: LogOptions::default(),
            log_limit_bytes: LOG_LIMIT_BYTES,
            lease: lease::Options::default(),
        }
    }
}

impl OpenOptions {
    pub fn read_only() -> OpenOptions {
        OpenOptions { mode: Mode::ReadOnly, ..OpenOptions::default() }
    }
}

/// What an open volume goes by, of its options.
struct Ways {
    mode: Mode,
    log: LogOptions,
    log_limit_bytes: u64,
}

impl From<&OpenOptions> for Ways {
    fn from(options: &OpenOptions) -> Ways {
        Ways { mode: options.mode, log: options.log, log_limit_bytes: options.log_limit_bytes }
    }
}

/// A volume's state as its head and log tell it.
struct Loaded {
    state: State,
    replayed: Replayed,
}

impl Volume {
    /// Opens a volume. Errors: `NotFound`; `Busy` names the holder;
    /// `Corrupt`.
    pub fn open(store: &Store, name: &VolumeName, options: &OpenOptions) -> Result<Arc<Volume>> {
        Volume::open_id(store, name.as_str(), names::lookup(store, name)?, options)
    }

    /// Opens the volume of this id, whatever it is called. `name` is for
    /// messages. Errors: as `open`.
    pub fn open_id(store: &Store, name: &str, id: Id, options: &OpenOptions) -> Result<Arc<Volume>> {
        store.check_sealed()?;
        let opened = match options.mode {
            Mode::Writable => Volume::open_writable(store, name, id, options),
            _ => share(store, name, id, options).and_then(|shared| {
                if let Some(to) = lease::moved_to(store, id)? {
                    return Err(lease::moved(store, name, &to));
                }
                if !options.force_share {
                    standby::check_is_none(store, id, name)?;
                }
                forget_seen(store);
                let loaded = load_for_reading(store, name, id)?;
                Ok(Volume::assemble(store, name, loaded, options.into(), None, shared))
            }),
        };
        opened.map_err(|error| error.of_volume(name))
    }

    /// Opens a published snapshot, read-only. Needs no lease. Errors:
    /// `NotFound`; `Busy` if it is pending still.
    pub fn open_snapshot(store: &Store, name: &VolumeName, which: &SnapshotName) -> Result<Arc<Volume>> {
        store.check_sealed()?;
        let id = names::lookup(store, name)?;
        forget_seen(store);
        let found =
            find_snapshot(store, name, id, which).map_err(|error| error.of_volume(name.as_str()))?;
        let head = Head {
            volume: id,
            number: 0,
            name_hint: found.volume_name_hint.clone(),
            size_bytes: found.size_bytes,
            block_bytes: found.block_bytes,
            epoch: Id::NONE,
            root: found.root,
            log: head::LogStart::NEW,
            parent: found.parent.clone(),
            created_s: found.created_s,
            written: true,
        };
        let state = new_state(store, head);
        let loaded = Loaded { state, replayed: Replayed::default() };
        // Nothing is leased, so nobody has to know who we are.
        let ways =
            Ways { mode: Mode::ReadOnly, log: LogOptions::default(), log_limit_bytes: LOG_LIMIT_BYTES };
        Ok(Volume::assemble(store, &format!("{name}@{which}"), loaded, ways, None, None))
    }

    /// Where a store does not fence, a holder that was given up while it lived may
    /// make one more number of the log before it finds out. Whoever opens the
    /// volume then begins anew, with what is there now; a list may show that late.
    fn open_writable(store: &Store, name: &str, id: Id, options: &OpenOptions) -> Result<Arc<Volume>> {
        let fences = store.control().capabilities().fences;
        let lag = Duration::from_secs(u64::from(store.log().capabilities().list_lag_s));
        let until = clock::now() + lag + LOST_FOR;
        loop {
            match Volume::try_open_writable(store, name, id, options) {
                Err(error) if error.is(ErrorKind::Fenced) && !fences && clock::now() < until => {
                    log::warn!("volume '{name}' is opened again: {}", error.full());
                    clock::sleep(if lag.is_zero() { LOST_PAUSE } else { LOST_PAUSE_LATE });
                }
                other => return other,
            }
        }
    }

    fn try_open_writable(store: &Store, name: &str, id: Id, options: &OpenOptions) -> Result<Arc<Volume>> {
        let (lease, taken) = lease::take(store, id, name, &options.lease)?;
        forget_seen(store);
        let recovered = recover(store, name, id, options, taken.clean)
            .and_then(|recovered| lease.verify().map(|()| recovered));
        let (loaded, log) = match recovered {
            Ok(recovered) => recovered,
            Err(error) => {
                // Nothing was served: what the last holder left is as it was.
                lease.release(taken.clean)?;
                return Err(error);
            }
        };
        let volume = Volume::assemble(store, name, loaded, options.into(), Some(log), None);
        *volume.lease.lock() = Some(lease);
        if !taken.clean {
            if let Err(error) = volume.begin_new_epoch() {
                if let Some(lease) = volume.lease.lock().take() {
                    lease.release(false)?;
                }
                return Err(error);
            }
        }
        Ok(volume)
    }

    fn assemble(
        store: &Store,
        name: &str,
        loaded: Loaded,
        ways: Ways,
        log: Option<Log>,
        shared: Option<SharedLease>,
    ) -> Arc<Volume> {
        let id = loaded.state.head.volume;
        let log = log.unwrap_or_else(|| {
            Log::after(id, Arc::clone(store.log()), ways.log, &loaded.replayed)
        });
        Arc::new(Volume {
            store: store.clone(),
            name: name.to_owned(),
            id,
            block_bytes: loaded.state.block_bytes,
            mode: ways.mode,
            log_limit_bytes: ways.log_limit_bytes,
            state: Mutex::new(loaded.state),
            log: Arc::new(log),
            driver: Mutex::new(None),
            data_path: OnceLock::new(),
            log_path: OnceLock::new(),
            settled_bytes: AtomicU64::new(0),
            lease: Mutex::new(None),
            shared: Mutex::new(shared),
            maintaining: Mutex::new(()),
            flushing: Mutex::new(()),
            drained: Condvar::new(),
            is_closed: AtomicBool::new(false),
            is_uncertain: AtomicBool::new(false),
            is_poisoned: AtomicBool::new(false),
            poisoned: Mutex::new(None),
        })
    }

    /// After an unclean end the old epoch's blocks are never overwritten: the
    /// last holder's writes may still be under way.
    fn begin_new_epoch(self: &Arc<Self>) -> Result<()> {
        if fault::on(fault::Planted::UncleanKeepsEpoch) {
            return Ok(());
        }
        let claimed = epoch::claim(&self.store, self.id, &self.name)?;
        self.cut(claimed, None, None)
    }
}

/// Reads a volume's state and, after an unclean end, makes all of it durable
/// and commits a head of our own, before anything is served.
fn recover(store: &Store, name: &str, id: Id, options: &OpenOptions, clean: bool) -> Result<(Loaded, Log)> {
    let mut tries = 0;
    loop {
        let loaded = match clean {
            true => load(store, id),
            false => load_whole(store, name, id),
        };
        let mut loaded = match loaded {
            // The last holder lived a little longer, and has deleted what its
            // newer head does without.
            Err(error) if error.is(ErrorKind::NotFound) && tries < STALE_RETRIES => {
                tries += 1;
                continue;
            }
            other => other?,
        };
        let log = Log::after(id, Arc::clone(store.log()), options.log, &loaded.replayed);
        if clean || fault::on(fault::Planted::TakerKeepsHead) {
            return Ok((loaded, log));
        }
        let head = Head { number: loaded.state.head.number + 1, ..loaded.state.head.clone() };
        match head::commit(store, &head) {
            // The last holder was faster: read what it wrote. Not for ever: a
            // store may say so of a head that it never shows.
            Err(error) if error.is(ErrorKind::Fenced) && tries < STALE_RETRIES => {
                tries += 1;
                continue;
            }
            other => other?,
        }
        head::remove_below(store, id, head.number)?;
        loaded.state.head = head;
        return Ok((loaded, log));
    }
}

/// Loads and syncs all of a volume after an unclean end.
fn load_whole(store: &Store, name: &str, id: Id) -> Result<Loaded> {
    let whole = |loaded: &Loaded| match fault::on(fault::Planted::ReplayNotSynced) {
        true => Ok(()),
        false => sync_all(store, name, loaded),
    };
    match load(store, id).and_then(|loaded| whole(&loaded).map(|()| loaded)) {
        Err(error) if error.is(ErrorKind::Corrupt) => load_before(store, name, id, error, &whole),
        other => other,
    }
}

/// Loads a volume without the right to change it, while another process may
/// be doing that: it may make what is read here look torn, or take it away.
fn load_for_reading(store: &Store, name: &str, id: Id) -> Result<Loaded> {
    let mut retries = 0;
    let error = loop {
        let loaded = load(store, id).and_then(|loaded| check_doubted(store, &loaded).map(|()| loaded));
        let error = match loaded {
            Err(error) if error.is(ErrorKind::Corrupt) || error.is(ErrorKind::NotFound) => error,
            other => return other,
        };
        if retries == TORN_RETRIES {
            break error;
        }
        ::log::debug!("volume '{name}' is read again: {}", error.full());
        retries += 1;
        clock::sleep(TORN_PAUSE);
    };
    match error.kind() {
        ErrorKind::Corrupt => load_before(store, name, id, error, &check_pages),
        _ => Err(error),
    }
}

/// A head that still has one before it may be one that nobody verified: then
/// all its pages are looked at.
fn check_doubted(store: &Store, loaded: &Loaded) -> Result<()> {
    match head::numbers(store, loaded.state.head.volume)?.len() {
        0 | 1 => Ok(()),
        _ => check_pages(loaded),
    }
}

fn check_pages(loaded: &Loaded) -> Result<()> {
    let map = &loaded.state.map;
    map.scan(0, map.block_count(), &mut |_, _, _| Ok(()))
}

/// The last head may be one that its holder did not live to verify, and then
/// gc may have taken its pages; the head before it and that one's log are
/// there until then, and say the same. `error` says what is wrong with the
/// last one, `check` what must be right.
fn load_before(
    store: &Store,
    name: &str,
    id: Id,
    error: Error,
    check: &dyn Fn(&Loaded) -> Result<()>,
) -> Result<Loaded> {
    let mut heads = head::all(store, id)?;
    let Some(last) = heads.pop() else { return Err(error) };
    while let Some(before) = heads.pop() {
        let number = before.number;
        let loaded = load_from(store, id, before).and_then(|loaded| check(&loaded).map(|()| loaded));
        if let Ok(mut loaded) = loaded {
            // Nothing older than what the last head says may come back, and
            // no number that it knows to be used is used again.
            if loaded.replayed.tail >= last.log.tail {
                ::log::warn!("volume '{name}': head {} was not finished, {number} counts", last.number);
                loaded.state.head.number = last.number;
                let number_max = &mut loaded.replayed.number_max;
                *number_max = last.log.segment.saturating_sub(1).max(*number_max);
                return Ok(loaded);
            }
        }
    }
    Err(error)
}

/// From here on nobody writes but who has the lease: what others wrote before
/// is what counts.
fn forget_seen(store: &Store) {
    store.log().forget_seen();
    store.blocks().forget_seen();
}

/// What a guest has read must not vanish: syncs every replayed segment and
/// every block that the last epochs may have written in place.
fn sync_all(store: &Store, name: &str, loaded: &Loaded) -> Result<()> {
    let segments: Vec<ObjectName> = loaded.replayed.segments.values().map(|s| s.name.clone()).collect();
    // This process may have had the volume before, and synced all of them.
    store.log().forget_synced(&segments);
    store.log().sync(&segments)?;
    let state = &loaded.state;
    let mut epochs = HashSet::new();
    for generation in &state.generations {
        epochs.extend(generation.epochs.iter().map(|(_, epoch)| *epoch));
    }
    let mut blocks = Vec::new();
    let mut add = |index: u64, entry: &Entry| {
        entry.each_block(index, &mut |object| {
            if matches!(&object, ObjectName::Block { epoch, .. } if epochs.contains(epoch)) {
                blocks.push(object);
            }
        });
    };
    for generation in &state.generations {
        for (block, delta) in &generation.deltas {
            add(*block, &delta.over(&Entry::Zero));
        }
    }
    let map = &state.map;
    map.scan(0, map.block_count(), &mut |first, count, entry| {
        if *entry != Entry::Zero {
            for block in first..first + count {
                add(block, &map.get(block)?);
            }
        }
        Ok(())
    })?;
    ::log::info!(
        "volume '{name}' was not closed: {} segments and {} blocks synced",
        segments.len(),
        blocks.len()
    );
    store.blocks().forget_synced(&blocks);
    store.blocks().sync(&blocks)
}

/// Keeps a writer away from a reader and a reader from a writer, where the
/// store can.
fn share(store: &Store, name: &str, id: Id, options: &OpenOptions) -> Result<Option<SharedLease>> {
    if options.force_share || options.mode == Mode::Inactive {
        return Ok(None);
    }
    lease::take_shared(store, id, name).map(Some)
}

fn new_state(store: &Store, head: Head) -> State {
    let granules = (head.block_bytes / GRANULE_BYTES) as u32;
    let count = head.size_bytes.div_ceil(head.block_bytes);
    let map = Map::new(store.clone(), head.root, granules, count);
    let live = Generation::new(head.log.position, head.epoch, head.size_bytes);
    State {
        map: Arc::new(map),
        generations: VecDeque::from([live]),
        cutting: false,
        busy: HashMap::new(),
        in_place: 0,
        dirty: HashSet::new(),
        unrecorded: BTreeMap::new(),
        tainted: HashSet::new(),
        size_bytes: head.size_bytes,
        block_bytes: head.block_bytes,
        written: head.written,
        overwrites: store.blocks().capabilities().overwrite_in_place,
        head,
    }
}

/// The latest head and what its log says. Reads again if a live writer takes
/// either away meanwhile.
fn load(store: &Store, id: Id) -> Result<Loaded> {
    let mut tries = 0;
    loop {
        let head = head::latest(store, id)?;
        let number = head.number;
        match load_from(store, id, head) {
            Err(error) if tries < STALE_RETRIES && head::latest(store, id)?.number != number => {
                ::log::debug!("head {number} is no longer the latest: {error}");
                tries += 1;
            }
            other => return other,
        }
    }
}

fn load_from(store: &Store, id: Id, head: Head) -> Result<Loaded> {
    let from = ReplayFrom {
        segment: head.log.segment,
        position: head.log.position,
        tail: head.log.tail,
    };
    let mut state = new_state(store, head);
    let granules = state.granules();
    let replayed = replay(store.log(), id, granules, from, &mut |found| state.apply(found))?;
    Ok(Loaded { state, replayed })
}

impl State {
    /// One record of the log, as it was when it was written.
    fn apply(&mut self, found: Found<'_>) -> Result<()> {
        let position = found.position;
        match found.record {
            Record::Open { .. } => {}
            Record::Piece { block, offset_bytes, bytes, sums, .. } => {
                let source = Source::Logged {
                    segment: Arc::clone(found.segment),
                    data_bytes: found.data_bytes,
                    origin_bytes: offset_bytes / GRANULE_BYTES as u32 * GRANULE_BYTES as u32,
                    sums: Arc::from(sums),
                };
                let piece = Piece { start: offset_bytes, end: offset_bytes + bytes, position, source };
                self.live_mut().pieces.insert(block, piece);
            }
            Record::Blank { block, offset_bytes, bytes } => {
                let end = offset_bytes + bytes;
                let piece = Piece { start: offset_bytes, end, position, source: Source::Blank };
                self.live_mut().pieces.insert(block, piece);
            }
            Record::Own { epoch, block, settled, presence } => {
                self.apply_own(epoch, block, settled, presence);
            }
            Record::Zero { first, count } => {
                let count = count.min(self.block_count().saturating_sub(first));
                self.note_zero(first, count);
            }
            Record::Cut { epoch, snapshot, shrink_bytes, .. } => {
                check_size(&found.segment.name, position, shrink_bytes.unwrap_or(0))?;
                self.note_any_cut(position + 1, epoch, snapshot, shrink_bytes);
            }
            Record::Grow { size_bytes } => {
                check_size(&found.segment.name, position, size_bytes)?;
                self.note_grow(size_bytes);
            }
        }
        self.written = true;
        Ok(())
    }

    /// A record of an epoch that nobody knows any more is in the map already.
    fn apply_own(&mut self, epoch: Id, block: u64, settled: u64, presence: Option<crate::map::Presence>) {
        let Some(at) = self.generation_of(epoch) else { return };
        let own = match presence {
            Some(presence) => super::delta::Own::Part(presence),
            None => super::delta::Own::Whole,
        };
        let generation = &mut self.generations[at];
        generation.pieces.settle(block, settled);
        let delta = generation.deltas.entry(block).or_insert_with(Delta::nothing);
        delta.set_own(epoch, block, own);
    }
}

fn check_size(segment: &ObjectName, position: u64, size_bytes: u64) -> Result<()> {
    if size_bytes <= VOLUME_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("the record at {position} makes a volume of {size_bytes} bytes, which none can have");
    Err(Error::corrupt(segment, message))
}

/// How long somebody who needs a pending snapshot waits for its holder to
/// publish it.
const PENDING_WAIT: Duration = Duration::from_millis(50);
const PENDING_WAITS: u32 = 600;

/// Finds a snapshot to read or clone. One that is pending is published first:
/// by its volume's holder, for whom this waits up to half a minute, or here.
/// Errors: `NotFound`; `Busy` if it is still pending.
pub fn find_snapshot(
    store: &Store,
    name: &VolumeName,
    id: Id,
    which: &SnapshotName,
) -> Result<snapshot::Snapshot> {
    let mut waits = 0;
    loop {
        let found = match snapshot::find(store, id, which) {
            Err(error) if !error.is(ErrorKind::NotFound) => return Err(error),
            Ok(found) if snapshot::is_for_good(store, &found)? => return Ok(found),
            other => other,
        };
        if !is_pending(store, name, id, which)? {
            // Published between the two looks, or not there at all.
            return snapshot::find(store, id, which).map_err(|error| found.err().unwrap_or(error));
        }
        let options = OpenOptions { log_limit_bytes: store.log_limit_bytes, ..OpenOptions::default() };
        match Volume::open(store, name, &options) {
            Ok(volume) => {
                let published = volume.publish_all();
                volume.close()?;
                published?;
            }
            Err(error) if error.is(ErrorKind::Busy) => {
                waits += 1;
                if waits > PENDING_WAITS {
                    return Err(still_pending(name, which, error));
                }
                clock::sleep(PENDING_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_pending(store: &Store, name: &VolumeName, id: Id, which: &SnapshotName) -> Result<bool> {
    let loaded = load_for_reading(store, name.as_str(), id)?;
    let pending = |g: &Generation| g.cut.as_ref().is_some_and(|cut| cut.snapshot.name == *which);
    Ok(loaded.state.generations.iter().any(pending))
}

fn still_pending(name: &VolumeName, which: &SnapshotName, error: Error) -> Error {
    Error::sentence(
        ErrorKind::Busy,
        format!("snapshot '{name}@{which}' is taken but its holder has not published it yet: try again"),
    )
    .caused_by(error)
}
