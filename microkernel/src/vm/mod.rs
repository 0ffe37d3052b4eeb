//! Virtual machines: domains whose vCPUs can run a guest beside their own image.
//!
//! A vCPU has two contexts then, and what it runs is the one that stands in the tables: `Core::vcpus` and, while it is on a
//! CPU, that CPU's `current`. So no way through the core has to ask which it is. Whatever ends a run of the guest puts its
//! state into its page, and the native context back, whose call returns with the reason.
//!
//! Guest memory is a window of the domain's own address space: the lowest tables are the same for both, with entries that the
//! processor takes for either. Those above are the guest's own, because the processor marks the domain's as used, which is no
//! valid entry of Intel's nested tables.

pub mod blocks;
pub mod large;
pub mod svm;
pub mod vmx;

use protocol::event::{MAX_VCPUS, UPCALL_PENDING, vcpu_record};
use protocol::grant::MAX_GRANT_FRAMES;
use protocol::layout::{GUEST_MEMORY, GUEST_MEMORY_END, vm_state};
use protocol::system::Features;
use protocol::vm::{Exit, word};

use crate::domain::{Domain, NO_FRAME};
use crate::frames::Kind;
use crate::platform::{ENTERED_BY_GUEST, MXCSR, Registers, reg};
use crate::prelude::*;
use crate::sched::VcpuId;
use crate::space::{Access, LARGE, TABLE_SHIFT, WINDOW_SHIFT, frame_of, table};

/// What a domain has for its virtual machine.
#[derive(Clone, Copy)]
pub struct Vm {
    /// Root of the page tables that translate guest-physical addresses.
    pub root: Frame,
    /// The one table that is below it. Its entries lead to those whose entries lead to tables of the domain's address space.
    pub directory: Frame,
    /// Grant table of the guest.
    pub grants: [Frame; MAX_GRANT_FRAMES],
    /// For each entry of it how it is in use.
    pub active: [Frame; MAX_GRANT_FRAMES],
    /// Where the pages of the grant table are mapped; 0 is nowhere.
    pub places: [u64; MAX_GRANT_FRAMES],
    /// Contexts of the guest by vCPU.
    pub contexts: [Frame; MAX_VCPUS],
}

impl Vm {
    /// No virtual machine.
    pub const NONE: Vm = Vm {
        root: NO_FRAME,
        directory: NO_FRAME,
        grants: [NO_FRAME; _],
        active: [NO_FRAME; _],
        places: [0; _],
        contexts: [NO_FRAME; _],
    };
}

impl Vm {
    /// Place of the entry of the directory for a page of guest memory.
    pub const fn window_entry(&self, address: u64) -> Phys {
        self.directory.at(((address - GUEST_MEMORY) >> WINDOW_SHIFT) as usize * 8)
    }

    /// Places for the tables that it has from the start.
    pub fn tables(&mut self) -> [&mut Frame; 2] {
        [&mut self.root, &mut self.directory]
    }
}

impl Domain {
    /// Whether it has a virtual machine.
    pub const fn has_vm(&self) -> bool {
        self.spec.guest_grant_frames > 0
    }

    /// Pages of the guest's grant table, those pages, and those with the records of how its entries are in use.
    pub const fn guest_tables(&self) -> (u32, &[Frame; MAX_GRANT_FRAMES], &[Frame; MAX_GRANT_FRAMES]) {
        (self.spec.guest_grant_frames, &self.vm.grants, &self.vm.active)
    }
}

/// Whether a page is guest memory, in a domain that has some.
pub fn is_guests(address: u64) -> bool {
    (GUEST_MEMORY..GUEST_MEMORY_END).contains(&address)
}

/// What a domain and its guest may do with a page that is populated with `access`.
pub fn access(address: u64, access: Access) -> Result<Access> {
    match access {
        _ if !is_guests(address) => Ok(access),
        Access::Write => Ok(Access::Guest),
        _ => Err(Error::Invalid),
    }
}

/// The address of a page that a guest names, if a guest can have it.
pub fn guest_address(page: u64) -> Option<u64> {
    (page < GUEST_MEMORY_END - GUEST_MEMORY).then_some(GUEST_MEMORY + page)
}

/// What the context of a guest holds behind its registers: where everything else is. The shell knows it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Guest {
    /// Physical address of the control block that the processor runs it from.
    pub vmcb: u64,
    /// Physical address of its VMCS, with VMX; else 0.
    pub vmcs: u64,
    /// Physical address of its state page.
    pub state: u64,
    /// Frame of the native context of its vCPU.
    pub native: u64,
    /// TSC at which it has to exit.
    pub deadline: u64,
}

/// What it holds behind that, which changes with each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Run {
    /// Not 0: guest memory was taken away since it ran last.
    pub stale: u64,
    /// The CPU it ran on last, plus one; 0 if it never ran.
    pub cpu: u64,
    /// DR0 to DR3.
    pub debug: [u64; 4],
}

/// Offset of [`Guest`] in its context, and of [`Run`].
pub const GUEST: usize = size_of::<Registers>();
/// See [`GUEST`].
pub const RUN: usize = GUEST + size_of::<Guest>();

