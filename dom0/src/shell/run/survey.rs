//! `disks` and `net`: what the driver domains say about what they serve, one question after the other.

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::connection::{BridgePort, DiskInfo, Statistics};
use protocol::control::{FromDomain, ToDomain};
use protocol::ring::block::SECTOR;
use serde::Serialize;

use super::act::{PATIENCE_NS, name_of};
use super::devices::{DeviceView, view};
use super::wait::Waiting;
use super::{Context, Flow, Outcome};
use crate::config::{Role, shown, vif};
use crate::hypervisor::Hypervisor;
use crate::plane::{Device, Request};
use crate::shell::args::{Args, Fault};
use crate::shell::table::Table;

/// Things that are asked of one driver domain at most, so that one that goes on for ever is left.
const THINGS_MAX: u16 = 256;

/// A question that was put, or will be.
#[derive(Clone, Debug)]
enum Question {
    /// What is your disk or port of this number?
    Thing { backend: u16, index: u16 },
    /// What did you count of this device?
    Count { backend: u16, connection: u16, key: u32 },
}

impl Question {
    fn put(&self, role: Role) -> (u16, ToDomain) {
        match (self, role) {
            (&Question::Thing { backend, index }, Role::Disk) => (backend, ToDomain::DiskAt { index }),
            (&Question::Thing { backend, index }, Role::Network) => (backend, ToDomain::BridgePortAt { index }),
            (&Question::Count { backend, connection, .. }, _) => (backend, ToDomain::Statistics { connection }),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct DiskView {
    backend: String,
    name: String,
    label: String,
    bytes: u64,
    sector_size: u32,
    read_only: bool,
    flush: bool,
    discard: bool,
    users: u16,
}

#[derive(Clone, Debug, Serialize)]
struct PortView {
    backend: String,
    /// The guest's device; `None` for the wire.
    domain: Option<String>,
    device: Option<String>,
    connection: Option<u16>,
    mac: String,
    up: bool,
    received_frames: u64,
    received_bytes: u64,
    sent_frames: u64,
    sent_bytes: u64,
    refused: u64,
    dropped: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    requests: u64,
    responses: u64,
    in_flight: u32,
    deepest: u32,
    replayed: u64,
    written: u64,
    read: u64,
    errors: u64,
    notifications: u64,
    wakeups: u64,
    grant_calls: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ConnectionView {
    #[serde(flatten)]
    device: DeviceView,
    statistics: Option<Counts>,
}

#[derive(Debug, Default, Serialize)]
struct DisksView {
    disks: Vec<DiskView>,
    connections: Vec<ConnectionView>,
}

#[derive(Debug, Default, Serialize)]
struct NetView {
    ports: Vec<PortView>,
    connections: Vec<ConnectionView>,
}

/// A survey of the driver domains of one kind.
#[derive(Debug)]
pub struct Survey {
    /// When to give up.
    pub deadline: u64,
    role: Role,
    json: bool,
    queue: VecDeque<Question>,
    asked: Option<(Question, Request)>,
    disks: Vec<DiskView>,
    ports: Vec<PortView>,
    connections: Vec<ConnectionView>,
    faults: Vec<String>,
}

/// Begins a survey.
pub fn begin<H: Hypervisor>(context: &mut Context<'_, '_, H>, args: &Args, role: Role) -> Outcome {
    args.expect(0..=0)?;
    let backends = context.plane.backends(role);
    if backends.is_empty() {
        let name = role.name();
        return Err(Fault::from(format!("no {name} driver domain: create one with `backend = \"{name}\"`")));
    }
    let mut queue: VecDeque<Question> = backends.iter().map(|&backend| Question::Thing { backend, index: 0 }).collect();
    let count = |device: &Device| {
        let link = device.link.as_ref().filter(|_| device.kind.role() == role)?;
        Some(Question::Count { backend: link.backend, connection: link.connection, key: device.key })
    };
    queue.extend(context.plane.devices().filter_map(count));
    let deadline = context.plane.hypervisor.clock().saturating_add(args.seconds("timeout", PATIENCE_NS)?);
    let mut survey = Survey {
        deadline,
        role,
        json: args.flag("json"),
        queue,
        asked: None,
        disks: Vec::new(),
        ports: Vec::new(),
        connections: Vec::new(),
        faults: Vec::new(),
    };
    match survey.poll(context, false) {
        Some(result) => result.map(|()| Flow::Done),
        None => Ok(Flow::Wait(Waiting::Survey(survey))),
    }
}

impl Survey {
    /// Takes answers and puts further questions.
    pub fn poll<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>, late: bool) -> Option<Result<(), Fault>> {
        loop {
            if let Some((question, request)) = self.asked.take() {
                match context.plane.answer(request) {
                    Some(answer) => self.answered(context, &question, answer),
                    None if late || context.plane.domain(request.domain).is_none_or(|domain| !domain.ready) => {
                        self.fault(context, &question, "does not answer");
                    }
                    None => {
                        self.asked = Some((question, request));
                        return None;
                    }
                }
            }
            let Some(question) = self.queue.pop_front() else { return Some(self.show(context)) };
            let (backend, message) = question.put(self.role);
            if late || context.plane.domain(backend).is_none_or(|domain| !domain.ready) {
                self.fault(context, &question, "does not serve now");
                continue;
            }
            match context.plane.request(backend, message) {
                Ok(request) => self.asked = Some((question, request)),
                Err(text) => self.fault(context, &question, &text),
            }
        }
    }

    /// A question stays without an answer. What dom0 knows of a connection is shown all the same.
    fn fault<H: Hypervisor>(&mut self, context: &Context<'_, '_, H>, question: &Question, text: &str) {
        match *question {
            Question::Thing { backend, .. } => self.faults.push(format!("{}: {text}", name_of(context, backend))),
            Question::Count { key, .. } => self.connection(context, key, None),
        }
    }

    fn connection<H: Hypervisor>(&mut self, context: &Context<'_, '_, H>, key: u32, statistics: Option<Counts>) {
        let device = context.plane.device_by_key(key).map(|device| view(context, device));
        self.connections.extend(device.map(|device| ConnectionView { device, statistics }));
    }

    fn answered<H: Hypervisor>(
        &mut self,
        context: &Context<'_, '_, H>,
        question: &Question,
        answer: Result<FromDomain, String>,
    ) {
        match (question, answer) {
            (&Question::Thing { backend, index }, Ok(FromDomain::Disk(Some(info)))) if self.role == Role::Disk => {
                self.disks.push(disk(name_of(context, backend), &info));
                self.further(backend, index);
            }
            (&Question::Thing { backend, index }, Ok(FromDomain::BridgePort(Some(info))))
                if self.role == Role::Network =>
            {
                let port = port(context, backend, &info);
                self.ports.push(port);
                self.further(backend, index);
            }
            (Question::Thing { .. }, Ok(FromDomain::Disk(None) | FromDomain::BridgePort(None))) => {}
            (&Question::Count { key, .. }, Ok(FromDomain::Statistics(counted))) => {
                self.connection(context, key, Some(counts(&counted)));
            }
            (question, Ok(_)) => self.fault(context, question, "answers something else than what was asked"),
            (question, Err(text)) => self.fault(context, question, &text),
        }
    }

    fn further(&mut self, backend: u16, index: u16) {
        if index + 1 < THINGS_MAX {
            self.queue.push_front(Question::Thing { backend, index: index + 1 });
        }
    }

    fn show<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>) -> Result<(), Fault> {
        let connections = core::mem::take(&mut self.connections);
        let (disks, ports) = (core::mem::take(&mut self.disks), core::mem::take(&mut self.ports));
        match (self.role, self.json) {
            (Role::Disk, true) => drop(context.json(&DisksView { disks, connections })?),
            (Role::Network, true) => drop(context.json(&NetView { ports, connections })?),
            (Role::Disk, false) => {
                context.out.push_str(&disk_table(disks).text());
                context.out.push_str(&connection_table(connections).text());
            }
            (Role::Network, false) => context.out.push_str(&port_table(ports, &connections).text()),
        }
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Fault::from(self.faults.join("\n"))),
        }
    }
}

