//! What happened: the last steps for people, and a digest of all of them.

use std::collections::VecDeque;

use archipelago::name::ObjectName;

use super::image::{hash_bytes, mix};

/// Steps that a finding shows.
const SHOWN: usize = 40;

enum Step {
    Call {
        actor: usize,
        label: &'static str,
        verb: &'static str,
        name: Option<ObjectName>,
        at: u64,
        bytes: u64,
        result: &'static str,
    },
    Text(String),
}

pub struct Trace {
    last: VecDeque<(u64, Step)>,
    pub steps: u64,
    pub digest: u64,
    pub is_loud: bool,
}

/// Of a name, without making its text.
fn hash_name(name: &ObjectName) -> u64 {
    let id = |id: archipelago::name::Id| mix(id.0 as u64, (id.0 >> 64) as u64);
    match name {
        ObjectName::Store => 1,
        ObjectName::Volume(name) => hash_bytes(name.as_str().as_bytes()),
        ObjectName::Head { volume, number } => mix(id(*volume), *number),
        ObjectName::Segment { volume, number } => mix(id(*volume), number.wrapping_add(1 << 40)),
        ObjectName::Page(page) => id(*page),
        ObjectName::Block { epoch, index } => mix(id(*epoch), *index),
        ObjectName::Snapshot { volume, name, number } => {
            mix(mix(id(*volume), *number), hash_bytes(name.as_str().as_bytes()))
        }
        ObjectName::Epoch(epoch) => id(*epoch).wrapping_add(1),
        ObjectName::Scrub(number) => number.wrapping_add(1 << 52),
        ObjectName::Maintenance(number) => number.wrapping_add(1 << 50),
        ObjectName::Lease { volume, number } => mix(id(*volume), number.wrapping_add(1 << 41)),
    }
}

impl Trace {
    pub fn new() -> Trace {
        Trace { last: VecDeque::with_capacity(SHOWN + 1), steps: 0, digest: 0, is_loud: false }
    }

    fn push(&mut self, now_us: u64, step: Step, hash: u64) {
        self.digest = mix(mix(self.digest, now_us), hash);
        if self.is_loud {
            self.last.push_back((now_us, step));
            return;
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back((now_us, step));
    }

    pub fn call(
        &mut self,
        now_us: u64,
        (actor, label): (usize, &'static str),
        (verb, name): (&'static str, Option<&ObjectName>),
        (at, bytes): (u64, u64),
        result: &'static str,
    ) {
        self.steps += 1;
        let named = name.map_or(0, hash_name);
        let hash = mix(mix(named, actor as u64), mix(at, bytes).wrapping_add(hash_bytes(verb.as_bytes())));
        let hash = mix(hash, hash_bytes(result.as_bytes()));
        self.push(now_us, Step::Call { actor, label, verb, name: name.cloned(), at, bytes, result }, hash);
    }

    pub fn say(&mut self, now_us: u64, text: String) {
        let hash = hash_bytes(text.as_bytes());
        self.push(now_us, Step::Text(text), hash);
    }

    pub fn text(&self) -> String {
        let line = |(now_us, step): &(u64, Step)| {
            let at_s = *now_us as f64 / 1e6;
            match step {
                Step::Text(text) => format!("  {at_s:10.6} {text}"),
                Step::Call { actor, label, verb, name, at, bytes, result } => {
                    let name = name.as_ref().map(ObjectName::to_string).unwrap_or_default();
                    format!("  {at_s:10.6} [{actor} {label}] {verb} {name} {at}+{bytes} {result}")
                }
            }
        };
        self.last.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
