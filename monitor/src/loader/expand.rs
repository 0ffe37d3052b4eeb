//! Compressed kernels: what Linux can be built with, recognised by the first bytes.
//!
//! How much memory it takes to expand a kernel is what the kernel says. A decoder that does not get its memory would end the
//! monitor, so that the memory is looked for beforehand. The stack has 64 KiB: what decoders keep is on the heap, and no frame holds what
//! several of them need.

use alloc::boxed::Box;
use alloc::vec::Vec;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::file::Reader;
use super::{LoadError, lz4};

/// Bytes that an expander hands on at a time. DEFLATE can refer to as many.
const CHUNK: usize = 32 << 10;
/// What decoders have beside what they remember, at most.
const TABLES: usize = 1 << 20;
/// What a kernel can make a decoder remember at most: 128 MiB, as in the kernel's own, and its tables.
const WINDOW_MAX: usize = (128 << 20) + TABLES;
/// What the decoder for ZSTD expands at a time, and the most that it may do beyond: a block.
const STEP: usize = 1 << 20;
const BLOCK: usize = 128 << 10;

/// Where expanded bytes go.
pub type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> Result<(), LoadError>;

/// Expands what the reader stands at.
pub fn expand(reader: &mut Reader<'_, '_>, sink: Sink<'_>) -> Result<(), LoadError> {
    let mut magic = [0; 4];
    let head = reader.peek()?;
    let seen = head.len().min(4);
    magic[..seen].copy_from_slice(&head[..seen]);
    match magic {
        lz4::MAGIC => {
            reader.skip(4);
            lz4::expand(reader, sink)
        }
        [0x1f, 0x8b, ..] => gzip(reader, sink),
        [0x28, 0xb5, 0x2f, 0xfd] => zstd(reader, sink),
        [0xfd, b'7', b'z', b'X'] => xz(reader, sink),
        [b'B', b'Z', b'h', _] => Err(LoadError::Compression("BZIP2")),
        [0x5d, 0, 0, _] => Err(LoadError::Compression("LZMA")),
        [0x89, b'L', b'Z', b'O'] => Err(LoadError::Compression("LZO")),
        _ => Err(LoadError::NoKernel),
    }
}

/// Makes sure that there is memory for `bytes` at once.
fn find_room(bytes: usize) -> Result<(), LoadError> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| LoadError::Memory { needed: bytes as u64 })
}

/// RFC 1952, the first member.
#[inline(never)]
fn gzip(reader: &mut Reader<'_, '_>, sink: Sink<'_>) -> Result<(), LoadError> {
    let mut header = [0; 10];
    reader.fill(&mut header)?;
    let flags = header[3];
    if header[2] != 8 {
        return Err(LoadError::Damaged);
    }
    if flags & 4 != 0 {
        let extra = usize::from(reader.byte()?) | usize::from(reader.byte()?) << 8;
        (0..extra).try_for_each(|_| reader.byte().map(drop))?;
    }
    for name in [8, 16] {
        while flags & name != 0 && reader.byte()? != 0 {}
    }
    if flags & 2 != 0 {
        reader.fill(&mut header[..2])?;
    }
    let mut state = Box::<DecompressorOxide>::default();
    // The decoder remembers what it gave by looking into the place where it puts it, which is as long as it has to remember.
    let (mut out, mut at) = (alloc::vec![0; CHUNK], 0);
    loop {
        let input = reader.peek()?;
        let (status, read, written) = decompress(&mut state, input, &mut out, at, TINFL_FLAG_HAS_MORE_INPUT);
        reader.skip(read);
        sink(&out[at..at + written])?;
        at = (at + written) % CHUNK;
        match status {
            TINFLStatus::Done => return Ok(()),
            TINFLStatus::HasMoreOutput => {}
            TINFLStatus::NeedsMoreInput if read > 0 || written > 0 => {}
            _ => return Err(LoadError::Damaged),
        }
    }
}