fn disk(backend: String, info: &DiskInfo) -> DiskView {
    DiskView {
        backend,
        name: shown(&info.name),
        label: shown(&info.label),
        bytes: info.limits.sectors.saturating_mul(SECTOR),
        sector_size: info.limits.sector_size,
        read_only: info.limits.read_only,
        flush: info.limits.flush,
        discard: info.limits.discard,
        users: info.users,
    }
}

fn port<H: Hypervisor>(context: &Context<'_, '_, H>, backend: u16, info: &BridgePort) -> PortView {
    let linked = |device: &&Device| {
        let link = device.link.as_ref();
        link.is_some_and(|link| link.backend == backend && Some(link.connection) == info.connection)
    };
    let device = context.plane.devices().find(linked);
    PortView {
        backend: name_of(context, backend),
        domain: device.map(|device| name_of(context, device.guest)),
        device: device.map(|device| device.name.clone()),
        connection: info.connection,
        mac: vif::text(&info.mac),
        up: info.up,
        received_frames: info.received.frames,
        received_bytes: info.received.bytes,
        sent_frames: info.sent.frames,
        sent_bytes: info.sent.bytes,
        refused: info.refused,
        dropped: info.dropped,
    }
}

fn counts(counted: &Statistics) -> Counts {
    let &Statistics { requests, responses, in_flight, deepest, replayed, written, read, errors, .. } = counted;
    let &Statistics { notifications, wakeups, grant_calls, .. } = counted;
    Counts {
        requests,
        responses,
        in_flight,
        deepest,
        replayed,
        written,
        read,
        errors,
        notifications,
        wakeups,
        grant_calls,
    }
}

