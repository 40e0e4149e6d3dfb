//! Leases: the right of one writer to a volume.
//!
//! Taking, renewing, giving back and breaking a lease are all `create` of its
//! next number; of two that try one wins. A lease is taken from a holder only
//! when its death is certain:
//!
//! * Where the store fences, the holder keeps a lock for as long as it lives.
//!   A free lock is proof, so nothing needs to be renewed.
//! * Elsewhere the holder's identity is judged (see `identity`), and "not
//!   known" means that the volume stays in use until the operator breaks the
//!   lease. The holder renews, and finds out that way that it was broken; when
//!   it could not renew within the deadline it acknowledges nothing until it can.

use std::sync::Arc;
use std::time::Duration;

use super::identity::{utc_text, Identity, Life};
use super::lease_format::{decode, Record, State};
pub use super::lease_format::{Destination, Holder};
use super::numbered::{Family, Outcome};
pub use super::lease_moved::{complete_arrival, moved, moved_to};
pub use super::lease_renew::Confirmation;
use super::lease_renew::Renewal;
use super::standby;
use crate::backend::{Lock, LockMode};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{prefix, Id, ObjectName};
use crate::store::Store;

/// How often a lock is tried: whoever looks at a lease holds it for a moment.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// See `Options::patience`.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How a lease is taken.
#[derive(Clone, Debug)]
pub struct Options {
    pub identity: Identity,
    /// Path of this holder's control socket.
    pub socket: Option<String>,
    /// Between two renewals, where any are needed.
    pub renew_every: Duration,
    /// A lease not confirmed for this long must not be relied on.
    pub deadline: Duration,
    /// How long the lock of a holder that has ended is waited for: what it had
    /// asked of the disk is not done yet.
    pub patience: Duration,
    /// The volume comes from this store; it may have been here before.
    pub arrives: Option<Destination>,
    /// It does not matter that it is in another store.
    pub removes: bool,
    /// From here on it is no standby any more.
    pub promotes: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            identity: Identity::of_this_process(),
            socket: None,
            renew_every: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
            patience: PATIENCE,
            arrives: None,
            removes: false,
            promotes: false,
        }
    }
}

/// What taking a lease found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The one before gave it back with nothing left to recover, or there was
    /// none before.
    pub clean: bool,
    pub previous: Option<Holder>,
}

/// What a lease is, for people and for `lease show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    Free { clean: bool },
    /// `life` is what this process can tell: a dead holder's lease is free to
    /// be taken.
    Held { holder: Holder, number: u64, life: Life },
    Broken { by: String, holder: Holder },
    /// The volume is in another store.
    Moved(Destination),
    /// Somebody moves it here, or died while doing so. Whether it is in that
    /// store is told there.
    Arriving { from: Destination, holder: Holder, life: Life },
    /// A copy that follows the volume in that store.
    Standby(Destination),
}

/// A held lease. Dropping it gives it back uncleanly; `release` can do better.
pub struct Lease {
    store: Store,
    volume: Id,
    volume_name: String,
    holder: Holder,
    renewal: Arc<Renewal>,
    renew_every: Duration,
    /// While the volume is in that store still.
    arrives: Option<Destination>,
    /// Where the store fences.
    lock: Option<Lock>,
    given_back: bool,
}

/// Reading under a guarantee that no writer starts, where the store can give it.
pub struct SharedLease {
    _lock: Option<Lock>,
}

impl std::fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedLease")
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} of {})", self.renewal.number(), self.volume)
    }
}

