//! A simulated machine under the control plane: it keeps the books that the core would keep, and can fail any call.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part of it")]

pub mod stack;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use dom0::hypervisor::{Hypervisor, Width};
use protocol::control::{self, Envelope, FRAME_MAX, FromDomain, ToDomain, VERSION};
use protocol::device::{BRIDGE, DeviceInfo, NO_OWNER};
use protocol::domain::*;
use protocol::error::{Error, Result};
use protocol::event::{CONTROL_PORT, Port};
use protocol::grant::{GrantRef, PEER_DOM0, REF_CONTROL_IN, REF_CONTROL_OUT, REF_HEARTBEAT};
use protocol::handle::{Handle, Rights};
use protocol::hypercall::protection;
use protocol::layout::{IMAGE_END, PAGE_SIZE};
use protocol::ring::{Shared, byte};
use protocol::system::SystemInfo;

/// A page that both sides reach.
#[derive(Clone, Debug)]
pub struct Page(Rc<RefCell<Vec<u8>>>);

impl Page {
    fn new() -> Page {
        Page(Rc::new(RefCell::new(vec![0; PAGE_SIZE as usize])))
    }

    pub fn poke(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Shared for Page {
    fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0.borrow()[offset..offset + 4].try_into().unwrap())
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.poke(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[offset..offset + out.len()]);
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.poke(offset, bytes);
    }
    fn fence(&self) {}
}

/// A domain as the machine sees it.
#[derive(Debug)]
pub struct Guest {
    pub info: DomainInfo,
    pub handle: Handle,
    pub death: DeathReport,
    pub control_in: Page,
    pub control_out: Page,
    pub heartbeat: Page,
    /// Ids of its peers, by index, and their incarnations.
    pub peers: BTreeMap<u16, (u16, u32)>,
    /// Open ports, and the domain and port at the other end.
    pub ports: BTreeMap<u32, Option<(u16, u32)>>,
    /// What was written, by address.
    pub memory: BTreeMap<u64, Vec<u8>>,
    /// Protection of its pages, by address.
    pub pages: BTreeMap<u64, u64>,
    /// For each of its resets whether pages were to be kept.
    pub resets: Vec<bool>,
    pub given: Vec<(Handle, Rights)>,
    /// Slices that its next reset takes.
    pub reset_slices: u32,
    /// vCPU affinities.
    pub affinity: BTreeMap<u32, u64>,
    from_dom0: Option<byte::Consumer>,
    to_dom0: Option<byte::Producer>,
}

/// The state of the machine.
#[derive(Debug, Default)]
pub struct State {
    pub now: u64,
    pub guests: BTreeMap<u16, Guest>,
    pub pool: u64,
    /// No free frames lie together.
    pub in_pieces: bool,
    pub handles: BTreeMap<u32, &'static str>,
    pub mapped: usize,
    pub log: Vec<String>,
    pub events: Vec<Port>,
    /// Slices that a destroy still takes.
    pub destroy_slices: u32,
    pub writes: Vec<(u16, Width, u32)>,
    pub tables: BTreeMap<[u8; 4], Vec<u8>>,
    pub reads: BTreeMap<u16, u32>,
    next_handle: u32,
    next_incarnation: u32,
}

/// The simulated machine; clones are the same machine.
#[derive(Clone, Debug)]
pub struct Sim {
    pub state: Rc<RefCell<State>>,
    /// The call that fails, counted from 0, and how.
    pub fail: Rc<Cell<Option<(usize, Error)>>>,
    pub calls: Rc<Cell<usize>>,
}

/// Frames that can be given to domains at the start.
pub const POOL: u64 = 64 << 8;
/// Frames of every domain beside its image and stack.
const OVERHEAD: u64 = 32;

