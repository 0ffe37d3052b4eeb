//! Orders to the guest's kernel: to end, to press a key for it, to use less memory or fewer CPUs.
//!
//! The kernel says which ends it understands, and empties the key to acknowledge an order. One order is under way at a time.

use alloc::format;
use alloc::string::String;

use super::start::kib;
use crate::store::Store;

/// What the guest can be told to do with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End, and have the machine off.
    PowerOff,
    /// Start anew.
    Reboot,
    /// End.
    Halt,
    /// Be still, to be saved.
    Suspend,
}

impl Order {
    const fn word(self) -> &'static str {
        match self {
            Order::PowerOff => "poweroff",
            Order::Reboot => "reboot",
            Order::Halt => "halt",
            Order::Suspend => "suspend",
        }
    }

    /// Words of which one has to be in the guest's features. Linux does the same for two of them and names one.
    const fn features(self) -> &'static [&'static str] {
        match self {
            Order::Halt => &["halt", "poweroff"],
            Order::PowerOff => &["poweroff"],
            Order::Reboot => &["reboot"],
            Order::Suspend => &["suspend"],
        }
    }
}

/// All there are. A guest's kernel announces them by their words.
const ALL: [Order; 4] = [Order::PowerOff, Order::Reboot, Order::Halt, Order::Suspend];

/// Why an order is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The guest's kernel does not say that it understands it.
    NotUnderstood,
    /// Another one was given and is not acknowledged yet.
    Busy(Order),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refused::NotUnderstood => f.write_str(
                "the guest's kernel does not (yet) understand that: try again when it is up, or use destroy",
            ),
            Refused::Busy(order) => {
                write!(f, "the guest's kernel has not acknowledged the order to {} yet", order.word())
            }
        }
    }
}

/// The orders to a guest.
#[derive(Clone, Debug)]
pub struct Orders {
    current: Option<Order>,
}

impl Orders {
    /// None yet.
    pub(super) fn new() -> Orders {
        Orders { current: None }
    }

    /// Gives an order. The same one again changes nothing.
    pub fn give(&mut self, order: Order, store: &mut Store) -> Result<(), Refused> {
        // The kernel may have taken the last one without anybody having looked.
        self.acknowledged(store);
        match self.current {
            Some(current) if current == order => return Ok(()),
            Some(current) => return Err(Refused::Busy(current)),
            None => {}
        }
        let announced = |word: &&str| store.text(&key(store, &format!("control/feature-{word}"))) == Some("1");
        // Some kernels, Mini-OS is one, understand orders and announce nothing.
        let looks = || !ALL.map(Order::word).iter().any(announced) && store.is_watched(&key(store, "control/shutdown"));
        if !order.features().iter().any(announced) && !looks() {
            return Err(Refused::NotUnderstood);
        }
        self.current = Some(order);
        store.write(&key(store, "control/shutdown"), order.word());
        Ok(())
    }

    /// The order that the guest's kernel acknowledged since this was asked last. To be asked whenever the guest changed something.
    pub fn acknowledged(&mut self, store: &Store) -> Option<Order> {
        let emptied = store.read(&key(store, "control/shutdown")).is_none_or(|value| matches!(value, [] | [0]));
        if emptied { self.current.take() } else { None }
    }

    /// Takes back an order that the guest's kernel does not acknowledge; `false` if there is none.
    pub fn withdraw(&mut self, store: &mut Store) -> bool {
        let given = self.current.take().is_some();
        if given {
            store.write(&key(store, "control/shutdown"), "");
        }
        given
    }
}

/// Presses a key of the guest's kernel (`sysrq`).
pub fn press(letter: u8, store: &mut Store) {
    store.write(&key(store, "control/sysrq"), [letter]);
}

/// Has the guest use so many pages of memory.
pub fn set_memory_target(pages: u64, store: &mut Store) {
    store.write(&key(store, "memory/target"), format!("{}", kib(pages)));
}

/// Has the guest use one of its CPUs, or not.
pub fn set_online(vcpu: u32, online: bool, store: &mut Store) {
    let path = key(store, &format!("cpu/{vcpu}/availability"));
    store.write(&path, if online { "online" } else { "offline" });
}

fn key(store: &Store, name: &str) -> String {
    format!("{}/{name}", store.home())
}
