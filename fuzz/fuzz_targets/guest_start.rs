//! The start of a guest: files of any size anywhere, memory of any size, any command line.
#![no_main]

use fuzz::Script;
use libfuzzer_sys::fuzz_target;
use monitor::boot;
use monitor::layout::{COMMAND_LINE, TOLD};
use protocol::arguments::{GuestBoot, GuestFile};
use unikernel::vm::GuestMemory;

/// Pages of the largest guest that is tried in earnest: a little more than the smallest there can be.
const PAGES: u64 = 0x1100;

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let how = script.byte();
    let file = |script: &mut Script<'_>, wild: bool| match wild {
        true => GuestFile { address: script.long(), length: script.long() },
        // A page-aligned place, as its builder finds one.
        false => GuestFile { address: (u64::from(script.short()) % PAGES) << 12, length: u64::from(script.short()) },
    };
    let memory_pages = if how & 1 == 0 { script.long() } else { u64::from(script.short()) % PAGES };
    let (kernel, ramdisk) = (file(&mut script, how & 2 != 0), file(&mut script, how & 4 != 0));
    let boot = GuestBoot { memory_pages, max_pages: memory_pages, kernel, ramdisk, start_utc: 0 };
    let frames = boot::frames(&boot);
    // Tables for more memory than a domain has are dom0's mistake, which the core refuses.
    if frames.iter().map(|(_, count)| count).sum::<u64>() > PAGES + 16 {
        let _ = GuestMemory::take(&frames[..1]).is_none();
        return;
    }
    let Some(mut memory) = GuestMemory::take(&frames) else { return };
    let (line, vcpus) = (String::from_utf8_lossy(script.rest()).into_owned(), u32::from(how >> 3));
    let Ok(()) = memory.complete(0, 0x200) else { return };
    let _ = memory.complete(kernel.address >> 12, 16).and_then(|()| memory.write(kernel.address, line.as_bytes()));
    let told = boot::load(&mut memory, &boot).map_or(TOLD, |kernel| kernel.told);
    if boot::complete(&mut memory, &boot, told, &line, vcpus.max(1)).is_ok() {
        assert_eq!(memory.load_u64(told).map(|word| word as u32), Ok(0x336e_c578));
        let mut text = [0; 2048];
        memory.read(told + COMMAND_LINE, &mut text).expect("low memory is there");
        let end = text.iter().position(|&byte| byte == 0).expect("it ends");
        assert!(line.as_bytes().starts_with(&text[..end]));
    }
});
