//! A few threads that do jobs of one kind for one sender, who waits for all of
//! them in the end. After the first that fails the rest is not done.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use super::{join, spawn, Handoff};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, JoinHandle, Mutex};

#[derive(Debug, Default)]
struct Progress {
    in_flight: usize,
    failed: Option<Error>,
}

#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    done: Condvar,
}

/// Threads at work. Dropping it waits for them.
#[derive(Debug)]
pub struct Crew<T> {
    /// What a job does, for errors.
    does: &'static str,
    in_flight_max: usize,
    shared: Arc<Shared>,
    jobs: Arc<Handoff<T>>,
    threads: Vec<JoinHandle<()>>,
}

impl<T> Crew<T> {
    /// `name`: of the threads. `in_flight_max`: jobs that may wait for a thread
    /// or be with one.
    pub fn start<F>(
        name: &str,
        does: &'static str,
        threads: usize,
        in_flight_max: usize,
        work: F,
    ) -> Result<Crew<T>>
    where
        T: Send + 'static,
        F: Fn(T) -> Result<()> + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared::default());
        let jobs = Arc::new(Handoff::default());
        let mut crew = Crew { does, in_flight_max, shared, jobs, threads: Vec::new() };
        let work = Arc::new(work);
        for _ in 0..threads.max(1) {
            let (shared, jobs, work) = (Arc::clone(&crew.shared), Arc::clone(&crew.jobs), Arc::clone(&work));
            crew.threads.push(spawn(name, move || {
                jobs.serve(|job: T| shared.run(does, || work(job)), |()| {});
            })?);
        }
        Ok(crew)
    }

    /// Hands over a job, and waits if there are too many. Error: that of the
    /// first job that failed since the last `wait`.
    pub fn send(&self, job: T) -> Result<()> {
        {
            let mut progress = self.shared.progress.lock();
            while progress.in_flight >= self.in_flight_max {
                self.shared.done.wait(&mut progress);
            }
            if let Some(error) = &progress.failed {
                return Err(error.duplicate());
            }
            progress.in_flight += 1;
        }
        if self.jobs.send(job).is_err() {
            self.shared.progress.lock().in_flight -= 1;
            return Err(Error::new(ErrorKind::Internal, self.does));
        }
        Ok(())
    }

    /// Waits for that long at most; true if nothing is under way.
    pub fn is_idle_within(&self, time: Duration) -> bool {
        let mut progress = self.shared.progress.lock();
        if progress.in_flight > 0 {
            self.shared.done.wait_for(&mut progress, time);
        }
        progress.in_flight == 0
    }

    /// Waits until nothing is under way. Error: that of the first job that
    /// failed; the next ones are done again.
    pub fn wait(&self) -> Result<()> {
        let mut progress = self.shared.progress.lock();
        while progress.in_flight > 0 {
            self.shared.done.wait(&mut progress);
        }
        progress.failed.take().map_or(Ok(()), Err)
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        self.jobs.close();
        for thread in self.threads.drain(..) {
            if !join(thread) {
                log::warn!("a thread that was to {} had ended with a panic", self.does);
            }
        }
    }
}

impl Shared {
    fn run(&self, does: &'static str, work: impl FnOnce() -> Result<()>) {
        let goes_on = self.progress.lock().failed.is_none();
        // A fault in what one thread does is an error: nobody waits for ever.
        let result = match goes_on {
            true => catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, does))),
            false => Ok(()),
        };
        let mut progress = self.progress.lock();
        if let Err(error) = result {
            progress.failed.get_or_insert(error);
        }
        progress.in_flight -= 1;
        drop(progress);
        self.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What can go wrong: a job that fails or panics is taken for done, or is
    /// waited for for ever; or the crew does nothing more after it.
    #[test]
    fn what_fails_is_told_once_and_the_crew_goes_on() {
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        let work = move |job: u64| match job {
            1 => Err(Error::new(ErrorKind::NoSpace, "work")),
            2 => panic!("a planted fault"),
            _ => {
                counted.fetch_add(job, Ordering::SeqCst);
                Ok(())
            }
        };
        let crew = Crew::start("test-crew", "work", 3, 4, work).unwrap();
        for (bad, kind) in [(1, ErrorKind::NoSpace), (2, ErrorKind::Internal)] {
            done.store(0, Ordering::SeqCst);
            (0..100).for_each(|_| crew.send(10).unwrap());
            crew.wait().unwrap();
            assert_eq!(done.load(Ordering::SeqCst), 1000);
            crew.send(bad).unwrap();
            while crew.send(10).is_ok() {}
            assert!(crew.wait().unwrap_err().is(kind));
            crew.wait().unwrap();
        }
    }
}
