//! Bricks of GlusterFS that die, hang and come back, while a volume is written
//! and read back: what was told must be there, whichever bricks are asked when
//! they have healed.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use archipelago::backend::gluster::{Gluster, GlusterOptions};
use archipelago::backend::Backend;

use super::beside::{in_a_process, is_there_again, listen, told, Away, Control};
use super::gluster::{alone, block, folder, fresh, make, open};
use super::load::{as_outcomes, none_failed, nothing, wait, Machine, THREADS};
use super::network::{Network, ALONE};
use super::rados_faults::Cluster;

fn machine(options: GlusterOptions) -> Machine {
    Machine::new(make(&options), move || open(&options) as Arc<dyn Backend>)
}

/// The bricks, all of which run and are whole again when this goes.
struct Bricks(String);

impl Bricks {
    fn found() -> Option<Bricks> {
        let folder = std::env::var("ARCHIPELAGO_TEST_GLUSTER_DIR").ok();
        if folder.is_none() {
            eprintln!("passed over: ARCHIPELAGO_TEST_GLUSTER_DIR names no server's folder");
        }
        folder.map(Bricks)
    }

    fn told(&self, words: &[&str]) -> bool {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/gluster");
        let status = Command::new(script).args(["--dir", &self.0]).args(words).status();
        status.is_ok_and(|status| status.success())
    }

    fn tell(&self, verb: &str, brick: &str) {
        assert!(self.told(&[&format!("{verb}-brick"), brick]), "cannot {verb} {brick}");
    }

    fn heal(&self) {
        assert!(self.told(&["wait-healed"]), "the bricks do not heal");
    }
}

impl Drop for Bricks {
    fn drop(&mut self) {
        for brick in ["0", "1", "2"] {
            let _one_of_these = self.told(&["resume-brick", brick]) || self.told(&["revive-brick", brick]);
        }
    }
}

/// Then another one, and what was written meanwhile is read without the first
/// two: it has come to them when they came back.
#[test]
fn a_brick_dies_and_comes_back_and_nobody_notices() {
    let Some(options) = fresh() else { return };
    let _alone = alone();
    let Some(bricks) = Bricks::found() else { return };
    let machine = machine(options);
    let mut known = nothing();
    for brick in ["1", "0"] {
        let all = machine.during(known, || {
            wait(2);
            bricks.tell("kill", brick);
            wait(3);
            bricks.tell("revive", brick);
            wait(2);
        });
        none_failed(&all);
        bricks.heal();
        known = machine.check(&all);
    }
    bricks.tell("kill", "2");
    let all = as_outcomes(known);
    machine.check(&all);
    machine.device.close().unwrap();
    let again = Machine::again(&machine.opener);
    again.check(&all);
    again.device.close().unwrap();
    bricks.tell("revive", "2");
    bricks.heal();
}

const FILES: u64 = 30;
const FILE: u64 = 64 << 10;

fn fill(store: &Gluster, offset_bytes: u64, byte: u8) {
    for index in 0..FILES {
        store.write_at(&block(index), offset_bytes, &[byte; 4096]).unwrap();
    }
}

/// How many reads of what each file begins with show something else, while a
/// brick comes back and others write with `write` all the time.
fn read_wrongly(
    bricks: &Bricks,
    brick: &str,
    store: &Gluster,
    byte: u8,
    write: &[&(dyn Fn() + Sync)],
) -> usize {
    let stop = AtomicBool::new(false);
    let is_over = || stop.load(Ordering::Relaxed);
    let is_wrong = |index: &u64| {
        let mut data = [0; 4096];
        assert_eq!(store.read_at(&block(*index), 0, &mut data).unwrap(), data.len());
        data != [byte; 4096]
    };
    std::thread::scope(|scope| {
        for write in write {
            scope.spawn(|| {
                while !is_over() {
                    write();
                }
            });
        }
        let reader = scope.spawn(|| {
            let (mut rounds, mut wrong) = (0, 0);
            while !is_over() {
                wrong += (0..FILES).filter(is_wrong).count();
                rounds += 1;
            }
            assert!(rounds > 5, "nothing was read");
            wrong
        });
        wait(1);
        let is_back = bricks.told(&["revive-brick", brick]);
        wait(3);
        stop.store(true, Ordering::Relaxed);
        assert!(is_back, "cannot revive {brick}");
        reader.join().unwrap()
    })
}

/// Each file is written while the brick is away, and again and again elsewhere
/// until it is back, at last without a pause: that must not keep it from being
/// known that the brick lacks the first write.
#[test]
fn a_brick_that_comes_back_is_known_to_lack_what_was_written_last() {
    let Some(options) = fresh() else { return };
    let _alone = alone();
    let Some(bricks) = Bricks::found() else { return };
    let store = make(&options);
    (0..FILES).for_each(|index| store.create_sparse(&block(index), FILE).unwrap());
    fill(&store, 0, 1);
    store.sync(&(0..FILES).map(block).collect::<Vec<_>>()).unwrap();
    let now_and_then = || {
        fill(&store, 4096, 7);
        std::thread::sleep(Duration::from_millis(200));
    };
    let of_one = |offset_bytes| store.write_at(&block(0), offset_bytes, &[7; 4096]).unwrap();
    let loads: [&[&(dyn Fn() + Sync)]; 2] =
        [&[&now_and_then], &[&|| of_one(8192), &|| of_one(16384), &|| of_one(32768)]];
    let mut byte = 1;
    for load in loads {
        for brick in ["0", "1", "2"] {
            byte += 1;
            bricks.tell("kill", brick);
            fill(&store, 0, byte);
            let wrong = read_wrongly(&bricks, brick, &store, byte, load);
            assert_eq!(wrong, 0, "reads showed what was there before brick {brick} died");
            bricks.heal();
        }
    }
}

