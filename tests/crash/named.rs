//! What the explorer has found, each in the fewest acts that show it.

use std::sync::mpsc;
use std::time::Duration;

use super::act::{Act, Setup};
use super::run::explore;
use super::workloads::{Workload, SMALL, TIGHT};
use super::world::options;

/// Long enough for any of these, even on a busy machine.
const HANG: Duration = Duration::from_secs(120);

/// Explores these acts; a hang is a failure too.
fn explored(setup: Setup, acts: Vec<Act>) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let workload = Workload { family: "named", seed: 1, setup, acts, explored_from: 0 };
        drop(sender.send(explore(&workload, &options(0), &|_| false, &|| ()).1));
    });
    match receiver.recv_timeout(HANG) {
        Ok(Ok(())) => {}
        Ok(Err(text)) => panic!("{text}"),
        Err(_) => panic!("no end after {} s", HANG.as_secs()),
    }
}

fn write(at: u64, bytes: u64) -> Act {
    Act::Write { volume: 0, at, bytes }
}

/// A new segment's header counted as durable log, so that a head could name
/// more log than a loss of power leaves.
#[test]
fn a_head_names_no_more_log_than_is_durable() {
    explored(
        SMALL,
        vec![
            write(56832, 512),
            Act::Snapshot { volume: 0 },
            Act::Fua { volume: 0, at: 45056, bytes: 16384 },
            Act::Snapshot { volume: 0 },
            Act::Reopen { volume: 0 },
            Act::Settle { volume: 0 },
        ],
    );
}

/// A segment that was made ahead of need was deleted when the volume was
/// closed, and the next holder made one of the same number.
#[test]
fn the_number_of_a_segment_is_used_once() {
    let reopen = Act::Reopen { volume: 0 };
    let small = write(512, 512);
    let acts = vec![
        write(0, 16384),
        Act::Snapshot { volume: 0 },
        reopen.clone(),
        small.clone(),
        Act::Work { volume: 0 },
        reopen.clone(),
        Act::Rollback { volume: 0, which: 0 },
        reopen.clone(),
        small,
        reopen,
    ];
    explored(SMALL, acts);
}

/// Zeroes over a piece that was logged while its block was settled, in a
/// granule that the own block holds since then: a hole beneath the piece would
/// not show.
#[test]
fn zeroes_over_a_piece_are_not_written_beneath_it() {
    for nth in 0..10 {
        let during = Box::new(Act::Work { volume: 0 });
        explored(
            SMALL,
            vec![
                write(0, 16384),
                Act::Snapshot { volume: 0 },
                Act::Publish { volume: 0 },
                write(0, 4096),
                Act::Visited { nth, turns: false, at: 0, bytes: 4096, zero: false, during },
                Act::Zero { volume: 0, at: 0, bytes: 4096 },
                Act::Read { volume: 0 },
            ],
        );
    }
}

/// A segment whose first batch is damaged passed for one that was never
/// opened, and with it went what a flush had promised.
#[test]
fn a_damaged_first_batch_is_not_an_unopened_segment() {
    let fua = Act::Fua { volume: 0, at: 67584, bytes: 5632 };
    explored(SMALL, vec![write(40960, 4096), Act::Settle { volume: 0 }, fua]);
}

/// A writer that begins a segment between the commit of a head and the trim
/// made the segment that this head names look finished.
#[test]
fn a_segment_that_the_head_names_is_not_trimmed() {
    for nth in 0..16 {
        let during = Box::new(Act::Settle { volume: 0 });
        explored(
            SMALL,
            vec![
                write(0, 32768),
                write(36864, 4096),
                Act::Flush { volume: 0 },
                Act::Resize { volume: 0, bytes: 89910 },
                Act::Zero { volume: 0, at: 187, bytes: 16384 },
                Act::Zero { volume: 0, at: 0, bytes: 32768 },
                Act::Work { volume: 0 },
                Act::Visited { nth, turns: false, at: 44544, bytes: 512, zero: false, during },
            ],
        );
    }
}

/// A log with less room than the next write needs, but with some, was neither
/// full nor roomy: the writer asked for room for ever.
#[test]
fn a_log_that_is_nearly_full_makes_room() {
    let mut acts = vec![write(0, 65536), Act::Snapshot { volume: 0 }, Act::Publish { volume: 0 }];
    for nth in 0..48 {
        acts.push(write(nth % 4 * 16384 + nth * 512 % 5000, 11025));
    }
    explored(TIGHT, acts);
}

/// A segment whose trim a reader had held up was collected by gc, and the next
/// trim failed because it was gone.
#[test]
fn gc_may_be_faster_than_a_trim() {
    let during = Box::new(Act::Settle { volume: 0 });
    explored(
        SMALL,
        vec![
            write(0, 32768),
            Act::Snapshot { volume: 0 },
            write(4096, 20480),
            Act::Held { volume: 0, at: 0, bytes: 16384, during },
            Act::Gc,
            Act::Settle { volume: 0 },
        ],
    );
}
