//! A store in one file of SQLite: docs/backends.md, carried out. Objects are rows, and their bytes
//! granules of 4 KiB that are there once they are written. What has to be durable has SQLite's log
//! synced, and with it everything that was committed before.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use archipelago::backend::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use archipelago::error::{Error, ErrorKind, Result};
use archipelago::name::ObjectName;
use archipelago::store::kinds::Asked;
use rusqlite::{params, Connection, OptionalExtension, Params, TransactionBehavior};

const GRANULE: u64 = 4096;
const SCHEMA: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS object (id INTEGER PRIMARY KEY, name TEXT UNIQUE, bytes INTEGER);
    CREATE TABLE IF NOT EXISTS granule (object INTEGER, number INTEGER, data BLOB, UNIQUE (object, number));
    CREATE TABLE IF NOT EXISTS turn (number INTEGER);
    INSERT INTO turn SELECT 0 WHERE NOT EXISTS (SELECT * FROM turn);";

#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    pub database: Mutex<Connection>,
    /// So many bytes of SQLite's log are durable: for who cuts the power.
    pub durable_bytes: AtomicU64,
}

/// A change of the database: undone if it comes to an error of either sort.
type Changed<T> = rusqlite::Result<Result<T>>;

/// Not applied only where SQLite certainly has rolled back.
fn failed(operation: &'static str, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::*;
    let kind = match error.sqlite_error_code() {
        Some(DiskFull) => ErrorKind::NoSpace,
        Some(DatabaseBusy | DatabaseLocked | CannotOpen) => ErrorKind::Unavailable,
        Some(ConstraintViolation) => ErrorKind::Exists,
        Some(ReadOnly | PermissionDenied) => ErrorKind::Denied,
        Some(DatabaseCorrupt | NotADatabase) => ErrorKind::Corrupt,
        _ => ErrorKind::Unknown,
    };
    Error::new(kind, operation).caused_by(error)
}

fn run(at: &Connection, text: &str, values: impl Params) -> rusqlite::Result<usize> {
    at.prepare_cached(text)?.execute(values)
}