impl Sim {
    pub fn new() -> Sim {
        let state = State { pool: POOL, next_handle: 100, now: 1_000_000, ..State::default() };
        let sim = Sim { state: Rc::new(RefCell::new(state)), fail: Rc::default(), calls: Rc::default() };
        let dom0 = sim.guest(
            Handle::SELF,
            &DomainSpec {
                name: protocol::name("dom0"),
                memory_pages: 0,
                max_pages: 0,
                vcpus: 1,
                grant_frames: 1,
                max_mappings: 64,
                retained_pages: 0,
                guest_grant_frames: 0,
                large_pages: 0,
                schedule: SchedParams::default(),
            },
        );
        sim.state.borrow_mut().guests.insert(0, dom0);
        sim
    }

    fn guest(&self, handle: Handle, spec: &DomainSpec) -> Guest {
        let mut state = self.state.borrow_mut();
        state.next_incarnation += 1;
        Guest {
            info: DomainInfo {
                name: spec.name,
                incarnation: state.next_incarnation,
                vcpus: spec.vcpus,
                memory_pages: spec.memory_pages,
                max_pages: spec.max_pages,
                used_pages: OVERHEAD,
                schedule: spec.schedule,
                created_tsc: state.now,
                ..DomainInfo::default()
            },
            handle,
            death: DeathReport::default(),
            control_in: Page::new(),
            control_out: Page::new(),
            heartbeat: Page::new(),
            peers: BTreeMap::new(),
            ports: BTreeMap::new(),
            memory: BTreeMap::new(),
            pages: BTreeMap::new(),
            resets: Vec::new(),
            given: Vec::new(),
            reset_slices: 0,
            affinity: (0..spec.vcpus).map(|vcpu| (vcpu, spec.schedule.affinity)).collect(),
            from_dom0: None,
            to_dom0: None,
        }
    }

    /// Counts a call, and fails it if it is its turn.
    fn call(&self) -> Result<()> {
        let count = self.calls.replace(self.calls.get() + 1);
        self.state.borrow_mut().now += 1000;
        match self.fail.get() {
            Some((index, error)) if index == count => Err(error),
            _ => Ok(()),
        }
    }

    /// Does something with the domain behind a handle.
    fn with<T>(&self, handle: Handle, act: impl FnOnce(&mut Guest) -> Result<T>) -> Result<T> {
        let mut state = self.state.borrow_mut();
        let guest = state.guests.values_mut().find(|guest| guest.handle == handle);
        act(guest.ok_or(Error::BadHandle)?)
    }

    pub fn by_name<T>(&self, name: &str, act: impl FnOnce(&mut Guest) -> T) -> T {
        let mut state = self.state.borrow_mut();
        let found = state.guests.values_mut().find(|guest| protocol::name_text(&guest.info.name) == name);
        act(found.unwrap_or_else(|| panic!("there is no {name}")))
    }

    pub fn advance(&self, ns: u64) {
        self.state.borrow_mut().now += ns;
    }

    /// Time passes until a deadline.
    pub fn sleep_until(&self, deadline: u64) {
        let mut state = self.state.borrow_mut();
        state.now = state.now.max(deadline);
    }

    /// A domain ends.
    pub fn end(&self, name: &str, reason: Reason) {
        self.by_name(name, |guest| {
            guest.info.state = protocol::domain::State::Dead as u32;
            guest.info.reason = reason as u32;
            guest.death.reason = reason as u32;
        });
    }

    /// What dom0 said to a domain since the last look.
    pub fn heard(&self, name: &str) -> Vec<Envelope<ToDomain>> {
        self.by_name(name, |guest| {
            let page = guest.control_in.clone();
            let consumer = guest.from_dom0.get_or_insert_with(|| byte::Consumer::attach(byte::CONTROL, &page));
            let mut heard = Vec::new();
            let mut buffer = [0; FRAME_MAX];
            while let Some(frame) = control::receive(consumer, &page, &mut buffer).unwrap() {
                heard.push(control::decode(frame).unwrap());
            }
            heard
        })
    }

