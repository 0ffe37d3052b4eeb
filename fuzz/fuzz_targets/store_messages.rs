//! A guest's store: messages of a guest that keeps to the rules of the ring, and rings of one that does not; devices come and
//! go meanwhile.
#![no_main]

use fuzz::{Page, Script};
use libfuzzer_sys::fuzz_target;
use monitor::devices::{Channels, Devices, Word};
use monitor::store::{Header, PAYLOAD_MAX, Permissions, REQUESTS, RESPONSES, Right, Store};
use protocol::connection::DiskLimits;
use protocol::control::ToDomain;
use protocol::event::Port;
use protocol::grant::PEER_DISK;
use protocol::layout::PAGE_SIZE;
use protocol::ring::block::Layout;
use protocol::ring::byte::{Consumer, Producer};

/// Paths and parts of them, so that requests meet.
const WORDS: [&str; 12] = [
    "device/vbd/51712/state",
    "device/vbd/51712/ring-ref",
    "device/vbd/51712/event-channel",
    "device/vbd/51712",
    "/local/domain/2/backend",
    "data/a/b",
    "data",
    "/",
    "r256",
    "T",
    "3",
    "1",
];
/// Turns of the guest that breaks the rules of the ring.
const TURNS: usize = 64;

/// A guest that has every port.
struct Ports;

impl Channels for Ports {
    fn bind(&mut self, _: u32, _: u16, _: Port) -> bool {
        true
    }
    fn unbind(&mut self, _: u32, _: Port) {}
    fn has_memory(&self) -> bool {
        true
    }
    fn layout(&self) -> Layout {
        Layout::X86_32
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let (mut store, honest) = (Store::default(), script.byte() & 1 == 0);
    let home = store.home().to_string();
    store.make(&home, Permissions::new(0, Right::None).but(store.guest(), Right::Read));
    for directory in ["data", "device"] {
        store.make(&format!("{home}/{directory}"), Permissions::new(store.guest(), Right::None));
    }
    let mut devices = Devices::new(&mut store);
    if honest {
        converse(&mut store, &mut devices, &mut script);
    } else {
        let page = Page::new(PAGE_SIZE as usize, script);
        store.connect(&page);
        for _ in 0..TURNS {
            store.turn(&page);
            devices.changed(&mut store, &mut Ports);
        }
    }
});

fn converse(store: &mut Store, devices: &mut Devices<u32>, script: &mut Script<'_>) {
    let page = Page::private(PAGE_SIZE as usize, &[]);
    store.connect(&page);
    let (mut requests, mut responses) = (Producer::attach(REQUESTS, &page), Consumer::attach(RESPONSES, &page));
    let mut number = 0;
    while !script.is_empty() {
        let mut bytes = Vec::new();
        let kind = u32::from(script.byte());
        let payload = match kind {
            0..=31 => payload(script),
            _ => {
                number += 1;
                order(devices, store, kind, number);
                continue;
            }
        };
        let transaction = u32::from(script.byte() % 3);
        Header { kind, request: 1, transaction, length: 0 }.encode(&payload, &mut bytes);
        let (mut rest, mut heard) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            rest = &rest[requests.write(&page, rest).expect("the store keeps to the rules")..];
            while {
                let turn = store.turn(&page);
                let mut buffer = [0; 1024];
                let count = responses.read(&page, &mut buffer).expect("the store keeps to the rules");
                heard.extend_from_slice(&buffer[..count]);
                turn.more || count > 0
            } {}
        }
        check(&heard);
        devices.changed(store, &mut Ports);
    }
}

/// What was heard is whole messages, one of them the answer.
fn check(mut heard: &[u8]) {
    let mut answers = 0;
    while let Some(header) = heard.first_chunk().map(Header::parse) {
        assert!(header.length as usize <= PAYLOAD_MAX);
        answers += header.request;
        heard = &heard[16 + header.length as usize..];
    }
    assert_eq!((answers, heard.len()), (1, 0));
}

fn payload(script: &mut Script<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..script.byte() % 4 {
        match script.byte() {
            index @ 0..=0x7f => payload.extend_from_slice(WORDS[usize::from(index) % WORDS.len()].as_bytes()),
            length => payload.extend_from_slice(script.part(usize::from(length - 0x80))),
        }
        payload.push(0);
    }
    if script.byte() & 1 == 0 {
        payload.pop();
    }
    payload
}

/// dom0 says something about a disk, and gets one answer for each question at most.
fn order(devices: &mut Devices<u32>, store: &mut Store, what: u32, number: u32) {
    let device = || "xvda".try_into().unwrap_or_default();
    let message = match what % 4 {
        0 => ToDomain::BlockOffer {
            device: device(),
            peer: PEER_DISK,
            port: Port(40 + what / 4 % 2),
            read_only: what & 16 != 0,
        },
        1 => ToDomain::BlockReady { device: device(), limits: DiskLimits::default() },
        2 => ToDomain::DeviceRelease { device: device() },
        _ => ToDomain::DeviceGone { device: device() },
    };
    assert!(devices.message(message, number, store, &mut Ports).is_none());
    while let Some(word) = devices.next_word() {
        if let Word::Answer(to, _) = word {
            assert!(to <= number);
        }
    }
}
