//! Random storms of everything at once, with the walker after each step and nothing left at the end.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::grant::*;
use protocol::hypercall::Hypercall as H;
use protocol::layout::*;
use zerocopy::{FromZeros, IntoBytes};

use super::bus::DISK;
use super::world::{Child, World, spec};
use crate::table::Slot;

const BATCH: u64 = HEAP + 4 * PAGE_SIZE;
const DOMAINS: usize = 3;

/// Something that happens; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    /// A domain writes any entry into its grant table.
    Grant {
        who: usize,
        reference: u8,
        peer: usize,
        page: u8,
        flags: u16,
    },
    Map {
        who: usize,
        peer: usize,
        elements: Vec<(u8, u8, bool)>,
    },
    Unmap {
        who: usize,
        mappings: Vec<u8>,
    },
    Copy {
        who: usize,
        peer: usize,
        reference: u8,
        page: u8,
        out: bool,
    },
    Populate {
        who: usize,
        page: u16,
        pages: u8,
        protection: u8,
    },
    Release {
        who: usize,
        page: u16,
        pages: u8,
    },
    Connect {
        who: usize,
        peer: usize,
    },
    Send {
        who: usize,
        port: u8,
    },
    Close {
        who: usize,
        port: u8,
    },
    Handle {
        who: usize,
        to: usize,
    },
    Memory {
        who: usize,
        pages: u16,
    },
    Pause {
        who: usize,
    },
    Unpause {
        who: usize,
    },
    Device {
        who: usize,
        page: u16,
        pages: u8,
    },
    Fault {
        who: usize,
    },
    Reset {
        who: usize,
        slices: u8,
        keep: bool,
    },
    Start {
        who: usize,
    },
    Destroy {
        who: usize,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let who = 0..DOMAINS;
    let flags = prop_oneof![8 => Just(PERMIT_ACCESS), 2 => Just(PERMIT_ACCESS | READONLY), 1 => any::<u16>()];
    prop_oneof![
        8 => (who.clone(), 8_u8..20, who.clone(), 0_u8..18, flags).prop_map(|(who, reference, peer, page, flags)| Step::Grant { who, reference, peer, page, flags }),
        8 => (who.clone(), who.clone(), proptest::collection::vec((0_u8..20, 0_u8..20, any::<bool>()), 1..8)).prop_map(|(who, peer, elements)| Step::Map { who, peer, elements }),
        5 => (who.clone(), proptest::collection::vec(0_u8..18, 1..8)).prop_map(|(who, mappings)| Step::Unmap { who, mappings }),
        3 => (who.clone(), who.clone(), 0_u8..20, 0_u8..18, any::<bool>()).prop_map(|(who, peer, reference, page, out)| Step::Copy { who, peer, reference, page, out }),
        3 => (who.clone(), 0_u16..600, 1_u8..40, 0_u8..3).prop_map(|(who, page, pages, protection)| Step::Populate { who, page, pages, protection }),
        4 => (who.clone(), 0_u16..600, 1_u8..6).prop_map(|(who, page, pages)| Step::Release { who, page, pages }),
        2 => (who.clone(), who.clone()).prop_map(|(who, peer)| Step::Connect { who, peer }),
        2 => (who.clone(), 1_u8..8).prop_map(|(who, port)| Step::Send { who, port }),
        2 => (who.clone(), 1_u8..8).prop_map(|(who, port)| Step::Close { who, port }),
        1 => (who.clone(), who.clone()).prop_map(|(who, to)| Step::Handle { who, to }),
        1 => (who.clone(), 0_u16..300).prop_map(|(who, pages)| Step::Memory { who, pages }),
        1 => who.clone().prop_map(|who| Step::Pause { who }),
        1 => who.clone().prop_map(|who| Step::Unpause { who }),
        4 => (who.clone(), 0_u16..30, 1_u8..6).prop_map(|(who, page, pages)| Step::Device { who, page, pages }),
        1 => who.clone().prop_map(|who| Step::Fault { who }),
        2 => (who.clone(), 1_u8..6, any::<bool>()).prop_map(|(who, slices, keep)| Step::Reset { who, slices, keep }),
        2 => who.clone().prop_map(|who| Step::Start { who }),
        1 => who.prop_map(|who| Step::Destroy { who }),
    ]
}

