//! Commands that take time. They are looked at again whenever something happened, and each has a deadline.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use protocol::handle::Handle;
use serde::Serialize;

use super::devices::DeviceWait;
use super::survey::Survey;
use super::{Context, Flow, act};
use crate::config::size;
use crate::hypervisor::Hypervisor;
use crate::plane::{Phase, Request};
use crate::shell::args::{Args, Fault};
use crate::shell::table::Table;
use crate::shell::view::{self, DomainView, mib, seconds};

/// Longest time that output is given to reach the terminal before the machine is switched off, in ns.
const FAREWELL_NS: u64 = 1_000_000_000;

/// How the machine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off {
        /// What an emulator is told.
        status: u8,
    },
    /// It starts again.
    Reboot,
}

/// A domain that was asked to end.
#[derive(Debug)]
pub struct Ending {
    /// Its name.
    pub name: String,
    /// The request.
    pub request: Request,
    /// When it had been started.
    pub started_ns: u64,
    /// Whether it should come back.
    pub again: bool,
}

/// A domain that was asked to give memory back.
#[derive(Debug)]
pub struct Memory {
    /// Its name.
    pub name: String,
    /// Its handle.
    pub handle: Handle,
    /// The request.
    pub request: Request,
    /// Frames it may keep.
    pub pages: u64,
    /// Their bound.
    pub max: u64,
    /// When to give up.
    pub deadline: u64,
}

/// What a command waits for.
#[derive(Debug)]
pub enum Waiting {
    /// Domains that were asked to end.
    Ended {
        /// Those that are still there.
        endings: Vec<Ending>,
        /// When to give up.
        deadline: u64,
    },
    /// A domain that was asked to give memory back.
    Memory(Memory),
    /// A domain to run again, and its memory to be scrubbed before.
    Restarted {
        /// Its id.
        domain: u16,
        /// Its name.
        name: String,
        /// Since when.
        begin: u64,
        /// How to say it.
        json: bool,
        /// When to give up.
        deadline: u64,
    },
    /// Everything that was destroyed to be gone.
    Reaped {
        /// When to give up.
        deadline: u64,
    },
    /// Room for a domain that is to be made, which what was destroyed may still have.
    Room {
        /// The command that makes it.
        create: Args,
        /// When to give up.
        deadline: u64,
    },
    /// A domain to carry out a request.
    Answer {
        /// The request.
        request: Request,
        /// When to give up.
        deadline: u64,
    },
    /// A Linux guest to use so many of its vCPUs.
    Vcpus {
        /// The request.
        request: Request,
        /// Their number.
        vcpus: u32,
        /// When to give up.
        deadline: u64,
    },
    /// A device to be there, or to be gone, or an upgrade to be settled.
    Device(DeviceWait),
    /// Driver domains to say what they know.
    Survey(Survey),
    /// The end of an interval.
    Top(Top),
    /// The operator to come back from a domain's console.
    Terminal {
        /// The domain.
        domain: u16,
    },
    /// The output to be read, before the machine ends.
    Power {
        /// How it ends.
        power: Power,
        /// When it ends at the latest.
        deadline: u64,
    },
}

impl Waiting {
    /// Waits for the farewell to be read.
    pub fn power<H: Hypervisor>(context: &mut Context<'_, '_, H>, power: Power) -> Waiting {
        Waiting::Power { power, deadline: context.plane.hypervisor.clock() + FAREWELL_NS }
    }

    /// When to look again at the latest.
    pub fn deadline(&self) -> u64 {
        match self {
            Waiting::Ended { deadline, .. }
            | Waiting::Reaped { deadline }
            | Waiting::Room { deadline, .. }
            | Waiting::Power { deadline, .. }
            | Waiting::Answer { deadline, .. }
            | Waiting::Vcpus { deadline, .. }
            | Waiting::Restarted { deadline, .. } => *deadline,
            Waiting::Device(wait) => wait.deadline,
            Waiting::Survey(survey) => survey.deadline,
            Waiting::Memory(memory) => memory.deadline,
            Waiting::Top(top) => top.next_at,
            Waiting::Terminal { .. } => u64::MAX,
        }
    }

