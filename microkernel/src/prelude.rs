//! The names that nearly every file of the core uses.

pub(crate) use protocol::error::{Error, Result};
pub(crate) use protocol::event::Port;
pub(crate) use protocol::handle::{Handle, ObjectKind, Rights};
pub(crate) use protocol::layout::PAGE_SIZE;
pub(crate) use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) use crate::platform::{Frame, Machine, Memory, Phys};
pub(crate) use crate::refuse_if;
pub(crate) use crate::state::Core;
pub(crate) use crate::table::Slot;
pub(crate) use crate::vcpu::Caller;
