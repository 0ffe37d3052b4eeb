//! The local APIC of a vCPU, as far as a kernel whose timer and interrupts are event channels uses it: inter-processor
//! interrupts and their end.
//!
//! It is in x2APIC mode from the start, so that it is reached by MSRs, unless the kernel is a 32-bit one: those know the registers
//! in memory only ([`crate::mmio`]). Its timer and its pins lead nowhere.

/// First of its MSRs.
pub const FIRST: u32 = 0x800;
/// One past the last.
pub const END: u32 = 0x840;

/// Version 0x14, 6 entries of the local vector table.
const VERSION: u32 = 5 << 16 | 0x14;
/// Spurious interrupt vector register: the APIC is enabled.
const ENABLED: u32 = 1 << 8;
/// Local vector table: masked.
const MASKED: u32 = 1 << 16;
/// Registers in memory: the identity, logical destination, its format, and the upper half of the command.
const ID: u32 = 0x20;
const LOGICAL: u32 = 0xd0;
const FORMAT: u32 = 0xe0;
const COMMAND_UPPER: u32 = 0x310;
/// MSR of the command register, and of the register for errors.
const COMMAND: u32 = 0x830;
const ERRORS: u32 = 0x828;
const END_OF_INTERRUPT: u32 = 0x80b;
/// ICR: deliver to no destination but a shorthand's.
const SHORTHAND_SHIFT: u32 = 18;
/// Destination: everybody.
const BROADCAST: u32 = u32::MAX;

/// The access is not one that this APIC has: #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// What an inter-processor interrupt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// An interrupt with this vector.
    Interrupt(u8),
    /// NMI.
    Nmi,
    /// Stop and wait for `Startup`.
    Init,
    /// Start at the beginning of this page.
    Startup(u8),
}

/// An inter-processor interrupt and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What.
    pub signal: Signal,
    shorthand: u8,
    logical: bool,
    /// By 8 bits, one for each of the first 8 APICs if it is logical.
    flat: bool,
    destination: u32,
}

impl Ipi {
    /// Whether the APIC `id` gets it, if `sender` sent it.
    pub fn reaches(&self, sender: u32, id: u32) -> bool {
        match self.shorthand {
            0 if self.destination == if self.flat { 0xff } else { BROADCAST } => true,
            // Kernels give an APIC the bit of its number.
            0 if self.logical && self.flat => id < 8 && self.destination >> id & 1 == 1,
            0 if self.logical => self.destination >> 16 == id >> 4 && self.destination & logical_id(id) & 0xffff != 0,
            0 => self.destination == id,
            1 => id == sender,
            2 => true,
            _ => id != sender,
        }
    }
}

/// The logical id of an APIC: its cluster of 16, and its bit there.
fn logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 15)
}

/// A set of vectors.
#[derive(Clone, Debug, Default)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = (vector as usize / 32, vector % 32);
        self.0[word] = self.0[word] & !(1 << bit) | u32::from(value) << bit;
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word as u32 * 32 + self.0[word].ilog2()) as u8)
    }
}

/// The registers.
#[derive(Clone, Debug)]
pub struct Apic {
    /// Its registers are in memory, and not behind MSRs.
    pub in_memory: bool,
    id: u32,
    task_priority: u32,
    spurious: u32,
    command: u64,
    /// Logical destination and its format, where they can be written; nobody looks at them.
    logical: u32,
    format: u32,
    local: [u32; 6],
    timer_count: u32,
    timer_divide: u32,
    requested: Vectors,
    in_service: Vectors,
}

impl Apic {
    /// That of vCPU `id`, after a reset.
    pub fn new(id: u32) -> Apic {
        Apic {
            in_memory: false,
            id,
            task_priority: 0,
            spurious: 0xff,
            command: 0,
            logical: 0,
            format: u32::MAX,
            local: [MASKED; 6],
            timer_count: 0,
            timer_divide: 0,
            requested: Vectors::default(),
            in_service: Vectors::default(),
        }
    }

    /// As after INIT. How it is reached stays.
    pub fn reset(&mut self) {
        *self = Apic { in_memory: self.in_memory, ..Apic::new(self.id) };
    }