/// Takes the lease of a volume. `volume_name` is for messages.
/// Error: `Busy`, naming the holder.
pub fn take(store: &Store, volume: Id, volume_name: &str, options: &Options) -> Result<(Lease, Taken)> {
    let fences = store.control().capabilities().fences;
    let lock = match fences {
        true => Some(lock(store, volume, volume_name, LockMode::Exclusive, options.patience)?),
        false => None,
    };
    let found = latest(store, volume)?;
    if let (None, Some(Record { state: State::Held | State::Arriving(_), holder, .. })) = (&lock, &found) {
        let life = options.identity.judge(&holder.process);
        if life != Life::Dead {
            return Err(busy(volume_name, holder, life));
        }
    }
    if let Some(to) = found.as_ref().and_then(Record::elsewhere) {
        if options.arrives.is_none() && !options.removes {
            return Err(moved(store, volume_name, to));
        }
    }
    if let Some(Record { state: State::Standby(of), .. }) = &found {
        if options.arrives.is_none() && !options.removes && !options.promotes {
            return Err(standby::refused(store, volume_name, of));
        }
    }
    let socket = options.socket.clone();
    let holder = Holder::new(&options.identity, socket)?;
    let number = found.as_ref().map_or(0, |record| record.number) + 1;
    let taken = describe(found);
    let asked_at = clock::now();
    let state = options.arrives.clone().map_or(State::Held, State::Arriving);
    if !create(store, volume, number, state.clone(), &holder)? {
        return Err(lost(store, volume, volume_name));
    }
    remove_below(store, volume, number);
    let (own, who, deadline) = (store.clone(), holder.clone(), options.deadline);
    let renewal = Renewal::new(own, volume, who, number, asked_at, deadline, state);
    let lease = Lease {
        store: store.clone(),
        volume,
        volume_name: volume_name.to_owned(),
        holder,
        renewal: Arc::new(renewal),
        renew_every: options.renew_every,
        arrives: options.arrives.clone(),
        lock,
        given_back: false,
    };
    if !fences {
        Renewal::start(&lease.renewal, options.renew_every)?;
    }
    Ok((lease, taken))
}

fn describe(found: Option<Record>) -> Taken {
    match found {
        None => Taken { clean: true, previous: None },
        Some(record) => Taken {
            clean: matches!(record.state, State::Released { clean: true } | State::Moved(_)),
            previous: Some(record.holder),
        },
    }
}

fn lost(store: &Store, volume: Id, volume_name: &str) -> Error {
    match latest(store, volume) {
        Ok(Some(record)) => busy(volume_name, &record.holder, Life::Unknown),
        _ => Error::sentence(
            ErrorKind::Busy,
            format!("somebody else has just opened volume '{volume_name}'"),
        ),
    }
}

impl Lease {
    /// Cheap: asked at the end of each flush. Errors: `Fenced` when the lease was
    /// taken away, `Unavailable` when it was not confirmed within its deadline;
    /// nothing may be acknowledged then.
    pub fn confirm(&self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        self.renewal.confirm(&self.volume_name)
    }

    /// For whoever has to wait until `confirm` says yes.
    pub fn confirmation(&self) -> Confirmation {
        Confirmation::new(self.lock.is_none().then_some(&self.renewal), &self.volume_name)
    }

    /// Looks whether this is the last lease still. Whoever was away while it
    /// opened a volume may have been given up, and has made no number yet that
    /// it could lose. Error: `Fenced`.
    pub fn verify(&self) -> Result<()> {
        if self.lock.is_some() || fault::on(fault::Planted::OpenerNotVerified) {
            return Ok(());
        }
        match latest(&self.store, self.volume)? {
            Some(last) if last.holder.id == self.holder.id && last.state.is_held() => Ok(()),
            _ => Err(Error::sentence(
                ErrorKind::Fenced,
                format!("the lease of volume '{}' was taken away while it was opened", self.volume_name),
            )),
        }
    }

    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Gives the lease back. `clean`: every operation has a known outcome,
    /// all is flushed, and nothing of this holder can write any more. If this
    /// fails the next holder takes the volume for crashed, which is safe.
    pub fn release(mut self, clean: bool) -> Result<()> {
        self.give_back(clean)
    }

