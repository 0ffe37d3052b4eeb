//! Exits: what the guest cannot do itself, done by what it is.

use protocol::layout::PAGE_SHIFT;
use protocol::vm::{Exit, access, word};

use crate::guest::{End, Guest};
use crate::state::{CR4_OSXSAVE, State, StateExt, register};
use crate::{cpuid, hypercall, mmio, msr, ports_io};

/// Carries out what the exit of a vCPU asks for.
pub fn handle<S: State>(guest: &mut Guest, state: &S, vcpu: u32, exit: Exit, now: u64) -> Result<(), End> {
    let detail = |index: usize| state.get(word::DETAIL + index);
    match exit {
        // What is to be done is found when the next run is prepared.
        Exit::Event | Exit::Deadline | Exit::Window => {}
        Exit::Hypercall => hypercall::execute(guest, state, vcpu, now)?,
        Exit::Cpuid => cpuid::execute(state, vcpu, (guest.clock.tsc_hz / 1000) as u32),
        Exit::MsrRead => read_msr(guest, state, vcpu),
        Exit::MsrWrite => write_msr(guest, state, vcpu),
        Exit::Port => match ports_io::execute(state, detail(0)) {
            ports_io::Effect::None => {}
            ports_io::Effect::Text(byte) => guest.print(&[byte]),
            ports_io::Effect::PowerOff => return Err(End::PowerOff),
            ports_io::Effect::Reset => return Err(End::Reboot),
        },
        Exit::Halt => {
            state.skip(1);
            guest.halt(vcpu, state.interrupts_on())?;
        }
        Exit::Xsetbv => set_xcr0(state),
        Exit::CacheFlush => state.skip(2),
        Exit::Forbidden => state.inject_invalid_opcode(),
        Exit::Memory => {
            let (address, kind) = (detail(0), detail(1));
            let is_apic = (mmio::APIC..mmio::APIC + mmio::APIC_SIZE).contains(&address);
            if is_apic && mmio::access(guest, state, vcpu, address) {
                return Ok(());
            }
            let frame = address >> PAGE_SHIFT;
            if kind & access::PRESENT == 0 && guest.ram.holds_frame(frame) {
                if guest.memory.reach(frame) {
                    return Ok(());
                }
                if !guest.memory.released(frame) {
                    let (touched, allowed) = (guest.pages() >> 8, guest.pages_max() >> 8);
                    let why = "its balloon did not give back in time what `maxmem` is more";
                    let reason = format_args!("memory: {touched} MiB touched, {allowed} allowed: {why}");
                    return Err(guest.crash(state, reason));
                }
            }
            let reason = format_args!("access {kind:#x} to guest-physical {address:#x}, where nothing is");
            return Err(guest.crash(state, reason));
        }
        Exit::Shutdown => return Err(guest.crash(state, format_args!("triple fault"))),
        Exit::BadState | Exit::Other => {
            let reason = format_args!("{exit:?} {:#x} {:#x} {:#x}", detail(0), detail(1), detail(2));
            return Err(guest.crash(state, reason));
        }
    }
    Ok(())
}

fn read_msr(guest: &mut Guest, state: &impl State, vcpu: u32) {
    let number = state.register(register::RCX) as u32;
    let Some(this) = guest.vcpus.get(vcpu as usize) else { return };
    match msr::read(state, &this.apic, vcpu, number) {
        Ok(value) => {
            state.set_register(register::RAX, value & 0xffff_ffff);
            state.set_register(register::RDX, value >> 32);
            state.skip(2);
        }
        Err(_) => {
            guest.complain(format_args!("read of MSR {number:#x}, which is not there"));
            state.inject_general_protection();
        }
    }
}

fn write_msr(guest: &mut Guest, state: &impl State, vcpu: u32) {
    let (number, value) = (state.register(register::RCX) as u32, state.edx_eax());
    let Some(this) = guest.vcpus.get_mut(vcpu as usize) else { return };
    match msr::write(state, &mut this.apic, vcpu, number, value) {
        Ok(effect) => {
            state.skip(2);
            match effect {
                msr::Effect::None => {}
                msr::Effect::Ipi(ipi) => guest.signal(vcpu, ipi),
                msr::Effect::HypercallPage(address) => {
                    guest.events.set_wide(state.is_64_bit());
                    let amd = unikernel::vm::cpuid(0, 0)[2] != u32::from_le_bytes(*b"ntel");
                    if guest.memory.write(address & !0xfff, &msr::hypercall_page(amd)).is_err() {
                        guest.complain(format_args!("hypercall page at {address:#x}, where no memory is"));
                    }
                }
            }
        }
        Err(_) => {
            guest.complain(format_args!("write of {value:#x} to MSR {number:#x}, which is refused"));
            state.inject_general_protection();
        }
    }
}

