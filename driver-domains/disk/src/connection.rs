//! One frontend: its ring, and its requests from the ring to the device and back.
//!
//! A request is taken and journalled, judged, put in order, started when no older one stands in its way - pages mapped for the
//! device, one hypercall for many - completed, and answered once its pages are unmapped. What asks for nonsense, or names pages
//! that cannot be had, gets an error, and the connection goes on.

use alloc::boxed::Box;
use alloc::vec::Vec;

use heapless::Vec as Short;
use protocol::connection::{DiskLimits, Statistics};
use protocol::error::Result as CallResult;
use protocol::grant::MAX_BATCH;
use protocol::record::{ENTRIES_MAX, Ticket};
#[cfg(any(test, feature = "damage"))]
use protocol::ring::block::SECTOR_AT;
use protocol::ring::block::{
    Blocks, Body, Limits, REQUEST_SIZE, RawRequest, Request, SECTOR, SEGMENT_SIZE, Segment, Segments, Status,
    direct_segments, response,
};
use protocol::ring::order::{InFlight, Reach, Sectors};
use unikernel::backend::{Broken, Cause, DevicePages, Host, Machine, Ring, Wanted};
use unikernel::grant::{Access, DevicePage, Source};

use crate::disk::{Costs, Disk, Operation, Outcome, Piece};
use crate::kept::{KEPT_MAX, Kept};
use crate::parameters::Parameters;
use crate::pieces::{Chain, Page, Pieces};

/// Most segments of an indirect request that is offered: 128 KiB, as much as Linux uses unless it is told otherwise, and few enough that
/// two fit into one batch of mappings. Their descriptors fit into one page.
pub const SEGMENTS_MAX: usize = 32;
/// Requests taken from a ring in one turn.
const REQUESTS_PER_TURN: usize = 64;
/// Segments that one connection can have under way, whatever the size of its ring.
const PIECES_MAX: usize = 2048;
/// Bits of a request that a damaged record is damaged in: of the first sector, those that nobody misses but who knows the content. A
/// request that was executed so would be answered like any other.
#[cfg(any(test, feature = "damage"))]
const PLACE_BITS: core::ops::Range<usize> = (SECTOR_AT * 8 + 3)..(SECTOR_AT * 8 + 13);
/// Failed requests of one connection that the log tells of. The others are counted: a frontend can make as many as it likes.
const FAILURES_TOLD: u8 = 8;

/// Buffers for one batch, shared by all connections.
#[derive(Debug, Default)]
pub struct Batch {
    /// Requests to be started.
    slots: Short<u16, MAX_BATCH>,
    /// The pieces of one of them.
    pieces: Short<Piece, SEGMENTS_MAX>,
    wanted: Short<Wanted, MAX_BATCH>,
    found: Short<CallResult<DevicePage>, MAX_BATCH>,
    /// Mappings of pages that others took the place of.
    replaced: Short<u32, MAX_BATCH>,
}

/// A request that was taken and is well formed.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    ticket: Ticket,
    id: u64,
    echo: u8,
    /// Its sectors counted from the start of the disk.
    operation: Operation,
    chain: Chain,
    bytes: u32,
    /// When it was given to the device first, in ns.
    since: u64,
    in_device: bool,
}

impl UnderWay {
    fn cost(&self, costs: Costs) -> usize {
        costs.of(self.operation, self.chain.length())
    }

    /// Gives it to the device, at this time; `false` if there is nothing to be done.
    #[inline(always)]
    fn submit(&mut self, tag: u32, disk: &mut dyn Disk, pieces: &[Piece], now: u64) -> Result<bool, Cause> {
        if self.operation == Operation::Flush && !disk.properties().cache {
            return Ok(false);
        }
        disk.submit(tag, self.operation, pieces)?;
        self.in_device = true;
        self.since = if self.since == 0 { now } else { self.since };
        Ok(true)
    }
}

const NOTHING: UnderWay = UnderWay {
    ticket: Ticket::NONE,
    id: 0,
    echo: 0,
    operation: Operation::Flush,
    chain: Chain::EMPTY,
    bytes: 0,
    since: 0,
    in_device: false,
};

/// What a connection is to; fixed when it is attached.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The frontend, as an index into the peer table.
    pub peer: u16,
    /// Its pages may stay mapped.
    pub persistent: bool,
    /// Which disk.
    pub disk: usize,
    /// Its place on the disk: first sector and how many; `None` for the whole disk.
    pub part: Option<(u64, u64)>,
    /// What the frontend was promised.
    pub parameters: Parameters,
}

