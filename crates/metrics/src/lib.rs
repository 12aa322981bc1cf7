//! What a running server shows over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz`.
//!
//! ```text
//!   listeners, clients, alarm ──► epoll(7) ──► the loop of the server ──► Metrics::serve
//! ```
//!
//! The server has no thread for it. All descriptors are in one epoll(7), which is itself a
//! descriptor: the loop of any model waits for it beside its own, and then has *one thing* done, a
//! call or two that do not wait. So a client of the metrics delays the others by no more than it
//! takes to write one page, however many requests it sends. Such clients are no connections of the
//! server: they are not counted, have limits of their own, and are served while the server is full
//! or drains.
#![deny(unsafe_code)]

mod client;
mod http;
mod page;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use slab::Slab;

use client::MetricsClient;
use proactor::clock::Nanos;
use proactor::lifecycle::Stage;
use proactor::os::{self, AcceptFailure, Alarm};
use proactor::status::{ServerMonitor, Status};

pub use http::{HEAD_MAX, PATHS};
pub use page::names;

/// The most clients at a time. For another one, the client is closed that has been still longest.
pub const CLIENTS_MAX: usize = 16;
/// The descriptors beside those of clients and listeners.
pub const DESCRIPTORS: usize = 2;

/// How long nothing is accepted after no descriptor or memory was left for a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The number of the alarm in the epoll; the listeners and then the clients follow.
const ALARM: u64 = 0;
const LISTENERS: u64 = 1;

/// What is known of a server before it serves.
#[derive(Debug)]
pub struct ServerFacts {
    /// The version of the program.
    pub version: String,
    /// The name of the model.
    pub model: String,
    /// The features of io_uring in use; none without a ring.
    pub features: Vec<&'static str>,
    /// When the server was started.
    pub started: SystemTime,
    /// Returns how many lines of the log were dropped.
    pub log_lines_dropped: fn() -> u64,
}

/// The clients of the metrics, and what they are shown.
#[derive(Debug)]
pub struct Metrics {
    about: ServerFacts,
    epoll: OwnedFd,
    alarm: Alarm,
    /// What the alarm is set to.
    alarm_at: Option<Nanos>,
    listeners: Vec<OwnedFd>,
    /// When the listeners are watched again, after an accept has failed.
    accepts_at: Option<Nanos>,
    clients: Slab<MetricsClient>,
    /// The one event that a wait may report.
    event: Vec<libc::epoll_event>,
}

impl Metrics {
    /// Serves what `listeners`, listening sockets, accept.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(listeners: Vec<OwnedFd>, about: ServerFacts) -> io::Result<Metrics> {
        let metrics = Metrics {
            about,
            epoll: os::epoll_create()?,
            alarm: Alarm::new()?,
            alarm_at: None,
            listeners,
            accepts_at: None,
            clients: Slab::new(),
            event: Vec::with_capacity(1),
        };
        metrics.watch(metrics.alarm.as_fd(), ALARM, libc::EPOLLIN)?;
        for (number, listener) in (LISTENERS..).zip(&metrics.listeners) {
            os::set_blocking(listener.as_fd(), false)?;
            metrics.watch(listener.as_fd(), number, libc::EPOLLIN)?;
        }
        Ok(metrics)
    }

    fn watch(&self, fd: BorrowedFd<'_>, number: u64, events: libc::c_int) -> io::Result<()> {
        let event = libc::epoll_event { events: events as u32, u64: number };
        os::epoll_ctl(self.epoll.as_fd(), libc::EPOLL_CTL_ADD, fd, event)
    }

    /// Returns the number in the epoll of the client in this slot.
    fn number_of(&self, slot: usize) -> u64 {
        LISTENERS + (self.listeners.len() + slot) as u64
    }

    /// Accepts a client, if one waits.
    fn accept(&mut self, listener: usize, now: Nanos) {
        let accepted = os::accept(self.listeners[listener].as_fd(), libc::SOCK_NONBLOCK);
        let client = match accepted.map_err(AcceptFailure::from) {
            Ok(socket) => MetricsClient::new(socket, now),
            Err(AcceptFailure::NoConnection | AcceptFailure::Lost(_)) => return,
            Err(AcceptFailure::RetryLater(error) | AcceptFailure::Lasting(error)) => {
                tracing::warn!(%error, "cannot accept a client of the metrics for now");
                return self.pause(now);
            }
        };
        if self.clients.len() == CLIENTS_MAX {
            let still = self.clients.iter().min_by_key(|(_, client)| client.active);
            let (slot, _) = still.expect("there are clients");
            self.close(slot);
        }
        let slot = self.clients.vacant_key();
        if self.watch(client.as_fd(), self.number_of(slot), libc::EPOLLIN).is_ok() {
            self.clients.insert(client);
        }
    }

    /// Accepts nothing for a while.
    fn pause(&mut self, now: Nanos) {
        for listener in &self.listeners {
            self.unwatch(listener.as_fd());
        }
        self.accepts_at = Some(now + ACCEPT_PAUSE);
    }

    /// Closes the clients whose time is over, and ends a pause that is.
    fn run_timers(&mut self, now: Nanos) {
        let over = self.clients.iter().filter(|(_, client)| client.due <= now);
        let over: Vec<usize> = over.map(|(slot, _)| slot).collect();
        over.into_iter().for_each(|slot| self.close(slot));
        if self.accepts_at.is_some_and(|at| at <= now) {
            self.accepts_at = None;
            for (number, listener) in (LISTENERS..).zip(&self.listeners) {
                if let Err(error) = self.watch(listener.as_fd(), number, libc::EPOLLIN) {
                    tracing::warn!(%error, "metrics are not served any more");
                }
            }
        }
    }

    /// Has the client in this slot do one thing.
    fn exchange(&mut self, slot: usize, now: Nanos, stage: Stage, status: &dyn Fn() -> Status) {
        let Some(client) = self.clients.get_mut(slot) else { return };
        let events = client.events();
        let about = &self.about;
        let goes_on = client.exchange(now, |request| page::answer(about, stage, status, request));
        let changed = Some(client.events()).filter(|now| *now != events);
        let number = self.number_of(slot);
        let watched =
            changed.map(|events| libc::epoll_event { events: events as u32, u64: number });
        let (epoll, fd) = (self.epoll.as_fd(), self.clients[slot].as_fd());
        let modify = |event| os::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, event);
        if !goes_on || watched.is_some_and(|event| modify(event).is_err()) {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        let client = self.clients.remove(slot);
        // A child that was just forked may still have the socket: closing it is not enough.
        self.unwatch(client.as_fd());
    }

    fn unwatch(&self, fd: BorrowedFd<'_>) {
        let none = libc::epoll_event { events: 0, u64: 0 };
        // It fails only for what is not watched.
        let _ = os::epoll_ctl(self.epoll.as_fd(), libc::EPOLL_CTL_DEL, fd, none);
    }

    /// Sets the alarm to the first moment at which something is over.
    fn set_alarm(&mut self) {
        let first = self.clients.iter().map(|(_, client)| client.due);
        let first = first.chain(self.accepts_at).min();
        if first != self.alarm_at {
            self.alarm.set(first);
            self.alarm_at = first;
        }
    }
}

