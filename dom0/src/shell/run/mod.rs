//! Carries commands out: looking in [`show`] and [`survey`], doing in [`act`] and [`devices`], and what takes time in
//! [`wait`].

mod act;
mod devices;
mod show;
mod survey;
pub mod wait;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use super::args::{Args, Fault};
use super::commands::{self, Verb};
use super::view::Samples;
use super::words;
use crate::config::{Role, shown, suggest};
use crate::hypervisor::Hypervisor;
use crate::plane::Plane;
use wait::Waiting;

/// What a command works with.
pub struct Context<'s, 'b, H: Hypervisor> {
    /// The control plane.
    pub plane: &'s mut Plane<'b, H>,
    /// CPU use seen last.
    pub samples: &'s mut Samples,
    /// What is printed.
    pub out: &'s mut String,
}

/// How a command goes on.
#[derive(Debug)]
pub enum Flow {
    /// It is through.
    Done,
    /// It waits.
    Wait(Waiting),
}

/// The outcome of a command.
pub type Outcome = Result<Flow, Fault>;

/// Carries a command line with one command out.
pub fn run<H: Hypervisor>(context: &mut Context<'_, '_, H>, line: &str) -> Outcome {
    let usage = |text: String| Fault { status: super::args::USAGE, text };
    let mut words = words::words(line).ok_or_else(|| usage("a quote is left open: close it".to_owned()))?.into_iter();
    let mut name = words.next();
    if matches!(name.as_deref(), Some("xl" | "xm")) {
        // Fingers that know Xen type it before every command.
        name = words.next().or(name);
    }
    let Some(name) = name else { return Ok(Flow::Done) };
    let command = commands::find(&name).ok_or_else(|| {
        let cure = match commands::meant(&name) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`help` lists the commands".to_owned(),
        };
        usage(format!("{}: unknown command; {cure}", shown(&name)))
    })?;
    let args = Args::parse(command, words.collect())?;
    match command.verb {
        Verb::List => show::list(context, &args),
        Verb::Info => show::info(context, &args),
        Verb::VcpuList => show::vcpu_list(context, &args),
        Verb::Top => show::top(context, &args),
        Verb::Uptime => show::uptime(context, &args),
        Verb::Dmesg => show::dmesg(context, &args),
        Verb::Help => show::help(context, &args),
        Verb::Create => act::create(context, &args),
        Verb::Destroy => act::destroy(context, &args),
        Verb::Shutdown => act::end(context, &args, false),
        Verb::Reboot => act::end(context, &args, true),
        Verb::Pause => act::pause(context, &args, true),
        Verb::Unpause => act::pause(context, &args, false),
        Verb::Restart => act::restart(context, &args),
        Verb::Console => act::console(context, &args),
        Verb::MemSet => act::mem_set(context, &args),
        Verb::MemMax => act::mem_max(context, &args),
        Verb::Sched => act::sched(context, &args),
        Verb::VcpuPin => act::vcpu_pin(context, &args),
        Verb::VcpuSet => act::vcpu_set(context, &args),
        Verb::Kill => devices::kill(context, &args),
        Verb::Arm => devices::arm(context, &args),
        Verb::Upgrade => devices::upgrade(context, &args),
        Verb::Disks => survey::begin(context, &args, Role::Disk),
        Verb::Net => survey::begin(context, &args, Role::Network),
        Verb::BlockAttach => devices::block_attach(context, &args),
        Verb::NetworkAttach => devices::network_attach(context, &args),
        Verb::BlockDetach => devices::detach(context, &args, Role::Disk),
        Verb::NetworkDetach => devices::detach(context, &args, Role::Network),
        Verb::BlockList => devices::list(context, &args, Role::Disk),
        Verb::NetworkList => devices::list(context, &args, Role::Network),
        Verb::PciList => show::pci_list(context, &args),
        Verb::Poweroff => act::poweroff(context, &args),
    }
}

impl<H: Hypervisor> Context<'_, '_, H> {
    /// The domain of this name, or a fault that names the nearest.
    fn find(&self, name: &str) -> Result<u16, Fault> {
        let found = self.plane.find(name);
        found.ok_or_else(|| {
            let names = self.plane.names();
            let cure = match suggest::nearest(name, names.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "`list` shows all".to_owned(),
            };
            Fault::from(format!("{}: there is no such domain; {cure}", shown(name)))
        })
    }

    /// The domains named, or all if none is.
    fn find_all(&self, names: &[String]) -> Result<Vec<u16>, Fault> {
        match names {
            [] => Ok(super::view::ids(self.plane)),
            names => names.iter().map(|name| self.find(name)).collect(),
        }
    }

    /// Prints a line.
    fn say(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// Prints JSON.
    fn json(&mut self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(value).map_err(|error| Fault::from(format!("cannot print this: {error}")))?;
        self.say(&text);
        Ok(Flow::Done)
    }
}
