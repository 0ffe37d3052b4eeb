//! A network backend that crashes at every store, against a frontend and a wire that check what they are promised.
//!
//! Every frame carries its number: the wire sees none twice and none torn, the frontend gets an answer of the right kind for
//! every slot, and on receive each response stands where its buffer stood.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::mutant::{Mutant, Mutated};
use crate::record::Whole;
use crate::record::testing::{Dice, Fuse, View};
use crate::ring::sring::{self, Front};
use proptest::prelude::*;

/// Steps of one life of a backend.
const STEPS: usize = 60;

/// Both ends of one ring.
struct Side {
    page: RefCell<Vec<u8>>,
    record: RefCell<Vec<u8>>,
    front: Front,
}

impl Side {
    fn new(geometry: sring::Geometry) -> Side {
        let page = RefCell::new(std::vec![0; 4096]);
        sring::initialise(&View { bytes: &page, fuse: None });
        let record = RefCell::new(std::vec![0; crate::record::size(geometry)]);
        Side { page, record, front: Front::new(geometry) }
    }
}

fn text(violation: Violation) -> String {
    format!("{violation}")
}

/// The transmit ring.
struct World {
    side: Side,
    /// Slots without an answer, by id.
    open: BTreeMap<u16, u32>,
    extras: usize,
    /// Frames asked to be sent: how many data slots.
    frames: Vec<u32>,
    /// What became of each frame's slots.
    answers: BTreeMap<u32, Vec<i16>>,
    wire: Vec<u32>,
    next_id: u16,
}

impl World {
    fn new() -> World {
        World {
            side: Side::new(TRANSMIT),
            open: BTreeMap::new(),
            extras: 0,
            frames: Vec::new(),
            answers: BTreeMap::new(),
            wire: Vec::new(),
            next_id: 0,
        }
    }

    /// Writes one packet; the frame's number is in every slot's reference, the slot's place in its offset.
    fn ask(&mut self, dice: &mut Dice) {
        let (data, extra) = (1 + dice.roll(3) as u32, dice.roll(3) == 0);
        if self.side.front.room() < data + 1 {
            return;
        }
        let (frame, page) = (self.frames.len() as u32, View { bytes: &self.side.page, fuse: None });
        self.frames.push(data);
        for place in 0..data {
            let mut flags = if place + 1 < data { flag::transmit::MORE_DATA } else { 0 };
            flags |= if place == 0 && extra { flag::transmit::EXTRA_INFO } else { 0 };
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            self.open.insert(id, frame);
            let slot = TransmitRequest { reference: frame, offset: place as u16, flags, id, size: data as u16 };
            assert!(self.side.front.write(&page, &slot.encode()));
            if place == 0 && extra {
                assert!(self.side.front.write(&page, &[1, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]));
                self.extras += 1;
            }
        }
        let _ = self.side.front.publish(&page);
    }

    fn hear(&mut self) -> Result<(), String> {
        let page = View { bytes: &self.side.page, fuse: None };
        let mut raw = [0; 4];
        while self.side.front.take(&page, &mut raw).map_err(text)? {
            let (id, status) = (u16::from_le_bytes([raw[0], raw[1]]), i16::from_le_bytes([raw[2], raw[3]]));
            if status == status::NULL {
                self.extras = self.extras.checked_sub(1).ok_or("extra information was answered twice")?;
                continue;
            }
            let frame = self.open.remove(&id).ok_or_else(|| format!("an answer to {id}, which waits for none"))?;
            self.answers.entry(frame).or_default().push(status);
        }
        Ok(())
    }

    /// One life of a backend.
    fn life(&mut self, dice: &mut Dice, fuse: &Fuse, mutant: &Off) -> Result<(), String> {
        let (pages, records) = (self.side.page.clone(), self.side.record.clone());
        let outcome = self.live(dice, fuse, mutant, &pages, &records);
        self.side.page.swap(&pages);
        self.side.record.swap(&records);
        if fuse.burnt() { Ok(()) } else { outcome }
    }

