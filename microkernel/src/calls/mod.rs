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
mod vm;

pub(crate) use memory::MAX_PAGES;
use protocol::domain::State;
use protocol::event::PORTS;

use crate::prelude::*;
use crate::user::Checked;

/// An argument as its kind says: handles become what they name, ports are narrowed, the rest is left to the handler.
macro_rules! argument {
    ($core:ident $caller:ident $value:ident AnyHandle) => {
        handle($value)?
    };
    ($core:ident $caller:ident $value:ident AnyDomain) => {
        handle($value)?
    };
    ($core:ident $caller:ident $value:ident Domain $right:ident) => {
        $core.domain($caller, handle($value)?, Rights::$right)?
    };
    ($core:ident $caller:ident $value:ident Live $right:ident) => {
        $core.live($caller, handle($value)?, Rights::$right)?
    };
    ($core:ident $caller:ident $value:ident Other) => {
        $core.other($caller, handle($value)?)?
    };
    ($core:ident $caller:ident $value:ident Building) => {
        $core.building($caller, handle($value)?)?
    };
    ($core:ident $caller:ident $value:ident Opened) => {
        $core.opened($caller, handle($value)?)?
    };
    ($core:ident $caller:ident $value:ident $kind:ident $right:ident) => {
        $core.entry($caller, handle($value)?)?.object(ObjectKind::$kind, Rights::$right)?
    };
    ($core:ident $caller:ident $value:ident Port) => {
        if $value < PORTS as u64 { Port($value as u32) } else { return Err(Error::BadPort) }
    };
    ($core:ident $caller:ident $value:ident $plain:ident) => {
        $value
    };
}

macro_rules! dispatcher {
    ($($(#[doc = $doc:literal])* $number:literal $variant:ident
        $name:ident($($argument:ident: $kind:ident $(($right:ident))?),*) $errors:tt;)*) => {
        impl<M: Machine> Core<M> {
            /// Carries out a hypercall.
            #[inline(always)]
            pub(crate) fn dispatch(&mut self, caller: Caller, number: u64, arguments: [u64; 5]) -> Result {
                match number {
                    $($number => {
                        let [$($argument,)* ..] = arguments;
                        $(let $argument = argument!(self caller $argument $kind $($right)?);)*
                        self.$name(caller, $($argument),*)
                    })*
                    _ => Err(Error::NoSuchCall),
                }
            }
        }
    };
}

protocol::for_each_hypercall!(dispatcher);

/// A handle, as it stands in an argument.
fn handle(value: u64) -> Result<Handle> {
    u32::try_from(value).map(Handle).map_err(|_| Error::BadHandle)
}

/// A number no larger than `most`.
pub(crate) fn at_most(value: u64, most: usize) -> Result<usize> {
    usize::try_from(value).ok().filter(|&value| value <= most).ok_or(Error::TooBig)
}

impl<M: Machine> Core<M> {
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

    /// The PCI function a handle names, which the caller has opened.
    fn opened(&self, caller: Caller, handle: Handle) -> Result<usize> {
        let index = self.entry(caller, handle)?.object(ObjectKind::Device, Rights::USE)? as usize;
        let own = self.devices[index].info.owner == caller.slot.number() as u32;
        if own { Ok(index) } else { Err(Error::WrongState) }
    }

    /// Memory of the caller.
    pub(crate) fn memory(&self, caller: Caller, address: u64, length: usize, write: bool) -> Result<Checked> {
        self.reach(caller.slot, address, length, write)
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
