//! Families of numbered objects: the highest number counts, the next one is
//! made with `create`, and of two that try one wins.
//!
//! Lower numbers are deleted, the highest never is. So whoever has created a
//! number looks for a higher one afterwards: somebody who was away while
//! others moved on could otherwise re-create a number that was cleaned away
//! and believe that it won.

use crate::backend::{Backend, BackendExt, Last};
use crate::error::{Error, ErrorKind, Result};
use crate::fault;
use crate::name::{ObjectName, NUMBER_MAX};

/// How often a listing is read again because what it named was gone.
const TRIES: usize = 64;

/// How often a family that shows no number at all is listed, unless a listing is
/// of one moment. It may otherwise miss what is made while it runs: with the old
/// number deleted and the next one made meanwhile, it shows neither.
const EMPTY_TRIES: usize = 3;

/// Larger than any numbered object; what is larger is damaged.
const BYTES_MAX: u64 = 64 << 10;

/// One family: what its names begin with, and its name for a number.
pub(super) struct Family<'a> {
    pub backend: &'a dyn Backend,
    pub prefix: String,
    pub name: &'a dyn Fn(u64) -> ObjectName,
}

/// A numbered object as it was read.
pub(super) struct Found {
    pub name: ObjectName,
    pub number: u64,
    pub data: Vec<u8>,
}

/// What came of creating a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Won,
    /// The number was taken, or a higher one is.
    Lost,
}

impl Family<'_> {
    /// All numbers, lowest first.
    pub fn numbers(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        let tries = if self.backend.capabilities().lists_at_once { 1 } else { EMPTY_TRIES };
        for _ in 0..tries {
            let names = self.backend.list_all(&self.prefix)?;
            if let Some(name) = names.iter().find(|name| number_of(name).is_some_and(|n| n > NUMBER_MAX)) {
                return Err(Error::corrupt(name, "nobody counts so far; if it is none of ours, delete it"));
            }
            numbers.extend(names.iter().filter_map(number_of));
            if !numbers.is_empty() {
                break;
            }
        }
        Ok(numbers)
    }

    /// The highest number, if there is any; `told` is what `Backend::last` said.
    pub fn highest_told(&self, told: &Last) -> Result<Option<u64>> {
        match told {
            Last::Nothing => Ok(None),
            Last::Object(name, _) => match number_of(name) {
                Some(number) if number <= NUMBER_MAX => Ok(Some(number)),
                // Told there.
                _ => self.highest(),
            },
            Last::Untold => self.highest(),
        }
    }

    /// The highest number, if there is any.
    pub fn highest(&self) -> Result<Option<u64>> {
        let Some(mut highest) = self.numbers()?.last().copied() else {
            return Ok(None);
        };
        // A listing may be old where it lags; looking further is cheap.
        if self.backend.capabilities().list_lag_s > 0 {
            while highest < u64::MAX && self.is_there(highest + 1)? {
                highest += 1;
            }
        }
        Ok(Some(highest))
    }

    pub fn is_there(&self, number: u64) -> Result<bool> {
        match self.backend.stat(&(self.name)(number)) {
            Ok(_) => Ok(true),
            Err(error) if error.is(ErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The object with the highest number. It may vanish between list and
    /// read, but only because there is a higher one by then.
    pub fn latest(&self) -> Result<Option<Found>> {
        self.latest_told(self.backend.last(&self.prefix)?)
    }

    /// As `latest`; `told` is what `Backend::last` said.
    pub fn latest_told(&self, told: Last) -> Result<Option<Found>> {
        match told {
            Last::Nothing => return Ok(None),
            Last::Object(name, data) => match number_of(&name) {
                Some(number) if number <= NUMBER_MAX => return Ok(Some(Found { name, number, data })),
                // Told below.
                _ => {}
            },
            Last::Untold => {}
        }
        let mut vanished = None;
        for _ in 0..TRIES {
            let Some(number) = self.highest()? else {
                return Ok(None);
            };
            let name = (self.name)(number);
            match self.backend.read_summed(&name, BYTES_MAX) {
                Ok(data) => return Ok(Some(Found { name, number, data })),
                Err(error) if error.is(ErrorKind::NotFound) => vanished = Some(error),
                Err(error) => return Err(error),
            }
        }
        let cause = vanished.unwrap_or_else(|| Error::new(ErrorKind::Internal, "list"));
        Err(cause
            .with_kind(ErrorKind::Unavailable)
            .because("it is listed but gone whenever it is read"))
    }

    /// What came of making a number that may be the first; `created` is what
    /// `Backend::create` said.
    pub fn made_first(&self, number: u64, data: &[u8], created: Result<()>) -> Result<Outcome> {
        let name = (self.name)(number);
        match created {
            Ok(()) => Ok(Outcome::Won),
            Err(error) if error.is(ErrorKind::Exists) => Ok(Outcome::Lost),
            Err(error) if error.is(ErrorKind::Unknown) => match self.backend.read_all(&name, BYTES_MAX) {
                Ok(there) if there == data => Ok(Outcome::Won),
                Ok(_) => Ok(Outcome::Lost),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes `number`, and finds out whether that was the next one.
    /// `data` must differ from what anybody else may write.
    pub fn create(&self, number: u64, data: &[u8]) -> Result<Outcome> {
        let name = (self.name)(number);
        if self.made_first(number, data, self.backend.create(&name, data))? == Outcome::Lost {
            return Ok(Outcome::Lost);
        }
        // It is there now, whether it counts or not: no failure from here on
        // may pass for "not applied".
        let highest = self.highest().map_err(|error| error.with_kind(ErrorKind::Unknown))?;
        let looks = !fault::on(fault::Planted::NumberMadeAgain);
        if looks && highest.is_some_and(|highest| highest > number) {
            // Ours is below what counts: whoever reads it would be misled.
            let _already_gone = self.backend.delete(&name);
            return Ok(Outcome::Lost);
        }
        Ok(Outcome::Won)
    }

    /// Deletes what is below `number`, and never the highest. What cannot be
    /// deleted now is deleted by a later call.
    pub fn remove_below(&self, number: u64) -> Result<()> {
        let numbers = self.numbers()?;
        let Some(highest) = numbers.last() else {
            return Ok(());
        };
        let boundary = number.min(*highest);
        for old in numbers.iter().take_while(|old| **old < boundary) {
            delete_if_there(self.backend, &(self.name)(*old))?;
        }
        Ok(())
    }

    /// Deletes all of them, the highest last.
    pub fn remove_all(&self) -> Result<()> {
        for number in self.numbers()? {
            delete_if_there(self.backend, &(self.name)(number))?;
        }
        Ok(())
    }
}

/// What `Backend::last` says of each of these.
pub(super) fn told_of<const N: usize>(backend: &dyn Backend, prefixes: [&str; N]) -> Result<[Last; N]> {
    let told = backend.last_of_each(&prefixes).into_iter().collect::<Result<Vec<Last>>>()?;
    told.try_into().map_err(|_| Error::new(ErrorKind::Internal, "list"))
}

/// Deletes; a missing object is as good.
pub(super) fn delete_if_there(backend: &dyn Backend, name: &ObjectName) -> Result<()> {
    match backend.delete(name) {
        Err(error) if !error.is(ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

fn number_of(name: &ObjectName) -> Option<u64> {
    match name {
        ObjectName::Head { number, .. }
        | ObjectName::Segment { number, .. }
        | ObjectName::Snapshot { number, .. }
        | ObjectName::Lease { number, .. }
        | ObjectName::Maintenance(number)
        | ObjectName::Scrub(number) => Some(*number),
        _ => None,
    }
}
