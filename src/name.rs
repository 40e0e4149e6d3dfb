//! Names, checked once and trusted afterwards: ids, volumes, snapshots and
//! the objects that a backend keeps.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// Longest name of a volume or a snapshot, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Numbers of objects that are numbered end long before they could overflow:
/// nobody makes so many.
pub const NUMBER_MAX: u64 = 1 << 62;

/// A random 128-bit number: a volume id, an epoch, a page id. Unique without
/// asking anybody, so that stores can be copied into each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub u128);

impl Id {
    /// Never the id of anything: "none" in formats.
    pub const NONE: Id = Id(0);

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Id {
        Id(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Id> {
        parse_hex(text, 32).map(Id).ok_or_else(|| malformed("id", text))
    }
}

fn malformed(what: &str, text: &str) -> Error {
    Error::sentence(ErrorKind::Invalid, format!("'{}' is not a valid {what}", text.escape_debug()))
}

/// Lower-case hexadecimal of exactly `digits` digits.
fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let valid = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != digits || !text.bytes().all(valid) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn check_name(what: &str, text: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty()
        || text.len() > NAME_BYTES_MAX
        || text.starts_with(['.', '-'])
        || !text.bytes().all(allowed)
    {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!(
                "'{}' is not a valid {what} name: use 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - \
                 and do not begin with '.' or '-'",
                text.escape_debug()
            ),
        ));
    }
    Ok(())
}

macro_rules! name_type {
    ($type:ident, $what:literal) => {
        #[doc = concat!("The name of a ", $what, ".")]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// Checks and takes a name. Error: `Invalid`.
            pub fn new(text: &str) -> Result<$type> {
                check_name($what, text)?;
                Ok($type(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(VolumeName, "volume");
name_type!(SnapshotName, "snapshot");

/// The name of an object: what it is, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    Store,
    Volume(VolumeName),
    Head { volume: Id, number: u64 },
    Segment { volume: Id, number: u64 },
    Page(Id),
    Block { epoch: Id, index: u64 },
    Snapshot { volume: Id, name: SnapshotName, number: u64 },
    Epoch(Id),
    Maintenance(u64),
    Scrub(u64),
    Lease { volume: Id, number: u64 },
}

impl ObjectName {
    /// Reads a name back; `None` for whatever is not ours.
    pub fn parse(text: &str) -> Option<ObjectName> {
        let number = |text: &str| parse_hex(text, 16).and_then(|n| u64::try_from(n).ok());
        let id = |text: &str| parse_hex(text, 32).map(Id);
        let parts: Vec<&str> = text.split('/').collect();
        Some(match parts.as_slice() {
            ["store"] => ObjectName::Store,
            ["volume", name] => ObjectName::Volume(VolumeName::new(name).ok()?),
            ["head", volume, n] => ObjectName::Head { volume: id(volume)?, number: number(n)? },
            ["log", volume, n] => ObjectName::Segment { volume: id(volume)?, number: number(n)? },
            ["map", page] => ObjectName::Page(id(page)?),
            ["block", epoch, index] => {
                ObjectName::Block { epoch: id(epoch)?, index: number(index)? }
            }
            ["snapshot", volume, name, n] => ObjectName::Snapshot {
                volume: id(volume)?,
                name: SnapshotName::new(name).ok()?,
                number: number(n)?,
            },
            ["epoch", epoch] => ObjectName::Epoch(id(epoch)?),
            ["maintenance", n] => ObjectName::Maintenance(number(n)?),
            ["scrub", n] => ObjectName::Scrub(number(n)?),
            ["lease", volume, n] => ObjectName::Lease { volume: id(volume)?, number: number(n)? },
            _ => return None,
        })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Store => f.write_str("store"),
            ObjectName::Volume(name) => write!(f, "volume/{name}"),
            ObjectName::Head { volume, number } => write!(f, "head/{volume}/{number:016x}"),
            ObjectName::Segment { volume, number } => write!(f, "log/{volume}/{number:016x}"),
            ObjectName::Page(id) => write!(f, "map/{id}"),
            ObjectName::Block { epoch, index } => write!(f, "block/{epoch}/{index:016x}"),
            ObjectName::Snapshot { volume, name, number } => {
                write!(f, "snapshot/{volume}/{name}/{number:016x}")
            }
            ObjectName::Epoch(id) => write!(f, "epoch/{id}"),
            ObjectName::Maintenance(number) => write!(f, "maintenance/{number:016x}"),
            ObjectName::Scrub(number) => write!(f, "scrub/{number:016x}"),
            ObjectName::Lease { volume, number } => write!(f, "lease/{volume}/{number:016x}"),
        }
    }
}

/// Names that hold others: `list` takes one of these.
pub mod prefix {
    use super::{Id, SnapshotName};

    pub const ALL: &str = "";
    pub const VOLUMES: &str = "volume/";
    pub const HEADS: &str = "head/";
    pub const SEGMENTS: &str = "log/";
    pub const PAGES: &str = "map/";
    pub const BLOCKS: &str = "block/";
    pub const SNAPSHOTS: &str = "snapshot/";
    pub const EPOCHS: &str = "epoch/";
    pub const MAINTENANCE: &str = "maintenance/";
    pub const SCRUBS: &str = "scrub/";
    pub const LEASES: &str = "lease/";

    pub fn heads_of(volume: Id) -> String {
        format!("head/{volume}/")
    }

    pub fn segments_of(volume: Id) -> String {
        format!("log/{volume}/")
    }

    pub fn snapshots_of(volume: Id) -> String {
        format!("snapshot/{volume}/")
    }

    pub fn numbers_of(volume: Id, name: &SnapshotName) -> String {
        format!("snapshot/{volume}/{name}/")
    }

    pub fn leases_of(volume: Id) -> String {
        format!("lease/{volume}/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_read_back_as_written() {
        let volume = Id(0x1234);
        let names = [
            ObjectName::Store,
            ObjectName::Volume(VolumeName::new("web-1.disk0").unwrap()),
            ObjectName::Head { volume, number: 7 },
            ObjectName::Segment { volume, number: u64::MAX },
            ObjectName::Page(Id(9)),
            ObjectName::Block { epoch: Id(u128::MAX), index: 262_143 },
            ObjectName::Snapshot {
                volume,
                name: SnapshotName::new("before").unwrap(),
                number: 0,
            },
            ObjectName::Epoch(Id(3)),
            ObjectName::Maintenance(1),
            ObjectName::Scrub(1),
            ObjectName::Lease { volume, number: 2 },
        ];
        for name in names {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn what_is_not_ours_is_not_a_name() {
        for text in ["", "block/", "block/zz/1", "head/1/1", "volume/.nfs0001", "volume/a/b", "x"] {
            assert_eq!(ObjectName::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bad_volume_names_are_refused_with_a_sentence() {
        for text in ["", ".a", "-a", "a/b", "a b", "ä", "a\0"] {
            let error = VolumeName::new(text).unwrap_err();
            assert!(error.is(ErrorKind::Invalid));
            assert!(error.to_string().contains("A-Z"), "{error}");
        }
        assert!(VolumeName::new(&"x".repeat(129)).is_err());
        assert!(VolumeName::new(&"x".repeat(128)).is_ok());
    }
}
