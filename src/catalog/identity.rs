//! Who a process is, in words that other processes can check: whether the
//! holder of a lease still lives is decided by this and never by clocks.

use std::path::Path;

use rustix::process::{test_kill_process, Pid};

use crate::clock;

/// A process, told apart from any other that ever had its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub host: String,
    /// Random, new with each start of the kernel.
    pub boot_id: String,
    pub pid: u32,
    /// Inode of the pid namespace: a pid means something only inside it.
    pub pid_namespace: u64,
    /// When the process started, in ticks since boot.
    pub start_ticks: u64,
    /// Name of the program, for people.
    pub program: String,
}

/// What is known about another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// Certainly gone: it will never write again.
    Dead,
    /// On another host, in another container, or not visible.
    Unknown,
}

impl Identity {
    /// This process. What cannot be found out is left empty, and empty never
    /// matches anything.
    pub fn of_this_process() -> Identity {
        #[cfg(all(feature = "testkit", not(feature = "model")))]
        if let Some(machine) = clock::simulated::machine() {
            return Identity::of(machine.process());
        }
        let pid = std::process::id();
        Identity {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
            pid,
            pid_namespace: pid_namespace(),
            start_ticks: start_ticks(pid).unwrap_or(0),
            program: program(),
        }
    }

    #[cfg(all(feature = "testkit", not(feature = "model")))]
    fn of(process: clock::simulated::Process) -> Identity {
        let clock::simulated::Process { host, boot_id, pid, pid_namespace, start_ticks } = process;
        Identity { host, boot_id, pid, pid_namespace, start_ticks, program: "simulated".to_owned() }
    }

    /// What `self` can tell about `other`. "Dead" means: same boot, same pid
    /// namespace, and no process with that start time.
    pub fn judge(&self, other: &Identity) -> Life {
        if self.boot_id.is_empty() || other.boot_id.is_empty() {
            return Life::Unknown;
        }
        if self.boot_id != other.boot_id {
            return Life::Unknown;
        }
        if self.pid_namespace == 0 || self.pid_namespace != other.pid_namespace {
            return Life::Unknown;
        }
        let Some(pid) = i32::try_from(other.pid).ok().and_then(Pid::from_raw) else {
            return Life::Unknown;
        };
        #[cfg(all(feature = "testkit", not(feature = "model")))]
        if let Some(machine) = clock::simulated::machine() {
            let alive = machine.is_running(other.pid, other.start_ticks);
            return if alive { Life::Alive } else { Life::Dead };
        }
        // Asked of the kernel and not of /proc, which may hide processes.
        match test_kill_process(pid) {
            Err(rustix::io::Errno::SRCH) => return Life::Dead,
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(_) => return Life::Unknown,
        }
        match start_ticks(other.pid) {
            Some(ticks) if other.start_ticks == 0 || ticks == other.start_ticks => Life::Alive,
            Some(_) => Life::Dead,
            None => Life::Unknown,
        }
    }

    /// It has ended, or does just now: one that nobody has waited for yet, or
    /// of which a thread waits for the disk, cannot be told from it.
    pub fn sees_the_end_of(&self, other: &Identity) -> bool {
        match self.judge(other) {
            Life::Dead => true,
            Life::Alive => stat_field(other.pid, 0).is_some_and(|state| state == "Z" || state == "X"),
            Life::Unknown => false,
        }
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Field 22 of `/proc/PID/stat`.
fn start_ticks(pid: u32) -> Option<u64> {
    stat_field(pid, 19)?.parse().ok()
}

fn stat_field(pid: u32, number: usize) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat), number)
}

/// The second field is the program's name in parentheses and may contain
/// anything, so counting begins after the last.
fn parse_stat(stat: &str, number: usize) -> Option<String> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number).map(str::to_owned)
}

fn program() -> String {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let name = path.file_name().unwrap_or_else(|| Path::new("").as_os_str());
    match name.to_string_lossy().into_owned() {
        name if name.is_empty() => first_line("/proc/self/comm"),
        name => name,
    }
}