    /// A domain says something to dom0.
    pub fn say(&self, name: &str, id: u32, message: FromDomain) -> bool {
        self.by_name(name, |guest| {
            let page = guest.control_out.clone();
            let producer = guest.to_dom0.get_or_insert_with(|| byte::Producer::attach(byte::CONTROL, &page));
            control::send(producer, &page, &Envelope { version: VERSION, id, message }).unwrap_or(false)
        })
    }

    /// Everything that must be the same when everything that was made is gone again. Ports and peers that the console domain
    /// was told to forget are its own matter.
    pub fn books(&self) -> (u64, usize, usize, usize, Vec<u32>) {
        let state = self.state.borrow();
        let ports = state.guests[&0].ports.keys().copied().collect();
        (state.pool, state.guests.len(), state.handles.len(), state.mapped, ports)
    }

    fn open_port(guest: &mut Guest, peer: (u16, u32)) -> Port {
        let port = (3..).find(|port| !guest.ports.contains_key(port)).unwrap();
        guest.ports.insert(port, Some(peer));
        Port(port)
    }

    fn new_handle(&self, what: &'static str) -> Handle {
        let mut state = self.state.borrow_mut();
        state.next_handle += 1;
        let handle = state.next_handle;
        state.handles.insert(handle, what);
        Handle(handle)
    }
}

impl Hypervisor for Sim {
    type Page = Page;

    fn clock(&mut self) -> u64 {
        self.state.borrow().now
    }

    fn system_info(&mut self) -> Result<SystemInfo> {
        self.call()?;
        let state = self.state.borrow();
        Ok(SystemInfo {
            cpus: 2,
            domains: state.guests.len() as u32,
            pool_frames: state.pool,
            total_frames: POOL + 1000,
            tsc_hz: 1_000_000_000,
            uptime_ns: state.now,
            ..SystemInfo::default()
        })
    }

    fn log_write(&mut self, line: &str) {
        self.state.borrow_mut().log.push(line.to_string());
    }

    fn log_read(&mut self, position: u64, out: &mut [u8]) -> Result<(u64, usize)> {
        self.call()?;
        let text = self.state.borrow().log.iter().map(|line| format!("{line}\n")).collect::<String>();
        let rest = text.as_bytes().get(position as usize..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok((position + count as u64, count))
    }

    fn acpi_read(&mut self, signature: [u8; 4], offset: u64, out: &mut [u8]) -> Result<u64> {
        let state = self.state.borrow();
        let table = state.tables.get(&signature).ok_or(Error::NotFound)?;
        let rest = table.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(table.len() as u64)
    }

    fn port_read(&mut self, port: u16, _width: Width) -> Result<u32> {
        Ok(self.state.borrow().reads.get(&port).copied().unwrap_or(0))
    }

    fn port_write(&mut self, port: u16, width: Width, value: u32) -> Result<()> {
        self.state.borrow_mut().writes.push((port, width, value));
        Ok(())
    }

    fn ioports_create(&mut self, first: u16, count: u16) -> Result<Handle> {
        self.call()?;
        // As the core does with ports that it drives itself, of which these are some.
        if first <= 0xcf8 && 0xcf8 - first < count {
            return Err(Error::Busy);
        }
        Ok(self.new_handle("ports"))
    }

    fn interrupt_create(&mut self, _line: u8) -> Result<Handle> {
        self.call()?;
        Ok(self.new_handle("interrupt"))
    }

    fn device_list(&mut self, index: u64) -> Result<Option<DeviceInfo>> {
        self.call()?;
        let kinds = [(0x08, 0x1237, BRIDGE), (0x20, 0x1042, 0), (0x28, 0x1042, 0), (0x30, 0x1041, 0)];
        Ok(kinds.get(index as usize).map(|&(address, device, flags)| DeviceInfo {
            address,
            vendor: 0x1af4,
            device,
            flags,
            owner: NO_OWNER,
            ..DeviceInfo::default()
        }))
    }

    fn device_create(&mut self, _address: u16) -> Result<Handle> {
        self.call()?;
        Ok(self.new_handle("device"))
    }

    fn handle_copy(&mut self, domain: Handle, handle: Handle, rights: Rights) -> Result<Handle> {
        self.call()?;
        self.with(domain, |guest| {
            guest.given.push((handle, rights));
            Ok(Handle(guest.given.len() as u32 + 1))
        })
    }

    fn handle_close(&mut self, handle: Handle) -> Result<()> {
        self.state.borrow_mut().handles.remove(&handle.0).map(|_| ()).ok_or(Error::BadHandle)
    }

    fn event_send(&mut self, port: Port) -> Result<()> {
        self.state.borrow_mut().events.push(port);
        Ok(())
    }

    fn event_close(&mut self, port: Port) -> Result<()> {
        self.with(Handle::SELF, |dom0| dom0.ports.remove(&port.0).map(|_| ()).ok_or(Error::BadPort))
    }

    fn event_connect(&mut self, first: Handle, second: Handle) -> Result<(Port, Port)> {
        self.call()?;
        let id = |sim: &Sim, handle| {
            let state = sim.state.borrow();
            state.guests.iter().find(|(_, guest)| guest.handle == handle).map(|(id, _)| *id).ok_or(Error::BadHandle)
        };
        let (one, two) = (id(self, first)?, id(self, second)?);
        let here = self.with(first, |guest| Ok(Sim::open_port(guest, (two, 0))))?;
        let there = self.with(second, |guest| Ok(Sim::open_port(guest, (one, here.0))))?;
        self.with(first, |guest| Ok(guest.ports.insert(here.0, Some((two, there.0)))))?;
        Ok((here, there))
    }

    fn event_disconnect(&mut self, domain: Handle, port: Port) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let found = state.guests.iter_mut().find(|(_, guest)| guest.handle == domain);
        let (id, guest) = found.map(|(id, guest)| (*id, guest)).ok_or(Error::BadHandle)?;
        let (peer, other) = guest.ports.remove(&port.0).ok_or(Error::BadPort)?.unwrap_or((id, u32::MAX));
        if let Some(end) = state.guests.get_mut(&peer).and_then(|guest| guest.ports.get_mut(&other)) {
            *end = None;
        }
        Ok(())
    }

