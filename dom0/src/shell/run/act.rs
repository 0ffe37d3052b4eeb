//! The commands that do something.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::control::ToDomain;
use protocol::domain::{ALL_VCPUS, CLASS_DRIVER, CLASS_GUEST, SchedParams, WEIGHTS};
use protocol::error::Error;
use protocol::handle::Handle;
use serde::Serialize;

use super::wait::{Ending, Memory, Power, Waiting};
use super::{Context, Flow, Outcome};
use crate::builder;
use crate::config::{Guest, cpus, shown, size, suggest};
use crate::guest;
use crate::hypervisor::Hypervisor;
use crate::plane::{DOM0_ID, restart};
use crate::shell::args::{Args, Fault};
use crate::shell::table::Table;
use crate::shell::view;

/// Default time to wait for a domain, in ns.
pub const PATIENCE_NS: u64 = 10_000_000_000;
/// Default time to wait for a Linux guest to give memory or CPUs back or to take them, or to be scrubbed, in ns: these are gigabytes,
/// and its monitor says when it has stopped moving them.
const GUEST_NS: u64 = 60_000_000_000;
/// Time a destroyed domain has to be gone, in ns; the core does it alone, so only very large ones need any.
const DESTROY_NS: u64 = 10_000_000_000;

/// What was done to a domain, for JSON.
#[derive(Serialize)]
struct Done<'n> {
    name: &'n str,
    id: u16,
    ns: u64,
}

/// Makes a domain. What is still being taken apart may have the memory, or the devices, for it: if it cannot be made, that comes first.
pub fn create<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    let deadline = context.plane.hypervisor.clock() + DESTROY_NS;
    create_before(context, args, deadline)
}

/// The same, but what cannot be made then is an error.
pub fn create_before<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, deadline: u64) -> Outcome {
    let Some((file, overrides)) = args.words.split_first() else {
        return args.expect(1..=1).map(|()| Flow::Done);
    };
    let (path, text) = configuration(context, file)?;
    let created = context.plane.create(&path, text, overrides, args.flag("paused"));
    if created.is_err() && !context.plane.all_reaped() && context.plane.hypervisor.clock() < deadline {
        return Ok(Flow::Wait(Waiting::Room { create: args.clone(), deadline }));
    }
    let warnings = created.as_ref().map_or_else(|failure| &failure.warnings, |created| &created.warnings);
    for warning in warnings.clone() {
        context.say(&format!("warning: {warning}"));
    }
    let created = created.map_err(|failure| Fault::from(failure.lines.join("\n")))?;
    if args.flag("json") {
        context.json(&Done { name: &created.name, id: created.id, ns: created.took_ns })?;
    } else {
        context.say(&format!("{}: created, id {}, {}", created.name, created.id, duration(created.took_ns)));
    }
    if args.flag("console") {
        context.plane.focus(created.id)?;
        return Ok(Flow::Wait(Waiting::Terminal { domain: created.id }));
    }
    Ok(Flow::Done)
}

/// Path and text of a configuration in the bundle; `/dev/null` is an empty one, as with xl.
fn configuration<'b, H: Hypervisor>(context: &Context<'_, 'b, H>, name: &str) -> Result<(String, &'b str), Fault> {
    if name == "/dev/null" {
        return Ok((String::new(), ""));
    }
    let stem = name.trim_end_matches(".toml");
    let bundle = &context.plane.bundle;
    for path in [format!("config/{stem}.toml"), format!("auto/{stem}.toml"), format!("{stem}.toml")] {
        if let Some(bytes) = bundle.file(&path) {
            let text = core::str::from_utf8(bytes).map_err(|_| Fault::from(format!("{path}: is no text")))?;
            return Ok((path, text));
        }
    }
    let mut known = bundle.names("config", ".toml");
    known.extend(bundle.names("auto", ".toml"));
    let cure = match suggest::nearest(stem, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("choose among {}", known.join(" ")),
    };
    Err(Fault::from(format!("{}: there is no such configuration in the bundle; {cure}", shown(name))))
}

pub fn destroy<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(1..=usize::MAX)?;
    for id in context.find_all(&args.words)? {
        let name = name_of(context, id);
        let begin = context.plane.hypervisor.clock();
        context.plane.destroy(id)?;
        let ns = context.plane.hypervisor.clock().saturating_sub(begin);
        if args.flag("json") {
            context.json(&Done { name: &name, id, ns })?;
        }
    }
    let deadline = context.plane.hypervisor.clock() + DESTROY_NS;
    Ok(if context.plane.all_reaped() { Flow::Done } else { Flow::Wait(Waiting::Reaped { deadline }) })
}

