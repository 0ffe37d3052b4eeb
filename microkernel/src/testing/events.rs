//! Event channels as hypercalls: pending, masked, woken, closed.

use protocol::answer::decode;
use protocol::error::Error;
use protocol::event::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;

use super::world::{Child, World, spec};
use crate::events::SOURCES;
use crate::platform::{Memory, Next, reg};
use crate::table::Slot;

/// Two running domains with a channel, and their ports.
fn channel(cpus: usize) -> (World, Child, Child, u64, u64) {
    let mut world = World::new(600, cpus);
    let (one, other) = (world.child(), world.child());
    let ports = world.ok(Slot::DOM0, H::EventConnect, &[one.handle, other.handle]);
    world.check();
    (world, one, other, ports >> 32, ports & 0xffff_ffff)
}

/// Pending word 0, upcall flag and selector of a vCPU.
fn told(world: &World, child: Child, vcpu: u32) -> [u64; 3] {
    let record = vcpu_record(vcpu);
    [PENDING, record + UPCALL_PENDING, record + SELECTOR].map(|offset| world.get(child.slot, EVENTS + offset as u64))
}

fn set(world: &World, child: Child, offset: usize, value: u64) {
    world.put(child.slot, EVENTS + offset as u64, &value);
}

/// The context that runs on a CPU.
fn running(world: &mut World, cpu: usize) -> Option<crate::platform::Frame> {
    match world.core.schedule(cpu) {
        Next::Run { context, .. } => Some(context),
        Next::Idle { .. } => None,
    }
}

fn context(world: &World, child: Child, vcpu: u64) -> crate::platform::Frame {
    world.core.vcpus[world.core.domains[child.slot].vcpu(vcpu).unwrap()].context
}

#[test]
fn what_is_sent_becomes_pending_at_the_other_end() {
    let (mut world, one, other, here, there) = channel(1);
    world.ok(one.slot, H::EventSend, &[here]);
    assert_eq!(told(&world, other, 0), [1 << there, 1, 1]);
    assert_eq!(told(&world, one, 0), [0; 3]);
    // Already pending: nothing more is told.
    set(&world, other, vcpu_record(0) + SELECTOR, 0);
    world.ok(one.slot, H::EventSend, &[here]);
    assert_eq!(told(&world, other, 0), [1 << there, 1, 0]);
}

#[test]
fn a_masked_port_becomes_pending_and_is_told_when_unmasked() {
    let (mut world, one, other, here, there) = channel(1);
    set(&world, other, MASK, 1 << there);
    world.ok(one.slot, H::EventSend, &[here]);
    assert_eq!(told(&world, other, 0), [1 << there, 0, 0]);
    world.ok(other.slot, H::EventUnmask, &[there]);
    assert_eq!(told(&world, other, 0), [1 << there, 1, 1]);
    let mask: u64 = world.get(other.slot, EVENTS + MASK as u64);
    assert_eq!(mask, 0);
}

#[test]
fn a_port_notifies_the_vcpu_it_is_bound_to() {
    let (mut world, one, other, here, there) = channel(1);
    world.ok(other.slot, H::EventBindVcpu, &[there, 1]);
    assert_eq!(world.call(other.slot, H::EventBindVcpu, &[there, 2]), Err(Error::Invalid));
    world.ok(one.slot, H::EventSend, &[here]);
    assert_eq!((told(&world, other, 0)[1], told(&world, other, 1)), (0, [1 << there, 1, 1]));
}

#[test]
fn closing_one_end_leaves_the_other_open_and_alone() {
    let (mut world, one, other, here, there) = channel(1);
    world.ok(one.slot, H::EventSend, &[here]);
    world.ok(other.slot, H::EventClose, &[0, there]);
    world.check();
    assert_eq!(told(&world, other, 0)[0], 0);
    assert_eq!(world.call(one.slot, H::EventSend, &[here]), Err(Error::NoPeer));
    assert_eq!(world.call(other.slot, H::EventSend, &[there]), Err(Error::BadPort));
    assert_eq!(world.call(other.slot, H::EventClose, &[0, there]), Err(Error::BadPort));
    world.ok(one.slot, H::EventClose, &[0, here]);
    for port in [CONTROL_PORT, DOMAIN_EVENT_PORT] {
        assert_eq!(world.call(one.slot, H::EventClose, &[0, port.0 as u64]), Err(Error::NotPermitted));
    }
    let again = world.ok(Slot::DOM0, H::EventConnect, &[one.handle, other.handle]);
    assert_eq!(again, here << 32 | there);
    world.destroy(other);
    world.check();
    assert_eq!(world.call(one.slot, H::EventSend, &[here]), Err(Error::NoPeer));
}

#[test]
fn who_connected_domains_can_disconnect_them_and_nobody_else() {
    let (mut world, one, other, here, there) = channel(1);
    assert_eq!(world.call(one.slot, H::EventClose, &[other.handle, there]), Err(Error::BadHandle));
    world.ok(Slot::DOM0, H::EventClose, &[other.handle, there]);
    assert_eq!(world.call(one.slot, H::EventSend, &[here]), Err(Error::NoPeer));
    world.ok(Slot::DOM0, H::EventClose, &[one.handle, here]);
    assert_eq!(world.call(Slot::DOM0, H::EventClose, &[one.handle, here]), Err(Error::BadPort));
    world.check();
}

