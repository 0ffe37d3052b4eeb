//! `event_channel_op`.

use super::{Answer, Call, DOMAIN_SELF, DONE};
use crate::errno::Errno;
use crate::events::Binding;
use crate::state::State;

impl<S: State> Call<'_, S> {
    pub(super) fn event_channel_op(&mut self) -> Answer {
        let [command, address, _] = self.arguments;
        match command {
            1 => {
                let request = self.load::<12>(address)?;
                let port = self.guest.events.bind_virq(request.u32(0), request.u32(4))?;
                self.give_port(address + 8, port)
            }
            3 => {
                let port = self.load::<4>(address)?.u32(0);
                self.guest.events.close(port)?;
                DONE
            }
            4 => {
                let port = self.load::<4>(address)?.u32(0);
                let (native, vcpu) = self.guest.events.send(port)?;
                self.guest.outbox.ports.extend(native);
                self.guest.wake(vcpu);
                DONE
            }
            5 => self.event_status(address),
            6 => {
                let request = self.load::<8>(address)?;
                if request.u16(0) != DOMAIN_SELF {
                    return Err(Errno::EPERM);
                }
                let port = self.guest.events.allocate_unbound(request.u16(2))?;
                self.give_port(address + 4, port)
            }
            7 => {
                let vcpu = self.load::<8>(address)?.u32(0);
                let port = self.guest.events.bind_ipi(vcpu)?;
                self.give_port(address + 4, port)
            }
            8 => {
                let request = self.load::<8>(address)?;
                self.guest.events.bind_vcpu(request.u32(0), request.u32(4))?;
                DONE
            }
            9 => {
                let port = self.load::<4>(address)?.u32(0);
                let vcpu = self.guest.events.unmask(port)?;
                self.guest.wake(vcpu);
                DONE
            }
            // FIFO channels and priorities: not there, and the guest goes on without.
            11..=13 => Err(Errno::ENOSYS),
            other => self.unknown("event_channel_op", other),
        }
    }

    /// Tells the guest the number of its new port. A port that it cannot learn of is none.
    fn give_port(&mut self, address: u64, port: u32) -> Answer {
        if let Err(error) = self.store(address, &port.to_le_bytes()) {
            self.guest.events.close(port)?;
            return Err(error);
        }
        DONE
    }

    fn event_status(&mut self, address: u64) -> Answer {
        let request = self.load::<24>(address)?;
        if request.u16(0) != DOMAIN_SELF {
            return Err(Errno::EPERM);
        }
        let (binding, vcpu) = self.guest.events.status(request.u32(4))?;
        let (status, detail) = match binding {
            Binding::Free => (0, 0),
            Binding::Unbound(peer) => (1, peer.into()),
            Binding::Peer(peer, _) => (2, peer.into()),
            Binding::Virq(virq) => (4, virq),
            Binding::Ipi => (5, 0),
        };
        let mut answer = [0; 16];
        for (place, value) in answer.chunks_exact_mut(4).zip([status, vcpu, detail, 0u32]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        self.store(address + 8, &answer)?;
        DONE
    }
}
