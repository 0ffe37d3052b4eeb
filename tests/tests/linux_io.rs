//! A Linux guest's files and connections while its drivers die every second.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use system_tests::linux::{LONG, check, debian, debian_disk, machine};
use system_tests::{System, echo, full};
use xtask::workspace;

/// Each driver dies this often.
const KILL_EVERY: Duration = Duration::from_secs(1);

/// A disk with a file system of so many MiB.
fn make_disk(name: &str, size: u64) -> PathBuf {
    let file = workspace::target().join("system-tests").join(name);
    std::fs::create_dir_all(file.parent().expect("it has a folder")).expect("a folder for the disk");
    File::create(&file).and_then(|disk| disk.set_len(size << 20)).expect("room for a disk");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).status();
    assert!(made.expect("mkfs.ext4 runs").success());
    file
}

/// Kills disk and network domain in turn until `done`; gives how often.
fn kill_until(system: &mut System, mut done: impl FnMut() -> bool) -> u64 {
    let (mut kills, begin) = (0, Instant::now());
    let mut next = begin;
    while !done() {
        assert!(begin.elapsed() < LONG * if full() { 10 } else { 1 }, "{}", system.transcript());
        for driver in ["disk", "network"] {
            // Who dies again and again without having served anybody is put in quarantine, and a slow host is no reason for that.
            let row = system.json(&format!("list {driver}"))[0].clone();
            if row["restarts"] == 0 || row["blackout_ns"].is_u64() {
                system.ok(&format!("kill {driver}"));
                kills += 1;
            }
            next += KILL_EVERY / 2;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    kills
}

#[test]
fn files_and_connections_survive_the_deaths_of_drivers() {
    let (size, rounds) = if full() { (500, 4) } else { (16, 4) };
    let file = make_disk("linux-io.img", size + 100);
    let mut system = machine(2).disk(file.clone()).boot();
    system.create_linux("one", "ip=10.0.2.20 gw=10.0.2.2", "disk=\"phy:virtio1,xvda,w\"");
    let (talk, end) = (echo::Server::start(), std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    end.set_nonblocking(true).expect("it does not block");
    let end_port = end.local_addr().expect("it has an address").port();
    system.at("one", |console| {
        console.sh("mount -t ext4 /dev/xvda /mnt");
        console.sh(&format!("(nc 10.0.2.2 {} -e cat &)", talk.port));
        // What is written and what is read back have to have the same sum; the cache is dropped in between.
        let write = format!("dd if=/dev/urandom bs=64k count={} 2> /dev/null | tee /mnt/file | sha256sum > /tmp/written; sync", size * 16);
        let whole = format!("[ $(stat -c %s /mnt/file) = {} ] || exit 1", size << 20);
        let read = "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /mnt/file > /tmp/read; cmp /tmp/written /tmp/read || exit 1";
        console.sh(&format!("echo '{write}; {whole}; {read}' > /tmp/round"));
        let all = format!("for round in $(seq {rounds}); do sh /tmp/round || touch /tmp/wrong; done");
        console.sh(&format!("( ({all}; echo | nc 10.0.2.2 {end_port}) > /tmp/log 2>&1 & )"));
    });
    let kills = kill_until(&mut system, || end.accept().is_ok());
    let lines = talk.stop();
    system.at("one", |console| {
        let found = console.sh("cat /tmp/log; ls /tmp");
        assert!(!found.contains("wrong"), "{found}");
        console.sh("umount /mnt");
        let log = console.sh("dmesg | grep -i -e 'I/O error' -e 'EXT4-fs error' -e 'remount' || true");
        assert_eq!(log, "");
    });
    println!("{kills} kills, {lines} lines, {rounds} files of {size} MiB");
    assert!(kills >= 8 && lines >= 10, "{kills} kills, {lines} lines");
    for driver in ["disk", "network"] {
        let row = system.json(&format!("list {driver}"))[0].clone();
        assert!(row["restarts"].as_u64() >= Some(kills / 4), "{row}");
    }
    assert!(system.ok("shutdown one").contains("one is destroyed"));
    assert!(system.panicked().is_none());
    drop(system);
    check(&file);
    let _ = std::fs::remove_file(file);
}

/// 500 MiB and five minutes of fio on Debian's root disk, without and with deaths; `fio` checks each block that it wrote.
#[test]
fn fio_finds_what_it_wrote_while_drivers_die() {
    if !full() {
        println!("with --full only: it takes a quarter of an hour");
        return;
    }
    let mut system = debian(2, 1).boot();
    system.ok("create debian name=one on_poweroff=destroy");
    system.log_in("one");
    let talk = echo::Server::start();
    system.at("one", |console| {
        console.send_back(talk.port);
        let write = "dd if=/dev/urandom bs=1M count=500 2> /dev/null | tee /root/file | sha256sum > /tmp/written; sync";
        let read = "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /root/file > /tmp/read; cmp /tmp/written /tmp/read";
        let fio = "fio --name=v --directory=/root --size=64m --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=16 \
                   --direct=1 --verify=crc32c --verify_backlog=256 --verify_fatal=1 --time_based --runtime=300";
        console.sh(&format!("echo '{write}; {read} || exit 1; {fio} || exit 2' > /tmp/round"));
    });
    for deaths in [false, true] {
        let end = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        end.set_nonblocking(true).expect("it does not block");
        let port = end.local_addr().expect("it has an address").port();
        system.at("one", |console| {
            console.sh(&format!(
                "( (sh /tmp/round > /tmp/log 2>&1; echo $? > /tmp/result; echo | nc -N 10.0.2.2 {port}) & )"
            ));
        });
        let begin = Instant::now();
        let kills = if deaths {
            kill_until(&mut system, || end.accept().is_ok())
        } else {
            while end.accept().is_err() {
                assert!(begin.elapsed() < LONG * 10, "{}", system.transcript());
                thread::sleep(KILL_EVERY);
            }
            0
        };
        system.at("one", |console| {
            let log = console.sh("cat /tmp/log");
            assert_eq!(console.sh("cat /tmp/result").trim(), "0", "{log}");
            let done: Vec<_> = log.lines().filter(|line| line.contains("READ:") || line.contains("WRITE:")).collect();
            println!("{kills} kills, {} s\n{}", begin.elapsed().as_secs(), done.join("\n"));
            let wrong = "grep -i -e 'I/O error' -e 'EXT4-fs error' -e remount-ro -e 'blocked for more'";
            assert_eq!(console.sh(&format!("dmesg | {wrong} || true")), "");
        });
        assert!(!deaths || kills > 100, "{kills} kills");
    }
    println!("{} lines", talk.stop());
    system.at("one", |console| console.keys(b"poweroff\r"));
    system.gone("one");
    assert!(system.panicked().is_none());
    drop(system);
    check(&debian_disk(1));
    let _ = std::fs::remove_file(debian_disk(1));
}
