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
//! would make listing 20 to 100 times slower. Directories of one volume are made
//! on demand and removed when they are empty.
//!
//! On GlusterFS (`Layout::Few`) only the first digit is used, for to look into a
//! directory takes 2 ms there, empty or not; and no directory is made or removed
//! after init, for two that make the same one at once may each get one of their
//! own on some of the bricks (seen with 10.3), and what is in it is lost to all:
//!
//! ```text
//! head/<1 hex>/<volume id>.<n>          log/ and lease/ likewise; the digit is
//! snapshot/<1 hex>/<volume id>.<name>.<n>      the first of the volume's id
//! ```

use std::collections::BTreeSet;
use std::io;

use super::dir_sys::{Files, Layout};
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

/// Kinds with many directories each.
const FANNED: [&str; 2] = ["block", "map"];
const FANNED_OF_FEW: [&str; 6] = ["block", "head", "lease", "log", "map", "snapshot"];

fn fanned_kinds(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::Wide => &FANNED,
        Layout::Few => &FANNED_OF_FEW,
    }
}

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
    let layout = files.file_system().layout;
    let (fanned, digits) = (fanned_kinds(layout), layout.digits());
    for kind in fanned {
        for shard in 0..1_u32 << (4 * digits) {
            make(&format!("{kind}/{shard:0digits$x}"))?;
        }
    }
    Ok([&[""], fanned].concat())
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

pub fn place(files: &dyn Files, name: &ObjectName) -> Place {
    place_of(files.file_system().layout, name)
}

fn place_of(layout: Layout, name: &ObjectName) -> Place {
    let fanned = |kind: &str, shard: u8| format!("{kind}/{}", &format!("{shard:02x}")[..layout.digits()]);
    let first = |id: &Id| (id.0 >> 120) as u8;
    let fixed = |directory: String, file: String| Place { directory, file, on_demand: false };
    // Of one volume.
    let own = |kind: &str, volume: &Id, number: &u64| match layout {
        Layout::Wide => {
            Place { directory: format!("{kind}/{volume}"), file: format!("{number:016x}"), on_demand: true }
        }
        Layout::Few => fixed(fanned(kind, first(volume)), format!("{volume}.{number:016x}")),
    };
    match name {
        ObjectName::Store => fixed(String::new(), "store".into()),
        ObjectName::Volume(name) => fixed("volume".into(), name.to_string()),
        ObjectName::Epoch(id) => fixed("epoch".into(), id.to_string()),
        ObjectName::Maintenance(number) => fixed("maintenance".into(), format!("{number:016x}")),
        ObjectName::Scrub(number) => Place {
            directory: LATER.into(),
            file: format!("{number:016x}"),
            on_demand: layout == Layout::Wide,
        },
        ObjectName::Page(id) => fixed(fanned("map", first(id)), id.to_string()),
        ObjectName::Block { epoch, index } => {
            fixed(fanned("block", shard(*epoch, *index)), format!("{epoch}.{index:016x}"))
        }
        ObjectName::Head { volume, number } => own("head", volume, number),
        ObjectName::Segment { volume, number } => own("log", volume, number),
        ObjectName::Lease { volume, number } => own("lease", volume, number),
        ObjectName::Snapshot { volume, name, number } => match layout {
            Layout::Wide => Place {
                directory: format!("snapshot/{volume}/{name}"),
                file: format!("{number:016x}"),
                on_demand: true,
            },
            Layout::Few => {
                fixed(fanned("snapshot", first(volume)), format!("{volume}.{name}.{number:016x}"))
            }
        },
    }
}

pub fn lock_path(name: &ObjectName) -> String {
    format!("{LOCKS}/{}", name.to_string().replace('/', ":"))
}

/// The name that a file stands for; `None` if it is not ours, such as what
/// NFS leaves for a removed file that is still open.
fn name_of(layout: Layout, directory: &str, file: &str) -> Option<ObjectName> {
    let text = match (directory.split_once('/'), layout) {
        (None, _) if directory.is_empty() => file.to_owned(),
        (Some(("block", _)), _) => format!("block/{}", file.replacen('.', "/", 1)),
        (Some(("map", _)), _) => format!("map/{file}"),
        (Some(("snapshot", _)), Layout::Few) => {
            // The name between them may have dots.
            let (volume, rest) = file.split_once('.')?;
            let (name, number) = rest.rsplit_once('.')?;
            format!("snapshot/{volume}/{name}/{number}")
        }
        (Some((kind, _)), Layout::Few) => format!("{kind}/{}", file.replacen('.', "/", 1)),
        _ => format!("{directory}/{file}"),
    };
    let name = ObjectName::parse(&text)?;
    let place = place_of(layout, &name);
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
    let from = after.map(ToString::to_string).unwrap_or_default();
    for kind in KINDS {
        // Kinds come in the order of their names.
        if found.is_full() {
            break;
        }
        // The one object without a directory, in its turn.
        if kind == "volume" && "store".starts_with(prefix) && files.stat("store").is_ok() {
            found.visit(ObjectName::Store);
        }
        let whole = format!("{kind}/");
        if from > whole && !from.starts_with(&whole) {
            continue;
        }
        if kind != TEMP && kind != LOCKS && (whole.starts_with(prefix) || prefix.starts_with(&whole)) {
            walk(files, kind, &mut found)?;
        }
    }
    found.cut();
    Ok(found.names)
}

fn walk(files: &dyn Files, directory: &str, found: &mut Collector<'_>) -> io::Result<()> {
    // What is certain from the prefix need not be looked for.
    let layout = files.file_system().layout;
    let by_hash = directory == "block" || directory.starts_with("block/");
    if let Some(next) = next_of(layout, directory, found.prefix) {
        return walk(files, &format!("{directory}/{next}"), found);
    }
    let mut directories = Vec::new();
    for entry in entries(files, directory)? {
        if entry.is_dir {
            directories.push(entry.name);
        } else if let Some(name) = name_of(layout, directory, &entry.name) {
            found.visit(name);
        }
    }
    // With the '/' that follows in the text.
    directories.sort_unstable_by(|a, b| format!("{a}/").cmp(&format!("{b}/")));
    let before = after_in(layout, directory, found.after);
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

/// The one directory below `directory` that can hold names with `prefix`.
fn next_of<'a>(layout: Layout, directory: &str, prefix: &'a str) -> Option<&'a str> {
    let rest = prefix.strip_prefix(directory)?.strip_prefix('/')?;
    match directory {
        // Those lie by a hash.
        _ if directory.starts_with("block") => None,
        _ if fanned_kinds(layout).contains(&directory) => rest.get(..layout.digits()),
        _ if directory.contains('/') && layout == Layout::Few => None,
        _ => rest.split_once('/').map(|(next, _)| next),
    }
}

/// The directory below `directory` that holds `after`, if that is one of its
/// kind: those before it have been listed.
fn after_in(layout: Layout, directory: &str, after: Option<&ObjectName>) -> Option<String> {
    let place = place_of(layout, after?);
    let rest = place.directory.strip_prefix(directory)?.strip_prefix('/')?;
    Some(format!("{}/", rest.split('/').next()?))
}
