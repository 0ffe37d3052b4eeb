//! Block requests and responses of Xen's `blkif` (`public/io/blkif.h`).
//!
//! A request is copied out of the ring once, as [`RawRequest`], and read from that copy, which is in the x86-64 layout whatever the
//! [`Layout`] of the ring is. Sector numbers count 512 bytes whatever
//! the disk's own sector size is. What a request asks for is judged here; a request that asks for nonsense gets an error response, and the connection stays.

use serde::{Deserialize, Serialize};

use super::sring::Geometry;
use crate::grant::GrantRef;
use crate::record::Entry;

/// Bytes of a request slot.
pub const REQUEST_SIZE: usize = 112;
/// Bytes of a response.
pub const RESPONSE_SIZE: usize = 16;
/// Bytes of a sector number's unit.
pub const SECTOR: u64 = 512;
/// Sectors in a page; `first` and `last` of a segment are below this.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Segments that fit into a direct request.
pub const DIRECT_SEGMENTS: usize = 11;
/// Pages of descriptors an indirect request can name.
pub const INDIRECT_PAGES: usize = 8;
/// Descriptors in one such page.
pub const SEGMENTS_PER_PAGE: usize = 512;
/// Bytes of a segment descriptor.
pub const SEGMENT_SIZE: usize = 8;

/// A request as it lay in the ring, with the padding that the ring's layout may not have.
pub type RawRequest = [u8; REQUEST_SIZE];

/// How requests lie in a ring: as the frontend's compiler has it. Responses of either begin with the same 12 bytes, and what follows
/// says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// 64-bit words are aligned to 8 bytes.
    #[default]
    X86_64 = 0,
    /// 64-bit words are aligned to 4 bytes.
    X86_32 = 1,
}

impl Layout {
    /// The ring that so many pages hold.
    pub const fn geometry(self, pages: usize) -> Geometry {
        match self {
            Layout::X86_64 => Geometry::of(pages, REQUEST_SIZE),
            Layout::X86_32 => Geometry::narrow(pages, REQUEST_SIZE),
        }
    }
}

/// Offset of the number of the first sector, in every request that has one.
pub const SECTOR_AT: usize = 16;
/// Offset of the first direct segment.
const DIRECT_AT: usize = 24;
/// Bytes of a request with one direct segment, the most frequent one, and of all that have none.
const HEAD: usize = DIRECT_AT + SEGMENT_SIZE;
/// Offsets of the pages of an indirect request, and of what comes after them.
const PAGES: core::ops::Range<usize> = 28..28 + 4 * INDIRECT_PAGES;

/// Requests of a block ring as journals and rings hold them.
#[derive(Clone, Copy, Debug)]
pub struct Blocks;

impl Entry for Blocks {
    const HEAD: usize = HEAD;

    #[inline(always)]
    fn used(request: &[u8]) -> usize {
        match *request {
            [operation::READ | operation::WRITE, 0 | 1, ..] => HEAD,
            [operation::READ | operation::WRITE, count, ..] => {
                (DIRECT_AT + usize::from(count) * SEGMENT_SIZE).min(REQUEST_SIZE)
            }
            [operation::INDIRECT, ..] => PAGES.end.next_multiple_of(8),
            _ => HEAD,
        }
    }
}

/// Operation codes.
pub mod operation {
    #![allow(missing_docs)]
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const WRITE_BARRIER: u8 = 2;
    pub const FLUSH: u8 = 3;
    pub const DISCARD: u8 = 5;
    pub const INDIRECT: u8 = 6;
}

/// Outcome of a request, the `status` of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Status {
    /// Done.
    Okay = 0,
    /// It failed, or asked for what cannot be.
    Error = -1,
    /// This disk does not offer the operation.
    NotSupported = -2,
}

/// One piece of a transfer: sectors `first..=last` of a granted page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub reference: GrantRef,
    /// First sector in the page.
    pub first: u8,
    /// Last sector in the page.
    pub last: u8,
}

impl Segment {
    /// Reads a descriptor; `None` if its sectors are not inside a page.
    pub fn parse(raw: &[u8; SEGMENT_SIZE]) -> Option<Segment> {
        let segment =
            Segment { reference: u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]), first: raw[4], last: raw[5] };
        (segment.first <= segment.last && segment.last < SECTORS_PER_PAGE).then_some(segment)
    }

    /// The descriptor's bytes.
    pub fn encode(self) -> [u8; SEGMENT_SIZE] {
        let [a, b, c, d] = self.reference.to_le_bytes();
        [a, b, c, d, self.first, self.last, 0, 0]
    }

    /// Sectors it covers.
    pub const fn sectors(self) -> u64 {
        (self.last - self.first) as u64 + 1
    }
}

