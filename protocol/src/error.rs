//! What a hypercall can answer instead of a result.
//!
//! The numbers are the errno values that Xen uses (`public/errno.h`), negated in the result register, so that guest-face
//! and native-face calls speak alike. What only the other side of the call needs of them is in [`crate::answer`].

/// Calls `$callback!` with all errors: `Name = number;` each, with its documentation before it.
macro_rules! for_each_error {
    ($callback:ident) => {
        $callback! {
            /// The handle does not carry the right that this call needs.
            NotPermitted = 1;
            /// There is no such entry.
            NotFound = 2;
            /// The peer index names nobody, or somebody of an older incarnation.
            NoPeer = 3;
            /// The count is larger than this call takes.
            TooBig = 7;
            /// The handle is out of range, closed, or of an older generation.
            BadHandle = 9;
            /// The operation is long and was cut; call again with the same arguments.
            Again = 11;
            /// The memory that would be charged for this is not there.
            NoMemory = 12;
            /// The handle names an object of another kind.
            WrongKind = 13;
            /// The memory named is not mapped, not the caller's, or not mapped with the access this call needs.
            BadAddress = 14;
            /// The object is in use.
            Busy = 16;
            /// There is something at that place already.
            Exists = 17;
            /// An argument is outside what this call takes.
            Invalid = 22;
            /// A table with a fixed size is full.
            TableFull = 23;
            /// The domain is in a state in which this cannot be done.
            WrongState = 71;
            /// There is no hypercall with this number.
            NoSuchCall = 38;
            /// The event port is not open.
            BadPort = 53;
            /// The grant entry does not permit this access.
            BadGrant = 61;
            /// The machine has no hardware for this.
            Unsupported = 95;
            /// The deadline passed first.
            TimedOut = 110;
        }
    };
}
pub(crate) use for_each_error;

macro_rules! declare {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal;)*) => {
        /// Why a hypercall was refused. The caller is the guilty side unless the description says otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Error { $($(#[doc = $doc])* $name = $number,)* }
    };
}

for_each_error!(declare);

/// What a hypercall gives: a value below 2^63, or an [`Error`].
pub type Result<T = u64> = core::result::Result<T, Error>;

/// Packs a result into the result register: a value as itself, an error as its negated number.
pub const fn encode(result: Result) -> u64 {
    match result {
        Ok(value) => value & i64::MAX as u64,
        Err(error) => (-(error as i64)) as u64,
    }
}
