//! Network interfaces: what the backend's directory says, and what is read from the guest's.
//!
//! Linux decides when it makes the rings, before the network domain was asked, what it will send. So only that is offered which every
//! network domain takes: frames in several slots. Cutting large frames into segments is not, nor are checksums over IPv6, which
//! Linux leaves blank behind extension headers, too.

use alloc::format;
use alloc::string::String;

use protocol::connection::Offload;
use protocol::control::FromDomain;
use protocol::ring::block::Layout;

use super::device::{Device, Kind};
use super::keys::{BadKey, Keys};
use crate::store::Store;

/// An address as text.
pub fn text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Writes what a driver needs to know to make its rings.
pub fn offer<R>(device: &Device<R>, store: &mut Store) {
    let mut write = |key: &str, value: &dyn core::fmt::Display| device.write_back(store, key, value);
    if let Kind::Network { mac } = device.kind() {
        write("mac", &text(mac));
    }
    write("handle", &device.number());
    write("hotplug-status", &"connected");
    write("feature-rx-copy", &1);
    write("feature-rx-flip", &0);
    write("feature-sg", &1);
    write("feature-gso-tcpv4", &0);
    write("feature-gso-tcpv6", &0);
    write("feature-ipv6-csum-offload", &0);
    write("feature-split-event-channels", &0);
    write("feature-multicast-control", &0);
}

/// Reads the rings that the driver made.
pub fn rings(keys: Keys<'_>) -> Result<FromDomain, BadKey> {
    // Its requests are the same in all layouts.
    keys.check_common(Layout::default())?;
    if !keys.feature("request-rx-copy") {
        return Err(BadKey("request-rx-copy"));
    }
    Ok(FromDomain::NetworkRings {
        transmit: keys.number("tx-ring-ref")?,
        receive: keys.number("rx-ring-ref")?,
        offload: Offload {
            // Frames of either kind come from others with a blank checksum.
            checksum: !keys.feature("feature-no-csum-offload") && keys.feature("feature-ipv6-csum-offload"),
            scatter_gather: keys.feature("feature-sg"),
        },
    })
}

/// The rings are served. A network domain that takes less than was offered loses frames, and somebody should know.
pub fn announce<R>(device: &Device<R>, offload: Offload) {
    if !(offload.checksum && offload.scatter_gather) {
        log::warn!("{}: its network domain takes less than Linux sends: {offload:?}", device.name());
    }
}
