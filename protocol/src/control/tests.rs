//! Control messages: whatever is said arrives, and whatever arrives harms nobody.

use proptest::prelude::*;

use super::byte::{CONTROL, Consumer, Producer};
use super::*;
use crate::ring::testing::Page;

fn text<const N: usize>() -> impl Strategy<Value = String<N>> {
    prop::collection::vec(any::<char>(), 0..=N).prop_map(|characters| {
        let mut text = String::new();
        // What does not fit is left out.
        characters.into_iter().for_each(|character| drop(text.push(character)));
        text
    })
}

fn to_domain() -> impl Strategy<Value = ToDomain> {
    let port = any::<u32>().prop_map(Port);
    prop_oneof![
        Just(ToDomain::Ping),
        Just(ToDomain::Shutdown),
        Just(ToDomain::Reboot),
        any::<u64>().prop_map(|pages| ToDomain::MemoryTarget { pages }),
        (any::<u16>(), port.clone(), text(), any::<bool>())
            .prop_map(|(peer, port, name, shell)| ToDomain::ConsoleConnect { peer, port, name, shell }),
        any::<u16>().prop_map(|peer| ToDomain::ConsoleDisconnect { peer }),
        any::<u16>().prop_map(|peer| ToDomain::ConsoleFocus { peer }),
        (text(), port, any::<u16>()).prop_map(|(name, port, peer)| ToDomain::Connected { name, port, peer }),
    ]
}

fn from_domain() -> impl Strategy<Value = FromDomain> {
    prop_oneof![
        any::<u32>().prop_map(|abi_version| FromDomain::Ready { abi_version }),
        Just(FromDomain::Done),
        text().prop_map(|reason| FromDomain::Failed { reason }),
        Just(FromDomain::ConsoleReturned),
    ]
}

fn envelope<T>(id: u32, message: T) -> Envelope<T> {
    Envelope { version: VERSION, id, message }
}

#[test]
fn a_frame_goes_whole_or_not_at_all() {
    let page = Page::new(0);
    let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
    let mut sent = 0;
    while send(&mut producer, &page, &envelope(sent, ToDomain::Ping)).unwrap() {
        sent += 1;
    }
    let mut buffer = [0; FRAME_MAX];
    for id in 0..sent {
        let frame = receive(&mut consumer, &page, &mut buffer).unwrap().unwrap();
        assert_eq!(decode(frame), Ok(envelope(id, ToDomain::Ping)));
    }
    assert_eq!(receive(&mut consumer, &page, &mut buffer), Ok(None));
}

#[test]
fn half_a_frame_is_waited_for() {
    let page = Page::new(0);
    let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
    let mut encoded = [0; FRAME_MAX + 2];
    let frame = encode(&envelope(9, FromDomain::Done), &mut encoded).unwrap();
    let mut buffer = [0; FRAME_MAX];
    for &byte in frame {
        assert_eq!(receive(&mut consumer, &page, &mut buffer), Ok(None));
        producer.write(&page, &[byte]).unwrap();
    }
    assert_eq!(receive(&mut consumer, &page, &mut buffer), Ok(Some(&frame[2..])));
}

#[test]
fn a_length_that_cannot_be_closes_the_channel() {
    let page = Page::new(0);
    let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
    producer.write(&page, &(FRAME_MAX as u16 + 1).to_le_bytes()).unwrap();
    let fault = Violation::Length { found: FRAME_MAX as u32 + 1, limit: FRAME_MAX as u32 };
    assert_eq!(receive(&mut consumer, &page, &mut [0; FRAME_MAX]), Err(ControlError::Ring(fault)));
}

#[test]
fn other_versions_and_what_follows_a_message_are_refused() {
    let mut buffer = [0; FRAME_MAX + 2];
    let newer = Envelope { version: VERSION + 1, ..envelope(1, ToDomain::Ping) };
    let frame = encode(&newer, &mut buffer).unwrap();
    assert_eq!(decode::<ToDomain>(&frame[2..]), Err(ControlError::Malformed));
    let length = encode(&envelope(1, ToDomain::Ping), &mut buffer).unwrap().len();
    assert!(decode::<ToDomain>(&buffer[2..length]).is_ok());
    assert_eq!(decode::<ToDomain>(&buffer[2..length + 1]), Err(ControlError::Malformed));
}

proptest! {
    #[test]
    fn what_is_said_arrives(
        to in prop::collection::vec((any::<u32>(), to_domain()), 1..20),
        from in prop::collection::vec((any::<u32>(), from_domain()), 1..20),
    ) {
        let page = Page::new(0);
        let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
        let mut buffer = [0; FRAME_MAX];
        for (id, message) in to {
            prop_assert_eq!(send(&mut producer, &page, &envelope(id, message.clone())), Ok(true));
            let frame = receive(&mut consumer, &page, &mut buffer).unwrap().unwrap();
            prop_assert_eq!(decode(frame), Ok(envelope(id, message)));
        }
        for (id, message) in from {
            prop_assert_eq!(send(&mut producer, &page, &envelope(id, message.clone())), Ok(true));
            let frame = receive(&mut consumer, &page, &mut buffer).unwrap().unwrap();
            prop_assert_eq!(decode(frame), Ok(envelope(id, message)));
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..FRAME_MAX)) {
        let _ = (decode::<ToDomain>(&bytes), decode::<FromDomain>(&bytes));
    }

    /// Damage in an otherwise right message reaches deeper than bytes of no meaning.
    #[test]
    fn a_damaged_message_is_a_message_or_an_error(message in to_domain(), at: usize, with: u8) {
        let mut buffer = [0; FRAME_MAX + 2];
        let length = encode(&envelope(5, message), &mut buffer).unwrap().len();
        buffer[2 + at % (length - 2)] = with;
        let _ = (decode::<ToDomain>(&buffer[2..length]), decode::<FromDomain>(&buffer[2..length]));
    }

    #[test]
    fn a_ring_full_of_any_bytes_comes_to_an_end(
        bytes in prop::collection::vec(prop_oneof![3 => 0..3_u8, 1 => any::<u8>()], 0..=CONTROL.size as usize),
    ) {
        let page = Page::new(0);
        let (mut producer, mut consumer) = (Producer::attach(CONTROL, &page), Consumer::attach(CONTROL, &page));
        producer.write(&page, &bytes).unwrap();
        let (mut buffer, mut taken) = ([0; FRAME_MAX], 0);
        while let Ok(Some(frame)) = receive(&mut consumer, &page, &mut buffer) {
            taken += frame.len() + 2;
            let _ = decode::<ToDomain>(frame);
        }
        prop_assert!(taken <= bytes.len());
    }
}