fn set_xcr0(state: &impl State) {
    let value = state.edx_eax();
    let index = state.register(register::RCX) as u32;
    if state.get(word::CR4) & CR4_OSXSAVE == 0 {
        return state.inject_invalid_opcode();
    }
    if index != 0 || state.privilege() != 0 || !cpuid::xcr0_is_valid(value, unikernel::vm::cpuid) {
        return state.inject_general_protection();
    }
    state.set_system(word::XCR0, value);
    state.skip(3);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FRAMES, guest, guest_supplied};
    use proptest::prelude::*;
    use protocol::vm::event;

    #[test]
    fn what_is_not_there_is_a_fault_of_the_guest() {
        let (mut guest, state) = guest(1, FRAMES);
        state.set(word::RIP, 0x100);
        state.set_register(register::RCX, 0x3a);
        handle(&mut guest, &state, 0, Exit::MsrRead, 0).unwrap();
        assert_eq!((state.get(word::INJECT), state.get(word::RIP)), (event::exception(13, Some(0)), 0x100));
        handle(&mut guest, &state, 0, Exit::Forbidden, 0).unwrap();
        assert_eq!(state.get(word::INJECT), event::exception(6, None));
        handle(&mut guest, &state, 0, Exit::Xsetbv, 0).unwrap();
        assert_eq!(state.get(word::INJECT), event::exception(6, None), "CR4 does not allow it");
        state.set(word::DETAIL, 0xdead_b000);
        let Err(End::Crash(text)) = handle(&mut guest, &state, 0, Exit::Memory, 0) else { panic!("goes on") };
        assert!(text.starts_with("access 0x0 to guest-physical 0xdeadb000, where nothing is, at 0x100"), "{text}");
    }

    #[test]
    fn a_guest_gets_what_it_touches_and_ends_when_it_touches_too_much() {
        let (mut guest, state) = guest_supplied(0x110, 0x400);
        let mut touch = |frame: u64, kind: u64| {
            state.set(word::DETAIL, frame << PAGE_SHIFT);
            state.set(word::DETAIL + 1, kind);
            handle(&mut guest, &state, 0, Exit::Memory, 0)
        };
        // Twice at once, by two vCPUs.
        assert_eq!((touch(0x300, 2), touch(0x300, 2)), (Ok(()), Ok(())));
        let Some((frame, Err(End::Crash(text)))) =
            (0x300..).map(|frame| (frame, touch(frame, 2))).find(|(_, end)| end.is_err())
        else {
            panic!("goes on")
        };
        assert_eq!(frame, 0x300 + 0x400 - 0x110);
        assert!(text.starts_with("memory: 4 MiB touched, 4 allowed: "), "{text}");
        // What is there but cannot be reached like this, and what it gave back, are its own mistakes.
        guest.memory.release(0x50).unwrap();
        for (frame, kind) in [(0x300, access::PRESENT), (0x50, 2)] {
            state.set(word::DETAIL, frame << PAGE_SHIFT);
            state.set(word::DETAIL + 1, kind);
            let end = handle(&mut guest, &state, 0, Exit::Memory, 0);
            assert!(matches!(&end, Err(End::Crash(text)) if text.contains("where nothing is")), "{end:?}");
        }
    }

    #[test]
    fn results_go_where_the_instruction_puts_them() {
        let (mut guest, state) = guest(1, FRAMES);
        state.set_register(register::RCX, 0x1b);
        handle(&mut guest, &state, 0, Exit::MsrRead, 0).unwrap();
        assert_eq!((state.register(register::RAX), state.register(register::RDX)), (0xfee0_0d00, 0));
        state.set_register(register::RAX, 0x4000_0000);
        handle(&mut guest, &state, 0, Exit::Cpuid, 0).unwrap();
        assert_eq!(state.register(register::RBX), 0x566e_6558);
        assert_eq!(state.get(word::RIP), 4);
    }

    proptest! {
        /// Whatever is in the registers, every exit is dealt with.
        #[test]
        fn any_exit_is_survived(number in 0u64..16, registers in prop::collection::vec(any::<u64>(), 16), details in prop::collection::vec(any::<u64>(), 4)) {
            let (mut guest, state) = guest(2, FRAMES);
            registers.iter().enumerate().for_each(|(index, &value)| state.set_register(index, value));
            details.iter().enumerate().for_each(|(index, &value)| state.set(word::DETAIL + index, value));
            if let Some(exit) = Exit::from_number(number) {
                let _ = handle(&mut guest, &state, 1, exit, 5);
                guest.prepare(1, &state, 10);
                guest.prepare(0, &state, 10);
            }
        }
    }
}
