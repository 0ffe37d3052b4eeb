//! A frontend that checks what it is promised, and the domain it talks to.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

use protocol::connection::{BlockAttach, Frontend as Who, Guilty};
use protocol::control::{FromDomain, ToDomain};
use protocol::event::Port;
use protocol::ring::Shared;
use protocol::ring::block::{
    Body, Layout, RESPONSE_SIZE, Request, SEGMENT_SIZE, Segment, Segments, operation, read_response,
};
use protocol::ring::sring::{self, Front};
use unikernel::backend::Backend;
use unikernel::spread::Spread;

use super::world::{Dice, Fake, Memory, SimDisk, World};
use crate::service::{Disks, TIMEOUT_NS};

/// The domain under test; requests are answered by number.
pub type Domain = Backend<Disks<Fake>, u32>;

/// Starts the domain, with one disk that has one partition.
pub fn start(world: &Rc<World>) -> Domain {
    let mut disks = Disks::default();
    let partition = crate::partition::Partition {
        number: 1,
        first: 100,
        sectors: 50,
        label: String::new().as_str().try_into().unwrap(),
    };
    disks.add("virtio0", Box::new(SimDisk::new(world.clone())), &[partition]);
    Backend::new(Fake(world.clone()), disks, TIMEOUT_NS)
}

/// Sectors that the load touches; few, so that requests overlap.
const SECTORS: u64 = 12;

/// A request under way.
struct Asked {
    /// What reading has to give, sector by sector; empty if it does not read.
    expected: Vec<u8>,
    pages: Vec<(u32, Memory)>,
    first: u8,
}

/// An honest frontend.
pub struct Frontend {
    pub who: Who,
    pub attach: BlockAttach,
    pub page: Spread<Memory>,
    pub front: Front,
    world: Rc<World>,
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    next_reference: u32,
    /// Pages to be used again, if it asks with the same ones.
    idle: Vec<(u32, Memory)>,
    /// What the disk holds if requests happen in the order in which they were asked: a byte for each sector.
    model: [u8; SECTORS as usize],
    pub answered: u64,
    heard: u64,
    pub notifications: u64,
}

impl Frontend {
    /// A frontend whose ring has `pages` pages.
    pub fn new(world: &Rc<World>, connection: u16, pages: usize) -> Frontend {
        let peer = 10 + connection;
        let who = Who { connection, peer, incarnation: 1, port: Port(20 + u32::from(connection)) };
        let memory = (0..pages as u32).map(|at| world.grant(peer, 1 + at, true)).collect();
        let page = Spread::new(memory);
        sring::initialise(&page);
        let attach = BlockAttach {
            frontend: who,
            ring: (1..=pages as u32).collect(),
            target: "virtio0".try_into().unwrap(),
            read_only: false,
            persistent: false,
            layout: Layout::X86_64,
        };
        Frontend {
            who,
            attach,
            page,
            front: Front::new(Layout::X86_64.geometry(pages)),
            world: world.clone(),
            asked: BTreeMap::new(),
            next_id: 0,
            next_reference: 100,
            idle: Vec::new(),
            model: [0; SECTORS as usize],
            answered: 0,
            heard: 0,
            notifications: 0,
        }
    }

    /// With requests in another layout.
    pub fn in_layout(mut self, layout: Layout) -> Frontend {
        self.attach.layout = layout;
        self.front = Front::new(layout.geometry(self.attach.ring.len()));
        self
    }

    /// Attaches, or attaches again.
    pub fn attach(&self, domain: &mut Domain) -> Option<FromDomain> {
        domain.obey(ToDomain::BlockAttach(self.attach.clone()), 1)
    }

    /// Attaches, which has to be refused because somebody broke a rule; gives the report of it, which comes before the refusal.
    pub fn is_refused(&self, domain: &mut Domain) -> (u16, Guilty) {
        assert_eq!(self.attach(domain), None);
        let report = domain.mail();
        let Some((None, FromDomain::ConnectionBroken { connection, guilty, .. })) = report else {
            panic!("no report: {report:?}")
        };
        assert!(matches!(domain.mail(), Some((Some(1), FromDomain::Failed { .. }))));
        (connection, guilty)
    }

    pub fn open(&self) -> usize {
        self.asked.len()
    }

    /// Writes a request as it is; gives whether there was room.
    pub fn send(&mut self, request: &Request) -> bool {
        self.front.write(&self.page, &request.encode())
    }

    /// Publishes; gives whether the backend has to be woken.
    pub fn publish(&mut self) -> bool {
        let notify = self.front.publish(&self.page);
        self.notifications += u64::from(notify);
        notify
    }

    /// A page for a transfer.
    fn page(&mut self, writable: bool) -> (u32, Memory) {
        let again = if self.attach.persistent { self.idle.pop() } else { None };
        again.unwrap_or_else(|| self.grant(writable || self.attach.persistent))
    }