    fn live(
        &mut self,
        dice: &mut Dice,
        fuse: &Fuse,
        mutant: &Off,
        pages: &RefCell<Vec<u8>>,
        records: &RefCell<Vec<u8>>,
    ) -> Result<(), String> {
        let page = View { bytes: pages, fuse: Some(fuse) };
        let record = Mutated::new::<Whole>(View { bytes: records, fuse: Some(fuse) }, TRANSMIT, mutant.step);
        let mut ring = match mutant.sends_again {
            false => Transmit::attach(&record, &page, 1, b"test").map_err(|error| format!("{error:?}"))?.ring,
            true => self.attach_and_send_again(&record, &page, fuse)?,
        };
        let mut taken = Vec::<Packet>::new();
        for _ in 0..STEPS {
            if fuse.burnt() {
                return Ok(());
            }
            match dice.roll(5) {
                0 => {
                    self.side.page.swap(pages);
                    self.ask(dice);
                    let heard = self.hear();
                    self.side.page.swap(pages);
                    heard?;
                }
                1 | 2 if mutant.piecemeal => taken.extend(take_piecemeal(&mut ring, &record, &page).map_err(text)?),
                1 | 2 => taken.extend(next(&mut ring, &record, &page).map_err(text)?),
                3 if !taken.is_empty() => {
                    // Out of order, now and then: a device may complete so.
                    let packet = taken.remove(dice.roll(taken.len() as u64) as usize);
                    self.send(&packet.data, fuse)?;
                    ring.answer(&record, &page, &packet, status::OKAY, || ());
                }
                _ => {
                    let _ = ring.publish(&record, &page);
                }
            }
        }
        Ok(())
    }

    /// What a backend that takes a network for a disk would do.
    fn attach_and_send_again(
        &mut self,
        record: &impl Shared,
        page: &View<'_>,
        fuse: &Fuse,
    ) -> Result<Transmit, String> {
        let attached = Journal::attach(record, page, TRANSMIT, 1, b"test").map_err(|error| format!("{error:?}"))?;
        let mut journal = attached.journal;
        for ticket in attached.replays {
            let mut kept = [0; 12];
            journal.request(record, ticket, &mut kept);
            let id = u16::from_le_bytes([kept[0], kept[1]]);
            if let Some(&frame) = self.open.get(&id)
                && !fuse.burnt()
            {
                self.wire.push(frame);
            }
            journal.answer(record, page, ticket, &kept[..4], || ());
        }
        let _ = journal.publish(record, page);
        Ok(Transmit { journal })
    }

    fn send(&mut self, data: &[TransmitRequest], fuse: &Fuse) -> Result<(), String> {
        if fuse.burnt() {
            return Ok(());
        }
        let (frame, count) = (data[0].reference, data.len() as u32);
        let whole = data.iter().enumerate().all(|(place, slot)| (slot.reference, slot.offset) == (frame, place as u16));
        if !whole || self.frames.get(frame as usize) != Some(&count) {
            return Err(format!("frame {frame} was sent torn: {data:?}"));
        }
        self.wire.push(frame);
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        if !self.open.is_empty() || self.extras > 0 {
            return Err(format!("no answer to {:?}, nor to {} extras", self.open, self.extras));
        }
        let mut seen = self.wire.clone();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("frame {} was sent twice", twice[0]));
        }
        for (frame, statuses) in &self.answers {
            let uniform = statuses.iter().all(|status| *status == statuses[0]);
            let told = statuses[0] == status::OKAY;
            if !uniform || (told && !self.wire.contains(frame)) {
                return Err(format!("frame {frame} was answered {statuses:?}"));
            }
        }
        Ok(())
    }
}

/// Takes the next packet.
fn next(ring: &mut Transmit, record: &impl Shared, page: &View<'_>) -> Result<Option<Packet>, Violation> {
    let mut packet = ring.look(page, 0)?;
    packet.iter_mut().for_each(|packet| ring.take(record, packet, || ()));
    Ok(packet)
}

