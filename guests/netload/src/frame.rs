//! The frames: an Ethernet header, what kind it is, when it was sent, and bytes that prove themselves.

use load::content::{STAMP_SIZE, Stamp, Wrong};

/// Kept free for experiments by IEEE 802.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const HEADER: usize = 14;
/// Kind and time.
const PREFIX: usize = 16;
/// Bytes of the smallest frame.
pub const SIZE_MIN: usize = HEADER + PREFIX + STAMP_SIZE;
/// Bytes of the largest: a payload of 1500.
pub const SIZE_MAX: usize = 1514;
/// Everybody's address.
pub const BROADCAST: Mac = [0xff; 6];

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody looks for others.
    Hello,
    /// One of the numbered frames.
    Data,
    /// The answer to one: how many of them arrived is its number, and the time is that of the frame.
    Answer,
}

/// A frame, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who gets it.
    pub to: Mac,
    /// Who sent it.
    pub from: Mac,
    /// What it is for.
    pub kind: Kind,
    /// When it, or what it answers, was sent, by the sender's clock.
    pub time: u64,
    /// The run of the program that sent it; for an answer, that it answers.
    pub run: u64,
}

/// A number for the pair of addresses, which proves that a frame belongs to it.
fn place(head: &Head) -> u64 {
    let number = |mac: Mac| mac.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    number(head.from).rotate_left(20) ^ number(head.to) ^ (head.kind as u64) << 62
}

impl Head {
    /// Makes a frame of `bytes.len()` bytes, at least [`SIZE_MIN`].
    pub fn fill(&self, number: u64, bytes: &mut [u8]) {
        bytes[..6].copy_from_slice(&self.to);
        bytes[6..12].copy_from_slice(&self.from);
        bytes[12..14].copy_from_slice(&ETHERTYPE);
        bytes[HEADER..HEADER + 8].copy_from_slice(&(self.kind as u64).to_le_bytes());
        bytes[HEADER + 8..HEADER + PREFIX].copy_from_slice(&self.time.to_le_bytes());
        Stamp { run: self.run, place: place(self), generation: number }.fill(&mut bytes[HEADER + PREFIX..]);
    }

    /// Takes a frame apart and gives its number; `None` if it is none of ours.
    pub fn parse(bytes: &[u8]) -> Option<(Head, Result<u64, Wrong>)> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let mac = |at: usize| -> Option<Mac> { bytes.get(at..at + 6)?.try_into().ok() };
        if bytes.len() < SIZE_MIN || bytes[12..14] != ETHERTYPE {
            return None;
        }
        let kind = match word(HEADER)? {
            0 => Kind::Hello,
            1 => Kind::Data,
            2 => Kind::Answer,
            _ => return None,
        };
        let block = &bytes[HEADER + PREFIX..];
        let head = Head { to: mac(0)?, from: mac(6)?, kind, time: word(HEADER + 8)?, run: word(HEADER + PREFIX)? };
        Some((head, Stamp::read(head.run, place(&head), block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    proptest! {
        #[test]
        fn frames_prove_themselves(to: Mac, from: Mac, time: u64, run: u64, number: u64, size in SIZE_MIN..SIZE_MAX, byte: prop::sample::Index) {
            let head = Head { to, from, kind: Kind::Data, time, run };
            let mut bytes = vec![0; size];
            head.fill(number, &mut bytes);
            prop_assert_eq!(Head::parse(&bytes), Some((head, Ok(number))));
            let at = byte.index(size);
            bytes[at] ^= 0x10;
            // The time is only for the histogram and is not covered.
            if !(HEADER + 8..HEADER + PREFIX).contains(&at) {
                prop_assert!(!matches!(Head::parse(&bytes), Some((_, Ok(_)))), "byte {at}");
            }
        }
    }
}
