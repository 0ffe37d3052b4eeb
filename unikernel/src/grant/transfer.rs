//! Copying among granted pages, of one peer or of two, and own pages that no Rust object is in.
//!
//! Unlike [`super::Copies`] a list says what became of each of its elements: the peers of one batch are strangers to each other, and
//! one's bad grant is not the other's loss.

use heapless::Vec;
use protocol::answer::decode;
use protocol::error::Error;
use protocol::grant::{CopyElement, CopySide, MAX_BATCH, OWN_MEMORY};
use protocol::layout::PAGE_SIZE;
use protocol::ring::Shared;

use super::Source;
use crate::area::Area;
use crate::hypercall::{raw, to_the_end};

/// One end of a transfer; it does not cross the end of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a peer's page.
    Granted {
        /// Which page.
        source: Source,
        /// Where in it.
        offset: u16,
    },
    /// In one of the areas given with the list.
    Own {
        /// Its place among them.
        area: u8,
        /// Where in it.
        offset: u32,
    },
}

impl Place {
    /// `bytes` further on.
    pub const fn plus(self, bytes: usize) -> Place {
        match self {
            Place::Granted { source, offset } => Place::Granted { source, offset: offset.saturating_add(bytes as u16) },
            Place::Own { area, offset } => Place::Own { area, offset: offset.saturating_add(bytes as u32) },
        }
    }
}

/// A copy to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Where the bytes come from.
    pub from: Place,
    /// Where they go.
    pub to: Place,
    /// How many.
    pub length: u16,
    /// Why it could not be made.
    pub error: Option<Error>,
}

/// Makes the copies, and notes in each whether it failed. Gives the number of hypercalls. A transfer beyond the end of an area
/// panics.
pub fn transfer(list: &mut [Transfer], areas: &[&Area]) -> u64 {
    let mut calls = 0;
    for part in list.chunks_mut(MAX_BATCH) {
        let (mut elements, mut shared) = (Vec::<CopyElement, MAX_BATCH>::new(), Vec::<&mut Transfer, MAX_BATCH>::new());
        for transfer in part {
            if let (Place::Own { area: from, offset: start }, Place::Own { area: to, offset: end }) =
                (transfer.from, transfer.to)
            {
                // Nobody else's memory: the core is for those copies only that cross a border.
                move_bytes(areas[from as usize], start as usize, areas[to as usize], end as usize, transfer.length);
                transfer.error = None;
                continue;
            }
            // A chunk is no longer than the vectors.
            let _ = elements.push(element(transfer, areas));
            let _ = shared.push(transfer);
        }
        if elements.is_empty() {
            continue;
        }
        let (address, count) = (elements.as_mut_ptr() as u64, elements.len() as u64);
        // SAFETY: the elements live until the call returns; the own memory they name lies in areas, where no Rust object is.
        let called = to_the_end(|| unsafe { raw::grant_copy(address, count) });
        for (transfer, element) in shared.iter_mut().zip(&elements) {
            transfer.error = called.and(decode(i64::from(element.status) as u64)).err();
        }
        calls += 1;
    }
    calls
}

/// Copies between own areas, piece by piece.
fn move_bytes(from: &Area, start: usize, to: &Area, end: usize, length: u16) {
    let mut piece = [0; 256];
    for done in (0..length as usize).step_by(piece.len()) {
        let now = piece.len().min(length as usize - done);
        from.read(start + done, &mut piece[..now]);
        to.write(end + done, &piece[..now]);
    }
}

fn element(transfer: &Transfer, areas: &[&Area]) -> CopyElement {
    let length = transfer.length;
    CopyElement {
        source: side(transfer.from, length, areas),
        destination: side(transfer.to, length, areas),
        length: length.into(),
        // Stays if the core does not come to this element.
        status: -(Error::Invalid as i32),
    }
}

fn side(place: Place, length: u16, areas: &[&Area]) -> CopySide {
    match place {
        Place::Granted { source, offset } => {
            CopySide { reference_or_address: source.reference.into(), peer: source.peer, offset, reserved: 0 }
        }
        Place::Own { area, offset } => {
            let area = areas[area as usize];
            let end = offset as usize + length as usize;
            assert!(end <= area.length(), "a transfer beyond a shared area");
            let at = area.address() + u64::from(offset);
            let inside = at % PAGE_SIZE;
            CopySide { reference_or_address: at - inside, peer: OWN_MEMORY, offset: inside as u16, reserved: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn a_copy_within_own_memory_needs_no_hypercall() {
        let mut memory = vec![0u64; 1024];
        let base = memory.as_mut_ptr() as u64;
        // SAFETY: the vector outlives the areas and is not touched otherwise.
        let (one, other) = unsafe { (Area::page(base), Area::page(base + PAGE_SIZE)) };
        let bytes: vec::Vec<u8> = (0..700).map(|i| i as u8 ^ 0x5a).collect();
        one.write(3, &bytes);
        let place = |area, offset| Place::Own { area, offset };
        let mut list = [Transfer { from: place(0, 3), to: place(1, 100), length: 700, error: None }];
        assert_eq!((transfer(&mut list, &[&one, &other]), list[0].error), (0, None));
        let mut back = vec![0; 700];
        other.read(100, &mut back);
        assert_eq!(back, bytes);
    }
}
