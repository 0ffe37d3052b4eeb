//! Crashes of a backend at every store it makes, against a frontend that checks what it is promised.
//!
//! The same with one step of the rule switched off has to fail: that is what shows that it looks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::testing::{Dice, Fuse, View};
use super::*;
use crate::mutant::{Mutant, Mutated};
use crate::ring::sring::Front;
use proptest::prelude::*;

/// Entries of the test ring; few, so that slots are used again soon.
const GEOMETRY: Geometry = Geometry { entries: 4, entry_size: 16, narrow: false };
/// Sectors of the test disk; few, so that requests overlap.
const SECTORS: usize = 3;

/// Request: id, sector, value (0: read). Response: id, value read.
type Ask = (u32, u32, u64);

/// Requests whose value lies behind the head, if it is not 0; what lies there otherwise says nothing.
#[derive(Debug)]
struct Numbers;

/// In the sector of a request: it has a value.
const WRITES: u32 = 1 << 31;

impl Entry for Numbers {
    const HEAD: usize = 8;

    fn used(request: &[u8]) -> usize {
        if request[7] & 0x80 == 0 { 8 } else { 16 }
    }
}

fn pack(id: u32, sector: u32, value: u64) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..4].copy_from_slice(&id.to_le_bytes());
    let writes = if value == 0 { 0 } else { WRITES };
    raw[4..8].copy_from_slice(&(sector | writes).to_le_bytes());
    raw[8..].copy_from_slice(&if value == 0 { u64::MAX } else { value }.to_le_bytes());
    raw
}

fn answer(id: u32, value: u64) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..4].copy_from_slice(&id.to_le_bytes());
    raw[8..].copy_from_slice(&value.to_le_bytes());
    raw
}

fn unpack(raw: &[u8]) -> Ask {
    let word = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
    let value = u64::from_le_bytes(raw[8..16].try_into().unwrap());
    (word(0), word(4) & !WRITES, if word(4) & WRITES == 0 { 0 } else { value })
}

struct World {
    page: RefCell<Vec<u8>>,
    record: RefCell<Vec<u8>>,
    disk: RefCell<[u64; SECTORS]>,
    front: Front,
    asks: Vec<Ask>,
    answers: BTreeMap<u32, u64>,
}

impl World {
    fn new(dice: &mut Dice, requests: u32) -> World {
        let asks =
            (0..requests).map(|id| (id, dice.roll(SECTORS as u64) as u32, dice.roll(2) * (1000 + id as u64))).collect();
        let world = World {
            page: RefCell::new(std::vec![0; 4096]),
            record: RefCell::new(std::vec![0; size(GEOMETRY)]),
            disk: RefCell::new([0; SECTORS]),
            front: Front::new(GEOMETRY),
            asks,
            answers: BTreeMap::new(),
        };
        sring::initialise(&world.outside());
        world
    }

