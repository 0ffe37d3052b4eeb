//! Taking a domain apart: for good, or back to the state in which it is built.
//!
//! Both go in slices. A domain's progress is one number: first its ports, then what it holds mapped, then its address space.
//! Nothing here depends on another domain's help: pages that others hold mapped stay charged to the domain until they let
//! go, and a destroyed domain whose pages are still out keeps its slot until then.

use protocol::domain::{Reason, State};
use protocol::event::{PORTS, Port};
use protocol::layout::{
    ARGUMENTS, CONSOLE, CONTROL_IN, CONTROL_OUT, GRANT_WINDOW, GRANT_WINDOW_END, HEAP, HEAP_END, IMAGE_BASE, IMAGE_END,
    USER_END, VCPU_AREAS,
};

use crate::domain::{Domain, NO_FRAME};
use crate::platform::Machine;
use crate::ports::{Binding, Entry};
use crate::slot::Slot;
use crate::state::Core;
use crate::vcpu::Vcpu;

/// Work of one slice, in units of looking at a table entry: about 128 frames scrubbed.
const SLICE: u64 = 8192;
/// Units that closing a port or ending a mapping is worth.
const OBJECT: u64 = 16;
/// Where the address space begins in the progress number; everything before it is ports and mappings.
const SPACE: u64 = 1 << 40;

/// What a reset takes from the address space. The vCPU areas are all there is in their GiB.
const RESET_AREAS: [(u64, u64); 4] =
    [(IMAGE_BASE, IMAGE_END), (HEAP, HEAP_END), (VCPU_AREAS, VCPU_AREAS + (1 << 30)), (GRANT_WINDOW, GRANT_WINDOW_END)];
/// What the end takes.
const ALL: [(u64, u64); 1] = [(0, USER_END)];

impl<M: Machine> Core<M> {
    /// Stops all vCPUs of a domain for good; false while one of them is still on a CPU.
    pub(crate) fn halt(&mut self, slot: Slot) -> bool {
        let mut halted = true;
        for id in self.domains[slot].vcpus() {
            self.vcpus[id].waiting = false;
            let cpu = self.sched.stop(id);
            self.kick(cpu);
            halted &= !self.sched.is_running(id);
        }
        halted
    }

    /// Takes from a domain what its image had acquired itself: I/O ports and, at their controller, interrupts.
    pub(crate) fn disarm(&mut self, slot: Slot) {
        self.domains[slot].io_ports = Domain::NONE.io_ports;
        if self.serial == Some(slot) {
            self.serial = None;
            self.machine.release_serial(false);
        }
        for line in 0..self.interrupts.len() {
            if self.interrupts[line].is_some_and(|(owner, _)| owner == slot) {
                self.machine.mask_line(line as u8, true);
            }
        }
    }

    /// A slice of a reset; true when it is complete.
    pub(crate) fn reset(&mut self, slot: Slot) -> bool {
        if self.domains[slot].state != Some(State::Resetting) {
            self.begin_end(slot, State::Resetting);
            let tsc = self.machine.tsc();
            let domain = &mut self.domains[slot];
            (domain.created_tsc, domain.first_run_tsc) = (tsc, 0);
        }
        if !self.halt(slot) || !self.dismantle(slot, &RESET_AREAS, false) {
            return false;
        }
        let space = self.domains[slot].space;
        for page in [ARGUMENTS, CONTROL_IN, CONTROL_OUT, CONSOLE] {
            if let Some(frame) = space.translate(&self.machine, page, false) {
                self.machine.zero(frame);
            }
        }
        self.renew_events(slot);
        self.renew_grants(slot);
        for id in self.domains[slot].vcpus() {
            self.vcpus[id].started = false;
        }
        let domain = &mut self.domains[slot];
        (domain.mappings_used, domain.mapping_free) = (0, 0);
        (domain.state, domain.reason) = (Some(State::Building), Reason::None);
        true
    }

    /// A slice of the end; true when everything is given back but what others hold mapped.
    pub(crate) fn destroy(&mut self, slot: Slot) -> bool {
        if self.domains[slot].state != Some(State::Dying) {
            self.begin_end(slot, State::Dying);
        }
        if !self.halt(slot) || !self.dismantle(slot, &ALL, true) {
            return false;
        }
        self.give_up(slot);
        true
    }

