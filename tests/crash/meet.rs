//! Acts that meet: something happens while something else is under way, or
//! goes wrong in the middle.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use archipelago::error::ErrorKind;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{parts, run_steps, Way};

use super::act::Act;
use super::disk::{Failure, Op};
use super::flight::{begin, visit, Flight};
use super::image::SECTOR;
use super::report::fault_of_call;
use super::world::{wrong, Outcome, Stop, World};

impl World {
    pub fn held(
        &mut self,
        at: usize,
        offset: u64,
        bytes: u64,
        during: &Act,
    ) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some(mut flight) = self.flight(at, offset, bytes.next_multiple_of(512)) else { return Ok(()) };
        flight.at = flight.at / 512 * 512;
        let mut data = vec![0; flight.bytes as usize];
        volume.read_at(flight.at, &mut data)?;
        let before = self.model.lock().volumes[at].contents[0].clone();
        let first_new = self.counter.load(Ordering::Relaxed);
        let mut planned = Vec::new();
        for part in parts(volume.block_bytes, flight.at, flight.bytes) {
            if let Some(steps) = volume.plan_read(part.block, part.start, part.end) {
                planned.push((part, steps));
            }
        }
        self.act(during).map_err(Stop::from)?;
        for (part, steps) in planned {
            let buf = IoBuf::alloc((part.end - part.start) as usize);
            match run_steps(volume.store.blocks(), &steps, &buf) {
                // A block may be merged away and collected: the read is planned again.
                Err(error)
                    if error.is(ErrorKind::NotFound)
                        && !error.object().unwrap_or_default().starts_with("log/") =>
                {
                    continue
                }
                other => other?,
            }
            let begin = part.block * volume.block_bytes + u64::from(part.start);
            let mut data = vec![0; buf.len()];
            buf.copy_to(0, &mut data);
            for (nth, bytes) in data.chunks(SECTOR).enumerate() {
                let sector = begin as usize / SECTOR + nth;
                let mut whole = [0; SECTOR];
                whole[..bytes.len()].copy_from_slice(bytes);
                let value = self.values.read(&whole, sector as u64);
                let fresh = value == 0 || value >= first_new;
                if !before.sectors[sector].shows(value) && !fresh {
                    return Err(Stop::from(format!(
                        "a read that was planned before shows value {value} in sector {sector}, not {:?}",
                        before.sectors[sector]
                    )));
                }
            }
        }
        Ok(())
    }

    /// Lets another write in between two calls of what `during` does.
    pub fn visited(&mut self, when: (u64, bool), what: (u64, u64, bool), during: &Act) -> Outcome<()> {
        let (offset, bytes, zero) = what;
        let (Act::Flush { volume }
        | Act::Snapshot { volume }
        | Act::Publish { volume }
        | Act::Settle { volume }
        | Act::Work { volume }
        | Act::Clone { volume, .. }
        | Act::RemoveSnapshot { volume, .. }
        | Act::Resize { volume, .. }) = during
        else {
            return self.act(during);
        };
        let Some(at) = self.pick(*volume) else { return Ok(()) };
        let handle = self.open(at).map_err(|stop| wrong("open", &stop.0))?;
        let (model, values, disk) = (self.model.clone(), self.values.clone(), self.disk.clone());
        let counter = self.counter.clone();
        let block_bytes = handle.block_bytes;
        let visitor = Box::new(move || {
            let size =
                model.lock().volumes[at].contents.iter().map(|content| content.bytes).min().unwrap_or(0);
            let offset = offset % size.max(1);
            let bytes = bytes.min(block_bytes - offset % block_bytes).min(size.saturating_sub(offset));
            if bytes > 0 {
                let (model, values, disk) = (model.clone(), values.clone(), disk.clone());
                let flight = Flight { model, values, disk, volume: at, at: offset, bytes };
                visit(&handle, &flight, counter.fetch_add(1, Ordering::Relaxed), zero);
            }
        });
        self.disk.visit(Some((when.0, when.1, visitor)));
        let result = self.act(during);
        self.disk.visit(None);
        result?;
        self.run(&Act::Read { volume: 0 }, at).map_err(|stop| wrong("read", &stop.0))
    }

    /// One call fails; whatever comes of it, the process dies after that.
    pub fn failing(&mut self, nth: u64, failure: Failure, during: &Act) -> Outcome<()> {
        if matches!(
            during,
            Act::Failing { .. }
                | Act::Visited { .. }
                | Act::Collected { .. }
                | Act::Lagging { .. }
                | Act::Held { .. }
                | Act::Haunted { .. }
                | Act::RenameHalf { .. }
        ) {
            return self.act(during);
        }
        self.disk.fail(Some((nth, failure)));
        let result = self.act(during);
        let has_failed = self.disk.has_failed();
        self.disk.fail(None);
        if !has_failed {
            return result;
        }
        self.counts.fault(fault_of_call(failure));
        for at in 0..self.handles.len() {
            let there = self.model.lock().volumes[at].must;
            if there {
                self.kill(at)
                    .map_err(|stop| wrong(&format!("open after {failure:?} in {during:?}"), &stop.0))?;
            }
        }
        Ok(())
    }

    pub fn haunted(&mut self, at: usize, offset: u64, bytes: u64) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        let Some(mut flight) = self.flight(at, offset, bytes.next_multiple_of(512)) else { return Ok(()) };
        flight.at = flight.at / 512 * 512;
        let block = flight.at / volume.block_bytes;
        flight.bytes = flight.bytes.min((block + 1) * volume.block_bytes - flight.at) / 512 * 512;
        if flight.bytes == 0 {
            return Ok(());
        }
        let start = (flight.at % volume.block_bytes) as u32;
        let begun = begin(&volume, block, start, start + flight.bytes as u32)?;
        let value = self.next_value();
        let data = flight.data(value);
        flight.begin(value);
        if begun.way != Way::InPlace {
            volume.carry_out(&begun, &IoBuf::copy_of(&data))?;
            flight.end();
            return Ok(());
        }
        self.kill(at)?;
        // It may land at any time, until it is overwritten.
        flight.each(|sector| sector.may_be(value));
        self.write(at, flight.at, flight.bytes, false)?;
        self.run(&Act::Flush { volume: at }, at)?;
        self.disk.land(Op::Write { name: begun.name(), offset: u64::from(start), data: Arc::from(data) });
        self.read(at)
    }
}
