//! `archipelago scrub`.

use serde_json::json;

use super::exit;
use super::maintain::follow;
use super::output::{size_text, Unit};
use super::Session;
use crate::catalog::identity::utc_text;
use crate::catalog::scrub::{self as states, State};
use crate::error::{ErrorKind, Result};
use crate::maintain::scrub::{self, Report, ScrubOptions};
use crate::sys::signal;

/// The exit code says whether there is damage, or that it was interrupted.
pub fn run(session: &Session, restart: bool, bytes_per_s: Option<u64>) -> Result<u8> {
    let store = session.store_direct()?;
    signal::note_interrupts();
    let stop = signal::was_interrupted;
    let options = ScrubOptions { restart, bytes_per_s, stop, ..ScrubOptions::default() };
    let mut bar = session.output.begin("scrubbing", 0, Unit::Things);
    let report = scrub::run(&store, &options, &mut |progress| follow(&mut bar, progress))?;
    drop(bar);
    let mut value = json!(report);
    value["sound"] = report.is_sound().into();
    session.output.show(&value, || text_of(&report))?;
    Ok(match (report.is_sound(), report.ended) {
        (false, _) => exit::code(ErrorKind::Corrupt),
        (true, true) => 0,
        (true, false) => exit::INTERRUPTED,
    })
}

fn text_of(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let owner = problem.owner.as_ref().map_or_else(String::new, |owner| format!(" of '{owner}'"));
        text.push_str(&format!("DAMAGE: {}{owner}: {}\n", problem.object, problem.sentence));
    }
    let went_on = if report.resumed { ", going on where it was interrupted" } else { "" };
    text.push_str(&format!(
        "{} blocks compared, {} read in all{went_on}\n",
        report.compared.objects,
        size_text(report.read_bytes)
    ));
    if report.summed.objects > 0 {
        text.push_str(&format!("{} blocks of snapshots have a checksum now\n", report.summed.objects));
    }
    if report.without_sum > 0 {
        text.push_str(&format!(
            "{} blocks that only volumes have are without one: those of a snapshot get one\n",
            report.without_sum
        ));
    }
    if report.left_snapshots > 0 {
        text.push_str(&format!("{} snapshots were in use: run it again for those\n", report.left_snapshots));
    }
    text.push_str(match (report.is_sound(), report.ended) {
        (false, _) => "DAMAGED\n",
        (true, true) => "no damage\n",
        (true, false) => "no damage so far; interrupted: go on with: archipelago scrub\n",
    });
    text
}

/// How the last one went.
pub fn status(session: &Session) -> Result<()> {
    let store = session.store(false)?;
    let last = states::last(&store)?;
    session.output.show(&json!({ "last": last }), || match last {
        None => format!("store '{}' was never scrubbed; do it with: archipelago scrub", store.name),
        Some(state) => sentence_of(&state),
    })
}

fn sentence_of(state: &State) -> String {
    let damaged = match state.damaged {
        0 => "no damage".to_owned(),
        count => format!("{count} DAMAGED blocks"),
    };
    let ended = match state.ended_s {
        0 => "not ended yet".to_owned(),
        ended_s => format!("ended {}", utc_text(ended_s)),
    };
    format!(
        "began {}, {ended}: {} blocks ({}) compared, {damaged}",
        utc_text(state.began_s),
        state.blocks,
        size_text(state.bytes)
    )
}