/// What the requests of a connection can reach.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    limits: Limits,
    /// Where that begins on the disk.
    base: u64,
    /// Bits of a number of ring sectors that are inside one of the disk's own.
    inside_sector: u64,
}

impl Bounds {
    /// What a well-formed request comes to, a transfer with so many sectors; `None` if it does not lie on the target, in whole
    /// sectors of the disk.
    #[inline(always)]
    fn plan(&self, body: &Body, sectors: u64) -> Option<(Operation, Reach)> {
        let reach = match *body {
            Body::Flush => return Some((Operation::Flush, Reach::Flush)),
            Body::Discard { sector, sectors } => Sectors { first: sector, count: sectors },
            Body::Transfer { sector, .. } => Sectors { first: sector, count: sectors },
        };
        let whole = (reach.first | reach.count) & self.inside_sector == 0;
        if !whole || !self.limits.holds(reach.first, reach.count) {
            return None;
        }
        let sector = self.base + reach.first;
        Some(match body {
            Body::Transfer { write: false, .. } => (Operation::Read { sector }, Reach::Read(reach)),
            Body::Transfer { write: true, .. } => (Operation::Write { sector }, Reach::Write(reach)),
            _ => (Operation::Discard { sector, sectors: reach.count }, Reach::Write(reach)),
        })
    }
}

/// A connection.
pub struct Connection<M: Machine> {
    ring: Ring<M, Blocks>,
    goal: Goal,
    bounds: Bounds,
    order: Box<InFlight<ENTRIES_MAX>>,
    /// By slot of the record.
    under_way: Vec<UnderWay>,
    pieces: Pieces,
    kept: Kept,
    in_device: u32,
    failures_told: u8,
}

impl<M: DevicePages> Connection<M> {
    /// A connection over a ring that was just attached; `sectors` is the size of the whole disk. `None` without memory for it.
    pub fn new(ring: Ring<M, Blocks>, goal: Goal, sectors: u64) -> Option<Connection<M>> {
        let entries = ring.entries() as usize;
        let mut under_way = Vec::new();
        under_way.try_reserve_exact(entries).ok()?;
        under_way.resize(entries, NOTHING);
        let pieces = Pieces::new((entries * SEGMENTS_MAX).min(PIECES_MAX))?;
        let limits = Limits { sectors: 0, read_only: false, flush: true, discard: false, indirect: 0 };
        let mut connection = Connection {
            ring,
            goal,
            bounds: Bounds {
                limits,
                base: goal.part.map_or(0, |(first, _)| first),
                inside_sector: (u64::from(goal.parameters.limits(0).sector_size) / SECTOR).saturating_sub(1),
            },
            order: Box::new(InFlight::new()),
            under_way,
            pieces,
            kept: Kept::new(goal.persistent)?,
            in_device: 0,
            failures_told: 0,
        };
        connection.resize(sectors);
        Some(connection)
    }

    /// What it is to.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// The whole disk has this size now.
    pub fn resize(&mut self, sectors: u64) {
        let told = self.goal.parameters.limits(self.goal.part.map_or(sectors, |(_, count)| count));
        self.bounds.limits = Limits {
            sectors: told.sectors,
            read_only: told.read_only,
            flush: told.flush,
            discard: told.discard,
            indirect: told.indirect_segments,
        };
    }

    /// What the frontend is told.
    pub fn disk_limits(&self) -> DiskLimits {
        self.goal.parameters.limits(self.bounds.limits.sectors)
    }

    /// What was counted.
    pub fn statistics(&self) -> Statistics {
        self.ring.counted()
    }

    /// Requests with the device.
    pub const fn in_device(&self) -> u32 {
        self.in_device
    }

    /// Since when the oldest request with the device is there, in ns.
    pub fn oldest(&self) -> Option<u64> {
        self.under_way.iter().filter(|one| one.in_device).map(|one| one.since).min()
    }

    /// Puts requests of a former incarnation of this domain in order, before any new one.
    pub fn replay(&mut self, host: &Host<M>, replays: &[Ticket]) {
        let mut raw = [0; REQUEST_SIZE];
        for &ticket in replays {
            self.ring.request(ticket, &mut raw);
            self.accept(host, ticket, &raw);
        }
    }

