//! The two tables that tell how to switch the machine off, as a firmware may have written them.
#![no_main]

use dom0::acpi::{Fadt, soft_off};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Fadt::parse(data);
    let _ = soft_off(data);
    // The name alone is not likely to be guessed.
    let _ = soft_off(&[b"\x08_S5_", data].concat());
});
