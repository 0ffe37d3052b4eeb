//! A machine in an emulator, and its operator.
//!
//! [`Options`] say what to boot, [`Machine`] is the running emulator with its serial console, and [`prompt`] reads what the
//! console shows the way an operator does. Nobody outside this module starts an emulator.

mod arguments;
pub mod bochs;
mod launch;
mod machine;
mod network;
pub mod prompt;
mod query;
mod report;
mod transcript;

use std::path::PathBuf;
use std::time::Duration;

use crate::workspace;

pub use machine::{Exit, Machine};
pub use network::{check_port, free_port};
pub use prompt::Reply;

/// How the emulator executes the machine's code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM where the processor shows vmx or svm and /dev/kvm can be used, else TCG
    #[default]
    Auto,
    /// Software emulation
    Tcg,
    /// Hardware virtualization
    Kvm,
}

/// What happens to what the machine writes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is gone when the emulator ends; others may use the same file meanwhile.
    Snapshot,
    /// It goes to the file, which nobody else may use meanwhile.
    Keep,
    /// The disk refuses it.
    ReadOnly,
}

/// How long it takes, in the machine's time, that all its CPUs have nothing to do while instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// No time of the host's: the next timer fires at once. Runs without devices of the host repeat exactly.
    Skipped,
    /// As long as it takes on the host: for machines that wait for devices, which would see many timers fire meanwhile.
    Waited,
}

/// A virtio disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its contents.
    pub file: PathBuf,
    /// What may happen to them.
    pub access: Access,
}

/// A network card, a virtio one in QEMU, on a network of its own, on which the machine is 10.0.2.15 and the host 10.0.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// TCP port of 127.0.0.1 on the host behind which the machine's port 80 is.
    pub http_port: Option<u16>,
}

/// What boots a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, in QEMU, from a USB stick.
    Bios,
    /// OVMF, in QEMU, from a USB stick.
    Uefi,
    /// Bochs and its BIOS, from an ATA disk, which is the only one. It has no virtual processor but its own.
    Bochs,
}

/// A medium to boot from, as `cargo xtask image` makes it. What the machine writes to it is gone at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its contents.
    pub file: PathBuf,
    /// What boots it.
    pub firmware: Firmware,
}

/// A Linux kernel that has the machine to itself, in place of the core and the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub image: PathBuf,
    /// Its initial RAM disk.
    pub ramdisk: PathBuf,
    /// Its command line.
    pub line: String,
}

/// What to boot, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Another program than QEMU, which has to understand its arguments.
    pub emulator: Option<PathBuf>,
    /// The medium to boot from; if this is none, the emulator loads the core and the bundle itself.
    pub medium: Option<Medium>,
    /// The core's ELF file; with a medium, only for the names in it.
    pub core: PathBuf,
    /// The boot bundle.
    pub bundle: PathBuf,
    /// What is booted instead, for comparison.
    pub kernel: Option<Kernel>,
    /// CPUs.
    pub cpus: u32,
    /// Memory, as QEMU reads it.
    pub memory: String,
    /// How code is executed.
    pub accel: Accel,
    /// Words added to the boot line.
    pub append: String,
    /// Every instruction takes exactly 2 to this power ns of the machine's time, whatever else the host has to do. With 0 its
    /// time stamp counter counts instructions, and runs repeat exactly.
    pub icount: Option<u8>,
    /// How long it takes then when there are none.
    pub idle: Idle,
    /// Virtio disks, in slots 3, 4 and so on of the PCI bus.
    pub disks: Vec<Disk>,
    /// Requests a second that the disks carry out, if less than they can: so that requests wait for the device, as they do for a
    /// real one.
    pub disk_rate: Option<u32>,
    /// Whether there is a virtio disk after these that holds nothing and answers at once, for measurements.
    pub null_disk: bool,
    /// Network cards, the first one in slot 2 of the PCI bus, the others after the disks. In Bochs there is but one.
    pub networks: Vec<Network>,
    /// Where the logs of the serial port and of the debug console go.
    pub logs: PathBuf,
    /// How long the first prompt, and each command, may take.
    pub timeout: Duration,
}

impl Options {
    /// The built machine with `cpus` CPUs, its disk and its network card; logs go to `logs`.
    pub fn new(cpus: u32, logs: PathBuf) -> Options {
        Options {
            emulator: None,
            medium: None,
            core: workspace::core_elf(),
            bundle: workspace::bundle(),
            kernel: None,
            cpus,
            memory: "512M".into(),
            accel: Accel::Tcg,
            append: String::new(),
            icount: None,
            idle: Idle::Skipped,
            disks: vec![Disk { file: workspace::disk(), access: Access::Snapshot }],
            disk_rate: None,
            null_disk: false,
            networks: vec![Network::default()],
            logs,
            timeout: Duration::from_secs(60),
        }
    }

    /// Whether this is a machine in Bochs.
    pub fn in_bochs(&self) -> bool {
        self.medium.as_ref().is_some_and(|medium| medium.firmware == Firmware::Bochs)
    }
}
