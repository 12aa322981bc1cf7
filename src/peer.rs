//! The peer of a connection, and what makes the protocol that serves it.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use crate::address::Address;
use crate::admission::Admitted;
use crate::connection_log;
use crate::keys::{ConnId, ListenerId};
use crate::mailbox::SharedPeer;
use crate::os::ShutdownSignal;
use crate::peer_handle::PeerHandle;
use crate::protocol::{Input, Needs, Outbox, Protocol};

/// The other end of a connection that has just been accepted: the argument of a factory.
#[derive(Debug)]
pub struct Peer {
    id: u64,
    listener: Arc<Address>,
    addr: Option<SocketAddr>,
    /// The id of the connection and how its loop is reached, if it can be.
    reach: Option<(ConnId, ShutdownSignal)>,
    handle: OnceCell<PeerHandle>,
    /// Where a PROXY header is announced, if one is awaited.
    proxied: OnceCell<Arc<OnceLock<ProxiedPeer>>>,
}

/// The client that a PROXY header names.
#[derive(Debug, Clone, Copy)]
pub struct ProxiedPeer {
    /// The address of the client, if it has one.
    pub addr: Option<SocketAddr>,
    /// The length of the header, in bytes.
    pub header: usize,
}

impl fmt::Display for ProxiedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(addr) => addr.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// The id of a connection and how its loop is reached; `None` if other threads cannot.
pub type Reach<'a> = Option<(ConnId, &'a ShutdownSignal)>;

/// What is kept of the [`Peer`] of an open connection.
#[derive(Debug, Default)]
pub struct AcceptedPeer {
    /// The address of its socket, if it has one.
    pub socket_addr: Option<SocketAddr>,
    /// The client that a PROXY header names, once it has come.
    pub proxied: Option<Arc<OnceLock<ProxiedPeer>>>,
    /// What its handles know of it, if it has any.
    pub shared: Option<Arc<SharedPeer>>,
    /// Its place among the connections of its address.
    pub admitted: Option<Admitted>,
    /// Its broadcast group, if it is not that of its listener.
    pub group: Option<ListenerId>,
    /// True if it may only listen: see [`Protocol::allow_silence`].
    pub allow_silence: bool,
    /// True on a Unix socket, where what was sent has arrived.
    pub unix: bool,
    /// True for a link to another process of this server, which carries the messages of its peers
    /// and is not counted.
    ///
    /// A link is never evicted as a slow reader: the process at its other end evicts the slow
    /// readers there. It lingers without a limit, because that process may have to wait before it
    /// receives the last message. And it is received from however much it is owed, while no other
    /// connection of its group is congested (kernel-notes §45).
    pub link: bool,
}

impl AcceptedPeer {
    /// The other end of a link.
    pub fn of_link() -> AcceptedPeer {
        AcceptedPeer { link: true, ..AcceptedPeer::default() }
    }

    /// Returns the address of the client, if it has one.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.proxied().map_or(self.socket_addr, |proxied| proxied.addr)
    }

    /// Returns the client as an operator reads it: by its address, or as a Unix socket that a PROXY
    /// header names. `None` if neither is known.
    pub fn client(&self) -> Option<String> {
        self.proxied().map(ToString::to_string).or_else(|| Some(self.socket_addr?.to_string()))
    }

    /// Returns true if, of so many bytes that were received, one is the client's.
    pub fn has_sent(&self, received: u64) -> bool {
        received > self.proxied().map_or(0, |proxied| proxied.header as u64)
    }

    /// Returns the client that a PROXY header has named.
    pub fn proxied(&self) -> Option<&ProxiedPeer> {
        self.proxied.as_ref()?.get()
    }
}

/// A protocol, and what is kept of the peer that it serves.
pub type Made<P> = (P, AcceptedPeer);

