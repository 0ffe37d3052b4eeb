//! The commands that look: lists, the machine, the log, help.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::device::NO_OWNER;
use serde::Serialize;

use super::wait::{Top, Waiting};
use super::{Context, Flow, Outcome};
use crate::config::keys::{KEYS, Meaning};
use crate::config::{pci, shown};
use crate::hypervisor::Hypervisor;
use crate::plane::pci::class;
use crate::shell::args::{Args, Fault, usage};
use crate::shell::commands::{self, COMMANDS};
use crate::shell::table::Table;
use crate::shell::view::{self, mib, seconds};

/// Bytes of the log that are read by one call.
const LOG_PART: usize = 4096;
/// Most of the log that is read, in bytes: the ring of the core is smaller, so this only bounds a log that grows meanwhile.
const LOG_MAX: usize = 256 * 1024;
/// Default time over which `top` looks, in ns.
const TOP_NS: u64 = 1_000_000_000;

pub fn list<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    let ids = context.find_all(&args.words)?;
    let views = view::domains(context.plane, context.samples, &ids)?;
    if args.flag("json") {
        return context.json(&views);
    }
    if args.flag("long") {
        for (index, view) in views.iter().enumerate() {
            if index > 0 {
                context.say("");
            }
            fields(context, view)?;
        }
        return Ok(Flow::Done);
    }
    let mut table = Table::new(&[
        "Name",
        ">ID",
        ">Mem",
        ">VCPUs",
        "State",
        ">Time(s)",
        ">CPU(%)",
        ">Restarts",
        ">Blackout(ms)",
        "Last end",
    ]);
    for view in views {
        let blackout = view.blackout_ns.map(|ns| format!("{}.{}", ns / 1_000_000, ns / 100_000 % 10));
        table.row([
            view.name,
            view.id.to_string(),
            mib(view.memory_bytes),
            view.vcpus_used.to_string(),
            view.state,
            seconds(view.cpu_ns),
            format!("{:.1}", view.cpu_percent),
            view.restarts.to_string(),
            blackout.unwrap_or_else(|| "-".to_owned()),
            view.last_end.unwrap_or_default(),
        ]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

/// Fields that stand before all others in a long list.
const FIRST: [&str; 4] = ["name", "id", "state", "status"];

/// Prints every field of a record in a line of its own, as `xl info` does.
fn fields<H: Hypervisor>(context: &mut Context<'_, '_, H>, record: &impl Serialize) -> Outcome {
    let value = serde_json::to_value(record).map_err(|error| Fault::from(format!("cannot print this: {error}")))?;
    // What identifies the record comes first, the rest by name.
    let mut fields: Vec<_> = value.as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    for (name, value) in fields {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::Array(values) => {
                let texts =
                    values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned));
                texts.collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        context.say(&format!("{name:<22} : {text}"));
    }
    Ok(Flow::Done)
}

pub fn info<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=0)?;
    let view = view::machine(context.plane)?;
    if args.flag("json") {
        return context.json(&view);
    }
    for (name, text) in [
        ("version", format!("bulkhead {}, interface {}", view.version, view.interface)),
        ("cpu_model", view.cpu_model),
        ("nr_cpus", view.cpus.to_string()),
        ("cpu_mhz", format!("{:.1}", view.cpu_mhz)),
        ("features", view.features.join(" ")),
        ("virtual_machines", view.virtual_machines),
        ("iommu", view.iommu),
        ("total_memory", format!("{} MiB", mib(view.total_memory_bytes))),
        ("free_memory", format!("{} MiB", mib(view.free_memory_bytes))),
        ("reserved_memory", format!("{} MiB", mib(view.reserved_memory_bytes))),
        ("domains", view.domains.to_string()),
        ("handles", view.handles.to_string()),
        ("ports", view.ports.to_string()),
        ("mappings", view.mappings.to_string()),
        ("uptime", format!("{} s", seconds(view.uptime_ns))),
    ] {
        context.say(&format!("{name:<22} : {text}"));
    }
    Ok(Flow::Done)
}

pub fn vcpu_list<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    let mut views = Vec::new();
    for id in context.find_all(&args.words)? {
        views.extend(view::vcpus(context.plane, id)?);
    }
    if args.flag("json") {
        return context.json(&views);
    }
    let mut table = Table::new(&["Name", ">ID", ">VCPU", ">CPU", "State", ">Time(s)", "Affinity"]);
    for view in views {
        table.row([
            view.name,
            view.id.to_string(),
            view.vcpu.to_string(),
            view.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
            view.state,
            seconds(view.cpu_ns),
            view.affinity,
        ]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

pub fn top<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=0)?;
    let count = args.number("count", 1..=100_000)?.unwrap_or(1);
    let interval_ns = args.seconds("interval", TOP_NS)?;
    Ok(Flow::Wait(Waiting::Top(Top::begin(context, count, interval_ns, args.flag("json"))?)))
}

