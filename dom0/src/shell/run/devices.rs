//! The commands about devices of guests, and about driver domains.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::connection::{KillPoint, State};
use protocol::control::ToDomain;
use protocol::ring::block::SECTOR;
use serde::Serialize;

use super::act::{PATIENCE_NS, name_of};
use super::wait::Waiting;
use super::{Context, Flow, Outcome};
use crate::config::{Role, disk, shown, suggest, vif};
use crate::hypervisor::Hypervisor;
use crate::plane::{Attached, Device, Kind};
use crate::shell::args::{Args, Fault};
use crate::shell::table::Table;

/// A device, for lists.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceView {
    /// The guest's name.
    pub domain: String,
    /// The guest's id.
    pub domain_id: u16,
    /// The guest's name for the device.
    pub device: String,
    /// The driver domain.
    pub backend: Option<String>,
    /// Its number for the connection.
    pub connection: Option<u16>,
    /// Where the connection is in its life.
    pub state: &'static str,
    /// The disk, partition or label.
    pub target: Option<String>,
    /// The guest may not write.
    pub read_only: Option<bool>,
    /// Size of the disk.
    pub bytes: Option<u64>,
    /// Address of the interface.
    pub mac: Option<String>,
    /// Why it is not served, or what somebody should know.
    pub fault: Option<String>,
}

/// What is known of a device.
pub fn view<H: Hypervisor>(context: &Context<'_, '_, H>, device: &Device) -> DeviceView {
    let link = device.link.as_ref();
    let limits = link.and_then(|link| link.attached);
    let (target, read_only, mac) = match &device.kind {
        Kind::Block { target, read_only } => (Some(target.clone()), Some(*read_only), None),
        Kind::Network { mac } => (None, None, Some(vif::text(mac))),
    };
    DeviceView {
        domain: name_of(context, device.guest),
        domain_id: device.guest,
        device: device.name.clone(),
        backend: link.map(|link| name_of(context, link.backend)).or_else(|| device.wanted.clone()),
        connection: link.map(|link| link.connection),
        state: device.status(),
        target,
        read_only: match limits {
            Some(Attached::Disk(limits)) => Some(limits.read_only),
            _ => read_only,
        },
        bytes: match limits {
            Some(Attached::Disk(limits)) => Some(limits.sectors.saturating_mul(SECTOR)),
            _ => None,
        },
        mac,
        fault: device.fault.clone(),
    }
}

pub fn list<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, role: Role) -> Outcome {
    let ids = context.find_all(&args.words)?;
    let of = context.plane.devices().filter(|device| device.kind.role() == role && ids.contains(&device.guest));
    let views: Vec<DeviceView> = of.map(|device| view(context, device)).collect();
    if args.flag("json") {
        return context.json(&views);
    }
    let what = if role == Role::Disk { "Target" } else { "MAC" };
    let mut table = Table::new(&["Name", ">ID", "Device", what, "Backend", ">Conn", "State", "Note"]);
    for view in views {
        let access = if view.read_only == Some(true) { " (ro)" } else { "" };
        table.row([
            view.domain,
            view.domain_id.to_string(),
            view.device,
            view.mac.or(view.target).unwrap_or_default() + access,
            view.backend.unwrap_or_else(|| "-".to_owned()),
            view.connection.map_or_else(|| "-".to_owned(), |number| number.to_string()),
            view.state.to_owned(),
            view.fault.unwrap_or_default(),
        ]);
    }
    context.out.push_str(&table.text());
    Ok(Flow::Done)
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The device is served.
    Served,
    /// The device is gone.
    Gone,
    /// The upgrade of the domain is settled.
    Upgraded,
}

/// A command that waits for a device or a driver domain.
#[derive(Debug)]
pub struct DeviceWait {
    /// When to give up.
    pub deadline: u64,
    until: Until,
    /// The device, or the domain.
    what: u32,
    /// The names of the domain and the device.
    names: String,
    json: bool,
}

impl DeviceWait {
    /// Looks whether it is over.
    pub fn poll<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>, late: bool) -> Option<Result<(), Fault>> {
        let names = &self.names;
        let failed = |text: String| Some(Err(Fault::from(format!("{names}: {text}"))));
        if self.until == Until::Upgraded {
            return match context.plane.take_upgraded(self.what as u16) {
                Some(Ok(())) => {
                    context.say(&format!("{names}: upgraded, it serves everything again"));
                    Some(Ok(()))
                }
                Some(Err(text)) => Some(Err(Fault::from(text))),
                None => late.then(|| Err(Fault::from(format!("{names}: it is still on trial: `list` shows more")))),
            };
        }
        let Some(device) = context.plane.device_by_key(self.what) else {
            if self.until == Until::Gone {
                context.say(&format!("{names}: detached"));
                return Some(Ok(()));
            }
            return failed("it is gone".to_owned());
        };
        let (view, state) = (view(context, device), device.link.as_ref().map(|link| link.state));
        let asked = device.link.as_ref().is_some_and(|link| link.front.is_some());
        match (self.until, state) {
            (Until::Served, Some(State::Serving)) => {
                if self.json {
                    return Some(context.json(&view).map(|_| ()));
                }
                let what = match (view.bytes, view.mac) {
                    (Some(bytes), _) => format!("{} MiB{}", bytes >> 20, access(view.read_only)),
                    (None, mac) => mac.unwrap_or_default(),
                };
                context.say(&format!("{names}: attached, {what}"));
                Some(Ok(()))
            }
            (Until::Served, None | Some(State::Closed)) if view.fault.is_some() => {
                context.plane.detach(self.what, true);
                failed(view.fault.unwrap_or_default())
            }
            (Until::Gone, Some(State::Closing)) if !asked && view.fault.is_some() => {
                failed(view.fault.unwrap_or_default() + ": --force does not wait for it")
            }
            _ if !late => None,
            (Until::Served, None) => failed("no driver domain serves it yet: it waits for one".to_owned()),
            (Until::Served, Some(State::Offered)) => {
                failed("the domain has not taken the offer yet: it stays, detach it to take it back".to_owned())
            }
            (Until::Served, _) => failed("its driver domain has not answered yet: it waits".to_owned()),
            (_, Some(State::Closed)) => failed("its driver domain has not let go of it yet".to_owned()),
            _ => failed("the domain has not let go of it: --force does not wait for it".to_owned()),
        }
    }
}

