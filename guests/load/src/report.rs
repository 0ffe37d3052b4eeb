//! Lines for whoever watches: a person at the console, or a program that reads the log.

use core::fmt;

use unikernel::{console, println};

/// Prints a line to the log, where dom0 finds it, and to the console if there is one.
pub fn say(line: fmt::Arguments<'_>) {
    log::info!("{line}");
    if console::connected() {
        println!("{line}");
    }
}
