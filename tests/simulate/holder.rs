//! What the holder of a volume does: opens it and reads it in full, writes,
//! zeroes, flushes, takes snapshots, goes back to one, settles, closes.

use std::sync::Arc;

use archipelago::error::{ErrorKind, Result};
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{parts, Begun, NotNow, Volume};

use super::acts::{snapshot_name, volume_name, Life};
use super::image::SECTOR;
use super::oracle::{Snap, Writing};
use super::plan::BLOCK;
use super::sector::Content;

const SECTORS: usize = BLOCK as usize / SECTOR;

impl Life {
    pub fn write_something(&mut self) {
        let Some((at, volume)) = self.held.clone() else { return self.open_some() };
        if volume.check_alive().is_err() {
            return self.close();
        }
        let is_zombie = self.lock().oracle.vols[at].is_zombie(self.process);
        match self.random.weighted(&[30, 6, 5, 10, 8, 6, 4, 3, 8, 3, 2, 2, 3]) {
            0 => self.write(at, &volume, Write::Plain),
            1 => self.write(at, &volume, Write::Durable),
            2 => self.write(at, &volume, Write::Zeroes),
            3 => self.flush(at, &volume),
            4 => self.read(at, &volume),
            5 => self.snapshot(at, &volume),
            6 => self.background("publish", at, || volume.publish_all()),
            7 => self.background("settle", at, || volume.settle_all()),
            8 => {
                let idle = self.random.one_in(2);
                self.background("work", at, || volume.work(idle).map(drop));
            }
            9 if !is_zombie => self.rollback(at, &volume),
            10 if !is_zombie => self.resize(at, &volume),
            11 => self.remove_snapshot(at, Some(&volume)),
            12 => self.close(),
            _ => self.flush(at, &volume),
        }
    }

    pub fn open_some(&mut self) {
        let Some((at, text)) = self.pick_volume() else { return };
        let before = self.must_open(at, &text);
        let name = volume_name(&text);
        let opened = self.act("open", text.clone(), |life| {
            let volume = Volume::open(&life.store, &name, &life.options)?;
            life.take(at, volume)
        });
        let Err(error) = opened else { return };
        self.must_not_be_damage("open", &error);
        let must = before && self.must_open(at, &text);
        if must && error.is(ErrorKind::NotFound) {
            self.lock().fail(format!("volume '{text}' is there, and cannot be found: {}", error.full()));
        }
    }

    fn must_open(&self, at: usize, name: &str) -> bool {
        let state = self.lock();
        let vol = &state.oracle.vols[at];
        // One that was taken over may still be taking things away.
        vol.must() && vol.zombies.is_empty() && vol.names.iter().any(|(there, must)| there == name && *must)
    }

    /// It is open: whoever held it before must be gone, and what is read in it
    /// must be there from now on.
    pub fn take(&mut self, at: usize, volume: Arc<Volume>) -> Result<()> {
        {
            let mut state = self.lock();
            let dead: Vec<bool> = state.processes.iter().map(|process| process.is_dead).collect();
            let noted = state.oracle.note_opened(at, self.process, |process| dead[process]);
            state.counts.taken_over += u64::from(noted.as_ref().is_ok_and(|taken_over| *taken_over));
            let is_zombie = state.oracle.vols[at].is_zombie(self.process);
            let noted = noted.and_then(|_| match is_zombie {
                true => Ok(()),
                false => state.oracle.vols[at].note_size(volume.size_bytes()),
            });
            if let Err(text) = noted {
                state.fail(format!("volume {at}: {text}"));
            }
        }
        self.held = Some((at, Arc::clone(&volume)));
        self.read_all(at, &volume)
    }

    fn read_all(&mut self, at: usize, volume: &Arc<Volume>) -> Result<()> {
        let sectors = volume.size_bytes() as usize / SECTOR;
        let mut first = 0;
        while first < sectors {
            let count = SECTORS.min(sectors - first);
            let values = self.read_values(volume, first, count)?;
            self.note_read(at, first, &values);
            first += count;
        }
        Ok(())
    }

    fn note_read(&self, at: usize, first: usize, values: &[u32]) {
        if !self.is_lawful(at) {
            return;
        }
        let mut state = self.lock();
        if let Err(text) = state.oracle.vols[at].note_read(first, values) {
            state.fail(format!("volume {at} as process {} reads it: {text}", self.process));
        }
    }

