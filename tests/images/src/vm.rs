//! A virtual machine without an operating system: the few states that pieces of guest code are run in.

use alloc::format;
use core::ops::RangeInclusive;

use protocol::event::Port;
use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};
use protocol::vm::{Exit, control, segment, word};
use unikernel::event;
use unikernel::vm::{GuestMemory, VirtualCpu, cpuid};

use crate::{Context, Outcome};

/// Where code lies, and its stack ends.
pub const CODE: u64 = 0x1000;
/// Page tables of the long mode: three pages, which map the first 2 MiB onto themselves.
const TABLES: u64 = 0x2000;
/// Gates of 8 bytes, then the segments they need.
const GATES: u64 = 0x6000;
const DESCRIPTORS: u64 = 0x7000;
/// The instructions for hypercalls, of AMD and Intel.
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
/// The end of what is populated.
const END: u64 = 0x1_0000;

/// Registers by their numbers in the state page.
pub mod register {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RBX: usize = 1;
    pub const RCX: usize = 2;
    pub const RDX: usize = 3;
    pub const RSI: usize = 4;
    pub const RSP: usize = 7;
}

fn is_intel() -> bool {
    cpuid(0, 0)[2] == u32::from_le_bytes(*b"ntel")
}

/// What the guest's processor is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits, as after reset.
    Real,
    /// 32 bits, without paging.
    Flat,
    /// 64 bits.
    Long,
}

/// The machine; it has the lowest 64 KiB of memory, and room for more.
#[derive(Debug)]
pub struct Vm {
    /// Its only processor.
    pub cpu: VirtualCpu,
    /// Its memory.
    pub memory: GuestMemory,
}