impl Guest {
    /// Place of a word of the state page.
    const fn word(&self, word: usize) -> Phys {
        Phys(self.state + 8 * word as u64)
    }

    /// Place in the control block.
    const fn vmcb(&self, offset: usize) -> Phys {
        Phys(self.vmcb + offset as u64)
    }
}

impl<M: Machine> Core<M> {
    /// Whether guests run by VMX.
    const fn has_vmx(&self) -> bool {
        self.info.features & Features::VMX.bits() != 0
    }

    /// The CPUs for a domain with a virtual machine that may run on these; 0 is all. `Unsupported`: the machine runs no guests.
    pub(crate) fn place_guests(&self, affinity: u64) -> Result<u64> {
        let (features, online) = (Features::from_bits_retain(self.info.features), self.sched.online);
        refuse_if(!features.intersects(Features::SVM | Features::VMX), Error::Unsupported)?;
        if online == 1 || !features.contains(Features::VM_SPARES_CPU_0) {
            return Ok(affinity);
        }
        let wanted = if affinity == 0 { online } else { affinity & online };
        Some(wanted & !1).filter(|&cpus| cpus != 0).ok_or(Error::Invalid)
    }

    fn guest(&self, context: Frame) -> Guest {
        self.machine.get(context.at(GUEST))
    }

    /// The context of the guest that a vCPU runs, if it does.
    fn in_guest(&self, caller: Caller) -> Option<Frame> {
        let context = self.domains[caller.slot].vm.contexts[caller.index as usize % MAX_VCPUS];
        (context == caller.context && context != NO_FRAME).then_some(context)
    }

    /// The native context of a vCPU.
    pub(crate) fn native(&self, id: VcpuId) -> Frame {
        let caller = self.vcpus[id];
        self.in_guest(caller).map_or(caller.context, |context| Frame(self.guest(context).native as u32))
    }

    /// Makes what a vCPU needs for a guest, if its domain has a virtual machine.
    pub(crate) fn add_guest(&mut self, slot: Slot, index: u32, native: Frame) -> Result<()> {
        if !self.domains[slot].has_vm() {
            return Ok(());
        }
        let vm = &self.domains[slot].vm;
        self.machine.store(vm.root.at(0), table(vm.directory));
        let context = self.frames.take(&self.machine, slot, Kind::OBJECT)?;
        self.domains[slot].vm.contexts[index as usize] = context;
        let vmcb = self.frames.take(&self.machine, slot, Kind::OBJECT)?.at(0).0;
        let mut guest = Guest { vmcb, native: native.0.into(), ..Guest::default() };
        self.machine.put(context.at(GUEST), &guest);
        if self.has_vmx() {
            guest.vmcs = self.frames.take(&self.machine, slot, Kind::OBJECT)?.at(0).0;
            self.machine.put(context.at(GUEST), &guest);
        }
        guest.state = self.map_new(slot, vm_state(index), Kind::PRIVATE, Access::Write)?.at(0).0;
        self.machine.put(context.at(GUEST), &guest);
        Ok(())
    }

    /// Gives back what [`Core::add_guest`] made, or a part of it, but the state page.
    pub(crate) fn remove_guest(&mut self, context: Frame) {
        if context != NO_FRAME {
            let Guest { vmcb, vmcs, .. } = self.guest(context);
            for frame in
                [Phys(vmcb).frame(), Phys(vmcs).frame(), context].into_iter().filter(|&frame| frame != NO_FRAME)
            {
                self.frames.give_back(&self.machine, frame);
            }
        }
    }

    /// Makes the guest of a vCPU that is about to start one that never ran.
    pub(crate) fn renew_guest(&mut self, id: VcpuId) {
        let Caller { slot, index, .. } = self.vcpus[id];
        let vm = &self.domains[slot].vm;
        let context = vm.contexts[index as usize % MAX_VCPUS];
        if context == NO_FRAME {
            return;
        }
        let guest = Guest { deadline: 0, ..self.guest(context) };
        let Guest { vmcb, state, .. } = guest;
        [context, Phys(vmcb).frame(), Phys(state).frame()].into_iter().for_each(|frame| self.machine.zero(frame));
        self.machine.put(context.at(GUEST), &guest);
        self.machine.put(context.at(0), &Registers { entered: ENTERED_BY_GUEST, ..Registers::default() });
        self.machine.store(context.at(MXCSR.0), MXCSR.1);
        svm::prepare(&self.machine, Phys(vmcb), vm.root);
    }

    /// Makes the table for what was mapped, or the large page, the guest's too, if it is guest memory.
    pub(crate) fn share_table(&mut self, slot: Slot, address: u64) -> Result<()> {
        if !is_guests(address) {
            return Ok(());
        }
        let Domain { space, vm, .. } = &self.domains[slot];
        let lowest = self.machine.load(space.table_entry(&self.machine, address));
        let above = vm.window_entry(address);
        if self.machine.load(above) == 0 {
            self.machine.store(above, table(self.frames.take(&self.machine, slot, Kind::OBJECT)?));
        }
        let index = (address >> TABLE_SHIFT) as usize % 512;
        let entry = if lowest & LARGE == 0 { table(frame_of(lowest)) } else { lowest };
        self.machine.store(frame_of(self.machine.load(above)).at(index * 8), entry);
        Ok(())
    }