/// "2026-11-22 10:11:12 UTC".
pub fn utc_text(seconds: u64) -> String {
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Civil date from a day count, in years that begin in March.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Seconds since 1970, for people.
pub fn wall_s() -> u64 {
    clock::wall().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    // A holder that is wrongly taken for dead costs data; one that is wrongly
    // taken for alive costs a restart. Each test moves one part of an identity.

    #[test]
    fn this_process_is_alive_and_its_parts_are_known() {
        let me = Identity::of_this_process();
        assert!(!me.boot_id.is_empty() && me.pid_namespace != 0 && me.start_ticks != 0);
        assert_eq!(me.judge(&me), Life::Alive);
        assert_eq!(me.boot_id, std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
        let program = std::env::current_exe().unwrap();
        assert_eq!(Some(me.program.as_ref()), program.file_name());
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = Identity::of_this_process();
        let before = Identity { start_ticks: me.start_ticks - 1, ..me.clone() };
        assert_eq!(me.judge(&before), Life::Dead);
    }

    #[test]
    fn a_process_that_ended_is_dead() {
        let me = Identity::of_this_process();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Identity { pid: child.id(), start_ticks: 1, ..me.clone() };
        child.wait().unwrap();
        assert_eq!(me.judge(&gone), Life::Dead);
    }

    #[test]
    fn the_end_of_a_process_is_seen_before_anybody_has_waited_for_it() {
        let me = Identity::of_this_process();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let ticks = start_ticks(child.id()).unwrap();
        assert!(ticks >= me.start_ticks && me.start_ticks > 1, "{ticks} {}", me.start_ticks);
        let other = Identity { pid: child.id(), start_ticks: ticks, ..me.clone() };
        assert!(!me.sees_the_end_of(&other) && !me.sees_the_end_of(&me));
        child.kill().unwrap();
        while !me.sees_the_end_of(&other) {
            assert_eq!(me.judge(&other), Life::Alive, "nobody has waited for it");
            clock::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(me.sees_the_end_of(&other));
        assert!(!me.sees_the_end_of(&Identity { boot_id: "x".into(), ..other }), "another host's");
    }

    #[test]
    fn another_boot_or_container_is_unknown() {
        let me = Identity::of_this_process();
        let gone = Identity { pid: i32::MAX as u32, ..me.clone() };
        assert_eq!(me.judge(&gone), Life::Dead);
        assert_eq!(me.judge(&Identity { boot_id: "x".into(), ..gone.clone() }), Life::Unknown);
        assert_eq!(me.judge(&Identity { boot_id: String::new(), ..gone.clone() }), Life::Unknown);
        assert_eq!(me.judge(&Identity { pid_namespace: 1, ..gone.clone() }), Life::Unknown);
        assert_eq!(me.judge(&Identity { pid: 0, ..gone }), Life::Unknown);
    }

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse_stat(stat, 19).as_deref(), Some("4711"));
        assert_eq!(parse_stat(stat, 0).as_deref(), Some("S"));
        assert_eq!(parse_stat("7 (x", 19), None);
        assert_eq!(parse_stat("", 0), None);
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(utc_text(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc_text(951_826_271), "2000-02-29 12:11:11 UTC");
        assert_eq!(utc_text(1_795_342_272), "2026-11-22 10:11:12 UTC");
        // Where a century has a leap day and where it has none.
        assert_eq!(utc_text(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(utc_text(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc_text(4_233_712_089), "2104-02-29 07:08:09 UTC");
        assert_eq!(utc_text(7_258_035_723), "2199-12-31 01:02:03 UTC");
        assert_eq!(utc_text(13_574_606_400), "2400-02-29 12:00:00 UTC");
        assert_eq!(utc_text(13_574_649_600), "2400-03-01 00:00:00 UTC");
    }
}
