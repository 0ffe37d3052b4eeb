//! The window to physical memory: all RAM, and the registers of the interrupt controllers, at one fixed distance.
//!
//! Memory behind it belongs to domains that change it at any time, so it is reached by atomic operations and by copies in
//! assembly only; no reference into it is ever made. Replacing the direct map by a smaller window means changing this file.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use microkernel::platform::{Frame, Memory, Phys};

use super::hardware::Hardware;
use super::symbols::copy_bytes;

/// Virtual address of physical address 0.
pub const BASE: u64 = 0xffff_8000_0000_0000;
/// Bytes of address space: entries 256 to 383 of the root table.
pub const SIZE: u64 = 128 << 39;

/// Where a physical address is seen.
pub const fn pointer<T>(at: Phys) -> *mut T {
    (BASE + at.0) as *mut T
}

// All accesses below rest on the contract of `Memory`: the address is RAM that the frame table knows, so it is mapped and
// writable at `pointer(at)`, holds no object of the core, and is aligned for the access.
impl Memory for Hardware {
    fn load(&self, at: Phys) -> u64 {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(pointer(at)) }.load(Ordering::Acquire)
    }

    fn store(&self, at: Phys, value: u64) {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(pointer(at)) }.store(value, Ordering::Release);
    }

    fn fetch_or(&self, at: Phys, bits: u64) -> u64 {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(pointer(at)) }.fetch_or(bits, Ordering::SeqCst)
    }

    fn fetch_and(&self, at: Phys, bits: u64) -> u64 {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(pointer(at)) }.fetch_and(bits, Ordering::SeqCst)
    }

    fn compare_exchange(&self, at: Phys, old: u64, new: u64) -> bool {
        // SAFETY: see above.
        let cell = unsafe { AtomicU64::from_ptr(pointer(at)) };
        cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn read(&self, at: Phys, out: &mut [u8]) {
        // SAFETY: see above; `out` is memory of the core and cannot overlap.
        unsafe { copy_bytes(out.as_mut_ptr(), pointer(at), out.len()) };
    }

    fn write(&self, at: Phys, bytes: &[u8]) {
        // SAFETY: see above; `bytes` is memory of the core and cannot overlap.
        unsafe { copy_bytes(pointer(at), bytes.as_ptr(), bytes.len()) };
    }

    fn copy(&self, from: Phys, to: Phys, length: usize) {
        // SAFETY: see above; the contract excludes an overlap.
        unsafe { copy_bytes(pointer(to), pointer(from), length) };
    }

    fn zero(&self, frame: Frame) {
        // SAFETY: see above; exactly one frame is written.
        unsafe {
            asm!("rep stosq", inout("rdi") pointer::<u64>(frame.at(0)) => _, inout("rcx") 512u64 => _, in("rax") 0u64,
                options(nostack, preserves_flags));
        }
    }
}
