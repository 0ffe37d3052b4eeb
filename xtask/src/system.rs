//! Programs and files of the system that a verb needs: found, or installed, or named in the one command to type.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process;

/// A program or a file, and the Debian package that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Name of the program, or path of the file.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

/// The emulator.
pub const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
/// UEFI firmware for the emulator.
pub const OVMF: Tool = Tool { program: "/usr/share/OVMF/OVMF_CODE_4M.fd", package: "ovmf" };
/// Where it keeps its settings.
pub const OVMF_VARIABLES: Tool = Tool { program: "/usr/share/OVMF/OVMF_VARS_4M.fd", package: "ovmf" };
/// The other emulator, with the one of its displays that brings least along.
pub const BOCHS: Tool = Tool { program: "bochs-bin", package: "bochs bochs-term" };
/// Its BIOS.
pub const BOCHS_BIOS: Tool = Tool { program: "/usr/share/bochs/BIOS-bochs-latest", package: "bochsbios" };
/// The firmware of its display.
pub const BOCHS_VGA: Tool = Tool { program: "/usr/share/seabios/vgabios-isavga.bin", package: "seabios" };
/// Puts GRUB's modules together.
pub const GRUB_MKIMAGE: Tool = Tool { program: "grub-mkimage", package: "grub-common" };
/// GRUB for a BIOS.
pub const GRUB_BIOS: Tool = Tool { program: "/usr/lib/grub/i386-pc/boot.img", package: "grub-pc-bin" };
/// GRUB for UEFI.
pub const GRUB_EFI: Tool = Tool { program: "/usr/lib/grub/x86_64-efi/normal.mod", package: "grub-efi-amd64-bin" };
/// Makes a Debian system in a folder.
pub const DEBOOTSTRAP: Tool = Tool { program: "debootstrap", package: "debootstrap" };
/// Makes a file system of it.
pub const MKFS_EXT4: Tool = Tool { program: "mkfs.ext4", package: "e2fsprogs" };
/// Expands a kernel, to compress it in another way.
pub const LZ4: Tool = Tool { program: "lz4", package: "lz4" };
/// One of the other ways.
pub const ZSTD: Tool = Tool { program: "zstd", package: "zstd" };
/// The compiler that the fuzzer's own code needs.
pub const CXX: Tool = Tool { program: "c++", package: "g++" };
/// The linker driver that cargo needs for programs of the host.
pub const CC: Tool = Tool { program: "cc", package: "gcc libc6-dev" };

/// How long apt-get waits for another package manager, in seconds; a fresh machine often updates itself when it starts.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=300";

/// What may be done about a missing program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    /// Install.
    Granted,
    /// Ask first.
    Ask,
    /// Only say how.
    Denied,
}

/// Makes sure that `tools` are there. Missing ones are installed when root, with `yes`, or after asking on a terminal.
pub fn require(tools: &[Tool], yes: bool) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let command = install_command(&missing, rustix::process::geteuid().is_root());
    if process::find("apt-get").is_none() {
        bail!("{} not found, and neither is apt-get; install what provides it on this system", names.join(", "));
    }
    permit(&names.join(", "), &command, yes)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).env("DEBIAN_FRONTEND", "noninteractive");
    if !std::io::stdin().is_terminal() {
        shell.stdin(Stdio::null());
    }
    // Standard output belongs to the verb's result.
    shell.stdout(std::io::stderr());
    process::run(&mut shell)?;
    let still = self::missing(&missing);
    if !still.is_empty() {
        bail!("installed, but `{}` is still not found", still[0].program);
    }
    Ok(())
}

/// Announces that `command` installs `what`, if root, with `yes`, or after asking on a terminal; an error that says what to
/// type otherwise.
pub fn permit(what: &str, command: &str, yes: bool) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let permission = match (root || yes, std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        (true, _) => Permission::Granted,
        (false, true) => Permission::Ask,
        (false, false) => Permission::Denied,
    };
    if permission == Permission::Denied || (permission == Permission::Ask && !ask(what, command)?) {
        bail!("{what} not found. Install it with:\n\n    {command}\n\nor run again with --yes");
    }
    process::step(format_args!("installing {what}: {command}"));
    Ok(())
}

/// Those of `tools` that are not there.
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|tool| !is_there(tool)).collect()
}

fn is_there(tool: &Tool) -> bool {
    if tool.program.contains('/') { Path::new(tool.program).is_file() } else { process::find(tool.program).is_some() }
}

fn install_command(tools: &[Tool], root: bool) -> String {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package).collect();
    packages.dedup();
    let sudo = if root { "" } else { "sudo " };
    format!(
        "{sudo}apt-get update -q && {sudo}apt-get install -q --yes --no-install-recommends -o {LOCK_TIMEOUT} {}",
        packages.join(" ")
    )
}

fn ask(what: &str, command: &str) -> Result<bool> {
    eprint!("{what} not found. Run `{command}`? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes") && answer.ends_with('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_type_names_every_package_once_and_updates_first() {
        let command = install_command(&[QEMU, CC], false);
        assert!(command.starts_with("sudo apt-get update"));
        assert!(command.ends_with("qemu-system-x86 gcc libc6-dev"));
        assert!(!install_command(&[QEMU], true).contains("sudo"));
    }

    #[test]
    fn what_is_there_needs_nothing() {
        let shell = Tool { program: "sh", package: "dash" };
        assert!(require(&[shell], false).is_ok());
        let nothing = Tool { program: "no-such-program-anywhere", package: "none" };
        assert_eq!(missing(&[shell, nothing]), [nothing]);
        let (file, no_file) = (Tool { program: "/etc/passwd", ..shell }, Tool { program: "/nonexistent", ..shell });
        assert_eq!(missing(&[file, no_file]), [no_file]);
    }
}
