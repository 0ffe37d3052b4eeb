//! How a domain ends by itself.

use protocol::domain::{MESSAGE_MAX, Reason};

use crate::hypercall::{bytes, raw};

/// Ends the domain: power-off.
pub fn shutdown(code: u64) -> ! {
    exit(Reason::Shutdown, code, b"")
}

/// Ends the domain, and asks to be started again.
pub fn reboot() -> ! {
    exit(Reason::Reboot, 0, b"")
}

/// Ends the domain as crashed, for a reason that is not a bug of its program: the first [`MESSAGE_MAX`] bytes of the message go
/// into its death report.
pub fn crash(message: &str) -> ! {
    exit(Reason::Panic, 0, message.as_bytes())
}

/// Ends the domain; the first [`MESSAGE_MAX`] bytes of the message go into its death report.
pub(crate) fn exit(reason: Reason, code: u64, message: &[u8]) -> ! {
    let (address, length) = bytes(&message[..message.len().min(MESSAGE_MAX)]);
    loop {
        // SAFETY: the message is readable for its length.
        let _ = unsafe { raw::domain_exit(reason as u32 as u64, code, address, length) };
    }
}
