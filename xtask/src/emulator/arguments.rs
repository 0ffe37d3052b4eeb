//! The emulator's command line.

use std::iter;
use std::path::Path;

use super::network::mac;
use super::{Accel, Access, Disk, Firmware, Idle, Medium, Network, Options};
use crate::system::{OVMF, OVMF_VARIABLES};

/// Words on every boot line: no emulated IOMMU is offered, the core's log goes to the debug console too, and `poweroff`
/// ends the emulator with dom0's status.
const BOOT_LINE: &str = "iommu=off-insecure debugcon=e9 exit-port=0xf4";

/// Slot of the first network card on the PCI bus; the chipset has slots 0 and 31.
const NETWORK_SLOT: usize = 2;
/// Slot of the first disk; the others follow, and the other network cards follow them.
const FIRST_DISK_SLOT: usize = 3;

/// Arguments for a machine with `options` whose debug console writes to `debug_log`.
pub fn arguments(options: &Options, kvm: bool, debug_log: &Path) -> Vec<String> {
    let mut list = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(|word| word.to_string()));
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
    if kvm {
        add(&["-accel", "kvm", "-cpu", "host"]);
    } else {
        add(&["-accel", "tcg", "-cpu", "max"]);
    }
    add(&["-machine", "q35"]);
    if let Some(shift) = options.icount {
        let sleep = if options.idle == Idle::Waited { "on" } else { "off" };
        add(&["-icount", &format!("shift={shift},sleep={sleep}"), "-rtc", "clock=vm"]);
    }
    add(&["-smp", &options.cpus.to_string(), "-m", &options.memory]);
    // Ctrl-C must reach the machine's console like every other key.
    add(&["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
    add(&["-debugcon", &format!("file:{}", escape(debug_log))]);
    add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    let others = FIRST_DISK_SLOT + options.disks.len() + usize::from(options.null_disk);
    for (number, (network, slot)) in options.networks.iter().zip(iter::once(NETWORK_SLOT).chain(others..)).enumerate() {
        add(&network_card(number, network, slot).each_ref().map(String::as_str));
    }
    for (number, disk) in options.disks.iter().enumerate() {
        add(&virtio_disk(number, disk, options.disk_rate).each_ref().map(String::as_str));
    }
    if options.null_disk {
        add(&null_disk(options.disks.len()).each_ref().map(String::as_str));
    }
    let line = format!("{BOOT_LINE} {}", options.append);
    let (image, ramdisk, line) = match &options.kernel {
        Some(kernel) => (&kernel.image, &kernel.ramdisk, kernel.line.as_str()),
        None => (&options.core, &options.bundle, line.trim_end()),
    };
    match &options.medium {
        Some(medium) => stick(medium, line).iter().for_each(|word| add(&[word])),
        None => {
            add(&["-kernel", &image.to_string_lossy(), "-initrd", &ramdisk.to_string_lossy(), "-append", line]);
            // QEMU puts the bundle 160 KiB below the end of the low memory, whatever the firmware takes there: 128 KiB for its
            // tables and, unless it is told that it boots from none of them, 12 for each disk.
            add(&["-boot", "strict=on"]);
        }
    }
    list
}

/// The virtio network card with this number. It needs no firmware of its own: nothing is booted from it.
fn network_card(number: usize, network: &Network, slot: usize) -> [String; 4] {
    let forward = network.http_port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:80")).unwrap_or_default();
    let (id, mac) = (format!("net{number}"), mac(number));
    let device = format!("virtio-net-pci,netdev={id},disable-legacy=on,romfile=,mac={mac},addr={slot:#x}");
    ["-netdev".into(), format!("user,id={id}{forward}"), "-device".into(), device]
}

/// The virtio disk with this number.
fn virtio_disk(number: usize, disk: &Disk, rate: Option<u32>) -> [String; 4] {
    let access = match disk.access {
        Access::Snapshot => ",snapshot=on",
        Access::Keep => "",
        Access::ReadOnly => ",read-only=on",
    };
    let rate = rate.map(|rate| format!(",throttling.iops-total={rate}")).unwrap_or_default();
    let file = escape(&disk.file);
    let drive = format!("if=none,id=disk{number},format=raw,discard=unmap,file={file}{access}{rate}");
    let slot = FIRST_DISK_SLOT + number;
    let device = format!("virtio-blk-pci,drive=disk{number},disable-legacy=on,addr={slot:#x}");
    ["-drive".into(), drive, "-device".into(), device]
}

/// A virtio disk with this number that holds nothing: reading moves no bytes. It takes requests where the CPU notifies it.
fn null_disk(number: usize) -> [String; 4] {
    let slot = FIRST_DISK_SLOT + number;
    let disk = "driver=null-co,node-name=null,size=67108864,read-zeroes=off".into();
    let device = format!("virtio-blk-pci,drive=null,disable-legacy=on,ioeventfd=off,addr={slot:#x}");
    ["-blockdev".into(), disk, "-device".into(), device]
}

/// A USB stick to boot from. The medium's boot menu looks for the boot line among the OEM strings of SMBIOS.
fn stick(medium: &Medium, line: &str) -> Vec<String> {
    let stick = format!("if=none,id=stick,format=raw,snapshot=on,file={}", escape(&medium.file));
    let line = format!("type=11,value=bulkhead {}", line.replace(',', ",,"));
    let mut list = vec!["-drive".to_string(), stick, "-smbios".into(), line, "-device".into(), "qemu-xhci".into()];
    list.extend(["-device".into(), "usb-storage,drive=stick,bootindex=0".into()]);
    if medium.firmware == Firmware::Uefi {
        let flash = "if=pflash,format=raw";
        list.extend(["-drive".into(), format!("{flash},readonly=on,file={}", OVMF.program)]);
        list.extend(["-drive".into(), format!("{flash},snapshot=on,file={}", OVMF_VARIABLES.program)]);
    }
    list
}

/// Commas end a value in the emulator's option syntax unless doubled.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Whether to use KVM. `cpuinfo` is the contents of /proc/cpuinfo, `device` whether /dev/kvm can be opened.
pub fn use_kvm(accel: Accel, cpuinfo: &str, device: bool) -> bool {
    // The device alone proves nothing: it exists on machines whose processor cannot run anything with it.
    let able = cpuinfo.lines().filter(|line| line.starts_with("flags")).any(has_virtualization);
    match accel {
        Accel::Kvm => true,
        Accel::Tcg => false,
        Accel::Auto => able && device,
    }
}

fn has_virtualization(flags: &str) -> bool {
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// [`use_kvm`] for the machine this runs on.
pub fn use_kvm_here(accel: Accel) -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    use_kvm(accel, &cpuinfo, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_both_the_processor_and_the_device() {
        let able = "flags\t\t: fpu svm sse\n";
        let unable = "model name : svm\nflags : fpu svm_lock\n";
        assert!(use_kvm(Accel::Auto, able, true));
        assert!(!use_kvm(Accel::Auto, able, false));
        assert!(!use_kvm(Accel::Auto, unable, true));
        assert!(use_kvm(Accel::Kvm, unable, false));
        assert!(!use_kvm(Accel::Tcg, able, true));
    }

    #[test]
    fn devices_are_modern_and_have_fixed_places() {
        let mut options = Options::new(1, "/tmp/x".into());
        options.disks.push(Disk { file: "/a,b".into(), access: Access::ReadOnly });
        options.networks = vec![Network { http_port: Some(8080) }, Network::default()];
        let line = arguments(&options, false, Path::new("/tmp/log")).join(" ");
        for part in [
            "-netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80 ",
            "virtio-net-pci,netdev=net0,disable-legacy=on,romfile=,mac=52:54:00:12:34:56,addr=0x2",
            "-netdev user,id=net1 -device virtio-net-pci,netdev=net1,disable-legacy=on,romfile=,mac=52:54:00:12:34:57,addr=0x5",
            "disk.img,snapshot=on -device virtio-blk-pci,drive=disk0,disable-legacy=on,addr=0x3",
            "file=/a,,b,read-only=on -device virtio-blk-pci,drive=disk1,disable-legacy=on,addr=0x4",
        ] {
            assert!(line.contains(part), "no {part} in {line}");
        }
        (options.disks, options.networks) = (Vec::new(), Vec::new());
        assert!(!arguments(&options, false, Path::new("/tmp/log")).join(" ").contains("virtio"));
    }

    #[test]
    fn a_medium_is_booted_by_its_firmware_and_nothing_else() {
        let mut options = Options::new(1, "/tmp/x".into());
        for (firmware, flash) in [(Firmware::Bios, false), (Firmware::Uefi, true)] {
            options.medium = Some(Medium { file: "/tmp/m.img".into(), firmware });
            let line = arguments(&options, false, Path::new("/tmp/log")).join(" ");
            assert!(!line.contains("-kernel") && line.contains("usb-storage,drive=stick,bootindex=0"), "{line}");
            assert!(line.contains(&format!("value=bulkhead {BOOT_LINE} -device")), "{line}");
            assert_eq!(line.contains("pflash"), flash, "{line}");
        }
    }

    #[test]
    fn the_boot_line_is_one_argument() {
        let mut options = Options::new(4, "/tmp/x".into());
        options.append = "crash=1".into();
        let list = arguments(&options, false, Path::new("/tmp/a,b"));
        assert!(list.contains(&format!("{BOOT_LINE} crash=1")));
        assert!(list.contains(&"file:/tmp/a,,b".to_string()));
        assert!(list.windows(2).any(|pair| pair == ["-smp", "4"]));
    }
}