    fn range(&mut self, volume: &Arc<Volume>) -> Option<(usize, usize)> {
        let sectors = volume.size_bytes() / SECTOR as u64;
        if sectors == 0 {
            return None;
        }
        let (first, count) = match self.random.below(6) {
            0 => (self.random.below(sectors), 1 + self.random.below(4)),
            1 => (self.random.below(sectors) / SECTORS as u64 * SECTORS as u64, SECTORS as u64),
            2 => (self.random.below(sectors), 8 + self.random.below(40)),
            _ => (self.random.below(sectors) / 8 * 8, 8),
        };
        Some((first as usize, count.min(sectors - first) as usize))
    }

    fn write(&mut self, at: usize, volume: &Arc<Volume>, how: Write) {
        let Some((first, count)) = self.range(volume) else { return };
        let value = match how {
            Write::Zeroes => 0,
            _ => self.lock().oracle.next_value(),
        };
        let is_lawful = self.is_lawful(at);
        {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            if is_lawful {
                vol.writing = Some(Writing { first, count, value });
                vol.contents.iter_mut().for_each(|content| content.begin(first, count, value));
            } else {
                state.oracle.haunt(Writing { first, count, value });
            }
        }
        let (label, what) = (how.label(), format!("{value} to {first}+{count} of volume {at}"));
        let result = self.act(label, what, |life| life.carry_out(volume, (first, count), value, how));
        if let Err(error) = result {
            return self.must_not_be_damage(label, &error);
        }
        if how == Write::Durable {
            self.check_confirmed(at, label);
        }
        if is_lawful && self.is_lawful(at) {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            vol.writing = None;
            for content in &mut vol.contents {
                content.end(first, count);
                if how == Write::Durable {
                    content.settle(first, count);
                }
            }
        }
    }

    fn carry_out(
        &mut self,
        volume: &Arc<Volume>,
        (first, count): (usize, usize),
        value: u32,
        how: Write,
    ) -> Result<()> {
        let (offset, bytes) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
        let data = self.bytes_of(value, first, count);
        match how {
            Write::Zeroes => return volume.write_zeroes(offset, bytes),
            Write::Plain => return volume.write_at(offset, &data),
            Write::Durable => {}
        }
        let mut begun = Vec::new();
        for part in parts(volume.block_bytes, offset, bytes) {
            let write = begin(volume, part.block, part.start, part.end)?;
            let slice = &data[part.at as usize..part.at as usize + (part.end - part.start) as usize];
            volume.carry_out(&write, &IoBuf::copy_of(slice))?;
            begun.push(write);
        }
        begun.iter().try_for_each(|write| volume.make_durable(write))
    }

    /// Something that makes all that was written before durable.
    fn flushing(
        &mut self,
        at: usize,
        label: &'static str,
        what: String,
        body: impl FnOnce(&mut Life) -> Result<()>,
    ) -> bool {
        let is_lawful = self.is_lawful(at);
        let opened = {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            if is_lawful {
                vol.contents.iter_mut().for_each(Content::begin_flush);
            }
            vol.opened
        };
        if let Err(error) = self.act(label, what, body) {
            self.must_not_be_damage(label, &error);
            return false;
        }
        let is_lawful = is_lawful && (self.is_lawful(at) || label == "close");
        let mut state = self.lock();
        let vol = &mut state.oracle.vols[at];
        if is_lawful && vol.opened == opened {
            vol.contents.iter_mut().for_each(Content::end_flush);
        }
        true
    }

    fn flush(&mut self, at: usize, volume: &Arc<Volume>) {
        if self.flushing(at, "flush", format!("volume {at}"), |_| volume.flush()) {
            self.check_confirmed(at, "flush");
        }
    }

    fn read(&mut self, at: usize, volume: &Arc<Volume>) {
        let Some((first, count)) = self.range(volume) else { return };
        let read = self.act("read", format!("{first}+{count} of volume {at}"), |life| {
            life.read_values(volume, first, count)
        });
        match read {
            Ok(values) => self.note_read(at, first, &values),
            Err(error) => self.must_not_be_damage("read", &error),
        }
    }