/// `shutdown` and `reboot`.
pub fn end<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, again: bool) -> Outcome {
    let timeout_ns = args.seconds("timeout", PATIENCE_NS)?;
    let ids: Vec<u16> = if args.flag("all") {
        args.expect(0..=0)?;
        let others = context.plane.domains().iter().map(|domain| domain.id);
        others.filter(|&id| !context.plane.is_console(id)).collect()
    } else {
        args.expect(1..=usize::MAX)?;
        context.find_all(&args.words)?
    };
    let mut endings = Vec::new();
    for id in ids {
        let name = name_of(context, id);
        let handle = handle_of(context, id)?;
        let paused = context.plane.hypervisor.domain_info(handle).is_ok_and(|info| info.pauses > 0);
        if paused {
            return Err(Fault::from(format!("{name}: it is paused and cannot listen: `unpause {name}` first")));
        }
        let started_ns = context.plane.domain(id).map_or(0, |domain| domain.started_ns);
        let message = if again { ToDomain::Reboot } else { ToDomain::Shutdown };
        let request = context.plane.request(id, message)?;
        endings.push(Ending { name, request, started_ns, again });
    }
    if args.flag("no-wait") || endings.is_empty() {
        return Ok(Flow::Done);
    }
    let deadline = context.plane.hypervisor.clock().saturating_add(timeout_ns);
    Ok(Flow::Wait(Waiting::Ended { endings, deadline }))
}

pub fn pause<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, pause: bool) -> Outcome {
    args.expect(1..=usize::MAX)?;
    for id in context.find_all(&args.words)? {
        if pause { context.plane.pause(id)? } else { context.plane.unpause(id)? }
    }
    Ok(Flow::Done)
}

pub fn restart<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(1..=1)?;
    for id in context.find_all(&args.words)? {
        let name = name_of(context, id);
        let (json, begin) = (args.flag("json"), context.plane.hypervisor.clock());
        let Some(ns) = context.plane.restart(id)? else {
            let deadline = begin.saturating_add(GUEST_NS);
            return Ok(Flow::Wait(Waiting::Restarted { domain: id, name, begin, json, deadline }));
        };
        restarted(context, &name, id, ns, json)?;
    }
    Ok(Flow::Done)
}

/// Says that a domain was restarted.
pub fn restarted<H: Hypervisor>(
    context: &mut Context<'_, '_, H>,
    name: &str,
    id: u16,
    ns: u64,
    json: bool,
) -> Result<(), Fault> {
    if json {
        return context.json(&Done { name, id, ns }).map(|_: Flow| ());
    }
    context.say(&restart::restarted(name, ns));
    Ok(())
}

pub fn console<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(1..=1)?;
    let id = context.find(args.words.first().map_or("", String::as_str))?;
    if id == DOM0_ID || context.plane.is_console(id) {
        return Err(Fault::from(format!("{}: this is its console", name_of(context, id))));
    }
    context.plane.focus(id)?;
    Ok(Flow::Wait(Waiting::Terminal { domain: id }))
}

/// The domain and the size that `mem-set` and `mem-max` name.
fn memory_words<H: Hypervisor>(context: &Context<'_, '_, H>, args: &Args) -> Result<(u16, String, u64), Fault> {
    args.expect(2..=2)?;
    let [name, size] = args.words.as_slice() else { return Err(Fault::usage(args.command, String::new())) };
    let id = context.find(name)?;
    let wrong = || format!("`{}` is no size: write MiB, or 64K 36M 1.5G", shown(size));
    let pages = size::pages(size).map_err(|_| Fault::usage(args.command, wrong()))?;
    // A Linux guest's memory is what it sees; what its monitor needs comes on top.
    let beside = context.plane.domain(id).map_or(0, |domain| guest::beside(&domain.config));
    Ok((id, name_of(context, id), pages + beside))
}

