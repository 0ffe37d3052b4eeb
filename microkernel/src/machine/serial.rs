//! The operator's serial port (16550, COM1) and the emulator's debug console.
//!
//! The core owns the port until a domain takes it over; from then on lines go to the debug console only, until a panic takes
//! the port back. Writing waits for the transmitter a bounded time, so a missing or stuck port costs no more than silence.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};

use microkernel::platform::SERIAL;

use super::cpu::{input, outb};

/// First I/O port of COM1.
const COM1: u16 = SERIAL.start as u16;
/// Divisor of the 115,200 Hz base clock: 115,200 baud.
const DIVISOR: u8 = 1;
/// Polls of the line status before a byte is given up: at least 30 ms on real hardware, 300 byte times.
const PATIENCE: u32 = 30_000;

/// The core drives the port: no domain does, and there is a transmitter that answers.
static OWNED: AtomicBool = AtomicBool::new(false);
/// I/O port of the debug console, which gets everything shown as well; 0 is none.
pub static DEBUG_CONSOLE: AtomicU16 = AtomicU16::new(0);

/// Programs the port: 115,200 baud, 8 bits, no parity, FIFOs on, no interrupts.
pub fn initialize() {
    for (register, value) in [(1, 0), (3, 0x80), (0, DIVISOR), (1, 0), (3, 3), (2, 7), (4, 3)] {
        outb(COM1 + register, value);
    }
    OWNED.store(input::<u8>(COM1 + 5) != 0xff, Relaxed);
}

/// Gives the port to a domain (`true`) or takes it back, in the state the core wants it.
pub fn release(released: bool) {
    if released {
        OWNED.store(false, Relaxed);
    } else if !OWNED.load(Relaxed) {
        initialize();
    }
}

fn send(byte: u8, aloud: bool) {
    let debug = DEBUG_CONSOLE.load(Relaxed);
    if debug != 0 {
        outb(debug, byte);
    }
    if !aloud || !OWNED.load(Relaxed) {
        return;
    }
    for _ in 0..PATIENCE {
        if input::<u8>(COM1 + 5) & 0x20 != 0 {
            return outb(COM1, byte);
        }
    }
    OWNED.store(false, Relaxed);
}

/// Where the core shows text; on the serial port, too, if it holds `true`.
struct Output(bool);

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r', self.0);
            }
            send(byte, self.0);
        }
        Ok(())
    }
}

/// Shows one line.
pub fn line(text: fmt::Arguments<'_>) {
    show(text, true);
}

/// Shows one line on the debug console and, `aloud`, on the serial port.
pub fn show(text: fmt::Arguments<'_>, aloud: bool) {
    // Output never fails.
    let _ = writeln!(Output(aloud), "{text}");
}
