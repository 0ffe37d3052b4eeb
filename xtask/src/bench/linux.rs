//! What a Linux guest pays: from its creation to its first program, for its disk, for its network, against the same kernel, RAM disk
//! and memory on a machine of its own in the same emulator; the instructions of an exit; and the memory beside its own.
//!
//! Both machines have one CPU, and both see the same disk image through a virtio disk of the emulator. The times are the host's,
//! so only their ratio means something: the median of some rounds on either side.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::PATIENCE;
use super::drivers::Figure;
use crate::bundle::{self, Entry};
use crate::emulator::{Exit, Kernel, Machine, Options};
use crate::guest::Kind;
use crate::workspace::{self, Package};

/// Runs of each load, of which the median counts.
const ROUNDS: usize = 3;
/// Bytes that each moves.
const LOAD: u64 = 32 << 20;
/// Bytes of the commands that move them.
const BLOCK: u64 = 64 << 10;
/// The guest's memory in MiB, on either side.
const MEMORY: u64 = 192;
/// Words of the kernel on either side but for its devices.
const WORDS: &str = "ip=10.0.2.20 gw=10.0.2.2";
/// What the first program says.
const UP: &str = "busybox guest is up";
/// The prompt of its shell.
const PROMPT: &str = "/ # ";
/// Most instructions from one exit to the next, with what the monitor does in between.
const EXIT_MOST: f64 = 1200.0;
/// Exits that are averaged over.
const EXITS: u32 = 1000;
/// Most memory beside the guest's own, in KiB.
const BESIDE_MOST: f64 = 1024.0;

/// Times on one side.
struct Times {
    start: f64,
    loads: Vec<f64>,
}

/// What is run in the guest, with the name of its disk in place of `DISK`, and ports of the host in place of `SOURCE` and `SINK`.
const LOADS: [(&str, &str); 4] = [
    ("reading a disk", "echo 3 > /proc/sys/vm/drop_caches; dd if=DISK of=/dev/null bs=64k count=COUNT"),
    ("writing a disk", "dd if=/dev/zero of=DISK bs=64k count=COUNT conv=fsync"),
    ("receiving by TCP", "nc 10.0.2.2 SOURCE < /dev/null > /dev/null"),
    ("sending by TCP", "dd if=/dev/zero bs=64k count=COUNT | nc 10.0.2.2 SINK > /dev/null"),
];

/// Measures all of it.
pub fn measure(packages: &[Package], logs: &Path) -> Result<Vec<Figure>> {
    let host = Host::start()?;
    let files = Kind::Busybox.prepare()?;
    let mut figures = vec![exits(packages, logs)?];
    let (guest, beside) = guest(packages, logs, &host).context("as a guest")?;
    let kernel = Kernel {
        image: files.kernel,
        ramdisk: files.ramdisk,
        line: format!("console=ttyS0 devices=virtio {WORDS} panic=-1"),
    };
    let alone = alone(kernel, logs, &host).context("on a machine of its own")?;
    figures.push(Figure::new("from create to a Linux guest's first program", guest.start * 1e3, "ms", None));
    let name = "the same, against a machine of its own from its start";
    figures.push(Figure::new(name, guest.start / alone.start, "ratio", None));
    for (((name, _), guest), alone) in LOADS.iter().zip(guest.loads).zip(alone.loads) {
        let name = format!("throughput in a Linux guest, {name}, against virtio");
        figures.push(Figure::new(name, alone / guest, "ratio", None));
    }
    figures.push(Figure::new("memory beside a Linux guest's own", beside, "KiB", Some(BESIDE_MOST)));
    Ok(figures)
}

