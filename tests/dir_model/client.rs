//! A client of a server, as NFS has them: what it has read of a file it shows
//! until the file is opened again, whatever others have written since.

use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use archipelago::backend::dir_sys::{DirEntry, FileStat, FileSystem, Files, Handle, SyncSite};
use archipelago::backend::LockMode;

use super::Model;

#[derive(Debug)]
pub struct Client {
    server: Arc<Model>,
    /// By inode: its content when it was first read since it was last opened.
    remembered: Mutex<HashMap<u64, Vec<u8>>>,
}

impl Client {
    pub fn of(server: &Arc<Model>) -> Arc<Client> {
        Arc::new(Client { server: Arc::clone(server), remembered: Mutex::default() })
    }

    fn changed(&self, file: &Handle) {
        self.remembered.lock().unwrap().remove(&inode(file));
    }
}

fn inode(file: &Handle) -> u64 {
    match file {
        Handle::Number(number) => *number,
        other => panic!("{other:?} is of no model"),
    }
}

impl Files for Client {
    fn file_system(&self) -> FileSystem {
        FileSystem { local: false, ..self.server.file_system() }
    }

    fn open(&self, path: &str, direct: bool) -> io::Result<Handle> {
        let file = self.server.open(path, direct)?;
        self.changed(&file);
        Ok(file)
    }

    fn pread(&self, file: &Handle, offset_bytes: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut remembered = self.remembered.lock().unwrap();
        let content = match remembered.entry(inode(file)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut content = vec![0; self.server.fstat(file)?.bytes as usize];
                self.server.pread(file, 0, &mut content)?;
                entry.insert(content)
            }
        };
        let from = content.len().min(offset_bytes as usize);
        let bytes = buf.len().min(content.len() - from);
        buf[..bytes].copy_from_slice(&content[from..from + bytes]);
        Ok(bytes)
    }

    // What it writes itself it sees.

    fn pwrite(&self, file: &Handle, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        let written = self.server.pwrite(file, offset_bytes, data)?;
        if let Some(content) = self.remembered.lock().unwrap().get_mut(&inode(file)) {
            let end = offset_bytes as usize + written;
            content.resize(content.len().max(end), 0);
            content[offset_bytes as usize..end].copy_from_slice(&data[..written]);
        }
        Ok(written)
    }

    fn truncate(&self, file: &Handle, bytes: u64) -> io::Result<()> {
        self.changed(file);
        self.server.truncate(file, bytes)
    }

    fn punch(&self, file: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<()> {
        self.changed(file);
        self.server.punch(file, offset_bytes, bytes)
    }

    fn copy_range(&self, from: &Handle, to: &Handle, offset_bytes: u64, bytes: u64) -> io::Result<u64> {
        self.changed(to);
        self.server.copy_range(from, to, offset_bytes, bytes)
    }

    fn direct_alignment(&self, file: &Handle) -> Option<usize> {
        self.server.direct_alignment(file)
    }

    fn open_dir(&self, path: &str) -> io::Result<Handle> {
        self.server.open_dir(path)
    }

    fn create(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<Handle> {
        self.server.create(path, mode, group)
    }

    fn mkdir(&self, path: &str, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.server.mkdir(path, mode, group)
    }

    fn next_data(&self, file: &Handle, offset_bytes: u64) -> io::Result<Option<(u64, u64)>> {
        self.server.next_data(file, offset_bytes)
    }

    fn link(&self, from: &str, to: &str) -> io::Result<()> {
        self.server.link(from, to)
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.server.rename_new(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.server.unlink(path)
    }

    fn rmdir(&self, path: &str) -> io::Result<()> {
        self.server.rmdir(path)
    }

    fn fsync(&self, file: &Handle, site: SyncSite) -> io::Result<()> {
        self.server.fsync(file, site)
    }

    fn fdatasync(&self, file: &Handle, site: SyncSite) -> io::Result<()> {
        self.server.fdatasync(file, site)
    }

    fn syncfs(&self, file: &Handle, site: SyncSite) -> io::Result<()> {
        self.server.syncfs(file, site)
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<DirEntry>> {
        self.server.read_dir(path)
    }

    fn stat(&self, path: &str) -> io::Result<FileStat> {
        self.server.stat(path)
    }

    fn fstat(&self, file: &Handle) -> io::Result<FileStat> {
        self.server.fstat(file)
    }

    fn lock(&self, file: &Handle, mode: LockMode) -> io::Result<()> {
        self.server.lock(file, mode)
    }

    fn unlock(&self, file: &Handle) -> io::Result<()> {
        self.server.unlock(file)
    }
}
