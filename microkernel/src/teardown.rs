//! Taking a domain apart: for good, or back to the state in which it is built.
//!
//! Both go in slices. A domain's progress is one number: first its ports, then what it holds mapped, then its address space.
//! Nothing here depends on another domain's help: pages that others hold mapped stay charged to the domain until they let
//! go, and a destroyed domain whose pages are still out keeps its slot until then.

use protocol::domain::{Reason, State};
use protocol::event::PORTS;
use protocol::layout::{ARGUMENTS, CONSOLE, CONTROL_IN, CONTROL_OUT, IMAGE_BASE, IMAGE_END, USER_END, VCPU_AREAS};
use protocol::layout::{GRANT_WINDOW, GRANT_WINDOW_END, GUEST_MEMORY, GUEST_MEMORY_END, HEAP, HEAP_END};
use protocol::layout::{HEARTBEAT, MMIO, MMIO_END};

use crate::domain::{Domain, NO_FRAME};
use crate::events::LINES;
use crate::prelude::*;

/// Work of one slice, in units of looking at a table entry: about 128 frames scrubbed, or the 512 of a large page.
const SLICE: u64 = 8192;
/// Units that closing a port or ending a mapping is worth.
const OBJECT: u64 = 16;
/// Where the address space begins in the progress number; everything before it is ports and mappings.
const SPACE: u64 = 1 << 40;
/// Progress of a domain that has nothing left but frames that others hold mapped.
pub(crate) const GONE: u64 = u64::MAX;

/// What a reset takes from the address space. The vCPU areas are all there is in their GiB.
const RESET_AREAS: [(u64, u64); 6] = [
    (IMAGE_BASE, IMAGE_END),
    (HEAP, HEAP_END),
    (GUEST_MEMORY, GUEST_MEMORY_END),
    (MMIO, MMIO_END),
    (VCPU_AREAS, VCPU_AREAS + (1 << 30)),
    (GRANT_WINDOW, GRANT_WINDOW_END),
];

impl<M: Machine> Core<M> {
    /// Stops all vCPUs of a domain for good; false while one of them is still on a CPU.
    pub(crate) fn halt(&mut self, slot: Slot) -> bool {
        let mut halted = true;
        for id in self.domains[slot].vcpus() {
            self.sched.stop(id);
            halted &= self.sched.on_cpu(id).is_none();
        }
        halted
    }

    /// Takes from a domain what its image had acquired itself: I/O ports, its devices' access to memory and, at their source,
    /// interrupts.
    pub(crate) fn disarm(&mut self, slot: Slot) {
        self.domains[slot].io_ports = Domain::NONE.io_ports;
        if self.serial.take_if(|owner| *owner == slot).is_some() {
            self.machine.release_serial(false);
        }
        self.quiesce(slot);
        for (line, owner) in self.interrupts[..LINES].iter().enumerate() {
            if owner.is_some_and(|(owner, _)| owner == slot) {
                self.machine.mask_line(line as u8, true);
            }
        }
    }

    /// A slice of a reset, which may keep what the image cannot write; true when it is complete.
    pub(crate) fn reset(&mut self, slot: Slot, keep: bool) -> bool {
        if self.domains[slot].state != Some(State::Resetting) {
            self.begin_end(slot, State::Resetting);
            let info = &mut self.domains[slot].info;
            (info.created_tsc, info.first_run_tsc) = (self.machine.tsc(), 0);
        }
        if !self.halt(slot) || !self.dismantle(slot, &RESET_AREAS, false, keep) {
            return false;
        }
        for page in [ARGUMENTS, CONTROL_IN, CONTROL_OUT, CONSOLE, HEARTBEAT] {
            let frame = self.domains[slot].space.translate(&self.machine, page, false);
            frame.into_iter().for_each(|frame| self.machine.zero(frame));
        }
        self.forget_tables(slot);
        self.disown(slot);
        self.renew_events(slot);
        self.renew_grants(slot);
        let domain = &mut self.domains[slot];
        (domain.state, domain.info.reason) = (Some(State::Building), Reason::None as u32);
        true
    }