/// A packet without extra information, each slot taken by itself.
fn take_piecemeal(ring: &mut Transmit, record: &impl Shared, page: &View<'_>) -> Result<Option<Packet>, Violation> {
    let (mut packet, mut raw) = (Packet::default(), [0; 12]);
    while ring.journal.peek(page, 0, &mut raw)? {
        let slot = TransmitRequest::parse(&raw);
        if slot.flags & flag::transmit::EXTRA_INFO != 0 {
            break;
        }
        let mut kept = [0; 12];
        kept[..4].copy_from_slice(&transmit_response(slot.id, status::DROPPED));
        ring.journal.take(record, [kept], |ticket| packet.tickets.push(ticket).unwrap(), || ());
        packet.ids.push(Some(slot.id)).unwrap();
        packet.data.push(slot).unwrap();
        if slot.flags & flag::transmit::MORE_DATA == 0 {
            return Ok(Some(packet));
        }
    }
    next(ring, record, page)
}

/// Which step of the rule is switched off.
#[derive(Default)]
struct Off {
    step: Option<Mutant>,
    /// Transmit: what was taken is sent again.
    sends_again: bool,
    /// Transmit: the slots of a packet are taken one by one.
    piecemeal: bool,
    /// Receive: buffers left over are answered last instead of first.
    forgets_left: bool,
}

/// Sends frames with a crash after each of `crashes` numbers of stores.
fn transmit(seed: u64, crashes: &[u64], mutant: &Off) -> Result<(), String> {
    let (mut dice, mut world) = (Dice(seed), World::new());
    for &stores in crashes {
        world.life(&mut dice, &Fuse(Cell::new(stores)), mutant)?;
    }
    for _ in 0..8 {
        world.life(&mut dice, &Fuse(Cell::new(u64::MAX)), mutant)?;
    }
    // One more attach answers what is left; what was not taken is taken.
    let page = View { bytes: &world.side.page, fuse: None };
    let record = Mutated::new::<Whole>(View { bytes: &world.side.record, fuse: None }, TRANSMIT, mutant.step);
    let mut ring = Transmit::attach(&record, &page, 1, b"test").map_err(|error| format!("{error:?}"))?.ring;
    while let Some(packet) = next(&mut ring, &record, &page).map_err(text)? {
        ring.answer(&record, &page, &packet, status::DROPPED, || ());
        let _ = ring.publish(&record, &page);
    }
    world.hear()?;
    world.judge()
}

/// The receive ring: a wire that sends numbered frames, each once, of one or two slots.
struct Inbound {
    side: Side,
    posted: u32,
    heard: u32,
    /// Number of the next frame from the wire.
    frame: u16,
    last: Option<u16>,
    half: Option<u16>,
}

impl Inbound {
    fn front(&mut self, dice: &mut Dice) -> Result<(), String> {
        let page = View { bytes: &self.side.page, fuse: None };
        for _ in 0..dice.roll(4) {
            let request = ReceiveRequest { id: (self.posted % 256) as u16, reference: self.posted + 7 };
            if !self.side.front.write(&page, &request.encode()) {
                break;
            }
            self.posted += 1;
        }
        let _ = self.side.front.publish(&page);
        let mut raw = [0; 8];
        while self.side.front.take(&page, &mut raw).map_err(text)? {
            let response = ReceiveResponse::parse(&raw);
            let reference = (self.heard + 7) as u16;
            if (response.id, response.offset) != ((self.heard % 256) as u16, reference) {
                return Err(format!("response {} is for another buffer: {response:?}", self.heard));
            }
            self.heard += 1;
            let frame = response.status as u16;
            let more = response.flags & flag::receive::MORE_DATA != 0;
            let fits = match self.half {
                Some(half) => half == frame && !more,
                None => self.last.is_none_or(|last| last < frame),
            };
            if !fits {
                return Err(format!("frame {frame} after {:?} and half of {:?}", self.last, self.half));
            }
            (self.last, self.half) = (Some(frame), more.then_some(frame));
        }
        Ok(())
    }