pub fn uptime<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    #[derive(Serialize)]
    struct Uptime {
        name: String,
        id: u16,
        uptime_ns: u64,
    }
    let ids = context.find_all(&args.words)?;
    let views = view::domains(context.plane, context.samples, &ids)?;
    let uptimes = views.into_iter().map(|view| Uptime { name: view.name, id: view.id, uptime_ns: view.uptime_ns });
    let uptimes: Vec<Uptime> = uptimes.collect();
    if args.flag("json") {
        return context.json(&uptimes);
    }
    let mut table = Table::new(&["Name", ">ID", ">Uptime"]);
    for uptime in uptimes {
        let whole = uptime.uptime_ns / 1_000_000_000;
        let (days, hours, minutes, seconds) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
        let days = if days == 0 { String::new() } else { format!("{days} days, ") };
        table.row([uptime.name, uptime.id.to_string(), format!("{days}{hours}:{minutes:02}:{seconds:02}")]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

pub fn dmesg<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=0)?;
    let wanted = args.number("lines", 1..=1_000_000)?.map_or(usize::MAX, |lines| lines as usize);
    let (mut bytes, mut position, mut part) = (Vec::new(), 0, alloc::vec![0; LOG_PART]);
    while bytes.len() < LOG_MAX {
        let read = context.plane.hypervisor.log_read(position, &mut part);
        let (after, count) = read.map_err(|error| Fault::from(format!("dmesg: the core says: {error}")))?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
        position = after;
    }
    let text: String =
        String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() && c != '\n' { '.' } else { c }).collect();
    let lines: Vec<&str> = text.lines().collect();
    let lines = lines.get(lines.len().saturating_sub(wanted)..).unwrap_or_default();
    if args.flag("json") {
        return context.json(&lines);
    }
    for line in lines {
        context.say(line);
    }
    Ok(Flow::Done)
}

pub fn pci_list<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    #[derive(Serialize)]
    struct PciView {
        address: String,
        vendor: u16,
        device: u16,
        class: String,
        interrupts: u16,
        domain: Option<String>,
        open: bool,
    }
    args.expect(0..=0)?;
    let found =
        context.plane.pci_devices().map_err(|error| Fault::from(format!("pci-list: the core says: {error}")))?;
    let views: Vec<PciView> = found
        .iter()
        .map(|info| PciView {
            address: pci::address(info.address),
            vendor: info.vendor,
            device: info.device,
            class: class(info),
            interrupts: info.interrupts,
            domain: context.plane.pci_holder(info.address).map(ToOwned::to_owned),
            open: info.owner != NO_OWNER,
        })
        .collect();
    if args.flag("json") {
        return context.json(&views);
    }
    let mut table = Table::new(&["Address", "Kind", "Class", ">MSI", "Domain"]);
    for view in views {
        table.row([
            view.address,
            format!("{:04x}:{:04x}", view.vendor, view.device),
            view.class,
            view.interrupts.to_string(),
            view.domain.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

pub fn help<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=1)?;
    match args.words.first().map(String::as_str) {
        None => {
            for command in COMMANDS {
                context.say(&format!("{:<10} {}", command.name, command.text));
            }
            context.say(
                "Several commands: `list; info`. More on one: `help create`. Keys of a configuration: `help config`.",
            );
        }
        Some("config") => {
            for key in KEYS.iter().filter(|key| key.meaning != Meaning::None) {
                let whom = if key.meaning == Meaning::Linux { " (Linux)" } else { "" };
                context.say(&format!("{:<12} {}{whom}", key.name, key.text));
            }
        }
        Some(name) => {
            let command = commands::find(name).ok_or_else(|| {
                let meant = commands::meant(name).unwrap_or("help");
                Fault::usage(args.command, format!("there is no command {}, did you mean {meant}?", shown(name)))
            })?;
            context.say(&format!("usage: {}\n{}", usage(command), command.text));
            for option in command.options {
                context.say(&format!("  --{:<20} {}", format!("{} {}", option.long, option.value), option.text));
            }
        }
    }
    Ok(Flow::Done)
}
