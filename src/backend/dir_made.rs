//! Directories that `dir` makes on demand, one or more for each volume. An
//! object in one is durable only if the directory's own name is, whoever made
//! it, so the first use of a directory by this process syncs the one above.
//!
//! Empty ones are removed, and another process may make the same again: a
//! directory is known by its inode, which cannot be used for another as long
//! as we hold it open.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::dir_sys::{Files, Handle, SyncSite};

use crate::sync::Mutex;

/// Directories held open.
const HELD_MAX: usize = 64;

/// Times that somebody may remove a directory under us before we give up.
const TRIES: usize = 100;

#[derive(Debug)]
pub struct Made {
    pub handle: Handle,
    identity: (u64, u64),
}

#[derive(Debug)]
pub struct MadeDirectories {
    files: Arc<dyn Files>,
    mode: u32,
    group: Option<u32>,
    held: Mutex<HashMap<String, Arc<Made>>>,
}

impl MadeDirectories {
    pub fn new(files: Arc<dyn Files>, mode: u32, group: Option<u32>) -> MadeDirectories {
        MadeDirectories { files, mode, group, held: Mutex::default() }
    }

    /// The directory `path`, made if need be; its name is durable.
    pub fn ensure(&self, path: &str) -> io::Result<Arc<Made>> {
        if let Some(made) = self.held.lock().get(path) {
            return Ok(Arc::clone(made));
        }
        for _ in 0..TRIES {
            match self.make(path) {
                // Removed before it was of use.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(None) => {}
                Ok(Some(made)) => {
                    let mut held = self.held.lock();
                    if held.len() >= HELD_MAX {
                        held.clear();
                    }
                    held.insert(path.to_owned(), Arc::clone(&made));
                    return Ok(made);
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn make(&self, path: &str) -> io::Result<Option<Arc<Made>>> {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        // "head" and its like are there from the beginning.
        let above = if above.contains('/') {
            Above::Held(self.ensure(above)?)
        } else {
            Above::Opened(self.files.open_dir(above)?)
        };
        match self.files.mkdir(path, self.mode, self.group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(path);
                return Ok(None);
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let handle = self.files.open_dir(path)?;
        let identity = self.files.fstat(&handle)?.identity;
        self.files.fsync(above.handle(), SyncSite::MadeDirectory)?;
        let made = Arc::new(Made { handle, identity });
        Ok(self.is_current(path, &made).then_some(made))
    }

    /// True if the path still leads to this directory.
    pub fn is_current(&self, path: &str, made: &Made) -> bool {
        self.files.stat(path).is_ok_and(|stat| stat.identity == made.identity)
    }

    /// The directory, or one above, is not what it was.
    pub fn forget(&self, path: &str) {
        self.held.lock().retain(|held, _| !path.starts_with(held.as_str()) && !held.starts_with(path));
    }

    /// Removes directories that have become empty, innermost first.
    pub fn remove_empty(&self, path: &str) {
        let mut path = path;
        while path.contains('/') && self.files.rmdir(path).is_ok() {
            self.forget(path);
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
}

enum Above {
    Held(Arc<Made>),
    Opened(Handle),
}

impl Above {
    fn handle(&self) -> &Handle {
        match self {
            Above::Held(made) => &made.handle,
            Above::Opened(handle) => handle,
        }
    }
}
