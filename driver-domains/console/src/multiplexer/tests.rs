//! The multiplexer against frontends that print and read on the other side of plain memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;

use proptest::prelude::*;
use protocol::ring::byte::{Consumer, Producer};
use protocol::ring::console::{INPUT, OUTPUT};

use super::*;

#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Shared for Memory {
    fn load_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[offset..offset + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    fn fence(&self) {}
}

/// The domain's side of a ring.
struct Guest {
    page: Memory,
    output: Producer,
    input: Consumer,
}

impl Guest {
    fn new() -> Guest {
        let page = Memory(Rc::new(RefCell::new(vec![0; 4096])));
        Guest { output: Producer::attach(OUTPUT, &page), input: Consumer::attach(INPUT, &page), page }
    }

    fn print(&mut self, bytes: &[u8]) -> usize {
        self.output.write(&self.page, bytes).unwrap()
    }

    fn typed(&mut self) -> Vec<u8> {
        let mut out = vec![0; 2048];
        let count = self.input.read(&self.page, &mut out).unwrap();
        out.truncate(count);
        out
    }
}

fn identity(peer: u16, shell: bool) -> Identity {
    let name = if shell { "dom0" } else { "guest" };
    Identity { peer, port: Port(u32::from(peer) + 100), name: name.try_into().unwrap(), shell }
}

fn some(console: &mut Multiplexer<Memory>, count: usize) -> Vec<u8> {
    let mut out = vec![0; count];
    let count = console.take_output(&mut out);
    out.truncate(count);
    out
}

fn screen(console: &mut Multiplexer<Memory>) -> Vec<u8> {
    some(console, usize::from(u16::MAX))
}

/// Turns until nothing moves; gives what was shown and whether the shell came back.
fn settle(console: &mut Multiplexer<Memory>) -> (Vec<u8>, bool) {
    let (mut shown, mut returned) = (Vec::new(), false);
    loop {
        let turn = console.turn();
        returned |= turn.returned;
        let bytes = screen(console);
        if bytes.is_empty() && !turn.more {
            return (shown, returned);
        }
        shown.extend(bytes);
    }
}

fn pair() -> (Multiplexer<Memory>, Guest, Guest) {
    let (shell, guest) = (Guest::new(), Guest::new());
    let mut console = Multiplexer::default();
    console.connect(identity(0, true), shell.page.clone()).unwrap();
    console.connect(identity(9, false), guest.page.clone()).unwrap();
    (console, shell, guest)
}

#[test]
fn the_shell_is_on_the_screen_and_the_guest_in_its_backlog() {
    let (mut console, mut shell, mut guest) = pair();
    shell.print(b"dom0> ");
    guest.print(b"hello\n");
    assert_eq!(settle(&mut console), (b"dom0> ".to_vec(), false));
    shell.print(b"connected\n");
    console.set_focus(9).unwrap();
    shell.print(b"later\n");
    assert_eq!(settle(&mut console).0, b"connected\r\nhello\r\n");
    guest.print(b"live\n");
    assert_eq!(settle(&mut console).0, b"live\r\n");
    console.type_byte(ESCAPE);
    assert_eq!(settle(&mut console), (b"later\r\n".to_vec(), true));
    assert_eq!(console.focus(), Some(0));
}

#[test]
fn output_leaves_the_ring_when_it_goes_to_the_terminal() {
    let (mut console, mut shell, _guest) = pair();
    shell.print(b"good\nbye");
    assert!(console.turn().notify.is_empty());
    assert_eq!(shell.output.room(&shell.page), Ok(2040));
    assert_eq!(some(&mut console, 5), b"good\r");
    assert_eq!(shell.output.room(&shell.page), Ok(2044));
    // A console domain that starts anew here goes on where this one stopped.
    assert_eq!(Consumer::attach(OUTPUT, &shell.page).available(&shell.page), Ok(4));
    assert_eq!(console.turn().notify, [Port(100)]);
    assert_eq!(screen(&mut console), b"\nbye");
    assert_eq!(shell.output.room(&shell.page), Ok(2048));
}

#[test]
fn what_is_typed_reaches_the_focused_domain_alone() {
    let (mut console, mut shell, mut guest) = pair();
    b"list\r".iter().for_each(|&byte| console.type_byte(byte));
    console.set_focus(9).unwrap();
    b"abc".iter().for_each(|&byte| console.type_byte(byte));
    settle(&mut console);
    assert_eq!((shell.typed(), guest.typed()), (b"list\r".to_vec(), b"abc".to_vec()));
    console.type_byte(ESCAPE);
    console.type_byte(ESCAPE);
    settle(&mut console);
    assert_eq!((shell.typed(), guest.typed()), (vec![ESCAPE], vec![]));
}

#[test]
fn input_for_the_shell_waits_and_input_for_a_deaf_guest_rings_the_bell() {
    let (mut console, mut shell, _guest) = pair();
    let mut typed = 0u32;
    while console.takes_input() {
        console.type_byte(typed as u8 & 0x0f);
        typed += 1;
        console.turn();
    }
    assert!(typed >= 2048);
    let mut got = Vec::new();
    for _ in 0..4 {
        got.extend(shell.typed());
        console.turn();
    }
    assert_eq!(got, (0..typed).map(|at| at as u8 & 0x0f).collect::<Vec<u8>>());
    console.set_focus(9).unwrap();
    screen(&mut console);
    for _ in 0..3000 {
        assert!(console.takes_input());
        console.type_byte(b'x');
        console.turn();
    }
    assert!(screen(&mut console).contains(&BELL));
    console.type_byte(ESCAPE);
    assert_eq!(console.focus(), Some(0));
}