fn find(at: &Connection, name: &ObjectName) -> rusqlite::Result<Option<(i64, u64)>> {
    let mut query = at.prepare_cached("SELECT id, bytes FROM object WHERE name = ?")?;
    query.query_row([name.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn insert(at: &Connection, name: &ObjectName, bytes: u64) -> rusqlite::Result<i64> {
    run(at, "INSERT INTO object (name, bytes) VALUES (?, ?)", params![name.to_string(), bytes])?;
    Ok(at.last_insert_rowid())
}

/// Where a range meets granules: number, begin and end in it.
fn granules(offset: u64, bytes: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + bytes;
    (offset / GRANULE..end.div_ceil(GRANULE)).map(move |number| {
        let first = number * GRANULE;
        (number, (offset.max(first) - first) as usize, (end.min(first + GRANULE) - first) as usize)
    })
}

fn read(at: &Connection, object: i64, offset: u64, buf: &mut [u8]) -> rusqlite::Result<()> {
    let mut query = at.prepare_cached("SELECT data FROM granule WHERE object = ? AND number = ?")?;
    let mut rest = buf;
    for (number, begin, end) in granules(offset, rest.len() as u64) {
        let (now, later) = rest.split_at_mut(end - begin);
        let found = query.query_row(params![object, number], |row| {
            now.copy_from_slice(&row.get_ref(0)?.as_blob()?[begin..end]);
            Ok(())
        });
        if found.optional()?.is_none() {
            now.fill(0);
        }
        rest = later;
    }
    Ok(())
}

fn write(at: &Connection, object: i64, offset: u64, data: &[u8]) -> rusqlite::Result<()> {
    let mut rest = data;
    for (number, begin, end) in granules(offset, data.len() as u64) {
        let (now, later) = rest.split_at(end - begin);
        let mut granule = [0; GRANULE as usize];
        if now.len() < granule.len() {
            read(at, object, number * GRANULE, &mut granule)?;
        }
        granule[begin..end].copy_from_slice(now);
        run(at, "INSERT OR REPLACE INTO granule VALUES (?, ?, ?)", params![object, number, &granule[..]])?;
        rest = later;
    }
    Ok(())
}

impl Sqlite {
    /// Opens the file; `makes`: it may be a new one. Error: `NotFound`.
    pub fn open(path: &Path, makes: bool) -> Result<Sqlite> {
        let told = |error: Error| error.on_named(path.display().to_string());
        if !makes && !path.exists() {
            return Err(told(Error::new(ErrorKind::NotFound, "open")));
        }
        let opened = Connection::open(path).and_then(|database| {
            database.busy_timeout(std::time::Duration::from_secs(10))?;
            database.execute_batch(SCHEMA).map(|()| Mutex::new(database))
        });
        let database = opened.map_err(|error| told(failed("open", error)))?;
        Ok(Sqlite { path: path.to_owned(), database, durable_bytes: AtomicU64::new(0) })
    }

    /// For `store::kinds::add`.
    pub fn asked(asked: &Asked) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Sqlite::open(Path::new(&asked.rest), asked.makes)?))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction. `durable`: it is synced, with all those before it.
    fn change<T>(
        &self,
        operation: &'static str,
        durable: bool,
        change: impl FnOnce(&Connection) -> Changed<T>,
    ) -> Result<T> {
        let failed = |error| failed(operation, error);
        let mut database = self.lock();
        let level = if durable { "FULL" } else { "NORMAL" };
        database.pragma_update(None, "synchronous", level).map_err(failed)?;
        let begun = database.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = change(&begun).map_err(failed)??;
        begun.commit().map_err(failed)?;
        if durable {
            let log = std::fs::metadata(format!("{}-wal", self.path.display()));
            self.durable_bytes.store(log.map_or(0, |log| log.len()), Ordering::SeqCst);
        }
        Ok(done)
    }

    /// As `change`, within an object that is there.
    fn change_of<T>(
        &self,
        operation: &'static str,
        name: &ObjectName,
        (offset, length): (u64, u64),
        change: impl FnOnce(&Connection, i64) -> Changed<T>,
    ) -> Result<T> {
        let changed = self.change(operation, false, |at| match find(at, name)? {
            None => Ok(Err(Error::new(ErrorKind::NotFound, operation))),
            Some((object, bytes)) => match offset.checked_add(length).is_some_and(|end| end <= bytes) {
                true => change(at, object),
                false => Ok(Err(Error::new(ErrorKind::Invalid, operation).because("it is beyond the end"))),
            },
        });
        changed.map_err(|error| error.on(name))
    }

    fn look<T>(
        &self,
        name: &ObjectName,
        look: impl FnOnce(&Connection, i64, u64) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let database = self.lock();
        let found = find(&database, name).map_err(|error| failed("read", error).on(name))?;
        let (object, bytes) = found.ok_or_else(|| Error::new(ErrorKind::NotFound, "read").on(name))?;
        look(&database, object, bytes).map_err(|error| failed("read", error).on(name))
    }
}

impl Backend for Sqlite {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            overwrite_in_place: true,
            durable_on_ack: false,
            fences: false,
            cuts_off: false,
            sync_all_cheap: true,
            tells_room: true,
            list_lag_s: 0,
            lists_at_once: false,
            object_bytes_max: 1 << 40,
            in_flight_max: 1,
        }
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        let make = |at: &Connection| write(at, insert(at, name, data.len() as u64)?, 0, data).map(Ok);
        self.change("create", true, make).map_err(|error| error.on(name))
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        let is_there = self.change("create", false, |at| {
            let longer = "UPDATE object SET bytes = max(bytes, ?) WHERE name = ?";
            let is_there = run(at, longer, params![bytes, name.to_string()])? > 0;
            if !is_there {
                insert(at, name, bytes)?;
            }
            Ok(Ok(is_there))
        });
        match is_there.map_err(|error| error.on(name))? {
            true => Err(Error::new(ErrorKind::Exists, "create").on(name)),
            false => Ok(()),
        }
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        self.look(name, |at, object, bytes| {
            let there = bytes.saturating_sub(offset_bytes).min(buf.len() as u64) as usize;
            read(at, object, offset_bytes, &mut buf[..there]).map(|()| there)
        })
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let range = (offset_bytes, data.len() as u64);
        self.change_of("write", name, range, |at, object| write(at, object, offset_bytes, data).map(Ok))
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        self.change_of("punch", name, (offset_bytes, bytes), |at, object| {
            for (number, begin, end) in granules(offset_bytes, bytes) {
                let (at_bytes, zeroes) = (number * GRANULE + begin as u64, [0; GRANULE as usize]);
                write(at, object, at_bytes, &zeroes[begin..end])?;
                if end - begin == zeroes.len() {
                    run(at, "DELETE FROM granule WHERE object = ? AND number = ?", params![object, number])?;
                }
            }
            Ok(Ok(()))
        })
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.change("sync", true, |at| {
            for name in names {
                if find(at, name)?.is_none() {
                    return Ok(Err(Error::new(ErrorKind::NotFound, "sync").on(name)));
                }
            }
            // A transaction that changes nothing is not synced.
            run(at, "UPDATE turn SET number = number + 1", []).map(|_| Ok(()))
        })
    }

    /// Each sync covers everything.
    fn forget_synced(&self, _names: &[ObjectName]) {}

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.change_of("delete", name, (0, 0), |at, object| {
            run(at, "DELETE FROM granule WHERE object = ?", [object])?;
            run(at, "DELETE FROM object WHERE id = ?", [object]).map(|_| Ok(()))
        })
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.look(name, |at, object, bytes| {
            let mut query = at.prepare_cached("SELECT count(*) FROM granule WHERE object = ?")?;
            let granules: u64 = query.query_row([object], |row| row.get(0))?;
            Ok(ObjectStat { bytes, allocated_bytes: granules * GRANULE })
        })
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        // Names are ASCII: the end is behind all that begin so.
        let (after, end) = (after.map_or_else(String::new, ToString::to_string), format!("{prefix}\x7f"));
        let text = "SELECT name FROM object WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?";
        let database = self.lock();
        let listed = database.prepare_cached(text).and_then(|mut query| {
            let rows = query.query_map(params![after, prefix, end, count_max as u64], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        });
        let listed = listed.map_err(|error| failed("list", error))?;
        Ok(listed.iter().filter_map(|name| ObjectName::parse(name)).collect())
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.change("copy", true, |at| {
            let Some((object, bytes)) = find(at, from)? else {
                return Ok(Err(Error::new(ErrorKind::NotFound, "copy").on(from)));
            };
            let copy = insert(at, to, bytes)?;
            let all = "INSERT INTO granule SELECT ?, number, data FROM granule WHERE object = ?";
            run(at, all, [copy, object]).map(|_| Ok(()))
        })
    }

    fn lock(&self, name: &ObjectName, _mode: LockMode) -> Result<Lock> {
        Err(Error::new(ErrorKind::Invalid, "lock").on(name).because("this store has no locks that fence"))
    }

    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        None
    }
}
