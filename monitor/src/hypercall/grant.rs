//! `grant_table_op`: the table's size. It is the core's; what the guest grants its peers find there.

use super::{Answer, Call, DONE};
use crate::errno::Errno;
use crate::state::State;

/// The only version of entries there is.
const VERSION: u32 = 1;

impl<S: State> Call<'_, S> {
    pub(super) fn grant_table_op(&mut self) -> Answer {
        let [command, address, count] = self.arguments;
        match (command, count) {
            (6 | 8 | 10, 0) => return DONE,
            (6 | 8 | 10, 1) => {}
            (6 | 8 | 10, _) => return Err(Errno::EINVAL),
            _ => {}
        }
        match command {
            6 => {
                let mut answer = [0; 10];
                answer[..4].copy_from_slice(&self.guest.grant_frames_placed.max(1).to_le_bytes());
                answer[4..8].copy_from_slice(&self.guest.grant_frames.to_le_bytes());
                self.load::<14>(address)?;
                self.store(address + 4, &answer)?;
                DONE
            }
            8 => {
                let wanted = self.load::<4>(address)?.u32(0);
                self.store(address, &VERSION.to_le_bytes())?;
                if wanted == VERSION { DONE } else { Err(Errno::EINVAL) }
            }
            10 => {
                self.load::<8>(address)?;
                self.store(address + 4, &VERSION.to_le_bytes())?;
                DONE
            }
            // Mapping and copying: a guest is nobody's backend.
            0..=12 => Err(Errno::ENOSYS),
            other => self.unknown("grant_table_op", other),
        }
    }
}
