//! What a server will be, before it opens anything.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::address::{Address, BoundSocket, FileAccess};
use crate::error::Error;
use crate::limits::Limits;
use crate::model::Model;
use crate::os::ShutdownSignal;
use crate::peer::{Factory, Peer};
use crate::protocol::Protocol;
use crate::server::{Handle, Report, Running, Server};

/// Says what a server will be, and opens nothing; a host name is resolved at once.
/// [`bind`](Builder::bind) opens the sockets.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    listeners: Vec<(Place, Factory)>,
    model: Option<Model>,
    limits: Limits,
    signals: bool,
    handle: Handle,
}

/// Where a server will listen.
#[derive(Debug)]
enum Place {
    Address(Result<Address, Error>),
    Socket(OwnedFd),
}

impl Server {
    /// Returns a builder, which says what a server will be.
    pub fn builder() -> Builder {
        let (listeners, limits, handle) = (Vec::new(), Limits::default(), Handle::default());
        Builder { listeners, model: None, limits, signals: true, handle }
    }
}

impl Builder {
    /// Listens on `address`, as `127.0.0.1:7000`, `[::1]:7000` or `unix:/run/echo.sock`. A name
    /// with several addresses makes a listener for each of them. The `factory` makes the protocol
    /// of each connection, in the thread that serves it.
    ///
    /// What the factory captures is shared by all connections.
    pub fn listen<P: Protocol>(
        self,
        address: impl TryInto<Address, Error: Into<Error>>,
        factory: impl Fn(&Peer) -> P + Send + Sync + 'static,
    ) -> Builder {
        let address = address.try_into().map_err(Into::into);
        self.add(Place::Address(address), Factory::shared(factory))
    }

    /// Serves the connections of a socket that listens already, as systemd passes one.
    pub fn listen_on<P: Protocol>(
        self,
        socket: impl Into<OwnedFd>,
        factory: impl Fn(&Peer) -> P + Send + Sync + 'static,
    ) -> Builder {
        self.add(Place::Socket(socket.into()), Factory::shared(factory))
    }

    /// Listens as [`listen`](Builder::listen) does; `worker` makes a factory in each thread that
    /// serves, which may hold what cannot be shared between threads. On a model with a thread for
    /// each connection, that is one for each connection. Its argument is the number of the worker:
    /// 0, since one thread serves today.
    pub fn listen_per_worker<A, W, F, P>(self, address: A, worker: W) -> Builder
    where
        A: TryInto<Address, Error: Into<Error>>,
        W: Fn(usize) -> F + Send + Sync + 'static,
        F: FnMut(&Peer) -> P + 'static,
        P: Protocol,
    {
        let address = address.try_into().map_err(Into::into);
        self.add(Place::Address(address), Factory::per_worker(worker))
    }

    fn add(mut self, place: Place, factory: Factory) -> Builder {
        self.listeners.push((place, factory));
        self
    }

    /// Serves by this model or not at all. Without this call it is the first of
    /// [`Model::AUTO`] that works.
    pub fn model(mut self, model: Model) -> Builder {
        self.model = Some(model);
        self
    }

    /// Limits the connections that are served at a time. Further ones wait, accepted or not.
    pub fn max_connections(mut self, connections: usize) -> Builder {
        self.limits.connections = connections;
        self
    }

    /// Limits the time of a drain. What is still open then is closed.
    pub fn drain_timeout(mut self, timeout: Duration) -> Builder {
        self.limits.drain = timeout;
        self
    }

    /// Changes any of the limits.
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Builder {
        change(&mut self.limits);
        self
    }

    /// Whether [`run`](Server::run) drains on SIGTERM, SIGINT, SIGQUIT and SIGHUP, and ends at
    /// once on a second one. It unblocks them. SIGINT stays ignored if it is, and so does SIGHUP,
    /// which also keeps a handler of the program. The default is true; [`start`](Server::start)
    /// never touches signals.
    pub fn signals(mut self, handled: bool) -> Builder {
        self.signals = handled;
        self
    }

    /// Returns a handle to the server that will be built.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Opens the sockets: from now on peers can connect, and are served once the server runs.
    ///
    /// # Errors
    /// An address is invalid, in use or not permitted.
    pub fn bind(self) -> Result<Server, Error> {
        let mut all = Vec::new();
        for (place, _) in &self.listeners {
            if let Place::Address(Ok(address)) = place {
                all.push(address.clone());
            }
        }
        let all: Vec<&Address> = all.iter().collect();
        let mut listeners: Vec<(BoundSocket, Factory)> = Vec::new();
        for (place, factory) in self.listeners {
            let sockets = match place {
                Place::Address(address) => {
                    let address = address?;
                    let failed = |source| Error::Listen { address: address.to_string(), source };
                    address.listen_all(&all, &FileAccess::default()).map_err(failed)?
                }
                Place::Socket(fd) => {
                    let address = Address::of_listener(fd.as_fd());
                    vec![BoundSocket { address, fd, file: None, follows: false }]
                }
            };
            listeners.extend(sockets.into_iter().map(|socket| (socket, factory.clone())));
        }
        let addrs = listeners.iter().map(|(socket, _)| socket.address.clone()).collect();
        let shutdown = ShutdownSignal::new().map_err(Error::Loop)?;
        let Builder { model, limits, signals, handle, .. } = self;
        handle.attach(shutdown.clone());
        Ok(Server { listeners, addrs, model, limits, signals, handle, shutdown })
    }

    /// Binds, and serves in this thread until the server is stopped; see [`Server::run`].
    ///
    /// # Errors
    /// Those of [`bind`](Builder::bind) and [`Server::run`].
    pub fn run(self) -> Result<Report, Error> {
        self.bind()?.run()
    }

    /// Binds, and serves in a thread; see [`Server::start`].
    ///
    /// # Errors
    /// Those of [`bind`](Builder::bind) and [`Server::start`].
    pub fn start(self) -> Result<Running, Error> {
        self.bind()?.start()
    }
}
