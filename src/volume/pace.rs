//! How fast the log may be filled while it is being settled.
//!
//! Settling frees the log late: writes that are scattered leave an old piece
//! in every block, and the log can go only from the oldest piece on. What
//! counts is therefore whether the room that is left lasts until all that is
//! in the log has been settled.

/// Room for each byte that is not settled yet, from which on writers are not
/// slowed down: with this little and nothing more settled they would be held
/// to an eighth of the speed of settling.
const FREE_FROM: f64 = 0.125;

/// Bytes that may be logged for each byte that is settled. Infinite: as many
/// as anybody likes. From there it falls without a step to what makes the log
/// full when all that is in it has been settled, and not before.
pub(super) fn pace(limit_bytes: u64, used_bytes: u64, settled_bytes: u64) -> f64 {
    let room = limit_bytes.saturating_sub(used_bytes) as f64;
    let unsettled = used_bytes.saturating_sub(settled_bytes).max(1) as f64;
    let lasting = room / unsettled;
    if lasting >= FREE_FROM {
        return f64::INFINITY;
    }
    lasting / (1.0 - lasting / FREE_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 256 << 20;

    #[test]
    fn writers_are_free_until_the_log_is_nearly_full() {
        for used in 0..=88 {
            assert_eq!(pace(LIMIT, LIMIT / 100 * used, 0), f64::INFINITY, "{used} % used");
        }
        assert!(pace(LIMIT, LIMIT / 100 * 89, 0).is_finite());
        // What has been settled lets them go further.
        assert_eq!(pace(LIMIT, LIMIT / 100 * 93, LIMIT / 2), f64::INFINITY);
    }

    #[test]
    fn they_slow_down_without_a_step_and_never_stop_before_it_is_full() {
        let mut before = 8.0;
        for used in LIMIT / 1000 * 890..LIMIT {
            if used % 4096 != 0 {
                continue;
            }
            let now = pace(LIMIT, used, 0);
            assert!(now > 0.0 && (now < before || before == 8.0), "{now} after {before} at {used}");
            assert!(before == 8.0 || before < now * 1.2 || LIMIT - used < 64 << 10, "{now} after {before}");
            before = now;
        }
        // Where it begins they are hardly held back.
        let first = (0..).map(|at| pace(LIMIT, LIMIT / 10 * 8 + at * 4096, 0)).find(|pace| pace.is_finite());
        assert!(first.is_some_and(|pace| pace > 100.0), "{first:?}");
        assert_eq!(pace(LIMIT, LIMIT, 0), 0.0);
        assert_eq!(pace(LIMIT, LIMIT * 2, 0), 0.0);
    }

    /// Writers who take all they get, from any state on: there is room left
    /// when all that the log held has been settled.
    #[test]
    fn the_log_is_not_full_before_it_is_settled() {
        const STEP: u64 = 64 << 10;
        for used_share in [0.89, 0.93, 0.97, 0.99] {
            let mut used = (LIMIT as f64 * used_share) as u64;
            let mut settled = 0;
            // With the last of it nearly all of the log becomes free.
            while settled + 16 * STEP < used {
                settled += STEP;
                let now = pace(LIMIT, used, settled).min(4.0);
                used += (now * STEP as f64) as u64;
                assert!(used < LIMIT, "full with {settled} bytes settled, from {used_share} on");
            }
        }
    }
}
