//! Linux in other ways than by its own PVH entry point: 32-bit kernels, and GRUB, which reads the guest's kernel from the guest's disk.
//!
//! Both have block rings in the layout of 32-bit programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use system_tests::linux::{LONG, check};
use system_tests::{DETACH, System, full};
use xtask::guest::{self, Kind};
use xtask::{system, workspace};

/// How often the disk domain dies.
const KILL_EVERY: Duration = Duration::from_secs(1);

/// A disk with a file system of so many MiB that holds what is in a folder.
fn make_disk(name: &str, size: u64, content: Option<&Path>) -> PathBuf {
    let file = workspace::target().join("system-tests").join(name);
    fs::create_dir_all(file.parent().expect("it has a folder")).expect("a folder for the disk");
    fs::File::create(&file).and_then(|disk| disk.set_len(size << 20)).expect("room for a disk");
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F"]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    assert!(command.arg(&file).status().expect("mkfs.ext4 runs").success());
    file
}

/// Kills the disk domain until the console of a guest, which is shown, has shown `pattern`; gives how often.
fn kill_until(system: &mut System, guest: &str, pattern: &str) -> u32 {
    let (mut kills, begin) = (0, Instant::now());
    loop {
        assert!(begin.elapsed() < LONG * 2, "{}", system.transcript());
        system.type_line(&format!("console {guest}")).unwrap_or_else(|error| panic!("{error:#}"));
        let shown = system.wait_for(pattern, KILL_EVERY).is_ok();
        system.type_keys(DETACH);
        if shown {
            return kills;
        }
        let row = system.json("list disk")[0].clone();
        if row["restarts"] == 0 || row["blackout_ns"].is_u64() {
            system.ok("kill disk");
            kills += 1;
        }
    }
}

#[test]
fn a_32_bit_kernel_keeps_its_files_while_the_disk_domain_dies() {
    if !full() {
        println!("with --full only: it fetches the packages of another architecture");
        return;
    }
    let files = guest::i386().unwrap_or_else(|error| panic!("{error:#}"));
    let disk = make_disk("linux-i386.img", 64, None);
    let setup = system_tests::machine(2).memory("1G").timeout(LONG).disk(disk.clone());
    let setup = setup.file("boot/i386/vmlinuz", fs::read(&files.kernel).expect("its kernel"));
    let mut system = setup.file("boot/i386/initrd", fs::read(&files.ramdisk).expect("its RAM disk")).boot();
    system.ok("create /dev/null name=one kernel=boot/i386/vmlinuz ramdisk=boot/i386/initrd memory=192 vcpus=2 \
         disk=\"phy:virtio1,xvda,w\" extra=\"console=hvc0 quiet\"");
    system.at("one", |console| {
        assert!(console.sh("uname -m").contains("i686"));
        console.sh("mount -t ext4 /dev/xvda /mnt");
        let write = "dd if=/dev/urandom bs=64k count=256 2> /dev/null | tee /mnt/file | sha256sum > /tmp/written; sync";
        let read = "echo 3 > /proc/sys/vm/drop_caches; sha256sum < /mnt/file > /tmp/read; cmp /tmp/written /tmp/read || touch /tmp/wrong";
        console.sh(&format!("echo '{write}; {read}' > /tmp/round"));
        // The words that say that it is done are not in what is typed.
        console.sh("( (sleep 2; for round in $(seq 4); do sh /tmp/round; done; echo all ro''unds done > /dev/console) > /dev/null 2>&1 & )");
    });
    let kills = kill_until(&mut system, "one", "all rounds done");
    system.at("one", |console| {
        assert_eq!(console.sh("ls /tmp | grep wrong || true"), "");
        console.sh("[ $(stat -c %s /mnt/file) = 16777216 ] && umount /mnt");
        assert_eq!(console.sh("dmesg | grep -i -e 'I/O error' -e 'EXT4-fs error' -e remount || true"), "");
    });
    println!("{kills} kills");
    assert!(kills >= 3, "{kills} kills");
    let row = system.json("list disk")[0].clone();
    assert!(row["restarts"].as_u64() >= Some(u64::from(kills) / 2), "{row}");
    assert!(system.ok("shutdown one").contains("one is destroyed"));
    assert!(system.panicked().is_none());
    drop(system);
    check(&disk);
    let _ = fs::remove_file(disk);
}

