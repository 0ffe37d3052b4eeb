//! The disk domain as a service: which disks there are, and what happens to all of them at once.

use alloc::boxed::Box;
use alloc::vec::Vec;

use heapless::Vec as Short;
use protocol::connection::{BlockAttach, DiskInfo, DiskLimits, Frontend, KillPoint, Statistics};
use protocol::control::{FromDomain, ToDomain};
use protocol::grant::MAX_BATCH;
use protocol::record::{self, ENTRIES_MAX};
use protocol::ring::block::Layout;
use protocol::ring::sring::Geometry;
use unikernel::backend::{Broken, Cause, DevicePages, Host, Refusal, Ring, Service, Table};
use unikernel::control::refuse;

use crate::connection::{Batch, Connection, Goal, SEGMENTS_MAX, untag};
use crate::disk::{Disk, Outcome, Properties};
use crate::parameters::Parameters;
use crate::partition::Partition;
use crate::targets::{Target, Targets};

/// Longest time a request may be with the device, the own reset included, in ns. Disks that spin up take some seconds.
pub const TIMEOUT_NS: u64 = 10_000_000_000;
/// When the driver resets the device by itself, in ns after it was given a request that it does not complete.
const RESET_AFTER_NS: u64 = 4_000_000_000;
/// Completions taken from one disk in one turn: as many as its queue can hold.
const COMPLETIONS_PER_TURN: usize = 256;

/// The largest record there is: that of the largest ring.
pub const RECORD: usize = record::size(Geometry {
    entries: ENTRIES_MAX as u32,
    ..Layout::X86_64.geometry(protocol::connection::RING_PAGES_MAX)
});

/// A disk with what is known of it.
struct Unit {
    disk: Box<dyn Disk>,
    /// Since when its reset is under way, in ns.
    resetting: Option<u64>,
    /// When it was reset last.
    reset_at: u64,
    /// It cannot be had back. Its requests stay where they are, until dom0 starts the domain again.
    lost: bool,
}

/// Requests that the device is done with, until they are answered.
#[derive(Default)]
struct Done {
    requests: Short<(u16, u16, Outcome), MAX_BATCH>,
    unmap: Short<u32, MAX_BATCH>,
}

/// The service.
pub struct Disks<M> {
    units: Vec<Unit>,
    targets: Targets,
    batch: Batch,
    done: Done,
    machine: core::marker::PhantomData<fn() -> M>,
}

impl<M> Default for Disks<M> {
    fn default() -> Self {
        Disks {
            units: Vec::new(),
            targets: Targets::default(),
            batch: Batch::default(),
            done: Done::default(),
            machine: core::marker::PhantomData,
        }
    }
}

impl<M: DevicePages> Disks<M> {
    /// Adds a disk that works.
    pub fn add(&mut self, name: &str, disk: Box<dyn Disk>, partitions: &[Partition]) {
        let index = self.units.len();
        self.units.push(Unit { disk, resetting: None, reset_at: 0, lost: false });
        self.targets.add(index, name, partitions);
    }

    /// What a target is like to somebody who may, or may not, write.
    fn limits(&self, target: &Target, read_only: bool) -> Option<DiskLimits> {
        let Properties { sectors, sector_size, read_only: never, discard, pieces, .. } =
            self.units.get(target.disk)?.disk.properties();
        Some(DiskLimits {
            sectors: target.part.map_or(sectors, |(_, count)| count),
            sector_size,
            read_only: read_only || never,
            flush: true,
            discard,
            indirect_segments: pieces.min(SEGMENTS_MAX as u16),
        })
    }

    fn info(&self, index: u16, table: &Table<Connection<M>>) -> Option<DiskInfo> {
        let target = self.targets.at(index.into())?;
        let same = |goal: &Goal| goal.disk == target.disk && goal.part == target.part;
        let users = table.serving().filter(|(_, connection)| same(connection.goal())).count() as u16;
        let limits = self.limits(target, false)?;
        Some(DiskInfo { name: target.name.clone(), label: target.label.clone(), limits, users })
    }

