//! Network interfaces, in the string form of xl.cfg: `mac=00:16:3e:00:00:01,bridge=br0`.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::name_fault;
use super::reader::shown;

/// A network interface of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Vif {
    /// Its address; chosen when the domain is built if none is given.
    pub mac: Option<[u8; 6]>,
    /// The bridge it is plugged into.
    pub bridge: Option<String>,
    /// The one IP address it may use.
    pub ip: Option<String>,
    /// The driver domain that serves it; the first one for networks if none is named.
    pub driver: Option<String>,
}

/// Parses one entry of `vif`; an empty one is an interface with nothing special.
pub fn parse(text: &str) -> Result<Vif, String> {
    let mut vif = Vif::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("`{}` is no key=value", shown(part)));
        };
        match (name.trim(), value.trim()) {
            ("mac", value) => vif.mac = Some(mac(value)?),
            ("bridge", value) => vif.bridge = Some(value.to_owned()),
            ("ip", value) => vif.ip = Some(value.to_owned()),
            ("backend", value) => match name_fault(value) {
                None => vif.driver = Some(value.to_owned()),
                Some(fault) => return Err(format!("backend `{}` {fault}", shown(value))),
            },
            // They choose among implementations that xl has several of, and Bulkhead one.
            ("script" | "type" | "model" | "vifname" | "rate", _) => {}
            (name, _) => return Err(format!("`{}` is no part of an interface", shown(name))),
        }
    }
    Ok(vif)
}

/// An address as people write it.
pub fn text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Parses an address.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("`{}` is no address like 00:16:3e:00:00:01", shown(text));
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+')).ok_or_else(wrong)?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    match address[0] & 1 {
        0 => Ok(address),
        _ => Err(format!("{} is a multicast address", shown(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_in_use() {
        let mac = Some([0xaa, 0, 0, 0, 0, 1]);
        assert_eq!(parse("mac=aa:00:00:00:00:01"), Ok(Vif { mac, ..Vif::default() }));
        assert_eq!(parse(""), Ok(Vif::default()));
        let full = Vif { mac, bridge: Some("br0".into()), ip: Some("10.0.0.2".into()), driver: Some("net2".into()) };
        assert_eq!(parse("mac=AA:00:00:00:00:01, bridge=br0,ip=10.0.0.2,type=vif,backend=net2"), Ok(full));
    }

    #[test]
    fn bad_ones_are_refused() {
        for bad in ["mac=1", "mac=aa:00:00:00:00", "mac=aa:00:00:00:00:01:02", "mac=+a:00:00:00:00:01", "br0", "x=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("mac=01:00:00:00:00:00").unwrap_err().contains("multicast"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}
