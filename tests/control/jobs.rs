//! Long jobs: one that counts, as a job of the library would work.

use super::*;

/// What of it is under way: being prepared, or at work.
#[derive(Default)]
struct Counting(Arc<AtomicU64>);

struct UnderWay(Arc<AtomicU64>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Kind for Counting {
    fn name(&self) -> &'static str {
        "count"
    }

    fn prepare(&self, device: &Arc<Device>, arguments: &Arguments) -> archipelago::Result<Work> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let under_way = UnderWay(Arc::clone(&self.0));
        if arguments.contains_key("slowly") {
            std::thread::sleep(Duration::from_millis(500));
        }
        let wanted = arguments.get("to").and_then(|to| to.parse::<u64>().ok());
        let Some(total) = wanted else {
            return Err(archipelago::Error::sentence(ErrorKind::Invalid, "count to what?"));
        };
        let device = Arc::clone(device);
        Ok(Box::new(move |progress: &Progress| {
            let _under_way = under_way;
            progress.say("counts");
            let mut done = 0;
            while done < total {
                if progress.is_cancelled() {
                    return Err(archipelago::Error::sentence(ErrorKind::Busy, "called back"));
                }
                match progress.next_word().as_deref() {
                    Some("jump") => done = total - 1,
                    Some("fall") => panic!("planted"),
                    _ => {}
                }
                done += 1;
                progress.set(done, total);
                // Whether the volume is there is not its business here.
                drop(submit(&device, 0, Operation::Write { buf: IoBuf::alloc(512), fua: false }));
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(format!("has counted to {done}"))
        }))
    }
}

fn arguments(to: &str) -> Arguments {
    Arguments::from([("to".to_owned(), to.to_owned())])
}

fn wait_for(holder: &mut Connection, job: u64, state: JobState) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let found = holder.status().unwrap().jobs.into_iter().find(|told| told.number == job).unwrap();
        if found.state == state {
            return found.phase;
        }
        assert!(Instant::now() < until, "job {job} is {:?}: {}", found.state, found.phase);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_job_is_started_watched_told_and_called_back() {
    let lab = Lab::new();
    let held = lab.hold_as(Some(lab.server(vec![Arc::new(Counting::default())])), |_| {});
    let mut holder = lab.connect().unwrap().unwrap();
    let refused = |result: archipelago::Result<u64>, words: &str| {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(holder.start("fly", Arguments::new()), "there is no job 'fly' here; there are: count");
    refused(holder.start("count", Arguments::new()), "count to what?");
    let first = holder.start("count", arguments("1000000")).unwrap();
    refused(holder.start("count", arguments("1")), "is running already");
    let text = lab.ok(&["status", "v"]);
    assert!(text.contains("count runs, 0 %: counts"), "{text}");
    holder.order(What::Tell { job: first, word: "jump".into() }).unwrap();
    assert_eq!(wait_for(&mut holder, first, JobState::Done), "has counted to 1000000");
    let error = holder.order(What::Tell { job: first, word: "cancel".into() }).unwrap_err();
    assert!(error.is(ErrorKind::NotFound), "{error}");
    let second = holder.start("count", arguments("1000000")).unwrap();
    holder.order(What::Tell { job: second, word: "cancel".into() }).unwrap();
    assert_eq!(wait_for(&mut holder, second, JobState::Failed), "called back");
    let third = holder.start("count", arguments("1000000")).unwrap();
    holder.order(What::Tell { job: third, word: "fall".into() }).unwrap();
    assert!(wait_for(&mut holder, third, JobState::Failed).contains("a fault"));
    held.close().unwrap();
}

/// A job that went on would write to a volume that another process has.
#[test]
fn jobs_have_ended_before_a_volume_is_handed_over_or_closed() {
    let lab = Lab::new();
    let counting = Counting::default();
    let under_way = Arc::clone(&counting.0);
    let held = lab.hold_as(Some(lab.server(vec![Arc::new(counting)])), |_| {});
    let mut holder = lab.connect().unwrap().unwrap();
    let job = holder.start("count", arguments("1000000")).unwrap();
    held.inactivate().unwrap();
    assert_eq!(under_way.load(Ordering::SeqCst), 0, "it goes on");
    held.activate().unwrap();
    let mut holder = lab.connect().unwrap().unwrap();
    assert_eq!(wait_for(&mut holder, job, JobState::Failed), "called back");
    for _ in 0..12 {
        let job = holder.start("count", arguments("1")).unwrap();
        wait_for(&mut holder, job, JobState::Done);
    }
    assert_eq!(holder.status().unwrap().jobs.len(), 9, "the oldest are forgotten");
    holder.start("count", arguments("1000000")).unwrap();
    held.close().unwrap();
    assert_eq!(under_way.load(Ordering::SeqCst), 0, "it goes on");
    lab.ok(&["check"]);
}

/// The same of a request that is just being carried out: it is answered.
#[test]
fn closing_waits_for_what_is_being_done() {
    let lab = Lab::new();
    let counting = Counting::default();
    let under_way = Arc::clone(&counting.0);
    // Another volume of the process has the socket too, which stays.
    let server = lab.server(vec![Arc::new(counting)]);
    let held = lab.hold_as(Some(Arc::clone(&server)), |_| {});
    let mut holder = lab.connect().unwrap().unwrap();
    let asking = std::thread::spawn(move || {
        holder.start("count", Arguments::from([("slowly".to_owned(), String::new())]))
    });
    while under_way.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    held.close().unwrap();
    assert_eq!(under_way.load(Ordering::SeqCst), 0, "closed meanwhile");
    let error = asking.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("count to what?"), "{error}");
}