    /// Unmaps the pages of the requests that are done, by one hypercall, and answers them.
    fn answer(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>) {
        let Done { requests, unmap } = &mut self.done;
        if !unmap.is_empty() {
            host.machine.unmap_pages(unmap);
            if let Some(connection) = requests.first().and_then(|(number, ..)| table.get_mut(*number)) {
                connection.count_grant_call();
            }
            unmap.clear();
        }
        for (number, slot, done) in requests.iter() {
            host.pass(KillPoint::AfterCompletion);
            if let Some(connection) = table.get_mut(*number) {
                connection.finish(host, *number, *slot, *done);
            }
        }
        requests.clear();
        for (_, connection) in table.live_mut() {
            connection.publish(host);
        }
    }

    /// Takes what one disk completed; gives whether there may be more.
    #[inline(never)]
    fn collect(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, index: usize) -> bool {
        for _ in 0..COMPLETIONS_PER_TURN {
            let unit = &mut self.units[index];
            let completed = match unit.disk.completed() {
                Ok(None) => return false,
                Ok(Some(completed)) => completed,
                Err(fault) => {
                    start_reset(unit, index, host.machine.now(), fault.0);
                    return false;
                }
            };
            let (number, slot) = untag(completed.0);
            // The largest request there is has to find room.
            if self.done.unmap.len() + SEGMENTS_MAX > MAX_BATCH || self.done.requests.is_full() {
                self.answer(host, table);
            }
            let Some(connection) = table.get_mut(number) else { continue };
            // There is room: it was just made.
            let known = connection.completed(slot, |mapping| {
                let _ = self.done.unmap.push(mapping);
            });
            match known {
                // Nothing was mapped for it alone, and it does not overtake others.
                true if self.done.unmap.is_empty() => {
                    host.pass(KillPoint::AfterCompletion);
                    connection.finish(host, number, slot, completed.1);
                }
                true => drop(self.done.requests.push((number, slot, completed.1))),
                false => {}
            }
        }
        true
    }

    /// Looks after a disk that is being reset; gives whether it works again.
    fn reset(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, index: usize) -> bool {
        let unit = &mut self.units[index];
        match unit.disk.is_reset() {
            Ok(false) => return false,
            Ok(true) => {}
            Err(fault) => {
                log::error!("disk {index} cannot be had back: {}", fault.0);
                (unit.resetting, unit.lost) = (None, true);
                return false;
            }
        }
        (unit.resetting, unit.reset_at) = (None, host.machine.now());
        log::warn!("disk {index} was reset and works again");
        for (_, connection) in table.live_mut().filter(|(_, connection)| connection.goal().disk == index) {
            connection.device_was_reset(host);
        }
        true
    }
}

fn start_reset(unit: &mut Unit, index: usize, now: u64, why: &str) {
    if unit.resetting.is_none() && !unit.lost {
        log::warn!("disk {index} is reset: {why}");
        unit.disk.start_reset();
        unit.resetting = Some(now);
    }
}

/// The message, if it attaches to a disk.
fn block(message: &ToDomain) -> Option<&BlockAttach> {
    match message {
        ToDomain::BlockAttach(attach) => Some(attach),
        _ => None,
    }
}

impl<M: DevicePages> Service for Disks<M> {
    type Machine = M;
    type Connection = Connection<M>;

    const RECORD: usize = RECORD;

    fn frontend(message: &ToDomain) -> Option<&Frontend> {
        block(message).map(|attach| &attach.frontend)
    }

