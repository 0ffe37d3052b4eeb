//! The driver against a device that follows the manual, until it is told not to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;

use proptest::prelude::*;
use protocol::ring::Shared;
use virtio::queue::Dma;

use super::*;
use crate::testing::Memory;

/// Where the driver's memory begins for the device.
const BASE: u64 = 0x12_3456_7000;
const OWN: Mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SECOND: u64 = 1_000_000_000;

/// The offset of a device address in the driver's memory.
fn offset(address: u64) -> usize {
    (address - BASE) as usize
}

impl Dma for Memory {
    fn load_u16(&self, offset: usize) -> u16 {
        self.load_u32(offset & !3) as u16
    }
    fn store_u16(&self, _: usize, _: u16) {
        unreachable!("nothing here has 16 bits");
    }
    fn device_address(&self, offset: usize) -> u64 {
        BASE + offset as u64
    }
}

impl Buffers for Memory {
    type Memory = Memory;

    fn memory(&self) -> &Memory {
        self
    }
}

/// The device.
struct Chip {
    memory: Memory,
    registers: RefCell<BTreeMap<u32, u32>>,
    /// It ignores a reset, as some emulated ones do; or it never comes out of it.
    deaf: Cell<bool>,
    stuck: Cell<bool>,
    /// It has no EEPROM.
    blank: Cell<bool>,
    sent: RefCell<Vec<Vec<u8>>>,
    /// Writes of a ring's tail.
    doorbells: Cell<u32>,
}

impl Chip {
    fn new(memory: &Memory) -> Rc<Chip> {
        Rc::new(Chip {
            memory: memory.clone(),
            registers: RefCell::new([(at::STATUS, registers::LINK_UP)].into()),
            deaf: Cell::new(false),
            stuck: Cell::new(false),
            blank: Cell::new(false),
            sent: RefCell::default(),
            doorbells: Cell::new(0),
        })
    }

    fn get(&self, register: u32) -> u32 {
        self.registers.borrow().get(&register).copied().unwrap_or(0)
    }

    fn set(&self, register: u32, value: u32) {
        self.registers.borrow_mut().insert(register, value);
    }

    /// The next descriptor of a ring that is with the device, and moves on.
    fn next(&self, ring: u32) -> Option<usize> {
        let (head, tail) = (self.get(ring + register::HEAD), self.get(ring + register::TAIL));
        assert!(head < FRAMES as u32 && tail < FRAMES as u32);
        if head == tail {
            return None;
        }
        self.set(ring + register::HEAD, (head + 1) % (self.get(ring + register::LENGTH) / DESCRIPTOR as u32));
        let [low, high] = [register::ADDRESS_LOW, register::ADDRESS_HIGH].map(|half| u64::from(self.get(ring + half)));
        Some(offset(low | high << 32) + head as usize * DESCRIPTOR)
    }

    fn buffer(&self, descriptor: usize) -> usize {
        let [low, high] = [0, 4].map(|half| u64::from(self.memory.load_u32(descriptor + half)));
        offset(low | high << 32)
    }

    /// Sends what it was given.
    fn work(&self) {
        assert!(self.get(at::TRANSMIT) & registers::ON != 0);
        while let Some(descriptor) = self.next(at::TRANSMIT_RING) {
            let word = self.memory.load_u32(descriptor + 8);
            assert_eq!(word >> 24, u32::from(SEND));
            let mut frame = vec![0; (word & 0xffff) as usize];
            self.memory.read(self.buffer(descriptor), &mut frame);
            self.sent.borrow_mut().push(frame);
            self.memory.store_u32(descriptor + 12, 1);
        }
    }

    /// Receives a piece of a frame; `false` without a buffer for it.
    fn hear(&self, piece: &[u8], length: u16, says: u16) -> bool {
        assert!(self.get(at::RECEIVE) & registers::ON != 0);
        let Some(descriptor) = self.next(at::RECEIVE_RING) else { return false };
        self.memory.write(self.buffer(descriptor), piece);
        self.memory.store_u32(descriptor + 8, length.into());
        self.memory.store_u32(descriptor + 12, u32::from(says | 1));
        true
    }

    fn hear_frame(&self, frame: &[u8]) -> bool {
        self.hear(frame, frame.len() as u16, LAST)
    }
}

impl Registers for Rc<Chip> {
    fn read(&self, register: u32) -> u32 {
        match register {
            at::EEPROM_READ if !self.blank.get() => {
                let asked = self.get(at::EEPROM_READ);
                let word = usize::try_from(asked >> 8 & 0xff).unwrap();
                if asked & 1 == 0 {
                    0
                } else {
                    u32::from(OWN[2 * word]) << 16 | u32::from(OWN[2 * word + 1]) << 24 | 0x10
                }
            }
            _ => self.get(register),
        }
    }

