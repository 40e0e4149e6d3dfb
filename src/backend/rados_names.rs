//! How the objects of a store lie in RADOS.
//!
//! | kind | where |
//! | --- | --- |
//! | blocks, map pages | an object each, of that name |
//! | log segments | an object each, `log/<volume>/<number>#<random>`, which `index.log` names |
//! | all others | values of the object `index.<kind>`, by name |
//!
//! RADOS lists the objects of a whole pool and in no order. What is listed to
//! open a volume is therefore kept by key, which is sorted and made, read and
//! deleted in one step each; only gc, check and scrub list blocks and pages.

use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};

/// What lies where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An object of its own.
    Object(String),
    /// A value of an index.
    Value { index: String, key: String },
    /// An object that a value of an index names.
    Segment { index: String, key: String },
}

/// The kinds in the order of their text, and whether an index has them.
pub(super) const KINDS: [(&str, bool); 11] = [
    ("block/", false),
    ("epoch/", true),
    ("head/", true),
    ("lease/", true),
    ("log/", true),
    ("maintenance/", true),
    ("map/", false),
    ("scrub/", true),
    ("snapshot/", true),
    ("store", true),
    ("volume/", true),
];

/// The index of a kind.
pub(super) fn index_of(kind: &str) -> String {
    format!("index.{}", kind.trim_end_matches('/'))
}

pub(super) fn place_of(name: &ObjectName) -> Place {
    let key = name.to_string();
    let kind = key.split('/').next().unwrap_or_default();
    match name {
        ObjectName::Block { .. } | ObjectName::Page(_) => Place::Object(key),
        ObjectName::Segment { .. } => Place::Segment { index: index_of(kind), key },
        _ => Place::Value { index: index_of(kind), key },
    }
}

/// The object of a segment.
pub(super) fn segment_object(key: &str, random: Id) -> String {
    format!("{key}#{random}")
}

const WHOLE: u8 = 1;
const ELSEWHERE: u8 = 2;

/// The value of what an index has itself.
pub(super) fn whole_value(data: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(data.len() + 1);
    value.push(WHOLE);
    value.extend_from_slice(data);
    value
}

pub(super) fn data_of(name: &ObjectName, mut value: Vec<u8>) -> Result<Vec<u8>> {
    match value.first() {
        Some(&WHOLE) => Ok(value.split_off(1)),
        _ => Err(damaged(name)),
    }
}

/// The value that names a segment's object.
pub(super) fn segment_value(random: Id, bytes: u64) -> Vec<u8> {
    let mut value = vec![ELSEWHERE];
    value.extend_from_slice(&random.to_bytes());
    value.extend_from_slice(&bytes.to_le_bytes());
    value
}

pub(super) fn segment_of(name: &ObjectName, value: &[u8]) -> Result<(Id, u64)> {
    let Ok(fields) = <[u8; 25]>::try_from(value) else { return Err(damaged(name)) };
    let (mut random, mut bytes) = ([0; 16], [0; 8]);
    random.copy_from_slice(&fields[1..17]);
    bytes.copy_from_slice(&fields[17..]);
    match fields[0] {
        ELSEWHERE => Ok((Id::from_bytes(random), u64::from_le_bytes(bytes))),
        _ => Err(damaged(name)),
    }
}

fn damaged(name: &ObjectName) -> Error {
    Error::new(ErrorKind::Corrupt, "read").on(name).because("its entry in the index is none of ours")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::VolumeName;

    // What a store has written once must be found by every later version.

    #[test]
    fn names_lie_where_the_documentation_says() {
        let volume = Id(7);
        let text = format!("{volume}");
        let place = place_of(&ObjectName::Block { epoch: volume, index: 1 });
        assert_eq!(place, Place::Object(format!("block/{text}/0000000000000001")));
        let place = place_of(&ObjectName::Volume(VolumeName::new("web").unwrap()));
        assert_eq!(place, Place::Value { index: "index.volume".into(), key: "volume/web".into() });
        let place = place_of(&ObjectName::Store);
        assert_eq!(place, Place::Value { index: "index.store".into(), key: "store".into() });
        let place = place_of(&ObjectName::Segment { volume, number: 2 });
        let key = format!("log/{text}/0000000000000002");
        assert_eq!(place, Place::Segment { index: "index.log".into(), key: key.clone() });
        assert_eq!(segment_object(&key, volume), format!("{key}#{text}"));
    }

    #[test]
    fn values_come_back_and_others_are_refused() {
        let name = ObjectName::Store;
        assert_eq!(data_of(&name, whole_value(b"")).unwrap(), b"");
        assert_eq!(data_of(&name, whole_value(b"data")).unwrap(), b"data");
        assert_eq!(segment_of(&name, &segment_value(Id(9), 1 << 40)).unwrap(), (Id(9), 1 << 40));
        for value in [&b""[..], b"\x02", b"\x03abc", &segment_value(Id(9), 1)[..24]] {
            assert!(segment_of(&name, value).unwrap_err().is(ErrorKind::Corrupt));
            assert!(data_of(&name, value.to_vec()).unwrap_err().is(ErrorKind::Corrupt));
        }
    }

    #[test]
    fn every_kind_is_there_once_and_in_order() {
        let texts: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        let mut sorted = texts.clone();
        sorted.sort_unstable();
        assert_eq!(texts, sorted);
        for (kind, indexed) in KINDS {
            assert_eq!(indexed, !["block/", "map/"].contains(&kind), "{kind}");
        }
    }
}
