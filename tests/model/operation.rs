//! What a history is made of, and how histories are drawn. Every operation
//! means something in every state, so that a history with a part left out is
//! one too: that is how a failing one is made small.

use proptest::prelude::*;
use proptest::strategy::Union;

use super::driver::How;
use super::world::BLOCK;

pub const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
pub const SNAPSHOTS: [&str; 4] = ["s", "s.1", "t", "u-2"];

/// One of several, by a number: below LIKELY one with which the operation is
/// likely to be done, if there is one, else any.
pub type Pick = u8;
pub const LIKELY: Pick = 224;

/// Where in a disk. What lies beyond its end is pulled in, unless the
/// operation is to be refused. `again`: where something was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset_bytes: u64,
    pub bytes: u64,
    pub beyond: bool,
    pub again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Read,
    TryRead,
    Write { fua: bool },
    Zero { fua: bool },
    Discard,
    Flush,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create {
        name: Pick,
        size_bytes: u64,
    },
    Clone {
        volume: Pick,
        snapshot: Pick,
        to: Pick,
        more_bytes: i64,
    },
    Rename {
        from: Pick,
        to: Pick,
    },
    Remove {
        name: Pick,
    },
    Open {
        name: Pick,
        how: How,
    },
    OpenSnapshot {
        name: Pick,
        snapshot: Pick,
    },
    Close {
        disk: Pick,
    },
    Data {
        disk: Pick,
        data: Data,
        place: Place,
    },
    /// All in flight at once, and perhaps background work with them; those
    /// that overlap an earlier one are left out.
    Together {
        requests: Vec<(Pick, Data, Place)>,
        work: Option<u8>,
    },
    Status {
        disk: Pick,
        place: Place,
    },
    Resize {
        disk: Pick,
        size_bytes: u64,
        shrink: bool,
    },
    Snapshot {
        disk: Pick,
        name: Pick,
    },
    Rollback {
        disk: Pick,
        name: Pick,
    },
    RemoveSnapshot {
        disk: Pick,
        name: Pick,
    },
    Snapshots {
        disk: Pick,
    },
    Volumes,
    Inactivate {
        disk: Pick,
    },
    Activate {
        disk: Pick,
    },
    SetReadOnly {
        disk: Pick,
        read_only: bool,
    },
    Work {
        disk: Pick,
        which: u8,
    },
    Gc,
    Check,
    /// Reads all of a disk.
    Verify {
        disk: Pick,
    },
}

impl Op {
    /// For the count of what was done.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Create { .. } => "create",
            Op::Clone { .. } => "clone",
            Op::Rename { .. } => "rename",
            Op::Remove { .. } => "remove",
            Op::Open { .. } => "open",
            Op::OpenSnapshot { .. } => "open snapshot",
            Op::Close { .. } => "close",
            Op::Data { data, .. } => match data {
                Data::Read => "read",
                Data::TryRead => "try read",
                Data::Write { .. } => "write",
                Data::Zero { .. } => "write zeroes",
                Data::Discard => "discard",
                Data::Flush => "flush",
            },
            Op::Together { .. } => "several in flight",
            Op::Status { .. } => "block status",
            Op::Resize { .. } => "resize",
            Op::Snapshot { .. } => "snapshot",
            Op::Rollback { .. } => "rollback",
            Op::RemoveSnapshot { .. } => "remove snapshot",
            Op::Snapshots { .. } => "list snapshots",
            Op::Volumes => "list volumes",
            Op::Inactivate { .. } => "inactivate",
            Op::Activate { .. } => "activate",
            Op::SetReadOnly { .. } => "set read-only",
            Op::Work { .. } => "background work",
            Op::Gc => "gc",
            Op::Check => "check",
            Op::Verify { .. } => "read all",
        }
    }
}

/// Mostly a few blocks; at times more than one page of the map has entries.
fn block() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0u64..6, 4 => 6u64..20, 1 => 1018u64..1034]
}

fn within() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(0),
        1 => Just(BLOCK - 1),
        2 => (0..BLOCK / 4096).prop_map(|granule| granule * 4096),
        2 => (0..BLOCK / 512).prop_map(|sector| sector * 512),
        2 => 0..BLOCK,
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 1u64..700,
        2 => (1u64..16).prop_map(|sectors| sectors * 512),
        3 => (1u64..8).prop_map(|granules| granules * 4096),
        2 => Just(BLOCK),
        2 => 1u64..6 * BLOCK,
        1 => Just(4 * BLOCK),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    let odds = (prop::bool::weighted(0.03), prop::bool::weighted(0.3));
    (block(), within(), length(), odds).prop_map(|(block, within, bytes, (beyond, again))| Place {
        offset_bytes: block * BLOCK + within,
        bytes,
        beyond,
        again,
    })
}

