//! A server with open sockets, and one that runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use crate::address::{Address, BoundSocket};
use crate::counters::{self, Counters, LiveCounters};
use crate::engine::{self, Engine};
use crate::error::{Error, SendError};
use crate::keys::ListenerId;
use crate::limits::{Ended, Limits};
use crate::mailbox::PostedRequest;
use crate::memory_plan::default_buffers;
use crate::model::{self, EngineOptions, Model};
use crate::os::ShutdownSignal;
use crate::peer::Factory;
use crate::proxy::ProxyGate;

/// A server whose sockets are open: its addresses are known, and privileges may be dropped.
#[derive(Debug)]
pub struct Server {
    pub(crate) listeners: Vec<(BoundSocket, Factory)>,
    pub(crate) addrs: Vec<Address>,
    pub(crate) model: Option<Model>,
    pub(crate) limits: Limits,
    pub(crate) signals: bool,
    pub(crate) handle: Handle,
    pub(crate) shutdown: ShutdownSignal,
}

impl Server {
    /// Returns the addresses of the listeners, in their order, with their real ports.
    pub fn addrs(&self) -> &[Address] {
        &self.addrs
    }

    /// Serves in this thread until the server is stopped, by default by SIGINT, SIGTERM, SIGQUIT or
    /// SIGHUP.
    ///
    /// # Errors
    /// No model works here, it cannot provide what a protocol needs, or the kernel fails it; or no
    /// listener can accept any more.
    pub fn run(self) -> Result<Report, Error> {
        if self.signals {
            self.shutdown.on_signals().map_err(Error::Loop)?;
        }
        self.serve(|_| {})
    }

    /// Serves in a thread of its own, until the returned value is drained or dropped. Signals are
    /// left to the program.
    ///
    /// # Errors
    /// As [`run`](Server::run); and a model that forks is not supported.
    pub fn start(self) -> Result<Running, Error> {
        if let Some(model) = self.model.filter(|model| model.info().forks()) {
            let what = "it forks, which needs a process with one thread: use `run`".to_owned();
            return Err(Error::Unsupported { model: model.name(), what });
        }
        let (addrs, handle) = (self.addrs.clone(), self.handle.clone());
        let (ready, started) = mpsc::channel();
        let serve = move || {
            self.serve(|model| {
                let _ = ready.send(model); // `start` waits for it.
            })
        };
        let thread = thread::Builder::new().name("proactor".to_owned()).spawn(serve);
        let thread = thread.map_err(Error::Loop)?;
        match started.recv() {
            Ok(model) => Ok(Running { addrs, model, handle, thread: Some(thread) }),
            // It ended before it was ready.
            Err(_) => Err(joined(thread).err().unwrap_or_else(|| Error::Loop(stopped()))),
        }
    }

    fn serve(self, ready: impl FnOnce(Model)) -> Result<Report, Error> {
        let Server { mut listeners, model, limits, handle, shutdown, .. } = self;
        ProxyGate::wrap(&limits, listeners.iter_mut().map(|(_, factory)| factory));
        let (model, mut engine) = build(model, limits, shutdown)?;
        // The files of Unix sockets are removed when the server has ended.
        let _files = engine::listen_all(&mut *engine, listeners)
            .map_err(|error| unsupported(model, error))?;
        ready(model);
        let ended = engine.run(Some(&handle.0.counters));
        let drained = ended.map_err(Error::Loop)? == Ended::Drained;
        let counters = engine.counters();
        counters.store(&handle.0.counters);
        Ok(Report { model, drained, stats: counters })
    }
}

/// Builds the engine of the model, or of the first of [`Model::AUTO`] that works.
fn build(
    model: Option<Model>,
    limits: Limits,
    shutdown: ShutdownSignal,
) -> Result<(Model, Box<dyn Engine>), Error> {
    let buffers = default_buffers(&limits);
    let options = EngineOptions { limits, buffers, ..EngineOptions::default() };
    let built = model::set_up(model, &options)
        .and_then(|prepared| Ok((prepared.model, (prepared.build)(shutdown, None)?)));
    built.map_err(|error| {
        let name = model.map_or("auto", Model::name);
        Error::Refused { model: name, reason: error.to_string() }
    })
}

fn unsupported(model: Model, error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::Unsupported {
        return Error::Loop(error);
    }
    Error::Unsupported { model: model.name(), what: error.to_string() }
}

fn stopped() -> io::Error {
    io::Error::other("the server stopped before it was ready")
}

fn joined(thread: JoinHandle<Result<Report, Error>>) -> Result<Report, Error> {
    let panicked = |_| Error::Loop(io::Error::other("the thread of the server panicked"));
    thread.join().unwrap_or_else(|panic| Err(panicked(panic)))
}

