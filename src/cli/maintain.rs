//! `archipelago gc` and `archipelago check`.

use serde_json::json;

use super::exit;
use super::output::{size_text, Progress, Unit};
use super::Session;
use crate::error::{ErrorKind, Result};
use crate::maintain::check::{self, CheckOptions};
use crate::maintain::gc::{self, GcOptions};
use crate::maintain::{Phase, Severity};

pub fn gc(session: &Session, dry_run: bool) -> Result<()> {
    let store = session.store(false)?;
    let options = GcOptions { dry_run, ..GcOptions::default() };
    let mut bar = session.output.begin("collecting", 0, Unit::Things);
    let report = gc::run(&store, &options, &mut |progress| follow(&mut bar, progress))?;
    drop(bar);
    let value = json!(report);
    session.output.show(&value, || {
        let (all, verb) = (report.deleted(), if dry_run { "would be given back" } else { "given back" });
        let mut text = format!("{} {verb}: {} objects\n", size_text(all.bytes), all.objects);
        for kind in report.kinds.iter().filter(|kind| kind.deleted.objects > 0) {
            text.push_str(&format!("  {} {}\n", kind.deleted.objects, kind.kind));
        }
        if report.removals_finished > 0 {
            text.push_str(&format!("  interrupted removals of volumes: {}\n", report.removals_finished));
        }
        if let Some(words) = report.carried_text(size_text) {
            text.push_str(&format!("{words}\n"));
        }
        text
    })
}

/// The exit code says whether there is damage.
pub fn check(session: &Session) -> Result<u8> {
    let store = session.store(false)?;
    let mut bar = session.output.begin("checking", 0, Unit::Things);
    let report = check::run(&store, &CheckOptions::default(), &mut |progress| follow(&mut bar, progress))?;
    drop(bar);
    let mut value = json!(report);
    value["sound"] = report.is_sound().into();
    session.output.show(&value, || {
        let mut text = String::new();
        for problem in &report.problems {
            let severity = match problem.severity {
                Severity::Damage => "DAMAGE",
                Severity::Leftover => "left over",
            };
            let owner = problem.owner.as_ref().map_or_else(String::new, |owner| format!(" of '{owner}'"));
            text.push_str(&format!("{severity}: {}{owner}: {}\n", problem.object, problem.sentence));
        }
        text.push_str(&format!(
            "{} volumes, {} snapshots ({} pending), {} map pages, {} blocks, {} of log\n",
            report.volumes,
            report.snapshots,
            report.pending,
            report.pages,
            report.blocks,
            size_text(report.log_bytes)
        ));
        if report.reclaimable.objects > 0 {
            let reclaimable = size_text(report.reclaimable.bytes);
            text.push_str(&format!("reclaimable: {reclaimable}, with: archipelago gc\n"));
        }
        text.push_str(if report.is_sound() { "no damage\n" } else { "DAMAGED\n" });
        text
    })?;
    Ok(if report.is_sound() { 0 } else { exit::code(ErrorKind::Corrupt) })
}

pub(super) fn follow(bar: &mut Progress, progress: crate::maintain::Progress) {
    bar.name(match progress.phase {
        Phase::List => "listing",
        Phase::Mark => "reading maps",
        Phase::Verify => "looking at blocks",
        Phase::Measure => "adding up",
        Phase::Sweep => "deleting",
        Phase::Carry => "carrying sealed blocks",
        Phase::Sum => "summing blocks",
        Phase::Compare => "comparing blocks",
    });
    bar.set(progress.done, progress.total.unwrap_or(progress.done));
}