    /// Looks whether it is over; `None` while it is not.
    pub fn poll<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>) -> Option<Result<(), Fault>> {
        let now = context.plane.hypervisor.clock();
        let late = now >= self.deadline();
        match self {
            Waiting::Ended { endings, .. } => ended(context, endings, late),
            Waiting::Memory(memory) => memory.poll(context, late),
            Waiting::Device(wait) => wait.poll(context, late),
            Waiting::Survey(survey) => survey.poll(context, late),
            Waiting::Answer { request, .. } => answered(context, *request, late),
            Waiting::Vcpus { request, vcpus, .. } => {
                let answer = answered(context, *request, late)?;
                if answer.is_ok() {
                    context.plane.vcpus_used(request.domain, *vcpus);
                }
                Some(answer)
            }
            Waiting::Restarted { domain, name, begin, json, .. } => {
                match context.plane.domain(*domain).map(|domain| (domain.phase, domain.started_ns)) {
                    Some((Phase::Restarting(_), _)) => late.then(|| {
                        let text = "its memory is still being scrubbed: `list` shows when it runs";
                        Err(Fault::from(format!("{name}: {text}")))
                    }),
                    // The supervisor has told it to whoever reads text.
                    Some((Phase::Running, _)) if !*json => Some(Ok(())),
                    Some((Phase::Running, at)) => {
                        Some(act::restarted(context, name, *domain, at.saturating_sub(*begin), true))
                    }
                    _ => Some(Err(Fault::from(format!("{name}: it does not run again")))),
                }
            }
            Waiting::Reaped { .. } if context.plane.all_reaped() => Some(Ok(())),
            Waiting::Reaped { .. } if late => {
                let text = "the core is still taking the domain apart: `info` shows when its memory is back";
                Some(Err(Fault::from(text.to_string())))
            }
            Waiting::Room { create, deadline } if late || context.plane.all_reaped() => {
                match act::create_before(context, create, *deadline) {
                    Ok(Flow::Done) => Some(Ok(())),
                    Ok(Flow::Wait(next)) => {
                        *self = next;
                        None
                    }
                    Err(fault) => Some(Err(fault)),
                }
            }
            Waiting::Top(top) if late => top.poll(context),
            Waiting::Terminal { domain } => {
                let gone = context.plane.domain(*domain).is_none();
                (context.plane.take_terminal_returned() || gone).then_some(Ok(()))
            }
            Waiting::Reaped { .. } | Waiting::Room { .. } | Waiting::Top(_) | Waiting::Power { .. } => None,
        }
    }
}

fn answered<H: Hypervisor>(
    context: &mut Context<'_, '_, H>,
    request: Request,
    late: bool,
) -> Option<Result<(), Fault>> {
    match context.plane.answer(request) {
        Some(answer) => Some(answer.map(|_| ()).map_err(|reason| Fault::from(format!("it refuses: {reason}")))),
        None => late.then(|| Err(Fault::from("it does not answer".to_string()))),
    }
}

fn ended<H: Hypervisor>(
    context: &mut Context<'_, '_, H>,
    endings: &mut Vec<Ending>,
    late: bool,
) -> Option<Result<(), Fault>> {
    for ending in endings.iter() {
        if let Some(Err(reason)) = context.plane.answer(ending.request) {
            return Some(Err(Fault::from(format!("{}: it refuses: {reason}", ending.name))));
        }
    }
    endings.retain(|ending| match context.plane.domain(ending.request.domain) {
        None => false,
        Some(domain) if domain.started_ns != ending.started_ns => false,
        Some(domain) => match domain.phase {
            Phase::Running => true,
            Phase::Waiting(_) | Phase::Restarting(_) => ending.again,
            Phase::Kept | Phase::Quarantined => false,
        },
    });
    if endings.is_empty() {
        return Some(Ok(()));
    }
    let left = |ending: &Ending| format!("{0}: it has not ended in time: `destroy {0}` ends it", ending.name);
    late.then(|| Err(Fault::from(endings.iter().map(left).collect::<Vec<_>>().join("\n"))))
}