    fn life(&mut self, dice: &mut Dice, fuse: &Fuse, mutant: &Off) -> Result<(), String> {
        let (pages, records) = (self.side.page.clone(), self.side.record.clone());
        let outcome = self.live(dice, fuse, mutant, &pages, &records);
        self.side.page.swap(&pages);
        self.side.record.swap(&records);
        if fuse.burnt() { Ok(()) } else { outcome }
    }

    fn live(
        &mut self,
        dice: &mut Dice,
        fuse: &Fuse,
        mutant: &Off,
        pages: &RefCell<Vec<u8>>,
        records: &RefCell<Vec<u8>>,
    ) -> Result<(), String> {
        let page = View { bytes: pages, fuse: Some(fuse) };
        let record = Mutated::new::<Whole>(View { bytes: records, fuse: Some(fuse) }, RECEIVE, mutant.step);
        let (mut ring, _) = Receive::attach(&record, &page, 1, b"test").map_err(|error| format!("{error:?}"))?;
        if mutant.forgets_left {
            ring.left.clear();
        }
        for _ in 0..STEPS {
            if fuse.burnt() {
                return Ok(());
            }
            match dice.roll(4) {
                0 => {
                    self.side.page.swap(pages);
                    let heard = self.front(dice);
                    self.side.page.swap(pages);
                    heard?;
                }
                1 | 2 => {
                    let slots = 1 + dice.roll(2) as u32;
                    let frame = self.frame;
                    self.frame += 1;
                    if ring.available(&page).map_err(text)? < slots {
                        continue;
                    }
                    let buffers = (0..slots).filter_map(|_| ring.take(&record, &page, || ()).ok()?).collect::<Vec<_>>();
                    for (place, buffer) in buffers.iter().enumerate() {
                        let flags = if place + 1 < buffers.len() { flag::receive::MORE_DATA } else { 0 };
                        let offset = buffer.reference as u16;
                        ring.answer(
                            &record,
                            &page,
                            ReceiveResponse { id: buffer.id, offset, flags, status: frame as i16 },
                            || (),
                        );
                    }
                }
                _ => {
                    let _ = ring.publish(&record, &page);
                }
            }
        }
        Ok(())
    }
}

/// Receives frames with a crash after each of `crashes` numbers of stores.
fn receive(seed: u64, crashes: &[u64], mutant: &Off) -> Result<(), String> {
    let side = Side::new(RECEIVE);
    let (mut dice, mut world) = (Dice(seed), Inbound { side, posted: 0, heard: 0, frame: 1, last: None, half: None });
    for &stores in crashes {
        world.life(&mut dice, &Fuse(Cell::new(stores)), mutant)?;
    }
    for _ in 0..8 {
        world.life(&mut dice, &Fuse(Cell::new(u64::MAX)), mutant)?;
    }
    world.front(&mut dice)
}

type Run = fn(u64, &[u64], &Off) -> Result<(), String>;
const RINGS: [(&str, Run); 2] = [("transmit", transmit), ("receive", receive)];

#[test]
fn a_crash_at_every_store_doubles_tears_and_misplaces_nothing() {
    for (name, run) in RINGS {
        for seed in 0..4 {
            for stores in 520..840 {
                run(seed, &[stores], &Off::default())
                    .unwrap_or_else(|why| panic!("{name}, seed {seed}, crash at {stores}: {why}"));
            }
        }
    }
}

#[test]
fn a_crash_in_recovery_is_a_crash_like_any_other() {
    for (name, run) in RINGS {
        for first in (640..740).step_by(9) {
            for second in 0..40 {
                run(5, &[first, second, second / 2], &Off::default())
                    .unwrap_or_else(|why| panic!("{name}, crashes at {first} and {second}: {why}"));
            }
        }
    }
}

/// Stores before the first request is taken: those that make the record.
fn stores_of_format() -> u64 {
    let record = RefCell::new(std::vec![0; SIZE]);
    let fuse = Fuse(Cell::new(u64::MAX));
    let (page, view) = (RefCell::new(std::vec![0; 4096]), View { bytes: &record, fuse: Some(&fuse) });
    Transmit::attach(&view, &View { bytes: &page, fuse: None }, 1, b"test").unwrap();
    u64::MAX - fuse.0.get()
}

