//! The guest's console ring: what it prints goes to the domain's own console, what is typed there comes back.

use alloc::sync::Arc;

use protocol::event::Port;
use protocol::ring::Violation;
use protocol::ring::byte::{Consumer, Producer};
use protocol::ring::console::{INPUT, OUTPUT};
use unikernel::console;
use unikernel::event::Channel;
use unikernel::executor::{race, yield_now};
use unikernel::vm::GuestPage;

use crate::guest::End;
use crate::machine::Machine;

/// Bytes moved at a time.
const PART: usize = 512;
/// Parts taken from the guest before others get their turn.
const PARTS: usize = 8;

struct Terminal {
    machine: Arc<Machine>,
    page: GuestPage,
    output: Consumer,
    input: Producer,
    /// What was typed and is not in the guest's ring yet.
    typed: [u8; PART],
    from: usize,
    to: usize,
}

impl Terminal {
    /// Moves what can be moved. Gives whether there may be more.
    fn turn(&mut self) -> Result<bool, Violation> {
        let (mut moved, mut more) = (false, true);
        for _ in 0..PARTS {
            let mut part = [0; PART];
            let count = self.output.read(&self.page, &mut part)?;
            more = count > 0;
            if !more {
                break;
            }
            moved = true;
            self.machine.with(|guest| guest.output.push(&part[..count]));
        }
        self.machine.pass_on();
        if self.from == self.to {
            (self.from, self.to) = (0, console::read_some(&mut self.typed).unwrap_or(0));
        }
        let written = self.input.write(&self.page, &self.typed[self.from..self.to])?;
        self.from += written;
        if moved || written > 0 {
            self.machine.with(|guest| guest.raise(guest.console_port));
        }
        Ok(more || written > 0)
    }
}

/// Serves the guest's console for good. `ring` fires when the guest has something, `outside` when the domain's console has.
pub async fn serve(machine: Arc<Machine>, page: GuestPage, ring: Port, outside: Option<Port>) {
    let (output, input) = (Consumer::attach(OUTPUT, &page), Producer::attach(INPUT, &page));
    let mut terminal = Terminal { machine, page, output, input, typed: [0; PART], from: 0, to: 0 };
    let (ring, outside) = (Channel::new(ring), outside.map(Channel::new));
    loop {
        match terminal.turn() {
            Ok(true) => yield_now().await,
            Ok(false) => match &outside {
                Some(outside) => race(ring.wait(), outside.wait()).await,
                None => ring.wait().await,
            },
            Err(violation) => {
                terminal.machine.end(End::Crash(alloc::format!("the guest broke its console ring: {violation}")))
            }
        }
    }
}