    // What lies on the stack here must not be on it while the domain runs.
    #[inline(never)]
    fn attach(&mut self, host: &Host<M>, message: &ToDomain) -> Result<(Connection<M>, FromDomain), Refusal> {
        const NO_DISK: Refusal = Refusal::Impossible(Cause::Text("there is no such disk or partition; see `disks`"));
        let attach = block(message).ok_or(NO_DISK)?;
        let target = self.targets.find(&attach.target).ok_or(NO_DISK)?;
        let limits = self.limits(target, attach.read_only).ok_or(NO_DISK)?;
        let offered = Parameters::new(&target.name, &limits, attach.layout);
        let record = host.machine.record(attach.frontend.connection, 0, RECORD);
        let geometry = |pages| attach.layout.geometry(pages);
        let attached = Ring::attach(host, &attach.frontend, &attach.ring, geometry, record, &offered.encode())?;
        let promised = Parameters::decode(&attached.parameters);
        if let Some(why) = promised.broken_by(&offered) {
            return Err(Broken::by_backend(Cause::Text(why)).into());
        }
        let goal = Goal {
            peer: attach.frontend.peer,
            persistent: attach.persistent,
            disk: target.disk,
            part: target.part,
            parameters: promised,
        };
        let sectors = self.units[target.disk].disk.properties().sectors;
        let connection = Connection::new(attached.ring, goal, sectors);
        let mut connection = connection.ok_or(Refusal::Impossible(Cause::Text("no memory for another connection")))?;
        connection.replay(host, &attached.replays);
        let replayed = attached.replays.len() as u32;
        let answer = FromDomain::BlockAttached { limits: connection.disk_limits(), replayed };
        Ok((connection, answer))
    }

    fn attached(&self, connection: &Connection<M>) -> FromDomain {
        FromDomain::BlockAttached { limits: connection.disk_limits(), replayed: 0 }
    }

    fn forget(&mut self, host: &Host<M>, connection: u16) {
        record::forget(&host.machine.record(connection, 0, RECORD));
    }

    fn device(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>) -> bool {
        let mut more = false;
        for index in 0..self.units.len() {
            match self.units[index].resetting {
                Some(_) => more |= self.reset(host, table, index),
                None => more |= self.collect(host, table, index),
            }
        }
        self.answer(host, table);
        more
    }

    fn serve(&mut self, host: &Host<M>, number: u16, connection: &mut Connection<M>) -> Result<bool, Broken> {
        let Some(unit) = self.units.get_mut(connection.goal().disk) else { return Ok(false) };
        connection.serve(host, number, &mut *unit.disk, &mut self.batch)
    }

    fn flush(&mut self, _: &Host<M>) -> bool {
        let mut more = false;
        for unit in &mut self.units {
            unit.disk.kick();
            more |= unit.disk.is_done();
        }
        more
    }

    fn rearm(&mut self, host: &Host<M>, connection: &mut Connection<M>) -> Result<bool, Broken> {
        connection.rearm(host)
    }

    fn rearm_device(&mut self) -> bool {
        // A disk in its reset is looked after at the next tick; no interrupt will come from it.
        self.units.iter_mut().filter(|unit| unit.resetting.is_none()).fold(false, |more, unit| unit.disk.rearm() | more)
    }

    fn drained(&mut self, host: &Host<M>, _: u16, connection: &mut Connection<M>) -> bool {
        let drained = connection.in_device() == 0;
        if drained {
            connection.let_go(host);
        }
        drained
    }

    fn statistics(&self, connection: &Connection<M>) -> Statistics {
        connection.statistics()
    }

    fn other(&mut self, message: ToDomain, table: &Table<Connection<M>>) -> FromDomain {
        match message {
            ToDomain::DiskAt { index } => FromDomain::Disk(self.info(index, table)),
            other => refuse(other),
        }
    }

    fn tick(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, tell: &mut dyn FnMut(FromDomain)) -> u64 {
        let now = host.machine.now();
        let mut oldest_of_all = u64::MAX;
        for (index, unit) in self.units.iter_mut().enumerate() {
            let resized = unit.disk.changed().then(|| unit.disk.properties().sectors);
            let mut oldest = u64::MAX;
            for (number, connection) in table.live_mut().filter(|(_, connection)| connection.goal().disk == index) {
                oldest = connection.oldest().unwrap_or(u64::MAX).min(oldest);
                if let Some(sectors) = resized
                    && connection.goal().part.is_none()
                {
                    connection.resize(sectors);
                    tell(FromDomain::DiskResized { connection: number, limits: connection.disk_limits() });
                }
            }
            oldest_of_all = oldest_of_all.min(oldest);
            if oldest != u64::MAX && now.saturating_sub(oldest.max(unit.reset_at)) > RESET_AFTER_NS {
                start_reset(unit, index, now, "it does not complete a request");
            }
        }
        if oldest_of_all == u64::MAX { 0 } else { oldest_of_all }
    }
}
