//! A disk without a disk: everything succeeds at once, and nothing is moved.
//!
//! It is for measuring what lies above a driver. What is read from it is whatever the pages held.

use heapless::Deque;
use protocol::ring::block::SECTOR;

use crate::disk::{Disk, Fault, Operation, Piece, Properties};

/// Requests under way at once.
pub const DEPTH: usize = 256;

/// The disk.
#[derive(Debug)]
pub struct Null {
    sectors: u64,
    done: Deque<u32, DEPTH>,
}

impl Null {
    /// A disk of `bytes`.
    pub const fn new(bytes: u64) -> Null {
        Null { sectors: bytes / SECTOR, done: Deque::new() }
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
        DEPTH - self.done.len()
    }

    fn cost(&self, _: usize) -> usize {
        1
    }

    fn submit(&mut self, tag: u32, _: Operation, _: &[Piece]) -> bool {
        self.done.push_back(tag).is_ok()
    }

    fn kick(&mut self) {}

    fn completed(&mut self) -> Result<Option<(u32, bool)>, Fault> {
        Ok(self.done.pop_front().map(|tag| (tag, true)))
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
    }

    fn is_reset(&mut self) -> Result<bool, Fault> {
        Ok(true)
    }
}
