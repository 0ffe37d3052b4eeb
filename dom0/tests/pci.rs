//! PCI devices in configurations: who gets which, and who gets none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use protocol::arguments::decode_arguments;
use protocol::handle::Rights;
use protocol::layout::ARGUMENTS;
use sim::image;
use sim::stack::Stack;

fn handles(stack: &Stack<'_>, name: &str) -> Vec<u32> {
    stack.sim.by_name(name, |guest| {
        let devices = decode_arguments(&guest.memory[&ARGUMENTS]).unwrap().devices.to_vec();
        assert_eq!(guest.given.len(), devices.len());
        assert!(guest.given.iter().all(|(_, rights)| *rights == Rights::USE | Rights::INSPECT));
        devices
    })
}

#[test]
fn devices_go_to_who_asks_first_and_stay_over_restarts() {
    let image = image();
    let mut stack = Stack::full(&image);
    let books = stack.sim.books();
    let one = stack.create("one", "pci = ['00:04.0']").unwrap();
    assert_eq!(handles(&stack, "one").len(), 1);
    stack.create("all", "pci = ['1af4:1042', '1af4:1041', '00:06.0']").unwrap();
    let given = handles(&stack, "all");
    assert_eq!(given.len(), 2, "one of the two disks, and the card only once");
    assert_eq!(stack.plane.pci_holder(0x20), Some("one"));
    stack.plane.restart(stack.plane.find("all").unwrap()).unwrap();
    assert_eq!(handles(&stack, "all"), given);
    let text = stack.create("two", "pci = ['00:04.0']").unwrap_err();
    assert_eq!(text, "two: device 00:04.0 belongs to one: destroy that first");
    stack.plane.destroy(one).unwrap();
    stack.create("two", "pci = ['00:04.0']").unwrap();
    for name in ["all", "two"] {
        stack.plane.destroy(stack.plane.find(name).unwrap()).unwrap();
    }
    stack.settle();
    assert_eq!(stack.sim.books(), books);
}

#[test]
fn a_kind_may_be_missing_and_a_place_may_not_and_bridges_are_nobodys() {
    let image = image();
    let mut stack = Stack::full(&image);
    stack.create("none", "pci = ['8086:0001', '1af4:1237']").unwrap();
    assert!(handles(&stack, "none").is_empty());
    for place in ["00:1f.0", "00:01.0"] {
        let text = stack.create("other", &format!("pci = ['{place}']")).unwrap_err();
        assert_eq!(text, format!("other: there is no device at {place}: `pci-list` shows those there are"));
    }
}
