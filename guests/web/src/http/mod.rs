//! What HTTP/1.1 says: requests in, heads of responses out. No file and no network here.

pub mod content;
pub mod path;
pub mod request;
pub mod response;
