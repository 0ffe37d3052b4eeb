//! The two ends of a control channel.

pub mod child;
pub mod parent;

pub use child::{failed, refuse, report, serve};
pub use parent::{Link, RequestError};
