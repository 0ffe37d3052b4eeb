//! The store as its guest sees it.

use super::testing::Guest;
use super::*;
use crate::store::wire;

mod against_a_model;
mod hostile;

fn done() -> Result<String, String> {
    Ok("OK\0".into())
}

fn refused(refusal: Refusal) -> Result<String, String> {
    Err(refusal.name().into())
}

fn event(path: &str, token: &str) -> (String, String) {
    (path.into(), token.into())
}

/// A guest with a directory that it may read and no more, and one that it may not even read.
fn guest() -> Guest {
    let mut guest = Guest::new();
    guest.store.make("/shown", Permissions::new(HOST, Right::Read));
    guest.store.write("/shown/value", "1");
    guest.store.make("/hidden", Permissions::new(HOST, Right::None));
    guest.store.write("/hidden/value", "2");
    guest
}

#[test]
fn what_is_written_is_read() {
    let mut guest = guest();
    assert_eq!(guest.write("device/a/b", "some value"), done());
    assert_eq!(guest.read("/local/domain/256/device/a/b").as_deref(), Ok("some value"));
    assert_eq!(guest.read("device/a").as_deref(), Ok(""));
    assert_eq!(guest.list("device"), Ok(std::vec!["a".into()]));
    assert_eq!(guest.list("device/a/b"), Ok(std::vec![]));
    assert_eq!(guest.text(kind::RM, 0, "device/a\0"), done());
    assert_eq!(guest.read("device/a/b"), refused(Refusal::Missing));
    assert_eq!(guest.text(kind::RM, 0, "device/a\0"), done(), "that it is missing is no error");
    assert_eq!(guest.text(kind::RM, 0, "none/a\0"), refused(Refusal::Missing));
    assert_eq!(guest.store.text("/local/domain/256/device"), Some(""));
}

#[test]
fn a_value_may_be_anything_and_of_any_length() {
    let mut guest = guest();
    let value: Vec<u8> = (0..PAYLOAD_MAX - 2).map(|at| at as u8).collect();
    assert_eq!(guest.ask(kind::WRITE, 0, &[b"v\0".as_slice(), &value].concat()), Ok(b"OK\0".to_vec()));
    assert_eq!(guest.ask(kind::READ, 0, b"v\0"), Ok(value));
}

#[test]
fn a_guest_may_do_what_nodes_say() {
    let mut guest = guest();
    assert_eq!(guest.read("/shown/value").as_deref(), Ok("1"));
    assert_eq!(guest.write("/shown/value", "x"), refused(Refusal::Denied));
    assert_eq!(guest.write("/shown/new", "x"), refused(Refusal::Denied));
    assert_eq!(guest.text(kind::MKDIR, 0, "/shown/new\0"), refused(Refusal::Denied));
    assert_eq!(guest.text(kind::RM, 0, "/shown/value\0"), refused(Refusal::Denied));
    assert_eq!(guest.text(kind::SET_PERMS, 0, "/shown/value\0n256\0"), refused(Refusal::Denied));
    assert_eq!(guest.read("/shown/none"), refused(Refusal::Missing));
    assert_eq!(guest.read("/hidden/value"), refused(Refusal::Denied));
    assert_eq!(guest.read("/hidden/none"), refused(Refusal::Denied), "not even that it is missing");
    guest.store.make("/shown/mine", Permissions::new(HOST, Right::None).but(GUEST, Right::Both));
    assert_eq!(guest.write("/shown/mine", "x"), done());
    assert_eq!(guest.text(kind::SET_PERMS, 0, "/shown/mine\0b256\0"), refused(Refusal::Denied), "it is not the owner");
    assert_eq!(guest.text(kind::RM, 0, "/\0"), refused(Refusal::Invalid));
}

#[test]
fn an_owner_lets_others_in_but_gives_nothing_away() {
    let mut guest = guest();
    assert_eq!(guest.write("a", ""), done());
    assert_eq!(guest.text(kind::GET_PERMS, 0, "a\0").as_deref(), Ok("n256\0"));
    assert_eq!(guest.text(kind::SET_PERMS, 0, "a\0r256\0b2\0"), done());
    assert_eq!(guest.text(kind::GET_PERMS, 0, "a\0").as_deref(), Ok("r256\0b2\0"));
    assert_eq!(guest.text(kind::SET_PERMS, 0, "a\0n0\0b256\0"), refused(Refusal::NotPermitted));
    assert_eq!(guest.text(kind::SET_PERMS, 0, "a\0"), refused(Refusal::Invalid));
    guest.store.write("/local/domain/256/a/b", "");
    assert_eq!(guest.text(kind::GET_PERMS, 0, "a/b\0").as_deref(), Ok("r256\0b2\0"));
}

