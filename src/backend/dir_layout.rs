//! Where `dir` keeps which object.
//!
//! ```text
//! store                                 volume/<name>        epoch/<id>
//! maintenance/<n>  scrub/<n>            head/<volume id>/<n> log/<volume id>/<n>
//! lease/<volume id>/<n>                 snapshot/<volume id>/<name>/<n>
//! block/<2 hex>/<epoch>.<index>         map/<2 hex>/<id>
//! tmp/<id>   files on their way         lock/<name with : for />
//! ```
//!
//! The two digits of a block are a hash of its epoch and index; those of a
//! page are the first of its id. One level of 256 directories, all made at
//! init, is as quick as a flat one to 100,000 files and beyond, lets creates
//! go on side by side, and costs no mkdir when a guest writes; two levels
//! would make listing 20 to 100 times slower.
//!
//! Directories of one volume are made on demand and removed when they are
//! empty.

use std::collections::BTreeSet;
use std::io;

use super::dir_sys::Files;
use super::order;
use crate::name::{Id, ObjectName};

/// Where files are before they have a name.
pub const TEMP: &str = "tmp";
const LOCKS: &str = "lock";

/// Directories that every store has, without those of the fan-out.
const KINDS: [&str; 12] = [
    "block", "epoch", "head", "lease", LOCKS, "log", "maintenance", "map", LATER, "snapshot", TEMP, "volume",
];

/// A kind that the first stores did not have; its directory is made on demand.
const LATER: &str = "scrub";

/// Kinds with 256 directories each.
const FANNED: [&str; 2] = ["block", "map"];

/// Makes the directories of a new store, except those that are there.
/// Returns the directories in which some were made, for syncing.
pub fn make_directories(files: &dyn Files, mode: u32, group: Option<u32>) -> io::Result<Vec<&'static str>> {
    let make = |path: &str| match files.mkdir(path, mode, group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    for kind in KINDS {
        make(kind)?;
    }
    for kind in FANNED {
        for shard in 0..=255 {
            make(&format!("{kind}/{shard:02x}"))?;
        }
    }
    Ok([&[""], FANNED.as_slice()].concat())
}

/// True if the directories of a store are there.
pub fn has_directories(files: &dyn Files) -> io::Result<bool> {
    let there: BTreeSet<String> = files.read_dir("")?.into_iter().map(|entry| entry.name).collect();
    Ok(KINDS.iter().filter(|kind| **kind != LATER).all(|kind| there.contains(*kind)))
}

/// A name's directory and the file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub directory: String,
    pub file: String,
    /// Directories of this kind come and go.
    pub on_demand: bool,
}

impl Place {
    pub fn path(&self) -> String {
        if self.directory.is_empty() {
            return self.file.clone();
        }
        format!("{}/{}", self.directory, self.file)
    }
}

/// Spreads the blocks of one epoch evenly. Part of the layout: it may never
/// change.
fn shard(epoch: Id, index: u64) -> u8 {
    let folded = (epoch.0 as u64) ^ ((epoch.0 >> 64) as u64) ^ index;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub fn place(name: &ObjectName) -> Place {
    let fixed = |directory: String, file: String| Place { directory, file, on_demand: false };
    let made = |directory: String, number: &u64| Place {
        directory,
        file: format!("{number:016x}"),
        on_demand: true,
    };
    match name {
        ObjectName::Store => fixed(String::new(), "store".into()),
        ObjectName::Volume(name) => fixed("volume".into(), name.to_string()),
        ObjectName::Epoch(id) => fixed("epoch".into(), id.to_string()),
        ObjectName::Maintenance(number) => fixed("maintenance".into(), format!("{number:016x}")),
        ObjectName::Scrub(number) => made(LATER.into(), number),
        ObjectName::Page(id) => fixed(format!("map/{:02x}", (id.0 >> 120) as u8), id.to_string()),
        ObjectName::Block { epoch, index } => {
            fixed(format!("block/{:02x}", shard(*epoch, *index)), format!("{epoch}.{index:016x}"))
        }
        ObjectName::Head { volume, number } => made(format!("head/{volume}"), number),
        ObjectName::Segment { volume, number } => made(format!("log/{volume}"), number),
        ObjectName::Lease { volume, number } => made(format!("lease/{volume}"), number),
        ObjectName::Snapshot { volume, name, number } => {
            made(format!("snapshot/{volume}/{name}"), number)
        }
    }
}

pub fn lock_path(name: &ObjectName) -> String {
    format!("{LOCKS}/{}", name.to_string().replace('/', ":"))
}

/// The name that a file stands for; `None` if it is not ours, such as what
/// NFS leaves for a removed file that is still open.
fn name_of(directory: &str, file: &str) -> Option<ObjectName> {
    let text = match directory.split_once('/') {
        None if directory.is_empty() => file.to_owned(),
        Some(("block", _)) => format!("block/{}", file.replacen('.', "/", 1)),
        Some(("map", _)) => format!("map/{file}"),
        _ => format!("{directory}/{file}"),
    };
    let name = ObjectName::parse(&text)?;
    let place = place(&name);
    (place.directory == directory && place.file == file).then_some(name)
}

/// Collects the first names after a given one. Never holds more than twice
/// as many as are asked for.
struct Collector<'a> {
    prefix: &'a str,
    after: Option<&'a ObjectName>,
    count_max: usize,
    names: Vec<ObjectName>,
}

