//! ATA disks: device 0 of a channel, without DMA.
//!
//! The driver moves the data itself: a page of a guest is copied to or from the driver's own, by one hypercall, for each piece of
//! a request. Requests are carried out in the order in which they come.

pub mod channel;
mod identity;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Poll;

use heapless::Vec as Short;
use protocol::error::Result as CallResult;
use protocol::ring::block::SECTOR;
use unikernel::backend::Cause;
use unikernel::grant::{Copies, Source};

use crate::connection::SEGMENTS_MAX;
use crate::disk::{Costs, Disk, Fault, Operation, Outcome, Piece, Properties};
use crate::partition::TABLE_BYTES;
use channel::{Channel, Command, Registers, SECTORS_MAX, Transfer};
use identity::{IDENTIFY, Identity};

/// Requests that are taken: a few, so that those of several guests can wait for their turn.
const DEPTH: usize = 16;
/// What they take of the room: so much that there are never more, however small, and room for several of any size.
const COSTS: Costs = Costs { request: SEGMENTS_MAX as u16, discard: 0 };
const ROOM: usize = DEPTH * COSTS.request as usize;
/// Sectors moved before others have their turn: 32 KiB, some milliseconds of a disk without DMA.
const SECTORS_PER_STEP: usize = 64;

/// Pages of guests, as far as a driver without DMA needs them.
pub trait Pages {
    /// Fills `out` from `offset` in a page.
    fn read(&self, from: Source, offset: u16, out: &mut [u8]) -> CallResult<()>;
    /// Copies `bytes` to `offset` in a page.
    fn write(&self, to: Source, offset: u16, bytes: &[u8]) -> CallResult<()>;
}

/// Pages that guests have granted.
#[derive(Clone, Copy, Debug)]
pub struct Grants;

impl Pages for Grants {
    fn read(&self, from: Source, offset: u16, out: &mut [u8]) -> CallResult<()> {
        let mut copies = Copies::new();
        copies.read(from, offset, out)?;
        copies.run()
    }

    fn write(&self, to: Source, offset: u16, bytes: &[u8]) -> CallResult<()> {
        let mut copies = Copies::new();
        copies.write(to, offset, bytes)?;
        copies.run()
    }
}

/// A request that was taken.
#[derive(Debug)]
struct Request {
    tag: u32,
    operation: Operation,
    pieces: Short<Piece, SEGMENTS_MAX>,
    /// Pieces, and sectors, that are done.
    done: usize,
    moved: u64,
    /// The command for the next piece is with the disk.
    running: bool,
}

/// How far the start of a disk is.
#[derive(Debug)]
enum Start {
    /// Its reset is under way.
    Reset,
    /// It was asked for its identity.
    Identify,
    /// Its first sectors are being read; those that were.
    Table(Vec<u8>),
}

/// A disk with its driver.
#[derive(Debug)]
pub struct Ata<R, P> {
    channel: Channel<R>,
    pages: P,
    identity: Identity,
    start: Option<Start>,
    /// At most [`DEPTH`], for which there is memory.
    requests: VecDeque<Request>,
}

impl<R: Registers, P: Pages> Ata<R, P> {
    /// Resets the disk, if there is one.
    pub fn new(registers: R, pages: P) -> Option<Ata<R, P>> {
        let mut channel = Channel::new(registers)?;
        channel.start_reset();
        let (identity, start) = (Identity::default(), Some(Start::Reset));
        Some(Ata { channel, pages, identity, start, requests: VecDeque::with_capacity(DEPTH) })
    }

    /// Goes on with starting it, to be called until it gives the first bytes of the disk; zeros if they cannot be read.
    pub fn begin(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let mut budget = SECTORS_PER_STEP;
        loop {
            match self.start.take() {
                None => return Ok(Some(alloc::vec![0; TABLE_BYTES])),
                Some(Start::Reset) if !self.channel.is_ready()? => {
                    self.start = Some(Start::Reset);
                    return Ok(None);
                }
                Some(Start::Reset) => {
                    self.channel.start(IDENTIFY);
                    self.start = Some(Start::Identify);
                }
                Some(Start::Identify) => match self.channel.advance(&mut budget)? {
                    Poll::Pending => {
                        self.start = Some(Start::Identify);
                        return Ok(None);
                    }
                    Poll::Ready(Err(_)) => return Err(Fault("it does not say what it is, so it is no ATA disk")),
                    Poll::Ready(Ok(())) => {
                        self.identity = Identity::parse(&self.channel.page[..])?;
                        self.ask_table(0);
                        self.start = Some(Start::Table(Vec::new()));
                    }
                },
                Some(Start::Table(mut bytes)) => match self.channel.advance(&mut budget)? {
                    Poll::Pending => {
                        self.start = Some(Start::Table(bytes));
                        return Ok(None);
                    }
                    Poll::Ready(Err(_)) => {}
                    Poll::Ready(Ok(())) => {
                        bytes.extend_from_slice(&self.channel.page[..]);
                        bytes.truncate((self.identity.sectors.saturating_mul(SECTOR)).min(TABLE_BYTES as u64) as usize);
                        if !self.ask_table(bytes.len()) {
                            bytes.resize(TABLE_BYTES, 0);
                            return Ok(Some(bytes));
                        }
                        self.start = Some(Start::Table(bytes));
                    }
                },
            }
        }
    }

