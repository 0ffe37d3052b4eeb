//! Numbers of ports: connections follow the wire.

use crate::bridge::{PORTS, WIRE};

/// The port of a connection. A connection that is beyond the last port has none: the bridge refuses the number.
pub fn of(connection: u16) -> u8 {
    u8::try_from(connection).unwrap_or(u8::MAX).saturating_add(WIRE + 1)
}

/// The connection of a port; `None` for the wire.
pub fn connection(port: u8) -> Option<u16> {
    (port != WIRE && (port as usize) < PORTS).then(|| u16::from(port - WIRE - 1))
}
