//! A data path as `dir` has one: a few threads that serve requests and tell
//! their outcome, on the library's own `Handoff`.

use std::sync::Arc;

use archipelago::backend::{Backend, DataPath, Done, Job, Then};
use archipelago::name::ObjectName;
use archipelago::sync::{JoinHandle, Mutex};
use archipelago::sys::iobuf::IoBuf;
use archipelago::thread::{self, Handoff};
use archipelago::{Error, ErrorKind, Result};
use shuttle::rand::Rng;

enum Work {
    Read(ObjectName, u64, IoBuf, Done),
    Write(ObjectName, u64, IoBuf, Done),
    Job(Job),
}

#[derive(Debug)]
pub struct Ring {
    backend: Arc<dyn Backend>,
    alignment_bytes: usize,
    work: Arc<Handoff<Work>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

fn read(backend: &dyn Backend, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Result<()> {
    let mut data = vec![0; buf.len()];
    if backend.read_at(name, offset_bytes, &mut data)? < data.len() {
        return Err(Error::new(ErrorKind::Corrupt, "read").on(name));
    }
    buf.copy_from(0, &data);
    Ok(())
}

fn work_on(backend: &dyn Backend, work: Work) -> Then {
    match work {
        Work::Read(name, offset_bytes, buf, done) => {
            let result = read(backend, &name, offset_bytes, &buf);
            Box::new(move || done(result))
        }
        Work::Write(name, offset_bytes, buf, done) => {
            let mut data = vec![0; buf.len()];
            buf.copy_to(0, &mut data);
            let result = backend.write_at(&name, offset_bytes, &data);
            Box::new(move || done(result))
        }
        Work::Job(job) => job(),
    }
}

impl Ring {
    pub fn start(backend: Arc<dyn Backend>, alignment_bytes: usize, threads: usize) -> Arc<Ring> {
        let work = Arc::new(Handoff::default());
        let ring = Ring { backend, alignment_bytes, work, threads: Mutex::default() };
        for _ in 0..threads {
            let (backend, work) = (Arc::clone(&ring.backend), Arc::clone(&ring.work));
            let serve = move || work.serve(|work| work_on(&*backend, work), |then: Then| then());
            ring.threads.lock().push(thread::spawn("ring", serve).unwrap());
        }
        Arc::new(ring)
    }

    pub fn stop(&self) {
        self.work.close();
        for thread in self.threads.lock().drain(..) {
            thread.join().unwrap();
        }
    }

    fn send(&self, work: Work) {
        assert!(self.work.send(work).is_ok(), "a request after the end");
    }
}

impl DataPath for Ring {
    fn alignment_bytes(&self) -> usize {
        self.alignment_bytes
    }

    fn submit_read(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        self.send(Work::Read(name.clone(), offset_bytes, buf, done));
    }

    fn submit_write(&self, name: &ObjectName, offset_bytes: u64, buf: IoBuf, done: Done) {
        self.send(Work::Write(name.clone(), offset_bytes, buf, done));
    }

    /// Now and then it is in the page cache.
    fn try_read(&self, name: &ObjectName, offset_bytes: u64, buf: &IoBuf) -> Option<Result<()>> {
        shuttle::rand::thread_rng().gen_bool(0.5).then(|| read(&*self.backend, name, offset_bytes, buf))
    }

    fn run_awake(&self, job: Job) -> std::result::Result<(), Job> {
        self.work.send_awake(Work::Job(job)).map_err(|work| match work {
            Work::Job(job) => job,
            _ => unreachable!("only a job was sent"),
        })
    }
}
