//! The first things: a boot, a domain's life, an event.
use protocol::domain::{DomainInfo, State};
use protocol::event::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;
use protocol::start::{StartInfo, decode_arguments};

use super::world::{World, spec};
use crate::platform::{Memory, Next, Registers};
use crate::slot::Slot;

#[test]
fn boot_loads_the_first_domain() {
    let mut world = World::new(1000, 1);
    world.check();
    let Next::Run { context, root, .. } = world.core.schedule(0) else { panic!("dom0 does not run") };
    let mut registers = Registers::default();
    world.core.machine.read(context.at(0), zerocopy::IntoBytes::as_mut_bytes(&mut registers));
    assert_eq!((registers.rip, registers.general[7]), (IMAGE_BASE + 0x10, vcpu_stack_top(0)));
    assert_eq!(world.core.machine.load(root.at(511 * 8)), 0xabc_d003);
    assert_eq!(world.peek(Slot::DOM0, IMAGE_BASE, 5), b"text\0");
    assert_eq!(world.peek(Slot::DOM0, IMAGE_BASE + 2 * PAGE_SIZE, 5), b"data\0");
    assert_eq!(&world.peek(Slot::DOM0, BUNDLE, 5), b"dom0\0");
    let info: StartInfo = world.get(Slot::DOM0, START_INFO);
    assert_eq!((info.magic, info.vcpus), (protocol::start::MAGIC, 1));
    let arguments = decode_arguments(&world.peek(Slot::DOM0, ARGUMENTS, 4096)).unwrap();
    assert_eq!(arguments.command_line, "dom0_mem=1 console=x");
}

#[test]
fn a_life() {
    let mut world = World::new(1000, 2);
    let free = world.core.frames.used;
    let child = world.create(&spec(100)).unwrap();
    world.check();
    world.start(child);
    world.check();
    let at = HEAP + 1024;
    world.ok(Slot::DOM0, H::DomainInfo, &[child.handle, at]);
    let info: DomainInfo = world.get(Slot::DOM0, at);
    assert_eq!(info.state, State::Running as u32);
    world.ok(child.slot, H::EventSend, &[CONTROL_PORT.0 as u64]);
    world.check();
    world.ok(Slot::DOM0, H::DomainReset, &[child.handle]);
    world.check();
    world.start(child);
    world.destroy(child);
    world.check();
    assert_eq!(world.core.frames.used, free);
}
