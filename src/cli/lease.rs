//! `archipelago lease`: who writes to a volume.

use serde_json::{json, Value};

use super::args::LeaseVerb;
use super::Session;
use crate::catalog::identity::{utc_text, Identity, Life};
use crate::catalog::lease::{self, Holder, LeaseState};
use crate::catalog::volume;
use crate::error::Result;
use crate::name::VolumeName;

pub fn run(session: &Session, verb: LeaseVerb) -> Result<()> {
    match verb {
        LeaseVerb::Show { name } => show(session, &name),
        LeaseVerb::Break { name, dry } => break_lease(session, &name, dry.dry_run),
    }
}

fn show(session: &Session, name: &VolumeName) -> Result<()> {
    let store = session.store_of(name)?;
    let state = lease::show(&store, volume::lookup(&store, name)?)?;
    session.output.show(&json(&state), || text(name, &state))
}

fn break_lease(session: &Session, name: &VolumeName, dry_run: bool) -> Result<()> {
    let store = session.store_of(name)?;
    let id = volume::lookup(&store, name)?;
    let state = lease::show(&store, id)?;
    if dry_run {
        let value = json!({ "would_break": json(&state) });
        return session.output.show(&value, || format!("would break this lease:\n{}", text(name, &state)));
    }
    let me = Identity::of_this_process();
    let by = format!("user {} on host {}", rustix::process::getuid().as_raw(), me.host);
    lease::break_lease(&store, id, name.as_str(), &by)?;
    let value = json!({ "broken": json(&state) });
    session.output.show(&value, || {
        format!("the lease of volume '{name}' is broken; the next to open it recovers what was left")
    })
}

pub fn json(state: &LeaseState) -> Value {
    match state {
        LeaseState::Free { clean } => json!({ "state": "free", "clean": clean }),
        LeaseState::Held { holder, number, life } => json!({
            "state": "held", "number": number, "life": life_text(*life), "holder": holder_json(holder)
        }),
        LeaseState::Broken { by, holder } => {
            json!({ "state": "broken", "by": by, "holder": holder_json(holder) })
        }
        LeaseState::Arriving { from, holder, life } => json!({
            "state": "arriving", "store": from.store_name, "store_id": from.store.to_string(),
            "life": life_text(*life), "holder": holder_json(holder)
        }),
        LeaseState::Moved(to) => {
            json!({ "state": "moved", "store": to.store_name, "store_id": to.store.to_string() })
        }
        LeaseState::Standby(of) => {
            json!({ "state": "standby", "store": of.store_name, "store_id": of.store.to_string() })
        }
    }
}

fn holder_json(holder: &Holder) -> Value {
    let process = &holder.process;
    json!({
        "id": holder.id.to_string(),
        "host": process.host,
        "boot_id": process.boot_id,
        "pid": process.pid,
        "pid_namespace": process.pid_namespace,
        "start_ticks": process.start_ticks,
        "program": process.program,
        "since": utc_text(holder.since_s),
        "since_s": holder.since_s,
        "socket": holder.socket,
    })
}

fn life_text(life: Life) -> &'static str {
    match life {
        Life::Alive => "alive",
        Life::Dead => "dead",
        Life::Unknown => "unknown",
    }
}

fn text(name: &VolumeName, state: &LeaseState) -> String {
    match state {
        LeaseState::Free { clean: true } => format!("volume '{name}' is not in use"),
        LeaseState::Free { clean: false } => {
            format!("volume '{name}' is not in use; the next to open it recovers what was left")
        }
        LeaseState::Moved(to) => format!("volume '{name}' was moved to store '{}'", to.store_name),
        LeaseState::Standby(of) => format!(
            "volume '{name}' is a standby of store '{}'; if that one is lost: archipelago promote {name}",
            of.store_name
        ),
        LeaseState::Arriving { from, holder, life } => format!(
            "volume '{name}' is on its way from store '{}'\nby {} ({})",
            from.store_name,
            who(holder),
            life_text(*life)
        ),
        LeaseState::Broken { by, holder } => {
            format!("volume '{name}' is not in use: its lease was broken by {by}\nbefore: {}", who(holder))
        }
        LeaseState::Held { holder, life, .. } => {
            let next = match life {
                Life::Alive => "it is alive".to_owned(),
                Life::Dead => "it is gone: the next to open the volume takes it over".to_owned(),
                Life::Unknown => format!(
                    "whether it lives cannot be told from here; if it certainly does not: \
                     archipelago lease break {name}"
                ),
            };
            format!("volume '{name}' is in use\nby {}\n{next}", who(holder))
        }
    }
}

fn who(holder: &Holder) -> String {
    let process = &holder.process;
    format!(
        "process {} ({}) on host {} since {}\nboot {}, pid namespace {}, started at tick {}",
        process.pid,
        process.program,
        process.host,
        utc_text(holder.since_s),
        process.boot_id,
        process.pid_namespace,
        process.start_ticks
    )
}

/// For lists: empty when the volume is not in use.
pub fn short(state: &LeaseState) -> String {
    match state {
        LeaseState::Free { clean: true } => String::new(),
        LeaseState::Free { clean: false } => "to be recovered".into(),
        LeaseState::Broken { .. } => "lease broken".into(),
        LeaseState::Moved(to) => format!("moved to '{}'", to.store_name),
        LeaseState::Standby(of) => format!("standby of '{}'", of.store_name),
        LeaseState::Arriving { from, .. } => format!("on its way from '{}'", from.store_name),
        LeaseState::Held { life: Life::Dead, .. } => "crashed".into(),
        LeaseState::Held { holder, .. } => {
            let process = &holder.process;
            format!("in use by {} ({}) on {}", process.pid, process.program, process.host)
        }
    }
}
