//! Messages of the store: the layout of Xen's `public/io/xs_wire.h`.
//!
//! A header of four little-endian words, then a payload of strings, each ended by a zero byte, except for the value of a node.

use alloc::vec::Vec;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// Bytes of the largest payload.
pub const PAYLOAD_MAX: usize = 4096;

/// What a message is about.
#[allow(missing_docs)]
pub mod kind {
    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense.
    Invalid,
    /// The guest may not do that.
    Denied,
    /// Only the owner of the whole may do that.
    NotPermitted,
    /// It is there already.
    Exists,
    /// It is not there.
    Missing,
    /// A quota is used up, in bytes or nodes.
    NoSpace,
    /// A quota of things at once is used up.
    TooMany,
    /// The answer, or a part of the question, is too long.
    TooBig,
    /// There is no such request.
    Unknown,
    /// Somebody else was quicker; to be tried again.
    Again,
}

impl Refusal {
    /// The name by which the protocol calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Invalid => "EINVAL",
            Refusal::Denied => "EACCES",
            Refusal::NotPermitted => "EPERM",
            Refusal::Exists => "EEXIST",
            Refusal::Missing => "ENOENT",
            Refusal::NoSpace => "ENOSPC",
            Refusal::TooMany => "EBUSY",
            Refusal::TooBig => "E2BIG",
            Refusal::Unknown => "ENOSYS",
            Refusal::Again => "EAGAIN",
        }
    }
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// The guest's number for its request, echoed.
    pub request: u32,
    /// The transaction it belongs to, echoed; 0 is none.
    pub transaction: u32,
    /// Bytes of the payload.
    pub length: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(raw: &[u8; HEADER]) -> Header {
        let [kind, request, transaction, length] =
            core::array::from_fn(|index| u32::from_le_bytes(core::array::from_fn(|byte| raw[index * 4 + byte])));
        Header { kind, request, transaction, length }
    }

    /// Appends the message with this header and `payload`, whose length counts.
    pub fn encode(self, payload: &[u8], out: &mut Vec<u8>) {
        for word in [self.kind, self.request, self.transaction, payload.len() as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(payload);
    }
}

/// The strings of a payload, of which each is ended by a zero byte; text, because nothing else is a path or a number.
pub fn strings(payload: &[u8]) -> Result<impl Iterator<Item = &str> + Clone, Refusal> {
    let text = core::str::from_utf8(payload).map_err(|_| Refusal::Invalid)?;
    Ok(text.strip_suffix('\0').ok_or(Refusal::Invalid)?.split('\0'))
}

/// A payload of exactly `N` strings.
pub fn exactly<const N: usize>(payload: &[u8]) -> Result<[&str; N], Refusal> {
    let (mut found, mut strings) = ([""; N], strings(payload)?);
    for place in &mut found {
        *place = strings.next().ok_or(Refusal::Invalid)?;
    }
    if strings.next().is_some() { Err(Refusal::Invalid) } else { Ok(found) }
}

/// A payload of a path and raw bytes.
pub fn path_and_value(payload: &[u8]) -> Result<(&str, &[u8]), Refusal> {
    let end = payload.iter().position(|&byte| byte == 0).ok_or(Refusal::Invalid)?;
    let path = core::str::from_utf8(&payload[..end]).map_err(|_| Refusal::Invalid)?;
    Ok((path, &payload[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_to_be_ended_and_counted() {
        assert_eq!(exactly::<2>(b"a\0b\0"), Ok(["a", "b"]));
        assert_eq!(exactly::<1>(b"\0"), Ok([""]));
        for bad in [b"a".as_slice(), b"", b"a\0b\0", b"a\0b", b"\xff\0"] {
            assert_eq!(exactly::<1>(bad), Err(Refusal::Invalid), "{bad:?}");
        }
        assert_eq!(path_and_value(b"/a\0b\0c"), Ok(("/a", b"b\0c".as_slice())));
        assert_eq!(path_and_value(b"/a"), Err(Refusal::Invalid));
    }

    #[test]
    fn headers_survive_their_bytes() {
        let header = Header { kind: 2, request: 7, transaction: u32::MAX, length: 3 };
        let mut out = Vec::new();
        header.encode(b"abc", &mut out);
        assert_eq!(Header::parse(out.first_chunk().unwrap()), header);
        assert_eq!(&out[HEADER..], b"abc");
    }
}