    /// Takes requests, starts what may start, publishes what was answered without the device; gives whether there is more to
    /// do at once.
    #[inline(never)]
    pub fn serve(
        &mut self,
        host: &Host<M>,
        number: u16,
        disk: &mut dyn Disk,
        batch: &mut Batch,
    ) -> Result<bool, Broken> {
        let mut raw = [0; REQUEST_SIZE];
        let mut left = REQUESTS_PER_TURN;
        while left > 0
            && self.has_room()
            && let Some(ticket) = self.ring.take(host, &mut raw)?
        {
            self.accept(host, ticket, &raw);
            left -= 1;
            #[cfg(any(test, feature = "damage"))]
            self.ring.pass_damage(host, PLACE_BITS);
        }
        while self.start(host, number, disk, batch) {}
        self.publish(host);
        let next = self.order.next().map(|slot| self.under_way[slot as usize].cost(disk.costs()));
        Ok((left == 0 && self.has_room()) || next.is_some_and(|cost| cost <= disk.room()))
    }

    /// Whether the largest request there can be could be taken.
    fn has_room(&self) -> bool {
        self.pieces.room() >= SEGMENTS_MAX
    }

    /// Before sleep: gives whether there is something to be taken after all. Without room it is what the device completes
    /// that wakes the domain.
    pub fn rearm(&mut self, host: &Host<M>) -> Result<bool, Broken> {
        Ok(self.ring.rearm(host)? && self.has_room())
    }

    /// Judges a request and puts it in order, or answers it at once.
    #[inline(always)]
    fn accept(&mut self, host: &Host<M>, ticket: Ticket, raw: &RawRequest) {
        let one = &mut self.under_way[ticket.slot() as usize];
        let (id, echo, status) = match Request::parse_head(raw, &self.bounds.limits) {
            Err(refused) => (refused.id, refused.echo, refused.status),
            Ok(Request { id, echo, body }) => {
                let filled = match &body {
                    Body::Transfer { segments: Segments::Direct(_), .. } => {
                        self.pieces.fill(&mut one.chain, direct_segments(raw))
                    }
                    Body::Transfer { segments: Segments::Indirect { count, pages }, .. } => {
                        let page = Source { peer: self.goal.peer, reference: pages[0] };
                        self.ring.statistics.grant_calls += 1;
                        indirect(host, page, *count, &mut self.pieces, &mut one.chain)
                    }
                    Body::Flush | Body::Discard { .. } => Some(0),
                };
                if let Some((operation, reach)) = filled.and_then(|sectors| self.bounds.plan(&body, sectors)) {
                    (one.ticket, one.id, one.echo, one.operation) = (ticket, id, echo, operation);
                    (one.bytes, one.since, one.in_device) = ((filled.unwrap_or(0) * SECTOR) as u32, 0, false);
                    // There is room: the order has as many places as the largest ring.
                    let _ = self.order.add(ticket.slot(), reach);
                    return;
                }
                self.pieces.free(&mut one.chain);
                (id, echo, Status::Error)
            }
        };
        self.answer(host, ticket, id, echo, status);
    }

    /// Starts one batch; gives whether there may be another.
    #[inline(always)]
    fn start(&mut self, host: &Host<M>, number: u16, disk: &mut dyn Disk, batch: &mut Batch) -> bool {
        batch.slots.clear();
        batch.wanted.clear();
        batch.found.clear();
        let mut started = false;
        let (mut room, costs, now) = (disk.room(), disk.costs(), host.machine.now());
        let Goal { peer, .. } = self.goal;
        while let Some(slot) = self.order.next() {
            let one = &mut self.under_way[slot as usize];
            let cost = one.cost(costs);
            let before = batch.wanted.len();
            if cost > room || before + one.chain.length() > MAX_BATCH || batch.slots.is_full() {
                break;
            }
            room -= cost;
            // What is kept has to serve for both.
            let reads_only = matches!(one.operation, Operation::Write { .. }) && !self.kept.is_wanted();
            let access = if reads_only { Access::Read } else { Access::Write };
            batch.pieces.clear();
            self.pieces.for_each(&mut one.chain, |entry| {
                let reference = entry.segment.reference;
                if let Some((used, address)) = self.kept.find(reference) {
                    entry.page = Page::Kept(used, address);
                    // There is room: no request has more segments.
                    let _ = batch.pieces.push(piece(peer, entry.segment, address));
                } else {
                    // There is room: it was just looked at.
                    let _ = batch.wanted.push(Wanted { source: Source { peer, reference }, access });
                }
            });
            self.order.start();
            // Whatever may start may do so in any order.
            if batch.wanted.len() != before {
                let _ = batch.slots.push(slot);
                continue;
            }
            started = true;
            match one.submit(tag(number, slot), disk, &batch.pieces, now) {
                Ok(true) => self.in_device += 1,
                Ok(false) => self.finish(host, number, slot, Ok(())),
                refused => self.give_up(host, number, slot, refused.map(drop)),
            }
        }
        if !batch.slots.is_empty() {
            self.start_mapped(host, number, disk, batch, now);
        }
        started || !batch.slots.is_empty()
    }