impl ruzstd::io::Read for Reader<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ruzstd::io::Error> {
        self.some(out).map_err(|_| ruzstd::io::ErrorKind::Other.into())
    }
}

impl lzma_rust2::Read for Reader<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> lzma_rust2::Result<usize> {
        self.some(out).map_err(|_| lzma_rust2::Error::Other("the file ends"))
    }
}

/// The format of xz-utils. The decoder remembers more and more, twice as much each time, up to what the file says or all there is. With
/// room for the most of it in one piece, it grows in its place; else it takes twice as much.
#[inline(never)]
fn xz(reader: &mut Reader<'_, '_>, sink: Sink<'_>) -> Result<(), LoadError> {
    use lzma_rust2::{Error, Read};
    let expanded = u64::from(reader.last_u32()?);
    let window = dictionary(reader.peek()?).ok_or(LoadError::Damaged)?.min(expanded.next_power_of_two());
    let needed = window + TABLES as u64;
    if needed > WINDOW_MAX as u64 {
        return Err(LoadError::Memory { needed });
    }
    find_room(needed as usize)?;
    let mut decoder = lzma_rust2::XzReader::new(reader, false);
    let mut out: Box<[u8]> = alloc::vec![0; CHUNK].into();
    loop {
        match decoder.read(&mut out) {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&out[..count])?,
            Err(Error::OutOfMemory(_)) => return Err(LoadError::Memory { needed }),
            Err(_) => return Err(LoadError::Damaged),
        }
    }
}

/// What the first block of a file of xz-utils says: how far back it refers, in bytes.
fn dictionary(file: &[u8]) -> Option<u64> {
    /// Bytes of the stream's header; that of the block follows.
    const STREAM_HEADER: usize = 12;
    /// The filter that decides it, the last one.
    const LZMA2: u8 = 0x21;
    let mut rest = file.get(STREAM_HEADER..)?.iter().copied();
    let flags = rest.nth(1)?;
    // Numbers of seven bits a byte, the last one without the eighth: compressed and expanded size, if they are there.
    let number = |rest: &mut dyn Iterator<Item = u8>| {
        let mut bytes = (0..9).map_while(|_| rest.next());
        bytes.find(|byte| byte & 0x80 == 0)
    };
    for size in [0x40, 0x80] {
        if flags & size != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let (filter, properties) = (number(&mut rest)?, number(&mut rest)?);
        if filter == LZMA2 {
            let size = rest.next().filter(|&size| size <= 40)?;
            return Some((2 | u64::from(size) & 1) << (size / 2 + 11));
        }
        (0..properties).try_for_each(|_| rest.next().map(drop))?;
    }
    None
}

/// RFC 8878. The decoder remembers more and more, up to what the beginning of the file says.
#[inline(never)]
fn zstd(mut reader: &mut Reader<'_, '_>, sink: Sink<'_>) -> Result<(), LoadError> {
    use ruzstd::decoding::errors::FrameDecoderError;
    use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    use ruzstd::io::Read;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_MAX as u64);
    decoder.init(&mut reader).map_err(|error| match error {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => LoadError::Memory { needed: requested },
        _ => LoadError::Damaged,
    })?;
    let mut out: Box<[u8]> = alloc::vec![0; CHUNK].into();
    // Bytes that the decoder has at most, and those for which it has room.
    let (mut held, mut room) = (0, 0);
    while !decoder.is_finished() {
        held += STEP + BLOCK;
        if held > room {
            // It takes a power of two, and a little more.
            room = held.next_power_of_two();
            find_room(room + 4 * BLOCK)?;
        }
        let strategy = BlockDecodingStrategy::UptoBytes(STEP);
        decoder.decode_blocks(&mut reader, strategy).map_err(|_| LoadError::Damaged)?;
        loop {
            let count = decoder.read(&mut out).map_err(|_| LoadError::Damaged)?;
            if count == 0 {
                break;
            }
            held = held.saturating_sub(count);
            sink(&out[..count])?;
        }
    }
    Ok(())
}
