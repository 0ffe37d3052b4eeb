//! Who sends what when, and what is made of what arrives.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use load::histogram::Histogram;
use load::random::Random;
use load::report::say;
use unikernel::executor::{Signal, race, spawn, yield_now};
use unikernel::frontend::network::Interface;
use unikernel::time;

use crate::flow::Flow;
use crate::frame::{BROADCAST, Head, Kind, Mac, SIZE_MIN};
use crate::options::Options;

/// Every so many frames are answered.
const ANSWER_EVERY: u64 = 16;
/// After so long without an answer what is under way counts as lost, and sending goes on.
const PATIENCE: Duration = Duration::from_millis(200);
/// Time between two broadcasts.
const HELLO_PERIOD: Duration = Duration::from_millis(500);
/// Senders that are kept apart; what others send is left alone.
const FLOWS_MAX: usize = 16;
/// Frames handled before other tasks get their turn.
const TURN: usize = 32;
/// After the last frame was sent, answers and frames of others are waited for so long.
const LINGER: Duration = Duration::from_secs(2);

struct Load {
    interface: Interface,
    mac: Mac,
    run: u64,
    options: Options,
    /// Whom to send to, once somebody said hello.
    target: Cell<Option<Mac>>,
    flows: RefCell<BTreeMap<(Mac, u64), Flow>>,
    /// Frames that are not what was sent.
    corrupt: Cell<u64>,
    /// Frames sent, and how many of them the other side has said to have.
    sent: Cell<u64>,
    confirmed: Cell<u64>,
    /// Frames given up, so that sending goes on.
    given_up: Cell<u64>,
    bytes: Cell<u64>,
    round_trips: RefCell<Histogram>,
    news: Signal,
    begun: u64,
    over: Cell<bool>,
}

