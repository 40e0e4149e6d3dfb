//! How `dir` makes things durable: few objects each by itself, many with one
//! `syncfs` where that is sound (it was measured to be ten times quicker for
//! sixty files; for four it takes as long as they do, and far longer when
//! others write to the same file system). Syncs that wait for each other share
//! one `syncfs`. Where a sync is slow, several run side by side.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::dir_files::{sync_error, Access, Covered, Mark, OpenFiles};
use super::dir_layout::{self, Place};
use super::dir_made::MadeDirectories;
use super::dir_sys::{Files, Handle, SyncSite};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use crate::thread;

/// Objects that are synced each by itself where `syncfs` would do.
const SINGLE_SYNCS_MAX: usize = 4;

/// Where one takes this long, threads for the others are worth their start.
const SLOW_SYNC: Duration = Duration::from_micros(300);

const CONTENT: SyncSite = SyncSite::SyncData;
const NAME: SyncSite = SyncSite::SyncEntry;

/// Objects synced at a time where no threads are needed for that.
const TOGETHER_MAX: usize = 128;

/// Objects synced at a time, each on a thread of its own.
const SIDE_BY_SIDE_MAX: usize = 8;

#[derive(Debug)]
pub struct Syncer {
    files: Arc<dyn Files>,
    open: Arc<OpenFiles>,
    made: Arc<MadeDirectories>,
    /// Open from the start: it reports every error of writing back once.
    root: Handle,
    whole: Mutex<Whole>,
    changed: Condvar,
}

/// Whole syncs are numbered. A caller is served by any that begins after its
/// call.
#[derive(Debug, Default)]
struct Whole {
    begun: u64,
    ended: u64,
    /// The last one that failed.
    failed: Option<(u64, Error)>,
}

#[derive(Clone)]
struct Target {
    name: ObjectName,
    mark: Arc<Mark>,
    covered: Covered,
}

impl Syncer {
    pub fn new(
        files: Arc<dyn Files>,
        open: Arc<OpenFiles>,
        made: Arc<MadeDirectories>,
    ) -> io::Result<Syncer> {
        let root = files.open_dir("")?;
        Ok(Syncer { files, open, made, root, whole: Mutex::default(), changed: Condvar::new() })
    }

    /// The contract of `Backend::sync`.
    pub fn sync(&self, names: &[ObjectName]) -> Result<()> {
        self.sync_with(names, Mark::to_sync)
    }

