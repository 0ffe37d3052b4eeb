//! What happens when a domain gives up: its last words go into its death report.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use protocol::domain::{MESSAGE_MAX, Reason};

use crate::text::Text;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKED: AtomicBool = AtomicBool::new(false);
    if PANICKED.swap(true, Ordering::Relaxed) {
        crate::exit::exit(Reason::Panic, 0, b"panicked while reporting a panic");
    }
    let mut text = Text::<MESSAGE_MAX>::default();
    // A message whose formatting fails is reported as far as it came.
    let _ = match info.location() {
        Some(at) => write!(text, "{}:{}: {}", at.file(), at.line(), info.message()),
        None => write!(text, "{}", info.message()),
    };
    crate::exit::exit(Reason::Panic, 0, text.as_bytes())
}

/// The precompiled `core` names it; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The precompiled `alloc` names it; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::exit::exit(Reason::Panic, 0, b"unwinding")
}