    fn snapshot(&mut self, at: usize, volume: &Arc<Volume>) {
        let is_lawful = self.is_lawful(at);
        let is_certain = self.lock().oracle.vols[at].contents.len() == 1;
        if !is_certain
            && (self.read_all(at, volume).is_err() || self.lock().oracle.vols[at].contents.len() > 1)
        {
            return;
        }
        let name = {
            let mut state = self.lock();
            let name = state.oracle.fresh("s");
            let vol = &mut state.oracle.vols[at];
            let content = vol.contents[0].shown();
            vol.snaps.push(Snap { name: name.clone(), must: false, is_wild: !is_lawful, content });
            name
        };
        let taken = snapshot_name(&name);
        let what = format!("{name} of volume {at}");
        if !self.flushing(at, "snapshot", what, |_| volume.snapshot(&taken)) {
            return;
        }
        self.check_confirmed(at, "snapshot");
        let is_lawful = is_lawful && self.is_lawful(at);
        let mut state = self.lock();
        if let Some(snap) = state.oracle.vols[at].snap(&name) {
            snap.must = is_lawful;
            snap.is_wild = !is_lawful;
        }
    }

    fn background(&mut self, label: &'static str, at: usize, body: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.act(label, format!("volume {at}"), |_| body()) {
            self.must_not_be_damage(label, &error);
        }
    }

    fn rollback(&mut self, at: usize, volume: &Arc<Volume>) {
        let Some(name) = self.pick_snapshot(at) else { return };
        {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            let Some(mut content) = vol.snap(&name).map(|snap| snap.content.clone()) else { return };
            content.opened();
            vol.contents.push(content);
        }
        let to = snapshot_name(&name);
        match self.act("rollback", format!("volume {at} to {name}"), |_| volume.rollback(&to)) {
            Ok(()) if self.is_lawful(at) => {
                let contents = &mut self.lock().oracle.vols[at].contents;
                contents.drain(..contents.len() - 1);
            }
            Ok(()) => {}
            Err(error) => {
                self.must_not_be_damage("rollback", &error);
                self.close();
            }
        }
    }

    fn resize(&mut self, at: usize, volume: &Arc<Volume>) {
        let bytes = (1 + self.random.below(6)) * BLOCK + self.random.below(3) * 2048;
        let before = {
            let mut state = self.lock();
            let vol = &mut state.oracle.vols[at];
            let resized: Vec<Content> = vol.contents.iter().map(|content| content.resized(bytes)).collect();
            let before = vol.contents.len();
            vol.contents.extend(resized);
            before
        };
        match self.act("resize", format!("volume {at} to {bytes}"), |_| volume.resize(bytes, true)) {
            Ok(()) if self.is_lawful(at) => {
                self.check_confirmed(at, "resize");
                self.lock().oracle.vols[at].contents.drain(..before);
            }
            Ok(()) => {}
            Err(error) => {
                self.must_not_be_damage("resize", &error);
                self.close();
            }
        }
    }

    pub fn close(&mut self) {
        let Some((at, volume)) = self.held.take() else { return };
        let opened = {
            let mut state = self.lock();
            let process = self.process;
            let vol = &mut state.oracle.vols[at];
            vol.is_closing |= vol.owner == Some(process);
            vol.opened
        };
        self.flushing(at, "close", format!("volume {at}"), |_| volume.close());
        drop(volume);
        let mut state = self.lock();
        let process = self.process;
        let vol = &mut state.oracle.vols[at];
        if vol.owner == Some(process) && vol.opened == opened {
            (vol.owner, vol.is_closing) = (None, false);
        }
    }
}

fn begin(volume: &Arc<Volume>, block: u64, start: u32, end: u32) -> Result<Begun> {
    loop {
        match volume.begin_write(block, start, end)? {
            Ok(begun) => return Ok(begun),
            Err(NotNow::NotLoaded) => volume.load_page(block)?,
            Err(NotNow::LogFull | NotNow::LogBusy) => volume.make_room()?,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Plain,
    Durable,
    Zeroes,
}

impl Write {
    fn label(self) -> &'static str {
        match self {
            Write::Plain => "write",
            Write::Durable => "durable write",
            Write::Zeroes => "zero",
        }
    }
}