struct Storm {
    world: World,
    children: [Option<Child>; DOMAINS],
}

impl Storm {
    /// Makes a call as a domain, if it runs and its scratch memory is there.
    fn call(&mut self, who: usize, call: H, arguments: &[u64]) {
        let Some(child) = self.children[who] else { return };
        if self.world.core.domains[child.slot].state == Some(protocol::domain::State::Running) {
            _ = self.world.call(child.slot, call, arguments);
        }
    }

    fn poke<T: IntoBytes + zerocopy::Immutable>(&mut self, who: usize, address: u64, value: &T) {
        let Some(child) = self.children[who] else { return };
        let space = self.world.core.domains[child.slot].space;
        let last = address + size_of::<T>() as u64 - 1;
        if [address, last].iter().all(|&at| space.translate(&self.world.core.machine, at, true).is_some()) {
            self.world.put(child.slot, address, value);
        }
    }

    fn peer(&self, who: usize) -> u16 {
        self.children[who].map_or(99, |child| child.slot.number() as u16)
    }

    fn handle(&self, who: usize) -> u64 {
        self.children[who].map_or(99, |child| child.handle)
    }

    fn step(&mut self, step: &Step) {
        let dom0 = Slot::DOM0;
        match *step {
            Step::Grant { who, reference, peer, page, flags } => {
                let frame = (HEAP >> PAGE_SHIFT) as u32 + page as u32;
                let flags = flags & !(READING | WRITING);
                let entry = GrantEntry { flags, peer: self.peer(peer), frame };
                self.poke(who, GRANT_TABLE + 8 * reference as u64, &entry);
            }
            Step::Map { who, peer, ref elements } => {
                let mut batch = [MapElement::new_zeroed(); 8];
                for (slot, &(reference, page, write)) in batch.iter_mut().zip(elements) {
                    // The last places stand for none.
                    let hidden = page > 14;
                    let flags = if write { 0 } else { READONLY } | if hidden { DEVICE_ONLY } else { 0 };
                    let address = if hidden { 0 } else { GRANT_WINDOW + page as u64 * PAGE_SIZE };
                    *slot = MapElement { peer: self.peer(peer), flags, reference: reference.into(), address, ..*slot };
                }
                self.poke(who, BATCH, &batch);
                self.call(who, H::GrantMap, &[BATCH, elements.len() as u64]);
            }
            Step::Unmap { who, ref mappings } => {
                let mut batch = [UnmapElement::new_zeroed(); 8];
                for (slot, &mapping) in batch.iter_mut().zip(mappings) {
                    slot.mapping = mapping.into();
                }
                self.poke(who, BATCH, &batch);
                self.call(who, H::GrantUnmap, &[BATCH, mappings.len() as u64]);
            }
            Step::Copy { who, peer, reference, page, out } => {
                let own = CopySide {
                    reference_or_address: HEAP + page as u64 * PAGE_SIZE,
                    peer: OWN_MEMORY,
                    offset: 1,
                    reserved: 0,
                };
                let theirs =
                    CopySide { reference_or_address: reference.into(), peer: self.peer(peer), offset: 9, reserved: 0 };
                let (source, destination) = if out { (own, theirs) } else { (theirs, own) };
                self.poke(who, BATCH, &CopyElement { source, destination, length: 50, status: 0 });
                self.call(who, H::GrantCopy, &[BATCH, 1]);
            }
            Step::Populate { who, page, pages, protection } => {
                self.call(
                    who,
                    H::MemoryPopulate,
                    &[0, HEAP + page as u64 * PAGE_SIZE, pages.into(), protection.into()],
                );
            }
            Step::Release { who, page, pages } => {
                self.call(who, H::MemoryRelease, &[HEAP + page as u64 * PAGE_SIZE, pages.into()]);
            }
            Step::Connect { who, peer } => {
                _ = self.world.call(dom0, H::EventConnect, &[self.handle(who), self.handle(peer)]);
            }
            Step::Send { who, port } => self.call(who, H::EventSend, &[port.into()]),
            Step::Close { who, port } => self.call(who, H::EventClose, &[0, port.into()]),
            Step::Handle { who, to } => {
                _ = self.world.call(dom0, H::HandleCopy, &[self.handle(to), self.handle(who), 31]);
            }
            Step::Memory { who, pages } => {
                _ = self.world.call(dom0, H::DomainSetMemory, &[self.handle(who), pages.into(), 1000]);
            }
            Step::Pause { who } => _ = self.world.call(dom0, H::DomainPause, &[self.handle(who)]),
            Step::Unpause { who } => _ = self.world.call(dom0, H::DomainUnpause, &[self.handle(who)]),
            Step::Device { who, page, pages } => {
                let (page, pages) = (u64::from(page), u64::from(pages));
                let device = self.world.ok(dom0, H::DeviceCreate, &[1, DISK.into()]);
                if let Ok(given) = self.world.call(dom0, H::HandleCopy, &[self.handle(who), device, 31]) {
                    self.call(who, H::DeviceOpen, &[given, 1]);
                    self.call(who, H::DeviceMap, &[given, 4, page % 5, MMIO + page * PAGE_SIZE, pages]);
                    self.call(who, H::DeviceInterrupt, &[given, page % 5]);
                    self.call(who, H::DeviceAddresses, &[given, HEAP + page * PAGE_SIZE, pages, BATCH]);
                    self.call(who, H::HandleClose, &[given]);
                }
                self.world.ok(dom0, H::HandleClose, &[device]);
            }
            Step::Fault { who } => {
                if let Some(child) = self.children[who] {
                    self.world.enter(0, child.slot, 0);
                    self.world.core.fault(0, 6, 0, 0);
                    self.world.leave(0);
                }
            }
            Step::Reset { who, slices, keep } => {
                for _ in 0..slices {
                    _ = self.world.call(dom0, H::DomainReset, &[self.handle(who), keep.into()]);
                }
            }
            Step::Start { who } => {
                if self.children[who].is_none() {
                    self.children[who] = self.world.create(&spec(160)).ok();
                    let Some(child) = self.children[who] else { return };
                    for other in self.children.iter().flatten().filter(|other| other.slot != child.slot) {
                        for (a, b) in [(child, other), (*other, &child)] {
                            let index = b.slot.number() as u64;
                            _ = self.world.call(dom0, H::DomainPeer, &[a.handle, index, b.handle]);
                        }
                    }
                }
                let handle = self.handle(who);
                _ = self.world.call(dom0, H::MemoryPopulate, &[handle, HEAP, super::world::SCRATCH_PAGES, 1]);
                _ = self.world.call(dom0, H::DomainStart, &[handle, IMAGE_BASE, 0]);
            }
            Step::Destroy { who } => {
                if let Some(child) = self.children[who].take() {
                    self.world.destroy(child);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_breaks_and_nothing_is_left(steps in proptest::collection::vec(steps(), 1..120)) {
        let mut storm = Storm { world: World::new(800, 2), children: [None; DOMAINS] };
        let (used, set_aside) = (storm.world.core.frames.used, storm.world.core.frames.set_aside);
        (0..DOMAINS).for_each(|who| storm.step(&Step::Start { who }));
        for step in &steps {
            storm.step(step);
            storm.world.check();
        }
        (0..DOMAINS).for_each(|who| storm.step(&Step::Destroy { who }));
        storm.world.check();
        prop_assert_eq!((storm.world.core.frames.used, storm.world.core.frames.set_aside), (used, set_aside));
        prop_assert!(storm.world.core.domains.0[1..].iter().all(|domain| domain.state.is_none()));
    }
}