impl Peer {
    /// Logs that connection `id` was accepted at `listener`, and calls `make` with its peer, which
    /// has this address, if it has one, and which other threads can `reach`.
    pub fn with<T>(
        id: u64,
        listener: &Arc<Address>,
        addr: Option<SocketAddr>,
        reach: Reach<'_>,
        make: impl FnOnce(&Peer) -> T,
    ) -> Made<T> {
        connection_log::accepted(id, listener, addr);
        let reach = reach.map(|(conn, signal)| (conn, signal.clone()));
        let unix = matches!(&**listener, Address::Unix(path) if !path.as_os_str().is_empty());
        let listener = Arc::clone(listener);
        let (handle, proxied) = (OnceCell::new(), OnceCell::new());
        let peer = Peer { id, listener, addr, reach, handle, proxied };
        let made = make(&peer);
        let shared = peer.handle.get().map(PeerHandle::shared);
        let (socket_addr, proxied) = (addr, peer.proxied.into_inner());
        (made, AcceptedPeer { socket_addr, proxied, shared, unix, ..AcceptedPeer::default() })
    }

    /// Returns the peer of the same connection, with this address.
    pub(crate) fn another(&self, addr: Option<SocketAddr>) -> Peer {
        let (handle, listener) = (self.handle().into(), Arc::clone(&self.listener));
        Peer { id: self.id, listener, addr, reach: None, handle, proxied: OnceCell::new() }
    }

    /// Returns where the client is announced that a PROXY header will name.
    pub(crate) fn proxied(&self) -> Arc<OnceLock<ProxiedPeer>> {
        self.proxied.get_or_init(Arc::default).clone()
    }

    /// Returns the number of the connection at its server, from 1; no other connection gets the
    /// same number while the server runs.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the address of the peer; `None` if it has none, as on a Unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Returns a handle, by which other threads reach the connection. It allocates when it is first
    /// called. The model `process` needs a protocol without
    /// [`Needs::SHARED_MEMORY`](crate::Needs), and its handles are closed.
    pub fn handle(&self) -> PeerHandle {
        let new = || {
            let (conn, server) = self.reach.clone().unzip();
            let shared = SharedPeer::new(conn.unwrap_or(ConnId::new(0, 0)), server.is_some());
            PeerHandle { peer: Arc::new(shared), server }
        };
        self.handle.get_or_init(new).clone()
    }

    /// Returns the address of the listener that accepted the connection.
    pub fn listener(&self) -> &Address {
        &self.listener
    }
}

/// What makes the protocol of each connection of a listener; each worker takes its own part of it.
pub struct Factory<P: ?Sized = Box<dyn Protocol>> {
    make: Arc<dyn Fn(usize) -> MakeProtocol<P> + Send + Sync>,
    /// What the protocols need of a model.
    pub needs: Needs,
    /// Whether their peers may only listen.
    pub allow_silence: bool,
    /// Their broadcast group, if it is not that of the listener: the addresses of a name share one.
    pub group: Option<ListenerId>,
}

/// What a worker makes protocols by.
pub type MakeProtocol<P = Box<dyn Protocol>> = Box<dyn FnMut(&Peer) -> P>;

impl Factory {
    /// A factory that all workers share.
    pub fn shared<P: Protocol>(make: impl Fn(&Peer) -> P + Send + Sync + 'static) -> Factory {
        let factory = Factory::of(move |peer| make_or_panic_later(peer, &make));
        Factory { needs: P::needs(), allow_silence: P::allow_silence(), ..factory }
    }

    /// A factory for each worker, made by `worker` in the thread of that worker.
    pub fn per_worker<W, F, P>(worker: W) -> Factory
    where
        W: Fn(usize) -> F + Send + Sync + 'static,
        F: FnMut(&Peer) -> P + 'static,
        P: Protocol,
    {
        let make = move |at| -> MakeProtocol<Box<dyn Protocol>> {
            let mut make = worker(at);
            Box::new(move |peer| make_or_panic_later(peer, &mut make))
        };
        let (needs, allow_silence) = (P::needs(), P::allow_silence());
        Factory { make: Arc::new(make), needs, allow_silence, group: None }
    }
}

