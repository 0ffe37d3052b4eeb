//! Block requests: whatever is accepted lies on the disk, and is written as it was read.
#![no_main]

use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use protocol::ring::block::{Body, Limits, Request, SECTORS_PER_PAGE, SEGMENT_SIZE, Segment, Segments};

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let flags = script.byte();
    let limits = Limits {
        sectors: script.long(),
        read_only: flags & 1 != 0,
        flush: flags & 2 != 0,
        discard: flags & 4 != 0,
        indirect: script.short(),
    };
    let raw = script.bytes();
    let Ok(request) = Request::parse(&raw, &limits) else { return };
    match &request.body {
        Body::Transfer { write, sector, segments } => {
            assert!(!(*write && limits.read_only));
            let sectors = match segments {
                Segments::Direct(list) => list.iter().map(|segment| segment.sectors()).sum(),
                Segments::Indirect { count, .. } => {
                    assert!((1..=limits.indirect).contains(count));
                    u64::from(*count)
                }
            };
            assert!(sectors > 0 && limits.holds(*sector, sectors));
        }
        Body::Discard { sector, sectors } => {
            assert!(limits.discard && !limits.read_only && limits.holds(*sector, *sectors));
        }
        Body::Flush => assert!(limits.flush),
    }
    assert_eq!(Request::parse(&request.encode(), &limits), Ok(request));
    let descriptor: [u8; SEGMENT_SIZE] = script.bytes();
    if let Some(segment) = Segment::parse(&descriptor) {
        assert!((1..=u64::from(SECTORS_PER_PAGE)).contains(&segment.sectors()));
    }
});