#[test]
fn a_domain_can_have_a_channel_to_itself() {
    let mut world = World::new(600, 1);
    let child = world.child();
    let ports = world.ok(child.slot, H::EventConnect, &[0, 0]);
    let (a, b) = (ports >> 32, ports & 0xffff_ffff);
    assert_ne!(a, b);
    world.check();
    world.ok(child.slot, H::EventSend, &[a]);
    assert_eq!(told(&world, child, 0)[0], 1 << b);
    world.ok(child.slot, H::EventClose, &[0, a]);
    world.check();
    world.destroy(child);
    world.check();
}

#[test]
fn all_ports_can_be_open_and_the_next_is_refused() {
    let mut world = World::new(600, 1);
    let child = world.child();
    let opened = (0..).take_while(|_| world.call(child.slot, H::EventConnect, &[0, 0]).is_ok()).count();
    assert_eq!(opened, (PORTS - 3) / 2);
    assert_eq!(world.call(child.slot, H::EventConnect, &[0, 0]), Err(Error::TableFull));
    assert_eq!(world.call(Slot::DOM0, H::EventConnect, &[0, child.handle]).map(|_| ()), Ok(()));
    assert_eq!(world.call(Slot::DOM0, H::EventConnect, &[0, child.handle]), Err(Error::TableFull));
    world.check();
    world.destroy(child);
    world.check();
}

#[test]
fn a_waiting_vcpu_runs_again_when_something_is_sent() {
    let (mut world, one, other, here, _) = channel(2);
    let dom0 = running(&mut world, 0).unwrap();
    // Both children end up on the two CPUs once dom0 waits.
    world.core.hypercall(0, H::EventWait as u64, [u64::MAX, 0, 0, 0, 0]);
    assert_eq!(world.core.awaited(0), None);
    let first = running(&mut world, 0).unwrap();
    let second = running(&mut world, 1).unwrap();
    assert_ne!(first, dom0);
    assert_ne!(first, second);
    let (sender, waiter) = if first == context(&world, one, 0) { (0, 1) } else { (1, 0) };
    world.core.take_kicks(0);
    world.core.hypercall(waiter, H::EventWait as u64, [u64::MAX, 0, 0, 0, 0]);
    assert_eq!(running(&mut world, waiter), None);
    world.core.hypercall(sender, H::EventSend as u64, [here, 0, 0, 0, 0]);
    assert_eq!(world.core.take_kicks(sender), 1 << waiter);
    assert_eq!(running(&mut world, waiter), Some(context(&world, other, 0)));
    let result = world.core.machine.load(context(&world, other, 0).at(reg::RAX * 8));
    assert_eq!(decode(result), Ok(1));
    // It has not looked yet, so it need not wait.
    world.core.hypercall(waiter, H::EventWait as u64, [u64::MAX, 0, 0, 0, 0]);
    assert_eq!(running(&mut world, waiter), Some(context(&world, other, 0)));
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let mut world = World::new(600, 1);
    let dom0 = running(&mut world, 0).unwrap();
    world.core.hypercall(0, H::Clock as u64, [0; 5]);
    let now = decode(world.core.machine.load(dom0.at(reg::RAX * 8))).unwrap();
    world.core.hypercall(0, H::EventWait as u64, [now, 0, 0, 0, 0]);
    assert_eq!(running(&mut world, 0), Some(dom0));
    assert_eq!(decode(world.core.machine.load(dom0.at(reg::RAX * 8))), Ok(0));
    world.core.hypercall(0, H::EventWait as u64, [now + 1_000_000, 0, 0, 0, 0]);
    let Next::Idle { deadline } = world.core.schedule(0) else { panic!("it did not wait") };
    assert!((now..now + 1_000_100).contains(&deadline), "{deadline}");
    world.core.machine.tsc.set(deadline);
    assert_eq!(running(&mut world, 0), Some(dom0));
    assert_eq!(decode(world.core.machine.load(dom0.at(reg::RAX * 8))), Ok(0));
}

#[test]
fn an_interrupt_is_masked_until_its_port_is_unmasked() {
    let mut world = World::new(600, 1);
    let child = world.child();
    let line = world.ok(Slot::DOM0, H::InterruptCreate, &[1, 4]);
    let line = world.ok(Slot::DOM0, H::HandleCopy, &[child.handle, line, 31]);
    world.core.interrupt(0, 4);
    let port = world.ok(child.slot, H::InterruptBind, &[line]);
    assert_eq!(world.call(child.slot, H::InterruptBind, &[line]), Err(Error::Busy));
    assert_eq!((world.core.machine.masked.get() & 16, told(&world, child, 0)[0]), (0, 0));
    world.core.interrupt(0, 4);
    assert_eq!((world.core.machine.masked.get() & 16, told(&world, child, 0)), (16, [1 << port, 1, 1]));
    set(&world, child, PENDING, 0);
    world.ok(child.slot, H::EventUnmask, &[port]);
    assert_eq!(world.core.machine.masked.get() & 16, 0);
    assert_eq!(world.call(child.slot, H::EventSend, &[port]), Err(Error::NoPeer));
    world.ok(child.slot, H::EventClose, &[0, port]);
    assert_eq!(world.core.machine.masked.get() & 16, 16);
    world.ok(child.slot, H::InterruptBind, &[line]);
    world.destroy(child);
    world.check();
    assert_eq!((world.core.machine.masked.get() & 16, world.core.interrupts), (16, [None; SOURCES]));
}

#[test]
fn what_is_sent_while_a_domain_is_built_is_told_when_it_starts() {
    let mut world = World::new(600, 1);
    let child = world.create(&spec(100)).unwrap();
    world.ok(Slot::DOM0, H::EventSend, &[child.port]);
    world.start(child);
    assert_eq!(told(&world, child, 0), [1 << CONTROL_PORT.0, 1, 1]);
}
