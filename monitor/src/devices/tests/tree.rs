//! What the guest finds when it starts, and the orders that it is given.

use super::*;

#[test]
fn a_guest_finds_itself() {
    let mut world = World::new();
    let keys = [
        ("domid", "256"),
        ("name", "web"),
        ("memory/target", "262144"),
        ("memory/static-max", "524288"),
        ("cpu/0/availability", "online"),
        ("cpu/1/availability", "offline"),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("store/port", "1"),
        ("console/ring-ref", "1044479"),
    ];
    for (key, value) in keys {
        assert_eq!(world.guest.read(key).as_deref(), Ok(value), "{key}");
    }
    for key in ["data/x", "attr/eth0/ip", "error/device/vbd/51712/error", "drivers/x", "feature/x"] {
        assert!(world.guest.write(key, "mine").is_ok(), "{key}");
    }
}

/// As `shutdown_handler` of Linux: in one transaction, reads the order and empties the key.
fn acknowledge(world: &mut World) -> String {
    let transaction = world.guest.begin();
    let order = world.guest.text(kind::READ, transaction, "control/shutdown\0").unwrap();
    world.guest.text(kind::WRITE, transaction, "control/shutdown\0").unwrap();
    world.guest.end(transaction).unwrap();
    order
}

#[test]
fn orders_are_given_to_who_understands_them_one_at_a_time() {
    let mut world = World::new();
    let give = |world: &mut World, order| world.orders.give(order, &mut world.guest.store);
    assert_eq!(give(&mut world, Order::PowerOff), Err(Refused::NotUnderstood));
    for feature in ["poweroff", "reboot"] {
        world.guest.write(&format!("control/feature-{feature}"), "1").unwrap();
    }
    assert_eq!(give(&mut world, Order::Suspend), Err(Refused::NotUnderstood));
    world.guest.watch("control/shutdown", "s").unwrap();
    world.guest.events();
    assert_eq!(give(&mut world, Order::PowerOff), Ok(()));
    assert_eq!(give(&mut world, Order::PowerOff), Ok(()));
    assert_eq!(world.guest.events().len(), 1);
    assert_eq!(give(&mut world, Order::Reboot), Err(Refused::Busy(Order::PowerOff)));
    assert_eq!(world.orders.acknowledged(&world.guest.store), None);
    assert_eq!(acknowledge(&mut world), "poweroff");
    assert_eq!(world.orders.acknowledged(&world.guest.store), Some(Order::PowerOff));
    assert_eq!(world.orders.acknowledged(&world.guest.store), None);
    assert_eq!(give(&mut world, Order::Halt), Ok(()), "Linux names only one of the two");
    assert!(world.orders.withdraw(&mut world.guest.store));
    assert_eq!(acknowledge(&mut world), "");
}

#[test]
fn orders_are_given_to_who_announces_nothing_and_looks() {
    let mut world = World::new();
    world.guest.watch("control", "above").unwrap();
    assert_eq!(world.orders.give(Order::Reboot, &mut world.guest.store), Err(Refused::NotUnderstood));
    world.guest.watch("control/shutdown", "s").unwrap();
    assert_eq!(world.orders.give(Order::Reboot, &mut world.guest.store), Ok(()));
    assert_eq!(acknowledge(&mut world), "reboot");
}

#[test]
fn keys_are_pressed_and_memory_and_cpus_are_set() {
    let mut world = World::new();
    press(b's', &mut world.guest.store);
    assert_eq!(world.guest.read("control/sysrq").as_deref(), Ok("s"));
    assert!(world.guest.write("control/sysrq", "\0").is_ok());
    set_memory_target(1 << 15, &mut world.guest.store);
    assert_eq!(world.guest.read("memory/target").as_deref(), Ok("131072"));
    set_online(1, true, &mut world.guest.store);
    assert_eq!(world.guest.read("cpu/1/availability").as_deref(), Ok("online"));
}
