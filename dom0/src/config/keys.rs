//! The keys: those of xl.cfg, which of them mean something here, and to which guest.

use super::suggest;

/// To whom a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// To every guest.
    Every,
    /// To native guests only.
    Native,
    /// To Linux guests only.
    Linux,
    /// To no guest of Bulkhead; the text says why.
    None,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// To whom it means something.
    pub meaning: Meaning,
    /// What it says, for `help config`; why it means nothing, for [`Meaning::None`].
    pub text: &'static str,
}

const fn key(name: &'static str, meaning: Meaning, text: &'static str) -> Key {
    Key { name, meaning, text }
}

/// Every key that is known, those that mean something first.
pub const KEYS: &[Key] = &[
    key("name", Meaning::Every, "name of the domain; the file's own name by default"),
    key("image", Meaning::Native, "image in the bundle, `images/<image>`; as `name` by default"),
    key("cmdline", Meaning::Every, "command line of the guest"),
    key("extra", Meaning::Every, "words appended to the command line"),
    key("memory", Meaning::Every, "memory set aside: MiB, or with a unit: '64K' '36M' '1.5G'"),
    key(
        "maxmem",
        Meaning::Every,
        "bound for `mem-set`; as `memory` by default. A Linux kernel has tables for all of it from the start",
    ),
    key("vcpus", Meaning::Every, "virtual CPUs, 1 to 32"),
    key("cpu", Meaning::Every, "the one CPU to run on; -1 leaves it to the scheduler"),
    key("cpus", Meaning::Every, "CPUs to run on: '0-3,^1', 'all', or a list with one such text a vCPU"),
    key("cpu_weight", Meaning::Every, "share of the CPU relative to others, 1 to 65535; 256 by default"),
    key("cap", Meaning::Every, "upper limit of CPU use, in percent of one CPU; 0 is none"),
    key("class", Meaning::Every, "'guest', or 'driver' to be scheduled above guests"),
    key("on_poweroff", Meaning::Every, "when it ends by itself: 'destroy', 'restart' or 'preserve'"),
    key("on_reboot", Meaning::Every, "when it asks for a reboot: as on_poweroff; 'restart' by default"),
    key("on_crash", Meaning::Every, "when it dies of a fault or panic: as on_poweroff"),
    key("connect", Meaning::Native, "names of domains to open an event channel to"),
    key("retained", Meaning::Native, "memory kept across a restart, KiB"),
    key("backend", Meaning::Native, "what this driver domain serves others: 'disk' or 'network'"),
    key("pci", Meaning::Native, "PCI devices it is given: '1af4:1042' or '00:04.0'"),
    key("ioports", Meaning::Native, "I/O ports it is given, in hexadecimal: '1f0-1f7' or '3f6'"),
    key("irqs", Meaning::Native, "ISA interrupts it is given: 0 to 15"),
    key("connections", Meaning::Native, "devices it serves at once, 1 to 64; 16 by default"),
    key("grant_frames", Meaning::Every, "pages of its grant table, 1 to 8"),
    key("max_mappings", Meaning::Native, "grants of others it can hold mapped, 0 to 4096"),
    key("vif", Meaning::Every, "network interfaces: 'mac=00:16:3e:00:00:01,bridge=br0'"),
    key("disk", Meaning::Every, "disks: 'phy:virtio0p1,xvda,r'; 'file:/path,xvda,w' for Linux guests"),
    key("kernel", Meaning::Linux, "kernel of a Linux guest"),
    key("ramdisk", Meaning::Linux, "initial RAM disk of a Linux guest"),
    key("root", Meaning::Linux, "root= of a Linux guest's command line"),
    key("nics", Meaning::None, "the entries of `vif` are counted instead"),
    key("builder", Meaning::None, "the guest's kind follows from `image` or `kernel`"),
    key("type", Meaning::None, "the guest's kind follows from `image` or `kernel`"),
    key("maxvcpus", Meaning::None, "`vcpus` are the most: `vcpu-set` takes some away"),
    key("vcpu_avail", Meaning::None, "`vcpus` are the most: `vcpu-set` takes some away"),
    key("cpus_soft", Meaning::None, "only hard affinity is known: `cpus`"),
    key("cpu_cap", Meaning::None, "the key is `cap`"),
    key("max_grant_frames", Meaning::None, "the key is `grant_frames`"),
    key("max_maptrack_frames", Meaning::None, "the key is `max_mappings`"),
    key("uuid", Meaning::None, "domains are known by name and id"),
    key("pool", Meaning::None, "there is one pool of CPUs"),
    key("seclabel", Meaning::None, "authority is a handle, not a label"),
    key("bootloader", Meaning::None, "kernels come from the boot bundle"),
    key("bootloader_args", Meaning::None, "kernels come from the boot bundle"),
    key("firmware", Meaning::None, "guests boot without firmware"),
    key("acpi", Meaning::None, "guests have no firmware tables of that kind"),
    key("apic", Meaning::None, "guests have no choice of interrupt controller"),
    key("pae", Meaning::None, "every guest is 64-bit"),
    key("hap", Meaning::None, "nested paging is always used"),
    key("nestedhvm", Meaning::None, "no virtual machines inside virtual machines"),
    key("device_model_version", Meaning::None, "there is no device model"),
    key("serial", Meaning::None, "every domain has a console"),
    key("vfb", Meaning::None, "there is no frame buffer"),
    key("vkb", Meaning::None, "there is no keyboard device"),
    key("vnc", Meaning::None, "there is no frame buffer"),
    key("sdl", Meaning::None, "there is no frame buffer"),
    key("usb", Meaning::None, "there is no USB device for guests"),
    key("usbdevice", Meaning::None, "there is no USB device for guests"),
    key("boot", Meaning::None, "kernels come from the boot bundle"),
    key("vtpm", Meaning::None, "there is no virtual TPM"),
    key("p9", Meaning::None, "there is no shared file system"),
    key("localtime", Meaning::None, "the clock counts from the start of the machine"),
    key("rtc_timeoffset", Meaning::None, "the clock counts from the start of the machine"),
    key("tsc_mode", Meaning::None, "the time stamp counter is never trapped"),
    key("on_watchdog", Meaning::None, "there is no watchdog device"),
    key("on_soft_reset", Meaning::None, "there is no soft reset"),
    key("dhcp", Meaning::None, "write it into `extra`"),
    key("ip", Meaning::None, "write it into `extra`"),
    key("netmask", Meaning::None, "write it into `extra`"),
    key("gateway", Meaning::None, "write it into `extra`"),
    key("hostname", Meaning::None, "write it into `extra`"),
    key("vif_other_config", Meaning::None, "the entries of `vif` say it all"),
];

/// The key with this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that was probably meant, among those that mean something.
pub fn meant(name: &str) -> Option<&'static str> {
    // What people write that no edit distance would find.
    const ALIASES: &[(&str, &str)] =
        &[("weight", "cpu_weight"), ("mem", "memory"), ("args", "cmdline"), ("disks", "disk")];
    let alias = ALIASES.iter().find(|(wrong, _)| *wrong == name).map(|(_, right)| *right);
    alias.or_else(|| suggest::nearest(name, KEYS.iter().filter(|key| key.meaning != Meaning::None).map(|key| key.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_there_once() {
        for key in KEYS {
            assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            assert!(!key.text.is_empty());
        }
    }
}
