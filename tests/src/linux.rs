//! Linux guests in system tests: made by commands of dom0, and driven at the shells on their consoles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xtask::guest::Kind;
use xtask::workspace;

use crate::{DETACH, Setup, System};

/// An emulated processor takes its time, all the more for what runs in a virtual machine.
pub const LONG: Duration = Duration::from_secs(120);
/// How long a shell may take to answer Return before it is pressed once more.
const NUDGE: Duration = Duration::from_secs(3);
/// The prompt of the small guest.
const PROMPT: &str = "/ # ";

/// A machine that carries the small guest: `create busybox` makes one.
pub fn machine(cpus: u32) -> Setup {
    let mut entries = Vec::new();
    Kind::Busybox.bundle(&mut entries, 0).unwrap_or_else(|error| panic!("{error:#}"));
    let setup = crate::machine(cpus).memory("1G").timeout(LONG);
    entries.into_iter().fold(setup, |setup, entry| setup.file(&entry.name.replace("auto/", "config/"), entry.bytes))
}

/// Where the n-th disk of [`debian`] is.
pub fn debian_disk(number: u32) -> PathBuf {
    workspace::target().join("system-tests").join(format!("debian-{number}.img"))
}

/// A machine that carries Debian: `create debian` makes one, on the first of so many copies of its root disk.
pub fn debian(cpus: u32, copies: u32) -> Setup {
    let mut entries = Vec::new();
    let root = Kind::Debian.bundle(&mut entries, 1).unwrap_or_else(|error| panic!("{error:#}"));
    let root = root.expect("Debian has a root disk").file;
    let setup = crate::machine(cpus).memory("2G").timeout(LONG);
    let setup = (1..=copies).map(debian_disk).fold(setup, |setup, copy| {
        fs::create_dir_all(copy.parent().expect("it has a folder")).expect("a folder for the disk");
        let copied = Command::new("cp").args(["--sparse=always"]).args([&root, &copy]).status();
        assert!(copied.expect("cp runs").success());
        setup.disk(copy)
    });
    entries.into_iter().fold(setup, |setup, entry| setup.file(&entry.name.replace("auto/", "config/"), entry.bytes))
}

/// Checks a file system without repairing anything.
pub fn check(disk: &Path) {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output().expect("e2fsck runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The console of a guest, while it is shown.
pub struct Console<'s>(&'s mut System);

impl System {
    /// Makes a small guest that says little while it boots; `keys` are laid over its configuration.
    pub fn create_linux(&mut self, name: &str, words: &str, keys: &str) {
        let extra = format!("console=hvc0 quiet {words}");
        self.ok(&format!("create busybox name={name} memory=128 extra=\"{extra}\" {keys}"));
    }

    /// Does something at the shell on a guest's console, once it answers.
    pub fn at<T>(&mut self, guest: &str, act: impl FnOnce(&mut Console<'_>) -> T) -> T {
        self.type_line(&format!("console {guest}")).unwrap_or_else(|error| panic!("{error:#}"));
        // dom0 takes a moment to hand the terminal over, and the guest one to boot.
        self.until("the guest's shell", |system| {
            system.keys(b"\r");
            system.wait_for(PROMPT, NUDGE).ok()
        });
        let result = act(&mut Console(self));
        self.type_keys(DETACH);
        result
    }

    /// Logs in at a Debian guest's console once it offers that, for [`System::at`].
    pub fn log_in(&mut self, guest: &str) {
        self.type_line(&format!("console {guest}")).unwrap_or_else(|error| panic!("{error:#}"));
        let mut console = Console(self);
        console.shows("debian login: ");
        console.keys(b"root\r");
        console.shows("Password: ");
        console.keys(b"bulkhead\r");
        console.shows("root@debian:~# ");
        console.keys(format!("dmesg -n 1; exec env PS1='{PROMPT}' sh\r").as_bytes());
        console.shows(PROMPT);
        self.type_keys(DETACH);
    }

    /// Waits until `list` shows a guest no more.
    pub fn gone(&mut self, guest: &str) {
        self.until("the end of a guest", |system| {
            let list = system.json("list");
            let there = list.as_array()?.iter().any(|row| row["name"] == guest);
            (!there).then_some(())
        });
    }
}

impl Console<'_> {
    /// Runs a command that must succeed; gives what it printed.
    pub fn sh(&mut self, line: &str) -> String {
        self.type_line(line);
        let (status, text) = self.answer(line);
        assert_eq!(status, 0, "`{line}` in the guest:\n{text}");
        text
    }

    /// Types a command; its answer is looked for with [`Console::answer`].
    pub fn type_line(&mut self, line: &str) {
        // What is looked for does not stand in what is typed.
        self.0.keys(format!("echo beg''in; {line}; echo e''nd=$?.\r").as_bytes());
    }

    /// Status and output of the command that was typed.
    pub fn answer(&mut self, line: &str) -> (u32, String) {
        let look = |text: &str| {
            let (_, rest) = text.split_once("begin\n")?;
            let (output, rest) = rest.split_once("end=")?;
            let (status, rest) = rest.split_once('.')?;
            rest.contains(PROMPT).then(|| (status.parse().unwrap_or(u32::MAX), output.to_owned()))
        };
        let found = self.0.wait_until(&format!("the end of `{line}`"), LONG, look);
        found.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// On Debian: sends back all that comes from a port of this host, in the background, to the end of the connection.
    pub fn send_back(&mut self, port: u16) {
        let both = format!("(cat /tmp/pipe | nc 10.0.2.2 {port} > /tmp/pipe &)");
        self.sh(&format!("rm -f /tmp/pipe; mkfifo /tmp/pipe; {both}"));
    }

    /// Types keys.
    pub fn keys(&mut self, keys: &[u8]) {
        self.0.keys(keys);
    }

    /// Waits until the console shows `pattern`; gives what it showed.
    pub fn shows(&mut self, pattern: &str) -> String {
        self.0.wait_for(pattern, LONG).unwrap_or_else(|error| panic!("{error:#}"))
    }
}

/// A kernel that does nothing but this: 32-bit code, entered by a PVH note, without a table of exceptions.
pub fn tiny_kernel(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u32 = 1 << 20;
    const HEADERS: u32 = 52 + 2 * 32;
    // No kernel is as short as this one.
    let mut code = code.to_vec();
    code.resize(1024, 0);
    let note = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), ADDRESS];
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    let mut words = vec![1, ADDRESS, 52, 0, 0, 52 | 32 << 16, 2, 0];
    // Type, offset, addresses, size in file and memory, flags, alignment: what is loaded, and the notes.
    let (size, notes) = (code.len() as u32, HEADERS + code.len() as u32);
    words.extend([1, HEADERS, ADDRESS, ADDRESS, size, size, 7, 4]);
    words.extend([4, notes, 0, 0, 20, 0, 4, 4]);
    file.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend(code);
    file.extend(note.iter().flat_map(|word| word.to_le_bytes()));
    file
}
