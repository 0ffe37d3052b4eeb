//! `hvm_op`: parameters, by which guest and monitor tell each other where things are.

use super::{Answer, Call, DONE};
use crate::errno::Errno;
use crate::layout::{CONSOLE_FRAME, STORE_FRAME};
use crate::state::State;

/// Where upcalls go.
const CALLBACK: u32 = 0;
/// Frame of the store's ring, and the port.
const STORE: (u32, u32) = (1, 2);
/// Frame of the console's ring, and the port.
const CONSOLE: (u32, u32) = (17, 18);
/// The first vector that an APIC can deliver.
const VECTOR_MIN: u8 = 16;
/// Parameters that Xen has.
const PARAMETERS: u32 = 40;

impl<S: State> Call<'_, S> {
    pub(super) fn hvm_op(&mut self) -> Answer {
        let [command, address, _] = self.arguments;
        match command {
            0 => {
                let request = self.load::<16>(address)?;
                match request.u32(4) {
                    CALLBACK => {
                        self.guest.callback = request.u64(8);
                        self.guest.events.set_wide(self.wide);
                        DONE
                    }
                    _ => Err(Errno::EINVAL),
                }
            }
            1 => {
                let index = self.load::<16>(address)?.u32(4);
                let value = match index {
                    CALLBACK => self.guest.callback,
                    _ if index == STORE.0 => STORE_FRAME,
                    _ if index == STORE.1 => self.guest.store_port.into(),
                    _ if index == CONSOLE.0 => CONSOLE_FRAME,
                    _ if index == CONSOLE.1 => self.guest.console_port.into(),
                    1..PARAMETERS => 0,
                    _ => return Err(Errno::EINVAL),
                };
                self.store(address + 8, &value.to_le_bytes())?;
                DONE
            }
            23 => {
                let request = self.load::<8>(address)?;
                let (vcpu, vector) = (request.u32(0), request.u32(4) as u8);
                let vcpu = self.guest.vcpus.get_mut(vcpu as usize).ok_or(Errno::ENOENT)?;
                if vector < VECTOR_MIN {
                    return Err(Errno::EINVAL);
                }
                vcpu.upcall = Some(vector);
                DONE
            }
            // Hints about page tables, and memory types: not there.
            9 | 15 => Err(Errno::ENOSYS),
            other => self.unknown("hvm_op", other),
        }
    }
}
