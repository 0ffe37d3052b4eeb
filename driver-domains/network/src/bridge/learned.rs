//! Which port an address was last seen behind: a table of fixed size whose entries age.
//!
//! It holds what was learned only. Addresses that are configured are not in it, so nothing that is learned can push them out.

use alloc::vec::Vec;

use super::frame::Mac;

/// Entries that one address can be in; the oldest makes room.
const WAYS: usize = 4;
/// Sets of entries. 1024 stations on the wire are remembered; of more, some are flooded.
const SETS: usize = 256;
/// How long a station is remembered that is silent, in s (the default of 802.1D, 7.9.2).
const AGE_S: u64 = 300;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    mac: Mac,
    port: u8,
    /// When it was seen last, in s; 0 is never.
    seen: u64,
}

/// The table.
#[derive(Debug)]
pub struct Learned {
    sets: Vec<[Entry; WAYS]>,
}

impl Learned {
    /// Nothing is known.
    pub fn new() -> Learned {
        Learned { sets: alloc::vec![[Entry::default(); WAYS]; SETS] }
    }

    /// A station was seen behind a port.
    pub fn learn(&mut self, mac: &Mac, port: u8, now_s: u64) {
        let set = &mut self.sets[set(mac)];
        let at = set.iter().position(|entry| entry.mac == *mac).or_else(|| {
            let oldest = set.iter().enumerate().min_by_key(|(_, entry)| entry.seen);
            oldest.map(|(at, _)| at)
        });
        if let Some(entry) = at.and_then(|at| set.get_mut(at)) {
            *entry = Entry { mac: *mac, port, seen: now_s.max(1) };
        }
    }

    /// The port a station is behind, if it was seen not too long ago.
    pub fn find(&self, mac: &Mac, now_s: u64) -> Option<u8> {
        let entry = self.sets[set(mac)].iter().find(|entry| entry.mac == *mac && entry.seen > 0)?;
        (now_s.saturating_sub(entry.seen) < AGE_S).then_some(entry.port)
    }

    /// Forgets what was behind a port.
    pub fn forget(&mut self, port: u8) {
        self.sets.iter_mut().flatten().filter(|entry| entry.port == port).for_each(|entry| entry.seen = 0);
    }
}

impl Default for Learned {
    fn default() -> Self {
        Learned::new()
    }
}

fn set(mac: &Mac) -> usize {
    /// 2^32 / golden ratio: vendors number their stations, so low bytes differ; this spreads them.
    const SPREAD: u32 = 0x9e37_79b9;
    let [a, b, c, d, e, f] = *mac;
    let mixed = (u32::from_be_bytes([c, d, e, f]) ^ u32::from(a) << 8 ^ u32::from(b)).wrapping_mul(SPREAD);
    (mixed >> 24) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_station_is_forgotten_and_one_that_moves_is_found() {
        let mut table = Learned::new();
        table.learn(&[2; 6], 0, 0);
        assert_eq!(table.find(&[2; 6], AGE_S), Some(0));
        assert_eq!(table.find(&[2; 6], AGE_S + 1), None);
        table.learn(&[2; 6], 3, AGE_S);
        assert_eq!(table.find(&[2; 6], AGE_S + 1), Some(3));
        table.forget(3);
        assert_eq!(table.find(&[2; 6], AGE_S + 1), None);
        assert_eq!(table.find(&[0; 6], 5), None, "an empty entry is nobody");
    }

    #[test]
    fn stations_numbered_in_a_row_do_not_crowd() {
        let mut table = Learned::new();
        let mac = |n: u16| [2, 0, 0, 0, (n >> 8) as u8, n as u8];
        (0..500).for_each(|n| table.learn(&mac(n), 1, 9));
        let known = (0..500).filter(|&n| table.find(&mac(n), 9) == Some(1)).count();
        assert!(known > 450, "{known}");
    }
}