#[test]
fn the_crashes_tried_are_those_after_the_record_was_made() {
    assert!((510..530).contains(&stores_of_format()), "{}", stores_of_format());
}

fn caught(run: Run, mutant: &Off) -> bool {
    (0..6).any(|seed| (520..840).any(|stores| run(seed, &[stores], mutant).is_err()))
}

#[test]
fn every_step_of_the_rule_is_needed() {
    let steps = [Mutant::TakenStandsStill, Mutant::CopyNotKept, Mutant::NotMarkedHeld, Mutant::IndexNotNoted];
    let steps =
        steps.into_iter().chain([Mutant::FreedEarly, Mutant::RingReadAgain]).map(|step| (transmit as Run, step));
    for (run, step) in steps.chain([(receive as Run, Mutant::PublishedStandsStill)]) {
        let off = Off { step: Some(step), ..Off::default() };
        assert!(caught(run, &off), "nothing noticed {}", step.name());
    }
    assert!(caught(transmit, &Off { sends_again: true, ..Off::default() }), "frames sent again");
    assert!(caught(transmit, &Off { piecemeal: true, ..Off::default() }), "packets taken slot by slot");
    assert!(caught(receive, &Off { forgets_left: true, ..Off::default() }), "buffers left over are forgotten");
}

/// A transmit ring with these slots published.
fn ring(slots: &[TransmitRequest]) -> (Side, Transmit) {
    let mut side = Side::new(TRANSMIT);
    let (page, record) = (View { bytes: &side.page, fuse: None }, View { bytes: &side.record, fuse: None });
    for slot in slots {
        assert!(side.front.write(&page, &slot.encode()));
    }
    let _ = side.front.publish(&page);
    let ring = Transmit::attach(&record, &page, 1, b"").unwrap().ring;
    (side, ring)
}

fn take(side: &Side, ring: &mut Transmit) -> Result<Option<Packet>, Violation> {
    let view = |bytes| View { bytes, fuse: None };
    next(ring, &view(&side.record), &view(&side.page))
}

#[test]
fn packets_without_an_end_are_the_frontends_fault() {
    let more = TransmitRequest { flags: flag::transmit::MORE_DATA, ..TransmitRequest::default() };
    let (side, mut rings) = ring(&[more; 3]);
    assert_eq!(take(&side, &mut rings).unwrap_err(), Violation::Endless { slots: 3 });
    let (side, mut rings) = ring(&[more; 40]);
    assert_eq!(take(&side, &mut rings).unwrap_err(), Violation::Endless { slots: SLOTS_MAX as u32 });
    // Extra information that always announces more of it: byte 1 of a slot is the second byte of its reference.
    let extra = TransmitRequest { flags: flag::transmit::EXTRA_INFO, reference: 0x100, ..TransmitRequest::default() };
    let (side, mut rings) = ring(&[extra; 100]);
    assert_eq!(take(&side, &mut rings).unwrap_err(), Violation::Endless { slots: PACKET_SLOTS as u32 });
}

#[test]
fn extra_information_is_no_data_and_belongs_to_its_packet() {
    let slot = |id, flags| TransmitRequest { id, flags, ..TransmitRequest::default() };
    let both = flag::transmit::EXTRA_INFO | flag::transmit::MORE_DATA;
    let (side, mut rings) = ring(&[slot(1, both), slot(0, 0), slot(2, 0), slot(3, 0)]);
    let packet = take(&side, &mut rings).unwrap().unwrap();
    assert_eq!((packet.data.len(), packet.slots()), (2, 3));
    assert_eq!(take(&side, &mut rings).unwrap().unwrap().data[0].id, 3);
    assert!(take(&side, &mut rings).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn many_crashes_in_a_row(seed: u64, crashes in prop::collection::vec(0u64..1200, 0..8)) {
        for (name, run) in RINGS {
            prop_assert_eq!(run(seed, &crashes, &Off::default()), Ok(()), "{}", name);
        }
    }
}
