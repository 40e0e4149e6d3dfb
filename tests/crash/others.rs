//! Others who use the store: a gc in the middle of something, and a holder
//! that slept while it was taken over and does not know it.

use std::sync::Arc;

use archipelago::backend::BackendExt;
use archipelago::error::ErrorKind;
use archipelago::name::{prefix, Id, ObjectName, SnapshotName};
use parking_lot::Mutex;

use super::act::Act;
use super::lag::Lag;
use super::world::{self, collect, wrong, Outcome, Stop, World};

impl World {
    /// Runs a whole gc between two calls of what `during` does.
    pub fn collected(&mut self, when: (u64, bool), during: &Act) -> Outcome<()> {
        let (store, options) = (self.store.clone(), self.options.clone());
        let failed = Arc::new(Mutex::new(None));
        let outcome = Arc::clone(&failed);
        let visitor = Box::new(move || *outcome.lock() = collect(&store, &options).err());
        self.disk.visit(Some((when.0, when.1, visitor)));
        let result = self.act(during);
        self.disk.visit(None);
        result?;
        let failed = failed.lock().take();
        failed.map_or(Ok(()), |error| Err(wrong(&format!("gc during {during:?}"), &error)))
    }

    /// Does something, and runs a gc on one host after another, each of which
    /// has looked at some of the folders before. It may find that it cannot go
    /// on.
    pub fn lagging(&mut self, seed: u64, during: impl FnOnce(&mut World) -> Outcome<()>) -> Outcome<()> {
        let before = self.disk.image();
        during(self)?;
        for host in 0..4 {
            let lag = Lag::new(before.clone(), seed.wrapping_add(host));
            world::lag(Some((&self.disk, lag)));
            let result = collect(&self.store, &self.options);
            world::lag(None);
            match result {
                Err(error) if !error.is(ErrorKind::Unavailable) => {
                    return Err(wrong("gc while listings lag", &error))
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The holder sleeps when it has just opened the volume: it knows the last
    /// numbers, and nothing of it can be under way.
    pub fn sleep(&mut self, at: usize) -> std::result::Result<(), Stop> {
        let volume = self.open(at)?;
        self.flushing(at, |_| Ok(volume.close()?))?;
        self.handles[at] = None;
        let volume = self.open(at)?;
        self.kill(at)?;
        self.asleep = Some((at, volume));
        Ok(())
    }

    /// The one that slept adds a number. It may succeed only if that is the
    /// highest: else what it believes to have done is lost.
    pub fn wake(&mut self, adds_head: bool) -> Outcome<()> {
        let Some((at, volume)) = self.asleep.take() else { return Ok(()) };
        if !self.model.lock().volumes[at].must {
            return Ok(());
        }
        let before = self.numbers(volume.id, adds_head);
        let done = match adds_head {
            true => volume.settle_all(),
            false => SnapshotName::new(&self.fresh("z")).and_then(|name| volume.snapshot(&name)),
        };
        let after = self.numbers(volume.id, adds_head);
        // It may make what was cleaned away, if it then finds out.
        drop(self.disk.take_again());
        let what = if adds_head { "head" } else { "log segment" };
        if let (Ok(()), Some(made)) = (done, after.iter().find(|number| !before.contains(number))) {
            if let Some(higher) = after.iter().find(|number| *number > made) {
                return Err(format!("a holder that slept relies on {what} {made}, and there is {higher}"));
            }
        }
        self.run(&Act::Read { volume: 0 }, at).map_err(|stop| wrong("read", &stop.0))
    }

    /// The numbers of a volume's heads, or else of its log segments.
    fn numbers(&self, id: Id, of_heads: bool) -> Vec<u64> {
        let wanted = if of_heads { prefix::heads_of(id) } else { prefix::segments_of(id) };
        let names = self.store.control().list_all(&wanted).unwrap();
        let number = |name: ObjectName| match name {
            ObjectName::Head { number, .. } | ObjectName::Segment { number, .. } => Some(number),
            _ => None,
        };
        names.into_iter().filter_map(number).collect()
    }
}
