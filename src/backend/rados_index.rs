//! What `rados` has as values of an index: made, read and deleted in one step each,
//! and several of them in the time of one.

use super::rados::{failed, missing, not_read, Inner};
use super::rados_names::{data_of, index_of, place_of, whole_value, Place, KINDS};
use super::Last;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sys::rados::{Answer, Errno, WriteOp};

/// Of so many names at least `last` says nothing: it would have to be sent all that
/// they contain.
const LAST_OF_MAX: usize = 64;

/// Keys and what they have, in byte order.
type Values = Vec<(String, Vec<u8>)>;

impl Inner {
    pub fn value(&self, name: &ObjectName, index: &str, key: &str) -> Result<Vec<u8>> {
        let value = self.pool.value(index, key).map_err(|errno| not_read(errno).on(name))?;
        data_of(name, value.ok_or_else(|| missing("read", name))?)
    }

    /// Makes an entry of an index, if there is none.
    pub fn enter(&self, name: &ObjectName, index: &str, key: &str, value: &[u8]) -> Result<()> {
        self.pool.write(index, &self.entering(key, value)).map_err(|errno| not_entered(errno, name))
    }

    fn entering(&self, key: &str, value: &[u8]) -> WriteOp {
        self.pool.op().create(false).value_is(key, b"").set(key, value)
    }

    /// `None` if one of them is not a value of an index.
    pub fn enter_each(&self, objects: &[(&ObjectName, &[u8])]) -> Option<Vec<Result<()>>> {
        let entering = |(name, data): &(&ObjectName, &[u8])| match place_of(name) {
            Place::Value { index, key } => Some((index, self.entering(&key, &whole_value(data)))),
            _ => None,
        };
        let operations: Vec<(String, WriteOp)> = objects.iter().map(entering).collect::<Option<_>>()?;
        let answers = self.pool.write_each(&operations).into_iter().zip(objects);
        Some(answers.map(|(told, (name, _))| told.map_err(|errno| not_entered(errno, name))).collect())
    }

    /// Deletes an entry that has this value.
    pub fn leave(&self, name: &ObjectName, index: &str, key: &str, value: &[u8]) -> Result<()> {
        let op = self.pool.op().value_is(key, value).unset(key);
        self.pool.write(index, &op).map_err(|errno| match errno {
            Errno(libc::ECANCELED) => missing("delete", name),
            other => failed("delete", other).on(name),
        })
    }

    /// The index gives values with their keys.
    pub fn last_of_each(&self, prefixes: &[&str]) -> Vec<Result<Last>> {
        let indexed = |prefix: &&str| KINDS.iter().find(|(kind, has)| *has && prefix.starts_with(kind));
        let asked = |prefix| indexed(prefix).map(|(kind, _)| (index_of(kind), *prefix));
        let Some(asked) = prefixes.iter().map(asked).collect::<Option<Vec<(String, &str)>>>() else {
            return prefixes.iter().map(|_| Ok(Last::Untold)).collect();
        };
        let answers = self.pool.values_of_each(&asked, LAST_OF_MAX).into_iter().zip(prefixes);
        let told = |(answer, prefix): (Answer<(Values, bool)>, &&str)| match answer {
            Ok((_, true)) => Ok(Last::Untold),
            Ok((values, false)) => last_of(values),
            Err(errno) => Err(not_read(errno).on_named(format!("{prefix}*"))),
        };
        answers.map(told).collect()
    }
}

fn not_entered(errno: Errno, name: &ObjectName) -> Error {
    match errno {
        Errno(libc::ECANCELED) => Error::new(ErrorKind::Exists, "create").on(name),
        other => failed("create", other).on(name),
    }
}

fn last_of(mut values: Values) -> Result<Last> {
    while let Some((key, value)) = values.pop() {
        match ObjectName::parse(&key).map(|name| (place_of(&name), name)) {
            Some((Place::Value { .. }, name)) => {
                let data = data_of(&name, value)?;
                return Ok(Last::Object(name, data));
            }
            // Not ours.
            None => {}
            Some(_) => return Ok(Last::Untold),
        }
    }
    Ok(Last::Nothing)
}
