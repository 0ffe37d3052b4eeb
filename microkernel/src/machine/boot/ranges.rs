//! Sets of physical addresses, as few disjoint ranges.

use core::ops::Range;

use heapless::Vec;

/// Ranges a set can have. Firmware maps seen on large machines have less than a hundred entries.
const MAX: usize = 128;
const FULL: &str = "the firmware's memory map has more than 128 ranges";

/// A set of addresses; its ranges are disjoint, not empty, and in no order.
#[derive(Clone, Default)]
pub struct Ranges(Vec<Range<u64>, MAX>);

impl Ranges {
    /// The ranges.
    pub fn as_slice(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Whether all of `inner` is in the set, in one range.
    pub fn contains(&self, inner: &Range<u64>) -> bool {
        self.0.iter().any(|range| range.start <= inner.start && inner.end <= range.end)
    }

    /// Adds addresses.
    pub fn add(&mut self, mut new: Range<u64>) -> Result<(), &'static str> {
        if new.is_empty() {
            return Ok(());
        }
        // Whatever touches the new range becomes part of it.
        while let Some(index) = self.0.iter().position(|old| old.start <= new.end && new.start <= old.end) {
            let old = self.0.swap_remove(index);
            new = old.start.min(new.start)..old.end.max(new.end);
        }
        self.0.push(new).map_err(|_| FULL)
    }

    /// Removes addresses.
    pub fn remove(&mut self, gone: Range<u64>) -> Result<(), &'static str> {
        if gone.is_empty() {
            return Ok(());
        }
        for old in core::mem::take(&mut self.0) {
            let rests = [old.start..old.end.min(gone.start), old.start.max(gone.end)..old.end];
            for rest in rests.into_iter().filter(|rest| !rest.is_empty()) {
                self.0.push(rest).map_err(|_| FULL)?;
            }
        }
        Ok(())
    }

    /// Takes `length` bytes, a multiple of the frame size, away from the highest place below `limit` that has them.
    pub fn take(&mut self, length: u64, limit: u64) -> Option<u64> {
        let place = |range: &Range<u64>| range.end.min(limit).checked_sub(length).filter(|start| *start >= range.start);
        let start = self.0.iter().filter_map(place).max()?;
        self.remove(start..start + length).ok().map(|()| start)
    }
}