    /// The contract of `Backend::sync_content`: no directory is asked.
    pub fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        self.sync_with(names, Mark::to_sync_content)
    }

    fn sync_with(
        &self,
        names: &[ObjectName],
        to_sync: impl Fn(&Mark) -> Result<Option<Covered>>,
    ) -> Result<()> {
        let mut targets = Vec::new();
        for name in names {
            let mark = match self.open.known_mark(name) {
                Some(mark) => mark,
                None => {
                    let path = dir_layout::place(self.files.as_ref(), name).path();
                    self.files.stat(&path).map_err(|e| Error::from_io("sync", e).on(name))?;
                    self.open.mark(name)
                }
            };
            if let Some(covered) = to_sync(&mark)? {
                targets.push(Target { name: name.clone(), mark, covered });
            }
        }
        let whole = self.files.file_system().syncfs
            && (targets.len() > SINGLE_SYNCS_MAX || targets.iter().any(|t| t.covered.needs_syncfs));
        if whole {
            self.sync_whole(&targets)?;
        } else {
            self.sync_each(&targets)?;
        }
        for target in &targets {
            target.mark.synced(target.covered);
        }
        // A failure that another thread met in the meantime.
        targets.iter().try_for_each(|target| target.mark.to_sync().map(|_| ()))
    }

    /// All at once, and their names with them.
    fn sync_together(&self, targets: &[Target]) -> Result<()> {
        for part in targets.chunks(TOGETHER_MAX) {
            let opened = part.iter().map(|target| self.open.get("sync", &target.name, Access::Write));
            let opened = opened.collect::<Result<Vec<_>>>()?;
            let wanted = part.iter().map(|target| match target.covered.name {
                true => (NAME, true),
                false => (CONTENT, false),
            });
            let files = opened.iter().zip(wanted).map(|(file, (site, name))| (&file.handle, site, name));
            let results = self.files.sync_together(&files.collect::<Vec<_>>());
            let mut failed = None;
            for (Target { name, mark, .. }, result) in part.iter().zip(results) {
                if let Err(source) = result {
                    let error = sync_error(name, source);
                    mark.fail(&error);
                    failed.get_or_insert(error);
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync_each(&self, targets: &[Target]) -> Result<()> {
        if self.files.file_system().names_with_files {
            return self.sync_together(targets);
        }
        let each = Each::new(&self.files, &self.open, targets);
        if !each.run()? {
            return self.sync_whole(targets);
        }
        let mut done = BTreeSet::new();
        for Target { name, mark, .. } in targets.iter().filter(|target| target.covered.name) {
            let place = dir_layout::place(self.files.as_ref(), name);
            if !done.insert(place.directory.clone()) {
                continue;
            }
            self.sync_directory(&place, NAME).map_err(|source| {
                let error = sync_error(name, source);
                mark.fail(&error);
                error
            })?;
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&self, place: &Place, site: SyncSite) -> io::Result<()> {
        if !place.on_demand {
            let directory = self.files.open_dir(&place.directory)?;
            return self.fsync_directory(&directory, site);
        }
        loop {
            let made = self.made.ensure(&place.directory)?;
            self.fsync_directory(&made.handle, site)?;
            if self.made.is_current(&place.directory, &made) {
                return Ok(());
            }
            // Made anew by somebody else since we last looked.
            self.made.forget(&place.directory);
            self.files.stat(&place.path())?;
        }
    }

    fn fsync_directory(&self, directory: &Handle, site: SyncSite) -> io::Result<()> {
        match self.files.fsync(directory, site) {
            // Servers whose directories are durable at once may refuse.
            Err(error)
                if !self.files.file_system().local
                    && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn sync_whole(&self, targets: &[Target]) -> Result<()> {
        self.share_syncfs()?;
        if self.files.file_system().syncfs_flushes {
            return Ok(());
        }
        // Any file will do; objects that were deleted meanwhile need nothing.
        for Target { name, .. } in targets {
            let file = match self.open.get("sync", name, Access::Read) {
                Err(error) if error.is(ErrorKind::NotFound) => continue,
                other => other?,
            };
            return self.files.fdatasync(&file.handle, SyncSite::DiskCache).map_err(|source| {
                let error = sync_error(name, source);
                targets.iter().for_each(|target| target.mark.fail(&error));
                error
            });
        }
        Ok(())
    }

    /// One `syncfs` that begins after this call, perhaps another thread's.
    fn share_syncfs(&self) -> Result<()> {
        let mut whole = self.whole.lock();
        let mine = whole.begun + 1;
        loop {
            if whole.ended >= mine {
                return match &whole.failed {
                    Some((at, error)) if *at >= mine => Err(error.duplicate()),
                    _ => Ok(()),
                };
            }
            if whole.begun == whole.ended {
                break;
            }
            self.changed.wait(&mut whole);
        }
        whole.begun += 1;
        let number = whole.begun;
        drop(whole);
        let result = self.files.syncfs(&self.root, SyncSite::SyncAll).map_err(|source| {
            let error = Error::from_io("sync", source).on_named("the store");
            let error = match error.kind() {
                ErrorKind::NoSpace => error,
                _ => error.with_kind(ErrorKind::Unknown),
            };
            self.open.fail_unsynced(&error);
            error
        });
        let mut whole = self.whole.lock();
        whole.ended = number;
        if let Err(error) = &result {
            whole.failed = Some((number, error.duplicate()));
        }
        self.changed.notify_all();
        result
    }
}

/// The content of some objects, synced by the threads that call `work_once`.
struct Each {
    files: Arc<dyn Files>,
    open: Arc<OpenFiles>,
    targets: Vec<Target>,
    next: AtomicUsize,
    needs_syncfs: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl Each {
    fn new(files: &Arc<dyn Files>, open: &Arc<OpenFiles>, targets: &[Target]) -> Arc<Each> {
        Arc::new(Each {
            files: Arc::clone(files),
            open: Arc::clone(open),
            targets: targets.to_vec(),
            next: AtomicUsize::new(0),
            needs_syncfs: AtomicBool::new(false),
            failed: Mutex::default(),
        })
    }

    /// Syncs all, side by side once one has turned out to be slow. False:
    /// only a `syncfs` will do.
    fn run(self: &Arc<Each>) -> Result<bool> {
        let began = clock::now();
        let mut helpers = Vec::new();
        if self.work_once() && clock::now().saturating_duration_since(began) >= SLOW_SYNC {
            let count = (self.targets.len() - 1).min(SIDE_BY_SIDE_MAX).saturating_sub(1);
            // One that cannot be started is not missed: this thread does all.
            helpers.extend((0..count).map_while(|_| {
                let each = Arc::clone(self);
                thread::spawn("arch-sync", move || while each.work_once() {}).ok()
            }));
        }
        while self.work_once() {}
        for helper in helpers {
            if helper.join().is_err() {
                self.fail(Error::new(ErrorKind::Internal, "sync"));
            }
        }
        match self.failed.lock().take() {
            Some(error) => Err(error),
            None => Ok(!self.needs_syncfs.load(Ordering::SeqCst)),
        }
    }

    /// Syncs the next target. False: there is none, or one has failed.
    fn work_once(&self) -> bool {
        let at = self.next.fetch_add(1, Ordering::SeqCst);
        let Some(target) = self.targets.get(at) else { return false };
        if let Err(error) = self.sync_one(target) {
            self.fail(error);
        }
        self.failed.lock().is_none()
    }

    fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }

    fn sync_one(&self, target: &Target) -> Result<()> {
        let file = self.open.get("sync", &target.name, Access::Write)?;
        // Closed with unsynced writes since we looked, and opened anew: from
        // here on it stays open.
        if target.mark.to_sync()?.is_some_and(|covered| covered.needs_syncfs) {
            self.needs_syncfs.store(true, Ordering::SeqCst);
            return Ok(());
        }
        self.files.fdatasync(&file.handle, CONTENT).map_err(|source| {
            let error = sync_error(&target.name, source);
            target.mark.fail(&error);
            error
        })
    }
}
