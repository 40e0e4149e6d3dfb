//! Runs the inputs of one kind, and says what to do about a finding.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use archipelago::name::ObjectName;
use archipelago::{Error, ErrorKind};
use parking_lot::Mutex;

use super::corpus;
use super::meter::most_bytes;
use super::mutate::{mutate, Rng};

/// One input may take this long, on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(20);

/// Bytes that any decoder may have, whatever its input.
const MEMORY_BYTES: usize = 64 << 10;

/// What a decoder made of an input, and the most memory that it had.
#[derive(Debug)]
pub struct Outcome {
    pub decoded: bool,
    pub memory_bytes: usize,
}

/// One decoder.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes the checksums of a changed seed right again.
    pub repair: fn(&mut [u8], &[u8], &mut Rng),
    /// Decodes, and checks what came of it; an error is a finding.
    pub decode: fn(&[u8]) -> Result<Outcome, String>,
    /// For inputs that are text.
    pub words: &'static [&'static str],
    pub bytes_max: usize,
    /// Memory for each byte of input.
    pub memory: usize,
    /// Of the time that there is.
    pub share: u32,
}

impl Kind {
    /// A kind of small binary objects.
    pub const OBJECT: Kind = Kind {
        name: "",
        seeds: Vec::new,
        repair: |_, _, _| {},
        decode: |_| Err(String::new()),
        words: &[],
        bytes_max: 64 << 10,
        memory: 16,
        share: 1,
    };
}

#[derive(Debug, Default)]
pub struct Tally {
    pub corpus: usize,
    pub inputs: u64,
    pub decoded: u64,
    /// The most memory, for each byte of input.
    pub memory: f64,
}

/// Counts what `decode` takes, and looks at the error if there is one: it must
/// be one of content, and name the object.
pub fn refused_by_name<T>(
    name: &ObjectName,
    decode: impl FnOnce() -> archipelago::Result<T>,
) -> Result<(Option<T>, usize), String> {
    let (result, memory_bytes) = most_bytes(decode);
    match result {
        Ok(value) => Ok((Some(value), memory_bytes)),
        Err(error) => check_error(name, &error).map(|()| (None, memory_bytes)),
    }
}

pub fn check_error(name: &ObjectName, error: &Error) -> Result<(), String> {
    let text = error.full();
    if !error.is(ErrorKind::Corrupt) && !error.is(ErrorKind::Invalid) {
        return Err(format!("it is refused with {:?}: {text}", error.kind()));
    }
    if !text.contains(&name.to_string()) {
        return Err(format!("the error does not name {name}: {text}"));
    }
    check_words(&text)
}

/// An error goes to a terminal or to a log: one line, nothing that steers it.
pub fn check_words(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("an error has the character {c:?} in it: {text:?}")),
        None => Ok(()),
    }
}

/// What is running, for whoever watches over the deadline.
struct Watched {
    began: Instant,
    input: Vec<u8>,
}

/// Ends the process when an input takes too long: there is no other way to
/// stop it.
struct Watch {
    now: Arc<Mutex<Option<Watched>>>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn new(kind: &'static str) -> Watch {
        let (now, over) = (Arc::new(Mutex::new(None::<Watched>)), Arc::new(AtomicBool::new(false)));
        let (seen, end) = (Arc::clone(&now), Arc::clone(&over));
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                if let Some(watched) = &*seen.lock() {
                    if watched.began.elapsed() > DEADLINE {
                        eprintln!(
                            "{}",
                            saved(kind, &watched.input, "it takes longer than the deadline")
                        );
                        std::process::abort();
                    }
                }
            }
        });
        Watch { now, over }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Keeps a finding, and says how to look at it again.
fn saved(kind: &str, input: &[u8], words: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{kind}"));
    let kept = std::fs::write(&path, corpus::to_text(input)).map_or("lost".to_owned(), |()| {
        format!(
            "kept in {}: copy it to tests/fuzz/corpus/{kind}/ under a name that says what it is",
            path.display()
        )
    });
    format!("{kind}: {words}\nthe input of {} bytes is {kept}", input.len())
}

/// One input.
pub fn try_one(kind: &Kind, input: &[u8]) -> Result<Outcome, String> {
    let outcome = match catch_unwind(AssertUnwindSafe(|| (kind.decode)(input))) {
        Ok(outcome) => outcome?,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words");
            return Err(format!("it panics: {text}"));
        }
    };
    let allowed = MEMORY_BYTES + kind.memory * input.len();
    if outcome.memory_bytes > allowed {
        return Err(format!("it takes {} bytes of memory, {allowed} are allowed", outcome.memory_bytes));
    }
    Ok(outcome)
}

/// The corpus, the seeds and then mutants of them, for some time or some number.
pub fn run(kind: &Kind, seed: u64, time_ms: u64, inputs_max: u64) -> Result<Tally, String> {
    let began = Instant::now();
    let watch = Watch::new(kind.name);
    let mut tally = Tally::default();
    let mut one = |input: Vec<u8>| {
        *watch.now.lock() = Some(Watched { began: Instant::now(), input: input.clone() });
        let outcome = try_one(kind, &input).map_err(|words| saved(kind.name, &input, &words))?;
        tally.inputs += 1;
        tally.decoded += u64::from(outcome.decoded);
        if outcome.memory_bytes > MEMORY_BYTES / 4 {
            tally.memory = tally.memory.max(outcome.memory_bytes as f64 / input.len().max(1) as f64);
        }
        Ok::<bool, String>(outcome.decoded)
    };
    let corpus = corpus::read(kind.name);
    let mut seeds = (kind.seeds)();
    for (name, input) in &corpus {
        one(input.clone()).map_err(|words| format!("corpus file {name}: {words}"))?;
    }
    for (at, seed) in seeds.iter().enumerate() {
        if !one(seed.clone())? {
            return Err(saved(
                kind.name,
                seed,
                &format!("seed {at}, written by the library, is refused"),
            ));
        }
    }
    let pristine = seeds.len();
    seeds.extend(corpus.iter().map(|(_, input)| input.clone()));
    for at in 0..inputs_max {
        if at % 16 == 0 && began.elapsed() >= Duration::from_millis(time_ms) {
            break;
        }
        let mut rng = Rng::new(seed, kind.name, at);
        let (mut input, picked) = mutate(&mut rng, &seeds, kind.words, kind.bytes_max);
        if !rng.one_in(12) {
            (kind.repair)(&mut input, &seeds[if picked < pristine { picked } else { 0 }], &mut rng);
        }
        one(input).map_err(|words| format!("{words}\nSEED={seed}, input {at}"))?;
    }
    tally.corpus = corpus.len();
    Ok(tally)
}