/// Runs the load; `true` if nothing was wrong.
pub async fn run(interface: Interface, mac: Mac, options: Options) -> bool {
    let load = Rc::new(Load {
        interface,
        mac,
        run: time::ticks(),
        target: Cell::default(),
        flows: RefCell::default(),
        corrupt: Cell::default(),
        sent: Cell::default(),
        confirmed: Cell::default(),
        given_up: Cell::default(),
        bytes: Cell::default(),
        round_trips: RefCell::default(),
        news: Signal::default(),
        begun: time::now(),
        over: Cell::default(),
        options,
    });
    spawn(receive(load.clone()));
    spawn(greet(load.clone()));
    if load.options.send {
        spawn(send(load.clone()));
    }
    let deadline = match load.options.seconds {
        0 => u64::MAX,
        seconds => time::after(Duration::from_secs(seconds)),
    };
    while time::now() < deadline {
        let next = time::after(Duration::from_secs(load.options.report));
        time::sleep_until(next.min(deadline)).await;
        load.report("");
    }
    load.over.set(true);
    time::sleep(LINGER).await;
    let good = load.is_good();
    load.sum_up();
    load.report(if good { r#""verdict":"ok","# } else { r#""verdict":"failed","# });
    good
}

impl Load {
    fn head(&self, to: Mac, kind: Kind, time: u64) -> Head {
        Head { to, from: self.mac, kind, time, run: self.run }
    }

    fn is_good(&self) -> bool {
        self.corrupt.get() == 0 && self.flows.borrow().values().all(|flow| flow.doubled == 0)
    }

    /// What does not change much, as one JSON line.
    fn sum_up(&self) {
        let (traffic, counts) = (self.interface.traffic(), self.interface.counts());
        say(format_args!(
            r#"netload {{"flows":{},"bytes":{},"refused":{},"notified":{},"wakeups":{}}}"#,
            self.flows.borrow().len(),
            self.bytes.get(),
            counts.refused,
            traffic.sent,
            traffic.wakeups,
        ));
    }

    /// One JSON line, with `begin` before all else.
    fn report(&self, begin: &str) {
        let flows = self.flows.borrow();
        let sum = |of: fn(&Flow) -> u64| flows.values().map(of).sum::<u64>();
        let round_trips = self.round_trips.borrow();
        say(format_args!(
            r#"netload {{{begin}"ms":{},"sent":{},"confirmed":{},"received":{},"lost":{},"reordered":{},"doubled":{},"corrupt":{},"p50_us":{},"p99_us":{},"max_us":{}}}"#,
            time::now().saturating_sub(self.begun) / 1_000_000,
            self.sent.get(),
            self.confirmed.get(),
            sum(|flow| flow.received),
            sum(Flow::lost),
            sum(|flow| flow.reordered),
            sum(|flow| flow.doubled),
            self.corrupt.get(),
            round_trips.percentile(500) / 1000,
            round_trips.percentile(990) / 1000,
            round_trips.max() / 1000,
        ));
    }

    fn arrive(&self, bytes: &[u8]) {
        let Some((head, number)) = Head::parse(bytes) else { return };
        let number = match number {
            Ok(number) if head.to == self.mac || head.to == BROADCAST => number,
            _ => return self.corrupt.set(self.corrupt.get() + 1),
        };
        match head.kind {
            Kind::Hello => {
                if self.target.get().is_none() {
                    self.target.set(Some(head.from));
                    self.news.raise();
                }
            }
            Kind::Data => self.data(&head, number, bytes.len()),
            Kind::Answer if head.run == self.run => {
                self.round_trips.borrow_mut().add(time::now().saturating_sub(head.time));
                self.confirmed.set(self.confirmed.get().max(number));
                self.news.raise();
            }
            Kind::Answer => {}
        }
    }

    fn data(&self, head: &Head, number: u64, length: usize) {
        let mut flows = self.flows.borrow_mut();
        let key = (head.from, head.run);
        if flows.len() >= FLOWS_MAX && !flows.contains_key(&key) {
            return;
        }
        let flow = flows.entry(key).or_default();
        flow.arrive(number);
        self.bytes.set(self.bytes.get() + length as u64);
        if number % ANSWER_EVERY == ANSWER_EVERY - 1 {
            let mut answer = [0; SIZE_MIN];
            Head { run: head.run, ..self.head(head.from, Kind::Answer, head.time) }.fill(number + 1, &mut answer);
            // One that finds no room is lost, as on a wire.
            let _ = self.interface.send(&answer, false);
        }
    }
}

async fn receive(load: Rc<Load>) {
    loop {
        load.interface.arrived().await;
        for _ in 0..TURN {
            let Some(frame) = load.interface.receive() else { break };
            load.arrive(&frame.bytes);
            load.interface.recycle(frame);
        }
        yield_now().await;
    }
}

async fn greet(load: Rc<Load>) {
    let mut frame = [0; SIZE_MIN];
    for number in 0.. {
        load.head(BROADCAST, Kind::Hello, time::now()).fill(number, &mut frame);
        let _ = load.interface.send(&frame, false);
        time::sleep(HELLO_PERIOD).await;
    }
}

async fn send(load: Rc<Load>) {
    let mut random = Random::new(load.run);
    let mut frame = vec![0; load.options.size];
    while load.target.get().is_none() {
        load.news.wait().await;
    }
    let Some(target) = load.target.get() else { return };
    while !load.over.get() {
        for _ in 0..TURN {
            if load.sent.get() >= load.confirmed.get().max(load.given_up.get()) + load.options.depth {
                let news = async {
                    load.news.wait().await;
                    true
                };
                let late = async {
                    time::sleep(PATIENCE).await;
                    false
                };
                if !race(news, late).await {
                    load.given_up.set(load.sent.get());
                }
                continue;
            }
            let size = SIZE_MIN + random.below((load.options.size - SIZE_MIN) as u64 + 1) as usize;
            load.interface.room(size).await;
            let number = load.sent.get();
            load.head(target, Kind::Data, time::now()).fill(number, &mut frame[..size]);
            if load.interface.send(&frame[..size], false) {
                load.sent.set(number + 1);
            }
        }
        yield_now().await;
    }
}