/// One of three that dies nobody waits for. One that hangs is given up after 5 s
/// (`network.ping-timeout`), and who waits for it goes on. A volume on a disk of
/// the same process notices neither.
#[test]
fn a_brick_that_dies_or_hangs_holds_nobody_up_for_long() {
    if fresh().is_some() {
        let _alone = alone();
        in_a_process(&[], "gluster_faults::in_a_process_of_its_own");
    }
}

#[test]
#[ignore = "a part of other tests"]
fn in_a_process_of_its_own() {
    let Some(bricks) = Bricks::found() else { return };
    listen();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let machine = machine(fresh().unwrap());
    let (control, mut known) =
        Control::run(&[&machine], vec![nothing()], &folder.path().join("control"), 5);
    for away in [
        Away {
            name: "killed",
            seconds: 4,
            after_s: 4,
            longest_s: 0..3,
            goes: &|| bricks.tell("kill", "1"),
            returns: &|| bricks.tell("revive", "1"),
        },
        Away {
            name: "hung",
            seconds: 14,
            after_s: 4,
            longest_s: 3..15,
            goes: &|| bricks.tell("pause", "0"),
            returns: &|| bricks.tell("resume", "0"),
        },
    ] {
        known = away.comes_back(&[&machine], known, &folder.path().join(away.name), control);
        bricks.heal();
    }
    let told = told();
    let is_clear = |line: &String| line.starts_with("volume 'v': store 'test' was slow or away");
    assert!(told.iter().any(is_clear), "{told:?}");
    is_there_again(&machine, known.remove(0));
}

/// No brick is heard of for less than `network.ping-timeout`: all is waited for.
#[test]
fn a_network_that_is_cut_costs_time_alone() {
    if fresh().is_some() {
        in_a_process(&ALONE, "gluster_faults::on_a_host_of_its_own");
    }
}

#[test]
#[ignore = "a part of other tests"]
fn on_a_host_of_its_own() {
    listen();
    let network = Network::new();
    let servers = Cluster::start_by(&network.before(), "gluster", &["--ping-timeout", "20"]);
    servers.is_meant();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let machine = machine(fresh().unwrap());
    let (control, known) = Control::run(&[&machine], vec![nothing()], &folder.path().join("control"), 5);
    let cut = Away {
        name: "cut",
        seconds: 10,
        after_s: 5,
        longest_s: 9..20,
        goes: &|| network.cut(),
        returns: &|| network.mend(),
    };
    let known = cut.comes_back(&[&machine], known, &folder.path().join("cut"), control).remove(0);
    servers.tell(&["wait-healed"]);
    let told = told();
    let is_clear = |line: &String| line.starts_with("volume 'v': store 'test' was slow or away");
    assert!(told.iter().any(is_clear), "{told:?}");
    is_there_again(&machine, known);
}

/// Without two of three nothing is written: requests fail in words, and the
/// volume stops rather than go on with what it has lost. When they are back it
/// opens again, with all that was flushed.
#[test]
fn without_two_bricks_nothing_is_told_that_is_not_so() {
    let Some(options) = fresh() else { return };
    let _alone = alone();
    let Some(bricks) = Bricks::found() else { return };
    for direct in [false, true] {
        let machine = machine(GlusterOptions { direct, folder: folder(), ..options.clone() });
        let all = machine.during(nothing(), || {
            wait(2);
            bricks.tell("kill", "0");
            wait(1);
            bricks.tell("kill", "1");
            wait(6);
        });
        let failures: Vec<&String> = all.iter().flat_map(|outcome| &outcome.failures).collect();
        assert!(failures.len() >= THREADS as usize, "they went on without two bricks");
        assert!(failures.iter().all(|said| said.contains("cannot ")), "{failures:?}");
        bricks.tell("revive", "0");
        bricks.tell("revive", "1");
        let closed = machine.device.close().unwrap_err();
        // The latter if the threads ended with writes and nobody has synced since.
        let words = ["has stopped after an earlier failure", "cannot sync"];
        assert!(words.iter().any(|words| closed.full().contains(words)), "{}", closed.full());
        let opener = Arc::clone(&machine.opener);
        drop(machine);
        bricks.heal();
        let again = Machine::again(&opener);
        let known = again.check(&all);
        let all = again.during(known, || wait(2));
        none_failed(&all);
        again.check(&all);
        again.device.close().unwrap();
    }
}
