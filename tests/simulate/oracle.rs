//! What must be true of the volumes, over all hosts: what each sector may
//! hold, which snapshots and names there are, and who holds what.

use super::model::Value;
use super::sector::Content;

#[derive(Clone, Debug)]
pub struct Snap {
    pub name: String,
    /// Taken by one that was taken over: it may hold anything.
    pub is_wild: bool,
    /// It must be there; otherwise it may be.
    pub must: bool,
    pub content: Content,
}

/// A write that its holder has not seen completed.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    pub first: usize,
    pub count: usize,
    pub value: Value,
}

/// A process whose lease was broken while it lived.
#[derive(Clone, Copy, Debug)]
pub struct Zombie {
    pub process: usize,
    pub broken_us: u64,
}

#[derive(Debug, Default)]
pub struct Vol {
    /// It was made, and nobody has begun to remove it.
    pub is_made: bool,
    /// Whoever makes it has not finished, and may take it back.
    pub is_in_the_making: bool,
    pub removals: u32,
    pub renamings: u32,
    pub renamed: u32,
    pub has_failed: bool,
    pub may_be_removed: bool,
    /// And whether it must lead to the volume.
    pub names: Vec<(String, bool)>,
    /// Names from which a rename has begun.
    pub left: Vec<String>,
    /// One of these, whole.
    pub contents: Vec<Content>,
    pub snaps: Vec<Snap>,
    pub owner: Option<usize>,
    pub opened: u64,
    pub is_closing: bool,
    pub zombies: Vec<Zombie>,
    pub writing: Option<Writing>,
}

impl Vol {
    pub fn must(&self) -> bool {
        self.is_made && self.removals == 0 && !self.may_be_removed
    }

    /// It was being made, renamed or removed, and that has not ended well.
    pub fn is_half_done(&self) -> bool {
        !self.is_made || self.removals > 0 || self.renamings > 0 || self.has_failed
    }

    pub fn is_zombie(&self, process: usize) -> bool {
        self.zombies.iter().any(|zombie| zombie.process == process)
    }

    /// What a reader sees first stays, and must be one of these.
    pub fn note_read(&mut self, first: usize, values: &[Value]) -> Result<(), String> {
        note_read(&mut self.contents, first, values)
    }

    pub fn note_size(&mut self, bytes: u64) -> Result<(), String> {
        let sizes: Vec<u64> = self.contents.iter().map(|content| content.bytes).collect();
        self.contents.retain(|content| content.bytes == bytes);
        match self.contents.is_empty() {
            true => Err(format!("it has {bytes} bytes, which is none of {sizes:?}")),
            false => Ok(()),
        }
    }

    pub fn snap(&mut self, name: &str) -> Option<&mut Snap> {
        self.snaps.iter_mut().find(|snap| snap.name == name)
    }

    /// A name that should lead to it now.
    pub fn name(&self) -> Option<String> {
        let sure = self.names.iter().rev().find(|(_, must)| *must);
        sure.or(self.names.last()).map(|(name, _)| name.clone())
    }
}

pub fn note_read(contents: &mut Vec<Content>, first: usize, values: &[Value]) -> Result<(), String> {
    let wrong: Vec<Option<String>> = contents.iter().map(|content| content.wrong_at(first, values)).collect();
    let mut fits = wrong.iter().map(Option::is_none);
    contents.retain(|_| fits.next().unwrap_or_default());
    if contents.is_empty() {
        return Err(wrong.into_iter().flatten().collect::<Vec<_>>().join("; or "));
    }
    contents.iter_mut().for_each(|content| content.read(first, values));
    Ok(())
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub vols: Vec<Vol>,
    pub names_made: u32,
    pub values_made: Value,
}

impl Oracle {
    pub fn fresh(&mut self, prefix: &str) -> String {
        self.names_made += 1;
        format!("{prefix}{}", self.names_made)
    }

    pub fn next_value(&mut self) -> Value {
        self.values_made += 1;
        self.values_made
    }

    /// Whose name it is: names are given once.
    pub fn of_name(&self, name: &str) -> Option<usize> {
        self.vols.iter().position(|vol| vol.names.iter().any(|(there, _)| there == name))
    }

    pub fn is_wild(&self, snapshot: &str) -> bool {
        self.vols.iter().flat_map(|vol| &vol.snaps).any(|snap| snap.is_wild && snap.name == snapshot)
    }

    pub fn is_zombie(&self, process: usize) -> bool {
        self.vols.iter().any(|vol| vol.is_zombie(process))
    }

    /// The lease of a process that lives is broken: what it does from now on
    /// may come to nothing, and what it writes may show until it finds out.
    pub fn note_broken(&mut self, vol: usize, process: usize, broken_us: u64) {
        self.vols[vol].zombies.push(Zombie { process, broken_us });
        if let Some(writing) = self.vols[vol].writing {
            self.haunt(writing);
        }
    }

    /// Somebody who was taken over writes into blocks that anything may share
    /// by now.
    pub fn haunt(&mut self, Writing { first, count, value }: Writing) {
        for vol in &mut self.vols {
            let snaps = vol.snaps.iter_mut().map(|snap| &mut snap.content);
            vol.contents.iter_mut().chain(snaps).for_each(|content| content.haunt(first, count, value));
        }
    }

    /// A write of this process takes effect when the next holder may have read
    /// already.
    pub fn note_late_write(&mut self, process: usize) {
        for vol in &mut self.vols {
            if vol.owner != Some(process) && !vol.is_zombie(process) {
                continue;
            }
            if let Some(Writing { first, count, value }) = vol.writing {
                vol.contents.iter_mut().for_each(|content| content.haunt(first, count, value));
            }
        }
    }

    /// A volume has opened; the one before must be gone by the table of
    /// docs/design.md. Returns whether it was taken over.
    pub fn note_opened(
        &mut self,
        vol: usize,
        process: usize,
        is_dead: impl Fn(usize) -> bool,
    ) -> Result<bool, String> {
        let vol = &mut self.vols[vol];
        if vol.is_zombie(process) {
            return Ok(false);
        }
        let before = vol.owner.replace(process);
        let was_closing = std::mem::take(&mut vol.is_closing);
        vol.opened += 1;
        vol.writing = None;
        vol.contents.iter_mut().for_each(Content::opened);
        match before {
            Some(before)
                if before != process && !was_closing && !is_dead(before) && !vol.is_zombie(before) =>
            {
                Err(format!("process {process} has opened it, and process {before} holds it and lives"))
            }
            before => Ok(before.is_some_and(|before| before != process && !was_closing)),
        }
    }
}
