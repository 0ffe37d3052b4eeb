//! Checks everything that must always hold between the core's tables.

use std::collections::BTreeMap;
use std::vec::Vec;

use protocol::domain::State;
use protocol::event::{PORTS, Port};
use protocol::grant::{ENTRIES_PER_PAGE, READING, WRITING};
use protocol::handle::HANDLES;
use protocol::layout::{BUNDLE, GRANT_WINDOW, GRANT_WINDOW_END, GUEST_MEMORY, GUEST_MEMORY_END, HEAP, MMIO, MMIO_END};

use super::world::World;
use crate::domain::NO_FRAME;
use crate::frames::Kind;
use crate::grants::Active;
use crate::mappings::{Mapping, NOWHERE};
use crate::platform::{Frame, Memory, Phys};
use crate::ports::{Entry, Use};
use crate::space::{LARGE, NO_EXECUTE, PRESENT, REGISTERS, TABLE_SHIFT, WINDOW_SHIFT, WRITE, frame_of, frames_of};
use crate::table::Slot;
use crate::teardown::GONE;
use crate::vm::{GUEST, Guest};

/// What page tables hold: leaves as (address, entry), and the tables themselves. `above` are bits of the entry that leads to them.
fn walk(world: &World, root: Frame, above: u64) -> (Vec<(u64, u64)>, Vec<Frame>) {
    let m = &world.core.machine;
    let (mut leaves, mut tables) = (Vec::new(), std::vec![root]);
    let mut todo = std::vec![(root, 39, 0_u64, above)];
    while let Some((table, shift, base, above)) = todo.pop() {
        for index in 0..if shift == 39 { 256 } else { 512 } {
            let entry = m.load(table.at(index * 8));
            if entry & PRESENT == 0 {
                assert_eq!(entry, 0);
                continue;
            }
            assert_eq!(entry & 4, 4, "an entry that ring 3 cannot use");
            let address = base | (index as u64) << shift;
            if shift == 12 || entry & LARGE != 0 {
                assert!(shift <= TABLE_SHIFT, "{address:#x} is too large a page");
                let forbidden = (entry | above) & NO_EXECUTE != 0;
                assert!(entry & WRITE == 0 || forbidden, "{address:#x} is writable and executable");
                let pages = frames_of(entry).zip((address..).step_by(4096));
                leaves.extend(
                    pages.map(|(frame, address)| (address, frame.at(0).0 | entry & !0x000f_ffff_ffff_f000 & !LARGE)),
                );
            } else {
                tables.push(frame_of(entry));
                todo.push((frame_of(entry), shift - 9, address, above | entry));
            }
        }
    }
    (leaves, tables)
}

