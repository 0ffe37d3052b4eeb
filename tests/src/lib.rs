//! Machines for the system tests: booted in the emulator, driven at the real console.
//!
//! Each test boots its own machine. A test that fails leaves the logs of its machines in `target/system-tests/<test>/`.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "here, a panic is how a test fails")]

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use xtask::bundle::{self, Entry};
use xtask::emulator::{Access, Disk, Firmware, Machine, Medium, Network, Options, Reply};
use xtask::workspace::{self, Package};
use xtask::{build, image, test};

pub mod adversary;
pub mod echo;
pub mod http;
pub mod kernel;
pub mod linux;

/// For what takes no noticeable time on an idle host; generous, because the host of a test is never idle.
pub const SOON: Duration = Duration::from_secs(30);

/// Until the prompt in Bochs: some seconds on an idle host; it is much slower than QEMU on a busy one.
pub const BOCHS_BOOT: Duration = Duration::from_secs(150);

/// Ctrl-], which leaves the console of a domain.
pub const DETACH: &[u8] = b"\x1d";

/// A machine under test. Powered down, and its logs removed unless the test fails, when dropped.
pub struct System {
    machine: Option<Machine>,
    logs: PathBuf,
}

/// What to boot.
pub struct Setup {
    options: Options,
    first_domain: String,
    entries: Vec<Entry>,
}

/// A machine with `cpus` CPUs, not yet booted.
pub fn machine(cpus: u32) -> Setup {
    let name = std::thread::current().name().unwrap_or("main").replace("::", "-");
    let mut logs = (0..).map(|number| match number {
        0 => workspace::target().join("system-tests").join(&name),
        number => workspace::target().join("system-tests").join(format!("{name}-{number}")),
    });
    // A test may boot several machines, one after the other or at once.
    let logs = logs.find(|logs| !logs.join("running").exists()).expect("the numbers do not end");
    Setup { options: Options::new(cpus, logs), first_domain: workspace::FIRST_DOMAIN.into(), entries: Vec::new() }
}

impl Setup {
    /// Words for the boot line.
    pub fn append(mut self, words: &str) -> Setup {
        self.options.append = words.into();
        self
    }

    /// Its time is that of its instructions, 8 ns each, so that what the host does besides is not seen in it. For one CPU only.
    pub fn undisturbed(mut self) -> Setup {
        self.options.icount = Some(3);
        self
    }

    /// A port of 127.0.0.1 that leads to port 80 of the machine; `xtask::emulator::free_port` gives one.
    pub fn http_port(mut self, port: u16) -> Setup {
        self.options.networks = vec![Network { http_port: Some(port) }];
        self
    }

    /// Memory, as QEMU reads it.
    pub fn memory(mut self, size: &str) -> Setup {
        self.options.memory = size.into();
        self
    }

    /// Another disk, to whose file is written; dom0 names it `virtio1`, and the next one `virtio2`.
    pub fn disk(mut self, file: PathBuf) -> Setup {
        self.options.disks.push(Disk { file, access: Access::Keep });
        self
    }

    /// Other network cards, each on a network of its own.
    pub fn more_networks(mut self, number: usize) -> Setup {
        self.options.networks.resize(1 + number, Network::default());
        self
    }

    /// Without a network card.
    pub fn no_network(mut self) -> Setup {
        self.options.networks.clear();
        self
    }

    /// Booted from the image as a USB stick carries it, by this firmware.
    pub fn from_image(mut self, firmware: Firmware) -> Setup {
        self.options.medium = Some(Medium { file: PathBuf::new(), firmware });
        self
    }

    /// At most this long until the first prompt, and for each command.
    pub fn timeout(mut self, timeout: Duration) -> Setup {
        self.options.timeout = timeout;
        self
    }

    /// Another program than dom0 as the first domain.
    pub fn first_domain(mut self, bin: &str) -> Setup {
        self.first_domain = bin.into();
        self
    }

    /// Another file in the bundle, or another contents of one that is there.
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Setup {
        self.entries.push(Entry::new(name, contents));
        self
    }

    /// The program `bin` of the test images, as `images/<bin>`.
    pub fn image(mut self, bin: &str) -> Setup {
        built();
        let entry = Entry::file(format!("images/{bin}"), &workspace::domain_elf(bin));
        self.entries.push(entry.unwrap_or_else(|error| panic!("{error:#}")));
        self
    }

    /// Boots and gives the machine at its first prompt.
    pub fn boot(self) -> System {
        let (options, logs) = self.prepare();
        finish(logs, Machine::boot(options))
    }

    /// Boots, which must fail; gives the error.
    pub fn fails_to_boot(self) -> String {
        let (options, logs) = self.prepare();
        let error = Machine::boot(options).err().map(|error| format!("{error:#}"));
        let _ = fs::remove_file(logs.join("running"));
        let error = error.unwrap_or_else(|| panic!("the machine boots; its logs are in {}", logs.display()));
        let _ = fs::remove_dir_all(&logs);
        error
    }

    /// Boots and gives the machine at once: for first domains that show no prompt.
    pub fn start(self) -> System {
        let (options, logs) = self.prepare();
        finish(logs, Machine::start(options))
    }