    fn give_back(&mut self, clean: bool) -> Result<()> {
        self.given_back = true;
        self.renewal.stop();
        if self.lock.is_none() {
            // Late is as good as never: whoever took over must not be undone.
            self.renewal.confirm(&self.volume_name)?;
        }
        let number = self.renewal.number() + 1;
        // What has not arrived is where it was.
        let state = self.arrives.take().map_or(State::Released { clean }, State::Moved);
        let released = create(&self.store, self.volume, number, state, &self.holder);
        let result = released.and_then(|won| if won { Ok(()) } else { Err(self.taken_over()) });
        if result.is_ok() {
            remove_below(&self.store, self.volume, number);
        }
        self.lock = None;
        result
    }

    fn taken_over(&self) -> Error {
        let sentence =
            format!("the lease of volume '{}' was taken over before it was given back", self.volume_name);
        Error::sentence(ErrorKind::Fenced, sentence)
    }

    /// The volume is here now: its lease in the store that it comes from says
    /// so. Whatever comes of this, that is so.
    pub fn settle_in(&mut self) -> Result<()> {
        self.arrives = None;
        self.renewal.stop();
        let changed = self.renewal.change(State::Held);
        if self.lock.is_none() {
            Renewal::resume(&self.renewal, self.renew_every)?;
        }
        match changed {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.taken_over()),
            Err(error) => Err(error),
        }
    }

    /// Ends the lease for good: from here on the volume is in another store,
    /// for everybody. After `NoSpace` or `Unavailable` it is held as before;
    /// after any other error nobody knows where the volume is, and this
    /// holder must do nothing more to it.
    pub fn move_away(&mut self, to: &Destination) -> Result<()> {
        self.confirm()?;
        self.renewal.stop();
        let number = self.renewal.number() + 1;
        let state = State::Moved(to.clone());
        match create(&self.store, self.volume, number, state, &self.holder) {
            Ok(true) => {}
            Ok(false) => return Err(self.taken_over()),
            Err(_) if is_last(&self.store, self.volume, number, &self.holder) => {}
            Err(error) => {
                let is_here = matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Unavailable);
                if is_here && self.lock.is_none() {
                    Renewal::resume(&self.renewal, self.renew_every)?;
                }
                return Err(error);
            }
        }
        self.given_back = true;
        self.lock = None;
        Ok(())
    }

    /// Ends like a process that is killed: nothing is written.
    pub fn abandon(self) {
        self.discard();
    }

    pub(super) fn discard(mut self) {
        self.given_back = true;
        self.renewal.stop();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.given_back {
            if let Err(error) = self.give_back(false) {
                log::warn!("the lease of volume '{}' was not given back: {}", self.volume_name, error.full());
            }
        }
    }
}

/// For read-only users: while this is held no writer starts, where the store
/// fences; elsewhere it only finds out that no writer is there now.
/// Error: `Busy`.
pub fn take_shared(store: &Store, volume: Id, volume_name: &str) -> Result<SharedLease> {
    if store.control().capabilities().fences {
        let lock = lock(store, volume, volume_name, LockMode::Shared, PATIENCE)?;
        return Ok(SharedLease { _lock: Some(lock) });
    }
    if let Some(Record { state: State::Held | State::Arriving(_), holder, .. }) = latest(store, volume)? {
        let life = Identity::of_this_process().judge(&holder.process);
        if life != Life::Dead {
            return Err(busy(volume_name, &holder, life));
        }
    }
    Ok(SharedLease { _lock: None })
}

/// True if the last lease is of this number and holder.
pub(super) fn is_last(store: &Store, volume: Id, number: u64, holder: &Holder) -> bool {
    matches!(latest(store, volume), Ok(Some(last)) if last.number == number && last.holder.id == holder.id)
}

