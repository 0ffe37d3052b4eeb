//! Guests that break the rules, or want more than there is.

use super::*;
use proptest::prelude::*;
use protocol::ring::Shared;

#[test]
fn quotas_hold_and_free_again() {
    let mut guest = guest();
    let mut made = 0;
    while guest.write(&format!("n/{made}"), "") == done() {
        made += 1;
    }
    assert_eq!(made, quota::NODES - 2, "and the two directories");
    assert_eq!(guest.write("n/one-more", ""), refused(Refusal::NoSpace));
    assert_eq!(guest.write("n/0", "longer"), done(), "there are bytes left");
    let transaction = guest.begin();
    assert_eq!(guest.text(kind::WRITE, transaction, "n/one-more\0"), refused(Refusal::NoSpace));
    guest.store.write("/local/domain/256/n/of-the-monitor", "");
    assert_eq!(guest.text(kind::RM, 0, "n\0"), done());
    assert_eq!(guest.write("n/again", ""), done());
}

#[test]
fn bytes_are_counted_wherever_they_are() {
    let mut guest = guest();
    let value = "x".repeat(4000);
    let mut made = 0;
    while guest.write(&format!("v{made}"), &value) == done() {
        made += 1;
    }
    assert_eq!(made, quota::BYTES / (4000 + 128 + 8));
    guest.write("v0", "").unwrap();
    let token = "t".repeat(200);
    let set = (0..).take_while(|index| guest.watch(&format!("w{index}"), &token) == done()).count();
    assert!(set <= (4000 + 4000 + 128 + 8) / token.len(), "{set}");
    assert_eq!(guest.watch("w", &token), refused(Refusal::NoSpace));
    let transaction = guest.begin();
    let long = "p".repeat(1000);
    let looked = (0..).take_while(|index| {
        guest.text(kind::READ, transaction, &format!("{long}{index}\0")) == refused(Refusal::Missing)
    });
    assert!(looked.count() < 5);
}

#[test]
fn two_transactions_cannot_have_together_what_one_could_not() {
    let mut guest = guest();
    for node in 0..340 {
        assert_eq!(guest.write(&format!("n/{node}"), ""), done());
    }
    let transactions = [guest.begin(), guest.begin()];
    for (index, transaction) in transactions.into_iter().enumerate() {
        for node in 0..32 {
            let payload = format!("{index}/{node}\0");
            assert_eq!(guest.text(kind::MKDIR, transaction, &payload), done());
        }
    }
    assert_eq!(transactions.map(|transaction| guest.end(transaction)), [done(), refused(Refusal::NoSpace)]);
    assert_eq!(guest.read("1"), refused(Refusal::Missing));
}

#[test]
fn what_transactions_hold_on_to_is_counted() {
    let mut guest = guest();
    let value = "x".repeat(4000);
    let written = |guest: &mut crate::store::testing::Guest| {
        (0..7).take_while(|index| guest.write(&format!("v{index}"), &value) == done()).count()
    };
    assert_eq!(written(&mut guest), 7);
    // Each holds on to other values: all of them together would be more than the guest may have.
    let versions = (0..quota::TRANSACTIONS).take_while(|_| {
        guest.begin();
        written(&mut guest) == 7 && guest.write("grow", &value) == done() && guest.text(kind::RM, 0, "grow\0") == done()
    });
    assert!((1..4).contains(&versions.count()));
}

#[test]
fn watches_and_transactions_are_counted() {
    let mut guest = guest();
    let set = (0..).take_while(|index| guest.watch("a", &format!("{index}")) == done()).count();
    assert_eq!(set, quota::WATCHES);
    for _ in 0..quota::TRANSACTIONS {
        guest.begin();
    }
    assert_eq!(guest.text(kind::TRANSACTION_START, 0, "\0"), refused(Refusal::TooMany));
}

#[test]
fn a_guest_that_does_not_listen_is_not_heard() {
    let mut guest = guest();
    let mut bytes = Vec::new();
    Header { kind: kind::READ, request: 1, ..Header::default() }.encode(b"/shown/value\0", &mut bytes);
    let mut requests = protocol::ring::byte::Producer::attach(REQUESTS, &guest.page);
    let mut written = 0;
    // Until neither ring takes any more.
    for _ in 0..1000 {
        written += requests.write(&guest.page, &bytes[written % bytes.len()..]).unwrap();
        guest.store.turn(&guest.page);
    }
    assert!(written <= 2 * 1024 * bytes.len() / 17 + 1024, "{written}");
    assert_eq!(guest.store.turn(&guest.page), Turn::default());
}

#[test]
fn an_impossible_index_ends_it() {
    for (offset, value) in [(REQUESTS.producer, 1025), (REQUESTS.producer, u32::MAX), (RESPONSES.consumer, 1)] {
        let mut guest = guest();
        guest.store.write("/shown/value", "x");
        guest.watch("/shown", "t").unwrap();
        // The answers were heard, so that all indexes are known.
        let at = guest.page.load_u32(offset);
        guest.page.store_u32(offset, at.wrapping_add(value));
        guest.store.write("/shown/value", "y");
        assert!(guest.store.turn(&guest.page).notify);
        assert_eq!(guest.page.load_u32(2072), 2);
        assert_eq!(guest.store.turn(&guest.page), Turn::default(), "for good");
        guest.store.connect(&guest.page);
        assert_eq!(guest.page.load_u32(2072), 0, "until it begins anew");
    }
}

#[test]
fn a_message_that_is_too_long_ends_it() {
    let mut guest = guest();
    let raw: Vec<u8> = [kind::READ, 1, 0, PAYLOAD_MAX as u32 + 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    guest.put(&raw);
    assert_eq!(guest.page.load_u32(2072), 3);
    let shown = format!("{}", wire::Fault::Length { found: 4097 });
    assert!(shown.contains("4097"));
}

proptest! {
    /// Whatever a guest says is answered, once, and nothing breaks.
    #[test]
    fn anything_is_answered(messages in prop::collection::vec(
        (0..25u32, 0..3u32, prop::collection::vec(prop_oneof![Just(0u8), Just(b'/'), Just(b'a'), any::<u8>()], 0..60)), 1..40,
    )) {
        let mut guest = guest();
        for (kind, transaction, payload) in messages {
            if let Ok(answer) = guest.ask(kind, transaction, &payload) {
                prop_assert!(answer.len() <= PAYLOAD_MAX);
            }
        }
    }
}
