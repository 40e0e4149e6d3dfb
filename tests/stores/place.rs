//! A new store of each kind, and the same one for another process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLockReadGuard};

use archipelago::backend::dir::{Dir, DirOptions};
use archipelago::backend::gluster::{Gluster, GlusterOptions};
use archipelago::backend::rados::RadosOptions;
use archipelago::backend::s3::S3Options;
use archipelago::backend::Backend;
use archipelago::clock;
use archipelago::store::Store;

use super::{gluster, rados, s3};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rados,
    Gluster,
    /// With its log in a directory.
    S3,
}

/// Where a store is: enough for another process to find it.
pub struct Place {
    pub kind: Kind,
    /// Namespace, folder or prefix.
    pub name: String,
    pub log: PathBuf,
    /// What the place needs while it is used.
    _folders: Vec<tempfile::TempDir>,
    _peace: Option<RwLockReadGuard<'static, ()>>,
}

impl Place {
    /// One that nobody has used. `None` without a server.
    pub fn fresh(kind: Kind) -> Option<Place> {
        let is_there = match kind {
            Kind::Rados => rados::fresh().is_some(),
            Kind::Gluster => gluster::fresh().is_some(),
            Kind::S3 => s3::fresh().is_some(),
        };
        let id = clock::random_id().unwrap();
        let name = match kind {
            Kind::Rados => id.to_string(),
            Kind::Gluster => gluster::folder(),
            Kind::S3 => format!("test/{id}"),
        };
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let log = folder.path().join("log");
        let peace = (kind == Kind::Gluster).then(gluster::peace);
        is_there.then(|| Place { kind, name, log, _folders: vec![folder], _peace: peace })
    }

    /// The one that another process has made.
    pub fn of_another(kind: Kind, name: String, log: &Path) -> Place {
        Place { kind, name, log: log.to_owned(), _folders: Vec::new(), _peace: None }
    }

    fn backend(&mut self, makes: bool) -> Arc<dyn Backend> {
        let name = self.name.clone();
        match self.kind {
            Kind::Rados => {
                let (folder, options) = rados::fresh().unwrap();
                self._folders.push(folder);
                rados::open(&RadosOptions { namespace: name, ..options })
            }
            Kind::Gluster => {
                let options = GlusterOptions { folder: name, ..gluster::fresh().unwrap() };
                let opened = if makes { Gluster::create(&options) } else { Gluster::open(&options) };
                Arc::new(opened.unwrap())
            }
            Kind::S3 => s3::open(&S3Options { prefix: name, ..s3::fresh().unwrap() }),
        }
    }

    pub fn make(&mut self, block_bytes: u64) -> Store {
        let backend = self.backend(true);
        match self.kind {
            Kind::S3 => {
                let log = Arc::new(Dir::create(&self.log, DirOptions::default()).unwrap());
                Store::init_combined("test", backend, log, block_bytes).unwrap()
            }
            _ => Store::init("test", backend, block_bytes).unwrap(),
        }
    }

    pub fn open(&mut self) -> Store {
        let backend = self.backend(false);
        match self.kind {
            Kind::S3 => {
                let log = Arc::new(Dir::open(&self.log, DirOptions::default()).unwrap());
                Store::open_combined("test", backend, Ok(log)).unwrap()
            }
            _ => Store::open("test", backend).unwrap(),
        }
    }
}
