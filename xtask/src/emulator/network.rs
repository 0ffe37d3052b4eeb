//! The machine's network cards, and ports of the host that lead to the machine.

use std::io::Result;
use std::net::{Ipv4Addr, TcpListener};

/// Address of the card with this number: locally administered, QEMU's own prefix.
pub fn mac(number: usize) -> String {
    format!("52:54:00:12:34:{:02x}", 0x56 + number)
}

/// Whether the emulator can listen at this port of 127.0.0.1. Asked before the emulator starts, whose own complaint names no
/// way out.
pub fn check_port(port: u16) -> Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// A port of 127.0.0.1 at which nobody listens. Somebody else may take it before the emulator does, which is unlikely: the system
/// gives out another one each time.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_until_somebody_listens() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(check_port(port).is_err());
        assert_ne!(free_port().unwrap(), port);
        drop(listener);
        assert!(check_port(port).is_ok());
    }
}
