//! The answer of a hypercall, as the side that made the call reads it.

use crate::error::{Error, Result, for_each_error};

macro_rules! describe {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal;)*) => {
        impl Error {
            /// Every error, in the order of the numbers.
            pub const ALL: &'static [Error] = &[$(Error::$name,)*];

            /// The error with this errno value.
            pub const fn from_number(number: i32) -> Option<Error> {
                match number { $($number => Some(Error::$name),)* _ => None }
            }

            /// One line for a person.
            pub const fn text(self) -> &'static str {
                match self { $(Error::$name => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

for_each_error!(describe);

/// Unpacks the result register. A number that is no declared error reads as [`Error::NoSuchCall`].
pub fn decode(register: u64) -> Result {
    match register as i64 {
        0.. => Ok(register),
        negated => Err(Error::from_number(negated.wrapping_neg() as i32).unwrap_or(Error::NoSuchCall)),
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::encode;

    #[test]
    fn results_survive_the_register() {
        assert_eq!(decode(encode(Ok(7))), Ok(7));
        for &error in Error::ALL {
            assert_eq!(decode(encode(Err(error))), Err(error));
            assert!(!error.text().is_empty());
        }
        assert_eq!(decode(u64::MAX - 5000), Err(Error::NoSuchCall));
    }
}