#[test]
fn grub_boots_the_kernel_on_the_guests_own_disk() {
    if !full() {
        println!("with --full only: it fetches GRUB's package");
        return;
    }
    system::require(&[system::GRUB_MKIMAGE, system::MKFS_EXT4], false).unwrap_or_else(|error| panic!("{error:#}"));
    let grub = guest::grub().unwrap_or_else(|error| panic!("{error:#}"));
    let files = Kind::Busybox.prepare().unwrap_or_else(|error| panic!("{error:#}"));
    let content = workspace::target().join("system-tests/grub-content");
    let _ = fs::remove_dir_all(&content);
    fs::create_dir_all(content.join("boot/grub")).expect("a folder");
    fs::copy(&files.kernel, content.join("boot/vmlinuz")).expect("its kernel");
    fs::copy(&files.ramdisk, content.join("boot/initrd")).expect("its RAM disk");
    let menu = "set timeout=-1\nmenuentry one {\n linux /boot/vmlinuz console=hvc0 quiet\n initrd /boot/initrd\n}\n";
    fs::write(content.join("boot/grub/grub.cfg"), menu).expect("its menu");
    let disk = make_disk("grub.img", 128, Some(&content));
    let sum_of = |name: &str| {
        let output = Command::new("sha256sum").arg(content.join(name)).output().expect("sha256sum runs");
        String::from_utf8_lossy(&output.stdout)[..64].to_owned()
    };
    let (sum, kernel_sum) = (sum_of("boot/initrd"), sum_of("boot/vmlinuz"));

    let setup = system_tests::machine(2).memory("1G").timeout(LONG).disk(disk.clone());
    let mut system = setup.file("boot/grub", fs::read(grub).expect("GRUB")).boot();
    system.ok("create /dev/null name=one kernel=boot/grub memory=256 vcpus=2 disk=\"phy:virtio1,xvda,w\"");
    system.type_line("console one").unwrap_or_else(|error| panic!("{error:#}"));
    system.wait_for("`c' for a command-line", LONG).unwrap_or_else(|error| panic!("{error:#}"));
    system.keys(b"c");
    // What GRUB says to a line has to hold this; then it asks for the next one.
    let grub = |system: &mut System, line: &str, answer: &str| {
        system.keys(format!("{line}\r").as_bytes());
        let done = |text: &str| text.split_once(answer)?.1.contains("grub> ").then_some(());
        system.wait_until(line, LONG, done).unwrap_or_else(|error| panic!("{error:#}"));
    };
    system.wait_for("grub> ", LONG).unwrap_or_else(|error| panic!("{error:#}"));
    grub(&mut system, "ls (xen/xvda)/boot/", "vmlinuz");
    grub(&mut system, "sha256sum (xen/xvda)/boot/initrd", &sum);
    // The driver of its disk can die.
    system.type_keys(DETACH);
    system.ok("kill disk");
    system.type_line("console one").unwrap_or_else(|error| panic!("{error:#}"));
    // dom0 takes a moment to hand the terminal over.
    system.until("GRUB's prompt", |system| {
        system.keys(b"\r");
        system.wait_for("grub> ", KILL_EVERY).ok()
    });
    // Another file: the console shows once more what was said before.
    grub(&mut system, "sha256sum (xen/xvda)/boot/vmlinuz", &kernel_sum);
    grub(&mut system, "linux /boot/vmlinuz console=hvc0 quiet", "\n");
    grub(&mut system, "initrd /boot/initrd", "\n");
    system.keys(b"boot\r");
    system.wait_for("busybox guest is up", LONG).unwrap_or_else(|error| panic!("{error:#}"));
    system.type_keys(DETACH);
    system.at("one", |console| {
        console.sh("mount -t ext4 /dev/xvda /mnt");
        assert!(console.sh("sha256sum /mnt/boot/initrd").contains(&sum));
        console.sh("cp /mnt/boot/initrd /mnt/copy && sync && echo 3 > /proc/sys/vm/drop_caches");
        assert!(console.sh("sha256sum /mnt/copy").contains(&sum));
        assert_eq!(console.sh("nproc").trim(), "2");
        console.sh("umount /mnt");
    });
    assert!(system.ok("shutdown one").contains("one is destroyed"));
    assert!(system.panicked().is_none());
    drop(system);
    check(&disk);
    let _ = fs::remove_file(disk);
}