    fn prepare(mut self) -> (Options, PathBuf) {
        let packages = built();
        let logs = self.options.logs.clone();
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).expect("a folder for the logs");
        fs::write(logs.join("running"), "").expect("the folder for the logs");
        if !self.entries.is_empty() || self.first_domain != workspace::FIRST_DOMAIN {
            let mut entries =
                bundle::standard(packages, &self.first_domain).unwrap_or_else(|error| panic!("{error:#}"));
            entries.append(&mut self.entries);
            self.options.bundle = logs.join("bundle.tar");
            bundle::write(&self.options.bundle, &entries).unwrap_or_else(|error| panic!("{error:#}"));
        }
        if let Some(medium) = &mut self.options.medium {
            // The tests that boot what everybody boots share one image.
            static MAKING: Mutex<()> = Mutex::new(());
            let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = self.options.bundle == workspace::bundle();
            medium.file = if shared { workspace::image() } else { logs.join("bulkhead.img") };
            image::make(&medium.file, &self.options.bundle).unwrap_or_else(|error| panic!("{error:#}"));
            self.options.disks = match medium.firmware {
                // There, the medium itself is the disk.
                Firmware::Bochs => Vec::new(),
                _ => vec![Disk { file: medium.file.clone(), access: Access::Snapshot }],
            };
        }
        (self.options, logs)
    }
}

/// Everything that boots, up to date. `cargo xtask test` has done it before and says so.
pub fn built() -> &'static [Package] {
    static PACKAGES: OnceLock<Vec<Package>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let packages = match std::env::var_os(test::BUILT_VARIABLE) {
            Some(_) => workspace::packages(),
            None => build::build_with_tests(),
        };
        packages.unwrap_or_else(|error| panic!("{error:#}"))
    })
}

fn finish(logs: PathBuf, machine: Result<Machine, impl std::fmt::Display>) -> System {
    match machine {
        Ok(machine) => System { machine: Some(machine), logs },
        Err(error) => {
            let _ = fs::remove_file(logs.join("running"));
            panic!("{error:#}")
        }
    }
}

/// Whether to run at full length (`cargo xtask test --full`).
pub fn full() -> bool {
    std::env::var_os(test::FULL_VARIABLE).is_some()
}

impl System {
    /// Types a command; gives what happened.
    pub fn run(&mut self, line: &str) -> Reply {
        self.command(line).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Types a command that must succeed; gives what it printed.
    pub fn ok(&mut self, line: &str) -> String {
        let reply = self.run(line);
        assert_eq!(reply.status, 0, "`{line}` failed:\n{}", reply.text);
        reply.text
    }

    /// Types a command that must fail with this status; gives what it printed.
    pub fn fails(&mut self, line: &str, status: u32) -> String {
        let reply = self.run(line);
        assert_eq!(reply.status, status, "`{line}` said:\n{}", reply.text);
        reply.text
    }

    /// Types a command with `--json` that must succeed; gives what it printed: one JSON value on a line of its own, before or
    /// after which dom0 may tell what happened by itself.
    pub fn json(&mut self, line: &str) -> Value {
        let text = self.ok(&format!("{line} --json"));
        let mut values = text.lines().filter(|line| line.starts_with(['[', '{'])).map(serde_json::from_str);
        match (values.next(), values.next()) {
            (Some(Ok(value)), None) => value,
            _ => panic!("`{line} --json` does not print one value:\n{text}"),
        }
    }

    /// Asks again until `done`, for what the machine does in its own time.
    pub fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut System) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "{what} did not come within {SOON:?}\n{}", self.transcript());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the console shows `pattern` after what was dealt with; gives the text up to its end.
    pub fn shows(&mut self, pattern: &str) -> String {
        self.wait_for(pattern, SOON).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Types keys; gives what the console shows then, up to the next prompt.
    pub fn type_keys(&mut self, keys: &[u8]) -> Reply {
        self.keys(keys);
        self.wait_prompt(SOON).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Shows the console of a domain until it has shown `pattern`; gives what it showed.
    pub fn visit(&mut self, command: &str, pattern: &str) -> String {
        self.visit_within(command, pattern, SOON)
    }

    /// The same, for a domain that takes its time.
    pub fn visit_within(&mut self, command: &str, pattern: &str, time: Duration) -> String {
        self.type_line(command).unwrap_or_else(|error| panic!("{error:#}"));
        let shown = self.wait_for(pattern, time).unwrap_or_else(|error| panic!("{error:#}"));
        self.type_keys(DETACH);
        shown
    }

    /// Types keys.
    pub fn keys(&mut self, keys: &[u8]) {
        self.send(keys).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

impl Deref for System {
    type Target = Machine;
    fn deref(&self) -> &Machine {
        self.machine.as_ref().expect("the machine is there until the drop")
    }
}

impl DerefMut for System {
    fn deref_mut(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("the machine is there until the drop")
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.machine = None;
        let _ = fs::remove_file(self.logs.join("running"));
        if std::thread::panicking() {
            eprintln!("logs of the machine are in {}", self.logs.display());
        } else {
            let _ = fs::remove_dir_all(&self.logs);
        }
    }
}