pub fn mem_set<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    let (id, name, pages) = memory_words(context, args)?;
    let timeout_ns = args.seconds("timeout", if is_linux(context, id) { GUEST_NS } else { PATIENCE_NS })?;
    let handle = handle_of(context, id)?;
    let info = context.plane.hypervisor.domain_info(handle).map_err(|error| refused(&name, error))?;
    if let Some(most) = most(context, id).filter(|&most| pages > most) {
        let most = size::mib(most);
        return Err(Fault::from(format!(
            "{name}: no more than its `maxmem` at the start, {most}, can be used by a Linux guest"
        )));
    }
    if pages > info.max_pages {
        let max = size::mib(info.max_pages);
        return Err(Fault::from(format!(
            "{name}: {} is above its maximum, {max}: raise it with mem-max",
            size::mib(pages)
        )));
    }
    // A Linux guest may not have touched yet what it counts on: it is asked first.
    let set = match is_linux(context, id) && pages < info.memory_pages {
        true => Err(Error::Busy),
        false => context.plane.hypervisor.domain_set_memory(handle, pages, info.max_pages),
    };
    match set {
        Ok(()) => {
            // For its own information: it may use more now, or knows that there is less to come.
            if id != DOM0_ID {
                let _ = context.plane.request(id, ToDomain::MemoryTarget { pages });
            }
            Ok(Flow::Done)
        }
        // It uses more at the moment: it has to give something back first.
        Err(Error::Busy) if id != DOM0_ID => {
            let request = context.plane.request(id, ToDomain::MemoryTarget { pages })?;
            let deadline = context.plane.hypervisor.clock().saturating_add(timeout_ns);
            Ok(Flow::Wait(Waiting::Memory(Memory { name, handle, request, pages, max: info.max_pages, deadline })))
        }
        Err(Error::NoMemory) => {
            let free = context.plane.hypervisor.system_info().map_or(0, |info| info.pool_frames);
            let more = size::mib(pages.saturating_sub(info.memory_pages));
            Err(Fault::from(format!("{name}: needs {more} more, {} free: destroy a domain", size::mib(free))))
        }
        Err(error) => Err(refused(&name, error)),
    }
}

pub fn mem_max<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    let (id, name, max) = memory_words(context, args)?;
    let handle = handle_of(context, id)?;
    let pages = context.plane.hypervisor.domain_info(handle).map_err(|error| refused(&name, error))?.memory_pages;
    if max < pages {
        return Err(Fault::from(format!("{name}: it has {} now: lower that with mem-set first", size::mib(pages))));
    }
    context.plane.hypervisor.domain_set_memory(handle, pages, max).map_err(|error| refused(&name, error))?;
    Ok(Flow::Done)
}

pub fn sched<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=1)?;
    let name = args.value("domain").or(args.words.first().map(String::as_str));
    let weight = args.number("weight", *WEIGHTS.start()..=*WEIGHTS.end())?;
    let cap = args.number("cap", 0..=100 * protocol::event::MAX_VCPUS as u32)?;
    let class = match args.value("class") {
        None => None,
        Some("guest") => Some(CLASS_GUEST),
        Some("driver") => Some(CLASS_DRIVER),
        Some(other) => {
            return Err(Fault::usage(args.command, format!("`{}` is no class: guest or driver", shown(other))));
        }
    };
    if weight.is_none() && cap.is_none() && class.is_none() {
        return show_sched(context, args, name);
    }
    let Some(name) = name else { return Err(Fault::usage(args.command, "which domain?".to_owned())) };
    let id = context.find(name)?;
    let handle = handle_of(context, id)?;
    let info = context.plane.hypervisor.domain_info(handle).map_err(|error| refused(name, error))?;
    let params = SchedParams {
        weight: weight.unwrap_or(info.schedule.weight),
        cap: cap.unwrap_or(info.schedule.cap),
        class: class.unwrap_or(info.schedule.class),
        ..info.schedule
    };
    // Only weight, cap and class change: each vCPU keeps the CPUs it was pinned to.
    for vcpu in 0..info.vcpus {
        let affinity = context.plane.hypervisor.vcpu_info(handle, vcpu).map_err(|error| refused(name, error))?.affinity;
        let params = SchedParams { vcpu, affinity, ..params };
        context.plane.hypervisor.domain_schedule(handle, &params).map_err(|error| refused(name, error))?;
    }
    Ok(Flow::Done)
}