    /// Maps the pages that the requests of a batch wait for, and starts them.
    #[inline(never)]
    fn start_mapped(&mut self, host: &Host<M>, number: u16, disk: &mut dyn Disk, batch: &mut Batch, now: u64) {
        self.ring.statistics.grant_calls += 1;
        host.machine.map_pages(&batch.wanted, &mut batch.found);
        let mut found = batch.found.iter().copied();
        for &slot in &batch.slots {
            let started = self.enter(slot, &mut found, &mut batch.replaced).and_then(|()| {
                self.list(slot, &mut batch.pieces);
                self.under_way[slot as usize].submit(tag(number, slot), disk, &batch.pieces, now)
            });
            match started {
                Ok(true) => self.in_device += 1,
                Ok(false) => self.finish(host, number, slot, Ok(())),
                refused => self.give_up(host, number, slot, refused.map(drop)),
            }
        }
        if !batch.replaced.is_empty() {
            self.ring.statistics.grant_calls += 1;
            host.machine.unmap_pages(&batch.replaced);
            batch.replaced.clear();
        }
    }

    /// Notes the pages of a request that were just mapped, `found` in the order of those that were not kept; fails without all
    /// of them.
    fn enter(
        &mut self,
        slot: u16,
        found: &mut impl Iterator<Item = CallResult<DevicePage>>,
        replaced: &mut Short<u32, MAX_BATCH>,
    ) -> Outcome {
        let (mut outcome, mut place) = (Ok(()), 0);
        self.pieces.for_each(&mut self.under_way[slot as usize].chain, |entry| {
            place += 1;
            if entry.page != Page::Absent {
                return;
            }
            let Some(Ok(page)) = found.next() else {
                let missing = Err(Cause::Number("it names a page that cannot be had, segment", place - 1));
                outcome = outcome.and(missing);
                return;
            };
            entry.page = match self.kept.keep(entry.segment.reference, page) {
                None => Page::Mapped(page),
                Some((used, former)) => {
                    // There is room: no more are replaced than were mapped.
                    if let Some(mapping) = former {
                        let _ = replaced.push(mapping);
                    }
                    Page::Kept(used, page.address)
                }
            };
        });
        outcome
    }

    /// The pieces of a request whose pages are all mapped.
    fn list(&self, slot: u16, pieces: &mut Short<Piece, SEGMENTS_MAX>) {
        pieces.clear();
        for entry in self.pieces.iter(&self.under_way[slot as usize].chain) {
            let (Page::Mapped(DevicePage { address, .. }) | Page::Kept(_, address)) = entry.page else { continue };
            // There is room: no request has more segments.
            let _ = pieces.push(piece(self.goal.peer, entry.segment, address));
        }
    }

    /// A request does not get to the device.
    #[cold]
    fn give_up(&mut self, host: &Host<M>, number: u16, slot: u16, outcome: Outcome) {
        let mut mappings = Short::<u32, SEGMENTS_MAX>::new();
        self.release(slot, |mapping| {
            // There is room: no request has more segments.
            let _ = mappings.push(mapping);
        });
        if !mappings.is_empty() {
            self.ring.statistics.grant_calls += 1;
            host.machine.unmap_pages(&mappings);
        }
        self.finish(host, number, slot, outcome);
    }

    /// A request does not use its pages any more: gives those that have to be unmapped.
    #[inline(always)]
    fn release(&mut self, slot: u16, mut unmap: impl FnMut(u32)) {
        self.pieces.for_each(&mut self.under_way[slot as usize].chain, |entry| {
            match core::mem::take(&mut entry.page) {
                Page::Absent => {}
                Page::Mapped(page) => unmap(page.mapping),
                Page::Kept(used, _) => self.kept.release(used),
            }
        });
    }