    fn write(&self, register: u32, value: u32) {
        let reset = 1 << 26;
        match register {
            at::CONTROL if value & reset != 0 && !self.deaf.get() => {
                let status = self.get(at::STATUS);
                self.registers.borrow_mut().clear();
                self.set(at::STATUS, status);
                self.set(at::CONTROL, if self.stuck.get() { reset } else { 0 });
            }
            at::CONTROL => self.set(register, value & !reset),
            _ => {
                let tails = [at::RECEIVE_RING, at::TRANSMIT_RING].map(|ring| ring + register::TAIL);
                self.doorbells.set(self.doorbells.get() + u32::from(tails.contains(&register) && value != 0));
                self.set(register, value);
            }
        }
    }
}

type Driver = E1000<Rc<Chip>, Memory>;

fn parts() -> (Rc<Chip>, Memory) {
    let memory = Memory::new(MEMORY);
    (Chip::new(&memory), memory)
}

fn machine() -> (Rc<Chip>, Driver) {
    let (chip, memory) = parts();
    let driver = E1000::new(chip.clone(), memory).unwrap();
    (chip, driver)
}

fn send(driver: &mut Driver, frame: &[u8]) -> bool {
    let Some(at) = driver.reserve() else { return false };
    driver.memory.write(at as usize, frame);
    driver.send(at, frame.len() as u16, None);
    true
}

/// What arrived, given back at once.
fn arrived(driver: &mut Driver) -> Vec<Vec<u8>> {
    let frames = core::iter::from_fn(|| {
        let Arrival { at, length, .. } = driver.receive()?;
        let mut frame = vec![0; length.into()];
        driver.memory.read(at as usize, &mut frame);
        driver.recycle(at);
        Some(frame)
    });
    let frames = frames.collect();
    driver.flush();
    frames
}

#[test]
fn frames_go_both_ways_for_ever() {
    let (chip, mut driver) = machine();
    assert_eq!((driver.mac(), driver.link()), (OWN, true));
    assert_eq!(chip.get(at::ADDRESS_LOW), 0x1200_5452);
    assert_eq!(chip.get(at::ADDRESS_HIGH), 0x8000_5634);
    for round in 0..1000_u32 {
        let frames: Vec<Vec<u8>> = (0..7).map(|number| vec![(round + number) as u8; 60 + number as usize]).collect();
        assert!(frames.iter().all(|frame| send(&mut driver, frame)));
        let rung = chip.doorbells.get();
        driver.flush();
        driver.flush();
        assert_eq!(chip.doorbells.get() - rung, u32::from(chip.get(at::TRANSMIT_RING + register::TAIL) != 0));
        chip.work();
        assert_eq!(chip.sent.take(), frames);
        assert!(!driver.rearm(false));
        assert!(frames.iter().all(|frame| chip.hear_frame(frame)));
        assert!(driver.rearm(false), "there is something already");
        assert_eq!(arrived(&mut driver), frames);
    }
}

#[test]
fn a_full_device_takes_no_more_and_an_empty_one_loses_frames() {
    let (chip, mut driver) = machine();
    let sent = (0..1000).take_while(|_| send(&mut driver, &[1; 60])).count();
    assert_eq!((sent, driver.room()), (PLACES as usize, 0));
    driver.flush();
    assert!(!driver.rearm(true));
    chip.work();
    assert!(driver.rearm(true) && !driver.rearm(false), "who is blocked is told");
    assert_eq!(driver.room(), PLACES as usize);
    let heard = (0..1000).take_while(|_| chip.hear_frame(&[2; 60])).count();
    assert_eq!(heard, PLACES as usize);
    assert_eq!(arrived(&mut driver).len(), heard);
    assert!(chip.hear_frame(&[3; 60]), "its buffers are back");
    let at = driver.reserve().unwrap();
    driver.give_up(at);
    assert_eq!(driver.room(), PLACES as usize);
}

#[test]
fn what_is_no_whole_frame_is_thrown_away() {
    let (chip, mut driver) = machine();
    for (length, says) in [(0, LAST), (FRAME_MAX as u16 + 1, LAST), (u16::MAX, LAST), (60, LAST | 0x0100)] {
        assert!(chip.hear(&[9; 60], length, says));
    }
    // One in three parts, the last of which looks like a frame.
    assert!(chip.hear(&[9; 2048], 2048, 0) && chip.hear(&[9; 2048], 2048, 0) && chip.hear_frame(&[9; 60]));
    assert!(chip.hear_frame(&[4; 64]));
    assert_eq!(arrived(&mut driver), [[4; 64]]);
    assert_eq!(driver.receive.used(), PLACES as usize, "all buffers are back");
}

