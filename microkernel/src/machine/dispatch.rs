//! From the assembly into the safe core and back: what each entry does with the lock, and how a decision is carried out.

use core::sync::atomic::Ordering::Relaxed;

use microkernel::events::{LINES, MESSAGES, SOURCES, VECTORS};
use microkernel::platform::{Next, Phys, Registers, reg};
use microkernel::state::Core;
use protocol::hypercall::Hypercall;
use x86_64::registers::control::Cr2;

use super::entry::{FIRST_INTERRUPT, Leave, save_vector_state};
use super::hardware::Hardware;
use super::lock::{CORE, Guard, await_flush, serve_flushes};
use super::percpu::Cpu;
use super::{apic, cpu, features, paging, panic, timer, vm, window};

/// Exceptions that are the machine's or the core's, wherever they come from: double fault and machine check.
const NEVER_A_DOMAIN: [u64; 2] = [8, 18];

const VERSION: u64 = Hypercall::Version as u64;
const EVENT_SEND: u64 = Hypercall::EventSend as u64;
/// No hypercall in particular.
const ANY: u64 = u64::MAX;

/// A hypercall; the caller's registers are in the current context.
pub extern "C" fn on_hypercall(a: u64, b: u64, c: u64, d: u64, e: u64, number: u64) -> Leave {
    match number {
        // What needs no state of the core answers without the lock, and the call that must be short has code of its own.
        VERSION => answer(Cpu::current(), protocol::ABI_VERSION.into()),
        EVENT_SEND => hypercall::<EVENT_SEND>(a, b, c, d, e, number),
        _ => hypercall::<ANY>(a, b, c, d, e, number),
    }
}

/// Lets the caller go on with a result.
fn answer(this: &Cpu, result: u64) -> Leave {
    let context = this.context.get();
    // SAFETY: the context that just entered is this CPU's alone, and mapped; the field lies in it.
    unsafe { (&raw mut (*context).general[reg::RAX]).write(result) };
    Leave { context, switched: 0 }
}

#[inline(never)]
extern "C" fn hypercall<const NAMED: u64>(a: u64, b: u64, c: u64, d: u64, e: u64, number: u64) -> Leave {
    let (this, number) = (Cpu::current(), if NAMED == ANY { number } else { NAMED });
    enter(this, true, |core| core.hypercall(this.index, number, [a, b, c, d, e]))
}

/// An exception in ring 3, or an interrupt in ring 3 or while idle.
pub extern "C" fn on_trap(vector: u64, error: u64) -> Leave {
    let this = Cpu::current();
    if vector < FIRST_INTERRUPT {
        if NEVER_A_DOMAIN.contains(&vector) {
            panic::report(format_args!("exception {vector} while a domain ran"), None);
        }
        return enter(this, false, |core| core.fault(this.index, vector, error, Cr2::read_raw()));
    }
    if vector == apic::TIMER {
        timer::heard(this);
    }
    enter(this, false, |core| {
        // The timer and a kick ask for nothing but the decision that every entry ends with.
        match (vector as usize).wrapping_sub(VECTORS) {
            source if source < LINES || (MESSAGES..SOURCES).contains(&source) => core.interrupt(this.index, source),
            _ => {}
        }
        if vector != apic::SPURIOUS {
            apic::end_of_interrupt();
        }
        core.check_guest(this.index);
    })
}

/// The first entry on each CPU, on its own stack.
pub extern "C" fn on_start() -> Leave {
    super::start::crash_if_asked();
    enter(Cpu::current(), false, |_| ())
}

/// Runs `work` with the lock held, and whatever must follow it; then takes the core's decision. Without one that is due, who
/// made a hypercall goes on: the timer sees to deadlines.
#[inline(always)]
pub fn enter(this: &Cpu, call: bool, work: impl FnOnce(&mut Core<Hardware>)) -> Leave {
    if !call {
        // Whoever asked for a flush has sent an interrupt too.
        serve_flushes();
    }
    let mut core = CORE.lock();
    work(&mut core);
    while let Some(flush) = core.awaited(this.index) {
        unlock(this, core);
        await_flush(flush);
        core = CORE.lock();
        core.resume(this.index);
    }
    let leave = match core.go_on(this.index).filter(|_| call) {
        Some(next) => carry_out(this, call, next),
        None => carry_out(this, call, core.schedule(this.index)),
    };
    unlock(this, core);
    leave
}

/// Releases the lock, then sends the kicks that were asked for under it.
fn unlock(this: &Cpu, mut core: Guard) {
    let mut kicks = core.take_kicks(this.index);
    drop(core);
    while kicks != 0 {
        apic::kick(kicks.trailing_zeros() as usize);
        kicks &= kicks - 1;
    }
}

/// Does what must be done before the lock is released: from there on another CPU may take the old context, or free its memory.
#[inline(always)]
fn carry_out(this: &Cpu, call: bool, next: Next) -> Leave {
    let old = this.context.get();
    let (context, root, deadline) = match next {
        Next::Run { context, root, deadline, ports } => {
            let loaded = this.ports.get();
            if loaded != ports {
                this.segments.change_ports(loaded, ports);
                this.ports.set(ports);
            }
            vm::allow_ports(this, ports);
            (window::pointer::<Registers>(context.at(0)), root.at(0), deadline)
        }
        Next::Idle { deadline } => (core::ptr::null_mut(), Phys(paging::CORE_ROOT.load(Relaxed)), deadline),
    };
    if root.0 != this.root.get() {
        this.root.set(root.0);
        // SAFETY: the safe core made the tables with the core's upper half, or they are the core's own.
        unsafe { cpu::set_root(root.0) };
        features::separate_domains();
    }
    if deadline < this.armed.get() {
        timer::arm(this, deadline);
    }
    if context == old {
        return Leave { context, switched: 0 };
    }
    vm::turn_to(this, context);
    this.context.set(context);
    if call {
        // SAFETY: until the lock is released the old context belongs to this CPU; its frame is mapped.
        unsafe { save_vector_state(old) };
    }
    if !context.is_null() {
        // SAFETY: the safe core gives a context frame that no other CPU uses, and a canonical FS base in it.
        unsafe { cpu::set_user_segments((&raw const (*context).fs_base).read()) };
    }
    Leave { context, switched: 1 }
}
