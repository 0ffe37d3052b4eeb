//! A stock Linux kernel as a guest: it starts, uses its devices while their drivers die, and ends in every way there is.

use std::time::UNIX_EPOCH;

use system_tests::linux::{Console, LONG, machine, tiny_kernel};
use system_tests::{System, echo};

/// The guest's own address, and those that it talks to.
const NETWORK: &str = "ip=10.0.2.20 gw=10.0.2.2";

/// Reads from the guest's disk, and a page from the web guest.
fn use_devices(console: &mut Console<'_>) {
    console.sh("dd if=/dev/xvda of=/dev/null bs=64k count=32 2>&1");
    assert!(console.sh("wget -q -O - http://10.0.2.15/index.html").contains("<html"));
}

/// What `list` says of a guest.
fn row(system: &mut System, guest: &str) -> serde_json::Value {
    system.json(&format!("list {guest}"))[0].clone()
}

#[test]
fn a_guest_uses_its_devices_while_their_drivers_die() {
    let mut system = machine(2).boot();
    system.create_linux("one", NETWORK, "on_reboot=destroy");
    system.at("one", use_devices);
    let date: u64 = system.at("one", |console| console.sh("date +%s")).trim().parse().expect("a number of seconds");
    let here = UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
    assert!(date.abs_diff(here) < 60, "the guest's clock says {date}, this host's {here}");
    system.ok("kill disk");
    system.ok("kill network");
    system.at("one", |console| {
        console.sh("echo 3 > /proc/sys/vm/drop_caches");
        use_devices(console);
    });
    assert!(system.ok("reboot one").contains("one is destroyed"));
    assert!(system.panicked().is_none());
}

/// Each reason and each action once; a guest that starts again finds its devices.
#[test]
fn guests_end_as_their_configurations_say() {
    // UD2, which nobody handles; HLT with interrupts off; a read far above all memory.
    let kernels = [("fault", &b"\x0f\x0b"[..]), ("halt", b"\xf4"), ("stray", b"\xa1\0\0\0\xf0")];
    let setup =
        kernels.iter().fold(machine(2), |setup, (name, code)| setup.file(&format!("boot/{name}"), tiny_kernel(code)));
    let mut system = setup.boot();
    for (name, reason) in
        [("fault", "triple fault"), ("halt", "shut down"), ("stray", "guest-physical 0xf0000000, where nothing is")]
    {
        system.ok(&format!(
            "create /dev/null name={name} kernel=boot/{name} memory=16 on_crash=preserve on_poweroff=preserve"
        ));
        system.until("its end", |system| {
            row(system, name)["last_end"].as_str().filter(|text| text.contains(reason)).map(drop)
        });
        let state = if name == "halt" { "---s--" } else { "----c-" };
        assert_eq!(row(&mut system, name)["state"], state, "{name}");
        system.ok(&format!("destroy {name}"));
    }
    // One that is always over at once is given up.
    system.ok("create /dev/null name=halt kernel=boot/halt memory=16 on_poweroff=restart");
    system.create_linux("one", NETWORK, "on_poweroff=preserve on_reboot=restart on_crash=restart");
    system.at("one", |console| {
        use_devices(console);
        console.keys(b"reboot\r");
        console.shows("reboot: Restarting system");
    });
    system.at("one", |console| {
        use_devices(console);
        console.keys(b"echo c > /proc/sysrq-trigger\r");
        console.shows("Kernel panic - not syncing");
    });
    system.at("one", use_devices);
    let one = row(&mut system, "one");
    assert!(one["last_end"].as_str().is_some_and(|text| text.contains("Kernel panic - not syncing")), "{one}");
    assert!(system.ok("reboot one").contains("one is restarted"));
    system.at("one", |console| console.keys(b"poweroff\r"));
    system.until("the end of one", |system| (row(system, "one")["status"] == "shutdown").then_some(()));
    assert!(system.ok("restart one").contains("one is restarted, "));
    system.at("one", use_devices);
    assert_eq!(row(&mut system, "one")["resets"], 4);
    assert_eq!(row(&mut system, "halt")["status"], "quarantined");
    for key in ["on_poweroff", "on_reboot", "on_crash"] {
        let refused = system.fails(&format!("create busybox {key}=rename-restart"), 1);
        assert!(refused.contains("'destroy', 'restart' or 'preserve'"), "{refused}");
    }
    assert!(system.panicked().is_none());
}

/// Fills the beginning of the guest's disk with numbers of its own; gives their sum.
fn fill_disk(console: &mut Console<'_>) -> String {
    let sum = console.sh("dd if=/dev/urandom bs=64k count=64 2> /dev/null | tee /dev/xvda | sha256sum; sync");
    assert_eq!(disk_sum(console), sum);
    sum
}

/// The sum of what lies there.
fn disk_sum(console: &mut Console<'_>) -> String {
    console.sh("echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/xvda bs=64k count=64 2> /dev/null | sha256sum")
}

#[test]
fn two_guests_do_not_disturb_each_other() {
    let mut system = machine(2).boot();
    system.create_linux("one", NETWORK, "");
    system.create_linux("two", "ip=10.0.2.21 gw=10.0.2.2", "disk=\"phy:scratch2,xvda,w\"");
    // What was printed before anybody looked is there.
    let shown = system.visit_within("console two", "busybox guest is up", LONG);
    assert!(shown.contains("] "), "the kernel's own lines come before: {shown}");
    let talk = echo::Server::start();
    let two = system.at("two", |console| {
        console.sh(&format!("(nc 10.0.2.2 {} -e cat &)", talk.port));
        fill_disk(console)
    });
    let one = system.at("one", |console| {
        console.sh("ping -c 1 10.0.2.21");
        fill_disk(console)
    });
    assert_ne!(one, two);

    system.ok("pause two");
    let before = row(&mut system, "two");
    assert_eq!(before["state"], "--p---", "{before}");
    assert!(system.fails("shutdown two", 1).contains("`unpause two` first"));
    system.at("one", |console| assert_eq!(disk_sum(console), one));
    assert_eq!(row(&mut system, "two")["cpu_ns"], before["cpu_ns"]);
    system.ok("unpause two");
    system.at("two", |console| assert_eq!(disk_sum(console), two));

    system.at("one", |console| {
        console.keys(b"echo c > /proc/sysrq-trigger\r");
        console.shows("Kernel panic - not syncing");
    });
    system.gone("one");
    system.at("two", |console| {
        assert_eq!(disk_sum(console), two);
        use_devices(console);
    });
    assert!(talk.stop() > 0);
    assert!(system.panicked().is_none());
}
