//! Copies on their way: what a turn of one port collects before the core is asked to make them, all at once.

use alloc::vec::{Drain, Vec};

use heapless::Vec as Few;
use protocol::error::Error;
use protocol::grant::MAX_BATCH;
use protocol::layout::PAGE_SIZE;
use unikernel::backend::Incoming;
use unikernel::grant::{Place, Transfer};

use crate::checksum::Blank;

/// Who gets a frame, and where it is put.
#[derive(Debug)]
pub enum Target {
    /// A guest.
    Guest {
        /// Its port.
        port: u8,
        /// The buffers.
        buffers: Incoming,
        /// Flags of the response.
        flags: u16,
    },
    /// The wire.
    Wire {
        /// Where in the driver's memory.
        at: u32,
        /// The checksum is still to be filled in.
        blank: Option<Blank>,
    },
}

/// One frame on its way to one receiver.
#[derive(Debug)]
pub struct Delivery {
    /// Number of the frame in the sender's batch.
    pub frame: usize,
    /// Bytes of it.
    pub length: usize,
    /// Who gets it.
    pub target: Target,
    /// What failed, and whether it was the first copy.
    pub error: Option<(Error, bool)>,
}

/// Deliveries with their copies.
#[derive(Debug, Default)]
pub struct Batch {
    transfers: Few<Transfer, MAX_BATCH>,
    /// For each transfer, its delivery, and whether it is that one's first.
    owners: Few<(usize, bool), MAX_BATCH>,
    deliveries: Vec<Delivery>,
}

/// The copies that bring a frame, which lies in `pieces`, into `places`; each place takes a page.
pub fn route(
    pieces: impl IntoIterator<Item = (Place, usize)>,
    places: impl IntoIterator<Item = Place>,
    mut each: impl FnMut(Transfer) -> bool,
) -> bool {
    let mut places = places.into_iter();
    let (mut to, mut room) = (None, 0);
    for (mut from, mut left) in pieces {
        while left > 0 {
            if room == 0 {
                (to, room) = (places.next(), PAGE_SIZE as usize);
            }
            let Some(place) = to else { return false };
            let now = left.min(room);
            if !each(Transfer { from, to: place, length: now as u16, error: None }) {
                return false;
            }
            (from, to) = (from.plus(now), Some(place.plus(now)));
            (left, room) = (left - now, room - now);
        }
    }
    true
}

impl Batch {
    /// Adds a delivery of the frame in `pieces` to `places`. Gives it back if its copies do not fit any more.
    pub fn add(
        &mut self,
        delivery: Delivery,
        pieces: impl IntoIterator<Item = (Place, usize)>,
        places: impl IntoIterator<Item = Place>,
    ) -> Option<Delivery> {
        let (before, number) = (self.transfers.len(), self.deliveries.len());
        let (transfers, owners) = (&mut self.transfers, &mut self.owners);
        let fits = route(pieces, places, |transfer| {
            let first = transfers.len() == before;
            transfers.push(transfer).is_ok() && owners.push((number, first)).is_ok()
        });
        if !fits {
            self.transfers.truncate(before);
            self.owners.truncate(before);
            return Some(delivery);
        }
        self.deliveries.push(delivery);
        None
    }

    /// Makes the copies by `run`, and gives all deliveries, in the order in which they were added.
    pub fn carry_out(&mut self, run: impl FnOnce(&mut [Transfer])) -> Drain<'_, Delivery> {
        if !self.transfers.is_empty() {
            run(&mut self.transfers);
        }
        for (transfer, &(number, first)) in self.transfers.iter().zip(&self.owners) {
            if let (Some(error), Some(delivery)) = (transfer.error, self.deliveries.get_mut(number)) {
                delivery.error = delivery.error.or(Some((error, first)));
            }
        }
        self.transfers.clear();
        self.owners.clear();
        self.deliveries.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own(offset: u32) -> Place {
        Place::Own { area: 0, offset }
    }

    proptest! {
        /// Every byte of a frame arrives once, in its place, and no copy crosses the end of a page it is put in.
        #[test]
        fn frames_are_routed_whole(lengths in prop::collection::vec(1usize..4097, 1..8)) {
            let pieces: Vec<_> = lengths.iter().enumerate().map(|(at, &length)| (own(at as u32 * 10_000), length)).collect();
            let total: usize = lengths.iter().sum();
            let places: Vec<_> = (0..total.div_ceil(4096)).map(|at| Place::Own { area: 1, offset: at as u32 * 4096 }).collect();
            let (mut done, mut expected) = (0, pieces.iter().flat_map(|&(from, length)| (0..length).map(move |i| from.plus(i))));
            let whole = route(pieces.iter().copied(), places, |transfer| {
                let page = transfer.to;
                assert_eq!(page, Place::Own { area: 1, offset: done as u32 });
                assert!(done % 4096 + transfer.length as usize <= 4096);
                for byte in 0..transfer.length as usize {
                    assert_eq!(Some(transfer.from.plus(byte)), expected.next());
                }
                done += transfer.length as usize;
                true
            });
            prop_assert!(whole && done == total);
        }
    }

    #[test]
    fn a_delivery_that_does_not_fit_leaves_nothing_behind() {
        let mut batch = Batch::default();
        let delivery = |frame| Delivery { frame, length: 60, target: Target::Wire { at: 0, blank: None }, error: None };
        for frame in 0..MAX_BATCH / 2 - 1 {
            assert!(batch.add(delivery(frame), [(own(0), 20), (own(9), 40)], [own(4096)]).is_none());
        }
        assert!(batch.add(delivery(90), [(own(0), 10), (own(9), 10), (own(50), 40)], [own(4096)]).is_some());
        assert!(batch.add(delivery(91), [(own(0), 60)], [own(4096)]).is_none());
        let done: Vec<_> = batch
            .carry_out(|transfers| {
                assert_eq!(transfers.len(), MAX_BATCH - 1);
                transfers[3].error = Some(Error::Invalid);
            })
            .collect();
        assert_eq!(done.len(), MAX_BATCH / 2);
        assert_eq!((done[1].error, done[0].error), (Some((Error::Invalid, false)), None));
        assert_eq!(done.last().map(|last| last.frame), Some(91));
    }
}