    fn grant(&mut self, writable: bool) -> (u32, Memory) {
        self.next_reference += 1;
        (self.next_reference, self.world.grant(self.who.peer, self.next_reference, writable))
    }

    /// Asks for something, if there is room in the ring.
    pub fn ask(&mut self, dice: &mut Dice) {
        if self.front.room() == 0 {
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        let (request, asked) = match dice.roll(12) {
            0 => {
                let request = Request { id, echo: operation::FLUSH, body: Body::Flush };
                (request, Asked { expected: Vec::new(), pages: Vec::new(), first: 0 })
            }
            1 => {
                let (sector, sectors) = (dice.roll(SECTORS - 1), 1 + dice.roll(2));
                let sectors = sectors.min(SECTORS - sector);
                self.model[sector as usize..(sector + sectors) as usize].fill(0);
                let body = Body::Discard { sector, sectors };
                (
                    Request { id, echo: operation::DISCARD, body },
                    Asked { expected: Vec::new(), pages: Vec::new(), first: 0 },
                )
            }
            kind => self.transfer(dice, id, kind % 2 == 0, kind > 9),
        };
        assert!(self.send(&request));
        self.asked.insert(id, asked);
    }

    fn transfer(&mut self, dice: &mut Dice, id: u64, write: bool, indirect: bool) -> (Request, Asked) {
        let pages = 1 + dice.roll(2);
        let (first, each) = (dice.roll(4) as u8, 1 + dice.roll(2));
        let sector = dice.roll(SECTORS - pages * each + 1);
        let count = (pages * each) as usize;
        let range = sector as usize..sector as usize + count;
        let mut list = Vec::new();
        let mut memories = Vec::new();
        for _ in 0..pages {
            let (reference, memory) = self.page(!write);
            list.push(Segment { reference, first, last: first + each as u8 - 1 });
            memories.push((reference, memory));
        }
        let mut expected = Vec::new();
        if write {
            let value = id as u8 | 1;
            self.model[range].fill(value);
            memories
                .iter()
                .for_each(|(_, memory)| memory.write(first as usize * 512, &std::vec![value; each as usize * 512]));
        } else {
            expected = self.model[range].to_vec();
        }
        let segments = if indirect {
            // Apart from the pages for data, whose references follow each other.
            let reference = 10_000 + id as u32;
            let memory = self.world.grant(self.who.peer, reference, false);
            for (index, segment) in list.iter().enumerate() {
                memory.write(index * SEGMENT_SIZE, &segment.encode());
            }
            let mut pages = [0; 8];
            pages[0] = reference;
            Segments::Indirect { count: list.len() as u16, pages }
        } else {
            Segments::Direct(list.into_iter().collect())
        };
        let echo = if write { operation::WRITE } else { operation::READ };
        let request = Request { id, echo, body: Body::Transfer { write, sector, segments } };
        (request, Asked { expected, pages: memories, first })
    }

    /// Takes the next answer as it is.
    pub fn take(&mut self) -> Option<(u64, u8, i16)> {
        let mut raw = [0; RESPONSE_SIZE];
        self.front.take(&self.page, &mut raw).unwrap().then(|| read_response(&raw))
    }

    /// Whether it was notified since the last time.
    pub fn was_notified(&mut self) -> bool {
        let heard = self.world.notified.borrow().get(&self.who.port.0).copied().unwrap_or(0);
        core::mem::replace(&mut self.heard, heard) != heard
    }

    /// Takes all answers and checks them.
    pub fn listen(&mut self) -> Result<(), String> {
        loop {
            while let Some((id, _, status)) = self.take() {
                let asked = self.asked.remove(&id).ok_or(format!("request {id} was answered twice, or never asked"))?;
                if status != 0 {
                    return Err(format!("request {id} failed"));
                }
                let mut found = Vec::new();
                for (_, memory) in &asked.pages {
                    let each = asked.expected.len() / asked.pages.len();
                    for at in 0..each {
                        let mut sector = [0; 512];
                        memory.read((asked.first as usize + at) * 512, &mut sector);
                        assert!(sector.iter().all(|byte| *byte == sector[0]));
                        found.push(sector[0]);
                    }
                }
                if found != asked.expected {
                    return Err(format!("request {id} read {found:?} instead of {:?}", asked.expected));
                }
                self.answered += 1;
                self.idle.extend(asked.pages);
            }
            if !self.front.rearm(&self.page).unwrap() {
                return Ok(());
            }
        }
    }

    /// Makes the disk hold what this frontend expects, whatever others wrote.
    pub fn write_all(&self) {
        self.world.sectors.borrow_mut().iter_mut().zip(self.model).for_each(|(sector, value)| sector.fill(value));
    }

    /// Whether the disk holds what was written.
    pub fn check_disk(&self) -> Result<(), String> {
        let disk: Vec<u8> = self.world.sectors.borrow()[..SECTORS as usize].iter().map(|sector| sector[0]).collect();
        if disk == self.model { Ok(()) } else { Err(format!("the disk holds {disk:?} instead of {:?}", self.model)) }
    }
}
