//! A backend on the machine itself: retained memory, ports, and the event loop.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::time::Duration;

use heapless::Vec;
use protocol::error::Result;
use protocol::event::Port;
use protocol::grant::MAX_BATCH;
use protocol::heartbeat;
use protocol::layout::{HEARTBEAT, PAGE_SIZE, RETAINED};

use super::table::BEAT_NS;
use super::{Backend, DevicePages, Machine, Service, Wanted};
use crate::area::Area;
use crate::control::{self, Reply};
use crate::event::{self, AnyPort, Channel};
use crate::executor::{Signal, race, spawn, yield_now};
use crate::grant::{Access, Copies, DevicePage, Mapped, Source, map, map_for_device, unmap_for_device};
use crate::{Domain, time};

/// The machine that the domain runs on.
#[derive(Debug)]
pub struct Native {
    /// Bytes of a connection's place in retained memory.
    place: usize,
    places: usize,
    heartbeat: Area,
}

impl Native {
    /// Retained memory in places of `record` bytes, as many as fit, and no more than the word `connections=` says; none if they
    /// have no size.
    pub fn new(domain: &Domain, record: usize) -> Native {
        #[cfg(feature = "mutants")]
        if let Some(mutant) = domain.word("mutant").and_then(protocol::mutant::Mutant::named) {
            protocol::mutant::select(mutant);
        }
        let retained = domain.info.spec.retained_pages as usize * PAGE_SIZE as usize;
        let place = record.next_multiple_of(8);
        let wanted = domain.word("connections").and_then(|word| word.parse().ok()).unwrap_or(usize::MAX);
        // SAFETY: the core maps the page in every domain for its whole life, and no object is in it.
        let heartbeat = unsafe { Area::page(HEARTBEAT) };
        Native { place, places: retained.checked_div(place).unwrap_or(0).min(wanted).min(u16::MAX as usize), heartbeat }
    }
}

impl Machine for Native {
    type Page = Mapped;
    type Record = Area;

    fn map(&self, source: Source) -> Result<Mapped> {
        map(source, Access::Write)
    }

    fn places(&self) -> usize {
        self.places
    }

    fn record(&self, connection: u16, offset: usize, bytes: usize) -> Area {
        let inside = (offset | bytes).is_multiple_of(8) && offset + bytes <= self.place;
        assert!((connection as usize) < self.places && inside, "a record beyond retained memory");
        let address = RETAINED + (connection as usize * self.place + offset) as u64;
        // SAFETY: the core maps retained memory for the whole life of the domain, no object is in it, and the range is
        // inside: `places` was computed from its size.
        unsafe { Area::new(address, bytes) }
    }

    fn pulse(&self, at: usize, value: u64) {
        heartbeat::store(&self.heartbeat, at, value);
    }

    fn notify(&self, port: Port) {
        // A frontend that is gone does not hear it, which dom0 learns elsewhere.
        let _ = event::send(port);
    }

    fn fired(&self, channel: &Channel) -> bool {
        channel.fired()
    }

    fn now(&self) -> u64 {
        time::now()
    }

    fn die(&self) {
        crate::provoke::illegal_instruction();
    }
}

impl DevicePages for Native {
    fn map_pages(&self, wanted: &[Wanted], found: &mut Vec<Result<DevicePage>, MAX_BATCH>) {
        map_for_device(wanted.iter().map(|page| (page.source, page.access)), found);
    }

    fn unmap_pages(&self, mappings: &[u32]) {
        unmap_for_device(mappings);
    }

    fn copy(&self, from: Source, buffer: &mut [u8]) -> Result<()> {
        let mut copies = Copies::new();
        copies.read(from, 0, buffer)?;
        copies.run()
    }
}

/// Runs a driver domain until its control channel ends.
pub async fn run<S: Service<Machine = Native> + 'static>(machine: Native, service: S, timeout: u64) {
    let backend = Rc::new(RefCell::new(Backend::<S, Reply>::new(machine, service, timeout)));
    let (changed, mail) = (Rc::new(Signal::default()), Rc::new(Signal::default()));
    spawn(answer(backend.clone(), changed.clone()));
    spawn(post(backend.clone(), mail.clone()));
    spawn(tick(changed.clone()));
    let any = AnyPort::default();
    loop {
        let (more, letters, again) = {
            let mut backend = backend.borrow_mut();
            let more = backend.turn();
            (more, backend.has_mail(), if more { None } else { backend.look_again() })
        };
        if letters {
            mail.raise();
        }
        let event = race(any.wait(), changed.wait());
        match again {
            _ if more => yield_now().await,
            None => event.await,
            Some(span) => race(event, time::sleep(span)).await,
        }
    }
}

/// Obeys dom0.
async fn answer<S: Service<Machine = Native>>(backend: Rc<RefCell<Backend<S, Reply>>>, changed: Rc<Signal>) {
    control::serve_later(|message, reply| {
        changed.raise();
        backend.borrow_mut().obey(message, reply)
    })
    .await;
}

/// Sends what is for dom0, which may take its time.
async fn post<S: Service<Machine = Native>>(backend: Rc<RefCell<Backend<S, Reply>>>, mail: Rc<Signal>) {
    loop {
        let next = backend.borrow_mut().mail();
        let sent = match next {
            None => {
                mail.wait().await;
                continue;
            }
            Some((None, message)) => control::report(message).await,
            Some((Some(reply), message)) => reply.give(message).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Wakes the event loop now and then, for its beat.
async fn tick(changed: Rc<Signal>) {
    loop {
        time::sleep(Duration::from_nanos(BEAT_NS)).await;
        changed.raise();
    }
}
