//! A disk without a disk: everything succeeds at once, and nothing is moved.
//!
//! It is for measuring what lies above a driver. What is read from it is whatever the pages held.

use heapless::Deque;
use protocol::ring::block::SECTOR;
use unikernel::backend::Cause;

use crate::disk::{Costs, Disk, Fault, Operation, Outcome, Piece, Properties};

/// Requests, and pieces of theirs, under way at once: as many as the queue of a real device has descriptors.
pub const DEPTH: usize = 256;

/// The disk.
#[derive(Debug)]
pub struct Null {
    sectors: u64,
    done: Deque<(u32, u16), DEPTH>,
    used: usize,
}

impl Null {
    /// A disk of `bytes`.
    pub const fn new(bytes: u64) -> Null {
        Null { sectors: bytes / SECTOR, done: Deque::new(), used: 0 }
    }
}

impl Disk for Null {
    fn properties(&self) -> Properties {
        Properties {
            sectors: self.sectors,
            sector_size: SECTOR as u32,
            read_only: false,
            cache: false,
            discard: true,
            pieces: u16::MAX,
        }
    }

    fn room(&self) -> usize {
        DEPTH - self.used
    }

    fn costs(&self) -> Costs {
        Costs { request: 1, discard: 0 }
    }

    fn submit(&mut self, tag: u32, operation: Operation, pieces: &[Piece]) -> Outcome {
        let cost = self.costs().of(operation, pieces.len());
        if cost > self.room() || self.done.push_back((tag, cost as u16)).is_err() {
            return Err(Cause::Number("more than the disk has room for", cost as u64));
        }
        self.used += cost;
        Ok(())
    }

    fn kick(&mut self) {}

    fn completed(&mut self) -> Result<Option<(u32, Outcome)>, Fault> {
        let Some((tag, cost)) = self.done.pop_front() else { return Ok(None) };
        self.used -= usize::from(cost);
        Ok(Some((tag, Ok(()))))
    }

    fn is_done(&self) -> bool {
        !self.done.is_empty()
    }

    fn rearm(&mut self) -> bool {
        !self.done.is_empty()
    }

    fn changed(&mut self) -> bool {
        false
    }

    fn start_reset(&mut self) {
        self.done.clear();
        self.used = 0;
    }

    fn is_reset(&mut self) -> Result<bool, Fault> {
        Ok(true)
    }
}