fn disk_table(disks: Vec<DiskView>) -> Table {
    let mut table = Table::new(&["Backend", "Disk", "Label", ">MiB", ">Sector", "Access", ">Users"]);
    for disk in disks {
        table.row([
            disk.backend,
            disk.name,
            if disk.label.is_empty() { "-".to_owned() } else { disk.label },
            (disk.bytes >> 20).to_string(),
            disk.sector_size.to_string(),
            if disk.read_only { "ro" } else { "rw" }.to_owned(),
            disk.users.to_string(),
        ]);
    }
    table
}

fn connection_table(connections: Vec<ConnectionView>) -> Table {
    let heads = ["Domain", "Device", "Target", "State", ">Requests", ">In flight", ">Replayed", ">Read", ">Written"];
    let mut table = Table::new(&heads);
    for ConnectionView { device, statistics } in connections {
        let count = |of: fn(&Counts) -> u64| statistics.as_ref().map_or_else(|| "-".to_owned(), |c| of(c).to_string());
        table.row([
            device.domain,
            device.device,
            device.target.unwrap_or_default(),
            device.state.to_owned(),
            count(|counts| counts.requests),
            count(|counts| counts.in_flight.into()),
            count(|counts| counts.replayed),
            count(|counts| counts.read),
            count(|counts| counts.written),
        ]);
    }
    table
}

fn port_table(ports: Vec<PortView>, connections: &[ConnectionView]) -> Table {
    let heads = ["Bridge", "Port", "MAC", "State", ">Received", ">Bytes", ">Sent", ">Bytes", ">Refused", ">Dropped"];
    let mut table = Table::new(&heads);
    for port in ports {
        let known = connections.iter().find(|one| {
            one.device.connection == port.connection && one.device.backend.as_deref() == Some(&port.backend)
        });
        let state = match (known, port.up) {
            (Some(known), _) => known.device.state,
            (None, true) => "up",
            (None, false) => "down",
        };
        let name = match (port.domain, port.device, port.connection) {
            (Some(domain), Some(device), _) => format!("{domain}/{device}"),
            (_, _, Some(connection)) => format!("connection {connection}"),
            _ => "wire".to_owned(),
        };
        table.row([
            port.backend,
            name,
            port.mac,
            state.to_owned(),
            port.received_frames.to_string(),
            port.received_bytes.to_string(),
            port.sent_frames.to_string(),
            port.sent_bytes.to_string(),
            port.refused.to_string(),
            port.dropped.to_string(),
        ]);
    }
    table
}
