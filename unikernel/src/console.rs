//! The domain's console: text to and from whoever sits at the terminal.
//!
//! A page of the domain's own holds a ring in each direction, which the console domain serves. Printing never waits: without
//! room, text is dropped and the number of lost bytes is printed once there is room again. [`write_all`] waits instead. While
//! no console is connected, what is printed goes to the core's log line by line.

use core::fmt::{self, Write};

use protocol::error::{Error, Result};
use protocol::event::Port;
use protocol::layout::CONSOLE;
use protocol::ring::byte::{Consumer, Producer};
use protocol::ring::console::{INPUT, OUTPUT};
use protocol::ring::{Shared, Violation};

use crate::area::Area;
use crate::event::Channel;
use crate::text::Text;
use crate::vcpu::Mutex;

/// A connected console.
struct Rings<A> {
    page: A,
    output: Producer,
    input: Consumer,
    port: Port,
    /// Bytes dropped since the last that was printed.
    lost: u64,
}

struct State {
    rings: Option<Rings<Area>>,
    /// The line being printed while there is no console.
    line: Text<256>,
}

static CONSOLE_STATE: Mutex<State> = Mutex::new(State { rings: None, line: Text::new() });

impl<A: Shared> Rings<A> {
    fn new(page: A, port: Port) -> Rings<A> {
        Rings { output: Producer::attach(OUTPUT, &page), input: Consumer::attach(INPUT, &page), page, port, lost: 0 }
    }

    /// Prints what fits; what does not is counted.
    fn print(&mut self, bytes: &[u8]) -> core::result::Result<(), Violation> {
        if self.lost > 0 {
            let mut note = Text::<48>::new();
            // Writing into a `Text` cannot fail.
            let _ = writeln!(note, "[{} bytes lost]", self.lost);
            if (self.output.room(&self.page)? as usize) < note.as_bytes().len() {
                self.lost += bytes.len() as u64;
                return Ok(());
            }
            self.output.write(&self.page, note.as_bytes())?;
            self.lost = 0;
        }
        let written = self.output.write(&self.page, bytes)?;
        self.lost += (bytes.len() - written) as u64;
        Ok(())
    }
}

impl State {
    /// Does something with the rings. If the peer broke them the console is gone, and the log says who did it.
    fn with<T>(&mut self, act: impl FnOnce(&mut Rings<Area>) -> core::result::Result<T, Violation>) -> Result<T> {
        let rings = self.rings.as_mut().ok_or(Error::NoPeer)?;
        act(rings).map_err(|violation| {
            self.rings = None;
            log::error!("console closed: the console domain broke the ring: {violation}");
            Error::NoPeer
        })
    }

    fn print(&mut self, text: &str) {
        if self.with(|rings| rings.print(text.as_bytes())).is_ok() {
            return;
        }
        for part in text.split_inclusive('\n') {
            // Writing into a `Text` cannot fail.
            let _ = self.line.write_str(part.trim_end_matches('\n'));
            if part.ends_with('\n') {
                crate::log::write_line(self.line.as_bytes());
                self.line = Text::new();
            }
        }
    }
}

/// Uses `port` as the channel to the console domain. For a domain whose boot arguments name it this is done before its main
/// function runs; the first domain does it itself once there is a console.
pub fn connect(port: Port) {
    // SAFETY: the core maps the page in every domain for its whole life, and no object is in it.
    let page = unsafe { Area::page(CONSOLE) };
    CONSOLE_STATE.lock().rings = Some(Rings::new(page, port));
}

/// Whether a console is connected.
pub fn connected() -> bool {
    CONSOLE_STATE.lock().rings.is_some()
}

fn channel() -> Result<Channel> {
    CONSOLE_STATE.lock().rings.as_ref().map(|rings| Channel::new(rings.port)).ok_or(Error::NoPeer)
}

/// Prints as much of `bytes` as fits now; gives the number. `NoPeer` without a console.
pub fn write_some(bytes: &[u8]) -> Result<usize> {
    let channel = channel()?;
    let written = CONSOLE_STATE.lock().with(|rings| rings.output.write(&rings.page, bytes))?;
    if written > 0 {
        // Without a peer the text waits in the ring.
        let _ = channel.send();
    }
    Ok(written)
}

/// Reads what was typed and is there; gives the number of bytes. `NoPeer` without a console.
pub fn read_some(buffer: &mut [u8]) -> Result<usize> {
    let channel = channel()?;
    let count = CONSOLE_STATE.lock().with(|rings| rings.input.read(&rings.page, buffer))?;
    if count > 0 {
        // The peer may wait for room.
        let _ = channel.send();
    }
    Ok(count)
}

/// Bytes printed that the console domain has not taken yet; 0 without a console.
pub fn unread() -> u32 {
    let room = CONSOLE_STATE.lock().with(|rings| rings.output.room(&rings.page));
    room.map_or(0, |room| OUTPUT.size - room)
}

/// Prints all of `bytes`, waiting for room where there is none. `NoPeer` without a console.
pub async fn write_all(mut bytes: &[u8]) -> Result<()> {
    let channel = channel()?;
    loop {
        bytes = &bytes[write_some(bytes)?..];
        if bytes.is_empty() {
            return Ok(());
        }
        channel.wait().await;
    }
}

/// Reads what was typed, at least a byte. `NoPeer` without a console.
pub async fn read(buffer: &mut [u8]) -> Result<usize> {
    let channel = channel()?;
    loop {
        let count = read_some(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        channel.wait().await;
    }
}

/// What [`print!`](crate::print) and [`println!`](crate::println) do.
pub fn print(text: fmt::Arguments<'_>) {
    struct Printer<'s>(&'s mut State);
    impl Write for Printer<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.print(text);
            Ok(())
        }
    }
    let mut state = CONSOLE_STATE.lock();
    // The printer does not fail; an argument whose formatting fails prints as far as it came.
    let _ = Printer(&mut state).write_fmt(text);
    if let Some(rings) = &state.rings {
        // Without a peer the text waits in the ring.
        let _ = crate::event::send(rings.port);
    }
}

/// Prints to the domain's console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::print(::core::format_args!($($arguments)*)) };
}

/// Prints a line to the domain's console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($format:literal $($arguments:tt)*) => { $crate::print!("{}\n", ::core::format_args!($format $($arguments)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn what_does_not_fit_is_counted_and_said() {
        let mut memory = vec![0u64; 512];
        // SAFETY: the vector outlives the areas and is not touched otherwise.
        let (page, far) = unsafe { (Area::page(memory.as_mut_ptr() as u64), Area::page(memory.as_mut_ptr() as u64)) };
        let mut rings = Rings::new(page, Port(7));
        let mut peer = Consumer::attach(OUTPUT, &far);
        rings.print(&[b'x'; 2040]).unwrap();
        rings.print(b"0123456789").unwrap();
        rings.print(b"all of this is lost").unwrap();
        assert_eq!(rings.lost, 21);
        let mut out = [0; 2048];
        assert_eq!(peer.read(&far, &mut out), Ok(2048));
        rings.print(b"back").unwrap();
        let count = peer.read(&far, &mut out).unwrap();
        assert_eq!(&out[..count], b"[21 bytes lost]\nback");
    }

    #[test]
    fn a_broken_index_is_an_error() {
        let mut memory = vec![0u64; 512];
        // SAFETY: as above.
        let page = unsafe { Area::page(memory.as_mut_ptr() as u64) };
        page.store_u32(OUTPUT.consumer, 99);
        assert!(Rings::new(page, Port(7)).print(b"x").is_err());
    }
}
