//! The load itself: as many tasks as requests are to be in flight, each of which issues the next one when it has its answer.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;
use core::time::Duration;

use load::random::Random;
use load::report::say;
use protocol::connection::DiskLimits;
use unikernel::executor::{Signal, race, spawn};
use unikernel::frontend::block::{Buffer, Disk, Failure};
use unikernel::time;

use crate::choice::{Ask, Field, PAGES_MAX, choose};
use crate::counts::Counts;
use crate::options::{Gone, Mode, Options};
use crate::oracle::{Oracle, SECTOR};

/// Findings that are told in full; the others are counted.
const TOLD: u64 = 10;

/// Sectors of a request under way, and whether it changes them.
type UnderWay = (Range<u64>, bool);

struct Load {
    disk: Disk,
    options: Rc<Options>,
    field: Field,
    oracle: RefCell<Oracle>,
    counts: RefCell<Counts>,
    random: RefCell<Random>,
    /// What each task has under way.
    under_way: RefCell<Vec<Option<UnderWay>>>,
    deadline: u64,
    /// Nothing more is to be issued.
    stopped: Cell<bool>,
    /// Tasks that still run.
    tasks: Cell<usize>,
    /// The disk was taken away, and is not there again.
    away: Cell<bool>,
    ended: Signal,
    /// The next sector in order, for the modes that go by order.
    next: Cell<u64>,
}

