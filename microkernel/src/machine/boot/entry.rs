//! The first instructions: from what a boot loader or another CPU left, to long mode in the higher half.
//!
//! Three ways in, one way on: the PVH note (QEMU `-kernel`), the multiboot2 header (GRUB), and the start-up interrupt that
//! wakes the other CPUs. Early page tables map the low 4 GiB three times: one to one, in the window at
//! [`crate::machine::window::BASE`], and (the first GiB) where the core is linked. CR4.OSFXSR and CR0 are set here because prebuilt
//! `core` uses SSE everywhere: no Rust may run before that.

use core::arch::global_asm;

/// Handed to [`crate::machine::start::start_primary`]: the entry was the PVH note's; the argument points to `hvm_start_info`.
pub const PROTOCOL_PVH: u32 = 0;
/// The value a multiboot2 loader leaves in EAX; the argument points to its boot information.
pub const PROTOCOL_MULTIBOOT2: u32 = 0x36d7_6289;

/// Only inside the assembly: another CPU comes up.
const SECONDARY: u32 = 1;

global_asm!(
    include_str!("entry.s"),
    pvh = const PROTOCOL_PVH,
    secondary = const SECONDARY,
    stack = sym crate::machine::start::BOOT_STACK,
    stack_size = const crate::machine::start::BOOT_STACK_SIZE,
    start_primary = sym crate::machine::start::start_primary,
    core_root = sym crate::machine::paging::CORE_ROOT,
    offer = sym crate::machine::smp::OFFER,
    area_stack = const core::mem::offset_of!(crate::machine::percpu::Cpu, stack),
    start_secondary = sym crate::machine::smp::start_secondary,
);