    fn outside(&self) -> View<'_> {
        View { bytes: &self.page, fuse: None }
    }

    /// What each request has to be answered, by the order in which they were asked.
    fn expected(&self) -> BTreeMap<u32, u64> {
        let mut disk = [0; SECTORS];
        let answer = |&(id, sector, value): &Ask| {
            let place = &mut disk[sector as usize];
            if value != 0 {
                *place = value;
            }
            (id, *place)
        };
        self.asks.iter().map(answer).collect()
    }

    fn frontend(&mut self, next: &mut usize) -> Result<(), String> {
        let page = View { bytes: &self.page, fuse: None };
        while let Some(&(id, sector, value)) = self.asks.get(*next)
            && self.front.write(&page, &pack(id, sector, value))
        {
            *next += 1;
        }
        let _ = self.front.publish(&page);
        let mut raw = [0; 16];
        while self.front.take(&page, &mut raw).map_err(|violation| format!("{violation}"))? {
            let id = unpack(&raw).0;
            let value = u64::from_le_bytes(raw[8..].try_into().unwrap());
            if self.answers.insert(id, value).is_some() {
                return Err(format!("request {id} was answered twice"));
            }
        }
        Ok(())
    }

    /// One life of a backend; ends when its fuse has burnt or nothing is left to do.
    fn backend(
        &mut self,
        dice: &mut Dice,
        fuse: &Fuse,
        mutant: Option<Mutant>,
        next: &mut usize,
    ) -> Result<(), String> {
        // The world is borrowed piecemeal: the frontend runs between the steps of the backend.
        let (pages, records) = (RefCell::clone(&self.page), RefCell::clone(&self.record));
        self.page.swap(&pages);
        self.record.swap(&records);
        let outcome = self.life(dice, fuse, mutant, next, &pages, &records);
        self.page.swap(&pages);
        self.record.swap(&records);
        // What a dead backend thinks it sees does not matter.
        if fuse.burnt() { Ok(()) } else { outcome }
    }

    fn life(
        &mut self,
        dice: &mut Dice,
        fuse: &Fuse,
        mutant: Option<Mutant>,
        next: &mut usize,
        pages: &RefCell<Vec<u8>>,
        records: &RefCell<Vec<u8>>,
    ) -> Result<(), String> {
        let page = View { bytes: pages, fuse: Some(fuse) };
        let record = Mutated::new::<Numbers>(View { bytes: records, fuse: Some(fuse) }, GEOMETRY, mutant);
        let attached =
            Journal::<Numbers>::attach(&record, &page, GEOMETRY, 1, b"test").map_err(|error| format!("{error:?}"))?;
        let (mut journal, mut flying) = (attached.journal, attached.replays);
        let mut answered: Vec<(u32, u32)> = Vec::new();
        for _ in 0..400 {
            if fuse.burnt() {
                return Ok(());
            }
            match dice.roll(4) {
                0 => {
                    self.page.swap(pages);
                    let done = self.frontend(next);
                    self.page.swap(pages);
                    done?;
                }
                1 => {
                    let mut raw = [0; 16];
                    if let Some(ticket) =
                        journal.next(&record, &page, &mut raw, || ()).map_err(|violation| format!("{violation}"))?
                    {
                        let _ = flying.push(ticket);
                    }
                }
                2 if !flying.is_empty() => {
                    let pick = dice.roll(flying.len() as u64) as usize;
                    let ask = self.read(&journal, &record, flying[pick]);
                    let older = flying.iter().filter(|t| before(t.index, flying[pick].index));
                    let blocked = older.map(|&t| self.read(&journal, &record, t).1).any(|sector| sector == ask.1)
                        || answered.iter().any(|&(index, sector)| sector == ask.1 && before(index, flying[pick].index));
                    if !blocked {
                        let ticket = flying.remove(pick);
                        let value = self.execute(ask, fuse);
                        journal.answer(&record, &page, ticket, &answer(ask.0, value), || ());
                        answered.push((ticket.index, ask.1));
                    }
                }
                _ => {
                    let _ = journal.publish(&record, &page);
                    answered.clear();
                }
            }
        }
        Ok(())
    }

    fn read(&self, journal: &Journal<Numbers>, record: &impl Shared, ticket: Ticket) -> Ask {
        let mut raw = [0; 16];
        journal.request(record, ticket, &mut raw);
        unpack(&raw)
    }

    fn execute(&self, (_, sector, value): Ask, fuse: &Fuse) -> u64 {
        let place = &mut self.disk.borrow_mut()[sector as usize % SECTORS];
        if value != 0 && !fuse.burnt() {
            *place = value;
        }
        *place
    }
}

/// Runs a workload with a crash after each of `crashes` numbers of stores.
fn run(seed: u64, requests: u32, crashes: &[u64], mutant: Option<Mutant>) -> Result<(), String> {
    let mut dice = Dice(seed);
    let mut world = World::new(&mut dice, requests);
    let mut next = 0;
    for &stores in crashes {
        world.backend(&mut dice, &Fuse(Cell::new(stores)), mutant, &mut next)?;
    }
    for _ in 0..40 {
        world.backend(&mut dice, &Fuse(Cell::new(u64::MAX)), mutant, &mut next)?;
        world.frontend(&mut next)?;
        if world.answers.len() == requests as usize {
            break;
        }
    }
    if world.answers != world.expected() {
        return Err(format!("answers {:?} instead of {:?}", world.answers, world.expected()));
    }
    Ok(())
}

#[test]
fn a_crash_at_every_store_loses_doubles_and_reorders_nothing() {
    for seed in 0..12 {
        for stores in 0..200 {
            run(seed, 10, &[stores], None).unwrap_or_else(|why| panic!("seed {seed}, crash at {stores}: {why}"));
        }
    }
}

#[test]
fn a_crash_during_recovery_is_a_crash_like_any_other() {
    for first in (10..120).step_by(7) {
        for second in 0..40 {
            run(3, 10, &[first, second, second / 2], None)
                .unwrap_or_else(|why| panic!("crashes at {first} and {second}: {why}"));
        }
    }
}