    /// A slice of the end; true when everything is given back but what others hold mapped.
    pub(crate) fn destroy(&mut self, slot: Slot) -> bool {
        if self.domains[slot].state != Some(State::Dying) {
            self.begin_end(slot, State::Dying);
        }
        let done = self.halt(slot) && self.dismantle(slot, &[(0, USER_END)], true, false);
        if done {
            self.give_up(slot);
        }
        done
    }

    /// Takes apart at once what the making of a domain left.
    pub(crate) fn demolish(&mut self, slot: Slot) {
        self.begin_end(slot, State::Dying);
        if self.domains[slot].space.0 == NO_FRAME {
            return self.give_up(slot);
        }
        while !self.destroy(slot) {}
    }

    fn begin_end(&mut self, slot: Slot, state: State) {
        self.disarm(slot);
        self.hide_grants(slot);
        let domain = &mut self.domains[slot];
        if domain.state == Some(State::Running) {
            domain.info.reason = Reason::Killed as u32;
        }
        domain.state = Some(state);
        domain.info.resets = domain.info.resets.wrapping_add(1);
        domain.progress = 0;
    }

    /// A slice of taking ports, mappings and address space apart; true when nothing is left, but what is kept of the image.
    fn dismantle(&mut self, slot: Slot, areas: &[(u64, u64)], for_good: bool, keep: bool) -> bool {
        let mut budget = SLICE;
        let mut progress = self.domains[slot].progress;
        while progress < SPACE && budget > 0 {
            let mapping = progress as u32 - (PORTS as u32).min(progress as u32);
            let mut found = false;
            if progress < PORTS as u64 {
                found = self.dismantle_port(slot, Port(progress as u32), for_good);
            } else if mapping < self.domains[slot].spec.max_mappings {
                let mut chain = 0;
                found = self.unmap_grant(slot, mapping, &mut chain).is_ok();
                self.finish_unmap(slot, &mut chain);
            } else {
                progress = SPACE - 1;
            }
            progress += 1;
            budget = budget.saturating_sub(if found { OBJECT } else { 1 });
        }
        let space = self.domains[slot].space;
        for &(start, end) in areas {
            let (mut from, keep) = (progress.saturating_sub(SPACE).max(start), keep && start == IMAGE_BASE);
            while progress >= SPACE && from < end && budget > 0 {
                let (next, steps) = space.clear(&self.machine, &mut self.frames, slot, from, keep);
                (from, progress, budget) = (next, SPACE + next, budget.saturating_sub(steps));
            }
        }
        self.domains[slot].progress = progress;
        areas.last().is_some_and(|&(_, end)| progress >= SPACE + end)
    }

    /// Gives everything back that lies outside the address space.
    fn give_up(&mut self, slot: Slot) {
        self.disown(slot);
        self.forget_tables(slot);
        for id in self.domains[slot].vcpus() {
            let context = self.native(id);
            self.vcpus[id] = Caller::NOBODY;
            // It is not on a CPU any more, so the scheduler lets go of it.
            self.sched.remove(id);
            self.frames.give_back(&self.machine, context);
        }
        let mut gone = core::mem::replace(&mut self.domains[slot], Domain::NONE);
        gone.vm.contexts.into_iter().for_each(|context| self.remove_guest(context));
        let placed = gone.vm.grants.into_iter().chain(gone.vm.active).chain([gone.space.0]);
        for frame in gone.tables().map(|place| *place).chain(placed).filter(|&frame| frame != NO_FRAME) {
            self.frames.give_back(&self.machine, frame);
        }
        // The incarnation is gone: nothing names this any more but mappings of its frames.
        let domain = &mut self.domains[slot];
        (domain.state, domain.progress, domain.info.resets) = (Some(State::Dying), GONE, gone.info.resets);
        self.reap(slot);
    }

    /// Lets go of what a domain that ended no longer has: only what others hold mapped is still charged, and stays set
    /// aside. With the last of that its slot is free.
    pub(crate) fn reap(&mut self, slot: Slot) {
        if self.domains[slot].progress == GONE {
            let used = self.frames.accounts[slot].used;
            // Shrinking to what is used cannot fail.
            _ = self.frames.set_aside(slot, used.into());
            if used == 0 {
                self.domains[slot] = Domain::NONE;
            }
        }
    }
}