impl Collector<'_> {
    fn visit(&mut self, name: ObjectName) {
        if self.after.is_some_and(|after| order::compare(&name, after).is_le()) {
            return;
        }
        if !name.to_string().starts_with(self.prefix) {
            return;
        }
        self.names.push(name);
        if self.names.len() >= self.count_max.saturating_mul(2).max(1024) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.names.sort_unstable_by(order::compare);
        self.names.truncate(self.count_max);
    }

    fn is_full(&self) -> bool {
        self.names.len() >= self.count_max
    }
}

/// A directory that is gone holds nothing.
fn entries(files: &dyn Files, path: &str) -> io::Result<Vec<super::dir_sys::DirEntry>> {
    match files.read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The first `count_max` names with `prefix` after `after`, in byte order of
/// their text. Blocks are spread by a hash: listing any of them reads all
/// their directories, so ask for many at a time.
pub fn list(
    files: &dyn Files,
    prefix: &str,
    after: Option<&ObjectName>,
    count_max: usize,
) -> io::Result<Vec<ObjectName>> {
    let mut found = Collector { prefix, after, count_max, names: Vec::new() };
    if count_max == 0 {
        return Ok(found.names);
    }
    for kind in KINDS {
        // The one object without a directory, in its turn.
        if kind == "volume" && "store".starts_with(prefix) && files.stat("store").is_ok() {
            found.visit(ObjectName::Store);
        }
        let whole = format!("{kind}/");
        if kind != TEMP && kind != LOCKS && (whole.starts_with(prefix) || prefix.starts_with(&whole)) {
            walk(files, kind, &mut found)?;
        }
    }
    found.cut();
    Ok(found.names)
}

fn walk(files: &dyn Files, directory: &str, found: &mut Collector<'_>) -> io::Result<()> {
    // What is certain from the prefix need not be looked for.
    let by_hash = directory == "block" || directory.starts_with("block/");
    if let Some(rest) = found.prefix.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')) {
        if let (false, Some((next, _))) = (by_hash || directory.starts_with("map"), rest.split_once('/')) {
            return walk(files, &format!("{directory}/{next}"), found);
        }
    }
    let mut directories = Vec::new();
    for entry in entries(files, directory)? {
        if entry.is_dir {
            directories.push(entry.name);
        } else if let Some(name) = name_of(directory, &entry.name) {
            found.visit(name);
        }
    }
    // With the '/' that follows in the text.
    directories.sort_unstable_by(|a, b| format!("{a}/").cmp(&format!("{b}/")));
    let before = after_in(directory, found.after);
    for name in directories {
        if !by_hash && before.as_ref().is_some_and(|before| format!("{name}/") < *before) {
            continue;
        }
        walk(files, &format!("{directory}/{name}"), found)?;
        // Directories come in the order of names, except those of a hash.
        if !by_hash && found.is_full() {
            break;
        }
    }
    Ok(())
}

/// The directory below `directory` that holds `after`, if that is one of its
/// kind: those before it have been listed.
fn after_in(directory: &str, after: Option<&ObjectName>) -> Option<String> {
    let place = place(after?);
    let rest = place.directory.strip_prefix(directory)?.strip_prefix('/')?;
    Some(format!("{}/", rest.split('/').next()?))
}