/// A server that runs in a thread of its own. Dropping it stops the server at once and joins its
/// thread.
#[derive(Debug)]
pub struct Running {
    addrs: Vec<Address>,
    model: Model,
    handle: Handle,
    /// `None` once it is joined.
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl Running {
    /// Returns the addresses of the listeners, in their order, with their real ports.
    pub fn addrs(&self) -> &[Address] {
        &self.addrs
    }

    /// Returns the model that serves.
    pub fn model(&self) -> Model {
        self.model
    }

    /// Returns what the server counted; see [`Handle::stats`].
    pub fn stats(&self) -> Counters {
        self.handle.stats()
    }

    /// Returns a handle, which any thread may use.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Accepts no more, and ends once every connection is finished; see [`Handle::drain`].
    pub fn drain(&self) {
        self.handle.drain();
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// The kernel failed the server as a whole, or it panicked.
    pub fn join(mut self) -> Result<Report, Error> {
        joined(self.thread.take().expect("joined once"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            let _ = joined(thread); // The error, if any, has nowhere to go.
        }
    }
}

/// Stops a server and reads its counters, from any thread, also before it runs.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<HandleState>);

#[derive(Debug)]
struct HandleState {
    requests: Mutex<Requested>,
    counters: LiveCounters,
}

impl Default for HandleState {
    fn default() -> HandleState {
        HandleState { requests: Mutex::default(), counters: counters::live() }
    }
}

/// How often the server was asked to stop, and the signal that it waits for.
#[derive(Debug, Default)]
struct Requested {
    times: u32,
    signal: Option<ShutdownSignal>,
}

/// The first request drains a server, the second one ends it at once.
const DRAIN: u32 = 1;
const STOP: u32 = 2;

impl Handle {
    /// Accepts no more connections, has every protocol drain, and ends when all connections are
    /// finished, or when the time of the drain is over.
    pub fn drain(&self) {
        self.request(DRAIN);
    }

    /// Ends the server at once.
    pub fn stop(&self) {
        self.request(STOP);
    }

    /// Returns what the server counted, as of the last iteration of its loop. The values are not of
    /// one instant. A model without a loop reports them when it has ended.
    pub fn stats(&self) -> Counters {
        Counters::load(&self.0.counters)
    }

    /// Sends `bytes` to every peer of the listener with this number, in the order of the builder;
    /// without such a listener, to none. Never waits, and no peer delays it: one for which more
    /// is queued than is free of the server's memory is evicted.
    ///
    /// # Errors
    /// The server is not bound, has ended or serves by a model that forks; or too much waits. The
    /// error returns the bytes.
    pub fn broadcast(&self, listener: u16, bytes: impl Into<Vec<u8>>) -> Result<(), SendError> {
        let bytes = bytes.into();
        let requested = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(signal) = &requested.signal else { return Err(SendError::Closed(bytes)) };
        signal.post(PostedRequest::Broadcast(ListenerId(listener), bytes))
    }

    fn request(&self, times: u32) {
        let mut requested = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let before = requested.times;
        requested.times = before.max(times);
        if let Some(signal) = &requested.signal {
            (before..times).for_each(|_| signal.request());
        }
    }

    pub(crate) fn attach(&self, signal: ShutdownSignal) {
        let mut requested = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        (0..requested.times).for_each(|_| signal.request());
        requested.signal = Some(signal);
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Report {
    /// The model that served.
    pub model: Model,
    /// Whether every connection was finished; false if the server was stopped at once.
    pub drained: bool,
    /// What it counted since its start.
    pub stats: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ConnId;
    use crate::mailbox::SharedPeer;
    use crate::peer_handle::PeerHandle;

    /// A server that serves nothing, and a handle of one of its connections.
    fn reached() -> (Handle, PeerHandle, ShutdownSignal) {
        let (handle, signal) = (Handle::default(), ShutdownSignal::new().unwrap());
        handle.attach(signal.clone());
        let peer = Arc::new(SharedPeer::new(ConnId::new(0, 0), true));
        (handle, PeerHandle { peer, server: Some(signal.clone()) }, signal)
    }

    #[test]
    fn broadcasts_that_wait_delay_no_connection() {
        let (handle, peer, signal) = reached();
        while handle.broadcast(0, vec![0; 1 << 19]).is_ok() {}
        peer.wake();
        assert_eq!(peer.send("x"), Ok(()));
        peer.close();
        let posted = signal.take_all().1;
        let behind = posted.iter().position(|one| matches!(one, PostedRequest::Wake(_)));
        assert!(
            matches!(
                &posted[behind.expect("a wake is taken")..],
                [PostedRequest::Wake(_), PostedRequest::Send(..), PostedRequest::Close(_)]
            ),
            "{posted:?}"
        );
    }

    #[test]
    fn what_waits_is_limited_however_small_it_is() {
        let (handle, peer, signal) = reached();
        assert!((0..1 << 20).any(|_| handle.broadcast(0, "").is_err()));
        assert!((0..1 << 20).any(|_| peer.send("").is_err()));
        (0..100).for_each(|_| peer.wake());
        let before = signal.take_all().1.len();
        assert!(before < 1 << 16, "{before} requests wait");
        (0..100).for_each(|_| peer.close());
        assert_eq!(signal.take_all().1.len(), 1, "closed once");
    }
}
