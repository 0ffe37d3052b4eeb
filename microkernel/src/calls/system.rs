//! Hypercalls on the machine as a whole, and on the log.

use protocol::name_text;
use protocol::system::{AcpiRead, LogRead};

use super::at_most;
use crate::death::printable;
use crate::prelude::*;

/// Longest line of a domain.
const LINE_MAX: usize = 256;
/// Most bytes that one read gives.
const READ_MAX: usize = 4096;

impl<M: Machine> Core<M> {
    pub(super) fn version(&mut self, _: Caller) -> Result {
        Ok(protocol::ABI_VERSION.into())
    }

    pub(super) fn clock(&mut self, _: Caller) -> Result {
        Ok(self.now())
    }

    pub(super) fn log_write(&mut self, caller: Caller, text: u64, length: u64) -> Result {
        let mut line = [0; LINE_MAX];
        let line = &mut line[..at_most(length, LINE_MAX)?];
        self.memory(caller, text, line.len(), false)?.read(&self.machine, 0, line);
        let name = self.domains[caller.slot].info.name;
        let line = format_args!("[{}] {}", name_text(&name), printable(line));
        self.log.line(self.now(), line);
        // A guest must not be able to hold up all CPUs at the speed of a serial line.
        self.machine.show(line, caller.slot == Slot::DOM0);
        Ok(0)
    }

    pub(super) fn log_read(&mut self, caller: Caller, _: u64, request: u64) -> Result {
        let own = self.memory(caller, request, size_of::<LogRead>(), true)?;
        let mut read: LogRead = own.get(&self.machine, 0);
        let length = at_most(read.length, READ_MAX)?;
        let target = self.memory(caller, read.address, length, true)?;
        let (next, [head, tail]) = self.log.read(read.position, length);
        target.write(&self.machine, 0, head);
        target.write(&self.machine, head.len(), tail);
        read.position = next;
        own.put(&self.machine, 0, &read);
        Ok((head.len() + tail.len()) as u64)
    }

    pub(super) fn acpi_read(&mut self, caller: Caller, _: u64, request: u64) -> Result {
        let read: AcpiRead = self.fetch(caller, request)?;
        let target = self.memory(caller, read.address, at_most(read.length, READ_MAX)?, true)?;
        let table = self.machine.acpi_table(read.signature, read.instance).ok_or(Error::NotFound)?;
        let wanted = table.get(read.offset as usize..).unwrap_or(&[]);
        target.write(&self.machine, 0, &wanted[..wanted.len().min(read.length as usize)]);
        Ok(table.len() as u64)
    }

    pub(super) fn system_info(&mut self, caller: Caller, _: u64, out: u64) -> Result {
        let (mut info, frames) = (self.info, &self.frames);
        info.uptime_ns = self.now();
        info.pool_frames = (frames.managed - frames.set_aside).into();
        info.free_frames = (frames.managed - frames.used).into();
        info.parked_frames = frames.parked.into();
        info.reserved_frames = info.total_frames.saturating_sub(frames.managed.into());
        for domain in self.domains.0.iter().filter(|domain| domain.state.is_some()) {
            info.domains += 1;
            info.handles += domain.info.handles;
            info.ports += domain.info.ports;
            info.mappings += domain.info.mappings;
        }
        for (cpu, idle) in info.idle_ns.iter_mut().enumerate().take(info.cpus as usize) {
            *idle = self.sched.idle_ns(cpu, info.uptime_ns);
        }
        self.deliver(caller, out, &info)
    }
}