impl Factory {
    /// Returns a factory whose protocols `wrap` makes: it may make those of this one by its second
    /// argument, at once or later.
    pub fn wrapped<P: Protocol>(
        &self,
        wrap: impl Fn(&Peer, Rc<RefCell<MakeProtocol>>) -> P + Send + Sync + 'static,
    ) -> Factory {
        let (wrap, inner) = (Arc::new(wrap), Arc::clone(&self.make));
        let make = move |at| -> MakeProtocol {
            let (wrap, inner) = (Arc::clone(&wrap), Rc::new(RefCell::new(inner(at))));
            Box::new(move |peer| Box::new(wrap(peer, Rc::clone(&inner))))
        };
        Factory { make: Arc::new(make), ..*self }
    }
}

impl<P: Protocol> Factory<P> {
    /// A factory of protocols of one type, as `make` makes them in any thread.
    pub fn of(make: impl Fn(&Peer) -> P + Send + Sync + 'static) -> Factory<P> {
        let make = Arc::new(make);
        let make = move |_| -> MakeProtocol<P> {
            let make = Arc::clone(&make);
            Box::new(move |peer| make(peer))
        };
        let (needs, allow_silence) = (P::needs(), P::allow_silence());
        Factory { make: Arc::new(make), needs, allow_silence, group: None }
    }
}

impl<P> Factory<P> {
    /// Returns the part of this factory that worker `at` uses, made in the calling thread.
    pub fn for_worker(&self, at: usize) -> impl FnMut(&Peer) -> P + 'static
    where
        P: 'static,
    {
        (self.make)(at)
    }
}

impl<P> Clone for Factory<P> {
    fn clone(&self) -> Factory<P> {
        Factory { make: Arc::clone(&self.make), ..*self }
    }
}

impl<P> fmt::Debug for Factory<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory").field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Makes a protocol. If the factory panics, it is the connection that pays: its protocol panics
/// when it is opened, where that is expected.
fn make_or_panic_later<P: Protocol>(
    peer: &Peer,
    make: impl FnOnce(&Peer) -> P,
) -> Box<dyn Protocol> {
    match catch_unwind(AssertUnwindSafe(|| make(peer))) {
        Ok(protocol) => Box::new(protocol),
        Err(_) => Box::new(NoProtocol),
    }
}

/// Stands for a protocol whose factory panicked.
struct NoProtocol;

impl Protocol for NoProtocol {
    fn open(&mut self, _: &mut Outbox<'_>) {
        resume_unwind(Box::new("the factory panicked")); // No second message.
    }

    fn data(&mut self, _: &mut Input<'_>, _: &mut Outbox<'_>) {}
}

/// A listener's part of a factory, and the address that its peers came to.
pub struct WorkerFactory<P = Box<dyn Protocol>> {
    make: MakeProtocol<P>,
    /// What the protocols need of a model.
    pub needs: Needs,
    /// Whether their peers may only listen.
    pub allow_silence: bool,
    group: Option<ListenerId>,
    listener: Arc<Address>,
}

impl<P> WorkerFactory<P> {
    /// The part of `factory` for the connections that `fd`, a listening socket, accepts, made in
    /// the calling thread.
    pub fn new(factory: &Factory<P>, fd: BorrowedFd<'_>) -> WorkerFactory<P> {
        let listener = Arc::new(Address::of_listener(fd));
        let Factory { needs, allow_silence, group, .. } = *factory;
        WorkerFactory { make: (factory.make)(0), needs, allow_silence, group, listener }
    }

    /// Returns the address of the listener.
    pub fn listener(&self) -> &Address {
        &self.listener
    }

    /// Makes the protocol of connection `id`, whose peer has this address, if it has one.
    pub fn make(&mut self, id: u64, addr: Option<SocketAddr>, reach: Reach<'_>) -> Made<P> {
        let (made, accepted) = Peer::with(id, &self.listener, addr, reach, &mut self.make);
        let WorkerFactory { allow_silence, group, .. } = *self;
        (made, AcceptedPeer { allow_silence, group, ..accepted })
    }
}

impl<P> fmt::Debug for WorkerFactory<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerFactory").field("listener", &self.listener).finish_non_exhaustive()
    }
}
