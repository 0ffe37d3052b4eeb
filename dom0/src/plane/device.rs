//! Devices that guests have, and the connections by which driver domains serve them: what is remembered of them.
//!
//! A device is a wish: it stays while its guest has it, whatever becomes of the driver domain. A link is what fulfils it at the
//! moment; it is made when there is a driver domain with room, and its life is [`protocol::connection::State`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::connection::{BlockAttach, DEVICE_MAX, DiskLimits, Frontend, NetworkAttach, Offload, State};
use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;

use crate::config::Role;

/// First wait for an answer before the request is sent again, in ns: long beside any honest answer.
const PATIENCE_NS: u64 = 2_000_000_000;
/// Longest such wait; it doubles each time.
const PATIENCE_MAX_NS: u64 = 60_000_000_000;

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    Block {
        /// The disk, partition or label, as its driver domain knows it.
        target: String,
        /// The guest may not write.
        read_only: bool,
    },
    /// A network interface.
    Network {
        /// Its address.
        mac: [u8; 6],
    },
}

impl Kind {
    /// What a driver domain has to serve for it.
    pub const fn role(&self) -> Role {
        match self {
            Kind::Block { .. } => Role::Disk,
            Kind::Network { .. } => Role::Network,
        }
    }
}

/// A device of a guest.
#[derive(Clone, Debug)]
pub struct Device {
    /// Names it for as long as dom0 runs.
    pub key: u32,
    /// The guest.
    pub guest: u16,
    /// The guest's name for it: `xvda`, `eth0`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The driver domain that has to serve it, if not simply the first.
    pub wanted: Option<String>,
    /// How it is served.
    pub link: Option<Link>,
    /// Why it is not served, or what somebody should know.
    pub fault: Option<String>,
    /// The guest is gone, or has nothing to do with it any more.
    pub orphan: bool,
    /// It is no device any more once its link is closed.
    pub leaving: bool,
    /// It is linked anew once its link is closed.
    pub again: bool,
}

/// What a driver domain said about a device when it attached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// What the disk is like.
    Disk(DiskLimits),
    /// What the bridge takes.
    Network(Offload),
}

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest.
    Front,
    /// The driver domain.
    Back,
}

/// A request about a link that has no answer yet.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is asked.
    pub message: ToDomain,
    /// Its id, once it was sent.
    pub id: Option<u32>,
    /// When it is sent again.
    pub due: u64,
    wait_ns: u64,
}

impl Ask {
    /// A request that was not sent yet.
    pub fn new(message: ToDomain) -> Ask {
        Ask { message, id: None, due: u64::MAX, wait_ns: PATIENCE_NS }
    }

    /// It was sent, as `id`.
    pub fn sent(&mut self, id: u32, now: u64) {
        (self.id, self.due) = (Some(id), now.saturating_add(self.wait_ns));
        self.wait_ns = (2 * self.wait_ns).min(PATIENCE_MAX_NS);
    }

    /// Nobody heard it: whoever was asked started anew.
    pub fn unheard(&mut self) {
        (self.id, self.due, self.wait_ns) = (None, u64::MAX, PATIENCE_NS);
    }
}

/// How a device is served.
#[derive(Clone, Debug)]
pub struct Link {
    /// The driver domain.
    pub backend: u16,
    /// Its number for the connection.
    pub connection: u16,
    /// The driver domain's index in the guest's peer table.
    pub peer: u16,
    /// The guest's port.
    pub guest_port: Port,
    /// The driver domain's port.
    pub backend_port: Port,
    /// Where it is in its life.
    pub state: State,
    /// What the driver domain is told of it, each time the same.
    pub attach: Option<ToDomain>,
    /// The driver domain may know of it.
    pub told: bool,
    /// What the driver domain answered.
    pub attached: Option<Attached>,
    /// Requests executed again after the last restart.
    pub replayed: u32,
    /// What the guest has not answered.
    pub front: Option<Ask>,
    /// What the driver domain has not answered.
    pub back: Option<Ask>,
}

impl Link {
    /// The request that one side has not answered.
    pub fn ask(&mut self, side: Side) -> &mut Option<Ask> {
        match side {
            Side::Front => &mut self.front,
            Side::Back => &mut self.back,
        }
    }

    /// Whether the driver domain still has to let go.
    pub fn detaching(&self) -> bool {
        self.back.as_ref().is_some_and(|ask| matches!(ask.message, ToDomain::Detach { .. }))
    }
}

