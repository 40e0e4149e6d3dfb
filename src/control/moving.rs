//! The job "move": the volume goes to another store while its guest goes on.
//!
//! Arguments: `store`, as this process's configuration calls it; `limit`, of
//! the copy, in bytes per second. Words: "pause" and "resume".

use std::sync::Arc;
use std::time::Duration;

use super::jobs::{Arguments, Kind, Progress, Work};
use crate::clock;
use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Device, Following};
use crate::maintain::copy::CopyOptions;
use crate::mover::{self, MoveOptions, Phase};
use crate::store::open::open_configured;
use crate::store::Store;

pub const KIND: &str = "move";
pub const STORE: &str = "store";
pub const LIMIT: &str = "limit";
pub const PAUSE: &str = "pause";
pub const RESUME: &str = "resume";

/// Between two looks at a paused job.
const PAUSED_LOOK: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub struct Move;

impl Kind for Move {
    fn name(&self) -> &'static str {
        KIND
    }

    fn prepare(&self, device: &Arc<Device>, arguments: &Arguments) -> Result<Work> {
        let (wanted, limit) = understand(arguments)?;
        let here = device.volume().store.clone();
        let to = destination(&here, wanted)?;
        let following = device.follow()?;
        let copy = CopyOptions { bytes_per_s: limit, ..CopyOptions::default() };
        let options = MoveOptions { copy, ..MoveOptions::default() };
        mover::check(&following, &to)?;
        Ok(Box::new(move |progress| work(&following, &to, &options, progress)))
    }
}

/// The store that is wanted, as the process knows it that holds the volume.
pub fn destination(here: &Store, wanted: &str) -> Result<Store> {
    let config = config::load(here.config.as_deref())?;
    let store = open_configured(&config, Some(wanted), here.is_direct, false)?;
    Ok(store.opened_by(here.config.as_deref(), here.is_direct))
}

fn understand(arguments: &Arguments) -> Result<(&str, Option<u64>)> {
    let invalid = |words: &str| Error::sentence(ErrorKind::Invalid, words.to_owned());
    if arguments.keys().any(|key| key != STORE && key != LIMIT) {
        return Err(invalid("a move has a store and perhaps a limit, and nothing else"));
    }
    let wanted = arguments.get(STORE).ok_or_else(|| invalid("to which store is the volume to be moved?"))?;
    let limit = arguments.get(LIMIT).map(|text| text.parse::<u64>());
    let limit = limit.transpose().map_err(|_| invalid("the limit is no number of bytes per second"))?;
    Ok((wanted, limit))
}

fn work(following: &Following, to: &Store, options: &MoveOptions, progress: &Progress) -> Result<String> {
    let mut told = |now: mover::Progress| {
        progress.say(&phase_text(&now, to));
        progress.set(now.copied.bytes + now.carried_bytes, now.total_bytes());
        obey(following, progress, &now)
    };
    let report = mover::run(following, to, options, &mut told)?;
    Ok(report.text(&to.name))
}

/// What is said to it meanwhile.
fn obey(following: &Following, progress: &Progress, now: &mover::Progress) -> Result<()> {
    let mut is_paused = false;
    loop {
        if progress.is_cancelled() && now.phase != Phase::Ending {
            let sentence = "it was called back; the volume is where it was".to_owned();
            return Err(Error::sentence(ErrorKind::Unavailable, sentence));
        }
        while let Some(word) = progress.next_word() {
            is_paused = match word.as_str() {
                PAUSE => true,
                RESUME => false,
                _ => is_paused,
            };
        }
        if !is_paused {
            return Ok(());
        }
        progress.say("is paused");
        // Nobody waits for what does not go on.
        following.speed_up();
        following.check_wanted()?;
        clock::sleep(PAUSED_LOOK);
    }
}

fn phase_text(now: &mover::Progress, to: &Store) -> String {
    match now.phase {
        Phase::Waiting => format!("waits until store '{}' is not maintained by others", to.name),
        Phase::Copying => format!("copies to store '{}'", to.name),
        Phase::Following if now.is_slowed_down => {
            format!("follows what is written, which is slowed down; {} bytes are left", now.written_bytes)
        }
        Phase::Following => format!("follows what is written; {} bytes are left", now.written_bytes),
        Phase::Ending => format!("is in store '{}'", to.name),
    }
}