impl ServerMonitor for Metrics {
    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn serve(&mut self, stage: Stage, status: &dyn Fn() -> Status) -> bool {
        let waited = os::epoll_wait(self.epoll.as_fd(), &mut self.event, Some(Duration::ZERO));
        let Some(event) = waited.ok().and_then(|()| self.event.pop()) else { return false };
        let now = os::now();
        match event.u64.checked_sub(LISTENERS).map(|at| at as usize) {
            None => self.run_timers(now),
            Some(listener) if listener < self.listeners.len() => self.accept(listener, now),
            Some(at) => self.exchange(at - self.listeners.len(), now, stage, status),
        }
        self.set_alarm();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    /// Returns metrics that no server shows, and where they listen.
    fn metrics() -> (Metrics, SocketAddr) {
        let facts = ServerFacts {
            version: String::new(),
            model: String::new(),
            features: Vec::new(),
            started: SystemTime::UNIX_EPOCH,
            log_lines_dropped: || 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Metrics::new(vec![listener.into()], facts).unwrap(), address)
    }

    /// Does one thing. Returns false if there was nothing to do.
    fn serve(metrics: &mut Metrics) -> bool {
        metrics.serve(Stage::Serving, &|| panic!("no client asks for the status"))
    }

    /// Returns a client that was accepted.
    fn connect(metrics: &mut Metrics, address: SocketAddr) -> TcpStream {
        let peer = TcpStream::connect(address).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(serve(metrics));
        peer
    }

    #[test]
    fn a_client_whose_time_is_over_is_closed_and_the_alarm_is_set_to_it() {
        let (mut metrics, address) = metrics();
        let mut peer = connect(&mut metrics, address);
        let due = metrics.clients.iter().next().expect("it was accepted").1.due;
        assert_eq!(metrics.alarm_at, Some(due));
        metrics.run_timers(Nanos(due.0 - 1));
        assert_eq!(metrics.clients.len(), 1, "its time is not over");
        metrics.run_timers(due);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the end");
        metrics.set_alarm();
        assert_eq!(metrics.alarm_at, None);
    }

    #[test]
    fn a_further_client_takes_the_place_of_the_one_that_was_still_longest() {
        let (mut metrics, address) = metrics();
        let mut first = connect(&mut metrics, address);
        let others: Vec<TcpStream> =
            (0..CLIENTS_MAX).map(|_| connect(&mut metrics, address)).collect();
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "it is closed");
        assert_eq!(metrics.clients.len(), CLIENTS_MAX);
        drop(others);
    }

    #[test]
    fn nothing_is_accepted_during_a_pause_and_then_what_waited() {
        let (mut metrics, address) = metrics();
        let now = os::now();
        metrics.pause(now);
        let _waits = TcpStream::connect(address).unwrap();
        assert!(!serve(&mut metrics), "the listener is not watched");
        metrics.run_timers(now + ACCEPT_PAUSE);
        assert!(serve(&mut metrics));
        assert_eq!(metrics.clients.len(), 1);
    }
}