/// What the lease of a volume is now.
pub fn show(store: &Store, volume: Id) -> Result<LeaseState> {
    let Some(record) = latest(store, volume)? else {
        return Ok(LeaseState::Free { clean: true });
    };
    Ok(match record.state {
        State::Released { clean } => LeaseState::Free { clean },
        State::Broken { by } => LeaseState::Broken { by, holder: record.holder },
        State::Moved(to) => LeaseState::Moved(to),
        State::Standby(of) => LeaseState::Standby(of),
        State::Arriving(from) => {
            let life = life_of(store, volume, &record.holder)?;
            LeaseState::Arriving { from, holder: record.holder, life }
        }
        State::Held => {
            let life = life_of(store, volume, &record.holder)?;
            LeaseState::Held { holder: record.holder, number: record.number, life }
        }
    })
}

pub(super) fn life_of(store: &Store, volume: Id, holder: &Holder) -> Result<Life> {
    if !store.control().capabilities().fences {
        return Ok(Identity::of_this_process().judge(&holder.process));
    }
    match store.control().lock(&lock_name(volume), LockMode::Shared) {
        Ok(_lock) => Ok(Life::Dead),
        Err(error) if error.is(ErrorKind::Busy) => Ok(life_of_locker(store, holder)),
        // Somebody who may look but not lock, as a user without write access.
        Err(error) if error.is(ErrorKind::Denied) => {
            Ok(Identity::of_this_process().judge(&holder.process))
        }
        Err(error) => Err(error),
    }
}

/// What it says of a holder that the lock is held.
fn life_of_locker(store: &Store, holder: &Holder) -> Life {
    match store.control().capabilities().cuts_off {
        true => Identity::of_this_process().judge(&holder.process),
        false => Life::Alive,
    }
}

/// The operator's word that the holder is dead. `by` says who gave it.
/// Errors: `Busy` when the holder certainly lives, `Invalid` when nobody
/// holds the lease.
pub fn break_lease(store: &Store, volume: Id, volume_name: &str, by: &str) -> Result<()> {
    for _ in 0..LOCK_TRIES {
        let record = match latest(store, volume)? {
            Some(record) if record.state.is_held() => record,
            _ => {
                return Err(Error::sentence(
                    ErrorKind::Invalid,
                    format!("nobody holds the lease of volume '{volume_name}': there is nothing to break"),
                ))
            }
        };
        if life_of(store, volume, &record.holder)? == Life::Alive {
            return Err(Error::sentence(
                ErrorKind::Busy,
                format!("{}: it is alive, so end it first", in_use(volume_name, &record.holder)),
            ));
        }
        if store.control().capabilities().cuts_off {
            store.control().cut_off(&lock_name(volume))?;
        }
        let state = State::Broken { by: by.to_owned() };
        // A holder that lives after all may renew at the same moment.
        if create(store, volume, record.number + 1, state, &record.holder)? {
            remove_below(store, volume, record.number + 1);
            return Ok(());
        }
    }
    Err(Error::sentence(
        ErrorKind::Busy,
        format!("the lease of volume '{volume_name}' changes all the time: its holder is alive"),
    ))
}

pub(super) fn lock(
    store: &Store,
    volume: Id,
    volume_name: &str,
    mode: LockMode,
    patience: Duration,
) -> Result<Lock> {
    let (mut tries, mut gives_up, began) = (0, false, clock::now());
    loop {
        match store.control().lock(&lock_name(volume), mode) {
            Err(error) if error.is(ErrorKind::Busy) => {}
            other => return other,
        }
        if gives_up {
            return Err(explain(store, volume, volume_name, mode));
        }
        tries += 1;
        if tries >= LOCK_TRIES {
            let patient = clock::now().saturating_duration_since(began) < patience;
            // Once more at once: it may have become free between the two looks.
            gives_up = !patient || !is_left_by_the_dead(store, volume)?;
        }
        if !gives_up {
            clock::sleep(LOCK_PAUSE);
        }
    }
}

