//! `memory_op`: where the guest wants pages that it shares, and its balloon.

use protocol::error::Error;
use unikernel::vm::memory::place_grant_table;

use super::{Answer, Call, DOMAIN_SELF, DONE, Outcome, WORD};
use crate::errno::Errno;
use crate::state::State;

/// Extents that one call works on; the guest goes on with the rest.
const EXTENTS_MAX: u64 = 1024;
/// Largest order of an extent.
const ORDER_MAX: u32 = 9;

impl<S: State> Call<'_, S> {
    pub(super) fn memory_op(&mut self) -> Answer {
        let [command, address, _] = self.arguments;
        match command {
            1 => {
                let answer = self.reservation(address, |guest, frame| guest.memory.release(frame));
                self.guest.supply_rest();
                answer
            }
            6 => self.reservation(address, |guest, frame| match guest.pages_and_tables() < guest.pages_max() {
                true => guest.memory.populate(frame, 1),
                false => Err(Error::NoMemory),
            }),
            2 => {
                let frames = self.guest.ram.frames();
                Ok(Outcome::Value(frames.last().map_or(0, |(first, count)| first + count - 1)))
            }
            3 | 4 => Ok(Outcome::Value(self.guest.memory.count())),
            7 => self.add_to_physmap(address),
            9 => self.memory_map(address),
            // Removing single frames and mapping other domains': not there.
            15 | 23 => Err(Errno::ENOSYS),
            other => self.unknown("memory_op", other),
        }
    }

    /// Gives memory back, or takes it again, frame by frame; the answer is how many extents were done.
    fn reservation(
        &mut self,
        address: u64,
        act: impl Fn(&mut crate::guest::Guest, u64) -> protocol::error::Result<()>,
    ) -> Answer {
        let request = self.load_as::<32>(address, &[WORD, WORD, 4, 4, 2])?;
        let (list, count, order) = (request.u64(0), request.u64(8), request.u32(16));
        if request.u16(24) != DOMAIN_SELF || order > ORDER_MAX {
            return Err(Errno::EPERM);
        }
        let mut done = 0;
        while done < count.min(EXTENTS_MAX) {
            let place = list.wrapping_add(done * self.word_bytes() as u64);
            let Ok(extent) = self.load_as::<8>(place, &[WORD]) else { break };
            let first = extent.u64(0);
            let frames = first..first.saturating_add(1 << order);
            let carried_out = frames.into_iter().all(|frame| {
                // Pages beside RAM are shared with the monitor.
                self.guest.ram.holds_frame(frame) && act(self.guest, frame).is_ok()
            });
            if !carried_out {
                break;
            }
            done += 1;
        }
        Ok(Outcome::Value(done))
    }

    fn add_to_physmap(&mut self, address: u64) -> Answer {
        /// The page with the guest's events.
        const SHARED_INFO: u32 = 0;
        const GRANT_TABLE: u32 = 1;
        let request = self.load_as::<24>(address, &[2, 2, 4, WORD, WORD])?;
        let (space, index, frame) = (request.u32(4), request.u64(8), request.u64(16));
        if request.u16(0) != DOMAIN_SELF {
            return Err(Errno::EPERM);
        }
        match space {
            SHARED_INFO if index == 0 => {
                if !self.guest.ram.holds_frame(frame) {
                    return Err(Errno::EINVAL);
                }
                let page = self.guest.memory.pin(frame)?;
                let clock = self.guest.clock;
                self.guest.events.set_wide(self.wide);
                self.guest.events.set_shared(page, &clock);
                DONE
            }
            GRANT_TABLE if index < self.guest.grant_frames.into() => {
                if !self.guest.has_place(frame) {
                    return Err(Errno::ENOMEM);
                }
                // RAM that lies there is lost, as with Xen, and what was not touched yet does not come.
                if self.guest.ram.holds_frame(frame) && !self.guest.memory.released(frame) {
                    self.guest.memory.release(frame)?;
                }
                place_grant_table(index, frame)?;
                self.guest.grant_frames_placed = self.guest.grant_frames_placed.max(index as u32 + 1);
                DONE
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn memory_map(&mut self, address: u64) -> Answer {
        let request = self.load_as::<16>(address, &[4, WORD])?;
        let map = self.guest.ram.map();
        if (request.u32(0) as usize) < map.len() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = alloc::vec::Vec::new();
        for (start, size, kind) in &map {
            bytes.extend(start.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
        }
        self.store(request.u64(8), &bytes)?;
        self.store(address, &(map.len() as u32).to_le_bytes())?;
        DONE
    }
}
