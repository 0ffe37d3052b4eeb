//! Create and destroy, each as a whole or not at all; pause.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write;

use protocol::domain::CLASS_DRIVER;
use protocol::error::Error;
use protocol::grant::{REF_CONTROL_IN, REF_CONTROL_OUT};
use protocol::handle::Handle;

use super::domain::{Domain, Phase, Wire};
use super::restart::FIRST_SLICES;
use super::{DOM0_NAME, Dying, Plane};
use crate::builder;
use crate::channel::Channel;
use crate::config::{self, Config};
use crate::guest::Files;
use crate::hypervisor::Hypervisor;
use crate::image::Image;

/// A domain was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What in its configuration has no effect.
    pub warnings: Vec<String>,
    /// ns it took, reading the configuration included.
    pub took_ns: u64,
}

/// Why something could not be done, line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// What had no effect but did no harm.
    pub warnings: Vec<String>,
    /// What went wrong, and the cure.
    pub lines: Vec<String>,
}

impl From<String> for Failure {
    fn from(line: String) -> Failure {
        Failure { warnings: Vec::new(), lines: alloc::vec![line] }
    }
}

impl<'b, H: Hypervisor> Plane<'b, H> {
    /// Creates a domain from a configuration named `file`, with `overrides` laid over it.
    pub fn create(&mut self, file: &str, text: &str, overrides: &[String], paused: bool) -> Result<Created, Failure> {
        let begin = self.hypervisor.clock();
        let parsed = config::parse(file, text, overrides).map_err(|problems| Failure {
            lines: problems.iter().map(ToString::to_string).collect(),
            ..Failure::default()
        })?;
        let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        let name = parsed.config.name.clone();
        match self.create_from(parsed.config, paused) {
            Ok(id) => Ok(Created { id, name, warnings, took_ns: self.hypervisor.clock().saturating_sub(begin) }),
            Err(line) => Err(Failure { warnings, lines: alloc::vec![line] }),
        }
    }

    /// Creates a domain from a configuration that was checked; gives its id.
    pub fn create_from(&mut self, config: Config, paused: bool) -> Result<u16, String> {
        Files::find(&self.bundle, &config)?;
        let image = self.image(&config)?;
        if self.find(&config.name).is_some() {
            return Err(format!("{0}: there is a domain of this name: destroy it, or pass name=OTHER", config.name));
        }
        for other in &config.connect {
            if other == DOM0_NAME || self.find(other).is_none() {
                return Err(format!("{}: connect: there is no domain {other}: create it first", config.name));
            }
        }
        self.check_room(&config).map_err(|text| format!("{}: {text}", config.name))?;
        let named = |error: builder::BuildError| format!("{}: {}", config.name, error.text);
        let created = builder::create(&mut self.hypervisor, &builder::spec(&config)).map_err(named)?;
        let mut domain = Domain::new(config, &created, self.hypervisor.clock());
        match self.assemble(&mut domain, &image, paused) {
            Ok(()) => {
                let id = domain.id;
                self.domains.push(domain);
                self.adopt(id);
                if let Err(text) = self.add_devices(id) {
                    self.destroy(id)?;
                    return Err(text);
                }
                self.exchange();
                Ok(id)
            }
            Err(text) => {
                let text = format!("{}: {text}", domain.name());
                self.dismantle(domain);
                Err(text)
            }
        }
    }

