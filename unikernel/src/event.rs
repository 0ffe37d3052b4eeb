//! Event channels: from bits in a shared page to tasks that wait.
//!
//! The core sets bits in the event page ([`protocol::event`]); the event loop clears them and counts for each port how often it
//! fired. A [`Channel`] remembers the count it saw last, so nothing is lost between two waits and several tasks can wait for
//! the same port.

use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::{Poll, Waker};

use protocol::error::Result;
use protocol::event::{MASK, PENDING, PORTS, Port, SELECTOR, UPCALL_PENDING, WORDS, vcpu_record};
use protocol::layout::{EVENTS, PAGE_SIZE};

use crate::hypercall::raw;
use crate::vcpu::Mutex;

/// The event page as words.
pub type Words = [AtomicU64; PAGE_SIZE as usize / 8];

/// This domain's page.
fn page() -> &'static Words {
    // SAFETY: the core maps the page in every domain for its whole life, writable; both sides access it by atomic words only.
    unsafe { &*(EVENTS as *const Words) }
}

/// Takes everything that is pending and not masked for `vcpu`. The upcall flag is cleared first: what the core adds from then
/// on raises it again.
pub fn scan(page: &Words, vcpu: u32, mut found: impl FnMut(Port)) {
    let record = vcpu_record(vcpu) / 8;
    page[record + UPCALL_PENDING / 8].store(0, Ordering::SeqCst);
    let mut selector = page[record + SELECTOR / 8].swap(0, Ordering::SeqCst);
    while selector != 0 {
        let word = selector.trailing_zeros() as usize;
        selector &= selector - 1;
        if word >= WORDS {
            continue;
        }
        let masked = page[MASK / 8 + word].load(Ordering::SeqCst);
        let pending = &page[PENDING / 8 + word];
        let mut ready = pending.load(Ordering::SeqCst) & !masked;
        pending.fetch_and(!ready, Ordering::SeqCst);
        while ready != 0 {
            found(Port(word as u32 * 64 + ready.trailing_zeros()));
            ready &= ready - 1;
        }
    }
}

/// What is known about a port.
#[derive(Debug, Default)]
struct Slot {
    fired: u32,
    waiting: Vec<Waker>,
}

impl Slot {
    const fn new() -> Slot {
        Slot { fired: 0, waiting: Vec::new() }
    }

    fn fire(&mut self) {
        self.fired = self.fired.wrapping_add(1);
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn poll(&mut self, seen: &AtomicU32, waker: &Waker) -> bool {
        if seen.swap(self.fired, Ordering::Relaxed) != self.fired {
            return true;
        }
        let known = waker.will_wake(Waker::noop()) || self.waiting.iter().any(|other| other.will_wake(waker));
        if !known {
            self.waiting.push(waker.clone());
        }
        false
    }
}

/// The ports by number, as many as were ever used.
#[derive(Debug, Default)]
pub struct Ports {
    slots: Vec<Slot>,
    /// All of them together.
    any: Slot,
}

impl Ports {
    /// No port known.
    pub const fn new() -> Ports {
        Ports { slots: Vec::new(), any: Slot::new() }
    }

    fn slot(&mut self, port: Port) -> &mut Slot {
        let index = (port.0 as usize).min(PORTS - 1);
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        &mut self.slots[index]
    }

    /// The port fired: everybody who waits for it runs.
    pub fn fire(&mut self, port: Port) {
        self.slot(port).fire();
        self.any.fire();
    }

