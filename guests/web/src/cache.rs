//! The disk in chunks, the ones used last in memory.
//!
//! The file system's code asks for single blocks and cannot wait; the ring is at its best with large requests. So what is in
//! memory is answered at once, what is not is named, fetched by whoever can wait, and asked for again. Who reads on where
//! another chunk ends gets the next ones fetched ahead.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use protocol::ring::block::{SECTOR, SECTORS_PER_PAGE};
use unikernel::executor::spawn;
use unikernel::frontend::block::{Buffer, Disk, Failure};

/// Pages of a chunk, if one request can have so many: 128 KiB.
const CHUNK_PAGES: usize = 32;
/// Pages of all chunks: 4 MiB.
const CACHE_PAGES: usize = 1024;
/// Chunks fetched before they are asked for.
const AHEAD: u64 = 4;

/// Number of a chunk on the disk.
pub type Number = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Fetching,
    Here,
}

struct Chunk {
    number: Number,
    state: State,
    /// When it was used last.
    used: u64,
    buffer: Rc<Buffer>,
}

/// The chunks.
pub struct Cache {
    disk: Disk,
    sectors: u64,
    per_chunk: u64,
    chunks: RefCell<Vec<Chunk>>,
    clock: Cell<u64>,
    /// The chunk that was looked for in vain last.
    missed: Cell<Option<Number>>,
    waiting: RefCell<Vec<core::task::Waker>>,
}

impl Cache {
    /// An empty cache of a disk that is ready.
    pub fn new(disk: Disk) -> Result<Cache, Failure> {
        let limits = disk.limits().ok_or(Failure::Gone)?;
        let pages = 1 << CHUNK_PAGES.min(disk.pages_max()).ilog2();
        let chunk = || Ok(Chunk { number: 0, state: State::Empty, used: 0, buffer: disk.buffer(pages)? });
        let chunks = (0..CACHE_PAGES / pages).map(|_| chunk()).collect::<Result<_, Failure>>()?;
        Ok(Cache {
            sectors: limits.sectors,
            per_chunk: pages as u64 * u64::from(SECTORS_PER_PAGE),
            chunks: RefCell::new(chunks),
            clock: Cell::new(0),
            missed: Cell::new(None),
            waiting: RefCell::default(),
            disk,
        })
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// Copies a sector out, if it is in memory; else it is remembered as missed.
    pub fn read(&self, sector: u64, out: &mut [u8]) -> bool {
        let (number, offset) = (sector / self.per_chunk, sector % self.per_chunk);
        let now = self.tick();
        let mut chunks = self.chunks.borrow_mut();
        match chunks.iter_mut().find(|chunk| chunk.number == number && chunk.state == State::Here) {
            Some(chunk) => {
                chunk.used = now;
                chunk.buffer.read((offset * SECTOR) as usize, out);
                true
            }
            None => {
                self.missed.set(Some(number));
                false
            }
        }
    }

    /// The chunk that was missed since this was asked last.
    pub fn missed(&self) -> Option<Number> {
        self.missed.take()
    }

    /// Gets a chunk into memory, and those behind it if it continues one that is there.
    pub async fn fetch(self: &Rc<Self>, number: Number) -> Result<(), Failure> {
        let before = number.checked_sub(1).is_some_and(|before| self.is_here(before));
        if before {
            let last = self.sectors.div_ceil(self.per_chunk);
            for next in (number + 1..=number + AHEAD).take_while(|&next| next < last) {
                let cache = self.clone();
                if !self.is_known(next) {
                    spawn(async move {
                        // Whoever needs it will ask again, and be told.
                        let _ = cache.get(next).await;
                    });
                }
            }
        }
        self.get(number).await
    }

    fn is_here(&self, number: Number) -> bool {
        self.chunks.borrow().iter().any(|chunk| chunk.number == number && chunk.state == State::Here)
    }

    fn is_known(&self, number: Number) -> bool {
        self.chunks.borrow().iter().any(|chunk| chunk.number == number && chunk.state != State::Empty)
    }

    async fn get(&self, number: Number) -> Result<(), Failure> {
        loop {
            if self.is_here(number) {
                return Ok(());
            }
            if !self.is_known(number)
                && let Some((index, buffer)) = self.make_room(number)
            {
                return self.load(index, number, buffer).await;
            }
            self.change().await;
        }
    }

    /// Takes the chunk that was not used for longest; `None` if all are being fetched.
    fn make_room(&self, number: Number) -> Option<(usize, Rc<Buffer>)> {
        let now = self.tick();
        let mut chunks = self.chunks.borrow_mut();
        let idle = chunks.iter_mut().enumerate().filter(|(_, chunk)| chunk.state != State::Fetching);
        let (index, chunk) = idle.min_by_key(|(_, chunk)| chunk.used)?;
        chunk.number = number;
        chunk.state = State::Fetching;
        chunk.used = now;
        Some((index, chunk.buffer.clone()))
    }

    async fn load(&self, index: usize, number: Number, buffer: Rc<Buffer>) -> Result<(), Failure> {
        let first = number * self.per_chunk;
        let count = self.per_chunk.min(self.sectors.saturating_sub(first));
        let outcome = self.disk.read(first, buffer.sectors(0..count as u32)).await;
        self.chunks.borrow_mut()[index].state = if outcome.is_ok() { State::Here } else { State::Empty };
        self.waiting.borrow_mut().drain(..).for_each(core::task::Waker::wake);
        outcome
    }

    /// Waits until some chunk was fetched, or could not be.
    async fn change(&self) {
        let mut waited = false;
        core::future::poll_fn(|context| {
            if waited {
                return core::task::Poll::Ready(());
            }
            waited = true;
            self.waiting.borrow_mut().push(context.waker().clone());
            core::task::Poll::Pending
        })
        .await;
    }
}
