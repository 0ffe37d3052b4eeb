//! Bochs, the other emulator: a second opinion on processors (VMX, x2APIC) and on firmware.
//!
//! It boots a medium as an ATA disk, and has a network card of Intel's on a network like that of the other emulator. Its serial
//! port is a connection to a socket of ours. It has no IOMMU, and no way to tell the boot menu so: a key does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::launch::{Launched, supervised};
use super::network::mac;
use super::{Network, Options};
use crate::process;
use crate::system::{BOCHS, BOCHS_BIOS, BOCHS_VGA, Tool};

/// What it needs of the system.
pub const TOOLS: [Tool; 3] = [BOCHS, BOCHS_BIOS, BOCHS_VGA];
/// The file that says how its network is.
const NETWORK_FILE: &str = "slirp.conf";
/// A processor with VMX, EPT and x2APIC.
const CPU: &str = "corei7_skylake_x";
/// Instructions that make up a second of the machine's time. Few, so that the seconds of the boot menu pass fast.
const INSTRUCTIONS_PER_SECOND: u32 = 10_000_000;
/// What it says when the machine has switched itself off.
const POWER_OFF: &str = "ACPI control: soft power off";
/// Time from its start until it has connected the serial port; it loads its plugins before.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// The entry of the boot menu for a machine without an IOMMU, as the menu shows it.
const MENU_ENTRY: &[u8] = b"without an IOMMU";
/// What chooses it: the entry after the first.
const CHOICE: &[u8] = b"\x0e\r";
/// How often the connection is looked for.
const POLL: Duration = Duration::from_millis(10);

/// Starts it on `medium`.
pub fn start(options: &Options, medium: &Path) -> Result<Launched> {
    let program =
        process::find(BOCHS.program).context("bochs-bin not found (run `cargo xtask run --image --bochs` once)")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of 127.0.0.1 is free")?;
    let configuration = options.logs.join("bochsrc");
    fs::write(&configuration, self::configuration(options, medium, listener.local_addr()?.port())?)?;
    if let Some(network) = options.networks.first() {
        fs::write(options.logs.join(NETWORK_FILE), self::network(network))?;
    }
    let mut command = supervised(program);
    command.args(["-q", "-f"]).arg(&configuration).stdin(Stdio::piped());
    command.stdout(File::create(options.logs.join("bochs.out"))?);
    command.stderr(File::create(options.logs.join("emulator.log"))?);
    let mut child = command.spawn().context("cannot start Bochs")?;
    let connected = go(&mut child).and_then(|()| accept(&listener, &mut child));
    match connected.and_then(|serial| Ok((serial.try_clone()?, serial))) {
        // A card can do nothing where DMA is refused.
        Ok((input, serial)) if !options.networks.is_empty() => {
            Ok(Launched { child, input: Box::new(input), output: Box::new(Chooser::new(serial)) })
        }
        Ok((input, output)) => Ok(Launched { child, input: Box::new(input), output: Box::new(output) }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.context(format!("logs are in {}", options.logs.display())))
        }
    }
}

/// Tells its debugger, which is always there, to let the machine run.
fn go(child: &mut Child) -> Result<()> {
    child.stdin.take().context("Bochs has no input")?.write_all(b"c\n").context("Bochs does not read its input")
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + CONNECT_TIME;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error).context("the serial port"),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            bail!("Bochs ended at once ({status})");
        }
        if Instant::now() >= deadline {
            bail!("Bochs has not connected its serial port within {CONNECT_TIME:?}");
        }
        std::thread::sleep(POLL);
    }
}

/// What the machine says on its serial port. Presses a key when the boot menu is shown.
struct Chooser<S> {
    serial: S,
    /// The end of what was said, in which the menu may be.
    shown: Vec<u8>,
    chosen: bool,
}

impl<S: Read + Write> Read for Chooser<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.serial.read(buffer)?;
        if !self.chosen {
            self.shown.extend_from_slice(&buffer[..count]);
            self.chosen = self.shown.windows(MENU_ENTRY.len()).any(|bytes| bytes == MENU_ENTRY);
            if self.chosen {
                self.serial.write_all(CHOICE)?;
            }
            self.shown.drain(..self.shown.len().saturating_sub(MENU_ENTRY.len()));
        }
        Ok(count)
    }
}

impl<S> Chooser<S> {
    const fn new(serial: S) -> Chooser<S> {
        Chooser { serial, shown: Vec::new(), chosen: false }
    }
}

/// What says how its network is: as that of the other emulator.
fn network(network: &Network) -> String {
    let forward = |port| format!("hostfwd = tcp:127.0.0.1:{port}-10.0.2.15:80\n");
    // The first line is what it knows the file by.
    format!("# slirp config\n{}", network.http_port.map(forward).unwrap_or_default())
}

