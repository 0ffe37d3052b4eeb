//! The event loop: one vCPU, any number of tasks.
//!
//! `FuturesUnordered` keeps the tasks and polls only those that were woken; what is added here is where wakes come from (event
//! ports and timers) and what happens when nothing is left to do (a hypercall that waits). A task has to do bounded work
//! between two waits: [`yield_now`] ends a portion without waiting for anything.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, Stream};

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Remembers that some task was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
        crate::event::wake_event_loop();
    }
}

/// The tasks, and whether one of them wants to run.
pub struct Executor {
    tasks: FuturesUnordered<Task>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl Default for Executor {
    fn default() -> Self {
        let woken = Arc::new(Woken::default());
        Executor { tasks: FuturesUnordered::new(), waker: Waker::from(woken.clone()), woken }
    }
}

impl Executor {
    /// Adds a task; it runs with the next turn.
    pub fn add(&mut self, task: Task) {
        self.tasks.push(task);
        self.woken.0.store(true, Ordering::Release);
    }

    /// Whether some task wants to run.
    pub fn ready(&self) -> bool {
        self.woken.0.load(Ordering::Acquire)
    }

    /// Polls each task that was woken before, once or a few times, but does not insist until none wants to run.
    pub fn turn(&mut self) {
        self.woken.0.store(false, Ordering::Release);
        let mut context = Context::from_waker(&self.waker);
        while let Poll::Ready(Some(())) = Pin::new(&mut self.tasks).poll_next(&mut context) {}
    }
}

/// Tasks that were spawned since the last turn. Only vCPU 0 touches them.
struct Spawned(core::cell::RefCell<Vec<Task>>);

// SAFETY: every access is in `spawned`, which insists on vCPU 0, and a domain's vCPU is one thread of execution.
unsafe impl Sync for Spawned {}

static SPAWNED: Spawned = Spawned(core::cell::RefCell::new(Vec::new()));

fn spawned() -> core::cell::RefMut<'static, Vec<Task>> {
    assert!(cfg!(freestanding) && crate::vcpu::current() == 0, "tasks belong to the event loop of vCPU 0");
    SPAWNED.0.borrow_mut()
}

type Idle = Box<dyn FnMut(u64)>;

/// What to do instead of waiting. Only vCPU 0 touches it.
struct IdleHook(Cell<Option<Idle>>);

// SAFETY: every access is in `on_idle`, which insists on vCPU 0, or in `run`, which only vCPU 0 executes.
unsafe impl Sync for IdleHook {}

static IDLE: IdleHook = IdleHook(Cell::new(None));

/// From now on `hook` is called whenever no task wants to run, with the time at which the next timer is due. It returns at the
/// latest then, or when something is pending for vCPU 0 ([`crate::event::block`] does); what it wakes runs when it returns.
pub fn on_idle(hook: impl FnMut(u64) + 'static) {
    assert!(cfg!(freestanding) && crate::vcpu::current() == 0, "the event loop is that of vCPU 0");
    IDLE.0.set(Some(Box::new(hook)));
}

/// Starts a task beside the calling one.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    spawned().push(Box::pin(task));
}

/// Lets all other tasks that want to run do so first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tells one task that another has work for it.
#[derive(Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Signal {
    /// Lets the task that waits, or waits next, go on.
    pub fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until the signal is raised, and lowers it. One task can wait at a time.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.take() {
                return Poll::Ready(());
            }
            self.waiting.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Runs `first` and whatever it spawns, until `first` ends; then the domain ends too.
pub fn run(first: Task) -> ! {
    let done = Arc::new(AtomicBool::new(false));
    let mut executor = Executor::default();
    let finished = done.clone();
    executor.add(Box::pin(async move {
        first.await;
        finished.store(true, Ordering::Relaxed);
    }));
    let mut idle: Idle = Box::new(crate::event::block);
    while !done.load(Ordering::Relaxed) {
        if let Some(hook) = IDLE.0.take() {
            idle = hook;
        }
        for task in spawned().drain(..) {
            executor.add(task);
        }
        crate::event::dispatch();
        let deadline = {
            let mut timers = crate::time::TIMERS.lock();
            timers.fire(crate::time::now());
            timers.next_deadline()
        };
        if executor.ready() {
            executor.turn();
        } else {
            idle(deadline);
        }
    }
    crate::exit::shutdown(0)
}

/// Runs two futures, and gives what the first that ends gives; the other is dropped.
pub async fn race<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    use futures_util::future::{Either, select};
    match select(pin!(one), pin!(other)).await {
        Either::Left((output, _)) | Either::Right((output, _)) => output,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;

    /// Counts wakes.
    pub(crate) struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        pub(crate) fn new() -> Arc<Count> {
            Arc::new(Count(AtomicUsize::new(0)))
        }

        pub(crate) fn waker(self: &Arc<Self>) -> Waker {
            Waker::from(self.clone())
        }

        pub(crate) fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_task_that_always_wants_to_run_starves_nobody() {
        let mut executor = Executor::default();
        let (greedy, modest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let counter = greedy.clone();
        executor.add(Box::pin(async move {
            loop {
                counter.set(counter.get() + 1);
                yield_now().await;
            }
        }));
        let counter = modest.clone();
        executor.add(Box::pin(async move {
            for _ in 0..10 {
                counter.set(counter.get() + 1);
                yield_now().await;
            }
        }));
        for _ in 0..12 {
            assert!(executor.ready());
            executor.turn();
        }
        assert_eq!(modest.get(), 10);
        assert!(greedy.get() < 40, "a turn is bounded");
    }

    #[test]
    fn a_signal_is_kept_until_somebody_waits() {
        let mut executor = Executor::default();
        let signal = Rc::new(Signal::default());
        let (ours, count) = (signal.clone(), Rc::new(Cell::new(0)));
        let counter = count.clone();
        signal.raise();
        executor.add(Box::pin(async move {
            loop {
                ours.wait().await;
                counter.set(counter.get() + 1);
            }
        }));
        executor.turn();
        assert_eq!(count.get(), 1);
        signal.raise();
        signal.raise();
        executor.turn();
        assert_eq!(count.get(), 2);
    }

    #[test]
    fn nothing_runs_that_was_not_woken() {
        let mut executor = Executor::default();
        let (polls, slot) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None::<Waker>)));
        let (count, store) = (polls.clone(), slot.clone());
        executor.add(Box::pin(poll_fn(move |context| {
            count.set(count.get() + 1);
            store.set(Some(context.waker().clone()));
            Poll::Pending
        })));
        // The turn that polled every task leaves one more to come, which finds nothing.
        executor.turn();
        executor.turn();
        assert!(!executor.ready());
        slot.take().unwrap().wake();
        assert!(executor.ready());
        executor.turn();
        assert_eq!(polls.get(), 2);
    }
}
