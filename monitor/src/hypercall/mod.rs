//! The hypercalls of the guest (Xen's numbers and structures), as far as a guest without privileges has them.
//!
//! Arguments are numbers in registers and structures at guest-virtual addresses; each structure is copied once and then looked
//! at. What is refused gives an errno and changes nothing.

mod event;
mod grant;
mod hvm;
mod memory;
mod sched;
#[cfg(test)]
mod tests;
mod vcpu;
mod version;

use crate::errno::Errno;
use crate::guest::{End, Guest};
use crate::state::{State, StateExt, register};
use crate::walk::Space;

/// "Myself", as a domain id.
const DOMAIN_SELF: u16 = 0x7ff0;

/// What a hypercall came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A result.
    Value(u64),
    /// The end of the guest.
    End(End),
}

type Answer = Result<Outcome, Errno>;

/// Success without a value.
const DONE: Answer = Ok(Outcome::Value(0));

/// A hypercall under way.
struct Call<'g, S> {
    guest: &'g mut Guest,
    state: &'g S,
    /// Who called.
    vcpu: u32,
    now: u64,
    /// It called from 64-bit code; else its pointers and words have 32 bits.
    wide: bool,
    arguments: [u64; 3],
}

/// In the shape of a structure, where all other numbers are sizes in bytes: a pointer or a word, as wide as the caller's.
const WORD: usize = 0;

impl<S: State> Call<'_, S> {
    fn space(&self) -> Space<'_> {
        Space::new(&self.guest.memory, self.state)
    }

    /// A structure of the guest's.
    fn load<const N: usize>(&self, address: u64) -> Result<Fields<N>, Errno> {
        Ok(Fields(self.space().load(address)?))
    }

    /// A structure of the guest's whose layout depends on its words, as it is for 64-bit callers.
    fn load_as<const N: usize>(&self, address: u64, shape: &[usize]) -> Result<Fields<N>, Errno> {
        if self.wide {
            return self.load(address);
        }
        let (mut from, mut to, mut fields) = (0, 0, [0; N]);
        for &size in shape {
            let (narrow, wide) = if size == WORD { (4, 8) } else { (size, size) };
            // No field of a 32-bit caller is aligned to more than 4 bytes.
            (from, to) = (usize::next_multiple_of(from, narrow.min(4)), usize::next_multiple_of(to, wide));
            self.space().read(address.wrapping_add(from as u64), &mut fields[to..to + narrow])?;
            (from, to) = (from + narrow, to + wide);
        }
        Ok(Fields(fields))
    }

    /// Bytes of the caller's words.
    fn word_bytes(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Puts bytes into the guest.
    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        Ok(self.space().write(address, bytes)?)
    }
}

/// A copy of a structure. Offsets are those of the ABI, and constant where this is used.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn bytes<const M: usize>(&self, offset: usize) -> [u8; M] {
        let mut bytes = [0; M];
        bytes.copy_from_slice(&self.0[offset..offset + M]);
        bytes
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.bytes(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }
}

/// Carries out the hypercall that vCPU `vcpu` is at; `now` is the time.
pub fn execute<S: State>(guest: &mut Guest, state: &S, vcpu: u32, now: u64) -> Result<(), End> {
    state.skip(3);
    let wide = state.is_64_bit();
    let (registers, mask) = match wide {
        true => ([register::RDI, register::RSI, register::RDX], u64::MAX),
        false => ([register::RBX, register::RCX, register::RDX], u32::MAX.into()),
    };
    let number = state.register(register::RAX) & mask;
    let arguments = registers.map(|index| state.register(index) & mask);
    let answer = match state.privilege() {
        0 => Call { guest, state, vcpu, now, wide, arguments }.dispatch(number),
        _ => Err(Errno::EPERM),
    };
    let result = match answer {
        Ok(Outcome::Value(value)) => value,
        Ok(Outcome::End(end)) => return Err(end),
        Err(errno) => (errno as i64).wrapping_neg() as u64,
    };
    state.set_register(register::RAX, result & mask);
    Ok(())
}

impl<S: State> Call<'_, S> {
    fn dispatch(&mut self, number: u64) -> Answer {
        match number {
            12 => self.memory_op(),
            15 => self.set_timer(),
            17 => self.xen_version(),
            18 => self.console_io(),
            20 => self.grant_table_op(),
            24 => self.vcpu_op(),
            29 => self.sched_op(),
            32 => self.event_channel_op(),
            34 => self.hvm_op(),
            // vm_assist: a runstate area needs no protection from readers if it never changes.
            21 => Err(Errno::ENOSYS),
            _ => self.unknown("hypercall", number),
        }
    }

    fn unknown(&mut self, what: &str, number: u64) -> Answer {
        self.guest.complain(format_args!("{what} {number} is not there"));
        Err(Errno::ENOSYS)
    }

    /// `console_io`: early text.
    fn console_io(&mut self) -> Answer {
        /// Bytes printed by one call.
        const MOST: u64 = 16 << 10;
        let [command, count, address] = self.arguments;
        match command as u32 {
            0 if count > MOST => Err(Errno::E2BIG),
            0 => {
                let mut text = alloc::vec![0; count as usize];
                self.space().read(address, &mut text)?;
                self.guest.print(&text);
                DONE
            }
            // Nothing was typed.
            1 => DONE,
            _ => Err(Errno::ENOSYS),
        }
    }
}
