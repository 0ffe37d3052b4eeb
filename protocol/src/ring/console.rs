//! The console ring page: Xen's `struct xencons_interface` (`public/io/console.h`).
//!
//! `in` carries what the operator types towards the domain, `out` what the domain prints.

use super::byte::Place;

/// Operator to domain.
pub const INPUT: Place = Place { data: 0, size: 1024, consumer: 3072, producer: 3076 };
/// Domain to operator.
pub const OUTPUT: Place = Place { data: 1024, size: 2048, consumer: 3080, producer: 3084 };
