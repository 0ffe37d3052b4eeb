//! A machine in an emulator, and its operator.
//!
//! [`Options`] say what to boot, [`Machine`] is the running emulator with its serial console, and [`prompt`] reads what the
//! console shows the way an operator does. Nobody outside this module starts an emulator.

mod arguments;
mod machine;
pub mod prompt;
mod report;
mod transcript;

use std::path::PathBuf;
use std::time::Duration;

use crate::workspace;

pub use machine::{Exit, Machine};
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

/// What to boot, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The emulator's program; found by its name if this is none.
    pub emulator: Option<PathBuf>,
    /// The core's ELF file.
    pub core: PathBuf,
    /// The boot bundle.
    pub bundle: PathBuf,
    /// CPUs.
    pub cpus: u32,
    /// Memory, as QEMU reads it.
    pub memory: String,
    /// How code is executed.
    pub accel: Accel,
    /// Words added to the boot line.
    pub append: String,
    /// Whether every instruction takes exactly 1 ns of the machine's time, so that its time stamp counter counts
    /// instructions and runs repeat exactly.
    pub icount: bool,
    /// Where the logs of the serial port and of the debug console go.
    pub logs: PathBuf,
    /// How long the first prompt, and each command, may take.
    pub timeout: Duration,
}

impl Options {
    /// The built machine with `cpus` CPUs; logs go to `logs`.
    pub fn new(cpus: u32, logs: PathBuf) -> Options {
        Options {
            emulator: None,
            core: workspace::core_elf(),
            bundle: workspace::bundle(),
            cpus,
            memory: "512M".into(),
            accel: Accel::Tcg,
            append: String::new(),
            icount: false,
            logs,
            timeout: Duration::from_secs(60),
        }
    }
}
