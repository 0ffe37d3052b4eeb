//! Grants: the check of an entry, and the account of who uses it.
//!
//! An entry is taken in the way its granter may expect (Xen `grant_entry_v1`): flags and peer are read together and the
//! status bits are set by a compare-exchange on just that word, so the granter can revoke an unused entry with the same
//! operation. What an entry is used for is counted next to it, in a frame that only the core sees.

use protocol::error::{Error, Result};
use protocol::grant::{PEERS, PERMIT_ACCESS, READING, READONLY, WRITING};
use protocol::layout::PAGE_SHIFT;

use crate::domain::{decode_peer, encode_peer};
use crate::frames::Kind;
use crate::platform::{Frame, Machine, Phys};
use crate::slot::Slot;
use crate::state::Core;

/// How often a granter may change an entry while the core takes it.
const RETRIES: usize = 4;

/// A grant in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub granter: Slot,
    /// Its epoch when the use began.
    pub epoch: u32,
    /// The entry.
    pub reference: u32,
    /// Whether it may be written.
    pub write: bool,
    /// The frame behind it.
    pub frame: Frame,
}

/// How an entry is in use: how often, how often of that for writing, and the frame.
fn decode(raw: u64) -> (u16, u16, Frame) {
    (raw as u16, (raw >> 16) as u16, Frame((raw >> 32) as u32))
}

impl<M: Machine> Core<M> {
    /// The domain that entry `index` of a peer table names.
    pub(crate) fn peer(&self, slot: Slot, index: u64) -> Result<Slot> {
        if index >= PEERS as u64 {
            return Err(Error::NoPeer);
        }
        let raw = self.machine.load(self.domains[slot].peer(index as u16));
        let (peer, incarnation) = decode_peer(raw).ok_or(Error::NoPeer)?;
        let domain = &self.domains[peer];
        if domain.incarnation != incarnation || domain.is_gone() { Err(Error::NoPeer) } else { Ok(peer) }
    }

    /// Sets entry `index` of a peer table.
    pub(crate) fn set_peer(&mut self, slot: Slot, index: u16, peer: Slot) {
        let raw = encode_peer(peer, self.domains[peer].incarnation);
        self.machine.store(self.domains[slot].peer(index), raw);
    }

    /// Begins to use a grant of peer `index` of `user`.
    pub(crate) fn acquire(&mut self, user: Slot, index: u64, reference: u64, write: bool) -> Result<Grant> {
        let granter = self.peer(user, index)?;
        let reference = u32::try_from(reference).map_err(|_| Error::BadGrant)?;
        let domain = &self.domains[granter];
        let (entry, active) = domain.grant(reference).ok_or(Error::BadGrant)?;
        let status = if write { READING | WRITING } else { READING };
        let mut found = self.machine.load_u32(entry);
        let mut taken = false;
        for _ in 0..RETRIES {
            let flags = found as u16;
            if flags & !(READONLY | READING | WRITING) != PERMIT_ACCESS
                || write && flags & READONLY != 0
                || self.peer(granter, (found >> 16) as u64) != Ok(user)
            {
                return Err(Error::BadGrant);
            }
            match self.machine.compare_exchange_u32(entry, found, found | status as u32) {
                Ok(()) => {
                    taken = true;
                    break;
                }
                Err(other) => found = other,
            }
        }
        let (uses, writes, before) = decode(self.machine.load(active));
        let page = (self.machine.load_u32(Phys(entry.0 + 4)) as u64) << PAGE_SHIFT;
        let frame = domain.space.translate(&self.machine, page, write).filter(|&frame| {
            let info = self.frames.info(&self.machine, frame);
            info.owner == granter && info.kind == Kind::Memory && (uses == 0 || frame == before)
        });
        let (Some(frame), true, true) = (frame, taken, uses < u16::MAX) else {
            self.clear_status(entry, uses, writes);
            return Err(Error::BadGrant);
        };
        let raw = (uses + 1) as u64 | ((writes + write as u16) as u64) << 16 | (frame.0 as u64) << 32;
        self.machine.store(active, raw);
        Ok(Grant { granter, epoch: domain.epoch, reference, write, frame })
    }

    /// Ends the use of a grant. One of an older epoch is not accounted for any more.
    pub(crate) fn release(&mut self, grant: Grant) {
        let domain = &self.domains[grant.granter];
        if domain.epoch != grant.epoch {
            return;
        }
        let Some((entry, active)) = domain.grant(grant.reference) else { return };
        let (uses, writes, frame) = decode(self.machine.load(active));
        let (uses, writes) = (uses.saturating_sub(1), writes.saturating_sub(grant.write as u16));
        self.machine.store(active, uses as u64 | (writes as u64) << 16 | (frame.0 as u64) << 32);
        self.clear_status(entry, uses, writes);
    }

    /// Clears the status bits of an entry that its remaining uses do not need.
    fn clear_status(&self, entry: Phys, uses: u16, writes: u16) {
        let unused = if uses == 0 { READING } else { 0 } | if writes == 0 { WRITING } else { 0 };
        if unused != 0 {
            self.machine.fetch_and(entry, !(unused as u64));
        }
    }
}
