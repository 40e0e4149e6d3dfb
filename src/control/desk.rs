//! The volumes that this process holds, for those who ask about them: who is
//! asking now keeps a volume from being handed over or closed until it is
//! answered, and who hands over or closes keeps others from asking.

use std::sync::Arc;

use super::jobs::Jobs;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Device;
use crate::name::Id;
use crate::sync::{Condvar, Mutex};
use crate::volume::Mode;

/// All volumes that can be asked about.
#[derive(Debug, Default)]
pub struct Desk {
    seats: Mutex<Vec<Arc<Seat>>>,
}

/// One volume.
#[derive(Debug)]
pub struct Seat {
    pub device: Arc<Device>,
    /// Of the store: its members may ask.
    pub group: Option<u32>,
    pub jobs: Jobs,
    doing: Mutex<Doing>,
    /// Signalled when nobody asks any more.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Doing {
    asking: usize,
    shut: usize,
}

/// A volume that stays while somebody asks about it.
#[derive(Debug)]
pub struct Asking(Arc<Seat>);

impl std::ops::Deref for Asking {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.0
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut doing = self.0.doing.lock();
        doing.asking -= 1;
        if doing.asking == 0 {
            self.0.left.notify_all();
        }
    }
}

impl Desk {
    pub fn add(&self, device: Arc<Device>, group: Option<u32>) -> Arc<Seat> {
        let (doing, left) = (Mutex::default(), Condvar::default());
        let seat = Arc::new(Seat { device, group, jobs: Jobs::default(), doing, left });
        self.seats.lock().push(Arc::clone(&seat));
        seat
    }

    /// Of a seat that is shut.
    pub fn remove(&self, seat: &Arc<Seat>) {
        self.seats.lock().retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// The groups whose members may ask about something.
    pub fn groups(&self) -> Vec<u32> {
        self.seats.lock().iter().filter_map(|seat| seat.group).collect()
    }

    /// The handle that holds a volume. Errors: `NotFound` if there is none;
    /// `Busy` while it is handed over or closed.
    pub fn ask(&self, store: Id, volume: Id) -> Result<Asking> {
        let is_it = |seat: &&Arc<Seat>| {
            let open = seat.device.volume();
            open.id == volume && open.store.id == store && open.mode() == Mode::Writable
        };
        let seats = self.seats.lock();
        let seat = seats.iter().find(is_it).ok_or_else(|| {
            Error::sentence(ErrorKind::NotFound, "this process does not hold that volume (any more)")
        })?;
        let mut doing = seat.doing.lock();
        if doing.shut > 0 {
            let words = "the volume is being handed over or closed: try again in a moment";
            return Err(Error::sentence(ErrorKind::Busy, words));
        }
        doing.asking += 1;
        Ok(Asking(Arc::clone(seat)))
    }
}

impl Seat {
    /// Waits until nobody asks, has the jobs end, and lets nobody ask until
    /// what it returns is dropped.
    pub fn shut(&self) -> ShutSeat<'_> {
        {
            let mut doing = self.doing.lock();
            doing.shut += 1;
            while doing.asking > 0 {
                self.left.wait(&mut doing);
            }
        }
        self.jobs.end_all();
        ShutSeat(self)
    }
}

/// Nobody asks about this volume.
#[derive(Debug)]
pub struct ShutSeat<'a>(&'a Seat);

impl Drop for ShutSeat<'_> {
    fn drop(&mut self) {
        self.0.doing.lock().shut -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::backend::memory::Memory;
    use crate::catalog::volume as names;
    use crate::io::DeviceOptions;
    use crate::name::VolumeName;
    use crate::store::Store;
    use crate::volume::OpenOptions;

    /// A snapshot that is just being taken while the volume is closed would be
    /// cut into a log that another process writes by then.
    #[test]
    fn closing_waits_for_who_asks_and_nobody_asks_meanwhile() {
        let store = Store::init("test", Arc::new(Memory::new()), 64 << 10).unwrap();
        let volume = VolumeName::new("v").unwrap();
        let id = names::create(&store, &volume, 1 << 20, 64 << 10).unwrap();
        let (open, active, snapshot) = (OpenOptions::default(), Mode::Writable, None);
        let options = DeviceOptions { volume, snapshot, open, active, no_flush: false };
        let device = Arc::new(Device::open(store.clone(), options).unwrap());
        let desk = Arc::new(Desk::default());
        let seat = desk.add(Arc::clone(&device), Some(7));
        let asking = desk.ask(store.id, id).unwrap();
        assert!(desk.ask(Id(1), id).unwrap_err().is(ErrorKind::NotFound));
        assert!(desk.ask(store.id, Id(1)).unwrap_err().is(ErrorKind::NotFound));
        let (sender, shut) = mpsc::channel();
        let (there, its) = (Arc::clone(&desk), Arc::clone(&seat));
        let closing = std::thread::spawn(move || {
            let _shut = its.shut();
            sender.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            there.remove(&its);
        });
        assert!(shut.recv_timeout(Duration::from_millis(200)).is_err(), "somebody asks still");
        assert!(desk.ask(store.id, id).unwrap_err().is(ErrorKind::Busy));
        drop(asking);
        shut.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(desk.ask(store.id, id).unwrap_err().is(ErrorKind::Busy));
        closing.join().unwrap();
        assert!(desk.ask(store.id, id).unwrap_err().is(ErrorKind::NotFound));
        assert!(desk.groups().is_empty());
        desk.add(Arc::clone(&device), Some(7));
        drop(desk.ask(store.id, id).unwrap());
        device.inactivate().unwrap();
        assert!(desk.ask(store.id, id).unwrap_err().is(ErrorKind::NotFound), "it is not held");
        assert_eq!(desk.groups(), [7u32]);
        device.close().unwrap();
    }
}
