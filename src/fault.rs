//! Planted faults: one deliberate bug for each ordering rule, off unless a
//! test turns it on, so that the tests can show that they would notice.
//! Without the feature `testkit` every question is answered "no" at compile
//! time.

/// The bugs that can be planted. The number is the rule of docs/design.md
/// that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Planted {
    None = 0,
    /// 3: a flush forgets to sync the log.
    LogNotSynced,
    /// 1: a settle record claims pieces that came after it began.
    SettleClaimsLaterPieces,
    /// 1: a granule is written in place although a piece of it is left.
    InPlaceUnderPiece,
    /// 2: an own block is recorded before its content is durable.
    RecordBeforeContent,
    /// 3: a flush syncs the log before the blocks.
    LogSyncedFirst,
    /// 5: a head is committed although a dropped record is not in its pages.
    HeadDropsRecords,
    /// 6: segments are deleted before the head that drops them is durable.
    TrimBeforeHead,
    /// 7: a cut does not wait for the in-place writes before it.
    CutBeforeContent,
    /// 7: the old epoch is written in place after the cut.
    OldEpochAfterCut,
    /// 8: a rollback keeps the log of the old content.
    RollbackKeepsLog,
    /// 10: an unclean open serves what it has not synced.
    ReplayNotSynced,
    /// 11: an unclean open goes on in the old epoch.
    UncleanKeepsEpoch,
    /// 12: a shrunk volume keeps what lay beyond its end.
    ShrinkKeepsTail,
    /// 14: a damaged record below the durable position passes for the tail.
    DamageIsTail,
    /// 7: a snapshot is published from a map that lacks its pieces.
    PublishWithoutPieces,
    /// 16: removing one of two names removes the volume.
    RemoveBothNames,
    /// 6: gc forgets what a head's log still needs.
    GcForgetsLog,
    /// 13: the log takes records beyond its limit.
    LogUnbounded,
    /// 4: a segment is deleted although a read that was planned needs it.
    ReadNotPinned,
    /// 6: what a fenced holder appends later passes for the log.
    SealIgnored,
    /// 15: a piece of a part of a granule drops the rest of it.
    SettleZeroesRest,
    /// 2: the content of a new own block is made durable, its name is not.
    NameNotSynced,
    /// 9: who publishes does not see that a gc has begun meanwhile.
    GenerationIgnored,
    /// 6: who creates a numbered object does not look for a higher one.
    NumberMadeAgain,
    /// 6: gc marks once, also where listings lag.
    GcMarksOnce,
    /// 2: a discard gives up the own block, so that its name is made again.
    DiscardGivesUpName,
    /// 7: a snapshot whose creation has an unknown outcome passes for published.
    PublishUnknownIsDone,
    /// 6: a segment is deleted before a head says that its number is used.
    NumberForgotten,
    /// Locks: who sends work to sleeping threads wakes none.
    WorkUntold,
    /// Locks: work is told of before it is there.
    WorkToldEarly,
    /// Locks: the last request to leave does not look who is about to wait.
    DrainToldUnlocked,
    /// Locks: a device is closed while requests are in flight.
    ClosedWithoutDrain,
    /// Locks: a volume is handed over while requests are in flight.
    HandedOverOpen,
    /// Locks: a write that finds the log full waits without a word.
    ParkedUntold,
    /// Locks: who comes while a sync runs is forgotten.
    FlushForgotten,
    /// Locks: whether a range is free is asked before the lock is taken.
    RangeAskedUnlocked,
    /// Locks: others' requests are completed by who settles.
    CompletedUnderLock,
    /// Locks: a log segment is known before it is part of the log.
    SegmentKnownEarly,
    /// Locks: who leads the log gives that up before it has looked again.
    LeaderLeavesEarly,
    /// Locks: a lease is given back while a renewal is under way.
    RenewalNotStopped,
    /// 3: a flush does not ask whether the lease still stands.
    LeaseNotAsked,
    /// 5: a taker serves before it has committed a head of its own.
    TakerKeepsHead,
    /// 5: who opens a volume does not look whether its lease still stands.
    OpenerNotVerified,
    /// 9: who makes a volume does not look whether what it is of still stands.
    CloneNotVerified,
    /// Read cache: it keeps what the live epoch writes in place.
    OwnBlocksKept,
    /// Read cache: it keeps what a cut that is not published is settled into.
    CutBlocksKept,
}

impl Planted {
    /// Those that take several threads: tests/shuttle has to find them.
    pub const LOCKS: &'static [Planted] = &[
        Planted::WorkUntold,
        Planted::WorkToldEarly,
        Planted::DrainToldUnlocked,
        Planted::ClosedWithoutDrain,
        Planted::HandedOverOpen,
        Planted::ParkedUntold,
        Planted::FlushForgotten,
        Planted::RangeAskedUnlocked,
        Planted::CompletedUnderLock,
        Planted::SegmentKnownEarly,
        Planted::LeaderLeavesEarly,
        Planted::RenewalNotStopped,
    ];

    /// Those that take several hosts: tests/simulate has to find them.
    pub const OF_SEVERAL_HOSTS: &'static [Planted] = &[
        Planted::LeaseNotAsked,
        Planted::TakerKeepsHead,
        Planted::OpenerNotVerified,
        Planted::CloneNotVerified,
    ];

    /// Those that take a read cache: tests/readcache.rs has to find them.
    pub const OF_CACHE: &'static [Planted] = &[Planted::OwnBlocksKept, Planted::CutBlocksKept];

    /// Those that one thread is enough for: tests/crash has to find them.
    pub const ALL: &'static [Planted] = &[
        Planted::LogNotSynced,
        Planted::SettleClaimsLaterPieces,
        Planted::InPlaceUnderPiece,
        Planted::RecordBeforeContent,
        Planted::LogSyncedFirst,
        Planted::HeadDropsRecords,
        Planted::TrimBeforeHead,
        Planted::CutBeforeContent,
        Planted::OldEpochAfterCut,
        Planted::RollbackKeepsLog,
        Planted::ReplayNotSynced,
        Planted::UncleanKeepsEpoch,
        Planted::ShrinkKeepsTail,
        Planted::DamageIsTail,
        Planted::PublishWithoutPieces,
        Planted::RemoveBothNames,
        Planted::GcForgetsLog,
        Planted::LogUnbounded,
        Planted::ReadNotPinned,
        Planted::SealIgnored,
        Planted::SettleZeroesRest,
        Planted::NameNotSynced,
        Planted::GenerationIgnored,
        Planted::NumberMadeAgain,
        Planted::GcMarksOnce,
        Planted::DiscardGivesUpName,
        Planted::PublishUnknownIsDone,
        Planted::NumberForgotten,
    ];
}

#[cfg(feature = "testkit")]
mod switch {
    use super::Planted;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Planted> = const { Cell::new(Planted::None) };
    }

    /// True if this bug is planted on this thread.
    pub fn on(fault: Planted) -> bool {
        ON.with(|on| on.get() == fault)
    }

    /// Plants a bug on this thread; `Planted::None` removes it.
    pub fn plant(fault: Planted) {
        ON.with(|on| on.set(fault));
    }
}

#[cfg(not(feature = "testkit"))]
mod switch {
    use super::Planted;

    #[inline(always)]
    pub fn on(_fault: Planted) -> bool {
        false
    }
}

pub use switch::*;
