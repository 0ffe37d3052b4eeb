//! What was negotiated with a frontend, as the connection's record keeps it.
//!
//! A restart negotiates nothing: what a frontend was promised once has to hold, whatever image serves it now.

use protocol::connection::{DiskLimits, TARGET_MAX};
use protocol::record::PARAMETERS_MAX;
use protocol::ring::block::Layout;

/// The parameters of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    target: [u8; TARGET_MAX],
    sector_size: u32,
    indirect_segments: u16,
    read_only: bool,
    flush: bool,
    discard: bool,
    layout: Layout,
}

impl Parameters {
    /// What is promised to a new connection.
    pub fn new(target: &str, limits: &DiskLimits, layout: Layout) -> Parameters {
        let mut name = [0; TARGET_MAX];
        name.iter_mut().zip(target.bytes()).for_each(|(to, from)| *to = from);
        Parameters {
            target: name,
            sector_size: limits.sector_size,
            indirect_segments: limits.indirect_segments,
            read_only: limits.read_only,
            flush: limits.flush,
            discard: limits.discard,
            layout,
        }
    }

    /// For the record.
    pub fn encode(&self) -> [u8; PARAMETERS_MAX] {
        let mut raw = [0; PARAMETERS_MAX];
        raw[..TARGET_MAX].copy_from_slice(&self.target);
        raw[64..68].copy_from_slice(&self.sector_size.to_le_bytes());
        raw[68..70].copy_from_slice(&self.indirect_segments.to_le_bytes());
        raw[70..73].copy_from_slice(&[self.read_only, self.flush, self.discard].map(u8::from));
        raw[73] = self.layout as u8;
        raw
    }

    /// From the record.
    pub fn decode(raw: &[u8; PARAMETERS_MAX]) -> Parameters {
        let mut target = [0; TARGET_MAX];
        target.copy_from_slice(&raw[..TARGET_MAX]);
        Parameters {
            target,
            sector_size: u32::from_le_bytes([raw[64], raw[65], raw[66], raw[67]]),
            indirect_segments: u16::from_le_bytes([raw[68], raw[69]]),
            read_only: raw[70] != 0,
            flush: raw[71] != 0,
            discard: raw[72] != 0,
            layout: if raw[73] == Layout::X86_32 as u8 { Layout::X86_32 } else { Layout::X86_64 },
        }
    }

    /// Why this promise cannot be kept by what is `offered` now, if it cannot.
    pub fn broken_by(&self, offered: &Parameters) -> Option<&'static str> {
        let checks = [
            (self.target != offered.target, "the record is of another disk"),
            (self.layout != offered.layout, "the record is of a ring with another layout of requests"),
            (self.sector_size != offered.sector_size, "the disk has another sector size than was promised"),
            (self.indirect_segments > offered.indirect_segments, "the record promises larger requests"),
            (!self.read_only && offered.read_only, "the disk can not be written any more"),
            (self.flush && !offered.flush, "the record promises flushes"),
            (self.discard && !offered.discard, "the record promises discards"),
        ];
        checks.iter().find(|(broken, _)| *broken).map(|(_, why)| *why)
    }

    /// What the frontend was told, with the size as it is now.
    pub fn limits(&self, sectors: u64) -> DiskLimits {
        DiskLimits {
            sectors,
            sector_size: self.sector_size,
            read_only: self.read_only,
            flush: self.flush,
            discard: self.discard,
            indirect_segments: self.indirect_segments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DiskLimits = DiskLimits {
        sectors: 9,
        sector_size: 512,
        read_only: false,
        flush: true,
        discard: true,
        indirect_segments: 32,
    };

    #[test]
    fn a_promise_survives_the_record_and_is_held_to() {
        let [promise, narrow] =
            [Layout::X86_64, Layout::X86_32].map(|layout| Parameters::new("virtio0p1", &LIMITS, layout));
        for promise in [promise, narrow] {
            assert_eq!(Parameters::decode(&promise.encode()), promise);
            assert_eq!(promise.broken_by(&promise), None);
        }
        assert!(promise.broken_by(&narrow).is_some() && narrow.broken_by(&promise).is_some());
        for lesser in [
            DiskLimits { sector_size: 4096, ..LIMITS },
            DiskLimits { read_only: true, ..LIMITS },
            DiskLimits { flush: false, ..LIMITS },
            DiskLimits { discard: false, ..LIMITS },
            DiskLimits { indirect_segments: 31, ..LIMITS },
        ] {
            assert!(promise.broken_by(&Parameters::new("virtio0p1", &lesser, Layout::X86_64)).is_some(), "{lesser:?}");
            assert!(
                Parameters::new("virtio0p1", &lesser, Layout::X86_64).broken_by(&promise).is_none()
                    || lesser.sector_size != 512
            );
        }
        assert!(promise.broken_by(&Parameters::new("virtio0p2", &LIMITS, Layout::X86_64)).is_some());
    }
}
