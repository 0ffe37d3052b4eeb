//! When the core itself fails: stop every CPU, say why, halt.
//!
//! Runs on whatever stack is left and trusts nothing: it takes no lock, walks only frames that lie on a stack of the core, and
//! a second failure halts at once. `xtask` turns the addresses into names.

use core::fmt::Arguments;
use core::panic::{Location, PanicInfo};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use microkernel::death::return_addresses;
use x86_64::registers::control::{Cr2, Cr3};

use super::entry::CoreFrame;
use super::serial::{self, line};
use super::{apic, cpu, paging, percpu};

/// Number of the CPU that reports, plus one; 0 while all is well. Once it is set an NMI halts the other CPUs.
pub static REPORTER: AtomicU32 = AtomicU32::new(0);
/// The emulator's port that ends it, for when the core fails; 0 is none.
pub static EXIT_PORT: AtomicU16 = AtomicU16::new(0);
/// What is written there: what a Rust program that panics exits with.
const EXIT_STATUS: u8 = 101;
/// The first of a frame's registers.
const REGISTERS: &str = "r15 r14 r13 r12 r11 r10 r9 r8 rdi rsi rbp rbx rdx rcx rax";
/// Place of RBP among them.
const RBP: usize = 10;
/// Frames of the backtrace shown.
const FRAMES: usize = 24;

#[panic_handler]
fn on_panic(info: &PanicInfo<'_>) -> ! {
    let at = info.location().unwrap_or(Location::caller());
    report(format_args!("{} ({}:{})", info.message(), at.file(), at.line()), None)
}

/// An exception in ring 0.
pub extern "C" fn on_core_fault(frame: &CoreFrame) -> ! {
    let [.., vector, error, _rip, _cs, _rflags, _rsp, _ss] = *frame;
    report(format_args!("exception {vector}, error {error:#x}"), Some(frame));
}

/// Stops the machine with a report.
pub fn report(reason: Arguments<'_>, frame: Option<&CoreFrame>) -> ! {
    let number = percpu::number();
    let own = number.unwrap_or(0) as u32 + 1;
    match REPORTER.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(reporter) if reporter == own => end(),
        Err(_) => cpu::halt(),
    }
    if number.is_some() {
        apic::stop_others();
    }
    serial::release(false);
    line(format_args!("CORE PANIC on CPU {}: {reason}", own - 1));
    let mut pointer: u64;
    // SAFETY: copies a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    if let Some(frame) = frame {
        let [.., rip, cs, rflags, rsp, _ss] = *frame;
        line(format_args!("  rip {rip:016x} rsp {rsp:016x} rflags {rflags:08x} cs {cs:x}"));
        line(format_args!("  cr2 {:016x} cr3 {:016x}", Cr2::read_raw(), Cr3::read_raw().0.start_address()));
        for (name, value) in REGISTERS.split(' ').zip(frame) {
            line(format_args!("  {name:3} {value:016x}"));
        }
        if percpu::is_guard(Cr2::read_raw()) {
            line(format_args!("  the core's stack is used up"));
        }
        line(format_args!("  backtrace: {rip:016x}"));
        pointer = frame[RBP];
    }
    let readable = |at: u64| at.is_multiple_of(8) && percpu::on_stack(at) && percpu::on_stack(at + 8);
    // SAFETY: both words lie on a stack of the core.
    let read = |at| readable(at).then(|| unsafe { (at as *const [u64; 2]).read() });
    for back in return_addresses(pointer, read).take(FRAMES).take_while(|back| paging::text().contains(back)) {
        line(format_args!("  backtrace: {back:016x}"));
    }
    line(format_args!("core: all CPUs are stopped"));
    end();
}

/// Ends the emulator, if there is one, or halts.
pub fn end() -> ! {
    let port = EXIT_PORT.load(Ordering::Relaxed);
    if port != 0 {
        cpu::outb(port, EXIT_STATUS);
    }
    cpu::halt()
}