fn configuration(options: &Options, medium: &Path, port: u16) -> Result<String> {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments| writeln!(text, "{words}");
    line(format_args!("megs: {}", megabytes(&options.memory)?))?;
    line(format_args!("cpu: model={CPU}, count={}:1:1, ips={INSTRUCTIONS_PER_SECOND}", options.cpus))?;
    line(format_args!("cpu: reset_on_triple_fault=0"))?;
    line(format_args!("clock: sync=none"))?;
    line(format_args!("romimage: file={}", BOCHS_BIOS.program))?;
    // The card that Bochs brings along makes GRUB fault.
    line(format_args!("vgaromimage: file={}", BOCHS_VGA.program))?;
    // The only display of the package itself; nobody needs to connect to it.
    line(format_args!("display_library: rfb, options=\"timeout=0\""))?;
    line(format_args!("ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14"))?;
    // What is written is gone at the end.
    line(format_args!("ata0-master: type=disk, mode=volatile, path=\"{}\", cylinders=0", medium.display()))?;
    line(format_args!("boot: disk"))?;
    line(format_args!("pci: enabled=1, chipset=i440fx"))?;
    if !options.networks.is_empty() {
        let script = options.logs.join(NETWORK_FILE);
        line(format_args!("e1000: enabled=1, mac={}, ethmod=slirp, script=\"{}\"", mac(0), script.display()))?;
    }
    line(format_args!("com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}"))?;
    // It would look for a sound card of the host.
    line(format_args!("sound: waveoutdrv=dummy"))?;
    line(format_args!("log: {}", options.logs.join("bochs.log").display()))?;
    line(format_args!("panic: action=fatal"))?;
    Ok(text)
}

/// Memory as QEMU reads it (`512M`, `2G`, `512`), in MiB.
fn megabytes(memory: &str) -> Result<u32> {
    let (number, factor) = match memory.char_indices().next_back() {
        Some((end, 'G' | 'g')) => (&memory[..end], 1024),
        Some((end, 'M' | 'm')) => (&memory[..end], 1),
        _ => (memory, 1),
    };
    let number: u32 = number.parse().with_context(|| format!("{memory} is no amount of memory for Bochs"))?;
    number.checked_mul(factor).with_context(|| format!("{memory} is too much memory for Bochs"))
}

/// Whether the machine has switched itself off.
pub fn powered_off(logs: &Path) -> bool {
    fs::read_to_string(logs.join("bochs.log")).is_ok_and(|log| log.contains(POWER_OFF))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn memory_is_read_as_the_other_emulator_reads_it() {
        assert_eq!(["512M", "2G", "300"].map(|memory| megabytes(memory).unwrap()), [512, 2048, 300]);
        assert!(megabytes("lots").is_err() && megabytes("").is_err() && megabytes("5000000G").is_err());
    }

    #[test]
    fn the_configuration_names_the_medium_and_the_serial_port() {
        let options = Options::new(3, "/tmp/x".into());
        let text = configuration(&options, Path::new("/tmp/y.img"), 4321).unwrap();
        for part in ["path=\"/tmp/y.img\"", "dev=127.0.0.1:4321", "count=3:1:1", "megs: 512\n", "/tmp/x/slirp.conf"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        let text = configuration(&Options { networks: Vec::new(), ..options }, Path::new("/tmp/y.img"), 4321).unwrap();
        assert!(!text.contains("e1000"), "{text}");
    }

    #[test]
    fn the_network_leads_to_the_web_server_if_a_port_does() {
        assert_eq!(network(&Network::default()), "# slirp config\n");
        let text = network(&Network { http_port: Some(8080) });
        assert!(text.ends_with("\nhostfwd = tcp:127.0.0.1:8080-10.0.2.15:80\n"), "{text}");
    }

    /// A serial port that says a few bytes at a time.
    struct Serial {
        says: VecDeque<u8>,
        heard: Vec<u8>,
    }

    impl Read for Serial {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(5);
            self.says.read(&mut buffer[..count])
        }
    }

    impl Write for Serial {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.heard.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_boot_menu_is_answered_once_and_nothing_else_is() {
        for (says, heard) in
            [("Bulkhead, without", 0), ("*Bulkhead\n Bulkhead, without an IOMMU (x) without an IOMMU", 1)]
        {
            let serial = Serial { says: says.bytes().collect(), heard: Vec::new() };
            let mut chooser = Chooser::new(serial);
            let mut text = String::new();
            chooser.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), chooser.serial.heard), (says, CHOICE.repeat(heard)));
        }
    }
}
