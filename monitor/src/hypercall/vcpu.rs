//! `vcpu_op` and `set_timer_op`: timers, and the places where a vCPU finds its records.

use alloc::boxed::Box;

use protocol::layout::{PAGE_SHIFT, PAGE_SIZE};

use super::{Answer, Call, DONE, Outcome, WORD};
use crate::context::Context;
use crate::errno::Errno;
use crate::guest::Activity;
use crate::state::State;

/// Bytes of a runstate area.
const RUNSTATE: usize = 48;
/// The same of a 32-bit guest.
const RUNSTATE_NARROW: usize = 44;
/// Bytes of a time area.
const TIME_AREA: u64 = 32;
/// The shot must lie in the future.
const FUTURE: u32 = 1;

impl<S: State> Call<'_, S> {
    pub(super) fn vcpu_op(&mut self) -> Answer {
        let [command, target, address] = self.arguments;
        let target = u32::try_from(target).unwrap_or(u32::MAX);
        if target as usize >= self.guest.vcpus.len() {
            return Err(Errno::ENOENT);
        }
        match command {
            0 => {
                let context = Context::parse(&self.load::<128>(address)?.0).ok_or(Errno::EINVAL)?;
                let vcpu = &mut self.guest.vcpus[target as usize];
                // One that runs, or ran, has a context.
                if vcpu.activity != Activity::Off || vcpu.context.is_some() {
                    return Err(Errno::EEXIST);
                }
                vcpu.context = Some(Box::new(context));
                DONE
            }
            1 => {
                let vcpu = &mut self.guest.vcpus[target as usize];
                match (&vcpu.activity, vcpu.context.take()) {
                    (Activity::Off, Some(context)) => vcpu.activity = Activity::Context(context),
                    (Activity::Off, None) => return Err(Errno::EINVAL),
                    (Activity::Down, _) => vcpu.activity = Activity::Running,
                    _ => {}
                }
                self.guest.wake(Some(target));
                DONE
            }
            2 => {
                let vcpu = &mut self.guest.vcpus[target as usize];
                if target != self.vcpu && vcpu.is_up() {
                    vcpu.activity = Activity::Down;
                    self.guest.wake(Some(target));
                }
                DONE
            }
            3 => Ok(Outcome::Value(self.guest.vcpus[target as usize].is_up().into())),
            5 => {
                let area = self.load_as::<8>(address, &[WORD])?.u64(0);
                // It runs, and always did.
                self.store(area, &[0; RUNSTATE][..if self.wide { RUNSTATE } else { RUNSTATE_NARROW }])?;
                DONE
            }
            // The periodic timer never runs.
            7 => DONE,
            8 | 9 if target != self.vcpu => Err(Errno::EINVAL),
            8 => {
                let request = self.load::<12>(address)?;
                let due = request.u64(0);
                if request.u32(8) & FUTURE != 0 && due <= self.now {
                    return Err(Errno::ETIME);
                }
                self.guest.vcpus[target as usize].timer = Some(due);
                DONE
            }
            9 => {
                self.guest.vcpus[target as usize].timer = None;
                DONE
            }
            10 => {
                let request = self.load::<16>(address)?;
                let page = self.guest.memory.pin(request.u64(0)).map_err(|_| Errno::EINVAL)?;
                let clock = self.guest.clock;
                self.guest.events.register_vcpu_info(target, page, request.u32(8) as usize, &clock)?;
                self.guest.wake(Some(target));
                DONE
            }
            11 => {
                self.guest.vcpus[target as usize].nmi = true;
                self.guest.wake(Some(target));
                DONE
            }
            13 => {
                let area = self.load_as::<8>(address, &[WORD])?.u64(0);
                self.time_area(area)
            }
            // The periodic timer, physical addresses of areas: not there.
            6 | 12 | 14 | 15 => Err(Errno::ENOSYS),
            other => self.unknown("vcpu_op", other),
        }
    }

    /// The clock for user space, at a virtual address; written once, for it stays true.
    fn time_area(&mut self, area: u64) -> Answer {
        if area == 0 {
            return DONE;
        }
        let offset = area % PAGE_SIZE;
        if !offset.is_multiple_of(8) || offset > PAGE_SIZE - TIME_AREA {
            return Err(Errno::EINVAL);
        }
        let physical = self.space().translate(area, true)?;
        let page = self.guest.memory.pin(physical >> PAGE_SHIFT).map_err(|_| Errno::EFAULT)?;
        self.guest.clock.publish(&page, offset as usize);
        DONE
    }

    /// `set_timer_op`, the older way; 0 is never.
    pub(super) fn set_timer(&mut self) -> Answer {
        let due = match self.wide {
            true => self.arguments[0],
            // The upper half comes by itself.
            false => self.arguments[0] | self.arguments[1] << 32,
        };
        if let Some(vcpu) = self.guest.vcpus.get_mut(self.vcpu as usize) {
            vcpu.timer = (due != 0).then_some(due);
        }
        DONE
    }
}
