//! The console domain's image: connects the multiplexer with the chip, the rings and dom0.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::rc::Rc;
use core::cell::RefCell;

use console::connection::Identity;
use console::multiplexer::{Multiplexer, Turn};
use console::uart::Uart;
use protocol::control::{FromDomain, ToDomain};
use protocol::grant::REF_CONSOLE;
use protocol::handle::Handle;
use unikernel::backend::{Host, Native};
use unikernel::device::{Interrupt, IoPorts};
use unikernel::event::AnyPort;
use unikernel::executor::{Signal, race, spawn, yield_now};
use unikernel::grant::{Access, Mapped, Source, map};
use unikernel::{Domain, control, event, time};

unikernel::main!(run);

/// What the tasks share.
#[derive(Default)]
struct Shared {
    multiplexer: RefCell<Multiplexer<Mapped>>,
    /// dom0 changed something.
    changed: Signal,
}

async fn run(domain: Domain) {
    let ports = domain.arguments.ports.first().map(|given| IoPorts::enable(Handle(given.handle)));
    let interrupt = domain.arguments.interrupts.first().map(|given| Interrupt::bind(Handle(given.handle)));
    let (Some(Ok(ports)), Some(Ok(interrupt))) = (ports, interrupt) else {
        panic!("it was given no I/O ports (`ioports`) or no interrupt (`irqs`) that can be had");
    };
    // It tells dom0 that somebody was served: a console that dies now and then does not die in a row.
    let host = Host::new(Native::new(&domain, 0));
    let shared = Rc::new(Shared::default());
    let ours = shared.clone();
    spawn(async move {
        control::serve(|message| obey(&ours, message)).await;
    });
    match Uart::new(ports) {
        Some(uart) => serve(&shared, &host, uart, &interrupt).await,
        None => panic!("there is no 16550 at the ports given"),
    }
}

/// Does what dom0 asks.
fn obey(shared: &Shared, message: ToDomain) -> FromDomain {
    let mut multiplexer = shared.multiplexer.borrow_mut();
    shared.changed.raise();
    match message {
        ToDomain::ConsoleConnect { peer, port, name, shell } => {
            let page = map(Source { peer, reference: REF_CONSOLE }, Access::Write);
            let connected = match page {
                Ok(page) => multiplexer.connect(Identity { peer, port, name, shell }, page).map_err(control::failed),
                Err(error) => Err(control::failed(format_args!("the console ring cannot be mapped: {error}"))),
            };
            connected.map_or_else(
                |refusal| {
                    // The domain may be gone already; nobody else can close the port that led to it.
                    multiplexer.disconnect(peer);
                    let _ = event::close(port);
                    refusal
                },
                |()| FromDomain::Done,
            )
        }
        ToDomain::ConsoleDisconnect { peer } => {
            if let Some(port) = multiplexer.disconnect(peer) {
                // Nobody is at its other end any more, and nobody else can close it.
                let _ = event::close(port);
            }
            FromDomain::Done
        }
        ToDomain::ConsoleFocus { peer } => match multiplexer.set_focus(peer) {
            Ok(()) => FromDomain::Done,
            Err(reason) => control::failed(reason),
        },
        other => control::refuse(other),
    }
}

/// Bytes that are moved in the background in [`PACE`], in the long run: nine times what a fast serial line takes.
const BACKGROUND: u64 = 1024;
/// In ns.
const PACE: u64 = 10_000_000;
/// What may come at once: what a kernel prints when it starts.
const BURST: usize = 32 << 10;

/// Moves bytes, a bounded number between two looks at everything else.
async fn serve(shared: &Shared, host: &Host<Native>, mut uart: Uart<IoPorts>, interrupt: &Interrupt) {
    let any = AnyPort::default();
    let mut last = 0;
    loop {
        let paces = (time::now() - last) / PACE;
        last += paces * PACE;
        shared.multiplexer.borrow_mut().allow((paces * BACKGROUND) as usize, BURST);
        // The line is edge-triggered: unmasked first, so that what comes while the chip is served interrupts again.
        if interrupt.fired()
            && let Err(error) = interrupt.unmask()
        {
            log::error!("the interrupt cannot be unmasked: {error}");
        }
        uart.acknowledge();
        let rest = {
            let mut multiplexer = shared.multiplexer.borrow_mut();
            let rest = exchange(&mut multiplexer, host, &uart);
            uart.listen(multiplexer.takes_input(), multiplexer.has_output());
            rest
        };
        let happens = race(any.wait(), shared.changed.wait());
        match rest {
            Rest::Now => yield_now().await,
            Rest::Later => drop(time::before(last + PACE, happens).await),
            Rest::None => happens.await,
        }
    }
}

/// Bytes received in one round: a few FIFOs full, and no more, so that output has its turn.
const KEYS_MAX: usize = 64;

/// When there is more to do.
enum Rest {
    None,
    Now,
    /// In a while.
    Later,
}

/// One round: keys in, rings, output.
fn exchange(multiplexer: &mut Multiplexer<Mapped>, host: &Host<Native>, uart: &Uart<IoPorts>) -> Rest {
    let mut keys = 0;
    while keys < KEYS_MAX
        && multiplexer.takes_input()
        && let Some(byte) = uart.receive()
    {
        multiplexer.type_byte(byte);
        keys += 1;
    }
    let turn = multiplexer.turn();
    tell(&turn);
    let waiting = multiplexer.has_output();
    let sent = uart.send(|bytes| multiplexer.take_output(bytes));
    if keys > 0 || sent || !turn.notify.is_empty() {
        host.served();
    }
    // Room on the screen lets a ring in the foreground move on.
    match keys == KEYS_MAX || turn.more || (sent && waiting) {
        true => Rest::Now,
        false if turn.later => Rest::Later,
        false => Rest::None,
    }
}

/// Passes on what a turn has to say.
fn tell(turn: &Turn) {
    for &port in &turn.notify {
        // A peer that is gone need not be told.
        let _ = event::send(port);
    }
    for (identity, violation) in &turn.broken {
        log::error!("console of {} closed: {violation}: {} is at fault", identity.name, identity.name);
    }
    if turn.returned {
        spawn(async {
            if control::report(FromDomain::ConsoleReturned).await.is_err() {
                log::error!("dom0 cannot be told that its shell has the terminal");
            }
        });
    }
}