impl World {
    /// Panics if anything is wrong with the core's tables.
    pub fn check(&self) {
        let core = &*self.core;
        let m = &core.machine;
        let mut seen = BTreeMap::<u32, (Slot, Kind)>::new();
        let mut pins = BTreeMap::<u32, u32>::new();
        let mut uses = BTreeMap::<(usize, bool, u32), (u16, u16)>::new();
        let mut used = std::vec![0; core.domains.0.len()];
        let mut note = |frame: Frame, slot: Slot, kinds: &[Kind]| {
            let info = core.frames.info(m, frame);
            assert!(info.owner == slot && kinds.contains(&info.kind), "{frame:?} of {slot:?}: {info:?}, not {kinds:?}");
            assert_eq!(seen.insert(frame.0, (slot, info.kind)), None, "{frame:?} is used twice");
            used[slot.number()] += 1;
        };
        for slot in (0..core.domains.0.len()).map(Slot::new) {
            let domain = &core.domains[slot];
            if domain.state.is_none() || domain.space.0 == NO_FRAME {
                continue;
            }
            let (leaves, tables) = walk(self, domain.space.0, 0);
            if domain.has_vm() {
                let native = leaves.iter().filter(|(address, _)| (GUEST_MEMORY..GUEST_MEMORY_END).contains(address));
                let guests = walk(self, domain.vm.root, NO_EXECUTE).0;
                let native =
                    native.map(|&(address, entry)| (address - GUEST_MEMORY, entry)).collect::<BTreeMap<_, _>>();
                assert_eq!(native, guests.into_iter().collect(), "{slot:?} and its guest see different memory");
            }
            tables.into_iter().for_each(|table| note(table, slot, &[Kind::OBJECT]));
            let mut window = BTreeMap::new();
            for (address, entry) in leaves {
                if (GRANT_WINDOW..GRANT_WINDOW_END).contains(&address) {
                    window.insert(address, entry);
                } else if (MMIO..MMIO_END).contains(&address) || entry & REGISTERS != 0 {
                    self.check_registers(slot, address, entry);
                } else if slot == Slot::DOM0 && (BUNDLE..BUNDLE + (1 << 20)).contains(&address) {
                    assert_eq!(core.frames.info(m, frame_of(entry)).kind, Kind::RESERVED);
                } else if domain.vm.places.contains(&address) {
                    assert!(domain.vm.grants.contains(&frame_of(entry)), "{address:#x} is not the guest's grant table");
                } else {
                    let kinds: &[Kind] = if address >= HEAP {
                        &[Kind::MEMORY, Kind::DEVICE]
                    } else {
                        &[Kind::MEMORY, Kind::PRIVATE, Kind::DEVICE]
                    };
                    note(frame_of(entry), slot, kinds);
                }
            }
            let objects = [domain.handles, domain.records].into_iter().chain(domain.ports.0).chain(domain.active);
            let contexts = domain.vcpus().map(|id| core.native(id));
            let vm = &domain.vm;
            let guests = vm.contexts.into_iter().filter(|&context| context != NO_FRAME);
            let blocks = guests.clone().flat_map(|context| {
                let Guest { vmcb, vmcs, .. } = m.get(context.at(GUEST));
                [vmcb, vmcs].map(|at| Phys(at).frame())
            });
            let windows = (GUEST_MEMORY..GUEST_MEMORY_END).step_by(1 << WINDOW_SHIFT).filter(|_| domain.has_vm());
            let below = windows.map(|address| frame_of(m.load(vm.window_entry(address))));
            let nested = [vm.root, vm.directory].into_iter().chain(below).chain(vm.grants).chain(vm.active);
            let objects = objects.chain(nested).chain(guests).chain(blocks).chain(domain.mappings).chain(contexts);
            for frame in objects.filter(|&frame| frame != NO_FRAME) {
                note(frame, slot, &[Kind::OBJECT]);
            }
            let mut held = 0;
            for index in 0..domain.spec.max_mappings {
                let Mapping { grant, address, .. } = m.get(domain.mapping(index));
                if address == 0 {
                    continue;
                }
                held += 1;
                if address != NOWHERE {
                    let entry = window.remove(&address).unwrap_or_else(|| panic!("{address:#x} is not mapped"));
                    assert_eq!((frame_of(entry), entry & WRITE != 0), (grant.frame, grant.write == 1));
                }
                *pins.entry(grant.frame.0).or_default() += 1;
                let info = core.frames.info(m, grant.frame);
                assert!(info.owner == grant.granter && matches!(info.kind, Kind::MEMORY | Kind::ORPHAN), "{info:?}");
                if core.domains[grant.granter].info.resets == grant.epoch {
                    let uses = uses.entry((grant.granter.number(), grant.guests == 1, grant.reference)).or_default();
                    *uses = (uses.0 + 1, uses.1 + grant.write as u16);
                }
            }
            assert!(window.is_empty(), "mapped without a record: {window:x?}");
            assert_eq!(held, domain.info.mappings);
            let open = (0..HANDLES).filter(|at| (m.load(domain.handles.at(at * 16 + 8)) >> 32) as u8 != 0).count();
            assert_eq!(open as u32, domain.info.handles);
            self.check_ports(slot);
        }
        for slot in (0..core.domains.0.len()).map(Slot::new) {
            let domain = &core.domains[slot];
            if domain.state == Some(State::Resetting) {
                // What its grants were used for is forgotten at the end.
                continue;
            }
            for (guests, frames) in [(false, domain.spec.grant_frames), (true, domain.spec.guest_grant_frames)] {
                for reference in 0..frames * ENTRIES_PER_PAGE as u32 {
                    let Some((_, active)) = domain.grant(reference, guests) else { continue };
                    let active: Active = m.get(active);
                    let expected = uses.remove(&(slot.number(), guests, reference)).unwrap_or_default();
                    assert_eq!((active.uses, active.writes), expected, "{slot:?} reference {reference}");
                }
            }
        }
        assert!(uses.is_empty());
        self.check_frames(&seen, &pins, &mut used);
    }

