//! The guest's clock: pvclock, wall clock, timers.
//!
//! System time is the core's own, so a deadline of the guest is one of the monitor's. The time stamp counter runs at the same
//! rate everywhere, so what is written once for a vCPU stays true.

use protocol::ring::Shared;
use unikernel::vm::GuestPage;

/// Offset of the record in a vcpu_info.
pub const IN_VCPU_INFO: usize = 32;
/// Offsets in shared_info: version, seconds, nanoseconds, upper half of the seconds.
const WALL_CLOCK: [usize; 4] = [0xc00, 0xc04, 0xc08, 0xc0c];
/// The same of a 32-bit guest.
const WALL_CLOCK_NARROW: [usize; 4] = [0x900, 0x904, 0x908, 0x924];
/// The counter is in step on all CPUs and never stops.
const STABLE: u8 = 1;

/// A moment, as counter and as time, and the frequency of the counter.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Counter.
    pub tsc: u64,
    /// ns since the core started.
    pub ns: u64,
    /// Frequency of the counter.
    pub tsc_hz: u64,
    /// UTC when the core started, in seconds since 1970.
    pub start_utc: u64,
}

/// Multiplier and shift that turn a count into ns: shift first (negative: right), then multiply and take the upper half.
pub fn scale(hz: u64) -> (u32, i8) {
    let (mut hz, mut shift) = (hz.clamp(1_000_000, 1 << 40), 0);
    while hz > 2_000_000_000 {
        hz >>= 1;
        shift -= 1;
    }
    while hz <= 1_000_000_000 {
        hz <<= 1;
        shift += 1;
    }
    // Between a half and one, in units of 2^-32; 1 GHz is excluded above, so it fits.
    (((1_000_000_000u64 << 32) / hz) as u32, shift)
}

impl Clock {
    /// The record of 32 bytes (Xen `vcpu_time_info`), with an even version.
    fn record(&self) -> [u8; 32] {
        let (multiplier, shift) = scale(self.tsc_hz);
        let mut record = [0; 32];
        record[8..16].copy_from_slice(&self.tsc.to_le_bytes());
        record[16..24].copy_from_slice(&self.ns.to_le_bytes());
        record[24..28].copy_from_slice(&multiplier.to_le_bytes());
        record[28] = shift as u8;
        record[29] = STABLE;
        record
    }

    /// Writes the record; a reader that sees a part of it tries again.
    pub fn publish(&self, page: &GuestPage, offset: usize) {
        let version = page.load_u32(offset) | 1;
        page.store_u32(offset, version);
        page.fence();
        page.write(offset + 4, &self.record()[4..]);
        page.fence();
        page.store_u32(offset, version.wrapping_add(1));
    }
}

/// Writes the wall clock into shared_info, which is that of a 64-bit guest or of a 32-bit one: UTC when system time began.
pub fn publish_wall_clock(shared_info: &GuestPage, wide: bool, start_utc: u64) {
    let [at, seconds, ns, upper] = if wide { WALL_CLOCK } else { WALL_CLOCK_NARROW };
    let version = shared_info.load_u32(at) | 1;
    shared_info.store_u32(at, version);
    shared_info.fence();
    shared_info.store_u32(seconds, start_utc as u32);
    shared_info.store_u32(ns, 0);
    shared_info.store_u32(upper, (start_utc >> 32) as u32);
    shared_info.fence();
    shared_info.store_u32(at, version.wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unikernel::vm::GuestMemory;

    #[test]
    fn known_frequencies_give_known_scales() {
        assert_eq!(scale(2_000_000_000), (0x8000_0000, 0));
        assert_eq!(scale(2_450_000_000), (0xd0fa_c687, -1));
        for hz in [0, u64::MAX] {
            assert!(scale(hz).0 >= 1 << 31);
        }
    }

    proptest! {
        /// A second of counting is a second, to a few parts in 10^9.
        #[test]
        fn a_second_is_a_second(hz in 10_000_000u64..10_000_000_000) {
            let (multiplier, shift) = scale(hz);
            let count = if shift >= 0 { hz << shift } else { hz >> -shift };
            let ns = (u128::from(count) * u128::from(multiplier)) >> 32;
            prop_assert!((999_999_990..=1_000_000_001).contains(&ns), "{ns}");
        }
    }

    #[test]
    fn a_published_record_has_an_even_version_and_its_fields() {
        let mut memory = GuestMemory::take(&[(0, 1)]).unwrap();
        memory.populate(0, 1).unwrap();
        let page = memory.pin(0).unwrap();
        let clock = Clock { tsc: 5, ns: 7, tsc_hz: 2_000_000_000, start_utc: 0 };
        for version in [2, 4] {
            clock.publish(&page, 0x120);
            assert_eq!(page.load_u32(0x120), version);
        }
        assert_eq!((page.load_u64(0x128), page.load_u64(0x130)), (5, 7));
        assert_eq!(page.load_u64(0x138), 0x0100_8000_0000);
        publish_wall_clock(&page, true, 1 << 32 | 5);
        assert_eq!(WALL_CLOCK.map(|at| page.load_u32(at)), [2, 5, 0, 1]);
    }
}
