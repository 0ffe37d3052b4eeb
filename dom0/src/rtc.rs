//! The date, from the battery-backed clock that every PC has (MC146818): guests ask for it when they start.
//!
//! It is taken for UTC, as servers keep it. Its registers may be read in the middle of a change, so they are read until they
//! agree.

use time::{Date, Month, Time, UtcDateTime};

use crate::hypervisor::{Hypervisor, Width};

/// Ports: which register, and its contents.
const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Seconds, minutes, hours, day, month, year of the century; B says how they are written.
const REGISTERS: [u8; 7] = [0, 2, 4, 7, 8, 9, 0xb];
/// In register A: a change is under way, for up to 2 ms.
const A: u8 = 0xa;
const CHANGING: u32 = 0x80;
/// In register B: numbers are binary, hours run to 23.
const BINARY: u32 = 1 << 2;
const WHOLE_DAY: u32 = 1 << 1;
/// In the hours, if they run to 12: after noon.
const AFTERNOON: u32 = 0x80;
/// Looks at the clock before it counts as broken; each takes a microsecond or more.
const PATIENCE: usize = 10_000;

/// UTC when the core started, in seconds since 1970; `None` if the clock cannot be read or shows no date.
pub fn start<H: Hypervisor>(hypervisor: &mut H) -> Option<u64> {
    let mut before = None;
    for _ in 0..PATIENCE {
        if register(hypervisor, A)? & CHANGING != 0 {
            continue;
        }
        let mut now = [0; 7];
        for (value, number) in now.iter_mut().zip(REGISTERS) {
            *value = register(hypervisor, number)?;
        }
        if before.replace(now) == Some(now) {
            return seconds(now)?.checked_sub(hypervisor.clock() / 1_000_000_000);
        }
    }
    None
}

fn register<H: Hypervisor>(hypervisor: &mut H, number: u8) -> Option<u32> {
    hypervisor.port_write(INDEX, Width::Byte, number.into()).ok()?;
    hypervisor.port_read(DATA, Width::Byte).ok()
}

/// Seconds since 1970 of what the registers hold, in this century.
fn seconds([second, minute, hour, day, month, year, how]: [u32; 7]) -> Option<u64> {
    let number = |value: u32| if how & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) };
    let hour = match number(hour & !AFTERNOON) {
        _ if how & WHOLE_DAY != 0 => number(hour),
        twelfth => twelfth % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 },
    };
    let small = |value: u32| u8::try_from(value).ok();
    let month = Month::try_from(small(number(month))?).ok()?;
    let date = Date::from_calendar_date(2000 + i32::try_from(number(year)).ok()?, month, small(number(day))?).ok()?;
    let time = Time::from_hms(small(hour)?, small(number(minute))?, small(number(second))?).ok()?;
    u64::try_from(UtcDateTime::new(date, time).unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_date_gives_the_same_time() {
        // 2026-11-28 23:03:19.
        let expected = Some(1_795_906_999);
        assert_eq!(seconds([0x19, 0x03, 0x23, 0x28, 0x11, 0x26, WHOLE_DAY]), expected);
        assert_eq!(seconds([19, 3, 23, 28, 11, 26, WHOLE_DAY | BINARY]), expected);
        assert_eq!(seconds([0x19, 0x03, 0x11 | AFTERNOON, 0x28, 0x11, 0x26, 0]), expected);
        assert_eq!(seconds([19, 3, 11 | AFTERNOON, 28, 11, 26, BINARY]), expected);
        // Midnight and noon are 12, not 0.
        assert_eq!(seconds([0, 0, 12, 1, 1, 0, BINARY]), Some(946_684_800));
        assert_eq!(seconds([0, 0, 12 | AFTERNOON, 1, 1, 0, BINARY]), Some(946_684_800 + 43_200));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        assert_eq!(seconds([0; 7]), None);
        assert_eq!(seconds([0xff; 7]), None);
        assert_eq!(seconds([0x60, 0, 0, 1, 1, 0x26, WHOLE_DAY]), None);
        assert_eq!(seconds([0, 0, 0, 0x30, 0x02, 0x26, WHOLE_DAY]), None);
    }
}
