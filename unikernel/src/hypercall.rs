//! The hypercalls as functions, made from their one declaration.
//!
//! [`raw`] holds the calls as they are, numbers in and a number out, and only `unsafe` code can use them. The other modules of
//! this crate offer them with types that keep memory safe.

use protocol::error::{Error, Result};

/// One function a hypercall, by its declared name and arguments.
pub mod raw {
    use protocol::answer::decode;
    use protocol::error::Result;

    macro_rules! wrappers {
        ($(
            $(#[doc = $doc:literal])*
            $number:literal $variant:ident $name:ident($($argument:ident: $kind:ident $(($right:ident))?),*) [$($error:ident),*];
        )*) => { $(
            $(#[doc = $doc])*
            ///
            /// # Safety
            /// 1. Addresses among the arguments are of memory that the call may read or write as its description says.
            /// 2. No memory that a Rust object lies in is taken away or shared by it.
            #[inline]
            pub unsafe fn $name($($argument: u64),*) -> Result {
                // SAFETY: the caller's conditions are those of `syscall`.
                decode(unsafe { crate::cpu::syscall($number, fill([$($argument),*])) })
            }
        )* };
    }

    protocol::for_each_hypercall!(wrappers);

    /// Argument registers that a call does not use are zero.
    #[inline]
    fn fill<const N: usize>(given: [u64; N]) -> [u64; 5] {
        let mut all = [0; 5];
        all[..N].copy_from_slice(&given);
        all
    }
}

/// The version of the interface that the core speaks; also the shortest call there is.
#[inline]
pub fn version() -> Result {
    // SAFETY: the call has no arguments and no effect.
    unsafe { raw::version() }
}

/// Repeats a call that the core cuts into slices until it is through; others may run in between.
pub(crate) fn to_the_end(mut call: impl FnMut() -> Result) -> Result {
    loop {
        match call() {
            Err(Error::Again) => crate::vcpu::yield_now(),
            done => return done,
        }
    }
}

/// Bytes that a call reads, as arguments. The core checks the address even of none, and an empty slice may have any.
pub(crate) fn bytes(bytes: &[u8]) -> (u64, u64) {
    static NOTHING: u8 = 0;
    let address = if bytes.is_empty() { address_of(&NOTHING) } else { bytes.as_ptr() as u64 };
    (address, bytes.len() as u64)
}

/// The address of a value that a call reads, as an argument.
pub(crate) fn address_of<T>(value: &T) -> u64 {
    core::ptr::from_ref(value) as u64
}

/// The address of a value that a call writes, as an argument.
pub(crate) fn address_of_mut<T>(value: &mut T) -> u64 {
    core::ptr::from_mut(value) as u64
}
