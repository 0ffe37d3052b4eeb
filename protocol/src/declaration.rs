//! The hypercalls as data: what documentation and the hostile tests are made from.
//!
//! Apart from [`crate::hypercall`], because neither the core nor a domain has a use for it.

/// What an argument means, and so what is checked before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handle of [`crate::handle::ObjectKind::System`].
    System,
    /// Handle of a domain.
    Domain,
    /// Handle of a domain, with what the description asks for.
    AnyDomain,
    /// Handle of a domain that is not at its end.
    Live,
    /// Handle of a domain that the caller may control, neither itself nor the first.
    Other,
    /// As `Other`, and in building.
    Building,
    /// Handle of an I/O port range.
    IoPorts,
    /// Handle of an interrupt line.
    Interrupt,
    /// Handle of a PCI function.
    Device,
    /// Handle of one that the caller may use and has opened.
    Opened,
    /// Handle of anything.
    AnyHandle,
    /// Event port of the caller, or of the domain named.
    Port,
    /// Address of memory of the caller that the core reads.
    Read,
    /// Address of memory of the caller that the core writes.
    Write,
    /// Address of memory of the caller that the core reads and writes.
    ReadWrite,
    /// Bytes or elements behind the pointer before it.
    Length,
    /// Virtual address in the domain named, page-aligned unless the description says otherwise.
    Address,
    /// A count of pages.
    Pages,
    /// A number with the range the description gives.
    Number,
    /// Bits; undefined ones are refused.
    Flags,
    /// An absolute time in ns since the core started; `u64::MAX` is never.
    Deadline,
}

/// The declaration of one hypercall.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// The arguments: name, kind, and the right that a handle has to carry, if its kind does not say.
    pub arguments: &'static [(&'static str, Kind, &'static str)],
    /// Errors it can give, beside those that the kinds of its arguments imply.
    pub errors: &'static [crate::error::Error],
    /// What it does.
    pub text: &'static str,
}

macro_rules! declare {
    ($($(#[doc = $doc:literal])* $number:literal $variant:ident
        $name:ident($($argument:ident: $kind:ident $(($right:ident))?),*) [$($error:ident),*];)*) => {
        /// All declarations; the index is the number.
        pub const DECLARATIONS: &[Declaration] = &[$(Declaration {
            number: $number,
            name: stringify!($name),
            arguments: &[$((stringify!($argument), Kind::$kind, stringify!($($right)?))),*],
            errors: &[$(crate::error::Error::$error),*],
            text: concat!($($doc),*).trim_ascii(),
        },)*];
    };
}

crate::for_each_hypercall!(declare);

/// Number of hypercalls.
pub const COUNT: usize = DECLARATIONS.len();

impl Kind {
    /// Errors that an argument of this kind can give by itself.
    pub const fn errors(self) -> &'static [crate::error::Error] {
        use crate::error::Error::*;
        match self {
            Kind::System
            | Kind::Domain
            | Kind::AnyDomain
            | Kind::Other
            | Kind::IoPorts
            | Kind::Interrupt
            | Kind::Device => &[BadHandle, WrongKind, NotPermitted],
            Kind::Live | Kind::Building | Kind::Opened => &[BadHandle, WrongKind, NotPermitted, WrongState],
            Kind::AnyHandle => &[BadHandle, NotPermitted],
            Kind::Port => &[BadPort],
            Kind::Read | Kind::Write | Kind::ReadWrite | Kind::Address => &[BadAddress, Invalid],
            Kind::Length | Kind::Pages | Kind::Number | Kind::Flags => &[Invalid],
            Kind::Deadline => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_names_unique() {
        for (index, declaration) in DECLARATIONS.iter().enumerate() {
            assert_eq!(declaration.number, index as u64);
            assert!(declaration.arguments.len() <= 5, "{}", declaration.name);
            assert!(declaration.text.ends_with(['.', ')']), "{}", declaration.name);
            assert_eq!(DECLARATIONS.iter().filter(|other| other.name == declaration.name).count(), 1);
        }
    }
}