    /// The image of a guest that can run here.
    pub(super) fn image(&self, config: &Config) -> Result<Image<'b>, String> {
        let image = config.image();
        let Some(bytes) = self.bundle.file(&format!("images/{image}")) else {
            let known = self.bundle.names("images", "").join(" ");
            return Err(format!("{}: there is no image {image} in the bundle: choose among {known}", config.name));
        };
        Image::parse(bytes).map_err(|fault| format!("{}: image {image} {fault}: build it anew", config.name))
    }

    /// Everything between create and the first instruction.
    fn assemble(&mut self, domain: &mut Domain<H::Page>, image: &Image<'b>, paused: bool) -> Result<(), String> {
        builder::pin(&mut self.hypervisor, domain.handle, &domain.config).map_err(|error| error.text)?;
        self.wire_console(domain)?;
        self.give_devices(domain)?;
        self.give_ports(domain);
        self.give_interrupts(domain);
        let mut line = domain.config.command_line.clone();
        for index in 0..domain.config.connect.len() {
            self.connect(domain, index, &mut line)?;
        }
        domain.arguments.command_line = heapless::String::try_from(line.as_str())
            .map_err(|_| "the command line with its connections is too long: shorten `cmdline`".to_string())?;
        domain.arguments.console = domain.console.map(|wire| wire.own);
        self.run(domain, image, paused)
    }

    /// Loads and starts a domain in building, and tells whoever waits for it.
    pub(super) fn run(&mut self, domain: &mut Domain<H::Page>, image: &Image<'b>, paused: bool) -> Result<(), String> {
        let kept = domain.image.take().is_some();
        let hypervisor = &mut self.hypervisor;
        if let Some(files) = Files::find(&self.bundle, &domain.config)? {
            let placed = files.place(hypervisor, domain.handle, &domain.config);
            domain.arguments.guest = Some(placed.map_err(|error| error.text)?);
        }
        builder::load(hypervisor, domain.handle, image, kept, &domain.arguments).map_err(|error| error.text)?;
        let inward =
            hypervisor.map(domain.id, REF_CONTROL_IN, true).map_err(|error| format!("no control channel: {error}"))?;
        match hypervisor.map(domain.id, REF_CONTROL_OUT, true) {
            Ok(outward) => domain.channel = Some(Channel::new(inward, outward)),
            Err(error) => {
                hypervisor.unmap(inward);
                return Err(format!("no control channel: {error}"));
            }
        }
        if domain.config.class == CLASS_DRIVER {
            self.watch(domain);
        }
        self.announce_to_console(domain);
        if paused {
            let paused = builder::retry(|| self.hypervisor.domain_pause(domain.handle));
            paused.map_err(|error| format!("cannot be paused: {error}"))?;
        }
        // Told before the start, so that the messages lie in its ring when its first instruction runs.
        self.announce_wires(domain);
        domain.ready = false;
        domain.vcpus_used = domain.config.vcpus;
        domain.phase = Phase::Running;
        domain.started_ns = self.hypervisor.clock();
        builder::start(&mut self.hypervisor, domain.handle, image).map_err(|error| error.text)
    }

    /// Opens a channel between a new domain and the one its configuration names.
    fn connect(&mut self, domain: &Domain<H::Page>, index: usize, line: &mut String) -> Result<(), String> {
        let name = domain.config.connect.get(index).cloned().unwrap_or_default();
        let failed = |error: Error| format!("cannot be connected to {name}: {error}");
        let other =
            self.domains.iter_mut().find(|other| other.name() == name).ok_or_else(|| failed(Error::NotFound))?;
        self.hypervisor.domain_peer(domain.handle, other.id, other.handle, false).map_err(failed)?;
        self.hypervisor.domain_peer(other.handle, domain.id, domain.handle, false).map_err(failed)?;
        let (own, theirs) = self.hypervisor.event_connect(domain.handle, other.handle).map_err(failed)?;
        let wire = Wire { peer: domain.id, own: theirs, theirs: own };
        other.wires.push(wire);
        if let Some(channel) = &mut other.channel {
            channel.send(super::requests::connected(domain.name(), wire));
        }
        let _ = write!(line, " connect={name}:{}:{}", own.0, other.id);
        Ok(())
    }

    /// Destroys a domain. It is out of every list at once; [`Plane::all_reaped`] tells when nothing is left of it.
    pub fn destroy(&mut self, id: u16) -> Result<(), String> {
        if self.is_console(id) {
            return Err("console: it carries this shell: `restart console` starts it anew".to_owned());
        }
        let index = self.domains.iter().position(|domain| domain.id == id);
        let index = index.ok_or_else(|| format!("{DOM0_NAME}: it cannot be destroyed: `poweroff` ends everything"))?;
        let domain = self.domains.remove(index);
        self.dismantle(domain);
        Ok(())
    }

    fn dismantle(&mut self, mut domain: Domain<H::Page>) {
        self.disconnect_console(&domain);
        self.frontend_gone(domain.id);
        self.backend_gone(domain.id);
        for other in &mut self.domains {
            other.wires.retain(|wire| wire.peer != domain.id);
        }
        self.close_channel(&mut domain);
        let (handle, control_port) = (domain.handle, domain.control_port);
        self.dying.push(Dying { handle, control_port, slices: FIRST_SLICES });
        self.exchange();
        self.reap();
    }

    pub(super) fn close_channel(&mut self, domain: &mut Domain<H::Page>) {
        for page in domain.channel.take().map(Channel::into_pages).into_iter().flatten() {
            self.hypervisor.unmap(page);
        }
        if let Some(heart) = domain.heart.take() {
            self.hypervisor.unmap(heart.into_page());
        }
        domain.requests.clear();
    }

    /// Pauses a domain.
    pub fn pause(&mut self, id: u16) -> Result<(), String> {
        let (handle, name) = self.controllable(id, "paused")?;
        if self.is_console(id) {
            return Err("console: it carries this shell, which could not unpause it".to_owned());
        }
        let paused = builder::retry(|| self.hypervisor.domain_pause(handle));
        paused.map_err(|error| format!("{name}: it cannot be paused: {error}"))
    }

    /// Takes one pause back.
    pub fn unpause(&mut self, id: u16) -> Result<(), String> {
        let (handle, name) = self.controllable(id, "unpaused")?;
        let unpaused = self.hypervisor.domain_unpause(handle);
        unpaused.map_err(|error| match error {
            Error::WrongState => format!("{name}: it is not paused"),
            error => format!("{name}: it cannot be unpaused: {error}"),
        })
    }

    fn controllable(&self, id: u16, what: &str) -> Result<(Handle, String), String> {
        match self.domain(id) {
            Some(domain) => Ok((domain.handle, domain.name().to_owned())),
            None => Err(format!("{DOM0_NAME}: it cannot be {what}, it runs this shell")),
        }
    }
}
