//! What one seed decides before anything begins.

use super::random::Random;

/// Kinds of simulated stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A directory on one host's disk: locks that the kernel drops when a
    /// process ends, one page cache, power that fails.
    Local,
    /// A directory on NFS: no locks, leases that are renewed, a page cache for
    /// each host, changes that arrive late.
    Shared,
}

impl Kind {
    pub fn is_shared(self) -> bool {
        self == Kind::Shared
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub hosts: usize,
    pub lags: bool,
    /// Of a shared store: log writes wait in the host's cache for a sync.
    pub log_is_cached: bool,
    /// The operator breaks leases of holders that are only paused, too.
    pub careless: bool,
    pub writers: usize,
    pub tools: usize,
    pub collectors: usize,
    pub volumes: usize,
    pub size_bytes: u64,
    pub log_limit_bytes: u64,
    /// What each process does before it ends.
    pub acts: u64,
    pub steps_max: u64,
    pub renew_us: u64,
    pub deadline_us: u64,
    /// How often something bad happens: kills, pauses, power, the network.
    pub troubles: u64,
}

pub const BLOCK: u64 = 16 << 10;

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::of(seed, 2);
        let kind = if random.one_in(2) { Kind::Local } else { Kind::Shared };
        let is_shared = kind.is_shared();
        Plan {
            kind,
            hosts: if is_shared { random.within(2, 3) as usize } else { 1 },
            lags: is_shared && random.one_in(2),
            log_is_cached: is_shared && random.one_in(2),
            careless: is_shared && random.one_in(2),
            writers: random.within(1, 3) as usize,
            tools: random.within(1, 2) as usize,
            collectors: random.weighted(&[1, 4]),
            volumes: random.within(1, 2) as usize,
            size_bytes: random.within(3, 6) * BLOCK + random.below(3) * 2048,
            log_limit_bytes: if random.one_in(3) { 160 << 10 } else { 1 << 20 },
            acts: random.within(6, 24),
            steps_max: 4_000,
            renew_us: 1_000_000,
            deadline_us: 4_000_000,
            troubles: random.weighted(&[1, 2, 2, 1]) as u64 * 2,
        }
    }
}
