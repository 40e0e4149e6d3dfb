//! Long jobs of a volume that its holder is asked for over the socket: started
//! by name, told about by `status`, told to end by a word.
//!
//! What a job does is a `Kind` in the table that the process is given; each
//! runs on a thread of its own, and has come to its end before the volume is
//! handed over or closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::words::{shortened, Job, JobState};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Device;
use crate::sync::{JoinHandle, Mutex};
use crate::thread;

/// Jobs of one volume at a time.
const RUNNING_MAX: usize = 4;
/// Ended ones that `status` still tells of.
const ENDED_MAX: usize = 8;
/// Words that a job has not looked at yet.
const WORDS_MAX: usize = 16;

pub type Arguments = BTreeMap<String, String>;

/// The work of one job. What it returns is told as its end.
pub type Work = Box<dyn FnOnce(&Progress) -> Result<String> + Send>;

/// Something long that the holder of a volume can be asked for.
pub trait Kind: Send + Sync {
    /// What it is asked for by, such as "move".
    fn name(&self) -> &'static str;

    /// Looks at what is wanted, and refuses what can be seen to be impossible.
    /// The work runs later, on a thread of its own. It gives up soon after
    /// `Progress::is_cancelled`, and drops the device when it ends.
    fn prepare(&self, device: &Arc<Device>, arguments: &Arguments) -> Result<Work>;
}

/// The kinds that a process knows.
pub type Kinds = Vec<Arc<dyn Kind>>;

/// What a job and those who ask about it share.
#[derive(Debug)]
pub struct Progress {
    state: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    told: Job,
    is_cancelled: bool,
    words: VecDeque<String>,
}

impl Progress {
    fn new(number: u64, kind: &str) -> Progress {
        let (kind, phase) = (kind.to_owned(), "begins".to_owned());
        let told = Job { number, kind, state: JobState::Running, phase, done: 0, total: 0 };
        Progress { state: Mutex::new(Running { told, is_cancelled: false, words: VecDeque::new() }) }
    }

    /// What is done now, for people.
    pub fn say(&self, phase: &str) {
        self.state.lock().told.phase = shortened(phase.to_owned());
    }

    pub fn set(&self, done: u64, total: u64) {
        let mut state = self.state.lock();
        (state.told.done, state.told.total) = (done, total);
    }

    /// Somebody wants it to end, or the volume is handed over or closed.
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().is_cancelled
    }

    /// The next word that somebody said to it, "cancel" aside.
    pub fn next_word(&self) -> Option<String> {
        self.state.lock().words.pop_front()
    }

    fn cancel(&self) {
        self.state.lock().is_cancelled = true;
    }

    fn told(&self) -> Job {
        self.state.lock().told.clone()
    }

    fn end(&self, result: Result<String>) {
        let mut state = self.state.lock();
        let (ended, phase) = match result {
            Ok(words) => (JobState::Done, words),
            Err(error) => (JobState::Failed, error.full()),
        };
        state.told.state = ended;
        state.told.phase = shortened(phase);
    }

    fn is_running(&self) -> bool {
        self.state.lock().told.state == JobState::Running
    }
}

/// The jobs of one volume.
#[derive(Debug, Default)]
pub struct Jobs {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    last_number: u64,
    jobs: Vec<(Arc<Progress>, Option<JoinHandle<()>>)>,
}

impl Jobs {
    /// Starts a job; its number. Errors: `Invalid` if nobody knows the kind;
    /// `Busy` if one of it, or too many, run already; those of `prepare`.
    pub fn start(
        &self,
        kinds: &Kinds,
        kind: &str,
        device: &Arc<Device>,
        arguments: &Arguments,
    ) -> Result<u64> {
        let found = kinds.iter().find(|known| known.name() == kind).ok_or_else(|| unknown(kinds, kind))?;
        let mut list = self.list.lock();
        let running = list.jobs.iter().filter(|(progress, _)| progress.is_running());
        let running: Vec<Job> = running.map(|(progress, _)| progress.told()).collect();
        if let Some(job) = running.iter().find(|job| job.kind == kind) {
            return Err(busy(format!("job {} ({kind}) of this volume is running already", job.number)));
        }
        if running.len() >= RUNNING_MAX {
            return Err(busy(format!("{} jobs of this volume are running already", running.len())));
        }
        let work = found.prepare(device, arguments)?;
        list.last_number += 1;
        let number = list.last_number;
        let progress = Arc::new(Progress::new(number, kind));
        let own = Arc::clone(&progress);
        let thread = thread::spawn("arch-job", move || {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&own)));
            own.end(ended.unwrap_or_else(|_| {
                Err(Error::sentence(ErrorKind::Internal, "a fault in libarchipelago: see standard error"))
            }));
        })?;
        list.jobs.push((progress, Some(thread)));
        list.forget_old();
        Ok(number)
    }

    /// Says a word to a job. Errors: `NotFound`; `Busy` if it looks at none.
    pub fn tell(&self, number: u64, word: &str) -> Result<()> {
        let list = self.list.lock();
        let found = list.jobs.iter().find(|(progress, _)| progress.told().number == number);
        let Some((progress, _)) = found.filter(|(progress, _)| progress.is_running()) else {
            let words = format!("there is no job {number} that runs: look with archipelago status");
            return Err(Error::sentence(ErrorKind::NotFound, words));
        };
        if word == "cancel" {
            progress.cancel();
            return Ok(());
        }
        let mut state = progress.state.lock();
        if state.words.len() >= WORDS_MAX {
            return Err(busy(format!("job {number} has {WORDS_MAX} words to look at already")));
        }
        state.words.push_back(word.to_owned());
        Ok(())
    }

    pub fn told(&self) -> Vec<Job> {
        self.list.lock().jobs.iter().map(|(progress, _)| progress.told()).collect()
    }

    /// Has every job end, and waits for that.
    pub fn end_all(&self) {
        let threads: Vec<JoinHandle<()>> = {
            let mut list = self.list.lock();
            list.jobs.iter().for_each(|(progress, _)| progress.cancel());
            list.jobs.iter_mut().filter_map(|(_, thread)| thread.take()).collect()
        };
        for thread in threads {
            thread::join(thread);
        }
    }
}

impl List {
    fn forget_old(&mut self) {
        let ended = self.jobs.iter().filter(|(progress, _)| !progress.is_running()).count();
        for _ in ENDED_MAX..ended {
            let Some(oldest) = self.jobs.iter().position(|(progress, _)| !progress.is_running()) else {
                return;
            };
            // It is about to leave its thread, if it has not yet.
            if let Some(thread) = self.jobs.remove(oldest).1 {
                thread::join(thread);
            }
        }
    }
}

fn busy(words: String) -> Error {
    Error::sentence(ErrorKind::Busy, words)
}

fn unknown(kinds: &Kinds, kind: &str) -> Error {
    let known: Vec<&str> = kinds.iter().map(|known| known.name()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let kind = shortened(kind.escape_debug().to_string());
    Error::sentence(ErrorKind::Invalid, format!("there is no job '{kind}' here; there are: {known}"))
}
