//! Domains made and unmade step by step, so that a test can stop after any of the steps.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use dom0::builder::STACK_PAGES;
use dom0::image::Image;
use protocol::arguments::{ARGUMENTS_MAX, BootArguments, encode_arguments};
use protocol::domain::{DomainCreated, DomainSpec, SchedParams};
use protocol::error::Error;
use protocol::event::Port;
use protocol::grant::{REF_CONTROL_IN, REF_CONTROL_OUT};
use protocol::hypercall::protection;
use protocol::layout::{ARGUMENTS, PAGE_SIZE, VCPU_AREA_SIZE, VCPU_AREAS};
use unikernel::domain::{self, DomainHandle};
use unikernel::event;
use unikernel::grant::{Access, Mapped, Source, map};

use crate::Outcome;

/// Memory of a child unless a test says otherwise: 4 MiB.
pub const MEMORY_PAGES: u64 = 1024;
/// Bytes of an image written in one step.
const WRITE_STEP: usize = 32768;

/// Why building stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many steps were done as the [`Fuse`] allows.
    Burnt,
    /// A step failed.
    Failed(String),
}

/// Lets so many steps pass.
#[derive(Clone, Debug)]
pub struct Fuse {
    left: u64,
    done: u64,
}

impl Fuse {
    /// Burns after `steps`.
    pub fn new(steps: u64) -> Fuse {
        Fuse { left: steps, done: 0 }
    }

    /// Steps that were done.
    pub fn done(&self) -> u64 {
        self.done
    }

    fn step<T>(&mut self, what: &str, step: impl FnOnce() -> Result<T, Error>) -> Result<T, Stop> {
        if self.left == 0 {
            return Err(Stop::Burnt);
        }
        self.left -= 1;
        self.done += 1;
        step().map_err(|error| Stop::Failed(format!("{what}: {error:?}")))
    }
}

/// Repeats a call that the core cuts into slices. Others get their turn by the scheduler's will only, so that a busy machine
/// does not make a control plane slow.
pub fn to_the_end<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match call() {
            Err(Error::Again) => {}
            done => return done,
        }
    }
}

/// What a child is made with.
pub fn spec(name: &str, memory_pages: u64) -> DomainSpec {
    DomainSpec {
        name: protocol::name(name),
        memory_pages,
        max_pages: memory_pages,
        vcpus: 1,
        grant_frames: 1,
        max_mappings: 64,
        retained_pages: 1,
        guest_grant_frames: 0,
        large_pages: 0,
        schedule: SchedParams::default(),
    }
}

/// A child of this domain.
#[derive(Debug)]
pub struct Child {
    /// Names it.
    pub handle: DomainHandle,
    /// What the core said about it.
    pub created: DomainCreated,
    /// Its control rings, in and out, once they were mapped.
    pub rings: Option<(Mapped, Mapped)>,
    /// This domain's port to it, once it was connected.
    pub port: Option<Port>,
}

impl Child {
    /// Makes it, empty.
    pub fn create(spec: &DomainSpec, fuse: &mut Fuse) -> Result<Child, Stop> {
        let (handle, created) = fuse.step("domain_create", || to_the_end(|| domain::create(spec)))?;
        Ok(Child { handle, created, rings: None, port: None })
    }

    /// Maps its control rings.
    pub fn map_rings(&mut self, fuse: &mut Fuse) -> Result<(), Stop> {
        let ring = |reference| map(Source { peer: self.created.id, reference }, Access::Write);
        let inward = fuse.step("mapping the inward ring", || ring(REF_CONTROL_IN))?;
        let outward = fuse.step("mapping the outward ring", || ring(REF_CONTROL_OUT))?;
        self.rings = Some((inward, outward));
        Ok(())
    }

    /// Opens an event channel to it.
    pub fn connect(&mut self, fuse: &mut Fuse) -> Result<(), Stop> {
        let (own, _) = fuse.step("event_connect", || domain::connect(&DomainHandle::SELF, &self.handle))?;
        self.port = Some(own);
        Ok(())
    }

    /// Fills it with an image, a stack and its arguments.
    pub fn load(&self, image: &Image<'_>, command_line: &str, fuse: &mut Fuse) -> Result<(), Stop> {
        for segment in &image.segments {
            let (address, pages, access) = (segment.address, segment.pages, segment.protection);
            fuse.step("populating the image", || to_the_end(|| self.handle.populate(address, pages, access)))?;
            for (index, part) in segment.bytes.chunks(WRITE_STEP).enumerate() {
                let address = segment.address + (index * WRITE_STEP) as u64;
                fuse.step("writing the image", || to_the_end(|| self.handle.write(address, part)))?;
            }
        }
        let stack = VCPU_AREAS + VCPU_AREA_SIZE - STACK_PAGES * PAGE_SIZE;
        fuse.step("populating the stack", || {
            to_the_end(|| self.handle.populate(stack, STACK_PAGES, protection::WRITE))
        })?;
        self.write_arguments(command_line, fuse)
    }

    fn write_arguments(&self, command_line: &str, fuse: &mut Fuse) -> Result<(), Stop> {
        let command_line = command_line.try_into().map_err(|_| Stop::Failed("the command line is too long".into()))?;
        let mut page = Box::new([0; ARGUMENTS_MAX]);
        let used =
            encode_arguments(&BootArguments { command_line, ..BootArguments::default() }, &mut page).unwrap_or(0);
        fuse.step("writing the arguments", || self.handle.write(ARGUMENTS, &page[..used]))
    }

    /// Starts it.
    pub fn start(&self, image: &Image<'_>, fuse: &mut Fuse) -> Result<(), Stop> {
        fuse.step("domain_start", || self.handle.start(image.entry, 0))
    }

    /// Takes it apart, and everything this domain had for it.
    pub fn destroy(self) -> Outcome {
        let failed = |what: &str, error: Error| format!("{what} of domain {}: {error:?}", self.created.id);
        to_the_end(|| self.handle.destroy()).map_err(|error| failed("destroy", error))?;
        for port in self.port.into_iter().chain([Port(self.created.control_port)]) {
            event::close(port).map_err(|error| failed("closing a port", error))?;
        }
        Ok(())
    }
}
