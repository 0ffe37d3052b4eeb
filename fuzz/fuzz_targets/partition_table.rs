//! Partition tables: whatever a guest wrote at the start of its disk, every partition that is found lies on it.
#![no_main]

use disk::partition::parse;
use fuzz::Script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let sectors = script.long();
    // Sector sizes that a driver lets through.
    let size = 512 << (script.byte() % 4);
    for partition in parse(script.rest(), sectors, size) {
        assert!(partition.first > 0 && partition.sectors > 0);
        assert!(partition.first.checked_add(partition.sectors).is_some_and(|end| end <= sectors));
    }
});
