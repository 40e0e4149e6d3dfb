//! Exit codes: one table, in the help and the man page.

use crate::error::ErrorKind;

pub const TABLE: &str = "\
Exit codes:
  0    done
  1    failed for another reason
  2    wrong usage: a malformed name, size or option
  3    not found: no such volume, snapshot, store or file
  4    exists already
  5    in use by somebody else
  6    permission denied
  7    no space left in the store
  8    damaged data was found
  9    not available now; nothing was changed, trying again may help
  10   the outcome is unknown: it may have been done
  130  interrupted; what was begun is undone, or (scrub) goes on next time

Sizes are bytes, or a number with K, M, G, T or P (powers of 1,024).
Stores are configured in /etc/archipelago/archipelago.toml; see archipelago(1).";

pub const INTERRUPTED: u8 = 130;

pub fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Exists => 4,
        ErrorKind::Busy | ErrorKind::Fenced => 5,
        ErrorKind::Denied => 6,
        ErrorKind::NoSpace => 7,
        ErrorKind::Corrupt => 8,
        ErrorKind::Unavailable => 9,
        ErrorKind::Unknown => 10,
        _ => 1,
    }
}
