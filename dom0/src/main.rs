//! The first domain: the control plane on the real machine.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

mod machine;

use core::time::Duration;

use dom0::acpi;
use dom0::bundle::Bundle;
use dom0::hypervisor::{Hypervisor, Width};
use dom0::plane::Plane;
use dom0::shell::{Power, Shell};
use machine::Machine;
use protocol::event::DOMAIN_EVENT_PORT;
use unikernel::event::{AnyPort, Channel};
use unikernel::executor::yield_now;
use unikernel::{Domain, console, start, time};

unikernel::main!(run);

/// Bytes typed that are dealt with before everything else gets its turn again.
const INPUT_PART: usize = 256;

/// Time in which the machine has to end after it was told to.
const OBEY: Duration = Duration::from_secs(2);

async fn run(domain: Domain) {
    let bundle = match Bundle::new(start::bundle()) {
        Ok(bundle) => bundle,
        Err(text) => panic!("{text}"),
    };
    let mut plane = Plane::new(Machine::default(), bundle);
    let good = plane.boot();
    if let Some(port) = plane.shell_port() {
        console::connect(port);
    }
    let mut shell = Shell::new(&mut plane, good);
    let (any_port, domain_events) = (AnyPort::default(), Channel::new(DOMAIN_EVENT_PORT));
    let exit_port = domain.word("exit-port").and_then(number);
    loop {
        if domain_events.fired() {
            plane.on_port(DOMAIN_EVENT_PORT);
        }
        let mut input = [0; INPUT_PART];
        let count = console::read_some(&mut input).unwrap_or(0);
        shell.input(&mut plane, input.get(..count).unwrap_or_default());
        plane.poll();
        shell.poll(&mut plane);
        show(&mut shell);
        if let Some(power) = shell.power(console::unread() == 0, time::now()) {
            let reason = end(&mut plane.hypervisor, power, exit_port);
            time::sleep(OBEY).await;
            shell.power_failed(&mut plane, alloc::format!("poweroff: {reason}: use the switch"));
            show(&mut shell);
        }
        if !console::connected()
            && let Some(port) = plane.take_console_restarted()
        {
            console::connect(port);
        }
        let deadline = plane.next_deadline().min(shell.next_deadline());
        if count == INPUT_PART || deadline <= time::now() {
            yield_now().await;
        } else {
            // It does not matter which of the two it was: everything is looked at anyway.
            let _ = time::before(deadline, any_port.wait()).await;
        }
    }
}

/// Passes output on, as much as there is room for. Without a console there is nobody to read it; it is bounded, and kept for
/// when there is one.
fn show(shell: &mut Shell) {
    let output = shell.output();
    while !output.is_empty() {
        let written = console::write_some(output.as_slices().0).unwrap_or(0);
        if written == 0 {
            return;
        }
        output.drain(..written);
    }
}

/// Ends the machine. Returns only if that did not work, with the reason.
fn end(machine: &mut Machine, power: Power, exit_port: Option<u16>) -> &'static str {
    match (power, exit_port) {
        (Power::Off { status }, Some(port)) => match machine.port_write(port, Width::Byte, status.into()) {
            Ok(()) => "the exit port of the boot line does nothing",
            Err(_) => "the exit port of the boot line is not to be had",
        },
        (Power::Off { .. }, None) => acpi::power_off(machine),
        (Power::Reboot, _) => acpi::reset(machine),
    }
}

/// A number as boot lines have it: `0xf4` or `244`.
fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
