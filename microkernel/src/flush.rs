//! Mailboxes for flushes of cached translations, outside the core's lock.
//!
//! Who took a page away asks the CPUs that may have it cached to flush, and gives the frame back once all have. Nobody may
//! wait for that with the lock held; a CPU that waits for the lock or for others serves its own mailbox meanwhile. So two
//! CPUs that ask each other both get on.
//!
//! Each request is a number, larger than all before it, and a mailbox holds the largest: one flush answers all requests that
//! were made before it began.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use protocol::system::MAX_CPUS;

/// The mailboxes of this machine.
#[cfg(not(loom))]
pub static MAILBOXES: Mailboxes<MAX_CPUS> =
    Mailboxes { last: AtomicU64::new(0), boxes: [const { Mailbox::new() }; MAX_CPUS] };
#[cfg(loom)]
loom::lazy_static! {
    /// The same for the model checker, whose atomics cannot be made before it runs.
    pub static ref MAILBOXES: Mailboxes<MAX_CPUS> = Mailboxes::new();
}

/// One CPU's mailbox, in a cache line of its own.
#[repr(align(64))]
struct Mailbox {
    wanted: AtomicU64,
    done: AtomicU64,
}

/// A mailbox for each of `CPUS` CPUs.
pub struct Mailboxes<const CPUS: usize> {
    last: AtomicU64,
    boxes: [Mailbox; CPUS],
}

#[cfg(not(loom))]
impl Mailbox {
    const fn new() -> Mailbox {
        Mailbox { wanted: AtomicU64::new(0), done: AtomicU64::new(0) }
    }
}

#[cfg(loom)]
impl<const CPUS: usize> Mailboxes<CPUS> {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Mailboxes { last: zero(), boxes: std::array::from_fn(|_| Mailbox { wanted: zero(), done: zero() }) }
    }
}

impl<const CPUS: usize> Mailboxes<CPUS> {
    /// Asks every CPU of the mask to flush; gives the number of the request for [`Mailboxes::reached`]. The page must have
    /// been taken from the tables before, and the CPUs have to be made to look into their mailboxes after.
    pub fn request(&self, cpus: u64) -> u64 {
        // The read-modify-write orders what earlier requesters wrote to the tables before this request too: whoever serves
        // it serves theirs.
        let epoch = self.last.fetch_add(1, Ordering::AcqRel) + 1;
        for mailbox in self.named(cpus) {
            mailbox.wanted.fetch_max(epoch, Ordering::AcqRel);
        }
        epoch
    }

    /// Calls `flush` if somebody asked this CPU to; gives whether it did.
    pub fn serve(&self, cpu: usize, flush: impl FnOnce()) -> bool {
        let mailbox = &self.boxes[cpu % CPUS];
        let wanted = mailbox.wanted.load(Ordering::Acquire);
        if wanted <= mailbox.done.load(Ordering::Relaxed) {
            return false;
        }
        flush();
        mailbox.done.store(wanted, Ordering::Release);
        true
    }

    /// Whether every CPU of the mask has flushed since request `epoch`.
    pub fn reached(&self, epoch: u64, cpus: u64) -> bool {
        self.named(cpus).all(|mailbox| mailbox.done.load(Ordering::Acquire) >= epoch)
    }

    fn named(&self, cpus: u64) -> impl Iterator<Item = &Mailbox> {
        self.boxes.iter().enumerate().filter(move |(cpu, _)| cpus & 1 << cpu != 0).map(|(_, mailbox)| mailbox)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_asked_flushes_and_only_once() {
        let boxes = Mailboxes { last: AtomicU64::new(0), boxes: [const { Mailbox::new() }; 3] };
        assert!(!boxes.serve(0, || panic!("nobody asked")));
        let epoch = boxes.request(0b101);
        assert!(!boxes.reached(epoch, 0b101));
        assert!(boxes.serve(0, || ()) && !boxes.serve(0, || ()));
        assert!(boxes.reached(epoch, 0b001) && !boxes.reached(epoch, 0b101));
        assert!(!boxes.serve(1, || panic!("it was not named")));
        assert!(boxes.serve(2, || ()));
        assert!(boxes.reached(epoch, 0b101));
    }

    #[test]
    fn one_flush_answers_all_requests_before_it() {
        let boxes = Mailboxes { last: AtomicU64::new(0), boxes: [const { Mailbox::new() }; 2] };
        let epochs = [boxes.request(2), boxes.request(2)];
        assert!(boxes.serve(1, || ()) && !boxes.serve(1, || ()));
        assert!(epochs.iter().all(|&epoch| boxes.reached(epoch, 2)));
        let later = boxes.request(2);
        assert!(!boxes.reached(later, 2));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::vec::Vec;

    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Pages with their table entries, and one CPU's cache of them.
    struct Model {
        boxes: Mailboxes<2>,
        mapped: Vec<AtomicU64>,
        cached: Vec<AtomicU64>,
    }

    fn model(pages: usize) -> Arc<Model> {
        let zero = || AtomicU64::new(0);
        let mapped = (0..pages).map(|_| AtomicU64::new(1)).collect();
        Arc::new(Model { boxes: Mailboxes::new(), mapped, cached: (0..pages).map(|_| zero()).collect() })
    }

    impl Model {
        /// The CPU walks the tables whenever it likes, without any ordering.
        fn walk(&self) {
            for (mapped, cached) in self.mapped.iter().zip(&self.cached) {
                if mapped.load(Ordering::Relaxed) == 1 {
                    cached.store(1, Ordering::Relaxed);
                }
            }
        }

        /// Empties the cache; at once it may fill again.
        fn flush(&self) {
            self.cached.iter().for_each(|cached| cached.store(0, Ordering::Relaxed));
            self.walk();
        }

        /// Takes a page away from CPU 1; gives the number of the request.
        fn take_away(&self, page: usize) -> u64 {
            self.mapped[page].store(0, Ordering::Relaxed);
            self.boxes.request(0b10)
        }

        /// Whether the frame can be used again; then it must not be cached.
        fn released(&self, page: usize, epoch: u64) -> bool {
            let released = self.boxes.reached(epoch, 0b10);
            assert!(!released || self.cached[page].load(Ordering::Relaxed) == 0, "page {page} is still cached");
            released
        }

        /// A turn of CPU 1: it runs, and looks into its mailbox.
        fn turn(&self) {
            self.walk();
            self.boxes.serve(1, || self.flush());
        }
    }

    #[test]
    fn loom_a_frame_is_not_cached_when_it_is_released() {
        loom::model(|| {
            let model = model(1);
            let cpu = model.clone();
            let runs = thread::spawn(move || (0..2).for_each(|_| cpu.turn()));
            let epoch = model.take_away(0);
            model.released(0, epoch);
            runs.join().unwrap();
            model.turn();
            assert!(model.released(0, epoch), "the request was lost");
        });
    }

    #[test]
    fn loom_two_requests_are_both_served() {
        loom::model(|| {
            let model = model(2);
            let requests = [0, 1].map(|page| {
                let model = model.clone();
                thread::spawn(move || {
                    let epoch = model.take_away(page);
                    model.released(page, epoch);
                    epoch
                })
            });
            model.turn();
            let epochs = requests.map(|request| request.join().unwrap());
            model.turn();
            (0..2).for_each(|page| assert!(model.released(page, epochs[page]), "request {page} was lost"));
        });
    }
}
