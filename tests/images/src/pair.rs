//! Two actors that are connected with each other, and what is done to them.

use core::time::Duration;

use alloc::format;
use alloc::string::String;

use dom0::image::Image;
use protocol::domain::{MESSAGE_MAX, State};
use protocol::event::Port;
use protocol::grant::PEER_FIRST_FREE;
use unikernel::{domain, time};

use crate::child::{Child, Fuse, Stop, spec, to_the_end};
use crate::random::Random;
use crate::{Context, Outcome};

/// Memory of an actor: 3 MiB.
const MEMORY_PAGES: u64 = 768;
/// What an actor needs beside what it uses, in pages: buffers of its tasks come and go.
const SPARE_PAGES: u64 = 64;
/// Longest pause.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a restarted actor may wait for frames that its partner still has mapped.
const FRAMES_TIME: Duration = Duration::from_secs(20);

/// How often each thing was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Pauses.
    pub pauses: u64,
    /// Changes of the memory set aside.
    pub memory: u64,
    /// Restarts in place.
    pub restarts: u64,
    /// Pairs destroyed.
    pub destroyed: u64,
}

/// An actor, and how it is started.
struct Actor {
    child: Child,
    port: Port,
}

/// The pair.
pub struct Pair {
    actors: [Actor; 2],
}

impl Pair {
    /// Makes both, connects and starts them.
    pub fn make(image: &Image<'_>, random: &mut Random) -> Outcome<Pair> {
        let create = || match Child::create(&spec("actor", MEMORY_PAGES), &mut Fuse::new(1)) {
            Ok(child) => Ok(child),
            Err(stop) => Err(format!("making an actor: {stop:?}")),
        };
        let (one, two) = (create()?, create()?);
        one.handle.set_peer(PEER_FIRST_FREE, &two.handle, false).context("domain_peer")?;
        two.handle.set_peer(PEER_FIRST_FREE, &one.handle, false).context("domain_peer")?;
        let (first, second) = domain::connect(&one.handle, &two.handle).context("event_connect")?;
        let pair = Pair { actors: [Actor { child: one, port: first }, Actor { child: two, port: second }] };
        pair.actors
            .iter()
            .try_for_each(|actor| actor.start(image, random).map_err(|stop| format!("starting an actor: {stop:?}")))?;
        Ok(pair)
    }

    /// Does something to one of them, or to both.
    pub async fn disturb(&mut self, image: &Image<'_>, random: &mut Random, tally: &mut Tally) -> Outcome {
        let actor = &self.actors[random.below(2) as usize];
        match random.below(20) {
            0..10 => {
                tally.pauses += 1;
                let handle = actor.child.handle;
                to_the_end(|| handle.pause()).context("domain_pause")?;
                time::sleep(Duration::from_nanos(random.below(PAUSE.as_nanos() as u64))).await;
                handle.unpause().context("domain_unpause")?;
            }
            10..14 => {
                tally.memory += 1;
                actor.resize(random)?;
            }
            14..18 => {
                tally.restarts += 1;
                actor.restart(image, random).await?;
            }
            _ => {
                tally.destroyed += 1;
                let next = Pair::make(image, random)?;
                core::mem::replace(self, next).destroy()?;
            }
        }
        Ok(())
    }

    /// Both must run.
    pub fn check(&self) -> Outcome {
        self.actors.iter().try_for_each(|actor| {
            let info = actor.child.handle.info().context("domain_info")?;
            if info.state == State::Running as u32 { Ok(()) } else { Err(format!("an actor {}", actor.obituary())) }
        })
    }

    /// Takes both apart.
    pub fn destroy(self) -> Outcome {
        self.actors.into_iter().try_for_each(|actor| actor.child.destroy())
    }
}

impl Actor {
    fn start(&self, image: &Image<'_>, random: &mut Random) -> Result<(), Stop> {
        let fuse = &mut Fuse::new(u64::MAX);
        // Tags have 22 bits and are never 0.
        let line = format!("tag={} port={}", random.below((1 << 22) - 1) + 1, self.port.0);
        self.child.load(image, &line, fuse)?;
        self.child.start(image, fuse)
    }

    async fn restart(&self, image: &Image<'_>, random: &mut Random) -> Outcome {
        let deadline = time::after(FRAMES_TIME);
        let handle = self.child.handle;
        // It gets all its memory back first: it may have been made smaller than its image.
        handle.set_memory(MEMORY_PAGES, MEMORY_PAGES).context("domain_set_memory")?;
        loop {
            to_the_end(|| handle.reset(false)).context("domain_reset")?;
            match self.start(image, random) {
                Ok(()) => return Ok(()),
                Err(stop) if time::now() >= deadline => return Err(format!("restarting an actor: {stop:?}")),
                // Frames that the partner has mapped still count; it will let go of them.
                Err(_) => time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Sets aside any number of frames between what it uses, and a little, and what it began with.
    fn resize(&self, random: &mut Random) -> Outcome {
        let handle = self.child.handle;
        // Paused: it must not use up the little in between.
        to_the_end(|| handle.pause()).context("domain_pause")?;
        let least = handle.info().context("domain_info")?.used_pages + SPARE_PAGES;
        let pages = least + random.below(MEMORY_PAGES.saturating_sub(least) + 1);
        handle.set_memory(pages.min(MEMORY_PAGES), MEMORY_PAGES).context("domain_set_memory")?;
        handle.unpause().context("domain_unpause")
    }

    fn obituary(&self) -> String {
        obituary(&self.child)
    }
}

/// How a child has died, in words.
pub fn obituary(child: &Child) -> String {
    let Ok(report) = child.handle.death() else { return "has left no report".into() };
    let length = (report.message_length as usize).min(MESSAGE_MAX);
    let message = core::str::from_utf8(&report.message[..length]).unwrap_or("?");
    format!(
        "has died: reason {}, code {}, vector {}, rip {:#x}, address {:#x}: {message}",
        report.reason, report.code, report.vector, report.rip, report.address
    )
}