#[test]
fn a_broken_ring_is_closed_and_named() {
    let (mut console, _shell, guest) = pair();
    console.set_focus(9).unwrap();
    guest.page.store_u32(OUTPUT.producer, 0x8000_0000);
    let turn = console.turn();
    assert_eq!(turn.broken.iter().map(|(identity, _)| identity.peer).collect::<Vec<_>>(), [9]);
    assert!(turn.returned);
    assert_eq!(console.focus(), Some(0));
    assert!(console.turn().broken.is_empty());
}

#[test]
fn last_words_are_shown_before_a_domain_is_forgotten() {
    let (mut console, _shell, mut guest) = pair();
    console.set_focus(9).unwrap();
    guest.print(&[b'x'; 2000]);
    assert_eq!(console.disconnect(9), Some(identity(9, false).port));
    let (shown, returned) = settle(&mut console);
    assert!(shown.starts_with(&[b'x'; 2000]) && returned);
    assert!(console.set_focus(9).is_err());
}

#[test]
fn a_domain_that_comes_back_keeps_its_unseen_output_and_a_new_one_has_none() {
    let (mut console, _shell, mut guest) = pair();
    guest.print(b"panic!\n");
    console.turn();
    let mut again = Guest::new();
    console.connect(identity(9, false), again.page.clone()).unwrap();
    again.print(b"hello again\n");
    settle(&mut console);
    console.set_focus(9).unwrap();
    assert_eq!(settle(&mut console).0, b"panic!\r\nhello again\r\n");
    again.print(b"unseen");
    console.set_focus(0).unwrap();
    let other = Identity { name: "other".try_into().unwrap(), ..identity(9, false) };
    console.connect(other, Guest::new().page).unwrap();
    console.set_focus(9).unwrap();
    assert_eq!(settle(&mut console).0, b"unseen");
}

#[test]
fn connections_are_bounded() {
    let mut console = Multiplexer::default();
    for peer in 0..CONNECTIONS_MAX as u16 {
        console.connect(identity(peer, peer == 0), Guest::new().page).unwrap();
    }
    assert!(console.connect(identity(500, false), Guest::new().page).is_err());
    assert!(console.disconnect(77).is_some() && console.disconnect(77).is_none());
    assert!(console.connect(identity(500, false), Guest::new().page).is_ok());
}

#[test]
fn a_flood_in_the_background_leaves_the_foreground_its_share() {
    let mut console = Multiplexer::default();
    let mut shell = Guest::new();
    console.connect(identity(0, true), shell.page.clone()).unwrap();
    let mut guests: Vec<Guest> = (1..40).map(|_| Guest::new()).collect();
    for (at, guest) in guests.iter().enumerate() {
        console.connect(identity(at as u16 + 1, false), guest.page.clone()).unwrap();
    }
    let mut shown = 0;
    for _ in 0..50 {
        shell.print(&[b's'; 100]);
        for guest in &mut guests {
            guest.print(&[b'g'; 2048]);
        }
        console.turn();
        shown += screen(&mut console).len();
    }
    assert_eq!(shown, 5000);
    // Everybody had a turn, often.
    assert!(guests.iter().all(|guest| guest.page.load_u32(OUTPUT.consumer) >= 2048));
}

#[test]
fn what_is_printed_in_the_background_is_taken_at_the_pace_that_is_allowed() {
    let (mut console, mut shell, mut guest) = pair();
    console.allow(0, 700);
    guest.print(&[b'g'; 2048]);
    shell.print(b"> ");
    assert_eq!(settle(&mut console).0, b"> ", "the foreground has no such limit");
    assert_eq!(guest.output.room(&guest.page), Ok(700));
    let turn = console.turn();
    assert!((turn.more, turn.later, turn.notify.is_empty()) == (false, true, true), "{turn:?}");
    console.allow(2000, 1400);
    assert!(console.turn().more);
    settle(&mut console);
    assert_eq!(guest.output.room(&guest.page), Ok(2048));
    assert!(!console.turn().later);
}

proptest! {
    /// However focus moves and whenever the terminal takes bytes: what the focused shell prints appears whole and in order,
    /// and every guest's output is drained.
    #[test]
    fn nothing_of_the_stream_is_lost(steps in prop::collection::vec((0u8..5, 0usize..700), 1..120)) {
        let (mut console, mut shell, mut guest) = pair();
        let (mut printed, mut shown, mut next, mut taken) = (Vec::new(), Vec::new(), 0u32, 0);
        for (what, count) in steps {
            match what {
                0 => {
                    let bytes: Vec<u8> = (0..count % 130).map(|_| { next += 1; b'a' + (next % 26) as u8 }).collect();
                    let written = shell.print(&bytes);
                    next -= (count % 130 - written) as u32;
                    printed.extend_from_slice(&bytes[..written]);
                }
                1 => drop(guest.print(&vec![b'#'; count % 130])),
                2 => shown.extend(some(&mut console, count)),
                3 => drop(console.set_focus(if count % 2 == 0 { 0 } else { 9 })),
                _ => {
                    let turn = console.turn();
                    let now = guest.page.load_u32(OUTPUT.consumer);
                    // Whoever may wait for room is told of it.
                    prop_assert_eq!(now != taken, turn.notify.contains(&Port(109)));
                    taken = now;
                }
            }
        }
        console.set_focus(0).unwrap();
        shown.extend(screen(&mut console));
        shown.extend(settle(&mut console).0);
        shown.retain(|byte| byte.is_ascii_lowercase());
        prop_assert_eq!(shown, printed);
        prop_assert_eq!(guest.output.room(&guest.page), Ok(2048));
    }
}
