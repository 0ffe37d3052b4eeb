//! Channels between the guest and driver domains: events of a port of the monitor's go on to a port of the guest's.
//!
//! The other way needs nobody here: what the guest sends goes to the monitor's port at once.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;

use protocol::event::Port;
use protocol::ring::block::Layout;
use unikernel::event::{AnyPort, Channel};

use crate::devices::Channels;
use crate::machine::Machine;

/// All such channels of the guest.
#[derive(Clone)]
pub struct Bridge {
    machine: Arc<Machine>,
    /// The monitor's port, and the guest's.
    channels: Rc<RefCell<Vec<(Channel, u32)>>>,
}

impl Bridge {
    /// None yet.
    pub fn new(machine: Arc<Machine>) -> Bridge {
        Bridge { machine, channels: Rc::default() }
    }

    /// Passes events on for good.
    pub async fn serve(self) {
        let any = AnyPort::default();
        loop {
            any.wait().await;
            for (channel, guest_port) in self.channels.borrow().iter() {
                if channel.fired() {
                    self.machine.with(|guest| guest.raise(*guest_port));
                }
            }
        }
    }
}

impl Channels for Bridge {
    fn bind(&mut self, guest_port: u32, peer: u16, native: Port) -> bool {
        let bound = self.machine.with(|guest| guest.events.connect(guest_port, peer, native)).is_ok();
        if bound {
            let mut channels = self.channels.borrow_mut();
            channels.retain(|(channel, _)| channel.port() != native);
            channels.push((Channel::new(native), guest_port));
        }
        bound
    }

    fn unbind(&mut self, guest_port: u32, native: Port) {
        self.machine.with(|guest| guest.events.disconnect(guest_port, native));
        self.channels.borrow_mut().retain(|(channel, _)| channel.port() != native);
    }

    fn has_memory(&self) -> bool {
        self.machine.with(|guest| guest.untouched() == 0)
    }

    fn layout(&self) -> Layout {
        self.machine.with(|guest| if guest.events.is_wide() { Layout::X86_64 } else { Layout::X86_32 })
    }
}