fn size() -> impl Strategy<Value = u64> {
    let odd = prop_oneof![2 => Just(0), 2 => within()];
    (prop_oneof![14 => 0u64..22, 1 => 1020u64..1036], odd).prop_map(|(blocks, odd)| blocks * BLOCK + odd)
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        4 => Just(Data::Read),
        1 => Just(Data::TryRead),
        8 => prop::bool::weighted(0.2).prop_map(|fua| Data::Write { fua }),
        2 => prop::bool::weighted(0.2).prop_map(|fua| Data::Zero { fua }),
        2 => Just(Data::Discard),
        2 => Just(Data::Flush),
    ]
}

fn name() -> impl Strategy<Value = Pick> {
    any::<Pick>()
}

fn snapshot() -> impl Strategy<Value = Pick> {
    any::<Pick>()
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![6 => Just(How::Writable), 2 => Just(How::ReadOnly), 1 => Just(How::Inactive)]
}

/// Operations on an open disk.
fn on_disk() -> Union<BoxedStrategy<Op>> {
    let pick = any::<Pick>;
    Union::new_weighted(vec![
        (
            30,
            (pick(), data(), place()).prop_map(|(disk, data, place)| Op::Data { disk, data, place }).boxed(),
        ),
        (
            8,
            (prop::collection::vec((pick(), data(), place()), 2..12), prop::option::of(any::<u8>()))
                .prop_map(|(requests, work)| Op::Together { requests, work })
                .boxed(),
        ),
        (5, (pick(), place()).prop_map(|(disk, place)| Op::Status { disk, place }).boxed()),
        (
            4,
            (pick(), size(), prop::bool::weighted(0.8))
                .prop_map(|(disk, size_bytes, shrink)| Op::Resize { disk, size_bytes, shrink })
                .boxed(),
        ),
        (7, (pick(), snapshot()).prop_map(|(disk, name)| Op::Snapshot { disk, name }).boxed()),
        (3, (pick(), snapshot()).prop_map(|(disk, name)| Op::Rollback { disk, name }).boxed()),
        (3, (pick(), snapshot()).prop_map(|(disk, name)| Op::RemoveSnapshot { disk, name }).boxed()),
        (2, pick().prop_map(|disk| Op::Snapshots { disk }).boxed()),
        (2, pick().prop_map(|disk| Op::Inactivate { disk }).boxed()),
        (3, pick().prop_map(|disk| Op::Activate { disk }).boxed()),
        (
            2,
            (pick(), any::<bool>()).prop_map(|(disk, read_only)| Op::SetReadOnly { disk, read_only }).boxed(),
        ),
        (4, (pick(), any::<u8>()).prop_map(|(disk, which)| Op::Work { disk, which }).boxed()),
        (2, pick().prop_map(|disk| Op::Verify { disk }).boxed()),
        (3, pick().prop_map(|disk| Op::Close { disk }).boxed()),
    ])
}

fn on_store() -> Union<BoxedStrategy<Op>> {
    let more = prop_oneof![4 => Just(0i64), 3 => 1i64..5 * BLOCK as i64, 1 => -(BLOCK as i64)..0];
    Union::new_weighted(vec![
        (3, (name(), size()).prop_map(|(name, size_bytes)| Op::Create { name, size_bytes }).boxed()),
        (
            5,
            (name(), snapshot(), name(), more)
                .prop_map(|(volume, snapshot, to, more_bytes)| Op::Clone { volume, snapshot, to, more_bytes })
                .boxed(),
        ),
        (2, (name(), name()).prop_map(|(from, to)| Op::Rename { from, to }).boxed()),
        (2, name().prop_map(|name| Op::Remove { name }).boxed()),
        (8, (name(), how()).prop_map(|(name, how)| Op::Open { name, how }).boxed()),
        (4, (name(), snapshot()).prop_map(|(name, snapshot)| Op::OpenSnapshot { name, snapshot }).boxed()),
        (1, Just(Op::Volumes).boxed()),
        (2, Just(Op::Gc).boxed()),
        (1, Just(Op::Check).boxed()),
    ])
}

/// A history: two volumes, open, and what is done to them and others.
pub fn history() -> impl Strategy<Value = Vec<Op>> {
    let begin = (6u64..22, within()).prop_map(|(blocks, odd)| {
        let size_bytes = blocks * BLOCK + odd;
        let both = [Op::Create { name: 0, size_bytes }, Op::Open { name: 0, how: How::Writable }];
        [both.clone(), both].concat()
    });
    let any = prop_oneof![4 => on_disk(), 1 => on_store()];
    (begin, prop::collection::vec(any, 20..140)).prop_map(|(mut history, rest)| {
        history.extend(rest);
        history
    })
}