/// Instructions from one exit to the next, CPUID: the core's, and those of a monitor that does what it has to.
fn exits(packages: &[Package], logs: &Path) -> Result<Figure> {
    let mut entries = bundle::standard(packages, "machines")?;
    entries.push(Entry::file("images/machine", &workspace::domain_elf("machine"))?);
    let mut options = Options::new(1, logs.to_path_buf());
    options.bundle = logs.join("machines.tar");
    (options.icount, options.append) = (Some(0), format!("exits={EXITS}"));
    bundle::write(&options.bundle, &entries)?;
    let mut machine = Machine::start(options)?;
    let (exit, log) = (machine.wait_exit(PATIENCE)?, machine.debug_log());
    let told = log.split("ticks an exit: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse::<f64>().ok());
    match (exit, told) {
        (Exit::PowerOff(0), Some(instructions)) => {
            Ok(Figure::new("from one exit of a guest to the next", instructions, "instructions", Some(EXIT_MOST)))
        }
        _ => bail!("exits were not measured ({exit:?}):\n{log}"),
    }
}

/// The free memory of the machine.
#[derive(Deserialize)]
struct Info {
    free_memory_bytes: u64,
}

/// The times of a guest, and the KiB beside its own memory.
fn guest(packages: &[Package], logs: &Path, host: &Host) -> Result<(Times, f64)> {
    let mut entries = bundle::standard(packages, workspace::FIRST_DOMAIN)?;
    Kind::Busybox.bundle(&mut entries, 0)?;
    // It is created when its time is taken.
    for entry in &mut entries {
        entry.name = entry.name.replace("auto/busybox", "config/busybox");
    }
    let mut options = Options::new(1, logs.to_path_buf());
    (options.timeout, options.bundle, options.memory) = (PATIENCE, logs.join("bundle.tar"), "1024M".into());
    bundle::write(&options.bundle, &entries)?;
    let mut machine = Machine::boot(options)?;
    machine.succeed("destroy web")?;
    let free = |machine: &mut Machine| anyhow::Ok(machine.query::<Info>("info --json")?.free_memory_bytes);
    let before = free(&mut machine)?;
    let begun = Instant::now();
    machine.succeed(&format!("create busybox memory={MEMORY} 'extra=\"console=hvc0 {WORDS}\"'"))?;
    let taken = before.saturating_sub(free(&mut machine)?);
    let beside = (taken as f64 - (MEMORY << 20) as f64) / 1024.0;
    machine.type_line("console busybox")?;
    machine.wait_for(UP, PATIENCE)?;
    let start = begun.elapsed().as_secs_f64();
    machine.wait_for(PROMPT, PATIENCE)?;
    Ok((Times { start, loads: loads(&mut machine, "/dev/xvda", host)? }, beside))
}

/// The times of the kernel on a machine of its own.
fn alone(kernel: Kernel, logs: &Path, host: &Host) -> Result<Times> {
    let mut options = Options::new(1, logs.to_path_buf());
    (options.kernel, options.memory) = (Some(kernel), format!("{MEMORY}M"));
    let begun = Instant::now();
    let mut machine = Machine::start(options)?;
    machine.wait_for(UP, PATIENCE)?;
    let start = begun.elapsed().as_secs_f64();
    machine.wait_for(PROMPT, PATIENCE)?;
    // The partition that is the guest's disk.
    Ok(Times { start, loads: loads(&mut machine, "/dev/vda2", host)? })
}

/// Seconds that each load takes.
fn loads(machine: &mut Machine, disk: &str, host: &Host) -> Result<Vec<f64>> {
    let once = |machine: &mut Machine, command: &str| {
        let begun = Instant::now();
        machine.send(format!("{command}; echo status=$?\r").as_bytes())?;
        let text = machine.wait_until("its end", PATIENCE, |text| {
            let (said, rest) = text.rsplit_once("status=")?;
            let whole = rest.contains(PROMPT) && !rest.starts_with('$');
            whole.then(|| format!("{said}status={rest}"))
        })?;
        if !text.contains("status=0") {
            bail!("`{command}` failed: {text}");
        }
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    let mut times = Vec::new();
    for (_, command) in LOADS {
        let command = command
            .replace("DISK", disk)
            .replace("COUNT", &(LOAD / BLOCK).to_string())
            .replace("SOURCE", &host.source.to_string())
            .replace("SINK", &host.sink.to_string());
        let mut rounds = (0..ROUNDS).map(|_| once(machine, &command)).collect::<Result<Vec<f64>>>()?;
        rounds.sort_by(f64::total_cmp);
        times.push(rounds.get(ROUNDS / 2).copied().ok_or_else(|| anyhow!("no rounds"))?);
    }
    Ok(times)
}

/// Servers on the host, each with a port of its own; they end with the program.
struct Host {
    /// Who connects gets so many bytes.
    source: u16,
    /// What comes is taken.
    sink: u16,
}

impl Host {
    fn start() -> Result<Host> {
        let block = [0x5a; BLOCK as usize];
        let source = serve(move |mut stream| {
            // A guest that is gone is noticed elsewhere.
            let _ = (0..LOAD / BLOCK).try_for_each(|_| stream.write_all(&block));
            let _ = stream.shutdown(Shutdown::Write);
        })?;
        let sink = serve(|mut stream| {
            let mut taken = vec![0; BLOCK as usize];
            while stream.read(&mut taken).is_ok_and(|count| count > 0) {}
        })?;
        Ok(Host { source, sink })
    }
}

/// Serves connections one after the other; gives the port.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for a server on the host")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
            each(stream);
        }
    });
    Ok(port)
}