    /// The connection is closing, and nothing of it is with the device: unmaps what was kept.
    pub fn let_go(&mut self, host: &Host<M>) {
        let mut mappings = Short::<u32, KEPT_MAX>::new();
        // There is room: there are no more places.
        for mapping in self.kept.drain() {
            let _ = mappings.push(mapping);
        }
        if !mappings.is_empty() {
            host.machine.unmap_pages(&mappings);
        }
    }

    /// The device is done with a request: gives the pages that have to be unmapped before it is answered. `false` if it is not
    /// with the device.
    pub fn completed(&mut self, slot: u16, unmap: impl FnMut(u32)) -> bool {
        let Some(one) = self.under_way.get_mut(slot as usize).filter(|one| one.in_device) else { return false };
        one.in_device = false;
        self.in_device -= 1;
        self.release(slot, unmap);
        true
    }

    /// Answers a request whose pages are not mapped for it any more.
    #[inline(always)]
    pub fn finish(&mut self, host: &Host<M>, number: u16, slot: u16, outcome: Outcome) {
        let one = &mut self.under_way[slot as usize];
        self.pieces.free(&mut one.chain);
        let UnderWay { ticket, id, echo, operation, bytes, .. } = *one;
        if let Err(cause) = outcome {
            self.tell(number, operation, bytes, cause);
        }
        let done = outcome.is_ok();
        match operation {
            Operation::Read { .. } if done => self.ring.statistics.read += u64::from(bytes),
            Operation::Write { .. } if done => self.ring.statistics.written += u64::from(bytes),
            _ => {}
        }
        self.answer(host, ticket, id, echo, if done { Status::Okay } else { Status::Error });
    }

    #[cold]
    fn tell(&mut self, number: u16, operation: Operation, bytes: u32, cause: Cause) {
        if self.failures_told < FAILURES_TOLD {
            self.failures_told += 1;
            log::warn!("connection {number}: {operation:?} of {bytes} bytes failed: {cause}");
        }
    }

    #[inline(always)]
    fn answer(&mut self, host: &Host<M>, ticket: Ticket, id: u64, echo: u8, status: Status) {
        self.ring.statistics.errors += u64::from(status != Status::Okay);
        self.ring.answer(host, ticket, &response(id, echo, status));
    }

    /// Shows the frontend what was answered. Only then may what waited for it start: a request that is started sooner could
    /// run before one that is executed again.
    pub fn publish(&mut self, host: &Host<M>) {
        let order = &mut self.order;
        self.ring.publish(host, |slot| order.answered(slot));
    }

    /// A hypercall on grants was made for it.
    pub fn count_grant_call(&mut self) {
        self.ring.statistics.grant_calls += 1;
    }

    /// The device was reset and has forgotten everything: its requests have to be started again.
    pub fn device_was_reset(&mut self, host: &Host<M>) {
        let mut mapped = Short::<u32, MAX_BATCH>::new();
        for slot in 0..self.under_way.len() as u16 {
            mapped.clear();
            // There is room: no request has more segments.
            let completed = self.completed(slot, |mapping| {
                let _ = mapped.push(mapping);
            });
            if completed {
                if !mapped.is_empty() {
                    host.machine.unmap_pages(&mapped);
                }
                self.order.restart(slot);
            }
        }
    }
}

/// Copies the descriptors of an indirect request from its page, once, and keeps what they say; gives the sectors.
#[inline(never)]
fn indirect<M: DevicePages>(
    host: &Host<M>,
    page: Source,
    count: u16,
    pieces: &mut Pieces,
    chain: &mut Chain,
) -> Option<u64> {
    let mut raw = [0; SEGMENTS_MAX * SEGMENT_SIZE];
    let raw = raw.get_mut(..count as usize * SEGMENT_SIZE)?;
    host.machine.copy(page, raw).ok()?;
    pieces.fill(chain, raw.as_chunks::<SEGMENT_SIZE>().0.iter().map(Segment::parse))
}

/// Where the device finds a segment, whose page has this device address.
fn piece(peer: u16, segment: Segment, address: u64) -> Piece {
    Piece { page: address, peer, reference: segment.reference, first: segment.first, last: segment.last }
}

/// The tag of a request at its disk.
pub const fn tag(connection: u16, slot: u16) -> u32 {
    (connection as u32) << 16 | slot as u32
}

/// Connection and slot of a tag.
pub const fn untag(tag: u32) -> (u16, u16) {
    ((tag >> 16) as u16, tag as u16)
}