impl Vm {
    /// That of this domain.
    pub fn new() -> Outcome<Vm> {
        let cpu = VirtualCpu::current().ok_or("there is no virtual machine")?;
        let mut memory = GuestMemory::take(&[(0, 0x1_0000)]).ok_or("the guest's memory is taken")?;
        memory.populate(0, END >> PAGE_SHIFT).context("memory_populate")?;
        let mut vm = Vm { cpu, memory };
        let tables = [(0, TABLES + PAGE_SIZE + 7), (PAGE_SIZE, TABLES + 2 * PAGE_SIZE + 7), (2 * PAGE_SIZE, 0x87)];
        tables.into_iter().try_for_each(|(at, entry)| vm.poke(TABLES + at, entry))?;
        // Nothing; code; data.
        [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
            .into_iter()
            .zip(0..)
            .try_for_each(|(entry, index)| vm.poke(DESCRIPTORS + index * 8, entry))?;
        Ok(vm)
    }

    fn poke(&mut self, address: u64, value: u64) -> Outcome {
        self.memory.write(address, &value.to_le_bytes()).context("writing guest memory")
    }

    /// Makes `vector` lead to the handler at `address`, with interrupts off.
    pub fn gate(&mut self, vector: u64, address: u64) -> Outcome {
        self.poke(GATES + vector * 8, address & 0xffff | 8 << 16 | 0x8e00 << 32 | address >> 16 << 48)
    }

    /// Puts code where it is run.
    pub fn code(&mut self, address: u64, code: &[u8]) -> Outcome {
        self.memory.write(address, code).context("writing code")
    }

    /// Sets everything up for `code`, in which VMMCALL stands for the instruction that the processor has.
    pub fn start(&mut self, mode: Mode, code: &[u8]) -> Outcome {
        self.code(CODE, code)?;
        if is_intel() {
            let calls = code.windows(VMMCALL.len()).enumerate().filter(|(_, window)| *window == VMMCALL);
            calls.map(|(at, _)| at as u64).try_for_each(|at| self.code(CODE + at, &VMCALL))?;
        }
        let cpu = &self.cpu;
        (word::GENERAL..word::SYSTEM_END).for_each(|word| cpu.set(word, 0));
        let (cr0, cr4, efer, code, data) = match mode {
            Mode::Real => (0x30, 0, 0, 0x9b, 0x93),
            Mode::Flat => (0x31, 0, 0, 0xc9b, 0xc93),
            Mode::Long => (0x8000_0033, 0x620, 0x500, 0xa9b, 0xc93),
        };
        let limit = if mode == Mode::Real { 0xffff } else { u32::MAX };
        let selector = |selector| if mode == Mode::Real { 0 } else { selector };
        let segments = [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS];
        segments.into_iter().for_each(|index| self.segment(index, segment::pack(selector(0x10), data, limit), 0));
        self.segment(segment::CS, segment::pack(selector(8), code, limit), 0);
        self.segment(segment::LDTR, segment::pack(0, 0x82, 0), 0);
        self.segment(segment::TR, segment::pack(0, 0x8b, 0xffff), 0);
        self.segment(segment::GDTR, segment::pack(0, 0, 23), DESCRIPTORS);
        self.segment(segment::IDTR, segment::pack(0, 0, 256 * 8 - 1), GATES);
        for (word, value) in [
            (word::CR0, cr0),
            (word::CR3, TABLES),
            (word::CR4, cr4),
            (word::EFER, efer),
            (word::DR6, 0xffff_0ff0),
            (word::DR7, 0x400),
            (word::PAT, 0x0007_0406_0007_0406),
            (word::XCR0, 1),
            (word::RFLAGS, 2),
            (word::RIP, CODE),
            (word::CONTROL, control::LOAD),
            (word::GENERAL + register::RSP, END),
        ] {
            self.cpu.set(word, value);
        }
        Ok(())
    }

    /// The same for code that does not exit by itself.
    pub fn start_spin(&mut self, mode: Mode, code: &[u8]) -> Outcome {
        self.start(mode, code)?;
        if is_intel() {
            // The only emulator with such a processor does not exit for interrupts while the guest takes none.
            self.cpu.set(word::RFLAGS, 1 << 9 | 2);
        }
        Ok(())
    }

    fn segment(&self, index: usize, first: u64, base: u64) {
        self.cpu.set(word::SEGMENTS + 2 * index, first);
        self.cpu.set(word::SEGMENTS + 2 * index + 1, base);
    }

    /// Sets IDTR's limit.
    pub fn limit_gates(&self, limit: u32) {
        self.segment(segment::IDTR, segment::pack(0, 0, limit), GATES);
    }

    /// A general register.
    pub fn get(&self, register: usize) -> u64 {
        self.cpu.get(word::GENERAL + register)
    }

    /// Sets one.
    pub fn set(&self, register: usize, value: u64) {
        self.cpu.set(word::GENERAL + register, value);
    }

    /// Runs it; the exit must be this one, at this distance from the start of the code.
    pub fn expect(&self, what: &str, exit: Exit, offset: u64) -> Outcome {
        self.expect_within(what, exit, offset..=offset)
    }

    /// The same with a range of distances.
    pub fn expect_within(&self, what: &str, exit: Exit, offsets: RangeInclusive<u64>) -> Outcome {
        let window = self.cpu.get(word::CONTROL) & control::WINDOW;
        loop {
            let found = self.cpu.run(u64::MAX).context(what)?;
            if found == Exit::Event {
                // Whatever it is, it is for nobody here. What the run was to do is still to be done.
                event::take(Port(0));
                self.cpu.set(word::CONTROL, self.cpu.get(word::CONTROL) | window);
                self.cpu.set(word::INJECT, self.cpu.get(word::PENDING));
                continue;
            }
            let (at, details) = (self.cpu.get(word::RIP), [0, 1, 2].map(|index| self.cpu.detail(index)));
            if found == exit && offsets.contains(&at.wrapping_sub(CODE)) {
                return Ok(());
            }
            return Err(format!("{what}: {found:?} at {at:#x}, {details:x?}; not {exit:?} after {offsets:x?}"));
        }
    }

    /// Goes on behind an instruction of this length.
    pub fn skip(&self, length: u64) {
        self.cpu.set(word::RIP, self.cpu.get(word::RIP) + length);
    }
}

/// An error unless both are the same.
pub fn same<T: PartialEq + core::fmt::LowerHex>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:#x}, not {expected:#x}")) }
}
