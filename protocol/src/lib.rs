//! The contract between the core, the domains and the tools.
//!
//! Every number and every layout that two parts of Bulkhead share is written here and nowhere else: the core, `unikernel`,
//! the control plane, the documentation and the fuzzers all take them from this crate. It knows nobody and holds no
//! `unsafe`; what can be decided without a machine is decided, and tested, here.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, loom))]
extern crate std;

/// Declares records: numbers in memory that two sides share, laid out as C does it, without padding. All default to zero.
macro_rules! records {
    ($($(#[doc = $doc:literal])* pub struct $name:ident { $($fields:tt)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
        #[repr(C)]
        pub struct $name { $($fields)* }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )*};
}

pub mod answer;
pub mod arguments;
pub mod connection;
pub mod control;
pub mod declaration;
pub mod device;
pub mod domain;
pub mod error;
pub mod event;
pub mod grant;
pub mod handle;
pub mod heartbeat;
pub mod hypercall;
pub mod layout;
#[cfg(any(test, feature = "mutants"))]
pub mod mutant;
pub mod record;
pub mod ring;
pub mod start;
pub mod system;
pub mod vm;

/// Version of the hypercall interface; returned by [`hypercall::Hypercall::Version`]. It changes whenever a number, an
/// argument or a layout in this crate changes its meaning.
pub const ABI_VERSION: u32 = 1;

/// Longest name of a domain, in bytes.
pub const NAME_MAX: usize = 32;

/// A domain's name as it lies in fixed layouts: UTF-8, padded with zeros.
pub type Name = [u8; NAME_MAX];

/// Packs `text` into a [`Name`]; what does not fit is cut at a character boundary.
pub fn name(text: &str) -> Name {
    let mut out = [0; NAME_MAX];
    let end = text.floor_char_boundary(NAME_MAX);
    out[..end].copy_from_slice(&text.as_bytes()[..end]);
    out
}

/// The text of a [`Name`]; bytes that are no UTF-8 give `"?"`.
pub fn name_text(name: &Name) -> &str {
    let end = name.iter().position(|&b| b == 0).unwrap_or(NAME_MAX);
    core::str::from_utf8(&name[..end]).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_packing_and_is_cut_at_a_character() {
        assert_eq!(name_text(&name("hello")), "hello");
        let long = "x".repeat(NAME_MAX - 1) + "é";
        assert_eq!(name_text(&name(&long)), "x".repeat(NAME_MAX - 1));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_a_question_mark() {
        let mut raw = name("ok");
        raw[0] = 0xff;
        assert_eq!(name_text(&raw), "?");
    }
}
