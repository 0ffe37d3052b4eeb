//! The bridge against a model that remembers everything, and against a wire and guests that want each other's frames.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use proptest::prelude::*;

const GROUP: Mac = [0xff; 6];

fn guest(number: u8) -> Mac {
    [2, 0, 0, 0, 0, number]
}

/// No more than fit in one set of the table, so that none is forgotten but by age.
fn station(number: u8) -> Mac {
    [6, 0, 0, 1, 0, number % 4]
}

fn frame(to: Mac, from: Mac) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend_from_slice(&[8, 0]);
    frame.resize(60, 0);
    frame
}

fn bridge(guests: u8) -> Bridge {
    let mut bridge = Bridge::new();
    assert!(bridge.connect(WIRE, Port { mac: [6, 0, 0, 0, 0, 9], limit: frame::WIRE_MAX }));
    (1..=guests).for_each(|number| assert!(bridge.connect(number, Port { mac: guest(number), limit: 4096 })));
    bridge
}

fn ports(bridge: &mut Bridge, from: u8, to: Mac, source: Mac, now_s: u64) -> Result<Vec<u8>, Refusal> {
    let frame = frame(to, source);
    bridge.judge(from, &frame, frame.len(), now_s).map(|(_, set)| set.iter().collect())
}

#[test]
fn a_guest_sends_from_its_own_address_only() {
    let mut bridge = bridge(3);
    assert_eq!(ports(&mut bridge, 1, guest(2), guest(1), 0), Ok([2].into()));
    for wrong in [guest(2), guest(9), station(1), GROUP, [0; 6]] {
        assert!(ports(&mut bridge, 1, guest(2), wrong, 0).is_err());
    }
    assert_eq!(
        ports(&mut bridge, WIRE, GROUP, guest(1), 0),
        Err(Refusal::Spoofed),
        "nor does the wire send from a guest's"
    );
}

#[test]
fn an_address_has_one_owner() {
    let mut bridge = bridge(2);
    assert!(!bridge.connect(3, Port { mac: guest(1), limit: 4096 }));
    assert!(!bridge.connect(3, Port { mac: GROUP, limit: 4096 }));
    assert!(!bridge.connect(3, Port { mac: [0; 6], limit: 4096 }));
    assert!(!bridge.connect(PORTS as u8, Port { mac: guest(3), limit: 4096 }));
    assert!(bridge.connect(1, Port { mac: guest(1), limit: 9000 }), "a port may be connected again");
    bridge.disconnect(1);
    assert!(bridge.connect(3, Port { mac: guest(1), limit: 4096 }));
}

#[test]
fn a_flood_of_addresses_pushes_no_guest_out() {
    let mut bridge = bridge(2);
    for number in 0..20_000u32 {
        let [_, b, c, d] = number.to_be_bytes();
        assert!(ports(&mut bridge, WIRE, GROUP, [6, 7, 0, b, c, d], 5).is_ok());
    }
    assert_eq!(ports(&mut bridge, 1, guest(2), guest(1), 5), Ok([2].into()));
    assert_eq!(ports(&mut bridge, WIRE, guest(2), station(0), 5), Ok([2].into()));
}

#[test]
fn frames_for_the_next_station_go_no_further() {
    let mut bridge = bridge(2);
    assert_eq!(ports(&mut bridge, WIRE, [1, 0x80, 0xc2, 0, 0, 1], station(1), 0), Ok([].into()));
    assert_eq!(ports(&mut bridge, WIRE, [1, 0x80, 0xc2, 0, 0, 16], station(1), 0), Ok([1, 2].into()));
}

#[test]
fn what_nobody_can_take_is_oversized_and_tags_do_not_count() {
    let mut bridge = bridge(2);
    let mut long = frame(GROUP, guest(1));
    let mut judge =
        |frame: &[u8], length| bridge.judge(1, frame, length, 0).map(|(_, set)| set.iter().collect::<Vec<_>>());
    assert_eq!(judge(&long, frame::WIRE_MAX), Ok([0, 2].into()));
    assert_eq!(judge(&long, frame::WIRE_MAX + 1), Ok([2].into()));
    assert_eq!(judge(&long, 4097), Err(Refusal::Oversized));
    long[12..18].copy_from_slice(&[0x81, 0, 0, 1, 8, 0]);
    assert_eq!(judge(&long, frame::WIRE_MAX + 4), Ok([0, 2].into()));
}

#[derive(Clone, Copy, Debug)]
struct Step {
    from: u8,
    to: Mac,
    source: Mac,
    passed_s: u64,
}

fn address() -> impl Strategy<Value = Mac> {
    prop_oneof![
        3 => (1u8..6).prop_map(guest),
        3 => (0u8..4).prop_map(station),
        1 => Just(GROUP),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let passed = prop_oneof![9 => 0u64..20, 1 => 250u64..400];
    (0u8..5, address(), address(), passed).prop_map(|(from, to, source, passed_s)| Step { from, to, source, passed_s })
}

proptest! {
    /// Four guests are connected; frames come from everybody, now and then under a foreign address.
    #[test]
    fn frames_go_where_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        const GUESTS: u8 = 4;
        let mut bridge = bridge(GUESTS);
        let (mut seen, mut now_s) = (BTreeMap::<Mac, u64>::new(), 1);
        let owner = |mac: &Mac| (1..=GUESTS).find(|&number| guest(number) == *mac);
        for Step { from, to, source, passed_s } in steps {
            now_s += passed_s;
            let expected = match (from, owner(&source)) {
                _ if is_group(&source) => Err(Refusal::Malformed),
                (WIRE, Some(_)) => Err(Refusal::Spoofed),
                (WIRE, None) => Ok(()),
                (guest, owner) if owner == Some(guest) => Ok(()),
                _ => Err(Refusal::Spoofed),
            }
            .map(|()| {
                if from == WIRE {
                    seen.insert(source, now_s);
                }
                let on_the_wire = seen.get(&to).is_some_and(|seen| now_s - seen < 300);
                let all = (0..=GUESTS).filter(|&port| port != from);
                match owner(&to) {
                    Some(number) => all.filter(|&port| port == number).collect::<Vec<_>>(),
                    None if on_the_wire => all.filter(|&port| port == WIRE).collect(),
                    None => all.collect(),
                }
            });
            prop_assert_eq!(ports(&mut bridge, from, to, source, now_s), expected);
        }
    }

    #[test]
    fn bytes_from_anywhere_never_panic_and_never_come_back(start in prop::collection::vec(any::<u8>(), 0..80), length in 0usize..70_000, from in 0u8..4) {
        let mut bridge = bridge(3);
        if let Ok((_, set)) = bridge.judge(from, &start, length, 3) {
            prop_assert!(!set.contains(from));
        }
    }
}
