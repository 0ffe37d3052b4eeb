//! Grants: the check of an entry, and the account of who uses it.
//!
//! An entry is taken in the way its granter may expect (Xen `grant_entry_v1`): it is read whole and the status bits are set
//! by a compare-exchange on it, so the granter can revoke an unused entry with the same operation. What an entry is used for
//! is counted next to it, in a frame that only the core sees.

use protocol::domain::State;
use protocol::grant::{GrantEntry, PEERS, PERMIT_ACCESS, READING, READONLY, WRITING};
use protocol::layout::PAGE_SHIFT;

use crate::frames::Kind;
use crate::prelude::*;
use crate::vm::guest_address;

/// In an entry of a peer table, beside the reference of a domain: its guest is meant.
pub const GUESTS: u64 = 1 << 16;

/// A grant in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Grant {
    /// The frame behind it.
    pub frame: Frame,
    /// The entry.
    pub reference: u32,
    /// Epoch of the granter when the use began.
    pub epoch: u32,
    /// Whose it is.
    pub granter: Slot,
    /// 1 if it may be written.
    pub write: u8,
    /// 1 if the entry is in the table of the granter's guest.
    pub guests: u8,
    spare: u8,
}

/// How an entry is in use: how often, how often of that for writing, and the frame.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Active {
    pub uses: u16,
    pub writes: u16,
    frame: Frame,
}

impl<M: Machine> Core<M> {
    /// The domain that entry `index` of a peer table names, and whether its guest is meant.
    pub(crate) fn peer(&self, slot: Slot, index: u64) -> Result<(Slot, bool)> {
        let found = if index < PEERS as u64 { self.machine.load(self.domains[slot].peer(index)) } else { 0 };
        let peer = self.resolve(found).filter(|&peer| !self.domains[peer].is_gone()).ok_or(Error::NoPeer)?;
        Ok((peer, found & GUESTS != 0))
    }

    /// Begins to use a grant of peer `index` of `user`.
    pub(crate) fn acquire(&mut self, user: Slot, index: u64, reference: u64, write: bool) -> Result<Grant> {
        let (granter, guests) = self.peer(user, index)?;
        let domain = &self.domains[granter];
        let reference = u32::try_from(reference).map_err(|_| Error::BadGrant)?;
        // Once a reset has begun, what is granted belongs to the past.
        let places = domain.grant(reference, guests).filter(|_| domain.state != Some(State::Resetting));
        let (entry, active) = places.ok_or(Error::BadGrant)?;
        let page = self.mark(user, granter, entry, write)?;
        let before: Active = zerocopy::transmute!(self.machine.load(active));
        let usable = |frame: &Frame| {
            let info = self.frames.info(&self.machine, *frame);
            let same = before.uses == 0 || *frame == before.frame;
            info.owner == granter && info.kind == Kind::MEMORY && same && before.uses < u16::MAX
        };
        let address = if guests { guest_address(page) } else { Some(page) };
        let frame = address.and_then(|address| domain.space.translate(&self.machine, address, write));
        let Some(frame) = frame.filter(usable) else {
            self.unmark(entry, before);
            return Err(Error::BadGrant);
        };
        let now = Active { uses: before.uses + 1, writes: before.writes + write as u16, frame };
        self.machine.store(active, zerocopy::transmute!(now));
        let (epoch, write, guests) = (domain.info.resets, write.into(), guests.into());
        Ok(Grant { frame, reference, epoch, granter, write, guests, spare: 0 })
    }

    /// Ends the use of a grant. One of an older epoch is not accounted for any more.
    pub(crate) fn release(&mut self, grant: Grant) {
        let domain = &self.domains[grant.granter];
        let places = domain.grant(grant.reference, grant.guests != 0);
        if let Some((entry, active)) = places.filter(|_| domain.info.resets == grant.epoch) {
            let mut now: Active = zerocopy::transmute!(self.machine.load(active));
            now.uses = now.uses.saturating_sub(1);
            now.writes = now.writes.saturating_sub(grant.write as u16);
            self.machine.store(active, zerocopy::transmute!(now));
            self.unmark(entry, now);
        }
    }

    /// Checks that an entry lets `user` in, and sets its status bits. Gives the address of its page.
    fn mark(&self, user: Slot, granter: Slot, entry: Phys, write: bool) -> Result<u64> {
        let status = if write { READING | WRITING } else { READING };
        let found = self.machine.load(entry);
        let GrantEntry { flags, peer, frame } = zerocopy::transmute!(found);
        let open = flags & !(READONLY | READING | WRITING) == PERMIT_ACCESS && !(write && flags & READONLY != 0);
        let known = (peer as usize) < PEERS
            && self.machine.load(self.domains[granter].peer(peer.into())) & !GUESTS == self.reference(user);
        // Who changes an entry while it is taken has not granted it.
        if open && known && self.machine.compare_exchange(entry, found, found | status as u64) {
            Ok((frame as u64) << PAGE_SHIFT)
        } else {
            Err(Error::BadGrant)
        }
    }

    /// Clears the status bits of an entry that its remaining uses do not need.
    fn unmark(&self, entry: Phys, rest: Active) {
        let reading = if rest.uses == 0 { READING } else { 0 };
        let writing = if rest.writes == 0 { WRITING } else { 0 };
        if reading | writing != 0 {
            self.machine.fetch_and(entry, !((reading | writing) as u64));
        }
    }
}