/// Where the segments of a transfer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segments {
    /// In the request.
    Direct(heapless::Vec<Segment, DIRECT_SEGMENTS>),
    /// In granted pages, [`SEGMENTS_PER_PAGE`] a page; to be copied once and parsed by [`Segment::parse`].
    Indirect {
        /// How many, 1 to the limit that was negotiated.
        count: u16,
        /// The pages.
        pages: [GrantRef; INDIRECT_PAGES],
    },
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Move sectors between the disk and granted pages.
    Transfer {
        /// Towards the disk.
        write: bool,
        /// First sector on the disk.
        sector: u64,
        /// The pages.
        segments: Segments,
    },
    /// Make all that was answered durable.
    Flush,
    /// Forget sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

/// A request that is well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frontend's; echoed.
    pub id: u64,
    /// The operation to echo: for an indirect request the one inside.
    pub echo: u8,
    /// What it asks for.
    pub body: Body,
}

/// What a disk offers a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size in sectors.
    pub sectors: u64,
    /// Writes and discards are refused.
    pub read_only: bool,
    /// Flush is offered.
    pub flush: bool,
    /// Discard is offered.
    pub discard: bool,
    /// Most segments of an indirect request; 0 if it is not offered.
    pub indirect: u16,
}

/// A request that gets an error at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// To be echoed.
    pub id: u64,
    /// To be echoed.
    pub echo: u8,
    /// [`Status::Error`] or [`Status::NotSupported`].
    pub status: Status,
}

