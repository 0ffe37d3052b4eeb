//! TCP for tasks: `smoltcp` with waiting.
//!
//! One task moves the protocol on whenever a frame came, a timer is due or a connection has something new; the others wait for
//! what happens to their own socket.

use alloc::rc::Rc;
use alloc::vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use unikernel::executor::{Signal, race, yield_now};
use unikernel::frontend::network::{self, Phy};
use unikernel::{println, time};

use crate::address::Fallback;

/// Bytes that a client can send ahead: more than a request has.
const RECEIVE_BUFFER: usize = 4096;
/// Bytes on their way to a client, or waiting for that: what a fast network holds in a round trip.
const SEND_BUFFER: usize = 64 * 1024;
/// How long DHCP has before the address of the command line is used.
const DHCP_PATIENCE: Duration = Duration::from_secs(5);
/// After so long without a sign of life a client is given up; a restart of a driver takes far less.
const DEAD: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);

struct State {
    phy: Phy,
    interface: Interface,
    sockets: SocketSet<'static>,
}

/// The protocols of one network interface.
pub struct Stack {
    device: network::Interface,
    state: RefCell<State>,
    /// A socket has something new.
    poke: Signal,
}

fn now() -> Instant {
    Instant::from_micros((time::now() / 1000) as i64)
}

impl Stack {
    /// The protocols on `device`, once it can be used.
    pub async fn new(device: network::Interface) -> Rc<Stack> {
        let mac = device.ready().await;
        let mut phy = Phy::new(device.clone());
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = time::ticks();
        let interface = Interface::new(config, &mut phy, now());
        let state = RefCell::new(State { phy, interface, sockets: SocketSet::new(vec![]) });
        Rc::new(Stack { device, state, poke: Signal::default() })
    }

    /// A place for one connection at a time.
    pub fn socket(self: &Rc<Self>) -> Socket {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        socket.set_timeout(Some(DEAD));
        socket.set_nagle_enabled(false);
        Socket { handle: self.state.borrow_mut().sockets.add(socket), stack: self.clone() }
    }

    /// Moves the protocols on, for ever.
    pub async fn run(&self, fallback: Option<Fallback>) {
        let dhcp = self.state.borrow_mut().sockets.add(dhcpv4::Socket::new());
        let mut fallback = fallback.map(|fallback| (fallback, time::after(DHCP_PATIENCE)));
        loop {
            let next = {
                let mut state = self.state.borrow_mut();
                let State { phy, interface, sockets } = &mut *state;
                interface.poll(now(), phy, sockets);
                match sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).poll() {
                    None => {}
                    Some(dhcpv4::Event::Deconfigured) => configure(interface, None),
                    Some(dhcpv4::Event::Configured(lease)) => {
                        fallback = None;
                        configure(interface, Some((lease.address, lease.router, "DHCP")));
                    }
                }
                if let Some((Fallback { address, gateway }, deadline)) = fallback
                    && time::now() >= deadline
                {
                    fallback = None;
                    configure(interface, Some((address, gateway, "command line")));
                }
                let delay = interface.poll_delay(now(), sockets);
                let deadline = delay.map_or(u64::MAX, |delay| time::after(delay.into()));
                deadline.min(fallback.map_or(u64::MAX, |(_, deadline)| deadline))
            };
            if next <= time::now() {
                yield_now().await;
                continue;
            }
            race(race(self.device.arrived(), self.poke.wait()), time::sleep_until(next)).await;
        }
    }
}

/// Sets the address, or takes it away.
fn configure(interface: &mut Interface, address: Option<(Ipv4Cidr, Option<Ipv4Address>, &str)>) {
    interface.update_ip_addrs(|addresses| addresses.clear());
    interface.routes_mut().remove_default_ipv4_route();
    let Some((address, gateway, source)) = address else { return };
    // There is room for one address and one route: both were just emptied.
    interface.update_ip_addrs(|addresses| {
        let _ = addresses.push(IpCidr::Ipv4(address));
    });
    if let Some(gateway) = gateway {
        let _ = interface.routes_mut().add_default_ipv4_route(gateway);
    }
    println!("web: http://{}/ ({source})", address.address());
}

/// The other end is gone, or did not answer for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A place for one connection.
pub struct Socket {
    stack: Rc<Stack>,
    handle: SocketHandle,
}

impl Socket {
    /// Does something with the socket; what it leaves to be sent is sent soon.
    fn with<T>(&self, act: impl FnOnce(&mut tcp::Socket<'static>) -> T) -> T {
        let result = act(self.stack.state.borrow_mut().sockets.get_mut(self.handle));
        self.stack.poke.raise();
        result
    }

    /// Polls `act` until it gives something, whenever the socket changed.
    async fn until<T>(&self, act: impl Fn(&mut tcp::Socket<'static>) -> Option<T>) -> T {
        let poll = |context: &mut Context<'_>| {
            let mut state = self.stack.state.borrow_mut();
            let socket: &mut tcp::Socket<'_> = state.sockets.get_mut(self.handle);
            match act(socket) {
                Some(result) => Poll::Ready(result),
                None => {
                    socket.register_recv_waker(context.waker());
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
            }
        };
        let result = poll_fn(poll).await;
        self.stack.poke.raise();
        result
    }

    /// Waits for a client. What was before is forgotten.
    pub async fn accept(&self, port: u16) {
        self.with(|socket| {
            socket.abort();
            // It is closed, and the port is not 0.
            let _ = socket.listen(port);
        });
        self.until(|socket| socket.may_recv().then_some(())).await;
    }

    /// Reads what is there, at least a byte; 0 when the client sends no more.
    pub async fn read(&self, buffer: &mut [u8]) -> Result<usize, Lost> {
        let buffer = RefCell::new(buffer);
        self.until(|socket| match socket.recv_slice(&mut buffer.borrow_mut()) {
            Ok(0) => None,
            Ok(count) => Some(Ok(count)),
            Err(tcp::RecvError::Finished) => Some(Ok(0)),
            Err(tcp::RecvError::InvalidState) => Some(Err(Lost)),
        })
        .await
    }

    /// Hands everything over to be sent.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), Lost> {
        while !bytes.is_empty() {
            let sent = self.until(|socket| match socket.send_slice(bytes) {
                Ok(0) => None,
                Ok(count) => Some(Ok(count)),
                Err(_) => Some(Err(Lost)),
            });
            bytes = &bytes[sent.await?..];
        }
        Ok(())
    }

    /// Says that nothing more will be sent, and waits until the client has everything and closed its side, too.
    pub async fn finish(&self) {
        self.with(tcp::Socket::close);
        let over = |socket: &mut tcp::Socket<'_>| {
            // What still comes is of no interest, but must not keep the client from going on.
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|count| count > 0) {}
            matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait).then_some(())
        };
        self.until(over).await;
    }

    /// Ends the connection at once.
    pub fn abort(&self) {
        self.with(tcp::Socket::abort);
    }
}
