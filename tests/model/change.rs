//! Operations on names, snapshots, sizes and leases.

use super::content::Content;
use super::driver::{Ask, How, Outcome, Refusal};
use super::operation::{Op, Pick};
use super::play::{compare, reasons, Kind, Name, Open, Played, Taken, Volume, World};
use super::world::name as named;

use archipelago::catalog::volume as names;
use archipelago::ErrorKind;

impl World<'_> {
    pub fn change(&mut self, op: &Op) -> Played {
        match op {
            Op::Create { name, size_bytes } => self.create(*name, *size_bytes),
            Op::Clone { volume, snapshot, to, more_bytes } => {
                self.make_clone(*volume, *snapshot, *to, *more_bytes)
            }
            Op::Rename { from, to } => self.rename(*from, *to),
            Op::Remove { name } => self.remove(*name),
            Op::Open { name, how } => self.open(*name, *how),
            Op::OpenSnapshot { name, snapshot } => self.open_snapshot(*name, *snapshot),
            Op::Close { disk } => self.with_disk(*disk, |world, disk| world.close(disk)),
            Op::Resize { disk, size_bytes, shrink } => {
                self.with_disk(*disk, |world, disk| world.resize(disk, *size_bytes, *shrink))
            }
            Op::Snapshot { disk, name } => self.with_disk(*disk, |world, disk| world.snapshot(disk, *name)),
            Op::Rollback { disk, name } => self.with_disk(*disk, |world, disk| world.rollback(disk, *name)),
            Op::RemoveSnapshot { disk, name } => {
                self.with_disk(*disk, |world, disk| world.remove_snapshot(disk, *name))
            }
            Op::Snapshots { disk } => self.with_disk(*disk, |world, disk| {
                let writer = world.is_held(world.disks[disk].volume, How::Writable, Some(disk));
                if writer || world.content_of(disk).is_none() {
                    return Ok(());
                }
                world.count("list snapshots", false);
                world.check_list(disk)
            }),
            Op::Inactivate { disk } => self.with_disk(*disk, World::inactivate),
            Op::Activate { disk } => self.with_disk(*disk, World::activate),
            Op::SetReadOnly { disk, read_only } => {
                self.with_disk(*disk, |world, disk| world.set_read_only(disk, *read_only))
            }
            Op::Work { disk, which } => self.with_disk(*disk, |world, disk| {
                if !world.disks[disk].is_lease(How::Writable) {
                    return Ok(());
                }
                world.count("background work", false);
                compare(&world.disks[disk].disk.work(*which), &[])
            }),
            _ => Ok(()),
        }
    }

    fn with_disk(&mut self, pick: Pick, act: impl FnOnce(&mut Self, usize) -> Played) -> Played {
        match self.pick(pick) {
            Some(disk) => act(self, disk),
            None => Ok(()),
        }
    }

    fn add_volume(&mut self, name: Name, content: Content, is_clone: bool) {
        self.names.insert(name, self.volumes.len());
        self.volumes.push(Volume { content, is_clone, snapshots: Vec::new(), removed: false, turn: 0 });
    }

    fn create(&mut self, pick: Pick, size_bytes: u64) -> Played {
        let name = self.free_name(pick);
        let got = self.driver.create(name, size_bytes);
        let taken = self.volume_named(name).is_some();
        if self.settle("create", &got, &reasons(&[(taken, Refusal::Taken)]))? {
            self.add_volume(name, Content::zeroes(size_bytes), false);
        }
        Ok(())
    }

    fn make_clone(&mut self, volume: Pick, snapshot: Pick, to: Pick, more_bytes: i64) -> Played {
        let volume = self.name_of(volume, World::has_snapshots);
        let snapshot = self.snapshot_name(self.volume_named(volume), snapshot, true);
        let to = self.free_name(to);
        let source = self.taken_named(volume, snapshot);
        let content = source.map(|(volume, which)| self.volumes[volume].snapshots[which].content.clone());
        let source_bytes = content.as_ref().map_or(1, |content| content.size_bytes);
        let size_bytes = match more_bytes {
            0 => source_bytes,
            more => source_bytes.saturating_add_signed(more),
        };
        // To the C interface no size is the snapshot's.
        let asked = if more_bytes == 0 { 0 } else { size_bytes };
        let got = self.driver.clone_of(volume, snapshot, to, asked);
        let refusals = reasons(&[
            (source.is_none(), Refusal::Missing),
            (self.volume_named(to).is_some(), Refusal::Taken),
            (asked > 0 && size_bytes < source_bytes, Refusal::Mistake),
        ]);
        if let (true, Some(mut content)) = (self.settle("clone", &got, &refusals)?, content) {
            content.resize(if asked == 0 { source_bytes } else { size_bytes });
            self.add_volume(to, content, true);
        }
        Ok(())
    }

    fn rename(&mut self, from: Pick, to: Pick) -> Played {
        let (from, to) = (self.name_of(from, |_, _| true), self.free_name(to));
        let got = names::rename(self.driver.store(), &named(from), &named(to));
        let got: Outcome<()> = got.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Refusal::Missing,
            ErrorKind::Exists => Refusal::Taken,
            _ => Refusal::Other(error.full()),
        });
        let source = self.volume_named(from);
        let refusals = reasons(&[
            (source.is_none(), Refusal::Missing),
            (from != to && self.volume_named(to).is_some(), Refusal::Taken),
        ]);
        if let (true, Some(volume)) = (self.settle("rename", &got, &refusals)?, source) {
            self.names.remove(from);
            self.names.insert(to, volume);
        }
        Ok(())
    }

    fn remove(&mut self, pick: Pick) -> Played {
        let name = self.name_of(pick, |world, volume| !world.has_snapshots(volume));
        let got = self.driver.remove(name);
        let volume = self.volume_named(name);
        let held = volume.is_some_and(|volume| {
            self.has_snapshots(volume)
                || self.is_held(volume, How::Writable, None)
                || self.is_barred(volume, None)
        });
        let refusals = reasons(&[(volume.is_none(), Refusal::Missing), (held, Refusal::Held)]);
        if let (true, Some(volume)) = (self.settle("remove", &got, &refusals)?, volume) {
            self.volumes[volume].removed = true;
            self.names.remove(name);
        }
        Ok(())
    }

    /// Readers keep writers away, where the store has locks.
    fn is_barred(&self, volume: usize, except: Option<usize>) -> bool {
        let locks = self.driver.store().control().capabilities().fences;
        locks && self.is_held(volume, How::ReadOnly, except)
    }

    /// Who stands in the way of opening a volume so.
    fn in_the_way(&self, volume: usize, how: How, except: Option<usize>) -> bool {
        let writer = self.is_held(volume, How::Writable, except);
        match how {
            How::Writable => writer || self.is_barred(volume, except),
            How::ReadOnly => writer,
            How::Inactive => false,
        }
    }

    fn open(&mut self, pick: Pick, how: How) -> Played {
        if !self.has_room() {
            return Ok(());
        }
        let name = self.name_of(pick, |world, volume| !world.in_the_way(volume, how, None));
        let got = self.driver.open(name, None, how);
        let volume = self.volume_named(name);
        let held = volume.is_some_and(|volume| self.in_the_way(volume, how, None));
        let refusals = reasons(&[(volume.is_none(), Refusal::Missing), (held, Refusal::Held)]);
        let told = got.as_ref().map(drop).map_err(Clone::clone);
        self.settle("open", &told, &refusals)?;
        if let (Ok(disk), Some(volume)) = (got, volume) {
            let becomes = if how == How::ReadOnly { How::ReadOnly } else { How::Writable };
            let turn = self.turn(volume, how);
            // An inactive one beside a writer may read what is old already.
            let stale = how == How::Inactive && self.is_held(volume, How::Writable, None);
            let turn = if stale { u64::MAX } else { turn };
            self.disks.push(Open { disk, volume, kind: Kind::Volume { how, becomes }, turn });
            let at = self.disks.len() - 1;
            return self.verify(at);
        }
        Ok(())
    }

    /// Opening to write makes what others have read old.
    fn turn(&mut self, volume: usize, how: How) -> u64 {
        if how == How::Writable {
            self.volumes[volume].turn += 1;
        }
        self.volumes[volume].turn
    }

    fn open_snapshot(&mut self, name: Pick, snapshot: Pick) -> Played {
        if !self.has_room() {
            return Ok(());
        }
        let name = self.name_of(name, World::has_snapshots);
        let snapshot = self.snapshot_name(self.volume_named(name), snapshot, true);
        let got = self.driver.open(name, Some(snapshot), How::ReadOnly);
        let source = self.taken_named(name, snapshot);
        let told = got.as_ref().map(drop).map_err(Clone::clone);
        self.settle("open snapshot", &told, &reasons(&[(source.is_none(), Refusal::Missing)]))?;
        if let (Ok(disk), Some((volume, which))) = (got, source) {
            self.disks.push(Open { disk, volume, kind: Kind::Snapshot(which), turn: 0 });
            return self.verify(self.disks.len() - 1);
        }
        Ok(())
    }

    fn close(&mut self, disk: usize) -> Played {
        let open = self.disks.remove(disk);
        self.settle("close", &open.disk.close(), &[]).map(drop)
    }

    /// The reasons for which a disk as it is open changes nothing.
    fn not_writable(&self, disk: usize) -> Vec<(bool, Refusal)> {
        let how = self.disks[disk].how();
        vec![(how == How::ReadOnly, Refusal::ReadOnly), (how == How::Inactive, Refusal::Held)]
    }

    fn resize(&mut self, disk: usize, size_bytes: u64, shrink: bool) -> Played {
        let Some(content) = self.content_of(disk) else { return Ok(()) };
        let mut all = self.not_writable(disk);
        all.push((size_bytes < content.size_bytes && !shrink, Refusal::Mistake));
        let answer = self.disks[disk].disk.submit(size_bytes, Ask::Resize { shrink }).wait();
        if self.settle("resize", &answer.result, &reasons(&all))? {
            self.volumes[self.disks[disk].volume].content.resize(size_bytes);
        }
        self.verify(disk)
    }

    fn snapshot(&mut self, disk: usize, pick: Pick) -> Played {
        let volume = self.disks[disk].volume;
        let name = self.snapshot_name(Some(volume), pick, false);
        let mut all = self.not_writable(disk);
        all.push((self.find_taken(volume, name).is_some(), Refusal::Taken));
        let got = self.disks[disk].disk.snapshot(name);
        if self.settle("snapshot", &got, &reasons(&all))? {
            let content = self.volumes[volume].content.clone();
            self.volumes[volume].snapshots.push(Taken { name, content, removed: false });
        }
        Ok(())
    }

    fn rollback(&mut self, disk: usize, pick: Pick) -> Played {
        let volume = self.disks[disk].volume;
        let name = self.snapshot_name(Some(volume), pick, true);
        let found = self.find_taken(volume, name);
        let mut all = self.not_writable(disk);
        all.push((found.is_none(), Refusal::Missing));
        let got = self.disks[disk].disk.rollback(name);
        if let (true, Some(which)) = (self.settle("rollback", &got, &reasons(&all))?, found) {
            self.volumes[volume].content = self.volumes[volume].snapshots[which].content.clone();
        }
        self.verify(disk)
    }

    fn remove_snapshot(&mut self, disk: usize, pick: Pick) -> Played {
        let volume = self.disks[disk].volume;
        let name = self.snapshot_name(Some(volume), pick, true);
        let found = self.find_taken(volume, name);
        let mut all = self.not_writable(disk);
        all.push((found.is_none(), Refusal::Missing));
        let got = self.disks[disk].disk.remove_snapshot(name);
        if let (true, Some(which)) = (self.settle("remove snapshot", &got, &reasons(&all))?, found) {
            self.volumes[volume].snapshots[which].removed = true;
        }
        Ok(())
    }

    fn inactivate(&mut self, disk: usize) -> Played {
        let open = &self.disks[disk];
        let gone = open.is_lease(How::ReadOnly) && self.volumes[open.volume].removed;
        let got = open.disk.inactivate();
        if self.settle("inactivate", &got, &reasons(&[(gone, Refusal::Missing)]))? {
            if let Kind::Volume { how, .. } = &mut self.disks[disk].kind {
                *how = How::Inactive;
            }
        }
        self.verify(disk)
    }

    fn activate(&mut self, disk: usize) -> Played {
        let open = &self.disks[disk];
        let (volume, was) = (open.volume, open.how());
        let (wanted, gone) = match open.kind {
            Kind::Volume { how: How::Writable, .. } => (How::Writable, false),
            Kind::Volume { how: How::ReadOnly, .. } => (How::ReadOnly, self.volumes[volume].removed),
            Kind::Volume { becomes, .. } => (becomes, self.volumes[volume].removed),
            Kind::Snapshot(_) => (How::Inactive, false),
        };
        let held = self.in_the_way(volume, wanted, Some(disk));
        let got = self.disks[disk].disk.activate();
        let refusals = reasons(&[(gone, Refusal::Missing), (held, Refusal::Held)]);
        if self.settle("activate", &got, &refusals)? && was == How::Inactive {
            self.becomes(disk, wanted);
        }
        self.verify(disk)
    }

    /// A disk has been opened anew.
    fn becomes(&mut self, disk: usize, wanted: How) {
        let turn = self.turn(self.disks[disk].volume, wanted);
        if let Kind::Volume { how, .. } = &mut self.disks[disk].kind {
            *how = wanted;
        }
        self.disks[disk].turn = turn;
    }

    fn set_read_only(&mut self, disk: usize, read_only: bool) -> Played {
        let wanted = if read_only { How::ReadOnly } else { How::Writable };
        let got = self.disks[disk].disk.set_read_only(read_only);
        let (volume, kind) = (self.disks[disk].volume, self.disks[disk].kind);
        let changes = matches!(kind, Kind::Volume { how, .. } if how != wanted && how != How::Inactive);
        // Where there are no locks, readers keep nobody from removing it.
        let gone = changes && self.volumes[volume].removed;
        let refusals = reasons(&[
            (matches!(kind, Kind::Snapshot(_)) && !read_only, Refusal::ReadOnly),
            (gone, Refusal::Missing),
            (changes && self.in_the_way(volume, wanted, Some(disk)), Refusal::Held),
        ]);
        if self.settle("set read-only", &got, &refusals)? {
            if let Kind::Volume { becomes, .. } = &mut self.disks[disk].kind {
                *becomes = wanted;
            }
            if changes {
                self.becomes(disk, wanted);
            }
        }
        self.verify(disk)
    }
}