/// `N` bytes of a request; zeros beyond its end.
fn field<const N: usize>(raw: &RawRequest, at: usize) -> [u8; N] {
    raw.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

impl Limits {
    /// Whether `count` sectors from `first` lie on the disk.
    pub const fn holds(&self, first: u64, count: u64) -> bool {
        match first.checked_add(count) {
            Some(end) => end <= self.sectors,
            None => false,
        }
    }
}

impl Request {
    /// Judges a request. Direct segments are summed and checked against the disk's size; for an indirect one the caller
    /// does so with [`Limits::holds`] once it has the descriptors.
    pub fn parse(raw: &RawRequest, limits: &Limits) -> Result<Request, Refused> {
        let mut request = Request::parse_head(raw, limits)?;
        if let Body::Transfer { sector, segments: Segments::Direct(list), .. } = &mut request.body {
            let refused = Refused { id: request.id, echo: request.echo, status: Status::Error };
            // There is room: no more fit into a request.
            *list = direct_segments(raw).collect::<Option<_>>().ok_or(refused)?;
            if !limits.holds(*sector, list.iter().copied().map(Segment::sectors).sum()) {
                return Err(refused);
            }
        }
        Ok(request)
    }

    /// The same without the list of direct segments, which is left empty: for who takes them from [`direct_segments`] one by one,
    /// and sums and checks them too.
    #[inline(always)]
    pub fn parse_head(raw: &RawRequest, limits: &Limits) -> Result<Request, Refused> {
        let (code, id, sector) = (raw[0], u64::from_le_bytes(field(raw, 8)), u64::from_le_bytes(field(raw, SECTOR_AT)));
        let echo = if code == operation::INDIRECT { raw[1] } else { code };
        let refuse = |status| Refused { id, echo, status };
        let body = match code {
            operation::READ | operation::WRITE => {
                let (write, segments) = (code == operation::WRITE, Segments::Direct(heapless::Vec::new()));
                let possible = (1..=DIRECT_SEGMENTS).contains(&raw[1].into()) && !(write && limits.read_only);
                if possible { Ok(Body::Transfer { write, sector, segments }) } else { Err(Status::Error) }
            }
            operation::INDIRECT => indirect(raw, sector, limits),
            operation::FLUSH if limits.flush && raw[1] == 0 => Ok(Body::Flush),
            operation::FLUSH if limits.flush => Err(Status::Error),
            operation::DISCARD if limits.discard => {
                let sectors = u64::from_le_bytes(field(raw, 24));
                let possible = sectors > 0 && limits.holds(sector, sectors) && !limits.read_only;
                if possible { Ok(Body::Discard { sector, sectors }) } else { Err(Status::Error) }
            }
            _ => Err(Status::NotSupported),
        };
        body.map(|body| Request { id, echo, body }).map_err(refuse)
    }

    /// The slot's bytes.
    pub fn encode(&self) -> RawRequest {
        let mut raw = [0; REQUEST_SIZE];
        raw[0] = self.echo;
        raw[8..16].copy_from_slice(&self.id.to_le_bytes());
        match &self.body {
            Body::Transfer { sector, segments, .. } => {
                raw[SECTOR_AT..DIRECT_AT].copy_from_slice(&sector.to_le_bytes());
                match segments {
                    Segments::Direct(list) => {
                        encode_direct(&mut raw, self.id, self.echo, *sector, list.iter().copied());
                    }
                    Segments::Indirect { count, pages } => {
                        (raw[0], raw[1]) = (operation::INDIRECT, self.echo);
                        raw[2..4].copy_from_slice(&count.to_le_bytes());
                        for (slot, page) in raw[PAGES].chunks_exact_mut(4).zip(pages) {
                            slot.copy_from_slice(&page.to_le_bytes());
                        }
                    }
                }
            }
            Body::Flush => {}
            Body::Discard { sector, sectors } => {
                raw[SECTOR_AT..DIRECT_AT].copy_from_slice(&sector.to_le_bytes());
                raw[24..32].copy_from_slice(&sectors.to_le_bytes());
            }
        }
        raw
    }
}

/// Makes a slot of zeros a request with direct segments, at most [`DIRECT_SEGMENTS`]; `echo` is the operation.
#[inline(always)]
pub fn encode_direct(raw: &mut RawRequest, id: u64, echo: u8, sector: u64, segments: impl Iterator<Item = Segment>) {
    let mut count = 0;
    raw[0] = echo;
    raw[8..16].copy_from_slice(&id.to_le_bytes());
    raw[SECTOR_AT..DIRECT_AT].copy_from_slice(&sector.to_le_bytes());
    for (slot, segment) in raw[DIRECT_AT..].chunks_exact_mut(SEGMENT_SIZE).zip(segments) {
        slot.copy_from_slice(&segment.encode());
        count += 1;
    }
    raw[1] = count;
}

/// The segments that lie in a request itself, `None` in place of one that is not inside a page.
pub fn direct_segments(raw: &RawRequest) -> impl Iterator<Item = Option<Segment>> {
    raw[DIRECT_AT..].as_chunks().0.iter().take(raw[1].into()).map(Segment::parse)
}

fn indirect(raw: &RawRequest, sector: u64, limits: &Limits) -> Result<Body, Status> {
    let count = u16::from_le_bytes(field(raw, 2));
    let write = match raw[1] {
        operation::READ => false,
        operation::WRITE => true,
        _ => return Err(Status::NotSupported),
    };
    if limits.indirect == 0 {
        return Err(Status::NotSupported);
    }
    if count == 0 || count > limits.indirect || (write && limits.read_only) || !limits.holds(sector, count as u64) {
        return Err(Status::Error);
    }
    let pages = core::array::from_fn(|i| u32::from_le_bytes(field(raw, PAGES.start + i * 4)));
    Ok(Body::Transfer { write, sector, segments: Segments::Indirect { count, pages } })
}

/// The bytes of a response.
pub fn response(id: u64, echo: u8, status: Status) -> [u8; RESPONSE_SIZE] {
    let mut raw = [0; RESPONSE_SIZE];
    raw[..8].copy_from_slice(&id.to_le_bytes());
    raw[8] = echo;
    raw[10..12].copy_from_slice(&(status as i16).to_le_bytes());
    raw
}

/// Reads a response: id, operation, status as it stands.
pub fn read_response(raw: &[u8; RESPONSE_SIZE]) -> (u64, u8, i16) {
    let [id @ .., _, _, _, _, _, _, _, _] = *raw;
    (u64::from_le_bytes(id), raw[8], i16::from_le_bytes([raw[10], raw[11]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: Limits = Limits { sectors: 1000, read_only: false, flush: true, discard: true, indirect: 256 };

    fn write_of(sector: u64, count: usize) -> Request {
        let list = (0..count as u32).map(|reference| Segment { reference, first: 0, last: 7 }).collect();
        Request {
            id: 7,
            echo: operation::WRITE,
            body: Body::Transfer { write: true, sector, segments: Segments::Direct(list) },
        }
    }

    #[test]
    fn the_end_of_the_disk_is_exact_and_sums_do_not_wrap() {
        assert_eq!(Request::parse(&write_of(1000 - 16, 2).encode(), &DISK), Ok(write_of(1000 - 16, 2)));
        for sector in [1000 - 15, 1000, u64::MAX, u64::MAX - 15] {
            assert_eq!(Request::parse(&write_of(sector, 2).encode(), &DISK).unwrap_err().status, Status::Error);
        }
        let discard = Request { id: 1, echo: operation::DISCARD, body: Body::Discard { sector: 2, sectors: u64::MAX } };
        assert!(Request::parse(&discard.encode(), &DISK).is_err());
    }

    #[test]
    fn a_read_only_disk_refuses_writes_and_discards_only() {
        let disk = Limits { read_only: true, ..DISK };
        assert!(Request::parse(&write_of(0, 1).encode(), &disk).is_err());
        let mut read = write_of(0, 1).encode();
        read[0] = operation::READ;
        assert!(Request::parse(&read, &disk).is_ok());
    }

    #[test]
    fn segments_outside_a_page_or_none_are_refused() {
        for (at, value) in [(1, 0), (1, 12), (28, 9), (29, 8)] {
            let mut raw = write_of(0, 1).encode();
            raw[at] = value;
            let refused = Request::parse(&raw, &DISK).unwrap_err();
            assert_eq!((refused.id, refused.status), (7, Status::Error), "byte {at} = {value}");
        }
    }

    #[test]
    fn an_indirect_request_echoes_the_operation_inside() {
        let body =
            Body::Transfer { write: false, sector: 3, segments: Segments::Indirect { count: 40, pages: [5; 8] } };
        let request = Request { id: 9, echo: operation::READ, body };
        assert_eq!(Request::parse(&request.encode(), &DISK), Ok(request.clone()));
        let nested = Request { echo: operation::INDIRECT, ..request };
        assert_eq!(Request::parse(&nested.encode(), &DISK).unwrap_err().status, Status::NotSupported);
    }

    #[test]
    fn rings_of_both_layouts_have_as_many_entries() {
        for (pages, entries) in [(1, 32), (2, 64), (4, 128), (8, 256)] {
            let rings = [Layout::X86_64, Layout::X86_32].map(|layout| layout.geometry(pages));
            assert_eq!(rings.map(|ring| (ring.entries, ring.request_size())), [(entries, REQUEST_SIZE); 2]);
            assert_eq!(rings.map(|ring| ring.entry_size), [112, 108]);
        }
    }

    proptest! {
        /// Only what `used` covers is copied and kept.
        #[test]
        fn what_is_not_used_says_nothing(raw in prop::collection::vec(any::<u8>(), REQUEST_SIZE), rest: [u8; 4], code in 0u8..8, count in 0u8..16) {
            let mut raw: RawRequest = raw.try_into().unwrap();
            (raw[0], raw[1]) = (code, count);
            for segment in raw[DIRECT_AT..].as_chunks_mut::<SEGMENT_SIZE>().0 {
                (segment[4], segment[5]) = (segment[4] % 4, 4 + segment[5] % 4);
            }
            raw[16..24].copy_from_slice(&[code, 0, 0, 0, 0, 0, 0, 0]);
            let mut other = raw;
            let used = Blocks::used(&raw);
            prop_assert!((Blocks::HEAD..=REQUEST_SIZE).contains(&used) && used == Blocks::used(&raw[..Blocks::HEAD]));
            other[used..].iter_mut().zip(rest.iter().cycle()).for_each(|(byte, other)| *byte = *other);
            prop_assert_eq!(Request::parse(&raw, &DISK), Request::parse(&other, &DISK));
        }

        #[test]
        fn whatever_is_accepted_lies_on_the_disk(raw in prop::collection::vec(any::<u8>(), REQUEST_SIZE), code in 0u8..8) {
            let mut raw: RawRequest = raw.try_into().unwrap();
            raw[0] = code;
            if let Ok(request) = Request::parse(&raw, &DISK) {
                match request.body {
                    Body::Transfer { sector, segments: Segments::Direct(list), .. } => {
                        prop_assert!(DISK.holds(sector, list.iter().map(|s| s.sectors()).sum()));
                    }
                    Body::Transfer { sector, segments: Segments::Indirect { count, .. }, .. } => {
                        prop_assert!(count <= DISK.indirect && DISK.holds(sector, count as u64));
                    }
                    Body::Discard { sector, sectors } => prop_assert!(DISK.holds(sector, sectors)),
                    Body::Flush => {}
                }
            }
        }
    }
}