fn access(read_only: Option<bool>) -> &'static str {
    if read_only == Some(true) { ", read-only" } else { "" }
}

/// The domain that the first word names.
fn first<H: Hypervisor>(context: &Context<'_, '_, H>, args: &Args) -> Result<(u16, String), Fault> {
    let id = context.find(args.words.first().map_or("", String::as_str))?;
    Ok((id, name_of(context, id)))
}

fn wait<H: Hypervisor>(
    context: &mut Context<'_, '_, H>,
    args: &Args,
    until: Until,
    what: u32,
    names: String,
) -> Outcome {
    if args.flag("no-wait") {
        return Ok(Flow::Done);
    }
    let deadline = context.plane.hypervisor.clock().saturating_add(args.seconds("timeout", PATIENCE_NS)?);
    Ok(Flow::Wait(Waiting::Device(DeviceWait { deadline, until, what, names, json: args.flag("json") })))
}

fn added<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, owner: &str, key: u32) -> Outcome {
    let device = context.plane.device_by_key(key).map(|device| device.name.clone()).unwrap_or_default();
    wait(context, args, Until::Served, key, format!("{owner}: {device}"))
}

pub fn block_attach<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(2..=usize::MAX)?;
    let (guest, owner) = first(context, args)?;
    // Also as words, the way xl takes it: TARGET DEVICE ACCESS.
    let text = args.words.get(1..).unwrap_or_default().join(",");
    let disk = disk::parse(&text).map_err(|text| Fault::usage(args.command, text))?;
    let key = context.plane.add_disk(guest, &disk)?;
    added(context, args, &owner, key)
}

pub fn network_attach<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(1..=usize::MAX)?;
    let (guest, owner) = first(context, args)?;
    let text = args.words.get(1..).unwrap_or_default().join(",");
    let vif = vif::parse(&text).map_err(|text| Fault::usage(args.command, text))?;
    let key = context.plane.add_vif(guest, &vif)?;
    added(context, args, &owner, key)
}

pub fn detach<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, role: Role) -> Outcome {
    args.expect(2..=2)?;
    let (guest, owner) = first(context, args)?;
    let wanted = args.words.get(1).map_or("", String::as_str);
    let of = || context.plane.devices().filter(|device| device.guest == guest && device.kind.role() == role);
    let key = of().find(|device| device.name == wanted).map(|device| device.key).ok_or_else(|| {
        let cure = match suggest::nearest(wanted, of().map(|device| device.name.as_str())) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("`{}-list {owner}` shows all", if role == Role::Disk { "block" } else { "network" }),
        };
        Fault::from(format!("{owner}: it has no such device {}; {cure}", shown(wanted)))
    })?;
    context.plane.detach(key, args.flag("force"));
    wait(context, args, Until::Gone, key, format!("{owner}: {wanted}"))
}

pub fn kill<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(1..=1)?;
    let (id, _) = first(context, args)?;
    context.plane.kill(id)?;
    Ok(Flow::Done)
}

pub fn arm<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(2..=3)?;
    let (id, _) = first(context, args)?;
    let word = args.words.get(1).map_or("", String::as_str);
    let point = KillPoint::ALL.into_iter().find(|point| point.name() == word).ok_or_else(|| {
        let names: Vec<&str> = KillPoint::ALL.iter().map(|point| point.name()).collect();
        Fault::usage(args.command, format!("`{}` is no point: {}", shown(word), names.join(" ")))
    })?;
    let after = match args.words.get(2).and_then(|word| word.strip_prefix("after=")) {
        Some(number) => number.parse().ok().filter(|&number| number > 0),
        None if args.words.len() > 2 => None,
        None => args.number("after", 1..=u32::MAX)?.or(Some(1)),
    };
    let after = after.ok_or_else(|| Fault::usage(args.command, "write after=N, N from 1".to_owned()))?;
    let deadline = context.plane.hypervisor.clock().saturating_add(args.seconds("timeout", PATIENCE_NS)?);
    let request = context.plane.request(id, ToDomain::ArmKill { point, after })?;
    Ok(Flow::Wait(Waiting::Answer { request, deadline }))
}

pub fn upgrade<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args) -> Outcome {
    args.expect(2..=2)?;
    let (id, name) = first(context, args)?;
    let image = args.words.get(1).map_or("", String::as_str);
    context.plane.upgrade(id, image.strip_prefix("images/").unwrap_or(image))?;
    wait(context, args, Until::Upgraded, id.into(), name)
}