    fn map(&mut self, peer: u16, reference: GrantRef, writable: bool) -> Result<Page> {
        self.call()?;
        let mut state = self.state.borrow_mut();
        let guest = state.guests.get(&peer).ok_or(Error::NoPeer)?;
        let page = match reference {
            REF_CONTROL_IN if writable => guest.control_in.clone(),
            REF_CONTROL_OUT if writable => guest.control_out.clone(),
            REF_HEARTBEAT if !writable => guest.heartbeat.clone(),
            _ => return Err(Error::BadGrant),
        };
        state.mapped += 1;
        Ok(page)
    }

    fn unmap(&mut self, _page: Page) {
        self.state.borrow_mut().mapped -= 1;
    }

    fn domain_create(&mut self, spec: &DomainSpec) -> Result<DomainCreated> {
        self.call()?;
        let pieces = spec.large_pages > 0 && self.state.borrow().in_pieces;
        if pieces || spec.memory_pages > self.state.borrow().pool || spec.memory_pages < OVERHEAD {
            return Err(Error::NoMemory);
        }
        if spec.schedule.affinity != 0 && spec.schedule.affinity & 0b11 == 0 {
            return Err(Error::Invalid);
        }
        let handle = self.new_handle("domain");
        let mut guest = self.guest(handle, spec);
        let mut state = self.state.borrow_mut();
        state.pool -= spec.memory_pages;
        let id = (8..128).find(|id| !state.guests.contains_key(id)).ok_or(Error::TableFull)?;
        guest.info.id = id.into();
        guest.peers.insert(PEER_DOM0, (0, 1));
        guest.ports.insert(CONTROL_PORT.0, Some((0, 0)));
        let incarnation = guest.info.incarnation;
        state.guests.insert(id, guest);
        let dom0 = state.guests.get_mut(&0).unwrap();
        dom0.peers.insert(id, (id, incarnation));
        let control_port = Sim::open_port(dom0, (id, CONTROL_PORT.0)).0;
        Ok(DomainCreated { handle: handle.0, id, reserved: 0, incarnation, control_port })
    }

