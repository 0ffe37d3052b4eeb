//! I/O ports and interrupts in configurations: who gets them, and that nobody fails for want of them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use protocol::arguments::{BootArguments, decode_arguments};
use protocol::handle::Rights;
use protocol::layout::ARGUMENTS;
use sim::image;
use sim::stack::Stack;

const DISK: &str = "ioports = ['1f0-1f7', '3f6']\nirqs = [14]";

fn arguments(stack: &Stack<'_>, name: &str) -> BootArguments {
    stack.sim.by_name(name, |guest| decode_arguments(&guest.memory[&ARGUMENTS]).unwrap())
}

#[test]
fn ports_and_interrupts_go_to_who_asks_first_and_stay_over_restarts() {
    let image = image();
    let mut stack = Stack::full(&image);
    let books = stack.sim.books();
    let one = stack.create("one", DISK).unwrap();
    let given = arguments(&stack, "one");
    let ranges: Vec<_> = given.ports.iter().map(|given| (given.first, given.count)).collect();
    assert_eq!(ranges, [(0x1f0, 8), (0x3f6, 1)]);
    assert_eq!(given.interrupts[0].line, 14);
    stack.sim.by_name("one", |guest| {
        assert_eq!(guest.given.len(), 3);
        assert!(guest.given.iter().all(|(_, rights)| *rights == Rights::USE));
    });
    stack.plane.restart(one).unwrap();
    assert_eq!(arguments(&stack, "one"), given);

    let two = stack.create("two", "ioports = ['1f7-1ff', '170-177', '3f8']\nirqs = [15, 14, 4]").unwrap();
    let rest = arguments(&stack, "two");
    assert_eq!(rest.ports.iter().map(|given| given.first).collect::<Vec<_>>(), [0x170], "what is free of it");
    assert_eq!(rest.interrupts.iter().map(|given| given.line).collect::<Vec<_>>(), [15]);
    let notices: Vec<_> = core::iter::from_fn(|| stack.plane.take_notice()).collect();
    assert!(notices.contains(&"two: it does not get I/O ports 1f7-1ff: one has it".into()), "{notices:?}");
    assert!(notices.contains(&"two: it does not get interrupt 4: console has it".into()), "{notices:?}");

    for id in [one, two] {
        stack.plane.destroy(id).unwrap();
    }
    let again = stack.create("again", DISK).unwrap();
    assert_eq!(arguments(&stack, "again").ports.len(), 2, "they are free once their holder is gone");
    stack.plane.destroy(again).unwrap();
    stack.settle();
    assert_eq!(stack.sim.books(), books);
}

#[test]
fn what_the_core_refuses_is_not_given() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.create("one", "ioports = ['cf8-cff', '3f6']").unwrap();
    assert_eq!(arguments(&stack, "one").ports.iter().map(|given| given.first).collect::<Vec<_>>(), [0x3f6]);
}
