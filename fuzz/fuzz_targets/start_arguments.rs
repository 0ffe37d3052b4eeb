//! The page with a domain's arguments: what can be read can be written, and means the same then.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::arguments::{ARGUMENTS_MAX, decode_arguments, encode_arguments};

fuzz_target!(|data: &[u8]| {
    let Some(arguments) = decode_arguments(data) else { return };
    let mut page = [0; ARGUMENTS_MAX];
    let used = encode_arguments(&arguments, &mut page).expect("what came from a page fits into one");
    assert_eq!(decode_arguments(&page[..used]), Some(arguments));
});
