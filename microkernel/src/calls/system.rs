//! Hypercalls on the machine as a whole, and on the log.

use protocol::error::{Error, Result};
use protocol::handle::{Handle, Rights};
use protocol::name_text;
use protocol::system::{AcpiRead, LogRead, SystemInfo};

use super::at_most;
use crate::death::Text;
use crate::platform::{Machine, Phys};
use crate::state::{Caller, Core};

/// Longest line of a domain.
const LINE_MAX: usize = 256;
/// Most bytes that one read gives.
const READ_MAX: u64 = 4096;
/// Bytes that go through the stack at a time.
const CHUNK: usize = 256;

impl<M: Machine> Core<M> {
    pub(super) fn version(&mut self, _caller: Caller) -> Result {
        Ok(protocol::ABI_VERSION as u64)
    }

    pub(super) fn log_write(&mut self, caller: Caller, text: u64, length: u64) -> Result {
        let length = at_most(length, LINE_MAX as u64)?;
        let mut line = [0; LINE_MAX];
        let line = &mut line[..length as usize];
        self.memory(caller, text, length, false)?.read(&self.machine, 0, line);
        let name = self.domains[caller.slot].name;
        self.say(format_args!("[{}] {}", name_text(&name), Text(line)));
        Ok(0)
    }

    pub(super) fn log_read(&mut self, caller: Caller, system: Handle, request: u64) -> Result {
        self.system(caller, system, Rights::INSPECT)?;
        let own = self.room::<LogRead>(caller, request)?;
        let mut read: LogRead = own.get(&self.machine, 0);
        let length = at_most(read.length, READ_MAX)? as usize;
        let target = self.memory(caller, read.address, read.length, true)?;
        let mut done = 0;
        while done < length {
            let mut chunk = [0; CHUNK];
            let part = CHUNK.min(length - done);
            let (got, next) = self.log.read(read.position, &mut chunk[..part]);
            read.position = next;
            target.write(&self.machine, done, &chunk[..got]);
            done += got;
            if got == 0 {
                break;
            }
        }
        own.put(&self.machine, 0, &read);
        Ok(done as u64)
    }

    pub(super) fn acpi_read(&mut self, caller: Caller, system: Handle, request: u64) -> Result {
        self.system(caller, system, Rights::INSPECT)?;
        let read: AcpiRead = self.fetch(caller, request)?;
        let target = self.memory(caller, read.address, at_most(read.length, READ_MAX)?, true)?;
        let (table, size) = self.machine.acpi_table(read.signature, read.instance).ok_or(Error::NotFound)?;
        let length = (size as u64).saturating_sub(read.offset).min(read.length) as usize;
        let mut done = 0;
        while done < length {
            let mut chunk = [0; CHUNK];
            let part = &mut chunk[..CHUNK.min(length - done)];
            self.machine.read(Phys(table.0 + read.offset + done as u64), part);
            target.write(&self.machine, done, part);
            done += part.len();
        }
        Ok(size as u64)
    }

    pub(super) fn system_info(&mut self, caller: Caller, system: Handle, out: u64) -> Result {
        self.system(caller, system, Rights::INSPECT)?;
        let now = self.now();
        let managed = self.frames.managed() as u64;
        let mut info = SystemInfo {
            abi_version: protocol::ABI_VERSION,
            cpus: self.cpu_count as u32,
            tsc_hz: self.tsc_hz,
            uptime_ns: now,
            total_frames: self.total_frames,
            pool_frames: self.frames.pool() as u64,
            free_frames: self.frames.free_frames() as u64,
            parked_frames: self.frames.parked() as u64,
            reserved_frames: self.total_frames.saturating_sub(managed),
            features: self.features.bits(),
            cpu_brand: self.brand,
            ..SystemInfo::default()
        };
        for domain in self.domains.0.iter().filter(|domain| domain.state.is_some()) {
            info.domains += 1;
            info.handles += domain.handle_count;
            info.ports += domain.port_count;
            info.mappings += domain.mapping_count;
        }
        for (cpu, idle) in info.idle_ns.iter_mut().enumerate().take(self.cpu_count) {
            *idle = self.sched.idle_ns(cpu, now);
        }
        self.deliver(caller, out, &info)
    }
}