#[test]
fn what_belongs_to_others_is_refused_and_what_is_unknown_too() {
    let mut guest = guest();
    for kind in [kind::INTRODUCE, kind::RELEASE, kind::IS_DOMAIN_INTRODUCED, kind::RESUME, kind::SET_TARGET] {
        assert_eq!(guest.text(kind, 0, "1\0"), refused(Refusal::Denied));
    }
    for kind in [kind::CONTROL, kind::WATCH_EVENT, kind::ERROR, 20, 23, u32::MAX] {
        assert_eq!(guest.text(kind, 0, "1\0"), refused(Refusal::Unknown));
    }
    assert_eq!(guest.text(kind::GET_DOMAIN_PATH, 0, "3\0").as_deref(), Ok("/local/domain/3\0"));
    assert_eq!(guest.text(kind::GET_DOMAIN_PATH, 0, "x\0"), refused(Refusal::Invalid));
    assert_eq!(guest.text(kind::READ, 77, "a\0"), refused(Refusal::Missing), "no such transaction");
}

#[test]
fn long_lists_come_in_parts() {
    let mut guest = guest();
    let names: Vec<String> = (0..200).map(|index| format!("{index:03}{}", "x".repeat(40))).collect();
    for name in &names {
        assert_eq!(guest.write(&format!("list/{name}"), ""), done());
    }
    assert_eq!(guest.list("list"), Err(Refusal::TooBig.name().into()));
    let (mut found, mut offset, mut last) = (Vec::new(), 0, None);
    loop {
        let answer = guest.text(kind::DIRECTORY_PART, 0, &format!("list\0{offset}\0")).unwrap();
        let (stamp, part) = answer.split_once('\0').unwrap();
        assert_eq!(*last.get_or_insert_with(|| String::from(stamp)), stamp);
        let (part, end) = part.strip_suffix("\0\0").map_or((part, false), |_| (&part[..part.len() - 1], true));
        found.extend(part.split_terminator('\0').map(String::from));
        offset += part.len();
        if end {
            break;
        }
    }
    assert_eq!(found, names);
    let past = guest.text(kind::DIRECTORY_PART, 0, "list\x00100000\0").unwrap();
    assert!(past.ends_with("\0\0"));
    assert_eq!(guest.text(kind::DIRECTORY_PART, 0, "list\x001\0"), refused(Refusal::Invalid));
    guest.write("list/z", "").unwrap();
    let answer = guest.text(kind::DIRECTORY_PART, 0, "list\x000\0").unwrap();
    assert_ne!(answer.split_once('\0').map(|(stamp, _)| stamp), last.as_deref(), "it changed meanwhile");
}

#[test]
fn watches_tell_of_changes_by_anybody_and_of_themselves_at_once() {
    let mut guest = guest();
    assert_eq!(guest.watch("device", "t"), done());
    assert_eq!(guest.events(), [event("device", "t")]);
    guest.store.write("/local/domain/256/device/vbd/1/state", "1");
    guest.write("device/x", "").unwrap();
    guest.text(kind::RM, 0, "device\0").unwrap();
    let expected = [event("device/vbd/1/state", "t"), event("device/x", "t"), event("device", "t")];
    assert_eq!(guest.events(), expected);
    assert_eq!(guest.watch("device", "t"), refused(Refusal::Exists));
    assert_eq!(guest.watch("@releaseDomain", "t"), done());
    assert_eq!(guest.events(), [event("@releaseDomain", "t")]);
    assert_eq!(guest.text(kind::UNWATCH, 0, "device\0t\0"), done());
    assert_eq!(guest.text(kind::UNWATCH, 0, "device\0t\0"), refused(Refusal::Missing));
    guest.write("device/x", "").unwrap();
    assert_eq!(guest.events(), []);
}

#[test]
fn the_guest_is_rung_only_when_something_moved() {
    let mut guest = guest();
    guest.pump();
    assert_eq!(guest.rung, 0);
    guest.read("/shown/value").unwrap();
    assert!(guest.rung > 0);
    let rung = guest.rung;
    guest.store.write("/shown/value", "2");
    guest.pump();
    assert_eq!(guest.rung, rung, "nobody watches");
}

