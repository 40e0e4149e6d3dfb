//! Writes that are in flight, in the model and in the library.

use std::sync::Arc;

use archipelago::error::Result;
use archipelago::sys::iobuf::IoBuf;
use archipelago::volume::{Begun, NotNow, Volume, Way};

use super::disk::{Disk, Event};
use super::image::SECTOR;
use super::model::{Sector, Shared, Value, Values};

/// The sectors of a range: index, and the part of it that is meant.
pub fn sectors(at: u64, bytes: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let sector = SECTOR as u64;
    (at / sector..(at + bytes).div_ceil(sector)).map(move |index| {
        let begin = index * sector;
        let from = at.max(begin) - begin;
        let to = (at + bytes).min(begin + sector) - begin;
        (index as usize, from as usize, to as usize)
    })
}

/// A write that is in flight in the model.
#[derive(Clone)]
pub struct Flight {
    pub model: Shared,
    pub values: Arc<Values>,
    pub disk: Arc<Disk>,
    pub volume: usize,
    pub at: u64,
    pub bytes: u64,
}

impl Flight {
    fn publish(&self) {
        let model = Arc::new(self.model.lock().clone());
        self.disk.push(Event::Model(model));
    }

    pub fn begin(&self, value: Value) {
        {
            let mut model = self.model.lock();
            let volume = &mut model.volumes[self.volume];
            for (index, from, to) in sectors(self.at, self.bytes) {
                for content in &mut volume.contents {
                    let Some(sector) = content.sectors.get_mut(index) else { continue };
                    let last = sector.last();
                    if to - from < SECTOR {
                        sector.tear();
                    }
                    sector.begin(self.values.compose(last, value, index as u64, from, to));
                    let last = sector.last();
                    for snapshot in volume.snapshots.iter_mut().filter(|snapshot| snapshot.taking) {
                        snapshot.content.sectors[index].may_be(last);
                    }
                }
            }
        }
        self.publish();
    }

    pub fn each(&self, mut with: impl FnMut(&mut Sector)) {
        self.visit(|sector, _| with(sector));
    }

    /// Those of which no byte is outside.
    pub fn each_whole(&self, mut with: impl FnMut(&mut Sector)) {
        self.visit(|sector, is_whole| {
            if is_whole {
                with(sector);
            }
        });
    }

    fn visit(&self, mut with: impl FnMut(&mut Sector, bool)) {
        {
            let mut model = self.model.lock();
            for content in &mut model.volumes[self.volume].contents {
                for (index, from, to) in sectors(self.at, self.bytes) {
                    if let Some(sector) = content.sectors.get_mut(index) {
                        with(sector, to - from == SECTOR);
                    }
                }
            }
        }
        self.publish();
    }

    pub fn end(&self) {
        self.each(Sector::end);
    }

    /// The bytes of the range, as the model has them written last.
    pub fn data(&self, value: Value) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.bytes as usize);
        for (index, from, to) in sectors(self.at, self.bytes) {
            data.extend_from_slice(&self.values.bytes(value, index as u64)[from..to]);
        }
        data
    }
}

pub fn begin(volume: &Arc<Volume>, block: u64, start: u32, end: u32) -> Result<Begun> {
    loop {
        match volume.begin_write(block, start, end)? {
            Ok(begun) => return Ok(begun),
            Err(NotNow::NotLoaded) => {
                let mut byte = [0];
                volume.read_at(block * volume.block_bytes + u64::from(start), &mut byte)?;
            }
            Err(NotNow::LogFull | NotNow::LogBusy) => volume.make_room()?,
        }
    }
}

/// A write (or zeroes) that begins while another request is under way. It
/// ends at once, or when the log's leader has written it.
pub fn visit(volume: &Arc<Volume>, flight: &Flight, value: Value, zero: bool) {
    let block = flight.at / volume.block_bytes;
    let start = (flight.at % volume.block_bytes) as u32;
    let Ok(Ok(begun)) = volume.begin_write(block, start, start + flight.bytes as u32) else { return };
    let value = if zero && begun.way == Way::Log { 0 } else { value };
    let data = flight.data(value);
    flight.begin(value);
    if begun.way == Way::Log {
        let ended = flight.clone();
        let done = Box::new(move |result: Result<()>| {
            if result.is_ok() {
                ended.end();
            }
        });
        let data = (value != 0).then(|| IoBuf::copy_of(&data));
        if volume.log_write(&begun, data, done) {
            volume.drive_log();
        }
        return;
    }
    if volume.carry_out(&begun, &IoBuf::copy_of(&data)).is_ok() {
        flight.end();
    }
}