    /// Whether it takes interrupts at all.
    pub fn is_enabled(&self) -> bool {
        self.spurious & ENABLED != 0
    }

    /// Requests an interrupt. Vectors below 16 do not exist; a disabled APIC takes none.
    pub fn request(&mut self, vector: u8) {
        if vector >= 16 && self.is_enabled() {
            self.requested.set(vector, true);
        }
    }

    fn processor_priority(&self) -> u8 {
        (self.task_priority as u8).max(self.in_service.highest().unwrap_or(0) & 0xf0)
    }

    /// The vector that would be delivered now.
    pub fn deliverable(&self) -> Option<u8> {
        self.requested.highest().filter(|vector| vector & 0xf0 > self.processor_priority() & 0xf0)
    }

    /// It was delivered.
    pub fn accept(&mut self, vector: u8) {
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
    }

    /// RDMSR.
    pub fn read(&self, msr: u32) -> Result<u64, Fault> {
        let value = match msr {
            0x802 => self.id,
            0x803 => VERSION,
            0x808 => self.task_priority,
            0x80a => self.processor_priority().into(),
            0x80d => logical_id(self.id),
            0x80f => self.spurious,
            0x810..=0x817 => self.in_service.0[(msr - 0x810) as usize],
            // Everything is edge-triggered, and nothing goes wrong.
            0x818..=0x81f | 0x828 | 0x839 => 0,
            0x820..=0x827 => self.requested.0[(msr - 0x820) as usize],
            0x830 => return Ok(self.command),
            0x832..=0x837 => self.local[(msr - 0x832) as usize],
            0x838 => self.timer_count,
            0x83e => self.timer_divide,
            _ => return Err(Fault),
        };
        Ok(value.into())
    }

    /// Reads a register in memory, by its offset.
    pub fn load(&self, offset: u32) -> u32 {
        match offset {
            ID => self.id << 24,
            LOGICAL => self.logical,
            FORMAT => self.format,
            COMMAND_UPPER => (self.command >> 32) as u32,
            _ => self.read(FIRST + offset / 16).map_or(0, |value| value as u32),
        }
    }

    /// Writes one. Gives what goes to other vCPUs, or to this one.
    pub fn store(&mut self, offset: u32, value: u32) -> Option<Ipi> {
        match (offset, FIRST + offset / 16) {
            (LOGICAL, _) => self.logical = value,
            (FORMAT, _) => self.format = value,
            (COMMAND_UPPER, _) => self.command = self.command & 0xffff_ffff | u64::from(value) << 32,
            (_, COMMAND) => {
                self.command = self.command >> 32 << 32 | u64::from(value);
                let destination = (self.command >> 56) as u32;
                return command(self.command).map(|ipi| Ipi { flat: true, destination, ..ipi });
            }
            // Whatever is written there.
            (_, msr @ (END_OF_INTERRUPT | ERRORS)) => return self.write(msr, 0).ok().flatten(),
            (_, msr) => {
                // What cannot be written stays as it is.
                let _ = self.write(msr, value.into());
            }
        }
        None
    }

    /// WRMSR. Gives what goes to other vCPUs, or to this one.
    pub fn write(&mut self, msr: u32, value: u64) -> Result<Option<Ipi>, Fault> {
        let low = u32::try_from(value);
        match (msr, low) {
            (0x808, Ok(value @ 0..=0xff)) => self.task_priority = value,
            (0x80b, Ok(0)) => {
                if let Some(vector) = self.in_service.highest() {
                    self.in_service.set(vector, false);
                }
            }
            (0x80f, Ok(value)) => self.spurious = value & 0x1ff,
            (0x828, Ok(0)) => {}
            (0x830, _) => {
                self.command = value & 0xffff_ffff_000c_cfff;
                return Ok(command(value));
            }
            (0x832..=0x837, Ok(value)) => self.local[(msr - 0x832) as usize] = value & 0x7_ffff,
            (0x838, Ok(value)) => self.timer_count = value,
            (0x83e, Ok(value)) => self.timer_divide = value & 0xb,
            (0x83f, Ok(vector @ 0..=0xff)) => self.request(vector as u8),
            _ => return Err(Fault),
        }
        Ok(None)
    }
}