fn show_sched<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, name: Option<&str>) -> Outcome {
    #[derive(Serialize)]
    struct Share {
        name: String,
        id: u16,
        weight: u32,
        cap: u32,
        class: String,
    }
    let names: Vec<String> = name.map(ToOwned::to_owned).into_iter().collect();
    let ids = context.find_all(&names)?;
    let views = view::domains(context.plane, context.samples, &ids)?.into_iter();
    let share = |view: view::DomainView| {
        let view::DomainView { name, id, weight, cap, class, .. } = view;
        Share { name, id, weight, cap, class }
    };
    let shares: Vec<Share> = views.map(share).collect();
    if args.flag("json") {
        return context.json(&shares);
    }
    let mut table = Table::new(&["Name", ">ID", ">Weight", ">Cap", "Class"]);
    for Share { name, id, weight, cap, class } in shares {
        table.row([name, id.to_string(), weight.to_string(), cap.to_string(), class]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

pub fn vcpu_pin<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(3..=3)?;
    let [name, vcpu, list] = args.words.as_slice() else { return Err(Fault::usage(args.command, String::new())) };
    let id = context.find(name)?;
    let handle = handle_of(context, id)?;
    let affinity = cpus::mask(list).map_err(|text| Fault::usage(args.command, text))?;
    let info = context.plane.hypervisor.domain_info(handle).map_err(|error| refused(name, error))?;
    let vcpu = match vcpu.as_str() {
        "all" => ALL_VCPUS,
        number => number.parse().ok().filter(|&vcpu| vcpu < info.vcpus).ok_or_else(|| {
            let text = format!("`{}` is no vCPU of {name}: all, or 0 to {}", shown(number), info.vcpus.max(1) - 1);
            Fault::usage(args.command, text)
        })?,
    };
    let params = SchedParams { vcpu, affinity, ..info.schedule };
    context.plane.hypervisor.domain_schedule(handle, &params).map_err(|error| match error {
        Error::Invalid => {
            let text = "`info` says how many run, and whether virtual machines spare one";
            Fault::from(format!("{name}: no CPU of `{}` is there for it: {text}", shown(list)))
        }
        error => refused(name, error),
    })?;
    Ok(Flow::Done)
}

pub fn vcpu_set<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(2..=2)?;
    let [name, count] = args.words.as_slice() else { return Err(Fault::usage(args.command, String::new())) };
    let id = context.find(name)?;
    let most = context.plane.domain(id).map_or(1, |domain| domain.config.vcpus);
    let vcpus = count.parse().ok().filter(|vcpus| (1..=most).contains(vcpus)).ok_or_else(|| {
        let text = format!("`{}` is no number of vCPUs of {name}: 1 to {most}", shown(count));
        Fault::usage(args.command, text)
    })?;
    if !is_linux(context, id) {
        let name = name_of(context, id);
        return Err(Fault::from(format!("{name}: only a Linux guest can be told which of its vCPUs to use")));
    }
    let request = context.plane.request(id, ToDomain::VcpuTarget { vcpus })?;
    let deadline = context.plane.hypervisor.clock().saturating_add(GUEST_NS);
    Ok(Flow::Wait(Waiting::Vcpus { request, vcpus, deadline }))
}

pub fn poweroff<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(0..=1)?;
    if args.flag("reboot") {
        return Ok(Flow::Wait(Waiting::power(context, Power::Reboot)));
    }
    let status = match args.words.first() {
        None => 0,
        Some(word) => word
            .parse::<u8>()
            .map_err(|_| Fault::usage(args.command, format!("`{}` is no status from 0 to 255", shown(word))))?,
    };
    Ok(Flow::Wait(Waiting::power(context, Power::Off { status })))
}

pub fn name_of<H: Hypervisor>(context: &Context<'_, '_, H>, id: u16) -> String {
    context.plane.handle(id).map(|(_, name)| name.to_owned()).unwrap_or_default()
}

fn handle_of<H: Hypervisor>(context: &Context<'_, '_, H>, id: u16) -> Result<Handle, Fault> {
    let handle = context.plane.handle(id).map(|(handle, _)| handle);
    handle.ok_or_else(|| Fault::from(format!("domain {id} is gone")))
}

fn is_linux<H: Hypervisor>(context: &Context<'_, '_, H>, id: u16) -> bool {
    context.plane.domain(id).is_some_and(|domain| matches!(domain.config.guest, Guest::Linux { .. }))
}

/// The most frames that a Linux guest's domain has a use for: its kernel knows no place for more than it was told of at the start.
fn most<H: Hypervisor>(context: &Context<'_, '_, H>, id: u16) -> Option<u64> {
    let domain = context.plane.domain(id).filter(|_| is_linux(context, id))?;
    Some(builder::spec(&domain.config).max_pages)
}

fn refused(name: &str, error: Error) -> Fault {
    Fault::from(format!("{name}: the core refuses: {error}"))
}

/// A short time for a person.
fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} us", ns / 1000),
        _ => format!("{}.{} ms", ns / 1_000_000, ns / 100_000 % 10),
    }
}
