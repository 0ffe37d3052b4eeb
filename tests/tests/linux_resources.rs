//! What a Linux guest has of CPUs and memory, and how dom0 takes some of it away and gives it back.

use serde_json::Value;
use system_tests::linux::{Console, machine, tiny_kernel};
use system_tests::{SOON, System, full};

/// Its frames in `list`.
fn pages(system: &mut System) -> u64 {
    system.json("list one")[0]["memory_pages"].as_u64().expect("a number")
}

/// KiB of memory that its kernel counts.
fn total(console: &mut Console<'_>) -> u64 {
    let text = console.sh("grep MemTotal /proc/meminfo");
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn column(vcpus: &Value, key: &str) -> Vec<Value> {
    vcpus.as_array().expect("a list").iter().map(|vcpu| vcpu[key].clone()).collect()
}

/// All CPUs compute, switch between processes, fault pages in and wake each other at once; each gets what one gets alone.
fn stress(console: &mut Console<'_>) {
    console.sh("echo 'seq 300 | while read n; do echo $n | cat; done | cat - /bin/busybox | sha256sum' > /tmp/work");
    let alone = console.sh("sh /tmp/work");
    console.sh("rm -f /tmp/sum*; for one in $(seq 8); do sh /tmp/work > /tmp/sum$one & done; wait");
    assert_eq!(console.sh("cat /tmp/sum* | uniq -c | sed 's/^ *//'"), format!("8 {alone}"));
}

#[test]
fn a_guest_gives_cpus_back_and_takes_them_again() {
    let mut system = machine(3).boot();
    system.create_linux("one", "", "vcpus=4 cpus='1,2'");
    system.at("one", |console| {
        assert_eq!(console.sh("nproc").trim(), "4");
        let interrupts = console.sh("cat /proc/interrupts");
        for cpu in 0..4 {
            // Number, one count for each CPU, kind, source.
            let timer = interrupts.lines().find(|line| line.ends_with(&format!("timer{cpu}")));
            let counts: Vec<u64> = timer
                .unwrap_or_else(|| panic!("{interrupts}"))
                .split_whitespace()
                .skip(1)
                .take(4)
                .filter_map(|word| word.parse().ok())
                .collect();
            let others =
                counts.iter().enumerate().filter(|&(index, _)| index != cpu).map(|(_, count)| count).sum::<u64>();
            assert!(counts.len() == 4 && counts[cpu] > 0 && others == 0, "{interrupts}");
        }
    });
    system.at("one", stress);
    system.ok("vcpu-set one 2");
    let vcpus = system.json("vcpu-list one");
    assert_eq!(column(&vcpus, "state")[2..], ["offline", "offline"], "{vcpus}");
    assert!(!column(&vcpus, "state")[..2].contains(&"offline".into()), "{vcpus}");
    assert_eq!(column(&vcpus, "affinity"), ["1-2"; 4]);
    assert_eq!(system.json("list one")[0]["vcpus_used"], 2);
    system.at("one", |console| assert_eq!(console.sh("nproc").trim(), "2"));
    system.ok("vcpu-set one 4");
    system.at("one", |console| {
        // The kernel has them again; to use them is up to its user space.
        console.sh("for cpu in 2 3; do until echo 1 > /sys/devices/system/cpu/cpu$cpu/online; do sleep 1; done; done");
        assert_eq!(console.sh("nproc").trim(), "4");
        stress(console);
    });
    assert!(system.fails("vcpu-set one 5", 2).contains("1 to 4"));
    // The emulator gets nested paging on its first CPU wrong, so that no guest is let there.
    assert!(system.fails("vcpu-pin one all 0", 1).contains("no CPU of `0` is there for it"));
    system.ok("vcpu-pin one all 1");
    system.until("all vCPUs on the CPU they were pinned to", |system| {
        let vcpus = system.json("vcpu-list one");
        (column(&vcpus, "cpu") == [1; 4] && column(&vcpus, "affinity") == ["1"; 4]).then_some(())
    });
    system.ok("destroy one");
    let counts = if full() { vec![8, 7, 6, 5, 3, 2, 1] } else { vec![8, 2] };
    for vcpus in counts {
        system.create_linux("one", "", &format!("vcpus={vcpus} disk=[] vif=[]"));
        system.at("one", |console| assert_eq!(console.sh("nproc").trim(), vcpus.to_string()));
        system.ok("destroy one");
    }
    assert!(system.panicked().is_none());
}

#[test]
fn a_guest_gives_memory_back_and_takes_it_again() {
    let mut system = machine(2).boot();
    system.create_linux("one", "", "memory=192 disk=[] vif=[]");
    let start = pages(&mut system);
    // Of what it is asked to use from then on, a page for each 2 MiB is for tables: its memory is in small pages where it gave back some.
    let had = system.at("one", total) - 192 / 2 * 4;
    system.ok("mem-set one 128");
    assert_eq!(pages(&mut system), start - (64 << 8));
    system.at("one", |console| assert_eq!(total(console), had - (64 << 10)));
    // What it gave back is free for others: it does not get more than it was left with.
    assert!(system.fails("mem-set one 64", 1).contains("88 MiB are the least for a guest that knows of 192"));
    assert_eq!(pages(&mut system), start - (64 << 8));
    system.ok("mem-set one 160");
    system.at("one", |console| {
        console.sh(&format!("until grep -q 'MemTotal: *{} kB' /proc/meminfo; do sleep 1; done", had - (32 << 10)));
    });
    assert!(system.fails("mem-set one 200", 1).contains("no more than its `maxmem`"));
    system.ok("mem-max one 160");
    assert!(system.fails("mem-set one 170", 1).contains("above its maximum"));
    // What the guest needs it keeps, and says so; then it has as much as before.
    system.ok("mem-max one 192; mem-set one 192");
    system.at("one", |console| {
        console.sh("mount -t tmpfs -o size=100m none /mnt; dd if=/dev/zero of=/mnt/x bs=1M count=70 2>&1")
    });
    assert!(system.fails("mem-set one 90", 1).contains("MiB too much"));
    assert_eq!(pages(&mut system), start);
    system.at("one", |console| {
        console.sh(&format!("until grep -q 'MemTotal: *{had} kB' /proc/meminfo; do sleep 1; done"));
    });
    assert!(system.panicked().is_none());
}

/// It is told of more than it has, gives back the difference, and gets it later.
#[test]
fn a_guest_gets_more_memory_than_it_started_with() {
    let mut system = machine(2).boot();
    system.create_linux("one", "", "memory=192 maxmem=320 vif=[]");
    let (had, start) = (system.at("one", total), pages(&mut system));
    assert!((150 << 10..192 << 10).contains(&had), "{had}");
    system.at("one", |console| console.sh("dd if=/dev/xvda of=/dev/null bs=1M count=8 2>&1"));
    system.ok("mem-set one 320");
    assert_eq!(pages(&mut system), start + (128 << 8));
    system.at("one", |console| {
        let more = had + (128 << 10);
        console.sh(&format!("until grep -q 'MemTotal: *{more} kB' /proc/meminfo; do sleep 1; done"));
        // It can be used, all of it.
        console.sh("mount -t tmpfs -o size=240m none /mnt; dd if=/dev/zero of=/mnt/x bs=1M count=220 2>&1; rm /mnt/x");
    });
    assert!(system.fails("mem-set one 400", 1).contains("no more than its `maxmem`"));
    system.ok("mem-set one 192");
    assert_eq!((pages(&mut system), system.at("one", total)), (start, had));
    assert!(system.panicked().is_none());
}

#[test]
fn a_guest_that_touches_everything_ends_and_nobody_else_is_hurt() {
    // MOV EAX, 2 MiB; then it writes a byte there, and goes on by a page.
    let mut system = machine(2).file("boot/touch", tiny_kernel(b"\xb8\0\0\x20\0\x88\0\x05\0\x10\0\0\xeb\xf7")).boot();
    system.create_linux("two", "", "memory=192 vif=[]");
    system.at("two", |console| console.sh("uname"));
    for _ in 0..2 {
        system.ok("create /dev/null name=one kernel=boot/touch memory=64 maxmem=256 on_crash=preserve");
        let one = system.until("its end", |system| {
            let one = system.json("list one")[0].clone();
            (one["state"] == "----c-").then_some(one)
        });
        let end = one["last_end"].as_str().unwrap_or_default();
        assert!(end.contains("memory: 64 MiB touched, 64 allowed"), "{one}");
        assert!(one["used_pages"].as_u64() <= one["memory_pages"].as_u64(), "{one}");
        system.at("two", |console| console.sh("dd if=/dev/xvda of=/dev/null bs=1M count=4 2>&1"));
        system.ok("destroy one");
    }
    assert!(system.panicked().is_none());
}

#[test]
fn a_driver_is_restarted_while_a_large_guest_is_scrubbed() {
    // STI, HLT, and HLT again.
    let mut system = machine(2).memory("2G").file("boot/idle", tiny_kernel(b"\xfb\xf4\xeb\xfd")).boot();
    system.ok("create /dev/null name=one kernel=boot/idle memory=1536");
    system.until("all its memory", |system| {
        (system.json("list one")[0]["used_pages"].as_u64() > Some(1536 << 8)).then_some(())
    });
    // The restart goes on when the shell is called back; a driver that dies meanwhile is not kept waiting for it.
    system.keys(b"restart one\r\x03kill disk\r");
    let restarts = system.wait_until("both restarts", SOON, |text| {
        let ends = |line: &&str| line.contains(" is restarted, ") && line.trim_end().ends_with(" us");
        let lines: Vec<_> = text.lines().filter(ends).map(str::to_owned).collect();
        (lines.len() == 2).then_some(lines)
    });
    let restarts = restarts.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(restarts[0].contains("disk") && restarts[1].contains("one"), "{restarts:?}");
    let blackout = system.until("the driver to be back", |system| system.json("list disk")[0]["blackout_ns"].as_u64());
    println!("{restarts:?}, {} us without the driver", blackout / 1000);
    let us = |line: &str| line.trim_end().strip_suffix(" us")?.rsplit(' ').next()?.parse::<u64>().ok();
    let scrubbed = us(&restarts[1]).expect("what the guest's restart took");
    assert!(blackout / 1000 < scrubbed / 2, "its users waited for the guest's memory");
    system.until("the guest", |system| (system.json("list one")[0]["restarts"] == 1).then_some(()));
    assert!(system.panicked().is_none());
}
