//! The emulator's command line.

use std::path::Path;

use super::{Accel, Options};

/// Words on every boot line: no emulated IOMMU is offered, the core's log goes to the debug console too, and `poweroff`
/// ends the emulator with dom0's status.
const BOOT_LINE: &str = "iommu=off-insecure debugcon=e9 exit-port=0xf4";

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
    if options.icount {
        add(&["-icount", "shift=0,sleep=off", "-rtc", "clock=vm"]);
    }
    add(&["-smp", &options.cpus.to_string(), "-m", &options.memory]);
    // Ctrl-C must reach the machine's console like every other key.
    add(&["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
    add(&["-debugcon", &format!("file:{}", escape(debug_log))]);
    add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    add(&["-kernel", &options.core.to_string_lossy(), "-initrd", &options.bundle.to_string_lossy()]);
    add(&["-append", format!("{BOOT_LINE} {}", options.append).trim_end()]);
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
    fn the_boot_line_is_one_argument() {
        let mut options = Options::new(4, "/tmp/x".into());
        options.append = "crash=1".into();
        let list = arguments(&options, false, Path::new("/tmp/a,b"));
        assert!(list.contains(&format!("{BOOT_LINE} crash=1")));
        assert!(list.contains(&"file:/tmp/a,,b".to_string()));
        assert!(list.windows(2).any(|pair| pair == ["-smp", "4"]));
    }
}
