//! The hypercalls: the dispatcher, made from the table in `protocol`, and what all handlers share.
//!
//! A handler checks everything before it changes anything. Arguments are in registers and so are read once; what lies in
//! the caller's memory is copied in once, then checked, then used.

mod devices;
mod domains;
mod grants;
mod memory;
mod pci;
mod system;

pub(crate) use memory::MAX_PAGES;
use protocol::domain::State;
use protocol::event::PORTS;

use crate::handles::{self, Entry};
use crate::prelude::*;
use crate::user::{Checked, UserRange};

/// An argument as its kind says: handles and ports are narrowed, the rest is left to the handler.
macro_rules! argument {
    (Port, $value:expr) => {
        if $value < PORTS as u64 { Port($value as u32) } else { return Err(Error::BadPort) }
    };
    (System, $value:expr) => {
        argument!(AnyHandle, $value)
    };
    (Domain, $value:expr) => {
        argument!(AnyHandle, $value)
    };
    (IoPorts, $value:expr) => {
        argument!(AnyHandle, $value)
    };
    (Interrupt, $value:expr) => {
        argument!(AnyHandle, $value)
    };
    (Device, $value:expr) => {
        argument!(AnyHandle, $value)
    };
    (AnyHandle, $value:expr) => {
        Handle(u32::try_from($value).map_err(|_| Error::BadHandle)?)
    };
    ($other:ident, $value:expr) => {
        $value
    };
}

macro_rules! dispatcher {
    ($($(#[doc = $doc:literal])* $number:literal $variant:ident $name:ident($($argument:ident: $kind:ident),*) [$($error:ident),*];)*) => {
        impl<M: Machine> Core<M> {
            /// Carries out a hypercall.
            #[inline(always)]
            pub(crate) fn dispatch(&mut self, caller: Caller, number: u64, arguments: [u64; 5]) -> Result {
                match number {
                    $($number => {
                        let [$($argument,)* ..] = arguments;
                        self.$name(caller, $(argument!($kind, $argument)),*)
                    })*
                    _ => Err(Error::NoSuchCall),
                }
            }
        }
    };
}

protocol::for_each_hypercall!(dispatcher);

/// A number no larger than `most`.
pub(crate) fn at_most(value: u64, most: usize) -> Result<usize> {
    usize::try_from(value).ok().filter(|&value| value <= most).ok_or(Error::TooBig)
}

impl<M: Machine> Core<M> {
    /// The entry of a handle of the caller.
    pub(crate) fn entry(&self, caller: Caller, handle: Handle) -> Result<Entry> {
        handles::lookup(&self.machine, self.domains[caller.slot].handles, handle)
    }

    /// Checks that a handle names the machine.
    pub(crate) fn system(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<()> {
        self.entry(caller, handle)?.object(ObjectKind::System, rights).map(|_| ())
    }

    /// The domain a handle names.
    pub(crate) fn domain(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<Slot> {
        let reference = self.entry(caller, handle)?.object(ObjectKind::Domain, rights)?;
        self.resolve(reference).ok_or(Error::BadHandle)
    }

    /// As [`Core::domain`], and not at its end.
    pub(crate) fn live(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<Slot> {
        let slot = self.domain(caller, handle, rights)?;
        if self.domains[slot].is_gone() { Err(Error::WrongState) } else { Ok(slot) }
    }

    /// A domain other than the caller's and the first, to be built, started or ended.
    pub(crate) fn other(&self, caller: Caller, handle: Handle) -> Result<Slot> {
        let slot = self.domain(caller, handle, Rights::CONTROL)?;
        if slot == caller.slot || slot == Slot::DOM0 { Err(Error::NotPermitted) } else { Ok(slot) }
    }

    /// As [`Core::other`], and in building.
    pub(crate) fn building(&self, caller: Caller, handle: Handle) -> Result<Slot> {
        let slot = self.other(caller, handle)?;
        if self.domains[slot].state == Some(State::Building) { Ok(slot) } else { Err(Error::WrongState) }
    }

    /// Memory of the caller.
    pub(crate) fn memory(&self, caller: Caller, address: u64, length: usize, write: bool) -> Result<Checked> {
        UserRange::new(address, length as u64)?.check(&self.machine, self.domains[caller.slot].space, write)
    }

    /// Copies a value from the caller's memory.
    pub(crate) fn fetch<T: FromBytes + IntoBytes>(&self, caller: Caller, address: u64) -> Result<T> {
        Ok(self.memory(caller, address, size_of::<T>(), false)?.get(&self.machine, 0))
    }

    /// Copies a value to the caller's memory.
    pub(crate) fn deliver<T: IntoBytes + Immutable>(&self, caller: Caller, address: u64, value: &T) -> Result {
        self.memory(caller, address, size_of::<T>(), true)?.put(&self.machine, 0, value);
        Ok(0)
    }
}
