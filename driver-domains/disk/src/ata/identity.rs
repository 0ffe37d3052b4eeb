//! What a disk says about itself (ATA/ATAPI-6, IDENTIFY DEVICE, section 8.15).

use protocol::ring::block::SECTOR;

use super::channel::{Command, Transfer};
use crate::disk::{Fault, Operation};

/// Codes of commands.
mod code {
    pub const READ: u8 = 0x20;
    pub const READ_WIDE: u8 = 0x24;
    pub const WRITE: u8 = 0x30;
    pub const WRITE_WIDE: u8 = 0x34;
    pub const FLUSH: u8 = 0xe7;
    pub const FLUSH_WIDE: u8 = 0xea;
    pub const IDENTIFY: u8 = 0xec;
}

/// The command that asks for the identity.
pub const IDENTIFY: Command =
    Command { code: code::IDENTIFY, sector: 0, sectors: 1, wide: false, transfer: Transfer::In };

/// What matters of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Size in sectors.
    pub sectors: u64,
    /// It takes addresses of 48 bits.
    wide: bool,
    /// It has a cache that can be flushed, by the command for 48 bits.
    pub flush: bool,
    flush_wide: bool,
}

impl Identity {
    /// Reads the first sector of `page`.
    pub fn parse(page: &[u8]) -> Result<Identity, Fault> {
        let word = |index: usize| match page.get(2 * index..2 * index + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        };
        let number = |first: usize, words: usize| {
            (0..words).fold(0, |number, at| number | u64::from(word(first + at)) << (16 * at))
        };
        // Bit 14 set and bit 15 clear say that a word means something.
        let says = |index: usize, bit: u16| word(index) & 0xc000 == 0x4000 && word(index) & bit != 0;
        if word(0) & 0x8000 != 0 {
            return Err(Fault("it is no ATA disk"));
        }
        if word(49) & 1 << 9 == 0 {
            return Err(Fault("it does not take addresses of sectors"));
        }
        if says(106, 1 << 12) && number(117, 2) * 2 != SECTOR {
            return Err(Fault("its sectors are larger than 512 bytes"));
        }
        let wide = says(83, 1 << 10);
        let sectors = if wide { number(100, 4).min(1 << 48) } else { number(60, 2).min(1 << 28) };
        if sectors == 0 {
            return Err(Fault("it has no sectors"));
        }
        let flush_wide = wide && says(83, 1 << 13);
        Ok(Identity { sectors, wide, flush: flush_wide || says(83, 1 << 12), flush_wide })
    }

    /// The command that moves so many sectors from here on; `None` for what is not done by one.
    pub fn command(&self, operation: Operation, moved: u64, sectors: usize) -> Option<Command> {
        let pick = |narrow, wide| if self.wide { wide } else { narrow };
        let (code, sector, transfer, wide) = match operation {
            Operation::Read { sector } => (pick(code::READ, code::READ_WIDE), sector, Transfer::In, self.wide),
            Operation::Write { sector } => (pick(code::WRITE, code::WRITE_WIDE), sector, Transfer::Out, self.wide),
            Operation::Flush if self.flush_wide => (code::FLUSH_WIDE, 0, Transfer::None, true),
            Operation::Flush => (code::FLUSH, 0, Transfer::None, false),
            Operation::Discard { .. } => return None,
        };
        Some(Command { code, sector: sector + moved, sectors, wide, transfer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn page(words: &[(usize, u16)]) -> vec::Vec<u8> {
        let mut page = vec![0; 512];
        for &(at, word) in words {
            page[2 * at..2 * at + 2].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    #[test]
    fn small_and_large_disks_say_how_they_are_asked() {
        let small = Identity::parse(&page(&[(49, 1 << 9), (60, 5), (61, 1)])).unwrap();
        assert_eq!((small.sectors, small.flush), (0x1_0005, false));
        let read = small.command(Operation::Read { sector: 7 }, 8, 2).unwrap();
        assert_eq!(read, Command { code: 0x20, sector: 15, sectors: 2, wide: false, transfer: Transfer::In });
        let large = Identity::parse(&page(&[(49, 1 << 9), (60, 5), (83, 0x7400), (102, 1)])).unwrap();
        assert_eq!((large.sectors, large.flush), (1 << 32, true));
        let write = large.command(Operation::Write { sector: 1 << 30 }, 0, 1).unwrap();
        assert_eq!((write.code, write.wide, write.transfer), (0x34, true, Transfer::Out));
        assert_eq!(large.command(Operation::Flush, 0, 0).unwrap().code, 0xea);
        assert_eq!(large.command(Operation::Discard { sector: 0, sectors: 1 }, 0, 0), None);
    }

    #[test]
    fn what_cannot_be_driven_is_refused() {
        for words in [
            &[(0, 0x8580), (49, 1 << 9), (60, 5)][..],
            &[(60, 5)],
            &[(49, 1 << 9)],
            &[(49, 1 << 9), (60, 5), (106, 0x5000), (117, 2048)],
        ] {
            assert!(Identity::parse(&page(words)).is_err(), "{words:?}");
        }
        assert!(Identity::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_identity_makes_a_disk_larger_than_its_addresses(page in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(identity) = Identity::parse(&page) {
                prop_assert!((1..=1 << 48).contains(&identity.sectors));
            }
        }
    }
}