    /// Whether the port (any port for `None`) fired since `seen`, which is brought up to date; if it did not, `waker` is woken
    /// when it does.
    pub fn poll(&mut self, port: Option<Port>, seen: &AtomicU32, waker: &Waker) -> bool {
        match port {
            Some(port) => self.slot(port).poll(seen, waker),
            None => self.any.poll(seen, waker),
        }
    }
}

static KNOWN: Mutex<Ports> = Mutex::new(Ports::new());

/// Hands what is pending for vCPU 0 to the tasks that wait.
pub(crate) fn dispatch() {
    if page()[(vcpu_record(0) + UPCALL_PENDING) / 8].load(Ordering::Acquire) != 0 {
        let mut known = KNOWN.lock();
        scan(page(), 0, |port| known.fire(port));
    }
}

/// Waits until something is pending for the calling vCPU, or `deadline` has passed.
pub fn block(deadline: u64) {
    // SAFETY: no effect on memory but that of the event page.
    let _ = unsafe { raw::event_wait(deadline) };
}

/// Takes what is pending without the event loop, after [`block`]: for measurements, which no task may disturb. Gives whether
/// `port` was among it; what else fired is kept for the tasks.
pub fn take(port: Port) -> bool {
    let mut found = false;
    scan(page(), crate::vcpu::current(), |fired| match fired == port {
        true => found = true,
        false => KNOWN.lock().fire(fired),
    });
    found
}

/// Sleeps for good; what becomes pending for this vCPU is thrown away.
#[cfg(freestanding)]
pub(crate) fn sleep_forever() -> ! {
    loop {
        scan(page(), crate::vcpu::current(), |_| {});
        block(u64::MAX);
    }
}

/// Where other vCPUs send to wake the event loop; 0 while there is no such channel.
static WAKE_PORT: AtomicU32 = AtomicU32::new(0);

/// Makes the event loop look again if another vCPU than its own calls this.
pub(crate) fn wake_event_loop() {
    let port = WAKE_PORT.load(Ordering::Acquire);
    if port != 0 && crate::vcpu::current() != 0 {
        let _ = send(Port(port));
    }
}

/// Opens the channel that [`wake_event_loop`] uses, before the first other vCPU runs.
pub(crate) fn open_wake_channel() -> Result<()> {
    if WAKE_PORT.load(Ordering::Acquire) == 0 {
        let (port, _) = crate::domain::connect(&crate::domain::DomainHandle::SELF, &crate::domain::DomainHandle::SELF)?;
        WAKE_PORT.store(port.0, Ordering::Release);
    }
    Ok(())
}

/// Makes the peer's end of the channel pending.
#[inline]
pub fn send(port: Port) -> Result<()> {
    // SAFETY: no effect on this domain's memory but that of the event page.
    unsafe { raw::event_send(port.0.into()) }.map(|_| ())
}

/// A channel of the domain to itself whose events go to one of its vCPUs: gives the port to send to, and the one that becomes
/// pending.
pub fn own_channel(vcpu: u32) -> Result<(Port, Port)> {
    let (from, to) = crate::domain::connect(&crate::domain::DomainHandle::SELF, &crate::domain::DomainHandle::SELF)?;
    // SAFETY: no effect on this domain's memory but that of the event page.
    unsafe { raw::event_bind_vcpu(to.0.into(), vcpu.into()) }?;
    Ok((from, to))
}

/// Closes a port; the peer's stays, unconnected.
pub fn close(port: Port) -> Result<()> {
    crate::domain::disconnect(&crate::domain::DomainHandle::SELF, port)
}

async fn fired(port: Option<Port>, seen: &AtomicU32) {
    poll_fn(|context| match KNOWN.lock().poll(port, seen, context.waker()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// All ports of the domain together, for a task that serves many.
#[derive(Debug, Default)]
pub struct AnyPort(AtomicU32);

impl AnyPort {
    /// Waits until some port fires; returns at once if one did since the last wait.
    pub async fn wait(&self) {
        fired(None, &self.0).await;
    }
}

/// An open port.
#[derive(Debug)]
pub struct Channel {
    port: Port,
    seen: AtomicU32,
}

impl Channel {
    /// The open port `port`. What fired before anybody waited for it counts.
    pub const fn new(port: Port) -> Channel {
        Channel { port, seen: AtomicU32::new(0) }
    }

    /// Its number.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Waits until the port fires; returns at once if it did since the last wait.
    pub async fn wait(&self) {
        fired(Some(self.port), &self.seen).await;
    }

    /// Whether the port fired since this, or a wait, was asked last.
    pub fn fired(&self) -> bool {
        KNOWN.lock().poll(Some(self.port), &self.seen, Waker::noop())
    }

    /// Makes the peer's end pending.
    pub fn send(&self) -> Result<()> {
        send(self.port)
    }

    /// Unmasks the port, and the line if it is an interrupt's.
    pub fn unmask(&self) -> Result<()> {
        // SAFETY: as in `send`.
        unsafe { raw::event_unmask(self.port.0.into()) }.map(|_| ())
    }

    /// Masks the port: it becomes pending, but wakes nobody until it is unmasked.
    pub fn mask(&self) {
        let (word, bit) = (self.port.0 as usize / 64, self.port.0 % 64);
        if word < WORDS {
            page()[MASK / 8 + word].fetch_or(1 << bit, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::tests::Count;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn words() -> std::boxed::Box<Words> {
        std::boxed::Box::new([const { AtomicU64::new(0) }; PAGE_SIZE as usize / 8])
    }

    /// What the core does for a send.
    fn set(page: &Words, vcpu: u32, port: u32) {
        let (word, bit) = (port as usize / 64, 1u64 << (port % 64));
        let before = page[word].fetch_or(bit, Ordering::SeqCst);
        if before & bit == 0 && page[MASK / 8 + word].load(Ordering::SeqCst) & bit == 0 {
            page[(vcpu_record(vcpu) + SELECTOR) / 8].fetch_or(1 << word, Ordering::SeqCst);
            page[(vcpu_record(vcpu) + UPCALL_PENDING) / 8].store(1, Ordering::SeqCst);
        }
    }

    proptest! {
        /// Every port that was set and not masked is found exactly once; masked ones stay pending.
        #[test]
        fn a_scan_finds_what_was_set(ports in prop::collection::btree_set(0u32..PORTS as u32, 0..60),
                                     masked in prop::collection::btree_set(0u32..PORTS as u32, 0..60)) {
            let page = words();
            for &port in &masked {
                page[MASK / 8 + port as usize / 64].fetch_or(1 << (port % 64), Ordering::SeqCst);
            }
            ports.iter().for_each(|&port| set(&page, 3, port));
            let mut found = BTreeSet::new();
            scan(&page, 3, |port| assert!(found.insert(port.0), "found twice"));
            prop_assert_eq!(&found, &ports.difference(&masked).copied().collect());
            scan(&page, 3, |_| panic!("found again"));
            for port in ports {
                let pending = page[port as usize / 64].load(Ordering::SeqCst) >> (port % 64) & 1 == 1;
                prop_assert_eq!(pending, masked.contains(&port));
            }
        }
    }

    #[test]
    fn an_event_between_two_waits_is_not_lost_and_wakes_everybody() {
        let mut ports = Ports::new();
        let (one, two) = (Count::new(), Count::new());
        let (seen_one, seen_two) = (AtomicU32::new(0), AtomicU32::new(0));
        ports.fire(Port(5));
        assert!(ports.poll(Some(Port(5)), &seen_one, &one.waker()));
        assert!(!ports.poll(Some(Port(5)), &seen_one, &one.waker()));
        assert!(!ports.poll(Some(Port(5)), &seen_one, &one.waker()));
        assert!(ports.poll(Some(Port(5)), &seen_two, &two.waker()));
        assert!(!ports.poll(Some(Port(5)), &seen_two, &two.waker()));
        ports.fire(Port(5));
        assert_eq!((one.get(), two.get()), (1, 1));
        assert!(
            ports.poll(Some(Port(5)), &seen_one, &one.waker()) && ports.poll(Some(Port(5)), &seen_two, &two.waker())
        );
    }
}
