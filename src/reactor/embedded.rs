//! A readiness loop as a part of a larger program, which runs its iterations, has it watch
//! descriptors, and passes it connections that were accepted elsewhere.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Reactor;
use crate::clock::Nanos;
use crate::keys::{ConnId, KeyOwner, ListenerId};
use crate::limits::CloseReason;
use crate::memory::Memory;
use crate::peer::Made;
use crate::protocol::Protocol;
use crate::selector::{Interest, Selector};

impl<S: Selector, P: Protocol> Reactor<S, P> {
    /// Serves a connection, a non-blocking socket, that was accepted elsewhere, or a link, in the
    /// group of `listener`. It is not counted as accepted.
    pub fn adopt(&mut self, fd: OwnedFd, made: Made<P>, listener: ListenerId) -> ConnId {
        let socket = self.socket(fd);
        let id = self.state.peers.open(made, listener, socket);
        self.watch_new(id);
        id
    }

    /// Gives the next connection this number; links have none.
    pub fn number_from(&mut self, number: u64) {
        self.state.peers.number_from(number);
    }

    /// Returns the id that the next connection will have.
    pub fn next_id(&self) -> ConnId {
        self.state.peers.next_id()
    }

    /// Returns the selector of the loop.
    pub fn selector_mut(&mut self) -> &mut S {
        &mut self.selector
    }

    /// Watches an external descriptor for reading, level-triggered, and reports it by `number`.
    ///
    /// # Errors
    /// It is watched already, or cannot be.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
        self.selector.add(fd, KeyOwner::External(number).into(), Interest::READ)
    }

    /// Ceases to watch an external descriptor.
    ///
    /// # Errors
    /// It is not watched.
    pub fn unwatch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.selector.remove(fd)
    }

    /// Returns the numbers of the external descriptors that were reported since the last call.
    pub fn take_external(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.external)
    }

    /// Limits the sleep of an iteration to this moment.
    pub fn wake_at(&mut self, when: Option<Nanos>) {
        self.wake_at = when;
    }

    /// Gives memory back to the kernel from now on, when a crowd has left.
    pub fn enable_trim(&mut self) {
        self.state.enable_trim();
    }

    /// Counts what its connections hold in this account.
    pub fn set_memory(&mut self, memory: Memory) {
        self.state.peers.set_memory(memory);
    }

    /// Returns true if a connection is congested.
    pub fn any_congested(&self) -> bool {
        self.state.peers.any_congested()
    }

    /// Returns the connections that are congested, and how many bytes each was sent.
    pub fn congested(&self) -> impl Iterator<Item = (ConnId, u64)> {
        self.state.peers.congested()
    }

    /// Breaks a connection off.
    pub fn break_off(&mut self, id: ConnId, reason: CloseReason) {
        self.state.peers.broken(id, reason);
    }

    /// Drains as at the first request to stop, if it does not drain already.
    pub fn drain(&mut self) {
        self.state.drain();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::ops::ControlFlow;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::buffer::{BufferClass, Pool};
    use crate::engine::Engine;
    use crate::limits::{Ended, Limits};
    use crate::os;
    use crate::os::ShutdownSignal;
    use crate::peer::AcceptedPeer;
    use crate::protocol::Echo;
    use crate::selector::Poll;

    fn reactor() -> Reactor<Poll, Echo> {
        let pool = Pool::new(&[BufferClass { bytes: 1024, count: 8 }]).unwrap();
        Reactor::new(Poll::new(), pool, Limits::default(), ShutdownSignal::new().unwrap()).unwrap()
    }

    #[test]
    fn the_bytes_of_an_adopted_connection_are_counted_and_those_of_a_link_are_not() {
        for (adopt, counted) in [(true, 4), (false, 0)] {
            let (mut ours, its) = UnixStream::pair().unwrap();
            its.set_nonblocking(true).unwrap();
            let mut reactor = reactor();
            let accepted = AcceptedPeer { link: !adopt, ..AcceptedPeer::default() };
            reactor.adopt(its.into(), (Echo, accepted), ListenerId(0));
            ours.write_all(b"PING").unwrap();
            assert!(reactor.run_once().unwrap().is_continue());
            ours.read_exact(&mut [0; 4]).unwrap();
            let counters = reactor.counters();
            assert_eq!((counters.received_bytes, counters.sent_bytes), (counted, counted));
            assert_eq!(counters.accepted, 0, "not here");
            drop(ours);
            while reactor.connections() > 0 {
                assert!(reactor.run_once().unwrap().is_continue());
            }
        }
    }

    #[test]
    fn an_external_descriptor_is_reported_while_watched_and_wake_at_limits_the_sleep() {
        let (stop, mut reactor) = (ShutdownSignal::new().unwrap(), reactor());
        reactor.watch(stop.as_fd(), 7).unwrap();
        stop.request();
        for _ in 0..2 {
            assert!(reactor.run_once().unwrap().is_continue());
            assert_eq!(reactor.take_external(), [7]);
        }
        reactor.unwatch(stop.as_fd()).unwrap();
        let begin = os::now();
        reactor.wake_at(Some(begin + Duration::from_millis(10)));
        assert!(reactor.run_once().unwrap().is_continue());
        assert!(
            reactor.take_external().is_empty()
                && os::now().since(begin) >= Duration::from_millis(10)
        );
    }

    #[test]
    fn a_drain_may_be_started_twice() {
        let mut reactor = reactor();
        reactor.drain();
        reactor.drain();
        assert_eq!(reactor.run_once().unwrap(), ControlFlow::Break(Ended::Drained));
    }
}