    /// Tables of the guest's own that are missing for mapping `pages` pages from `address`.
    pub(crate) fn missing_guest_tables(&self, slot: Slot, address: u64, pages: u64) -> u64 {
        let last = address + (pages - 1) * PAGE_SIZE;
        let windows = (address >> WINDOW_SHIFT..=last >> WINDOW_SHIFT).map(|window| window << WINDOW_SHIFT);
        let missing = |&at: &u64| self.machine.load(self.domains[slot].vm.window_entry(at)) == 0;
        windows.filter(|&at| is_guests(at)).filter(missing).count() as u64
    }

    /// Guest memory was taken apart, or is about to be, and nothing runs: gives the tables back that are the guest's own.
    pub(crate) fn forget_tables(&mut self, slot: Slot) {
        let directory = self.domains[slot].vm.directory;
        if directory == NO_FRAME {
            return;
        }
        let entries = (0..PAGE_SIZE as usize).step_by(8).map(|at| self.machine.load(directory.at(at)));
        for entry in entries.filter(|&entry| entry != 0) {
            self.frames.give_back(&self.machine, frame_of(entry));
        }
        self.machine.zero(directory);
    }

    /// Pages left the address space: no guest runs again with translations from before.
    pub(crate) fn forget_translations(&self, slot: Slot) {
        for &context in self.domains[slot].vm.contexts.iter().filter(|&&context| context != NO_FRAME) {
            self.machine.store(context.at(RUN + core::mem::offset_of!(Run, stale)), 1);
        }
    }

    /// Takes the pages of the guest's grant table out of guest memory.
    pub(crate) fn hide_grants(&mut self, slot: Slot) {
        let domain = &mut self.domains[slot];
        for place in core::mem::take(&mut domain.vm.places).into_iter().filter(|&place| place != 0) {
            domain.space.unmap(&self.machine, place);
        }
    }

    /// Lets the vCPU on this CPU run its guest, until the deadline in ns. Gives why it does not, if it does not.
    pub(crate) fn enter_guest(&mut self, caller: Caller, context: Frame, deadline: u64) -> Option<Exit> {
        let guest = Guest { deadline: self.clock.tsc(deadline), ..self.guest(context) };
        svm::load(&self.machine, &guest, context);
        self.machine.store(context.at(GUEST + core::mem::offset_of!(Guest, deadline)), guest.deadline);
        self.vcpus[caller.vcpu].context = context;
        self.cpus[self.here].current.context = context;
        self.check(caller, context, &guest)
    }

    /// Ends the run of a guest whose state is in its page.
    fn leave_guest(&mut self, id: VcpuId, guest: &Guest, exit: Exit) {
        let native = Frame(guest.native as u32);
        self.machine.store(guest.word(word::EXIT), exit as u64);
        self.machine.store(native.at(reg::RAX * 8), exit as u64);
        self.vcpus[id].context = native;
        let current = &mut self.cpus[self.here].current;
        if !current.is_nobody() && current.vcpu == id {
            current.context = native;
        }
    }

    /// Ends the run of the guest on `cpu` if something else has come up. Gives what.
    pub fn check_guest(&mut self, cpu: usize) -> Option<Exit> {
        let caller = self.cpus[cpu].current;
        let context = self.in_guest(caller)?;
        self.check(caller, context, &self.guest(context))
    }

    fn check(&mut self, caller: Caller, context: Frame, guest: &Guest) -> Option<Exit> {
        let events = self.domains[caller.slot].events.at(vcpu_record(caller.index.into()) + UPCALL_PENDING);
        let exit = match self.machine.load(events) {
            0 if self.machine.tsc() >= guest.deadline => Exit::Deadline,
            0 => return None,
            _ => Exit::Event,
        };
        svm::save(&self.machine, guest, context);
        self.leave_guest(caller.vcpu, guest, exit);
        Some(exit)
    }

    /// Something is pending for a vCPU that does not wait: if it runs its guest, that run ends.
    #[cold]
    pub(crate) fn interrupt_guest(&mut self, id: VcpuId) {
        let caller = self.vcpus[id];
        let Some(context) = self.in_guest(caller) else { return };
        match self.sched.on_cpu(id) {
            Some(cpu) if cpu != self.here => self.sched.kicks |= 1 << cpu,
            _ => {
                let guest = self.guest(context);
                svm::save(&self.machine, &guest, context);
                self.leave_guest(id, &guest, Exit::Event);
            }
        }
    }

    /// The guest on `cpu` exited, for something else than an interrupt.
    pub fn guest_exit(&mut self, cpu: usize) {
        self.here = cpu;
        let caller = self.cpus[cpu].current;
        let Some(context) = self.in_guest(caller) else { return };
        let guest = self.guest(context);
        let exit = if self.has_vmx() { vmx::exit } else { svm::exit };
        if let Some(exit) = exit(&self.machine, &guest, context) {
            self.leave_guest(caller.vcpu, &guest, exit);
        }
    }
}