    /// Panics if a grant table whose owner was honest says something else than the core.
    pub fn check_grants(&self, slot: Slot) {
        let (m, domain) = (&self.core.machine, &self.core.domains[slot]);
        for reference in 0..domain.spec.grant_frames * ENTRIES_PER_PAGE as u32 {
            let (entry, active) = domain.grant(reference, false).unwrap();
            let (flags, active) = (m.load(entry) as u16, m.get::<Active>(active));
            assert_eq!(
                (flags & READING != 0, flags & WRITING != 0),
                (active.uses > 0, active.writes > 0),
                "{reference}"
            );
        }
    }

    fn check_frames(&self, seen: &BTreeMap<u32, (Slot, Kind)>, pins: &BTreeMap<u32, u32>, used: &mut [u32]) {
        let core = &*self.core;
        let m = &core.machine;
        let mut mapped = std::vec![0; used.len()];
        let mut free = 0;
        for frame in (super::world::FIRST..super::world::FIRST + core.frames.managed).map(Frame) {
            let info = core.frames.info(m, frame);
            match info.kind {
                Kind::RESERVED => continue,
                Kind::FREE => {
                    free += 1;
                    // The first word can be a link of the list.
                    assert!((1..512).all(|word| m.load(frame.at(word * 8)) == 0), "{frame:?} is free and not clean");
                    continue;
                }
                Kind::ORPHAN => {
                    assert!(info.count > 0 && !seen.contains_key(&frame.0));
                    used[info.owner.number()] += 1;
                }
                Kind::PARKED => panic!("{frame:?} is parked between calls"),
                _ => assert!(seen.contains_key(&frame.0), "{frame:?} is lost: {info:?}"),
            }
            assert_eq!(info.count, pins.get(&frame.0).copied().unwrap_or(0), "{frame:?}: {info:?}");
            mapped[info.owner.number()] += (info.count > 0) as u32;
        }
        let mut set_aside = 0;
        for slot in (0..used.len()).map(Slot::new) {
            let (account, domain) = (core.frames.accounts[slot], &core.domains[slot]);
            assert_eq!((account.used, account.mapped), (used[slot.number()], mapped[slot.number()]), "{slot:?}");
            assert!(account.used <= account.set_aside);
            set_aside += account.set_aside;
            assert!(domain.state.is_some() || account == Default::default());
            if domain.state == Some(State::Dying) && domain.progress == GONE {
                assert!(account.used > 0 && account.used == account.set_aside && account.mapped == account.used);
            }
        }
        assert_eq!(set_aside, core.frames.set_aside);
        assert_eq!(core.frames.parked, 0);
        assert_eq!(core.frames.used, used.iter().sum::<u32>());
        assert!(free <= core.frames.managed - core.frames.used);
        core.frames.check_free(m);
    }

    /// Panics if a page of registers is not one of a device that the domain has.
    fn check_registers(&self, slot: Slot, address: u64, entry: u64) {
        assert!((MMIO..MMIO_END).contains(&address) && entry & REGISTERS != 0, "{address:#x}: {entry:#x}");
        let owned = self.core.devices.iter().filter(|device| device.info.owner == slot.number() as u32);
        let at = entry & 0x000f_ffff_ffff_f000;
        let mut bars = owned.flat_map(|device| device.bars.iter().zip(&device.info.bars));
        let inside = bars.any(|(&base, info)| {
            let page = at.wrapping_sub(base) / 4096;
            let hidden = info.hidden as u64..info.hidden as u64 + info.hidden_pages as u64;
            at >= base && at < base + info.size && !hidden.contains(&page)
        });
        assert!(inside, "{at:#x} is mapped by {slot:?}, who has no device there");
    }

    fn check_ports(&self, slot: Slot) {
        let core = &*self.core;
        let domain = &core.domains[slot];
        let mut open = 0;
        for port in (0..PORTS as u32).map(Port) {
            let entry = domain.ports.get(&core.machine, port);
            open += (entry.purpose() != Use::CLOSED) as u32;
            if entry.purpose() == Use::PEER {
                assert_eq!(core.domains[entry.peer].info.incarnation, entry.incarnation);
                let back = core.domains[entry.peer].ports.get(&core.machine, Port(entry.port.into()));
                assert_eq!(
                    (back.purpose(), back.peer, back.port, back.incarnation),
                    (Use::PEER, slot, port.0 as u16, domain.info.incarnation)
                );
            } else if entry.purpose() == Use::INTERRUPT {
                assert_eq!(core.interrupts[entry.port as usize], Some((slot, port)));
            } else if entry.purpose() == Use::CLOSED {
                assert_eq!(entry, Entry::new(Use::CLOSED, 0));
            }
        }
        assert_eq!(open, domain.info.ports);
    }
}