    /// Asks for more of the first bytes of the disk than so many; `false` if there are no more.
    fn ask_table(&mut self, bytes: usize) -> bool {
        let first = bytes as u64 / SECTOR;
        let wanted = self.identity.sectors.min(TABLE_BYTES as u64 / SECTOR);
        let sectors = wanted.saturating_sub(first).min(SECTORS_MAX as u64) as usize;
        let command = self.identity.command(Operation::Read { sector: 0 }, first, sectors);
        let Some(command) = command.filter(|_| sectors > 0) else { return false };
        self.channel.start(command);
        true
    }

    /// Gives the disk the command for the next piece of a request, or says that there is none.
    fn next_command(&mut self) -> Result<Option<Command>, Cause> {
        let Some(request) = self.requests.front() else { return Ok(None) };
        let piece = request.pieces.get(request.done);
        let sectors = match (request.operation, piece) {
            (Operation::Flush, _) if request.done == 0 => 0,
            (_, Some(piece)) => piece.sectors(),
            (_, None) => return Ok(None),
        };
        let command = self.identity.command(request.operation, request.moved, sectors);
        if let (Some(Command { transfer: Transfer::Out, .. }), Some(piece)) = (command, piece) {
            let out = &mut self.channel.page[..piece.length()];
            self.pages.read(piece.source(), piece.offset(), out).map_err(|error| gone(piece, error))?;
        }
        Ok(command)
    }

    /// The command for a piece is done.
    fn piece_done(&mut self) -> Outcome {
        let Some(request) = self.requests.front_mut() else { return Ok(()) };
        request.running = false;
        let piece = request.pieces.get(request.done);
        request.done += 1;
        let Some(piece) = piece else { return Ok(()) };
        request.moved += piece.sectors() as u64;
        match request.operation {
            Operation::Read { .. } => {
                let bytes = &self.channel.page[..piece.length()];
                self.pages.write(piece.source(), piece.offset(), bytes).map_err(|error| gone(piece, error))
            }
            _ => Ok(()),
        }
    }

    /// The oldest request is done.
    fn finish(&mut self, outcome: Outcome) -> Option<(u32, Outcome)> {
        self.requests.pop_front().map(|request| (request.tag, outcome))
    }
}

fn gone(piece: &Piece, error: protocol::error::Error) -> Cause {
    Cause::Page { reference: piece.reference, error }
}

impl<R: Registers, P: Pages> Disk for Ata<R, P> {
    fn properties(&self) -> Properties {
        Properties {
            sectors: self.identity.sectors,
            sector_size: SECTOR as u32,
            read_only: false,
            cache: self.identity.flush,
            discard: false,
            pieces: SEGMENTS_MAX as u16,
        }
    }

    fn room(&self) -> usize {
        ROOM - self.requests.iter().map(|request| COSTS.of(request.operation, request.pieces.len())).sum::<usize>()
    }

    fn costs(&self) -> Costs {
        COSTS
    }

    fn submit(&mut self, tag: u32, operation: Operation, pieces: &[Piece]) -> Outcome {
        let sectors = pieces.iter().map(|piece| piece.sectors() as u64).sum();
        match operation {
            Operation::Discard { .. } => return Err(Cause::Text("the disk cannot discard")),
            Operation::Read { sector } | Operation::Write { sector }
                if sector.checked_add(sectors).is_none_or(|end| end > self.identity.sectors) =>
            {
                return Err(Cause::Number("beyond the end of the disk, from sector", sector));
            }
            _ if COSTS.of(operation, pieces.len()) > self.room() => return Err(Cause::Text("the queue is full")),
            _ => {}
        }
        let pieces = Short::from_slice(pieces).map_err(|_| Cause::Text("too many pieces"))?;
        let request = Request { tag, operation, pieces, done: 0, moved: 0, running: false };
        self.requests.push_back(request);
        Ok(())
    }

    // Commands are started where they are gone on with: the disk takes one at a time.
    fn kick(&mut self) {}

    fn completed(&mut self) -> Result<Option<(u32, Outcome)>, Fault> {
        let mut budget = SECTORS_PER_STEP;
        while let Some(request) = self.requests.front_mut() {
            if request.running {
                match self.channel.advance(&mut budget)? {
                    Poll::Pending => return Ok(None),
                    Poll::Ready(outcome) => {
                        if let Err(cause) = outcome.and_then(|()| self.piece_done()) {
                            return Ok(self.finish(Err(cause)));
                        }
                    }
                }
                continue;
            }
            if !self.channel.is_ready()? {
                return Ok(None);
            }
            match self.next_command() {
                Ok(Some(command)) => {
                    self.channel.start(command);
                    if let Some(request) = self.requests.front_mut() {
                        request.running = true;
                    }
                }
                Ok(None) => return Ok(self.finish(Ok(()))),
                Err(cause) => return Ok(self.finish(Err(cause))),
            }
        }
        Ok(None)
    }

    fn is_done(&self) -> bool {
        !self.requests.is_empty() && self.channel.is_waiting()
    }

    fn rearm(&mut self) -> bool {
        self.channel.rearm();
        self.is_done()
    }

    fn changed(&mut self) -> bool {
        false
    }

    fn start_reset(&mut self) {
        self.requests.clear();
        self.channel.start_reset();
    }

    fn is_reset(&mut self) -> Result<bool, Fault> {
        self.channel.is_ready()
    }
}

#[cfg(test)]
mod tests;