/// What a write of the interrupt command register sends.
fn command(value: u64) -> Option<Ipi> {
    const LEVEL_DEASSERT: u64 = 1 << 15;
    const ASSERT: u64 = 1 << 14;
    let signal = match value >> 8 & 7 {
        0 | 1 => Signal::Interrupt(value as u8),
        4 => Signal::Nmi,
        // The end of an INIT is nothing by itself.
        5 if value & LEVEL_DEASSERT != 0 && value & ASSERT == 0 => return None,
        5 => Signal::Init,
        6 => Signal::Startup(value as u8),
        _ => return None,
    };
    Some(Ipi {
        signal,
        shorthand: (value >> SHORTHAND_SHIFT & 3) as u8,
        logical: value >> 11 & 1 == 1,
        flat: false,
        destination: (value >> 32) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn enabled() -> Apic {
        let mut apic = Apic::new(2);
        apic.write(0x80f, 0x1ff).unwrap();
        apic
    }

    #[test]
    fn interrupts_are_delivered_by_priority_until_their_end() {
        let mut apic = enabled();
        apic.write(0x83f, 0x41).unwrap();
        apic.write(0x83f, 0xf6).unwrap();
        assert_eq!(apic.deliverable(), Some(0xf6));
        assert_eq!(apic.read(0x827), Ok(1 << 22));
        apic.accept(0xf6);
        assert_eq!((apic.deliverable(), apic.read(0x817), apic.read(0x80a)), (None, Ok(1 << 22), Ok(0xf0)));
        apic.write(0x80b, 0).unwrap();
        assert_eq!(apic.deliverable(), Some(0x41));
        apic.write(0x808, 0x40).unwrap();
        assert_eq!(apic.deliverable(), None, "not above the task priority");
        assert_eq!(apic.write(0x80b, 1), Err(Fault));
    }

    #[test]
    fn a_disabled_apic_takes_nothing() {
        let mut apic = Apic::new(0);
        apic.request(0xf6);
        assert_eq!(apic.deliverable(), None);
        assert_eq!((apic.read(0x802), apic.read(0x803)), (Ok(0), Ok(0x0005_0014)));
    }

    #[test]
    fn commands_reach_whom_they_name() {
        let send = |value| enabled().write(0x830, value).unwrap();
        let init = send(3 << 32 | 0xc500).unwrap();
        assert_eq!(init.signal, Signal::Init);
        assert!(init.reaches(0, 3) && !init.reaches(0, 2));
        assert_eq!(send(3 << 32 | 0x8500), None);
        assert_eq!(send(3 << 32 | 0x69a).unwrap().signal, Signal::Startup(0x9a));
        let others = send(0xc_00f8).unwrap();
        assert_eq!(others.signal, Signal::Interrupt(0xf8));
        assert!(others.reaches(2, 0) && !others.reaches(2, 2));
        assert!(send(0x4_00f8).unwrap().reaches(2, 2) && !send(0x4_00f8).unwrap().reaches(2, 1));
        let cluster = send(0x1_0005u64 << 32 | 0x8f8).unwrap();
        assert!(cluster.reaches(0, 16) && !cluster.reaches(0, 17) && cluster.reaches(0, 18) && !cluster.reaches(0, 2));
        assert!(send((u64::from(BROADCAST) << 32) | 0x4f8).unwrap().reaches(0, 7));
    }

    proptest! {
        /// No access does more than fail, and what is delivered is at least a vector that exists.
        #[test]
        fn any_access_is_survived(accesses in prop::collection::vec((any::<bool>(), FIRST..END, prop_oneof![any::<u64>(), 0u64..0x400]), 0..100)) {
            let mut apic = Apic::new(1);
            for (write, msr, value) in accesses {
                let _ = if write { apic.write(msr, value).map(drop) } else { apic.read(msr).map(drop) };
                if let Some(vector) = apic.deliverable() {
                    prop_assert!(vector >= 16);
                    apic.accept(vector);
                }
            }
        }
    }
}
