//! The command `archipelago`: words in, calls of the layers below, text or
//! JSON out.

use std::process::ExitCode;

use clap::Parser;

use crate::catalog::moved;
use crate::error::{Error, ErrorKind, Result};
use crate::name::VolumeName;
use crate::store::open::open_store;
use crate::store::Store;
use crate::sys::signal;

mod args;
mod bench;
mod busy;
mod census;
mod convert;
mod draw;
mod exit;
mod export;
mod generate;
mod held;
mod import;
mod info;
mod lease;
mod ls;
mod maintain;
mod moving;
mod output;
mod raw;
mod scrub;
mod snapshots;
mod status;
mod syncing;
mod tree;
mod volumes;

use args::{Common, Verb, Words};
use output::Output;

/// What every verb is given.
struct Session {
    common: Common,
    output: Output,
}

impl Session {
    /// The store that is meant. `create`: make the built-in default one.
    fn store(&self, create: bool) -> Result<Store> {
        open_store(self.common.store.as_deref(), self.common.config.as_deref(), false, create)
    }

    /// The store in which a volume is: the one that is meant, or where it was
    /// moved to from there.
    fn store_of(&self, volume: &VolumeName) -> Result<Store> {
        moved::find(self.common.config.as_deref(), self.common.store.as_deref(), volume, false)
    }

    /// The same, past the page cache where the store can: what is read is what
    /// is stored, and what others have cached stays.
    fn store_direct(&self) -> Result<Store> {
        open_store(self.common.store.as_deref(), self.common.config.as_deref(), true, false)
    }
}

/// Runs the command.
pub fn main() -> ExitCode {
    output::start_log();
    let words = match Words::try_parse() {
        Ok(words) => words,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output { json: words.common.json, progress: words.common.progress };
    let session = Session { common: words.common, output };
    match run(&session, words.verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = match signal::was_interrupted() {
                true => exit::INTERRUPTED,
                false => exit::code(error.kind()),
            };
            output.fail(&error, code);
            ExitCode::from(code)
        }
    }
}

fn run(session: &Session, verb: Verb) -> Result<u8> {
    let done = |result: Result<()>| result.map(|()| 0);
    match verb {
        Verb::Init { block_size } => done(volumes::init(session, block_size)),
        Verb::Create { name, size, block_size } => done(volumes::create(session, &name, size, block_size)),
        Verb::Ls { tree, quick } => done(ls::run(session, tree, quick)),
        Verb::Info { target } => done(info::run(session, &target)),
        Verb::Status { name } => done(status::run(session, &name)),
        Verb::Rm { targets, snapshots, dry } => done(volumes::rm(session, &targets, snapshots, dry.dry_run)),
        Verb::Rename { from, to } => done(volumes::rename(session, &from, &to)),
        Verb::Resize { name, size, shrink, dry } => {
            done(volumes::resize(session, &name, size, shrink, dry.dry_run))
        }
        Verb::Snapshot { target, publish } => done(snapshots::snapshot(session, &target, publish)),
        Verb::Clone { source, name, size } => done(snapshots::clone(session, &source, &name, size)),
        Verb::Rollback { target, dry } => done(snapshots::rollback(session, &target, dry.dry_run)),
        Verb::Import { file, name, format, block_size } => {
            done(import::run(session, &file, &name, format.as_deref(), block_size))
        }
        Verb::Export { target, file, force } => done(export::run(session, &target, &file, force)),
        Verb::Map { target } => done(draw::run(session, &target)),
        Verb::Check => maintain::check(session),
        Verb::Scrub { status: true, .. } => done(scrub::status(session)),
        Verb::Scrub { restart, limit, .. } => scrub::run(session, restart, limit),
        Verb::Move { words, all, limit, cancel, pause, resume } => {
            done(moving::run(session, &moving::Wanted::new(words, all, limit, [cancel, pause, resume])))
        }
        Verb::Sync { from, to, follow, every, limit } => {
            let every = follow.then(|| std::time::Duration::from_secs_f64(every));
            done(syncing::run(session, &syncing::Wanted { from, to, every, limit }))
        }
        Verb::Promote { name, all, force } => done(syncing::promote(session, name.as_ref(), all, force)),
        Verb::Gc { dry } => done(maintain::gc(session, dry.dry_run)),
        Verb::Lease(verb) => done(lease::run(session, verb)),
        Verb::Bench { size, seconds } => done(bench::run(session, size, seconds)),
        Verb::Completions { shell } => done(generate::completions(session, shell)),
        Verb::Man { folder } => done(generate::man(&folder)),
    }
}

/// Error: "interrupted", once a signal has asked to stop.
fn check_interrupted() -> Result<()> {
    match signal::was_interrupted() {
        true => Err(Error::sentence(ErrorKind::Unavailable, "interrupted")),
        false => Ok(()),
    }
}

/// What the command does to a store beside calling the layers below: for tests
/// that need no words and no output.
#[cfg(feature = "testkit")]
pub mod parts {
    use super::output::Output;
    use super::{census, import};
    use crate::error::{Error, Result};
    use crate::name::VolumeName;
    use crate::store::Store;

    /// What `ls` adds up.
    pub fn take_census(store: &Store) -> Result<()> {
        census::take(store, &Output { json: true, progress: false }, true).map(drop)
    }

    /// What `import` does with a volume that it could not fill.
    pub fn take_back_import(store: &Store, part: &VolumeName, error: &Error) -> Result<()> {
        import::take_back(store, part, error)
    }
}
