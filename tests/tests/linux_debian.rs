//! Debian as its packages make it: up to its login, on the network, two at once, and to its end from inside.

use std::fs;
use std::time::Instant;

use system_tests::linux::{Console, check, debian, debian_disk};
use system_tests::{System, echo, full};

/// Writes a file, and gives its sum.
fn write(console: &mut Console<'_>) -> String {
    console.sh("dd if=/dev/urandom bs=64k count=256 2> /dev/null | tee /root/file | sha256sum; sync")
}

/// The sum of that file on the disk.
fn read(console: &mut Console<'_>) -> String {
    console.sh("echo 3 > /proc/sys/vm/drop_caches; sha256sum < /root/file")
}

fn restarts(system: &mut System, guest: &str) -> serde_json::Value {
    system.json(&format!("list {guest}"))[0]["resets"].clone()
}

#[test]
fn debian_boots_talks_and_ends() {
    if !full() {
        println!("with --full only: it takes minutes, and a root disk made by debootstrap");
        return;
    }
    let mut system = debian(2, 2).boot();
    let begin = Instant::now();
    system.ok("create debian name=one");
    system.log_in("one");
    println!("{} s from create to its login", begin.elapsed().as_secs());
    let talk = echo::Server::start();
    system.at("one", |console| console.send_back(talk.port));
    system.ok("create debian name=two disk=\"phy:virtio2,xvda,w\"");
    system.log_in("two");
    let talk_two = echo::Server::start();
    let two = system.at("two", |console| {
        // Both disks have the same address written on them.
        console.sh("ip addr flush dev eth0; ip addr add 10.0.2.17/24 dev eth0; ip route add default via 10.0.2.2");
        console.send_back(talk_two.port);
        write(console)
    });
    let one = system.at("one", |console| {
        console.sh("ping -c 1 10.0.2.17");
        write(console)
    });
    assert_ne!(one, two);
    system.at("two", |console| assert_eq!(read(console), two));
    system.at("one", |console| assert_eq!(read(console), one));
    assert!(talk.stop() > 10);

    assert_eq!(restarts(&mut system, "one"), 0);
    system.at("one", |console| console.keys(b"reboot\r"));
    system.log_in("one");
    assert_eq!(restarts(&mut system, "one"), 1);
    system.at("one", |console| {
        assert_eq!(read(console), one);
        assert_eq!(console.sh("systemctl --failed --no-legend"), "");
        console.keys(b"poweroff\r");
    });
    system.gone("one");
    system.at("two", |console| {
        assert_eq!(read(console), two);
        console.keys(b"poweroff\r");
    });
    assert!(talk_two.stop() > 10);
    system.gone("two");
    assert!(system.panicked().is_none());
    drop(system);
    for disk in [1, 2].map(debian_disk) {
        check(&disk);
        let _ = fs::remove_file(disk);
    }
}