#[test]
fn it_is_looked_at_often_while_frames_come_and_seldom_while_none_do() {
    let (chip, mut driver) = machine();
    let looks = |driver: &mut Driver| (0..2 * QUIET).filter(|_| driver.look_again() == Some(LOOK)).count() as u32;
    assert!((QUIET - 1..=QUIET + 1).contains(&looks(&mut driver)));
    assert_eq!(driver.look_again(), Some(LOOK_IDLE));
    assert!(send(&mut driver, &[1; 60]));
    assert_eq!(driver.look_again(), Some(LOOK), "an answer may come");
    looks(&mut driver);
    assert!(chip.hear_frame(&[1; 60]));
    arrived(&mut driver);
    assert_eq!(driver.look_again(), Some(LOOK));
}

#[test]
fn a_device_that_keeps_a_frame_is_reset_and_goes_on() {
    let (chip, mut driver) = machine();
    assert_eq!(driver.tick(SECOND), 0);
    assert!(send(&mut driver, &[1; 60]));
    driver.flush();
    assert_eq!(driver.tick(2 * SECOND), SECOND);
    chip.stuck.set(true);
    assert_eq!(driver.tick(7 * SECOND), SECOND, "dom0 is told since when, as long as it does not come back");
    assert!(!driver.link() && driver.reserve().is_none());
    assert_eq!(driver.tick(8 * SECOND), SECOND);
    chip.stuck.set(false);
    assert_eq!(driver.tick(9 * SECOND), 0);
    assert!(driver.link());
    assert!(send(&mut driver, &[2; 60]));
    driver.flush();
    chip.work();
    assert_eq!(chip.sent.take(), [[2; 60]], "what it had is lost");
    assert!(chip.hear_frame(&[3; 60]));
    assert_eq!(arrived(&mut driver), [[3; 60]]);
}

#[test]
fn a_new_life_of_the_domain_stops_what_the_former_one_began() {
    for deaf in [false, true] {
        let (chip, driver) = machine();
        drop(driver);
        chip.deaf.set(deaf);
        registers::start_reset(&chip);
        assert!(registers::is_reset(&chip), "it touches no memory");
        let mut driver = E1000::new(chip.clone(), chip.memory.clone()).unwrap();
        assert!(chip.hear_frame(&[3; 60]) && send(&mut driver, &[1; 60]));
        driver.flush();
        chip.work();
        assert_eq!((chip.sent.take(), arrived(&mut driver)), (vec![vec![1; 60]], vec![vec![3; 60]]));
    }
}

#[test]
fn a_device_without_an_address_or_without_an_end_of_its_reset_is_not_used() {
    let (chip, memory) = parts();
    chip.blank.set(true);
    assert_eq!(E1000::new(chip.clone(), memory.clone()).err(), Some(Problem::Address));
    chip.set(at::ADDRESS_LOW, 0x1200_5452);
    chip.set(at::ADDRESS_HIGH, 0x8000_5634);
    assert_eq!(registers::address(&chip), Some(OWN), "the reset has found it");
    for group in [0x8000_0000_u32, 0x8000_5634] {
        chip.set(at::ADDRESS_LOW, group >> 31 & group);
        chip.set(at::ADDRESS_HIGH, group);
        assert_eq!(registers::address(&chip).is_some(), group != 0x8000_0000);
    }
    chip.blank.set(false);
    chip.stuck.set(true);
    assert_eq!(E1000::new(chip, memory).err(), Some(Problem::Reset));
}

proptest! {
    /// Whatever the device writes into its rings: work is bounded, no frame lies outside the buffers, and no buffer is lost.
    #[test]
    fn descriptors_are_not_believed(noise in prop::collection::vec(any::<u8>(), 1..300), steps in 1_usize..20) {
        let (_, mut driver) = machine();
        for step in 0..steps {
            let ring: Vec<u8> = noise.iter().cycle().skip(step).take(2 * RING).copied().collect();
            driver.memory.write(0, &ring);
            let mut held = Vec::new();
            while held.len() < 64 && let Some(Arrival { at, length, .. }) = driver.receive() {
                prop_assert!(usize::from(length) <= FRAME_MAX);
                prop_assert!((RECEIVE_BUFFERS..TRANSMIT_BUFFERS).contains(&(at as usize)));
                held.push(at);
            }
            prop_assert_eq!(driver.receive.used() + held.len(), PLACES as usize);
            held.into_iter().for_each(|at| driver.recycle(at));
            (0..step).for_each(|_| { send(&mut driver, &[1; 60]); });
            driver.flush();
            driver.tick(step as u64);
            prop_assert_eq!(driver.free.len() + driver.transmit.used(), PLACES as usize);
        }
    }
}
