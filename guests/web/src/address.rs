//! The address to use where no DHCP server answers.

use smoltcp::wire::{Ipv4Address, Ipv4Cidr};

/// An address from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Own address, with the prefix of its network.
    pub address: Ipv4Cidr,
    /// Where everything else is.
    pub gateway: Option<Ipv4Address>,
}

impl Fallback {
    /// Reads the words `ip=` and `gw=`.
    pub fn from_words(ip: Option<&str>, gateway: Option<&str>) -> Option<Fallback> {
        let (address, prefix) = ip?.split_once('/').unwrap_or((ip?, "24"));
        let prefix: u8 = prefix.parse().ok().filter(|&prefix| prefix <= 32)?;
        let gateway = match gateway {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Fallback { address: Ipv4Cidr::new(address.parse().ok()?, prefix), gateway })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_or_refused() {
        let gateway = Some(Ipv4Address::new(10, 0, 2, 2));
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 15), 24);
        assert_eq!(Fallback::from_words(Some("10.0.2.15/24"), Some("10.0.2.2")), Some(Fallback { address, gateway }));
        assert_eq!(Fallback::from_words(Some("10.0.2.15"), None), Some(Fallback { address, gateway: None }));
        for (ip, gw) in
            [(None, None), (Some("10.0.2.15/33"), None), (Some("10.0.2"), None), (Some("10.0.2.15"), Some("x"))]
        {
            assert_eq!(Fallback::from_words(ip, gw), None);
        }
    }
}