/// Runs the load, and tells of it.
pub async fn run(disk: &Disk, options: Rc<Options>) -> Result<(), String> {
    let field = field(&disk.limits().unwrap_or_default(), disk.pages_max(), &options)?;
    let deadline = if options.seconds == 0 { u64::MAX } else { time::after(Duration::from_secs(options.seconds)) };
    // What another run left on the disk is told apart by this.
    let run = time::ticks() ^ options.seed.rotate_left(32);
    let load = Rc::new(Load {
        disk: disk.clone(),
        field,
        oracle: RefCell::new(Oracle::new(run, options.check, field.sectors)),
        counts: RefCell::new(Counts::new()),
        random: RefCell::new(Random::new(options.seed)),
        under_way: RefCell::new(vec![None; options.depth]),
        deadline,
        stopped: Cell::new(false),
        tasks: Cell::new(0),
        away: Cell::new(false),
        ended: Signal::default(),
        next: Cell::new(0),
        options,
    });
    match load.options.mode {
        Mode::Random => load.phase(Load::any).await?,
        Mode::Read => {
            load.phase(Load::next_write).await?;
            load.phase(Load::any_read).await?;
        }
        _ => {
            while !load.is_over() {
                load.phase(Load::next_write).await?;
                load.phase(Load::next_read).await?;
            }
        }
    }
    load.last_look().await?;
    let (counts, traffic) = (load.counts.borrow(), load.disk.traffic());
    let good = counts.errors == 0 && counts.wrong == 0 && counts.in_flight() == 0;
    let [reads, writes, discards, flushes] = counts.kinds;
    say(format_args!(
        r#"blkload {{"reads":{reads},"writes":{writes},"discards":{discards},"flushes":{flushes},"bytes":{},"sent":{},"wakeups":{}}}"#,
        counts.bytes, traffic.sent, traffic.wakeups,
    ));
    say(format_args!(r#"blkload {{"verdict":"{}",{counts}}}"#, if good { "ok" } else { "failed" }));
    if good { Ok(()) } else { Err("the disk is wrong".into()) }
}

fn field(limits: &DiskLimits, pages_max: usize, options: &Options) -> Result<Field, String> {
    if limits.read_only {
        return Err("the disk is read-only".into());
    }
    let grain = (u64::from(limits.sector_size) / SECTOR as u64).max(1);
    let sectors = options.sectors.min(limits.sectors) / grain * grain;
    if sectors < grain.max(8) {
        return Err(format!("{sectors} sectors are too few"));
    }
    let pages = PAGES_MAX.min(pages_max);
    Ok(Field { sectors, grain, pages, flush: limits.flush, discard: limits.discard })
}

impl Load {
    fn is_over(&self) -> bool {
        let enough = self.options.requests > 0 && self.counts.borrow().issued >= self.options.requests;
        self.stopped.get() || enough || time::now() >= self.deadline
    }

    /// Any request.
    fn any(&self) -> Option<Ask> {
        if self.is_over() {
            return None;
        }
        let under_way: Vec<Range<u64>> =
            self.under_way.borrow().iter().flatten().map(|(range, _)| range.clone()).collect();
        Some(choose(&mut self.random.borrow_mut(), &self.field, &under_way))
    }

    /// A read of anything.
    fn any_read(&self) -> Option<Ask> {
        match self.any()? {
            Ask::Read(range) | Ask::Write(range) | Ask::Discard(range) => Some(Ask::Read(range)),
            Ask::Flush => Some(Ask::Read(0..self.field.grain)),
        }
    }

    fn next_range(&self) -> Option<Range<u64>> {
        let first = self.next.get();
        let end = (first + self.field.pages as u64 * 8).min(self.field.sectors);
        self.next.set(end);
        (first < end && !self.stopped.get()).then_some(first..end)
    }

    /// The next write in order.
    fn next_write(&self) -> Option<Ask> {
        self.next_range().map(Ask::Write)
    }

    /// The next read in order.
    fn next_read(&self) -> Option<Ask> {
        self.next_range().map(Ask::Read)
    }

    /// Keeps as many requests in flight as wanted, until `next` gives none and all are answered.
    async fn phase(self: &Rc<Self>, next: fn(&Load) -> Option<Ask>) -> Result<(), String> {
        self.next.set(0);
        self.tasks.set(self.options.depth);
        for index in 0..self.options.depth {
            let load = self.clone();
            let buffer = self.disk.buffer(PAGES_MAX).map_err(|failure| format!("no buffers: {failure}"))?;
            spawn(async move {
                let mut bytes = vec![0; buffer.length()];
                while let Some(ask) = next(&load) {
                    load.carry_out(index, ask, &buffer, &mut bytes).await;
                }
                load.tasks.set(load.tasks.get() - 1);
                load.ended.raise();
            });
        }
        while self.tasks.get() > 0 {
            race(self.ended.wait(), time::sleep(Duration::from_secs(self.options.report))).await;
            say(format_args!("blkload {{{},\"in_flight\":{}}}", self.counts.borrow(), self.disk.unanswered()));
            if self.options.gone == Gone::Fail && self.tasks.get() > 0 && self.disk.limits().is_none() {
                return Err("the disk is gone".into());
            }
        }
        Ok(())
    }

    /// Issues one request, waits for its answer, and judges it.
    async fn carry_out(&self, index: usize, ask: Ask, buffer: &Rc<Buffer>, bytes: &mut [u8]) {
        let piece = |range: &Range<u64>| buffer.sectors(0..(range.end - range.start) as u32);
        let size = |range: &Range<u64>| (range.end - range.start) as usize * SECTOR;
        let then = time::now();
        self.counts.borrow_mut().issue();
        // What follows has to happen in the order in which the disk is asked, so nothing in it waits.
        let (kind, pending, range, bounds) = match &ask {
            Ask::Flush => (3, self.disk.flush(), 0..0, vec![]),
            Ask::Discard(range) => {
                self.oracle.borrow_mut().discard(range.clone());
                let bounds = self.oracle.borrow().bounds(range.clone());
                (2, self.disk.discard(range.start, range.end - range.start), range.clone(), bounds)
            }
            Ask::Write(range) => {
                let bytes = &mut bytes[..size(range)];
                self.oracle.borrow_mut().write(range.clone(), bytes);
                buffer.write(0, bytes);
                let bounds = self.oracle.borrow().bounds(range.clone());
                (1, self.disk.write(range.start, piece(range)), range.clone(), bounds)
            }
            Ask::Read(range) => {
                let bounds = self.oracle.borrow().bounds(range.clone());
                (0, self.disk.read(range.start, piece(range)), range.clone(), bounds)
            }
        };
        self.enter(index, &range, kind != 0);
        let outcome = pending.await;
        self.under_way.borrow_mut()[index] = None;
        if outcome == Err(Failure::Gone) && self.options.gone == Gone::Wait {
            if kind != 0 {
                self.oracle.borrow_mut().lost(range, &bounds);
            }
            return self.await_disk().await;
        }
        {
            let running = !self.is_over();
            let mut counts = self.counts.borrow_mut();
            counts.answer(then, running);
            counts.kinds[kind] += 1;
            if let Err(failure) = outcome {
                counts.errors += 1;
                if counts.errors <= TOLD {
                    say(format_args!("blkload: {ask:?} failed: {failure}"));
                }
                self.stopped.set(true);
                return;
            }
            counts.bytes += if kind < 2 { size(&range) as u64 } else { 0 };
        }
        match kind {
            0 => {
                let bytes = &mut bytes[..size(&range)];
                buffer.read(0, bytes);
                self.judge(&range, &bounds, bytes);
            }
            _ => self.oracle.borrow_mut().answered(range, &bounds),
        }
    }

    /// A request was lost with its connection, as are all others: waits until there is another one.
    async fn await_disk(&self) {
        {
            let mut counts = self.counts.borrow_mut();
            counts.unknown += 1;
            counts.gone += u64::from(!self.away.replace(true));
        }
        self.disk.ready().await;
        self.away.set(false);
    }

    /// Notes what is under way, and whether it meets with something.
    fn enter(&self, index: usize, range: &Range<u64>, writes: bool) {
        let mut under_way = self.under_way.borrow_mut();
        let meets = |(other, other_writes): &UnderWay| {
            (writes || *other_writes) && other.start < range.end && range.start < other.end
        };
        self.counts.borrow_mut().overlaps += u64::from(under_way.iter().flatten().any(meets));
        under_way[index] = (range.start < range.end).then(|| (range.clone(), writes));
    }

    fn judge(&self, range: &Range<u64>, then: &[crate::oracle::Bounds], bytes: &[u8]) {
        if let Err(finding) = self.oracle.borrow().judge(range.clone(), then, bytes) {
            let mut counts = self.counts.borrow_mut();
            counts.wrong += 1;
            if counts.wrong <= TOLD {
                say(format_args!("blkload: wrong content: {finding:?}, read {range:?}"));
            }
        }
    }

    /// Reads everything once more, when nothing is under way.
    async fn last_look(self: &Rc<Self>) -> Result<(), String> {
        if self.stopped.get() {
            return Ok(());
        }
        self.phase(Load::next_read).await
    }
}
