//! The hypercalls: the dispatcher, made from the table in `protocol`, and what all handlers share.
//!
//! A handler checks everything before it changes anything. Arguments are in registers and so are read once; what lies in
//! the caller's memory is copied in once, then checked, then used.

mod devices;
mod domains;
mod events;
mod grants;
mod memory;
mod system;
mod vcpus;

use protocol::domain::State;
use protocol::error::{Error, Result, encode};
use protocol::event::Port;
use protocol::handle::{Handle, Rights};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::handles::{self, Entry, Object};
use crate::platform::Machine;
use crate::ports::Ports;
use crate::slot::Slot;
use crate::state::{Caller, Core};
use crate::user::{Checked, UserRange};

/// The result register of calls that need no state, so that the shell can answer without the lock.
#[inline]
pub fn stateless(number: u64) -> Option<u64> {
    (number == protocol::hypercall::Hypercall::Version as u64).then_some(encode(Ok(protocol::ABI_VERSION as u64)))
}

/// An argument as its kind says: handles and ports are narrowed, the rest is left to the handler.
macro_rules! argument {
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
    (AnyHandle, $value:expr) => {
        Handle(u32::try_from($value).map_err(|_| Error::BadHandle)?)
    };
    (Port, $value:expr) => {
        port($value)?
    };
    ($other:ident, $value:expr) => {
        $value
    };
}

macro_rules! dispatcher {
    ($($(#[doc = $doc:literal])* $number:literal $variant:ident $name:ident($($argument:ident: $kind:ident),*) [$($error:ident),*];)*) => {
        impl<M: Machine> Core<M> {
            /// Carries out a hypercall.
            #[inline]
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

/// A port in range.
#[inline]
fn port(value: u64) -> Result<Port> {
    u32::try_from(value).ok().map(Port).filter(|&port| Ports::in_range(port)).ok_or(Error::BadPort)
}

/// A number of 32 bits.
fn narrow(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::Invalid)
}

/// A number no larger than `most`.
fn at_most(value: u64, most: u64) -> Result<u64> {
    if value > most { Err(Error::TooBig) } else { Ok(value) }
}

impl<M: Machine> Core<M> {
    /// What a handle of the caller names, if it carries these rights.
    fn entry(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<Entry> {
        let entry = handles::lookup(&self.machine, self.domains[caller.slot].handles, handle)?;
        if entry.rights.contains(rights) { Ok(entry) } else { Err(Error::NotPermitted) }
    }

    /// Checks that a handle names the machine.
    fn system(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<()> {
        match self.entry(caller, handle, Rights::empty())?.object {
            Object::System => self.entry(caller, handle, rights).map(|_| ()),
            _ => Err(Error::WrongKind),
        }
    }

    /// The domain a handle names.
    fn domain(&self, caller: Caller, handle: Handle, rights: Rights) -> Result<Slot> {
        match self.entry(caller, handle, Rights::empty())?.object {
            Object::Domain(slot, incarnation) if self.domains[slot].incarnation == incarnation => {
                self.entry(caller, handle, rights).map(|_| slot)
            }
            Object::Domain(..) => Err(Error::BadHandle),
            _ => Err(Error::WrongKind),
        }
    }

    /// A domain other than the caller's, to be built, started or ended.
    fn other(&self, caller: Caller, handle: Handle) -> Result<Slot> {
        let slot = self.domain(caller, handle, Rights::CONTROL)?;
        if slot == caller.slot { Err(Error::NotPermitted) } else { Ok(slot) }
    }

    /// As [`Core::other`], and in building.
    fn building(&self, caller: Caller, handle: Handle) -> Result<Slot> {
        let slot = self.other(caller, handle)?;
        if self.domains[slot].state == Some(State::Building) { Ok(slot) } else { Err(Error::WrongState) }
    }

    /// Memory of the caller.
    fn memory(&self, caller: Caller, address: u64, length: u64, write: bool) -> Result<Checked> {
        UserRange::new(address, length)?.check(&self.machine, self.domains[caller.slot].space, write)
    }

    /// Copies a value from the caller's memory.
    fn fetch<T: FromBytes + IntoBytes>(&self, caller: Caller, address: u64) -> Result<T> {
        Ok(self.memory(caller, address, size_of::<T>() as u64, false)?.get(&self.machine, 0))
    }

    /// Room for a value in the caller's memory.
    fn room<T>(&self, caller: Caller, address: u64) -> Result<Checked> {
        self.memory(caller, address, size_of::<T>() as u64, true)
    }

    /// Copies a value to the caller's memory.
    fn deliver<T: IntoBytes + Immutable>(&self, caller: Caller, address: u64, value: &T) -> Result {
        self.room::<T>(caller, address)?.put(&self.machine, 0, value);
        Ok(0)
    }
}