impl Memory {
    fn poll<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>, late: bool) -> Option<Result<(), Fault>> {
        let wanted = size::mib(self.pages);
        let cannot =
            |reason: &str| Some(Err(Fault::from(format!("{}: it cannot do with {wanted}: {reason}", self.name))));
        match context.plane.answer(self.request) {
            Some(Ok(_)) => {
                let set = context.plane.hypervisor.domain_set_memory(self.handle, self.pages, self.max);
                set.map_or_else(|_| cannot("it uses more again"), |()| Some(Ok(())))
            }
            Some(Err(reason)) => cannot(&reason),
            None if context.plane.domain(self.request.domain).is_none() => cannot("it has ended"),
            None if late => cannot("it does not answer"),
            None => None,
        }
    }
}

/// `top`: snapshots of CPU use, each over an interval.
#[derive(Debug)]
pub struct Top {
    left: u32,
    interval_ns: u64,
    json: bool,
    next_at: u64,
    before: Snapshot,
}

#[derive(Debug)]
struct Snapshot {
    at: u64,
    idle_ns: u64,
    cpu_ns: Vec<(u16, u32, u64)>,
}

#[derive(Serialize)]
struct TopView {
    interval_ns: u64,
    cpus: usize,
    used_percent: f64,
    domains: Vec<DomainView>,
}

impl Top {
    /// Takes the first look.
    pub fn begin<H: Hypervisor>(
        context: &mut Context<'_, '_, H>,
        count: u32,
        interval_ns: u64,
        json: bool,
    ) -> Result<Top, Fault> {
        let (before, _) = look(context)?;
        Ok(Top { left: count, interval_ns, json, next_at: before.at.saturating_add(interval_ns), before })
    }

    fn poll<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>) -> Option<Result<(), Fault>> {
        let shown = self.show(context);
        self.left -= 1;
        match shown {
            Ok(()) if self.left > 0 => None,
            outcome => Some(outcome),
        }
    }

    fn show<H: Hypervisor>(&mut self, context: &mut Context<'_, '_, H>) -> Result<(), Fault> {
        let (now, mut view) = look(context)?;
        let elapsed = now.at.saturating_sub(self.before.at).max(1);
        let percent = |ns: u64| (ns as f64 / elapsed as f64 * 1000.0) as u64 as f64 / 10.0;
        for domain in &mut view.domains {
            let key = (domain.id, domain.incarnation);
            let before = self.before.cpu_ns.iter().find(|(id, incarnation, _)| (*id, *incarnation) == key);
            let used = domain.cpu_ns.saturating_sub(before.map_or(0, |(.., ns)| *ns));
            domain.cpu_percent = percent(used);
        }
        let idle = percent(now.idle_ns.saturating_sub(self.before.idle_ns));
        view.used_percent = (view.cpus as f64 * 100.0 - idle).max(0.0);
        view.interval_ns = elapsed;
        view.domains.sort_by(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
        self.next_at = now.at.saturating_add(self.interval_ns);
        self.before = now;
        if self.json {
            return context.json(&view).map(|_: Flow| ());
        }
        context.say(&format!("{} CPUs, {:.1}% of {}% used", view.cpus, view.used_percent, view.cpus * 100));
        let mut table = Table::new(&["Name", ">ID", "State", ">CPU(%)", ">Time(s)", ">Mem", ">VCPUs", ">Hypercalls"]);
        for domain in view.domains {
            table.row([
                domain.name,
                domain.id.to_string(),
                domain.state,
                format!("{:.1}", domain.cpu_percent),
                seconds(domain.cpu_ns),
                mib(domain.memory_bytes),
                domain.vcpus_used.to_string(),
                domain.hypercalls.to_string(),
            ]);
        }
        context.out.push_str(&table.text());
        Ok(())
    }
}

fn look<H: Hypervisor>(context: &mut Context<'_, '_, H>) -> Result<(Snapshot, TopView), Fault> {
    let machine = view::machine(context.plane)?;
    let ids = view::ids(context.plane);
    let domains = view::domains(context.plane, context.samples, &ids)?;
    let cpu_ns = domains.iter().map(|domain| (domain.id, domain.incarnation, domain.cpu_ns)).collect();
    let at = context.plane.hypervisor.clock();
    let snapshot = Snapshot { at, idle_ns: machine.idle_ns.iter().sum(), cpu_ns };
    Ok((snapshot, TopView { interval_ns: 0, cpus: machine.idle_ns.len(), used_percent: 0.0, domains }))
}
