//! Network interfaces.

use super::*;

const ETH0: &str = "device/vif/0";

fn rings(offload: Offload) -> FromDomain {
    FromDomain::NetworkRings { transmit: 8, receive: 9, offload }
}

fn ready(world: &mut World) {
    world.about(|device| ToDomain::NetworkReady { device, offload: OFFLOAD }, "eth0");
}

#[test]
fn the_handshake_of_linux_connects_an_interface() {
    let mut world = World::new();
    assert_eq!(world.offer_network(), []);
    assert_eq!(world.guest.read(&format!("{ETH0}/mac")).as_deref(), Ok("00:16:3e:01:02:ab"));
    assert_eq!(world.guest.read(&format!("{ETH0}/handle")).as_deref(), Ok("0"));
    for (key, value) in [("feature-sg", "1"), ("feature-gso-tcpv4", "0"), ("feature-ipv6-csum-offload", "0")] {
        assert_eq!(world.back(ETH0, key).as_deref(), Ok(value), "{key}");
    }
    assert!(world.back(ETH0, "multi-queue-max-queues").is_err(), "with it, Linux would write a number of queues");
    assert_eq!(world.ports.tied.len(), 0);
    assert_eq!(world.probe_network(ETH0), world.answer(rings(OFFLOAD)));
    assert_eq!(world.ports.tied.len(), 1);
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("2"));
    ready(&mut world);
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("4"));
}

#[test]
fn what_the_guest_cannot_take_is_not_sent_to_it() {
    let cases: [(&str, &str, Offload); 3] = [
        ("feature-no-csum-offload", "1", Offload { checksum: false, scatter_gather: true }),
        ("feature-ipv6-csum-offload", "0", Offload { checksum: false, scatter_gather: true }),
        ("feature-sg", "0", Offload { checksum: true, scatter_gather: false }),
    ];
    for (key, value, offload) in cases {
        let mut world = World::new();
        world.probe_network_with(key, value);
        assert_eq!(world.switch(ETH0, 4), world.answer(rings(offload)), "{key}");
    }
}

impl World {
    /// Everything but the last step, with one key of another value.
    fn probe_network_with(&mut self, key: &str, value: &str) {
        self.offer_network();
        let port = self.allocate(PEER_NETWORK);
        let keys: [(&str, &dyn ToString); 7] = [
            ("tx-ring-ref", &8),
            ("rx-ring-ref", &9),
            ("event-channel", &port),
            ("request-rx-copy", &1),
            ("feature-sg", &1),
            ("feature-ipv6-csum-offload", &1),
            (key, &value),
        ];
        self.publish(ETH0, &keys);
    }
}

/// `xennet_bus_close`, which waits at each step.
#[test]
fn an_interface_whose_driver_is_unloaded_can_come_back() {
    let mut world = World::new();
    world.offer_network();
    world.probe_network(ETH0);
    ready(&mut world);
    assert_eq!(world.switch(ETH0, 5), []);
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("5"));
    assert_eq!(world.switch(ETH0, 6), closed("eth0"));
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("6"));
    // A driver that is there before dom0 knows waits as long as the backend is closed.
    assert_eq!(world.switch(ETH0, 1), []);
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("6"));
    assert_eq!(world.offer_network(), []);
    assert_eq!(world.probe_network(ETH0), world.answer(rings(OFFLOAD)));
    ready(&mut world);
    assert_eq!(world.back_state(ETH0).as_deref(), Ok("4"));
}

#[test]
fn flipping_pages_is_refused() {
    let mut world = World::new();
    world.probe_network_with("request-rx-copy", "0");
    assert!(refused(&world.switch(ETH0, 4)).unwrap().contains("request-rx-copy"));
}