    /// Takes apart at once what the making of a domain left.
    pub(crate) fn demolish(&mut self, slot: Slot) {
        self.begin_end(slot, State::Dying);
        if self.domains[slot].space.0 != NO_FRAME {
            while !self.destroy(slot) {}
        } else {
            self.give_up(slot);
        }
    }

    fn begin_end(&mut self, slot: Slot, state: State) {
        self.disarm(slot);
        let domain = &mut self.domains[slot];
        if domain.state == Some(State::Running) {
            domain.reason = Reason::Killed;
        }
        domain.state = Some(state);
        domain.epoch = domain.epoch.wrapping_add(1);
        domain.progress = 0;
    }

    /// A slice of taking ports, mappings and address space apart; true when nothing is left.
    fn dismantle(&mut self, slot: Slot, areas: &[(u64, u64)], for_good: bool) -> bool {
        let mut budget = SLICE;
        let mut progress = self.domains[slot].progress;
        while progress < SPACE && budget > 0 {
            let index = progress as u32;
            progress += 1;
            budget = budget.saturating_sub(OBJECT);
            if index < PORTS as u32 {
                self.dismantle_port(slot, Port(index), for_good);
            } else if index - (PORTS as u32) < self.domains[slot].mappings_used {
                let mut chain = 0;
                if self.unmap_grant(slot, index - PORTS as u32, &mut chain).is_ok() {
                    self.finish_unmap(slot, &mut chain);
                }
            } else {
                progress = SPACE;
            }
        }
        let space = self.domains[slot].space;
        for &(start, end) in areas {
            let from = progress.saturating_sub(SPACE).max(start);
            if progress >= SPACE && from < end && budget > 0 {
                progress = SPACE + space.clear(&self.machine, &mut self.frames, slot, from, end, &mut budget);
            }
        }
        self.domains[slot].progress = progress;
        areas.last().is_some_and(|&(_, end)| progress >= SPACE + end)
    }

    /// The end closes every port. A reset closes interrupts, which the next image binds itself, and keeps channels.
    fn dismantle_port(&mut self, slot: Slot, port: Port, for_good: bool) {
        let ports = self.domains[slot].ports;
        let entry = ports.get(&self.machine, port);
        if for_good || matches!(entry.binding, Binding::Interrupt(_)) {
            self.close_port(slot, port);
        } else if entry.vcpu != 0 {
            ports.set(&self.machine, port, Entry { vcpu: 0, ..entry });
        }
    }

    /// Gives everything back that lies outside the address space.
    fn give_up(&mut self, slot: Slot) {
        for id in self.domains[slot].vcpus() {
            let context = core::mem::replace(&mut self.vcpus[id], Vcpu::NONE).context;
            // Halted, so the scheduler can let go of it.
            let _gone = self.sched.remove(id);
            self.frames.give_back(&self.machine, context);
        }
        let domain = &self.domains[slot];
        let single = [domain.space.0, domain.handles, domain.records];
        let tables = single.iter().chain(&domain.ports.0).chain(&domain.active).chain(&domain.mappings);
        for &frame in tables.filter(|&&frame| frame != NO_FRAME) {
            self.frames.give_back(&self.machine, frame);
        }
        self.domains[slot] = Domain {
            state: Some(State::Dying),
            epoch: domain.epoch,
            name: domain.name,
            progress: u64::MAX,
            ..Domain::NONE
        };
        self.reap(slot);
    }

    /// Lets go of what a domain that ended no longer has: only what others hold mapped is still charged, and stays set
    /// aside. With the last of that its slot is free.
    pub(crate) fn reap(&mut self, slot: Slot) {
        let domain = &mut self.domains[slot];
        if domain.state == Some(State::Dying) && domain.progress == u64::MAX {
            let used = self.frames.account(slot).used;
            let _shrunk = self.frames.set_aside(slot, used as u64);
            if used == 0 {
                *domain = Domain::NONE;
            }
        }
    }
}
