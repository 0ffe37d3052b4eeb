//! `xen_version`: what the guest is told of its hypervisor.

use super::{Answer, Call, DONE, Outcome};
use crate::cpuid::XEN_VERSION;
use crate::errno::Errno;
use crate::state::State;

/// Features: writable page tables, auto-translated physical map, callback vector, pvclock from the start, no memory mapped 1:1.
const FEATURES: u32 = 1 << 0 | 1 << 2 | 1 << 8 | 1 << 9 | 1 << 16;

/// Bytes of the capabilities.
const CAPABILITIES: usize = 1024;

/// `text` as it lies in a fixed field.
fn field<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text);
    field
}

impl<S: State> Call<'_, S> {
    pub(super) fn xen_version(&mut self) -> Answer {
        let [command, address, _] = self.arguments;
        match command {
            0 => return Ok(Outcome::Value(XEN_VERSION.into())),
            1 => self.store(address, &field::<16>(b".0-bulkhead"))?,
            // Compiler, who compiled it, where and when: nobody's business.
            2 => self.store(address, &[0; 64 + 16 + 32 + 32])?,
            3 => self.store(address, &field::<CAPABILITIES>(b"xen-3.0-x86_64 hvm-3.0-x86_64"))?,
            4 => self.store(address, &[0; 64])?,
            5 => self.store(address, &[0; 8][..self.word_bytes()])?,
            6 => {
                let request = self.load::<8>(address)?;
                if request.u32(0) != 0 {
                    return Err(Errno::EINVAL);
                }
                self.store(address + 4, &FEATURES.to_le_bytes())?;
            }
            7 => return Ok(Outcome::Value(protocol::layout::PAGE_SIZE)),
            8 => self.store(address, &[0; 16])?,
            9 => self.store(address, &[0; CAPABILITIES])?,
            10 => return Err(Errno::ENODATA),
            other => return self.unknown("xen_version", other),
        }
        DONE
    }
}