    fn memory_populate(&mut self, domain: Handle, address: u64, pages: u64, protection: u64) -> Result<()> {
        self.call()?;
        assert!(pages <= 512 && address.is_multiple_of(PAGE_SIZE));
        self.with(domain, |guest| {
            if guest.info.used_pages + pages > guest.info.memory_pages {
                return Err(Error::NoMemory);
            }
            let all = (0..pages).map(|page| address + page * PAGE_SIZE);
            if all.clone().any(|page| guest.pages.contains_key(&page)) {
                return Err(Error::Exists);
            }
            guest.pages.extend(all.map(|page| (page, protection)));
            guest.info.used_pages += pages;
            Ok(())
        })
    }

    fn domain_write(&mut self, domain: Handle, address: u64, bytes: &[u8]) -> Result<()> {
        self.call()?;
        assert!(bytes.len() <= 65536);
        self.with(domain, |guest| {
            assert_eq!(guest.info.state, protocol::domain::State::Building as u32);
            let written = address / PAGE_SIZE..(address + bytes.len() as u64).div_ceil(PAGE_SIZE);
            if written.map(|page| page * PAGE_SIZE).any(|page| page < IMAGE_END && !guest.pages.contains_key(&page)) {
                return Err(Error::BadAddress);
            }
            guest.memory.insert(address, bytes.to_vec());
            Ok(())
        })
    }

    fn domain_start(&mut self, domain: Handle, _entry: u64, _stack: u64) -> Result<()> {
        self.call()?;
        let now = self.state.borrow().now;
        self.with(domain, |guest| {
            guest.info.state = protocol::domain::State::Running as u32;
            guest.info.vcpus_started = 1;
            guest.info.first_run_tsc = now;
            Ok(())
        })
    }

    fn domain_pause(&mut self, domain: Handle) -> Result<()> {
        self.call()?;
        self.with(domain, |guest| {
            guest.info.pauses += 1;
            Ok(())
        })
    }

    fn domain_unpause(&mut self, domain: Handle) -> Result<()> {
        self.call()?;
        self.with(domain, |guest| {
            guest.info.pauses = guest.info.pauses.checked_sub(1).ok_or(Error::WrongState)?;
            Ok(())
        })
    }

    fn domain_reset(&mut self, domain: Handle, keep: bool) -> Result<()> {
        self.call()?;
        self.with(domain, |guest| {
            if guest.reset_slices > 0 {
                guest.reset_slices -= 1;
                guest.info.state = protocol::domain::State::Resetting as u32;
                return Err(Error::Again);
            }
            guest.info.state = protocol::domain::State::Building as u32;
            guest.info.reason = 0;
            guest.info.resets += 1;
            guest.resets.push(keep);
            guest.pages.retain(|&page, protection| keep && page < IMAGE_END && *protection != protection::WRITE);
            guest.info.used_pages = OVERHEAD + guest.pages.len() as u64;
            guest.memory.retain(|address, _| guest.pages.contains_key(&(address & !(PAGE_SIZE - 1))));
            guest.control_in.poke(0, &[0; PAGE_SIZE as usize]);
            guest.control_out.poke(0, &[0; PAGE_SIZE as usize]);
            guest.heartbeat.poke(0, &[0; PAGE_SIZE as usize]);
            (guest.from_dom0, guest.to_dom0) = (None, None);
            Ok(())
        })
    }

    fn domain_destroy(&mut self, domain: Handle) -> Result<()> {
        let mut state = self.state.borrow_mut();
        state.now += 1000;
        let found = state.guests.iter().find(|(_, guest)| guest.handle == domain).map(|(id, _)| *id);
        let id = found.filter(|&id| id != 0).ok_or(Error::BadHandle)?;
        if state.destroy_slices > 0 {
            state.destroy_slices -= 1;
            return Err(Error::Again);
        }
        let guest = state.guests.remove(&id).ok_or(Error::BadHandle)?;
        state.pool += guest.info.memory_pages;
        state.handles.remove(&domain.0);
        for other in state.guests.values_mut() {
            other.ports.values_mut().filter(|end| end.is_some_and(|(peer, _)| peer == id)).for_each(|end| *end = None);
        }
        Ok(())
    }

