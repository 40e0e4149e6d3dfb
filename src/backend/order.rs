//! The order of `list`: byte order of the names' text, without making text.

use std::cmp::Ordering;

use crate::name::{Id, ObjectName, SnapshotName, VolumeName, NAME_BYTES_MAX};

/// An object name that sorts as its text does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByText(pub ObjectName);

impl Ord for ByText {
    fn cmp(&self, other: &ByText) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for ByText {
    fn partial_cmp(&self, other: &ByText) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The position of a kind's first word among the others.
fn rank(name: &ObjectName) -> u8 {
    match name {
        ObjectName::Block { .. } => 0,
        ObjectName::Epoch(_) => 1,
        ObjectName::Head { .. } => 2,
        ObjectName::Lease { .. } => 3,
        ObjectName::Segment { .. } => 4,
        ObjectName::Maintenance(_) => 5,
        ObjectName::Page(_) => 6,
        ObjectName::Scrub(_) => 7,
        ObjectName::Snapshot { .. } => 8,
        ObjectName::Store => 9,
        ObjectName::Volume(_) => 10,
    }
}

/// Ids and numbers, of a fixed width in text, sort as numbers.
fn numbers(name: &ObjectName) -> (u128, u64) {
    match name {
        ObjectName::Block { epoch, index } => (epoch.0, *index),
        ObjectName::Epoch(id) | ObjectName::Page(id) => (id.0, 0),
        ObjectName::Head { volume, number }
        | ObjectName::Lease { volume, number }
        | ObjectName::Segment { volume, number }
        | ObjectName::Snapshot { volume, number, .. } => (volume.0, *number),
        ObjectName::Maintenance(number) | ObjectName::Scrub(number) => (0, *number),
        ObjectName::Store | ObjectName::Volume(_) => (0, 0),
    }
}

/// Byte order of the text of two names.
pub fn compare(a: &ObjectName, b: &ObjectName) -> Ordering {
    match (a, b) {
        (ObjectName::Volume(a), ObjectName::Volume(b)) => a.cmp(b),
        (
            ObjectName::Snapshot { volume: a_volume, name: a_name, number: a_number },
            ObjectName::Snapshot { volume: b_volume, name: b_name, number: b_number },
        ) => a_volume
            .cmp(b_volume)
            .then_with(|| compare_before_slash(a_name.as_str(), b_name.as_str()))
            .then(a_number.cmp(b_number)),
        _ => rank(a).cmp(&rank(b)).then_with(|| numbers(a).cmp(&numbers(b))),
    }
}

/// As the text goes on with '/' after a snapshot's name, and '-' and '.' are
/// below '/', "a-b" comes before "a".
fn compare_before_slash(a: &str, b: &str) -> Ordering {
    let slash = std::iter::once(b'/');
    a.bytes().chain(slash.clone()).cmp(b.bytes().chain(slash))
}

/// Where the names with a prefix begin: no name with it sorts before the
/// result. `None`: begin at the very first name.
pub fn first_with(prefix: &str) -> Option<ObjectName> {
    let mut parts = prefix.split('/');
    let kind = parts.next()?;
    let id: Id = parts.next().and_then(|text| text.parse().ok()).unwrap_or(Id(0));
    Some(match kind {
        "block" => ObjectName::Block { epoch: id, index: 0 },
        "epoch" => ObjectName::Epoch(Id(0)),
        "head" => ObjectName::Head { volume: id, number: 0 },
        "lease" => ObjectName::Lease { volume: id, number: 0 },
        "log" => ObjectName::Segment { volume: id, number: 0 },
        "maintenance" => ObjectName::Maintenance(0),
        "map" => ObjectName::Page(Id(0)),
        "scrub" => ObjectName::Scrub(0),
        "snapshot" => {
            let given = parts.next().and_then(|text| SnapshotName::new(text).ok());
            // The longest run of '-' is the smallest, as '-' is below '/'.
            let smallest = || format!("0{}", "-".repeat(NAME_BYTES_MAX - 1));
            let name = given.or_else(|| SnapshotName::new(&smallest()).ok())?;
            ObjectName::Snapshot { volume: id, name, number: 0 }
        }
        "store" => ObjectName::Store,
        "volume" => ObjectName::Volume(VolumeName::new("0").ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_names() -> Vec<ObjectName> {
        let mut names = vec![ObjectName::Store];
        for text in ["a", "a-b", "a.b", "a0", "aa", "0", "Z", "a-", "_x", "0-"] {
            names.push(ObjectName::Volume(VolumeName::new(text).unwrap()));
            for volume in [Id(1), Id(u128::MAX)] {
                let name = SnapshotName::new(text).unwrap();
                names.push(ObjectName::Snapshot { volume, name: name.clone(), number: 2 });
                names.push(ObjectName::Snapshot { volume, name, number: u64::MAX });
            }
        }
        for id in [Id(1), Id(255), Id(1 << 100)] {
            names.push(ObjectName::Page(id));
            names.push(ObjectName::Epoch(id));
            for number in [0, 1, 16, u64::MAX] {
                names.push(ObjectName::Maintenance(number));
                names.push(ObjectName::Scrub(number));
                names.push(ObjectName::Block { epoch: id, index: number });
                names.push(ObjectName::Head { volume: id, number });
                names.push(ObjectName::Lease { volume: id, number });
                names.push(ObjectName::Segment { volume: id, number });
            }
        }
        names
    }

    #[test]
    fn the_order_is_that_of_the_text() {
        let names = some_names();
        for a in &names {
            for b in &names {
                assert_eq!(compare(a, b), a.to_string().cmp(&b.to_string()), "{a} {b}");
            }
        }
    }

    #[test]
    fn nothing_with_a_prefix_sorts_before_its_beginning() {
        for name in some_names() {
            let text = name.to_string();
            for (at, _) in text.match_indices('/') {
                let first = first_with(&text[..=at]).unwrap();
                assert!(compare(&first, &name).is_le(), "{first} {name}");
                assert!(first == name || first.to_string().starts_with(&text[..=at]) || at > 40);
            }
        }
    }
}