/// A name as messages have it. Names are checked against the bound when they are made.
pub fn device_name(name: &str) -> heapless::String<DEVICE_MAX> {
    heapless::String::try_from(name).unwrap_or_default()
}

impl Device {
    /// The message that offers it to the guest.
    pub fn offer(&self, link: &Link) -> ToDomain {
        let (device, peer, port) = (device_name(&self.name), link.peer, link.guest_port);
        match self.kind {
            Kind::Block { read_only, .. } => ToDomain::BlockOffer { device, peer, port, read_only },
            Kind::Network { mac } => ToDomain::NetworkOffer { device, peer, port, mac },
        }
    }

    /// The message that attaches it, from the guest's answer to the offer; an error says what is wrong with that. `life` is a
    /// number that was never used before: rings of another one are not continued.
    pub fn attach(&self, link: &Link, life: u32, rings: FromDomain) -> Result<ToDomain, String> {
        let Link { connection, backend_port, .. } = *link;
        let frontend = Frontend { connection, peer: self.guest, incarnation: life, port: backend_port };
        match (&self.kind, rings) {
            (Kind::Block { target, read_only }, FromDomain::BlockRing { ring, persistent, layout }) => {
                if !ring.len().is_power_of_two() {
                    return Err(format!("its ring has {} pages, not 1, 2, 4 or 8", ring.len()));
                }
                let target = heapless::String::try_from(target.as_str()).unwrap_or_default();
                let read_only = *read_only;
                Ok(ToDomain::BlockAttach(BlockAttach { frontend, ring, target, read_only, persistent, layout }))
            }
            (Kind::Network { mac }, FromDomain::NetworkRings { transmit, receive, offload }) => {
                Ok(ToDomain::NetworkAttach(NetworkAttach { frontend, transmit, receive, mac: *mac, offload }))
            }
            _ => Err("its answer to the offer is about something else".into()),
        }
    }

    /// The message that tells the guest that it can use the device.
    pub fn ready(&self, attached: Attached) -> ToDomain {
        let device = device_name(&self.name);
        match attached {
            Attached::Disk(limits) => ToDomain::BlockReady { device, limits },
            Attached::Network(offload) => ToDomain::NetworkReady { device, offload },
        }
    }

    /// Where it is, in a word.
    pub fn status(&self) -> &'static str {
        match self.link.as_ref().map(|link| link.state) {
            None if self.fault.is_some() => "refused",
            None => "no-backend",
            Some(State::Offered) => "offered",
            Some(State::Waiting { .. }) => "waiting",
            Some(State::Serving) => "serving",
            Some(State::Closing) => "closing",
            Some(State::Closed) => "closed",
        }
    }
}

/// An address of the range that Xen's tools use (00:16:3e, of XenSource), the same for the same text each time. `taken` are
/// those that others have.
pub fn mac_for(text: &str, taken: &[[u8; 6]]) -> [u8; 6] {
    // FNV-1a (offset basis and prime as published, 32 bits): short and well spread, and nothing depends on its secrecy.
    let mut hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    loop {
        let [_, a, b, c] = hash.to_be_bytes();
        let mac = [0x00, 0x16, 0x3e, a & 0x7f, b, c];
        if !taken.contains(&mac) {
            return mac;
        }
        hash = hash.wrapping_add(1);
    }
}

/// The lowest number below `room` that nobody uses.
pub fn free_number(used: &[u16], room: u16) -> Option<u16> {
    (0..room).find(|number| !used.contains(number))
}

/// Keys of the devices that fulfil a condition.
pub fn keys(devices: &[Device], condition: impl Fn(&Device) -> bool) -> Vec<u32> {
    devices.iter().filter(|device| condition(device)).map(|device| device.key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_and_never_shared() {
        let one = mac_for("web/eth0", &[]);
        assert_eq!(one, mac_for("web/eth0", &[]));
        assert_eq!(one[..3], [0x00, 0x16, 0x3e]);
        assert!(one[3] < 0x80);
        assert_ne!(one, mac_for("web/eth1", &[]));
        assert_ne!(one, mac_for("web/eth0", &[one]));
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut ask = Ask::new(ToDomain::Ping);
        for _ in 0..20 {
            ask.sent(1, 0);
        }
        assert_eq!(ask.due, PATIENCE_MAX_NS);
        ask.unheard();
        ask.sent(2, 5);
        assert_eq!(ask.due, 5 + PATIENCE_NS);
    }
}