    fn domain_info(&mut self, domain: Handle) -> Result<DomainInfo> {
        self.call()?;
        self.with(domain, |guest| Ok(guest.info))
    }

    fn domain_death(&mut self, domain: Handle) -> Result<DeathReport> {
        self.call()?;
        self.with(domain, |guest| Ok(guest.death))
    }

    fn domain_set_memory(&mut self, domain: Handle, pages: u64, max: u64) -> Result<()> {
        self.call()?;
        let pool = self.state.borrow().pool;
        let change = self.with(domain, |guest| {
            if pages < guest.info.used_pages {
                return Err(Error::Busy);
            }
            let more = pages.saturating_sub(guest.info.memory_pages);
            if more > pool {
                return Err(Error::NoMemory);
            }
            let change = pages as i64 - guest.info.memory_pages as i64;
            (guest.info.memory_pages, guest.info.max_pages) = (pages, max);
            Ok(change)
        })?;
        self.state.borrow_mut().pool = pool.checked_add_signed(-change).unwrap();
        Ok(())
    }

    fn domain_schedule(&mut self, domain: Handle, params: &SchedParams) -> Result<()> {
        self.call()?;
        self.with(domain, |guest| {
            let all = params.vcpu == ALL_VCPUS;
            for (vcpu, affinity) in &mut guest.affinity {
                if all || *vcpu == params.vcpu {
                    *affinity = params.affinity;
                }
            }
            guest.info.schedule = SchedParams { vcpu: ALL_VCPUS, ..*params };
            Ok(())
        })
    }

    fn domain_peer(&mut self, domain: Handle, index: u16, peer: Handle, _: bool) -> Result<()> {
        self.call()?;
        let state = self.state.borrow();
        let name = |(id, guest): (&u16, &Guest)| (*id, guest.info.incarnation);
        let id = state.guests.iter().find(|(_, guest)| guest.handle == peer).map(name);
        let there: Vec<(u16, u32)> = state.guests.iter().map(name).collect();
        drop(state);
        let id = id.ok_or(Error::BadHandle)?;
        self.with(domain, |guest| match guest.peers.get(&index) {
            Some(old) if there.contains(old) => Err(Error::Exists),
            _ => {
                guest.peers.insert(index, id);
                Ok(())
            }
        })
    }

    fn vcpu_info(&mut self, domain: Handle, vcpu: u32) -> Result<VcpuInfo> {
        self.call()?;
        self.with(domain, |guest| {
            let affinity = guest.affinity.get(&vcpu).copied().ok_or(Error::Invalid)?;
            let state = if vcpu < guest.info.vcpus_started { VcpuState::Blocked } else { VcpuState::Offline };
            Ok(VcpuInfo { state: state as u32, cpu: 0, affinity, cpu_ns: guest.info.cpu_ns })
        })
    }
}

/// The smallest image: one page of code at the image base.
pub fn image() -> Vec<u8> {
    image_with(&[(0x40_0000, 5, 16, 4096)], 0x40_0000)
}

/// An ELF file with segments (address, flags, bytes in the file, bytes in memory).
pub fn image_with(segments: &[(u64, u32, usize, u64)], entry: u64) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend(2_u16.to_le_bytes());
    elf.extend(62_u16.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(entry.to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for &(address, flags, file, memory) in segments {
        elf.extend(1_u32.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, address, address, file as u64, memory, 4096] {
            elf.extend(word.to_le_bytes());
        }
        offset += file as u64;
    }
    for &(_, _, file, _) in segments {
        elf.extend((0..file).map(|index| index as u8 | 1));
    }
    elf
}
