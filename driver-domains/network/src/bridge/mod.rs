//! The bridge: who gets a frame.
//!
//! Port 0 is the wire, all others are guests. A guest has one address, which was configured: it may send from no other, and
//! frames for that address go nowhere else. What is behind the wire is learned. So a guest can neither take another's address nor
//! push it out of a table, and neither can the wire.

pub mod frame;
mod learned;
#[cfg(test)]
mod tests;

use frame::{Frame, Mac, Refusal, is_group, is_station};
use learned::Learned;

/// Ports, the wire included; as many as a [`PortSet`] has bits.
pub const PORTS: usize = 64;
/// The wire.
pub const WIRE: u8 = 0;

/// Addresses that no bridge forwards (IEEE 802.1D, 7.12.6): they are for the next station, for instance to pause it.
const LINK_LOCAL: [u8; 5] = [0x01, 0x80, 0xc2, 0x00, 0x00];

/// A set of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet(u64);

impl PortSet {
    /// This port alone.
    pub const fn of(port: u8) -> PortSet {
        PortSet(1 << port)
    }

    /// Whether the port is in it.
    pub const fn contains(self, port: u8) -> bool {
        self.0 >> port & 1 != 0
    }

    /// Whether nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds a port.
    pub const fn insert(&mut self, port: u8) {
        self.0 |= 1 << port;
    }

    /// Its ports, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let port = (left != 0).then(|| left.trailing_zeros() as u8);
            left &= left.wrapping_sub(1);
            port
        })
    }
}

/// What is configured for a port that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The address of the guest behind it. That of the wire's device says nothing about who is behind it.
    pub mac: Mac,
    /// Longest frame that can be given to it, in bytes without tags.
    pub limit: usize,
}

/// Who is connected, and what was learned.
#[derive(Debug)]
pub struct Bridge {
    ports: [Option<Port>; PORTS],
    learned: Learned,
}

impl Default for Bridge {
    fn default() -> Self {
        Bridge::new()
    }
}

impl Bridge {
    /// A bridge without ports.
    pub fn new() -> Bridge {
        Bridge { ports: [None; PORTS], learned: Learned::new() }
    }

    /// Connects a port. `false` if there is no such port, or the address of a guest is none for a station or another guest's.
    pub fn connect(&mut self, number: u8, port: Port) -> bool {
        let taken = |other: u8| number != WIRE && other != number;
        let free = !self.owner(&port.mac).is_some_and(taken) && (number == WIRE || is_station(&port.mac));
        match self.ports.get_mut(number as usize) {
            Some(place) if free => {
                *place = Some(port);
                true
            }
            _ => false,
        }
    }

    /// Disconnects a port.
    pub fn disconnect(&mut self, number: u8) {
        if let Some(place) = self.ports.get_mut(number as usize) {
            *place = None;
            self.learned.forget(number);
        }
    }

    /// The guest whose address this is.
    fn owner(&self, mac: &Mac) -> Option<u8> {
        let guests = self.ports.iter().enumerate().skip(WIRE as usize + 1);
        guests
            .filter_map(|(number, port)| Some((number as u8, port.as_ref()?)))
            .find_map(|(number, port)| (port.mac == *mac).then_some(number))
    }

    /// Who gets a frame of `length` bytes that came from port `from`; `start` holds its first bytes. Nobody may be right, too: a
    /// frame from the wire for somebody who is behind the wire.
    pub fn judge(&mut self, from: u8, start: &[u8], length: usize, now_s: u64) -> Result<(Frame, PortSet), Refusal> {
        let frame = Frame::parse(start, length)?;
        let owner = self.owner(&frame.source);
        if from == WIRE {
            if owner.is_some() {
                return Err(Refusal::Spoofed);
            }
            self.learned.learn(&frame.source, from, now_s);
        } else if owner != Some(from) {
            return Err(Refusal::Spoofed);
        }
        let wanted = self.destinations(from, &frame.destination, now_s);
        let mut able = PortSet::default();
        let fits = |port: &u8| self.port(*port).is_some_and(|port| frame.untagged <= port.limit);
        wanted.iter().filter(fits).for_each(|port| able.insert(port));
        if able.is_empty() && !wanted.is_empty() {
            return Err(Refusal::Oversized);
        }
        Ok((frame, able))
    }

    fn destinations(&self, from: u8, to: &Mac, now_s: u64) -> PortSet {
        if to[..5] == LINK_LOCAL && to[5] < 16 {
            return PortSet::default();
        }
        let known = match is_group(to) {
            true => None,
            false => self.owner(to).or_else(|| self.learned.find(to, now_s)),
        };
        let mut set = PortSet::default();
        (0..PORTS as u8)
            .filter(|&port| port != from && self.port(port).is_some() && known.is_none_or(|known| known == port))
            .for_each(|port| set.insert(port));
        set
    }

    fn port(&self, number: u8) -> Option<&Port> {
        self.ports.get(number as usize)?.as_ref()
    }
}
