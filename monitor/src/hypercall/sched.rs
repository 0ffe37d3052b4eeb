//! `sched_op`: waiting, and the end.

use alloc::vec::Vec;

use super::{Answer, Call, DONE, Outcome, WORD};
use crate::errno::Errno;
use crate::guest::{Activity, End};
use crate::state::State;

/// Most ports that a vCPU can wait for at once.
const PORTS_MAX: u32 = 128;

impl<S: State> Call<'_, S> {
    pub(super) fn sched_op(&mut self) -> Answer {
        let [command, address, _] = self.arguments;
        match command {
            // The core decides who runs.
            0 => DONE,
            1 => self.wait(Vec::new(), u64::MAX),
            2 => {
                let reason = self.load::<4>(address)?.u32(0);
                self.shutdown(reason)
            }
            3 => {
                let request = self.load_as::<24>(address, &[WORD, 4, 8])?;
                let (list, count, timeout) = (request.u64(0), request.u32(8), request.u64(16));
                if count > PORTS_MAX {
                    return Err(Errno::EINVAL);
                }
                let mut bytes = alloc::vec![0; count as usize * 4];
                self.space().read(list, &mut bytes)?;
                let ports = bytes.as_chunks::<4>().0.iter().map(|port| u32::from_le_bytes(*port)).collect();
                self.wait(ports, if timeout == 0 { u64::MAX } else { timeout })
            }
            6 | 7 => Err(Errno::ENOSYS),
            other => self.unknown("sched_op", other),
        }
    }

    fn wait(&mut self, ports: Vec<u32>, until: u64) -> Answer {
        if let Some(vcpu) = self.guest.vcpus.get_mut(self.vcpu as usize) {
            vcpu.activity = Activity::Polling(ports, until);
        }
        DONE
    }

    fn shutdown(&mut self, reason: u32) -> Answer {
        let crash = |text: &str| Ok(Outcome::End(self.guest.crash(self.state, format_args!("{text}"))));
        match reason {
            0 => Ok(Outcome::End(End::PowerOff)),
            1 => Ok(Outcome::End(End::Reboot)),
            // Nobody takes the guest away: it goes on where it is.
            2 => Ok(Outcome::Value(1)),
            3 => crash("the guest says that it crashed"),
            4 => crash("the guest's watchdog ran out"),
            5 => crash("the guest wants to start a kernel of its own, which is not supported"),
            _ => Err(Errno::EINVAL),
        }
    }
}