#[test]
fn every_step_of_the_rule_is_needed() {
    // These are steps of those who carry out the requests; a copy that is damaged is no matter of crashes.
    let others = [
        Mutant::ReplaysReversed,
        Mutant::ReplaysDropped,
        Mutant::KickOmitted,
        Mutant::ConflictsIgnored,
        Mutant::DamageBelieved,
    ];
    for mutant in Mutant::ALL.into_iter().filter(|mutant| !others.contains(mutant)) {
        let caught = (0..12).any(|seed| (0..200).any(|stores| run(seed, 10, &[stores], Some(mutant)).is_err()));
        assert!(caught, "nothing noticed {}", mutant.name());
    }
}

#[test]
fn a_producer_nobody_published_is_the_frontends_fault() {
    let (page, record) = (RefCell::new(std::vec![0; 4096]), RefCell::new(std::vec![0; size(GEOMETRY)]));
    let view = |bytes| View { bytes, fuse: None };
    Journal::<Numbers>::attach(&view(&record), &view(&page), GEOMETRY, 1, b"").unwrap();
    for wrong in [1, 2, u32::MAX, 1 << 31] {
        view(&page).store_u32(sring::RESPONSE_PRODUCER, wrong);
        let found = Journal::<Numbers>::attach(&view(&record), &view(&page), GEOMETRY, 1, b"").unwrap_err();
        assert!(matches!(found, AttachError::Peer(Violation::IndexJump { .. })), "{found:?}");
    }
}

#[test]
fn a_damaged_copy_is_never_replayed() {
    let (page, record) = (RefCell::new(std::vec![0; 4096]), RefCell::new(std::vec![0; size(GEOMETRY)]));
    let view = |bytes| View { bytes, fuse: None };
    sring::initialise(&view(&page));
    let mut front = Front::new(GEOMETRY);
    front.write(&view(&page), &pack(1, 2, 3));
    let _ = front.publish(&view(&page));
    let mut journal = Journal::<Numbers>::attach(&view(&record), &view(&page), GEOMETRY, 1, b"").unwrap().journal;
    journal.next(&view(&record), &view(&page), &mut [0; 16], || ()).unwrap().unwrap();
    let attach = |mutant| {
        let record = Mutated::new::<Numbers>(view(&record), GEOMETRY, mutant);
        Journal::<Numbers>::attach(&record, &view(&page), GEOMETRY, 1, b"").map(|attached| attached.replays.len())
    };
    for bit in 0..GEOMETRY.entry_size * 8 {
        journal.damage(&view(&record), bit..bit + 1, 7);
        assert_eq!(attach(None), Err(AttachError::Damaged { slot: Some(0) }), "bit {bit}");
        assert_eq!(attach(Some(Mutant::DamageBelieved)), Ok(1), "the checksum is what shows it");
        journal.damage(&view(&record), bit..bit + 1, 7);
        assert_eq!(attach(None), Ok(1));
    }
}

#[test]
fn another_incarnation_starts_afresh() {
    let (page, record) = (RefCell::new(std::vec![0; 4096]), RefCell::new(std::vec![0; size(GEOMETRY)]));
    let view = |bytes| View { bytes, fuse: None };
    let attach =
        |incarnation| Journal::<Numbers>::attach(&view(&record), &view(&page), GEOMETRY, incarnation, b"p").unwrap();
    assert!(!attach(1).resumed);
    assert!(attach(1).resumed);
    assert!(!attach(2).resumed);
    forget(&view(&record));
    assert!(!attach(2).resumed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn many_crashes_in_a_row(seed: u64, crashes in prop::collection::vec(0u64..200, 0..8)) {
        prop_assert_eq!(run(seed, 25, &crashes, None), Ok(()));
    }

    #[test]
    fn a_scribbled_record_or_page_never_panics(bytes in prop::collection::vec(any::<u8>(), size(GEOMETRY)), index: u32) {
        let (page, record) = (RefCell::new(std::vec![0; 4096]), RefCell::new(bytes));
        let view = |bytes| View { bytes, fuse: None };
        view(&record).store_u32(AT_MAGIC, MAGIC);
        view(&record).store_u32(AT_INCARNATION, 1);
        view(&page).store_u32(sring::RESPONSE_PRODUCER, index);
        let _ = Journal::<Numbers>::attach(&view(&record), &view(&page), GEOMETRY, 1, b"");
    }
}