#[test]
fn a_reset_forgets_watches_and_transactions() {
    let mut guest = guest();
    guest.watch("a", "t").unwrap();
    let transaction = guest.begin();
    guest.events();
    assert_eq!(guest.text(kind::RESET_WATCHES, 0, "\0"), done());
    guest.write("a", "").unwrap();
    assert_eq!(guest.events(), []);
    assert_eq!(guest.end(transaction), refused(Refusal::Missing));
    assert_eq!(guest.watch("a", "t"), done());
}

#[test]
fn a_transaction_is_seen_at_its_end_and_whole() {
    let mut guest = guest();
    guest.watch("a", "t").unwrap();
    guest.events();
    let transaction = guest.begin();
    guest.text(kind::WRITE, transaction, "a/b\x001").unwrap();
    guest.text(kind::WRITE, transaction, "a/c\x002").unwrap();
    assert_eq!(guest.text(kind::READ, transaction, "a/b\0").as_deref(), Ok("1"));
    assert_eq!(guest.read("a/b"), refused(Refusal::Missing));
    assert_eq!(guest.events(), []);
    assert_eq!(guest.end(transaction), done());
    assert_eq!(guest.read("a/c").as_deref(), Ok("2"));
    assert_eq!(
        guest.events(),
        [event("a", "t"), event("a/b", "t"), event("a/c", "t")],
        "it was made with what is in it"
    );
    let made = guest.begin();
    guest.text(kind::MKDIR, made, "above/below\0").unwrap();
    guest.text(kind::RM, made, "above/below\0").unwrap();
    assert_eq!(guest.end(made), done());
    assert_eq!((guest.read("above").as_deref(), guest.list("above")), (Ok(""), Ok(std::vec![])));
    let aborted = guest.begin();
    guest.text(kind::RM, aborted, "a\0").unwrap();
    assert_eq!(guest.text(kind::TRANSACTION_END, aborted, "F\0"), done());
    assert_eq!(guest.read("a/c").as_deref(), Ok("2"));
    assert_eq!(guest.text(kind::TRANSACTION_END, 0, "T\0"), refused(Refusal::Missing));
}

#[test]
fn only_a_real_conflict_is_one() {
    let mut guest = guest();
    for name in ["a", "b", "list/x"] {
        guest.write(name, "0").unwrap();
    }
    // What else was changed, what the transaction did, and whether that is a conflict.
    let cases: [(&str, u32, &str, bool); 9] = [
        ("b", kind::WRITE, "a\x001", false),
        ("a", kind::WRITE, "a\x001", true),
        ("a", kind::READ, "a\0", true),
        ("list/x", kind::DIRECTORY, "list\0", false),
        ("list/y", kind::DIRECTORY, "list\0", true),
        ("list/z", kind::WRITE, "list/w\x001", false),
        ("new", kind::READ, "new\0", true),
        ("deep/er", kind::WRITE, "deep/est\x001", true),
        ("list/v", kind::READ, "list\0", false),
    ];
    for (other, what, payload, conflict) in cases {
        let transaction = guest.begin();
        let _ = guest.text(what, transaction, payload);
        guest.text(kind::WRITE, transaction, "written\x001").unwrap();
        guest.write(other, "2").unwrap();
        let expected = if conflict { refused(Refusal::Again) } else { done() };
        assert_eq!(guest.end(transaction), expected, "{other} against {payload:?}");
    }
    let reader = guest.begin();
    guest.text(kind::READ, reader, "a\0").unwrap();
    guest.write("a", "9").unwrap();
    assert_eq!(guest.end(reader), done(), "it saw the tree as it was at one moment");
}

#[test]
fn the_monitor_learns_what_the_guest_changed() {
    let mut guest = guest();
    let watch = guest.store.watch("/local/domain/256/device");
    guest.store.write("/local/domain/256/device/a", "");
    assert!(!guest.store.take_fired(watch), "it was the monitor");
    let transaction = guest.begin();
    guest.text(kind::WRITE, transaction, "device/a\x001").unwrap();
    assert!(!guest.store.take_fired(watch), "not done yet");
    guest.end(transaction).unwrap();
    assert!(guest.store.take_fired(watch) && !guest.store.take_fired(watch));
    guest.write("other", "").unwrap();
    assert!(!guest.store.take_fired(watch));
    guest.text(kind::RM, 0, "/local/domain/256\0").unwrap();
    assert!(guest.store.take_fired(watch));
}