/// The lock is held, but its holder has ended: the kernel keeps it until the
/// disk is done with what he had asked for, and a cluster until nobody has
/// renewed it for a while, or until he is cut off.
fn is_left_by_the_dead(store: &Store, volume: Id) -> Result<bool> {
    let Some(Record { holder, .. }) = latest(store, volume)?.filter(|record| record.state.is_held()) else {
        return Ok(false);
    };
    if !Identity::of_this_process().sees_the_end_of(&holder.process) {
        return Ok(false);
    }
    if store.control().capabilities().cuts_off {
        return store.control().cut_off(&lock_name(volume)).map(|()| true);
    }
    // Readers would let another reader in.
    match store.control().lock(&lock_name(volume), LockMode::Shared) {
        Err(error) if error.is(ErrorKind::Busy) => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

/// Why the lock is taken, as far as the lease tells.
fn explain(store: &Store, volume: Id, volume_name: &str, mode: LockMode) -> Error {
    match latest(store, volume) {
        Ok(Some(Record { state: State::Held | State::Arriving(_), holder, .. })) => {
            let is_dead = is_left_by_the_dead(store, volume).unwrap_or(false);
            let life = if is_dead { Life::Dead } else { life_of_locker(store, &holder) };
            busy(volume_name, &holder, life)
        }
        _ if mode == LockMode::Exclusive => Error::sentence(
            ErrorKind::Busy,
            format!("volume '{volume_name}' is in use by readers: no writer can start now"),
        ),
        _ => Error::sentence(ErrorKind::Busy, format!("volume '{volume_name}' is in use by a writer")),
    }
}

/// Who has it, as a sentence begins.
pub fn in_use(volume_name: &str, holder: &Holder) -> String {
    format!(
        "volume '{volume_name}' is in use by process {} ({}) on host {} since {}",
        holder.process.pid,
        holder.process.program,
        holder.process.host,
        utc_text(holder.since_s)
    )
}

/// The message of a volume that is in use.
pub fn busy(volume_name: &str, holder: &Holder, life: Life) -> Error {
    let in_use = in_use(volume_name, holder);
    if life == Life::Dead {
        return Error::sentence(
            ErrorKind::Busy,
            format!("{in_use}: it has ended, but the disk is not done with its writes; try again later"),
        );
    }
    let mut text = format!("{in_use}; look further with: archipelago lease show {volume_name}");
    if life == Life::Unknown {
        text.push_str(&format!(
            "; whether it lives cannot be told from here: if it certainly does not, \
             archipelago lease break {volume_name}"
        ));
    }
    Error::sentence(ErrorKind::Busy, text)
}

fn lock_name(volume: Id) -> ObjectName {
    ObjectName::Lease { volume, number: 0 }
}

/// True if the number was ours to take.
pub(super) fn create(store: &Store, volume: Id, number: u64, state: State, holder: &Holder) -> Result<bool> {
    let record = Record { volume, number, state, holder: holder.clone() };
    let name = name_of(volume);
    let outcome = family(store, volume, &name).create(number, &record.encode())?;
    Ok(outcome == Outcome::Won)
}

pub(super) fn remove_below(store: &Store, volume: Id, number: u64) {
    let name = name_of(volume);
    if let Err(error) = family(store, volume, &name).remove_below(number) {
        log::debug!("an old lease stays for now: {}", error.full());
    }
}

/// The number of the last lease: whoever opens a volume for writing makes another.
pub fn last_number(store: &Store, volume: Id) -> Result<Option<u64>> {
    Ok(latest(store, volume)?.map(|record| record.number))
}

pub(super) fn latest(store: &Store, volume: Id) -> Result<Option<Record>> {
    let name = name_of(volume);
    match family(store, volume, &name).latest()? {
        Some(found) => decode(&found.name, &found.data).map(Some),
        None => Ok(None),
    }
}

pub(super) fn name_of(volume: Id) -> impl Fn(u64) -> ObjectName {
    move |number| ObjectName::Lease { volume, number }
}

pub(super) fn family<'a>(store: &'a Store, volume: Id, name: &'a dyn Fn(u64) -> ObjectName) -> Family<'a> {
    Family { backend: store.control().as_ref(), prefix: prefix::leases_of(volume), name }
}
